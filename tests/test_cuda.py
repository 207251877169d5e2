"""A run on CUDA is bit for bit itself, and the run on the CPU but for rounding. Without a device these are skipped."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

import interp
from interp.config import Modular, Muon, RunConfig, Transformer
from interp.config.recipes import RECIPES
from interp.errors import DeviceMemoryError
from interp.training import step as single
from interp.training.api import RunInterrupted
from interp.training.ensemble import EnsembleStep
from interp.training.state import TrainState
from interp.training.step import TrainingStep
from tests.observers import Interrupts
from tests.test_ensemble import DIFFERENT, SMALL, members, seeds_of
from tests.test_recipes import toy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
INTERVENED = RunConfig(
    task=Modular(p=11, train_fraction=0.6), model=Transformer(d_model=16, n_heads=2, d_head=8, d_mlp=24)
)
INTERVENTIONS = {
    "update-noise": {"interventions.update_noise": 0.1},
    "weight-noise": {"interventions.weight_noise": 0.1},
    "orthogonal": {"interventions.orthogonal_gradient": True, "optimizer.loss": "stablemax"},
    "norm": {"interventions.norm": 1.0},
    "grokfast-ema": {"interventions.grokfast": "ema", "optimizer.decay": "to_init"},
    "grokfast-ma": {"interventions.grokfast": "ma", "interventions.grokfast_window": 3},
    "jiggle": {"optimizer.decay": "jiggle"},
    "muon": {"optimizer": Muon()},
    "warm-up": {"optimizer.warmup_steps": 10},
    "event": {"events": ("step 10: optimizer.weight_decay=0.0", "step 20: optimizer.lr=0.0001")},
}


@pytest.fixture(autouse=True)
def exact():
    """What `run_environment` sets for a run."""
    with interp.training.environment.run_environment(CUDA, None):
        yield


def advance(session, steps):
    """Losses and accuracies of updates, with the events between them."""
    update, numbers = TrainingStep(session), []
    for step in range(steps):
        if session.apply_events(step):
            update = TrainingStep(session)
        numbers.append(update(step).cpu().clone())
    return torch.cat(numbers)


def with_rate_of_float32(config):
    """On CUDA the learning rate is a float32, which is not to be all the difference that there is in float64."""
    return config.replace({"optimizer.lr": float(np.float32(config.optimizer.lr))})


def assert_close(one, other, tolerance):
    for (name, a), b in zip(one.weights().items(), other.weights().values(), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, err_msg=name)


def assert_same(one, other):
    for (name, a), b in zip(one.weights().items(), other.weights().values(), strict=True):
        assert np.array_equal(a, b), name


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_same_run_again_whole_resumed_and_replayed(name, tmp_path):
    config = toy(interp.recipes.get(name))
    whole = interp.train(config, root=tmp_path / "whole", device="cuda")
    assert whole.provenance["device"] == "cuda"
    assert whole.provenance["update"] == "captured as a CUDA graph"
    assert interp.replay(whole, start=4, stop=6).run["replay"]["proven"] == [4, 5, 6]
    with pytest.raises(RunInterrupted):
        interp.train(config, root=tmp_path / "parts", device="cuda", observers=[Interrupts(3)])
    parts = interp.train(config, root=tmp_path / "parts", device="cuda")
    assert parts.complete
    assert parts.fingerprints() == whole.fingerprints()
    assert parts.metrics.equals(whole.metrics)
    elsewhere = interp.train(config, root=tmp_path / "cpu", device="cpu")
    for metric in whole.metrics:
        if metric.endswith("loss"):
            np.testing.assert_allclose(whole.metrics[metric], elsewhere.metrics[metric], rtol=1e-3, err_msg=metric)


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL.keys())
def test_a_run_is_that_on_the_cpu(config, batch_size, float64):
    config = with_rate_of_float32(config.replace({"optimizer.batch_size": batch_size}))
    here, there = (TrainState(config, device) for device in (CPU, CUDA))
    difference = (advance(here, 100) - advance(there, 100)).abs()
    assert_close(here, there, 1e-7)
    assert difference[:, 0].max() < 1e-7
    moved = there.weights()["unembed.W_U"] - TrainState(config, CPU).weights()["unembed.W_U"]
    assert np.abs(moved).max() > 1e-3


@pytest.mark.parametrize("changes", INTERVENTIONS.values(), ids=INTERVENTIONS.keys())
def test_what_intervenes_does_so_as_on_the_cpu(changes, float64):
    config = with_rate_of_float32(INTERVENED.replace(changes))
    here, there, again = (TrainState(config, device) for device in (CPU, CUDA, CUDA))
    plain = TrainState(INTERVENED, CUDA)
    assert (advance(here, 40) - advance(there, 40)).abs()[:, 0].max() < 1e-6
    assert_close(here, there, 1e-6)
    advance(again, 40)
    assert_same(there, again)
    advance(plain, 40)
    with pytest.raises(AssertionError):
        assert_close(there, plain, 1e-6)


def everything(session, steps=30):
    """Losses and accuracies of updates, and of evaluations in between."""
    update, numbers = TrainingStep(session), []
    for step in range(steps):
        evaluated = [update.evaluate(split).clone() for split in ("test", "train")]
        numbers += [update(step).clone(), *evaluated, update.evaluate("test").clone()]
    return torch.cat(numbers)


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("name", SMALL)
def test_what_is_captured_is_what_it_was(name, batch_size, monkeypatch):
    config = SMALL[name].replace({"optimizer.batch_size": batch_size})
    captured, plain = TrainState(config, CUDA), TrainState(config, CUDA)
    numbers = everything(captured)
    monkeypatch.setattr(single, "captured_update", lambda update, states: None)
    monkeypatch.setattr(single, "CapturedEvaluations", lambda update: None)
    assert torch.equal(numbers, everything(plain))
    assert_same(captured, plain)
    assert len(numbers[:, 0].unique()) > 60


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("name", SMALL)
def test_members_are_the_runs_alone(name, batch_size, float64):
    config = SMALL[name].replace({"optimizer.batch_size": batch_size})
    configs = [with_rate_of_float32(member) for member in members(config, seeds_of(config))]
    alone = [TrainState(member, CPU) for member in configs]
    together = [TrainState(member, CUDA) for member in configs]
    update = EnsembleStep(together)
    losses = torch.stack([update(step).cpu()[:, 0] for step in range(100)], 1)
    for one, other, loss in zip(alone, together, losses):
        assert (advance(one, 100)[:, 0] - loss).abs().max() < 1e-7
        assert_close(one, other, 1e-7)


def test_an_ensemble_goes_on_where_it_was_interrupted(tmp_path):
    short = {"steps": 40, "save.weights": "every(4)", "save.state": "every(16)", "log.test": "every(2)"}
    configs = members(SMALL["lstm"].replace(short), DIFFERENT)
    whole = interp.train_many(configs, root=tmp_path / "whole", device="cuda")
    with pytest.raises(RunInterrupted):
        interp.train_many(configs, root=tmp_path / "parts", device="cuda", observers=[Interrupts(21)])
    for one, other in zip(whole, interp.train_many(configs, root=tmp_path / "parts", device="cuda"), strict=True):
        assert one.fingerprints() == other.fingerprints()
        assert one.metrics.equals(other.metrics)
    assert interp.replay(whole[1], 18, 30).run["replay"]["proven"] == [20, 24, 28]


@pytest.mark.parametrize("name", [name for name in SMALL if not getattr(SMALL[name].model, "dropout", 0)])
def test_neither_updates_nor_losses_wait_for_the_device(name):
    config = SMALL[name]
    together = [TrainState(member, CUDA) for member in members(config, seeds_of(config))]
    updates = [TrainingStep(TrainState(config, CUDA)), EnsembleStep(together)]
    for update in updates:
        update.evaluate("test")
    try:
        with warnings.catch_warnings(action="ignore"):  # that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        for update in updates:
            for step in range(3):
                update(step)
            update.evaluate("test")
        with pytest.raises(RuntimeError, match="synchronizing"):
            update.evaluate("test").cpu()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_does_not_fit_leaves_nothing(tmp_path):
    config = interp.recipes.get("nanda")
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved() + 2**26
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(DeviceMemoryError, match=torch.cuda.get_device_name()):
            interp.train_many([config, config.replace({"seed": 1})], root=tmp_path, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert not list(tmp_path.iterdir())


def test_settings_are_put_back():
    """The other way round it would be the fixture's doing: what a run found is there after it."""
    buffers = torch.utils.deterministic
    torch.use_deterministic_algorithms(False)
    buffers.fill_uninitialized_memory = True
    with interp.training.environment.run_environment(CUDA, None):
        assert torch.are_deterministic_algorithms_enabled()
        assert not buffers.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert buffers.fill_uninitialized_memory


def test_a_run_from_cuda_is_read_and_measured_without_it(tmp_path):
    config = toy(interp.recipes.get("nanda"))
    traj = interp.train(config, root=tmp_path, device="cuda")
    data = interp.measure(traj, cache=False)
    logged = traj.metrics.test_loss.dropna("step")
    np.testing.assert_allclose(data.test_loss.sel(step=logged.step), logged, rtol=1e-4)
    assert dataclasses.asdict(traj.config) == dataclasses.asdict(config)
    with pytest.raises(interp.errors.CorruptRunError, match="exactness holds for one device model"):
        interp.replay(traj, start=4, stop=6, device="cpu")
