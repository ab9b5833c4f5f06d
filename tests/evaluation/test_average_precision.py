"""Average precision: known answers, and pycocotools called by the book."""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segtune.dataset.coco import Annotation, Category, Image, Split
from segtune.dataset.masks import mask_to_rle, rle_area, rle_bbox_xywh, segmentation_to_rle
from segtune.evaluation.average_precision import SUMMARY, average_precision
from segtune.evaluation.false_alarms import false_alarms

SIDE = 100  # pixels
Box = tuple[int, int, int, int]


def rectangle(box_xywh: Box) -> dict[str, Any]:
    x, y, w, h = box_xywh
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask_to_rle(mask)


def split_of(objects: list[tuple[int, int, Box]], images: int = 2) -> Split:
    """Objects as (image, class, box); two classes."""
    annotations: dict[int, tuple[Annotation, ...]] = dict.fromkeys(range(1, images + 1), ())
    for number, (image, category, box) in enumerate(objects, start=1):
        x, y, w, h = box
        rle = rectangle(box)
        found = Annotation(number, image, category, (x, y, w, h), float(w * h), rle, 0)
        annotations[image] = (*annotations[image], found)
    return Split(
        "test",
        Path(),
        (Category(1, "cat", "cat"), Category(2, "dog", "dog")),
        tuple(Image(n, f"{n}.jpg", SIDE, SIDE) for n in annotations),
        annotations,
    )


def detection(image: int, category: int, box: Box, score: float = 0.9) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "score": score,
        "segmentation": rectangle(box),
    }


OBJECTS: list[tuple[int, int, Box]] = [(1, 1, (10, 10, 40, 40)), (2, 2, (30, 30, 40, 40))]
IOU_TYPES: list[Literal["bbox", "segm"]] = ["bbox", "segm"]


@pytest.mark.parametrize("iou_type", IOU_TYPES)
def test_perfect_predictions_score_1(iou_type: Literal["bbox", "segm"]) -> None:
    found = average_precision(split_of(OBJECTS), [detection(*o) for o in OBJECTS], iou_type)
    for name in ("AP", "AP50", "AR_100"):
        assert found[name] == pytest.approx(1.0)
    assert found["per_class"] == {"cat": pytest.approx(1.0), "dog": pytest.approx(1.0)}
    assert found["AP_small"] is None


@pytest.mark.parametrize("iou_type", IOU_TYPES)
def test_no_predictions_score_0(iou_type: Literal["bbox", "segm"]) -> None:
    found = average_precision(split_of(OBJECTS), [], iou_type)
    assert found["AP"] == 0.0
    assert found["per_class"] == {"cat": 0.0, "dog": 0.0}


@pytest.mark.parametrize("iou_type", IOU_TYPES)
def test_a_shifted_box_counts_up_to_its_overlap(iou_type: Literal["bbox", "segm"]) -> None:
    # 40 x 32 of 40 x 48 overlap: an IoU of 2/3 passes 0.50, 0.55, 0.60 and 0.65 of ten.
    split = split_of([(1, 1, (10, 10, 40, 40))])
    found = average_precision(split, [detection(1, 1, (10, 18, 40, 40))], iou_type)
    assert found["AP50"] == pytest.approx(1.0)
    assert found["AP75"] == 0.0
    assert found["AP"] == pytest.approx(0.4)


def test_a_class_without_objects_has_no_score() -> None:
    split = split_of([(1, 1, (10, 10, 40, 40))])
    found = average_precision(split, [detection(1, 1, (10, 10, 40, 40))], "bbox")
    assert found["per_class"] == {"cat": pytest.approx(1.0), "dog": None}
    assert found["AP"] == pytest.approx(1.0)


def test_nothing_to_find_has_no_score() -> None:
    found = average_precision(split_of([]), [detection(1, 1, (10, 10, 40, 40))], "bbox")
    assert found["AP"] is None


def test_objects_with_a_box_alone_count_neither_way_in_mask_metrics() -> None:
    with_mask = split_of([(1, 1, (10, 10, 40, 40))])
    box_only = Annotation(2, 1, 1, (60.0, 60.0, 30.0, 30.0), 900.0, None, 0)
    both = {1: (*with_mask.annotations[1], box_only), 2: ()}
    split = Split("test", Path(), with_mask.categories, with_mask.images, both)
    inside = [detection(1, 1, (10, 10, 40, 40), 0.8), detection(1, 1, (62, 62, 20, 20), 0.9)]
    found = average_precision(split, inside, "segm")
    assert found["AP"] == pytest.approx(1.0)
    assert found["ignored"] == 1
    outside = [inside[0], detection(1, 1, (10, 60, 20, 20), 0.9)]
    assert average_precision(split, outside, "segm")["AP"] < 1.0
    assert average_precision(split, inside, "bbox")["AP"] < 1.0
    assert average_precision(split, inside, "bbox")["ignored"] == 0


