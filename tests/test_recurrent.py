"""Recurrent models: torch's own modules are the oracle of the plain pass, the plain pass that of the fast one."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn

import interp
from interp.config import Modular, Recurrent, RunConfig
from interp.errors import ConfigError
from interp.models import Batch, Network, build_model
from interp.models.prefixes import PrefixBatch, Rows, prefix_batch

P = 7
SMALL = {"d_model": 6, "d_hidden": 10}
CONFIGS = [
    *(Recurrent(**SMALL, cell=cell, n_layers=n) for cell, n in itertools.product(("lstm", "rnn"), (1, 2, 3))),
    Recurrent(**SMALL, cell="rnn", nonlinearity="relu", n_layers=2),
    Recurrent(**SMALL, init_scale=5.0),
    *(
        Recurrent(**SMALL, cell=cell, embedding="scalars", scalars=scalars)
        for cell, scalars in itertools.product(("lstm", "rnn"), ("raw", "divided"))
    ),
]
ENCODINGS = {
    "direct": ("a", "b", P),
    "sentence": (P + 2, "a", P + 1, "b", P + 3, P),
    "operands": ("a", "b"),
    "constants first": (P, P + 1, "a", "b"),
    "constants last": ("a", "b", P, P + 1, P),
    "thrice": ("a", P, "b", "a"),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices are tiny here: threads would only wait for each other."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def inputs(encoding: str) -> torch.Tensor:
    """Pairs in a fixed disorder, some twice and some never: neither order nor distinctness may matter."""
    a, b = torch.cartesian_prod(torch.arange(P), torch.arange(P)).unbind(1)
    columns = {"a": a, "b": b} | {token: torch.full_like(a, token) for token in range(P, P + 4)}
    tokens = torch.stack([columns[token] for token in ENCODINGS[encoding]], dim=1)
    return tokens[torch.randint(len(tokens), (len(tokens),), generator=torch.Generator().manual_seed(1))]


def model_of(config: Recurrent, encoding: str = "sentence") -> Network:
    return build_model(config, P + 4, len(ENCODINGS[encoding]), P, generator=torch.Generator().manual_seed(0)).double()


def name_of(config: Recurrent) -> str:
    return "-".join(str(value) for key, value in config.to_dict().items() if key not in ("kind", "schema", *SMALL))


def gradients(model: Network, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a loss to which every logit matters, each differently."""
    target = torch.arange(logits.numel(), dtype=logits.dtype).reshape(logits.shape).sin()
    loss = (logits.log_softmax(-1) * target).sum() + (logits * target).pow(2).mean()
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters()))))


def assert_equal_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    scale = max(float(grad.norm()) for grad in expected.values())
    for name, grad in expected.items():
        assert (found[name] - grad).norm() <= tolerance * (grad.norm() + 1e-3 * scale), name


def torchs(config: Recurrent, model: Network) -> nn.Module:
    """torch's LSTM or RNN with the weights of `model`."""
    options = {} if config.cell == "lstm" else {"nonlinearity": config.nonlinearity}
    d_in = config.d_model if config.embedding == "learned" else 1
    kind = nn.LSTM if config.cell == "lstm" else nn.RNN
    module = kind(d_in, config.d_hidden, config.n_layers, batch_first=True, dtype=torch.float64, **options)
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            for theirs, ours in zip(module.all_weights[layer], ("W_ih", "W_hh", "b_ih", "b_hh")):
                weight = getattr(block.rnn, ours)
                theirs.copy_(weight.T if weight.ndim == 2 else weight)
    return module


