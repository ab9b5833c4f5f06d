"""The predict command: on a split, and on a folder of images."""

import contextlib
import io
import json
import os
import signal
from pathlib import Path
from statistics import median
from typing import IO, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as PilImage
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from segtune import predict as predict_command
from segtune.dataset.batch import load_image
from segtune.model import inference, partial_predictions
from segtune.model.forward import detect_encoded, encode_images, encode_prompts, evaluating
from segtune.model.official_format import write_official
from segtune.model.weights import load_base_model
from segtune.predict import main
from tests.converted import CATEGORIES, SIDE, write_converted
from tests.forked import Forked
from tests.ranks import run_ranks
from tests.trained_runs import run_files, write_run


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_converted(tmp_path_factory.mktemp("converted"))


# Random weights score everything alike, so nothing falls below the default threshold.
RANDOM = ("--weights", "random:0")
CLASSES = {"round": "disc", "box": "square"}  # of a run, with their prompts


def predict(coco: Path, out: Path, **settings: Any) -> list[dict[str, Any]]:
    source = ["--coco", str(coco / "test.json"), "--out", str(out)]
    main([*source, *RANDOM, "--settings", json.dumps(settings)])
    results: list[dict[str, Any]] = json.loads(out.read_text())
    return results


def test_results_have_cocos_format(coco: Path, tmp_path: Path) -> None:
    results = predict(coco, tmp_path / "new" / "base.json")
    assert {r["image_id"] for r in results} == {1, 2, 3, 4}
    assert {r["category_id"] for r in results} == {c["id"] for c in CATEGORIES}
    assert all(r["segmentation"]["size"] == [SIDE, SIDE] for r in results)
    assert all(0 <= r["score"] <= 1 for r in results)
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(coco / "test.json")).loadRes(str(tmp_path / "new" / "base.json"))
    assert len(loaded.anns) == len(results)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A split whose only image is not square."""
    coco = write_converted(tmp_path / "wide", {"test": 1})
    values = json.loads((coco / "test.json").read_text())
    values["images"][0].update(width=150, height=50)
    (coco / "test.json").write_text(json.dumps(values))
    noise = np.random.default_rng(0).integers(0, 255, (50, 150, 3), dtype=np.uint8)
    PilImage.fromarray(noise).save(tmp_path / "wide" / "test" / "1.png")
    return coco


def test_boxes_and_masks_are_in_pixels_of_the_image(wide: Path, tmp_path: Path) -> None:
    results = predict(wide, tmp_path / "x.json", confidence_threshold=0.0)
    model = load_base_model("tiny", "random:0")
    pixels = load_image(tmp_path / "wide" / "test" / "1.png", 96)[0][None]
    first = torch.zeros(1, dtype=torch.long)
    with evaluating(model), torch.inference_mode():
        text = encode_prompts(model, ["disc"], torch.device("cpu"))
        features = {**encode_images(model, pixels), **text}
        outputs = detect_encoded(model, features, image_ids=first, text_ids=first)
    discs = [r for r in results if r["category_id"] == 1]
    scores = outputs["pred_logits"][0, :, 0].sigmoid() * outputs["presence_logit_dec"][0].sigmoid()
    boxes = outputs["pred_boxes"][0].tolist()
    masks = F.interpolate(outputs["pred_masks"][:1], (50, 150), mode="bilinear")[0] > 0
    order = scores.argsort(descending=True, stable=True).tolist()
    for query, result in zip(order, discs, strict=True):
        cx, cy, w, h = boxes[query]
        expected = [(cx - w / 2) * 150, (cy - h / 2) * 50, w * 150, h * 50]
        assert result["bbox"] == pytest.approx(expected, abs=0.01)
        assert result["score"] == pytest.approx(scores[query].item(), abs=1e-5)
        assert result["segmentation"]["size"] == [50, 150]
        found = mask_utils.decode(result["segmentation"]).astype(bool)
        assert (found != masks[query].numpy()).mean() < 1e-3


def scores_by_prompt(results: list[dict[str, Any]]) -> dict[tuple[int, int], list[float]]:
    scores: dict[tuple[int, int], list[float]] = {}
    for result in results:
        pair = (result["image_id"], result["category_id"])
        scores.setdefault(pair, []).append(result["score"])
    return scores


def test_the_highest_score_comes_first(coco: Path, tmp_path: Path) -> None:
    found = scores_by_prompt(predict(coco, tmp_path / "all.json", confidence_threshold=0.0))
    assert len(found) == 4 * 3
    for scores in found.values():
        assert len(scores) == 12
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > scores[-1]


def test_the_number_of_detections_is_limited(coco: Path, tmp_path: Path) -> None:
    everything = scores_by_prompt(predict(coco, tmp_path / "all.json", confidence_threshold=0.0))
    few = scores_by_prompt(predict(coco, tmp_path / "few.json", max_detections=2))
    assert few == {pair: scores[:2] for pair, scores in everything.items()}


def test_detections_below_the_threshold_are_left_out(coco: Path, tmp_path: Path) -> None:
    everything = predict(coco, tmp_path / "all.json", confidence_threshold=0.0)
    threshold = sorted(r["score"] for r in everything)[-10]
    best = predict(coco, tmp_path / "best.json", confidence_threshold=threshold)
    assert best == [r for r in everything if r["score"] >= threshold]
    assert len(best) == 10
    assert predict(coco, tmp_path / "none.json", confidence_threshold=1.0) == []


def test_the_size_of_a_pass_changes_no_result(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []

    def counted(model: Any, features: Any, *, image_ids: Any, text_ids: torch.Tensor) -> Any:
        passes.append(len(text_ids))
        return detect_encoded(model, features, image_ids=image_ids, text_ids=text_ids)

    monkeypatch.setattr(inference, "detect_encoded", counted)
    together = predict(coco, tmp_path / "8.json", confidence_threshold=0.0)
    assert passes == [3] * 4
    for size, expected in ((1, [1, 1, 1] * 4), (2, [2, 1] * 4)):
        passes.clear()
        apart = predict(coco, tmp_path / "x", confidence_threshold=0.0, prompts_per_pass=size)
        assert passes == expected
        for mine, theirs in zip(apart, together, strict=True):
            assert mine["category_id"] == theirs["category_id"]
            assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
            assert mine["bbox"] == pytest.approx(theirs["bbox"], abs=0.01)


def test_masks_are_only_decoded_for_the_detections_that_are_written(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = predict(coco, tmp_path / "all.json", confidence_threshold=0.0)
    threshold = sorted(r["score"] for r in everything)[-5]
    decoded: list[tuple[int, ...]] = []
    predictor = type(load_base_model("tiny", "random:0").segmentation_head.mask_predictor)
    stock = predictor.forward

    def counted(self: Any, queries: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        decoded.append(tuple(queries.shape[:2]))
        return stock(self, queries, pixels)

    monkeypatch.setattr(predictor, "forward", counted)
    best = predict(coco, tmp_path / "best.json", confidence_threshold=threshold)
    per_prompt = {pair: len(found) for pair, found in scores_by_prompt(best).items()}
    images = {image for image, _ in per_prompt}
    assert len(best) == 5
    assert decoded == [
        (len(counts), max(counts))
        for image in sorted(images)
        for counts in [[n for (i, _), n in per_prompt.items() if i == image]]
    ]
    for mine, theirs in zip(best, [r for r in everything if r["score"] >= threshold], strict=True):
        assert (mine["image_id"], mine["score"]) == (theirs["image_id"], theirs["score"])
        masks = [mask_utils.decode(r["segmentation"]) for r in (mine, theirs)]
        assert (masks[0] != masks[1]).mean() < 1e-3


def predict_until_killed(arguments: list[str]) -> None:
    """Predict, until SIGKILL comes in the middle of the line of the third image."""
    add_image = partial_predictions.add_image

    def killing(part: IO[str], image_id: int, records: list[dict[str, Any]]) -> None:
        add_image(part, image_id, records)
        if image_id == 2:
            part.write('[3, [{"image_id": 3, "categ')
            part.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    partial_predictions.add_image = killing  # type: ignore[assignment]
    main(arguments)


def kill_prediction(arguments: list[str]) -> None:
    process = Forked(predict_until_killed, arguments)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL


def test_a_killed_prediction_resumes(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "out.json"
    predict(coco, whole)
    source = ["--coco", str(coco / "test.json"), *RANDOM, "--out", str(out)]
    kill_prediction(source)
    assert not out.exists()
    read: list[Path] = []

    def counted(path: Path, side: int) -> Any:
        read.append(path)
        return load_image(path, side)

    monkeypatch.setattr(inference, "load_image", counted)
    capsys.readouterr()
    predict(coco, out)
    assert "resuming: 2 of 4 images are finished" in capsys.readouterr().out
    assert [path.name for path in read] == ["3.png", "4.png"]
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "whole.json"]


@pytest.mark.parametrize("change", ["settings", "weights", "image"])
def test_results_of_another_prediction_are_not_resumed(tmp_path: Path, change: str) -> None:
    coco = write_converted(tmp_path)
    out = tmp_path / "out.json"
    source = ["--coco", str(coco / "test.json"), "--out", str(out)]
    kill_prediction([*source, *RANDOM])
    changed = {"settings": [*RANDOM, "--settings", '{"max_detections": 1}']}
    if change == "image":
        PilImage.new("RGB", (SIDE, SIDE)).save(tmp_path / "test" / "1.png")
    again = [*source, *changed.get(change, ["--weights", f"random:{int(change == 'weights')}"])]
    main(again)
    fresh = tmp_path / "fresh.json"
    main([*again, "--out", str(fresh)])
    assert out.read_bytes() == fresh.read_bytes()


def test_processes_split_the_images(coco: Path, tmp_path: Path) -> None:
    source = ["--coco", str(coco / "test.json"), *RANDOM]
    for processes in (1, 2):
        output = run_ranks(main, [*source, "--out", str(tmp_path / str(processes))], processes)
        assert f"image {4 // processes}/{4 // processes}" in output
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_split_can_be_prompted_otherwise(coco: Path, tmp_path: Path) -> None:
    # A prompt that is also a class has the same detections.
    classes = predict(coco, tmp_path / "classes.json", confidence_threshold=0.0)
    source = ["--coco", str(coco / "test.json"), *RANDOM, "--out", str(tmp_path / "x.json")]
    main([*source, "--prompt", "disc", "horse", "--settings", '{"confidence_threshold": 0}'])
    values = json.loads((tmp_path / "x.json").read_text())
    assert [c["name"] for c in values["categories"]] == ["disc", "horse"]
    assert [i["id"] for i in values["images"]] == [1, 2, 3, 4]
    found, expected = scores_by_prompt(values["annotations"]), scores_by_prompt(classes)
    for image in (1, 2, 3, 4):
        assert found[image, 1] == pytest.approx(expected[image, 1], abs=1e-5)
        assert found[image, 2] != pytest.approx(expected[image, 1], abs=1e-5)


def test_the_input_size_is_an_option(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[int] = []

    def seen(path: Path, side: int) -> Any:
        sides.append(side)
        return load_image(path, side)

    monkeypatch.setattr(inference, "load_image", seen)
    source = ["--coco", str(coco / "test.json"), *RANDOM, "--out", str(tmp_path / "x.json")]
    main([*source, "--image-size", "144"])
    assert set(sides) == {144}


def test_classes_are_prompted_with_their_prompts(coco: Path, tmp_path: Path) -> None:
    # With the prompt of the first class, the third one has the same detections.
    for name in ("test.json", "manifest.json"):
        (tmp_path / name).write_text((coco / name).read_text())
    values = json.loads((tmp_path / "test.json").read_text())
    values["categories"][2]["prompt"] = "disc"
    (tmp_path / "test.json").write_text(json.dumps(values))
    found = scores_by_prompt(predict(tmp_path, tmp_path / "x.json", confidence_threshold=0.0))
    for image in (1, 2, 3, 4):
        assert found[image, 3] == pytest.approx(found[image, 1], abs=1e-6)
        assert found[image, 3] != pytest.approx(found[image, 2], abs=1e-6)


def test_other_weights_give_other_results(coco: Path, tmp_path: Path) -> None:
    source = ["--coco", str(coco / "test.json")]
    for seed in (0, 1):
        main([*source, "--out", str(tmp_path / f"{seed}.json"), "--weights", f"random:{seed}"])
    assert (tmp_path / "0.json").read_text() != (tmp_path / "1.json").read_text()


def test_a_folder_of_images_becomes_a_labeled_dataset(tmp_path: Path) -> None:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    PilImage.new("RGB", (50, 40)).save(tmp_path / "images" / "deep" / "one.jpg")
    PilImage.new("RGB", (30, 20)).save(tmp_path / "images" / "two.PNG")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    out = tmp_path / "labels.json"
    source = ["--images", str(tmp_path / "images"), "--prompt", "crack", "hole"]
    main([*source, *RANDOM, "--out", str(out), "--settings", '{"confidence_threshold": 0}'])
    values = json.loads(out.read_text())
    sizes = {i["file_name"]: (i["width"], i["height"]) for i in values["images"]}
    assert sizes == {"deep/one.jpg": (50, 40), "two.PNG": (30, 20)}
    assert [(c["id"], c["name"]) for c in values["categories"]] == [(1, "crack"), (2, "hole")]
    ids = [a["id"] for a in values["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    assert {(a["image_id"], a["category_id"]) for a in values["annotations"]} == {
        (image["id"], category) for image in values["images"] for category in (1, 2)
    }
    assert all(0 < a["score"] < 1 and a["iscrowd"] == 0 for a in values["annotations"])
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(out))
    for a in values["annotations"]:
        assert a["area"] == mask_utils.area(coco.annToRLE(a))
        assert a["bbox"] == mask_utils.toBbox(coco.annToRLE(a)).tolist()


def test_labels_have_their_class_threshold(coco: Path, tmp_path: Path) -> None:
    write_tiny_run(tmp_path / "run")
    every = labels_of_run(coco, tmp_path, "--settings", '{"confidence_threshold": 0}')
    scores = [scores_of(every, category) for category in (1, 2)]
    chosen = [median(scores[0]), max(scores[1])]
    write_run(tmp_path / "run", run_files(CLASSES, chosen))
    found = labels_of_run(coco, tmp_path)
    assert [(c["name"], c["prompt"]) for c in found["categories"]] == list(CLASSES.items())
    for category, threshold in enumerate(chosen, start=1):
        passed = [score for score in scores[category - 1] if score >= threshold]
        assert len(passed) < len(scores[category - 1])
        assert scores_of(found, category) == passed


def labels_of_run(coco: Path, folder: Path, *more: str) -> dict[str, Any]:
    """The labels of the test images, by the run in a folder."""
    images, out = str(coco.parent / "test"), folder / "labels.json"
    main(["--run", str(folder / "run"), "--images", images, "--out", str(out), *more])
    values: dict[str, Any] = json.loads(out.read_text())
    return values


def scores_of(labels: dict[str, Any], category: int) -> list[float]:
    return [a["score"] for a in labels["annotations"] if a["category_id"] == category]


def write_tiny_run(folder: Path) -> None:
    """A run of the tiny model as it is."""
    write_run(folder, run_files(CLASSES, [0.5, 0.5]))
    (folder / "merge").mkdir()
    model = load_base_model("tiny", "default")
    write_official(folder / "merge" / "sam3.pt", model.state_dict(), {})


def test_an_exported_model_brings_its_prompts(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_run(tmp_path / "run")
    weights = tmp_path / "run" / "merge" / "sam3.pt"
    source = ["--images", str(coco.parent / "test"), "--weights", str(weights)]
    require_one_line(source, tmp_path / "x.json", capsys, "Give --prompt, --run")
    (weights.parent / "prompts.json").write_text('{"round": "disc"}')
    (weights.parent / "thresholds.json").write_text('{"round": 0.25}')
    main([*source, "--out", str(tmp_path / "x.json")])
    values = json.loads((tmp_path / "x.json").read_text())
    assert [(c["name"], c["prompt"]) for c in values["categories"]] == [("round", "disc")]
    assert all(a["score"] >= 0.25 for a in values["annotations"])


def test_a_prompt_with_fields_cannot_be_used_on_a_folder(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--images", str(coco.parent / "test"), "--prompt", "disc, {view}"]
    require_one_line(source, tmp_path / "x.json", capsys, "'disc, {view}' has fields")


def test_a_photograph_is_rotated_upright(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    exif = PilImage.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    PilImage.fromarray(pixels).save(tmp_path / "photos" / "a.png", exif=exif)
    PilImage.fromarray(np.rot90(pixels, -1)).save(tmp_path / "photos" / "b.png")
    source = ["--images", str(tmp_path / "photos"), "--prompt", "disc"]
    every = ["--settings", '{"confidence_threshold": 0}']
    main([*source, "--out", str(tmp_path / "labels.json"), *RANDOM, *every])
    values = json.loads((tmp_path / "labels.json").read_text())
    assert {(i["width"], i["height"]) for i in values["images"]} == {(40, 60)}
    rotated, upright = (
        [(a["bbox"], a["segmentation"]) for a in values["annotations"] if a["image_id"] == number]
        for number in (1, 2)
    )
    assert rotated and rotated == upright


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (["--images", ".", "--run", "r", "--weights", "w"], "--run has a model of its own"),
        (["--coco", "a", "--run", "r"], "--run has a model of its own"),
        (["--coco", "a", "--list", "b"], "--list names images below --images"),
        ([], "one of the arguments --coco --images is required"),
        (["--coco", "a", "--images", "b"], "not allowed with argument"),
    ],
)
def test_an_invalid_command_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        main([*source, "--out", str(tmp_path / "x.json")])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


def require_one_line(
    arguments: list[str], out: Path, capsys: pytest.CaptureFixture[str], message: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        main([*arguments, "--out", str(out)])
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segtune predict: ")
    assert message in line
    assert not out.exists()


def truncated() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    file = io.BytesIO()
    PilImage.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "DatasetError: {folder}: no images in this folder"),
        (b"text", "DatasetError: {folder}/a.jpg: cannot read the image"),
        (b"", "DatasetError: {folder}/a.jpg: cannot read the image"),
        (truncated(), "DatasetError: {folder}/a.jpg: cannot read the image"),
    ],
    ids=["none", "text", "empty", "truncated"],
)
def test_a_bad_folder_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    if content is not None:
        (folder / "a.jpg").write_bytes(content)
    arguments = ["--images", str(folder), "--prompt", "x"]
    require_one_line(arguments, tmp_path / "x.json", capsys, message.format(folder=folder))


@pytest.mark.parametrize("prompt", ["", " ", "word " * 40])
def test_an_unusable_prompt_is_one_line(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], prompt: str
) -> None:
    arguments = ["--coco", str(coco / "test.json"), "--prompt", prompt]
    require_one_line(arguments, tmp_path / "x.json", capsys, "is empty or has more than 32 tokens")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (["--images", ".", "--prompt", "disc", "\udcff"], r"the prompt '\udcff' is not UTF-8 text"),
        (["--images", "x" * 5000, "--prompt", "disc"], "cannot read the folder (File name too"),
        (["--images", "nothing/" * 1000, "--prompt", "disc"], "cannot read the folder (File name"),
        (["--coco", "x" * 5000], "File name too long"),
        (["--images", ".", "--prompt", "a", "--settings", "[" * 20_000], "nested too deeply"),
    ],
    ids=["surrogate", "folder", "folders", "split", "settings"],
)
def test_hostile_arguments_are_one_line(
    photos: Path, capsys: pytest.CaptureFixture[str], source: list[str], message: str
) -> None:
    require_one_line(source, photos / "x.json", capsys, message)


@pytest.mark.parametrize("kind", ["pipe", "folder", "proc", "nothing"])
def test_only_a_file_is_written_and_this_is_known_first(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(predict_command, "load_base_model", lambda *_: pytest.fail("too late"))
    out = {"proc": "/proc/x.json", "nothing": ""}.get(kind, f"{photos}/x.json")
    if kind == "pipe":
        os.mkfifo(out)
    elif kind == "folder":
        Path(out).mkdir()
    before = set(photos.iterdir())
    with pytest.raises(SystemExit):
        main(["--images", ".", "--prompt", "disc", "--out", out])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segtune predict: ResourceError: ")
    assert "cannot write the file (" in line
    assert set(photos.iterdir()) == before


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with an image."""
    PilImage.new("RGB", (50, 40)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_huge_image_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    PilImage.new("RGB", (50, 40)).save(tmp_path / "images" / "a.png")
    monkeypatch.setattr(PilImage, "MAX_IMAGE_PIXELS", 500)
    arguments = ["--images", str(tmp_path / "images"), "--prompt", "x"]
    require_one_line(arguments, tmp_path / "x.json", capsys, "a.png: cannot read the image")


def test_a_missing_image_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = write_converted(tmp_path)
    (tmp_path / "test" / "2.png").unlink()
    arguments = ["--coco", str(coco / "test.json")]
    require_one_line(arguments, tmp_path / "x.json", capsys, f"DatasetError: {tmp_path}/test/2.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "no.pt"], "WeightsError: no.pt: cannot read the file (No such file"),
        (["--settings", '{"max_detection": 3}'], "ConfigError: --settings: max_detection: "),
        (
            ["--settings", '{"confidence_threshold": 2}'],
            "ConfigError: --settings: confidence_threshold: ",
        ),
    ],
)
def test_wrong_arguments_are_one_line(
    coco: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    source = ["--coco", str(coco / "test.json"), *arguments]
    require_one_line(source, tmp_path / "x.json", capsys, message)


def test_a_split_that_was_not_converted_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--coco", str(tmp_path / "test.json")]
    require_one_line(arguments, tmp_path / "x.json", capsys, "Run segtune.convert first")


def test_a_full_gpu_is_an_error_with_advice(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(inference, "detect_encoded", full)
    with pytest.raises(SystemExit, match="1"):
        predict(coco, tmp_path / "full.json", prompts_per_pass=2)
    message = capsys.readouterr().err
    assert "out of GPU memory" in message
    assert "Lower predict.prompts_per_pass (now 2), or close other programs" in message
    assert not (tmp_path / "full.json").exists()
