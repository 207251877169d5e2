"""Files belong to their run and step: a file renamed, copied from elsewhere or lost is noticed, or computed again."""

import json
import os
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import interp
from interp.errors import CorruptRunError, DamagedRunWarning, NotAvailableError, ReproducibilityWarning
from interp.store import RunReader, RunWriter
from interp.training.api import RunInterrupted
from interp.training.observers import Observer
from interp.trajectory import Trajectory
from tests.observers import Changes, Interrupts, Steps
from tests.older import as_format_1_0

SPARSE = {"save.weights": "steps(0, 7, 31)", "save.state": "every(10)", "steps": 40}
"""Changes of the toy config: full states at steps whose weights are not stored."""


def unfinished(config, root, at=35):
    """A run that was interrupted at the end of step `at`, with the states of the schedule alone."""
    with pytest.raises(RunInterrupted):
        interp.train(config, root=root, device="cpu", observers=[Interrupts(at)])
    traj = interp.load(root / config.run_id)
    state(traj, traj.full_state_steps[-1]).unlink()
    return traj.refresh()


def state(traj, step):
    return traj.folder / "state" / f"{step:08d}.safetensors"


def last_segment(traj):
    return max((traj.folder / "trajectory").iterdir())


def assert_same(traj, whole):
    assert traj.complete
    assert traj.verify().ok
    assert traj.steps.tolist() == whole.steps.tolist()
    assert traj.fingerprints() == whole.fingerprints()
    assert traj.metrics.equals(whole.metrics)
    for step in whole.full_state_steps:
        ours, theirs = traj.full_state(step), whole.full_state(step)
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def whole(toy_config, tmp_path_factory):
    return interp.train(toy_config.replace(SPARSE), root=tmp_path_factory.mktemp("whole"), device="cpu")


@pytest.fixture
def other(whole, tmp_path):
    """The run of another seed."""
    return interp.train(whole.config.replace({"seed": 5}), root=tmp_path / "other", device="cpu")


SWAPS = {
    "of another seed": lambda run, other: shutil.copy(state(other, 30), state(run, 30)),
    "of another step": lambda run, other: shutil.copy(state(run, 20), state(run, 30)),
    "a segment": lambda run, other: shutil.copy(last_segment(run), state(run, 30)),
}


@pytest.mark.parametrize("swap", SWAPS)
def test_a_full_state_from_elsewhere_is_refused(whole, other, tmp_path, swap):
    traj = unfinished(whole.config, tmp_path)
    assert traj.full_state_steps[-1] == 30
    SWAPS[swap](traj, other)
    report = traj.verify()
    assert [state(traj, 30).name in error for error in report.errors] == [True]
    with pytest.raises(CorruptRunError, match=r"Remove .*00000030\.safetensors to continue from an earlier"):
        interp.resume(traj.folder)
    with pytest.raises(CorruptRunError, match=r"00000030\.safetensors"):
        interp.replay(traj, 30, 31)
    state(traj, 30).unlink()
    assert_same(interp.resume(traj.folder), whole)


@pytest.mark.parametrize("swap", ["of another seed", "of another step"])
def test_a_complete_run_with_a_full_state_from_elsewhere_is_not_ok(whole, other, tmp_path, swap):
    traj = interp.load(shutil.copytree(whole.folder, tmp_path / "run"))
    SWAPS[swap](traj, other)
    assert [state(traj, 30).name in error for error in traj.verify().errors] == [True]
    with pytest.raises(CorruptRunError, match=r"00000030\.safetensors"):
        interp.replay(traj, 30, 40)


def test_a_full_state_in_the_name_of_an_earlier_one_is_still_named_when_the_run_is_done(whole, tmp_path):
    """A later one that was renamed follows metrics that are dropped on resuming; it must not be dropped with them."""
    traj = unfinished(whole.config, tmp_path)
    os.replace(state(traj, 30), state(traj, 10))
    done = interp.resume(traj.folder, device="cpu")
    assert "00000010.safetensors holds step 30" in " ".join(done.verify().errors)


