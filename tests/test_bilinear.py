"""MLPs without an embedding of their own, and the bilinear model; what all MLPs share is in test_models."""

import math

import pytest
import torch
from torch import nn

from interp.config import FeedForward, Modular, RunConfig
from interp.errors import ConfigError
from interp.models import Network, build_model

P = 7
BILINEAR = {"combine": "product", "d_hidden": (), "d_model": 5}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices are tiny here: threads would only wait for each other."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def pairs_of(p: int = P) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).unbind(1)
    return a, b


def model_of(config: FeedForward, *, direct: bool = False, seed: int = 0) -> Network:
    generator = torch.Generator().manual_seed(seed)
    return build_model(config, P + direct, 2 + direct, P, generator=generator).double()


# --- the bilinear model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedding", ["shared", "separate"])
@pytest.mark.parametrize("biases", ["absent", "trainable"])
def test_logits_are_a_sum_over_products(embedding, biases):
    model, (a, b) = model_of(FeedForward(**BILINEAR, embedding=embedding, biases=biases)), pairs_of()
    W_x = model.embed.W_E
    W_y = model.embed_b.W_E if embedding == "separate" else W_x
    expected = torch.einsum("xd,yd,dc->xyc", W_x, W_y, model.unembed.W_U).reshape(P * P, P)
    if biases == "trainable":
        expected = expected + model.unembed.b_U
    tokens = torch.stack([a, b], dim=1)
    answer = model.answer(model.prepare(tokens))
    for logits in (model(tokens)[:, -1], answer.logits, model.answer_logits(model.prepare(tokens))):
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(answer.neurons, W_x[a] * W_y[b], rtol=1e-14, atol=0)
    decomposed = answer.neurons @ answer.neuron_logit_map + answer.residual_logits
    torch.testing.assert_close(decomposed, expected, rtol=1e-12, atol=1e-13)
    plain, fast = (
        torch.autograd.grad(x.sin().sum(), list(model.parameters()))
        for x in (expected, model.answer_logits(model.prepare(tokens)))
    )
    for x, y in zip(fast, plain):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def test_characters_multiply_to_characters_of_the_sum():
    """cos, sin of w a times those of w b, read out by cos(w c), sin(w c): the logits are cos(w (a + b - c))."""
    a, b = pairs_of()
    model = model_of(FeedForward(**BILINEAR | {"d_model": 4}, embedding="separate", biases="absent"))
    c, s = (f(2 * math.pi * 2 / P * torch.arange(P).double()) for f in (torch.cos, torch.sin))
    with torch.no_grad():  # neurons cos cos, sin sin, sin cos, cos sin
        model.embed.W_E.copy_(torch.stack([c, s, s, c], dim=1))
        model.embed_b.W_E.copy_(torch.stack([c, s, c, s], dim=1))
        model.unembed.W_U.copy_(torch.stack([c, -c, s, s]))
        logits = model.answer_logits(model.prepare(torch.stack([a, b], dim=1)))
    expected = (2 * math.pi * 2 / P * ((a + b)[:, None] - torch.arange(P)).double()).cos()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-14)
    assert torch.equal(logits.argmax(1), (a + b) % P)


@pytest.mark.parametrize("config", [
    FeedForward(combine="product", d_hidden=(), d_model=256, embedding="separate", biases="absent", init="fan-in"),
    FeedForward(d_hidden=(128,), d_model=256, embedding="separate", biases="absent", init="fan-in"),
], ids=["bilinear", "mlp"])  # fmt: skip
def test_init_fan_in_is_that_of_the_group_models(config):
    state = build_model(config, 113, 2, 113, generator=torch.Generator().manual_seed(0)).state_dict()
    variances = {"embed.W_E": 256, "embed_b.W_E": 256, "blocks.0.mlp.W_in": 512, "unembed.W_U": 128}
    if not config.d_hidden:
        variances |= {"unembed.W_U": 256}
        del variances["blocks.0.mlp.W_in"]
    assert state.keys() == variances.keys()
    for name, d_in in variances.items():
        n = state[name].numel()
        assert abs(float(state[name].var()) * d_in - 1) < 5 * math.sqrt(2 / n), name
        assert float(state[name].abs().max()) * math.sqrt(d_in) > 3  # no uniform


