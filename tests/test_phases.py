"""Thresholds that last, transitions and lags as intervals, the phase lines of planted runs, quantiles over seeds."""

import numpy as np
import pytest
import torch
import xarray as xr

from interp.analysis.curves import as_generator, first_step, sustained_step
from interp.errors import InvalidArgumentError
from interp.milestones.criterion import Criterion, Lag, Transition, lag, transition
from interp.milestones.finding import find
from interp.milestones.phases import Phases, phases
from interp.milestones.quantiles import bootstrap_over_seeds


def slow_sustained(steps, values, threshold, hold):
    for i, step in enumerate(steps):
        window = values[i:] if hold is None else values[i : i + hold + 1]
        if (hold is None or len(window) == hold + 1) and all(value >= threshold for value in window):
            return step
    return None


@pytest.mark.parametrize("hold", [0, 1, 3, 5, None])
def test_sustained_step_is_its_definition_on_random_curves(hold):
    generator = np.random.default_rng(0)
    for _ in range(200):
        n = int(generator.integers(1, 20))
        steps = np.cumsum(generator.integers(1, 9, n))
        values = generator.random(n)
        expected = slow_sustained(steps.tolist(), values.tolist(), 0.3, hold)
        assert sustained_step(steps, values, 0.3, hold=hold) == expected
        assert sustained_step(steps, -values, -0.3, hold=hold, above=False) == expected
        if hold == 0:
            assert first_step(steps, values, 0.3) == expected


def test_an_answer_once_given_stays_as_the_run_grows():
    values = (np.random.default_rng(1).random(60) > 0.3).astype(float)
    steps = np.arange(60) * 10
    answers = [sustained_step(steps[:n], values[:n], 0.5) for n in range(1, 61)]
    given = [answer for answer in answers if answer is not None]
    assert given
    assert len(set(given)) == 1
    assert answers == [None] * (60 - len(given)) + given


def test_one_flicker_late_in_the_run_does_not_matter_and_one_lucky_evaluation_does_not_count():
    accuracy = [0.1, 1.0, 0.1] + [0.995] * 20
    accuracy[18] = 0.989
    steps = list(range(0, 2300, 100))
    assert sustained_step(steps, accuracy, 0.99) == 300
    assert sustained_step(steps, accuracy, 0.99, hold=None) == 1900
    assert first_step(torch.tensor(steps), torch.tensor(accuracy), 0.99) == 100


def delay(steps, train, test, *criterion):
    log = {"train_accuracy": ("step", train), "test_accuracy": ("step", test)}
    criteria = dict(zip(("memorised", "generalised"), criterion))
    return find((xr.Dataset(), xr.Dataset(log, {"step": list(steps)})), **criteria).delay.step


def test_delay():
    steps = range(0, 100, 10)
    train, test = [0.0] * 2 + [1.0] * 8, [0.0] * 4 + [1.0] * 6
    assert delay(steps, train, test) == 20
    assert delay(steps, test, train) == -20
    assert delay(steps, train, [0.9] * 10) is None
    assert delay(steps, [0.98] * 10, test) is None


def run(memorised=1000, start=9000, floor=14000, last=20000, every=100, low=1e-7, seed=None):
    """Curves of a run that groks as Nanda et al.'s does: the loss rises, is flat, and falls exponentially."""
    steps = np.arange(0, last + 1, every)
    log_loss = np.interp(
        steps, [0, memorised, 2 * memorised, start, floor, last], [1.6, 2.8, 3.5, 3.0, np.log(low), np.log(low) - 0.3]
    )
    norm = np.interp(steps, [0, memorised, start, floor, last], [40, 60, 50, 30, 30])
    if seed is not None:
        generator = np.random.default_rng(seed)
        log_loss = log_loss + 0.1 * generator.standard_normal(len(steps))
        norm = norm + 0.1 * generator.standard_normal(len(steps))
    return {
        "steps": steps,
        "train_accuracy": (steps >= memorised).astype(float),
        "test_accuracy": (log_loss < np.log(0.05)).astype(float),
        "test_loss": np.exp(log_loss),
        "weight_norm": norm,
        "excluded_loss": np.interp(steps, [0, memorised, start], [4, 0.1, 8]),
        "restricted_loss": np.interp(steps, [0, memorised, start], [4, 4, 0.1]),
    }


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("low", [1e-7, 1e-3])
def test_phase_lines_of_a_planted_run_are_found_with_and_without_noise(seed, low):
    found = phases(**run(seed=seed, low=low))
    assert found.memorisation_end == 1000
    assert found.circuit_formation_end == pytest.approx(9000, abs=0 if seed is None else 600)
    assert found.cleanup_end == pytest.approx(13500, abs=200 if seed is None else 400)  # 90 % of it
    assert found.excluded_rose
    assert found.restricted_fell


