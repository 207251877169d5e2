"""Beck et al.: every figure from end to end at toy size, and every claim on planted results that keep and break it."""

import functools
import json
import math

import numpy as np
import pytest
import xarray as xr

import interp
from interp.errors import NotAvailableError
from interp.papers.beck.fig8 import _conformal_time
from interp.papers.beck.runs import adam_summary, step_of
from interp.papers.beck.sets import chosen_sets, flow_of_sets, limit_of_sets, limits_over_lambda, one_set
from interp.papers.beck.theory import two_points
from interp.papers.kit.running import figures_of
from interp.theory.separability import asymptotic_weights, margin

FIGURES = figures_of("beck")
FIGURE = {figure.label: figure for figure in FIGURES}
LAMBDAS = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.6])
DECADES = np.arange(7.0)
QUANTILES = [0.25, 0.5, 0.75]


# --- from end to end ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The results of a figure at toy size, each computed once."""
    root = tmp_path_factory.mktemp("runs")

    @functools.cache
    def results(label):
        figure = FIGURE[label]
        trajs = [interp.train(config, root=root, device="cpu") for config in figure.runs("toy")]
        return figure.results(trajs, "toy")

    return results


@pytest.mark.parametrize("label", FIGURE)
def test_toy_figures_run_from_training_to_verdict(label, toy):
    figure, data = FIGURE[label], toy(label)
    assert {array.dtype.kind for array in data.variables.values()} <= set("fiU")
    json.dumps(data.attrs)
    assert data.nbytes < 2e6
    drawn = figure.picture(data)
    assert 10 < sum(np.size(trace.x) for trace in drawn.data) < 2000
    assert {axis.title.text for axis in [*drawn.select_xaxes()]} - {None, ""}
    for claim in figure.claims:
        found = claim.judge(data)
        assert (found.verdict == "not testable here") == math.isnan(found.measured)
        assert len(found.text) < 120


def test_all_figures_are_there():
    assert list(FIGURE) == [f"B{number}" for number in range(1, 14)]
    for figure in FIGURES:
        assert figure.minutes.keys() == {"toy", "laptop", "paper"}
        assert figure.notes
    assert sum(figure.minutes["laptop"] for figure in FIGURES) < 20


@pytest.mark.parametrize("preset", ["toy", "laptop", "paper"])
def test_runs(preset):
    runs = {label: [config.run_id for config in figure.runs(preset)] for label, figure in FIGURE.items()}
    assert {label for label, ids in runs.items() if ids} == {"B1", "B5", "B10"}
    if preset != "paper":  # the published figure 5 has more points
        assert set(runs["B5"]) < set(runs["B10"])
    (first, *_), (adam, *_) = FIGURE["B1"].runs(preset), FIGURE["B10"].runs(preset)
    assert (first.task.sigma, first.optimizer.lr) == (5.0, 0.05)
    assert (adam.task.sigma, adam.optimizer.betas, adam.optimizer.eps) == (1.0, (0.8, 0.9), 1e-16)


def test_laptop_draws_are_on_the_side_that_their_lambda_says():
    for d, separable in ((120, False), (192, False), (240, True)):
        assert bool(margin(one_set(400, d, 0)).separable) == separable


# --- what figures share -----------------------------------------------------------------------------------------------


def test_sets_are_those_of_the_task(tmp_path):
    config = FIGURE["B1"].runs("toy")[0].replace({"steps": 1})
    tokens = interp.train(config, root=tmp_path, device="cpu").task.tokens.numpy()
    np.testing.assert_allclose(one_set(40, 12, 0) * 5.0, tokens, rtol=1e-15)
    for separable in (False, True):
        chosen = chosen_sets(40, 20, 3, separable=separable)
        assert (margin(chosen).separable == separable).all()


def test_flow_is_followed_by_the_descent_that_was_trained(tmp_path):
    config = FIGURE["B1"].runs("toy")[0].replace({"steps": 600})
    traj = interp.train(config, root=tmp_path, device="cpu")
    path = flow_of_sets(traj.task.tokens.numpy()[None] / 5, np.log10([10.0, 30.0]), 5.0)
    last = traj.metrics[["train_loss", "test_loss", "train_accuracy", "test_accuracy"]].isel(step=-1)
    for name, tolerance in (
        ("train_loss", 2e-3),
        ("test_loss", 2e-2),
        ("train_accuracy", 0.0),
        ("test_accuracy", 5e-3),
    ):
        assert float(path[name][0, -1]) == pytest.approx(float(last[name]), abs=tolerance + 1e-12), name
    assert float(path["S_norm"][0, -1]) == pytest.approx(5 * np.linalg.norm(traj.param("S")[-1]), abs=0.05)
    assert float(path["b"][0, -1]) == pytest.approx(float(traj.param("b")[-1, 0]), abs=0.01)


