"""Attention, neuron phases, and ablations: planted circuits, slow obvious versions, and the network itself."""

import math

import numpy as np
import pytest
import torch

from interp.analysis import circuits, spectra
from interp.analysis.loss import cross_entropy
from interp.config import Transformer
from interp.errors import InvalidArgumentError
from interp.models import build_model
from interp.models.transformer import TransformerNetwork
from tests.planted import random

P = 7


def tokens(p=P):
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).unbind(1)
    return torch.stack([a, b, torch.full_like(a, p)], dim=1)


def network(biases="trainable", p=P):
    """A transformer in float64 whose parameters, biases included, are all random and large enough to matter."""
    config = Transformer(d_model=12, n_heads=3, d_head=4, d_mlp=20, attention_biases=biases)
    model = build_model(config, p + 1, 3, p, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed) * 0.5)
    return model


def scores_of(model: TransformerNetwork):
    attn = model.blocks[0].attn
    return circuits.attention_scores(
        model.embed.W_E, model.pos_embed.W_pos, attn.W_Q, attn.W_K, b_Q=attn.b_Q, b_K=attn.b_K
    )


def angles(p, k):
    return torch.arange(p, dtype=torch.float64) * (2 * torch.pi * k / p)


def circular(x, y):
    """Distance of two angles."""
    return torch.angle(torch.polar(torch.ones_like(x), x - y)).abs()


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biases", ["trainable", "absent"])
def test_scores_are_those_of_the_network(biases):
    model = network(biases)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens())
    hooked = cache["blocks.0.attn.hook_attn_scores"][:, :, -1].reshape(P, P, 3, 3)  # [a, b, head, pos]
    found = scores_of(model)
    assert found.shape == (3, 2, P)
    torch.testing.assert_close(hooked[..., 0], found[:, 0].T[:, None].expand(P, P, 3))
    torch.testing.assert_close(hooked[..., 1], found[:, 1].T[None].expand(P, P, 3))
    pattern = cache["blocks.0.attn.hook_pattern"][:, :, -1].reshape(P, P, 3, 3)
    in_scores, in_pattern = (circuits.attention_power(x[..., 0]) for x in (hooked, pattern))
    torch.testing.assert_close(in_scores.first.sum(-1), torch.ones(3, dtype=torch.float64))
    assert in_scores.second.max() < 1e-25
    assert in_scores.rest.max() < 1e-12
    assert in_pattern.rest.min() > 1e-3  # the softmax mixes the positions
    assert in_pattern.second.sum(-1).min() > 1e-3


