"""Panels drawn for the page: which are shown, in which section and how large, and which were left out and why."""

import dataclasses
import html
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float

from interp.analysis.keys import given_keys
from interp.errors import InterpError, InvalidArgumentError
from interp.explanation.timeline import spread
from interp.plots.panels import STAGE, Panel, PanelContext, variable_of

if TYPE_CHECKING:
    from interp.explanation import Explanation
    from interp.trajectory import Trajectory

__all__ = ["Card", "Gathered", "Maps", "Section", "check_panels", "draw_sections", "gather"]

MANY_CURVES = 7
"""Entries of a legend beside the curves from which a panel is taller, so that none is cut."""
SINGLE = ("circle", "spectrum", "components")
"""Kinds of panels that the page draws anew at each step."""
TOP_MARGINS = {"curve": 34, "heat": 34, "components": 34, "spectrum": 26, "circle": 12, "still": 12, "map": 24}
"""Pixels above a figure by the kind of its panel: the legend stands there, or numbers above bars."""
MAP_BYTES = 3_000_000
"""Maximum size of the maps of a panel in the file, of two bytes a pixel, which bounds the number of their steps."""


@dataclass(frozen=True)
class Maps:
    """Heat maps of a panel at several steps, which the slider shows."""

    steps: Sequence[int]
    traces: Sequence[int]
    """Places of the heat maps among the traces of the figure."""
    shapes: Sequence[tuple[int, int]]
    """Rows and columns of each."""
    values: Float[np.ndarray, "step pixel"]
    """All rows of all maps in turn."""


@dataclass(frozen=True)
class Card:
    """A panel on the page, with its figure."""

    id: str
    kind: str
    title: str
    note: str
    method: str
    figure: Mapping[str, Any]
    """The figure as JSON has it: `data` and `layout`."""
    wide: bool
    tall: bool
    height: int | None = None
    """Pixels of height; None: that of its kind."""
    maps: Maps | None = None
    """Heat maps that the slider shows; None where the figure has none."""


@dataclass(frozen=True)
class Section:
    """The cards of a group, and a line for each panel of it that was left out."""

    group: str
    cards: Sequence[Card]
    omitted: Sequence[str]

    @property
    def id(self) -> str:
        """The id of its heading."""
        return "g-" + self.group.replace(" ", "-")


def check_panels(panels: Sequence[Panel], template: str) -> None:
    """Raise `InvalidArgumentError` for a panel with an id of the page's own, or a second one of a `SINGLE` kind."""
    reserved = set(re.findall(r'\bid="([\w-]+)"', template))
    for i, panel in enumerate(panels):
        if panel.id in reserved:
            raise InvalidArgumentError(f"`Panel.id` must not be an id that the page itself uses; got `{panel.id}`.")
        other = next((one.id for one in panels[:i] if one.kind == panel.kind), None)
        if panel.kind in SINGLE and other is not None:
            raise InvalidArgumentError(
                f"A report must have one panel of kind {panel.kind} at most; got `{other}` and `{panel.id}`. "
                f"Call yours `{other}` to replace it, or give it another kind."
            )


@dataclass(frozen=True)
class Gathered:
    """Results that panels are drawn from."""

    data: xr.Dataset
    """Measures at every step."""
    sparse: xr.Dataset
    """Measures that take long, at fewer steps; empty where no panel asked for them."""
    explanation: "Explanation | None"
    failures: Mapping[str, str]
    """Reasons why some panels cannot be drawn, by id."""


def gather(
    traj: "Trajectory",
    data: xr.Dataset,
    panels: Sequence[Panel],
    *,
    explanation: "Explanation | None" = None,
    progress: bool = False,
) -> Gathered:
    """Results that panels need besides `data`: they are measured now, and the account is found now."""
    failures: dict[str, str] = {}
    if explanation is None and any(panel.explained for panel in panels):
        from interp.explanation import explain

        try:
            explanation = explain(traj, keys=given_keys(data), progress=progress)
        except InterpError as error:
            failures |= {panel.id: str(error) for panel in panels if panel.explained}
    sparse = xr.Dataset()
    slow = [panel for panel in panels if panel.sparse]
    if slow:
        known = xr.Dataset() if explanation is None or not explanation.account.keys else explanation.timeline
        sparse = xr.Dataset(coords={"step": spread(traj.steps)}) if "step" not in known.dims else known
        sparse, failed = _with_needs(traj, sparse, slow, progress=progress)
        failures |= failed
    data, failed = _with_needs(traj, data, [panel for panel in panels if not panel.sparse])
    return Gathered(data, sparse, explanation, failures | failed)


