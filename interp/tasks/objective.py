"""Cross-entropy of the answer, exact where float32 is not.

After memorisation the right logit leads by so much that 1 + the sum of the others' exponentials rounds to 1 in float32:
loss and gradient become zero or noise ("Progress measures for grokking", Nanda et al., 2023; "Grokking at the edge of
numerical stability", Prieto et al., 2025). A float64 log-softmax cures it. So does keeping the others apart from the
right class c, which needs no float64 copy of the logits:

    m = max_j z_j,   R = sum_{j != c} exp(z_j - m)   (accumulated in float64),   Z = R + exp(z_c - m)
    loss = log(1 + R)  where c leads,  log Z - (z_c - m)  elsewhere
    d loss / d z_j = exp(z_j - m) / Z   for j != c,        d loss / d z_c = -R / Z   (never 1 - 1)

This agrees with the float64 log-softmax of the same logits to a few parts in 10^6, at any loss.

StableMax (Prieto et al.) has s(z) in place of exp(z), z + 1 for z >= 0 and 1 / (1 - z) below, which neither
overflows nor absorbs; since log s(z) = sign(z) log(1 + |z|), it is the softmax of that function of the logits.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

__all__ = ["answer_loss", "log_stablemax_term", "mean_of", "one_class_loss", "population_numbers"]

STEP = 0.005
"""Of the trapezoidal rule over the population; its error falls faster than any power of it."""


def answer_loss(
    logits: Float[Tensor, "*members batch d_vocab_out"],
    labels: Int[Tensor, "*members batch"],
    precision: str = "float64",
    kind: str = "cross-entropy",
    weights: Float[Tensor, "*members batch"] | None = None,
) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"]]:
    """Mean cross-entropy in nats, and which answers are right: those whose logit leads all others strictly.

    `precision` is "float64" (see the module's text) or "float32" (the plain log-softmax with all its failures); `kind`
    is "cross-entropy" or "stablemax", cross-entropy with StableMax for the softmax. `weights`, whose sum is 1, make the
    mean a weighted one. Leading axes are the members of an ensemble, each with a loss of its own.

    Example:
        >>> loss, right = answer_loss(torch.tensor([[40.0, 0.0, 0.0]]), torch.tensor([0]))
        >>> f"{loss:.4g}", bool(right)  # 2 exp(-40); float32 would say 0
        ('8.497e-18', True)
        >>> f"{answer_loss(torch.tensor([[3.0, 0.0, -1.0]]), torch.tensor([0]), kind='stablemax')[0].exp():.4g}"
        '1.375'

        (s is 4, 1 and 1/2, so the right answer has the share 4 / 5.5.)
    """
    if kind == "stablemax":
        logits = log_stablemax_term(logits.double() if precision == "float64" else logits)
    if precision == "float32":
        own = labels[..., None]
        leading = logits.detach().scatter(-1, own, -torch.inf).amax(-1)
        right = logits.detach().gather(-1, own)[..., 0] > leading
        if weights is None and logits.ndim == 2:
            return F.cross_entropy(logits, labels), right
        losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
        return mean_of(losses, weights), right
    return _SplitCrossEntropy.apply(logits, labels, weights)


def mean_of(
    values: Float[Tensor, "*members batch"], weights: Float[Tensor, "*members batch"] | None = None
) -> Float[Tensor, " *members"]:
    """The mean over a batch; `weights`, whose sum is 1, make it a weighted one."""
    return values.mean(-1) if weights is None else (values * weights).sum(-1)


def log_stablemax_term(z: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log s(z) = sign(z) log(1 + |z|), with slope 1 at 0 from both sides.

    Example:
        >>> log_stablemax_term(torch.tensor([1.0, 0.0, -1.0])).exp()
        tensor([2.0000, 1.0000, 0.5000])
    """
    return _SignedLog.apply(z)


def one_class_loss(
    z: Float[Tensor, "*members batch"], kind: str = "cross-entropy"
) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"], Float[Tensor, "*members batch"]]:
    """Mean loss of inputs that all belong to the class -1, which are answered rightly (z < 0), and the loss's slopes.

    Cross-entropy is log(1 + e^z) with slope 1 / (1 + e^-z), exponential is e^z (Beck et al., 2024, equations 1 and 8).

    Example:
        >>> loss, right, slopes = one_class_loss(torch.tensor([0.0, -1.0]))
        >>> f"{loss:.4f}", right.tolist(), f"{slopes[0]:.1f}"
        ('0.5032', [False, True], '0.5')
    """
    losses, slopes = (F.softplus(z), z.sigmoid()) if kind == "cross-entropy" else (z.exp(), z.exp())
    return losses.mean(-1), z < 0, slopes


def population_numbers(
    S_norm: Float[Tensor, " *members"], b: Float[Tensor, " *members"], sigma: float
) -> Float[Tensor, "*members 2"]:
    """Cross-entropy and accuracy of a plane S.x + b over x ~ N(0, sigma^2 I), all of the class -1.

    E log(1 + e^(s Z + b)) with s = sigma |S| and Z ~ N(0, 1), and Phi(-b / s) (Beck et al., 2024, equations 4 to 6), by
    the trapezoidal rule of `interp.theory.separability`, whose upper end follows s: good to 1e-9 up to s = 40.

    Example:
        >>> population_numbers(torch.tensor(0.0, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64), 1.0)
        tensor([0.3133, 1.0000], dtype=torch.float64)
    """
    s = sigma * S_norm
    Z = torch.arange(-12, 52, STEP, dtype=torch.float64, device=s.device)
    density = (-Z.square() / 2).exp() * (STEP / math.sqrt(2 * math.pi))
    loss = F.softplus(s[..., None] * Z + b[..., None], threshold=40) @ density
    accuracy = torch.special.ndtr((-b / s).nan_to_num(0.0, math.inf, -math.inf))
    return torch.stack([loss, accuracy], dim=-1)


class _SignedLog(torch.autograd.Function):
    """With its slope 1 / (1 + |z|) in one piece: `torch.where` of two halves makes the loss three times slower."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.abs().log1p_().copysign_(z)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return slope / (1 + z.abs())


@contextlib.contextmanager
def _distinct_places() -> Iterator[None]:
    """Where nothing is written twice, any order of writing gives the same.

    What torch does instead on CUDA, asked to be deterministic, asks the device for the range of the indices, which
    nothing in a captured step may.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)


class _SplitCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        index = labels[..., None]
        own = logits.gather(-1, index)
        others = logits.scatter(-1, index, -torch.inf)  # the only copy of the logits; becomes the gradient in place
        leading = others.amax(-1, keepdim=True)
        m = torch.maximum(leading, own)
        others.sub_(m).exp_()
        R = others.sum(-1, keepdim=True, dtype=torch.float64)
        gap = own.double() - m.double()
        Z = R + gap.exp()
        loss = mean_of(torch.where(gap == 0, R.log1p(), Z.log() - gap)[..., 0], weights)
        right = (own > leading)[..., 0]
        ctx.mark_non_differentiable(right)
        if ctx.needs_input_grad[0]:
            Zn = Z * labels.shape[-1] if weights is None else Z / weights[..., None]
            others.mul_((1 / Zn).to(logits.dtype))
            with _distinct_places():
                others.scatter_(-1, index, (-R / Zn).to(logits.dtype))
            ctx.save_for_backward(others)
        return loss, right

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_loss.to(grad.dtype)[..., None, None], None, None
