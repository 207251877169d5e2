"""A network with nothing but some frequencies, heads or neurons: it is the ablation that it says, in all its passes."""

import pytest
import torch

import interp
from interp.analysis import spectra
from interp.analysis.ablations import keep_only
from interp.analysis.measures import key_frequencies
from interp.config import Decoder, FeedForward, Group, Logistic, Modular, Recurrent, Transformer
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.models import Network, build_model
from interp.tasks import Examples, build_task
from tests.guests.attention_only import AttentionOnly

SMALL = {"d_model": 12, "n_heads": 3, "d_head": 4, "d_mlp": 16}
MODELS = {
    "transformer": Transformer(**SMALL, attention_biases="absent", mlp_biases="absent", unembed_biases="absent"),
    "biased": Transformer(**SMALL, attention_biases="trainable", mlp_biases="frozen", unembed_biases="trainable"),
    "two layers": Transformer(**SMALL, n_layers=2, attention="bidirectional", mlp_biases="trainable"),
    "decoder": Decoder(d_model=12, n_heads=3, d_mlp=16),
    "mlp": FeedForward(d_model=6, d_hidden=(10, 8), biases="absent"),
    "bilinear": FeedForward(d_model=6, embedding="separate", combine="product", d_hidden=()),
    "one-hot": FeedForward(embedding="one-hot", d_hidden=(10, 9)),
    "lstm": Recurrent(d_model=6, d_hidden=8, n_layers=2),
}


def run_of(name, p=7, **task_fields) -> tuple[Network, Examples]:
    """A network with random weights in float64, biases included, and its task."""
    config = MODELS[name]
    encoding = "operands" if isinstance(config, FeedForward) else "direct"
    task = build_task(Modular(p=p, encoding=encoding, **task_fields))
    draws = torch.Generator().manual_seed(0)
    model = build_model(config, task.d_vocab, task.n_ctx, task.d_vocab_out, generator=draws).double()
    with torch.no_grad():
        for at, parameter in model.named_parameters():
            if ".b_" in at:
                parameter.normal_(0.0, 0.3, generator=draws)
    return model, task


@torch.no_grad()
def answers(model: Network, task: Examples) -> torch.Tensor:
    """Logits of all inputs by the fast pass, found equal to those of the plain pass."""
    fast, plain = model.answer_logits(model.prepare(task.tokens)), model(task.tokens)[:, -1]
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)
    return plain


@torch.no_grad()
def ablated(model: Network, task: Examples, changes: dict[str, tuple[list[int], str]]) -> torch.Tensor:
    """Logits where all but some heads or neurons, the axis before the last or the last, are at zero or at a mean."""

    def change(name, kept, other):
        def of(x):
            values = x if name.endswith("hook_z") else x[..., None]  # parts are the axis before the last
            instead = torch.zeros_like(values) if other == "zero" else values.mean(0, keepdim=True).expand_as(values)
            instead = instead.clone()
            instead[..., kept, :] = values[..., kept, :]
            return instead if name.endswith("hook_z") else instead[..., 0]

        return of

    return model.run_with_changes(task.tokens, {name: change(name, *how) for name, how in changes.items()})[0][:, -1]


CASES = [
    ("transformer", {"heads": [1]}, {"blocks.0.attn.hook_z": [1]}),
    ("transformer", {"neurons": [2, 9, -1]}, {"blocks.0.mlp.hook_post": [2, 9, 15]}),
    ("biased", {"heads": [0, 2]}, {"blocks.0.attn.hook_z": [0, 2]}),
    ("biased", {"neurons": range(3)}, {"blocks.0.mlp.hook_post": [0, 1, 2]}),
    ("two layers", {"heads": {1: [2]}}, {"blocks.1.attn.hook_z": [2]}),
    ("two layers", {"neurons": [5]}, {"blocks.1.mlp.hook_post": [5]}),
    ("two layers", {"neurons": {1: []}}, {"blocks.1.mlp.hook_post": []}),
    ("mlp", {"neurons": [1, 2]}, {"blocks.1.mlp.hook_post": [1, 2]}),
    ("mlp", {"neurons": {0: [4], 1: [0, 7]}}, {"blocks.0.mlp.hook_post": [4], "blocks.1.mlp.hook_post": [0, 7]}),
    ("one-hot", {"neurons": {0: [4, 3]}}, {"blocks.0.mlp.hook_post": [3, 4]}),
    ("bilinear", {"neurons": [3]}, {"hook_product": [3]}),
]


