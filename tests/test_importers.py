"""Other people's files, written here in their layouts by code of their kind, come back as the networks they hold."""

import collections
import copy
import csv
import json
import math
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import interp
from interp.cli import main
from interp.config import FeedForward, Gaussian, Modular, RunConfig, Transformer
from interp.errors import ConfigError, ForeignFormatError, NotAvailableError, RunExistsError
from interp.importers import LAYOUTS, import_checkpoints, importing
from interp.importers.proof import prove
from interp.importers.unpickling import load_plain
from interp.store import RunReader, RunWriter
from interp.tasks import build_task
from interp.tasks.base import packed, shuffled, unpacked
from interp.training.api import replay, resume

P, D, HEADS, D_HEAD, D_MLP = 7, 12, 2, 5, 16  # no two sizes that an exchange of axes could confuse


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices are tiny here: threads would only wait for each other."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


# --- the networks of others, as they compute --------------------------------------------------------------------------


class LeftHanded(nn.Module):
    """A transformer whose matrices act from the left: W x, with `mixing` of the softmax and the constant 1."""

    def __init__(self, d_vocab, n_ctx, *, causal=True, mixing=1.0, act=F.relu, layers=1, d_vocab_out=None, d=D):
        super().__init__()
        self.n_ctx, self.causal, self.mixing, self.act, self.layers = n_ctx, causal, mixing, act, layers

        def draw(*shape):
            return nn.Parameter(torch.randn(*shape) / math.sqrt(d))

        self.embed, self.pos_embed, self.unembed = nn.Module(), nn.Module(), nn.Module()
        self.embed.W_E = draw(d, d_vocab)
        self.pos_embed.W_pos = draw(n_ctx, d)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            block = nn.Module()
            block.attn, block.mlp = nn.Module(), nn.Module()
            for name in "KQV":
                setattr(block.attn, f"W_{name}", draw(HEADS, D_HEAD, d))
            block.attn.W_O = draw(d, HEADS * D_HEAD)
            block.attn.register_buffer("mask", torch.tril(torch.ones(n_ctx, n_ctx)))
            block.mlp.W_in, block.mlp.W_out = draw(D_MLP, d), draw(d, D_MLP)
            block.mlp.b_in, block.mlp.b_out = draw(D_MLP), draw(d)
            self.blocks.append(block)
        self.unembed.W_U = draw(d, d_vocab_out or d_vocab)

    def forward(self, tokens):
        x = torch.stack([self.embed.W_E[:, tokens[:, i]].T + self.pos_embed.W_pos[i] for i in range(self.n_ctx)], 1)
        for block in self.blocks:
            attn, added = block.attn, torch.zeros_like(x)
            for h in range(HEADS):
                q, k, v = (x @ W[h].T for W in (attn.W_Q, attn.W_K, attn.W_V))
                scores = q @ k.transpose(1, 2) / math.sqrt(D_HEAD)
                if self.causal:
                    scores = torch.tril(scores) - 1e10 * (1 - attn.mask)
                pattern = scores.softmax(-1) * self.mixing + (1 - self.mixing)
                added = added + pattern @ v @ attn.W_O[:, h * D_HEAD : (h + 1) * D_HEAD].T
            x = x + added
            hidden = self.act(x @ block.mlp.W_in.T + block.mlp.b_in)
            x = x + hidden @ block.mlp.W_out.T + block.mlp.b_out
        return (x @ self.unembed.W_U)[:, -1]


def hooked(model):
    """The same weights as TransformerLens lays them out, with its buffers and its biases that are all zero."""
    d_vocab, d_vocab_out = model.embed.W_E.shape[1], model.unembed.W_U.shape[1]
    state = {
        "embed.W_E": model.embed.W_E.T,
        "pos_embed.W_pos": model.pos_embed.W_pos,
        "unembed.W_U": model.unembed.W_U,
        "unembed.b_U": torch.zeros(d_vocab_out),
    }
    assert d_vocab >= P
    for i, block in enumerate(model.blocks):
        at = f"blocks.{i}."
        for name in "QKV":
            state[f"{at}attn.W_{name}"] = getattr(block.attn, f"W_{name}").transpose(1, 2)
            state[f"{at}attn.b_{name}"] = torch.zeros(HEADS, D_HEAD)
        parts = [block.attn.W_O[:, h * D_HEAD : (h + 1) * D_HEAD].T for h in range(HEADS)]
        state[f"{at}attn.W_O"], state[f"{at}attn.b_O"] = torch.stack(parts), torch.zeros(D)
        state[f"{at}attn.mask"], state[f"{at}attn.IGNORE"] = torch.ones(3, 3).tril().bool(), torch.tensor(-math.inf)
        state[f"{at}mlp.W_in"], state[f"{at}mlp.W_out"] = block.mlp.W_in.T, block.mlp.W_out.T
        state[f"{at}mlp.b_in"], state[f"{at}mlp.b_out"] = block.mlp.b_in, block.mlp.b_out
    return {name: x.detach().clone() for name, x in state.items()}


class Simple(nn.Module):
    """simple-grokking's network."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(P, D)
        self.fc1 = nn.Linear(2 * D, D_MLP)
        self.readout = nn.Linear(D_MLP, P)

    def forward(self, x):
        return self.readout(torch.relu(self.fc1(self.embedding(x).flatten(start_dim=1))))


class OneLayerMLP(nn.Module):
    """rep-theory's network."""

    def __init__(self):
        super().__init__()
        self.W_x, self.W_y = nn.Parameter(torch.randn(P, D)), nn.Parameter(torch.randn(P, D))
        self.W, self.W_U = nn.Parameter(torch.randn(2 * D, D_MLP)), nn.Parameter(torch.randn(D_MLP, P))
        self.relu = nn.ReLU()

    def forward(self, data):
        return self.relu(torch.hstack((self.W_x[data[:, 0]], self.W_y[data[:, 1]])) @ self.W) @ self.W_U


def grid(*, equals=True):
    """All pairs, as token rows."""
    return torch.tensor([[a, b, P][: 2 + equals] for a in range(P) for b in range(P)])


def labels_of(operation):
    return torch.tensor([operation(a, b) % P for a in range(P) for b in range(P)])


def loss_of(logits, labels):
    return -F.log_softmax(logits.double(), -1).gather(1, labels[:, None]).mean()


