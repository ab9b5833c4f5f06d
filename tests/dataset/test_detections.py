"""Detections: their index, their file, and the refusal of records that cannot be scored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segtune.core.errors import DatasetError
from segtune.dataset.detections import (
    Detections,
    from_record,
    read_detections,
    read_prompted_detections,
    to_record,
)
from tests.scenes import detection, random_case, random_shapes, split_of

SPLIT = split_of([])


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=20))
def test_the_index_finds_detections_in_their_order(pairs: list[tuple[int, int]]) -> None:
    found = [detection(i, c, (1, 2, 3, 4), n / 20) for n, (i, c) in enumerate(pairs)]
    detections = Detections(found)
    assert list(detections) == found
    assert len(detections) == len(found)
    for image in range(1, 6):
        assert list(detections.in_image(image)) == [d for d in found if d.image_id == image]
        for category in range(1, 5):
            assert list(detections.of(image, category)) == [
                d for d in found if (d.image_id, d.category_id) == (image, category)
            ]


def test_no_detections_are_an_empty_index() -> None:
    assert list(Detections()) == list(Detections().in_image(1)) == list(Detections().of(1, 1)) == []


def test_a_record_is_cocos() -> None:
    found = detection(1, 2, (10, 20, 30, 40), 0.25)
    assert to_record(found) == {
        "image_id": 1,
        "category_id": 2,
        "bbox": [10, 20, 30, 40],
        "score": 0.25,
        "segmentation": found.rle,
    }
    assert from_record(json.loads(json.dumps(to_record(found)))) == found


@pytest.mark.parametrize("case", [random_case, random_shapes])
def test_written_results_are_read_again(tmp_path: Path, case: Callable[[int], Any]) -> None:
    split, detections = case(3)
    records = [to_record(d) for d in detections]
    (tmp_path / "results.json").write_text(json.dumps(records))
    assert list(read_detections(tmp_path / "results.json", split)) == list(detections)


def test_written_predictions_for_prompts_are_read_again(tmp_path: Path) -> None:
    found = [detection(1, 5, (1, 2, 3, 4)), detection(2, 9, (5, 6, 7, 8))]
    categories = [{"id": 5, "name": "horse"}, {"id": 9, "name": "car"}]
    values = {"categories": categories, "annotations": [to_record(d) for d in found]}
    (tmp_path / "ood.json").write_text(json.dumps(values))
    read = read_prompted_detections(tmp_path / "ood.json", SPLIT)
    assert read.prompts == {5: "horse", 9: "car"}
    assert list(read.detections) == found


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda record: {k: v for k, v in record.items() if k != key}


def changed(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda record: {**record, **values}


def changed_mask(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda record: {**record, "segmentation": {**record["segmentation"], **values}}


def shortened(record: dict[str, Any]) -> Any:
    counts = record["segmentation"]["counts"]
    return {**record, "segmentation": {**record["segmentation"], "counts": counts[:-1]}}


MUTATIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "not_a_record": lambda record: 3,
    "no_image": without("image_id"),
    "no_category": without("category_id"),
    "list_as_image": changed(image_id=[1]),
    "no_score": without("score"),
    "score_text": changed(score="high"),
    "score_nan": changed(score=float("nan")),
    "score_infinite": changed(score=float("inf")),
    "no_box": without("bbox"),
    "short_box": changed(bbox=[1, 2, 3]),
    "long_box": changed(bbox=[1, 2, 3, 4, 5]),
    "box_text": changed(bbox=[1, 2, 3, "4"]),
    "box_nan": changed(bbox=[1, 2, 3, float("nan")]),
    "no_mask": without("segmentation"),
    "polygon": changed(segmentation=[[1, 2, 9, 2, 9, 9]]),
    "no_size": changed(segmentation={"counts": "0"}),
    "other_size": changed_mask(size=[100, 99]),
    "no_counts": changed(segmentation={"size": [100, 100]}),
    "uncompressed": changed_mask(counts=[10_000]),
    "empty_counts": changed_mask(counts=""),
    "bad_counts": changed_mask(counts="zzz"),
    "few_pixels": changed_mask(counts="0"),
    "negative_run": changed_mask(counts="O"),
    "shortened_counts": shortened,
}


@pytest.mark.parametrize("name", MUTATIONS)
@pytest.mark.parametrize("prompted", [False, True])
def test_a_record_that_cannot_be_scored_is_refused(
    tmp_path: Path, name: str, prompted: bool
) -> None:
    good = to_record(detection(1, 1, (10, 10, 40, 40)))
    records = [good, MUTATIONS[name](to_record(detection(2, 2, (1, 2, 3, 4))))]
    path = tmp_path / "predictions.json"
    if prompted:
        categories = [{"id": n, "name": f"prompt {n}"} for n in (1, 2)]
        path.write_text(json.dumps({"categories": categories, "annotations": records}))
    else:
        path.write_text(json.dumps(records))
    with pytest.raises(DatasetError, match=r"predictions\.json: not COCO results.*predict again"):
        (read_prompted_detections if prompted else read_detections)(path, SPLIT)


@pytest.mark.parametrize("content", ["{", "null", "{}", '""', '{"annotations": []}', None])
def test_a_file_that_is_not_results_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "predictions.json"
    if content is not None:
        path.write_text(content)
    for read in (read_detections, read_prompted_detections):
        with pytest.raises(DatasetError, match="not COCO results"):
            read(path, SPLIT)


@pytest.mark.parametrize("change", [{"image_id": 99}, {"category_id": 99}])
def test_results_of_another_split_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    records = [to_record(detection(1, 1, (10, 10, 40, 40)))]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([*records, records[0] | change]))
    with pytest.raises(DatasetError, match=r"1 of 2 detections have an image.*test split"):
        read_detections(path, SPLIT)
    values = {"categories": [{"id": 1, "name": "horse"}], "annotations": [records[0] | change]}
    path.write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=r"not COCO results \(KeyError\(99\)\)"):
        read_prompted_detections(path, SPLIT)
