"""Files of a run folder, read and written without trusting what lies in it.

A run folder may come from anyone. Below it no symbolic link is followed, so that nothing outside of it is read,
written, cut or deleted; only regular files are opened, so that no pipe hangs and no device runs on; sizes are checked
before anything is allocated. The run folder itself and its parents may be links, which its owner has made.

A file appears whole or not at all: it is written beside its place, under a temporary name, and renamed (`publish`).
`write_file` does so for what a person keeps: reports, tables, pictures.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from interp.errors import StoreError

__all__ = [
    "append_to",
    "delete_run",
    "inside",
    "is_there",
    "leftovers",
    "listing",
    "naming",
    "opened",
    "parse_json",
    "publish",
    "read_file",
    "read_up_to",
    "require_lockable",
    "require_shallow",
    "size_of",
    "sync_folder",
    "truncate",
    "write_file",
]

CHUNK = 2**30
"""Maximum number of bytes in one system call: Linux takes at most 2 GiB."""
LOOPS = (errno.ELOOP, errno.EMLINK)
"""Errors with which systems say that O_NOFOLLOW met a symbolic link."""
KINDS = (
    (stat.S_ISLNK, "symbolic link, and inside of a run none is followed; put the file itself there"),
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)
LOCKED = (".run.json.", ".metrics.jsonl.")
"""Beginnings of temporary names in a run folder itself that only the holder of its lock writes."""
QUIET, OLD = 60.0, 86_400.0
"""Ages [s] from which a temporary file is abandoned: where its process is gone, and where there still is one."""
DEEPEST = 64
"""Maximum depth of nested lists and objects in JSON."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context in which an `OSError` becomes a `StoreError` that names the file."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}.") from error


def is_there(path: Path) -> bool:
    """Whether there is a file or folder at `path`, which may be a link.

    Raises:
        StoreError: the file system cannot tell.
    """
    with naming(path):
        return path.exists()


