"""Bytes to arrays and back: the folder of one run, committed so that a kill loses little and a flipped bit is noticed.

    run.json                                   what the caller says about the run, sealed with a SHA-256
    trajectory/00000000-00000063.safetensors   one *segment*: every array stacked [K, ...] over K steps
    state/00004000.safetensors                 everything needed to resume at one step
    metrics.jsonl                              a line per logged step, each with its CRC-32
    LOCK                                       held by the one writer; readers need no lock

*Commit.* A segment is built in memory, written to a temporary file in the same folder, synced, published under its
final name by a link that cannot replace anything, and the folder is synced. A committed file is never written again,
so the folder listing is the commit log, and whatever a kill leaves behind is a temporary file that the next writer
removes.

*Digests.* Each array of each step has its own digest in the segment's header; the header ends in a *seal*, the SHA-256
of the header itself; and each header names the seal of the segment before it. A seal therefore vouches for every byte
of its own file and, through the chain, of all files before it.

*Resume is a proof.* Appending a step that is already committed writes nothing: it checks that the digests agree. A
trainer that restarts from an older full state and reaches the end of the trajectory has shown that it is bit-exact.
"""

import fcntl
import hashlib
import itertools
import json
import math
import mmap
import os
import re
import secrets
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from numbers import Integral, Real
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

__all__ = ["RunReader", "RunWriter", "VerifyReport"]

