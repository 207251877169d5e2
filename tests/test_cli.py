"""The command line: what it does at toy size, and one line with exit code 2 for whatever a user gets wrong."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import numpy as np
import pandas
import pytest
import xarray

import interp
from interp.analysis.catalogue import MEASURES
from interp.cli import main
from interp.cli.reading import parse
from interp.config.recipes import RECIPES
from interp.errors import ConfigError
from interp.store import RunReader, RunWriter

COMMANDS = [
    "demo",
    "train",
    "resume",
    "replay",
    "import",
    "branch",
    "measure",
    "compare",
    "report",
    "verify",
    "list",
    "recipes",
    "sweep",
    "reproduce",
]
TOY = {
    "--task.p": 7,
    "--task.train-fraction": 0.6,
    "--model.d-model": 16,
    "--model.n-heads": 2,
    "--model.d-head": 8,
    "--model.d-mlp": 24,
    "--steps": 40,
    "--save.weights": "every(1, until=3) | steps(5, 9)",
    "--save.state": "every(16)",
    "--log.test": 2,
    "--device": "cpu",
}


def toy(root, **changes):
    """The words that train the toy run."""
    flags = TOY | {f"--{name.replace('_', '.')}": value for name, value in changes.items()} | {"--root": root}
    return ["train", "kitouni-circle", *(str(word) for flag in flags.items() for word in flag)]


@pytest.fixture
def own_run(toy_run, tmp_path):
    """The toy run in a folder that a test may change."""
    return shutil.copytree(toy_run.folder, tmp_path / toy_run.folder.name, ignore=shutil.ignore_patterns("measures"))


def call(capsys, *words):
    """Run the program; returns the exit code, what it printed, and the lines of its errors."""
    capsys.readouterr()
    try:
        main([str(word) for word in words])
        code = 0
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    return code or 0, out, err


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "LOCK"}


# --- help -------------------------------------------------------------------------------------------------------------


def test_version(capsys):
    assert call(capsys, "--version") == (0, f"{version('grokking-interp')}\n", "")


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["-h"], ["train"], ["train", "--help"], *([c, "--help"] for c in COMMANDS)]
)
def test_help(capsys, words):
    code, out, err = call(capsys, *words)
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: {' '.join(['interp', *words[:1]]) if words and words[0] in COMMANDS else 'interp'} ")
    if not words or words[0].startswith("-"):
        assert all(command in out for command in COMMANDS)
    if words and words[0] == "train":
        assert all(recipe in out for recipe in RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_lists_its_fields(capsys, recipe):
    code, out, err = call(capsys, "train", recipe, "--help")
    assert (code, err) == (0, "")
    points = RECIPES[recipe].config.task.slug.startswith("gauss")
    for flag in (
        "--task.seed",
        "--model.initial-norm" if points else "--model.d-model",
        "--optimizer.lr",
        "--save.weights",
        "--seed",
        "--root",
        "--existing",
    ):
        assert flag in out
    assert f"(default: {RECIPES[recipe].config.steps})" in out


def test_recipes(capsys):
    code, out, _ = call(capsys, "recipes")
    assert code == 0
    for name, recipe in RECIPES.items():
        assert f"{name}\n" in out
        assert recipe.summary.split()[0] in out


# --- what a user gets wrong -------------------------------------------------------------------------------------------

WRONG = {
    "unknown command": (["trian"], r"interp: There is no command `trian`. Did you mean `train`?"),
    "no such command": (
        ["zzz"],
        "interp: There is no command `zzz`. Known: branch, compare, demo, diagnose, explain, export, import, list",
    ),
    "unknown option": (["--verbose"], "interp: Unrecognized options: --verbose."),
    "import nothing": (["list", "--import"], "interp: `--import` needs the name of a module, such as my_package"),
    "import no module": (["--import", "nowhere_at_all", "list"], "`--import` nowhere_at_all failed: ModuleNotFound"),
    "unknown recipe": (["train", "nandaa"], "interp: There is no recipe `nandaa`. Did you mean `nanda`?"),
    "flags before the recipe": (["train", "--steps", "4"], "interp train: Unrecognized options: --steps, 4."),
    "type": (["train", "nanda", "--steps", "x"], "interp train nanda: `--steps` must be a whole number; got 'x'."),
    "type of an optional": (["train", "nanda", "--threads", "1.5"], "`--threads` must be a whole number; got '1.5'."),
    "no number": (["train", "nanda", "--optimizer.lr", "x"], "`--optimizer.lr` must be a number; got 'x'."),
    "no value": (["train", "nanda", "--optimizer.lr"], "interp train nanda: `--optimizer.lr` needs a value."),
    "value": (["train", "nanda", "--task.p", "2"], "`Modular.p` must be a modulus >= 3; got 2."),
    "two values": (["train", "nanda", "--task.p", "6", "--task.operation", "divide"], "divide needs a prime p"),
    "flag": (["train", "nanda", "--stepz", "5"], "Unrecognized options: --stepz, 5. Perhaps you meant: --steps INT."),
    "choice": (["train", "nanda", "--task.encoding", "ad"], "invalid choice 'ad' for argument '--task.encoding'."),
    "operation": (["train", "nanda", "--task.operation", "ad"], "'ad' is no polynomial in x and y, such as x2+xy+y2"),
    "too few": (["train", "nanda", "--optimizer.betas", "0.9"], "Missing value for argument '--optimizer.betas'."),
    "schedule": (
        ["train", "nanda", "--save.weights", "often"],
        "`often` is no schedule; write every(10), every(1",
    ),
    "schedule value": (["train", "nanda", "--log.test", "every(0)"], "must be a whole number of steps >= 1; got 0."),
    "budget": (["train", "nanda", "--save.weights", "dense(1)"], "must hold at least two checkpoints"),
    "extra word": (["train", "nanda", "again"], "interp train nanda: Unrecognized options: again."),
    "device": (["train", "nanda", "--device", "tpu"], "`device` must be cpu, cuda or cuda:N; got 'tpu'."),
    "threads": (["train", "nanda", "--threads", "0"], "`threads` must be a whole number >= 1 (None: torch's setting)"),
    "resume nothing": (["resume"], "interp resume: Missing from interp resume: RUN. See interp resume --help."),
    "resume no run": (["resume", "absent"], "interp: absent is no run folder: it holds no run.json."),
    "replay no run": (["replay", "absent", "--from", "1", "--to", "2"], "absent is no run folder"),
    "replay half": (["replay", "absent", "--from", "1"], "Missing from interp replay: --to INT."),
    "measure no run": (["measure", "absent"], "absent is no run folder"),
    "measure nothing": (["measure"], "`run` must be a run folder"),
    "compare nothing": (["compare"], "`runs` must be at least two runs; got 0."),
    "compare no run": (["compare", "absent", "other"], "absent is no run folder"),
    "compare suffix": (["compare", "absent", "--output", "a.nc"], "`--output` must end in .csv; got a.nc."),
    "report no run": (["report", "absent"], "absent is no run folder"),
    "verify no run": (["verify", "absent"], "absent is no run folder"),
    "list nothing": (["list", "absent"], "`root` must be a folder that holds runs; absent is none."),
}


@pytest.mark.parametrize(("words", "text"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *words)
    assert code == 2
    assert err.startswith("interp")
    assert err.count("\n") == 1
    assert text in err
    assert not set("│╭╰─") & set(err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])  # tyro frames its errors in one way or the other
def test_a_mistake_is_one_line_on_every_terminal(encoding):
    command = [sys.executable, "-m", "interp", "train", "nanda", "--stepz", "5"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "40"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    line = "Unrecognized options: --stepz, 5. Perhaps you meant: --steps INT. See interp train nanda --help."
    assert done.stderr == f"interp train nanda: {line}\n"


RUN_WRONG = {
    "replay beyond": (["replay", "RUN", "--from", "3", "--to", "41"], "0 <= start < stop <= 40, the last stored step"),
    "replay backwards": (["replay", "RUN", "--from", "5", "--to", "5"], "got 5 and 5."),
    "replay never": (["replay", "RUN", "--from", "3", "--to", "5", "--every", "0"], "`every` must be a whole number"),
    "unknown measure": (["measure", "RUN", "train_los"], "no measure `train_los`. Did you mean `train_loss`"),
    "suffix": (["measure", "RUN", "train_loss", "--output", "a.txt"], "`--output` must end in .csv or .nc; got a.txt."),
    "folder": (
        ["measure", "RUN", "train_loss", "--output", "no/a.nc"],
        "a folder that exists; no is none.",
    ),
    "nothing for csv": (
        ["measure", "RUN", "embedding_power", "--output", "a.csv"],
        "none of these is one",
    ),
}


@pytest.mark.parametrize(("words", "text"), RUN_WRONG.values(), ids=RUN_WRONG)
def test_a_mistake_about_a_run_changes_nothing(capsys, own_run, monkeypatch, words, text):
    monkeypatch.chdir(own_run.parent)
    before = files(own_run.parent)
    code, _, err = call(capsys, *[own_run.name if word == "RUN" else word for word in words])
    assert code == 2
    assert err.startswith("interp: ")
    assert err.count("\n") == 1
    assert text in err
    assert files(own_run.parent) == before


@pytest.mark.parametrize(
    "words", [["resume"], ["measure"], ["report"], ["replay", "--from", "1", "--to", "5"]], ids=lambda w: w[0]
)
def test_a_corrupt_run_is_named(capsys, own_run, words):
    (own_run / "run.json").write_text("{}")
    code, _, err = call(capsys, words[0], own_run, *words[1:])
    assert code == 2
    assert err.count("\n") == 1
    assert f"{own_run / 'run.json'} is damaged" in err


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("words", [["measure", "RUN", "train_loss"], ["list", "ROOT"]], ids=lambda words: words[0])
def test_what_a_run_has_lost_is_said_in_one_line_each(capsys, own_run, words):
    *_, before, segment = sorted((own_run / "trajectory").iterdir())
    os.truncate(segment, segment.stat().st_size - 100)
    (own_run / "metrics.jsonl").unlink()
    places = {"RUN": own_run, "ROOT": own_run.parent}
    for _ in range(2):  # each call says it again
        _, out, err = call(capsys, *[places.get(word, word) for word in words])
        assert (f"  damaged: interp verify {own_run}\n" in out) == (words[0] == "list")
        lines = [line for line in err.splitlines() if line.startswith("interp: warning: ")]
        assert len(lines) == len(set(lines)) == 3
        assert f"{segment} is damaged" in lines[0]
        assert f"{own_run / 'metrics.jsonl'} has 0 bytes" in lines[1]
        end = f"its weights end at step {int(before.stem[-8:])}"
        assert lines[2] == f"interp: warning: {own_run} is complete at step 40, but {end}."
        assert "Warning" not in err


def test_verify_misses_what_a_complete_run_must_hold(capsys, own_run):
    assert call(capsys, "verify", own_run)[0] == 0
    last = max((own_run / "trajectory").iterdir()).name
    shutil.rmtree(own_run / "trajectory")
    shutil.rmtree(own_run / "state")
    (own_run / "metrics.jsonl").unlink()
    code, out, _ = call(capsys, "verify", own_run)
    assert code == 1
    assert "DAMAGED" in out
    for name in (last, "metrics.jsonl", "00000016.safetensors"):
        assert f"{name} " in out


def test_an_error_of_the_operating_system_is_one_line(capsys, tmp_path, toy_run):
    (tmp_path / "a.nc").mkdir()
    code, _, err = call(capsys, "measure", toy_run.folder, "weight_norm", "--output", tmp_path / "a.nc")
    assert code == 2
    assert "a.nc" in err.splitlines()[-1]
    (tmp_path / "file").touch()
    code, _, err = call(capsys, "train", "nanda", "--root", tmp_path / "file")
    assert code == 2
    assert "file" in err.splitlines()[-1]
    assert "Traceback" not in err


# --- train, resume, replay --------------------------------------------------------------------------------------------


def test_train_and_train_again(capsys, tmp_path):
    code, out, err = call(capsys, *toy(tmp_path))
    assert code == 0, err
    (folder,) = tmp_path.iterdir()
    traj = interp.load(folder)
    assert out.startswith(f"Training {folder}: kitouni-circle, task.train_fraction=0.6, task.p=7, ")
    assert f"Run:       {folder}\nOutcome:   " in out
    assert "On disk:   7 checkpoints" in out
    assert f"interp report {folder}\n" in out
    assert traj.complete
    assert traj.steps.tolist() == [0, 1, 2, 3, 5, 9, 40]
    assert traj.full_state_steps == [0, 16, 32, 40]
    assert traj.metrics.test_loss.dropna("step").step.values.tolist() == list(range(0, 41, 2))
    assert (traj.config.task.p, traj.config.model.d_mlp, traj.config.optimizer.betas) == (7, 24, (0.9, 0.98))

    before = files(folder)
    code, out, _ = call(capsys, *toy(tmp_path))
    assert (code, files(folder)) == (0, before)
    assert out.startswith(f"{folder} is complete; ")
    code, out, _ = call(capsys, "resume", folder)
    assert (code, files(folder)) == (0, before)
    assert out.startswith(f"{folder} is complete; ")

    code, _, err = call(capsys, *toy(tmp_path, existing="error"))
    assert (code, files(folder)) == (2, before)
    assert "already holds this run" in err
    code, out, _ = call(capsys, *toy(tmp_path, existing="overwrite"))
    assert code == 0
    assert out.startswith("Training ")
    assert interp.load(folder).fingerprints() == traj.fingerprints()


def test_a_run_that_another_process_writes_to_is_left_alone(capsys, own_run, toy_run):
    with RunWriter.open(own_run) as writer:
        writer.replace_run(toy_run.run, complete=False)
        code, _, err = call(capsys, "resume", own_run)
    assert code == 2
    assert "another process is writing to this run" in err.splitlines()[-1]


def test_a_loss_that_is_no_number_ends_with_1(capsys, tmp_path):
    code, _, err = call(capsys, *toy(tmp_path, optimizer_lr=1e30))
    last = err.splitlines()[-1]
    assert code == 1
    assert last.startswith("interp: At step ")
    assert "is not a finite number; the last good checkpoint is step" in last
    assert "Traceback" not in err
    (run,) = tmp_path.glob("*/run.json")
    _, out, _ = call(capsys, "list", tmp_path)
    assert "diverged at step 1" in out
    assert "resume" not in out
    code, _, err = call(capsys, "resume", run.parent)
    assert (code, err.splitlines()[-1]) == (1, last)
    code, out, _ = call(capsys, "report", run.parent)
    assert code == 0
    assert "Diverged:         at step 1" in out
    html = next(run.parent.glob("*.html")).read_text()
    assert "The run has diverged: at step 1 there was a number that is not finite." in html


def test_ctrl_c_and_resume(capsys, tmp_path):
    words = toy(tmp_path, steps=4000, log_test=100, save_weights=100, threads=1)
    command = [sys.executable, "-m", "interp", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/state/00000016.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    (folder,) = tmp_path.iterdir()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("interp: Interrupted at step ")
    assert last.endswith(f"everything is saved. Continue with: interp resume {folder}")
    stopped = int(last.split()[4].rstrip(";"))
    part = interp.load(folder)
    assert not part.complete
    assert part.full_state_steps[-1] == stopped

    code, out, _ = call(capsys, "list", tmp_path)
    assert code == 0
    assert f"continue with: interp resume {folder}" in out
    code, out, err = call(capsys, "resume", folder)
    assert code == 0, err
    assert out.startswith(f"Continuing {folder}, stored up to step ")
    traj = interp.load(folder)
    assert traj.complete
    assert traj.steps.tolist() == list(range(0, 4001, 100))
    assert traj.metrics.train_loss.notnull().all()
    assert traj.metrics.sizes["step"] == 4001
    assert RunReader(folder).verify().ok


def test_replay(capsys, own_run):
    words = ["replay", own_run, "--from", "18", "--to", "30", "--every", "3"]
    code, out, err = call(capsys, *words)
    assert code == 0, err
    zoom = own_run / "replay" / "00000018-00000030-every3"
    assert out.splitlines() == [
        f"Replay:    {zoom}",
        "Stored:    5 steps, 18 to 30",
        "Proven:    bitwise equal to the run at all 3 of its checkpoints in this stretch",
        f"Report:    interp report {zoom}",
    ]
    assert interp.load(zoom).steps.tolist() == [18, 21, 24, 27, 30]
    before = files(own_run)
    assert call(capsys, *words)[:2] == (0, out)  # what is there is not computed again
    assert files(own_run) == before
    code, _, err = call(capsys, "resume", zoom)
    assert code == 0


# --- measure ----------------------------------------------------------------------------------------------------------


def test_measures_are_listed_without_a_run(capsys):
    code, out, _ = call(capsys, "measure", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(MEASURES)
    assert "[step, frequency]" in out


def test_measure_prints(capsys, toy_run):
    code, out, _ = call(capsys, "measure", toy_run.folder, "weight_norm", "train_loss", "embedding_power")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["weight_norm", "train_loss"]
    assert [line.split()[0] for line in lines[2:-1]] == [str(step) for step in toy_run.steps]
    expected = interp.measure(toy_run, ["weight_norm"]).weight_norm
    assert float(lines[-2].split()[1]) == pytest.approx(float(expected[-1]), rel=1e-5)
    assert lines[-1] == "With more axes (write them with --output FILE.nc): embedding_power ['step', 'frequency']"


def test_measure_prints_only_what_has_more_axes(capsys, toy_run):
    code, out, _ = call(capsys, "measure", toy_run.folder, "embedding_power")
    assert code == 0
    assert out.count("\n") == 1
    assert "embedding_power" in out


def test_measure_writes_a_table(capsys, toy_run, tmp_path):
    path = tmp_path / "a.csv"
    code, out, _ = call(capsys, "measure", toy_run.folder, "train_loss", "embedding_power", "--output", path)
    assert code == 0
    assert out.startswith(f"Written:   {path}\n")
    assert "With more axes" in out  # what the table leaves out is said
    table = pandas.read_csv(path)
    assert list(table) == ["step", "train_loss"]
    assert table.step.tolist() == toy_run.steps.tolist()
    np.testing.assert_allclose(table.train_loss, interp.measure(toy_run, ["train_loss"]).train_loss)


@pytest.mark.parametrize("which", ["toy_run", "grokked_run"])
def test_measure_writes_everything(capsys, which, request, toy_run, tmp_path):
    traj, path = request.getfixturevalue(which), tmp_path / "a.nc"
    code, out, _ = call(capsys, "measure", traj.folder, "--output", path)
    left = "Left out:  16 measures of key frequencies, of which none stands out at the last step\n"
    assert (code, out) == (0, f"Written:   {path}\n{left if traj is toy_run else ''}")
    expected = interp.measure(traj)
    with xarray.open_dataset(path, engine="scipy") as data:
        assert set(data.data_vars) == set(expected.data_vars)
        for name, variable in expected.data_vars.items():
            assert data[name].dims == variable.dims
            np.testing.assert_array_equal(data[name], variable)
        assert np.atleast_1d(data.attrs.get("key_frequencies", [])).tolist() == expected.attrs.get(
            "key_frequencies", []
        )


# --- compare ----------------------------------------------------------------------------------------------------------


def test_compare(capsys, toy_run, toy_config, tmp_path):
    other = interp.train(toy_config.replace({"seed": 1}), root=tmp_path, device="cpu")
    words = ["compare", toy_run.folder, other.folder]
    code, out, err = call(capsys, *words)
    assert (code, err) == (0, "")
    for heading in (
        "Runs\n",
        "\nSteps (memorised: train accuracy 99%, ",
        "\nAt the last stored step\n",
        "\nGeneralised: 0 of 2 runs\n",
    ):
        assert heading in "\n" + out
    assert "50% of runs by step unknown, later than these runs show\n" in out
    assert "delay" not in out  # nothing is known of it
    path = tmp_path / "table.csv"
    code, out, _ = call(capsys, *words, "--until", 10, "--output", path)
    assert code == 0
    assert "Up to step 10: does it tell which of 2 runs generalise later?" in out
    assert "None of these 2 runs generalises later: there is nothing to tell apart, and no AUC." in out
    assert out.endswith(f"Written:   {path}\n")
    table = pandas.read_csv(path)
    assert table["run"].tolist() == [toy_run.folder.name, other.folder.name]
    assert table["seed"].tolist() == [0, 1]
    norms = [float(interp.measure(traj, ["weight_norm"], steps=[8]).weight_norm[0]) for traj in (toy_run, other)]
    np.testing.assert_allclose(table["weight_norm_at_10"], norms, rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["RUN"], "`runs` must be at least two runs; got 1."),
        (["RUN", "RUN"], "must be different runs; got"),
        (["RUN", "OTHER", "--until", "1000"], "`until` must be a step that every run has reached, 0..40; got 1000."),
    ],
)
def test_what_cannot_be_compared_is_one_line(capsys, own_run, toy_run, words, text):
    folders = {"RUN": own_run, "OTHER": toy_run.folder}
    code, out, err = call(capsys, "compare", *[folders.get(word, word) for word in words])
    assert (code, out) == (2, "")
    assert err.startswith("interp: ")
    assert err.count("\n") == 1
    assert text in err


# --- verify, list -----------------------------------------------------------------------------------------------------


def test_verify(capsys, own_run):
    code, out, _ = call(capsys, "verify", own_run)
    assert (code, out) == (0, "11 steps in 4 segments, 4 full states: ok\n")
    path = sorted((own_run / "trajectory").iterdir())[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, out, _ = call(capsys, "verify", own_run)
    assert code == 1
    assert "DAMAGED" in out
    assert f"error: {path}" in out


def test_list(capsys, own_run, toy_run):
    root = own_run.parent
    code, out, _ = call(capsys, "list", root)
    line, origin = out.splitlines()
    assert code == 0
    assert line.startswith(f"{own_run.name}      11 checkpoints")
    assert re.search(r"train [\d.]+%, test [\d.]+% +complete$", line)
    assert origin.strip().startswith("kitouni-circle")
    assert "task.train_fraction=0.6, task.p=7" in origin
    (root / "broken").mkdir()
    (root / "broken" / "run.json").write_text("{}")
    RunWriter.create(root / "young", toy_run.run, fsync=False).close()
    code, out, _ = call(capsys, "list", root)
    assert code == 0
    found = {line.split()[0]: line for line in out.splitlines() if not line.startswith(" ")}
    assert set(found) == {own_run.name, "broken", "young"}
    assert "unreadable: " in found["broken"]
    assert f"continue with: interp resume {root / 'young'}" in found["young"]


def test_list_of_nothing(capsys, tmp_path):
    assert call(capsys, "list", tmp_path)[:2] == (0, f"No runs in {tmp_path}. `interp demo` makes one.\n")


def test_a_closed_pipe_is_no_error():
    read, write = os.pipe()
    os.close(read)  # as if `| head` had seen enough
    command = [sys.executable, "-m", "interp", "recipes"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False, env=buffered)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("hu-mlp", ["--task.p", "7", "--model.d-hidden", "8", "8"]),
        ("beck", ["--task.n", "20", "--task.d", "9"]),
        ("chughtai-s5", ["--task.n", "3", "--model.d-model", "8", "--model.d-hidden", "8"]),
    ],
    ids=lambda words: words if isinstance(words, str) else "",
)
def test_a_run_without_a_circle_has_a_report_and_is_compared(capsys, tmp_path, recipe, changes):
    for seed in ("0", "1"):
        words = ["train", recipe, *changes, "--steps", "20", "--seed", seed, "--device", "cpu", "--root", tmp_path]
        assert call(capsys, *words)[0] == 0
    runs = sorted(tmp_path.iterdir())
    code, out, err = call(capsys, "report", runs[0])
    assert (code, "Traceback" in err) == (0, False)
    assert "Accuracy:         By step 20" in out or "accuracy" in out
    assert "Circularity" not in out
    code, out, _ = call(capsys, "compare", *runs)
    assert code == 0
    assert "memorised: train accuracy 99%, generalised: test accuracy 95%, each held for 5 more" in out


@pytest.mark.filterwarnings("default")
def test_a_report_without_a_log(capsys, own_run):
    (own_run / "metrics.jsonl").unlink()
    code, out, _ = call(capsys, "report", own_run)
    assert code == 0
    assert "Accuracy:         " in out


def test_an_event_that_did_not_happen_is_named(capsys, tmp_path):
    words = toy(tmp_path, steps=6)
    code, out, _ = call(capsys, *words, "--events", "step 99: optimizer.weight_decay=0", "step 2: optimizer.lr=0.1")
    assert code == 0
    assert re.findall("^Event: .*", out, flags=re.MULTILINE) == [
        "Event:     did not happen: step 99: optimizer.weight_decay=0.0"
    ]


def test_another_kind_of_optimiser():
    """What both kinds have is kept; rates are the new kind's own."""
    train = parse(["train", "simple-grokking", "--optimizer", "muon", "--optimizer.momentum", "0.9"])
    kept = interp.recipes.get("simple-grokking").optimizer
    assert type(train.config.optimizer).__name__ == "Muon"
    assert train.config.optimizer.momentum == 0.9
    assert train.config.optimizer.betas == kept.betas
    assert train.config.optimizer.loss_precision == kept.loss_precision
    assert train.config.optimizer.lr == 2e-2
    for words, got in ((["--optimizer", "lion"], "lion"), (["--optimizer"], "nothing")):
        with pytest.raises(ConfigError, match=f"`--optimizer` must be one of adamw, adam, sgd, muon; got {got}"):
            parse(["train", "simple-grokking", *words])