def test_limits_leave_separable_sets_out():
    norms = limit_of_sets(40, 18, 8)[0]
    for seed, value in enumerate(norms):
        if np.isnan(value):
            with pytest.raises(NotAvailableError, match="separable"):
                asymptotic_weights(one_set(40, 18, seed))
        else:
            assert value == asymptotic_weights(one_set(40, 18, seed)).S_norm
    assert 0 < np.isnan(norms).sum() < 8
    data = limits_over_lambda(40, (18,), 8, "lambda_below")
    assert float(data["S_inf"].sel(quantile=0.5)[0]) == pytest.approx(np.nanmedian(norms))


def test_adam_runs_on_the_wrong_side_do_not_count(tmp_path):
    config = FIGURE["B5"].runs("toy")[0]
    inseparable, separable = (next(s for s in range(50) if beck_separable(config, s) == side) for side in (False, True))
    kept, rejected = (
        adam_summary(interp.train(config.replace({"task.seed": seed}), root=tmp_path, device="cpu"), 60)
        for seed in (inseparable, separable)
    )
    assert math.isfinite(kept["last_accuracy"])
    assert math.isfinite(kept["test_loss"][-1])
    assert math.isnan(rejected["last_accuracy"])


def beck_separable(config, seed):
    return bool(margin(one_set(config.task.n, config.task.d, seed)).separable)


def test_the_last_time_below_the_level_counts():
    steps, curve = [0, 10, 20, 30, 40], [0.1, 0.99, 0.2, 0.96, 0.99]
    assert step_of(xr.DataArray(curve, {"step": steps}, "step")) == 30
    assert math.isnan(step_of(xr.DataArray(curve[:3], {"step": steps[:3]}, "step")))
    assert step_of(xr.DataArray([1.0, 1.0], {"step": [0, 1]}, "step")) == 1  # ratios of steps need one


def test_conformal_time_is_the_integral_of_the_bias():
    log_t = np.linspace(-20, np.log(50), 801)
    state = two_points.flow(log_t, 0.3, 2.0)
    tau = np.exp(-20) + np.trapezoid(np.exp(state.b + log_t), log_t)
    assert _conformal_time(np.log(50), 0.3, 2.0) == pytest.approx(tau, rel=1e-4)


# --- planted results --------------------------------------------------------------------------------------------------


def over(values, *dims, **coords):
    return xr.DataArray(np.asarray(values, dtype=float), dims=dims, coords=coords)


def b1():
    edge = 1 / (0.5 - np.minimum(LAMBDAS, 0.45))
    below, large = np.array([0.2, 0.3, 0.4, 0.49]), np.array([0.39, 0.44, 0.48, 0.49])
    sets = np.ones(2)
    bumps = np.where(LAMBDAS < 0.15, 0.0, 0.02 * edge)
    late = np.where(LAMBDAS > 0.5, 0.64, 1.0)
    weights = 1 + np.outer(np.where(LAMBDAS > 0.5, 1.0, 1e-4), DECADES)[:, None]
    logarithm = -np.log(1 - 2 * large)
    return xr.Dataset(
        {
            "bump": (("lambda", "set"), np.outer(bumps, sets)),
            "delay": (("lambda", "set"), np.outer(0.1 * edge, sets)),
            "test_accuracy": (("lambda", "set", "log10_t"), late[:, None, None] * np.ones((7, 2, 7))),
            "test_loss": (("lambda", "set", "log10_t"), 1.1 * np.broadcast_to(DECADES, (7, 2, 7))),
            "S_norm": (("lambda", "set", "log10_t"), np.broadcast_to(weights, (7, 2, 7))),
            "descent_delay": ("column", [0.6, 2.5, np.nan]),
            "descent_gap": ("column", [1e-3, 2e-3, 3e-3]),
            "S_inf": (("lambda_below", "quantile"), np.outer(below, [0.9, 1.0, 1.1])),
            "S_inf_limit": ("lambda_below", below),
            "S_inf_large": (("lambda_large", "quantile"), np.outer(logarithm, [0.9, 1.0, 1.1])),
            "S_inf_two_points": ("lambda_large", logarithm / 1.2),
            "bound_slack": ("small_set", [1.0, 2.0]),
        },
        coords={
            "lambda": LAMBDAS, "log10_t": DECADES, "column": [0.3, 0.48, 0.6], "lambda_below": below,
            "lambda_large": large, "quantile": QUANTILES,
        },
        attrs={"points": 400},
    )  # fmt: skip


