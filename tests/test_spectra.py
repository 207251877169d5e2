"""Laws, planted answers, and slow obvious versions of the Fourier spectra."""

import math

import jaxtyping
import numpy as np
import pytest
import torch

from interp.analysis import spectra
from interp.analysis.arrays import as_floats
from interp.errors import InvalidArgumentError
from interp.literals import as_count, as_probability
from tests.planted import random

MODULI = [3, 4, 7, 8, 9, 12, 13]


@pytest.fixture
def as_users_run_it(monkeypatch):
    """Annotations are checked under test only; a user meets the messages of the package."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def basis_functions(p, k):
    """cos and sin of frequency k, not normalised, by the definition."""
    t = np.arange(p)
    functions = [np.cos(2 * np.pi * k * t / p)]
    if 2 * k != p:
        functions.append(np.sin(2 * np.pi * k * t / p))
    return functions


def slow_neuron_power(neuron):
    """Shares by explicit least squares on the eight (for p/2: three) functions of each frequency."""
    p = len(neuron)
    centred = (neuron - neuron.mean()).ravel()
    shares = []
    for k in range(1, p // 2 + 1):
        one, waves = np.ones(p), basis_functions(p, k)
        columns = [np.outer(u, v).ravel() for u in [one, *waves] for v in [one, *waves]][1:]
        matrix = np.stack(columns, axis=1)
        fit = matrix @ np.linalg.lstsq(matrix, centred, rcond=None)[0]
        shares.append((fit**2).sum() / (centred**2).sum())
    return shares


@pytest.mark.parametrize("p", MODULI)
def test_basis_is_orthonormal_and_made_of_cosines_and_sines(p):
    basis = spectra.fourier_basis(p)
    torch.testing.assert_close(basis @ basis.T, torch.eye(p, dtype=torch.float64))
    expected = [np.ones(p)] + [f for k in range(1, p // 2 + 1) for f in basis_functions(p, k)]
    np.testing.assert_allclose(basis, [row / np.linalg.norm(row) for row in expected], atol=1e-14)
    assert spectra.fourier_basis(p, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("p", MODULI)
def test_fourier_power_is_that_of_the_basis_and_sums_to_the_norm(p):
    x = random(2, p, 5)
    power = spectra.fourier_power(x, dim=1)
    torch.testing.assert_close(power.sum(1), x.square().sum(1))
    squares = (spectra.fourier_basis(p) @ x).square()
    slow = [squares[:, 0]] + [squares[:, 2 * k - 1 : 2 * k + 1].sum(1) for k in range(1, p // 2 + 1)]
    torch.testing.assert_close(power, torch.stack(slow, dim=1))


@pytest.mark.parametrize("p", MODULI)
def test_embedding_power_laws(p):
    W_E = random(4, p, 6)
    power = spectra.embedding_power(W_E)
    assert power.shape == (4, p // 2)
    constant = p * W_E.mean(1).square().sum(-1)
    torch.testing.assert_close(constant + power.sum(-1), W_E.square().sum((1, 2)))
    rotation = torch.linalg.qr(random(6, 6, seed=1)).Q
    torch.testing.assert_close(spectra.embedding_power(W_E @ rotation), power)
    torch.testing.assert_close(spectra.embedding_power(W_E.roll(2, dims=1)), power)
    torch.testing.assert_close(power, torch.stack([spectra.embedding_power(step) for step in W_E]))
    torch.testing.assert_close(spectra.embedding_power(W_E.numpy()), power)
    torch.testing.assert_close(spectra.embedding_power(W_E.float()), power, rtol=1e-5, atol=1e-5)


def test_embedding_power_is_permuted_when_tokens_are_multiplied():
    W_E = random(13, 6)
    multiplied = W_E[(torch.arange(13) * 2) % 13]  # x(2t): frequency k becomes 2k, up to sign
    image = torch.tensor([min(2 * k % 13, -2 * k % 13) for k in range(1, 7)]) - 1
    torch.testing.assert_close(spectra.embedding_power(multiplied)[image], spectra.embedding_power(W_E))


@pytest.mark.parametrize(("sign", "operation"), [(1, "add"), (-1, "subtract")])
def test_conditional_mean_is_the_mean_over_inputs_with_one_answer(sign, operation):
    p = 8
    x = random(3, p, p, 2)
    slow = torch.zeros(3, p, 2, dtype=torch.float64)
    for a in range(p):
        for b in range(p):
            slow[:, (a + sign * b) % p] += x[:, a, b] / p
    torch.testing.assert_close(spectra.conditional_mean(x, operation), slow)


@pytest.mark.parametrize("p", [3, 4, 7, 8, 9])
def test_neuron_power_is_least_squares_on_eight_functions(p):
    neurons = random(2, p, p, 3) + 5
    shares = spectra.neuron_power(neurons)
    slow = [[slow_neuron_power(step[..., m].numpy()) for m in range(3)] for step in neurons]
    np.testing.assert_allclose(shares, slow, atol=1e-12)
    torch.testing.assert_close(shares, torch.stack([spectra.neuron_power(step) for step in neurons]))


@pytest.mark.parametrize("p", [7, 8])
def test_family_power_finds_each_family_and_adds_up(p):
    a = torch.arange(p, dtype=torch.float64) * (2 * torch.pi / p)
    phase = 0.4
    planted = {
        "addition": torch.cos(2 * (a[:, None] + a) + phase),
        "subtraction": torch.cos(2 * (a[:, None] - a) + phase),
        "first": torch.cos(2 * a[:, None] + phase).expand(p, p),
        "second": torch.cos(2 * a + phase).expand(p, p),
    }
    for name, function in planted.items():
        power = spectra.family_power(function[..., None])
        for family in planted:
            expected = torch.zeros(1, p // 2, dtype=torch.float64)
            expected[0, 1] = p * p / 2 if family == name else 0
            torch.testing.assert_close(getattr(power, family), expected)
    x = random(p, p, 1) + 3
    power = spectra.family_power(x)
    torch.testing.assert_close(power.total, x.square().sum((0, 1)))
    torch.testing.assert_close(power.constant, (p * x.mean((0, 1))).square())
    grid = torch.fft.fft2(x[..., 0], norm="ortho").abs().square()
    k = torch.arange(1, p // 2 + 1)
    both = torch.where(2 * k == p, 1.0, 2.0)
    torch.testing.assert_close(power.addition[0], both * grid[k, k])
    torch.testing.assert_close(power.subtraction[0], torch.where(2 * k == p, 0.0, 2 * grid[k, -k]))
    torch.testing.assert_close(power.first[0], both * grid[k, 0])


def test_planted_clock_neurons_are_found():
    p = 13
    a = torch.arange(p, dtype=torch.float64) * (2 * torch.pi / p)
    planted = [2, 5, 5, 1]
    neurons = torch.stack([torch.relu(torch.cos(k * a)[:, None] + torch.cos(k * a)) for k in planted], dim=-1)
    clean = torch.stack([torch.cos(k * (a[:, None] + a) + k) for k in planted], dim=-1)
    found = spectra.neuron_frequency(spectra.neuron_power(clean))
    assert found.frequency.tolist() == planted
    torch.testing.assert_close(found.share, torch.ones(4, dtype=torch.float64))
    assert spectra.neuron_frequency(spectra.neuron_power(neurons)).frequency.tolist() == planted
    sizes = spectra.neuron_cluster_size(spectra.neuron_power(clean))
    assert sizes.tolist() == [1, 1, 0, 0, 2, 0]
    assert spectra.neuron_cluster_size(spectra.neuron_power(random(p, p, 9))).sum() == 0  # noise is in no cluster


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_neurons_have_no_share_and_a_large_mean_costs_none(dtype):
    p = 7
    a = torch.arange(p, dtype=torch.float64) * (2 * torch.pi / p)
    wave = 1000 + torch.cos(a[:, None] + a)
    neurons = torch.stack([torch.zeros(p, p), torch.full((p, p), 0.1), wave], dim=-1).to(dtype)
    shares = spectra.neuron_power(neurons)
    assert shares[:2].abs().max() == 0
    assert shares[2, 0] > 0.9999
    constants = torch.linspace(0.01, 1, 99, dtype=dtype).expand(p, p, 99)  # the mean of equal numbers is rounded
    assert spectra.neuron_power(constants).abs().max() == 0


def test_gini_limits_and_definition():
    assert spectra.gini(torch.zeros(4)).item() == 0
    x = random(3, 10).abs()
    n = 10
    pairs = (x[:, :, None] - x[:, None, :]).abs().sum((1, 2)) / (2 * n * x.sum(1))  # half the relative mean difference
    torch.testing.assert_close(spectra.gini(x), pairs)
    torch.testing.assert_close(spectra.gini(-3 * x), pairs)
    W = random(13, 20)
    torch.testing.assert_close(spectra.gini_neuron_logit(W.T), spectra.gini_embedding(W))
    assert spectra.gini_embedding(random(13, 4000)) < 0.03  # all frequencies alike


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: spectra.embedding_power(torch.zeros(7)),
            r"`W_E` must have the axes \[\*steps p d_model\]; got 1 axes",
        ),
        (lambda: spectra.embedding_power(torch.zeros(2, 5)), r"`p` must be a whole number >= 3; got 2"),
        (lambda: spectra.embedding_power(torch.full((5, 2), torch.nan)), r"`W_E` must be finite; got 10 .*diverged"),
        (lambda: spectra.embedding_power(torch.zeros(5, 0)), r"`W_E` must not be empty"),
        (
            lambda: spectra.embedding_power(torch.zeros(5, 2, dtype=torch.cfloat)),
            r"`W_E` must be real; got torch.complex",
        ),
        (lambda: spectra.embedding_power(np.array([["a"]], dtype=object)), r"`W_E` must be a tensor or an array"),
        (
            lambda: spectra.neuron_power(torch.zeros(5, 6, 2)),
            r"`activations` .*every `p` of one size; got .*\[5, 6, 2\]",
        ),
        (lambda: spectra.fourier_power(torch.zeros(5), dim=1), r"`dim` must name an axis of `x`, which has 1; got 1"),
        (lambda: spectra.fourier_basis(2), r"`p` must be a whole number >= 3; got 2"),
        (lambda: spectra.conditional_mean(torch.zeros(3, 3, 1), "times"), r'`operation` must be "add" or "subtract"'),
        (
            lambda: spectra.neuron_cluster_size(torch.zeros(2, 3), threshold=85),
            r"`threshold` must lie in \[0, 1\]; got 85",
        ),
        (
            lambda: as_floats("x", torch.zeros(3, 3, 3), "p d_model"),
            r"`x` must have the axes \[p d_model\]; got 3 axes",
        ),
        (lambda: as_count("draws", 1.5), r"`draws` must be a whole number >= 1; got 1.5"),
        (lambda: as_count("draws", True), r"`draws` must be a whole number"),
        (lambda: as_count("draws", "7"), r"`draws` must be a whole number >= 1; got '7'"),
        (lambda: as_count("draws", math.inf), r"`draws` must be a whole number >= 1; got inf"),
        (lambda: as_probability("q", -0.1), r"`q` must lie in \[0, 1\]"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()


def test_read_only_arrays_and_tensors_with_gradients_come_in():
    W_E = random(5, 3).numpy()
    W_E.flags.writeable = False
    assert spectra.embedding_power(W_E).shape == (2,)
    assert not spectra.embedding_power(torch.ones(5, 3, requires_grad=True)).requires_grad


def test_line_means_are_means_in_float64():
    x = 1e4 + torch.randn(2, 7, 7, 3, generator=torch.Generator().manual_seed(0))
    for axis in (0, 1):
        torch.testing.assert_close(spectra.line_mean(x, axis), x.double().mean(-3 if axis == 0 else -2))
