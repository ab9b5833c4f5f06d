"""Ten prompts at once beside ten passes of one prompt each, on the same model and images.

`python -m benchmarks.prediction` measures the tiny model on the demo's test images, and with
`--full` the full architecture with random weights at 1008 x 1008 (a quarter of an hour and
10 GB on 2 CPU cores). Both ways alternate, and the ratio is the median over the repeats.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from segtune.core.processes import local_device
from segtune.dataset.batch import load_image
from segtune.model.architecture import ARCHITECTURES
from segtune.model.inference import PreparedImage, predict
from segtune.model.weights import load_base_model

WORDS = (
    "urchin", "limpet", "kelp", "cuttlebone", "crab", "star", "shell", "stone", "rope", "bottle",
)  # fmt: skip
IMAGES = Path(__file__).parent.parent / "data/demo/test"
KEPT = 5  # detections per prompt: random weights are unsure of everything
LEAST = 0.001  # score


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the full architecture")
    parser.add_argument("--images", type=int, help="default: 10, with --full 1")
    parser.add_argument("--repeats", type=int, help="default: 7, with --full 1")
    arguments = parser.parse_args(argv)
    size, weights = ("full", "random:0") if arguments.full else ("tiny", "default")
    device = local_device()
    model = load_base_model(size, weights).to(device)
    image_size = ARCHITECTURES[size].image_size
    paths = sorted(IMAGES.glob("*.jpg"))[: arguments.images or (1 if arguments.full else 10)]
    images = [(number, *load_image(path, image_size)) for number, path in enumerate(paths)]

    def seconds(words: Sequence[str]) -> float:
        asked = tuple(range(len(words)))
        inputs = (PreparedImage(number, image, shape, asked) for number, image, shape in images)
        began = time.perf_counter()
        found = sum(
            len(d) for _, d in predict(model, inputs, words, device, len(words), LEAST, KEPT)
        )
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        assert found
        return time.perf_counter() - began

    seconds(WORDS[:1])  # warm
    ratios = []
    for _ in range(arguments.repeats or (1 if arguments.full else 7)):
        together, apart = seconds(WORDS), sum(seconds([word]) for word in WORDS)
        ratios.append(together / apart)
    print(
        f"{size} on {device}, {len(paths)} images: ten prompts at once take "
        f"{statistics.median(ratios):.2f} of the time of ten passes "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} repeats); "
        f"{together / len(paths):.2f} s per image"
    )


if __name__ == "__main__":
    main()
