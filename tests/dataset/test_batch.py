"""Images as the model sees them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from segtune.dataset.batch import load_image, normalized
from segtune.model.architecture import ARCHITECTURES


@pytest.mark.parametrize("height_width", [(50, 70), (300, 130), (96, 96)])
def test_an_image_is_prepared_as_by_the_official_processor(
    tmp_path: Path, height_width: tuple[int, int]
) -> None:
    from sam3.model.sam3_image_processor import Sam3Processor  # warns unless imported by segtune

    pixels = np.random.default_rng(0).integers(0, 255, (*height_width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    side = ARCHITECTURES["tiny"].image_size
    stock = Sam3Processor(model=None, resolution=side, device="cpu").transform
    expected = stock(v2.functional.to_image(Image.open(tmp_path / "image.png")))
    prepared, size = load_image(tmp_path / "image.png", side)
    assert size == height_width
    torch.testing.assert_close(normalized(prepared), expected, rtol=0, atol=1e-6)


def test_grayscale_and_transparent_images_have_three_channels(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (8, 8)).save(tmp_path / "image.png")
        assert load_image(tmp_path / "image.png", 96)[0].shape == (3, 96, 96)
