"""The data that the page's script reads: coordinates, spectra, readouts and bands, as small as a screen allows.

Coordinates travel as one int16 block, finer than a pixel; the JSON has no `<`, so that nothing in it can close its
script element. Dense curves are thinned (`interp.plots.thinning`).
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from interp.milestones.phases import PHASES
from interp.milestones.sources import logged_loss
from interp.plots.catalogue import has_plane
from interp.plots.structure import ring
from interp.plots.style import StepAxis, template, tokens_of
from interp.plots.thinning import keep_extremes
from interp.reporting.cards import Card, Maps

__all__ = ["READOUTS", "bands", "dense_curves", "payload_of", "safe_json"]

CURVE_POINTS = 4000
"""Maximum number of points per logged curve: more than a screen can tell apart."""
COMPONENTS = 10
"""Maximum number of components in the file."""
SMALL_SHARE = 0.25
"""Share of the range of all steps below which the last step is shown in a range of its own."""
READOUTS = (
    ("train_loss", "train loss", "train"),
    ("test_loss", "test loss", "test"),
    ("train_accuracy", "train accuracy", "train"),
    ("test_accuracy", "test accuracy", "test"),
)


def payload_of(data: xr.Dataset, dense: xr.Dataset, axis: StepAxis, cards: Sequence[Card]) -> dict[str, Any]:
    """The figures of all cards, and the data from which the script draws another step."""
    steps = np.asarray(data["step"].values)
    payload: dict[str, Any] = {
        "steps": [int(step) for step in steps],
        "axis": {"zero_at": axis.zero_at, "first": axis.first, "last": axis.last},
        "templates": {name: template(name == "dark").to_plotly_json() for name in ("light", "dark")},
        "figures": {card.id: card.figure for card in cards},
        "panels": [{"id": card.id, "kind": card.kind} for card in cards],
        "maps": {card.id: _maps(card.maps) for card in cards if card.maps is not None},
        "readouts": {},
        "pairs": [],
        "p": 0,
        "fit": False,
        "powers": tokens_of(data) if "products" in str(data.attrs.get("basis", "")) and "token" in data.dims else None,
    }
    for name, _, _ in READOUTS:
        logged = name.endswith("loss") and logged_loss(dense) is not None  # another loss than the measured one
        if name in data and not logged:
            payload["readouts"][name] = _jsonable(data[name].values)
        elif name in dense and dense[name].dropna("step").size:
            series = dense[name].dropna("step")
            payload["readouts"][name] = _jsonable(series.reindex(step=steps, method="nearest").values)
    if "embedding_power" in data:
        power = np.asarray(data["embedding_power"].transpose("step", "frequency").values)
        payload["spectrum"] = {
            "count": power.shape[1],
            "block": _block(np.nan_to_num(power, posinf=0, neginf=0), "<f4"),
        }
    if has_plane(data):
        table = data["embedding_coordinates"].transpose("component", "step", "token").isel(component=slice(COMPONENTS))
        xyz = np.asarray(table.values, dtype=np.float64)
        finite = np.isfinite(xyz)
        payload["coordinates"] = _whole_numbers(xyz)
        payload["p"] = int(xyz.shape[2])
        for u in range(0, xyz.shape[0] - 1, 2):
            pair = np.where(finite[u : u + 2], xyz[u : u + 2], 0)
            rim = ring(pair[0, -1], pair[1, -1], cyclic=bool(data.attrs.get("cyclic", True)))
            reach = 1.08 * float(np.abs(pair).max()) or 1.0
            if u == 0:  # a network that begins with large weights ends in a corner of their range
                payload["fit"] = bool(1.08 * float(np.abs(pair[:, -1]).max()) < SMALL_SHARE * reach)
            payload["pairs"].append(
                {"a": u + 1, "b": u + 2, "frequency": rim.frequency, "stride": rim.stride, "reach": reach}
            )
    return payload


def bands(phases: Mapping[str, int | None], axis: StepAxis) -> list[dict[str, Any]]:
    """The training phases that have an end, each from the end of the phase before: `start`, `end` and `word`."""
    start, out = axis.first, []
    for key, word in PHASES.items():
        end = phases.get(key)
        if end is None:
            break
        if end > start:
            out.append({"start": start, "end": int(end), "word": word})
        start = int(end)
    return out


def dense_curves(metrics: xr.Dataset | None, data: xr.Dataset) -> xr.Dataset:
    """Losses and accuracies at the steps at which they were logged, thinned; empty where there are none.

    Steps between 0 and a five-hundredth of the run are left out, since they would take half of a logarithmic axis; but
    none at or after the first checkpoint.
    """
    if metrics is None or "step" not in metrics.coords or metrics.sizes.get("step", 0) == 0:
        return xr.Dataset()
    metrics = metrics.sortby("step").drop_duplicates("step", keep="last")
    names = [name for name, _, _ in READOUTS if name in metrics and metrics[name].dims == ("step",)]
    kept = keep_extremes([np.asarray(metrics[name].values, dtype=float) for name in names], CURVE_POINTS)
    dense = metrics[names].isel(step=kept) if names else metrics[names]
    steps = np.asarray(data["step"].values)
    if steps[0] != 0 or steps[-1] < 1000:
        return dense
    start = min(10 ** math.floor(math.log10(steps[-1] / 200)), int(steps[1]))
    return dense.isel(step=np.flatnonzero((dense["step"].values == 0) | (dense["step"].values >= start)))


def _maps(maps: Maps) -> dict[str, Any]:
    return {"steps": maps.steps, "traces": maps.traces, "shapes": maps.shapes, **_whole_numbers(maps.values)}


def _whole_numbers(values: npt.NDArray[Any]) -> dict[str, Any]:
    """Numbers as 16-bit integers times a scale, -32768 where they are not finite."""
    finite = np.isfinite(values)
    scale = float(np.abs(values[finite]).max(initial=0)) / 32767 or 1.0
    whole = np.where(finite, np.round(np.where(finite, values, 0) / scale), -32768)
    return {"scale": scale, "block": _block(whole, "<i2")}


def _block(values: npt.NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode("ascii")


def _jsonable(values: npt.NDArray[Any]) -> list[float | None]:
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in np.asarray(values, dtype=float)]


def safe_json(payload: Mapping[str, Any]) -> str:
    """JSON that may stand in a script element: without `<`, so that nothing in it can close the element."""
    return json.dumps(payload, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
