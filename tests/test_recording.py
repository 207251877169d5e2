"""Recording loops of a user's own: nothing of them changes, and whatever is measured of their networks is right."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import interp
from interp.config import Modular, recipes
from interp.errors import (
    DivergedWarning,
    InvalidArgumentError,
    NotAvailableError,
    RunExistsError,
    UnknownNameError,
)
from interp.recording.staging import Staging
from interp.store import RunReader, RunWriter
from tests.recorded import MLP, NAMES, made, sums, task, update
from tests.test_cli import call


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "mine"


def recorded(folder, model, opt, steps, **arguments):
    """Record so many updates on the sums mod 7."""
    with interp.record(folder, model, optimizer=opt, **arguments) as rec:
        for _ in range(rec.start, steps):
            rec.step(train_loss=update(model, opt))
    return rec


def weights(model):
    return {name: x.detach().clone() for name, x in model.state_dict().items()}


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- a loop, recorded -------------------------------------------------------------------------------------------------


def test_loop_is_bitwise_the_loop_without_the_recorder(folder):
    (plain, opt), (model, other) = made(), made()
    by_step = []
    for _ in range(25):
        by_step.append(weights(plain))
        update(plain, opt)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    made()
    model, other = made()
    traj = recorded(folder, model, other, 25, save="every(1)", task=task(), names=NAMES, neurons="act").trajectory
    assert torch.equal(torch.rand(3), drawn)  # nor has it drawn from the loop's generator
    assert equal(weights(model), weights(plain))
    for step in (0, 1, 24):
        state = traj.state(step)
        assert torch.equal(state["embed.W_E"], by_step[step]["embed.weight"])
        assert torch.equal(state["unembed.W_U"], by_step[step]["out.weight"].T)
    assert traj.steps.tolist() == list(range(26))
    assert traj.complete
    assert traj.verify().ok
    assert traj.config.steps == 25
    assert traj.config.optimizer.name == "AdamW"
    assert traj.config.optimizer.lr == 1e-2


def test_measures_are_those_of_the_built_in_network(folder, tmp_path):
    """The recipe's own network with the recorded weights: every measure is there, and all numbers agree."""
    model, opt = made(d=16, d_hidden=24)
    traj = recorded(folder, model, opt, 60, save="every(20)", task=task(), names=NAMES, neurons="act").trajectory
    config = recipes.get("simple-grokking").replace(
        {"task.p": 7, "model.d_model": 16, "model.d_hidden": (24,), "steps": 60, "save.weights": "every(20)"}
    )
    _, _, train = sums()
    about = {"config": config.replace({"task.split": "stored", "model.init_stream": "seed"}).to_dict()}
    masks = {side: interp.tasks.base.packed(mask) for side, mask in (("train", train), ("test", ~train))}
    with RunWriter.create(tmp_path / "twin", {**about, "import": {"split": masks}}, fsync=False) as writer:
        for step in traj.steps:
            writer.append(int(step), {name: traj.param(name).sel(step) for name in traj.names})
        writer.finish()
    ours, theirs = interp.measure(traj), interp.measure(interp.load(tmp_path / "twin"))
    assert set(ours) == set(theirs)
    assert len(ours) > 50
    assert ours.attrs["key_frequencies"] == theirs.attrs["key_frequencies"]
    for name in theirs:
        if theirs[name].dtype.kind == "f":
            xs, ys = ours[name].transpose(*theirs[name].dims).values, theirs[name].values
            if "parameter" in theirs[name].dims:
                xs = ours[name].sel(parameter=theirs.parameter).values
            np.testing.assert_allclose(xs, ys, rtol=2e-4, atol=2e-5, err_msg=name)


def test_report_of_a_recorded_run(folder):
    model, opt = made()
    traj = recorded(folder, model, opt, 20, task=task(), names=NAMES, neurons="act").trajectory
    page = interp.report(traj).read_text()
    assert "train_loss" in page
    assert len(page) > 100_000
    assert interp.report(interp.load(folder)).exists()  # by the weights alone


def test_scalars_belong_to_the_weights_that_gave_them(folder):
    model, opt = made()
    with interp.record(folder, model, optimizer=opt, task=task()) as rec:
        for _ in range(5):
            loss = update(model, opt)
            rec.step(train_loss=loss, lr=torch.tensor(0.5))
            rec.log(test_loss=2.0)
    metrics = rec.trajectory.metrics
    computed = interp.measure(rec.trajectory, ["train_loss"]).train_loss.values
    np.testing.assert_allclose(metrics.train_loss.values[:5], computed[:5], rtol=1e-5)
    assert metrics.step.values.tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isnan(metrics.test_loss.values[0])
    assert (metrics.test_loss.values[1:] == 2).all()
    assert (metrics.lr.values[:5] == 0.5).all()


