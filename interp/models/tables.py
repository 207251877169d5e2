"""Tables of a network of one hidden layer on pairs of operands: everything before the non-linearity, token by token.

At the last position the pre-activations of such a network are sums of terms of one token each, weighted by attention:

    x[a, b]      = constant + sum_h A0_h(a, b) first_h(a) + A1_h(a, b) second_h(b)
    R[a, b]      = bypass_constant + sum_h A0_h(a, b) bypass_first_h(a) + A1_h(a, b) bypass_second_h(b)
    logits[a, b] = act(x[a, b]) W_L + R[a, b]

A0_h and A1_h are the attention of head h to the two operands. Without attention there is one term with A0 = A1 = 1.
Without '=', where the second operand stands last, attention is that of b, and the constants are a row for each b. All
arrays are float64; those of a float32 network are exact functions of its stored weights but for rounding, which
`PairTables.rounding` bounds. Analysis that must not run the network (a certificate of its accuracy) starts from here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import erf
from torch import Tensor

from interp.errors import NotAvailableError

__all__ = [
    "TABLED",
    "PairTables",
    "activated",
    "attention_tables",
    "dot_error",
    "operand_tokens",
    "require_unscaled",
    "sum_tables",
]

TABLED = ("relu", "gelu")
"""Non-linearities whose rounding is bounded, so that networks have tables."""
UNIT = 2.0**-53
"""Unit roundoff of float64."""
Attention = tuple[Float[np.ndarray, "p p H"], Float[np.ndarray, "p p H"]]
"""Weights of the first operand and of the second in each pair, by head."""
_WITH_MEAN = ("constant", "bypass_constant", "first", "second", "bypass_first", "bypass_second")
"""Arrays that contain the mean value of the positions that never change."""


@dataclass(frozen=True, eq=False)
class PairTables:
    """Tables of a network of one hidden layer on all pairs of p operands, H terms per operand, C outputs.

    Example:
        >>> from interp.config import FeedForward
        >>> from interp.models import build_model
        >>> model = build_model(FeedForward(d_model=4), 5, 2, 5, generator=torch.Generator().manual_seed(0))
        >>> tokens = torch.cartesian_prod(torch.arange(5), torch.arange(5))
        >>> tables = model.pair_tables(tokens)
        >>> np.allclose(tables.logits().reshape(25, 5), model(tokens)[:, -1].detach(), atol=1e-6)
        True
    """

    activation: str
    """Non-linearity: relu or gelu (with the error function)."""
    W_L: Float[np.ndarray, "neuron C"]
    """Neuron-logit map of Nanda et al. (2023)."""
    constant: Float[np.ndarray, "*own neuron"]
    """Part of the pre-activations that no attention weighs: one row, or one for each second operand if that is last."""
    first: Float[np.ndarray, "p H neuron"]
    """Contribution of the first operand to the pre-activations, by head."""
    second: Float[np.ndarray, "p H neuron"]
    """Contribution of the second operand to the pre-activations, by head."""
    bypass_constant: Float[np.ndarray, "*own C"]
    """Part of the logits that passes by the neurons and that no attention weighs, likewise."""
    bypass_first: Float[np.ndarray, "p H C"]
    """Contribution of the first operand to the logits that passes by the neurons, by head."""
    bypass_second: Float[np.ndarray, "p H C"]
    """Contribution of the second operand to the logits that passes by the neurons, by head."""
    scores: tuple[Float[np.ndarray, "p *own H"], Float[np.ndarray, "p H"], Float[np.ndarray, " H"] | None] | None
    """Attention scores that the last position gives to the first operand, the second, and the log of the summed
    exponentials of its scores of all other positions; None without attention. If the second operand stands last, the
    first has scores [p, p, H], one for each second operand, and there are no other positions."""
    rate: float
    """r of an attention of r softmax + 1 - r ("The Clock and the Pizza", Zhong et al., 2023); 1 otherwise."""
    d_z: int
    """Number of inputs of the hidden layer that differ from pair to pair: the heads' width, or that of the operands."""
    rounding: Mapping[str, float]
    """Upper bound on the absolute rounding error of the entries of each array, by its name ("scores": of any score);
    arrays that are not named are exact."""

    @property
    def p(self) -> int:
        """Number of operands."""
        return len(self.first)

    def attention(self) -> Attention:
        """Weights A0 and A1 of the two operands in each pair, by head; 1 without attention."""
        shape = (self.p, self.p, self.first.shape[1])
        if self.scores is None:
            return np.ones(shape), np.ones(shape)
        first, second, rest = (np.broadcast_to(s, shape) for s in _on_pairs(*self.scores))
        top = np.maximum(np.maximum(first, second), rest)
        e0, e1, e2 = (np.exp(s - top) for s in (first, second, rest))
        total = e0 + e1 + e2
        return self.rate * (e0 / total) + (1 - self.rate), self.rate * (e1 / total) + (1 - self.rate)

    def arranged(
        self, first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"], outputs: Int[np.ndarray, " C"]
    ) -> "PairTables":
        """Tables of some operands, and of all outputs, in another order."""
        own = self.constant.ndim > 1  # rows of the second operand, which stands last
        scores = self.scores
        if scores is not None:
            of_first = scores[0][first]
            scores = (of_first[:, second] if own else of_first, scores[1][second], scores[2])
        bypass = self.bypass_constant[..., outputs]
        return replace(
            self,
            W_L=self.W_L[:, outputs],
            constant=self.constant[second] if own else self.constant,
            first=self.first[first],
            second=self.second[second],
            bypass_constant=bypass[second] if own else bypass,
            bypass_first=self.bypass_first[first][..., outputs],
            bypass_second=self.bypass_second[second][..., outputs],
            scores=scores,
        )

    def pre_activations(self, attention: Attention | None = None) -> Float[np.ndarray, "p p neuron"]:
        """Pre-activations x of the hidden layer for every pair; `attention` stands in for the network's own."""
        return self._mixed(self.constant, self.first, self.second, attention)

    def bypass(self, attention: Attention | None = None) -> Float[np.ndarray, "p p C"]:
        """Part R of the logits that passes by the neurons, for every pair; see `pre_activations`."""
        return self._mixed(self.bypass_constant, self.bypass_first, self.bypass_second, attention)

    def activate(self, x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """The non-linearity of the hidden layer."""
        return activated(self.activation, x)

    def logits(self) -> Float[np.ndarray, "p p C"]:
        """Logits of every pair: the network itself, in float64."""
        return self.activate(self.pre_activations()) @ self.W_L + self.bypass()

    def _mixed(
        self, constant: np.ndarray, first: np.ndarray, second: np.ndarray, attention: Attention | None
    ) -> np.ndarray:
        if self.scores is None:
            return constant + first[:, None, 0] + second[None, :, 0]
        A0, A1 = attention or self.attention()
        return constant + A0 @ first + (A1.swapaxes(0, 1) @ second).swapaxes(0, 1)


def operand_tokens(
    tokens: Int[Tensor, "pair pos"],
) -> tuple[tuple[int, Int[Tensor, " p"]], tuple[int, Int[Tensor, " p"]], dict[int, int]]:
    """Position and tokens of the first operand, of the second, and the tokens of all other positions.

    `tokens` are all pairs, the second operand varying fastest.

    Raises:
        NotAvailableError: the inputs are not all pairs of operands at two positions, with equal tokens elsewhere.

    >>> first, second, rest = operand_tokens(torch.tensor([[0, 0, 2], [0, 1, 2], [1, 0, 2], [1, 1, 2]]))
    >>> first[0], second[0], second[1].tolist(), rest
    (0, 1, [0, 1], {2: 2})
    """
    p = round(len(tokens) ** 0.5)
    if p * p == len(tokens) and p > 1:
        grid = tokens.unflatten(0, (p, p))
        rows, columns = ((line != line[0]).any(0).nonzero().flatten().tolist() for line in (grid[:, 0], grid[0]))
        if len(rows) == len(columns) == 1 and rows != columns:
            i, j = rows[0], columns[0]
            a, b = grid[:, 0, i], grid[0, :, j]
            rest = {at: int(tokens[0, at]) for at in range(tokens.shape[1]) if at not in (i, j)}
            built = torch.tensor([rest.get(at, 0) for at in range(tokens.shape[1])]).repeat(p, p, 1)
            built[..., i], built[..., j] = a[:, None], b
            if torch.equal(built, grid):
                return (i, a), (j, b), rest
    raise NotAvailableError("Tables of pairs need inputs that are all pairs of two operands, at two positions.")


ACTIVATIONS = ("relu", "gelu")
"""Non-linearities of `activated`."""


def activated(kind: str, x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """The non-linearity of a hidden layer: relu, or gelu with the error function.

    >>> activated("relu", np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return np.maximum(x, 0) if kind == "relu" else 0.5 * x * (1 + erf(x / np.sqrt(2)))


def dot_error(terms: int) -> float:
    """Bound gamma_n = n u/(1 - n u) on the relative error of a sum of n products in float64, in any order.

    Relative to the sum of the absolute values ("Accuracy and Stability of Numerical Algorithms", Higham, 2002, 3.1).

    >>> dot_error(100) < 1.12e-14
    True
    """
    return terms * UNIT / (1 - terms * UNIT)


def sum_tables(
    rows: Sequence[Float[Tensor, "p neuron"]],
    bias: Tensor | None,
    W_L: Float[Tensor, "neuron C"],
    b_U: Tensor | None,
    activation: str,
    d_z: int,
    rounding: Mapping[str, float],
) -> PairTables:
    """Tables of a hidden layer x = bias + rows[0][a] + rows[1][b] and its read-out W_L, b_U; None stands for 0.

    Raises:
        NotAvailableError: the activation is another than relu or gelu.
    """
    _require_tabled(activation)
    neurons, C = W_L.shape
    nothing = np.zeros((len(rows[0]), 1, C))
    return PairTables(
        activation=activation,
        W_L=_array(W_L),
        constant=np.zeros(neurons) if bias is None else _array(bias),
        first=_array(rows[0])[:, None],
        second=_array(rows[1])[:, None],
        bypass_constant=np.zeros(C) if b_U is None else _array(b_U),
        bypass_first=nothing,
        bypass_second=nothing,
        scores=None,
        rate=1.0,
        d_z=d_z,
        rounding=rounding,
    )


def attention_tables(
    x: Float[Tensor, "pos token d_model"],
    operands: tuple[tuple[int, Tensor], tuple[int, Tensor]],
    rest: Mapping[int, int],
    attn: Any,
    mlp: Any,
    unembed: Any,
    activation: str,
    rate: float,
) -> PairTables:
    """Tables of one layer of attention and one of neurons, without LayerNorm, read out at the last position.

    The last position is one of `rest`, or there is no rest and it holds the second operand.

    Args:
        x: stream of each token at each position: its embedding plus that of the position.
        operands: position and tokens of the two operands.
        rest: token at each other position.
        attn, mlp, unembed: modules with HookedTransformer's parameters; biases may be None.
        activation: relu or gelu.
        rate: r of an attention of r softmax + 1 - r.

    Raises:
        NotAvailableError: the activation is another than relu or gelu.
    """
    _require_tabled(activation)
    values = _attended(x.detach().double(), operands, rest, attn, mlp, unembed, rate, sizes=False)
    sizes = _attended(x.detach().double().abs(), operands, rest, attn, mlp, unembed, rate, sizes=True)
    heads, d_model, d_head = attn.W_Q.shape
    lengths = 3 * d_model + 2 * heads * d_head + mlp.W_out.shape[1] + 4 * len(x) + 16
    gamma = dot_error(lengths)
    rounding = {name: gamma * float(np.max(np.abs(size))) for name, size in sizes.items() if name != "scores"}
    rounding["scores"] = gamma * max(float(s.max()) for s in sizes["scores"] if s is not None) + 16 * UNIT
    if len(rest) > 1:  # the mean over the positions that never change has weights with an error of their own
        weights = float(np.expm1(4 * rounding["scores"]))
        rounding |= {name: error + weights * error / gamma for name, error in rounding.items() if name in _WITH_MEAN}
    return PairTables(activation=activation, rate=rate, d_z=heads * d_head, rounding=rounding, **values)


def require_unscaled(output_scale: float) -> None:
    """Refuse tables where logits are multiplied by a factor, whose rounding is not bounded.

    Raises:
        NotAvailableError: the factor is not 1.

    >>> require_unscaled(1.0)
    """
    if output_scale != 1:
        raise NotAvailableError(f"Tables of pairs need an output scale of 1; this network has {output_scale}.")


def _require_tabled(activation: str) -> None:
    if activation not in TABLED:
        raise NotAvailableError(
            f"Tables of pairs need an activation whose rounding is bounded, {' or '.join(TABLED)}; this network has "
            f"{activation}."
        )


def _attended(
    x: Tensor, operands: Any, rest: Mapping[int, int], attn: Any, mlp: Any, unembed: Any, rate: float, *, sizes: bool
) -> dict[str, Any]:
    """Arrays of `attention_tables`; with `sizes`, sums of the absolute values of all terms, which bound roundings."""

    def of(module: Any, name: str) -> Any:
        value = getattr(module, name)
        if value is None:
            return 0.0
        return value.detach().double().abs() if sizes else value.detach().double()

    sign = 1.0 if sizes else -1.0
    d_head = attn.W_Q.shape[-1]
    (i, a), (j, b) = operands
    last = x.shape[0] - 1
    x_last = x[last, rest[last]] if rest else x[last, b]  # [d_model], or a row for each second operand
    streams = [x[i, a], x[j, b]]  # [token, d_model] each
    if rest:
        streams.append(torch.stack([x[at, token] for at, token in rest.items()]))

    q = (torch.einsum("...d,hde->...he", x_last, of(attn, "W_Q")) + of(attn, "b_Q")) / d_head**0.5
    W_K, b_K = of(attn, "W_K"), of(attn, "b_K")
    W_V, W_O, b_V = of(attn, "W_V"), of(attn, "W_O"), of(attn, "b_V")
    value = [torch.einsum("td,hde->the", s, W_V) + b_V for s in streams]  # [token, head, d_head]
    stream = x_last + of(attn, "b_O")
    if rest:
        query_key = torch.einsum("hde,he->dh", W_K, q)
        score = [s @ query_key + (q * b_K).sum(-1) for s in streams]
        if sizes:
            mean = value[2].amax(0)  # a weighted mean is at most the largest
        else:
            mean = (score[2].softmax(0)[..., None] * value[2]).sum(0)  # [head, d_head]: of positions that never change
        constant = rate * mean + (1 - rate) * (value[2].sum(0) + 2 * mean)
        stream = stream + torch.einsum("he,hed->d", constant, W_O)
        scores = [*score[:2], score[2].amax(0) if sizes else score[2].logsumexp(0)]
    else:
        mean = torch.zeros_like(value[0][0])
        key_a, key_b = (torch.einsum("td,hde->the", s, W_K) + b_K for s in streams)
        scores = [torch.einsum("the,qhe->tqh", key_a, q), torch.einsum("the,the->th", key_b, q)]
    W_in, W_U = of(mlp, "W_in"), of(unembed, "W_U")
    OI, OU = (torch.einsum("hed,dm->hem", W_O, W) for W in (W_in, W_U))  # cheaper than p rows of every head's output

    def through(W: Tensor, i: int) -> np.ndarray:
        return _array(torch.einsum("the,hem->thm", value[i] + sign * mean, W))

    return {
        "W_L": _array(of(mlp, "W_out") @ W_U),
        "constant": _array(stream @ W_in + of(mlp, "b_in")),
        "bypass_constant": _array((stream + of(mlp, "b_out")) @ W_U + of(unembed, "b_U")),
        "first": through(OI, 0),
        "second": through(OI, 1),
        "bypass_first": through(OU, 0),
        "bypass_second": through(OU, 1),
        "scores": (*map(_array, scores), *([] if rest else [None])),
    }


def _on_pairs(
    first: np.ndarray, second: np.ndarray, rest: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if rest is None:
        return first, second[None], np.full((1, 1, second.shape[-1]), -np.inf)
    return first[:, None], second[None], rest[None, None]


def _array(x: Tensor) -> np.ndarray:
    return np.asarray(x.detach().double().cpu().numpy())
