"""A queue of runs, trained by processes of this machine or by workers elsewhere.

A run is named by its config, so that no journal is needed: finished runs are skipped, partial ones resumed from their
last full state, and a queue that was killed at any moment is continued by the same call. A run that fails is noted,
and the others go on.

Runs are independent of each other, so that any `concurrent.futures.Executor` will do (`interp.execution.executors` has
executors for this machine, Dask and SLURM), even one that does a piece of work twice: a run's lock admits one writer,
and a second worker waits as long as the run grows, and then finds it complete. If a worker is lost (killed, out of
memory, preempted), its run loses the steps since its last full state, at most a minute. All workers must see `root`
under the same path, on a file system with flock.
"""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tqdm.auto import tqdm

from interp.config import RunConfig
from interp.errors import (
    ConfigError,
    InterpError,
    InvalidArgumentError,
    RunExistsError,
    RunLockedError,
    StoreError,
)
from interp.execution.executors import cores, process_pool
from interp.literals import as_count
from interp.store.segments import read_run_json
from interp.training.api import resume, train, train_many
from interp.training.ensemble import shape_of
from interp.training.environment import choose_device
from interp.training.folders import Beginnings, delete_never_begun
from interp.trajectory import Trajectory

__all__ = ["Outcome", "Resources", "train_all"]

MAX_ATTEMPTS: Final = 3
"""Maximum number of workers that are given a piece of work, where workers are lost over it."""
LOCK_SECONDS: Final = 1.0
"""Interval at which a run that another process writes to is tried again."""

Piece = tuple[RunConfig, ...]
Work = Callable[[Piece], dict[str, str]]


@dataclass(frozen=True)
class Outcome:
    """Results of a queue: `trajectories` in the order of their configs, None where one failed; `failures` say why."""

    trajectories: tuple[Trajectory | None, ...]
    failures: Mapping[str, str]
    """Reasons by run_id."""


@dataclass(frozen=True)
class Resources:
    """Workers and devices that train a queue of runs; `train_all` and `sweep` take these fields as keyword arguments.

    Raises:
        InvalidArgumentError: a field breaks a rule.
    """

    executor: Executor | None = None
    """Executor of the work; None: a process pool of `workers`, or this process where there is one worker."""
    workers: int | None = None
    """Number of processes; None: a CPU core each (on CUDA: one), and no more than there is work."""
    together: int = 1
    """Ensemble size: maximum number of runs of equal shape that are trained in one batched step (`train_many`). Runs
    that turn out not to fit together are trained one by one."""
    device: str | None = None
    """Device, as for `train`."""
    threads: int | None = None
    """CPU threads of each worker; None: the cores divided by the workers, and torch's own default with an executor. A
    partial run is resumed with the number that it began with."""
    patience: float = 600.0
    """Seconds for which a run that another process has locked may not grow before it counts as failed."""

    def __post_init__(self) -> None:
        as_count("together", self.together)
        if self.workers is not None:
            as_count("workers", self.workers)
        if self.executor is not None and self.workers is not None:
            raise InvalidArgumentError(
                f"`workers` must not be given with an `executor`, which has workers of its own; got {self.workers}."
            )


def train_all(
    configs: Sequence[RunConfig], *, root: str | Path = "checkpoints", progress: bool = False, **resources: Any
) -> Outcome:
    """Train runs, each stored in `root/<run_id>`, several at a time; finished runs are skipped, partial ones resumed.

    A config that occurs twice is trained once. After Ctrl-C the runs that are under way in processes of this machine
    finish their step and store everything; the same call resumes them.

    Arguments:
        configs: configs of the runs.
        root: folder that holds runs.
        progress: show the number of finished runs.
        resources: the fields of `Resources`: `executor`, `workers`, `together`, `device`, `threads`, `patience`.

    Returns:
        The runs and the failures: runs that diverged, whose folder is damaged, that cannot be built, or over which
        workers were lost three times.

    Raises:
        InvalidArgumentError: an argument breaks a rule.
        KeyboardInterrupt: after Ctrl-C (`RunInterrupted` where the work was done in this process).
    """
    root = Path(root).resolve()  # workers may stand elsewhere
    given = Resources(**resources)
    runs = {config.run_id: config for config in configs}
    left = [config for name, config in runs.items() if not _is_complete(root / name)]
    pieces = _pieces(left, root, given.together)
    with tqdm(total=len(runs), initial=len(runs) - len(left), unit="run", disable=not progress) as bar:
        failures = _trained(pieces, root, given, bar)
    found = {name: Trajectory(root / name) for name in runs if name not in failures}
    for name, traj in list(found.items()):
        if traj.problems:
            failures[name] = f"{traj.problems[0]} Restore it; `interp verify {traj.folder}` says what is lost."
            del found[name]
    return Outcome(tuple(found.get(config.run_id) for config in configs), failures)


