"""Measures of irreps against explicit cubes and projectors, planted networks, and the Fourier measures on C_n."""

import math
import re

import numpy as np
import pytest
import torch

from interp.analysis import irreps as measures
from interp.analysis import logits as fourier
from interp.analysis import progress, spectra
from interp.errors import InvalidArgumentError
from interp.theory.groups import alternating, cyclic, dihedral, finite_group, irreps, symmetric
from tests.planted import random

S3, S4 = symmetric(3), symmetric(4)
every_group = pytest.mark.parametrize(
    "group", [S3, dihedral(4), alternating(4), cyclic(7), cyclic(8)], ids=lambda group: group.name
)


def split(n):
    return torch.rand(n, n, generator=torch.Generator().manual_seed(3)) < 0.6


def cubes(group):
    """tr(rho(x) rho(y) rho(z)^T) for every irrep, multiplied out."""
    rho = [torch.tensor(irrep.matrices) for irrep in irreps(group)]
    return torch.stack([torch.einsum("xij,yjk,zik->xyz", matrices, matrices, matrices) for matrices in rho])


def projectors(group, element):
    """Projectors on the entries of rho(element[n]), as functions of n, by singular vectors of their dense table."""
    found = []
    for irrep in irreps(group):
        entries = torch.tensor(irrep.matrices).flatten(1)[element.flatten()]
        U, singular, _ = torch.linalg.svd(entries, full_matrices=False)
        U = U[:, singular > 1e-9]
        found.append(U @ U.T)
    return found


def nll(rows, labels, mask):
    return torch.nn.functional.cross_entropy(rows[mask.flatten()], labels.flatten()[mask.flatten()])


# --- logits -----------------------------------------------------------------------------------------------------------


@every_group
def test_logit_similarity_is_the_cosine_with_the_explicit_cube(group):
    n = group.order
    L = random(2, n, n, n) + 3 * random(2, n, n, 1, seed=1)
    centred = (L - L.mean(-1, keepdim=True)).flatten(1)
    cube = cubes(group).flatten(1)
    slow = torch.nn.functional.cosine_similarity(centred[:, None], cube, dim=-1)
    found = measures.logit_similarity(L, group)
    torch.testing.assert_close(found[:, 1:], slow[:, 1:])
    assert (found[:, 0] == 0).all()
    assert slow[:, 0].abs().max() < 1e-14
    explained = measures.logit_variance_explained(L, group)
    onto = torch.linalg.qr(cube.T)[0]  # the cubes are orthogonal: what they explain adds up
    torch.testing.assert_close(explained, (centred @ onto).square().sum(1) / centred.square().sum(1))


@every_group
def test_planted_irreps_come_back(group):
    cube = cubes(group)
    unit = cube / cube.flatten(1).norm(dim=1)[:, None, None, None]
    alpha = torch.linspace(1, 2, len(cube), dtype=torch.float64)
    alpha[1] = -alpha[1]
    L = torch.einsum("r,rxyz->xyz", alpha, unit) + random(group.order, group.order, 1)
    alpha[0] = 0  # the trivial cube is the same for all answers
    similarity = measures.logit_similarity(L, group)
    torch.testing.assert_close(similarity, alpha / alpha.norm())
    torch.testing.assert_close(measures.logit_variance_explained(L, group).item(), 1.0)
    names = [irrep.name for irrep in irreps(group)]
    part = measures.logit_variance_explained(L, group, names[1:2]).item()
    torch.testing.assert_close(part, (alpha[1].square() / alpha.square().sum()).item())
    keys = measures.key_irreps(similarity)
    assert keys.tolist() == [False, False] + [True] * (len(names) - 2)
    assert measures.key_irreps(similarity - 2 * alpha[1:].max()).any().item() is False
    assert measures.key_irreps(torch.full((2, 3), 0.9), threshold=0.8).tolist() == [[False, True, True]] * 2


