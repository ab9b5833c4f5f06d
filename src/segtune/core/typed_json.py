"""Dataclasses as JSON: written atomically, and validated when they are read back."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from segtune.core.atomic import write_json
from segtune.core.errors import DatasetError
from segtune.core.foreign import read_json

T = TypeVar("T")


def write_typed(path: Path, value: Any) -> None:
    """Write a dataclass as JSON, atomically."""
    write_json(path, to_jsonable_python(value))


def read_typed(path: Path, kind: type[T], fix: str) -> T:
    """Read what `write_typed` wrote.

    Args:
        path: of the file.
        kind: the dataclass.
        fix: what to do where the file is missing or has another format.

    Raises:
        DatasetError: in that case.
    """
    values = read_json(path, DatasetError, fix, what="file")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        record = ".".join(map(str, first["loc"]))[:200] or None
        problem = f"cannot read the file ({first['msg']})"
        raise DatasetError(problem, file=path, record=record, fix=fix) from None
