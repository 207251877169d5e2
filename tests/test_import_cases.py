"""Checkpoints as people have them, one small file or folder for each kind of report, and what importing makes of it."""

import argparse
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from interp.cli import main
from interp.errors import ConfigError, ForeignFormatError
from interp.importers import import_checkpoints
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


# --- steps that nobody knows ------------------------------------------------------------------------------------------


def test_steps_that_are_not_known_can_be_given(tmp_path, capsys):
    models = networks(4)
    torch.save([hooked(model) for model in models], tmp_path / "m.pth")
    traj = import_checkpoints(tmp_path / "m.pth", root=tmp_path)
    assert traj.steps.tolist() == [0, 1, 2, 3]
    assert traj.run["import"]["counts"] == "checkpoints"
    assert any(line.startswith("steps: not known") for line in traj.run["import"]["assumed"])
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
