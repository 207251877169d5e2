"""The store against a model of it: a dict of the steps, the lines and the states that were promised."""

import json
import math
import os
import random
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from filelock import FileLock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from interp.errors import InterpError, InvalidArgumentError, RunLockedError
from interp.store import RunReader, RunWriter
from interp.store.segments import metrics_lines
from tests.soak.scale import SOAK, scaled

RUN = {"p": 59}


def weights(step: int) -> dict[str, np.ndarray]:
    """Arrays that are a pure function of the step."""
    draw = np.random.default_rng(step)
    return {"w": draw.standard_normal((3, 2), np.float32), "n": np.array(step)}


class Store(RuleBasedStateMachine):
    """A run folder, and what must be in it.

    `steps` and `lines` are what was appended and logged; of them the first `safe_steps` and `safe_lines` have been
    promised. A kill may lose the others, from some point on, and nothing else. `states` has the number of lines that
    each full state follows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="interp-model-"))
        self.folder = self.root / "run"
        self.writer: RunWriter | None = None
        self.run = dict(RUN)
        self.steps: list[int] = []
        self.lines: list[dict] = []
        self.states: dict[int, int] = {}
        self.safe_steps = self.safe_lines = 0
        self.last = -1
        self.complete = self.refused = False

    @initialize(segment_steps=st.integers(1, 4), segment_seconds=st.sampled_from([math.inf, 0.0]))
    def create(self, segment_steps: int, segment_seconds: float) -> None:
        """No age between never and at once: what a kill leaves must not depend on the clock."""
        self.settings = {"segment_steps": segment_steps, "segment_seconds": segment_seconds, "fsync": False}
        self.writer = RunWriter.create(self.folder, RUN, **self.settings)

    def teardown(self) -> None:
        if self.writer is not None:
            self.writer.close()
        shutil.rmtree(self.root)

    # --- writing ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.writer)
    @rule(gap=st.integers(1, 3), count=st.integers(1, 5))
    def append(self, gap: int, count: int) -> None:
        for _ in range(count):
            step = max([self.last, *self.steps]) + gap
            self.writer.append(step, weights(step))
            self.steps.append(step)
            self.last = step
            self.complete = False

    @precondition(lambda self: self.writer and any(step > self.last for step in self.steps[: self.safe_steps]))
    @rule()
    def repeat(self) -> None:
        step = min(step for step in self.steps if step > self.last)
        self.writer.append(step, weights(step))
        self.last = step

    @precondition(lambda self: self.writer)
    @rule(step=st.integers(0, 200), value=st.floats(allow_nan=False, allow_infinity=False))
    def log(self, step: int, value: float) -> None:
        self.writer.log({"step": step, "loss": value})
        self.lines.append({"step": step, "loss": value})
        self.complete = False

    @precondition(lambda self: self.writer)
    @rule()
    def commit(self) -> None:
        last = self.writer.commit()
        assert last == (self.steps[-1] if self.steps else None)
        self.safe_steps, self.safe_lines = len(self.steps), len(self.lines)

    @precondition(lambda self: self.writer)
    @rule(keep_last=st.integers(1, 3))
    def state(self, keep_last: int) -> None:
        step = max([0, *self.steps, *self.states])
        self.writer.save_state(step, weights(step), {"at": str(step)}, keep_last=keep_last)
        self.safe_steps, self.safe_lines = len(self.steps), len(self.lines)
        self.states.setdefault(step, len(self.lines))
        self.states = dict(sorted(self.states.items())[-keep_last:])
        self.complete = False

    @precondition(lambda self: self.writer)
    @rule(value=st.integers(0, 9))
    def describe(self, value: int) -> None:
        self.run = {**RUN, "value": value}
        self.writer.replace_run(self.run)
        self.safe_steps, self.safe_lines = len(self.steps), len(self.lines)
        self.complete = False

    @precondition(lambda self: self.writer)
    @rule(step=st.integers(0, 100))
    def truncate_after(self, step: int) -> None:
        """Later lines go; of the states, the later ones and those that follow a line which has gone."""
        self.writer.truncate_after(step)
        lines = [line for line in self.lines if line["step"] <= step]
        states = {
            of: followed
            for of, followed in self.states.items()
            if of <= step and all(line["step"] <= step for line in self.lines[:followed])
        }
        self.complete = self.complete and lines == self.lines and states == self.states
        self.lines, self.states = lines, states
        self.safe_steps, self.safe_lines = len(self.steps), len(self.lines)

    @precondition(lambda self: self.writer)
    @rule()
    def finish(self) -> None:
        self.writer.finish()
        self.safe_steps, self.safe_lines = len(self.steps), len(self.lines)
        self.complete = True

    # --- ending and beginning -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.writer)
    @rule()
    def close(self) -> None:
        self.writer.close()
        self.safe_steps, self.safe_lines = len(self.steps), len(self.lines)
        self.writer = None

    @precondition(lambda self: self.writer)
    @rule(litter=st.sampled_from(["", "trajectory/.00000000-00000003.safetensors.1.ab.tmp", ".run.json.1.cd.tmp"]))
    def kill(self, litter: str) -> None:
        """The writer's memory is gone, its lock is free, and a temporary file may be left."""
        writer, self.writer = self.writer, None
        while writer._pending:  # a kill happens at one moment of the background thread; here, after it
            writer._pending.popleft().result()
        writer._worker.shutdown()
        writer._lock.release()
        if litter:
            (self.folder / litter).write_bytes(b"half")
        self._see_what_is_left()

    @precondition(lambda self: self.writer is None)
    @rule()
    def reopen(self) -> None:
        self.writer = RunWriter.open(self.folder, **self.settings)
        self.refused = False
        self.last = -1 if not self.steps else self.steps[0] - 1
        assert self.writer.last_committed == (self.steps[-1] if self.steps else None)
        assert not list(self.folder.rglob(".*.tmp"))

    @precondition(lambda self: self.writer and not self.refused)
    @rule()
    def another_writer(self) -> None:
        """Once for each writer: it waits half a second for the lock."""
        self.refused = True
        try:
            with patch(
                "interp.store.writer.FileLock", lambda path, timeout: FileLock(path, timeout=0)
            ):  # else it waits
                RunWriter.open(self.folder)
        except RunLockedError:
            return
        raise AssertionError("two writers")

    @precondition(lambda self: self.writer and self.last > 0)
    @rule()
    def append_an_earlier_step(self) -> None:
        try:
            self.writer.append(self.last, weights(self.last))
        except InvalidArgumentError:
            return
        raise AssertionError("an earlier step was taken")

    # --- damage -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.writer is None)
    @rule(chance=st.randoms(use_true_random=False))
    def corrupt(self, chance: random.Random) -> None:
        """A flipped bit of a copy is found, by `verify` or when the run is opened."""
        copy = Path(shutil.copytree(self.folder, self.root / "copy"))
        files = [path for path in sorted(copy.rglob("*")) if path.suffix in (".safetensors", ".json", ".jsonl")]
        path = chance.choice(files)
        data = bytearray(path.read_bytes())
        if data:
            at, bit = chance.randrange(len(data)), chance.randrange(8)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            torn = path.suffix == ".jsonl" and at == len(data) - 1  # the end of the last line: as after a kill
            layout = path.suffix == ".json"  # of the JSON text, space may change
            try:
                report = RunReader(copy).verify()
            except InterpError:
                pass
            else:
                same = layout and RunReader(copy).run == self.run
                assert report.errors or same or (torn and report.warnings), (path.name, at, bit)
        shutil.rmtree(copy)

    @precondition(lambda self: self.writer is None and self.steps)
    @rule(chance=st.randoms(use_true_random=False))
    def lose(self, chance: random.Random) -> None:
        """A missing segment before the last is found; so is, of a finished run, any missing file."""
        segments = sorted((self.folder / "trajectory").glob("*.safetensors"))
        files = segments[:-1]
        if self.complete:
            files = [*segments, *(self.folder / "state").glob("*.safetensors"), self.folder / "metrics.jsonl"]
        files = sorted(path for path in files if path.exists() and path.stat().st_size)
        if files:
            path = chance.choice(files)
            os.rename(path, self.root / "away")
            try:
                assert RunReader(self.folder).verify().errors, path.name
            finally:
                os.rename(self.root / "away", path)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _see_what_is_left(self) -> None:
        """After a kill: a prefix of what was appended and logged, all that was promised in it."""
        reader = RunReader(self.folder)
        found, logged = reader.steps.tolist(), self._logged()
        assert found == self.steps[: len(found)]
        assert len(found) >= self.safe_steps
        assert logged == self.lines[: len(logged)]
        assert len(logged) >= self.safe_lines
        self.steps, self.lines = found, logged
        self.safe_steps, self.safe_lines = len(found), len(logged)
        self.complete = reader.complete

    def _logged(self) -> list[dict]:
        lines = [json.loads(line) for line in metrics_lines(self.folder / "metrics.jsonl")[0]]
        return [{name: line[name] for name in ("step", "loss")} for line in lines]

    @invariant()
    def readers_see_what_was_promised(self) -> None:
        if not (self.folder / "run.json").exists():
            return
        reader = RunReader(self.folder)
        found = reader.steps.tolist()
        assert reader.problems == ()
        assert reader.run == self.run
        assert found == self.steps[: len(found)]
        assert len(found) >= self.safe_steps
        assert reader.state_steps == list(self.states)
        if self.writer is None:
            assert found == self.steps
            assert reader.complete == self.complete
        for at in {0, len(found) // 2, len(found) - 1} if found else ():
            assert all(np.array_equal(reader.read(name, at), array) for name, array in weights(found[at]).items())
        for step in self.states:
            arrays, metadata = reader.read_state(step)
            assert metadata == {"at": str(step)}
            assert all(np.array_equal(arrays[name], array) for name, array in weights(step).items())
        columns = reader.metrics  # asked once: a living writer may add lines before the next time
        shown = dict(zip(columns["step"].tolist(), columns.get("loss", []), strict=True))
        lengths = range(self.safe_lines, len(self.lines) + 1)
        assert any(shown == {line["step"]: line["loss"] for line in self.lines[:length]} for length in lengths)
        assert len(self._logged()) >= self.safe_lines
        if self.writer is None:
            assert reader.verify().errors == ()


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=scaled(12, 3000),
    stateful_step_count=scaled(20, 60),
    deadline=None,
    derandomize=not SOAK,
    suppress_health_check=list(HealthCheck),
)
