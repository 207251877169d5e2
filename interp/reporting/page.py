"""One self-contained HTML file that shows a training run: the curves, the spectrum and the circle, moved by one slider.

The file asks nothing of any network (its content security policy forbids it), and nothing in a title, a label or a
config can become markup or script: the page is rendered with autoescape, data stand in a JSON block without `<`, and
text that Plotly draws is neutralised. Coordinates travel as one int16 block, finer than a pixel.
"""

import base64
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from interp import plots
from interp.config.base import flat
from interp.errors import InvalidArgumentError, NotAvailableError, StoreError
from interp.milestones.words import Row, describe, headline, milestones, phase_changes, phase_ends
from interp.plots.curves import BY_IRREP, BY_PARAMETER, logged_loss
from interp.plots.structure import component_pairs, key_frequencies, ring
from interp.plots.style import PHASES, Event, StepAxis, step_axis, template, tokens_of
from interp.plots.topics import TOPICS

if TYPE_CHECKING:
    from interp.trajectory import Trajectory

__all__ = ["render", "report"]

DENSEST = 4000  # points per dense curve; more than a screen can tell apart
COMPONENTS = 10  # components that the file carries
SMALL = 0.25  # a last step that fills less of the range of all steps is shown in its own
MOST_KEYS = 16  # rows of the table of key frequencies


def report(
    traj: "Trajectory | str | Path",
    path: Path | str | None = None,
    *,
    data: xr.Dataset | None = None,
    title: str | None = None,
    progress: bool = False,
) -> Path:
    """Write the report of a run, or of the run in a folder, as one HTML file, and say where it is.

    `path`: where to write (None: `report.html` in the run folder). `data`: measures that are already at hand (None:
    all that apply, from `interp.measure`). `title`: None names the run. `progress`: show a bar while measuring.

    Raises:
        NotAvailableError: the run has no checkpoint yet.
        StoreError: the file cannot be written.
    """
    from interp.analysis.measures import key_frequency_votes, measure
    from interp.trajectory import as_trajectory

    traj = as_trajectory(traj)
    if data is None:
        data = measure(traj, progress=progress)
    try:
        agreement = key_frequency_votes(traj, int(data["step"].values[-1]))
    except NotAvailableError:  # the answer is no sum
        agreement = None
    metrics = traj.metrics
    config = traj.config.to_dict()
    html = render(
        data,
        metrics,
        title=title or _title(traj),
        complete=traj.complete,
        summary=headline(data, metrics),
        config=config,
        events=[*traj.events, *milestones(data, metrics)],
        phases=phase_ends(data, metrics),
        provenance=traj.provenance,
        agreement=agreement,
    )
    target = Path(path) if path is not None else Path(traj.folder) / "report.html"
    try:
        target.write_text(html, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror}.") from error
    return target