def test_the_logits_are_of_the_product_and_not_of_the_reversed_one():
    standard = torch.tensor(irreps(S3)[2].character)
    reversed_logits = standard[S3.table[S3.table.T][..., S3.inverse]]  # chi(y x z^-1)
    assert measures.logit_similarity(reversed_logits, S3)[2] < 0.6
    assert measures.logit_similarity(reversed_logits.transpose(0, 1), S3)[2] == pytest.approx(1)


def test_multiplying_everything_by_an_element_changes_nothing():
    n, g = S4.order, 7
    L, A, W = random(n, n, n), random(n, n, 3), random(n, 4)
    left = S4.table[g]  # x -> g x, x y z^-1 -> g x y (g z)^-1, of the same class
    moved = L[left][:, :, left]
    torch.testing.assert_close(measures.logit_similarity(moved, S4), measures.logit_similarity(L, S4))
    torch.testing.assert_close(measures.embedding_share(W[left], S4), measures.embedding_share(W, S4))
    torch.testing.assert_close(measures.hidden_share(A[left], S4).total, measures.hidden_share(A, S4).total)


def test_logits_without_content_have_similarity_zero():
    rows = torch.linspace(0.01, 1, 36).reshape(6, 6, 1)
    for constant in (rows, rows.double()):
        uneven = constant.expand(6, 6, 6) * (1 + torch.finfo(constant.dtype).eps * random(6, 6, 6).sign())
        assert measures.logit_similarity(uneven.to(constant.dtype), S3).abs().max() == 0


# --- shares -----------------------------------------------------------------------------------------------------------


@every_group
def test_embedding_and_unembedding_shares_are_projections_and_add_up(group):
    n = group.order
    W = random(2, n, 5) + 1
    slow = torch.stack([(P @ W).square().sum((1, 2)) for P in projectors(group, torch.arange(n))], dim=-1)
    slow /= W.square().sum((1, 2))[:, None]
    found = measures.embedding_share(W, group)
    torch.testing.assert_close(found, slow)
    torch.testing.assert_close(found.sum(-1), torch.ones(2).double())
    torch.testing.assert_close(measures.unembedding_share(W.mT, group), slow)
    rotation = torch.linalg.qr(random(5, 5))[0]
    torch.testing.assert_close(measures.embedding_share(W @ rotation, group), found)
    inverted = W[:, group.inverse]  # the entries of rho(z^-1) are those of rho(z)
    torch.testing.assert_close(measures.embedding_share(inverted, group), found)
    for irrep, share in zip(irreps(group), measures.embedding_share(random(4000, n, 1), group).mean(0)):
        assert share.item() == pytest.approx(irrep.dimension**2 / irrep.commutant / n, rel=0.1)


def test_what_vanishes_has_no_shares():
    assert (measures.embedding_share(torch.zeros(6, 2), S3) == 0).all()
    for constant in (torch.full((6, 6, 2), 0.1), torch.full((6, 6, 2), 0.1).double()):
        uneven = constant * (1 + torch.finfo(constant.dtype).eps * random(6, 6, 2).sign())
        assert (measures.hidden_share(uneven.to(constant.dtype), S3).total == 0).all()


@every_group
def test_hidden_shares_are_projections_of_the_centred_neurons(group):
    n = group.order
    A = random(2, n, n, 3) + 2
    flat = A.flatten(1, 2)
    centred = flat - flat.mean(1, keepdim=True)
    x, y = torch.arange(n)[:, None].expand(n, n), torch.arange(n).expand(n, n)
    found = measures.hidden_share(A, group)
    for name, element in (("first", x), ("second", y), ("product", torch.tensor(group.table))):
        slow = [(P @ centred).square().sum((1, 2)) for P in projectors(group, element)]
        slow = torch.stack(slow, dim=-1) / centred.square().sum((1, 2))[:, None]
        torch.testing.assert_close(getattr(found, name), slow)
    assert found.total[:, 0].max() < 1e-28


