"""Diagnoses of runs with planted causes: each is told from the others, with its number; a run that grokked is left."""

import dataclasses
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

import interp
from interp.cli.reading import parse
from interp.errors import DivergedError
from interp.milestones import diagnose, find
from interp.milestones.diagnosis import RECORDED, _command
from interp.store import RunWriter
from tests.recorded import NAMES, made, task, update
from tests.runs import TINY
from tests.stored_runs.make import HERE
from tests.test_cli import call

MEMORISED = {"task.train_fraction": 0.5, "optimizer.weight_decay": 0.0, "optimizer.lr": 3e-3}
"""Changes of the tiny run with which it memorises and has nothing that makes it generalise."""


def train(tmp_path, changes):
    config = interp.recipes.get("kitouni-circle").replace({**TINY, **changes})
    return interp.train(config, root=tmp_path, device="cpu")


@pytest.fixture(scope="module")
def memorised(tmp_path_factory):
    return train(tmp_path_factory.mktemp("memorised"), MEMORISED)


def planted(traj, folder, change, run=None):
    """The run without its log, with changed weights at the last step."""
    with RunWriter.create(folder, {**traj.run, **(run or {})}, fsync=False) as writer:
        for step in traj.steps.tolist():
            state = {name: np.array(traj.param(name).sel(step)) for name in traj.names}
            writer.append(step, change(state) if step == traj.steps[-1] else state)
    return interp.load(folder)


def by_question(found):
    return {one.question: one for one in found.findings}


def causes(found):
    return {one.question for one in found.causes}


def advised(one):
    """Config that the advice trains."""
    return parse(shlex.split(one.advice)[1:]).config


def test_the_fraction_counts_what_a_rule_holds_out(tmp_path):
    changes = {"task.hold_out": "a>b", "task.train_fraction": 1.0, "task.p": 11, "steps": 2}
    assert by_question(diagnose(train(tmp_path, changes)))["fraction"].number == pytest.approx(66 / 121)


def test_a_run_that_grokked_says_when(grokked_run):
    found = diagnose(grokked_run)
    assert (found.outcome, found.findings) == ("generalised", ())
    assert found.generalised == find(grokked_run).generalised.upper
    assert f"it generalised at step {found.generalised:,}" in str(found)


def test_no_weight_decay(memorised):
    found = diagnose(memorised)
    assert (found.outcome, causes(found)) == ("memorised", {"weight decay"})
    decay = by_question(found)["weight decay"]
    assert decay.number == 0
    pizza = interp.recipes.get("pizza").optimizer
    assert decay.threshold == pytest.approx(pizza.lr * pizza.weight_decay * RECORDED["clock"][1])  # 280 steps
    assert "REPRODUCTIONS.md" in decay.source
    assert advised(decay).optimizer.weight_decay == 2.0
    assert found.memorised == find(memorised).memorised.upper


def test_too_much_weight_decay(tmp_path):
    found = diagnose(train(tmp_path, {"optimizer.weight_decay": 30.0, "steps": 200}))
    assert (found.outcome, causes(found)) == ("not memorised", {"weight decay"})
    decay = by_question(found)["weight decay"]
    assert decay.number < decay.threshold == 0.5
    assert "Weight decay 30 has shrunk the weights" in decay.says


def test_too_few_pairs(tmp_path):
    found = diagnose(train(tmp_path, {"task.train_fraction": 0.1, "optimizer.weight_decay": 30.0, "optimizer.lr": 1e-2,
                                      "steps": 60}))  # fmt: skip
    few = diagnose(train(tmp_path, {"task.train_fraction": 0.1, "task.p": 23, "steps": 200, "optimizer.lr": 3e-3}))
    for one in (found, few):
        fraction = by_question(one)["fraction"]
        assert (fraction.verdict, fraction.number, fraction.threshold) == ("cause", 0.1, 0.3)
        assert "H2" in fraction.source
        assert "--task.train-fraction 0.3" in fraction.advice
    assert few.outcome == "memorised"
    assert causes(few) <= {"fraction", "coverage", "weight decay"}


def test_operands_in_no_training_pair_are_counted(tmp_path):
    traj = train(tmp_path, {"task.train_fraction": 0.05, "steps": 2})
    pairs = traj.task.tokens[traj.task.train][:, :2]
    missing = 11 - len(set(pairs.flatten().tolist()))
    coverage = by_question(diagnose(traj))["coverage"]
    assert missing > 0
    assert (coverage.verdict, coverage.number, coverage.threshold) == ("cause", missing, 0)


def test_a_saturated_softmax(memorised, tmp_path):
    def saturated(state):
        return {name: 1000 * value if name == "unembed.W_U" else value for name, value in state.items()}

    before = by_question(diagnose(memorised))["softmax"]
    assert (before.verdict, before.number) == ("fine", 0)
    config = memorised.config.replace({"optimizer.loss_precision": "float32"})
    found = diagnose(planted(memorised, tmp_path / "saturated", saturated, {"config": config.to_dict()}))
    softmax = by_question(found)["softmax"]
    assert (softmax.verdict, softmax.threshold) == ("cause", 0.5)
    assert softmax.number > 0.9
    assert "float32" in softmax.says
    assert advised(softmax) == memorised.config  # whose loss is in float64
    assert causes(found) == {"weight decay", "softmax"}


def test_dead_neurons(memorised, tmp_path):
    def dead(state):
        return {name: np.where(np.arange(64) < 40, 0, value).astype(value.dtype) if name.endswith("W_in") else value
                for name, value in state.items()}  # fmt: skip

    neurons = by_question(diagnose(planted(memorised, tmp_path / "dead", dead)))["dead neurons"]
    assert (neurons.verdict, neurons.threshold) == ("cause", 0.5)
    assert 40 / 64 <= neurons.number < 1
    assert by_question(diagnose(memorised))["dead neurons"].verdict == "fine"


