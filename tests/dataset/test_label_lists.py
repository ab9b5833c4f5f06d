"""Lists of images to label: what is listed once stays in its list."""

import random
from pathlib import Path

import pytest

from segtune.core.errors import DatasetError
from segtune.dataset.image_names import read_list, sort_key
from segtune.dataset.label_lists import ImageList, read_index, update_lists

SIZE = 4  # images of a list


def lists_of(folder: Path) -> dict[str, list[str]]:
    return {path.stem: read_list(path) for path in sorted((folder / "lists").glob("*"))}


def states_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Of each list file, what a write would change."""
    found = {path.stem: path.stat() for path in (folder / "lists").glob("*")}
    return {name: (file.st_ino, file.st_mtime_ns) for name, file in found.items()}


def update(tmp_path: Path, names: set[str], size: int = SIZE) -> dict[str, list[str]]:
    """Have exactly these images in the folder, and list them."""
    photos = tmp_path / "photos"
    there = {path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg")}
    for name in there - names:
        (photos / name).unlink()
    for name in names - there:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).touch()
    index = update_lists(tmp_path / "label", photos, size=size)
    found = lists_of(tmp_path / "label")
    assert index == [ImageList(name, len(images)) for name, images in found.items()]
    assert read_index(tmp_path / "label" / "lists.json") == index
    return found


def test_images_are_listed_in_order(tmp_path: Path) -> None:
    found = update(tmp_path, {"b.jpg", "a/z.jpg", "a-/y.jpg", "c.jpg", "ä b.jpg"}, size=2)
    assert found == {
        "0000": ["a/z.jpg", "a-/y.jpg"],
        "0001": ["b.jpg", "c.jpg"],
        "0002": ["ä b.jpg"],
    }


def test_whatever_comes_and_goes_an_image_stays_in_its_list(tmp_path: Path) -> None:
    draw = random.Random(0)
    names = [f"{draw.choice(['', 'a/', 'a-b/'])}{number}.jpg" for number in range(40)]
    lists: dict[str, list[str]] = {}
    for _ in range(15):
        present = set(draw.sample(names, draw.randint(1, len(names))))
        states = states_of(tmp_path / "label")
        before, lists = lists, update(tmp_path, present)
        assert sorted(name for listed in lists.values() for name in listed) == sorted(present)
        listed_before = {name for listed in before.values() for name in listed}
        for name, images in lists.items():
            if set(images) <= listed_before:
                assert images == [image for image in before[name] if image in present]
            else:
                assert not set(images) & listed_before
                assert len(images) <= SIZE and images == sorted(images, key=sort_key)
        after = states_of(tmp_path / "label")
        for name in before.keys() & lists.keys():
            assert (states[name] == after[name]) == (before[name] == lists[name])


def test_a_new_image_gets_a_list_of_its_own(tmp_path: Path) -> None:
    update(tmp_path, {"a.jpg", "b.jpg"})
    assert update(tmp_path, {"a.jpg", "aa.jpg", "b.jpg"})["0001"] == ["aa.jpg"]


def test_another_size_is_that_of_new_lists(tmp_path: Path) -> None:
    update(tmp_path, {"a.jpg", "b.jpg"})
    found = update(tmp_path, {"a.jpg", "b.jpg", "c.jpg", "d.jpg"}, size=1)
    assert found == {"0000": ["a.jpg", "b.jpg"], "0001": ["c.jpg"], "0002": ["d.jpg"]}


def test_lists_of_a_killed_process_are_taken_over(tmp_path: Path) -> None:
    # It had not written the index, and not all lists.
    names = {f"{number}.jpg" for number in range(6)}
    before = update(tmp_path, names)
    (tmp_path / "label" / "lists.json").unlink()
    (tmp_path / "label" / "lists" / "0001.txt").unlink()
    assert update(tmp_path, names) == before


def test_an_image_in_two_lists_stays_in_the_first(tmp_path: Path) -> None:
    before = update(tmp_path, {"a.jpg", "b.jpg"})
    (tmp_path / "label" / "lists" / "0001.txt").write_text("b.jpg\n")
    assert update(tmp_path, {"a.jpg", "b.jpg"}) == before


def test_without_images_the_lists_stay(tmp_path: Path) -> None:
    # The disk with the images may not be there.
    before = update(tmp_path, {"a.jpg", "b.jpg"})
    for path in (tmp_path / "photos").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="no images in this folder"):
        update_lists(tmp_path / "label", tmp_path / "photos", size=SIZE)
    assert lists_of(tmp_path / "label") == before


def test_a_name_of_two_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a\nb.jpg").touch()
    with pytest.raises(DatasetError, match=r"'a\\nb.jpg' has a line break"):
        update_lists(tmp_path / "label", tmp_path / "photos", size=SIZE)
    assert not (tmp_path / "label").exists()
