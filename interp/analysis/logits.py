"""Fourier decomposition of the logits of modular addition: coefficients on cos(w_k(a + b - c)), variance explained.

For logits L(a, b, c) on all p^2 inputs and p answers, the unit vectors

    u_k(a, b, c) = cos(w_k(a + b - c)) / sqrt(p^3/2),    w_k = 2 pi k/p,  k = 1, ..., floor(p/2)

are orthonormal (for even p, u_{p/2} is divided by sqrt(p^3)). They are functions of r = a + b - c alone, so that
<L, u_k> is a Fourier coefficient of the p numbers H[r] = sum of L over a + b - c = r: p^3 additions and one transform
of length p, where the explicit cubes would take p^3 floor(p/2) numbers. With `operation="subtract"`, a - b - c.

Under the name "logit similarity" the literature has two measures: `logit_similarity_raw` divides by ||L|| (Progress
measures for grokking via mechanistic interpretability, Nanda et al., 2023, arXiv:2301.05217); `logit_similarity` first
subtracts from each input's logits their mean over the answers, which the softmax ignores (A Toy Model of Universality,
Chughtai et al., 2023, arXiv:2302.03025). Sums are in float64.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analysis.arrays import Array, as_floats, l2_norm, ratio
from interp.analysis.spectra import Operation, conditional_mean

__all__ = [
    "logit_coefficient",
    "logit_similarity",
    "logit_similarity_raw",
    "logit_variance_explained",
    "sum_explained_variance",
    "sum_spectrum",
]


def sum_spectrum(logits: Float[Array, "*steps p p p"], operation: Operation = "add") -> Float[Tensor, "*steps p"]:
    """The sum H[r] of the logits over all (a, b, c) with a + b - c = r (mod p); the correct answers have r = 0.

    `logits` has the axes [a, b, c] and the p numbers only as answers (slice off '='). With `operation="subtract"`,
    a - b - c = r. Summed in float64.

    >>> t = torch.arange(3)
    >>> correct = ((t[:, None, None] + t[:, None] - t) % 3 == 0).double()     # 1 for the correct answer, else 0
    >>> sum_spectrum(correct).tolist()
    [9.0, 0.0, 0.0]
    """
    logits = as_floats("logits", logits, "*steps p p p")
    p = logits.shape[-1]
    answer_mean = conditional_mean(logits, operation)  # [*steps, a + b, c]
    t = torch.arange(p, device=logits.device)
    return p * answer_mean[..., (t[:, None] + t) % p, t].sum(-1)  # [*steps, r]: a + b = r + c


def logit_coefficient(
    logits: Float[Array, "*steps p p p"], operation: Operation = "add"
) -> Float[Tensor, "*steps frequency"]:
    """The coefficient <L, u_k> of the logits on the unit vector along cos(w_k(a + b - c)), for every frequency.

    In units of the logits times p^(3/2): logits alpha cos(w_k(a + b - c)) have coefficient alpha sqrt(p^3/2). Nanda et
    al. (2023). Raises `InvalidArgumentError` where the last three axes are not p, p, p.

    >>> t = torch.arange(5)
    >>> L = 2 * torch.cos(2 * torch.pi * (t[:, None, None] + t[:, None] - t) / 5)
    >>> [round(abs(c), 4) for c in (logit_coefficient(L) / (5**3 / 2) ** 0.5).tolist()]
    [2.0, 0.0]
    """
    histogram = sum_spectrum(logits, operation)
    p = histogram.shape[-1]
    coefficient = torch.fft.rfft(histogram).real[..., 1:] / (p**3 / 2) ** 0.5
    if p % 2 == 0:
        coefficient[..., -1] /= 2**0.5
    return coefficient


def logit_similarity(
    logits: Float[Array, "*steps p p p"], operation: Operation = "add"
) -> Float[Tensor, "*steps frequency"]:
    """Cosine similarity of the logits, centred over the answers, with cos(w_k(a + b - c)): Chughtai et al. (2023).

    In [-1, 1]; 0 where the centred logits vanish. The squares sum to at most 1.

    >>> t = torch.arange(5)
    >>> L = 7 + torch.cos(2 * torch.pi * (t[:, None, None] + t[:, None] - t) / 5)
    >>> [round(abs(s), 4) for s in logit_similarity(L).tolist()]
    [1.0, 0.0]
    """
    logits = as_floats("logits", logits, "*steps p p p")
    eps = torch.finfo(logits.dtype).eps
    size = l2_norm(logits)
    logits = logits - logits.mean(-1, keepdim=True)  # the coefficients do not depend on the mean, the norm does
    return ratio(logit_coefficient(logits, operation), l2_norm(logits), floor=4 * eps * size)


def logit_similarity_raw(
    logits: Float[Array, "*steps p p p"], operation: Operation = "add"
) -> Float[Tensor, "*steps frequency"]:
    """Cosine similarity of the uncentred logits with cos(w_k(a + b - c)): Nanda et al. (2023).

    In [-1, 1]; 0 for logits that are all zero. A shift of an input's logits, which the loss ignores, lowers it.

    >>> t = torch.arange(5)
    >>> L = 1 + torch.cos(2 * torch.pi * (t[:, None, None] + t[:, None] - t) / 5)
    >>> round(logit_similarity_raw(L)[0].item(), 4)                              # sqrt(1/2) / sqrt(1 + 1/2)
    0.5774
    """
    logits = as_floats("logits", logits, "*steps p p p")
    return ratio(logit_coefficient(logits, operation), l2_norm(logits))


def logit_variance_explained(
    logits: Float[Array, "*steps p p p"],
    keys: Bool[Array, "... frequency"] | None = None,
    operation: Operation = "add",
    *,
    centred: bool = True,
) -> Float[Tensor, "*steps"]:
    """Share of the squared norm of the logits that lies along cos(w_k(a + b - c)), k in `keys` (None: all), in [0, 1].

    The sum of the squared `logit_similarity`, or with `centred=False` of `logit_similarity_raw`; for a share s, the
    residual in Nanda et al. (2023) is sqrt(1 - s).

    >>> t = torch.arange(5)
    >>> angle = 2 * torch.pi * (t[:, None, None] + t[:, None] - t) / 5
    >>> L = 2 * torch.cos(angle) + torch.cos(2 * angle)
    >>> round(logit_variance_explained(L, torch.tensor([True, False])).item(), 4)
    0.8
    """
    similarity = (logit_similarity if centred else logit_similarity_raw)(logits, operation)
    explained = similarity.square()
    if keys is not None:
        explained = explained * torch.as_tensor(keys, dtype=torch.bool, device=explained.device)
    return explained.sum(-1).clamp(max=1.0)


def sum_explained_variance(
    x: Float[Array, "*steps p p feature"], operation: Operation = "add"
) -> Float[Tensor, "*steps"]:
    """Share of the variance of x over inputs, summed over features, that depends on a + b only, in [0, 1].

    1 - ||x - E[x | a + b]||^2 / ||x - E[x]||^2: independent of any basis, an upper bound on the share that key
    frequencies explain. 0 where x does not vary.

    >>> a = torch.arange(3.0)
    >>> x = torch.cos(2 * torch.pi * (a[:, None] + a) / 3)[..., None]
    >>> round(sum_explained_variance(x).item(), 6)
    1.0
    """
    x = as_floats("x", x, "*steps p p feature")
    p = x.shape[-2]
    table = conditional_mean(x, operation)
    mean = table.mean(-2, keepdim=True)
    explained = p * (table - mean).square().sum((-2, -1))
    varying = torch.zeros_like(explained)
    for b in range(p):
        varying += (x[..., :, b, :] - mean).square().sum((-2, -1))
    floor = (4 * torch.finfo(x.dtype).eps * p) ** 2 * mean.square().sum((-2, -1))
    return ratio(explained[..., None], varying, floor=floor).squeeze(-1).clamp(max=1.0)
