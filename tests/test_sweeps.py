"""Sweeps: nothing is lost or done twice, whatever is killed; the table is that of each run alone."""

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

import interp
from interp.analysis.curves import sustained_step
from interp.config import Recurrent
from interp.errors import ConfigError, InvalidArgumentError, NotAvailableError, UnknownNameError
from interp.execution import queue, sweeps
from interp.execution.executors import dask_executor, process_pool, slurm_executor
from interp.execution.sweeps import (
    PHASES,
    learning_phase,
    parse_grid,
    sweep,
    train_all,
)
from interp.milestones.comparison import compare
from interp.store import RunWriter
from interp.training import Observer, RunInterrupted
from tests.cluster.processes import SECONDS, SMALL, assert_same_runs, lives, until, writes
from tests.observers import Interrupts
from tests.runs import AT, TINY

HERE = {"device": "cpu", "threads": 1}
SEEDS = [SMALL.replace({"seed": seed}) for seed in range(4)]
DIVERGES = SMALL.replace({"optimizer.lr": 1e30})


class Noting(ThreadPoolExecutor):
    """Does the work in a thread and notes what it was given."""

    def __init__(self):
        super().__init__(1)
        self.pieces = []

    def submit(self, fn, work, piece):
        self.pieces.append(piece)
        return super().submit(fn, work, piece)


class Losing(Noting):
    """Loses its worker over the second run, every time."""

    def submit(self, fn, work, piece):
        if piece != (SEEDS[1],):
            return super().submit(fn, work, piece)
        self.pieces.append(piece)
        return ThreadPoolExecutor.submit(self, divmod, 1, 0)


