"""Known local learning coefficients, chains against a slow one and against devinterp's own, and every guard."""

import copy
import os
import random
import sys
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from interp.analysis.llc import _batches, _sensitivity, calibrate, local_learning_coefficient
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.models.base import Network
from interp.rng import generator


@pytest.fixture(autouse=True, scope="module")
def devinterp():
    if find_spec("devinterp") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("devinterp is missing, and CI must run these tests")
        pytest.skip("devinterp is not installed")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """A dozen weights: threads would only wait for each other."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


class Coins(nn.Module):
    """In cell i the logits are (z_i(w), 0); with both answers equally often, L - L(0) = mean of log cosh(z_i/2)."""

    def __init__(self, z, *sizes, at=0.0, dtype=torch.float64):
        super().__init__()
        self.z = z
        self.weights = nn.ParameterList([nn.Parameter(torch.full((n,), at, dtype=dtype)) for n in sizes])

    def forward(self, cells):
        z = self.z(*self.weights)[cells]
        return torch.stack([z, torch.zeros_like(z)], dim=1)


def coins(cells):
    """Every cell with each of both answers."""
    return torch.arange(2 * cells) % cells, torch.arange(2 * cells) // cells


def regular(cells=8, **options):
    """lambda = 1/2 for each weight."""
    return Coins(lambda w: w, cells, **options)


def quartic(cells=8, **options):
    """log cosh(w^2/2) ~ w^4/8: lambda = 1/4 for each weight."""
    return Coins(lambda w: w**2, cells, **options)


def crossing(cells=8, **options):
    """log cosh(w_1 w_2/2) ~ w_1^2 w_2^2/8: lambda = 1/2 for each pair, reached as 1/log(n beta)."""
    return Coins(lambda v, w: v * w, cells, cells, **options)


def expected(z, weights_per_cell, *, inverse_temperature, localization, cells):
    """n beta (E[L] - L(0)) by quadrature: the cells are independent, each has n beta/cells of the whole energy."""
    axis = np.linspace(-4, 4, 1601)
    w = np.meshgrid(*[axis] * weights_per_cell)
    energy = inverse_temperature / cells * np.log(np.cosh(z(*w) / 2))
    density = np.exp(-energy - localization / 2 * sum(x**2 for x in w))
    return cells * (energy * density).sum() / density.sum()


def slow_chain(z, slope, w, *, step_size, inverse_temperature, localization, updates, noise):
    """Langevin dynamics and its Metropolis ratios by the book, one weight per cell: losses [t], probabilities [t]."""
    start, losses, kept = w.copy(), [], [np.nan]
    path = []
    for _ in range(updates):
        losses.append(np.mean(np.log(2 * np.cosh(z(w) / 2))))
        gradient = np.tanh(z(w) / 2) / 2 * slope(w) / len(w)
        mean = w - step_size / 2 * (inverse_temperature * gradient + localization * (w - start))
        path.append((w, mean, -inverse_temperature * losses[-1] - localization / 2 * ((w - start) ** 2).sum()))
        w = mean + step_size**0.5 * torch.normal(0.0, 1.0, (len(w),), generator=noise).double().numpy()
    for (w, mean, log_density), (new, new_mean, new_log_density) in pairwise(path):
        there = -((new - mean) ** 2).sum() / (2 * step_size)
        back = -((w - new_mean) ** 2).sum() / (2 * step_size)
        kept.append(min(1.0, np.exp(new_log_density - log_density + back - there)))
    return np.array(losses), np.array(kept)


KNOWN = {
    "regular": (regular, lambda w: w, 1, 32.0, {"step_size": 8e-4, "inverse_temperature": 3.2e4, "localization": 1.0}),
    "quartic": (
        quartic,
        lambda w: w**2,
        1,
        16.0,
        {"step_size": 1e-3, "inverse_temperature": 6.4e4, "localization": 0.1},
    ),
    "crossing": (
        crossing,
        lambda v, w: v * w,
        2,
        None,
        {"step_size": 5e-3, "inverse_temperature": 6400.0, "localization": 5.0},
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_learning_coefficients_are_found_within_the_error_bar(name):
    model, z, weights_per_cell, learning_coefficient, settings = KNOWN[name]
    llc = local_learning_coefficient(model(64), *coins(64), **settings, draws=120, burn_in=60, seed=1)
    temperature = {name: settings[name] for name in ("inverse_temperature", "localization")}
    exact = expected(z, weights_per_cell, cells=64, **temperature)
    assert llc.standard_error < 0.08 * llc.value
    assert abs(llc.value - exact) < 3.5 * llc.standard_error
    assert llc.healthy
    assert llc.parameters == 64 * weights_per_cell
    if learning_coefficient is None:  # m = 2: at any temperature far below its limit, 32; d/2 = 64
        assert 0 < llc.value < 32
    else:
        assert exact == pytest.approx(learning_coefficient, rel=0.04)
        assert abs(llc.value - learning_coefficient) < 3.5 * llc.standard_error


def test_chains_and_acceptance_are_those_of_a_slow_langevin_sampler():
    settings = {"step_size": 0.02, "inverse_temperature": 300.0, "localization": 3.0}
    llc = local_learning_coefficient(quartic(5, at=0.3), *coins(5), **settings, chains=3, draws=30, burn_in=10, seed=7)
    for chain in range(3):
        losses, kept = slow_chain(
            lambda w: w**2,
            lambda w: 2 * w,
            np.full(5, 0.3),
            **settings,
            updates=40,
            noise=generator(7, "llc-noise", chain),
        )
        np.testing.assert_allclose(llc.trace[chain], losses[10:], rtol=1e-12)
        np.testing.assert_allclose(llc.acceptance[chain], kept[10:].mean(), rtol=1e-9)
    by_chain = 300 * (llc.trace.mean(1).numpy() - np.log(2 * np.cosh(0.3**2 / 2)))
    np.testing.assert_allclose(llc.by_chain, by_chain, rtol=1e-9)
    assert llc.value.item() == pytest.approx(by_chain.mean())
    assert llc.standard_error.item() == pytest.approx(by_chain.std(ddof=1) / 3**0.5)
    drift = 300 * (llc.trace[:, 15:].mean(1) - llc.trace[:, :15].mean(1))
    np.testing.assert_allclose(llc.drift, drift, rtol=1e-9)
    assert 0.3 < llc.acceptance.min() < llc.acceptance.max() < 0.999


@pytest.fixture
def own_global_randomness():
    """devinterp's pipeline seeds all the global generators."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002


