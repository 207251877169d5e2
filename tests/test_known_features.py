"""Known features of networks that add, and scores of dictionaries whose answers are planted."""

import math

import numpy as np
import pytest
import torch

import interp
from interp.benchmarks import Decomposition, decomposition
from interp.errors import InvalidArgumentError, NotAvailableError
from tests.planted import random

SITES = ["embedding", "pre-activations", "neurons"]


@pytest.fixture
def planted():
    """Two planes and an unknown direction in twelve dimensions."""
    t = 2 * math.pi * torch.arange(31, dtype=torch.float64) / 31
    waves = torch.stack([3 * t.cos(), 3 * t.sin(), 2 * (4 * t).cos(), 2 * (4 * t).sin(), (9 * t).cos()], dim=1)
    directions = torch.linalg.qr(random(12, 5)).Q.T
    names = ("cos 1 a", "sin 1 a", "cos 4 a", "sin 4 a")
    return Decomposition("embedding", 0, waves @ directions + 1, directions[:4], names)


def turned(planes, angle):
    """Each pair of directions turned within its plane."""
    c, s = math.cos(angle), math.sin(angle)
    return (torch.tensor([[c, s], [-s, c]], dtype=planes.dtype) @ planes.reshape(-1, 2, planes.shape[1])).flatten(0, 1)


def test_the_true_dictionary_has_everything_and_nothing_false(planted):
    found = planted.score(5 * planted.features.flip(0))
    assert (found.coverage, found.plane_coverage, found.used, found.false) == (1, 1, 4, 0)
    torch.testing.assert_close(found.cosine, torch.ones(4, dtype=torch.float64))
    assert found.of_one_key == 4
    assert planted.planes == ("1 a", "4 a")
    assert planted.keys == (1, 4)
    assert planted.answer == "1 a, 4 a"
    assert planted.score(-planted.features).coverage == 1


def test_a_turned_plane_counts_by_plane_not_by_atom(planted):
    found = planted.score(turned(planted.features, math.pi / 4))
    assert (found.coverage, found.plane_coverage, found.false) == (0, 1, 0)
    torch.testing.assert_close(found.cosine, torch.full((4,), 0.5**0.5, dtype=torch.float64))
    torch.testing.assert_close(found.plane_cosine, torch.ones(2, dtype=torch.float64))


def test_two_atoms_are_needed_for_a_plane(planted):
    line = planted.features[[0, 0, 2, 3]] * torch.tensor([[1.0], [2.0], [1.0], [1.0]])
    found = planted.score(line)
    assert (found.coverage, found.plane_coverage, found.false) == (0.75, 0.5, 0)
    assert found.plane_cosine[0] < 0.1  # a line spans no plane, and the other plane is orthogonal


def test_plane_cosines_are_those_of_the_largest_principal_angle(planted):
    atoms = planted.features + 0.1 * random(4, 12, seed=3)
    found = planted.score(atoms)
    for plane in (0, 1):
        basis = planted.features[2 * plane : 2 * plane + 2].T
        best = max(
            torch.linalg.svdvals(basis.T @ torch.linalg.qr(atoms[[i, j]].T).Q).min() for i in range(4) for j in range(i)
        )
        torch.testing.assert_close(found.plane_cosine[plane], best)


def test_atoms_are_false_unless_known_or_unused(planted):
    mixed = (planted.features[0] + planted.features[2])[None]  # of two planes, and in none
    atoms = torch.cat([planted.features, mixed, random(3, 12, seed=4), torch.zeros(2, 12)])
    found = planted.score(atoms)
    assert (found.used, found.false, found.coverage) == (8, 4, 1)
    assert found.of_one_key == 4
    used = torch.tensor([True] * 5 + [False] * 5)
    assert (planted.score(atoms, used).used, planted.score(atoms, used.numpy()).false) == (5, 1)


def test_controls(planted):
    found = planted.score(planted.random_dictionary(50))
    assert (found.coverage, found.plane_coverage, found.false) == (0, 0, 50)
    assert torch.equal(planted.random_dictionary(50), planted.random_dictionary(50))
    found = planted.score(planted.pca_dictionary(5))  # principal components separate planes of different variance
    assert (found.plane_coverage, found.false) == (1, 1)
    assert abs(planted.explained - (9 + 4) / (9 + 4 + 0.5)) < 1e-9


