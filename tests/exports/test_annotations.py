"""Normalizing annotations: what is repaired or dropped and logged, and that masks survive."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as mask_utils

from segtune.dataset.masks import mask_to_rle, segmentation_to_mask
from tests.conversion import converted
from tests.export_writer import HEIGHT, SQUARE, WIDTH, Values, set_first

CROSSED = [5.0, 5.0, 15.0, 15.0, 15.0, 5.0, 5.0, 15.0]
CROSSED_AREA = int(mask_utils.area(mask_utils.frPyObjects([CROSSED], HEIGHT, WIDTH))[0])
TRIANGLE = [5.0, 5.0, 15.0, 5.0, 15.0, 15.0]


@pytest.mark.parametrize(
    ("change", "rule", "expected"),
    [
        (set_first(bbox=["5.00", 5, "10", 10]), "number written as text", {"bbox": [5, 5, 10, 10]}),
        (set_first(bbox=[0, 0, 30, 20]), "box recomputed", {"bbox": [5, 5, 10, 10]}),
        (
            set_first(segmentation=SQUARE),
            "flat polygon wrapped in a list",
            {"segmentation": [SQUARE]},
        ),
        (
            set_first(segmentation=[SQUARE, [1, 2, 3, 4]]),
            "fewer than three points or an odd number",
            {"segmentation": [SQUARE]},
        ),
        (
            set_first(segmentation=[TRIANGLE, [*TRIANGLE, 1.0]]),
            "odd number of values dropped",
            {"segmentation": [TRIANGLE]},
        ),
        (
            set_first(segmentation=[[1, 2, 3, 4]]),
            "without a valid polygon",
            {"segmentation": [], "box_only": True, "bbox": [5, 5, 10, 10]},
        ),
        (
            set_first(segmentation=[[5, 5, 5, 5, 5, 5]]),
            "empty mask dropped",
            {"segmentation": [], "box_only": True},
        ),
        (
            set_first(segmentation=[CROSSED], bbox=[5, 5, 10, 10]),
            "self-intersecting polygon",
            {"segmentation": [CROSSED], "area": CROSSED_AREA},
        ),
        (
            set_first(segmentation=[], bbox=[-5, 20, 10, 20]),
            "box clipped",
            {"bbox": [0, 20, 5, 10], "area": 50, "box_only": True},
        ),
    ],
)
def test_what_can_be_repaired_is_repaired_and_logged(
    tmp_path: Path, change: Callable[[Values], object], rule: str, expected: dict[str, Any]
) -> None:
    values = converted(tmp_path, change)
    annotation = values["train"]["annotations"][0]
    assert {key: annotation[key] for key in expected} == expected
    assert "box_only" in expected or "box_only" not in annotation
    (repair,) = (r for r in values["conversion"]["repairs"] if rule in r["rule"])
    assert repair["count"] >= 1
    assert repair["examples"][0]["record"] == "annotation 0"
    assert repair["examples"][0]["file"] == "train/_annotations.coco.json"
    assert repair["examples"][0]["original"]


@pytest.mark.parametrize(
    ("bbox", "rule"),
    [
        ([5, 5, 0, 10], "box with no area dropped"),
        ([5, 5, 10, -3], "box with no area dropped"),
        ([50, 5, 9, 9], "box outside the image dropped"),
    ],
)
def test_a_single_empty_box_is_dropped_and_logged(
    tmp_path: Path, bbox: list[float], rule: str
) -> None:
    values = converted(tmp_path, set_first(segmentation=[], bbox=bbox))
    assert [a["id"] for a in values["train"]["annotations"]] == [1]
    assert values["train"]["annotations"][0]["image_id"] == 2
    (repair,) = (r for r in values["conversion"]["repairs"] if r["rule"] == rule)
    assert repair["count"] == 1
    assert repair["examples"][0]["original"] == bbox


def test_a_box_only_object_never_gets_a_mask(tmp_path: Path) -> None:
    values = converted(tmp_path, set_first(segmentation=[]))
    assert values["train"]["annotations"][0]["segmentation"] == []
    assert values["conversion"]["splits"]["train"]["box_only_objects"] == 1
    assert values["conversion"]["splits"]["train"]["masks"] == 1


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mask=arrays(np.uint8, (HEIGHT, WIDTH), elements=st.integers(0, 1)).filter(np.any))
def test_rle_comes_back_bitwise_identical(mask: Any, tmp_path: Path) -> None:
    # With holes and any number of parts, and iscrowd 0.
    compressed = mask_to_rle(mask)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, mask.ravel("F"), 2])))
    counts = [int(run) for run in ([0, *runs] if mask.ravel("F")[0] else runs)]
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": counts}

    def change(values: Values) -> None:
        values["annotations"][0]["segmentation"] = compressed
        values["annotations"][1]["segmentation"] = uncompressed

    shutil.rmtree(tmp_path / "export", ignore_errors=True)
    values = converted(tmp_path, change)
    one, other = values["train"]["annotations"]
    assert one["segmentation"] == other["segmentation"] == compressed
    assert one["iscrowd"] == 0
    assert np.array_equal(segmentation_to_mask(other["segmentation"], HEIGHT, WIDTH), mask)
    assert one["area"] == mask.sum()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    assert one["bbox"] == [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def test_polygons_are_rasterized_as_pycocotools_does(tmp_path: Path) -> None:
    crossed = [5.0, 5.0, 25.0, 20.0, 25.0, 5.0, 5.0, 20.0]
    values = converted(tmp_path, set_first(segmentation=[crossed, SQUARE]))
    annotation = values["train"]["annotations"][0]
    expected = mask_utils.merge(mask_utils.frPyObjects([crossed, SQUARE], HEIGHT, WIDTH))
    assert annotation["segmentation"] == [crossed, SQUARE]
    assert annotation["area"] == mask_utils.area(expected)
