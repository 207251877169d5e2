"""Files of torch.save as plain data: a pickle is read as a description and checked before tensors are made of it.

A pickle is a program whose opcodes name functions and call them. Here nothing that a file names is called:
`pickletools` parses the opcodes, and a call becomes a `_Call`, the name of a function with its arguments and the state
that BUILD would give to the result. Afterwards this module makes a fixed list of results from data that it has checked:

    torch._utils._rebuild_tensor_v2    a dense tensor: a view within the bounds of its storage, no larger than it
    torch._utils._rebuild_parameter    its tensor
    numpy's _reconstruct and scalar    an array or number of a plain dtype whose bytes have exactly its size
    numpy.dtype                        a plain dtype: floats, integers, bool, of either byte order
    collections.OrderedDict, defaultdict and Lightning's AttributeDict    a dict
    set, torch.Size, torch.device      a list, a tuple, text
    classes of `STAND_INS`             the dict of the object's attributes

torch.load(weights_only=True) is not used: it enlarges a storage to the sizes that a tensor claims (a kilobyte can ask
for 40 GB of what lay in memory before), makes bytearrays of any size, and to read numpy's arrays it has to be given
numpy's constructors, whose dtypes a BUILD can turn into pointers.

Bounds. Storages lie in the file uncompressed and together are no larger than the file. What opcodes build is bounded by
`MEMORY`, whatever is shared or nested by `VALUES` and `DEPTH`.

Formats: the zip archives of PyTorch 1.6 and later, and the sequence of pickles of those before. Sources: pickletools in
the standard library; torch/serialization.py and torch/_utils.py in github.com/pytorch/pytorch.
"""

import io
import math
import os
import pickletools
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from interp.errors import ForeignFormatError, error_line
from interp.importers.opening import open_regular

__all__ = ["load_plain"]

