"""Logistic regression on points of one class: data, exact gradients, the population's numbers, runs."""

import numpy as np
import pytest
import torch

import interp
from interp.config import SGD, Adam, FeedForward, Gaussian, Logistic, Modular, RunConfig
from interp.errors import ConfigError, NotAvailableError
from interp.tasks import build_task
from interp.tasks.objective import one_class_loss, population_numbers
from interp.theory import separability
from interp.training.ensemble import EnsembleStep
from interp.training.state import TrainState
from interp.training.step import TrainingStep

CPU = torch.device("cpu")
CONFIG = RunConfig(task=Gaussian(n=40, d=15, sigma=3.0), model=Logistic(), optimizer=SGD(lr=0.05), steps=60).replace(
    {"save.weights": "every(5)", "save.state": "every(20)", "log.test": "every(5)"}
)


def test_points_are_those_of_the_population_and_of_the_seed():
    task = build_task(Gaussian(n=4000, d=5, sigma=2.0))
    assert task.tokens.std().item() == pytest.approx(2, rel=0.02)
    assert abs(task.tokens.mean().item()) < 0.05
    assert bool(task.train.all())
    assert not bool(task.test.any())
    assert torch.equal(task.tokens, build_task(Gaussian(n=4000, d=5, sigma=2.0)).tokens)
    other = build_task(Gaussian(n=4000, d=5, sigma=4.0, seed=0)).tokens
    assert torch.equal(other, 2 * task.tokens)
    assert not torch.equal(build_task(Gaussian(n=4000, d=5, sigma=2.0, seed=1)).tokens, task.tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: Gaussian(sigma=0.0), r"`Gaussian\.sigma` must be > 0"),
        (lambda: Gaussian(n=0), r"`Gaussian\.n` must be >= 1"),
        (lambda: Gaussian(d=0), r"`Gaussian\.d` must be >= 1"),
        (lambda: Logistic(initial_norm=-1.0), r"`Logistic\.initial_norm` must be >= 0"),
        (lambda: RunConfig(task=Gaussian()), "belong together; got Gaussian and Transformer"),
        (lambda: RunConfig(model=Logistic()), "belong together; got Modular and Logistic"),
        (lambda: CONFIG.replace({"optimizer.loss": "stablemax"}), r"`optimizer\.loss` must be cross-entropy or exp"),
        (
            lambda: RunConfig(
                task=Modular(encoding="operands"), model=FeedForward(), optimizer=SGD(loss="exponential")
            ),
            "got exponential",
        ),
    ],
)
def test_configs_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        change()


@pytest.mark.parametrize("kind", ["cross-entropy", "exponential"])
def test_closed_form_gradients_are_autograds(kind):
    session = TrainState(
        CONFIG.replace({"optimizer.loss": kind, "model.initial_norm": 0.3, "model.initial_bias": 0.2}), CPU
    )
    loss, right = session.differentiate(*session.train)
    S, b = (W.detach().clone().requires_grad_() for W in (session.model.S, session.model.b))
    z = session.task.tokens.double() @ S + b
    expected = (z.exp().log1p() if kind == "cross-entropy" else z.exp()).mean()
    by_S, by_b = torch.autograd.grad(expected, (S, b))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.equal(right, z < 0)
    assert torch.allclose(session.model.S.grad, by_S, atol=1e-6)  # products with points are float32
    assert torch.allclose(session.model.b.grad, by_b, atol=1e-7)
    assert session.model.S.grad.dtype == torch.float64


@pytest.mark.parametrize("s", [0.01, 0.5, 3.0, 15.0, 40.0])
@pytest.mark.parametrize("b", [-30.0, -1.0, 0.0, 2.0])
def test_numbers_of_the_population_are_those_of_the_theory(s, b):
    loss, accuracy = population_numbers(
        torch.tensor(s / 2, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), 2.0
    ).tolist()
    assert loss == pytest.approx(separability.generalisation_loss(s / 2, b, 2.0), rel=1e-9)
    assert accuracy == pytest.approx(separability.generalisation_accuracy(s / 2, b, 2.0), rel=1e-9, abs=1e-12)


def test_accuracy_of_the_population_without_weights():
    at = [population_numbers(torch.zeros(()).double(), torch.tensor(b).double(), 1.0)[1].item() for b in (-1, 0, 1)]
    assert at == [1.0, 0.5, 0.0]


