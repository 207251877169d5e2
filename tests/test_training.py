"""Train, resume, replay: what is stored belongs to the step it says, and everything can be had again bit for bit."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from interp.config import Muon, Recurrent, RunConfig, Symbolic
from interp.errors import (
    CorruptRunError,
    DamagedRunWarning,
    DivergedError,
    InvalidArgumentError,
    NotAvailableError,
    RunExistsError,
    UnknownNameError,
)
from interp.tasks.objective import answer_loss
from interp.training import api as training
from interp.training.api import RunInterrupted
from interp.training.environment import _revision as revision_of
from interp.training.observers import Observer
from interp.training.state import TrainState
from interp.training.step import TrainingStep
from tests.host_sync import NoHostSync
from tests.observers import Changes, Forbids, Interrupts

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def weights(traj):
    return {name: np.asarray(traj.param(name)) for name in traj.names}


def assert_same_weights(a, b):
    assert a.steps.tolist() == b.steps.tolist()
    for name, values in weights(a).items():
        assert values.tobytes() == weights(b)[name].tobytes(), name


def test_metrics_belong_to_the_weights_of_their_step(toy_run):
    task = toy_run.task
    metrics = toy_run.metrics
    for step in (0, 8, 40):
        logits = toy_run.model(step)(task.tokens)[:, -1].detach()
        for split, mask in (("train", task.train), ("test", task.test)):
            loss = torch.nn.functional.cross_entropy(logits[mask].double(), task.labels[mask])
            accuracy = (logits[mask].argmax(1) == task.labels[mask]).double().mean()
            assert float(metrics[f"{split}_loss"].sel(step=step)) == pytest.approx(float(loss), rel=1e-5)
            assert float(metrics[f"{split}_accuracy"].sel(step=step)) == pytest.approx(float(accuracy))


def test_schedules_are_kept(toy_run):
    assert toy_run.steps.tolist() == list(range(0, 41, 4))
    assert toy_run.full_state_steps == [0, 16, 32, 40]
    tested = toy_run.metrics["test_loss"].dropna("step").step.values
    assert tested.tolist() == list(range(0, 41, 2))
    assert toy_run.metrics["train_loss"].notnull().all()
    assert toy_run.metrics.step.values.tolist() == list(range(41))


def test_full_states_do_not_wait_for_a_checkpoint(toy_config, toy_run, tmp_path, monkeypatch):
    sparse = toy_config.replace({"save.weights": "steps(3)"})
    traj = interp.train(sparse, root=tmp_path / "schedule", device="cpu")
    assert traj.steps.tolist() == [3, 40]
    assert traj.full_state_steps == [0, 16, 32, 40]
    assert np.array_equal(traj.full_state(16)["model/embed.W_E"], toy_run.param("embed.W_E").sel(16))
    monkeypatch.setattr("interp.training.loop.SAFETY_SECONDS", 0.0)  # at every step; the last two of them stay
    traj = interp.train(sparse.replace({"save.state": "steps(10)"}), root=tmp_path / "safety", device="cpu")
    assert traj.steps.tolist() == [3, 40]
    assert traj.full_state_steps == [10, 39, 40]


def test_a_run_is_a_function_of_its_config(toy_run, toy_config, tmp_path):
    assert_same_weights(toy_run, interp.train(toy_config, root=tmp_path, device="cpu"))
    other = interp.train(toy_config.replace({"seed": 1}), root=tmp_path, device="cpu")
    assert not np.array_equal(other.param("embed.W_E")[-1], toy_run.param("embed.W_E")[-1])


def test_global_generators_are_left_alone(toy_config, tmp_path):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    interp.train(toy_config, root=tmp_path, device="cpu")
    here = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert torch.equal(here[0], torch.rand(3))
    assert np.array_equal(here[1], np.random.rand(3))  # noqa: NPY002


def test_the_loop_is_plain_adamw(toy_config, tmp_path):
    """The first updates equal those of torch's own AdamW on the plain forward with the float64 log-softmax."""
    config = toy_config.replace({"optimizer.warmup_steps": 3, "save.weights": "every(1)"})
    traj = interp.train(config, root=tmp_path, device="cpu")
    task, model = traj.task, traj.model(0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98))
    for step in range(10):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(step / 3, 1)
        logits = model(task.tokens[task.train])[:, -1]
        loss = torch.nn.functional.cross_entropy(logits.double(), task.labels[task.train])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.allclose(traj.state(10)[name], value, atol=3e-6), name


