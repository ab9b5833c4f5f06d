"""Splits that an export does not have: held out from the training split, or an error.

All augmented copies of one original image stay together, or else a model would be tested on
what it was trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError
from segtune.dataset.coco import SPLITS
from segtune.dataset.images import COPY_SUFFIX
from segtune.exports.repairs import Repairs
from segtune.exports.split_source import Place, SourceImage, SplitSource


def original_name(image: SourceImage) -> str:
    """The name of the image that an image was augmented from, by its record or its own name."""
    return image.original or COPY_SUFFIX.sub("", image.file_name)


def fill_missing_splits(
    sources: Mapping[str, SplitSource], settings: ConvertSettings, repairs: Repairs
) -> dict[str, SplitSource]:
    """All three splits.

    Raises:
        ConfigError: when there is no test split and the settings do not say what to do, or
            too few images to hold some out.
    """
    found = dict(sources)
    if "test" not in found and settings.missing_test == "error":
        raise ConfigError(
            "the export has no test split, so no data would be held out",
            file=found["train"].path,
            fix="Choose: convert: {missing_test: hold_out} takes a fraction of train, "
            "{missing_test: valid} evaluates on the split that training selects on",
        )
    for name in ("valid", "test"):
        if name in found:
            continue
        if name == "test" and settings.missing_test == "valid":
            found["test"] = found["valid"]
            rule = "no test split: valid is used as test, so scores are optimistically biased"
            repairs.log(rule, Place(found["train"].path, "test"), None)
        else:
            found["train"], found[name] = _held_out(found["train"], settings, name, repairs)
    return {name: found[name] for name in SPLITS}


def _held_out(
    train: SplitSource, settings: ConvertSettings, name: str, repairs: Repairs
) -> tuple[SplitSource, SplitSource]:
    """What remains of the training split, and the new split."""
    originals = sorted({original_name(image) for image in train.images})
    count = round(settings.holdout_fraction * len(originals))
    if not 0 < count < len(originals):
        raise ConfigError(
            f"the export has no {name} split, and holding out {settings.holdout_fraction:.0%} "
            f"of train's original images would take {count} of {len(originals)}",
            file=train.path,
            fix="Add images, or change convert: {holdout_fraction: …}",
        )
    order = np.random.default_rng(settings.holdout_seed).permutation(len(originals))
    chosen = {originals[index] for index in order[:count]}
    held_out = [image for image in train.images if original_name(image) in chosen]
    rule = f"no {name} split: held out from train by original image"
    for image in held_out:
        repairs.log(rule, Place(train.path, f"image {image.id}"), image.file_name)
    remaining = [image for image in train.images if original_name(image) not in chosen]
    return _with_images(train, remaining), _with_images(train, held_out)


def _with_images(source: SplitSource, images: Sequence[SourceImage]) -> SplitSource:
    ids = {image.id for image in images}
    annotations = tuple(a for a in source.annotations if a.image_id in ids)
    return replace(source, images=tuple(images), annotations=annotations)
