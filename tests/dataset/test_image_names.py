"""Names of images below a folder, and lists of them."""

from pathlib import Path

import pytest

from segtune.core.errors import DatasetError
from segtune.dataset.image_names import (
    image_names,
    is_image_name,
    names_fingerprint,
    read_list,
    sort_key,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("b/A.JPEG", True),
        ("c.tif", True),
        ("d.webp", True),
        ("._a.jpg", False),
        ("jpg", False),
        ("a.txt", False),
        ("a.jpg.json", False),
    ],
)
def test_images_are_known_by_their_suffix(name: str, expected: bool) -> None:
    assert is_image_name(Path(name)) is expected


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_are_found_in_subfolders_and_sorted_as_paths_are(tmp_path: Path) -> None:
    names = ("a-b/1.jpg", "a/2.PNG", "a/b/3.webp", "a.jpg", "ä.tif", "b.png/4.bmp")
    write_images(tmp_path, *names, "._a.jpg", "notes.txt")
    found = sorted(image_names(tmp_path, setting="x"), key=sort_key)
    paths = sorted(path.relative_to(tmp_path) for path in map(tmp_path.joinpath, names))
    assert found == [path.as_posix() for path in paths]


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    write_images(tmp_path, "photos/a.jpg")
    (tmp_path / "photos" / "up").symlink_to(tmp_path)
    assert [*image_names(tmp_path / "photos", setting="x")] == ["a.jpg"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: cannot read the folder .* Check label\.x"):
        list(image_names(tmp_path / "nowhere", setting="label.x"))


def test_the_fingerprint_is_of_names_in_any_order(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_images(photos, "a.jpg", "b/c.jpg")
    before = names_fingerprint(photos, setting="x")
    assert before.startswith(f"{photos}@") and before.endswith(" (2 images)")
    (photos / "a.jpg").write_text("edited")
    write_images(photos, "notes.txt")
    assert names_fingerprint(photos, setting="x") == before
    (photos / "a.jpg").rename(photos / "d.jpg")
    assert names_fingerprint(photos, setting="x") != before


def test_a_list_has_names_as_the_file_system_has_them(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a b.jpg\nb/\xffc.jpg\r\n\xc3\xa4.jpg\n")
    assert read_list(tmp_path / "list.txt") == ["a b.jpg", "b/\udcffc.jpg", "ä.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no images in this list"),
        ("a.jpg\n\n", "line 2: '' is not the path of an image below"),
        ("/a.jpg\n", "line 1: '/a.jpg' is not the path of an image below"),
        ("a/../../b.jpg\n", r"line 1: 'a/../../b.jpg' is not the path"),
    ],
)
def test_a_list_that_leads_elsewhere_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_list(tmp_path / "list.txt")
