"""Events that end a run once a metric has held for long enough, and events that freeze parameters for a while."""

import re
import shutil

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import interp
from interp.config import SGD, Gaussian, Logistic, Muon, RunConfig
from interp.config.events import Agenda, AtStep, Event, Threshold, is_stop, parse_event
from interp.errors import ConfigError
from interp.training.api import RunInterrupted
from interp.training.ensemble import shape_of
from tests.observers import Interrupts

HELD = "train_accuracy>=0.0 for 10: stop"
"""Held from the first step on: the run ends at step 11."""


def weights(traj, step):
    return {name: traj.param(name).sel(step) for name in traj.names}


def assert_same_weights(a, b, steps):
    assert len(steps)
    for step in steps:
        for name, value in weights(a, step).items():
            assert value.tobytes() == weights(b, step)[name].tobytes(), (step, name)


def moved(traj, first, last):
    """Names of the parameters that differ between two steps."""
    return {
        name for name, value in weights(traj, first).items() if not np.array_equal(value, weights(traj, last)[name])
    }


# --- the written form -------------------------------------------------------------------------------------------------

WHEN = st.one_of(
    st.builds(AtStep, st.integers(0, 10**6)),
    st.builds(Threshold, st.just("test_accuracy"), st.just(">="), st.floats(0, 1), st.integers(0, 10**6)),
)
PATTERNS = st.lists(
    st.tuples(st.sampled_from(["freeze", "unfreeze"]), st.sampled_from(["embed.*", "*", "blocks.0.W"])),
    min_size=1,
    max_size=3,
)


@settings(max_examples=50, deadline=None)
@given(WHEN, st.one_of(st.just(None), PATTERNS))
def test_an_event_makes_the_round_trip(when, patterns):
    event = Event(when, (), stops=True) if patterns is None else Event(when, tuple(patterns))
    assert parse_event(str(event)) == event
    assert is_stop(str(event)) == event.stops


@pytest.mark.parametrize(
    "text",
    [
        "step 3 for 5: stop",
        "test_loss<=1 for: stop",
        "test_loss<=1 for -3: stop",
        "stop",
        "step 3: stop, optimizer.lr=1",
        "step 3: freeze",
    ],
)
def test_what_is_no_event_is_refused(text):
    with pytest.raises(ConfigError, match=re.escape(f"`{text}` is no event")):
        parse_event(text)


def test_equal_events_have_equal_json():
    one = RunConfig(events=("test_loss <= 1 for 5 : stop", "step 3: freeze = embed.*"))
    assert one.events == ("test_loss<=1.0 for 5: stop", "step 3: freeze=embed.*")
    assert RunConfig.from_json(one.to_json()) == one
    assert "frozen" not in one.to_dict()["optimizer"]


@pytest.mark.parametrize(
    ("records", "step"),
    [
        ([(0, 0.1), (10, 0.6), (20, 0.7), (30, 0.6)], 31),
        ([(0, 0.1), (10, 0.6), (20, 0.4), (30, 0.6), (40, 0.6)], None),
        ([(0, 0.6), (25, 0.6)], 26),
        ([(0, 0.6), (19, 0.6)], None),
        ([(0, float("nan")), (10, 0.6), (30, 0.6)], 31),
    ],
)
def test_a_threshold_is_held_wherever_it_is_logged(records, step):
    agenda = Agenda([parse_event("test_accuracy>=0.5 for 20: stop")], 1)
    happened = []
    for now in range(50):
        happened += [now for _ in agenda.pop_due(now)]
        logged = {"test_accuracy": dict(records)[now]} if now in dict(records) else {}
        agenda.observe(now, {**logged, "train_loss": 0.0})
    assert happened == ([] if step is None else [step])
    assert agenda.stopped == (step is not None)


# --- the end of a run -------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(toy_config, tmp_path):
    config = toy_config.replace({"events": (HELD,), "log.test": "steps(5)"})
    return interp.train(config, root=tmp_path / "stopped", device="cpu")


def test_a_run_ends_where_the_criterion_has_held(stopped, toy_run):
    assert stopped.complete
    assert (stopped.stopped, stopped.last_step, toy_run.stopped, toy_run.last_step) == (11, 11, None, 40)
    assert stopped.events == [(11, HELD)]
    assert stopped.steps.tolist() == [0, 4, 8, 11]
    assert stopped.full_state_steps == [0, 11]
    assert stopped.metrics["step"].values.tolist() == list(range(12))
    assert {"train_loss", "test_loss"} <= {name for name in stopped.metrics if np.isfinite(stopped.metrics[name][-1])}
    assert_same_weights(stopped, toy_run, [0, 4, 8])
    assert stopped.verify().ok
    assert stopped.problems == ()
    assert interp.train(stopped.config, root=stopped.folder.parent).steps.tolist() == [0, 4, 8, 11]


