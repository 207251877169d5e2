"""Coefficients of the logits against explicit cubes, and the criteria for key frequencies."""

import pytest
import torch

from interp.analysis import keys, logits, spectra
from interp.errors import InvalidArgumentError
from tests.planted import random


def residues(p, sign):
    t = torch.arange(p)
    return (t[:, None, None] + sign * t[:, None] - t) % p


def cubes(p, sign):
    """The unit vectors u_k as explicit p x p x p arrays."""
    waves = [torch.cos(2 * torch.pi * k * residues(p, sign).double() / p) for k in range(1, p // 2 + 1)]
    return torch.stack([wave / wave.norm() for wave in waves])


@pytest.mark.parametrize(("operation", "sign"), [("add", 1), ("subtract", -1)])
@pytest.mark.parametrize("p", [3, 7, 8, 9, 13])
def test_coefficients_and_similarities_are_those_of_the_explicit_cubes(p, operation, sign):
    L = random(2, p, p, p) + 3 * random(2, p, p, 1, seed=1)
    u = cubes(p, sign)
    slow = torch.einsum("sabc,kabc->sk", L, u)
    torch.testing.assert_close(logits.logit_coefficient(L, operation), slow)
    norm = L.flatten(1).norm(dim=1, keepdim=True)
    torch.testing.assert_close(logits.logit_similarity_raw(L, operation), slow / norm)
    centred = L - L.mean(-1, keepdim=True)
    similarity = torch.einsum("sabc,kabc->sk", centred, u) / centred.flatten(1).norm(dim=1, keepdim=True)
    torch.testing.assert_close(logits.logit_similarity(L, operation), similarity)
    residual = L - torch.einsum("sk,kabc->sabc", slow, u)
    explained = 1 - (residual.flatten(1).norm(dim=1) / norm.squeeze(1)).square()
    torch.testing.assert_close(logits.logit_variance_explained(L, None, operation, centred=False), explained)
    histogram = [[step[residues(p, sign) == r].sum() for r in range(p)] for step in L]
    torch.testing.assert_close(logits.sum_spectrum(L, operation), torch.tensor(histogram, dtype=torch.float64))


def test_planted_coefficients_come_back():
    p, alpha = 13, torch.tensor([0.0, 4.0, 0.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    unit = (p**3 / 2) ** 0.5
    L = torch.einsum("k,kabc->abc", alpha * unit, cubes(p, 1))
    torch.testing.assert_close(logits.logit_coefficient(L) / unit, alpha)
    torch.testing.assert_close(logits.logit_variance_explained(L).item(), 1.0)
    part = logits.logit_variance_explained(L, keys=torch.tensor([False, True] + 4 * [False]))
    torch.testing.assert_close(part.item(), 16 / 17.25)
    assert logits.logit_coefficient(L, "subtract").abs().max() < 1e-10
    assert keys.key_frequency_logit(logits.logit_similarity(L)).tolist() == [False, True, False, False, True, False]
    torch.testing.assert_close(logits.logit_similarity(L + random(p, p, 1)), logits.logit_similarity(L))


def test_logits_without_content_have_similarity_zero():
    rows = torch.linspace(0.01, 1, 49).reshape(7, 7, 1)  # for each input all answers alike, up to rounding
    for constant in (rows, rows.double()):
        assert logits.logit_similarity(constant.expand(7, 7, 7)).abs().max() == 0
        uneven = constant.expand(7, 7, 7) * (1 + torch.finfo(constant.dtype).eps * random(7, 7, 7).sign())
        assert logits.logit_similarity(uneven.to(constant.dtype)).abs().max() == 0
    assert logits.logit_similarity_raw(torch.zeros(5, 5, 5)).abs().max() == 0


def test_sum_explained_variance():
    p = 7
    table = random(p, 3)
    t = torch.arange(p)
    x = table[(t[:, None] + t) % p]
    torch.testing.assert_close(logits.sum_explained_variance(x).item(), 1.0)
    assert logits.sum_explained_variance(x, "subtract").item() < 1e-12
    assert logits.sum_explained_variance(torch.full((p, p, 2), 0.1)).item() == 0
    noise = random(2, p, p, 3)
    mean = noise.mean((1, 2), keepdim=True)
    residual = noise - spectra.conditional_mean(noise)[:, (t[:, None] + t) % p]
    slow = 1 - residual.square().sum((1, 2, 3)) / (noise - mean).square().sum((1, 2, 3))
    torch.testing.assert_close(logits.sum_explained_variance(noise), slow)


def test_key_frequencies_of_neurons_need_enough_of_them():
    shares = torch.tensor([[0.9, 0.0], [0.0, 0.86], [0.95, 0.0], [0.0, 0.5]])
    assert keys.key_frequency_neuron(shares).tolist() == [True, True]
    assert keys.key_frequency_neuron(shares, minimum=2).tolist() == [True, False]
    assert keys.key_frequency_neuron(shares, threshold=0.9).tolist() == [True, False]


@pytest.mark.parametrize("d_model", [8, 32, 128])
def test_random_embeddings_have_no_key_frequency_and_planted_ones_have_theirs(d_model):
    p, planted = 113, [14, 35, 41, 52]
    noise = random(30, p, d_model)
    assert not keys.key_frequency_embedding(spectra.embedding_power(noise)).any()
    t = torch.arange(p, dtype=torch.float64)[:, None] * (2 * torch.pi / p)
    k = torch.tensor(planted, dtype=torch.float64)
    waves = torch.cat([torch.cos(k * t), torch.sin(k * t)], dim=1) @ random(8, d_model, seed=2)
    found = keys.key_frequency_embedding(spectra.embedding_power(waves + 0.1 * noise))
    assert all((1 + step.nonzero().flatten()).tolist() == planted for step in found)
    rounding = torch.tensor([1e-30, 1e-28, 1e-30, 1e-30, 1.0])
    assert keys.key_frequency_embedding(rounding).tolist() == [False, False, False, False, True]
    exact = keys.key_frequency_embedding(spectra.embedding_power(waves))  # a median of rounding errors
    assert (1 + exact.nonzero().flatten()).tolist() == planted


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: logits.logit_coefficient(torch.zeros(5, 5, 6)), r"`logits` must have the axes .*Leave out the '='"),
        (lambda: logits.logit_coefficient(torch.zeros(5, 5)), r"`logits` must have the axes \[\*steps p p p\]; got 2"),
        (lambda: logits.logit_similarity(torch.full((3, 3, 3), torch.inf)), r"`logits` must be finite; got 27"),
        (lambda: logits.sum_spectrum(torch.zeros(3, 3, 3), "mul"), r"`operation` must be .*got 'mul'"),
        (lambda: keys.key_frequency_embedding(torch.ones(3), multiple=0), r"`multiple` must be positive; got 0"),
        (
            lambda: keys.key_frequency_neuron(torch.ones(3, 2), minimum=0),
            r"`minimum` must be a whole number >= 1; got 0",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
