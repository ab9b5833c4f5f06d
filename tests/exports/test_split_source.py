"""What the readers of all formats share."""

from pathlib import Path

import pytest
from PIL import Image

from segtune.core.errors import ExportError
from segtune.exports.files import image_files, mentions
from segtune.exports.split_source import images_from_files


@pytest.mark.parametrize("before", [0, 1, 2**20 - 4, 2**20, 2**21 - 1])
def test_a_word_is_found_wherever_it_is(tmp_path: Path, before: int) -> None:
    path = tmp_path / "large.json"
    path.write_bytes(b" " * before + b'"images"' + b" " * 9)
    assert mentions(path, b'"images"', b'"categories"')
    assert not mentions(path, b'"image"', b'"categories"')


def test_images_have_the_sizes_of_their_headers(tmp_path: Path) -> None:
    for name, size in (("b.png", (3, 4)), ("a.jpg", (5, 6)), ("._a.jpg", (1, 1))):
        Image.new("RGB", size).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    images = images_from_files(image_files(tmp_path))
    assert [(i.id, i.file_name, i.width, i.height) for i in images] == [
        (0, "a.jpg", 5, 6),
        (1, "b.png", 3, 4),
    ]


def test_files_that_differ_only_in_their_suffix_are_refused(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        Image.new("RGB", (3, 4)).save(tmp_path / name)
    with pytest.raises(ExportError, match=r"a\.jpg and a\.png differ only in their suffix"):
        image_files(tmp_path)
