"""Every recipe trains, resumes bit for bit and is measured, at toy scale."""

import numpy as np
import pytest
import torch

import interp
from interp.config import (
    AdamW,
    FeedForward,
    Gaussian,
    Group,
    Logistic,
    Modular,
    Operations,
    Recurrent,
    Save,
    Sums,
    Symbolic,
    Transformer,
)
from interp.config.recipes import RECIPES
from interp.config.schedule import Every
from interp.errors import NotAvailableError


def toy(config):
    """The same in kind, with few residues and narrow layers."""
    match config.task:
        case Modular() | Operations() | Symbolic(group=None):
            changes = {"task.p": 7, "task.train_fraction": max(0.5, config.task.train_fraction)}
        case Symbolic():
            changes = {"task.train_fraction": 0.01}  # of 14,400 pairs of permutations
        case Group():
            changes = {"task.n": 3}
        case Gaussian():
            changes = {"task.n": 20, "task.d": 9}
    match config.model:
        case Transformer():
            changes |= {"model.d_model": 8, "model.n_heads": 2, "model.d_head": 4, "model.d_mlp": 16}
        case FeedForward(d_hidden=hidden):
            changes |= {"model.d_model": 8, "model.d_hidden": (12,) * len(hidden)}
        case Recurrent():
            changes |= {"model.d_model": 8, "model.d_hidden": 8}
        case Logistic():
            pass
        case _:
            changes |= {"model.d_model": 8, "model.n_heads": 2, "model.d_mlp": 16}
    if config.optimizer.batch_size is not None:
        changes["optimizer.batch_size"] = 4
    often = {"save.weights": "every(1)", "save.state": "every(2)", "log.train": "every(1)", "log.test": "every(3)"}
    return config.replace({**changes, **often, "steps": 6})


@pytest.mark.parametrize("name", RECIPES)
def test_it_trains_resumes_and_is_measured(name, tmp_path):
    config = toy(interp.recipes.get(name))
    whole = interp.train(config, root=tmp_path / "whole", device="cpu")
    assert whole.steps.tolist() == list(range(7))
    losses = whole.metrics.train_loss.dropna("step")
    assert len(losses) >= 3
    assert np.isfinite(losses).all()
    # from the state of step 4 on, again: a resumed run compares what it recomputes with what is stored
    zoom = interp.replay(whole, start=4, stop=6)
    assert zoom.run["replay"]["proven"] == [4, 5, 6]
    data = interp.measure(whole, cache=False)
    if isinstance(config.task, Gaussian):  # test numbers are the population's
        assert {"weight_length", "late_direction_cosine"} <= set(data)
        return
    assert {"train_loss", "test_accuracy", "weight_norm"} <= set(data)
    logged = whole.metrics.test_loss.dropna("step")
    if not getattr(config.task, "closing", False):  # whose loss is of two tokens
        np.testing.assert_allclose(data.test_loss.sel(step=logged.step), logged, rtol=1e-4)


def test_the_closing_token_is_learned_with_the_answer(tmp_path):
    """Loss and accuracy of openai/grok, by hand, from the plain pass over inputs that end with the answer."""
    config = toy(interp.recipes.get("power")).replace({"optimizer.batch_size": None, "optimizer.warmup_steps": 0})
    traj = interp.train(config, root=tmp_path, device="cpu")
    inputs, classes = traj.task.objective.inputs(traj.task.tokens, traj.task.labels)
    with torch.no_grad():
        log_p = traj.model(3)(inputs)[:, -2:].double().log_softmax(-1)
    nll = -log_p.gather(-1, classes[..., None]).squeeze(-1)
    right = (log_p.argmax(-1) == classes).all(-1)
    for split, mask in (("train", traj.task.train), ("test", traj.task.test)):
        logged = traj.metrics.sel(step=3)
        np.testing.assert_allclose(logged[f"{split}_loss"], nll[mask].mean(), rtol=1e-5)
        np.testing.assert_allclose(logged[f"{split}_accuracy"], right[mask].double().mean())


def test_codes_are_regressed_upon(tmp_path):
    """Liu et al.'s toy: the answer is whose code is nearest."""
    config = interp.RunConfig(
        task=Sums(seed=58, codes=30, encoding="operands"),
        model=FeedForward(d_model=1, combine="sum", d_hidden=(20, 20)),
        optimizer=AdamW(lr=1e-2, weight_decay=0.0),
        steps=200,
        save=Save(weights=Every(100)),
    )
    traj = interp.train(config, root=tmp_path, device="cpu")
    with torch.no_grad():
        output = traj.model(100)(traj.task.tokens)[:, -1]
    train, codes, labels = traj.task.train, traj.task.objective.codes, traj.task.labels
    logged = traj.metrics.sel(step=100)
    error = (output - codes[labels])[train].square().mean()
    np.testing.assert_allclose(logged.train_loss, error, rtol=1e-4)
    nearest = ((output[:, None] - codes) ** 2).sum(-1).argmin(-1)
    np.testing.assert_allclose(logged.train_accuracy, (nearest == labels)[train].double().mean())
    assert float(traj.metrics.train_loss[0]) > 1.5 * float(traj.metrics.train_loss.dropna("step")[-1])
    data = interp.measure(traj, cache=False)
    assert "weight_norm" in data
    assert "train_loss" not in data  # which is a cross-entropy
    for name in ("train_loss", "gradient_norm_by_parameter", "local_learning_coefficient"):
        with pytest.raises(NotAvailableError, match=f"`{name}` needs outputs that are logits of classes"):
            interp.measure(traj, [name])


def test_every_recipe_says_what_and_whence():
    for name, recipe in RECIPES.items():
        assert recipe.summary, name
        assert len(recipe.source) > 80, name
