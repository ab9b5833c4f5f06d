"""Convert a Roboflow export to one exact COCO file per split, and log every repair.

Boxes and areas are recomputed from the masks, ids run from 1, all splits share one table
of classes. Nothing is guessed: what cannot be read without loss is an error.
"""

import argparse
import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from segtune.core.atomic import atomic_path, write_json, write_tables
from segtune.core.config import ConvertSettings, parse_section
from segtune.core.console import log_line
from segtune.core.errors import ConfigError, ExportError, exit_on_error
from segtune.dataset.prompts import fields_of, fill
from segtune.exports.annotations import Record, Repairs, normalize_annotation, number
from segtune.exports.classes import category_table, prompts
from segtune.exports.image_check import Checked, Expected, check_images
from segtune.exports.missing_splits import complete
from segtune.exports.prompt_fields import Conditions, fields_per_image, read_rows
from segtune.exports.reader import SPLITS, read_export
from segtune.exports.split_source import SplitSource
from segtune.model.tokenizer import MAX_TOKENS, count_tokens

DROPPED = ("box of no size dropped", "box outside the image dropped")
MAX_DROPPED_FRACTION = 0.01  # of the annotations of an export
Coco = dict[str, list[dict[str, Any]]]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the splits, `manifest.json` and `conversion.json`: all of them or none."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("convert"):
        settings = parse_section(ConvertSettings, arguments.settings)
        with _uncollected():
            outputs = _converted(arguments.export, arguments.out / "images", settings)
            _write_all(arguments.out, outputs)
        _tell(outputs["conversion"], outputs["train"]["categories"])