def test_run_without_a_task(folder):
    model, opt = made()
    recorded(folder, model, opt, 12, save="every(4)", names=NAMES)
    traj = interp.load(folder)
    found = interp.measure(traj)
    assert {"weight_norm", "update_norm_by_parameter"} <= set(found)
    norm = np.sqrt(sum(float(x.detach().square().sum()) for x in model.parameters()))
    assert float(found.weight_norm[-1]) == pytest.approx(norm, rel=1e-6)
    with pytest.raises(NotAvailableError, match="`test_loss` needs"):
        interp.measure(traj, ["test_loss"])
    with pytest.raises(NotAvailableError, match="`embedding_power` needs"):
        interp.measure(traj, ["embedding_power"])
    assert interp.report(traj).exists()
    own = interp.Measure("bias_mean", lambda b: b.weights["unembed.b_U"].mean(-1), "mean of a bias")
    assert interp.measure(traj, [own]).bias_mean.shape == (4,)


def test_task_of_this_package_and_a_function_for_the_logits(folder):
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(14, 7)

        def forward(self, first, second):
            return {"logits": self.out(torch.cat([first, second], 1))}

    def forward(model, tokens):
        return model(*(F.one_hot(x, 7).float() for x in tokens[:, :2].T))["logits"]

    model = Pairs()
    with interp.record(folder, model, task=Modular(p=7), forward=forward, neurons="out:input") as rec:
        rec.step()
    traj = rec.trajectory
    tokens = traj.task.tokens
    assert torch.equal(traj.model()(tokens), forward(model, tokens))
    answer = traj.model().answer(traj.network.prepare(tokens))
    assert torch.equal(answer.neuron_logit_map, model.out.weight.T.detach())
    with pytest.raises(NotAvailableError, match="function of its own for the logits"):
        interp.load(folder, model=Pairs())
    with pytest.raises(NotAvailableError, match="they differ by"):
        interp.load(folder, model=Pairs(), forward=lambda model, tokens: -forward(model, tokens))
    assert interp.load(folder, model=Pairs(), forward=forward).model().can_run


# --- the way from the neurons to the logits ---------------------------------------------------------------------------


