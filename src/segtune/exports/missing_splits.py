"""Splits that an export does not have: carved out of the training split, or refused.

All variants that Roboflow made of one source image stay together, else a model would be
tested on what it was trained on.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError
from segtune.exports.annotations import Repairs
from segtune.exports.split_source import SplitSource

VARIANT = re.compile(r"\.rf\.[0-9A-Za-z]+(?=\.\w+$)")  # what Roboflow appends to a name


def source_of(image: Mapping[str, Any]) -> str:
    """The image that an image was made from, as far as its name or record says."""
    extra = image.get("extra")
    original = extra.get("name") if isinstance(extra, dict) else None
    return str(original or VARIANT.sub("", str(image.get("file_name"))))


def complete(
    sources: Mapping[str, SplitSource], settings: ConvertSettings, repairs: Repairs
) -> dict[str, SplitSource]:
    """All three splits.

    Raises:
        ConfigError: when there is no test split and the settings do not say what to do.
    """
    found = dict(sources)
    if "test" not in found and settings.missing_test == "error":
        raise ConfigError(
            "the export has no test split, so nothing would be held out",
            file=found["train"].annotations,
            fix="Say what to do: convert: {missing_test: carve} takes a share of train, "
            "{missing_test: valid} scores on the split that training selects on",
        )
    for name in ("valid", "test"):
        if name in found:
            continue
        if name == "test" and settings.missing_test == "valid":
            found["test"] = found["valid"]
            rule = "no test split: valid is scored, so the scores are too good"
            repairs.log(rule, found["train"].annotations, "test", None)
        else:
            found["train"], found[name] = _carved(found["train"], settings, name, repairs)
    return {name: found[name] for name in ("train", "valid", "test")}


def _carved(
    train: SplitSource, settings: ConvertSettings, name: str, repairs: Repairs
) -> tuple[SplitSource, SplitSource]:
    """What is left of the training split, and the new one."""
    images = train.values["images"]
    groups = sorted({source_of(image) for image in images})
    count = round(settings.holdout_fraction * len(groups))
    if not 0 < count < len(groups):
        raise ConfigError(
            f"the export has no {name} split, and {settings.holdout_fraction:.0%} of the "
            f"{len(groups)} source images of train are {count}",
            file=train.annotations,
            fix="Add images, or change convert: {holdout_fraction: …}",
        )
    order = np.random.default_rng(settings.holdout_seed).permutation(len(groups))
    chosen = {groups[index] for index in order[:count]}
    taken = [image for image in images if source_of(image) in chosen]
    rule = f"no {name} split: carved out of train by source image"
    for image in taken:
        repairs.log(rule, train.annotations, f"image {image.get('id')}", image.get("file_name"))
    left = [image for image in images if source_of(image) not in chosen]
    return _of_images(train, left), _of_images(train, taken)


def _of_images(source: SplitSource, images: list[dict[str, Any]]) -> SplitSource:
    ids = {image.get("id") for image in images}
    records = [a for a in source.values["annotations"] if a["image_id"] in ids]
    values = {**source.values, "images": images, "annotations": records}
    names = {str(image.get("file_name")) for image in images}
    paths = {name: path for name, path in source.images.items() if name in names}
    return SplitSource(source.annotations, values, paths)
