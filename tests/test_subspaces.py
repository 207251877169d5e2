"""Principal angles against scipy, dimensions against their formulas, planted circles."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from interp.analysis import subspaces
from interp.analysis.geometry import embedding_pca
from interp.errors import InvalidArgumentError
from tests.planted import random


def rotation(d, seed=5):
    return torch.linalg.qr(random(d, d, seed=seed)).Q


def circle(p, k):
    angle = 2 * torch.pi * k * torch.arange(p, dtype=torch.float64) / p
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def slow_axes(W_E, components):
    centred = W_E.numpy() - W_E.numpy().mean(0)
    return np.linalg.svd(centred)[2][:components].T


@pytest.mark.parametrize("components", [1, 2, 4])
@pytest.mark.parametrize(("p", "d"), [(7, 12), (12, 5)])
def test_angles_are_scipys(p, d, components):
    W_E, reference = random(2, 3, p, d), random(p, d, seed=1)
    found = subspaces.subspace_angles(W_E, reference, components=components)
    assert found.shape == (2, 3, components)
    for step in np.ndindex(2, 3):
        slow = scipy.linalg.subspace_angles(slow_axes(W_E[step], components), slow_axes(reference, components))
        np.testing.assert_allclose(found[step], slow[::-1], atol=1e-10)
    assert (found.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("angle", [1e-9, 1e-4, 0.3, 0.8, 1.2, math.pi / 2 - 1e-9, math.pi / 2])
def test_planted_angles_are_found_to_the_last_digits(angle):
    plane = circle(11, 2) @ torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0]], dtype=torch.float64)
    tilt = torch.eye(4, dtype=torch.float64)
    tilt[1, 1], tilt[1, 2] = math.cos(angle), math.sin(angle)
    found = subspaces.subspace_angles(plane @ tilt + 3, plane)
    assert found[0].item() == pytest.approx(0, abs=1e-14)
    assert found[1].item() == pytest.approx(angle, abs=1e-14)


def test_angle_invariances():
    W_E, reference = random(4, 9, 6), random(9, 6, seed=1)
    base = subspaces.subspace_angles(W_E, reference, components=3)
    R = rotation(6)
    torch.testing.assert_close(subspaces.subspace_angles(W_E @ R, reference @ R, components=3), base)
    torch.testing.assert_close(subspaces.subspace_angles(5 * W_E + 2, reference - 7, components=3), base)
    own = subspaces.subspace_angles(reference[None], reference, components=3)
    torch.testing.assert_close(own, torch.zeros_like(own), atol=1e-13, rtol=0)
    wide = subspaces.subspace_angles(random(5, 9, 2000), random(9, 2000, seed=1))
    assert (wide > 1.3).all()
    full = subspaces.subspace_angles(W_E, reference, components=6)
    torch.testing.assert_close(full, torch.zeros_like(full), atol=1e-13, rtol=0)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
def test_effective_rank_is_its_formula(shape):
    W = random(2, 3, *shape)
    found = subspaces.effective_rank(W)
    for step in np.ndindex(2, 3):
        q = np.linalg.svd(W[step].numpy(), compute_uv=False)
        q = q / q.sum()
        assert found[step].item() == pytest.approx(np.prod(q**-q))
    torch.testing.assert_close(subspaces.effective_rank(7 * W.mT), found)
    torch.testing.assert_close(subspaces.effective_rank(rotation(shape[0]) @ W), found)
    assert ((found > 1) & (found < 5)).all()


def test_effective_rank_counts_equal_directions():
    for n in range(1, 7):
        W = rotation(7)[:, :n] @ rotation(9, seed=6)[:n]
        assert subspaces.effective_rank(W).item() == pytest.approx(n)
    assert subspaces.effective_rank(torch.zeros(2, 3, 4)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
def test_participation_ratio_is_its_formula(shape):
    W_E = random(2, 3, *shape)
    found = subspaces.participation_ratio(W_E)
    for step in np.ndindex(2, 3):
        values = np.linalg.eigvalsh(np.cov(W_E[step].numpy(), rowvar=False))
        assert found[step].item() == pytest.approx(values.sum() ** 2 / (values**2).sum())
    torch.testing.assert_close(subspaces.participation_ratio(-4 * W_E @ rotation(shape[1]) + 9), found)
    centred = W_E - W_E.mean(-2, keepdim=True)
    assert (found < subspaces.effective_rank(centred)).all()


def test_participation_ratio_counts_circles():
    circles = torch.cat([circle(13, k) for k in (1, 4, 6)], dim=1) @ rotation(6)
    for n in (1, 2, 3):
        few = torch.cat([circle(13, k) for k in (1, 4, 6)[:n]], dim=1)
        assert subspaces.participation_ratio(few + 1).item() == pytest.approx(2 * n)
    assert subspaces.participation_ratio(circles).item() == pytest.approx(6)
    assert subspaces.participation_ratio(torch.linspace(0.1, 1, 5)[:, None, None].expand(5, 4, 3)).tolist() == [0.0] * 5


@pytest.mark.parametrize(("p", "k", "j"), [(13, 3, 5), (12, 4, 5), (15, 6, 5), (12, 3, 2)])
def test_planted_circles_are_found_with_their_multiplicity(p, k, j):
    W_E = torch.cat([3 * circle(p, k), 2 * circle(p, j)], dim=1) @ rotation(4) + 1
    plain = embedding_pca(W_E, components=4).coordinates
    mixed = plain[:, [0, 2, 1, 3]]
    for coordinates, partner, frequency in (
        (plain, [2, 1, 4, 3], [k, k, j, j]),
        (mixed, [3, 4, 1, 2], [k, j, k, j]),
    ):
        found = subspaces.component_circles(torch.stack([coordinates, coordinates.roll(1, dims=0)]))
        for step in range(2):
            assert found.partner[step].tolist() == partner
            assert found.frequency[step].tolist() == frequency
            assert found.multiplicity[step].tolist() == [math.gcd(f, p) for f in frequency]
            for f, stride in zip(frequency, found.stride[step].tolist()):
                assert stride * f % p in (math.gcd(f, p), p - math.gcd(f, p))
        torch.testing.assert_close(found.circularity, torch.ones(2, 4, dtype=torch.float64))


def test_a_third_component_has_a_partner_that_does_not_return_it():
    t = torch.arange(11, dtype=torch.float64)
    line = t[:, None] / 50
    found = subspaces.component_circles(torch.cat([circle(11, 2), line], dim=1))
    assert found.partner[:2].tolist() == [2, 1]
    assert found.circularity[2] < 0.7
    nothing = subspaces.component_circles(torch.ones(11, 3))
    assert nothing.circularity.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: subspaces.subspace_angles(torch.zeros(5), torch.zeros(5, 3)), r"`W_E` must have the axes"),
        (
            lambda: subspaces.subspace_angles(torch.ones(5, 3), torch.ones(5, 4)),
            r"`reference` must have the axes \[p d_model\] of `W_E`, \[5, 3\]; got \[5, 4\]",
        ),
        (
            lambda: subspaces.subspace_angles(torch.ones(5, 3), torch.ones(5, 3), components=4),
            r"`components` must not exceed min\(p - 1, d_model\) = 3, .*; got 4",
        ),
        (
            lambda: subspaces.subspace_angles(torch.ones(4, 9), torch.ones(4, 9), components=4),
            r"`components` must not exceed min\(p - 1, d_model\) = 3",
        ),
        (
            lambda: subspaces.subspace_angles(torch.ones(5, 3), torch.ones(5, 3), components=0),
            r"`components` must be a whole number >= 1; got 0",
        ),
        (lambda: subspaces.effective_rank(torch.zeros(3)), r"`W` must have the axes \[\*steps row column\]"),
        (lambda: subspaces.participation_ratio(torch.zeros(2, 3)), r"`p` must be a whole number >= 3; got 2"),
        (
            lambda: subspaces.component_circles(torch.ones(5, 1)),
            r"`coordinates` must hold at least 2 components; got 1",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
