"""Certificates: sound for any advice, tight for good advice, honest about rounding and about what they cost."""

import itertools
from dataclasses import fields, replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import erf
from torch.utils.flop_counter import FlopCounterMode

from interp.analysis import certificate
from interp.analysis.certificate import Advice, certify, exhaustive_margins
from interp.config import FeedForward, Transformer
from interp.errors import InvalidArgumentError
from interp.models import build_model
from interp.models.tables import UNIT, PairTables

TABLES = ("W_L", "constant", "first", "second", "bypass_constant", "bypass_first", "bypass_second")


def sums(p):
    return (np.arange(p)[:, None] + np.arange(p)) % p


def random_network(rng, p=7, n=12, C=8, heads=0, activation="relu", rate=1.0):
    """A network of normal tables, without attention for 0 heads."""
    H = max(1, heads)
    scores = (rng.normal(size=(p, H)), rng.normal(size=(p, H)), rng.normal(size=H)) if heads else None
    nothing = np.zeros((p, H, C))
    return PairTables(
        activation=activation,
        W_L=rng.normal(size=(n, C)),
        constant=rng.normal(size=n),
        first=rng.normal(size=(p, H, n)),
        second=rng.normal(size=(p, H, n)),
        bypass_constant=rng.normal(size=C),
        bypass_first=rng.normal(size=(p, H, C)) if heads else nothing,
        bypass_second=rng.normal(size=(p, H, C)) if heads else nothing,
        scores=scores,
        rate=rate,
        d_z=4 * H,
        rounding={},
    )


def attended_by_the_second(rng, tables):
    """The network without '=': the second operand stands last, and attends to the first and to itself."""
    p, H, n = tables.first.shape
    return replace(
        tables,
        constant=rng.normal(size=(p, n)),
        bypass_constant=rng.normal(size=(p, tables.W_L.shape[1])),
        scores=(rng.normal(size=(p, p, H)), rng.normal(size=(p, H)), None),
    )


def planted_network(p, keys, per_key, harmonic=-0.113, outputs=0, size=1.0, heads=False):
    """Neurons at even phases on each key, with a second harmonic; `outputs` more outputs that are silent."""
    t, phase = 2 * np.pi * np.arange(p) / p, 2 * np.pi * np.arange(per_key) / per_key
    angle = np.concatenate([np.outer(t * k, np.ones(per_key)) + phase for k in keys], 1)
    wave = np.cos(angle) + harmonic * np.cos(2 * angle)
    W = np.concatenate([np.cos(np.outer(np.ones(per_key), t * k) + 2 * phase[:, None]) for k in keys])
    tables = random_network(np.random.default_rng(0), p, len(W), p + outputs, heads=int(heads))
    return replace(
        tables,
        W_L=size * np.pad(W, ((0, 0), (0, outputs))),
        constant=0 * tables.constant,
        first=wave[:, None],
        second=wave[:, None],
        bypass_constant=0 * tables.bypass_constant,
        bypass_first=0 * tables.bypass_first,
        bypass_second=0 * tables.bypass_second,
    )


def good_advice(tables, keys, harmonics=((1, -1), (1, 1)), rank=4):
    """Clusters, scales and directions from the Fourier transforms of the network itself."""
    h, p = tables.activate(tables.pre_activations()), tables.p
    W = tables.W_L[:, :p] - tables.W_L[:, :p].mean(1, keepdims=True)
    H, G = np.fft.fft2(h, axes=(0, 1)) / p**2, np.fft.fft(W, axis=1)
    cluster = np.stack([np.abs(H[k, 0]) * np.abs(G[:, k]) for k in keys]).argmax(0)
    varying = h - h.mean(1)[:, None] - h.mean(0) + h.mean((0, 1))
    scale = (varying**2).mean((0, 1)) ** 0.25 / (np.linalg.norm(tables.W_L, axis=1) + 1e-12) ** 0.5
    directions = []
    for i, k in enumerate(keys):
        own = cluster == i
        columns = [f(G[own, k]) * scale[own] for f in (np.real, np.imag)]
        columns += [f(H[a * k % p, b * k % p][own]) / scale[own] for a, b in harmonics for f in (np.real, np.imag)]
        directions.append(np.stack(columns, 1)[:, :rank])
    return Advice(cluster, scale, tuple(directions))


