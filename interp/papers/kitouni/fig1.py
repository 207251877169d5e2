"""Figure K1: the circle of the embedding, and the step at which it appears."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.analysis.geometry import angular_order, circularity_of_pair, embedding_pca
from interp.config import RunConfig
from interp.milestones import curve
from interp.papers.kit.curves import GENERALISED, sustained
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.papers.kitouni import LEARNED, PAPER
from interp.papers.kitouni.picture import add_commutativity, add_plane, add_seeds, commutative_accuracy
from interp.papers.kitouni.transformer import MODULI, ORDERED, SEEDS, WIDTH, median, number_embeddings, transformer
from interp.plots.style import COLOURS, SERIES, figure, step_axis
from interp.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["FIGURE"]

NEARLY = 0.8
"""Order up to local scrambling: the angles of neighbours on the circle are off by some 40 degrees."""
COINCIDES = 0.25
"""Share of the later of two steps up to which they count as one."""


def runs(preset: Preset) -> list[RunConfig]:
    """The recipe with several seeds."""
    return [transformer(preset, seed, WIDTH[preset], MODULI[preset][0]) for seed in SEEDS[preset]]


def results(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """Order of the numbers in two kinds of axes over training, and the steps from which each is sustained."""
    rows = []
    for traj in trajs:
        W_E, steps = number_embeddings(traj), traj.steps
        last, own = (embedding_pca(W_E, axes=axes, components=2).coordinates for axes in ("last", "each"))
        final = angular_order(last[-1])
        k = int(final.frequency)
        order_last, order_own = (angular_order(plane, frequency=k).resultant.numpy() for plane in (last, own))
        evaluation, accuracy = curve(traj, "test_accuracy")
        rows.append(
            {
                "test_accuracy": ("evaluation", accuracy),
                "order_last_axes": ("step", order_last),
                "order_own_axes": ("step", order_own),
                "generalised_step": ((), sustained(evaluation, accuracy, GENERALISED)),
                "circle_step": ((), sustained(steps, order_own, ORDERED)),
                "early_step": ((), sustained(steps, order_last, NEARLY)),
                "last_step": ((), float(steps[-1])),
                "order": ((), float(final.resultant)),
                "order_correlation": ((), float(final.order_correlation)),
                "circularity": ((), float(circularity_of_pair(last[-1]).value)),
                "frequency": ((), k),
                "stride": ((), int(final.stride)),
                "winding": ((), int(final.winding)),
            }
        )
    first = trajs[0]
    data = xr.concat([xr.Dataset(row, {"step": first.steps, "evaluation": evaluation}) for row in rows], "seed")
    data = data.assign_coords(seed=[traj.config.seed for traj in trajs])
    shown = _frames(first.steps, float(data["generalised_step"][0]))
    coordinates = embedding_pca(number_embeddings(first), components=2).coordinates[shown].float().numpy()
    data["frame_step"] = ("frame", first.steps[shown])
    data["coordinates"] = (("frame", "token", "component"), coordinates)
    return data.assign_attrs(p=first.task.p, train_share=commutative_accuracy(first))


def _frames(steps: np.ndarray, generalised: float) -> np.ndarray:
    """Indices of the four stills among the stored steps: the first, a quarter of the way, generalisation, the last."""
    if math.isnan(generalised):
        return np.linspace(0, len(steps) - 1, 4).round().astype(int)
    return np.array([np.abs(steps - at).argmin() for at in (0, generalised / 4, generalised, steps[-1])])


def picture(data: xr.Dataset) -> "go.Figure":
    """The numbers at four steps; accuracy and order over steps."""
    steps = data["frame_step"].values
    titles = [f"step {int(step):,}" for step in steps]
    fig = figure("The numbers on the first two principal components of the last step", y="").set_subplots(
        rows=2, cols=4, specs=[[{}] * 4, [{"colspan": 4}, None, None, None]], subplot_titles=titles,
        row_heights=[0.45, 0.55], vertical_spacing=0.16, horizontal_spacing=0.02,
    )  # fmt: skip
    reach = 1.1 * float(np.abs(data["coordinates"]).max())
    for column, plane in enumerate(data["coordinates"].values, start=1):
        add_plane(fig, plane, int(data["frequency"][0]), row=1, col=column, reach=reach)
    place = step_axis(np.union1d(data["step"].values, data["evaluation"].values))
    for name, dim, legend, colour in (
        ("test_accuracy", "evaluation", "test accuracy", COLOURS["test"]),
        ("order_own_axes", "step", "order, PC 1–2 of each step", SERIES[9]),
        ("order_last_axes", "step", "order, PC 1–2 of the last step", SERIES[8]),
    ):
        add_seeds(fig, place.place(data[dim].values), data[name].values, legend, colour, row=2, col=1)
    fig.update_annotations(font_size=12)
    add_commutativity(fig, data, row=2, col=1)
    fig.update_xaxes(place.layout(), row=2, col=1)
    fig.update_yaxes(title_text="0 to 1", range=[-0.03, 1.04], row=2, col=1)
    return fig.update_layout(height=560, legend={"y": -0.16, "yanchor": "top"})


def _of_generalised(name: str) -> Callable[[xr.Dataset], float]:
    """Median of a variable over the seeds whose run has generalised."""
    return lambda data: median(data[name].where(data["generalised_step"].notnull()).values)


def _lag_share(data: xr.Dataset) -> float:
    """Steps between circle and generalisation, as a share of the later one.

    A circle that never came is later than the last step, so that a share below a quarter then decides nothing.
    """
    circle, generalised = data["circle_step"].fillna(data["last_step"]).values, data["generalised_step"].values
    share = np.abs(circle - generalised) / np.maximum(circle, generalised)
    undecided = data["circle_step"].isnull().values & (share <= COINCIDES)
    return median(np.where(undecided, math.nan, share))


def _early_share(data: xr.Dataset) -> float:
    """Step of the order in the axes of the end, as a share of the steps to generalisation."""
    early = data["early_step"].fillna(data["last_step"])
    return median((early / data["generalised_step"]).values)


FIGURE = Figure(
    paper=PAPER,
    label="K1",
    title="A transformer that adds mod 59 ends with its numbers in order on a circle",
    runs=runs,
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="in PC 1-2 of the last step the numbers have the angles of one circle (order)",
            measure=_of_generalised("order"), at_least=ORDERED, needs=LEARNED,
        ),
        Claim(
            text="they lie in its order, however unevenly (rank correlation of the angles)",
            measure=_of_generalised("order_correlation"), at_least=0.95, needs=LEARNED,
        ),
        Claim(
            text="it is round (circularity of the pair of components)",
            measure=_of_generalised("circularity"), at_least=0.9, needs=LEARNED,
        ),
        Claim(
            text="generalisation coincides with the circle: the steps at which test accuracy stays above 95 % and "
            "order in PC 1-2 of its own step above 0.9 differ by at most a quarter of the later one",
            measure=_lag_share, at_most=COINCIDES, needs="a run that generalises and goes on for long enough",
        ),
        Claim(
            text="up to local order the circle is there very early: in PC 1-2 of the last step the order stays "
            "above 0.8 before a quarter of the steps to generalisation are done",
            measure=_early_share, at_most=0.25, needs=LEARNED,
        ),
    ),
    notes="The post states no hyper-parameters: those of the recipe kitouni-circle, 50 % of the pairs. Numbers are "
    "medians over the seeds (of split and initialisation) that generalise. The circle is dated in two kinds of "
    "axes, since those of the end are chosen with knowledge of it: 'coincides' is read in each step's own PC 1-2, "
    "'very early' in the last step's; 'very early' and 'coincides' are a quarter here. Runs are looked at every "
    "50 steps, which is the resolution of both steps. These are stills of the animation, which the "
    "report of a run and notebook 02 show.",
    minutes={"toy": 0.1, "laptop": 2, "paper": 7},
)  # fmt: skip
