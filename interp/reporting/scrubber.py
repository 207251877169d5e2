"""The JupyterLab scrubber: one slider through the checkpoints of a run.

It moves the tokens in the plane of two components, the spectrum of the embedding, and a cursor in the curves of
accuracy and loss. The figures are those of `plots`, alive; nothing is computed here. It needs a running kernel, for
each step is sent when it is asked for: `interp.report` writes the same as a file that needs none.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from interp import plots
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.plots.catalogue import named_panels
from interp.plots.panels import Panel, PanelContext
from interp.plots.structure import component_pairs
from interp.plots.style import COLOURS, StepAxis, plain, step_axis
from interp.reporting.cards import gather

if TYPE_CHECKING:
    import ipywidgets
    import plotly.graph_objects as go
    import xarray as xr

    from interp.trajectory import Trajectory

__all__ = ["scrubber"]

FILM_FRAMES = 150
"""Steps that a played film shows at most, so that it lasts about fifteen seconds."""
FRAME_MILLISECONDS = 100
CURVES = ("accuracy", "loss")
"""Built-in panels beside the circle."""


def scrubber(
    traj: "Trajectory", data: "xr.Dataset | None" = None, *, panels: Sequence[Panel | str] = ()
) -> "ipywidgets.VBox":
    """Slider through the checkpoints of a run, for JupyterLab: circle, spectrum, and a cursor in the curves.

    Arguments:
        traj: a run, complete or still growing; a growing one is shown as far as it has come.
        data: measures that are already at hand (None: all that apply, from `interp.measure`). `embedding_coordinates`
            is needed; without `embedding_power` there is no spectrum, without a loss or an accuracy no such curve.
        panels: further panels, of `interp.plots.PANELS` or of your own, below the others. Measures and functions of the
            model among their needs are measured. Curves get a cursor; a panel of kind "still" or "map" follows the
            slider. Names stand for panels that take long, such as "attention", or "explain" for all of them: see
            `interp.report`.

    Returns:
        A box; its first row holds the play button, the slider over checkpoints, the step and the choice of components.

    Raises:
        NotAvailableError: ipywidgets or anywidget is not installed.
        InvalidArgumentError: `data` holds no `embedding_coordinates`, or no pair of components, or not what a panel of
            `panels` needs.
    """
    for package in ("ipywidgets", "anywidget"):
        if find_spec(package) is None:
            raise NotAvailableError(
                f"The scrubber needs {package}, which is not installed: pip install 'grokking-interp[notebooks]'."
            )
    import ipywidgets
    import plotly.graph_objects as go

    if data is None:
        from interp.analysis.measures import measure

        data = measure(traj)
    metrics = traj.metrics
    pairs = component_pairs(data)
    if not pairs:
        raise InvalidArgumentError("`data.embedding_coordinates` must hold at least two components; got fewer.")
    steps = np.asarray(data["step"].values)
    logged = np.asarray(metrics["step"].values)
    axis = step_axis(np.concatenate([steps, logged[(logged >= steps[0]) & (logged <= steps[-1])]]))
    metrics = metrics.sel(step=slice(axis.first, axis.last))
    last = int(steps[-1])

    circle = go.FigureWidget(_sized(plots.embedding_circle(data, last, components=pairs[0]), 470, 500))
    below_circle = named_panels(panels)
    found = gather(traj, data.assign_attrs(inputs=str(traj.task.inputs)), below_circle)
    data, failures = found.data, found.failures
    context = PanelContext(
        data, axis=axis, metrics=metrics, events=traj.events, sparse=found.sparse, explanation=found.explanation
    )
    built_in = [panel for panel in plots.PANELS if panel.id in CURVES and not panel.missing(context)]
    drawn = []
    for panel, width, height in [*((one, 540, 250) for one in built_in), *((one, 1010, 300) for one in below_circle)]:
        if panel.id in failures or panel.missing(context):
            reason = failures.get(panel.id) or f"there is no {panel.missing(context)}."
            raise InvalidArgumentError(f"`data` must hold what the panel `{panel.id}` needs: {reason}")
        fig = _sized(panel.draw(context), width, height)
        if panel.kind in ("curve", "heat"):
            fig = _with_cursor(fig, axis, last)
        if panel.title and panel.kind != "map":  # whose own title says the step
            fig.update_layout(title_text=plain(panel.text("title", context)))
        drawn.append(go.FigureWidget(fig))
    curves, below = drawn[: len(built_in)], drawn[len(built_in) :]
    stills = [(panel, widget) for panel, widget in zip(below_circle, below) if panel.kind in ("still", "map")]
    spectrum = None
    if "embedding_power" in data:
        spectrum = go.FigureWidget(_sized(plots.spectrum_bars(data, last), 1010, 260))

    end = len(steps) - 1
    slider = ipywidgets.IntSlider(
        value=end, min=0, max=end, readout=False, layout={"width": "470px"}, tooltip="checkpoint"
    )
    play = ipywidgets.Play(
        value=end, min=0, max=end, step=max(1, -(-end // FILM_FRAMES)), interval=FRAME_MILLISECONDS, show_repeat=False
    )
    ipywidgets.jslink((play, "value"), (slider, "value"))
    label = ipywidgets.Label(_written(last), layout={"width": "110px"})
    chosen = ipywidgets.Dropdown(
        options=[(f"PC {a}–{b}", (a, b)) for a, b in pairs], value=pairs[0], layout={"width": "110px"}
    )

    def show(_: object) -> None:
        step = int(steps[slider.value])
        label.value = _written(step)
        _take_over(circle, _sized(plots.embedding_circle(data, step, components=chosen.value), 470, 500))
        if spectrum is not None:
            _take_over(spectrum, _sized(plots.spectrum_bars(data, step), 1010, 260))
        for widget in drawn:
            x = float(axis.place(step))
            widget.update_shapes({"x0": x, "x1": x}, selector={"name": "cursor"})
        for panel, widget in stills:
            _take_over(widget, _sized(panel.draw(replace(context, step=step)), 1010, 300))

    slider.observe(show, names="value")
    chosen.observe(show, names="value")
    rows = [ipywidgets.HBox([play, slider, label, chosen]), ipywidgets.HBox([circle, ipywidgets.VBox(curves)])]
    return ipywidgets.VBox([*rows, *([spectrum] if spectrum is not None else []), *below])


def _sized(fig: "go.Figure", width: int, height: int) -> "go.Figure":
    """Figure with a fixed size: in a row of widgets it cannot ask how much room there is."""
    title = {"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 12}}
    return fig.update_layout(width=width, height=height, margin={"l": 56, "r": 16, "t": 64, "b": 44}, title=title)


def _with_cursor(fig: "go.Figure", axis: StepAxis, step: int) -> "go.Figure":
    """A vertical line at the step that is shown."""
    x = float(axis.place(step))
    return fig.add_shape(
        type="line", xref="x", yref="y domain", x0=x, x1=x, y0=0, y1=1, name="cursor",
        line={"color": COLOURS["event"], "width": 1.5},
    )  # fmt: skip


def _take_over(live: Any, fresh: "go.Figure") -> None:
    """Give a figure that is shown the contents of another of the same kind; differences alone are sent."""
    with live.batch_update():
        if len(live.data) != len(fresh.data):
            live.data = []
            live.add_traces(fresh.data)
        for old, new in zip(live.data, fresh.data):
            old.update(new.to_plotly_json())
        for part in ("title", "xaxis", "yaxis"):
            live.layout[part].update(fresh.layout[part].to_plotly_json())


def _written(step: int) -> str:
    return f"step {step:,}"
