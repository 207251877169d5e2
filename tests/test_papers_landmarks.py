"""The landmarks: toy runs go through, planted runs are read rightly, every claim can hold, fail and abstain."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr

import interp
from interp.analysis.algorithms import circle_fit, isolate_components
from interp.milestones.phases import phases
from interp.papers import landmarks
from interp.store import RunWriter
from tests.claims import assert_holds_fails_abstains, assert_variables_of, changed, judged

FIGURES = {figure.label: figure for figure in landmarks.FIGURES}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Runs and results of both figures at the toy preset."""
    root = tmp_path_factory.mktemp("runs")
    found = {}
    for label, figure in FIGURES.items():
        runs = [interp.train(config, root=root, device="cpu", threads=1) for config in figure.runs("toy")]
        found[label] = runs, figure.compute(runs, "toy")
    return found


# --- the toy preset, end to end ---


@pytest.mark.parametrize("label", FIGURES)
def test_toy_runs_are_computed_plotted_and_judged(results, label):
    figure, (_, data) = FIGURES[label], results[label]
    assert data.nbytes < 2e6
    assert {variable.dtype.kind for variable in data.variables.values()} <= set("fiubU")
    assert all(isinstance(value, int | float | str) for value in data.attrs.values())
    drawn = figure.plot(data)
    assert 0 < sum(len(trace.x) for trace in drawn.data) <= 2000
    drawn.to_json()
    for claim in figure.claims:
        assert claim.judge(data).verdict in ("held", "did not hold", "not testable here")


def test_the_published_run_is_the_recipe():
    """So that a run that is there already, as `make test-slow` leaves it, is not trained again."""
    for preset in ("laptop", "paper"):
        assert FIGURES["N1"].runs(preset) == [interp.recipes.get("nanda")]
    for config, name in zip(FIGURES["N2"].runs("paper")[::5], ("pizza", "clock")):
        published = interp.recipes.get(name)
        assert config.replace({"save": published.save, "log": published.log}) == published


def test_steps_are_chosen_among_the_stored_ones():
    steps = np.r_[np.arange(0, 1000, 10), np.arange(1000, 40_001, 100)]
    chosen = landmarks._spread_steps(steps)
    assert set(chosen) <= set(steps)
    assert chosen[[0, -1]].tolist() == [0, 40_000]
    assert 60 < len(chosen) <= 120
    assert np.diff(chosen).max() <= 800


# --- N1 on a planted run ---


@pytest.fixture
def planted(results, tmp_path):
    """The toy run with the accuracies and losses of a network that groks: 150 steps, generalised at 100."""
    (traj,), _ = results["N1"]
    with RunWriter.create(tmp_path / traj.folder.name, traj.run, fsync=False) as writer:
        for step in traj.steps.tolist():
            writer.append(step, {name: value.numpy() for name, value in traj.state(step).items()})
        for step in range(0, 151, 2):
            loss = 20.0 if step < 80 else max(20.0 * 10 ** (-(step - 80) / 5), 1e-6)
            test = {"test_accuracy": float(step >= 100), "test_loss": loss}
            writer.log({"step": step, "train_accuracy": float(step >= 20), "train_loss": 0.1} | test)
    return interp.load(tmp_path / traj.folder.name)


def test_the_ends_of_the_phases_are_those_of_the_logged_curves(planted):
    data = FIGURES["N1"].compute([planted], "toy")
    logged = planted.metrics
    found = phases(
        *(logged[name].values for name in ("step", "train_accuracy", "test_accuracy", "test_loss")),
    )
    assert found.cleanup_end is not None
    for name in ("memorisation_end", "circuit_formation_end", "cleanup_end"):
        assert float(data[name]) == getattr(found, name)
    assert float(data["memorisation_end"]) == 20
    assert float(data["generalised_step"]) == 100
    FIGURES["N1"].plot(data)