def _with_needs(
    traj: "Trajectory", data: xr.Dataset, panels: Sequence[Panel], *, progress: bool = False
) -> tuple[xr.Dataset, dict[str, str]]:
    """The data with the measures that panels need besides, and by id of a panel why its measures are not there."""
    from interp.analysis.measures import measure

    logged, steps = set(traj.metrics.data_vars), data["step"].values.tolist()
    keys = given_keys(data)
    failures = {}
    for panel in panels:
        for choice in panel.alternatives:
            unknown = [one for one in choice if variable_of(one) not in {*data.data_vars, *logged}]
            met = len(unknown) < len(choice)
            for one in unknown:
                if met and isinstance(one, str):
                    continue  # another variable is enough
                try:
                    found = measure(traj, [one], steps=steps, keys=keys, progress=progress)
                except Exception as error:  # also of a user's function; the other panels are shown all the same
                    failures[panel.id] = _in_words(error)
                else:
                    data, met = data.assign({str(name): found[name] for name in found.data_vars}), True
            if met:
                failures.pop(panel.id, None)
    return data, failures


def draw_sections(
    panels: Sequence[Panel],
    context: PanelContext,
    *,
    asked: Sequence[Panel],
    failures: Mapping[str, str],
) -> list[Section]:
    """The sections of the page in the order of their first panel, the stage first.

    A panel without its variables is no part of the page. One that was `asked` for, or that fails (as those in
    `failures` have, id -> reason), is left out with a line that says why, and a warning.
    """
    groups: dict[str, tuple[list[Card], list[str]]] = {STAGE: ([], [])}
    for panel in panels:
        cards, omitted = groups.setdefault(panel.group, ([], []))
        reason = failures.get(panel.id, "")
        if not reason and (missing := panel.missing(context)):
            reason = f"there is no {missing}." if panel in asked else ""
            if not reason:
                continue
        try:
            if not reason and panel.applies(context):
                cards.append(_card(panel, context))
        except Exception as error:  # a panel may be a user's own, and the others are shown all the same
            reason = _in_words(error)
        if reason:
            omitted.append(f"The panel “{panel.id}” was left out: {reason}")
            warnings.warn(omitted[-1], stacklevel=4)
    return [
        Section(group, cards if group == STAGE else _laid_out(cards), omitted)
        for group, (cards, omitted) in groups.items()
        if cards or omitted
    ]


def _in_words(error: Exception) -> str:
    """The message of an error, with its type where the message is not ours to explain itself."""
    return str(error) if isinstance(error, InterpError) else f"{type(error).__name__}: {error}"


def _card(panel: Panel, context: PanelContext) -> Card:
    figure = panel.draw(context)
    if not isinstance(figure, go.Figure):
        raise InvalidArgumentError(f"`Panel.draw` must return a plotly Figure; got {figure!r}.")
    title = panel.text("title", context) or html.unescape(figure.layout.title.text or panel.id)
    beside = figure.layout.legend.orientation == "v"
    return Card(
        id=panel.id,
        kind=panel.kind,
        title=title,
        note=panel.text("note", context),
        method=panel.text("method", context),
        figure=json.loads(_undressed(figure, panel.kind).to_json()),
        wide=panel.wide,
        tall=panel.tall or (beside and len(figure.data) > MANY_CURVES),
        height=None if panel.height is None else int(panel.height(figure)),
        maps=_maps(panel, context) if panel.kind == "map" else None,
    )


def _maps(panel: Panel, context: PanelContext) -> Maps:
    """Heat maps of a panel at as many steps as `MAP_BYTES` allows."""
    steps = (context.sparse if panel.sparse else context.data)["step"].values
    last = panel.draw(context)
    traces = [i for i, trace in enumerate(last.data) if trace.type == "heatmap"]
    shapes = [np.asarray(last.data[i].z).shape for i in traces]
    if not traces:
        raise InvalidArgumentError(f"The panel `{panel.id}` of kind map must have a heat map; its figure has none.")
    shown = spread(steps, max(2, MAP_BYTES // (2 * sum(rows * columns for rows, columns in shapes))))
    values = np.stack([_pixels(panel.draw(dataclasses.replace(context, step=step)), traces) for step in shown])
    return Maps(shown, traces, shapes, values)


def _pixels(figure: go.Figure, traces: Sequence[int]) -> np.ndarray:
    return np.concatenate([np.asarray(figure.data[i].z, dtype=np.float64).ravel() for i in traces])


def _undressed(figure: go.Figure, kind: str) -> go.Figure:
    """The figure without its title, size, template and legend of the phases, which the page itself provides."""
    margin = {"t": TOP_MARGINS[kind], "b": 44, "l": 56, "r": 16}
    if kind == "components":
        margin |= {"b": 8, "l": 8, "r": 8}
    figure = go.Figure(figure).update_layout(title=None, template=None, width=None, height=None, margin=margin)
    figure.update_shapes(showlegend=False)
    if figure.layout.legend.orientation != "v":
        figure.update_layout(legend={"yref": "container", "y": 1, "yanchor": "top"})
    return figure


def _laid_out(cards: Sequence[Card]) -> list[Card]:
    """Two cards a row: of an odd number between wide ones, the last is wide too."""
    out: list[Card] = []
    for wide, neighbours in groupby(cards, key=lambda card: card.wide):
        row = list(neighbours)
        if not wide and len(row) % 2:
            row[-1] = dataclasses.replace(row[-1], wide=True)
        out += row
    return out
