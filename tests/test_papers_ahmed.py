"""The essay's figures: what is trained, what is computed of it, and claims that planted results decide either way."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

import interp
from interp.papers.ahmed.results import scaling
from interp.papers.kit.running import figures_of
from interp.training.api import train_many
from interp.training.ensemble import shape_of

FIGURES = figures_of("ahmed")
FIGURE = {figure.label: figure for figure in FIGURES}
LAST, NEVER = 22_000, 10**9


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices are tiny here: threads would only wait for each other."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


# --- planted results --------------------------------------------------------------------------------------------------


def run(panel="a", fitted=1000, generalised=NEVER, rise=500, plateau=0.01, end=1.0, norm=(250, 50), last=LAST, **what):
    """Curves that step from the plateau to 60 % at `generalised` - `rise` and to `end` at `generalised`.

    `norm`: values at equal distances over the run; `mirrored`: what commutativity adds to the held-out accuracy.
    """
    step = np.arange(0, last + 1, 250)
    stored = step % 500 == 0
    mirrored = what.pop("mirrored", 0.0)
    unmirrored = np.where(step < generalised - rise, plateau, np.where(step < generalised, 0.6, end))
    unmirrored = np.where(step >= what.pop("lost", NEVER), 0.8, unmirrored)
    curves = {
        "train_loss": np.full(len(step), 0.1),
        "test_loss": np.full(len(step), 9.0),
        "train_accuracy": np.where(step < fitted, 0.3, 1.0),
        "test_accuracy": np.maximum(unmirrored, mirrored),
        "test_accuracy_unmirrored": np.where(stored, unmirrored, np.nan),
        "weight_norm": np.where(stored, np.interp(step, np.linspace(0, last, len(norm)), norm), np.nan),
    }
    known = {
        "panel": panel, "phase": "", "cell": "lstm", "seed": 0, "train_fraction": 0.7, "init_scale": 5.0,
        "dropout": 0.0, "weight_decay": 0.1, "event_step": math.nan, "decay_after": math.nan,
    }  # fmt: skip
    return xr.Dataset({name: ("step", curve) for name, curve in curves.items()}, {"step": step}, attrs=known | what)


def planted(*runs):
    curves = xr.concat(runs, dim="run", join="outer", data_vars="all", combine_attrs="drop")
    known = {name: ("run", np.array([run.attrs[name] for run in runs])) for name in runs[0].attrs}
    return curves.assign_coords(known).assign_attrs(preset="laptop", scaling="")


def fractions(*generalised, fitted=(1000, 1000, 1000), **what):
    """Runs of 70, 50 and 30 %."""
    names = ("70 %", "50 %", "30 %")
    cells = zip(names, (0.7, 0.5, 0.3), generalised, fitted, strict=True)
    return [run(name, f, g, train_fraction=alpha, **what) for name, alpha, g, f in cells]


CONTROL = run("control", generalised=10_000)
ZERO = {"weight_decay": 0.0}
DROPPED = {"weight_decay": 0.0, "dropout": 0.5}


def removed(step, phase, panel="removed", **what):
    return run(panel, phase=phase, event_step=float(step), decay_after=0.0, **what)


def begun(decay, **what):
    return run(f"{decay}", weight_decay=0.0, event_step=3000.0, decay_after=decay, **what)


def scaled(cell, unscaled, times_five):
    return [run("unscaled", cell=cell, init_scale=1.0, **unscaled), run("times 5", cell=cell, **times_five)]


BY_FRACTION = (
    (0, [fractions(3000, 6000, 20_000)], [fractions(3000, 6000, NEVER), fractions(1250, 6000, 20_000)],
     [fractions(3000, 6000, 20_000, fitted=(1000, NEVER, 1000))]),
    (1, [fractions(3000, 6000, 20_000), fractions(3000, 6000, NEVER)],
     [fractions(3000, 6000, 20_000, rise=4000), fractions(1250, 6000, 20_000)],
     [fractions(NEVER, NEVER, NEVER)]),
    (2, [fractions(3000, 6000, 20_000), fractions(3000, 6000, NEVER)],
     [fractions(20_000, 6000, 3000), fractions(NEVER, 6000, 20_000)],
     [fractions(NEVER, NEVER, NEVER), fractions(3000, 6000, 20_000, fitted=(1000, NEVER, 1000)),
      fractions(3000, 21_000, NEVER, last=23_000)]),
)  # fmt: skip


def without(zero):
    return (
        # commutativity alone is no generalisation
        [
            [CONTROL, run("zero", **zero)],
            [CONTROL, run("zero", mirrored=0.7, **zero)],
            [  # what needs another control does not count
                *(CONTROL, run("zero", **zero), run("control 50 %", train_fraction=0.5)),
                run("zero 50 %", generalised=15_000, train_fraction=0.5, **zero),
            ],
        ],
        [[CONTROL, run("zero", generalised=15_000, **zero)]],
        [
            [run("control"), run("zero", **zero)],  # the control has not generalised
            [CONTROL, run("zero", fitted=NEVER, **zero)],
            [CONTROL, run("zero", last=9000, **zero)],  # shorter than what the control needed
        ],
    )


def dropout(zero):
    return (
        [[run("a", generalised=5000, **zero), run("b", **zero)]],
        [[run("a", **zero), run("b", generalised=1500, **zero)]],
        [[run("a", fitted=NEVER, **zero)]],
    )


def scale(cell):
    late, soon = {"generalised": 10_000}, {"generalised": 2000, "rise": 1000}
    never = {"generalised": NEVER}
    return (
        ([scaled(cell, soon, late)], [scaled(cell, soon, never), scaled(cell, soon, {"generalised": 1250})],
         [scaled(cell, soon, {"fitted": NEVER})]),
        ([scaled(cell, soon, late), scaled(cell, soon, never)], [scaled(cell, late, soon), scaled(cell, never, late)],
         [scaled(cell, never, never)]),
        ([scaled(cell, soon, late), scaled(cell, soon, {"generalised": 10_250, "rise": 0})],
         [scaled(cell, late, soon)], [scaled(cell, soon, never)]),
    )  # fmt: skip


CASES = {  # label -> claim by claim: results that hold, that do not, that cannot decide
    "A2": [case[1:] for case in BY_FRACTION],
    "A3": [case[1:] for case in BY_FRACTION],
    "A4": [
        without(ZERO),
        ([[CONTROL, run("zero", norm=(250, 300), **ZERO)]], [[CONTROL, run("zero", norm=(250, 40), **ZERO)]], []),
    ],
    "A5": [
        (
            [[CONTROL, removed(500, "early"), removed(11_000, "between", "b", generalised=12_000)],
             [CONTROL, removed(500, "early"), removed(5000, "early", "b")]],
            [[CONTROL, removed(500, "early", generalised=20_000)]],
            [[run("control"), removed(500, "early")], [CONTROL, removed(500, "early", fitted=NEVER)]],
        ),
        (
            [[CONTROL, removed(5500, "early", norm=(250, 90, 95, 100, 105))]],
            [[CONTROL, removed(5500, "early", norm=(250, 90, 95, 100, 90))],
             [CONTROL, removed(5500, "early", norm=(250, 90, 70, 80, 95))]],
            [[CONTROL, removed(LAST, "early")]],
        ),
    ],
    "A6": [
        (
            [[removed(15_500, "late", generalised=12_000)]],
            [[removed(15_500, "late", generalised=12_000, lost=17_000)]],
            [[removed(15_500, "late")], [removed(15_500, "late", generalised=17_000)]],
        )
    ],
    "A7": [
        (
            [[begun(0.1, generalised=17_000), begun(0.2, generalised=10_000)]],
            [[begun(0.1), begun(0.2, generalised=10_000)]],
            [[begun(0.1, generalised=2500), begun(0.2, generalised=10_000)],
             [begun(0.1, fitted=NEVER), begun(0.2, generalised=10_000)]],
        ),
        (
            [[begun(0.1, generalised=17_000), begun(0.2, generalised=10_000)],
             [begun(0.1), begun(0.2, generalised=10_000)]],
            [[begun(0.1, generalised=10_000), begun(0.2, generalised=10_000)],
             [begun(0.1, generalised=10_000), begun(0.2)]],
            [[begun(0.1), begun(0.2)], [begun(0.1, generalised=2500), begun(0.2, generalised=10_000)]],
        ),
    ],
    "A71": [without(ZERO), without(DROPPED)],
    "A72": [dropout({"dropout": 0.5})],
    "A73": [without(ZERO), without(DROPPED)],
    "A74": [dropout({"dropout": 0.5})],
    "A78": [*scale("rnn"), *scale("lstm")],
}  # fmt: skip
PLANTED = [
    pytest.param(label, i, runs, verdict, id=f"{label}-{i}-{verdict}-{n}")
    for label, claims in CASES.items()
    for i, groups in enumerate(claims)
    for verdict, group in zip(("held", "did not hold", "not testable here"), groups, strict=True)
    for n, runs in enumerate(group)
]


@pytest.mark.parametrize(("label", "i", "runs", "verdict"), PLANTED)
def test_planted_results_decide_a_claim(label, i, runs, verdict):
    found = FIGURE[label].claims[i].judge(planted(*runs))
    assert found.verdict == verdict, found
    if verdict == "not testable here":
        assert found.reason == f"needs {FIGURE[label].claims[i].needs}"


def test_every_claim_is_planted_both_ways():
    assert {label: len(figure.claims) for label, figure in FIGURE.items()} == {k: len(v) for k, v in CASES.items()}
    assert all(holds and fails for claims in CASES.values() for holds, fails, _ in claims)


def test_numbers_are_medians_over_seeds():
    quick, slow, never = ([run(generalised=g, seed=i)] for i, g in enumerate((3000, 5000, NEVER)))
    delay = FIGURE["A2"].claims[0].measure
    assert delay(planted(*quick)) == 3
    assert delay(planted(*quick, *slow)) == 4
    assert delay(planted(*quick, *slow, *never)) == 5
    assert delay(planted(*quick, *never)) == 0  # half of the seeds is not enough


def test_a_level_that_is_reached_but_not_held_is_none():
    lucky = run("zero", **ZERO)
    lucky["test_accuracy_unmirrored"][40] = 1.0
    assert FIGURE["A4"].claims[0].measure(planted(CONTROL, lucky)) == pytest.approx(0.01)


# --- what is trained --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["toy", "laptop", "paper"])
def test_runs_are_distinct_and_few_of_each_shape(preset):
    for figure in FIGURES:
        configs = figure.runs(preset)
        assert len({config.run_id for config in configs}) == len(configs), figure.label
    assert len({shape_of(config) for config in FIGURE["A5"].runs(preset)}) == 1
    assert len({shape_of(config) for config in FIGURE["A2"].runs(preset)}) == (3 if preset == "paper" else 1)


def test_figures_share_runs():
    every = [config.run_id for figure in FIGURES for config in figure.runs("laptop")]
    of = {label: {config.run_id for config in figure.runs("laptop")} for label, figure in FIGURE.items()}
    assert len(of["A2"] & of["A73"]) == 3
    assert len(of["A3"] & of["A71"]) == 2
    assert len(of["A3"] & of["A78"]) == 1
    assert len(of["A4"] & of["A5"]) == 1
    assert len(set(every)) == len(every) - 7


def test_the_laptops_share_is_less_than_a_million_steps():
    configs = {config.run_id: config for figure in FIGURES for config in figure.runs("laptop")}.values()
    assert sum(config.steps for config in configs) < 1_000_000
    assert all(len(config.save.weights.steps(config.steps)) <= 101 for config in configs)


def test_the_papers_sizes_are_the_essays():
    lstm = {config.task.train_fraction: config for config in FIGURE["A2"].runs("paper")}
    assert {fraction: config.steps for fraction, config in lstm.items()} == {
        0.3: 6000 * 119, 0.5: 6000 * 199, 0.7: 6000 * 279,
    }  # fmt: skip
    for config in lstm.values():
        optimizer, net = config.optimizer, config.model
        assert (config.task.p, optimizer.weight_decay, optimizer.batch_size) == (113, 0.01, 32)
        assert (net.d_model, net.d_hidden, net.init_scale, net.dropout) == (128, 128, 5.0, 0.0)
    early = [config.events for config in FIGURE["A5"].runs("paper")][1:5]
    assert early == [(f"epoch {n}: optimizer.weight_decay=0.0",) for n in (60, 70, 97, 200)]
    late = [config.events for config in FIGURE["A6"].runs("paper")]
    assert late == [(f"epoch {n}: optimizer.weight_decay=0.0",) for n in (3495, 3690, 3850, 4270)]
    assert {config.task.train_fraction for config in FIGURE["A4"].runs("paper")} == {0.5}


# --- from the runs to the picture -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy_results(tmp_path_factory):
    """Every figure's toy results; runs of equal shape are trained together, and each once."""
    root = tmp_path_factory.mktemp("ahmed")
    configs = {config.run_id: config for figure in FIGURES for config in figure.runs("toy")}
    shapes = {}
    for config in configs.values():
        shapes.setdefault(shape_of(config), []).append(config)
    trajs = {
        traj.config.run_id: traj
        for members in shapes.values()
        for start in range(0, len(members), 8)
        for traj in train_many(members[start : start + 8], root=root, device="cpu")
    }
    return {
        figure.label: (chosen := [trajs[config.run_id] for config in figure.runs("toy")], figure.results(chosen, "toy"))
        for figure in FIGURES
    }