class Transformer(nn.Module):
    """A block of attention and an MLP, with or without a LayerNorm behind it."""

    def __init__(self, p=7, d=8, normed=False):
        super().__init__()
        self.tok = nn.Embedding(p + 1, d)
        self.attn = nn.MultiheadAttention(d, 2, batch_first=True)
        self.up, self.act, self.down = nn.Linear(d, 12), nn.GELU(), nn.Linear(12, d)
        self.norm = nn.LayerNorm(d) if normed else nn.Identity()
        self.head = nn.Linear(d, p + 1, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return self.head(self.norm(x + self.down(self.act(self.up(x)))))


def with_equals(p=7):
    pairs, answers, train = sums(p)
    tokens = torch.cat([pairs, torch.full((p * p, 1), p)], 1)
    return interp.tasks.table(tokens, answers, train=train, answers_are="residues", p=p)


def test_neurons_of_a_transformer(folder):
    torch.manual_seed(1)
    model = Transformer()
    names = {"tok.weight": "embed.W_E", "head.weight": ("unembed.W_U", "T")}
    with interp.record(folder, model, task=with_equals(), names=names, neurons="act") as rec:
        rec.step()
    network = rec.trajectory.model()
    answer = network.answer(network.prepare(rec.trajectory.task.tokens))
    with torch.no_grad():
        exact = model.down.weight.T @ model.head.weight.T
        x = model(rec.trajectory.task.tokens)[:, -1]
    torch.testing.assert_close(answer.neuron_logit_map, exact)
    torch.testing.assert_close(answer.logits, x)
    assert answer.neurons.shape == (49, 12)
    assert answer.logits.shape == (49, 8)  # '=' is a class, too
    assert network.embedded == "tok"
    assert rec.trajectory.config.task.encoding == "direct"
    found = interp.measure(rec.trajectory)
    assert {"neuron_frequency", "neuron_logit_power", "gradient_symmetricity"} <= set(found)


def test_neurons_before_a_layer_norm_are_said_not_to_give_the_logits(folder):
    model = Transformer(normed=True)
    with pytest.warns(UserWarning, match="not affine in `neurons` act"):
        rec = interp.record(folder, model, task=with_equals(), neurons="act")
    with rec:
        rec.step()
    network = rec.trajectory.network
    assert not network.has_neurons
    assert network.hidden_activations == "act"
    with pytest.raises(NotAvailableError, match="`neuron_frequency` needs a model with a hidden layer"):
        interp.measure(rec.trajectory, ["neuron_frequency"])


@pytest.mark.parametrize("forward", [lambda model, x: model(x)[:, 0], lambda model, x: model(x).mean(1)])
def test_neurons_of_other_positions_are_said_not_to_be_those_of_the_answer(folder, forward):
    model = Transformer()
    with pytest.warns(UserWarning, match="at the last position alone"):
        rec = interp.record(folder, model, task=with_equals(), neurons="act", forward=forward)
    with rec:
        rec.step()
    assert not rec.trajectory.network.has_neurons


# --- kinds of parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types_of_parameters_are_stored_exactly(folder, dtype):
    model, _ = made()
    model.to(dtype)
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rec = recorded(folder, model, opt, 6, save="every(3)", task=task(), names=NAMES, neurons="act")
    traj = interp.load(folder, model=MLP().to(dtype))
    assert traj.param("embed.W_E").dtype == (np.float64 if dtype == torch.float64 else np.float32)
    for name, x in model.named_parameters():
        new, *turn = [NAMES[name]] if isinstance(NAMES[name], str) else NAMES[name]
        stored = traj.state()[new].to(dtype)
        assert torch.equal(stored.T if turn else stored, x), name
    logits = traj.model()(traj.task.tokens)
    with torch.no_grad():
        assert torch.equal(logits.to(dtype), model.eval()(traj.task.tokens))
    assert np.isfinite(interp.measure(traj, ["test_loss", "neuron_frequency_share"]).test_loss).all()
    assert rec.trajectory.full_state_steps == [0, 6]


def test_tied_weights_are_stored_once(folder):
    class Tied(nn.Module):
        def __init__(self, p=7):
            super().__init__()
            self.embed = nn.Embedding(p, 8)
            self.head = nn.Linear(8, p, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.embed(x).sum(1).relu())

    model, opt = made(kind=Tied)
    traj = recorded(folder, model, opt, 4, task=task(), names={"embed.weight": "embed.W_E"}).trajectory
    assert traj.names == ("embed.W_E",)
    with torch.no_grad():
        assert torch.equal(traj.model()(traj.task.tokens), model(traj.task.tokens))
    assert interp.load(folder, model=Tied()).model().can_run


def test_buffers_and_frozen_parameters(folder):
    class Normed(nn.Module):
        def __init__(self, p=7):
            super().__init__()
            self.mlp, self.norm = MLP(p), nn.BatchNorm1d(p)
            self.mlp.out.bias.requires_grad_(False)
            self.register_buffer("mask", torch.ones(3), persistent=False)

        def forward(self, x):
            return self.norm(self.mlp(x))

    model, opt = made(kind=Normed)
    traj = recorded(folder, model, opt, 8, save="every(4)", task=task()).trajectory
    assert traj.buffers == ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
    assert "mlp.out.bias" in traj.names
    assert not set(traj.buffers) & set(traj.names)
    assert traj.state()["norm.num_batches_tracked"] == 8
    found = interp.measure(traj, ["test_loss", "sum_of_squares_by_parameter", "gradient_norm_by_parameter"])
    assert found.sizes["parameter"] == len(dict(model.named_parameters()))
    model.eval()
    pairs, answers, train = sums()
    with torch.no_grad():
        assert float(found.test_loss[-1]) == pytest.approx(
            float(F.cross_entropy(model(pairs[~train]), answers[~train]))
        )
    assert interp.load(folder, model=Normed()).model().can_run


@pytest.mark.parametrize("name", ["embeddings", "config", "read_out", "answer", "d_vocab"])
def test_modules_may_be_called_as_this_package_calls_its_declarations(folder, name):
    class Own(nn.Module):
        def __init__(self, p=7):
            super().__init__()
            self.add_module(name, nn.Embedding(p, 4))
            self.out = nn.Linear(8, p)

        def forward(self, x):
            return self.out(self.get_submodule(name)(x).flatten(1))

    model, opt = made(kind=Own)
    rec = recorded(folder, model, opt, 2, task=task())
    pairs, answers, train = sums()
    by_hand = F.cross_entropy(model(pairs[~train]), answers[~train]).item()
    for traj in (rec.trajectory, interp.load(folder, model=Own())):
        assert traj.names == (f"{name}.weight", "out.weight", "out.bias")
        assert float(interp.measure(traj, ["test_loss"]).test_loss[-1]) == pytest.approx(by_hand, rel=1e-6)


def test_parameters_added_and_removed_on_the_way_are_named(folder):
    model, opt = made()

    def loop():
        with interp.record(folder, model, optimizer=opt, save="every(1)") as rec:
            for step in range(5):
                if step == 2:
                    model.extra, model.out.bias = nn.Linear(2, 2), None
                rec.step(train_loss=update(model, opt))

    with pytest.raises(InvalidArgumentError, match=r"at step 3 .* extra.bias, extra.weight new; out.bias gone"):
        loop()
    traj = interp.load(folder)
    assert traj.steps.tolist() == [0, 1, 2]
    assert not traj.complete
    assert traj.run["record"]["interrupted"]["by"] == "InvalidArgumentError"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, of importing its compiler
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrappers_leave_no_prefix(folder, wrap):
    model, _ = made()
    with interp.record(folder, wrap(model), names={"module.embed.weight": "embed.W_E"}, task=task()) as rec:
        rec.step()
    assert rec.trajectory.names[0] == "embed.W_E"
    assert "hidden.weight" in rec.trajectory.names


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_submodules_leave_no_prefix(folder):
    """Buffers of theirs are stored, too, and the network is run, resumed and loaded under the plain names."""

    class Own(MLP):
        def __init__(self, p=7, compiled=False):
            super().__init__(p)
            self.hidden = nn.Sequential(nn.Linear(32, 24), nn.BatchNorm1d(24, momentum=0.5))
            self.hidden = torch.compile(self.hidden, backend="eager") if compiled else self.hidden

    with torch.compiler.set_stance("force_eager"):  # wrapped, and not traced under the tests' checks of types
        model, opt = made(kind=Own, compiled=True)
        settings = {"task": task(), "neurons": "act", "state": "every(1)"}
        recorded(folder, model, opt, 2, **settings)
        rec = recorded(folder, model, opt, 4, existing="resume", **settings)
        pairs, answers, train = sums()
        by_hand = F.cross_entropy(model.eval()(pairs[~train]), answers[~train]).item()
    assert rec.start == 2
    assert "hidden.1.running_mean" in rec.trajectory.buffers
    assert not any("_orig_mod" in name for name in (*rec.trajectory.names, *rec.trajectory.buffers))
    for traj in (rec.trajectory, interp.load(folder, model=Own())):
        assert float(interp.measure(traj, ["test_loss"]).test_loss[-1]) == pytest.approx(by_hand, rel=1e-6)


def test_only_the_process_of_rank_0_writes(folder):
    from torch.testing._internal.distributed.fake_pg import FakeStore

    model, opt = made()
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        with interp.record(folder, wrapped, optimizer=opt, task=task()) as rec:
            rec.step(train_loss=1.0)
            assert rec.now == 1
            assert rec.committed is None
            assert rec.commit() is None
        assert not folder.exists()
        with pytest.raises(NotAvailableError, match="process of rank 0"):
            _ = rec.trajectory
    finally:
        torch.distributed.destroy_process_group()


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_loop_keeps_what_was_committed(folder, error):
    model, opt = made()

    def loop():
        with interp.record(folder, model, optimizer=opt, save="every(1)") as rec:
            for _ in range(5):
                rec.step(train_loss=update(model, opt))
            raise error("stop")

    with pytest.raises(error):
        loop()
    traj = interp.load(folder)
    assert traj.steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert not traj.complete
    assert traj.verify().ok
    assert traj.run["record"]["interrupted"] == {"step": 5, "by": error.__name__, "words": "stop"}
    assert traj.kind.words == f"recorded, interrupted at step 5 ({error.__name__})"
    assert traj.last_metrics("train_loss")


def test_weights_that_are_not_finite_end_the_run_and_not_the_loop(folder):
    model, opt = made()

    def loop():
        with interp.record(folder, model, optimizer=opt, save="every(1)") as rec:
            for step in range(6):
                if step == 3:
                    with torch.no_grad():
                        model.hidden.bias[0] = torch.nan
                rec.step()
        return rec.now

    with pytest.warns(DivergedWarning, match="`hidden.bias` holds a number that is not finite"):
        assert loop() == 6
    traj = interp.load(folder)
    assert traj.diverged == 4
    assert traj.steps.tolist() == [0, 1, 2, 3]


def test_loop_may_draw_behind_its_last_update(folder):
    """The full state of the last step, once stored, is not asked for again at the end, when the generators went on."""
    model, opt = made()
    with interp.record(folder, model, optimizer=opt, steps=4, state="every(4)") as rec:
        for _ in range(4):
            rec.step(train_loss=update(model, opt))
        torch.rand(3)
    assert rec.trajectory.full_state_steps == [0, 4]
    assert rec.trajectory.complete


def test_mask_of_minus_infinity_is_no_divergence(folder):
    """A buffer such as HookedTransformer's IGNORE."""
    model, opt = made()
    model.register_buffer("IGNORE", torch.tensor(-torch.inf))
    traj = recorded(folder, model, opt, 3, task=task()).trajectory
    assert traj.complete
    assert traj.diverged is None
    assert traj.state()["IGNORE"] == -torch.inf


# --- going on ---------------------------------------------------------------------------------------------------------


class Dropped(MLP):
    """Network that draws from torch's generator at every pass."""

    def forward(self, x):
        return F.dropout(super().forward(x), 0.1, self.training)


@pytest.mark.parametrize("end", [13, 20])
def test_resumed_loop_is_bitwise_the_whole_one(folder, tmp_path, end):
    model, opt = made(kind=Dropped)
    recorded(tmp_path / "whole", model, opt, 30, save="every(2)", state="every(10)", task=task())
    first, other = made(kind=Dropped)

    def loop():
        with interp.record(folder, first, optimizer=other, save="every(2)", state="every(10)", task=task()) as rec:
            for _ in range(end):
                rec.step(train_loss=update(first, other))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    again, third = made(seed=5, kind=Dropped)  # another start, which the stored state replaces
    third.param_groups[0]["lr"] = 7.0
    rec = recorded(folder, again, third, 30, save="every(2)", state="every(10)", task=task(), existing="resume")
    assert rec.start == (10 if end == 13 else 20)
    assert equal(weights(again), weights(model))
    whole, traj = interp.load(tmp_path / "whole"), rec.trajectory
    assert traj.fingerprints() == whole.fingerprints()
    assert traj.steps.tolist() == whole.steps.tolist()
    assert traj.complete
    assert traj.verify().ok
    assert "interrupted" not in traj.run["record"]
    assert traj.metrics.equals(whole.metrics)
    assert [one.step for one in traj.provenance["continuations"]] == [rec.start]


def test_loop_that_restored_itself_goes_on_where_it_says(folder):
    """The segment that holds the step is cut; what lay behind it is another loop's."""
    model, opt = made()
    with interp.record(folder, model, optimizer=opt, save="every(1)", state="every(100)") as rec:
        for step in range(9):
            if step == 4:
                kept = weights(model)
            rec.step(train_loss=update(model, opt))
    old = rec.trajectory.fingerprints()
    model.load_state_dict(kept)
    with pytest.raises(NotAvailableError, match=r"stores at step 5, .* `embed.weight` differs"):
        interp.record(folder, model, existing="resume", start=5, save="every(1)").__enter__()
    assert interp.load(folder).complete
    slow = torch.optim.SGD(model.parameters(), lr=1e-3)
    rec = interp.record(folder, model, existing="resume", start=4, save="every(1)")
    with rec:
        for _ in range(rec.start, 7):
            rec.step(train_loss=update(model, slow))
    traj = rec.trajectory
    assert traj.steps.tolist() == list(range(8))
    assert traj.verify().ok
    assert traj.complete
    assert traj.fingerprints()[:5] == old[:5]
    assert not set(traj.fingerprints()[5:]) & set(old)
    assert traj.metrics.step.values.tolist() == list(range(7))


def test_cut_that_was_killed_is_finished(tmp_path):
    with RunWriter.create(tmp_path / "run", {}, fsync=False) as writer:
        for step in range(6):
            writer.append(step, {"w": np.full(2, step)})
    whole = (tmp_path / "run" / "trajectory" / "00000000-00000005.safetensors").read_bytes()
    with RunWriter.open(tmp_path / "run", fsync=False) as writer:
        writer.cut_after(2)
        assert writer.last_committed == 2
    (tmp_path / "run" / "trajectory" / "00000000-00000005.safetensors").write_bytes(whole)  # killed before its deletion
    assert RunReader(tmp_path / "run").problems
    with RunWriter.open(tmp_path / "run", fsync=False) as writer:
        writer.append(3, {"w": np.full(2, 30)})
    reader = RunReader(tmp_path / "run")
    assert reader.problems == ()
    assert reader.read("w", slice(None))[:, 0].tolist() == [0, 1, 2, 30]


def test_resuming_another_network_is_refused(folder):
    model, opt = made()
    recorded(folder, model, opt, 3)
    with pytest.raises(NotAvailableError, match="recorded with another task"):
        interp.record(folder, model, optimizer=opt, task=task(), existing="resume").__enter__()
    with pytest.raises(NotAvailableError, match="recorded with another model"):
        interp.record(folder, nn.Linear(2, 2), existing="resume").__enter__()
    wider, other = made(d_hidden=25)
    with pytest.raises(
        NotAvailableError, match=r"must have the shapes .*; `hidden.weight` is \[25, 32\] and \[24, 32\]"
    ):
        interp.record(folder, wider, optimizer=other, existing="resume").__enter__()
    fresh, _ = made(seed=1)
    before = weights(fresh)
    descent = torch.optim.SGD(fresh.parameters(), lr=0.1)
    with pytest.raises(NotAvailableError, match="must be of the kind that was recorded, a AdamW"):
        interp.record(folder, fresh, optimizer=descent, existing="resume").__enter__()
    assert equal(before, weights(fresh))
    with pytest.raises(NotAvailableError, match="with `optimizer` alone"):
        interp.record(folder, model, existing="resume").__enter__()
    with pytest.raises(NotAvailableError, match="was recorded: its training loop"):
        interp.resume(folder)
    with pytest.raises(NotAvailableError, match="was recorded: its training loop"):
        interp.replay(interp.load(folder), 1, 2)


def test_existing_runs(folder):
    model, opt = made()
    recorded(folder, model, opt, 3)
    with pytest.raises(RunExistsError, match='existing="resume"'):
        interp.record(folder, model).__enter__()
    recorded(folder, model, opt, 2, existing="overwrite")
    assert interp.load(folder).steps.tolist() == [0, 1, 2]


KILLED = """
import sys, torch
import interp
from tests.recorded import made, update
folder, seed = sys.argv[1:]
model, opt = made()
with interp.record(folder, model, optimizer=opt, save="every(1)", state="every(7)", existing="resume") as rec:
    for step in range(rec.start, 10_000):
        rec.step(train_loss=update(model, opt))
        if step % 5 == 0:
            print(rec.commit(), flush=True)
"""


def killed(folder, after, home=Path(__file__).parent.parent):
    """Record until so many commits were acknowledged, then SIGKILL; the last acknowledged step."""
    environment = {**os.environ, "PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(folder), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=home, env=environment) as child:
        assert child.stdout is not None
        last = -1
        for _ in range(after):
            last = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read().split()
    return int(rest[-1]) if rest else last


def test_kills_lose_nothing_acknowledged(folder):
    model, opt = made()
    by_step = []
    for after in (3, 5):
        acknowledged = killed(folder, after)
        traj = interp.load(folder)
        assert int(traj.steps[-1]) >= acknowledged
        assert traj.verify().ok
        while len(by_step) <= traj.steps[-1]:
            by_step.append(weights(model))
            update(model, opt)
        assert traj.steps.tolist() == list(range(len(traj.steps)))
        for step in traj.steps.tolist():
            assert equal(dict(traj.state(step)), by_step[step]), step


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"model": 3}, InvalidArgumentError, "`model` must be a torch.nn.Module; got a int"),
        ({"model": nn.ReLU()}, InvalidArgumentError, "`model` must have parameters"),
        ({"optimizer": "adam"}, InvalidArgumentError, "`optimizer` must be a torch.optim.Optimizer"),
        ({"names": {"embed.wieght": "embed.W_E"}}, UnknownNameError, "Did you mean `embed.weight`"),
        ({"names": {"out.bias": ("b", "T")}}, InvalidArgumentError, "can transpose matrices; out.bias has 1 axes"),
        ({"names": {"out.bias": "hidden.bias"}}, InvalidArgumentError, "hidden.bias is given twice"),
        ({"names": {"out.bias": ("b", "X")}}, InvalidArgumentError, "to transpose; got"),
        ({"save": "often"}, interp.errors.ConfigError, "`often` is no schedule"),
        ({"steps": 0}, InvalidArgumentError, "`steps` must be a whole number >= 1"),
        ({"start": 3}, InvalidArgumentError, '`start` must be a step >= 0, of a run that is resumed'),
        ({"existing": "maybe"}, InvalidArgumentError, "`existing` must be error, resume or overwrite"),
        ({"task": "add"}, InvalidArgumentError, "`task` must be a table"),
        ({"task": (torch.ones(9, 2), torch.ones(9))}, InvalidArgumentError, "or None; got a tuple"),
        ({"task": Modular(p=11)}, InvalidArgumentError, "`model` must give logits for the tokens of `task`"),
        ({"task": None, "neurons": "act"}, InvalidArgumentError, "must come with `task`"),
        ({"task": task(), "neurons": "atc"}, UnknownNameError, "no `atc`. Did you mean `act`"),
        ({"task": task(), "neurons": "act:output"}, UnknownNameError, "or that with `:input`"),
        ({"task": task(), "forward": lambda m, x: m(x)[:, :3]}, InvalidArgumentError, "it gives 3"),
        ({"task": task(), "forward": lambda m, x: None}, InvalidArgumentError, "got a NoneType"),
    ],
)  # fmt: skip
def test_wrong_arguments(folder, arguments, error, said):
    with pytest.raises(error, match=said.replace("(", r"\(")) as caught:
        interp.record(folder, **{"model": MLP(), **arguments})
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_the_command_line_has_no_code_of_a_recorded_run(folder, capsys):
    model, opt = made()
    with suppress(KeyboardInterrupt), interp.record(folder, model, optimizer=opt, task=task(), names=NAMES) as rec:
        rec.step(train_loss=update(model, opt))
        raise KeyboardInterrupt
    assert "interp resume" not in call(capsys, "list", folder.parent)[1]
    assert call(capsys, "list", folder)[1].strip() == f"{folder} is a run."
    code, out, _ = call(capsys, "measure", folder, "--keys", "3")
    assert (code, "weight_norm" in out) == (0, True)


