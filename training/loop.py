"""What all training loops share: the learning rate's course, a step down the loss, the running mean, log and checkpoint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from training import muon

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Network = TypeVar("Network", bound=nn.Module)

WARM_UP = 200

AVERAGE_DECAY = 0.999

LONGEST_GRADIENT = 1.0
"""Norm that a gradient is cut to."""


def channels_last(network: Network) -> Network:
    """The same, its convolutions' weights lying as CPUs compute them fastest."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def ramp(progress: float, start: float, end: float) -> float:
    """0 before `start`, 1 after `end`, linear between."""
    return min(1.0, max(0.0, (progress - start) / (end - start)))


def learning_rate(step: int, steps: int, peak: float, warm_up: int = WARM_UP) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def descend(loss: Tensor, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer], lr: float) -> float:
    """One step of all optimisers down a loss (); returns the gradient's norm.

    A norm that is not finite means that nothing was changed.   optimizers: as `muon.optimizers` makes them.
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
    """Exponential mean of the weights, with a short memory at first."""
    decay = min(AVERAGE_DECAY, (1 + int(seen)) / (10 + int(seen)))
    torch._foreach_lerp_(average, current, 1 - decay)


def record(checkpoint: Path, row: dict[str, float], state: dict[str, Any]) -> None:
    """Print a line of the log and add it to log.txt beside the checkpoint, which a whole new one replaces."""
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    with checkpoint.with_name("log.txt").open("a") as file:
        file.write("  ".join(f"{name} {value:.6g}" for name, value in row.items()) + "\n")
    torch.save(state, checkpoint.with_suffix(".tmp"))
    checkpoint.with_suffix(".tmp").replace(checkpoint)
