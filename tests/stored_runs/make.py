"""How the stored runs were made: a record, which no test runs and which overwrites nothing.

    python -m tests.stored_runs.make

It wrote the folders and files beside it, with the code of its own commit:

    runs/<run id>/          a run of each kind
    runs/<run id>/replay/   a replay of a stretch, in the first one
    runs/<run id>/measures/ some cached measures, in the first one
    demo.pt                 checkpoints in the layout of HookedTransformer, from which one run is imported
    expected/<name>.json    what was read, trained and measured then
    expected.json           the environment, the folder of each name, and the changes that recipes are replaced with
    expected_recipes.json   each recipe, what becomes of it by these changes, and its weights after a few steps

Runs are trained on the CPU with one thread. Stored runs stay as they are: what changes is code.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import interp
from interp.config import (
    SGD,
    Adam,
    AdamW,
    Decoder,
    FeedForward,
    Gaussian,
    Group,
    Interventions,
    Logistic,
    Modular,
    Muon,
    Parity,
    Recurrent,
    RunConfig,
    Sums,
    Symbolic,
    Transformer,
)
from tests.stored_runs.digests import about, environment, measures, sha256, trained

HERE = Path(__file__).parent
PLACE = {"device": "cpu", "threads": 1}
NARROW = {"d_model": 4, "n_heads": 2, "d_head": 2, "d_mlp": 4}
CACHED = ("weight_norm", "test_loss", "embedding_power", "update_norm_by_parameter", "excluded_loss_2d")
RECIPE_STEPS = 3
REPLACED = (
    {"seed": 3, "steps": 77},
    {
        "save.weights": "log(5) | steps(3, 70)",
        "optimizer.anneal_steps": 50,
        "interventions.update_noise": 0.01,
        "events": (
            "step 5: optimizer.lr=0.25",
            "epoch 2: interventions.grokfast=ema",
            "test_accuracy>=0.9: optimizer.weight_decay=0",
        ),
    },
)


def config(task, model, optimizer, steps, **changes):
    """A config with few checkpoints; `changes` may name `save.weights` as `weights`, and so on."""
    often = {"weights": f"steps({steps // 2})", "state": f"steps({steps})"} | changes
    paths = {"weights": "save.weights", "state": "save.state", "train": "log.train", "test": "log.test"}
    return RunConfig(task=task, model=model, optimizer=optimizer, steps=steps).replace(
        {paths.get(name, name): value for name, value in often.items()}
    )


CONFIGS = {
    "transformer": config(
        Modular(p=7, train_fraction=0.6, split="python-shuffle", outputs="tokens"),
        Transformer(d_model=6, n_heads=2, d_head=3, d_mlp=8, mlp_biases="trainable", init="nanda"),
        AdamW(lr=1e-2, betas=(0.9, 0.98), warmup_steps=2),
        12, weights="every(1, until=2) | every(6)", state="steps(6)", test="every(3)", seed=4,
    ),
    "transformer-two-layers": config(
        Modular(p=5, operation="multiply", train_fraction=0.6, encoding="operands", seed=1),
        Transformer(
            **NARROW, n_layers=2, activation="gelu", attention="bidirectional", attention_rate=0.5,
            attention_biases="trainable", unembed_biases="frozen", init="torch",
        ),
        Muon(weight_decay=0.1),
        8, events=("step 3: optimizer.momentum=0.5", "train_loss<=9: optimizer.lr=0.01"),
    ),
    "transformer-norm": config(
        Modular(p=5, train_fraction=0.6, split="numpy-shuffle", seed=42, outputs="tokens"),
        Transformer(
            d_model=4, n_heads=2, d_head=3, d_mlp=6,
            attention_biases="frozen", mlp_biases="frozen", unembed_biases="trainable",
        ),
        AdamW(weight_decay=0.0, loss_precision="float32"),
        8, weights="dense(6000)", seed=13, interventions=Interventions(norm=0.8),
    ),
    "transformer-group": config(
        Group(family="alternating", n=4, operation="conjugate", train_fraction=0.7),
        Transformer(**NARROW),
        AdamW(decay="to_init", lr=5e-3),
        6, weights="every(3)",
    ),
    "decoder": config(
        Symbolic(p=5, train_fraction=0.6, noisy_answers=2, closing=True),
        Decoder(d_model=2, n_heads=1, d_mlp=2),
        AdamW(batch_size=4, warmup_steps=2, anneal_steps=5),
        6, interventions=Interventions(weight_noise=0.01),
    ),
    "decoder-permutations": config(
        Symbolic(p=3, operation="aba", train_fraction=0.01, split="torch-randperm"),
        Decoder(n_layers=1, d_model=2, n_heads=1, d_mlp=3, activation="gelu"),
        SGD(batch_size=16),
        4, weights="steps(4)",
    ),
    "mlp": config(
        Modular(p=7, operation="x2+xy+y2", train_fraction=0.6, seed=2, encoding="operands"),
        FeedForward(d_model=4, d_hidden=(6,), init_stream="split"),
        AdamW(lr=3e-2, weight_decay=3e-2, loss_precision="float32"),
        12, interventions=Interventions(grokfast="ma", grokfast_window=2, grokfast_lambda=5.0),
    ),
    "mlp-sum-separate": config(
        Group(family="dihedral", n=3, operation="aba", train_fraction=0.6, encoding="operands"),
        FeedForward(embedding="separate", combine="sum", d_model=5, d_hidden=(6,), biases="frozen", init="tl"),
        SGD(momentum=0.9, weight_decay=1e-3),
        10, interventions=Interventions(update_noise=0.01), events=("epoch 4: interventions.update_noise=0",),
    ),
    "mlp-group": config(
        Group(family="symmetric", n=3, train_fraction=0.6, seed=2, encoding="operands"),
        FeedForward(embedding="separate", d_model=4, d_hidden=(5,), biases="absent", init="fan-in"),
        AdamW(lr=1e-2, decay="jiggle"),
        10, weights="log(4)",
    ),
    "bilinear": config(
        Group(family="cyclic", n=5, train_fraction=0.6, encoding="operands"),
        FeedForward(combine="product", d_model=6, d_hidden=(), biases="absent", init="nanda"),
        Adam(lr=1e-2, weight_decay=1e-3),
        10,
    ),
    "mlp-one-hot": config(
        Modular(p=5, operation="divide", train_fraction=0.6, seed=42, encoding="operands"),
        FeedForward(embedding="one-hot", d_hidden=(6, 5), biases="absent"),
        AdamW(lr=1e-2, weight_decay=0.0, loss="stablemax", eps=1e-25),
        10, interventions=Interventions(orthogonal_gradient=True),
    ),
    "mlp-numbers": config(
        Modular(p=7, operation="subtract", train_fraction=0.5),
        FeedForward(embedding="scalars", d_hidden=(6,), activation="gelu"),
        Adam(lr=1e-2),
        10, interventions=Interventions(grokfast="ema"),
    ),
    "mlp-parity": config(
        Parity(n=6, k=2, samples=40, seed=42),
        FeedForward(embedding="scalars", scalars="raw", d_hidden=(6, 5)),
        AdamW(lr=1e-2, weight_decay=0.01, batch_size=5),
        10, train="every(2)", test="log(3)",
    ),
    "mlp-codes": config(
        Sums(p=5, train_fraction=0.7, seed=58, codes=3),
        FeedForward(d_model=1, combine="sum", d_hidden=(5, 4)),
        AdamW(lr=1e-2, weight_decay=0.0),
        10,
    ),
    "rnn-sums": config(
        Sums(p=5, order="ordered", train_fraction=0.6, split="torch-randperm", encoding="direct"),
        Recurrent(cell="rnn", d_model=4, d_hidden=5, n_layers=2, nonlinearity="relu"),
        SGD(lr=0.05),
        8,
    ),
    "rnn-numbers": config(
        Modular(p=5, operation="2x2y+3y", train_fraction=0.6),
        Recurrent(cell="rnn", embedding="scalars", scalars="raw", d_hidden=5),
        AdamW(lr=1e-2),
        8,
    ),
    "lstm": config(
        Modular(p=5, operation="add_multiply", train_fraction=0.7, encoding="sentence"),
        Recurrent(d_model=4, d_hidden=4, dropout=0.2, init_scale=5.0),
        AdamW(weight_decay=0.01, batch_size=4),
        9, weights="every(4)", events=("epoch 1: optimizer.lr=0.002, optimizer.weight_decay=0",),
    ),
    "logistic": config(
        Gaussian(n=12, d=5, sigma=1.5), Logistic(), SGD(lr=0.05, loss="exponential"), 20, weights="log(4)"
    ),
    "logistic-adam": config(
        Gaussian(n=9, d=6, sigma=1.0, seed=3),
        Logistic(initial_norm=0.5, initial_bias=0.1),
        Adam(lr=0.01, betas=(0.8, 0.9), eps=1e-16),
        20, weights="log(4)",
    ),
}  # fmt: skip
"""Runs that are trained alone, to their last step."""

_MEMBER = config(
    Modular(p=5, train_fraction=0.6, encoding="operands"),
    FeedForward(d_model=4, d_hidden=(5,)),
    AdamW(lr=1e-2),
    10,
)
MEMBERS = {
    "ensemble-first": _MEMBER,
    "ensemble-second": _MEMBER.replace({"seed": 1, "optimizer.lr": 2e-2, "task.train_fraction": 0.7}),
}
"""Runs that are trained together."""
UNFINISHED = config(
    Modular(p=5, train_fraction=0.6, seed=5),
    Transformer(**NARROW, mlp_biases="trainable"),
    AdamW(lr=1e-2, batch_size=4),
    16, weights="every(4)", state="steps(6)", interventions=Interventions(grokfast="ema"),
    events=("step 5: optimizer.lr=0.02", "step 14: optimizer.weight_decay=0"),
)  # fmt: skip
STOPPED_AT = 10
DIVERGED = config(
    Modular(p=5, train_fraction=0.6, encoding="operands"), FeedForward(d_model=3, d_hidden=(4,)), SGD(lr=1e30), 8,
    weights="every(1)",
)  # fmt: skip
DEMO = config(
    Modular(p=5, train_fraction=0.6, seed=598),
    Transformer(**NARROW, attention_biases="frozen", mlp_biases="trainable", unembed_biases="frozen"),
    AdamW(lr=1e-2),
    40, weights="every(20)", test="every(1)",
)  # fmt: skip
"""A run whose checkpoints are written in the layout of the Grokking demo and imported."""


def interrupted(config, root, step):
    """Train until `step` and stop there as by SIGTERM, which stores the full state."""
    made = 0

    def count(*_):
        nonlocal made
        made += 1
        if made == step:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = register_optimizer_step_post_hook(count)
    try:
        interp.train(config, root=root, **PLACE)
    except KeyboardInterrupt:
        return interp.load(root / config.run_id)
    finally:
        hook.remove()
    raise SystemExit("The run should have been interrupted.")


def demo_file(path, traj):
    """The checkpoints of a run as TransformerLens's Grokking demo saves them: epoch e is written after update e + 1."""
    n_train = int(traj.task.train.sum())
    order = torch.cat([traj.task.train.nonzero()[:, 0], traj.task.test.nonzero()[:, 0]])
    metrics = traj.metrics
    steps = traj.steps.tolist()[1:]
    torch.save(
        {
            "model": traj.state(steps[-1]),
            "checkpoints": [traj.state(step) for step in steps],
            "checkpoint_epochs": [step - 1 for step in steps],
            "train_losses": metrics.train_loss.values[:-1].tolist(),
            "test_losses": metrics.test_loss.values[1:].tolist(),
            "train_indices": order[:n_train],
            "test_indices": order[n_train:],
        },
        path,
    )


