"""A sweep on a real SLURM loses nothing when one of its jobs is killed and another one preempted in mid-run."""

import os
import signal
import subprocess
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

import interp
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.execution import executors
from interp.execution.executors import slurm_executor
from interp.execution.sweeps import train_all
from tests.cluster.processes import SECONDS, SMALL, assert_same_runs, until, writes

CONFIGS = [SECONDS.replace({"seed": seed, "steps": 2000}) for seed in range(3)]
JOB = {"timeout_min": 10, "cpus_per_task": 1, "slurm_partition": "debug", "slurm_array_parallelism": 2}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(executors._SlurmExecutor, "POLL_SECONDS", 0.3)
    monkeypatch.setattr(executors._SlurmExecutor, "GRACE_SECONDS", 3.0)


def busy(slurm, root):
    """Jobs that are in the middle of a run, its folder and process: by the environment of processes with a lock."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        environment = dict(word.split("=", 1) for word in words if "=" in word)
        if environment.get("SLURM_CONF") == str(slurm / "slurm.conf") and "SLURM_JOB_ID" in environment:
            for folder in writes(int(process.name), root):
                found[environment["SLURM_JOB_ID"]] = folder, int(process.name)
    return found


def held(slurm, root):
    """Two jobs in the middle of their runs; the first of them to be met is stopped there until the second is, too."""
    found = busy(slurm, root)
    for _, process in found.values():
        os.kill(process, signal.SIGSTOP)
    return list(found.items()) if len(found) == 2 else None


def scancel(*words):
    subprocess.run(["scancel", *words], check=True, timeout=60)


def told(job):
    """What the controller knows of a job."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True, timeout=60)
    return dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)


def test_a_job_killed_and_one_preempted_cost_nothing_but_time(slurm, tmp_path):
    with slurm_executor(slurm / "jobs", **JOB) as executor, ThreadPoolExecutor(1) as aside:
        sweep = aside.submit(train_all, CONFIGS, root=tmp_path, executor=executor, device="cpu", threads=1)
        (killed, (folder, _)), (preempted, (other, process)) = until(lambda: held(slurm, tmp_path), 240)
        scancel("--signal=KILL", killed)
        scancel("--signal=TERM", preempted)  # as SLURM does before it takes the node away
        os.kill(process, signal.SIGCONT)
        scancel("--signal=USR2", preempted)
        outcome = sweep.result(timeout=400)
        assert told(preempted)["Restarts"] == "1"
        until(lambda: told(preempted)["JobState"] == "COMPLETED", 60)  # the result is there before the process ends
        assert told(killed)["JobState"] in ("FAILED", "CANCELLED")
        assert told(killed)["ArrayJobId"] == told(preempted)["ArrayJobId"]
    assert outcome.failures == {}
    at = {config.run_id: i for i, config in enumerate(CONFIGS)}
    met = [at[folder.name], at[other.name]]
    alone = [interp.train(CONFIGS[i], root=tmp_path / "alone", device="cpu", threads=1) for i in met]
    assert_same_runs([outcome.trajectories[i] for i in met], alone)
    assert all(traj.complete for traj in outcome.trajectories)


def test_results_errors_and_what_still_runs_at_the_end(slurm, tmp_path):
    with slurm_executor(slurm / "jobs", **JOB) as executor:
        sum_, error = executor.submit(sum, [1, 2, 3]), executor.submit(divmod, 1, 0)
        assert sum_.result(timeout=120) == 6
        assert "ZeroDivisionError" in str(error.exception(timeout=120))
        long = executor.submit(train_all, [SMALL.replace({"steps": 10**6})], root=tmp_path, device="cpu", threads=1)
        (job,) = until(lambda: busy(slurm, tmp_path), 120)
    with pytest.raises(BrokenExecutor, match="was cancelled"):
        long.result(timeout=0)
    until(lambda: told(job)["JobState"] == "CANCELLED", 60)


def test_what_slurm_refuses(slurm, tmp_path):
    with slurm_executor(tmp_path, **{**JOB, "slurm_partition": "nowhere"}) as executor:
        outcome = train_all([SMALL], root=tmp_path, executor=executor)
    assert "invalid partition specified" in outcome.failures[SMALL.run_id]
    with pytest.raises(InvalidArgumentError, match="`parameters` must be those of submitit"):
        slurm_executor(tmp_path, cpus=3).__enter__()


def test_a_machine_without_slurm(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailableError, match="there is no sbatch"), slurm_executor(tmp_path):
        pass
