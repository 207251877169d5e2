"""Two points: closed forms against integration of the flow as it is written, limits, published and measured numbers."""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.special import lambertw
from scipy.stats import norm

from interp.errors import InvalidArgumentError
from interp.papers.beck.theory import two_points as two
from interp.theory import separability

SIGMOID = {"exponential": np.exp, "cross-entropy": lambda f: 1 / (1 + np.exp(-f))}
DELTAS = [1.0, 0.4, 1e-3, 1e-9, 0.0, -1e-6, -0.3, -0.97, -1.0]
HALF_DECADES = 10.0 ** np.arange(-1, -4.1, -0.5)


def slow_flow(end, delta, sigma=1.0, S0=0.0, b0=0.0, loss="exponential", conformal=False):
    """Gradient flow on the two points, as it is defined; in conformal time without the factor e^b."""
    x = np.array([-sigma, sigma * delta])
    slope = SIGMOID[loss]

    def velocity(_, state):
        p = slope(state[0] * x + (0.0 if conformal else state[1]))
        return [-(p @ x) / 2, -p.sum() / 2]

    found = solve_ivp(velocity, (0.0, end), [S0, b0], method="Radau", rtol=1e-9, atol=1e-11)
    return found.y[:, -1]


def late_time(log_t, delta, sigma=1.0):
    """Leading terms of S and b for t -> infinity: Beck et al. (2024), Table 1."""
    M = sigma * np.maximum(-delta, 0.0)
    if delta > 0:
        return two.asymptotic_weight(delta, sigma), -log_t
    return (np.log(log_t) / sigma if delta == 0 else M / (1 + M**2) * log_t), -log_t / (1 + M**2)


def margin_offset(delta, sigma=1.0):
    """Limit of S - M ln t/(1 + M^2) for two separable points of different norm, from zero."""
    m, M2 = np.abs(delta), np.square(sigma * delta)
    return (np.log1p(m) - np.log(m) + m * sigma**2 * np.log((1 + M2) / 2)) / (sigma * (1 + M2))


def assert_state(state, S, b, atol=1e-7):
    np.testing.assert_allclose(state.S, S, atol=atol, rtol=1e-9)
    np.testing.assert_allclose(state.b, b, atol=atol, rtol=1e-9)


# --- the path ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", DELTAS)
def test_paths_are_those_of_the_integrated_flow(delta):
    """From zero; from elsewhere; and from above S_inf, where the points are exchanged."""
    for sigma, S0, b0 in [(1.0, 0.0, 0.0), (3.0, -1.0, 0.5), (0.7, 3.0, -0.5)]:
        assert_state(two.flow(np.log(40.0), delta, sigma, S0=S0, b0=b0), *slow_flow(40.0, delta, sigma, S0, b0))
        tau = two.conformal_flow(3.0, delta, sigma, S0=S0, b0=b0)
        assert_state(tau, *slow_flow(3.0, delta, sigma, S0, b0, conformal=True))


@pytest.mark.parametrize("delta", [1.0, 0.4, 1e-3, 0.0, -0.3, -1.0])
def test_cross_entropy_is_the_integrated_flow(delta):
    for sigma, S0, b0 in [(1.0, 0.0, 0.0), (5.0, -0.3, 2.0)]:
        state = two.flow(np.log([0.5, 40.0]), delta, sigma, S0=S0, b0=b0, loss="cross-entropy")
        slow = [slow_flow(end, delta, sigma, S0, b0, "cross-entropy") for end in (0.5, 40.0)]
        assert_state(state, *np.transpose(slow), atol=1e-6)


def test_case_a():
    tau, s0 = np.array([0.0, 0.5, 3.0, 5.0, 7.0, 40.0]), np.array([[0.8], [-1.5]])
    state = two.conformal_flow(tau, 1.0, S0=s0, b0=0.3)
    S = 2 * np.arctanh(np.tanh(s0 / 2) * np.exp(-tau))
    assert_state(state, S, 0.3 + np.log(np.sinh(S) / np.sinh(s0)), atol=1e-12)
    assert_state(two.conformal_flow(tau, 1.0), 0 * tau, -tau, atol=1e-15)  # at rest
    assert_state(two.flow(np.log(7.0), 1.0), 0.0, -np.log(8.0), atol=1e-14)


