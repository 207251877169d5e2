"""What the tests of sweeps on other processes share: small runs that take seconds, and who is writing to them."""

import contextlib
import os
import time
from pathlib import Path

import pytest

from interp.config import FeedForward, Modular, RunConfig

SMALL = RunConfig(
    task=Modular(p=11, train_fraction=0.6, encoding="operands"),
    model=FeedForward(d_model=8, d_hidden=(16,)),
    steps=40,
).replace({"save.weights": "every(4)", "save.state": "every(16)", "log.test": "every(2)"})
SECONDS = SMALL.replace(
    {"steps": 1200, "save.weights": "every(100)", "save.state": "every(100)", "log.train": "every(10)"}
)
"""Long enough to be met in the middle, a few seconds on one core."""


def require(there, what):
    """Skip where something is not installed, unless this is continuous integration: there it must be."""
    if not there:
        assert not os.environ.get("CI"), f"{what} must be installed in continuous integration"
        pytest.skip(f"{what} is not installed")


def until(condition, seconds):
    """Ask until the answer is not empty; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.05)
    return answer


def writes(pid, root):
    """The run folders below `root` that a process is in the middle of: it has the lock, and is past the first state."""
    found = []
    with contextlib.suppress(OSError):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                lock = Path(os.readlink(handle))
                states = list((lock.parent / "state").glob("*.safetensors"))
                if lock.name == "LOCK" and lock.is_relative_to(root) and len(states) > 1:
                    found.append(lock.parent)
    return found


def lives(pid):
    """Whether there is such a process, and not only what is left of it until its parent asks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_same_runs(first, second):
    """Bit for bit, weights and metrics."""
    for one, other in zip(first, second, strict=True):
        assert one.complete
        assert other.complete
        assert one.fingerprints() == other.fingerprints()
        assert one.metrics.equals(other.metrics)