def make():
    """Train, replay, import, interrupt; then write down what came of it."""
    torch.set_num_threads(1)
    root = HERE / "runs"
    if root.exists() or (HERE / "expected.json").exists():
        sys.exit("The stored runs are there already, and are never written again.")
    runs = {name: interp.train(config, root=root, **PLACE) for name, config in CONFIGS.items()}
    runs |= dict(zip(MEMBERS, interp.train_many(list(MEMBERS.values()), root=root, **PLACE)))
    runs["replay"] = interp.replay(runs["transformer"], 7, 11, 2, **PLACE)
    runs["unfinished"] = interrupted(UNFINISHED, root, STOPPED_AT)
    try:
        interp.train(DIVERGED, root=root, **PLACE)
    except interp.InterpError as error:
        print(error)
    runs["diverged"] = interp.load(root / DIVERGED.run_id)
    with tempfile.TemporaryDirectory() as folder:
        demo_file(HERE / "demo.pt", interp.train(DEMO, root=folder, **PLACE))
        whole = trained(interp.train(UNFINISHED, root=folder, **PLACE))
    runs["imported"] = interp.import_checkpoints(HERE / "demo.pt", root)
    interp.measure(runs["transformer"], CACHED)

    (HERE / "expected").mkdir()
    for name, traj in runs.items():
        said = {**about(traj), "last": trained(traj), **measures(traj)}
        if name == "unfinished":
            said["whole"] = whole
        write(HERE / "expected" / f"{name}.json", said)
    folders = {name: traj.folder.relative_to(root).as_posix() for name, traj in runs.items()}
    write(HERE / "expected.json", {"environment": environment(), "runs": folders, "replaced": REPLACED})
    write(HERE / "expected_recipes.json", recipes())


def recipes():
    """Each recipe's identity, before and after changes, and its weights after a few steps."""
    said = {}
    for name in interp.recipes.RECIPES:
        config = interp.recipes.get(name)
        changed = [config.replace(changes) for changes in REPLACED]
        with tempfile.TemporaryDirectory() as folder:
            traj = interp.train(config.replace({"steps": RECIPE_STEPS}), root=folder, **PLACE)
            said[name] = {
                "run_id": config.run_id,
                "config": config.to_json(),
                "replaced": [{"run_id": other.run_id, "config": sha256(other.to_json())} for other in changed],
                "trained": trained(traj),
            }
    return said


def write(path, said):
    """JSON with a line for each entry of the two outer levels, so that a difference shows."""

    def text(value, depth):
        if depth == 0 or not isinstance(value, dict) or not value:
            return json.dumps(value, allow_nan=False, separators=(",", ":"))
        return "{\n" + ",\n".join(f"{json.dumps(key)}: {text(item, depth - 1)}" for key, item in value.items()) + "\n}"

    path.write_text(text(said, 2) + "\n")


if __name__ == "__main__":
    make()