def test_case_b_is_lamberts_function():
    tau = np.array([0.0, 0.5, 3.0, 400.0])
    S = np.log(np.exp(-0.7) + tau / 2)
    assert_state(two.conformal_flow(tau, 0.0, S0=-0.7, b0=0.2), S, 0.2 - tau / 2 - (S + 0.7), atol=1e-12)
    t = np.array([1e-9, 0.1, 20.0, 1e12])
    W = lambertw(t / 2).real
    assert_state(two.flow(np.log(t), 0.0), np.log1p(W), -W - np.log1p(W), atol=1e-12)
    np.testing.assert_allclose(2 * W * np.exp(W), t)  # t = tau e^(tau/2) at tau = 2 W


def test_case_c():
    tau = np.array([0.0, 0.5, 3.0, 4e6])
    S = np.log(tau + np.exp(0.4))
    assert_state(two.conformal_flow(tau, -1.0, S0=0.4), S, -(S - 0.4), atol=1e-12)
    log_t = np.array([-20.0, 0.0, 5.0, 3000.0])
    S = np.logaddexp(0.0, np.log(2) + log_t) / 2
    state = two.flow(log_t, -1.0)
    assert_state(state, S, -S, atol=1e-12)
    np.testing.assert_allclose(separability.generalisation_accuracy(state.S, state.b, 1.0), norm.cdf(1.0))
    sigma = 3.0
    y = np.logaddexp(0.0, np.log(1 + sigma**2) + log_t) / (1 + sigma**2)
    assert_state(two.flow(log_t, -1.0, sigma), sigma * y, -y, atol=1e-12)


@pytest.mark.parametrize("delta", [0.5, 0.05, -0.05, -0.6])
@pytest.mark.parametrize(("S0", "b0"), [(0.0, 0.0), (-0.8, 0.6)])
def test_the_hypergeometric_forms(delta, S0, b0):
    """tau and t by their closed forms at the S and b of the flow, in 30 digits."""
    d, log_t = mpmath.mpf(delta), 2.5
    mpmath.mp.dps = 30
    state = two.flow(log_t, delta, S0=S0, b0=b0)
    u, u0 = mpmath.exp(mpmath.mpf(float(state.S))), mpmath.exp(S0)
    z0 = d * u0 ** (1 + d)

    def G(u):
        return u**2 * mpmath.hyp2f1(1 + 1 / d, 2 / (1 + d), 1 + 2 / (1 + d), d * u ** (1 + d))

    def F(u):
        return 2 * u * mpmath.hyp2f1(1, 1 / (1 + d), 1 + 1 / (1 + d), d * u ** (1 + d))

    t = mpmath.exp(-b0 - S0) * (1 - z0) ** (1 / d) * (G(u) - G(u0))
    assert float(mpmath.log(t)) == pytest.approx(log_t, abs=1e-9)
    again = two.conformal_flow(float(F(u) - F(u0)), delta, S0=S0, b0=b0)
    assert_state(again, state.S, state.b, atol=1e-9)


def test_rescaling():
    """sigma S on unit points, with sigma^2 the rate of the weight: tau -> sigma^2 tau, b - b0 divided by sigma^2."""
    tau, sigma = np.array([0.1, 1.0, 9.0]), 3.0
    for delta in (0.3, 0.0, -0.4):
        state = two.conformal_flow(tau, delta, sigma, S0=0.2, b0=-0.5)
        unit = two.conformal_flow(sigma**2 * tau, delta, S0=0.6)
        assert_state(state, unit.S / sigma, unit.b / sigma**2 - 0.5, atol=1e-12)


