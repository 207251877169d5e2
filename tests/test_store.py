"""Laws of the store: what was appended is what is read, whatever happens in between, or it is said that it is not."""

import json
import math
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interp.errors import (
    CorruptRunError,
    InvalidArgumentError,
    RunExistsError,
    RunLockedError,
    StoreError,
    UnknownNameError,
)
from interp.store import RunReader, RunWriter
from interp.store.measured import write_measured
from interp.store.opening import delete_run, publish, write_file
from interp.store.reader import OPEN_MAPS
from interp.store.segments import run_json

DTYPES = [np.float32, np.float64, np.int64, np.uint8, np.bool_]


def weights(step: int) -> dict[str, np.ndarray]:
    """Arrays that are a pure function of the step."""
    rng = np.random.default_rng(step)
    return {"embed.W_E": rng.standard_normal((7, 5), np.float32), "b": rng.standard_normal(3), "count": np.array(step)}


def build(folder: Path, steps: range = range(12), segment_steps: int = 4, **settings) -> Path:
    with RunWriter.create(folder, {"p": 59}, segment_steps=segment_steps, fsync=False, **settings) as writer:
        for step in steps:
            writer.append(step, weights(step))
            writer.log({"step": step, "loss": 1 / (1 + step)})
    return folder


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "trajectory").glob("*.safetensors"))


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def find(path: Path, array: np.ndarray) -> int:
    return path.read_bytes().index(array.tobytes())


# -- what is written is what is read ----------------------------------------------------------------------------------


@st.composite
def trajectories(draw):
    names = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True))
    count = draw(st.integers(1, 9))
    columns = {}
    for name in names:
        dtype, shape = (
            draw(st.sampled_from(DTYPES)),
            draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
        )
        columns[name] = draw(hnp.arrays(dtype, (count, *shape)))
    steps = sorted(draw(st.sets(st.integers(0, 10**9), min_size=count, max_size=count)))
    return steps, columns, draw(st.integers(1, 5)), draw(st.sets(st.integers(0, count)))


