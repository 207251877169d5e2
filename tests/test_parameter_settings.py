"""Weight decay and learning rates of single parameters: torch's own groups, in every optimiser, bit for bit again."""

import re

import numpy as np
import pytest
import torch

import interp
from interp.config import SGD, Adam, AdamW, Muon, RunConfig
from interp.errors import ConfigError
from interp.optim import build_optimizer, set_learning_rate
from interp.training.api import RunInterrupted
from interp.training.ensemble import shape_of
from tests.observers import Interrupts

RULES = ("embed.*: weight_decay=0 lr_factor=0.5", "*.W_U: weight_decay=0.25", "blocks.0.mlp.*: lr_factor=2")


def weights(traj, step):
    return {name: traj.param(name).sel(step) for name in traj.names}


def test_equal_settings_have_equal_json_and_runs_without_keep_their_names():
    one = RunConfig().replace({"optimizer.parameters": ["embed.* :lr_factor=0.5,  weight_decay=0"]})
    assert one.optimizer.parameters == ("embed.*: weight_decay=0.0 lr_factor=0.5",)
    assert RunConfig.from_json(one.to_json()) == one
    assert "parameters" not in RunConfig().to_dict()["optimizer"]


@pytest.mark.parametrize("kind", [AdamW, Adam, SGD])
def test_the_groups_are_torchs_own(toy_config, tmp_path, kind):
    """The oracle is torch's unfused optimiser with a group for each parameter, on the plain forward."""
    optimizer = kind(lr=1e-2, weight_decay=0.5, parameters=RULES, warmup_steps=3)
    config = toy_config.replace({"optimizer": optimizer, "steps": 10, "save.weights": "every(1)"})
    traj = interp.train(config, root=tmp_path, device="cpu")
    task, model = traj.task, traj.model(0).train()
    groups = []
    for name, W in model.named_parameters():
        decay, factor = 0.5, 1.0
        if name.startswith("embed."):
            decay, factor = 0.0, 0.5
        if name == "unembed.W_U":
            decay = 0.25
        if name.startswith("blocks.0.mlp."):
            factor = 2.0
        groups.append({"params": [W], "weight_decay": decay, "factor": factor})
    plain = getattr(torch.optim, kind.__name__)(groups, lr=1e-2, fused=False, foreach=False)
    for step in range(10):
        for group in plain.param_groups:
            group["lr"] = 1e-2 * min(step / 3, 1) * group["factor"]
        logits = model(task.tokens[task.train])[:, -1]
        plain.zero_grad()
        torch.nn.functional.cross_entropy(logits.double(), task.labels[task.train]).backward()
        plain.step()
    for name, value in model.state_dict().items():
        assert torch.allclose(traj.state(10)[name], value, atol=1e-5), name


def test_muon_scales_both_of_its_parts():
    """One update of a parameter is proportional to its factor, of the matrices and of AdamW's part alike."""
    W = {name: torch.nn.Parameter(torch.ones(4, 4)) for name in ("blocks.0.W", "blocks.1.W", "embed.W", "unembed.W")}
    config = Muon(lr=0.1, adam_lr=0.01, parameters=("blocks.1.W: lr_factor=0.5", "embed.W: lr_factor=3"))
    muon = build_optimizer(config, W.items(), muon_turns=lambda name, ndim: name.startswith("blocks"))
    set_learning_rate(muon, 0.1)
    for parameter in W.values():
        parameter.grad = torch.eye(4)
    muon.step()
    change = {name: float((1 - parameter).diagonal().mean().detach()) for name, parameter in W.items()}
    assert change["blocks.1.W"] == pytest.approx(change["blocks.0.W"] / 2, rel=1e-4)
    assert change["embed.W"] == pytest.approx(3 * change["unembed.W"], rel=1e-4)
    assert change["blocks.0.W"] > 5 * change["unembed.W"] > 0


