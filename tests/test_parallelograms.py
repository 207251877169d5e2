"""Lines, circles, and a slow obvious version of the representation quality index."""

import numpy as np
import pytest
import torch

from interp.analysis.parallelograms import parallelogram_set, rqi
from interp.errors import InvalidArgumentError
from interp.theory.representation import effective_flow, ideal_accuracy, parallelograms, predicted_accuracy, within
from tests.planted import random


def line(p):
    return torch.arange(p, dtype=torch.float64)[:, None] * torch.tensor([1.0, -0.5, 3.0], dtype=torch.float64) + 7


def circle(p, k):
    angle = 2 * torch.pi * k * torch.arange(p, dtype=torch.float64) / p
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def slow_set(W_E, threshold, modular):
    """Parallelogram by parallelogram, as the published code has it."""
    E = W_E.numpy()
    E = (E - E.mean(0)) / E.std(0, ddof=1)
    rows = parallelograms(len(E), modular=modular).tolist()
    return [[i, n, j, m] for i, n, j, m in rows if ((E[i] + E[n] - E[j] - E[m]) ** 2).mean() < threshold], len(rows)


@pytest.mark.parametrize("modular", [False, True])
@pytest.mark.parametrize(("p", "d"), [(7, 1), (10, 2), (11, 5)])
def test_rqi_and_the_set_are_their_definition(p, d, modular):
    W_E = random(2, 3, p, d)
    for threshold in (0.01, 1.0, 4.0):
        found = rqi(W_E, threshold=threshold, modular=modular)
        assert found.shape == (2, 3)
        for step in np.ndindex(2, 3):
            held, total = slow_set(W_E[step], threshold, modular)
            assert found[step].item() == pytest.approx(len(held) / total)
            assert parallelogram_set(W_E[step], threshold=threshold, modular=modular).tolist() == held
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("p", [5, 10, 23, 59])
def test_a_line_is_perfect_until_it_wraps_round(p):
    assert rqi(line(p), modular=False).item() == 1
    share = len(parallelograms(p)) / len(parallelograms(p, modular=True))
    assert rqi(line(p)).item() == pytest.approx(share)
    assert p < 59 or share == pytest.approx(2 / 3, abs=0.02)


@pytest.mark.parametrize(("p", "stated"), [(23, 0.015), (59, 0.028), (113, 0.044)])
def test_a_circle_is_far_from_perfect_at_every_frequency(p, stated):
    """E_i + E_n has the direction of (i + n)/2 and the length 2 cos(w(i - n)/2): equal lengths are what is counted."""
    i, n = np.triu_indices(p)
    for k in (1, 3, p // 2):
        lengths = 2 * np.cos(np.pi * k * (i - n) / p) * np.where((i + n) >= p, (-1.0) ** k, 1.0)  # turned by pi k
        held = total = 0
        for residue in range(p):
            group = lengths[(i + n) % p == residue]
            near = (group[:, None] - group) ** 2 * (p - 1) / p < 0.01  # two dimensions, radius^2 = 2(p - 1)/p
            held += (near.sum() - len(group)) / 2
            total += len(group) * (len(group) - 1) / 2
        assert rqi(circle(p, k)).item() == pytest.approx(held / total, abs=1e-12)
        assert held / total == pytest.approx(stated, abs=5e-4)


def test_invariances_and_what_is_none():
    W_E = line(9) + 0.6 * random(9, 3)
    for modular in (False, True):
        base = rqi(W_E, threshold=0.1, modular=modular)
        assert 0.1 < base < 0.95
        scales = torch.tensor([3.0, -0.1, 50.0], dtype=torch.float64)
        constant = torch.full((9, 1), 4.7, dtype=torch.float64)
        for same in (W_E * scales + 100, W_E.flip(1), W_E.flip(0), torch.cat([W_E, constant], dim=1), W_E.numpy()):
            torch.testing.assert_close(rqi(same, threshold=0.1, modular=modular), base)
    unequal = torch.cat([line(9)[:, :1], 0.01 * random(9, 1)], dim=1)
    turned = unequal @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    assert rqi(unequal) < rqi(turned)  # standardising makes the noise as large as the line


def test_modular_rqi_does_not_see_which_token_is_first():
    W_E = random(3, 11, 1)
    torch.testing.assert_close(rqi(W_E.roll(4, dims=1)), rqi(W_E))
    torch.testing.assert_close(rqi(W_E[:, torch.arange(11) * 3 % 11]), rqi(W_E))


def test_tokens_in_one_place_are_no_representation():
    places = torch.linspace(0.01, 1, 7)[:, None, None].repeat(1, 5, 3)
    assert rqi(places).tolist() == [0.0] * 7
    places[:, 0] *= 1 + torch.finfo(torch.float32).eps
    assert places.std(-2).min() > 0
    assert rqi(places).tolist() == [0.0] * 7  # also where they differ by rounding
    assert parallelogram_set(places[3]).shape == (0, 4)
    assert rqi(random(4, 59, 64)).max() == 0


def test_the_parallelograms_of_a_representation_predict_its_accuracy():
    p = 10
    everything = np.stack(np.triu_indices(p), axis=1)
    pairs = np.random.default_rng(0).permutation(everything)[:30]
    E = random(p, 1).numpy()
    late = effective_flow(E, within(parallelograms(p), pairs), np.array([0.0, 1e4]))
    first, last = (
        predicted_accuracy(p, pairs, parallelogram_set(torch.tensor(E), modular=False).numpy()) for E in late
    )
    assert first < last == ideal_accuracy(p, pairs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rqi(torch.zeros(5)), r"`W_E` must have the axes \[\*steps p d_model\]"),
        (lambda: rqi(torch.zeros(2, 3)), r"`p` must be a whole number >= 3; got 2"),
        (lambda: rqi(torch.full((5, 3), torch.nan)), r"`W_E` must be finite; got 15 values"),
        (lambda: rqi(torch.zeros(5, 3), threshold=0.0), r"`threshold` must be finite and above 0; got 0.0"),
        (
            lambda: parallelogram_set(torch.zeros(5, 3), threshold=-1.0),
            r"`threshold` must be finite and above 0; got -1",
        ),
        (lambda: parallelogram_set(torch.zeros(2, 5, 3)), r"`W_E` must have the axes \[p d_model\]; got 3 axes"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