@pytest.fixture
def noting():
    with Noting() as executor:
        yield executor


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs of `SEEDS`, each trained by itself."""
    root = tmp_path_factory.mktemp("alone")
    return [interp.train(config, root=root, **HERE) for config in SEEDS]


def observe(monkeypatch, observer):
    """Let an observer see the runs that this process trains."""
    for name in ("train", "train_many", "resume"):
        monkeypatch.setattr(queue, name, partial(getattr(interp, name), observers=[observer]))


class Threads(Observer):
    """Notes seed and number of threads of the runs that it sees."""

    def __init__(self):
        self.used = set()

    def before_step(self, run, step):
        self.used.add((run.config.seed, torch.get_num_threads()))


def begin(config, root, **more):
    """A run that was set up and holds nothing yet."""
    about = {"config": config.to_dict(), "schedule": "", "provenance": {"device": "cpu", "threads": 1}}
    RunWriter.create(root / config.run_id, {**about, **more}).close()


def hold(config, root):
    """Its lock, as another process holds it, as a file to be closed."""
    lock = os.open(root / config.run_id / "LOCK", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


# --- many runs --------------------------------------------------------------------------------------------------------


def test_runs_are_in_the_order_of_their_configs_and_each_is_trained_once(alone, noting, tmp_path):
    configs = [SEEDS[1], SEEDS[0], SEEDS[1]]
    outcome = train_all(configs, root=tmp_path, executor=noting, device="cpu", threads=1)
    assert outcome.failures == {}
    assert_same_runs(outcome.trajectories, [alone[1], alone[0], alone[1]])
    assert noting.pieces == [(SEEDS[1],), (SEEDS[0],)]


def test_what_is_complete_is_not_given_to_a_worker(alone, noting, tmp_path):
    train_all(SEEDS[:2], root=tmp_path, **HERE)
    outcome = train_all(SEEDS, root=tmp_path, executor=noting, **HERE)
    assert noting.pieces == [(SEEDS[2],), (SEEDS[3],)]
    assert_same_runs(outcome.trajectories, alone)
    assert train_all([], root=tmp_path).trajectories == ()


def test_what_is_partial_goes_on(alone, tmp_path, monkeypatch):
    observe(monkeypatch, Interrupts(21))
    with pytest.raises(RunInterrupted):
        train_all(SEEDS, root=tmp_path, workers=1, **HERE)
    monkeypatch.undo()
    partial = interp.load(tmp_path / SEEDS[0].run_id)
    assert not partial.complete
    assert partial.full_state_steps[-1] == 22
    began = partial.provenance["started"]
    threads = Threads()
    observe(monkeypatch, threads)
    outcome = train_all(SEEDS, root=tmp_path, workers=1, device="cpu", threads=2)
    assert threads.used == {(0, 1), (1, 2), (2, 2), (3, 2)}  # it goes on with as many as it began with
    assert outcome.trajectories[0].provenance["started"] == began
    assert_same_runs(outcome.trajectories[:1], alone[:1])


def test_failures_are_collected(alone, noting, tmp_path):
    for how in ({"executor": noting}, {"workers": 1}):
        outcome = train_all([SEEDS[0], DIVERGES, SEEDS[1]], root=tmp_path, **HERE, **how)
        assert outcome.trajectories[1] is None
        assert list(outcome.failures) == [DIVERGES.run_id]
        assert "is not a finite number" in outcome.failures[DIVERGES.run_id]
        assert_same_runs([outcome.trajectories[0], outcome.trajectories[2]], alone[:2])
    assert len(noting.pieces) == 3  # a run that failed is not lost: it was not tried again


def test_a_worker_that_is_lost_three_times_is_a_failure(tmp_path):
    with Losing() as executor:
        outcome = train_all(SEEDS[:2], root=tmp_path, executor=executor, **HERE)
    assert executor.pieces.count((SEEDS[1],)) == 3
    assert outcome.trajectories[0].complete
    assert outcome.failures[SEEDS[1].run_id] == (
        "Its worker was lost, 3 times out of 3 at most; at last ZeroDivisionError: integer division or modulo by zero"
    )


def test_a_damaged_folder_is_a_failure(tmp_path):
    folder = tmp_path / SEEDS[0].run_id
    interp.train(SEEDS[0], root=tmp_path, **HERE)
    (folder / "run.json").write_text("{}")
    (tmp_path / SEEDS[1].run_id / "trajectory").mkdir(parents=True)
    (tmp_path / SEEDS[1].run_id / "trajectory" / "00000000-00000004.safetensors").touch()
    outcome = train_all(SEEDS[:3], root=tmp_path, together=3, **HERE)
    assert "run.json is damaged" in outcome.failures[SEEDS[0].run_id]
    assert "or parts of one" in outcome.failures[SEEDS[1].run_id]
    assert outcome.trajectories[2].complete


def test_a_complete_run_that_has_lost_something_is_a_failure(tmp_path):
    traj = interp.train(SEEDS[0], root=tmp_path, **HERE)
    min((traj.folder / "trajectory").glob("*.safetensors")).unlink()
    outcome = train_all(SEEDS[:1], root=tmp_path, **HERE)
    assert outcome.trajectories == (None,)
    assert "`interp verify" in outcome.failures[SEEDS[0].run_id]


def test_a_pool_that_broke_with_its_worker_loses_no_outcome(alone, tmp_path):
    class Broken(Losing):
        def submit(self, fn, work, piece):
            if piece in self.pieces:
                raise BrokenExecutor("its process died")
            return super().submit(fn, work, piece)

    with Broken() as executor:
        outcome = train_all(SEEDS[:3], root=tmp_path, executor=executor, **HERE)
    assert list(outcome.failures) == [SEEDS[1].run_id]
    assert "Its worker was lost, 1 times" in outcome.failures[SEEDS[1].run_id]
    assert_same_runs([outcome.trajectories[0], outcome.trajectories[2]], [alone[0], alone[2]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"together": 0}, "`together` must be a whole number >= 1; got 0"),
        ({"workers": 0}, "`workers` must be a whole number >= 1; got 0"),
        ({"workers": 2, "executor": ThreadPoolExecutor(1)}, "`workers` must not be given with an `executor`"),
        ({"device": "tpu"}, "`device` must be cpu"),
    ],
)
def test_arguments_that_break_a_rule(arguments, message, tmp_path):
    with pytest.raises(InvalidArgumentError, match=message):
        train_all(SEEDS, root=tmp_path, **arguments)


# --- together ---------------------------------------------------------------------------------------------------------


def test_runs_of_equal_shape_are_trained_together(noting, tmp_path):
    wide = [config.replace({"model.d_model": 9}) for config in SEEDS[:2]]
    configs = [wide[0], *SEEDS, wide[1]]
    outcome = train_all(configs, root=tmp_path, executor=noting, together=3, **HERE)
    assert noting.pieces == [tuple(wide), tuple(SEEDS[:3]), tuple(SEEDS[3:])]
    assert all(traj.complete for traj in outcome.trajectories)
    assert outcome.trajectories[1].run["ensemble"] == [config.run_id for config in SEEDS[:3]]
    assert "ensemble" not in outcome.trajectories[4].run


def test_a_partial_ensemble_is_one_piece(noting, tmp_path, monkeypatch):
    whole = train_all(SEEDS, root=tmp_path / "whole", together=4, **HERE).trajectories
    observe(monkeypatch, Interrupts(21))
    with pytest.raises(RunInterrupted):
        train_all(SEEDS, root=tmp_path, together=4, workers=1, **HERE)
    monkeypatch.undo()
    outcome = train_all([*SEEDS, DIVERGES], root=tmp_path, executor=noting, **HERE)
    assert noting.pieces == [tuple(SEEDS), (DIVERGES,)]
    assert_same_runs(outcome.trajectories[:4], whole)


def test_one_that_diverges_in_company_is_the_only_failure(tmp_path):
    outcome = train_all([SEEDS[0], DIVERGES, SEEDS[1]], root=tmp_path, together=3, **HERE)
    assert list(outcome.failures) == [DIVERGES.run_id]
    assert [traj is not None and traj.complete for traj in outcome.trajectories] == [True, False, True]


def test_runs_that_do_not_fit_together_are_trained_apart(tmp_path):
    """Of equal shape, but their training sets hold other operands."""
    base = SMALL.replace({"task.encoding": "sentence", "task.p": 5, "task.train_fraction": 0.4, "steps": 4,
                          "model": Recurrent(cell="rnn", d_model=8, d_hidden=10)})  # fmt: skip
    configs = [base.replace({"task.seed": seed}) for seed in range(6)]
    outcome = train_all(configs, root=tmp_path, together=6, **HERE)
    assert outcome.failures == {}
    assert not any("ensemble" in traj.run for traj in outcome.trajectories)


@pytest.mark.parametrize("other", ["missing", "alone"])
def test_an_ensemble_that_was_killed_while_it_was_set_up_is_begun_again(alone, tmp_path, other):
    """Its first member names one that was never made, or that has since been trained in other company."""
    begin(SEEDS[0], tmp_path, ensemble=[one.run_id for one in SEEDS[:2]])
    if other == "alone":
        interp.train(SEEDS[1], root=tmp_path, **HERE)
    outcome = train_all(SEEDS[:2], root=tmp_path, **HERE)
    assert outcome.failures == {}
    assert_same_runs(outcome.trajectories, alone[:2])


# --- locks ------------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that only `sleep` moves, and that calls a function once, at a given time."""

    def __init__(self, at, call):
        self.now, self.at, self.call = 0.0, at, call

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.now >= self.at:
            self.call()
            self.at = np.inf


