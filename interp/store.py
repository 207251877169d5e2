"""Bytes to arrays and back: the folder of one run, committed so that a kill loses little and a flipped bit is noticed.

    run.json                                   what the caller says about the run, sealed with a SHA-256
    trajectory/00000000-00000063.safetensors   one *segment*: every array stacked [K, ...] over K steps
    state/00004000.safetensors                 everything needed to resume at one step
    metrics.jsonl                              a line per logged step, each with its CRC-32
    LOCK                                       held by the one writer; readers need no lock

*The listing is the commit log.* A segment is built in memory and published whole under its final name (see `segments`
for the file and how it is committed); it is never written again, and whatever a kill leaves behind is a temporary file
that the next writer removes.

*A chain.* Each segment's header names the seal of the segment before it. A seal vouches for every byte of its own file,
so the last one vouches, through the chain, for all files before it.

*Resume is a proof.* Appending a step that is already committed writes nothing: it checks that the digests agree. A
trainer that restarts from an older full state and reaches the end of the trajectory has shown that it is bit-exact.
"""

import fcntl
import hashlib
import itertools
import json
import math
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from interp.errors import (
    CorruptRunError,
    InvalidArgumentError,
    RunExistsError,
    RunLockedError,
    StoreError,
    UnknownNameError,
    did_you_mean,
)
from interp.segments import (
    DIGEST,
    SealedFile,
    append_to,
    check_dtype,
    commit_arrays,
    digest,
    leftovers,
    listing,
    metrics_columns,
    metrics_line,
    metrics_lines,
    naming,
    publish,
    read_run_json,
    regions,
    run_json,
    sync_folder,
)

__all__ = ["RunReader", "RunWriter", "VerifyReport"]

OPEN_MAPS = 256  # a memory map holds a file descriptor, of which a process has 1024 by default


@dataclass(frozen=True)
class VerifyReport:
    """What `RunReader.verify` found: `errors` are damage, `warnings` deserve a look, steps are closed ranges."""

    steps: int
    segments: int
    states: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    unreadable_steps: tuple[tuple[int, int], ...]

    @property
    def ok(self) -> bool:
        """Whether every byte is what was written."""
        return not self.errors

    def __str__(self) -> str:
        head = f"{self.steps} steps in {self.segments} segments, {self.states} full states"
        lines = [f"error: {text}" for text in self.errors] + [f"warning: {text}" for text in self.warnings]
        return "\n".join([f"{head}: {'ok' if self.ok else 'DAMAGED'}", *lines])


