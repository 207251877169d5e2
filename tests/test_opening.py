"""Laws of a run folder that came from anyone: nothing outside of it is touched, nothing hangs, and errors are typed."""

import errno
import os
import resource
import shutil
import signal
import socket
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import interp
from interp.cli import main
from interp.errors import CorruptRunError, DivergedError, InterpError, StoreError
from interp.papers.kit import running
from interp.store import RunReader, RunWriter
from interp.store.opening import append_to, delete_run, inside, parse_json, require_shallow, write_file
from interp.store.segments import LONGEST_LINE
from tests.stored_runs.make import HERE

STORED = HERE / "runs" / "add5-mlp-seed0-12226849"
"""A small complete run with segments, full states and metrics."""
DIVERGED = HERE / "runs" / "add5-mlp-seed0-b544a7a0"
"""A run that diverged."""
MEASURED = HERE / "runs" / "add7-transformer-seed4-6b8d1eca"
"""A complete run with a replay and measured values, those written by an old version."""


@pytest.fixture
def run(tmp_path):
    """A copy of a small complete run, in a folder of its own."""
    return shutil.copytree(STORED, tmp_path / "runs" / STORED.name)


@pytest.fixture
def outside(tmp_path):
    """A folder outside of the run, with files that nothing may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    names = ["00000000.safetensors", "precious", ".run.json.1.abcd.tmp"]
    for name in names:
        (folder / name).write_text("precious\n")
    yield folder
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(names, "precious\n")


@contextmanager
def at_most(seconds):
    """Context that a hanging call leaves with an error."""

    def give_up(number, frame):
        raise AssertionError(f"it hangs for more than {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def add_a_step(run):
    """Write whatever a writer writes into the run."""
    with RunWriter.open(run, fsync=False) as writer:
        reader = RunReader(run)
        step = 1000 if len(reader.steps) == 0 else int(reader.steps[-1])
        arrays = {name: np.array(reader.read(name, -1)) for name in reader.names} or {"W": np.zeros(3)}
        writer.truncate_after(step - 1)
        writer.append(step + 1, arrays)
        writer.log({"step": step + 1, "train_loss": 0.5})
        writer.save_state(step + 1, arrays, {}, keep_last=1)
        writer.finish()


def attempts(run):
    """Everything that opens a run, each ending well or with one line that is this package's own."""
    calls = {
        "verify": lambda: RunReader(run).verify(),
        "read": lambda: [np.asarray(interp.load(run).param(name)) for name in interp.load(run).names],
        "state": lambda: [interp.load(run).full_state(step) for step in interp.load(run).full_state_steps],
        "metrics": lambda: interp.load(run).metrics,
        "last_metrics": lambda: interp.load(run).last_metrics("train_loss"),
        "size": lambda: interp.load(run).size_in_bytes,
        "write": lambda: add_a_step(run),
        "overwrite": lambda: interp.train(interp.load(run).config, root=run.parent, device="cpu", existing="overwrite"),
    }
    errors = {}
    for name, call in calls.items():
        try:
            with at_most(30):
                call()
        except InterpError as error:
            errors[name] = str(error.args[0])  # of which `str` makes one line whatever they are
    assert not any("\n" in error for error in errors.values())
    return errors


def parts():
    """Files and folders of the stored run, by their paths in it."""
    files = [next((STORED / child).iterdir()).relative_to(STORED) for child in ("trajectory", "state")]
    return ["trajectory", "state", *map(str, files), "run.json", "metrics.jsonl", "LOCK"]


