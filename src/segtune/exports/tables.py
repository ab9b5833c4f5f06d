"""Converting an export: its splits as exact tables, the manifest and the log of repairs.

Boxes and areas are recomputed from the masks, ids start at 1, all splits share one table of
classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError
from segtune.dataset.coco import Annotation, Image, Manifest, ManifestEntry, Split
from segtune.dataset.prompts import fields_of
from segtune.exports.annotations import RULE_BOX_OUTSIDE, RULE_EMPTY_BOX, normalize_annotation
from segtune.exports.class_prompts import prompted_categories, require_short_prompts
from segtune.exports.classes import class_table
from segtune.exports.image_check import check_images
from segtune.exports.missing_splits import fill_missing_splits
from segtune.exports.moved_copies import MovedImage, move_copies
from segtune.exports.prompt_fields import Fields, fields_per_image, read_rows
from segtune.exports.reader import read_export
from segtune.exports.repairs import Repair, Repairs
from segtune.exports.split_source import SplitSource

DROPPED = (RULE_EMPTY_BOX, RULE_BOX_OUTSIDE)
MAX_DROPPED_FRACTION = 0.01  # of the annotations of an export


@dataclass(frozen=True)
class SplitCounts:
    """How much a converted split holds."""

    images: int
    annotations: int
    masks: int
    box_only_objects: int


@dataclass(frozen=True)
class ConversionLog:
    """Where a converted dataset came from, and what was repaired."""

    export: str
    format: str
    splits: dict[str, SplitCounts]
    repairs: list[Repair]
    moved_images: list[MovedImage]


@dataclass(frozen=True)
class Conversion:
    """A converted dataset, to be written."""

    splits: dict[str, Split]
    manifest: Manifest
    log: ConversionLog


def convert_export(path: Path, unpacked: Path, settings: ConvertSettings) -> Conversion:
    """Read an export, check every image, and convert every annotation.

    Args:
        path: of the export, a folder or a zip file.
        unpacked: where a zip file is unpacked to.
        settings: of the conversion.

    Raises:
        ExportError: when something cannot be read without losing or inventing data.
        ConfigError: when the settings are invalid, or must decide something first.
        DatasetError: when copies are to be moved, and a split would have no image left.
    """
    export = read_export(path, unpacked, settings)
    repairs = Repairs(export.root)
    sources = fill_missing_splits(export.splits, settings, repairs)
    classes, ids = class_table(sources, repairs, settings.merge_names)
    categories = prompted_categories(classes, settings, sources["train"].path)
    fields = _fields(path, sources, settings)
    require_short_prompts(categories, [f for found in fields.values() for f in found.values()])
    splits = {
        name: Split(
            name=name,
            root=export.root,
            categories=categories,
            images=_images(source, export.root, fields[name]),
            annotations=_annotations(source, ids[name], repairs),
        )
        for name, source in sources.items()
    }
    _require_few_dropped(splits, repairs, path)
    manifest = _manifest(export.root, list(sources.values()))
    moved: list[MovedImage] = []
    if settings.copies == "move_to_train":
        splits, moved = move_copies(splits, manifest, repairs)
    log = ConversionLog(
        export=str(path),
        format=export.format,
        splits=_counts(splits),
        repairs=repairs.by_rule(),
        moved_images=moved,
    )
    return Conversion(splits, manifest, log)


def _fields(
    export: Path, sources: Mapping[str, SplitSource], settings: ConvertSettings
) -> dict[str, dict[int, Fields]]:
    """Per split and image id, the fields that the template uses."""
    wanted = fields_of(settings.template) - {"name"}
    rows = read_rows(settings.fields, export) if settings.fields else {}
    return {name: fields_per_image(s, wanted, rows) for name, s in sources.items()}


def _images(source: SplitSource, root: Path, fields: Mapping[int, Fields]) -> tuple[Image, ...]:
    return tuple(
        Image(
            id=number,
            file_name=image.path.relative_to(root).as_posix(),
            width=image.width,
            height=image.height,
            fields=fields.get(image.id, {}),
            original=image.original,
        )
        for number, image in enumerate(source.images, start=1)
    )


def _annotations(
    source: SplitSource, category_ids: Mapping[int, int], repairs: Repairs
) -> dict[int, tuple[Annotation, ...]]:
    """By new image id; annotations are numbered in the order of the export."""
    numbered = {image.id: (number, image) for number, image in enumerate(source.images, start=1)}
    found: dict[int, list[Annotation]] = {number: [] for number, _ in numbered.values()}
    count = 0
    for record in source.annotations:
        number, image = numbered[record.image_id]
        geometry = normalize_annotation(record, image, repairs)
        if geometry is None:
            continue
        count += 1
        annotation = Annotation(
            id=count,
            image_id=number,
            category_id=category_ids[record.category_id],
            bbox_xywh=geometry.bbox_xywh,
            area=geometry.area,
            segmentation=geometry.segmentation,
            iscrowd=geometry.iscrowd,
        )
        found[number].append(annotation)
    return {number: tuple(annotations) for number, annotations in found.items()}


def _require_few_dropped(splits: Mapping[str, Split], repairs: Repairs, export: Path) -> None:
    dropped = sum(repairs.counts.get(rule, 0) for rule in DROPPED)
    total = dropped + sum(len(split.objects) for split in splits.values())
    # A single slip of the mouse must not stop the conversion of a small dataset.
    if dropped > max(1, MAX_DROPPED_FRACTION * total):
        first = next(repairs.examples[rule][0] for rule in DROPPED if repairs.counts.get(rule))
        raise ExportError(
            f"{dropped} of {total} boxes have no area or lie outside their image, "
            f"more than {MAX_DROPPED_FRACTION:.0%}",
            file=export,
            record=f"first in {first.file}, {first.record}",
            fix="Something went wrong when this was exported; check the labels in Roboflow",
        )


def _counts(splits: Mapping[str, Split]) -> dict[str, SplitCounts]:
    counts = {}
    for name, split in splits.items():
        masks = sum(a.segmentation is not None for a in split.objects)
        counts[name] = SplitCounts(
            images=len(split.images),
            annotations=len(split.objects),
            masks=masks,
            box_only_objects=len(split.objects) - masks,
        )
    return counts


def _manifest(root: Path, sources: Sequence[SplitSource]) -> Manifest:
    # Each image once, also where two splits share their images.
    images = {image.path: image for source in sources for image in source.images}
    entries = [
        ManifestEntry(path=c.path.relative_to(root).as_posix(), size=c.size, sha256=c.sha256)
        for c in check_images(images.values())
    ]
    return Manifest(root=root, images=tuple(sorted(entries, key=lambda entry: entry.path)))
