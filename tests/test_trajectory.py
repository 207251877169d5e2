"""A trajectory is what its folder stores: by position, by step, by name, and while it is still growing."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

import interp
from interp.errors import CorruptRunError, DamagedRunWarning, InvalidArgumentError, StoreError, UnknownNameError
from interp.store import RunReader, RunWriter
from interp.trajectory import find_runs
from tests.older import as_format_1_0

NAME = "blocks.0.attn.W_Q"  # [step, head, d_model, d_head]
MASK = np.arange(11) % 3 == 0


@pytest.fixture(scope="module")
def cut_run(toy_run, tmp_path_factory):
    """The toy run again, in segments of four steps, so that slices cross their borders."""
    folder = tmp_path_factory.mktemp("cut") / toy_run.folder.name
    store(folder, toy_run, toy_run.steps, segment_steps=4)
    return interp.load(folder)


def store(folder, traj, steps, *, finish=True, run=None, **settings):
    with RunWriter.create(folder, run or traj.run, fsync=False, **settings) as writer:
        for step in steps:
            writer.append(int(step), {name: traj.param(name).sel(step) for name in traj.names})
        if finish:
            writer.finish()
    return interp.load(folder)


# --- one parameter over the steps -------------------------------------------------------------------------------------


INDICES = [
    3,
    -1,
    np.int64(2),
    slice(None),
    slice(2, 9),
    slice(9, 2, -3),
    slice(5, 5),
    [0, 3, 3, -1],
    [],
    np.array([8, 1]),
    MASK,
    MASK.tolist(),
    (),
    Ellipsis,
    (Ellipsis, 1),
    (3, ...),
    (3, 1, slice(2, 5)),
    (slice(2, 9), 1),
    (slice(2, 9), ..., slice(1, 3)),
    ([0, 3], 1),
    ([0, 3], slice(None), 2),
    (MASK, ..., 2),
    ([0, 3], [1, 0]),  # pairs, as in numpy: step 0 of head 1 and step 3 of head 0
    (4, slice(None), [2, 0]),
    (slice(0, 2), None, 1),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_a_parameter_is_indexed_as_its_array_is(cut_run, index):
    param = cut_run.param(NAME)
    whole = np.asarray(param)
    assert whole.shape == param.shape == (11, 2, 16, 8)
    assert len(param) == 11
    expected = whole[np.array(index, int) if isinstance(index, list) and not index else index]
    found = param[index]
    assert found.shape == expected.shape
    assert found.dtype == param.dtype == np.float32
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("index", [11, -12, [0, 11], np.ones(3, bool), np.ones((11, 2), bool)], ids=repr)
def test_positions_that_do_not_exist_are_refused(cut_run, index):
    with pytest.raises(IndexError):
        cut_run.param(NAME)[index]
    with pytest.raises(InvalidArgumentError, match="2 axes"):
        cut_run.param(NAME)[np.zeros((1, 1), int)]


def test_numpy_takes_a_parameter_for_an_array(toy_run):
    param = toy_run.param("embed.W_E")
    assert not param[1:4].flags.writeable  # within one segment: the file itself
    assert np.array(param).flags.writeable
    assert np.asarray(param, np.float64).dtype == np.float64
    assert np.allclose(np.linalg.norm(param, axis=(1, 2)), np.sqrt((param[:] ** 2).sum((1, 2))))
    with pytest.raises(ValueError, match="copy"):
        np.array(param, np.float64, copy=False)


def test_sel_goes_by_step(cut_run):
    param = cut_run.param(NAME)
    whole = np.asarray(param)
    assert np.array_equal(param.sel(8), whole[2])
    assert np.array_equal(param.sel(np.int64(8)), whole[2])
    assert np.array_equal(param.sel([40, 0, 8]), whole[[10, 0, 2]])
    assert param.sel([]).shape == (0, 2, 16, 8)
    assert np.array_equal(param.sel(slice(8, 20)), whole[2:6])  # both ends belong to it
    assert np.array_equal(param.sel(slice(7, 21)), whole[2:6])
    assert np.array_equal(param.sel(slice(None, 9)), whole[:3])
    assert np.array_equal(param.sel(slice(37, None)), whole[10:])
    assert len(param.sel(slice(100, 200))) == 0


@pytest.mark.parametrize(
    ("step", "nearest"),
    [(9, "are 8 and 12"), (41, "is 40"), (-1, "is 0"), ([4, 9], "are 8 and 12"), (8.5, "are 8 and 12")],
)
def test_a_step_that_is_not_stored_is_refused_with_the_nearest_ones(cut_run, step, nearest):
    with pytest.raises(UnknownNameError, match=rf"no checkpoint at step .* the nearest {nearest}\."):
        cut_run.param(NAME).sel(step)
    if np.isscalar(step):
        for method in (cut_run.position, cut_run.state, cut_run.model):
            with pytest.raises(UnknownNameError, match=rf"step {step} in {cut_run.folder.name}.* {nearest}\."):
                method(step)


def test_positions(cut_run):
    assert [cut_run.position(int(step)) for step in cut_run.steps] == list(range(11))
    assert cut_run.position() == 10


def test_an_unknown_parameter_gets_a_suggestion(toy_run):
    with pytest.raises(UnknownNameError, match=r"no parameter `embed.W_F`.*Did you mean `embed.W_E`"):
        toy_run.param("embed.W_F")


SIZES = {"token": 8, "d_model": 16, "pos": 3, "head": 2, "d_head": 8, "neuron": 24, "d_vocab_out": 7}
MLP_SIZES = {"token": 7, "d_model": 16, "d_vocab_out": 7}


def test_every_axis_of_a_transformer_has_its_name(toy_config, tmp_path):
    everywhere = dict.fromkeys(("attention_biases", "mlp_biases", "unembed_biases"), "trainable")
    config = toy_config.replace({"model": everywhere, "model.n_layers": 2, "steps": 1})
    traj = interp.train(config, root=tmp_path, device="cpu")
    assert len(traj.names) == 2 + 2 * 12 + 2
    for name in traj.names:
        param = traj.param(name)
        assert param.dims[0] == "step"
        assert [SIZES[dim] for dim in param.dims[1:]] == list(param.shape[1:]), name
    assert traj.param("blocks.1.attn.W_O").dims == ("step", "head", "d_head", "d_model")
    assert traj.param("blocks.1.attn.b_Q").dims == ("step", "head", "d_head")


@pytest.fixture(scope="module")
def mlp_run(tmp_path_factory):
    config = interp.recipes.get("simple-grokking").replace(
        {"task.p": 7, "model": {"d_model": 16, "d_hidden": (24, 20), "embedding": "separate"}, "steps": 3}
    )
    return interp.train(config, root=tmp_path_factory.mktemp("mlp"), device="cpu")


def test_every_axis_of_an_mlp_has_its_name(mlp_run):
    dims = {name: mlp_run.param(name).dims[1:] for name in mlp_run.names}
    assert dims == {
        "embed.W_E": ("token", "d_model"),
        "embed_b.W_E": ("token", "d_model"),
        "blocks.0.mlp.W_in": ("d_in", "neuron"),
        "blocks.0.mlp.b_in": ("neuron",),
        "blocks.1.mlp.W_in": ("d_in", "neuron"),
        "blocks.1.mlp.b_in": ("neuron",),
        "unembed.W_U": ("neuron", "d_vocab_out"),
        "unembed.b_U": ("d_vocab_out",),
    }
    shapes = {name: mlp_run.param(name).shape[1:] for name in mlp_run.names}
    assert shapes["blocks.0.mlp.W_in"] == (32, 24)
    assert shapes["blocks.1.mlp.W_in"] == (24, 20)
    assert shapes["unembed.W_U"] == (20, 7)


# --- models and states ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["toy_run", "mlp_run"])
def test_a_model_has_the_stored_weights(which, request):
    traj = request.getfixturevalue(which)
    for step in (int(traj.steps[1]), None):
        at = traj.position(step)
        model, state = traj.model(step), traj.state(step)
        assert not model.training
        weights = model.state_dict()
        assert set(state) == set(weights) == set(traj.names)
        for name in traj.names:
            stored = torch.from_numpy(np.array(traj.param(name)[at]))
            assert torch.equal(state[name], stored)
            assert torch.equal(weights[name], stored)
    first = traj.state(0)["embed.W_E"]
    first += 1  # a state is the caller's own
    assert not torch.equal(first, traj.state(0)["embed.W_E"])


def test_reading_draws_no_random_numbers(toy_run):
    before = torch.get_rng_state()
    toy_run.model()
    assert torch.equal(torch.get_rng_state(), before)


def test_full_states(toy_run):
    assert toy_run.full_state_steps == [0, 16, 32, 40]
    state = toy_run.full_state(16)
    assert {name.split("/")[0] for name in state} == {"model", "optimizer"}
    assert np.array_equal(state["model/embed.W_E"], toy_run.param("embed.W_E").sel(16))


def test_fingerprints_are_those_of_the_weights(toy_run, toy_config, tmp_path):
    prints = toy_run.fingerprints()
    assert len(prints) == len(set(prints)) == len(toy_run.steps)
    again = interp.train(toy_config, root=tmp_path / "again", device="cpu")
    assert again.fingerprints() == prints
    other = interp.train(toy_config.replace({"seed": 1, "steps": 4}), root=tmp_path / "other", device="cpu")
    assert not set(prints) & set(other.fingerprints())


def test_require_equal(toy_run):
    weights = {name: np.array(toy_run.param(name).sel(8)) for name in toy_run.names}
    toy_run.require_equal(8, weights)
    weights["unembed.W_U"][0, 0] += 0.25
    with pytest.raises(CorruptRunError, match=r"`unembed.W_U` at step 8 .*largest difference 0\.25"):
        toy_run.require_equal(8, weights)
    weights["unembed.W_U"] = toy_run.param("unembed.W_U").sel(8)
    weights["embed.W_E"] = np.nextafter(weights["embed.W_E"], np.float32(9))  # one bit is enough
    with pytest.raises(CorruptRunError, match=r"`embed.W_E` at step 8"):
        toy_run.require_equal(8, weights)
    with pytest.raises(UnknownNameError, match="nearest"):
        toy_run.require_equal(9, weights)


# --- metrics, events, what a run says of itself -----------------------------------------------------------------------


def test_metrics_are_labelled(toy_run):
    metrics = toy_run.metrics
    assert set(metrics.data_vars) == {"train_loss", "train_accuracy", "test_loss", "test_accuracy"}
    assert all(variable.dims == ("step",) for variable in metrics.data_vars.values())
    assert metrics.step.values.tolist() == list(range(41))
    assert float(metrics.test_loss.sel(step=40)) > 0
    assert np.isnan(float(metrics.test_loss.sel(step=39)))


def test_what_a_run_says_of_itself(toy_run, toy_config, tmp_path):
    assert toy_run.config == toy_config
    assert toy_run.complete
    assert toy_run.events == []
    assert toy_run.provenance["device"] == "cpu"
    assert toy_run.size_in_bytes == sum(path.stat().st_size for path in toy_run.folder.rglob("*") if path.is_file())
    assert repr(toy_run) == f"<Trajectory {toy_config.run_id}: 11 checkpoints, steps 0..40>"
    assert repr(toy_run.param(NAME)) == f"<{NAME} [step: 11, head: 2, d_model: 16, d_head: 8] float32, not read yet>"
    run = {**toy_run.run, "events": [[12, "learning rate 1e-4"], [20, "weight decay off"]]}
    traj = store(tmp_path / "run", toy_run, [0, 4], run=run, finish=False)
    assert traj.events == [(12, "learning rate 1e-4"), (20, "weight decay off")]


def test_a_growing_run_is_read(toy_run, tmp_path):
    folder = tmp_path / "growing"
    weights = {int(step): {name: toy_run.param(name).sel(step) for name in toy_run.names} for step in toy_run.steps}
    with RunWriter.create(folder, toy_run.run, fsync=False) as writer:
        traj = interp.load(folder)
        assert not traj.complete
        assert (len(traj.steps), traj.names, traj.fingerprints(), traj.metrics.sizes["step"]) == (0, (), [], 0)
        assert repr(traj) == "<Trajectory growing: no checkpoint yet, not complete>"
        for call in (traj.position, traj.state, traj.model, lambda: traj.position(0)):
            with pytest.raises(UnknownNameError, match="growing has no checkpoint yet"):
                call()
        for step in (0, 4):
            writer.append(step, weights[step])
            writer.log({"step": step, "train_loss": 1.0})
        writer.commit()
        assert len(traj.steps) == 0  # what was loaded stays as it is until it is told to look again
        assert traj.refresh() is traj
        param = traj.param(NAME)
        assert (traj.steps.tolist(), param.shape[0], traj.metrics.sizes["step"]) == ([0, 4], 2, 2)
        for step in (8, 40):
            writer.append(step, weights[step])
        writer.commit()
        traj.refresh()
        assert traj.steps.tolist() == [0, 4, 8, 40]
        assert np.array_equal(param[-1], weights[40][NAME])
        assert not traj.complete  # the last step is there; the writer has more to say, its metrics for example
        writer.finish()
    assert not traj.complete
    assert traj.refresh().complete
    assert traj.fingerprints() == [toy_run.fingerprints()[toy_run.position(step)] for step in (0, 4, 8, 40)]


def test_a_run_that_was_cut_off_after_its_last_checkpoint_is_finished_by_resume(toy_run, tmp_path):
    folder = tmp_path / toy_run.folder.name
    shutil.copytree(toy_run.folder, folder)
    with RunWriter.open(folder, fsync=False) as writer:
        writer.replace_run(toy_run.run, complete=False)
        writer.truncate_after(39)
    assert not interp.load(folder).complete
    resumed = interp.resume(folder)
    assert resumed.complete
    assert resumed.metrics.equals(toy_run.metrics)


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.fixture
def own_run(toy_run, tmp_path):
    """The toy run in three segments, with its states and metrics, in a folder that a test may change."""
    folder = tmp_path / "own"
    store(folder, toy_run, toy_run.steps, segment_steps=4, finish=False)
    with RunWriter.open(folder, fsync=False) as writer:
        for step, row in toy_run.metrics.to_dataframe().iterrows():
            writer.log({"step": step, **row})
        for step in toy_run.full_state_steps:
            writer.save_state(step, toy_run.full_state(step), {}, keep_last=9)
        writer.finish()
    return folder


def last_segment(folder):
    return max((folder / "trajectory").iterdir())


def test_a_sound_run_is_loaded_without_a_word(own_run, toy_run, tmp_path):
    runs = [toy_run, interp.load(own_run), interp.replay(interp.load(own_run), 18, 30, 3)]
    as_format_1_0(runs[-1].folder)
    runs += [interp.load(runs[-1].folder), store(tmp_path / "begun", toy_run, [0, 4], finish=False)]
    assert [traj.complete for traj in runs] == [True, True, True, True, False]
    for traj in runs:
        assert traj.problems == ()
        assert traj.verify().ok


@pytest.mark.parametrize("older", [False, True], ids=["with its holdings", "of an older version"])
@pytest.mark.parametrize("harm", ["truncate", "remove"])
def test_a_complete_run_that_ends_short_is_loaded_with_warnings(own_run, harm, older):
    if older:
        as_format_1_0(own_run)
    path = last_segment(own_run)
    os.truncate(path, path.stat().st_size - 100) if harm == "truncate" else path.unlink()
    with pytest.warns(DamagedRunWarning) as said:
        traj = interp.load(own_run)
    texts = [str(warning.message) for warning in said]
    assert tuple(texts) == traj.problems
    assert texts[-1] == f"{own_run} is complete at step 40, but its weights end at step 28."
    named = [path.name in text for text in texts[:-1]]
    assert named == ([] if older and harm == "remove" else [True])
    assert all(warning.filename == __file__ for warning in said)  # where `load` was called
    report = traj.verify()
    assert not report.ok
    assert set(texts) <= set(report.errors)


def test_a_complete_run_without_weights_is_not_ok(own_run):
    as_format_1_0(own_run)
    shutil.rmtree(own_run / "trajectory")
    with pytest.warns(DamagedRunWarning, match="complete at step 40, but it holds no weights"):
        assert not interp.load(own_run).verify().ok


@pytest.mark.parametrize(("kept", "text"), [(30, "its metrics end at step 29"), (0, "it holds no metrics")])
def test_the_last_line_of_an_older_run_must_be_there(own_run, kept, text):
    as_format_1_0(own_run)
    path = own_run / "metrics.jsonl"
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if json.loads(line)["step"] < kept]
    path.write_bytes(b"".join(lines))
    report = interp.load(own_run).verify()
    assert [f"complete at step 40, but {text}." in error for error in report.errors] == [True]


def test_a_replay_that_ends_short_is_not_ok(own_run):
    zoom = interp.replay(interp.load(own_run), 18, 30, 3).folder
    as_format_1_0(zoom)
    last_segment(zoom).unlink()
    with pytest.warns(DamagedRunWarning, match="complete at step 30, but it holds no weights"):
        assert not interp.load(zoom).verify().ok


def test_an_imported_run_need_not_reach_its_last_step(own_run):
    run = interp.load(own_run).run
    as_format_1_0(own_run, run={**run, "import": {}})
    last_segment(own_run).unlink()
    assert interp.load(own_run).problems == ()


def test_a_damaged_run_that_still_grows_is_loaded_with_a_warning(own_run, toy_run):
    with RunWriter.open(own_run, fsync=False) as writer:
        writer.replace_run(toy_run.run, complete=False)
    os.truncate(last_segment(own_run), 600)
    with pytest.warns(DamagedRunWarning) as said:
        interp.load(own_run)
    assert len(said) == 1
    last_segment(own_run).unlink()  # as the error of a resume advises
    with pytest.warns(DamagedRunWarning, match=r"is missing or altered; 00000040\.safetensors follows it"):
        interp.load(own_run)
    with pytest.warns(DamagedRunWarning, match="goes on from step 0 and computes the rest again"):
        assert interp.resume(own_run).problems == ()


# --- folders that are no runs -----------------------------------------------------------------------------------------


def test_find_runs(toy_run, tmp_path):
    assert find_runs(tmp_path) == []
    assert find_runs(tmp_path / "absent") == []
    for age, name in enumerate(["newest", "older", "oldest"]):
        shutil.copytree(toy_run.folder, tmp_path / name)
        os.utime(tmp_path / name / "run.json", (10**9 - age, 10**9 - age))
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").touch()
    assert [run.name for run in find_runs(tmp_path)] == ["oldest", "older", "newest"]


def test_a_folder_that_is_no_run_is_refused(toy_run, tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StoreError, match=rf"{folder} is no run folder: it holds no run\.json"):
            interp.load(folder)
    RunWriter.create(tmp_path / "foreign", {"p": 59}, fsync=False).close()
    with pytest.raises(CorruptRunError, match=r"foreign/run\.json holds no `config`"):
        interp.load(tmp_path / "foreign")
    config = json.loads(json.dumps(toy_run.run["config"]))
    config["task"]["colour"] = "red"
    RunWriter.create(tmp_path / "future", {"config": config}, fsync=False).close()
    with pytest.raises(StoreError, match=r"that this version cannot read: .*colour"):
        interp.load(tmp_path / "future")
    assert RunReader(tmp_path / "future").run["config"] == config  # the store itself does not mind