FORMAT = 1
DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "C64": "c8", "BOOL": "?"}
DTYPES |= {f"{kind.upper()}{8 * size}": f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}
CODES = {np.dtype(known): code for code, known in DTYPES.items()}  # as safetensors writes them
DIGEST = 32  # hexadecimal digits of a digest: 128 bits of SHA-256
BLANK = "0" * 64  # stands in a header for the seal while the seal is computed
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
            with _naming(folder / "LOCK"):
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
        text = _run_json(run, complete=False)
        with _naming(folder):
            if (folder / "run.json").exists() or any((folder / "trajectory").glob("*.safetensors")):
                raise RunExistsError(
                    f"{folder} already holds a run, or the trajectory of one; resume it or choose another folder."
                )
            for child in ("trajectory", "state"):
                (folder / child).mkdir(parents=True, exist_ok=True)
        fsync = bool(settings.get("fsync", True))
        if not _publish(folder / "run.json", [text], fsync=fsync):
            raise RunExistsError(
                f"{folder} already holds a run, or the trajectory of one; resume it or choose another folder."
            )
        if fsync:
            _sync_folder(folder.parent)
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
        if not isinstance(record.get("step"), Integral) or "crc32" in record:
            raise InvalidArgumentError(f"`record` must have an integer `step` and no `crc32`; got {dict(record)!r}.")
        line = json.dumps({key: _number(key, value) for key, value in record.items()}, separators=(",", ":"))
        body = line[:-1].encode()
        self._lines.append(body + _crc(body))
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
            _check_dtype(name, array.dtype)
            plain[name] = np.require(array, array.dtype.newbyteorder("="), "C")
        extra = {"steps": json.dumps([int(step)]), "metadata": json.dumps(dict(metadata))}
        _commit(self.folder / "state" / f"{int(step):08d}.safetensors", plain, 1, extra, fsync=self._fsync)
        states = _listing(self.folder / "state", r"(\d{8,})\.safetensors")
        for (old,), path in states[: max(len(states) - keep_last, 0)]:
            if old != step and not (keep and keep(old)):
                with _naming(path):
                    path.unlink()

    def replace_run(self, run: Mapping[str, Any], *, complete: bool = False) -> None:
        """Replace run.json atomically, and say whether the run is `complete`."""
        self.commit()
        text = _run_json(run, complete=complete)
        _publish(self.folder / "run.json", [text], fsync=self._fsync, replace=True)

    def finish(self) -> None:
        """Commit, and mark the run as complete."""
        self.commit()
        self.replace_run(_read_run_json(self.folder / "run.json")[0], complete=True)

    def truncate_after(self, step: int) -> None:
        """Drop metrics of steps > `step`, for a resume from the full state at `step`; the trajectory stays, as proof.

        (A trainer that logs `step` itself again needs no more than this: its line replaces the old one.)
        """
        self.commit()
        path = self.folder / "metrics.jsonl"
        lines = _metrics_lines(path)[0]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        if len(kept) < len(lines):
            _publish(path, [b"\n".join([*kept, b""])], fsync=self._fsync, replace=True)

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
        for path in _leftovers(self.folder):
            with _naming(path):
                path.unlink(missing_ok=True)
        metrics = self.folder / "metrics.jsonl"
        _, torn = _metrics_lines(metrics)
        if torn:
            with _naming(metrics):
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
            _check_dtype(name, dtype)
        self._set_spec(spec)

    def _prove(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        file, row = self._committed[step]
        for name, array in arrays.items():
            if _digest(_regions(np.require(array, self._spec[name][1], "C"), 1)[0]) != file.digest(name, row):
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
                seal = _commit(path, stacked, len(steps), extra, fsync=self._fsync)
                self._previous, self._last_committed = f"{path.name}:{seal}", steps[-1]
                self._spare.append(buffers)
            if lines:
                _append_to(self.folder / "metrics.jsonl", b"\n".join([*lines, b""]), fsync=self._fsync)
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
        self._files: dict[str, _SealedFile] = {}
        self._maps: OrderedDict[str, np.ndarray] = OrderedDict()
        self._metrics: tuple[tuple[int, int], dict[str, np.ndarray]] | None = None
        self.refresh()

    def refresh(self) -> None:
        """See what was committed since; one damaged segment does not hide the others."""
        self.run, self.complete = _read_run_json(self.folder / "run.json")
        self._segments: list[_SealedFile] = []
        self._unreadable: dict[tuple[int, int], CorruptRunError] = {}
        problems = []
        previous: str | None = ""  # None behind a segment that cannot be read
        for (first, last), path in _listing(self.folder / "trajectory", r"(\d{8,})-(\d{8,})\.safetensors"):
            try:
                file = self._files[path.name] = self._files.get(path.name) or _SealedFile(path)
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
        return [step for (step,), _ in _listing(self.folder / "state", r"(\d{8,})\.safetensors")]

    def read_state(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """The full state at `step`: its arrays, writable copies with every digest checked, and its metadata."""
        if step not in self.state_steps:
            raise UnknownNameError(f"No full state at step {step} in {self.folder}. Known: {self.state_steps}.")
        file = _SealedFile(self.folder / "state" / f"{step:08d}.safetensors")
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
            self._metrics = (key, _columns(_metrics_lines(path)[0]))
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
                digest = "".join(file.digest(name, row) for name in self.names)
                window.append((digest, {name: file.view(data, name)[row, ...] for name in self.names}))
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
            torn = _metrics_lines(self.folder / "metrics.jsonl")[1]
        except StoreError as error:
            errors.append(str(error))
            torn = 0
        if not self.locked:  # else they belong to the living writer
            warnings += [f"{path} is a temporary file of a dead writer." for path in _leftovers(self.folder)]
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

    def _map(self, file: "_SealedFile") -> np.ndarray:
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


class _SealedFile:
    """A committed safetensors file whose header matches its seal.

    `spec` gives the shape and dtype of each array at one step, `fields` the header's other metadata.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checked: dict[str, np.ndarray] = {}
        try:
            with _naming(path), open(path, "rb") as stream:
                self.size = os.fstat(stream.fileno()).st_size
                prefix = stream.read(8)
                length = int.from_bytes(prefix, "little")
                if length > self.size - 8:
                    raise ValueError("it is shorter than its header")
                raw = stream.read(length)
            header = json.loads(raw)
            self.fields: dict[str, str] = header.pop("__metadata__")
            self.seal = self.fields["seal"]
            if _seal(prefix + raw.replace(_seal_field(self.seal), _seal_field(BLANK))) != self.seal:
                raise ValueError("its header does not match its seal")
            if self.fields["format"] != str(FORMAT):
                raise StoreError(f"{path} has format {self.fields['format']}; this version reads {FORMAT}.")
            self.steps = np.array(json.loads(self.fields["steps"]), np.int64)
            self.previous = self.fields.get("previous", "")
            self._digests: dict[str, str] = json.loads(self.fields["digests"])
            self._layout: dict[str, tuple[int, int, np.dtype, tuple[int, ...]]] = {}
            self.spec: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
            end = 8 + length
            for name in self._digests:  # in the order in which the writer was given them
                dtype, shape = np.dtype(DTYPES[header[name]["dtype"]]), tuple(header[name]["shape"])
                low, high = header[name]["data_offsets"]
                self._layout[name] = (8 + length + low, high - low, dtype, shape)
                self.spec[name] = (shape[1:], dtype)
                end = max(end, 8 + length + high)
            if end != self.size:
                raise ValueError(f"it has {self.size} bytes, its header promises {end}")
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptRunError(f"{path} is damaged: {error}.") from error

    @property
    def reference(self) -> str:
        """How the next segment names this one."""
        return f"{self.path.name}:{self.seal}"

    def digest(self, name: str, row: int) -> str:
        return self._digests[name][DIGEST * row : DIGEST * (row + 1)]

    def map(self) -> np.ndarray:
        """The bytes of the file, read-only; the map lives as long as a view of it."""
        with _naming(self.path), open(self.path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size != self.size:
                raise CorruptRunError(f"{self.path} has changed its size since it was opened.")
            return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)

    def view(self, data: np.ndarray, name: str) -> np.ndarray:
        low, size, dtype, shape = self._layout[name]
        return data[low : low + size].view(dtype).reshape(shape)

    def check(self, data: np.ndarray, name: str, row: int) -> None:
        """Compare the digest of one row, or of a state's whole array, with the header."""
        low, size, _, _ = self._layout[name]
        size //= len(self.steps)
        if _digest(data[low + row * size : low + (row + 1) * size]) != self.digest(name, row):
            raise CorruptRunError(f"{self.path}: `{name}` at step {self.steps[row]} does not match its digest.")


def _commit(path: Path, arrays: dict[str, np.ndarray], rows: int, extra: dict[str, str], *, fsync: bool) -> str:
    """Seal `arrays`, publish them as `path` and return the seal; each array is hashed in `rows` equal regions."""
    digests = {name: "".join(map(_digest, _regions(array, rows))) for name, array in arrays.items()}
    metadata = {"format": str(FORMAT), **extra, "digests": json.dumps(digests), "seal": BLANK}
    # Written here and not by the library, which copies everything twice and orders metadata at random: the same
    # arrays must always give the same bytes. Wide types come first, so that all are aligned.
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in sorted(arrays, key=lambda name: -arrays[name].itemsize):
        array = arrays[name]
        start, end = end, end + array.nbytes
        header[name] = {"dtype": CODES[array.dtype], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    seal = _seal(head)
    chunks = [head.replace(_seal_field(BLANK), _seal_field(seal))]
    chunks += [_regions(arrays[name], 1)[0] for name in header if name in arrays]
    if _publish(path, chunks, fsync=fsync):
        return seal
    stored = _SealedFile(path)
    if stored.fields["steps"] != metadata["steps"]:
        raise CorruptRunError(f"{path} exists and holds other steps.")
    for name in {**digests, **stored._digests}:
        if stored._digests.get(name) != digests.get(name):
            raise CorruptRunError(f"{path} exists and its `{name}` differs; a committed file is never overwritten.")
    return stored.seal


def _publish(path: Path, chunks: list[Any], *, fsync: bool, replace: bool = False) -> bool:
    """Write `path` so that it is there whole or not at all; False where it exists already and `replace` is not set."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with _naming(path):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
            try:
                for chunk in chunks:
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[os.write(handle, rest[: 2**30]) :]
                if fsync:
                    os.fsync(handle)
            finally:
                os.close(handle)
            if replace:
                os.replace(temporary, path)
            else:
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return False
                except OSError:  # no hard links here; the lock keeps other writers away between test and rename
                    if path.exists():
                        return False
                    os.rename(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        if fsync:
            _sync_folder(path.parent)
    return True


def _append_to(path: Path, data: bytes, *, fsync: bool) -> None:
    """Append whole lines in one write, or nothing."""
    with _naming(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(handle).st_size
            try:
                if os.write(handle, data) != len(data):
                    raise OSError("the disk took only a part of it; is it full?")
                if fsync:
                    os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
        if fsync and size == 0:
            _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into ones that name the file."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}.") from error


def _listing(folder: Path, pattern: str) -> list[tuple[tuple[int, ...], Path]]:
    """The committed files of `folder` with the numbers in their names, sorted by them."""
    with _naming(folder):
        found = [(re.fullmatch(pattern, name), name) for name in os.listdir(folder)] if folder.exists() else []
    return sorted((tuple(map(int, match.groups())), folder / name) for match, name in found if match)


def _leftovers(folder: Path) -> list[Path]:
    folders = [folder, folder / "trajectory", folder / "state"]
    return sorted(path for child in folders for path in child.glob(".*.*.*.tmp"))


def _run_json(run: Mapping[str, Any], *, complete: bool) -> bytes:
    """run.json: the caller's keys, and under `store` the format, completeness and a digest of all the rest."""
    if "store" in run:
        raise InvalidArgumentError("`run` must not have the key `store`, which belongs to the store.")
    try:
        whole = json.loads(json.dumps(dict(run), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"`run` must be a JSON object; {error}.") from error
    whole["store"] = {"format": FORMAT, "complete": complete}
    whole["store"]["sha256"] = _seal(json.dumps(whole, sort_keys=True).encode())
    return (json.dumps(whole, indent=2) + "\n").encode()


def _read_run_json(path: Path) -> tuple[dict[str, Any], bool]:
    with _naming(path):
        data = path.read_bytes()
    try:
        whole = json.loads(data)
        seal = whole["store"].pop("sha256")
        if _seal(json.dumps(whole, sort_keys=True).encode()) != seal:
            raise ValueError("its content does not match its `store.sha256`; was it edited by hand?")
        store = whole.pop("store")
        complete = bool(store["complete"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptRunError(f"{path} is damaged: {error}.") from error
    if store["format"] != FORMAT:
        raise StoreError(f"{path} has format {store['format']}; this version reads {FORMAT}.")
    return whole, complete


def _metrics_lines(path: Path) -> tuple[list[bytes], int]:
    """The whole lines, each checked, and the length of the torn last one, in bytes."""
    with _naming(path):
        *lines, torn = (path.read_bytes() if path.exists() else b"").split(b"\n")
    for number, line in enumerate(lines, 1):
        if line[-20:] != _crc(line[:-20]):
            raise CorruptRunError(f"{path}, line {number} does not match its CRC-32.")
    return lines, len(torn)


def _columns(lines: list[bytes]) -> dict[str, np.ndarray]:
    records: dict[int, dict[str, Any]] = {}
    for record in json.loads(b"[" + b",".join(lines) + b"]"):
        records.setdefault(record["step"], {}).update(record)
    rows = [records[step] for step in sorted(records)]
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in ("step", "crc32")]
    columns = {name: np.array([row.get(name) for row in rows], np.float64) for name in names}  # None becomes NaN
    return {"step": np.array(sorted(records), np.int64), **columns}


def _crc(body: bytes) -> bytes:
    """How a line of metrics ends: with the CRC-32 of all before this."""
    return b',"crc32":"%08x"}' % zlib.crc32(body)


def _number(key: str, value: Any) -> int | float | None:
    if isinstance(value, Integral | np.bool_):
        return int(value)
    if not isinstance(value, Real):
        raise InvalidArgumentError(f"`{key}` must be a number; got {type(value).__name__}.")
    return float(value) if math.isfinite(value) else None  # JSON has no word for NaN and infinity


def _check_dtype(name: str, dtype: np.dtype) -> None:
    if name == "__metadata__":
        raise InvalidArgumentError("`__metadata__` is no name for an array: the file format uses it.")
    if dtype.newbyteorder("=") not in CODES:
        raise InvalidArgumentError(f"`{name}` must have a dtype that safetensors knows; got {dtype}.")


def _distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """The Euclidean distance of the floating-point arrays of two steps."""
    with np.errstate(all="ignore"):
        differences = [(a[name] - b[name]).ravel() for name in a if a[name].dtype.kind == "f"]
        return math.sqrt(sum(float(np.vdot(d, d)) for d in differences))


def _regions(array: np.ndarray, count: int) -> np.ndarray:
    """The bytes of a contiguous array in `count` equal parts, uint8 [count, n]."""
    return array.reshape(-1).view(np.uint8).reshape(count, array.nbytes // count)


def _as_slice(rows: np.ndarray) -> slice | np.ndarray:
    """The same rows as a slice where they are equally spaced upwards: numpy then gives a view, not a copy."""
    stride = int(rows[1] - rows[0]) if len(rows) > 1 else 1
    even = stride > 0 and bool((np.diff(rows) == stride).all())
    return slice(int(rows[0]), int(rows[-1]) + 1, stride) if even else rows


def _digest(region: Any) -> str:
    # SHA-256 with the processor's own instructions hashes 1.8 GB/s a core, BLAKE2b 0.9; both let go of the GIL.
    return hashlib.sha256(region).hexdigest()[:DIGEST]


def _seal(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _seal_field(seal: str) -> bytes:
    return b'"seal":"' + seal.encode() + b'"'