def put_away(path):
    """Remove what is at a path, if anything is."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def test_the_first_error_of_a_write_is_told(tmp_path, monkeypatch):
    """Where the half-written line cannot be cut, either."""

    def fails(handle, size):
        raise OSError(errno.EIO, "the second error")

    monkeypatch.setattr(os, "write", lambda handle, data: len(data) - 1)
    monkeypatch.setattr(os, "ftruncate", fails)
    with pytest.raises(StoreError, match="the disk took only a part of it"):
        append_to(tmp_path / "metrics.jsonl", b"a line\n", fsync=False)


@pytest.mark.filterwarnings("ignore::interp.errors.DamagedRunWarning")
@pytest.mark.parametrize("part", parts())
@pytest.mark.parametrize("kept", [True, False], ids=["to the file itself", "to another"])
def test_no_link_inside_of_a_run_is_followed(run, outside, part, kept):
    place = run / part
    target = outside / "precious"
    if kept:  # a link to what the run itself held, which is now outside
        target = run.parent.parent / "moved"
        place.rename(target)
        before = {path: path.read_bytes() for path in ([target] if target.is_file() else target.iterdir())}
    elif place.is_dir():
        target = outside
    put_away(place)
    place.symlink_to(target)
    errors = attempts(run)
    assert any("symbolic link" in error and str(place) in error for error in errors.values())
    if kept:
        assert {path: path.read_bytes() for path in ([target] if target.is_file() else target.iterdir())} == before


@pytest.mark.filterwarnings("ignore::interp.errors.DamagedRunWarning")
def test_links_to_the_run_folder_are_the_users_own(run, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(run)
    assert attempts(link) == {}
    assert (tmp_path / "runs" / STORED.name / "run.json").exists()


@pytest.mark.filterwarnings("ignore::interp.errors.DamagedRunWarning")
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
@pytest.mark.parametrize("part", [part for part in parts() if part not in ("trajectory", "state")])
def test_only_regular_files_are_opened(run, kind, part, monkeypatch):
    place = run / part
    put_away(place)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "device":
        try:
            os.mknod(place, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            pytest.skip("only root makes devices")
    else:
        monkeypatch.chdir(place.parent)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(place.name)
    errors = attempts(run)
    assert any(place.name in error for error in errors.values())


def test_list_names_what_it_cannot_read_and_goes_on(run, capsys):
    for number, harm in enumerate(
        (
            lambda path: os.mkfifo(path / "run.json"),
            lambda path: (path / "run.json").mkdir(),
            lambda path: (path / "run.json").write_text("[" * 200_000),
            lambda path: (path / "run.json").symlink_to("/dev/zero"),
            lambda path: (path / "run.json").write_text("{}"),
        )
    ):
        bad = run.parent / f"bad{number}"
        bad.mkdir()
        harm(bad)
    with at_most(30):
        main(["list", str(run.parent)])
    lines = capsys.readouterr().out.splitlines()
    assert sum("unreadable" in line for line in lines) == 5
    assert sum(run.name in line for line in lines) == 1
    assert len(lines) == 7


def test_depth_is_bounded():
    require_shallow(parse_json("[" * 60 + "]" * 60))
    with pytest.raises(ValueError, match="nested deeper than 64"):
        require_shallow(parse_json("[" * 70 + "]" * 70))
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 200_000)
    with pytest.raises(ValueError, match="NaN"):
        parse_json('{"a": NaN}')


def test_a_header_longer_than_its_file_allocates_nothing(run):
    path = next((run / "trajectory").iterdir())
    for length in (10**18, 2**63, path.stat().st_size - 7):
        path.write_bytes(length.to_bytes(8, "little") + STORED.joinpath("trajectory", path.name).read_bytes()[8:])
        assert "shorter than its header" in "".join(RunReader(run).problems)
    with open(path, "r+b") as stream:  # a sparse file costs nothing on disk
        stream.write((2**40 - 8).to_bytes(8, "little"))
        stream.truncate(2**40)
    assert "its header has 1,099,511,627,768 bytes" in "".join(RunReader(run).problems)


def test_a_line_of_metrics_without_end_is_refused(run):
    with open(run / "metrics.jsonl", "ab") as stream:
        stream.truncate(2**40)
    with pytest.raises(CorruptRunError, match=f"longer than {LONGEST_LINE:,} bytes"), at_most(10):
        _ = RunReader(run).metrics


def test_the_path_to_something_in_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert inside(tmp_path / "link", "replay", "x") == tmp_path / "link" / "replay" / "x"
    (tmp_path / "run" / "replay").symlink_to(tmp_path)
    with pytest.raises(StoreError, match=r"run/replay must be a regular file; it is a symbolic link"):
        inside(tmp_path / "run", "replay", "x")


def test_a_run_is_deleted_and_what_its_links_lead_to_is_not(run, outside):
    (run / "replay").symlink_to(outside)
    (run / "report.html").symlink_to(outside / "precious")
    delete_run(run)
    assert not run.exists()


# -- files that a person keeps -----------------------------------------------------------------------------------------


@contextmanager
def full_disk(size):
    """Context in which no file grows beyond so many bytes."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    write_file(path, "good")
    path.chmod(0o640)
    with full_disk(4096), pytest.raises(StoreError, match=r"report.html: File too large"):
        write_file(path, "new" * 4096)
    assert path.read_text() == "good"
    assert os.listdir(tmp_path) == ["report.html"]
    write_file(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)


def copied(run, folder):
    """A copy of a run in a folder: comparing leaves measured values in it."""
    return shutil.copytree(run, folder / run.name, dirs_exist_ok=True)


KEPT = {
    "report.html": lambda run, path: interp.report(run, path),
    "measures.csv": lambda run, path: main(["measure", str(run), "weight_norm", "--output", str(path)]),
    "measures.nc": lambda run, path: main(["measure", str(run), "embedding_power", "--output", str(path)]),
    "runs.csv": lambda run, path: main(["compare", str(run), str(copied(STORED, run)), "--output", str(path)]),
    "results.json": lambda run, path: running._write(path, {"x": [0.5] * 100}),
}
"""What writes a file that a person keeps."""


