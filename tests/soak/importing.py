"""A process that imports foreign files: it answers each path on a line with a line of JSON, its end and cost.

The files may end the process; the test that started it sees this.
"""

import contextlib
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

__all__ = ["Importer"]

ADDRESS_SPACE = 6 * 2**30
"""Bytes of address space of the process, so that no file takes the machine's memory."""
STATUS = Path("/proc/self/status")
"""Where Linux tells a process its peak of memory."""
PATIENCE = 30
"""Seconds after which the process is said to hang."""


class Importer:
    """A process that imports files into a folder of its own; it is started again where a file has ended it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "imported"
        self.root.mkdir()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.importing", str(self.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
        )
        self.answers: Queue[str] = Queue()
        self.listener = Thread(target=self.listen, args=(self.process, self.answers), daemon=True)
        self.listener.start()
        assert self.answers.get(timeout=PATIENCE) == "ready\n"

    @staticmethod
    def listen(process: subprocess.Popen, answers: Queue) -> None:
        with process.stdout:
            for line in process.stdout:
                answers.put(line)
        answers.put("")

    def __call__(self, *paths: Path) -> list[dict[str, Any]]:
        """How the imports of files ended, each: `kind` imported, typed, untyped, "hangs", or "ended by signal N"."""
        ends = list[dict[str, Any]]()
        while len(ends) < len(paths):
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write("".join(f"{json.dumps(str(path))}\n" for path in paths[len(ends) :]))
                self.process.stdin.flush()
            while len(ends) < len(paths):
                try:
                    answer = self.answers.get(timeout=PATIENCE)
                except Empty:
                    answer = None
                if not answer:
                    ends.append({"kind": self.failure(answer is None), "said": "", "seconds": 0, "bytes": 0})
                    break
                ends.append(json.loads(answer))
        return ends

    def failure(self, hangs: bool) -> str:
        """Why the process no longer answers; it is started again."""
        if hangs:
            self.process.kill()
        code = self.process.wait()
        self.close()
        self.start()
        return "hangs" if hangs else f"ended by signal {-code}"

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.listener.join()


def serve(root: Path) -> None:
    """Import what standard input names."""
    import torch

    from interp.errors import InterpError
    from interp.importers import import_checkpoints

    torch.set_num_threads(1)
    if STATUS.exists():
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    answers, sys.stdout = sys.stdout, sys.stderr
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak of the resident set starts anew
        before, start = peak(), time.process_time()
        try:
            traj = import_checkpoints(json.loads(line), root=root)
            kind, said = "imported", " ".join(map(str, traj.names))
        except InterpError as error:
            kind, said = "typed", str(error)
        except Exception as error:
            kind, said = "untyped", f"{type(error).__name__}: {error}"
        seconds, taken = time.process_time() - start, peak() - before
        print(json.dumps({"kind": kind, "said": said, "seconds": seconds, "bytes": taken}), file=answers, flush=True)
        with contextlib.suppress(FileNotFoundError):
            for run in root.iterdir():
                shutil.rmtree(run)


def peak() -> int:
    """The largest resident set, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
