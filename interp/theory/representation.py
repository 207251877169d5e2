"""Representation learning by parallelograms: generalisation and learning rate that a training set of sums allows.

A decoder of E_a + E_b that has learned the sample {a, b} gives {c, d} the same answer where E_a + E_b = E_c + E_d. The
tokens i, n and j, m then span a *parallelogram*

    E_i + E_n - E_j - E_m = 0,    i + n = j + m    (mod p, if `modular`),

one row of a matrix A of small integers. P0 is the set of all parallelograms, P0(D) its members with both pairs in the
training set D, and P(D) its members that follow from P0(D) by linear algebra: their rows do not raise the rank of A_D.
D-bar is D and every pair that shares a parallelogram of P(D) with a pair of D: the pairs that can be answered without
luck. Pairs are unordered, so that the full data D0 has p(p+1)/2 pairs.

The *effective theory* replaces training by descent on l_eff = l0/Z0 with H = A_D^T A_D,

    l0 = sum over P0(D) of |E_i + E_n - E_j - E_m|^2 = tr(E^T H E),    Z0 = sum_i |E_i|^2.

Shifts of all tokens and, without modulus, the line E_i = i v have loss 0: two directions of the null space of H for
each dimension of E. Where the null space has no others ("2 degrees of freedom"), representation learning finds the
line. With a modulus only the shift is left: the line does not close and, as E_(i+j) - E_0 = (E_i - E_0) + (E_j - E_0)
would make E - E_0 a homomorphism of the finite group Z_p into R^d, whose only image is 0, *the only embedding in a real
space with all modular parallelograms has all tokens in one place*. Modular networks have few of the parallelograms.

Reference: Towards Understanding Grokking: An Effective Theory of Representation Learning (Liu et al., 2022),
arXiv:2205.10343, and its code, https://github.com/ejmichaud/grokking-squared. As in that code, l0 is a sum, not a mean
over parallelograms (a mean divides H, hence all rates, by their number).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from interp.errors import InvalidArgumentError

__all__ = [
    "CriticalFraction",
    "closure",
    "critical_training_fraction",
    "degrees_of_freedom",
    "effective_flow",
    "effective_loss",
    "grokking_rate",
    "ideal_accuracy",
    "parallelograms",
    "predicted_accuracy",
    "within",
]

_SIGNS = np.array([1.0, 1.0, -1.0, -1.0])  # of E_i, E_n, E_j, E_m
_ZERO = 1e-10  # eigenvalues of H below this share of the largest one are rounding; H has whole entries
_ENTRIES = 2**23  # numbers in one block of draws, in `critical_training_fraction`


@dataclass(frozen=True)
class CriticalFraction:
    """Probability that `pairs` random training pairs determine the representation, and the critical training fraction.

    `critical` is the least fraction of D0 at which the probability reaches 1/2, interpolated linearly.
    """

    pairs: Int[np.ndarray, " count"]
    fraction: Float[np.ndarray, " count"]
    probability: Float[np.ndarray, " count"]
    critical: float


def parallelograms(p: int, *, modular: bool = False) -> Int[np.ndarray, "parallelogram 4"]:
    """Parallelograms P0 of p tokens, as rows (i, n, j, m) of E_i + E_n = E_j + E_m.

    All unordered pairs of two different unordered pairs {i, n}, {j, m} of one sum; each occurs once, with i < j, i <= n
    and j <= m, which without modulus means i < j <= m < n, as in Liu et al. (2022). Two pairs of one sum have no token
    in common, but a pair may be one token twice: E_0 + E_2 = 2 E_1. With `modular`, sums are taken mod p. Every
    residue then has (p+1)/2 pairs for odd p, p(p^2 - 1)/8 parallelograms in all; for even p there are p^3/8, among them
    the degenerate 2 E_i = 2 E_(i + p/2). Raises `InvalidArgumentError` for p < 3.

    >>> parallelograms(4).tolist()
    [[0, 2, 1, 1], [0, 3, 1, 2], [1, 3, 2, 2]]
    >>> len(parallelograms(10)), len(parallelograms(113, modular=True))
    (70, 180348)
    """
    low, high = np.triu_indices(_as_modulus(p))
    total = (low + high) % p if modular else low + high
    order = np.argsort(total, kind="stable")  # within a sum, `low` increases
    members = np.split(order, np.flatnonzero(np.diff(total[order])) + 1)
    couples = [np.triu_indices(len(group), 1) for group in members]
    first = np.concatenate([group[a] for group, (a, _) in zip(members, couples)])
    second = np.concatenate([group[b] for group, (_, b) in zip(members, couples)])
    return np.stack([low[first], high[first], low[second], high[second]], axis=1)


def within(rows: Int[np.ndarray, "parallelogram 4"], pairs: Int[np.ndarray, "pair 2"]) -> Int[np.ndarray, "known 4"]:
    """Parallelograms P0(D) whose two pairs are both among the training `pairs`, in the order of `rows`.

    Pairs are unordered, (a, b) is (b, a), and may repeat. Raises `InvalidArgumentError` for arrays that are not rows
    of four and of two tokens.

    >>> within(parallelograms(4), np.array([[2, 0], [1, 1], [0, 3]])).tolist()
    [[0, 2, 1, 1]]
    """
    rows, pairs = _as_tokens("rows", rows, 4), _as_tokens("pairs", pairs, 2)
    size = 1 + int(max(rows.max(initial=0), pairs.max(initial=0)))
    return rows[_among(rows[:, :2], pairs, size) & _among(rows[:, 2:], pairs, size)]


def closure(p: int, known: Int[np.ndarray, "known 4"], *, modular: bool = False) -> Int[np.ndarray, "parallelogram 4"]:
    """Parallelograms P(D) of P0 that follow from the parallelograms `known`, by linear algebra over R.

    Such a row does not raise the rank of A_known: it is orthogonal to the null space (Liu et al., 2022). Contains
    `known`. Raises `InvalidArgumentError` for tokens outside 0..p-1.

    E_0 + E_3 = E_1 + E_2 and E_2 + E_5 = E_3 + E_4 add up to E_0 + E_5 = E_1 + E_4:

    >>> closure(6, np.array([[0, 3, 1, 2], [2, 5, 3, 4]])).tolist()
    [[0, 3, 1, 2], [0, 5, 1, 4], [2, 5, 3, 4]]
    """
    rows = parallelograms(p, modular=modular)
    null, _ = _modes(_hessian(_as_tokens("known", known, 4, p), p))
    follows = np.abs(_equations(rows, p) @ null).max(axis=1, initial=0.0) < 1e-6  # a row has length >= 2
    return rows[follows]


def ideal_accuracy(p: int, pairs: Int[np.ndarray, "pair 2"], *, modular: bool = False) -> float:
    """Ideal accuracy |D-bar|/|D0|, in [0, 1]: the share of all p(p+1)/2 pairs that follow from the training `pairs`.

    D-bar is D and the pairs that P(D) connects to it (Liu et al., 2022): an upper bound of the accuracy, except by
    luck. Raises `InvalidArgumentError` for tokens outside 0..p-1.

    Without the pair {1, 2} of four numbers, E_0 + E_3 = E_1 + E_2 follows from the other two parallelograms:

    >>> everything = np.stack(np.triu_indices(4), axis=1)
    >>> without = everything[(everything != [1, 2]).any(axis=1)]
    >>> ideal_accuracy(4, without), ideal_accuracy(4, without[:2])
    (1.0, 0.2)
    """
    pairs = _as_tokens("pairs", pairs, 2, p)
    known = within(parallelograms(p, modular=modular), pairs)
    return predicted_accuracy(p, pairs, closure(p, known, modular=modular))


def predicted_accuracy(p: int, pairs: Int[np.ndarray, "pair 2"], found: Int[np.ndarray, "parallelogram 4"]) -> float:
    """Predicted accuracy, in [0, 1]: share of pairs in training `pairs` or in a parallelogram `found` with one.

    Liu et al. (2022) predict the accuracy of a trained network from the parallelograms of its representation, found by
    `interp.analysis.parallelograms.parallelogram_set`. Chains of parallelograms do not count, since approximate
    equalities do not add up. Raises `InvalidArgumentError` for tokens outside 0..p-1.

    >>> predicted_accuracy(4, np.array([[0, 3]]), parallelograms(4))            # {0, 3} itself, and {1, 2}
    0.2
    """
    _as_modulus(p)
    pairs, found = _as_tokens("pairs", pairs, 2, p), _as_tokens("found", found, 4, p)
    first, second = found[:, :2], found[:, 2:]
    taught = [pairs, second[_among(first, pairs, p)], first[_among(second, pairs, p)]]
    return len(np.unique(_pair_number(np.concatenate(taught), p))) / (p * (p + 1) / 2)


def degrees_of_freedom(p: int, pairs: Int[np.ndarray, "pair 2"], *, modular: bool = False) -> int:
    """Degrees of freedom dim null(A_D) of a one-dimensional representation that obeys P0(D), out of p.

    Liu et al. (2022). With 2 (shift and scale) only the line is left; their code prints the number minus 2. With
    `modular` the minimum is 1, all tokens in one place. Raises `InvalidArgumentError` for tokens outside 0..p-1.

    >>> everything = np.stack(np.triu_indices(5), axis=1)
    >>> [degrees_of_freedom(5, everything, modular=modular) for modular in (False, True)]
    [2, 1]
    >>> degrees_of_freedom(5, everything[:1])
    5
    """
    pairs = _as_tokens("pairs", pairs, 2, p)
    null, _ = _modes(_hessian(within(parallelograms(p, modular=modular), pairs), p))
    return null.shape[1]


def critical_training_fraction(
    p: int, *, generator: np.random.Generator, draws: int = 1000, modular: bool = False
) -> CriticalFraction:
    """Probability that n random training pairs leave only the trivial degrees of freedom, for every n.

    "P(dof = 2)" of Liu et al. (2022): n of the p(p+1)/2 unordered pairs, without replacement. Shift and scale are
    trivial; with `modular`, the shift. A draw is a random order of all pairs, and its first n pairs are the training
    set; a unique representation stays unique as n grows, so that the least such n is found by bisection. A probability
    has the binomial error sqrt(P(1-P)/draws); probabilities of different n are correlated, and increase with n.
    `draws` >= 1, from `generator`.

    The paper has 0.427 at 22 and 0.580 at 23 of the 55 pairs for p = 10, a critical fraction of about 0.4:

    >>> found = critical_training_fraction(10, generator=np.random.default_rng(0), draws=300)
    >>> 0.36 < found.critical < 0.46
    True
    """
    rows = parallelograms(p, modular=modular)
    if isinstance(draws, bool) or int(draws) != draws or draws < 1:
        raise InvalidArgumentError(f"`draws` must be a whole number >= 1; got {draws!r}.")
    low, high = np.triu_indices(p)
    number = np.zeros(p * p, dtype=np.int64)
    number[_pair_number(np.stack([low, high], axis=1), p)] = np.arange(len(low))
    sides = number[_pair_number(rows[:, :2], p)], number[_pair_number(rows[:, 2:], p)]
    products = _products(rows, p)
    block = max(1, _ENTRIES // (len(rows) + p * p))
    enough = [
        _pairs_needed(generator.permuted(np.tile(np.arange(len(low)), (size, 1)), axis=1), sides, products, p, modular)
        for size in [block] * (draws // block) + [draws % block]
        if size
    ]
    pairs = np.arange(1, len(low) + 1)
    probability = np.searchsorted(np.sort(np.concatenate(enough)), pairs, side="right") / draws
    fraction = pairs / len(low)
    above = int(np.argmax(probability >= 0.5))  # all pairs are always enough, and a single one never is
    critical = np.interp(0.5, probability[above - 1 : above + 1], fraction[above - 1 : above + 1])
    return CriticalFraction(pairs=pairs, fraction=fraction, probability=probability, critical=float(critical))


def effective_loss(
    E: Float[np.ndarray, "*steps p d"], rows: Int[np.ndarray, "parallelogram 4"]
) -> Float[np.ndarray, "*steps"]:
    """Effective loss l0/Z0 of the embedding E for the parallelograms `rows`, P0(D) or P0: Liu et al. (2022).

    l0 = sum over rows of |E_i + E_n - E_j - E_m|^2, Z0 = sum_i |E_i|^2. Invariant under scaling and rotation of E, but
    not under shifts, because of Z0: the paper standardises E first. Raises `InvalidArgumentError` for an embedding
    that vanishes or is not finite, and for tokens outside it.

    >>> E = np.array([[-3.0], [-1.0], [1.0], [3.0]])                             # a line
    >>> effective_loss(E, parallelograms(4)).item()
    0.0
    >>> effective_loss(E, np.array([[0, 1, 2, 3]])).item()                       # (-4 - 4)^2 / 20
    3.2
    """
    E = _as_embedding(E)
    l0 = (E * (_hessian(_as_tokens("rows", rows, 4, E.shape[-2]), E.shape[-2]) @ E)).sum((-2, -1))
    return l0 / np.square(E).sum((-2, -1))


def effective_flow(
    E: Float[np.ndarray, "p d"],
    rows: Int[np.ndarray, "parallelogram 4"],
    times: Float[np.ndarray, " time"],
    *,
    rate: float = 1.0,
    normalised: bool = True,
) -> Float[np.ndarray, "time p d"]:
    """The embedding at each of `times` (>= 0) under the effective theory, from E at time 0, in closed form.

    `normalised`: dE/dt = -rate d l_eff/dE = -(2 rate/Z0)(H E - l_eff E), the flow that the code of Liu et al. (2022)
    integrates with Euler steps. It conserves Z0, and the sum of E where the sum is zero. Up to a scale it is the linear
    flow, hence E(t) = exp(-2 rate H t/Z0) E, rescaled to Z0. Otherwise the linear flow itself,
    dE/dt = -(2 rate/Z0) H E with Z0 = |E(0)|^2, descent on l0: it conserves the sum, and components outside the null
    space decay. A mode of H with eigenvalue lambda goes as exp(-2 rate lambda t/Z0), up to the rescaling.

    `rate` > 0 is the paper's learning rate eta (an Euler step is a unit of time); `rows` are P0(D). Raises
    `InvalidArgumentError` for an embedding that vanishes or is not finite, tokens outside it, and times below 0.

    >>> line, bend = np.array([-3.0, -1.0, 1.0, 3.0]), np.array([1.0, -1.0, -1.0, 1.0])
    >>> E, times = (line + 2 * bend)[:, None], np.array([0.0, 1e3])
    >>> effective_flow(E, parallelograms(4), times, normalised=False).round(6)[..., 0].tolist()
    [[-1.0, -3.0, -1.0, 5.0], [-3.0, -1.0, 1.0, 3.0]]
    """
    E = _as_embedding(E)
    p = E.shape[-2]
    times = np.asarray(times, dtype=np.float64)
    if not (np.isfinite(times).all() and (times >= 0).all()):
        raise InvalidArgumentError(f"`times` must be finite and >= 0; got {times.tolist()}.")
    if not 0 < rate < np.inf:
        raise InvalidArgumentError(f"`rate` must be finite and above 0; got {rate!r}.")
    values, vectors = np.linalg.eigh(_hessian(_as_tokens("rows", rows, 4, p), p))
    values = np.where(values > _ZERO * values[-1], values, 0.0)
    amplitude = vectors.T @ E  # [mode, d]
    Z0 = np.square(E).sum()
    size = np.linalg.norm(amplitude, axis=1)
    amplitude[size <= 1e-13 * size.max()] = 0  # rounding errors, which the rescaling would amplify
    if normalised:
        values = values - values[amplitude.any(axis=1)].min()  # cancels, and the slowest mode does not underflow
    decay = np.exp(-2 * rate / Z0 * times[:, None] * np.maximum(values, 0.0))  # [time, mode]
    flow = vectors @ (decay[..., None] * amplitude)
    return flow * np.sqrt(Z0 / np.square(flow).sum((-2, -1), keepdims=True)) if normalised else flow


def grokking_rate(p: int, rows: Int[np.ndarray, "parallelogram 4"]) -> float:
    """The smallest nonzero eigenvalue lambda of H = A^T A: the slowest mode decays as exp(-2 rate lambda t/Z0).

    The "grokking rate" of Liu et al. (2022) is the third eigenvalue of H for P0(D): equal to lambda where the line is
    the only representation, and zero otherwise (the flow then does not lead to the line). 0 without `rows`. Raises
    `InvalidArgumentError` for tokens outside 0..p-1.

    >>> round(grokking_rate(4, np.array([[0, 3, 1, 2]])), 6)                     # one row (1, -1, -1, 1) of length 2
    4.0
    """
    _, values = _modes(_hessian(_as_tokens("rows", rows, 4, p), _as_modulus(p)))
    return float(values.min(initial=np.inf)) if len(values) else 0.0


def _pairs_needed(
    order: Int[np.ndarray, "draw all"],
    sides: tuple[Int[np.ndarray, " parallelogram"], Int[np.ndarray, " parallelogram"]],
    products: sparse.csr_array,
    p: int,
    modular: bool,
) -> Int[np.ndarray, " draw"]:
    """The least n for each order of all pairs whose first n pairs leave only the trivial degrees of freedom."""
    place = np.argsort(order, axis=1) + 1  # least n with the pair in the training set
    known_from = np.maximum(place[:, sides[0]], place[:, sides[1]])  # least n with both pairs of a parallelogram
    low, high = np.zeros(len(order), dtype=np.int64), np.full(len(order), order.shape[1])  # low fails, high is enough
    while (high - low > 1).any():
        middle = (low + high + 1) // 2
        H = (known_from <= middle[:, None]).astype(np.float64) @ products
        values = np.linalg.eigvalsh(H.reshape(-1, p, p))
        unique = values[:, 1 if modular else 2] > _ZERO * np.maximum(values[:, -1], 1.0)
        low, high = np.where(unique, low, middle), np.where(unique, middle, high)
    return high


def _equations(rows: Int[np.ndarray, "parallelogram 4"], p: int) -> sparse.csr_array:
    """The matrix A [parallelogram, p]: +1, +1, -1, -1 at i, n, j, m, added up where two of them are one token."""
    number = np.repeat(np.arange(len(rows)), 4)
    return sparse.csr_array((np.tile(_SIGNS, len(rows)), (number, rows.ravel())), shape=(len(rows), p))


def _products(rows: Int[np.ndarray, "parallelogram 4"], p: int) -> sparse.csr_array:
    """Outer product of each row of A with itself, flat: [parallelogram, p p]. The sum over rows is H."""
    number = np.repeat(np.arange(len(rows)), 16)
    signs = np.tile(np.outer(_SIGNS, _SIGNS).ravel(), len(rows))
    place = (rows[:, :, None] * p + rows[:, None, :]).ravel()
    return sparse.csr_array((signs, (number, place)), shape=(len(rows), p * p))


def _hessian(rows: Int[np.ndarray, "parallelogram 4"], p: int) -> Float[np.ndarray, "p p"]:
    """The matrix H = A^T A, of whole numbers."""
    A = _equations(rows, p)
    return (A.T @ A).toarray()


def _modes(H: Float[np.ndarray, "p p"]) -> tuple[Float[np.ndarray, "p dof"], Float[np.ndarray, " rank"]]:
    """An orthonormal basis of the null space of H, and the eigenvalues that are not zero."""
    values, vectors = np.linalg.eigh(H)
    zero = values <= _ZERO * values[-1]
    return vectors[:, zero], values[~zero]


def _pair_number(pairs: Int[np.ndarray, "pair 2"], p: int) -> Int[np.ndarray, " pair"]:
    """Index of each unordered pair: smaller token times p plus larger token."""
    return pairs.min(axis=1) * p + pairs.max(axis=1)


def _among(some: Int[np.ndarray, "pair 2"], pairs: Int[np.ndarray, "train 2"], p: int) -> Bool[np.ndarray, " pair"]:
    """Mask of the unordered pairs `some` that occur in `pairs`."""
    return np.isin(_pair_number(some, p), _pair_number(pairs, p))


def _as_modulus(p: int) -> int:
    if isinstance(p, bool) or int(p) != p or p < 3:
        raise InvalidArgumentError(f"`p` must be a whole number >= 3; got {p!r}.")
    return int(p)


def _as_tokens(name: str, value: np.ndarray, width: int, p: int | None = None) -> Int[np.ndarray, "row width"]:
    tokens = np.asarray(value)
    if tokens.ndim != 2 or tokens.shape[1] != width or not np.issubdtype(tokens.dtype, np.integer):
        raise InvalidArgumentError(
            f"`{name}` must be whole numbers in rows of {width} tokens; got {tokens.dtype} of shape {tokens.shape}."
        )
    if tokens.size and (tokens.min() < 0 or (p is not None and tokens.max() >= p)):
        rule = "tokens >= 0" if p is None else f"tokens in 0..{p - 1} for p={p}"
        raise InvalidArgumentError(f"`{name}` must hold {rule}; got {tokens.min()}..{tokens.max()}.")
    return tokens.astype(np.int64)


def _as_embedding(value: np.ndarray) -> Float[np.ndarray, "*steps p d"]:
    E = np.asarray(value, dtype=np.float64)
    if E.ndim < 2 or not np.isfinite(E).all() or not np.square(E).sum((-2, -1)).all():
        raise InvalidArgumentError(
            f"`E` must be finite embeddings [*steps p d] that do not vanish; got shape {E.shape}, "
            f"{int((~np.isfinite(E)).sum())} values that are not finite."
        )
    return E
