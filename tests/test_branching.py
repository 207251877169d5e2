"""Branches: they share the parent's bits up to the fork, go their own way from there, and are runs like any other."""

import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import interp
from interp.config import Branch, RunConfig
from interp.errors import (
    ConfigError,
    CorruptRunError,
    InvalidArgumentError,
    NotAvailableError,
    RunExistsError,
    StoreError,
)
from interp.store import RunWriter
from interp.training.api import RunInterrupted
from interp.training.origins import digest_of
from tests.observers import Interrupts

ROOT = Path(__file__).parent.parent
FREE = {"optimizer.weight_decay": 0}


def weights(traj, step):
    return {name: traj.param(name).sel(step) for name in traj.names}


def assert_same_weights(a, b, steps):
    assert len(steps)
    for step in steps:
        for name, value in weights(a, step).items():
            assert value.tobytes() == weights(b, step)[name].tobytes(), (step, name)


@pytest.fixture
def parent(toy_run, tmp_path):
    """A run of 40 steps with checkpoints at every fourth and full states at 0, 16, 32 and 40."""
    return interp.load(shutil.copytree(toy_run.folder, tmp_path / toy_run.folder.name))


# --- the bits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 16, 20, 21, 32])
def test_a_branch_without_changes_is_bitwise_its_parent(parent, step):
    same = interp.branch(parent, step)
    later = [known for known in parent.steps.tolist() if known >= step]
    assert same.complete
    assert same.steps.tolist() == sorted({step, *later})
    assert_same_weights(same, parent, later)
    assert same.full_state_steps == sorted({step, *(known for known in parent.full_state_steps if known >= step)})
    for name, array in parent.full_state(40).items():
        assert array.tobytes() == same.full_state(40)[name].tobytes(), name
    logged = parent.metrics.sel(step=slice(step, None))
    assert same.metrics.equals(logged)
    assert same.verify().ok


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer.batch_size": 8},
        {"interventions.grokfast": "ema", "interventions.update_noise": 0.01},
        {"interventions.norm": 1.5, "optimizer.decay": "to_init"},
        {"optimizer": interp.config.Muon()},
        {"optimizer": interp.config.SGD(momentum=0.9, warmup_steps=25)},
        {"optimizer.warmup_steps": 30, "optimizer.anneal_steps": 8},
        {
            "events": (
                "step 6: optimizer.weight_decay=0.3",
                "test_loss<=6: optimizer.lr=0.003",
                "epoch 25: interventions.grokfast=ema",
                "step 21: interventions.weight_noise=0.01",
                "step 30: optimizer.lr=0.0005",
            )
        },
    ],
    ids=["batches", "grokfast and noise", "initial weights", "Muon", "SGD", "schedules of the rate", "events"],
)
def test_whatever_an_update_does_goes_on_in_a_branch(toy_config, tmp_path, change):
    whole = interp.train(toy_config.replace(change), root=tmp_path, device="cpu")
    same = interp.branch(whole, 21)
    assert_same_weights(same, whole, [24, 28, 32, 36, 40])
    again = interp.branch(same, 30)
    assert_same_weights(again, whole, [32, 36, 40])


def test_a_branch_is_the_run_that_changes_at_the_fork(parent, toy_config, tmp_path):
    """The oracle is an event of a run that is trained from 0."""
    free = interp.branch(parent, 21, FREE, 60)
    event = {"events": ("step 21: optimizer.weight_decay=0",), "steps": 60}
    whole = interp.train(toy_config.replace(event), root=tmp_path / "whole", device="cpu")
    assert free.steps.tolist() == [21, *range(24, 61, 4)]
    assert_same_weights(free, whole, range(24, 61, 4))
    assert not np.array_equal(free.param("embed.W_E").sel(24), parent.param("embed.W_E").sel(24))


def test_what_is_in_force_at_the_fork_stays_and_what_has_happened_does_not_happen_again(toy_config, tmp_path):
    events = ("step 6: optimizer.weight_decay=0.25, optimizer.lr=0.003", "step 30: optimizer.lr=0.0005")
    whole = interp.train(toy_config.replace({"events": events}), root=tmp_path, device="cpu")
    free = interp.branch(whole, 16, FREE)
    assert (free.config.optimizer.weight_decay, free.config.optimizer.lr) == (0.0, 0.003)
    assert free.config.events == ("step 30: optimizer.lr=0.0005",)
    assert [step for step, _ in free.events] == [30]
    assert interp.branch(whole, 30).config.optimizer.lr == 0.0005


