"""Key sets that a user gives: they replace those that are found, are told, and never mix in the cache."""

import numpy as np
import pytest
import xarray

import interp
from interp.analysis import circuits, progress
from interp.analysis.batch import CheckpointBatch
from interp.analysis.context import RunContext
from interp.config import Group
from interp.errors import InvalidArgumentError, NotAvailableError
from tests.stored_runs.make import HERE
from tests.test_cli import call

NAMES = ["restricted_loss_logit", "excluded_loss_2d", "neuron_logit_key_share", "logit_variance_explained"]


@pytest.fixture(scope="module")
def group_run(tmp_path_factory, toy_config):
    """Permutations of three things, by a transformer."""
    config = toy_config.replace({"task": Group(family="symmetric", n=3, train_fraction=0.6), "steps": 8})
    return interp.train(config, root=tmp_path_factory.mktemp("group"), device="cpu")


def test_measures_are_those_of_the_given_keys(own_run):
    data = interp.measure(own_run, NAMES, keys=[3, 1, 3])
    assert (data.attrs["key_frequencies"], data.attrs["keys"]) == ([1, 3], "given")
    context = RunContext(own_run)
    batch = CheckpointBatch(context, np.arange(len(own_run.steps)))
    slow = progress.restricted_loss_logit(batch.logits, context.sums, [1, 3], operation="add")
    np.testing.assert_allclose(data.restricted_loss_logit, slow, rtol=1e-12)
    slow = circuits.neuron_logit_directions(batch.W_L, [1, 3])
    np.testing.assert_allclose(data.neuron_logit_key_share, slow, rtol=1e-12)
    explained = interp.measure(own_run, "logit_variance_explained", keys=range(1, 4))  # all of p = 7
    np.testing.assert_allclose(explained.logit_variance_explained, batch.logit_similarity.square().sum(1), rtol=1e-12)


def test_key_sets_never_mix_in_the_cache(own_run):
    first = {keys: interp.measure(own_run, NAMES, keys=list(keys)) for keys in ((1,), (2, 3))}
    found = interp.measure(own_run, NAMES)
    assert "keys" not in found.attrs
    for keys, data in first.items():
        again = interp.measure(own_run, NAMES, keys=list(keys))
        assert again.identical(data)
        assert again.identical(interp.measure(own_run, NAMES, keys=list(keys), cache=False))
    assert not first[(1,)].restricted_loss_logit.equals(first[(2, 3)].restricted_loss_logit)
    assert interp.measure(own_run, NAMES).identical(found)


def test_the_keys_that_are_found_may_be_given_as_well(grokked_run):
    found = interp.measure(grokked_run, NAMES)
    given = interp.measure(grokked_run, NAMES, keys=found.attrs["key_frequencies"])
    assert given.drop_attrs().equals(found.drop_attrs())
    assert given.attrs["key_frequencies"] == found.attrs["key_frequencies"]


def test_the_criteria_stay_what_they_are(own_run):
    names = ["key_frequency_logit", "key_frequency_neuron", "key_frequency_embedding"]
    assert interp.measure(own_run, names, keys=[2]).drop_attrs().equals(interp.measure(own_run, names).drop_attrs())


def test_irreps_of_a_group_are_given_by_name(group_run):
    names = ["restricted_loss_irreps", "irrep_variance_explained", "certified_loss"]
    one, other = (interp.measure(group_run, names, keys=[name]) for name in ("standard", "sign"))
    assert (one.attrs["keys"], one.attrs["key_irreps"]) == ("given", "standard")
    each = interp.measure(group_run, ["restricted_loss_irreps_by_irrep", "logit_similarity_by_irrep"])
    for name, data in (("standard", one), ("sign", other)):
        alone = each.restricted_loss_irreps_by_irrep.sel(irrep=name)
        np.testing.assert_allclose(data.restricted_loss_irreps, alone, rtol=1e-6)
        squares = each.logit_similarity_by_irrep.sel(irrep=name) ** 2
        np.testing.assert_allclose(data.irrep_variance_explained, squares, atol=1e-9)
        assert interp.measure(group_run, names, keys=[name]).identical(data)  # from the cache, and not the other's
    assert not one.certified_loss.equals(other.certified_loss)