# --- the plain pass against torch, the fast pass against the plain one ------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_the_plain_pass_is_that_of_torchs_modules(config):
    model, tokens = model_of(config), inputs("sentence")
    if config.embedding == "learned":
        x = model.embed.W_E[tokens]
    else:
        x = tokens[..., None].double() / (P + 3 if config.scalars == "divided" else 1)
    states, _ = torchs(config, model)(x)
    logits, cache = model.run_with_cache(tokens)
    torch.testing.assert_close(cache[f"blocks.{config.n_layers - 1}.rnn.hook_h"], states, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(logits, states @ model.unembed.W_U + model.unembed.b_U, rtol=1e-12, atol=1e-12)
    assert ("blocks.0.rnn.hook_c" in cache) == (config.cell == "lstm")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_the_fast_pass_and_its_gradients_are_those_of_the_plain_pass(config, encoding):
    model, tokens = model_of(config, encoding), inputs(encoding)
    pairs = model.prepare(tokens)
    for some in (torch.arange(len(tokens)), torch.arange(30), torch.arange(5), torch.tensor([3])):
        chosen, plain = pairs.select(some), model(tokens[some])[:, -1]
        answer = model.answer(chosen)
        torch.testing.assert_close(model.answer_logits(chosen), plain, rtol=1e-12, atol=1e-12)
        decomposed = answer.neurons @ answer.neuron_logit_map + answer.residual_logits
        torch.testing.assert_close(decomposed, plain, rtol=1e-12, atol=1e-12)
        assert_equal_gradients(gradients(model, model.answer_logits(chosen)), gradients(model, plain), 1e-11)
    last = model.run_with_cache(tokens)[1][f"blocks.{config.n_layers - 1}.rnn.hook_h"][:, -1]
    torch.testing.assert_close(model.answer(pairs).neurons, last, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_full_size_in_float32(cell):
    a, b = torch.cartesian_prod(torch.arange(97), torch.arange(97)).unbind(1)
    tokens = torch.stack([a, b, torch.full_like(a, 97)], dim=1)[::3]
    model = build_model(Recurrent(cell=cell), 98, 3, 97, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        fast, plain = model.answer_logits(model.prepare(tokens)), model(tokens)[:, -1]
    assert fast.dtype == torch.float32
    assert (fast - plain).norm() < 1e-6 * plain.norm()


def test_the_comparison_can_fail():
    model, tokens = model_of(CONFIGS[0]), inputs("sentence")
    plain = model(tokens)[:, -1]
    with torch.no_grad():
        model.blocks[0].rnn.W_hh[0, 0] += 1e-3
    assert (model.answer_logits(model.prepare(tokens)) - plain).norm() > 1e-6 * plain.norm()


def test_gradients_of_an_lstm_cell_are_those_of_finite_differences():
    from interp.models.recurrent import _Gates

    generator = torch.Generator().manual_seed(0)
    u, c = (torch.randn(3, n, dtype=torch.float64, generator=generator, requires_grad=True) for n in (8, 2))
    assert torch.autograd.gradcheck(_Gates.apply, (u, c))
    assert torch.autograd.gradcheck(lambda u: _Gates.apply(u, None), (u,))
    assert torch.autograd.gradcheck(lambda u, c: _Gates.apply(u, c)[0], (u, c))


# --- prefixes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "levels"),
    [
        ("direct", [(7, 1), (49, 2)]),
        ("sentence", [(1, 1), (7, 2), (49, 3)]),
        ("constants first", [(1, 2), (7, 1), (49, 1)]),
        ("constants last", [(7, 1), (49, 4)]),
        ("thrice", [(7, 2), (49, 2)]),
    ],
)
def test_positions_are_computed_once_per_prefix(encoding, levels):
    pairs = prefix_batch(Batch(inputs(encoding), None), P + 4)
    assert [(level.n_rows, len(level.tokens)) for level in pairs.levels] == levels
    assert [level.first for level in pairs.levels] == [sum(n for _, n in levels[:i]) for i in range(len(levels))]


def tokens_of(pairs: PrefixBatch) -> torch.Tensor:
    """The inputs, put together from the levels."""
    table, found = torch.arange(P + 4.0)[:, None], None
    for level in pairs.levels:
        own = torch.cat([level.column(table, i).expand(level.n_rows, 1) for i in range(len(level.tokens))], dim=1)
        found = own if found is None else torch.cat([found[level.parent.index], own], dim=1)
    return found.long()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_levels_hold_the_inputs(encoding):
    tokens = inputs(encoding)
    pairs = prefix_batch(Batch(tokens, None), P + 4)
    assert torch.equal(tokens_of(pairs), tokens)
    for some in (torch.tensor([4, 4, 9, 0, 30, 31, 32, 33, 2]), torch.tensor([5, 48, 5]), torch.tensor([8])):
        chosen = pairs.select(some)
        assert torch.equal(tokens_of(chosen), tokens[some])
        assert torch.equal(chosen.tokens, tokens[some])
        # no prefix is computed that fewer pairs than prefixes would continue
        assert all(level.n_rows < len(some) or len(chosen.levels) == 1 for level in chosen.levels[:-1])


def test_prefixes_continue_prefixes():
    """Three operands: rows of the second level continue different rows of the first."""
    tokens = torch.cartesian_prod(*[torch.arange(4)] * 3)
    tokens = tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))]
    pairs = prefix_batch(Batch(tokens, None), P + 4)
    assert [level.n_rows for level in pairs.levels] == [4, 16, 64]
    assert torch.equal(tokens_of(pairs), tokens)
    some = torch.arange(0, 64, 3)
    assert [level.n_rows for level in pairs.select(some).levels] == [4, 16, 22]
    assert torch.equal(tokens_of(pairs.select(some)), tokens[some])


