"""Vectors of images: what the neck makes of them, from the encoding that is needed anyway."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from segtune.core.config import PredictSettings
from segtune.dataset.batch import load_image
from segtune.dataset.coco import Split, read_split
from segtune.dataset.tiles import Tiles
from segtune.model import image_features, inference
from segtune.model.forward import encode_images, evaluating
from segtune.model.image_features import Described, described_images
from segtune.model.inference import predict_images
from segtune.model.sam3_package import Sam3Image
from segtune.model.tiled_inference import prepared_windows
from segtune.model.weights import load_base_model
from tests.converted import write_converted

CPU = torch.device("cpu")
SETTINGS = PredictSettings(confidence_threshold=0.05)


@pytest.fixture(scope="module")
def test_split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return read_split(write_converted(tmp_path_factory.mktemp("converted")) / "test.json")


@pytest.fixture(scope="module")
def model() -> Sam3Image:
    return load_base_model("tiny", "default")


def described(model: Sam3Image, split: Split) -> list[Described]:
    found = described_images(
        model, split, split.images, image_size=96, device=CPU, settings=SETTINGS
    )
    return list(found)


def mean_of_the_neck(model: Sam3Image, path: Path) -> torch.Tensor:
    pixels, _ = load_image(path, 96)
    with evaluating(model), torch.inference_mode():
        features = encode_images(model, pixels[None])["vision_features"]  # (1, C, h, w)
    return F.normalize(features[0].flatten(1).mean(1), dim=0)


def test_a_vector_is_the_mean_of_what_is_prompted(model: Sam3Image, test_split: Split) -> None:
    for (number, vector, _), image in zip(
        described(model, test_split), test_split.images, strict=True
    ):
        assert number == image.id
        expected = mean_of_the_neck(model, test_split.image_path(image))
        assert vector == pytest.approx(expected.tolist(), abs=1e-5)


def test_detections_are_those_of_a_prediction(model: Sam3Image, test_split: Split) -> None:
    predicted = predict_images(
        model, test_split, test_split.images, image_size=96, device=CPU, settings=SETTINGS
    )
    assert [(n, found) for n, _, found in described(model, test_split)] == list(predicted)


def test_each_image_is_encoded_once(
    model: Sam3Image, test_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []

    def counted(model: Sam3Image, images: torch.Tensor) -> Any:
        encoded.append(len(images))
        return encode_images(model, images)

    monkeypatch.setattr(inference, "encode_images", counted)
    monkeypatch.setattr(image_features, "encode_images", counted)
    assert len(described(model, test_split)) == sum(encoded) == 4


def test_without_classes_the_vectors_are_the_same(model: Sam3Image, test_split: Split) -> None:
    plain = described(model, replace(test_split, categories=()))
    assert [found for _, _, found in plain] == [[]] * 4
    assert [one[:2] for one in plain] == [one[:2] for one in described(model, test_split)]


def test_in_tiles_a_vector_is_the_mean_over_the_own_ones(
    model: Sam3Image, test_split: Split
) -> None:
    tiles = Tiles(side=40, overlap=0.25)
    found = described_images(
        model, test_split, test_split.images, image_size=96, device=CPU, settings=SETTINGS,
        tiles=tiles,
    )  # fmt: skip
    for (_, vector, _), image in zip([*found], test_split.images, strict=True):
        means = []
        for window in prepared_windows(test_split, image, tiles, 96):
            with evaluating(model), torch.inference_mode():
                features = encode_images(model, window.pixels[None])["vision_features"]
            means.append(features[0].flatten(1).mean(1))
        assert len(means) == 4
        assert vector == pytest.approx(F.normalize(sum(means), dim=0).tolist(), abs=1e-5)


def test_nobody_listens_afterward(model: Sam3Image, test_split: Split) -> None:
    before = [len(module._forward_hooks) for module in model.modules()]
    next(
        described_images(
            model, test_split, test_split.images, image_size=96, device=CPU, settings=SETTINGS
        )
    )
    described(model, test_split)
    assert [len(module._forward_hooks) for module in model.modules()] == before
