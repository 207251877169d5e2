"""Opening of foreign files: regular files only, so that no pipe is waited for and no device is read."""

import io
import os
import stat
import sys
from pathlib import Path

from interp.errors import ForeignFormatError, error_line

__all__ = ["open_regular"]

if sys.platform == "win32":
    FLAGS = os.O_RDONLY | os.O_BINARY
else:
    FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""How files are opened: without waiting, since a pipe may have taken the file's place since it was looked at."""


def open_regular(path: Path) -> io.BufferedReader:
    """The bytes of a regular file, to which links may lead.

    Raises:
        ForeignFormatError: the path leads to no file, to a folder, a pipe, a socket or a device, or may not be read.
    """
    try:
        kind = path.stat().st_mode  # opening some devices acts on them
        if stat.S_ISREG(kind):
            stream = os.fdopen(os.open(path, FLAGS), "rb")
            kind = os.fstat(stream.fileno()).st_mode
            if stat.S_ISREG(kind):
                return stream
            stream.close()
    except (OSError, ValueError) as error:
        raise ForeignFormatError(f"{path} cannot be read: {error_line(error)}.") from None
    raise ForeignFormatError(f"{path} must be a regular file; it is a {_kind(kind)}.")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "folder"
    return "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
