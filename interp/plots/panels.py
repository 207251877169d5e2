"""Panels as data: what a figure of a report is called, which variables it needs, how it is drawn.

The report, the scrubber and notebooks draw the same panels. The built-in ones are the entries of
`interp.plots.catalogue`; a panel of your own is one `Panel`, passed to `interp.report(traj, panels=[...])`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.errors import InvalidArgumentError
from interp.explanation import Explanation
from interp.milestones import Milestones
from interp.plots.curves import measure_curves
from interp.plots.style import Event, StepAxis

__all__ = ["STAGE", "Kind", "Panel", "PanelContext", "curve_panel", "merged", "variable_of"]

Kind = Literal["curve", "heat", "still", "map", "circle", "spectrum", "components"]
"""Behaviour of a panel when the slider moves.

`curve` and `heat`: a figure over steps gets a cursor, and a click on it goes to that step. `still`: nothing moves.
`map`: heat maps of a single step; the page holds those of as many steps as `interp.reporting.cards.MAP_BYTES` allows.
`circle`, `spectrum` and `components` show the step of the slider; the page draws them again from the variables
`embedding_coordinates` and `embedding_power`.
"""
STAGE = ""
"""The group of the panels at the top of a report, beside each other and without a heading."""
NOTHING_FOUND = Milestones(accuracies={}, held_out=True)
"""Milestones of a run of which nothing is known."""
ID = re.compile(r"[a-z][a-z0-9]+(-[a-z0-9]+)*")
GROUP = re.compile(r"\w+( \w+)*")


@dataclass(frozen=True)
class PanelContext:
    """The results that panels are drawn from, and how: the axis of steps, the events and phases to be marked."""

    data: xr.Dataset
    """Measures over `step`, as from `interp.measure`."""
    _: KW_ONLY
    axis: StepAxis
    """The axis of steps, which all panels share."""
    metrics: xr.Dataset = field(default_factory=xr.Dataset)
    """Losses and accuracies at the steps at which they were logged; empty where there are none."""
    before: xr.Dataset = field(default_factory=xr.Dataset)
    """Losses and accuracies of the parent up to the fork; empty where the run is no branch."""
    events: Sequence[Event] = ()
    """Pairs of step and label."""
    milestones: Milestones = NOTHING_FOUND
    """Milestones of the run: its training phases and change points are marked."""
    step: int | None = None
    """The step that figures of a single step show; None: the last."""
    sparse: xr.Dataset = field(default_factory=xr.Dataset)
    """Measures at fewer steps, since they take long; empty where no panel asked for them."""
    explanation: Explanation | None = None
    """Account of the run with its sentences; None where no panel asked for it."""

    @property
    def sparse_step(self) -> int | None:
        """The step of `sparse` nearest to `step`; None: the last."""
        if self.step is None:
            return None
        steps = self.sparse["step"].values
        return int(steps[np.abs(steps - self.step).argmin()])

    @property
    def overlay(self) -> dict[str, Any]:
        """Keyword arguments that every function of curves over steps takes: `events`, `phases` and `axis`."""
        return {"events": self.events, "phases": self.milestones.ends, "axis": self.axis}

    def holds(self, variable: str) -> bool:
        """Whether a variable was measured or logged."""
        return any(variable in source.data_vars for source in (self.data, self.metrics, self.sparse))


Text = str | Callable[[PanelContext], str]
"""A text, or a function of a `PanelContext` that returns it."""


def _always(context: PanelContext) -> bool:
    return True


@dataclass(frozen=True)
class Panel:
    """A figure of a report: name, place, the variables it needs, and the function that draws it.

    Example:
        >>> import interp
        >>> def largest_readout(model):
        ...     return model.unembed.W_U.abs().max()
        >>> def draw(context):
        ...     names = ["largest_readout"]
        ...     return interp.plots.measure_curves(context.data, names, title="W_U", y="entry", **context.overlay)
        >>> panel = Panel("readout", group="Learning", needs=[largest_readout], draw=draw)
        >>> panel.variables
        ('largest_readout',)

    Raises:
        InvalidArgumentError: an id, a group, a kind or `needs` that no report could show.
    """

    id: str
    """Name in the page and in messages: lower-case words joined by hyphens. That of a built-in panel replaces it."""
    _: KW_ONLY
    draw: Callable[[PanelContext], go.Figure]
    """The figure, from a `PanelContext`."""
    group: str = "Mechanism"
    """Heading in the report; a new one makes a section of its own. `STAGE` is the top of the page."""
    needs: Sequence[Any] = ()
    """Variables that must have been measured or logged, by name; in the place of a name, a tuple of names of which one
    is enough. In a panel for `interp.report`, an `interp.Measure` or a function of the model may stand for
    a name: it is measured then."""
    title: Text = ""
    """Title; empty: that of the figure."""
    note: Text = ""
    """A sentence or two below the figure: what to look for."""
    method: Text = ""
    """Definition and source of what is drawn, for the foot of the report."""
    kind: Kind = "curve"
    applies: Callable[[PanelContext], bool] = _always
    """Whether there is something to show, where the variables are there."""
    wide: bool = False
    """Whether it takes a row of its own."""
    tall: bool = False
    """Whether it is taller than others, as with several rows."""
    height: Callable[[go.Figure], int] | None = None
    """Height of the figure in the report in pixels, from the figure; None: that of its kind."""
    sparse: bool = False
    """Whether its needs take long: they are measured at 100 steps at most, and lie in `PanelContext.sparse`."""
    explained: bool = False
    """Whether it draws `PanelContext.explanation`."""

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not ID.fullmatch(self.id):
            raise InvalidArgumentError(
                f"`Panel.id` must be lower-case words joined by hyphens, the first of two letters at least, such as "
                f"margin-by-class; got {self.id!r}."
            )
        if not isinstance(self.group, str) or not (self.group == STAGE or GROUP.fullmatch(self.group)):
            raise InvalidArgumentError(
                f"`Panel.group` of `{self.id}` must be words with single spaces, or STAGE; got {self.group!r}."
            )
        if self.kind not in get_args(Kind):
            raise InvalidArgumentError(
                f"`Panel.kind` of `{self.id}` must be one of {', '.join(get_args(Kind))}; got {self.kind!r}."
            )
        if not callable(self.draw):
            raise InvalidArgumentError(
                f"`Panel.draw` of `{self.id}` must be a function of a PanelContext; got {self.draw!r}."
            )
        object.__setattr__(self, "needs", _several(self.needs))
        _ = self.variables  # which each have a name

    @property
    def alternatives(self) -> tuple[tuple[Any, ...], ...]:
        """The needs as tuples, of each of which one is enough."""
        return tuple(need if isinstance(need, tuple) else (need,) for need in self.needs)

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of all variables that it may draw."""
        return tuple(variable_of(one) for choice in self.alternatives for one in choice)

    def text(self, field: Literal["title", "note", "method"], context: PanelContext) -> str:
        """The title, the note or the method for these results."""
        text = {"title": self.title, "note": self.note, "method": self.method}[field]
        return text if isinstance(text, str) else text(context)

    def missing(self, context: PanelContext) -> str:
        """The first of the needs that is not met, in words; empty: all are."""
        if self.explained and context.explanation is None:
            return "explanation"
        for choice in self.alternatives:
            names = [variable_of(one) for one in choice]
            if not any(context.holds(name) for name in names):
                return " or ".join(f"`{name}`" for name in names)
        return ""


