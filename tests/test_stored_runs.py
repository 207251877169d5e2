"""Runs written by an earlier version are read, measured, replayed, resumed and trained again as they were then.

The runs and what was read from them lie in `stored_runs/`, which `stored_runs/make.py` wrote once. Where torch and the
processor are those of that time, all is compared bit by bit, and measures to 1e-12; elsewhere to `ELSEWHERE`. No test
changes the folder.
"""

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import interp
from interp.errors import DamagedRunWarning
from tests.older import as_format_1_0
from tests.stored_runs import digests
from tests.stored_runs.make import HERE, PLACE, RECIPE_STEPS

EXPECTED = json.loads((HERE / "expected.json").read_text())
RECIPES = json.loads((HERE / "expected_recipes.json").read_text())
SAME = digests.environment() == EXPECTED["environment"]
EXACT, ELSEWHERE = 1e-12, 1e-4
ROUNDED = 1e-6
"""Absolute tolerance elsewhere: of differences of nearly equal float32 numbers nothing else agrees."""
UNSTABLE = (
    "_frequency", "_partner", "_multiplicity", "_stride", "_winding", "_rank", "_order_correlation", "_phase_",
    "component_", "neuron_", "circle_", "embedding_coordinates", "gradient_symmetricity",
)  # fmt: skip
"""Parts of names of measures that choose a largest one, a sign or an order, and so can jump where rounding differs."""
RUNS = EXPECTED["runs"]
TRAINED = [name for name in RUNS if name not in ("replay", "imported", "unfinished", "diverged")]
ALONE = [name for name in TRAINED if not name.startswith("ensemble")]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums depend on the number of threads; the stored ones are of one."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(autouse=True, scope="module")
def untouched():
    """Whatever the tests do, the stored files stay as they are."""
    before = digests.file_digests(HERE)
    yield
    assert digests.file_digests(HERE) == before


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A copy of the stored runs, to read from."""
    return shutil.copytree(HERE / "runs", tmp_path_factory.mktemp("stored") / "runs")


def expected(name):
    return json.loads((HERE / "expected" / f"{name}.json").read_text())


def as_json(value):
    return json.loads(json.dumps(value))


def assert_same_weights(traj, stored):
    """Bit by bit where the environment is that of the stored run, else up to rounding, of the norm of all weights.

    The loss does not depend on the bias of keys, whose gradient is rounding, and Adam makes whole updates of it.
    """
    assert set(traj.names) == set(stored.names)
    for step in traj.steps.tolist():
        states = [{name: np.asarray(one.param(name).sel(step)) for name in stored.names} for one in (traj, stored)]
        norm = np.sqrt(sum(np.square(array).sum() for array in states[1].values()))
        for name, now in states[0].items():
            then = states[1][name]
            if SAME:
                assert now.tobytes() == then.tobytes(), (name, step)
            elif not name.endswith("attn.b_K"):
                assert np.linalg.norm(now - then) <= ELSEWHERE * norm, (name, step)


def assert_trained(traj, then):
    found = digests.trained(traj)
    assert found["step"] == then["step"]
    if SAME:
        assert found == then
    else:
        assert found["norms"] == pytest.approx(then["norms"], rel=ELSEWHERE)


def wrong_measures(found, then, same=SAME):
    """Names of the measures that are not what they were; measures that came later are welcome."""
    wrong = sorted(then.keys() - found.keys())
    for name in found.keys() & then.keys():
        if same:
            agree = digests.close(found[name], then[name], EXACT)
        elif any(part in name for part in UNSTABLE):
            agree = found[name][:3] == then[name][:3]
        else:
            agree = digests.close(found[name], then[name], ELSEWHERE, ROUNDED)
        wrong += [] if agree else [name]
    return wrong


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_it_is_read_as_it_was(name, runs):
    then = expected(name)
    traj = interp.load(runs / RUNS[name])
    found = as_json(digests.about(traj))
    if not SAME:
        del found["task"]  # torch draws other normal numbers where it has other vector instructions
    assert found == {key: then[key] for key in found}
    assert digests.trained(traj) == then["last"]
    assert interp.RunConfig.from_json(traj.config.to_json()) == traj.config
    if name not in ("replay", "imported"):
        assert traj.folder.name == traj.config.run_id
    assert not traj.verify().errors


@pytest.mark.parametrize("name", RUNS)
def test_it_is_measured_as_it_was(name, runs):
    then = expected(name)
    found = as_json(digests.measures(interp.load(runs / RUNS[name])))
    if SAME:
        assert {key: found["attrs"].get(key) for key in then["attrs"]} == then["attrs"]  # later ones are welcome
    assert wrong_measures(found["measures"], then["measures"]) == []


def test_cached_measures_are_used(runs):
    traj = interp.load(runs / RUNS["transformer"])
    files = sorted((traj.folder / "measures").iterdir())
    assert len(files) > 3
    before = [(file.stat().st_ino, file.read_bytes()) for file in files]
    data = interp.measure(traj, [file.stem for file in files])
    assert [(file.stat().st_ino, file.read_bytes()) for file in files] == before  # what is computed anew is rewritten
    fresh = interp.measure(traj, [file.stem for file in files], cache=False)
    for name in data.data_vars:
        np.testing.assert_allclose(
            data[name], fresh[name], rtol=EXACT if SAME else ELSEWHERE, atol=0 if SAME else ROUNDED
        )


@pytest.mark.parametrize("name", ["whole", "replay", "unfinished"])
def test_a_run_of_format_1_1_is_read_as_it_was(name, tmp_path):
    """Also its identity, its full states' past and its measured values, which format 1.0 does not have."""
    runs = shutil.copytree(HERE / "runs_1_1", tmp_path / "runs")
    then = json.loads((HERE / "expected_1_1.json").read_text())
    traj = interp.load(runs / then["runs"][name]["folder"])
    found = as_json(digests.about(traj))
    if digests.environment() != then["environment"]:
        del found["task"]  # torch draws other normal numbers where it has other vector instructions
    assert found == {key: then["runs"][name]["about"][key] for key in found}
    assert traj.verify().ok
    stored = json.loads((traj.folder / "run.json").read_text())["store"]
    assert (stored["format"], len(stored["run"])) == ("1.1", 32)
    if name == "unfinished" and digests.environment() == then["environment"]:
        whole = interp.resume(traj.folder, device="cpu")
        again = interp.train(traj.config, root=tmp_path / "again", **PLACE)
        assert_same_weights(whole, again)
        assert whole.metrics.equals(again.metrics)