@pytest.mark.filterwarnings("ignore::interp.errors.DamagedRunWarning")
@pytest.mark.parametrize("name", KEPT)
def test_a_full_disk_leaves_what_a_person_keeps(tmp_path, name, capsys, monkeypatch):
    path = tmp_path / name
    run = shutil.copytree(MEASURED, tmp_path / MEASURED.name)
    KEPT[name](run, path)
    good, write = path.read_bytes(), os.write

    def full(handle, data):
        if len(data) > 50:
            write(handle, data[:50])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises((InterpError, SystemExit)) as caught:
        KEPT[name](run, path)
    monkeypatch.undo()
    assert f"{path}: No space left on device" in f"{caught.value}{capsys.readouterr().err}"
    assert path.read_bytes() == good
    assert sorted(child.name for child in tmp_path.iterdir()) == sorted([name, MEASURED.name])


def test_a_users_own_link_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "report.html"
    link.symlink_to(tmp_path / "there" / "report.html")
    write_file(link, "a")
    write_file(link, "b")
    assert link.is_symlink()
    assert (tmp_path / "there" / "report.html").read_text() == "b"
    with pytest.raises(StoreError, match="must be a regular file; it is a device"):
        write_file(Path("/dev/null"), "a")


# -- verify passes over nothing ----------------------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path):
    """A copy of the run, with a measure of this version."""
    folder = shutil.copytree(MEASURED, tmp_path / "runs" / MEASURED.name)
    interp.measure(folder, ["sum_of_squares"])
    return folder


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_replays_and_measures_are_verified(measured):
    assert interp.load(measured).verify().ok
    files = sorted([*(measured / "replay").rglob("*.safetensors"), *(measured / "measures").iterdir()])
    assert len(files) == 7
    for path in [*files, *(measured / "replay").rglob("metrics.jsonl"), *(measured / "replay").rglob("run.json")]:
        data = path.read_bytes()
        for position in (3, len(data) - 3):
            flip(path, position)
            errors = interp.load(measured).verify().errors
            assert any(str(path) in error for error in errors), (path, position)
            path.write_bytes(data)
    assert interp.load(measured).verify().ok


@pytest.mark.parametrize("path", [MEASURED / "measures" / "weight_norm.safetensors", None], ids=["old", "new"])
def test_each_byte_of_measured_values_counts(measured, path):
    path = measured / "measures" / (path.name if path else "sum_of_squares.safetensors")
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    rows = data.index(b'"rows":"') + 8
    for position in [*range(rows, rows + 32), *range(begin, len(data), 7)]:
        if path.name == "weight_norm.safetensors" and position < begin:
            continue  # the digest of old files does not cover the rows
        flip(path, position)
        errors = RunReader(measured).verify().errors
        assert len(errors) == 1
        assert f"{path} is damaged, and `interp measure` computes it again" in errors[0]
        path.write_bytes(data)


def test_measured_values_of_another_measure_or_run_are_not_used(measured):
    expected = interp.measure(measured, ["weight_norm"], cache=False)
    folder = measured / "measures"
    shutil.copy(folder / "sum_of_squares.safetensors", folder / "weight_norm.safetensors")
    assert "weight_norm.safetensors is damaged" in RunReader(measured).verify().errors[0]
    np.testing.assert_allclose(interp.measure(measured, ["weight_norm"]).weight_norm, expected.weight_norm, rtol=1e-12)
    assert RunReader(measured).verify().ok  # it was computed again
    other = interp.train(interp.load(measured).config.replace({"task.seed": 9}), root=measured.parent, device="cpu")
    shutil.copytree(folder, other.folder / "measures")
    (other.folder / "measures" / "test_loss.safetensors").unlink()
    interp.measure(measured, ["test_accuracy"])
    shutil.copy(folder / "test_accuracy.safetensors", other.folder / "measures")
    errors = other.verify().errors
    assert any("it belongs to another run" in error and "test_accuracy" in error for error in errors)


def test_a_divergence_that_does_not_say_of_what_is_reported(tmp_path):
    folder = shutil.copytree(DIVERGED, tmp_path / DIVERGED.name)
    with RunWriter.open(folder) as writer:
        step = writer.run["diverged"]["step"]
        writer.replace_run({**writer.run, "diverged": {"step": step}})
    with pytest.raises(DivergedError, match=f"At step {step} a value is not a finite number"):
        interp.resume(folder)


def test_a_schedule_that_is_none_is_not_verified_as_ok(run, capsys):
    with RunWriter.open(run) as writer:
        writer.replace_run({**writer.run, "schedule": "nonsense(1)"}, complete=True)
    with pytest.raises(SystemExit) as caught:
        main(["verify", str(run)])
    assert caught.value.code
    assert "`nonsense(1)` is no schedule" in f"{caught.value.code}{capsys.readouterr().err}"
