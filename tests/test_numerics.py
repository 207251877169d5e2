"""Thresholds of the number formats, and planted slingshots and collapses."""

import math

import numpy as np
import pytest
import torch

from interp.analysis import numerics
from interp.analysis.loss import cross_entropy
from interp.errors import InvalidArgumentError
from tests.planted import random

P = 5
LABELS = (torch.arange(P)[:, None] + torch.arange(P)) % P
ALL = torch.ones(P, P, dtype=torch.bool)


def leading(gap, offset=0.0):
    """Logits whose label leads one other answer by `gap`, and the rest by so much that they do not count."""
    logits = torch.full((P, P, P), offset - 2000.0, dtype=torch.float64)
    logits.scatter_(-1, LABELS[..., None], offset)
    return logits.scatter_(-1, ((LABELS + 1) % P)[..., None], offset - gap)


# --- floating point ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8), (torch.float32, 24), (torch.float64, 53)]
)
def test_collapse_starts_where_the_format_absorbs_the_second_answer(dtype, bits):
    assert torch.finfo(dtype).eps == 2.0 ** (1 - bits)
    threshold = bits * math.log(2)  # exp(-gap) = eps/2
    for gap, share in ((0.97 * threshold, 0.0), (1.03 * threshold, 1.0)):
        assert numerics.softmax_collapse(leading(gap), LABELS, dtype=dtype).item() == share
        assert numerics.zero_loss_share(leading(gap), LABELS, dtype=dtype).item() == share


def test_logits_of_width_twenty_collapse_in_float32_and_not_in_float64_and_of_a_thousand_in_both():
    for gap, in_float64 in ((20.0, 0.0), (1000.0, 1.0)):
        assert numerics.softmax_collapse(leading(gap), LABELS).item() == 1
        assert numerics.softmax_collapse(leading(gap), LABELS, dtype=torch.float64).item() == in_float64
    assert numerics.softmax_collapse(leading(20.0, offset=1000.0), LABELS).item() == 1  # a common shift is no width


def test_shares_are_those_of_a_slow_count_and_follow_the_mask():
    logits = (30 * random(3, P, P, P)).float()
    mask = torch.arange(P * P).reshape(P, P) % 3 == 0
    slow_collapse, slow_zero = np.zeros(3), np.zeros(3)
    for step in range(3):
        for a, b in mask.nonzero().tolist():
            z = logits[step, a, b].numpy()
            total = np.float32(0)
            for term in np.exp(z - z.max()):
                total += term
            slow_collapse[step] += total == 1
            slow_zero[step] += np.log(total) - (z[LABELS[a, b]] - z.max()) == 0
    assert 0 < slow_zero.sum() < slow_collapse.sum() < 3 * mask.sum()
    np.testing.assert_allclose(numerics.softmax_collapse(logits, LABELS, mask), slow_collapse / mask.sum().item())
    np.testing.assert_allclose(numerics.zero_loss_share(logits, LABELS, mask), slow_zero / mask.sum().item())


def test_wrong_answers_collapse_without_a_loss_of_zero():
    wrong = leading(20.0).roll(1, dims=-1)
    assert numerics.softmax_collapse(wrong, LABELS).item() == 1
    assert numerics.zero_loss_share(wrong, LABELS).item() == 0


def test_zero_losses_are_those_of_torch_in_float32():
    logits = (100 * random(2, P, P, P, seed=1)).float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 2), LABELS.flatten().repeat(2), reduction="none")
    slow = (loss == 0).reshape(2, -1).double().mean(1)
    assert 0 < slow.sum() < 2
    torch.testing.assert_close(numerics.zero_loss_share(logits, LABELS), slow)


def test_precision_gap_of_a_network_that_has_grokked_is_its_loss():
    exact = math.log1p(math.exp(-20.0))
    assert numerics.precision_gap(leading(20.0), LABELS).item() == pytest.approx(exact)
    assert cross_entropy(leading(20.0), LABELS).item() == pytest.approx(exact)
    assert numerics.precision_gap(leading(20.0), LABELS, dtype=torch.float64).item() < 1e-16
    mixed = torch.stack([leading(20.0), leading(1.0)]).float()
    gap = numerics.precision_gap(mixed, LABELS, ALL)
    assert gap[0].item() == pytest.approx(exact, rel=1e-4)
    assert gap[1] < 1e-7
    half = torch.where(ALL.triu()[..., None], leading(20.0), leading(18.0))
    assert numerics.precision_gap(half, LABELS, ALL.triu()).item() == pytest.approx(exact)
    assert numerics.precision_gap(leading(1.0), LABELS, dtype=torch.float16) > 1e-6
    assert numerics.precision_gap(leading(20.0).roll(1, dims=-1), LABELS).item() >= 0


