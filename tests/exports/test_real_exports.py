"""Real exports: their counts, and that the formats of one dataset agree."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conversion import convert, refused
from tests.format_writers import SPLITS

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "classes", "images", "masks", "boxes_only"),
    [
        ("pothole", ["pothole"], 90, 120, 0),
        ("blood-cells", ["rbc", "wbc"], 240, 0, 5638),
        ("sharks-tiny-coco", ["fish", "primary", "shark"], 10, 17, 43),
    ],
)
def test_the_objects_of_real_exports_are_counted(
    tmp_path: Path, name: str, classes: list[str], images: int, masks: int, boxes_only: int
) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"the real export {name} is not on this machine")
    values = convert(DATA / name, tmp_path / "out")
    counts = values["conversion"]["splits"].values()
    assert [c["name"] for c in values["test"]["categories"]] == classes
    assert sum(count["images"] for count in counts) == images
    assert sum(count["masks"] for count in counts) == masks
    assert sum(count["box_only_objects"] for count in counts) == boxes_only


def copied(name: str, tmp_path: Path) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"the real export {name} is not on this machine")
    for path in (DATA / name).rglob("*"):
        target = tmp_path / name / path.relative_to(DATA / name)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path / name


Found = dict[tuple[str, str], list[tuple[str, list[float]]]]


def relative_boxes(values: dict[str, Any]) -> Found:
    """Per split and original image: class and box, in fractions of the image, sorted."""
    found: Found = {}
    for split in SPLITS:
        images = {image["id"]: image for image in values[split]["images"]}
        names = {c["id"]: c["name"] for c in values[split]["categories"]}
        for a in values[split]["annotations"]:
            image = images[a["image_id"]]
            sides = [image["width"], image["height"]] * 2
            box = [v / side for v, side in zip(a["bbox"], sides, strict=True)]
            original = Path(image["file_name"]).name.partition(".rf.")[0]
            found.setdefault((split, original), []).append((names[a["category_id"]], box))
    return {key: sorted(boxes) for key, boxes in found.items()}


def assert_equal_boxes(one: Found, other: Found, tolerance: float) -> None:
    assert one.keys() == other.keys()
    for key, boxes in one.items():
        for (name, box), (other_name, other_box) in zip(boxes, other[key], strict=True):
            assert name == other_name
            assert box == pytest.approx(other_box, abs=tolerance)


def test_three_real_exports_of_one_dataset_agree(tmp_path: Path) -> None:
    kinds = ("coco", "yolov9", "createml")
    coco, yolo, createml = (
        relative_boxes(convert(copied(f"sharks-tiny-{kind}", tmp_path), tmp_path / f"{kind}-out"))
        for kind in kinds
    )
    # The exports are of 256 and of 640 pixels; a box of a mask is whole pixels.
    assert_equal_boxes(coco, yolo, 1.5 / 256)
    assert_equal_boxes(coco, createml, 1.5 / 256)


def sorted_polygons(values: dict[str, Any]) -> dict[tuple[str, str], list[list[float]]]:
    found: dict[tuple[str, str], list[list[float]]] = {}
    for split in SPLITS:
        names = {image["id"]: image["file_name"] for image in values[split]["images"]}
        for a in values[split]["annotations"]:
            found.setdefault((split, names[a["image_id"]]), []).extend(a["segmentation"])
    return {key: sorted(polygons) for key, polygons in found.items()}


def test_labels_of_two_formats_of_one_real_dataset_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = copied("pothole", tmp_path)
    shutil.rmtree(export / "test")  # which has no YOLO labels
    assert "coco and yolo" in refused(export, tmp_path / "out", capsys, missing_test="hold_out")
    coco, yolo = (
        convert(export, tmp_path / kind, format=kind, missing_test="hold_out")
        for kind in ("coco", "yolo")
    )
    one, other = sorted_polygons(coco), sorted_polygons(yolo)
    assert one.keys() == other.keys()
    assert sum(map(len, one.values())) == 115
    for key, polygons in one.items():
        for polygon, same in zip(polygons, other[key], strict=True):
            assert polygon == pytest.approx(same, abs=1.5e-3)  # six and three decimals
