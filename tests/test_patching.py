"""Patching and ablation: planted answers, TransformerLens's own functions, and slow versions by hand."""

import math

import numpy as np
import pytest
import torch

import interp
from interp.analysis import patching
from interp.analysis.batch import CheckpointBatch
from interp.analysis.context import RunContext
from interp.analysis.patching import (
    Site,
    Sources,
    activation_patching,
    mean_ablation,
    path_patching,
    resample_ablation,
    zero_ablation,
)
from interp.config import Decoder, FeedForward, Modular, Recurrent, Transformer
from interp.errors import InvalidArgumentError, UnknownNameError
from interp.models import Network, build_model
from interp.models.lens import to_bridge
from interp.tasks import build_task
from tests.guests.attention_only import AttentionOnly

SMALL = {"d_model": 12, "n_heads": 3, "d_head": 4, "d_mlp": 16}
ONE, TWO = Transformer(**SMALL, mlp_biases="trainable"), Transformer(**SMALL, n_layers=2, attention_biases="trainable")
MODELS = {
    "one layer": ONE,
    "two layers": TWO,
    "bidirectional": Transformer(**SMALL, n_layers=3, attention="bidirectional", activation="gelu"),
    "decoder": Decoder(d_model=12, n_heads=3, d_mlp=16),
    "mlp": FeedForward(d_model=6, d_hidden=(10, 8)),
    "lstm": Recurrent(d_model=6, d_hidden=8),
    "a user's": AttentionOnly(d_model=8),
}
ABLATIONS = (zero_ablation, mean_ablation, resample_ablation)
Z = "blocks.0.attn.hook_z"


