"""Suspected label errors of all splits: what is proposed, and the patch that is imported."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as mask_utils

from segtune import convert, label_issues_page
from segtune.dataset.masks import segmentation_to_rle
from segtune.label_issues import main
from tests.converted import SIDE
from tests.label_issue_runs import (
    MISSING,
    NOTHING,
    PHANTOM_ID,
    POOR,
    WRONG,
    arguments,
    find_issues,
    labels_of,
    patch,
    write_dataset_with_errors,
)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset_with_errors(tmp_path_factory.mktemp("errors"))


@pytest.fixture(scope="module")
def out(coco: Path) -> Path:
    find_issues(coco, coco.parent / "out")
    return coco.parent / "out"


@pytest.fixture(scope="module")
def issues(out: Path) -> dict[int, dict[str, Any]]:
    """By image; all are of train."""
    values = json.loads((out / "issues.json").read_text())
    assert {issue["split"] for issue in values["issues"]} == {"train"}
    return {issue["image_id"]: issue for issue in values["issues"]}


def drawn(segmentation: Any) -> Any:
    return segmentation_to_rle(segmentation, SIDE, SIDE)


def iou(one: Any, other: Any) -> float:
    return float(mask_utils.iou([drawn(one)], [drawn(other)], [0])[0, 0])


def square_of(coco: Path, image: int) -> Any:
    """What the model detects in an image of train."""
    records = json.loads((coco.parent / "train.json").read_text())
    return next(r for r in records if r["image_id"] == image)


def test_every_kind_of_error_is_listed_in_train(issues: dict[int, dict[str, Any]]) -> None:
    assert {image: issue["reason"] for image, issue in issues.items()} == {
        MISSING: "missing label",
        WRONG: "wrong class",
        POOR: "poor localization",
        NOTHING: "no object",
    }
    assert all(issue["issue_score"] == 1 for issue in issues.values())
    assert issues[NOTHING]["score"] is None
    assert all(issue["score"] == 0.9 for n, issue in issues.items() if n != NOTHING)


def test_a_missing_label_is_proposed_as_it_was_detected(
    coco: Path, issues: dict[int, dict[str, Any]]
) -> None:
    proposal = issues[MISSING]["proposal"]
    assert issues[MISSING]["annotation_id"] is None
    assert proposal["label"] == "disc"
    assert iou(proposal["segmentation"], square_of(coco, MISSING)["segmentation"]) > 0.95


def test_a_wrong_class_keeps_its_outline(coco: Path, issues: dict[int, dict[str, Any]]) -> None:
    (label,) = labels_of(coco, WRONG)
    issue = issues[WRONG]
    assert (issue["annotation_id"], issue["labeled"]) == (label.id, "disc")
    assert issue["proposal"]["label"] == "square"
    assert issue["proposal"]["segmentation"] == label.segmentation


def test_poor_localization_becomes_that_of_the_detection(
    coco: Path, issues: dict[int, dict[str, Any]]
) -> None:
    proposal = issues[POOR]["proposal"]
    assert proposal["label"] == issues[POOR]["labeled"] == "disc"
    assert iou(proposal["segmentation"], square_of(coco, POOR)["segmentation"]) > 0.95


def test_a_label_of_nothing_is_removed(issues: dict[int, dict[str, Any]]) -> None:
    assert issues[NOTHING]["proposal"] is None
    assert issues[NOTHING]["annotation_id"] == PHANTOM_ID


def test_the_patch_has_all_labels_of_the_images_with_issues(coco: Path, out: Path) -> None:
    values = patch(out, "train")
    assert sorted(image["id"] for image in values["images"]) == [1, 2, 3, 4]
    removed = {image["id"]: image.get("removed") for image in values["images"]}
    assert removed == {MISSING: None, WRONG: None, POOR: None, NOTHING: [PHANTOM_ID]}
    after = {a["image_id"]: a for a in values["annotations"]}
    assert after.keys() == {MISSING, WRONG, POOR}
    assert {image: a["segtune"] for image, a in after.items()} == {
        MISSING: "missing label",
        WRONG: "wrong class",
        POOR: "poor localization",
    }
    assert after[WRONG]["category_id"] == 2
    assert all(a["score"] == 0.9 and a["issue_score"] == 1 for a in after.values())
    (before,) = labels_of(coco, POOR)
    assert after[POOR]["area"] == pytest.approx(3 * before.area, rel=0.1)
    assert len({a["id"] for a in values["annotations"]}) == 3


def test_what_has_no_issue_stays_as_it_was(tmp_path: Path) -> None:
    coco = write_dataset_with_errors(tmp_path)
    values = json.loads((coco / "train.json").read_text())
    # A second label, with the detection of it, in the image whose first one has another class.
    second = {
        "id": 800,
        "image_id": WRONG,
        "category_id": 3,
        "bbox": [0.5, 0.25, 6.0, 5.5],
        "area": 33.0,
        "iscrowd": 0,
        "segmentation": [[0.5, 0.25, 6.5, 0.25, 6.5, 5.75, 0.5, 5.75]],
    }
    values["annotations"].append(second)
    (coco / "train.json").write_text(json.dumps(values))
    found = {"image_id": WRONG, "category_id": 3, "bbox": second["bbox"], "score": 0.8}
    found["segmentation"] = drawn(second["segmentation"])
    records = json.loads((tmp_path / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps([*records, found]))
    find_issues(coco, tmp_path / "out")
    after = {a["id"]: a for a in patch(tmp_path / "out", "train")["annotations"]}
    assert after[800] == second


def test_the_patch_is_converted_without_a_repair(coco: Path, out: Path, tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        folder = shutil.copytree(coco.parent / split, tmp_path / "export" / split)
        labels = patch(out, split)
        if not labels["images"]:
            # As the user has it: nothing is imported for this split.
            labels = json.loads((coco / f"{split}.json").read_text())
            for image in labels["images"]:
                image["file_name"] = Path(image["file_name"]).name
        (folder / "_annotations.coco.json").write_text(json.dumps(labels))
    convert.main(["--export", str(tmp_path / "export"), "--out", str(tmp_path / "coco")])
    assert json.loads((tmp_path / "coco/conversion.json").read_text())["repairs"] == []
    converted = json.loads((tmp_path / "coco/train.json").read_text())
    before, after = patch(out, "train")["annotations"], converted["annotations"]
    assert [a["segmentation"] for a in after] == [a["segmentation"] for a in before]
    names = {c["id"]: c["name"] for c in patch(out, "train")["categories"]}
    new_names = {c["id"]: c["name"] for c in converted["categories"]}
    assert [new_names[a["category_id"]] for a in after] == [names[a["category_id"]] for a in before]


def test_the_dataset_itself_is_not_changed(tmp_path: Path) -> None:
    coco = write_dataset_with_errors(tmp_path / "data")

    def digests() -> dict[Path, str]:
        files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = digests()
    find_issues(coco, tmp_path / "out")
    assert digests() == before


def test_train_is_trusted_as_far_as_valid_shows(tmp_path: Path) -> None:
    coco = write_dataset_with_errors(tmp_path)
    # On valid, discs are never right: what is detected in train is not believed.
    values = json.loads((coco / "valid.json").read_text())
    discs = [a for a in values["annotations"] if a["category_id"] == 1]
    values["annotations"] = [a for a in values["annotations"] if a["category_id"] != 1]
    (coco / "valid.json").write_text(json.dumps(values))
    assert len(discs) == 3
    found = find_issues(coco, tmp_path / "out")["issues"]
    assert {i["reason"] for i in found if i["split"] == "train"} == {"wrong class"}


def test_a_higher_score_lists_fewer(tmp_path: Path) -> None:
    coco = write_dataset_with_errors(tmp_path)
    records = json.loads((tmp_path / "valid.json").read_text())
    (tmp_path / "valid.json").write_text(json.dumps(records[1:]))  # a disc is not detected
    everything = find_issues(coco, tmp_path / "out", min_score=0.5)["issues"]
    certain = find_issues(coco, tmp_path / "out", min_score=0.9)
    assert certain["min_score"] == 0.9
    # The label of nothing is a disc, of which two in three are detected on valid.
    assert {i["image_id"] for i in everything if i["split"] == "train"} == {1, 2, 3, 4}
    assert {i["image_id"] for i in certain["issues"] if i["split"] == "train"} == {1, 2, 4}


def test_one_missing_label_is_proposed_where_two_classes_are_detected(tmp_path: Path) -> None:
    coco = write_dataset_with_errors(tmp_path)
    records = json.loads((tmp_path / "train.json").read_text())
    twice = {**square_of(coco, MISSING), "category_id": 2}
    (tmp_path / "train.json").write_text(json.dumps([*records, twice]))
    found = find_issues(coco, tmp_path / "out")["issues"]
    (proposed,) = [i["proposal"]["label"] for i in found if i["image_id"] == MISSING]
    assert proposed == "disc"


def test_a_label_has_one_issue(tmp_path: Path) -> None:
    coco = write_dataset_with_errors(tmp_path)
    records = json.loads((tmp_path / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps([*records, square_of(coco, POOR)]))
    found = find_issues(coco, tmp_path / "out")["issues"]
    assert sum(issue["image_id"] == POOR for issue in found) == 1


def test_valid_in_place_of_test_is_listed_once(tmp_path: Path) -> None:
    coco = write_dataset_with_errors(tmp_path)
    shutil.copy(coco / "valid.json", coco / "test.json")
    for name in ("valid", "test"):
        (tmp_path / f"{name}.json").write_text("[]")
    # No object of these splits is detected.
    values = find_issues(coco, tmp_path / "out", min_score=0.0)
    assert {issue["split"] for issue in values["issues"]} == {"train", "valid"}
    assert values["images"].keys() == {"train", "valid"}
    assert patch(tmp_path / "out", "test")["images"] == []
    assert patch(tmp_path / "out", "valid")["images"]


def test_predictions_of_another_split_are_refused(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [a for a in arguments(coco, tmp_path / "out") if not a.startswith("--test")]
    with pytest.raises(SystemExit):
        main([*wrong, f"--test={coco.parent / 'train.json'}"])
    assert "that the test split lacks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def edited(out: Path, folder: Path, **changes: Any) -> list[str]:
    """Arguments of the page for issues of which the first was edited."""
    values = json.loads((out / "issues.json").read_text())
    values["issues"][0] |= changes
    (folder / "issues.json").write_text(json.dumps(values))
    return [f"--issues={folder / 'issues.json'}", f"--out={folder / 'page.html'}"]


@pytest.mark.parametrize(
    "changes",
    [
        {"file_name": "train/other.png"},
        {"image_id": 77},
        {"annotation_id": 77},
        {"split": "holdout"},
        {"proposal": None, "annotation_id": None},
        {"proposal": {"label": "horse", "bbox_xywh": [0, 0, 1, 1], "segmentation": None}},
        {"proposal": {"label": "disc", "bbox_xywh": [0, 0, 1, 1], "segmentation": [[1, 2]]}},
        {
            "proposal": {
                "label": "disc",
                "bbox_xywh": [0, 0, 1, 1],
                "segmentation": {"size": [9, 9], "counts": "0"},
            }
        },
        {"bbox_xywh": [0, 0, float("nan"), 1]},
    ],
)
def test_a_page_of_issues_of_other_data_is_refused(
    coco: Path,
    out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
) -> None:
    with pytest.raises(SystemExit):
        label_issues_page.main([*edited(out, tmp_path, **changes), f"--coco={coco}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "this issue is of another dataset" in line
    assert not (tmp_path / "page.html").exists()


def test_a_page_needs_issues(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "issues.json").write_text('{"label_issues": []}')
    options = [f"--issues={tmp_path / 'issues.json'}", f"--out={tmp_path / 'page.html'}"]
    with pytest.raises(SystemExit):
        label_issues_page.main([*options, f"--coco={coco}"])
    assert "Give an issues.json that segtune.label_issues wrote" in capsys.readouterr().err