def test_segments_and_descriptions_from_elsewhere_are_noticed(whole, other, tmp_path):
    traj = interp.load(shutil.copytree(whole.folder, tmp_path / "run"))
    shutil.copy(other.folder / "run.json", traj.folder)
    assert not traj.refresh().verify().ok
    assert not len(traj.steps)
    shutil.copy(whole.folder / "run.json", traj.folder)
    first = min((traj.folder / "trajectory").iterdir())
    shutil.copy(other.folder / "trajectory" / first.name, first)
    assert "belongs to another run" in Trajectory(traj.folder).problems[0]


def drop_line(traj, number):
    path = traj.folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))


def drop_segments(traj, count):
    for path in sorted((traj.folder / "trajectory").iterdir())[-count:]:
        path.unlink()


LOSSES = {  # what an unfinished run loses, from which step it goes on, and whether a full state follows it
    "the last segment": (lambda run: drop_segments(run, 1), 30, False),
    "two segments": (lambda run: drop_segments(run, 2), 0, True),
    "all segments": (lambda run: shutil.rmtree(run.folder / "trajectory"), 0, True),
    "all metrics": (lambda run: (run.folder / "metrics.jsonl").unlink(), 0, True),
    "the last metrics": (lambda run: os.truncate(run.folder / "metrics.jsonl", 2500), 10, True),
    "metrics within": (lambda run: drop_line(run, 15), 10, True),
    "the full states": (lambda run: shutil.rmtree(run.folder / "state"), 0, False),
}


@pytest.mark.parametrize("old", [False, True], ids=["format 1.1", "format 1.0"])
@pytest.mark.parametrize(("lose", "start", "followed"), LOSSES.values(), ids=LOSSES)
def test_what_an_unfinished_run_has_lost_is_computed_again(whole, tmp_path, lose, start, followed, old):
    traj = unfinished(whole.config, tmp_path)
    if old:
        as_format_1_0(traj.folder)
    lose(traj)
    traj = Trajectory(traj.folder)
    assert traj.verify().ok == (not followed)
    seen = Steps()
    with pytest.warns(DamagedRunWarning, match=f"goes on from step {start} and") if followed else nullcontext():
        resumed = interp.resume(traj.folder, observers=[seen], unproven=old)
    assert seen.steps[0] == start
    assert_same(resumed, whole)


def test_under_other_conditions_a_run_does_not_go_back_unasked(whole, tmp_path):
    """The steps computed again might not come out equal, after its full states have been dropped for them."""
    traj = unfinished(whole.config, tmp_path)
    state(traj, 10).unlink()
    before = {path.name: path.read_bytes() for path in traj.folder.rglob("*") if path.is_file() and path.name != "LOCK"}
    with pytest.raises(NotAvailableError, match=r"would go back to step 0, and under other conditions .threads"):
        interp.resume(traj.folder, threads=torch.get_num_threads() + 1)
    now = {path.name: path.read_bytes() for path in traj.folder.rglob("*") if path.is_file() and path.name != "LOCK"}
    assert now == before
    with pytest.warns(DamagedRunWarning, match="goes on from step 0"):
        assert_same(interp.resume(traj.folder), whole)


def test_a_loss_is_seen_as_soon_as_an_unfinished_run_is_opened(whole, tmp_path):
    for name in ("two segments", "all segments", "all metrics", "the last metrics"):
        traj = unfinished(whole.config, tmp_path / name)
        LOSSES[name][0](traj)
        assert len(Trajectory(traj.folder).problems) == 1, name


def test_a_run_that_grows_while_it_is_verified_is_not_damaged(whole, tmp_path, monkeypatch):
    traj = unfinished(whole.config, tmp_path)
    checked = RunReader.verify
    with RunWriter.open(traj.folder) as writer:

        def verify(reader):
            report = checked(reader)
            writer.append(38, {name: whole.param(name).sel(31) for name in whole.names})
            writer.save_state(38, whole.full_state(30), {})
            return report

        monkeypatch.setattr(RunReader, "verify", verify)
        assert traj.verify().errors == ()