def render(
    data: xr.Dataset,
    metrics: xr.Dataset | None = None,
    *,
    title: str,
    summary: Sequence[Row] = (),
    config: Mapping[str, Any] | None = None,
    events: Iterable[Event] = (),
    phases: Mapping[str, int | None] | None = None,
    provenance: Mapping[str, Any] | None = None,
    agreement: xr.Dataset | None = None,
    complete: bool = False,
) -> str:
    """The report as a string of HTML; a measure that `data` does not hold leaves its panel out.

    `metrics` holds the losses and accuracies over denser steps. `summary` has rows (label, value, explanation),
    `events` pairs (step, label), `phases` the last step of each phase (`memorisation_end`, `circuit_formation_end`,
    `cleanup_end`), `agreement` what each criterion says of each frequency
    (`interp.analysis.measures.key_frequency_votes`). Unless the run is `complete`, it is said how far it is of the
    steps of `config`.

    >>> data = xr.Dataset({"test_accuracy": ("step", [0.0, 1.0])}, {"step": [0, 10]})
    >>> "<h1>1 &lt; 2</h1>" in render(data, title="1 < 2")
    True
    """
    if "step" not in data.dims or data.sizes["step"] == 0:
        raise InvalidArgumentError("`data` must have the dimension `step` with at least one step; got none.")
    if "step" not in data.coords:
        raise InvalidArgumentError("`data` must have a coordinate `step` (optimiser updates completed); got none.")
    data = data.sortby("step")
    dense = _from_first_checkpoint(_thin(metrics), data)
    steps = [np.asarray(source["step"].values) for source in (data, dense) if "step" in source]
    axis = step_axis(np.concatenate(steps))
    ordered = sorted(((int(step), str(label)) for step, label in events), key=lambda event: event[0])
    marks = [{"step": step, "label": label, "letter": _letter(i)} for i, (step, label) in enumerate(ordered)]
    lettered = [(step, _letter(i)) for i, (step, _) in enumerate(ordered)]
    changes = {
        key: (found.change, *found.interval)
        for key, found in phase_changes(data, metrics).items()
        if found.change is not None and found.interval is not None
    }
    panels = _panels(data, dense, axis, lettered, phases, changes)
    stage = [p for p in panels if p.stage]
    payload = _payload(data, dense, axis, panels) | {"events": marks, "bands": _bands(phases, axis)}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(_part("html.jinja"))
    return page.render(
        title=title,
        sentences=describe(data, metrics, None if complete else config),
        count=data.sizes["step"],
        readouts=[row for row in READOUTS if row[0] in payload["readouts"]],
        pairs=payload["pairs"],
        numbered=payload["p"] <= 67,
        fitted=payload["fit"],
        stage=stage,
        panels=panels,
        sections=[(group, [p for p in panels if p.group == group]) for group in GROUPS],
        agreement=_agreement(agreement),
        summary=summary,
        events=marks,
        bands=payload["bands"],
        loss=_loss(dense),
        measured={str(name) for name in [*data.data_vars, *dense.data_vars]},
        definitions=[(str(n), v.attrs["long_name"]) for n, v in data.data_vars.items() if "long_name" in v.attrs],
        config=_rows(config),
        provenance=_rows(provenance),
        css=Markup(_part("css")),
        script=Markup(_part("js")),
        payload=Markup(_safe_json(payload)),
        plotly_js=Markup(get_plotlyjs().replace("</script", "<\\/script")),
    )


# --- panels ---


GROUPS = ("Learning", "Circle", "Frequencies", "Mechanism", "Numerics")


@dataclasses.dataclass(frozen=True)
class _Panel:
    id: str
    kind: str  # "circle", "spectrum", "curve", "heat", "components", "still"
    title: str
    note: str
    figure: go.Figure
    group: str = ""  # under which heading; the stage has none
    wide: bool = False

    @property
    def tall(self) -> bool:
        """Whether it has several rows, or a list of names down its side that a flat panel would cut."""
        return self.id == "heads" or (self.figure.layout.legend.orientation == "v" and len(self.figure.data) > 7)

    @property
    def stage(self) -> bool:
        return not self.group


