"""What all training loops share: learning rates, a step down the loss, the running mean, the log and the checkpoint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from torch import Tensor, nn

from training import muon

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Network = TypeVar("Network", bound=nn.Module)

CHECKPOINT: Final = "checkpoint.pt"
"""Name of the checkpoint in a run's folder."""

AVERAGE_DECAY: Final = 0.999

LONGEST_GRADIENT: Final = 1.0
"""Norm that a gradient is cut to."""


def default_device() -> torch.device:
    """Return a GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def channels_last(network: Network) -> Network:
    """Bring the weights of convolutions into the order that CPUs compute fastest, and return the network."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def ramp(progress: float, start: float, end: float) -> float:
    """Return 0 before `start`, 1 after `end`, and values on a line between."""
    return min(1.0, max(0.0, (progress - start) / (end - start)))


def half_cosine(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then half a cosine down to a fiftieth of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def trapezoid(step: int, steps: int, peak: float, warm_up: int, cooldown: float) -> float:
    """Return the learning rate of a step: a linear warm-up, the peak, and a linear way down to zero.

    cooldown: part of the steps in which the rate falls.
    """
    rising = min(1.0, (step + 1) / warm_up)
    falling = min(1.0, (steps - step) / max(1.0, cooldown * steps))
    return peak * rising * falling


def descend(loss: Tensor, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer], lr: float) -> float:
    """Take one step of all optimizers down a loss (), and return the gradient's norm.

    optimizers: as `muon.optimizers` makes them.   If the norm is not finite, no weight has changed.
    """
    network.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(network.parameters(), LONGEST_GRADIENT)
    if torch.isfinite(norm):
        muon.step(optimizers, lr)
    return norm.item()


@torch.no_grad()
def running_mean(
    average: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], seen: Tensor | int
) -> None:
    """Update an exponential mean of weights in place.  Its memory is short at first.

    seen: number of updates before this one.
    """
    decay = min(AVERAGE_DECAY, (1 + int(seen)) / (10 + int(seen)))
    torch._foreach_lerp_(average, current, 1 - decay)


def means(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each value over the steps that have it."""
    found: dict[str, list[float]] = {}
    for parts in history:
        for name, value in parts.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sorted(found.items())}


def record(checkpoint: Path, row: dict[str, float], state: dict[str, Any]) -> None:
    """Print a line of the log, add it to log.txt beside the checkpoint, and replace the checkpoint in one step."""
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    with checkpoint.with_name("log.txt").open("a") as file:
        file.write("  ".join(f"{name} {value:.6g}" for name, value in row.items()) + "\n")
    replace(checkpoint, state)


def replace(checkpoint: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that it holds either the new state or what it held before."""
    torch.save(state, checkpoint.with_suffix(".tmp"))
    checkpoint.with_suffix(".tmp").replace(checkpoint)