def random_case(seed: int) -> tuple[Split, list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)

    def box() -> Box:
        w, h = (int(v) for v in rng.integers(4, 60, 2))
        return int(rng.integers(0, SIDE - w)), int(rng.integers(0, SIDE - h)), w, h

    objects = [(int(rng.integers(1, 6)), int(rng.integers(1, 3)), box()) for _ in range(25)]
    results = []
    for image, category, (x, y, w, h) in objects:
        shifted = (max(0, x - int(rng.integers(0, 6))), y, w, max(2, h - int(rng.integers(0, 5))))
        results.append(detection(image, category, shifted, float(rng.random())))
    strays = [detection(int(rng.integers(1, 6)), 1, box(), float(rng.random())) for _ in range(20)]
    return split_of(objects, images=5), results + strays


def random_shapes(seed: int) -> tuple[Split, list[dict[str, Any]]]:
    """Polygons and crowds on images of several sizes; three classes, the last one unused."""
    rng = np.random.default_rng(seed)
    sizes = {1: (90, 140), 2: (120, 60), 3: (64, 64)}
    annotations: dict[int, list[Annotation]] = {image: [] for image in sizes}
    results: list[dict[str, Any]] = []
    for number in range(1, 31):
        image, category = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        height, width = sizes[image]
        center, radii = rng.uniform(10, 50, 2), rng.uniform(3, 25, 2)
        truth = ellipse(center, radii)
        mask = segmentation_to_rle(truth, height, width)
        crowd = int(rng.random() < 0.2)
        # COCO writes crowds as RLE and single objects as polygons.
        found = Annotation(
            number,
            image,
            category,
            rle_bbox_xywh(mask),
            rle_area(mask),
            mask if crowd else truth,
            crowd,
        )
        annotations[image].append(found)
        for _ in range(int(rng.integers(0, 4))):
            guess = ellipse(center + rng.normal(0, 2, 2), radii * rng.uniform(0.8, 1.2, 2))
            rle = segmentation_to_rle(guess, height, width)
            results.append(
                {
                    "image_id": image,
                    "category_id": int(rng.choice([category, category, 3])),
                    "bbox": list(rle_bbox_xywh(rle)),
                    "score": float(rng.random()),
                    "segmentation": rle,
                }
            )
    return (
        Split(
            "test",
            Path(),
            tuple(Category(n, name, name) for n, name in enumerate(("cat", "dog", "owl"), start=1)),
            tuple(Image(n, f"{n}.jpg", width, height) for n, (height, width) in sizes.items()),
            {image: tuple(found) for image, found in annotations.items()},
        ),
        results,
    )


def ellipse(center: Any, radii: Any) -> list[list[float]]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None]
    points = center + radii * np.concatenate([np.cos(angles), np.sin(angles)], 1)
    return [points.flatten().tolist()]


def by_the_book(
    tmp_path: Path,
    split: Split,
    results: list[dict[str, Any]],
    iou_type: str,
    category: int | None = None,
) -> list[float]:
    """pycocotools through files, as its own demo does it; for one class if asked."""
    annotations = [
        {
            "id": a.id,
            "image_id": a.image_id,
            "category_id": a.category_id,
            "bbox": list(a.bbox_xywh),
            "area": a.area,
            "iscrowd": a.iscrowd,
            "segmentation": a.segmentation,
        }
        for found in split.annotations.values()
        for a in found
    ]
    truth = {
        "images": [{"id": i.id, "height": i.height, "width": i.width} for i in split.images],
        "categories": [{"id": c.id, "name": c.name} for c in split.categories],
        "annotations": annotations,
    }
    keys = {"image_id", "category_id", "score", "bbox" if iou_type == "bbox" else "segmentation"}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    kept = [{k: v for k, v in r.items() if k in keys} for r in results]
    (tmp_path / "results.json").write_text(json.dumps(kept))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        evaluator = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), iou_type)
        evaluator.params.catIds = [category] if category else evaluator.params.catIds
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


