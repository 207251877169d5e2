"""Measured values beside their run: the file of one measure, `<run>/measures/<name>.safetensors`.

It holds the array `values`, a row for each checkpoint, and as metadata the keys of its `rows`, the `run` whose values
they are, and a `seal`: the SHA-256 of all of this and of the measure's name. So a file that was damaged, renamed, or
copied from another run is noticed. Files of older versions have a `digest` of the values alone, and are read.

`interp.analysis.cache` decides which rows are used.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from interp.errors import CorruptRunError
from interp.store.opening import inside, naming, opened, parse_json, publish, read_up_to
from interp.store.segments import LARGEST_HEADER, array_entry, digest

__all__ = ["measured_files", "owner_of", "read_measured", "write_measured"]

ENDING = ".safetensors"


def owner_of(run: Mapping[str, Any]) -> str:
    """Digest of what measured values depend on besides the weights: config, imported split, examples of a user's task.

    Arguments:
        run: contents of run.json.
    """
    parts = [run.get(name) for name in ("config", "import", "examples")]
    return digest(json.dumps(parts, sort_keys=True).encode())


def measured_files(folder: Path) -> list[Path]:
    """Files of measured values in a run folder."""
    measures = inside(folder, "measures")
    with naming(measures):
        return sorted(measures.glob(f"[!.]*{ENDING}")) if measures.is_dir() else []


def write_measured(path: Path, owner: str, rows: Sequence[str], values: np.ndarray) -> None:
    """Write values `[row, ...]` and the keys of their rows, in place of an older file.

    Raises:
        StoreError: the file cannot be written.
    """
    inside(path.parent.parent, path.parent.name)
    metadata = {"rows": " ".join(rows), "run": owner}
    metadata["seal"] = _seal(path, metadata, values)
    with naming(path.parent):
        path.parent.mkdir(exist_ok=True)
    publish(path, [safetensors.numpy.save({"values": values}, metadata)], fsync=True, replace=True)


def read_measured(path: Path, owner: str) -> tuple[list[str], np.ndarray]:
    """Keys of the rows, and the values `[row, ...]`.

    Raises:
        CorruptRunError: the file is damaged, was renamed, or belongs to another run; its values are computed again.
        StoreError: it is no regular file, or cannot be read.
    """
    inside(path.parent.parent, path.parent.name, path.name)
    with opened(path) as handle:
        try:
            size = os.fstat(handle).st_size
            begin = 8 + int.from_bytes(read_up_to(handle, 8), "little")
            if begin > min(size, LARGEST_HEADER):
                raise ValueError("it is shorter than its header")
            header = parse_json(read_up_to(handle, begin - 8))
            metadata = header.pop("__metadata__")
            low, length, dtype, shape = array_entry("values", header.pop("values"))
            if header or low or begin + length != size:
                raise ValueError("it holds something else than `values`")
            rows = metadata["rows"].split()
            if shape[:1] != (len(rows),):
                raise ValueError("it has other rows than keys")
            data = np.frombuffer(mmap.mmap(handle, 0, access=mmap.ACCESS_READ), np.uint8)[begin:]
            values = data.view(dtype).reshape(shape)
            known, found = ("seal", _seal(path, metadata, values)) if "seal" in metadata else ("digest", digest(data))
            if metadata[known] != found:
                raise ValueError("it does not match its digest")
            if metadata.get("run", owner) != owner:
                raise ValueError("it belongs to another run")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptRunError(f"{path} is damaged, and `interp measure` computes it again: {error}.") from error
    return rows, values


def _seal(path: Path, metadata: Mapping[str, str], values: np.ndarray) -> str:
    about = [path.name, metadata["run"], metadata["rows"], values.dtype.str, values.shape]
    found = hashlib.sha256(json.dumps(about).encode())
    found.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return found.hexdigest()
