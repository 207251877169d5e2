"""Checkpoints as people have them, one small file or folder for each kind of report, and what importing makes of it."""

import argparse
import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import interp
from interp.cli import main
from interp.config import Decoder, FeedForward, Modular, Recurrent, Transformer
from interp.errors import ConfigError, ForeignFormatError
from interp.importers import import_checkpoints, plan_import, reading
from interp.models import build_model
from interp.tasks import build_task
from tests.test_importers import LeftHanded, P, hooked, same_logits, seeded


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def networks(n=3, **settings):
    """Untrained networks: an import shows what they compute, whatever that is."""
    return [seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P, **settings), seed) for seed in range(n)]


def plain(model):
    """A state dict that safetensors accepts."""
    return {name: x.contiguous() for name, x in hooked(model).items() if "IGNORE" not in name}


def prefixed(model, prefix):
    return {prefix + name: x for name, x in hooked(model).items()}


def said(traj):
    return " / ".join(traj.run["import"]["said"])


def refused(path, tmp_path, **options):
    """The message of the refusal, which is one line as the error has it, and leaves nothing behind."""
    with pytest.raises((ForeignFormatError, ConfigError)) as caught:
        import_checkpoints(path, root=tmp_path / "refused", **options)
    (message,) = caught.value.args
    assert message.isprintable(), message
    assert not list((tmp_path / "refused").glob("*"))
    assert "weights_only" not in message
    return message


# --- one file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "model.", "net.", "_orig_mod.module.", "a.b.net.", "my_lit."]
)
def test_a_common_prefix(prefix, tmp_path):
    (model,) = networks(1)
    torch.save(prefixed(model, prefix), tmp_path / "m.pth")
    traj = import_checkpoints(tmp_path / "m.pth", root=tmp_path)
    same_logits(traj, [model])
    assert "taken off" in said(traj)
    assert prefix.removeprefix("_orig_mod.") in said(traj)


def test_a_prefix_of_blocks_alone_and_entries_beside_the_network(tmp_path):
    (model,) = networks(1)
    state = {name.replace("blocks.0.", "blocks.0._orig_mod."): x for name, x in hooked(model).items()}
    torch.save(state, tmp_path / "inner.pth")
    same_logits(import_checkpoints(tmp_path / "inner.pth", root=tmp_path), [model])
    both = prefixed(model, "model.") | {"criterion.weight": torch.rand(3)} | prefixed(networks(2)[1], "ema_model.")
    torch.save(both, tmp_path / "beside.pth")
    traj = import_checkpoints(tmp_path / "beside.pth", root=tmp_path)
    same_logits(traj, [model])
    assert "entries without the prefix were left out: `criterion.weight`, `ema_model.embed.W_E`" in said(traj)


@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model", "weights", "params", "network", "net", "mine"]
)
def test_a_wrapper_of_the_state_dict(key, tmp_path):
    (model,) = networks(1)
    other = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({key: hooked(model), "optimizer_state_dict": other, "step": 700}, tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path)
    same_logits(traj, [model])
    assert traj.steps.tolist() == [700]


def test_weights_in_half_precision(tmp_path):
    (model,) = networks(1)
    halves = {name: x.bfloat16() if x.is_floating_point() else x for name, x in hooked(model).items()}
    torch.save(halves, tmp_path / "m.pth")
    traj = import_checkpoints(tmp_path / "m.pth", root=tmp_path)
    assert torch.equal(traj.model().state_dict()["embed.W_E"], halves["embed.W_E"].float())


def test_an_archive_of_numpy(tmp_path):
    (model,) = networks(1)
    state = {name: x.numpy() for name, x in hooked(model).items()}
    np.savez(tmp_path / "a.npz", **state)
    np.savez_compressed(
        tmp_path / "b.npz", **{name.replace(".", "/"): np.asfortranarray(x) for name, x in state.items()}
    )
    for name in ("a", "b"):
        same_logits(import_checkpoints(tmp_path / f"{name}.npz", root=tmp_path), [model])
    np.savez(tmp_path / "objects.npz", W=np.array([None]))
    assert "must be an array of numbers; got object" in refused(tmp_path / "objects.npz", tmp_path)


