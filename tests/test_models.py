"""The fast passes are the plain pass; initial weights are those that the configs promise."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from interp.config import FeedForward, Transformer
from interp.models import Batch, Network, build_model
from interp.models.prefixes import PrefixBatch, Rows

P = 11
SMALL = {"d_model": 16, "n_heads": 2, "d_head": 4, "d_mlp": 24}  # n_heads * d_head != d_model, on purpose

KINDS = ("trainable", "frozen", "absent")
ENCODINGS = {"operands": ("a", "b"), "direct": ("a", "b", "="), "sentence": ("<", "a", "+", "b", "mod", "=")}

TRANSFORMERS = [
    *(
        Transformer(**SMALL, n_layers=n_layers, attention=attention, activation=activation)
        for n_layers, attention, activation in itertools.product((1, 2), ("causal", "bidirectional"), ("relu", "gelu"))
    ),
    *(
        Transformer(**SMALL, attention_biases=attention, mlp_biases=mlp, unembed_biases=unembed)
        for attention, mlp, unembed in itertools.product(KINDS, KINDS, KINDS)
    ),
    *(Transformer(**SMALL, n_layers=2, attention_biases=b, mlp_biases=b, unembed_biases=b) for b in KINDS),
    *(Transformer(**SMALL, init=init, mlp_biases="trainable") for init in ("nanda", "torch")),
    *(
        Transformer(**SMALL, n_layers=n_layers, attention=attention, attention_rate=rate, attention_biases="trainable")
        for n_layers, attention, rate in itertools.product((1, 2), ("causal", "bidirectional"), (0.0, 0.3))
    ),
]
DEEP = [
    *(
        Transformer(**SMALL, n_layers=n_layers, attention=attention, attention_rate=rate, attention_biases="trainable")
        for n_layers, attention, rate in itertools.product((1, 2, 3), ("causal", "bidirectional"), (1.0, 0.3))
    ),
    Transformer(**SMALL, n_layers=3, activation="gelu", mlp_biases="trainable", unembed_biases="trainable"),
    Transformer(**SMALL, n_layers=2, attention="bidirectional", activation="gelu", mlp_biases="trainable"),
]
FEED_FORWARDS = [
    FeedForward(
        d_model=8, d_hidden=d_hidden, embedding=embedding, combine=combine, activation=activation, biases=biases
    )
    for d_hidden, embedding, combine, (activation, biases) in itertools.product(
        ((12,), (12, 10), (12, 10, 6)),
        ("shared", "separate"),
        ("concatenate", "sum"),
        (("relu", "trainable"), ("gelu", "trainable"), ("relu", "absent"), ("gelu", "frozen")),
    )
] + [
    *(FeedForward(d_model=8, d_hidden=(12,), init=init) for init in ("tl", "nanda", "fan-in")),
    *(
        FeedForward(embedding="one-hot", d_hidden=d_hidden, combine=combine, biases=biases)
        for d_hidden, combine, biases in itertools.product(
            ((12,), (12, 10)), ("concatenate", "sum"), ("trainable", "absent")
        )
    ),
    *(
        FeedForward(d_model=8, d_hidden=d_hidden, embedding=embedding, combine="product")
        for d_hidden, embedding in itertools.product(((12,), (12, 10)), ("shared", "separate"))
    ),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices are tiny here: threads would only wait for each other."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def inputs(config: Transformer | FeedForward, encoding: str, p: int = P) -> torch.Tensor:
    """All pairs in a fixed disorder, some twice: neither order nor distinctness may matter."""
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).unbind(1)
    columns = {"a": a, "b": b} | {name: torch.full_like(a, p + i) for i, name in enumerate(("=", "<", "+", "mod"))}
    tokens = torch.stack([columns[name] for name in ENCODINGS[encoding]], dim=1)
    order = torch.randint(len(tokens), (len(tokens),), generator=torch.Generator().manual_seed(1))
    return tokens[order]


def model_of(config: Transformer | FeedForward, encoding: str = "operands", *, p: int = P, seed: int = 0) -> Network:
    """A model whose trained biases are not zero, whatever the initialisation."""
    generator = torch.Generator().manual_seed(seed)
    extra = {"operands": 0, "direct": 1, "sentence": 4}[encoding]  # tokens that are no numbers
    model = build_model(config, p + extra, len(ENCODINGS[encoding]), p, generator=generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".b_" in name and parameter.requires_grad:
                parameter.normal_(0.0, 0.3, generator=generator)
    return model


def error(x: torch.Tensor, y: torch.Tensor) -> float:
    """Norm of the difference relative to the norm."""
    return float((x - y).detach().norm() / y.detach().norm())


def name_of(config: Transformer | FeedForward) -> str:
    return "-".join(str(value) for key, value in config.to_dict().items() if key not in ("kind", "schema", *SMALL))


CASES = [
    *(pytest.param(config, "direct", id=f"direct-{name_of(config)}") for config in TRANSFORMERS),
    *(pytest.param(config, "operands", id=f"operands-{name_of(config)}") for config in TRANSFORMERS[::5]),
    *(pytest.param(config, "direct", id=f"direct-{name_of(config)}") for config in DEEP if config.n_layers == 3),
    *(pytest.param(config, "sentence", id=f"sentence-{name_of(config)}") for config in DEEP),
    *(pytest.param(config, "operands", id=f"mlp-{name_of(config)}") for config in FEED_FORWARDS),
]


# --- the fast passes against the plain pass ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("config", "encoding"), CASES)
def test_the_fast_pass_is_the_plain_pass(config, encoding, dtype):
    model, tokens = model_of(config, encoding).to(dtype), inputs(config, encoding)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6
    with torch.inference_mode():
        logits, cache = model.run_with_cache(tokens)
        pairs = model.prepare(tokens)
        fast, answer = model.answer_logits(pairs), model.answer(pairs)
        last = cache[f"blocks.{len(model.blocks) - 1}.mlp.hook_post"]
        neurons = last[:, -1] if isinstance(config, Transformer) else last
        assert fast.dtype == answer.logits.dtype == dtype
        assert error(fast, logits[:, -1]) < tolerance
        assert error(answer.logits, logits[:, -1]) < tolerance
        assert error(answer.neurons, neurons) < tolerance
        assert torch.equal(answer.neuron_logit_map, model.neuron_logit_map())
        # what goes around the last hidden layer, from the plain pass alone
        residual = logits[:, -1] - neurons @ model.neuron_logit_map()
        decomposed = answer.neurons @ answer.neuron_logit_map + answer.residual_logits
    assert error(decomposed, logits[:, -1]) < tolerance
    assert (answer.residual_logits - residual).norm() <= 2 * tolerance * logits[:, -1].norm()


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    """A loss to which every logit matters, each differently."""
    target = torch.arange(logits.numel(), dtype=logits.dtype).reshape(logits.shape).sin()
    return (logits.log_softmax(-1) * target).sum() + (logits * target).pow(2).mean()


def gradients(model: Network, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss_of(logits), list(trained.values()))))


@pytest.mark.parametrize(("config", "encoding"), CASES)
def test_the_fast_pass_has_the_gradients_of_the_plain_pass(config, encoding):
    model, tokens = model_of(config, encoding).double(), inputs(config, encoding)
    plain = gradients(model, model(tokens)[:, -1])
    pairs = model.prepare(tokens)
    for fast in (gradients(model, model.answer_logits(pairs)), gradients(model, model.answer(pairs).logits)):
        assert fast.keys() == plain.keys()
        scale = max(float(grad.norm()) for grad in plain.values())
        for name, grad in plain.items():
            # b_K moves all scores of a query alike, which the softmax does not see: its gradient is rounding
            assert (fast[name] - grad).norm() <= 1e-11 * (grad.norm() + 1e-3 * scale), name


@pytest.mark.parametrize("config", [Transformer(**SMALL), FeedForward(d_model=8, d_hidden=(12,))], ids=["tf", "mlp"])
def test_the_comparison_can_fail(config):
    encoding = "direct" if isinstance(config, Transformer) else "operands"
    model, tokens = model_of(config, encoding), inputs(config, encoding)
    with torch.inference_mode():
        plain = model(tokens)[:, -1]
        model.unembed.W_U[0, 0] += 1e-3
        assert error(model.answer_logits(model.prepare(tokens)), plain) > 1e-6


def cuda_pairs(model: Network, tokens: torch.Tensor) -> Batch:
    """What `Network.prepare` prepares on CUDA: incidence[pos, token, pair] is 1 where the pair has the token there."""
    incidence = torch.zeros(tokens.shape[1], model.d_vocab, len(tokens))
    for pair, row in enumerate(tokens.tolist()):
        for pos, token in enumerate(row):
            incidence[pos, token, pair] = 1
    return Batch(tokens, incidence)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(
    ("config", "encoding"),
    [
        (Transformer(**SMALL), "direct"),
        (Transformer(**SMALL, attention_biases="trainable", mlp_biases="trainable"), "direct"),
        (FeedForward(d_model=8, d_hidden=(12, 10)), "operands"),
        (FeedForward(d_model=8, d_hidden=(12,), embedding="separate", combine="sum"), "operands"),
    ],
    ids=["transformer", "biased", "mlp", "mlp-sum"],
)
def test_look_ups_summed_by_a_matrix_product_are_index_select(config, encoding, dtype):
    model, tokens = model_of(config, encoding).to(dtype), inputs(config, encoding)
    by_index, by_product = (model.answer_logits(pairs) for pairs in (model.prepare(tokens), cuda_pairs(model, tokens)))
    assert model.prepare(tokens).incidence is None  # on the CPU
    assert torch.equal(by_product, by_index)
    expected, found = gradients(model, by_index), gradients(model, by_product)
    scale = max(float(grad.norm()) for grad in expected.values())
    for name, grad in expected.items():
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        assert (found[name] - grad).norm() <= tolerance * (grad.norm() + 1e-2 * scale), name


def test_a_wrong_incidence_is_noticed():
    model, tokens = model_of(Transformer(**SMALL), "direct").double(), inputs(Transformer(**SMALL), "direct")
    wrong = Batch(tokens, cuda_pairs(model, tokens).incidence.roll(1, dims=1))
    expected = gradients(model, model.answer_logits(model.prepare(tokens)))
    found = gradients(model, model.answer_logits(wrong))
    assert error(found["embed.W_E"], expected["embed.W_E"]) > 0.1


@pytest.mark.parametrize("n_layers", [1, 2])
def test_full_size_in_float32(n_layers):
    config = Transformer(n_layers=n_layers)
    model, tokens = model_of(config, "direct", p=113), inputs(config, "direct", p=113)
    with torch.inference_mode():
        assert error(model.answer_logits(model.prepare(tokens)), model(tokens)[:, -1]) < 1e-6


# --- the pass that shares prefixes ------------------------------------------------------------------------------------


def assert_equal_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float):
    assert found.keys() == expected.keys()
    scale = max(float(grad.norm()) for grad in expected.values())
    for name, grad in expected.items():
        assert (found[name] - grad).norm() <= tolerance * (grad.norm() + 1e-2 * scale), name


@pytest.mark.parametrize("encoding", ["direct", "sentence"])
@pytest.mark.parametrize("config", DEEP[4:], ids=name_of)
def test_any_part_of_the_pairs_has_the_logits_and_gradients_of_the_plain_pass(config, encoding):
    model, tokens = model_of(config, encoding).double(), inputs(config, encoding)
    pairs, draws = model.prepare(tokens), torch.randperm(len(tokens), generator=torch.Generator().manual_seed(2))
    for some in (draws[:50], draws[:5], draws[:1], torch.tensor([4, 4, 7, 4])):
        chosen, plain = pairs.select(some), model(tokens[some])[:, -1]
        answer = model.answer(chosen)
        expected = gradients(model, plain)
        for logits in (model.answer_logits(chosen), answer.logits):
            assert error(logits, plain) < 1e-12
            assert_equal_gradients(gradients(model, logits), expected, 1e-12)


@pytest.mark.parametrize("config", DEEP, ids=name_of)
def test_the_last_positions_have_the_logits_and_gradients_of_the_plain_pass(config):
    model, tokens = model_of(config, "sentence").double(), inputs(config, "sentence")
    for some in (tokens, tokens[:3].repeat(5, 1)):  # in the second even the last position is shared by several
        pairs = model.prepare(some)
        for positions in (1, 2, 4):
            plain, fast = model(some)[:, -positions:], model.last_logits(pairs, positions)
            assert fast.shape == plain.shape
            assert error(fast, plain) < 1e-12
            assert_equal_gradients(gradients(model, fast), gradients(model, plain), 1e-12)


def levels_of(config: Transformer, encoding: str) -> list[tuple[int, int]]:
    """Rows and positions of each level."""
    tokens = inputs(config, encoding)
    return [(level.n_rows, len(level.tokens)) for level in model_of(config, encoding).prepare(tokens).levels]


def test_prefixes_are_shared_where_a_position_knows_of_none_behind_it():
    for n_layers, attention in ((1, "causal"), (1, "bidirectional"), (2, "causal")):
        config = Transformer(**SMALL, n_layers=n_layers, attention=attention)
        assert levels_of(config, "sentence") == [(1, 1), (P, 2), (P * P, 3)]
    assert levels_of(Transformer(**SMALL, n_layers=2), "direct") == [(P, 1), (P * P, 2)]
    assert levels_of(Transformer(**SMALL, n_layers=2, attention="bidirectional"), "sentence") == [(P * P, 6)]


@pytest.mark.parametrize(
    ("n_layers", "attention", "encoding", "most"),
    [
        (1, "causal", "sentence", 0.2),
        (2, "causal", "direct", 0.5),
        (2, "bidirectional", "direct", 0.6),
        (2, "causal", "sentence", 0.35),
        (2, "bidirectional", "sentence", 0.6),
        (3, "causal", "direct", 0.55),
    ],
)
def test_shared_prefixes_and_a_short_last_layer_save_products(n_layers, attention, encoding, most):
    config = Transformer(d_model=32, n_heads=4, d_head=8, d_mlp=128, n_layers=n_layers, attention=attention)
    model, tokens = model_of(config, encoding, p=31), inputs(config, encoding, p=31)
    pairs = model.prepare(tokens)

    def products(logits_of) -> int:
        with FlopCounterMode(display=False) as counted:
            loss_of(logits_of()).backward()
        return counted.get_total_flops()

    assert products(lambda: model.answer_logits(pairs)) < most * products(lambda: model(tokens)[:, -1])


def with_incidences(pairs: PrefixBatch, d_vocab: int) -> PrefixBatch:
    """What `Network.prepare` prepares on CUDA, without that of `Batch`, which this pass does not read."""

    def with_incidence(rows: Rows | int | None, entries: int) -> Rows | int | None:
        if not isinstance(rows, Rows):
            return rows
        incidence = torch.zeros(entries, len(rows.index))
        for row, entry in enumerate(rows.index.tolist()):
            incidence[entry, row] = 1
        return Rows(rows.index, incidence)

    levels, entries = [], 0
    for level in pairs.levels:
        tokens = tuple(with_incidence(token, d_vocab) for token in level.tokens)
        levels.append(dataclasses.replace(level, tokens=tokens, parent=with_incidence(level.parent, entries)))
        entries = level.n_rows
    return PrefixBatch(pairs.tokens, None, levels=tuple(levels))


@pytest.mark.parametrize("encoding", ["direct", "sentence"])
@pytest.mark.parametrize("config", [DEEP[0], *DEEP[4:8]], ids=name_of)
def test_prefixes_summed_by_a_matrix_product_are_index_select(config, encoding):
    if config.n_layers == 1 and encoding == "direct":
        encoding = "operands"  # the other fast pass has `a b =`
    model, tokens = model_of(config, encoding).double(), inputs(config, encoding)
    pairs = model.prepare(tokens)
    by_product = with_incidences(pairs, model.d_vocab)
    assert all(token.incidence is None for level in pairs.levels for token in level.tokens if isinstance(token, Rows))
    for some in (torch.arange(len(tokens)), torch.arange(20)):
        plain, ours = (model.answer_logits(chosen.select(some)) for chosen in (pairs, by_product))
        assert torch.equal(ours, plain)
        assert_equal_gradients(gradients(model, ours), gradients(model, plain), 1e-12)
        both = (model.last_logits(chosen.select(some), 2) for chosen in (pairs, by_product))
        assert torch.equal(*both)


def test_a_wrong_prefix_is_noticed():
    config = DEEP[4]
    model, tokens = model_of(config, "direct").double(), inputs(config, "direct")
    pairs = model.prepare(tokens)
    first, last = pairs.levels
    wrong = dataclasses.replace(last, parent=Rows(last.parent.index.roll(1), None))
    expected, found = model.answer_logits(pairs), model.answer_logits(PrefixBatch(tokens, None, levels=(first, wrong)))
    assert error(found, expected) > 0.1


# --- meaning ----------------------------------------------------------------------------------------------------------


def slowly(model: Network, row: list[int]) -> torch.Tensor:
    """Logits at every position of one input, from the definition: a position at a time, a head at a time."""
    config = model.config
    x = [model.embed.W_E[token] + model.pos_embed.W_pos[pos] for pos, token in enumerate(row)]
    for block in model.blocks:
        attn, mlp, after = block.attn, block.mlp, []
        for i in range(len(row)):
            mid = x[i] + attn.b_O
            seen = x[: i + 1] if config.attention == "causal" else x
            for h in range(config.n_heads):
                q = x[i] @ attn.W_Q[h] + attn.b_Q[h]
                scores = torch.stack([q @ (y @ attn.W_K[h] + attn.b_K[h]) for y in seen]) / math.sqrt(len(q))
                softmax = scores.exp() / scores.exp().sum()
                weights = config.attention_rate * softmax + (1 - config.attention_rate)
                mid = mid + sum(w * (y @ attn.W_V[h] + attn.b_V[h]) for w, y in zip(weights, seen)) @ attn.W_O[h]
            hidden = mid @ mlp.W_in + mlp.b_in
            hidden = hidden.clamp(min=0) if config.activation == "relu" else nn.functional.gelu(hidden)
            after.append(mid + hidden @ mlp.W_out + mlp.b_out)
        x = after
    return torch.stack(x) @ model.unembed.W_U + model.unembed.b_U


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_the_plain_pass_is_the_definition(attention, rate):
    biases = dict.fromkeys(("attention_biases", "mlp_biases", "unembed_biases"), "trainable")
    config = Transformer(**SMALL, n_layers=2, attention=attention, attention_rate=rate, **biases)
    model, tokens = model_of(config, "sentence").double(), inputs(config, "sentence")[:3]
    with torch.no_grad():
        expected = torch.stack([slowly(model, row) for row in tokens.tolist()])
        torch.testing.assert_close(model(tokens), expected, rtol=1e-12, atol=1e-12)


def test_attention_is_over_what_may_be_seen():
    tokens = inputs(Transformer(), "direct")
    for attention in ("causal", "bidirectional"):
        model = model_of(Transformer(**SMALL, attention=attention), "direct")
        pattern = model.run_with_cache(tokens)[1]["blocks.0.attn.hook_pattern"]
        assert torch.allclose(pattern.sum(-1), torch.ones(()))
        assert bool((pattern.triu(1) == 0).all()) == (attention == "causal")


def test_an_attention_rate_mixes_the_softmax_with_the_same_weight_for_all_that_may_be_seen():
    for attention, seen in (("causal", torch.ones(3, 3).tril()), ("bidirectional", torch.ones(3, 3))):
        config = Transformer(**SMALL, attention=attention, attention_rate=0.3)
        model, tokens = model_of(config, "direct").double(), inputs(config, "direct")
        _, cache = model.run_with_cache(tokens)
        pattern = 0.3 * cache["blocks.0.attn.hook_attn_scores"].softmax(-1) + 0.7 * seen.double()
        torch.testing.assert_close(cache["blocks.0.attn.hook_pattern"], pattern, rtol=1e-14, atol=1e-14)
        assert not torch.allclose(cache["blocks.0.attn.hook_pattern"].sum(-1), torch.ones((), dtype=torch.double))


def test_one_layer_answers_alike_in_either_direction_and_two_do_not():
    tokens = inputs(Transformer(), "direct")
    for n_layers in (1, 2):
        causal, bidirectional = (
            model_of(Transformer(**SMALL, n_layers=n_layers, attention=attention), "direct")(tokens)[:, -1]
            for attention in ("causal", "bidirectional")
        )
        assert (error(causal, bidirectional) < 1e-6) == (n_layers == 1)


@pytest.mark.parametrize("combine", ["concatenate", "sum"])
@pytest.mark.parametrize("embedding", ["shared", "separate"])
def test_only_a_shared_sum_cannot_tell_the_operands_apart(embedding, combine):
    config = FeedForward(d_model=8, d_hidden=(12,), embedding=embedding, combine=combine)
    model, tokens = model_of(config), inputs(config, "operands")
    symmetric = torch.allclose(model(tokens), model(tokens.flip(1)), atol=1e-6)
    assert symmetric == (embedding == "shared" and combine == "sum")


# --- parameters -------------------------------------------------------------------------------------------------------


BIASES = {"attention": {"b_Q", "b_K", "b_V", "b_O"}, "mlp": {"b_in", "b_out"}, "unembed": {"b_U"}}


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("group", list(BIASES))
@pytest.mark.parametrize("kind", ["trainable", "frozen", "absent"])
def test_biases_of_a_transformer_are_trained_frozen_or_absent(kind, group, n_layers):
    model = model_of(Transformer(**SMALL, n_layers=n_layers, **{f"{group}_biases": kind}), "direct")
    found = {name: p for name, p in model.named_parameters() if ".b_" in name}
    assert {name.rpartition(".")[2] for name in found} == (BIASES[group] if kind != "absent" else set())
    assert found.keys() <= model.state_dict().keys()
    assert {name for name in model.state_dict() if ".b_" in name} == found.keys()
    loss_of(model.answer_logits(model.prepare(inputs(model.config, "direct")))).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name not in found or kind == "trainable"), name
    if kind == "frozen":
        assert not any(bool(parameter.any()) for parameter in found.values())


@pytest.mark.parametrize("kind", ["trainable", "frozen", "absent"])
def test_biases_of_an_mlp_are_trained_frozen_or_absent(kind):
    config = FeedForward(d_model=8, d_hidden=(12, 10), biases=kind)
    model = build_model(config, P, 2, P, generator=torch.Generator().manual_seed(0))
    found = {name: p for name, p in model.named_parameters() if ".b_" in name}
    expected = {"blocks.0.mlp.b_in", "blocks.1.mlp.b_in", "unembed.b_U"} if kind != "absent" else set()
    assert found.keys() == {name for name in model.state_dict() if ".b_" in name} == expected
    loss_of(model.answer_logits(model.prepare(inputs(config, "operands")))).backward()
    assert all((p.grad is not None) == (kind == "trainable") for p in found.values())
    assert all(bool(p.any()) == (kind == "trainable") for p in found.values())


def test_names_and_shapes_are_hooked_transformers():
    shapes = {name: tuple(x.shape) for name, x in model_of(Transformer(), "direct", p=113).state_dict().items()}
    assert shapes == {
        "embed.W_E": (114, 128),
        "pos_embed.W_pos": (3, 128),
        "blocks.0.attn.W_Q": (4, 128, 32),
        "blocks.0.attn.W_K": (4, 128, 32),
        "blocks.0.attn.W_V": (4, 128, 32),
        "blocks.0.attn.W_O": (4, 32, 128),
        "blocks.0.mlp.W_in": (128, 512),
        "blocks.0.mlp.W_out": (512, 128),
        "unembed.W_U": (128, 113),
    }


# --- initial weights --------------------------------------------------------------------------------------------------


def assert_normal(x: torch.Tensor, std: float) -> None:
    """Mean and variance within five standard errors of N(0, std^2), and tails that a uniform has not."""
    n = x.numel()
    assert abs(float(x.mean())) < 5 * std / math.sqrt(n)
    assert abs(float(x.std()) / std - 1) < 5 / math.sqrt(2 * n)
    assert float(x.abs().max()) > 2 * std


def assert_uniform(x: torch.Tensor, bound: float) -> None:
    """Within +-bound, up to near its ends, and with the variance bound^2 / 3."""
    n = x.numel()
    assert float(x.abs().max()) <= bound
    assert float(x.abs().max()) > bound * (1 - 10 / n)
    assert abs(float(x.mean())) < 5 * bound / math.sqrt(3 * n)
    assert abs(float(x.var()) / (bound**2 / 3) - 1) < 5 * math.sqrt(0.8 / n)


def weights(config: Transformer | FeedForward, *sizes: int) -> dict[str, torch.Tensor]:
    model = build_model(config, *sizes, generator=torch.Generator().manual_seed(0))
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_init_tl_is_normal_with_variance_0_64_over_d_model():
    state = weights(Transformer(n_layers=2, d_model=64, d_head=16, mlp_biases="trainable"), 114, 3, 113)
    for name, x in state.items():
        if ".b_" in name:
            assert not x.any()
        else:
            assert_normal(x, 0.8 / math.sqrt(64))


def test_init_nanda_is_normal_with_variance_1_over_d_model_but_for_the_unembedding():
    state = weights(Transformer(d_model=64, d_head=16, mlp_biases="trainable", init="nanda"), 114, 3, 114)
    for name, x in state.items():
        if ".b_" in name:
            assert not x.any()
        else:
            assert_normal(x, 1 / math.sqrt(114 if name == "unembed.W_U" else 64))


def test_init_torch_is_that_of_embedding_and_linear():
    kinds = dict.fromkeys(("attention_biases", "mlp_biases", "unembed_biases"), "trainable")
    state = weights(Transformer(d_model=64, n_heads=4, d_head=32, d_mlp=512, init="torch", **kinds), 114, 3, 113)
    fan_in = {"b_O": 4 * 32, "W_O": 4 * 32, "b_out": 512, "W_out": 512}
    for name, x in state.items():
        last = name.rpartition(".")[2]
        if last in ("W_E", "W_pos"):
            assert_normal(x, 1.0)
        else:
            assert_uniform(x, 1 / math.sqrt(fan_in.get(last, 64)))


@pytest.mark.parametrize(("init", "scale"), [("tl", 0.8), ("nanda", 1.0)])
def test_init_of_an_mlp(init, scale):
    state = weights(FeedForward(d_model=64, d_hidden=(128, 96), init=init), 113, 2, 113)
    for name, x in state.items():
        if ".b_" in name:
            assert not x.any()
        else:
            assert_normal(x, 1 / math.sqrt(113) if (init, name) == ("nanda", "unembed.W_U") else scale / math.sqrt(64))


def test_the_statistical_tests_can_fail():
    x = torch.empty(4000).normal_(0, 1, generator=torch.Generator().manual_seed(0))
    assert_normal(x, 1.0)
    for wrong in (lambda: assert_normal(x, 1.1), lambda: assert_normal(x + 0.2, 1.0), lambda: assert_uniform(x, 1.0)):
        with pytest.raises(AssertionError):
            wrong()


@pytest.mark.parametrize("config", [Transformer(**SMALL), FeedForward()], ids=["transformer", "mlp"])
def test_initial_weights_are_a_function_of_the_generator(config):
    def flat(seed: int) -> torch.Tensor:
        return torch.cat([x.flatten() for x in weights_of(seed).values()])

    def weights_of(seed: int) -> dict[str, torch.Tensor]:
        return build_model(config, 12, 2, 11, generator=torch.Generator().manual_seed(seed)).state_dict()

    state = torch.get_rng_state()
    assert torch.equal(flat(3), flat(3))
    assert not torch.equal(flat(3), flat(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_mlp_draws_in_the_order_of_a_torch_script():
    """The script of simple-grokking: one stream shuffles the pairs, then initialises three modules."""
    p, d_model, d_hidden = 53, 128, 128
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        order = torch.randperm(p * p)
        embedding, hidden, out = nn.Embedding(p, d_model), nn.Linear(2 * d_model, d_hidden), nn.Linear(d_hidden, p)

    generator = torch.Generator().manual_seed(2)
    assert torch.equal(torch.randperm(p * p, generator=generator), order)
    state = build_model(FeedForward(), p, 2, p, generator=generator).state_dict()
    expected = {
        "embed.W_E": embedding.weight,
        "blocks.0.mlp.W_in": hidden.weight.T,
        "blocks.0.mlp.b_in": hidden.bias,
        "unembed.W_U": out.weight.T,
        "unembed.b_U": out.bias,
    }
    assert state.keys() == expected.keys()
    for name, x in expected.items():
        assert torch.equal(state[name], x), name
    first = build_model(FeedForward(), p, 2, p, generator=torch.Generator().manual_seed(2)).state_dict()
    assert not torch.equal(first["embed.W_E"], embedding.weight)  # the stream has to be advanced