def test_a_gap_within_is_refused_until_all_that_follows_it_is_removed(whole, tmp_path):
    traj = unfinished(whole.config, tmp_path)
    _, second, third = sorted((traj.folder / "trajectory").iterdir())
    second.unlink()
    with pytest.raises(CorruptRunError, match="remove every segment from there on"):
        interp.resume(traj.folder)
    third.unlink()
    with pytest.warns(DamagedRunWarning, match="goes on from step 0"):
        assert_same(interp.resume(traj.folder), whole)


@pytest.mark.parametrize("name", ["weights", "metrics"])
def test_a_run_that_loses_files_while_it_is_trained_is_not_complete(toy_config, tmp_path, name):
    class Removes(Observer):
        def before_step(self, run, step):
            if step == 30:
                path = run.folder / ("metrics.jsonl" if name == "metrics" else "trajectory")
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                path.mkdir() if name == "weights" else path.touch()

    config = toy_config.replace(SPARSE)
    with pytest.raises(CorruptRunError, match=f"has lost its {name} of step 0 while it was trained"):
        interp.train(config, root=tmp_path, device="cpu", observers=[Removes()])
    assert not Trajectory(tmp_path / config.run_id).complete


def test_a_complete_run_is_judged_by_its_whole_schedule(whole, tmp_path):
    """A run that a version without this check completed in spite of a hole."""
    traj = interp.load(shutil.copytree(whole.folder, tmp_path / "run"))
    drop_line(traj, 15)
    as_format_1_0(traj.folder)
    lost = json.loads((whole.folder / "metrics.jsonl").read_bytes().splitlines()[15])["step"]
    assert f"but it lacks the metrics of step {lost}" in str(Trajectory(traj.folder).verify())


# --- full states of format 1.0, which name no run ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def sparser(toy_config, tmp_path_factory):
    """A run that stores no weights after its full state at step 10."""
    config = toy_config.replace({**SPARSE, "save.weights": "steps(0, 7)"})
    return interp.train(config, root=tmp_path_factory.mktemp("sparser"), device="cpu")


def test_an_older_full_state_that_nothing_proves_is_continued_on_request_alone(sparser, tmp_path):
    traj = unfinished(sparser.config, tmp_path)
    as_format_1_0(traj.folder)
    assert traj.refresh().verify().ok
    with pytest.raises(NotAvailableError, match=r"Nothing proves that the full state at step 30 .*`unproven=True`"):
        interp.resume(traj.folder)
    assert_same(interp.resume(traj.folder, unproven=True), sparser)


def test_an_older_full_state_that_nothing_proves_is_passed_over_for_an_earlier_one(toy_config, tmp_path):
    config = toy_config.replace({**SPARSE, "save.weights": "steps(0, 12)"})
    whole = interp.train(config, root=tmp_path / "whole", device="cpu")
    traj = unfinished(config, tmp_path)
    as_format_1_0(traj.folder)
    seen = Steps()
    with pytest.warns(DamagedRunWarning, match="state at step 30 .* goes on from step 10 and computes the rest again"):
        resumed = interp.resume(traj.folder, observers=[seen])
    assert seen.steps[0] == 10
    assert_same(resumed, whole)


def test_an_older_full_state_is_proven_by_checkpoints_at_its_step_or_later(whole, other, tmp_path):
    foreign = as_format_1_0(shutil.copytree(other.folder, tmp_path / "foreign"))
    traj = unfinished(whole.config, tmp_path / "later")
    as_format_1_0(traj.folder)
    shutil.copy(foreign / "state" / "00000030.safetensors", state(traj, 30))
    with pytest.raises(CorruptRunError, match="at step 31 is not what the repeated step gives"):
        interp.resume(traj.folder)
    config = whole.config.replace({"save.weights": "steps(0, 30)"})
    traj = unfinished(config, tmp_path / "same")
    as_format_1_0(traj.folder)
    shutil.copy(foreign / "state" / "00000030.safetensors", state(traj, 30))
    with pytest.raises(CorruptRunError, match=r"at step 30 is not what .*Remove .*00000030\.safetensors"):
        interp.resume(traj.folder)


