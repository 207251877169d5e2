"""Committed files: their bytes and digests, and the commit, by which a file appears whole or not at all.

A sealed file is a safetensors file whose header holds more than the format asks for:

    length of the header, 8 bytes | header, JSON | arrays, wide types first
    header["__metadata__"] = {"format", ..., "steps", "digests", "seal"}

`digests` holds, for each array, the first 128 bits of the SHA-256 of each of its rows. `seal` is the SHA-256 of the
length and the header, with zeros in place of the seal itself; it covers the layout and the digests, and through them
every byte of the file. Equal arrays give equal files.

run.json has a seal of the same kind under `store`, and each line of metrics.jsonl ends in the CRC-32 of the rest of the
line. That a file is missing cannot be seen in the file: the run.json of a complete run lists its files, the *holdings*.

*Commit.* Bytes go to a temporary file in the same folder, which is synced and then published under the final name by a
link that cannot replace anything; the folder is synced last. A committed file is never written again.
"""

import hashlib
import json
import math
import mmap
import os
import re
import secrets
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interp.errors import CorruptRunError, InvalidArgumentError, StoreError

__all__ = [
    "DIGEST",
    "Holdings",
    "RunJson",
    "SealedFile",
    "append_to",
    "check_dtype",
    "commit_arrays",
    "digest",
    "leftovers",
    "listing",
    "metrics_columns",
    "metrics_line",
    "metrics_lines",
    "naming",
    "publish",
    "read_run_json",
    "regions",
    "run_json",
    "sync_folder",
]

FORMAT = 1
DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "C64": "c8", "BOOL": "?"}
DTYPES |= {f"{kind.upper()}{8 * size}": f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}
CODES = {np.dtype(known): code for code, known in DTYPES.items()}  # as safetensors writes them
DIGEST = 32
"""Hexadecimal digits of a digest: 128 bits of SHA-256."""
BLANK = "0" * 64
"""Placeholder of the seal in a header, while the seal is computed."""


class Holdings(NamedTuple):
    """Inventory of a complete run; the last segment covers, through the chain, all segments before it."""

    last_segment: str
    """`SealedFile.reference` of the last segment; empty where no weights are stored."""
    states: list[int]
    """Steps that have a full state."""
    metrics_bytes: int
    metrics_sha256: str


class RunJson(NamedTuple):
    """Content of a run.json."""

    run: dict[str, Any]
    """Description of the run by its writer."""
    complete: bool
    holdings: Holdings | None
    """Inventory of a complete run; None for incomplete runs, and for runs completed by versions without inventories."""


class SealedFile:
    """A committed safetensors file whose header matches its seal.

    `spec` gives the shape and dtype of each array at one step, `fields` the header's other metadata.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checked: dict[str, np.ndarray] = {}
        try:
            with naming(path), open(path, "rb") as stream:
                self.size = os.fstat(stream.fileno()).st_size
                prefix = stream.read(8)
                length = int.from_bytes(prefix, "little")
                if length > self.size - 8:
                    raise ValueError("it is shorter than its header")
                raw = stream.read(length)
            header = json.loads(raw)
            self.fields: dict[str, str] = header.pop("__metadata__")
            self.seal = self.fields["seal"]
            if _seal(prefix + raw.replace(_seal_field(self.seal), _seal_field(BLANK))) != self.seal:
                raise ValueError("its header does not match its seal")
            if self.fields["format"] != str(FORMAT):
                raise StoreError(f"{path} has format {self.fields['format']}; this version reads {FORMAT}.")
            self.steps = np.array(json.loads(self.fields["steps"]), np.int64)
            self.previous = self.fields.get("previous", "")
            self._digests: dict[str, str] = json.loads(self.fields["digests"])
            self._layout: dict[str, tuple[int, int, np.dtype, tuple[int, ...]]] = {}
            self.spec: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
            end = 8 + length
            for name in self._digests:  # in the order in which the writer was given them
                dtype, shape = np.dtype(DTYPES[header[name]["dtype"]]), tuple(header[name]["shape"])
                low, high = header[name]["data_offsets"]
                self._layout[name] = (8 + length + low, high - low, dtype, shape)
                self.spec[name] = (shape[1:], dtype)
                end = max(end, 8 + length + high)
            if end != self.size:
                raise ValueError(f"it has {self.size} bytes, its header promises {end}")
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptRunError(f"{path} is damaged: {error}.") from error

    @property
    def reference(self) -> str:
        """Name and seal, by which the next segment refers to this file."""
        return f"{self.path.name}:{self.seal}"

    def digest(self, name: str, row: int) -> str:
        """Digest of one row, from the header."""
        return self._digests[name][DIGEST * row : DIGEST * (row + 1)]

    def map(self) -> np.ndarray:
        """Bytes of the file as a read-only memory map, which lives as long as a view of it."""
        with naming(self.path), open(self.path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size != self.size:
                raise CorruptRunError(f"{self.path} has changed its size since it was opened.")
            return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)

    def view(self, data: np.ndarray, name: str) -> np.ndarray:
        """Array `name` as a view of `data`, the bytes of the file."""
        low, size, dtype, shape = self._layout[name]
        return data[low : low + size].view(dtype).reshape(shape)

    def check(self, data: np.ndarray, name: str, row: int) -> None:
        """Compare the digest of one row, or of a state's whole array, with the header."""
        low, size, _, _ = self._layout[name]
        size //= len(self.steps)
        if digest(data[low + row * size : low + (row + 1) * size]) != self.digest(name, row):
            raise CorruptRunError(f"{self.path}: `{name}` at step {self.steps[row]} does not match its digest.")


