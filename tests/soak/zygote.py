"""Processes that start within milliseconds: children of a process that has imported this package and used nothing.

    with Zygote() as zygote:
        child = zygote.start("tests.soak.work:train", "/tmp/runs", "transformer")
        child.kill(signal.SIGKILL)
        child.wait()

Importing torch takes two seconds, a fork ten milliseconds. A process that has run torch in several threads must not be
forked, so the tests do not fork themselves; this one only ever imports.
"""

import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

__all__ = ["Child", "Zygote"]

ROOT = Path(__file__).parents[2]
PRELOADED = (
    "torch._dynamo",
    "interp.training.api",
    "interp.execution.sweeps",
    "interp.importers.importing",
    "interp.analysis.measures",
    "interp.analysis.catalogue",
    "interp.milestones.comparison",
    "interp.reporting.page",
    "interp.cli.commands",
    "dask.array",
    "pandas.io.formats.csvs",
    "plotly.graph_objs._bar",
    "plotly.io._templates",
    "plotly.validator_cache",
    "tests.soak.work",
    "tests.soak.test_faults",
    "tests.soak.test_signals",
    "tests.soak.test_company",
)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
HANGS = 120.0
"""Seconds after which a child that should have ended is said to hang."""


class Child:
    """A process of the zygote's; `wait` gives its exit status, negative for a signal."""

    def __init__(self, zygote: "Zygote", pid: int, output: Path) -> None:
        self.pid, self.output = pid, output
        self._zygote, self._handle = zygote, os.pidfd_open(pid)
        self._status: int | None = None

    def ended(self, seconds: float) -> bool:
        """Whether it has ended, or does so within some seconds."""
        return bool(select.select([self._handle], [], [], seconds)[0])

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal; its number cannot belong to another process before `wait`."""
        if self._status is None:
            os.kill(self.pid, signum)

    def wait(self, seconds: float = HANGS) -> int:
        """Exit status, once it has ended."""
        if self._status is None:
            hangs = not self.ended(seconds)
            if hangs:
                self.kill(signal.SIGKILL)
            self._status = self._zygote.ask({"wait": self.pid})
            os.close(self._handle)
            assert not hangs, f"hung for {seconds:g} s: {self.said()}"
        return self._status

    def said(self) -> str:
        """Output and errors so far."""
        return self.output.read_text(errors="replace")


class Zygote:
    """A warm process; `start` forks a child of it that calls a function, named MODULE:FUNCTION, with JSON arguments.

    Arguments:
        modules: what it imports; without torch, a fork takes three milliseconds.
    """

    def __init__(self, modules: Sequence[str] = PRELOADED) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.zygote", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        )
        self._folder = tempfile.TemporaryDirectory(prefix="interp-zygote-")
        self._count = 0

    def start(self, function: str, *arguments: object) -> Child:
        """Start a call in a process of its own."""
        self._count += 1
        output = Path(self._folder.name) / f"{self._count}.txt"
        output.touch()
        return Child(self, self.ask({"call": function, "with": arguments, "output": str(output)}), output)

    def call(self, function: str, *arguments: object) -> str:
        """Call a function in a process of its own, which must succeed; returns what it printed."""
        child = self.start(function, *arguments)
        assert child.wait() == 0, child.said()
        return child.said()

    def ask(self, words: dict[str, object]) -> int:
        """Put a request to the process, and return its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(words) + "\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, "the zygote has ended"
        return int(answer)

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()
        self._folder.cleanup()


def _serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more; in a child, do its work and end."""
    for line in requests:
        words = json.loads(line)
        if "wait" in words:
            answer = os.waitstatus_to_exitcode(os.waitpid(words["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                code = _work(words)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)  # to take down torch takes seconds
        print(answer, file=answers, flush=True)


def _work(words: dict) -> int:
    """Do the work of a child."""
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(words["output"], os.O_WRONLY | os.O_APPEND)
    for handle, to in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(handle, to)
    module, _, name = words["call"].partition(":")
    try:
        os.setsid()
        getattr(importlib.import_module(module), name)(*words["with"])
    except SystemExit as error:
        return int(error.code or 0)
    except KeyboardInterrupt:  # before the work began
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    for name in sys.argv[1:]:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a child would copy all that was imported: half of the time of a short run
    _serve(sys.stdin, sys.stdout)
    os._exit(0)
