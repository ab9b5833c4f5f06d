"""The converted dataset: one COCO file per split, and a manifest of its images.

`<folder>/{train,valid,test}.json` share one table of categories; `manifest.json` beside them
names the folder of the images, and the size and SHA-256 of each image.
"""

import math
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from segtune.core import foreign
from segtune.core.atomic import write_json, write_tables
from segtune.core.errors import DatasetError, shown
from segtune.dataset.masks import (
    MAX_PIXELS,
    BoxXywh,
    Segmentation,
    require_usable,
    segmentation_to_rle,
)
from segtune.dataset.prompts import fill

SPLITS = ("train", "valid", "test")
MANIFEST = "manifest.json"
AGAIN = "Run segtune.convert again"
MAX_INTEGER = 2**63 - 1
MAX_NUMBER = 1e15


@dataclass(frozen=True, slots=True)
class Category:
    """A class, and the prompt for it, which may contain `{fields}`."""

    id: int
    name: str
    prompt: str
    supercategory: str = "none"


@dataclass(frozen=True, slots=True)
class Image:
    """An image; `file_name` is relative to the manifest's root."""

    id: int
    file_name: str
    width: int  # pixels
    height: int  # pixels
    fields: Mapping[str, str] = field(default_factory=dict)  # values for the prompts
    original: str = ""  # the original image of an augmented copy, where known


@dataclass(frozen=True, slots=True)
class Annotation:
    """An object; `segmentation` is None for a box-only annotation."""

    id: int
    image_id: int
    category_id: int
    bbox_xywh: BoxXywh  # pixels
    area: float  # pixels
    segmentation: Segmentation | None
    iscrowd: int


