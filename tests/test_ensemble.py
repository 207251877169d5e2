"""Runs trained together are the runs they would be alone."""

import os
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch

import interp
from interp.config import (
    SGD,
    AdamW,
    Decoder,
    FeedForward,
    Modular,
    Muon,
    Recurrent,
    RunConfig,
    Sums,
    Symbolic,
    Transformer,
)
from interp.errors import (
    ConfigError,
    CorruptRunError,
    DeviceMemoryError,
    DivergedError,
    NotAvailableError,
    RunExistsError,
    RunLockedError,
)
from interp.execution.queue import train_all
from interp.models.base import rows_of
from interp.store import RunReader, RunWriter
from interp.training.api import RunInterrupted
from interp.training.checking import verify_updates
from interp.training.ensemble import EnsembleStep, shape_of
from interp.training.observers import Observer
from interp.training.state import TrainState
from interp.training.step import TrainingStep
from tests.host_sync import NoHostSync
from tests.observers import Changes, Interrupts, Steps
from tests.soak.scale import scaled

CPU = torch.device("cpu")
MLP = RunConfig(
    task=Modular(p=11, train_fraction=0.6, encoding="operands"), model=FeedForward(d_model=8, d_hidden=(16,))
)
SMALL = {
    "mlp": MLP,
    "mlp-deep-sum": MLP.replace({"model": FeedForward(d_model=8, d_hidden=(16, 12), combine="sum")}),
    "one-hot": MLP.replace({"model": FeedForward(d_hidden=(16,), embedding="one-hot", biases="absent")}),
    "lstm": RunConfig(task=Modular(p=11, train_fraction=0.6), model=Recurrent(d_model=8, d_hidden=10)),
    "lstm-scalars": RunConfig(
        task=Modular(p=11, train_fraction=0.6), model=Recurrent(embedding="scalars", d_hidden=10, n_layers=2)
    ),
    "rnn-sentence": RunConfig(
        task=Modular(p=11, train_fraction=0.6, encoding="sentence"),
        model=Recurrent(cell="rnn", d_model=8, d_hidden=10, dropout=0.3),
    ),
    "transformer": RunConfig(
        task=Modular(p=11, train_fraction=0.6), model=Transformer(d_model=16, n_heads=2, d_head=8, d_mlp=24)
    ),
    "two-layers": RunConfig(
        task=Modular(p=11, train_fraction=0.6), model=Transformer(n_layers=2, d_model=16, n_heads=2, d_head=8, d_mlp=24)
    ),
    "pre-norm-mse": RunConfig(
        task=Modular(p=11, train_fraction=0.6, encoding="operation"),
        model=Transformer(d_model=16, n_heads=2, d_head=8, d_mlp=24, normalization="pre", output_scale=2.0),
        optimizer=AdamW(loss="mse"),
    ),
    "attention-only": RunConfig(
        task=Modular(p=11, train_fraction=0.6, draws=80),
        model=Transformer(d_model=16, n_heads=2, d_head=8, attention_only=True),
    ),
    "decoder-closing": RunConfig(
        task=Symbolic(p=5, train_fraction=0.6, closing=True), model=Decoder(d_model=16, n_heads=2, d_mlp=24)
    ),
    "rnn-closing": RunConfig(
        task=Symbolic(p=5, train_fraction=0.6, closing=True), model=Recurrent(cell="rnn", d_model=8, d_hidden=10)
    ),
    "codes": RunConfig(
        task=Sums(p=6, codes=7, order="ordered"), model=FeedForward(d_model=2, d_hidden=(16,), combine="sum")
    ),
}
DIFFERENT = [
    {"seed": 1, "task.seed": 5},
    {"seed": 2, "task.seed": 6, "optimizer.lr": 3e-3},
    {"seed": 3, "task.seed": 7, "optimizer.weight_decay": 0.1, "optimizer.warmup_steps": 10},
]


def members(config, changes=DIFFERENT):
    return [config.replace(change) for change in changes]


