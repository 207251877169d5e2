"""Pickles written opcode by opcode, in torch's archives: files that no library would write."""

import io
import pickle
import pickletools
import random
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["array", "call", "dictionary", "dtype", "encoded", "mutated", "name", "number", "text", "tuple_of", "write"]

NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"


def name(path: str) -> bytes:
    """A function, class or constant."""
    return b"c" + path.rpartition(".")[0].encode() + b"\n" + path.rpartition(".")[2].encode() + b"\n"


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int | float) -> bytes:
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    data = pickle.encode_long(value)
    return b"J" + struct.pack("<i", value) if len(data) < 5 else b"\x8a" + bytes([len(data)]) + data


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def call(path: str, *arguments: bytes) -> bytes:
    return name(path) + tuple_of(*arguments) + b"R"


def dictionary(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def encoded(data: bytes) -> bytes:
    """Bytes, as protocol 2 writes them."""
    return call("_codecs.encode", text(data.decode("latin1")), text("latin1"))


def dtype(code: str, *state: bytes) -> bytes:
    return call("numpy.dtype", text(code), FALSE, TRUE) + (tuple_of(*state) + b"b" if state else b"")


def array(shape: bytes, kind: bytes, data: bytes) -> bytes:
    made = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), tuple_of(number(0)), encoded(b"b"))
    return made + tuple_of(number(1), shape, kind, FALSE, encoded(data)) + b"b"


def storage(key: str, n: int, kind: str = "torch.FloatStorage") -> bytes:
    return tuple_of(text("storage"), name(kind), text(key), text("cpu"), number(n)) + b"Q"


def tensor(key: str, n: int, size: Sequence[int], stride: Sequence[int], offset: int = 0) -> bytes:
    parts = (tuple_of(*map(number, size)), tuple_of(*map(number, stride)), FALSE, call("collections.OrderedDict"))
    return call("torch._utils._rebuild_tensor_v2", storage(key, n), number(offset), *parts)


def write(path: Path, body: bytes, storages: dict[str, bytes] | None = None, compression: int = 0) -> Path:
    """An archive as torch.save writes it, around the pickle of `body`."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return path


# --- mutants ----------------------------------------------------------------------------------------------------------

EXTREMES = (0, 1, -1, 2, 7, 255, 2**15, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, 10**30, -(10**12))
REAL_EXTREMES = (0.0, -0.0, 1e308, -1e-300, float("nan"), float("inf"))
NAMES = [
    *(f"builtins.{name}" for name in ("exec", "eval", "getattr", "bytearray", "set", "complex")),
    "os.system",
    "posix.system",
    *(f"collections.{name}" for name in ("Counter", "OrderedDict")),
    *(f"numpy.{name}" for name in ("dtype", "ndarray")),
    *(f"numpy.core.multiarray.{name}" for name in ("scalar", "_reconstruct")),
    "numpy._core.multiarray._reconstruct",
    *(
        f"torch.{name}"
        for name in ("Size", "device", "Tensor", "float32", "FloatStorage", "ComplexFloatStorage", "QInt8Storage")
    ),
    "torch.storage.UntypedStorage",
    *(
        f"torch._utils.{name}"
        for name in (
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_sparse_tensor",
            "_rebuild_qtensor",
            "_rebuild_meta_tensor_no_storage",
            "_rebuild_nested_tensor",
            "_rebuild_wrapper_subclass",
            "_rebuild_parameter",
        )
    ),
    "torch._tensor._rebuild_from_type_v2",
    "torch.nn.parameter.Parameter",
    *(f"anything.{name}" for name in ("Config", "HookPoint")),
    "_codecs.encode",
]


def mutated(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """A file changed at random: its bytes, the opcodes of its pickle, with pieces of other files' pickles."""
    if chance.random() < 0.25 or not data.startswith(b"PK"):
        return _bytes(data, chance)
    entries = _entries(data)
    pickled = next(key for key in entries if key.endswith("data.pkl"))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        kind = chance.random()
        if kind < 0.1:
            entries[pickled] = _bytes(entries[pickled], chance)
        elif kind < 0.2:
            key = chance.choice(list(entries))
            entries[key] = _bytes(entries[key], chance)
        else:
            entries[pickled] = _opcodes(entries[pickled], chance.choice(others), chance)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", chance.choice((0, 0, 0, 0, 0, 0, 0, zipfile.ZIP_DEFLATED))) as archive:
        for key, value in entries.items():
            archive.writestr(key, value)
    return out.getvalue()


def _entries(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def _bytes(data: bytes, chance: random.Random) -> bytes:
    """Bytes flipped, cut out, repeated or cut off."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        at, n = chance.randrange(len(changed)), chance.choice((1, 1, 2, 8, 64))
        match chance.randrange(5):
            case 0 | 1:
                changed[at] = chance.randrange(256)
            case 2:
                del changed[at : at + n]
            case 3:
                changed[at:at] = changed[at : at + n]
            case _ if chance.random() < 0.2:
                del changed[at:]
    return bytes(changed)


def _opcodes(pickled: bytes, other: bytes, chance: random.Random) -> bytes:
    """A pickle with one opcode or a run of them left out, repeated, moved, replaced or taken from another pickle."""
    parts = _parts(pickled)
    at, length = chance.randrange(len(parts)), chance.choice((1, 1, 1, 2, 3, 5, 10, 40))
    match chance.randrange(8):
        case 0:
            del parts[at : at + length]
        case 1:
            parts[at:at] = parts[at : at + length]
        case 2:
            to = chance.randrange(len(parts))
            parts[at], parts[to] = parts[to], parts[at]
        case 3:
            foreign = _parts(next(value for key, value in _entries(other).items() if key.endswith("data.pkl")))
            start = chance.randrange(len(foreign))
            parts[at : at + chance.randrange(2) * length] = foreign[start : start + length]
        case 4 | 5:
            numbers = [i for i, part in enumerate(parts) if part[:1] in (b"K", b"M", b"J", b"G", b"\x8a")]
            if numbers:
                parts[chance.choice(numbers)] = number(chance.choice(EXTREMES + REAL_EXTREMES))
        case 6:
            names = [i for i, part in enumerate(parts) if part[:1] == b"c"]
            if names:
                parts[chance.choice(names)] = name(chance.choice(NAMES))
        case 7:
            piece = (
                b"N",
                b"]",
                b"}",
                b")",
                b"(",
                b"t",
                b"R",
                b"b",
                b"u",
                b"e",
                b"s",
                b"a",
                b"Q",
                b"\x81",
                b"\x85",
                b"0",
                b"2",
            )
            parts[at:at] = [
                chance.choice((*piece, text("x" * chance.randrange(40)), b"h" + bytes([chance.randrange(60)])))
            ]
    return b"".join(parts)


def _parts(pickled: bytes) -> list[bytes]:
    """The opcodes of a pickle with their arguments; what cannot be parsed is the last part."""
    starts = []
    try:
        for _, _, at in pickletools.genops(pickled):
            starts.append(at)
    except Exception:  # of a mutant
        pass
    ends = [*starts[1:], len(pickled)]
    return [pickled[start:end] for start, end in zip(starts, ends)] or [pickled]
