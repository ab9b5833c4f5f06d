"""Training without suspected label errors: images are not prompted with the classes of theirs."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune import tile
from segtune.core.errors import DatasetError
from segtune.core.processes import Processes
from segtune.dataset.coco import read_split
from segtune.training.augment import Augmentation
from segtune.training.excluded_issues import excluded_classes
from segtune.training.prompted_images import PromptedImages
from segtune.training.setup import prepare_run, run_fingerprint
from tests.label_issue_runs import (
    MISSING,
    NOTHING,
    POOR,
    WRONG,
    find_issues,
    write_dataset_with_errors,
)
from tests.train_runs import refused, run_inputs, train_settings

CLASSES = {"disc", "square", "cross"}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    coco = write_dataset_with_errors(tmp_path_factory.mktemp("errors"))
    find_issues(coco, coco.parent / "out")
    return coco


@pytest.fixture(scope="module")
def issues(coco: Path) -> Path:
    return coco.parent / "out" / "issues.json"


def prepared(coco: Path, out: Path, **settings: Any) -> PromptedImages:
    """The images that a run trains on."""
    out.mkdir(exist_ok=True)
    run = prepare_run(
        run_inputs(coco, out),
        train_settings(**settings),
        processes=Processes(rank=0, count=1, device=torch.device("cpu")),
        folder=out,
    )
    assert run.history
    run.history.close()
    return run.dataset


def prompts(data: PromptedImages) -> dict[int, tuple[set[str], set[str]]]:
    """Image id -> the classes that it is prompted with over four epochs: positives, negatives."""
    found = {}
    for place, image in enumerate(data.images):
        positives: set[str] = set()
        negatives: set[str] = set()
        for epoch in range(4):
            sample = data[(epoch, place, 0)]
            for prompt, boxes in zip(sample.prompts, sample.boxes_cxcywh, strict=True):
                (positives if len(boxes) else negatives).add(prompt)
        found[image.id] = (positives & CLASSES, negatives & CLASSES)
    return found


def test_the_classes_of_an_issue_are_neither_positives_nor_negatives(
    coco: Path, issues: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepared(coco, tmp_path, exclude_issues=str(issues))
    found, before = prompts(data), prompts(prepared(coco, tmp_path / "all"))
    assert before[WRONG] == ({"disc"}, {"square", "cross"})
    assert found[MISSING] == (set(), {"square", "cross"})
    assert found[WRONG] == (set(), {"cross"})
    assert found[POOR] == (set(), {"square", "cross"})
    assert found[NOTHING] == (set(), {"square", "cross"})
    assert {image: found[image] for image in (5, 6, 7, 8, 9)} == {
        image: before[image] for image in (5, 6, 7, 8, 9)
    }
    assert WRONG not in {
        data.images[n].id for n in range(len(data)) if data.present(data.images[n])
    }
    assert "excluded because of 4 issues: 5 pairs of image and class in 4 images" in (
        capsys.readouterr().out
    )


def test_an_image_without_any_prompt_left_is_skipped(coco: Path, issues: Path) -> None:
    train = read_split(coco / "train.json")
    excluded = excluded_classes(str(issues), train, tiled=False).by_image
    everything = {name: frozenset({1, 2, 3}) for name in excluded}
    data = PromptedImages(
        train,
        image_size=96,
        max_negatives=2,
        extra_negatives=(),
        augmentation=Augmentation(horizontal_flip=False),
        seed=0,
        excluded=everything,
    )
    assert [image.id for image in data.images] == [5, 6, 7, 8, 9]


def test_of_tiles_those_that_show_the_place_are_excluded(
    coco: Path, issues: Path, tmp_path: Path
) -> None:
    tiles, side = tmp_path / "tiles", 32
    tile.main([f"--coco={coco}", f"--out={tiles}", f'--settings={{"side": {side}}}'])
    found = excluded_classes(str(issues), read_split(tiles / "train.json"), tiled=True)
    assert (found.issues, found.unknown) == (4, 0)
    whole = excluded_classes(str(issues), read_split(coco / "train.json"), tiled=False)
    names = {i.id: i.file_name for i in read_split(coco / "train.json").images}
    boxes = {
        i["image_id"]: [one["bbox_xywh"] for one in (i, i["proposal"]) if one]
        for i in json.loads(issues.read_text())["issues"]
    }
    shown: dict[str, frozenset[int]] = {}
    others = 0
    for image in read_split(tiles / "train.json").images:
        number, left, top = map(int, re.findall(r"(?<=[/xy])\d+", image.file_name))
        if any(
            left < x + w and x < left + side and top < y + h and y < top + side
            for x, y, w, h in boxes.get(number, [])
        ):
            shown[image.file_name] = whole.by_image[names[number]]
        else:
            others += number in boxes
    assert found.by_image == shown
    assert others > 0


def test_issues_of_another_version_of_the_data_are_matched_by_name(
    coco: Path, issues: Path, tmp_path: Path
) -> None:
    """Where an image was added before the others, each has another id."""
    new = shutil.copytree(coco, tmp_path / "coco")
    values = json.loads((new / "train.json").read_text())
    for record in values["images"]:
        record["id"] = record["id"] % len(values["images"]) + 1
    for record in values["annotations"]:
        record["image_id"] = record["image_id"] % len(values["images"]) + 1
    (new / "train.json").write_text(json.dumps(values))
    found = []
    for number, folder in enumerate((coco, new)):
        tiles = tmp_path / str(number)
        tile.main([f"--coco={folder}", f"--out={tiles}", '--settings={"side": 32}'])
        train = read_split(tiles / "train.json")
        by_image = excluded_classes(str(issues), train, tiled=True).by_image
        found.append({re.sub(r"/\d+_", "/", name): ids for name, ids in by_image.items()})
    assert found[0] == found[1] and found[0]


def test_tiles_that_only_the_proposal_lies_in_are_excluded_too(
    coco: Path, issues: Path, tmp_path: Path
) -> None:
    tiles = tmp_path / "tiles"
    tile.main([f"--coco={coco}", f"--out={tiles}", '--settings={"side": 32}'])
    train = read_split(tiles / "train.json")
    values = json.loads(issues.read_text())
    (poor,) = (i for i in values["issues"] if i["reason"] == "poor localization")
    poor["bbox_xywh"] = [1, 1, 2, 2]
    counts = []
    for box in ([1, 1, 2, 2], [1, 1, 60, 60]):
        poor["proposal"]["bbox_xywh"] = box
        (tmp_path / "issues.json").write_text(json.dumps({**values, "issues": [poor]}))
        counts.append(
            len(excluded_classes(str(tmp_path / "issues.json"), train, tiled=True).by_image)
        )
    of_image = [i for i in train.images if i.file_name.startswith(f"train/{POOR}_")]
    assert counts == [1, len(of_image)]


def test_issues_of_other_images_and_splits_are_ignored_and_counted(
    coco: Path, issues: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads(issues.read_text())
    first, second, third, fourth = values["issues"]
    others = [
        {**first, "file_name": "train/gone.png"},
        {**second, "predicted": "horse"},
        {**third, "split": "valid"},
        fourth,
    ]
    (tmp_path / "issues.json").write_text(json.dumps({**values, "issues": others}))
    train = read_split(coco / "train.json")
    found = excluded_classes(str(tmp_path / "issues.json"), train, tiled=False)
    assert (found.issues, found.unknown) == (1, 2)
    assert found.by_image.keys() == {fourth["file_name"]}
    found.describe(prepared(coco, tmp_path / "run"))
    assert "WARNING: 2 issues are of images or classes that train does not have" in (
        capsys.readouterr().out
    )


def test_the_content_of_the_file_decides_what_is_resumed(
    coco: Path, issues: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "issues.json"
    copy.write_bytes(issues.read_bytes())
    inputs, settings = run_inputs(coco, tmp_path), train_settings(exclude_issues=str(copy))
    before = run_fingerprint(inputs, settings)
    values = json.loads(copy.read_text())
    copy.write_text(json.dumps({**values, "issues": values["issues"][1:]}))
    after = run_fingerprint(inputs, settings)
    assert {key for key in before if before[key] != after[key]} == {"issues_sha256"}
    assert "issues_sha256" not in run_fingerprint(inputs, train_settings())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read the file (No such file or directory)"),
        ("{}", "cannot read the file (Field required)"),
        ("[]", "cannot read the file"),
        ('{"issues"', "cannot read the file"),
    ],
)
def test_another_file_is_refused_before_the_first_step(
    coco: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    problem: str,
) -> None:
    path = tmp_path / "issues.json"
    if content is not None:
        path.write_text(content)
    message = refused(coco, tmp_path / "out", capsys, exclude_issues=str(path))
    assert problem in message
    assert "Give an issues.json that segtune.label_issues wrote" in message
    assert not list((tmp_path / "out").rglob("history.jsonl"))


def test_issues_that_leave_no_label_are_refused(coco: Path, issues: Path) -> None:
    train = read_split(coco / "train.json")
    only = {WRONG: train.annotations[WRONG]}
    image = next(image for image in train.images if image.id == WRONG)
    with pytest.raises(DatasetError, match="exclude every label of the train split"):
        part = replace(train, images=(image,), annotations=only)
        excluded_classes(str(issues), part, tiled=False)
