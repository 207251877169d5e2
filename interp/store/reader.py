"""The reader of a run, complete or still growing: arrays over memory maps."""

import fcntl
import hashlib
import itertools
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from interp.errors import CorruptRunError, InvalidArgumentError, StoreError, UnknownNameError, did_you_mean
from interp.store.measured import measured_files, owner_of, read_measured
from interp.store.opening import inside, leftovers, listing, naming, parse_json
from interp.store.segments import (
    DIGEST,
    Holdings,
    SealedFile,
    metrics_columns,
    metrics_digest,
    metrics_digests,
    metrics_lines,
    read_run_json,
)
from interp.store.verifying import VerifyReport, check_weights

__all__ = ["OPEN_MAPS", "RunReader"]

TAIL_BYTES = 2**16
"""Bytes at the end of the metrics that `last_metrics` reads first."""
OPEN_MAPS = 256
"""Maximum number of open memory maps: each holds a file descriptor, of which a process has 1024 by default."""


class RunReader:
    """Reader of a run, complete or still growing, as arrays over memory maps; it never writes and needs no lock.

    Arguments:
        folder: folder of the run.
        verify: check a digest the "first" time that its array and step are read, "always", or "never".

    Attributes:
        run: the writer's description in run.json. With `{"diverged": {"step": n}}` in it, steps from n on are hidden.
        complete: whether the writer has marked the run as complete.
        steps: all readable committed steps, int64 [n].
        names: the arrays of each step.
        identity: the run's identity, which each of its files holds; empty in format 1.0.
        gaps: segments that are damaged, missing or of another run, one sentence each.
        problems: damage seen without reading weights (`gaps`, and other files that are missing), one sentence each.

    Raises:
        StoreError: there is no run.json.
        CorruptRunError: run.json is damaged.
    """

    run: dict[str, Any]
    complete: bool
    steps: np.ndarray
    names: tuple[str, ...]
    identity: str
    gaps: tuple[str, ...]
    problems: tuple[str, ...]

    def __init__(self, folder: Path, *, verify: str = "first") -> None:
        if verify not in ("first", "always", "never"):
            raise InvalidArgumentError(f'`verify` must be "first", "always" or "never"; got {verify!r}.')
        self.folder, self._verify = Path(folder), verify
        self._files: dict[str, SealedFile] = {}
        self._maps: OrderedDict[str, np.ndarray] = OrderedDict()
        self._metrics: tuple[tuple[int, int], dict[str, np.ndarray]] | None = None
        self.identity = ""
        self.refresh()

    def refresh(self) -> None:
        """See what was committed since; one damaged segment does not hide the others."""
        known = self.identity
        self.run, self.complete, self._holdings, self.identity = read_run_json(self.folder / "run.json")
        if self.identity != known:  # the run was trained anew in its place
            self._files.clear()
            self._maps.clear()
        # before the segments, of which a living writer adds more; a complete run has an inventory instead
        newest = self._newest_state() if self._holdings is None else None
        self._segments: list[SealedFile] = []
        self._intact = {""}
        self._unreadable: dict[tuple[int, int], StoreError] = {}
        problems: list[str] = []
        previous: str | None = ""  # None behind a segment that cannot be read
        listed = self._listed_segments()
        for (first, last), path in listed:
            before = self._segments[-1] if self._segments else None
            try:
                file = self._files.pop(path.name, None) or SealedFile(path, before)
                file.require_bound(self.identity, first, last, is_state=False)
                file.require_stacked()
                if before and (file.spec != before.spec or first <= before.steps[-1]):
                    raise CorruptRunError(f"{path} repeats steps of {before.path.name}, or has other arrays.")
            except StoreError as error:
                self._unreadable[first, last] = error
                problems.append(str(error))
                previous = None
                continue
            if previous is not None and file.previous != previous:
                wanted = file.previous[:-65] or "nothing"  # the name, without colon and seal
                if self._appeared(wanted, listed):
                    self.refresh()
                    return
                problems.append(f"{path} was written after another {wanted} than is there; is a segment missing?")
            self._files[path.name] = file
            self._segments.append(file)
            previous = file.reference
            if not problems:
                self._intact.add(previous)
        self.gaps = tuple(problems)
        if self._holdings is not None:
            losses = self._losses(self._holdings)
            if losses and self._outdated():
                self.refresh()
                return
            problems += losses
        elif newest is not None and not problems:
            fault = self._orphaned(newest)
            # a full state dropped meanwhile, by a writer that goes on from before a loss, proves nothing
            problems += [fault] if fault and int(newest.steps[0]) in self.state_steps else []
        self.problems = tuple(problems)
        self.names = tuple(self._segments[0].spec) if self._segments else ()
        steps = np.concatenate([np.empty(0, np.int64), *(file.steps for file in self._segments)])
        self.steps = steps[steps < self.run.get("diverged", {}).get("step", np.inf)]
        self.steps.flags.writeable = False
        self._starts = np.cumsum([0, *(len(file.steps) for file in self._segments)])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of array `name` at one step."""
        return self._spec(name)[0]

    def dtype(self, name: str) -> np.dtype:
        """Dtype of array `name`."""
        return self._spec(name)[1]

    def read(self, name: str, index: int | np.integer | slice | np.ndarray) -> np.ndarray:
        """Array `name` [...] at a position in `steps`, or [k, ...] for a slice or an array of positions or bools.

        A slice within one segment (and an int) gives a read-only view of the file; anything else gives a copy.

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
        """Digest of all arrays of each step, from the headers alone: equal weights have equal fingerprints."""
        return [
            hashlib.sha256("".join(file.digest(name, row) for name in self.names).encode()).hexdigest()[:DIGEST]
            for file in self._segments
            for row in range(len(file.steps))
        ][: len(self.steps)]

    @property
    def state_steps(self) -> list[int]:
        """Steps that have a full state."""
        return [step for (step,), _ in listing(self.folder / "state", r"(\d{8,})\.safetensors")]

    def read_state(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Full state at `step`: its arrays, as writable copies with every digest checked, and its metadata.

        Raises:
            UnknownNameError: there is none.
            CorruptRunError: it is damaged, belongs elsewhere, or run.json lists no longer what had happened before it.
        """
        file = self._state(step)
        data = file.map()
        for name in file.spec:
            file.check(data, name, 0)
        if "events" in file.fields:
            self._require_events(file)
        return {name: file.view(data, name).copy() for name in file.spec}, file.metadata()

    def is_bound(self, step: int) -> bool:
        """Whether the full state at `step` names its run and what it follows: all do since format 1.1."""
        return self._state(step).follows is not None

    def orphaned_states(self) -> dict[int, str]:
        """Full states that follow segments or metrics which are no longer there, with a sentence about each."""
        states = {}
        for step in self.state_steps:
            with suppress(StoreError, UnknownNameError):  # damaged, or just deleted by a living writer
                states[step] = self._state(step)
        lengths = [state.follows.metrics_bytes for state in states.values() if state.follows]
        digests = metrics_digests(self.folder / "metrics.jsonl", lengths)
        faults = {step: self._orphaned(state, digests) for step, state in states.items()}
        left = self.state_steps  # a living writer drops full states, and then what they follow
        return {step: fault for step, fault in faults.items() if fault and step in left}

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """Metrics as columns over logged steps: `step` int64, the others float64 with NaN where nothing was logged."""
        path = self.folder / "metrics.jsonl"
        key = (0, 0)
        with naming(path), suppress(FileNotFoundError):
            stat = path.lstat()
            key = (stat.st_size, stat.st_mtime_ns)
        if self._metrics is None or self._metrics[0] != key:
            self._metrics = (key, metrics_columns(path, metrics_lines(path)[0]))
        return dict(self._metrics[1])

    def last_metrics(self, names: Sequence[str]) -> dict[str, float]:
        """Last finite value of each metric in `names`, read from the end of the log: quick also in a long run."""
        path = self.folder / "metrics.jsonl"
        for last_bytes in (TAIL_BYTES, None):
            columns = metrics_columns(path, metrics_lines(path, last_bytes)[0])
            finite = {name: columns[name][np.isfinite(columns[name])] for name in names if name in columns}
            found = {name: float(values[-1]) for name, values in finite.items() if len(values)}
            if len(found) == len(names):
                break
        return found

    @property
    def locked(self) -> bool:
        """Whether a writer has the run open."""
        try:
            handle = os.open(self.folder / "LOCK", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:  # shared, so that readers do not see each other; filelock's own lock is exclusive
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    @property
    def replays(self) -> list[Path]:
        """Folders of the run's replays, each a run of its own.

        A folder that holds no file of a run belongs to none: a replay that was killed before it began leaves one.

        Raises:
            StoreError: one of them is a symbolic link.
        """
        replay = inside(self.folder, "replay")
        with naming(replay):
            names = sorted(os.listdir(replay)) if replay.is_dir() else []
            folders = [inside(replay, name) for name in names]
            return [folder for folder in folders if folder.is_dir() and _holds_a_run(folder)]

    def verify(self) -> VerifyReport:
        """Check every digest, seal and link of the run again, and look for weights that cannot be right.

        Its replays and the measured values beside it are checked as well.

        A complete run must also hold all files that its run.json lists (older versions list none).

        Warnings name steps at which nothing changed, steps with the weights of an earlier step, steps far from both
        neighbours although the neighbours are near each other (the mark of a checkpoint that was mixed up), pairs that
        look exchanged, temporary files, and a torn last line of metrics.
        """
        self._files.clear()
        self._maps.clear()
        states = self.state_steps  # before the segments, of which a living writer adds more
        self.refresh()
        weights = check_weights(self._segments, self._map)
        errors = [*self.problems, *weights.errors]
        orphans: dict[int, str] = {}
        with suppress(StoreError):  # metrics that cannot be opened, as is noted below
            orphans = self.orphaned_states()
        for step in states:
            faults = [*self._state_faults(step), *([orphans[step]] if step in orphans else [])]
            errors += [fault for fault in faults if fault not in errors]
        if self._holdings is not None:
            absent = [step for step in self._holdings.states if step not in states]
            errors += [f"{self._state_path(step)} is missing." for step in absent]
        warnings = list(weights.warnings)
        try:
            torn = metrics_lines(self.folder / "metrics.jsonl")[1]
            _ = self.metrics  # each line a record
            errors += self._altered_metrics()
        except StoreError as error:
            errors.append(str(error))
            torn = 0
        if not self.locked:  # else temporary files belong to the living writer
            warnings += [f"{path} is a temporary file of a dead writer." for path in leftovers(self.folder)]
            if torn:
                warnings.append(f"{self.folder / 'metrics.jsonl'} ends in a torn line, which is ignored.")
        self._verify_beside(errors, warnings)
        if errors and self._holdings is not None and self._outdated():
            return self.verify()
        unreadable = sorted([*self._unreadable, *((step, step) for step in weights.damaged)])
        return VerifyReport(
            len(self.steps), len(self._segments), len(states), tuple(errors), tuple(warnings), tuple(unreadable)
        )

    def _state_path(self, step: int) -> Path:
        return self.folder / "state" / f"{step:08d}.safetensors"

    def _state(self, step: int) -> SealedFile:
        """Header of the full state at `step`, which belongs there."""
        inside(self.folder, "state")
        if not isinstance(step, Integral) or not os.path.lexists(self._state_path(step)):
            raise UnknownNameError(f"No full state at step {step} in {self.folder}. Known: {self.state_steps}.")
        file = SealedFile(self._state_path(step))
        file.require_bound(self.identity, step, step, is_state=True)
        return file

    def _require_events(self, state: SealedFile) -> None:
        """Demand that run.json lists the events that had happened before a full state."""
        try:
            happened = [[step, event] for step, event in parse_json(state.fields["events"])]
        except (ValueError, TypeError):
            raise CorruptRunError(f"{state.path} is damaged: its events are no list of pairs.") from None
        path = self.folder / "run.json"
        if any(one not in self.run.get("events", []) for one in happened):  # or a living writer has added it since
            listed = read_run_json(path).run.get("events", [])
            for step, event in (one for one in happened if one not in listed):
                raise CorruptRunError(
                    f"{path} does not list the event `{event}` of step {step}, which {state.path} follows; is it an "
                    "older copy?"
                )

    def _listed_segments(self) -> list[tuple[tuple[int, ...], Path]]:
        """Committed segments, by their first and last step."""
        return listing(self.folder / "trajectory", r"(\d{8,})-(\d{8,})\.safetensors")

    def _appeared(self, name: str, listed: list[tuple[tuple[int, ...], Path]]) -> bool:
        """Whether segment `name` is there now and was not `listed`.

        A folder is no snapshot: of two files that a writer adds while it is listed, the second may be seen alone.
        """
        return name in {path.name for _, path in self._listed_segments()} - {path.name for _, path in listed}

    def _newest_state(self) -> SealedFile | None:
        """Header of the newest full state that can be read."""
        for step in reversed(self.state_steps):
            with suppress(StoreError, UnknownNameError):
                return self._state(step)
        return None

    def _orphaned(self, state: SealedFile, digests: Mapping[int, str] | None = None) -> str:
        """Sentence about what a full state follows and is no longer there; empty where all is.

        Metrics are judged by their length, or by `digests` of their first bytes, by number of bytes.
        """
        if state.follows is None:
            return ""
        segment, size, wanted = state.follows
        if segment not in self._intact:
            name = segment[:-65]  # without colon and seal
            return f"{self.folder / 'trajectory' / name} is missing or altered; {state.path.name} follows it."
        metrics = self.folder / "metrics.jsonl"
        with naming(metrics):
            held = metrics.lstat().st_size if os.path.lexists(metrics) else 0
        if held < size:
            return f"{metrics} has {held} bytes; {state.path} follows {size}."
        if digests is not None and digests.get(size) != wanted:
            return f"{metrics} is not the one that {state.path} follows."
        return ""

    def _state_faults(self, step: int) -> list[str]:
        """Sentences about the full state at `step`: damaged, of another run, or another than run.json names."""
        try:
            self.read_state(step)
            state = self._state(step)
        except (StoreError, UnknownNameError) as error:
            return [str(error)] if step in self.state_steps else []  # a living writer has deleted it meanwhile
        if self._holdings is not None and self._holdings.state_seals:
            seals = dict(zip(self._holdings.states, self._holdings.state_seals))
            if seals.get(step) != state.seal:
                return [f"{state.path} is not the full state that run.json names."]
        return []

    def _verify_beside(self, errors: list[str], warnings: list[str]) -> None:
        """Check measured values, and each replay as a run of its own."""
        with _noting(errors):
            for path in measured_files(self.folder):
                with _noting(errors):
                    read_measured(path, owner_of(self.run))
        with _noting(errors):
            for folder in self.replays:
                with _noting(errors):
                    replay = RunReader(folder).verify()
                    errors += replay.errors
                    warnings += replay.warnings

    def _outdated(self) -> bool:
        """Whether run.json is another than `refresh` has read: a writer goes on with a complete run, or ends it."""
        return read_run_json(self.folder / "run.json") != (self.run, self.complete, self._holdings, self.identity)

    def _losses(self, holdings: Holdings) -> list[str]:
        """Sentences about files that a complete run has lost, as far as names and sizes tell."""
        losses = []
        name = holdings.last_segment[:-65]  # without colon and seal
        path = self.folder / "trajectory" / name
        if name and not os.path.lexists(path):
            losses.append(f"{path} is missing, the last segment of the run.")
        elif any(file.path == path and file.reference != holdings.last_segment for file in self._segments):
            losses.append(f"{path} is not the last segment that run.json names.")
        metrics = self.folder / "metrics.jsonl"
        with naming(metrics):
            size = metrics.lstat().st_size if os.path.lexists(metrics) else 0
        if size != holdings.metrics_bytes:
            losses.append(f"{metrics} has {size} bytes; run.json promises {holdings.metrics_bytes}.")
        return losses

    def _altered_metrics(self) -> list[str]:
        """A sentence where metrics of the right size do not match the digest of the complete run."""
        path, holdings = self.folder / "metrics.jsonl", self._holdings
        size, found = metrics_digest(path)
        if holdings is None or (size, found.hexdigest()) != (holdings.metrics_bytes, holdings.metrics_sha256):
            altered = holdings is not None and size == holdings.metrics_bytes  # else `_losses` says so
            return [f"{path} does not match its digest in run.json."] if altered else []
        return []

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


def _holds_a_run(folder: Path) -> bool:
    """Whether a folder holds any file of a run; a run that has lost its run.json still holds others."""
    files = any(os.path.lexists(folder / name) for name in ("run.json", "metrics.jsonl"))
    return files or any(any((folder / child).glob("*.safetensors")) for child in ("trajectory", "state"))


@contextmanager
def _noting(errors: list[str]) -> Iterator[None]:
    """Context that ends at a `StoreError`, which is noted."""
    try:
        yield
    except StoreError as error:
        errors.append(str(error))


def _as_slice(rows: np.ndarray) -> slice | np.ndarray:
    """Rows as a slice, where they are equally spaced and increasing: numpy then gives a view, not a copy."""
    stride = int(rows[1] - rows[0]) if len(rows) > 1 else 1
    even = stride > 0 and bool((np.diff(rows) == stride).all())
    return slice(int(rows[0]), int(rows[-1]) + 1, stride) if even else rows
