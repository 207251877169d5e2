"""Events: what their written form says, when they happen, and that a run with them is a function of its config."""

import re
import shutil

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import interp
from interp.config import RunConfig
from interp.config.events import Agenda, AtEpoch, AtStep, Event, Threshold, parse_event
from interp.errors import ConfigError
from interp.optim.interventions import Grokfast
from interp.training.api import RunInterrupted
from interp.training.state import TrainState
from interp.training.step import TrainingStep
from tests.observers import Interrupts


def weights(traj, step):
    return {name: traj.param(name).sel(step=step) for name in traj.names}


def assert_same_weights(a, b, steps):
    for step in steps:
        for name, value in weights(a, step).items():
            assert value.tobytes() == weights(b, step)[name].tobytes(), (step, name)


def differ(a, b, step):
    return [name for name, value in weights(a, step).items() if not np.array_equal(value, weights(b, step)[name])]


# --- the written form -------------------------------------------------------------------------------------------------

WHEN = st.one_of(
    st.builds(AtStep, st.integers(0, 10**6)),
    st.builds(AtEpoch, st.integers(0, 10**6)),
    st.builds(
        Threshold, st.sampled_from(["test_accuracy", "train_loss"]), st.sampled_from([">=", "<="]), st.floats(0, 30)
    ),
)
VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(),
    st.booleans(),
    st.sampled_from([None, "to_init", (0.9, 0.98)]),
)
PATHS = st.sampled_from(["optimizer.lr", "optimizer.betas", "interventions.weight_noise"])


@settings(max_examples=100, deadline=None)
@given(WHEN, st.lists(st.tuples(PATHS, VALUES), min_size=1, max_size=3))
def test_an_event_makes_the_round_trip(when, changes):
    event = Event(when, tuple(changes))
    assert parse_event(str(event)) == event


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step 200",
        "step 200:",
        "step 200: optimizer.lr",
        "step 200: optimizer.lr=",
        "step 200: =1",
        "step -1: optimizer.lr=1",
        "step 2.5: optimizer.lr=1",
        "day 3: optimizer.lr=1",
        "test_accuracy>0.5: optimizer.lr=1",
        "test_accuracy>=high: optimizer.lr=1",
        "test_accuracy>=1e: optimizer.lr=1",
        "weight_norm>=1: optimizer.lr=1",
    ],
)
def test_what_is_no_event_is_refused(text):
    with pytest.raises(
        ConfigError, match=re.escape(f"`{text}` is no event; write `step 200: optimizer.weight_decay=0`")
    ):
        parse_event(text)


# --- in a config ------------------------------------------------------------------------------------------------------


def test_runs_without_events_keep_their_names():
    assert "events" not in RunConfig().to_dict()
    assert "interventions" not in RunConfig().to_dict()
    assert RunConfig(events=()).run_id == RunConfig().run_id != RunConfig(events=("step 3: optimizer.lr=1",)).run_id


def test_equal_events_have_equal_json():
    spaced = RunConfig(events=("epoch 3 :optimizer.weight_decay = 0, optimizer.lr=1",))
    tight = RunConfig(events=["epoch 3: optimizer.weight_decay=0.0, optimizer.lr=1.0"])
    assert spaced.to_json() == tight.to_json()
    assert spaced.events == ("epoch 3: optimizer.weight_decay=0.0, optimizer.lr=1.0",)
    assert RunConfig.from_json(spaced.to_json()) == spaced


