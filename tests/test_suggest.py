"""What to label next: the command, and its page."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from PIL import Image as PilImage

from segtune import convert, suggest_page, validate
from segtune.dataset.batch import load_image
from segtune.dataset.coco import read_split
from segtune.dataset.images import upright_of_size
from segtune.dataset.labels import distinct_records
from segtune.evaluation.suggestion import LOWEST_SCORE, image_uncertainty, read_suggestions
from segtune.model import image_features, inference, tiled_inference
from segtune.model.official_format import write_official
from segtune.model.weights import load_base_model
from segtune.predict import main as predict
from segtune.suggest import main
from tests.converted import write_converted
from tests.forked import Forked
from tests.ranks import run_ranks
from tests.trained_runs import run_files, write_run

ROOT = Path(__file__).parents[1]
CLASSES = {"round": "circle", "box": "square"}  # of the run, with their prompts
THRESHOLDS = [0.9, 0.3]
MASK_AP = [0.25, None]
FILES = ("images.txt", "labels.json", "suggestions.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the tiny model as it is; its training images, and twelve others beside it."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder / "results", run_files(CLASSES, THRESHOLDS, mask_ap=MASK_AP))
    (folder / "results/merge").mkdir()
    model = load_base_model("tiny", "default")
    write_official(folder / "results/merge/sam3.pt", model.state_dict(), {})
    coco = write_converted(folder, {"train": 4, "valid": 2, "test": 2, "unlabeled": 12})
    write_dataset(coco, folder / "results/coco")
    return folder


def write_dataset(coco: Path, out: Path) -> None:
    """The splits beside the classes of the run."""
    for name in ("train.json", "valid.json", "manifest.json"):
        shutil.copy(coco / name, out)
    test = read(coco / "test.json")
    categories = read(out / "test.json")["categories"]
    test["categories"] = [{**c, "supercategory": "none"} for c in categories]
    (out / "test.json").write_text(json.dumps({**test, "annotations": []}))


def arguments(run: Path, out: Path, *, images: Path | None = None, count: int = 5) -> list[str]:
    places = ["--run", run / "results", "--images", images or run / "unlabeled", "--out", out]
    return [*map(str, places), "--settings", json.dumps({"count": count})]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def out(run: Path) -> Path:
    main(arguments(run, run / "out"))
    return run / "out"


def test_the_most_uncertain_image_is_first(out: Path) -> None:
    found = read_suggestions(out / "suggestions.json")
    assert (found.images, found.training_images) == (12, 4)
    doubts = [one.uncertainty for one in found.suggestions]
    assert doubts == sorted(doubts, reverse=True) and len(set(doubts)) == 5
    assert [(c.name, c.threshold, c.ap) for c in found.classes] == [
        ("round", 0.9, 0.25),
        ("box", 0.3, None),
    ]
    names = [one.file_name for one in found.suggestions]
    assert (out / "images.txt").read_text().splitlines() == names
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


def test_uncertainty_is_of_what_a_prediction_finds(run: Path, out: Path, tmp_path: Path) -> None:
    coco = shutil.copytree(run / "coco", tmp_path / "coco")
    values = read(coco / "unlabeled.json")
    classes = {c["id"]: c["name"] for c in read(run / "results/coco/test.json")["categories"]}
    values["categories"] = read(run / "results/coco/test.json")["categories"]
    (coco / "unlabeled.json").write_text(json.dumps({**values, "annotations": []}))
    weights = ["--weights", str(run / "results/merge/sam3.pt"), "--out", str(tmp_path / "all.json")]
    settings = ["--settings", json.dumps({"confidence_threshold": LOWEST_SCORE})]
    predict(["--coco", str(coco / "unlabeled.json"), *weights, *settings])
    records = [*distinct_records(read(tmp_path / "all.json"))]
    ids = {Path(image["file_name"]).name: image["id"] for image in values["images"]}
    found = read_suggestions(out / "suggestions.json")
    for suggestion in found.suggestions:
        scores: dict[str, list[float]] = {name: [] for name in CLASSES}
        for record in records:
            if record["image_id"] == ids[suggestion.file_name]:
                scores[classes[record["category_id"]]].append(record["score"])
        assert image_uncertainty(scores, found.classes) == pytest.approx(suggestion.uncertainty)
        for one in suggestion.uncertain:
            assert set(one.scores) <= set(scores[one.name])


def test_pre_labels_are_those_of_a_prediction(run: Path, out: Path, tmp_path: Path) -> None:
    names = ["--list", str(out / "images.txt")]
    places = ["--run", str(run / "results"), "--images", str(run / "unlabeled")]
    predict([*places, *names, "--out", str(tmp_path / "labels.json")])
    assert (out / "labels.json").read_bytes() == (tmp_path / "labels.json").read_bytes()
    labels = read(out / "labels.json")
    assert len(labels["annotations"]) > 1
    assert all(a["score"] >= THRESHOLDS[a["category_id"] - 1] for a in labels["annotations"])


def test_pre_labels_pass_conversion_and_validation(run: Path, tmp_path: Path) -> None:
    """Suggested photographs with their pre-labels are an export without an error."""
    photos, new = tmp_path / "photos", tmp_path / "new" / "train"
    photos.mkdir()
    new.mkdir(parents=True)
    for path in sorted((ROOT / "data/demo/test").glob("*.jpg"))[:24]:
        shutil.copy(path, photos)
    shutil.copytree(run / "results", tmp_path / "results")
    write_run(tmp_path / "results", run_files(CLASSES, [0.1, 0.1]))
    write_dataset(run / "coco", tmp_path / "results/coco")
    main(arguments(tmp_path, tmp_path / "out", images=photos, count=16))
    names = (tmp_path / "out/images.txt").read_text().splitlines()
    assert len(names) == 16
    for name in names:
        shutil.copy(photos / name, new)
    shutil.copy(tmp_path / "out/labels.json", new / "_annotations.coco.json")
    coco = tmp_path / "coco"
    missing = json.dumps({"missing_test": "hold_out", "holdout_fraction": 0.3})
    places = ["--export", str(new.parent), "--out", str(coco)]
    convert.main([*places, "--settings", missing])
    validate.main(["--coco", str(coco), "--out", str(tmp_path)])
    repairs = read(coco / "conversion.json")["repairs"]
    assert len(repairs) == 2
    assert all("held out from train" in repair["rule"] for repair in repairs)
    # Sixteen images are few, and nothing is detected in some; of the labels, none is wrong.
    found = {finding["rule"] for finding in read(tmp_path / "report.json")["findings"]}
    assert found <= {"class-few-objects", "object-none"}
    assert sum(len(read_split(path).objects) for path in coco.glob("t*.json")) > 10


def test_copies_are_not_suggested(run: Path, tmp_path: Path) -> None:
    """Each of ten photographs is there three times; eight are copies of labeled images."""
    photos = tmp_path / "photos"
    for name in ("new", "copied", "known"):
        (photos / name).mkdir(parents=True)
    for path in sorted((ROOT / "data/demo/test").glob("*.jpg"))[:10]:
        shutil.copy(path, photos / "new")
        shutil.copy(path, photos / "copied")
        write_smaller(path, photos / path.name)
    for split in ("train", "valid", "test"):
        for path in (run / split).iterdir():
            write_smaller(path, photos / "known" / f"{split}{path.stem}.jpg")
    main(arguments(run, tmp_path / "out", images=photos, count=12))
    found = read_suggestions(tmp_path / "out" / "suggestions.json")
    assert (found.images, found.labeled, found.repeated) == (3 * 10 + 8, 8, 20)
    names = [one.file_name for one in found.suggestions]
    assert len({Path(name).name for name in names}) == len(names) == 10
    assert not [name for name in names if name.startswith("known/")]


def write_smaller(path: Path, out: Path) -> None:
    """A JPEG of three quarters of the size."""
    with PilImage.open(path) as image:
        smaller = image.resize((image.width * 3 // 4, image.height * 3 // 4))
    smaller.save(out, quality=85)


def test_without_a_new_image_nothing_is_suggested(run: Path, tmp_path: Path) -> None:
    main(arguments(run, tmp_path / "out", images=run / "valid"))
    found = read_suggestions(tmp_path / "out" / "suggestions.json")
    assert (found.images, found.labeled, found.suggestions) == (2, 2, [])
    assert read(tmp_path / "out" / "labels.json")["images"] == []
    assert (tmp_path / "out" / "images.txt").read_bytes() == b""


def test_the_nearest_training_image_is_named(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    with PilImage.open(run / "train" / "2.png") as image:
        image.crop((6, 6, 64, 64)).save(photos / "like.png")
    shutil.copy(min((ROOT / "data/demo/test").glob("*.jpg")), photos / "unlike.jpg")
    main(arguments(run, tmp_path / "out", images=photos))
    by_name = {
        one.file_name: one
        for one in read_suggestions(tmp_path / "out" / "suggestions.json").suggestions
    }
    like, unlike = by_name["like.png"], by_name["unlike.jpg"]
    assert like.nearest == "train/2.png" and (like.unlike, unlike.unlike) == (0, 0.5)
    assert like.distance is not None and unlike.distance is not None
    assert like.distance < unlike.distance / 2


def suggest_until_killed(arguments: list[str]) -> None:
    """Suggest, until SIGKILL comes in the middle of the line of the third image."""
    add_image = image_features.add_image

    def killing(part: IO[str], image_id: int, records: list[dict[str, Any]]) -> None:
        add_image(part, image_id, records)
        if image_id == 2:
            part.write('[3, [{"vector": [0.')
            part.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    image_features.add_image = killing
    main(arguments)


def test_a_killed_run_resumes(
    run: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    process = Forked(suggest_until_killed, arguments(run, tmp_path / "out"))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert not set(FILES) & {path.name for path in (tmp_path / "out").iterdir()}
    opened: list[str] = []

    def counted(read: Callable[..., Any]) -> Callable[..., Any]:
        def counting(path: Path, *size: int) -> Any:
            opened.append(f"{path.parent.name}/{path.name}")
            return read(path, *size)

        return counting

    monkeypatch.setattr(inference, "load_image", counted(load_image))
    monkeypatch.setattr(tiled_inference, "upright_of_size", counted(upright_of_size))
    capsys.readouterr()
    main(arguments(run, tmp_path / "out"))
    assert "resuming: 2 of 16 images are finished" in capsys.readouterr().out
    assert len(opened) == 14 and not {"unlabeled/1.png", "unlabeled/10.png"} & set(opened)
    assert all((tmp_path / "out" / n).read_bytes() == (out / n).read_bytes() for n in FILES)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)


def test_processes_split_the_images(run: Path, out: Path, tmp_path: Path) -> None:
    output = run_ranks(main, arguments(run, tmp_path), 2)
    assert "image 8/8" in output
    assert all((tmp_path / name).read_bytes() == (out / name).read_bytes() for name in FILES)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("evaluate/metrics.json", "Give the results folder of a workflow that has finished"),
        ("coco/train.json", "Run segtune.convert first"),
        ("merge/sam3.pt", "sam3.pt"),
    ],
)
def test_an_unfinished_run_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, message: str
) -> None:
    shutil.copytree(run / "results", tmp_path / "results")
    (tmp_path / "results" / damage).unlink()
    require_one_line(tmp_path, run / "unlabeled", capsys, message)


def test_images_that_cannot_be_used_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run / "results", tmp_path / "results")
    photos = tmp_path / "photos"
    photos.mkdir()
    require_one_line(tmp_path, photos, capsys, "no images in this folder")
    (photos / "a\nb.png").write_bytes((run / "unlabeled" / "1.png").read_bytes())
    require_one_line(tmp_path, photos, capsys, "has a line break")
    (photos / "a\nb.png").unlink()
    latin = Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png"))
    latin.write_bytes((run / "unlabeled" / "1.png").read_bytes())
    require_one_line(tmp_path, photos, capsys, "are not UTF-8")
    latin.unlink()
    (photos / "a.png").write_text("not an image")
    require_one_line(tmp_path, photos, capsys, "a.png")


def require_one_line(
    folder: Path, images: Path, capsys: pytest.CaptureFixture[str], message: str
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        main(arguments(folder, folder / "out", images=images))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segtune suggest: ") and message in line
    assert not list((folder / "out").glob("*.*"))


def test_a_page_of_other_labels_is_refused(
    run: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = read(out / "labels.json")
    values["images"].reverse()
    (tmp_path / "labels.json").write_text(json.dumps(values))
    files = ["--suggestions", out / "suggestions.json", "--labels", tmp_path / "labels.json"]
    places = ["--images", run / "unlabeled", "--out", tmp_path / "page.html"]
    with pytest.raises(SystemExit, match="1"):
        suggest_page.main([*map(str, files), *map(str, places)])
    assert "of other images than the suggestions" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