def test_an_alias_is_dropped_and_said(tmp_path):
    (model,) = networks(1)
    state = hooked(model)
    torch.save(state | {"x_embed": state["embed.W_E"], "y_embed": state["embed.W_E"].clone()}, tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path)
    same_logits(traj, [model])
    assert "`x_embed` was dropped: it equals `embed.W_E` / `y_embed` was dropped" in said(traj)
    torch.save(state | {"x_embed": state["embed.W_E"] + 1e-6}, tmp_path / "n.pt")
    assert "`x_embed` is no parameter of a HookedTransformer" in refused(tmp_path / "n.pt", tmp_path)


def test_an_alias_of_the_last_checkpoint_that_is_none_of_an_earlier(tmp_path):
    states = [hooked(model) for model in networks(2)]
    states[0]["x_embed"], states[1]["x_embed"] = states[0]["embed.W_E"] + 1, states[1]["embed.W_E"]
    torch.save({0: states[0], 5: states[1]}, tmp_path / "m.pt")
    assert "Checkpoint 0 in m.pt: `x_embed` equals `embed.W_E` in the last checkpoint" in refused(
        tmp_path / "m.pt", tmp_path
    )


@pytest.mark.parametrize(
    "text", ["version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 471007\n", "\n<!DOCTYPE html>"]
)
@pytest.mark.parametrize("name", ["epoch_0.pt", "m.safetensors", "m.npz", "cfg.json"])
def test_a_file_that_only_stands_for_another(text, name, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save(hooked(networks(1)[0]), folder / "epoch_1.pt")
    (folder / name).write_text(text)
    message = refused(folder / "epoch_1.pt" if name == "cfg.json" else folder / name, tmp_path)
    assert ("is a Git LFS pointer" in message and "`git lfs pull`" in message) or "is a web page" in message


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(7, 3), nn.Linear(6, 7)


def test_a_whole_module_is_refused(tmp_path):
    torch.save(Tiny(), tmp_path / "m.pt")
    assert "Tiny, torch.nn.modules.linear.Linear" in refused(tmp_path / "m.pt", tmp_path)


# --- lightning --------------------------------------------------------------------------------------------------------


class AttributeDict(dict):
    """A dict as Lightning pickles its hyper-parameters."""


@pytest.mark.parametrize("settings", [dict, argparse.Namespace, AttributeDict])
def test_lightning(settings, tmp_path):
    models = networks(2)
    for step, model in zip((500, 1500), models):
        contents = {
            "epoch": step // 10,
            "global_step": step,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": prefixed(model, "model."),
            "optimizer_states": [],
            "hyper_parameters": settings(p=P, lr=1e-2, weight_decay=0.5),
        }
        torch.save(contents, tmp_path / f"epoch={step // 10}-step={step}.ckpt")
    traj = import_checkpoints(tmp_path, root=tmp_path / "runs")
    assert traj.steps.tolist() == [500, 1500]
    assert (traj.config.optimizer.lr, traj.config.optimizer.weight_decay) == (1e-2, 0.5)
    same_logits(traj, models)


class Namespace:
    """A class of that name which would act when it is rebuilt."""

    def __setstate__(self, state):
        raise AssertionError("foreign code ran")

    def __getstate__(self):
        return {"lr": 0.25}


def test_a_namespace_is_read_without_running_code(tmp_path):
    (model,) = networks(1)
    torch.save({"state_dict": hooked(model), "hyper_parameters": Namespace(), "step": 3}, tmp_path / "m.ckpt")
    assert import_checkpoints(tmp_path / "m.ckpt", root=tmp_path).config.optimizer.lr == 0.25


# --- networks ---------------------------------------------------------------------------------------------------------


def one_hot(model, a, b):
    """Logits of a network on one-hot operands side by side, [pair, p]."""
    p = P
    return model(torch.cat([torch.eye(p)[a], torch.eye(p)[b]], 1))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [(20,), (20, 15)])
