"""Prediction as a command: on a split, and on a folder of one's own pictures."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO

from segtune.predict import main
from tests.converted import CATEGORIES, SIDE, write_converted


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_converted(tmp_path_factory.mktemp("converted"))


def predict(coco: Path, out: Path, **settings: Any) -> list[dict[str, Any]]:
    source = ["--coco", str(coco / "test.json"), "--out", str(out)]
    main([*source, "--settings", json.dumps(settings)])
    results: list[dict[str, Any]] = json.loads(out.read_text())
    return results


def test_results_are_cocos(coco: Path, tmp_path: Path) -> None:
    results = predict(coco, tmp_path / "new" / "base.json")
    assert {r["image_id"] for r in results} == {1, 2, 3, 4}
    assert {r["category_id"] for r in results} == {c["id"] for c in CATEGORIES}
    assert all(r["segmentation"]["size"] == [SIDE, SIDE] for r in results)
    assert all(0 <= r["score"] <= 1 for r in results)
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(coco / "test.json")).loadRes(str(tmp_path / "new" / "base.json"))
    assert len(loaded.anns) == len(results)


def test_every_knob_is_read(coco: Path, tmp_path: Path) -> None:
    everything = predict(coco, tmp_path / "all.json", score_threshold=0.0)
    assert len(everything) == 4 * 3 * 12
    few = predict(coco, tmp_path / "few.json", max_detections=2)
    assert len(few) == 4 * 3 * 2
    threshold = sorted(r["score"] for r in everything)[-10]
    best = predict(coco, tmp_path / "best.json", score_threshold=threshold)
    assert len(best) == 10
    one_by_one = predict(coco, tmp_path / "one.json", prompts_per_pass=1, score_threshold=0.0)
    for mine, theirs in zip(one_by_one, everything, strict=True):
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_other_weights_give_other_results(coco: Path, tmp_path: Path) -> None:
    source = ["--coco", str(coco / "test.json")]
    for seed in (0, 1):
        main([*source, "--out", str(tmp_path / f"{seed}.json"), "--weights", f"random:{seed}"])
    assert (tmp_path / "0.json").read_text() != (tmp_path / "1.json").read_text()


def test_a_folder_of_pictures_becomes_a_labelled_dataset(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    Image.new("RGB", (50, 40)).save(tmp_path / "pictures" / "deep" / "one.jpg")
    Image.new("RGB", (30, 20)).save(tmp_path / "pictures" / "two.PNG")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    out = tmp_path / "labels.json"
    main(["--images", str(tmp_path / "pictures"), "--prompt", "crack", "hole", "--out", str(out)])
    values = json.loads(out.read_text())
    sizes = {i["file_name"]: (i["width"], i["height"]) for i in values["images"]}
    assert sizes == {"deep/one.jpg": (50, 40), "two.PNG": (30, 20)}
    assert values["categories"] == [{"id": 1, "name": "crack"}, {"id": 2, "name": "hole"}]
    ids = [a["id"] for a in values["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    with contextlib.redirect_stdout(io.StringIO()):
        assert len(COCO(str(out)).anns) == len(ids) > 0


def test_a_folder_needs_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--images", str(tmp_path), "--out", str(tmp_path / "x.json")])
    assert raised.value.code == 2
    assert "--images needs --prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no pictures here"), (b"no picture", "not a readable picture")],
)
def test_a_bad_folder_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    (tmp_path / "pictures").mkdir()
    if content:
        (tmp_path / "pictures" / "a.jpg").write_bytes(content)
    out = tmp_path / "x.json"
    with pytest.raises(SystemExit) as raised:
        main(["--images", str(tmp_path / "pictures"), "--prompt", "x", "--out", str(out)])
    assert raised.value.code == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_missing_weights_are_one_line(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(
            ["--coco", str(coco / "test.json"), "--out", str(tmp_path / "x"), "--weights", "no.pt"]
        )
    assert raised.value.code == 1
    assert "WeightsError: no.pt: no such file" in capsys.readouterr().err