def history(
    model, order, *, epochs, every, first=0, test_after=True, equals=True, operation=lambda a, b: a + b, lr=3e-3
):
    """Train as the published loops do: train loss before the update, test loss before or after it, then the weights."""
    tokens, labels = grid(equals=equals), labels_of(operation)
    n_train = int(0.6 * len(order))
    train, test = order[:n_train], order[n_train:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    log = collections.defaultdict(list)

    def look(name, pairs):
        logits = model(tokens[pairs])
        log[f"{name}_losses"].append(float(loss_of(logits, labels[pairs]).detach()))
        log[f"{name}_accs"].append(float((logits.argmax(1) == labels[pairs]).double().mean()))

    for epoch in range(epochs):
        look("train", train)
        if not test_after:
            look("test", test)
        loss = loss_of(model(tokens[train]), labels[train])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if test_after:
            look("test", test)
        if epoch % every == first:
            log["epochs"].append(epoch)
            log["models"].append(copy.deepcopy(model))
    return log


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def same_logits(traj, models):
    """Every stored step computes what the foreign network computes."""
    tokens = traj.task.tokens
    for step, model in zip(traj.steps, models, strict=True):
        ours, theirs = traj.model(int(step))(tokens)[:, -1], model(tokens)
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-5)


def losses_by_hand(traj, step, model):
    """Loss on both sides of the imported split, from the foreign network."""
    logits, task = model(traj.task.tokens).detach(), traj.task
    return [float(loss_of(logits[mask], task.labels[mask])) for mask in (task.train, task.test)]


@pytest.fixture(scope="module")
def demo():
    """A run of the Grokking demo's loop: epochs 9, 19, ..., seed 598, test loss after the update."""
    order = shuffled(P * P, "torch-randperm", 598)
    model = seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P))
    return order, history(model, order, epochs=40, every=10, first=9)


def demo_file(path, demo, **changes):
    order, log = demo
    n_train = int(0.6 * len(order))
    contents = {
        "model": hooked(log["models"][-1]),
        "config": types.SimpleNamespace(),
        "checkpoints": [hooked(model) for model in log["models"]],
        "checkpoint_epochs": log["epochs"],
        "train_losses": log["train_losses"],
        "test_losses": log["test_losses"],
        "train_indices": order[:n_train],
        "test_indices": order[n_train:],
    } | changes
    torch.save({key: value for key, value in contents.items() if not isinstance(value, types.SimpleNamespace)}, path)
    return path


# --- the Grokking demo ------------------------------------------------------------------------------------------------


def test_the_demo(demo, tmp_path):
    traj = import_checkpoints(demo_file(tmp_path / "grokking_demo.pth", demo), root=tmp_path)
    _, log = demo
    assert traj.complete
    assert traj.steps.tolist() == [10, 20, 30, 40]
    assert traj.config.task == Modular(p=P, train_fraction=0.6, seed=598)
    assert traj.config.model.mlp_biases == "trainable"
    assert traj.config.model.attention_biases == "frozen"
    same_logits(traj, log["models"])
    assert traj.run["import"]["proof"]["compared"] == 5
    assert traj.run["import"]["proof"]["difference"] < 1e-4
    assert "torch-randperm with seed 598 draws the stored pairs" in traj.run["import"]["split_origin"]
    assert traj.provenance["from"] == "grokking_demo.pth"
    assert len(traj.provenance["sha256"]) == 64
    metrics = traj.metrics
    np.testing.assert_array_equal(metrics.train_loss.sel(step=range(40)), log["train_losses"])
    np.testing.assert_array_equal(
        metrics.test_loss.sel(step=range(1, 41)), log["test_losses"]
    )  # taken after the update
    for step, model in zip(traj.steps, log["models"]):
        by_hand = losses_by_hand(traj, step, model)
        assert float(metrics.test_loss.sel(step=step)) == pytest.approx(by_hand[1], rel=1e-4)
        if step < 40:
            assert float(metrics.train_loss.sel(step=step)) == pytest.approx(by_hand[0], rel=1e-4)
    assert np.isfinite(metrics.test_accuracy.sel(step=traj.steps)).all()


def test_every_measure_and_the_report_accept_it(demo, tmp_path):
    traj = import_checkpoints(demo_file(tmp_path / "demo.pth", demo), root=tmp_path)
    data = interp.measure(traj)
    assert len(data.step) == 4
    assert {"weight_norm", "test_loss", "all_loss"} <= set(data)
    assert interp.report(traj).stat().st_size > 1e5


def test_an_import_that_another_process_has_made_meanwhile_is_left_alone(demo, tmp_path, monkeypatch):
    path, read = demo_file(tmp_path / "demo.pth", demo), importing.read_dump

    def overtaken(files):
        monkeypatch.undo()
        import_checkpoints(path, root=tmp_path)
        return read(files)

    monkeypatch.setattr(importing, "read_dump", overtaken)
    with pytest.raises(RunExistsError):
        import_checkpoints(path, root=tmp_path)
    assert [interp.load(folder).complete for folder in tmp_path.glob("*-imported-*")] == [True]


def test_checkpoints_that_were_numbered_otherwise_are_found_out(demo, tmp_path):
    """Written before update e, so that checkpoint e has seen e updates."""
    _, log = demo
    shifted = [epoch + 1 for epoch in log["epochs"]][:-1]
    path = demo_file(
        tmp_path / "d.pth", demo, checkpoints=[hooked(m) for m in log["models"][:-1]], checkpoint_epochs=shifted
    )
    traj = import_checkpoints(path, root=tmp_path)
    assert traj.steps.tolist() == [10, 20, 30, 40]  # the fourth is `model`, after the last update


@pytest.mark.parametrize("name", ["multiply", "x2+xy+y2", "subtract"])
def test_the_operation_is_found(name, tmp_path):
    function = {
        "multiply": lambda a, b: a * b,
        "x2+xy+y2": lambda a, b: a * a + a * b + b * b,
        "subtract": lambda a, b: a - b,
    }
    order = shuffled(P * P, "torch-randperm", 598)
    model = seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P))
    log = history(model, order, epochs=60, every=20, first=19, operation=function[name], lr=1e-2)
    traj = import_checkpoints(demo_file(tmp_path / "d.pth", (order, log)), root=tmp_path)
    assert traj.config.task.operation == name
    assert traj.run["import"]["proof"]["difference"] < 1e-4


