"""Claims of an explanation that an adversary would try: dead networks, chance, vacuous accounts, damaged files."""

import dataclasses
import html
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import interp
from interp.analysis.ablations import keep_only
from interp.analysis.account import Account, key_shares
from interp.analysis.batch import CheckpointBatch
from interp.analysis.context import RunContext
from interp.analysis.explaining import Examined
from interp.analysis.scrubbing import Score, Scrubbed
from interp.config import FeedForward, Group
from interp.errors import InterpError, InvalidArgumentError, NotAvailableError
from interp.explanation import compare_explanations, verify_explanation
from interp.explanation.sentences import Scores, Sentence, _judged
from interp.explanation.universality import COLUMNS, comparison_lines, save_comparison
from interp.store import RunWriter
from tests.runs import TINY


def trained(folder, recipe="kitouni-circle-small", **changes):
    config = interp.recipes.get(recipe).replace({"steps": 2, "save.weights": "every(1)", **changes})
    return interp.train(config, root=folder, device="cpu")


def changed(traj, folder, change):
    """A run of which every step has the last weights of `traj`, changed in place."""
    with RunWriter.create(folder, traj.run, fsync=False) as writer:
        weights = {name: np.array(traj.param(name).sel(int(traj.steps[-1]))) for name in traj.names}
        change(weights)
        for step in traj.steps:
            writer.append(int(step), weights)
        writer.finish()
    return interp.load(folder)


def explained(traj, **arguments):
    return interp.explain(traj, **{"timeline": False, "permutations": 2, **arguments})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("random"), **{"task.p": 11})


@pytest.fixture(scope="module")
def learning(tmp_path_factory):
    config = interp.recipes.get("kitouni-circle").replace(TINY)
    return interp.train(config, root=tmp_path_factory.mktemp("learning"), device="cpu")


def test_measures_of_each_step_are_those_of_explain_at_that_step(learning):
    """Keys of the last step are asked for while the first step is looked at."""
    names = ["certified_accuracy", "certified_loss", "ideal_logits_explained"]
    steps = [0, 50, 100, 150]
    found = interp.measure(learning, names, steps=steps)
    last = explained(learning)
    assert last.account.keys
    for step in steps:
        one = explained(learning, step=step, keys=last.account.keys)
        assert found["certified_accuracy"].sel(step=step) == one.certificate.accuracy
        np.testing.assert_allclose(found["certified_loss"].sel(step=step), one.certificate.loss, rtol=1e-12)
        np.testing.assert_allclose(
            found["ideal_logits_explained"].sel(step=step), one.sentence("whole").explained, 1e-5
        )
    assert len(set(found["certified_loss"].values.tolist())) == len(steps)


def test_what_is_asked_for_while_a_step_is_looked_at_leaves_its_network_as_it_is(learning):
    batch = CheckpointBatch(RunContext(learning), np.array([0, 3]))

    def norms(network):
        before = float(network.embed.W_E.norm())
        batch.context.last.own_keys  # noqa: B018  with the weights of the last step
        return before, float(network.embed.W_E.norm())

    found = batch.each(norms, gradients=False)
    assert all(before == after for before, after in found)
    assert found[0] != found[1]


def test_a_dead_network_has_no_algorithm_whatever_keys_one_names(run, tmp_path):
    dead = changed(run, tmp_path / "dead", lambda weights: [w.fill(0) for w in weights.values()])
    assert explained(dead).verdict == explained(dead, keys=[1, 2]).verdict == "none"
    assert "128 read or write no wave" in explained(dead, keys=[1]).sentence("first").text


def test_a_dead_neuron_belongs_to_no_frequency(run, tmp_path):
    def kill(weights):
        weights["blocks.0.mlp.W_out"][:40] = 0
        weights["blocks.0.mlp.W_in"][:, 40:50] = 0

    text = explained(changed(run, tmp_path / "some", kill), keys=[1, 3]).sentence("first").text
    assert text.endswith("; 50 read or write no wave.")


def test_a_sentence_whose_part_can_be_removed_at_no_loss_does_not_hold(tmp_path):
    """At chance every replacement keeps the accuracy."""
    found = explained(trained(tmp_path, **{"task.p": 3}), keys=[1])
    assert found.sentence("keys").resampled.accuracy >= 0.99 * found.network.accuracy
    assert found.sentence("keys").without.accuracy >= 0.99 * found.network.accuracy
    assert not found.sentence("keys").holds
    assert not found.sentence("whole").holds


