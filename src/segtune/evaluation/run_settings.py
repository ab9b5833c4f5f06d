"""Settings by dotted path, and those in which runs differ."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SettingRow:
    """A setting in which runs differ."""

    name: str  # dotted path
    values: tuple[str | None, ...]  # of each run, as JSON; None where a run does not record it


def flattened(values: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Values by dotted path, as JSON; a list is a value, unless it is one of objects."""
    found: dict[str, str] = {}
    for key, value in values.items():
        name = f"{path}.{key}".strip(".")
        if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            value = {str(place): item for place, item in enumerate(value)} or value
        if isinstance(value, Mapping):
            found |= flattened(value, name)
        else:
            found[name] = json.dumps(value, ensure_ascii=False)
    return found


def differing(runs: Sequence[Mapping[str, str]]) -> tuple[SettingRow, ...]:
    """The rows in which not all runs have the same value, by name."""
    names = sorted({name for run in runs for name in run})
    rows = (SettingRow(name, tuple(run.get(name) for run in runs)) for name in names)
    return tuple(row for row in rows if len(set(row.values)) > 1)