@pytest.mark.parametrize("batch_size", [None, 8])
def test_interrupted_and_resumed_is_the_same_run(toy_config, tmp_path, batch_size):
    config = toy_config.replace({"optimizer.batch_size": batch_size})
    whole = interp.train(config, root=tmp_path / "whole", device="cpu")
    with pytest.raises(RunInterrupted, match=r"Interrupted at step 22; everything is saved.*interp resume") as caught:
        interp.train(config, root=tmp_path / "parts", device="cpu", observers=[Interrupts(21)])
    assert caught.value.step == 22
    part = interp.load(caught.value.folder)
    assert not part.complete
    assert part.full_state_steps[-1] == 22
    resumed = interp.resume(part.folder)
    assert resumed.complete
    assert_same_weights(whole, resumed)
    assert whole.metrics.equals(resumed.metrics)


def test_killed_and_resumed_is_the_same_run(toy_config, toy_run, tmp_path):
    script = f"""
        import interp
        from interp.config import RunConfig
        from tests.observers import Interrupts
        interp.train(RunConfig.from_json('''{toy_config.to_json()}'''), root={str(tmp_path)!r}, device="cpu",
                     threads={torch.get_num_threads()}, observers=[Interrupts(27, 9)])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    resumed = interp.train(toy_config, root=tmp_path, device="cpu")  # the same call goes on with it
    assert_same_weights(toy_run, resumed)
    assert toy_run.metrics.equals(resumed.metrics)


def test_resume_refuses_what_it_cannot_reproduce(toy_config, tmp_path):
    with pytest.raises(RunInterrupted):
        interp.train(toy_config, root=tmp_path, device="cpu", observers=[Interrupts(30, signal.SIGINT)])
    folder = tmp_path / toy_config.run_id
    (folder / "state" / "00000031.safetensors").unlink()  # so that it starts at 16 and passes stored steps
    with pytest.raises(CorruptRunError, match=r"embed\.W_E.*step 20"):
        interp.resume(folder, observers=[Changes(18, 1e-6)])


def test_existing_runs(toy_config, toy_run):
    root = toy_run.folder.parent
    assert interp.train(toy_config, root=root, device="cpu").folder == toy_run.folder  # complete: nothing to do
    with pytest.raises(RunExistsError, match="already holds this run; resume it, load it, or overwrite"):
        interp.train(toy_config, root=root, existing="error")


def test_a_signal_in_the_last_step_ends_what_was_to_follow(toy_config, tmp_path):
    with pytest.raises(RunInterrupted, match=f"Interrupted at step {toy_config.steps}"):
        interp.train(toy_config, root=tmp_path, device="cpu", observers=[Interrupts(toy_config.steps - 1)])
    assert interp.load(tmp_path / toy_config.run_id).complete


def test_a_replay_that_was_interrupted_is_to_be_asked_for_again(toy_run, tmp_path):
    run = interp.load(shutil.copytree(toy_run.folder, tmp_path / "run"))
    with pytest.raises(RunInterrupted, match=r"Ask for the same replay again\.$"):
        interp.replay(run, 17, 30, observers=[Interrupts(20)])
    assert interp.replay(run, 17, 30).complete


def test_a_replay_of_the_folder_where_one_stands_names_it(toy_run, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(toy_run.folder, tmp_path / "here"))
    assert interp.replay(".", 17, 20).run["replay"]["of"] == "here"


@pytest.mark.parametrize(("function", "calls"), [("rmtree", 3), ("unlink", 2)])
def test_killed_while_it_was_deleted_a_run_is_made_anew(toy_run, tmp_path, monkeypatch, function, calls):
    """Whatever of it is gone, it is trained again from the start by the same call, or says that it is damaged."""
    owner = shutil if function == "rmtree" else Path
    remove = getattr(owner, function)
    for last in range(1, calls + 1):
        folder = shutil.copytree(toy_run.folder, tmp_path / str(last) / toy_run.folder.name)
        done = []

        def dies(*args, done=done, last=last, **how):
            done.append(args)
            if len(done) == last:
                raise KeyboardInterrupt
            remove(*args, **how)

        monkeypatch.setattr(owner, function, dies)
        with pytest.raises(KeyboardInterrupt):
            training._delete(folder)
        monkeypatch.undo()
        try:
            again = interp.train(toy_run.config, root=folder.parent, device="cpu")
        except CorruptRunError:
            again = interp.train(toy_run.config, root=folder.parent, device="cpu", existing="overwrite")
        assert_same_weights(toy_run, again)
        assert toy_run.metrics.equals(again.metrics)


def test_numbers_of_numpy_are_numbers(toy_run, tmp_path):
    """As the library itself hands them out; a fraction of a step is none."""
    run = interp.load(shutil.copytree(toy_run.folder, tmp_path / "run"))
    zoom = interp.replay(run, run.steps[4], run.steps[5], np.int64(2))
    assert zoom.steps.tolist() == [16, 18, 20]
    assert RunConfig().replace({"steps": np.int64(30), "optimizer.lr": np.float32(0.5)}) == RunConfig().replace(
        {"steps": 30, "optimizer.lr": 0.5}
    )
    with pytest.raises(InvalidArgumentError, match=r"`every` must be a whole number of steps, >= 1; got 1\.5"):
        interp.replay(run, 16, 20, 1.5)
    with pytest.raises(InvalidArgumentError, match=r"`stop` must be a whole number of steps, stored; got 20\.5"):
        interp.replay(run, 16, 20.5)


@pytest.mark.parametrize("left", ["state", "trajectory", "metrics.jsonl"])
def test_parts_of_a_run_are_not_gone_on_with(toy_config, toy_run, tmp_path, left):
    """Without its run.json nobody knows what they are; overwriting does away with them."""
    folder = tmp_path / toy_config.run_id
    folder.mkdir()
    copy = shutil.copytree if (toy_run.folder / left).is_dir() else shutil.copy
    copy(toy_run.folder / left, folder / left)
    with pytest.raises(RunExistsError, match="already holds a run, or parts of one; resume it, overwrite it or choose"):
        interp.train(toy_config, root=tmp_path, device="cpu")
    again = interp.train(toy_config, root=tmp_path, device="cpu", existing="overwrite")
    assert toy_run.metrics.equals(again.metrics)
    assert again.full_state_steps == toy_run.full_state_steps


def test_overwrite_starts_anew(toy_config, tmp_path):
    first = interp.train(toy_config, root=tmp_path, device="cpu")
    (first.folder / "stray").write_text("x")
    again = interp.train(toy_config, root=tmp_path, device="cpu", existing="overwrite")
    assert not (again.folder / "stray").exists()
    assert again.complete


@pytest.mark.parametrize(
    "wrong", [{"existing": "Overwrite"}, {"threads": 0}, {"device": "tpu"}], ids=lambda wrong: next(iter(wrong))
)
def test_a_mistake_deletes_nothing(toy_config, tmp_path, wrong):
    folder = interp.train(toy_config, root=tmp_path, device="cpu").folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InvalidArgumentError, match=f"`{next(iter(wrong))}` must be"):
        interp.train(toy_config, root=tmp_path, **{"device": "cpu", "existing": "overwrite"} | wrong)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_complete_run_that_has_lost_something_is_not_called_complete(toy_config, tmp_path):
    folder = interp.train(toy_config, root=tmp_path, device="cpu").folder
    segment = max((folder / "trajectory").iterdir())
    os.truncate(segment, segment.stat().st_size - 100)
    with pytest.warns(DamagedRunWarning):
        interp.load(folder)
    with pytest.raises(CorruptRunError, match=r"damaged.* Restore it; `interp verify .*` says what is lost"):
        interp.resume(folder)
    again = interp.train(toy_config, root=tmp_path, device="cpu", existing="overwrite")
    assert (again.complete, again.problems) == (True, ())


def test_a_replay_that_is_damaged_is_made_again(toy_config, tmp_path):
    traj = interp.train(toy_config, root=tmp_path, device="cpu")
    segment = max((interp.replay(traj, 18, 30).folder / "trajectory").iterdir())
    os.truncate(segment, segment.stat().st_size - 100)
    assert interp.replay(traj, 18, 30).steps.tolist() == list(range(18, 31))


def test_a_recipe_by_its_name_and_runs_that_are_none(tmp_path):
    with pytest.raises(UnknownNameError, match="no recipe `nandra`"):
        interp.train("nandra", root=tmp_path)
    with pytest.raises(InvalidArgumentError, match="`configs` must hold at least one run"):
        interp.train_many([], root=tmp_path)


def test_replay_is_proven_and_dense(toy_run):
    zoom = interp.replay(toy_run, start=18, stop=30)
    assert zoom.steps.tolist() == list(range(18, 31))
    assert zoom.run["replay"]["proven"] == [20, 24, 28]
    assert zoom.run["replay"]["from_state"] == 16
    assert zoom.complete
    for step in (20, 24, 28):
        for name in zoom.names:
            assert np.array_equal(zoom.param(name).sel(step=step), toy_run.param(name).sel(step=step))
    assert zoom.metrics["test_loss"].notnull().all()
    assert interp.replay(toy_run, start=18, stop=30).folder == zoom.folder
    assert interp.replay(toy_run, 0, 9, every=3).steps.tolist() == [0, 3, 6, 9]


def test_replay_notices_another_run(toy_run, toy_config, tmp_path):
    traj = interp.train(toy_config, root=tmp_path, device="cpu")
    with pytest.raises(CorruptRunError, match="largest difference"):
        interp.replay(traj, 18, 30, observers=[Changes(None, 1e-6, "unembed.W_U")])


def test_replay_refuses_bad_ranges(toy_run):
    with pytest.raises(InvalidArgumentError, match="0 <= start < stop <= 40"):
        interp.replay(toy_run, 30, 41)
    with pytest.raises(InvalidArgumentError, match="`every`"):
        interp.replay(toy_run, 0, 4, every=0)


def test_replay_of_a_replay_is_refused(toy_run):
    zoom = interp.replay(toy_run, start=18, stop=30)
    with pytest.raises(NotAvailableError, match="holds no full state"):
        interp.replay(zoom, 20, 25)


def test_divergence_stops_with_step_and_last_good_checkpoint(toy_config, tmp_path):
    with pytest.raises(DivergedError, match=r"At step 18 the loss is not a finite number; .* step 16") as e:
        interp.train(toy_config, root=tmp_path, device="cpu", observers=[Changes(17, torch.nan)])
    assert (e.value.step, e.value.last_good) == (18, 16)
    traj = interp.load(tmp_path / toy_config.run_id)
    assert (traj.diverged, traj.steps[-1]) == (18, 16)
    assert int(traj.metrics.step[-1]) == 17
    assert traj.metrics.attrs["diverged"] == 18


def test_a_diverged_run_ends_before_its_first_bad_number_and_is_not_trained_to_it_again(toy_config, tmp_path):
    config = toy_config.replace({"optimizer.lr": 1e30, "save.weights": "every(1)"})
    with pytest.raises(DivergedError, match="At step 1 the loss") as first:
        interp.train(config, root=tmp_path, device="cpu")
    traj = interp.load(tmp_path / config.run_id)
    assert (traj.folder / "trajectory" / "00000001-00000001.safetensors").exists()  # finite, but its loss is not
    assert traj.steps.tolist() == [0]
    assert len(traj.param("embed.W_E")) == len(np.asarray(traj.param("embed.W_E"))) == len(traj.fingerprints()) == 1
    assert traj.verify().ok
    assert "diverged at 1" in repr(traj)
    assert np.isfinite(interp.measure(traj).train_loss).all()
    for again in (
        lambda: interp.resume(traj.folder, observers=[Forbids()]),
        lambda: interp.train(config, root=tmp_path, device="cpu", observers=[Forbids()]),
    ):
        with pytest.raises(DivergedError) as second:
            again()
        assert str(second.value) == str(first.value)
        assert (second.value.step, second.value.last_good) == (1, 0)


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("recipe", ["kitouni-circle", "simple-grokking"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_step_never_waits_for_the_device(recipe, batch_size, precision, as_on_cuda):
    config = interp.recipes.get(recipe).replace(
        {"task.p": 7, "optimizer.batch_size": batch_size, "optimizer.loss_precision": precision}
    )
    session = TrainState(config, CPU)
    update = TrainingStep(session)
    with NoHostSync():
        for step in range(3):
            update(step)
        session.evaluate("test")


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_recurrent_model_reads_the_answer_and_closes_it(cell):
    """What it says at the last two positions is that of the plain pass; dropout acts on both."""
    task = Symbolic(p=5, closing=True)
    config = RunConfig(task=task, model=Recurrent(cell=cell, d_model=6, d_hidden=8, n_layers=2, dropout=0.5))
    session = TrainState(config, CPU)
    pairs, _ = session.train
    torch.testing.assert_close(session.outputs(pairs), session.model(pairs.tokens)[:, -2:], atol=1e-6, rtol=1e-5)
    nothing = session.outputs(dataclasses.replace(pairs, dropout=torch.zeros(len(pairs.tokens), 8)))
    torch.testing.assert_close(nothing, session.model.unembed.b_U.expand_as(nothing))


def test_dropout_is_there_in_an_update_and_not_in_an_evaluation():
    """One draw per (seed, step), the same whatever came before; a dropped update is not the plain one."""
    config = RunConfig().replace({"task.p": 7, "model": Recurrent(d_model=6, d_hidden=8, dropout=0.5)})
    sessions = [TrainState(config.replace({"model.dropout": share}), CPU) for share in (0.5, 0.5, 0.0)]
    assert [session.exact_pass for session in sessions] == [False, False, True]
    assert torch.equal(sessions[0].evaluate("train"), sessions[2].evaluate("train"))
    updates = [TrainingStep(session) for session in sessions]
    measured = [update(3) for update in updates]
    assert torch.equal(measured[0], measured[1])
    assert not torch.equal(measured[0], measured[2])
    masks = [sessions[0].dropout_mask(step) for step in (3, 4, 3)]
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[1])


def test_no_intervention_waits_for_the_device(as_on_cuda):
    changes = {
        "interventions.update_noise": 0.1,
        "interventions.weight_noise": 0.1,
        "interventions.orthogonal_gradient": True,
        "interventions.norm": 1.0,
        "optimizer.loss": "stablemax",
    }
    config = interp.recipes.get("kitouni-circle").replace({"task.p": 7} | changes)
    for more in (
        {"interventions.grokfast": "ema", "optimizer.decay": "to_init"},
        {"interventions.grokfast": "ma", "interventions.grokfast_window": 2, "optimizer.decay": "jiggle"},
        {"optimizer": Muon()},
    ):
        session = TrainState(config.replace(more), CPU)
        update = TrainingStep(session)
        with NoHostSync():
            for step in range(3):
                update(step)


def test_the_sync_guard_can_fail():
    with pytest.raises(AssertionError, match="local_scalar_dense"), NoHostSync():
        torch.ones(1).sum().item()


def test_put_back_restores_weights_and_moments_in_place(toy_config):
    """What follows the warm-up of a CUDA graph: everything as before, in the same memory."""
    session = TrainState(toy_config, CPU)
    before = {name: value.copy() for name, value in session.weights().items()}
    addresses = [parameter.data_ptr() for parameter in session.model.parameters()]
    update = TrainingStep(session)
    for _ in range(3):
        update(0)
    session.put_back(before, {})
    assert addresses == [parameter.data_ptr() for parameter in session.model.parameters()]
    fresh = TrainState(toy_config, CPU)
    for step in range(4):
        update(step)
        if step == 0:
            fresh_update = TrainingStep(fresh)
        fresh_update(step)
    for name, value in session.weights().items():
        assert np.array_equal(value, fresh.weights()[name]), name


def test_minibatches_are_epochs_and_a_function_of_the_step(toy_config):
    session = TrainState(toy_config.replace({"optimizer.batch_size": 8}), CPU)
    n = len(session.train[1])  # 29 pairs: three batches of 8, five pairs sit out
    epoch = torch.cat([session.batch_indices(step) for step in range(n // 8)])
    assert len(epoch.unique()) == 8 * (n // 8)
    later = session.batch_indices(n // 8).clone()
    session.batch_indices(0)
    assert torch.equal(later, session.batch_indices(n // 8))


def test_minibatch_runs_report_the_whole_training_set(toy_config, tmp_path):
    traj = interp.train(toy_config.replace({"optimizer.batch_size": 8}), root=tmp_path, device="cpu")
    assert traj.metrics["batch_loss"].notnull().sum() == 40
    logits = traj.model(8)(traj.task.tokens)[:, -1].detach()
    loss, _ = answer_loss(logits[traj.task.train], traj.task.labels[traj.task.train])
    assert float(traj.metrics["train_loss"].sel(step=8)) == pytest.approx(float(loss), rel=1e-5)


def test_a_growing_run_can_be_read(toy_config, tmp_path):
    """At every full state all checkpoints until then are on disk, for whoever loads the run meanwhile."""
    seen = []

    class Reads(Observer):
        def on_state(self, run, step, arrays):
            traj = seen[-1] if seen else interp.load(run.folder)
            assert traj.refresh() is traj
            seen.append(traj)
            steps.append((step, traj.steps.tolist()))
            assert np.isfinite(traj.param("embed.W_E")[-1]).all()

    steps = []
    with pytest.raises(RunInterrupted) as caught:
        interp.train(toy_config, root=tmp_path, device="cpu", observers=[Reads(), Interrupts(33)])
    assert steps == [(step, list(range(0, step + 1, 4))) for step in (0, 16, 32, 34)]
    folder = caught.value.folder
    assert not interp.load(folder).complete
    assert interp.load(folder).full_state_steps == [0, 16, 32, 34]  # and it left a state to resume from


def test_provenance_and_run_file(toy_run):
    run = json.loads((toy_run.folder / "run.json").read_text())
    assert run["config"] == toy_run.config.to_dict()
    assert {"torch", "interp", "python", "device", "threads", "started"} <= toy_run.provenance.keys()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_a_run_knows_the_revision_that_trained_it(toy_run):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    revision = toy_run.provenance["revision"].removesuffix("-dirty")
    assert commit.startswith(revision.rpartition("-g")[2])


def test_the_revision_is_read_without_touching_the_checkout(tmp_path):
    """Another git that works there at the moment would else find its index locked."""

    def git(*words):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", *words]
        return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()

    assert revision_of(tmp_path) is None
    git("init", "-q")
    (tmp_path / "file").write_text("one", encoding="utf-8")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    os.utime(tmp_path / "file", (1, 1))  # the index no longer knows the file, and git would refresh it
    before = (tmp_path / ".git" / "index").read_bytes()
    commit = git("rev-parse", "HEAD")
    assert revision_of(tmp_path) == commit[:12]
    assert (tmp_path / ".git" / "index").read_bytes() == before
    (tmp_path / "untracked").touch()
    assert revision_of(tmp_path) == commit[:12]
    (tmp_path / "file").write_text("two", encoding="utf-8")
    assert revision_of(tmp_path) == f"{commit[:12]}-dirty"


def test_dense_budget_is_kept(toy_config, tmp_path):
    size = TrainState(toy_config, CPU).bytes_per_checkpoint
    traj = interp.train(toy_config.replace({"save.weights": f"dense({11 * size})"}), root=tmp_path, device="cpu")
    assert traj.steps.tolist() == list(range(0, 41, 4))


def test_the_published_initial_weights(tmp_path):
    """simple-grokking's script: one stream, first the shuffle, then embedding and linear layers (ANCHORS 2.4)."""
    config = interp.recipes.get("simple-grokking")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        order = torch.randperm(53 * 53)
        layers = torch.nn.Embedding(53, 128), torch.nn.Linear(256, 128), torch.nn.Linear(128, 53)
    session = TrainState(config, CPU)
    state = session.model.state_dict()
    assert torch.equal(state["embed.W_E"], layers[0].weight)
    assert torch.equal(state["blocks.0.mlp.W_in"], layers[1].weight.T)
    assert torch.equal(state["unembed.b_U"], layers[2].bias)
    assert sorted(order[: int(0.6 * 2809)].tolist()) == session.task.train.nonzero().squeeze(1).tolist()