def variable_of(need: Any) -> str:
    """The name of the variable that a name, a measure or a function of the model gives.

    >>> variable_of("test_loss"), variable_of(max)
    ('test_loss', 'max')
    """
    if isinstance(need, str):
        return need
    from interp.analysis.definitions import Measure

    name = need.name if isinstance(need, Measure) else getattr(need, "__name__", "")
    if not name.isidentifier():
        raise InvalidArgumentError(
            f"`Panel.needs` must hold names of variables, measures or functions with a name; got {need!r}."
        )
    return name


def curve_panel(
    id: str,
    variables: Mapping[Any, str] | Sequence[Any],
    *,
    title: str,
    y: str,
    needs: Sequence[Any] = (),
    logarithmic: bool = False,
    bounds: tuple[float, float] | None = None,
    **more: Any,
) -> Panel:
    """A panel of curves over steps, as many of them as there are.

    Arguments:
        id: as in `Panel`.
        variables: names, measures or functions of the model; a mapping says what the legend calls each.
        title: above the figure.
        y: title of the y axis: what is drawn, in which unit.
        needs: as in `Panel`; none: one of the variables is enough.
        logarithmic, bounds: of the y axis.
        more: further fields of `Panel`: `group`, `note`, `method`, ...

    Example:
        >>> curve_panel("gap", {"train_loss": "train", "test_loss": "test"}, title="Loss", y="nats").variables
        ('train_loss', 'test_loss')
    """
    variables = variables if isinstance(variables, Mapping) else _several(variables)
    called = (
        {variable_of(one): word for one, word in variables.items()}
        if isinstance(variables, Mapping)
        else {variable_of(one): variable_of(one).replace("_", " ") for one in variables}
    )

    def draw(context: PanelContext) -> go.Figure:
        return measure_curves(
            context.data, called, title=title, y=y, logarithmic=logarithmic, bounds=bounds, **context.overlay
        )

    return Panel(id, title=title, needs=_several(needs) or (tuple(variables),), draw=draw, **more)


def _several(needs: Any) -> tuple[Any, ...]:
    """Names, measures and functions as a tuple; one alone is the only one."""
    return (needs,) if isinstance(needs, str) or not isinstance(needs, Iterable) else tuple(needs)


def merged(panels: Sequence[Panel], own: Iterable[Panel]) -> tuple[Panel, ...]:
    """Panels with one's own: each in the place of that of its id, or at the end.

    Raises:
        InvalidArgumentError: `own` holds something else than panels, or an id twice.
    """
    if not isinstance(own, Iterable):
        raise InvalidArgumentError(f"`panels` must be a list of panels, such as [panel]; got {own!r}.")
    mine: dict[str, Panel] = {}
    for panel in own:
        if not isinstance(panel, Panel):
            raise InvalidArgumentError(f"`panels` must hold interp.plots.Panel; got {panel!r}.")
        if panel.id in mine:
            raise InvalidArgumentError(f"`panels` must have ids of their own; got `{panel.id}` twice.")
        mine[panel.id] = panel
    return (*(mine.pop(panel.id, panel) for panel in panels), *mine.values())