def test_look_ups_summed_by_a_matrix_product_are_index_select():
    """What `pairs` prepares on CUDA: incidence[entry, row] is 1 where a row takes an entry."""

    def with_incidence(rows: Rows | int | None, entries: int) -> Rows | int | None:
        if not isinstance(rows, Rows):
            return rows
        incidence = torch.zeros(entries, len(rows.index))
        for row, entry in enumerate(rows.index.tolist()):
            incidence[entry, row] = 1
        return Rows(rows.index, incidence)

    model, tokens = model_of(Recurrent(**SMALL, n_layers=2)), inputs("sentence")
    pairs = model.prepare(tokens)
    entries = [0, *(level.n_rows for level in pairs.levels)]
    levels = tuple(
        dataclasses.replace(
            level,
            tokens=tuple(with_incidence(token, P + 4) for token in level.tokens),
            parent=with_incidence(level.parent, n),
        )
        for level, n in zip(pairs.levels, entries)
    )
    by_product = PrefixBatch(tokens, None, levels=levels)
    for some in (torch.arange(49), torch.arange(20), torch.arange(3)):
        plain, ours = (model.answer_logits(p.select(some)) for p in (pairs, by_product))
        assert torch.equal(ours, plain)
        assert_equal_gradients(gradients(model, ours), gradients(model, plain), 1e-12)


# --- dropout ----------------------------------------------------------------------------------------------------------


