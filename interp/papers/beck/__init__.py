"""Grokking at the Edge of Linear Separability (Beck, Levi, Bar-Sinai, 2024), arXiv:2410.04489: its figures 1 to 13.

N points of N(0, sigma^2 I_d) with one label, learned by S.x + b. Next to lambda = d/N = 1/2, where the points become
separable from the origin, the weights go a long way before the bias outgrows them (`interp.theory.separability`). Most
figures need no run: gradient flow (`gradient_flow`), the limits of t (`separability`), of N (`proportional_limit`) and
the two points in one dimension (`two_points`) are computed here. Runs are trained where the paper shows discrete
steps: gradient descent next to the flow in figure 1, and Adam in figures 5 and 10.

Sets of points are those of the task `Gaussian`, with the seeds 0, 1, 2, ...; times are t = learning rate times steps,
their axis `log10_t` in decades. Everything is in the variables of unit variance (eq. 14): `S_norm` is sigma |S|.
`train` and `test` values are cross-entropies in nats and accuracies, the latter those of the population (eqs. 4-6).
A set generalises at the last time at which its test accuracy is below 0.95, t = 1 at the earliest, and its delay, in
decades, is counted from the same time of its training accuracy; its `bump` is how far the test loss rises again.

Chosen here, as the paper does not say: sigma = 5 and a learning rate of 0.05 for figure 1, lambda = 0.3, 0.48, 0.6 as
its columns; sigma = 300 in figure 8; lambda = 0.45 and the values scanned in figures 9 and 11 to 13, whose contents are
inferred from the titles of their sections; a learning rate of 0.01 for Adam.

    sizes        what is the same in all figures, and what the presets differ in
    sets         sets of points, their flow and its limits
    runs         runs of gradient descent and Adam
    reading      medians of results, for claims
    panels       how figures are drawn
    dynamics     figure 1
    projections  figures 2, 6, 7
    simplified   figures 3, 4, 8: two points
    adam         figures 5, 10
    scans        figures 9, 11, 12, 13
"""

from interp.papers.beck.adam import B5, B10
from interp.papers.beck.dynamics import B1
from interp.papers.beck.projections import B2, B6, B7
from interp.papers.beck.scans import B9, B11, B12, B13
from interp.papers.beck.simplified import B3, B4, B8
from interp.papers.kit.figure import Figure

__all__ = ["FIGURES"]

FIGURES: tuple[Figure, ...] = (B1, B2, B3, B4, B5, B6, B7, B8, B9, B10, B11, B12, B13)