@pytest.mark.parametrize("iou_type", IOU_TYPES)
@pytest.mark.parametrize("case", [random_case, random_shapes])
@pytest.mark.parametrize("seed", range(5))
def test_the_twelve_numbers_are_pycocotools_own(
    tmp_path: Path,
    seed: int,
    case: Callable[[int], tuple[Split, list[dict[str, Any]]]],
    iou_type: Literal["bbox", "segm"],
) -> None:
    split, results = case(seed)
    found = average_precision(split, results, iou_type)
    for name, expected in zip(
        SUMMARY, by_the_book(tmp_path, split, results, iou_type), strict=True
    ):
        assert (-1 if found[name] is None else found[name]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("iou_type", IOU_TYPES)
def test_the_score_of_a_class_is_pycocotools_own(
    tmp_path: Path, iou_type: Literal["bbox", "segm"]
) -> None:
    split, results = random_shapes(6)
    per_class = average_precision(split, results, iou_type)["per_class"]
    for category in split.categories:
        expected = by_the_book(tmp_path, split, results, iou_type, category.id)[0]
        value = per_class[category.name]
        assert (-1 if value is None else value) == pytest.approx(expected, abs=1e-6)
    assert per_class["owl"] is None
    assert per_class["cat"] != per_class["dog"]


def test_the_tables_of_pycocotools_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    average_precision(*random_case(0), "bbox")
    assert capsys.readouterr().out == ""


def test_the_order_of_images_does_not_matter() -> None:
    split, results = random_case(9)
    one = average_precision(split, results, "segm")
    assert average_precision(split, results[::-1], "segm") == one


@pytest.mark.parametrize("iou_type", IOU_TYPES)
def test_a_crowd_is_neither_to_be_found_nor_wrong(iou_type: Literal["bbox", "segm"]) -> None:
    split = split_of([(1, 1, (10, 10, 30, 30)), (1, 1, (50, 50, 40, 40))])
    single, crowd = split.annotations[1]
    split = replace(split, annotations={1: (single, replace(crowd, iscrowd=1)), 2: ()})
    inside = [detection(1, 1, (10, 10, 30, 30), 0.5)]
    inside += [detection(1, 1, (x, 55, 10, 10), 0.9) for x in (55, 70)]
    assert average_precision(split, inside, iou_type)["AP"] == pytest.approx(1.0)
    outside = [*inside, detection(1, 1, (60, 5, 10, 10), 0.9)]
    assert average_precision(split, outside, iou_type)["AP"] < 1.0


def test_mask_sizes_come_from_masks() -> None:
    small = detection(1, 1, (0, 0, 10, 10))
    assert rle_area(small["segmentation"]) == 100
    assert rle_bbox_xywh(small["segmentation"]) == (0, 0, 10, 10)
    misleading = {**small, "bbox": [0, 0, 99, 99]}
    split = split_of([(1, 1, (0, 0, 10, 10))])
    found = average_precision(split, [misleading], "segm")
    assert found["AP_small"] == pytest.approx(1.0)


def test_false_alarms_are_shares_of_images_without_the_class() -> None:
    split = split_of([(1, 1, (10, 10, 40, 40))], images=4)
    box = (10, 10, 40, 40)
    results = [
        detection(1, 1, box, 0.9),  # is there
        detection(2, 1, box, 0.5),
        detection(2, 1, box, 0.5),  # the same image again
        detection(3, 1, box, 0.49),
        detection(4, 2, box, 0.7),
    ]
    alarms = false_alarms(split, results, 0.5)
    assert alarms == {"cat": pytest.approx(1 / 3), "dog": pytest.approx(1 / 4)}
    assert false_alarms(split, results, 0.8) == {"cat": 0.0, "dog": 0.0}
    everywhere = split_of([(1, 1, box), (2, 1, box)])
    assert false_alarms(everywhere, results, 0.5)["cat"] is None


def test_a_class_that_is_there_as_a_crowd_raises_no_alarm() -> None:
    box = (10, 10, 40, 40)
    split = split_of([(1, 1, box)])
    crowd = replace(split.annotations[1][0], iscrowd=1)
    split = replace(split, annotations={1: (crowd,), 2: ()})
    results = [detection(1, 1, box), detection(1, 2, box)]
    assert false_alarms(split, results, 0.5) == {"cat": 0.0, "dog": 0.5}