def test_a_run_that_another_writes_to_is_waited_for(alone, tmp_path, monkeypatch):
    begin(SEEDS[0], tmp_path)
    lock = hold(SEEDS[0], tmp_path)
    clock = Clock(20.0, lambda: os.close(lock))
    monkeypatch.setattr(queue, "time", clock)
    outcome = train_all(SEEDS[:1], root=tmp_path, patience=30, **HERE)
    assert clock.now == 20
    assert outcome.failures == {}
    assert_same_runs(outcome.trajectories, alone[:1])


def test_a_locked_run_that_no_longer_grows_is_a_failure(tmp_path, monkeypatch):
    interp.train(SEEDS[1], root=tmp_path, **HERE)
    begin(SEEDS[0], tmp_path)
    lock = hold(SEEDS[0], tmp_path)
    clock = Clock(15.0, lambda: (tmp_path / SEEDS[0].run_id / "metrics.jsonl").write_text("{}"))
    monkeypatch.setattr(queue, "time", clock)
    outcome = train_all(SEEDS[:2], root=tmp_path, together=2, patience=25, **HERE)
    assert clock.now == 15 + 25  # counted from when it last grew
    os.close(lock)
    assert outcome.failures[SEEDS[0].run_id].endswith("wait for it. It has not grown for 25 seconds.")
    assert outcome.trajectories[1].complete