def _panels(
    data: xr.Dataset,
    dense: xr.Dataset,
    axis: StepAxis,
    marks: list[Event],
    phases: Mapping[str, int | None] | None,
    changes: Mapping[str, tuple[int, int, int]],
) -> list[_Panel]:
    """Every panel whose variables are there: the stage first, then group by group in reading order."""
    over: dict[str, Any] = {"events": marks, "phases": phases, "axis": axis}
    names = {str(n) for n in data.data_vars}
    known = names | {str(n) for n in dense.data_vars}
    out = []
    if _plane_ready(data):
        fig = plots.embedding_circle(data, components=component_pairs(data)[0]).update_layout(width=None, height=None)
        out.append(_Panel("circle", "circle", "The token embeddings", "", fig))
    if "embedding_power" in names:
        keys = key_frequencies(data)[0]
        note = "One range for every step, unless it is fitted to the step."
        note += " Numbered: the key frequencies of the last step." if keys else ""
        fig = plots.spectrum_bars(data, keys=keys)
        out.append(_Panel("spectrum", "spectrum", "Fourier spectrum of the embedding", note, fig))
    if known & {"train_accuracy", "test_accuracy"}:
        fig = plots.accuracy_curves(data, dense, **over)
        note = "Click a curve to go to that step. Drag to zoom, double-click to return."
        out.append(_Panel("accuracy", "curve", "Accuracy on train and test pairs", note, fig))

    def add(group: str, name: str, note: str, fig: go.Figure, kind: str = "curve") -> None:
        out.append(_Panel(name, kind, fig.layout.title.text, note, fig, group))

    if known & {"train_loss", "test_loss", "all_loss"}:
        note = f"{_loss(dense)}."
        if changes:
            note += " Dashed: change points of the test loss, with their 95 % intervals as bars on the axis."
        add("Learning", "loss", note, plots.loss_curves(data, dense, changes=changes, **over))
    if "weight_norm" in names:
        add("Learning", "norm", "All parameters together.", plots.norm_curves(data, **over))
    if "sum_of_squares_by_parameter" in names:
        note = "Where the weight is held. Names are those of the state dict, without the number of the block."
        add("Learning", "parameters", note, plots.norm_curves(data, by="parameter", **over))

    if names & {"circularity", "circularity_by_component", "circle_resultant", "circle_order_correlation"}:
        add("Circle", "circularity", "1 is a perfect circle, in perfect order.", plots.circularity_curves(data, **over))
    if {"component_pair_circularity", "component_frequency"} <= names:
        note = "Each component with the one that it is most nearly a circle with; written in: the circle's frequency."
        add("Circle", "partners", note, plots.component_circles(data, **over), "heat")
    if "subspace_angle" in names:
        note = "Between the plane of components 1 and 2 and that of the last step; 0: it has come to rest."
        add("Circle", "angle", note, plots.angle_curves(data, **over))
    if _plane_ready(data) and len(component_pairs(data)) > 1:
        note = "Each plane with the ring of its strongest frequency. Follows when the slider rests; click to enlarge."
        fig = plots.component_grid(data).update_layout(height=None, title_text="Circles on lower components")
        add("Circle", "components", note, fig, "components")

    for variable, name, note in (
        ("embedding_power", "heat-embedding", "Each row is a frequency; the rows that stand out are those in use."),
        ("logit_similarity", "heat-logit", "The frequencies that the answer is made of."),
        ("neuron_cluster_size", "heat-neuron", "How many neurons have more than 85 % of their variance there."),
    ):
        if variable in names:
            add("Frequencies", name, _with_basis(note, data), plots.spectrum_heatmap(data, variable, **over), "heat")
    if "attention_score_power" in names:
        note = "Power of the scores that '=' gives to the numbers. One scale for all heads and steps."
        fig = plots.head_spectra(data, events=marks, axis=axis)
        add("Frequencies", "heads", _with_basis(note, data), fig, "heat")

    if any(n.startswith(("restricted_loss", "excluded_loss")) and data[n].dims == ("step",) for n in names):
        note = "Restricted: only key frequencies kept. Excluded: key frequencies removed. Dotted: train and test loss."
        add("Mechanism", "progress", note, plots.progress_curves(data, **over))
    if {"neuron_phase_first", "neuron_phase_second", "neuron_frequency"} <= names:
        note = "One dot per neuron that has a frequency, at the last step. On the dotted lines both phases are equal."
        add("Mechanism", "phases", note, plots.neuron_phases(data), "still")
    for variable in BY_IRREP:
        if variable in names:
            note = "One curve for each irreducible representation of the group."
            add("Mechanism", variable.replace("_", "-"), note, plots.irrep_curves(data, variable, **over))

    for name, topic in TOPICS.items():
        about = names & (set(topic.variables) - {"train_loss"})  # which is there for comparison
        if about and (name != "parallelograms" or data["rqi"].values.any()):  # wide embeddings show none at all
            add(topic.group, name, topic.note, plots.topic_curves(data, name, **over))
    for variable in BY_PARAMETER:
        if variable in names:
            note = "One colour for each layer. Names are those of the state dict, without the number of the block."
            fig = plots.parameter_curves(data, variable, **over)
            add("Numerics", variable.partition("_")[0], note, fig)
    for panel in out:
        _undress(panel)
    return _laid_out(out)