def run_of(config, *, p=7, seed=0) -> tuple[Network, Sources]:
    """A network with random weights in float64, biases included, and random pairs of inputs."""
    task = build_task(Modular(p=p, encoding="operands" if isinstance(config, FeedForward) else "direct"))
    draws = torch.Generator().manual_seed(seed)
    model = (
        build_model(config, task.d_vocab, task.n_ctx, task.d_vocab_out, generator=draws).double().requires_grad_(False)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".b_" in name:
                parameter.normal_(0.0, 0.3, generator=draws)
    return model, Sources.of(task, seed=seed)


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


# --- activation patching ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_everything_of_the_source_is_the_source(name):
    """Embeddings know of the tokens alone, and there is no way around them."""
    model, runs = run_of(MODELS[name])
    found = activation_patching(model, runs, "embed" if name == "a user's" else "hook_embed")
    assert found.patched == found.source != found.base  # bit for bit
    assert found.effect == 1
    assert found.source_accuracy == float((model(runs.source)[:, -1].argmax(1) == runs.source_answers).double().mean())


@pytest.mark.parametrize("name", MODELS)
def test_the_own_activation_changes_no_bit(name):
    model, runs = run_of(MODELS[name])
    same = Sources(runs.base, runs.base, runs.base_answers, runs.source_answers)
    for site in model.run_with_cache(runs.base)[1]:
        found = activation_patching(model, same, site, draws=1)
        assert found.patched == found.base
        assert math.isnan(found.effect)  # both differences are one


@pytest.mark.parametrize("config", [ONE, TWO, MODELS["decoder"]], ids=["one", "two", "decoder"])
def test_a_head_that_writes_nothing_has_no_effect(config):
    model, runs = run_of(config)
    with torch.no_grad():
        model.blocks[0].attn.W_O[1] = 0
    idle, working = (activation_patching(model, runs, Site(Z, heads=head)) for head in (1, 2))
    assert idle.effect == idle.random_source_effect == 0
    assert working.effect != 0 != working.random_source_effect
    for ablation in ABLATIONS:
        found = ablation(model, runs.base, runs.base_answers, Site(Z, heads=1))
        assert (found.loss, found.accuracy) == (found.intact_loss, found.intact_accuracy)
        assert found.random_loss != found.intact_loss  # the other heads do something


def test_the_source_of_a_part_reaches_this_part_alone():
    model, runs = run_of(TWO)
    values = model.run_with_cache(runs.source)[1]["blocks.1.mlp.hook_post"]

    def by_hand(x):
        x[:, 2, 5], x[:, 2, 7] = values[:, 2, 5], values[:, 2, 7]
        return x

    with torch.no_grad():
        logits = model.run_with_changes(runs.base, {"blocks.1.mlp.hook_post": by_hand})[0][:, -1]
    n = torch.arange(len(logits))
    wanted = (logits[n, runs.base_answers] - logits[n, runs.source_answers]).mean()
    for positions in (2, -1, [2], (-1, 2)):
        site = Site("blocks.1.mlp.hook_post", positions=positions, neurons=[5, 7])
        assert close(activation_patching(model, runs, site).patched, float(wanted))
    mask = np.isin(np.arange(16), [5, 7])
    assert close(activation_patching(model, runs, Site(site.name, positions=-1, neurons=mask)).patched, float(wanted))


def test_the_control_takes_third_inputs():
    """Where all sources are one input, so are third ones; elsewhere neither answer is that of a third input."""
    model, runs = run_of(ONE)
    with torch.no_grad():  # a network that knows its answers, whatever they are
        answers = [model(tokens)[:, -1].argmax(1) for tokens in (runs.base, runs.source)]
    runs = Sources(runs.base, runs.source, *answers)
    one = Sources(runs.base, runs.source[:1].expand_as(runs.base), runs.base_answers, runs.source_answers)
    found = activation_patching(model, one, "blocks.0.hook_resid_mid")
    assert close(found.random_source, found.patched)
    found = activation_patching(model, runs, "blocks.0.hook_resid_mid")
    assert found.effect == 1
    assert abs(found.random_source_effect - 0.5) < 0.2  # neither answer is favoured
    again = activation_patching(model, runs, "blocks.0.hook_resid_mid", seed=1)
    assert again.effect == 1
    assert again.random_source != found.random_source


# --- path patching ----------------------------------------------------------------------------------------------------

WAYS = {
    "one layer": (Site(Z, heads=[0, 2]), ["blocks.0.mlp.hook_pre", "blocks.0.hook_resid_post"]),
    "two layers": (
        Site(Z, heads=1),
        [
            "blocks.0.mlp.hook_pre",
            *(f"blocks.1.attn.hook_{name}" for name in "qkv"),
            "blocks.1.mlp.hook_pre",
            "blocks.1.hook_resid_post",
        ],
    ),
    "decoder": (
        Site(Z, heads=1, positions=[1, 2]),
        [
            "blocks.1.hook_resid_post",
            "blocks.1.mlp.hook_pre",
            *(f"blocks.1.attn.hook_{name}" for name in "qkv"),
            "blocks.0.mlp.hook_pre",
        ],
    ),
    "mlp": (Site("blocks.0.mlp.hook_post", neurons=range(5)), ["blocks.1.mlp.hook_pre"]),
    "lstm": ("hook_embed", ["blocks.0.rnn.hook_h"]),
    "a user's": ("layers.0", ["layers.1"]),
}


@pytest.mark.parametrize("name", [name for name in WAYS if name != "a user's"])
def test_the_ways_to_all_readers_are_the_patch_itself(name):
    """In whatever order they are named; leave one out, and it is another effect."""
    model, runs = run_of(MODELS[name])
    sender, receivers = WAYS[name]
    whole = activation_patching(model, runs, sender, draws=2)
    found = path_patching(model, runs, sender, receivers, draws=2)
    assert close(found.effect, whole.effect)
    assert close(found.random_source, whole.random_source)
    assert not receivers[1:] or not close(path_patching(model, runs, sender, receivers[1:]).effect, whole.effect)


def test_one_way_by_hand():
    """A head to the MLP of a one-layer transformer, the stream past the MLP being that of the base inputs."""
    model, runs = run_of(ONE)
    (_, base), (_, source) = model.run_with_cache(runs.base), model.run_with_cache(runs.source)
    attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
    moved = (source[Z][:, -1, 1] - base[Z][:, -1, 1]) @ attn.W_O[1]
    mid = base["blocks.0.hook_resid_mid"][:, -1]
    neurons = ((mid + moved) @ mlp.W_in + mlp.b_in).relu()
    logits = (mid + neurons @ mlp.W_out + mlp.b_out) @ model.unembed.W_U
    n = torch.arange(len(logits))
    wanted = (logits[n, runs.base_answers] - logits[n, runs.source_answers]).mean()
    for receiver in ("blocks.0.mlp.hook_pre", "blocks.0.mlp.hook_post", "blocks.0.hook_mlp_out"):
        assert close(path_patching(model, runs, Site(Z, heads=1), receiver).patched, float(wanted))


@pytest.mark.parametrize("name", ["one layer", "two layers", "bidirectional", "decoder"])
def test_there_is_no_direct_way_from_an_operand_to_the_answer(name):
    """Nothing but attention moves between positions."""
    model, runs = run_of(MODELS[name])
    end = list(model.run_with_cache(runs.base)[1])[-1]
    assert path_patching(model, runs, Site("hook_embed", positions=[0, 1]), end).effect == 0
    assert activation_patching(model, runs, Site("hook_embed", positions=[0, 1])).effect == 1


def test_without_declared_branches_all_ways_count():
    """A user's network has all ways from one layer to the next; the last layer's output is not all that there is."""
    model, runs = run_of(MODELS["a user's"])
    sender, receivers = WAYS["a user's"]
    found, whole = path_patching(model, runs, sender, receivers), activation_patching(model, runs, sender)
    assert 0 != found.effect != whole.effect
    model.__class__ = type("Declared", (type(model),), {"branches": (("layers.0",), ("layers.1",), ("layers.2",))})
    with pytest.raises(UnknownNameError, match=r"`Declared.branches` must name activations; there is no `layers.2`"):
        path_patching(model, runs, sender, receivers)


# --- TransformerLens's own --------------------------------------------------------------------------------------------


def metric_of(runs: Sources):
    def metric(logits):
        last, n = logits[:, -1], torch.arange(len(runs.base))
        return (last[n, runs.base_answers] - last[n, runs.source_answers]).mean()

    return metric


@pytest.mark.parametrize("name", ["one layer", "two layers", "bidirectional"])
def test_it_is_the_activation_patching_of_transformer_lens(name):
    from transformer_lens import patching as theirs

    model, runs = run_of(MODELS[name])
    bridge, layers, p = to_bridge(model), range(len(model.blocks)), range(3)
    source = bridge.run_with_cache(runs.source)[1]
    settings = (bridge, runs.base, source, metric_of(runs))

    def ours(site):
        return activation_patching(model, runs, site, draws=1).patched

    with torch.no_grad():
        for get, stream in (
            (theirs.get_act_patch_resid_pre, "hook_resid_pre"),
            (theirs.get_act_patch_resid_mid, "hook_resid_mid"),
            (theirs.get_act_patch_attn_out, "hook_attn_out"),
            (theirs.get_act_patch_mlp_out, "hook_mlp_out"),
        ):
            found = [[ours(Site(f"blocks.{layer}.{stream}", positions=pos)) for pos in p] for layer in layers]
            np.testing.assert_allclose(found, get(*settings), rtol=0, atol=1e-6, err_msg=stream)
        for get, kind in (
            (theirs.get_act_patch_attn_head_q_by_pos, "q"),
            (theirs.get_act_patch_attn_head_k_by_pos, "k"),
            (theirs.get_act_patch_attn_head_v_by_pos, "v"),
            (theirs.get_act_patch_attn_head_out_by_pos, "z"),
            (theirs.get_act_patch_attn_head_pattern_by_pos, "pattern"),
        ):
            names = [f"blocks.{layer}.attn.hook_{kind}" for layer in layers]
            by_pos = [[[ours(Site(name, positions=pos, heads=head)) for head in p] for pos in p] for name in names]
            wanted = np.asarray(get(*settings))
            wanted = wanted.swapaxes(1, 2) if kind == "pattern" else wanted  # [layer, head, pos] there
            np.testing.assert_allclose(by_pos, wanted, rtol=0, atol=1e-6, err_msg=kind)


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_a_direct_path_is_that_of_transformer_lens(kind):
    """Hooks of the bridge make the path, as `get_act_patch_direct_path` does, which needs a fork that it lacks.

    What a head writes of the source less what it writes of the base comes to the queries, keys or values of one head.
    """
    model, runs = run_of(MODELS["bidirectional"])
    bridge, metric, sender = to_bridge(model), metric_of(runs), Site(Z, heads=1)
    with torch.no_grad():
        source, base = (bridge.run_with_cache(tokens)[1][Z][:, :, 1] for tokens in (runs.source, runs.base))
        delta = (source - base) @ bridge.blocks[0].attn.W_O[1]
        for layer, head in ((1, 0), (1, 2), (2, 1)):
            W = getattr(model.blocks[layer].attn, f"W_{kind.upper()}")[head]

            def add(x, hook, W=W, head=head):
                x[:, :, head] += delta @ W
                return x

            name = f"blocks.{layer}.attn.hook_{kind}"
            wanted = float(metric(bridge.run_with_hooks(runs.base, fwd_hooks=[(name, add)])))
            found = path_patching(model, runs, sender, Site(name, heads=head), draws=1)
            assert abs(found.patched - wanted) < 1e-6
            assert abs(found.patched - found.base) > 1e-6  # something is moved


# --- ablations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_ablations_by_hand(name):
    model, runs = run_of(MODELS[name])
    tokens, answers = runs.base, runs.base_answers
    site = {"mlp": "blocks.1.mlp.hook_post", "lstm": "blocks.0.rnn.hook_h", "a user's": "layers.1"}.get(
        name, "blocks.0.mlp.hook_post"
    )
    own = model.run_with_cache(tokens)[1][site]
    orders = [torch.randperm(len(own), generator=interp.rng.generator(4, "resample", draw)) for draw in range(2)]
    instead = {
        zero_ablation: [torch.zeros_like(own)],
        mean_ablation: [torch.stack([own.mean(0)] * len(own))],
        resample_ablation: [own[order] for order in orders],
    }
    for ablation, values in instead.items():
        losses, right = [], []
        for value in values:

            def change(x, value=value):
                x[..., 3] = value[..., 3]
                return x

            logits = model.run_with_changes(tokens, {site: change})[0][:, -1]
            losses.append(float(torch.nn.functional.cross_entropy(logits, answers)))
            right.append(float((logits.argmax(1) == answers).double().mean()))
        found = ablation(model, tokens, answers, Site(site, neurons=3), draws=2, seed=4)
        assert found.kind == ablation.__name__
        assert close(found.loss, np.mean(losses))
        assert close(found.accuracy, np.mean(right))


def test_the_control_ablates_as_many_others():
    """Ablation of the head that does everything leaves nothing; that of the others loses nothing."""
    model, runs = run_of(ONE)
    with torch.no_grad():
        model.blocks[0].attn.W_O[[0, 2]] = 0
    for ablation in ABLATIONS:
        found = ablation(model, runs.base, runs.base_answers, Site(Z, heads=1))
        assert found.random_loss == found.intact_loss != found.loss
        assert found.random_accuracy == found.intact_accuracy
        spoilt = ablation(model, runs.base, runs.base_answers, Site(Z, heads=[0, 2]))  # of two others one is at work
        assert spoilt.loss == spoilt.intact_loss != spoilt.random_loss
        for everything in (Z, Site(Z, heads=range(3))):
            assert math.isnan(ablation(model, runs.base, runs.base_answers, everything).random_loss)


def test_random_parts_are_others_as_far_as_they_go():
    model, runs = run_of(ONE)
    cache = model.run_with_cache(runs.base)[1]
    part = patching._Part.of(model, cache, Site("blocks.0.mlp.hook_post", positions=-1, neurons=range(6)))
    drawn = [part.random(torch.Generator().manual_seed(seed)).chosen for seed in range(200)]
    assert {axis for chosen in drawn for axis in chosen} == {1, 2}
    assert all(chosen[1] == [2] and len(set(chosen[2])) == 6 and min(chosen[2]) > 5 for chosen in drawn)
    counts = np.bincount(np.concatenate([chosen[2] for chosen in drawn]), minlength=16)[6:]
    assert counts.min() > 90  # 120 are expected, with a standard deviation of 7
    most = patching._Part.of(model, cache, Site("blocks.0.mlp.hook_post", neurons=range(12)))
    chosen = set(most.random(torch.Generator()).chosen[2])
    assert len(chosen) == 12
    assert {12, 13, 14, 15} < chosen


def test_masked_scores_stay_masked():
    """Scores of zero attend to all positions alike, but not to later ones."""
    model, runs = run_of(ONE)
    uniform = torch.tril(torch.ones(3, 3, dtype=torch.float64)) / torch.tensor([[1.0], [2.0], [3.0]])
    logits = model.run_with_changes(runs.base, {"blocks.0.attn.hook_pattern": lambda x: uniform.expand_as(x)})[0]
    loss = torch.nn.functional.cross_entropy(logits[:, -1], runs.base_answers)
    found = zero_ablation(model, runs.base, runs.base_answers, "blocks.0.attn.hook_attn_scores")
    assert close(found.loss, float(loss))


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "error", "message"),
    [
        ("blocks.0.hook_z", UnknownNameError, r"no activation `blocks.0.hook_z` in TransformerNetwork. Did you mean"),
        (Site(Z, heads=3), InvalidArgumentError, r"`heads` must be whole numbers in 0..2, or from -3 on .*; got 3"),
        (Site(Z, positions=-4), InvalidArgumentError, r"`positions` must be whole numbers in 0..2, .*; got -4"),
        (Site(Z, positions=np.array([0, 1.5])), InvalidArgumentError, r"`positions` must be whole numbers .*; got 1.5"),
        (Site(Z, positions=[]), InvalidArgumentError, r"`positions` must name at least one; got none"),
        (
            Site(Z, neurons=[1]),
            InvalidArgumentError,
            r"`neurons` must be left out for `.*hook_z`, whose axes are input",
        ),
        (Site("hook_embed", heads=0), InvalidArgumentError, r"`heads` must be left out for `hook_embed`"),
    ],
)
def test_parts_that_do_not_exist_are_refused(site, error, message):
    model, runs = run_of(ONE)
    with pytest.raises(error, match=message):
        activation_patching(model, runs, site)
    with pytest.raises(error, match=message):
        zero_ablation(model, runs.base, runs.base_answers, site)
    with pytest.raises(error, match=message):
        path_patching(model, runs, "hook_embed", [site])


