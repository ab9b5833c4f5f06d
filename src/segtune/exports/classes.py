"""One table of classes for all splits of an export."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from segtune.core.errors import ExportError
from segtune.exports.repairs import Repairs
from segtune.exports.split_source import Place, SourceCategory, SplitSource

RULE_PLACEHOLDER = "placeholder category dropped"
RULE_DUPLICATE = "unannotated category with a duplicate name dropped"
RULE_MERGED = "categories with equivalent names merged"
RULE_MISSING = "classes missing from the split's categories added"
MERGE_THEM = "Merge them in Roboflow, or set convert: {merge_names: true}"


def class_table(
    sources: Mapping[str, SplitSource], repairs: Repairs, merge: bool = False
) -> tuple[tuple[SourceCategory, ...], dict[str, dict[int, int]]]:
    """The classes of all splits, by name.

    A placeholder is dropped: a category that no split annotates and that is another
    category's supercategory. Of two categories with one name, the annotated one is kept.

    Args:
        sources: the splits.
        repairs: records what is dropped or merged.
        merge: whether names that differ only in case or spaces are one class.

    Returns:
        Categories with ids from 1, and per split the export's ids -> new ids.

    Raises:
        ExportError: when two annotated categories have one name.
    """
    annotated = {name: {a.category_id for a in s.annotations} for name, s in sources.items()}
    used = {c.name for name, s in sources.items() for c in s.categories if c.id in annotated[name]}
    table: dict[str, SourceCategory] = {}
    ids: dict[str, dict[int, int]] = {}
    for name, source in sources.items():
        kept = _kept(source, annotated[name], used, repairs=repairs, merge=merge)
        for category in kept:
            table.setdefault(_key(category.name, merge), replace(category, id=len(table) + 1))
        ids[name] = {c.id: table[_key(c.name, merge)].id for c in kept}
    _require_distinct(table, used, sources["train"])
    _log_missing(sources, ids, table, repairs)
    return tuple(table.values()), ids


def _kept(
    source: SplitSource, annotated: set[int], used: set[str], *, repairs: Repairs, merge: bool
) -> list[SourceCategory]:
    """The categories of one split, without placeholders and unannotated duplicates."""
    placeholders = _placeholders(source.categories, used)
    kept: dict[int, SourceCategory] = {}
    twins: dict[str, SourceCategory] = {}  # the first of each name
    for category in source.categories:
        key = _key(category.name, merge)
        twin = twins.get(key)
        rule = None
        if category.id not in annotated:
            rule = placeholders.get(category.id, RULE_DUPLICATE if twin else None)
        elif twin and twin.id not in annotated:
            del kept[twin.id], twins[key]
            repairs.log(RULE_DUPLICATE, _place(source, twin), asdict(twin))
        elif twin and merge:
            repairs.log(RULE_MERGED, _place(source, category), asdict(category))
        elif twin:
            raise _ambiguous(twin, category, source)
        if rule:
            repairs.log(rule, _place(source, category), asdict(category))
        else:
            kept[category.id] = category
            twins.setdefault(key, category)
    return list(kept.values())


def _placeholders(categories: Sequence[SourceCategory], used: set[str]) -> dict[int, str | None]:
    """Of each category that is another one's supercategory, why it is dropped where unannotated."""
    names = Counter(c.name for c in categories)
    above = Counter(c.supercategory for c in categories if c.supercategory != c.name)
    itself = Counter(c.name for c in categories if c.supercategory == c.name)
    found: dict[int, str | None] = {}
    for c in categories:
        is_own = c.supercategory == c.name
        if above[c.name] + itself[c.name] - is_own:
            # By id: a real class of the same name is another category.
            is_only_one = names[c.name] == 1
            found[c.id] = None if c.name in used and is_only_one else RULE_PLACEHOLDER
    return found


def _key(name: str, merge: bool) -> str:
    return name.strip().casefold() if merge else name


def _place(source: SplitSource, category: SourceCategory) -> Place:
    return Place(source.path, f"category {category.id}")


def _ambiguous(one: SourceCategory, other: SourceCategory, source: SplitSource) -> ExportError:
    return ExportError(
        f"two annotated categories are named {one.name!r} and {other.name!r}",
        file=source.path,
        record=f"categories {one.id} and {other.id}",
        fix=MERGE_THEM,
    )


def _require_distinct(
    table: Mapping[str, SourceCategory], used: set[str], train: SplitSource
) -> None:
    seen: dict[str, str] = {}
    for name in (name for name in table if name in used):
        twin = seen.setdefault(_key(name, True), name)
        if twin != name:
            raise ExportError(
                f"the classes {twin!r} and {name!r} differ only in case or spaces",
                file=train.path,
                record=f"categories {twin!r} and {name!r}",
                fix=MERGE_THEM,
            )


def _log_missing(
    sources: Mapping[str, SplitSource],
    ids: Mapping[str, Mapping[int, int]],
    table: Mapping[str, SourceCategory],
    repairs: Repairs,
) -> None:
    for name, source in sources.items():
        present = set(ids[name].values())
        missing = [key for key, c in table.items() if c.id not in present]
        if missing:
            repairs.log(RULE_MISSING, Place(source.path, name), missing)
