"""Train a latent space's context model (payload method 1) and write its integer table.

    python -m training.context --space sd1 --latents training/runs/latents/sd1.npz --groups 1 1 1 1 --out FOLDER

The network is trained in float32 on latents quantised at random steps; for the last part of the training its weights
and activations are rounded as the integer model rounds them (straight-through gradients), so that what ships is what
was trained.  Writes OUT/SPACE-context.safetensors, and OUT/SPACE-context.pt to go on from (--resume).

Sources: Balle et al. 2019 (integer networks), Jacob et al. 2018, arXiv 1712.05877 (training with rounding).
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pillow_sdl.latent import context, quantize, spaces
from training.shipping import replace_once

if TYPE_CHECKING:
    from collections.abc import Mapping

UNIT = 40.0
"""Input units in one standard deviation of a channel."""

SETS = 7
LAYERS = (
    ("1", ("earlier", *(f"own{number}" for number in range(1, SETS)), "rate")),
    ("2", ("weight2",)),
    ("3", ("weight3",)),
)
"""Layers of a group's network, and the weights of each, which share a shift by row."""

CROP = 40
BATCH = 8
OCTAVES = (-3.3, 0.9)
"""Range of log2 steps, in standard deviations, for spaces without a table of steps."""


class Rounding:
    """Rounds to integers with the gradient of no rounding, once switched on."""

    on = False

    def weight(self, tensors: list[Tensor]) -> list[Tensor]:
        """Weights (rows, ...) that share a shift by row, at the precision of int8."""
        if not self.on:
            return tensors
        with torch.no_grad():
            grain = torch.exp2(-shifts(tensors).float())
        return [_through(w, _spread(grain, w)) for w in tensors]

    def value(self, x: Tensor, grain: float = 1 / UNIT) -> Tensor:
        """Inputs and hidden values at the precision of integers."""
        return _through(x, grain) if self.on else x


def _means(layer: str, size: int) -> slice:
    """Rows of a layer that give means: these come in 1/16 of an input unit, all else in whole ones."""
    return {"1": slice(-size, None), "2": slice(0, 0), "3": slice(size)}[layer]


def _spread(grain: Tensor, like: Tensor) -> Tensor:
    return grain.view(-1, *[1] * (like.ndim - 1))


def _through(x: Tensor, grain: Tensor | float) -> Tensor:
    with torch.no_grad():
        error = torch.round(x / grain) * grain - x
    return x + error


def shifts(tensors: list[Tensor]) -> Tensor:
    """Bits by which each row of these weights can be moved left and still fit into int8."""
    largest = torch.stack([t.abs().flatten(1).amax(1) for t in tensors if t.numel()]).amax(0)
    return torch.floor(torch.log2(127 / largest.clamp_min(1e-6))).clamp(4, 14)


