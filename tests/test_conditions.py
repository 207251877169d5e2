"""A run that goes on, or is replayed, where bits may come out otherwise says so: before, and ever after."""

import json

import pytest
import torch

import interp
from interp.cli import main
from interp.errors import CorruptRunError, ReproducibilityWarning
from interp.store import RunWriter
from interp.store.conditions import continuations
from interp.training import RunInterrupted
from interp.training.environment import provenance
from interp.training.recording import record_continuation
from tests.observers import Interrupts

CPU = torch.device("cpu")


@pytest.fixture
def sparse(toy_config):
    """A run of which nothing is stored between its states, so that no comparison shows another processor."""
    return toy_config.replace({"save.weights": "every(40)", "save.state": "every(10)"})


@pytest.fixture
def elsewhere(monkeypatch):
    """Another processor, as far as torch says."""
    return lambda name: monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: name)


def interrupted(config, root, at=21):
    with pytest.raises(RunInterrupted) as caught:
        interp.train(config, root=root, device="cpu", observers=[Interrupts(at)])
    return caught.value.folder


def differing(traj):
    """Steps of the continuations of a run, and which conditions differed."""
    return [(one.step, sorted(one.differs)) for one in traj.provenance["continuations"]]


def test_conditions_are_noted_at_the_beginning(toy_run):
    noted = toy_run.provenance["arithmetic"]
    assert noted["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert noted["libraries"] != "unknown"
    assert toy_run.provenance["continuations"] == []
    assert len(json.dumps(noted)) < 500


def test_variables_that_choose_kernels_are_noted(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setenv("UNRELATED_VARIABLE", "1")
    noted = provenance(CPU)["arithmetic"]["variables"]
    assert "MKL_CBWR=COMPATIBLE" in noted
    assert "UNRELATED" not in noted


def test_going_on_under_the_same_conditions_is_noted_and_no_warning(sparse, tmp_path):
    traj = interp.resume(interrupted(sparse, tmp_path))
    assert differing(traj) == [(22, [])]
    assert not traj.verify().warnings


def test_going_on_elsewhere_is_said_before_and_after(sparse, tmp_path, elsewhere, capsys):
    folder = interrupted(sparse, tmp_path)
    here = torch.backends.cpu.get_cpu_capability()
    elsewhere("VSX")
    with pytest.warns(ReproducibilityWarning, match=f"cpu_capability VSX instead of {here}"):
        traj = interp.resume(folder)
    assert differing(traj) == [(22, ["cpu_capability"])]
    assert continuations(traj.run)[0].differs == {"cpu_capability": [here, "VSX"]}
    report = traj.verify()
    assert report.ok
    (said,) = [text for text in report.warnings if "other conditions" in text]
    assert said.startswith("From step 22 on ")
    assert f"cpu_capability VSX instead of {here}" in said
    main(["verify", str(folder)])
    assert f"warning: {said}" in capsys.readouterr().out
    page = interp.report(traj).read_text(encoding="utf-8")
    assert "resumed at step 22" in page
    assert f"cpu_capability VSX instead of {here}" in page


def test_a_warning_made_an_error_changes_nothing(sparse, tmp_path, elsewhere):
    folder = interrupted(sparse, tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    elsewhere("VSX")
    with pytest.raises(ReproducibilityWarning):  # as pytest is asked to
        interp.resume(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.filterwarnings("default")
def test_the_command_line_says_it_in_one_line(sparse, tmp_path, elsewhere, capsys):
    folder = interrupted(sparse, tmp_path)
    elsewhere("VSX")
    capsys.readouterr()
    main(["resume", str(folder)])
    said = [line for line in capsys.readouterr().err.splitlines() if "interp: warning: " in line]
    assert len(said) == 1
    assert "cpu_capability VSX instead of" in said[0]


def test_another_number_of_threads_is_another_condition(sparse, tmp_path):
    folder = interrupted(sparse, tmp_path)
    began = interp.load(folder).provenance["threads"]
    with pytest.warns(ReproducibilityWarning, match=f"threads {began + 1} instead of {began}"):
        traj = interp.resume(folder, threads=began + 1)
    assert continuations(traj.run)[0].differs == {"threads": [began, began + 1]}


def test_each_continuation_is_noted(sparse, tmp_path, elsewhere):
    """There and back again."""
    folder = interrupted(sparse, tmp_path, at=11)
    here = torch.backends.cpu.get_cpu_capability()
    elsewhere("VSX")
    with pytest.warns(ReproducibilityWarning), pytest.raises(RunInterrupted):
        interp.resume(folder, observers=[Interrupts(21)])
    elsewhere(here)
    traj = interp.resume(folder)
    assert differing(traj) == [(12, ["cpu_capability"]), (22, [])]


def test_an_attempt_that_came_to_nothing_is_replaced(own_run):
    with RunWriter.open(own_run.folder) as writer:
        for _ in range(3):
            record_continuation(writer, 16, provenance(CPU))
        record_continuation(writer, 32, provenance(CPU))
    assert differing(interp.load(own_run.folder)) == [(16, []), (32, [])]


def test_each_member_of_an_ensemble_notes_it(sparse, tmp_path, elsewhere):
    configs = [sparse, sparse.replace({"seed": 1})]
    with pytest.raises(RunInterrupted):
        interp.train_many(configs, root=tmp_path, device="cpu", observers=[Interrupts(21)])
    elsewhere("VSX")
    with pytest.warns(ReproducibilityWarning) as said:
        trajs = interp.train_many(configs, root=tmp_path, device="cpu")
    assert len(said) == 1
    assert [differing(traj) for traj in trajs] == [[(22, ["cpu_capability"])]] * 2


def test_a_replay_is_compared_with_the_steps_that_it_repeats(sparse, tmp_path, elsewhere):
    folder = interrupted(sparse, tmp_path)
    here = torch.backends.cpu.get_cpu_capability()
    elsewhere("VSX")
    with pytest.warns(ReproducibilityWarning):
        traj = interp.resume(folder)
    with pytest.warns(ReproducibilityWarning, match=f"is replayed .* cpu_capability VSX instead of {here}"):
        interp.replay(traj, 12, 20, unproven=True)
    interp.replay(traj, 30, 40, unproven=True)  # these steps were computed there
    elsewhere(here)
    interp.replay(traj, 13, 20, unproven=True)
    with pytest.warns(ReproducibilityWarning, match=f"cpu_capability {here} instead of VSX"):
        interp.replay(traj, 31, 40, unproven=True)


@pytest.mark.filterwarnings("error")
def test_a_run_of_an_earlier_version_has_nothing_to_compare(sparse, tmp_path, elsewhere):
    folder = interrupted(sparse, tmp_path)
    with RunWriter.open(folder) as writer:
        noted = {name: value for name, value in writer.run["provenance"].items() if name != "arithmetic"}
        writer.replace_run({**writer.run, "provenance": noted})
    elsewhere("VSX")
    traj = interp.resume(folder)
    assert traj.complete
    assert differing(traj) == [(22, [])]
    assert traj.provenance["arithmetic"] == {}
    assert not traj.verify().warnings


@pytest.mark.parametrize(
    "entry", [3, [3], [{"step": 1}], [{"step": "x", "started": "", "differs": {}}],
              [{"step": 1, "started": "", "differs": {"threads": [1]}}], [{"step": 1, "started": "", "differs": 3}]]
)  # fmt: skip
def test_an_entry_that_is_none_is_an_error_of_ours(own_run, entry):
    with (
        RunWriter.open(own_run.folder) as writer,
        pytest.raises(CorruptRunError, match="`continuations` must be a list of objects"),
    ):
        writer.replace_run({**writer.run, "continuations": entry})
