"""Figures show what they were given, say what they need, and share one look."""

import math
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from interp import plots
from interp.analysis.catalogue import MEASURES
from interp.analysis.keys import named_key_frequencies
from interp.errors import InvalidArgumentError, UnknownNameError
from interp.milestones import Milestones
from interp.milestones.phases import Phases
from interp.plots.curves import BY_IRREP
from interp.plots.panels import Panel, PanelContext, curve_panel, merged
from interp.plots.structure import Ring, component_pairs, ring
from interp.plots.style import COLOURS, CYCLIC, StepAxis, plain, step_axis, template
from tests.browser.planted import EVENTS, KEYS, PHASES, planted_run

DATA, METRICS = planted_run(p=23, checkpoints=40)
SHARES = xr.DataArray(
    np.full((40, 3), 1 / 3), dims=("step", "irrep"), coords={"irrep": ["trivial", "sign", "standard"]}
)
IRREPS = xr.Dataset({"hidden_share_by_irrep": SHARES}, {"step": DATA["step"].values})
GROWN = ("step", np.linspace(0.0, 1.0, 40))
DESCENT = xr.Dataset(  # logistic regression, which has no embedding
    {"weight_length": GROWN, "bias": ("step", -GROWN[1]), "late_direction_cosine": GROWN, "positive_share": GROWN},
    {"step": DATA["step"].values},
)


def planted(phases):
    return Milestones({}, held_out=True, phases=Phases(*(phases.get(name) for name in PHASES)))


def results_for(panel):
    """Planted results that hold what a built-in panel draws."""
    table = SHARES if set(panel.variables) & set(BY_IRREP) else DESCENT if panel.id in ("length", "direction") else DATA
    return xr.Dataset(dict.fromkeys(BY_IRREP, SHARES), {"step": DATA["step"]}) if table is SHARES else table


CURVES = {
    "loss": lambda **k: plots.loss_curves(DATA, METRICS, **k),
    "accuracy": lambda **k: plots.accuracy_curves(DATA, METRICS, **k),
    "norm": lambda **k: plots.norm_curves(DATA, **k),
    "norm by parameter": lambda **k: plots.norm_curves(DATA, by="parameter", **k),
    "progress": lambda **k: plots.progress_curves(DATA, **k),
    "circularity": lambda **k: plots.circularity_curves(DATA, **k),
    "gini": lambda **k: plots.measure_curves(DATA, ["gini_embedding"], title="Gini", y="Gini coefficient", **k),
    "heat map": lambda **k: plots.spectrum_heatmap(DATA, **k),
    "gradients": lambda **k: plots.parameter_curves(DATA, "gradient_norm_by_parameter", **k),
    "updates": lambda **k: plots.parameter_curves(DATA, "update_norm_by_parameter", **k),
    "angles": lambda **k: plots.angle_curves(DATA, **k),
    "partners": lambda **k: plots.component_circles(DATA, **k),
    "irreps": lambda **k: plots.irrep_curves(IRREPS, "hidden_share_by_irrep", **k),
    **{
        f"panel {panel.id}": lambda panel=panel, phases=None, **k: plots.draw_panel(
            results_for(panel), panel, milestones=planted(phases or {}), **k
        )
        for panel in plots.PANELS
        if panel.kind in ("curve", "heat") and panel.id != "heads"  # bands would hide in its rows of heat maps
    },
}
STILLS = {
    "circle": lambda: plots.embedding_circle(DATA),
    "animation": lambda: plots.circle_animation(DATA, max_frames=10),
    "grid": lambda: plots.component_grid(DATA),
    "bars": lambda: plots.spectrum_bars(DATA),
    "phases": lambda: plots.neuron_phases(DATA),
    "heads": lambda: plots.head_spectra(DATA),
}
EMPTY = xr.Dataset(coords={"step": [0, 1]})
NEEDS = {
    "train_loss": lambda: plots.loss_curves(EMPTY),
    "train_accuracy": lambda: plots.accuracy_curves(EMPTY),
    "weight_norm": lambda: plots.norm_curves(EMPTY),
    "sum_of_squares_by_parameter": lambda: plots.norm_curves(EMPTY, by="parameter"),
    "excluded_loss_2d": lambda: plots.progress_curves(EMPTY),
    "circularity": lambda: plots.circularity_curves(EMPTY),
    "some_measure": lambda: plots.measure_curves(EMPTY, ["some_measure"], title="t", y="y"),
    "embedding_coordinates": lambda: plots.embedding_circle(EMPTY),
    "embedding_power": lambda: plots.spectrum_bars(EMPTY),
    "logit_similarity": lambda: plots.spectrum_heatmap(EMPTY, "logit_similarity"),
    "gradient_norm_by_parameter": lambda: plots.parameter_curves(EMPTY, "gradient_norm_by_parameter"),
    "hidden_share_by_irrep": lambda: plots.irrep_curves(EMPTY, "hidden_share_by_irrep"),
    "subspace_angle": lambda: plots.angle_curves(EMPTY),
    "component_pair_circularity": lambda: plots.component_circles(EMPTY),
    "neuron_phase_first": lambda: plots.neuron_phases(EMPTY),
    "attention_score_power": lambda: plots.head_spectra(EMPTY),
    "softmax_collapse": lambda: plots.draw_panel(EMPTY, "collapse"),
}


