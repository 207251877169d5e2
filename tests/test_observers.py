"""Observers see all of a run and change nothing of it; what goes wrong in one ends the run, with everything stored."""

import numpy as np
import pytest

import interp
from interp.config import FeedForward, Modular, RunConfig
from interp.errors import DivergedError, InvalidArgumentError, ObserverError
from interp.training import Observer, RunInterrupted, StopTraining
from interp.training.observers import HOOKS
from tests.observers import Changes, Interrupts

EVENT = "step 17: optimizer.weight_decay=0.5"


class Diary(Observer):
    """Every call: run, hook, step."""

    def __init__(self):
        self.calls, self.ends = [], {}

    def of(self, hook, folder=None):
        return [step for name, what, step in self.calls if what == hook and folder in (None, name)]

    def before_step(self, run, step):
        self.calls.append((run.folder, "before_step", step))

    def after_step(self, run, step, values):
        self.calls.append((run.folder, "after_step", step))

    def on_metrics(self, run, step, metrics):
        self.calls.append((run.folder, "on_metrics", step))

    def on_save(self, run, step, weights):
        self.calls.append((run.folder, "on_save", step))

    def on_state(self, run, step, arrays):
        self.calls.append((run.folder, "on_state", step))

    def on_event(self, run, step, event):
        self.calls.append((run.folder, "on_event", step))

    def on_end(self, run, step, error):
        self.calls.append((run.folder, "on_end", step))
        self.ends[run.folder] = error


class Fails(Observer):
    """Raises an error in one hook at one step; `calls` counts its hooks after that."""

    def __init__(self, hook, at, error=None):
        self.hook, self.at, self.error, self.failed, self.calls = hook, at, error or ValueError("no luck"), False, 0
        for name in HOOKS:
            setattr(self, name, lambda run, step, *rest, name=name: self._called(name, step))

    def _called(self, name, step):
        if name == self.hook and step == self.at and not self.failed:
            self.failed = True
            raise self.error
        self.calls += self.failed and name != "on_end"


for _hook in HOOKS:  # a class overrides what it has; the instance says what it does
    setattr(Fails, _hook, lambda self, run, step, *rest: None)


def assert_same_runs(one, other):
    assert one.fingerprints() == other.fingerprints()
    assert one.metrics.equals(other.metrics)


def test_every_hook_is_called_at_its_steps(toy_config, tmp_path):
    diary = Diary()
    traj = interp.train(toy_config.replace({"events": (EVENT,)}), root=tmp_path, device="cpu", observers=[diary])
    assert diary.of("before_step") == diary.of("after_step") == list(range(40))
    assert diary.of("on_save") == traj.steps.tolist()
    assert diary.of("on_state") == traj.full_state_steps
    assert diary.of("on_event") == [17]
    assert diary.of("on_end") == [40]
    assert diary.ends == {traj.folder: None}
    assert sorted(set(diary.of("on_metrics"))) == traj.metrics.step.values.tolist()
    around = [hook for _, hook, step in diary.calls if step == 16 and hook != "on_metrics"]
    assert around == ["on_save", "on_state", "before_step", "after_step"]


def test_a_busy_observer_changes_no_bit(toy_run, toy_config, tmp_path):
    seen = {}

    class Busy(Observer):
        def after_step(self, run, step, values):
            seen[step] = (values[0].item(), run.metrics(), run.evaluate("test"), run.weights(), run.current.steps)

        def on_save(self, run, step, weights):
            for array in weights.values():
                with pytest.raises(ValueError, match="read-only"):
                    array[...] = 0

    assert_same_runs(interp.train(toy_config, root=tmp_path, device="cpu", observers=[Busy()]), toy_run)
    assert list(seen) == list(range(40))
    losses = toy_run.metrics.train_loss
    assert all(loss == float(losses.sel(step=step)) for step, (loss, *_) in seen.items())
    assert all(latest["train_loss"] == loss for loss, latest, *_ in seen.values())
    for step in (1, 3, 39):  # the weights after the update are those of the next step
        assert seen[step][2]["test_loss"] == float(toy_run.metrics.test_loss.sel(step=step + 1))
        assert not any(array.flags.writeable for array in seen[step][3].values())


def test_resumed_an_observer_sees_the_rest(toy_run, toy_config, tmp_path):
    first, second = Diary(), Diary()
    with pytest.raises(RunInterrupted) as caught:
        interp.train(toy_config, root=tmp_path, device="cpu", observers=[Interrupts(21), first])
    assert isinstance(first.ends[caught.value.folder], RunInterrupted)
    assert first.of("on_end") == [22]
    traj = interp.resume(caught.value.folder, observers=[second])
    assert first.of("before_step") + second.of("before_step") == list(range(40))
    assert_same_runs(traj, toy_run)
    again = Diary()
    interp.train(toy_config, root=tmp_path, device="cpu", observers=[again])  # complete: nothing to see
    assert again.calls == []


def test_replayed_it_sees_the_steps_from_the_full_state_on(toy_config, tmp_path):
    traj = interp.train(toy_config, root=tmp_path, device="cpu")
    diary = Diary()
    zoom = interp.replay(traj, 18, 30, 2, observers=[diary])
    assert diary.of("before_step", zoom.folder) == list(range(16, 30))
    assert diary.of("on_save", zoom.folder) == list(range(18, 31, 2))
    assert diary.of("on_end") == [30]
    assert zoom.run["replay"]["proven"] == [20, 24, 28]