def test_after_an_event_its_fields_are_others_and_the_rest_is_as_it_was():
    event = parse_event("step 3: optimizer.betas=[0.5, 0.9], interventions.orthogonal_gradient=true")
    config = RunConfig(steps=7).after(event)
    assert config.optimizer.betas == (0.5, 0.9)
    assert config.interventions.orthogonal_gradient
    assert config.replace({"optimizer.betas": (0.9, 0.999), "interventions.orthogonal_gradient": False}) == RunConfig(
        steps=7
    )


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("step 3: optimizer.weight_decai=0", "There is no field `weight_decai` in AdamW. Did you mean `weight_decay`?"),
        ("step 3: optimizer.lr=-1", "`AdamW.lr` must be > 0; got -1.0."),
        ("step 3: optimizer.lr=fast", "`AdamW.lr` must be a number; got 'fast'."),
        ("step 3: seed=1", "`seed` cannot change in the course of a run (step 3: seed=1); events change fields of "),
        ("step 3: optimizer=Adam", "`optimizer` cannot change in the course of a run"),
        ("step 3: task.p=5", "`task.p` cannot change in the course of a run"),
        ("step 3: optimizer.batch_size=5", "`optimizer.batch_size` cannot change in the course of a run"),
    ],
)
def test_an_event_that_breaks_a_rule_is_refused(event, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig(events=(event,))


# --- when they happen -------------------------------------------------------------------------------------------------


def test_an_epoch_is_a_pass_through_the_training_set(toy_config, tmp_path):
    event = "epoch 3: optimizer.weight_decay=0.5"
    full = interp.train(toy_config.replace({"events": (event,)}), root=tmp_path, device="cpu")
    small = toy_config.replace({"events": (event,), "optimizer.batch_size": 8})  # 29 pairs: three batches of 8
    assert full.events == [(3, event)]
    assert interp.train(small, root=tmp_path, device="cpu").events == [(9, event)]


@pytest.mark.parametrize(
    ("threshold", "records", "step"),
    [
        ("test_accuracy>=0.5", [(2, {"test_accuracy": 0.4}), (4, {"train_loss": 9.0}), (6, {"test_accuracy": 0.5})], 7),
        ("train_loss<=0.5", [(0, {"train_loss": 0.6}), (1, {"train_loss": 0.5}), (2, {"train_loss": 0.1})], 2),
        ("train_loss<=0.5", [(0, {"train_loss": 0.6})], None),
        ("train_loss<=0.5", [(0, {"train_loss": float("nan")})], None),
    ],
)
def test_a_threshold_is_passed_once_a_step_after_its_metric(threshold, records, step):
    agenda = Agenda([parse_event(f"{threshold}: optimizer.lr=1")], 1)
    happened = []
    numbers = dict(records)
    for now in range(10):
        happened += [now for _ in agenda.pop_due(now)]
        agenda.observe(now, numbers.get(now, {}))
    assert happened == ([] if step is None else [step])
    assert agenda.watching == (step is None)


def test_events_of_one_step_happen_in_the_order_of_the_config():
    texts = ["step 4: optimizer.lr=1", "epoch 2: optimizer.lr=2", "step 4: optimizer.lr=3"]
    agenda = Agenda(map(parse_event, texts), 2)
    assert [event.changes[0][1] for event in agenda.pop_due(4)] == [1, 2, 3]
    assert agenda.pop_due(4) == []


def test_an_event_changes_nothing_before_its_step_and_everything_after(toy_config, toy_run, tmp_path):
    event = "step 17: optimizer.weight_decay=0"
    config = toy_config.replace({"events": (event,), "save.weights": "every(4) | steps(17, 18)"})
    traj = interp.train(config, root=tmp_path, device="cpu")
    dense = interp.train(toy_config.replace({"save.weights": "every(4) | steps(17, 18)"}), root=tmp_path, device="cpu")
    assert traj.events == [(17, "step 17: optimizer.weight_decay=0.0")]
    assert_same_weights(traj, dense, [0, 4, 8, 12, 16, 17])
    everything = [name for name in traj.names if np.any(weights(dense, 17)[name])]
    for step in (18, 20, 40):
        assert set(everything) <= set(differ(traj, dense, step))
    assert traj.metrics["train_loss"].sel(step=slice(0, 17)).equals(dense.metrics["train_loss"].sel(step=slice(0, 17)))


def test_an_event_at_step_0_is_another_config(toy_config, tmp_path):
    event = "step 0: optimizer.weight_decay=0.25, optimizer.lr=0.002, interventions.weight_noise=0.01"
    began = interp.train(toy_config.replace({"events": (event,)}), root=tmp_path, device="cpu")
    other = toy_config.replace(
        {"optimizer.weight_decay": 0.25, "optimizer.lr": 0.002, "interventions.weight_noise": 0.01}
    )
    assert_same_weights(began, interp.train(other, root=tmp_path, device="cpu"), [0, 4, 40])


def test_an_event_that_sets_what_is_set_changes_no_bit(toy_config, toy_run, tmp_path):
    events = ("step 10: optimizer.weight_decay=1, interventions.grokfast=off",)
    traj = interp.train(toy_config.replace({"events": events}), root=tmp_path, device="cpu")
    assert len(traj.events) == 1
    assert_same_weights(traj, toy_run, traj.steps.tolist())


def test_what_an_event_leaves_alone_remembers_what_it_did(toy_config, tmp_path):
    """The moving average of Grokfast goes on through an event that is about something else."""
    config = toy_config.replace({"interventions.grokfast": "ema"})
    plain = interp.train(config, root=tmp_path, device="cpu")
    event = "step 10: optimizer.weight_decay=1"
    assert_same_weights(
        interp.train(config.replace({"events": (event,)}), root=tmp_path, device="cpu"), plain, [8, 12, 40]
    )


def test_the_update_is_made_anew_at_each_event(toy_config, tmp_path, monkeypatch):
    """On CUDA an update is captured with its hyper-parameters, so that one made before would not see the event."""
    made, begin = [], TrainingStep.__init__

    def count(self, session):
        made.append(session.current.optimizer.weight_decay)
        begin(self, session)

    monkeypatch.setattr(TrainingStep, "__init__", count)
    events = ("step 10: optimizer.weight_decay=0", "step 20: optimizer.weight_decay=0.5")
    interp.train(toy_config.replace({"events": events}), root=tmp_path, device="cpu")
    assert made == [1.0, 0.0, 0.5]


# --- a run with events is a run ---------------------------------------------------------------------------------------

EVENTS = (
    "step 6: optimizer.weight_decay=0.3",
    "test_loss<=6: optimizer.lr=0.003, interventions.update_noise=0.01",
    "epoch 12: interventions.grokfast=ema",
    "train_accuracy>=0.2: optimizer.betas=[0.8, 0.9]",
    "step 25: interventions.weight_noise=0.01, interventions.grokfast_lambda=1",
    "test_loss<=0: optimizer.lr=1",
)


@pytest.fixture(scope="module")
def eventful(toy_config, tmp_path_factory):
    config = toy_config.replace({"events": EVENTS, "save.weights": "every(1)"})
    return interp.train(config, root=tmp_path_factory.mktemp("eventful"), device="cpu")


def test_thresholds_are_passed_where_the_metrics_say(eventful):
    happened = {text.partition(":")[0]: step for step, text in eventful.events}
    assert list(happened) == sorted(happened, key=lambda name: happened[name])
    metrics = eventful.metrics
    for metric, reached in (("test_loss", lambda x: x <= 6), ("train_accuracy", lambda x: x >= 0.2)):
        column = metrics[metric].dropna("step")
        first = int(column.step[reached(column.values)][0])
        name = "test_loss<=6.0" if metric == "test_loss" else "train_accuracy>=0.2"
        assert happened[name] == first + 1
    assert happened["step 6"] == 6
    assert happened["epoch 12"] == 12
    assert "test_loss<=0.0" not in happened


@pytest.mark.parametrize("stop_at", [5, 25])
def test_interrupted_and_resumed_with_events(eventful, tmp_path, stop_at):
    with pytest.raises(RunInterrupted) as caught:
        interp.train(eventful.config, root=tmp_path, device="cpu", observers=[Interrupts(stop_at)])
    part = interp.load(caught.value.folder)
    assert part.events == [event for event in eventful.events if event[0] <= part.full_state_steps[-1]]
    resumed = interp.resume(part.folder)
    assert resumed.events == eventful.events
    assert_same_weights(resumed, eventful, range(41))
    assert resumed.metrics.equals(eventful.metrics)


def test_resumed_from_before_an_event_it_happens_again(eventful, tmp_path):
    with pytest.raises(RunInterrupted) as caught:
        interp.train(eventful.config, root=tmp_path, device="cpu", observers=[Interrupts(30)])
    folder = caught.value.folder
    assert len(interp.load(folder).events) == len(eventful.events)
    for state in (folder / "state").glob("*"):
        if int(state.stem) > 0:
            state.unlink()
    resumed = interp.resume(folder)
    assert resumed.events == eventful.events
    assert_same_weights(resumed, eventful, range(41))


def test_events_of_before_a_resume_stay_known_until_they_happen_again(eventful, tmp_path):
    """Killed once more before they do, the run still holds checkpoints that only they explain."""
    with pytest.raises(RunInterrupted) as caught:
        interp.train(eventful.config, root=tmp_path, device="cpu", observers=[Interrupts(30)])
    folder = caught.value.folder
    for state in (folder / "state").glob("*"):
        if int(state.stem) > 0:
            state.unlink()
    with pytest.raises(RunInterrupted):
        interp.resume(folder, observers=[Interrupts(4)])
    part = interp.load(folder)
    assert part.events == eventful.events
    assert interp.replay(part, 5, 28).run["replay"]["proven"] == list(range(5, 29))


@pytest.mark.parametrize(
    "change",
    ["grokfast=ma, interventions.grokfast_window=20", "grokfast_window=20", "grokfast=ema, interventions.norm=1.5"],
)
def test_another_mean_of_gradients_begins_anew(change):
    """Of a mean or a window that was never filled none of the old count is true."""
    kind = "ema" if change.startswith("grokfast=ma") else "ma"
    config = RunConfig().replace(
        {
            "task.p": 5, "model.d_model": 8, "model.d_mlp": 8, "interventions.grokfast": kind,
            "interventions.grokfast_window": 30, "events": (f"step 12: interventions.{change}",),
        }
    )  # fmt: skip
    session = TrainState(config, torch.device("cpu"))
    for step in range(13):
        if session.apply_events(step):
            (grokfast,) = [one for one in session.interventions if isinstance(one, Grokfast)]
            assert int(grokfast.state["grokfast/seen"]) == 0
        update = TrainingStep(session)
        update(step)
    assert int(grokfast.state["grokfast/seen"]) == 1


@pytest.mark.parametrize(("start", "stop"), [(3, 9), (18, 30), (33, 40)])
def test_a_replay_meets_the_events_of_its_run(eventful, tmp_path, start, stop):
    """It tests at other steps than the run did, and still changes when the run changed."""
    run = shutil.copytree(eventful.folder, tmp_path / "run")
    zoom = interp.replay(interp.load(run), start, stop)
    assert zoom.run["replay"]["proven"] == list(range(start, stop + 1))
    assert zoom.events == [event for event in eventful.events if event[0] <= stop]


def test_runs_without_events_say_nothing_of_them(toy_run):
    assert "events" not in toy_run.run
    assert toy_run.events == []
