"""The main run of "Progress measures for grokking" (Nanda et al., 2023), from its recipe to its figures.

Slow: 40,000 steps take about forty minutes on two cores. The run is kept in `checkpoints/`, so that a second call only
measures it.
"""

from pathlib import Path

import numpy as np
import pytest

import interp
from interp.analysis.measures import key_frequencies, key_frequency_votes
from interp.milestones import find

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nanda():
    return interp.train(interp.recipes.get("nanda"), root=Path(__file__).parent.parent / "checkpoints", device="cpu")


@pytest.fixture(scope="module")
def data(nanda):
    return interp.measure(nanda)


def first(data, name, test):
    """The first step from which `test` holds to the end."""
    fails = np.flatnonzero(~test(data[name].values))
    return int(data.step[fails[-1] + 1]) if len(fails) else int(data.step[0])


def test_it_memorises_and_then_generalises(data):
    memorised = first(data, "train_accuracy", lambda a: a >= 0.99)
    generalised = first(data, "test_accuracy", lambda a: a >= 0.99)
    assert memorised < 1500  # the paper's first line stands at 1,400
    assert generalised > 5000  # and its last at 14,000
    assert float(data.test_loss.max()) > 10
    assert float(data.test_loss[-1]) < 1e-5


def test_the_criteria_agree_on_few_key_frequencies(nanda):
    table = key_frequency_votes(nanda)
    keys = key_frequencies(nanda)
    assert 3 <= len(keys) <= 6  # the paper's run has five
    at_keys = table.sel(frequency=keys)
    assert at_keys.by_logit.all()
    assert at_keys.by_neuron.all()
    assert at_keys.by_embedding.all()
    assert (table.votes.drop_sel(frequency=keys) <= 1).all()


def test_the_keys_explain_the_logits(nanda, data):
    """At the end of cleanup 95 % of the variance of the logits and W_L of two directions per key."""
    last = data.isel(step=-1)
    assert float(last.logit_variance_explained) >= 0.95
    assert float(last.neuron_logit_key_share) >= 0.95
    assert int(last.neuron_logit_rank) <= 2 * len(key_frequencies(nanda)) + 2
    assert float((last.neuron_frequency_share > 0.85).mean()) >= 0.7  # the paper counts 433 of 512 neurons


def test_restricted_below_excluded_above(data):
    last = data.isel(step=-1)
    assert float(last.restricted_loss_logit) < float(last.all_loss)
    assert float(last.excluded_loss_2d) > 1e3 * float(last.train_loss)


def test_excluded_loss_rises_while_the_test_loss_is_flat(data):
    """Circuit formation: the network comes to need its keys on the training pairs long before it generalises."""
    memorised = first(data, "train_accuracy", lambda a: a >= 0.99)
    generalised = first(data, "test_accuracy", lambda a: a >= 0.5)
    middle = memorised + (generalised - memorised) // 2
    start, half = (data.sel(step=step, method="nearest") for step in (memorised, middle))
    lowest = float(data.excluded_loss_2d.sel(step=slice(memorised, middle)).min())  # it falls with the train loss first
    assert float(half.test_accuracy) < 0.2
    assert float(half.test_loss) > 0.5 * float(data.test_loss.max())
    assert float(half.excluded_loss_2d) > 10 * lowest
    assert float(half.restricted_loss_logit) < 0.9 * float(start.restricted_loss_logit)


def test_the_phases_are_those_of_the_paper_in_order(nanda):
    ends = list(find(nanda).ends.values())
    assert None not in ends
    assert ends == sorted(ends)


def test_what_generalises_is_a_clock_or_a_pizza_on_these_circles(nanda, data):
    """The logits are cos(w_k(a + b - c)) of the keys; each algorithm's fit is that of its formula, so both are high."""
    last = data.isel(step=-1)
    assert float(last.clock_variance_explained) >= 0.95
    assert float(data.clock_variance_explained[0]) < 0.01
    assert 0 < float(last.gradient_symmetricity) < 1
    assert 0 < float(last.distance_irrelevance) < 1
