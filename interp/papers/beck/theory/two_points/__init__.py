"""Grokking at the edge of separability in one dimension: two points, solved in closed form.

The points x_1 = -sigma and x_2 = sigma delta stand for a sample of N points in d = lambda N dimensions, with
delta = 1 - 2 lambda in [-1, 1], and N(0, sigma^2) for the population. All have one label, and f(x) = S x + b is correct
where f < 0. For delta > 0 the origin lies between the points (*inseparable*), for delta < 0 they are separable with
margin M = sigma |delta|. With l(S) = (e^(-sigma S) + e^(delta sigma S))/2, gradient flow of the exponential loss
L = e^b l(S) is, in conformal time tau(t) = int_0^t e^b dt,

    dS/dtau = -l'(S),    db/dtau = -l(S).

Write s = sigma S, u = e^s, z = delta u^(1 + delta). Then

    sigma^2 tau = F(u) - F(u_0),    F(u) = 2 u 2F1(1, a; 1 + a; z),    a = 1/(1 + delta),
    sigma^2 (b_0 - b) = s - s_0 - ln[(1 - z)/(1 - z_0)]/delta,

of which three cases are elementary: A, delta = 1: tanh(s/2) = tanh(s_0/2) e^(-sigma^2 tau); B, delta = 0: u = u_0 +
sigma^2 tau/2; C, delta = -1: u = u_0 + sigma^2 tau.

    model   the state, its training loss and accuracy
    limits  S_inf, l*, margins and accuracies for t -> infinity
    path    gradient flow in time and in conformal time
    clock   the bias as the clock of that flow
    times   times at which losses and accuracy pass a threshold, and their ratio

References: Grokking at the Edge of Linear Separability (Beck, Levi, Bar-Sinai, 2024), arXiv:2410.04489, section 4 and
appendix E: cases A, B, C are its equations 33-37. The form of the general solution, general sigma, real times beyond
case B, and times of the accuracy are extensions of this project. In many dimensions, for N -> infinity, S_inf diverges
as a power (`proportional_limit`), not as the logarithm that is exact here. Arguments broadcast against each other;
times are given and returned as logarithms, -inf for the start, inf for never.
"""

from interp.papers.beck.theory.two_points.limits import (
    HardMargin,
    asymptotic_loss,
    asymptotic_weight,
    hard_margin,
)
from interp.papers.beck.theory.two_points.model import State, log_train_loss
from interp.papers.beck.theory.two_points.path import conformal_flow, flow
from interp.papers.beck.theory.two_points.times import (
    GrokkingTimes,
    accuracy_time,
    grokking_times,
    log_grokking_ratio,
)

__all__ = [
    "GrokkingTimes",
    "HardMargin",
    "State",
    "accuracy_time",
    "asymptotic_loss",
    "asymptotic_weight",
    "conformal_flow",
    "flow",
    "grokking_times",
    "hard_margin",
    "log_grokking_ratio",
    "log_train_loss",
]