@given(trajectories(), st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip(trajectory, data):
    steps, columns, segment_steps, commits = trajectory
    with tempfile.TemporaryDirectory() as folder:
        with RunWriter.create(Path(folder) / "run", {}, segment_steps=segment_steps, fsync=False) as writer:
            for i, step in enumerate(steps):
                writer.append(step, {name: column[i, ...] for name, column in columns.items()})
                if i in commits:
                    assert writer.commit() == step
        reader = RunReader(Path(folder) / "run")
        assert reader.steps.tolist() == steps
        assert reader.names == tuple(columns)
        index = data.draw(
            st.slices(len(steps)) | hnp.arrays(bool, len(steps)) | st.lists(st.integers(0, len(steps) - 1))
        )
        index = np.array(index, np.int64) if isinstance(index, list) else index
        for name, column in columns.items():
            assert (reader.shape(name), reader.dtype(name)) == (column.shape[1:], column.dtype)
            assert same(reader.read(name, slice(None)), column)
            assert same(reader.read(name, index), column[index])
            for i in range(-len(steps), len(steps)):
                assert same(reader.read(name, i), np.asarray(column[i]))
        assert reader.verify().ok
        for path in segments(Path(folder) / "run"):  # any safetensors reader understands the files
            assert set(safetensors.numpy.load_file(path)) == set(columns)


def test_a_slice_in_one_segment_is_a_read_only_view(tmp_path):
    reader = RunReader(build(tmp_path / "run"))
    view = reader.read("embed.W_E", slice(4, 8))
    assert not view.flags.owndata
    assert not view.flags.writeable
    assert reader.read("embed.W_E", slice(3, 5)).flags.writeable


def test_positions_are_checked(tmp_path):
    reader = RunReader(build(tmp_path / "run"))
    for index in (12, -13, np.array([3, 12])):
        with pytest.raises(IndexError):
            reader.read("b", index)
    with pytest.raises(InvalidArgumentError, match="2 axes"):
        reader.read("b", np.zeros((1, 1), int))
    with pytest.raises(UnknownNameError, match=r"Did you mean `embed.W_E`"):
        reader.read("embed.W_F", 0)


def test_the_same_steps_give_the_same_bytes(tmp_path):
    a, b = segments(build(tmp_path / "a")), segments(build(tmp_path / "b"))
    assert [path.read_bytes() for path in a] == [path.read_bytes() for path in b]


def test_arrays_are_copied_at_once_and_made_native(tmp_path):
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    with RunWriter.create(tmp_path / "run", {}, fsync=False) as writer:
        writer.append(0, {"w": array.T})
        array += 1
        writer.append(1, {"w": array.T})
    rows = RunReader(tmp_path / "run").read("w", slice(None))
    np.testing.assert_array_equal(rows[:, 0], [[0, 3], [1, 4]])


@pytest.mark.parametrize(
    ("step", "arrays", "text"),
    [
        (1, {"w": np.zeros(2)}, "greater than the last appended step, 1; got 1"),
        (2, {"w": np.zeros(3)}, r"`w` must have .*\(2,\).* got .*\(3,\).* at step 2"),
        (2, {"w": np.zeros(2, np.float32)}, "float32"),
        (2, {}, "at least one"),
        (2, {"v": np.zeros(2)}, "`w` must have .* got absent"),
        (2, {"w": np.zeros(2), "v": np.zeros(1)}, "`v` must have .* absent"),
    ],
)
def test_append_rejects(tmp_path, step, arrays, text):
    with RunWriter.create(tmp_path / "run", {}, fsync=False) as writer:
        writer.append(1, {"w": np.zeros(2)})
        with pytest.raises(InvalidArgumentError, match=text):
            writer.append(step, arrays)
    assert RunReader(tmp_path / "run").steps.tolist() == [1]


@pytest.mark.parametrize("arrays", [{}, {"w": np.array("text")}, {"w": np.array(None)}, {"__metadata__": np.zeros(1)}])
def test_the_first_append_rejects(tmp_path, arrays):
    with RunWriter.create(tmp_path / "run", {}, fsync=False) as writer, pytest.raises(InvalidArgumentError):
        writer.append(0, arrays)


def test_segments_are_cut_by_bytes_steps_and_age(tmp_path, monkeypatch):
    size = sum(array.nbytes for array in weights(0).values())
    assert len(segments(build(tmp_path / "bytes", segment_steps=64, segment_bytes=3 * size + 1))) == 4
    assert len(segments(build(tmp_path / "tiny", segment_bytes=1))) == 12
    assert len(segments(build(tmp_path / "steps", segment_steps=5))) == 3
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
    monkeypatch.setattr("interp.store.writer.time", clock)
    with RunWriter.create(tmp_path / "age", {}, segment_seconds=10.0, fsync=False) as writer:
        writer.append(0, weights(0))
        clock.now += 9.0
        writer.append(1, weights(1))
        clock.now += 1.0
        writer.log({"step": 0})
        writer.append(2, weights(2))
    assert [path.name[:17] for path in segments(tmp_path / "age")] == ["00000000-00000001", "00000002-00000002"]


def test_a_growing_run_is_seen_by_refresh(tmp_path):
    with RunWriter.create(tmp_path / "run", {"p": 59}, fsync=False) as writer:
        reader = RunReader(tmp_path / "run")
        assert reader.locked
        assert (reader.run, reader.complete, reader.names, reader.steps.size) == ({"p": 59}, False, (), 0)
        assert reader.metrics["step"].size == 0
        writer.append(0, weights(0))
        writer.log({"step": 0, "loss": 2.0})
        assert writer.commit() == writer.last_committed == 0
        assert reader.steps.size == 0
        reader.refresh()
        assert reader.steps.tolist() == [0]
        assert reader.metrics["loss"].tolist() == [2.0]
        writer.finish()
    reader.refresh()
    assert reader.complete
    assert not reader.locked
    assert reader.run == {"p": 59}


def seen_meanwhile(folder: Path, write: Callable[[RunWriter], None], **settings) -> tuple[int, set[str]]:
    """Number of looks at a run while another thread writes, and all damage that they told."""

    def go_on() -> None:
        with RunWriter.open(folder, fsync=False, **settings) as writer:
            write(writer)

    looks, told = 0, set()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(go_on)
        while not writing.done():
            reader = RunReader(folder)
            told |= {*reader.problems, *reader.verify().errors}
            looks += 1
        writing.result()
    return looks, told


def test_a_complete_run_that_is_added_to_has_lost_nothing(tmp_path):
    def go_on(writer: RunWriter) -> None:
        for step in range(400):
            writer.log({"step": step, "loss": 0.5})
            writer.finish()

    looks, told = seen_meanwhile(build(tmp_path / "run"), go_on, segment_seconds=0.0)
    assert looks > 10
    assert told == set()


def test_a_full_state_that_is_dropped_with_its_metrics_is_no_loss(tmp_path):
    def start_again(writer: RunWriter) -> None:
        for step in range(12, 612, 2):
            for later in (step, step + 1):
                writer.log({"step": later, "loss": 1 / step})
                writer.save_state(later, weights(later), {})
            writer.truncate_after(11)

    looks, told = seen_meanwhile(build(tmp_path / "run"), start_again)
    assert looks > 10
    assert told == set()


def test_a_run_that_was_trained_anew_in_its_place_is_seen_by_refresh(tmp_path):
    reader = RunReader(build(tmp_path / "run"))
    reader.read("b", slice(None))
    delete_run(tmp_path / "run")
    with RunWriter.create(tmp_path / "run", {"p": 61}, segment_steps=4, fsync=False) as writer:
        for step in range(12):
            writer.append(step, weights(step + 100))
    reader.refresh()
    assert reader.problems == ()
    assert all(same(reader.read("b", step), weights(step + 100)["b"]) for step in range(12))


def test_many_segments_do_not_use_up_the_file_descriptors(tmp_path):
    reader = RunReader(build(tmp_path / "run", range(OPEN_MAPS + 40), segment_steps=1))
    before = len(os.listdir("/proc/self/fd"))
    assert reader.read("count", slice(None)).tolist() == list(range(OPEN_MAPS + 40))
    assert len(os.listdir("/proc/self/fd")) - before <= OPEN_MAPS


# -- run.json, states, metrics ----------------------------------------------------------------------------------------


def test_create_open_and_replace(tmp_path):
    folder = build(tmp_path / "run")
    with pytest.raises(RunExistsError, match="already holds a run"):
        RunWriter.create(folder, {})
    with RunWriter.open(folder) as writer:
        writer.replace_run({"p": 61, "loss": [0.5]}, complete=True)
        with pytest.raises(InvalidArgumentError, match="`store`"):
            writer.replace_run({"store": 1})
        with pytest.raises(InvalidArgumentError, match="JSON"):
            writer.replace_run({"loss": float("nan")})
    assert RunReader(folder).run == {"p": 61, "loss": [0.5]}
    assert RunReader(folder).complete
    (folder / "run.json").unlink()
    for act in (RunReader, RunWriter.open):
        with pytest.raises(StoreError, match=r"run\.json"):
            act(folder)
    with pytest.raises(RunExistsError, match="or parts of one"):
        RunWriter.create(folder, {})
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        RunWriter.create(tmp_path / "file", {})


def test_a_newer_format_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("interp.store.segments.VERSION", "2.1")
    folder = build(tmp_path / "run")
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"run\.json has format 2\.1; this version .* reads format 1\. Update the"):
        RunReader(folder)
    path = folder / "run.json"
    path.write_bytes(path.read_bytes().replace(b'"sha256"', b'"sha512"'))  # a seal of another kind is not looked at
    with pytest.raises(StoreError, match=r"has format 2\.1"):
        RunReader(folder)