def test_wrong_scalars(folder):
    model, _ = made()
    with interp.record(folder, model) as rec:
        for scalars, said in (
            ({"loss": "high"}, "`loss` must be a number"),
            ({"step": 3}, "not called step"),
            ({"loss": torch.zeros(2)}, r"`loss` must be one number; got shape \[2\]"),
        ):
            with pytest.raises(InvalidArgumentError, match=said):
                rec.step(**scalars)
        assert rec.now == 0


def test_loading_with_the_wrong_network(folder):
    model, opt = made()
    recorded(folder, model, opt, 3, task=task(), names=NAMES)
    with pytest.raises(NotAvailableError, match=r"`embed.weight` is \(7, 4\) in MLP and \(7, 16\) in the run"):
        interp.load(folder, model=MLP(d=4))
    with pytest.raises(NotAvailableError, match="pass a network of that class"):
        interp.load(folder).model()(torch.tensor([[1, 2]]))

    class Other(MLP):
        def forward(self, x):
            return -super().forward(x)

    with pytest.raises(NotAvailableError, match="must compute the logits that were noted"):
        interp.load(folder, model=Other())
    config = recipes.get("kitouni-circle").replace({"task.p": 5, "model.d_model": 8, "steps": 2})
    trained = interp.train(config, root=folder.parent)
    with pytest.raises(InvalidArgumentError, match="which was trained: its config gives its network"):
        interp.load(trained.folder, model=MLP())