def test_the_weight_norm_can_only_postpone_the_end_of_cleanup():
    curves = run()
    late = curves | {"weight_norm": np.interp(curves["steps"], [0, 9000, 18000], [60, 60, 30])}
    rising = curves | {"weight_norm": curves["steps"] / 100.0 + 1}
    assert phases(**late).cleanup_end == pytest.approx(17100, abs=100)
    without = phases(**{name: curve for name, curve in curves.items() if name != "weight_norm"})
    assert phases(**rising).cleanup_end == without.cleanup_end


def test_phases_that_did_not_happen_are_none():
    curves = run()
    names = ("steps", "train_accuracy", "test_accuracy", "test_loss")
    steps, train, test, loss = (curves[name] for name in names)
    assert phases(steps, 0 * train, 0 * test, loss) == Phases(None, None, None)
    assert phases(steps, train, 0 * test, loss) == Phases(1000, None, None)  # memorisation only
    assert phases(steps, train, train, loss) == Phases(1000, None, None)  # comprehension: no delay
    found = phases(steps, train, test, loss)
    assert found.excluded_rose is None
    assert found.restricted_fell is None
    contrary = phases(**(curves | {"excluded_loss": -curves["excluded_loss"] + 9}))
    assert contrary.excluded_rose is False


def test_a_loss_of_zero_has_a_logarithm():
    curves = run()
    curves["test_loss"][-20:] = 0
    assert phases(**curves).circuit_formation_end is not None


@pytest.mark.parametrize("hold", [0, 1, 3, None])
def test_a_transition_lies_between_the_last_failure_before_it_and_the_sustained_step(hold):
    generator = np.random.default_rng(2)
    for _ in range(200):
        n = int(generator.integers(1, 20))
        steps = np.cumsum(generator.integers(1, 9, n))
        values = generator.random(n)
        found = transition(steps, values, 0.3, hold=hold)
        assert found.upper == slow_sustained(steps.tolist(), values.tolist(), 0.3, hold)
        failures = [
            s for s, v in zip(steps, values, strict=True) if v < 0.3 and (found.upper is None or s < found.upper)
        ]
        assert found.lower == (failures[-1] if failures else None)
        assert transition(steps, -values, -0.3, hold=hold, above=False) == found
        if found.lower is not None and found.upper is not None:
            assert np.searchsorted(steps, found.upper) - np.searchsorted(steps, found.lower) == 1


def test_a_coarser_grid_only_widens_the_interval_of_a_transition():
    steps = np.arange(0, 2001, 10)
    accuracy = (steps > 637).astype(float)
    for every in (1, 2, 5, 10):
        found = transition(steps[::every], accuracy[::every])
        assert found.lower <= 637 < found.upper
        assert found.upper - found.lower == 10 * every


def test_the_true_lag_lies_in_its_interval_whatever_the_grids():
    generator = np.random.default_rng(3)
    for _ in range(100):
        x_at, y_at = generator.integers(100, 900, 2)
        x_steps = np.unique(np.concatenate([[0], generator.integers(0, 1000, 40), np.arange(1000, 1010)]))
        y_steps = np.unique(np.concatenate([[0], generator.integers(0, 1000, 20), np.arange(1000, 1010)]))
        x, y = transition(x_steps, (x_steps >= x_at) * 1.0), transition(y_steps, (y_steps >= y_at) * 1.0)
        found = lag(x, y)
        assert found.lower <= y_at - x_at <= found.upper
        assert found.lower <= found.step <= found.upper
        assert lag(y, x) == Lag(-found.step, -found.upper, -found.lower)


def test_a_lag_keeps_the_bound_that_is_known():
    steps, early, late, never = range(0, 80, 10), [0] * 2 + [1] * 6, [0] * 4 + [1] * 4, [0.0] * 8

    def lag_of(x, y):
        return lag(transition(steps, x, 0.9, hold=0), transition(steps, y, 0.95, hold=0))

    assert lag_of(early, late) == Lag(20, 10, 30)
    assert lag_of(early, late).step == delay(steps, early, late, Criterion(0.9, 0), Criterion(0.95, 0))
    assert lag_of(early, never) == Lag(None, 50, None)  # at least from 20 to 70
    assert lag_of(never, late) == Lag(None, None, -30)
    assert lag_of(never, never) == Lag(None, None, None)
    assert lag_of([1] * 8, late) == Lag(40, 30, None)  # x may have passed long before
    falls = [transition(steps, curve, 0.5, above=False, hold=0) for curve in (early, late)]
    assert lag(*falls).step == 0
    assert transition(steps, [1] * 8, hold=0) == Transition(None, 0)


def slow_survival_quantile(times, reached, q):
    """By the definition: at each step, the share of those still under way that does not generalise there."""
    survival = 1.0
    for t in sorted({time for time, event in zip(times, reached, strict=True) if event}):
        at_risk = sum(time >= t for time in times)
        events = sum(time == t and event for time, event in zip(times, reached, strict=True))
        survival *= 1 - events / at_risk
        if survival <= 1 - q + 1e-9:
            return t
    return np.inf


