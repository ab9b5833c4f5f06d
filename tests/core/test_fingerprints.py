"""What a rerun depends on: the meaning of code, and the content of an export."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest

from segtune.core import fingerprints
from segtune.core.fingerprints import code_fingerprints, export_fingerprint, json_digest


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "segtune"
    shutil.copytree(fingerprints.SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprints, "SOURCE", copy)
    return copy


def changed(source: Path, module: str, stage: str, new: str) -> bool:
    before = code_fingerprints(stage)
    path = source / f"{module}.py"
    path.write_text(path.read_text() + new)
    return code_fingerprints(stage) != before


def test_code_counts_at_any_depth_and_comments_do_not(source: Path) -> None:
    assert changed(source, "train", "train", "\nX = 1\n")
    assert changed(source, "lora", "train", "\nX = 1\n")  # through adapter
    assert changed(source, "engine", "predict", "\ndef f():\n    return 1\n")
    assert not changed(source, "train", "train", "\n# a comment\n\n\n")
    assert not changed(source, "lora", "predict", "\nX = 2\n")
    assert not changed(source, "evaluate", "train", "\nX = 1\n")
    assert not changed(source, "reporting", "train", "\nX = 1\n")


def test_a_docstring_does_not_count(source: Path) -> None:
    path = source / "merge.py"
    before = code_fingerprints("merge")
    path.write_text(path.read_text().replace('"""', '"""Other words. ', 1))
    assert code_fingerprints("merge") == before


def test_a_fingerprint_names_the_file() -> None:
    names = [item.partition("@")[0] for item in code_fingerprints("evaluate")]
    assert "segtune/evaluate.py" in names
    assert "segtune/metrics.py" in names
    assert "segtune/train.py" not in names
    assert names == sorted(names)


def write(folder: Path) -> Path:
    folder.mkdir()
    (folder / "labels.json").write_text("{}")
    (folder / "image.jpg").write_bytes(b"12345")
    return folder


def test_an_export_counts_by_content_and_not_by_time(tmp_path: Path) -> None:
    export = write(tmp_path / "export")
    before = export_fingerprint(export)
    os.utime(export / "labels.json", (0, 0))
    assert export_fingerprint(export) == before
    (export / "labels.json").write_text("[]")
    assert export_fingerprint(export) != before
    (export / "labels.json").write_text("{}")
    assert export_fingerprint(export) == before
    (export / "image.jpg").write_bytes(b"123456")
    assert export_fingerprint(export) != before
    (export / "image.jpg").rename(export / "other.jpg")
    assert export_fingerprint(export) != before


def test_a_zip_counts_by_its_members(tmp_path: Path) -> None:
    def pack(content: str) -> str:
        with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
            archive.writestr("labels.json", content)
        return export_fingerprint(tmp_path / "export.zip")

    assert pack("{}") != pack("[]")
    assert pack("{}") == pack("{}")


def test_a_missing_export_has_a_fingerprint_too(tmp_path: Path) -> None:
    assert export_fingerprint(tmp_path / "none").startswith(f"{tmp_path / 'none'}@")


def test_json_digests_ignore_the_order_of_keys() -> None:
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
    assert json_digest({"a": 1}) != json_digest({"a": 2})
