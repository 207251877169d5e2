"""Nanda's figure: the toy run goes through, a planted run is read rightly, every claim can hold, fail and abstain."""

import math

import numpy as np
import pytest
import xarray as xr

import interp
from interp.milestones.phases import phases
from interp.papers.kit.running import figures
from interp.papers.nanda.fig1 import _chosen_steps, _halved
from interp.store import RunWriter
from tests.claims import assert_holds_fails_abstains, assert_variables_of, changed, judged

FIGURE = figures()["N1"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The run and the results of the toy preset."""
    root = tmp_path_factory.mktemp("runs")
    runs = [interp.train(config, root=root, device="cpu", threads=1) for config in FIGURE.runs("toy")]
    return runs, FIGURE.results(runs, "toy")


# --- the toy preset, end to end ---


def test_toy_runs_are_computed_drawn_and_judged(results):
    _, data = results
    assert data.nbytes < 2e6
    assert {variable.dtype.kind for variable in data.variables.values()} <= set("fiubU")
    assert all(isinstance(value, int | float | str) for value in data.attrs.values())
    drawn = FIGURE.picture(data)
    assert 0 < sum(len(trace.x) for trace in drawn.data) <= 2000
    drawn.to_json()
    for claim in FIGURE.claims:
        assert claim.judge(data).verdict in ("held", "did not hold", "not testable here")


def test_the_published_run_is_the_recipe():
    """So that a run that is there already, as `make test-slow` leaves it, is not trained again."""
    for preset in ("laptop", "paper"):
        assert FIGURE.runs(preset) == [interp.recipes.get("nanda")]


def test_steps_are_chosen_among_the_stored_ones():
    steps = np.r_[np.arange(0, 1000, 10), np.arange(1000, 40_001, 100)]
    chosen = _chosen_steps(steps)
    assert set(chosen) <= set(steps)
    assert chosen[[0, -1]].tolist() == [0, 40_000]
    assert 60 < len(chosen) <= 120
    assert np.diff(chosen).max() <= 800


# --- a planted run ---


@pytest.fixture
def planted(results, tmp_path):
    """The toy run with the accuracies and losses of a network that groks: 150 steps, generalised at 100."""
    (traj,), _ = results
    with RunWriter.create(tmp_path / traj.folder.name, traj.run, fsync=False) as writer:
        for step in traj.steps.tolist():
            writer.append(step, {name: value.numpy() for name, value in traj.state(step).items()})
        for step in range(0, 151, 2):
            loss = 20.0 if step < 80 else max(20.0 * 10 ** (-(step - 80) / 5), 1e-6)
            test = {"test_accuracy": float(step >= 100), "test_loss": loss}
            writer.log({"step": step, "train_accuracy": float(step >= 20), "train_loss": 0.1} | test)
    return interp.load(tmp_path / traj.folder.name)


def test_the_ends_of_the_phases_are_those_of_the_logged_curves(planted):
    data = FIGURE.results([planted], "toy")
    logged = planted.metrics
    found = phases(
        *(logged[name].values for name in ("step", "train_accuracy", "test_accuracy", "test_loss")),
    )
    assert found.cleanup_end is not None
    for name in ("memorisation_end", "circuit_formation_end", "cleanup_end"):
        assert float(data[name]) == getattr(found, name)
    assert float(data["memorisation_end"]) == 20
    assert float(data["generalised_step"]) == 100
    FIGURE.picture(data)


def test_measures_are_those_of_the_run(results):
    (traj,), data = results
    alone = interp.measure(traj, ["restricted_loss_logit", "gini_neuron_logit", "neuron_frequency_share"])
    for name in ("restricted_loss_logit", "gini_neuron_logit"):
        np.testing.assert_array_equal(data[name], alone[name].sel(step=data["step"]))
    assert float(data["tuned_neurons"]) == float((alone["neuron_frequency_share"][-1] > 0.85).mean())
    power = interp.measure(traj, ["embedding_power"])["embedding_power"][-1]
    np.testing.assert_allclose(data["embedding_norm"] ** 2, power)


def test_a_loss_is_halved_when_it_stays_below_half_of_its_peak():
    loss = [9.0, 4.0, 10.0, 4.0, 6.0, 5.0, 1.0]  # before memorisation nothing counts, and 4 does not last
    data = xr.Dataset({"loss": ("step", loss), "memorisation_end": 10.0}, {"step": range(0, 70, 10)})
    assert _halved(data, "loss") == 50
    assert math.isnan(_halved(data.isel(step=slice(0, 5)), "loss"))


# --- the claims on planted results ---


def planted_results():
    """Results under which every claim holds."""
    curves = {  # memorised at 1000, circuit formed at 9000, clean at 12,000
        "excluded_loss_2d": [5.0, 0.01, 0.1, 4.0, 5.0, 5.0],
        "restricted_loss_logit": [5.0, 4.0, 1.0, 0.1, 0.01, 0.01],
        "test_loss": [5.0, 20.0, 20.0, 15.0, 0.01, 0.001],
        "sum_of_squares": [1000.0, 2000.0, 1900.0, 1800.0, 800.0, 790.0],
        "logit_variance_explained": [0.0, 0.0, 0.2, 0.5, 0.9, 0.98],
    }
    numbers = {
        "memorisation_end": 1000.0, "circuit_formation_end": 9000.0, "cleanup_end": 12_000.0,
        "generalised_step": 11_000.0, "neuron_logit_rank": 6.0, "tuned_neurons": 0.87,
    }  # fmt: skip
    return xr.Dataset(
        {name: ("step", values) for name, values in curves.items()}
        | numbers
        | {"key": ("frequency", [True] * 3 + [False] * 53)},
        {"step": [0, 1000, 5000, 9000, 12_000, 20_000]},
    )


BROKEN = {
    0: changed("memorisation_end", 1500),
    1: changed("generalised_step", 5000),
    2: changed("excluded_loss_2d", 0.01, step=slice(1, 4)),
    3: changed("restricted_loss_logit", 4.0, step=slice(1, 5)),  # halved with the very last step
    4: changed("sum_of_squares", [1000.0, 2000.0, 1500.0, 900.0, 850.0, 790.0]),
    5: changed("key", True),
    6: changed("logit_variance_explained", 0.6),
    7: changed("neuron_logit_rank", 40.0),
    8: changed("tuned_neurons", 0.3),
}
NEVER = changed("generalised_step", math.nan)
UNPHASED = changed("circuit_formation_end", math.nan)
UNDECIDED = {
    0: changed("memorisation_end", math.nan),
    1: NEVER,
    2: UNPHASED,
    3: NEVER,
    4: UNPHASED,
    5: NEVER,
    6: NEVER,
    7: changed("key", False),
    8: NEVER,
}


def verdict(i, change=None):
    return judged(FIGURE, i, planted_results(), change)


@pytest.mark.parametrize("i", range(len(FIGURE.claims)))
def test_every_claim_can_hold_fail_and_abstain(i):
    assert_holds_fails_abstains(FIGURE, i, planted_results, BROKEN[i], UNDECIDED[i])


def test_planted_results_have_the_variables_of_real_ones(results):
    assert_variables_of(results[1], planted_results())


def test_the_numbers_behind_the_verdicts():
    assert verdict(2).measured == pytest.approx(math.log10(4 / 0.01))
    assert verdict(3).measured == 12_000 - 5000
    falls = (200 / 2000 / 8, 1000 / 2000 / 3)  # shares of the sum of squares at the end of memorisation, per 1,000
    assert verdict(4).measured == pytest.approx(100 * (falls[1] - falls[0]))
    assert verdict(7).measured == 1


def test_a_network_that_uses_no_frequency_has_no_few_keys():
    assert verdict(5, changed("key", False)).verdict == "did not hold"