@contextmanager
def _uncollected() -> Iterator[None]:
    """The tables hold no cycles, and searching them for some takes a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _converted(path: Path, unpacked: Path, settings: ConvertSettings) -> dict[str, Any]:
    """Name of each file to write -> what is in it."""
    repairs = Repairs()
    export = read_export(path, unpacked, settings)
    sources = complete(export.splits, settings, repairs)
    categories, ids = category_table(sources, repairs, settings.merge_names)
    _add_prompts(categories, settings, sources)
    conditions = _conditions(path, sources, settings)
    _require_readable(categories, conditions)
    splits = {
        name: _convert_split(source, export.root, ids[name], conditions[name], repairs)
        for name, source in sources.items()
    }
    _require_few_dropped(splits, repairs, path)
    # Once each, also where two splits share their images.
    expected = {e.path: e for source in sources.values() for e in _expected(source)}
    return {
        **{name: {**split, "categories": categories} for name, split in splits.items()},
        "manifest": _manifest(export.root, check_images(expected.values())),
        "conversion": _log(path, export.format, splits, repairs),
    }


def _conditions(
    export: Path, sources: Mapping[str, SplitSource], settings: ConvertSettings
) -> dict[str, Conditions]:
    """Per split and image, what the template tells of it."""
    wanted = fields_of(settings.template) - {"name"}
    rows = read_rows(settings.fields, export) if settings.fields else {}
    return {name: fields_per_image(s, wanted, rows) for name, s in sources.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.convert", description=__doc__)
    parser.add_argument("--export", type=Path, required=True, help="folder or zip of Roboflow")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--settings", default="{}", help="the convert section, as JSON")
    return parser


def _add_prompts(
    categories: list[dict[str, Any]], settings: ConvertSettings, sources: Mapping[str, SplitSource]
) -> None:
    for name, text in settings.prompts.items():
        if not text.strip():
            raise ConfigError(
                f"convert.prompts gives the class {name!r} no words",
                file="--settings",
                fix="Say what it shows, or leave the class out of the map",
            )
    if "name" not in fields_of(settings.template):
        raise ConfigError(
            f"convert.template {settings.template!r} has no {{name}}, so all classes would be "
            "asked for in the same words",
            file="--settings",
            fix="Put {name} where the class belongs",
        )
    file = sources["train"].annotations
    words = prompts([category["name"] for category in categories], settings.prompts, file)
    for category in categories:
        category["prompt"] = fill(settings.template, {"name": words[category["name"]]})


def _require_readable(
    categories: list[dict[str, Any]], conditions: Mapping[str, Conditions]
) -> None:
    """Names were counted already; what the map and the template make of them was not."""
    told = [fields for found in conditions.values() for fields in found.values()] or [{}]
    texts = {fill(c["prompt"], fields): c["name"] for c in categories for fields in told}
    for text, name in texts.items():
        if (tokens := count_tokens(text)) > MAX_TOKENS:
            raise ConfigError(
                f"the prompt {text!r} has {tokens} tokens, SAM 3 reads {MAX_TOKENS} of them",
                file="--settings",
                record=f"category {name!r}",
                fix="Use fewer words in convert.prompts or convert.template",
            )


def _convert_split(
    source: SplitSource,
    root: Path,
    category_ids: Mapping[int, int],
    conditions: Conditions,
    repairs: Repairs,
) -> Coco:
    images = {record["id"]: record for record in _images(source)}
    numbers = {old: new for new, old in enumerate(images, start=1)}
    annotations: list[dict[str, Any]] = []
    for values in source.values["annotations"]:
        image = images.get(values["image_id"])
        category = category_ids.get(values["category_id"])
        if image is None:
            raise _unknown("image_id", source, values)
        if category is None:
            raise _unknown("category_id", source, values)
        record = Record(values, source.annotations, image["width"], image["height"], repairs)
        found = normalize_annotation(record)
        if found:
            references = {"image_id": numbers[image["id"]], "category_id": category}
            annotations.append({"id": len(annotations) + 1, **references, **found})
    for old, entry in images.items():
        path = source.images[entry["file_name"]]
        if conditions:
            entry["fields"] = conditions[entry["file_name"]]
        entry |= {"id": numbers[old], "file_name": path.relative_to(root).as_posix()}
    return {"images": list(images.values()), "annotations": annotations}


def _unknown(key: str, source: SplitSource, values: Mapping[str, Any]) -> ExportError:
    return ExportError(
        f"{key} {values.get(key)!r} does not exist",
        file=source.annotations,
        record=f"annotation {values.get('id')}",
        fix="Export the dataset again",
    )


def _images(source: SplitSource) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = []
    seen_ids: set[Any] = set()
    seen_names: set[str] = set()
    for values in source.values["images"]:
        record = _image(values, source)
        for key, seen in (("id", seen_ids), ("file_name", seen_names)):
            if record[key] in seen:
                raise ExportError(
                    f"{key} {record[key]!r} is there twice",
                    file=source.annotations,
                    record=f"image {values.get('id')}",
                    fix="Export the dataset again",
                )
            seen.add(record[key])
        images.append(record)
    return images


def _image(values: Mapping[str, Any], source: SplitSource) -> dict[str, Any]:
    record = f"image {values.get('id')}"

    def refuse(problem: str, fix: str | None = None) -> ExportError:
        return ExportError(problem, file=source.annotations, record=record, fix=fix)

    if not isinstance(values.get("id"), int):
        raise refuse(f"id {values.get('id')!r} is no whole number")
    sides = [number(values.get(side), refuse, lambda *_: None) for side in ("width", "height")]
    if any(side < 1 or side != int(side) for side in sides):
        raise refuse(f"a size of {sides[0]:g} x {sides[1]:g} pixels")
    extra = values.get("extra")
    original = extra.get("name") if isinstance(extra, dict) else None
    return {
        "id": values["id"],
        "file_name": values["file_name"],
        "width": int(sides[0]),
        "height": int(sides[1]),
        **({"source_name": original} if original else {}),
    }


def _require_few_dropped(splits: Mapping[str, Coco], repairs: Repairs, export: Path) -> None:
    dropped = sum(repairs.counts.get(rule, 0) for rule in DROPPED)
    total = dropped + sum(len(split["annotations"]) for split in splits.values())
    # One slip of the mouse must not stop a small dataset.
    if dropped > max(1, MAX_DROPPED_FRACTION * total):
        first = next(repairs.examples[rule][0] for rule in DROPPED if repairs.counts.get(rule))
        raise ExportError(
            f"{dropped} of {total} boxes have no size or lie outside their image, "
            f"more than {MAX_DROPPED_FRACTION:.0%}",
            file=export,
            record=f"first in {first['file']}, {first['record']}",
            fix="Something went wrong when this was exported; check it in Roboflow",
        )


def _expected(source: SplitSource) -> list[Expected]:
    return [
        Expected(source.images[image["file_name"]], image["width"], image["height"])
        for image in _images(source)
    ]


def _manifest(root: Path, checked: Sequence[Checked]) -> dict[str, Any]:
    records = [
        {"path": c.path.relative_to(root).as_posix(), "size": c.bytes, "sha256": c.sha256}
        for c in checked
    ]
    return {"root": str(root), "images": sorted(records, key=lambda record: str(record["path"]))}


def _log(export: Path, kind: str, splits: Mapping[str, Coco], repairs: Repairs) -> dict[str, Any]:
    counts = {}
    for name, split in splits.items():
        boxes_only = sum("box_only" in a for a in split["annotations"])
        counts[name] = {
            "images": len(split["images"]),
            "annotations": len(split["annotations"]),
            "masks": len(split["annotations"]) - boxes_only,
            "boxes_only": boxes_only,
        }
    return {
        "export": str(export),
        "format": kind,
        "splits": counts,
        "repairs": repairs.as_json(),
    }


def _write_all(out: Path, outputs: Mapping[str, Any]) -> None:
    with ExitStack() as stack:
        # All are written before the first is moved into its place.
        staged = {name: stack.enter_context(atomic_path(out / f"{name}.json")) for name in outputs}
        for name, value in outputs.items():
            write = write_tables if name in SPLITS else write_json
            write(staged[name], value)


def _tell(log: Mapping[str, Any], categories: Sequence[Mapping[str, Any]]) -> None:
    log_line(f"export in the format {log['format']}, {len(categories)} classes:")
    for category in categories:
        log_line(f"  {category['name']}: prompted as {category['prompt']!r}")
    for name, count in log["splits"].items():
        log_line(
            f"{name}: {count['images']} images, {count['masks']} masks, "
            f"{count['boxes_only']} objects with a box alone"
        )
    for repair in log["repairs"]:
        log_line(f"repaired {repair['count']} times: {repair['rule']}")


if __name__ == "__main__":
    main()