def _trained(pieces: Sequence[Piece], root: Path, given: Resources, bar: "tqdm[Any]") -> dict[str, str]:
    """Train the pieces with the resources; returns failures by run_id."""
    work = partial(_train_piece, root=root, device=given.device, patience=given.patience)
    if given.executor is not None:
        return _through(given.executor, pieces, partial(work, threads=given.threads), root, bar)
    most = 1 if choose_device(given.device).type == "cuda" else cores()
    workers = min(most if given.workers is None else given.workers, max(1, len(pieces)))
    if workers > 1:
        _require_importable([config for piece in pieces for config in piece])
        threads = max(1, cores() // workers) if given.threads is None else given.threads
        with process_pool(workers, threads) as pool:
            return _through(pool, pieces, partial(work, threads=threads), root, bar)
    failures: dict[str, str] = {}
    for piece in pieces:
        failures |= work(piece, threads=given.threads)
        bar.update(len(piece))
    return failures


def _require_importable(configs: Sequence[RunConfig]) -> None:
    """Refuse classes of an interactive session, which processes of their own could not import."""
    if "__file__" in vars(sys.modules["__main__"]):
        return
    for config in configs:
        data = config.to_dict()
        for kind in (data["task"]["kind"], data["model"]["kind"]):
            if kind.startswith("__main__:"):
                raise InvalidArgumentError(
                    f"`{kind.partition(':')[2]}` of an interactive session must be put into a module that can be "
                    f"imported, for worker processes to find it; or train with workers=1."
                )


# --- a piece of work --------------------------------------------------------------------------------------------------


def _pieces(configs: Sequence[RunConfig], root: Path, together: int) -> list[Piece]:
    """Pieces of work for one worker each: the members of an ensemble that was begun, or new runs of equal shape."""
    begun: dict[tuple[str, ...], list[RunConfig]] = {}
    fresh: dict[str, list[RunConfig]] = {}
    beginnings = Beginnings()
    for config in configs:
        folder = root / config.run_id
        try:
            run = None if beginnings.never_begun(folder) else read_run_json(folder / "run.json")[0]
        except StoreError:  # not there, or damaged: training it will say so
            run = None
        if run is None:
            fresh.setdefault(shape_of(config) if together > 1 else config.run_id, []).append(config)
        else:
            begun.setdefault(tuple(run.get("ensemble", [config.run_id])), []).append(config)
    chunks = [tuple(runs[i : i + together]) for runs in fresh.values() for i in range(0, len(runs), together)]
    return [*map(tuple, begun.values()), *chunks]


def _train_piece(
    piece: Piece, *, root: Path, device: str | None, threads: int | None, patience: float
) -> dict[str, str]:
    """Train some runs, new ones as an ensemble and partial ones from where they are; returns failures by run_id."""
    failures: dict[str, str] = {}
    left, apart, growth = list(piece), False, _Growth()
    while left:
        begun = _begun(left, root)
        fresh = [config for config in left if config not in begun]
        groups = [[config] for config in begun]
        groups += [[config] for config in fresh] if apart else [fresh] if fresh else []
        left, locked = [], False
        for group in groups:
            folders = [root / config.run_id for config in group]
            try:
                if group[0] in begun:
                    resume(folders[0], device=device)  # with as many threads as it began with
                elif len(group) == 1:
                    train(group[0], root=root, device=device, threads=threads)
                else:
                    train_many(group, root=root, device=device, threads=threads)
            except Exception as error:
                text = str(error) if isinstance(error, InterpError) else f"{type(error).__name__}: {error}"
                if isinstance(error, RunLockedError) and growth.pause(folders) < patience:
                    left, locked = left + group, True
                elif isinstance(error, RunLockedError):
                    text += f" It has not grown for {patience:g} seconds."
                    failures |= {config.run_id: text for config in group}
                elif isinstance(error, ConfigError | RunExistsError) and len(group) > 1:
                    left, apart = left + group, True  # their operands differ, or another process has begun one of them
                elif isinstance(error, RunExistsError) and (folders[0] / "run.json").exists():
                    left += group  # begun by another process in the meantime
                else:
                    failures |= {config.run_id: text for config in group if not _is_complete(root / config.run_id)}
        if locked:
            time.sleep(LOCK_SECONDS)
    return failures


class _Growth:
    """Time for which folders have not grown."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, float]] = {}

    def pause(self, folders: Sequence[Path]) -> float:
        """Seconds since the folders were first seen at their present size."""
        size = sum(map(_size, folders))
        if size != self._seen.get(folders[0], (None,))[0]:
            self._seen[folders[0]] = size, time.monotonic()
        return time.monotonic() - self._seen[folders[0]][1]


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a writer's temporary file
            size += path.stat().st_size
    return size


def _is_complete(folder: Path) -> bool:
    try:
        return read_run_json(folder / "run.json")[1]
    except StoreError:
        return False


def _begun(configs: Sequence[RunConfig], root: Path) -> dict[RunConfig, None]:
    """Configs of which there is a run to resume; members of an ensemble that never began are deleted."""
    with contextlib.suppress(StoreError):  # locked: another process trains it; damaged: `resume` will say so
        delete_never_begun(root / config.run_id for config in configs)
    return dict.fromkeys(config for config in configs if (root / config.run_id / "run.json").exists())


def _through(executor: Executor, pieces: Sequence[Piece], work: Work, root: Path, bar: "tqdm[Any]") -> dict[str, str]:
    """Submit the pieces and collect the failures; a piece whose worker was lost is submitted again."""
    failures: dict[str, str] = {}
    attempts: Counter[Piece] = Counter()
    running: dict[Future[dict[str, str]], Piece] = {executor.submit(_remotely, work, one): one for one in pieces}
    try:
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                piece = running.pop(future)
                attempts[piece] += 1
                error = None if future.cancelled() else future.exception()
                if error is None and not future.cancelled():
                    failures |= future.result()
                elif error and attempts[piece] < MAX_ATTEMPTS and _submitted(executor, work, piece, running):
                    continue
                else:
                    reason = f"{type(error).__name__}: {error}" if error else "the executor has cancelled it"
                    lost = f"{attempts[piece]} times out of {MAX_ATTEMPTS} at most"
                    text = f"Its worker was lost, {lost}; at last {reason}"
                    failures |= {one.run_id: text for one in piece if not _is_complete(root / one.run_id)}
                bar.update(len(piece))
    except KeyboardInterrupt:
        for future in running:
            future.cancel()
        raise KeyboardInterrupt(
            f"Interrupted; {bar.n} of {bar.total} runs are done. The same sweep, started again, goes on with the rest."
        ) from None
    return failures


def _submitted(executor: Executor, work: Work, piece: Piece, running: dict[Future[dict[str, str]], Piece]) -> bool:
    """Whether a piece could be submitted again: an executor that broke with its worker takes no more work."""
    try:
        running[executor.submit(_remotely, work, piece)] = piece
    except BrokenExecutor:
        return False
    return True


def _remotely(work: Work, piece: Piece) -> dict[str, str]:
    """Do a piece of work in a worker; `RunInterrupted`, which holds a path of that machine, is not pickled."""
    try:
        return work(piece)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(str(error)) from None