@every_group
def test_the_three_spaces_of_all_irreps_are_orthogonal_to_each_other(group):
    n = group.order
    x, y = torch.arange(n)[:, None].expand(n, n), torch.arange(n).expand(n, n)
    spaces = [P for element in (x, y, torch.tensor(group.table)) for P in projectors(group, element)[1:]]
    for i, one in enumerate(spaces):
        for other in spaces[:i]:
            assert (one @ other).abs().max() < 1e-12
    A = random(n, 1, 4) + random(1, n, 4, seed=1) + random(n, 4, seed=2)[group.table]
    torch.testing.assert_close(measures.hidden_share(A, group).total.sum().item(), 1.0)
    assert measures.hidden_share(random(n, n, 4), group).total.sum() < 1


# --- losses -----------------------------------------------------------------------------------------------------------


@every_group
@pytest.mark.parametrize("extra", [0, 1], ids=["elements", "with '='"])
def test_losses_are_their_dense_definitions(group, extra):
    n = group.order
    A, W_L, train = random(2, n, n, 5) + 1, random(2, 5, n + extra, seed=1), split(n)
    labels, everything = torch.tensor(group.table), torch.ones(n, n, dtype=torch.bool)
    each = projectors(group, labels)
    names = [irrep.name for irrep in irreps(group)]
    keys = [names[1], names[-1]]
    together = sum(P for P, name in zip(each, names) if name in keys)
    restricted = measures.restricted_loss_hidden(A, W_L, group, keys)
    masked = measures.restricted_loss_hidden(A, W_L, group, keys, mask=~train)
    excluded = measures.excluded_loss_hidden(A, W_L, group, train, keys)
    for step in range(2):
        hidden, W = A[step].flatten(0, 1), W_L[step]
        for index, P in [(None, together), *enumerate(each)]:
            for found, rows, mask in (
                (restricted, P @ hidden @ W, everything),
                (masked, P @ hidden @ W, ~train),
                (excluded, (hidden - P @ hidden) @ W, train),
            ):
                value = found.together[step] if index is None else found.by_irrep[step, index]
                torch.testing.assert_close(value, nll(rows, labels, mask))


def test_a_network_that_composes_matrices_lives_and_dies_by_its_irreps():
    """Neurons rho(x y), read out by rho(z): the algorithm of Chughtai et al. (2023), with sign and standard as keys."""
    keys = ["sign", "standard"]
    found = {irrep.name: torch.tensor(irrep.matrices).flatten(1) for irrep in irreps(S4)}
    rho = torch.cat([found[name] for name in keys], dim=1)
    A, W_L = 4 * rho[S4.table], 4 * rho.T  # logits 16 (sign(x y z^-1) + chi_standard(x y z^-1))
    L = A @ W_L
    full = nll(L.flatten(0, 1), torch.tensor(S4.table), torch.ones(24, 24) > 0)
    assert full < 1e-6
    assert measures.key_irreps(measures.logit_similarity(L, S4)).tolist() == [name in keys for name in found]
    torch.testing.assert_close(measures.logit_variance_explained(L, S4, keys).item(), 1.0)
    restricted = measures.restricted_loss_hidden(A, W_L, S4, keys)
    torch.testing.assert_close(restricted.together, full)
    excluded = measures.excluded_loss_hidden(A, W_L, S4, split(24), keys)
    torch.testing.assert_close(excluded.together.item(), math.log(24))
    without = dict(zip(found, excluded.by_irrep.tolist()))
    # without standard the sign is left, which half of the answers have
    assert without["standard"] == pytest.approx(math.log(12))
    assert without["trivial"] == pytest.approx(full.item())
    share = measures.hidden_share(A, S4)
    torch.testing.assert_close(share.product.sum().item(), 1.0)
    torch.testing.assert_close(share.product[1].item(), 1 / 4)  # 1 of 1 + 9/3: an entry of standard has square 1/3


