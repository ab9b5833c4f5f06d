"""All that the tiny model knows before it is fine-tuned: colored shapes, drawn on the fly.

The prompts are words for colors ("red"), for kinds of shapes ("star") and for all of them
("shape"). Later shapes occlude earlier ones; a mask is the visible part. Shapes may have
stripes, dots, rays or a rim in a shade of their color, and backgrounds may have scratches.
No word refers to these, so that the model learns to ignore texture.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SIDE = 96  # pixels, the input of the tiny model
SCALE = 3  # images are drawn larger and then reduced, for smooth edges
MIN_VISIBLE_AREA = 40  # pixels
EVERYTHING = "shape"
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 45, 45),
    "green": (50, 160, 60),
    "blue": (50, 80, 205),
    "yellow": (228, 205, 60),
    "purple": (135, 60, 165),
    "white": (238, 238, 235),
}
KINDS = ("circle", "square", "triangle", "star", "cross", "bar")
WORDS = (EVERYTHING, *COLORS, *KINDS)

Random = np.random.Generator
Mask = npt.NDArray[np.bool_]  # (SIDE, SIDE)


@dataclass(frozen=True)
class Shape:
    """One shape of an image, and the words for it."""

    color: str
    kind: str
    mask: Mask

    @property
    def words(self) -> set[str]:
        return {EVERYTHING, self.color, self.kind}


@dataclass(frozen=True)
class Scene:
    """An image and its visible shapes."""

    pixels: npt.NDArray[np.uint8]  # (SIDE, SIDE, 3)
    shapes: tuple[Shape, ...]


def draw_scene(rng: Random) -> Scene:
    """One to three shapes on a mottled background; occasionally none."""
    canvas = _background(rng)
    count = 0 if rng.random() < 0.04 else int(rng.integers(1, 4))
    drawn = [_draw_shape(canvas, rng) for _ in range(count)]
    pixels: Any = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    pixels = pixels + rng.normal(0, rng.uniform(1, 4), pixels.shape)
    hidden = np.zeros((SIDE, SIDE), bool)
    shapes: list[Shape] = []
    for color, kind, mask in reversed(drawn):
        visible = mask & ~hidden
        hidden |= mask
        if visible.sum() >= MIN_VISIBLE_AREA:
            shapes.append(Shape(color, kind, visible))
    return Scene(np.clip(pixels, 0, 255).astype(np.uint8), tuple(shapes))


def _background(rng: Random) -> Image.Image:
    base = rng.uniform(50, 200) + rng.uniform(-30, 30, 3)
    pixels = base + np.zeros((SIDE, SIDE, 1))
    for finest, strength in ((12, 60), (SIDE, 40)):
        cells = int(rng.integers(3, finest + 1))
        mottle = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        grown = mottle.resize((SIDE,) * 2, Image.Resampling.BICUBIC)
        pixels = pixels + rng.uniform(0, strength) * (np.asarray(grown)[..., None] - 0.5)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    canvas = image.resize((SIDE * SCALE,) * 2, Image.Resampling.BILINEAR)
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.4 else 0):
        _scratch(ImageDraw.Draw(canvas), rng, base)
    return canvas


def _scratch(draw: ImageDraw.ImageDraw, rng: Random, base: Any) -> None:
    """A thin curve, lighter or darker than the background."""
    start, step = rng.uniform(0, SIDE, 2), rng.normal(0, 1, 2) * 8
    points = start + np.cumsum(step + rng.normal(0, 2, (5, 2)), axis=0)
    shade = np.clip(base + rng.choice([-1, 1]) * rng.uniform(20, 70), 0, 255)
    corners = [(float(x), float(y)) for x, y in points * SCALE]
    draw.line(corners, _rgb(shade), int(rng.integers(2, 5)), joint="curve")


def _draw_shape(canvas: Image.Image, rng: Random) -> tuple[str, str, Mask]:
    color, kind = str(rng.choice(list(COLORS))), str(rng.choice(KINDS))
    radius = rng.uniform(10, 24)
    center = rng.uniform(radius * 0.7, SIDE - radius * 0.7, 2)
    points = center + _outline(kind, rng) * radius
    corners = [(float(x), float(y)) for x, y in points * SCALE]
    shaded = np.clip(np.array(COLORS[color]) + rng.uniform(-22, 22, 3), 0, 255)
    stencil = Image.new("L", canvas.size)
    ImageDraw.Draw(stencil).polygon(corners, fill=255)
    skin = Image.new("RGB", canvas.size, _rgb(shaded))
    if rng.random() < 0.5:
        other = shaded * rng.uniform(0.6, 0.8) + rng.choice([0, 60]) * np.ones(3)
        _decorate(
            ImageDraw.Draw(skin),
            rng,
            corners=corners,
            center=center * SCALE,
            radius=radius * SCALE,
            color=_rgb(other),
        )
    canvas.paste(skin, mask=stencil)
    mask = np.asarray(stencil.resize((SIDE, SIDE), Image.Resampling.BOX)) >= 128
    return color, kind, mask


def _decorate(
    draw: ImageDraw.ImageDraw,
    rng: Random,
    *,
    corners: list[tuple[float, float]],
    center: Any,
    radius: float,
    color: tuple[int, int, int],
) -> None:
    """Stripes, dots, rays or a rim; what exceeds the outline is cut off later."""
    pattern = rng.integers(4)
    angle, count = rng.uniform(0, np.pi), int(rng.integers(3, 7))
    width = max(2, round(radius / count * 0.6))
    if pattern == 0:
        draw.line([*corners, corners[0]], color, width)
        return
    for place in np.linspace(-0.9, 0.9, count):
        if pattern == 1:
            ends = np.array([(place, -1), (place, 1)]) @ _rotation(angle)
        elif pattern == 2:
            ends = np.array([(0, 0), (1, 0)]) @ _rotation(angle + np.pi * place / 0.9)
        else:
            ends = rng.uniform(-0.7, 0.7, 2) + np.array([(-0.5, -0.5), (0.5, 0.5)]) / count
        (x0, y0), (x1, y1) = center + ends * radius
        if pattern == 3:
            draw.ellipse((x0, y0, x1, y1), color)
        else:
            draw.line((x0, y0, x1, y1), color, width)


def _rgb(values: Any) -> tuple[int, int, int]:
    red, green, blue = np.clip(values, 0, 255)
    return int(red), int(green), int(blue)


def _outline(kind: str, rng: Random) -> Any:
    """Corners around the origin within a unit circle, rotated at random."""
    angle = rng.uniform(0, 2 * np.pi)
    if kind == "circle":
        return _ring(np.ones(28), angle) * [1, rng.uniform(0.85, 1)]
    if kind == "square":
        return _ring(np.ones(4), angle)
    if kind == "triangle":
        return _ring(np.ones(3), angle)
    if kind == "star":
        return _ring(np.tile([1, 0.45], int(rng.integers(5, 8))), angle)
    if kind == "cross":
        arm = rng.uniform(0.25, 0.36)
        quarter = [(arm, 1), (arm, arm), (1, arm), (1, -arm)]
        corners = [np.array(p) @ _rotation(-k * np.pi / 2) for k in range(4) for p in quarter]
        return np.array(corners)[:, :2] * 0.95 @ _rotation(angle)
    half = rng.uniform(0.16, 0.26)
    return np.array([(-1, -half), (1, -half), (1, half), (-1, half)]) @ _rotation(angle)


def _ring(radii: Any, angle: float) -> Any:
    angles = angle + np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _rotation(angle: float) -> Any:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