@pytest.mark.parametrize(("recipe", "seed"), [("torch-randperm", 17), ("python-shuffle", 0), ("numpy-shuffle", 3)])
def test_stored_pairs_lead_back_to_their_recipe(recipe, seed, tmp_path):
    task = build_task(Modular(p=P, train_fraction=0.6, split=recipe, seed=seed))
    order = torch.cat([task.train.nonzero()[:, 0], task.test.nonzero()[:, 0]])
    model = seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P))
    n_train = int(task.train.sum())
    contents = {
        "model": hooked(model),
        "train_indices": order[:n_train].tolist(),
        "test_indices": order[n_train:].tolist(),
    }
    torch.save(contents, tmp_path / "m.pth")
    traj = import_checkpoints(tmp_path / "m.pth", root=tmp_path)
    assert torch.equal(traj.task.train, task.train)
    assert traj.config.task.split == recipe
    assert traj.config.task.seed == seed


def test_pairs_of_no_recipe_are_stored(demo, tmp_path):
    _, log = demo
    order = torch.arange(P * P).flip(0)
    model = seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P))
    log = history(model, order, epochs=20, every=10, first=9)
    traj = import_checkpoints(demo_file(tmp_path / "d.pth", (order, log)), root=tmp_path)
    assert traj.config.task.split == "stored"
    assert traj.run["import"]["proof"]["compared"] >= 3
    assert traj.task.train.nonzero()[:, 0].tolist() == sorted(order[: int(0.6 * P * P)].tolist())
    assert torch.equal(traj.task.test, ~traj.task.train)
    assert torch.equal(interp.load(traj.folder).task.train, traj.task.train)
    assert interp.measure(traj, ["test_loss"]).test_loss[-1] == pytest.approx(log["test_losses"][-1], rel=1e-4)


def test_a_mask_comes_back():
    mask = torch.rand(97, generator=torch.Generator().manual_seed(0)) < 0.3
    assert torch.equal(unpacked(packed(mask), 97), mask)


def test_a_stored_split_cannot_be_trained_on(tmp_path):
    with pytest.raises(ConfigError, match="which only its folder holds; a run to train needs a recipe"):
        interp.train(RunConfig(task=Modular(p=P, split="stored")), root=tmp_path)


# --- the original authors' dumps --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original():
    """Nanda et al.'s loop: 114 outputs there and P + 1 here, python-shuffle, test loss before the update."""
    order = shuffled(P * P, "python-shuffle", 3)
    model = seeded(lambda: LeftHanded(P + 1, 3))
    return order, history(model, order, epochs=31, every=10, test_after=False)


CONFIG = {"lr": 2e-3, "weight_decay": 0.5, "p": P, "fn_name": "add", "frac_train": 0.6, "seed": 3, "act_type": "ReLU"}


def test_the_full_run_data(original, tmp_path):
    _, log = original
    contents = {
        "state_dicts": [model.state_dict() for model in log["models"]],
        "epochs": log["epochs"],
        "train_losses": np.array(log["train_losses"]),  # as numpy writes them
        "test_losses": [np.float64(x) for x in log["test_losses"][::10]],  # taken every tenth epoch
        "config": CONFIG,
    }
    torch.save(contents, tmp_path / "full_run_data.pth")
    traj = import_checkpoints(tmp_path / "full_run_data.pth", root=tmp_path)
    assert traj.run["import"]["format"] == "progress-measures"
    assert traj.steps.tolist() == [1, 11, 21, 31]
    same_logits(traj, log["models"])
    config = traj.config
    assert config.task == Modular(p=P, train_fraction=0.6, split="python-shuffle", seed=3, outputs="tokens")
    assert (config.optimizer.lr, config.optimizer.weight_decay, config.optimizer.warmup_steps) == (2e-3, 0.5, 10)
    np.testing.assert_array_equal(traj.metrics.test_loss.sel(step=[0, 10, 20, 30]), log["test_losses"][::10])
    assert traj.run["import"]["proof"]["difference"] < 1e-4


def test_a_folder_of_dumps(original, tmp_path):
    order, log = original
    folder = tmp_path / "grok_1"
    folder.mkdir()
    for epoch, model in zip(log["epochs"], log["models"]):
        part = {"train_loss": log["train_losses"][epoch], "test_loss": log["test_losses"][epoch], "epoch": epoch}
        torch.save({"model": model.state_dict(), **part}, folder / f"{epoch}.pth")
    pairs = [(int(i) // P, int(i) % P, P) for i in order]
    n_train = int(0.6 * len(order))
    torch.save({"model": {}, "train_data": pairs[:n_train], "test_data": pairs[n_train:]}, folder / "init.pth")
    final = {"train_losses": log["train_losses"], "test_losses": log["test_losses"], "epoch": 31}
    torch.save({"model": log["models"][-1].state_dict(), **final}, folder / "final.pth")
    traj = import_checkpoints(folder, root=tmp_path)
    assert traj.steps.tolist() == [1, 11, 21, 31]
    assert traj.config.task.split == "python-shuffle"
    assert traj.config.task.seed == 3
    same_logits(traj, log["models"])
    assert traj.run["import"]["proof"]["difference"] < 1e-4


def test_a_final_file_alone(original, tmp_path):
    _, log = original
    contents = {
        "model": log["models"][-1].state_dict(),
        "train_losses": log["train_losses"],
        "test_losses": log["test_losses"],
        "config": CONFIG,
    }
    torch.save(contents, tmp_path / "final.pth")
    traj = import_checkpoints(tmp_path / "final.pth", root=tmp_path)
    assert traj.steps.tolist() == [31]
    assert "one update older" in traj.run["import"]["proof"]["worst"]


# --- the clock and the pizza ------------------------------------------------------------------------------------------


def pizza_file(folder, model, **changes):
    config = {
        "name": f"modadd_{P}",
        "funcs": f"lambda x: (x[0]+x[1])%{P}",
        "C": P,
        "act_fn": "ReLU",
        "epoch": 20000,
        "attention_dir": "casual",
        "lr": 0.001,
        "weight_decay": 2.0,
        "frac": 0.8,
        "attn_coeff": 0.3,
        "runid": "18c9ev5v5p",
        "diff_vocab": False,
        "eqn_sign": False,
        "func": None,
    } | changes
    torch.save(model.state_dict(), folder / "model_18c9ev5v5p.pt")
    (folder / "config_18c9ev5v5p.json").write_text(json.dumps(config))
    return folder / "model_18c9ev5v5p.pt"


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("act_fn", "act"), [("ReLU", F.relu), ("GeLU", F.gelu)])
def test_a_pizza(layers, act_fn, act, tmp_path):
    model = seeded(lambda: LeftHanded(P, 2, causal=False, mixing=0.3, act=act, layers=layers))
    traj = import_checkpoints(pizza_file(tmp_path, model, act_fn=act_fn), root=tmp_path / "runs")
    assert traj.run["import"]["format"] == "pizza"
    assert traj.steps.tolist() == [20000]
    assert traj.config.model.attention == "bidirectional"
    assert traj.config.model.attention_rate == 0.3
    assert traj.config.task.encoding == "operands"
    assert traj.config.optimizer.weight_decay == 2.0
    same_logits(traj, [model])
    assert traj.run["import"]["split_origin"].startswith("not known")
    assert traj.task.train.all()
    assert traj.task.test.all()
    assert traj.run["import"]["proof"]["compared"] == 0
    with pytest.raises(NotAvailableError, match=r"`attention_rate` must be 1; got 0\.3"):
        traj.lens()
    if layers == 1:
        data = interp.measure(traj)
        assert float(data.test_loss[0]) == pytest.approx(losses_by_hand(traj, 20000, model)[1], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"diff_vocab": 1}, "`diff_vocab` of the configuration must be false"),
        (
            {"funcs": "lambda x: __import__('os')"},
            r"`funcs` must be \(x\[0\]\+x\[1\]\)%7, or with - or \* for \+; got",
        ),
        ({"act_fn": "Mish"}, "activation of the configuration must be relu or gelu, or another of .*; got 'Mish'"),
    ],
)
def test_a_pizza_that_this_package_has_no_model_for(changes, error, tmp_path):
    model = seeded(lambda: LeftHanded(P, 2, causal=False))
    with pytest.raises(ForeignFormatError, match=error):
        import_checkpoints(pizza_file(tmp_path, model, **changes), root=tmp_path)