def _laid_out(panels: Sequence[_Panel]) -> list[_Panel]:
    """Group by group, two panels a row: the last one of an odd number is wide, and so are the small circles."""
    out = [panel for panel in panels if panel.stage]
    for group in GROUPS:
        own = sorted((p for p in panels if p.group == group), key=lambda p: p.kind == "components")
        pairs = [p for p in own if p.kind != "components"]
        odd = pairs[-1] if len(pairs) % 2 else None
        out += [dataclasses.replace(p, wide=p.kind == "components" or p is odd) for p in own]
    return out


def _with_basis(note: str, data: xr.Dataset) -> str:
    """The note, and what the frequencies are where they are not those of the residues themselves."""
    basis = str(data.attrs.get("basis", ""))
    return f"{note} Frequencies: {basis}." if "products" in basis else note


def _agreement(found: xr.Dataset | None) -> list[dict[str, Any]]:
    """The rows of the table of key frequencies: those that a criterion names, most votes first."""
    if found is None:
        return []
    rows: list[dict[str, Any]] = [
        {
            "frequency": int(k),
            "neurons": int(row["neuron_cluster_size"]),
            "similarity": f"{float(row['logit_similarity']):.3f}",
            "norm": f"{float(row['embedding_norm_over_median']):.1f}",
            **{f"by_{who}": bool(row[f"by_{who}"]) for who in ("neuron", "logit", "embedding")},
            "votes": int(row["votes"]),
        }
        for k, row in ((k, found.sel(frequency=k)) for k in found["frequency"].values)
    ]
    named = [row for row in rows if row["votes"]]
    return sorted(named, key=lambda row: (-row["votes"], row["frequency"]))[:MOST_KEYS]


def _undress(panel: _Panel) -> None:
    """Take off what the page itself shows: the title, the legend of the phases, the template (the page swaps it)."""
    top = 34 if panel.kind in ("curve", "heat", "components") else 26 if panel.kind == "spectrum" else 12
    panel.figure.update_layout(title=None, template=None, margin={"t": top, "b": 44, "l": 56, "r": 16})
    panel.figure.update_shapes(showlegend=False)
    if panel.figure.layout.legend.orientation != "v":
        panel.figure.update_layout(legend={"yref": "container", "y": 1, "yanchor": "top"})
    if panel.kind == "components":
        panel.figure.update_layout(margin={"l": 8, "r": 8, "b": 8})


def _plane_ready(data: xr.Dataset) -> bool:
    return "embedding_coordinates" in data and data.sizes["component"] > 1 and data.sizes["token"] > 1


# --- what the script reads ---

READOUTS = (
    ("train_loss", "train loss", "train"),
    ("test_loss", "test loss", "test"),
    ("train_accuracy", "train accuracy", "train"),
    ("test_accuracy", "test accuracy", "test"),
)


def _loss(dense: xr.Dataset) -> str:
    """What the losses are, as a sentence begins."""
    own = logged_loss(dense)
    return "Mean cross-entropy in nats" if own is None else own[0].upper() + own[1:]