def test_all_irreps_explain_every_network_and_so_none(tmp_path):
    """A network that has memorised every pair of a group is not explained by all irreps, which rewrite it."""
    task, model = (
        Group(family="symmetric", n=3, train_fraction=0.99, encoding="operands"),
        FeedForward(d_model=32, d_hidden=(64,)),
    )
    config = interp.recipes.get("chughtai-s5").replace(
        {"task": task, "model": model, "steps": 150, "save.weights": "every(150)", "optimizer.weight_decay": 0.0}
    )
    traj = interp.train(config, root=tmp_path, device="cpu")
    found = explained(traj, keys=["sign", "standard"])
    assert found.network.accuracy > 0.95
    assert found.left_over.logits < 0.05
    assert found.verdict == "in part"
    assert "every network can be written" in str(found.left_over)


@pytest.mark.parametrize("recipe", ["ahmed-lstm-small", "ahmed-rnn"])
def test_recurrent_networks_have_logits_and_read_out_but_no_certificate(recipe, tmp_path):
    traj = trained(tmp_path, recipe, **{"task.p": 7, "model.d_model": 16, "model.d_hidden": 16})
    found = explained(traj, keys=[1, 2])
    assert [sentence.id for sentence in found.sentences] == ["keys", "readout", "bypass"]
    assert found.certificate is found.ideal_model is None
    assert found.verdict == "in part"
    assert "does not tell its tables" in str(found.left_over)


def test_scores_of_products_are_said_to_leave_out_pairs_with_0(tmp_path):
    found = explained(trained(tmp_path, **{"task.p": 5, "task.operation": "multiply"}), keys=[1])
    assert "over the 16 pairs without 0 (certificate: over all pairs)" in found.lines()[1]
    assert found.certificate.right.shape == (5, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"keys": keys} for keys in ([1.5], [float("nan")], [None], [[1]], 5, "12", [0], [6], [1, 1], ["1"])),
        *({"seed": seed} for seed in (-1, 1.5, "a", None, True)),
        *({"permutations": 0}, {"rank": 3}, {"rank": "4"}),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_in_one_line(run, wrong):
    with pytest.raises(InvalidArgumentError, match=f"`{next(iter(wrong))}` must") as refused:
        explained(run, **wrong)
    assert "\n" not in str(refused.value)


def test_numbers_of_numpy_are_numbers(run):
    found = explained(run, keys=np.array([2, 1]), seed=np.int64(3), rank=4.0, permutations=np.int64(2))
    assert found.account.keys == (2, 1)
    assert json.dumps(found.account.keys) == "[2, 1]"


def test_the_name_of_a_run_is_no_markup(run, tmp_path):
    name = "<img src=x onerror=alert(1)>&"
    found = explained(changed(run, tmp_path / name, lambda weights: None), keys=[1])
    page = (found.save(tmp_path / "page") / "index.html").read_text()
    assert "<img" not in page
    assert "&lt;img" in found._repr_html_()


@pytest.fixture(scope="module")
def account(run, tmp_path_factory):
    return explained(run, keys=[1, 3]).save(tmp_path_factory.mktemp("account"))


def test_an_account_is_read_back_from_a_path_as_text(account):
    assert Account.load(str(account)).keys == (1, 3)


@pytest.mark.parametrize(
    "damage",
    [
        *({"symmetry": symmetry} for symmetry in ([], ["cyclic"], ["cyclic", 13], ["cyclic", "11"], ["monster", 11])),
        *({"keys": keys} for keys in ([1.5, 3], [1], [1, 99], "13", None)),
    ],
    ids=str,
)
def test_a_damaged_account_is_refused(account, tmp_path, damage):
    folder = shutil.copytree(account, tmp_path / "damaged")
    plain = json.loads((folder / "account.json").read_text())
    (folder / "account.json").write_text(json.dumps(plain | damage))
    with pytest.raises(InvalidArgumentError, match="`folder` must hold an account"):
        Account.load(folder)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("elements", lambda x: x[:5]),
        ("elements", lambda x: x.astype(float)),
        ("cluster", lambda x: x.astype(float)),
        ("beta", lambda x: x[:, None]),
        ("beta", lambda x: x[0]),
        ("first", lambda x: x[:, :2]),
    ],
)
def test_damaged_arrays_of_an_account_are_refused(account, tmp_path, name, damage):
    folder = shutil.copytree(account, tmp_path / "damaged")
    arrays = load_file(folder / "account.safetensors")
    save_file(arrays | {name: np.ascontiguousarray(damage(arrays[name]))}, folder / "account.safetensors")
    with pytest.raises(InvalidArgumentError, match="`folder` must hold an account"):
        Account.load(folder)