def test_a_segment_of_a_newer_format_does_not_hide_the_others(tmp_path, monkeypatch):
    folder = build(tmp_path / "run", range(8))
    with RunWriter.open(folder, segment_steps=4, fsync=False) as writer:
        monkeypatch.setattr("interp.store.segments.VERSION", "2.1")
        for step in range(8, 12):
            writer.append(step, weights(step))
        writer.commit()
        monkeypatch.undo()
    reader = RunReader(folder)
    assert reader.steps.tolist() == list(range(8))
    assert "00000008-00000011.safetensors has format 2.1" in reader.problems[0]


def test_a_newer_minor_format_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("interp.store.segments.VERSION", "1.47")
    folder = finished(tmp_path / "run")
    monkeypatch.undo()
    assert b'"format": "1.47"' in (folder / "run.json").read_bytes()
    assert RunReader(folder).verify().ok


def test_states_round_trip_and_are_retained(tmp_path):
    state = {"m": np.arange(6.0).reshape(2, 3), "count": np.array(7), "empty": np.zeros((0, 2), np.float32)}
    with RunWriter.create(tmp_path / "run", {}, fsync=False) as writer:
        for step in range(0, 70, 10):
            writer.append(step, weights(step))
            writer.save_state(
                step, state, {"torch": "2.13", "order": "[1]"}, keep_last=2, keep=lambda kept: kept % 30 == 0
            )
            assert writer.last_committed == step
        with pytest.raises(InvalidArgumentError, match="str to str"):
            writer.save_state(70, state, {"a": 1})
    reader = RunReader(tmp_path / "run")
    assert reader.state_steps == [0, 30, 50, 60]
    arrays, metadata = reader.read_state(60)
    assert metadata == {"torch": "2.13", "order": "[1]"}
    assert list(arrays) == list(state)
    assert all(same(arrays[name], state[name]) and arrays[name].flags.writeable for name in state)
    with pytest.raises(UnknownNameError, match=r"step 10 .*\[0, 30, 50, 60\]"):
        reader.read_state(10)


def test_a_state_is_never_overwritten(tmp_path):
    with RunWriter.create(tmp_path / "run", {}, fsync=False) as writer:
        writer.save_state(5, {"m": np.zeros(2)}, {"time": "noon"})
        writer.save_state(5, {"m": np.zeros(2)}, {"time": "night"})
        with pytest.raises(CorruptRunError, match=r"00000005\.safetensors exists and its `m` differs"):
            writer.save_state(5, {"m": np.ones(2)}, {})
    assert RunReader(tmp_path / "run").read_state(5)[1] == {"time": "noon"}


def test_metrics(tmp_path):
    with RunWriter.create(tmp_path / "run", {}, fsync=False) as writer:
        writer.log({"step": 0, "loss": float("nan"), "lr": 0.1})
        writer.log({"step": np.int64(2), "loss": np.float32(0.1), "grokked": True})
        writer.log({"step": 1, "loss": float("inf"), "norm": 3})
        writer.log({"step": 1, "lr": 0.30000000000000004})
        for record in ({"loss": 1.0}, {"step": 0.5}, {"step": 1, "loss": "low"}, {"step": 1, "crc32": 1}):
            with pytest.raises(InvalidArgumentError):
                writer.log(record)
    metrics = RunReader(tmp_path / "run").metrics
    nan = np.nan
    expected = {"step": [0, 1, 2], "loss": [nan, nan, np.float32(0.1)], "lr": [0.1, 0.30000000000000004, nan]}
    expected |= {"norm": [nan, 3, nan], "grokked": [nan, nan, 1]}
    assert set(metrics) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(metrics[name], values)
    assert metrics["step"].dtype == np.int64
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_the_last_metrics_are_those_of_the_whole_log_and_need_its_end_only(tmp_path, monkeypatch):
    with RunWriter.create(tmp_path / "run", {}) as writer:
        for step in range(100):
            rare = {"rare": step} if step in (0, 70) else {}
            writer.log({"step": step, "loss": 1 / (1 + step), "often": math.nan if step > 97 else step, **rare})
    reader = RunReader(tmp_path / "run")
    monkeypatch.setattr("interp.store.reader.TAIL_BYTES", 1000)
    assert reader.last_metrics(["loss", "often"]) == {"loss": 0.01, "often": 97}
    assert reader.last_metrics(["rare", "loss", "absent"]) == {"rare": 70, "loss": 0.01}
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"step":0', b'"step":5', 1))
    assert reader.last_metrics(["often"]) == {"often": 97}
    with pytest.raises(CorruptRunError, match="line 1 does not"):
        reader.last_metrics(["rare"])
    path.write_bytes(path.read_bytes().replace(b'"step":98', b'"step":89', 1))
    with pytest.raises(CorruptRunError, match="line 2 from the end does not"):
        reader.last_metrics(["often"])
    monkeypatch.setattr("interp.store.reader.TAIL_BYTES", 5)  # no line fits
    path.write_bytes(b"")
    assert reader.last_metrics(["often"]) == {}