# --- one-hot operands and numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("biases", ["absent", "trainable"])
@pytest.mark.parametrize("combine", ["concatenate", "sum"])
def test_one_hot_operands_pick_rows_of_a_linear_layer(combine, biases):
    config = FeedForward(embedding="one-hot", combine=combine, d_hidden=(9,), biases=biases)
    model, (a, b) = model_of(config), pairs_of()
    one_hot = torch.eye(P, dtype=torch.float64)
    x = torch.cat([one_hot[a], one_hot[b]], dim=1) if combine == "concatenate" else one_hot[a] + one_hot[b]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = nn.Linear(x.shape[1], 9, bias=biases == "trainable")
        readout = nn.Linear(9, P, bias=biases == "trainable")
    assert model.embed.W_E.shape == (x.shape[1], 9)
    assert "blocks.0.mlp.W_in" not in model.state_dict()
    expected = readout.double()(hidden.double()(x).relu())  # the weights of the published script, too
    tokens = torch.stack([a, b], dim=1)
    for logits in (model(tokens)[:, -1], model.answer_logits(model.prepare(tokens))):
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("d_hidden", [(9,), (9, 6)])
@pytest.mark.parametrize("scalars", ["raw", "divided"])
def test_numbers_are_read_as_they_are_or_divided_by_p(scalars, d_hidden):
    config = FeedForward(embedding="scalars", scalars=scalars, d_hidden=d_hidden)
    model, (a, b) = model_of(config, direct=True), pairs_of()
    tokens = torch.stack([a, b, torch.full_like(a, P)], dim=1)
    x = tokens.double() / (P if scalars == "divided" else 1)
    for block in model.blocks:
        x = (x @ block.mlp.W_in + block.mlp.b_in).relu()
    expected = x @ model.unembed.W_U + model.unembed.b_U
    for logits in (model(tokens)[:, -1], model.answer_logits(model.prepare(tokens))):
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-13)
    assert model.embed is None
    assert "embed.W_E" not in model.state_dict()
    assert model.blocks[0].mlp.W_in.shape == (3, 9)


# --- configs ----------------------------------------------------------------------------------------------------------


def test_names_of_runs_that_were_there_before_are_unchanged():
    config = RunConfig(task=Modular(encoding="operands"), model=FeedForward())
    assert '"scalars"' not in config.to_json()
    assert (config.model.slug, FeedForward(**BILINEAR).slug) == ("mlp", "bilinear")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"d_hidden": ()}, r"`FeedForward.d_hidden` must be one or more widths >= 1, such as \(128,\); got \(\)"),
        ({"d_hidden": (3, 0)}, r"`FeedForward.d_hidden` must be one or more widths >= 1, .*; got \(3, 0\)"),
        ({"combine": "product", "embedding": "one-hot"}, "concatenate or sum without embeddings; got 'product'"),
        ({"combine": "sum", "embedding": "scalars"}, "must be concatenate of scalars; got 'sum'"),
        ({"init": "tl", "embedding": "one-hot"}, "must be torch or fan-in without embeddings, .* by d_model; got 'tl'"),
    ],
)  # fmt: skip
def test_rules_of_the_config(fields, text):
    with pytest.raises(ConfigError, match=text):
        FeedForward(**fields)


def test_numbers_need_tokens_that_are_numbers():
    with pytest.raises(ConfigError, match=r"reads its tokens as numbers.*must be direct, or bits; got operands"):
        RunConfig(task=Modular(encoding="operands"), model=FeedForward(embedding="scalars"))
    with pytest.raises(ConfigError, match=r"reads the two operands: `task.encoding` must be operands; got direct"):
        RunConfig(model=FeedForward(embedding="one-hot"))
