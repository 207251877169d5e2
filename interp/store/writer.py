"""The writer of a run: segments and metrics in the background, full states, recovery after a kill."""

import itertools
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from interp.errors import CorruptRunError, InvalidArgumentError, RunExistsError, RunLockedError, StoreError
from interp.store.opening import (
    append_to,
    inside,
    leftovers,
    listing,
    naming,
    publish,
    require_lockable,
    sync_folder,
    truncate,
)
from interp.store.reader import RunReader
from interp.store.segments import (
    Follows,
    Holdings,
    SealedFile,
    check_dtype,
    commit_arrays,
    digest,
    metrics_digest,
    metrics_line,
    metrics_lines,
    metrics_records,
    read_run_json,
    regions,
    run_json,
)

__all__ = ["RunWriter"]


class RunWriter:
    """Writer of a run, one at a time; get it from `create` or `open` and use it as a context manager.

    Appended steps are copied at once; a background thread hashes, writes and syncs them, and its errors are raised by
    the next call. At most two segments wait there, so memory is bounded by about five times `segment_bytes`.

    Arguments:
        folder: folder of the run, which holds a `run.json`.
        segment_bytes: maximum number of bytes in a segment.
        segment_steps: maximum number of steps in a segment.
        segment_seconds: age [s] of its first step at which a segment is cut by the next call of `append` or `log`.
        fsync: whether files are synced, against power loss; False is for tests (a kill is survived all the same).

    Raises:
        RunLockedError: another writer has the run.
        CorruptRunError: a committed segment cannot be read.

    Example:
        >>> import tempfile, numpy as np
        >>> folder = Path(tempfile.mkdtemp()) / "squares"
        >>> with RunWriter.create(folder, {"p": 59}) as writer:
        ...     for step in range(5):
        ...         writer.append(step, {"w": np.full((2, 3), step**2)})
        ...         writer.log({"step": step, "loss": 1 / (1 + step)})
        >>> reader = RunReader(folder)
        >>> reader.steps.tolist(), reader.shape("w"), reader.read("w", slice(1, 4))[:, 0, 0].tolist()
        ([0, 1, 2, 3, 4], (2, 3), [1, 4, 9])
        >>> print(reader.verify())
        5 steps in 1 segments, 0 full states: ok
    """

    _identity: str

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = 32 * 2**20,
        segment_steps: int = 64,
        segment_seconds: float = 10.0,
        fsync: bool = True,
    ) -> None:
        self.folder = folder = Path(folder)
        self._limits, self._seconds, self._fsync = (segment_bytes, segment_steps), segment_seconds, fsync
        if not os.path.lexists(folder / "run.json"):
            raise StoreError(f"{folder / 'run.json'} does not exist: there is no run to continue.")
        require_lockable(folder / "LOCK")
        # Not zero seconds: a reader that looks whether someone is writing holds the lock for microseconds.
        self._lock = FileLock(folder / "LOCK", timeout=0.5)
        try:
            with naming(folder / "LOCK"):
                self._lock.acquire()
        except StoreError as error:
            if isinstance(error.__cause__, Timeout):
                raise RunLockedError(f"{folder}: another process is writing to this run; wait for it.") from None
            raise
        try:
            self._recover()
        except BaseException:
            self._lock.release()
            raise
        self._buffers: dict[str, np.ndarray] = {}
        self._steps: list[int] = []
        self._lines: list[bytes] = []
        self._last_appended = -1
        self._oldest = math.inf  # arrival of the oldest step or line in memory, by the monotonic clock
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="interp-store")
        self._pending: deque[Future[None]] = deque()
        self._spare: list[dict[str, np.ndarray]] = []
        self._failure: BaseException | None = None

    @classmethod
    def create(cls, folder: Path, run: Mapping[str, Any], **settings: Any) -> "RunWriter":
        """Start a new run with the description `run`, a JSON object; `settings` are arguments of the class.

        Raises:
            RunExistsError: the folder holds a run, or parts of one without its run.json.
        """
        folder = Path(folder)
        text = run_json(run, complete=False)
        with naming(folder):
            children = [inside(folder, child) for child in ("trajectory", "state")]
            parts = any(any(child.glob("*.safetensors")) for child in children)
            if parts or any(os.path.lexists(folder / name) for name in ("run.json", "metrics.jsonl")):
                raise RunExistsError(
                    f"{folder} already holds a run, or parts of one; resume it, overwrite it or choose another folder."
                )
            for child in children:
                child.mkdir(parents=True, exist_ok=True)
        fsync = bool(settings.get("fsync", True))
        if not publish(folder / "run.json", [text], fsync=fsync):
            raise RunExistsError(
                f"{folder} already holds a run, or parts of one; resume it, overwrite it or choose another folder."
            )
        if fsync:
            sync_folder(folder.parent)
        return cls(folder, **settings)

    @classmethod
    def open(cls, folder: Path, **settings: Any) -> "RunWriter":
        """Continue the run in `folder`; its files stay, and `append` compares repeated steps with them."""
        return cls(folder, **settings)

    @property
    def run(self) -> dict[str, Any]:
        """Description of the run, as it is in run.json; change it with `replace_run`."""
        return dict(self._run)

    @property
    def last_committed(self) -> int | None:
        """Last step that is safe on disk; None before the first."""
        return self._last_committed

    def append(self, step: int | np.integer, arrays: Mapping[str, np.ndarray]) -> None:
        """Add one step: the same names, shapes and dtypes each time, steps strictly increasing.

        A step that is already committed is compared with the stored arrays, and not written again.

        Raises:
            InvalidArgumentError: a rule above is broken.
            CorruptRunError: a repeated step differs from the stored one; the message says where.
            StoreError: an earlier segment could not be written.
        """
        self._check_failure()
        if not isinstance(step, Integral) or step <= self._last_appended:
            rule = f"an integer greater than the last appended step, {self._last_appended}"
            raise InvalidArgumentError(f"`step` must be {rule}; got {step!r}.")
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        spec = {name: (array.shape, array.dtype.newbyteorder("=")) for name, array in arrays.items()}
        self._check_spec(int(step), spec)
        if step in self._committed:
            self._prove(int(step), arrays)
        elif self._last_committed is not None and step <= self._stored_until:
            raise InvalidArgumentError(f"`step` {step} lies between committed steps but is none of them.")
        else:
            if not self._steps and self._spare:  # memory that was touched before takes a copy ten times as fast
                self._buffers = self._spare.pop()
            elif not self._steps:
                self._buffers = {name: np.empty((self._capacity, *s), d) for name, (s, d) in self._spec.items()}
            for name, buffer in self._buffers.items():
                buffer[len(self._steps)] = arrays[name]
            self._steps.append(int(step))
            if len(self._steps) == self._capacity:
                self.flush()
        self._last_appended = int(step)
        self._tick()

    def log(self, record: Mapping[str, Any]) -> None:
        """Add one line of metrics: numbers by name, with the integer `step`; a value that is not finite reads as NaN.

        Several lines of one step are merged by the reader, the later value of a name wins.
        """
        self._check_failure()
        self._lines.append(metrics_line(record))
        self._tick()

    def flush(self) -> None:
        """Hand everything in memory to the background thread, waiting only while two segments are under way there."""
        self._check_failure()
        if self._steps or self._lines:
            self._settle(1)
            self._pending.append(self._worker.submit(self._write, self._steps, self._buffers, self._lines))
            self._steps, self._buffers, self._lines = [], {}, []
        self._oldest = math.inf

    def commit(self) -> int | None:
        """Make everything appended and logged so far durable; returns the last committed step."""
        self.flush()
        self._settle(0)
        return self._last_committed

    def save_state(
        self,
        step: int | np.integer,
        arrays: Mapping[str, np.ndarray],
        metadata: Mapping[str, Any],
        *,
        keep_last: int = 2,
        keep: Callable[[int], bool] | None = None,
    ) -> None:
        """Commit the trajectory, then write the full state at `step`, then delete states that need not be kept.

        The last `keep_last` states are kept, and every state for whose step `keep` is true. A state that exists already
        is compared, not written; metadata are not compared, because they may hold times of day.

        Raises:
            CorruptRunError: the state exists and differs.
        """
        self.commit()
        if not isinstance(step, Integral) or step < 0:
            raise InvalidArgumentError(f"`step` must be a non-negative integer; got {step!r}.")
        if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
            raise InvalidArgumentError("`metadata` must map str to str; encode other values as JSON.")
        plain = {name: np.asarray(array) for name, array in arrays.items()}
        for name, array in plain.items():
            check_dtype(name, array.dtype)
            plain[name] = np.require(array, array.dtype.newbyteorder("="), "C")
        self._reopen()
        follows = Follows(self._previous, self._logged_bytes, self._logged.hexdigest())
        extra = {"run": self._identity, "steps": json.dumps([int(step)]), "metadata": json.dumps(dict(metadata))}
        extra["follows"] = json.dumps(follows)
        if events := [event for event in self._run.get("events", []) if event[0] <= step]:
            extra["events"] = json.dumps(events)
        commit_arrays(self.folder / "state" / f"{int(step):08d}.safetensors", plain, 1, extra, fsync=self._fsync)
        states = listing(self.folder / "state", r"(\d{8,})\.safetensors")
        for (old,), path in states[: max(len(states) - keep_last, 0)]:
            if old != step and not (keep and keep(old)):
                with naming(path):
                    path.unlink()

    def replace_run(self, run: Mapping[str, Any], *, complete: bool = False) -> None:
        """Replace run.json atomically; that of a `complete` run also lists the run's files."""
        self.commit()
        holdings = self._holdings() if complete else None
        text = run_json(run, complete=complete, identity=self._identity, holdings=holdings)
        self._reopen()
        publish(self.folder / "run.json", [text], fsync=self._fsync, replace=True)
        self._run, self._complete = read_run_json(self.folder / "run.json").run, complete

    def finish(self) -> None:
        """Commit, and mark the run as complete."""
        self.commit()
        self.replace_run(self._run, complete=True)

    def truncate_after(self, step: int) -> None:
        """Drop metrics and full states of steps > `step`, to continue from there; weights stay, to be compared.

        Full states that follow a dropped line go, too. (Metrics of `step` itself may stay, because a later line of a
        step replaces an earlier one.)
        """
        self.commit()
        path = self.folder / "metrics.jsonl"
        lines = metrics_lines(path)[0]
        keeps = [record["step"] <= step for record in metrics_records(path, lines)]
        unchanged = sum(len(line) + 1 for line, _ in zip(lines, itertools.takewhile(bool, keeps)))
        states = [
            state
            for (of,), state in listing(self.folder / "state", r"(\d{8,})\.safetensors")
            if of > step or self._metrics_followed(state, of) > unchanged
        ]
        if not all(keeps) or states:
            self._reopen()
        for state in states:  # before the metrics that they follow
            with naming(state):
                state.unlink()
        if states and self._fsync:
            sync_folder(self.folder / "state")
        if not all(keeps):
            kept = [line for line, keep in zip(lines, keeps) if keep]
            publish(path, [b"\n".join([*kept, b""])], fsync=self._fsync, replace=True)
            self._logged_bytes, self._logged = metrics_digest(path)

    def cut_after(self, step: int) -> None:
        """Drop weights of steps > `step`, from the last one backwards, for a loop that goes on from there otherwise.

        A segment that holds `step` and later ones is published anew up to it before it is deleted; after a kill in
        between, the next writer deletes it.
        """
        self.commit()
        if self._last_committed is None or self._last_committed <= step:
            return
        self._reopen()
        reader = RunReader(self.folder, verify="first")
        for file in reversed(reader._segments):
            if file.steps[-1] <= step:
                break
            kept = [int(own) for own in file.steps if own <= step]
            if kept:
                data = file.map()
                arrays = {name: np.array(file.view(data, name)[: len(kept)]) for name in reader.names}
                path = self.folder / "trajectory" / f"{kept[0]:08d}-{kept[-1]:08d}.safetensors"
                extra = {"run": self._identity, "steps": json.dumps(kept), "previous": file.previous}
                commit_arrays(path, arrays, len(kept), extra, fsync=self._fsync)
            with naming(file.path):
                file.path.unlink()
        if self._fsync:
            sync_folder(self.folder / "trajectory")
        self._recover()
        self._last_appended = -1

    def close(self) -> None:
        """Commit and release the lock; also after an error of the background thread, which is raised again."""
        try:
            if self._lock.is_locked:
                self.commit()
        finally:
            self._worker.shutdown()
            self._lock.release()

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except Exception as second:
            if error is None:
                raise
            if second is not error:
                error.add_note(f"The run could not be closed cleanly: {second}")

    def _recover(self) -> None:
        """Under the lock: remove temporary files of dead writers, and list the committed steps."""
        for path in leftovers(self.folder):
            with naming(path):
                path.unlink(missing_ok=True)
        for child in ("trajectory", "state"):
            with naming(self.folder / child):
                inside(self.folder, child).mkdir(exist_ok=True)
                if self._fsync:  # a file that was published just before a kill is durable, too
                    sync_folder(self.folder / child)
        self._finish_cut()
        metrics = self.folder / "metrics.jsonl"
        _, torn = metrics_lines(metrics)
        if torn:
            truncate(metrics, torn)
        reader = RunReader(self.folder, verify="never")
        self._run, self._complete, self._lost = reader.run, reader.complete, reader.problems
        self._identity = reader.identity
        self._logged_bytes, self._logged = metrics_digest(metrics)
        if reader.gaps and not self._complete:
            raise CorruptRunError(
                f"{reader.gaps[0]} Restore it, or remove every segment from there on: they are computed again."
            )
        self._committed = {int(step): (file, row) for file in reader._segments for row, step in enumerate(file.steps)}
        self._spec: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        if reader._segments:
            self._set_spec({name: (reader.shape(name), reader.dtype(name)) for name in reader.names})
        self._last_committed = int(reader.steps[-1]) if len(reader.steps) else None
        self._stored_until = -1 if self._last_committed is None else self._last_committed
        self._previous = reader._segments[-1].reference if reader._segments else ""

    def _finish_cut(self) -> None:
        """Delete a segment of which a shorter one is there already: `cut_after` was killed between the two."""
        files = listing(self.folder / "trajectory", r"(\d{8,})-(\d{8,})\.safetensors")
        for ((first, _), shorter), ((other, _), longer) in itertools.pairwise(files):
            if first != other:
                continue
            short, long = SealedFile(shorter), SealedFile(longer)
            rows = range(len(short.steps))
            if (short.run, short.previous) == (long.run, long.previous) and all(
                short.digest(name, row) == long.digest(name, row) for name in short.spec for row in rows
            ):
                with naming(longer):
                    longer.unlink()

    def _metrics_followed(self, state: Path, step: int) -> int:
        """Bytes of metrics that a full state follows; 0 where its file does not say, or is damaged.

        One that was renamed or is of another run says nothing of this step: it stays, for `verify` to name it.
        """
        with suppress(CorruptRunError):
            file = SealedFile(state)
            file.require_bound(self._identity, step, step, is_state=True)
            return file.follows.metrics_bytes if file.follows else 0
        return 0

    def _holdings(self) -> Holdings:
        """Inventory of all committed files."""
        states = listing(self.folder / "state", r"(\d{8,})\.safetensors")
        seals = [SealedFile(path).seal for _, path in states]
        steps = [step for (step,), _ in states]
        return Holdings(self._previous, steps, self._logged_bytes, self._logged.hexdigest(), seals)

    def _reopen(self) -> None:
        """Mark a complete run as incomplete before it is changed; `finish` completes it with a new inventory."""
        if self._complete and self._lost:  # the new inventory would forget the loss
            raise CorruptRunError(f"{self._lost[0]} Restore it before anything is added, or train the run again.")
        if self._complete:
            text = run_json(self._run, complete=False, identity=self._identity)
            publish(self.folder / "run.json", [text], fsync=self._fsync, replace=True)
            self._complete = False

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._lock.is_locked:
            raise StoreError(f"{self.folder}: this writer is closed.")

    def _set_spec(self, spec: dict[str, tuple[tuple[int, ...], np.dtype]]) -> None:
        self._spec = spec
        size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in spec.values())
        max_bytes, max_steps = self._limits
        self._capacity = max(1, min(max_steps, max_bytes // max(size, 1)))

    def _check_spec(self, step: int, spec: dict[str, tuple[tuple[int, ...], np.dtype]]) -> None:
        if not spec:
            raise InvalidArgumentError("`arrays` must hold at least one array.")
        if spec == self._spec:
            return
        if self._spec:
            wrong = [name for name in {**self._spec, **spec} if self._spec.get(name) != spec.get(name)]
            if wrong:
                name = wrong[0]
                rule = f"the shape and dtype of earlier steps, {self._spec.get(name, 'absent')}"
                raise InvalidArgumentError(f"`{name}` must have {rule}; got {spec.get(name, 'absent')} at step {step}.")
            return
        for name, (_, dtype) in spec.items():
            check_dtype(name, dtype)
        self._set_spec(spec)

    def _prove(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        file, row = self._committed[step]
        for name, array in arrays.items():
            if digest(regions(np.require(array, self._spec[name][1], "C"), 1)[0]) != file.digest(name, row):
                text = f"{file.path}: `{name}` at step {step} is not what the repeated step gives"
                raise CorruptRunError(f"{text}; the continued run is not bit-identical (other device or version?).")

    def _tick(self) -> None:
        """Flush when the oldest step or line in memory is too old: a kill loses little, a reader sees the run grow."""
        now = time.monotonic()
        if self._steps or self._lines:
            self._oldest = min(self._oldest, now)
        if now - self._oldest >= self._seconds:
            self.flush()

    def _settle(self, allowed: int) -> None:
        while len(self._pending) > allowed:
            wait([self._pending.popleft()])
        self._check_failure()

    def _write(self, steps: list[int], buffers: dict[str, np.ndarray], lines: list[bytes]) -> None:
        """Commit one segment and append lines of metrics, in the background thread."""
        if self._failure is not None:  # a later segment must not land behind a gap
            return
        try:
            self._reopen()
            if steps:
                stacked = {name: buffer[: len(steps)] for name, buffer in buffers.items()}
                path = self.folder / "trajectory" / f"{steps[0]:08d}-{steps[-1]:08d}.safetensors"
                extra = {"run": self._identity, "steps": json.dumps(steps), "previous": self._previous}
                seal = commit_arrays(path, stacked, len(steps), extra, fsync=self._fsync)
                self._previous, self._last_committed = f"{path.name}:{seal}", steps[-1]
                self._spare.append(buffers)
            if lines:
                data = b"\n".join([*lines, b""])
                append_to(self.folder / "metrics.jsonl", data, fsync=self._fsync)
                self._logged.update(data)
                self._logged_bytes += len(data)
        except BaseException as error:
            self._failure = error
