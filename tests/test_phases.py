"""Thresholds that last, delays, and the phase lines of planted runs."""

import jaxtyping
import numpy as np
import pytest
import torch

from interp.analysis.phases import Phases, first_step, grokking_delay, phases, sustained_step
from interp.errors import InvalidArgumentError


@pytest.fixture
def as_users_run_it(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


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


def test_delay():
    steps = range(0, 100, 10)
    train, test = [0.0] * 2 + [1.0] * 8, [0.0] * 4 + [1.0] * 6
    assert grokking_delay(steps, train, test) == 20
    assert grokking_delay(steps, test, train) == -20
    assert grokking_delay(steps, train, [0.9] * 10) is None
    assert grokking_delay(steps, [0.98] * 10, test) is None


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
            lambda: grokking_delay([0], [1.0], [1.0], test_threshold=95),
            r"`test_threshold` must lie in \[0, 1\]; got 95",
        ),
        (lambda: phases(**(run() | {"weight_norm": np.ones(3)})), r"`weight_norm` must have one value for each"),
        (lambda: phases(**(run() | {"test_loss": -run()["test_loss"]})), r"`test_loss` must be >= 0; .*its logarithm"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