def distance(config, changes=DIFFERENT, steps=200, **how):
    """Largest difference of weights, and of losses, between an ensemble and its members alone.

    An answer on the verge may be right for one and wrong for the other: of those there may be one, or a hundredth.
    """
    alone = [TrainState(member, CPU) for member in members(config, changes)]
    together = [TrainState(member, CPU) for member in members(config, changes)]
    updates, update = [TrainingStep(session) for session in alone], EnsembleStep(together, **how)
    numbers = []
    for step in range(steps):
        if sum(len(session.apply_events(step)) for session in alone):
            updates = [TrainingStep(session) for session in alone]
        if sum(len(session.apply_events(step)) for session in together):
            update = EnsembleStep(together, **how)
        numbers.append(update(step) - torch.cat([one(step) for one in updates]))
    numbers += [update.evaluate(s) - torch.stack([one.evaluate(s) for one in alone]) for s in ("train", "test")]
    losses, shares = torch.stack(numbers).abs().amax((0, 1)).tolist()
    batch = alone[0].batch_size or min(min(len(session.train[1]), len(session.test[1])) for session in alone)
    assert shares < max(1.01 / batch, 0.01)
    weights = max(
        float(np.abs(a - b).max())
        for one, other in zip(alone, together)
        for a, b in zip(one.weights().values(), other.weights().values(), strict=True)
    )
    return weights, losses, alone, together


def seeds_of(config):
    """What members differ in: codes are drawn with the task's seed, which they must then have in common."""
    if not isinstance(config.task, Sums):
        return DIFFERENT
    return [{name: value for name, value in change.items() if name != "task.seed"} for change in DIFFERENT]


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL.keys())
def test_members_are_the_runs_alone(config, float64):
    """In float64, where what is amplified over 200 steps is not rounding but mistakes."""
    weights, losses, alone, _ = distance(config, seeds_of(config))
    assert weights < 1e-7
    assert losses < 1e-7
    moved = alone[0].weights()["unembed.W_U"] - TrainState(alone[0].config, CPU).weights()["unembed.W_U"]
    assert np.abs(moved).max() > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        MLP.replace(
            {"task.p": 53, "model.d_model": 128, "model.d_hidden": (128,), "model.activation": "gelu"}
            | {"optimizer.lr": 1e-4}
        ),
        RunConfig(task=Modular(p=47, train_fraction=0.45), model=Recurrent(d_model=20, d_hidden=20)),
    ],
    ids=["mlp-53-128", "lstm-47-20"],
)
def test_members_are_the_runs_alone_at_full_size_in_float32(config):
    """Float32 rounding stays rounding where nothing has a kink.

    A ReLU's preactivation within rounding of 0 has a slope of 0 in one run and 1 in the other, and Adam makes steps of
    full size of it: with "relu" the distance depends on the number of threads (1e-6 with one, 1e-2 with two).
    """
    weights, losses, *_ = distance(config, [{"seed": seed, "task.seed": seed} for seed in range(3)])
    assert weights < 1e-5
    assert losses < 1e-5


@pytest.mark.parametrize("name", ["mlp", "lstm", "rnn-sentence", "transformer", "decoder-closing"])
@pytest.mark.parametrize("batch", [None, 7])
def test_training_sets_of_different_sizes_and_batches(name, batch, float64):
    changes = [{**change, "task.train_fraction": f} for change, f in zip(DIFFERENT, (0.4, 0.75, 0.6))]
    config = SMALL[name].replace({"optimizer.batch_size": batch})
    if name == "decoder-closing":
        config = config.replace({"task.p": 11})
    weights, losses, alone, _ = distance(config, changes, steps=60)
    assert len({len(session.train[1]) for session in alone}) == 3
    assert weights < 1e-7
    assert losses < 1e-7


@pytest.mark.parametrize(
    "optimizer",
    [
        AdamW(),
        SGD(momentum=0.9),
        Muon(),
        AdamW(decay="to_init"),
        AdamW(loss="stablemax"),
        AdamW(loss_precision="float32"),
    ],
    ids=lambda optimizer: f"{optimizer.slug if hasattr(optimizer, 'slug') else type(optimizer).__name__}",
)
@pytest.mark.parametrize("shared", [False, True])
def test_optimisers_apart_and_shared(optimizer, shared):
    config = SMALL["mlp"].replace({"optimizer": optimizer})
    changes = [{"seed": 1}, {"seed": 2, "optimizer.lr": 2e-3}, {"seed": 3}, {"seed": 4, "optimizer.lr": 2e-3}]
    weights, losses, alone, together = distance(config, changes, steps=40, stacked_updates=shared)
    assert weights < 1e-5
    assert losses < 1e-5
    for one, other in zip(alone, together):
        for key, value in one.moments().items():
            assert np.allclose(value, other.moments()[key], atol=1e-5), key