@pytest.mark.parametrize("at", [2, 5, 9, 10])
def test_interrupted_and_resumed_it_ends_at_the_same_step(stopped, tmp_path, at):
    """Since when the criterion has held is read from the log."""
    with pytest.raises(RunInterrupted) if at < 10 else pytest.raises(KeyboardInterrupt):
        interp.train(stopped.config, root=tmp_path, device="cpu", observers=[Interrupts(at)])
    part = interp.load(tmp_path / stopped.config.run_id)
    resumed = interp.resume(part.folder)
    assert resumed.complete
    assert resumed.events == stopped.events
    assert resumed.fingerprints() == stopped.fingerprints()
    assert resumed.metrics.equals(stopped.metrics)


def test_killed_as_it_ends_it_ends_there(stopped, tmp_path):
    """The event is noted, and the run not yet complete."""
    folder = shutil.copytree(stopped.folder, tmp_path / stopped.folder.name)
    with interp.store.RunWriter.open(folder) as writer:
        writer.replace_run(writer.run)
    assert not interp.load(folder).complete
    resumed = interp.resume(folder)
    assert resumed.complete
    assert resumed.fingerprints() == stopped.fingerprints()


def test_a_stopped_run_is_replayed_and_goes_on_as_a_branch(stopped, toy_run):
    assert interp.replay(stopped, 5, 11).run["replay"]["proven"] == [8, 11]
    whole = interp.branch(stopped, 11)
    assert whole.config.events == ()
    assert_same_weights(whole, toy_run, range(12, 41, 4))
    same = interp.branch(stopped, 6)
    assert same.run["origin"]["held"] == {HELD: 0}
    assert same.steps.tolist() == [6, 8, 11]
    assert_same_weights(same, stopped, [8, 11])


def test_the_criterion_of_a_branch_counts_from_before_the_fork(stopped, tmp_path):
    with pytest.raises(RunInterrupted):
        interp.branch(stopped, 6, observers=[Interrupts(8)])
    (folder,) = (run for run in stopped.folder.parent.iterdir() if run != stopped.folder)
    shutil.rmtree(stopped.folder)
    assert interp.resume(folder).last_step == 11


def test_a_reader_sees_that_a_growing_run_has_stopped(stopped, tmp_path):
    with pytest.raises(RunInterrupted):
        interp.train(stopped.config, root=tmp_path, device="cpu", observers=[Interrupts(5)])
    traj = interp.load(tmp_path / stopped.config.run_id)
    assert traj.first_missing("weights") == 8
    assert traj.last_step == 40
    interp.resume(traj.folder)
    assert traj.refresh().complete
    assert traj.problems == ()


def test_runs_that_may_stop_are_trained_alone(toy_config):
    one, other = (toy_config.replace({"events": (HELD,), "seed": seed}) for seed in (0, 1))
    assert shape_of(one) != shape_of(other)


# --- frozen parameters ------------------------------------------------------------------------------------------------

FROZEN = ("step 5: freeze=embed.*, freeze=unembed.*", "step 12: unfreeze=unembed.*", "step 20: unfreeze=*")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optimizer": SGD(momentum=0.9)},
        {"optimizer": Muon()},
        {"interventions.grokfast": "ema", "interventions.update_noise": 0.01, "interventions.norm": 1.0},
        {"optimizer.decay": "to_init", "interventions.weight_noise": 0.01, "interventions.orthogonal_gradient": True},
    ],
    ids=["AdamW", "SGD", "Muon", "grokfast, noise, norm", "to_init, weight noise, OrthoGrad"],
)
def test_what_is_frozen_stays_bit_for_bit_and_all_else_is_trained(toy_config, tmp_path, change):
    config = toy_config.replace({"events": FROZEN, "save.weights": "every(1)", "steps": 24, **change})
    traj = interp.train(config, root=tmp_path, device="cpu")
    everything = moved(traj, 0, 5)
    embed = {name for name in everything if name.startswith("embed.")}
    unembed = {name for name in everything if name.startswith("unembed.")}
    assert embed
    assert unembed
    assert moved(traj, 5, 12) == everything - embed - unembed
    assert moved(traj, 12, 20) == everything - embed
    assert moved(traj, 20, 24) == everything
    for at in (7, 15):
        with pytest.raises(RunInterrupted):
            interp.train(config, root=tmp_path / str(at), device="cpu", observers=[Interrupts(at)])
        assert interp.resume(tmp_path / str(at) / config.run_id).fingerprints() == traj.fingerprints()
    same = interp.branch(traj, 14)
    assert same.config.optimizer.frozen == ("embed.*", "!unembed.*")
    assert_same_weights(same, traj, range(14, 25))
    assert interp.replay(traj, 3, 22).run["replay"]["proven"] == list(range(3, 23))