def test_a_cyclic_group_has_frequencies(tmp_path, toy_config):
    config = toy_config.replace({"task": Group(family="cyclic", n=6, train_fraction=0.6), "steps": 2})
    traj = interp.train(config, root=tmp_path)
    data = interp.measure(traj, ["restricted_loss_irreps", "restricted_loss_irreps_by_irrep"], keys=[3])
    alone = data.restricted_loss_irreps_by_irrep.sel(irrep="sign")  # (-1)^a, the frequency 3 of C_6
    np.testing.assert_allclose(data.restricted_loss_irreps, alone, rtol=1e-6)


@pytest.mark.parametrize("keys", [[0], [4], [1.5], [True], ["1"], [], "1", 2, [[1]], [float("nan")]])
def test_wrong_frequencies_are_refused_in_one_line(own_run, as_users_run_it, keys):
    with pytest.raises(InvalidArgumentError, match=r"^`keys` must be .*1\.\.3, the frequencies of ") as error:
        interp.measure(own_run, NAMES, keys=keys)
    assert "\n" not in str(error.value)


def test_unknown_irreps_are_refused_with_a_suggestion(group_run):
    with pytest.raises(InvalidArgumentError, match=r"the irreps of S3; got 'standart'. Did you mean `standard`"):
        interp.measure(group_run, keys=["standart"])
    with pytest.raises(InvalidArgumentError, match=r"trivial, sign, standard, the irreps of S3; got 1"):
        interp.measure(group_run, keys=[1])


def test_a_task_without_keys_says_so():
    traj = interp.load(next((HERE / "runs").glob("parity*")))
    with pytest.raises(NotAvailableError, match="`keys` needs a task whose answer is a sum or the product of a finite"):
        interp.measure(traj, keys=[1], cache=False)


def test_the_command_line_takes_them_and_says_so(own_run, group_run, capsys, tmp_path):
    code, out, _ = call(capsys, "measure", own_run.folder, "restricted_loss_logit", "--keys", "1,3")
    assert (code, "Keys:      1, 3, given" in out) == (0, True)
    path = tmp_path / "a.nc"
    code, out, _ = call(capsys, "measure", group_run.folder, "restricted_loss_irreps", "--keys", "sign, standard",
                        "--output", path)  # fmt: skip
    assert (code, "Keys:      sign; standard, given" in out) == (0, True)
    with xarray.open_dataset(path, engine="scipy") as data:
        assert data.attrs["key_irreps"] == "sign; standard"
    code, _, err = call(capsys, "measure", own_run.folder, "--keys", "1,nine")
    assert (code, err.count("\n")) == (2, 1)
    assert "`keys` must be among 1..3, the frequencies of add7 with transformer; got '1'" in err


def test_names_with_commas_are_one_key():
    from interp.cli.commands import _key_set

    assert _key_set("(2, 2), sign") == ["(2, 2)", "sign"]
    assert _key_set("8,27, 28") == [8, 27, 28]
    assert _key_set(None) is None


def test_the_report_says_that_they_were_given(own_run, capsys, tmp_path):
    path = tmp_path / "given.html"
    code, out, _ = call(capsys, "report", own_run.folder, "--keys", "2", "--output", path)
    assert (code, "Key frequencies:  2, given" in out) == (0, True)
    assert "Key frequencies: 2 (given by the user, not found)." in path.read_text()
    with pytest.raises(InvalidArgumentError, match="`keys` must be those that `data` was measured with"):
        interp.report(own_run, path, data=interp.measure(own_run, NAMES), keys=[2])
