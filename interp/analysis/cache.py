"""Measured values beside their run, known by content.

One safetensors file per measure in `<run>/measures/`: the values, their digest and, for each row, the fingerprint of
the checkpoint it was computed from. Rows are used as long as their fingerprints are those of the run's first
checkpoints; so a run that has grown keeps its old rows, and one that was trained again loses them. A file that cannot
be read, or does not match its digest, counts as absent.
"""

import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from interp.segments import digest

__all__ = ["MeasureCache"]

VERSION = 1
"""Raise it when the meaning of a measure changes."""


class MeasureCache:
    """The measures of one run folder; with `enabled=False` it holds nothing and keeps nothing.

    Example:
        >>> import tempfile
        >>> cache = MeasureCache(Path(tempfile.mkdtemp()), enabled=True)
        >>> cache.write("norm", "", ["a", "b"], np.array([1.0, 2.0]))
        >>> cache.read("norm", "", ["a", "b", "c"]).tolist(), len(cache.read("norm", "", ["x", "b"]))
        ([1.0, 2.0], 0)
    """

    def __init__(self, folder: Path, *, enabled: bool) -> None:
        self._folder, self._enabled = folder / "measures", enabled

    def read(self, name: str, setting: str, fingerprints: Sequence[str]) -> np.ndarray:
        """Values of the first checkpoints, as many as are known; empty where none are."""
        path = self._path(name)
        if not self._enabled or not path.exists():
            return np.empty(0)
        try:
            with safetensors.safe_open(path, "np") as file:
                metadata = file.metadata() or {}
                values = file.get_tensor("values")
        except (OSError, ValueError, KeyError, safetensors.SafetensorError):
            return np.empty(0)
        rows = metadata.get("rows", "").split()
        if metadata.get("digest") != digest(values.tobytes()):
            return np.empty(0)
        usable = len(rows) == len(values) <= len(fingerprints) and rows == _rows(setting, fingerprints[: len(rows)])
        return values if usable else np.empty(0)

    def write(self, name: str, setting: str, fingerprints: Sequence[str], values: np.ndarray) -> None:
        """Keep the values of the checkpoints with these fingerprints. A folder that cannot be written is left alone."""
        if not self._enabled:
            return
        metadata = {"rows": " ".join(_rows(setting, fingerprints)), "digest": digest(values.tobytes())}
        data = safetensors.numpy.save({"values": np.ascontiguousarray(values)}, metadata)
        temporary = self._folder / f".{name}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            self._folder.mkdir(exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(self._path(name))
        except OSError:  # a shared, read-only run is measured all the same
            with suppress(OSError):
                temporary.unlink()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


def _rows(setting: str, fingerprints: Sequence[str]) -> list[str]:
    start = hashlib.sha256(f"{VERSION}/{setting}/".encode())
    rows = []
    for fingerprint in fingerprints:
        row = start.copy()
        row.update(fingerprint.encode())
        rows.append(row.hexdigest()[:16])
    return rows
