"""Compare phrasings of the prompts: which does the base model understand best, zero-shot?

Each class is prompted in some images of the training split with its prompt, the singular, the
plural, with an article, with its supercategory, and with phrasings of your own. The table and the
suggested `convert: {prompts: {...}}` are for you to read: nothing uses them.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from segtune.checks.phrasings import (
    ClassPhrasings,
    compare_phrasings,
    phrased_split,
    phrasings_of,
    sampled,
    suggested_prompts,
)
from segtune.core.config import ConvertSettings, PredictSettings, parse_section
from segtune.core.console import log_line, progress
from segtune.core.errors import ConfigError, DatasetError, exit_on_error
from segtune.core.gpu_memory import memory_errors
from segtune.core.probe_settings import ProbeSettings
from segtune.core.processes import local_device
from segtune.core.typed_json import write_typed
from segtune.dataset.coco import Category, Split, read_split
from segtune.dataset.detections import Detection, Detections
from segtune.dataset.prompts import fill, plain_words
from segtune.model.architecture import ARCHITECTURES, set_image_size
from segtune.model.inference import detect_in_split, detections_of, prepared_images, read_pixels
from segtune.model.weights import load_base_model


@dataclass(frozen=True)
class Probe:
    """What `phrasings.json` holds."""

    images: int
    classes: dict[str, ClassPhrasings]
    suggested_prompts: dict[str, str] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> None:
    """Write `phrasings.json`, and print it as a table."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("probe"), memory_errors("Lower predict.prompts_per_pass"):
        settings = parse_section(ProbeSettings, arguments.settings)
        train = read_split(arguments.coco)
        if not train.objects:
            raise DatasetError("no objects to detect", file=arguments.coco, fix="Label some")
        convert = parse_section(ConvertSettings, arguments.convert)
        phrasings = _phrasings(train.categories, convert, settings.phrasings)
        prompts = {
            c.id: [fill(convert.template, {"name": text}) for text in phrasings[c.name]]
            for c in train.categories
        }
        split = phrased_split(train, sampled(train, settings.images), prompts)
        found = compare_phrasings(split, Detections(_detections(arguments, split)), phrasings)
        probe = Probe(len(split.images), found, suggested_prompts(found))
        write_typed(arguments.out / "phrasings.json", probe)
        _print(probe)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.probe", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="the training split")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="tiny")
    parser.add_argument("--weights", default="default", help="see config.yaml")
    parser.add_argument("--image-size", type=int, help="side of the input, in pixels")
    parser.add_argument("--settings", default="{}", help="the probe section, as JSON")
    parser.add_argument("--convert", default="{}", help="the convert section, as JSON")
    parser.add_argument("--predict", default="{}", help="the predict section, as JSON")
    return parser


def _phrasings(
    categories: Sequence[Category], convert: ConvertSettings, further: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Class -> its phrasings without the template, the present one first."""
    names = {category.name for category in categories}
    if unknown := sorted(set(further) - names):
        raise ConfigError(
            f"probe.phrasings names {unknown}, which are not classes of this dataset",
            file="--settings",
            fix=f"The classes are {', '.join(map(repr, sorted(names)))}",
        )
    found = {}
    for category in categories:
        present = convert.prompts.get(category.name) or plain_words(category.name)
        if not present or fill(convert.template, {"name": present}) != category.prompt:
            raise ConfigError(
                f"the prompt {category.prompt!r} does not follow from convert.prompts",
                file="--convert",
                record=f"category {category.name!r}",
                fix="Give the settings with which segtune.convert ran",
            )
        own = further.get(category.name, ())
        found[category.name] = phrasings_of(present, category.supercategory, own)
    return found


def _detections(arguments: argparse.Namespace, split: Split) -> Iterator[Detection]:
    """The base model's detections, without masks: boxes say enough about what it understands."""
    device = local_device()
    model = load_base_model(arguments.model, arguments.weights)
    image_size = set_image_size(model, arguments.model, arguments.image_size)
    read = partial(read_pixels, split, image_size=image_size)
    found = detect_in_split(
        model.to(device),
        split,
        prepared_images(split, split.images, read, probes={}),
        device=device,
        settings=parse_section(PredictSettings, arguments.predict),
        probes={},
    )
    with closing(found), progress("image", len(split.images)) as advance:
        for image, in_image in found:
            for prompt, _ in in_image:
                yield from detections_of(prompt, image.id, [{}] * len(prompt.scores))
            advance()


def _print(probe: Probe) -> None:
    for name, found in probe.classes.items():
        log_line(f"{name}, {found.objects} objects in {found.images} of {probe.images} images:")
        for phrasing in found.phrasings:
            scores = f"box AP {_shown(phrasing.box_AP)}  F1 {_shown(phrasing.f1)}"
            present = "  (present)" if phrasing.prompt == found.present else ""
            log_line(f"  {scores}  {phrasing.prompt!r}{present}")
    if probe.suggested_prompts:
        prompts = json.dumps({"prompts": probe.suggested_prompts}, ensure_ascii=False)
        log_line(f"suggested, and not applied: convert: {prompts}")
    else:
        log_line("no phrasing is better than the present one beyond chance: nothing suggested")


def _shown(value: float | None) -> str:
    return "     -" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
