"""Average precision: known answers, and pycocotools used as its documentation says."""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segtune.dataset.coco import Annotation, Split
from segtune.dataset.detections import Detection, Detections, to_record
from segtune.dataset.masks import rle_area, rle_bbox_xywh
from segtune.evaluation.average_precision import (
    SUMMARY,
    Kind,
    average_precision,
    average_precision_per_class,
)
from tests.scenes import (
    KINDS,
    OBJECTS,
    box_only,
    detection,
    random_case,
    random_shapes,
    split_of,
)


def ap(split: Split, found: list[Detection], kind: Kind) -> float:
    value = average_precision(split, Detections(found), kind).AP
    assert value is not None
    return value


@pytest.mark.parametrize("kind", KINDS)
def test_perfect_predictions_score_1(kind: Kind) -> None:
    perfect = Detections(detection(*o) for o in OBJECTS)
    found = asdict(average_precision(split_of(OBJECTS), perfect, kind))
    for name in ("AP", "AP50", "AR_100"):
        assert found[name] == pytest.approx(1.0)
    assert found["per_class"] == {"cat": pytest.approx(1.0), "dog": pytest.approx(1.0)}
    assert found["AP_small"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_perfect_predictions_of_more_than_100_objects_in_an_image_score_1(kind: Kind) -> None:
    objects = [(1, 1, (6 * column, 6 * row, 5, 5)) for column in range(11) for row in range(10)]
    perfect = [detection(*o) for o in objects]
    assert ap(split_of(objects), perfect, kind) == pytest.approx(1.0)
    # Where no image has so many, more than 100 detections do not count, as in COCO.
    strays = [detection(1, 1, (90, 90, 4, 4), score=0.95) for _ in range(100)]
    assert ap(split_of(objects[:5]), [*strays, *perfect[:5]], kind) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_no_predictions_score_0(kind: Kind) -> None:
    found = average_precision(split_of(OBJECTS), Detections(), kind)
    assert found.AP == 0.0
    assert found.per_class == {"cat": 0.0, "dog": 0.0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_shifted_box_counts_up_to_its_iou(kind: Kind) -> None:
    # 40 x 32 of 40 x 48 overlap: an IoU of 2/3 passes 0.50, 0.55, 0.60 and 0.65 of ten.
    split = split_of([(1, 1, (10, 10, 40, 40))])
    shifted = Detections([detection(1, 1, (10, 18, 40, 40))])
    found = asdict(average_precision(split, shifted, kind))
    assert found["AP50"] == pytest.approx(1.0)
    assert found["AP75"] == 0.0
    assert found["AP"] == pytest.approx(0.4)


def test_a_class_without_objects_has_no_score() -> None:
    split = split_of([(1, 1, (10, 10, 40, 40))])
    perfect = [detection(1, 1, (10, 10, 40, 40))]
    found = average_precision(split, Detections(perfect), "box")
    assert found.per_class == {"cat": pytest.approx(1.0), "dog": None}
    assert ap(split, perfect, "box") == pytest.approx(1.0)


def test_a_split_without_objects_has_no_score() -> None:
    found = average_precision(split_of([]), Detections([detection(1, 1, (10, 10, 40, 40))]), "box")
    assert found.AP is None


def test_box_only_objects_count_neither_way_in_mask_metrics() -> None:
    with_mask = split_of([(1, 1, (10, 10, 40, 40))])
    without_mask = box_only(2, 1, 1, (60, 60, 30, 30))
    split = replace(with_mask, annotations={1: (*with_mask.annotations[1], without_mask), 2: ()})
    inside = [detection(1, 1, (10, 10, 40, 40), 0.8), detection(1, 1, (62, 62, 20, 20), 0.9)]
    assert ap(split, inside, "mask") == pytest.approx(1.0)
    assert average_precision(split, Detections(inside), "mask").ignored == 1
    outside = [inside[0], detection(1, 1, (10, 60, 20, 20), 0.9)]
    assert ap(split, outside, "mask") < 1.0
    assert ap(split, inside, "box") < 1.0
    assert average_precision(split, Detections(inside), "box").ignored == 0


def coco_record(a: Annotation) -> dict[str, Any]:
    return {
        "id": a.id,
        "image_id": a.image_id,
        "category_id": a.category_id,
        "bbox": list(a.bbox_xywh),
        "area": a.area,
        "iscrowd": a.iscrowd,
        "segmentation": a.segmentation,
    }


def write_coco(folder: Path, split: Split, detections: Detections, kind: Kind) -> None:
    truth = {
        "images": [{"id": i.id, "height": i.height, "width": i.width} for i in split.images],
        "categories": [{"id": c.id, "name": c.name} for c in split.categories],
        "annotations": [coco_record(a) for a in split.objects],
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    keys = {"image_id", "category_id", "score", "bbox" if kind == "box" else "segmentation"}
    results = [{k: v for k, v in to_record(d).items() if k in keys} for d in detections]
    (folder / "results.json").write_text(json.dumps(results))


def by_pycocotools(folder: Path, kind: Kind, category: int | None = None) -> list[float]:
    """The twelve numbers of the files in a folder, as pycocotools' demo does it."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        results = coco.loadRes(str(folder / "results.json"))
        evaluator = COCOeval(coco, results, {"box": "bbox", "mask": "segm"}[kind])
        evaluator.params.catIds = [category] if category else evaluator.params.catIds
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [random_case, random_shapes])
@pytest.mark.parametrize("seed", range(5))
def test_the_twelve_numbers_are_pycocotools_own(
    tmp_path: Path, seed: int, case: Callable[[int], tuple[Split, Detections]], kind: Kind
) -> None:
    split, detections = case(seed)
    found = average_precision(split, detections, kind)
    write_coco(tmp_path, split, detections, kind)
    for name, expected in zip(SUMMARY, by_pycocotools(tmp_path, kind), strict=True):
        value = getattr(found, name)
        assert (-1 if value is None else value) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_of_a_class_is_pycocotools_own(tmp_path: Path, kind: Kind) -> None:
    split, detections = random_shapes(6)
    per_class = average_precision(split, detections, kind).per_class
    write_coco(tmp_path, split, detections, kind)
    for category in split.categories:
        expected = by_pycocotools(tmp_path, kind, category.id)[0]
        value = per_class[category.name]
        assert (-1 if value is None else value) == pytest.approx(expected, abs=1e-6)
    assert per_class["owl"] is None
    assert per_class["cat"] != per_class["dog"]


@pytest.mark.parametrize("kind", KINDS)
def test_without_sizes_the_scores_of_classes_are_the_same(kind: Kind) -> None:
    split, detections = random_shapes(6)
    whole = average_precision(split, detections, kind)
    found = average_precision_per_class(split, detections, kind)
    assert found == whole.per_class
    known = [value for value in found.values() if value is not None]
    assert sum(known) / len(known) == pytest.approx(whole.AP, rel=1e-12)


def test_pycocotools_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    split, detections = random_case(0)
    average_precision(split, detections, "box")
    assert capsys.readouterr().out == ""


def test_the_order_of_detections_does_not_matter() -> None:
    split, detections = random_case(9)
    backward = Detections(list(detections)[::-1])
    assert average_precision(split, backward, "mask") == average_precision(
        split, detections, "mask"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_crowd_is_neither_missed_nor_a_match(kind: Kind) -> None:
    split = split_of([(1, 1, (10, 10, 30, 30)), (1, 1, (50, 50, 40, 40))])
    single, crowd = split.annotations[1]
    split = replace(split, annotations={1: (single, replace(crowd, iscrowd=1)), 2: ()})
    inside = [detection(1, 1, (10, 10, 30, 30), 0.5)]
    inside += [detection(1, 1, (x, 55, 10, 10), 0.9) for x in (55, 70)]
    assert ap(split, inside, kind) == pytest.approx(1.0)
    outside = [*inside, detection(1, 1, (60, 5, 10, 10), 0.9)]
    assert ap(split, outside, kind) < 1.0


def test_the_size_of_a_detection_is_that_of_its_mask() -> None:
    small = detection(1, 1, (0, 0, 10, 10))
    assert rle_area(small.rle) == 100
    assert rle_bbox_xywh(small.rle) == (0, 0, 10, 10)
    misleading = replace(small, bbox_xywh=(0, 0, 99, 99))
    split = split_of([(1, 1, (0, 0, 10, 10))])
    found = average_precision(split, Detections([misleading]), "mask")
    assert found.AP_small == pytest.approx(1.0)