def test_a_torn_last_line_is_ignored_and_removed_by_the_next_writer(tmp_path):
    folder = build(tmp_path / "run")
    path = folder / "metrics.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole) - whole[:-1].rindex(b"\n")):
        path.write_bytes(whole[:-cut])
        assert RunReader(folder).metrics["step"].tolist() == list(range(11)), cut
    path.write_bytes(whole[:-3])
    assert "torn" in str(RunReader(folder).verify())
    with RunWriter.open(folder, fsync=False) as writer:
        writer.log({"step": 11, "loss": 0.25})
    assert RunReader(folder).metrics["loss"][-2:].tolist() == [1 / 11, 0.25]
    flip(path, 3)
    with pytest.raises(CorruptRunError, match=r"metrics\.jsonl, line 1"):
        _ = RunReader(folder).metrics


def test_truncate_after_drops_later_metrics(tmp_path):
    folder = build(tmp_path / "run")
    with RunWriter.open(folder, fsync=False) as writer:
        writer.truncate_after(6)
        assert RunReader(folder).metrics["step"].tolist() == list(range(7))
        writer.log({"step": 6, "loss": 5.0})
        writer.truncate_after(6)
    assert RunReader(folder).metrics["loss"][-2:].tolist() == [1 / 6, 5.0]
    assert RunReader(folder).steps.tolist() == list(range(12))


@pytest.mark.parametrize(
    ("after", "left"),
    [(4, [2, 4]), (3, [2]), (1, [])],  # all stay; the later one goes; the earlier one goes, too
)
def test_truncate_after_drops_later_states_and_keeps_the_steps(tmp_path, after, left):
    with RunWriter.create(tmp_path / "run", {}, fsync=False) as writer:
        for step in range(5):
            writer.append(step, weights(step))
            if step in (2, 4):
                writer.save_state(step, weights(step), {})
        writer.finish()
        writer.truncate_after(after)
        reader = RunReader(tmp_path / "run")
        assert (reader.state_steps, reader.steps.tolist()) == (left, list(range(5)))
        assert reader.complete == (left == [2, 4])
        assert reader.verify().ok
        writer.save_state(4, weights(4), {})  # computed again
        writer.finish()
    reader = RunReader(tmp_path / "run")
    assert (reader.state_steps, reader.complete, reader.verify().errors) == (sorted({*left, 4}), True, ())


def test_truncate_after_drops_an_earlier_state_that_follows_a_dropped_line(tmp_path):
    with RunWriter.create(tmp_path / "run", {}, fsync=False) as writer:
        for at, step in enumerate((0, 9, 1)):  # a line of a later step, before the state at step 1
            writer.append(at, weights(at))
            writer.log({"step": step, "loss": 0.5})
            writer.save_state(at, weights(at), {}, keep_last=3)
        writer.truncate_after(5)
    reader = RunReader(tmp_path / "run")
    assert (reader.state_steps, reader.metrics["step"].tolist()) == ([0], [0, 1])
    assert reader.verify().ok


# -- resume, lock, dead writers ---------------------------------------------------------------------------------------


def test_a_repeated_step_is_a_proof(tmp_path):
    folder = build(tmp_path / "run")
    before = [path.read_bytes() for path in segments(folder)]
    with RunWriter.open(folder, segment_steps=4, fsync=False) as writer:
        assert writer.last_committed == 11
        for step in range(6, 20):
            writer.append(step, weights(step))
    assert [path.read_bytes() for path in segments(folder)][:3] == before
    reader = RunReader(folder)
    assert reader.steps.tolist() == list(range(20))
    assert all(same(reader.read("b", step), weights(step)["b"]) for step in range(20))
    assert reader.verify().ok
    wrong = weights(9)
    wrong["b"] = np.nextafter(wrong["b"], 9)
    with RunWriter.open(folder, fsync=False) as writer:
        with pytest.raises(CorruptRunError, match=r"00000008-00000011\.safetensors: `b` at step 9 "):
            writer.append(9, wrong)
        with pytest.raises(InvalidArgumentError, match="`b` must have"):
            writer.append(10, {**weights(10), "b": np.zeros(1)})


def test_a_step_between_committed_ones_is_refused(tmp_path):
    folder = build(tmp_path / "run", range(0, 40, 10))
    with RunWriter.open(folder, fsync=False) as writer, pytest.raises(InvalidArgumentError, match="between"):
        writer.append(15, weights(15))


def test_a_second_writer_is_refused(tmp_path):
    folder = build(tmp_path / "run")
    script = f"from interp.store import RunWriter; RunWriter.open({str(folder)!r})"
    with RunWriter.open(folder) as writer:
        with pytest.raises(RunLockedError, match=str(folder)):
            RunWriter.open(folder)
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert "RunLockedError" in other.stderr
        assert RunReader(folder).locked
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    with pytest.raises(StoreError, match="closed"):
        writer.append(12, weights(12))


