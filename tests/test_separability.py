"""Linear separability: probabilities by enumeration, margins by the primal problem, planted minima, quadrature."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import norm

from interp.errors import InvalidArgumentError, NotAvailableError
from interp.papers.beck.theory import two_points
from interp.theory import separability
from interp.theory.separability import asymptotic_weights, hard_margin, margin


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def kept(points, *, separable):
    return points[margin(points).separable == separable]


def slow_log_loss(s, b):
    """log E log(1 + e^(s Z + b)) by adaptive quadrature between the places where the integrand bends."""

    def log_integrand(Z):
        z = s * Z + b
        return (z if z < -40 else math.log(math.log1p(math.exp(-abs(z))) + max(z, 0.0))) - Z * Z / 2

    mode = min(max(-b / s, 0.0), s)
    top = max(log_integrand(Z) for Z in np.linspace(mode - 2, mode + 2, 401))
    bends = [mode + k for k in (-10, -3, 0, 3, 10)] + [-b / s + k / s for k in (-20, -3, 0, 3, 20)]
    bends = sorted(Z for Z in bends if abs(Z - mode) <= 10)
    total = sum(
        quad(lambda Z: math.exp(log_integrand(Z) - top), low, high, epsabs=0, epsrel=1e-12, limit=200)[0]
        for low, high in itertools.pairwise(bends)
    )
    return top + math.log(total / math.sqrt(2 * math.pi))


def slow_svm(X):
    """The margin from the primal problem: the shortest S with S.x_i <= -1 has length 1/M."""
    constraint = {"type": "ineq", "fun": lambda S: -1 - X @ S, "jac": lambda S: -X}
    start = -np.linalg.lstsq(X, np.ones(len(X)), rcond=None)[0] * 10
    options = {"maxiter": 1000, "ftol": 1e-10}
    found = minimize(
        lambda S: S @ S, start, jac=lambda S: 2 * S, constraints=constraint, method="SLSQP", options=options
    )
    assert found.success
    return found.x


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", [0.01, 0.3, 1.0, 3.0, 10.0, 40.0, 300.0])
def test_population_loss_is_the_expectation(s):
    for b in (-2 * s**2 - 3, -(s**2), -(s**2) / 2, -5 * s, -s, -0.1, 0.0, 1.0, 4 * s):
        found = separability.log_generalisation_loss(s / 2, b, 2.0)
        assert abs(np.expm1(found - slow_log_loss(s, b))) < 1e-9, b
        if slow_log_loss(s, b) > -700:
            assert separability.generalisation_loss(s / 2, b, 2.0) == pytest.approx(np.exp(found), rel=1e-12)


def test_limits_of_the_population_loss():
    assert separability.generalisation_loss(0.0, 0.7, 1.0) == pytest.approx(np.log1p(np.exp(0.7)), rel=1e-12)
    for s in (0.5, 4.0, 200.0):  # far below, softplus is the exponential; E softplus(z) - E softplus(-z) = E z
        b = -3 * s**2 - 60.0
        exponential = separability.log_generalisation_loss(s, b, 1.0, loss="exponential")
        assert exponential == b + s**2 / 2
        assert separability.log_generalisation_loss(s, b, 1.0) == pytest.approx(exponential, rel=1e-12)
        above, below = separability.generalisation_loss(s, np.array([1.7, -1.7]), 1.0)
        assert above - below == pytest.approx(1.7, rel=1e-9)
    assert separability.generalisation_loss(10.0, 900.0, 5.0, loss="exponential") == np.inf
    assert separability.generalisation_loss(1.0, -2000.0, 1.0) == 0


def test_many_states_at_once():
    s, b = np.abs(gaussian(3, 1)) * 20, gaussian(1, 50, seed=1) * 30
    table = separability.log_generalisation_loss(s, b, 1.5)
    one = [[float(separability.log_generalisation_loss(u, v, 1.5)) for v in b[0]] for u in s[:, 0]]
    np.testing.assert_allclose(table, one, rtol=1e-12)


def test_many_sigmas_at_once():
    S_norm, b, sigma = np.abs(gaussian(4)), gaussian(4, seed=1), np.array([0.5, 1.0, 30.0])[:, None]
    for function in (
        separability.generalisation_loss,
        separability.generalisation_accuracy,
        lambda *state: separability.log_generalisation_loss(*state, loss="exponential"),
    ):
        one = [function(S_norm, b, float(width)) for width in sigma[:, 0]]
        np.testing.assert_allclose(function(S_norm, b, sigma), one, rtol=1e-12)


def test_population_depends_on_sigma_times_the_norm():
    S_norm, b = np.abs(gaussian(40)) * 3, gaussian(40, seed=1) * 4
    for function in (
        separability.generalisation_loss,
        separability.generalisation_accuracy,
        lambda *state: separability.generalisation_loss(*state, loss="exponential"),
    ):
        np.testing.assert_allclose(function(S_norm, b, 2.5), function(2.5 * S_norm, b, 1.0), rtol=1e-12)


def test_population_accuracy_is_a_probability_of_new_points():
    for S_norm, b in ((0.3, -1.0), (2.0, 0.7), (1.0, 0.0)):
        error = math.erf(-b / (math.sqrt(2) * 3 * S_norm))
        assert separability.generalisation_accuracy(S_norm, b, 3.0) == pytest.approx((1 + error) / 2, rel=1e-12)
    at_zero = separability.generalisation_accuracy(0.0, np.array([-0.1, 0.0, 0.1]), 3.0)
    assert at_zero.tolist() == [1.0, 0.5, 0.0]
    x, S, b = 2 * gaussian(200_000, 3), np.array([0.3, -0.2, 0.4]), -0.5  # the law of large numbers, both functions
    S_norm = np.linalg.norm(S)
    assert separability.training_accuracy(x, S, b) == pytest.approx(
        separability.generalisation_accuracy(S_norm, b, 2.0), abs=0.005
    )
    for loss in ("cross-entropy", "exponential"):
        population = separability.generalisation_loss(S_norm, b, 2.0, loss=loss)
        assert separability.training_loss(x, S, b, loss=loss) == pytest.approx(population, rel=0.02)


def test_training_loss_and_accuracy_of_sets_at_times():
    points, S, b = gaussian(2, 3, 7, 4), gaussian(2, 3, 5, 4, seed=1), gaussian(2, 3, 5, seed=2)
    entropy, exponential = (
        separability.training_loss(points, S, b, loss=loss) for loss in ("cross-entropy", "exponential")
    )
    accuracy = separability.training_accuracy(points, S, b)
    assert entropy.shape == exponential.shape == accuracy.shape == (2, 3, 5)
    for i, j, t in np.ndindex(2, 3, 5):
        z = [sum(x * w for x, w in zip(point, S[i, j, t])) + b[i, j, t] for point in points[i, j]]
        assert entropy[i, j, t] == pytest.approx(sum(math.log(1 + math.exp(v)) for v in z) / 7, rel=1e-12)
        assert exponential[i, j, t] == pytest.approx(sum(math.exp(v) for v in z) / 7, rel=1e-12)
        assert accuracy[i, j, t] == sum(v < 0 for v in z) / 7
    assert separability.training_loss(points, 1e6 * S, b, loss="exponential").max() == np.inf


# --- separability -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(1, 1), (4, 2), (6, 1), (7, 3), (8, 4), (8, 6), (5, 5), (4, 6)])
def test_wendel_by_enumeration_of_signs(n, d):
    """Of the 2^n sets +-x_1, ..., +-x_n, the separable ones are as many for any points in general position."""
    signs = np.array(list(itertools.product([1.0, -1.0], repeat=n)))
    share = margin(signs[:, :, None] * gaussian(n, d)).separable.mean()
    assert share == separability.separation_probability(n, d).round(12)
    exact = sum(Fraction(math.comb(n - 1, k), 2 ** (n - 1)) for k in range(d))
    assert separability.separation_probability(n, d) == pytest.approx(float(exact), rel=1e-12)


def test_wendel_is_one_half_at_the_edge_and_a_step_for_large_n():
    n = np.array([2, 8, 40, 400, 2400])
    np.testing.assert_allclose(separability.separation_probability(n, n // 2), 0.5, rtol=1e-9)
    for size, bound in ((100, 1.5e-3), (400, 3.5e-4), (2400, 6e-5)):
        d = np.arange(1, size + 1)
        exact = separability.separation_probability(size, d)
        normal = norm.cdf(2 * np.sqrt(size) * (d / size - 0.5))  # eq. 20
        assert np.abs(normal - exact).max() < bound
        assert (np.diff(exact) >= 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_margin_is_that_of_the_primal_problem(seed):
    X = kept(gaussian(10, 20, 13, seed=seed), separable=True)[0]
    S, found = slow_svm(X), margin(X)
    assert found.size == pytest.approx(1 / np.linalg.norm(S), rel=1e-5)
    np.testing.assert_allclose(found.direction, S / np.linalg.norm(S), atol=1e-4)


def test_margin_obeys_its_definition():
    points = gaussian(3, 20, 30, 17)
    found = margin(points)
    assert found.size.shape == (3, 20)
    assert found.separable.any()
    assert not found.separable.all()
    assert (found.weights >= 0).all()
    np.testing.assert_allclose(found.weights.sum(-1), 1)
    nearest = (found.weights[..., None, :] @ points)[..., 0, :]
    np.testing.assert_allclose(nearest, -found.size[..., None] * found.direction, atol=1e-10)
    projections = (points @ found.direction[..., None])[..., 0]
    assert (projections <= -found.size[..., None] + 1e-10).all()
    support = (found.weights > 1e-9) & found.separable[..., None]
    np.testing.assert_allclose((projections + found.size[..., None])[support], 0, atol=1e-9)
    assert (found.direction[~found.separable] == 0).all()
    assert (found.size[~found.separable] == 0).all()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_margin_scales_with_the_points(scale):
    points = gaussian(40, 12, 6)
    one, scaled = margin(points), margin(scale * points)
    np.testing.assert_array_equal(one.separable, scaled.separable)
    np.testing.assert_allclose(scaled.size, scale * one.size, rtol=1e-9)


def test_planted_margin():
    X = gaussian(12, 5)
    X[:, 0] = -0.25 - np.abs(X[:, 0])
    X[:2] = [[-0.25, 1, 2, 3, 4], [-0.25, -1, -2, -3, -4]]
    found = margin(X)
    assert found.size == pytest.approx(0.25)
    np.testing.assert_allclose(found.direction, [1, 0, 0, 0, 0], atol=1e-12)
    assert not margin(np.zeros((3, 2))).separable


def test_hard_margin_is_that_of_the_points_with_a_one_appended():
    points = gaussian(30, 24, 13)
    limit = hard_margin(points)
    extended = margin(np.concatenate([points, np.ones((30, 24, 1))], axis=2))  # always separable: by (0, -1)
    slope = extended.direction / extended.size[:, None]
    np.testing.assert_allclose(limit.S, slope[:, :-1], atol=1e-9)
    np.testing.assert_allclose(limit.b, slope[:, -1], rtol=1e-9)
    np.testing.assert_allclose(limit.S_norm, np.linalg.norm(limit.S, axis=1), rtol=1e-9)
    inside = limit.margin == 0
    assert 0 < inside.sum() < 30
    assert (limit.b[inside] == -1).all()
    assert (limit.accuracy(5.0)[inside] == 1).all()
    assert (limit.loss_slope(5.0)[inside] == 0).all()
    np.testing.assert_allclose(limit.accuracy(5.0)[~inside], norm.cdf(1 / (5 * limit.margin[~inside])), rtol=1e-12)
    late, later = (separability.generalisation_loss(t * limit.S_norm, t * limit.b, 5.0) for t in (600.0, 620.0))
    np.testing.assert_allclose(limit.loss_slope(5.0)[~inside], ((later - late) / 20)[~inside], atol=2e-6)


# --- the minimum ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_planted_minimum(seed):
    """To shift all points by their mean with the weights e^(S.x) leaves these weights, up to a factor."""
    X, S = gaussian(12, 4, seed=seed), 3 * gaussian(4, seed=100 + seed)
    X -= np.exp(X @ S) @ X / np.exp(X @ S).sum()
    found = asymptotic_weights(X)
    np.testing.assert_allclose(found.S, S, rtol=1e-5)
    assert found.loss == pytest.approx(np.exp(X @ S).mean(), rel=1e-9)


@pytest.mark.parametrize("delta", [0.9, 0.3, 1e-2, 1e-5])
def test_minimum_of_two_points(delta):
    found = asymptotic_weights(np.array([[-1.0], [delta]]))
    assert found.S_norm == pytest.approx(np.log(1 / delta) / (1 + delta), rel=1e-9)
    assert found.loss == pytest.approx((1 + delta) / 2 * delta ** (-delta / (1 + delta)), rel=1e-9)


def test_minimum_agrees_with_a_general_minimiser():
    points = kept(gaussian(8, 40, 16), separable=False)[:5]
    found = asymptotic_weights(points)
    for i, X in enumerate(points):
        options = {"gtol": 1e-9, "maxiter": 10_000}
        slow = minimize(lambda S, X=X: np.log(np.exp(X @ S).mean()), np.zeros(16), method="BFGS", options=options).x
        np.testing.assert_allclose(found.S[i], slow, atol=1e-4)
        z = X @ found.S[i]
        assert found.loss[i] == pytest.approx(np.exp(z).mean())
        assert found.fraction_positive[i] == sum(z > 0) / 40
        assert found.mean_positive[i] == pytest.approx(z[z > 0].mean() / np.linalg.norm(found.S[i]))
        np.testing.assert_allclose(found.weights[i], np.exp(z) / np.exp(z).sum(), rtol=1e-9)
        np.testing.assert_allclose(found.weights[i] @ X, 0, atol=1e-9)


def test_minimum_scales_against_the_points_and_turns_with_them():
    X = kept(gaussian(8, 30, 9), separable=False)[0]
    turn = np.linalg.qr(gaussian(9, 9, seed=5))[0]
    one, other = asymptotic_weights(X), asymptotic_weights(7 * X @ turn)
    np.testing.assert_allclose(other.S, one.S @ turn / 7, rtol=1e-7, atol=1e-9)
    assert other.loss == pytest.approx(float(one.loss), rel=1e-12)
    assert asymptotic_weights(np.zeros((3, 2))).S_norm == 0


@pytest.mark.parametrize(("n", "d"), [(6, 3), (20, 10), (40, 21)])
def test_there_is_a_minimum_where_the_margin_is_zero(n, d):
    points = gaussian(150, n, d)
    for X, separable in zip(points, margin(points).separable):
        if separable:
            with pytest.raises(NotAvailableError, match="must not be separable"):
                asymptotic_weights(X)
        else:
            assert np.linalg.norm(asymptotic_weights(X).weights @ X) < 1e-8


def test_separable_sets_are_named():
    inside, outside = kept(gaussian(40, 20, 10), separable=False), kept(gaussian(40, 20, 10), separable=True)
    with pytest.raises(NotAvailableError, match=r"1 of 3 sets are: 2\. Leave out the sets with `margin\(points\)\.sep"):
        asymptotic_weights(np.stack([inside[0], inside[1], outside[0]]))


def test_norm_bound_holds():
    points = kept(gaussian(40, 30, 12), separable=False)[:20]
    bound, found = separability.weight_norm_bound(points), asymptotic_weights(points)
    assert len(points) == 20
    assert (bound.S_norm <= found.S_norm).all()
    assert bound.S_norm.max() > 0
    outside = np.sort(found.weights, axis=1)[:, :18].sum(axis=1)
    assert (bound.epsilon >= outside - 1e-9).all()  # the weights of S_inf are one representation of the origin


@pytest.mark.parametrize("x2", [0.9, 0.2, 1e-3])
def test_norm_bound_of_two_points_is_sharp(x2):
    bound = separability.weight_norm_bound(np.array([[[-1.0], [x2]]]))
    assert bound.epsilon[0] == pytest.approx(x2 / (1 + x2))
    assert bound.diameter[0] == pytest.approx(1 + x2)
    assert bound.S_norm[0] == pytest.approx(np.log(1 / x2) / (1 + x2))


def test_norm_bound_by_all_vertices():
    """The representations of the origin are a polytope, whose vertices have d + 1 points or fewer."""
    bounds = []
    for X in kept(gaussian(30, 9, 2), separable=False)[:10]:
        inside = np.argsort(X @ asymptotic_weights(X).S)[-2:]
        worst = 0.0
        for members in itertools.combinations(range(9), 3):
            alpha = np.linalg.solve(np.vstack([X[list(members)].T, np.ones(3)]), [0, 0, 1])
            if (alpha >= 0).all():
                worst = max(worst, sum(a for a, i in zip(alpha, members) if i not in inside))
        diameter = max(np.linalg.norm(x - y) for x, y in itertools.combinations(X, 2))
        found = separability.weight_norm_bound(X)
        assert found.epsilon == pytest.approx(worst)
        assert found.diameter == pytest.approx(diameter)
        bounds.append(np.log(max(1.0, (1 - worst) / worst * 7 / 2)) / diameter)
        assert found.S_norm == pytest.approx(bounds[-1])
    assert max(bounds) > 0


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: separability.generalisation_loss(1.0, 0.0, 0.0), r"`sigma` must be finite and above 0; got 0\.0"),
        (lambda: separability.generalisation_accuracy(1.0, 0.0, -2.0), "`sigma` must be finite and above 0"),
        (lambda: hard_margin(gaussian(3, 2)).accuracy(np.nan), "`sigma` must be finite and above 0; got nan"),
        (lambda: separability.generalisation_loss(-1.0, 0.0, 1.0), "`S_norm` must be finite and >= 0, and `b` finite"),
        (lambda: separability.generalisation_loss(1.0, np.nan, 1.0), "and `b` finite; got 1 pairs"),
        (
            lambda: separability.generalisation_loss(np.ones(2), np.ones(3), 1.0),
            r"`S_norm`, `b` and `sigma` must have sizes that can be broadcast; got \[2\], \[3\], \[\]",
        ),
        (
            lambda: separability.generalisation_accuracy(1.0, 0.0, np.array([1.0, 0.0])),
            r"`sigma` must be finite and above 0; got \[1\.0, 0\.0\]",
        ),
        (
            lambda: separability.generalisation_loss(1.0, 0.0, 1.0, loss="hinge"),
            "`loss` must be one of cross-entropy, exponential; got 'hinge'",
        ),
        (lambda: separability.training_loss(gaussian(3, 2), np.ones(2), np.ones(()), loss=""), "`loss` must be one of"),
        (
            lambda: separability.training_loss(gaussian(5, 3, 2), gaussian(4, 2), gaussian(4)),
            r"begin with the sets \[5\] of `points`; got sizes \[4, 2\] and \[4\]",
        ),
        (lambda: separability.training_accuracy(gaussian(3, 2), np.ones(3), np.ones(())), r"\[\*states d\] .* d=2"),
        (lambda: separability.training_accuracy(gaussian(3, 2), np.ones(2), np.ones(1)), r"sizes \[2\] and \[1\]"),
        (lambda: separability.training_loss(gaussian(3, 2), np.ones(2), np.inf), "`S` and `b` must be finite"),
        (lambda: separability.separation_probability(0, 1), "`n` must be whole numbers >= 1; got 0"),
        (lambda: separability.separation_probability(3, 1.5), "`d` must be whole numbers >= 1; got 1.5"),
        (lambda: separability.separation_probability(4, 0), "`d` must be whole numbers >= 1; got 0"),
        (lambda: margin(np.ones(3)), r"axes \[\*sets N d\] with N >= 1 and d >= 1; got sizes \[3\]"),
        (lambda: margin(np.ones((0, 3))), r"N >= 1 and d >= 1; got sizes \[0, 3\]"),
        (lambda: margin(np.array([[1.0, np.nan]])), "`points` must be finite; got 1 values"),
        (lambda: asymptotic_weights(gaussian(3, 3)), "more than their dimension, N > d: .* got N=3, d=3"),
        (lambda: separability.weight_norm_bound(gaussian(3, 4)), "N > d"),
        (lambda: asymptotic_weights(np.array([[1.0], [2.0]])), "1 of 1 sets are: 0. Leave out"),
    ],
)
def test_errors(call, message):
    with pytest.raises((InvalidArgumentError, NotAvailableError), match=message):
        call()


@pytest.mark.parametrize("h", [1e-3, 1e-10, 1e-12, 1e-14])
def test_weights_next_to_the_boundary_of_the_hull_are_those_of_two_points(h):
    """Where the gradient is 1e-10 long before the minimum; on the boundary itself there is none."""
    found = asymptotic_weights(np.array([[-1.0], [h]])).S_norm
    np.testing.assert_allclose(found, two_points.asymptotic_weight(h), rtol=1e-9)


def test_on_the_boundary_of_the_hull_there_is_no_minimum():
    with pytest.raises(NotAvailableError, match="must not be separable"):
        asymptotic_weights(np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0]]))