def test_a_pizza_needs_its_configuration(tmp_path):
    pizza_file(tmp_path, seeded(lambda: LeftHanded(P, 2, causal=False)))
    (tmp_path / "config_18c9ev5v5p.json").unlink()
    with pytest.raises(ForeignFormatError, match=r"put config_<id>\.json beside model_<id>\.pt"):
        import_checkpoints(tmp_path / "model_18c9ev5v5p.pt", root=tmp_path)


# --- feed-forward networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [100, 1])
def test_simple_grokking(tmp_path, unit):
    """Its accuracies are in percent; shares are understood, too."""
    folder = tmp_path / "log" / "grokking"
    (folder / "models").mkdir(parents=True)
    order = shuffled(P * P, "torch-randperm", 2)
    log = history(seeded(Simple), order, epochs=12, every=1, equals=False)
    with (folder / "metrics.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["epoch", "train_loss", "train_acc", "val_loss", "val_acc"])
        for epoch in range(12):
            train, test = ((log[f"{s}_losses"][epoch], unit * log[f"{s}_accs"][epoch]) for s in ("train", "test"))
            rows.writerow([epoch, *train, *test])
        stream.write("12,0.1")  # a torn last line
    for epoch, model in enumerate(log["models"]):
        torch.save(model.state_dict(), folder / "models" / f"{epoch}.pt")
    for path in (folder, folder / "models"):
        traj = import_checkpoints(path, root=tmp_path / path.name)
        assert traj.steps.tolist() == list(range(1, 13))
        assert traj.config.task.seed == 2
        assert traj.config.model.d_hidden == (D_MLP,)
        same_logits(traj, log["models"])
        assert traj.run["import"]["proof"]["compared"] == 10
        assert traj.run["import"]["proof"]["difference"] < 1e-3
        np.testing.assert_allclose(traj.metrics.test_accuracy.sel(step=range(1, 13)), log["test_accs"])
        np.testing.assert_allclose(traj.metrics.train_accuracy.sel(step=range(12)), log["train_accs"])


CYCLIC = {"group": "CyclicGroup", "group_parameter": P, "seed": 1, "frac_train": 0.4, "lr": 1e-2, "num_epochs": 500}


@pytest.mark.parametrize("whole", [False, True])
def test_group_mlp(whole, tmp_path):
    model = seeded(OneLayerMLP)
    torch.save(model if whole else model.state_dict(), tmp_path / "model.pt")
    (tmp_path / "cfg.json").write_text(json.dumps(CYCLIC))
    traj = import_checkpoints(tmp_path / "model.pt", root=tmp_path / "runs")
    assert isinstance(traj.config.model, FeedForward)
    assert traj.config.model.embedding == "separate"
    assert traj.config.task == Modular(p=P, encoding="operands", seed=1, train_fraction=0.4)
    assert traj.steps.tolist() == [500]
    assert traj.config.optimizer.lr == 1e-2
    same_logits(traj, [model])


def test_group_mlp_in_a_folder_of_epochs(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    models = [seeded(OneLayerMLP, seed) for seed in range(4)]
    for epoch, model in zip((0, 1, 5), models):
        torch.save(model, tmp_path / "run" / "checkpoints" / f"epoch_{epoch}.pt")
    torch.save(models[3], tmp_path / "run" / "model.pt")
    (tmp_path / "run" / "cfg.json").write_text(json.dumps(CYCLIC))
    traj = import_checkpoints(tmp_path / "run", root=tmp_path)
    assert traj.steps.tolist() == [1, 2, 6, 500]
    same_logits(traj, models)


def test_seed_0_of_a_group_mlp_does_not_shuffle(tmp_path):
    torch.save(seeded(OneLayerMLP).state_dict(), tmp_path / "model.pt")
    (tmp_path / "cfg.json").write_text(json.dumps(CYCLIC | {"seed": 0}))
    traj = import_checkpoints(tmp_path / "model.pt", root=tmp_path)
    assert traj.task.train.nonzero()[:, 0].tolist() == list(range(int(0.4 * P * P)))


def test_other_groups_are_refused(tmp_path):
    torch.save(seeded(OneLayerMLP).state_dict(), tmp_path / "model.pt")
    (tmp_path / "cfg.json").write_text(json.dumps(CYCLIC | {"group": "SymmetricGroup"}))
    with pytest.raises(ForeignFormatError, match="must be CyclicGroup, addition mod p; got 'SymmetricGroup'"):
        import_checkpoints(tmp_path / "model.pt", root=tmp_path)


# --- HookedTransformer state dicts ------------------------------------------------------------------------------------


def test_state_dicts_one_a_list_and_by_step(tmp_path):
    models = [seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P), seed) for seed in range(3)]
    states = [hooked(model) for model in models]
    for name, contents, steps, used in (
        ("one", states[0], [1], models[:1]),
        ("list", states, [0, 1, 2], models),
        ("dict", dict(zip((0, 10, 500), states)), [0, 10, 500], models),
    ):
        torch.save(contents, tmp_path / f"{name}.pt")
        traj = import_checkpoints(tmp_path / f"{name}.pt", root=tmp_path)
        assert traj.steps.tolist() == steps
        same_logits(traj, used)
        assert "activation relu" in traj.run["import"]["assumed"]