def test_keys_are_names_or_a_mask_for_all_steps_or_one_for_each():
    A, W_L = random(2, 6, 6, 5), random(2, 5, 6, seed=1)
    mask = torch.tensor([False, True, True])
    expected = measures.restricted_loss_hidden(A, W_L, S3, ["standard", "sign"]).together
    torch.testing.assert_close(measures.restricted_loss_hidden(A, W_L, S3, mask).together, expected)
    torch.testing.assert_close(measures.restricted_loss_hidden(A, W_L, S3, mask.numpy()).together, expected)
    mixed = measures.restricted_loss_hidden(A, W_L, S3, torch.stack([mask, ~mask])).together
    torch.testing.assert_close(mixed[0], expected[0])
    torch.testing.assert_close(mixed[1], measures.restricted_loss_hidden(A, W_L, S3, ["trivial"]).together[1])
    none = measures.restricted_loss_hidden(A, W_L, S3, [])
    torch.testing.assert_close(none.together, torch.full((2,), math.log(6)).double())


def test_a_trajectory_is_one_call_and_numpy_comes_in():
    n = S4.order
    A, W_L, L, train = random(2, n, n, 3), random(2, 3, n, seed=1), random(2, n, n, n), split(n)
    whole = measures.excluded_loss_hidden(A, W_L, S4, train, ["sign"])
    for step in range(2):
        one = measures.excluded_loss_hidden(A[step], W_L[step], S4, train, ["sign"])
        torch.testing.assert_close(whole.together[step], one.together)
        torch.testing.assert_close(whole.by_irrep[step], one.by_irrep)
        torch.testing.assert_close(measures.logit_similarity(L, S4)[step], measures.logit_similarity(L[step], S4))
        torch.testing.assert_close(measures.hidden_share(A, S4).first[step], measures.hidden_share(A[step], S4).first)
    deep = measures.excluded_loss_hidden(A[None].numpy(), W_L[None].numpy(), S4, train.numpy(), ["sign"])
    assert deep.together.shape == (1, 2)
    torch.testing.assert_close(deep.by_irrep[0], whole.by_irrep)
    assert measures.hidden_share(A[None], S4).total.shape == (1, 2, 5)
    assert measures.logit_variance_explained(L[None].float(), S4).shape == (1, 2)
    torch.testing.assert_close(
        measures.logit_similarity(L.float(), S4), measures.logit_similarity(L, S4), rtol=1e-5, atol=1e-7
    )


# --- the cyclic group is Fourier analysis -----------------------------------------------------------------------------