def b2():
    return xr.Dataset(
        {
            "distance_population": ("lambda", [0.25, 0.36, 0.5]),
            "distance_limit": ("lambda", [0.02, 0.03, 0.5]),
            "fraction_positive": ("lambda", [0.29, 0.2, 0.0]),
            "path_difference": ("tau", [0.0, 1e-9]),
            "tau_slack": ("tau", [0.0, 1.0]),
            "bias_over_weight": (("separable", "clock"), [[5.0, 9.9], [2.0, 4.0]]),
            "margin": ("separable", [0.1, 0.25]),
        },
        coords={"lambda": [0.3, 0.45, 0.6], "separable": [0.6, 0.8], "clock": [2.0, 3000.0]},
        attrs={"points": 1200},
    )


def b3():
    sigma, delta = np.array([1.0, 5.0, 10.0, 100.0]), np.array([1e-6, 1e-5, 1e-2, 1.0])
    # saturates in either argument, diverges with both: the smaller of two logarithms
    log_t = np.minimum(2 * np.log(sigma)[:, None], -np.log(delta))
    log_t[-1, -2:] = log_t[-2, -2:]
    return xr.Dataset(
        {
            "nearest": (("case", "coordinate"), [[0.0, -1.0], [0.0, -1.0], [0.4, -0.8]]),
            "log_t": (("sigma", "delta"), log_t),
        },
        coords={"case": [0.5, 0.0, -0.5], "coordinate": ["S", "b"], "sigma": sigma, "delta": delta},
    )


def ratios():
    delta = np.geomspace(1e-1, 1e-4, 7)
    root = -np.log(delta) / math.sqrt(2)
    return xr.Dataset(
        {"root": (("loss", "epsilon", "delta"), np.ones((2, 2, 1)) * root), "root_formula": ("delta", root)},
        coords={"loss": ["exponential", "cross-entropy"], "epsilon": [1e-3, 1e-30], "delta": delta},
    )


def b4():
    accuracy = np.ones((7, 7)) * 0.8
    values = {
        "full_accuracy": (("lambda", "log10_t"), accuracy),
        "accuracy_two_points": (("lambda", "log10_t"), accuracy + 0.05),
    }
    return ratios().assign(values).assign_coords({"lambda": LAMBDAS, "log10_t": DECADES})


def b5():
    numbers = {"accuracy_when_fitted": 0.54, "generalised": 1000.0, "fitted": 75.0, "last_accuracy": 1.0}
    return xr.Dataset({k: ("seed", [v, v, np.nan]) for k, v in (numbers | {"largest_loss": 2.2}).items()})


def b6():
    share = np.array([0.37, 0.29, 0.2])
    return xr.Dataset(
        {
            "fraction_positive": (("lambda_below", "quantile"), np.outer(share, [0.9, 1.0, 1.1])),
            "fraction_positive_limit": ("lambda_below", share + 0.005),
            "separable": ("lambda", [0.0, 0.48, 1.0]),
            "separable_wendel": ("lambda", [1e-4, 0.5, 1.0]),
        },
        coords={"lambda_below": [0.1, 0.3, 0.47], "quantile": QUANTILES, "lambda": [0.4, 0.5, 0.6]},
        attrs={"sets": 60},
    )


def b7():
    mean, size = np.array([0.47, 0.2, 0.07]), np.array([0.025, 0.062, 0.39])
    return xr.Dataset(
        {
            "mean_positive": (("lambda_below", "quantile"), np.outer(mean, [0.9, 1.0, 1.1])),
            "mean_positive_limit": ("lambda_below", mean * 1.02),
            "margin": (("lambda_above", "quantile"), np.outer(size, [0.9, 1.0, 1.1])),
            "margin_limit": ("lambda_above", size + 0.01),
        },
        coords={"lambda_below": [0.2, 0.4, 0.49], "lambda_above": [0.52, 0.55, 0.9], "quantile": QUANTILES},
    )


