"""Check a converted dataset before anything expensive is run on it.

Errors are what later stages cannot work with, warnings what makes their results doubtful.
The report is written either way; with errors the exit status is 1.
"""

import argparse
import html
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from segtune.core.atomic import atomic_path, write_json
from segtune.core.config import ValidateSettings, parse_section
from segtune.core.console import log_line
from segtune.core.errors import DatasetError, exit_on_error
from segtune.dataset.coco import Annotation, Image, Split, read_json, read_split
from segtune.dataset.masks import Segmentation, decode_rle_counts, rle_area, segmentation_to_rle

SPLITS = ("train", "valid", "test")
ROUNDING = 1e-3  # pixels by which a box may reach beyond its image
Problem = dict[str, Any]
Manifest = Mapping[str, Mapping[str, Any]]  # path -> size in bytes, sha256


def main(argv: Sequence[str] | None = None) -> None:
    """Write `report.json` and `report.html`; fail where there are errors."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("validate"):
        settings = parse_section(ValidateSettings, arguments.settings)
        splits = [read_split(arguments.coco / f"{name}.json") for name in SPLITS]
        manifest = _read_manifest(arguments.coco / "manifest.json")
        report: dict[str, Any] = {
            "errors": _grouped(_errors(splits, manifest), settings.max_examples),
            "warnings": _grouped(_warnings(splits, manifest), settings.max_examples),
            "splits": {split.name: _counts(split) for split in splits},
        }
        write_json(arguments.out / "report.json", report)
        _write_html(arguments.out / "report.html", report)
        for warning in report["warnings"]:
            log_line(f"warning: {_line(warning)}")
        if report["errors"]:
            raise DatasetError(
                "; ".join(map(_line, report["errors"])),
                file=arguments.coco,
                fix=f"All of it is in {arguments.out / 'report.json'}",
            )
        log_line(f"valid: {sum(len(split.images) for split in splits)} images")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.validate", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    parser.add_argument("--out", type=Path, required=True, help="folder for the reports")
    parser.add_argument("--settings", default="{}", help="the validate section, as JSON")
    return parser


def _read_manifest(path: Path) -> Manifest:
    values = read_json(path)
    try:
        return {
            record["path"]: {"size": record["size"], "sha256": record["sha256"]}
            for record in values["images"]
        }
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"no list of images ({error!r})", file=path, fix="Run segtune.convert again"
        ) from None


def _errors(splits: Sequence[Split], manifest: Manifest) -> Iterator[tuple[str, str]]:
    """What is wrong, and where: (problem with its fix, place)."""
    sizes = {path: record["size"] for path, record in manifest.items()}
    for split in splits:
        if not split.images:
            yield "a split without images: add some, or move some there", split.name
        if split.categories != splits[0].categories:
            yield "splits with different classes: run segtune.convert again", split.name
        yield from _id_errors(split)
        for image in split.images:
            yield from _image_errors(split, image, sizes)
            for annotation in split.annotations[image.id]:
                yield from _object_errors(split, image, annotation)
    if not any(splits[0].annotations.values()):
        yield "a training split without objects: label some", splits[0].name
    prompts = Counter(category.prompt.strip().casefold() for category in splits[0].categories)
    for prompt, count in prompts.items():
        if not prompt:
            yield "a class without a prompt: set convert.prompts", splits[0].name
        elif count > 1:
            yield "two classes with one prompt: set convert.prompts", repr(prompt)


def _id_errors(split: Split) -> Iterator[tuple[str, str]]:
    annotations = [a.id for found in split.annotations.values() for a in found]
    ids = {
        "image": [image.id for image in split.images],
        "object": annotations,
        "class": [category.id for category in split.categories],
    }
    for kind, numbers in ids.items():
        for number, count in Counter(numbers).items():
            if count > 1 or number < 1:
                place = f"{split.name}: {kind} {number}"
                yield "an id below 1 or used twice: run segtune.convert again", place


def _image_errors(split: Split, image: Image, sizes: dict[str, int]) -> Iterator[tuple[str, str]]:
    path = split.image_path(image)
    if not path.is_file():
        yield "an image that is not there: put it back, or convert again", str(path)
    elif sizes.get(image.file_name) != path.stat().st_size:
        yield "an image that has changed since: run segtune.convert again", str(path)


def _object_errors(split: Split, image: Image, a: Annotation) -> Iterator[tuple[str, str]]:
    place = f"{split.name}: object {a.id} in {image.file_name}"
    x, y, w, h = a.bbox_xywh
    inside = min(x, y) >= -ROUNDING and x + w <= image.width + ROUNDING
    # Written so that NaN fails too.
    if not (inside and y + h <= image.height + ROUNDING and w > 0 and h > 0):
        yield "a box of no size or outside its image: run segtune.convert again", place
    if a.category_id not in {category.id for category in split.categories}:
        yield "an object of an unknown class: run segtune.convert again", place
    if a.segmentation and not _is_sound(a.segmentation, image):
        yield (
            "a mask that is empty, of another size or cannot be read: run segtune.convert again",
            place,
        )


def _is_sound(segmentation: Segmentation, image: Image) -> bool:
    height, width = image.height, image.width
    try:
        if isinstance(segmentation, list):
            return rle_area(segmentation_to_rle(segmentation, height, width)) > 0
        # pycocotools trusts runs; those that leave the image make it read beyond its memory.
        counts = segmentation["counts"]
        runs = counts if isinstance(counts, list) else decode_rle_counts(counts)
        return (
            segmentation["size"] == [height, width]
            and runs is not None
            and min(runs, default=-1) >= 0
            and sum(runs) == height * width
            and sum(runs[1::2]) > 0
        )
    except (TypeError, ValueError, KeyError):
        return False


def _warnings(splits: Sequence[Split], manifest: Manifest) -> Iterator[tuple[str, str]]:
    sha256 = {path: record["sha256"] for path, record in manifest.items()}
    images = {
        split.name: {sha256.get(image.file_name): image.file_name for image in split.images}
        for split in splits
    }
    for one, other in combinations(images, 2):
        for content in images[one].keys() & images[other].keys() - {None}:
            problem = f"an image both in {one} and in {other}: scores on it mean nothing"
            yield problem, f"{images[one][content]} = {images[other][content]}"
    for split in splits:
        present = {a.category_id for found in split.annotations.values() for a in found}
        for category in split.categories:
            if category.id not in present:
                yield f"a class without objects in {split.name}", category.name


def _grouped(found: Iterator[tuple[str, str]], max_examples: int) -> list[Problem]:
    places: dict[str, list[str]] = {}
    for problem, place in found:
        places.setdefault(problem, []).append(place)
    return [
        {"problem": problem, "count": len(where), "examples": where[:max_examples]}
        for problem, where in places.items()
    ]


def _counts(split: Split) -> dict[str, Any]:
    objects = [a for found in split.annotations.values() for a in found]
    names = {category.id: category.name for category in split.categories}
    per_class = Counter(names.get(a.category_id, str(a.category_id)) for a in objects)
    return {
        "images": len(split.images),
        "images_without_objects": sum(not found for found in split.annotations.values()),
        "objects": len(objects),
        "box_only_objects": sum(not a.segmentation for a in objects),
        "per_class": {name: per_class.get(name, 0) for name in names.values()},
    }


def _line(problem: Problem) -> str:
    return f"{problem['count']} times {problem['problem']} (first: {problem['examples'][0]})"


def _write_html(path: Path, report: dict[str, Any]) -> None:
    verdict = "errors" if report["errors"] else "valid"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>segtune validation</title>",
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
        "padding:0 1rem}table{border-collapse:collapse}td,th{padding:.2rem .8rem;"
        "text-align:left;border-bottom:1px solid #ddd}</style>",
        f"<main><h1>Dataset: {verdict}</h1>",
    ]
    for kind in ("errors", "warnings"):
        parts.append(f"<h2>{len(report[kind])} kinds of {kind}</h2><ul>")
        for problem in report[kind]:
            examples = ", ".join(problem["examples"])
            text = f"{problem['count']} times {problem['problem']}: {examples}"
            parts.append(f"<li>{html.escape(text)}</li>")
        parts.append("</ul>")
    names = list(report["splits"]["train"]["per_class"])
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["split", "images", *names])
    parts.append(f"<h2>Objects per class</h2><table><tr>{head}</tr>")
    for name, counts in report["splits"].items():
        cells = [name, counts["images"], *(counts["per_class"].get(n, 0) for n in names)]
        parts.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    parts.append("</table></main></html>")
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(parts), "utf-8")


if __name__ == "__main__":
    main()
