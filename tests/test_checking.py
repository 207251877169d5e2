"""Updates made again from stored full states: equal where nothing is wrong, and told where something is."""

import shutil

import pytest

import interp
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.store.segments import SealedFile, commit_arrays
from interp.training import checking, verify_updates
from tests.observers import Changes


def test_a_sound_run_follows_from_its_full_states(toy_run):
    report = verify_updates(toy_run, 9)
    assert report.stretches == ((0, 4), (16, 20), (32, 36))
    assert str(report) == "12 of 40 updates (30%) made again, from 3 full states: 3 end bitwise equal"
    assert verify_updates(toy_run.folder, 1, seed=3).stretches in [(stretch,) for stretch in report.stretches]


def test_each_kind_of_run_follows(toy_config, tmp_path):
    """Full states with moments, minibatches and events between, and of a member of an ensemble."""
    config = toy_config.replace({"optimizer.batch_size": 7, "save.state": "every(8)"})
    config = config.replace({"events": ("step 12: optimizer.lr=1e-4", "step 18: optimizer.weight_decay=0.1")})
    assert verify_updates(interp.train(config, root=tmp_path, device="cpu"), 9).errors == ()
    many = interp.train_many([config.replace({"seed": seed}) for seed in (1, 2)], root=tmp_path, device="cpu")
    report = verify_updates(many[1], 9)
    assert (len(report.stretches), report.errors, report.warnings) == (5, (), ())


def test_a_weight_that_changed_between_checkpoints_is_told(toy_config, tmp_path, monkeypatch):
    traj = interp.train(toy_config, root=tmp_path, device="cpu", observers=[Changes(17, 1e-6)])
    assert traj.verify().ok  # every byte is as it was written
    report = verify_updates(traj, 9)
    assert len(report.errors) == 1
    assert "step 20 does not follow from the full state at step 16" in report.errors[0]
    now = checking.provenance
    monkeypatch.setattr(checking, "provenance", lambda place: {**now(place), "threads": 99})
    elsewhere = verify_updates(traj, 9)
    assert elsewhere.errors == ()
    assert "others than then (threads 99 instead of" in elsewhere.warnings[0]


def test_moments_that_do_not_belong_to_the_weights_are_told(toy_run, tmp_path):
    traj = interp.load(shutil.copytree(toy_run.folder, tmp_path / "run"))
    path = traj.folder / "state" / "00000016.safetensors"
    file, arrays = SealedFile(path), traj.full_state(16)
    moment = next(name for name in arrays if name.startswith("optimizer/exp_avg/"))
    arrays[moment] = arrays[moment] * 1.5
    path.unlink()
    extra = {name: file.fields[name] for name in ("run", "steps", "metadata", "follows")}
    commit_arrays(path, arrays, 1, extra, fsync=False)
    report = verify_updates(traj, 9)
    assert ["from the full state at step 16" in error for error in report.errors] == [True]
    assert moment.removeprefix("optimizer/exp_avg/") in report.errors[0]


def test_damage_at_the_end_of_a_stretch_is_told(toy_run, tmp_path):
    traj = interp.load(shutil.copytree(toy_run.folder, tmp_path / "run"))
    for path in (traj.folder / "trajectory").iterdir():
        data = path.read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        path.write_bytes(data[:begin] + bytes(byte ^ 1 for byte in data[begin:]))
    report = verify_updates(traj, 9)
    assert ["does not match its digest" in error for error in report.errors] == [True] * 3


def test_what_cannot_be_made_again_is_refused(toy_run, tmp_path):
    with pytest.raises(InvalidArgumentError, match="`count`"):
        verify_updates(toy_run, 0)
    traj = interp.load(shutil.copytree(toy_run.folder, tmp_path / "run"))
    for step in traj.full_state_steps[:-1]:
        (traj.folder / "state" / f"{step:08d}.safetensors").unlink()
    with pytest.raises(NotAvailableError, match="holds no full state with a stored step after it"):
        verify_updates(traj, 1)