def test_freezing_is_torchs_own(toy_config, tmp_path):
    """The oracle sets `requires_grad` on a plain model under torch's AdamW."""
    config = toy_config.replace({"events": FROZEN, "save.weights": "every(1)", "steps": 24})
    traj = interp.train(config, root=tmp_path, device="cpu")
    task, model = traj.task, traj.model(0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98))
    for step in range(24):
        for name, W in model.named_parameters():
            frozen = 5 <= step < 20 if name.startswith("embed.") else 5 <= step < 12 and name.startswith("unembed.")
            W.requires_grad_(not frozen)
        logits = model(task.tokens[task.train])[:, -1]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.double(), task.labels[task.train]).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.allclose(traj.state(24)[name], value, atol=5e-6), name


def test_a_run_can_begin_with_frozen_parameters(toy_config, tmp_path):
    config = toy_config.replace({"optimizer.frozen": ("*", "!unembed.*"), "steps": 12})
    traj = interp.train(config, root=tmp_path, device="cpu")
    assert moved(traj, 0, 12)
    assert all(name.startswith("unembed.") for name in moved(traj, 0, 12))
    event = toy_config.replace({"events": ("step 0: freeze=*, unfreeze=unembed.*",), "steps": 12})
    assert interp.train(event, root=tmp_path, device="cpu").fingerprints() == traj.fingerprints()


def test_a_plane_with_a_frozen_bias(tmp_path):
    config = RunConfig(
        task=Gaussian(d=6, n=12), model=Logistic(), optimizer=SGD(lr=0.001, loss="exponential"), steps=8
    ).replace({"optimizer.frozen": ("b",), "save.weights": "every(4)"})
    assert moved(interp.train(config, root=tmp_path, device="cpu"), 0, 8) == {"S"}


@pytest.mark.parametrize("change", [{}, {"optimizer.momentum": 0.9}], ids=["AdamW", "SGD"])
@pytest.mark.parametrize("events", [FROZEN, ("step 0: freeze=unembed.*", "step 9: unfreeze=unembed.*")])
def test_an_ensemble_freezes_together(toy_config, tmp_path, change, events):
    base = toy_config.replace({"optimizer": SGD()}) if change else toy_config
    changes = {"events": events, "steps": 24, "save.weights": "every(1)", **change}
    configs = [base.replace({**changes, "seed": seed}) for seed in (0, 1)]
    assert shape_of(configs[0]) == shape_of(configs[1]) != shape_of(base)
    together = interp.train_many(configs, root=tmp_path / "together", device="cpu")
    for traj in together:
        alone = interp.train(traj.config, root=tmp_path / "alone", device="cpu")
        for step in (5, 9, 12, 20, 24):
            for name, value in weights(traj, step).items():
                assert np.allclose(value, weights(alone, step)[name], atol=1e-5), (step, name)
        assert moved(traj, 9, 12) == moved(alone, 9, 12)
    with pytest.raises(RunInterrupted):
        interp.train_many(configs, root=tmp_path / "parts", device="cpu", observers=[Interrupts(15)])
    interp.resume(tmp_path / "parts" / configs[1].run_id)
    for traj in together:
        resumed = interp.load(tmp_path / "parts" / traj.config.run_id)
        assert resumed.fingerprints() == traj.fingerprints()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"events": ("step 3: freeze=embedd.*",)},
            "`embedd.*` must match the name of a trained parameter, and matches ",
        ),
        ({"optimizer.frozen": ("x",)}, "`x` must match the name of a trained parameter, and matches none of "),
        ({"optimizer.frozen": ("*",)}, "`optimizer.frozen` must leave a parameter to train"),
        ({"events": ("step 3: freeze=3",)}, "`freeze` must be a pattern of parameters' names, as embed.*; got 3."),
        ({"optimizer.frozen": ("",)}, "`AdamW.frozen` must be names of parameters, or patterns of them"),
    ],
)
def test_what_cannot_be_frozen(toy_config, tmp_path, change, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        interp.train(toy_config.replace(change), root=tmp_path, device="cpu")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