# --- computing again --------------------------------------------------------------------------------------------------


def assert_same_files(folder, stored):
    """Equal arrays give equal files, but for the names of run and past that format 1.1 adds."""
    if SAME:
        now = digests.file_digests(as_format_1_0(shutil.copytree(folder, folder.with_suffix(".older"))))
        then = digests.file_digests(stored)
        kept = ("trajectory/", "state/", "metrics.jsonl")
        assert {n: d for n, d in now.items() if n.startswith(kept)} == {
            n: d for n, d in then.items() if n.startswith(kept)
        }


@pytest.mark.parametrize("name", ALONE)
def test_it_is_trained_again(name, tmp_path):
    stored = interp.load(HERE / "runs" / RUNS[name])
    traj = interp.train(stored.config, root=tmp_path, **PLACE)
    assert traj.folder.name == stored.folder.name
    assert traj.steps.tolist() == stored.steps.tolist()
    assert {**traj.run, "provenance": 0} == {**stored.run, "provenance": 0}
    assert traj.provenance.keys() == stored.provenance.keys()
    assert_same_weights(traj, stored)
    assert_same_files(traj.folder, stored.folder)


def test_an_ensemble_is_trained_again(tmp_path):
    stored = [interp.load(HERE / "runs" / RUNS[name]) for name in TRAINED if name not in ALONE]
    assert len(stored) == 2
    for traj, old in zip(interp.train_many([old.config for old in stored], root=tmp_path, **PLACE), stored):
        assert traj.run["ensemble"] == old.run["ensemble"]
        assert_same_weights(traj, old)
        assert_same_files(traj.folder, old.folder)


def test_what_diverged_does_so_again(tmp_path, runs):
    stored = interp.load(runs / RUNS["diverged"])
    with pytest.raises(interp.InterpError, match=f"At step {stored.diverged} "):
        interp.train(stored.config, root=tmp_path, **PLACE)
    traj = interp.load(tmp_path / stored.folder.name)
    assert traj.diverged == stored.diverged
    assert_same_weights(traj, stored)
    with pytest.raises(interp.InterpError, match=f"At step {stored.diverged} "):
        interp.resume(stored.folder, **PLACE)


needs_same = pytest.mark.skipif(not SAME, reason="recomputed steps must equal stored ones bit by bit")


@needs_same
@pytest.mark.parametrize("from_state", [10, 6])
def test_an_unfinished_run_is_resumed(from_state, tmp_path):
    folder = shutil.copytree(HERE / "runs" / RUNS["unfinished"], tmp_path / RUNS["unfinished"])
    part = interp.load(folder)
    assert not part.complete
    assert part.full_state_steps == [6, 10]
    assert part.steps.tolist() == [0, 4, 8]
    for state in (folder / "state").iterdir():
        if int(state.stem) > from_state:
            state.unlink()
    doubted = from_state == 10  # a full state of format 1.0, which no checkpoint at its step or later can prove
    with pytest.warns(DamagedRunWarning, match="goes on from step 6") if doubted else nullcontext():
        whole = interp.resume(folder, device="cpu")
    assert whole.complete
    assert digests.trained(whole) == expected("unfinished")["whole"]
    again = interp.train(part.config, root=tmp_path / "again", **PLACE)
    assert_same_weights(whole, again)
    assert whole.metrics.equals(again.metrics)
    assert whole.events == again.events