@pytest.mark.parametrize("label", FIGURE)
def test_a_toy_figure_is_computed_drawn_and_judged(label, toy_results):
    _, data = toy_results[label]
    assert set(data.variables) == set(planted(run(), run()).variables)  # what is planted is what is computed
    assert data.attrs["scaling"] == "weight decay 0.1 stands for the essay's 0.01, time divided by 10"
    assert all(array.dtype.kind in "fiU" for array in data.variables.values())
    picture = FIGURE[label].picture(data)
    panels = {panel for panel in data["panel"].values.tolist() if panel}
    assert len(picture.data) == 6 * int((data["panel"].values != "").sum())
    assert panels <= {note.text for note in picture.layout.annotations}
    for claim in FIGURE[label].claims:
        assert claim.judge(data).verdict in ("held", "did not hold", "not testable here")


def test_curves_are_those_of_the_runs(toy_results):
    trajs, data = toy_results["A5"]
    measured = interp.measure(trajs[1], ["weight_norm", "test_accuracy_unmirrored"])
    tested = trajs[1].metrics.dropna("step", subset=["test_loss"])
    for name, found in (*measured.items(), *((name, tested[name]) for name in ("train_accuracy", "test_loss"))):
        np.testing.assert_allclose(data[name].isel(run=1).dropna("step"), found, rtol=1e-6)
    assert data["phase"].values.tolist() == ["", "early", "between"]
    assert data["event_step"].values.tolist()[1:] == [5, 10]
    assert np.isnan(data["event_step"].values[0])
    assert data["decay_after"].values.tolist()[1:] == [0, 0]