def test_fewer_pairs_and_other_batches(parent):
    few = interp.branch(parent, 16, {"task.train_fraction": 0.4})
    assert few.task.train.sum() < parent.task.train.sum()
    assert_same_weights(few, parent, [16])
    assert not np.array_equal(few.param("embed.W_E").sel(20), parent.param("embed.W_E").sel(20))
    small = {"optimizer.batch_size": 8}
    one, other = (interp.branch(parent, 16, {**small, "seed": seed}) for seed in (0, 1))
    assert not np.array_equal(one.param("embed.W_E").sel(20), other.param("embed.W_E").sel(20))
    moved = interp.branch(parent, 16, {"task.operation": "subtract", "task.seed": 3})
    assert not np.array_equal(moved.task.labels, parent.task.labels)


def test_a_member_of_an_ensemble_can_be_branched(toy_config, tmp_path):
    configs = [toy_config.replace({"seed": seed}) for seed in (0, 1)]
    _, second = interp.train_many(configs, root=tmp_path, device="cpu")
    for step in (16, 21):
        one = interp.branch(second, step, FREE)
        assert one.config.origin == Branch(run=second.config.run_id, step=step)
        assert "ensemble" not in one.run
    assert_same_weights(interp.branch(second, 16), second, [16])


# --- what it says of itself -------------------------------------------------------------------------------------------


def test_a_branch_names_parent_step_and_digest(parent):
    free = interp.branch(parent, 21, FREE)
    assert free.config.origin == Branch(run=parent.config.run_id, step=21)
    about = free.run["origin"]
    assert about["digest"] == digest_of(free.full_state(21))
    assert (about["from_state"], about["proven"]) == (16, [16, 20])
    assert about["changes"] == ["optimizer.weight_decay=0.0"]
    assert interp.branch(parent, 20, FREE).run["origin"]["proven"] == [16, 20]
    assert interp.branch(parent, 16, FREE).run["origin"]["digest"] == digest_of(parent.full_state(16))


def test_ids_are_unique_and_those_of_other_runs_stay(parent, toy_config):
    assert "origin" not in toy_config.to_dict()
    assert RunConfig.from_json(toy_config.to_json()) == toy_config
    runs = [
        interp.branch(parent, step, changes, steps)
        for step, changes, steps in ((16, {}, None), (20, {}, None), (16, FREE, None), (16, FREE, 44))
    ]
    assert len({run.config.run_id for run in runs} | {parent.config.run_id}) == 5
    for run in runs:
        assert run.folder.name == run.config.run_id
        assert RunConfig.from_json(run.config.to_json()) == run.config
    moved = interp.branch(runs[0], 20)
    assert moved.config.run_id not in {run.config.run_id for run in runs}


# --- it is a run like any other ---------------------------------------------------------------------------------------


def test_a_branch_is_replayed_and_branched_again_without_its_parent(parent, tmp_path):
    free = interp.branch(parent, 21, FREE)
    shutil.rmtree(parent.folder)
    zoom = interp.replay(free, 22, 30)
    assert zoom.run["replay"]["proven"] == [24, 28]
    again = interp.branch(free, 30)
    assert_same_weights(again, free, [32, 36, 40])
    assert again.config.origin == Branch(run=free.config.run_id, step=30)
    assert interp.training.verify_updates(free, 3).errors == ()


@pytest.mark.parametrize("at", [21, 22, 35])
def test_interrupted_and_resumed_it_is_the_same(parent, tmp_path, at):
    whole = interp.branch(parent, 21, FREE, root=tmp_path / "whole")
    with pytest.raises(RunInterrupted):
        interp.branch(parent, 21, FREE, observers=[Interrupts(at)])
    folder = parent.folder.parent / whole.config.run_id
    shutil.rmtree(parent.folder)
    resumed = interp.resume(folder)
    assert resumed.complete
    assert resumed.steps.tolist() == whole.steps.tolist()
    assert_same_weights(resumed, whole, whole.steps.tolist())
    assert resumed.metrics.equals(whole.metrics)


