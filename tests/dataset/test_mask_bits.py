"""Packed masks become the same run lengths as masks."""

import pytest
import torch

from segtune.dataset.mask_bits import packed_columns, packed_to_rles
from segtune.dataset.masks import mask_to_rle


@pytest.mark.parametrize("size", [(64, 96), (1, 1), (3, 5), (13, 9), (17, 1), (255, 40)])
def test_packed_masks_have_the_run_lengths_of_masks(size: tuple[int, int]) -> None:
    masks = torch.rand(5, *size, generator=torch.Generator().manual_seed(0)) > 0.5
    masks[0], masks[1] = False, True
    bits = packed_columns(masks.transpose(1, 2))
    assert bits.nbytes == 5 * size[1] * -(-size[0] // 8)
    assert packed_to_rles(bits, size[0]) == [mask_to_rle(mask.numpy()) for mask in masks]
