"""Committed files: their bytes and digests, and the commit, by which a file appears whole or not at all.

A sealed file is a safetensors file whose header holds more than the format asks for:

    length of the header, 8 bytes | header, JSON | arrays, wide types first
    header["__metadata__"] = {"format", "run", "steps", ..., "digests", "seal"}

`digests` holds, for each array, the first 128 bits of the SHA-256 of each of its rows. `seal` is the SHA-256 of the
length and the header, with zeros in place of the seal itself; it covers the layout and the digests, and through them
every byte of the file. Equal arrays of one run give equal files.

run.json has a seal of the same kind under `store`, and each line of metrics.jsonl ends in the CRC-32 of the rest of the
line. That a file is missing cannot be seen in the file: the run.json of a complete run lists its files, the *holdings*.

*A file belongs to its run and step.* `run` is the identity that run.json holds under `store`. A segment names the steps
in it and the segment before it; a full state names its step and what it `follows`: the last segment, and the length and
digest of the metrics at the time. It also names the `events` until then, where there are any, which run.json lists.

*Versions.* The format is MAJOR.MINOR. A reader refuses another major number before it looks at seals, and reads any
minor number. Format 1.0 (written "1") has no `run` and no `follows`.

*Commit.* Bytes go to a temporary file in the same folder, which is synced and then published under the final name by a
link that cannot replace anything; the folder is synced last. A committed file is never written again.
"""

import hashlib
import json
import math
import mmap
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interp.errors import CorruptRunError, InvalidArgumentError, StoreError
from interp.store.description import check_description
from interp.store.opening import inside, opened, parse_json, publish, read_file, read_up_to, require_shallow

__all__ = [
    "DIGEST",
    "Follows",
    "Holdings",
    "RunJson",
    "SealedFile",
    "array_entry",
    "check_dtype",
    "commit_arrays",
    "digest",
    "metrics_columns",
    "metrics_digest",
    "metrics_digests",
    "metrics_line",
    "metrics_lines",
    "metrics_records",
    "read_run_json",
    "regions",
    "require_readable",
    "run_json",
]

VERSION = "1.1"
"""Version of the format that is written; files with the same major number are read."""
DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "C64": "c8", "BOOL": "?"}
DTYPES |= {f"{kind.upper()}{8 * size}": f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}
CODES = {np.dtype(known): code for code, known in DTYPES.items()}  # as safetensors writes them
LARGEST_HEADER = 10**8
"""Maximum size of a header [bytes], as in the safetensors library."""
LARGEST_RUN_JSON = 2**25
"""Maximum size of a run.json [bytes]: two million steps of states, or of a replay."""
LONGEST_LINE = 2**20
"""Maximum length of a line of metrics [bytes]."""
NUMBERS = frozenset((int, float, bool, type(None)))
"""Types of the values in a line of metrics."""
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
    state_seals: Sequence[str] = ()
    """Seals of the full states; none in format 1.0."""


class Follows(NamedTuple):
    """Files of a run at the time of a full state, which the state continues."""

    segment: str
    """`SealedFile.reference` of the last segment; empty before the first."""
    metrics_bytes: int
    metrics_sha256: str


class RunJson(NamedTuple):
    """Content of a run.json."""

    run: dict[str, Any]
    """Description of the run by its writer."""
    complete: bool
    holdings: Holdings | None
    """Inventory of a complete run; None for incomplete runs, and for runs completed by versions without inventories."""
    identity: str
    """Identity of the run, which each of its files holds; empty in format 1.0."""


class Layout(NamedTuple):
    """Arrays of a sealed file, as its header describes them."""

    header: dict[str, Any]
    arrays: dict[str, tuple[int, int, np.dtype, tuple[int, ...]]]
    """Position behind the header, size [bytes], dtype and shape of each array, as the writer was given them."""
    spec: dict[str, tuple[tuple[int, ...], np.dtype]]
    """Shape and dtype of each array at one step."""
    is_stacked: bool
    """Whether each array has a first axis over the steps of the file."""
    size: int
    """Size of all arrays [bytes]."""


