"""Clock or pizza: tests of whether a network adds by multiplying the two embeddings (clock) or by adding them (pizza).

A circle of frequency k has the token t at the angle w_k t, w_k = 2 pi k/p. The clock adds the two angles; the pizza
takes the midpoint of the two points, which lies at the angle w_k(a + b)/2 or opposite, at the distance
|cos(w_k(a - b)/2)| from the centre, and carries no information where that distance vanishes. With d = a - b and
r = a + b - c:

    clock             cos(w_k r)
    pizza             |cos(w_k d/2)| cos(w_k r)                                      its idealised logits
    pizza_absolute    |cos(w_k d/2)| (|cos(w_k r/2)| - |sin(w_k r/2)|)               two absolute values
    accompanying      -cos(w_k d) cos(w_k r)                                         of the circle of frequency 2k

A second circle, of twice the frequency, adds the accompanying term to the pizza of k: large where the pizza vanishes.
A shift of d or r by p changes the sign of a half-angle's cosine or sine and not its modulus, so that all four formulas
are functions on Z_p x Z_p, and the p^3 inputs and answers fall into p^2 classes (d, r) of p triples each, whether p is
odd or even. Every fit below follows from H[d, r], the sum of the logits over a class: p^3 additions.

With `operation="subtract"`, a + b and a - b exchange their roles: d = a + b, r = a - b - c.

Reference: The Clock and the Pizza: Two Stories in Mechanistic Explanation of Neural Networks (Zhong et al., 2023),
arXiv:2306.17844, and its code, https://github.com/fjzzq2002/pizza. Computed in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analysis.arrays import Array, as_floats, as_frequency, as_modulus
from interp.analysis.geometry import circularity_of_pair, embedding_pca
from interp.analysis.keys import Keys, as_key_mask
from interp.analysis.logits import logit_variance_explained
from interp.analysis.loss import Labels, as_targets
from interp.analysis.spectra import Operation, frequencies, operation_sign
from interp.errors import InvalidArgumentError
from interp.literals import as_count
from interp.tasks.base import shuffled

__all__ = [
    "Circle",
    "CircleFit",
    "circle_fit",
    "circles",
    "clock_variance_explained",
    "distance_irrelevance",
    "distance_irrelevance_wrong",
    "gradient_symmetricity",
    "isolate_components",
    "pizza_variance_explained",
    "symmetricity_triples",
]


@dataclass(frozen=True)
class CircleFit:
    """Goodness of fit of the four formulas of one frequency to the logits, in [-3, 1]; see `circle_fit`."""

    clock: Float[Tensor, "*steps"]
    pizza: Float[Tensor, "*steps"]
    pizza_absolute: Float[Tensor, "*steps"]
    accompanying: Float[Tensor, "*steps"]


@dataclass(frozen=True)
class Circle:
    """A pair of principal components, counted from 1, in whose plane the tokens lie on a circle; see `circles`."""

    components: tuple[int, int]
    frequency: int
    circularity: float
    share: float
    """Share of the variance of the tokens in the plane, in [0, 1]."""
    accompanies: int | None
    """Frequency of the main circle that this circle accompanies; None for a main circle."""


def gradient_symmetricity(
    gradient_a: Float[Array, "*steps triple d_model"], gradient_b: Float[Array, "*steps triple d_model"]
) -> Float[Tensor, "*steps"]:
    """Mean cosine of the gradients of one logit by the two embeddings, in [-1, 1]: Zhong et al. (2023).

    mean over triples (a, b, c) of cos(dL_c/dE_a, dL_c/dE_b), where L_c is the logit of c on the input (a, b) and E_a,
    E_b are the token embeddings before positions are added (`hook_embed`). 1 where the network depends on E_a + E_b
    only, as a pizza does; the paper reports 0.99 for a pizza and 0.33 for a clock. `symmetricity_triples` gives the
    paper's triples. A triple with a vanishing gradient counts 0 (as all do for a dead network).

    Raises `InvalidArgumentError` where the two differ in shape.

    >>> gradient_symmetricity(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]])).item()
    0.5
    """
    gradient_a = as_floats("gradient_a", gradient_a, "*steps triple d_model").double()
    gradient_b = as_floats("gradient_b", gradient_b, "*steps triple d_model").double()
    if gradient_a.shape != gradient_b.shape:
        raise InvalidArgumentError(
            f"`gradient_b` must have the shape of `gradient_a`, {list(gradient_a.shape)}; got {list(gradient_b.shape)}."
        )
    return (_directions(gradient_a) * _directions(gradient_b)).sum(-1).mean(-1)


def symmetricity_triples(p: int, *, count: int = 100, seed: int = 42) -> Int[Tensor, "triple 3"]:
    """The triples (a, b, c) over which Zhong et al. (2023) average the gradient symmetricity.

    The first `count` of all p^3 triples, lexicographic, shuffled by `random.Random(seed).shuffle`; 100 and 42 are the
    paper's values. c is any answer, correct or not. The p^3 numbers are shuffled once per process.

    >>> symmetricity_triples(59).shape
    torch.Size([100, 3])
    """
    p = as_modulus(p)
    if as_count("count", count) > p**3:
        raise InvalidArgumentError(f"`count` must be at most p^3 = {p**3}, the number of triples; got {count}.")
    index = torch.tensor(_first_of_shuffled(p**3, count, seed))
    return torch.stack([index // p**2, index // p % p, index % p], dim=1)


def distance_irrelevance(
    logits: Float[Array, "*steps p p answer"], labels: Labels, operation: Operation = "add"
) -> Float[Tensor, "*steps"]:
    """Independence of the correct logit from the distance a - b, in [0, 1]: Zhong et al. (2023).

    The mean over d of the standard deviation of L[a, b, label] over the p inputs with a - b = d, divided by its
    standard deviation over all inputs (population ones). 0 where the logit depends on a - b only, as in a pizza; 1
    where, for odd p, it depends on a + b only, or where it is constant up to rounding, as in a perfect clock. The paper
    reports 0.17 for a pizza and 0.85 for a clock (p = 59). Its code fills a table [a + b, a - b], which has a place for
    each input if p is odd; the definition above agrees with it there and holds for even p, too. With
    `operation="subtract"` the distance is a + b.

    Raises `InvalidArgumentError` for shapes that do not fit and labels that are no answers.

    >>> d = (torch.arange(5)[:, None] - torch.arange(5)) % 5
    >>> L = torch.zeros(5, 5, 5) + d[..., None]
    >>> distance_irrelevance(L, torch.zeros(5, 5, dtype=torch.int64)).item()
    0.0
    """
    logits = as_floats("logits", logits, "*steps p p answer")
    label, _ = as_targets(labels, None, logits)
    correct = logits.gather(-1, label.expand(logits.shape[:-1])[..., None]).squeeze(-1)
    return _irrelevance(correct, operation)


def distance_irrelevance_wrong(
    logits: Float[Array, "*steps p p answer"], labels: Labels, operation: Operation = "add"
) -> Float[Tensor, "*steps"]:
    """`distance_irrelevance` of the largest logit among the wrong answers, in [0, 1].

    The training script of Zhong et al. (2023) logs this value as `distance_irrelevancy`; the paper's figures show
    `distance_irrelevance`, of the correct answer.

    Raises `InvalidArgumentError` as `distance_irrelevance`, and where there is no wrong answer.

    >>> d = (torch.arange(5)[:, None] - torch.arange(5)) % 5
    >>> L = torch.stack([9 * torch.eye(5), d, d - 1], dim=-1)                    # the label's logits do not matter
    >>> distance_irrelevance_wrong(L, torch.zeros(5, 5, dtype=torch.int64)).item()
    0.0
    """
    logits = as_floats("logits", logits, "*steps p p answer")
    label, _ = as_targets(labels, None, logits)
    if logits.shape[-1] < 2:
        raise InvalidArgumentError("`logits` must have at least 2 answers, one of them wrong; got 1.")
    largest = logits.topk(2, dim=-1)
    first, second = largest.values.unbind(-1)
    return _irrelevance(torch.where(largest.indices[..., 0] == label, second, first), operation)


def clock_variance_explained(
    logits: Float[Array, "*steps p p p"], keys: Keys, operation: Operation = "add"
) -> Float[Tensor, "*steps"]:
    """Share of the variance of the logits on the span of the clock functions cos(w_k(a + b - c)), k in `keys`.

    In [0, 1]: `logit_variance_explained` of these keys. The logits are centred over the answers first, which does not
    change the softmax. About |K|/(p^2(p - 1)) for random logits; 0 where nothing varies. Pure pizza logits have
    2/(p^2 sin^2(pi/2p)) for odd p prime to k, nearly 8/pi^2 = 0.81: compare with `pizza_variance_explained`.

    >>> t = torch.arange(5)
    >>> L = torch.cos(2 * torch.pi * (t[:, None, None] + t[:, None] - t) / 5)
    >>> round(clock_variance_explained(L, [1]).item(), 4), round(clock_variance_explained(L, [2]).item(), 4)
    (1.0, 0.0)
    """
    logits = as_floats("logits", logits, "*steps p p p")
    return logit_variance_explained(logits, as_key_mask(keys, logits[..., 0, :, :]), operation)


def pizza_variance_explained(
    logits: Float[Array, "*steps p p p"],
    keys: Keys,
    operation: Operation = "add",
    *,
    accompanying: bool = True,
) -> Float[Tensor, "*steps"]:
    """Share of the variance of the logits on the span of the pizza functions of `keys` and their accompanying ones.

    The least-squares fit by |cos(w_k(a - b)/2)| cos(w_k(a + b - c)) and, unless `accompanying` is False,
    -cos(w_k(a - b)) cos(w_k(a + b - c)), for the frequencies k of the main circles, `keys`. The accompanying function
    of k comes from a circle of frequency 2k, which is no key, since its frequency over the answers is k, too. In
    [0, 1]; logits are centred as in `clock_variance_explained`. The formulas are Zhong et al.'s (2023), the joint fit
    is this package's.

    A pizza with a strong accompanying circle is nearly a clock: the pizza functions alone explain 8/pi^2 = 0.811 of
    pure clock logits, both functions together 0.989 (large p). Only `accompanying=False` tells the two algorithms
    apart.

    >>> t = torch.arange(5)
    >>> d, r = (t[:, None] - t)[..., None], t[:, None, None] + t[:, None] - t
    >>> L = torch.cos(torch.pi * d / 5).abs() * torch.cos(2 * torch.pi * r / 5)
    >>> round(pizza_variance_explained(L, [1], accompanying=False).item(), 4)
    1.0
    """
    folded = _fold(as_floats("logits", logits, "*steps p p p"), operation)
    p = folded.table.shape[-1]
    angle = _half_angles(p, frequencies(p, device=folded.table.device))
    wave, half = (2 * angle).cos(), angle.cos().abs()
    along = folded.table @ wave.mT  # [*steps, d, frequency]: cos(w_k r) of different k are orthogonal
    profiles = [half]
    if accompanying:
        overlap = (wave * half).sum(-1, keepdim=True) / half.square().sum(-1, keepdim=True)
        profiles.append(overlap * half - wave)  # the part of -cos(w_k d) that is orthogonal to the pizza
    explained = torch.zeros_like(along[..., 0, :])
    for profile in profiles:
        norm = p * profile.square().sum(-1) * wave.square().sum(-1)  # each (d, r) stands for p triples
        explained += (along * profile.mT).sum(-2).square() / norm
    kept = (explained * as_key_mask(keys, folded.table)).sum(-1)
    return torch.where(folded.within > 0, kept / torch.where(folded.within > 0, folded.within, 1.0), 0.0).clamp(max=1.0)


def circle_fit(logits: Float[Array, "*steps p p p"], frequency: int, operation: Operation = "add") -> CircleFit:
    """Fraction of variance explained ("FVE") by each formula in the logits of an isolated circle: Zhong et al. (2023).

    1 - Var(y - f)/Var(y) with the logits y and the formula f, on all p^3 entries, both shifted and scaled to mean 0
    and variance 1: 2 rho - 1, with rho their correlation. Hence it lies in [-3, 1], is -1 (not 0) for logits that are
    uncorrelated with f or do not vary, and changes with shifts of an input's logits, unlike the softmax.

    `logits` come from the network with the embedding of `isolate_components`. `frequency` is the frequency of the main
    circle (`clock`, `pizza`, `pizza_absolute`: see the module); for an accompanying circle (`accompanying`) too, half
    its own frequency mod p. For the three main circles of a pizza the paper gives 75.4 to 75.6 % (clock) and 99.2 to
    99.3 % (pizza), for their accompanying circles 97.2 to 97.7 %; the notebook's "Qpizza" is `pizza_absolute`, 98.3 to
    98.4 %.

    Raises `InvalidArgumentError` unless 1 <= frequency <= p/2.

    >>> t = torch.arange(5)
    >>> L = 3 + torch.cos(2 * torch.pi * (t[:, None, None] + t[:, None] - t) / 5)
    >>> round(circle_fit(L, 1).clock.item(), 4), round(circle_fit(L, 2).clock.item(), 4)
    (1.0, -1.0)
    """
    folded = _fold(as_floats("logits", logits, "*steps p p p"), operation)
    p = folded.table.shape[-1]
    k = torch.tensor([as_frequency("frequency", frequency, p)], device=folded.table.device)
    (angle,) = _half_angles(p, k)
    wave, half = (2 * angle).cos(), angle.cos().abs()
    formulas = {
        "clock": wave.expand(p, p),
        "pizza": half[:, None] * wave,
        "pizza_absolute": half[:, None] * (half - angle.sin().abs()),
        "accompanying": -wave[:, None] * wave,
    }
    offset = folded.row_mean - folded.row_mean.mean((-2, -1), keepdim=True)
    table = folded.table + offset.sum(-1, keepdim=True)
    variation = folded.within + p * offset.square().sum((-2, -1))
    varies = variation > 0
    fits = {}
    for name, formula in formulas.items():
        formula = formula - formula.mean()
        size = (variation * p * formula.square().sum()).sqrt()
        correlation = torch.where(varies, (table * formula).sum((-2, -1)) / torch.where(varies, size, 1.0), 0.0)
        fits[name] = 2 * correlation.clamp(-1.0, 1.0) - 1
    return CircleFit(**fits)


def isolate_components(W_E: Float[Array, "*steps p d_model"], components: Sequence[int]) -> Float[Tensor, "..."]:
    """The embedding with only these principal components of the tokens, counted from 1: "circle isolation".

    Each step is centred on its mean token and projected on its own axes `components`; the mean is added back. A network
    with this embedding shows the effect of one circle, such as (1, 2), alone. Zhong et al. (2023) equivalently take 20
    components, set the others of the 20 to zero, and invert. To remove circles instead:
    `W_E - isolate_components(W_E, (7, 8)) + mean`. The rows of `W_E` are the p numbers; '=' stays as it is.

    Raises `InvalidArgumentError` where components are not distinct numbers in 1..min(p - 1, d_model).

    >>> W_E = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    >>> isolate_components(W_E, [2]).abs().tolist()
    [[0.0, 1.0], [0.0, 1.0], [0.0, 2.0], [0.0, 0.0]]
    """
    W_E = as_floats("W_E", W_E, "*steps p d_model")
    most = min(W_E.shape[-2] - 1, W_E.shape[-1])
    wanted = [as_count("components", component) for component in components]
    if not wanted or len(set(wanted)) < len(wanted) or max(wanted) > most:
        raise InvalidArgumentError(
            f"`components` must be distinct numbers in 1..{most}, the principal components of {W_E.shape[-2]} tokens "
            f"in {W_E.shape[-1]} dimensions; got {list(components)}."
        )
    pca = embedding_pca(W_E, axes="each", components=max(wanted))
    index = torch.tensor(wanted, device=W_E.device) - 1
    return pca.coordinates[..., index] @ pca.axes[..., index].mT + pca.mean[..., None, :]


def circles(W_E: Float[Array, "p d_model"], *, components: int = 20, minimum: float = 0.9) -> tuple[Circle, ...]:
    """The circles among the principal components of one embedding, by falling variance; each component in one at most.

    Two components form a circle of frequency k where `circularity_of_pair` finds k and is at least `minimum`; 0.9
    allows an ellipse with axes 2:1, or a tenth of the power elsewhere. A single wave with a constant has 0.5; above
    0.5, no frequency has two circles. Of several partners the most circular is taken; components need not be adjacent.
    Circles of nearly equal variance mix their principal axes and may be missed. Frequency p/2 of an even p has no
    circle.

    A circle of frequency 2k mod p, up to sign, *accompanies* a circle of frequency k with more variance. Zhong et al.
    (2023), who enter the frequencies by hand, have 25, 6, 29 accompany 17, 3, 15 at p = 59, in the first 12 of 20
    components.

    Raises `InvalidArgumentError` where `components` < 2 or `minimum` is not above 0.5 and at most 1.

    >>> t = torch.arange(11) * (2 * torch.pi / 11)
    >>> W_E = torch.stack([2 * t.cos(), (2 * t).cos(), 2 * t.sin(), (2 * t).sin()], dim=1)
    >>> [(circle.components, circle.frequency, circle.accompanies) for circle in circles(W_E)]
    [((1, 2), 1, None), ((3, 4), 2, 1)]
    """
    W_E = as_floats("W_E", W_E, "p d_model")
    as_count("components", components, minimum=2)
    if not 0.5 < minimum <= 1:
        raise InvalidArgumentError(f"`minimum` must be above 0.5, the value of a single wave, and <= 1; got {minimum}.")
    p = len(W_E)
    pca = embedding_pca(W_E, components=components)
    ratio = pca.explained_variance_ratio.tolist()
    real = [i for i, share in enumerate(ratio) if share > p * (4 * torch.finfo(W_E.dtype).eps) ** 2]  # not rounding
    pairs = list(combinations(real, 2))
    if not pairs:
        return ()
    planes = circularity_of_pair(pca.coordinates.mT[torch.tensor(pairs)].mT)
    found: list[Circle] = []
    for value, k, (i, j) in sorted(zip(planes.value.tolist(), planes.frequency.tolist(), pairs, strict=True))[::-1]:
        free = not any({i + 1, j + 1} & set(circle.components) for circle in found)
        if value >= minimum and free and 2 * k != p:
            found.append(Circle((i + 1, j + 1), k, value, ratio[i] + ratio[j], accompanies=None))
    found.sort(key=lambda circle: -circle.share)
    for place, circle in enumerate(found):
        mains = (main.frequency for main in found[:place])
        doubled = (k for k in mains if circle.frequency in (2 * k, p - 2 * k))
        found[place] = replace(circle, accompanies=next(doubled, None))
    return tuple(found)


@dataclass(frozen=True)
class _Folded:
    """The logits by d = a - b and r = a + b - c (or with a + b and a - b exchanged).

    `table` is the sum over the p triples of each class of the logits, centred over the answers; `within` is the sum of
    squares of the centred logits, 0 where it is rounding; `row_mean` are the means subtracted, [d, b] (or [d, -b]).
    """

    table: Float[Tensor, "*steps d r"]
    within: Float[Tensor, "*steps"]
    row_mean: Float[Tensor, "*steps d b"]


def _fold(logits: Float[Tensor, "*steps p p p"], operation: Operation) -> _Folded:
    sign = operation_sign(operation)
    steps, p = logits.shape[:-3], logits.shape[-1]
    t = torch.arange(p, device=logits.device)
    table, row_mean = torch.zeros(2, *steps, p, p, dtype=torch.float64, device=logits.device)
    within = torch.zeros(steps, dtype=torch.float64, device=logits.device)
    for b in range(p):
        rows = logits[..., :, sign * b % p, :].roll(-b, dims=-2).double()  # [*steps, d, c]: a = d + b
        row_mean[..., b] = rows.mean(-1)
        rows -= row_mean[..., b, None]
        within += rows.square().sum((-2, -1))
        answer = (t[:, None] + 2 * b - t) % p  # [d, r]: c = a + b - r
        table += rows.gather(-1, answer.expand_as(rows))
    rounding = (4 * torch.finfo(logits.dtype).eps) ** 2 * p * row_mean.square().sum((-2, -1))
    return _Folded(table, torch.where(within > rounding, within, 0.0), row_mean)


def _half_angles(p: int, k: Int[Tensor, " frequency"]) -> Float[Tensor, "frequency p"]:
    """The half-angles w_k t/2; k t is reduced mod p while it is a whole number."""
    return (k[:, None] * torch.arange(p, device=k.device) % p).double() * (torch.pi / p)


def _irrelevance(logit: Float[Tensor, "*steps p p"], operation: Operation) -> Float[Tensor, "*steps"]:
    """Mean standard deviation at one distance over the total standard deviation; 1 where the total is rounding."""
    eps, sign = torch.finfo(logit.dtype).eps, operation_sign(operation)
    t = torch.arange(logit.shape[-1], device=logit.device)
    by_distance = logit.double()[..., (t[:, None] + t) % len(t), sign * t % len(t)]  # [*steps, d, b]: a = d + b
    whole = by_distance.flatten(-2).std(-1, correction=0)
    constant = whole <= 4 * eps * by_distance.abs().amax((-2, -1))
    spread = by_distance.std(-1, correction=0).mean(-1)
    return torch.where(constant, 1.0, spread / torch.where(constant, 1.0, whole)).clamp(max=1.0)


def _directions(vectors: Float[Tensor, "*steps triple d_model"]) -> Float[Tensor, "*steps triple d_model"]:
    """Unit vectors, 0 for the zero vector (`cosine_similarity` has an eps that shrinks cosines of small gradients)."""
    norm = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(norm > 0, norm, 1.0)


@lru_cache(maxsize=8)
def _first_of_shuffled(n: int, count: int, seed: int) -> tuple[int, ...]:
    return tuple(shuffled(n, "python-shuffle", seed)[:count].tolist())
