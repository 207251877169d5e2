"""The parts of the circuit for modular addition, measured and ablated.

At '=', a one-layer transformer computes, with w_k = 2 pi k/p and a few key frequencies k:

    W_E          cos(w_k a), sin(w_k a)                            without_frequency
    attention    score of token t at position i: one number        attention_scores, attention_score_power
                 pattern to a: made of cos(w_k a), cos(w_k b)      attention_power, without_head
    neurons      cos(w_k a + phi_a), cos(w_k b + phi_b)            neuron_phase, ablate_neurons
                 and their product, cos(w_k(a + b) + phi_ab)
    W_L          reads cos(w_k(a + b)), sin(w_k(a + b))            neuron_logit_rank, neuron_logit_directions

(rows: the part, its content, and the functions for it). The residual stream x_i of position i is the sum of a token
embedding and a positional embedding, so that the score of '=' for a token t at position i is exactly

    s_h(i, t) = (W_E[t] + W_pos[i]) . u_h + q_h . b_K^h / sqrt(d_head),    u_h = W_K^h q_h / sqrt(d_head),
    q_h = x_= W_Q^h + b_Q^h,    x_= = W_E['='] + W_pos[last].

An ablation changes weights (`without_*`: run the network with them) or, where the layers above are linear, the logits.

References: Progress measures for grokking via mechanistic interpretability (Nanda et al., 2023), arXiv:2301.05217,
sections 4 and 5; for the phases, Grokking modular arithmetic (Gromov, 2023), arXiv:2301.02679.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analysis.arrays import Array, as_floats, as_logits_of, as_neurons, ratio
from interp.analysis.keys import Keys, as_key_mask
from interp.analysis.spectra import (
    Operation,
    conditional_mean,
    embedding_power,
    family_power,
    fourier_basis,
    fourier_power,
    line_mean,
)
from interp.errors import InvalidArgumentError
from interp.literals import as_probability

__all__ = [
    "AttentionPower",
    "NeuronLogitRank",
    "NeuronPhase",
    "Wave",
    "ablate_neurons",
    "attention_power",
    "attention_score_power",
    "attention_scores",
    "neuron_logit_directions",
    "neuron_logit_rank",
    "neuron_phase",
    "without_frequency",
    "without_head",
]


@dataclass(frozen=True)
class AttentionPower:
    """Shares of the variance of attention over the inputs (a, b), in [0, 1].

    `first` over the frequencies of a, (k, 0), + `second` over those of b, (0, k), + `rest`, which depends on both, = 1;
    all are 0 where attention does not vary.
    """

    first: Float[Tensor, "*steps head frequency"]
    second: Float[Tensor, "*steps head frequency"]
    rest: Float[Tensor, "*steps head"]


@dataclass(frozen=True)
class Wave:
    """A wave amplitude * cos(angle + phase): amplitude >= 0 in units of the activation, phase in (-pi, pi]."""

    amplitude: Float[Tensor, "*steps neuron"]
    phase: Float[Tensor, "*steps neuron"]


@dataclass(frozen=True)
class NeuronPhase:
    """Waves of a neuron at its frequency k: in w_k a, in w_k b, and in w_k(a + b) (or w_k(a - b))."""

    first: Wave
    second: Wave
    both: Wave


@dataclass(frozen=True)
class NeuronLogitRank:
    """Singular values of W_L, falling, and the number of them that holds the given share of its squared norm."""

    singular_values: Float[Tensor, "*steps direction"]
    directions: Int[Tensor, "*steps"]


def attention_scores(
    W_E: Float[Array, "*steps token d_model"],
    W_pos: Float[Array, "*steps pos d_model"],
    W_Q: Float[Array, "*steps head d_model d_head"],
    W_K: Float[Array, "*steps head d_model d_head"],
    *,
    b_Q: Float[Array, "*steps head d_head"] | None = None,
    b_K: Float[Array, "*steps head d_head"] | None = None,
) -> Float[Tensor, "*steps head pos-1 token-1"]:
    """Attention scores s_h(i, t), before the softmax, of '=' for the number t at each earlier position, in each head.

    Exact for one layer without LayerNorm (Nanda et al., 2023). `W_E` with all tokens, '=' the last; `W_pos` with all
    positions, '=' at the last. The softmax depends only on differences between positions. A position adds a constant,
    so that the curves over t of two positions are shifted copies. Computed in float64.

    Raises `InvalidArgumentError` where steps, heads or widths do not fit together.

    >>> W_E = torch.cat([torch.eye(3), torch.ones(1, 3)])                      # tokens 0, 1, 2 and '='
    >>> eye = torch.eye(3)[None]                                               # one head, d_head = d_model = 3
    >>> attention_scores(W_E, torch.zeros(3, 3), eye, 3**0.5 * eye).round(decimals=4)[0, 0].tolist()
    [1.0, 1.0, 1.0]
    """
    W_E = as_floats("W_E", W_E, "*steps token d_model").double()
    W_Q = as_floats("W_Q", W_Q, "*steps head d_model d_head").double()
    *steps, _, d_model = W_E.shape
    head, _, d_head = W_Q.shape[-3:]
    W_pos = as_floats("W_pos", W_pos, "*steps pos d_model").double()
    W_K = as_floats("W_K", W_K, "*steps head d_model d_head").double()
    biases = [
        torch.zeros(*steps, head, d_head, dtype=torch.float64, device=W_E.device)
        if bias is None
        else as_floats(name, bias, "*steps head d_head").double()
        for name, bias in (("b_Q", b_Q), ("b_K", b_K))
    ]
    for name, array, expected in (
        ("W_Q", W_Q, [*steps, head, d_model, d_head]),
        ("W_K", W_K, [*steps, head, d_model, d_head]),
        ("W_pos", W_pos, [*steps, W_pos.shape[-2], d_model]),
        ("b_Q", biases[0], [*steps, head, d_head]),
        ("b_K", biases[1], [*steps, head, d_head]),
    ):
        if list(array.shape) != expected:
            raise InvalidArgumentError(
                f"`{name}` must have the steps, heads and widths of `W_E` and `W_Q`, {expected}; "
                f"got {list(array.shape)}. Take all weights from the same steps of one run."
            )
    x_last = W_E[..., -1, :] + W_pos[..., -1, :]
    q = (torch.einsum("...d,...hde->...he", x_last, W_Q) + biases[0]) / d_head**0.5
    u = torch.einsum("...hde,...he->...hd", W_K, q)
    by_token = torch.einsum("...td,...hd->...ht", W_E[..., :-1, :], u)
    by_position = torch.einsum("...id,...hd->...hi", W_pos[..., :-1, :], u)
    constant = (q * biases[1]).sum(-1)  # [*steps, head]
    return by_token[..., None, :] + by_position[..., None] + constant[..., None, None]


def attention_score_power(score: Float[Array, "*steps p"]) -> Float[Tensor, "*steps frequency"]:
    """Fourier power over the tokens of a score per token, W_E W_K^T W_Q x_=, for every frequency: Nanda et al. (2023).

    `score` as from `attention_scores`, whose head and position are leading axes here (all positions have equal power).
    The constant, which depends on the position, is left out. Computed in float64.

    >>> t = torch.arange(5) * (2 * torch.pi / 5)
    >>> [round(power, 5) for power in attention_score_power(3 + 2 * torch.cos(2 * t)).tolist()]    # 4 * 5/2
    [0.0, 10.0]
    """
    return fourier_power(as_floats("score", score, "*steps p"), dim=-1)[..., 1:]


def attention_power(attention: Float[Array, "*steps p p head"]) -> AttentionPower:
    """Shares of the variance of the attention from '=' to a position in functions of a and of b, by frequency.

    `attention[a, b, head]`: pattern or score of the position for every input, `hook_pattern[:, :, -1, i]` reshaped.
    Shares of the variance over inputs (the constant mode is left out), from the two-dimensional transform (Nanda et
    al., 2023). Scores of one layer depend on the attended token alone and lie in one family; the softmax mixes the two.
    0 everywhere for attention that is constant up to rounding. Summed in float64.

    >>> a = torch.arange(5.0) * (2 * torch.pi / 5)
    >>> to_first = 0.5 + 0.2 * torch.cos(2 * a)[:, None] + 0.1 * torch.cos(a)
    >>> power = attention_power(to_first[..., None])
    >>> [round(share, 5) for share in (*power.first[0].tolist(), *power.second[0].tolist())]
    [0.0, 0.8, 0.2, 0.0]
    """
    x = as_floats("attention", attention, "*steps p p head")
    p = x.shape[-2]
    mean = x.mean((-3, -2), keepdim=True, dtype=torch.float64)
    families = family_power(x - mean)
    alive = families.total > (4 * torch.finfo(x.dtype).eps * p * mean[..., 0, 0, :]).square()
    total = torch.where(alive, families.total, 1.0)[..., None]
    first, second = (torch.where(alive[..., None], power / total, 0.0) for power in (families.first, families.second))
    rest = torch.where(alive, 1 - first.sum(-1) - second.sum(-1), 0.0).clamp(min=0.0)
    return AttentionPower(first, second, rest)


def neuron_phase(
    activations: Float[Array, "*steps p p neuron"],
    frequency: Int[Array, "*steps neuron"],
    operation: Operation = "add",
    *,
    table: Float[Array, "*steps p neuron"] | None = None,
) -> NeuronPhase:
    """Amplitude and phase of each neuron at its frequency k, over a, over b, and over a + b.

    The best fit in least squares of r cos(w_k a + phi_a), and so on: r = 2/p^2 |X|, phi = arg X with X the sum over
    inputs of the activation times exp(-i w_k a) (for k = p/2, r = |X|/p^2 and phi is 0 or pi). `frequency` as from
    `spectra.neuron_frequency`. In networks that add, phi_a + phi_b = phi_ab (mod 2 pi), since a neuron's wave in
    w_k(a + b) comes from the product of its two waves (Gromov, 2023). With `operation="subtract"` the third wave is
    over a - b, and its phase phi_a - phi_b. `table` is `spectra.conditional_mean` of the activations, if already
    computed. A wave that is zero up to rounding has phase 0. Summed in float64.

    Raises `InvalidArgumentError` for frequencies outside 1..floor(p/2) or not one per step and neuron.

    >>> a = torch.arange(7) * (2 * torch.pi / 7)
    >>> neuron = 1 + torch.cos(2 * a + 0.5)[:, None] + 3 * torch.cos(2 * a - 1)
    >>> found = neuron_phase(neuron[..., None], torch.tensor([2]))
    >>> [round(wave.phase.item(), 4) for wave in (found.first, found.second)], round(found.second.amplitude.item(), 4)
    ([0.5, -1.0], 3.0)
    """
    x = as_floats("activations", activations, "*steps p p neuron")
    p = x.shape[-2]
    k = torch.as_tensor(np.asarray(frequency) if not isinstance(frequency, Tensor) else frequency, device=x.device)
    if k.shape != (*x.shape[:-3], x.shape[-1]) or k.dtype == torch.bool or k.is_floating_point():
        raise InvalidArgumentError(
            f"`frequency` must hold one whole number for each step and neuron, {[*x.shape[:-3], x.shape[-1]]}; "
            f"got {k.dtype} of shape {list(k.shape)}."
        )
    if k.min() < 1 or k.max() > p // 2:
        raise InvalidArgumentError(
            f"`frequency` must lie in 1..{p // 2} for p={p}; got {int(k.min())}..{int(k.max())}."
        )
    lines = (
        line_mean(x, 1),
        line_mean(x, 0),
        conditional_mean(x, operation) if table is None else as_floats("table", table, "*steps p neuron"),
    )
    largest = x.abs().amax((-3, -2)).double()
    return NeuronPhase(*(_wave(line, k.long(), 4 * torch.finfo(x.dtype).eps * largest) for line in lines))


def neuron_logit_rank(W_L: Float[Array, "*steps neuron answer"], *, share: float = 0.95) -> NeuronLogitRank:
    """Singular values of W_L = W_out W_U, and the least number of directions with `share` of its squared norm.

    Nanda et al. (2023) find W_L to be of rank 10 or so: two directions for each of five keys, which explain 0.95. W_L
    is not centred over the answers, though the softmax ignores the mean. 0 directions for W_L = 0. Computed in float64.

    >>> neuron_logit_rank(torch.diag(torch.tensor([3.0, 2.0, 0.1]))).directions.item()
    2
    """
    W_L = as_floats("W_L", W_L, "*steps neuron answer").double()
    as_probability("share", share)
    singular_values = torch.linalg.svdvals(W_L)
    power = singular_values.square()
    before = power.cumsum(-1) - power  # power of the directions before each direction
    missing = share * power.sum(-1, keepdim=True) - before > 1e-12 * power.sum(-1, keepdim=True)
    return NeuronLogitRank(singular_values, missing.sum(-1))


def neuron_logit_directions(W_L: Float[Array, "*steps neuron p"], keys: Keys) -> Float[Tensor, "*steps"]:
    """Share of the squared norm of W_L that lies on cos(w_k c), sin(w_k c) of the key frequencies, in [0, 1].

    Over the p answers c (leave '=' out), of which W_L is centred: the softmax does not see a constant. Nanda et al.
    (2023) explain W_L with the ten directions of five keys. `keys` is a list of frequencies or a mask, for all steps or
    for each. 0 where the centred W_L vanishes. Computed in float64.

    >>> t = torch.arange(7) * (2 * torch.pi / 7)
    >>> W_L = torch.stack([2 * torch.cos(t), 5 + torch.sin(3 * t)])
    >>> round(neuron_logit_directions(W_L, [1]).item(), 5), round(neuron_logit_directions(W_L, [1, 3]).item(), 5)
    (0.8, 1.0)
    """
    W_L = as_floats("W_L", W_L, "*steps neuron p")
    power = embedding_power(W_L.mT)
    total = power.sum(-1)  # all that is not constant over the answers
    on_keys = (power * as_key_mask(keys, W_L.mT)).sum(-1)
    return ratio(on_keys[..., None], total, (1e-12 * W_L.double()).square().sum((-2, -1)))[..., 0].clamp(max=1.0)


def without_frequency(W_E: Float[Array, "*steps p d_model"], keys: Keys) -> Float[Tensor, "*steps p d_model"]:
    """The embedding of the p numbers without the cosines and sines over tokens of the frequencies in `keys`.

    W_E - F_K^T F_K W_E with the rows F_K of the Fourier basis; the other frequencies and the mean stay. Slice off '='
    and put it back: `W_E[..., :p, :] = without_frequency(W_E[..., :p, :], [k])`. In the precision of `W_E`.

    >>> t = torch.arange(5) * (2 * torch.pi / 5)
    >>> W_E = torch.stack([1 + t.cos(), (2 * t).sin()], dim=1)
    >>> torch.allclose(without_frequency(W_E, [1]), torch.stack([torch.ones(5), (2 * t).sin()], dim=1), atol=1e-6)
    True
    """
    W_E = as_floats("W_E", W_E, "*steps p d_model")
    p = W_E.shape[-2]
    basis = fourier_basis(p, device=W_E.device)[1:]
    removed = as_key_mask(keys, W_E).repeat_interleave(2, dim=-1)[..., : p - 1]  # even p: the last sine is no row
    return (W_E.double() - basis.T @ (removed[..., None] * (basis @ W_E.double()))).to(W_E.dtype)


def without_head(
    W_O: Float[Array, "*steps head d_head d_model"], head: int
) -> Float[Tensor, "*steps head d_head d_model"]:
    """A copy of W_O in which one head, counted from 0, writes nothing: its share of the residual stream is zero.

    The neurons above are not linear, so the network has to be run. Zero ablation: the head's mean is removed as well.

    >>> without_head(torch.ones(2, 1, 1), 0).flatten().tolist()
    [0.0, 1.0]
    """
    W_O = as_floats("W_O", W_O, "*steps head d_head d_model").clone()
    heads = W_O.shape[-3]
    if isinstance(head, bool) or int(head) != head or not 0 <= head < heads:
        raise InvalidArgumentError(f"`head` must be a whole number in 0..{heads - 1}; got {head!r}.")
    W_O[..., int(head), :, :] = 0
    return W_O


def ablate_neurons(
    activations: Float[Array, "*steps p p neuron"],
    W_L: Float[Array, "*steps neuron answer"],
    logits: Float[Array, "*steps p p answer"],
    neurons: Bool[Array, "... neuron"],
    *,
    replace: Literal["mean", "zero"] = "mean",
) -> Float[Tensor, "*steps p p answer"]:
    """The logits of the network with the chosen neurons set to their mean over the inputs, or to zero.

    L - (A - replacement) W_L over the chosen neurons: exact, because the last hidden layer reaches the logits through
    W_L alone. `neurons` is a mask for all steps or for each step (the cluster of k: `frequency == k`). The default,
    mean ablation, keeps the neurons' contribution to the class means. The ablated loss is
    `loss.cross_entropy(ablated, labels, mask)`. Computed in float64.

    >>> A = torch.arange(3.0)[:, None, None].expand(3, 3, 1)                     # the neuron is a
    >>> L = A @ torch.ones(1, 2)
    >>> ablate_neurons(A, torch.ones(1, 2), L, torch.tensor([True]))[:, 0, 0].tolist()
    [1.0, 1.0, 1.0]
    """
    activations, W_L = as_neurons(activations, W_L)
    logits = as_logits_of(activations, W_L, logits)
    steps, count = activations.shape[:-3], activations.shape[-1]
    chosen = torch.as_tensor(np.asarray(neurons) if not isinstance(neurons, Tensor) else neurons, device=logits.device)
    if chosen.dtype != torch.bool or chosen.shape[-1:] != (count,) or chosen.shape[:-1] not in ((), steps):
        raise InvalidArgumentError(
            f"`neurons` must be a boolean mask of shape {[count]} or {[*steps, count]}; "
            f"got {chosen.dtype} of shape {list(chosen.shape)}."
        )
    if replace not in ("mean", "zero"):
        raise InvalidArgumentError(f'`replace` must be "mean" or "zero"; got {replace!r}.')
    kept_map = W_L.double() * chosen[..., None]
    ablated = []
    for step in product(*map(range, steps)):
        removed = activations[step].double() @ kept_map[step]
        if replace == "mean":
            removed -= removed.mean((0, 1))
        ablated.append(logits[step].double() - removed)
    return torch.stack(ablated).reshape(logits.shape)


def _wave(
    line: Float[Tensor, "*steps p neuron"], k: Int[Tensor, "*steps neuron"], rounding: Float[Tensor, "*steps neuron"]
) -> Wave:
    """The wave of frequency k in each neuron's mean over lines of inputs (`line`, [p, neuron])."""
    p = line.shape[-2]
    X = torch.fft.rfft(line, dim=-2).gather(-2, k[..., None, :]).squeeze(-2)
    amplitude = X.abs() * torch.where(2 * k == p, 1.0, 2.0) / p
    phase = torch.where(amplitude > rounding, X.angle(), 0.0)
    return Wave(amplitude, torch.where(phase <= -torch.pi, torch.pi, phase))  # the angle of -1 - 0i is -pi