@pytest.mark.parametrize("optimizer", [AdamW(), SGD(momentum=0.9), Muon()], ids=["AdamW", "SGD", "Muon"])
def test_settings_that_say_what_is_so_anyway_change_no_bit(toy_config, tmp_path, optimizer):
    config = toy_config.replace({"optimizer": optimizer, "steps": 16})
    plain = interp.train(config, root=tmp_path, device="cpu")
    same = (f"embed.*: weight_decay={optimizer.weight_decay}", "*: lr_factor=1")
    set_so = interp.train(config.replace({"optimizer.parameters": same}), root=tmp_path, device="cpu")
    assert set_so.fingerprints() == plain.fingerprints()
    many = interp.train(
        config.replace({"optimizer.parameters": ("*.W_U: lr_factor=1.0000000001",)}), root=tmp_path, device="cpu"
    )  # in groups of their own
    for name, value in weights(plain, 16).items():
        assert np.allclose(value, weights(many, 16)[name], atol=1e-5), name


@pytest.mark.parametrize("optimizer", [AdamW(), SGD(momentum=0.9), Muon()], ids=["AdamW", "SGD", "Muon"])
def test_resumed_replayed_and_branched_they_are_the_same(toy_config, tmp_path, optimizer):
    change = {
        "optimizer": optimizer.replace({"parameters": RULES}),
        "interventions.update_noise": 0.01,
        "events": ('step 9: optimizer.parameters=["embed.*: lr_factor=0.25", "blocks.*: weight_decay=0"]',),
    }
    config = toy_config.replace({"save.weights": "every(1)", "steps": 20, **change})
    traj = interp.train(config, root=tmp_path, device="cpu")
    for at in (5, 14):
        with pytest.raises(RunInterrupted):
            interp.train(config, root=tmp_path / str(at), device="cpu", observers=[Interrupts(at)])
        assert interp.resume(tmp_path / str(at) / config.run_id).fingerprints() == traj.fingerprints()
    assert interp.branch(traj, 12).fingerprints() == traj.fingerprints()[12:]
    assert interp.replay(traj, 3, 18).run["replay"]["proven"] == list(range(3, 19))


@pytest.mark.parametrize("optimizer", [AdamW(), SGD(momentum=0.9), Muon()], ids=["AdamW", "SGD", "Muon"])
def test_members_of_an_ensemble_may_differ_in_them(toy_config, tmp_path, optimizer):
    base = toy_config.replace({"optimizer": optimizer, "steps": 12})
    configs = [base, base.replace({"optimizer.parameters": RULES}), base.replace({"optimizer.parameters": RULES[1:]})]
    assert len({shape_of(config) for config in configs}) == 1
    together = interp.train_many(configs, root=tmp_path / "together", device="cpu")
    for traj in together:
        alone = interp.train(traj.config, root=tmp_path / "alone", device="cpu")
        for name, value in weights(traj, 12).items():
            assert np.allclose(value, weights(alone, 12)[name], atol=2e-5), name
    assert len({traj.fingerprints()[-1] for traj in together}) == 3


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (("embed.*",), "`optimizer.parameters` must be settings such as `embed.*: weight_decay=0 lr_factor=0.1`"),
        (("embed.*: lr=1",), "numbers >= 0; got `embed.*: lr=1`"),
        (("embed.*: lr_factor=-1",), "numbers >= 0; got `embed.*: lr_factor=-1`"),
        (("embed.*: lr_factor=1 lr_factor=2",), "numbers >= 0; got"),
        ((": lr_factor=1",), "numbers >= 0; got"),
        (("embedd.*: lr_factor=1",), "`embedd.*` must match the name of a trained parameter, and matches none of "),
    ],
)
def test_settings_that_mean_nothing(toy_config, tmp_path, rules, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        interp.train(toy_config.replace({"optimizer.parameters": rules}), root=tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


def test_other_forms_of_decay_act_on_all_parameters_alike():
    with pytest.raises(ConfigError, match="must be empty where `decay` is jiggle"):
        AdamW(decay="jiggle", parameters=RULES)
