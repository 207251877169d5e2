"""LayerNorm, attention alone and other activations: a slow definition is the oracle of the plain pass, that one of the
fast pass."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from interp.config import FeedForward, Transformer
from interp.errors import ConfigError, NotAvailableError
from interp.models import Network, build_model
from interp.models.base import activate

P = 7
SMALL = {"d_model": 12, "n_heads": 2, "d_head": 5, "d_mlp": 14}  # n_heads * d_head != d_model, on purpose
BIASES = dict.fromkeys(("attention_biases", "mlp_biases", "unembed_biases"), "trainable")
ALONE = {"d_model": 12, "n_heads": 2, "d_head": 5, "attention_only": True, "attention_biases": "trainable"}
NORMED = [
    Transformer(**SMALL, **biases, n_layers=n_layers, normalization=normalization, attention=attention)
    for n_layers, normalization, (attention, biases) in itertools.product(
        (1, 2), ("pre", "post"), (("causal", BIASES), ("bidirectional", {}))
    )
]
ATTENTION_ALONE = [
    Transformer(**ALONE, n_layers=n_layers, normalization=normalization)
    for n_layers, normalization in itertools.product((1, 2), ("none", "pre", "post"))
]
ACTIVATIONS = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "square": lambda x: x * x,
    "identity": lambda x: x,
}
ACTIVATED = [Transformer(**SMALL, mlp_biases="trainable", activation=name) for name in ACTIVATIONS]
READ_OUTS = [
    Transformer(**SMALL, **biases, **normalization, **read_out)
    for biases, normalization, read_out in itertools.product(
        ({}, BIASES),
        ({}, {"normalization": "pre"}),
        ({"tied": True}, {"output_scale": 3.0}, {"tied": True, "output_scale": 0.5}),
    )
]
ENCODINGS = {"operands": ("a", "b"), "direct": ("a", "b", "="), "sentence": ("<", "a", "+", "b", "mod", "=")}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices are tiny here: threads would only wait for each other."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def inputs(encoding: str) -> torch.Tensor:
    """Pairs in a fixed disorder, some twice and some never."""
    a, b = torch.cartesian_prod(torch.arange(P), torch.arange(P)).unbind(1)
    columns = {"a": a, "b": b} | {name: torch.full_like(a, P + i) for i, name in enumerate(("=", "<", "+", "mod"))}
    tokens = torch.stack([columns[name] for name in ENCODINGS[encoding]], dim=1)
    return tokens[torch.randint(len(tokens), (len(tokens),), generator=torch.Generator().manual_seed(1))]


def model_of(config: Transformer | FeedForward, encoding: str = "direct") -> Network:
    """A model in float64 whose biases, gains and shifts are not those of the initialisation."""
    generator = torch.Generator().manual_seed(0)
    extra = {"operands": 0, "direct": 1, "sentence": 4}[encoding]
    model = build_model(config, P + extra, len(ENCODINGS[encoding]), P, generator=generator).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".b_" in name or "ln" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def name_of(config: Transformer) -> str:
    shown = ("normalization", "attention", "activation", "n_layers", "attention_only")
    shown += ("tied", "output_scale", "mlp_biases")
    return "-".join(str(getattr(config, name)) for name in shown)


def slowly(model: Network, row: list[int]) -> torch.Tensor:
    """Logits at every position of one input, from the definition: a position at a time, a head at a time."""
    config = model.config

    def biased(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return x if bias is None else x + bias

    def norm(x: torch.Tensor, ln: nn.Module) -> torch.Tensor:
        return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * ln.w + ln.b

    def read(x: torch.Tensor, module: nn.Module, ln: str) -> torch.Tensor:
        return norm(x, getattr(module, ln)) if config.normalization == "pre" else x

    def write(x: torch.Tensor, module: nn.Module, ln: str) -> torch.Tensor:
        return norm(x, getattr(module, ln)) if config.normalization == "post" else x

    x = [model.embed.W_E[token] + model.pos_embed.W_pos[pos] for pos, token in enumerate(row)]
    for block in model.blocks:
        attn, after, seen = block.attn, [], [read(y, block, "ln1") for y in x]
        for i in range(len(row)):
            mid = biased(x[i], attn.b_O)
            for h in range(config.n_heads):
                b_Q, b_K, b_V = (None if b is None else b[h] for b in (attn.b_Q, attn.b_K, attn.b_V))
                q = biased(seen[i] @ attn.W_Q[h], b_Q)
                visible = seen[: i + 1] if config.attention == "causal" else seen
                scores = torch.stack([q @ biased(y @ attn.W_K[h], b_K) for y in visible]) / math.sqrt(len(q))
                weights = scores.exp() / scores.exp().sum()
                mid = mid + sum(w * biased(y @ attn.W_V[h], b_V) for w, y in zip(weights, visible)) @ attn.W_O[h]
            mid = write(mid, block, "ln1")
            if not config.attention_only:
                hidden = biased(read(mid, block, "ln2") @ block.mlp.W_in, block.mlp.b_in).tolist()
                hidden = torch.tensor([ACTIVATIONS[config.activation](y) for y in hidden], dtype=torch.float64)
                mid = write(biased(mid + hidden @ block.mlp.W_out, block.mlp.b_out), block, "ln2")
            after.append(mid)
        x = after
    W_U = model.embed.W_E[:P].T if config.tied else model.unembed.W_U
    outputs = [biased(read(y, model, "ln_final") @ W_U, model.unembed.b_U) for y in x]
    return config.output_scale * torch.stack(outputs)


@pytest.mark.parametrize("config", [*NORMED, *ATTENTION_ALONE, *ACTIVATED, *READ_OUTS], ids=name_of)
def test_the_plain_pass_is_the_definition(config):
    model, tokens = model_of(config, "sentence"), inputs("sentence")[:3]
    with torch.no_grad():
        expected = torch.stack([slowly(model, row) for row in tokens.tolist()])
        torch.testing.assert_close(model(tokens), expected, rtol=1e-11, atol=1e-11)


def gradients(model: Network, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of a loss to which every logit matters, each differently."""
    target = torch.arange(logits.numel(), dtype=logits.dtype).reshape(logits.shape).sin()
    loss = (logits.log_softmax(-1) * target).sum() + (logits * target).pow(2).mean()
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters()))))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("config", [*NORMED, *ATTENTION_ALONE, *ACTIVATED, *READ_OUTS], ids=name_of)
def test_the_fast_pass_and_its_gradients_are_those_of_the_plain_pass(config, encoding):
    model, tokens = model_of(config, encoding), inputs(encoding)
    pairs = model.prepare(tokens)
    plain = model(tokens)[:, -1]
    expected = gradients(model, plain)
    scale = max(float(grad.norm()) for grad in expected.values())
    found = [model.answer_logits(pairs), *([model.answer(pairs).logits] if not config.attention_only else [])]
    for logits in found:
        torch.testing.assert_close(logits, plain, rtol=1e-11, atol=1e-11)
        for name, grad in gradients(model, logits).items():
            assert (grad - expected[name]).norm() <= 1e-10 * (expected[name].norm() + 1e-3 * scale), name