@pytest.mark.parametrize("at", [21, 27])
def test_killed_and_branched_again_it_is_the_same(parent, tmp_path, at):
    whole = interp.branch(parent, 21, FREE, root=tmp_path / "whole")
    script = f"""
        import interp
        from tests.observers import Interrupts
        interp.branch({str(parent.folder)!r}, 21, {{"optimizer.weight_decay": 0}}, observers=[Interrupts({at}, 9)])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    resumed = interp.branch(parent, 21, FREE)
    assert_same_weights(resumed, whole, whole.steps.tolist())
    assert resumed.metrics.equals(whole.metrics)


def begun(parent, folder):
    """A branch that was killed before its first full state was written."""
    with pytest.raises(RunInterrupted):
        interp.branch(parent, 21, FREE, observers=[Interrupts(21)])
    for part in ("state", "trajectory"):
        for file in (folder / part).glob("*"):
            file.unlink()
    (folder / "metrics.jsonl").unlink(missing_ok=True)


def test_killed_before_its_first_full_state_it_begins_anew_with_its_parent(parent, tmp_path):
    whole = interp.branch(parent, 21, FREE, root=tmp_path / "whole")
    folder = parent.folder.parent / whole.config.run_id
    begun(parent, folder)
    assert_same_weights(interp.resume(folder), whole, whole.steps.tolist())
    shutil.rmtree(folder)
    begun(parent, folder)
    away = shutil.move(parent.folder, tmp_path / "away")
    with pytest.raises(StoreError, match=r"begins with weights of .*, which is not beside it, and holds no full state"):
        interp.resume(folder)
    assert_same_weights(interp.branch(away, 21, FREE, root=folder.parent), whole, whole.steps.tolist())


def test_a_parent_that_was_trained_otherwise_meanwhile_is_noticed(parent, toy_config, tmp_path):
    whole = interp.branch(parent, 21, FREE, root=tmp_path / "whole")
    folder = parent.folder.parent / whole.config.run_id
    begun(parent, folder)
    shutil.rmtree(parent.folder)
    other = interp.train(toy_config.replace({"seed": 1}), root=tmp_path / "other", device="cpu")
    with interp.store.RunWriter.create(parent.folder, parent.run, fsync=False) as writer:
        for step in (16, 20):
            writer.append(step, weights(other, step))
            if step == 16:
                writer.save_state(step, other.full_state(step), {})
    with pytest.raises(CorruptRunError, match="holds other bits than when it began"):
        interp.resume(folder)


def test_train_begins_a_branch_by_its_config(parent, tmp_path):
    config = parent.config.replace({"origin": Branch(run=parent.config.run_id, step=21), **FREE})
    free = interp.train(config, root=parent.folder.parent, device="cpu")
    assert_same_weights(free, interp.branch(parent, 21, FREE, root=tmp_path / "b"), free.steps.tolist())
    with pytest.raises(StoreError, match="is not beside it"):
        interp.train(config, root=tmp_path / "empty")
    with pytest.raises(ConfigError, match="one by one"):
        interp.train_many([config, config.replace({"seed": 1})], root=parent.folder.parent)


def test_existing_branches(parent):
    free = interp.branch(parent, 16, FREE)
    stamp = (free.folder / "run.json").stat().st_mtime_ns
    assert interp.branch(parent, 16, FREE).folder == free.folder
    assert (free.folder / "run.json").stat().st_mtime_ns == stamp
    with pytest.raises(RunExistsError):
        interp.branch(parent, 16, FREE, existing="error")
    interp.branch(parent, 16, FREE, existing="overwrite")
    assert (free.folder / "run.json").stat().st_mtime_ns != stamp


def test_a_run_that_diverged_is_branched_before_that(toy_config, tmp_path):
    from interp.errors import DivergedError

    wild = toy_config.replace({"events": ("step 20: optimizer.lr=1e30",)})
    with pytest.raises(DivergedError):
        interp.train(wild, root=tmp_path, device="cpu")
    tame = interp.branch(tmp_path / wild.run_id, 18, {"events": ()})
    assert tame.complete


# --- the proof --------------------------------------------------------------------------------------------------------


def test_a_full_state_of_other_weights_is_refused(parent, toy_config, tmp_path):
    other = interp.train(toy_config.replace({"optimizer.lr": 0.002}), root=tmp_path / "other", device="cpu")
    fake = tmp_path / "fake" / parent.folder.name
    with interp.store.RunWriter.create(fake, parent.run, fsync=False) as writer:
        for step in (16, 20):
            writer.append(step, weights(parent, step))
            if step == 16:
                writer.save_state(step, other.full_state(step), {})
    for step in (16, 20):
        with pytest.raises(CorruptRunError, match=r"is not what .* stores"):
            interp.branch(fake, step)
    assert [path.name for path in fake.parent.iterdir()] == [fake.name]


def test_a_fork_that_nothing_proves_must_be_allowed(toy_config, tmp_path):
    sparse = interp.train(toy_config.replace({"save.weights": "steps(39)"}), root=tmp_path, device="cpu")
    with pytest.raises(NotAvailableError, match=r"stores no checkpoint from its full state at step 16 to step 20"):
        interp.branch(sparse, 20)
    assert interp.branch(sparse, 20, unproven=True).run["origin"]["proven"] == []
    assert interp.branch(sparse, 16).run["origin"]["proven"] == []  # the file itself names the run


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.d_mlp": 40}, "must have parameters of their names and shapes: `"),
        ({"task.p": 11}, "must have parameters of their names and shapes: `"),
        ({"optimizer": interp.config.SGD()}, "`optimizer` of a branch must go on with the moments of Adam"),
        ({"optimizer.weight_decai": 0}, "There is no field `optimizer.weight_decai` in AdamW."),
        ({"optimizer.lr": -1}, "`AdamW.lr` must be > 0; got -1.0."),
        ({"steps": 16}, "`RunConfig.steps` must be >= 17, beyond the fork; got 16."),
        (
            {"events": ("step 15: optimizer.lr=1",)},
            "`events` of a branch must lie at its step 16 or later; got `step 15",
        ),
        ({"seed": 1, "interventions.norm": 1}, "refer to the initial weights of the first parent"),
        ({"origin": None}, "`origin` of a branch is its parent and step"),
    ],
)
def test_what_a_branch_cannot_change(parent, changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        interp.branch(parent, 16, changes)
    assert "\n" not in str(caught.value)
    assert [path.name for path in parent.folder.parent.iterdir() if path.is_dir()] == [parent.folder.name]


def test_a_branch_of_another_seed_does_not_draw_the_initial_weights_of_its_parent(parent):
    other = interp.branch(parent, 16, {"seed": 1})
    with pytest.raises(ConfigError, match="refer to the initial weights"):
        interp.branch(other, 20, {"optimizer.decay": "to_init"})
    same = interp.branch(parent, 16)
    assert interp.branch(same, 20, {"optimizer.decay": "to_init"}).complete


@pytest.mark.parametrize("step", [-1, 41, 2.5, "16", None, True])
def test_a_step_that_the_run_has_not_made(parent, step):
    with pytest.raises(InvalidArgumentError, match=r"`step` must be a step of .*, 0 <= step <= 40; got "):
        interp.branch(parent, step)


def test_a_branch_does_not_reach_back_before_its_fork(parent):
    with pytest.raises(InvalidArgumentError, match="16 <= step <= 40; got 12"):
        interp.branch(interp.branch(parent, 16), 12)


def test_at_the_end_a_branch_needs_further_steps(parent):
    with pytest.raises(ConfigError, match=r"`steps` must be the last step of the branch, > 40"):
        interp.branch(parent, 40)
    assert interp.branch(parent, 40, steps=44).steps.tolist() == [40, 44]


def test_replays_are_not_branched(parent):
    zoom = interp.replay(parent, 17, 20)
    with pytest.raises(NotAvailableError, match="is a replay; branch the run that it replays"):
        interp.branch(zoom, 18)


@pytest.mark.parametrize("run", ["../x", "", ".hidden", "a/b"])
def test_an_origin_names_a_folder_beside_and_nothing_else(run):
    with pytest.raises(ConfigError, match=r"`Branch\.run` must be the id of a run"):
        Branch(run=run, step=0)


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command(parent, capsys):
    from interp.cli import main

    main(["branch", str(parent.folder), "--step", "21", "optimizer.weight-decay=0", "--steps", "48"])
    said = capsys.readouterr().out
    assert f"Branch:    of {parent.folder} at step 21, whose full state is computed again from step 16" in said
    assert "Proven:    bitwise equal to 2 of the parent's checkpoints, the last of step 20" in said
    assert interp.branch(parent, 21, FREE, 48).complete


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.weight_decay=0"], "`--step` must name the step of the fork"),
        (["--step", "16", "weight_decay"], "A change must be FIELD=VALUE"),
        (["--step", "16", "model.d_mlp=40"], "must have parameters of their names and shapes"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(parent, capsys, words, message):
    from interp.cli import main

    with pytest.raises(SystemExit) as end:
        main(["branch", str(parent.folder), *words])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.strip().count("\n") == 0


# --- weights of another run -------------------------------------------------------------------------------------------


def test_a_run_begins_with_the_weights_of_another_and_a_fresh_optimiser(parent, toy_config, tmp_path):
    """The oracle is torch's own AdamW from these weights."""
    import torch

    config = toy_config.replace({"save.weights": "every(1)", "steps": 8})
    traj = interp.train(config, root=tmp_path, device="cpu", init_from=(parent, 20))
    assert traj.steps.tolist() == list(range(9))
    for name in traj.names:
        assert traj.param(name).sel(0).tobytes() == parent.param(name).sel(20).tobytes()
    task, model = traj.task, parent.model(20).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98))
    for _ in range(8):
        logits = model(task.tokens[task.train])[:, -1]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.double(), task.labels[task.train]).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.allclose(traj.state(8)[name], value, atol=3e-6), name


