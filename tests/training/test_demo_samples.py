"""Samples of the demo are bitwise those of the plain way: whole masks, whole images, floats."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as transforms

from segtune.dataset.batch import load_image, normalized
from segtune.dataset.coco import Annotation, Split, read_split
from segtune.dataset.coco import Image as CocoImage
from segtune.dataset.masks import segmentation_to_mask
from segtune.training.augment import Augmentation
from segtune.training.prompted_images import PromptedImages
from tests.conversion import convert

DEMO = Path(__file__).parents[2] / "data/demo"
IMAGES = 40


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Split:
    coco = tmp_path_factory.mktemp("demo")
    convert(DEMO, coco)
    return read_split(coco / "train.json")


def pixels(path: Path, side: int) -> torch.Tensor:
    with Image.open(path) as image:
        whole = transforms.pil_to_tensor(ImageOps.exif_transpose(image).convert("RGB"))
    return (transforms.resize(whole, [side, side], antialias=True).float() / 255 - 0.5) / 0.5


def masks(objects: list[Annotation], image: CocoImage, side: int) -> torch.Tensor:
    size = (image.height, image.width)
    drawn = [
        torch.from_numpy(segmentation_to_mask(a.segmentation, *size))
        if a.segmentation
        else torch.zeros(size, dtype=torch.uint8)
        for a in objects
    ]
    planes = torch.stack(drawn).float()[None]
    return F.interpolate(planes, (side, side), mode="bilinear", antialias=True)[0] >= 0.5


@pytest.mark.parametrize("side", [70, 96, 240])
def test_samples_are_those_of_the_plain_way(demo: Split, side: int) -> None:
    data = PromptedImages(
        demo,
        image_size=side,
        max_negatives=2,
        extra_negatives=(),
        augmentation=Augmentation(),
        seed=0,
    )
    compared = 0
    for image in data.images[:IMAGES]:
        sample = data.sample(image, data.negatives(image)[:2], side)
        expected = pixels(demo.image_path(image), side)
        assert torch.equal(normalized(sample.image), expected)
        assert torch.equal(normalized(load_image(demo.image_path(image), side)[0]), expected)
        names = {category.prompt: category.id for category in demo.categories}
        for prompt, found in zip(sample.prompts, sample.masks, strict=True):
            objects = [a for a in demo.annotations[image.id] if a.category_id == names[prompt]]
            assert len(found) == len(objects)
            if objects:
                assert torch.equal(found, masks(objects, image, side))
                compared += len(objects)
    assert compared > IMAGES / 2
