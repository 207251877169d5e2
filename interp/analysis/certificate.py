"""Lower bounds on every margin of a network on pairs of operands, from its tables and an account of what it computes.

Certificates follow "Compact Proofs of Model Performance via Mechanistic Interpretability" (Gross et al., 2024,
arXiv:2406.11779): whoever understands a network proves its accuracy with fewer operations than running it takes. The
account is advice, clusters of neurons, a scale for each and directions in each cluster. It is not trusted: any advice
gives a sound bound, and bad advice only a weak one. No property of the non-linearity is used.

Bound. With h[a, b] = act(x[a, b]) from `PairTables` and logits L = h W + R, let

    h = g1(a) + g2(b) + h0      g1 the mean over b; g2 the mean over a less the total mean; h0 what is left
    t_k = (h0/s) in cluster k,  V_k = s W in cluster k     s the scale of each neuron, so that t V = h0 W
    z_k = E_k^T t_k,  P_k = E_k^T V_k,  D_k = V_k - E_k P_k     E_k the directions, made orthonormal
    e_k^2 = |t_k|^2 - |z_k|^2

so that t_k V_k = z_k P_k + (t_k - E_k z_k) D_k. By Cauchy-Schwarz, with l = g1 W + g2 W + R + sum_k z_k P_k,

    L[y] - L[c] >= l[y] - l[c] - sum_k e_k |D_k[:, y] - D_k[:, c]| - slack.

g1 W and g2 W are tables of p rows and the distances a table for each cluster: nothing costs neurons times outputs in
every pair, as L does. Inputs whose margins are all above 0 are answered correctly. The loss of an input is at most
log(1 + sum_{c != y} exp(-margin_c)).

Rounding. `slack` bounds all rounding, so that the claim is about the network with exactly the stored weights, evaluated
in real numbers. Assumed: IEEE float64 with u = 2^-53, rounded to nearest; exp and log within 4 units in the last place,
erf within 16 u; sums and products of matrices in any order (gamma_n = n u/(1 - n u): Higham, "Accuracy and Stability of
Numerical Algorithms", 2002, 3.1). `PairTables.rounding` bounds the tables. In this order:

    A     |error| <= alpha = 3 rho + 16 u,  rho = expm1(2 rounding of scores + u max|score|) + 8 u
    x     xi = (gamma_{2H+3} + alpha) X + rounding of tables     X the sum of the largest entries of all terms
    h     eta = xi (relu is 1-Lipschitz);  1.13 xi + 16 u X (gelu)
    h0    B = 4.2 max|h| + 1.1 eta >= |h| + |g1| + |g2|;  error tau = eta + 4 u B     (g1, g2 as rounded are exact)
    t     N = 1.05 |B/s| >= |t|, |z|;  error delta = |tau/s|
    E     phi >= |E^T E - 1|, measured: E need not be orthonormal
    z     zeta = 1.01 (sqrt(r) gamma_n N + delta)
    e     e^2 is raised by N^2 (gamma_{n+r+5} + phi) + 2 N (delta + zeta), and never negative
    D     distances are raised by 2.1 gamma_{r+2} (1 + sqrt(r)) max|V|, their squares by (4 gamma_n + 16 u) max|D|^2
    t V   = z P + (t - E z) D + less than 2.1 max|V| (N (3 phi + sqrt(r) gamma_n) + zeta)
    l     gamma's of the products' lengths times B |W|, N |V|, max|R|, twice, since two logits are compared

The factors above 1, and 1 % on the total, are for products of errors and for the rounding of the slack itself. Where an
error is not small against what it is an error of (alpha or phi above 0.001), a size is above 1e30 or scores differ by
more than 600, nothing is certified; below that, underflow moves nothing by more than 1e-190, which is added.

The claim covers the network in real numbers. `slack_float32` = 2 n 2^-24 max_c sum_m max|h_m| |W[m, c]| is the usual
bound on rounding of the last product in float32: margins above it hold for an evaluation in float32 as well, as far as
that product's rounding is concerned. It is reported, and not subtracted.

Cost, in operations on floats: additions, multiplications, divisions, maxima, roots, exponentials, error functions and
signs count one each, a product of matrices twice its size, a QR decomposition 4 n r^2. With n neurons, C outputs, K
clusters, n_k neurons and r_k directions in each, R = sum r_k, q = 1 (relu) or 5 (gelu) for each pair:

    8H + n (4H + 2)  attention and x (n without attention)      q n  act      8n  means, maximum, h0, scale, norms
    (9H, for 8H, where the last position holds the second operand)
    2 sum n_k r_k  z      2R + 4K  e      (4H + 2) C  R (0 without attention)      C (2R + 2K + 7) + 10  margins, loss

and once the token tables (where `d_model` is given; as `interp.models.tables` makes them), 4 p n C for g1 W and g2 W,
2 n C^2 + 7 K C^2 for the distances, and smaller terms for directions and slack, all of them in `_operations`. Compared
are the best exhaustive algorithm, from the same tables and with attention, x, act and R at the same cost and then
2 n C, and the plain forward pass, 2 d_z n + 2 n C + 2 d_z C. Finding the account is not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import InvalidArgumentError
from interp.models.tables import UNIT, PairTables, dot_error

__all__ = ["Advice", "Certificate", "certify", "exhaustive_margins"]

CHUNK = 2**18
"""Number of pre-activations that are held at once, but for the activations themselves."""
LARGEST = 1e30
"""Size above which nothing is certified, so that nothing overflows."""
FARTHEST = 600.0
"""Difference of attention scores above which nothing is certified, so that no sum of exponentials overflows."""
TINY = 1e-190
"""Bound on the sum of all effects of underflow."""
DEPENDENT = 1e-9
"""Share of a direction's norm outside those before it, below which it is dropped."""
NARROWEST = 1e-20
"""Smallest scale of a neuron, relative to the largest of its cluster."""

