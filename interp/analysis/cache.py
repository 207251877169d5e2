"""Measured values beside their run, known by content.

One safetensors file per measure in `<run>/measures/`: the values, their digest and, for each row, the key of the
checkpoint it was computed from. A row is used for the checkpoint that has its key, wherever that stands; so a run that
has grown, or was measured at some steps only, keeps its rows, and one that was trained again loses them. A file that
cannot be read, or does not match its digest, counts as absent.
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

from interp.store.segments import digest

__all__ = ["MeasureCache"]

VERSION = 2
"""Raise it when the meaning of all measures changes; that of one has `Measure.revision`."""


class MeasureCache:
    """The measures of one run folder; with `enabled=False` it holds nothing and keeps nothing.

    Example:
        >>> import tempfile
        >>> cache = MeasureCache(Path(tempfile.mkdtemp()), enabled=True)
        >>> cache.write("norm", "", ["a", "b"], np.array([1.0, 2.0]))
        >>> known, values = cache.read("norm", "", ["b", "c", "a"])
        >>> known.tolist(), values.tolist()
        ([0, 2], [2.0, 1.0])
    """

    def __init__(self, folder: Path, *, enabled: bool) -> None:
        self._folder, self._enabled = folder / "measures", enabled

    def read(self, name: str, setting: str, fingerprints: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the checkpoints that have a value, and their values `[position, ...]`."""
        path = self._path(name)
        nothing = np.empty(0, dtype=int), np.empty(0)
        if not self._enabled or not path.exists():
            return nothing
        try:
            with safetensors.safe_open(path, "np") as file:
                metadata = file.metadata() or {}
                values = file.get_tensor("values")
        except (OSError, ValueError, KeyError, safetensors.SafetensorError):
            return nothing
        rows = {row: at for at, row in enumerate(metadata.get("rows", "").split())}
        if metadata.get("digest") != digest(values.tobytes()) or len(rows) != len(values):
            return nothing
        found = [(position, rows[row]) for position, row in enumerate(_rows(setting, fingerprints)) if row in rows]
        if not found:
            return nothing
        known, at = np.array(found).T
        return known, values[at]

    def write(self, name: str, setting: str, fingerprints: Sequence[str], values: np.ndarray) -> None:
        """Keep these values, a row for each of these checkpoints. A folder that cannot be written is left alone."""
        if not self._enabled:
            return
        rows = {row: at for at, row in enumerate(_rows(setting, fingerprints))}  # equal weights share a row
        values = np.ascontiguousarray(values[list(rows.values())])
        data = safetensors.numpy.save({"values": values}, {"rows": " ".join(rows), "digest": digest(values.tobytes())})
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
