"""Explanations of runs: planted algorithms are found, certified and rebuilt; what was only memorised is not."""

import dataclasses
import inspect
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray

import interp
from interp.analysis.account import PARTS, Account
from interp.analysis.certificate import Certificate, certify
from interp.analysis.context import RunContext
from interp.analysis.explaining import PERMUTATIONS, Examined
from interp.analysis.operands import order_of_operands
from interp.analysis.spectra import neuron_power
from interp.config import AdamW, Decoder, FeedForward, Group, Modular, Recurrent, RunConfig, Symbolic, Transformer
from interp.errors import InvalidArgumentError, NotAvailableError, StoreError, UnknownNameError
from interp.explanation import births, compare_explanations, explain, verify_explanation
from interp.explanation import explaining as module
from interp.explanation.explaining import Explanation
from interp.explanation.presenting import _sources, formula_html
from interp.explanation.sentences import Sentence
from interp.models import Network
from interp.store import RunWriter
from interp.theory.groups import finite_group, irreps
from tests.test_account import planted_group
from tests.test_cli import call

SENTENCES = ["keys", "readout", "first", "second", "product", "phases", "bypass", "whole", "certificate"]


def trained(root, task, model, steps=2, **settings):
    config = RunConfig(task=task, model=model, steps=steps, optimizer=AdamW(lr=1e-3), **settings)
    return interp.train(config, root=root, device="cpu")