def test_any_chain_of_linear_layers(bias, hidden, tmp_path):
    a, b = torch.arange(P).repeat_interleave(P), torch.arange(P).repeat(P)
    widths = [2 * P, *hidden, P]
    layers = [nn.Linear(*pair, bias=bias) for pair in itertools.pairwise(widths)]
    sequential = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]
    expected = one_hot(sequential, a, b).detach()
    state = sequential.state_dict()
    torch.save(state, tmp_path / "torch.pt")
    turned = {
        f"Dense_{name.replace('weight', 'kernel')}": x.movedim(0, -1).contiguous().numpy() for name, x in state.items()
    }
    np.savez(tmp_path / "jax.npz", **{f"params/{name.replace('.', '/')}": x for name, x in turned.items()})
    for name in ("torch.pt", "jax.npz"):
        traj = import_checkpoints(tmp_path / name, root=tmp_path)
        assert traj.run["import"]["format"] == "linear-layers"
        assert traj.config.model.embedding == "one-hot"
        torch.testing.assert_close(traj.model()(traj.task.tokens)[:, -1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("tables", "side_by_side"), [(1, True), (1, False), (2, True), (2, False)])
def test_a_chain_behind_embeddings(tables, side_by_side, tmp_path):
    embeddings = [nn.Embedding(P, 4) for _ in range(tables)]
    first, last = nn.Linear(8 if side_by_side else 4, 9), nn.Linear(9, P, bias=False)
    a, b = torch.arange(P).repeat_interleave(P), torch.arange(P).repeat(P)
    x = embeddings[0](a), embeddings[-1](b)
    expected = last(first(torch.cat(x, 1) if side_by_side else sum(x)).relu()).detach()
    state = {f"tok{i}.weight": table.weight for i, table in enumerate(embeddings)}
    state |= {"up.weight": first.weight, "up.bias": first.bias, "down.weight": last.weight}
    save_file({name: x.detach() for name, x in state.items()}, tmp_path / "m.safetensors")  # in another order
    traj = import_checkpoints(tmp_path / "m.safetensors", root=tmp_path)
    torch.testing.assert_close(traj.model()(traj.task.tokens)[:, -1], expected, rtol=1e-4, atol=1e-5)


def test_a_fixed_basis_before_the_layers(tmp_path):
    basis, W_in, W_out = torch.randn(P, 5), torch.randn(9, 5), torch.randn(P, 9)
    torch.save({"model": {"mlp.W_in": W_in, "mlp.W_out": W_out, "mlp.basis": basis}, "epoch": 9}, tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path)
    a, b = torch.arange(P).repeat_interleave(P), torch.arange(P).repeat(P)
    expected = ((basis[a] + basis[b]) @ W_in.T).relu() @ W_out.T
    torch.testing.assert_close(traj.model()(traj.task.tokens)[:, -1], expected, rtol=1e-4, atol=1e-5)
    assert "operands are added before the first layer" in traj.run["import"]["assumed"]


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        (FeedForward(d_model=6, d_hidden=(9,)), "operands"),
        (FeedForward(d_model=6, d_hidden=(9, 8), biases="absent"), "operands"),
        (FeedForward(embedding="separate", d_model=6, d_hidden=(9,), combine="sum"), "operands"),
        (FeedForward(embedding="one-hot", d_hidden=(9,)), "operands"),
        (FeedForward(d_model=6, d_hidden=(), combine="product", biases="absent"), "operands"),
        (Decoder(n_layers=1, d_model=8, n_heads=2, d_mlp=12), "direct"),
        (Recurrent(d_model=5, d_hidden=6), "direct"),
        (Recurrent(cell="rnn", d_model=5, d_hidden=6, n_layers=2), "direct"),
        (Transformer(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=12), "direct"),
        (Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=12, normalization="pre"), "direct"),
        (Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=12, normalization="post"), "operands"),
        (Transformer(d_model=8, n_heads=2, d_head=4, attention_only=True), "direct"),
    ],
)
def test_state_dicts_of_this_package(model, encoding, tmp_path):
    task = build_task(Modular(p=P, encoding=encoding))
    network = build_model(model, task.d_vocab, task.n_ctx, task.d_vocab_out, generator=torch.Generator().manual_seed(0))
    torch.save(network.state_dict(), tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path)
    assert type(traj.config.model) is type(model)
    assert traj.task.tokens.tolist() == task.tokens.tolist()
    torch.testing.assert_close(traj.model()(task.tokens)[:, -1], network(task.tokens)[:, -1].detach())