def test_loading_with_a_network_without_the_hidden_layer(folder):
    class Inline(MLP):
        def __init__(self):
            super().__init__()
            del self.act

        def forward(self, x):
            return self.out(self.hidden(self.embed(x).flatten(1)).relu())

    model, opt = made()
    recorded(folder, model, opt, 1, task=task(), neurons="act")
    with pytest.raises(NotAvailableError, match=r"must have the hidden layer .* no module `act` in Inline"):
        interp.load(folder, model=Inline())


@pytest.mark.parametrize("changed", [{"halves": ["embed.weight:complex"]}, {"names": [["embed.weight", "x", "Q"]]}])
def test_edited_description_of_a_network_is_an_error_of_one_line(folder, changed):
    model, opt = made()
    recorded(folder, model, opt, 1, task=task())
    with RunWriter.open(folder) as writer:
        config = writer.run["config"]
        writer.replace_run({**writer.run, "config": {**config, "model": {**config["model"], **changed}}})
    with pytest.raises(interp.errors.StoreError, match=r"RecordedModel\.(halves|names)` must be"):
        interp.load(folder)


def test_recorded_config_trains_nothing(folder, tmp_path):
    model, opt = made()
    traj = recorded(folder, model, opt, 2, task=task()).trajectory
    for changes, said in (({}, "task.split` stored"), ({"task": Modular(p=7)}, "describes the network MLP")):
        with pytest.raises(interp.errors.ConfigError, match=said):
            interp.train(traj.config.replace(changes), root=tmp_path / "runs")