def test_a_configuration_beside(tmp_path):
    model = seeded(lambda: LeftHanded(P + 1, 3, act=F.gelu, causal=False))
    torch.save(hooked(model), tmp_path / "m.pt")
    said = {"act_fn": "gelu", "attention_dir": "bidirectional", "normalization_type": None}
    (tmp_path / "cfg.json").write_text(json.dumps(said))
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path)
    same_logits(traj, [model])
    assert "activation relu" not in traj.run["import"]["assumed"]
    (tmp_path / "cfg.json").write_text(json.dumps(said | {"normalization_type": "LNPre"}))
    with pytest.raises(ForeignFormatError, match="`normalization_type` of the configuration must be None; got 'LNPre'"):
        import_checkpoints(tmp_path / "m.pt", root=tmp_path)


def test_assume_says_what_the_file_does_not(tmp_path):
    model = seeded(lambda: LeftHanded(P + 1, 3, act=F.gelu))
    torch.save(hooked(model), tmp_path / "m.pt")
    assume = {"model.activation": "gelu", "task.operation": "multiply", "task.seed": 5}
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path, assume=assume)
    same_logits(traj, [model])
    assert traj.config.task.operation == "multiply"
    assert traj.config.task.seed == 5
    assert torch.equal(traj.task.train, build_task(traj.config.task).train)
    assert traj.config.task.split != "stored"
    other = import_checkpoints(tmp_path / "m.pt", root=tmp_path)
    assert other.folder != traj.folder
    with pytest.raises(ConfigError, match=r"There is no field `task\.oporation`"):
        import_checkpoints(tmp_path / "m.pt", root=tmp_path, assume={"task.oporation": "add"})


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(path, tmp_path, **options):
    with pytest.raises(ForeignFormatError) as caught:
        import_checkpoints(path, root=tmp_path / "refused", **options)
    assert not list((tmp_path / "refused").glob("*"))
    (message,) = caught.value.args  # str(error) would replace what does not print
    assert message.isprintable(), message
    return message


def test_a_file_that_does_not_reproduce_its_own_losses(demo, tmp_path):
    _, log = demo
    wrong = [hooked(model) for model in log["models"]]
    for state in wrong:
        state["blocks.0.mlp.b_in"] += 0.3
    said = refused(demo_file(tmp_path / "d.pth", demo, checkpoints=wrong), tmp_path)
    assert "does not reproduce its own numbers, read as hooked-transformer, add mod 7" in said
    assert "in the file and" in said


def test_a_wrong_activation_is_noticed(demo, tmp_path):
    path = demo_file(tmp_path / "d.pth", demo)
    assert "does not reproduce" in refused(path, tmp_path, assume={"model.activation": "gelu"})


def test_a_square_matrix_the_wrong_way_round_is_noticed_by_the_losses(tmp_path):
    """With as many tokens as dimensions, only what W_E computes can tell."""
    order = shuffled(P * P, "python-shuffle", 3)
    model = seeded(lambda: LeftHanded(P + 1, 3, d=P + 1))
    log = history(model, order, epochs=21, every=10, test_after=False)
    states = [model.state_dict() for model in log["models"]]
    contents = {"epochs": log["epochs"], "train_losses": log["train_losses"], "config": CONFIG}
    torch.save(contents | {"state_dicts": states}, tmp_path / "right.pth")
    same_logits(import_checkpoints(tmp_path / "right.pth", root=tmp_path), log["models"])
    turned = [state | {"embed.W_E": state["embed.W_E"].T} for state in states]
    torch.save(contents | {"state_dicts": turned}, tmp_path / "wrong.pth")
    assert "does not reproduce its own numbers, read as progress-measures" in refused(tmp_path / "wrong.pth", tmp_path)


def test_shapes_that_contradict(demo, tmp_path):
    _, log = demo
    states = [hooked(model) for model in log["models"]]
    states[1]["blocks.0.mlp.b_in"] = torch.zeros(D_MLP + 1)
    said = refused(demo_file(tmp_path / "d.pth", demo, checkpoints=states), tmp_path)
    assert (
        "Checkpoint 19 in d.pth: `blocks.0.mlp.b_in` must have shape (16,), as the other parameters say; got (17,)."
        in said
    )
    half = log["models"][0].state_dict() | {"embed.W_E": log["models"][0].embed.W_E.T}
    torch.save(half, tmp_path / "half.pt")  # somebody has turned one matrix only
    assert "must have shape" in refused(tmp_path / "half.pt", tmp_path)


def test_a_layout_that_nobody_knows(tmp_path):
    torch.save({"layers.0.weight": torch.zeros(3, 4)}, tmp_path / "m.pt")
    said = refused(tmp_path / "m.pt", tmp_path)
    assert "of no known format. It holds layers.0.weight [3, 4]" in said
    assert all(name in said for name in LAYOUTS)
    torch.save({"a": 1}, tmp_path / "n.pt")
    assert "must hold a state dict, a list or dict of them" in refused(tmp_path / "n.pt", tmp_path)


def test_another_format_than_demanded(tmp_path):
    torch.save(seeded(Simple).state_dict(), tmp_path / "m.pt")
    said = refused(tmp_path / "m.pt", tmp_path, format="pizza")
    assert "not of the format pizza, it is of the format simple-grokking" in said
    assert "`format` must be one of hooked-transformer" in refused(tmp_path / "m.pt", tmp_path, format="onnx")


def test_nothing_there(tmp_path):
    assert "there is no" in refused(tmp_path / "nothing.pth", tmp_path)
    (tmp_path / "empty").mkdir()
    assert "holds nothing" in refused(tmp_path / "empty", tmp_path)
    (tmp_path / "text.pth").write_text("no torch file")
    assert "text.pth is no torch file" in refused(tmp_path / "text.pth", tmp_path)


