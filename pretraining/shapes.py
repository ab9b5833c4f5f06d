"""Samples of the source domain of the tiny model, for its training from scratch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from segtune.dataset.batch import Sample
from segtune.dataset.drawn_shapes import EVERYTHING, SIDE, WORDS, Mask, Scene, draw_scene


def training_sample(seed: int, number: int, prompts: int = 4) -> Sample:
    """An image prompted with "shape", with some words for what it shows, and with negatives.

    The same for the same (seed, number).
    """
    rng = np.random.default_rng([seed, number])
    scene = draw_scene(rng)
    present = sorted({w for shape in scene.shapes for w in shape.words} - {EVERYTHING})
    absent = [word for word in WORDS if word not in present and word != EVERYTHING]
    shown = prompts - 2 if rng.random() < 0.7 else prompts - 3
    chosen = [EVERYTHING, *rng.permutation(present)[:shown].tolist()]
    chosen += rng.permutation(absent)[: prompts - len(chosen)].tolist()
    return _sample(scene, chosen, f"shapes {seed}.{number}")


def _sample(scene: Scene, words: Sequence[str], name: str) -> Sample:
    masks = [_stack([s.mask for s in scene.shapes if word in s.words]) for word in words]
    return Sample(
        name=name,
        image=as_input(scene.pixels),
        prompts=tuple(words),
        boxes_cxcywh=tuple(_boxes_cxcywh(mask) for mask in masks),
        masks=tuple(masks),
        has_mask=tuple(torch.ones(len(mask), dtype=torch.bool) for mask in masks),
    )


def as_input(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """(3, SIDE, SIDE) uint8."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _stack(masks: list[Mask]) -> torch.Tensor:
    return torch.from_numpy(np.stack(masks) if masks else np.zeros((0, SIDE, SIDE), bool))


def _boxes_cxcywh(masks: torch.Tensor) -> torch.Tensor:
    boxes = [box_xywh(mask.numpy()) for mask in masks]
    xywh = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / SIDE
    return torch.cat([xywh[:, :2] + xywh[:, 2:] / 2, xywh[:, 2:]], dim=1)


def box_xywh(mask: Mask) -> tuple[float, float, float, float]:
    """The tight box around a mask, in pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = float(columns[0]), float(rows[0])
    return x, y, float(columns[-1]) + 1 - x, float(rows[-1]) + 1 - y
