"""Planted oscillations, white noise, separable and useless measures, and warnings at known times."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from interp.errors import InvalidArgumentError
from interp.milestones.prediction import lead_time, lead_times, score_predictors, spectral_signature


def slow_signature(values, spacing, period):
    """Sums over all cosines, one after the other: activity, mobility, theirs for complexity, the fast part."""
    n = len(values)
    moments, fast = np.zeros(3), 0.0
    for k in range(1, n):
        w = np.pi * k / (n * spacing)
        amplitude = sum(values[t] * np.cos(np.pi * k * (t + 0.5) / n) for t in range(n)) / n
        moments += np.array([1, w**2, w**4]) * 2 * amplitude**2
        fast += 2 * amplitude**2 if w >= 2 * np.pi / period else 0
    return moments[0], (moments[1] / moments[0]) ** 0.5, (moments[2] / moments[1]) ** 0.5, fast


@pytest.mark.parametrize("spacing", [1, 7])
def test_the_signature_is_its_definition(spacing):
    values = 3 + np.random.default_rng(0).standard_normal(41).cumsum()
    steps = spacing * np.arange(41)
    found = spectral_signature(steps, values, until=40 * spacing, period=20.5)
    activity, mobility, complexity, fast = slow_signature(values, spacing, 20.5)
    assert found.activity == pytest.approx(activity)
    assert found.mobility == pytest.approx(mobility)
    assert found.complexity * found.mobility == pytest.approx(complexity)
    assert found.fast == pytest.approx(fast)


def test_activity_is_the_variance_and_the_parts_add_up_to_it():
    values = np.random.default_rng(1).standard_normal(401).cumsum()
    found = spectral_signature(range(401), values)
    assert found.activity == pytest.approx(values.var())  # Parseval
    assert found.fast + found.slow == pytest.approx(found.activity)
    assert found.power.sum() == pytest.approx(found.activity)
    assert found.power[found.frequency >= 2 * np.pi / 20].sum() == pytest.approx(found.fast)
    assert found.complexity >= 1  # Cauchy-Schwarz


def test_units_level_and_direction_of_time():
    values = np.random.default_rng(2).standard_normal(401).cumsum()
    found = spectral_signature(range(401), values)
    other = spectral_signature(range(401), 5 - 3 * values[::-1])
    assert other.activity == pytest.approx(9 * found.activity)
    assert other.fast == pytest.approx(9 * found.fast)
    assert (other.mobility, other.complexity) == pytest.approx((found.mobility, found.complexity))
    slower = spectral_signature(np.arange(401) * 10, values, until=4000, period=200.0)
    assert slower.fast == pytest.approx(found.fast)
    assert slower.mobility == pytest.approx(found.mobility / 10)
    exponential = spectral_signature(range(401), np.exp(values), log=True)
    assert exponential.activity == pytest.approx(found.activity)


@pytest.mark.parametrize("period", [2.5, 7, 19, 21, 80])
def test_a_planted_sine_of_any_phase_is_found_at_its_frequency(period):
    steps = np.arange(401)
    for phase in (0.0, 1.0, 2.0):
        found = spectral_signature(steps, 4 + 0.1 * np.sin(2 * np.pi * steps / period + phase))
        assert found.frequency[found.power.argmax()] == pytest.approx(2 * np.pi / period, abs=1.1 * np.pi / 401)
        assert found.activity == pytest.approx(0.005, rel=0.05)
        assert found.fast / found.activity == pytest.approx(float(period <= 20), abs=0.2)


def test_the_fall_of_a_loss_is_slow_and_the_oscillation_on_it_is_fast():
    steps = np.arange(401)
    fall = 5 * np.exp(-steps / 60)
    alone, both = (spectral_signature(steps, fall + extra) for extra in (0, 0.1 * np.cos(2 * np.pi * steps / 7)))
    assert alone.fast < 1e-3 * alone.activity
    assert both.fast - alone.fast == pytest.approx(0.1**2 / 2, rel=0.05)
    assert both.activity == pytest.approx(alone.activity, rel=0.01)  # which does not see it


def test_white_noise_has_the_moments_of_a_flat_spectrum():
    found = [spectral_signature(range(401), np.random.default_rng(seed).standard_normal(401)) for seed in range(30)]
    assert np.mean([one.fast / one.activity for one in found]) == pytest.approx(0.9, abs=0.01)  # 1 - 2 / 20
    assert np.mean([one.mobility for one in found]) == pytest.approx(np.pi / 3**0.5, rel=0.02)
    assert np.mean([one.complexity for one in found]) == pytest.approx(1.8**0.5, rel=0.02)


def test_only_the_steps_until_then_count_and_a_constant_does_not_oscillate():
    values = np.random.default_rng(3).standard_normal(900)
    found, cut = (
        spectral_signature(range(900), values, until=300),
        spectral_signature(range(301), values[:301], until=300),
    )
    assert found.activity == cut.activity
    constant = spectral_signature(range(401), [0.1] * 401)
    assert constant.activity == pytest.approx(0, abs=1e-30)
    assert np.isnan([constant.mobility, constant.complexity]).all()


def test_the_auc_is_that_of_sklearn_ties_included():
    generator = np.random.default_rng(4)
    for _ in range(20):
        grokked = np.r_[True, False, generator.random(15) < 0.5]
        feature = generator.integers(0, 6, 17)
        found = score_predictors({"x": feature, "-x": -feature}, grokked, generator=generator, resamples=2)
        assert found["x"].auc == pytest.approx(roc_auc_score(grokked, feature))
        assert found["x"].auc + found["-x"].auc == pytest.approx(1)
        assert found["x"].p_value == pytest.approx(found["-x"].p_value)


def test_separable_and_useless_measures_get_what_they_deserve():
    generator = np.random.default_rng(5)
    grokked = np.arange(200) < 100
    found = score_predictors({"perfect": 1.0 * grokked, "useless": generator.random(200)}, grokked, generator=generator)
    assert (found["perfect"].auc, found["perfect"].interval) == (1.0, (1.0, 1.0))
    assert found["perfect"].p_value < 1e-6
    lower, upper = found["useless"].interval
    assert lower < 0.5 < upper
    assert found["useless"].p_value > 0.05
    assert upper - lower == pytest.approx(2 * 1.96 * (201 / (12 * 100**2)) ** 0.5, rel=0.2)  # variance of Mann-Whitney


def test_the_interval_of_the_auc_covers_the_truth():
    generator = np.random.default_rng(6)
    grokked, inside = np.arange(60) < 30, 0
    for _ in range(100):
        feature = generator.standard_normal(60) + grokked
        lower, upper = score_predictors({"x": feature}, grokked, generator=generator, resamples=200)["x"].interval
        inside += lower <= 0.7602 <= upper  # Phi(1 / sqrt 2)
    assert inside >= 86


def test_the_bootstrap_is_resampling_of_runs_and_depends_on_its_generator_only():
    grokked, feature = np.arange(24) < 10, np.random.default_rng(7).random(24)
    found, again = (
        score_predictors({"x": feature}, grokked, generator=np.random.default_rng(8), resamples=4000)["x"] for _ in "ab"
    )
    assert found == again
    generator, drawn = np.random.default_rng(9), []
    for _ in range(2000):
        runs = np.r_[generator.integers(0, 10, 10), generator.integers(10, 24, 14)]
        high, low = feature[runs[:10]], feature[runs[10:]]
        drawn.append((high[:, None] > low).mean() + (high[:, None] == low).mean() / 2)
    assert found.interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.03)


def test_a_planted_lead_is_found():
    steps, values = np.arange(0, 1000, 10), np.arange(100) / 100
    assert lead_time(steps, values, 0.5, 900) == 400
    assert lead_time(steps, -values, -0.5, 900, above=False) == 400
    assert lead_time(steps, values, 0.5, 300) == -200
    assert lead_time(steps, values, 0.5, None) is None
    assert lead_time(steps, values, 2.0, 900) is None


def planted(generator, height, runs=20):
    """Half of the runs generalise at step 800 and pass `height` at 500; the others stay near 0."""
    steps = np.arange(0, 1000, 10)
    grok = np.arange(runs) % 2 == 0
    values = [height * (steps >= 500) * one + 0.1 * generator.random(100) for one in grok]
    return [steps] * runs, values, [800 if one else None for one in grok]


def test_warnings_of_a_good_measure_come_in_time_and_without_false_alarms():
    steps, values, generalised = planted(np.random.default_rng(10), height=1.0)
    found = lead_times(steps, values, generalised)
    assert (found.detected, found.false_alarms) == (1.0, 0.0)
    assert set(found.steps) == {300, None}
    assert all(0.1 < threshold < 1 for threshold in found.thresholds)
    falling = lead_times(steps, [-value for value in values], generalised, above=False)
    assert falling.steps == found.steps
    assert falling.thresholds == tuple(-threshold for threshold in found.thresholds)


def test_a_useless_measure_warns_of_nothing():
    steps, values, generalised = planted(np.random.default_rng(11), height=0.0, runs=200)
    found = lead_times([s[:81] for s in steps], [v[:81] for v in values], generalised)  # of equal length
    assert abs(found.detected - found.false_alarms) < 0.25


def test_the_threshold_of_a_run_does_not_look_at_the_run():
    steps, values, generalised = planted(np.random.default_rng(12), height=1.0, runs=8)
    before = lead_times(steps, values, generalised)
    after = lead_times(steps, [values[0] + 50, *values[1:]], generalised)
    assert after.thresholds[0] == before.thresholds[0]
    assert after.thresholds[1:] != before.thresholds[1:]
    loud = lead_times(steps, [values[0], values[1] + 50, *values[2:]], generalised)
    assert loud.thresholds[1] == before.thresholds[1]
    assert loud.false_alarms == 0.25


def test_a_measure_that_comes_too_late_detects_nothing():
    steps, values, generalised = planted(np.random.default_rng(13), height=1.0)
    early = [300 if at else None for at in generalised]
    flat = [np.where(s < 300, 0.0, v) if at else v for s, v, at in zip(steps, values, early, strict=True)]
    found = lead_times(steps, flat, early)
    assert found.detected <= found.false_alarms
    assert all(lead is None or lead <= 0 for lead in found.steps) or found.false_alarms == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: spectral_signature(range(50), range(50)),
            r"`until` must be a step that the run has reached, <= 49; got 400",
        ),
        (
            lambda: spectral_signature([0, 1, 3], [1, 2, 3], until=3),
            r"`steps` must be evenly spaced.*Log the train loss at",
        ),
        (lambda: spectral_signature([0, 9], [1, 2], until=9), r"`steps` must be evenly spaced, at least 3 .*; got 2"),
        (
            lambda: spectral_signature(range(9), range(9), until=8, period=1.5),
            r"`period` must be at least .* 2 steps; got 1.5",
        ),
        (
            lambda: spectral_signature(range(9), [-1] * 9, until=8, log=True),
            r"`loss` must be >= 0 to have a logarithm; got -1",
        ),
        (lambda: spectral_signature(range(9), [1] * 9, until=0), r"`until` must be a whole number >= 1; got 0"),
        (lambda: scores({"x": [1, 2]}, [True, True]), r"`grokked` must be booleans, .* at least one run of each kind"),
        (lambda: scores({"x": [1, 2]}, [1, 0]), r"`grokked` must be booleans"),
        (
            lambda: scores({"x": [1]}, [True, False]),
            r"`features\['x'\]` must have one value for each of the 2 steps; got 1",
        ),
        (lambda: scores({"x": [1, np.nan]}, [True, False]), r"`features\['x'\]` must be finite"),
        (lambda: scores({"x": [1, 2]}, [True, False], level=95), r"`level` must lie in \[0, 1\]; got 95"),
        (lambda: scores({"x": [1, 2]}, [True, False], resamples=0), r"`resamples` must be a whole number >= 1; got 0"),
        (
            lambda: score_predictors({"x": [1, 2]}, [True, False], generator=7),
            r"`generator` must be a numpy Generator; got 7",
        ),
        (
            lambda: lead_times([[0]], [[1.0]], [1, None]),
            r"`steps` and `values` must have one curve for each of the 2 runs",
        ),
        (lambda: lead_times([[0]] * 3, [[1.0]] * 3, [1, 1, None]), r"at least two runs that generalise.*; got 2 of 3"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()


def scores(*args, **kwargs):
    return score_predictors(*args, generator=np.random.default_rng(0), **kwargs)