def test_a_timeline_ends_at_the_step_and_has_the_keys_of_its_explanation(learning):
    last = explained(learning)
    others = [key for key in range(1, last.account.N // 2 + 1) if key not in last.account.keys][:2]
    one = explained(learning, step=150, keys=others)
    assert int(one.timeline["step"][-1]) == 150
    assert float(one.timeline["certified_accuracy"][-1]) == one.certificate.accuracy
    assert float(one.timeline["certified_loss"][-1]) == one.certificate.loss
    assert one.timeline["key"].values.tolist() == others


def test_tables_of_another_network_are_refused(run, monkeypatch):
    network = type(run.network)
    own = network.pair_tables

    def others(self, tokens):
        tables = own(self, tokens)
        return dataclasses.replace(tables, W_L=2 * tables.W_L)

    monkeypatch.setattr(network, "pair_tables", others)
    with pytest.raises(InvalidArgumentError, match=r"pair_tables` must give the logits of the network itself"):
        explained(run)


@pytest.mark.parametrize("steps", [[], 5, "ab", ["a"], [150, 100], [100, 200], [100, 101]])
def test_a_run_of_idealised_networks_takes_stored_steps(learning, tmp_path, steps):
    found = explained(learning, step=150, keys=[1])
    with pytest.raises(InvalidArgumentError, match=r"`steps` must be"):
        found.ideal_run(tmp_path / "ideal", steps)
    assert not (tmp_path / "ideal").exists()


def test_an_explanation_is_not_saved_over_a_run_or_a_file(run, tmp_path):
    found = explained(run)
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", run.folder):
        with pytest.raises(InvalidArgumentError, match="`folder` must be a folder of its own"):
            found.save(folder)
        with pytest.raises(InvalidArgumentError, match="`folder` must be a folder of its own"):
            save_comparison(compare_explanations([found, found]), folder)


def test_controls_are_means_over_draws_of_other_keys_with_their_range(learning):
    found = explained(learning, keys=[1])
    draws = [tuple(keys) for keys in found.settings["controls"]]
    assert 1 < len({*draws}) == len(draws) <= 5
    assert not any({*keys} & {*found.account.keys} for keys in draws)
    shares = key_shares(Examined(RunContext(learning), learning.model()).circuit)[0]
    each = [sum(shares[key - 1] for key in keys) for keys in draws]
    keys = found.sentence("keys")
    assert keys.null.explained == pytest.approx(np.mean(each))
    assert keys.null_range == pytest.approx((min(each), max(each)))
    assert keys.null_range[0] < keys.null.explained < keys.null_range[1]
    assert keys.null.resampled.low <= keys.null.resampled.accuracy <= keys.null.resampled.high
    assert found.sentence("bypass").null_range is None  # it speaks of no key
    assert float(found.scores["null_explained_high"].sel(sentence="keys")) == keys.null_range[1]
    again = explained(learning, keys=[1])
    assert [s.null_range for s in again.sentences] == [s.null_range for s in found.sentences]
    assert f"over {len(draws)} draws of them" in str(found)


def test_a_sentence_must_explain_more_than_every_control():
    near = Score(0.0, 1.0, 1.0)
    sentence = Sentence("phases", "", "", explained=0.5, alone=near, null=Scores(explained=0.3), null_range=(0.1, 0.6))
    assert not _judged(sentence, 1.0, 0.1, {}).holds
    assert _judged(dataclasses.replace(sentence, explained=0.7), 1.0, 0.1, {}).holds


def test_scores_of_some_pairs_are_those_of_all_where_there_are_no_more(learning):
    circuit = Examined(RunContext(learning), learning.model()).circuit
    every, listed = Scrubbed(circuit), Scrubbed(circuit, np.arange(circuit.N**2))
    assert every.score(every.logits) == listed.score(listed.logits)
    some = Scrubbed(circuit, np.array([3, 8]))
    assert some.logits.equal(every.logits[[3, 8]])
    assert some.inputs == 2


def damaged_arrays(account, folder, **arrays):
    folder = shutil.copytree(account, folder)
    save_file(load_file(folder / "account.safetensors") | arrays, folder / "account.safetensors")
    return folder


def test_numbers_of_an_account_are_finite_and_its_non_linearity_is_known(account, tmp_path):
    alpha = load_file(account / "account.safetensors")["alpha"]
    for i, wrong in enumerate((np.nan, np.inf)):
        with pytest.raises(InvalidArgumentError, match="`alpha` must hold finite numbers"):
            Account.load(damaged_arrays(account, tmp_path / str(i), alpha=np.full_like(alpha, wrong)))
    folder = shutil.copytree(account, tmp_path / "tanh")
    plain = json.loads((folder / "account.json").read_text())
    (folder / "account.json").write_text(json.dumps(plain | {"activation": "tanh"}))
    with pytest.raises(InvalidArgumentError, match="`activation` must be one of relu, gelu; got 'tanh'"):
        Account.load(folder)


def test_files_of_an_explanation_have_the_permissions_of_new_files(account, tmp_path):
    (tmp_path / "new").write_text("")
    assert {path.stat().st_mode for path in account.iterdir()} == {(tmp_path / "new").stat().st_mode}


def test_a_file_that_is_not_there_is_named_without_its_number(run, account, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"account\.json cannot be read: No such file") as refused:
        Account.load(tmp_path / "none")
    assert "Errno" not in str(refused.value)
    folder = shutil.copytree(account, tmp_path / "half")
    (folder / "explanation.json").unlink()
    with pytest.raises(InvalidArgumentError, match=r"explanation\.json cannot be read: No such file") as refused:
        verify_explanation(folder, run)
    assert "Errno" not in str(refused.value)


def test_a_certificate_of_another_run_names_both(run, learning, account):
    with pytest.raises(InterpError, match=f"explains the run {run.folder.name}, and .* was given") as refused:
        verify_explanation(account, changed(learning, account.parent / "another", lambda weights: None))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrong", [5, None, [1], b"x"], ids=str)
@pytest.mark.usefixtures("as_users_run_it")
def test_a_run_is_a_run_or_a_path(wrong):
    for function in (interp.explain, interp.measure):
        with pytest.raises(InvalidArgumentError, match="A run must be a Trajectory or the path of its folder; got"):
            function(wrong)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_network_alone_is_no_run(run):
    model = explained(run, keys=[1]).ideal_model
    with pytest.raises(InvalidArgumentError, match=r"got IdealNetwork\. A network alone is none"):
        interp.measure(model)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("step", [[1], (1, 2), "1", {}], ids=str)
def test_a_step_is_one_number(run, step):
    with pytest.raises(InvalidArgumentError, match="`step` must be one stored step"):
        explained(run, step=step)


def test_frequencies_that_are_none_are_named_by_their_argument(run):
    with pytest.raises(InvalidArgumentError, match=r"`frequencies` must be a list of frequencies in 1..5"):
        keep_only(run.model(), frequencies=[99], examples=run.task)


def test_a_bilinear_model_is_refused_for_what_it_is(tmp_path):
    config = interp.RunConfig(
        task=interp.config.Modular(p=7, encoding="operands"), model=FeedForward(d_hidden=(), combine="product"), steps=1
    )
    with pytest.raises(NotAvailableError, match="this bilinear model multiplies its operands and has no hidden layer"):
        explained(interp.train(config, root=tmp_path, device="cpu"))


def test_a_verdict_on_products_says_what_is_proved_of_pairs_with_0(tmp_path):
    found = explained(trained(tmp_path, **{"task.p": 5, "task.operation": "multiply"}), keys=[1])
    proved = int(found.certificate.right.sum() - found.certificate.right[1:, 1:].sum())
    assert found.limit == f"without 0: of the 9 pairs with the operand 0, {proved} are proved to be right"
    assert f"({found.limit})" in found.lines()[0]
    assert found.limit in found._repr_html_()
    assert explained(trained(tmp_path / "sum", **{"task.p": 5}), keys=[1]).limit == ""


def test_a_comparison_explains_its_columns_and_is_saved_as_a_page(run, learning, tmp_path):
    table = compare_explanations([explained(run, keys=[1, 3]), explained(learning, keys=[1, 2])])
    assert {*table.data_vars} - {"universal"} == {*COLUMNS}
    table["from_attention"][0] = -6e-19
    lines = comparison_lines(table)
    assert "e-19" not in "\n".join(lines)
    assert not any(" -0 " in line for line in lines)
    for name in COLUMNS:
        assert any(line.startswith(f"  {name}: ") for line in lines)
    assert lines[-1].startswith("Universal (hold in all runs")
    assert "of its own keys" in lines[-1]
    saved = json.loads((save_comparison(table, tmp_path) / "comparison.json").read_text())
    assert saved["run"] == [run.folder.name, learning.folder.name]
    assert saved["verdict"] == table["verdict"].values.tolist()
    page = (tmp_path / "index.html").read_text()
    assert f'href="{run.folder.name}/index.html"' in page
    assert html.escape(COLUMNS["coherence"]) in page
    assert "NaN" not in (tmp_path / "comparison.json").read_text()