def test_the_same_work_twice_at_once_is_done_once(alone, tmp_path):
    with ThreadPoolExecutor(2) as executor:
        twice = list(executor.map(lambda _: train_all(SEEDS, root=tmp_path, together=4, **HERE), range(2)))
    for outcome in twice:
        assert outcome.failures == {}
        assert all(traj.complete for traj in outcome.trajectories)


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_process_killed_in_mid_run_costs_nothing_but_time(tmp_path):
    configs = [SECONDS.replace({"seed": seed}) for seed in range(3)]
    killed = []

    def kill():
        def busy():
            return [child for child in multiprocessing.active_children() if writes(child.pid, tmp_path)]

        child = until(busy, 180)[0]
        killed.extend(writes(child.pid, tmp_path))
        os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = train_all(configs, root=tmp_path, workers=2, **HERE)
    killer.join()
    assert len(killed) == 1
    assert outcome.failures == {}
    assert [traj.provenance["threads"] for traj in outcome.trajectories] == [1] * 3
    at = [config.run_id for config in configs].index(killed[0].name)
    assert_same_runs([outcome.trajectories[at]], [interp.train(configs[at], root=tmp_path / "alone", **HERE)])
    assert not multiprocessing.active_children()


SCRIPT = """
import sys
from interp.execution.sweeps import train_all
from tests.cluster.processes import SECONDS

if __name__ == "__main__":
    configs = [SECONDS.replace({"seed": seed, "steps": 20_000, "save.state": "steps(0, 50)"}) for seed in range(3)]
    try:
        train_all(configs, root=sys.argv[1], workers=2, device="cpu")
    except KeyboardInterrupt as error:
        print(error)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_when_the_sweep_is_stopped_its_processes_store_everything_and_end(signum, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a shell runs behind itself
    )  # fmt: skip

    def children():
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent.pid)], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]

    def met():
        assert parent.poll() is None, parent.communicate()
        return [folder for pid in children() for folder in writes(pid, tmp_path)]

    busy = until(met, 180)
    everybody = children()
    parent.send_signal(signum)
    said, complained = parent.communicate(timeout=120)
    if signum == signal.SIGINT:
        assert said.strip() == (
            "Interrupted; 0 of 3 runs are done. The same sweep, started again, goes on with the rest."
        )
        assert complained == ""
    until(lambda: not any(map(lives, everybody)), 60)
    for folder in busy:
        run = interp.load(folder)
        assert not run.complete
        assert run.full_state_steps[-1] > 50  # where it was stopped: the schedule has no such state


# --- a grid -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Three seeds at a rate that generalises (in part), at a tenth of it, which does not, and at one that diverges."""
    base = interp.recipes.get("kitouni-circle").replace(TINY)
    root = tmp_path_factory.mktemp("grid")
    return sweep(base, {"optimizer.lr": [3e-3, 3e-4, 1e30], "steps": [150]}, seeds=range(3), root=root, **HERE)


def test_the_axes_are_those_of_the_grid_with_seeds_last(grid):
    assert list(grid.axes) == ["optimizer.lr", "steps", "seed"]
    assert [(config.optimizer.lr, config.seed) for config in grid.configs[:4]] == [
        (3e-3, 0), (3e-3, 1), (3e-3, 2), (3e-4, 0),
    ]  # fmt: skip
    assert len(grid.failures) == 3
    data = grid.results(**AT)
    assert dict(data.sizes) == {"optimizer.lr": 3, "steps": 1, "seed": 3, "phase": 4, "quantile": 3}
    assert data["optimizer.lr"].values.tolist() == [3e-3, 3e-4, 1e30]
    assert data["run"].sel({"optimizer.lr": 3e-4, "steps": 150, "seed": 2}).item() == grid.configs[5].run_id