# --- sweep ------------------------------------------------------------------------------------------------------------

GRID = (
    "task.p=7", "steps=20", "model.d_model=16", "model.n_heads=2", "model.d_head=8", "model.d_mlp=24",
    "save.weights=every(10)", "seed=0..1", "task.train_fraction=0.5,0.6",
)  # fmt: skip


def test_sweep_trains_a_grid_and_writes_what_came_out(tmp_path, capsys):
    words = ["sweep", "kitouni-circle", *GRID, "--root", str(tmp_path), "--workers", "1"]
    main([*words, "--output", str(tmp_path / "runs.csv")])
    shown = capsys.readouterr().out
    assert "task.train_fraction" in shown
    assert (tmp_path / "runs.csv").read_text().count("add7-transformer") == 4
    main([*words, "--output", str(tmp_path / "runs.html")])  # the same runs, found complete
    assert "<html>" in (tmp_path / "runs.html").read_text()
    assert len(list(tmp_path.glob("add7-*"))) == 4


def test_sweep_of_seeds_alone_and_of_runs_that_fail(tmp_path, capsys):
    words = ["sweep", "kitouni-circle", *GRID[:-1], "--root", str(tmp_path), "--workers", "1"]
    main([*words, "--output", str(tmp_path / "seeds.html")])
    assert "kitouni-circle" in (tmp_path / "seeds.html").read_text()
    with pytest.raises(SystemExit) as left:
        main([*words[:2], "optimizer.lr=1e30", *words[2:]])
    assert left.value.code == 1
    assert "failed: add7-" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["kitouni-circle", "seed=0,1", "task.p=7,11", "optimizer.lr=1,2", "steps=1,2", "--output", "a.html"],
            "two axes",
        ),
        (["nandra", "seed=0"], "no recipe `nandra`"),
        (["nanda", "seed"], "`seed` is no axis of a grid"),
        (["nanda", "task.q=3"], "There is no field `task.q`"),
        (["nanda", "seed=0", "--dask", "tcp://127.0.0.1:1", "--slurm", "jobs"], "not both"),
        (["nanda", "seed=0", "--output", "runs.txt"], "must end in .csv or .html"),
        (["nanda", "seed=0", "--slurm-option", "60"], "must be NAME=VALUE"),
    ],
)
def test_sweep_answers_wrong_words_with_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as left:
        main(["sweep", *words])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