def test_runs_of_other_lengths_end_where_they_end():
    control, short = run("b", **ZERO), run("a", last=9000, **ZERO)
    data = planted(control, short)
    picture = FIGURE["A4"].picture(data)
    ends = {trace.x[-1] for trace in picture.data if trace.name == "train"}
    assert ends == {LAST, 9000}


def test_the_picture_has_a_row_per_setting_and_lines_at_the_events():
    data = planted(CONTROL, removed(500, "early"), removed(500, "early", seed=1), run("", **ZERO))
    picture = FIGURE["A5"].picture(data)
    assert len(picture.data) == 18  # six curves of three runs; the one without a panel is not drawn
    lines = [(shape.xref, shape.x0) for shape in picture.layout.shapes]
    assert lines == [("x4", 500), ("x5", 500), ("x6", 500)]
    assert [trace.name for trace in picture.data if trace.showlegend] == [
        "train", "held out", "(b, a) held out too", "weight norm",
    ]  # fmt: skip
    assert [picture.layout[f"xaxis{n}"].title.text for n in ("", 4)] == ["", "step (log scale; 0 set apart)"]


def test_a_picture_has_about_two_thousand_points():
    data = planted(*(run(f"{i}", generalised=10_000, last=100_000) for i in range(12)))
    picture = FIGURE["A2"].picture(data)
    assert 1000 <= sum(len(trace.x) for trace in picture.data) <= 2400
    assert {trace.x[-1] for trace in picture.data} == {100_000}
    assert len({trace.x[0] for trace in picture.data}) == 1


def test_what_the_weight_decay_stands_for():
    of_both = scaling(FIGURE["A78"].runs("laptop"))
    assert of_both == (
        "weight decay 0.1 (LSTM) stands for the essay's 0.01, time divided by 10; "
        "weight decay 0.3 (RNN) stands for the essay's 0.01, time divided by 30"
    )
    assert scaling(FIGURE["A7"].runs("paper")) == ""