# --- one look ---


@pytest.mark.parametrize("name", [*CURVES, *STILLS])
def test_figures_share_the_template_and_name_their_axes(name):
    fig = (CURVES | STILLS)[name]()
    assert isinstance(fig, go.Figure)
    assert fig.layout.template == template()
    assert fig.layout.title.text
    assert name == "grid" or (fig.layout.xaxis.title.text and fig.layout.yaxis.title.text)


def test_train_and_test_have_the_same_colours_everywhere():
    for make in (CURVES["loss"], CURVES["accuracy"]):
        colours = {trace.name: trace.line.color for trace in make().data}
        assert (colours["train"], colours["test"]) == (COLOURS["train"], COLOURS["test"])


def test_the_residue_colours_are_cyclic():
    assert CYCLIC[0] == CYCLIC[-1]
    assert len(set(CYCLIC)) == len(CYCLIC) - 1


@pytest.mark.parametrize("name", CURVES)
def test_curves_mark_events_and_phases(name):
    fig = CURVES[name](events=[*EVENTS, (10**9, "beyond the run")], phases=PHASES)
    lines = [shape for shape in fig.layout.shapes if shape.type == "line"]
    bands = [shape for shape in fig.layout.shapes if shape.type == "rect"]
    assert [line.x0 for line in lines] == [step for step, _ in EVENTS]
    assert [band.name for band in bands] == ["memorisation", "circuit formation", "cleanup"]
    assert all(before.x1 == after.x0 for before, after in pairwise(bands))


def test_phases_stop_at_the_first_that_is_missing():
    fig = CURVES["norm"](phases={"memorisation_end": 180, "circuit_formation_end": None, "cleanup_end": 900})
    assert [shape.name for shape in fig.layout.shapes] == ["memorisation"]


def test_labels_cannot_become_markup():
    label = '<a href="http://x">A & B</a>'
    fig = CURVES["norm"](events=[(130, label)])
    assert fig.layout.shapes[0].label.text == plain(label)
    assert "<" not in plain(label)
    titled = plots.measure_curves(DATA, ["gini_embedding"], title=label, y=label)
    assert "<" not in titled.layout.title.text + titled.layout.yaxis.title.text


# --- the step axis ---


def test_steps_stand_at_their_own_place_and_zero_to_the_left():
    axis = step_axis([0, 10, 100, 1000])
    assert axis.place([0, 10, 1000]).tolist() == [5.0, 10.0, 1000.0]
    ticks = dict(zip(axis.layout()["tickvals"], axis.layout()["ticktext"]))
    assert ticks[5.0] == "0"
    assert ticks[1000.0] == "1k"
    assert "0 set apart" in axis.layout()["title"]["text"]


def test_a_linear_axis_moves_nothing():
    axis = step_axis([0, 10, 1000], "linear")
    assert axis.place([0, 10]).tolist() == [0.0, 10.0]
    assert "log" not in axis.layout()["title"]["text"]


@pytest.mark.parametrize("steps", [[0], [7], [0, 1], [0, 3, 10**6]])
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_every_axis_has_an_increasing_range_that_holds_its_steps(steps, scale):
    axis = step_axis(steps, scale)
    low, high = axis.layout()["range"]
    place = np.log10(axis.place(steps)) if scale == "log" else axis.place(steps)
    assert low < place.min() <= place.max() <= high
    assert (np.diff(axis.edges(steps)) > 0).all()
    assert axis.edges(steps).size == len(steps) + 1