@pytest.mark.slow  # imports transformers and datasets
def test_a_chain_is_devinterps_own(tmp_path, own_global_randomness):
    datasets = pytest.importorskip("datasets")
    from devinterp.slt.sampling import sample

    def loss_by_token(model, row):
        return nn.functional.cross_entropy(model(row[:, 0]), row[:, 1], reduction="none")[:, None]

    rows = datasets.Dataset.from_dict({"input_ids": torch.stack(coins(5), 1).tolist()}).with_format("torch")
    noise = generator(7, "llc-noise", 0).initial_seed()
    tree = sample(
        quartic(5, at=0.3), rows, {}, lr=0.02, n_beta=300.0, localization=3.0, loss_fn=loss_by_token, batch_size=10,
        num_chains=1, num_draws=30, num_init_loss_batches=1, init_seed=noise, device="cpu",
        output_path=tmp_path / "chain.zarr",
    )  # fmt: skip
    llc = local_learning_coefficient(
        quartic(5, at=0.3), *coins(5), step_size=0.02, inverse_temperature=300.0, localization=3.0,
        chains=2, draws=30, burn_in=0, seed=7,
    )  # fmt: skip
    theirs = tree["sampling_loss"].mean(["batch", "token_pos"]).values[0]
    np.testing.assert_allclose(llc.trace[0], theirs, rtol=1e-5)  # it stores float32
    assert llc.initial_loss.item() == pytest.approx(tree["init_loss"].values.item(), rel=1e-6)


