"""Show the frames of an animation, each made of the one before it (SPEC 9.5).

Going forward costs the changes in between.  Going back begins again at frame 0, as in Pillow's plugins for GIF and
WebP.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from . import decode, moving, progress
from .format.frames import Box
from .latent import scalar, spaces

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .decode import Decoded
    from .format.container import Container
    from .format.frames import Frame
    from .latent.base import Quantized


class Player:
    """The frames of a file, one at a time.  It keeps the frame that was shown last."""

    def __init__(self, file: Container) -> None:
        """Set the player up before frame 0.   file: its container, with or without further frames.

        Raises MalformedError and LimitError for the list of further frames.
        """
        self._file = file
        found = decode.read_frames(file)
        self._further: Sequence[Frame] = found.further if found else ()
        self._state: _State | None = None

    def show(self, index: int) -> Decoded:
        """Return a frame: pixels uint8 (H, W, bands of the mode).   index: 0 to the number of further frames.

        Raises SdlError: MalformedError and its like for the file, ModelError, BackendError.
        """
        state = self._state
        self._state = None  # A frame that fails must not leave half of its changes.
        if state is not None and state.index > index:
            state = None
        known = 0 if state is None else state.index
        # A frame whose pixels are all new needs no pixels of the frames before it.
        whole = max((at for at in range(known + 1, index + 1) if self._is_whole(self._further[at - 1])), default=known)
        steps = 1 + index - known
        if state is None:
            with progress.part(0, 1 / steps):
                state = self._first(with_pixels=not whole)
        for at in range(known + 1, index + 1):
            with progress.part((at - known) / steps, (at - known + 1) / steps):
                state = self._next(state, self._further[at - 1], with_pixels=at >= whole)
        self._state = state
        assert state.decoded is not None
        pixels = decode.assemble(state.decoded.pixels, state.alpha, self._file.header.mode)
        return state.decoded._replace(pixels=pixels)

    def _is_whole(self, frame: Frame) -> bool:
        """Whether all pixels of a frame are decoded anew."""
        width, height = moving.positions(self._file.header)
        return Box(0, 0, width, height) in moving.shown(frame, self._file.header)

    def _first(self, *, with_pixels: bool) -> _State:
        found, alpha = decode.quantized(self._file), decode.read_alpha(self._file)
        decoded = None
        if with_pixels:
            decoded = decode.of_network(self._file, found)
            color = decoded.pixels.copy()
            decode.add_patches(self._file, color)
            decoded = decoded._replace(pixels=color)
        return _State(0, found, alpha, decoded)

    def _next(self, state: _State, frame: Frame, *, with_pixels: bool) -> _State:
        """Return the state after a frame's changes."""
        header = self._file.header
        symbols = moving.with_changes(frame, state.found.symbols, header)
        step = scalar.steps(spaces.tables(spaces.by_code(header.space)).log2_steps, header.rate)
        found = replace(state.found, symbols=symbols, dequantize=lambda: scalar.dequantize(symbols, step))
        alpha = None if state.alpha is None else moving.with_alpha(frame, state.alpha)
        decoded = state.decoded if with_pixels or not frame.changes else None
        boxes = moving.shown(frame, header)
        if with_pixels and boxes:
            decoded = decode.of_network(self._file, found, boxes, state.decoded and state.decoded.pixels)
        return _State(state.index + 1, found, alpha, decoded)


class _State:
    """The frame that was shown last.

    found: its symbols.   alpha: its alpha plane, uint8 (H, W), None without alpha.
    decoded: its colors before they become gray, uint8 (H, W, 3); None if a later frame is needed first.
    """

    def __init__(self, index: int, found: Quantized, alpha: NDArray[np.uint8] | None, decoded: Decoded | None) -> None:
        self.index = index
        self.found = found
        self.alpha = alpha
        self.decoded = decoded