@needs_same
def test_a_stretch_is_replayed(tmp_path):
    shutil.copytree(HERE / "runs", tmp_path / "runs")
    stored = interp.load(tmp_path / "runs" / RUNS["replay"])
    said = stored.run["replay"]
    folder = stored.folder
    shutil.rmtree(folder)
    traj = interp.load(tmp_path / "runs" / RUNS["transformer"])
    zoom = interp.replay(traj, said["start"], said["stop"], said["every"], **PLACE)
    assert zoom.folder == folder
    assert zoom.run["replay"] == said
    assert_same_weights(zoom, interp.load(HERE / "runs" / RUNS["replay"]))
    assert_same_files(zoom.folder, HERE / "runs" / RUNS["replay"])
    further = interp.replay(traj, 6, 12, 3, **PLACE)
    assert further.run["replay"]["proven"] == [6, 12]


def test_checkpoints_are_imported_as_they_were(tmp_path):
    stored = interp.load(HERE / "runs" / RUNS["imported"])
    traj = interp.import_checkpoints(HERE / "demo.pt", tmp_path)
    assert traj.folder.name == stored.folder.name
    assert traj.config == stored.config
    assert {key: traj.run["import"][key] for key in ("sha256", "format", "operation", "split_origin", "assumed")} == {
        key: stored.run["import"][key] for key in ("sha256", "format", "operation", "split_origin", "assumed")
    }
    for name in stored.names:  # no arithmetic is done
        assert np.asarray(traj.param(name)).tobytes() == np.asarray(stored.param(name)).tobytes()


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_recipes_are_those_of_then():
    assert set(interp.recipes.RECIPES) >= set(RECIPES)
    assert len(RECIPES) == 25


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_keeps_its_identity(name):
    config, then = interp.recipes.get(name), RECIPES[name]
    assert (config.run_id, config.to_json()) == (then["run_id"], then["config"])
    assert interp.RunConfig.from_json(then["config"]) == config
    for changes, other in zip(EXPECTED["replaced"], then["replaced"], strict=True):
        changed = config.replace(changes)
        assert (changed.run_id, digests.sha256(changed.to_json())) == (other["run_id"], other["config"])


SECONDS = ("power-s5", "hu-symbolic")
"""Recipes whose few steps take seconds; `power` has their model and optimiser."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SECONDS else []) for name in RECIPES]
)
def test_a_recipe_begins_as_it_did(name, tmp_path):
    config = interp.recipes.get(name).replace({"steps": RECIPE_STEPS})
    assert_trained(interp.train(config, root=tmp_path, **PLACE), RECIPES[name]["trained"])


# --- each guard can fail ----------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_seen(runs, tmp_path):
    folder = shutil.copytree(runs / RUNS["mlp"], tmp_path / "run")
    segment = next((folder / "trajectory").iterdir())
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    with pytest.raises(interp.InterpError, match="does not match its digest"):
        digests.about(interp.load(folder))


def test_other_weights_have_other_digests(runs):
    traj = interp.load(runs / RUNS["mlp"])
    array = np.array(traj.param("embed.W_E"))
    before = digests.digest(array)
    array.view(np.uint8)[..., 0] ^= 1
    assert digests.digest(array) != before
    assert digests.trained(traj) != expected("mlp-group")["last"]


@pytest.mark.parametrize("same", [True, False])
def test_a_measure_that_has_changed_is_named(same):
    then = expected("mlp")["measures"]
    found = json.loads(json.dumps(then))
    assert wrong_measures(found, then, same) == []
    found["weight_norm"][4][0] *= 1 + (1e-11 if same else 1e-3)
    found["test_loss"][3] += 1
    del found["train_loss"]
    assert sorted(wrong_measures(found, then, same)) == ["test_loss", "train_loss", "weight_norm"]


def test_large_arrays_are_compared_by_their_order():
    values = np.random.default_rng(0).standard_normal((5, 4))
    numbers = {}
    for name, array in (("as it is", values), ("turned", values[:, [0, 2, 1, 3]])):
        described = digests.described(array, ("step", "neuron"))
        numbers[name] = json.loads(json.dumps(described))
    assert digests.close(numbers["as it is"], numbers["as it is"], EXACT)
    assert not digests.close(numbers["turned"], numbers["as it is"], EXACT)