def commit_arrays(path: Path, arrays: dict[str, np.ndarray], rows: int, extra: dict[str, str], *, fsync: bool) -> str:
    """Seal `arrays`, publish them as `path` and return the seal; each array is hashed in `rows` equal regions."""
    digests = {name: "".join(map(digest, regions(array, rows))) for name, array in arrays.items()}
    metadata = {"format": str(FORMAT), **extra, "digests": json.dumps(digests), "seal": BLANK}
    # The safetensors library would copy everything twice and order metadata at random, but equal arrays must give equal
    # bytes. Wide types come first, so that all are aligned.
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in sorted(arrays, key=lambda name: -arrays[name].itemsize):
        array = arrays[name]
        start, end = end, end + array.nbytes
        header[name] = {"dtype": CODES[array.dtype], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    seal = _seal(head)
    chunks = [head.replace(_seal_field(BLANK), _seal_field(seal))]
    chunks += [regions(arrays[name], 1)[0] for name in header if name in arrays]
    if publish(path, chunks, fsync=fsync):
        return seal
    stored = SealedFile(path)
    if stored.fields["steps"] != metadata["steps"]:
        raise CorruptRunError(f"{path} exists and holds other steps.")
    for name in {**digests, **stored._digests}:
        if stored._digests.get(name) != digests.get(name):
            raise CorruptRunError(f"{path} exists and its `{name}` differs; a committed file is never overwritten.")
    return stored.seal


def publish(path: Path, chunks: list[Any], *, fsync: bool, replace: bool = False) -> bool:
    """Write `path` so that it appears whole or not at all; False where it exists already and `replace` is not set."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with naming(path):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
            try:
                for chunk in chunks:
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[os.write(handle, rest[: 2**30]) :]
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
                    if path.exists():
                        return False
                    os.rename(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        if fsync:
            sync_folder(path.parent)
    return True


def append_to(path: Path, data: bytes, *, fsync: bool) -> None:
    """Append whole lines in one write, or nothing."""
    with naming(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(handle).st_size
            try:
                if os.write(handle, data) != len(data):
                    raise OSError("the disk took only a part of it; is it full?")
                if fsync:
                    os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
        if fsync and size == 0:
            sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context in which an `OSError` becomes a `StoreError` that names the file."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}.") from error


def listing(folder: Path, pattern: str) -> list[tuple[tuple[int, ...], Path]]:
    """Committed files of `folder` whose names match `pattern`, sorted by the numbers in their names."""
    with naming(folder):
        found = [(re.fullmatch(pattern, name), name) for name in os.listdir(folder)] if folder.exists() else []
    return sorted((tuple(map(int, match.groups())), folder / name) for match, name in found if match)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of a run folder, of a dead writer or of the living one."""
    folders = [folder, folder / "trajectory", folder / "state"]
    return sorted(path for child in folders for path in child.glob(".*.*.*.tmp"))


def run_json(run: Mapping[str, Any], *, complete: bool, holdings: Holdings | None = None) -> bytes:
    """Bytes of a run.json: the writer's description; under `store` format, completeness, holdings and a digest."""
    if "store" in run:
        raise InvalidArgumentError("`run` must not have the key `store`, which belongs to the store.")
    try:
        whole = json.loads(json.dumps(dict(run), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"`run` must be a JSON object; {error}.") from error
    whole["store"] = {"format": FORMAT, "complete": complete}
    if holdings is not None:
        whole["store"]["holdings"] = holdings._asdict()
    whole["store"]["sha256"] = _seal(json.dumps(whole, sort_keys=True).encode())
    return (json.dumps(whole, indent=2) + "\n").encode()


def read_run_json(path: Path) -> RunJson:
    """Content of a run.json, checked against its seal."""
    with naming(path):
        if not path.exists():
            raise StoreError(f"{path.parent} is no run folder: it holds no run.json.")
        data = path.read_bytes()
    try:
        whole = json.loads(data)
        seal = whole["store"].pop("sha256")
        if _seal(json.dumps(whole, sort_keys=True).encode()) != seal:
            raise ValueError("its content does not match its `store.sha256`; was it edited by hand?")
        store = whole.pop("store")
        complete = bool(store["complete"])
        holdings = Holdings(**store["holdings"]) if "holdings" in store else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptRunError(f"{path} is damaged: {error}.") from error
    if store["format"] != FORMAT:
        raise StoreError(f"{path} has format {store['format']}; this version reads {FORMAT}.")
    return RunJson(whole, complete, holdings)


def metrics_line(record: Mapping[str, Any]) -> bytes:
    """Line of metrics without its newline, ending in its CRC-32; numbers by name, with the integer `step`."""
    if not isinstance(record.get("step"), Integral) or "crc32" in record:
        raise InvalidArgumentError(f"`record` must have an integer `step` and no `crc32`; got {dict(record)!r}.")
    body = json.dumps({key: _number(key, value) for key, value in record.items()}, separators=(",", ":"))[:-1].encode()
    return body + _crc(body)


def metrics_lines(path: Path, last_bytes: int | None = None) -> tuple[list[bytes], int]:
    """Whole lines of metrics, each checked, and the length in bytes of a torn last line.

    With `last_bytes`, only so many bytes at the end are read, less the line in whose middle they begin.
    """
    data, cut = b"", False
    with naming(path):
        if path.exists():
            with open(path, "rb") as stream:
                if cut := last_bytes is not None and os.fstat(stream.fileno()).st_size > last_bytes:
                    stream.seek(-last_bytes, os.SEEK_END)
                data = stream.read()
    *lines, torn = data.split(b"\n")[cut:] or [b""]
    for number, line in enumerate(lines, 1):
        if line[-20:] != _crc(line[:-20]):
            where = f"line {len(lines) + 1 - number} from the end" if cut else f"line {number}"
            raise CorruptRunError(f"{path}, {where} does not match its CRC-32.")
    return lines, len(torn)


def metrics_columns(lines: list[bytes]) -> dict[str, np.ndarray]:
    """Columns of metrics over their steps; a later value of a name wins, an absent value reads as NaN."""
    records: dict[int, dict[str, Any]] = {}
    for record in json.loads(b"[" + b",".join(lines) + b"]"):
        records.setdefault(record["step"], {}).update(record)
    rows = [records[step] for step in sorted(records)]
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in ("step", "crc32")]
    columns = {name: np.array([row.get(name) for row in rows], np.float64) for name in names}  # None becomes NaN
    return {"step": np.array(sorted(records), np.int64), **columns}


def check_dtype(name: str, dtype: np.dtype) -> None:
    """Refuse an array that the file format cannot hold."""
    if name == "__metadata__":
        raise InvalidArgumentError("`__metadata__` is no name for an array: the file format uses it.")
    if dtype.newbyteorder("=") not in CODES:
        raise InvalidArgumentError(f"`{name}` must have a dtype that safetensors knows; got {dtype}.")


def regions(array: np.ndarray, count: int) -> np.ndarray:
    """Bytes of a contiguous array in `count` equal parts, uint8 [count, n]."""
    return array.reshape(-1).view(np.uint8).reshape(count, array.nbytes // count)


def digest(region: Any) -> str:
    """First 128 bits of the SHA-256 of some bytes, in hexadecimal."""
    # SHA-256 with the processor's own instructions hashes 1.8 GB/s a core, BLAKE2b 0.9; both let go of the GIL.
    return hashlib.sha256(region).hexdigest()[:DIGEST]


def _seal(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _seal_field(seal: str) -> bytes:
    return b'"seal":"' + seal.encode() + b'"'


def _crc(body: bytes) -> bytes:
    """End of a line of metrics, with the CRC-32 of the line before it."""
    return b',"crc32":"%08x"}' % zlib.crc32(body)


def _number(key: str, value: Any) -> int | float | None:
    if isinstance(value, Integral | np.bool_):
        return int(value)
    if not isinstance(value, Real):
        raise InvalidArgumentError(f"`{key}` must be a number; got {type(value).__name__}.")
    return float(value) if math.isfinite(value) else None  # JSON has no word for NaN and infinity