@pytest.mark.parametrize("p", [7, 8, 9, 13])
def test_on_cyclic_groups_the_measures_are_the_fourier_measures_of_addition(p):
    C = cyclic(p)
    L, A, W_L = random(2, p, p, p) + 1, random(2, p, p, 4, seed=1) + 1, random(2, 4, p, seed=2)
    labels, train = torch.tensor(C.table), split(p)
    torch.testing.assert_close(measures.logit_similarity(L, C)[:, 1:], fourier.logit_similarity(L))
    torch.testing.assert_close(measures.logit_variance_explained(L, C), fourier.logit_variance_explained(L))
    W_E = A[:, 0]
    share = measures.embedding_share(W_E, C) * W_E.square().sum((1, 2))[:, None]
    torch.testing.assert_close(share[:, 1:], spectra.embedding_power(W_E))

    power = spectra.family_power(A)
    varying = (power.total - power.constant).sum(-1, keepdim=True)
    hidden = measures.hidden_share(A, C)
    for name, family in (("first", "first"), ("second", "second"), ("product", "addition")):
        expected = getattr(power, family).sum(-2) / varying
        torch.testing.assert_close(getattr(hidden, name)[:, 1:], expected)

    keys = [1, p // 2]
    mask = torch.tensor([False] + [k in keys for k in range(1, p // 2 + 1)])
    restricted = measures.restricted_loss_hidden(A, W_L, C, mask)
    torch.testing.assert_close(restricted.together, progress.restricted_loss_hidden(A, W_L, labels, keys))
    excluded = measures.excluded_loss_hidden(A, W_L, C, train, mask)
    expected = progress.excluded_loss_neuron(A, W_L, A @ W_L[:, None], labels, train, keys)
    torch.testing.assert_close(excluded.together, expected.together)
    torch.testing.assert_close(excluded.by_irrep[:, 1:], expected.by_frequency)


def test_s5_has_its_planted_irrep_and_random_logits_have_none():
    S5 = finite_group("symmetric", 5)
    standard = torch.tensor(irreps(S5)[2].character)
    L = standard[S5.table[S5.table][..., S5.inverse]]
    similarity = measures.logit_similarity(L, S5)
    torch.testing.assert_close(similarity, torch.eye(7).double()[2])
    assert measures.logit_similarity(random(120, 120, 120), S5).abs().max() < 5 * 120**-1.5


L3, A3, W3 = torch.zeros(6, 6, 6), torch.zeros(6, 6, 2), torch.zeros(2, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: measures.logit_similarity(torch.zeros(7, 7, 7), S3),
            "`logits` must have one entry for each of the 6 elements of S3; got 7. Leave out the '=' token first.",
        ),
        (lambda: measures.logit_similarity(torch.zeros(6, 6, 7), S3), "`logits` must have the axes"),
        (lambda: measures.logit_similarity(L3 + torch.inf, S3), "`logits` must be finite; got 216"),
        (lambda: measures.embedding_share(torch.zeros(7, 2), S3), "`W_E` must have one entry for each of the 6"),
        (lambda: measures.unembedding_share(torch.zeros(2, 7), S3), "`W_L` must have one entry for each of the 6"),
        (lambda: measures.hidden_share(torch.zeros(5, 5, 2), S3), "`activations` must have one entry for each of"),
        (
            lambda: measures.restricted_loss_hidden(torch.zeros(5, 5, 2), W3, S3, []),
            "`activations` must have one entry for each of the 6 elements of S3; got 5.",
        ),
        (
            lambda: measures.restricted_loss_hidden(A3, torch.zeros(3, 6), S3, []),
            "`W_L` must have the axes [*steps neuron answer] with the steps and neurons of `activations`, [2], and",
        ),
        (
            lambda: measures.excluded_loss_hidden(A3, torch.zeros(2, 5), S3, split(6), []),
            "the 6 elements of S3 among the answers; got [2, 5].",
        ),
        (
            lambda: measures.restricted_loss_hidden(A3, W3, S3, ["standart"]),
            "`keys` must be a list of irreps of S3, trivial, sign, standard; got ['standart'].",
        ),
        (lambda: measures.restricted_loss_hidden(A3, W3, S3, "sign"), "`keys` must be a list of irreps of S3"),
        (
            lambda: measures.restricted_loss_hidden(A3, W3, S3, torch.tensor([True])),
            "`keys` must be names of irreps or a boolean mask of shape [3] or [3]; got torch.bool of shape [1].",
        ),
        (lambda: measures.logit_variance_explained(L3, S3, np.ones(3)), "a boolean mask of shape [3] or [3]; got"),
        (
            lambda: measures.restricted_loss_hidden(A3, W3, S3, torch.ones(2, 3) > 0),
            "a boolean mask of shape [3] or [3]; got torch.bool of shape [2, 3].",
        ),
        (
            lambda: measures.excluded_loss_hidden(A3, W3, S3, torch.ones(5, 5) > 0, []),
            "`mask` must be boolean of shape [6, 6]; got torch.bool of shape [5, 5].",
        ),
        (
            lambda: measures.restricted_loss_hidden(A3, W3, S3, [], mask=torch.zeros(6, 6) > 0),
            "`mask` must choose at least one input; got none.",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        call()
