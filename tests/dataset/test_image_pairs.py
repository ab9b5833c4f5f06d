"""Pairing the images of two datasets by content."""

from pathlib import Path

from segtune.dataset.coco import SPLITS, Image, Split
from segtune.dataset.image_pairs import Dataset, Place, pair_images


def dataset(**names: list[tuple[str, str]]) -> Dataset:
    """Splits of images, each a file name and a content."""
    splits = {}
    for split in SPLITS:
        found = names.get(split, [])
        images = tuple(Image(n, name, 8, 8) for n, (name, _) in enumerate(found, start=1))
        splits[split] = Split(split, Path(), (), images, {image.id: () for image in images})
    return Dataset(splits, {name: content for found in names.values() for name, content in found})


def named(place: Place) -> str:
    return f"{place.split}:{place.image.file_name}"


def test_images_are_the_same_by_content_whatever_their_names() -> None:
    before = dataset(train=[("a.png", "A"), ("b.png", "B")], test=[("c.png", "C")])
    after = dataset(train=[("c2.png", "C"), ("x.png", "A")], valid=[("d.png", "D")])
    found = pair_images(before, after)
    assert {(named(p.before), named(p.after)) for p in found.same} == {
        ("train:a.png", "train:x.png"),
        ("test:c.png", "train:c2.png"),
    }
    assert [named(place) for place in found.removed] == ["train:b.png"]
    assert [named(place) for place in found.added] == ["valid:d.png"]
    assert not found.replaced
    assert [p.is_in("train") for p in found.same] == [True, False]


def test_another_file_of_the_same_name_has_replaced_it() -> None:
    before = dataset(test=[("a_png.rf.0123.png", "A"), ("b.png", "B")])
    after = dataset(test=[("a_png.rf.4567.png", "A2")], train=[("b.png", "B2")])
    found = pair_images(before, after)
    assert not found.same
    assert [(named(p.before), named(p.after)) for p in found.replaced] == [
        ("test:a_png.rf.0123.png", "test:a_png.rf.4567.png")
    ]
    assert [named(place) for place in found.removed] == ["test:b.png"]  # in another split
    assert [named(place) for place in found.added] == ["train:b.png"]


def test_an_image_that_is_there_several_times_is_paired_as_often_as_both_have_it() -> None:
    before = dataset(train=[("a.png", "A"), ("b.png", "A")], valid=[("c.png", "A")])
    after = dataset(train=[("d.png", "A")], valid=[("e.png", "A")])
    found = pair_images(before, after)
    assert [(named(p.before), named(p.after)) for p in found.same] == [
        ("train:a.png", "train:d.png"),
        ("valid:c.png", "valid:e.png"),
    ]
    assert [named(place) for place in found.removed] == ["train:b.png"]