def random_advice(rng, tables):
    n, K = len(tables.W_L), int(rng.integers(1, 4))
    cluster = rng.integers(0, K, n)
    sizes = np.bincount(cluster, minlength=K)
    directions = tuple(rng.normal(size=(size, rng.integers(0, size + 2))) for size in sizes)
    return Advice(cluster, np.exp(rng.normal(size=n) * rng.choice([0, 1, 4])), directions)


def corrupted(rng, tables, by):
    """The network with one token's row off by `by` times its norm, in a random direction."""
    first = tables.first.copy()
    token = rng.integers(tables.p)
    direction = rng.normal(size=first[token].shape)
    first[token] += by * np.linalg.norm(first[token]) * direction / np.linalg.norm(direction)
    return replace(tables, first=first)


def case(seed):
    """A network with its answers, and advice that may be good, random, or of another network."""
    rng = np.random.default_rng(seed)
    if seed % 2:
        p, keys = 7, (1, 2)
        tables = planted_network(p, keys, 8, rng.normal(), outputs=1, size=rng.choice([0.3, 2]), heads=seed % 4 == 1)
        tables = replace(tables, bypass_constant=rng.normal(size=p + 1), activation=rng.choice(["relu", "gelu"]))
        tables = corrupted(rng, tables, by=rng.choice([0, 0.3, 1, 3]))
        advice = good_advice(tables, keys, rank=int(rng.integers(7))) if seed % 3 else random_advice(rng, tables)
    else:
        heads, activation, rate = int(rng.integers(4)), rng.choice(["relu", "gelu"]), rng.choice([1, 0.5, 0.0])
        tables = random_network(rng, heads=heads, activation=str(activation), rate=float(rate) if heads else 1.0)
        advice = random_advice(rng, tables)
    return tables, sums(tables.p), advice


def true_loss(tables, answers):
    logits = tables.logits()
    own = np.take_along_axis(logits, answers[..., None], -1)
    return float(np.log(np.exp(logits - own).sum(-1)).mean())


def unsound(certified, tables, answers):
    """Claims of a certificate that a network does not keep."""
    margins = exhaustive_margins(tables, answers)
    wrong = int((certified.margin > margins).sum()) + int((certified.right & (margins <= 0)).sum())
    return wrong + int(certified.loss < true_loss(tables, answers)) + int(certified.accuracy > (margins > 0).mean())


# --- soundness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(4))
def test_any_advice_is_sound(part):
    certified = 0
    for seed in range(part * 50, part * 50 + 50):
        tables, answers, advice = case(seed)
        found = certify(tables, advice, answers)
        assert unsound(found, tables, answers) == 0, seed
        certified += int(found.right.sum())
    assert certified > 100


def test_any_advice_is_sound_where_the_second_operand_attends():
    certified = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rate, activation = rng.choice([1, 0.5, 0.0]), rng.choice(["relu", "gelu"])
        tables = random_network(rng, heads=int(rng.integers(1, 4)), activation=str(activation), rate=float(rate))
        tables = attended_by_the_second(rng, tables)
        size = int(rng.integers(0, 13))
        advice = (
            random_advice(rng, tables) if seed % 3 else Advice(np.zeros(12, int), np.ones(12), (np.eye(12)[:, :size],))
        )
        found = certify(tables, advice, sums(7))
        assert unsound(found, tables, sums(7)) == 0, seed
        certified += int(found.right.sum())
    assert certified > 30


_cluster = certificate._cluster


def cluster_without_penalty(*arguments):
    cluster = _cluster(*arguments)
    return replace(cluster, distances=0 * cluster.distances)


def without_penalty(monkeypatch):
    monkeypatch.setattr(certificate, "_cluster", cluster_without_penalty)
    return certify


def without_bypass(monkeypatch):
    def of(tables, advice, answers):
        return certify(replace(tables, **{name: 0 * getattr(tables, name) for name in TABLES[4:]}), advice, answers)

    return of


def without_equals(monkeypatch):
    def of(tables, advice, answers):
        outputs = {name: getattr(tables, name)[..., :-1] for name in (TABLES[0], *TABLES[4:])}
        return certify(replace(tables, **outputs), advice, answers)

    return of


