"""Muon: momentum made orthogonal, for weights that are matrices.  Adam takes the other weights.

Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/ (the Newton-Schulz iteration, its coefficients);
Liu et al. 2025, arXiv 2502.16982 (the scale at which Adam's learning rates fit).  torch.optim.Muon takes no
convolutions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
ITERATIONS: Final = 5
ADAM_RMS: Final = 0.2
"""Root mean square of Adam's updates in units of its learning rate, about."""


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices near (B, M, N) whose singular values are near 1, by a quintic iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    found: Tensor = x.mT if tall else x
    return found


class Muon(torch.optim.Optimizer):
    """The optimizer for weights (rows, ...) of two dimensions or more.

    Each is taken as the matrix that multiplies its inputs.
    """

    def __init__(self, parameters: Iterable[Any], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move along Nesterov's momentum, made orthogonal in bfloat16.  Weights of one shape are computed together."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(tuple(parameter.shape), []).append(parameter)
            for shape, parameters in alike.items():
                updates = []
                for parameter in parameters:
                    state, gradient = self.state[parameter], parameter.grad
                    assert gradient is not None
                    if not state:
                        state["momentum"] = torch.zeros_like(parameter)
                    state["momentum"].lerp_(gradient, 1 - group["momentum"])
                    updates.append(gradient.lerp(state["momentum"], group["momentum"]).flatten(1))
                found = orthogonal(torch.stack(updates).bfloat16()).float()
                scale = group["lr"] * ADAM_RMS * max(found.shape[1:]) ** 0.5
                for parameter, update in zip(parameters, found, strict=True):
                    parameter.sub_(scale * update.view(shape))


def optimizers(
    networks: Sequence[tuple[nn.Module, float]], lr: float, muon: float, more: Sequence[dict[str, Any]] = ()
) -> list[torch.optim.Optimizer]:
    """Return Adam, and Muon for the convolutions of the networks.

    networks: each with its factor on the learning rate.   muon: factor on Muon's learning rate; 0: Adam for all.
    more: further groups of parameters for Adam, each with its factor.
    """
    matrices, others = [], []
    for network, factor in networks:
        parameters = list(network.parameters())
        matrices.append({"params": [p for p in parameters if p.ndim == 4 and muon], "factor": factor * muon})
        others.append({"params": [p for p in parameters if p.ndim != 4 or not muon], "factor": factor})
    found: list[torch.optim.Optimizer] = [torch.optim.Adam([*others, *more], lr=lr, betas=(0.9, 0.99))]
    if muon:
        found.append(Muon(matrices, lr=lr))
    return found


def step(found: Sequence[torch.optim.Optimizer], lr: float) -> None:
    """Take one step of all optimizers at a learning rate."""
    for optimizer in found:
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * lr
        optimizer.step()


def load(found: Sequence[torch.optim.Optimizer], kept: Sequence[dict[str, Any]]) -> None:
    """Load the states that a checkpoint kept of the same optimizers.  The factors stay those of `found`."""
    for optimizer, state in zip(found, kept, strict=True):
        factors = [group["factor"] for group in optimizer.param_groups]
        optimizer.load_state_dict(state)
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["factor"] = factor
