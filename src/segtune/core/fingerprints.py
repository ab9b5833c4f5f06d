"""Fingerprints of what a result depends on besides its input files: code and the export.

Snakemake tracks neither imported modules nor the contents of an export, so each rule lists
them in its params as `path@hash` strings, from which a dry run shows what has changed. Code is
hashed by its syntax tree: a comment, a docstring or a blank line does not cost a night of
training, and neither does a `touch` or a git checkout.
"""

import ast
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from segtune.core.errors import SegtuneError
from segtune.core.foreign import file_problem

SOURCE = Path(__file__).parents[1]
# Settings are compared by value; the others affect messages, reruns and where results lie, but
# not what is in them.
WITHOUT_EFFECT = {"dataset.gate"} | {
    f"core.{name}"
    for name in (
        *("config", "console", "errors", "fingerprints", "gpu_memory", "kept", "label_settings"),
        *("leases", "merge_settings", "probe_settings", "publishing", "recipes", "section"),
        *("setting_problems", "validate_settings", "tiles_settings", "label_issues_settings"),
        *("suggest_settings",),
    )
}
PAGES = "reports."  # the wing that shows numbers but computes none
ANNOTATION_SUFFIXES = {".json", ".jsonl", ".txt", ".xml", ".csv", ".yaml", ".yml"}


def code_fingerprints(module: str, with_pages: bool = False) -> list[str]:
    """`path@hash` of a module and of every segtune module that it imports, at any depth.

    Modules that cannot change a result are left out.

    Args:
        module: its name inside the package, such as "evaluate".
        with_pages: True where the result is a page, which also depends on the `reports` wing.
    """
    return [
        f"segtune/{_path(name).relative_to(SOURCE).as_posix()}@{_code_hash(name)}"
        for name in sorted(_closure(module, with_pages) - WITHOUT_EFFECT)
    ]


def export_fingerprint(export: Path) -> str:
    """`path@hash` of an export's contents, without reading its images.

    Annotation files are hashed by content, images by name and size, members of a zip by name,
    size and CRC-32. In a folder, an edited image of the same file size goes unnoticed.
    """
    digest = hashlib.sha256()
    for line in _export_lines(export):
        digest.update(os.fsencode(line))
    return f"{export}@{digest.hexdigest()[:16]}"


def file_digest(path: Path, kind: type[SegtuneError], fix: str) -> str:
    """A short hash of a file's content.

    Raises:
        SegtuneError: of this kind and with this fix, when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise kind(f"cannot read the file ({error.strerror})", file=path, fix=fix) from None


def json_digest(value: object) -> str:
    """A short hash of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What differs between two fingerprints: `key.subkey: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in sorted({*old, *new})
            for line in differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))
        ]
    return [] if old == new else [f"{path}: {old} -> {new}"]


def _export_lines(export: Path) -> list[str]:
    if export.is_dir():
        files = sorted(
            Path(folder) / name for folder, _, names in os.walk(export) for name in names
        )
        return [_file_line(path, path.relative_to(export)) for path in files]
    if problem := file_problem(export):
        return [f"{problem}\n"]
    try:
        with zipfile.ZipFile(export) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.filename)
    # Foreign bytes: a damaged directory makes zipfile raise errors of many types. What is wrong
    # is the reader's to report.
    except Exception:
        return [f"not a zip {export.stat().st_size}\n"]
    return [f"{m.filename} {m.file_size} {m.CRC}\n" for m in members]


def _file_line(path: Path, name: Path) -> str:
    if problem := file_problem(path):
        return f"{name} {problem}\n"
    if path.suffix.lower() in ANNOTATION_SUFFIXES or path.name.endswith("_mask.png"):
        with path.open("rb") as file:
            return f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n"
    return f"{name} {path.stat().st_size}\n"


def _path(module: str) -> Path:
    return SOURCE.joinpath(*module.split(".")).with_suffix(".py")


def _closure(module: str, with_pages: bool) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and (with_pages or not name.startswith(PAGES)):
            found.add(name)
            waiting.extend(segtune_imports(name))
    return found


def segtune_imports(module: str) -> set[str]:
    """The segtune modules that a segtune module imports, anywhere in its code."""
    names = _parsed(_text(module)).imports
    own = {name.removeprefix("segtune.") for name in names if name.startswith("segtune.")}
    return {name for name in own if _path(name).is_file()}


def _code_hash(module: str) -> str:
    digest = hashlib.sha256(_parsed(_text(module)).meaning.encode())
    # Files beside a module with its name, such as a template, are hashed byte by byte.
    path = _path(module)
    for companion in sorted(set(path.parent.glob(f"{path.stem}.*")) - {path}):
        digest.update(companion.read_bytes())
    return digest.hexdigest()[:12]


def _text(module: str) -> str:
    return _path(module).read_text("utf-8")


@dataclass(frozen=True)
class _Code:
    imports: frozenset[str]  # by absolute name; some are names in a module
    meaning: str  # the syntax tree without docstrings


@cache  # several commands share most of their modules
def _parsed(text: str) -> _Code:
    tree = ast.parse(text)
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            # `from a import b` imports the module a.b, or a name of the module a.
            imports |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body.pop(0)
    return _Code(frozenset(imports), ast.dump(tree))


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