class SealedFile:
    """A committed safetensors file whose header matches its seal.

    `spec` gives the shape and dtype of each array at one step, `fields` the header's other metadata; `run` is the
    identity of the run (empty in format 1.0), `previous` the segment before a segment, `follows` what a full state
    continues (None for segments and in format 1.0). With `like`, a file of the same layout, both share the description
    of their arrays.
    """

    def __init__(self, path: Path, like: "SealedFile | None" = None) -> None:
        self.path = path
        self.checked: dict[str, np.ndarray] = {}
        try:
            with opened(path) as handle:
                self.size = os.fstat(handle).st_size
                prefix = read_up_to(handle, 8)
                length = int.from_bytes(prefix, "little")
                if length > self.size - 8:
                    raise ValueError("it is shorter than its header")
                if length > LARGEST_HEADER:
                    raise ValueError(f"its header has {length:,} bytes; at most {LARGEST_HEADER:,} are read")
                raw = read_up_to(handle, length)
            header = parse_json(raw)
            self.fields: dict[str, str] = header.pop("__metadata__")
            if not all(type(text) is str for text in self.fields.values()):
                raise ValueError("its metadata are no texts")
            require_readable(path, self.fields["format"])
            self.seal = self.fields["seal"]
            if _seal(prefix + raw.replace(_seal_field(self.seal), _seal_field(BLANK))) != self.seal:
                raise ValueError("its header does not match its seal")
            self.steps = _steps(self.fields["steps"])
            self.run, self.previous = self.fields.get("run", ""), self.fields.get("previous", "")
            self.is_state = "metadata" in self.fields
            self.follows = _follows(self.fields["follows"]) if "follows" in self.fields else None
            self._digests = _digests(self.fields["digests"], header, len(self.steps))
            known = like and header == like._layout.header and [*self._digests] == [*like._layout.spec]  # as a rule
            self._layout: Layout = like._layout if like and known else _layout(header, self._digests, len(self.steps))
            self.spec = self._layout.spec
            self._begin = 8 + length
            end = self._begin + self._layout.size
            if end != self.size:
                raise ValueError(f"it has {self.size} bytes, its header promises {end}")
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise CorruptRunError(f"{path} is damaged: {error}.") from error

    @property
    def reference(self) -> str:
        """Name and seal, by which the next segment refers to this file."""
        return f"{self.path.name}:{self.seal}"

    def metadata(self) -> dict[str, str]:
        """Metadata of a full state.

        Raises:
            CorruptRunError: the file is none.
        """
        try:
            found = parse_json(self.fields.get("metadata", "null"))
        except ValueError:
            found = None
        if type(found) is not dict or not all(type(text) is str for text in found.values()):
            raise CorruptRunError(f"{self.path} is damaged: it is no full state.")
        return found

    def require_stacked(self) -> None:
        """Demand that each array has a first axis over the steps, as those of a segment have."""
        if not self.spec or not self._layout.is_stacked:
            raise CorruptRunError(f"{self.path} is damaged: its arrays have no axis over its steps.")

    def require_bound(self, run: str, first: int, last: int, *, is_state: bool) -> None:
        """Demand that the file belongs to the run with this identity, is of this kind, and holds the steps it names.

        Raises:
            CorruptRunError: it was renamed, or copied from elsewhere.
        """
        found = (int(self.steps[0]), int(self.steps[-1]))
        if found != (first, last):
            is_of = f"step {found[0]}" if found[0] == found[1] else f"steps {found[0]} to {found[1]}"
            raise CorruptRunError(f"{self.path} holds {is_of}, which is not what it names; was it renamed?")
        if self.is_state != is_state:
            raise CorruptRunError(f"{self.path} is a {'full state' if self.is_state else 'segment'}; was it renamed?")
        if self.run != run:
            raise CorruptRunError(f"{self.path} belongs to another run; was it copied here?")

    def digest(self, name: str, row: int) -> str:
        """Digest of one row, from the header."""
        return self._digests[name][DIGEST * row : DIGEST * (row + 1)]

    def map(self) -> np.ndarray:
        """Bytes of the file as a read-only memory map, which lives as long as a view of it."""
        with opened(self.path) as handle:
            if os.fstat(handle).st_size != self.size:
                raise CorruptRunError(f"{self.path} has changed its size since it was opened.")
            return np.frombuffer(mmap.mmap(handle, 0, access=mmap.ACCESS_READ), np.uint8)

    def view(self, data: np.ndarray, name: str) -> np.ndarray:
        """Array `name` as a view of `data`, the bytes of the file."""
        low, size, dtype, shape = self._layout.arrays[name]
        return data[self._begin + low :][:size].view(dtype).reshape(shape)

    def check(self, data: np.ndarray, name: str, row: int) -> None:
        """Compare the digest of one row, or of a state's whole array, with the header."""
        low, size, _, _ = self._layout.arrays[name]
        size //= len(self.steps)
        if digest(data[self._begin + low + row * size :][:size]) != self.digest(name, row):
            raise CorruptRunError(f"{self.path}: `{name}` at step {self.steps[row]} does not match its digest.")