class Block(nn.Module):
    """A layer of nanoGPT, as its author describes it."""

    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(d, 3 * d), "c_proj": nn.Linear(d, d)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(d, 4 * d), "c_proj": nn.Linear(4 * d, d)})

    def forward(self, x):
        n, t, d = x.shape
        parts = self.attn["c_attn"](self.ln_1(x)).split(d, dim=2)
        q, k, v = (part.view(n, t, self.heads, d // self.heads).transpose(1, 2) for part in parts)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["c_proj"](mixed.transpose(1, 2).reshape(n, t, d))
        return x + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x))))


class Gpt(nn.Module):
    def __init__(self, d=8, heads=2, layers=2):
        super().__init__()
        parts = {"wte": nn.Embedding(P + 1, d), "wpe": nn.Embedding(3, d), "ln_f": nn.LayerNorm(d)}
        self.transformer = nn.ModuleDict({**parts, "h": nn.ModuleList([Block(d, heads) for _ in range(layers)])})
        self.lm_head = nn.Linear(d, P + 1, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, tokens):
        parts = self.transformer
        x = parts["wte"](tokens) + parts["wpe"](torch.arange(3))
        for block in parts["h"]:
            x = block(x)
        return self.lm_head(parts["ln_f"](x))[:, -1]


def test_a_checkpoint_of_nanogpt(tmp_path):
    model = seeded(Gpt)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    state = {f"_orig_mod.{name}": x for name, x in model.state_dict().items()}
    arguments = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 3, "vocab_size": P + 1}
    torch.save({"model": state, "optimizer": {}, "model_args": arguments, "iter_num": 2000}, tmp_path / "ckpt.pt")
    traj = import_checkpoints(tmp_path / "ckpt.pt", root=tmp_path)
    assert traj.steps.tolist() == [2000]
    assert traj.config.model.activation == "gelu"
    same_logits(traj, [model])
    torch.save({"model": state}, tmp_path / "bare.pt")
    assert "must say the number of heads (`n_head`)" in refused(tmp_path / "bare.pt", tmp_path)


@pytest.mark.parametrize(("name", "ours"), [("gelu_new", "gelu_new"), ("quadratic", "square"), ("SiLU", "silu")])
def test_an_activation_of_a_configuration(name, ours, tmp_path):
    (model,) = networks(1)
    torch.save(hooked(model), tmp_path / "m.pth")
    (tmp_path / "config.json").write_text(json.dumps({"n_layers": 1, "act_fn": name, "normalization_type": None}))
    traj = import_checkpoints(tmp_path / "m.pth", root=tmp_path)
    assert traj.config.model.activation == ours
    acts = {
        "gelu_new": lambda x: nn.functional.gelu(x, approximate="tanh"),
        "square": torch.square,
        "silu": nn.functional.silu,
    }
    model.act = acts[ours]
    same_logits(traj, [model])


def test_a_network_of_no_layout_is_refused_with_the_way_out(tmp_path):
    torch.save(nn.LSTM(3, 4).state_dict(), tmp_path / "m.pt")
    assert "(it looks like torch's nn.LSTM, nn.GRU or nn.RNN)" in refused(tmp_path / "m.pt", tmp_path)


# --- splits -----------------------------------------------------------------------------------------------------------


