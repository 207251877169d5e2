"""Exploring Grokking: each claim holds of planted results, not of a broken run, and is left open where it must be."""

import functools
import json
import math

import numpy as np
import pytest
import xarray as xr

import interp
from interp.papers.kit.figure import PRESETS
from interp.papers.kit.running import figures_of

FIGURES = figures_of("hu")
FIGURE = {figure.label: figure for figure in FIGURES}
NEVER = math.inf
LAST = 100_000

# --- planted results ---


def curves(runs, *, last=LAST, p=97, seeds=3, level=0.0, inputs=False):
    """Curves of runs that memorise and generalise at given steps, {fraction: (train, test, more)}.

    `more`: the `train` and `test` accuracies reached (1), and the test `loss` as a function of the step. `level` is the
    test accuracy before. With `inputs`, networks with embeddings stand beside, that do the opposite of each claim.
    """
    step = np.arange(0, last + 1, 50)
    shape = (len(runs), seeds, len(step))
    data = {name: np.zeros(shape) for name in ("train_accuracy", "test_accuracy", "test_loss", "train_loss")}
    for i, (memorised, generalised, more) in enumerate(runs.values()):
        data["train_accuracy"][i] = np.where(step >= memorised, more.get("train", 1.0), 0.01)
        data["test_accuracy"][i] = np.where(step >= generalised, more.get("test", 1.0), level)
        data["test_loss"][i] = more.get("loss", np.ones_like)(step.astype(float))
    dims = ("fraction", "seed", "step")
    planted = xr.Dataset({name: (dims, values) for name, values in data.items()})
    planted = planted.assign_coords(fraction=list(runs), seed=range(seeds), step=step)
    if inputs:
        other = planted.where(planted["step"] < 0, 0.0)
        other["train_accuracy"] = xr.where(planted["step"] >= 100, 1.0, other["train_accuracy"])
        other["test_accuracy"] = xr.where(planted["step"] >= 50_000, 0.4, other["test_accuracy"])
        planted = xr.concat([planted, other], dim=xr.DataArray(["numbers", "embeddings"], dims="inputs", name="inputs"))
        planted = planted.transpose("inputs", *dims)
    else:
        planted["test_accuracy_unmirrored"] = planted["test_accuracy"]
        planted["test_accuracy_mirrored"] = planted["test_accuracy"]
    return planted.assign(p=p)


SYMBOLIC = {
    0.05: (200, NEVER, {}),
    0.3: (200, NEVER, {}),
    0.45: (300, 8000, {}),
    0.6: (400, 5000, {}),
    0.75: (500, 700, {}),
    0.9: (500, 600, {}),
}
DIRECT = {
    0.15: (200, NEVER, {"loss": lambda t: np.where(t < 100, 4.6, 20)}),
    0.3: (200, 6400, {"loss": lambda t: np.where(t < 100, 4.6, np.where(t < 6300, 20, 0.01))}),
    0.45: (200, 700, {}),
}
TOGETHER = (500, 600, {"train": 0.97, "test": 0.9, "loss": lambda t: 2 + np.abs(np.log((t + 1) / 300))})
MLP = dict.fromkeys((0.15, 0.3, 0.45), TOGETHER)
LSTM = dict.fromkeys((0.3, 0.45, 0.6), TOGETHER)
LATE = (500, 5000, {"train": 0.97, "test": 0.9})


def optimisers(*, memorised=150.0, adam=(0.1, 0.3, 0.6), adamw=0.9, noise=0.5, p=97):
    """Best accuracies at three fractions; the two full batches have no run at the largest."""
    names = {
        "Adam, 3e-4": adam[0],
        "Adam, 1e-3": adam[1],
        "Adam, 3e-3": adam[2],
        "Adam, update noise, full batch": noise,
        "Adam, weight noise": noise,
        "Adam, batches of 128": 0.2,
        "AdamW": adamw,
        "AdamW, batches of 128": 0.3,
        "AdamW, full batch": adamw,
    }
    best = np.array(list(names.values()))[:, None, None] * np.ones((1, 3, 3))
    best[[3, 8], 2] = np.nan
    best[:3, 2] = np.array(adam)[:, None] / 2 + 0.1  # 75 %: what `_best_of_plain` looks at
    dims = ("optimiser", "fraction", "seed")
    steps = np.where(np.isnan(best), np.nan, memorised)
    steps[5, 1] = memorised + 50
    last = np.where(np.isnan(best), np.nan, 1800.0)
    data = {"best_test_accuracy": best, "best_test_accuracy_unmirrored": best}
    data |= {"memorised_step": steps, "last_step": last}
    coords = {"optimiser": list(names), "fraction": [0.3, 0.45, 0.75], "seed": [0, 1, 2]}
    return xr.Dataset({name: (dims, values) for name, values in data.items()}, coords).assign(p=p)


