"""Find text and faces in pictures, with packages of the extra `pillow-sdl[guard]`.

Text: the detector of RapidOCR (PP-OCR, Apache-2.0).  Faces: the frontal face detector of dlib (Boost license), which
finds faces of about 20 pixels and more in pictures of up to a megapixel, and of about 40 in larger ones.  The weights
of both are in their packages; nothing is downloaded.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Box = tuple[int, int, int, int]

FACE_SCORE: Final = 0.3
"""Least score of a face.  Lower ones find faces in fences and foliage."""

SMALL: Final = 1 << 20
"""Pixels of a picture up to which it is doubled in size twice, not once, before faces of 80 pixels are looked for.

The second doubling takes four times as long as the first.
"""


def find(name: str, pixels: NDArray[np.uint8]) -> list[Box]:
    """Return the boxes of what a detector finds: left, top, right, bottom in pixels, not cut to the picture.

    name: "text" or "faces".   pixels: uint8 (H, W, 3).
    Raises ValueError, with the install line, if the detector's package is missing.
    """
    try:
        return _DETECTORS[name](pixels)
    except ImportError as exc:
        msg = f"guard={name!r} needs a detector: pip install 'pillow-sdl[guard]' ({exc})"
        raise ValueError(msg) from exc


@cache
def _text_detector() -> Any:
    from rapidocr import RapidOCR

    return RapidOCR(params={"Global.log_level": "critical"})


def _text(pixels: NDArray[np.uint8]) -> list[Box]:
    found = _text_detector()(pixels[:, :, ::-1], use_det=True, use_cls=False, use_rec=False).boxes
    if found is None:
        return []
    corners = np.asarray(found)
    ends = np.floor(corners.min(1)).astype(int), np.ceil(corners.max(1)).astype(int)
    return [(left, top, right, bottom) for left, top, right, bottom in np.hstack(ends).tolist()]


@cache
def _face_detector() -> Any:
    import dlib

    return dlib.get_frontal_face_detector()


def _faces(pixels: NDArray[np.uint8]) -> list[Box]:
    doublings = 2 if pixels.shape[0] * pixels.shape[1] <= SMALL else 1
    boxes = _face_detector().run(np.ascontiguousarray(pixels), doublings, FACE_SCORE)[0]
    return [(box.left(), box.top(), box.right() + 1, box.bottom() + 1) for box in boxes]


_DETECTORS: Final[dict[str, Callable[[NDArray[np.uint8]], list[Box]]]] = {"text": _text, "faces": _faces}
