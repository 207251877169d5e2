"""Opening of foreign files: regular files only, so that no pipe is waited for and no device is read.

A file that only stands for another (a Git LFS pointer, a page of a web site) is named as such, with the remedy.
"""

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
STANDING_FOR_ANOTHER = {
    b"version https://git-lfs.github.com/spec/": "is a Git LFS pointer: the file itself was not downloaded. Fetch it "
    "with `git lfs pull` in its repository (after `git lfs install`), or download it from the repository's web site",
    b"/annex/objects/": "is a git-annex pointer: the file itself was not downloaded. Fetch it with `git annex get`",
    b"<!doctype html": "is a web page, not the file: take the page's download link",
    b"<html": "is a web page, not the file: take the page's download link",
}
"""Stand-ins for a file that was not downloaded, by how they begin, in lower case, and what to do."""
BEGINNING = 64
"""Bytes by which a stand-in is recognised."""


def open_regular(path: Path) -> io.BufferedReader:
    """The bytes of a regular file, to which links may lead.

    Raises:
        ForeignFormatError: the path leads to no file, to a folder, a pipe, a socket or a device, or may not be read; or
            its file only stands for another.
    """
    try:
        kind = path.stat().st_mode  # opening some devices acts on them
        if stat.S_ISREG(kind):
            stream = os.fdopen(os.open(path, FLAGS), "rb")
            kind = os.fstat(stream.fileno()).st_mode
            if stat.S_ISREG(kind):
                begins = stream.peek(BEGINNING)[:BEGINNING].lstrip().lower()
                said = next((said for start, said in STANDING_FOR_ANOTHER.items() if begins.startswith(start)), None)
                if said is None:
                    return stream
                stream.close()
                raise ForeignFormatError(f"{path} {said}.")
            stream.close()
    except ForeignFormatError:
        raise
    except (OSError, ValueError) as error:
        raise ForeignFormatError(f"{path} cannot be read: {error_line(error)}.") from None
    raise ForeignFormatError(f"{path} must be a regular file; it is a {_kind(kind)}.")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "folder"
    return "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