@pytest.mark.parametrize("mutation", [without_penalty, without_bypass, without_equals])
def test_a_bound_that_leaves_something_out_is_caught(mutation, monkeypatch):
    mutated = mutation(monkeypatch)
    caught = 0
    for seed in range(40):
        tables, answers, advice = case(seed)
        caught += unsound(mutated(tables, advice, answers), tables, answers) > 0
    assert caught > 4


@pytest.mark.parametrize(("rate", "equals"), [(1.0, 1), (0.3, 1), (1.0, 0), (0.3, 0)])
def test_a_network_keeps_the_certificate_of_its_tables(rate, equals):
    rng, p = np.random.default_rng(0), 7
    operands = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    tokens = torch.cat([operands, torch.full((p * p, equals), p)], dim=1)
    config = Transformer(d_model=12, n_heads=3, d_head=4, d_mlp=16, attention_rate=rate, init="torch")
    for seed in range(10):
        model = build_model(config, p + 1, 2 + equals, p + 1, generator=torch.Generator().manual_seed(seed))
        tables = model.pair_tables(tokens)
        directions = (rng.normal(size=(16, seed + 7)),)  # 16 of them leave no penalty
        found = certify(tables, Advice(np.zeros(16, int), np.ones(16), directions), sums(p), d_model=12)
        logits = model.double()(tokens)[:, -1].detach().numpy().reshape(p, p, p + 1)
        own = np.take_along_axis(logits, sums(p)[..., None], -1)
        np.put_along_axis(logits, sums(p)[..., None], -np.inf, -1)
        margins = own[..., 0] - logits.max(-1)
        assert (found.margin < margins).all()
        assert 1e-13 < found.slack < 1e-9
        assert seed < 9 or np.abs(found.margin - margins).max() < 1e-5


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: replace(a, scale=np.full_like(a.scale, np.nan)),
        lambda a: replace(a, scale=-a.scale),
        lambda a: replace(a, scale=np.where(np.arange(len(a.scale)) % 2, np.inf, 1e-300)),
        lambda a: replace(a, scale=np.geomspace(1e-300, 1e300, len(a.scale))),
        lambda a: replace(a, directions=tuple(d * np.nan for d in a.directions)),
        lambda a: replace(a, directions=tuple(d * 1e300 for d in a.directions)),
        lambda a: replace(a, directions=tuple(np.repeat(d, 3, 1) for d in a.directions)),
        lambda a: replace(a, directions=tuple(0 * d for d in a.directions)),
        lambda a: replace(a, directions=tuple(d[:, :1] + 1e-12 * d for d in a.directions)),
        lambda a: Advice(0 * a.cluster, a.scale, (np.ones((len(a.scale), 1)), np.ones((0, 2)))),
    ],
)
def test_advice_that_is_no_number_is_sound(spoil):
    tables = planted_network(7, (1, 2), 8, outputs=1)
    advice = spoil(good_advice(tables, (1, 2)))
    found = certify(tables, advice, sums(7))
    assert unsound(found, tables, sums(7)) == 0
    assert np.isfinite(found.margin).all()


