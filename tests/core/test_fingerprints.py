"""What a rerun depends on: the syntax tree of code, and the contents of an export."""

import ast
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from segtune.core import fingerprints
from segtune.core.errors import WeightsError
from segtune.core.fingerprints import (
    code_fingerprints,
    export_fingerprint,
    file_digest,
    json_digest,
    segtune_imports,
)

PAGES = ("validate_page", "train_page", "evaluate_page", "learning_curve_page")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, to be edited."""
    copy = tmp_path / "segtune"
    shutil.copytree(fingerprints.SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprints, "SOURCE", copy)
    return copy


def changes(source: Path, file: str, command: str, code: str, with_pages: bool = False) -> bool:
    """Whether code at the end of a file changes the fingerprints of a command."""
    before = code_fingerprints(command, with_pages)
    path = source / file
    path.write_text(path.read_text("utf-8") + code, "utf-8")
    return code_fingerprints(command, with_pages) != before


def test_code_counts_at_any_depth_and_comments_do_not(source: Path) -> None:
    assert changes(source, "train.py", "train", "\nX = 1\n")
    assert changes(source, "lora/layers.py", "train", "\nX = 1\n")  # through lora.adapter
    assert changes(source, "model/inference.py", "predict", "\ndef f():\n    return 1\n")
    assert changes(source, "exports/formats/coco.py", "convert", "\nX = 1\n")
    assert not changes(source, "train.py", "train", "\n# a comment\n\n\n")
    assert not changes(source, "lora/layers.py", "predict", "\nX = 2\n")
    assert not changes(source, "evaluate.py", "train", "\nX = 1\n")
    assert not changes(source, "core/console.py", "train", "\nX = 1\n")


def test_a_docstring_does_not_count(source: Path) -> None:
    path = source / "merge.py"
    before = code_fingerprints("merge")
    path.write_text(path.read_text().replace('"""', '"""Other words. ', 1))
    assert code_fingerprints("merge") == before


def names(command: str, with_pages: bool = False) -> list[str]:
    return [item.partition("@")[0] for item in code_fingerprints(command, with_pages)]


def test_a_fingerprint_names_the_file() -> None:
    found = names("evaluate")
    assert "segtune/evaluate.py" in found
    assert "segtune/evaluation/average_precision.py" in found
    assert "segtune/dataset/coco.py" in found
    assert "segtune/train.py" not in found
    assert found == sorted(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_pages_only_counts_for_pages(page: str) -> None:
    numbers, everything = names(page), names(page, with_pages=True)
    assert not any(name.startswith("segtune/reports/") for name in numbers)
    assert any(name.startswith("segtune/reports/") for name in everything)
    assert set(numbers) < set(everything)


@pytest.mark.parametrize("companion", ["page.css", "page.html.j2"])
def test_the_files_beside_a_module_count(source: Path, companion: str) -> None:
    file = f"reports/{companion}"
    assert changes(source, file, "evaluate_page", "\n", with_pages=True)
    assert not changes(source, file, "evaluate_page", "\n")


def test_a_new_companion_counts(source: Path) -> None:
    before = code_fingerprints("merge")
    (source / "merge.txt").write_text("a template")
    assert code_fingerprints("merge") != before


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from segtune.exports.formats import coco", {"exports.formats.coco"}),
        ("from segtune.core.errors import SegtuneError", {"core.errors"}),
        ("import segtune.core.errors as e", {"core.errors"}),
        (
            "def f():\n    from segtune.model import weights, forward",
            {"model.weights", "model.forward"},
        ),
        ("import os\nfrom pathlib import Path\nimport segtune", set()),
        ('X = "from segtune.core import errors"', set()),
    ],
)
def test_every_form_of_import_is_followed(source: Path, code: str, expected: set[str]) -> None:
    (source / "module.py").write_text(code)
    assert segtune_imports("module") == expected


def test_the_init_files_have_no_code() -> None:
    # They are imported, but have no fingerprint.
    paths = list(fingerprints.SOURCE.rglob("*/__init__.py"))
    assert len(paths) > 5
    for path in paths:
        (node,) = ast.parse(path.read_text("utf-8")).body
        assert isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant), path


def write(folder: Path) -> Path:
    folder.mkdir()
    (folder / "labels.json").write_text("{}")
    (folder / "image.jpg").write_bytes(b"12345")
    return folder


def test_an_export_counts_by_its_contents_and_not_by_time(tmp_path: Path) -> None:
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


def test_a_missing_export_has_a_fingerprint(tmp_path: Path) -> None:
    assert export_fingerprint(tmp_path / "none").startswith(f"{tmp_path / 'none'}@")


def test_json_digests_ignore_the_order_of_keys() -> None:
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
    assert json_digest({"a": 1}) != json_digest({"a": 2})


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("a", "b", "c"))
    for path, content in ((one, "x"), (same, "x"), (other, "y")):
        path.write_text(content)
    digests = [file_digest(path, WeightsError, "Fix it") for path in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]
    with pytest.raises(WeightsError, match=r"none: cannot read the file .*Fix it"):
        file_digest(tmp_path / "none", WeightsError, "Fix it")


@pytest.mark.parametrize("command", ["train", "predict"])
def test_an_edited_page_discards_no_interrupted_run(command: str) -> None:
    # Unfinished work is continued only where these are as before.
    pages = [item for item in code_fingerprints(command) if item.startswith("segtune/reports/")]
    assert pages == []


def test_pipes_links_and_damaged_zips_have_a_fingerprint(tmp_path: Path) -> None:
    # It is computed before any job starts; what is wrong is the conversion's to report.
    export = tmp_path / "export"
    export.mkdir()
    os.mkfifo(export / "labels.txt")
    (export / "_annotations.coco.json").symlink_to("nowhere")
    (export / os.fsdecode(b"caf\xe9.txt")).write_text("0")
    damaged = tmp_path / "export.zip"
    damaged.write_bytes(b"PK\x05\x06" + b"\xff" * 18)
    found = {export_fingerprint(path) for path in (export, damaged, export / "labels.txt")}
    assert len(found) == 3
    (export / "labels.txt").unlink()
    assert export_fingerprint(export) not in found
