"""Activations changed on the way through a plain pass: the pass goes on with them, in every architecture."""

import pytest
import torch
from torch import nn

from interp.config import Decoder, FeedForward, Logistic, Recurrent, Transformer
from interp.errors import InvalidArgumentError, NotAvailableError, UnknownNameError
from interp.models import Activations, Network, build_model
from tests.guests.attention_only import AttentionOnly

P = 7
MODELS = {
    "transformer": Transformer(d_model=12, n_heads=2, d_head=4, d_mlp=16, attention_biases="trainable"),
    "two layers": Transformer(d_model=12, n_heads=3, d_head=4, d_mlp=16, n_layers=2, attention="bidirectional"),
    "decoder": Decoder(d_model=12, n_heads=2, d_mlp=16),
    "mlp": FeedForward(d_model=6, d_hidden=(10, 8)),
    "bilinear": FeedForward(d_model=6, embedding="separate", combine="product", d_hidden=()),
    "one-hot": FeedForward(embedding="one-hot", d_hidden=(10,)),
    "lstm": Recurrent(d_model=6, d_hidden=8, n_layers=2),
    "rnn": Recurrent(cell="rnn", embedding="scalars", d_hidden=8),
    "logistic": Logistic(initial_norm=1.0),
    "a user's": AttentionOnly(d_model=8),
}


def network_of(name: str) -> tuple[Network, torch.Tensor, torch.Tensor]:
    """A network in float64, and two batches of inputs."""
    config, generator = MODELS[name], torch.Generator().manual_seed(3)
    if name == "logistic":
        model = build_model(config, 0, 4, 1, generator=generator)
        return model.double(), *torch.randn(2, 5, 4, generator=generator)
    pos = 2 if isinstance(config, FeedForward) else 3
    model = build_model(config, P + 1, pos, P, generator=generator)
    base, source = torch.randint(P, (2, 9, 3), generator=generator)
    base[:, 2] = source[:, 2] = P
    return model.double(), base[:, :pos], source[:, :pos]


@pytest.mark.parametrize("name", MODELS)
def test_an_activation_put_in_its_own_place_changes_no_bit(name):
    model, base, _ = network_of(name)
    logits, cache = model.run_with_cache(base)
    assert torch.equal(logits, model(base))
    for site, own in cache.items():
        found, seen = model.run_with_changes(base, {site: lambda x, own=own: own})
        assert torch.equal(found, logits), site
        assert list(seen) == list(cache)


@pytest.mark.parametrize("name", MODELS)
def test_everything_behind_a_changed_activation_follows_it(name):
    """All activations of another input give its logits; the last stream alone does, too."""
    model, base, source = network_of(name)
    wanted, cache = model.run_with_cache(source)
    everything = {site: (lambda x, values=values: values) for site, values in cache.items()}
    assert torch.equal(model.run_with_changes(base, everything)[0], wanted)
    last = list(cache)[-1]
    found, seen = model.run_with_changes(base, {last: lambda x: cache[last]})
    assert torch.equal(seen[last], cache[last])
    assert not torch.equal(found, model(base))
    if name != "a user's":  # whose layers have a way around them
        assert torch.equal(found, wanted)


def test_a_state_is_changed_before_the_recurrence_goes_on():
    model, base, source = network_of("lstm")
    h, c = "blocks.0.rnn.hook_h", "blocks.0.rnn.hook_c"
    cache = model.run_with_cache(source)[1]

    def first(name):
        return lambda x: torch.cat([cache[name][:, :1], x[:, 1:]], dim=1)

    found, seen = model.run_with_changes(base, {h: first(h), c: first(c)})
    mixed = torch.cat([source[:, :1], base[:, 1:]], dim=1)  # an LSTM knows of the first token by h and c alone
    torch.testing.assert_close(found[:, 1:], model(mixed)[:, 1:], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found[:, 1:], model(base)[:, 1:])
    assert torch.equal(seen[h][:, 0], cache[h][:, 0])


def test_a_change_may_write_over_what_it_gets():
    model, base, _ = network_of("transformer")
    weights = {name: W.clone() for name, W in model.state_dict().items()}
    with torch.no_grad():
        logits = model.run_with_changes(base, {"hook_pos_embed": lambda x: x.zero_()})[0]
    assert all(torch.equal(W, weights[name]) for name, W in model.state_dict().items())
    model.pos_embed.W_pos.data.zero_()
    torch.testing.assert_close(logits, model(base))


def test_names_and_shapes_are_checked():
    model, base, _ = network_of("transformer")
    with pytest.raises(UnknownNameError, match=r"no activation `blocks.0.hook_z` in TransformerNetwork. Did you mean"):
        model.run_with_changes(base, {"blocks.0.hook_z": lambda x: x})
    with pytest.raises(
        InvalidArgumentError, match=r"`hook_embed` must return the shape \[9, 3, 12\]; got shape \[3, 9"
    ):
        model.run_with_changes(base, {"hook_embed": lambda x: x.transpose(0, 1)})
    with pytest.raises(InvalidArgumentError, match="got a NoneType"):
        model.run_with_changes(base, {"hook_embed": lambda x: None})


class Twice(Network):
    """A network whose layer is used twice."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(P, 4)
        self.layer = nn.Linear(4, 4)

    def forward(self, tokens):
        return self.layer(self.layer(self.embed(tokens).sum(1)).relu())


class Named(Twice):
    """Network with a name for each use of its activation."""

    def plain_pass(self, tokens, activations: Activations):
        x = activations.keep("first", self.layer(self.embed(tokens).sum(1)))
        return activations.keep("second", self.layer(x.relu()))

    def forward(self, tokens):
        return self.plain_pass(tokens, Activations())


def test_a_layer_that_is_used_twice_needs_two_names():
    tokens = torch.tensor([[1, 2], [3, 4]])
    with pytest.raises(NotAvailableError, match="`layer` is computed more than once in a pass"):
        Twice().run_with_changes(tokens, {"layer": lambda x: x})
    assert list(Twice().run_with_cache(tokens)[1]) == ["embed", "layer"]
    model = Named()
    found = model.run_with_changes(tokens, {"first": torch.zeros_like})[0]
    assert torch.equal(found[0], model.layer.bias)


def test_hooks_are_gone_after_an_error():
    model, base, _ = network_of("a user's")

    def fail(x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model.run_with_changes(base, {"layers.0": fail})
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", MODELS)
def test_networks_keep_what_they_declare_of_activations(name):
    model, base, _ = network_of(name)
    cache, weights = model.run_with_cache(base)[1], dict(model.named_parameters())
    for site, x in cache.items():
        axes = model.activation_axes_of(site, x.ndim)
        assert len(axes) == x.ndim - 1, site
        assert "pos" not in axes or x.shape[1 + axes.index("pos")] == base.shape[1], site
    for branch in model.branches:
        assert set(branch) <= cache.keys()
    for site, (matrix, _) in model.readers.items():
        parts = [
            n
            for axis, n in zip(model.activation_axes_of(site, cache[site].ndim), cache[site].shape[1:])
            if axis != "pos"
        ]
        assert list(weights[matrix].shape[: len(parts)]) == parts, site