def test_weights_that_are_not_finite(memorised, tmp_path):
    def broken(state):
        state["embed.W_E"][0, 0] = np.nan
        return state

    found = diagnose(planted(memorised, tmp_path / "nan", broken))
    assert found.findings[0].question == "finite numbers"
    assert "finite numbers" in causes(found)
    assert "embed.W_E" in found.findings[0].says


def test_a_run_that_diverged(tmp_path):
    config = interp.recipes.get("simple-grokking").replace(
        {"task.p": 5, "model": {"d_model": 8, "d_hidden": (8,)}, "optimizer.lr": 1e30, "steps": 60}
    )
    with pytest.raises(DivergedError):
        interp.train(config, root=tmp_path)
    found = diagnose(tmp_path / config.run_id)
    assert "finite numbers" in causes(found)
    assert "diverged" in found.headline


def test_spikes_of_the_loss_are_counted(memorised, tmp_path, monkeypatch):
    from interp.milestones import diagnosis

    assert by_question(diagnose(memorised))["spikes"].verdict == "fine"
    folder = tmp_path / memorised.folder.name
    shutil.copytree(memorised.folder, folder)
    real = diagnosis.curves

    def spiked(run, names):
        found = real(run, names).copy(deep=True)
        found["train_loss"].values[-3] += 5.0
        return found

    monkeypatch.setattr(diagnosis, "curves", spiked)
    spikes = by_question(diagnose(folder))["spikes"]
    assert (spikes.verdict, spikes.number) == ("possible", 1)


@pytest.mark.parametrize("run", sorted(path.name for path in (HERE / "runs").iterdir()))
def test_no_kind_of_run_fails(run, tmp_path):
    found = diagnose(shutil.copytree(HERE / "runs" / run, tmp_path / run))
    assert found.outcome in ("generalised", "memorised", "not memorised", "not known")
    assert not any("\n" in line for line in found.lines())
    assert found.run in found._repr_html_()
    failed = [one for one in found.findings if one.says.startswith("Not known: ")]
    assert not failed  # none of the questions raised
    for one in found.findings:
        assert one.verdict != "cause" or one.number is not None, one


@pytest.mark.parametrize("settings", [{"task": task(), "names": NAMES, "neurons": "act"}, {"task": task()}, {}])
def test_a_recorded_loop(settings, tmp_path):
    model, opt = made()
    with interp.record(tmp_path / "mine", model, optimizer=opt, **settings) as rec:
        for _ in range(5):
            rec.step(train_loss=update(model, opt))
    for traj in (rec.trajectory, interp.load(tmp_path / "mine")):  # with its network, and by its weights alone
        found = diagnose(traj)
        assert found.outcome in ("not memorised", "not known")
        assert by_question(found)["finite numbers"].verdict == "fine"
        assert "interp.train" not in str(found)


def test_html_is_escaped(memorised):
    found = diagnose(memorised)
    wrong = dataclasses.replace(found, run="<b>", findings=(dataclasses.replace(found.findings[0], says="<i>"),))
    assert "<b>&lt;b&gt;</b>" in wrong._repr_html_()
    assert "&lt;i&gt;" in wrong._repr_html_()


def test_the_recorded_steps_are_those_of_the_table():
    text = (Path(__file__).parents[1] / "REPRODUCTIONS.md").read_text()
    rows = re.findall(r"^\| ([\w-]+) \| [^|]* \| ([\d,]+) \| ([\d,]+) \| [\d.]+, ([\d.]+) \| [\d,]+ \|$", text, re.M)
    steps = {
        name: (int(a.replace(",", "")), int(b.replace(",", ""))) for name, a, b, last in rows if float(last) >= 0.95
    }
    otherwise = {"omnigrok", "prieto-orthograd", "prieto-stablemax"}
    assert {name: step for name, step in steps.items() if name not in otherwise} == RECORDED


@pytest.mark.parametrize(
    "changes", [{"optimizer.weight_decay": 0.5}, {"task.train_fraction": 0.3, "steps": 7}, {"optimizer.lr": 1e-4}]
)
def test_the_command_trains_that_config(memorised, changes):
    command = _command(memorised, changes)
    assert command.startswith("interp train ")
    assert parse(shlex.split(command)[1:]).config == memorised.config.replace(changes)


def test_a_config_that_flags_cannot_say_is_python(memorised, tmp_path):
    events = memorised.config.replace({"events": ("step 3: optimizer.weight_decay=0",)})
    traj = planted(memorised, tmp_path / "events", dict, {"config": events.to_dict()})
    command = _command(traj, {"steps": 7})
    assert command.startswith("interp.train(")
    assert eval(command.removeprefix("interp.train(").removesuffix(")")) == events.replace({"steps": 7})


def test_the_command_line_says_it(memorised, grokked_run, capsys, tmp_path):
    code, out, err = call(capsys, "diagnose", memorised.folder)
    assert (code, err, out.rstrip("\n")) == (0, "", str(diagnose(memorised)))
    code, out, _ = call(capsys, "diagnose", grokked_run.folder)
    assert (code, out.count("\n")) == (0, 1)
    words = ["train", "kitouni-circle", "--task.p", "5", "--model.d-model", "8", "--model.d-mlp", "8", "--steps", "3"]
    code, out, _ = call(capsys, *words, "--root", tmp_path)
    last = out.rstrip("\n").split("\n")[-1]
    assert (code, last.startswith("Diagnosis: ")) == (0, True)
    assert "interp diagnose" in last