def test_weights_that_change_nothing_have_none_and_a_shift_is_such_a_direction():
    settings = {"step_size": 1e-2, "inverse_temperature": 100.0, "draws": 20, "burn_in": 0}
    nothing = local_learning_coefficient(Coins(lambda w: 0 * w, 4), *coins(4), **settings)
    assert nothing.value.item() == pytest.approx(0, abs=1e-12)
    assert not nothing.healthy
    frozen = Coins(lambda v, w: v + 0 * w, 4, 4)
    frozen.weights[1].requires_grad_(False)
    one = local_learning_coefficient(frozen, *coins(4), **settings)
    assert one.parameters == 4
    assert torch.equal(one.trace, local_learning_coefficient(regular(4), *coins(4), **settings).trace)


def global_states():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002


def test_an_estimate_is_a_function_of_its_arguments_and_touches_neither_model_nor_global_randomness():
    model = quartic(4, at=0.1)
    before = copy.deepcopy(model.state_dict())
    torch_state, numpy_state, python_state = global_states()
    settings = {"step_size": 1e-2, "inverse_temperature": 100.0, "draws": 10, "burn_in": 5, "batch_size": 3}
    a, b, other = (local_learning_coefficient(model, *coins(4), **settings, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(a.trace, b.trace)
    assert not torch.isclose(a.trace, other.trace).all(1).any()
    assert not torch.isclose(a.trace[0], a.trace[1]).all()
    assert torch.equal(global_states()[0], torch_state)
    assert (global_states()[1] == numpy_state).all()
    assert global_states()[2] == python_state
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_a_model_is_left_as_it_was_by_chains_that_are_interrupted():
    calls = []

    def interrupted(w):
        calls.append(0)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return w

    model = Coins(interrupted, 4)
    with pytest.raises(KeyboardInterrupt):
        local_learning_coefficient(model, *coins(4), step_size=1e-2)
    assert model.weights[0].abs().max() == 0


def test_batches_of_an_epoch_are_a_partition_in_a_new_order():
    model, (cells, answers) = regular(12), coins(12)
    with torch.no_grad():
        model.weights[0].copy_(torch.linspace(-2, 3, 12))
    llc = local_learning_coefficient(  # steps so small that the weights stay
        model, cells, answers, step_size=1e-30, inverse_temperature=1.0, draws=8, burn_in=0, batch_size=6
    )
    epochs = llc.trace.reshape(4, 2, 4)
    torch.testing.assert_close(epochs.mean(-1), llc.initial_loss.expand(4, 2))
    assert epochs.std(-1).min() > 1e-3
    assert not torch.isclose(epochs[:, 0], epochs[:, 1]).all(1).any()
    assert len({tuple(chain) for chain in llc.trace.tolist()}) == 4
    endless = _batches(24, 17, torch.Generator())
    assert [len(set(next(endless).tolist())) for _ in range(3)] == [17, 17, 17]  # the rest of an epoch is left out


def test_the_default_temperature_is_that_of_wbic():
    llc = local_learning_coefficient(regular(4), *coins(4), step_size=1e-3, draws=2, burn_in=0)
    assert llc.inverse_temperature.item() == pytest.approx(8 / np.log(8))


def estimate(model=None, **settings):
    settings = {"step_size": 1e-2, "inverse_temperature": 1000.0, "draws": 40, "burn_in": 20} | settings
    return local_learning_coefficient(model or regular(), *coins(8), **settings)


def test_health_sees_divergence_a_better_minimum_chains_that_have_not_arrived_and_steps_too_large():
    diverged = estimate(quartic(at=1.0), step_size=1e3, burn_in=0)
    assert diverged.diverged.all()
    assert diverged.value.isnan()
    assert not diverged.healthy
    first = diverged.trace.isnan().int().argmax(1)
    assert all(
        chain[: int(n)].isfinite().all() and chain[int(n) :].isnan().all() for chain, n in zip(diverged.trace, first)
    )
    assert estimate(quartic(at=1.0), step_size=1e3, burn_in=30).value.isnan()  # before the first draw

    calls = []
    estimate(Coins(lambda w: (calls.append(0), w**2)[1], 8, at=1.0), step_size=1e9, burn_in=0)
    assert len(calls) < 4 * 40 / 2  # a chain that diverged is not continued

    downhill = estimate(regular(at=1.0), step_size=1e-3, localization=0.1)
    assert downhill.value + 3 * downhill.standard_error < 0
    assert not downhill.healthy

    slow = estimate(step_size=1e-5, burn_in=0)  # a quadratic of curvature 1000/32 is far from warm after 40 steps
    assert slow.value > 0
    assert slow.drift.mean() > 0.5 * slow.value
    assert not slow.healthy

    lucky = estimate(step_size=1e-6, chains=3, draws=50, burn_in=10, seed=1)
    assert 0 < lucky.drift.mean() < 3 * lucky.drift.std() / 3**0.5  # three chains climb at speeds that differ by chance
    assert not lucky.healthy

    steep = estimate(step_size=0.08)  # inflated by 1/(1 - 0.08 (1000/32 + 5)/4) = 3.6, so that d/2 = 4 is exceeded
    assert steep.value - 3 * steep.standard_error > 4
    assert abs(steep.drift.mean()) < 0.3 * steep.value
    assert not steep.healthy

    assert estimate().healthy


def test_calibration_takes_the_healthy_cell_whose_neighbours_agree():
    grid = {"step_sizes": [1e-6, 4e-3, 8e-3, 0.08], "inverse_temperatures": [500.0, 1000.0]}
    sampling = {"draws": 50, "burn_in": 10, "localization": 1.0}
    found = calibrate(regular(), *coins(8), **grid, **sampling)
    value, healthy = found.cells.value.numpy(), found.cells.healthy.numpy()
    assert not healthy[0].any()  # has not begun
    assert healthy[2].all()
    assert not healthy[3, 1]  # above d/2
    slope = np.full((4, 2), np.inf)
    for i, j in np.argwhere(healthy):
        steps = [k for k in (i - 1, i + 1) if 0 <= k < 4 and healthy[k, j]]
        if steps and healthy[i, 1 - j]:
            ratio = [np.log(grid["step_sizes"][k] / grid["step_sizes"][i]) for k in steps]
            along_step = max(abs(np.log(value[k, j] / value[i, j]) / r) for k, r in zip(steps, ratio, strict=True))
            slope[i, j] = along_step + abs(np.log(value[i, 0] / value[i, 1])) / np.log(2)
    assert np.isfinite(slope).any()
    np.testing.assert_allclose(found.sensitivity, slope)
    i, j = np.unravel_index(slope.argmin(), slope.shape)
    assert found.step_size == grid["step_sizes"][i]
    assert found.inverse_temperature == grid["inverse_temperatures"][j]
    again = local_learning_coefficient(regular(), *coins(8), step_size=8e-3, inverse_temperature=500.0, **sampling)
    assert torch.equal(again.trace, found.cells.trace[2, 0])


def test_sensitivity_is_that_to_the_worst_healthy_neighbour():
    nan, inf = torch.nan, torch.inf
    value = torch.tensor([[1.0, 2.0, 4.0], [2.0, 2.0, nan], [2.0, 16.0, 9.0]]).double()
    healthy = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1]]) > 0
    axes = [torch.tensor([1.0, 2.0, 4.0]).double(), torch.tensor([1.0, 4.0, 16.0]).double()]
    expected = torch.tensor([[1.5, 0.5, inf], [1.0, 3.0, inf], [inf, 3 + 0.415037, inf]]).double()
    torch.testing.assert_close(_sensitivity(value, healthy, axes), expected, rtol=1e-5, atol=1e-6)