def commit_arrays(path: Path, arrays: dict[str, np.ndarray], rows: int, extra: dict[str, str], *, fsync: bool) -> str:
    """Seal `arrays`, publish them as `path` and return the seal; each array is hashed in `rows` equal regions."""
    inside(path.parent.parent, path.parent.name)
    digests = {name: "".join(map(digest, regions(array, rows))) for name, array in arrays.items()}
    metadata = {"format": VERSION, **extra, "digests": json.dumps(digests), "seal": BLANK}
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
    if len(text) > LARGEST_HEADER:
        raise InvalidArgumentError(
            f"The header of {path} would have {len(text):,} bytes; at most {LARGEST_HEADER:,} are read. Store fewer "
            "steps in a segment (`segment_steps`)."
        )
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


def require_readable(path: Path, version: object) -> None:
    """Demand that this version of the package reads files of format `version`, MAJOR.MINOR.

    Raises:
        StoreError: the major number is another.
        ValueError: it is no version.
    """
    major = VERSION.partition(".")[0]
    match = re.fullmatch(r"([0-9]{1,9})(\.[0-9]{1,9})?", str(version))
    if not match:
        raise ValueError(f"its format must be MAJOR.MINOR; got {str(version)[:20]!r}")
    if match[1] != major:
        raise StoreError(
            f"{path} has format {version}; this version of the package reads format {major}. "
            f"{'Update the package' if int(match[1]) > int(major) else 'Take an older version'} to read it."
        )