def test_figures_can_share_an_axis():
    axis = step_axis([0, 2, 50_000])
    assert isinstance(step_axis([1, 2], axis), StepAxis)
    assert CURVES["loss"](axis=axis).layout.xaxis.range == CURVES["norm"](axis=axis).layout.xaxis.range


# --- what is drawn ---


def test_titles_name_the_inputs():
    for draw, what in ((plots.loss_curves, "Loss"), (plots.accuracy_curves, "Accuracy")):
        assert draw(DATA).layout.title.text == f"{what} on train and test pairs"
        words = DATA.assign_attrs(inputs="words of 10 bits")
        assert draw(words).layout.title.text == f"{what} on train and test words"


def test_dense_metrics_win_and_their_gaps_are_joined():
    fig = plots.accuracy_curves(DATA, METRICS)
    points = {trace.name: len(trace.x) for trace in fig.data}
    assert points["train"] == METRICS.sizes["step"]
    assert points["test"] == int(METRICS["test_accuracy"].notnull().sum())
    assert len(plots.accuracy_curves(DATA).data[0].x) == DATA.sizes["step"]


@pytest.mark.parametrize("p", [2, 23, 24, 30])
def test_the_ring_of_a_planted_circle_has_its_frequency_and_stride(p):
    """Also where k and p have a common divisor: so many tokens share a place, and the line goes round so often."""
    t = np.arange(p)
    for k in range(1, p // 2 + 1):
        for sign in (1, -1):
            found = ring(np.cos(2 * np.pi * k * t / p), sign * np.sin(2 * np.pi * k * t / p))
            assert found.frequency == k
            assert k * found.stride % p == math.gcd(k, p) % p
            assert sorted(found.order[:-1]) == list(t)
            steps = np.diff(found.colour[found.order]) % p  # the colours run round the ring, from place to place
            assert (steps == math.gcd(k, p)).all()


def test_a_figure_of_a_run_says_what_it_needs(toy_run, as_users_run_it):
    with pytest.raises(InvalidArgumentError, match=r"`data` must be a dataset, as from `interp.*got Trajectory"):
        plots.embedding_circle(toy_run)


def test_a_ring_without_points_joins_neighbours():
    assert ring(np.full(5, np.nan), np.zeros(5)) == Ring(5, 1, 1)
    assert ring([0.0, 1.0], [0.0, 1.0]) == Ring(2, 1, 1)


def test_the_circle_shows_the_coordinates_of_its_step():
    step = int(DATA["step"].values[3])
    fig = plots.embedding_circle(DATA, step, components=(3, 4))
    want = DATA["embedding_coordinates"].sel(step=step, component=[3, 4]).values.astype(np.float32)
    np.testing.assert_array_equal(np.stack([fig.data[1].x, fig.data[1].y], 1), want)


def test_axes_do_not_move_between_steps():
    first, last = (plots.embedding_circle(DATA, step) for step in (0, None))
    assert first.layout.xaxis.range == last.layout.xaxis.range
    assert plots.spectrum_bars(DATA, 0).layout.yaxis.range == plots.spectrum_bars(DATA).layout.yaxis.range


def test_an_integer_join_is_the_stride():
    fig = plots.embedding_circle(DATA, join=2)
    np.testing.assert_array_equal(fig.data[0].x[1], fig.data[1].x[2])


def test_key_frequencies_are_those_of_the_last_step_and_stand_out():
    data, _ = planted_run()
    keys, rule = named_key_frequencies(data)
    assert (keys, rule) == (sorted(KEYS), "key_frequency_logit")
    fig = plots.spectrum_bars(data)
    coloured = [int(k) for k, c in zip(fig.data[0].x, fig.data[0].marker.color) if c == COLOURS["key"]]
    assert coloured == keys
    assert [note.text for note in fig.layout.annotations] == [str(k) for k in keys]
    assert named_key_frequencies(data.drop_vars([v for v in data if "key_frequency" in str(v)])) == ([], None)


def test_the_animation_ends_where_the_run_ends():
    fig = plots.circle_animation(DATA, max_frames=7)
    assert len(fig.frames) == 7
    assert fig.frames[0].name == "0"
    assert fig.frames[-1].name == str(DATA["step"].values[-1])
    np.testing.assert_array_equal(fig.frames[-1].data[1].x, fig.data[1].x)


def test_what_is_not_finite_breaks_nothing():
    holes = DATA.copy(deep=True)
    for name, variable in holes.data_vars.items():
        if variable.dtype.kind == "f":
            holes[name] = variable.where(DATA["step"] < 2000, np.inf)
    for fig in (
        plots.loss_curves(holes),
        plots.embedding_circle(holes),
        plots.spectrum_bars(holes),
        plots.spectrum_heatmap(holes),
        plots.component_grid(holes),
        plots.progress_curves(holes),
    ):
        assert "Infinity" not in fig.to_json()


def test_the_neurons_of_a_frequency_stand_at_their_phases():
    fig = plots.neuron_phases(DATA)
    step = DATA.isel(step=-1)
    told = step["neuron_frequency_share"].values > 0.85
    assert 0 < told.sum() < told.size
    assert sum(len(trace.x) for trace in fig.data) == told.sum()
    for trace in fig.data:
        chosen = told & (step["neuron_frequency"].values == int(trace.name.removeprefix("k = ")))
        np.testing.assert_allclose(trace.x, step["neuron_phase_first"].values[chosen], rtol=1e-6)
        np.testing.assert_allclose(trace.y, step["neuron_phase_second"].values[chosen], rtol=1e-6)
    lines = [(line.x0, line.y0, line.x1, line.y1) for line in fig.layout.shapes]
    assert all((y0 - x0) % (2 * np.pi) in (0, 2 * np.pi) for x0, y0, _, _ in lines)
    assert len(plots.neuron_phases(DATA, 0).data) == 0  # at first no neuron has a frequency


def test_every_head_has_its_rows_in_one_scale():
    fig = plots.head_spectra(DATA, events=EVENTS)
    table = DATA["attention_score_power"]
    assert len(fig.data) == table.sizes["head"]
    for head, trace in enumerate(fig.data):
        np.testing.assert_array_equal(trace.z, table.isel(head=head).values.T.astype(np.float32))
        assert (trace.zmin, trace.zmax) == (0, pytest.approx(float(table.max())))
    domains = [fig.layout[f"yaxis{i or ''}"].domain for i in (0, 2, 3, 4)]
    assert all(low < high for low, high in domains)
    assert all(below[1] < above[0] for above, below in pairwise(domains))
    assert [line.x0 for line in fig.layout.shapes] == [step for step, _ in EVENTS]
    assert all(line.yref == "paper" for line in fig.layout.shapes)


def test_a_circle_names_its_frequency_only_where_it_is_round():
    fig = plots.component_circles(DATA)
    assert [int(note.text) for note in fig.layout.annotations] == DATA["component_frequency"].values[-1].tolist()
    flat = DATA.assign(component_pair_circularity=DATA["component_pair_circularity"] * 0.5)
    assert not plots.component_circles(flat).layout.annotations


def test_tokens_are_called_by_their_coordinate():
    named = DATA.isel(token=slice(22)).assign_coords(token=[pow(5, t, 23) for t in range(22)])
    for trace in (plots.embedding_circle(named).data[1], plots.component_grid(named).data[1]):
        assert list(trace.text) == [str(pow(5, t, 23)) for t in range(22)]


def test_change_points_stand_with_their_intervals():
    fig = plots.loss_curves(DATA, changes={"cleanup_end": (1700, 1500, 1900)})
    bar, line = fig.layout.shapes
    assert (bar.type, bar.x0, bar.x1) == ("rect", 1500, 1900)
    assert (line.type, line.x0, line.x1) == ("line", 1700, 1700)


def test_every_panel_shows_measures():
    known = {name for panel in plots.PANELS for name in panel.variables}
    assert known <= set(MEASURES)


# --- panels ---


def a_panel(id="margin", **fields):
    return Panel(id, **{"needs": ["weight_norm"], "draw": lambda context: plots.norm_curves(context.data)} | fields)


def margin(model):
    return 0.0


def test_a_panel_needs_all_its_variables_or_one_of_several():
    context = PanelContext(DATA, axis=step_axis(DATA["step"].values), metrics=METRICS)
    assert a_panel().missing(context) == ""
    assert a_panel(needs=["weight_norm", ("nothing", "rqi")]).missing(context) == ""
    assert a_panel(needs=["weight_norm", "nothing"]).missing(context) == "`nothing`"
    assert a_panel(needs=[("nothing", margin)]).missing(context) == "`nothing` or `margin`"
    assert a_panel(needs="weight_norm").variables == ("weight_norm",)


def test_ones_own_panels_replace_those_of_their_id_and_follow_the_others():
    mine, loss = a_panel(), a_panel("loss")
    panels = merged(plots.PANELS, [mine, loss])
    assert [panel.id for panel in panels] == [*(panel.id for panel in plots.PANELS), "margin"]
    assert loss in panels
    assert plots.PANELS[3] not in panels


def test_a_panel_of_curves_needs_one_of_them():
    panel = curve_panel("margin", {margin: "least", "rqi": "rqi"}, title="Margin", y="logits", group="Learning")
    assert panel.needs == ((margin, "rqi"),)
    assert panel.variables == ("margin", "rqi")
    assert [trace.name for trace in plots.draw_panel(DATA, panel).data] == ["rqi"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: a_panel("Margin"), "`Panel.id` must be lower-case words .* got 'Margin'"),
        (lambda: a_panel("n-loss"), "`Panel.id` must be .* the first of two letters at least"),
        (lambda: a_panel('x" onload="alert(1)'), "`Panel.id` must be lower-case words"),
        (lambda: a_panel(group="A <b>"), "`Panel.group` of `margin` must be words with single spaces"),
        (lambda: a_panel(kind="film"), "`Panel.kind` of `margin` must be one of curve, heat, still"),
        (lambda: a_panel(draw="norm"), "`Panel.draw` of `margin` must be a function of a PanelContext"),
        (lambda: a_panel(needs=[3]), "`Panel.needs` must hold names of variables, measures or functions .* got 3"),
        (lambda: merged([], [a_panel(), a_panel()]), "`panels` must have ids of their own; got `margin` twice"),
        (lambda: merged([], ["loss"]), "`panels` must hold interp.plots.Panel; got 'loss'"),
    ],
)
def test_panels_that_no_report_could_show_are_refused(call, message, as_users_run_it):
    with pytest.raises(InvalidArgumentError, match=message):
        call()


