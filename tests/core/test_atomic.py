"""Files appear complete or not at all."""

import errno
import json
import os
import stat
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from segtune.core.atomic import (
    atomic_path,
    require_writable,
    write_json,
    write_records,
    write_tables,
)
from segtune.core.errors import ResourceError


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("complete")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "complete"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    path, other = tmp_path / "file.txt", tmp_path / ".file.txt.1.bak"
    other.write_text("the user's")
    code = "import os, signal, sys\nfrom pathlib import Path\n"
    code += "from segtune.core.atomic import atomic_path\n"
    code += "with atomic_path(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    (abandoned,) = set(tmp_path.iterdir()) - {other}
    with atomic_path(path) as slow:
        assert not abandoned.exists()
        slow.write_text("slow")
        with atomic_path(path) as fast:
            fast.write_text("fast")
        assert path.read_text() == "fast"
    assert path.read_text() == "slow"
    assert set(tmp_path.iterdir()) == {path, other}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_a_full_or_read_only_disk_is_named(tmp_path: Path, number: int) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with (
        pytest.raises(ResourceError, match=r"file\.txt: cannot write the file \(.*disk of /"),
        atomic_path(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_read_is_not_a_problem_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_path(tmp_path / "file.txt"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/image.png")


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device"])
def test_only_a_file_is_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.txt"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:  # by a link, as /dev/stdout is one
        path.symlink_to("/dev/null")
    before = path.lstat()
    for refusing in (lambda: require_writable(path), lambda: write_json(path, {})):
        with pytest.raises(ResourceError, match=rf"file\.txt: cannot write .*it is {kind}"):
            refusing()
    assert os.path.samestat(path.lstat(), before)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["file.txt", "new/file.txt", "self/file.txt"])
def test_a_file_system_without_files_of_users_is_named(name: str) -> None:
    path = Path("/proc", name)
    for refusing in (lambda: require_writable(path), lambda: write_json(path, {})):
        with pytest.raises(ResourceError, match=r"cannot write the file .*on the disk of /proc"):
            refusing()


def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 5000), tmp_path / ("x/" * 5000)):
        with pytest.raises(ResourceError, match=r"cannot write the file .*too long"):
            require_writable(path)


def test_what_can_be_written_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    require_writable(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_input_is_not_a_problem_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file.txt"):
        (tmp_path / "input.png").read_bytes()


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "file.json", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.json").stat().st_mode) == 0o640


def test_records_and_tables_are_json(tmp_path: Path) -> None:
    for records in ([], [{"a": 1}], [{"ä": 1.5}, {"b": None}]):
        write_records(tmp_path / "records.json", iter(records))
        assert json.loads((tmp_path / "records.json").read_text("utf-8")) == records
        tables = {"one": iter(records), "two": iter([])}
        write_tables(tmp_path / "tables.json", tables)
        written = json.loads((tmp_path / "tables.json").read_text("utf-8"))
        assert written == {"one": records, "two": []}


def test_an_array_of_numbers_is_written_as_a_list(tmp_path: Path) -> None:
    write_tables(tmp_path / "tables.json", {"t": [{"bbox": array("d", [1, 2.5])}]})
    assert json.loads((tmp_path / "tables.json").read_text()) == {"t": [{"bbox": [1.0, 2.5]}]}


def test_json_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"ä": [1, 2.5, None]})
    assert json.loads((tmp_path / "file.json").read_text("utf-8")) == {"ä": [1, 2.5, None]}
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "file.json", {"x": float("nan")})
    assert json.loads((tmp_path / "file.json").read_text("utf-8")) == {"ä": [1, 2.5, None]}
