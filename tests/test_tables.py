"""Tables of pairs: the network again, from one row per token; networks that have none say why."""

import numpy as np
import pytest
import torch

from interp.config import Decoder, FeedForward, Recurrent, Transformer
from interp.errors import NotAvailableError
from interp.models import build_model

P = 7
BIASES = {"attention_biases": "trainable", "mlp_biases": "trainable", "unembed_biases": "trainable", "init": "torch"}
SMALL = {"d_model": 12, "n_heads": 3, "d_head": 4, "d_mlp": 10}


def pairs():
    return torch.cartesian_prod(torch.arange(P), torch.arange(P))


def with_equals():
    return torch.cat([pairs(), torch.full((P * P, 1), P)], dim=1)


def infix():
    a, b = pairs().T
    return torch.stack([a, torch.full_like(a, 8), b, torch.full_like(a, 9), torch.full_like(a, 7)], dim=1)


def model_of(config, tokens):
    generator = torch.Generator().manual_seed(1)
    return build_model(config, int(tokens.max()) + 1, tokens.shape[1], P, generator=generator)


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (Transformer(**SMALL, attention_rate=0.3, **BIASES), with_equals()),
        (Transformer(**SMALL, activation="gelu"), with_equals()),
        (Transformer(**SMALL, attention_rate=0), with_equals()),
        (Transformer(**SMALL, attention_rate=0.4, **BIASES), infix()),
        (Transformer(**SMALL), infix()[:, [2, 0, 4]]),  # the second operand stands first
        (Transformer(**SMALL, attention="bidirectional", **BIASES), pairs()),  # the second operand attends
        (Transformer(**SMALL, attention_rate=0, activation="gelu"), pairs()),
        (Transformer(**SMALL, attention_rate=0.4, **BIASES), pairs()),
        (FeedForward(d_model=5, d_hidden=(9,)), pairs()),
        (FeedForward(d_model=5, d_hidden=(9,)), pairs().flip(1)),
        (FeedForward(d_model=5, d_hidden=(9,), embedding="separate", combine="sum", biases="absent"), pairs()),
        (FeedForward(d_hidden=(9,), embedding="one-hot", activation="gelu"), pairs()),
        (FeedForward(d_hidden=(9,), embedding="one-hot", combine="sum"), pairs()),
    ],
)
def test_tables_are_the_network(config, tokens):
    model = model_of(config, tokens)
    tables = model.pair_tables(tokens)
    expected = model.double()(tokens)[:, -1].detach().numpy()
    assert np.abs(tables.logits().reshape(P * P, P) - expected).max() < 1e-14
    hidden = model.run_with_cache(tokens)[1]["blocks.0.mlp.hook_pre"].detach().unflatten(0, (P, P))
    hidden = hidden[:, :, -1] if hidden.ndim == 4 else hidden
    assert np.abs(tables.pre_activations() - hidden.numpy()).max() < 1e-14


@pytest.mark.parametrize("config", [Transformer(**SMALL, **BIASES), Transformer(**SMALL, attention_rate=0.5)])
@pytest.mark.parametrize("tokens", [with_equals(), infix(), pairs()])
def test_rounding_of_the_tables_is_bounded(config, tokens):
    # the same sums in another order: with the stream's axes permuted
    model = model_of(config, tokens)
    tables, order = model.pair_tables(tokens), torch.randperm(12, generator=torch.Generator().manual_seed(3))
    along = {
        "W_E": 1,
        "W_pos": 1,
        "W_Q": 1,
        "W_K": 1,
        "W_V": 1,
        "W_O": 2,
        "b_O": 0,
        "W_in": 0,
        "W_out": 1,
        "b_out": 0,
        "W_U": 0,
    }
    state = {
        name: value.index_select(along[last], order) if (last := name.rsplit(".")[-1]) in along else value
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    again, differ = model.pair_tables(tokens), False
    for name in ("W_L", "constant", "first", "second", "bypass_constant", "bypass_first", "bypass_second"):
        error = np.abs(getattr(tables, name) - getattr(again, name)).max()
        differ |= error > 0
        assert error <= 2 * tables.rounding[name] < 1e-9
    scores = max(np.abs(x - y).max() for x, y in zip(tables.scores, again.scores) if x is not None)
    assert scores <= 2 * tables.rounding["scores"] < 1e-9
    assert differ


@pytest.mark.parametrize(
    ("config", "tokens", "reason"),
    [
        (Transformer(n_layers=2, **SMALL), with_equals(), "single layer; this transformer has 2"),
        (Transformer(**SMALL), with_equals()[:-1], "all pairs"),
        (Transformer(**SMALL), with_equals()[:, [2, 0, 1]], "last position that holds no operand"),
        (Transformer(**SMALL), pairs().flip(1), "stand at positions 1 and 0 of 0..1"),
        (FeedForward(d_hidden=(4, 4)), pairs(), "one hidden layer; this MLP has 2"),
        (FeedForward(combine="product"), pairs(), "multiplies"),
        (FeedForward(embedding="scalars"), pairs(), "numbers"),
        (Recurrent(d_model=4, d_hidden=4), with_equals(), "RecurrentNetwork"),
        (Decoder(d_model=8, d_mlp=8), with_equals(), "DecoderNetwork"),
    ],
)
def test_networks_without_tables_say_why(config, tokens, reason):
    with pytest.raises(NotAvailableError, match=reason):
        model_of(config, tokens).pair_tables(tokens)