# --- what they ask for ---


def test_an_unknown_panel_is_named():
    with pytest.raises(UnknownNameError, match=r"There is no panel `colapse`\. Did you mean `collapse`"):
        plots.draw_panel(DATA, "colapse")


@pytest.mark.parametrize("variable", NEEDS)
def test_a_missing_variable_is_named(variable):
    with pytest.raises(InvalidArgumentError, match=f"`data` must hold .*`{variable}`"):
        NEEDS[variable]()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.loss_curves(DATA.rename(step="time")), "must have the dimensions step; got time"),
        (lambda: plots.norm_curves(DATA, by="layer"), '`by` must be "total" or "parameter"'),
        (lambda: plots.norm_curves(DATA, axis="sqrt"), '`axis` must be "log", "linear" or a StepAxis'),
        (lambda: plots.embedding_circle(DATA, 1), "`step` must be one of the steps of `data`; got 1, the nearest is 0"),
        (lambda: plots.embedding_circle(DATA, components=(1, 99)), "`components` must be two of"),
        (lambda: plots.embedding_circle(DATA, join=23), "`join` must be .* an inverse mod 23; got 23"),
        (lambda: plots.embedding_circle(DATA, colour="red"), '`colour` must be "ring" or "token"'),
        (lambda: plots.component_grid(DATA, pairs=[]), "`pairs` must name at least one pair"),
        (lambda: plots.circle_animation(DATA, max_frames=1), "`max_frames` must be at least 2"),
        (lambda: step_axis([]), "`steps` must hold at least one step"),
        (lambda: step_axis([-1, 2]), "none negative"),
        (lambda: component_pairs(EMPTY), "`embedding_coordinates`"),
    ],
)
def test_errors_name_the_argument_and_the_rule(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()


def test_elements_of_a_group_that_is_not_cyclic_are_not_joined():
    xy = np.random.default_rng(0).normal(size=(1, 6, 2))
    data = xr.Dataset(
        {"embedding_coordinates": (("step", "token", "component"), xy)},
        coords={"step": [0], "token": np.arange(6), "component": [1, 2]},
    )
    joined = plots.embedding_circle(data)
    apart = plots.embedding_circle(data.assign_attrs(cyclic=0))
    assert len(joined.data[0].x) == 7
    assert len(apart.data[0].x) == 0
    assert list(apart.data[1].x) == list(joined.data[1].x)
    assert len(set(apart.data[1].marker.color)) == 6