def test_an_mlp_has_no_positions_behind_its_embedding():
    model, runs = run_of(MODELS["mlp"])
    with pytest.raises(InvalidArgumentError, match=r"`positions` must be left out .* whose axes are input, neuron"):
        activation_patching(model, runs, Site("blocks.0.mlp.hook_post", positions=0))


def test_other_arguments_are_checked(as_users_run_it):
    model, runs = run_of(ONE)
    with pytest.raises(InvalidArgumentError, match=r"`receivers` must lie behind the sender .*mid`; `.*hook_z` is"):
        path_patching(model, runs, "blocks.0.hook_resid_mid", [Z])
    with pytest.raises(InvalidArgumentError, match="`receivers` must lie behind the sender"):
        path_patching(model, runs, Z, Z)
    with pytest.raises(InvalidArgumentError, match="`receivers` must name at least one"):
        path_patching(model, runs, Z, [])
    with pytest.raises(InvalidArgumentError, match="`draws` must be a whole number >= 1; got 0"):
        activation_patching(model, runs, Z, draws=0)
    with pytest.raises(InvalidArgumentError, match=r"`source` must have the shape of `base`, \[49, 3\]; got \[49, 2\]"):
        Sources(runs.base, runs.source[:, :2], runs.base_answers, runs.source_answers)
    with pytest.raises(InvalidArgumentError, match="`source_answers` must have one entry for each of 49 inputs"):
        Sources(runs.base, runs.source, runs.base_answers, runs.source_answers[1:])
    with pytest.raises(InvalidArgumentError, match="must differ from `base_answers`"):
        Sources(runs.base, runs.source, runs.base_answers, runs.base_answers)
    model.__class__ = type("Mistaken", (type(model),), {"activation_axes": {"hook_embed": ("pos",)}})
    with pytest.raises(InvalidArgumentError, match=r"`Mistaken.activation_axes` must name the axes of `hook_embed`"):
        activation_patching(model, runs, "hook_embed")