def test_of_equally_flat_cells_the_larger_step_size_is_taken():
    settings = {"inverse_temperatures": [6400.0], "draws": 30, "burn_in": 10}
    found = calibrate(regular(64), *coins(64), step_sizes=[0.01, 0.02], **settings)
    assert found.sensitivity[0] == found.sensitivity[1]  # each is the other's neighbour
    assert found.step_size == 0.02
    one = calibrate(regular(64), *coins(64), step_sizes=[0.5], draws=20, burn_in=5)
    assert one.sensitivity.tolist() == [[0.0]]
    assert one.inverse_temperature == pytest.approx(128 / np.log(128))


def test_calibration_says_why_there_is_nothing_to_choose():
    short = {"draws": 10, "burn_in": 0, "inverse_temperatures": [1000.0]}
    with pytest.raises(NotAvailableError, match=r"of 2, 1 diverged and 1 are not positive\. Cells that diverge"):
        calibrate(quartic(at=1.0), *coins(8), step_sizes=[1e-3, 1e6], localization=0.0, **(short | {"draws": 40}))
    with pytest.raises(NotAvailableError, match=r"no plateau can be seen\. Take a finer grid"):
        calibrate(regular(), *coins(8), step_sizes=[1e-7, 0.02], **(short | {"draws": 40}))
    for grid in ([], [1e-3, 1e-3], [0.0, 1.0], [1.0, float("inf")]):
        with pytest.raises(InvalidArgumentError, match="`step_sizes` must be finite, > 0 and increase; got"):
            calibrate(regular(), *coins(8), step_sizes=grid)


