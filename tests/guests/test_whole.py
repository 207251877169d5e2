"""A study of a user's own classes alone: task, model, measures, observer and panel, from training to the report."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import interp
from interp.errors import NotAvailableError
from interp.training.api import RunInterrupted
from tests.guests.attention_only import AttentionOnly
from tests.guests.early_stopping import EarlyStopping
from tests.guests.gradient_measure import GRADIENT_ALIGNMENT
from tests.guests.greater import Greater
from tests.guests.largest_key import LARGEST_KEY
from tests.guests.margin_panel import margin_panel
from tests.guests.three_sum import ThreeSum
from tests.observers import Interrupts

ROOT = Path(__file__).parent.parent.parent
STEPS = 60


def config_of(task):
    changes = {"steps": STEPS, "save.weights": "every(5)", "save.state": "every(20)", "log.test": "every(5)"}
    return interp.recipes.get("kitouni-circle").replace({"task": task, "model": AttentionOnly(), **changes})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def run(root):
    """The run, which an observer ended early, an interruption stopped again, and `resume` finished."""
    config = config_of(Greater())
    traj = interp.train(config, root=root, device="cpu", observers=[EarlyStopping(0.0, hold=3)])
    assert not traj.complete
    with pytest.raises(RunInterrupted):
        interp.resume(traj.folder, observers=[Interrupts(37)])
    return interp.resume(traj.folder)


def test_it_is_bit_for_bit_the_run_that_never_stopped(run, tmp_path):
    whole = interp.train(run.config, root=tmp_path, device="cpu")
    assert run.complete
    assert run.fingerprints() == whole.fingerprints()
    assert run.metrics.equals(whole.metrics)


def test_every_step_of_a_stretch_is_replayed_and_proven(run):
    zoom = interp.replay(run, start=22, stop=31)
    assert zoom.steps.tolist() == list(range(22, 32))
    assert zoom.run["replay"]["proven"] == [25, 30]


def test_measures_of_ones_own_are_computed_beside_ours(run):
    data = interp.measure(run, ["test_accuracy", GRADIENT_ALIGNMENT])
    assert data[GRADIENT_ALIGNMENT.name].sizes["step"] == len(run.steps)
    assert np.isfinite(data[GRADIENT_ALIGNMENT.name].values).all()
    assert set(interp.measure(run)) > {"train_loss", "test_accuracy", "weight_norm"}


@pytest.mark.parametrize("task", [Greater(), ThreeSum(p=5)], ids=["greater", "three sum"])
def test_what_is_not_defined_is_refused_in_one_line(task, run, root):
    traj = run if task == run.config.task else interp.train(config_of(task), root=root, device="cpu")
    with pytest.raises(NotAvailableError, match=r"`largest_key`") as caught:
        interp.measure(traj, [LARGEST_KEY])
    assert "\n" not in caught.value.args[0]


def test_a_report_shows_the_panel(run, root):
    html = interp.report(run, root / "report.html", panels=[margin_panel(run)]).read_text()
    sent = json.loads(re.search(r'id="payload">(.*?)</script>', html, re.DOTALL)[1])
    assert "margin" in [panel["id"] for panel in sent["panels"]]


def test_a_sweep_in_processes_of_their_own(run, root):
    done = interp.sweep(run.config, {"optimizer.lr": [1e-3, 3e-3], "seed": [0, 1]}, root=root, workers=2)
    assert not done.failures
    assert done.results().test_accuracy.sizes == {"optimizer.lr": 2, "seed": 2}
    assert interp.compare([traj for traj in done.trajectories if traj]).sizes["run"] == 4


def in_a_fresh_process(*imports, folder, then):
    """Standard output and the last line of errors of a process that imports these modules and loads the run."""
    lines = [*(f"import {name}" for name in imports), f"import interp; traj = interp.load({str(folder)!r})", then]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout.strip(), done.stderr.strip().rpartition("\n")[2]


def test_a_fresh_process_needs_the_import_and_gets_everything(run):
    names = ["tests.guests.greater", "tests.guests.attention_only"]
    look = "print(traj.config.run_id, traj.fingerprints()[-1], float(interp.measure(traj).test_loss[-1]))"
    said, _ = in_a_fresh_process(*names, folder=run.folder, then=look)
    loss = float(interp.measure(run).test_loss[-1])
    assert said == f"{run.config.run_id} {run.fingerprints()[-1]} {loss}"
    for missing in names:
        rest = [name for name in names if name != missing]
        said, error = in_a_fresh_process(*rest, folder=run.folder, then="print(traj.config)")
        assert said == ""
        assert f"`import {missing}`" in error
        assert f"--import {missing}" in error


def test_the_command_line_imports_what_it_is_told_to(run):
    words = ["measure", str(run.folder), "test_loss", "--import", "tests.guests.greater"]
    imports = ["--import", "tests.guests.attention_only"]
    command = [sys.executable, "-m", "interp", *imports, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "test_loss" in done.stdout