class RunWriter:
    """The one writer of a run; get it from `create` or `open` and use it as a context manager.

    Appended steps are copied at once, and hashed, written and synced by a background thread; its errors are raised by
    the next call. At most two segments wait there, so memory is bounded by about five times `segment_bytes`.

    Arguments:
        folder: the run's folder, which holds a `run.json`.
        segment_bytes: a segment is cut when it holds this many bytes,
        segment_steps: or this many steps,
        segment_seconds: or when its first step is this old [s] at the next call of `append` or `log`.
        fsync: False gives up safety against power loss (not against a kill), for tests.

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
        if not (folder / "run.json").exists():
            raise StoreError(f"{folder / 'run.json'} does not exist: there is no run to continue.")
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
        self._oldest = math.inf  # when the oldest thing that waits in memory arrived
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="interp-store")
        self._pending: deque[Future[None]] = deque()
        self._spare: list[dict[str, np.ndarray]] = []
        self._failure: BaseException | None = None

    @classmethod
    def create(cls, folder: Path, run: Mapping[str, Any], **settings: Any) -> "RunWriter":
        """Start a new run that `run`, a JSON object, describes; `settings` are those of the class.

        Raises:
            RunExistsError: the folder holds a run, or a trajectory without its run.json.
        """
        folder = Path(folder)
        text = run_json(run, complete=False)
        with naming(folder):
            if (folder / "run.json").exists() or any((folder / "trajectory").glob("*.safetensors")):
                raise RunExistsError(
                    f"{folder} already holds a run, or the trajectory of one; resume it or choose another folder."
                )
            for child in ("trajectory", "state"):
                (folder / child).mkdir(parents=True, exist_ok=True)
        fsync = bool(settings.get("fsync", True))
        if not publish(folder / "run.json", [text], fsync=fsync):
            raise RunExistsError(
                f"{folder} already holds a run, or the trajectory of one; resume it or choose another folder."
            )
        if fsync:
            sync_folder(folder.parent)
        return cls(folder, **settings)

    @classmethod
    def open(cls, folder: Path, **settings: Any) -> "RunWriter":
        """Continue the run in `folder`; what it holds stays, `append` checks what it repeats."""
        return cls(folder, **settings)

    @property
    def last_committed(self) -> int | None:
        """The last step that is safe on disk, None before the first."""
        return self._last_committed

    def append(self, step: int | np.integer, arrays: Mapping[str, np.ndarray]) -> None:
        """Add one step: the same names, shapes and dtypes each time, steps strictly increasing.

        A step that is already committed is compared with what is stored, and not written again.

        Raises:
            InvalidArgumentError: a rule above is broken.
            CorruptRunError: a repeated step differs from what is stored; the message says where.
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

        Kept are this one, the last `keep_last`, and those whose step `keep` approves of. A state that exists already is
        compared, not written; metadata does not take part, because it may hold times of day.

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
        extra = {"steps": json.dumps([int(step)]), "metadata": json.dumps(dict(metadata))}
        commit_arrays(self.folder / "state" / f"{int(step):08d}.safetensors", plain, 1, extra, fsync=self._fsync)
        states = listing(self.folder / "state", r"(\d{8,})\.safetensors")
        for (old,), path in states[: max(len(states) - keep_last, 0)]:
            if old != step and not (keep and keep(old)):
                with naming(path):
                    path.unlink()

    def replace_run(self, run: Mapping[str, Any], *, complete: bool = False) -> None:
        """Replace run.json atomically, and say whether the run is `complete`."""
        self.commit()
        text = run_json(run, complete=complete)
        publish(self.folder / "run.json", [text], fsync=self._fsync, replace=True)

    def finish(self) -> None:
        """Commit, and mark the run as complete."""
        self.commit()
        self.replace_run(read_run_json(self.folder / "run.json")[0], complete=True)

    def truncate_after(self, step: int) -> None:
        """Drop metrics of steps > `step`, for a resume from the full state at `step`; the trajectory stays, as proof.

        (A trainer that logs `step` itself again needs no more than this: its line replaces the old one.)
        """
        self.commit()
        path = self.folder / "metrics.jsonl"
        lines = metrics_lines(path)[0]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        if len(kept) < len(lines):
            publish(path, [b"\n".join([*kept, b""])], fsync=self._fsync, replace=True)

    def close(self) -> None:
        """Commit and let go of the run; also after an error, which is raised again."""
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
        """Under the lock: remove what dead writers left, and learn what is committed."""
        for path in leftovers(self.folder):
            with naming(path):
                path.unlink(missing_ok=True)
        metrics = self.folder / "metrics.jsonl"
        _, torn = metrics_lines(metrics)
        if torn:
            with naming(metrics):
                os.truncate(metrics, metrics.stat().st_size - torn)
        reader = RunReader(self.folder, verify="never")
        if reader._unreadable:
            first = next(iter(reader._unreadable.values()))
            raise CorruptRunError(f"{first} Restore it, or remove it to continue without its steps.")
        self._committed = {int(step): (file, row) for file in reader._segments for row, step in enumerate(file.steps)}
        self._spec: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        if reader._segments:
            self._set_spec({name: (reader.shape(name), reader.dtype(name)) for name in reader.names})
        self._last_committed = int(reader.steps[-1]) if len(reader.steps) else None
        self._stored_until = -1 if self._last_committed is None else self._last_committed
        self._previous = reader._segments[-1].reference if reader._segments else ""

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
        """Flush when the oldest thing in memory is too old: a kill then loses little, a reader sees the run grow."""
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
        """On the worker: commit one segment and append the lines of metrics."""
        if self._failure is not None:  # a later segment must not land behind a gap
            return
        try:
            if steps:
                stacked = {name: buffer[: len(steps)] for name, buffer in buffers.items()}
                path = self.folder / "trajectory" / f"{steps[0]:08d}-{steps[-1]:08d}.safetensors"
                extra = {"steps": json.dumps(steps), "previous": self._previous}
                seal = commit_arrays(path, stacked, len(steps), extra, fsync=self._fsync)
                self._previous, self._last_committed = f"{path.name}:{seal}", steps[-1]
                self._spare.append(buffers)
            if lines:
                append_to(self.folder / "metrics.jsonl", b"\n".join([*lines, b""]), fsync=self._fsync)
        except BaseException as error:
            self._failure = error