def b8():
    half = 0.5 * math.log(1e-3) ** 2
    return ratios().assign(conformal_delay=half).assign_attrs(delta=1e-3)


def b9():
    sigma = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0]
    bumps, generalised = [0.0, 0.0, 0.01, 0.3, 0.9, 1.5], [0.0, 1.8, 2.7, 3.3, 3.51, 3.52]
    return xr.Dataset(
        {
            "bump_sigma": (("value_sigma", "set"), np.outer(bumps, [1, 1])),
            "generalised_sigma": (("value_sigma", "set"), np.outer(generalised, [1, 1])),
        },
        coords={"value_sigma": sigma},
    )


def b10():
    coords = {"optimizer": ["Adam", "gradient descent"], "lambda": [0.4, 0.48, 0.6]}
    bumps, last = [[0.7, 1.5, 3.0], [0.0, 0.0, 0.0]], [[1.0, 1.0, 0.58], [1.0, 1.0, 1.0]]
    dims = ("optimizer", "lambda", "seed")
    values = {"bump": (dims, np.array(bumps)[..., None]), "last_accuracy": (dims, np.array(last)[..., None])}
    return xr.Dataset(values, coords=coords, attrs={"steps": 20_000})


def b11():
    norms = [0.0, 0.3, 1.0, 3.0, 10.0]
    return xr.Dataset(
        {
            "bump_wide": (("value_wide", "set"), np.transpose([[0.3, 0.29, 0.23, 0.06, 0.0]])),
            "delay_wide": (("value_wide", "set"), np.full((5, 1), 1.9)),
            "generalised_unit": (("value_unit", "set"), np.transpose([[0.0, 0.2, 0.7, 1.3, 2.9]])),
            "generalised_warm": (("value_warm", "set"), np.transpose([[0.0, 2.1, 3.5]])),
        },
        coords={"value_wide": norms, "value_unit": norms, "value_warm": [0.0, 0.5, 1.0]},
    )


def b12():
    return xr.Dataset(
        {
            "bump_wide": (("value_wide", "set"), np.transpose([[0.13, 0.26, 0.31, 0.34, 0.39]])),
            "generalised_unit": (("value_unit", "set"), np.transpose([[0.0, 1.5, 2.6]])),
            "bump_unit": (("value_unit", "set"), np.zeros((3, 1))),
        },
        coords={"value_wide": [-3.0, -1.0, 0.0, 1.0, 3.0], "value_unit": [0.0, 3.0, 10.0]},
    )


def b13():
    values = {"bump": (("loss", "set"), [[0.3], [0.16]]), "generalised": (("loss", "set"), [[3.33], [3.29]])}
    return xr.Dataset(values, coords={"loss": ["cross-entropy", "exponential"]})


PLANTED = dict(zip(FIGURE, (b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13)))


def put(name, value, **where):
    """The results with other values in one variable, everywhere or at some coordinates (lambda_: lambda)."""
    chosen = {axis.rstrip("_"): [at] for axis, at in where.items()}

    def change(data):
        data = data.copy(deep=True)
        data[name].loc[chosen] = value
        return data

    return change


def scaled(name, factor):
    return lambda data: data.assign({name: data[name] * factor})


def power(data):
    """|S_inf| of large samples diverging as the exact limit does."""
    S = (0.5 - data["lambda_large"]) ** -0.5
    return data.assign(S_inf_large=S * over([0.9, 1.0, 1.1], "quantile", quantile=QUANTILES))


