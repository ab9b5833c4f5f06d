"""Files that appear together, and places that only one process writes to."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segtune.core.errors import BusyError, ResourceError
from segtune.core.publishing import exclusive, finish_publishing, published, require_space

# Publishes two files, and kills itself in the middle.
KILLED = """
import os, signal, sys
from pathlib import Path
from segtune.core import publishing
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "moving":
    moved = []
    replace = Path.replace
    def replace_one(self, target):
        if moved: kill()
        moved.append(replace(self, target))
    Path.replace = replace_one
with publishing.published(Path(sys.argv[1])) as folder:
    (folder / "a").write_text("new")
    if sys.argv[2] == "writing": kill()
    (folder / "b").write_text("new")
"""


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Finished results, beside a file of the user's own."""
    folder = tmp_path / "results"
    with published(folder) as new:
        (new / "a").write_text("old")
        (new / "b").write_text("old")
    (folder / "notes").write_text("mine")
    return folder


def test_files_appear_together_and_others_stay(folder: Path) -> None:
    with published(folder) as new:
        (new / "a").write_text("new")
        (new / "sub").mkdir()
        (new / "sub" / "c").write_text("new")
        assert content(folder)["a"] == "old"
    assert content(folder) == {"a": "new", "b": "old", "notes": "mine", "sub/c": "new"}
    assert [path.name for path in folder.parent.iterdir()] == ["results"]


def test_an_error_changes_nothing(folder: Path) -> None:
    before = content(folder)
    with pytest.raises(RuntimeError), published(folder) as new:
        (new / "a").write_text("new")
        raise RuntimeError
    assert content(folder) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_named_and_changes_nothing(folder: Path, number: int) -> None:
    before = content(folder)
    with pytest.raises(ResourceError, match=r"on the disk of /.*Free space"), published(folder):
        raise OSError(number, os.strerror(number))
    assert content(folder) == before


def run_killed(folder: Path, moment: str) -> None:
    result = subprocess.run([sys.executable, "-c", KILLED, str(folder), moment], check=False)
    assert result.returncode == -signal.SIGKILL


def test_a_kill_while_writing_loses_nothing(folder: Path) -> None:
    before = content(folder)
    run_killed(folder, "writing")
    assert {name: text for name, text in content(folder).items() if "/" not in name} == before
    with published(folder) as new:
        (new / "b").write_text("newer")
    assert content(folder) == before | {"b": "newer"}


def test_a_kill_between_two_moves_is_completed_by_the_next_run(folder: Path) -> None:
    run_killed(folder, "moving")
    assert (folder / "a").read_text() == "new"
    assert (folder / "b").read_text() == "old"
    finish_publishing(folder)
    assert content(folder) == {"a": "new", "b": "new", "notes": "mine"}
    finish_publishing(folder)
    # Whoever publishes next does it as well, and first.
    run_killed(folder, "moving")
    with published(folder) as new:
        (new / "a").write_text("newer")
    assert content(folder) == {"a": "newer", "b": "new", "notes": "mine"}


def test_one_process_at_a_time_writes_to_a_place(tmp_path: Path) -> None:
    place = tmp_path / "new" / "base.json"
    with (
        exclusive(place),
        exclusive(tmp_path / "new" / "tuned.json"),
        pytest.raises(BusyError, match=r"base\.json: another segtune process is writing"),
        exclusive(place),
    ):
        pass
    with exclusive(place):
        pass
    assert list(place.parent.iterdir()) == []


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = "import os, signal, sys\nfrom pathlib import Path\n"
    code += "from segtune.core.publishing import exclusive\n"
    code += "with exclusive(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert (tmp_path / ".out.lock").exists()
    with exclusive(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there", 1000)
    with pytest.raises(ResourceError, match=r"1000000000\.0 GB are needed on this disk"):
        require_space(tmp_path / "not" / "there", 10**18)


def test_a_place_where_nothing_can_be_written_is_named() -> None:
    place = Path("/proc/results")
    with pytest.raises(ResourceError, match="on the disk of /proc"), published(place):
        pass