@pytest.mark.parametrize(
    "change",
    [
        {"interventions.weight_noise": 0.01},
        {"interventions.update_noise": 0.1},
        {"interventions.orthogonal_gradient": True},
        {"interventions.grokfast": "ema"},
        {"interventions.norm": 0.9},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("shared", [False, True])
def test_interventions_are_the_members_own(change, shared):
    """Two members with them, one without: what one is subjected to does not reach the others."""
    changes = [{"seed": 1, **change}, {"seed": 2}, {"seed": 3, **change}]
    weights, losses, *_ = distance(SMALL["mlp"], changes, steps=40, stacked_updates=shared)
    assert weights < 1e-5
    assert losses < 1e-5


@pytest.mark.parametrize("shared", [False, True])
def test_events_are_the_members_own(shared):
    changes = [
        {"seed": 1},
        {"seed": 2, "events": ("step 10: optimizer.weight_decay=0",)},
        {"seed": 3, "events": ("step 20: optimizer.lr=0.01", "step 25: interventions.weight_noise=0.01")},
    ]
    weights, _, _, together = distance(SMALL["mlp"], changes, steps=40, stacked_updates=shared)
    assert weights < 1e-5
    assert together[0].current.optimizer.weight_decay == 1
    assert together[1].current.optimizer.weight_decay == 0


def test_training_sets_without_the_same_operands_are_refused():
    config = SMALL["rnn-sentence"].replace({"task.p": 5})
    few = [{"task.train_fraction": 0.4, "task.seed": seed} for seed in range(6)]
    with pytest.raises(ConfigError, match="do not hold the same operands"):
        EnsembleStep([TrainState(member, CPU) for member in members(config, few)])


def test_rows_of_several_tables_are_those_of_each():
    """On the CPU by numbers, on CUDA by a product in the backward: both are gradients of index_select."""
    stream = torch.Generator().manual_seed(0)
    tables = torch.randn(3, 5, 4, generator=stream, dtype=torch.float64, requires_grad=True)
    index = torch.randint(5, (3, 9), generator=stream)
    incidence = torch.nn.functional.one_hot(index, 7).transpose(1, 2).double()  # of more entries than the table has
    weights = torch.randn(3, 9, 4, generator=stream, dtype=torch.float64)
    expected = torch.stack([table[i] for table, i in zip(tables, index)])
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), tables)
    by_index = torch.func.vmap(lambda table, i: rows_of(table, i, None))(tables, index)
    by_product = torch.func.vmap(rows_of)(tables, index, incidence)
    one_index = torch.func.vmap(lambda table: rows_of(table, index[0], None))(tables)
    assert torch.equal(by_index, expected)
    assert torch.equal(by_product, expected)
    assert torch.equal(one_index, tables[:, index[0]])
    for rows in (by_index, by_product):
        (grad,) = torch.autograd.grad((rows * weights).sum(), tables)
        assert torch.allclose(grad, expected_grad, atol=1e-12)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("name", SMALL)
def test_no_step_of_one_or_of_many_waits_for_the_device(name, batch_size, precision, as_on_cuda):
    config = SMALL[name].replace({"optimizer.batch_size": batch_size, "optimizer.loss_precision": precision})
    sessions = [TrainState(member, CPU) for member in members(config, seeds_of(config))]
    updates = [TrainingStep(TrainState(config, CPU)), EnsembleStep(sessions, stacked_updates=True)]
    with NoHostSync():
        for update in updates:
            update(0)
            update.evaluate("test")


def test_recipes_are_named_as_for_one_run(tmp_path):
    with pytest.raises(ConfigError, match=r"must agree in .*the first and number 2 do not"):
        interp.train_many(["kitouni-circle", "nanda"], root=tmp_path)


def test_shapes_that_differ_are_named():
    config = SMALL["mlp"]
    with pytest.raises(ConfigError, match=r"must agree in `model.d_model`, `steps`; the first and number 2 do not"):
        interp.train_many([config, config.replace({"model.d_model": 9, "steps": 7})])
    with pytest.raises(ConfigError, match=r"`optimizer\.batch_size`"):
        EnsembleStep([TrainState(config, CPU), TrainState(config.replace({"optimizer.batch_size": 4}), CPU)])
    with pytest.raises(ConfigError, match=r"`task\.seed`"):  # by which the codes are drawn
        interp.train_many(members(SMALL["codes"]))
    assert shape_of(config) != shape_of(SMALL["lstm"])
    with pytest.raises(ConfigError, match="two configs are the same"):
        interp.train_many([config, config])