def inside(folder: Path, *parts: str) -> Path:
    """Path of something below a run folder, there or not, none of whose parts is a symbolic link.

    Raises:
        StoreError: one of them is; the message names it.
    """
    path = folder
    for part in parts:
        path = path / part
        with naming(path), suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISLNK(os.lstat(path).st_mode):
                raise _refusal(path, stat.S_IFLNK)
    return path


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Context with the descriptor of a regular file of a run; an `OSError` in it becomes a `StoreError`.

    Raises:
        StoreError: it is a symbolic link, a folder, a pipe, a device, or cannot be opened.
    """
    with naming(path):
        try:  # O_NONBLOCK: opening a pipe would wait for its other end
            handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno in LOOPS:
                raise _refusal(path, stat.S_IFLNK) from error
            raise
        try:
            if not stat.S_ISREG(mode := os.fstat(handle).st_mode):
                raise _refusal(path, mode)
            yield handle
        finally:
            os.close(handle)


def read_up_to(handle: int, size: int) -> bytes:
    """The next `size` bytes of a file, or fewer where it ends."""
    data = os.read(handle, min(size, CHUNK))
    if len(data) == size or not data:
        return data
    parts = [data]
    while size := size - len(parts[-1]):
        if not (data := os.read(handle, min(size, CHUNK))):
            break
        parts.append(data)
    return b"".join(parts)


def read_file(path: Path, largest: int) -> bytes:
    """Bytes of a regular file of a run.

    Raises:
        StoreError: it is none, is larger than `largest` bytes, or cannot be read.
    """
    with opened(path) as handle:
        size = os.fstat(handle).st_size
        if size > largest:
            raise StoreError(f"{path} has {size:,} bytes; at most {largest:,} are read.")
        return read_up_to(handle, size)


def parse_json(data: bytes | str) -> Any:
    """JSON without NaN and infinities.

    Raises:
        ValueError: it is none, or nested too deeply for the parser.
    """
    try:
        return _DECODER.decode(data if isinstance(data, str) else data.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def require_shallow(found: Any) -> None:
    """Refuse JSON values nested so deeply that a recursive function could not follow.

    Raises:
        ValueError: they are nested deeper than `DEEPEST`.
    """
    level = [found]
    for _ in range(DEEPEST):
        containers = [one for one in level if isinstance(one, dict | list)]
        level = [child for one in containers for child in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {DEEPEST} levels")


def publish(path: Path, chunks: list[Any], *, fsync: bool, replace: bool = False, mode: int | None = None) -> bool:
    """Write `path` so that it appears whole or not at all; False where it exists already and `replace` is not set.

    A link at its place is replaced, never followed. `mode` gives its permissions; None: as the umask says. Whoever
    replaces a file also removes what writers of it that were killed have left beside it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with naming(path):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)  # less the umask
            try:
                if mode is not None:
                    os.fchmod(handle, mode)
                for chunk in chunks:
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[os.write(handle, rest[:CHUNK]) :]
                if fsync:
                    os.fsync(handle)
            finally:
                os.close(handle)
            if replace:
                os.replace(temporary, path)
            else:
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return False
                except OSError:  # no hard links here; the lock keeps other writers away between test and rename
                    if os.path.lexists(path):
                        return False
                    os.rename(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        if fsync:
            sync_folder(path.parent)
    if replace:
        with suppress(OSError):  # the file is there; what lies beside it may stay
            for name in os.listdir(path.parent):
                if name.startswith(f".{path.name}.") and _is_abandoned(path.with_name(name)):
                    os.unlink(path.with_name(name))
    return True


def write_file(path: Path, data: str | bytes) -> None:
    """Write a file that a person keeps, in place of an older one, which a full disk or a kill leaves as it is.

    The older file's permissions are kept, and where `path` is a link that its user made, the file it leads to is
    written. (Inside of a run, take the path from `inside`, which refuses links.)

    Raises:
        StoreError: it cannot be written, or is no regular file.
    """
    target = Path(os.path.realpath(path))
    with naming(path):
        mode = None
        with suppress(FileNotFoundError):
            mode = os.stat(target).st_mode
            if not stat.S_ISREG(mode):
                raise _refusal(path, mode)
    publish(
        target,
        [data.encode() if isinstance(data, str) else data],
        fsync=True,
        replace=True,
        mode=None if mode is None else stat.S_IMODE(mode),
    )


def append_to(path: Path, data: bytes, *, fsync: bool) -> None:
    """Append whole lines in one write, or nothing."""
    with opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as handle:
        size = os.fstat(handle).st_size
        try:
            if os.write(handle, data) != len(data):
                raise OSError("the disk took only a part of it; is it full?")
            if fsync:
                os.fsync(handle)
        except OSError:
            with suppress(OSError):  # a torn line is cut when the run is opened again; the first error says why
                os.ftruncate(handle, size)
            raise
        if fsync and size == 0:
            sync_folder(path.parent)


def truncate(path: Path, torn: int) -> None:
    """Cut the last `torn` bytes of a file."""
    with opened(path, os.O_WRONLY) as handle:
        os.ftruncate(handle, os.fstat(handle).st_size - torn)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    with naming(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def listing(folder: Path, pattern: str) -> list[tuple[tuple[int, ...], Path]]:
    """Committed files of `folder`, a folder of a run, whose names match `pattern`, by the numbers in their names.

    A number has one written form, of eight digits or more: there are no two files of one step.
    """
    inside(folder.parent, folder.name)
    with naming(folder):
        names = os.listdir(folder) if os.path.lexists(folder) else []
    found = []
    for name in names:
        if match := re.fullmatch(pattern, name, re.ASCII):
            numbers = tuple(map(int, match.groups()))
            if match.groups() == tuple(f"{number:08d}" for number in numbers):
                found.append((numbers, folder / name))
    return sorted(found)


def _is_abandoned(path: Path) -> bool:
    """Whether a file is a temporary one that nobody writes any longer, as far as this machine can tell.

    Its name has the number of the process that writes it, which may run on another machine: what was written to within
    the last minute is left alone, and for a day what belongs to a number that is taken here.
    """
    match = re.fullmatch(r"\..+\.([0-9]{1,9})\.[0-9a-f]{1,16}\.tmp", path.name)
    try:
        found = os.lstat(path)
    except OSError:
        return False
    if not match or not stat.S_ISREG(found.st_mode):
        return False
    age = time.time() - found.st_mtime
    return age > OLD or (age > QUIET and not _lives(int(match[1])))


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of a run folder that are nobody's, if the caller holds its lock, or nobody does.

    Reports and measured values are written without the lock; of theirs, those that are abandoned.
    """
    with naming(folder):
        own = [path for child in ("trajectory", "state") for path in inside(folder, child).glob(".*.*.*.tmp")]
        own += [path for path in folder.glob(".*.*.*.tmp") if path.name.startswith(LOCKED) or _is_abandoned(path)]
        measures = folder / "measures"
        if not measures.is_symlink():
            own += filter(_is_abandoned, measures.glob(".*.*.*.tmp"))
    return sorted(own)


def require_lockable(path: Path) -> None:
    """Refuse a lock file that is something else than a regular file, and a file system that has no locks.

    (filelock would make a lock of another kind there, which takes any file left behind for a living writer.)
    """
    with opened(path, os.O_RDWR | os.O_CREAT) as handle, suppress(BlockingIOError):  # a writer: filelock will say so
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                raise
            raise StoreError(
                f"{path} cannot be locked: {error.strerror}. Put the run on a file system that has flock."
            ) from error


def size_of(folder: Path) -> int:
    """Size of all regular files in and below a run folder [bytes]; no link is followed."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a temporary file of a living writer
                found = os.lstat(os.path.join(place, name))
                size += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return size


def delete_run(folder: Path) -> None:
    """Delete all that is in a run folder, and the folder; of links in it, the links alone.

    Full states go first, and run.json last: after a kill at any point the run can be deleted again, or trained from the
    start. A run folder that is itself a link is emptied.
    """
    with naming(folder):
        for child in sorted(folder.iterdir(), key=lambda child: child.name != "state"):
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)  # which follows no link
            elif child.name != "run.json":
                child.unlink()
        if folder.is_symlink():
            (folder / "run.json").unlink(missing_ok=True)
        else:
            shutil.rmtree(folder)


def _lives(process: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _refusal(path: Path, mode: int) -> StoreError:
    kind = next((words for is_kind, words in KINDS if is_kind(mode)), "something else")
    return StoreError(f"{path} must be a regular file; it is a {kind}.")


def _refuse_constant(word: str) -> None:
    raise ValueError(f"it holds {word}, which is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)  # made once: a long run has thousands of headers