def test_a_reader_that_looks_at_the_lock_does_not_stop_a_writer(tmp_path):
    folder = build(tmp_path / "run")
    looker = (
        f"from interp.store import RunReader\nr = RunReader({str(folder)!r})\nprint(1, flush=True)\nwhile 1: r.locked"
    )
    with subprocess.Popen([sys.executable, "-c", looker], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        for _ in range(10):
            RunWriter.open(folder).close()
        process.kill()


def test_only_a_writer_removes_what_dead_writers_left(tmp_path):
    folder = build(tmp_path / "run")
    litter = [folder / "trajectory" / ".00000012-00000015.safetensors.123.0123abcd.tmp", folder / ".run.json.1.ff.tmp"]
    for path in litter:
        path.write_bytes(b"half")
    report = RunReader(folder).verify()
    assert report.ok
    assert len(report.warnings) == 2
    assert all(path.exists() for path in litter)
    RunWriter.open(folder).close()
    assert not any(path.exists() for path in litter)


def test_a_killed_writer_of_measured_values_leaves_nothing_for_long(tmp_path):
    """Abandoned files are removed by the next writer of the file and of the run; a living writer's are not."""
    folder, minute = build(tmp_path / "run"), 61
    gone = subprocess.Popen(["true"])
    gone.wait()
    ages = {f"{gone.pid}.aa": minute, f"{gone.pid}.bb": 0, f"{os.getpid()}.cc": minute, f"{os.getpid()}.dd": 86_401}
    (folder / "measures").mkdir()

    def litter():
        for place, name in ((folder / "measures", "loss.safetensors"), (folder, "report.html")):
            for owner, age in ages.items():
                path = place / f".{name}.{owner}.tmp"
                path.write_bytes(b"half")
                os.utime(path, (time.time() - age,) * 2)

    def left(place):
        return sorted(path.name.split(".")[-2] for path in place.glob(".*.tmp"))

    litter()
    write_measured(folder / "measures" / "loss.safetensors", "me", ["a"], np.zeros((1, 2)))
    write_file(folder / "report.html", "new")
    assert left(folder) == left(folder / "measures") == ["bb", "cc"]
    litter()
    (folder / ".precious.1.tmp").write_bytes(b"no name of ours")
    os.utime(folder / ".precious.1.tmp", (0, 0))
    assert len(RunReader(folder).verify().warnings) == 4
    RunWriter.open(folder).close()
    assert left(folder) == ["1", "bb", "cc"]
    assert left(folder / "measures") == ["bb", "cc"]


KILLED = """
    import random, sys
    import numpy as np
    from interp.store import RunWriter, RunReader
    def weights(step):
        rng = np.random.default_rng(step)
        return {"w": rng.standard_normal((60, 40), np.float32), "b": rng.standard_normal(3), "n": np.array(step)}
    folder, create = sys.argv[1], sys.argv[2] == "create"
    if create:
        RunWriter.create(folder, {"p": 59}).close()
    with RunWriter.open(folder, segment_steps=5) as writer:
        states = RunReader(folder).state_steps
        start = states[-1] + 1 if states else 0
        writer.truncate_after(start - 1)
        for step in range(start, 10**9):
            writer.append(step, weights(step))
            writer.log({"step": step, "loss": 1 / (1 + step)})
            if random.random() < 0.2:
                print("ack", writer.commit(), flush=True)
            if random.random() < 0.03:
                writer.save_state(step, weights(step), {"at": str(step)})
                print("ack", step, flush=True)
"""


def test_twenty_kills(tmp_path):
    folder, rng = tmp_path / "run", random.Random(0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    names: dict = {}
    exec(textwrap.dedent(KILLED.split("    folder,")[0]), names)
    acknowledged = -1
    for trial in range(20):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), "open" if trial else "create"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            first = process.stdout.readline()
            assert first.startswith("ack"), trial
            time.sleep(rng.uniform(0, 0.25))
            process.kill()
            lines = (first + process.stdout.read()).split("\n")[:-1]  # the last line may be torn
        acknowledged = max(acknowledged, *(int(line.split()[1]) for line in lines))
        reader = RunReader(folder)
        assert reader.problems == ()
        assert reader.steps.tolist() == list(range(len(reader.steps)))
        assert reader.steps[-1] >= acknowledged
        logged = reader.metrics["step"].tolist()
        assert logged == list(range(len(logged)))
        assert trial or len(logged) > acknowledged  # (a resume logs again from the last full state)
        assert reader.verify().ok
        for step in range(max(0, len(reader.steps) - 200), len(reader.steps)):
            expected = names["weights"](step)
            assert all(same(reader.read(name, step), expected[name]) for name in expected), step
        for step in reader.state_steps:
            arrays, metadata = reader.read_state(step)
            assert metadata == {"at": str(step)}
            assert all(same(arrays[name], array) for name, array in names["weights"](step).items())
    RunWriter.open(folder).close()
    assert not list(folder.rglob(".*"))
    assert acknowledged > 20


# -- damage -----------------------------------------------------------------------------------------------------------


def test_two_hundred_flipped_bits(tmp_path):
    folder = build(tmp_path / "run")
    with RunWriter.open(folder, fsync=False) as writer:
        writer.save_state(11, weights(11), {"a": "b"})
        writer.finish()
    good = RunReader(folder)
    expected = {name: np.array(good.read(name, slice(None))) for name in good.names}
    state, metrics = good.read_state(11), good.metrics
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    rng, harmless = random.Random(1), 0
    for _ in range(200):
        path = rng.choice(files)
        data = path.read_bytes()
        flip(path, rng.randrange(len(data)), rng.randrange(8))
        try:
            reader = RunReader(folder)
            report = reader.verify()
            for name in reader.names:  # even without verify(), a wrong value is never handed out
                for i, step in enumerate(reader.steps):
                    try:
                        assert same(reader.read(name, i), np.asarray(expected[name][step]))
                    except CorruptRunError as error:
                        assert path.name in str(error)  # noqa: PT017
                        assert not report.ok
            if report.ok and not report.warnings:
                harmless += 1
                assert (reader.run, reader.complete) == ({"p": 59}, True)
                assert reader.steps.tolist() == list(range(12))
                assert all(same(reader.metrics[name], metrics[name]) for name in metrics)
                arrays, metadata = reader.read_state(11)
                assert metadata == state[1]
                assert all(same(arrays[name], state[0][name]) for name in state[0])
            else:
                assert path.name in str(report)
        except StoreError as error:
            assert path.name in str(error)  # noqa: PT017
        finally:
            path.write_bytes(data)
    assert harmless < 5  # white space of run.json
    assert RunReader(folder).verify().ok


def test_when_digests_are_checked(tmp_path):
    folder = build(tmp_path / "run")
    readers = {mode: RunReader(folder, verify=mode) for mode in ("first", "always", "never")}
    readers["first"].read("b", 5)
    readers["always"].read("b", 5)
    path = segments(folder)[1]
    flip(path, find(path, weights(5)["b"]))
    for reader in (RunReader(folder), readers["always"]):
        with pytest.raises(CorruptRunError, match=r"00000004-00000007\.safetensors: `b` at step 5 "):
            reader.read("b", slice(None))
        assert same(reader.read("b", slice(0, 5)), np.stack([weights(step)["b"] for step in range(5)]))
    for mode in ("first", "never"):  # this is what the check is for: without it the wrong value comes back
        assert not same(readers[mode].read("b", 5), weights(5)["b"])
    with pytest.raises(InvalidArgumentError, match="sometimes"):
        RunReader(folder, verify="sometimes")
    report = RunReader(folder).verify()
    assert report.unreadable_steps == ((5, 5),)
    assert "`b` does not match its digest at step 5" in str(report)


@pytest.mark.parametrize("harm", ["truncate", "empty", "garbage", "header", "extend", "rename"])
def test_a_damaged_segment_does_not_hide_the_others(tmp_path, harm):
    folder = build(tmp_path / "run")
    path = segments(folder)[1]
    data = path.read_bytes()
    if harm == "rename":
        path.rename(path.with_name("00000004-00000006.safetensors"))
    else:
        changed = {"truncate": data[:-1], "empty": b"", "garbage": b"\xff" * 100, "extend": data + b"\0"}
        path.write_bytes(changed.get(harm, data.replace(b'"steps":"[4, 5', b'"steps":"[3, 5')))
    reader = RunReader(folder)
    assert reader.steps.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert same(reader.read("b", 4), weights(8)["b"])
    report = reader.verify()
    assert not report.ok
    assert report.unreadable_steps == ((4, 6 if harm == "rename" else 7),)
    assert "00000004" in reader.problems[0]
    with pytest.raises(CorruptRunError, match="remove every segment from there on: they are computed again"):
        RunWriter.open(folder)
    next((folder / "trajectory").glob("00000004*")).unlink()
    with pytest.raises(CorruptRunError, match=r"is a segment missing\? .* remove every segment from there on"):
        RunWriter.open(folder)
    next((folder / "trajectory").glob("00000008*")).unlink()
    with RunWriter.open(folder, fsync=False) as writer:
        for step in range(4, 12):
            writer.append(step, weights(step))
    assert RunReader(folder).verify().ok
    assert RunReader(folder).steps.tolist() == list(range(12))


def test_a_swapped_and_a_missing_segment_break_the_chain(tmp_path):
    folder = build(tmp_path / "run")
    with RunWriter.create(tmp_path / "other", {}, segment_steps=4, fsync=False) as writer:
        for step in range(12):
            writer.append(step, weights(step + 1))
    shutil.copy(segments(tmp_path / "other")[0], segments(folder)[0])  # sound in itself, of another run
    assert len(RunReader(folder).problems) == 1
    segments(folder)[0].unlink()
    assert len(RunReader(folder).problems) == 1


def test_two_segments_added_during_a_listing_are_no_gap(tmp_path, monkeypatch):
    folder, plain = build(tmp_path / "run"), os.listdir
    hidden = [segments(folder)[1].name]  # added after its place was read; the one behind it is seen
    monkeypatch.setattr(os, "listdir", lambda place: [n for n in plain(place) if n not in hidden or hidden.clear()])
    reader = RunReader(folder)
    assert reader.problems == ()
    assert reader.steps.tolist() == list(range(12))


def test_a_step_is_never_there_twice(tmp_path):
    folder = build(tmp_path / "run")
    other = build(tmp_path / "other", range(6, 10))
    shutil.copy(segments(other)[0], folder / "trajectory")
    reader = RunReader(folder)
    assert reader.steps.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert "00000006-00000009.safetensors repeats steps of 00000004-00000007" in reader.problems[0]


def test_a_damaged_state_is_named(tmp_path):
    with RunWriter.create(tmp_path / "run", {}, fsync=False) as writer:
        writer.save_state(5, {"m": np.arange(4.0)}, {})
    path = tmp_path / "run" / "state" / "00000005.safetensors"
    flip(path, find(path, np.arange(4.0)))
    with pytest.raises(CorruptRunError, match=r"00000005\.safetensors: `m` at step 5 "):
        RunReader(tmp_path / "run").read_state(5)
    assert not RunReader(tmp_path / "run").verify().ok


def finished(folder: Path, shift: int = 0) -> Path:
    """A complete run of three segments with three states; `shift` makes it another one, in files of the same sizes."""
    with RunWriter.create(folder, {"p": 59}, segment_steps=4, fsync=False) as writer:
        for step in range(12):
            writer.append(step, weights(step + 100 * shift))
            writer.log({"step": step, "loss": step + 0.25 + 0.5 * shift})
        for step in (0, 5, 11):
            writer.save_state(step, weights(step), {}, keep=lambda kept: True)
        writer.finish()
    return folder


def drop_lines(path: Path, *, start: int, stop: int | None = None) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[start:stop]
    path.write_bytes(b"".join(lines))


LOSSES = {  # what is done to a complete run, which file is named, and whether it is said as soon as the run is opened
    "the last segment": (lambda run: segments(run)[-1].unlink(), "00000008-00000011.safetensors", True),
    "two segments": (lambda run: [path.unlink() for path in segments(run)[1:]], "00000008-00000011.safetensors", True),
    "all segments": (lambda run: shutil.rmtree(run / "trajectory"), "00000008-00000011.safetensors", True),
    "the last segment, for another run's": (
        lambda run: shutil.copy(segments(finished(run.with_name("other"), 1))[-1], segments(run)[-1]),
        "00000008-00000011.safetensors",
        True,
    ),
    "the metrics": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl", True),
    "first lines": (lambda run: drop_lines(run / "metrics.jsonl", start=0, stop=2), "metrics.jsonl", True),
    "middle lines": (lambda run: drop_lines(run / "metrics.jsonl", start=3, stop=6), "metrics.jsonl", True),
    "last lines": (lambda run: drop_lines(run / "metrics.jsonl", start=10), "metrics.jsonl", True),
    "the metrics, for another run's": (
        lambda run: shutil.copy(finished(run.with_name("other"), 1) / "metrics.jsonl", run),
        "metrics.jsonl",
        False,
    ),
    "a state": (lambda run: (run / "state" / "00000005.safetensors").unlink(), "state/00000005.safetensors", False),
    "all states": (lambda run: shutil.rmtree(run / "state"), "state/00000011.safetensors", False),
}


@pytest.mark.parametrize(("lose", "name", "at_once"), LOSSES.values(), ids=LOSSES)
def test_a_complete_run_that_has_lost_something_is_not_ok(tmp_path, lose, name, at_once):
    folder = finished(tmp_path / "run")
    assert RunReader(folder).problems == ()
    assert RunReader(folder).verify().ok
    lose(folder)
    reader = RunReader(folder)
    assert reader.complete
    assert any(name in problem for problem in reader.problems) == at_once
    report = reader.verify()
    assert not report.ok
    assert any(name in error for error in report.errors)


def test_a_damaged_last_segment_is_named_once(tmp_path):
    folder = finished(tmp_path / "run")
    os.truncate(segments(folder)[-1], 600)
    assert [segments(folder)[-1].name in problem for problem in RunReader(folder).problems] == [True]


def test_what_a_complete_run_holds_is_told_anew_when_it_has_been_added_to(tmp_path):
    folder = finished(tmp_path / "run")
    before = (folder / "run.json").read_bytes()
    with RunWriter.open(folder, fsync=False) as writer:
        for step in range(12):
            writer.append(step, weights(step))  # a proof, which changes nothing
    assert (folder / "run.json").read_bytes() == before
    additions = {
        "weights": lambda writer: writer.append(12, weights(12)),
        "a line": lambda writer: writer.log({"step": 12, "loss": 0.5}),
        "a state": lambda writer: writer.save_state(12, weights(12), {}, keep_last=1),
        "fewer lines": lambda writer: writer.truncate_after(8),
    }
    for what, add in additions.items():
        run = Path(shutil.copytree(folder, tmp_path / what))
        with RunWriter.open(run, fsync=False) as writer:
            add(writer)
        reader = RunReader(run)  # as after a kill: what it holds is sound, but its end has not been told yet
        assert (reader.run, reader.complete, reader.problems) == ({"p": 59}, False, ()), what
        assert reader.verify().ok, what
        with RunWriter.open(run, fsync=False) as writer:
            writer.finish()
        assert RunReader(run).complete, what
        assert RunReader(run).verify().ok, what


@pytest.mark.parametrize("lose", [lambda run: segments(run)[-1].unlink(), lambda run: (run / "metrics.jsonl").unlink()])
def test_a_complete_run_that_has_lost_something_is_not_added_to(tmp_path, lose):
    folder = finished(tmp_path / "run")
    lose(folder)
    said = RunReader(folder).problems
    for act in (
        lambda writer: writer.append(12, weights(12)),
        lambda writer: writer.save_state(12, weights(12), {}),
        RunWriter.finish,
        lambda writer: writer.replace_run({"p": 59}),
    ):
        with pytest.raises(CorruptRunError, match="or train the run again"), RunWriter.open(folder) as writer:
            act(writer)
        assert RunReader(folder).problems == said  # it would be forgotten, had the run been finished once more
    RunWriter.open(folder).close()  # as before it is deleted


def test_a_run_that_says_nothing_of_what_it_holds_is_read(tmp_path):
    folder = build(tmp_path / "run")
    publish(folder / "run.json", [run_json({"p": 59}, complete=True)], fsync=False, replace=True)
    segments(folder)[-1].unlink()  # nobody can tell
    reader = RunReader(folder)
    assert (reader.complete, reader.problems) == (True, ())
    assert reader.verify().ok


def test_verify_warns_of_weights_that_cannot_be_right(tmp_path):
    def walk(step: int) -> dict[str, np.ndarray]:
        return {"w": np.linspace(0, 1, 50, dtype=np.float32) + 0.01 * step}

    def report(name: str, at) -> list[str]:
        with RunWriter.create(tmp_path / name, {}, segment_steps=4, fsync=False) as writer:
            for step in range(20):
                writer.append(step, walk(at(step)))
        found = RunReader(tmp_path / name).verify()
        assert found.ok
        return list(found.warnings)

    assert report("right", lambda step: step) == []
    assert report("jump", lambda step: step + 1000 * (step > 9)) == []  # an intervention stays, a mix-up does not
    assert report("stuck", lambda step: step if step < 3 or step > 9 else 3 + (step == 9)) == [
        "The weights did not change at step 4-8."
    ]
    assert report("mixed", lambda step: 1000 if step == 8 else step) == [
        "Far from both neighbours, which are near each other: step 8."
    ]
    assert report("exchanged", lambda step: {5: 6, 6: 5, 12: 13, 13: 12}.get(step, step)) == [
        "Nearer to the neighbours if they were exchanged: steps 5 and 6, 12 and 13."
    ]
    assert report("stale", lambda step: {11: 3}.get(step, step)) == [
        "The weights are those of an earlier step at step 11 (those of 3)."
    ]
    assert not any("exchanged" in text for text in report("back and forth", lambda step: step + 100 * (step % 2)))


def test_verify_warns_of_exchanged_steps_of_a_random_walk(tmp_path):
    places = np.cumsum(np.random.default_rng(0).standard_normal((40, 500)), 0).astype(np.float32)
    for name, order in (("right", range(40)), ("exchanged", [*range(20), 21, 20, *range(22, 40)])):
        with RunWriter.create(tmp_path / name, {}, segment_steps=7, fsync=False) as writer:
            for step, at in enumerate(order):
                writer.append(step, {"w": places[at]})
    assert RunReader(tmp_path / "right").verify().warnings == ()
    assert RunReader(tmp_path / "exchanged").verify().warnings == (
        "Nearer to the neighbours if they were exchanged: steps 20 and 21.",
    )


# -- the operating system ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["segment", "state", "metrics"])
def test_a_full_disk_tears_nothing(tmp_path, what):
    folder = build(tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    script = f"""
        import resource, signal, sys
        import numpy as np
        from interp.errors import StoreError
        from interp.store import RunWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            with RunWriter.open({str(folder)!r}) as writer:
                if {what!r} == "segment":
                    rng = np.random.default_rng(0)
                    for step in range(12, 1012):
                        w = {{"embed.W_E": np.zeros((7, 5), np.float32), "b": np.zeros(3), "count": np.array(step)}}
                        writer.append(step, w)
                elif {what!r} == "state":
                    writer.save_state(12, {{"m": np.zeros(1000)}}, {{}})
                else:
                    for step in range(12, 1000):
                        writer.log({{"step": step}})
                writer.commit()
        except StoreError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    place = {"segment": "00000012-00000075.safetensors", "state": "00000012.safetensors", "metrics": "metrics.jsonl"}
    assert place[what] in done.stdout, done.stderr
    assert "large" in done.stdout or "full" in done.stdout
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 5000


def test_after_a_failure_nothing_lands_behind_the_gap(tmp_path, monkeypatch):
    writer = RunWriter.create(tmp_path / "run", {}, segment_steps=2, fsync=False)
    link = os.link
    failing = [True]

    def full(source, target):
        if failing.pop() if failing else False:
            raise MemoryError("once")
        link(source, target)

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(MemoryError), writer:  # noqa: PT012
        for step in range(10):
            writer.append(step, weights(step))
    assert not failing
    assert segments(tmp_path / "run") == []
    with RunWriter.open(tmp_path / "run", fsync=False) as writer:  # the lock is free, and all can be repeated
        for step in range(10):
            writer.append(step, weights(step))
    assert RunReader(tmp_path / "run").steps.tolist() == list(range(10))


def test_an_error_inside_the_block_still_commits(tmp_path):
    with pytest.raises(ZeroDivisionError), RunWriter.create(tmp_path / "run", {}, fsync=False) as writer:  # noqa: PT012
        writer.append(0, weights(0))
        _ = 1 / 0
    assert RunReader(tmp_path / "run").steps.tolist() == [0]


def test_without_hard_links(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    folder = build(tmp_path / "run")
    assert RunReader(folder).verify().ok
    with pytest.raises(RunExistsError):
        RunWriter.create(folder, {})


def test_a_committed_file_that_appears_meanwhile_is_compared(tmp_path):
    def write_over(folder: Path, shift: int) -> None:
        with RunWriter.create(folder, {}, segment_steps=4, fsync=False) as writer:
            shutil.copy(segments(twin)[0], folder / "trajectory")
            for step in range(4):
                writer.append(step, weights(step + shift))

    twin = build(tmp_path / "twin")
    write_over(tmp_path / "equal", 0)
    with pytest.raises(CorruptRunError, match=r"00000000-00000003\.safetensors exists"):
        write_over(tmp_path / "other", 1)
    assert segments(tmp_path / "other")[0].read_bytes() == segments(twin)[0].read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_modes_follow_the_umask(tmp_path, umask):
    old = os.umask(umask)
    try:
        folder = build(tmp_path / "run")
    finally:
        os.umask(old)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file() and path.name != "LOCK"}
    assert modes == {0o666 & ~umask}


def test_the_store_needs_no_torch():
    script = "import interp.store, sys; assert not {'torch', 'xarray', 'pandas'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