def test_its_config_names_run_step_and_digest(parent, toy_config, tmp_path):
    last = interp.train(toy_config, root=parent.folder.parent, device="cpu", init_from=parent)
    origin = last.config.origin
    assert (origin.run, origin.step) == (parent.folder.name, 40)
    assert origin.digest == digest_of({f"model/{name}": value for name, value in weights(parent, 40).items()})
    assert last.run["origin"]["digest"] == origin.digest
    assert last.config.run_id != toy_config.run_id
    assert RunConfig.from_json(last.config.to_json()) == last.config
    again = interp.train(last.config, root=parent.folder.parent, device="cpu")  # by the config alone
    assert again.folder == last.folder
    elsewhere = interp.train(toy_config, root=tmp_path / "b", device="cpu", init_from=(parent.folder, 40))
    assert elsewhere.fingerprints() == last.fingerprints()


@pytest.mark.parametrize("change", [{}, {"optimizer.decay": "to_init", "interventions.norm": 1.0}])
@pytest.mark.parametrize("at", [0, 21])
def test_begun_with_weights_it_is_resumed_without_them(parent, toy_config, tmp_path, at, change):
    config = toy_config.replace({**change, "save.weights": "steps(12, 24)"})
    whole = interp.train(config, root=tmp_path / "whole", device="cpu", init_from=(parent, 16))
    assert whole.steps.tolist() == [0, 12, 24, 40]
    with pytest.raises(RunInterrupted):
        interp.train(config, root=tmp_path, device="cpu", init_from=(parent, 16), observers=[Interrupts(at)])
    shutil.rmtree(parent.folder)
    resumed = interp.resume(tmp_path / whole.config.run_id)
    assert_same_weights(resumed, whole, [0, 12, 24, 40])
    assert interp.replay(resumed, 10, 26).run["replay"]["proven"] == [12, 24]


