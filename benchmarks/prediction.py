"""Ten prompts at once versus ten passes of one prompt each, on the same model and images.

`python -m benchmarks.prediction` measures the tiny model on the demo's test images, and with
`--full` the full architecture with random weights at 1008 x 1008 (a quarter of an hour and
10 GB on 2 CPU cores). Both ways alternate, and the ratio is the median over the repeats.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from segtune.core.config import PredictSettings
from segtune.core.processes import local_device
from segtune.dataset.batch import Size, load_image
from segtune.model.architecture import ARCHITECTURES
from segtune.model.inference import PreparedImage, predict
from segtune.model.sam3_package import Sam3Image
from segtune.model.weights import load_base_model

PROMPTS = (
    "urchin", "limpet", "kelp", "cuttlebone", "crab", "star", "shell", "stone", "rope", "bottle",
)  # fmt: skip
IMAGES = Path(__file__).parent.parent / "data/demo/test"
MAX_DETECTIONS = 5  # per prompt: random weights score everything alike
MIN_SCORE = 0.001


@dataclass(frozen=True)
class Bench:
    """A model, and images that are in memory."""

    model: Sam3Image
    images: list[tuple[Tensor, Size]]
    device: torch.device

    def seconds(self, prompts: Sequence[str]) -> float:
        """Predict with all prompts in one pass per image."""
        numbered = tuple(enumerate(prompts))
        inputs = (
            PreparedImage(id=number, pixels=pixels, size=size, prompts=numbered)
            for number, (pixels, size) in enumerate(self.images)
        )
        settings = PredictSettings(
            prompts_per_pass=len(prompts),
            confidence_threshold=MIN_SCORE,
            max_detections=MAX_DETECTIONS,
        )
        began = time.perf_counter()
        predictions = predict(self.model, inputs, prompts, device=self.device, settings=settings)
        found = sum(len(detections) for _, detections in predictions)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        assert found
        return time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the full architecture")
    parser.add_argument("--images", type=int, help="default: 10, with --full 1")
    parser.add_argument("--repeats", type=int, help="default: 7, with --full 1")
    arguments = parser.parse_args(argv)
    count = arguments.images or (1 if arguments.full else 10)
    bench = prepared("full" if arguments.full else "tiny", count)
    bench.seconds(PROMPTS[:1])  # warm up
    ratios = []
    for _ in range(arguments.repeats or (1 if arguments.full else 7)):
        together = bench.seconds(PROMPTS)
        ratios.append(together / sum(bench.seconds([prompt]) for prompt in PROMPTS))
    print(
        f"{'full' if arguments.full else 'tiny'} on {bench.device}, {count} images: ten prompts "
        f"at once take {statistics.median(ratios):.2f} of the time of ten passes "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} repeats); "
        f"{together / count:.2f} s per image"
    )


def prepared(architecture: str, count: int) -> Bench:
    """A model on this machine's device, and the first test images of the demo."""
    device, image_size = local_device(), ARCHITECTURES[architecture].image_size
    weights = "default" if architecture == "tiny" else "random:0"
    model = load_base_model(architecture, weights).to(device)
    paths = sorted(IMAGES.glob("*.jpg"))[:count]
    return Bench(model, [load_image(path, image_size) for path in paths], device)


if __name__ == "__main__":
    main()
