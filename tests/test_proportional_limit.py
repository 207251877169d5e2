"""The proportional limit: its equations by plain quadrature, its limits, and random samples by Newton's method."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq, nnls
from scipy.special import lambertw
from scipy.stats import norm

from interp.errors import InvalidArgumentError
from interp.papers.beck.theory import proportional_limit as limit
from interp.papers.beck.theory.proportional_limit import inseparable, projection_cdf, projection_density, separable

CRITICAL_COEFFICIENT = np.sqrt(np.pi**2 / 16 + np.log(2) ** 2 / 2)
"""sqrt(q), the limit of S sqrt(1/2 - lambda) for lambda -> 1/2."""


def mean(function, S):
    """E f(g), in pieces that are short next to the bend."""
    edges = np.concatenate([[-9.0], np.linspace(-8, 8, 9) / max(S, 1.0), [9.0]])
    pieces = pairwise(edges)
    return sum(quad(lambda g: function(g) * norm.pdf(g), a, b, epsabs=1e-13, epsrel=1e-11)[0] for a, b in pieces)


def newton(X):
    """The minimum of the mean of e^(S.x) over a sample [N, d]; None where it is not reached."""
    S = np.zeros(X.shape[1])
    objective = 0.0
    for _ in range(60):
        z = X @ S
        p = np.exp(z - z.max())
        p /= p.sum()
        gradient = X.T @ p
        step = np.linalg.solve((X.T * p) @ X, gradient)
        size = 1.0
        while (lower := np.log(np.exp(X @ (S - size * step)).mean())) > objective and size > 1e-6:
            size /= 2
        S, objective = S - size * step, lower
        if objective < -5:
            return None
        if np.abs(gradient).max() < 1e-10:
            return S
    return None


def gaussian(n, d, seed):
    return np.random.default_rng(seed).standard_normal((n, d))


@pytest.mark.parametrize("lambda_", [0.01, 0.2, 0.45, 0.495])
def test_the_two_equations_hold_and_the_summary_is_that_of_the_projections(lambda_):
    found = inseparable(lambda_)
    S, kappa = float(found.S), float(found.kappa)

    def W(g):
        return lambertw(kappa * np.exp(S * g)).real

    assert mean(lambda g: W(g) ** 2, S) == pytest.approx(lambda_ * S**2, rel=1e-9)
    assert mean(lambda g: W(g) / (1 + W(g)), S) == pytest.approx(lambda_, rel=1e-9)
    assert mean(lambda g: np.exp(S * g - W(g)), S) == pytest.approx(found.loss, rel=1e-9)
    edge = brentq(lambda g: S * g - W(g), 0, 20, xtol=1e-14)
    assert found.fraction_positive == pytest.approx(norm.sf(edge), rel=1e-9)
    positive = quad(lambda g: (S * g - W(g)) * norm.pdf(g), edge, 9, epsabs=1e-13)[0]
    assert found.mean_positive == pytest.approx(positive / norm.sf(edge) / S, rel=1e-8)


def test_solutions_found_by_scanning_the_weight():
    """The same curve lambda(S) the other way round: for each S, kappa by bisection, lambda read off."""
    for S in (0.3, 10.0):

        def W(g, log_kappa, S=S):
            return lambertw(np.exp(log_kappa + S * g)).real

        def difference(log_kappa, S=S):
            share = mean(lambda g: W(g, log_kappa) / (1 + W(g, log_kappa)), S)
            return mean(lambda g: W(g, log_kappa) ** 2, S) / S**2 - share

        log_kappa = brentq(difference, np.log(S) - 4, np.log(S) + 2, xtol=1e-11)
        lambda_ = mean(lambda g: W(g, log_kappa) ** 2, S) / S**2  # noqa: B023
        assert float(inseparable(lambda_).S) == pytest.approx(S, rel=1e-6)
        assert inseparable(lambda_).kappa == pytest.approx(np.exp(log_kappa), rel=1e-6)


def test_few_dimensions():
    lambda_ = np.array([1e-6, 1e-8])
    found = inseparable(lambda_)
    np.testing.assert_allclose(found.S, np.sqrt(lambda_), rtol=1e-5)
    np.testing.assert_allclose(found.kappa, lambda_, rtol=1e-5)
    np.testing.assert_allclose(1 - found.loss, lambda_ / 2, rtol=1e-3)  # E e^z is 1 - lambda/2 to first order
    np.testing.assert_allclose(found.fraction_positive, 0.5, atol=1e-3)
    np.testing.assert_allclose(found.mean_positive, 2 * norm.pdf(0), rtol=2e-3)


def test_the_edge_from_below():
    c = limit.CRITICAL_RATIO
    assert c == pytest.approx(np.exp((np.log(2) - np.euler_gamma) / 2))
    log_g = 2 * quad(lambda g: np.log(g) * norm.pdf(g), 0, 12, epsabs=1e-12)[0]  # E ln|g|
    q = (np.pi**2 / 8 + (log_g - np.log(c)) ** 2) / 2
    assert q == pytest.approx(CRITICAL_COEFFICIENT**2, rel=1e-9)
    found = inseparable(0.5 - 1e-7)
    assert found.kappa / found.S == pytest.approx(c, rel=1e-3)
    assert found.fraction_positive == pytest.approx(norm.sf(c), rel=2e-3)
    assert found.loss == pytest.approx(norm.pdf(0) / c, rel=2e-3)
    assert float(found.S) == pytest.approx(CRITICAL_COEFFICIENT / np.sqrt(1e-7), rel=1e-3)
    rising = inseparable(np.linspace(0.02, 0.498, 40))
    assert (np.diff(rising.S) > 0).all()
    for falling in (rising.loss, rising.fraction_positive, rising.mean_positive):
        assert (np.diff(falling) < 0).all()
    assert (rising.fraction_positive > 0.1446).all()
    assert limit.log_grokking_ratio(0.5 - 1e-6) * 1e-6 == pytest.approx(CRITICAL_COEFFICIENT**2 / 2, rel=2e-3)


def test_the_margin_solves_gardners_equation():
    lambda_ = np.array([0.5, 0.52, 0.7, 1.0, 3.0, 50.0])
    for value, M in zip(lambda_, separable(lambda_).margin):
        overlap = quad(lambda g: (g + M) ** 2 * norm.pdf(g), -M, 12, epsabs=1e-12)[0]  # noqa: B023
        assert overlap == pytest.approx(value, rel=1e-9)
    near = separable(0.5 + 1e-5)
    assert near.margin == pytest.approx(1e-5 / (2 * norm.pdf(0)), rel=1e-4)
    assert separable(1e6).margin == pytest.approx(1e3, rel=1e-3)
    np.testing.assert_allclose(separable(lambda_).support_fraction, norm.cdf(separable(lambda_).margin), rtol=1e-12)


@pytest.mark.parametrize("lambda_", [0.05, 0.4, 0.49, 0.5, 0.6, 1.5])
def test_the_distribution_of_the_projections_is_one(lambda_):
    atom = float(separable(lambda_).support_fraction) if lambda_ >= 0.5 else 0.0
    M = float(separable(lambda_).margin) if lambda_ >= 0.5 else None
    v = np.linspace(-3, 2, 12)
    whole = [quad(lambda y: float(projection_density(y, lambda_)), a, b)[0] for a, b in pairwise(v)]
    jump = [atom if M is not None and a < -M <= b else 0.0 for a, b in pairwise(v)]
    np.testing.assert_allclose(np.diff(projection_cdf(v, lambda_)), np.add(whole, jump), atol=2e-6 if M else 1e-8)
    assert projection_cdf(8.0, lambda_) == 1
    if M is None:
        assert 1 - projection_cdf(0.0, lambda_) == pytest.approx(inseparable(lambda_).fraction_positive)


def test_the_projections_go_through_the_edge():
    v = np.array([-2.0, -0.5, 0.1, 1.0])
    np.testing.assert_allclose(projection_cdf(v, 0.5 - 1e-9), projection_cdf(v, 0.5 + 1e-9), atol=1e-6)


def test_random_samples_that_cannot_be_separated():
    """8 sets of N = 400 each: within 8 % of the limit, the weight up to as much above (finite size)."""
    for lambda_, sets in ((0.1, 8), (0.4, 8)):
        found = inseparable(lambda_)
        weights = [(X, newton(X)) for X in (gaussian(400, round(400 * lambda_), seed) for seed in range(sets))]
        solved = [(X, S) for X, S in weights if S is not None]
        assert len(solved) == sets
        z = [X @ S for X, S in solved]
        unit = np.concatenate([values / np.linalg.norm(S) for values, (_, S) in zip(z, solved)])
        assert np.median([np.linalg.norm(S) for _, S in solved]) == pytest.approx(found.S, rel=0.08)
        losses = [np.exp(values).mean() for values in z]
        assert np.mean(losses) == pytest.approx(found.loss, abs=0.01 + 3 * np.std(losses) / np.sqrt(sets))
        assert (unit > 0).mean() == pytest.approx(found.fraction_positive, abs=0.015)
        assert unit[unit > 0].mean() == pytest.approx(found.mean_positive, rel=0.08)
        # Kolmogorov and Smirnov's distance, far below the one from a Gaussian
        ranks = np.arange(1, len(unit) + 1) / len(unit)
        assert np.abs(projection_cdf(np.sort(unit), lambda_) - ranks).max() < 0.03
        assert np.abs(norm.cdf(np.sort(unit) / unit.std()) - ranks).max() > 0.05


def test_random_samples_that_can():
    for lambda_ in (0.6, 0.9):
        found, margins, support = separable(lambda_), [], []
        for seed in range(4):
            X = gaussian(300, round(300 * lambda_), seed)
            weights, _ = nnls(np.vstack([X.T, np.ones(300)]), np.eye(X.shape[1] + 1)[-1])
            margins.append(np.linalg.norm(X.T @ weights) / weights.sum())
            support.append((weights > 0).mean())
        assert np.mean(margins) == pytest.approx(found.margin, abs=0.04)
        assert np.mean(support) == pytest.approx(found.support_fraction, abs=0.04)


def test_the_table_of_newton_medians_for_larger_samples():
    """Medians over N = 2400 and 1200 points (the project's own runs), of which finite size takes up to a sixth."""
    medians = {0.3875: 1.945, 0.44: 3.00, 0.4525: 3.54, 0.475: 5.60, 0.48: 5.27, 0.485: 6.21, 0.49: 8.56, 0.495: 14.6}
    np.testing.assert_allclose(inseparable(np.array(list(medians))).S, list(medians.values()), rtol=0.17)


def test_leading_axes_are_carried_through():
    lambda_ = np.linspace(0.05, 0.45, 6).reshape(2, 3)
    one_by_one = [[float(inseparable(x).S) for x in row] for row in lambda_]
    np.testing.assert_allclose(inseparable(lambda_).S, one_by_one, rtol=1e-10)
    assert separable(lambda_ + 0.5).margin.shape == (2, 3)
    assert projection_cdf(np.zeros((4, 1, 1)), lambda_).shape == (4, 2, 3)
    assert limit.limiting_accuracy(0.6, np.array([1.0, 5.0])).shape == (2,)


def test_limiting_accuracy():
    assert limit.limiting_accuracy(np.array([0.2, 0.5]), 9.0).tolist() == [1.0, 1.0]
    M = separable(0.8).margin
    assert limit.limiting_accuracy(0.8, 3.0) == pytest.approx(norm.cdf(1 / (9 * M)))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: inseparable(0.5), r"`lambda_` = d/N must lie in \(0, 1/2\) for the asymptotic weight .* got \[0.5\]"),
        (lambda: inseparable(np.array([0.1, 0.0])), r"got \[0.0\]"),
        (lambda: limit.log_grokking_ratio(0.7), "for the asymptotic weight to exist"),
        (lambda: separable(0.49), r"must lie in \[1/2, inf\) for the margin to exist; got \[0.49\]"),
        (lambda: projection_cdf(0.0, -1.0), r"must lie in \(0, inf\) for the distribution of the projections"),
        (lambda: projection_density(np.nan, 0.3), "`value` must be finite"),
        (lambda: limit.limiting_accuracy(0.0), "for the limiting accuracy to exist"),
        (lambda: limit.limiting_accuracy(0.6, 0.0), "`sigma` must be finite and above 0; got 0.0"),
        (lambda: separable(np.nan), "got \\[nan\\]"),
    ],
)
def test_errors(call, text):
    with pytest.raises(InvalidArgumentError, match=text):
        call()
