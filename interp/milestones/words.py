"""What a run did, in words and headline numbers, read from its measures and metrics.

Accuracy counts as having passed 99 % from the step at which it stays there for the next five evaluations (or to the
end of the run): a single lucky or unlucky evaluation moves nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from interp.analysis.curves import sustained_step
from interp.errors import InvalidArgumentError
from interp.milestones.changepoints import Boundary, phase_boundaries
from interp.milestones.phases import phases
from interp.plots.curves import logged_loss
from interp.plots.structure import key_frequencies
from interp.plots.style import PHASES, Event

__all__ = ["Row", "describe", "headline", "milestones", "phase_changes", "phase_ends"]

Row = tuple[str, str, str]
"""A headline number: label, value, explanation."""
THRESHOLD = 0.99
"""Accuracy that counts as learnt."""
MOST = 1000
"""Evaluations among which change points are sought; more tell a step no better, and cost their square."""


def describe(data: xr.Dataset, metrics: xr.Dataset | None = None, config: Mapping[str, Any] | None = None) -> list[str]:
    """What the run did, in plain sentences; what was not measured is not mentioned.

    >>> data = xr.Dataset({"train_accuracy": ("step", [0.0, 1.0, 1.0]), "test_accuracy": ("step", [0.0, 0.1, 1.0])})
    >>> describe(data.assign_coords(step=[0, 100, 2000]))[0]
    'Train accuracy passed 99 % at step 100, test accuracy at step 2,000: generalisation came 1,900 steps later.'
    """
    said = []
    curves = {who: _series(data, metrics, f"{who}_accuracy") for who in _sets(data)}
    train, test = curves["train"], curves.get("test")
    learnt, general = _passed(train), _passed(test)
    end = int(max([int(s["step"].values[-1]) for s in (train, test) if s is not None] + [int(data["step"].values[-1])]))
    if learnt is not None and general is not None:
        if _censored(train, learnt) or _censored(test, general):
            said.append(f"{_when('train', train, learnt)}; {_when('test', test, general, first=False)}.")
        elif general > learnt:
            tail = f"generalisation came {general - learnt:,} steps later."
            said.append(f"Train accuracy passed 99 % at step {learnt:,}, test accuracy at step {general:,}: {tail}")
        else:
            said.append(
                f"Test accuracy passed 99 % at step {general:,}, no later than train accuracy (step {learnt:,})."
            )
    elif learnt is not None and test is not None:
        halfway = float(test.values[-1]) >= 0.5
        tail = "it generalises in part." if halfway else "the run has memorised and not generalised."
        said.append(f"{_when('train', train, learnt)}; test accuracy is {_share(test)} at step {end:,}: {tail}")
    elif learnt is not None:
        said.append(f"{_when('train', train, learnt)}.")
    elif general is not None:
        said.append(f"{_when('test', test, general)}.")
    elif train is not None or test is not None:
        got = [f"{who} {_share(s)}" for who, s in (("train", train), ("test", test)) if s is not None]
        said.append(f"By step {end:,} accuracy has not reached 99 % ({', '.join(got)}).")
    if "test" not in curves:
        said.append("No pair is known to have been held out: accuracy is over all of them.")
    if general is not None and test is not None and float(test.values[-1]) < 0.95:
        said.append(f"Test accuracy has since fallen to {_share(test)}.")
    keys, rule = key_frequencies(data)
    if rule is not None:
        found = f"Key frequencies: {_listed(keys)}" if keys else "No key frequency stands out"
        said.append(f"{found} ({_said(rule)} at the last step).")
    circle = _series(data, None, "circularity")
    if circle is not None:
        now, start = float(circle.values[-1]), float(circle.values[0])
        verdict = f"up from {start:.2f}" if now >= 0.8 and now - start > 0.1 else "1 is a perfect circle"
        none = " No circle has formed." if now < 0.5 else ""
        said.append(f"Circularity of the embedding is {now:.2f} ({verdict}).{none}")
    said += [
        f"The end of {PHASES[key][0]} depends on the definition: step {found.step:,} by the shape of the test loss, "
        f"{found.change:,} by its change point (95 % interval {found.interval[0]:,} to {found.interval[1]:,})."
        for key, found in phase_changes(data, metrics).items()
        if found.agrees is False and found.interval is not None
    ]
    diverged = {**data.attrs, **(metrics.attrs if metrics is not None else {})}.get("diverged")
    loss = data["train_loss"].values if "train_loss" in data else np.array([0.0])
    planned = (config or {}).get("steps")
    if diverged is not None:
        said.append(f"The run has diverged: at step {diverged:,} there was a number that is not finite.")
    elif not np.isfinite(loss[-1]):
        said.append("The last train loss is not a finite number: the run has diverged.")
    elif isinstance(planned, int) and end < planned:
        said.append(f"The run is at step {end:,} of {planned:,}; all this may change.")
    return said


def headline(data: xr.Dataset, metrics: xr.Dataset | None = None) -> list[Row]:
    """The headline numbers as rows (label, value, explanation).

    >>> data = xr.Dataset({"circularity": ("step", [0.1, 0.97])}, {"step": [0, 100]})
    >>> headline(data)[-1][:2]
    ('Circularity', '0.970')
    """
    rows = [("Last step", f"{int(data['step'].values[-1]):,}", f"of {data.sizes['step']:,} checkpoints measured")]
    first: dict[str, int | None] = {}
    for who in _sets(data):
        series = _series(data, metrics, f"{who}_accuracy")
        if series is not None:
            at = _passed(series)
            before = at is not None and _censored(series, at)
            first[who] = None if before else at
            told = "not reached" if at is None else f"before step {at:,}" if before else f"step {at:,}"
            rows.append(
                (
                    f"{who.capitalize()} accuracy ≥ 99 %",
                    told,
                    f"from then on, for five evaluations at least; now {_share(series)}",
                )
            )
    learnt, general = first.get("train"), first.get("test")
    if learnt is not None and general is not None:
        delay = f"{general - learnt:,} steps"
        rows.append(("Delay", delay, "from the first of these steps to the second: the length of grokking"))
    own = logged_loss(metrics)
    for name, label, text in (
        ("test_loss", "Test loss", f"{own or 'cross-entropy in nats'} at the last step"),
        ("weight_norm", "Weight norm", "l2 norm of all weights at the last step"),
        ("circularity", "Circularity", "mean over components 1 to 4 at the last step; 1 is a perfect circle"),
        ("circle_order_correlation", "Order on the circle", "at the last step, PC 1–2; 1 is perfect order"),
    ):
        logged = name == "test_loss" and own is not None  # another loss than the measured one
        series = _series(xr.Dataset() if logged else data, metrics, name)
        if series is not None:
            rows.append((label, f"{float(series.values[-1]):#.3g}", text))
    keys, rule = key_frequencies(data)
    if rule is not None:
        rows.append(("Key frequencies", _listed(keys) or "none", f"{_said(rule)} at the last step"))
    return rows


def milestones(data: xr.Dataset, metrics: xr.Dataset | None = None) -> list[Event]:
    """The steps from which train and test accuracy stay at 99 %, as events."""
    found = []
    for who in _sets(data):
        series = _series(data, metrics, f"{who}_accuracy")
        step = _passed(series)
        if step is not None and not _censored(series, step):
            found.append((step, f"{who} accuracy reaches 99 %"))
    return found


def phase_ends(data: xr.Dataset, metrics: xr.Dataset | None) -> dict[str, int | None]:
    """The ends of the phases (None: it did not happen), from the densest steps at which all three curves were taken."""
    curves = _phase_curves(data, metrics)
    if curves is None:
        return {}
    found = phases(curves["step"].values, *(curves[name].values for name in PHASE_CURVES))
    return {key: getattr(found, key) for key in PHASES}


def phase_changes(data: xr.Dataset, metrics: xr.Dataset | None) -> dict[str, Boundary]:
    """The ends of circuit formation and cleanup twice: by the definition of `phases`, and as change points.

    Those that have both. The change points are sought among `MOST` evaluations at most, evenly chosen.
    """
    curves = _phase_curves(data, metrics)
    if curves is None:
        return {}
    ends = phase_ends(data, metrics)
    thinned = curves.isel(step=slice(None, None, -(-curves.sizes["step"] // MOST)))
    try:
        found = phase_boundaries(thinned["step"].values, *(thinned[name].values for name in PHASE_CURVES))
    except InvalidArgumentError:  # too few evaluations after memorisation for three segments
        return {}
    kept = {}
    for key in ("circuit_formation_end", "cleanup_end"):
        boundary: Boundary = getattr(found, key)
        if ends[key] is not None and boundary.change is not None:
            kept[key] = Boundary(ends[key], boundary.change, boundary.interval)
    return kept


PHASE_CURVES = ("train_accuracy", "test_accuracy", "test_loss")


def _phase_curves(data: xr.Dataset, metrics: xr.Dataset | None) -> xr.Dataset | None:
    """The three curves where all were taken, from where there are more such steps; None without two of them."""
    if data.attrs.get("p") == 0:  # no circuit forms where the inputs are no pairs
        return None
    names = list(PHASE_CURVES)
    held = [s[names].dropna("step") for s in (metrics, data) if s is not None and all(name in s for name in names)]
    curves = max(held, key=lambda s: s.sizes["step"], default=None)
    return None if curves is None or curves.sizes["step"] < 2 else curves


def _series(data: xr.Dataset, metrics: xr.Dataset | None, name: str) -> xr.DataArray | None:
    """The finite values of a variable over step, from where there are more of them; None where there are none."""
    held = [source[name] for source in (metrics, data) if source is not None and name in source]
    series = max((s[np.isfinite(s.values)] for s in held), key=lambda s: s.size, default=None)
    return series if series is not None and series.size else None


def _passed(series: xr.DataArray | None) -> int | None:
    """The step from which accuracy stays at the threshold, for five evaluations or to the end of the run."""
    if series is None:
        return None
    return sustained_step(series["step"].values, series.values, THRESHOLD, open_end=True)


def _sets(data: xr.Dataset) -> tuple[str, ...]:
    """The sets that accuracies are of; there is no test where nothing is known to have been held out."""
    return ("train", "test") if data.attrs.get("held_out", 1) else ("train",)


def _censored(series: xr.DataArray | None, passed: int) -> bool:
    """Whether the curve begins, after step 0, above the threshold: it passed it before anything is known of it."""
    return series is not None and passed == int(series["step"].values[0]) > 0


def _when(who: str, series: xr.DataArray | None, passed: int, first: bool = True) -> str:
    name = f"{who.capitalize() if first else who} accuracy"
    if _censored(series, passed):
        return f"{name} is above 99 % from the first evaluation here, step {passed:,}"
    return f"{name} passed 99 % at step {passed:,}"


def _listed(keys: Sequence[int]) -> str:
    """The first twelve, and how many more."""
    return ", ".join(map(str, keys[:12])) + (f" and {len(keys) - 12} more" if len(keys) > 12 else "")


def _said(rule: str) -> str:
    names = {"key_frequency_logit": "the logits", "key_frequency_neuron": "the neurons"}
    return "named by two of three criteria" if rule == "criteria" else f"read from {names.get(rule, 'the embedding')}"


def _share(series: xr.DataArray) -> str:
    """The last value, never rounded up to a whole 1."""
    last = float(series.values[-1])
    return f"{math.floor(last * 1000) / 1000:.3f}" if last >= 0.99 else f"{last:.2f}"