def test_a_batch_of_all_is_no_batch():
    """Of 48 pairs none are left out of a batch of 64, of 90 some are: the two have no step in common."""
    changes = {"task.train_fraction": 0.4, "optimizer.batch_size": 64}
    few, many = MLP.replace(changes), MLP.replace(changes | {"task.train_fraction": 0.75})
    assert shape_of(few) == shape_of(few.replace({"optimizer.batch_size": None}))
    assert shape_of(few) != shape_of(many)
    with pytest.raises(ConfigError, match=r"must agree in `optimizer\.batch_size`; the first and number 2 do not"):
        interp.train_many([few, many])


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("stacked", [True, False])
def test_momentum_that_one_of_them_gets_later(order, stacked):
    base = MLP.replace({"optimizer": SGD(lr=0.1, momentum=0.0)})
    late = {"events": ("step 10: optimizer.momentum=0.9",)}
    changes = [late, {"seed": 1, "optimizer.momentum": 0.9}, {"seed": 2, **late}][::order]
    assert distance(base, changes, steps=30, stacked_updates=stacked)[0] < 1e-5


def test_events_that_change_the_loss_are_those_of_all():
    at = "step 10: optimizer.loss=stablemax"
    config = MLP.replace({"events": (at,)})
    assert shape_of(config) == shape_of(config.replace({"seed": 1}))
    assert shape_of(config) == shape_of(config.replace({"events": (at, "train_accuracy>=0.9: optimizer.lr=0.1")}))
    for event in ("step 11: optimizer.loss=stablemax", "step 10: optimizer.loss_precision=float32"):
        assert shape_of(config) != shape_of(config.replace({"events": (event,)}))
    whenever = MLP.replace({"events": ("train_accuracy>=0.3: optimizer.loss=stablemax",)})
    with pytest.raises(ConfigError, match="must agree in `events`"):
        interp.train_many([whenever, whenever.replace({"seed": 1})])


# --- as runs ----------------------------------------------------------------------------------------------------------

SHORT = {"steps": 40, "save.weights": "every(4)", "save.state": "every(16)", "log.test": "every(2)"}


@pytest.fixture
def configs():
    return members(MLP.replace(SHORT))


def assert_close_runs(one, other):
    assert one.steps.tolist() == other.steps.tolist()
    for name in one.names:
        np.testing.assert_allclose(one.param(name)[:], other.param(name)[:], atol=1e-5, err_msg=name)


