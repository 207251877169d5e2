"""Restricted and excluded losses against explicit p^2 x p^2 projections, and a planted clock network."""

import math

import pytest
import torch

from interp.analysis import loss, progress, spectra
from interp.errors import InvalidArgumentError
from tests.planted import answers, random


def split(p):
    return torch.rand(p, p, generator=torch.Generator().manual_seed(3)) < 0.4


def projector(p, k, operation):
    """The dense projector on cos and sin of w_k(a + b), [p^2, p^2]."""
    angle = (2 * torch.pi * k / p) * answers(p, operation).flatten().double()
    waves = [angle.cos()] if 2 * k == p else [angle.cos(), angle.sin()]
    return sum(torch.outer(wave, wave) / wave.square().sum() for wave in waves)


def nll(rows, labels, mask):
    return torch.nn.functional.cross_entropy(rows[mask.flatten()], labels.flatten()[mask.flatten()])


def network(p, seed=0, scale=1.0):
    """Random activations, neuron-logit map, and logits with a contribution beside the neurons."""
    A = scale * random(2, p, p, 5, seed=seed) + 1
    W_L = random(2, 5, p, seed=seed + 1)
    return A, W_L, A @ W_L[:, None] + scale * random(2, p, p, p, seed=seed + 2)


@pytest.mark.parametrize("operation", ["add", "subtract"])
@pytest.mark.parametrize("p", [7, 8, 9])
def test_every_variant_is_its_dense_definition(p, operation):
    A, W_L, L = network(p)
    labels, train = answers(p, operation), split(p)
    everything = torch.ones(p, p, dtype=torch.bool)
    keys = [1, p // 2]
    each = [projector(p, k, operation) for k in range(1, p // 2 + 1)]
    together = sum(each[k - 1] for k in keys)
    three_d = []
    for k in range(1, p // 2 + 1):
        wave = torch.cos((2 * torch.pi * k / p) * (labels[..., None] - torch.arange(p)).double())
        three_d.append(wave / wave.norm())
    options = {"operation": operation}
    restricted = {
        "logit": progress.restricted_loss_logit(L, labels, keys, **options),
        "neuron": progress.restricted_loss_neuron(A, W_L, L, labels, ~train, keys, **options),
        "hidden": progress.restricted_loss_hidden(A, W_L, labels, keys, **options),
    }
    excluded = {
        "2d": progress.excluded_loss_2d(L, labels, train, keys, **options),
        "3d": progress.excluded_loss_3d(L, labels, train, keys, **options),
        "neuron": progress.excluded_loss_neuron(A, W_L, L, labels, train, keys, **options),
        "hidden": progress.excluded_loss_neuron(A, W_L, A @ W_L[:, None], labels, train, keys, **options),
    }
    for step in range(2):
        rows, hidden, W = L[step].reshape(p * p, p), A[step].reshape(p * p, 5), W_L[step]
        kept = together @ rows
        expected = nll(kept + (rows - kept).mean(0), labels, everything)
        torch.testing.assert_close(restricted["logit"][step], expected)
        kept = (hidden.mean(0) + together @ hidden) @ W
        expected = nll(kept + (rows - kept).mean(0), labels, ~train)
        torch.testing.assert_close(restricted["neuron"][step], expected)
        expected = nll(together @ hidden @ W, labels, everything)
        torch.testing.assert_close(restricted["hidden"][step], expected)

        for index, P in [(None, together), *enumerate(each)]:
            chosen = [k - 1 for k in keys] if index is None else [index]
            waves = sum((L[step] * three_d[j]).sum() * three_d[j] for j in chosen).reshape(p * p, p)
            slow = {
                "2d": rows - P @ rows,
                "3d": rows - waves,
                "neuron": (hidden - P @ hidden) @ W + (rows - hidden @ W),
                "hidden": (hidden - P @ hidden) @ W,
            }
            for name, logits in slow.items():
                found = excluded[name]
                value = found.together[step] if index is None else found.by_frequency[step, index]
                torch.testing.assert_close(value, nll(logits, labels, train), msg=f"{name} {index}")


def test_clock_network_lives_and_dies_by_its_keys():
    p, keys = 13, [2, 5]
    labels, train = answers(p), split(p)
    gap = (labels[..., None] - torch.arange(p)).double() * (2 * torch.pi / p)
    L = 20 * sum(torch.cos(k * gap) for k in keys)
    full = loss.cross_entropy(L, labels)
    assert full < 1e-3
    torch.testing.assert_close(progress.restricted_loss_logit(L, labels, keys), full)
    torch.testing.assert_close(progress.restricted_loss_logit(L, labels, []), torch.tensor(math.log(p)).double())
    for variant in (progress.excluded_loss_2d, progress.excluded_loss_3d):
        without = variant(L, labels, train, keys)
        torch.testing.assert_close(without.together.item(), math.log(p))
        torch.testing.assert_close(
            without.by_frequency[[0, 2, 3, 5]], loss.cross_entropy(L, labels, train).expand(4), rtol=0, atol=1e-13
        )
        assert without.by_frequency[[1, 4]].min() > 100 * full


def test_logits_that_spread_over_thousands_of_nats_are_summed_term_by_term():
    p = 7
    _, _, L = network(p, scale=3000.0)
    labels, train = answers(p), split(p)
    found = progress.excluded_loss_2d(L, labels, train, [1])
    for step in range(2):
        rows = L[step].reshape(p * p, p)
        for k in range(1, 4):
            expected = nll(rows - projector(p, k, "add") @ rows, labels, train)
            torch.testing.assert_close(found.by_frequency[step, k - 1], expected)


def test_keys_are_a_list_a_mask_or_a_mask_for_every_step():
    p = 7
    _, _, L = network(p)
    labels = answers(p)
    expected = progress.restricted_loss_logit(L, labels, [1, 3])
    mask = torch.tensor([True, False, True])
    torch.testing.assert_close(progress.restricted_loss_logit(L, labels, mask), expected)
    both = torch.stack([mask, ~mask])
    mixed = progress.restricted_loss_logit(L, labels, both)
    torch.testing.assert_close(mixed[0], expected[0])
    torch.testing.assert_close(mixed[1], progress.restricted_loss_logit(L, labels, [2])[1])
    excluded = progress.excluded_loss_2d(L, labels, split(p), both)
    torch.testing.assert_close(excluded.together[1], excluded.by_frequency[1, 1])  # step 1 has the one key 2


def test_a_trajectory_is_one_call_and_numpy_comes_in():
    p = 7
    A, W_L, L = network(p)
    labels, train = answers(p), split(p)
    whole = progress.excluded_loss_neuron(A, W_L, L, labels, train, [1])
    for step in range(2):
        one = progress.excluded_loss_neuron(A[step], W_L[step], L[step], labels, train, [1])
        torch.testing.assert_close(whole.together[step], one.together)
        torch.testing.assert_close(whole.by_frequency[step], one.by_frequency)
    deep = progress.excluded_loss_2d(L[None], labels, train, [1])
    assert deep.together.shape == (1, 2)
    assert deep.by_frequency.shape == (1, 2, 3)
    same = progress.excluded_loss_2d(L.numpy(), labels.numpy(), train.numpy(), [1])
    torch.testing.assert_close(same.together, deep.together[0])
    torch.testing.assert_close(
        progress.excluded_loss_2d(L.float(), labels, train, [1]).together, same.together, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("operation", ["add", "subtract"])
def test_a_table_at_hand_changes_nothing(operation):
    A, W_L, L = network(7)
    labels, train = answers(7, operation), split(7)
    at_hand = {"operation": operation, "table": spectra.conditional_mean(A, operation)}
    plain = {"operation": operation}
    for call in (
        lambda given: progress.restricted_loss_neuron(A, W_L, L, labels, train, [1, 3], **given),
        lambda given: progress.restricted_loss_hidden(A, W_L, labels, [1, 3], **given),
        lambda given: progress.excluded_loss_neuron(A, W_L, L, labels, train, [1, 3], **given).by_frequency,
    ):
        torch.testing.assert_close(call(at_hand), call(plain), rtol=0, atol=0)
        assert not torch.allclose(call({"operation": operation, "table": at_hand["table"].flip(-2)}), call(plain))


def test_a_table_of_something_else_is_refused(as_users_run_it):
    A, W_L, _ = network(7)
    with pytest.raises(InvalidArgumentError, match=r"`table` must be `conditional_mean\(activations\)`.*\[2, 7, 5\]"):
        progress.restricted_loss_hidden(A, W_L, answers(7), [1], table=torch.zeros(2, 6, 5))


def test_the_loss_of_each_input():
    L, labels, train = random(3, 5, 5, 5), answers(5), split(5)
    by_pair = loss.cross_entropy_by_input(L.flatten(1, 2), labels.flatten()).unflatten(1, (5, 5))
    for step in range(3):
        for a in range(5):
            expected = torch.nn.functional.cross_entropy(L[step, a, 2], labels[a, 2])
            torch.testing.assert_close(by_pair[step, a, 2], expected)
    torch.testing.assert_close(by_pair[:, train].mean(-1), loss.cross_entropy(L, labels, train))


def test_cross_entropy_and_accuracy():
    p = 5
    L, labels, train = random(3, p, p, p + 1), answers(p), split(p)
    expected = torch.stack([nll(step.reshape(p * p, p + 1), labels, train) for step in L])
    torch.testing.assert_close(loss.cross_entropy(L, labels, train), expected)
    right = (L.argmax(-1) == labels)[:, train].double().mean(1)
    torch.testing.assert_close(loss.accuracy(L, labels, train), right)
    confident = 30 * torch.nn.functional.one_hot(labels, p).float()
    value = loss.cross_entropy(confident, labels).item()  # float32 logits, float64 softmax
    assert value == pytest.approx(4 * math.exp(-30), rel=1e-3)


def test_trig_loss_ratio():
    ratio = progress.trig_loss_ratio(torch.tensor([6.0, 1.0]), torch.tensor([3.0, 0.0]))
    assert ratio.tolist() == [2.0, math.inf]


L5, A5, W5, LABELS5 = torch.zeros(5, 5, 5), torch.zeros(5, 5, 2), torch.zeros(2, 5), answers(5)
ALL5 = torch.ones(5, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss.cross_entropy(torch.zeros(5, 4, 5), LABELS5), r"`logits` must have the axes"),
        (lambda: loss.cross_entropy(L5 + torch.nan, LABELS5), r"`logits` must be finite; got 125"),
        (lambda: loss.cross_entropy(L5, LABELS5[:4]), r"`labels` must be whole numbers \[a, b\] of shape \[5, 5\]"),
        (lambda: loss.cross_entropy(L5, LABELS5.float()), r"`labels` must be whole numbers .*got torch.float32"),
        (lambda: loss.cross_entropy(L5, LABELS5 + 1), r"`labels` must lie in 0..4, the answers of .*got 1..5"),
        (
            lambda: loss.cross_entropy(L5, LABELS5, ALL5.long()),
            r"`mask` must be boolean of shape \[5, 5\]; got torch.int64",
        ),
        (lambda: loss.cross_entropy(L5, LABELS5, ~ALL5), r"`mask` must choose at least one input; got none"),
        (lambda: progress.restricted_loss_logit(L5, LABELS5, [3]), r"`keys` must be .* in 1..2 for p=5; got \[3\]"),
        (
            lambda: progress.restricted_loss_logit(L5, LABELS5, torch.tensor([1.0])),
            r"`keys` must be .*got torch.float32",
        ),
        (
            lambda: progress.restricted_loss_logit(L5, LABELS5, torch.tensor([True])),
            r"`keys` must be a mask of shape \[2\] or \[2\]; got \[1\]",
        ),
        (
            lambda: progress.restricted_loss_hidden(A5, torch.zeros(3, 5), LABELS5, [1]),
            r"`W_L` must have the axes .*\[2\]; got \[3, 5\]",
        ),
        (lambda: progress.excluded_loss_2d(L5, LABELS5, ALL5, [1], operation="/"), r"`operation` must be"),
        (lambda: progress.excluded_loss_3d(torch.zeros(5, 5, 6), LABELS5, ALL5, [1]), r"Leave out the '='"),
        (
            lambda: progress.excluded_loss_neuron(A5, W5, torch.zeros(2, 5, 5, 5), LABELS5, ALL5, [1]),
            r"`logits` must have the sizes of `activations @ W_L`, \[5, 5, 5\]; got \[2, 5, 5, 5\]",
        ),
        (lambda: progress.trig_loss_ratio(torch.ones(2), -torch.ones(2)), r"`restricted_loss` must be losses >= 0"),
        (lambda: progress.trig_loss_ratio(torch.ones(2), torch.ones(3)), r"`restricted_loss` .*\[2\]; got .*\[3\]"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
