"""The tiny model's source domain, and the shipped weights."""

import numpy as np
import pytest
import torch

from pretraining.shapes import training_sample
from pretraining.train_tiny import measure
from segtune.dataset.drawn_shapes import EVERYTHING, SIDE, WORDS, draw_scene
from segtune.model.weight_files import TINY_WEIGHTS
from segtune.model.weights import load_base_model


def test_an_image_depends_only_on_its_seed_and_number() -> None:
    one, same, other = training_sample(3, 7), training_sample(3, 7), training_sample(3, 8)
    assert torch.equal(one.image, same.image)
    assert one.prompts == same.prompts
    assert not torch.equal(one.image, other.image)


def test_prompts_have_the_objects_that_they_name_and_no_others() -> None:
    for number in range(40):
        sample = training_sample(0, number)
        assert len(sample.prompts) == len(set(sample.prompts)) == 4
        assert sample.prompts[0] == EVERYTHING
        assert set(sample.prompts) <= set(WORDS)
        assert len(sample.boxes_cxcywh[-1]) == 0 or len(sample.boxes_cxcywh[0]) > 0
        everything = sample.masks[0].sum(0)
        assert everything.max() <= 1  # masks do not overlap
        for boxes, masks in zip(sample.boxes_cxcywh, sample.masks, strict=True):
            assert len(boxes) == len(masks)
            assert (masks.sum(0) <= everything).all()
            for (cx, cy, w, h), mask in zip((boxes * SIDE).tolist(), masks, strict=True):
                rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
                assert cx - w / 2 == pytest.approx(columns.min().item(), abs=1e-3)
                assert cx + w / 2 == pytest.approx(columns.max().item() + 1, abs=1e-3)
                assert cy - h / 2 == pytest.approx(rows.min().item(), abs=1e-3)
                assert cy + h / 2 == pytest.approx(rows.max().item() + 1, abs=1e-3)


def test_every_image_has_a_negative_prompt() -> None:
    for number in range(40):
        sample = training_sample(1, number)
        assert any(len(boxes) == 0 for boxes in sample.boxes_cxcywh)


def test_some_images_are_empty() -> None:
    shapes = [len(draw_scene(np.random.default_rng(seed)).shapes) for seed in range(200)]
    assert 0 < shapes.count(0) < 30
    assert max(shapes) == 3


def test_the_shipped_weights_are_small_and_accurate() -> None:
    assert TINY_WEIGHTS.stat().st_size < 8_000_000
    found = measure(load_base_model("tiny", "default"), torch.device("cpu"), images=60)
    # On 200 images 0.659 and 0.052: see src/segtune/model/tiny.md.
    assert found["mask_AP"] >= 0.55
    assert found["false_alarms"] <= 0.10