def test_exchanged_points():
    """The path of (-1, delta) is that of (-delta, 1) with the weight reversed: dS/dtau = -l'(S) from above S_inf."""
    tau = 1e-4
    for delta in (1.0, 0.5, 0.01):
        S0 = float(two.asymptotic_weight(delta)) + 2.0
        state = two.conformal_flow(tau, delta, S0=S0)
        force = 0.5 * (np.exp(-S0) - delta * np.exp(delta * S0))
        assert force < 0
        assert float(state.S) - S0 == pytest.approx(tau * force, rel=1e-3)
        assert float(two.flow(3000.0, delta, S0=S0).S) == pytest.approx(S0 - 2.0, abs=1e-9)


def test_the_bias_is_late_by_the_bound_of_appendix_c():
    log_t = np.linspace(-3, 50, 30)
    for delta in (0.5, 0.0, -0.5):
        state = two.flow(log_t, delta, S0=-0.5)
        l0 = 0.5 * (np.exp(0.5) + np.exp(-0.5 * delta))
        assert (np.diff(state.b) < 0).all()
        assert (-state.b <= np.log1p(l0 * np.exp(log_t)) + 1e-12).all()


def test_nothing_has_moved_at_the_start():
    for loss in ("exponential", "cross-entropy"):
        state = two.flow(-np.inf, np.array([0.5, 0.0, -0.5]), 2.0, S0=0.3, b0=-1.0, loss=loss)
        assert_state(state, 0.3, -1.0, atol=1e-14)


def test_the_edge_is_no_jump():
    """Continuous at delta = 0, where the forms are others."""
    below, at, above = (two.flow(8.0, delta, 2.0, S0=-1.0) for delta in (-1e-12, 0.0, 1e-12))
    assert_state(below, at.S, at.b, atol=1e-9)
    assert_state(above, at.S, at.b, atol=1e-9)


def test_a_weight_at_its_limit_stays():
    for delta in (1.0, 0.5, 0.25, 1e-3):
        S, loss = two.asymptotic_weight(delta), two.asymptotic_loss(delta)
        assert_state(two.flow(3.0, delta, S0=S), S, -np.log1p(loss * np.exp(3.0)), atol=1e-12)
        assert_state(two.conformal_flow(3.0, delta, S0=S), S, -3.0 * loss, atol=1e-12)


# --- long times -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1.0, 4.0])
@pytest.mark.parametrize("loss", ["exponential", "cross-entropy"])
def test_late_times(sigma, loss):
    """Table 1, by slopes between e^1500 and e^3000 for separable points."""
    for delta in (0.5, 0.02):
        state = two.flow(3000.0, delta, sigma, loss=loss)
        assert float(state.S) == pytest.approx(two.asymptotic_weight(delta, sigma), rel=1e-6)
        assert state.b == pytest.approx(-3000.0 - np.log(two.asymptotic_loss(delta)), abs=1e-3)
        assert late_time(3000.0, delta, sigma)[0] == pytest.approx(float(state.S), rel=1e-6)
    for delta in (-0.5, -0.05, -1.0):
        state, (S, b) = two.flow(np.array([1500.0, 3000.0]), delta, sigma, loss=loss), late_time(1500.0, delta, sigma)
        assert np.diff(state.S)[0] == pytest.approx(S, rel=1e-3)
        assert np.diff(state.b)[0] == pytest.approx(b, rel=1e-3)
        accuracy = separability.generalisation_accuracy(S, b, sigma)
        assert accuracy == pytest.approx(norm.cdf(1 / (sigma**2 * -delta)), rel=1e-12)  # eq. 13
    state = two.flow(np.array([300.0, 3000.0]), 0.0, loss=loss)
    assert_state(state, *late_time(np.array([300.0, 3000.0]), 0.0), atol=10.0)
    assert state.S[1] - np.log(3000) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("sigma", [1.0, 3.0])
@pytest.mark.parametrize("delta", [-0.5, -0.1, -0.01])
def test_subleading_term(delta, sigma):
    log_t = 60.0 / np.abs(delta) ** 1.5 / min(1.0, sigma)
    state, M = two.flow(log_t, delta, sigma), -sigma * delta
    assert state.S - M * log_t / (1 + M**2) == pytest.approx(margin_offset(delta, sigma), abs=1e-7 * log_t)
    assert state.S + M * state.b == pytest.approx(np.log((1 - delta) / -delta) / sigma, abs=1e-9)


