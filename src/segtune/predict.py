"""Predict with base or fine-tuned weights, on a converted split or on any folder of pictures.

On a split (`--coco test.json`) every class is prompted on every picture and the output is
COCO's results format. On a folder (`--images DIR --prompt WORDS …`) the output is a COCO
dataset with scores, for labelling new data.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from segtune.atomic import write_json
from segtune.coco import Category, Image, Split, read_split
from segtune.config import PredictSettings, parse_section
from segtune.distributed import local_device
from segtune.errors import DatasetError, exit_on_error
from segtune.inference import predict_split
from segtune.model import ARCHITECTURES
from segtune.pictures import upright_size
from segtune.reporting import progress, say
from segtune.weights import load_base_model

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the predictions, atomically."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.images and not arguments.prompt:
        parser.error("--images needs --prompt")
    with exit_on_error("predict"):
        settings = parse_section(PredictSettings, arguments.settings)
        if arguments.images:
            split = split_of_folder(arguments.images, arguments.prompt)
        else:
            split = read_split(arguments.coco)
        device = local_device()
        model = load_base_model(arguments.model, arguments.weights).to(device)
        image_size = ARCHITECTURES[arguments.model].image_size
        with progress("picture", len(split.images)) as advance:
            results = predict_split(model, split, image_size, device, settings, advance)
        write_json(arguments.out, _as_dataset(split, results) if arguments.images else results)
        say(f"{len(results)} detections on {len(split.images)} pictures: {arguments.out}")


def split_of_folder(folder: Path, prompts: Sequence[str]) -> Split:
    """The pictures below a folder as a split without ground truth.

    Raises:
        DatasetError: when there is no picture, or one cannot be read.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise DatasetError("no pictures here", file=folder, remedy="Check --images")
    images = tuple(_image(number, path, folder) for number, path in enumerate(paths, start=1))
    categories = tuple(Category(n, prompt, prompt) for n, prompt in enumerate(prompts, start=1))
    return Split(folder.name, folder, categories, images, {image.id: () for image in images})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.predict", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--coco", type=Path, help="a split of segtune.convert")
    source.add_argument("--images", type=Path, help="a folder of pictures")
    parser.add_argument("--prompt", nargs="+", default=[], help="what to find, with --images")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="tiny")
    parser.add_argument("--weights", default="default", help="see config.yaml, or a merged sam3.pt")
    parser.add_argument("--settings", default="{}", help="the predict section, as JSON")
    return parser


def _image(number: int, path: Path, folder: Path) -> Image:
    try:
        with PilImage.open(path) as picture:
            width, height = upright_size(picture)
    except (OSError, UnidentifiedImageError) as error:
        raise DatasetError(f"not a readable picture ({error})", file=path) from None
    return Image(number, path.relative_to(folder).as_posix(), width, height)


def _as_dataset(split: Split, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": [
            {key: value for key, value in vars(image).items() if key != "fields"}
            for image in split.images
        ],
        "categories": [{"id": c.id, "name": c.name} for c in split.categories],
        "annotations": [
            {"id": number, "iscrowd": 0, **result} for number, result in enumerate(results, start=1)
        ],
    }


if __name__ == "__main__":
    main()