def test_loss_of_one_class_far_out():
    loss, right, slopes = one_class_loss(torch.tensor([-800.0, 800.0], dtype=torch.float64))
    assert loss.item() == pytest.approx(400)
    assert right.tolist() == [True, False]
    assert slopes.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("kind", ["cross-entropy", "exponential"])
def test_a_run_is_gradient_descent(kind, tmp_path):
    """Against the two lines of the definition, in numpy and float64."""
    config = CONFIG.replace({"optimizer.loss": kind, "model.initial_bias": 0.5})
    traj = interp.train(config, root=tmp_path, device="cpu")
    X, S, b = traj.task.tokens.double().numpy(), np.zeros(15), 0.5
    losses = []
    for _ in range(config.steps):
        z = X @ S + b
        losses.append(np.logaddexp(0, z).mean())
        slope = 1 / (1 + np.exp(-z)) if kind == "cross-entropy" else np.exp(z)
        S, b = S - 0.05 * (slope @ X) / 40, b - 0.05 * slope.mean()
    np.testing.assert_allclose(traj.param("S").sel(step=config.steps), S, atol=1e-6)
    np.testing.assert_allclose(traj.param("b").sel(step=config.steps), [b], atol=1e-6)
    logged = traj.metrics.train_loss.dropna("step")
    np.testing.assert_allclose(logged[:-1], np.array(losses)[logged.step[:-1].values], rtol=1e-6)
    assert traj.metrics.test_accuracy.sel(step=60) == pytest.approx(
        separability.generalisation_accuracy(np.linalg.norm(S), b, 3.0), abs=1e-6
    )


def test_a_run_begins_where_it_is_told_to():
    model = TrainState(CONFIG.replace({"model.initial_norm": 2.0, "model.initial_bias": -1.5}), CPU).model
    assert model.S.norm().item() == pytest.approx(2)
    assert model.b.item() == -1.5
    other = TrainState(CONFIG.replace({"model.initial_norm": 2.0, "seed": 1}), CPU).model
    assert not torch.allclose(model.S, other.S)


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), Adam(lr=0.01, betas=(0.8, 0.9), eps=1e-4)])
def test_sets_trained_together_are_the_sets_alone(optimizer):
    configs = [
        CONFIG.replace({"optimizer": optimizer}).replace({"task.seed": seed, "optimizer.lr": lr})
        for seed, lr in enumerate((0.01, 0.02, 0.01))
    ]
    alone, together = [[TrainState(config, CPU) for config in configs] for _ in range(2)]
    updates, update = [TrainingStep(session) for session in alone], EnsembleStep(together)
    for step in range(60):
        numbers = update(step)
        expected = torch.cat([one(step).clone() for one in updates])
        assert torch.allclose(numbers[:, 0], expected[:, 0], atol=1e-5)
    for one, other in zip(alone, together):
        assert torch.allclose(one.model.S, other.model.S, atol=1e-5)
    tests = torch.stack([session.evaluate("test") for session in alone])
    assert torch.allclose(update.evaluate("test"), tests, atol=1e-5)
    assert tests.std(0).min() > 1e-3


def test_runs_resume_replay_and_are_measured(toy_run, tmp_path):
    traj = interp.train(CONFIG, root=tmp_path, device="cpu")
    zoom = interp.replay(traj, 22, 33)
    assert zoom.run["replay"]["proven"] == [25, 30]
    assert traj.model(60).S.shape == (15,)
    data = interp.measure(traj)
    assert data.late_direction_cosine.sel(step=60) > 0.5
    assert data.positive_share.sel(step=60) == pytest.approx(
        (traj.task.tokens.double() @ traj.state(60)["S"] > 0).double().mean().item()
    )
    with pytest.raises(NotAvailableError, match="`train_loss` needs outputs that are logits of classes"):
        interp.measure(traj, ["train_loss"])
    with pytest.raises(NotAvailableError, match="`bias` is defined for logistic regression on points"):
        interp.measure(toy_run, ["bias"])
    page = interp.report(traj, tmp_path / "report.html").read_text()
    assert "Length of the weights, and the bias" in page
    np.testing.assert_allclose(
        data.weight_norm.sel(step=60), np.hypot(np.linalg.norm(traj.state(60)["S"]), traj.state(60)["b"].item())
    )


def test_a_report_tells_no_phases_of_points(tmp_path):
    traj = interp.train(CONFIG.replace({"steps": 2000, "save.weights": "log(40)"}), root=tmp_path, device="cpu")
    page = interp.report(traj, tmp_path / "report.html").read_text()
    assert "Length of the weights, and the bias" in page
    assert "circuit formation" not in page.lower()
