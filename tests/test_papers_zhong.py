"""Zhong's figure: toy runs go through, planted runs are read rightly, every claim can hold, fail and abstain."""

import math

import pytest
import torch
import xarray as xr

import interp
from interp.analysis.algorithms import circle_fit, isolate_components
from interp.papers.kit.running import figures
from interp.papers.zhong.fig2 import _isolated_fits, _pair_logits
from interp.store import RunWriter
from tests.claims import assert_holds_fails_abstains, assert_variables_of, changed, judged

FIGURE = figures()["N2"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Runs and results of the toy preset."""
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


def test_the_published_runs_are_the_recipes():
    for config, name in zip(FIGURE.runs("paper")[::5], ("pizza", "clock")):
        published = interp.recipes.get(name)
        assert config.replace({"save": published.save, "log": published.log}) == published


# --- circle isolation ---


def test_a_circle_alone_answers_as_the_measure_says(results):
    """The same accuracy as the catalogue's circle isolation, and with the whole embedding the model's own logits."""
    traj = results[0][0]
    p = traj.task.p
    W_E = traj.state()["embed.W_E"]
    with torch.no_grad():
        own = traj.model()(traj.task.tokens)[:, -1].reshape(p, p, p)
    torch.testing.assert_close(_pair_logits(traj, W_E), own, rtol=0, atol=0)
    alone = _pair_logits(traj, isolate_components(W_E, (1, 2)).to(W_E.dtype))
    right = (alone.argmax(-1).flatten() == traj.task.labels).double().mean().item()
    known = interp.measure(traj, ["circle_isolation_accuracy"], steps=[int(traj.steps[-1])])
    assert right == pytest.approx(float(known["circle_isolation_accuracy"][0, 0]))
    assert not torch.equal(alone, own)


def test_a_network_with_one_circle_is_fitted_as_it_is(results, tmp_path):
    """Isolating the only circle changes nothing; where its frequency is no key, nothing is fitted."""
    traj = results[0][0]
    p, step = traj.task.p, int(traj.steps[-1])
    angle = 2 * torch.pi * 3 * torch.arange(p) / p
    weights = traj.state()
    weights["embed.W_E"] = torch.zeros_like(weights["embed.W_E"])
    weights["embed.W_E"][:, 0], weights["embed.W_E"][:, 1] = angle.cos(), angle.sin()
    with RunWriter.create(tmp_path / traj.folder.name, traj.run, fsync=False) as writer:
        writer.append(step, {name: value.numpy() for name, value in weights.items()})
    alone = interp.load(tmp_path / traj.folder.name)
    fits = _isolated_fits(alone, [3])
    expected = circle_fit(_pair_logits(alone), 3)
    assert fits["circles"] == 1
    assert fits["clock_fit"] == pytest.approx(expected.clock.item(), abs=1e-4)
    assert fits["pizza_fit"] == pytest.approx(expected.pizza.item(), abs=1e-4)
    none = _isolated_fits(alone, [2])
    assert none["circles"] == 0
    assert math.isnan(none["pizza_fit"])


# --- the claims on planted results ---


def planted_results():
    """Results under which every claim holds."""
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
    0: changed("gradient_symmetricity", 0.4, **PIZZA),
    1: changed("gradient_symmetricity", 0.9, **CLOCK),
    2: changed("distance_irrelevance", 0.8, **PIZZA),
    3: changed("distance_irrelevance", 0.2, **CLOCK),
    4: changed("pizza_fit", 0.5, **PIZZA),
    5: changed("clock_fit", 0.5, **CLOCK),
}
UNDECIDED = {
    **dict.fromkeys(range(4), changed("test_accuracy", 0.5)),
    4: changed("pizza_fit", math.nan, **PIZZA),
    5: changed("pizza_fit", math.nan, **CLOCK),
}


def verdict(i, change=None):
    return judged(FIGURE, i, planted_results(), change)


@pytest.mark.parametrize("i", range(len(FIGURE.claims)))
def test_every_claim_can_hold_fail_and_abstain(i):
    assert_holds_fails_abstains(FIGURE, i, planted_results, BROKEN[i], UNDECIDED[i])


def test_planted_results_have_the_variables_of_real_ones(results):
    assert_variables_of(results[1], planted_results())


def test_the_numbers_behind_the_verdicts():
    assert verdict(4).measured == pytest.approx(0.24)
    assert verdict(0, changed("test_accuracy", 0.5, algorithm=0, seed=0)).measured == 0.99