def test_a_model_of_a_run_is_read_by_its_fast_pass_and_equals_its_plain_pass(toy_run):
    class LastPosition(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, tokens):
            return self.model(tokens)[:, -1]

    task, model = toy_run.task, toy_run.model(40).double()
    assert isinstance(model, Network)
    settings = {"step_size": 1e-5, "draws": 4, "burn_in": 0, "chains": 2, "batch_size": 16}
    train = task.tokens[task.train], task.labels[task.train]
    fast = local_learning_coefficient(model, *train, **settings)
    plain = local_learning_coefficient(LastPosition(model), *train, **settings)
    torch.testing.assert_close(fast.trace, plain.trace, rtol=1e-9, atol=0)
    assert fast.initial_loss.item() == pytest.approx(
        nn.functional.cross_entropy(model(train[0])[:, -1], train[1]).item(), rel=1e-9
    )


@pytest.mark.slow
def test_a_network_that_has_grokked_is_simpler_than_the_one_that_had_memorised(grokked_run):
    task, settings = grokked_run.task, {"step_size": 1e-4, "chains": 2, "draws": 100, "burn_in": 400}
    train = task.tokens[task.train], task.labels[task.train]
    found = [  # train accuracy 1 at both, test 0.76 and 0.99
        local_learning_coefficient(grokked_run.model(step), *train, **settings) for step in (100, 1600)
    ]
    memorised, grokked = (one.value for one in found)
    assert 0 < 2 * grokked < memorised
    assert memorised - grokked > 5 * torch.stack([one.standard_error for one in found]).norm()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"step_size": 0.0}, "`step_size` must be finite and > 0; got 0.0"),
        ({"inverse_temperature": float("inf")}, "`inverse_temperature` must be finite and > 0; got inf"),
        ({"localization": -1.0}, "`localization` must be finite and >= 0; got -1.0"),
        ({"chains": 1}, "`chains` must be a whole number >= 2; got 1"),
        ({"draws": 1}, "`draws` must be a whole number >= 2; got 1"),
        ({"burn_in": -1}, "`burn_in` must be a whole number >= 0; got -1"),
        ({"batch_size": 0}, "`batch_size` must be a whole number >= 1; got 0"),
        ({"batch_size": 17}, "`batch_size` must be at most the number of inputs, 16; got 17"),
    ],
)
def test_settings_are_checked(arguments, text):
    with pytest.raises(InvalidArgumentError, match=text):
        estimate(**arguments)


def test_model_and_labels_are_checked(as_users_run_it):
    cells, answers = coins(4)
    for labels in (answers[1:], answers.double(), answers[:, None]):
        with pytest.raises(InvalidArgumentError, match="`labels` must be whole numbers, one for each of at least 2"):
            local_learning_coefficient(regular(4), cells, labels, step_size=1e-3)
    with pytest.raises(InvalidArgumentError, match=r"`model` must map inputs to logits .*, 0..2; got .*\[8, 2\]"):
        local_learning_coefficient(regular(4), cells, 2 * answers, step_size=1e-3)
    with pytest.raises(InvalidArgumentError, match=r"got logits of shape \[8, 4, 3\]"):
        local_learning_coefficient(nn.Embedding(4, 3), cells[:, None].expand(8, 4), answers, step_size=1e-3)
    with pytest.raises(InvalidArgumentError, match="`model` must have parameters that require gradients"):
        local_learning_coefficient(regular(4).requires_grad_(False), cells, answers, step_size=1e-3)


def test_without_devinterp_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "devinterp.optim", None)
    with pytest.raises(NotAvailableError, match=r'pip install "grokking-interp\[llc\]"'):
        estimate()
