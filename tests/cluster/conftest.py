"""A Dask scheduler with workers, and a SLURM of one node, on the loopback; ended by the processes that were started."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.processes import require, until

SCRIPT = Path(__file__).parent / "slurm.sh"


class Cluster:
    """A Dask scheduler and its workers, each a process of its own without a nanny: who is killed stays dead."""

    def __init__(self, folder):
        self.folder, self.file = folder, folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", self.file)
        self.workers = []

    def add_worker(self):
        local = self.folder / f"worker-{len(self.workers)}"
        until(self.file.exists, 120)
        words = ["--scheduler-file", self.file, "--local-directory", local, "--nthreads", "1", "--no-nanny"]
        self.workers.append(self._start("worker", *words, "--memory-limit", "0", "--death-timeout", "120"))

    def stop(self):
        for process in (*self.workers, self.scheduler):
            process.terminate()
        for process in (*self.workers, self.scheduler):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, *words):
        """Its own web server listens beyond the loopback, unless the dashboard is asked not to."""
        command = [
            sys.executable,
            "-m",
            "dask",
            *words,
            "--host",
            "tcp://127.0.0.1",
            "--dashboard-address",
            "127.0.0.1:0",
        ]
        with open(self.folder / f"{words[0]}.log", "a", encoding="utf-8") as log:
            return subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd=Path(__file__).parents[2])


@pytest.fixture
def cluster(tmp_path_factory):
    require(importlib.util.find_spec("distributed"), "the extra `dask`")
    cluster = Cluster(tmp_path_factory.mktemp("dask"))
    yield cluster
    cluster.stop()


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    require(importlib.util.find_spec("submitit"), "the extra `slurm`")
    require(shutil.which("slurmctld") and shutil.which("munged") and os.getuid() == 0, "SLURM, with root's rights,")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SCRIPT, "up", folder], check=True, timeout=120)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.chdir(Path(__file__).parents[2])  # where jobs find the tests
    yield folder
    subprocess.run([SCRIPT, "down", folder], check=True, timeout=120)