@pytest.mark.parametrize("other", ["zero", "mean"])
@pytest.mark.parametrize(("name", "kept", "changes"), CASES)
def test_it_is_the_ablation_that_it_says(name, kept, changes, other):
    """Ablation by way of changed activations, and in both passes of the network, is that of the weights."""
    model, task = run_of(name)
    before = {at: W.clone() for at, W in model.state_dict().items()}
    found = keep_only(model, **kept, other=other, examples=task)
    if other == "mean" and len(changes) > 1:  # means are those of the network as it is given
        cache = model.run_with_cache(task.tokens)[1]
        own = {at: cache[at].mean(0, keepdim=True).expand_as(cache[at]).clone() for at in changes}

        def at_means(at):
            def change(x):
                x, kept = own[at].clone(), x
                x[:, changes[at]] = kept[:, changes[at]]
                return x

            return change

        wanted = model.run_with_changes(task.tokens, {at: at_means(at) for at in changes})[0][:, -1]
    else:
        wanted = ablated(model, task, {at: (parts, other) for at, parts in changes.items()})
    torch.testing.assert_close(answers(found, task), wanted, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(wanted, answers(model, task))
    assert type(found) is type(model)
    assert found.ablation.startswith(f"{other} ablation of all {min(kept)} of")
    assert found.ablation in repr(found)
    assert all(torch.equal(W, before[at]) for at, W in model.state_dict().items())
    assert model.ablation == ""


@pytest.mark.parametrize(("name", "layer"), [("two layers", 0), ("two layers", 1), ("decoder", 0), ("decoder", 1)])
def test_layers_below_are_ablated_at_zero(name, layer):
    model, task = run_of(name)
    for kept, site in (({"heads": {layer: [1]}}, "attn.hook_z"), ({"neurons": {layer: [1]}}, "mlp.hook_post")):
        wanted = ablated(model, task, {f"blocks.{layer}.{site}": ([1], "zero")})
        torch.testing.assert_close(answers(keep_only(model, **kept), task), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("other", ["zero", "mean"])
def test_states_of_a_recurrence_keep_their_way_to_the_next(other):
    model, task = run_of("lstm")
    h = model.run_with_cache(task.tokens)[1]["blocks.1.rnn.hook_h"][:, -1]
    instead = torch.zeros_like(h) if other == "zero" else h.mean(0).expand_as(h).clone()
    instead[:, [0, 6]] = h[:, [0, 6]]
    wanted = instead @ model.unembed.W_U + model.unembed.b_U
    found = keep_only(model, neurons=[0, 6], other=other, examples=task)
    torch.testing.assert_close(answers(found, task), wanted, rtol=1e-9, atol=1e-9)


def test_all_parts_are_the_network_itself():
    model, task = run_of("biased")
    for kept in ({"heads": range(3)}, {"neurons": range(16)}, {"heads": range(3), "neurons": range(16)}):
        for other in ("zero", "mean"):
            assert torch.equal(
                answers(keep_only(model, **kept, other=other, examples=task), task), answers(model, task)
            )
    found = keep_only(model, frequencies=[1, 2, 3], examples=task)
    torch.testing.assert_close(answers(found, task), answers(model, task), rtol=1e-9, atol=1e-9)


def test_biases_are_trained_as_before():
    model, task = run_of("biased")
    found = keep_only(model, heads=[0], neurons=[0], other="mean", examples=task)
    for name, W in found.named_parameters():
        assert W.requires_grad == model.get_parameter(name).requires_grad, name
    assert "blocks.0.mlp.b_out" in found.state_dict()
    model, task = run_of("transformer")
    new = keep_only(model, neurons=[0], other="mean", examples=task).get_parameter("blocks.0.mlp.b_out")
    assert not new.requires_grad


# --- frequencies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["transformer", "decoder", "mlp", "bilinear", "lstm"])
def test_frequencies_that_remain(name):
    model, task = run_of(name, p=11)
    found = keep_only(model, frequencies=[2, 5], examples=task)
    for table in model.embeddings:
        own, kept = (network.get_parameter(table).detach() for network in (model, found))
        power, before = (spectra.embedding_power(W[:11]) for W in (kept, own))
        torch.testing.assert_close(power[[1, 4]], before[[1, 4]])
        assert power[[0, 2, 3]].max() < 1e-20
        torch.testing.assert_close(kept[:11].mean(0), own[:11].mean(0))
        assert torch.equal(kept[11:], own[11:])  # '='
    assert not torch.allclose(answers(found, task), answers(model, task))
    assert found.ablation == "frequencies 2, 5 of the embedding alone (characters of the integers mod 11)"
    mask = torch.tensor([False, True, False, False, True])
    assert torch.equal(answers(keep_only(model, frequencies=mask, examples=task), task), answers(found, task))


def test_products_have_the_frequencies_of_their_logarithms():
    model, task = run_of("transformer", p=11, operation="multiply")
    found = keep_only(model, frequencies=[3], examples=task)
    W, own = (network.embed.W_E.detach() for network in (found, model))
    powers = torch.tensor([1, 2, 4, 8, 5, 10, 9, 7, 3, 6])  # of 2, a primitive root mod 11
    power = spectra.embedding_power(W[powers])
    assert power[2] > 0.1
    assert power[[0, 1, 3, 4]].max() < 1e-20
    assert torch.equal(W[[0, 11]], own[[0, 11]])
    assert "discrete logarithms to base 2" in found.ablation


def test_key_frequencies_alone_do_the_task(grokked_run):
    """And the others alone do not: by measures of the package, on the network that is returned."""
    task, model = grokked_run.task, grokked_run.model()
    keys = key_frequencies(grokked_run)
    others = [k for k in range(1, 12) if k not in keys]

    def accuracy(network):
        return float((network.answer_logits(network.prepare(task.tokens)).argmax(1) == task.labels).double().mean())

    assert accuracy(keep_only(model, frequencies=keys, examples=task)) > 0.95
    assert accuracy(keep_only(model, frequencies=others, examples=task)) < 0.2

    def on_keys(network):
        return accuracy(keep_only(network, frequencies=keys, examples=task))

    over_steps = interp.measure(grokked_run, [on_keys], steps=[0, 1600]).on_keys
    assert over_steps.values[0] < 0.2 < 0.95 < over_steps.values[1]


def test_ablations_add_up():
    model, task = run_of("biased")
    both = keep_only(model, heads=[0], frequencies=[1], examples=task)
    one = keep_only(keep_only(model, frequencies=[1], examples=task), heads=[0])
    assert torch.equal(answers(both, task), answers(one, task))
    assert both.ablation == one.ablation
    assert both.ablation.count("; ") == 1
    many = keep_only(model, neurons=range(12)).ablation
    assert many == "zero ablation of all neurons of blocks.0.mlp.hook_post but 12 of 16"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("biased", {}, InvalidArgumentError, "`frequencies`, `heads` or `neurons` to keep; got none"),
        ("biased", {"heads": [0], "other": "median"}, InvalidArgumentError, '`other` must be "zero" or "mean"; got'),
        ("biased", {"heads": [3]}, InvalidArgumentError, "`heads` must be whole numbers in 0..2, .*; got 3"),
        ("biased", {"heads": {1: [0]}}, InvalidArgumentError, "`heads` must name layers in 0..0; got 1"),
        ("two layers", {"heads": [1]}, InvalidArgumentError, r"`heads` must name the layer, .*: write \{0: \[1\]\}"),
        ("biased", {"frequencies": [1]}, InvalidArgumentError, "`examples` must be given for `frequencies`; pass"),
        (
            "biased",
            {"heads": [1], "other": "mean"},
            InvalidArgumentError,
            '`examples` must be given for `other="mean"`',
        ),
        ("mlp", {"heads": [1]}, NotAvailableError, "`heads` need a network .*; FeedForwardNetwork names none"),
        (
            "two layers",
            {"heads": {0: [1]}, "other": "mean", "examples": True},
            NotAvailableError,
            'must be "zero" for `blocks.0.attn.hook_z`, to which a later layer attends',
        ),
        (
            "decoder",
            {"neurons": [1], "other": "mean", "examples": True},
            NotAvailableError,
            'must be "zero" for `neurons` of DecoderNetwork, which has no bias',
        ),
        ("one-hot", {"frequencies": [1], "examples": True}, NotAvailableError, "FeedForwardNetwork has none"),
        ("biased", {"frequencies": [4], "examples": True}, InvalidArgumentError, "list of frequencies in 1..3 for p=7"),
    ],
)
def test_it_says_what_it_cannot_do(name, arguments, error, message, as_users_run_it):
    model, task = run_of(name)
    if "examples" in arguments:
        arguments = arguments | {"examples": task}
    with pytest.raises(error, match=message):
        keep_only(model, **arguments)


def test_other_tasks_and_networks_are_refused_in_words():
    task = build_task(Group(n=3))
    model = build_model(MODELS["biased"], task.d_vocab, task.n_ctx, task.d_vocab_out, generator=torch.Generator())
    with pytest.raises(NotAvailableError, match="defined where the operands are residues; got pairs of elements of S3"):
        keep_only(model, frequencies=[1], examples=task)
    for config, name in ((Logistic(), "LogisticNetwork"), (AttentionOnly(), "AttentionOnlyNetwork")):
        model = build_model(config, 5, 3, 1, generator=torch.Generator().manual_seed(0))
        with pytest.raises(NotAvailableError, match=rf"declares what reads them \(`Network.readers`\); {name} names"):
            keep_only(model, neurons=[0])
