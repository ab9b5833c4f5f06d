"""One table of classes for all splits, and what SAM 3 is asked for each of them."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segtune.core.errors import ConfigError, ExportError
from segtune.exports.annotations import Repairs
from segtune.exports.split_source import SplitSource
from segtune.model.tokenizer import MAX_TOKENS, count_tokens

# What Roboflow appends to the name of a dataset version, with its date and time.
VERSION_SUFFIX = re.compile(r"\bv\d+\s+\d{4}-\d{2}-\d{2}\b")


RULE_UNUSED = "unannotated category of an existing name dropped"


def category_table(
    sources: Mapping[str, SplitSource], repairs: Repairs, merge: bool = False
) -> tuple[list[dict[str, Any]], dict[str, dict[int, int]]]:
    """The classes of all splits, by name.

    A placeholder is dropped: a category that no split annotates and that is another
    category's supercategory. Of categories with one name, the annotated one stays.

    Args:
        sources: the splits.
        repairs: gets what is dropped or merged.
        merge: whether names that differ in case or spaces alone are one class.

    Returns:
        Categories with ids from 1, and per split the ids of the export -> new ids.

    Raises:
        ExportError: when a category has no name, or two that are annotated have one.
    """
    annotated = {name: _annotated_ids(source) for name, source in sources.items()}
    used = {
        _name(record, source.annotations)
        for name, source in sources.items()
        for record in source.values["categories"]
        if record.get("id") in annotated[name]
    }
    kept: dict[str, dict[str, Any]] = {}
    ids: dict[str, dict[int, int]] = {}
    for name, source in sources.items():
        records = _kept_records(source, annotated[name], used, repairs, merge)
        for record in records:
            kept.setdefault(
                _key(record["name"], merge),
                {
                    "id": len(kept) + 1,
                    "name": record["name"],
                    "supercategory": str(record.get("supercategory") or "none"),
                },
            )
        ids[name] = {r["id"]: kept[_key(r["name"], merge)]["id"] for r in records}
    _require_distinct(kept, used, sources["train"].annotations)
    _log_differences(sources, ids, kept, repairs)
    return list(kept.values()), ids


def prompts(names: list[str], mapped: Mapping[str, str], file: Path) -> dict[str, str]:
    """What SAM 3 is asked for each class: the map's words, or the name in plain words.

    Raises:
        ConfigError: when the map names a class that does not exist.
        ExportError: when a name is no words that a model could understand, or too many.
    """
    for name in mapped:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
            raise ConfigError(
                f"convert.prompts names {name!r}, which is no class of this export",
                fix=f"The nearest classes are {', '.join(map(repr, near))}",
            )
    return {name: mapped.get(name) or _plain_words(name, file) for name in names}


def _plain_words(name: str, file: Path) -> str:
    words = " ".join(re.sub(r"[_\-]+", " ", name).split())
    if not re.search(r"[^\W\d_]", words) or VERSION_SUFFIX.search(name):
        raise _no_prompt(name, "is no prompt that SAM 3 could understand", file)
    if (tokens := count_tokens(words)) > MAX_TOKENS:
        raise _no_prompt(
            name, f"has {tokens} tokens as a prompt, SAM 3 reads {MAX_TOKENS} of them", file
        )
    return words


def _no_prompt(name: str, problem: str, file: Path) -> ExportError:
    return ExportError(
        f"the class name {name!r} {problem}",
        file=file,
        record=f"category {name!r}",
        fix=f"Say what it shows: convert: {{prompts: {{{name!r}: 'some words'}}}}",
    )


def _key(name: str, merge: bool) -> str:
    return name.strip().casefold() if merge else name


def _annotated_ids(source: SplitSource) -> set[Any]:
    return {record.get("category_id") for record in source.values["annotations"]}


def _name(record: Mapping[str, Any], file: Path) -> str:
    name = record.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ExportError("no name", file=file, record=f"category {record.get('id')}")
    return name


def _kept_records(
    source: SplitSource, annotated: set[Any], used: set[str], repairs: Repairs, merge: bool
) -> list[dict[str, Any]]:
    records = source.values["categories"]
    file = source.annotations
    kept: list[dict[str, Any]] = []
    for record in records:
        name = _name(record, file)
        is_annotated = record["id"] in annotated
        twin = next((r for r in kept if _key(r["name"], merge) == _key(name, merge)), None)
        rule = None
        if not is_annotated and _is_supercategory(name, record, records):
            # By id: a real class of the same name is another record.
            rule = None if name in used and _alone(records, name) else "placeholder dropped"
        elif twin and not is_annotated:
            rule = RULE_UNUSED
        elif twin and twin["id"] not in annotated:
            kept.remove(twin)
            repairs.log(RULE_UNUSED, file, f"category {twin['id']}", dict(twin))
        elif twin and merge:
            repairs.log("classes merged", file, f"category {record['id']}", dict(record))
        elif twin:
            raise _twins(twin, record, file)
        if rule:
            repairs.log(rule, file, f"category {record['id']}", dict(record))
        else:
            kept.append(record)
    return kept


def _twins(one: Mapping[str, Any], other: Mapping[str, Any], file: Path) -> ExportError:
    return ExportError(
        f"two annotated categories are named {one['name']!r} and {other['name']!r}",
        file=file,
        record=f"categories {one['id']} and {other['id']}",
        fix="Merge them in Roboflow, or say convert: {merge_names: true}",
    )


def _is_supercategory(name: str, record: Mapping[str, Any], records: list[dict[str, Any]]) -> bool:
    return any(o is not record and o.get("supercategory") == name for o in records)


def _alone(records: list[dict[str, Any]], name: str) -> bool:
    return sum(record.get("name") == name for record in records) == 1


def _require_distinct(kept: Mapping[str, Any], used: set[str], file: Path) -> None:
    seen: dict[str, str] = {}
    for name in (name for name in kept if name in used):
        twin = seen.setdefault(_key(name, True), name)
        if twin != name:
            raise ExportError(
                f"the classes {twin!r} and {name!r} differ in case or spaces alone",
                file=file,
                record=f"categories {twin!r} and {name!r}",
                fix="Merge them in Roboflow, or say convert: {merge_names: true}",
            )


def _log_differences(
    sources: Mapping[str, SplitSource],
    ids: Mapping[str, Mapping[int, int]],
    kept: Mapping[str, Mapping[str, Any]],
    repairs: Repairs,
) -> None:
    for name, source in sources.items():
        missing = [c for c, record in kept.items() if record["id"] not in ids[name].values()]
        if missing:
            repairs.log("classes that the split does not list", source.annotations, name, missing)
