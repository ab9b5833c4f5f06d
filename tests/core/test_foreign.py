"""Files from outside: read, or one error that names the file; never a wait, never a traceback."""

import os
import time
from pathlib import Path

import pytest

from segtune.core.errors import DatasetError
from segtune.core.foreign import read_bytes, read_json, read_text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"Expecting property name"),
        ('{"a": 1}'.encode("utf-16"), r"not UTF-8 text: byte 0xff at position 0"),
        (b'{"caf\xe9": 1}', r"not UTF-8 text: byte 0xe9 at position 5"),
        (b"[" * 100_000, r"nested too deeply"),
        (b'{"a":' * 100_000, r"nested too deeply"),
        (b"9" * 5000, r"limit"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', r"the key 'c' is a duplicate"),
    ],
)
def test_what_is_not_json_is_one_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.json: cannot read the JSON \(.*{message}.*Fix"):
        read_json(path, DatasetError, "Fix it")


def test_a_byte_order_mark_is_not_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"ä": [1]}', "utf-8-sig")
    assert read_json(path, DatasetError, "Fix it") == {"ä": [1]}
    assert read_text(path, DatasetError, "Fix it") == '{"ä": [1]}'


@pytest.mark.timeout(20)
def test_a_late_duplicate_among_many_keys_takes_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{" + ",".join(f'"{n}": 1' for n in [*range(100_000), 99_999]) + "}")
    began = time.monotonic()
    with pytest.raises(DatasetError, match="the key '99999' is a duplicate"):
        read_json(path, DatasetError, "Fix it")
    assert time.monotonic() - began < 5


class Endless(bytes):
    def decode(self, *arguments: object) -> str:
        raise MemoryError


def test_a_text_that_does_not_fit_the_memory_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").touch()
    monkeypatch.setattr(Path, "read_bytes", lambda path: Endless())
    with pytest.raises(DatasetError, match=r"a\.json: .* \(too large for the memory\)"):
        read_json(tmp_path / "a.json", DatasetError, "Fix it")


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pipe, "it is a pipe"),
        (Path.mkdir, "it is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        (lambda path: path.symlink_to("gone"), "it is a link to a file that does not exist"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: None, "No such file or directory"),
    ],
)
def test_only_regular_files_are_opened(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "a"
    assert callable(make)
    make(path)
    with pytest.raises(DatasetError, match=rf"a: cannot read the file \({message}\)\. Fix it"):
        read_bytes(path, DatasetError, "Fix it")


@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 5000, "a\x00b", "\ud800"])
def test_a_name_that_no_disk_has_is_one_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="cannot read the file"):
        read_bytes(tmp_path / name, DatasetError, "Fix it")