@pytest.mark.parametrize("begin", ["weights", "branch"])
def test_killed_before_its_second_full_state_it_needs_no_other_run(parent, toy_config, tmp_path, begin):
    if begin == "weights":
        whole = interp.train(toy_config, root=tmp_path / "b", device="cpu", init_from=(parent, 16))
    else:
        whole = interp.branch(parent, 0, {"optimizer.weight_decay": 0}, root=tmp_path / "b")
    expected = whole.fingerprints()
    with RunWriter.open(whole.folder) as writer:
        writer.replace_run(writer.run)  # no longer complete
    for state in (whole.folder / "state").iterdir():
        if int(state.stem):
            state.unlink()
    shutil.rmtree(parent.folder)
    assert interp.resume(whole.folder).fingerprints() == expected


def test_initial_weights_of_such_a_run_are_those_it_began_with(parent, toy_config, tmp_path):
    def norm(traj, step):
        return np.sqrt(sum(float((traj.param(name).sel(step).astype(float) ** 2).sum()) for name in traj.names))

    config = toy_config.replace({"interventions.norm": 1.0, "steps": 4})
    held = interp.train(config, root=tmp_path, device="cpu", init_from=(parent, 40))
    assert norm(held, 4) == pytest.approx(norm(parent, 40), rel=1e-5)
    assert norm(held, 4) != pytest.approx(norm(parent, 0), rel=1e-3)
    with pytest.raises(ConfigError, match="refer to the initial weights"):
        interp.branch(held, 2)


