"""Predictions: in the image's pixels, whatever else is predicted in the same pass."""

from pathlib import Path

import pytest
import torch

from segtune.core.config import PredictSettings
from segtune.dataset.coco import read_split
from segtune.dataset.detections import Detection
from segtune.dataset.masks import segmentation_to_mask
from segtune.model.architecture import build_model
from segtune.model.inference import predict_images
from tests.converted import SIDE, write_converted
from tests.prompted_image import detections

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_converted(tmp_path_factory.mktemp("converted"))


def test_predictions_are_in_the_pixels_of_the_original_image(coco: Path) -> None:
    found = detections(coco, ["disc", "square"])
    assert [d.category_id for d in found] == [0] * 12 + [1] * 12
    for detection in found:
        assert detection.rle["size"] == [SIDE, SIDE]
        assert segmentation_to_mask(detection.rle, SIDE, SIDE).shape == (SIDE, SIDE)
        x, y, w, h = detection.bbox_xywh
        assert -SIDE < x < SIDE and -SIDE < y < SIDE
        assert 0 < w <= SIDE and 0 < h <= SIDE


def test_predictions_do_not_depend_on_the_grouping_of_prompts(coco: Path) -> None:
    prompts = ["disc", "square", "cross"]
    together, apart = detections(coco, prompts), detections(coco, prompts, prompts_per_pass=1)
    for one, other in zip(together, apart, strict=True):
        assert one.category_id == other.category_id
        require_equal(one, other)


def require_equal(one: Detection, other: Detection) -> None:
    assert one.score == pytest.approx(other.score, abs=1e-5)
    assert one.bbox_xywh == pytest.approx(other.bbox_xywh, abs=1e-2)


def test_an_image_is_prompted_only_with_its_own_prompts(coco: Path) -> None:
    own = ["cross", "disc"]
    texts = ["disc", "a longer text of other images", "cross", "square"]
    alone, among_others = detections(coco, own), detections(coco, own, texts=texts)
    assert [own[d.category_id] for d in alone] == [texts[d.category_id] for d in among_others]
    for one, other in zip(alone, among_others, strict=True):
        require_equal(one, other)


def test_every_category_is_prompted_in_every_image(coco: Path) -> None:
    split = read_split(coco / "test.json")
    predictions = predict_images(
        build_model("tiny"),
        split,
        split.images[:2],
        image_size=96,
        device=CPU,
        settings=PredictSettings(confidence_threshold=0.0),
    )
    found = dict(predictions)
    assert list(found) == [1, 2]
    for image_id, in_image in found.items():
        assert {d.image_id for d in in_image} == {image_id}
        assert {d.category_id for d in in_image} == {1, 2, 3}
