"""Grokking at the Edge of Linear Separability (Beck, Levi, Bar-Sinai, 2024), arXiv:2410.04489.

N points of N(0, sigma^2 I_d) with one label, learned by S.x + b. Next to lambda = d/N = 1/2, where the points become
separable from the origin, the weights go a long way before the bias outgrows them (`interp.theory.separability`). Most
figures need no run: they are computed by `interp.papers.beck.theory`. Runs are trained where the paper shows discrete
steps: gradient descent next to the flow in figure 1, and Adam in figures 5 and 10.

Sets of points are those of the task `Gaussian`, with the seeds 0, 1, 2, ...; times are t = learning rate times steps,
their axis `log10_t` in decades. Everything is in the variables of unit variance (eq. 14): `S_norm` is sigma |S|.
`train` and `test` values are cross-entropies in nats and accuracies, the latter those of the population (eqs. 4-6).
A set generalises at the last time at which its test accuracy is below 0.95, t = 1 at the earliest, and its delay, in
decades, is counted from the same time of its training accuracy; its `bump` is how far the test loss rises again.

Chosen here, as the paper does not say: sigma = 5 and a learning rate of 0.05 for figure 1, lambda = 0.3, 0.48, 0.6 as
its columns; sigma = 300 in figure 8; lambda = 0.45 and the values scanned in figures 9 and 11 to 13, whose contents are
inferred from the titles of their sections; a learning rate of 0.01 for Adam.
"""

__all__ = ["PAPER"]

PAPER = "Beck, Levi, Bar-Sinai: Grokking at the Edge of Linear Separability"
