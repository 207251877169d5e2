"""TransformerLens's networks, recorded: their names come by themselves."""

import numpy as np
import torch
from torch.nn import functional as F

import interp
from interp.config import Transformer
from interp.models.lens import to_bridge
from interp.models.transformer import TransformerNetwork
from tests.recorded import sums

P = 7
NEURONS = "blocks.0._original_component.mlp._original_component.fc_out:input"


def task():
    pairs, answers, train = sums(P)
    tokens = torch.cat([pairs, torch.full((P * P, 1), P)], 1)
    return interp.tasks.table(tokens, answers, train=train, answers_are="residues", p=P)


def bridge():
    config = Transformer(d_model=16, n_heads=2, d_head=8, d_mlp=24)
    return to_bridge(TransformerNetwork(config, P + 1, 3, P, torch.Generator().manual_seed(0)))


def trained(model, steps, rec=None):
    examples = task()
    optimizer = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], lr=1e-2)
    for _ in range(steps):
        loss = F.cross_entropy(model(examples.tokens[examples.train])[:, -1], examples.labels[examples.train])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rec is not None:
            rec.step(train_loss=loss)


def test_bridge_is_recorded_under_the_names_of_hooked_transformer(tmp_path):
    plain, model = bridge(), bridge()
    trained(plain, 4)
    with interp.record(tmp_path / "mine", model, save="every(2)", task=task(), neurons=NEURONS) as rec:
        trained(model, 4, rec)
    ours, theirs = model.state_dict(), plain.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    traj = rec.trajectory
    assert traj.verify().ok
    assert {"embed.W_E", "pos_embed.W_pos", "blocks.0.mlp.W_in", "blocks.0.mlp.b_out", "unembed.W_U"} <= set(traj.names)
    assert not [name for name in traj.names if "_original_component" in name]
    state = traj.state()
    assert torch.equal(state["embed.W_E"], ours["embed.weight"])
    assert torch.equal(state["blocks.0.mlp.W_in"], ours["blocks.0.mlp.in.weight"].T)
    assert torch.equal(state["blocks.0.attn.q.weight"], ours["blocks.0.attn.q.weight"])
    assert torch.equal(state["unembed.W_U"], ours["unembed.weight"].T)
    found = interp.measure(traj, ["train_loss", "embedding_power", "neuron_frequency_share", "neuron_logit_power"])
    np.testing.assert_allclose(traj.metrics.train_loss.values[[0, 2]], found.train_loss.values[:2], rtol=1e-5)
    opened = interp.load(tmp_path / "mine", model=bridge())
    with torch.no_grad():
        torch.testing.assert_close(opened.model()(traj.task.tokens), model(traj.task.tokens))


def test_names_of_the_user_go_before_those_of_the_bridge(tmp_path):
    own = {"unembed._original_component.weight": "head"}
    with interp.record(tmp_path / "mine", bridge(), names=own) as rec:
        rec.step()
    assert {"head", "embed.W_E"} <= set(rec.trajectory.names)


def test_parameters_named_as_in_hooked_transformer_need_no_names(tmp_path):
    """A HookedTransformer's names and shapes, its mask and IGNORE among the buffers."""
    config = Transformer(d_model=16, n_heads=2, d_head=8, d_mlp=24)
    model = TransformerNetwork(config, P + 1, 3, P, torch.Generator().manual_seed(0))
    model.blocks[0].attn.register_buffer("mask", torch.ones(3, 3).tril().bool())
    model.blocks[0].attn.register_buffer("IGNORE", torch.tensor(-torch.inf))
    with interp.record(tmp_path / "mine", model, task=task()) as rec:
        trained(model, 2, rec)
    traj = rec.trajectory
    assert traj.complete
    assert set(traj.names) == {name for name, _ in model.named_parameters()}
    assert traj.network.read_out == "unembed.W_U"
    assert traj.network.embeddings == ("embed.W_E",)
    assert interp.measure(traj, ["test_loss", "embedding_power"]).embedding_power.shape[0] == len(traj.steps)
