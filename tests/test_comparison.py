"""Runs side by side: each number is that of the run alone, and nothing foretells that knows what came later."""

import numpy as np
import pytest

import interp
from interp.analysis.curves import sustained_step
from interp.analysis.measures import key_frequency_votes
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.milestones import prediction, sources
from interp.milestones.comparison import EARLY_MEASURES, LAST_STEP_MEASURES, compare, predictors
from interp.milestones.criterion import lag, transition
from interp.milestones.quantiles import bootstrap_over_seeds
from interp.store import RunWriter
from interp.tasks import Examples
from tests.runs import AT, TINY


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds at a rate that generalises (in part), and three at a tenth of it, which do not."""
    root = tmp_path_factory.mktemp("runs")
    base = interp.recipes.get("kitouni-circle").replace(TINY)
    configs = [base.replace({"seed": seed, "optimizer.lr": lr}) for lr in (3e-3, 3e-4) for seed in range(3)]
    return [interp.train(config, root=root, device="cpu", threads=1) for config in configs]


@pytest.fixture(scope="module")
def table(runs):
    return compare(runs, **AT)


def curve(traj, name):
    series = traj.metrics[name].dropna("step")
    return series["step"].values, series.values


# --- side by side ---


def test_each_row_is_that_of_the_run_alone(runs, table):
    assert table["run"].values.tolist() == [traj.folder.name for traj in runs]
    for i, traj in enumerate(runs):
        row = table.isel(run=i)
        steps, test = curve(traj, "test_accuracy")
        for name, (at, values), threshold in (
            ("memorised", curve(traj, "train_accuracy"), 0.99),
            ("generalised", (steps, test), 0.55),
        ):
            first = sustained_step(at, values, threshold)
            assert float(row[f"{name}_step"]) == pytest.approx(np.nan if first is None else first, nan_ok=True)
            before = at[(values < threshold) & (at < (np.inf if first is None else first))][-1]
            assert float(row[f"{name}_after"]) == before
        assert int(row["last_step"]) == 150
        last = interp.measure(traj, ["weight_norm", "circularity"], steps=[150])
        assert float(row["weight_norm"]) == float(last["weight_norm"][0])
        assert float(row["circularity"]) == float(last["circularity"][0])
        named = key_frequency_votes(traj)
        keys = named["frequency"].values[named["votes"].values >= 2]
        assert str(row["key_frequencies"].values) == ", ".join(map(str, keys))
    assert np.isfinite(table["generalised_step"].values).tolist() == [True] * 3 + [False] * 3


def test_delays_and_lags_are_between_the_transitions(runs, table):
    grown = table.isel(run=slice(3))
    np.testing.assert_array_equal(grown["delay"], grown["generalised_step"] - grown["memorised_step"])
    np.testing.assert_array_equal(grown["delay_lower"], grown["generalised_after"] - grown["memorised_step"])
    np.testing.assert_array_equal(grown["delay_upper"], grown["generalised_step"] - grown["memorised_after"])
    loose = compare(runs, circle_threshold=0.6, **AT)
    order = interp.measure(runs[1], ["circle_resultant"])["circle_resultant"]
    at, test = curve(runs[1], "test_accuracy")
    alone = lag(transition(order["step"].values, order.values, 0.6), transition(at, test, 0.55))
    found = [float(loose[f"circle_lag{side}"][1]) for side in ("", "_lower", "_upper")]
    assert found == pytest.approx([np.nan if x is None else x for x in vars(alone).values()], nan_ok=True)


def test_the_fields_that_differ_are_named(runs, table):
    assert table.attrs["differ"] == ["optimizer.lr"]
    assert table["optimizer.lr"].values.tolist() == [3e-3] * 3 + [3e-4] * 3
    assert table["seed"].values.tolist() == [0, 1, 2] * 2
    assert set(table["task"].values) == {"add11"}
    assert compare(runs[:2], **AT).attrs["differ"] == []


def test_other_models_and_tasks_stand_beside(runs, tmp_path):
    change = {"task.p": 7, "model.d_model": 8, "model.d_hidden": (8,), "steps": 3, "log.test": "every(1)"}
    odd = interp.train(interp.recipes.get("simple-grokking").replace(change), root=tmp_path, device="cpu", threads=1)
    data = compare([runs[0], odd], hold=0)
    assert data["model"].values.tolist() == ["transformer", "mlp"]
    assert data["task.p"].values.tolist() == [11, 7]
    assert data["model.n_heads"].values.tolist() == ["2", ""]  # what an MLP has not
    assert data["optimizer.weight_decay"].dtype.kind == "f"


def test_quantiles_take_the_runs_that_have_not_generalised_into_account(table):
    steps = [None if np.isnan(s) else int(s) for s in table["generalised_step"].values]
    ends = [150] * 3 + table["generalised_after"].values[3:].tolist()
    want = bootstrap_over_seeds(steps, ends, generator=np.random.default_rng(0))
    assert table["steps_to_generalise"].values.tolist() == list(want.steps)
    lower, upper = zip(*want.intervals)
    assert table["steps_to_generalise_lower"].values.tolist() == list(lower)
    assert table["steps_to_generalise_upper"].values.tolist() == list(upper)
    assert want.steps[0] == sorted(filter(None, steps))[1]  # the second of six runs is past a quarter
    assert want.steps[2] == np.inf
    assert table.attrs["generalised"] == 3


def test_a_threshold_that_may_yet_be_sustained_is_censored_where_it_was_last_missed(runs):
    tests = [curve(traj, "test_accuracy") for traj in runs[:2]]
    never = compare(runs[:2], hold=1000, **AT)  # more evaluations than there are: nothing can be sustained
    assert np.isnan(never["generalised_step"]).all()
    for i, (steps, values) in enumerate(tests):
        assert float(never["generalised_after"][i]) == steps[values < 0.55][-1] < 150
    assert np.isinf(never["steps_to_generalise"]).all()


def test_a_run_cut_just_after_it_passed_is_not_taken_for_a_later_one(runs, table, tmp_path):
    steps = table["generalised_step"].values[:3]
    first, second = np.argsort(steps)[:2]
    assert steps[first] < steps[second] < steps[first] + 20  # five more evaluations take 25 steps
    end = int(steps[second]) + 5 - int(steps[second]) % 5
    cut = interp.train(runs[first].config.replace({"steps": end}), root=tmp_path, device="cpu", threads=1)
    data = compare([cut, runs[second]], **AT)
    assert float(data["generalised_after"][0]) < steps[second] < float(data["last_step"][0])
    assert np.isnan(data["generalised_step"][0])
    # known to be late only up to `generalised_after`, it is not at risk when the other one generalises
    assert data["steps_to_generalise"].values.tolist() == [steps[second]] * 3


def test_the_draws_are_the_same_at_every_call_or_those_of_the_generator(runs, table):
    assert compare(runs, **AT).identical(table)
    other = compare(runs, generator=np.random.default_rng(1), **AT)
    np.testing.assert_array_equal(other["steps_to_generalise"], table["steps_to_generalise"])


def test_one_name_in_two_folders_is_told_apart(runs, tmp_path):
    copy = interp.train(runs[3].config, root=tmp_path, device="cpu", threads=1)
    names = compare([runs[3], copy], **AT)["run"].values.tolist()
    assert names == [str(runs[3].folder), str(copy.folder)]


# --- what foretold it ---


@pytest.fixture(scope="module")
def early(runs):
    return predictors(runs, until=25, **AT)


def test_features_are_those_of_the_last_checkpoint_not_after(runs, early):
    assert early["run"].values.tolist() == [traj.folder.name for traj in runs]
    for i, traj in enumerate(runs):
        at = interp.measure(traj, ["weight_norm", "rqi"], steps=[20])
        assert float(early["value"].sel(feature="weight_norm")[i]) == float(at["weight_norm"][0])
        signature = prediction.spectral_signature(*curve(traj, "train_loss"), until=25)
        assert float(early["value"].sel(feature="train_loss_fast")[i]) == signature.fast
    assert early["generalised"].values.tolist() == [True] * 3 + [False] * 3


def test_no_feature_knows_the_future(runs, early, tmp_path):
    """The same runs, stopped at the step that is looked at, have the same features."""
    short = runs[0].config.replace({"steps": 30})
    cut = interp.train(short, root=tmp_path, device="cpu", threads=1)
    cuts = predictors([cut, runs[1]], until=25, **AT)
    same = cuts.sel(feature=early["feature"])["value"].isel(run=0)
    np.testing.assert_allclose(same, early["value"].isel(run=0), rtol=1e-6)
    assert not {"trig_loss_ratio", "circle_resultant"} & set(EARLY_MEASURES)  # as measures they depend on the last step


def test_scores_are_the_shares_of_pairs_in_order(early):
    for name in early["feature"].values:
        value = early["value"].sel(feature=name).values
        pairs = [(x > y) + 0.5 * (x == y) for x in value[:3] for y in value[3:]]
        score = early.sel(feature=name)
        assert float(score["auc"]) == pytest.approx(np.mean(pairs))
        assert float(score["auc_lower"]) <= float(score["auc"]) <= float(score["auc_upper"])


def test_lead_times_are_those_of_prediction(runs, early):
    curves = [interp.measure(traj, ["weight_norm"])["weight_norm"] for traj in runs]
    steps = [None if np.isnan(s) else int(s) for s in early["generalised_step"].values]
    want = prediction.lead_times([x["step"].values for x in curves], [x.values for x in curves], steps, above=False)
    got = early.sel(feature="weight_norm")
    assert float(got["detected"]) == want.detected
    assert float(got["false_alarms"]) == want.false_alarms
    leads = [np.nan if x is None else x for x in want.steps]
    np.testing.assert_array_equal(got["lead_time"], leads)
    assert np.isnan(early["lead_time"].sel(feature="train_loss_fast")).all()  # no curve, no warning


def test_runs_that_have_generalised_already_are_left_out(runs, table):
    step = int(np.nanmin(table["generalised_step"].values))
    late = predictors(runs, until=step, **AT)
    gone = table["run"].values[table["generalised_step"].values <= step].tolist()
    assert gone
    assert late.attrs["left_out"] == gone
    assert not set(gone) & set(late["run"].values)


@pytest.mark.parametrize(("which", "said"), [(slice(3), "Each of these 3 runs"), (slice(3, 6), "None of these 3 runs")])
def test_without_a_contrast_the_rest_is_still_there(runs, which, said):
    data = predictors(runs[which], until=25, **AT)
    assert data.attrs["undefined"].startswith(said)
    assert "no AUC" in data.attrs["undefined"]
    assert np.isnan(data["auc"]).all()
    assert np.isfinite(data["value"].sel(feature="weight_norm")).all()


def test_one_run_of_a_kind_has_an_auc_and_no_lead_time(runs):
    data = predictors(runs[2:], until=25, **AT)
    assert data.attrs["undefined"] == "Lead times need two runs of each kind; 1 of these 4 runs generalise later."
    assert np.isfinite(data["auc"].sel(feature="weight_norm"))
    assert np.isnan(data["detected"]).all()


@pytest.mark.parametrize(("every", "measured"), [(2, False), (3, True)])
def test_an_accuracy_is_measured_only_where_checkpoints_are_far_denser_than_the_log(
    toy_config, tmp_path, monkeypatch, every, measured
):
    config = toy_config.replace({"steps": 12, "save.weights": "every(1)", "log.test": f"every({every})"})
    traj = interp.train(config, root=tmp_path, device="cpu")
    calls = []
    real = sources.measure
    monkeypatch.setattr(sources, "measure", lambda *how: calls.append(how) or real(*how))
    steps, values = sources.curve(traj, "test_accuracy")
    assert bool(calls) == measured
    assert steps.tolist() == list(range(0, 13, 1 if measured else every))
    assert len(values) == len(steps)


def test_a_loss_that_was_logged_too_seldom_has_no_signature(runs, tmp_path):
    sparse = runs[0].config.replace({"log.train": "every(40)", "steps": 30})
    traj = interp.train(sparse, root=tmp_path, device="cpu", threads=1)
    data = predictors([traj, runs[1], runs[3]], until=25, **AT)
    assert np.isnan(data["auc"].sel(feature="train_loss_fast"))
    assert np.isfinite(data["auc"].sel(feature="weight_norm"))


def test_runs_without_an_embedding_are_compared_too(tmp_path):
    """Two of the two criteria that they have name their key frequencies."""
    short = {"task.p": 7, "steps": 60, "model.d_hidden": (16,), "save.weights": "every(5)", "log.test": "every(5)"}
    config = interp.recipes.get("hu-mlp").replace(short)
    trajs = [interp.train(config.replace({"seed": seed}), root=tmp_path, device="cpu", threads=1) for seed in range(2)]
    assert not any("embed.W_E" in traj.names for traj in trajs)
    assert np.isfinite(predictors(trajs, until=25).sel(feature="weight_norm")["value"]).all()


# --- what cannot be compared ---


def test_errors_name_the_argument_and_the_rule(runs, tmp_path):
    for ask in (compare, lambda trajs: predictors(trajs, until=25)):
        with pytest.raises(InvalidArgumentError, match=r"`runs` must be at least two runs; got 1\."):
            ask(runs[:1])
        with pytest.raises(InvalidArgumentError, match=f"must be different runs; got {runs[0].folder.name} twice"):
            ask([runs[0], runs[1], runs[0]])
    with pytest.raises(
        InvalidArgumentError, match=r"`until` must be a step that every run has reached, 0..150; got 151"
    ):
        predictors(runs, until=151)
    with pytest.raises(InvalidArgumentError, match=r"which leaves 0 of 3\. Pass an earlier step"):
        predictors(runs[:3], until=150, **AT)
    RunWriter.create(tmp_path / "young", runs[0].run, fsync=False).close()
    with pytest.raises(NotAvailableError, match="young has no checkpoint yet, so there is nothing to compare"):
        compare([runs[0], interp.load(tmp_path / "young")])


def test_thresholds_are_shares(runs):
    for call in (lambda: compare(runs, test_threshold=95.0), lambda: predictors(runs, until=25, test_threshold=95.0)):
        with pytest.raises(InvalidArgumentError, match=r"`test_threshold` must lie in .*Per cent are divided by 100"):
            call()


def test_nothing_is_foretold_of_runs_that_hold_nothing_out(runs, monkeypatch):
    """As imported ones whose split is not known: their test accuracy is that of all pairs."""
    monkeypatch.setattr(Examples, "held_out", False)
    with pytest.raises(InvalidArgumentError, match=f"`runs` must hold pairs out.*; of {runs[0].folder.name} all"):
        predictors(runs, until=25, **AT)


def test_every_measure_that_is_compared_exists():
    from interp.analysis.catalogue import MEASURES

    assert set(LAST_STEP_MEASURES) | set(EARLY_MEASURES) <= set(MEASURES)
    assert all(
        MEASURES[name].relative_to is None and not MEASURES[name].needs("key frequencies") for name in EARLY_MEASURES
    )