def test_dropout_multiplies_the_last_state_with_a_mask_of_mean_1():
    config = Recurrent(d_model=6, d_hidden=100, dropout=0.2)
    model, tokens = model_of(config), inputs("sentence")
    mask = model.dropout_mask(len(tokens), torch.Generator().manual_seed(5))
    assert mask.shape == (49, 100)
    assert set(mask.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.8)}
    assert abs(float(mask.mean()) - 1) < 5 * math.sqrt(0.2 / 0.8 / 4900)
    assert torch.equal(mask, model.dropout_mask(49, torch.Generator().manual_seed(5)))
    assert not torch.equal(mask, model.dropout_mask(49, torch.Generator().manual_seed(6)))

    pairs = model.prepare(tokens)
    state = model.answer(pairs).neurons
    dropped = dataclasses.replace(pairs, dropout=mask.double())
    expected = (state * mask) @ model.unembed.W_U + model.unembed.b_U
    torch.testing.assert_close(model.answer_logits(dropped), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(model.answer_logits(dropped), model.answer_logits(pairs))
    assert dropped.select(torch.arange(4)).dropout is None  # a mask belongs to one pass


def test_a_model_without_dropout_has_no_mask():
    assert model_of(Recurrent(**SMALL)).dropout_mask(3, torch.Generator()) is None


# --- parameters -------------------------------------------------------------------------------------------------------


def test_names_and_shapes():
    shapes = {name: tuple(x.shape) for name, x in model_of(Recurrent(**SMALL, n_layers=2)).state_dict().items()}
    layer = {"W_hh": (10, 40), "b_ih": (40,), "b_hh": (40,)}
    assert shapes == {
        "embed.W_E": (11, 6),
        "blocks.0.rnn.W_ih": (6, 40),
        **{f"blocks.0.rnn.{name}": shape for name, shape in layer.items()},
        "blocks.1.rnn.W_ih": (10, 40),
        **{f"blocks.1.rnn.{name}": shape for name, shape in layer.items()},
        "unembed.W_U": (10, 7),
        "unembed.b_U": (7,),
    }


def test_a_model_of_numbers_says_that_it_has_no_embedding():
    model = model_of(Recurrent(**SMALL, embedding="scalars"))
    assert model.embed is None
    assert "embed.W_E" not in model.state_dict()
    assert model.blocks[0].rnn.W_ih.shape == (1, 40)


@pytest.mark.parametrize("alpha", [1.0, 5.0])
@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_initial_weights_are_those_of_a_torch_script_times_alpha(cell, alpha):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        embedding = nn.Embedding(11, 6)
        recurrent = {"lstm": nn.LSTM, "rnn": nn.RNN}[cell](6, 10, 2)
        readout = nn.Linear(10, 7)
    config = Recurrent(**SMALL, cell=cell, n_layers=2, init_scale=alpha)
    state = build_model(config, 11, 3, 7, generator=torch.Generator().manual_seed(3)).state_dict()
    modules = embedding.weight.T, *recurrent.parameters(), readout.weight, readout.bias
    theirs = [x.T if x.ndim == 2 else x for x in modules]
    assert len(state) == len(theirs)
    for (name, ours), expected in zip(state.items(), theirs):
        assert torch.equal(ours, alpha * expected), name


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [("n_layers", 0, ">= 1"), ("d_hidden", 0, ">= 1"), ("d_model", 0, ">= 1"), ("dropout", 1.0, r"in \[0, 1\)"),
     ("dropout", -0.1, r"in \[0, 1\)"), ("init_scale", 0.0, "> 0")],
)  # fmt: skip
def test_rules_of_the_config(field, value, rule):
    with pytest.raises(ConfigError, match=rf"`Recurrent.{field}` must be {rule}; got"):
        Recurrent(**{field: value})


def test_numbers_need_tokens_that_are_numbers():
    with pytest.raises(ConfigError, match=r"reads its tokens as numbers.*must be direct, or bits; got sentence"):
        RunConfig(task=Modular(encoding="sentence"), model=Recurrent(embedding="scalars"))
    assert RunConfig(model=Recurrent(embedding="scalars")).model.slug == "lstm"


# --- as part of a run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["direct", "sentence"])
def test_a_run_resumes_bit_for_bit_and_names_its_axes(encoding, tmp_path):
    config = RunConfig(
        task=Modular(p=7, train_fraction=0.6, encoding=encoding), model=Recurrent(**SMALL, cell="rnn"), steps=12
    ).replace({"save.weights": "every(4)", "save.state": "every(4)", "optimizer.batch_size": 6})
    traj = interp.train(config, root=tmp_path, device="cpu")
    assert traj.param("embed.W_E").dims == ("step", "token", "d_model")
    assert traj.param("blocks.0.rnn.W_hh").dims == ("step", "d_hidden", "gate")
    assert traj.param("unembed.W_U").dims == ("step", "neuron", "d_vocab_out")
    zoom = interp.replay(traj, start=4, stop=12, every=4)
    assert (zoom.param("blocks.0.rnn.W_ih")[-1] == traj.param("blocks.0.rnn.W_ih")[-1]).all()
    logits = traj.model(12)(traj.task.tokens)[:, -1]
    fast = traj.model(12).answer_logits(traj.model(12).prepare(traj.task.tokens))
    torch.testing.assert_close(fast, logits, rtol=1e-4, atol=1e-5)
