"""`measure` over real runs: labelled, in agreement with training and with slow definitions, and computed once."""

import dataclasses
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray

import interp
from interp.analysis import context, llc, measures
from interp.analysis.account import variance_explained
from interp.analysis.batch import CheckpointBatch
from interp.analysis.cache import MeasureCache
from interp.analysis.catalogue import MEASURES
from interp.analysis.context import RunContext
from interp.analysis.explaining import Examined
from interp.analysis.measures import key_frequencies, key_frequency_votes
from interp.analysis.requirements import with_implied
from interp.config import Group, Parity, Sums, Symbolic
from interp.errors import InvalidArgumentError, NotAvailableError, UnknownNameError
from interp.models.transformer import TransformerNetwork
from interp.theory.groups import finite_group, irreps
from tests.runs import extend

NEED_SUM = {name for name, item in MEASURES.items() if item.needs("answer is a sum")}


@pytest.fixture
def passes(monkeypatch):
    """A list that gets an entry for each pass of a model over all pairs."""
    seen, answer = [], TransformerNetwork.answer

    def counted(self, pairs):
        seen.append(len(pairs.tokens))
        return answer(self, pairs)

    monkeypatch.setattr(TransformerNetwork, "answer", counted)
    return seen


@pytest.fixture(scope="module")
def mlp_run(tmp_path_factory):
    config = interp.recipes.get("simple-grokking").replace(
        {"task.p": 7, "model": {"d_model": 16, "d_hidden": (24, 20)}, "steps": 30, "save.weights": "every(5)"}
    )
    return interp.train(config, root=tmp_path_factory.mktemp("mlp"), device="cpu")


@pytest.fixture(scope="module")
def group_run(tmp_path_factory, toy_config):
    """Permutations of three things, by a transformer."""
    config = toy_config.replace({"task": Group(family="symmetric", n=3, train_fraction=0.6), "steps": 8})
    return interp.train(config, root=tmp_path_factory.mktemp("group"), device="cpu")


@pytest.fixture(scope="module")
def squares_run(tmp_path_factory, toy_config):
    """A task whose answer is no sum."""
    config = toy_config.replace({"task.operation": "x2+y2", "steps": 8})
    return interp.train(config, root=tmp_path_factory.mktemp("squares"), device="cpu")


@pytest.fixture(scope="module")
def product_run(tmp_path_factory, toy_config):
    config = toy_config.replace({"task.operation": "multiply", "steps": 8})
    return interp.train(config, root=tmp_path_factory.mktemp("product"), device="cpu")


@pytest.fixture(scope="module")
def quotient_run(tmp_path_factory, toy_config):
    config = toy_config.replace({"task.operation": "divide", "steps": 8})
    return interp.train(config, root=tmp_path_factory.mktemp("quotient"), device="cpu")


# --- what comes back --------------------------------------------------------------------------------------------------


RUNS = ["toy_run", "grokked_run", "mlp_run", "product_run", "quotient_run", "squares_run"]
LOGARITHMS = ("product_run", "quotient_run")