def steps_until(direct, symbolic, *, last=25_000.0, p=(97, 97)):
    """Steps to generalise by encoding and fraction; NaN where a run has not."""
    fractions = [0.15, 0.3, 0.35, 0.45, 0.6, 0.75]
    found = np.array([[direct, symbolic]]).transpose(1, 2, 0) * np.ones((1, 1, 3))
    dims = ("encoding", "fraction", "seed")
    return xr.Dataset(
        {"generalised_step": (dims, found), "last_step": (dims, np.full_like(found, last)), "p": ("encoding", list(p))},
        {"encoding": ["direct", "symbolic"], "fraction": fractions, "seed": [0, 1, 2]},
    )


NONE = [math.nan] * 6
DIVERGING = [math.nan, 6400, 2500, 700, 450, 350]
RISING = [math.nan, *DIVERGING[:0:-1]]
FEW = [*DIVERGING[:4], *NONE[:2]]
POWER_LAW = [math.nan, *(500 * (0.75 / np.array([0.3, 0.35, 0.45, 0.6, 0.75])) ** 2)]
HARDER = [math.nan, math.nan, math.nan, 6000, 3000, 1000]


@functools.cache
def planted_for_claims():
    """Label and number of a claim; results of which it holds, those of a broken run, those that leave it open."""
    rows = [
        ("H1", 0, curves(SYMBOLIC), curves(SYMBOLIC | {0.05: (200, 3000, {})}), curves(SYMBOLIC, last=1500)),
        ("H1", 1, curves(SYMBOLIC), curves(SYMBOLIC | {0.45: (300, 400, {})}), curves(SYMBOLIC, last=7000)),
        ("H1", 2, curves(SYMBOLIC), curves(SYMBOLIC | {0.75: (300, 20_000, {})}), curves(SYMBOLIC, last=600)),
        (
            "H1",
            3,
            curves(SYMBOLIC),
            curves(SYMBOLIC | {0.45: (300, 1000, {}), 0.6: (300, 700, {})}),
            curves(SYMBOLIC, p=47),
        ),
        ("H1", 4, curves(SYMBOLIC), curves(SYMBOLIC | {0.75: (500, 3000, {})}), curves(SYMBOLIC, last=600)),
        ("H1", 5, curves(SYMBOLIC), curves(SYMBOLIC | {0.9: (500, NEVER, {})}), curves(SYMBOLIC, last=600)),
        ("H2", 0, curves(DIRECT), curves(DIRECT | {0.15: (200, 9000, {})}), curves(DIRECT, last=1500)),
        ("H2", 1, curves(DIRECT), curves(DIRECT | {0.3: (1500, 6400, {})}), curves(DIRECT, last=300)),
        ("H2", 2, curves(DIRECT), curves(DIRECT | {0.3: (200, 1000, {})}), curves(DIRECT, last=5000)),
        ("H2", 3, curves(DIRECT), curves(DIRECT | {0.3: (200, NEVER, {})}), curves(DIRECT, p=59)),
        ("H2", 4, curves(DIRECT), curves(DIRECT | {0.45: (200, 250, {})}), curves(DIRECT, last=500)),
        ("H2", 5, curves(DIRECT), curves(DIRECT | {0.45: (200, 9000, {})}), curves(DIRECT, last=5000)),
        (
            "H3",
            0,
            curves(MLP, inputs=True),
            curves(MLP | {0.15: LATE}, inputs=True),
            curves(MLP, last=300, inputs=True),
        ),
        ("H3", 1, curves(MLP, inputs=True), curves(MLP | {0.3: LATE}, inputs=True), curves(MLP, last=300, inputs=True)),
        (
            "H3",
            2,
            curves(MLP, inputs=True),
            curves(MLP | {0.45: (500, 600, {})}, inputs=True),
            curves(MLP, last=19_000, inputs=True),
        ),
        (
            "H4",
            0,
            curves(LSTM, inputs=True),
            curves(LSTM | {0.6: LATE}, inputs=True),
            curves(LSTM, last=300, inputs=True),
        ),
        (
            "H4",
            1,
            curves(LSTM, inputs=True),
            curves(LSTM | {0.3: (500, 600, {"test": 0.3})}, inputs=True),
            curves(LSTM | {0.3: (500, 600, {"test": 0.3})}, last=50_000, inputs=True),
        ),
        ("H5", 0, optimisers(), optimisers(memorised=1000), optimisers(p=59)),
        ("H5", 1, optimisers(), optimisers(adamw=0.5), optimisers(adam=(0, 0, 0), adamw=0, noise=0)),
        ("H5", 2, optimisers(), optimisers(adam=(0.1, 0.1, 0.1)), optimisers(p=11)),
        ("H5", 3, optimisers(), optimisers(adam=(0.3, 0.35, 0.4)), optimisers(adam=(0, 0, 0), adamw=0, noise=0)),
        (
            "H6",
            0,
            curves(DIRECT),
            curves(DIRECT | {0.15: (200, NEVER, {"loss": lambda t: 4.6 * np.exp(-t / 5000)})}),
            curves(DIRECT, last=1500),
        ),
        (
            "H6",
            1,
            curves(DIRECT),
            curves(DIRECT | {0.3: (200, 6400, {"loss": lambda t: np.where(t < 2000, 20, 0.01)})}),
            curves(DIRECT, last=5000),
        ),
        ("H7", 0, steps_until(DIVERGING, NONE), steps_until(RISING, NONE), steps_until(NONE, NONE)),
        ("H7", 1, steps_until(DIVERGING, NONE), steps_until(POWER_LAW, NONE), steps_until(FEW, NONE)),
        (
            "H7",
            2,
            steps_until(DIVERGING, HARDER),
            steps_until(DIVERGING, DIVERGING),
            steps_until(DIVERGING, HARDER, p=(97, 47)),
        ),
        (
            "H8",
            0,
            curves(MLP, inputs=True),
            curves(dict.fromkeys(MLP, (500, 600, {"loss": lambda t: 1 + np.exp(-t / 5000)})), inputs=True),
            curves(dict.fromkeys(MLP, (500, 600, {"loss": lambda t: 1 + np.exp(-t / 5000)})), last=5000, inputs=True),
        ),
    ]
    return {(label, number): results for label, number, *results in rows}


