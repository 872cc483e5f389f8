"""Crops that are drawn, not photographed: flat colors, gradients, stripes, chessboards and small print.

Photos hold few of these.  A network that has seen none of them changes their colors.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

Array: TypeAlias = NDArray[np.floating[Any]]

SATURATED: Final = 0.3
"""Share of colors that are corners of the color cube."""


def _color(generator: np.random.Generator) -> Array:
    if generator.random() < SATURATED:
        return generator.integers(0, 2, 3) * 255.0
    return generator.uniform(0, 255, 3)


def _flat(size: int, generator: np.random.Generator) -> Array:
    return np.broadcast_to(_color(generator), (size, size, 3))


def _gradient(size: int, generator: np.random.Generator) -> Array:
    angle = generator.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] / (size - 1) - 0.5
    position = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[:, :, None]
    found: Array = _color(generator) * (1 - position) + _color(generator) * position
    return found


def _pattern(size: int, generator: np.random.Generator) -> Array:
    """Draw stripes or a chessboard with cells of 2 to 32 pixels."""
    y, x = np.mgrid[:size, :size]
    cell = int(2 ** generator.uniform(1, 5))
    lines = (x if generator.random() < 0.5 else y) // cell
    cells = lines if generator.random() < 0.5 else x // cell + y // cell
    return np.where((cells % 2 == 0)[:, :, None], _color(generator), _color(generator))


def _print(size: int, generator: np.random.Generator) -> Array:
    """Draw lines of random letters, 10 to 28 pixels high, dark on light or light on dark."""
    dark, light = generator.integers(0, 90, 3), generator.integers(170, 256, 3)
    if generator.random() < 0.3:
        dark, light = light, dark
    image = Image.new("RGB", (size, size), tuple(int(v) for v in light))
    draw = ImageDraw.Draw(image)
    points = int(generator.integers(10, 29))
    font = ImageFont.load_default(points)
    letters = list(string.ascii_letters + string.digits + "    .,")
    for top in range(int(generator.integers(0, points)), size, int(1.4 * points)):
        draw.text((2, top), "".join(generator.choice(letters, size // 4)), tuple(int(v) for v in dark), font)
    return np.asarray(image, float)


KINDS: tuple[Callable[[int, np.random.Generator], Array], ...] = (_flat, _gradient, _pattern, _print)
"""Functions that draw a crop of a size in pixels, (size, size, 3) in 0..255."""


PARTIAL: Final = 0.4
"""Share of drawings that cover only a part of their photo, like a caption, a logo or a border."""


def _span(size: int, generator: np.random.Generator) -> slice:
    """Return a random part of 0..size, at least a quarter of it long.  Half of the parts reach an end."""
    length = int(generator.integers(size // 4, size + 1))
    start = int(generator.integers(0, size - length + 1))
    if generator.random() < 0.5:
        start = 0 if generator.random() < 0.5 else size - length
    return slice(start, start + length)


def mix_in(crops: Tensor, share: float, generator: np.random.Generator) -> None:
    """Draw over a share of crops (B, 3, S, S) in 0..1, in place.  Some drawings cover only a part of the crop."""
    size = crops.shape[-1]
    for crop in crops:
        if generator.random() < share:
            drawn = KINDS[generator.integers(len(KINDS))](size, generator)
            whole = torch.from_numpy(np.clip(np.rint(drawn), 0, 255).astype(np.float32) / 255).permute(2, 0, 1)
            rows = columns = slice(None)
            if generator.random() < PARTIAL:
                rows, columns = _span(size, generator), _span(size, generator)
            crop[:, rows, columns] = whole[:, rows, columns]
