"""The clock and the pizza: explicit p^3 cubes, planted algorithms, published procedures, and a network's gradients."""

import itertools
import math
import random as python_random

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from interp.analysis import algorithms, logits
from interp.config import Transformer
from interp.errors import InvalidArgumentError
from interp.models import build_model
from tests.planted import SIGN, answers, random


def cube(p, k, name, operation="add"):
    """A formula on all (a, b, c), from the points of the circle where the paper derives it from them."""
    w = 2 * math.pi * k / p
    a, b, c = (torch.arange(p, dtype=torch.float64).reshape(shape) for shape in ((p, 1, 1), (1, p, 1), (1, 1, p)))
    b = SIGN[operation] * b
    x, y = (w * a).cos() + (w * b).cos(), (w * a).sin() + (w * b).sin()
    x2, y2 = (2 * w * a).cos() + (2 * w * b).cos(), (2 * w * a).sin() + (2 * w * b).sin()
    match name:
        case "clock":
            return (w * (a + b - c)).cos()
        case "pizza":
            return (w * (a - b) / 2).cos().abs() * (w * (a + b - c)).cos()
        case "pizza_absolute":  # two neurons of the midpoint: along c/2 and across it
            along, across = (w * c / 2).cos() * x + (w * c / 2).sin() * y, (w * c / 2).cos() * y - (w * c / 2).sin() * x
            return along.abs() - across.abs()
        case "accompanying":  # of the midpoint on the circle of frequency 2k, read at the angle w_k c
            return -((w * c).cos() * x2 + (w * c).sin() * y2)


def centred(L):
    return L - L.mean(-1, keepdim=True)


def least_squares(L, functions):
    """The share of the squares of L that a fit by these cubes explains, step by step."""
    design = torch.stack([f.expand(L.shape[-3:]).flatten() for f in functions], dim=1).numpy()
    shares = []
    for y in L.flatten(-3).numpy():
        residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        shares.append(1 - residual @ residual / (y @ y))
    return torch.tensor(shares)


def circle(p, k, d_model, radius=1.0, phase=0.3, seed=0):
    """Tokens on a circle of frequency k, in a random plane."""
    angle = 2 * math.pi * k * torch.arange(p, dtype=torch.float64) / p + phase
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1) @ torch.linalg.qr(random(d_model, 2, seed=seed)).Q.mT


# --- gradient symmetricity --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "count", "seed"), [(5, 100, 42), (7, 100, 42), (7, 343, 1)])
def test_the_triples_are_those_of_the_shuffled_list(p, count, seed):
    triples = list(itertools.product(range(p), repeat=3))
    python_random.Random(seed).shuffle(triples)
    found = algorithms.symmetricity_triples(p, count=count, seed=seed)
    assert [tuple(triple) for triple in found.tolist()] == triples[:count]
    found.zero_()
    assert algorithms.symmetricity_triples(p, count=count, seed=seed).any()  # nobody else's copy