Pairs = tuple[Float[np.ndarray, "p p H"], Float[np.ndarray, "p p H"]]


@dataclass(frozen=True, eq=False)
class Advice:
    """Untrusted advice for `certify`: any advice is sound, good advice makes the bound tight."""

    cluster: Int[np.ndarray, " neuron"]
    """Number of each neuron's cluster, 0..K-1."""
    scale: Float[np.ndarray, " neuron"]
    """Positive scale s of each neuron; 1 stands in for a value that is not positive or not finite. The best is
    s^2 = sqrt(v)/|W|, with v the variance of h0 that the directions leave over."""
    directions: tuple[Float[np.ndarray, "_ _"], ...]
    """Directions [n_k, r] of each cluster, in the coordinates of its neurons in increasing order, for the weighted
    vectors h0/s and s W. They need not be orthonormal; dependent ones and those that are not finite are dropped."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """Lower bounds on the margins of a network, and on its accuracy and loss over the pairs that are defined.

    Attributes:
        accuracy: share of the pairs proved to be answered correctly, 0 to 1: the network's accuracy is at least that.
        loss: upper bound on the network's mean cross-entropy, in nats.
        right: pairs proved to be answered correctly, [p, p] of booleans by first and second operand.
        margin: lower bound on the answer's logit less the largest other one, [p, p] in logits; NaN for pairs that are
            not defined.
        rank: largest number of directions that a cluster uses.
        operations: number of operations of the certificate, by the module's formula.
        exhaustive: number of operations of the best exhaustive algorithm.
        forward: number of operations of the plain forward pass over all pairs.
        slack: bound on rounding in float64, in logits, which the margins do without already.
        slack_float32: bound on rounding of the last product in float32, in logits, which is not subtracted.
        compact: whether the certificate takes fewer operations than the exhaustive algorithm.
    """

    accuracy: float
    loss: float
    right: Bool[np.ndarray, "p p"]
    margin: Float[np.ndarray, "p p"]
    rank: int
    operations: int
    exhaustive: int
    forward: int
    slack: float
    slack_float32: float
    compact: bool


@dataclass(frozen=True, eq=False)
class _Sizes:
    """Bounds on activations and their errors, for each neuron, and on what the logits are made of."""

    error: Float[np.ndarray, " neuron"]  # eta
    size: Float[np.ndarray, " neuron"]  # B
    attention: float  # alpha
    lead: float  # max_c B |W|
    total: float  # sum of B
    bypass: float  # max |R|
    float32: float


@dataclass(frozen=True, eq=False)
class _Cluster:
    """Directions of a cluster and everything that the margins need of it, with bounds on its errors."""

    neurons: Int[np.ndarray, " n_k"]
    scale: Float[np.ndarray, " n_k"]
    basis: Float[np.ndarray, "n_k r"]  # E
    coefficients: Float[np.ndarray, "r C"]  # P
    distances: Float[np.ndarray, "C C"]
    raised: float  # what is added to e^2
    cross: float  # error of t V = z P + (t - E z) D
    product: float  # N max|V|
    whole: bool  # whether all errors are small


def certify(
    tables: PairTables,
    advice: Advice,
    answers: Int[np.ndarray, "p p"],
    *,
    defined: Bool[np.ndarray, "p p"] | None = None,
    d_model: int | None = None,
) -> Certificate:
    """Lower bounds on all margins of a network, from its tables and an account's advice.

    The network is not run: the module's text has bound, rounding and cost.

    Args:
        tables: the network, tables with a row per operand.
        advice: clusters, scales and directions.
        answers: output of the right answer for each pair, in 0..C-1.
        defined: pairs that have an answer; None stands for all.
        d_model: width of the embedding, to count the operations that made the tables; None leaves them out, in the
            certificate and in the exhaustive algorithm.

    Raises:
        InvalidArgumentError: sizes do not fit, answers are no outputs, or clusters are not numbered.

    Example:
        >>> t = 2 * np.pi / 5 * np.arange(5)  # five neurons: relu(cos(t_a - t_j) + cos(t_b - t_j)) tell a + b to 2 t_j
        >>> wave = np.cos(t[:, None] - t)
        >>> tables = PairTables(
        ...     activation="relu", W_L=np.cos(2 * t[:, None] - t), constant=np.zeros(5), first=wave[:, None],
        ...     second=wave[:, None], bypass_constant=np.zeros(5), bypass_first=np.zeros((5, 1, 5)),
        ...     bypass_second=np.zeros((5, 1, 5)), scores=None, rate=1.0, d_z=10, rounding={},
        ... )
        >>> answers = (np.arange(5)[:, None] + np.arange(5)) % 5
        >>> advice = Advice(np.zeros(5, int), np.ones(5), (np.stack([np.cos(2 * t), np.sin(2 * t)], 1),))
        >>> found = certify(tables, advice, answers)
        >>> found.accuracy, float((exhaustive_margins(tables, answers) > 0).mean())
        (1.0, 1.0)
    """
    answers, defined = _checked(tables, answers, defined)
    members = _members(tables, advice)
    with np.errstate(all="ignore"):  # what overflows has no bound
        weights = _attention(tables)
        hidden = _hidden(tables, weights)
        sizes = _sizes(tables, hidden)
        clusters = [
            _cluster(neurons, tables.W_L[neurons], scale, basis, sizes)
            for neurons, scale, basis in members
            if len(neurons)
        ]
        slack = _slack(tables, clusters, sizes)
        margin, loss = _margins(tables, weights, hidden, clusters, answers, slack)
        mean = float(np.where(defined, loss, 0.0).sum()) / int(defined.sum())
    C, pairs = tables.W_L.shape[1], int(defined.sum())
    right = (margin > 0) & defined
    operations, exhaustive, forward = _operations(tables, [basis.shape for _, _, basis in members], clusters, d_model)
    return Certificate(
        accuracy=int(right.sum()) / pairs,
        loss=mean * (1 + 2 * dot_error(pairs + 8)) + 20 * C * UNIT,
        right=right,
        margin=np.where(defined, margin, np.nan),
        rank=max((cluster.basis.shape[1] for cluster in clusters), default=0),
        operations=operations,
        exhaustive=exhaustive,
        forward=forward,
        slack=slack,
        slack_float32=sizes.float32,
        compact=operations < exhaustive,
    )


def exhaustive_margins(tables: PairTables, answers: Int[np.ndarray, "p p"]) -> Float[np.ndarray, "p p"]:
    """Logit of each pair's answer less the largest other one, from all logits, in float64: exact but for rounding.

    Raises:
        InvalidArgumentError: answers are no outputs.
    """
    answers, _ = _checked(tables, answers, None)
    logits, at = tables.logits(), answers[..., None]
    own = np.take_along_axis(logits, at, -1)
    np.put_along_axis(logits, at, -np.inf, -1)
    return own[..., 0] - logits.max(-1)


# --- the bound --------------------------------------------------------------------------------------------------------


def _attention(tables: PairTables) -> Pairs | None:
    """Weights of both operands in each pair, by head: one exponential for each score of a token; None where all are 1.

    Scores are taken relative to that of the other positions, whose exponential is then 1.
    """
    if tables.scores is None:
        return None
    first, second, rest = tables.scores
    if rest is None:  # scores of the second operand, which attends to itself, are the ones to compare with
        e0 = np.exp(first - second)
        total = e0 + 1.0
        return tables.rate * (e0 / total) + (1 - tables.rate), tables.rate * (1.0 / total) + (1 - tables.rate)
    e0, e1 = np.exp(first - rest)[:, None], np.exp(second - rest)[None]
    total = e0 + e1 + 1.0
    return tables.rate * (e0 / total) + (1 - tables.rate), tables.rate * (e1 / total) + (1 - tables.rate)


def _hidden(tables: PairTables, weights: Pairs | None) -> Float[np.ndarray, "p p neuron"]:
    """Activations of the hidden layer for every pair."""
    chunks = _chunks(tables)
    if weights is None:
        first = tables.first + tables.constant
        return np.concatenate([tables.activate(first[rows] + tables.second[:, 0]) for rows in chunks])
    return np.concatenate(
        [tables.activate(_mixed(weights, tables.first, tables.second, rows) + tables.constant) for rows in chunks]
    )


def _mixed(
    weights: Pairs, first: Float[np.ndarray, "p H d"], second: Float[np.ndarray, "p H d"], rows: slice
) -> Float[np.ndarray, "rows p d"]:
    """Attention-weighted sums of both operands' rows, for the first operands `rows`."""
    A0, A1 = (weight[rows] for weight in weights)
    return A0 @ first[rows] + (A1.swapaxes(0, 1) @ second).swapaxes(0, 1)