def test_an_older_full_state_is_not_dropped_under_other_conditions(toy_config, tmp_path):
    """The way back leads over checkpoints that may not come out equal there; then neither state could be continued."""
    traj = unfinished(toy_config.replace({**SPARSE, "save.weights": "steps(0, 12)"}), tmp_path)
    other = {**traj.run, "provenance": {**traj.run["provenance"], "torch": "2.0"}}
    as_format_1_0(traj.folder, run=other)
    before = traj.full_state_steps
    with pytest.raises(NotAvailableError, match=r"Under other conditions \(torch .* does not go back to step 10"):
        interp.resume(traj.folder)
    assert traj.refresh().full_state_steps == before
    with pytest.warns(ReproducibilityWarning):
        assert interp.resume(traj.folder, unproven=True).complete


@pytest.mark.parametrize("event", ["step 12: optimizer.lr=0.02", "train_loss<=1.99: optimizer.lr=0.02"])
def test_a_description_older_than_a_full_state_is_noticed(toy_config, tmp_path, event):
    class Copies(Observer):
        def before_step(self, run, step):
            if step == 0:
                shutil.copy(run.folder / "run.json", tmp_path)

    config = toy_config.replace({**SPARSE, "save.weights": "steps(0, 7)", "events": (event,)})
    with pytest.raises(RunInterrupted):
        interp.train(config, root=tmp_path, device="cpu", observers=[Copies(), Interrupts(35)])
    folder = tmp_path / config.run_id
    assert Trajectory(folder).events
    assert Trajectory(folder).verify().ok
    newer = shutil.copy(folder / "run.json", tmp_path / "newer.json")
    shutil.copy(tmp_path / "run.json", folder)
    assert "run.json does not list the event" in Trajectory(folder).verify().errors[0]
    with pytest.raises(CorruptRunError, match=r"run\.json does not list the event .* is it an older copy"):
        interp.resume(folder)
    shutil.copy(newer, folder / "run.json")
    assert interp.resume(folder).verify().ok


# --- replays ----------------------------------------------------------------------------------------------------------


def test_a_replay_that_could_prove_nothing_is_made_on_request_alone(whole):
    with pytest.raises(NotAvailableError, match=r"nothing of the replay could be proven; replay until step 31"):
        interp.replay(whole, 12, 15)
    assert not (whole.folder / "replay").exists()
    zoom = interp.replay(whole, 12, 15, unproven=True)
    assert zoom.run["replay"]["proven"] == []
    assert interp.replay(whole, 12, 31).run["replay"]["proven"] == [31]


def test_a_replay_is_compared_on_its_way_to_the_stretch(whole, tmp_path):
    traj = interp.load(shutil.copytree(whole.folder, tmp_path / "run", ignore=shutil.ignore_patterns("replay")))
    with pytest.raises(CorruptRunError, match="at step 7 is not what"):
        interp.replay(traj, 8, 9, observers=[Changes(3, 1e-6)])
    assert interp.replay(traj, 8, 9).run["replay"]["proven"] == []


def test_a_replay_of_another_run_or_stretch_is_not_taken_for_ones_own(own_run, tmp_path):
    other = interp.train(own_run.config.replace({"seed": 5}), root=tmp_path, device="cpu")
    wanted = interp.replay(own_run, 16, 20)
    assert own_run.verify().ok
    fingerprints, steps = wanted.fingerprints(), wanted.steps.tolist()
    shutil.rmtree(wanted.folder)
    shutil.copytree(interp.replay(other, 16, 20).folder, wanted.folder)
    assert "is a replay of another run" in own_run.verify().errors[0]
    assert interp.replay(own_run, 16, 20).fingerprints() == fingerprints
    shutil.rmtree(wanted.folder)
    interp.replay(own_run, 20, 24).folder.rename(wanted.folder)
    assert interp.replay(own_run, 16, 20).steps.tolist() == steps
    assert own_run.verify().ok


def test_a_replay_that_was_killed_before_it_began_is_no_damage(own_run):
    (own_run.folder / "replay" / "00000020-00000024-every1" / "trajectory").mkdir(parents=True)
    (own_run.folder / "replay" / ".DS_Store").touch()
    assert own_run.verify().ok
    zoom = interp.replay(own_run, 20, 24)
    (zoom.folder / "run.json").unlink()
    assert [zoom.folder.name in error for error in own_run.verify().errors] == [True]