CLAIMS = [(figure.label, number) for figure in FIGURES for number in range(len(figure.claims))]


def test_every_claim_is_planted():
    assert list(planted_for_claims()) == CLAIMS


@pytest.mark.parametrize(("label", "number"), CLAIMS)
def test_a_claim_holds_fails_and_stays_open(label, number):
    holds, broken, open_ = planted_for_claims()[label, number]
    claim = FIGURE[label].claims[number]
    assert claim.judge(holds).verdict == "held"
    assert claim.judge(broken).verdict == "did not hold"
    assert claim.judge(open_).verdict == "not testable here"
    assert claim.judge(open_).reason == f"needs {claim.needs}"


def measured(label, number, data):
    return FIGURE[label].claims[number].judge(data).measured


def test_numbers_are_those_planted():
    assert measured("H1", 1, curves(SYMBOLIC)) == 5000 / 400  # the less delayed of 45 and 60 %
    assert measured("H1", 2, curves(SYMBOLIC)) == (8000 / 300) / (700 / 500)
    assert measured("H1", 3, curves(SYMBOLIC)) == 6500
    assert measured("H1", 5, curves(SYMBOLIC | {0.9: (500, NEVER, {})})) == LAST / 500  # so late already
    assert measured("H2", 5, curves(DIRECT)) == 700 / 6400
    assert measured("H3", 0, curves(MLP, inputs=True)) == 600 / 500
    assert measured("H5", 1, optimisers()) == pytest.approx(0.3)
    assert measured("H5", 0, optimisers()) == 200
    assert measured("H7", 1, steps_until(POWER_LAW, NONE)) == pytest.approx(0)
    assert measured("H7", 2, steps_until(DIVERGING, HARDER)) == 2


