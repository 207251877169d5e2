"""Measures of a user's own, on built-in runs and on runs of a user's own tasks and models."""

import numpy as np
import pytest
import torch

import interp
from interp.analysis.catalogue import MEASURES
from interp.analysis.context import RunContext
from interp.analysis.measures import key_frequencies
from interp.config import Parity
from interp.errors import NotAvailableError
from tests.guests.gradient_measure import GRADIENT_ALIGNMENT
from tests.guests.largest_key import LARGEST_KEY
from tests.guests.test_guests import MODELS, PAIRS, TASKS, config_of

OPT_IN = [item for item in MEASURES.values() if item.opt_in and not item.name.startswith("local_learning")]
TRAINED = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


def test_the_largest_key_is_that_of_the_spectrum(grokked_run):
    data = interp.measure(grokked_run, [LARGEST_KEY, "embedding_power"], cache=False)
    assert data.largest_key.attrs["long_name"] == largest_key_meaning()
    W_E = np.asarray(grokked_run.param("embed.W_E"), float)[:, :23]
    power = np.square(np.abs(np.fft.rfft(W_E, axis=1)[:, 1:])).sum(-1)
    keys = np.array(key_frequencies(grokked_run)) - 1
    np.testing.assert_allclose(data.largest_key, power[:, keys].max(1) / power.sum(1), rtol=1e-5)


def largest_key_meaning():
    return "Share of the embedding's variance at its strongest key frequency, 0 to 1."


def test_gradients_of_training_and_held_out_inputs(toy_run):
    data = interp.measure(toy_run, ["test_loss", GRADIENT_ALIGNMENT], cache=False)
    model, task = toy_run.model(16), toy_run.task
    gradients = []
    for mask in (task.train, task.test):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(task.tokens[mask])[:, -1].double(), task.labels[mask]).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]).double().numpy())
    one, other = gradients
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    np.testing.assert_allclose(data.gradient_alignment.sel(step=16), cosine, rtol=1e-4)


@pytest.mark.parametrize(("task", "model"), PAIRS)
def test_guests_are_measured(task, model, tmp_path):
    """Everything that applies is computed, what does not apply is refused in one line, and losses are the logged."""
    traj = interp.train(config_of(TASKS[task], MODELS[model]), root=tmp_path, device="cpu")
    data = interp.measure(traj)
    assert set(TRAINED) <= set(data)
    for name in TRAINED:
        logged = traj.metrics[name].dropna("step")
        common = np.intersect1d(logged.step, data.step)
        np.testing.assert_allclose(data[name].sel(step=common), logged.sel(step=common), rtol=1e-5, err_msg=name)
    run = RunContext(traj)
    assert ("embedding_power" in data) == run.operands_are_residues
    assert ("neuron_frequency" in data) == (run.has_neurons and run.has_pairs and run.operands_are_residues)
    assert "effective_rank_embedding" in data
    assert ("gini_unembedding" in data) == (run.operands_are_residues and run.answers_are_operands)
    for item in [*MEASURES.values(), LARGEST_KEY, GRADIENT_ALIGNMENT]:
        unmet = run.unmet(item.requires)
        if item.name in data or item.name.startswith("local_learning"):
            continue
        own = item if item.name not in MEASURES else item.name
        if unmet is None:
            assert np.isfinite(interp.measure(traj, [own], steps=[24])[item.name]).all(), item.name
        elif unmet.name != "key frequencies":
            with pytest.raises(NotAvailableError, match=f"`{item.name}` .*; this run is {traj.config.task.slug} with"):
                interp.measure(traj, [own])


def test_the_gradient_measure_needs_no_pairs(toy_config, tmp_path):
    traj = interp.train(toy_config.replace({"task": Parity(n=5, k=2, samples=30), "steps": 2}), root=tmp_path)
    assert (abs(interp.measure(traj, [GRADIENT_ALIGNMENT]).gradient_alignment) <= 1).all()
    with pytest.raises(NotAvailableError, match="`largest_key` needs inputs that are pairs of operands; this run is"):
        interp.measure(traj, [LARGEST_KEY])