def test_scores_of_a_trajectory_and_of_two_positions():
    W_E, W_pos, W_Q, W_K = random(2, P + 1, 5), random(2, 3, 5, seed=1), random(2, 3, 5, 4), random(2, 3, 5, 4, seed=2)
    whole = circuits.attention_scores(W_E, W_pos, W_Q, W_K)
    for i in range(2):
        torch.testing.assert_close(whole[i], circuits.attention_scores(W_E[i], W_pos[i], W_Q[i], W_K[i]))
    assert (whole[..., 0, :] - whole[..., 1, :]).diff(dim=-1).abs().max() < 1e-13  # shifted by a constant
    power = circuits.attention_score_power(whole)
    assert power.shape == (2, 3, 2, P // 2)
    torch.testing.assert_close(power[..., 0, :], power[..., 1, :])
    x_last = W_E[0, P] + W_pos[0, 2]
    slow = [(W_E[0, t] + W_pos[0, 1]) @ W_K[0, 2] @ (x_last @ W_Q[0, 2]) / 4**0.5 for t in range(P)]
    torch.testing.assert_close(whole[0, 2, 1], torch.stack(slow))


@pytest.mark.parametrize("p", [3, 7, 8])
def test_score_power_is_that_of_explicit_waves(p):
    score = random(2, p)
    found = circuits.attention_score_power(score)
    for k in range(1, p // 2 + 1):
        waves = [angles(p, k).cos()] if 2 * k == p else [angles(p, k).cos(), angles(p, k).sin()]
        slow = sum((score @ wave).square() / wave.square().sum() for wave in waves)
        torch.testing.assert_close(found[:, k - 1], slow)


@pytest.mark.parametrize("p", [5, 8, 9])
def test_attention_power_is_that_of_the_two_dimensional_transform(p):
    attention = 0.4 + random(2, p, p, 3)
    found = circuits.attention_power(attention)
    power = np.abs(np.fft.fft2(attention.numpy(), axes=(1, 2))) ** 2
    power[:, 0, 0] = 0
    total = power.sum((1, 2))
    for k in range(1, p // 2 + 1):
        modes = sorted({k, p - k})
        np.testing.assert_allclose(found.first[..., k - 1], power[:, modes, 0].sum(1) / total)
        np.testing.assert_allclose(found.second[..., k - 1], power[:, 0, modes].sum(1) / total)
    np.testing.assert_allclose(found.rest, power[:, 1:, 1:].sum((1, 2)) / total)


def test_attention_power_of_planted_heads():
    a = angles(P, 2)
    first, second = a.cos()[:, None].expand(P, P), (2 * a).sin()[None].expand(P, P)
    product = (3 * a).cos()[:, None] * (a + 1).cos()  # 1/4 of the mean square, where a single wave has 1/2
    found = circuits.attention_power(0.5 + torch.stack([first, first + 2 * second, first + product], dim=-1))
    torch.testing.assert_close(found.first.sum(-1), torch.tensor([1, 0.2, 2 / 3], dtype=torch.float64))
    torch.testing.assert_close(found.first[0, 1].item(), 1.0)
    torch.testing.assert_close(found.second[1].tolist(), [0.0, 0.0, 0.8], atol=1e-12, rtol=0)  # 4 is -3 mod 7
    torch.testing.assert_close(found.rest, torch.tensor([0, 0, 1 / 3], dtype=torch.float64), atol=1e-12, rtol=0)
    small = circuits.attention_power((0.5 + 1e-4 * first).float()[..., None])  # a large mean costs no digits
    torch.testing.assert_close(small.first[0, 1].item(), 1.0, atol=1e-6, rtol=0)


def test_attention_that_does_not_vary_has_no_power():
    uneven = 0.3 * (1 + torch.finfo(torch.float32).eps * random(P, P, 1).sign())
    for constant in (torch.full((P, P, 1), 0.3), uneven.float()):
        found = circuits.attention_power(constant)
        assert found.first.max() == found.second.max() == found.rest.max() == 0


# --- neurons ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("operation", "sign"), [("add", 1), ("subtract", -1)])
def test_planted_phases_and_amplitudes_come_back(operation, sign):
    p, k = 13, torch.tensor([[1, 5, 6], [2, 2, 4]])
    phase = torch.empty(3, 2, 3, dtype=torch.float64).uniform_(
        -math.pi, math.pi, generator=torch.Generator().manual_seed(0)
    )
    amplitude = 0.1 + random(3, 2, 3, seed=4).abs()
    w = 2 * torch.pi * k.double() / p
    t = torch.arange(p, dtype=torch.float64)
    a, b = t[:, None, None], t[:, None]  # [a, b, neuron]
    neurons = []
    for step in range(2):
        waves = [(w[step] * angle + phase[i, step]).cos() for i, angle in enumerate((a, b, a + sign * b))]
        neurons.append(2 + sum(amplitude[i, step] * wave for i, wave in enumerate(waves)))
    found = circuits.neuron_phase(torch.stack(neurons), k, operation)
    for i, wave in enumerate((found.first, found.second, found.both)):
        torch.testing.assert_close(wave.amplitude, amplitude[i])
        torch.testing.assert_close(wave.phase, phase[i])


def test_phases_of_even_moduli_and_of_the_border():
    t = torch.arange(8, dtype=torch.float64)
    alternating = torch.stack([3 * (math.pi * t).cos(), -2 * (math.pi * t).cos()], dim=-1)[:, None].expand(8, 8, 2)
    found = circuits.neuron_phase(alternating, torch.tensor([4, 4])).first
    torch.testing.assert_close(found.amplitude.tolist(), [3.0, 2.0])
    assert found.phase.tolist() == [0.0, math.pi]
    one_input = torch.zeros(9, 9, 4)
    one_input[0, 0] = -1.0
    for wave in vars(circuits.neuron_phase(one_input, torch.arange(1, 5))).values():
        assert wave.phase.tolist() == pytest.approx([math.pi] * 4)  # never -pi, which is the same angle


def test_a_shift_of_the_tokens_turns_the_phases():
    A, k = random(P, P, 4), torch.tensor([1, 2, 3, 1])
    before, after = circuits.neuron_phase(A, k), circuits.neuron_phase(A.roll((2, 3), dims=(0, 1)), k)
    for name, shift in (("first", 2), ("second", 3), ("both", 5)):
        old, new = getattr(before, name), getattr(after, name)
        torch.testing.assert_close(new.amplitude, old.amplitude)
        assert circular(new.phase, old.phase - 2 * torch.pi * k.double() * shift / P).max() < 1e-12


def test_a_relu_of_two_waves_has_the_sum_of_their_phases():
    p, k = 113, torch.tensor([14, 35, 41])
    phi = torch.tensor([[0.3, 2.9, -1.2], [2.0, 1.1, -2.8]], dtype=torch.float64)
    t = torch.arange(p, dtype=torch.float64)
    w = 2 * torch.pi * k.double() / p
    A = ((w * t[:, None, None] + phi[0]).cos() + (w * t[:, None] + phi[1]).cos()).relu()
    assert spectra.neuron_frequency(spectra.neuron_power(A)).frequency.tolist() == k.tolist()
    found = circuits.neuron_phase(A, k)
    assert circular(found.first.phase, phi[0]).max() < 1e-3
    assert circular(found.second.phase, phi[1]).max() < 1e-3
    assert circular(found.both.phase, phi.sum(0)).max() < 1e-3
    assert found.both.amplitude.min() > 0.1


def test_a_dead_neuron_has_phase_zero():
    noise = 0.1 * (1 + torch.finfo(torch.float32).eps * random(P, P, 1).sign())
    found = circuits.neuron_phase(noise.float(), torch.tensor([2]))
    assert found.first.phase.item() == found.second.phase.item() == found.both.phase.item() == 0


def test_rank_of_planted_directions():
    singular = torch.tensor([5.0, 4.0, 3.0, 0.5, 0.0], dtype=torch.float64)
    U, V = (torch.linalg.qr(random(2, n, 5, seed=n)).Q for n in (9, 6))
    W_L = (U * singular) @ V.mT
    found = circuits.neuron_logit_rank(W_L)
    torch.testing.assert_close(found.singular_values[..., :4], singular[:4].expand(2, 4))
    assert found.directions.tolist() == [3, 3]  # (25 + 16) / 50.25 = 0.82, with 9 more 0.995
    for share, directions in ((0.0, 0), (0.4, 1), (0.8, 2), (0.82, 3), (1.0, 4)):
        assert circuits.neuron_logit_rank(W_L, share=share).directions.tolist() == [directions] * 2
    assert circuits.neuron_logit_rank(torch.zeros(4, 3)).directions.item() == 0
    many = random(50, 40, 20) @ random(50, 20, 30, seed=1)
    assert circuits.neuron_logit_rank(many, share=1.0).directions.unique().tolist() == [20]  # rounding is no direction


def test_five_keys_are_ten_directions_and_hold_what_was_planted():
    p, keys = 113, [14, 35, 41, 42, 52]
    waves = torch.cat([spectra.fourier_basis(p)[[2 * k - 1, 2 * k]] for k in keys])  # [direction, answer]
    W_L = torch.linalg.qr(random(64, 10)).Q @ waves
    assert circuits.neuron_logit_rank(W_L).directions.item() == 10
    torch.testing.assert_close(circuits.neuron_logit_directions(W_L, keys).item(), 1.0)
    torch.testing.assert_close(circuits.neuron_logit_directions(W_L, keys[:2]).item(), 0.4)
    assert circuits.neuron_logit_directions(W_L, []).item() == 0
    assert circuits.neuron_logit_directions(torch.zeros(4, P), [1]).item() == 0


def test_logit_directions_do_not_see_what_the_softmax_does_not():
    W_L, constant = random(2, 5, 7), 100 * random(2, 5, 1, seed=3)
    found = circuits.neuron_logit_directions(W_L, [1, 3])
    torch.testing.assert_close(circuits.neuron_logit_directions(W_L + constant, [1, 3]), found)
    assert circuits.neuron_logit_directions(constant.expand(2, 5, 7), [1]).tolist() == [0, 0]


@pytest.mark.parametrize("p", [7, 8])
def test_logit_directions_are_the_dense_projection(p):
    W_L = random(2, 5, p)
    mask = torch.zeros(2, p // 2, dtype=torch.bool)
    mask[0, 0] = mask[1, -1] = mask[1, 1] = True
    found = circuits.neuron_logit_directions(W_L, mask)
    for step in range(2):
        projector = dense_projector(p, (1 + mask[step].nonzero().flatten()).tolist())
        centred = W_L[step] - W_L[step].mean(-1, keepdim=True)
        slow = (W_L[step] @ projector).square().sum() / centred.square().sum()
        torch.testing.assert_close(found[step], slow)


def dense_projector(p, keys):
    columns = [f(angles(p, k)) for k in keys for f in (torch.cos, torch.sin) if f is torch.cos or 2 * k != p]
    matrix = torch.stack(columns, dim=1)
    return matrix @ torch.linalg.pinv(matrix)


# --- ablations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [7, 8])
def test_an_embedding_without_a_frequency_keeps_the_others(p):
    W_E = random(2, p, 5)
    without = circuits.without_frequency(W_E, [2, p // 2])
    torch.testing.assert_close(without, W_E - dense_projector(p, [2, p // 2]) @ W_E)
    power, left = spectra.embedding_power(W_E), spectra.embedding_power(without)
    gone = torch.tensor([k in (2, p // 2) for k in range(1, p // 2 + 1)])
    assert left[:, gone].max() < 1e-25
    torch.testing.assert_close(left[:, ~gone], power[:, ~gone])
    torch.testing.assert_close(without.mean(1), W_E.mean(1))
    torch.testing.assert_close(circuits.without_frequency(without, [2]), without)
    assert circuits.without_frequency(W_E.float(), [1]).dtype == torch.float32
    torch.testing.assert_close(circuits.without_frequency(W_E, []), W_E)


def test_a_network_that_hears_one_frequency_falls_silent_without_it():
    model = network()
    with torch.no_grad():
        model.embed.W_E[:P] = torch.stack([angles(P, 2).cos(), angles(P, 2).sin()], dim=1) @ random(2, 12, seed=9)
        model.embed.W_E[:P] = circuits.without_frequency(model.embed.W_E[:P], [2])
        logits = model(tokens())[:, -1]
    assert (logits - logits[0]).abs().max() < 1e-12


def test_a_head_without_output_weights_adds_nothing_to_the_residual_stream():
    model = network()
    attn = model.blocks[0].attn
    with torch.no_grad():
        _, before = model.run_with_cache(tokens())
        removed = before["blocks.0.attn.hook_z"][:, :, 1] @ attn.W_O[1]
        attn.W_O.copy_(circuits.without_head(attn.W_O, 1))
        _, after = model.run_with_cache(tokens())
    where = "blocks.0.hook_resid_mid"
    torch.testing.assert_close(after[where], before[where] - removed)
    assert removed.abs().min() > 0
    W_O = random(2, 3, 4, 5)
    without = circuits.without_head(W_O, 0)
    assert without[:, 0].abs().max() == 0
    assert torch.equal(without[:, 1:], W_O[:, 1:])
    assert W_O[:, 0].abs().min() > 0  # the argument stays as it was


@pytest.mark.parametrize("replace", ["mean", "zero"])
def test_ablated_logits_are_those_of_the_network_with_replaced_activations(replace):
    model, chosen = network(), torch.arange(20) % 3 == 0
    with torch.no_grad():
        answer = model.answer(model.prepare(tokens()))
        A, W_L = answer.neurons.clone(), answer.neuron_logit_map
        A[:, chosen] = A[:, chosen].mean(0) if replace == "mean" else 0.0
        slow = (A @ W_L + answer.residual_logits).reshape(P, P, P)
        grid = answer.neurons.reshape(P, P, 20), W_L, answer.logits.reshape(P, P, P)
    torch.testing.assert_close(circuits.ablate_neurons(*grid, chosen, replace=replace), slow)
    torch.testing.assert_close(circuits.ablate_neurons(*grid, torch.zeros(20, dtype=torch.bool)), grid[2])
    steps = [torch.stack([x, 2 * x]) for x in grid]
    each = circuits.ablate_neurons(*steps, torch.stack([chosen, ~chosen]), replace=replace)
    torch.testing.assert_close(each[0], slow)
    torch.testing.assert_close(each[1], circuits.ablate_neurons(*(2 * x for x in grid), ~chosen, replace=replace))


def test_without_the_cluster_of_its_only_frequency_a_network_guesses():
    p, k = 13, 3
    t = torch.arange(p)
    labels = (t[:, None] + t) % p
    waves = spectra.fourier_basis(p)[[2 * k - 1, 2 * k]]
    A = torch.cat([waves[:, labels].permute(1, 2, 0), random(p, p, 2)], dim=-1)
    W_L = torch.cat([300 * waves, torch.zeros(2, p)])
    L = A @ W_L
    cluster = torch.tensor([True, True, False, False])
    assert cross_entropy(L, labels) < 0.1
    torch.testing.assert_close(cross_entropy(circuits.ablate_neurons(A, W_L, L, cluster), labels).item(), math.log(p))
    torch.testing.assert_close(circuits.ablate_neurons(A, W_L, L, ~cluster), L)


W_E4, W_POS4, W_QK4 = torch.zeros(2, 4, 5), torch.zeros(2, 3, 5), torch.zeros(2, 1, 5, 4)
A5, W5, L5 = torch.zeros(5, 5, 2), torch.zeros(2, 5), torch.zeros(5, 5, 5)
ONE = torch.ones(2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: circuits.attention_scores(W_E4, W_POS4[:1], W_QK4, W_QK4),
            r"`W_pos` must have .*\[2, 3, 5\]; got \[1",
        ),
        (lambda: circuits.attention_scores(W_E4, W_POS4, W_QK4[..., :4, :], W_QK4), r"`W_Q` .*\[2, 1, 5, 4\]; got"),
        (lambda: circuits.attention_scores(W_E4, W_POS4, W_QK4, W_QK4[..., :3]), r"`W_K` .*got \[2, 1, 5, 3\]"),
        (
            lambda: circuits.attention_scores(W_E4, W_POS4, W_QK4, W_QK4, b_Q=torch.zeros(2, 2, 4)),
            r"`b_Q` .*got \[2, 2, 4\]. Take all weights",
        ),
        (
            lambda: circuits.attention_scores(W_E4, W_POS4, W_QK4, W_QK4, b_K=torch.zeros(2, 1, 3)),
            r"`b_K` .*got \[2, 1, 3\]",
        ),
        (lambda: circuits.attention_power(torch.zeros(5, 6, 1)), r"`attention` must have the axes"),
        (lambda: circuits.attention_power(torch.full((5, 5, 1), -torch.inf)), r"`attention` must be finite; got 25"),
        (lambda: circuits.attention_score_power(torch.zeros(2)), r"`p` must be a whole number >= 3; got 2"),
        (lambda: circuits.neuron_phase(A5, torch.tensor([1])), r"`frequency` must hold one .*\[2\]; got .*\[1\]"),
        (lambda: circuits.neuron_phase(A5, torch.ones(2)), r"`frequency` must hold one whole .*got torch.float32"),
        (lambda: circuits.neuron_phase(A5, ONE), r"`frequency` must hold one whole .*got torch.bool"),
        (lambda: circuits.neuron_phase(A5, torch.tensor([1, 3])), r"`frequency` must lie in 1..2 for p=5; got 1..3"),
        (lambda: circuits.neuron_phase(A5, torch.tensor([0, 1])), r"`frequency` must lie in 1..2 for p=5; got 0..1"),
        (lambda: circuits.neuron_phase(A5, torch.tensor([1, 1]), "mul"), r"`operation` must be .*got 'mul'"),
        (lambda: circuits.neuron_logit_rank(W5, share=95), r"`share` must lie in \[0, 1\]; got 95"),
        (lambda: circuits.neuron_logit_directions(W5, [3]), r"`keys` must be .* in 1..2 for p=5; got \[3\]"),
        (lambda: circuits.without_frequency(torch.zeros(5, 2), [0]), r"`keys` must be .* in 1..2 for p=5; got \[0\]"),
        (lambda: circuits.without_head(torch.zeros(2, 3, 4), 2), r"`head` must be a whole number in 0..1; got 2"),
        (lambda: circuits.without_head(torch.zeros(2, 3, 4), -1), r"`head` must be a whole number in 0..1; got -1"),
        (lambda: circuits.without_head(torch.zeros(2, 3, 4), True), r"`head` must be a whole number in 0..1; got True"),
        (lambda: circuits.ablate_neurons(A5, W5, L5, ONE[:1]), r"`neurons` must be a boolean mask of shape \[2\]"),
        (lambda: circuits.ablate_neurons(A5, W5, L5, ONE.long()), r"`neurons` must be .*got torch.int64"),
        (lambda: circuits.ablate_neurons(A5, W5, L5, ONE, replace="noise"), r"`replace` must be .*got 'noise'"),
        (lambda: circuits.ablate_neurons(A5, W5, L5[:, :, :4], ONE), r"`logits` must have the sizes of"),
        (lambda: circuits.ablate_neurons(A5, W5[:1], L5, ONE), r"`W_L` must have the axes"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
