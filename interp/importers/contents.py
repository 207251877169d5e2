"""Content of a file of weights as plain data, whatever its format: torch.save, safetensors, or an archive of numpy.

safetensors (https://github.com/huggingface/safetensors) holds tensors and a header of text, an .npz arrays in the
format of numpy.lib.format. Neither can hold code. Arrays of objects, which would be pickles, are refused. Names of
arrays that were made of the keys of nested dicts ("params/Dense_0/kernel") are read as dotted names.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from interp.errors import ForeignFormatError, error_line
from interp.importers.opening import open_regular
from interp.importers.unpickling import load_plain

__all__ = ["ARCHIVES", "SAFETENSORS", "TORCH", "load_contents", "load_shards"]

TORCH = (".pt", ".pth", ".pkl", ".ckpt", ".bin", ".th", ".tar", ".chkpt", ".model")
"""Suffixes of files of torch.save."""
SAFETENSORS, ARCHIVES = (".safetensors",), (".npz",)
"""Suffixes of files of safetensors and numpy."""
EXPANSION, SMALL = 8, 2**25
"""Largest ratio of the bytes of arrays to those of a compressed archive that has more than `SMALL` of them."""
LONGEST_HEADER = 2**20
"""Bytes of the largest header of text that is read for more than tensors."""


def load_contents(path: Path) -> Any:
    """The content of a file: tensors, arrays, numbers, text, and containers of them.

    Tensors of a safetensors file are `state_dict` beside the text of its header.

    Raises:
        ForeignFormatError: the file is of another format, is cut short, or cannot be read without running foreign code.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.npz"
        >>> np.savez(path, **{"params/embed": np.eye(2)})
        >>> load_contents(path)["params.embed"].tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    with open_regular(path) as stream:
        start = stream.peek(16)[:16]
    try:
        if path.suffix in SAFETENSORS or start[8:10] == b'{"':
            return _of_safetensors(path)
        if path.suffix in ARCHIVES:
            return _of_numpy(path)
    except ForeignFormatError:
        raise
    except Exception as error:  # bytes of any kind make the parsers fail in any way
        kind = "safetensors file" if path.suffix in SAFETENSORS else "archive of numpy"
        line = error_line(error)[:200] or type(error).__name__
        raise ForeignFormatError(f"{path} is no {kind}, or is cut short ({line}).") from None
    if start.startswith(b"\x89HDF"):
        raise ForeignFormatError(
            f"{path} is an HDF5 file, which is not read: save its arrays by their names, np.savez('weights.npz', "
            "**{name: array})."
        )
    return load_plain(path)


def load_shards(files: tuple[Path, ...]) -> Any:
    """The content of the files that one checkpoint was cut into: the dict of all their tensors; of one file, its own.

    Raises:
        ForeignFormatError: as `load_contents`, or a tensor is in two of them.
    """
    if len(files) == 1:
        return load_contents(files[0])
    whole: dict[str, Any] = {}
    for file in files:
        part = load_contents(file)
        part = part.get("state_dict", part) if isinstance(part, Mapping) else part
        if not isinstance(part, Mapping) or part.keys() & whole.keys():
            raise ForeignFormatError(f"{file} must hold its own part of one checkpoint's tensors; it holds others.")
        whole |= part
    return {"state_dict": whole}


def _of_safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load

    with open_regular(path) as stream:
        data = stream.read()
    length = int.from_bytes(data[:8], "little")
    about: Any = {}
    if length <= LONGEST_HEADER:
        header = json.loads(data[8 : 8 + length])
        about = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    text = {key: _number(value) for key, value in about.items()} if isinstance(about, dict) else {}
    return {**text, "state_dict": load(data)}


def _number(text: Any) -> Any:
    """A whole number or fraction of a header, in which all values are text."""
    for kind in (int, float):
        try:
            return kind(text) if len(str(text)) < 32 else text
        except (TypeError, ValueError):
            continue
    return text


def _of_numpy(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    arrays = {}
    with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        most = max(SMALL, EXPANSION * size)
        if (whole := sum(entry.file_size for entry in entries)) > most:
            raise ForeignFormatError(f"{path}: the arrays must have at most {most} bytes in all; got {whole}.")
        for entry in entries:
            with archive.open(entry) as part:
                name = entry.filename.removesuffix(".npy").replace("/", ".")
                arrays[name] = _array(path, name, part.read(entry.file_size))
    return arrays


def _array(path: Path, name: str, data: bytes) -> Tensor:
    """An array of numbers in numpy's format, as a tensor on memory of its own."""
    stream = io.BytesIO(data)
    version = npy.read_magic(stream)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
    shape, fortran, dtype = read_header(stream)
    if dtype.kind not in "biufc" or dtype.itemsize > 16:
        raise ForeignFormatError(
            f"{path}: `{name}` must be an array of numbers; got {str(dtype)[:40]}. Arrays of bfloat16 must be saved "
            "as float32."
        )
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ForeignFormatError(f"{path}: the bytes of `{name}` must be as many as its shape {shape} says.")
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    x = flat.reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(np.array(x, dtype=dtype.newbyteorder("="), order="C"))
