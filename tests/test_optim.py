"""Optimisers and interventions: each has a law, and each with nothing to do changes no bit."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import interp
from interp.config import SGD, Adam, AdamW, Gaussian, Interventions, Logistic, Muon, RunConfig
from interp.errors import ConfigError
from interp.optim import build_interventions, build_optimizer, learning_rate, set_learning_rate
from interp.optim.interventions import (
    ConstantNorm,
    DecayToInit,
    Grokfast,
    Jiggle,
    OrthoGrad,
    UpdateNoise,
    WeightNoise,
)
from interp.optim.muon import orthogonalized
from interp.optim.optimizers import load_optimizer_arrays
from interp.tasks.objective import answer_loss, log_stablemax_term
from interp.training.state import TrainState
from interp.training.step import TrainingStep

CPU = torch.device("cpu")


def network(seed=0):
    """Parameters of several shapes, one of them frozen, with gradients."""
    stream = torch.Generator().manual_seed(seed)
    model = nn.Module()
    model.embed = nn.Module()
    model.embed.W_E = nn.Parameter(torch.randn(7, 5, generator=stream))
    block = nn.Module()
    block.W_in = nn.Parameter(torch.randn(5, 8, generator=stream))
    block.W_O = nn.Parameter(torch.randn(3, 4, 5, generator=stream))
    block.b_in = nn.Parameter(torch.randn(8, generator=stream))
    model.blocks = nn.ModuleList([block])
    model.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    set_gradients(model, 0)
    return model


def set_gradients(model, step):
    for name, W in model.named_parameters():
        if W.requires_grad:
            W.grad = torch.randn(W.shape, generator=torch.Generator().manual_seed(100 * step + len(name)))


def clones(model):
    return {name: W.detach().clone() for name, W in model.named_parameters()}


def equal_bits(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def trained(config, steps=12):
    """Weights after some updates, as one dictionary."""
    session = TrainState(config, CPU)
    update = TrainingStep(session)
    for step in range(steps):
        update(step)
    return {name: value.copy() for name, value in session.weights().items()}


def same(a, b):
    return all(a[name].tobytes() == b[name].tobytes() for name in a)


# --- the learning rate ------------------------------------------------------------------------------------------------


def test_annealing_is_half_a_cosine_after_the_warm_up():
    config = AdamW(lr=2.0, warmup_steps=10, anneal_steps=100, anneal_to=0.1)
    rates = [learning_rate(config, step) for step in range(300)]
    assert rates[:11] == [2.0 * step / 10 for step in range(11)]
    assert rates[60] == pytest.approx(2.0 * 0.55)
    assert rates[35] == pytest.approx(0.2 + 1.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[110:] == pytest.approx([0.2] * 190)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = AdamW(lr=2.0, warmup_steps=10, anneal_steps=100, anneal_to=1.0)
    assert [learning_rate(constant, step) for step in range(300)] == pytest.approx(
        [2.0 * min(s / 10, 1) for s in range(300)]
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamW(anneal_steps=0), "`AdamW.anneal_steps` must be >= 1, or None; got 0."),
        (lambda: AdamW(anneal_to=1.5), r"`AdamW.anneal_to` must be a share in \[0, 1\]; got 1.5."),
        (lambda: AdamW(decay="away"), "`AdamW.decay` must be one of to_zero, to_init, jiggle; got 'away'."),
        (
            lambda: AdamW(loss="hinge"),
            "`AdamW.loss` must be one of cross-entropy, stablemax, exponential, mse; got 'hinge'.",
        ),
        (lambda: Muon(momentum=1.0), r"`Muon.momentum` must be in \[0, 1\); got 1.0."),
        (lambda: Muon(iterations=-1), "`Muon.iterations` must be >= 0; got -1."),
        (lambda: Muon(adam_lr=0.0), "`Muon.adam_lr` must be > 0; got 0.0."),
        (lambda: Muon(betas=(0.9, 1.0)), r"`Muon.betas` must be two numbers in \[0, 1\); got \(0.9, 1.0\)."),
        (lambda: Muon(eps=-1.0), "`Muon.eps` must be >= 0; got -1.0."),
        (lambda: Interventions(update_noise=-1.0), "`Interventions.update_noise` must be a standard deviation >= 0"),
        (lambda: Interventions(weight_noise=-1.0), "`Interventions.weight_noise` must be a standard deviation >= 0"),
        (lambda: Interventions(grokfast="sma"), "`Interventions.grokfast` must be one of off, ema, ma; got 'sma'."),
        (lambda: Interventions(grokfast_lambda=-1.0), "`Interventions.grokfast_lambda` must be >= 0; got -1.0."),
        (lambda: Interventions(grokfast_alpha=1.0), r"`Interventions.grokfast_alpha` must be in \[0, 1\); got 1.0."),
        (lambda: Interventions(grokfast_window=0), "`Interventions.grokfast_window` must be >= 1; got 0."),
        (lambda: Interventions(norm=0.0), "`Interventions.norm` must be > 0, or None to leave the norm free; got 0.0."),
    ],
)
def test_values_that_break_a_rule_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# --- optimisers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [AdamW(lr=0.1, weight_decay=0.5), Muon(lr=0.1, adam_lr=0.1, weight_decay=0.5)])
def test_decay_alone_shrinks_every_weight_by_1_minus_lr_wd(config):
    model, steps = network(), 7
    before = clones(model)
    optimizer = build_optimizer(config, model.named_parameters())
    set_learning_rate(optimizer, config.lr)
    for _ in range(steps):
        for W in model.parameters():
            W.grad = torch.zeros_like(W)
        optimizer.step()
    for name, W in model.named_parameters():
        factor = 1.0 if name == "frozen" else (1 - 0.1 * 0.5) ** steps
        assert torch.allclose(W, before[name] * factor, rtol=1e-5), name


def test_coupled_decay_is_a_gradient():
    for config in (Adam(weight_decay=0.3), SGD(weight_decay=0.3, momentum=0.5)):
        model, other = network(), network()
        optimizer, plain = (
            build_optimizer(config, model.named_parameters()),
            build_optimizer(config.replace({"weight_decay": 0.0}), other.named_parameters()),
        )
        for step in range(4):
            set_gradients(model, step)
            set_gradients(other, step)
            for W in other.parameters():
                if W.requires_grad:
                    W.grad += 0.3 * W.detach()
            optimizer.step()
            plain.step()
        for name, W in clones(model).items():
            assert torch.allclose(W, clones(other)[name], atol=1e-6), name


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (9, 5), (3, 4, 8), (1, 4)])
def test_orthogonalisation_keeps_the_singular_vectors_and_brings_the_values_near_1(shape):
    U = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    X = orthogonalized(U, 5)
    left, values, right = torch.linalg.svd(U, full_matrices=False)
    inner = left.mT @ X @ right.mT
    assert torch.allclose(inner, torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1)), atol=1e-10)
    share = values / values.norm(dim=-1, keepdim=True)
    brought = inner.diagonal(dim1=-2, dim2=-1)[share > 0.05]
    assert (brought > 0.6).all()
    assert (brought < 1.25).all()
    for each, slow in zip(X.reshape(-1, *shape[-2:]), U.reshape(-1, *shape[-2:])):
        assert torch.allclose(each, slow_newton_schulz(slow, 5), atol=1e-10)
    assert torch.allclose(orthogonalized(3 * U, 5), X)


def slow_newton_schulz(U, iterations):
    """By singular values: the iteration is an odd polynomial of each."""
    left, values, right = torch.linalg.svd(U, full_matrices=False)
    values = values / values.norm()
    for _ in range(iterations):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ torch.diag(values) @ right


def test_muon_is_orthogonalised_nesterov_momentum_and_adamw_elsewhere():
    config = Muon(lr=0.02, adam_lr=0.003, weight_decay=0.1, momentum=0.9, betas=(0.8, 0.9), eps=1e-8)
    model, other = network(), network()
    optimizer = build_optimizer(config, model.named_parameters())
    set_learning_rate(optimizer, 0.02)
    adam = torch.optim.AdamW(
        [other.embed.W_E, other.blocks[0].b_in], 0.003, betas=(0.8, 0.9), eps=1e-8, weight_decay=0.1, fused=True
    )
    M = {name: torch.zeros_like(W).double() for name, W in other.named_parameters()}
    slow = {name: W.detach().double() for name, W in other.named_parameters()}
    for step in range(5):
        set_gradients(model, step)
        set_gradients(other, step)
        optimizer.step()
        adam.step()
        for name in ("blocks.0.W_in", "blocks.0.W_O"):
            G = other.get_parameter(name).grad.double()
            M[name] = 0.9 * M[name] + 0.1 * G
            U = 0.9 * M[name] + 0.1 * G
            each = [slow_newton_schulz(matrix, 5) for matrix in U.reshape(-1, *U.shape[-2:])]
            turned = torch.stack(each).reshape(U.shape) * max(1, U.shape[-1] / U.shape[-2]) ** 0.5
            slow[name] = slow[name] * (1 - 0.02 * 0.1) - 0.02 * turned
    for name in ("embed.W_E", "blocks.0.b_in"):
        assert torch.allclose(model.get_parameter(name), other.get_parameter(name), rtol=1e-6), name
    for name in ("blocks.0.W_in", "blocks.0.W_O"):
        assert torch.allclose(model.get_parameter(name).double(), slow[name], atol=1e-5), name
    assert torch.equal(model.frozen, torch.ones(3))


def test_muon_without_iterations_is_gradient_descent_with_nesterov_momentum():
    """The control: M here is (1 - mu) times torch's momentum, so the rate is 1 / (1 - mu) times torch's."""
    model, other = network(), network()
    optimizer = build_optimizer(Muon(lr=0.1, momentum=0.8, iterations=0), model.named_parameters())
    set_learning_rate(optimizer, 0.1)
    plain = torch.optim.SGD([other.blocks[0].W_in, other.blocks[0].W_O], 0.1 * 0.2, momentum=0.8, nesterov=True)
    for step in range(5):
        set_gradients(model, step)
        set_gradients(other, step)
        optimizer.step()
        plain.step()
    for name in ("blocks.0.W_in", "blocks.0.W_O"):
        assert torch.allclose(model.get_parameter(name), other.get_parameter(name), atol=1e-6), name


def test_counters_of_muon_come_back_to_where_the_weights_are():
    """On CUDA a captured step reads them there; torch moves those of a group that says it is fused."""
    model = nn.Linear(2, 2, device="meta")
    optimizer = build_optimizer(Muon(), model.named_parameters())
    moments = {f"{key}/bias": np.zeros(2, np.float32) for key in ("exp_avg", "exp_avg_sq")}
    load_optimizer_arrays(optimizer, model, moments | {"step/bias": np.float32(3)})
    assert {key: value.device.type for key, value in optimizer.state[model.bias].items()} == {
        "step": "meta", "exp_avg": "meta", "exp_avg_sq": "meta"
    }  # fmt: skip


def test_warm_up_acts_on_both_rates_of_muon():
    model = network()
    config = Muon(lr=0.02, adam_lr=0.003, warmup_steps=4)
    optimizer = build_optimizer(config, model.named_parameters())
    set_learning_rate(optimizer, learning_rate(config, 1))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.00075])


# --- interventions, one by one ----------------------------------------------------------------------------------------


def test_weight_noise_is_there_in_the_pass_and_gone_after_it():
    model = network()
    before = clones(model)
    noise = WeightNoise(model, 0.3, seed=5)
    drawn = []
    for step in range(200):
        noise.prepare(step, 0.1)
        with noise.around():
            drawn.append(torch.cat([(W - before[name]).flatten() for name, W in clones(model).items()]))
        assert equal_bits(clones(model), before)
    drawn = torch.stack(drawn)
    frozen = drawn[:, -3:] if list(before)[-1] == "frozen" else drawn[:, :3]
    assert (frozen == 0).all()
    values = drawn[drawn != 0]
    assert float(values.std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(values.mean())) < 4 * 0.3 / len(values) ** 0.5
    noise.prepare(7, 0.9)
    with noise.around():
        again = torch.cat([(W - before[name]).flatten() for name, W in clones(model).items()])
    assert torch.equal(again, drawn[7])  # a function of seed and step, not of the rate or of what was drawn before


def test_weights_come_back_also_after_a_failure_in_the_pass():
    model = network()
    before = clones(model)
    noise = WeightNoise(model, 0.3, seed=5)
    noise.prepare(0, 0.1)
    with pytest.raises(ZeroDivisionError), noise.around():
        1 / 0  # noqa: B018
    assert equal_bits(clones(model), before)


def test_the_variance_of_update_noise_is_lr_squared():
    model = network()
    noise = UpdateNoise(model, 1.0, seed=2)
    changes = []
    for step in range(400):
        before = clones(model)
        noise.prepare(step, 0.05)
        noise.after()
        changes.append(
            torch.cat([(W - before[name]).flatten() for name, W in clones(model).items() if name != "frozen"])
        )
    changes = torch.stack(changes)
    assert float(changes.var()) == pytest.approx(0.05**2, rel=0.02)
    assert abs(float(changes.mean())) < 4 * 0.05 / changes.numel() ** 0.5
    assert float((changes[1:] * changes[:-1]).mean()) == pytest.approx(0, abs=4 * 0.05**2 / changes.numel() ** 0.5)
    assert torch.equal(model.frozen, torch.ones(3))


def test_muon_leaves_biases_to_adamw():
    """Those of heads are [head, d_head]; the one of the keys has a gradient of nothing but rounding."""
    config = RunConfig().replace({"model.attention_biases": "trainable", "optimizer": Muon()})
    model = TrainState(config, CPU).model
    matrices, others = build_optimizer(Muon(), model.named_parameters()).param_groups
    names = {id(W): name.rpartition(".")[2] for name, W in model.named_parameters()}
    assert {names[id(W)] for W in matrices["params"]} == {"W_Q", "W_K", "W_V", "W_O", "W_in", "W_out"}
    assert {"b_Q", "b_K", "b_V", "b_O", "W_E", "W_U", "W_pos"} <= {names[id(W)] for W in others["params"]}


def test_update_noise_has_the_rate_of_its_parameter():
    config = RunConfig().replace({"optimizer": Muon(lr=0.02, adam_lr=3e-4), "interventions.update_noise": 1.0})
    session = TrainState(config, CPU)
    (noise,) = session.interventions
    noise.prepare(0, 0.02)
    std = {name: float(e.std()) for name, e in zip(noise.names, noise._noise.tensors)}
    assert std["embed.W_E"] == pytest.approx(3e-4, rel=0.05)
    assert std["blocks.0.mlp.W_in"] == pytest.approx(0.02, rel=0.05)


def test_nothing_is_orthogonal_to_a_number():
    config = RunConfig(
        task=Gaussian(n=50, d=5), model=Logistic(), optimizer=SGD(lr=0.05),
        interventions=Interventions(orthogonal_gradient=True),
    )  # fmt: skip
    session = TrainState(config, CPU)
    update, before = TrainingStep(session), session.weights()["b"].copy()
    for step in range(5):
        update(step)
    assert session.weights()["b"] == before


def test_orthograd_turns_gradients_orthogonal_and_keeps_their_norms():
    model = network()
    model.blocks[0].b_in.data.zero_()  # what is zero has no direction to avoid
    before, old = clones(model), {name: W.grad.clone() for name, W in model.named_parameters() if W.requires_grad}
    OrthoGrad(model).before()
    for name, g in old.items():
        W, new = before[name].double(), model.get_parameter(name).grad.double()
        g = g.double()
        slow = g - (W * g).sum() / ((W * W).sum() + 1e-30) * W
        slow *= g.norm() / slow.norm()
        assert torch.allclose(new, slow, atol=1e-5), name
        assert abs(float((W * new).sum())) < 1e-5 * float(W.norm() * new.norm() + 1)
        assert float(new.norm()) == pytest.approx(float(g.norm()), rel=1e-5)
    assert equal_bits(clones(model), before)
    optimizer = build_optimizer(SGD(lr=0.1), model.named_parameters())
    optimizer.step()  # of plain descent the update itself is orthogonal: the norm grows as in Pythagoras
    for name, g in old.items():
        W = model.get_parameter(name).detach().double()
        expected = float(before[name].double().norm() ** 2 + 0.01 * g.double().norm() ** 2)
        assert float(W.norm() ** 2) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("window", [None, 1, 3])
def test_grokfast_is_the_gradient_and_a_multiple_of_its_moving_average(window):
    model = network()
    filtered = Grokfast(model, 2.0, 0.7, window)
    past, mean = [], None
    for step in range(8):
        set_gradients(model, step)
        g = model.embed.W_E.grad.double()
        past.append(g)
        mean = g if mean is None else 0.7 * mean + 0.3 * g
        filtered.before()
        if window is None:
            slow = g + 2.0 * mean
        else:
            slow = g + 2.0 * sum(past[-window:]) / window if len(past) >= window else g
        assert torch.allclose(model.embed.W_E.grad.double(), slow, atol=1e-5), step


def test_decay_to_init_draws_back_to_the_initial_weights():
    model = network()
    initial = clones(network(seed=1))
    before, steps = clones(model), 6
    decay = DecayToInit(model, 0.5, initial)
    for step in range(steps):
        decay.prepare(step, 0.1)
        decay.before()
    for name, W in clones(model).items():
        factor = 1.0 if name == "frozen" else (1 - 0.1 * 0.5) ** steps
        expected = initial[name] + (before[name] - initial[name]) * factor
        assert torch.allclose(W, expected if name != "frozen" else before[name], atol=1e-6), name
    at_home = network(seed=1)
    DecayToInit(at_home, 0.5, initial).before()
    assert equal_bits(clones(at_home), initial)


def test_jiggle_scales_each_tensor_by_one_number_that_grows_it_as_often_as_not():
    model = network()
    before = clones(model)
    jiggle = Jiggle(model, 2.0, seed=3)
    exponents = []
    for step in range(500):
        for name, W in model.named_parameters():
            W.data.copy_(before[name])
        jiggle.prepare(step, 0.1)
        jiggle.before()
        for name, W in clones(model).items():
            ratios = W / before[name]
            assert torch.allclose(ratios, ratios.flatten()[0].expand_as(ratios), rtol=1e-5)
            if name != "frozen":
                exponents.append(math.log(float(ratios.flatten()[0])) / (0.1 * 2.0))
    assert abs(np.mean(exponents)) < 4 / len(exponents) ** 0.5
    assert np.std(exponents) == pytest.approx(1.0, rel=0.06)


def test_a_constant_norm_is_that_multiple_of_the_initial_one():
    model = network()
    initial = clones(network(seed=1))
    before = clones(model)
    ConstantNorm(model, 0.8, initial).after()

    def norm(weights):
        return math.sqrt(sum(float(W.double().square().sum()) for name, W in weights.items() if name != "frozen"))

    assert norm(clones(model)) == pytest.approx(0.8 * norm(initial), rel=1e-6)
    for name, W in clones(model).items():
        factor = 1.0 if name == "frozen" else 0.8 * norm(initial) / norm(before)
        assert torch.allclose(W, before[name] * factor, rtol=1e-5)


# --- StableMax --------------------------------------------------------------------------------------------------------


def test_stablemax_is_the_share_of_s():
    z = torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 10
    labels = torch.arange(20) % 7
    s = torch.where(z >= 0, z + 1, 1 / (1 - z))
    shares = s / s.sum(1, keepdim=True)
    loss, right = answer_loss(z.float(), labels, kind="stablemax")
    assert float(loss) == pytest.approx(float(-shares[range(20), labels].log().mean()), rel=1e-6)
    assert torch.equal(right, z.argmax(1) == labels)
    plain, _ = answer_loss(z.float(), labels, "float32", "stablemax")
    assert float(plain) == pytest.approx(float(loss), rel=1e-5)
    shift = (
        answer_loss(z + 5, labels)[0] - answer_loss(z, labels)[0],
        answer_loss(z + 5, labels, kind="stablemax")[0] - loss,
    )
    assert abs(float(shift[0])) < 1e-12 < abs(float(shift[1]))  # unlike the softmax, it sees a common shift


def test_the_gradient_of_stablemax_is_that_of_its_definition_also_at_0():
    z = torch.tensor([0.0, -0.0, 1.0, -1.0, 30.0, -30.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_stablemax_term(z).sum(), z)
    assert torch.allclose(slope, 1 / (1 + z.detach().abs()))
    large = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)  # where float32's softmax has nothing left to say
    answer_loss(large, torch.tensor([0]), "float32", "stablemax")[0].backward()
    assert (large.grad[0, 1:] > 1e-4).all()


# --- in a run ---------------------------------------------------------------------------------------------------------

NULLS = {
    "weight noise of 0": (WeightNoise, (0.0, 1)),
    "update noise of 0": (UpdateNoise, (0.0, 1)),
    "an average amplified by 0": (Grokfast, (0.0, 0.9)),
    "a window amplified by 0": (Grokfast, (0.0, 0.9, 5)),
}


@pytest.mark.parametrize(("kind", "arguments"), NULLS.values(), ids=NULLS)
def test_an_intervention_of_strength_0_changes_no_bit(toy_config, kind, arguments):
    session = TrainState(toy_config, CPU)
    session.interventions = (kind(session.model, *arguments),)
    update = TrainingStep(session)
    for step in range(12):
        update(step)
    assert same(session.weights(), trained(toy_config))


def test_without_a_rate_the_forms_of_decay_and_annealing_are_the_plain_optimiser(toy_config):
    plain = trained(toy_config.replace({"optimizer.weight_decay": 0.0}))
    for decay in ("to_init", "jiggle"):
        assert same(plain, trained(toy_config.replace({"optimizer.weight_decay": 0.0, "optimizer.decay": decay})))
    assert same(
        plain,
        trained(
            toy_config.replace(
                {"optimizer.weight_decay": 0.0, "optimizer.anneal_steps": 10**9, "optimizer.anneal_to": 1.0}
            )
        ),
    )


def test_settings_of_what_is_off_change_no_bit_and_build_nothing(toy_config):
    quiet = toy_config.replace({"interventions.grokfast_lambda": 9.0, "interventions.grokfast_window": 3})
    assert TrainState(quiet, CPU).interventions == ()
    assert same(trained(quiet), trained(toy_config))


ALL = {
    "update noise": {"interventions.update_noise": 0.5},
    "weight noise": {"interventions.weight_noise": 0.05},
    "orthograd": {"interventions.orthogonal_gradient": True},
    "grokfast ema": {"interventions.grokfast": "ema"},
    "grokfast ma": {"interventions.grokfast": "ma", "interventions.grokfast_window": 6},
    "norm": {"interventions.norm": 0.8, "optimizer.weight_decay": 0.0},
    "to_init": {"optimizer.decay": "to_init"},
    "jiggle": {"optimizer.decay": "jiggle"},
    "stablemax": {"optimizer.loss": "stablemax"},
    "annealing": {"optimizer.anneal_steps": 20},
    "muon": {"optimizer": Muon(lr=0.005, weight_decay=0.1)},
    "momentum": {"optimizer": SGD(momentum=0.9)},
}


@pytest.mark.parametrize("change", ALL.values(), ids=ALL)
def test_each_is_another_run_and_goes_on_bit_for_bit(toy_config, change):
    """A session restored from weights and moments in the middle ends where the whole one does."""
    config = toy_config.replace(change)
    assert RunConfig.from_json(config.to_json()) == config
    whole = trained(config, 20)
    assert not same(whole, trained(toy_config, 20))
    first, second = TrainState(config, CPU), TrainState(config, CPU)
    update = TrainingStep(first)
    for step in range(11):
        update(step)
    arrays = {f"model/{name}": value.copy() for name, value in first.weights().items()} | first.moments()
    second.restore(arrays)
    update = TrainingStep(second)
    for step in range(11, 20):
        update(step)
    assert same(second.weights(), whole)


@pytest.mark.parametrize("change", ALL.values(), ids=ALL)
def test_what_a_capture_tries_out_can_be_undone(toy_config, change):
    """As before a CUDA graph: updates without draws, then weights and moments back in place."""
    session = TrainState(toy_config.replace(change), CPU)
    update = TrainingStep(session)
    for step in range(5):
        update(step)
    weights, moments = {name: value.copy() for name, value in session.weights().items()}, session.moments()
    for _ in range(3):
        update._update()
    session.put_back(weights, moments)
    for step in range(5, 12):
        update(step)
    assert same(session.weights(), trained(toy_config.replace(change)))


@pytest.mark.parametrize("change", [ALL["weight noise"], ALL["stablemax"]], ids=["weight noise", "stablemax"])
def test_losses_of_a_changed_pass_are_not_called_training_losses(toy_config, tmp_path, change):
    traj = interp.train(toy_config.replace(change), root=tmp_path, device="cpu")
    assert traj.metrics["batch_loss"].notnull().sum() == 40
    for step in (8, 40):
        logits = traj.model(step)(traj.task.tokens)[:, -1].detach()
        loss, _ = answer_loss(logits[traj.task.train], traj.task.labels[traj.task.train])
        assert float(traj.metrics["train_loss"].sel(step=step)) == pytest.approx(float(loss), rel=1e-5)
    assert float(traj.metrics["batch_loss"].sel(step=8)) != pytest.approx(
        float(traj.metrics["train_loss"].sel(step=8)), rel=1e-5
    )


def test_a_constant_norm_is_kept_through_a_run(toy_config, tmp_path):
    traj = interp.train(toy_config.replace(ALL["norm"]), root=tmp_path, device="cpu")

    def norm(step):
        return math.sqrt(sum(float(W.double().square().sum()) for W in traj.state(step).values()))

    for step in (4, 20, 40):
        assert norm(step) == pytest.approx(0.8 * norm(0), rel=1e-5)


def test_interventions_stand_in_their_order(toy_config):
    everything = {name: value for change in list(ALL.values())[:7] for name, value in change.items()}
    model = TrainState(toy_config, CPU).model
    config = toy_config.replace(everything)
    built = build_interventions(config, model, lambda: dict(copy.deepcopy(model).named_parameters()))
    kinds = [WeightNoise, Grokfast, OrthoGrad, DecayToInit, UpdateNoise, ConstantNorm]
    assert [type(one) for one in built] == kinds
