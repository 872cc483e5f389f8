"""Write the ONNX graphs of the embedded autoencoder: small files that refer to the tensors of the safetensors file.

Each float16 tensor of the weights becomes external data of the graph (file name, offset, length) and is cast to float32
when the graph is loaded.  The graphs take and give arrays as Pillow has them, uint8 (H, W, 3).

`training.ship` calls `write`.  It needs the packages onnx and onnxscript.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, Final

import onnx
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path

OPSET: Final = 18


class EncoderGraph(nn.Module):
    """Pixels uint8 (H, W, 3) -> latent float32 (C, h, w)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        found: Tensor = self.encoder(pixels.permute(2, 0, 1)[None].float() / 255)[0]
        return found


class DecoderGraph(nn.Module):
    """Latent float32 (C, h, w) and rate float32 (1,) in 0..1 -> pixels uint8 (H, W, 3)."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latent: Tensor, rate: Tensor) -> Tensor:
        """See the class."""
        shown = self.decoder(latent[None], rate)[0]
        found: Tensor = shown.mul(255).round().clamp(0, 255).permute(1, 2, 0).to(torch.uint8)
        return found


def write(encoder: nn.Module, decoder: nn.Module, weights: Path, *, channels: int, factor: int) -> dict[str, Path]:
    """Write the two graphs beside a file of weights; returns their paths, "encoder" and "decoder".

    encoder, decoder: networks in float32, in evaluation mode.   weights: safetensors file of their tensors in float16,
    under the names "encoder.*" and "decoder.*".
    """
    auto = torch.export.Dim.AUTO
    pixels = torch.zeros(3 * factor, 4 * factor, 3, dtype=torch.uint8)
    latent = torch.zeros(channels, 3, 5)
    found = {}
    for name, module, inputs, names, shapes in (
        ("encoder", EncoderGraph(encoder), (pixels,), ["pixels"], ({0: auto, 1: auto},)),
        ("decoder", DecoderGraph(decoder), (latent, torch.zeros(1)), ["latent", "rate"], ({1: auto, 2: auto}, None)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                inputs,
                input_names=names,
                output_names=["pixels" if name == "decoder" else "latent"],
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        path = weights.with_name(f"{weights.stem}-{name}.onnx")
        path.write_bytes(with_external_data(program.model_proto, weights))
        path.chmod(0o644)
        found[name] = path
    return found


def with_external_data(model: Any, weights: Path) -> bytes:
    """Return a graph whose weights are those of a safetensors file.   model: as exported, with float32 weights."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    tensors, casts = [], []
    for tensor in model.graph.initializer:
        if tensor.name not in entries:
            tensors.append(tensor)
            continue
        entry = entries[tensor.name]
        assert entry["dtype"] == "F16", f"{tensor.name} is stored as {entry['dtype']}, not F16"
        assert list(tensor.dims) == entry["shape"], f"{tensor.name} has another shape in the graph"
        begin, end = entry["data_offsets"]
        stored = onnx.TensorProto(
            name=f"{tensor.name}.stored",
            data_type=onnx.TensorProto.FLOAT16,
            dims=tensor.dims,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        for key, value in (("location", weights.name), ("offset", 8 + length + begin), ("length", end - begin)):
            stored.external_data.add(key=key, value=str(value))
        tensors.append(stored)
        casts.append(onnx.helper.make_node("Cast", [stored.name], [tensor.name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.graph.initializer[:], model.graph.node[:], model.graph.value_info[:], model.metadata_props[:]
    model.graph.initializer.extend(tensors)
    model.graph.node.extend(nodes)
    model.graph.doc_string = ""
    model.producer_version = ""  # Builds of torch for other processors write the same graph.
    found: bytes = model.SerializeToString(deterministic=True)
    return found