class RunReader:
    """A run, complete or still growing, as arrays over memory maps; it never writes and needs no lock.

    Arguments:
        folder: the run's folder.
        verify: check a digest the "first" time that its array and step are read, "always", or "never".

    Attributes:
        run: the caller's dict in run.json.
        complete: whether the writer has marked the run as complete.
        steps: all readable committed steps, int64 [n].
        names: the arrays of each step.
        problems: damage seen while listing the segments (unreadable headers, missing files), one sentence each.

    Raises:
        StoreError: there is no run.json.
        CorruptRunError: run.json is damaged.
    """

    run: dict[str, Any]
    complete: bool
    steps: np.ndarray
    names: tuple[str, ...]
    problems: tuple[str, ...]

    def __init__(self, folder: Path, *, verify: str = "first") -> None:
        if verify not in ("first", "always", "never"):
            raise InvalidArgumentError(f'`verify` must be "first", "always" or "never"; got {verify!r}.')
        self.folder, self._verify = Path(folder), verify
        self._files: dict[str, SealedFile] = {}
        self._maps: OrderedDict[str, np.ndarray] = OrderedDict()
        self._metrics: tuple[tuple[int, int], dict[str, np.ndarray]] | None = None
        self.refresh()

    def refresh(self) -> None:
        """See what was committed since; one damaged segment does not hide the others."""
        self.run, self.complete = read_run_json(self.folder / "run.json")
        self._segments: list[SealedFile] = []
        self._unreadable: dict[tuple[int, int], CorruptRunError] = {}
        problems = []
        previous: str | None = ""  # None behind a segment that cannot be read
        for (first, last), path in listing(self.folder / "trajectory", r"(\d{8,})-(\d{8,})\.safetensors"):
            try:
                file = self._files[path.name] = self._files.get(path.name) or SealedFile(path)
                if (file.steps[0], file.steps[-1]) != (first, last):
                    raise CorruptRunError(f"{path} holds other steps than it names.")
                before = self._segments[-1] if self._segments else None
                if before and (file.spec != before.spec or first <= before.steps[-1]):
                    raise CorruptRunError(f"{path} repeats steps of {before.path.name}, or has other arrays.")
            except CorruptRunError as error:
                self._unreadable[first, last] = error
                problems.append(str(error))
                previous = None
                continue
            if previous is not None and file.previous != previous:
                wanted = file.previous[:-65] or "nothing"  # the name, without colon and seal
                problems.append(f"{path} was written after another {wanted} than is there; is a segment missing?")
            self._segments.append(file)
            previous = file.reference
        self.problems = tuple(problems)
        self.names = tuple(self._segments[0].spec) if self._segments else ()
        self.steps = np.concatenate([np.empty(0, np.int64), *(file.steps for file in self._segments)])
        self.steps.flags.writeable = False
        self._starts = np.cumsum([0, *(len(file.steps) for file in self._segments)])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of `name` at one step."""
        return self._spec(name)[0]

    def dtype(self, name: str) -> np.dtype:
        """The dtype of `name`."""
        return self._spec(name)[1]

    def read(self, name: str, index: int | np.integer | slice | np.ndarray) -> np.ndarray:
        """`name` [...] at a position over `steps`, or stacked [k, ...] for a slice or an array of positions or bools.

        A slice within one segment (and an int) is a read-only view of the file; anything else is a copy.

        Raises:
            UnknownNameError: no such array.
            IndexError: no such position.
            CorruptRunError: a digest does not match; the message names file, array and step.
        """
        shape, dtype = self._spec(name)
        scalar = isinstance(index, Integral)
        if scalar:
            index = np.array([index])
        positions = np.arange(len(self.steps))[index]  # bounds, negative positions and masks as numpy has them
        if positions.ndim != 1:
            raise InvalidArgumentError(f"`index` must be a position, a slice or a vector; got {positions.ndim} axes.")
        owners = np.searchsorted(self._starts, positions, side="right") - 1
        breaks = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(positions)]
        out = None
        for start, stop in itertools.pairwise(breaks) if len(positions) else ():
            segment = int(owners[start])
            rows = self._rows(segment, name, _as_slice(positions[start:stop] - self._starts[segment]))
            if stop - start == len(positions):
                return rows[0, ...] if scalar else rows
            out = np.empty((len(positions), *shape), dtype) if out is None else out
            out[start:stop] = rows
        return np.empty((0, *shape), dtype) if out is None else out

    def fingerprints(self) -> list[str]:
        """One digest per step of all that is stored there, from the headers alone: equal weights, equal fingerprint."""
        return [
            hashlib.sha256("".join(file.digest(name, row) for name in self.names).encode()).hexdigest()[:DIGEST]
            for file in self._segments
            for row in range(len(file.steps))
        ]

    @property
    def state_steps(self) -> list[int]:
        """The steps that have a full state."""
        return [step for (step,), _ in listing(self.folder / "state", r"(\d{8,})\.safetensors")]

    def read_state(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """The full state at `step`: its arrays, writable copies with every digest checked, and its metadata."""
        if step not in self.state_steps:
            raise UnknownNameError(f"No full state at step {step} in {self.folder}. Known: {self.state_steps}.")
        file = SealedFile(self.folder / "state" / f"{step:08d}.safetensors")
        data = file.map()
        for name in file.spec:
            file.check(data, name, 0)
        return {name: file.view(data, name).copy() for name in file.spec}, json.loads(file.fields["metadata"])

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The metrics as columns over logged steps: `step` int64, the others float64 with NaN where there is none."""
        path = self.folder / "metrics.jsonl"
        stat = path.stat() if path.exists() else None
        key = (stat.st_size, stat.st_mtime_ns) if stat else (0, 0)
        if self._metrics is None or self._metrics[0] != key:
            self._metrics = (key, metrics_columns(metrics_lines(path)[0]))
        return dict(self._metrics[1])

    @property
    def locked(self) -> bool:
        """Whether someone is writing to the run now."""
        try:
            handle = os.open(self.folder / "LOCK", os.O_RDONLY)
        except OSError:
            return False
        try:  # shared, so that readers do not see each other; filelock's own lock is exclusive
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    def verify(self) -> VerifyReport:
        """Check every digest, seal and link of the run again, and look for weights that cannot be right.

        Warned of: steps at which nothing changed, and steps far from both neighbours although these are near each
        other (the mark of a checkpoint that was mixed up), temporary files and a torn last line of metrics.
        """
        self._files.clear()
        self._maps.clear()
        self.refresh()
        errors, warnings = list(self.problems), []
        bad, same, stray = [], [], []
        window: deque[tuple[str, dict[str, np.ndarray]]] = deque(maxlen=3)
        near = math.inf
        for s, file in enumerate(self._segments):
            wrong: dict[str, list[int]] = {}
            for row in range(len(file.steps)):
                position = int(self._starts[s]) + row
                data = self._map(file)
                for name in self.names:
                    try:
                        file.check(data, name, row)
                    except CorruptRunError:
                        wrong.setdefault(name, []).append(position)
                whole = "".join(file.digest(name, row) for name in self.names)
                window.append((whole, {name: file.view(data, name)[row, ...] for name in self.names}))
                if len(window) > 1:
                    before, near = near, _distance(window[-1][1], window[-2][1])
                    if window[-1][0] == window[-2][0]:
                        same.append(position)
                    elif len(window) == 3 and min(before, near) > 5 * _distance(window[-1][1], window[0][1]):
                        stray.append(position - 1)
            for name, positions in wrong.items():
                errors.append(f"{file.path}: `{name}` does not match its digest at step {self._spans(positions)}.")
            bad += sorted({position for positions in wrong.values() for position in positions})
        if same:
            warnings.append(f"The weights did not change at step {self._spans(same)}.")
        if stray:
            warnings.append(f"Far from both neighbours, which are near each other: step {self._spans(stray)}.")
        states = self.state_steps
        for step in states:
            try:
                self.read_state(step)
            except (StoreError, UnknownNameError) as error:
                if step in self.state_steps:  # else a living writer let it go meanwhile
                    errors.append(str(error))
        try:
            torn = metrics_lines(self.folder / "metrics.jsonl")[1]
        except StoreError as error:
            errors.append(str(error))
            torn = 0
        if not self.locked:  # else they belong to the living writer
            warnings += [f"{path} is a temporary file of a dead writer." for path in leftovers(self.folder)]
            if torn:
                warnings.append(f"{self.folder / 'metrics.jsonl'} ends in a torn line, which is ignored.")
        unreadable = sorted([*self._unreadable, *((int(self.steps[i]), int(self.steps[i])) for i in bad)])
        return VerifyReport(
            len(self.steps), len(self._segments), len(states), tuple(errors), tuple(warnings), tuple(unreadable)
        )

    def _spec(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        if name not in self.names:
            raise UnknownNameError(f"No array `{name}` in {self.folder}. {did_you_mean(name, self.names)}")
        return self._segments[0].spec[name]

    def _map(self, file: SealedFile) -> np.ndarray:
        data = self._maps.pop(file.path.name, None)
        if data is None:
            data = file.map()
            if len(self._maps) >= OPEN_MAPS:
                self._maps.popitem(last=False)
        self._maps[file.path.name] = data
        return data

    def _rows(self, segment: int, name: str, local: slice | np.ndarray) -> np.ndarray:
        file = self._segments[segment]
        data = self._map(file)
        if self._verify != "never":
            checked = file.checked.setdefault(name, np.zeros(len(file.steps), bool))
            if self._verify == "always" or not checked[local].all():
                for row in np.arange(len(file.steps))[local]:
                    if self._verify == "always" or not checked[row]:
                        file.check(data, name, int(row))
                        checked[row] = True
        return file.view(data, name)[local]

    def _spans(self, positions: list[int]) -> str:
        """Steps at sorted positions in words: [3, 4, 5, 9] -> "3-5, 9"."""
        breaks = np.flatnonzero(np.diff(positions) > 1) + 1
        groups = np.split(np.asarray(positions), breaks)
        return ", ".join("-".join(str(self.steps[i]) for i in dict.fromkeys((g[0], g[-1]))) for g in groups)


def _distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """The Euclidean distance of the floating-point arrays of two steps."""
    with np.errstate(all="ignore"):
        differences = [(a[name] - b[name]).ravel() for name in a if a[name].dtype.kind == "f"]
        return math.sqrt(sum(float(np.vdot(d, d)) for d in differences))


def _as_slice(rows: np.ndarray) -> slice | np.ndarray:
    """The same rows as a slice where they are equally spaced upwards: numpy then gives a view, not a copy."""
    stride = int(rows[1] - rows[0]) if len(rows) > 1 else 1
    even = stride > 0 and bool((np.diff(rows) == stride).all())
    return slice(int(rows[0]), int(rows[-1]) + 1, stride) if even else rows