def test_damaged_record_is_an_error_of_one_line(folder):
    model, opt = made()
    recorded(folder, model, opt, 2, task=task())
    traj = interp.load(folder)
    words = traj.run["record"]["task"]
    for changed in (
        {"d_vocab": "x"},
        {"inputs": ["tuples", ["residues", 8], 2]},
        {"tokens": {**words["tokens"], "data": "a"}},
        {"answers": ["words", 3]},
        {"labels": {**words["labels"], "shape": [2**40]}},
    ):
        with pytest.raises(interp.errors.ConfigError, match="stored task is damaged"):
            interp.tasks.tables.examples_of_words({**words, **changed})


# --- tables and staging -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide"])
def test_operation_of_a_table_is_found(operation):
    examples = interp.tasks.build_task(Modular(p=11, operation=operation, encoding="direct"))
    answered = (examples.train | examples.test).nonzero().flatten()
    order = answered[torch.randperm(len(answered), generator=torch.Generator().manual_seed(3))]
    found = interp.tasks.table(
        examples.tokens[order], examples.labels[order], train=examples.train[order], answers_are="residues", p=11
    )
    assert found.operation == operation
    assert found.digest() == examples.digest()


def test_tables_that_are_no_pairs():
    rows = torch.tensor([[0, 3, 1], [2, 2, 2], [1, 0, 3], [3, 1, 0]])
    found = interp.tasks.table(rows, torch.tensor([0, 1, 1, 0]), train=torch.tensor([True, True, False, False]))
    assert str(found.inputs) == "sequences of tokens"
    assert found.d_vocab == 4
    assert found.d_vocab_out == 2
    pairs, answers, train = sums(7)
    some = torch.arange(49) % 5 != 0
    found = interp.tasks.table(pairs[some], answers[some], train=train[some], answers_are="residues", p=7)
    assert len(found.tokens) == 49
    assert torch.equal(found.train | found.test, some)
    assert found.operation == "add"
    wrong = answers.clone()
    wrong[3] = 0
    assert interp.tasks.table(pairs, wrong, train=train, answers_are="residues", p=7).operation == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": torch.zeros(4, 2)}, "`inputs` must be whole numbers"),
        ({"answers": torch.arange(5)}, "`answers` must hold one answer for each of 4 inputs"),
        ({"answers": torch.tensor([0, 1, 2, 3])}, r"`answers` must be in 0 .. 2 \(p = 3\)"),
        ({"train": torch.tensor([0, 1])}, "`train` must be a mask of booleans"),
        ({"p": None}, "`p` must be the modulus"),
        ({"answers_are": "words"}, "`answers_are` must be residues, numbers, classes"),
        ({"inputs": torch.tensor([[0, 1], [0, 1], [1, 1], [2, 1]]) + torch.tensor([[0, 0], [0, 0], [0, 0], [0, 1]])},
         r"\[0, 1\] occurs 2 times"),
        ({"inputs": -torch.ones(4, 2, dtype=torch.long)}, "`inputs` must be whole numbers >= 0"),
    ],
)  # fmt: skip
def test_wrong_tables(changes, said):
    arguments = {
        "inputs": torch.tensor([[0, 1], [0, 2], [1, 1], [2, 2]]),
        "answers": torch.tensor([0, 1, 2, 2]),
        "train": torch.tensor([True, True, False, False]),
        "answers_are": "residues",
        "p": 3,
        **changes,
    }
    with pytest.raises(InvalidArgumentError, match=said):
        interp.tasks.table(arguments.pop("inputs"), arguments.pop("answers"), **arguments)


def test_staging_keeps_the_weights_of_its_step():
    """The order of CUDA's way, on the CPU: what is taken is not what the next update makes of it."""
    staging, x = Staging(torch.device("cpu"), buffered=True), torch.zeros(3, dtype=torch.bfloat16)
    for step in range(3):
        staging.start(step, {"x": x})
        x += 1
        found = staging.finish()
        assert found is not None
        assert found[0] == step
        assert found[1]["x"].tolist() == [step] * 3
    assert staging.finish() is None
