"""The program `interp`, also `python -m interp`: Ctrl-C and SIGTERM end it in one line, at any time.

Little is imported here, so that the signals are taken before the slow imports begin.
"""

import contextlib
import os
import signal
import sys
from types import FrameType

__all__ = ["run"]


def run() -> None:
    """Run the words of the command line; after Ctrl-C or SIGTERM, end with one line and exit code 130."""
    sys.unraisablehook = _end_if_interrupted
    heard = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
    for signum in heard:  # what is ignored when the program starts, as in a shell's background, stays ignored
        signal.signal(signum, _interrupt)
    try:
        from interp.cli import main

        main()
    except KeyboardInterrupt:
        _end()
    finally:  # the work is done or given up; Python still takes a moment to end, which no signal is to show
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if signal.SIGTERM in heard:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; during an import, where libraries pass over exceptions or change them, end at once."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _end()
        frame = frame.f_back
    raise KeyboardInterrupt


def _end_if_interrupted(unraisable: "sys.UnraisableHookArgs") -> None:
    """End where KeyboardInterrupt was raised in a callback, which cannot pass it on."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        _end()
    sys.__unraisablehook__(unraisable)


def _end() -> None:
    """End the process with one line; what a run has committed is on disk already."""
    with contextlib.suppress(Exception):  # in the middle of a write, or on a closed pipe
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, b"interp: Interrupted.\n")
    os._exit(130)


if __name__ == "__main__":
    run()