def test_an_atom_of_two_functions_and_one_key_is_false_but_of_that_key():
    known = Decomposition("neurons", 0, torch.eye(6), torch.eye(6)[:4], ("cos 2 a", "sin 2 a", "cos 2 b", "sin 2 b"))
    found = known.score(torch.tensor([[1.0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0]]))
    assert (found.used, found.false, found.of_one_key) == (2, 2, 1)


@pytest.mark.parametrize("site", SITES)
def test_the_features_of_a_run_that_has_grokked(grokked_run, site):
    known = decomposition(grokked_run, site)
    keys = interp.measure(grokked_run, ["restricted_loss_logit"], steps=[1600]).attrs["key_frequencies"]
    functions = {"embedding": ["a"], "pre-activations": ["a", "b", "a+b"], "neurons": ["a", "b", "a+b"]}[site]
    assert {name.split()[1] for name in known.planes} == set(functions)
    assert {int(name.split()[0]) for name in known.planes} <= set(keys)
    assert len([name for name in known.planes if name.endswith(" a")]) == len(keys)
    assert known.activations.shape[0] == (23 if site == "embedding" else 23**2)
    assert 0.5 < known.explained <= 1
    found = known.score(known.features)
    assert (found.coverage, found.plane_coverage, found.false) == (1, 1, 0)
    assert known.score(known.random_dictionary(64)).coverage == 0


def test_directions_are_those_of_least_squares(grokked_run):
    """The direction of cos(w_k (a + b)) in the neurons, regressed over all pairs."""
    known = decomposition(grokked_run)
    a, b = np.divmod(np.arange(23**2), 23)
    model, task = grokked_run.model(), grokked_run.task
    with torch.no_grad():
        neurons = model.run_with_cache(task.tokens)[1]["blocks.0.mlp.hook_post"][:, -1].double().numpy()
    for name, feature in zip(known.names, known.features):
        wave, k, function = name.split()
        value = {"a": a, "b": b, "a+b": a + b}[function]
        design = {"cos": np.cos, "sin": np.sin}[wave](2 * np.pi * int(k) * value / 23)
        direction = design @ neurons
        np.testing.assert_allclose(feature, direction / np.linalg.norm(direction), atol=1e-4)


@pytest.mark.parametrize("site", SITES)
def test_before_training_the_answer_is_none(grokked_run, site):
    known = decomposition(grokked_run, site, step=0)
    assert known.answer == "none"
    assert known.names == known.planes == ()
    assert known.explained == 0
    found = known.score(known.pca_dictionary(6))
    assert math.isnan(found.coverage)
    assert math.isnan(found.plane_coverage)
    assert (found.used, found.false, len(found.cosine), len(found.plane_cosine)) == (6, 6, 0, 0)


def test_a_memorising_network_has_no_known_feature(tmp_path):
    config = interp.recipes.get("kitouni-circle-small").replace(
        {"optimizer.weight_decay": 0.0, "task.train_fraction": 0.3, "steps": 150, "save.weights": "every(150)"}
    )
    traj = interp.train(config, root=tmp_path, device="cpu")
    data = interp.measure(traj, ["train_accuracy", "test_accuracy"], steps=[150])
    assert float(data.train_accuracy[0]) > 0.99
    assert float(data.test_accuracy[0]) < 0.1
    assert {decomposition(traj, site).answer for site in SITES} == {"none"}


def test_mistakes_are_named(planted, grokked_run, toy_config, tmp_path, as_users_run_it):
    with pytest.raises(InvalidArgumentError, match=r"`dictionary` must have a row of 12 numbers.*Transpose"):
        planted.score(torch.ones(12, 3))
    with pytest.raises(InvalidArgumentError, match="`used` must have a boolean for each of 3 atoms"):
        planted.score(torch.ones(3, 12), torch.tensor([True]))
    with pytest.raises(InvalidArgumentError, match=r"`site` must be one of .*got 'logits'"):
        decomposition(grokked_run, "logits")
    polynomial = toy_config.replace({"task.operation": "2x2+3xy-y", "steps": 1})
    with pytest.raises(NotAvailableError, match="The site 'neurons' is defined for addition and subtraction"):
        decomposition(interp.train(polynomial, root=tmp_path, device="cpu"))
    lstm = toy_config.replace({"model": interp.config.Recurrent(d_model=4, d_hidden=8), "steps": 1})
    with pytest.raises(NotAvailableError, match="The site 'pre-activations' needs a model that tells"):
        decomposition(interp.train(lstm, root=tmp_path, device="cpu"), "pre-activations")