@pytest.mark.parametrize("config", [*NORMED, *ACTIVATED, *READ_OUTS], ids=name_of)
def test_neurons_as_the_logits_see_them_and_the_rest_are_the_logits(config):
    model, tokens = model_of(config), inputs("direct")
    answer, (logits, cache) = model.answer(model.prepare(tokens)), model.run_with_cache(tokens)
    torch.testing.assert_close(answer.neurons @ answer.neuron_logit_map + answer.residual_logits, logits[:, -1])
    assert torch.equal(answer.neuron_logit_map, model.neuron_logit_map())
    neurons = cache[model.hidden_activations][:, -1]
    if config.normalization != "none":  # divided by the standard deviation of what the last LayerNorm reads
        mlp = model.blocks[-1].mlp
        stream = cache[f"blocks.{config.n_layers - 1}.hook_resid_mid"][:, -1] + neurons @ mlp.W_out
        stream = stream if mlp.b_out is None else stream + mlp.b_out
        neurons = neurons / (stream.var(dim=1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(answer.neurons, neurons)


def test_the_comparisons_can_fail():
    model, tokens = model_of(NORMED[0]), inputs("direct")
    plain = model(tokens)[:, -1]
    with torch.no_grad():
        model.blocks[0].ln1.b[0] += 1e-3
    assert (model.answer_logits(model.prepare(tokens)) - plain).norm() > 1e-7 * plain.norm()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_their_definitions(name):
    x = torch.linspace(-4, 4, 81, dtype=torch.float64)
    expected = torch.tensor([ACTIVATIONS[name](y) for y in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(activate(name, x), expected, rtol=1e-12, atol=1e-12)
    mlp = model_of(FeedForward(d_model=4, d_hidden=(6, 5), activation=name), "operands")
    tokens = inputs("operands")
    torch.testing.assert_close(mlp.answer_logits(mlp.prepare(tokens)), mlp(tokens)[:, -1], rtol=1e-12, atol=1e-12)


def test_an_mlp_scales_its_logits():
    mlp, scaled = (model_of(FeedForward(d_model=4, d_hidden=(6,), output_scale=x), "operands") for x in (1.0, 3.0))
    tokens = inputs("operands")
    pairs = mlp.prepare(tokens)
    for own, other in ((mlp(tokens), scaled(tokens)), (mlp.answer_logits(pairs), scaled.answer_logits(pairs))):
        torch.testing.assert_close(3 * own, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(3 * mlp.neuron_logit_map(), scaled.neuron_logit_map(), rtol=1e-12, atol=1e-12)


def test_a_tied_network_has_one_table_and_its_tables_of_pairs():
    model = model_of(Transformer(**SMALL, tied=True))
    assert "unembed.W_U" not in model.state_dict()
    tokens = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    tokens = torch.cat([tokens, torch.full((P * P, 1), P)], dim=1)
    logits = model(tokens)[:, -1].detach().numpy()
    assert np.allclose(model.pair_tables(tokens).logits().reshape(P * P, P), logits, rtol=1e-11, atol=1e-11)
    with pytest.raises(ConfigError, match=r"`model\.tied` must be False for 9 classes and 8 tokens"):
        build_model(Transformer(tied=True), 8, 3, 9, generator=torch.Generator())


def test_names_of_layer_norms_are_hooked_transformers():
    norms = {name: tuple(x.shape) for name, x in model_of(NORMED[0]).state_dict().items() if "ln" in name}
    assert norms == {f"{ln}.{name}": (12,) for ln in ("blocks.0.ln1", "blocks.0.ln2", "ln_final") for name in "wb"}
    alone = {name for name in model_of(Transformer(**ALONE, normalization="pre")).state_dict() if "ln" in name}
    assert alone == {f"{ln}.{name}" for ln in ("blocks.0.ln1", "ln_final") for name in "wb"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Transformer(**SMALL, normalization="pre"), "the LayerNorm of this transformer"),
        (Transformer(**ALONE), "need a hidden layer; this transformer has attention alone"),
        (Transformer(**SMALL, activation="silu"), "rounding is bounded, relu or gelu; this network has silu"),
        (FeedForward(d_model=4, d_hidden=(6,), activation="square"), "relu or gelu; this network has square"),
        (Transformer(**SMALL, output_scale=2.0), "need an output scale of 1; this network has 2.0"),
        (FeedForward(d_model=4, d_hidden=(6,), output_scale=2.0), "need an output scale of 1; this network has 2.0"),
    ],
)
def test_what_has_no_tables_says_why(config, message):
    encoding = "direct" if isinstance(config, Transformer) else "operands"
    tokens = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    model, equals = model_of(config, encoding), torch.full((P * P, 1), P)
    with pytest.raises(NotAvailableError, match=message):
        model.pair_tables(torch.cat([tokens, equals], dim=1) if encoding == "direct" else tokens)
    assert not model.has_tables


def test_attention_alone_has_no_neurons():
    model = model_of(Transformer(**ALONE))
    assert not model.has_neurons
    assert (model.pre_activations, model.hidden_activations) == ("", "")
    assert list(model.readers) == ["blocks.0.attn.hook_z"]
    assert [branch[-1] for branch in model.branches] == ["blocks.0.hook_attn_out"]
    with pytest.raises(NotAvailableError, match="attention alone"):
        model.answer(model.prepare(inputs("direct")))
    with pytest.raises(NotAvailableError, match="attention alone"):
        model.neuron_logit_map()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_only": True, "d_mlp": 64}, "`Transformer.d_mlp` must be left at 512 with attention_only"),
        (
            {"attention_only": True, "activation": "gelu"},
            "`Transformer.activation` must be left at relu with attent",
        ),
        ({"attention_only": True, "mlp_biases": "frozen"}, "`Transformer.mlp_biases` must be left at absent with"),
        ({"output_scale": 0.0}, "`Transformer.output_scale` must be > 0; got 0.0"),
        ({"normalization": "rms"}, "`Transformer.normalization` must be one of none, pre, post; got 'rms'"),
        ({"activation": "swish"}, "`Transformer.activation` must be one of relu, gelu, gelu_new, .*; got 'swish'"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Transformer(**fields)


def test_new_fields_leave_old_configs_as_they_were():
    assert not any(
        name in Transformer().to_json() for name in ("normalization", "attention_only", "tied", "output_scale")
    )
    assert Transformer.from_json(Transformer().to_json()) == Transformer()
    assert '"normalization":"pre"' in Transformer(normalization="pre").to_json()


def test_weights_without_layer_norm_and_with_it_are_drawn_alike():
    with_norm, without = (
        build_model(Transformer(**SMALL, normalization=n), P + 1, 3, P, generator=torch.Generator().manual_seed(0))
        for n in ("pre", "none")
    )
    for name, x in without.state_dict().items():
        assert np.array_equal(with_norm.state_dict()[name], x), name