@pytest.fixture
def configs():
    task = Modular(p=11, train_fraction=0.6, encoding="operands")
    config = RunConfig(task=task, model=FeedForward(d_model=8, d_hidden=(16,)), steps=20)
    return [config.replace({"seed": seed, "task.seed": seed, "save.state": "every(8)"}) for seed in range(3)]


def test_runs_trained_together_are_each_seen(configs, tmp_path):
    plain = interp.train_many(configs, root=tmp_path / "plain", device="cpu")
    diary = Diary()
    seen = interp.train_many(configs, root=tmp_path / "seen", device="cpu", observers=[diary])
    for one, other in zip(plain, seen, strict=True):
        assert_same_runs(one, other)
        assert diary.of("before_step", other.folder) == list(range(20))
        assert diary.of("on_end", other.folder) == [20]
    diary = Diary()
    zoom = interp.replay(seen[1], 10, 14, observers=[diary])
    assert {folder for folder, _, _ in diary.calls} == {zoom.folder}


def test_of_one_that_diverges_the_end_is_told_at_once(configs, tmp_path):
    diary, poison = Diary(), Changes(9, np.nan, run_id=configs[1].run_id)
    with pytest.raises(DivergedError):
        interp.train_many(configs, root=tmp_path, device="cpu", observers=[poison, diary])
    folders = [tmp_path / config.run_id for config in configs]
    assert [diary.of("on_end", folder) for folder in folders] == [[20], [10], [20]]
    assert [type(diary.ends[folder]) for folder in folders] == [type(None), DivergedError, type(None)]
    assert max(diary.of("before_step", folders[1])) < 19
    assert [interp.load(folder).complete for folder in folders] == [True, False, True]


@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_ends_the_run_with_everything_stored(toy_config, tmp_path, hook):
    config = toy_config.replace({"events": ("step 16: optimizer.weight_decay=0.5",)})
    whole = interp.train(config, root=tmp_path / "whole", device="cpu")
    fails, diary = Fails(hook, 40 if hook == "on_end" else 16), Diary()
    with pytest.raises(ObserverError, match=rf"`Fails\.{hook}` raised ValueError at step \d+: no luck\. .*") as caught:
        interp.train(config, root=tmp_path / "part", device="cpu", observers=[fails, diary])
    assert isinstance(caught.value.__cause__, ValueError)
    assert fails.calls == 0
    part = interp.load(tmp_path / "part" / config.run_id)
    assert part.full_state_steps[-1] == caught.value.step
    assert diary.of("on_end") == [caught.value.step]
    assert part.complete == (hook == "on_end")
    if hook != "on_end":
        assert part.full_state_steps[-1] in (16, 17, 18)
        assert isinstance(diary.ends[part.folder], ObserverError)
        assert f"interp resume {part.folder}" in str(caught.value)
    assert_same_runs(interp.resume(part.folder), whole)


def test_training_stopped_on_purpose_is_no_error(toy_run, toy_config, tmp_path):
    stops, diary = Fails("after_step", 21, StopTraining("enough")), Diary()
    part = interp.train(toy_config, root=tmp_path, device="cpu", observers=[stops, diary])
    assert not part.complete
    assert part.full_state_steps[-1] == 22
    assert isinstance(diary.ends[part.folder], StopTraining)
    assert_same_runs(interp.train(toy_config, root=tmp_path, device="cpu"), toy_run)


def test_an_error_goes_before_a_stop_and_a_signal_before_both(toy_config, tmp_path):
    stops, fails = Fails("before_step", 5, StopTraining("enough")), Fails("after_step", 5)
    with pytest.raises(ObserverError, match=r"Fails\.after_step"):
        interp.train(toy_config, root=tmp_path, device="cpu", observers=[stops, fails])
    stops, fails = Fails("before_step", 9, StopTraining("enough")), Fails("after_step", 9)
    with pytest.raises(RunInterrupted):
        interp.resume(tmp_path / toy_config.run_id, observers=[stops, fails, Interrupts(9)])


def test_a_replay_that_an_observer_ended_is_to_be_asked_for_again(toy_config, tmp_path):
    traj = interp.train(toy_config, root=tmp_path, device="cpu")
    with pytest.raises(ObserverError, match=r"Ask for the same replay again\.$"):
        interp.replay(traj, 18, 30, observers=[Fails("before_step", 20)])
    assert interp.replay(traj, 18, 30).complete


class Misspelt(Observer):
    def afterstep(self, run, step, values):
        pass


class MisspeltMetrics(Diary):
    def on_metric(self, run, step, metrics):
        pass


@pytest.mark.parametrize(
    ("observers", "message"),
    [
        (Diary(), "`observers` must be a list of observers"),
        ("diary", "`observers` must be a list of observers"),
        ([Diary], r"not classes; got the class Diary\. Write Diary\(\)\."),
        ([print], "objects of type interp.Observer; got <built-in"),
        ([Diary(), Misspelt()], r"`Misspelt\.afterstep` is no hook.*Did you mean `after_step`"),
        ([MisspeltMetrics()], r"`MisspeltMetrics\.on_metric` is no hook.*Did you mean `on_metrics`"),
    ],
)
def test_what_is_no_observer_is_refused_before_anything_starts(toy_run, toy_config, tmp_path, observers, message):
    for start in (
        lambda: interp.train(toy_config, root=tmp_path, observers=observers),
        lambda: interp.train_many([toy_config], root=tmp_path, observers=observers),
        lambda: interp.resume(toy_run.folder, observers=observers),
        lambda: interp.replay(toy_run, 0, 2, observers=observers),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            start()
    assert not list(tmp_path.iterdir())