@pytest.mark.parametrize("name", ["W_L", "first", "bypass_constant"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_a_network_that_overflows_has_no_bound(name, value):
    tables = planted_network(7, (1, 2), 8)
    advice = good_advice(tables, (1, 2))
    table = getattr(tables, name).copy()
    table.flat[1] = value
    found = certify(replace(tables, **{name: table}), advice, sums(7))
    assert (found.accuracy, found.loss, found.right.any()) == (0, np.inf, False)
    assert (found.margin == -np.inf).all()


@pytest.mark.parametrize("far", [800, 709.5, -800, 500, -500])
def test_scores_that_are_far_apart(far):
    tables, rng = random_network(np.random.default_rng(0), heads=1), np.random.default_rng(0)
    first, second, rest = tables.scores
    tables = replace(tables, scores=(0 * first + far, 0 * second + far, 0 * rest))
    found = certify(tables, replace(random_advice(rng, tables), scale=np.ones(12)), sums(7))
    assert unsound(found, tables, sums(7)) == 0
    assert np.isfinite(found.margin).all() == (abs(far) == 500)


# --- tightness --------------------------------------------------------------------------------------------------------


def test_a_planted_algorithm_is_certified_at_its_loss():
    tables = planted_network(59, (3, 7, 20), 64, size=0.1)
    found = certify(tables, good_advice(tables, (3, 7, 20)), sums(59), d_model=64)
    assert found.accuracy == 1
    assert true_loss(tables, sums(59)) <= found.loss < true_loss(tables, sums(59)) + 1e-3
    assert found.compact
    assert found.rank == 4
    assert found.slack < 1e-9


def test_a_planted_algorithm_that_fails_is_certified_as_far_as_it_works():
    tables = planted_network(59, (3, 7, 20), 64, harmonic=0.113, size=0.1)
    accuracy = (exhaustive_margins(tables, sums(59)) > 0).mean()
    assert 0.5 < accuracy < 0.8
    assert certify(tables, good_advice(tables, (3, 7, 20)), sums(59)).accuracy == pytest.approx(accuracy, abs=2e-3)


def test_a_wrong_account_certifies_nothing():
    tables = planted_network(59, (3, 7, 20), 64, size=0.1)
    advice, rng = good_advice(tables, (3, 7, 20)), np.random.default_rng(0)
    shuffled = replace(advice, cluster=rng.permutation(advice.cluster))
    assert certify(tables, shuffled, sums(59)).accuracy == 0
    assert certify(tables, good_advice(tables, (3, 8, 20)), sums(59)).accuracy == 0


def test_all_directions_give_the_margins():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        tables = random_network(rng, heads=seed % 3)
        advice = Advice(np.zeros(12, int), np.exp(rng.normal(size=12)), (rng.normal(size=(12, 12)),))
        margins = exhaustive_margins(tables, sums(7))
        assert np.abs(certify(tables, advice, sums(7)).margin - margins).max() < 1e-5


def test_the_bound_does_not_depend_on_how_advice_is_written():
    rng = np.random.default_rng(0)
    tables = planted_network(11, (1, 3), 8, outputs=1)
    advice = good_advice(tables, (1, 3))
    margin = certify(tables, advice, sums(11)).margin
    turned = replace(advice, directions=tuple(d @ rng.normal(size=(4, 4)) for d in advice.directions))
    swapped = Advice(1 - advice.cluster, 3e5 * advice.scale, advice.directions[::-1])
    for other in (turned, swapped):
        assert np.abs(certify(tables, other, sums(11)).margin - margin).max() < 1e-8


def test_pairs_without_an_answer_count_for_nothing():
    tables = planted_network(11, (1, 3, 4), 16, size=0.1)
    advice, answers, defined = good_advice(tables, (1, 3, 4)), sums(11), np.ones((11, 11), bool)
    answers[:, 0], defined[:, 0] = -1, False
    found, whole = certify(tables, advice, answers, defined=defined), certify(tables, advice, sums(11))
    rest = certify(tables, advice, sums(11), defined=~defined)
    assert np.isnan(found.margin[:, 0]).all()
    assert not found.right[:, 0].any()
    assert np.array_equal(found.margin[:, 1:], whole.margin[:, 1:])
    assert found.accuracy == whole.right[:, 1:].mean()
    assert found.loss * 110 + rest.loss * 11 == pytest.approx(whole.loss * 121, abs=1e-9)


# --- rounding ---------------------------------------------------------------------------------------------------------


def test_functions_are_as_exact_as_the_bound_assumes():
    x = np.concatenate([np.linspace(-6, 6, 1501), np.geomspace(1e-12, 700, 1500)])
    with mpmath.workdps(40):
        exp = [abs(mpmath.exp(v) - mpmath.mpf(float(y))) / mpmath.exp(v) for v, y in zip(x, np.exp(x))]
        large = 1 + x[1501:]
        log = [abs(mpmath.log(v) - mpmath.mpf(float(y))) / mpmath.log(v) for v, y in zip(large, np.log(large))]
        errors = [abs(mpmath.erf(v) - mpmath.mpf(float(y))) for v, y in zip(x, erf(x))]
        gelu = random_network(np.random.default_rng(0), activation="gelu")
        exact = [mpmath.mpf(float(v)) * mpmath.ncdf(float(v)) for v in x]
        gelus = [abs(e - mpmath.mpf(float(y))) / max(abs(v), 1e-3) for v, e, y in zip(x, exact, gelu.activate(x))]
    assert max(exp) < 8 * UNIT
    assert max(log) < 8 * UNIT
    assert max(errors) < 16 * UNIT
    assert max(gelus) < 16 * UNIT


def exact_margins(tables, answers):
    """Margins in 60 digits: the network in real numbers, for tables that are exact."""
    number = np.vectorize(lambda value: mpmath.mpf(float(value)), otypes=[object])
    p, C = tables.p, tables.W_L.shape[1]
    arrays = {name: number(getattr(tables, name)) for name in TABLES}
    rate, margins = mpmath.mpf(tables.rate), np.empty((p, p), object)
    own = arrays["constant"].ndim > 1  # the second operand stands last
    for a, b in itertools.product(range(p), repeat=2):
        A = np.full((2, tables.first.shape[1]), mpmath.mpf(1), object)
        if tables.scores is not None:
            first, second, rest = (None if s is None else number(s) for s in tables.scores)
            e = [[mpmath.exp(s) for s in scores] for scores in (first[a, b] if own else first[a], second[b])]
            e.append([mpmath.mpf(0)] * len(e[0]) if own else [mpmath.exp(s) for s in rest])
            A = np.array([[rate * u / (u + v + w) + 1 - rate for u, v, w in zip(e[i], e[1 - i], e[2])] for i in (0, 1)])
        x = (
            (arrays["constant"][b] if own else arrays["constant"])
            + A[0] @ arrays["first"][a]
            + A[1] @ arrays["second"][b]
        )
        h = np.array([max(v, 0) if tables.activation == "relu" else v * mpmath.ncdf(v) for v in x])
        logits = h @ arrays["W_L"] + (arrays["bypass_constant"][b] if own else arrays["bypass_constant"])
        logits = logits + A[0] @ arrays["bypass_first"][a] + A[1] @ arrays["bypass_second"][b]
        y = answers[a, b]
        margins[a, b] = logits[y] - max(logits[c] for c in range(C) if c != y)
    return margins


def uneven(rng, tables, powers):
    """The network with entries whose sizes differ by up to 10^powers, so that sums cancel."""
    change = {
        name: getattr(tables, name) * 10 ** rng.uniform(0, powers, getattr(tables, name).shape) for name in TABLES
    }
    return replace(tables, **change)


@pytest.mark.parametrize(
    ("heads", "activation", "rate", "own"),
    [
        (0, "relu", 1.0, False),
        (0, "gelu", 1.0, False),
        (2, "relu", 0.4, False),
        (1, "gelu", 1.0, False),
        (2, "relu", 0.4, True),
        (1, "gelu", 1.0, True),
    ],
)
@pytest.mark.parametrize("powers", [0, 6])
def test_rounding_stays_below_the_slack(heads, activation, rate, own, powers, monkeypatch):
    rng, p, too_high = np.random.default_rng(powers), 4, 0
    for _ in range(6):
        n = int(rng.integers(1, 6))
        tables = random_network(rng, p, n, 3, heads, activation, rate)
        tables = uneven(rng, attended_by_the_second(rng, tables) if own else tables, powers)
        advice = Advice(np.zeros(n, int), np.exp(rng.normal(size=n)), (rng.normal(size=(n, n)),))
        with mpmath.workdps(60):
            answers = sums(p) % 3
            margins = exact_margins(tables, answers)
            found = certify(tables, advice, answers)
            assert (found.margin < margins).all()
            with monkeypatch.context() as patch:
                patch.setattr(certificate, "_slack", lambda *_: 0.0)
                patch.setattr(certificate, "_cluster", cluster_without_penalty)
                bare = certify(tables, advice, answers).margin  # with all directions, e is 0 but for rounding
            assert (np.abs(bare - margins) < found.slack).all()
            too_high += int((bare > margins).sum())
    assert too_high > 10  # rounding goes either way: without slack, the bound would be wrong


@pytest.mark.parametrize("powers", [0, 8])
def test_rounding_of_a_neuron_whose_bound_is_its_margin(powers, monkeypatch):
    # one neuron, two outputs, no direction: Cauchy-Schwarz is an equality wherever h0 speaks against the answer
    rng, touched, too_high = np.random.default_rng(powers), 0, 0
    for _ in range(40):
        tables, answers = uneven(rng, random_network(rng, 3, 1, 2), powers), rng.integers(0, 2, (3, 3))
        advice = Advice(np.zeros(1, int), np.ones(1), (np.zeros((1, 0)),))
        value = {name: [Fraction(float(v)) for v in getattr(tables, name).flat] for name in TABLES[:5]}
        found = certify(tables, advice, answers)
        with monkeypatch.context() as patch:
            patch.setattr(certificate, "_slack", lambda *_: 0.0)
            patch.setattr(certificate, "_cluster", lambda *a: replace(_cluster(*a), raised=0.0))
            bare = certify(tables, advice, answers).margin
        for a, b in itertools.product(range(3), repeat=2):
            h = max(value["constant"][0] + value["first"][a] + value["second"][b], 0)
            logits = [h * w + c for w, c in zip(value["W_L"], value["bypass_constant"])]
            margin = logits[answers[a, b]] - logits[1 - answers[a, b]]
            assert Fraction(float(found.margin[a, b])) < margin
            touched += float(margin) - found.margin[a, b] < 1e-6 * (1 + abs(float(margin)))
            too_high += Fraction(float(bare[a, b])) > margin
    assert touched > 100
    assert too_high > 20


def test_rounding_of_the_tables_is_part_of_the_slack():
    rng = np.random.default_rng(0)
    for heads in (0, 2):
        tables = random_network(rng, heads=heads)
        advice = random_advice(rng, tables)
        exact = certify(tables, advice, sums(7)).slack
        for name in (*TABLES, "scores") if heads else TABLES:
            rounded = replace(tables, rounding={name: 1e-6})
            others = {field: getattr(tables, field) for field in TABLES}
            if name != "scores":
                others[name] = others[name] + 1e-6 * rng.choice([-1, 1], others[name].shape)
            moved = replace(tables, **others)
            if name == "scores":
                moved = replace(moved, scores=tuple(s + 1e-6 * rng.choice([-1, 1], s.shape) for s in tables.scores))
            found = certify(rounded, advice, sums(7))
            assert found.slack > exact + 1e-6
            assert unsound(found, moved, sums(7)) == 0, name


# --- cost -------------------------------------------------------------------------------------------------------------


PER_NUMBER = {
    np.add,
    np.subtract,
    np.multiply,
    np.divide,
    np.negative,
    np.absolute,
    np.maximum,
    np.sqrt,
    np.exp,
    np.log,
    erf,
}
FREE = {np.greater, np.isnan, np.isfinite, np.bitwise_and}
MOVES = {np.concatenate, np.take_along_axis, np.put_along_axis, np.where}


class Counted(np.ndarray):
    """Array whose arithmetic is counted: one operation for each number that a function returns or a sum takes in."""

    total = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **settings):
        settings = {name: plain(value) for name, value in settings.items()}
        inputs = plain(inputs)
        result = getattr(ufunc, method)(*inputs, **settings)
        if ufunc is np.matmul:
            Counted.total += 2 * np.size(result) * inputs[0].shape[-1]
        elif method == "reduce":
            assert ufunc in {np.add, np.maximum, np.logical_and}
            Counted.total += 0 if ufunc is np.logical_and else np.size(inputs[0])
        elif ufunc in PER_NUMBER:
            Counted.total += np.size(result)
        else:
            assert ufunc in FREE, ufunc
        return counted(result)

    def __array_function__(self, function, types, inputs, settings):
        inputs, settings = plain(inputs), plain(settings)
        result = function(*inputs, **settings)
        if function is np.einsum:
            assert inputs[0] == "abd,abd->ab"
            Counted.total += 2 * np.size(inputs[1])
        elif function is np.linalg.qr:
            Counted.total += 4 * inputs[0].shape[0] * inputs[0].shape[1] ** 2
        else:
            assert function in MOVES, function
        return tuple(counted(part) for part in result) if isinstance(result, tuple) else counted(result)


def plain(value):
    if isinstance(value, Counted):
        return value.view(np.ndarray)
    if isinstance(value, tuple | list):
        return type(value)(plain(part) for part in value)
    return value


def counted(value):
    if value is None:
        return None
    return value.view(Counted) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize(
    ("heads", "activation", "own"),
    [(0, "relu", False), (0, "gelu", False), (1, "gelu", False), (3, "relu", False), (2, "relu", True)],
)
@pytest.mark.parametrize("columns", [0, 3])
def test_operations_are_those_that_are_done(heads, activation, own, columns, monkeypatch):
    rng = np.random.default_rng(0)
    tables = random_network(rng, 5, 14, 6, heads, activation, rate=0.5)
    tables = attended_by_the_second(rng, tables) if own else tables
    cluster = np.arange(14) % 3
    directions = tuple(rng.normal(size=(size, columns)) for size in np.bincount(cluster, minlength=4))
    if columns:
        directions[0][:, 1] = directions[0][:, 0]  # one that is dropped
    advice = Advice(cluster, np.exp(rng.normal(size=14)), directions)
    expected = certify(tables, advice, sums(5))
    same = {field.name: counted(getattr(tables, field.name)) for field in fields(tables)}
    same["scores"] = None if tables.scores is None else tuple(map(counted, tables.scores))
    advice = Advice(advice.cluster, counted(advice.scale), tuple(map(counted, advice.directions)))
    monkeypatch.setattr(certificate, "CHUNK", 2 * 5 * 14)
    monkeypatch.setattr(Counted, "total", 0)
    found = certify(PairTables(**same), advice, sums(5))
    assert np.abs(plain(found.margin) - expected.margin).max() < 1e-12
    assert found.operations == expected.operations == Counted.total
    assert not found.compact


def test_the_network_is_not_run(monkeypatch):
    tables = planted_network(7, (1, 2), 8, heads=True)
    advice = good_advice(tables, (1, 2))
    for name in ("attention", "pre_activations", "bypass", "logits"):
        monkeypatch.delattr(PairTables, name)
    assert certify(tables, advice, sums(7)).operations > 0


def test_cost_of_what_it_is_compared_with():
    tables = random_network(np.random.default_rng(0), p=7, n=12, C=8)  # d_z = 4
    found = certify(tables, Advice(np.zeros(12, int), np.ones(12), (np.ones((12, 1)),)), sums(7))
    assert found.exhaustive == 7 * 12 + 49 * (12 + 12 + 2 * 12 * 8)  # first + constant, x, relu, W
    assert found.forward == 49 * (2 * 4 * 12 + 2 * 12 * 8 + 2 * 4 * 8)
    more = certify(tables, Advice(np.zeros(12, int), np.ones(12), (np.ones((12, 1)),)), sums(7), d_model=10)
    made = 2 * 2 * 7 * 10 * 12  # two tables of products [7, 10] @ [10, 12]
    assert (more.exhaustive - found.exhaustive, more.operations - found.operations) == (made, made)


@pytest.mark.parametrize(
    ("config", "positions", "sums_of_rows"),
    [
        # embedding + position of 15 rows, and the values of 14 less those of the last position
        (Transformer(d_model=12, n_heads=3, d_head=5, d_mlp=10), 3, 15 * 12 + 14 * 15),
        (Transformer(d_model=12, n_heads=3, d_head=5, d_mlp=10), 2, 14 * 12),
        (FeedForward(d_model=12, d_hidden=(9,)), 2, 0),
        (FeedForward(d_hidden=(9,), embedding="one-hot"), 2, 0),
    ],
)
def test_cost_of_the_tables_is_that_of_their_products(config, positions, sums_of_rows):
    operands = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    tokens = torch.cat([operands, torch.full((49, positions - 2), 7)], dim=1)
    model = build_model(config, 8, positions, 7, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        tables = model.pair_tables(tokens)
    # each product is made twice, the second time of absolute values, to bound the rounding
    assert certificate._tables(tables, 12) == counter.get_total_flops() // 2 + sums_of_rows


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": sums(7) + 2}, "must be outputs, 0..7; got 2..8"),
        ({"answers": sums(7) - 1}, "must be outputs, 0..7; got -1..5"),
        ({"answers": sums(5)}, r"must have the sizes \[7, 7\]"),
        ({"defined": np.zeros((7, 7), bool)}, "with 0 defined"),
        ({"cluster": np.zeros(11, int)}, "each of the 12 neurons"),
        ({"cluster": np.full(12, 1)}, r"clusters 1..1 of 12"),
        ({"directions": (np.ones((11, 2)),)}, r"directions \[12, r\] for the 12 neurons of cluster 0; got \[11, 2\]"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_what_does_not_fit_is_refused(change, message):
    tables = random_network(np.random.default_rng(0))
    advice = {"cluster": np.zeros(12, int), "scale": np.ones(12), "directions": (np.ones((12, 2)),)}
    advice = Advice(**{name: change.get(name, value) for name, value in advice.items()})
    with pytest.raises(InvalidArgumentError, match=message):
        certify(tables, advice, change.get("answers", sums(7)), defined=change.get("defined"))
