"""System calls that fail: the n-th call on files below a folder raises an error, or is the last of the process.

    with failing(folder, Fault(nth=7, error=errno.EIO)) as calls:
        ...

The calls are those of Python's `os` and of `open`, in any module and thread. Files are not really synced meanwhile.
"""

import builtins
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

__all__ = ["Fault", "failing"]

CALLS = (
    "open", "write", "fsync", "close", "fstat", "stat", "link", "rename", "replace", "unlink", "remove", "rmdir",
    "ftruncate", "truncate", "mkdir", "listdir", "scandir",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """Fate of a call: it fails with `error`, or the process is killed (None).

    A write that is cut writes half of its bytes before; other calls that are cut, and calls that fail late, are made.
    """

    nth: int = 0
    """Number of the call, from 1; 0 for none."""
    error: int | None = None
    after: bool = False
    """Whether the call is made before it fails; of a write, half."""

    def __str__(self) -> str:
        what = "SIGKILL" if self.error is None else os.strerror(self.error)
        return f"{what} {'after' if self.after else 'at'} call {self.nth}"


@contextmanager
def failing(root: str | Path, fault: Fault = Fault()) -> Iterator[list[str]]:
    """Context in which a call below `root` fails; gives the list of the calls so far."""
    within, handles, calls = os.fspath(root), set(), []

    def ours(*arguments: Any) -> bool:
        for one in arguments:
            if isinstance(one, int) and not isinstance(one, bool):
                if one in handles:
                    return True
            elif isinstance(one, str | os.PathLike):
                path = os.fspath(one)
                if isinstance(path, str) and (path == within or path.startswith(within + os.sep)):
                    return True
        return False

    def made_before(name: str, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        """Effect of a call before it fails; a file descriptor is closed even by a `close` that fails."""
        if name == "write" and fault.after:
            call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        elif name == "close" or (fault.after and name != "fsync"):
            done = call(*arguments, **keywords)
            if name == "close":
                handles.discard(arguments[0])
            elif isinstance(done, int) and name == "open":
                real["close"](done)
            elif name in ("open", "scandir"):
                done.close()

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **keywords: Any) -> Any:
            places = [*arguments[:2], *(keywords.get(key) for key in ("dir_fd", "src_dir_fd", "dst_dir_fd"))]
            if name in ("write", "fsync", "close", "fstat", "ftruncate"):
                places = places[:1]
            if not ours(*places):
                return call(*arguments, **keywords)
            calls.append(name)
            if len(calls) == fault.nth:
                with suppress(OSError):
                    made_before(name, call, *arguments, **keywords)
                if fault.error is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(fault.error, os.strerror(fault.error), str(arguments[0]))
            done = None if name == "fsync" else call(*arguments, **keywords)
            if name == "open" and isinstance(done, int):
                handles.add(done)
            if name == "close":
                handles.discard(arguments[0])
            return done

        return made

    real = {name: getattr(os, name) for name in CALLS}
    opening = wrapped("open", io.open)
    with ExitStack() as stack:
        for name, call in real.items():
            stack.enter_context(patch.object(os, name, wrapped(name, call)))
        for module in (io, builtins):
            stack.enter_context(patch.object(module, "open", opening))
        yield calls