class ContextModel(nn.Module):
    """Float twin of `pillow_sdl.latent.context`; means and inputs in standard deviations of a channel."""

    order: Tensor
    octaves: Tensor

    def __init__(
        self, order: np.ndarray, sizes: list[int], deviation: np.ndarray, hidden: list[int], window: int, reach: int
    ) -> None:
        super().__init__()
        self.sizes = sizes
        exponent = np.rint(256 * np.log2(UNIT / deviation)).astype(np.int16)
        self.exponent = exponent
        # Buffers go to a GPU with the parameters; not persistent, as they are no part of what is learnt.
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
            for index in range(1, SETS):
                group[f"own{index}"] = torch.randn(rows, size, known[index]) * (0.7 / math.sqrt(size * known[index]))
            group["rate"] = torch.zeros(rows, 1)
            group["bias1"] = torch.randn(count, rows) * 0.1
            group["weight2"] = torch.randn(hidden[1], hidden[0]) * (0.7 / math.sqrt(hidden[0]))
            group["bias2"] = torch.zeros(count, hidden[1])
            group["weight3"] = torch.zeros(2 * size, hidden[1])
            group["bias3"] = torch.zeros(count, 2 * size)
            with torch.no_grad():
                for name in ("earlier", *(f"own{index}" for index in range(1, SETS))):
                    group[name][hidden[0] :] = 0
            self.groups.append(group)
            earlier += size

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> ContextModel:
        """The twin of an integer table (SPEC 8.6.3), to go on from."""
        sizes = tensors["sizes"].tolist()
        deviation = UNIT / np.exp2(tensors["exponent"] / 256)
        hidden = [len(tensors["0.rate"]) - sizes[0], len(tensors["0.weight2"])]
        window = tensors["0.earlier"].shape[2] // 2
        model = cls(tensors["order"].astype(np.int64), sizes, deviation, hidden, window, int(tensors["reach"][0]))
        with torch.no_grad():
            for index, (size, group) in enumerate(zip(sizes, model.networks, strict=True)):
                for layer, names in LAYERS:
                    fine = torch.zeros(len(tensors[f"{index}.shift{layer}"]))
                    fine[_means(layer, size)] = 4
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
        """Symbols (B, C, h, w), log2 of the steps (B, C) -> bits (B,).

        priced: what is priced in their stead, the contexts staying those of `symbols`: the same with uniform noise.
        """
        rounding = self.rounding
        priced = (symbols if priced is None else priced)[:, self.order]
        symbols, octaves = symbols[:, self.order], log2_steps[:, self.order] + self.octaves
        inputs = symbols * torch.exp2(octaves)[:, :, None, None]
        inputs = rounding.value(inputs).clamp(-context.INPUT / UNIT, context.INPUT / UNIT)
        rate = ((octaves.mean(1) + math.log2(UNIT) - 4) * 32).clamp(-127, 127)[:, None, None, None] / UNIT
        height, width = symbols.shape[2:]
        # Of all channels at once, and the groups take theirs: many small operations would be most of the time.
        around = self._around(inputs)
        bits = symbols.new_zeros(len(symbols))
        begin = 0
        for size, group in zip(self.sizes, self.networks, strict=True):
            end = begin + size
            names = ["earlier", *(f"own{index}" for index in range(1, SETS)), "rate"]
            weights = dict(zip(names, rounding.weight([group[name] for name in names]), strict=True))
            weight2, weight3 = rounding.weight([group["weight2"]])[0], rounding.weight([group["weight3"]])[0]
            dense = rate * weights["rate"].view(1, -1, 1, 1)
            if begin:
                dense = dense + F.conv2d(inputs[:, :begin], weights["earlier"], padding=self.window)
            dense = dense.expand(-1, -1, height, width)
            for number, step in enumerate(self.passes):
                places = np.s_[:, :, step.top :: step.stride, step.left :: step.stride]
                x = dense[places] + group["bias1"][number][:, None, None]
                if step.weights:
                    own = weights[f"own{step.weights}"]
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
        """What each pass knows around its positions: (B, C, h, w) -> (B, C, places, rows, columns); zero outside."""
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
        """The integer table (SPEC 8.6.3)."""
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
                fine[_means(layer, size)] = 4
                bias += torch.exp2(shift - fine - 1).floor()  # rounds half up
                found[f"{index}.bias{layer}"] = bias.numpy().astype(np.int32)
                found[f"{index}.shift{layer}"] = (shift - fine).numpy().astype(np.uint8)
        return {name: np.ascontiguousarray(value) for name, value in found.items()}


def _bits(distance: Tensor, spread: Tensor) -> Tensor:
    """Bits (B,) of symbols at a distance from the mean of a normal distribution, log2 of whose deviation is given."""
    deviation = torch.exp2(spread.clamp(-3.5, 12))
    distance = distance.abs()
    probability = torch.special.ndtr((0.5 - distance) / deviation) - torch.special.ndtr((-0.5 - distance) / deviation)
    return -torch.log2(probability * (1 - 2**-12) + 2**-17).sum((1, 2, 3))


