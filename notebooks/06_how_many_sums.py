# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How many sums teach addition?
#
# "Towards Understanding Grokking: An Effective Theory of Representation Learning" (Liu et al., 2022) answers without
# training a network. A decoder of $E_a + E_b$ that has learned the sum $a + b$ also knows $c + d$ if
# $E_a + E_b = E_c + E_d$: the two pairs span a **parallelogram** in the embedding. A training set thus determines which
# parallelograms representation learning enforces, which other sums follow from them, and how fast they are learned.
#
# `INTERP_NOTEBOOK_SCALE=toy` draws fewer training sets.

# %%
import os

import numpy as np
import torch

from interp.analysis.parallelograms import parallelogram_set, rqi
from interp.plots.style import COLOURS, SERIES, figure
from interp.theory import representation

TOY = os.environ.get("INTERP_NOTEBOOK_SCALE", "full") == "toy"
P = 10
PAIRS = np.stack(np.triu_indices(P), axis=1)  # all 55 unordered pairs of 0, ..., 9
ALL = representation.parallelograms(P)
draw = np.random.default_rng(0)

assert len(ALL) == 70  # as many as the paper counts


def random_pairs(n: int) -> np.ndarray:
    """A random training set of n pairs."""
    return PAIRS[draw.permutation(len(PAIRS))[:n]]


def sufficient_pairs(n: int) -> np.ndarray:
    """A random training set of n pairs that leaves the line only."""
    while representation.degrees_of_freedom(P, pairs := random_pairs(n)) > 2:
        pass
    return pairs


# %% [markdown]
# ## Enough is about 40 %
#
# A training set leaves *degrees of freedom*: numbers that choose a one-dimensional representation in which its
# parallelograms hold. Two are trivial, shift and scale of the line $E_i = i$. Where only these two are left, the line
# is the only representation, and all parallelograms follow. The probability that $n$ random pairs suffice jumps at a
# critical training fraction; the share of all pairs that follow from the training set (the *ideal accuracy*) rises
# before it.

# %%
found = representation.critical_training_fraction(P, generator=draw, draws=200 if TOY else 2000)
counts = np.arange(4, len(PAIRS) + 1, 3)
ideal = [np.mean([representation.ideal_accuracy(P, random_pairs(n)) for _ in range(5 if TOY else 40)]) for n in counts]

fig = figure("Addition of 0, ..., 9", y="probability, or share of all pairs", x="training fraction")
fig.add_scatter(x=found.fraction, y=found.probability, name="only the line is left", line_color=SERIES[0])
fig.add_scatter(x=counts / len(PAIRS), y=ideal, name="ideal accuracy", line_color=SERIES[1])
fig.add_vline(x=found.critical, line_dash="dot", annotation_text=f"critical: {found.critical:.2f}")
fig.show()

assert abs(found.critical - 0.4) < 0.05  # the paper's "about 0.4"
assert representation.degrees_of_freedom(P, PAIRS) == 2
assert ideal[0] < 0.5 < 0.99 < ideal[-1]

# %% [markdown]
# ## How fast: the grokking rate
#
# The effective theory replaces training by gradient flow on the *effective loss*, the squared defects of the enforced
# parallelograms over $|E|^2$. Its modes decay exponentially, and the slowest mode, with the smallest nonzero eigenvalue
# $\lambda$ of the Hessian, sets the time at which the line is found. So a larger training set groks sooner.

# %%
times = np.linspace(0, 30, 121)
start = draw.normal(size=(P, 1))
start -= start.mean()
order = sufficient_pairs(30)
order = np.concatenate([order, draw.permutation([pair for pair in PAIRS if not (order == pair).all(axis=1).any()])])
fig = figure("Effective theory", y="effective loss", x="time", yaxis_type="log")
rates = []
for colour, n in zip(SERIES, (30, 38, 46)):
    pairs = order[:n]
    rows = representation.within(ALL, pairs)
    E = representation.effective_flow(start, rows, times)
    loss = representation.effective_loss(E, rows)
    rate = representation.grokking_rate(P, rows)
    rates.append(rate)
    fig.add_scatter(x=times, y=loss, name=f"{n} pairs, rate {rate:.2f}", line_color=colour)

    end = representation.effective_flow(start, rows, np.array([1e4]))[0, :, 0]
    assert abs(np.corrcoef(end, np.arange(P))[0, 1]) > 0.9999  # the line
    late = loss > 1e-12  # above rounding
    slope = np.diff(np.log(loss[late]))[-1] / (times[1] - times[0])
    assert np.isclose(slope, -4 * rate / np.square(start).sum(), rtol=0.1)  # twice the rate of the slowest mode
fig.show()

assert rates == sorted(rates)  # more parallelograms, a larger Hessian

# %% [markdown]
# ## From a representation to its accuracy
#
# The prediction also works for any given embedding: collect the parallelograms that hold in it (up to a tolerance), and
# count the pairs that a parallelogram joins to a training pair. Along the flow, accuracy rises with the
# *representation quality index*, the share of all parallelograms that hold, and ends at the ideal accuracy (a sum of
# one pair only, such as 0 + 0, is in no parallelogram).

# %%
pairs, moments = order[:30], np.linspace(0, 8, 33)
path = torch.tensor(representation.effective_flow(start, representation.within(ALL, pairs), moments))
quality = [rqi(E, modular=False).item() for E in path]
accuracy = [representation.predicted_accuracy(P, pairs, parallelogram_set(E, modular=False).numpy()) for E in path]

fig = figure("Representation quality and predicted accuracy", y="share", x="time")
fig.add_scatter(x=moments, y=quality, name="representation quality index", line_color=COLOURS["train"])
fig.add_scatter(x=moments, y=accuracy, name="predicted accuracy", line_color=COLOURS["test"])
fig.show()

assert quality[-1] == 1
assert accuracy[0] < accuracy[-1] == representation.ideal_accuracy(P, pairs)

# %% [markdown]
# ## Modular addition is different
#
# With a modulus the line does not close: **no** embedding in a real space has all modular parallelograms, except with
# all tokens in one place (one degree of freedom, the shift). A network that adds mod $p$ has circles instead, each with
# few parallelograms. Its quality index is low although it generalises: a limit of this theory, not of the network.

# %%
p = 23
angle = 2 * np.pi * np.arange(p) / p
circle = torch.tensor(np.stack([np.cos(3 * angle), np.sin(3 * angle)], axis=1))
everything = np.stack(np.triu_indices(p), axis=1)
print(f"quality index of a circle mod {p}: {rqi(circle).item():.3f}")

assert representation.degrees_of_freedom(p, everything, modular=True) == 1
assert rqi(circle).item() < 0.05