def _payload(data: xr.Dataset, dense: xr.Dataset, axis: StepAxis, panels: list[_Panel]) -> dict[str, Any]:
    steps = np.asarray(data["step"].values)
    payload: dict[str, Any] = {
        "steps": [int(step) for step in steps],
        "axis": {"zero_at": axis.zero_at, "first": axis.first, "last": axis.last},
        "templates": {name: template(name == "dark").to_plotly_json() for name in ("light", "dark")},
        "figures": {p.id: json.loads(p.figure.to_json()) for p in panels},
        "panels": [{"id": p.id, "kind": p.kind} for p in panels],
        "readouts": {},
        "pairs": [],
        "p": 0,
        "fit": False,
        "ranges": {p.id: p.figure.layout.yaxis.range for p in panels if p.kind == "spectrum"},
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
    if _plane_ready(data):
        table = data["embedding_coordinates"].transpose("component", "step", "token").isel(component=slice(COMPONENTS))
        xyz = np.asarray(table.values, dtype=np.float64)
        finite = np.isfinite(xyz)
        scale = float(np.abs(xyz[finite]).max(initial=0)) / 32767 or 1.0
        whole = np.where(finite, np.round(np.where(finite, xyz, 0) / scale), -32768)
        payload["coordinates"] = {"scale": scale, "block": _block(whole, "<i2")}
        payload["p"] = int(xyz.shape[2])
        for u in range(0, xyz.shape[0] - 1, 2):
            pair = np.where(finite[u : u + 2], xyz[u : u + 2], 0)
            rim = ring(pair[0, -1], pair[1, -1], cyclic=bool(data.attrs.get("cyclic", True)))
            reach = 1.08 * float(np.abs(pair).max()) or 1.0
            if u == 0:  # a network that begins with large weights ends in a corner of their range
                payload["fit"] = bool(1.08 * float(np.abs(pair[:, -1]).max()) < SMALL * reach)
            payload["pairs"].append(
                {"a": u + 1, "b": u + 2, "frequency": rim.frequency, "stride": rim.stride, "reach": reach}
            )
    return payload


def _bands(phases: Mapping[str, int | None] | None, axis: StepAxis) -> list[dict[str, Any]]:
    start, out = axis.first, []
    for key, (word, _) in PHASES.items():
        end = (phases or {}).get(key)
        if end is None:
            break
        if end > start:
            out.append({"start": start, "end": int(end), "word": word})
        start = int(end)
    return out


def _thin(metrics: xr.Dataset | None) -> xr.Dataset:
    """At most about `DENSEST` steps, keeping the least and the greatest value of every variable in each stretch."""
    if metrics is None or "step" not in metrics.coords or metrics.sizes.get("step", 0) == 0:
        return xr.Dataset()
    metrics = metrics.sortby("step").drop_duplicates("step", keep="last")
    names = [n for n, _, _ in READOUTS if n in metrics and metrics[n].dims == ("step",)]
    metrics = metrics[names]
    if metrics.sizes["step"] <= DENSEST or not names:
        return metrics
    count = metrics.sizes["step"]
    each = DENSEST // (2 * len(names))  # stretches per variable
    kept = {*range(min(count, 200)), count - 1}  # the first steps are wide on a log axis
    for name in names:
        values = np.asarray(metrics[name].values, dtype=float)
        (finite,) = np.nonzero(np.isfinite(values))
        for part in np.array_split(finite, min(each, max(finite.size, 1))):
            if part.size == 0:
                continue
            kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    return metrics.isel(step=sorted(kept))


def _from_first_checkpoint(dense: xr.Dataset, data: xr.Dataset) -> xr.Dataset:
    """Without the steps between 0 and a five-hundredth of the run, which would take half of a logarithmic axis.

    No step is dropped that lies at or after the first checkpoint, whichever comes first.
    """
    steps = np.asarray(data["step"].values)
    if "step" not in dense or steps[0] != 0 or steps[-1] < 1000:
        return dense
    start = min(10 ** math.floor(math.log10(steps[-1] / 200)), int(steps[1]))
    return dense.isel(step=np.flatnonzero((dense["step"].values == 0) | (dense["step"].values >= start)))


def _block(values: npt.NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode("ascii")


def _jsonable(values: npt.NDArray[Any]) -> list[float | None]:
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in np.asarray(values, dtype=float)]


def _safe_json(payload: Mapping[str, Any]) -> str:
    """JSON that may stand in a script element: without `<`, so that nothing in it can close the element."""
    return json.dumps(payload, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")


def _rows(tree: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    return [(name, "unset" if value is None else str(value)) for name, value in flat(tree or {}).items()]


def _title(traj: "Trajectory") -> str:
    if "replay" not in traj.run:
        return traj.folder.name
    part = traj.run["replay"]
    return f"{part['of']}, steps {part['start']:,} to {part['stop']:,}"


def _letter(i: int) -> str:
    return chr(ord("A") + i) if i < 26 else str(i - 25)


def _part(ending: str) -> str:
    return resources.files("interp.reporting").joinpath(f"page.{ending}").read_text(encoding="utf-8")
