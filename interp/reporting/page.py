"""Report of a training run as a self-contained HTML file: curves, spectrum and circle, moved by one slider.

The file asks nothing of any network (its content security policy forbids it), and nothing in a title, a label or a
config can become markup or script: the page is rendered with autoescape, data stand in a JSON block without `<`, and
text that Plotly draws is neutralised.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import xarray as xr
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from interp.analysis.keys import GivenKeys, given_keys
from interp.config.base import flat
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.milestones import Milestones, find
from interp.milestones.words import Row, counted, describe, headline
from interp.plots.catalogue import ON_REQUEST, PANELS, named_panels
from interp.plots.panels import Panel, PanelContext, merged
from interp.plots.structure import MAX_NUMBERED_TOKENS
from interp.plots.style import Event, step_axis
from interp.reporting.cards import check_panels, draw_sections, gather
from interp.reporting.payload import READOUTS, bands, dense_curves, payload_of, safe_json
from interp.store.opening import inside, is_there, write_file

if TYPE_CHECKING:
    from interp.explanation import Explanation
    from interp.trajectory import Trajectory

__all__ = ["render", "report"]

MAX_KEY_ROWS = 16
"""Maximum number of rows of the table of key frequencies."""


def report(
    traj: "Trajectory | str | Path",
    path: Path | str | None = None,
    *,
    data: xr.Dataset | None = None,
    panels: Sequence[Panel | str] = (),
    explanation: "Explanation | None" = None,
    keys: GivenKeys | None = None,
    title: str | None = None,
    progress: bool = False,
) -> Path:
    """Write the report of a run, or of the run in a folder, as one HTML file, and return its path.

    Arguments:
        traj: a run, complete or still growing, or its folder.
        path: where to write (None: `report.html` in the run folder).
        data: measures that are already at hand (None: all that apply, from `interp.measure`).
        panels: panels of your own, after the built-in ones or in the place of that with the same id. Measures and
            functions of the model among their needs are measured. A panel that fails is left out, with a line in the
            report that says why, and a warning. Names stand for built-in panels that take long (`ON_REQUEST` in
            `interp.plots`), as "attention", or "explain" for all of these that the run admits: the account of the last
            step with its sentences, births and certified margins, attention and ablated heads. The first time that
            takes about a minute at p = 59, and several at p = 113; what was measured lies beside the run.
        explanation: an explanation of this run; its panels are shown. None: found now, where a panel draws it.
        keys: key frequencies or irreps to measure with (see `interp.measure`); the report says that they were given.
            None: those of `data`, or else they are found.
        title: None names the run.
        progress: show a bar while measuring.

    Raises:
        InvalidArgumentError: `panels` holds something else than panels, or an id twice, or one that the page uses;
            `keys` has one that the task does not have, or `data` was measured with others.
        NotAvailableError: the run has no checkpoint yet.
        StoreError: the file cannot be written.
    """
    from interp.analysis.measures import key_frequency_votes, measure
    from interp.trajectory import as_trajectory

    traj = as_trajectory(traj)
    given = named_panels(panels)
    names = [one for one in panels if isinstance(one, str)]
    own = [panel for panel in given if panel not in ON_REQUEST]
    slow = [panel for panel in given if panel in ON_REQUEST] if explanation is None else list(ON_REQUEST)
    check_panels(merged((*slow, *PANELS), own), _part("html.jinja"))
    if data is None:
        data = measure(traj, keys=keys, progress=progress)
    elif keys is not None and {*keys} != {*(given_keys(data) or ())}:
        raise InvalidArgumentError(
            f"`keys` must be those that `data` was measured with, {given_keys(data)}; got {keys!r}. Leave `data` out."
        )
    data = data.assign_attrs(inputs=str(traj.task.inputs))
    found = gather(traj, data, [*slow, *own], explanation=explanation, progress=progress)
    unasked = {panel.id for panel in slow} - {"sentences", *names}  # left out without a word
    try:
        agreement = key_frequency_votes(traj, int(data["step"].values[-1]))
    except NotAvailableError:  # the answer is no sum
        agreement = None
    metrics, before = traj.metrics, _before_the_fork(traj)
    fork = [] if not traj.config.first_step else [(traj.config.first_step, f"fork: {traj.config.origin}")]
    config = traj.config.to_dict()
    data = found.data
    told = find((data, metrics))
    html = render(
        data,
        metrics,
        title=title or _title(traj),
        complete=traj.complete,
        summary=headline(told, data),
        config=config,
        events=[*fork, *traj.events, *told.marks],
        before=before,
        milestones=told,
        provenance=traj.provenance,
        agreement=agreement,
        panels=own,
        requested=slow,
        sparse=found.sparse,
        explanation=found.explanation,
        failures={name: reason for name, reason in found.failures.items() if name not in unasked},
    )
    target = Path(path) if path is not None else inside(Path(traj.folder), "report.html")
    write_file(target, html)
    return target


def render(
    data: xr.Dataset,
    metrics: xr.Dataset | None = None,
    *,
    title: str,
    summary: Sequence[Row] = (),
    config: Mapping[str, Any] | None = None,
    events: Iterable[Event] = (),
    before: xr.Dataset | None = None,
    milestones: Milestones | None = None,
    provenance: Mapping[str, Any] | None = None,
    agreement: xr.Dataset | None = None,
    complete: bool = False,
    panels: Sequence[Panel] = (),
    requested: Sequence[Panel] = (),
    sparse: xr.Dataset | None = None,
    explanation: "Explanation | None" = None,
    failures: Mapping[str, str] | None = None,
) -> str:
    """The report as a string of HTML; a measure that `data` does not hold leaves its panel out.

    `metrics` holds the losses and accuracies over denser steps. `summary` has rows (label, value, explanation),
    `events` pairs (step, label), `before` the losses and accuracies of the parent up to the fork, `milestones` the
    milestones of the run (None: those of `data` and `metrics`), `agreement` what each criterion says of each frequency
    (`interp.analysis.measures.key_frequency_votes`). Unless the run is `complete`, it is said how far it is of the
    steps of `config`. `panels` are panels besides the built-in ones (see `report`), `requested` panels of
    `interp.plots.ON_REQUEST`, which draw `sparse` (measures at fewer steps) and `explanation`; `failures` has the
    reasons why some of them cannot be drawn, by id.

    >>> data = xr.Dataset({"test_accuracy": ("step", [0.0, 1.0])}, {"step": [0, 10]})
    >>> "<h1>1 &lt; 2</h1>" in render(data, title="1 < 2")
    True
    """
    if "step" not in data.dims or data.sizes["step"] == 0:
        raise InvalidArgumentError("`data` must have the dimension `step` with at least one step; got none.")
    if "step" not in data.coords:
        raise InvalidArgumentError("`data` must have a coordinate `step` (optimiser updates completed); got none.")
    data = data.sortby("step")
    template = _part("html.jinja")
    shown = merged((*requested, *PANELS), panels)
    check_panels(shown, template)
    dense = dense_curves(metrics, data)
    earlier = dense_curves(before, data)
    steps = [np.asarray(source["step"].values) for source in (data, dense, earlier) if "step" in source]
    axis = step_axis(np.concatenate(steps))
    ordered = sorted(((int(step), str(label)) for step, label in events), key=lambda event: event[0])
    lettered = [(step, _letter(i)) for i, (step, _) in enumerate(ordered)]
    marks = [{"step": step, "label": label, "letter": letter} for (step, label), (_, letter) in zip(ordered, lettered)]
    found = find((data, metrics)) if milestones is None else milestones
    context = PanelContext(
        data,
        axis=axis,
        metrics=dense,
        before=earlier,
        events=lettered,
        milestones=found,
        sparse=xr.Dataset() if sparse is None else sparse,
        explanation=explanation,
    )
    sections = draw_sections(shown, context, asked=panels, failures=failures or {})
    cards = [card for section in sections for card in section.cards]
    payload = payload_of(data, dense, axis, cards) | {"events": marks, "bands": bands(found.ends, axis)}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    html = environment.from_string(template).render(
        title=title,
        sentences=describe(found, data, None if complete else config),
        count=data.sizes["step"],
        readouts=[row for row in READOUTS if row[0] in payload["readouts"]],
        pairs=payload["pairs"],
        numbered=payload["p"] <= MAX_NUMBERED_TOKENS,
        fitted=payload["fit"],
        sections=sections,
        cards=cards,
        agreement=_agreement(agreement),
        summary=summary,
        events=marks,
        bands=payload["bands"],
        definitions=[(str(n), v.attrs["long_name"]) for n, v in data.data_vars.items() if "long_name" in v.attrs],
        config=_rows(config),
        provenance=_provenance_rows(provenance or {}),
        css=Markup(_part("css")),
        script=Markup(_counted_strings(_part("js"), data)),
        payload=Markup(_counted_strings(safe_json(payload), data)),
        plotly_js=Markup(get_plotlyjs().replace("</script", "<\\/script")),
    )
    if "counts" not in data.attrs:
        return html
    parts = re.split(r"(?s)(<script.*?</script>)", html)
    return "".join(counted(part, data) if i % 2 == 0 else part for i, part in enumerate(parts))


def _before_the_fork(traj: "Trajectory") -> xr.Dataset | None:
    """Losses and accuracies of the run from which this one branched, and of its parents, where they lie beside it."""
    from interp.trajectory import Trajectory

    found, child, seen = None, traj, {traj.config.run_id}
    while (origin := child.config.origin) is not None and child.config.first_step and origin.run not in seen:
        seen.add(origin.run)
        if not is_there(traj.folder.parent / origin.run / "run.json"):
            break
        fork, child = child.config.first_step, Trajectory(traj.folder.parent / origin.run)
        own = child.metrics.sel(step=slice(None, fork))
        found = own if found is None else found.combine_first(own)
    return found


def _counted_strings(code: str, data: xr.Dataset) -> str:
    """Code and data of the page with steps as checkpoints in its texts alone, where the steps are not known."""
    texts = ("step (optimiser updates", "step ${", ", step ", "last step")
    return re.sub("|".join(map(re.escape, texts)), lambda match: counted(match[0], data), code)


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
    return sorted(named, key=lambda row: (-row["votes"], row["frequency"]))[:MAX_KEY_ROWS]


def _rows(tree: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    return [(name, "unset" if value is None else str(value)) for name, value in flat(tree or {}).items()]


def _provenance_rows(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of a provenance, and one for each time that the run was resumed."""
    facts = {name: value for name, value in provenance.items() if name != "continuations"}
    return _rows(facts) + [(f"resumed at step {one.step}", str(one)) for one in provenance.get("continuations", [])]


def _title(traj: "Trajectory") -> str:
    if traj.kind.stretch is None:
        return traj.folder.name
    part = traj.run["replay"]
    return f"{part['of']}, steps {part['start']:,} to {part['stop']:,}"


def _letter(i: int) -> str:
    return chr(ord("A") + i) if i < 26 else str(i - 25)


def _part(ending: str) -> str:
    return resources.files("interp.reporting").joinpath(f"page.{ending}").read_text(encoding="utf-8")