def _cluster(
    neurons: Int[np.ndarray, " n_k"],
    W: Float[np.ndarray, "n_k C"],
    scale: Float[np.ndarray, " n_k"],
    directions: Float[np.ndarray, "n_k columns"],
    sizes: _Sizes,
) -> _Cluster:
    """Read-out of a cluster, split into its directions and distances outside, with errors: V, E, P, D of the module."""
    E, V = _orthonormal(directions), W * scale[:, None]
    (n, r), longest = E.shape, math.sqrt(float((V * V).sum(0).max()))
    P = E.T @ V
    D = V - E @ P
    gram = D.T @ D
    diagonal = gram.diagonal()
    gamma, root = dot_error(n), math.sqrt(r)
    phi = _norm(E.T @ E - np.eye(r)) + 1.1 * r * gamma
    squares = diagonal[:, None] + diagonal - 2.0 * gram
    raised = 1.05 * (4 * gamma + 16 * UNIT) * float(diagonal.max()) + TINY
    distances = np.sqrt(np.maximum(squares, 0.0) + raised) + 2.1 * dot_error(r + 2) * (1 + root) * longest

    size, error = sizes.size[neurons], sizes.error[neurons]
    N, delta = 1.05 * _norm(size / scale), _norm((error + 4 * UNIT * size) / scale)
    zeta = 1.01 * (root * gamma * N + delta)
    return _Cluster(
        neurons=neurons,
        scale=scale,
        basis=E,
        coefficients=P,
        distances=distances,
        raised=1.01 * (N**2 * (dot_error(n + r + 5) + phi) + 2 * N * (delta + zeta)) + TINY,
        cross=2.1 * longest * (N * (3 * phi + root * gamma) + zeta),
        product=N * longest,
        whole=phi < 1e-3 and N < LARGEST and longest < LARGEST,
    )


