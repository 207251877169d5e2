"""Interchange interventions on planted subspaces, against a slow version, and over the checkpoints of a run."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

import interp
from interp.analysis import interchange
from interp.analysis.interchange import das, interchange_intervention
from interp.analysis.patching import Site
from interp.config import FeedForward, Modular, Parity, Recurrent, Transformer
from interp.errors import InvalidArgumentError, NotAvailableError, UnknownNameError
from interp.models import Network, Sizes, build_model
from interp.tasks import build_task
from tests.guests.attention_only import AttentionOnly
from tests.planted import random

P, D = 11, 12
WAVE = 2 * math.pi * 3 / P * torch.arange(P)


class Planted(Network):
    """Network that adds on one circle: a plane of a hidden space carries a, another one b; the rest are distractors.

    With u, v the places of a and b on the circle, the logit of c is 10 Re(u v e^(-3 i 2 pi c/p)).
    """

    def __init__(self, trained=True, seed=0):
        super().__init__()
        self.turn = torch.linalg.qr(random(D, D, seed=seed)).Q.float()
        """Planes of a and b, and distractors, in the columns."""
        circle = torch.stack([WAVE.cos(), WAVE.sin()], dim=1)
        noise = random(P, (D - 4) // 2, seed=1).float()
        zero = torch.zeros(P, 2)
        first = torch.cat([circle, zero, noise, torch.zeros_like(noise)], dim=1)
        second = torch.cat([zero, circle, torch.zeros_like(noise), noise], dim=1)
        self.tables = nn.Parameter(torch.stack([first, second]) @ self.turn.T)
        scores = torch.zeros(D, D, P)
        scores[0, 2], scores[1, 3] = WAVE.cos(), -WAVE.cos()
        scores[0, 3] = scores[1, 2] = WAVE.sin()
        scores = 10 * torch.einsum("di,ej,ijc->dec", self.turn, self.turn, scores)
        self.scores = nn.Parameter(scores if trained else random(D, D, P, seed=2).float())
        self.operands, self.hidden = nn.Identity(), nn.Identity()

    def forward(self, tokens):
        operands = self.operands(torch.stack([table[column] for table, column in zip(self.tables, tokens.T)], dim=1))
        h = self.hidden(operands.sum(1))
        return torch.einsum("bd,be,dec->bc", h, h, self.scores)

    def plane(self, variable):
        return self.turn[:, {"first": [0, 1], "second": [2, 3], "answer": [0, 1, 2, 3]}[variable]]


@pytest.fixture(scope="module")
def task():
    return build_task(Modular(p=P, encoding="operands", train_fraction=0.5))


@pytest.fixture(scope="module")
def planted(task):
    network = Planted()
    assert (network(task.tokens).argmax(-1) == task.labels).all()
    return network


UNTRAINED, HIDDEN = Planted(trained=False), Site("hidden")


@pytest.mark.parametrize("variable", ["first", "second", "answer"])
def test_the_planted_plane_carries_its_variable(planted, task, variable):
    found = interchange_intervention(
        planted, task, HIDDEN, planted.plane(variable), variable=variable, untrained=UNTRAINED
    )
    assert found.accuracy == 1
    assert max(found.arbitrary_answers, found.random_subspace, found.untrained) < 0.35
    assert 1 / P < found.chance < 0.15


@pytest.mark.parametrize(("variable", "site"), [("first", HIDDEN), ("second", Site("operands", 1))])
def test_the_planted_plane_is_found(planted, task, variable, site):
    found = das(planted, task, site, variable=variable, dimension=2, untrained=UNTRAINED)
    assert found.accuracy == 1
    assert max(found.arbitrary_answers, found.random_subspace, found.untrained) < 0.35
    if site.name == "hidden":
        overlap = torch.linalg.svdvals(planted.plane(variable).T @ found.subspace)
        assert overlap.min() > 0.99  # the plane itself, not only directions that do


def test_the_search_begins_anew_in_the_untrained_network(planted, task):
    elsewhere = Planted(seed=5)  # the planes lie in other directions
    given = interchange_intervention(
        planted, task, HIDDEN, planted.plane("first"), variable="first", untrained=elsewhere
    )
    learned = das(planted, task, HIDDEN, variable="first", dimension=2, untrained=elsewhere)
    assert given.untrained < 0.6 < 0.85 < learned.untrained


def test_another_variable_or_too_much_is_told_apart(planted, task):
    def accuracy(subspace):
        return interchange_intervention(planted, task, HIDDEN, subspace, variable="first", untrained=UNTRAINED).accuracy

    assert accuracy(planted.plane("second")) < 0.15  # a + b' for a' + b
    assert accuracy(torch.eye(D)) < 0.15  # a' + b', the source's answer
    assert accuracy(planted.turn[:, [4, 5]]) == 0  # distractors: nothing happens
    assert accuracy(planted.plane("first") @ torch.tensor([[2.0, 1.0, 3.0], [0.0, 1.0, 5.0]])) == 1  # not independent


def test_equal_seeds_give_equal_bits_and_nothing_global_is_drawn(planted, task):
    state = torch.random.get_rng_state()
    one, two, other = (
        das(planted, task, HIDDEN, variable="first", dimension=3, untrained=UNTRAINED, updates=5, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    for field in dataclasses.fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(two, field.name))
    assert not torch.equal(one.subspace, other.subspace)
    assert all(parameter.grad is None for parameter in planted.parameters())


def test_held_out_pairs_share_no_input_with_those_learned_from(planted, task):
    swap = interchange._Swap(planted, task, HIDDEN, "first", seed=0)
    held_out = {*swap.held_out.base.tolist(), *swap.held_out.source.tolist()}
    assert len(held_out) > 50
    assert not held_out & set(swap.learning.tolist())
    assert (swap.held_out.due != task.labels[swap.held_out.base]).all()
    a, b = swap.held_out.source // P, swap.held_out.base % P
    assert torch.equal(swap.held_out.due, (a + b) % P)


NETWORKS = {
    "transformer": (Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=8), "direct", "hook_embed"),
    "mlp": (FeedForward(d_model=8, d_hidden=(16,)), "operands", "hook_embed"),
    "a user's": (AttentionOnly(d_model=8), "operands", "embed"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_exchanging_a_whole_embedding_exchanges_the_operand(name):
    config, encoding, site = NETWORKS[name]
    task = build_task(Modular(p=7, encoding=encoding, train_fraction=0.5))
    sizes = Sizes(task.d_vocab, task.n_ctx, task.d_vocab_out)
    network = build_model(config, *sizes, generator=torch.Generator().manual_seed(1))
    swap = interchange._Swap(network, task, Site(site, 0), "first", seed=0)
    found = swap.logits(swap.held_out, torch.eye(8))
    tokens = task.tokens[swap.held_out.base].clone()
    tokens[:, 0] = task.tokens[swap.held_out.source][:, 0]
    expected = network(tokens)
    torch.testing.assert_close(found, expected[:, -1] if expected.ndim == 3 else expected)


def test_mistakes_are_named(planted, task):
    def attempt(*, site=HIDDEN, examples=task, dimension=2):
        das(planted, examples, site, variable="first", dimension=dimension, untrained=UNTRAINED, updates=1)

    with pytest.raises(UnknownNameError, match=r"`site\.name` must be an activation of Planted; got 'hiden'.*`hidden`"):
        attempt(site=Site("hiden"))
    with pytest.raises(InvalidArgumentError, match=r"`site\.positions` must be one position of `operands`.*got 2"):
        attempt(site=Site("operands", 2))
    with pytest.raises(InvalidArgumentError, match="`site` must be a whole activation at one position"):
        attempt(site=Site("hidden", neurons=[0]))
    with pytest.raises(InvalidArgumentError, match="`dimension` must be at most 12, that of `hidden`; got 13"):
        attempt(dimension=13)
    with pytest.raises(NotAvailableError, match=r"pairs of operands.*these are words of 6 bits"):
        attempt(examples=build_task(Parity(n=6, k=2, samples=40)))
    with pytest.raises(InvalidArgumentError, match="`subspace` must have a row for each of 12 dimensions"):
        interchange_intervention(planted, task, HIDDEN, torch.eye(5), variable="first", untrained=UNTRAINED)
    with pytest.raises(InvalidArgumentError, match="`subspace` must span at least one direction"):
        interchange_intervention(planted, task, HIDDEN, torch.zeros(D, 2), variable="first", untrained=UNTRAINED)
    constant = dataclasses.replace(task, labels=torch.zeros_like(task.labels))
    with pytest.raises(NotAvailableError, match="no exchange of it changes the answer"):
        attempt(examples=constant)


def test_over_checkpoints(grokked_run):
    names = ["interchange_accuracy", "interchange_accuracy_answer"]
    data = interp.measure(grokked_run, names, steps=[0, 1600], cache=False)
    for name in names:
        before, after = data[name].values
        assert before < 0.2
        assert after > 0.9


@pytest.mark.parametrize("config", [Recurrent(d_model=4, d_hidden=8), AttentionOnly(d_model=8)])
def test_measures_ask_what_the_network_declares(config, toy_config, tmp_path):
    traj = interp.train(toy_config.replace({"model": config, "steps": 2}), root=tmp_path, device="cpu")
    for name, declaration in (
        ("interchange_accuracy", "embedded"),
        ("interchange_accuracy_answer", "hidden_activations"),
    ):
        if getattr(traj.network, declaration):
            assert 0 <= float(interp.measure(traj, [name], steps=[2])[name][0]) <= 1
        else:
            with pytest.raises(NotAvailableError, match=rf"`{name}` needs a model that tells .*Network\.{declaration}"):
                interp.measure(traj, [name], steps=[2])


@pytest.mark.parametrize(
    "config",
    [
        Transformer(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=8),
        Recurrent(d_model=4, d_hidden=8, n_layers=2),
        FeedForward(d_model=8, d_hidden=(16, 12)),
        FeedForward(d_model=8, d_hidden=(), combine="product"),
    ],
)
def test_hidden_activations_are_the_neurons(config):
    encoding = "operands" if isinstance(config, FeedForward) else "direct"
    task = build_task(Modular(p=5, encoding=encoding, train_fraction=0.5))
    sizes = Sizes(task.d_vocab, task.n_ctx, task.d_vocab_out)
    network = build_model(config, *sizes, generator=torch.Generator().manual_seed(1))
    _, cache = network.run_with_cache(task.tokens)
    found = cache[network.hidden_activations]
    neurons = network.answer(network.prepare(task.tokens)).neurons
    torch.testing.assert_close(found if found.ndim == 2 else found[:, -1], neurons)
    if network.pre_activations:
        torch.testing.assert_close(cache[network.pre_activations].relu(), found)