BROKEN = {
    "B1": [
        put("bump", 0.1, lambda_=0.1),
        put("bump", 0.0, lambda_=0.45),
        put("delay", 0.5),
        scaled("delay", 0.5),
        put("descent_delay", 0.6),
        put("descent_gap", 0.1, column=0.6),
        put("test_accuracy", 0.7, lambda_=0.45),
        put("test_accuracy", 1.0),
        put("test_loss", 0.3),
        scaled("S_norm", over(2.0**DECADES, "log10_t", log10_t=DECADES)),
        put("S_norm", 1.0),
        put("test_accuracy", 0.8, lambda_=0.3),
        scaled("S_inf", 1.2),
        power,
        scaled("S_inf_large", 2.5),
        put("bound_slack", -0.1),
    ],
    "B2": [
        put("distance_population", 0.05),
        put("distance_limit", 0.1),
        put("fraction_positive", 0.1),
        put("fraction_positive", 0.5),
        put("fraction_positive", 0.01),
        put("path_difference", 1e-3),
        put("tau_slack", -1.0),
        scaled("bias_over_weight", 0.9),
        scaled("bias_over_weight", 1.01),
    ],
    "B3": [
        put("nearest", 0.3, case=0.0, coordinate="S"),
        put("nearest", 0.0, coordinate="S"),
        put("log_t", 30.0, delta=1.0),
        put("log_t", 0.0, delta=1e-5),
        put("log_t", 40.0, sigma=100.0),
        put("log_t", 3.0),
    ],
    "B4": [
        put("accuracy_two_points", 1.0, lambda_=0.45),
        scaled("accuracy_two_points", 0.8),
        scaled("root", 0.8),
    ],
    "B5": [
        put("accuracy_when_fitted", 0.95),
        put("generalised", 80.0),
        put("last_accuracy", 0.6),
        put("largest_loss", 0.7),
    ],
    "B6": [
        scaled("fraction_positive", 0.1),
        put("fraction_positive", 0.4),
        put("separable", 0.1),
    ],
    "B7": [
        put("mean_positive", 0.3),
        put("mean_positive", 0.0),
        scaled("mean_positive", 1.3),
        put("margin", 0.1),
        scaled("margin", 2.0),
        scaled("margin", 2.0),
    ],
    "B8": [
        scaled("root", 0.8),
        scaled("root", 1.01),
        put("root", 1.0, epsilon=1e-3),
        put("root", 1.0, epsilon=1e-3, loss="cross-entropy"),
        scaled("conformal_delay", 2.0),
    ],
    "B9": [put("bump_sigma", 0.3), put("generalised_sigma", 4.0, value_sigma=20.0), put("bump_sigma", 0.3)],
    "B10": [
        put("bump", 0.0, optimizer="Adam"),
        put("bump", 0.3, optimizer="gradient descent"),
        put("last_accuracy", 1.0, optimizer="Adam"),
    ],
    "B11": [
        put("bump_wide", 0.3),
        put("delay_wide", 0.5, value_wide=3.0),
        put("generalised_unit", 1.0),
        put("generalised_warm", 1.0),
    ],
    "B12": [put("bump_wide", 0.3), put("generalised_unit", 1.0), put("bump_unit", 0.3, value_unit=10.0)],
    "B13": [put("bump", 0.0), put("generalised", 4.0, loss="exponential")],
}
CASES = [(label, i) for label, figure in FIGURE.items() for i in range(len(figure.claims))]


@pytest.mark.parametrize(("label", "i"), CASES)
def test_claims_can_hold_and_can_fail(label, i):
    claim, planted = FIGURE[label].claims[i], PLANTED[label]()
    assert len(BROKEN[label]) == len(FIGURE[label].claims)
    assert claim.judge(planted).verdict == "held", (claim.text, claim.judge(planted).measured)
    broken = claim.judge(BROKEN[label][i](planted))
    assert broken.verdict == "did not hold", (claim.text, broken.measured)


UNDECIDED = {
    ("B1", 1): lambda data: data.sel({"lambda": [0.05, 0.1]}),
    ("B1", 2): put("delay", np.inf, lambda_=0.45),
    ("B1", 4): put("descent_delay", np.nan, column=0.48),
    ("B1", 6): lambda data: data.sel(log10_t=slice(0, 3)),
    ("B1", 8): lambda data: data.sel(log10_t=slice(0, 5)),
    ("B1", 9): lambda data: data.sel(log10_t=slice(0, 5)),
    ("B1", 12): lambda data: data.assign_attrs(points=40),
    ("B1", 13): lambda data: data.isel(lambda_large=[0, 1]),
    ("B2", 7): lambda data: data.isel(clock=[0]),
    ("B4", 0): lambda data: data.sel(log10_t=slice(0, 3)),
    ("B5", 1): put("generalised", np.nan),
    ("B10", 2): lambda data: data.assign_attrs(steps=80),
    ("B11", 2): put("generalised_unit", np.inf, value_unit=10.0),
}


@pytest.mark.parametrize(("label", "i"), UNDECIDED)
def test_results_that_cannot_decide_say_what_they_need(label, i):
    found = FIGURE[label].claims[i].judge(UNDECIDED[label, i](PLANTED[label]()))
    assert found.verdict == "not testable here"
    assert found.reason.startswith("needs ")