def _margins(
    tables: PairTables,
    weights: Pairs | None,
    hidden: Float[np.ndarray, "p p neuron"],
    clusters: Sequence[_Cluster],
    answers: Int[np.ndarray, "p p"],
    slack: float,
) -> tuple[Float[np.ndarray, "p p"], Float[np.ndarray, "p p"]]:
    """Lower bound on the smallest margin of each pair, and upper bound on its loss but for rounding of logarithms."""
    p, W = tables.p, tables.W_L
    g1 = hidden.sum(1) / p
    g2 = hidden.sum(0) / p - g1.sum(0) / p
    lead1, lead2 = g1 @ W, g2 @ W
    if weights is None:
        lead1 = lead1 + (tables.bypass_constant + tables.bypass_first[:, 0])
        lead2 = lead2 + tables.bypass_second[:, 0]
    elif tables.bypass_constant.ndim == 1:
        lead1 = lead1 + tables.bypass_constant
    else:  # a row for each second operand
        lead2 = lead2 + tables.bypass_constant
    P = np.concatenate([cluster.coefficients for cluster in clusters])
    margin, loss = [], []
    for rows in _chunks(tables):
        h0 = hidden[rows] - g1[rows, None] - g2
        coordinates, rests = [], []
        for cluster in clusters:
            t = h0[..., cluster.neurons] / cluster.scale
            z = t @ cluster.basis
            squared = _squared(t) - _squared(z)
            coordinates.append(z)
            rests.append(np.sqrt(np.maximum(squared, 0.0) + cluster.raised))
        logits = lead1[rows, None] + lead2 + np.concatenate(coordinates, -1) @ P
        if weights is not None:
            logits = logits + _mixed(weights, tables.bypass_first, tables.bypass_second, rows)
        y = answers[rows]
        behind = logits - (np.take_along_axis(logits, y[..., None], -1) - slack)  # an upper bound on L[c] - L[y]
        for cluster, rest in zip(clusters, rests):
            behind += rest[..., None] * cluster.distances[y]
        np.put_along_axis(behind, y[..., None], -np.inf, -1)
        behind[np.isnan(behind)] = np.inf
        worst = behind.max(-1)
        top = np.maximum(worst, 0.0)
        loss.append(top + np.log(np.exp(-top) + np.exp(behind - top[..., None]).sum(-1)))
        margin.append(-worst)
    bounds = np.concatenate(loss)
    return np.concatenate(margin), np.where(np.isnan(bounds), np.inf, bounds)


