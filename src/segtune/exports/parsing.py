"""Parsing the label files of an export: one function for each kind of text.

Whatever is wrong with a file becomes one `ExportError`, and the work is bounded by its size.
"""

import csv
import io
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from segtune.core import foreign
from segtune.core.errors import ExportError
from segtune.core.foreign import file_problem, reason
from segtune.exports.split_source import EXPORT_AGAIN, Place

ENTITIES = re.compile(r"<!(DOCTYPE|ENTITY)", re.IGNORECASE)  # how a small XML fills the memory
MAX_YAML_BYTES = 2**17  # thousands of classes; PyYAML takes a second for it
YAML_TYPES = {"str", "int", "float", "bool", "null", "timestamp", "seq", "map"}
YAML_PREFIX = "tag:yaml.org,2002:"


def read_text(path: Path) -> str:
    """A file of labels as text.

    Raises:
        ExportError: when it cannot be read, or is not UTF-8 text.
    """
    return foreign.read_text(path, ExportError, EXPORT_AGAIN)


def read_json(path: Path, change: Callable[[dict[str, Any]], Any] = lambda record: record) -> Any:
    """The values of a JSON file, each object of which `change` was applied to.

    Raises:
        ExportError: when it cannot be read, or is not JSON.
    """
    return foreign.read_json(path, ExportError, EXPORT_AGAIN, change=change)


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV that are not empty, each with the line that it ends in.

    Raises:
        ExportError: when it cannot be read, or is not a CSV.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        place = Place(path, f"line {reader.line_num}")
        raise place.error(f"cannot read the CSV ({reason(error)})") from None


def read_table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV, and its rows by column; a short row lacks the last ones.

    Raises:
        ExportError: when it cannot be read, has a column twice, or a row with too many values.
    """
    (_, columns), *rows = read_rows(path) or [(1, [])]
    if twins := sorted(c for c, count in Counter(columns).items() if c and count > 1):
        raise ExportError(
            f"the column {twins[0]!r} is a duplicate", file=path, fix="Remove or rename one"
        )
    for line, row in rows:
        if any(row[len(columns) :]):
            raise Place(path, f"line {line}").error(
                f"{len(row)} values for {len(columns)} columns", "Put commas of a name in quotes"
            )
    return columns, [(line, dict(zip(columns, row, strict=False))) for line, row in rows]


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file.

    Raises:
        ExportError: when it cannot be read, is not XML, or declares entities.
    """
    text = read_text(path)
    try:
        if ENTITIES.search(text):
            raise ValueError("it declares entities")
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError, MemoryError) as error:
        raise ExportError(
            f"cannot read the XML ({reason(error)})", file=path, fix=EXPORT_AGAIN
        ) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The map in a YAML file, all of its keys and values as the text that was written.

    YAML itself would turn a class named `no` into False and `2024-01-01` into a date.

    Raises:
        ExportError: when it cannot be read, is not a map, has a key twice, or uses aliases, with
            which a small file fills the memory.
    """
    try:
        if not file_problem(path) and path.stat().st_size > MAX_YAML_BYTES:
            raise ValueError(f"larger than {MAX_YAML_BYTES} bytes")
        values = _plain(yaml.compose(read_text(path), Loader=yaml.BaseLoader), set())
    except ExportError:
        raise
    # Foreign bytes: PyYAML passes on what chr() and others raise for them.
    except Exception as error:
        raise ExportError(
            f"cannot read the YAML ({reason(error)})", file=path, fix=EXPORT_AGAIN
        ) from None
    if not isinstance(values, dict):
        raise ExportError("not a map of settings", file=path, fix=EXPORT_AGAIN)
    return values


def _plain(node: yaml.Node | None, seen: set[int]) -> Any:
    """A node as text, lists and maps; the same node twice is an alias."""
    if node is None:
        return None
    kind = node.tag.removeprefix(YAML_PREFIX)
    if kind not in YAML_TYPES:
        raise ValueError(f"the type {node.tag[:80]!r} is not allowed")
    if isinstance(node, yaml.ScalarNode):
        return node.value
    if id(node) in seen:
        raise ValueError(f"line {node.start_mark.line + 1} is used by an alias")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, seen) for item in node.value]
    values: dict[str, Any] = {}
    for key, value in node.value:
        name = _plain(key, seen)
        if not isinstance(name, str) or name in values:
            problem = f"is a duplicate: {name[:80]!r}" if isinstance(name, str) else "is not text"
            raise ValueError(f"the key in line {key.start_mark.line + 1} {problem}")
        values[name] = _plain(value, seen)
    return values