def test_what_is_known_of_some_runs_may_decide():
    """Of the largest of three, one is known that is too large; of a median over seeds, two."""
    data = curves(MLP, last=3000, inputs=True)
    assert FIGURE["H3"].claims[2].judge(data).verdict == "not testable here"
    data["train_accuracy"].loc[{"fraction": 0.15}] = 1.0
    verdict = FIGURE["H3"].claims[2].judge(data)
    assert (verdict.verdict, verdict.measured) == ("did not hold", 1.0)
    data["train_accuracy"].loc[{"fraction": 0.15, "seed": slice(1, 2)}] = 0.5
    assert FIGURE["H3"].claims[2].judge(data).verdict == "not testable here"


def test_a_run_that_ended_between_others_leaves_the_law_open():
    gap = [value if i != 2 else math.nan for i, value in enumerate(DIVERGING)]
    for claim in FIGURE["H7"].claims[:2]:
        assert claim.judge(steps_until(gap, NONE)).verdict == "not testable here"


def test_a_single_lucky_evaluation_is_no_generalisation():
    lucky = curves(DIRECT)
    lucky["test_accuracy"].loc[{"fraction": 0.3, "step": 1000}] = 1.0
    assert measured("H2", 2, lucky) == 6400


def test_the_median_over_seeds_is_judged():
    one = curves(DIRECT)
    one["test_accuracy"].loc[{"fraction": 0.3, "seed": 0}] = 0.0
    assert measured("H2", 3, one) == 6400
    one["test_accuracy"].loc[{"fraction": 0.3, "seed": 1}] = 0.0
    assert measured("H2", 3, one) == NEVER


def test_a_spike_is_no_gain():
    """Adam's spikes throw the accuracy down for an evaluation or two."""
    steady = curves(dict.fromkeys(LSTM, (500, 450, {"test": 0.9})), inputs=True)
    assert measured("H4", 0, steady) == 0
    steady["test_accuracy"].loc[{"step": 500}] = 0.0
    assert measured("H4", 0, steady) == 0


# --- at toy scale, from runs to verdicts ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All figures' runs at the toy preset, each trained once, and the results."""
    root = tmp_path_factory.mktemp("runs")
    runs = {config.run_id: config for figure in FIGURES for config in figure.runs("toy")}
    known = {name: interp.train(config, root=root, device="cpu", threads=1) for name, config in runs.items()}
    return {figure.label: [known[config.run_id] for config in figure.runs("toy")] for figure in FIGURES}


@pytest.fixture(scope="module")
def results(trained):
    return {label: FIGURE[label].results(trajs, "toy") for label, trajs in trained.items()}


@pytest.mark.parametrize("label", FIGURE)
def test_toy_runs_become_results_a_picture_and_verdicts(results, label, tmp_path):
    data = results[label]
    assert data.nbytes < 2e6
    assert {str(array.dtype.kind) for array in data.variables.values()} <= set("fiU")
    again = xr.Dataset.from_dict(json.loads(json.dumps(data.to_dict())))
    picture = FIGURE[label].picture(data)
    assert json.loads(picture.to_json())["data"]
    assert picture.layout.yaxis.title.text
    assert {axis.title.text for axis in picture.select_xaxes()} - {"", None}
    for claim in FIGURE[label].claims:
        verdict = claim.judge(data)
        assert verdict.verdict in ("held", "did not hold", "not testable here")
        np.testing.assert_equal(claim.judge(again).measured, verdict.measured)