def planted_run(
    root, p=59, keys=(1, 7, 16), per_key=64, harmonic=-0.113, operation="add", embedding="one-hot", size=0.1
):
    """A run whose last step is a planted network: neurons at even phases on each key, with a second harmonic."""
    n = per_key * len(keys)
    task = Modular(p=p, operation=operation, encoding="operands")
    run = trained(root / "made", task, FeedForward(embedding=embedding, d_hidden=(n,), biases="absent"), steps=1)
    examples = run.task
    order = order_of_operands(examples)
    N = len(order.residues)
    phase, t = 2 * np.pi * np.arange(per_key) / per_key, 2 * np.pi * np.arange(N) / N
    angle = np.concatenate([np.outer(k * t, np.ones(per_key)) + phase for k in keys], 1)
    wave = np.cos(angle) + harmonic * np.cos(2 * angle)
    read_out = np.concatenate([np.cos(np.outer(np.ones(per_key), k * t) + 2 * phase[:, None]) for k in keys])
    weights = {name: np.zeros_like(run.param(name).sel(0)) for name in run.names}
    tokens, classes = examples.operands[order.residues].numpy(), examples.classes[order.residues].numpy()
    backwards = -np.arange(N) % N if order.operation == "subtract" else np.arange(N)
    weights["embed.W_E"][tokens] = wave
    weights["embed.W_E"][examples.d_vocab + tokens] = wave[backwards]
    weights["unembed.W_U"][:, classes] = size * read_out
    folder = root / f"{operation}{p}-planted{harmonic:g}"
    with RunWriter.create(folder, run.run, fsync=False) as writer:
        writer.append(0, {name: run.param(name).sel(0) for name in run.names})
        writer.append(1, weights)
    return interp.load(folder)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_run(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def found(planted):
    return explain(planted, timeline=False)


@pytest.fixture(scope="module")
def grokked(grokked_run):
    return explain(grokked_run, timeline=False)


@pytest.fixture(scope="module")
def memorised(tmp_path_factory):
    """A network that knows its training set and nothing else."""
    config = interp.recipes.get("kitouni-circle").replace(
        {
            "task.p": 23,
            "task.train_fraction": 0.4,
            "model.d_model": 64,
            "model.d_head": 16,
            "model.d_mlp": 128,
            "optimizer.lr": 2e-3,
            "optimizer.weight_decay": 0.0,
            "steps": 300,
            "save.weights": "every(100)",
        }
    )
    return interp.train(config, root=tmp_path_factory.mktemp("memorised"), device="cpu")


def accuracy(traj, step=None):
    model, examples = traj.model(step), traj.task
    defined = examples.train | examples.test
    right = model(examples.tokens)[:, -1].argmax(-1) == examples.labels
    return float(right[defined].double().mean())


# --- a planted algorithm ----------------------------------------------------------------------------------------------


def test_a_planted_algorithm_is_explained(planted, found):
    assert (found.run, found.step) == (planted.folder.name, 1)
    assert found.verdict == "explained"
    assert found.account.keys == (1, 7, 16)
    assert all(type(key) is int for key in found.account.keys)
    assert [sentence.id for sentence in found.sentences] == SENTENCES
    assert {s.id for s in found.sentences if not s.holds} == {"product"}  # nothing multiplies before the non-linearity
    assert found.account.alpha_from[:, 2].max() < 1e-6
    assert (found.sentence("phases").explained, found.sentence("whole").alone.accuracy) == pytest.approx((1, 1))
    assert found.network.accuracy == accuracy(planted) == 1
    assert found.left_over.logits < 1e-3
    assert found.left_over.pre_activations < 1e-6


def test_names_that_scripts_rely_on(found):
    certificate = found.certificate
    assert isinstance(certificate, Certificate)
    assert type(certificate.accuracy) is type(certificate.loss) is float
    assert certificate.accuracy == 1
    assert found.network.loss < certificate.loss < found.network.loss + 1e-3  # the bound is the loss
    assert certificate.right.shape == (59, 59)
    assert certificate.right.dtype == bool
    assert certificate.right.all()
    assert 0 < certificate.operations < certificate.exhaustive
    assert certificate.forward > 0
    assert certificate.compact is True
    assert certificate.rank == 4
    assert isinstance(found.ideal_model, Network)
    assert found.left_over.readout < 1e-6
    for sentence in found.sentences:
        assert sentence.text
        assert isinstance(sentence.holds, bool)
        assert sentence.rule
        assert sentence.explained is None or sentence.explained <= 1 + 1e-9
        for score in (sentence.alone, sentence.without, sentence.resampled):
            assert score is None or 0 <= score.accuracy <= 1
        assert {"explained", "alone", "without", "resampled"} <= {*vars(sentence.null)}
    assert list(found.scores["sentence"].values) == [sentence.id for sentence in found.sentences]
    assert float(found.scores["resampled_accuracy"].sel(sentence="whole")) == found.sentence("whole").resampled.accuracy
    assert found.sentence("whole").null.resampled.accuracy < 0.1
    with pytest.raises(NotAvailableError, match="no sentence 'attention'; it has keys, readout"):
        found.sentence("attention")


def test_the_other_planted_network_is_explained_though_it_is_often_wrong(tmp_path):
    traj = planted_run(tmp_path, harmonic=0.113)
    found = explain(traj, timeline=False)
    assert found.network.accuracy == accuracy(traj) == pytest.approx(0.661, abs=2e-3)
    assert found.certificate.accuracy == pytest.approx(0.661, abs=2e-3)
    assert found.account.keys == (1, 7, 16)
    assert found.sentence("whole").holds
    assert found.verdict == "in part"  # a right account of a bad network


def test_without_a_key_it_is_explained_in_part_and_nothing_is_certified(planted):
    found = explain(planted, keys=[1, 7], timeline=False)
    assert found.verdict == "in part"
    assert found.certificate.accuracy == 0
    assert math.isinf(found.certificate.loss) or found.certificate.loss > 1
    assert found.left_over.logits > 0.1
    assert set(found.left_over.by_frequency) >= {16}


def test_wrong_keys_explain_nothing(planted):
    found = explain(planted, keys=[3, 5, 19], timeline=False)
    assert found.sentence("keys").explained < 1e-6
    assert found.sentence("whole").explained < 0.2
    assert found.sentence("whole").resampled.accuracy < 0.1
    assert found.certificate.accuracy == 0
    assert found.verdict == "none"
    assert not found.sentence("keys").holds


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide"])
def test_operations_that_are_sums_in_some_order(operation, tmp_path):
    traj = planted_run(tmp_path, p=23, keys=(1, 3, 4), per_key=24, operation=operation, size=0.3)
    found = explain(traj, timeline=False)
    N = 22 if operation in ("multiply", "divide") else 23
    assert found.account.keys == (1, 3, 4)
    assert found.account.operation == {"multiply": "add", "divide": "subtract"}.get(operation, operation)
    assert sorted(found.account.elements) == list(range(23 - N, 23))  # 0 has no logarithm
    assert found.verdict == ("explained" if N == 23 else found.verdict)
    examples = traj.task
    labels, defined = (x.reshape(23, 23).numpy() for x in (examples.labels, examples.train | examples.test))
    logits = traj.model()(examples.tokens)[:, -1].detach().reshape(23, 23, -1)
    right = (logits.argmax(-1).numpy() == labels) & defined
    inside = np.zeros((23, 23), bool)
    inside[23 - N :, 23 - N :] = True
    assert np.array_equal(found.certificate.right & inside, inside)  # every pair of elements is proved
    assert not (found.certificate.right & ~right).any()
    assert found.certificate.accuracy == found.certificate.right.sum() / defined.sum()
    assert np.isnan(found.certificate.margin[~defined]).all()
    # the idealised network is the account's, for the run's own tokens and classes
    ideal = found.ideal_model(examples.tokens).detach().reshape(23, 23, -1).numpy()
    assert (ideal.argmax(-1) == labels)[inside].all()


def test_shares_of_subtraction_are_of_the_difference(tmp_path):
    found = explain(planted_run(tmp_path, p=23, keys=(1, 3, 4), per_key=24, operation="subtract"), timeline=False)
    assert "cos(w_k(a - b - c))" in found.sentence("keys").text
    assert found.sentence("keys").explained > 0.9


# --- trained networks -------------------------------------------------------------------------------------------------


def test_a_network_that_has_generalised(grokked_run, grokked):
    assert grokked.verdict == "in part"  # at p = 23 a third of the accuracy is outside of waves
    assert 2 <= len(grokked.account.keys) <= 4
    assert 0.9 < grokked.certificate.accuracy <= grokked.network.accuracy == accuracy(grokked_run)
    assert grokked.certificate.loss >= grokked.network.loss
    whole = grokked.sentence("whole")
    assert whole.explained > 0.8
    assert whole.resampled.accuracy > 5 * whole.null.resampled.accuracy
    assert whole.without.accuracy < 0.1  # the converse destroys
    assert grokked.sentence("readout").holds
    assert "attention" in {sentence.id for sentence in grokked.sentences}
    assert grokked.sentence("embedding").alone.accuracy > 0.99
    assert grokked.sentence("embedding").without.accuracy < 0.2
    assert grokked.account.numbers == 128 * (14 + 2 * len(grokked.account.keys))
    assert grokked.account.parameters == sum(x.numel() for x in grokked_run.model().parameters())


@pytest.mark.parametrize("step", [0, None])
def test_a_network_that_has_not(memorised, step):
    found = explain(memorised, step, timeline=False)
    assert found.verdict == "none"
    assert found.certificate.accuracy < 0.06
    if step == 0:
        assert found.account.keys == ()
        assert [sentence.id for sentence in found.sentences] == ["keys"]
        assert not found.sentences[0].holds
        assert found.sentences[0].null.explained is not None  # null scores are shown
        assert found.ideal_model is None
        assert found.left_over.logits == 1
    else:
        train = memorised.task.train
        known = memorised.model()(memorised.task.tokens[train])[:, -1].argmax(-1) == memorised.task.labels[train]
        assert known.double().mean() == 1
        assert found.sentence("keys").alone.accuracy > 0.9  # a formula is right whatever the network does
        assert found.sentence("keys").resampled.accuracy < 0.5
        assert accuracy(memorised) < 0.6
    assert "none" in repr(found)
    assert str(found)
    assert "<p>" in found._repr_html_()


def test_certificates_of_steps_are_sound(grokked_run):
    for step in (0, 200, 600):
        found = explain(grokked_run, step, timeline=False)
        assert found.step == step
        assert found.certificate.accuracy <= accuracy(grokked_run, step)
        assert found.certificate.loss >= found.network.loss


@pytest.mark.parametrize("name", ["certified_accuracy", "resampled_accuracy"])
def test_measures_of_a_step_are_of_that_step(grokked_run, grokked, name):
    steps = [0, 600, 1600]  # the first one, too, before which the keys of the last are found
    values = interp.measure(grokked_run, [name], steps=steps, cache=False)[name].values
    for step, value in zip(steps, values):
        found = explain(grokked_run, step, keys=grokked.account.keys, permutations=PERMUTATIONS, timeline=False)
        resampled = found.sentence("whole").resampled.accuracy
        assert value == (found.certificate.accuracy if name == "certified_accuracy" else resampled)


def test_where_nothing_is_proved_no_key_is_dropped(grokked_run):
    found = explain(grokked_run, 200, timeline=False)
    shares = [k for k, share in enumerate(interp_shares(grokked_run, 200), 1) if share > 0.001]
    assert found.certificate.accuracy == 0
    assert {*found.account.keys} >= {*shares}


def interp_shares(traj, step):
    L = traj.model(step)(traj.task.tokens)[:, -1].detach().double().reshape(23, 23, -1)[..., :23].numpy()
    F = np.fft.fftn(L - L.mean(-1, keepdims=True))
    return [2 * abs(F[k, k, -k]) ** 2 / (abs(F) ** 2).sum() for k in range(1, 12)]


def test_the_split_of_a_run_without_equals(tmp_path):
    task = Modular(p=11, encoding="operands")
    for rate in (0.0, 1.0):
        model = Transformer(d_model=16, n_heads=2, d_head=8, d_mlp=24, attention_rate=rate, attention="bidirectional")
        traj = trained(tmp_path / str(rate), task, model, steps=20)
        found = explain(traj, keys=[1, 2], timeline=False)
        assert found.certificate.accuracy <= accuracy(traj)
        if rate == 0:
            assert np.abs(found.account.product).max() < 1e-6  # without attention nothing multiplies
        else:
            assert np.abs(found.account.product).max() > 1e-4


# --- the idealised network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["grokked", "found"])
def test_the_idealised_network_is_the_account_and_nothing_else(which, request):
    explanation = request.getfixturevalue(which)
    account, model = explanation.account, explanation.ideal_model
    p = account.p
    examples = explanation._traj.task
    ideal = np.maximum(account.pre_activations(PARTS), 0) @ account.read_out(examples.d_vocab_out)
    logits = model(examples.tokens).detach().numpy().reshape(p, p, -1)
    assert np.abs(logits - ideal).max() < 1e-3 * np.abs(ideal).max()  # additions: elements and classes in order
    assert np.abs(model.double()(examples.tokens).detach().numpy().reshape(p, p, -1) - ideal).max() < 1e-5
    model.float()
    answer = model.answer(model.prepare(examples.tokens))
    assert torch.equal(answer.logits, model(examples.tokens))
    assert (answer.residual_logits == 0).all()
    assert {name for name, _ in model.named_parameters()} == {"beta", "first", "second", "product", "readout"}


def test_functions_of_a_model_and_of_arrays_take_it(grokked_run, grokked):
    tokens, labels = grokked_run.task.tokens, grokked_run.task.labels

    def right(model):
        return (model.answer_logits(model.prepare(tokens)).argmax(-1) == labels).double().mean()

    measured = float(interp.measure(grokked_run, [right], steps=[1600], cache=False)["right"][0])
    assert measured == pytest.approx(grokked.network.accuracy)
    model = grokked.ideal_model
    assert float(right(model)) == pytest.approx(grokked.sentence("whole").alone.accuracy)
    neurons = model.answer(model.prepare(tokens)).neurons.detach().reshape(23, 23, -1)
    shares = neuron_power(neurons)
    assert (shares.argmax(-1).numpy() + 1 == np.array(grokked.account.keys)[grokked.account.cluster]).mean() > 0.9


# --- timeline ---------------------------------------------------------------------------------------------------------


def test_timeline_and_births(grokked_run, grokked):
    timeline = grokked.timeline
    keys = list(grokked.account.keys)
    assert timeline["key"].values.tolist() == keys
    assert timeline.sizes["step"] == len(grokked_run.steps) <= 100
    last = timeline.isel(step=-1)
    assert float(last["certified_accuracy"]) == grokked.certificate.accuracy
    assert float(last["certified_loss"]) == pytest.approx(grokked.certificate.loss)
    assert float(last["ideal_logits_explained"]) == pytest.approx(grokked.sentence("whole").explained, abs=1e-4)
    assert np.abs(last["alpha"].values - grokked.account.alpha).max() < 1e-3
    assert (timeline["certified_accuracy"] <= timeline["train_accuracy"] + 1).all()
    born = births(timeline)
    assert set(born) == {"alpha", "cluster_size", "embedding_share"}
    assert grokked.births == born
    for key, step in born["alpha"].items():
        curve = timeline["alpha"].sel(key=key)
        assert (curve.sel(step=slice(step, None)) > curve[-1] / 2).all()
        before = timeline["step"].values[timeline["step"].values < step]
        assert not len(before) or curve.sel(step=before[-1]) <= curve[-1] / 2


def test_births_of_what_is_not_there():
    step = [0, 10, 20]
    curves = xarray.DataArray([[0, 1, 2], [0, 0, 2], [0, -1, 2]], {"step": step, "key": [1, 2, 3]})
    assert births(xarray.Dataset({"alpha": curves})) == {"alpha": {1: None, 2: None, 3: 0}}


def test_the_timeline_is_made_when_it_is_asked_for(planted, found, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "timeline_of", lambda *a, **k: calls.append(1) or xarray.Dataset())
    later = explain(planted, keys=[1], timeline=False)
    assert not calls
    later.timeline, later.timeline  # noqa: B018
    assert len(calls) == 1
    explain(planted, keys=[1])
    assert len(calls) == 2


# --- several runs -----------------------------------------------------------------------------------------------------


def test_explanations_beside_each_other(found, grokked, planted, tmp_path):
    again = explain(planted_run(tmp_path, keys=(2, 14, 27)), timeline=False)  # the same, with all keys doubled
    table = compare_explanations([found, again])
    assert table["keys"].values.tolist() == [3, 3]
    assert table["verdict"].values.tolist() == ["explained", "explained"]
    assert np.abs(table["harmonic_ratio"].values - 0.113).max() < 1e-4
    assert np.abs(table["harmonic_phase"].values - np.pi).max() < 1e-4
    assert np.abs(table["coherence"].values - 1).max() < 1e-6
    assert table["certified_accuracy"].values.tolist() == [1, 1]
    assert np.abs(sum(table[f"from_{part}"] for part in ("non_linearity", "harmonic", "attention")) - 1).max() < 1e-6
    assert {"keys", "readout", "whole"} <= set(table["sentence"].values[table["universal"].values])
    mixed = compare_explanations([found, grokked])
    assert not bool(mixed["universal"].sel(sentence="whole"))
    nothing = compare_explanations([found, explain(planted, 0, timeline=False)])
    assert np.isnan(float(nothing["harmonic_ratio"][1]))
    for few in ([], [found]):
        with pytest.raises(InvalidArgumentError, match=f"two or more; got {len(few)}"):
            compare_explanations(few)


# --- stored and checked -----------------------------------------------------------------------------------------------


def test_a_saved_explanation_is_proved_again_from_weights_and_account(planted, found, tmp_path, monkeypatch):
    folder = found.save(tmp_path / "why")
    assert {path.name for path in folder.iterdir()} == {
        "account.json",
        "account.safetensors",
        "explanation.json",
        "index.html",
    }
    saved = json.loads((folder / "explanation.json").read_text())
    assert saved["verdict"] == "explained"
    assert saved["certificate"]["right"] == 59 * 59
    for name in ("fit_account", "key_shares"):  # nothing is fitted, no key is looked for
        monkeypatch.delattr(f"interp.analysis.explaining.{name}")
    again = found.verify(planted)
    assert again.accuracy == found.certificate.accuracy
    assert again.loss == found.certificate.loss
    assert np.array_equal(again.margin, found.certificate.margin)
    checked = verify_explanation(folder, planted)
    assert checked.confirmed
    assert str(checked).startswith("Confirmed: claimed at step 1 are an accuracy of at least 1.0000")
    assert checked.certificate.loss == found.certificate.loss


@pytest.mark.parametrize("claim", ["accuracy", "loss", "account"])
def test_a_claim_that_does_not_follow_is_not_confirmed(planted, claim, tmp_path):
    found = explain(planted, keys=[1, 7] if claim == "accuracy" else None, timeline=False)
    folder = found.save(tmp_path)
    saved = json.loads((folder / "explanation.json").read_text())
    if claim == "account":
        replace(found.account, cluster=np.roll(found.account.cluster, 1)).save(folder)
    else:
        saved["certificate"][claim] *= 0.5
        saved["certificate"]["accuracy"] = 0.5 if claim == "accuracy" else 1.0
        (folder / "explanation.json").write_text(json.dumps(saved))
    checked = verify_explanation(folder, planted)
    assert not checked.confirmed
    assert str(checked).startswith("NOT confirmed")


def test_accounts_of_other_tasks_are_refused(found, grokked, grokked_run, memorised, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"p = 23, add on the group .* 128 neurons; got one of p = 59"):
        verify_explanation(found.save(tmp_path), grokked_run)
    with pytest.raises(UnknownNameError, match="1600"):
        grokked.verify(memorised)  # of the same task, which has no such step
    (tmp_path / "explanation.json").write_text("{}")
    with pytest.raises(InvalidArgumentError, match="saved explanation with a certificate"):
        verify_explanation(tmp_path, grokked_run)
    with pytest.raises(InvalidArgumentError, match="must hold an account"):
        verify_explanation(tmp_path / "nothing", grokked_run)


def test_a_certificate_does_not_run_the_network(planted, monkeypatch):
    network = planted.model()
    examined = Examined(RunContext(planted), network)
    account = examined.account((1, 7, 16))
    for name in ("forward", "answer", "answer_logits", "plain_pass"):
        for kind in type(network).__mro__:
            if name in vars(kind):
                monkeypatch.setattr(kind, name, None)
    fresh = Examined(RunContext(planted), network)
    assert fresh.certificate(account).accuracy == 1
    assert "circuit" not in vars(fresh)


def test_the_certificate_counts_the_tables(planted, found):
    examined = Examined(RunContext(planted), planted.model())
    bare = certify(
        examined.tables,
        module_advice(found.account, examined),
        planted.task.labels.reshape(59, 59).numpy(),
    )
    assert np.array_equal(bare.margin, found.certificate.margin)
    assert bare.operations == found.certificate.operations  # rows of a one-hot matrix are tables already


def module_advice(account, examined):
    from interp.analysis.advising import advice

    return advice(account, 4, np.linalg.norm(examined.circuit.W_centred, axis=1))


def test_what_is_read_back_is_the_account(found, tmp_path):
    loaded = Account.load(found.save(tmp_path))
    assert loaded.keys == found.account.keys
    assert np.array_equal(loaded.pre_activations(), found.account.pre_activations())


# --- what is refused --------------------------------------------------------------------------------------------------

SMALL = {"d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 24}


@pytest.mark.parametrize(
    ("task", "model", "reason"),
    [
        (Modular(p=7), Transformer(n_layers=2, **SMALL), "single layer; this transformer has 2"),
        (Modular(p=7, operation="x2+xy+y2"), Transformer(**SMALL), "operation that is a sum"),
        (Modular(p=7, operation="x3+xy"), Transformer(**SMALL), "operation that is a sum"),
        (Modular(p=7, encoding="operands"), FeedForward(d_hidden=(8, 8)), "one hidden layer; this MLP has 2"),
        (Modular(p=7, encoding="operands"), FeedForward(d_hidden=(), combine="product"), "one hidden layer"),
        (Modular(p=7), FeedForward(embedding="scalars"), "numbers"),
        (Group(family="dihedral", n=5, operation="conjugate"), Transformer(**SMALL), "product of a finite group"),
    ],
)
def test_networks_without_an_account_are_refused_in_words(task, model, reason, tmp_path):
    traj = trained(tmp_path, task, model)
    with pytest.raises(NotAvailableError, match=reason):
        explain(traj)
    assert "certified_accuracy" not in interp.measure(traj, cache=False)
    with pytest.raises(NotAvailableError, match="certified_accuracy"):
        interp.measure(traj, ["certified_accuracy"], cache=False)


@pytest.mark.parametrize(
    ("task", "model"),
    [
        (Modular(p=7, encoding="sentence"), Recurrent(d_model=8, d_hidden=8)),
        (Modular(p=7), Recurrent(cell="rnn", d_model=8, d_hidden=8)),
        (Symbolic(p=7), Decoder(n_layers=1, d_model=16, n_heads=2, d_mlp=16)),
    ],
)
def test_networks_without_tables_have_logits_readout_and_keys_only(task, model, tmp_path):
    traj = trained(tmp_path, task, model)
    found = explain(traj, keys=[1, 2])
    assert [sentence.id for sentence in found.sentences] == ["keys", "readout", "bypass"]
    assert found.certificate is None
    assert found.ideal_model is None
    assert found.verdict in ("in part", "none")
    assert found.account.numbers < traj.model().neuron_logit_map().shape[0] * (14 + 4)
    assert not found.account.has_pre_activations
    assert re.search("does not tell its tables", str(found.left_over))
    assert math.isnan(found.left_over.pre_activations)
    assert "logits and read-out only" in str(found)
    found.save(tmp_path / "saved")
    with pytest.raises(NotAvailableError):
        found.verify(traj)
    with pytest.raises(InvalidArgumentError, match="saved explanation with a certificate"):
        verify_explanation(tmp_path / "saved", traj)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rank": 3}, InvalidArgumentError, "`rank` must be one of 2, 4, 6; got 3"),
        ({"permutations": 0}, InvalidArgumentError, "`permutations`"),
        ({"keys": [40]}, InvalidArgumentError, r"`keys` must be frequencies in 1..29"),
        ({"keys": [1, 1]}, InvalidArgumentError, "`keys` must be distinct"),
        ({"step": 7}, UnknownNameError, "7"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_arguments_are_checked(planted, settings, error, message):
    with pytest.raises(error, match=message):
        explain(planted, timeline=False, **settings)


def test_a_run_may_be_named_by_its_folder(planted, found, tmp_path):
    named = explain(str(planted.folder), timeline=False)
    assert named.account.keys == found.account.keys
    assert named.certificate.accuracy == found.certificate.accuracy
    with pytest.raises(StoreError):
        explain(tmp_path)


@pytest.mark.parametrize("rank", [2, 6])
def test_rank_is_that_of_the_certificate(planted, found, rank):
    other = explain(planted, rank=rank, timeline=False)
    assert other.certificate.rank == rank
    assert (other.certificate.operations > found.certificate.operations) == (rank > 4)
    assert (other.certificate.loss < found.certificate.loss) == (rank > 4)


# --- groups -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def group_run(tmp_path_factory):
    """A run whose last step is a planted network on S_4, of two irreps."""
    root = tmp_path_factory.mktemp("group")
    names = [irrep.name for irrep in irreps(finite_group("symmetric", 4))[2:4]]
    _, tables, _ = planted_group("symmetric", 4, names)
    task = Group(family="symmetric", n=4, encoding="operands")
    model = FeedForward(embedding="one-hot", d_hidden=(len(tables.W_L),), biases="absent")
    run = trained(root / "made", task, model, steps=1)
    weights = {"embed.W_E": np.concatenate([tables.first[:, 0], tables.second[:, 0]]), "unembed.W_U": tables.W_L}
    with RunWriter.create(root / "S4-planted", run.run, fsync=False) as writer:
        writer.append(0, {name: run.param(name).sel(0) for name in run.names})
        writer.append(1, {name: value.astype(np.float32) for name, value in weights.items()})
    return interp.load(root / "S4-planted"), tuple(names)


def test_groups_are_explained_by_irreps(group_run, tmp_path):
    traj, names = group_run
    found = explain(traj)
    assert accuracy(traj) == found.certificate.accuracy == 1
    assert found.verdict == "explained"
    assert found.account.keys == names
    assert found.account.basis == "irrep"
    assert "chi(a b c^-1)" in found.sentence("keys").text
    assert all(sentence.holds for sentence in found.sentences if sentence.id != "certificate")
    ideal = np.maximum(found.account.pre_activations(), 0) @ found.account.read_out(24)
    assert np.abs(found.ideal_model(traj.task.tokens).detach().numpy().reshape(24, 24, 24) - ideal).max() < 1e-3
    assert float(found.timeline["certified_accuracy"][-1]) == found.certificate.accuracy
    assert verify_explanation(found.save(tmp_path / "saved"), traj).confirmed
    for name in names:
        assert explain(traj, keys=[name], timeline=False).certificate.accuracy == 0
    assert f"key irreps: {', '.join(names)}" in str(found)


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line(planted, grokked_run, tmp_path, capsys):
    code, out, _ = call(capsys, "explain", planted.folder, "--no-timeline", "--output", tmp_path / "why")
    assert code == 0
    assert f"{planted.folder.name}, step 1: EXPLAINED" in out
    assert "key frequencies: 1, 7, 16" in out
    assert "Certificate (rank 4): accuracy at least 1.0000" in out
    assert "Left over:" in out
    assert f"Written:   {tmp_path / 'why'}" in out
    assert (tmp_path / "why" / "index.html").exists()
    code, out, _ = call(capsys, "explain", planted.folder, "--verify", tmp_path / "why")
    assert (code, out.startswith("Confirmed: ")) == (0, True)
    saved = json.loads((tmp_path / "why" / "explanation.json").read_text())
    saved["certificate"]["loss"] = 1e-9
    (tmp_path / "why" / "explanation.json").write_text(json.dumps(saved))
    code, out, _ = call(capsys, "explain", planted.folder, "--verify", tmp_path / "why")
    assert (code, out.startswith("NOT confirmed: ")) == (1, True)
    code, out, _ = call(
        capsys,
        "explain",
        planted.folder,
        grokked_run.folder,
        "--no-timeline",
        "--rank",
        2,
        "--output",
        tmp_path / "two",
    )
    assert code == 0
    assert "Certificate (rank 2)" in out
    assert re.search("Universal .*: ", out)
    written = {"comparison.json", "index.html"}
    assert {path.name for path in (tmp_path / "two").iterdir()} - written == {
        planted.folder.name,
        grokked_run.folder.name,
    }
    assert all((tmp_path / "two" / name).exists() for name in written)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Name one or more run folders"),
        (["RUN", "--step", 7], "7"),
        (["RUN", "--rank", 3], "rank"),
        (["NONE"], "none"),
        (["RUN", "RUN", "--verify", "NONE"], "`--verify` takes the run that was explained; got 2 runs"),
        (["RUN", "--verify", "NONE"], "must hold an account"),
        (["--verify", "NONE"], "`--verify` needs the run that was explained, too: interp explain RUN --verify"),
    ],
)
def test_the_command_line_refuses_in_one_line(words, message, planted, tmp_path, capsys):
    places = {"RUN": planted.folder, "NONE": tmp_path / "none"}
    code, _, err = call(capsys, "explain", *(places.get(word, word) for word in words), "--no-timeline")
    assert code == 2
    assert message in err.splitlines()[-1]


@pytest.mark.slow
def test_the_run_of_the_demo(tmp_path):
    """Section by section what the demo's network learned; bits depend on machine and threads, so bounds are wide."""
    traj = interp.train(interp.recipes.get("kitouni-circle"), root=tmp_path, device="cpu")

    def at(step, **arguments):
        return interp.explain(traj, step=step, timeline=False, **arguments)

    last = at(2500)
    keys = last.account.keys
    near = {"whole"}  # its resampled accuracy is 0.98 to 1, by the bits: its bound is 0.99
    assert {sentence.id for sentence in last.sentences if not sentence.holds} <= near
    assert 3 <= len(keys) <= 6
    assert last.sentence("keys").explained > 0.9
    gains = [last.sentence(name).explained for name in ("first", "second", "product")]
    assert gains[0] > 0.9 > 0.02 > max(gains[1:]) > 0.001
    assert last.sentence("whole").explained > 0.9
    assert last.sentence("whole").resampled.low > 0.98
    assert last.sentence("whole").without.accuracy < 0.05
    assert last.certificate.accuracy > 0.99 > at(2500, rank=2, keys=keys).certificate.accuracy > 0.8
    assert last.certificate.loss < 0.05
    assert last.certificate.operations < last.certificate.exhaustive / 1.5 < last.certificate.forward / 3

    for key in keys:
        without = at(2500, keys=[other for other in keys if other != key])
        assert without.certificate.accuracy < 0.01
        assert without.verdict != "explained"
    wrong = at(2500, keys=[3, 16, 17, 26] if not {3, 16, 17, 26} & {*keys} else [2, 5, 8, 11])
    assert (wrong.verdict, wrong.certificate.accuracy) == ("none", 0)
    assert wrong.sentence("keys").alone.accuracy == 1  # restricted logits are right whatever the network does

    early = at(500)
    assert early.verdict == "in part"
    assert early.certificate.accuracy == 0
    assert early.sentence("keys").alone.accuracy == 1 > 0.6 > early.sentence("whole").resampled.accuracy
    assert at(0).verdict == "none"

    curves = interp.measure(traj, ["test_accuracy", "certified_accuracy"], steps=[1200, 2000, 2500])
    assert curves["test_accuracy"].sel(step=1200) > 0.95  # the network has grokked before it is cleaned up
    assert curves["certified_accuracy"].sel(step=1200) < 0.5 < curves["certified_accuracy"].sel(step=2000)


@pytest.mark.parametrize("kind", [Account, Certificate, Sentence, Explanation])
def test_help_tells_every_field(kind):
    """`help(Certificate)` shows the docstring of the class, and no string behind a field."""
    told = re.findall(r"^    (\w+): \S", inspect.getdoc(kind), re.M)
    if dataclasses.is_dataclass(kind):
        assert told == [field.name for field in dataclasses.fields(kind)]
    else:
        given = set(inspect.signature(kind.__init__).parameters) - {"self", "traj"}
        assert given | {"run"} == {*told}


def test_formulas_of_the_page_are_no_latex(grokked_run, tmp_path):
    """Every formula of a page is Unicode with tags; births of the keys are drawn at their steps."""
    found = interp.explain(grokked_run, permutations=2)
    page = (found.save(tmp_path / "page") / "index.html").read_text()
    assert not set("\\{}^") & {*re.sub(r"<[^>]*>", "", page)}
    key, alpha = found.account.keys[0], found.account.alpha[0]
    assert f"{alpha:.3g} cos w<sub>{key}</sub>(a + b \u2212 c)" in page
    assert "x\u0302<sub>m</sub> = β<sub>m</sub> + A<sub>m</sub> cos(w<sub>k</sub> a + φ<sub>m</sub>)" in page
    born = {name.replace("_", " "): step for name, of in found.births.items() for k, step in of.items() if k == key}
    assert any(step is not None for step in born.values())
    for name, step in born.items():
        assert step is None or f"<title>{name} of {key}: step {step:,}</title>" in page
    formulas = "".join(formula_html(one.formula) for one in found.sentences)
    assert not re.search(r"[\\_{}^]|approx|vert|bar|geq|sum|hat", formulas)
    assert formula_html(found.sentence("certificate").formula).startswith("L<sub>y</sub> \u2212 L<sub>c</sub> ≥ [lead")
    assert page.count("<circle") == sum(step is not None for of in found.births.values() for step in of.values())


def test_a_frequency_is_clock_or_pizza_where_the_account_decides_it(grokked_run):
    """A clock multiplies by attention, a pizza by the non-linearity; shares of both, or no attention, decide none."""
    shares = np.array([[0.3, 0.0, 0.7], [0.95, 0.0, 0.05], [0.7, 0.0, 0.3]])
    account = interp.explain(grokked_run, timeline=False, permutations=2).account
    heads = replace(account, keys=(1, 2, 3), alpha_from=shares, attention=np.zeros((2, 1, 1 + 2 * account.N)))
    (line,) = _sources(heads)
    assert "1: 30%, 0%, 70%, clock-like; 2: 95%, 0%, 5%, pizza-like; 3: 70%, 0%, 30% (" in line
    (line,) = _sources(replace(heads, attention=heads.attention[:, :0]))
    assert line.endswith("; 3: 70%, 0%, 30%")
