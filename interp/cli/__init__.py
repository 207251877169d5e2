"""The command line: `interp demo | train | resume | replay | import | measure | compare | explain | report | ...`.

A user's mistake ends with one line and exit code 2; a run that diverged ends with 1, an interrupted one with 130.
A warning is one line, too, and is said once.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from interp.cli.encoding import print_anything
from interp.cli.reading import import_modules, parse
from interp.errors import DivergedError, InterpError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command: the words `arguments`, or if not given the process's own."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    print_anything()
    with warnings.catch_warnings():
        _warn_in_one_line()
        _run(words)


def _run(words: list[str]) -> None:
    try:
        parse(import_modules(words))()
        sys.stdout.flush()
    except DivergedError as error:
        _leave(error, 1)
    except InterpError as error:
        _leave(error, 2)
    except KeyboardInterrupt as error:
        _leave(error if str(error) else "Interrupted.", 130)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
    except OSError as error:  # a full disk, a folder that may not be written
        _leave(error, 2)


def _warn_in_one_line() -> None:
    """Print Python's warnings as this program prints its errors: in one line, each once."""
    said = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = " ".join(str(message).split())
        if text not in said:
            said.add(text)
            print(f"interp: warning: {text}", file=sys.stderr)

    warnings.showwarning = show


def _leave(error: object, code: int) -> None:
    print(f"interp: {error}", file=sys.stderr)
    sys.exit(code)
