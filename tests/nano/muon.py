"""Muon: momentum whose matrix updates are made orthogonal (Keller Jordan, 2024; scaled as in arXiv:2502.16982).

On the nano it needs about a third of AdamW's steps. torch.optim.Muon takes no stacked experts.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

# Coefficients of the quintic Newton-Schulz iteration, chosen by Muon's authors for fast growth of small values.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest matrices with singular values around 1, for a stack [n, rows, columns]."""
    a, b, c = _QUINTIC
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """For matrices [rows, columns] and stacks of experts [n, m * columns, columns], taken as squares."""

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            # Matrices of one shape are made orthogonal together.
            by_shape: dict[torch.Size, list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(mean, group["momentum"])
                update = update.reshape(-1, p.shape[-1], p.shape[-1]) if p.dim() == 3 else update[None]
                by_shape.setdefault(update.shape[1:], []).append((p, update))
            for shape, pairs in by_shape.items():
                directions = orthogonal(torch.cat([update for _, update in pairs]))
                # As large as an AdamW step of the same rate.
                scale = group["lr"] * 0.2 * max(shape) ** 0.5
                parts = directions.split([len(update) for _, update in pairs])
                for (p, _), direction in zip(pairs, parts, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction.reshape(p.shape), alpha=-scale)