def _squared(vectors: Float[np.ndarray, "rows p d"]) -> Float[np.ndarray, "rows p"]:
    return np.einsum("abd,abd->ab", vectors, vectors)


def _chunks(tables: PairTables) -> list[slice]:
    """First operands in parts, so that all but the activations is small."""
    rows = max(1, CHUNK // (tables.p * max(tables.W_L.shape)))
    return [slice(start, start + rows) for start in range(0, tables.p, rows)]


# --- rounding ---------------------------------------------------------------------------------------------------------


def _sizes(tables: PairTables, hidden: Float[np.ndarray, "p p neuron"]) -> _Sizes:
    """Largest activations and bounds on their errors: alpha, xi, eta and B of the module."""
    H, alpha = tables.first.shape[1], 0.0
    if tables.scores is not None:
        first, second, rest = tables.scores
        if rest is None:
            spread = float(np.abs(first - second).max())
        else:
            spread = max(float(np.abs(first - rest).max()), float(np.abs(second - rest).max()))
        rho = math.expm1(min(2 * tables.rounding.get("scores", 0.0) + UNIT * spread, 1.0)) + 8 * UNIT
        alpha = 3 * rho + 16 * UNIT if spread < FARTHEST else math.inf

    def largest(constant: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        own = np.abs(constant) if constant.ndim == 1 else np.abs(constant).max(0)
        return own + np.abs(first).max(0).sum(0) + np.abs(second).max(0).sum(0)

    X = largest(tables.constant, tables.first, tables.second)
    error = (dot_error(2 * H + 3) + alpha) * X + _of_tables(tables, "constant", "first", "second")
    if tables.activation != "relu":
        error = 1.13 * error + 16 * UNIT * X
    top = np.maximum(hidden.max((0, 1)), 0.0 if tables.activation == "relu" else 0.18)  # gelu is above -0.17
    size = 4.2 * top + 1.1 * error
    W = np.abs(tables.W_L)
    bypass = largest(tables.bypass_constant, tables.bypass_first, tables.bypass_second)
    return _Sizes(
        error=error,
        size=size,
        attention=alpha,
        lead=float((size @ W).max()),
        total=float(size.sum()),
        bypass=float(bypass.max()),
        float32=2 * len(W) * 2.0**-24 * float((top @ W).max()),
    )


def _slack(tables: PairTables, clusters: Sequence[_Cluster], sizes: _Sizes) -> float:
    """Bound on all rounding of a margin that is in no e and no distance; infinite where errors are not small."""
    n, H = len(tables.W_L), tables.first.shape[1]
    more = len(clusters) + 10  # additions after the products
    products = sum(cluster.product for cluster in clusters)
    rank = sum(cluster.basis.shape[1] for cluster in clusters)
    logit = (dot_error(n + more) + 1.01 * UNIT) * sizes.lead + 2 * sizes.total * tables.rounding.get("W_L", 0.0)
    logit += (dot_error(2 * H + more) + sizes.attention) * sizes.bypass
    logit += _of_tables(tables, "bypass_constant", "bypass_first", "bypass_second")
    logit += 1.05 * dot_error(rank + more) * products
    crosses = sum(cluster.cross for cluster in clusters)
    slack = 1.01 * (2 * logit + crosses + 14 * dot_error(more) * products) + TINY
    small = sizes.attention < 1e-3 and all(size < LARGEST for size in (sizes.lead, sizes.total, sizes.bypass, slack))
    return slack if small and all(cluster.whole for cluster in clusters) else math.inf


def _of_tables(tables: PairTables, constant: str, first: str, second: str) -> float:
    """Rounding of the tables in a sum of a constant and both operands' terms."""
    each = tables.rounding.get(first, 0.0) + tables.rounding.get(second, 0.0)
    return tables.rounding.get(constant, 0.0) + tables.first.shape[1] * each


def _norm(values: np.ndarray) -> float:
    return math.sqrt(float((values * values).sum()))


# --- advice -----------------------------------------------------------------------------------------------------------


def _checked(
    tables: PairTables, answers: Int[np.ndarray, "p p"], defined: Bool[np.ndarray, "p p"] | None
) -> tuple[Int[np.ndarray, "p p"], Bool[np.ndarray, "p p"]]:
    """Answers, 0 where there is none, and the pairs that have one."""
    shape, C = (tables.p, tables.p), tables.W_L.shape[1]
    defined = np.ones(shape, bool) if defined is None else np.asarray(defined)
    answers = np.asarray(answers)
    if answers.shape != shape or defined.shape != shape or not defined.any():
        raise InvalidArgumentError(
            f"`answers` and `defined` must have the sizes {list(shape)}, and a pair that is defined; "
            f"got {list(answers.shape)} and {list(defined.shape)}, with {int(defined.sum())} defined."
        )
    answers = np.where(defined, answers, 0)
    if answers.min() < 0 or answers.max() >= C:
        raise InvalidArgumentError(
            f"`answers` must be outputs, 0..{C - 1}; got {int(answers.min())}..{int(answers.max())}. "
            "Pass `defined` where some pairs have no answer."
        )
    return answers, defined


def _members(
    tables: PairTables, advice: Advice
) -> list[tuple[Int[np.ndarray, " n_k"], Float[np.ndarray, " n_k"], Float[np.ndarray, "n_k columns"]]]:
    """Neurons of each cluster that has any, their scales, and the directions that are finite."""
    n, K = len(tables.W_L), len(advice.directions)
    cluster, scale = np.asarray(advice.cluster), np.asanyarray(advice.scale)
    if cluster.shape != (n,) or scale.shape != (n,) or cluster.min() < 0 or cluster.max() >= K:
        raise InvalidArgumentError(
            f"`advice` must give each of the {n} neurons a scale and a cluster with directions, 0..{K - 1}; "
            f"got {len(scale)} scales, and clusters {int(cluster.min())}..{int(cluster.max())} of {len(cluster)}."
        )
    found = []
    for k, directions in enumerate(advice.directions):
        neurons = np.flatnonzero(cluster == k)
        if directions.ndim != 2 or len(directions) != len(neurons):
            raise InvalidArgumentError(
                f"`advice` must have directions [{len(neurons)}, r] for the {len(neurons)} neurons of cluster {k}; "
                f"got {list(directions.shape)}."
            )
        if len(neurons):
            s = scale[neurons]
            s = np.where(np.isfinite(s) & (s > 0), s, 1.0)
            s = np.maximum(s / s.max(), NARROWEST)  # a common factor changes nothing
            found.append((neurons, s, directions[:, np.isfinite(directions).all(0)]))
    return found


def _orthonormal(directions: Float[np.ndarray, "n_k columns"]) -> Float[np.ndarray, "n_k r"]:
    """Orthonormal directions with the span of the given ones, without those that depend on others before them."""
    largest = np.abs(directions).max(0)
    directions = directions[:, largest > 0] / largest[largest > 0]
    directions = directions / np.sqrt((directions * directions).sum(0))
    Q, R = np.linalg.qr(directions)
    return Q[:, np.abs(R.diagonal()) > DEPENDENT]


# --- cost -------------------------------------------------------------------------------------------------------------


def _operations(
    tables: PairTables, given: Sequence[tuple[int, int]], clusters: Sequence[_Cluster], d_model: int | None
) -> tuple[int, int, int]:
    """Operations of the certificate, of the exhaustive algorithm and of the plain forward pass.

    `given` are the numbers of neurons and of finite directions of each cluster.
    """
    p, H, n = tables.first.shape
    C, K = tables.W_L.shape[1], len(clusters)
    sizes = [cluster.basis.shape for cluster in clusters]
    R, nR, nRR, RR = (sum(terms) for terms in zip(*((r, m * r, m * r * r, r * r) for m, r in sizes)))
    activation = 1 if tables.activation == "relu" else 5

    own = tables.scores is not None and tables.scores[2] is None  # the last position holds the second operand
    if tables.scores is None:
        pre, bypass, shared, spread = n, 0, p * n, 0
    else:
        pre, bypass = (9 if own else 8) * H + n * (4 * H + 2), (4 * H + 2) * C
        shared, spread = (0, 3 * p * p * H) if own else (4 * p * H, 6 * p * H)
    each = pre + activation * n + bypass
    if d_model is not None:
        shared += _tables(tables, d_model)

    pair = each + 8 * n + 2 * nR + 2 * R + 4 * K + C * (2 * R + 2 * K + 7) + 10
    lead = 4 * p * n + n + 4 * p * n * C + (3 if tables.scores is None else 1) * p * C
    advice = 3 * n + sum(6 * m * c + c + 4 * m * c * c + min(m, c) for m, c in given)
    directions = 4 * n * C + 4 * nR * C + 2 * n * C * C + 7 * K * C * C + 2 * K * C + 2 * nRR + 3 * RR + 8 * n
    slack = (4 * p * H + 2 * H + 2 + (2 * p if own else 1)) * (n + C) + (2 if activation == 1 else 5) * n
    slack += 5 * n + 5 * n * C + 3 * C + spread
    return (
        shared + p * p * pair + lead + advice + directions + slack,
        shared + p * p * (each + 2 * n * C),
        p * p * 2 * (tables.d_z * n + n * C + tables.d_z * C),
    )


def _tables(tables: PairTables, d: int) -> int:
    """Operations that made the token tables, from embeddings of width d, but for the bounds on their rounding."""
    p, H, n = tables.first.shape
    C, z = tables.W_L.shape[1], tables.d_z
    if tables.scores is None:
        return 4 * p * d * n if z else 0  # rows of a one-hot operand's matrix are its table
    folded = 2 * z * d * (n + C) + 2 * n * d * C  # W_O W_in, W_O W_U, W_out W_U
    if tables.scores is not None and tables.scores[2] is None:  # keys, queries and streams of the second operand
        rows, attention = 2 * p, 2 * z * (3 * p * d + p * p + p)
        return rows * d + attention + 2 * rows * d * z + folded + 4 * p * z * (n + C) + 2 * p * d * (n + C)
    rows = 2 * p + 1  # those of the last position, too
    scores = rows * d + 4 * d * z + 2 * rows * d * H
    values = 2 * rows * d * z + 2 * p * z  # less those of the last position
    constants = 2 * d * (z + n + C)
    return scores + values + folded + 4 * p * z * (n + C) + constants