def assert_same_runs(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.fingerprints() == other.fingerprints()
        assert one.metrics.equals(other.metrics)


def test_each_member_is_stored_as_its_own_run(configs, tmp_path):
    together = interp.train_many(configs, root=tmp_path / "together", device="cpu")
    alone = [interp.train(config, root=tmp_path / "alone", device="cpu") for config in configs]
    for one, other, config in zip(together, alone, configs):
        assert one.complete
        assert one.config == config
        assert one.run["ensemble"] == [config.run_id for config in configs]
        assert_close_runs(one, other)
        assert one.full_state_steps == other.full_state_steps
        for name in other.metrics:
            np.testing.assert_allclose(one.metrics[name], other.metrics[name], atol=1e-5, err_msg=name)
    again = interp.train_many(configs, root=tmp_path / "together", device="cpu")
    assert [traj.folder for traj in again] == [traj.folder for traj in together]
    with pytest.raises(RunExistsError):
        interp.train_many(configs, root=tmp_path / "together", existing="error")


@pytest.mark.parametrize("name", ["mlp", "lstm"])
@pytest.mark.parametrize("how", ["train_many", "resume"])
def test_interrupted_and_resumed_together(tmp_path, name, how):
    configs = members(SMALL[name].replace(SHORT))
    whole = interp.train_many(configs, root=tmp_path / "whole", device="cpu")
    with pytest.raises(RunInterrupted, match="Interrupted at step 22") as caught:
        interp.train_many(configs, root=tmp_path / "parts", device="cpu", observers=[Interrupts(21)])
    parts = [interp.load(tmp_path / "parts" / config.run_id) for config in configs]
    assert [part.full_state_steps[-1] for part in parts] == [22, 22, 22]
    (parts[1].folder / "state" / "00000022.safetensors").unlink()  # as if killed before it was written
    if how == "resume":
        interp.resume(caught.value.folder)
    else:
        interp.train_many(configs, root=tmp_path / "parts", device="cpu")
    assert_same_runs(whole, [interp.load(part.folder) for part in parts])


def test_a_resume_notices_what_is_not_the_same(configs, tmp_path):
    with pytest.raises(RunInterrupted):
        interp.train_many(configs, root=tmp_path, device="cpu", observers=[Interrupts(30)])
    for config in configs:
        (tmp_path / config.run_id / "state" / "00000031.safetensors").unlink()
    with pytest.raises(CorruptRunError, match=r"embed\.W_E.*step 20"):
        interp.resume(tmp_path / configs[0].run_id, observers=[Changes(18, 1e-6, run_id=configs[1].run_id)])


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_member_is_replayed_in_its_company(tmp_path, name):
    whole = interp.train_many(members(SMALL[name].replace(SHORT)), root=tmp_path, device="cpu")
    zoom = interp.replay(whole[1], 18, 30)
    assert zoom.steps.tolist() == list(range(18, 31))
    assert zoom.run["replay"]["proven"] == [20, 24, 28]
    (whole[2].folder / "run.json").rename(whole[2].folder / "gone.json")
    with pytest.raises(NotAvailableError, match=r"was trained together with .* which is not beside it"):
        interp.replay(whole[1], 17, 30)


def test_none_is_deleted_where_one_cannot_be(configs, tmp_path):
    whole = interp.train_many(configs, root=tmp_path, device="cpu")
    with RunWriter.open(whole[-1].folder), pytest.raises(RunLockedError):
        interp.train_many(configs, root=tmp_path, device="cpu", existing="overwrite")
    assert all(interp.load(traj.folder).verify().ok for traj in whole)


def test_a_copy_or_a_renamed_member_is_not_computed_again_as_another(configs, tmp_path, monkeypatch):
    with pytest.raises(RunInterrupted):
        interp.train_many(configs, root=tmp_path / "runs", device="cpu", observers=[Interrupts(30)])
    member = tmp_path / "runs" / configs[0].run_id
    copy = shutil.copytree(member, member.with_name("copy"))
    calls = (interp.resume, lambda run: interp.replay(run, 20, 24), lambda run: verify_updates(run, 1))
    for call in calls:
        with pytest.raises(NotAvailableError, match=r"copy was trained in an ensemble, .*; was it renamed, or is it a"):
            call(copy)
    (tmp_path / "link").symlink_to(member)
    assert not interp.load(member).complete
    assert interp.replay(tmp_path / "link", 20, 24).run["replay"]["proven"] == [20, 24]
    monkeypatch.chdir(member)
    assert interp.resume(".").complete


def test_one_that_diverges_leaves_the_others(configs, tmp_path):
    alone = interp.train(configs[2], root=tmp_path / "alone", device="cpu")
    poison = Changes(17, torch.nan, run_id=configs[1].run_id)
    with pytest.raises(DivergedError, match=rf"At step 18 the loss .* step 16 in .*{configs[1].run_id}"):
        interp.train_many(configs, root=tmp_path, device="cpu", observers=[poison])
    first, lost, last = (interp.load(tmp_path / config.run_id) for config in configs)
    assert first.complete
    assert not lost.complete
    assert (lost.diverged, lost.steps[-1]) == (18, 16)
    assert_close_runs(last, alone)


def test_a_run_that_diverged_does_not_keep_the_others_from_going_on(configs, tmp_path):
    doomed = configs[0].replace({"optimizer.lr": 1e30})
    with pytest.raises(DivergedError):
        interp.train(doomed, root=tmp_path, device="cpu")
    with pytest.raises(DivergedError, match=doomed.run_id):
        interp.train_many([doomed, *configs[1:]], root=tmp_path, device="cpu")
    assert all(interp.load(tmp_path / config.run_id).complete for config in configs[1:])


@pytest.mark.parametrize("state", ["every(16)", "steps(10)"])
def test_one_that_diverged_does_not_throw_the_others_back(tmp_path, state):
    """It holds no state of any later step, and runs along for its shape alone."""
    configs = members(MLP.replace({**SHORT, "save.state": state}))
    configs[1] = configs[1].replace({"optimizer.lr": 1e30})
    with pytest.raises(DivergedError, match=configs[1].run_id):
        interp.train_many(configs, root=tmp_path / "whole", device="cpu")
    with pytest.raises(RunInterrupted):
        interp.train_many(configs, root=tmp_path / "parts", device="cpu", observers=[Interrupts(30)])
    begun = Steps()
    interp.resume(tmp_path / "parts" / configs[0].run_id, observers=[begun])
    assert begun.steps[:2] == [31, 31]
    runs = [[interp.load(tmp_path / part / config.run_id) for config in configs] for part in ("whole", "parts")]
    assert_same_runs(*runs)
    assert runs[1][1].diverged == runs[0][1].diverged == 1
    zoom = interp.replay(runs[1][2], 32 if state == "every(16)" else 10, 38)
    assert zoom.run["replay"]["proven"] == [*range(*((32, 37, 4) if state == "every(16)" else (12, 37, 4)))]


def test_a_companion_that_was_trained_again_is_not_touched(configs, tmp_path):
    with pytest.raises(RunInterrupted):
        interp.train_many(configs, root=tmp_path, device="cpu", observers=[Interrupts(20)])
    again = interp.train(configs[0], root=tmp_path, device="cpu", existing="overwrite")
    metrics = again.metrics
    with pytest.raises(NotAvailableError, match=f"together with {configs[0].run_id}, which has been trained again"):
        interp.resume(tmp_path / configs[1].run_id)
    again = interp.load(again.folder)
    assert again.complete
    assert again.metrics.equals(metrics)


def test_what_does_not_fit_together_is_refused_before_anything_is_made(tmp_path):
    base = RunConfig(task=Modular(p=5, train_fraction=0.4), model=Recurrent(cell="rnn", d_model=4, d_hidden=4), steps=3)
    configs = [base.replace({"task.seed": seed, "seed": seed}) for seed in range(6)]
    with pytest.raises(ConfigError, match="do not hold the same operands"):
        interp.train_many(configs, root=tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())
    assert interp.train(configs[0], root=tmp_path, device="cpu").complete


def test_what_does_not_fit_is_known_before_anything_is_made_or_deleted(configs, tmp_path, monkeypatch):
    """Runs that were to be trained together would else ask for their company again when fewer are tried."""
    before = interp.train(configs[0].replace({"steps": 4}), root=tmp_path, device="cpu").folder
    configs[0] = configs[0].replace({"steps": 4})
    configs[1:] = [config.replace({"steps": 4}) for config in configs[1:]]

    def full(self, *args, **how):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(EnsembleStep, "__init__", full)
        with pytest.raises(DeviceMemoryError, match="does not hold this: train fewer runs together"):
            interp.train_many(configs, root=tmp_path, existing="overwrite", device="cpu")
        assert list(tmp_path.iterdir()) == [before]
        assert interp.load(before).complete
        found = train_all(configs[1:], root=tmp_path, together=2, workers=1, device="cpu")
        assert all("train fewer runs together" in why for why in found.failures.values())
        assert len(found.failures) == 2
    assert interp.train(configs[1], root=tmp_path, device="cpu").complete


def test_runs_that_exist_are_gone_on_with_and_the_rest_is_trained(configs, tmp_path):
    first = interp.train(configs[0], root=tmp_path, device="cpu")
    all_of_them = interp.train_many(configs, root=tmp_path, device="cpu")
    assert all_of_them[0].fingerprints() == first.fingerprints()
    assert "ensemble" not in all_of_them[0].run
    assert all_of_them[1].run["ensemble"] == [config.run_id for config in configs[1:]]


CREATES = """
    import os, signal, sys
    import torch
    from interp.config import RunConfig
    from interp.training import api

    configs = [RunConfig.from_json(line) for line in open({configs!r}, encoding="utf-8")]
    torch.set_num_threads(1)
    api.build_step([api.TrainState(config, torch.device("cpu")) for config in configs])  # which imports for seconds
    loop, calls = {{"os.mkdir", "open", "os.link", "os.remove", "os.rename"}}, 0

    def dies(event, arguments, at):
        global calls
        if event in loop and str(arguments[0]).startswith(root):
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)

    for at in range(1, 1000):
        root = os.path.join({folder!r}, f"{{at:03}}")
        if (child := os.fork()) == 0:
            sys.addaudithook(lambda event, arguments: dies(event, arguments, at))
            api.advance = lambda *arguments: os._exit(0)  # all folders are made
            api.train_many(configs, root=root, device="cpu", threads=1)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
"""
"""Makes the folders of an ensemble, killed at its first, second, ... access to the file system."""


def test_killed_while_the_folders_were_made_it_is_begun_again(tmp_path):
    """By the same call, or the same sweep; and one of them alone says what to do."""
    configs = members(MLP.replace({"steps": 3, "save.weights": "every(1)"}))[: scaled(2, 3)]
    (tmp_path / "configs").write_text("\n".join(config.to_json() for config in configs), encoding="utf-8")
    script = CREATES.format(configs=str(tmp_path / "configs"), folder=str(tmp_path / "killed"))
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=300)
    whole = interp.train_many(configs, root=tmp_path / "whole", device="cpu", threads=1)
    left = {}  # by the names of the files that are there; those of temporary files are random
    for root in sorted((tmp_path / "killed").iterdir()):
        names = [str(path.relative_to(root)) for path in sorted(root.rglob("*"))]
        left.setdefault(tuple("temporary" if name.endswith(".tmp") else name for name in names), root)
    assert len(left) > 3 * len(configs)
    made = [sum((root / config.run_id / "run.json").exists() for config in configs) for root in left.values()]
    assert set(made) == set(range(len(configs) + 1))
    for root, there in zip(left.values(), made):
        if 0 < there < len(configs):
            with pytest.raises(NotAvailableError, match=r"nothing of them is stored yet\. The same call of"):
                interp.resume(root / configs[0].run_id)
            copy = shutil.copytree(root, tmp_path / "swept" / root.name)
            swept = train_all(configs, root=copy, together=3, workers=1, device="cpu", threads=1)
            assert swept.failures == {}
            assert_same_runs(swept.trajectories, whole)
        assert_same_runs(interp.train_many(configs, root=root, device="cpu", threads=1), whole)