class Dangerous:
    """A pickle that would run a command."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"model": Dangerous()}, tmp_path / "m.pth")
    said = refused(tmp_path / "m.pth", tmp_path)
    assert "exec" in said
    assert "foreign code" in said
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Dangerous()))
    assert "old.pth" in refused(tmp_path / "old.pth", tmp_path)


@pytest.fixture
def pickled_config():
    """The demo's `config` is an object of a class that is not installed where it is read."""
    module = types.ModuleType("transformer_lens_of_old")

    class HookedTransformerConfig:
        def __init__(self, **fields):
            self.__dict__.update(fields)

        def __setstate__(self, state):
            raise AssertionError("foreign code ran")

    HookedTransformerConfig.__module__ = module.__name__
    HookedTransformerConfig.__qualname__ = "HookedTransformerConfig"
    module.HookedTransformerConfig = HookedTransformerConfig
    sys.modules[module.__name__] = module
    yield HookedTransformerConfig
    sys.modules.pop(module.__name__, None)


def test_the_demos_configuration_is_read_without_its_class(pickled_config, demo, tmp_path):
    config = pickled_config(act_fn="relu", attention_dir="causal", dtype=torch.float32, device="cuda", seed=999)
    path = demo_file(tmp_path / "d.pth", demo, config=config)
    del sys.modules["transformer_lens_of_old"]
    assert load_plain(path)["config"]["act_fn"] == "relu"
    traj = import_checkpoints(path, root=tmp_path)
    assert traj.run["import"]["assumed"] == []


# --- what a number of a file means ------------------------------------------------------------------------------------


def numbered(folder, models, names, dump=hooked):
    """One file for each model."""
    folder.mkdir(parents=True)
    for name, model in zip(names, models, strict=True):
        torch.save(dump(model), folder / name)
    return folder


def numbering(traj):
    """What is assumed of the steps, in words."""
    return [text for text in traj.run["import"]["assumed"] if text.startswith("steps:")]


@pytest.mark.parametrize("name", ["{}.pt", "epoch_{}.pt", "step_{}.pt", "model-{}.pth"])
def test_a_plain_folder_of_numbered_files_is_not_shifted(name, tmp_path):
    models = [seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P), seed) for seed in range(3)]
    folder = numbered(tmp_path / "many", models, [name.format(n) for n in (0, 100, 600)])
    traj = import_checkpoints(folder, root=tmp_path)
    assert traj.steps.tolist() == [0, 100, 600]
    assert numbering(traj) == ["steps: checkpoint 600 has seen 600 updates"]
    same_logits(traj, models)


def test_a_state_dict_with_an_epoch_is_not_shifted(tmp_path):
    model = seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P))
    torch.save({"model_state_dict": hooked(model), "epoch": 600}, tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path)
    assert traj.steps.tolist() == [600]
    assert numbering(traj) == ["steps: checkpoint 600 has seen 600 updates"]


@pytest.mark.parametrize(
    ("make", "name", "source"),
    [
        (Simple, "{}.pt", "okitouni/simple-grokking"),
        (OneLayerMLP, "epoch_{}.pt", "bilal-chughtai/rep-theory-mech-interp"),
    ],
)
def test_published_scripts_number_the_update_just_made(make, name, source, tmp_path):
    """Each saves after `optimizer.step()`, under the index of that update."""
    models = [seeded(make, seed) for seed in range(2)]
    folder = numbered(tmp_path / "run", models, [name.format(n) for n in (0, 100)], lambda model: model.state_dict())
    traj = import_checkpoints(folder, root=tmp_path)
    assert traj.steps.tolist() == [1, 101]
    (said,) = numbering(traj)
    assert "checkpoint 100 has seen 101 updates" in said
    assert source in said


@pytest.mark.parametrize(("published", "after"), [(True, True), (False, True), (False, False)])
def test_a_loss_in_each_of_the_files(published, after, original, tmp_path):
    """Nanda et al.'s Trainer puts two beside weights one update younger; others one, which may be of the weights."""
    _, log = original
    folder = tmp_path / "run"
    folder.mkdir()
    for epoch, model in zip(log["epochs"], log["models"]):
        if epoch == 30:
            continue  # the last has no loss of its own
        part = {"train_loss": log["train_losses"][epoch + (not after)], "epoch": epoch}
        part |= {"test_loss": log["test_losses"][epoch + (not after)]} if published else {}
        torch.save({"model": model.state_dict(), **part}, folder / f"{epoch}.pth")
    options = {"assume": {"task.split": "python-shuffle", "task.seed": 3, "task.train_fraction": 0.6}}
    traj = import_checkpoints(folder, root=tmp_path, **options)
    assert traj.steps.tolist() == ([1, 11, 21] if after else [0, 10, 20])
    (said,) = numbering(traj)
    assert ("Trainer.save_epoch" in said) == published
    assert ("saved after update 20" in said) == after


@pytest.mark.parametrize("history", [False, True])
def test_losses_on_a_split_that_is_not_known_tell_nothing_of_the_steps(history, tmp_path):
    models = [seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P), seed) for seed in range(2)]
    (folder := tmp_path / "many").mkdir()
    for epoch, model in zip((0, 5), models):
        part = {} if history else {"train_loss": 3.0 + epoch, "epoch": epoch}
        torch.save({"model": hooked(model), **part}, folder / f"{epoch}.pt")
    if history:
        (folder / "metrics.csv").write_text("epoch,train_loss\n0,3.0\n1,2.5\n5,9.0\n6,2.1\n")
    traj = import_checkpoints(folder, root=tmp_path)
    assert traj.run["import"]["split_origin"].startswith("not known")
    assert traj.steps.tolist() == [0, 5]
    assert numbering(traj) == ["steps: checkpoint 5 has seen 5 updates"]


def test_a_loss_that_agrees_loosely_finds_no_split(tmp_path):
    """One update may change a loss by half, and another split may as well."""
    model = seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P))
    loss = loss_of(model(grid()), labels_of(lambda a, b: a + b)).item()
    torch.save({"model": hooked(model), "train_loss": 1.3 * loss, "epoch": 5}, tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path, assume={"task.operation": "add"})
    assert traj.run["import"]["split_origin"].startswith("not known")
    assert traj.steps.tolist() == [5]