def test_subleading_term_is_the_weight_of_the_mirrored_edge():
    gap = margin_offset(np.array([-1e-3, -1e-6])) - two.asymptotic_weight(np.array([1e-3, 1e-6]))
    assert np.abs(gap[1]) < 2e-5
    assert np.abs(gap[0]) < 1e-2


def test_the_minimum_of_the_loss():
    delta = np.array([1.0, 0.5, 1e-3])
    S = two.asymptotic_weight(delta, 2.0)
    np.testing.assert_allclose(0.5 * (np.exp(-2 * S) + np.exp(2 * delta * S)), two.asymptotic_loss(delta))
    np.testing.assert_allclose(np.exp(-2 * S), delta * np.exp(2 * delta * S))


def test_the_bound_of_appendix_d_is_attained():
    """(1/D) ln[(1 - e)/e (N - d)/d] of two points in one dimension; e is the smaller weight of the origin."""
    for delta in (0.9, 0.2, 1e-3):
        points = 2.0 * np.array([-1.0, delta])
        weights = np.array([delta, 1.0]) / (1 + delta)
        assert weights @ points == pytest.approx(0.0, abs=1e-15)
        bound = np.log((1 - weights[0]) / weights[0] * (2 - 1) / 1) / np.ptp(points)
        assert bound == pytest.approx(two.asymptotic_weight(delta, 2.0), rel=1e-12)


@pytest.mark.parametrize("sigma", [1.0, 2.5])
@pytest.mark.parametrize("delta", [1.0, 0.4, 0.0, -0.4, -1.0])
def test_hard_margin(delta, sigma):
    found, x = two.hard_margin(delta, sigma), sigma * np.array([-1.0, delta])
    generator = np.random.default_rng(0)
    feasible = found.apex + generator.exponential(size=(2000, 2)) @ found.rays
    assert (feasible[:, :1] * x + feasible[:, 1:] <= -1 + 1e-12).all()
    anywhere = generator.normal(scale=3, size=(2000, 2))
    inside = np.linalg.solve(found.rays.T, (anywhere - found.apex).T).T if delta > -1 else None
    if inside is not None:
        np.testing.assert_array_equal((inside >= 0).all(1), (anywhere[:, :1] * x + anywhere[:, 1:] <= -1).all(1))
    nearest = found.minimum_norm
    assert (nearest[0] * x + nearest[1] <= -1 + 1e-12).all()
    assert np.linalg.norm(nearest) <= np.linalg.norm(feasible, axis=1).min() + 1e-12
    if delta < 0:
        np.testing.assert_allclose(late_time(100.0, delta, sigma), 100 * nearest)


# --- losses and accuracies --------------------------------------------------------------------------------------------


def test_losses_and_accuracies_by_their_definitions():
    delta, sigma, S, b = -0.4, 2.0, 0.7, 0.9
    f = S * sigma * np.array([-1.0, delta]) + b
    assert two.log_train_loss(S, b, delta, sigma) == pytest.approx(np.log(np.exp(f).mean()))
    found = two.log_train_loss(S, b, delta, sigma, loss="cross-entropy")
    assert found == pytest.approx(np.log(np.log1p(np.exp(f)).mean()))
    assert two.log_train_loss(S, -900.0, delta, sigma, loss="cross-entropy") == pytest.approx(
        two.log_train_loss(S, -900.0, delta, sigma)
    )
    x = np.random.default_rng(0).normal(scale=sigma, size=400_000)
    assert separability.generalisation_accuracy(S, b, sigma) == pytest.approx((S * x + b < 0).mean(), abs=3e-3)