def memorised(task, steps=150):
    """A network that has learnt its training pairs by heart."""
    model = seeded(lambda: LeftHanded(task.p + 1, 3, d_vocab_out=task.p))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(task.tokens[task.train]), task.labels[task.train])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(
    "about",
    [
        {"seed": 7, "frac_train": 0.6},
        {"data_seed": 7, "model_seed": 3, "test_fraction": 0.4},
        {"data": {"seed": 7, "train_pct": 60}},
    ],
)
def test_seeds_and_fractions_of_a_configuration_are_tried(about, tmp_path):
    """Without losses, the network itself tells which pairs it was trained on."""
    task = build_task(Modular(p=13, train_fraction=0.6, seed=7))
    torch.save({"model": hooked(memorised(task)), "hyper_parameters": about}, tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path)
    assert torch.equal(traj.task.train, task.train)
    assert (traj.config.task.seed, traj.config.task.train_fraction) == (7, 0.6)
    assert "whose training pairs have smaller losses by" in traj.run["import"]["split_origin"]
    wrong = {"seed": 8, "frac_train": 0.6}
    torch.save({"model": hooked(memorised(task)), "hyper_parameters": wrong}, tmp_path / "n.pt")
    traj = import_checkpoints(tmp_path / "n.pt", root=tmp_path)
    assert not traj.task.held_out
    assert "seed 8, frac_train 0.6 of the configuration were tried" in traj.run["import"]["split_origin"]


def test_many_pairs_are_evaluated_in_batches(tmp_path, monkeypatch):
    """Batches give the numbers that all pairs at once give, but for rounding."""
    task = build_task(Modular(p=13, train_fraction=0.6, seed=598))
    torch.save({"model": hooked(memorised(task)), "seed": 598, "frac_train": 0.6}, tmp_path / "m.pt")
    once = import_checkpoints(tmp_path / "m.pt", root=tmp_path / "once")
    monkeypatch.setattr(reading, "AT_ONCE", 500)
    batched = import_checkpoints(tmp_path / "m.pt", root=tmp_path / "batches")
    assert torch.equal(batched.task.train, once.task.train)
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        np.testing.assert_allclose(batched.metrics[name], once.metrics[name], rtol=1e-4)
        assert np.isfinite(batched.metrics[name]).all()


