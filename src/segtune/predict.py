"""Predict with base or fine-tuned weights, on a converted split or on any folder of pictures.

On a split (`--coco test.json`) every class is prompted on every picture and the output is
COCO's results format. With `--prompt WORDS …` these are asked for instead, there or on a
folder (`--images DIR`), and the output is a COCO dataset with scores, for labelling new data.
Under torchrun the processes share the pictures. What a killed run had finished is kept
beside the output, and the same command goes on from there.
"""

import argparse
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image as PilImage

from segtune.atomic import write_records, write_tables
from segtune.coco import Category, Image, Split, read_split, rle_area
from segtune.config import PredictSettings, parse_section, weights_file
from segtune.distributed import Processes, joined
from segtune.errors import ConfigError, DatasetError, WeightsError, exit_on_error
from segtune.inference import predict_pictures
from segtune.model import ARCHITECTURES, set_image_size
from segtune.partial import add, finished, gathered, new_part, partial_folder
from segtune.pictures import upright_size
from segtune.provenance import code_fingerprints, file_digest, json_digest
from segtune.reporting import progress, say
from segtune.tokens import MOST_TOKENS, count_tokens
from segtune.weights import load_base_model

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the predictions, atomically."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.images and not arguments.prompt:
        parser.error("--images needs --prompt")
    with exit_on_error("predict"), joined() as processes:
        settings = parse_section(PredictSettings, arguments.settings)
        split = _split(arguments)
        _predict(arguments, settings, split, processes)
        if processes.is_main:
            _write(arguments.out, split, as_dataset=bool(arguments.prompt))


def _split(arguments: argparse.Namespace) -> Split:
    if arguments.images:
        return split_of_folder(arguments.images, arguments.prompt)
    split = read_split(arguments.coco)
    if arguments.prompt:
        return replace(split, categories=_categories(arguments.prompt))
    return split


def _predict(
    arguments: argparse.Namespace, settings: PredictSettings, split: Split, processes: Processes
) -> None:
    """Write down what is found on the pictures that are missing, each process its share."""
    folder = partial_folder(arguments.out)
    missing = _missing(arguments, settings, split, processes)
    mine = missing[processes.rank :: processes.count]
    if mine:
        model = load_base_model(arguments.model, arguments.weights)
        image_size = set_image_size(model, arguments.model, arguments.image_size)
        model.to(processes.device)
        found = predict_pictures(model, split, mine, image_size, processes.device, settings)
        shown = progress("picture", len(mine), visible=processes.is_main)
        with shown as advance, new_part(folder) as part:
            for image_id, results in found:
                add(part, image_id, results)
                advance()
    processes.sum([0.0])  # all have finished


def _missing(
    arguments: argparse.Namespace, settings: PredictSettings, split: Split, processes: Processes
) -> list[Image]:
    # One process decides, for the others might see lines that are being written.
    done: set[int] = set()
    if processes.is_main:
        done = finished(partial_folder(arguments.out), _fingerprint(arguments, settings, split))
        if done:
            say(f"{len(done)} of {len(split.images)} pictures were finished before")
    done = processes.gather(done)[0]
    return [image for image in split.images if image.id not in done]


def _fingerprint(
    arguments: argparse.Namespace, settings: PredictSettings, split: Split
) -> dict[str, Any]:
    """Whatever a result depends on; neither batches nor processes."""
    weights = weights_file(arguments.model, arguments.weights)
    return {
        "settings": settings.model_dump(mode="json", exclude={"prompts_per_pass"}),
        "model": arguments.model,
        "image_size": arguments.image_size,
        "weights": arguments.weights,
        "weights_sha256": weights and file_digest(weights, WeightsError, "Check --weights"),
        "classes": json_digest([vars(category) for category in split.categories]),
        "pictures": json_digest([_trace(split, image) for image in split.images]),
        "code": code_fingerprints("predict"),
    }


def _trace(split: Split, image: Image) -> list[Any]:
    try:
        found = split.image_path(image).stat()
    except OSError as error:
        file = split.image_path(image)
        raise DatasetError(f"cannot be read ({error.strerror})", file=file) from None
    return [*vars(image).values(), found.st_size, found.st_mtime_ns]


def _write(out: Path, split: Split, as_dataset: bool) -> None:
    folder = partial_folder(out)
    results = gathered(folder, [image.id for image in split.images])
    if as_dataset:
        write_tables(out, _tables(split, results))
    else:
        write_records(out, results)
    shutil.rmtree(folder)
    say(f"{len(split.images)} pictures, {len(split.categories)} prompts: {out}")


def split_of_folder(folder: Path, prompts: Sequence[str]) -> Split:
    """The pictures below a folder as a split without ground truth.

    Raises:
        DatasetError: when there is no picture, or one cannot be read.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise DatasetError("no pictures here", file=folder, remedy="Check --images")
    images = tuple(_image(number, path, folder) for number, path in enumerate(paths, start=1))
    return Split(
        folder.name, folder, _categories(prompts), images, {image.id: () for image in images}
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.predict", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--coco", type=Path, help="a split of segtune.convert")
    source.add_argument("--images", type=Path, help="a folder of pictures")
    parser.add_argument("--prompt", nargs="+", default=[], help="what to find, not the classes")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="tiny")
    parser.add_argument("--weights", default="default", help="see config.yaml, or a merged sam3.pt")
    parser.add_argument("--image-size", type=int, help="side of the input, in pixels")
    parser.add_argument("--settings", default="{}", help="the predict section, as JSON")
    return parser


def _image(number: int, path: Path, folder: Path) -> Image:
    try:
        with PilImage.open(path) as picture:
            width, height = upright_size(picture)
    except (OSError, SyntaxError, ValueError, PilImage.DecompressionBombError) as error:
        raise DatasetError(f"not a readable picture ({error})", file=path) from None
    return Image(number, path.relative_to(folder).as_posix(), width, height)


def _categories(prompts: Sequence[str]) -> tuple[Category, ...]:
    for prompt in prompts:
        if not prompt.strip() or count_tokens(prompt) > MOST_TOKENS:
            raise ConfigError(f"--prompt {prompt!r} is empty or of more than {MOST_TOKENS} tokens")
    return tuple(Category(n, prompt, prompt) for n, prompt in enumerate(prompts, start=1))


def _tables(split: Split, results: Iterable[dict[str, Any]]) -> dict[str, Iterable[Any]]:
    return {
        "images": (
            {key: value for key, value in vars(image).items() if key != "fields"}
            for image in split.images
        ),
        "categories": ({"id": c.id, "name": c.name} for c in split.categories),
        "annotations": (
            {"id": number, "iscrowd": 0, "area": rle_area(result["segmentation"]), **result}
            for number, result in enumerate(results, start=1)
        ),
    }


if __name__ == "__main__":
    main()