def run_json(
    run: Mapping[str, Any], *, complete: bool, identity: str | None = None, holdings: Holdings | None = None
) -> bytes:
    """Bytes of a run.json: the writer's description; under `store` format, completeness, identity, holdings, a seal.

    Without an `identity`, that of a new run is made: a digest of `run`, which says when and where it began.
    """
    if "store" in run:
        raise InvalidArgumentError("`run` must not have the key `store`, which belongs to the store.")
    try:
        whole = json.loads(json.dumps(dict(run), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"`run` must be a JSON object; {error}.") from error
    if identity is None:
        identity = digest(json.dumps(whole, sort_keys=True).encode())
    whole["store"] = {"format": VERSION, "complete": complete, "run": identity}
    if holdings is not None:
        whole["store"]["holdings"] = holdings._asdict()
    whole["store"]["sha256"] = _seal(json.dumps(whole, sort_keys=True).encode())
    return (json.dumps(whole, indent=2) + "\n").encode()


def read_run_json(path: Path) -> RunJson:
    """Content of a run.json, checked against its seal."""
    if not os.path.lexists(path):
        raise StoreError(f"{path.parent} is no run folder: it holds no run.json.")
    data = read_file(path, LARGEST_RUN_JSON)
    try:
        whole = parse_json(data)
        require_shallow(whole)
        json.dumps(whole, ensure_ascii=False).encode()  # refuses halves of surrogate pairs, which no terminal prints
        require_readable(path, whole["store"]["format"])
        seal = whole["store"].pop("sha256")
        if _seal(json.dumps(whole, sort_keys=True).encode()) != seal:
            raise ValueError("its content does not match its `store.sha256`; was it edited by hand?")
        store = whole.pop("store")
        complete = bool(store["complete"])
        holdings = _inventory(store["holdings"]) if "holdings" in store else None
        if type(identity := store.get("run", "")) is not str:
            raise ValueError("its `store.run` is no text")
        check_description(whole)
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptRunError(f"{path} is damaged: {error}.") from error
    return RunJson(whole, complete, holdings, identity)


def metrics_line(record: Mapping[str, Any]) -> bytes:
    """Line of metrics without its newline, ending in its CRC-32; numbers by name, with the integer `step`."""
    if not isinstance(record.get("step"), Integral) or "crc32" in record:
        raise InvalidArgumentError(f"`record` must have an integer `step` and no `crc32`; got {dict(record)!r}.")
    body = json.dumps({key: _number(key, value) for key, value in record.items()}, separators=(",", ":"))[:-1].encode()
    if len(body) > LONGEST_LINE - 20:
        raise InvalidArgumentError(f"`record` must have a line of {LONGEST_LINE:,} bytes at most; got {len(body):,}.")
    return body + _crc(body)


def metrics_lines(path: Path, last_bytes: int | None = None) -> tuple[list[bytes], int]:
    """Whole lines of metrics, each checked, and the length in bytes of a torn last line.

    With `last_bytes`, only so many bytes at the end are read, less the line in whose middle they begin.
    """
    lines: list[bytes] = []
    torn, cut = b"", False
    if os.path.lexists(path):
        with opened(path) as handle:
            if cut := last_bytes is not None and os.fstat(handle).st_size > last_bytes:
                os.lseek(handle, -last_bytes, os.SEEK_END)
            while chunk := os.read(handle, LONGEST_LINE):
                *whole, torn = (torn + chunk).split(b"\n")
                lines += whole
                if len(torn) > LONGEST_LINE:
                    raise CorruptRunError(f"{path}, line {len(lines) + 1} is longer than {LONGEST_LINE:,} bytes.")
    if cut and lines:
        del lines[0]
    elif cut:
        torn = b""
    for number, line in enumerate(lines, 1):
        if line[-20:] != _crc(line[:-20]):
            where = f"line {len(lines) + 1 - number} from the end" if cut else f"line {number}"
            raise CorruptRunError(f"{path}, {where} does not match its CRC-32.")
    return lines, len(torn)


def metrics_records(path: Path, lines: list[bytes]) -> list[dict[str, Any]]:
    """Records of the whole lines of `path`, each with an integer `step`, and numbers or None by name.

    Raises:
        CorruptRunError: a line holds something else.
    """
    try:
        records = parse_json(b"[" + b",".join(lines) + b"]")
        for record in records:
            if type(record) is not dict or type(record.pop("crc32", None)) is not str:
                raise ValueError("a line is no record")
            if not NUMBERS.issuperset(map(type, record.values())):
                raise ValueError("a line holds something else than numbers")
            if type(step := record.get("step")) is not int or abs(step) >= 2**63:
                raise ValueError("a line has no whole `step`")
    except ValueError as error:
        raise CorruptRunError(f"{path} is damaged: {error}.") from error
    return records


def metrics_columns(path: Path, lines: list[bytes]) -> dict[str, np.ndarray]:
    """Columns of metrics over their steps; a later value of a name wins, an absent value reads as NaN."""
    records: dict[int, dict[str, Any]] = {}
    for record in metrics_records(path, lines):
        records.setdefault(record["step"], {}).update(record)
    rows = [records[step] for step in sorted(records)]
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "step"]
    try:
        columns = {name: np.array([row.get(name) for row in rows], np.float64) for name in names}  # None becomes NaN
    except OverflowError as error:
        raise CorruptRunError(f"{path} is damaged: a number does not fit into 64 bits.") from error
    return {"step": np.array(sorted(records), np.int64), **columns}


def metrics_digest(path: Path) -> tuple[int, Any]:
    """Length of the metrics on disk [bytes], and their SHA-256, to be continued."""
    size, found = 0, hashlib.sha256()
    if os.path.lexists(path):
        with opened(path) as handle:
            while chunk := os.read(handle, LONGEST_LINE):
                size += len(chunk)
                found.update(chunk)
    return size, found