# --- logs beside them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["step", "epoch", "global_step", "iteration"])
def test_a_table_of_losses_with_any_column_of_steps(step, tmp_path):
    task = build_task(Modular(p=13, train_fraction=0.6, seed=598))
    (tmp_path / "run").mkdir()
    rows = [f"lr,{step},train/loss,val_acc"]
    for n, model in ((10, memorised(task, 5)), (20, memorised(task, 60))):
        torch.save(hooked(model), tmp_path / "run" / f"step_{n}.pt")
        logits = model(task.tokens)
        loss = nn.functional.cross_entropy(logits[task.train].double(), task.labels[task.train]).item()
        rows += [f"0.1,{n},{loss},", f"0.1,{n},,{(logits.argmax(1) == task.labels)[task.test].double().mean().item()}"]
    (tmp_path / "run" / "metrics.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "run" / "train.log").write_text("loss 3.2")
    (tmp_path / "run" / "hparams.yaml").write_text("data:\n  seed: 598\n  train_fraction: 0.6  # share\n")
    traj = import_checkpoints(tmp_path / "run", root=tmp_path / "runs")
    assert traj.run["import"]["proof"]["compared"] == 4
    assert torch.equal(traj.task.train, task.train)
    assert "ignored train.log" in said(traj)


def test_a_log_that_is_not_of_these_weights(tmp_path):
    """Ignored where the answers prove the weights, a reason to refuse where they do not."""
    task = build_task(Modular(p=P, train_fraction=0.6, seed=598))
    everything = replace(task, train=torch.ones_like(task.train))
    for steps, name in ((300, "learnt"), (1, "not")):
        (folder := tmp_path / name).mkdir()
        torch.save(hooked(memorised(everything, steps)), folder / "step_10.pt")
        torch.save(hooked(memorised(everything, steps)), folder / "step_20.pt")
        (folder / "metrics.csv").write_text("step,train_loss,test_loss\n10,5.0,7.0\n20,5.5,7.5\n")
    given = {"assume": {"task.seed": 598, "task.train_fraction": 0.6, "task.operation": "add"}}
    traj = import_checkpoints(tmp_path / "learnt", root=tmp_path / "runs", **given)
    assert "ignored metrics.csv: " in said(traj)
    assert "show that its weights are read rightly" in said(traj)
    assert float(traj.metrics.train_loss[-1]) < 0.1
    assert "does not reproduce its own numbers" in refused(tmp_path / "not", tmp_path, **given)


def test_the_state_of_a_trainer(tmp_path):
    task = build_task(Modular(p=13, train_fraction=0.6, seed=598))
    history = []
    for n in (10, 20):
        model = memorised(task, 2 * n)
        (folder := tmp_path / "run" / f"checkpoint-{n}").mkdir(parents=True)
        save_file(plain(model), folder / "model.safetensors")
        torch.save({"state": {}}, folder / "optimizer.pt")
        loss = nn.functional.cross_entropy(model(task.tokens)[task.test].double(), task.labels[task.test]).item()
        history += [{"loss": 2.0, "step": n, "epoch": float(n)}, {"eval_loss": loss, "step": n, "epoch": float(n)}]
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": n, "log_history": history}))
        (folder / "config.json").write_text(json.dumps({"seed": 598, "train_fraction": 0.6}))
    traj = import_checkpoints(tmp_path / "run", root=tmp_path / "runs")
    assert traj.steps.tolist() == [10, 20]
    assert traj.run["import"]["proof"]["compared"] == 2
    assert "of trainer_state.json, `loss` is ignored" in said(traj)


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["epoch_0.pt", "epoch_100.pt", "epoch_600.pt"], [0, 100, 600]),
        (["epoch=0-step=10.pt", "epoch=1-step=20.pt", "epoch=2-step=30.pt"], [10, 20, 30]),
        (["p113_wd1.0_iter5.pt", "p113_wd1.0_iter10.pt", "p113_wd1.0_iter100.pt"], [5, 10, 100]),
        (["step1k.pt", "step2k.pt", "step10k.pt"], [1000, 2000, 10000]),
        (["ep3-loss0.52.pth", "ep9-loss0.31.pth", "ep27-loss0.31.pth"], [3, 9, 27]),
        (["checkpoint-1/model.pt", "checkpoint-20/model.pt", "checkpoint-300/model.pt"], [1, 20, 300]),
        (["ckpts/step_1/net.pth.tar", "ckpts/step_2/net.pth.tar", "ckpts/step_30/net.pth.tar"], [1, 2, 30]),
        (["lightning_logs/v0/checkpoints/epoch=0-step=1.ckpt", "lightning_logs/v0/checkpoints/epoch=1-step=2.ckpt",
          "lightning_logs/v0/checkpoints/epoch=2-step=3.ckpt"], [1, 2, 3]),
    ],
)  # fmt: skip
def test_a_folder_by_numbers(names, steps, tmp_path):
    models = networks(3)
    for name, model in zip(names, models, strict=True):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(hooked(model), tmp_path / "run" / name)
        torch.save({"lr": 0.1}, (tmp_path / "run" / name).with_name("optimizer.pt"))
    traj = import_checkpoints(tmp_path / "run", root=tmp_path / "runs")
    assert traj.steps.tolist() == steps
    same_logits(traj, models)
    assert "left out optimizer.pt, which holds no weights of the network" in said(traj)


def test_a_folder_of_safetensors(tmp_path):
    models = networks(2)
    for epoch, model in zip((100, 500), models):
        save_file(plain(model), tmp_path / f"epoch_{epoch}.safetensors")
    traj = import_checkpoints(tmp_path, root=tmp_path / "runs")
    assert traj.steps.tolist() == [100, 500]
    same_logits(traj, models)


def test_shards_with_an_index(tmp_path):
    models = networks(2)
    for step, model in zip((10, 20), models):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        state = list(plain(model).items())
        halves = {f"model-0000{i}-of-00002.safetensors": dict(state[i - 1 :: 2]) for i in (1, 2)}
        for name, half in halves.items():
            save_file(half, folder / name)
        weight_map = {key: name for name, half in halves.items() for key in half}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    traj = import_checkpoints(tmp_path / "run", root=tmp_path / "runs")
    assert traj.steps.tolist() == [10, 20]
    same_logits(traj, models)
    one = import_checkpoints(tmp_path / "run" / "checkpoint-20" / "model.safetensors.index.json", root=tmp_path / "r")
    same_logits(one, models[1:])
    (tmp_path / "run" / "checkpoint-20" / "model-00002-of-00002.safetensors").unlink()
    assert "names model-00002-of-00002.safetensors, which must lie beside it" in refused(tmp_path / "run", tmp_path)