def test_curves_are_those_logged(trained, results):
    for label in ("H1", "H2", "H4"):
        data = results[label]
        for traj in trained[label]:
            own = data.sel(fraction=traj.config.task.train_fraction, seed=0)
            if label == "H4":
                own = own.sel(inputs="numbers" if traj.config.model.embedding == "scalars" else "embeddings")
            log = traj.metrics
            tests = log["test_accuracy"].dropna("step")
            np.testing.assert_array_equal(own["test_accuracy"].dropna("step"), tests)
            known = own["train_loss"].dropna("step")
            np.testing.assert_array_equal(known, log["train_loss"].sel(step=known["step"]))
            again = interp.measure(traj, ["train_loss"], steps=[0])["train_loss"]  # of all pairs, batches or not
            assert float(known[0]) == pytest.approx(float(again[0]), rel=1e-4)


def test_mirrors_are_scored_apart(trained, results):
    traj = trained["H2"][1]
    own = results["H2"].sel(fraction=0.3, seed=0)
    apart = interp.measure(traj, ["test_accuracy_mirrored", "test_accuracy_unmirrored"])
    for name in apart.data_vars:
        np.testing.assert_array_equal(own[name].dropna("step"), apart[name])
    assert set(apart["step"].values) <= set(own["test_accuracy"].dropna("step")["step"].values)


def test_the_best_is_that_within_the_budget(trained, results):
    trajs = {traj.config.run_id: traj for traj in trained["H2"]}
    full = next(traj for traj in trained["H5"] if traj.config.run_id in trajs)
    assert full.config.steps == 30  # the budget is 20
    own = results["H5"].sel(optimiser="AdamW, full batch", fraction=full.config.task.train_fraction, seed=0)
    series = full.metrics["test_accuracy"].dropna("step")
    assert float(own["best_test_accuracy"]) == float(series.sel(step=slice(0, 20)).max())
    assert float(own["last_step"]) == 20


def test_optimisers_are_what_they_are_called(trained, results):
    named = {name: traj.config for name, traj in zip(results["H5"]["optimiser"].values, trained["H5"], strict=True)}
    assert [config.optimizer.weight_decay for config in named.values()] == [0] * 6 + [1] * 3
    assert [config.optimizer.batch_size for config in named.values()] == [512] * 3 + [None, 512, 128, 512, 128, None]
    assert [config.optimizer.lr for config in named.values()] == [3e-4, 1e-3, 3e-3] + 6 * [1e-3]
    assert named["Adam, update noise, full batch"].interventions.update_noise == 1
    assert named["Adam, weight noise"].interventions.weight_noise == 0.01


# --- what is run ---


def test_figures_share_their_runs():
    for preset in PRESETS:
        ids = {figure.label: [config.run_id for config in figure.runs(preset)] for figure in FIGURES}
        assert all(len(set(names)) == len(names) for names in ids.values())
        assert ids["H2"] == ids["H6"]
        assert ids["H3"] == ids["H8"]
        assert set(ids["H1"]) < set(ids["H7"])
        assert set(ids["H2"]) < set(ids["H7"])
        assert set(ids["H5"]) & set(ids["H7"])
        assert all(preset in figure.minutes for figure in FIGURES)


def test_the_paper_preset_is_the_published_size():
    steps = {"H1": {100_000}, "H2": {25_000}, "H3": {20_000}, "H4": {100_000}}
    for figure in FIGURES:
        configs = figure.runs("paper")
        assert {config.task.p for config in configs} == {97}
        assert {config.steps for config in configs} == steps.get(figure.label, {config.steps for config in configs})
        assert {config.seed for config in configs} == {config.task.seed for config in configs} == {0, 1, 2}
    assert {config.task.closing for config in FIGURE["H1"].runs("paper")} == {True}
    batches = {config.task.train_fraction: config.optimizer.batch_size for config in FIGURE["H1"].runs("paper")}
    assert batches[0.05] == 235  # half of the 470 pairs where that is less than 512
    assert batches[0.9] == 512


def test_pictures_stay_small():
    runs = dict.fromkeys(SYMBOLIC, (300, 5000, {}))
    for label in ("H1", "H2", "H6"):
        picture = FIGURE[label].picture(curves(runs))
        assert sum(len(trace.x) for trace in picture.data) <= 2000
    picture = FIGURE["H3"].picture(curves(MLP, inputs=True))
    assert sum(len(trace.x) for trace in picture.data) <= 2000
    train = next(trace for trace in picture.data if trace.name == "train")
    assert train.x[-1] == LAST  # thinned, not cut
