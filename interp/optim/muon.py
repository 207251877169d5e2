"""Muon: orthogonalised momentum (all singular values 1) for matrices, AdamW for all other parameters.

With the gradient G of a matrix W [in, out] ("Muon: An optimizer for hidden layers in neural networks", Jordan et al.,
2024, https://kellerjordan.github.io/posts/muon):

    M <- mu M + (1 - mu) G,    U = mu M + (1 - mu) G                    (Nesterov)
    O = NewtonSchulz(U),       about U (U^T U)^(-1/2): singular values near 1
    W <- W (1 - lr wd) - lr sqrt(max(1, out / in)) O

A parameter with leading axes (a matrix per attention head) is treated matrix by matrix. The iteration runs in float32,
not in bfloat16 as in the authors' code, so that its bits are reproducible wherever those of matrix products are.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adamw import adamw

__all__ = ["OrthogonalizedMomentum", "orthogonalized"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of X <- a X + b (X X^T) X + c (X X^T)^2 X, chosen by Jordan et al. for a steep slope at 0."""


class OrthogonalizedMomentum(torch.optim.Optimizer):
    """Muon for `matrices`, torch's fused AdamW for `others`; a torch optimiser with these two kinds of groups.

    `set_hyper_parameters` sets the hyper-parameters of `interp.config.Muon`.

    Example:
        >>> W = torch.nn.Parameter(torch.zeros(3, 3))
        >>> muon = OrthogonalizedMomentum([W], [], lr=0.1)
        >>> W.grad = torch.diag(torch.tensor([5.0, 5.0, 5.0]))
        >>> muon.step()
        >>> bool((W.diag() < -0.06).all()), bool((W.diag() > -0.13).all()), bool((W == W.diag().diag()).all())
        (True, True, True)
    """

    def __init__(
        self, matrices: list[torch.nn.Parameter], others: list[torch.nn.Parameter], lr: float | Tensor
    ) -> None:
        defaults = {"momentum": 0.95, "iterations": 5, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0}
        own = lr.clone() if isinstance(lr, Tensor) else lr
        groups: list[dict[str, Any]] = [
            {"params": matrices, "lr": lr, "turned": True},
            {"params": others, "lr": own, "turned": False},
        ]
        on_device = any(W.is_cuda for W in others)
        groups[1] |= {"fused": True, "capturable": on_device}  # torch restores counters to their device by these
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: the gradients are there
        """Update all groups."""
        for group in self.param_groups:
            if not group["turned"]:
                self._adamw(group)
                continue
            for W in group["params"]:
                if W.grad is not None:
                    self._turn(W, W.grad, group)

    def _turn(self, W: Tensor, G: Tensor, group: dict[str, Any]) -> None:
        mu, lr = group["momentum"], group["lr"]
        if "momentum" not in self.state[W]:
            self.state[W]["momentum"] = torch.zeros_like(W)
        M = self.state[W]["momentum"].lerp_(G, 1 - mu)
        U = G.lerp(M, mu)
        if group["iterations"]:
            U = orthogonalized(U, group["iterations"]) * max(1.0, W.shape[-1] / W.shape[-2]) ** 0.5
        W.mul_(1 - lr * group["weight_decay"]).sub_(U * lr)

    def _adamw(self, group: dict[str, Any]) -> None:
        parameters = [W for W in group["params"] if W.grad is not None]
        for W in parameters:
            if "step" not in self.state[W]:
                self.state[W]["step"] = torch.zeros((), dtype=torch.float32, device=W.device)
                self.state[W]["exp_avg"] = torch.zeros_like(W)
                self.state[W]["exp_avg_sq"] = torch.zeros_like(W)
        states = [self.state[W] for W in parameters]
        if parameters:
            adamw(
                parameters,
                [W.grad for W in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=group["fused"],
                capturable=group["capturable"],
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )


def orthogonalized(U: Float[Tensor, "*batch rows columns"], iterations: int) -> Float[Tensor, "*batch rows columns"]:
    """The matrix U with singular values brought to about 1 (0.7 to 1.2 after five iterations), by Newton-Schulz.

    Example:
        >>> torch.linalg.svdvals(orthogonalized(torch.diag(torch.tensor([3.0, 1.0])), 5)).round(decimals=0)
        tensor([1., 1.])
    """
    a, b, c = COEFFICIENTS
    X = U.mT if U.shape[-2] > U.shape[-1] else U
    X = X / X.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # singular values at most 1
    for _ in range(iterations):
        A = X @ X.mT
        X = a * X + (b * A + c * (A @ A)) @ X
    return X.mT if U.shape[-2] > U.shape[-1] else X