def test_quantiles_over_seeds_are_those_of_kaplan_and_meier():
    generator = np.random.default_rng(4)
    for _ in range(50):
        n = int(generator.integers(1, 12))
        ends = generator.integers(5, 15, n)
        would = generator.integers(1, 20, n)
        values = [int(at) if at <= end else None for at, end in zip(would, ends, strict=True)]
        found = bootstrap_over_seeds(values, ends, generator=generator, resamples=1)
        times = np.minimum(would, ends).tolist()
        expected = [
            slow_survival_quantile(times, [value is not None for value in values], q) for q in (0.25, 0.5, 0.75)
        ]
        assert list(found.steps) == expected
        assert (found.runs, found.reached) == (n, sum(value is not None for value in values))


def test_quantiles_without_censoring_are_those_of_the_sample():
    values = np.random.default_rng(5).integers(0, 1000, 37).tolist()
    found = bootstrap_over_seeds(values, generator=np.random.default_rng(0), resamples=1)
    assert list(found.steps) == np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf").tolist()


def test_runs_that_never_generalise_are_neither_left_out_nor_counted_at_their_end():
    values = [100, 200, 300] + [None] * 4
    found = bootstrap_over_seeds(values, [1000] * 7, generator=np.random.default_rng(0))
    assert found.steps == (200.0, np.inf, np.inf)
    assert found.intervals[1][0] < np.inf
    assert found.intervals[1][1] == np.inf
    never = bootstrap_over_seeds([None, None], [10, 20], generator=np.random.default_rng(0), resamples=5)
    assert never.steps == (np.inf,) * 3


def test_the_interval_over_seeds_covers_the_median_and_depends_on_its_generator_only():
    generator = np.random.default_rng(6)
    inside = 0
    for _ in range(40):
        would = 1000 * generator.exponential(size=30)
        values = [at if at < 1500 else None for at in would]
        (interval,) = bootstrap_over_seeds(
            values, [1500] * 30, generator=generator, probabilities=[0.5], resamples=50
        ).intervals
        inside += interval[0] <= 1000 * np.log(2) <= interval[1]
    assert inside >= 33  # 38 expected; below 33 less than once in 100 times
    again = [bootstrap_over_seeds([1, 5, 9, 20], generator=np.random.default_rng(1)) for _ in range(2)]
    assert again[0] == again[1]


def seeds(*args, **kwargs):
    return bootstrap_over_seeds(*args, generator=np.random.default_rng(0), **kwargs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sustained_step([0, 1], [1.0], 0.5), r"`values` must have one value for each of the 2 steps; got 1"),
        (lambda: sustained_step([1, 1], [1.0, 1.0], 0.5), r"`steps` must increase; got 1 before 1"),
        (lambda: sustained_step([], [], 0.5), r"`steps` must be a non-empty sequence of numbers"),
        (lambda: sustained_step([0], [np.nan], 0.5), r"`values` must be finite; got 1 values that are NaN"),
        (lambda: sustained_step([0], ["x"], 0.5), r"`values` must be a non-empty sequence of numbers; got <U1"),
        (lambda: sustained_step([0], [1.0], 0.5, hold=-1), r"`hold` must be a whole number >= 0; got -1"),
        (lambda: sustained_step([0], [1.0], np.nan), r"`threshold` must be finite; got nan"),
        (
            lambda: Criterion(95),
            r"`level` must lie in \[0, 1\]; got 95",
        ),
        (lambda: transition([0, 1], [1.0], 0.5), r"`values` must have one value for each of the 2 steps; got 1"),
        (lambda: transition([0], [1.0, 2.0]), r"`values` must have one value for each of the 1 steps; got 2"),
        (lambda: seeds([]), r"`values` must be a non-empty sequence of numbers"),
        (lambda: seeds([1, None]), r"`last_steps` must be given where `values` has None; got 1 runs that have not"),
        (lambda: seeds([1, None], [5]), r"`last_steps` must have one step for each of 2 runs; got 1"),
        (
            lambda: seeds([1, 7], [5, 5]),
            r"`values` must not lie after the end of their run; got 7 in a run that ends at 5",
        ),
        (lambda: seeds([1], probabilities=[50]), r"`probabilities` must lie in \[0, 1\]; got 50. Per cent"),
        (lambda: seeds([1], level=95), r"`level` must lie in \[0, 1\]; got 95"),
        (lambda: seeds([1], resamples=0), r"`resamples` must be a whole number >= 1; got 0"),
        (lambda: as_generator(0), r"`generator` must be a numpy Generator; got 0. Pass np.random.default_rng\(seed\)"),
        (lambda: phases(**(run() | {"weight_norm": np.ones(3)})), r"`weight_norm` must have one value for each"),
        (lambda: phases(**(run() | {"test_loss": -run()["test_loss"]})), r"`test_loss` must be >= 0; .*its logarithm"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
