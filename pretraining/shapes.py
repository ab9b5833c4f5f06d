"""The source domain of the tiny model: coloured shapes, drawn on the fly.

A picture is asked for by words for colours ("red"), for kinds ("star") and for everything
("shape"). Later shapes hide earlier ones; a mask is what stays visible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from segtune.dataset import Sample

SIDE = 96  # pixels, as the tiny model sees
SCALE = 3  # drawn larger, then reduced: smooth edges
SMALLEST_VISIBLE = 40  # pixels
EVERYTHING = "shape"
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 45, 45),
    "green": (50, 160, 60),
    "blue": (50, 80, 205),
    "yellow": (228, 205, 60),
    "purple": (135, 60, 165),
    "white": (238, 238, 235),
}
KINDS = ("circle", "square", "triangle", "star", "cross", "bar")
WORDS = (EVERYTHING, *COLOURS, *KINDS)

Random = np.random.Generator
Mask = npt.NDArray[np.bool_]  # (SIDE, SIDE)


@dataclass(frozen=True)
class Shape:
    """One shape of a picture and the words it answers to."""

    colour: str
    kind: str
    mask: Mask

    @property
    def words(self) -> set[str]:
        return {EVERYTHING, self.colour, self.kind}


@dataclass(frozen=True)
class Scene:
    """A picture and its visible shapes."""

    pixels: npt.NDArray[np.uint8]  # (SIDE, SIDE, 3)
    shapes: tuple[Shape, ...]


def draw_scene(rng: Random) -> Scene:
    """One to three shapes on a mottled ground; now and then none."""
    canvas = _ground(rng)
    count = 0 if rng.random() < 0.04 else int(rng.integers(1, 4))
    drawn = [_draw_shape(canvas, rng) for _ in range(count)]
    pixels: Any = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    pixels = pixels + rng.normal(0, rng.uniform(1, 4), pixels.shape)
    hidden = np.zeros((SIDE, SIDE), bool)
    shapes: list[Shape] = []
    for colour, kind, mask in reversed(drawn):
        visible = mask & ~hidden
        hidden |= mask
        if visible.sum() >= SMALLEST_VISIBLE:
            shapes.append(Shape(colour, kind, visible))
    return Scene(np.clip(pixels, 0, 255).astype(np.uint8), tuple(shapes))


def training_sample(seed: int, number: int, prompts: int = 4) -> Sample:
    """A picture asked for everything, for some of what it shows and for one thing it lacks.

    The same for the same (seed, number).
    """
    rng = np.random.default_rng([seed, number])
    scene = draw_scene(rng)
    present = sorted({w for shape in scene.shapes for w in shape.words} - {EVERYTHING})
    absent = [word for word in WORDS if word not in present and word != EVERYTHING]
    chosen = [EVERYTHING, *rng.permutation(present)[: prompts - 2].tolist()]
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
    """(3, SIDE, SIDE) in -1..1."""
    return (torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


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


def _ground(rng: Random) -> Image.Image:
    base = rng.uniform(60, 190) + rng.uniform(-25, 25, 3)
    mottle = rng.random((int(rng.integers(3, 12)),) * 2).astype(np.float32)
    grown = Image.fromarray(mottle).resize((SIDE,) * 2, Image.Resampling.BICUBIC)
    pixels = base + rng.uniform(0, 60) * (np.asarray(grown)[..., None] - 0.5)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image.resize((SIDE * SCALE,) * 2, Image.Resampling.BILINEAR)


def _draw_shape(canvas: Image.Image, rng: Random) -> tuple[str, str, Mask]:
    colour, kind = str(rng.choice(list(COLOURS))), str(rng.choice(KINDS))
    radius = rng.uniform(13, 25)
    centre = rng.uniform(radius * 0.7, SIDE - radius * 0.7, 2)
    points = centre + _outline(kind, rng) * radius
    corners = [(float(x), float(y)) for x, y in points * SCALE]
    shaded = np.clip(np.array(COLOURS[colour]) + rng.uniform(-22, 22, 3), 0, 255)
    ImageDraw.Draw(canvas).polygon(corners, fill=tuple(int(value) for value in shaded))
    stencil = Image.new("L", canvas.size)
    ImageDraw.Draw(stencil).polygon(corners, fill=255)
    mask = np.asarray(stencil.resize((SIDE, SIDE), Image.Resampling.BOX)) >= 128
    return colour, kind, mask


def _outline(kind: str, rng: Random) -> Any:
    """Corners around the origin within a unit circle, turned at random."""
    turn = rng.uniform(0, 2 * np.pi)
    if kind == "circle":
        return _ring(np.ones(28), turn) * [1, rng.uniform(0.85, 1)]
    if kind == "square":
        return _ring(np.ones(4), turn)
    if kind == "triangle":
        return _ring(np.ones(3), turn)
    if kind == "star":
        return _ring(np.tile([1, 0.45], int(rng.integers(5, 8))), turn)
    if kind == "cross":
        arm = rng.uniform(0.25, 0.36)
        quarter = [(arm, 1), (arm, arm), (1, arm), (1, -arm)]
        corners = [np.array(p) @ _rotation(-k * np.pi / 2) for k in range(4) for p in quarter]
        return np.array(corners)[:, :2] * 0.95 @ _rotation(turn)
    half = rng.uniform(0.16, 0.26)
    return np.array([(-1, -half), (1, -half), (1, half), (-1, half)]) @ _rotation(turn)


def _ring(radii: Any, turn: float) -> Any:
    angles = turn + np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _rotation(turn: float) -> Any:
    return np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