def test_symmetricity_is_the_mean_cosine_and_ignores_lengths():
    a, b = random(2, 3, 9, 4), random(2, 3, 9, 4, seed=1)
    cosines = [
        [
            sum(float(u @ v) / math.sqrt(float(u @ u) * float(v @ v)) for u, v in zip(first, second, strict=True)) / 9
            for first, second in zip(*step, strict=True)
        ]
        for step in zip(a, b, strict=True)
    ]
    torch.testing.assert_close(algorithms.gradient_symmetricity(a, b), torch.tensor(cosines, dtype=torch.float64))
    scale = random(2, 3, 9, 1, seed=2).exp() * 1e-12  # gradients of a grokked network are as small as that
    torch.testing.assert_close(algorithms.gradient_symmetricity(scale * a, b), algorithms.gradient_symmetricity(a, b))
    torch.testing.assert_close(algorithms.gradient_symmetricity(a, 2 * a), torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(algorithms.gradient_symmetricity(a, -a), -torch.ones(2, 3, dtype=torch.float64))


def test_a_vanishing_gradient_counts_zero():
    a = torch.ones(4, 3)
    b = torch.tensor([[1.0], [1.0], [0.0], [-1.0]]) * a
    assert algorithms.gradient_symmetricity(a, b).item() == pytest.approx(1 / 4)
    assert algorithms.gradient_symmetricity(a, 0 * a).item() == 0


def gradients(model, triples, p):
    """dL_c/dE_a and dL_c/dE_b at the output of the embedding, for all triples in one backward pass."""
    a, b, c = triples.unbind(dim=1)
    output, cache = model.run_with_cache(torch.stack([a, b, torch.full_like(a, p)], dim=1))
    chosen = output[torch.arange(len(c)), -1, c].sum()
    (gradient,) = torch.autograd.grad(chosen, cache["hook_embed"])
    return gradient[:, 0], gradient[:, 1]


def differences(model, a, b, c, p, h=1e-4):
    """The same for one triple by central differences: the table gets the moved embeddings as further tokens."""
    d_model = model.embed.W_E.shape[1]
    moves = torch.cat([torch.eye(d_model), -torch.eye(d_model)]).double() * h
    table = torch.cat([model.embed.W_E, model.embed.W_E[a] + moves, model.embed.W_E[b] + moves]).detach()
    further = build_model(model.config, len(table), 3, p, generator=torch.Generator()).double()
    further.load_state_dict(model.state_dict() | {"embed.W_E": table})
    moved = p + 1 + torch.arange(4 * d_model)
    first, second = moved.clone(), moved.clone()
    first[2 * d_model :], second[: 2 * d_model] = a, b
    with torch.no_grad():
        logit = further(torch.stack([first, second, torch.full_like(first, p)], dim=1))[:, -1, c]
    (up_a, down_a), (up_b, down_b) = logit.reshape(2, 2, d_model)
    return (up_a - down_a) / (2 * h), (up_b - down_b) / (2 * h)


def test_a_network_with_constant_attention_is_symmetric_and_one_with_attention_is_not():
    p = 7
    config = Transformer(d_model=16, n_heads=2, d_head=8, d_mlp=24, activation="gelu")
    model = build_model(config, p + 1, 3, p, generator=torch.Generator().manual_seed(0)).double()
    triples = algorithms.symmetricity_triples(p, count=30)
    with torch.no_grad():
        model.blocks[0].attn.W_Q.mul_(30)  # attention that chooses
    attending = algorithms.gradient_symmetricity(*gradients(model, triples, p))
    slow = [torch.cosine_similarity(*differences(model, *triple, p), dim=0) for triple in triples.tolist()]
    torch.testing.assert_close(attending, torch.stack(slow).mean(), atol=1e-5, rtol=0)
    assert attending.item() < 0.9
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()  # '=' attends to all positions alike and sees E_a + E_b
    constant = algorithms.gradient_symmetricity(*gradients(model, triples, p))
    assert constant.item() == pytest.approx(1, abs=1e-12)


# --- distance irrelevance ---------------------------------------------------------------------------------------------


def published_irrelevance(values, operation="add"):
    """For odd p: fill M[a + b, a - b], then the mean of its columns' standard deviations over that of M."""
    p = len(values)
    M = np.zeros((p, p))
    for a in range(p):
        for b in range(p):
            row, column = (a + b) % p, (a - b) % p
            if operation == "subtract":
                row, column = column, row
            M[row, column] = values[a, b]
    return np.mean(np.std(M, axis=0)) / np.std(M.flatten())


@pytest.mark.parametrize("operation", ["add", "subtract"])
@pytest.mark.parametrize("p", [7, 11])
def test_irrelevance_is_the_published_procedure(p, operation):
    L, labels = random(2, p, p, p + 1) + 3 * random(p, 1, 1, seed=1), answers(p, operation)
    right, wrong = np.zeros((2, 2, p, p))
    for step, a, b in itertools.product(range(2), range(p), range(p)):
        row = L[step, a, b].tolist()
        right[step, a, b] = row.pop(labels[a, b])
        wrong[step, a, b] = max(row)
    for function, values in (
        (algorithms.distance_irrelevance, right),
        (algorithms.distance_irrelevance_wrong, wrong),
    ):
        found = function(L, labels, operation)
        np.testing.assert_allclose(found, [published_irrelevance(step, operation) for step in values])
        torch.testing.assert_close(function(5 + 2 * L, labels, operation), found)


@pytest.mark.parametrize("p", [6, 8])
def test_irrelevance_for_even_p_is_the_spread_at_one_distance(p):
    L, labels = random(p, p, p), answers(p)
    by_distance = [
        [L[a, b, labels[a, b]].item() for a in range(p) for b in range(p) if (a - b) % p == d] for d in range(p)
    ]
    slow = np.mean([np.std(line) for line in by_distance]) / np.std(by_distance)
    assert algorithms.distance_irrelevance(L, labels).item() == pytest.approx(slow)


@pytest.mark.parametrize("operation", ["add", "subtract"])
@pytest.mark.parametrize("p", [7, 8, 11])
def test_irrelevance_at_its_ends(p, operation):
    labels, other = answers(p, operation), {"add": "subtract", "subtract": "add"}[operation]
    for function in (algorithms.distance_irrelevance, algorithms.distance_irrelevance_wrong):
        assert function(cube(p, 2, "pizza", operation), labels, operation).item() < 1e-7
        assert function(cube(p, 2, "clock", operation), labels, operation).item() == 1  # constant up to rounding
        assert function(torch.zeros(2, p, p, p), labels, operation).tolist() == [1, 1]
        if p % 2:  # for even p a sum and a difference have one parity
            of_answer = cube(p, 2, "clock", operation) + random(p)[labels, None]
            assert function(of_answer, labels, operation).item() == pytest.approx(1)
            assert function(of_answer, labels, other).item() < 1e-7


def test_a_tie_with_the_label_is_the_largest_wrong_logit():
    L = torch.zeros(5, 5, 3)
    d = (answers(5, "subtract") % 5).float()
    for right in range(3):
        L[..., right] = d
    assert algorithms.distance_irrelevance_wrong(L, torch.ones(5, 5, dtype=torch.int64)).item() == 0


# --- what the formulas explain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["add", "subtract"])
@pytest.mark.parametrize("p", [7, 8, 9, 11])
def test_variance_explained_is_least_squares_on_explicit_cubes(p, operation):
    L = random(2, p, p, p) + 3 * random(2, p, p, 1, seed=1)  # the means over answers do not count
    L += cube(p, 1, "clock", operation) + 2 * cube(p, 2, "pizza_absolute", operation)
    for keys in ([1], [1, p // 2], list(range(1, p // 2 + 1))):
        of = {name: [cube(p, k, name, operation) for k in keys] for name in ("clock", "pizza", "accompanying")}
        mask = torch.isin(torch.arange(1, p // 2 + 1), torch.tensor(keys))
        for given in (keys, mask, mask.expand(2, -1)):
            torch.testing.assert_close(
                algorithms.clock_variance_explained(L, given, operation), least_squares(centred(L), of["clock"])
            )
            torch.testing.assert_close(
                algorithms.pizza_variance_explained(L, given, operation, accompanying=False),
                least_squares(centred(L), of["pizza"]),
            )
            torch.testing.assert_close(
                algorithms.pizza_variance_explained(L, given, operation),
                least_squares(centred(L), of["pizza"] + of["accompanying"]),
            )
    assert algorithms.pizza_variance_explained(L, [], operation).tolist() == [0, 0]


def test_each_step_has_its_own_keys():
    L = random(2, 7, 7, 7)
    mask = torch.tensor([[True, False, False], [False, True, True]])
    for function in (algorithms.clock_variance_explained, algorithms.pizza_variance_explained):
        expected = torch.stack([function(L[0], [1]), function(L[1], [2, 3])])
        torch.testing.assert_close(function(L, mask), expected)


def test_planted_algorithms_explain_themselves_and_part_of_each_other():
    p = 101
    clock, pizza = (cube(p, 7, name).float() for name in ("clock", "pizza"))
    explained = algorithms.clock_variance_explained, algorithms.pizza_variance_explained
    assert explained[0](clock, [7]).item() == pytest.approx(1)
    assert explained[1](pizza, [7], accompanying=False).item() == pytest.approx(1)
    assert explained[0](clock, [1, 2]).item() < 1e-9
    assert explained[1](pizza, [1, 2]).item() < 1e-9
    mixed = explained[1](pizza + 0.4 * cube(p, 7, "accompanying").float(), [7])
    assert mixed.item() == pytest.approx(1)
    # sums over |d| <= (p - 1)/2 of cos(pi d/p), its square, and its product with cos(2 pi d/p), as Dirichlet kernels
    total, squares = 1 / math.sin(math.pi / (2 * p)), p / 2
    crossed = (1 / math.sin(math.pi / (2 * p)) - 1 / math.sin(3 * math.pi / (2 * p))) / 2
    alone = total**2 / (p * squares)
    assert alone == pytest.approx(8 / math.pi**2, abs=1e-3)
    assert explained[0](pizza, [7]).item() == pytest.approx(alone, abs=1e-6)
    assert explained[1](clock, [7], accompanying=False).item() == pytest.approx(alone, abs=1e-6)
    both = total**2 / (p * (squares - crossed**2 / (p / 2)))
    assert both == pytest.approx(0.989, abs=1e-3)
    assert explained[1](clock, [7]).item() == pytest.approx(both, abs=1e-6)


def test_random_logits_are_explained_by_their_share_of_dimensions():
    p, keys = 7, [1, 3]
    L = random(400, p, p, p)
    dimensions = p * p * (p - 1)
    for found, functions in (
        (algorithms.clock_variance_explained(L, keys), 2),
        (algorithms.pizza_variance_explained(L, keys), 4),
        (algorithms.pizza_variance_explained(L, keys, accompanying=False), 2),
    ):
        assert found.mean().item() == pytest.approx(functions / dimensions, rel=0.15)


def test_logits_without_content_are_not_explained():
    rows = torch.linspace(0.01, 1, 49).reshape(7, 7, 1).expand(7, 7, 7)
    for constant in (rows, rows.double(), torch.zeros(7, 7, 7)):
        assert algorithms.pizza_variance_explained(constant, [1, 2, 3]).item() == 0
        assert algorithms.clock_variance_explained(constant, [1, 2, 3]).item() == 0
        uneven = (constant * (1 + torch.finfo(constant.dtype).eps * random(7, 7, 7).sign())).to(constant.dtype)
        assert algorithms.pizza_variance_explained(uneven, [1, 2, 3]).item() == 0


@pytest.mark.parametrize("operation", ["add", "subtract"])
@pytest.mark.parametrize("p", [7, 8, 11])
def test_circle_fit_is_the_published_procedure(p, operation):
    L = random(2, p, p, p) + random(2, p, p, 1, seed=1) + 4 * cube(p, 2, "pizza", operation) + 10
    for k in range(1, p // 2 + 1):
        fit = algorithms.circle_fit(L, k, operation)
        for name in ("clock", "pizza", "pizza_absolute", "accompanying"):
            f = cube(p, k, name, operation).expand(p, p, p).numpy()
            slow = []
            for y in L.numpy():
                y, g = (y - y.mean()) / y.std(), (f - f.mean()) / f.std()
                slow.append(1 - np.var(y - g) / np.var(y))
            np.testing.assert_allclose(getattr(fit, name), slow, atol=1e-10)


def test_circle_fit_at_its_ends():
    p = 11
    for name in ("clock", "pizza", "pizza_absolute", "accompanying"):
        planted = cube(p, 3, name)
        fit = algorithms.circle_fit(torch.stack([7 + 2 * planted, -planted]), 3)
        torch.testing.assert_close(getattr(fit, name), torch.tensor([1.0, -3.0], dtype=torch.float64))
        flat = getattr(algorithms.circle_fit(torch.full((p, p, p), 0.3), 3), name)
        assert flat.item() == -1
    other = algorithms.circle_fit(cube(p, 3, "clock"), 4)
    assert other.clock.item() == pytest.approx(-1)
    similar = algorithms.circle_fit(cube(p, 3, "pizza"), 3)  # |cos x/2| - |sin x/2| is cos x over 1 to sqrt(2)
    assert 0.98 < similar.pizza_absolute.item() < 1


def test_the_clock_is_found_by_either_road():
    L = random(3, 7, 7, 7)
    mask = torch.tensor([True, False, True])
    torch.testing.assert_close(algorithms.clock_variance_explained(L, [1, 3]), logits.logit_variance_explained(L, mask))


# --- circles ----------------------------------------------------------------------------------------------------------


def test_isolation_is_the_published_inverse_transform():
    W_E = random(2, 23, 30) + random(30, seed=1)
    for kept in ([1, 2], [5], [20, 3, 4]):
        slow = []
        for step in W_E.numpy():
            pca = PCA(20).fit(step)
            coordinates = pca.transform(step)
            coordinates[:, [i for i in range(20) if i + 1 not in kept]] = 0
            slow.append(pca.inverse_transform(coordinates))
        np.testing.assert_allclose(algorithms.isolate_components(W_E, kept), slow, atol=1e-10)
    torch.testing.assert_close(algorithms.isolate_components(W_E, range(1, 23)), W_E)
    rest = W_E - algorithms.isolate_components(W_E, (1, 2)) + W_E.mean(-2, keepdim=True)
    torch.testing.assert_close(rest, algorithms.isolate_components(W_E, range(3, 23)))


def test_an_isolated_circle_is_the_planted_one():
    first, second = circle(11, 2, 8, radius=3), circle(11, 5, 8, seed=1)
    second = second - second @ torch.linalg.pinv(first) @ first  # in a plane of its own
    both = first + second + random(8, seed=2)
    torch.testing.assert_close(algorithms.isolate_components(both, (1, 2)), first + both.mean(0))


def test_planted_circles_are_found_with_those_that_accompany_them():
    p, frame = 59, torch.linalg.qr(random(40, 12)).Q
    planted = [(17, 3.0), (3, 2.5), (15, 2.1), (25, 1.0), (6, 0.8), (29, 0.6)]  # the pizza of Zhong et al.
    t = torch.arange(p, dtype=torch.float64) * (2 * math.pi / p)
    waves = torch.cat([torch.stack([r * (k * t).cos(), 0.9 * r * (k * t).sin()]) for k, r in planted]).mT
    found = algorithms.circles(waves @ frame.mT + 0.02 * random(p, 40, seed=1) + random(40, seed=2))
    assert [(circle.frequency, circle.accompanies) for circle in found] == [
        (17, None),
        (3, None),
        (15, None),
        (25, 17),
        (6, 3),
        (29, 15),
    ]
    assert [circle.components for circle in found] == [(2 * i + 1, 2 * i + 2) for i in range(6)]
    variance = torch.tensor([radius**2 for _, radius in planted])
    shares = torch.tensor([circle.share for circle in found])
    torch.testing.assert_close(shares, variance / variance.sum(), atol=0.01, rtol=0)
    assert all(circle.circularity > 0.9 for circle in found)


def test_the_components_of_a_circle_need_not_be_neighbours():
    p = 23
    t = torch.arange(p, dtype=torch.float64) * (2 * math.pi / p)
    sizes = [(2, 4.0, 2.5), (7, 3.0, 2.0)]  # components 1 and 3, 2 and 4
    W_E = torch.stack([wave for k, u, v in sizes for wave in (u * (k * t).cos(), v * (k * t).sin())], dim=1)
    found = algorithms.circles(W_E)
    assert [(circle.components, circle.frequency) for circle in found] == [((1, 3), 2), ((2, 4), 7)]
    for circle_, (_, u, v) in zip(found, sizes, strict=True):
        assert circle_.circularity == pytest.approx((u + v) ** 2 / (2 * (u * u + v * v)))
    assert len(algorithms.circles(W_E, minimum=0.97)) == 0
    assert algorithms.circles(W_E, components=3)[0].components == (1, 3)
    assert len(algorithms.circles(W_E, components=2)) == 0


def test_of_two_partners_the_more_circular_wins():
    t = torch.arange(23, dtype=torch.float64) * (2 * math.pi / 23)
    sine, other = (2 * t).sin(), (5 * t).sin()
    W_E = torch.stack([3 * (2 * t).cos(), 2 * (0.8 * sine + 0.6 * other), 0.6 * sine - 0.8 * other], dim=1)
    (found,) = algorithms.circles(W_E, minimum=0.6)  # components 1 and 3 alone would have (3 + 0.6)^2/(2 (9 + 1))
    assert (found.components, found.frequency) == ((1, 2), 2)
    assert found.circularity == pytest.approx((3 + 1.6) ** 2 / (2 * (9 + 4)))
    (found,) = algorithms.circles(W_E[:, [0, 2]], minimum=0.6)
    assert found.circularity == pytest.approx(0.648)


def test_what_is_no_circle_is_not_one():
    assert all(algorithms.circles(random(59, 64, seed=seed)) == () for seed in range(5))
    t = torch.arange(8, dtype=torch.float64)
    alternating = torch.stack([3 * (math.pi * t).cos(), random(8) / 10], dim=1)  # p/2: round with any other component
    assert algorithms.circles(alternating) == ()
    line = torch.stack([(2 * math.pi * t / 8).cos(), 0 * t], dim=1)
    assert algorithms.circles(line) == ()
    assert algorithms.circles(torch.ones(8, 3)) == ()
    for seed in range(5):  # what a circle of frequency 1 leaves of 5 tokens, rounding, has frequency 2
        (alone,) = algorithms.circles(circle(5, 1, 4, seed=seed).float(), minimum=0.6)
        assert alone.frequency == 1
    (alone,) = algorithms.circles(circle(9, 3, 5))  # 2 * 3 = -3 (mod 9): no circle accompanies itself
    assert (alone.frequency, alone.accompanies, alone.components) == (3, None, (1, 2))


def test_the_larger_circle_is_the_one_that_is_accompanied():
    t = torch.arange(7, dtype=torch.float64) * (2 * math.pi / 7)  # 1, 2, 4 = -3, 8 = 1: each is twice another

    def found(*radii):
        waves = [r * wave for k, r in zip((1, 2, 3), radii, strict=True) for wave in ((k * t).cos(), (k * t).sin())]
        return {circle.frequency: circle.accompanies for circle in algorithms.circles(torch.stack(waves, dim=1))}

    assert found(3, 2, 1) == {1: None, 2: 1, 3: 2}
    assert found(1, 3, 2) == {2: None, 3: 2, 1: 3}
    assert found(2, 1, 3) == {3: None, 1: 3, 2: 1}


# --- guards -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: algorithms.symmetricity_triples(3, count=28), "`count` must be at most p^3 = 27"),
        (lambda: algorithms.symmetricity_triples(2), "`p` must be a whole number >= 3"),
        (lambda: algorithms.symmetricity_triples(5, count=0), "`count` must be a whole number >= 1"),
        (
            lambda: algorithms.gradient_symmetricity(torch.ones(3, 4), torch.ones(3, 5)),
            r"`gradient_b` must have the shape of `gradient_a`, [3, 4]; got [3, 5]",
        ),
        (
            lambda: algorithms.gradient_symmetricity(torch.full((3, 4), math.nan), torch.ones(3, 4)),
            "`gradient_a` must be finite",
        ),
        (
            lambda: algorithms.distance_irrelevance(torch.zeros(5, 5, 5), answers(5) + 1),
            "`labels` must lie in 0..4",
        ),
        (
            lambda: algorithms.distance_irrelevance(torch.zeros(5, 5, 5), answers(5), "multiply"),
            '`operation` must be "add" or "subtract"',
        ),
        (
            lambda: algorithms.distance_irrelevance_wrong(torch.zeros(5, 5, 1), 0 * answers(5)),
            "`logits` must have at least 2 answers",
        ),
        (lambda: algorithms.clock_variance_explained(torch.zeros(5, 5, 6), [1]), "every `p` of one size"),
        (lambda: algorithms.clock_variance_explained(torch.zeros(5, 5, 5), [3]), "frequencies in 1..2 for p=5"),
        (lambda: algorithms.pizza_variance_explained(torch.zeros(5, 5, 6), [1]), "every `p` of one size"),
        (lambda: algorithms.pizza_variance_explained(torch.zeros(5, 5, 5), [0]), "frequencies in 1..2 for p=5"),
        (
            lambda: algorithms.pizza_variance_explained(torch.zeros(5, 5, 5), [1], "multiply"),
            '`operation` must be "add" or "subtract"',
        ),
        (lambda: algorithms.circle_fit(torch.zeros(5, 5, 5), 3), "`frequency` must be a frequency in 1..2 for p=5"),
        (lambda: algorithms.circle_fit(torch.zeros(5, 5, 6), 1), "every `p` of one size"),
        (lambda: algorithms.isolate_components(torch.ones(5, 3), []), "`components` must be distinct numbers in 1..3"),
        (lambda: algorithms.isolate_components(torch.ones(5, 3), [1, 1]), "got [1, 1]"),
        (lambda: algorithms.isolate_components(torch.ones(5, 9), [5]), "in 1..4, the principal components of 5 tokens"),
        (lambda: algorithms.isolate_components(torch.ones(5, 3), [0]), "`components` must be a whole number >= 1"),
        (lambda: algorithms.circles(torch.ones(2, 5, 3)), "`W_E` must have the axes [p d_model]"),
        (lambda: algorithms.circles(torch.ones(5, 3), components=1), "`components` must be a whole number >= 2"),
        (lambda: algorithms.circles(torch.ones(5, 3), minimum=90), "`minimum` must be above 0.5"),
        (lambda: algorithms.circles(torch.ones(5, 3), minimum=0.5), "`minimum` must be above 0.5"),
    ],
)
def test_errors_say_what_and_why(call, message):
    with pytest.raises(InvalidArgumentError) as error:
        call()
    assert message in str(error.value)