def test_each_run_is_as_in_a_comparison(grid):
    data = grid.results(**AT).isel(steps=0)
    for i in range(2):
        runs = grid.trajectories[3 * i : 3 * i + 3]
        table, cell = compare(runs, **AT), data.isel({"optimizer.lr": i})
        for name in ("memorised_step", "memorised_after", "generalised_step", "generalised_after", "last_step", "delay",
                     "delay_lower", "delay_upper"):  # fmt: skip
            np.testing.assert_array_equal(cell[name], table[name], err_msg=name)
        for side in ("", "_lower", "_upper"):
            name = f"steps_to_generalise{side}"
            assert cell[name].dims == ("quantile",)
            np.testing.assert_array_equal(cell[name], table[name], err_msg=name)
        assert cell["generalised_censored"].values.tolist() == [i == 1] * 3
        assert np.isnan(cell["generalised_step"]).values.tolist() == [i == 1] * 3
        for j, traj in enumerate(runs):
            for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
                assert float(cell[name][j]) == float(traj.metrics[name].dropna("step")[-1])
            assert float(cell["best_test_accuracy"][j]) == float(traj.metrics["test_accuracy"].max())
    assert np.isinf(data["steps_to_generalise"][1]).all()
    assert data["steps_to_memorise"][0].values.tolist() == sorted(data["memorised_step"][0].values)


def test_a_run_cut_just_after_it_passed_is_not_taken_for_a_later_one():
    """It is known to be late only up to step 60, and not at risk when the other one generalises."""
    cut = {"complete": True, "generalised_step": np.nan, "generalised_after": 60.0, "generalised_censored": True}
    other = {"complete": True, "generalised_step": 80.0, "generalised_after": 75.0, "generalised_censored": False}
    rows = [{**cut, "last_step": 100.0}, {**other, "last_step": 150.0}]
    assert sweeps._band(rows, "generalised", None, [0.25, 0.5, 0.75])[0].tolist() == [80.0] * 3


def test_a_failed_run_is_missing_and_not_censored(grid):
    data = grid.results(**AT).isel({"optimizer.lr": 2, "steps": 0})
    assert not data["complete"].any()
    assert not data["generalised_censored"].any()
    for name in ("generalised_step", "last_step", "train_loss", "steps_to_generalise", "phase_share"):
        assert np.isnan(data[name]).all(), name
    assert set(data["learning_phase"].values) == {""}


def test_phases_are_counted_over_seeds(grid):
    data = grid.results().isel(steps=0)
    for i, j in np.ndindex(2, 3):
        traj = grid.trajectories[3 * i + j]
        first = [
            sustained_step(series["step"].values, series.values, 0.9, hold=0)
            for series in (traj.metrics[f"{who}_accuracy"].dropna("step") for who in ("train", "test"))
        ]
        assert data["learning_phase"][i, j] == learning_phase(*first)
    for i in range(2):
        found = data["learning_phase"][i].values.tolist()
        assert data["phase_share"][i].values.tolist() == [found.count(phase) / 3 for phase in PHASES]


def test_a_row_for_each_run(grid):
    frame = grid.to_dataframe(**AT)
    assert frame["run"].tolist() == [config.run_id for config in grid.configs]
    assert frame["seed"].tolist() == [0, 1, 2] * 3
    assert frame["optimizer.lr"].tolist() == [3e-3] * 3 + [3e-4] * 3 + [1e30] * 3
    assert frame["generalised_step"].notna().tolist() == [True] * 3 + [False] * 6
    assert "quantile" not in frame
    assert "phase" not in frame


@pytest.mark.parametrize("recipe", ["simple-grokking", "beck"])
def test_seeds_that_decide_nothing_are_refused(recipe, tmp_path):
    """The published script draws weights from the stream of the split; logistic regression begins at zero."""
    small = {"task.p": 7, "model.d_model": 4, "model.d_hidden": (4,), "steps": 3}
    drawn = {"optimizer.batch_size": 8}
    if recipe == "beck":
        small, drawn = {"task.n": 8, "task.d": 3, "steps": 3}, {"interventions.update_noise": 0.1}
    base = interp.recipes.get(recipe).replace(small)
    with pytest.raises(ConfigError, match=r"in `seed` alone would be one and the same.*`task\.seed`"):
        sweep(base, {}, seeds=[0, 1], root=tmp_path, **HERE)
    assert not list(tmp_path.iterdir())
    for changes, axes, seeds in ((drawn, {}, [0, 1]), ({}, {"task.seed": [0, 1]}, None)):
        first, second = sweep(base.replace(changes), axes, seeds=seeds, root=tmp_path, **HERE).trajectories
        assert first.fingerprints()[-1] != second.fingerprints()[-1]


