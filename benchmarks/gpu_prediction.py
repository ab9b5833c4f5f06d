"""Prediction split into reading, the model, enlarging masks and run-length encoding."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from segtune.core.config import PredictSettings
from segtune.dataset.batch import load_image
from segtune.dataset.masks import mask_to_rle
from segtune.model import inference
from segtune.model.architecture import ARCHITECTURES
from segtune.model.inference import PreparedImage, predict
from segtune.model.sam3_package import Sam3Image

SIZES = {"1080p": (1920, 1080), "12 megapixels": (4000, 3000)}  # (width, height)
PROMPTS, MASKS = 10, 50  # per image; per prompt
IMAGES = 2  # after one to warm up


def prediction(
    model: Sam3Image, architecture: str, device: torch.device
) -> Iterator[tuple[str, str]]:
    """(what was measured, milliseconds per image) for photographs of two sizes."""
    texts = [f"thing {number}" for number in range(PROMPTS)]
    # Random weights score everything alike: the limit decides how many masks there are.
    settings = PredictSettings(
        prompts_per_pass=PROMPTS, confidence_threshold=0.0, max_detections=MASKS
    )
    for title, size in SIZES.items():
        spent = dict.fromkeys(("load", "enlarge", "encode", "total"), 0.0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "photograph.jpg"
            Image.fromarray(_noise(size)).save(path)
            for number in range(IMAGES + 1):
                if number == 1:
                    spent = dict.fromkeys(spent, 0.0)
                _predict_one(
                    model, path, ARCHITECTURES[architecture].image_size,
                    texts=texts, settings=settings, device=device, spent=spent,
                )  # fmt: skip
        spent["model"] = spent["total"] - spent["load"] - spent["enlarge"] - spent["encode"]
        for part in ("load", "model", "enlarge", "encode", "total"):
            yield f"{title}, {part}", f"{spent[part] / IMAGES * 1000:.0f} ms per image"


def _predict_one(
    model: Sam3Image,
    path: Path,
    image_size: int,
    *,
    texts: list[str],
    settings: PredictSettings,
    device: torch.device,
    spent: dict[str, float],
) -> None:
    began = time.perf_counter()
    pixels, size = load_image(path, image_size)
    spent["load"] += time.perf_counter() - began
    image = PreparedImage(id=1, pixels=pixels, size=size, prompts=tuple(enumerate(texts)))
    enlarge = _timed(inference._mask, spent, "enlarge", device)
    encode = _timed(mask_to_rle, spent, "encode", device)
    with patch.object(inference, "_mask", enlarge), patch.object(inference, "mask_to_rle", encode):
        ((_, found),) = predict(model, [image], texts, device=device, settings=settings)
    assert len(found) == PROMPTS * min(MASKS, model.transformer.decoder.num_queries)
    spent["total"] += time.perf_counter() - began


def _timed(
    function: Callable[..., Any], spent: dict[str, float], part: str, device: torch.device
) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        # Kernels of the model that are still running are not this function's time.
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        result = function(*arguments)
        spent[part] += time.perf_counter() - began
        return result

    return timed


def _noise(size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(height, width, 3) of smooth noise, which compresses like a photograph."""
    coarse = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
