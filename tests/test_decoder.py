"""Power et al.'s decoder: a slow version in float64 is the oracle of the plain pass, that one of the fast pass."""

import math

import pytest
import torch
from torch import nn

import interp
from interp.config import Decoder, Recurrent, RunConfig, Symbolic, Transformer
from interp.errors import ConfigError
from interp.models import Network, build_model
from interp.tasks import build_task

P = 7
EOS, EQUALS, PLUS, V = 0, 1, 2, P + 3
SMALL = {"d_model": 12, "n_heads": 3, "d_mlp": 20}
CONFIGS = [
    *(Decoder(**SMALL, n_layers=n) for n in (1, 2, 3)),
    Decoder(**SMALL, activation="gelu"),
    Decoder(d_model=12, n_heads=1, d_mlp=20),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices are tiny here: threads would only wait for each other."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def inputs(encoding: str = "equation") -> torch.Tensor:
    """Pairs in a fixed disorder, some twice and some never, with and without the answer behind '='."""
    a, b = torch.cartesian_prod(torch.arange(P), torch.arange(P)).unbind(1)
    columns = {"a": a + 3, "b": b + 3, "c": (a + b) % P + 3} | {t: torch.full_like(a, t) for t in (EOS, EQUALS, PLUS)}
    names = {
        "equation": (EOS, "a", PLUS, "b", EQUALS),
        "closed": (EOS, "a", PLUS, "b", EQUALS, "c"),
        "direct": ("a", "b", EQUALS),
    }[encoding]
    tokens = torch.stack([columns[name] for name in names], dim=1)
    return tokens[torch.randint(len(tokens), (len(tokens),), generator=torch.Generator().manual_seed(1))]


def model_of(config: Decoder, seed: int = 0) -> Network:
    """A model whose gains and shifts are not those of the initialisation."""
    generator = torch.Generator().manual_seed(seed)
    model = build_model(config, V, 6, V, generator=generator).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".ln" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def name_of(config: Decoder) -> str:
    return "-".join(str(value) for key, value in config.to_dict().items() if key not in ("kind", "schema"))


def slowly(model: Network, row: list[int]) -> torch.Tensor:
    """Logits at every position of one input, from the definition: a position at a time, a head at a time."""
    config, d = model.config, model.config.d_model

    def normalised(x: torch.Tensor, ln: nn.Module) -> torch.Tensor:
        return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * ln.w + ln.b

    def wave(pos: int, i: int) -> float:
        angle = pos / 10_000 ** (2 * (i // 2) / d)
        return math.sin(angle) if i % 2 == 0 else math.cos(angle)

    waves = [torch.tensor([wave(pos, i) for i in range(d)], dtype=torch.float32).double() for pos in range(len(row))]
    x = [model.embed.W_E[token] + waves[pos] for pos, token in enumerate(row)]
    for block in model.blocks:
        mixed = []
        for i in range(len(row)):
            out = torch.zeros(d, dtype=torch.float64)
            for h in range(config.n_heads):
                q = x[i] @ block.attn.W_Q[h]
                scores = torch.stack([q @ (x[j] @ block.attn.W_K[h]) for j in range(i + 1)]) / math.sqrt(len(q))
                weights = scores.exp() / scores.exp().sum()
                out = out + sum(w * (x[j] @ block.attn.W_V[h]) for j, w in enumerate(weights)) @ block.attn.W_O[h]
            mid = normalised(x[i] + out, block.ln1)
            hidden = mid @ block.mlp.W_in
            hidden = hidden.clamp(min=0) if config.activation == "relu" else nn.functional.gelu(hidden)
            mixed.append(normalised(mid + hidden @ block.mlp.W_out, block.ln2))
        x = mixed
    return torch.stack(x) @ model.unembed.W_U


def gradients(model: Network, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a loss to which every logit matters, each differently."""
    target = torch.arange(logits.numel(), dtype=logits.dtype).reshape(logits.shape).sin()
    loss = (logits.log_softmax(-1) * target).sum() + (logits * target).pow(2).mean()
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters()))))


# --- the passes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_the_plain_pass_is_the_definition(config):
    model, tokens = model_of(config), inputs("closed")[:3]
    with torch.no_grad():
        expected = torch.stack([slowly(model, row) for row in tokens.tolist()])
        torch.testing.assert_close(model(tokens), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("encoding", ["equation", "closed", "direct"])
@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_the_fast_pass_and_its_gradients_are_those_of_the_plain_pass(config, encoding):
    model, tokens = model_of(config), inputs(encoding)
    pairs = model.prepare(tokens)
    for some in (torch.arange(len(tokens)), torch.arange(30), torch.arange(5), torch.tensor([3])):
        chosen, plain = pairs.select(some), model(tokens[some])[:, -1]
        answer = model.answer(chosen)
        torch.testing.assert_close(model.answer_logits(chosen), plain, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(answer.logits, plain, rtol=1e-12, atol=1e-12)
        expected = gradients(model, plain)
        scale = max(float(grad.norm()) for grad in expected.values())
        for logits in (model.answer_logits(chosen), answer.logits):
            for name, grad in gradients(model, logits).items():
                assert (grad - expected[name]).norm() <= 1e-11 * (expected[name].norm() + 1e-3 * scale), name


def test_the_comparison_can_fail():
    model, tokens = model_of(CONFIGS[1]), inputs()
    plain = model(tokens)[:, -1]
    with torch.no_grad():
        model.blocks[0].ln1.b[0] += 1e-3
    assert (model.answer_logits(model.prepare(tokens)) - plain).norm() > 1e-6 * plain.norm()


def test_full_size_in_float32():
    task = build_task(Symbolic())
    tokens = task.tokens[task.train][::5]
    generator = torch.Generator().manual_seed(0)
    model = build_model(Decoder(), task.d_vocab, task.n_ctx, task.d_vocab_out, generator=generator)
    with torch.inference_mode():
        fast, plain = model.answer_logits(model.prepare(tokens)), model(tokens)[:, -1]
    assert fast.shape == (len(tokens), 239)
    assert fast.dtype == torch.float32
    assert (fast - plain).norm() < 1e-5 * plain.norm()


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_neurons_over_the_scale_of_the_last_norm_and_the_rest_are_the_logits(config):
    model, tokens = model_of(config), inputs()
    answer, (logits, cache) = model.answer(model.prepare(tokens)), model.run_with_cache(tokens)
    decomposed = answer.neurons @ answer.neuron_logit_map + answer.residual_logits
    torch.testing.assert_close(decomposed, logits[:, -1], rtol=1e-12, atol=1e-12)
    last = f"blocks.{config.n_layers - 1}."
    sums = (cache[last + "hook_resid_mid"] + cache[last + "hook_mlp_out"])[:, -1]
    scale = (sums.var(dim=1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = cache[last + "mlp.hook_post"][:, -1] / scale
    torch.testing.assert_close(answer.neurons, expected, rtol=1e-12, atol=1e-13)
    # what the neurons add does not depend on the rest: without them the residual is what the last norm, its scale kept,
    # makes of the stream alone
    stream = cache[last + "hook_resid_mid"][:, -1]
    ln = model.blocks[-1].ln2
    alone = ((stream - stream.mean(1, keepdim=True)) / scale * ln.w + ln.b) @ model.unembed.W_U
    torch.testing.assert_close(answer.residual_logits, alone, rtol=1e-12, atol=1e-12)


# --- meaning ----------------------------------------------------------------------------------------------------------


def test_the_answer_behind_the_equals_sign_changes_nothing_before_it():
    model, tokens = model_of(Decoder(**SMALL)), inputs("closed")
    both = model.last_logits(model.prepare(tokens), 2)
    torch.testing.assert_close(both, model(tokens)[:, -2:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both[:, 0], model.answer_logits(model.prepare(tokens[:, :5])), rtol=1e-12, atol=1e-12)
    expected, found = gradients(model, model(tokens)[:, -2:]), gradients(model, both)
    for name, grad in expected.items():
        assert (found[name] - grad).norm() <= 1e-11 * grad.norm(), name


def test_positions_that_repeated_inputs_share_are_computed_for_each():
    model, tokens = model_of(Decoder(**SMALL)), inputs("closed")[:3].repeat(4, 1)
    pairs = model.prepare(tokens)
    assert len(pairs.levels[-1].tokens) == 1
    for positions in (1, 2, 4):
        plain, fast = model(tokens)[:, -positions:], model.last_logits(pairs, positions)
        torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", [Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=8), Recurrent()])
def test_other_causal_models_read_the_answer_at_the_last_position_only(config):
    model = build_model(config, V, 6, V, generator=torch.Generator().manual_seed(0)).double()
    closed = inputs("closed")
    both = model.last_logits(model.prepare(closed), 2)
    torch.testing.assert_close(both, model(closed)[:, -2:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both[:, 0], model(closed[:, :5])[:, -1], rtol=1e-12, atol=1e-12)


def test_prefixes_are_shared():
    levels = model_of(Decoder(**SMALL)).prepare(inputs("closed")).levels
    assert [(level.n_rows, len(level.tokens)) for level in levels] == [(1, 1), (7, 2), (49, 3)]


# --- parameters -------------------------------------------------------------------------------------------------------


def test_initial_weights_are_drawn_as_the_published_modules_draw_them():
    """An embedding; per layer the heads' queries, keys, values in turn, the output, two norms, the MLP; the head."""
    d, heads, d_mlp = 12, 3, 20
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        embedding, layers = nn.Embedding(V, d), []
        for _ in range(2):
            by_head = [[nn.Linear(d, d // heads, bias=False) for _ in range(3)] for _ in range(heads)]
            layers.append((by_head, *(nn.Linear(*s, bias=False) for s in ((d, d), (d, d_mlp), (d_mlp, d)))))
        head = nn.Linear(d, V, bias=False)
    model = build_model(Decoder(**SMALL), V, 5, V, generator=torch.Generator().manual_seed(4))
    state, expected = model.state_dict(), {"embed.W_E": embedding.weight, "unembed.W_U": head.weight.T}
    for layer, (by_head, out, up, down) in enumerate(layers):
        for name, of_heads in zip("QKV", zip(*by_head)):
            expected[f"blocks.{layer}.attn.W_{name}"] = torch.stack([linear.weight.T for linear in of_heads])
        expected[f"blocks.{layer}.attn.W_O"] = out.weight.T.reshape(heads, d // heads, d)
        expected |= {f"blocks.{layer}.mlp.W_in": up.weight.T, f"blocks.{layer}.mlp.W_out": down.weight.T}
        for norm in ("ln1", "ln2"):
            expected |= {f"blocks.{layer}.{norm}.w": torch.ones(d), f"blocks.{layer}.{norm}.b": torch.zeros(d)}
    assert state.keys() == expected.keys()
    for name, x in expected.items():
        assert torch.equal(state[name], x), name


@pytest.mark.parametrize("field", ["n_layers", "d_model", "n_heads", "d_mlp"])
def test_sizes_are_positive(field):
    with pytest.raises(ConfigError, match=rf"`Decoder.{field}` must be >= 1; got 0"):
        Decoder(**{field: 0})


def test_heads_divide_the_stream():
    with pytest.raises(ConfigError, match=r"`Decoder.n_heads` must be a divisor of d_model = 128; got 3"):
        Decoder(n_heads=3)


def test_a_model_that_learns_what_closes_the_answer_must_not_read_ahead():
    model = Transformer(attention="bidirectional")
    with pytest.raises(ConfigError, match=r"`model.attention` must be causal; got bidirectional"):
        RunConfig(task=Symbolic(closing=True), model=model)
    assert RunConfig(task=Symbolic(), model=model).model == model


# --- as part of a run -------------------------------------------------------------------------------------------------


def test_a_run_resumes_bit_for_bit_and_names_its_axes(tmp_path):
    config = RunConfig(task=Symbolic(p=5), model=Decoder(**SMALL), steps=12).replace(
        {"save.weights": "every(4)", "save.state": "every(4)", "optimizer.batch_size": 6}
    )
    traj = interp.train(config, root=tmp_path, device="cpu")
    assert traj.param("embed.W_E").dims == ("step", "token", "d_model")
    assert traj.param("blocks.1.ln2.w").dims == ("step", "d_model")
    assert traj.param("unembed.W_U").dims == ("step", "d_model", "d_vocab_out")
    zoom = interp.replay(traj, start=4, stop=12, every=4)
    assert (zoom.param("blocks.0.attn.W_Q")[-1] == traj.param("blocks.0.attn.W_Q")[-1]).all()
