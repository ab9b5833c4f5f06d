"""Earlier results are found by their fingerprint, whole or not at all, and up to a limit."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from segtune.core.kept import (
    RECORD,
    Kept,
    all_kept,
    find_kept,
    is_in_place,
    just_kept,
    kept_result,
    place,
    place_file,
    place_of,
    remove_oldest,
    store_of,
    stores,
)


def fingerprint(seed: int) -> dict[str, Any]:
    return {"settings": {"seed": seed}, "code": ["a@1"]}


def keep(out: Path, seed: int) -> Kept:
    """Keep a result and put it in place, as a stage does."""
    with kept_result(out / "kept", fingerprint(seed), f"AP 0.{seed}") as folder:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "a").write_text(f"adapter {seed}")
        (folder / "history").write_text(f"history {seed}")
    kept = just_kept(out / "kept", fingerprint(seed))
    place(kept, out)
    os.utime(kept.folder / RECORD, (seed, seed))  # later seeds are used later
    return kept


def test_a_result_is_found_again_and_put_in_place(tmp_path: Path) -> None:
    keep(tmp_path, 1)
    keep(tmp_path, 2)
    (tmp_path / "notes").write_text("mine")
    assert (tmp_path / "adapter" / "a").read_text() == "adapter 2"
    assert find_kept(tmp_path / "kept", fingerprint(3)) is None
    kept = find_kept(tmp_path / "kept", dict(reversed(fingerprint(1).items())))
    assert kept
    assert kept.summary == "AP 0.1"
    assert not is_in_place(kept, tmp_path)
    place(kept, tmp_path)
    assert is_in_place(kept, tmp_path)
    assert (tmp_path / "adapter" / "a").read_text() == "adapter 1"
    assert (tmp_path / "history").read_text() == "history 1"
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "history", "kept", "notes"}


def test_the_result_in_place_takes_no_space_twice(tmp_path: Path) -> None:
    kept = keep(tmp_path, 1)
    assert (kept.folder / "history").samefile(tmp_path / "history")


def test_without_hard_links_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("not here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    kept = keep(tmp_path, 1)
    assert not (kept.folder / "history").samefile(tmp_path / "history")
    assert is_in_place(kept, tmp_path)


@pytest.mark.parametrize("damage", ["", "adapter 2", None])
def test_a_damaged_result_is_not_used_and_can_be_made_again(
    tmp_path: Path, damage: str | None
) -> None:
    kept = keep(tmp_path, 1)
    file = kept.folder / "adapter" / "a"
    file.unlink()
    if damage is not None:
        file.write_text(damage)
    assert find_kept(tmp_path / "kept", fingerprint(1)) is None
    assert (tmp_path / "adapter" / "a").read_text() == "adapter 1"
    keep(tmp_path, 1)
    assert find_kept(tmp_path / "kept", fingerprint(1))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 1}', "[" * 100_000])
def test_a_damaged_record_is_not_a_result(tmp_path: Path, text: str) -> None:
    kept = keep(tmp_path, 1)
    (kept.folder / RECORD).write_text(text)
    assert find_kept(tmp_path / "kept", fingerprint(1)) is None
    assert all_kept(tmp_path / "kept") == []


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname"])
def test_a_record_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    kept = keep(tmp_path, 1)
    record = json.loads((kept.folder / RECORD).read_text())
    (kept.folder / RECORD).write_text(json.dumps({**record, "files": {name: "0"}}))
    assert all_kept(tmp_path / "kept") == []


def test_an_error_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), kept_result(tmp_path / "kept", fingerprint(1), "") as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(("limit", "expected"), [(0, [2]), (1, [4, 2]), (2, [4, 3, 2]), (9, None)])
def test_the_oldest_go_first_and_the_one_in_place_never(
    tmp_path: Path, limit: int, expected: list[int] | None
) -> None:
    for seed in (1, 2, 3, 4):
        keep(tmp_path, seed)
    kept = just_kept(tmp_path / "kept", fingerprint(2))
    place(kept, tmp_path)
    os.utime(kept.folder / RECORD, (0, 0))
    remove_oldest(tmp_path / "kept", tmp_path, limit)
    found = [kept.fingerprint["settings"]["seed"] for kept in all_kept(tmp_path / "kept")]
    assert found == (expected or [4, 3, 1, 2])


def test_what_is_half_written_or_half_removed_is_not_a_result_and_is_removed(
    tmp_path: Path,
) -> None:
    kept = keep(tmp_path, 1)
    shutil.copytree(kept.folder, kept.folder.with_name(".writing"))
    half = kept.folder.with_name("0123456789abcdef")
    shutil.copytree(kept.folder, half)
    (half / RECORD).unlink()
    (tmp_path / "kept" / "notes").mkdir()
    assert all_kept(tmp_path / "kept") == [kept]
    remove_oldest(tmp_path / "kept", tmp_path, 5)
    assert not half.exists()
    assert (tmp_path / "kept" / "notes").exists()
    assert all_kept(tmp_path / "kept") == [kept]


def test_a_result_of_one_file_has_a_store_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "predict" / "base.json"
    store = store_of(out)
    with kept_result(store, fingerprint(1), "") as folder:
        (folder / "base.json").write_text("[]")
    place_file(just_kept(store, fingerprint(1)), out)
    assert out.read_text() == "[]"
    keep(tmp_path / "train", 1)
    assert stores(tmp_path) == [store, tmp_path / "train" / "kept"]
    assert [place_of(store) for store in stores(tmp_path)] == [out.parent, tmp_path / "train"]