@pytest.mark.parametrize("s", [0.0, 0.01, 1.0, 7.0, 40.0, 300.0])
@pytest.mark.parametrize("b", [-400.0, -30.0, -1.0, 0.0, 5.0])
def test_generalisation_loss_by_quadrature(s, b):
    """Scaled by its largest term, and cut where softplus bends and where the integrand is largest."""
    log_softplus = np.vectorize(lambda z: z if z < -30 else np.log(np.logaddexp(0.0, z)))
    peak = min(s, -b / s) if b < 0 and s else 0.0
    scale = float(log_softplus(s * peak + b)) - peak**2 / 2
    cuts = sorted({peak + y / max(1.0, s) for y in (-40, -8, -2, 0, 2, 8, 40)} | {peak + y for y in (-12, -3, 3, 12)})

    def term(Z):
        return float(np.exp(log_softplus(s * Z + b) - Z**2 / 2 - scale)) / np.sqrt(2 * np.pi)

    whole = sum(quad(term, low, high, epsabs=1e-13, epsrel=1e-12)[0] for low, high in pairwise(cuts))
    found = separability.log_generalisation_loss(s, b, 1.0)
    assert found == pytest.approx(scale + np.log(whole), abs=1e-10)
    assert separability.log_generalisation_loss(s / 2, b, 2.0, loss="exponential") == pytest.approx(b + s**2 / 2)
    assert found <= b + s**2 / 2 + 1e-10


# --- grokking times ---------------------------------------------------------------------------------------------------


def test_the_ratio_of_times_is_the_formula_for_every_threshold():
    epsilon = np.array([1e-3, 1e-30])[:, None]
    found = two.grokking_times(epsilon, HALF_DECADES, 300.0)
    root = np.sqrt(found.log_ratio)
    np.testing.assert_allclose(root[0], root[1], atol=1e-3)
    np.testing.assert_allclose(
        root, np.broadcast_to(np.sqrt(two.log_grokking_ratio(HALF_DECADES)), (2, 7)), atol=1.5e-3
    )
    np.testing.assert_allclose(root[1], [1.606, 2.482, 3.322, 4.140, 4.950, 5.757, 6.565], atol=1.1e-3)
    assert np.polyfit(np.log(HALF_DECADES[2:]), root[1, 2:], 1)[0] == pytest.approx(-0.7039, abs=1e-3)
    np.testing.assert_allclose(found.log_train[1], 30 * np.log(10), atol=1e-3)  # 1/epsilon


@pytest.mark.parametrize(
    ("epsilon", "sigma", "loss", "slope"),
    [
        (1e-3, 1.0, "exponential", -0.010),
        (1e-300, 1.0, "exponential", -0.287),
        (0.01, 300.0, "cross-entropy", -0.378),
        (1e-30, 5.0, "cross-entropy", -0.482),
        (1e-30, 300.0, "cross-entropy", -0.7039),
    ],
)
def test_where_the_formula_fails(epsilon, sigma, loss, slope):
    """Slopes of the root of the ratio against ln delta, by the formula -1/sqrt 2: measured, in an earlier study."""
    found = two.grokking_times(epsilon, HALF_DECADES[2:], sigma, loss=loss)
    assert np.polyfit(np.log(HALF_DECADES[2:]), np.sqrt(found.log_ratio), 1)[0] == pytest.approx(slope, abs=2e-3)


@pytest.mark.parametrize("loss", ["exponential", "cross-entropy"])
def test_at_the_crossing_the_losses_are_at_the_threshold_and_fall(loss):
    epsilon, sigma = 1e-4, 6.0
    for delta in (0.3, 0.0):
        found = two.grokking_times(epsilon, delta, sigma, loss=loss)
        for log_t, population in ((found.log_train, False), (found.log_generalisation, True)):
            state = two.flow(log_t + np.array([0.0, 0.5, 2.0, 9.0]), delta, sigma, loss=loss)
            if population:
                level = separability.log_generalisation_loss(state.S, state.b, sigma, loss=loss)
            else:
                level = two.log_train_loss(state.S, state.b, delta, sigma, loss=loss)
            assert level[0] == pytest.approx(np.log(epsilon), abs=1e-5)
            assert (np.diff(level) < 0).all()


@pytest.mark.parametrize("loss", ["exponential", "cross-entropy"])
def test_always_and_never(loss):
    found = two.grokking_times(3.0, np.array([0.5, -0.5]), loss=loss)
    assert found.log_train.tolist() == [-np.inf, -np.inf]
    assert found.log_generalisation.tolist() == [-np.inf, np.inf]
    times = two.accuracy_time(0.7, np.array([0.5, -1.0, -0.1]), np.array([0.5, 5.0, 5.0]), loss=loss)
    assert times.tolist() == [-np.inf, np.inf, np.inf]