@pytest.mark.parametrize("which", RUNS)
def test_all_that_apply_with_the_dims_they_promise(which, request):
    traj = request.getfixturevalue(which)
    data = interp.measure(traj, cache=False)
    run = RunContext(traj)
    has_sum = traj.config.task.operation in ("add", "multiply", "divide")
    assert (run.operation is not None) == has_sum
    assert set(data.data_vars) == {
        m.name for m in MEASURES.values() if not m.opt_in and all(need.met(run) for need in with_implied(m.requires))
    }
    p = traj.task.p
    numbers = p - 1 if which in LOGARITHMS else p
    coords = {
        "step": traj.steps.tolist(),
        "frequency": list(range(1, numbers // 2 + 1)),
        "component": list(range(1, min(8, numbers - 1) + 1)),
        "token": [1, 3, 2, 6, 4, 5] if which in LOGARITHMS else list(range(p)),
        "neuron": list(range(data.sizes["neuron"])),
        "parameter": list(traj.names),
        "angle": [1, 2],
    }
    if run.has_attention:
        coords["head"] = list(range(traj.config.model.n_heads))
    assert data.sizes["neuron"] == traj.model().neuron_logit_map().shape[0]
    found = {dim: data[dim].values.tolist() for dim in data.sizes}
    assert found | coords == found  # a measure with axes of its own is welcome
    for name, variable in data.data_vars.items():
        assert variable.dims == MEASURES[name].dims
        assert variable.attrs["long_name"] == MEASURES[name].meaning
        after = slice(1, None) if MEASURES[name].relative_to == "before" else slice(None)
        assert np.isfinite(variable.values[after]).all(), name
    assert data.attrs["run"] == traj.folder.name
    assert data.attrs["p"] == p
    if has_sum:
        assert data.attrs["key_frequencies"] == key_frequencies(traj)  # that there are none is said, too
    else:
        assert "key_frequencies" not in data.attrs


def test_both_kinds_of_runs_are_among_them(toy_run, grokked_run):
    assert key_frequencies(toy_run) == []  # so the measures that need keys were left out there
    assert len(key_frequencies(grokked_run)) >= 2
    assert float(grokked_run.metrics.test_accuracy[-1]) > 0.95


def test_only_what_was_asked_for_once_and_in_order(toy_run):
    data = interp.measure(toy_run, ["weight_norm", "train_loss", "weight_norm"], cache=False)
    assert list(data.data_vars) == ["weight_norm", "train_loss"]
    assert set(data.coords) == {"step"}
    assert list(interp.measure(toy_run, "weight_norm", cache=False).data_vars) == ["weight_norm"]


@pytest.mark.parametrize("which", RUNS)
def test_losses_and_accuracies_are_those_of_training(which, request):
    traj = request.getfixturevalue(which)
    names = ["train_loss", "test_loss", "train_accuracy", "test_accuracy"]
    data, metrics = interp.measure(traj, [*names, "all_loss"], cache=False), traj.metrics
    for name in names:
        logged = metrics[name].dropna("step")
        common = np.intersect1d(logged.step, data.step)
        assert len(common) >= 3
        np.testing.assert_allclose(
            data[name].sel(step=common), logged.sel(step=common), rtol=1e-5, atol=1e-7, err_msg=name
        )
    n_train, n_test = int(traj.task.train.sum()), int(traj.task.test.sum())
    mean = (n_train * data.train_loss + n_test * data.test_loss) / (n_train + n_test)
    np.testing.assert_allclose(data.all_loss, mean, rtol=1e-12)


def test_weight_norms(toy_run):
    data = interp.measure(toy_run, ["weight_norm", "sum_of_squares", "sum_of_squares_by_parameter"], cache=False)
    squares = {name: (np.asarray(toy_run.param(name), float).reshape(11, -1) ** 2).sum(1) for name in toy_run.names}
    for name, values in squares.items():
        np.testing.assert_allclose(data.sum_of_squares_by_parameter.sel(parameter=name), values, rtol=1e-6)
    np.testing.assert_allclose(data.sum_of_squares, sum(squares.values()), rtol=1e-6)
    np.testing.assert_allclose(data.weight_norm, np.sqrt(sum(squares.values())), rtol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_function_of_the_model_is_a_measure(own_run, threads, monkeypatch):
    monkeypatch.setattr(context, "CHUNK_STEPS", 4)

    def readout(model):
        """Singular values of the readout."""
        return torch.linalg.svdvals(model.unembed.W_U)

    def embedding(model):
        return model.embed.W_E  # the model's own memory

    def agreement(model):
        tokens = own_run.task.tokens
        return float((model(tokens)[:, -1].argmax(-1) == own_run.task.labels).double().mean())

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        data = interp.measure(own_run, [readout, "train_accuracy", "test_accuracy", embedding, agreement])
    finally:
        torch.set_num_threads(before)
    assert list(data.data_vars) == ["readout", "train_accuracy", "test_accuracy", "embedding", "agreement"]
    assert data.readout.dims == ("step", "readout_0")
    assert data.readout.attrs["long_name"] == "Singular values of the readout."
    W_U = np.asarray(own_run.param("unembed.W_U"))
    np.testing.assert_allclose(data.readout, np.linalg.svd(W_U, compute_uv=False), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(data.embedding, own_run.param("embed.W_E"))
    share = float(own_run.task.train.double().mean())
    np.testing.assert_allclose(data.agreement, share * data.train_accuracy + (1 - share) * data.test_accuracy)


def test_values_of_a_function_are_not_kept(own_run):
    def number(model):
        return 1

    interp.measure(own_run, number)

    def number(model):
        return 2

    assert (interp.measure(own_run, [number], steps=[0, 4]).number == 2).all()
    assert not (own_run.folder / "measures").exists()


def test_a_function_needs_a_name_of_its_own_and_one_shape(toy_run):
    def twin(factor):
        def scaled(model):
            return factor

        return scaled

    def weight_norm(model):
        return 0

    sizes = iter(range(1, 99))

    def growing(model):
        return [0] * next(sizes)

    for names, message in (
        ([lambda model: 0], "needs a name of its own, given by `def`, to be a measure; got '<lambda>'"),
        ([weight_norm], "`weight_norm` is one of those that there are"),
        ([twin(1), twin(2)], "`scaled` is that of two functions"),
        ([growing], r"`growing` must return the same shape at every step; got \(\d+,\) and \(\d+,\)"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            interp.measure(toy_run, names)


def test_what_is_no_number_is_named(toy_run, as_users_run_it):
    def forgot(model):
        model.embed.W_E.norm()

    with pytest.raises(InvalidArgumentError, match="`forgot` must return a number or an array; got None"):
        interp.measure(toy_run, [forgot])
    with pytest.raises(InvalidArgumentError, match="`names` must hold names of measures, or functions; got 3"):
        interp.measure(toy_run, [3])
    assert interp.measure(toy_run, "weight_norm", steps=8).step.values.tolist() == [8]


def test_a_wrong_name_gets_a_suggestion(toy_run):
    with pytest.raises(UnknownNameError, match=r"no measure `weight_nrom`.*Did you mean `weight_norm`"):
        interp.measure(toy_run, ["train_loss", "weight_nrom"])


@pytest.mark.parametrize("name", sorted(NEED_SUM))
def test_what_is_defined_for_sums_only_is_refused(squares_run, name):
    rule = r"is defined for addition and subtraction.*; this run is x2_y27 with transformer"
    with pytest.raises(NotAvailableError, match=rf"`{name}` {rule}"):
        interp.measure(squares_run, [name])


@pytest.mark.parametrize("call", [key_frequencies, key_frequency_votes])
def test_only_sums_have_key_frequencies(squares_run, call):
    with pytest.raises(NotAvailableError, match=r"is defined for addition and subtraction.*x2_y27"):
        call(squares_run)


def test_mirrors_need_a_commutative_operation(toy_config, tmp_path):
    traj = interp.train(toy_config.replace({"task.operation": "subtract", "steps": 1}), root=tmp_path, device="cpu")
    with pytest.raises(NotAvailableError, match=r"`test_accuracy_mirrored` needs a commutative operation"):
        interp.measure(traj, ["test_accuracy_mirrored"])
    assert "test_accuracy_mirrored" not in interp.measure(traj, cache=False)


# --- products are sums of discrete logarithms ------------------------------------------------------------------------


@pytest.mark.parametrize("which", LOGARITHMS)
def test_a_product_is_measured_as_a_sum(which, request):
    """The same weights with their tokens renamed to logarithms, and the zero cut out, by hand."""
    product_run = request.getfixturevalue(which)
    run = RunContext(product_run)
    part = CheckpointBatch(run, np.array([2]))
    log = {1: 0, 3: 1, 2: 2, 6: 3, 4: 4, 5: 5}  # powers of 3 mod 7
    with torch.no_grad():
        every = product_run.model(8)(product_run.task.tokens)[:, -1].reshape(7, 7, 7)
    sign = 1 if product_run.config.task.operation == "multiply" else -1
    for a in range(1, 7):
        for b in range(1, 7):
            c = a * b % 7 if sign == 1 else a * pow(b, -1, 7) % 7
            assert run.sums[log[a], log[b]] == log[c] == (log[a] + sign * log[b]) % 6
            assert run.sums_trained[log[a], log[b]] == product_run.task.train[7 * a + b]
            for answer in range(1, 7):
                torch.testing.assert_close(part.logits[0, log[a], log[b], log[answer]], every[a, b, answer])
    torch.testing.assert_close(part.W_E[0, 3], torch.tensor(np.array(product_run.param("embed.W_E")[2, 6])))
    data = interp.measure(product_run, ["embedding_power"], cache=False)
    assert data.attrs["basis"] == "characters of the products mod 7, discrete logarithms to base 3"


def test_a_composite_modulus_has_no_logarithms(toy_config, tmp_path):
    config = toy_config.replace({"task.operation": "multiply", "task.p": 8, "steps": 1})
    traj = interp.train(config, root=tmp_path, device="cpu")
    with pytest.raises(NotAvailableError, match="products mod a prime"):
        key_frequencies(traj)


def test_agreement_of_the_criteria(grokked_run):
    table = key_frequency_votes(grokked_run)
    votes = table.by_neuron.astype(int) + table.by_logit + table.by_embedding
    assert (table.votes == votes).all()
    assert table.frequency.values[table.votes >= 2].tolist() == key_frequencies(grokked_run)
    data = interp.measure(grokked_run, ["neuron_cluster_size", "logit_similarity"], cache=False).isel(step=-1)
    for name in data.data_vars:
        np.testing.assert_array_equal(table[name], data[name])
    assert not key_frequency_votes(grokked_run, logit_similarity=1.0).by_logit.any()
    assert not key_frequency_votes(grokked_run, neuron_share=1.0).by_neuron.any()
    assert not key_frequency_votes(grokked_run, embedding_multiple=1e6).by_embedding.any()
    early = key_frequency_votes(grokked_run, 0)
    assert early.attrs["step"] == 0
    assert early.votes.sum() < table.votes.sum()


def test_a_group_is_measured_by_its_irreps(group_run):
    data = interp.measure(group_run, cache=False)
    assert data.irrep.values.tolist() == ["trivial", "sign", "standard"]
    for what in ("logit_similarity", "embedding_share", "unembedding_share", "hidden_share"):
        assert data[f"{what}_by_irrep"].dims == ("step", "irrep")
    np.testing.assert_allclose(data.embedding_share_by_irrep.sum("irrep"), 1, rtol=1e-6)  # all functions on the group
    assert (data.key_irrep == (data.logit_similarity_by_irrep > 0.005)).all()
    assert "embedding_power" not in data  # S_3 is not cyclic
    with pytest.raises(NotAvailableError, match="operands are residues"):
        interp.measure(group_run, ["embedding_power"])
    with pytest.raises(NotAvailableError, match=r"`logit_similarity` is defined for addition and subtraction.*S3 with"):
        interp.measure(group_run, ["logit_similarity"])


def test_losses_of_irreps_by_explicit_projection(group_run):
    """The neurons' means over the pairs of each product, projected on the functions that an irrep's entries span."""
    names = ["restricted_loss_irreps", "excluded_loss_irreps", "irrep_variance_explained"]
    names += [f"{name}_by_irrep" for name in names[:2]]
    data = interp.measure(group_run, [*names, "key_irrep", "logit_similarity_by_irrep"], cache=False)
    group, task, model = finite_group("symmetric", 3), group_run.task, group_run.model(8)
    with torch.no_grad():
        answer = model.answer(model.prepare(task.tokens))
        A, W_L = (x.double().numpy() for x in (answer.neurons, answer.neuron_logit_map))
    products, train = group.table.flatten(), task.train.numpy()
    table = np.stack([A[products == w].mean(0) for w in range(6)])
    bases = [irrep.basis for irrep in irreps(group)]
    keys = data.key_irrep[-1].values
    parts = [Q @ (Q.T @ table) for Q in bases]
    together = sum((part for part, key in zip(parts, keys) if key), np.zeros_like(table))
    everything = np.ones(36, bool)
    for kept, restricted, excluded in (
        (together, data.restricted_loss_irreps[-1], data.excluded_loss_irreps[-1]),
        (parts[2], data.restricted_loss_irreps_by_irrep[-1, 2], data.excluded_loss_irreps_by_irrep[-1, 2]),
    ):
        np.testing.assert_allclose(restricted, mean_nll(kept[products] @ W_L, products, everything), rtol=1e-6)
        np.testing.assert_allclose(excluded, mean_nll((A - kept[products]) @ W_L, products, train), rtol=1e-6)
    explained = (data.logit_similarity_by_irrep[-1].values ** 2 * keys).sum()
    np.testing.assert_allclose(data.irrep_variance_explained[-1], explained, rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{"embedding": "separate", "d_hidden": (12,)}, {"embedding": "shared", "combine": "product", "d_hidden": ()}],
)
def test_the_embedding_of_a_groups_network_is_taken_as_published(changes, tmp_path):
    """An MLP's operands times their halves of the first layer, side by side; a bilinear model's embedding as it is."""
    traj = group_mlp(changes, tmp_path)
    weights = {name: W.double().numpy() for name, W in traj.state().items()}
    columns = weights["embed.W_E"]
    if "blocks.0.mlp.W_in" in weights:
        first, second = np.split(weights["blocks.0.mlp.W_in"], 2)
        columns = np.hstack([columns @ first, weights["embed_b.W_E"] @ second])
    sign = np.array([1, -1, -1, 1, 1, -1]) / 6**0.5  # of the permutations of three things, lexicographic
    found = interp.measure(traj, ["embedding_share_by_irrep"]).embedding_share_by_irrep.isel(step=-1)
    share = ((sign @ columns) ** 2).sum() / (columns**2).sum()
    np.testing.assert_allclose(found.sel(irrep="sign"), share, rtol=1e-5)


def group_mlp(changes, root):
    encoding = "direct" if changes["embedding"] == "scalars" else "operands"
    task = Group(family="symmetric", n=3, train_fraction=0.6, encoding=encoding)
    model = {f"model.{name}": value for name, value in ({"d_model": 8} | changes).items()}
    changed = {"task": task, "steps": 4, "save.weights": "every(2)", **model}
    return interp.train(interp.recipes.get("simple-grokking").replace(changed), root=root, device="cpu")


def test_a_group_is_measured_without_an_embedding(tmp_path):
    changes = {"embedding": "scalars", "d_hidden": (12,)}
    data = interp.measure(group_mlp(changes, tmp_path))
    assert "hidden_share_by_irrep" in data
    assert "embedding_share_by_irrep" not in data


def test_products_mod_3_have_no_frequencies(toy_config, tmp_path):
    config = toy_config.replace({"task.operation": "multiply", "task.p": 3, "steps": 2})
    data = interp.measure(interp.train(config, root=tmp_path, device="cpu"))
    assert "test_loss" in data
    assert "logit_similarity" not in data


def test_a_measure_whose_meaning_changed_is_computed_again(own_run, passes, monkeypatch):
    interp.measure(own_run, ["test_loss", "train_loss"])
    passes.clear()
    interp.measure(own_run, ["test_loss", "train_loss"])
    assert not passes
    changed = {**MEASURES, "test_loss": dataclasses.replace(MEASURES["test_loss"], revision=1)}
    monkeypatch.setattr(measures, "MEASURES", changed)
    interp.measure(own_run, ["train_loss"])
    assert not passes
    interp.measure(own_run, ["test_loss"])
    assert passes


def test_a_cyclic_group_is_addition(toy_config, toy_run, tmp_path):
    """The same run written as a group: everything that both have is equal."""
    config = toy_config.replace({"task": Group(family="cyclic", n=7, train_fraction=0.6)})
    traj = interp.train(config, root=tmp_path, device="cpu")
    data, expected = interp.measure(traj, cache=False), interp.measure(toy_run, cache=False)
    assert set(expected) < set(data)
    for name in expected:
        np.testing.assert_array_equal(data[name], expected[name], err_msg=name)


def test_a_dictionary_of_words_is_seen_through(toy_config, tmp_path):
    """Numbers are the words from 22 on in openai/grok's dictionary, as tokens and as classes."""
    config = toy_config.replace({"task": Symbolic(p=5, train_fraction=0.6), "steps": 2})
    traj = interp.train(config, root=tmp_path, device="cpu")
    part = CheckpointBatch(RunContext(traj), np.array([0]))
    with torch.no_grad():
        every = traj.model(0)(traj.task.tokens)[:, -1].reshape(5, 5, -1)
    torch.testing.assert_close(part.logits[0], every[..., 22:27])
    torch.testing.assert_close(part.W_E[0], traj.state(0)["embed.W_E"][22:27])
    assert torch.equal(part.context.sums, (torch.arange(5)[:, None] + torch.arange(5)) % 5)
    assert part.context.operand_positions == (1, 3)
    data = interp.measure(traj, cache=False)
    assert {"logit_similarity", "circularity", "gradient_symmetricity", "excluded_loss_2d"} & set(data) >= {
        "logit_similarity", "circularity", "gradient_symmetricity"
    }  # fmt: skip
    np.testing.assert_allclose(
        data.train_loss[0], mean_nll(every.reshape(25, -1).numpy(), traj.task.labels, traj.task.train), rtol=1e-5
    )


def test_sums_that_do_not_wrap_have_no_frequencies(toy_config, tmp_path):
    config = toy_config.replace({"task": Sums(p=5, encoding="direct", train_fraction=0.6), "steps": 2})
    traj = interp.train(config, root=tmp_path, device="cpu")
    data = interp.measure(traj, cache=False)
    assert {"train_loss", "weight_norm", "effective_rank_embedding"} <= set(data)
    assert "frequency" not in data.dims
    with pytest.raises(NotAvailableError, match="operands are residues"):
        interp.measure(traj, ["circularity"])


def test_inputs_that_are_no_pairs_leave_losses_gradients_and_weights(toy_config, tmp_path):
    config = toy_config.replace({"task": Parity(n=5, k=2, samples=30), "steps": 2})
    traj = interp.train(config, root=tmp_path, device="cpu")
    data = interp.measure(traj)
    assert {"weight_norm", "sum_of_squares", "update_norm_by_parameter", "train_loss", "test_accuracy"} <= set(data)
    assert {"gradient_norm_by_parameter", "softmax_collapse"} <= set(data)
    for name in data.data_vars:
        assert not {need.name for need in with_implied(MEASURES[name].requires)} & {"operands", "operand pairs"}
    np.testing.assert_allclose(data.test_loss[-1], traj.metrics.test_loss[-1], rtol=1e-6)
    for name, kind in (
        ("neuron_frequency", "pairs"),
        ("effective_rank_embedding", "tuples"),
        ("circularity", "tuples"),
    ):
        with pytest.raises(
            NotAvailableError, match=f"`{name}` needs inputs that are {kind} of operands; this run is parity"
        ):
            interp.measure(traj, [name])


# --- gradients and updates -------------------------------------------------------------------------------------------


def test_gradient_norms_are_those_of_the_plain_pass(toy_run):
    data = interp.measure(toy_run, ["gradient_norm_by_parameter"], cache=False)
    model, task = toy_run.model(int(toy_run.steps[5])), toy_run.task
    logits = model(task.tokens[task.train])[:, -1].double()
    torch.nn.functional.cross_entropy(logits, task.labels[task.train]).backward()
    for name, parameter in model.named_parameters():
        found = float(data.gradient_norm_by_parameter.sel(parameter=name)[5])
        np.testing.assert_allclose(found, float(parameter.grad.norm()), rtol=1e-4, err_msg=name)


def test_update_norms_are_per_step_and_follow_the_step_before(own_run):
    first = interp.measure(own_run, ["update_norm_by_parameter"])
    W_E, apart = np.asarray(own_run.param("embed.W_E"), float), np.diff(own_run.steps)
    expected = np.linalg.norm(np.diff(W_E, axis=0).reshape(10, -1), axis=1) / apart
    np.testing.assert_allclose(first.update_norm_by_parameter.sel(parameter="embed.W_E")[1:], expected, rtol=1e-6)
    assert first.update_norm_by_parameter[0].isnull().all()
    assert interp.measure(own_run, ["update_norm_by_parameter"]).identical(first)


def test_a_row_that_depends_on_the_step_before_is_not_used_after_another(toy_run, tmp_path):
    """A run with every second checkpoint, then the full one in its place: now with other neighbours."""
    name = "update_norm_by_parameter"
    interp.measure(extend(tmp_path / "run", toy_run, toy_run.steps[::2]), [name])
    shutil.copytree(toy_run.folder, tmp_path / "full", ignore=shutil.ignore_patterns("measures"))
    shutil.copytree(tmp_path / "run" / "measures", tmp_path / "full" / "measures")
    full = interp.measure(interp.load(tmp_path / "full"), [name])
    np.testing.assert_array_equal(full[name], interp.measure(toy_run, [name], cache=False)[name])


# --- networks with a part taken away ---------------------------------------------------------------------------------


COSTLY = [
    m.name
    for m in MEASURES.values()
    if m.opt_in and not m.needs("finite group") and not m.name.startswith("local_learning")
]
"""Ablations and other measures that come by name only and are defined for addition."""


def plain_logits(traj, **changed):
    """Logits of all pairs at the last step by the plain pass, after a change of some weights."""
    model = traj.model()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name, change in changed.items():
        state[name.replace("__", ".")] = change(state[name.replace("__", ".")])
    model.load_state_dict(state)
    with torch.no_grad():
        return model(traj.task.tokens)[:, -1].double().numpy()


@pytest.fixture(scope="module")
def ablated(grokked_run):
    """The costly measures at the last step."""
    return interp.measure(grokked_run, COSTLY, steps=[1600], cache=False).isel(step=0)


def test_costly_measures_come_by_name_only(toy_run):
    assert not {m.name for m in MEASURES.values() if m.opt_in} & set(interp.measure(toy_run, cache=False))
    assert set(interp.measure(toy_run, COSTLY, steps=[0], cache=False)) == set(COSTLY)


def test_without_a_head(grokked_run, ablated):
    labels, everything = grokked_run.task.labels.numpy(), np.ones(23**2, bool)
    for head in range(4):
        zero = torch.ones(4, 1, 1)
        zero[head] = 0
        logits = plain_logits(grokked_run, blocks__0__attn__W_O=lambda W, zero=zero: W * zero)
        found = ablated.head_ablation_loss.sel(head=head)
        np.testing.assert_allclose(found, mean_nll(logits, labels, everything), rtol=1e-4)


def test_without_a_frequency_of_the_embedding(grokked_run, ablated):
    p, labels, everything = 23, grokked_run.task.labels.numpy(), np.ones(23**2, bool)
    spectrum = np.fft.rfft(grokked_run.state()["embed.W_E"][:p].double().numpy(), axis=0)
    for k in (1, 5, 11):
        kept = spectrum.copy()
        kept[k] = 0
        rest = torch.from_numpy(np.fft.irfft(kept, p, axis=0)).float()
        logits = plain_logits(grokked_run, embed__W_E=lambda W, rest=rest: torch.cat([rest, W[p:]]))
        found = ablated.frequency_ablation_loss.sel(frequency=k)
        np.testing.assert_allclose(found, mean_nll(logits, labels, everything), rtol=1e-3)


def test_both_tables_are_changed_where_there_are_two(tmp_path):
    config = interp.recipes.get("simple-grokking").replace(
        {"task.p": 7, "steps": 4, "model.embedding": "separate", "model.d_model": 8, "model.d_hidden": (12,)}
    )
    traj = interp.train(config, root=tmp_path, device="cpu")
    found = interp.measure(traj, ["frequency_ablation_loss"], steps=[4]).frequency_ablation_loss[0]
    wave = np.stack([f(2 * np.pi * 2 * np.arange(7) / 7) for f in (np.cos, np.sin)]) * (2 / 7) ** 0.5
    without = torch.from_numpy(np.eye(7) - wave.T @ wave).float()
    logits = plain_logits(traj, embed__W_E=lambda W: without @ W, embed_b__W_E=lambda W: without @ W)
    loss = mean_nll(logits, traj.task.labels.numpy(), np.ones(49, bool))
    np.testing.assert_allclose(found.sel(frequency=2), loss, rtol=1e-5)


def test_what_the_network_uses_is_what_hurts(grokked_run, ablated):
    """The loss without a key frequency of the embedding is above that without any other."""
    used = np.isin(ablated.frequency, key_frequencies(grokked_run))
    assert ablated.frequency_ablation_loss.values[used].min() > ablated.frequency_ablation_loss.values[~used].max()


def test_without_a_cluster_of_neurons(grokked_run, ablated):
    """Neurons of one frequency at their means, by hooking nothing: activations and W_L from the plain pass."""
    model, task = grokked_run.model(), grokked_run.task
    with torch.no_grad():
        logits, cache = model.run_with_cache(task.tokens)
        neurons, W_L = cache["blocks.0.mlp.hook_post"][:, -1].double(), model.neuron_logit_map().double()
    table = neurons.reshape(23, 23, -1).numpy()
    power = np.abs(np.fft.fft2(table - table.mean((0, 1)), axes=(0, 1))) ** 2
    hurt = 0
    for k in range(1, 12):
        rows = [(u * k % 23, v * k % 23) for u in (-1, 0, 1) for v in (-1, 0, 1)]
        share = sum(power[row] for row in rows) / power.sum((0, 1))
        cluster = torch.from_numpy(share > 0.85)
        kept = torch.where(cluster, neurons.mean(0), neurons)
        changed = (logits[:, -1].double() + (kept - neurons) @ W_L).numpy()
        loss = mean_nll(changed, task.labels.numpy(), np.ones(23**2, bool))
        np.testing.assert_allclose(ablated.neuron_cluster_ablation_loss.sel(frequency=k), loss, rtol=1e-4)
        hurt += bool(cluster.any())
    assert hurt >= 2


def test_a_circle_alone(grokked_run, ablated):
    W_E = grokked_run.state()["embed.W_E"][:23].double().numpy()
    mean = W_E.mean(0)
    axes = np.linalg.svd(W_E - mean, full_matrices=False)[2]
    for circle in (1, 2, 4):
        plane = axes[2 * circle - 2 : 2 * circle]
        only = torch.from_numpy(mean + (W_E - mean) @ plane.T @ plane).float()
        logits = plain_logits(grokked_run, embed__W_E=lambda W, only=only: torch.cat([only, W[23:]]))
        share = (logits.argmax(1) == grokked_run.task.labels.numpy()).mean()
        np.testing.assert_allclose(ablated.circle_isolation_accuracy.sel(circle=circle), share, atol=3 / 23**2)


def test_attention_is_periodic_in_the_first_number(grokked_run, ablated):
    """Against an explicit projection of the pattern on cosines and sines of a."""
    model, p = grokked_run.model(), 23
    with torch.no_grad():
        pattern = model.run_with_cache(grokked_run.task.tokens)[1]["blocks.0.attn.hook_pattern"][:, 0, -1, 0]
    table = pattern.reshape(p, p).double().numpy()
    centred = table - table.mean()
    for k in (1, 4, 11):
        angle = 2 * np.pi * k * np.arange(p) / p
        power = sum((centred.sum(1) @ wave(angle) / np.sqrt(p * p / 2)) ** 2 for wave in (np.cos, np.sin))
        found = ablated.attention_periodicity.sel(head=0, frequency=k)
        np.testing.assert_allclose(found, power / (centred**2).sum(), rtol=1e-4, atol=1e-7)


def test_gradient_symmetricity_by_finite_differences(grokked_run):
    """Each gradient along a hundred random directions, from the plain pass in float64 at one operand at a time."""
    from interp.analysis.ablations import symmetricity_gradients
    from interp.analysis.algorithms import gradient_symmetricity, symmetricity_triples

    part = CheckpointBatch(RunContext(grokked_run), np.array([len(grokked_run.steps) - 1]))
    first, second = symmetricity_gradients(part)
    found = interp.measure(grokked_run, ["gradient_symmetricity"], steps=[1600], cache=False).gradient_symmetricity
    np.testing.assert_allclose(found, gradient_symmetricity(first, second), rtol=1e-6)
    a, b, c = symmetricity_triples(23)[7].tolist()
    model = grokked_run.model().double()
    W_E = model.embed.W_E.detach()
    tokens = torch.tensor([[23, 24, 25]])  # rows of their own, so that each can be moved alone
    direction = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def logit(shift_a, shift_b):
        rows = torch.stack([W_E[a] + shift_a * direction, W_E[b] + shift_b * direction, W_E[23]])
        model.embed.W_E = torch.nn.Parameter(torch.cat([W_E[:23], rows]))
        with torch.no_grad():
            return model(tokens)[0, -1, c].item()

    h = 1e-6
    for gradient, slope in (
        (first[0, 7], (logit(h, 0) - logit(-h, 0)) / (2 * h)),
        (second[0, 7], (logit(0, h) - logit(0, -h)) / (2 * h)),
    ):
        np.testing.assert_allclose(float(gradient.double() @ direction), slope, rtol=1e-3)


def test_threads_share_one_calibration(toy_run, monkeypatch):
    """All steps are sampled with the same settings, found once, whichever thread comes first."""
    calls = []

    def calibrate(*_, burn_in):
        calls.append(len(calls))
        time.sleep(0.05)  # long enough for the others to come
        return SimpleNamespace(step_size=0.1 + len(calls), inverse_temperature=2.0)

    monkeypatch.setattr(llc, "calibrate", calibrate)
    run = RunContext(toy_run)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda copy: copy.llc_settings(), [run.copy_for_thread() for _ in range(4)]))
    assert calls == [0]
    assert found == [{"step_size": 1.1, "inverse_temperature": 2.0, "burn_in": 200}] * 4


def test_chains_that_drift_are_given_a_longer_burn_in_before_the_coefficient_is_given_up(toy_run, monkeypatch):
    def calibrate(*_, burn_in):
        if burn_in < enough:
            raise NotAvailableError(f"not after {burn_in}")
        return SimpleNamespace(step_size=0.1, inverse_temperature=2.0)

    monkeypatch.setattr(llc, "calibrate", calibrate)
    enough = 1000
    assert RunContext(toy_run).llc_settings() == {"step_size": 0.1, "inverse_temperature": 2.0, "burn_in": 1500}
    enough = 2000
    with pytest.raises(NotAvailableError, match="not after 1500"):
        RunContext(toy_run).llc_settings()


# --- some of the steps -----------------------------------------------------------------------------------------------


def test_some_steps_only(toy_run):
    names = ["train_loss", "update_norm_by_parameter", "circle_resultant"]
    every = interp.measure(toy_run, names, cache=False)
    some = interp.measure(toy_run, names, steps=[40, 8], cache=False)
    assert some.step.values.tolist() == [8, 40]
    xarray.testing.assert_allclose(some, every.sel(step=[8, 40]), rtol=1e-6)
    part = interp.measure(toy_run, names, steps=slice(7, 17), cache=False)
    assert part.step.values.tolist() == [8, 12, 16]
    with pytest.raises(UnknownNameError, match="no checkpoint at step 9"):
        interp.measure(toy_run, names, steps=[9])
    with pytest.raises(UnknownNameError, match=r"must choose at least one stored step.*0\.\.40; got"):
        interp.measure(toy_run, names, steps=slice(41, None))


def test_what_was_measured_at_some_steps_is_kept(own_run, passes):
    interp.measure(own_run, ["train_loss"], steps=[8, 40])
    assert len(passes) == 2
    passes.clear()
    every = interp.measure(own_run, ["train_loss"])
    assert len(passes) == 9
    np.testing.assert_allclose(every.train_loss, interp.measure(own_run, ["train_loss"], cache=False).train_loss)
    passes.clear()
    interp.measure(own_run, ["train_loss"], steps=[12])
    assert passes == []


def test_a_run_without_checkpoints_has_nothing_to_measure(toy_run, tmp_path):
    with pytest.raises(NotAvailableError, match="empty has no checkpoint yet"):
        interp.measure(extend(tmp_path / "empty", toy_run, []))


# --- slow definitions -------------------------------------------------------------------------------------------------


def waves(p, k):
    """cos and sin of w_k (a + b) over all pairs, as orthonormal columns [p^2, 2]."""
    a, b = np.divmod(np.arange(p**2), p)
    angle = 2 * np.pi * k * (a + b) / p
    return np.stack([np.cos(angle), np.sin(angle)], 1) / np.sqrt(p**2 / 2)


def mean_nll(logits, labels, mask):
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -log_p[np.arange(len(labels)), labels][mask].mean()


@pytest.fixture(scope="module")
def final(grokked_run):
    """Logits of all pairs at the last step by the plain pass, labels, the two masks, and the measures there."""
    task = grokked_run.task
    with torch.no_grad():
        logits = grokked_run.model()(task.tokens)[:, -1].double().numpy()
    data = interp.measure(grokked_run, cache=False).isel(step=-1)
    return task.p, logits, task.labels.numpy(), task.train.numpy(), data


def test_the_losses_of_nanda_by_explicit_projection(final):
    """P_K as a sum over pairs of explicit waves; nothing is shared with the package's code."""
    p, logits, labels, train, data = final
    keys = data.attrs["key_frequencies"]
    everything = np.ones_like(train)

    def project(frequencies):
        basis = np.concatenate([waves(p, k) for k in frequencies], 1)
        return basis @ (basis.T @ logits)

    restricted = project(keys)
    restricted += (logits - restricted).mean(0)
    np.testing.assert_allclose(data.restricted_loss_logit, mean_nll(restricted, labels, everything), rtol=1e-4)
    np.testing.assert_allclose(data.excluded_loss_2d, mean_nll(logits - project(keys), labels, train), rtol=1e-4)
    for k in range(1, p // 2 + 1):
        expected = mean_nll(logits - project([k]), labels, train)
        found = data.excluded_loss_2d_by_frequency.sel(frequency=k)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-8)


def test_the_logits_by_explicit_waves(final):
    p, logits, _, _, data = final
    a, b, c = np.meshgrid(*[np.arange(p)] * 3, indexing="ij")
    cube = logits.reshape(p, p, p)
    centred = cube - cube.mean(-1, keepdims=True)
    explained = 0.0
    for k in range(1, p // 2 + 1):
        wave = np.cos(2 * np.pi * k * (a + b - c) / p)
        wave /= np.linalg.norm(wave)
        share = (centred * wave).sum() / np.linalg.norm(centred)
        np.testing.assert_allclose(data.logit_coefficient.sel(frequency=k), (cube * wave).sum(), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(data.logit_similarity.sel(frequency=k), share, rtol=1e-4, atol=1e-6)
        explained += share**2 * (k in data.attrs["key_frequencies"])
    np.testing.assert_allclose(data.logit_variance_explained, explained, rtol=1e-4)


def test_key_frequencies_are_the_peaks_of_the_spectrum(grokked_run, final):
    p, _, _, _, data = final
    keys = data.attrs["key_frequencies"]
    assert keys == key_frequencies(grokked_run)
    W_E = np.asarray(grokked_run.param("embed.W_E")[-1], float)[:p]
    power = (np.abs(np.fft.rfft(W_E, axis=0)[1:]) ** 2).sum(1)
    assert sorted(np.argsort(power)[::-1][: len(keys)] + 1) == keys
    by_logits = np.argsort(data.logit_coefficient.values)[::-1][: len(keys)] + 1
    assert sorted(by_logits) == keys
    np.testing.assert_allclose(data.embedding_power / data.embedding_power.sum(), power / power.sum(), rtol=1e-5)


def test_grokking_is_seen(grokked_run):
    """What the paper says of the last checkpoint: the keys are what the network uses."""
    data = interp.measure(grokked_run, cache=False).isel(step=-1)
    assert float(data.excluded_loss_2d) > 100 * float(data.train_loss)  # without the keys it fails
    assert float(data.restricted_loss_logit) < float(data.test_loss)  # with nothing but the keys it does better
    others = data.excluded_loss_2d_by_frequency.drop_sel(frequency=data.attrs["key_frequencies"])
    assert float(data.excluded_loss_2d) > 100 * float(others.max())


# --- streaming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["toy_run", "grokked_run", "mlp_run"])
@pytest.mark.parametrize("settings", [{"CHUNK_BYTES": 1, "CHUNK_STEPS": 1}, {"CHUNK_BYTES": 10**6, "CHUNK_STEPS": 4}])
def test_chunks_make_no_difference(which, settings, request, monkeypatch):
    traj = request.getfixturevalue(which)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # or the whole run would be chunks for two threads, too
    whole = interp.measure(traj, cache=False)
    for name, value in settings.items():
        monkeypatch.setattr(context, name, value)
    sizes = [len(part) for part in RunContext(traj).chunks(np.arange(len(traj.steps)), "embedding", 1)]
    assert max(sizes) == settings["CHUNK_STEPS"]
    assert sum(sizes) == len(traj.steps)
    sizes = [len(part) for part in RunContext(traj).chunks(np.arange(len(traj.steps)), "activations", 1)]
    assert len(sizes) > 1 or which != "grokked_run"
    chunked = interp.measure(traj, cache=False)
    assert chunked.attrs == whole.attrs
    assert list(chunked.data_vars) == list(whole.data_vars)
    for name in whole.data_vars:
        np.testing.assert_allclose(chunked[name], whole[name], rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("at_once", [1, 3])
def test_activations_fit_into_the_bound(grokked_run, monkeypatch, at_once):
    bytes_per_step = 4 * 23**2 * (128 + 2 * 23)
    monkeypatch.setattr(context, "CHUNK_BYTES", 6 * bytes_per_step + 1)
    run, everything = RunContext(grokked_run), np.arange(len(grokked_run.steps))
    pieces = list(run.chunks(everything, "activations", at_once))
    np.testing.assert_array_equal(np.concatenate(pieces), everything)
    assert len(pieces) == -(-33 // (6 // at_once))  # of 33 steps: not more chunks than need be
    for piece in pieces[:3]:
        part = CheckpointBatch(run, piece)
        held = part.outputs.nbytes + part.neurons.nbytes + part.neuron_logits.nbytes
        assert at_once * held <= context.CHUNK_BYTES


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_make_no_difference(grokked_run, threads, monkeypatch):
    """Several chunks at once, each with a model of its own, against one after the other."""
    monkeypatch.setattr(context, "CHUNK_BYTES", 10**6)
    before = torch.get_num_threads()
    expected = interp.measure(grokked_run, cache=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = interp.measure(grokked_run, cache=False)
    monkeypatch.undo()
    torch.set_num_threads(before)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_an_error_in_a_thread_is_raised(grokked_run, monkeypatch):
    monkeypatch.setattr(context, "CHUNK_BYTES", 10**6)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)

    def broken(*_):
        raise RuntimeError("no luck")

    monkeypatch.setattr(TransformerNetwork, "answer", broken)
    with pytest.raises(RuntimeError, match="no luck"):
        interp.measure(grokked_run, ["train_loss"], cache=False)


# --- the cache --------------------------------------------------------------------------------------------------------


def test_the_second_time_nothing_is_computed(own_run, passes, monkeypatch):
    names = ["train_loss", "weight_norm", "neuron_frequency", "embedding_power"]
    first = interp.measure(own_run, names)
    assert passes == [49] * 11
    assert sorted(path.stem for path in (own_run.folder / "measures").iterdir()) == sorted(names)
    passes.clear()
    for attribute in ("W_E", "weights", "_answers"):
        monkeypatch.setattr(CheckpointBatch, attribute, None)  # nothing is read of the weights either
    again = interp.measure(interp.load(own_run.folder), names)
    assert passes == []
    assert again.identical(first)


def test_all_measures_come_back_identical(own_run, passes):
    first = interp.measure(own_run)
    passes.clear()
    assert interp.measure(own_run).identical(first)
    assert passes == [49]  # the key frequencies are those of the last step, which is looked at again


def test_without_cache_nothing_is_written_or_read(own_run, passes):
    interp.measure(own_run, ["train_loss"], cache=False)
    assert not (own_run.folder / "measures").exists()
    interp.measure(own_run, ["train_loss"])
    passes.clear()
    interp.measure(own_run, ["train_loss"], cache=False)
    assert len(passes) == 11


def test_what_is_relative_to_the_last_step_is_measured_anew_when_that_has_changed(toy_run, tmp_path):
    names = ["embedding_coordinates", "circle_resultant", "subspace_angle"]
    traj = extend(tmp_path / "run", toy_run, toy_run.steps[:6])
    early = interp.measure(traj, names)
    assert interp.measure(traj, names).identical(early)
    extend(tmp_path / "run", toy_run, toy_run.steps[6:])
    late = interp.measure(traj.refresh(), names)
    xarray.testing.assert_allclose(late, interp.measure(toy_run, names, cache=False), rtol=1e-6)
    assert not np.allclose(late.embedding_coordinates[:6], early.embedding_coordinates)


def test_a_grown_run_costs_only_its_new_steps(toy_run, tmp_path, passes):
    names = ["train_loss", "neuron_frequency_share", "circularity", "circle_resultant"]
    traj = extend(tmp_path / "run", toy_run, toy_run.steps[:6])
    interp.measure(traj, names)
    assert len(passes) == 6
    extend(tmp_path / "run", toy_run, toy_run.steps[6:])
    passes.clear()
    grown = interp.measure(traj.refresh(), names)
    assert len(passes) == 5
    xarray.testing.assert_allclose(grown, interp.measure(toy_run, names, cache=False), rtol=1e-6)
    passes.clear()
    interp.measure(traj, [*names, "test_loss"])  # a new measure among known ones computes only itself
    assert len(passes) == 11


def test_other_weights_in_the_same_folder_are_measured_anew(toy_run, toy_config, tmp_path):
    other = interp.train(toy_config.replace({"seed": 1}), root=tmp_path, device="cpu")
    folder = tmp_path / "run"
    interp.measure(extend(folder, toy_run, toy_run.steps), ["train_loss"])
    for name in ("run.json", "trajectory", "LOCK"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    replaced = interp.measure(extend(folder, other, other.steps), ["train_loss"])
    assert replaced.train_loss.equals(interp.measure(other, ["train_loss"], cache=False).train_loss)
    shutil.rmtree(folder / "trajectory")
    (folder / "run.json").unlink()
    shorter = interp.measure(extend(folder, other, other.steps[:3]), ["train_loss"])  # fewer steps than are kept
    assert shorter.train_loss.equals(replaced.train_loss[:3])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # in the last value
    path.write_bytes(data)


HARM = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff" * 200),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_corrupt_file_counts_as_absent(own_run, passes, harm):
    first = interp.measure(own_run, ["train_loss"])
    path = own_run.folder / "measures" / "train_loss.safetensors"
    whole = path.read_bytes()
    HARM[harm](path)
    assert path.read_bytes() != whole
    passes.clear()
    assert interp.measure(own_run, ["train_loss"]).identical(first)
    assert len(passes) == 11
    passes.clear()
    assert interp.measure(own_run, ["train_loss"]).identical(first)
    assert passes == []  # it has been put right


def test_a_folder_that_cannot_be_written_is_measured_all_the_same(own_run, toy_run, monkeypatch):
    expected = interp.measure(toy_run, ["train_loss"], cache=False)
    (own_run.folder / "measures").write_text("in the way")
    assert interp.measure(own_run, ["train_loss"]).identical(expected)
    (own_run.folder / "measures").unlink()

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    for method in ("mkdir", "write_bytes", "unlink", "replace"):
        monkeypatch.setattr(Path, method, read_only)
    assert interp.measure(own_run, ["train_loss"]).identical(expected)
    monkeypatch.undo()
    assert not (own_run.folder / "measures").exists()


def test_other_keys_are_another_measure(grokked_run, tmp_path):
    names = ["restricted_loss_logit", "excluded_loss_3d"]
    traj = extend(tmp_path / "run", grokked_run, grokked_run.steps[:8])
    early = interp.measure(traj, names)
    extend(tmp_path / "run", grokked_run, grokked_run.steps[8:])
    late = interp.measure(traj.refresh(), names)
    assert early.attrs["key_frequencies"] != late.attrs["key_frequencies"]
    expected = interp.measure(grokked_run, names, cache=False)
    for name in names:
        np.testing.assert_allclose(late[name], expected[name], rtol=1e-9)
        assert not np.allclose(early[name], late[name][:8])


def test_rows_are_known_by_setting_and_checkpoint():
    cache = MeasureCache(Path(tempfile.mkdtemp()), enabled=True)
    values = np.arange(6.0).reshape(3, 2)
    cache.write("loss", "keys=[1]", ["a", "b", "c"], values)
    for checkpoints, known, rows in [("abcd", [0, 1, 2], [0, 1, 2]), ("xca", [1, 2], [2, 0]), ("b", [0], [1])]:
        found, kept = cache.read("loss", "keys=[1]", list(checkpoints))
        assert found.tolist() == known
        assert np.array_equal(kept, values[rows])
    assert not len(cache.read("loss", "keys=[2]", ["a", "b", "c"])[0])
    assert not len(cache.read("loss", "keys=[1]", ["x"])[0])
    assert not len(cache.read("other", "keys=[1]", ["a", "b", "c"])[0])


def test_equal_weights_share_a_row():
    cache = MeasureCache(Path(tempfile.mkdtemp()), enabled=True)
    cache.write("loss", "", ["a", "a", "b"], np.array([1.0, 1.0, 2.0]))
    known, values = cache.read("loss", "", ["a", "b", "a"])
    assert known.tolist() == [0, 1, 2]
    assert values.tolist() == [1.0, 2.0, 1.0]


def test_the_account_of_a_step_is_of_the_network_at_that_step(toy_run):
    step = int(toy_run.steps[0])
    data = interp.measure(toy_run, ["certified_loss", "ideal_logits_explained"], steps=[step], cache=False)
    context = RunContext(toy_run)
    examined = Examined(context, toy_run.model(step))
    account = examined.account(context.account_keys)
    assert data["certified_loss"].item() == pytest.approx(examined.certificate(account).loss, rel=1e-6)
    explained = variance_explained(examined.circuit, account)[1]
    assert data["ideal_logits_explained"].item() == pytest.approx(explained, rel=1e-6)
