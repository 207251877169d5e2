"""TransformerLens in and out: the bridge computes what our model computes, name by name."""

import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from interp.config import FeedForward, Transformer
from interp.errors import ForeignFormatError, NotAvailableError
from interp.models import build_model
from interp.models.lens import _global_randomness_kept, from_state_dict, to_bridge
from interp.models.transformer import TransformerNetwork

SMALL = {"d_model": 16, "n_heads": 2, "d_head": 4, "d_mlp": 32}  # n_heads * d_head != d_model, on purpose
ALONE = {"d_model": 16, "n_heads": 2, "d_head": 4, "attention_only": True}
# The bridge's attn.hook_attn_scores is left out: TransformerLens 4.3 fires it after the softmax, on the pattern. The
# pattern decides instead, and scores are checked against the bridge's own queries and keys.
BLOCK = (
    *("hook_resid_pre", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_pattern", "attn.hook_z"),
    *("hook_attn_out", "hook_resid_mid", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out", "hook_resid_post"),
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices are tiny here: threads would only wait for each other."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def transformer(p: int = 13, n_ctx: int = 3, *, seed: int = 0, **fields: object) -> TransformerNetwork:
    """A model whose biases, where it has any, are random and not zero."""
    generator = torch.Generator().manual_seed(seed)
    model = TransformerNetwork(Transformer(**fields), p + (n_ctx == 3), n_ctx, p, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".b_" in name and parameter.requires_grad:
                parameter.normal_(0.0, 0.5, generator=generator)
    return model


def with_random_norms(model: TransformerNetwork) -> TransformerNetwork:
    """The model with gains and shifts that are not those of the initialisation."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return model


def all_pairs(p: int, n_ctx: int = 3) -> torch.Tensor:
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).unbind(1)
    return torch.stack([a, b, torch.full_like(a, p)][:n_ctx], dim=1)


def names(n_layers: int) -> list[str]:
    return ["hook_embed", "hook_pos_embed", *(f"blocks.{layer}.{name}" for layer in range(n_layers) for name in BLOCK)]


def error(x: torch.Tensor, y: torch.Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((x - y).detach().abs().max() / y.detach().abs().max())


def assert_same_activations(model: TransformerNetwork, tokens: torch.Tensor) -> None:
    with torch.inference_mode():
        logits, cache = model.run_with_cache(tokens)
        lens_logits, lens_cache = to_bridge(model).run_with_cache(tokens)
    assert lens_logits.dtype == logits.dtype
    errors = {"logits": error(logits, lens_logits)}
    for name in names(model.config.n_layers):
        assert cache[name].shape == lens_cache[name].shape, name
        errors[name] = error(cache[name], lens_cache[name])
    for layer in range(model.config.n_layers):
        at = f"blocks.{layer}.attn.hook_"
        q, k = lens_cache[at + "q"], lens_cache[at + "k"]
        seen = lens_cache[at + "pattern"] > 0  # elsewhere our scores are -inf
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / math.sqrt(model.config.d_head)
        errors[at + "attn_scores"] = error(cache[at + "attn_scores"][seen], scores[seen])
        assert bool((cache[at + "attn_scores"][~seen] == -math.inf).all())
        causal = torch.ones(model.n_ctx, model.n_ctx, dtype=torch.bool).tril()
        assert bool((seen == (causal if model.config.attention == "causal" else torch.ones_like(causal))).all())
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("biases", ["absent", "frozen", "trainable"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_bridge_computes_what_the_model_computes(n_layers, attention, activation, biases):
    model = transformer(
        **SMALL,
        n_layers=n_layers,
        attention=attention,
        activation=activation,
        attention_biases=biases,
        mlp_biases=biases,
        unembed_biases=biases,
    )
    assert_same_activations(model, all_pairs(13))


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "gelu_new", "silu"])
def test_the_bridge_has_layer_norm_and_the_activations_under_their_names(activation, n_layers):
    fields = {"n_layers": n_layers, "activation": activation, "mlp_biases": "trainable"}
    assert_same_activations(with_random_norms(transformer(**SMALL, **fields, normalization="pre")), all_pairs(13))


@pytest.mark.parametrize("normalization", ["none", "pre"])
def test_the_bridge_has_layers_of_attention_alone(normalization):
    fields = {"n_layers": 2, "normalization": normalization, "attention_biases": "trainable"}
    model = with_random_norms(transformer(**ALONE, **fields))
    without_mlp = [name for name in names(2) if "mlp" not in name and "resid_mid" not in name]
    with torch.inference_mode():
        logits, cache = model.run_with_cache(all_pairs(13))
        lens_logits, lens_cache = to_bridge(model).run_with_cache(all_pairs(13))
    assert error(logits, lens_logits) < 1e-5
    assert max(error(cache[name], lens_cache[name]) for name in without_mlp) < 1e-5
    assert not any("mlp" in name for name in (*cache, *model.state_dict()))


@pytest.mark.parametrize("fields", [{"tied": True}, {"output_scale": 3.0}, {"tied": True, "output_scale": 0.5}])
def test_the_bridge_has_tied_and_scaled_unembeddings(fields):
    assert_same_activations(transformer(**SMALL, **fields, unembed_biases="trainable"), all_pairs(13))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"normalization": "post"}, "`normalization` must be none or pre; got post"),
        ({"activation": "square"}, "bridges for the activations relu, gelu, gelu_new, silu; got square"),
        ({"attention_rate": 0.5}, "`attention_rate` must be 1; got 0.5"),
    ],
)
def test_transformers_that_the_lens_does_not_have_are_refused(fields, message):
    with pytest.raises(NotAvailableError, match=message):
        to_bridge(transformer(**SMALL, **fields))


def test_parity_at_full_size():
    assert_same_activations(transformer(113, mlp_biases="trainable"), all_pairs(113)[::7])


def test_parity_for_two_operands_in_float64():
    assert_same_activations(transformer(n_ctx=2, **SMALL).double(), all_pairs(13, n_ctx=2))


def test_the_comparison_can_fail():
    model = transformer(**SMALL)
    bridge = to_bridge(model)
    with torch.no_grad():
        model.blocks[0].attn.W_K[0] *= 1.01
        tokens = all_pairs(13)
        assert error(model(tokens), bridge(tokens)) > 1e-5


def test_a_bridge_is_a_copy_in_eval_mode():
    model = transformer(**SMALL)
    bridge = to_bridge(model)
    assert not bridge.training
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.zero_()
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize("biases", ["absent", "frozen", "trainable"])
def test_only_trained_biases_require_gradients(biases):
    bridge = to_bridge(transformer(**SMALL, attention_biases=biases, mlp_biases=biases, unembed_biases=biases))
    found = {name: p for name, p in bridge.named_parameters() if name.endswith(".bias")}
    assert len(found) == 6  # q, k, v, o, in, out; b_U is a buffer
    assert all(p.requires_grad == (biases == "trainable") for p in found.values())
    assert all(bool(p.any()) == (biases == "trainable") for p in found.values())
    assert bool(bridge.unembed.b_U.any()) == (biases == "trainable")
    assert all(p.requires_grad for name, p in bridge.named_parameters() if name.endswith(".weight"))


def test_hooks_ablate_a_head_through_the_bridge():
    model, head = transformer(**SMALL), 1
    bridge, tokens = to_bridge(model), all_pairs(13)

    def ablate(z, hook):
        z[:, :, head] = 0
        return z

    with torch.no_grad():
        ablated = bridge.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_z", ablate)])
        assert error(ablated, model(tokens)) > 1e-2
        model.blocks[0].attn.W_O[head] = 0  # a head that writes nothing
        assert error(ablated, model(tokens)) < 1e-5


def test_hooks_replace_the_pattern_through_the_bridge():
    model = transformer(**SMALL)
    with torch.no_grad():
        uniform = to_bridge(model).run_with_hooks(
            all_pairs(13), fwd_hooks=[("blocks.0.attn.hook_pattern", lambda pattern, hook: pattern * 0)]
        )
        model.blocks[0].attn.W_V.zero_()
        assert error(uniform, model(all_pairs(13))) < 1e-5


def global_states() -> tuple[object, ...]:
    numpy = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpy[1].tolist(), numpy[2:], torch.get_rng_state().tolist()


def test_global_randomness_is_left_alone():
    model = transformer(**SMALL)  # before: beartype itself draws from `random` when it looks into a container
    before = global_states()
    to_bridge(model)
    assert global_states() == before


def test_the_guard_undoes_draws_from_all_three_generators():
    before = global_states()
    with _global_randomness_kept():
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        assert all(now != then for now, then in zip(global_states()[::3], before[::3]))
    assert global_states() == before


def test_a_bridge_without_the_guard_draws_from_torchs_global_generator():
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    with torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        TransformerBridge.boot_native(
            TransformerBridgeConfig(**SMALL, n_layers=1, n_ctx=3, d_vocab=14, device="cpu", init_weights=False)
        )
        assert not torch.equal(torch.get_rng_state(), state)


def test_the_package_imports_transformer_lens_only_for_a_bridge():
    code = "import sys, interp.models, interp.models.lens; sys.exit('transformer_lens' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_there_is_no_bridge_for_an_mlp():
    model = build_model(FeedForward(d_model=4, d_hidden=(8,)), 5, 2, 5, generator=torch.Generator())
    with pytest.raises(NotAvailableError, match="bridges for transformers only; got a FeedForwardNetwork"):
        to_bridge(model)


# --- state dicts ------------------------------------------------------------------------------------------------------


def hooked_transformer_state(model: TransformerNetwork) -> dict[str, torch.Tensor]:
    """As HookedTransformer writes it: all biases, and two buffers per block."""
    config, state = model.config, dict(model.state_dict())
    for layer in range(config.n_layers):
        at = f"blocks.{layer}."
        for name in "QKV":
            state.setdefault(at + f"attn.b_{name}", torch.zeros(config.n_heads, config.d_head))
        state.setdefault(at + "attn.b_O", torch.zeros(config.d_model))
        state.setdefault(at + "mlp.b_in", torch.zeros(config.d_mlp))
        state.setdefault(at + "mlp.b_out", torch.zeros(config.d_model))
        state[at + "attn.mask"] = torch.ones(model.n_ctx, model.n_ctx, dtype=torch.bool).tril()
        state[at + "attn.IGNORE"] = torch.tensor(-math.inf)
    state.setdefault("unembed.b_U", torch.zeros(model.d_vocab_out))
    return state


@pytest.mark.parametrize("n_ctx", [2, 3])
@pytest.mark.parametrize("biases", ["absent", "frozen", "trainable"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_state_dict_makes_the_round_trip(n_layers, biases, n_ctx):
    model = transformer(n_ctx=n_ctx, **SMALL, n_layers=n_layers, attention_biases=biases, mlp_biases=biases)
    imported = from_state_dict(model.state_dict())
    assert imported[:4] == (model.config, model.d_vocab, n_ctx, 13)
    rebuilt = build_model(*imported[:4], generator=torch.Generator())
    rebuilt.load_state_dict(imported.state, strict=True)
    assert torch.equal(rebuilt(all_pairs(13, n_ctx)), model(all_pairs(13, n_ctx)))


@pytest.mark.parametrize("fields", [SMALL | {"normalization": "pre"}, ALONE, ALONE | {"normalization": "pre"}])
def test_layer_norm_and_attention_alone_make_the_round_trip(fields):
    model = with_random_norms(transformer(**fields, n_layers=2, attention_biases="frozen"))
    imported = from_state_dict(model.state_dict())
    assert imported[:4] == (model.config, model.d_vocab, 3, 13)
    rebuilt = build_model(*imported[:4], generator=torch.Generator())
    rebuilt.load_state_dict(imported.state, strict=True)
    assert torch.equal(rebuilt(all_pairs(13)), model(all_pairs(13)))


def test_a_hooked_transformers_state_dict_becomes_a_model_with_the_same_logits():
    model = transformer(**SMALL, n_layers=2, mlp_biases="trainable", activation="gelu", attention="bidirectional")
    imported = from_state_dict(hooked_transformer_state(model), activation="gelu", attention="bidirectional")
    assert imported.config.attention_biases == imported.config.unembed_biases == "frozen"
    assert imported.config.mlp_biases == "trainable"
    assert not any("mask" in name or "IGNORE" in name for name in imported.state)
    rebuilt = build_model(*imported[:4], generator=torch.Generator())
    rebuilt.load_state_dict(imported.state, strict=True)
    assert torch.equal(rebuilt(all_pairs(13)), model(all_pairs(13)))


def test_one_trained_bias_in_any_layer_makes_the_kind_trainable():
    state = hooked_transformer_state(transformer(**SMALL, n_layers=2))
    state["blocks.0.mlp.b_in"] = torch.ones(SMALL["d_mlp"])  # before zeros: the order must not matter
    assert from_state_dict(state).config.mlp_biases == "trainable"
    assert from_state_dict(dict(reversed(state.items()))).config.mlp_biases == "trainable"


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("embed.W_E", None, "must hold `embed.W_E`"),
        ("blocks.0.attn.W_Q", (16, 8), r"`blocks.0.attn.W_Q` must have axes \(n_heads, d_model, d_head\); got shape"),
        ("blocks.1.attn.W_K", (3, 16, 4), r"`blocks.1.attn.W_K` must have shape \(2, 16, 4\), .*; got \(3, 16, 4\)"),
        ("unembed.W_U", (15, 13), r"`unembed.W_U` must have shape \(16, 13\), .*; got \(15, 13\)"),
        ("blocks.1.mlp.W_out", None, "it lacks blocks.1.mlp.W_out"),
        ("blocks.1.attn.b_O", (16,), r"it lacks blocks.0.attn.b_K, .*blocks.1.attn.b_V"),
        ("blocks.0.ln1.w", (16,), r"it lacks blocks.0.ln1.b, blocks.0.ln2.b, .*, ln_final.b, ln_final.w"),
        ("ln_final.b", (15,), r"`ln_final.b` must have shape \(16,\), .*; got \(15,\)"),
        ("embed.W_F", (1,), "`embed.W_F` is no parameter of a HookedTransformer. Did you mean `embed.W_E`"),
    ],
)
def test_state_dicts_that_disagree_with_themselves_are_refused(name, shape, message):
    state = dict(transformer(**SMALL, n_layers=2).state_dict())
    state.pop(name, None)
    if shape is not None:
        state[name] = torch.ones(shape)
    with pytest.raises(ForeignFormatError, match=message):
        from_state_dict(state)


def test_an_empty_state_dict_is_refused():
    with pytest.raises(ForeignFormatError, match=r"must hold `embed.W_E`"):
        from_state_dict({})
