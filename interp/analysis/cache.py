"""Measured values beside their run, known by content.

Each row of a measure (`interp.store.measured` describes its file) has the key of the checkpoint that it was computed
from. A row is used for the checkpoint that has its key, wherever that stands; so a run that has grown, or was measured
at some steps only, keeps its rows, and one that was trained again loses them. A file that cannot be read, does not
match its digest, was renamed, or came from another run counts as absent, and is written again.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from interp.errors import StoreError
from interp.store.measured import read_measured, write_measured
from interp.store.opening import inside

__all__ = ["MeasureCache"]

VERSION = 2
"""Raise it when the meaning of all measures changes; that of one has `Measure.revision`."""


class MeasureCache:
    """The measures of one run folder; with `enabled=False` it holds nothing and keeps nothing.

    Arguments:
        folder: folder of the run.
        owner: digest of the run whose values these are (`interp.store.measured.owner_of`).

    Example:
        >>> import tempfile
        >>> cache = MeasureCache(Path(tempfile.mkdtemp()), enabled=True)
        >>> cache.write("norm", "", ["a", "b"], np.array([1.0, 2.0]))
        >>> known, values = cache.read("norm", "", ["b", "c", "a"])
        >>> known.tolist(), values.tolist()
        ([0, 2], [2.0, 1.0])
    """

    def __init__(self, folder: Path, owner: str = "", *, enabled: bool) -> None:
        self._folder, self._owner, self._enabled = folder, owner, enabled

    def read(self, name: str, setting: str, fingerprints: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the checkpoints that have a value, and their values `[position, ...]`.

        Raises:
            StoreError: the file or its folder is a symbolic link.
        """
        nothing = np.empty(0, dtype=int), np.empty(0)
        if not self._enabled:
            return nothing
        path = self._path(name)
        try:
            keys, values = read_measured(path, self._owner)
        except StoreError:
            return nothing
        rows = {row: at for at, row in enumerate(keys)}
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
        with suppress(StoreError):  # a shared, read-only run is measured all the same
            write_measured(self._path(name), self._owner, list(rows), values)

    def _path(self, name: str) -> Path:
        return inside(self._folder, "measures", f"{name}.safetensors")


def _rows(setting: str, fingerprints: Sequence[str]) -> list[str]:
    start = hashlib.sha256(f"{VERSION}/{setting}/".encode())
    rows = []
    for fingerprint in fingerprints:
        row = start.copy()
        row.update(fingerprint.encode())
        rows.append(row.hexdigest()[:16])
    return rows