def test_a_crossing_before_the_bias_has_moved_is_found():
    """Two points of nearly one size: sigma S = S_inf at once, and -b passes it by little."""
    beta = norm.ppf(0.6) * two.asymptotic_weight(0.999)
    assert two.accuracy_time(0.6, 0.999, 1e3) == pytest.approx(np.log(np.expm1(beta)), rel=1e-3)


def test_accuracy_times_are_those_measured():
    """ln t at 0.95, along delta, along sigma, and at the edge: values of an earlier, independent integration."""
    delta = np.array([0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-6])
    measured = [1.43, 3.80, 6.13, 7.83, 9.31, 9.51, 9.54]
    np.testing.assert_allclose(two.accuracy_time(0.95, delta, 5.0), measured, atol=0.02)
    sigma = np.array([2.0, 3, 5, 10, 30, 100])
    np.testing.assert_allclose(two.accuracy_time(0.95, 0.01, sigma), [4.94, 6.64, 7.83, 8.14, 8.14, 8.14], atol=0.02)
    np.testing.assert_allclose(two.accuracy_time(0.95, 0.0, sigma), [5.23, 7.31, 9.54, 12.29, 16.41, 20.78], atol=0.02)
    edge = np.array([1e-3, 1e-4])  # where -ln(l* t) = -Phi^-1(0.95) sigma S_inf for large sigma
    late = norm.ppf(0.95) * two.asymptotic_weight(edge) - np.log(two.asymptotic_loss(edge))
    np.testing.assert_allclose(two.accuracy_time(0.95, np.array([1e-3, 1e-4]), 300.0), late, atol=0.01)


def test_the_accuracy_at_the_edge_has_a_time_of_its_own_equation():
    """tau/2 + ln(1 + sigma^2 tau/2)/sigma^2 = Phi^-1(q) ln(1 + sigma^2 tau/2)."""
    sigma, level = 4.0, norm.ppf(0.95)
    tau = 2 * (np.exp(np.linspace(0.1, 6, 200_001)) - 1) / sigma**2
    y = np.log1p(sigma**2 * tau / 2)
    tau = tau[np.flatnonzero(tau / 2 + y / sigma**2 < level * y)[-1]]
    state = two.flow(two.accuracy_time(0.95, 0.0, sigma), 0.0, sigma)
    assert float(state.S) == pytest.approx(np.log1p(sigma**2 * tau / 2) / sigma, rel=1e-4)


@pytest.mark.parametrize("loss", ["exponential", "cross-entropy"])
def test_the_accuracy_is_passed_at_its_time(loss):
    for delta in (0.1, -0.05):
        log_t = two.accuracy_time(0.8, delta, 4.0, loss=loss, b0=0.5)
        state = two.flow(log_t + np.array([-0.2, 0.0, 3.0]), delta, 4.0, loss=loss, b0=0.5)
        accuracy = separability.generalisation_accuracy(state.S, state.b, 4.0)
        assert accuracy[1] == pytest.approx(0.8, abs=1e-6)
        assert accuracy[0] < 0.8 < accuracy[2]


def test_the_map_of_times_rises_in_both_arguments():
    found = two.accuracy_time(0.95, np.geomspace(1e-6, 1, 30), np.geomspace(1, 100, 30)[:, None])
    finite = np.where(np.isneginf(found), -99.0, found)
    assert (np.diff(finite, axis=0) >= -1e-8).all()
    assert (np.diff(finite, axis=1) <= 1e-8).all()
    assert np.isneginf(found[0]).all()  # at sigma = 1 the accuracy is high from the start on