def test_versions_of_an_artifact_are_an_order(tmp_path):
    models = networks(3)
    for version, model in zip((0, 2, 10), models):
        folder = tmp_path / "run" / f"run-3f2a-model:v{version}"
        folder.mkdir(parents=True)
        torch.save(hooked(model), folder / "model.pt")
    traj = import_checkpoints(tmp_path / "run", root=tmp_path / "runs")
    assert traj.steps.tolist() == [0, 1, 2]
    assert traj.run["import"]["counts"] == "checkpoints"
    same_logits(traj, models)
    for version, model in zip((0, 2, 10), models):
        torch.save(
            {"model": hooked(model), "step": 7 * version}, tmp_path / "run" / f"run-3f2a-model:v{version}" / "model.pt"
        )
    traj = import_checkpoints(tmp_path / "run", root=tmp_path / "runs")
    assert traj.steps.tolist() == [0, 14, 70]
    assert "counts" not in traj.run["import"]


def test_folders_of_several_runs_are_no_trajectory(tmp_path):
    for seed, model in enumerate(networks(2)):
        (tmp_path / "runs" / f"seed_{seed}").mkdir(parents=True)
        torch.save(hooked(model), tmp_path / "runs" / f"seed_{seed}" / "model.pt")
    assert "the checkpoints of several runs" in refused(tmp_path / "runs", tmp_path)
    for seed, model in enumerate(networks(2)):
        torch.save(hooked(model), tmp_path / f"add_seed{seed}.pt")
    message = refused(tmp_path, tmp_path)
    assert "whose names hold one number each" in message
    assert "add_seed0.pt, add_seed1.pt. Import one of the files" in message


# --- names of one's own -----------------------------------------------------------------------------------------------

OWN_NAMES = {"embed.W_E": "tok", "pos_embed.W_pos": "positions", "unembed.W_U": "head.weight"}


def test_names_of_ones_own(tmp_path, capsys):
    (model,) = networks(1)
    state = hooked(model) | {"extra": torch.rand(3)}
    for ours, theirs in OWN_NAMES.items():
        x = state.pop(ours)
        state[theirs] = x.T if theirs == "head.weight" else x
    torch.save({"net": state, "step": 5}, tmp_path / "m.pt")
    names = {theirs: ours for ours, theirs in OWN_NAMES.items()}
    names |= {"head.weight": ("unembed.W_U", "T"), "extra": None}
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path, format="transformer", names=names)
    same_logits(traj, [model])
    assert "(--names map.json)" in refused(tmp_path / "m.pt", tmp_path)
    assert "there is no `toc`. Did you mean" in refused(tmp_path / "m.pt", tmp_path, names={"toc": "embed.W_E"})
    assert '"T"] to transpose' in refused(tmp_path / "m.pt", tmp_path, names={"tok": ["embed.W_E"]})
    (tmp_path / "map.json").write_text(json.dumps(names))
    words = ["import", str(tmp_path / "m.pt"), "--into", str(tmp_path / "r"), "--names", str(tmp_path / "map.json")]
    main([*words, "--as", "transformer", "--set", "model.activation=gelu", "--dry-run"])
    out = capsys.readouterr().out
    assert "Nothing is written" in out
    assert "Steps:     5" in out
    assert not (tmp_path / "r").exists()
    main([*words, "--as", "transformer", "--set", "model.activation=gelu"])
    (run,) = (tmp_path / "r").iterdir()
    assert interp.load(run).config.model.activation == "gelu"


