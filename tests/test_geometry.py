"""Planted circles, invariances, and slow obvious versions of the geometry of embeddings."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from interp.analysis import geometry
from interp.errors import InvalidArgumentError
from tests.planted import random


def circle(p, k, phase=0.3, orientation=1):
    angle = orientation * 2 * torch.pi * k * torch.arange(p, dtype=torch.float64) / p + phase
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def rotation(d, seed=5):
    return torch.linalg.qr(random(d, d, seed=seed)).Q


@pytest.mark.parametrize(("p", "d"), [(7, 12), (12, 7), (9, 9)])
def test_pca_of_each_step_is_scikit_learns_up_to_sign(p, d):
    W_E = random(3, p, d)
    pca = geometry.embedding_pca(W_E, axes="each", components=4)
    for step in range(3):
        slow = PCA(4).fit(W_E[step].numpy())
        coordinates = slow.transform(W_E[step].numpy())
        np.testing.assert_allclose(pca.coordinates[step].abs(), np.abs(coordinates), atol=1e-10)
        np.testing.assert_allclose(pca.explained_variance_ratio[step], slow.explained_variance_ratio_, atol=1e-12)
        np.testing.assert_allclose(pca.mean[step], slow.mean_, atol=1e-14)
        largest = pca.coordinates[step].abs().argmax(0)
        assert (pca.coordinates[step][largest, torch.arange(4)] > 0).all()


@pytest.mark.parametrize("axes", ["last", "each", "aligned"])
def test_pca_laws(axes):
    W_E = random(2, 3, 11, 6)
    pca = geometry.embedding_pca(W_E, axes=axes)
    assert pca.coordinates.shape == (2, 3, 11, 6)  # no more than d_model components
    torch.testing.assert_close(pca.axes.mT @ pca.axes, torch.eye(6, dtype=torch.float64).expand(2, 3, 6, 6))
    torch.testing.assert_close((W_E - pca.mean[..., None, :]) @ pca.axes, pca.coordinates)
    torch.testing.assert_close(pca.explained_variance_ratio.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(geometry.embedding_pca(W_E @ rotation(6), axes=axes).coordinates, pca.coordinates)
    torch.testing.assert_close(geometry.embedding_pca(W_E + 7, axes=axes).coordinates, pca.coordinates)
    last = geometry.embedding_pca(W_E[-1, -1], axes="each")
    torch.testing.assert_close(pca.coordinates[-1, -1], last.coordinates)


def test_last_axes_are_fixed_and_each_axes_are_not():
    W_E = random(4, 7, 5)
    last = geometry.embedding_pca(W_E).axes
    torch.testing.assert_close(last[0], last[-1])
    each = geometry.embedding_pca(W_E, axes="each").axes
    assert (each[0] - each[-1]).abs().max() > 0.1


def test_aligned_undoes_a_rotation_of_the_whole_embedding_and_comes_nearest():
    last = random(7, 5)
    turned = torch.stack([last @ rotation(5), last])
    pca = geometry.embedding_pca(turned, axes="aligned", components=3)
    torch.testing.assert_close(pca.coordinates[0], pca.coordinates[1])
    pair = random(2, 7, 5)
    aligned = geometry.embedding_pca(pair, axes="aligned", components=3).coordinates
    distance = (aligned[0] - aligned[1]).norm()
    for seed in range(20):
        assert (aligned[0] @ rotation(3, seed) - aligned[1]).norm() > distance


def test_pca_of_tokens_that_coincide_is_zero():
    pca = geometry.embedding_pca(torch.ones(5, 3))
    assert pca.coordinates.abs().max() == 0
    assert pca.explained_variance_ratio.abs().max() == 0


def test_circularity_is_its_formula():
    v = random(2, 9, 3)
    found = geometry.circularity(v)
    t = np.arange(9)
    for step in range(2):
        for component in range(3):
            x = v[step, :, component].numpy()
            scores = [2 * abs((x * np.exp(2j * np.pi * k * t / 9)).sum()) ** 2 / (9 * (x @ x)) for k in range(1, 5)]
            assert found.value[step, component].item() == pytest.approx(max(scores))
            assert found.frequency[step, component] == 1 + np.argmax(scores)
    torch.testing.assert_close(geometry.circularity(v.roll(4, dims=1)).value, found.value)
    alternating = torch.tensor([1.0, -1.0] * 4)[:, None]
    assert geometry.circularity(alternating).value.item() == 1  # clipped
    assert geometry.circularity(torch.zeros(5, 1)).value.item() == 0


def test_mean_circularity_of_two_circles_is_one():
    W_E = torch.cat([2 * circle(11, 3), circle(11, 4)], dim=1) @ rotation(4)
    pca = geometry.embedding_pca(W_E, components=4)
    assert geometry.mean_circularity(pca.coordinates).item() == pytest.approx(1)
    assert geometry.mean_circularity(geometry.embedding_pca(random(59, 64)).coordinates) < 0.5


@pytest.mark.parametrize("orientation", [1, -1])
def test_circularity_of_a_pair(orientation):
    plane = 3 * circle(13, 4, orientation=orientation) + 5
    found = geometry.circularity_of_pair(plane)
    assert found.value.item() == pytest.approx(1)
    assert found.frequency.item() == 4
    line = plane * torch.tensor([1.0, 0.0])
    assert geometry.circularity_of_pair(line).value.item() == pytest.approx(0.5)
    noise = random(3, 13, 2)
    torch.testing.assert_close(
        geometry.circularity_of_pair(noise @ rotation(2)).value, geometry.circularity_of_pair(noise).value
    )
    assert geometry.circularity_of_pair(torch.ones(5, 2)).value.item() == 0


@pytest.mark.parametrize("p", [7, 8, 9, 12, 13, 15])
@pytest.mark.parametrize("orientation", [1, -1])
def test_angular_order_of_every_perfect_circle(p, orientation):
    for k in range(1, (p + 1) // 2):
        order = geometry.angular_order(circle(p, k, orientation=orientation) * 3 + 10)
        g = math.gcd(k, p)
        assert order.resultant.item() == pytest.approx(1)
        assert (order.frequency.item(), order.orientation.item(), order.multiplicity.item()) == (k, orientation, g)
        stride = order.stride.item()
        assert 1 <= stride <= max(1, p // g // 2)
        assert k * stride % p in (g, p - g)
        assert order.winding.item() == g
        if g == 1:
            assert order.order_correlation.item() == pytest.approx(1)


def test_a_degenerate_circle_with_its_places_apart_has_a_perfect_order():
    p, k = 12, 3  # places {t, t + 4, t + 8}
    nudge = 0.01 * torch.arange(p) / p
    angle = 2 * torch.pi * k * torch.arange(p) / p + nudge
    order = geometry.angular_order(torch.stack([angle.cos(), angle.sin()], dim=1))
    assert (order.multiplicity.item(), order.stride.item()) == (3, 1)
    assert order.order_correlation.item() == pytest.approx(1)


def test_angular_order_is_its_formula():
    planes = random(4, 9, 2)
    orders = geometry.angular_order(planes)
    fixed = geometry.angular_order(planes, frequency=2)
    for step, plane in enumerate(planes):
        z = plane - plane.mean(0)
        theta = np.arctan2(z[:, 1].numpy(), z[:, 0].numpy())
        t = np.arange(9)
        scores = {
            (k, s): abs(np.exp(1j * (theta - 2 * np.pi * s * k * t / 9)).mean()) for k in range(1, 5) for s in (1, -1)
        }
        k, s = max(scores, key=scores.get)
        assert (orders.frequency[step], orders.orientation[step]) == (k, s)
        assert orders.resultant[step].item() == pytest.approx(scores[k, s])
        assert fixed.resultant[step].item() == pytest.approx(max(scores[2, 1], scores[2, -1]))
        assert fixed.frequency[step] == 2
        if math.gcd(k, 9) == 1:
            rank = np.argsort(np.argsort(theta))
            correlation = abs(np.exp(2j * np.pi * (rank - s * k * t) / 9).mean())
            assert orders.order_correlation[step].item() == pytest.approx(correlation)
            stride = pow(s * k, -1, 9)
            path = theta[np.arange(10) * stride % 9]
            turns = np.angle(np.exp(1j * np.diff(path))).sum() / (2 * np.pi)
            assert orders.winding[step].item() == round(turns)


def test_order_does_not_see_rotation_scale_shift_or_the_first_token():
    plane = random(13, 2)
    base = geometry.angular_order(plane)
    for moved in (
        plane @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64),
        9 * plane + 4,
        plane.roll(5, dims=0),
    ):
        other = geometry.angular_order(moved)
        for field in ("resultant", "order_correlation"):
            torch.testing.assert_close(getattr(other, field), getattr(base, field))
        assert (other.frequency, other.orientation, other.winding) == (base.frequency, base.orientation, base.winding)
    mirrored = geometry.angular_order(plane * torch.tensor([1.0, -1.0]))
    assert mirrored.orientation == -base.orientation
    assert mirrored.winding == base.winding


def test_uneven_circle_has_perfect_order_but_not_perfect_angles():
    t = torch.arange(11, dtype=torch.float64)
    angle = 2 * torch.pi * (t / 11) ** 1.5
    order = geometry.angular_order(torch.stack([angle.cos(), angle.sin()], dim=1) + 0.0, frequency=1)
    assert order.resultant < 0.999
    assert order.winding == 1


def test_tokens_that_coincide_have_no_order():
    places = torch.linspace(0.01, 1, 99, dtype=torch.float64)[:, None, None].expand(99, 7, 2)
    order = geometry.angular_order(places)
    for field in (order.resultant, order.order_correlation, order.winding):
        assert field.abs().max() == 0


def test_null_of_random_planes():
    def null(**options):
        return geometry.angular_order_null(59, generator=torch.Generator().manual_seed(0), draws=2000, **options)

    fixed, best = null(frequency=7), null()
    # One orientation is Rayleigh, P(R > x) = exp(-p x^2); of two independent ones the larger counts.
    rayleigh = math.sqrt(math.pi / (4 * 59))
    assert fixed.mean == pytest.approx(rayleigh * (2 - 1 / math.sqrt(2)), rel=0.05)
    assert fixed.quantiles[2].item() == pytest.approx(math.sqrt(-math.log(1 - math.sqrt(0.95)) / 59), rel=0.05)
    assert best.mean == pytest.approx(0.28, abs=0.02)
    assert best.quantiles[2].item() == pytest.approx(0.35, abs=0.02)
    assert null().quantiles.tolist() == best.quantiles.tolist()
    assert geometry.angular_order_null(
        13, generator=torch.Generator().manual_seed(1), draws=50, d_model=8
    ).quantiles.shape == (4,)


def test_plane_of_a_planted_frequency():
    p = 13
    W_E = torch.cat([2 * circle(p, 3), circle(p, 5)], dim=1) @ rotation(4) + 1
    plane = geometry.plane_of_frequency(W_E, 3)
    assert plane.share.item() == pytest.approx(0.8)
    order = geometry.angular_order(plane.coordinates)
    assert (order.frequency.item(), order.resultant.item()) == (3, pytest.approx(1))
    torch.testing.assert_close(plane.coordinates.norm(dim=1), torch.full((p,), 2.0, dtype=torch.float64))
    noise = random(5, p, 6)
    mine = geometry.plane_of_frequency(noise, 2)
    torch.testing.assert_close(mine.axes.mT @ mine.axes, torch.eye(2, dtype=torch.float64).expand(5, 2, 2))
    torch.testing.assert_close(geometry.plane_of_frequency(noise @ rotation(6), 2).coordinates, mine.coordinates)
    followed = geometry.plane_of_frequency(noise, 2, reference=noise[-1])
    torch.testing.assert_close(followed.coordinates[-1], mine.coordinates[-1])
    torch.testing.assert_close(followed.axes[0], mine.axes[-1])


def test_a_random_embedding_shows_the_order_of_any_frequency_the_better_the_wider():
    orders = []
    for d_model in (32, 128, 512):
        plane = geometry.plane_of_frequency(random(20, 59, d_model), 11)
        orders.append(geometry.angular_order(plane.coordinates, frequency=11).resultant.mean().item())
    assert 0.5 < orders[0] < orders[1] < orders[2]
    assert orders[2] > 0.95


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geometry.embedding_pca(torch.zeros(5)), r"`W_E` must have the axes"),
        (lambda: geometry.embedding_pca(torch.zeros(5, 3), axes="final"), r'`axes` must be "last", .*got \'final\''),
        (lambda: geometry.embedding_pca(torch.zeros(5, 3), components=0), r"`components` must be a whole number >= 1"),
        (lambda: geometry.mean_circularity(torch.zeros(5, 3)), r"`coordinates` must hold at least 4 components; got 3"),
        (
            lambda: geometry.angular_order(torch.zeros(5, 3)),
            r"`plane` must have two coordinates; got 3. .*\[\.\.\., :2\]",
        ),
        (lambda: geometry.angular_order(torch.zeros(2, 2)), r"`p` must be a whole number >= 3; got 2"),
        (
            lambda: geometry.angular_order(torch.zeros(7, 2), frequency=4),
            r"`frequency` must be a frequency in 1..3 for p=7",
        ),
        (lambda: geometry.plane_of_frequency(torch.zeros(8, 3), 4), r"`k` must be below p/2, .*got k=4, p=8"),
        (lambda: geometry.plane_of_frequency(torch.zeros(8, 3), 0), r"`k` must be a frequency in 1..4"),
        (lambda: geometry.plane_of_frequency(torch.zeros(8, 1), 1), r"`W_E` must have d_model >= 2"),
        (
            lambda: geometry.plane_of_frequency(torch.zeros(8, 3), 1, reference=torch.zeros(7, 3)),
            r"`reference` must have the axes \[p d_model\] of `W_E`, \[8, 3\]; got \[7, 3\]",
        ),
        (
            lambda: geometry.angular_order_null(7, generator=torch.Generator(), draws=5, probabilities=(95,)),
            r"`probabilities` must lie in \[0, 1\]",
        ),
        (
            lambda: geometry.angular_order_null(7, generator=torch.Generator(), draws=0),
            r"`draws` must be a whole number",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