def test_conformal_delay():
    """Measured between the crossings of two thresholds; the square of the logarithm, not half of it (eqs. 45, 46)."""

    def conformal_delay(delta):
        return two.log_grokking_ratio(delta) / two.asymptotic_loss(delta)

    delta = 1e-3
    for epsilon in (1e-6, 1e-30):
        times = two.grokking_times(epsilon, delta, 300.0)
        b = two.flow(np.array([times.log_train, times.log_generalisation]), delta, 300.0).b
        tau = []
        for bias in b:
            low, high = 0.0, 500.0
            for _ in range(60):
                middle = (low + high) / 2
                later = two.conformal_flow(middle, delta, 300.0).b > bias
                low, high = (middle, high) if later else (low, middle)
            tau.append(low)
        assert np.diff(tau)[0] == pytest.approx(conformal_delay(delta), abs=2e-3)
        assert conformal_delay(delta) == pytest.approx(48.607, abs=1e-3)
    assert conformal_delay(1e-9) == pytest.approx(np.log(1e-9) ** 2 + 2 * np.log(2), rel=1e-5)


# --- arguments --------------------------------------------------------------------------------------------------------


def test_arguments_broadcast():
    log_t, delta, sigma = np.array([0.0, 3.0])[:, None, None], np.array([0.5, 0.0, -0.5])[:, None], np.array([1.0, 4.0])
    for loss in ("exponential", "cross-entropy"):
        state = two.flow(log_t, delta, sigma, loss=loss)
        assert state.S.shape == (2, 3, 2)
        for index in np.ndindex(2, 3, 2):
            i, j, k = index
            one = two.flow(log_t[i, 0, 0], delta[j, 0], sigma[k], loss=loss)
            assert_state(one, state.S[index], state.b[index], atol=1e-7)
    assert two.hard_margin(delta, sigma).rays.shape == (3, 2, 2, 2)
    assert two.conformal_flow(np.zeros(4), delta).S.shape == (3, 4)
    assert two.flow(np.empty(0), 0.5).S.shape == (0,)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: two.flow(0.0, 1.2), r"`delta` = 1 - 2 lambda must lie in \[-1, 1\] for the two points .* got \[1.2\]"),
        (lambda: two.asymptotic_weight(np.array([0.5, 0.0])), r"in \(0, 1\] for the asymptotic weight .* got \[0.0\]"),
        (lambda: two.asymptotic_loss(-0.1), r"in \[0, 1\] for the asymptotic loss"),
        (lambda: two.hard_margin(np.nan), "for the hard margin"),
        (lambda: two.log_grokking_ratio(0.0), "for the grokking ratio"),
        (lambda: two.log_grokking_ratio(-0.5), "for the grokking ratio"),
        (lambda: two.flow(0.0, 0.5, 0.0), "`sigma` must be finite and above 0; got 0.0"),
        (lambda: two.grokking_times(-1.0, 0.5), "`epsilon` must be finite and above 0; got -1.0"),
        (lambda: two.accuracy_time(1.0, 0.5), r"`accuracy` must lie in \(1/2, 1\); got 1.0"),
        (lambda: two.accuracy_time(0.5, 0.5), r"`accuracy` must lie in \(1/2, 1\); got 0.5"),
        (lambda: two.flow(0.0, 0.5, loss="hinge"), "`loss` must be one of cross-entropy, exponential; got 'hinge'"),
        (lambda: two.grokking_times(0.1, 0.5, loss="hinge"), "`loss` must be one of"),
        (lambda: two.log_train_loss(0.0, 0.0, 0.5, loss="hinge"), "`loss` must be one of"),
        (lambda: two.flow(np.inf, 0.5), "`log_t` must be logarithms of times, finite or -inf; got inf"),
        (lambda: two.flow(0.0, 0.5, S0=np.nan), "`S0` must be finite"),
        (lambda: two.flow(0.0, 0.5, b0=np.inf), "`b0` must be finite"),
        (lambda: two.conformal_flow(-1.0, 0.5), "`tau`, the conformal time, must be >= 0; got -1"),
        (lambda: two.conformal_flow(np.nan, 0.5), "`tau` must be finite"),
        (lambda: two.log_train_loss(np.nan, 0.0, 0.5), "`S` must be finite"),
        (lambda: two.log_train_loss(0.0, np.nan, 0.5), "`b` must be finite"),
    ],
)
def test_errors(call, text):
    with pytest.raises(InvalidArgumentError, match=text):
        call()