def metrics_digests(path: Path, lengths: Iterable[int]) -> dict[int, str]:
    """SHA-256 of the first bytes of the metrics, for each number of bytes in `lengths`; the file is read once."""
    size, found = 0, hashlib.sha256()
    digests = {0: found.hexdigest()}
    if os.path.lexists(path):
        with opened(path) as handle:
            for length in sorted(set(lengths)):
                while size < length and (chunk := os.read(handle, min(LONGEST_LINE, length - size))):
                    size += len(chunk)
                    found.update(chunk)
                digests[length] = found.hexdigest()  # where the file is shorter, that of the whole
    return digests


def array_entry(name: str, entry: dict[str, Any]) -> tuple[int, int, np.dtype, tuple[int, ...]]:
    """Position behind the header, size [bytes], dtype and shape of an array, from its entry in a safetensors header.

    Raises:
        ValueError, TypeError, KeyError: the entry is none.
    """
    dtype, shape, (low, high) = np.dtype(DTYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
    if type(shape) is not list or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise ValueError(f"`{name}` has no shape")
    if type(low) is not int or type(high) is not int or low < 0 or math.prod(shape) * dtype.itemsize != high - low:
        raise ValueError(f"`{name}` has another size than its shape")
    return low, high - low, dtype, tuple(shape)


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


def _inventory(found: dict[str, Any]) -> Holdings:
    """The holdings in a run.json.

    Raises:
        ValueError, TypeError: they are none.
    """
    holdings = Holdings(**found)
    texts = [holdings.last_segment, holdings.metrics_sha256, *holdings.state_seals]
    numbers = [holdings.metrics_bytes, *holdings.states]
    if not all(type(text) is str for text in texts) or not all(type(number) is int for number in numbers):
        raise ValueError("its `store.holdings` are no inventory")
    return holdings


def _follows(text: str) -> Follows:
    """The past of a full state, as its header names it.

    Raises:
        ValueError, TypeError: it does not.
    """
    follows = Follows(*parse_json(text))
    if not isinstance(follows.segment, str) or type(follows.metrics_bytes) is not int or follows.metrics_bytes < 0:
        raise ValueError("its `follows` is no list of a segment, a length and a digest")
    return follows


def _steps(text: str) -> np.ndarray:
    """Steps of a header, increasing; int64 [n].

    Raises:
        ValueError: they are not.
    """
    steps = parse_json(text)
    if type(steps) is not list or not steps or not all(type(step) is int and 0 <= step < 2**63 for step in steps):
        raise ValueError("its steps are no list of whole numbers")
    if steps != sorted(set(steps)):
        raise ValueError("its steps do not increase")
    return np.array(steps, np.int64)


def _digests(text: str, header: dict[str, Any], rows: int) -> dict[str, str]:
    """Digests of the rows of each array of a header, one behind the other.

    Raises:
        ValueError: they are not.
    """
    digests = parse_json(text)
    if type(digests) is not dict or digests.keys() != header.keys():
        raise ValueError("its digests are not those of its arrays")
    "".join(digests).encode()  # refuses halves of surrogate pairs, which no terminal prints
    if any(type(joined) is not str or len(joined) != DIGEST * rows for joined in digests.values()):
        raise ValueError("its arrays have other rows than steps")
    return digests


def _layout(header: dict[str, Any], digests: dict[str, str], rows: int) -> Layout:
    """Arrays of a file of `rows` steps, in the order of their digests.

    Raises:
        ValueError, TypeError, KeyError: an entry is none, or they do not cover the bytes once.
    """
    arrays = {name: array_entry(name, header[name]) for name in digests}
    is_stacked = all(shape[:1] == (rows,) for _, _, _, shape in arrays.values())
    if rows > 1 and not is_stacked:
        raise ValueError("its arrays have other rows than steps")
    end = 0
    for low, size in sorted(at[:2] for at in arrays.values()):
        if low != end:
            raise ValueError("its arrays overlap, or leave bytes between them")
        end += size
    spec = {name: (shape[1:], dtype) for name, (_, _, dtype, shape) in arrays.items()}
    return Layout(header, arrays, spec, is_stacked, end)


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
