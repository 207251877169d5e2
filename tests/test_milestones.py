"""Milestones: one rule for the source of a curve, one for when it passed, and one answer wherever it is told."""

import re

import numpy as np
import pytest
import xarray as xr

import interp
from interp.errors import InvalidArgumentError
from interp.execution import Sweep
from interp.milestones import Criterion, Transition, find
from interp.milestones.sources import curve, curves
from interp.milestones.words import describe, headline
from interp.reporting.page import report


def log_of(**named):
    length = len(next(iter(named.values())))
    return xr.Dataset({name: ("step", values) for name, values in named.items()}, {"step": range(0, 10 * length, 10)})


def found_in(log, **criteria):
    return find((xr.Dataset(coords={"step": log["step"]}), log), **criteria)


# --- one answer ---


def test_a_run_has_one_delay_wherever_it_is_told(grokked_run, toy_run, tmp_path):
    found = find(grokked_run)
    delay = found.delay.step
    assert delay > 0
    assert found.phases.memorisation_end == found.memorised.upper
    page = report(grokked_run, tmp_path / "report.html").read_text()
    assert f"generalisation came {delay:,} steps later" in page
    assert f"{delay:,} steps</" in page
    assert f'"bands":[{{"start":0,"end":{found.memorised.upper},"word":"memorisation"}}' in page
    grid = Sweep({"seed": (0,)}, (grokked_run.config,), (grokked_run,), {}).results()
    for data in (interp.compare([grokked_run, toy_run]).isel(run=0), grid.isel(seed=0)):
        assert float(data["delay"]) == delay
        assert float(data["generalised_step"]) == found.generalised.upper


def test_a_crossing_that_the_end_left_open_is_censored_and_told():
    log = log_of(train_accuracy=[0, *[1] * 8], test_accuracy=[*[0.1] * 5, *[0.97] * 4])
    found = found_in(log)
    assert found.memorised == Transition(0, 10)
    assert found.generalised == Transition(40, None)
    assert found.accuracies["test"].pending == 50
    assert (found.delay.step, found.delay.lower, found.delay.upper) == (None, 30, None)
    assert [step for step, _ in found.marks] == [10]
    said = describe(found, log)
    assert said[0].endswith("test accuracy 95 % at step 50: generalisation came 40 steps later.")
    assert said[1] == "The test accuracy has not been held for 5 more evaluations yet."
    rows = {label: value for label, value, _ in headline(found, log)}
    assert rows["Test accuracy ≥ 95 %"] == "step 50, not yet held"
    assert "Delay" not in rows
    held = found_in(log, generalised=Criterion(0.95, hold=3))
    assert held.generalised == Transition(40, 50)
    assert held.accuracies["test"].pending is None


def test_the_first_passage_is_told_from_the_sustained_one():
    log = log_of(train_accuracy=[0, 1, 0.5, *[1] * 6], test_accuracy=[0] * 9)
    passage = found_in(log).accuracies["train"]
    assert (passage.first, passage.step, passage.best, passage.last) == (10, 30, 1.0, 1.0)
    never = found_in(log).accuracies["test"]
    assert (never.first, never.step, never.pending) == (None, None, None)


def test_sentences_and_headline_say_the_levels_that_were_asked_for():
    log = log_of(train_accuracy=[0.1, *[0.8] * 8], test_accuracy=[*[0.1] * 3, *[0.6] * 6])
    found = found_in(log, memorised=Criterion(0.75), generalised=Criterion(0.55, hold=2))
    assert describe(found, log)[0].startswith("Train accuracy passed 75 % at step 10, test accuracy 55 % at step 30")
    assert [row[0] for row in headline(found, log)][1:3] == ["Train accuracy ≥ 75 %", "Test accuracy ≥ 55 %"]
    assert [label for _, label in found.marks] == ["train accuracy reaches 75 %", "test accuracy reaches 55 %"]
    assert re.search("for 2 more evaluations", headline(found, log)[2][2])


@pytest.mark.parametrize(("level", "hold", "message"), [(95, 5, "`level` must lie in"), (0.9, -1, "`hold` must be")])
def test_criteria_that_break_a_rule(level, hold, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Criterion(level, hold)


# --- where a curve comes from ---


@pytest.mark.parametrize(("logged", "source"), [(1, "checkpoints"), (2, "log"), (3, "log")])
def test_checkpoints_count_where_they_have_more_than_twice_as_many_finite_values(logged, source):
    data = log_of(test_loss=[5.0, 4.0, np.nan, 3.0, np.inf, 2.0])  # four are finite
    metrics = xr.Dataset({"test_loss": ("step", [1.0] * logged)}, {"step": range(logged)})
    steps, values = curve((data, metrics), "test_loss")
    assert steps.tolist() == ([0, 10, 30, 50] if source == "checkpoints" else list(range(logged)))
    assert np.isfinite(values).all()


def test_a_loss_of_another_kind_comes_from_the_log_alone():
    data = log_of(test_loss=[5.0] * 9, test_accuracy=[0.5] * 9)
    metrics = xr.Dataset({"test_loss": ("step", [0.1])}, {"step": [0]}, {"loss": "mean squared error of the codes"})
    assert curve((data, metrics), "test_loss")[1].tolist() == [0.1]
    assert len(curve((data, metrics), "test_accuracy")[0]) == 9
    found = find((data, metrics))
    assert (found.last["test_loss"], found.loss) == (0.1, "mean squared error of the codes")


def test_curves_of_one_figure_share_their_steps():
    metrics = log_of(train_accuracy=[0.1, 0.2, 0.3, 0.4], test_accuracy=[0.1, np.nan, 0.3, np.nan])
    assert curves((xr.Dataset(), metrics), ["train_accuracy", "test_accuracy"])["step"].values.tolist() == [0, 20]
    assert curves((xr.Dataset(), metrics), ["train_accuracy", "test_loss"]).sizes["step"] == 0


def test_nothing_is_found_where_nothing_was_evaluated():
    found = find((xr.Dataset(coords={"step": [0, 1]}), None))
    assert found.accuracies == {}
    assert found.memorised == found.generalised == Transition(None, None)
    assert set(found.ends.values()) == {None}
    assert found.last_step == 0


def test_slingshots_are_told_where_the_last_layer_was_measured():
    steps, loss, norm = np.arange(0, 1000, 10), np.full(100, 1e-3), np.full(100, 10.0)
    loss[50] = 0.3
    norm[40:50] += 0.1 * np.arange(1, 11)
    norm[50:] = 11.0
    log = xr.Dataset(
        {"train_accuracy": ("step", np.ones(100)), "train_loss": ("step", loss)}, {"step": steps}, {"held_out": 0}
    )
    squares = np.stack([np.full(100, 1e6), norm**2], axis=1)  # the embedding is not the last layer
    names = ["embed.W_E", "unembed.W_U"]
    data = xr.Dataset(
        {"sum_of_squares_by_parameter": (("step", "parameter"), squares)}, {"step": steps, "parameter": names}
    )
    (event,) = find((data, log)).slingshots
    assert (event.start, event.peak, round(event.height)) == (500, 500, 300)
    sentence = (
        "The training loss spiked after a growth of the last layer: a slingshot at step 500 (Thilak et al., 2022)."
    )
    assert sentence in describe(find((data, log)), data)
    assert find((data.sel(parameter=["embed.W_E"]), log)).slingshots == ()
    assert find((xr.Dataset(), log)).slingshots == ()
    assert find((data.isel(step=slice(0, 100, 7)), log)).slingshots == ()  # too few evaluations to tell