def test_values_that_are_no_numbers_are_words(tmp_path):
    found = sweep(SMALL, {"optimizer.batch_size": [None, 8], "model.d_hidden": [(4,), (4, 4)]}, root=tmp_path, **HERE)
    data = found.results()
    assert data["optimizer.batch_size"].values.tolist() == ["unset", "8"]
    assert data["model.d_hidden"].values.tolist() == ["(4,)", "(4, 4)"]
    assert data["seed"].values.tolist() == [0]
    assert data["complete"].all()
    one = data.isel({"optimizer.batch_size": 0, "model.d_hidden": 0})
    assert one["steps_to_memorise_lower"].equals(one["steps_to_memorise_upper"].rename("steps_to_memorise_lower"))


def test_phases_of_learning_by_their_thresholds():
    assert learning_phase(10, 1009) == "comprehension"
    assert learning_phase(10, 1010) == "grokking"
    assert learning_phase(10, 5) == "comprehension"
    assert learning_phase(10, 100_001) == "memorisation"
    assert learning_phase(100_001, 5) == "confusion"
    assert learning_phase(10, 60, gap=50) == "grokking"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["p"], "`p` is no axis of a grid"),
        (["=3"], "is no axis of a grid"),
        (["seed="], "is no axis of a grid"),
        (["seed=1,,2"], "is no axis of a grid"),
        (["seed=1", "seed=2"], "`seed` must be named once in a grid"),
        (["seed=3..1"], "must count upwards; got 3..1"),
        (["optimizer.lr=log(1, 2, 1)"], "must have 0 < FROM < TO and COUNT >= 2"),
        (["optimizer.lr=log(0, 2, 3)"], "must have 0 < FROM < TO"),
        (["optimizer.lr=log(a, b, 3)"], "must have numbers in log"),
    ],
)
def test_words_that_are_no_grid(words, message):
    with pytest.raises(ConfigError, match=message):
        parse_grid(words)


def test_a_grid_in_words():
    assert parse_grid(["optimizer.batch_size=null,32", "model.init=tl,torch", "seed=-1..1"]) == {
        "optimizer.batch_size": [None, 32], "model.init": ["tl", "torch"], "seed": [-1, 0, 1],
    }  # fmt: skip
    assert parse_grid(["optimizer.lr=1e-3,log(1,10,3)"])["optimizer.lr"] == [1e-3, 1.0, 3.16228, 10.0]


@pytest.mark.parametrize(
    ("base", "axes", "how", "error", "message"),
    [
        ("nando", {}, {}, UnknownNameError, "There is no recipe `nando`. Did you mean `nanda`"),
        (SMALL, {"task.q": [3]}, {}, ConfigError, r"There is no field `task\.q`.*In the grid at task\.q=3, seed=0"),
        (SMALL, {"task.operation": ["divide"], "task.p": [7, 9]}, {}, ConfigError, r"got p=9.*divide, task\.p=9, seed"),
        (SMALL, {"task.p": []}, {}, InvalidArgumentError, r"`task\.p` must have one value or more .* got none"),
        (SMALL, {"task.p": [5, 5]}, {}, InvalidArgumentError, "each once; got 5, 5"),
        (SMALL, {"seed": [1]}, {"seeds": [2]}, InvalidArgumentError, "`seeds` must not be given where `grid` has"),
    ],
)
def test_grids_that_break_a_rule(base, axes, how, error, message, tmp_path):
    with pytest.raises(error, match=message):
        sweep(base, axes, root=tmp_path, **how)
    assert list(tmp_path.iterdir()) == []


# --- executors --------------------------------------------------------------------------------------------------------


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(NotAvailableError, match=r"grokking-interp\[dask\]"), dask_executor("tcp://127.0.0.1:1"):
        pass
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(NotAvailableError, match=r"grokking-interp\[slurm\]"), slurm_executor(tmp_path):
        pass


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (1, 0)])
def test_a_pool_has_workers_and_threads(workers, threads):
    with pytest.raises(InvalidArgumentError, match="must be a whole number >= 1; got 0"):
        process_pool(workers, threads)