def test_losses_that_are_the_same_on_every_split_find_none(tmp_path):
    """As those of a network that has generalised: all recipes reproduce them."""
    model = seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P))
    weights = {name: 0 * W if "unembed" in name else W for name, W in hooked(model).items()}
    losses = [3.0, 2.9, float(np.log(P))]
    torch.save({"model": weights, "train_losses": losses, "test_losses": losses}, tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path, assume={"task.operation": "add"})
    assert traj.run["import"]["split_origin"] == "not known: all pairs are both"
    assert not traj.task.held_out


def test_losses_that_come_out_on_no_split_are_told(tmp_path):
    """Of a network of another activation, say: there is no proof, and it is said why."""
    model = seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P))
    torch.save({"model": hooked(model), "train_losses": [1.0, 2.0], "test_losses": [1.5, 2.5]}, tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path, assume={"task.operation": "add"})
    assert "comes out on no split that was tried" in traj.run["import"]["proof"]["verdict"]


@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_file_that_is_cut_short_is_named(kept, tmp_path):
    path = tmp_path / "m.pt"
    torch.save(hooked(seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P))), path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ForeignFormatError, match=r"m\.pt is no torch file, or is cut short"):
        import_checkpoints(path, root=tmp_path)


def test_a_fraction_alone_is_no_split(tmp_path):
    torch.save(hooked(seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P))), tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path, assume={"task.train_fraction": 0.5})
    assert traj.run["import"]["split_origin"].startswith("not known")
    assert traj.config.task.train_fraction == 0.5


def test_the_last_weights_of_a_plain_folder_keep_their_own_epoch(tmp_path):
    models = [seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P), seed) for seed in range(3)]
    folder = numbered(tmp_path / "many", models[:2], ["0.pt", "100.pt"])
    torch.save({"model": hooked(models[2]), "epoch": 600}, folder / "final.pt")
    assert import_checkpoints(folder, root=tmp_path).steps.tolist() == [0, 100, 600]


def test_a_name_that_says_step_counts_updates_in_every_layout(tmp_path):
    models = [seeded(Simple, seed) for seed in range(2)]
    folder = numbered(tmp_path / "run", models, ["step_0.pt", "step_9.pt"], lambda model: model.state_dict())
    assert import_checkpoints(folder, root=tmp_path).steps.tolist() == [0, 9]


def test_what_the_losses_prove_of_the_steps_is_not_assumed(demo, tmp_path):
    assert numbering(import_checkpoints(demo_file(tmp_path / "d.pth", demo), root=tmp_path)) == []


def test_the_numbering_can_be_said(tmp_path, capsys):
    models = [seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P), seed) for seed in range(2)]
    plain = numbered(tmp_path / "plain", models, ["0.pt", "100.pt"])
    traj = import_checkpoints(plain, root=tmp_path, assume={"steps": "indices"})
    assert traj.steps.tolist() == [1, 101]
    assert numbering(traj) == []
    simple = numbered(tmp_path / "s", [seeded(Simple), seeded(Simple)], ["0.pt", "9.pt"], lambda m: m.state_dict())
    assert import_checkpoints(simple, root=tmp_path, assume={"steps": "updates"}).steps.tolist() == [0, 9]
    with pytest.raises(ConfigError, match=r"`assume` steps must be updates .* or indices .*; got 'later'"):
        import_checkpoints(plain, root=tmp_path, assume={"steps": "later"})
    main(["import", str(plain), "--into", str(tmp_path / "runs"), "--assume", "steps=indices"])
    assert interp.load(next((tmp_path / "runs").iterdir())).steps.tolist() == [1, 101]
    torch.save(hooked(models[0]), tmp_path / "one.pt")
    with pytest.raises(
        ConfigError, match=r"`assume` steps is the meaning of the .* numbers; these files have no numbers"
    ):
        import_checkpoints(tmp_path / "one.pt", root=tmp_path, assume={"steps": "updates"})


def test_a_numbering_that_the_losses_contradict_is_refused(demo, tmp_path):
    path = demo_file(tmp_path / "d.pth", demo)
    assert import_checkpoints(path, root=tmp_path, assume={"steps": "indices"}).steps.tolist() == [10, 20, 30, 40]
    said = refused(path, tmp_path, assume={"steps": "updates"})
    assert "must agree with the stored losses, by which the checkpoints' numbers are indices; got updates." in said


# --- what the weights themselves say ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "said"), [(math.nan, "1 NaN, 0"), (math.inf, "0 NaN, 1"), (1e300, "0 NaN, 1")])
def test_weights_that_are_no_numbers_are_left_out(value, said, tmp_path):
    models = [seeded(lambda: LeftHanded(P + 1, 3, d_vocab_out=P), seed) for seed in range(4)]
    for broken in range(4):  # the second of four is not looked at before it is written
        states = [{name: x.double() for name, x in hooked(model).items()} for model in models]
        states[broken]["unembed.W_U"][3, 2] = value
        folder = numbered(tmp_path / f"run{broken}", states, [f"{n}.pt" for n in range(4)], lambda state: state)
        traj = import_checkpoints(folder, root=tmp_path)
        good = [n for n in range(4) if n != broken]
        assert traj.steps.tolist() == good
        assert traj.complete
        assert not traj.problems
        same_logits(traj, [models[n] for n in good])
        (message,) = traj.run["import"]["said"]
        assert (
            f"Checkpoint {broken} in {broken}.pt: `unembed.W_U` must hold finite float32 numbers; got {said} infinite"
            in message
        )
        assert message.isprintable()
    torch.save(states[-1], tmp_path / "one.pt")
    assert "The checkpoint in one.pt: `unembed.W_U` must hold finite" in refused(tmp_path / "one.pt", tmp_path)


def adder():
    """simple-grokking's network as it adds: hidden neuron s is 1 where a + b = s, and the answer is s mod p."""
    model = Simple()
    neurons = 2 * P - 1
    model.embedding, model.fc1 = nn.Embedding(P, P), nn.Linear(2 * P, neurons)
    model.readout = nn.Linear(neurons, P)
    with torch.no_grad():
        model.embedding.weight.copy_(torch.arange(P)[:, None] * torch.eye(P)[0])  # the number itself, in one coordinate
        model.fc1.weight.zero_()
        model.fc1.weight[:, [0, P]] = 1.0
        model.fc1.bias.copy_(1.0 - torch.arange(neurons))  # relu(a + b - s + 1), whose second differences are the hats
        hats = torch.zeros(neurons, neurons)
        for s in range(neurons):
            for neuron, weight in ((s, 1.0), (s + 1, -2.0), (s + 2, 1.0)):
                if neuron < neurons:
                    hats[s, neuron] = weight
        model.readout.weight.zero_()
        model.readout.weight.index_add_(0, torch.arange(neurons) % P, hats)
        model.readout.bias.zero_()
    return model


