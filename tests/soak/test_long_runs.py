"""A run of many segments: memory and handles stay flat while it is written and read, and it opens at once."""

import gc
import os
import time
from pathlib import Path

import numpy as np
import pytest

from interp.store import RunReader, RunWriter
from interp.store.reader import OPEN_MAPS
from tests.soak.scale import scaled

SEGMENTS = scaled(300, 20_000)
PER_SEGMENT = 5
OPEN_SECONDS = 2.0
"""Seconds within which the longest run opens."""
PER_FILE_BYTES = 6000
"""Maximum memory of a reader for each segment: its header."""


def weights(step: int) -> dict[str, np.ndarray]:
    """Arrays that are a pure function of the step."""
    return {"w": np.full((2, 3), step, np.float32), "b": np.array([step, -step], np.int64)}


@pytest.fixture(autouse=True)
def few_objects():
    """Collections look at what the test makes alone, not at all that is imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def resident() -> int:
    """Resident memory of this process [bytes]."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def handles() -> int:
    """Open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def test_a_long_run_is_written_opened_and_read_in_bounded_memory(tmp_path):
    folder, steps = tmp_path / "run", SEGMENTS * PER_SEGMENT
    memory, opened = [], []
    began = time.monotonic()
    with RunWriter.create(folder, {"p": 59}, segment_steps=PER_SEGMENT, fsync=False) as writer:
        for step in range(steps):
            writer.append(step, weights(step))
            writer.log({"step": step, "loss": 1 / (1 + step)})
            if step % (steps // 20) == 0:
                writer.save_state(step, weights(step), {})
                memory.append(resident())
                opened.append(handles())
    writing = time.monotonic() - began
    assert max(opened[1:]) - opened[1] <= 2
    assert max(memory[2:]) - memory[2] < 64 * 2**20 + PER_FILE_BYTES * SEGMENTS

    before = resident()
    began = time.process_time()  # of this process alone: other work on the machine does not count
    reader = RunReader(folder)
    opening = time.process_time() - began
    assert len(reader.steps) == steps
    assert opening < OPEN_SECONDS
    held = resident() - before
    assert held < 16 * 2**20 + PER_FILE_BYTES * SEGMENTS

    before, began = handles(), time.monotonic()
    for step in range(steps):
        assert reader.read("w", step)[0, 0] == step
    for _ in range(3):
        assert reader.read("b", slice(None))[:, 1].tolist() == [-step for step in range(steps)]
    reading = time.monotonic() - began
    assert handles() - before <= OPEN_MAPS + 2
    assert resident() - memory[-1] < 64 * 2**20 + 3 * PER_FILE_BYTES * SEGMENTS

    began = time.monotonic()
    for _ in range(5):
        reader.refresh()
    refreshing = (time.monotonic() - began) / 5
    began = time.monotonic()
    assert reader.metrics["loss"][-1] == 1 / steps
    logging = time.monotonic() - began
    began = time.monotonic()
    RunWriter.open(folder, fsync=False).close()
    reopening = time.monotonic() - began
    began = time.monotonic()
    assert RunReader(folder).verify().ok
    verifying = time.monotonic() - began
    print(
        f"{steps} checkpoints in {SEGMENTS} segments: written in {writing:.1f} s, opened in {opening:.2f} s "
        f"({held / SEGMENTS:.0f} bytes each), refreshed in {refreshing:.2f} s, by a writer in {reopening:.2f} s, "
        f"read in {reading:.1f} s, metrics in {logging:.2f} s, verified in {verifying:.1f} s; memory while writing "
        f"{memory[2] / 2**20:.0f} to {memory[-1] / 2**20:.0f} MB"
    )
