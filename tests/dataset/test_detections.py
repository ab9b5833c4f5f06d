"""Detections: their index, their file, and the refusal of records that cannot be scored."""

import json
import os
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
    "true_as_image": changed(image_id=True),
    "number_as_image": changed(image_id=1.0),
    "null_as_category": changed(category_id=None),
    "no_score": without("score"),
    "score_text": changed(score="high"),
    "score_true": changed(score=True),
    "score_negative": changed(score=-0.1),
    "score_above_one": changed(score=1.5),
    "score_huge": changed(score=10**400),
    "score_nan": changed(score=float("nan")),
    "score_infinite": changed(score=float("inf")),
    "no_box": without("bbox"),
    "short_box": changed(bbox=[1, 2, 3]),
    "long_box": changed(bbox=[1, 2, 3, 4, 5]),
    "box_text": changed(bbox=[1, 2, 3, "4"]),
    "box_huge": changed(bbox=[1, 2, 3, 10**400]),
    "box_far": changed(bbox=[1e300, 2, 3, 4]),
    "box_negative": changed(bbox=[1, 2, -3, 4]),
    "box_as_text": changed(bbox="1234"),
    "box_nan": changed(bbox=[1, 2, 3, float("nan")]),
    "no_mask": without("segmentation"),
    "polygon": changed(segmentation=[[1, 2, 9, 2, 9, 9]]),
    "no_size": changed(segmentation={"counts": "0"}),
    "other_size": changed_mask(size=[100, 99]),
    "no_counts": changed(segmentation={"size": [100, 100]}),
    "endless_run": changed_mask(counts="P" * 100_000),
    "letters": changed_mask(counts="å"),
    "list_as_mask": changed(segmentation=[]),
    "mask_as_text": changed(segmentation="0"),
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
    with pytest.raises(
        DatasetError, match=r"predictions\.json: detection 2: not COCO results.*predict again"
    ):
        (read_prompted_detections if prompted else read_detections)(path, SPLIT)


@pytest.mark.parametrize("content", ["{", "null", "{}", '""', '{"annotations": []}', None])
def test_a_file_that_is_not_results_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "predictions.json"
    if content is not None:
        path.write_text(content)
    for read in (read_detections, read_prompted_detections):
        with pytest.raises(DatasetError, match=r"not COCO results|cannot read the COCO results"):
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
    with pytest.raises(
        DatasetError, match=r"detection 1: not COCO results \((category|image) 99 is not known"
    ):
        read_prompted_detections(path, SPLIT)


NESTED = "[" * 200_000 + "]" * 200_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (NESTED.encode(), "nested too deeply"),
        (b'[{"image_id": 1, "image_id": 2}]', "'image_id' is a duplicate"),
        (b"\xff\xfe[\x00]\x00", "not UTF-8"),
        (b"[" + b"9" * 5000 + b"]", "cannot read the COCO results"),
    ],
)
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "predictions.json"
    path.write_bytes(content)
    for read in (read_detections, read_prompted_detections):
        with pytest.raises(DatasetError, match=message):
            read(path, SPLIT)


@pytest.mark.parametrize("name", ["\ud800", None, 3])
def test_the_name_of_a_prompt_must_be_text(tmp_path: Path, name: object) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({"categories": [{"id": 1, "name": name}], "annotations": []}))
    with pytest.raises(DatasetError, match=r"category 1: not COCO results .* is not text"):
        read_prompted_detections(path, SPLIT)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "predictions.json")
    with pytest.raises(DatasetError, match="it is a pipe"):
        read_detections(tmp_path / "predictions.json", SPLIT)
