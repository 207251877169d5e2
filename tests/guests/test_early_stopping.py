"""A user's own observer in train, resume, replay and train_many."""

import csv

import pytest

import interp
from tests.guests.early_stopping import EarlyStopping


@pytest.fixture(scope="module")
def config(toy_config):
    return toy_config.replace({"log.test": "every(4)"})


def logged(folder):
    with open(folder / "early_stopping.csv", encoding="utf-8", newline="") as file:
        return [(int(step), float(accuracy), int(streak)) for step, accuracy, streak in csv.reader(file)]


def test_the_run_ends_early_and_goes_on_as_if_it_had_not(config, tmp_path):
    whole = interp.train(config, root=tmp_path / "whole", device="cpu")
    part = interp.train(config, root=tmp_path / "part", device="cpu", observers=[EarlyStopping(0.0, hold=3)])
    assert not part.complete
    assert [streak for _, _, streak in logged(part.folder)] == [1, 2, 3]
    assert part.full_state_steps[-1] < 40
    accuracy = whole.metrics.test_accuracy
    assert all(value == float(accuracy.sel(step=step)) for step, value, _ in logged(part.folder))
    never = EarlyStopping(2.0)
    again = interp.resume(part.folder, observers=[never])
    assert again.complete
    assert again.fingerprints() == whole.fingerprints()
    assert again.metrics.equals(whole.metrics)
    steps = {step for step, _, _ in logged(part.folder)}
    assert steps == set(range(0, 41, 4))


def test_a_replay_has_a_log_of_its_own(config, tmp_path):
    traj = interp.train(config, root=tmp_path, device="cpu")
    zoom = interp.replay(traj, 18, 24, observers=[EarlyStopping(2.0)])
    assert [step for step, _, _ in logged(zoom.folder)] == list(range(18, 25))
    stopped = interp.replay(traj, 26, 32, observers=[EarlyStopping(0.0)])
    assert not stopped.complete
    assert interp.replay(traj, 26, 32).complete


def test_runs_trained_together_end_together(config, tmp_path):
    configs = [config, config.replace({"seed": 1}), config.replace({"seed": 2})]
    parts = interp.train_many(configs, root=tmp_path, device="cpu", observers=[EarlyStopping(0.0, hold=2)])
    assert len({part.full_state_steps[-1] for part in parts}) == 1
    assert not any(part.complete for part in parts)
    assert [len(logged(part.folder)) >= 2 for part in parts] == [True, True, True]
    assert all(run.complete for run in interp.train_many(configs, root=tmp_path, device="cpu"))
