"""Augmentation moves boxes and masks exactly; pycocotools finds the boxes of masks."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils
from torchvision.transforms.v2 import functional as v2

from segtune.dataset.batch import Sample
from segtune.training.augment import (
    MAX_BOX_NOISE,
    Augmentation,
    View,
    mirrored,
    padded,
    recolored,
)

SIDE = 48
Box = tuple[int, int, int, int]
COLOR_CHANGES = (v2.adjust_brightness, v2.adjust_contrast, v2.adjust_saturation)


def boxes() -> st.SearchStrategy[list[Box]]:
    edges = st.tuples(*[st.integers(0, SIDE - 1)] * 2).filter(lambda e: e[0] < e[1])
    box = st.tuples(edges, edges).map(lambda e: (e[0][0], e[1][0], e[0][1], e[1][1]))
    return st.lists(box, min_size=1, max_size=4)


def sample_of(corners: list[Box], side: int = SIDE) -> Sample:
    """Ellipses that touch the sides of their boxes; corners x0, y0, x1, y1 in pixels."""
    y, x = np.mgrid[:side, :side] + 0.5
    masks = np.stack(
        [
            ((x - (a + c) / 2) / (c - a)) ** 2 + ((y - (b + d) / 2) / (d - b)) ** 2 <= 0.25
            for a, b, c, d in corners
        ]
    )
    masks |= np.stack([_cross(a, b, c, d, side) for a, b, c, d in corners])
    xyxy = torch.tensor(corners, dtype=torch.float32) / side
    sizes = xyxy[:, 2:] - xyxy[:, :2]
    noise = torch.Generator().manual_seed(0)
    return Sample(
        name="a.jpg",
        image=torch.randint(256, (3, side, side), generator=noise).byte(),
        prompts=("thing", "nothing"),
        boxes_cxcywh=(torch.cat([xyxy[:, :2] + sizes / 2, sizes], 1), torch.zeros(0, 4)),
        masks=(torch.from_numpy(masks), torch.zeros(0, side, side, dtype=torch.bool)),
        has_mask=(torch.ones(len(corners), dtype=torch.bool), torch.zeros(0, dtype=torch.bool)),
    )


def _cross(a: int, b: int, c: int, d: int, side: int) -> Any:
    shape = np.zeros((side, side), bool)
    shape[(b + d) // 2, a:c] = True
    shape[b:d, (a + c) // 2] = True
    return shape


def bbox_by_pycocotools(mask: torch.Tensor) -> list[float]:
    rle = mask_utils.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return list(mask_utils.toBbox(rle))


def require_boxes_around_masks(sample: Sample) -> None:
    side = sample.image.shape[-1]
    for found, masks in zip(sample.boxes_cxcywh, sample.masks, strict=True):
        for box, mask in zip(found, masks, strict=True):
            x, y, width, height = bbox_by_pycocotools(mask)
            expected = [x + width / 2, y + height / 2, width, height]
            assert (box * side).tolist() == pytest.approx(expected, abs=1e-3)


@settings(max_examples=80, deadline=None)
@given(corners=boxes(), grown=st.integers(SIDE, 2 * SIDE), seed=st.integers(0, 99))
def test_boxes_stay_around_their_masks(corners: list[Box], grown: int, seed: int) -> None:
    sample = sample_of(corners)
    require_boxes_around_masks(sample)
    augmentation = Augmentation(horizontal_flip=True, min_scale=0.5, color_jitter=0.3)
    augmented = augmentation.augmented(
        sample, grown, mirror=seed % 2 == 0, rng=np.random.default_rng(seed)
    )
    assert augmented.image.shape == (3, grown, grown)
    require_boxes_around_masks(augmented)
    areas = [mask_utils.area(mask_utils.encode(np.asfortranarray(m.numpy().astype(np.uint8))))
             for s in (sample, augmented) for m in s.masks[0]]  # fmt: skip
    assert areas[: len(corners)] == areas[len(corners) :]


@settings(max_examples=30, deadline=None)
@given(corners=boxes())
def test_mirroring_twice_changes_nothing(corners: list[Box]) -> None:
    sample = sample_of(corners)
    again = mirrored(mirrored(sample))
    assert torch.equal(mirrored(sample).image, sample.image.flip(-1))
    assert torch.equal(again.image, sample.image)
    assert torch.equal(again.masks[0], sample.masks[0])
    torch.testing.assert_close(again.boxes_cxcywh, sample.boxes_cxcywh)


def test_half_of_the_images_are_mirrored() -> None:
    flips = Augmentation(horizontal_flip=True)
    views = [drawn_view(flips, number) for number in range(40)]
    assert 10 <= sum(view.mirrored for view in views) <= 30
    assert not any(drawn_view(Augmentation(), number).mirrored for number in range(40))
    sample = sample_of([(3, 5, 20, 9)])
    for mirror, expected in ((True, mirrored(sample)), (False, sample)):
        found = flips.augmented(sample, SIDE, mirror=mirror, rng=np.random.default_rng(0))
        assert torch.equal(found.image, expected.image)


def drawn_view(augmentation: Augmentation, number: int) -> View:
    rng = np.random.default_rng(number)
    return augmentation.drawn_view("a.jpg", 1008, seed=0, rng=rng)


def test_padding_is_black_at_the_right_and_bottom() -> None:
    sample = sample_of([(3, 5, 20, 9)])
    grown = padded(sample, 60)
    assert torch.equal(grown.image[:, :SIDE, :SIDE], sample.image)
    assert not grown.image[:, SIDE:].any()
    assert not grown.image[:, :, SIDE:].any()


def test_sides_are_drawn_between_the_minimum_scale_and_the_input() -> None:
    scaled = Augmentation(min_scale=480 / 1008)
    sides = {drawn_view(scaled, number).side for number in range(4000)}
    assert min(sides) == 480
    assert max(sides) == 1008
    assert len(sides) > 490
    assert drawn_view(Augmentation(), 0).side == 1008


def test_with_fixed_scales_only_these_are_drawn() -> None:
    fixed = Augmentation(horizontal_flip=True, min_scale=0.5, scale_views=3)
    drawn = {drawn_view(fixed, number) for number in range(200)}
    assert drawn == set(fixed.views("a.jpg", 1008, seed=0))
    assert len(drawn) == 6


def test_colors_are_multiplied() -> None:
    sample = sample_of([(3, 5, 20, 9)])
    brighter = recolored(sample, np.array([1.2, 1.0, 1.0]))
    expected = (sample.image.double() * 1.2).clamp(0, 255)
    assert brighter.image.dtype == torch.uint8
    assert (brighter.image - expected).abs().max() <= 0.5 + 1e-4
    gray = recolored(sample, np.array([1.0, 1.0, 0.0])).image
    assert torch.equal(gray[0], gray[1])
    flat = recolored(sample, np.array([1.0, 0.0, 1.0])).image
    assert flat.unique().numel() == 1
    assert torch.equal(brighter.masks[0], sample.masks[0])
    assert torch.equal(recolored(sample, np.ones(3)).image, sample.image)


def test_colors_are_rounded_once_after_all_changes() -> None:
    sample, factors = sample_of([(3, 5, 20, 9)]), (1.1, 0.8, 1.3)
    pixels = sample.image.float() / 255
    for factor, change in zip(factors, COLOR_CHANGES, strict=True):
        pixels = change(pixels, factor)
    found = recolored(sample, np.array(factors)).image
    assert (found - 255 * pixels).abs().max() <= 0.5 + 1e-4


@settings(max_examples=60, deadline=None)
@given(corners=boxes(), seed=st.integers(0, 99), deviation=st.floats(0.01, 0.9))
def test_noisy_boxes_stay_boxes(corners: list[Box], seed: int, deviation: float) -> None:
    sample = sample_of(corners)
    noisy = Augmentation(box_noise=deviation).augmented(
        sample, SIDE, mirror=False, rng=np.random.default_rng(seed)
    )
    before, after = (_xyxy(s.boxes_cxcywh[0]) for s in (sample, noisy))
    assert not torch.equal(before, after)
    assert ((after >= 0) & (after <= 1)).all()
    assert (after[:, 2:] > after[:, :2]).all()
    assert (after - before).abs().max() <= MAX_BOX_NOISE + 1e-6
    assert torch.equal(noisy.masks[0], sample.masks[0])


def _xyxy(boxes_cxcywh: torch.Tensor) -> torch.Tensor:
    centers, sizes = boxes_cxcywh.split(2, -1)
    return torch.cat([centers - sizes / 2, centers + sizes / 2], -1)