def test_inputs_without_an_answer_are_left_out():
    task = build_task(Modular(p=5, operation="divide"))
    runs = Sources.of(task)
    assert len(runs.base) == 20
    assert (runs.base[:, 1] > 0).all()
    assert torch.equal(runs.source.sort(0).values, runs.base.sort(0).values)
    assert torch.equal(runs.base[:, 0], runs.base_answers * runs.base[:, 1] % 5)
    assert torch.equal(runs.source[:, 0], runs.source_answers * runs.source[:, 1] % 5)


# --- over checkpoints -------------------------------------------------------------------------------------------------


def test_measures_of_heads(toy_run):
    names = ["head_patching_effect", "head_patching_effect_random", "head_mlp_path_effect", "head_resample_accuracy"]
    data = interp.measure(toy_run, [*names, "head_mlp_path_effect_random"], steps=[0, 40])
    model, task = toy_run.model(40), toy_run.task
    some = torch.arange(49)[torch.randperm(49, generator=interp.rng.generator(0, "patched inputs"))]
    runs = Sources.of(task, some)
    assert data.head_patching_effect.dims == ("step", "head")
    for head in (0, 1):
        site, at = Site(Z, heads=head), {"step": 40, "head": head}
        found = activation_patching(model, runs, site, draws=1)
        np.testing.assert_allclose(data.head_patching_effect.sel(at), found.effect, rtol=1e-6)
        np.testing.assert_allclose(data.head_patching_effect_random.sel(at), found.random_source_effect, rtol=1e-6)
        found = path_patching(model, runs, site, "blocks.0.mlp.hook_pre", draws=1)
        np.testing.assert_allclose(data.head_mlp_path_effect.sel(at), found.effect, rtol=1e-6)
        np.testing.assert_allclose(data.head_mlp_path_effect_random.sel(at), found.random_source_effect, rtol=1e-6)
        found = resample_ablation(model, task.tokens[some], task.labels[some], site, draws=1)
        np.testing.assert_allclose(data.head_resample_accuracy.sel(at), found.accuracy)


