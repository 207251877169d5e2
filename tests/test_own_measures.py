"""Measures of users: their fields, their results, what they may ask of a batch, gradients, and stored values."""

import re

import numpy as np
import pytest
import torch

import interp
from interp.analysis import context
from interp.analysis.batch import CheckpointBatch
from interp.analysis.catalogue import MEASURES
from interp.analysis.context import RunContext
from interp.analysis.requirements import Requirement
from interp.config import Group
from interp.errors import InvalidArgumentError, MeasureError, NotAvailableError, UnknownNameError
from tests.runs import extend


@pytest.fixture(scope="module")
def logistic_run(tmp_path_factory):
    config = interp.recipes.get("beck").replace({"task.n": 40, "task.d": 15, "steps": 8, "save.weights": "every(4)"})
    return interp.train(config, root=tmp_path_factory.mktemp("logistic"), device="cpu")


@pytest.fixture(scope="module")
def mlp_run(tmp_path_factory):
    config = interp.recipes.get("simple-grokking").replace(
        {"task.p": 7, "model": {"d_model": 16, "d_hidden": (24, 20)}, "steps": 8, "save.weights": "every(4)"}
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


def of_weights(name="mine", compute=lambda batch: batch.weights["embed.W_E"].abs().amax((1, 2)), **declared):
    return interp.Measure(name, compute, "largest entry of the embedding", inputs="weights", **declared)


@pytest.fixture
def one_thread():
    """All checkpoints in one chunk, whatever the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_measure_of_ones_own_stands_beside_the_names(own_run):
    data = interp.measure(own_run, ["test_loss", of_weights()])
    assert list(data.data_vars) == ["test_loss", "mine"]
    assert data.mine.attrs["long_name"] == "largest entry of the embedding"
    np.testing.assert_array_equal(data.mine, np.abs(own_run.param("embed.W_E")[:]).max((1, 2)))
    assert [path.stem for path in (own_run.folder / "measures").iterdir()] == ["test_loss"]


def test_everything_that_a_batch_offers_is_of_its_steps_and_documented(grokked_run):
    """Every public attribute of a batch has a docstring, and each array has the steps in front."""
    batch = CheckpointBatch(RunContext(grokked_run), np.array([3, 30]))
    assert batch.steps.tolist() == [150, 1500]
    public = [name for name in dir(CheckpointBatch) if not name.startswith("_")]
    for name in public:
        assert getattr(CheckpointBatch, name).__doc__, name
    elsewhere = {
        "steps",
        "fourier_basis",
        "keys",
        "named_keys",
        "last",
        "each",
        "gradients",
        "weights",
        "updates",
        "excluded",
        "group",
    }
    of_groups = {name for name in public if "irrep" in name}
    for name in of_groups:
        with pytest.raises(NotAvailableError, match=f"`batch.{name}` is defined for the products of a finite group"):
            getattr(batch, name)
    for name in set(public) - elsewhere - of_groups - {"llc", "certified", "account_scores"}:
        value = getattr(batch, name)
        fields = [value] if isinstance(value, torch.Tensor) else list(vars(value).values())
        parts = [part for f in fields for part in ([f] if isinstance(f, torch.Tensor) else vars(f).values())]
        assert all(len(part) == 2 and not part.requires_grad for part in parts), name
    for name in ("weights", "gradients", "updates"):
        assert {key: value.shape for key, value in getattr(batch, name).items()} == {
            key: (2, *grokked_run.param(key).shape[1:]) for key in grokked_run.names
        }
    torch.testing.assert_close(batch.fourier_basis @ batch.fourier_basis.T, torch.eye(23, dtype=torch.float64))


def test_named_dimensions_with_coordinates_of_ones_own(toy_run):
    split = of_weights(
        "halves",
        lambda batch: batch.W_E.unflatten(-1, (2, 8)).norm(dim=-1).transpose(1, 2),
        dims=("step", "half", "token"),
        coords={"half": ["lower", "upper"]},
    )
    data = interp.measure(toy_run, [split, "embedding_coordinates"], cache=False)
    assert data.halves.dims == ("step", "half", "token")
    assert data.half.values.tolist() == ["lower", "upper"]
    W_E = np.asarray(toy_run.param("embed.W_E"))[:, :7, 8:]
    np.testing.assert_allclose(data.halves.sel(half="upper"), np.linalg.norm(W_E, axis=-1), rtol=1e-6)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"name": "two words"}, r"`Measure.name` must be an identifier, such as largest_key; got 'two words'"),
        ({"compute": 3}, "`Measure.compute` must be a function of a batch; got 3"),
        ({"dims": "step"}, '`Measure.dims` must be distinct names of axes, "step" first'),
        ({"dims": ("token", "step")}, '"step" first'),
        ({"dims": ("step", "a", "a")}, "distinct names"),
        ({"dims": ("step", ..., "a")}, "may end with"),
        ({"dims": ("step", "mine")}, "own name is no axis"),
        ({"requires": "embedding"}, r"must be a tuple, such as \(\"embedding\",\)"),
        ({"coords": {"half": [1, 2]}}, "`Measure.coords` must be of axes in `dims`"),
    ],
)
def test_a_field_that_breaks_its_rule_is_named(declared, message, as_users_run_it):
    with pytest.raises(InvalidArgumentError, match=message):
        of_weights(**declared)
    with pytest.raises(UnknownNameError, match=r"no requirement `embeding`\. Did you mean `embedding`"):
        of_weights(requires=("embeding",))
    with pytest.raises(InvalidArgumentError, match=r"`Measure\.inputs` must be one of"):
        interp.Measure("mine", len, inputs="everything")


@pytest.mark.parametrize(
    ("compute", "declared", "message"),
    [
        (lambda batch: 3.0, {}, r"`mine` must return the axes \[step\] with 11 steps; got shape \[\]"),
        (lambda batch: batch.W_E, {}, r"must return the axes \[step\] with 11 steps; got shape \[11, 7, 16\]"),
        (lambda batch: [1.0], {}, r"with 11 steps; got shape \[1\]"),
        (
            lambda batch: batch.W_E[0, 0, 0],
            {"dims": ("step", ...)},
            r"axes \[step, ...\] with 11 steps; got shape \[\]",
        ),
        (lambda batch: None, {}, "must return a number or an array; got None"),
        (lambda batch: batch.W_E[:, 0] * 1j, {"dims": ("step", "d")}, "must return real numbers; got torch.complex64"),
        (lambda batch: [[1.0]] * 5 + [[1.0, 2.0]] * 6, {"dims": ("step", "d")}, "number or an array; got"),
        (lambda batch: batch.W_E[:, :3, 0], {"dims": ("step", "token")}, "coordinates of its axis `token`.*7; got 3"),
        (lambda batch: batch.W_E[:, :5, 0], {"dims": ("step", "frequency")}, "axis `frequency`.*3; got 5"),
        (lambda batch: batch.W_E[:, :5, 0], {"dims": ("step", "parameter")}, r"axis `parameter`.*\d+; got 5"),
        (lambda batch: batch.W_E[:, :3, 0], {"dims": ("step", "d"), "coords": {"d": [1]}}, "axis `d`.*1; got 3"),
    ],
)
def test_results_that_do_not_fit_are_named(toy_run, compute, declared, message, as_users_run_it, one_thread):
    with pytest.raises(InvalidArgumentError, match=message):
        interp.measure(toy_run, [of_weights(compute=compute, **declared), "embedding_coordinates"])


def test_two_measures_of_one_name_are_refused(toy_run):
    for names, message in (
        ([of_weights(), of_weights()], "`mine` is that of two"),
        ([of_weights("test_loss")], "`test_loss` is one of those that there are"),
        ([of_weights("frequency"), "embedding_power"], "`frequency` is the name of an axis"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            interp.measure(toy_run, names)
    same = of_weights()
    assert list(interp.measure(toy_run, [same, same]).data_vars) == ["mine"]


def test_values_that_are_not_finite_are_said(toy_run):
    def logarithm(batch):
        return torch.as_tensor(batch.steps).double().log()

    with pytest.warns(UserWarning, match="`late` is NaN or infinite at 1 of 11 checkpoints, first at step 0"):
        interp.measure(toy_run, [of_weights("late", logarithm)])


def test_a_requirement_is_checked_by_name(toy_run, squares_run, logistic_run):
    keyed = of_weights(compute=lambda batch: batch.keys.sum().expand(len(batch)), requires=("key frequencies",))
    with pytest.raises(NotAvailableError, match="`mine` needs key frequencies, on which two of three criteria agree"):
        interp.measure(toy_run, [keyed])
    with pytest.raises(NotAvailableError, match="`mine` is defined for addition and subtraction"):
        interp.measure(squares_run, [keyed])
    readout = of_weights(compute=lambda batch: batch.W_U.norm(dim=(1, 2)), requires=("unembedding",))
    rule = r"`mine` needs an unembedding \(such as `unembed.W_U`\); this run is gauss40x15 with logistic"
    with pytest.raises(NotAvailableError, match=rule):
        interp.measure(logistic_run, [readout])
    assert np.isfinite(interp.measure(toy_run, [readout]).mine).all()
    odd = Requirement("even", lambda run: run.p % 2 == 0, "needs an even modulus")
    with pytest.raises(NotAvailableError, match="`mine` needs an even modulus; this run is add7 with transformer"):
        interp.measure(toy_run, [of_weights(requires=(odd,))])


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (
            lambda batch: batch.weights["unembed.W_U"],
            r'no parameter `unembed.W_U`.*declares requires=\("unembedding",\)',
        ),
        (lambda batch: batch.weights["blocks.0.attn.W_Q"], r'requires=\("attention",\)'),
        (lambda batch: batch.weights["gate"], "a `Requirement` of its own"),
        (lambda batch: batch.W_U, r'`batch.W_U` needs an unembedding.*requires=\("unembedding",\)'),
        (lambda batch: batch.W_E, r'`batch.W_E` needs inputs that are tuples.*requires=\("operands",\)'),
        (lambda batch: batch.logits, r'`batch.logits` needs inputs that are pairs.*requires=\("operand pairs",\)'),
        (lambda batch: batch.neurons, "`batch.neurons` needs inputs that are pairs"),
        (lambda batch: batch.keys, "`batch.keys` needs inputs that are pairs"),
        (lambda batch: batch.fourier_basis, "`fourier_basis` needs inputs that are tuples of operands"),
        (lambda batch: batch.losses, "`batch.losses` needs outputs that are logits of classes"),
        (lambda batch: batch.gradients, "`batch.gradients` needs outputs that are logits of classes"),
        (lambda batch: batch.attention_scores, "`batch.attention_scores` needs inputs that are pairs"),
        (
            lambda batch: batch.each(lambda m: m.unembed.W_U),
            r'lacks .*W_U.*; this run is gauss40x15.*\("unembedding",\)',
        ),
        (lambda batch: batch.each(lambda m: m.blocks_of_mine), "lacks .*blocks_of_mine.*a `Requirement` of its own"),
        (lambda batch: batch.each(lambda m: m.state_dict()["embed.W_E"]), r'no `embed.W_E`.*requires=\("embedding",\)'),
    ],
)
def test_a_forgotten_requirement_is_named_where_the_run_lacks_the_part(logistic_run, compute, message):
    """Asked for what it lacks, a run of another kind says so in one line, never by a bare KeyError."""
    with pytest.raises(NotAvailableError, match=message):
        interp.measure(logistic_run, [of_weights(compute=compute)])


@pytest.mark.parametrize("revision", [0, 1])
def test_other_mistakes_name_the_measure_and_keep_their_cause(own_run, revision):
    for broken, cause, message in (
        (lambda batch: {}["key"], KeyError, r"`mine` raised KeyError: 'key'"),
        (lambda batch: 1 / 0, ZeroDivisionError, "`mine` raised ZeroDivisionError: division by zero"),
        (lambda batch: batch.logit, AttributeError, r"`batch\.logit`, which no batch has\. Did you mean `logits`"),
        (lambda batch: batch.WE, AttributeError, r"`batch\.WE`, which no batch has\. Did you mean `W_E`"),
    ):
        with pytest.raises(MeasureError, match=message) as caught:
            interp.measure(own_run, [of_weights(compute=broken, revision=revision)])
        assert isinstance(caught.value.__cause__, cause)


def test_a_function_of_a_batch_is_to_be_wrapped(toy_run):
    def spread(batch):
        return batch.W_E.var((1, 2))

    with pytest.raises(InvalidArgumentError, match=r'no `W_E`.*wrap it: interp\.Measure\("spread", spread\)\.'):
        interp.measure(toy_run, [spread])
    assert interp.measure(toy_run, [interp.Measure("spread", spread)]).spread.dims == ("step",)
    with pytest.raises(InvalidArgumentError, match="not classes; got the class Measure"):
        interp.measure(toy_run, [interp.Measure])


def test_no_measure_of_ours_fails_for_lack_of_a_requirement(logistic_run, mlp_run, squares_run, group_run):
    """Each measure, asked for by name on runs of every kind, is computed or refused by its requirement."""
    for traj in (logistic_run, mlp_run, squares_run, group_run):
        for name in [name for name in MEASURES if not name.startswith("local_learning")]:
            unmet = RunContext(traj).unmet(MEASURES[name].requires)
            last = [int(traj.steps[-1])]
            if unmet is None or unmet.name == "key frequencies":
                interp.measure(traj, [name], steps=last, cache=False)
                continue
            with pytest.raises(NotAvailableError, match=re.escape(f"`{name}` {unmet.rule}; this run is")):
                interp.measure(traj, [name], steps=last, cache=False)


# --- gradients ------------------------------------------------------------------------------------------------


def by_backward(traj):
    def steepness(model):
        logits = model(traj.task.tokens[traj.task.train])[:, -1]
        torch.nn.functional.cross_entropy(logits.double(), traj.task.labels[traj.task.train]).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()

    return steepness


@pytest.mark.parametrize("threads", [1, 2])
def test_a_function_of_the_model_may_take_gradients(toy_run, threads, monkeypatch):
    monkeypatch.setattr(context, "CHUNK_STEPS", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    names = [by_backward(toy_run), "gradient_norm_by_parameter"]
    data = interp.measure(toy_run, names, cache=False)
    total = (data.gradient_norm_by_parameter**2).sum("parameter") ** 0.5
    np.testing.assert_allclose(data.steepness, total, rtol=1e-4)  # `.grad` does not add up over the checkpoints
    with torch.no_grad():
        again = interp.measure(toy_run, names, cache=False)
    np.testing.assert_array_equal(again.steepness, data.steepness)


def test_a_measure_may_take_gradients(toy_run):
    def by_batch(batch):
        W = batch.W_E.clone().requires_grad_()
        (slope,) = torch.autograd.grad(W.square().sum(), W)
        return slope.norm(dim=(1, 2)) + 0 * W.sum((1, 2))  # still has a graph

    mine = of_weights(compute=by_batch)
    each = of_weights("each", lambda batch: batch.each(by_backward(toy_run)))
    with torch.no_grad():
        data = interp.measure(toy_run, [mine, each, by_backward(toy_run)], cache=False)
    np.testing.assert_allclose(data.mine, 2 * np.linalg.norm(toy_run.param("embed.W_E")[:, :7], axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(data.each, data.steepness)


def test_gradients_leave_no_trace(toy_run):
    batch = CheckpointBatch(RunContext(toy_run), np.array([3, 4]))
    model = batch.context.model
    frozen = model.embed.W_E.requires_grad_(False)

    def meddle(model):
        model.train()
        model.requires_grad_(True)
        loss = model(toy_run.task.tokens).square().mean()
        loss.backward()
        return loss

    found = batch.each(meddle)
    assert not any(value.requires_grad for value in found)
    assert all(p.grad is None and p.requires_grad == (p is not frozen) for p in model.parameters())
    assert not model.training


def test_functions_without_gradients_compute_none(toy_run):
    """A function may turn results into numpy arrays, as under `no_grad`; and it is called once a checkpoint."""
    calls = []

    def array(model):
        calls.append(torch.is_grad_enabled())
        return model(toy_run.task.tokens).numpy().mean()

    interp.measure(toy_run, [array])
    assert calls == [False] * 11


# --- stored values --------------------------------------------------------------------------------


def test_values_are_stored_under_a_revision(own_run):
    calls = []

    def counted(batch):
        calls.append(len(batch))
        return batch.weights["embed.W_E"].sum((1, 2))

    first = interp.measure(own_run, of_weights(compute=counted, revision="sum"))
    assert sum(calls) == 11
    assert interp.measure(own_run, of_weights(compute=counted, revision="sum")).identical(first)
    assert sum(calls) == 11
    interp.measure(own_run, of_weights(compute=counted, revision="total"))
    assert sum(calls) == 22


@pytest.mark.parametrize(
    ("compute", "way"),
    [
        (lambda batch: batch.keys.sum().expand(len(batch)), {"requires": ("key frequencies",)}),
        (lambda batch: batch.logit_variance_explained, {"requires": ("key frequencies",)}),
        (lambda batch: batch.circle.resultant, {"relative_to": "last"}),
        (lambda batch: batch.W_E.sum((1, 2)) - batch.last.W_E.sum(), {"relative_to": "last"}),
        (lambda batch: batch.updates["embed.W_E"].norm(dim=(1, 2)), {"relative_to": "before"}),
    ],
)
def test_stored_values_declare_the_checkpoints_they_depend_on(grokked_run, compute, way, tmp_path):
    traj = extend(tmp_path / "run", grokked_run, grokked_run.steps)
    ((field, value),) = way.items()
    with pytest.raises(InvalidArgumentError, match=f"depend on other checkpoints: it must declare {field}="):
        interp.measure(traj, of_weights(compute=compute, revision=1))
    interp.measure(traj, [of_weights(compute=compute, revision=1, **{field: value}), "restricted_loss_logit"])
    interp.measure(traj, of_weights(compute=compute))  # what is not stored need not


def test_numpy_views_of_the_weights_are_copied(toy_run):
    def W_U(model):
        return model.unembed.W_U.detach().numpy()

    found = interp.measure(toy_run, [W_U])["W_U"].values
    np.testing.assert_array_equal(found, np.asarray(toy_run.param("unembed.W_U")))


def test_a_measure_that_writes_into_its_arrays_changes_no_built_in_value(toy_config, tmp_path):
    def centred(batch):
        outputs = batch.outputs
        outputs -= outputs.mean(-1, keepdim=True)
        outputs *= 0
        return outputs.flatten(1).sum(1)

    def hooked(model):
        model.register_forward_hook(lambda module, inputs, output: output * 0)
        return 1.0

    traj = interp.train(toy_config, root=tmp_path, device="cpu")
    want = interp.measure(traj, ["test_loss"], cache=False)["test_loss"].values
    interp.measure(traj, [interp.Measure("centred", centred), hooked, "test_loss"])
    np.testing.assert_array_equal(interp.measure(traj, ["test_loss"])["test_loss"].values, want)