def distributions() -> dict[str, np.ndarray]:
    """The table of distributions that all spaces share: sizes uint8 (rows,), frequencies uint16 (entries,).

    Row 16 i + f: normal, deviation 2^((i - 28) / 8), mean (f - 8) / 16; values -w..w with w the least whose tail is
    below 2^-14, and one entry on each side for all beyond.
    """
    sizes, frequencies = [], []
    for index in range(context.SPREADS):
        deviation = 2 ** ((index - 28) / 8)
        for fraction in range(context.FRACTIONS):
            mean = (fraction - context.FRACTIONS // 2) / context.FRACTIONS
            reach = 1
            while 0.5 * math.erfc((reach + 0.5 - abs(mean)) / deviation / math.sqrt(2)) > 2**-14:
                reach += 1
            edges = np.arange(-reach - 0.5, reach + 1)
            below = np.array([0.0, *(0.5 * math.erfc((mean - e) / deviation / math.sqrt(2)) for e in edges), 1.0])
            probability = np.diff(below)
            whole = np.maximum(np.rint(probability * 65536), 1).astype(np.int64)
            whole[whole.argmax()] += 65536 - whole.sum()
            sizes.append(len(whole))
            frequencies.append(whole)
    return {"sizes": np.array(sizes, np.uint8), "frequencies": np.concatenate(frequencies).astype(np.uint16)}


def crop(latent: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random square of a latent, float32 (C, CROP, CROP), edges repeated where it is smaller."""
    top, left = (int(generator.integers(max(side - CROP, 0) + 1)) for side in latent.shape[1:])
    found = latent[:, top : top + CROP, left : left + CROP].astype(np.float32)
    found = np.pad(found, ((0, 0), (0, CROP - found.shape[1]), (0, CROP - found.shape[2])), mode="edge")
    return found[:, :, ::-1] if generator.random() < 0.5 else found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", required=True)
    parser.add_argument("--latents", type=Path, required=True, help="as training.latents wrote them")
    parser.add_argument("--groups", type=int, nargs="+", required=True, help="channels of each group")
    parser.add_argument("--hidden", type=int, nargs=2, default=[96, 48])
    parser.add_argument("--window", type=int, default=3, help="positions around one, of earlier groups")
    parser.add_argument("--reach", type=int, default=4, help="grid steps around one, of the own group")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=2e-3, help="of learning, at most")
    parser.add_argument("--rounded", type=float, default=0.3, help="share of the steps with rounding")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--ship", action="store_true", help="put the tables into the package, their hashes into the code"
    )
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    generator = np.random.default_rng(options.seed)
    with np.load(options.latents) as archive:
        latents = [archive[name] for name in archive.files]
    energy = np.mean([np.square(latent, dtype=np.float32).mean((1, 2)) for latent in latents], 0)
    deviation = np.sqrt(energy)
    table = None
    order = np.arange(len(energy))
    if options.space in {space.name for space in spaces.SPACES}:
        table = spaces.by_name(options.space).tables.log2_steps
        if len(order) > 16:
            order = np.argsort(-deviation / quantize.steps(table, 128))
    model = ContextModel(order, options.groups, deviation, options.hidden, options.window, options.reach)
    saved = options.out / f"{options.space}-context.pt"
    optimizer = torch.optim.Adam(model.parameters(), options.rate)
    first = 0
    if options.resume and saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    total = 0.0
    for index in range(first, options.steps):
        share = index / options.steps
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1, (index + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * share) + 0.01)
        model.rounding.on = share > 1 - options.rounded
        latent = np.stack([crop(latents[generator.integers(len(latents))], generator) for _ in range(BATCH)])
        if table is None:
            octave = generator.uniform(*OCTAVES, (BATCH, 1)) + np.log2(deviation.mean())
            steps = np.exp2(np.repeat(octave, len(energy), 1)).astype(np.float32)
        else:
            steps = np.stack([quantize.steps(table, int(code)) for code in generator.integers(0, 256, BATCH)])
        symbols = torch.from_numpy(np.rint(latent / steps[:, :, None, None]))
        # Every file counts alike, whatever its size: the logarithm's gradient is the relative one.
        loss = torch.log2(model(symbols, torch.from_numpy(np.log2(steps))) + 100).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        if index % 100 == 99:
            print(f"{index + 1} log2 bits {total / 100:.4f} {time.monotonic() - started:.0f} s", flush=True)
            total = 0.0
        if index % 500 == 499 or index == options.steps - 1:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": index + 1}
            torch.save(state, saved)
            save_file(model.tensors(), options.out / f"{options.space}-context.safetensors")
    if options.ship:
        ship(options.space, load_file(options.out / f"{options.space}-context.safetensors"))


def ship(space: str, tensors: dict[str, np.ndarray]) -> None:
    """Write a space's table and the distributions into `weights/`, and their hashes into the code and the registry."""
    for name, arrays in ((f"{space}-context", tensors), ("distributions", distributions())):
        path = spaces.WEIGHTS / f"{name}.safetensors"
        save_file(arrays, path)
        path.chmod(0o644)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        root = spaces.WEIGHTS.parent.parent
        label = "DISTRIBUTIONS: Final =" if name == "distributions" else f'"{space}":'
        replace_once(root / "pillow_sdl/latent/context.py", rf'({label} ")[^"]*', digest)
        replace_once(root / "spec/registry.md", rf"({name}\.safetensors` \| )[^ ]*", digest)


if __name__ == "__main__":
    main()