def test_measures_are_those_of_the_run(results):
    (traj,), data = results["N1"]
    alone = interp.measure(traj, ["restricted_loss_logit", "gini_neuron_logit", "neuron_frequency_share"])
    for name in ("restricted_loss_logit", "gini_neuron_logit"):
        np.testing.assert_array_equal(data[name], alone[name].sel(step=data["step"]))
    assert float(data["tuned_neurons"]) == float((alone["neuron_frequency_share"][-1] > 0.85).mean())
    power = interp.measure(traj, ["embedding_power"])["embedding_power"][-1]
    np.testing.assert_allclose(data["embedding_norm"] ** 2, power)


def test_a_loss_is_halved_when_it_stays_below_half_of_its_peak():
    loss = [9.0, 4.0, 10.0, 4.0, 6.0, 5.0, 1.0]  # before memorisation nothing counts, and 4 does not last
    data = xr.Dataset({"loss": ("step", loss), "memorisation_end": 10.0}, {"step": range(0, 70, 10)})
    assert landmarks._halved(data, "loss") == 50
    assert math.isnan(landmarks._halved(data.isel(step=slice(0, 5)), "loss"))


# --- N2: circle isolation ---


def test_a_circle_alone_answers_as_the_measure_says(results):
    """The same accuracy as the catalogue's circle isolation, and with the whole embedding the model's own logits."""
    traj = results["N2"][0][0]
    p = traj.task.p
    W_E = traj.state()["embed.W_E"]
    with torch.no_grad():
        own = traj.model()(traj.task.tokens)[:, -1].reshape(p, p, p)
    torch.testing.assert_close(landmarks._pair_logits(traj, W_E), own, rtol=0, atol=0)
    alone = landmarks._pair_logits(traj, isolate_components(W_E, (1, 2)).to(W_E.dtype))
    right = (alone.argmax(-1).flatten() == traj.task.labels).double().mean().item()
    known = interp.measure(traj, ["circle_isolation_accuracy"], steps=[int(traj.steps[-1])])
    assert right == pytest.approx(float(known["circle_isolation_accuracy"][0, 0]))
    assert not torch.equal(alone, own)


def test_a_network_with_one_circle_is_fitted_as_it_is(results, tmp_path):
    """Isolating the only circle changes nothing; where its frequency is no key, nothing is fitted."""
    traj = results["N2"][0][0]
    p, step = traj.task.p, int(traj.steps[-1])
    angle = 2 * torch.pi * 3 * torch.arange(p) / p
    weights = traj.state()
    weights["embed.W_E"] = torch.zeros_like(weights["embed.W_E"])
    weights["embed.W_E"][:, 0], weights["embed.W_E"][:, 1] = angle.cos(), angle.sin()
    with RunWriter.create(tmp_path / traj.folder.name, traj.run, fsync=False) as writer:
        writer.append(step, {name: value.numpy() for name, value in weights.items()})
    alone = interp.load(tmp_path / traj.folder.name)
    fits = landmarks._isolated_fits(alone, [3])
    expected = circle_fit(landmarks._pair_logits(alone), 3)
    assert fits["circles"] == 1
    assert fits["clock_fit"] == pytest.approx(expected.clock.item(), abs=1e-4)
    assert fits["pizza_fit"] == pytest.approx(expected.pizza.item(), abs=1e-4)
    none = landmarks._isolated_fits(alone, [2])
    assert none["circles"] == 0
    assert math.isnan(none["pizza_fit"])


# --- the claims on planted results ---


def planted_results(label):
    """Results under which every claim of the figure holds."""
    if label == "N1":
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
    kinds = ("algorithm", "seed")
    over_steps = {
        "test_accuracy": [[[0.0, 1.0]] * 3] * 2,
        "gradient_symmetricity": [[[0.5, 0.99]] * 3, [[0.5, 0.3]] * 3],
        "distance_irrelevance": [[[0.9, 0.2]] * 3, [[0.9, 0.8]] * 3],
    }
    return xr.Dataset(
        {name: ((*kinds, "step"), values) for name, values in over_steps.items()}
        | {"clock_fit": (kinds, [[0.75] * 3, [0.99] * 3]), "pizza_fit": (kinds, [[0.99] * 3, [0.75] * 3])},
        {"algorithm": ["pizza", "clock"], "step": [0, 3000]},
    )


