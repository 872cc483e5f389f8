"""The float twin of the integer context model (`pillow_sdl.latent.context`), which can be trained.

While its rounding is on, weights and activations are rounded as the integer model rounds them, with the gradient of no
rounding.  `tensors` writes the integer table of SPEC 8.6.3, and `from_tensors` reads it.

Sources: Balle et al. 2019 (ICLR) for integer networks; Jacob et al. 2018, arXiv 1712.05877, for training with rounding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pillow_sdl.latent import context

if TYPE_CHECKING:
    from collections.abc import Mapping

UNIT: Final = 40.0
"""Input units in one standard deviation of a channel."""

SETS: Final = 7
"""Sets of own-group weights, numbered from 0.  Set 0 has none."""

OWN: Final = tuple(f"own{number}" for number in range(1, SETS))
FIRST: Final = ("earlier", *OWN, "rate")
"""Names of the weights of layer 1."""

LAYERS: Final = (("1", FIRST), ("2", ("weight2",)), ("3", ("weight3",)))
"""Layers of a group's network, and the weights of each, which share a shift by row."""

MEAN_BITS: Final = 4
"""Means have a resolution of one input unit divided by 2 to the power of this number; all else is in whole units."""


class Rounding:
    """Rounds to integers with the gradient of no rounding, while `on` is true."""

    on = False

    def weights(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return weights (rows, ...) that share a shift by row, at the precision of int8."""
        if not self.on:
            return tensors
        with torch.no_grad():
            grain = torch.exp2(-shifts(tensors).float())
        return [_through(w, _spread(grain, w)) for w in tensors]

    def value(self, x: Tensor, grain: float = 1 / UNIT) -> Tensor:
        """Return inputs or hidden values at the precision of integers."""
        return _through(x, grain) if self.on else x


def _means(layer: str, size: int) -> slice:
    """Return the rows of a layer that give means, for a group of `size` channels."""
    return {"1": slice(-size, None), "2": slice(0, 0), "3": slice(size)}[layer]


def _spread(grain: Tensor, like: Tensor) -> Tensor:
    return grain.view(-1, *[1] * (like.ndim - 1))


def _through(x: Tensor, grain: Tensor | float) -> Tensor:
    with torch.no_grad():
        error = torch.round(x / grain) * grain - x
    return x + error


def shifts(tensors: list[Tensor]) -> Tensor:
    """Return the bits by which each row of these weights can be shifted left and still fit into int8."""
    largest = torch.stack([t.abs().flatten(1).amax(1) for t in tensors if t.numel()]).amax(0)
    return torch.floor(torch.log2(127 / largest.clamp_min(1e-6))).clamp(4, 14)


class ContextModel(nn.Module):
    """The float twin.  Its means and inputs are in standard deviations of a channel."""

    order: Tensor
    octaves: Tensor

    def __init__(
        self, order: np.ndarray, sizes: list[int], deviation: np.ndarray, hidden: list[int], window: int, reach: int
    ) -> None:
        """Make an untrained model.

        order: channels in coding order, (C,).   sizes: channels of each group.   deviation: of each channel, (C,).
        hidden: values of the two hidden layers.   window, reach: see `context.Model`.
        """
        super().__init__()
        self.sizes = sizes
        exponent = np.rint(256 * np.log2(UNIT / deviation)).astype(np.int16)
        self.exponent = exponent
        # Buffers follow the parameters to a GPU.  They are not persistent, because they are not trained.
        self.register_buffer("order", torch.as_tensor(order), persistent=False)
        octaves = torch.as_tensor(exponent[order] / 256 - math.log2(UNIT), dtype=torch.float32)
        self.register_buffer("octaves", octaves, persistent=False)
        self.rounding = Rounding()
        self.groups = nn.ModuleList()  # of ParameterDict
        self.window, self.reach = window, reach
        self.passes = context.passes(reach)
        side = 2 * window + 1
        known = [0] * SETS
        for step in self.passes:
            known[step.weights] = int(step.known.sum())
        count = len(self.passes)
        earlier = 0
        for size in sizes:
            rows = hidden[0] + size
            group = nn.ParameterDict()
            group["earlier"] = torch.randn(rows, earlier, side, side) * (0.7 / math.sqrt(max(earlier, 1) * side**2))
            for name, places in zip(OWN, known[1:], strict=True):
                group[name] = torch.randn(rows, size, places) * (0.7 / math.sqrt(size * places))
            group["rate"] = torch.zeros(rows, 1)
            group["bias1"] = torch.randn(count, rows) * 0.1
            group["weight2"] = torch.randn(hidden[1], hidden[0]) * (0.7 / math.sqrt(hidden[0]))
            group["bias2"] = torch.zeros(count, hidden[1])
            group["weight3"] = torch.zeros(2 * size, hidden[1])
            group["bias3"] = torch.zeros(count, 2 * size)
            with torch.no_grad():
                for name in ("earlier", *OWN):
                    group[name][hidden[0] :] = 0
            self.groups.append(group)
            earlier += size

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> ContextModel:
        """Return the twin of an integer table (SPEC 8.6.3)."""
        sizes = tensors["sizes"].tolist()
        deviation = UNIT / np.exp2(tensors["exponent"] / 256)
        hidden = [len(tensors["0.rate"]) - sizes[0], len(tensors["0.weight2"])]
        window = tensors["0.earlier"].shape[2] // 2
        model = cls(tensors["order"].astype(np.int64), sizes, deviation, hidden, window, int(tensors["reach"][0]))
        with torch.no_grad():
            for index, (size, group) in enumerate(zip(sizes, model.networks, strict=True)):
                for layer, names in LAYERS:
                    fine = torch.zeros(len(tensors[f"{index}.shift{layer}"]))
                    fine[_means(layer, size)] = MEAN_BITS
                    shift = torch.from_numpy(tensors[f"{index}.shift{layer}"].astype(np.float32)) + fine
                    for name in names:
                        values = torch.from_numpy(tensors[f"{index}.{name}"].astype(np.float32))
                        group[name].copy_(values * _spread(torch.exp2(-shift), values))
                    bias = torch.from_numpy(tensors[f"{index}.bias{layer}"].astype(np.float32))
                    bias = bias - torch.exp2(shift - fine - 1).floor()
                    group[f"bias{layer}"].copy_(bias / (UNIT * torch.exp2(shift)))
        return model

    @property
    def networks(self) -> list[nn.ParameterDict]:
        """The parameters of each group."""
        return [group for group in self.groups if isinstance(group, nn.ParameterDict)]

    def forward(self, symbols: Tensor, log2_steps: Tensor, priced: Tensor | None = None) -> Tensor:
        """Return the bits (B,) that symbols (B, C, h, w) cost.

        log2_steps: log2 of the steps, (B, C).   priced: symbols with noise, whose price is wanted; the contexts come
        from `symbols`.  None for `symbols`.
        """
        rounding = self.rounding
        priced = (symbols if priced is None else priced)[:, self.order]
        symbols, octaves = symbols[:, self.order], log2_steps[:, self.order] + self.octaves
        inputs = symbols * torch.exp2(octaves)[:, :, None, None]
        inputs = rounding.value(inputs).clamp(-context.INPUT / UNIT, context.INPUT / UNIT)
        rate = ((octaves.mean(1) + math.log2(UNIT) - 4) * 32).clamp(-127, 127)[:, None, None, None] / UNIT
        height, width = symbols.shape[2:]
        # Gathered for all channels at once, because many small operations would take most of the time.
        around = self._around(inputs)
        bits = symbols.new_zeros(len(symbols))
        begin = 0
        for size, group in zip(self.sizes, self.networks, strict=True):
            end = begin + size
            weights = dict(zip(FIRST, rounding.weights([group[name] for name in FIRST]), strict=True))
            weight2, weight3 = rounding.weights([group["weight2"]])[0], rounding.weights([group["weight3"]])[0]
            dense = rate * weights["rate"].view(1, -1, 1, 1)
            if begin:
                dense = dense + F.conv2d(inputs[:, :begin], weights["earlier"], padding=self.window)
            dense = dense.expand(-1, -1, height, width)
            for number, step in enumerate(self.passes):
                places = np.s_[:, :, step.top :: step.stride, step.left :: step.stride]
                x = dense[places] + group["bias1"][number][:, None, None]
                if step.weights:
                    own = weights[OWN[step.weights - 1]]
                    x = x + torch.einsum("onk,bnkhw->bohw", own, around[number][:, begin:end])
                linear = x[:, -size:]
                top = context.INPUT / UNIT
                hidden = rounding.value(x[:, :-size].clamp(0, top))
                hidden = torch.einsum("oi,bihw->bohw", weight2, hidden) + group["bias2"][number][:, None, None]
                hidden = rounding.value(hidden.clamp(0, top))
                found = torch.einsum("oi,bihw->bohw", weight3, hidden) + group["bias3"][number][:, None, None]
                mean, spread = linear + found[:, :size], 2.5 * found[:, size:]
                exponent = octaves[:, begin:end, None, None]
                bits = bits + _bits(priced[:, begin:end][places] - mean * torch.exp2(-exponent), spread - exponent)
            begin = end
        return bits

    def _around(self, inputs: Tensor) -> list[Tensor]:
        """Return what each pass knows around its positions, zero outside the latent.

        Inputs (B, C, h, w) -> for each pass (B, C, places, rows, columns).
        """
        margin = self.reach * context.BASE // 2
        padded = F.pad(inputs, (margin,) * 4)
        found = []
        for step in self.passes:
            rows, columns = inputs[0, 0, step.top :: step.stride, step.left :: step.stride].shape
            near = [
                padded[:, :, margin + step.top + dy :: step.stride, margin + step.left + dx :: step.stride]
                for dy, dx in ((np.argwhere(step.known) - self.reach) * step.step).tolist()
            ]
            places = [place[:, :, :rows, :columns] for place in near]
            found.append(torch.stack(places, 2) if places else inputs.new_zeros(*inputs.shape[:2], 0, rows, columns))
        return found

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the integer table (SPEC 8.6.3)."""
        found = {
            "order": self.order.cpu().numpy().astype(np.uint8),
            "sizes": np.array(self.sizes, np.uint8),
            "exponent": self.exponent,
            "reach": np.array([self.reach], np.uint8),
        }
        for index, (size, group) in enumerate(zip(self.sizes, self.networks, strict=True)):
            for layer, names in LAYERS:
                parts = [group[name].detach().cpu() for name in names]
                shift = shifts(parts)
                for name, part in zip(names, parts, strict=True):
                    values = torch.round(part * _spread(torch.exp2(shift), part))
                    found[f"{index}.{name}"] = values.numpy().astype(np.int8)
                bias = torch.round(group[f"bias{layer}"].detach().cpu() * UNIT * torch.exp2(shift))
                fine = torch.zeros_like(shift)
                fine[_means(layer, size)] = MEAN_BITS
                bias += torch.exp2(shift - fine - 1).floor()  # The integer model's shift then rounds halves up.
                found[f"{index}.bias{layer}"] = bias.numpy().astype(np.int32)
                found[f"{index}.shift{layer}"] = (shift - fine).numpy().astype(np.uint8)
        return {name: np.ascontiguousarray(value) for name, value in found.items()}


def _bits(distance: Tensor, spread: Tensor) -> Tensor:
    """Return the bits (B,) of symbols under normal distributions.

    distance: of each symbol from the mean, (B, ...).   spread: log2 of the standard deviation in symbols.
    """
    deviation = torch.exp2(spread.clamp(-3.5, 12))
    distance = distance.abs()
    probability = torch.special.ndtr((0.5 - distance) / deviation) - torch.special.ndtr((-0.5 - distance) / deviation)
    return -torch.log2(probability * (1 - 2**-12) + 2**-17).sum((1, 2, 3))
