"""Gradient flow on the bias clock against flows in plain time, discrete descent, exact limits; times of crossing."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import expit
from scipy.stats import norm

from interp.errors import InvalidArgumentError
from interp.papers.beck.theory import gradient_flow
from interp.papers.beck.theory.gradient_flow import flow
from interp.theory import separability

LOSSES = ("cross-entropy", "exponential")
TIMES = np.linspace(np.log(0.02), np.log(300), 25)


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def kept(points, *, separable):
    return points[separability.margin(points).separable == separable]


def slow_flow(X, log_t, loss, S, b, rate):
    """S, b and tau = integral of e^b, in plain time, by a general solver."""

    def velocity(_, y):
        z = X @ y[:-2] + y[-2]
        p = expit(z) if loss == "cross-entropy" else np.exp(z)
        return np.concatenate([-rate * p @ X, [-p.sum(), len(X) * np.exp(y[-2])]]) / len(X)

    t = np.exp(log_t)
    start = np.concatenate([S, [b, 0.0]])
    y = solve_ivp(velocity, (0, t[-1]), start, method="LSODA", t_eval=t, rtol=1e-10, atol=1e-12).y
    return y[:-2].T, y[-2], y[-1]


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("rate", "b"), [(1.0, 0.0), (4.0, 1.5), (0.3, -2.0)])
def test_flow_is_that_of_plain_time(loss, rate, b, separable):
    X = kept(gaussian(20, 24, 11), separable=separable)[0]
    S = 0.3 * gaussian(11, seed=1) if b else np.zeros(11)
    path = flow(X, TIMES, loss=loss, S=S, b=b, weight_rate=rate, tolerance=1e-8)
    slow_S, slow_b, slow_tau = slow_flow(X, TIMES, loss, S, b, rate)
    np.testing.assert_allclose(path.S, slow_S, atol=2e-7)
    np.testing.assert_allclose(path.b, slow_b, atol=2e-7)
    np.testing.assert_allclose(np.exp(path.log_tau), slow_tau, rtol=2e-7)
    np.testing.assert_allclose(path.S_norm, np.sqrt((path.S**2).sum(-1)))


def test_tolerance_bounds_the_error():
    points = 5 * gaussian(2, 60, 27)
    exact = flow(points, TIMES, tolerance=1e-12)
    for tolerance in (1e-4, 1e-6, 1e-8):
        path = flow(points, TIMES, tolerance=tolerance)
        assert 5 * np.abs(path.S - exact.S).max() < 30 * tolerance
        assert np.abs(path.b - exact.b).max() < tolerance


def test_flow_is_the_limit_of_gradient_descent():
    sigma, eta = 5.0, 0.02
    X = sigma * kept(gaussian(8, 100, 45), separable=False)[0]
    steps = np.unique(np.geomspace(10 / eta, 500 / eta, 12).astype(int))
    S, b, states = np.zeros(45), 0.0, []
    for step in range(1, steps[-1] + 1):
        p = expit(X @ S + b)
        S, b = S - eta * (p @ X) / 100, b - eta * p.mean()
        if step in steps:
            states.append((np.linalg.norm(S), b))
    S_norm, b = np.array(states).T
    path = flow(X, np.log(eta * steps))
    assert np.abs(sigma * (path.S_norm - S_norm)).max() < 0.01
    assert np.abs(path.b - b).max() < 0.002
    gap = separability.generalisation_loss(path.S_norm, path.b, sigma) - separability.generalisation_loss(
        S_norm, b, sigma
    )
    assert 0 < np.abs(gap).max() < 0.005


def test_conformal_time_hides_the_bias():
    X = kept(gaussian(8, 40, 18), separable=False)[0]
    path = flow(X, TIMES, loss="exponential", b=0.7, tolerance=1e-11)
    assert np.abs(path.b).max() > 3

    def without_bias(_, S):
        return -(np.exp(X @ S) @ X) / len(X)

    tau = np.exp(path.log_tau)
    free = solve_ivp(without_bias, (0, tau[-1]), np.zeros(18), "DOP853", t_eval=tau, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(path.S, free.y.T, atol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_sigma_is_a_learning_rate_of_the_weights(loss):
    X, S, sigma = gaussian(40, 20), 0.2 * gaussian(20, seed=1), 3.0
    raw = flow(sigma * X, TIMES, loss=loss, S=S, b=0.4)
    rescaled = flow(X, TIMES, loss=loss, S=sigma * S, b=0.4, weight_rate=sigma**2)
    np.testing.assert_allclose(rescaled.S, sigma * raw.S, atol=1e-12)
    np.testing.assert_allclose(rescaled.b, raw.b, atol=1e-12)
    np.testing.assert_allclose(rescaled.log_tau, raw.log_tau, atol=1e-12)


def test_every_set_goes_its_own_way(monkeypatch):
    points, b = 2 * gaussian(2, 3, 20, 9), gaussian(2, 3, seed=1)
    S = gaussian(9, seed=2)
    together = flow(points, TIMES, S=S, b=b)
    assert together.S.shape == (2, 3, 25, 9)
    assert together.b.shape == together.log_tau.shape == together.S_norm.shape == (2, 3, 25)
    monkeypatch.setattr(gradient_flow, "_BLOCK", 400)  # two sets at a time
    apart = flow(points, TIMES, S=S, b=b)
    np.testing.assert_allclose(apart.S, together.S, atol=1e-10)
    for place in np.ndindex(2, 3):
        alone = flow(points[place], TIMES, S=S, b=b[place])
        np.testing.assert_allclose(alone.S, together.S[place], atol=1e-10)
        np.testing.assert_allclose(alone.b, together.b[place], atol=1e-10)
        np.testing.assert_allclose(alone.log_tau, together.log_tau[place], atol=1e-10)


def test_times_may_be_few_many_or_the_start():
    points, S, b = gaussian(3, 20, 9), gaussian(3, 9, seed=1), gaussian(3, seed=2)
    many = flow(points, np.concatenate([[-np.inf], TIMES]), S=S, b=b)
    np.testing.assert_array_equal(many.S[:, 0], S)
    np.testing.assert_array_equal(many.b[:, 0], b)
    assert (many.log_tau[:, 0] == -np.inf).all()
    one = flow(points, TIMES[-1:], S=S, b=b)
    np.testing.assert_allclose(one.S[:, 0], many.S[:, -1], atol=1e-12)
    np.testing.assert_array_equal(flow(points, [-np.inf], S=S, b=b).S[:, 0], S)
    at_once = flow(points, [-30.0, -29.0], S=S, b=b)  # S = S_0 + t dS/dt within rounding
    z = (points @ S[..., None])[..., 0] + b[:, None]
    velocity = -(expit(z)[:, None] @ points)[:, 0] / 20
    np.testing.assert_allclose((at_once.S[:, 1] - S) / np.exp(-29.0), velocity, atol=1e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_late_states_of_separable_points(loss):
    points = kept(gaussian(12, 40, 27), separable=True)[:3]
    limit = separability.hard_margin(points)
    log_t = np.array([1000.0, 1500.0]) * (1 + limit.margin.max() ** 2)
    path = flow(points, log_t, loss=loss, tolerance=1e-4)
    assert (path.b[:, -1] <= -1490).all()
    slope = np.diff(path.S_norm)[:, 0] / np.diff(log_t)
    np.testing.assert_allclose(slope, limit.S_norm, rtol=5e-3)
    np.testing.assert_allclose(np.diff(path.b)[:, 0] / np.diff(log_t), limit.b, rtol=5e-3)
    directions = path.S[:, -1] / path.S_norm[:, -1:]
    assert ((directions * limit.S).sum(-1) / limit.S_norm > 0.99).all()
    accuracy = separability.generalisation_accuracy(path.S_norm[:, -1], path.b[:, -1], 5.0)
    np.testing.assert_allclose(accuracy, limit.accuracy(5.0), atol=0.02)
    losses = separability.generalisation_loss(path.S_norm, path.b, 5.0)
    np.testing.assert_allclose(np.diff(losses)[:, 0] / np.diff(log_t), limit.loss_slope(5.0), rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_late_states_of_points_that_are_not_separable(loss):
    points = kept(gaussian(12, 40, 12), separable=False)[:4]
    end = separability.asymptotic_weights(points)
    path = flow(points, [300.0, 1000.0], loss=loss)  # modes decay slowly: by powers of t
    np.testing.assert_allclose(path.S[:, 1], end.S, atol=2e-4)
    np.testing.assert_allclose(path.b + path.log_t + np.log(end.loss)[:, None], 0, atol=1e-3)
    assert np.isfinite(path.log_tau).all()


@pytest.mark.parametrize("separable", [False, True])
def test_conformal_time_has_its_lower_bound(separable):
    points = kept(gaussian(20, 30, 14), separable=separable)[:5]
    log_t = np.linspace(-5, 60, 100)
    S, b = 0.3 * gaussian(14, seed=1), 0.8
    path = flow(points, log_t, loss="exponential", S=S, b=b)
    for i, X in enumerate(points):
        bound = gradient_flow.conformal_time_bound(log_t, loss_0=np.exp(X @ S).mean(), b_0=b)
        assert (np.exp(path.log_tau[i]) >= bound * (1 - 1e-6)).all()
        assert np.exp(path.log_tau[i, 0]) == pytest.approx(bound[0], rel=1e-2)  # sharp at first
    assert gradient_flow.conformal_time_bound(np.array(5000.0)) == 5000


def test_constant_losses_keep_their_closed_form():
    """Opposite points do not move S = 0: tau = log(1 + e^b_0 t) is the bound; else e^-b - b = t + c."""
    points, log_t = np.array([[2.0, 1.0], [-2.0, -1.0]]), np.linspace(-4, 200, 60)
    path = flow(points, log_t, loss="exponential", b=0.6)
    np.testing.assert_allclose(np.exp(path.log_tau), gradient_flow.conformal_time_bound(log_t, b_0=0.6), rtol=1e-6)
    np.testing.assert_allclose(path.b, 0.6 - np.exp(path.log_tau), atol=1e-6)
    path = flow(points, log_t, b=0.6)
    assert (path.S == 0).all()
    np.testing.assert_allclose(np.log(np.exp(-path.b) - path.b - np.exp(-0.6) + 0.6), log_t, atol=1e-5)


def test_a_huge_bias_falls_at_unit_speed():
    X = gaussian(10, 3)
    path = flow(X, np.log([2.0, 500.0]), b=2000.0)  # every sigmoid is 1
    np.testing.assert_allclose(path.b, [1998, 1500])
    np.testing.assert_allclose(path.S, np.outer([-2, -500], X.mean(0)), rtol=1e-9)


@pytest.mark.parametrize("sigma", [3.0, 5.0])
def test_ratio_of_the_grokking_times(sigma):
    points = kept(gaussian(10, 100, 35), separable=False)[:4]
    end = separability.asymptotic_weights(points)
    log_t, level = np.linspace(-2, 45, 500), np.log(1e-8)
    path = flow(sigma * points, log_t, loss="exponential")
    training = np.log(separability.training_loss(sigma * points, path.S, path.b, loss="exponential"))
    population = separability.log_generalisation_loss(path.S_norm, path.b, sigma, loss="exponential")
    t_tr = gradient_flow.crossing_times(log_t, training, level, "down")
    t_gen = gradient_flow.crossing_times(log_t, population, level, "down")
    np.testing.assert_allclose(t_tr, -level, atol=2e-3)
    ratio = gradient_flow.log_time_ratio(end.S_norm, end.loss, 1.0)  # S_inf of the points sigma x is S_inf/sigma
    np.testing.assert_allclose(t_gen - t_tr, ratio, atol=5e-3)
    scaled = separability.asymptotic_weights(sigma * points)
    np.testing.assert_allclose(gradient_flow.log_time_ratio(scaled.S_norm, scaled.loss, sigma), ratio, rtol=1e-9)


def test_time_to_an_accuracy():
    sigma = 15.0
    points = sigma * kept(gaussian(10, 100, 40), separable=False)[:3]
    end = separability.asymptotic_weights(points)
    log_t = np.linspace(0, 10, 300)
    path = flow(points, log_t, loss="exponential")
    accuracy = separability.generalisation_accuracy(path.S_norm, path.b, sigma)
    found = gradient_flow.crossing_times(log_t, accuracy, 0.95, "up")
    expected = norm.ppf(0.95) * sigma * end.S_norm - np.log(end.loss)  # A_gen = Phi(ln(l* t)/(sigma |S_inf|))
    assert (expected > 3).all()
    np.testing.assert_allclose(found, expected, atol=0.06)


def slow_crossing(log_t, values, level, up):
    """Backwards from the end, to the first sample on the wrong side."""
    for i in reversed(range(len(values))):
        if (values[i] < level) if up else (values[i] > level):
            if i == len(values) - 1:
                return np.inf
            share = (level - values[i]) / (values[i + 1] - values[i])
            return max(0.0, log_t[i] + share * (log_t[i + 1] - log_t[i]))
    return 0.0


@pytest.mark.parametrize("direction", ["up", "down"])
def test_crossings_are_the_last_ones(direction):
    log_t = np.cumsum(np.abs(gaussian(12))) - 3
    curves = np.round(gaussian(5, 40, 12, seed=1), 1)  # levels are met exactly as well
    curves[0] += np.linspace(-3, 3, 12)
    found = gradient_flow.crossing_times(log_t, curves, 0.4, direction)
    slow = [[slow_crossing(log_t, curve, 0.4, direction == "up") for curve in rows] for rows in curves]
    np.testing.assert_allclose(found, slow)
    assert np.isinf(found).any()
    assert (found == 0).any()
    flat = gradient_flow.crossing_times(log_t, np.full((2, 12), 0.4), 0.4, direction)
    assert flat.tolist() == [0.0, 0.0]


def test_bump_by_all_pairs():
    curves = gaussian(20, 9)
    slow = [max(c[t] - c[s] for t in range(9) for s in range(t + 1)) for c in curves]
    np.testing.assert_allclose(gradient_flow.bump(curves), slow)


X = gaussian(6, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flow(np.ones(3), TIMES), r"`points` must have the axes \[\*sets N d\]"),
        (lambda: flow(X, TIMES[::-1]), "`log_t` must be an increasing sequence below infinity"),
        (lambda: flow(X, [0.0, np.inf]), r"below infinity; got \[0\.0, inf\]"),
        (lambda: flow(X, [0.0, np.nan]), "below infinity"),
        (lambda: flow(X, []), "`log_t` must be an increasing"),
        (lambda: flow(X, 1.0), "`log_t` must be an increasing"),
        (lambda: flow(X, TIMES, S=np.ones(3)), r"`S` must have sizes that broadcast to \[2\].*; got \[3\]"),
        (lambda: flow(X, TIMES, b=np.ones(3)), r"`b` must have sizes that broadcast to \[\].*; got \[3\]"),
        (lambda: flow(X, TIMES, b=np.nan), "`b` must be finite"),
        (lambda: flow(X, TIMES, loss="hinge"), "`loss` must be one of cross-entropy, exponential; got 'hinge'"),
        (lambda: flow(X, TIMES, weight_rate=0.0), "`weight_rate` must be finite and above 0"),
        (lambda: flow(X, TIMES, tolerance=0.0), "`tolerance` must be below 1, and 1e-12 or more; got 0.0"),
        (lambda: gradient_flow.conformal_time_bound(TIMES, loss_0=0.0), "`loss_0` must be finite and above 0"),
        (lambda: gradient_flow.crossing_times([0.0, -1.0], np.ones(2), 0.5, "up"), "`log_t` must be an increasing"),
        (lambda: gradient_flow.crossing_times([-np.inf, 0.0], np.ones(2), 0.5, "up"), r"finite numbers; got \[-inf"),
        (lambda: gradient_flow.crossing_times(TIMES, np.ones(3), 0.5, "up"), r"with 25 times and no NaN; got \[3\]"),
        (lambda: gradient_flow.crossing_times([0.0, 1.0], [0.0, np.nan], 0.5, "up"), "no NaN"),
        (lambda: gradient_flow.crossing_times(TIMES, TIMES, 0.5, "rising"), "must be one of up, down; got 'rising'"),
        (lambda: gradient_flow.bump(np.array([0.0, np.nan])), "without NaN"),
        (lambda: gradient_flow.bump(np.ones((2, 0))), r"\[\*curves time\] without NaN; got \[2, 0\]"),
        (lambda: gradient_flow.log_time_ratio(1.0, 0.5, 0.0), "`sigma` must be finite and above 0"),
        (lambda: gradient_flow.log_time_ratio(-1.0, 0.5, 1.0), "`S_norm` must be >= 0"),
        (lambda: gradient_flow.log_time_ratio(1.0, 1.5, 1.0), r"in \(0, 1\]; got 1\.0 and 1\.5"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