PIZZA, CLOCK = {"algorithm": 0}, {"algorithm": 1}
BROKEN = {
    ("N1", 0): changed("memorisation_end", 1500),
    ("N1", 1): changed("generalised_step", 5000),
    ("N1", 2): changed("excluded_loss_2d", 0.01, step=slice(1, 4)),
    ("N1", 3): changed("restricted_loss_logit", 4.0, step=slice(1, 5)),  # halved with the very last step
    ("N1", 4): changed("sum_of_squares", [1000.0, 2000.0, 1500.0, 900.0, 850.0, 790.0]),
    ("N1", 5): changed("key", True),
    ("N1", 6): changed("logit_variance_explained", 0.6),
    ("N1", 7): changed("neuron_logit_rank", 40.0),
    ("N1", 8): changed("tuned_neurons", 0.3),
    ("N2", 0): changed("gradient_symmetricity", 0.4, **PIZZA),
    ("N2", 1): changed("gradient_symmetricity", 0.9, **CLOCK),
    ("N2", 2): changed("distance_irrelevance", 0.8, **PIZZA),
    ("N2", 3): changed("distance_irrelevance", 0.2, **CLOCK),
    ("N2", 4): changed("pizza_fit", 0.5, **PIZZA),
    ("N2", 5): changed("clock_fit", 0.5, **CLOCK),
}
NEVER = changed("generalised_step", math.nan)
UNPHASED = changed("circuit_formation_end", math.nan)
UNLEARNED = changed("test_accuracy", 0.5)
UNDECIDED = {
    ("N1", 0): changed("memorisation_end", math.nan),
    ("N1", 1): NEVER,
    ("N1", 2): UNPHASED,
    ("N1", 3): NEVER,
    ("N1", 4): UNPHASED,
    ("N1", 5): NEVER,
    ("N1", 6): NEVER,
    ("N1", 7): changed("key", False),
    ("N1", 8): NEVER,
    **{("N2", i): UNLEARNED for i in range(4)},
    ("N2", 4): changed("pizza_fit", math.nan, **PIZZA),
    ("N2", 5): changed("pizza_fit", math.nan, **CLOCK),
}
CLAIMS = [(label, i) for label, figure in FIGURES.items() for i in range(len(figure.claims))]


def verdict(label, i, change=None):
    return judged(FIGURES[label], i, planted_results(label), change)


@pytest.mark.parametrize(("label", "i"), CLAIMS)
def test_every_claim_can_hold_fail_and_abstain(label, i):
    planted = partial(planted_results, label)
    assert_holds_fails_abstains(FIGURES[label], i, planted, BROKEN[label, i], UNDECIDED[label, i])


@pytest.mark.parametrize("label", FIGURES)
def test_planted_results_have_the_variables_of_real_ones(results, label):
    assert_variables_of(results[label][1], planted_results(label))


def test_the_numbers_behind_the_verdicts():
    assert verdict("N1", 2).measured == pytest.approx(math.log10(4 / 0.01))
    assert verdict("N1", 3).measured == 12_000 - 5000
    falls = (200 / 2000 / 8, 1000 / 2000 / 3)  # shares of the sum of squares at the end of memorisation, per 1,000
    assert verdict("N1", 4).measured == pytest.approx(100 * (falls[1] - falls[0]))
    assert verdict("N1", 7).measured == 1
    assert verdict("N2", 4).measured == pytest.approx(0.24)
    assert verdict("N2", 0, changed("test_accuracy", 0.5, algorithm=0, seed=0)).measured == 0.99


def test_a_network_that_uses_no_frequency_has_no_few_keys():
    assert verdict("N1", 5, changed("key", False)).verdict == "did not hold"