@pytest.mark.parametrize(
    "again", [interp.train_many, partial(train_all, together=99, workers=1)], ids=["call", "sweep"]
)
def test_to_begin_again_each_folder_is_read_a_few_times(again, tmp_path, monkeypatch):
    """However many members there are: each names all of them."""
    reads = {}
    for n in (4, 8):
        configs = [MLP.replace({"seed": seed, "steps": 1}) for seed in range(n)]
        names, root, opened = [config.run_id for config in configs], tmp_path / str(n), []
        for config in configs[:-1]:
            RunWriter.create(root / config.run_id, {"config": config.to_dict(), "ensemble": names}, fsync=False).close()

        def noted(path, *rest, real=os.open, opened=opened, **named):
            opened.append(os.fspath(path))
            return real(path, *rest, **named)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", noted)
            again(configs, root=root, device="cpu", threads=1)
        assert all(interp.load(root / name).complete for name in names)
        reads[n] = sum(path.endswith("/run.json") for path in opened)
    assert reads[8] <= 2 * reads[4] + 8


def test_a_member_that_lost_a_file_leaves_the_others_complete(configs, tmp_path):
    class Loses(Observer):
        def on_state(self, run, step, arrays):
            if run.folder.name == configs[0].run_id:
                for path in sorted((run.folder / "trajectory").glob("*.safetensors"))[:-1]:
                    path.unlink()

    settings = RunWriter.__init__.__kwdefaults__ | {"segment_steps": 2}
    with (
        mock.patch.object(RunWriter.__init__, "__kwdefaults__", settings),
        pytest.raises(CorruptRunError, match="while it was trained, so it is not complete"),
    ):
        interp.train_many(configs, root=tmp_path, device="cpu", observers=[Loses()])
    complete = [RunReader(tmp_path / config.run_id).complete for config in configs]
    assert complete == [False, *[True] * (len(configs) - 1)]


@pytest.mark.parametrize("lost", ["trajectory", "state", "metrics.jsonl"])
def test_an_ensemble_that_has_begun_is_not_begun_again(configs, tmp_path, lost):
    """Though two of its members are lost, and of one nearly everything."""
    first, *others = interp.train_many(configs, root=tmp_path, device="cpu")
    with RunWriter.open(first.folder) as writer:
        writer.replace_run(writer.run)  # no longer complete
    for other in others:
        shutil.rmtree(other.folder)
    for name in {"trajectory", "state", "metrics.jsonl"} - {lost}:
        path = first.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kept = sorted((first.folder / lost).rglob("*")) or [first.folder / lost]
    with pytest.raises(NotAvailableError, match="its steps cannot be computed again alone"):
        interp.train_many(configs, root=tmp_path, device="cpu")
    assert all(path.exists() for path in kept)
    assert not others[0].folder.exists()