STAND_INS = ("HookedTransformerConfig", "Config", "OneLayerMLP", "HookPoint", "ReLU", "Namespace", "SimpleNamespace")
"""Names of foreign classes of whose objects the attributes are read."""
DICTS = ("OrderedDict", "AttributeDict", "defaultdict")
"""Names of classes of dicts, whose items are read."""
DEPTH = 64
"""Largest depth of containers within containers."""
VALUES = 2**21
"""Largest number of values, each counted as often as it is reached: shared containers expand without bound."""
MEMORY = 160 * 2**20
"""Largest number of bytes that the opcodes of a pickle may take, beside its text."""
COST, COST_OF_NUMBER = 144, 72
"""Upper bounds on the bytes that an opcode takes: of any, and of one that adds a number to a list."""

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}
"""dtype of a storage, by the name of its class."""
NUMPY = frozenset({"b1", *(f"f{n}" for n in (2, 4, 8)), *(f"{kind}{n}" for kind in "iu" for n in (1, 2, 4, 8))})
"""Codes of plain numpy dtypes."""
CALLS = frozenset(
    {
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch.Size",
        "torch.device",
        "builtins.set",
        "builtins.list",
        "builtins.dict",
        "builtins.int",
        "builtins.float",
        "builtins.bytes",
        "_codecs.encode",
        "numpy.dtype",
        "numpy.ndarray",
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    }
)
"""Functions and classes whose calls are understood."""
CONSTANTS = frozenset(str(value) for value in vars(torch).values() if isinstance(value, torch.dtype))
"""Names that are read as text."""
OLD_FILE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of a file of PyTorch before 1.6: a magic number."""
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
"""Length of the tuple that an opcode makes."""
LONGEST_NAME = 200
"""Characters of the longest name of a function or class."""
AXES = 16
"""Largest number of axes."""
KEYS = (str, int, float, bool, bytes, type(None))
"""Types of keys; the hash of a deeply nested tuple would overflow the stack."""

CHUNK = 2**20
"""Bytes that are read at once."""

StorageOf = Callable[[str, torch.dtype, int], Tensor]
"""Numbers of a storage, by its key in the file, dtype and number of elements."""


class _Name(str):
    """Name of a function, class or constant in a pickle."""

    __slots__ = ()


@dataclass(slots=True)
class _Call:
    """A call in a pickle, not made; `storage` is a reference to the numbers of a tensor."""

    name: str
    arguments: Any
    state: Any = None


class _RuleError(Exception):
    """A file breaks a rule of this module."""


class _ForeignError(Exception):
    """A file holds objects of foreign classes; the message names them."""


def load_plain(path: Path) -> Any:
    """The content of a file of torch.save: tensors, numpy's arrays and numbers, text, and containers of them.

    Raises:
        ForeignFormatError: rebuilding it would run foreign code, it is no torch file, or it would take far more memory
            than it has bytes.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "file.pt"
        >>> torch.save({"W": torch.arange(6).view(2, 3).T, "losses": [np.float64(0.5)]}, path)
        >>> contents = load_plain(path)
        >>> contents["W"].tolist(), float(contents["losses"][0])
        ([[0, 3], [1, 4], [2, 5]], 0.5)
    """
    with open_regular(path) as stream:
        try:
            return _contents(stream)
        except _ForeignError as refused:
            raise ForeignFormatError(
                f"{path} holds objects of {refused}, and rebuilding them would run foreign code: only dense tensors, "
                "numbers, text, arrays and containers of them are read. Save plain data where that code is installed: "
                "torch.save(model.state_dict(), PATH)."
            ) from None
        except _RuleError as fault:
            raise ForeignFormatError(f"{path} is no torch file that can be read safely: {fault}.") from None
        except Exception as error:  # bytes of any kind make the parsers of zip archives and pickles fail in any way
            line = error_line(error)[:200] or type(error).__name__
            raise ForeignFormatError(f"{path} is no torch file, or is cut short ({line}).") from None


# --- the two formats --------------------------------------------------------------------------------------------------


def _contents(stream: BinaryIO) -> Any:
    start = stream.read(len(OLD_FILE))
    stream.seek(0)
    if start.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(stream) as archive:
            return _of_archive(archive, os.fstat(stream.fileno()).st_size)
    if start == OLD_FILE:
        return _of_pickles(stream)
    raise ValueError("it begins with neither an archive nor a pickle of torch.save" if start else "it is empty")


def _of_archive(archive: zipfile.ZipFile, size: int) -> Any:
    """The content of an archive that lies in a file of `size` bytes."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    whole = len(entries) == len(archive.infolist()) and sum(entry.file_size for entry in entries.values()) <= size
    if not whole or any(entry.file_size != entry.compress_size or entry.compress_type for entry in entries.values()):
        raise _RuleError(
            "the entries of its archive must be uncompressed, of different names, and smaller than the file"
        )
    roots = [name.removesuffix("data.pkl") for name in entries if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(roots) != 1 or f"{roots[0]}constants.pkl" in entries:
        raise _RuleError("its archive must hold one data.pkl, as torch.save writes it")
    if f"{roots[0]}byteorder" in entries and archive.read(f"{roots[0]}byteorder") != b"little":
        raise _RuleError("its numbers must be in little-endian byte order")
    found: dict[str, bytearray] = {}

    def storage(key: str, dtype: torch.dtype, n: int) -> Tensor:
        entry = entries[f"{roots[0]}data/{key}"]
        if entry.file_size != n * dtype.itemsize:
            raise _RuleError(f"storage {key[:20]} must have {n} numbers of {dtype}; it has {entry.file_size} bytes")
        if key not in found:
            found[key] = _read(archive, entry)
        return _flat(found[key], dtype)

    described, _ = _described(io.BytesIO(_read(archive, entries[f"{roots[0]}data.pkl"])))
    return _Builder(storage, size).build(described)[0]


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytearray:
    """The bytes of an entry, which are checked against its checksum."""
    numbers = bytearray(entry.file_size)
    with archive.open(entry) as part:
        at = 0
        while chunk := part.read(CHUNK):
            numbers[at : at + len(chunk)] = chunk
            at += len(chunk)
    if at != len(numbers):
        raise EOFError(f"{entry.filename[-40:]} ends early")
    return numbers


def _of_pickles(stream: BinaryIO) -> Any:
    """The content of a file of PyTorch before 1.6: five pickles, and the storages in the order of the fifth."""
    whole = io.BytesIO()
    shutil.copyfileobj(stream, whole)
    whole.seek(len(OLD_FILE))
    version, _ = _described(whole)
    system, _ = _described(whole)
    if version != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _RuleError("its header must be that of protocol 1001, little-endian")
    described, storages = _described(whole)
    kinds = {}
    for call in storages:
        match call.arguments:
            case (_, str() as kind, str() as key, *_) if kind in STORAGES:
                kinds[key] = STORAGES[kind]
    keys, _ = _described(whole)
    found: dict[str, memoryview] = {}
    for key in keys:
        if type(key) is not str or key not in kinds:
            raise _RuleError("its storages must be those of its tensors")
        (n,) = struct.unpack("<q", whole.read(8))
        length = n * kinds[key].itemsize
        if not 0 <= length <= len(whole.getbuffer()) - whole.tell():
            raise EOFError(f"storage {key[:20]} is longer than the file")
        found[key] = whole.getbuffer()[whole.tell() : whole.tell() + length]
        whole.seek(length, io.SEEK_CUR)

    def storage(key: str, dtype: torch.dtype, n: int) -> Tensor:
        if len(found[key]) != n * dtype.itemsize:
            raise _RuleError(f"storage {key[:20]} must have {n} numbers of {dtype}; it has {len(found[key])} bytes")
        return _flat(found[key], dtype)

    return _Builder(storage, len(whole.getbuffer())).build(described)[0]


def _flat(numbers: bytearray | memoryview, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(numbers, dtype=dtype) if len(numbers) else torch.empty(0, dtype=dtype)


# --- opcodes to a description -----------------------------------------------------------------------------------------


def _described(stream: io.BytesIO) -> tuple[Any, list[_Call]]:
    """The next pickle of a stream as containers, numbers, text, names and calls; and its references to storages.

    The opcodes are those that torch.save writes: protocol 2.
    """
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[Any, Any] = {}
    storages: list[_Call] = []
    unknown: set[str] = set()
    left = MEMORY

    def above_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, marked.pop()
        return items

    def last(n: int) -> list[Any]:
        items = [stack.pop() for _ in range(n)]
        return items[::-1]

    for opcode, argument, _ in pickletools.genops(stream):
        left -= COST
        if left < 0:
            raise _RuleError(f"its objects would take more than {MEMORY} bytes")
        match opcode.name:
            case "BINFLOAT" | "BININT1" | "BININT" | "BININT2":
                stack.append(argument)
                left += COST - COST_OF_NUMBER
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINUNICODE" | "LONG1" | "SHORT_BINSTRING":
                stack.append(argument)
            case "MARK":
                marked.append(stack)
                stack = []
            case "TUPLE":
                items = above_mark()  # changes the stack
                stack.append(tuple(items))
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(last(TUPLES[opcode.name])))
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "NONE":
                stack.append(None)
            case "BINPERSID":
                storages.append(_Call("storage", stack.pop()))
                stack.append(storages[-1])
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                if type(function) is not _Name or type(arguments) is not tuple:
                    raise _RuleError("only a function that is named can be called")
                stack.append({} if _is_dict(function, arguments) else _Call(function, arguments))
            case "BUILD":
                state, target = stack.pop(), stack[-1]
                if type(target) is _Call:
                    target.state = state
                elif type(target) is not dict:  # the attributes of an OrderedDict are no items
                    raise _RuleError(f"a {type(target).__name__} can have no attributes")
            case "SETITEM" | "SETITEMS":
                items = last(2) if opcode.name == "SETITEM" else above_mark()
                if type(stack[-1]) is not dict or len(items) % 2:
                    raise _RuleError(f"a {type(stack[-1]).__name__} can have no items of these")
                if wrong := [key for key in items[::2] if not _is_key(key)]:
                    raise _RuleError(f"a key must be text or a number; got a {type(wrong[0]).__name__}")
                stack[-1].update(zip(items[::2], items[1::2]))
            case "APPEND" | "APPENDS":
                items = last(1) if opcode.name == "APPEND" else above_mark()
                if type(stack[-1]) is not list:
                    raise _RuleError(f"a {type(stack[-1]).__name__} can have nothing appended")
                stack[-1].extend(items)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "GLOBAL":
                name = _Name(str(argument).replace(" ", ".", 1).replace("__builtin__.", "builtins.", 1))
                if len(name) > LONGEST_NAME:
                    raise _RuleError(f"the name {name[:40]}... in it is longer than {LONGEST_NAME} characters")
                known = name in CALLS or name in STORAGES or name in CONSTANTS
                if not (known or name.split(".")[-1] in (*STAND_INS, *DICTS)):
                    unknown.add(name)
                stack.append(name)
            case "PROTO":
                pass
            case "STOP":
                break
            case name:
                raise _RuleError(f"it has the opcode {name}, which torch.save does not write")
    if unknown:
        raise _ForeignError(", ".join(sorted(unknown)[:8]).replace("builtins.", ""))
    return stack.pop(), storages


def _is_dict(function: _Name, arguments: tuple[Any, ...]) -> bool:
    """Whether a call makes an empty dict: a defaultdict is given the function that makes its missing values."""
    kind = function.split(".")[-1]
    return kind in DICTS and (not arguments or (kind == "defaultdict" and type(arguments[0]) in (_Name, type(None))))


def _is_key(key: Any) -> bool:
    return type(key) in KEYS or (type(key) is tuple and all(type(part) in KEYS for part in key))


# --- a description to data --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Storage:
    """The numbers of a storage, in one axis."""

    numbers: Tensor


class _Builder:
    """Data from a description, sharing containers as the description does; lists and dicts are filled in place.

    `room` is the number of bytes that copies may take: text that is encoded, and arrays of the other byte order.
    """

    def __init__(self, storage: StorageOf, room: int) -> None:
        self.storage, self.room = storage, room
        self.done: dict[int, tuple[Any, int, int] | None] = {}  # ids last: building makes no further descriptions

    def build(self, value: Any, level: int = 0) -> tuple[Any, int, int]:
        """The data, the number of values in it, each counted as often as it is reached, and their depth."""
        if type(value) is _Name:
            return str(value), 1, 0
        if type(value) not in (list, dict, tuple, _Call):
            return value, 1, 0
        if id(value) not in self.done:
            if level > DEPTH:
                raise _RuleError(f"its containers are nested more than {DEPTH} deep")
            self.done[id(value)] = None
            self.done[id(value)] = self.inside(value, level + 1)
        if (found := self.done[id(value)]) is None:
            raise _RuleError("one of its containers holds itself")
        if found[1] > VALUES or found[2] > DEPTH:
            raise _RuleError(f"its containers hold more than {VALUES} values, or are nested more than {DEPTH} deep")
        return found

    def inside(self, value: Any, level: int) -> tuple[Any, int, int]:
        """The data of a container or call."""
        if type(value) is _Call:
            (arguments, state), n, depth = self.several((value.arguments, value.state), level)
            return self.made(value.name, arguments, state), n, depth
        items, n, depth = self.several(value.values() if type(value) is dict else value, level)
        if type(value) is dict:
            value.update(zip(value, items))
        elif type(value) is list:
            value[:] = items
        else:
            value = tuple(items)
        return value, n + 1, depth + 1

    def several(self, values: Iterable[Any], level: int) -> tuple[list[Any], int, int]:
        """The data of several values, their number and depth."""
        items, n, depth = list[Any](), 0, 0
        for value in values:
            item, more, below = self.build(value, level)
            items.append(item)
            n, depth = n + more, max(depth, below)
        return items, n, depth

    def made(self, name: str, arguments: Any, state: Any) -> Any:
        """The result of a call, made here."""
        match name, arguments:
            case "storage", ("storage", str() as kind, str() as key, str(), int() as n, *rest):
                if kind in STORAGES and rest in ([], [None]):
                    return _Storage(self.storage(key, STORAGES[kind], n))
            case (
                "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor",
                (_Storage(flat), int() as offset, tuple() as size, tuple() as stride, *rest),
            ):
                if not any(rest[2:]):  # `requires_grad` and hooks do not matter; bits for a view's sign or conjugate do
                    return _view(flat, offset, size, stride)
            case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", (Tensor() as x, *_):
                return x
            case "torch.Size", (tuple() as size,):
                return size
            case "torch.device", (str() as kind, *index) if len(kind) < 20:
                return ":".join([kind, *(str(n) for n in index if type(n) is int)])
            case "builtins.set", (list() as items,):
                return items
            case "builtins.bytes", ():
                return b""
            case "_codecs.encode", (str() as text, "latin1"):
                self.copy(len(text))
                return text.encode("latin1")
            case "numpy.dtype", (str() as code, *_) if code in NUMPY:
                return _dtype(code, state)
            case (
                "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar",
                (np.dtype() as dtype, bytes() as data),
            ):
                if len(data) == dtype.itemsize:
                    return np.frombuffer(data, dtype)[0]
            case "numpy.core.multiarray._reconstruct" | "numpy._core.multiarray._reconstruct", _:
                return self.array(state)
            case _ if name.rpartition(".")[2] in STAND_INS:
                return state if isinstance(state, dict) else {}
        raise _RuleError(f"its call of {name} has other arguments than torch and numpy write")

    def array(self, state: Any) -> np.ndarray:
        """The array of a state: version, shape, dtype, whether the first axis varies fastest, and bytes."""
        match state:
            case (int(), tuple() as shape, np.dtype() as dtype, bool() as fortran, bytes() as data):
                if _numel(shape) * dtype.itemsize == len(data):
                    x = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
                    self.copy(0 if dtype.isnative else len(data))
                    return x.astype(dtype.newbyteorder("="), copy=False)
        raise _RuleError("the bytes of an array must be as many as its shape and dtype say")

    def copy(self, n: int) -> None:
        """Count a copy of `n` bytes."""
        self.room -= n
        if self.room < 0:
            raise _RuleError("its text and arrays would expand to more than the file holds")


def _view(flat: Tensor, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> Tensor:
    """A tensor on the numbers of a storage, from which it may leave out or repeat some, but have no more in all."""
    n = _numel(size)
    if n == 0:
        return flat.new_empty(size)
    if len(size) == len(stride) and all(type(step) is int and step >= 0 for step in stride) and offset >= 0:
        steps = [step if length > 1 else 0 for length, step in zip(size, stride)]
        last = offset + sum((length - 1) * step for length, step in zip(size, steps))
        if max(n, last + 1) <= len(flat):
            return flat.as_strided(size, steps, offset)
    raise _RuleError(f"a tensor of shape {size} must lie within its storage of {len(flat)} numbers")


def _numel(size: tuple[Any, ...]) -> int:
    """Number of elements of a shape."""
    if len(size) > AXES or any(type(length) is not int or length < 0 for length in size):
        raise _RuleError(f"a shape must have at most {AXES} axes, whole numbers >= 0")
    if 0 in size and math.prod(max(length, 1) for length in size) > VALUES:
        raise _RuleError("a shape without elements must be small")
    return math.prod(size)


def _dtype(code: str, state: Any) -> np.dtype:
    """A plain dtype; its state, whose second entry is the byte order, may say no more."""
    match state:
        case None | (int(), "<" | "|" | "=", None, None, None, *_):
            return np.dtype(f"<{code}")
        case (int(), ">", None, None, None, *_):
            return np.dtype(f">{code}")
    raise _RuleError("the dtype of an array must be plain: floats, integers or bool")