def test_an_operation_that_the_weights_do_not_answer_is_told(tmp_path, capsys):
    torch.save(adder().state_dict(), tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path, assume={"task.operation": "multiply"})
    shared = sum((a + b) % P == a * b % P for a in range(P) for b in range(P)) / P**2
    found = traj.run["import"]
    assert traj.config.task.operation == "multiply"
    assert found["operation"] == f"as assumed; {shared:.1%} of all pairs are answered by it, 100.0% by add"
    said = "the weights answer 100.0% of all pairs by add"
    assert said in found["proof"]["verdict"]
    assert said in traj.provenance["proof"]
    main(["import", str(tmp_path / "m.pt"), "--into", str(tmp_path / "r"), "--assume", "task.operation=multiply"])
    assert said in capsys.readouterr().out


def test_an_operation_that_the_weights_answer_is_confirmed(tmp_path):
    torch.save(adder().state_dict(), tmp_path / "m.pt")
    found = import_checkpoints(tmp_path / "m.pt", root=tmp_path, assume={"task.operation": "add"}).run["import"]
    assert found["operation"] == "as assumed; 100.0% of all pairs are answered by it"
    assert found["proof"]["verdict"] == "no stored number to compare with"


def test_an_operation_that_a_configuration_gives_is_held_against_the_answers(tmp_path):
    """The published formula in the wrong configuration: a network that has learnt a - b, said to add."""
    model = seeded(lambda: LeftHanded(P, 2, causal=False, mixing=0.3))
    labels = labels_of(lambda a, b: a - b)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    for _ in range(300):
        loss = loss_of(model(grid(equals=False)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    found = import_checkpoints(pizza_file(tmp_path, model), root=tmp_path).run["import"]
    assert found["operation"].startswith("given by the configuration; ")
    assert "the weights answer 100.0% of all pairs by subtract" in found["proof"]["verdict"]


def test_a_split_that_is_not_known_holds_nothing_out(demo, tmp_path):
    torch.save(adder().state_dict(), tmp_path / "m.pt")
    traj = import_checkpoints(tmp_path / "m.pt", root=tmp_path)
    assert traj.run["import"]["split_origin"] == "not known: all pairs are both"
    assert not traj.task.held_out
    assert not interp.load(traj.folder).task.held_out
    assert import_checkpoints(demo_file(tmp_path / "d.pth", demo), root=tmp_path).task.held_out
    assert build_task(Gaussian(n=4)).held_out  # a whole population is


# --- an import is a run -----------------------------------------------------------------------------------------------


def test_the_same_file_is_imported_once(demo, tmp_path):
    path = demo_file(tmp_path / "d.pth", demo)
    traj = import_checkpoints(path, root=tmp_path)
    before = {file: file.stat().st_mtime_ns for file in traj.folder.rglob("*")}
    again = import_checkpoints(path, root=tmp_path)
    assert again.folder == traj.folder
    assert RunReader(again.folder).verify().ok
    assert {
        file: file.stat().st_mtime_ns for file in traj.folder.rglob("*") if file.name != "LOCK"
    }.items() <= before.items()


def test_an_import_that_lost_a_file_is_made_again(demo, tmp_path):
    path = demo_file(tmp_path / "d.pth", demo)
    traj = import_checkpoints(path, root=tmp_path)
    fingerprints = traj.fingerprints()
    max((traj.folder / "trajectory").iterdir()).unlink()
    again = import_checkpoints(path, root=tmp_path)
    assert again.folder == traj.folder
    assert again.fingerprints() == fingerprints


def test_half_an_import_is_made_again(demo, tmp_path):
    path = demo_file(tmp_path / "d.pth", demo)
    traj = import_checkpoints(path, root=tmp_path)
    with RunWriter.open(traj.folder) as writer:
        writer.replace_run(traj.run, complete=False)
    for segment in (traj.folder / "trajectory").iterdir():
        segment.unlink()
    assert import_checkpoints(path, root=tmp_path).steps.tolist() == [10, 20, 30, 40]


def test_an_import_can_neither_be_resumed_nor_replayed(demo, tmp_path):
    traj = import_checkpoints(demo_file(tmp_path / "d.pth", demo), root=tmp_path)
    for act in (lambda: resume(traj.folder), lambda: replay(traj, 10, 20)):
        with pytest.raises(NotAvailableError, match="was imported: its weights are known, the state of the optimiser"):
            act()


def test_the_command(demo, tmp_path, capsys):
    path = demo_file(tmp_path / "d.pth", demo)
    main(["import", str(path), "--into", str(tmp_path / "runs"), "--assume", "seed=3"])
    out = capsys.readouterr().out
    assert "Format:    hooked-transformer" in out
    assert "stored numbers agree" in out
    assert "seed 598" in out
    (run,) = (tmp_path / "runs").iterdir()
    assert interp.load(run).config.seed == 3
    for words in (
        ["import", str(tmp_path / "nothing")],
        ["resume", str(run)],
        ["import", str(path), "--assume", "seed"],
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        err = capsys.readouterr().err
        assert end.value.code == 2
        assert len(err.strip().splitlines()) == 1


def test_a_difference_is_judged_relative_to_what_is_stored():
    proof = prove([(0, {"train_loss": 1.0})], {"train_loss": {1: 1.5}}, updates=1, tests_after_update=True)
    assert not proof.agrees
    assert proof.difference == pytest.approx(1 / 3)
    assert prove([(0, {"train_loss": 1.001})], {"train_loss": {1: 1.0}}, updates=1, tests_after_update=True).agrees


def test_a_config_gains_a_field_and_keeps_its_name():
    whole = RunConfig().to_dict()
    assert "attention_rate" not in whole["model"]
    assert RunConfig.from_dict(whole).model == Transformer()
    changed = RunConfig(model=Transformer(attention_rate=0.5))
    assert changed.run_id != RunConfig().run_id
    assert RunConfig.from_json(changed.to_json()) == changed
    with pytest.raises(ConfigError, match=r"`Transformer.attention_rate` must be in \[0, 1\]; got 1.5"):
        Transformer(attention_rate=1.5)