def test_weights_that_do_not_fit_or_are_not_there(parent, toy_config, tmp_path):
    from interp.errors import UnknownNameError

    with pytest.raises(UnknownNameError, match=r"no checkpoint at step 17 in .*; the nearest are 16 and 20"):
        interp.train(toy_config, root=tmp_path / "b", init_from=(parent, 17))
    with pytest.raises(ConfigError, match=r"parameters of their names and shapes: `.*` is \[.*\] in the config"):
        interp.train(toy_config.replace({"model.d_mlp": 40}), root=tmp_path / "b", init_from=parent)
    with pytest.raises(InvalidArgumentError, match="begins as a branch of"):
        interp.train(interp.branch(parent, 16).config, root=tmp_path / "b", init_from=parent)
    assert not (tmp_path / "b").exists()


def test_other_weights_than_the_config_names(parent, toy_config, tmp_path):
    traj = interp.train(toy_config, root=tmp_path / "b", device="cpu", init_from=(parent, 16))
    moved = toy_config.replace(
        {"origin": interp.config.StoredWeights(run=parent.folder.name, step=16, digest="0" * 64)}
    )
    with pytest.raises(CorruptRunError, match=r"stores other weights at step 16 than `origin\.digest` names"):
        interp.train(moved, root=parent.folder.parent)
    assert traj.config.origin != moved.origin


def test_the_flag(parent, capsys, tmp_path):
    from interp.cli import main
    from tests.test_cli import toy

    words = [*toy(tmp_path / "b"), "--init-from"]
    main([*words, f"{parent.folder}@16"])
    (run,) = interp.trajectory.find_runs(tmp_path / "b")
    assert interp.load(run).fingerprints()[0] == parent.fingerprints()[4]
    assert f"Training {run}: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, f"{parent.folder}@17"])
    assert "There is no checkpoint at step 17" in capsys.readouterr().err


# --- how it is shown --------------------------------------------------------------------------------------------------


def test_list_and_compare_say_of_which_run_and_step_it_is_a_branch(parent, capsys):
    from interp.cli import main

    free = interp.branch(parent, 21, FREE)
    words = f"branch of {parent.config.run_id} at step 21"
    main(["list", str(parent.folder.parent)])
    assert f"{words}: optimizer.weight_decay=0.0; " in capsys.readouterr().out
    main(["compare", str(parent.folder), str(free.folder)])
    assert words in capsys.readouterr().out
    assert interp.compare([parent, free])["origin"].values.tolist() == ["", words]


def test_a_run_begun_with_stored_weights_says_so(parent, toy_config, capsys):
    from interp.cli import main

    interp.train(toy_config, root=parent.folder.parent, device="cpu", init_from=(parent, 20))
    main(["list", str(parent.folder.parent)])
    assert f"weights of {parent.folder.name} at step 20, kitouni-circle, " in capsys.readouterr().out


def test_the_report_draws_the_parents_before_the_fork(parent):
    from interp.reporting.page import _before_the_fork

    free = interp.branch(parent, 21, FREE)
    again = interp.branch(free, 30, {"optimizer.lr": 0.002})
    for child, fork in ((free, 21), (again, 30)):
        before = _before_the_fork(child)
        assert before["step"].values.tolist() == list(range(fork + 1))
        source = parent.metrics["train_loss"].sel(step=slice(None, 21))
        assert np.array_equal(before["train_loss"].sel(step=slice(None, 21)), source)
    assert np.array_equal(before["train_loss"][22:], free.metrics["train_loss"].sel(step=slice(22, 30)))
    text = interp.report(again).read_text()
    assert "train, before the fork" in text
    assert f"fork: branch of {free.config.run_id} at step 30" in text
    shutil.rmtree(free.folder)
    assert _before_the_fork(again) is None
    assert "before the fork" not in interp.report(again).read_text()


def test_curves_before_the_fork_are_dashed():
    import xarray as xr

    from interp.plots.curves import accuracy_curves

    before, after = (xr.Dataset({"test_accuracy": ("step", [0.1, 0.2])}, {"step": steps}) for steps in ([0, 5], [5, 9]))
    own, earlier = accuracy_curves(after, before=before).data
    assert (own.name, own.line.dash, earlier.name, earlier.line.dash) == (
        "test",
        "solid",
        "test, before the fork",
        "dash",
    )
    assert own.line.color == earlier.line.color
    assert len(accuracy_curves(after).data) == 1
