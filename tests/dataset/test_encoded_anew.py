"""Recognizing images in another encoding, among real photographs."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image as PilImage
from PIL import ImageOps

from segtune.dataset.coco import Image, Split
from segtune.dataset.encoded_anew import recognized
from segtune.dataset.image_pairs import Dataset

PHOTOS = sorted((Path(__file__).parents[2] / "data/demo/test").glob("*.jpg"))[:6]


def dataset(folder: Path, images: Mapping[str, PilImage.Image], quality: int = 90) -> Dataset:
    """Images as JPEG files, all in one split."""
    folder.mkdir(exist_ok=True)
    digests, records = {}, []
    for number, (name, image) in enumerate(images.items(), start=1):
        image.save(folder / name, "JPEG", quality=quality)
        digests[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        records.append(Image(number, name, *image.size))
    split = Split("test", folder, (), tuple(records), {image.id: () for image in records})
    return Dataset({"test": split}, digests)


def photo(number: int) -> PilImage.Image:
    with PilImage.open(PHOTOS[number]) as image:
        return image.convert("RGB")


def names(known: Dataset, new: Dataset) -> dict[str, str]:
    """The recognized images, each with the name of the one that it is."""
    by_digest = {digest: name for name, digest in known.digests.items()}
    found = recognized(new, known).recognized
    return {name: by_digest[digest] for name, digest in found.items()}


def test_another_encoding_is_recognized_by_content_among_equal_names(tmp_path: Path) -> None:
    old = dataset(tmp_path / "old", {f"a_jpg.rf.{n}.jpg": photo(n) for n in range(6)})
    places = {f"a_jpg.rf.{n}f.jpg": photo(n) for n in (4, 2, 5)}
    new = dataset(tmp_path / "new", places, quality=60)
    assert names(old, new) == {f"a_jpg.rf.{n}f.jpg": f"a_jpg.rf.{n}.jpg" for n in (4, 2, 5)}
    once = recognized(new, old)
    assert recognized(once, old) is once  # nothing is left to be compared


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("b_jpg.rf.1.jpg", lambda image: image),
        ("a_jpg.rf.1.jpg", ImageOps.mirror),
        ("a_jpg.rf.1.jpg", ImageOps.flip),
        ("a_jpg.rf.1.jpg", lambda image: image.resize((image.width // 2, image.height // 2))),
        ("a_jpg.rf.1.jpg", lambda image: photo(1)),
        ("a_jpg.rf.1.jpg", lambda image: PilImage.new("RGB", image.size)),
        ("a_jpg.rf.1.jpg", lambda image: image.convert("L").convert("RGB")),
        ("a_jpg.rf.1.jpg", lambda image: with_something_else(image)),
    ],
)
def test_other_images_are_not(
    tmp_path: Path, name: str, change: Callable[[PilImage.Image], PilImage.Image]
) -> None:
    old = dataset(tmp_path / "old", {"a_jpg.rf.0.jpg": photo(0)})
    new = dataset(tmp_path / "new", {name: change(photo(0))}, quality=60)
    assert names(old, new) == {}


def with_something_else(image: PilImage.Image) -> PilImage.Image:
    """The image with another object of 6 pixels."""
    image.paste((255, 0, 255), (0, image.height // 2, 6, image.height // 2 + 6))
    return image


def test_each_image_is_recognized_once(tmp_path: Path) -> None:
    old = dataset(tmp_path / "old", {"a.jpg": photo(0)})
    twins = {"a.rf.1.jpg": photo(0), "a.rf.2.jpg": photo(0)}
    assert len(names(old, dataset(tmp_path / "new", twins, quality=60))) == 1


@pytest.mark.parametrize("name", ["a.jpg", "photos/a.jpg", "a_jpg.jpg", "a_jpg.rf.0123abcd.jpg"])
def test_other_formats_have_other_names(tmp_path: Path, name: str) -> None:
    old = dataset(tmp_path / "old", {"a_jpg.rf.0.jpg": photo(0)})
    (tmp_path / "new" / name).parent.mkdir(parents=True)
    new = dataset(tmp_path / "new", {name: photo(0)}, quality=60)
    assert names(old, new) == {name: "a_jpg.rf.0.jpg"}


def test_a_file_that_was_overwritten_later_is_not_recognized(tmp_path: Path) -> None:
    """Both datasets were converted from one folder, whose images were replaced in between."""
    old = dataset(tmp_path / "export", {"a.jpg": photo(0)})
    new = dataset(tmp_path / "export", {"a.jpg": photo(1)})
    assert old.digests != new.digests
    assert names(old, new) == {}


def test_files_that_are_gone_are_not_recognized(tmp_path: Path) -> None:
    old = dataset(tmp_path / "old", {"a.jpg": photo(0), "b.jpg": photo(1)})
    new = dataset(tmp_path / "new", {"a.jpg": photo(0), "b.jpg": photo(1)}, quality=60)
    (tmp_path / "old" / "a.jpg").unlink()
    assert names(old, new) == {"b.jpg": "b.jpg"}