def test_the_control_of_a_cluster(grokked_run):
    """As many other neurons at their means: by the ablation of activations, with the neurons that were drawn."""
    data = interp.measure(
        grokked_run, ["neuron_cluster_ablation_loss", "neuron_cluster_ablation_loss_random"], steps=[1600]
    )
    batch = CheckpointBatch(RunContext(grokked_run), np.array([len(grokked_run.steps) - 1]))
    frequency, share = batch.neuron_frequency.frequency[0], batch.neuron_frequency.share[0]
    model, task, tried = grokked_run.model(1600), grokked_run.task, 0
    for k in range(1, 12):
        cluster = ((frequency == k) & (share > 0.85)).nonzero().flatten().tolist()
        if not 0 < len(cluster) < 64:
            continue
        places = torch.rand(128, generator=interp.rng.generator(0, "random neurons", k))
        places[cluster] = 2
        others = places.argsort()[: len(cluster)]
        for found, neurons in (
            (data.neuron_cluster_ablation_loss, cluster),
            (data.neuron_cluster_ablation_loss_random, others),
        ):
            site = Site("blocks.0.mlp.hook_post", positions=-1, neurons=neurons)
            wanted = mean_ablation(model, task.tokens, task.labels, site, draws=1).loss
            np.testing.assert_allclose(found.sel(frequency=k).item(), wanted, rtol=1e-3)
        tried += 1
    assert tried > 0
