"""Executors for many runs: processes on this machine, the workers of a Dask cluster, the jobs of a SLURM array.

Each is a `concurrent.futures.Executor` as a context. An executor does a piece of work at least once, not exactly once:
a worker that was given up may still be running.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from concurrent.futures import ThreadPoolExecutor as Threads
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from interp.errors import InvalidArgumentError, NotAvailableError
from interp.literals import as_count

if TYPE_CHECKING:
    from submitit import Job
    from submitit.core.utils import DelayedSubmission

__all__ = ["cores", "dask_executor", "process_pool", "slurm_executor"]

DEAD_STATES: Final = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "GONE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "TIMEOUT",
)  # fmt: skip
"""SLURM's states of a job that will not run again by itself; GONE: squeue no longer lists it."""


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def process_pool(workers: int, threads: int | None = None) -> Executor:
    """Worker processes on this machine, as a context: after an error or Ctrl-C they stop at the end of their step.

    A crash of a worker fails only the call it was running, with `BrokenExecutor`; the next call gets a new process.
    Workers stop, too, when the process that started them is gone, even by a kill. Scripts need
    `if __name__ == "__main__":`.

    Arguments:
        workers: processes at a time.
        threads: CPU threads of torch in each; None: the cores divided by the workers.

    Raises:
        InvalidArgumentError: `workers` or `threads` is less than 1.
    """
    workers = as_count("workers", workers)
    return _ProcessExecutor(workers, max(1, cores() // workers) if threads is None else as_count("threads", threads))


@contextlib.contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """Workers of a Dask cluster, as a context.

    If a worker dies or is told to stop, another worker repeats its work; after four workers (Dask's
    `allowed-failures`) the work has failed. Without any worker, work waits for the first. Work that is running when the
    context is left runs on, and does no harm.

    Arguments:
        address: of the scheduler, such as tcp://127.0.0.1:8786, or the path of its scheduler file, a .json.

    Raises:
        NotAvailableError: Dask is not installed.
        OSError: nobody answers at the address.
    """
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise NotAvailableError(
            'A sweep on Dask needs its packages; install them with: pip install "grokking-interp[dask]".'
        ) from error
    where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    with Client(**where, set_as_default=False) as client:
        yield client.get_executor(pure=False)  # equal calls are repeated, not answered from Dask's cache


@contextlib.contextmanager
def slurm_executor(folder: str | Path, **parameters: Any) -> Iterator[Executor]:
    """Jobs of a SLURM cluster, as a context: calls submitted together become one job array (by submitit).

    A job that is preempted or reaches its time limit is requeued and resumes its runs. Leaving the context cancels
    waiting and running jobs. Where the cluster keeps no accounts, the state of a job is read from squeue alone.

    Arguments:
        folder: for scripts, pickles and logs; shared by the nodes. Each executor makes a folder of its own in it.
        parameters: as for submitit's `AutoExecutor.update_parameters`: `timeout_min`, `cpus_per_task`, `mem_gb`,
            `gpus_per_node`, `slurm_partition`, `slurm_array_parallelism` (jobs at a time), ...

    Raises:
        NotAvailableError: submitit is not installed, or there is no SLURM on this machine.
    """
    try:
        import submitit
    except ImportError as error:
        raise NotAvailableError(
            'A sweep on SLURM needs submitit; install it with: pip install "grokking-interp[slurm]".'
        ) from error
    if not shutil.which("sbatch"):
        raise NotAvailableError("A sweep on SLURM needs its commands; there is no sbatch on this machine's PATH.")
    Path(folder).mkdir(parents=True, exist_ok=True)
    # job ids may repeat, and must not find old results
    own = tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=folder)
    jobs = submitit.AutoExecutor(folder=Path(own) / "%j", cluster="slurm")
    try:
        jobs.update_parameters(**parameters)
    except NameError as error:  # submitit's word for a parameter that it does not know
        raise InvalidArgumentError(f"`parameters` must be those of submitit. {error}") from error
    executor = _SlurmExecutor(jobs)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


class _ProcessExecutor(Threads):
    """A thread pool whose threads each own one worker process, so that a crash fails only the call it was running."""

    def __init__(self, workers: int, threads: int) -> None:
        super().__init__(workers, thread_name_prefix="interp-sweep", initializer=_leave_interrupts_to_the_parent)
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._new = partial(
            ProcessPoolExecutor, 1, mp_context=context, initializer=_serve, initargs=(self._stop, threads)
        )
        self._own = threading.local()
        self._pools: list[ProcessPoolExecutor] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call, as every executor does."""
        return super().submit(self._in_process, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop the processes when their calls are done; with `cancel_futures` at the end of their step."""
        if cancel_futures:
            self._stop.set()
        super().shutdown(wait, cancel_futures=cancel_futures)
        for pool in self._pools:
            pool.shutdown(wait)

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def _in_process(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if getattr(self._own, "pool", None) is None:
            self._own.pool = self._new()
            self._pools.append(self._own.pool)
        try:
            return self._own.pool.submit(fn, *args, **kwargs).result()
        except BrokenExecutor:
            self._own.pool = None
            raise


def _leave_interrupts_to_the_parent() -> None:
    """Block Ctrl-C in a thread, so that the processes it starts, which inherit that, can import undisturbed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def _serve(stop: Flag, threads: int) -> None:
    """Prepare a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent stops its workers
    if stop.is_set():  # while this process started: no run is to begin
        os._exit(0)
    torch.set_num_threads(threads)
    threading.Thread(target=_leave, args=(stop,), daemon=True).start()


def _leave(stop: Flag) -> None:
    """Send SIGTERM to this process when it is told to stop or its parent is gone; a run stores everything then."""
    parent = multiprocessing.parent_process()
    while parent is not None:
        alone, told = not parent.is_alive(), stop.wait(0.5)
        if alone or (
            told and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        ):  # no run: the pool ends the process
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)


class _SlurmExecutor(Executor):
    """An executor of futures over submitit's executor of jobs, whose results must be polled."""

    POLL_SECONDS = 2.0
    """Interval at which results and squeue are polled."""
    GRACE_SECONDS = 15.0
    """Time for which a job must be dead before its result counts as lost: file systems and the queue lag behind."""
    MAX_ARRAY_SIZE = 1000
    """Maximum number of jobs in an array; SLURM's default limit is 1001."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._jobs: dict[Future[Any], Job[Any]] = {}
        self._dead_since: dict[Future[Any], float] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name="interp-slurm", daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call, as every executor does."""
        if self._closed.is_set():
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        with self._lock:
            self._waiting.append((future, _Requeued(partial(fn, *args, **kwargs))))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the jobs, or cancel them."""
        while wait and not cancel_futures and (self._waiting or self._jobs):
            time.sleep(self.POLL_SECONDS)
        self._closed.set()
        self._thread.join()
        for future, _ in self._waiting:
            future.cancel()
        for future, job in self._jobs.items():
            job.cancel(check=False)
            future.set_exception(BrokenExecutor(f"SLURM's job {job.job_id} was cancelled."))

    def _serve(self) -> None:
        while not self._closed.wait(self.POLL_SECONDS):
            with self._lock:
                waiting, self._waiting = self._waiting[: self.MAX_ARRAY_SIZE], self._waiting[self.MAX_ARRAY_SIZE :]
            waiting = [(future, call) for future, call in waiting if future.set_running_or_notify_cancel()]
            if waiting:
                try:
                    with self._executor.batch():
                        jobs = [self._executor.submit(call) for _, call in waiting]
                    self._jobs |= {future: job for (future, _), job in zip(waiting, jobs)}
                except Exception as error:  # sbatch has refused
                    for future, _ in waiting:
                        future.set_exception(error)
            self._poll()

    def _poll(self) -> None:
        states = _squeue() if self._jobs else None
        for future, job in list(self._jobs.items()):
            if job.paths.result_pickle.exists():
                del self._jobs[future]
                try:
                    future.set_result(job.result())
                except Exception as error:
                    future.set_exception(error)
            elif states is None or states.get(job.job_id, "GONE") not in DEAD_STATES:
                self._dead_since.pop(future, None)
            else:
                since = self._dead_since.setdefault(future, time.monotonic())
                if time.monotonic() - since > self.GRACE_SECONDS:
                    del self._jobs[future]
                    state = states.get(job.job_id, "GONE")
                    future.set_exception(BrokenExecutor(f"SLURM's job {job.job_id} ended without a result: {state}."))


@dataclass(frozen=True)
class _Requeued:
    """A call that submitit requeues when its job is preempted or reaches its time limit."""

    call: Callable[[], Any]

    SIGNAL_SECONDS = 20.0
    """Time to wait after SIGTERM for the signal at which submitit requeues; SLURM's default KillWait is 30."""

    def __call__(self) -> Any:
        try:
            return self.call()
        except KeyboardInterrupt:
            time.sleep(self.SIGNAL_SECONDS)
            raise

    def checkpoint(self) -> "DelayedSubmission":
        """The call with which the requeued job begins: the same call, which resumes its runs."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _squeue() -> dict[str, str] | None:
    """States of this user's jobs by id, array members listed singly; None where the controller does not answer."""
    command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T"]
    try:
        listed = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split("|") for line in listed.split())
