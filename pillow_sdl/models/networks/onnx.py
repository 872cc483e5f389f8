"""The embedded autoencoder on ONNX Runtime, which runs it on CPUs without PyTorch.

The graphs are small files beside the weights.  They refer to the tensors of the safetensors file by name, offset and
length (ONNX external data), so the weights exist once.  `training.graphs` writes them.

This module imports onnxruntime, so import it only when a network is needed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# The official builds send usage data and write a device id below the user's cache unless this is set before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime

from ... import registry
from ...errors import ModelError, first_line
from ..tiled import TiledAutoencoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FATAL_ONLY = 4
"""Log severity: errors become exceptions, so nothing else needs to be printed."""

_KEPT = 1 << 19
"""Pixels up to which a tile's memory is kept for the next one, at most about 130 MB for each graph.

New memory for each run would take 5 to 15 % of the time.  After larger tiles it goes back to the system.
"""


class OnnxAutoencoder(TiledAutoencoder):
    """The network of a model with graphs.  Deterministic; one and more threads give equal pictures.

    A graph is loaded at its first use, so a program that only decodes does not load the encoder.
    """

    def __init__(self, model: registry.Model, threads: int) -> None:
        """Set up the model.   threads: CPU threads for one picture, at least 1."""
        assert model.graphs is not None
        space = registry.space(model.space)
        self.channels, self.factor, self.hash = space.channels, space.factor, model.hash
        self.encoder_margin, self.decoder_margin = model.graphs.encoder_margin, model.graphs.decoder_margin
        self._graphs, self._threads = model.graphs, threads
        self._sessions: dict[str, Any] = {}

    def _session(self, stored: registry.StoredFile) -> Any:
        if stored.file not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self._threads
            options.inter_op_num_threads = 1
            options.log_severity_level = _FATAL_ONLY
            # Threads that spin after a run would take processors from the entropy coder.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            try:
                session = onnxruntime.InferenceSession(stored.path, options, providers=["CPUExecutionProvider"])
            except Exception as exc:  # onnxruntime's exceptions have no common class but Exception.
                msg = f"cannot load the network from {stored.path}: {first_line(exc)}"
                raise ModelError(msg) from exc
            self._sessions.setdefault(stored.file, session)
        return self._sessions[stored.file]

    def _run(self, stored: registry.StoredFile, inputs: dict[str, NDArray[Any]], pixels: int) -> NDArray[Any]:
        """Return the output of a graph.   pixels: those of the tile, width x height."""
        session = self._session(stored)
        options = onnxruntime.RunOptions()
        if pixels > _KEPT:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            found: NDArray[Any] = session.run(None, inputs, options)[0]
        except Exception as exc:  # See above.
            msg = f"the network failed: {first_line(exc)}"
            raise ModelError(msg) from exc
        return found

    def encode_tile(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode pixels uint8 (H, W, 3) to a latent float32 (C, h, w)."""
        count = pixels.shape[0] * pixels.shape[1]
        return self._run(self._graphs.encoder, {"pixels": np.ascontiguousarray(pixels)}, count)

    def decode_tile(self, latent: NDArray[np.float32], rate: int | None) -> NDArray[np.uint8]:
        """Decode a latent float32 (C, h, w) to pixels uint8 (factor * h, factor * w, 3).

        Raises ValueError without a rate.
        """
        if rate is None:
            msg = "the embedded network needs the rate at which its latent was quantized"
            raise ValueError(msg)
        count = self.factor**2 * latent.shape[1] * latent.shape[2]
        return self._run(self._graphs.decoder, {"latent": latent, "rate": np.array([rate / 255], np.float32)}, count)