@dataclass(frozen=True)
class Split:
    """One split of a converted dataset."""

    name: str
    root: Path  # folder of the images
    categories: tuple[Category, ...]
    images: tuple[Image, ...]
    annotations: dict[int, tuple[Annotation, ...]]  # by image id, for every image
    _by_pair: dict[tuple[int, int], list[Annotation]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Not lazily: another thread may be pickling the split at that moment.
        pairs: dict[tuple[int, int], list[Annotation]] = {}
        for a in self.objects:
            pairs.setdefault((a.image_id, a.category_id), []).append(a)
        object.__setattr__(self, "_by_pair", pairs)

    @property
    def objects(self) -> list[Annotation]:
        """Every object of the split."""
        return [a for annotations in self.annotations.values() for a in annotations]

    def ground_truth(self, image_id: int, category_id: int) -> Sequence[Annotation]:
        """The objects of one category in an image."""
        return self._by_pair.get((image_id, category_id), [])

    def image_path(self, image: Image) -> Path:
        """The file of an image."""
        return self.root / image.file_name

    def prompts(self, image: Image) -> dict[int, str]:
        """Category id -> the prompt for it in an image."""
        return {category.id: fill(category.prompt, image.fields) for category in self.categories}


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """The file of an image at the time of conversion."""

    path: str  # relative to the manifest's root
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The image files of a dataset."""

    root: Path
    images: tuple[ManifestEntry, ...]


def read_split(path: Path) -> Split:
    """Read `<folder>/<split>.json` as `segtune.convert` wrote it.

    Raises:
        DatasetError: when it or the manifest beside it is missing or has another format, or when
            a record cannot be used.
    """
    split = read_unchecked_split(path)
    require_usable_records(split, path, AGAIN)
    return split


def require_usable_records(split: Split, path: Path, fix: str) -> None:
    """Check that the records of a split fit together, and that its masks can be drawn.

    Raises:
        DatasetError: with this path and fix, naming the record that cannot be used.
    """
    _require_distinct("image", [image.id for image in split.images], path, fix)
    _require_distinct("category", [category.id for category in split.categories], path, fix)
    _require_distinct("annotation", [a.id for a in split.objects], path, fix)
    categories = {category.id for category in split.categories}
    for image in split.images:
        for a in split.annotations[image.id]:
            if problem := annotation_problem(a, image, categories):
                raise DatasetError(problem, file=path, record=f"annotation {a.id}", fix=fix)


def annotation_problem(a: Annotation, image: Image, categories: Collection[int]) -> str | None:
    """Why an object cannot be used; None where it can be.

    Args:
        a: the object.
        image: that it lies in.
        categories: ids of those that exist.
    """
    if a.category_id not in categories:
        return f"category_id {a.category_id} does not exist"
    if a.iscrowd not in (0, 1):
        return f"iscrowd is {a.iscrowd} instead of 0 or 1"
    if not all(map(math.isfinite, (*a.bbox_xywh, a.area))):
        return "a box or an area that is not finite"
    try:
        if a.segmentation:
            require_usable(a.segmentation, image.height, image.width)
    except ValueError as error:
        return str(error)
    return None


def read_unchecked_split(path: Path) -> Split:
    """Read a split whose records have the right types, but may contradict each other.

    For the checks that list everything that is wrong; its masks must not be drawn.

    Raises:
        DatasetError: when it or the manifest beside it is missing or has another format.
    """
    values, manifest = read_json(path), read_manifest(path.parent)
    try:
        return split_of_tables(values, name=path.stem, root=manifest.root)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _not_converted(path, error) from None


def split_of_tables(values: Any, *, name: str, root: Path) -> Split:
    """A split from the content of a file; its records may contradict each other.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: when these are not tables of a split.
    """
    images = tuple(_image(record) for record in values["images"])
    annotations: dict[int, list[Annotation]] = {image.id: [] for image in images}
    for a in map(_annotation, values["annotations"]):
        annotations[a.image_id].append(a)
    return Split(
        name=name,
        root=root,
        categories=tuple(_category(record) for record in values["categories"]),
        images=images,
        annotations={key: tuple(found) for key, found in annotations.items()},
    )


def write_split(path: Path, split: Split) -> None:
    """Write a split as COCO, atomically."""
    write_tables(
        path,
        {
            "images": map(image_record, split.images),
            "annotations": map(annotation_record, split.objects),
            "categories": map(asdict, split.categories),
        },
    )


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder of converted splits.

    Raises:
        DatasetError: when it is missing or has another format.
    """
    path = folder / MANIFEST
    values = read_json(path)
    try:
        return Manifest(
            root=_absolute(folder / _text(values, "root")),
            images=tuple(_entry(record) for record in values["images"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _not_converted(path, error) from None


def write_manifest(path: Path, manifest: Manifest, folder: Path) -> None:
    """Write a manifest, atomically.

    The root is written relative to `folder` where it is inside, and where both are inside the
    working directory, so that the project can be moved as a whole; otherwise it is absolute.

    Args:
        path: of the file to write.
        manifest: to write.
        folder: where the file will be read, which may not be where it is written first.
    """
    images = [asdict(entry) for entry in manifest.images]
    write_json(path, {"root": _written_root(manifest.root.resolve(), folder), "images": images})


def _written_root(root: Path, folder: Path) -> str:
    if root.is_relative_to(folder.resolve()):
        return os.path.relpath(root, folder.resolve())
    here, place = Path.cwd(), _absolute(folder)
    movable = root.is_relative_to(here) and place.is_relative_to(here)
    return os.path.relpath(root, place) if movable else str(root)


def _absolute(path: Path) -> Path:
    # By name: where the folder of the results is a link, `..` must not leave its target.
    return Path(os.path.normpath(path.absolute()))


def with_rle_masks(split: Split) -> Split:
    """The split with every mask as compressed RLE, which is much faster to compare."""
    annotations = {
        image.id: tuple(_with_rle_mask(a, image) for a in split.annotations[image.id])
        for image in split.images
    }
    return replace(split, annotations=annotations)


def has_masks(split: Split) -> bool:
    """Whether any object of a split has a mask."""
    return any(a.segmentation for a in split.objects)


def read_json(path: Path) -> Any:
    """Read a file of the converted dataset.

    Raises:
        DatasetError: when it is missing or not JSON.
    """
    return foreign.read_json(path, DatasetError, "Run segtune.convert first", what="dataset")


def image_record(image: Image) -> dict[str, Any]:
    """An image as a record of COCO's table of images."""
    record: dict[str, Any] = {
        "id": image.id,
        "file_name": image.file_name,
        "width": image.width,
        "height": image.height,
    }
    if image.fields:
        record["fields"] = dict(image.fields)
    if image.original:
        record["original"] = image.original
    return record


def annotation_record(a: Annotation) -> dict[str, Any]:
    """An object as a record of COCO's table of annotations."""
    record = {
        "id": a.id,
        "image_id": a.image_id,
        "category_id": a.category_id,
        "bbox": a.bbox_xywh,
        "area": a.area,
        "segmentation": a.segmentation or [],
        "iscrowd": a.iscrowd,
    }
    return record if a.segmentation else {**record, "box_only": True}


def _image(record: Mapping[str, Any]) -> Image:
    width, height = _integer(record, "width"), _integer(record, "height")
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"an image of {width} x {height} pixels")
    fields = record.get("fields", {})
    return Image(
        id=_integer(record, "id"),
        file_name=_text(record, "file_name"),
        width=width,
        height=height,
        fields={name: _text(fields, name) for name in fields},
        original=_text(record, "original") if "original" in record else "",
    )


def _category(record: Mapping[str, Any]) -> Category:
    return Category(
        id=_integer(record, "id"),
        name=_text(record, "name"),
        prompt=_text(record, "prompt"),
        supercategory=_text(record, "supercategory"),
    )


def _annotation(record: Mapping[str, Any]) -> Annotation:
    x, y, w, h = map(_number, record["bbox"])
    segmentation = record["segmentation"]
    if not isinstance(segmentation, list | dict):
        raise TypeError(f"segmentation is {shown(segmentation)}")
    return Annotation(
        id=_integer(record, "id"),
        image_id=_integer(record, "image_id"),
        category_id=_integer(record, "category_id"),
        bbox_xywh=(x, y, w, h),
        area=_number(record["area"]),
        segmentation=segmentation or None,
        iscrowd=_integer(record, "iscrowd"),
    )


def _entry(record: Mapping[str, Any]) -> ManifestEntry:
    return ManifestEntry(
        path=_text(record, "path"), size=_integer(record, "size"), sha256=_text(record, "sha256")
    )


def _integer(record: Mapping[str, Any], key: str) -> int:
    value = record[key]
    if type(value) is not int or abs(value) > MAX_INTEGER:
        raise TypeError(f"{key} is {shown(value)}")
    return value


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is {shown(value)}")
    value.encode()  # half a surrogate pair is an error here, and not where it is written
    return value


def _number(value: Any) -> float:
    # NaN passes: the checks name the object that has it.
    if type(value) not in (int, float) or abs(value) > MAX_NUMBER:
        raise TypeError(f"a number is {shown(value)}")
    number: float = value
    return number


def _with_rle_mask(a: Annotation, image: Image) -> Annotation:
    if not a.segmentation:
        return a
    return replace(a, segmentation=segmentation_to_rle(a.segmentation, image.height, image.width))


def _require_distinct(kind: str, ids: Sequence[int], path: Path, fix: str) -> None:
    for number, count in Counter(ids).items():
        if count > 1:
            raise DatasetError(
                f"id {number} is a duplicate", file=path, record=f"{kind} {number}", fix=fix
            )


def _not_converted(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"not a converted dataset ({shown(error)})", file=path, fix=AGAIN)
