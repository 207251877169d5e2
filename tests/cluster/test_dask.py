"""A sweep on a real Dask cluster loses nothing when a worker is killed in mid-run."""

import importlib.util
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

import interp
from interp.execution.executors import dask_executor
from interp.execution.sweeps import train_all
from tests.cluster.processes import SECONDS, SMALL, assert_same_runs, require, until, writes

CONFIGS = [SECONDS.replace({"seed": seed}) for seed in range(4)]


def test_a_worker_killed_in_mid_run_costs_nothing_but_time(cluster, tmp_path):
    cluster.add_worker()
    cluster.add_worker()
    with dask_executor(str(cluster.file)) as executor, ThreadPoolExecutor(1) as aside:
        sweep = aside.submit(train_all, CONFIGS, root=tmp_path, executor=executor, device="cpu", threads=1)
        busy = until(lambda: [one for one in cluster.workers if writes(one.pid, tmp_path)], 240)[0]
        (folder,) = writes(busy.pid, tmp_path)
        busy.kill()
        assert busy.wait() == -signal.SIGKILL
        assert not interp.load(folder).complete
        outcome = sweep.result(timeout=240)
    assert outcome.failures == {}
    assert all(traj.complete for traj in outcome.trajectories)
    at = [config.run_id for config in CONFIGS].index(folder.name)
    alone = interp.train(CONFIGS[at], root=tmp_path / "alone", device="cpu", threads=1)
    assert_same_runs([outcome.trajectories[at]], [alone])


def test_work_waits_for_a_worker_and_is_lost_with_the_scheduler(cluster, tmp_path):
    until(cluster.file.exists, 120)
    with dask_executor(str(cluster.file)) as executor, ThreadPoolExecutor(1) as aside:
        sweep = aside.submit(train_all, [SMALL], root=tmp_path, executor=executor, device="cpu", threads=1)
        with pytest.raises(TimeoutError):
            sweep.result(timeout=2)
        cluster.scheduler.kill()
        outcome = sweep.result(timeout=120)
    assert list(outcome.failures) == [SMALL.run_id]
    assert "Its worker was lost" in outcome.failures[SMALL.run_id]
    assert train_all([SMALL], root=tmp_path, device="cpu", threads=1).failures == {}


def test_nobody_answers():
    require(importlib.util.find_spec("distributed"), "the extra `dask`")
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(OSError, match="Timed out"),
        dask_executor("tcp://127.0.0.1:9"),
    ):
        pass