# --- norms ------------------------------------------------------------------------------------------------------------


def weights(*steps):
    shapes = {
        "embed.W_E": (4, 3),
        "pos_embed.W_pos": (3, 3),
        "blocks.0.attn.W_Q": (2, 3, 2),
        "blocks.0.mlp.W_in": (3, 5),
        "blocks.1.mlp.b_in": (5,),
        "unembed.W_U": (3, 4),
    }
    return {name: random(*steps, *shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


# --- events -----------------------------------------------------------------------------------------------------------


def run(spikes=(), growths=(), n=600, every=10, memorised=20, noise=0.0, drift=0.0):
    """A run that memorises, whose loss jumps at `spikes` and decays within ten evaluations, and whose norm grows by 1
    over the twenty evaluations up to the last before each of `growths`."""
    t = np.arange(n)
    loss = np.where(t < memorised, 3.0, 1e-5)
    norm = 10 + drift * t
    for spike in spikes:
        since = np.clip(t - spike, 0, None)
        loss = loss + np.where(t >= spike, 0.3 * np.exp(-since), 0.0)
    for growth in growths:
        norm = norm + np.clip((t - growth + 21) / 20, 0, 1)
    generator = np.random.default_rng(0)
    loss = loss * np.exp(noise * generator.standard_normal(n))
    norm = norm + 0.1 * noise * generator.standard_normal(n)
    return t * every, (t >= memorised).astype(float), loss, norm


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_planted_slingshots_are_found(noise):
    found = numerics.slingshots(*run(spikes=(150, 300, 450), growths=(150, 300, 450), noise=noise))
    assert [event.start for event in found] == [1500, 3000, 4500]
    assert [event.peak for event in found] == [1500, 3000, 4500]
    for event, norm in zip(found, (10, 11, 12)):
        assert event.height == pytest.approx(3e4, rel=1e-3 if not noise else 1)
        assert event.growth == pytest.approx(1 / norm, rel=1e-6 if not noise else 0.5)


def test_a_spike_without_growth_and_growth_without_a_spike_are_no_slingshots():
    assert numerics.slingshots(*run(spikes=(150,))) == ()
    assert numerics.slingshots(*run(growths=(150,))) == ()
    assert numerics.slingshots(*run(spikes=(150,), growths=(300,))) == ()
    assert numerics.slingshots(*run(spikes=(150,), drift=0.05)) == ()  # steady growth has no plateau
    assert len(numerics.slingshots(*run(spikes=(150,), growths=(150,), drift=0.01))) == 1
    assert numerics.slingshots(*run(noise=0.3, drift=0.05)) == ()
    steps, accuracy, loss, norm = run(spikes=(150,), growths=(150,))
    assert numerics.slingshots(steps, accuracy, loss, 30 - norm) == ()  # the norm falls


def test_the_peak_is_the_largest_loss_and_close_spikes_are_one():
    steps, accuracy, loss, norm = run(growths=(150,))
    loss[150:158] = [0.01, 0.02, 1e-5, 0.03, 0.04, 0.5, 0.1, 0.01]
    (event,) = numerics.slingshots(steps, accuracy, loss, norm)
    assert (event.start, event.peak, event.height) == (1500, 1550, pytest.approx(5e4))
    (event,) = numerics.slingshots(steps, accuracy, loss, norm, window=4)
    assert event.height == pytest.approx(5e4)  # over the median before the start, not before the peak
    loss[179] = 0.2  # 22 evaluations after the last: another spike, on the plateau
    assert len(numerics.slingshots(steps, accuracy, loss, norm)) == 1


def test_the_baseline_is_the_recent_median():
    steps, accuracy, loss, norm = run(spikes=(450,), growths=(450,))
    loss[20:400] = 5e-2  # long ago
    assert [event.start for event in numerics.slingshots(steps, accuracy, loss, norm)] == [4500]
    loss[450:456] = 1e-5 * 4.0 ** np.arange(1, 7)  # no jump from one evaluation to the next
    assert [event.start for event in numerics.slingshots(steps, accuracy, loss, norm)] == [4510]


def test_what_the_spike_itself_does_to_the_norm_does_not_count():
    steps, accuracy, loss, norm = run(growths=(150,))
    loss[150:155] = [0.1, 0.2, 0.1, 0.5, 0.1]
    norm[152:] -= 0.9
    (event,) = numerics.slingshots(steps, accuracy, loss, norm)
    assert (event.start, event.peak, event.growth) == (1500, 1530, pytest.approx(0.1))


def test_nothing_is_found_before_the_run_has_memorised():
    steps, accuracy, loss, norm = run(spikes=(150,), growths=(150,))
    assert numerics.slingshots(steps, 0.9 * accuracy, loss, norm) == ()
    assert numerics.slingshots(steps, np.arange(600) >= 160, loss, norm) == ()
    assert len(numerics.slingshots(steps, 0.9 * accuracy, loss, norm, train_threshold=0.8)) == 1
    assert numerics.slingshots(*run(spikes=(150,), growths=(140,), memorised=140)) == ()


def test_losses_below_the_resolution_of_float32_are_no_baseline():
    steps, accuracy, loss, norm = run(growths=(150,))
    loss[20:] = 0.0
    loss[150] = 1.1e-6
    assert numerics.slingshots(steps, accuracy, loss, norm) == ()
    loss[150] = 1.3e-6
    (event,) = numerics.slingshots(steps, accuracy, loss, norm)
    assert event.height == pytest.approx(1.3e-6 * 2**23)
    assert numerics.slingshots(steps, accuracy, loss, norm, multiple=11.0) == ()


def test_slingshots_once_given_stay_as_the_run_grows():
    curves = run(spikes=(150, 300), growths=(150, 300), n=400, noise=0.3)
    answers = [numerics.slingshots(*(curve[:n] for curve in curves)) for n in range(30, 401, 5)]
    assert [len(answer) for answer in answers] == sorted(len(answer) for answer in answers)
    assert answers[-1][:1] == next(answer for answer in answers if answer)
    assert len(answers[-1]) == 2


def test_planted_collapses():
    steps = np.arange(20) * 100
    test = np.array([0, 0, 0.2, 0.96, 0.3] + [1.0] * 15)  # one lucky evaluation is no grokking
    train = np.ones(20)
    assert numerics.collapses(steps, train, test) == ()
    test[12:15], train[13] = [0.5, 0.16, 0.7], 0.6
    test[16], test[18:] = 0.94, [0.89, 0.85]
    assert numerics.collapses(steps, train, test) == (
        numerics.Collapse(start=1200, end=1500, lowest_test=0.16, lowest_train=0.6, joint=True),
        numerics.Collapse(start=1800, end=None, lowest_test=0.85, lowest_train=1.0, joint=False),
    )
    assert [c.start for c in numerics.collapses(steps, train, test, below=0.95)] == [1200, 1600, 1800]
    assert numerics.collapses(steps, train, test, hold=7) == ()
    assert numerics.collapses(steps, train, 0.9 * test) == ()
    assert len(numerics.collapses(torch.tensor(steps), torch.tensor(train), torch.tensor(test))) == 2


L5, STEPS, ONES = leading(1.0), [0, 1, 2], [1.0] * 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: numerics.softmax_collapse(L5, LABELS, dtype=torch.int32), r"`dtype` must be .*got torch.int32"),
        (
            lambda: numerics.softmax_collapse(leading(1.0, 1e5), LABELS, dtype=torch.float16),
            r"`dtype` must represent the logits; got torch.float16, whose largest number is 65504, and logits up to "
            r"100000",
        ),
        (lambda: numerics.zero_loss_share(L5, LABELS + 1), r"`labels` must lie in 0..4"),
        (lambda: numerics.precision_gap(L5, LABELS, ~ALL), r"`mask` must choose at least one input"),
        (lambda: numerics.softmax_collapse(L5 + torch.inf, LABELS), r"`logits` must be finite"),
        (lambda: numerics.slingshots(STEPS, ONES, ONES, ONES[:2]), r"`last_layer_norm` must have one value for each"),
        (lambda: numerics.slingshots(STEPS, ONES, [1.0, -1.0, 1.0], ONES), r"`train_loss` must be >= 0; got -1"),
        (lambda: numerics.slingshots(STEPS, ONES, ONES, ONES, multiple=1), r"`multiple` must be above 1; got 1"),
        (
            lambda: numerics.slingshots(STEPS, ONES, ONES, ONES, window=0),
            r"`window` must be a whole number >= 1; got 0",
        ),
        (lambda: numerics.slingshots(STEPS, ONES, ONES, ONES, train_threshold=99), r"`train_threshold` must lie in"),
        (lambda: numerics.collapses(STEPS, ONES[:2], ONES), r"`train_accuracy` must have one value for each"),
        (lambda: numerics.collapses(STEPS, ONES, ONES, below=90), r"`below` must lie in \[0, 1\]; got 90"),
        (lambda: numerics.collapses(STEPS, ONES, ONES, reached=95), r"`reached` must lie in \[0, 1\]; got 95"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