def test_a_plan_is_the_import_and_writes_nothing(tmp_path):
    models = networks(3)
    states = [hooked(model) for model in models]
    states[1]["embed.W_E"][0, 0] = torch.nan
    torch.save(dict(zip((0, 10, 20), states)), tmp_path / "m.pt")
    before = sorted(tmp_path.rglob("*"))
    plan = plan_import(tmp_path / "m.pt")
    assert sorted(tmp_path.rglob("*")) == before
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path / "runs")
    assert plan.steps == tuple(traj.steps) == (0, 20)
    assert plan.config == traj.config
    assert plan.found == traj.run["import"]


@pytest.mark.parametrize(
    ("positions", "vocabulary", "classes", "task"),
    [
        (4, 9, 7, Modular(p=7, encoding="operation")),
        (4, 9, 9, Modular(p=7, encoding="operation", outputs="tokens")),
        (4, 8, 7, Modular(p=7, arity=3)),
        (4, 8, 8, Modular(p=7, arity=3, outputs="tokens")),
    ],
)
def test_an_operation_as_a_token_and_three_operands(positions, vocabulary, classes, task, tmp_path):
    model = seeded(lambda: LeftHanded(vocabulary, positions, d_vocab_out=classes))
    expected = build_task(task)
    pairs = expected.tokens
    train, test = pairs[expected.train].tolist(), pairs[expected.test].tolist()
    torch.save({"model": hooked(model), "train_data": train, "test_data": test}, tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path, assume={"task.operation": "add"})
    assert torch.equal(traj.task.tokens, expected.tokens)
    assert torch.equal(traj.task.train, expected.train)
    torch.testing.assert_close(traj.model()(pairs)[:, -1], model(pairs).detach(), rtol=1e-4, atol=1e-5)


# --- steps that nobody knows ------------------------------------------------------------------------------------------


def test_steps_that_are_not_known_can_be_given(tmp_path, capsys):
    models = networks(4)
    torch.save([hooked(model) for model in models], tmp_path / "m.pth")
    traj = import_checkpoints(tmp_path / "m.pth", root=tmp_path)
    assert traj.steps.tolist() == [0, 1, 2, 3]
    assert traj.run["import"]["counts"] == "checkpoints"
    assert any(line.startswith("steps: not known") for line in traj.run["import"]["assumed"])
    page = interp.report(traj).read_text()
    assert "0 checkpoints" in page or "checkpoint 3" in page or "Last checkpoint" in page
    assert "checkpoint (in their order; updates not known" in page
    assert not re.findall(r"step \(optimiser|[Ll]ast step|at step \d", page)
    main(["import", str(tmp_path / "m.pth"), "--into", str(tmp_path / "r"), "--steps", "0,500,1000,1500"])
    assert "steps: not known" not in capsys.readouterr().out
    given = import_checkpoints(tmp_path / "m.pth", root=tmp_path / "r", steps=[0, 500, 1000, 1500])
    assert given.steps.tolist() == [0, 500, 1000, 1500]
    assert "counts" not in given.run["import"]
    same_logits(given, models)
    assert "`steps` must number all 4 checkpoints" in refused(tmp_path / "m.pth", tmp_path, steps=[1, 2])
    assert "in increasing order" in refused(tmp_path / "m.pth", tmp_path, steps=[1, 2, 2, 3])


@pytest.mark.parametrize("label", ["steps", "epochs", "checkpoint_steps"])
def test_a_list_with_its_numbers_beside_it(label, tmp_path):
    models = networks(2)
    torch.save({"checkpoints": [hooked(model) for model in models], label: [3, 70]}, tmp_path / "a.pt")
    torch.save([{"step": step, "model": hooked(model)} for step, model in zip((3, 70), models)], tmp_path / "b.pt")
    torch.save({f"step_{step}": hooked(model) for step, model in zip((3, 70), models)}, tmp_path / "c.pt")
    torch.save({"snapshots": {step: hooked(model) for step, model in zip((3, 70), models)}}, tmp_path / "d.pt")
    for name in "abcd":
        traj = import_checkpoints(tmp_path / f"{name}.pt", root=tmp_path)
        assert traj.steps.tolist() == [3, 70]
        same_logits(traj, models)
