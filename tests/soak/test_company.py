"""Several processes at one run: one writer, any number of readers, and no wrong number; also where locks do nothing."""

import errno
import fcntl
import json
import os
import random
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from interp.errors import InterpError, RunLockedError, StoreError, UnknownNameError
from interp.store import RunReader, RunWriter
from tests.soak.scale import SOAK, scaled, seed
from tests.soak.work import CONFIGS, PLACE, WORKS, answer, fresh, outcome, runs_below, sound

SECONDS = scaled(5, 60)


# --- four readers and a writer that is killed -------------------------------------------------------------------------


def weights(step: int) -> dict[str, np.ndarray]:
    """Arrays that are a pure function of the step."""
    return {"w": np.full((30, 20), step + 0.25, np.float32), "b": np.arange(step, step + 3.0)}


def write(folder: str) -> None:
    """Work of a child: write steps, metrics, states and run.json until killed, going on from the last state."""
    place = Path(folder)
    begun = (place / "run.json").exists()
    settings = {"segment_steps": 3, "fsync": False}
    with RunWriter.open(place, **settings) if begun else RunWriter.create(place, {"p": 59}, **settings) as writer:
        first = max(RunReader(place).state_steps, default=0)
        writer.truncate_after(first)
        draw = random.Random(first)
        for step in range(first, 10**9):
            writer.append(step, weights(step))
            writer.log({"step": step, "loss": step / 3, "other": -step})
            if step % 20 == 10:
                writer.save_state(step, weights(step), {"at": str(step)}, keep=lambda state: state % 500 == 10)
                time.sleep(0.002)
            if draw.random() < 0.01:
                writer.replace_run({**writer.run, "at": step})


def read(folder: str, seconds: float, number: int) -> None:
    """Work of a child: read at random and compare, for some seconds; prints how much."""
    place, draw, end = Path(folder), random.Random(number), time.monotonic() + seconds
    reads = states = opened = logs = 0
    reader, seen = RunReader(place), 0
    while time.monotonic() < end:
        if draw.random() < 0.3:
            reader = RunReader(place, verify=draw.choice(("first", "always", "never")))
            opened += 1
        else:
            reader.refresh()
        assert reader.problems == (), reader.problems
        assert reader.run["p"] == 59
        assert reader.steps.tolist() == list(range(len(reader.steps)))
        assert len(reader.steps) >= seen, "a checkpoint has vanished"
        seen = len(reader.steps)
        for _ in range(20 if seen else 0):
            step = draw.randrange(seen)
            assert all(np.array_equal(reader.read(name, step), array) for name, array in weights(step).items()), step
            reads += 1
        if seen:
            start = draw.randrange(seen)
            some = reader.read("w", slice(start, start + 50))
            assert (some == np.arange(start, start + len(some), dtype=np.float32)[:, None, None] + 0.25).all()
        columns = reader.metrics
        if len(columns["step"]):
            assert columns["step"].tolist() == list(range(len(columns["step"])))
            assert np.array_equal(columns["loss"], columns["step"] / 3)
            assert np.array_equal(columns["other"], -columns["step"])
            logs += 1
        for step in reader.state_steps[-2:]:
            try:
                arrays, metadata = reader.read_state(step)
            except (UnknownNameError, StoreError):  # deleted meanwhile, as it should be
                assert step not in reader.state_steps
                continue
            assert metadata == {"at": str(step)}
            assert all(np.array_equal(arrays[name], array) for name, array in weights(step).items())
            states += 1
        if draw.random() < 0.02:
            report = reader.verify()
            assert report.errors == (), report.errors
    print(json.dumps({"reads": reads, "opened": opened, "states": states, "metrics": logs}))


def test_readers_of_a_run_that_is_written_and_killed_see_no_wrong_number(zygote, tmp_path):
    draw, folder = random.Random(seed()), tmp_path / "run"
    RunWriter.create(folder, {"p": 59}, fsync=False).close()
    readers = [zygote.start("tests.soak.test_company:read", str(folder), SECONDS, number) for number in range(4)]
    kills = 0
    while not readers[0].ended(0):
        writer = zygote.start("tests.soak.test_company:write", str(folder))
        writer.ended(draw.uniform(0.05, 1.0))
        writer.kill()
        assert writer.wait() == -9, writer.said()
        kills += 1
    for reader in readers:
        assert reader.wait() == 0, reader.said()
    found = [answer(reader.said()) for reader in readers]
    total = {name: sum(one[name] for one in found) for name in found[0]}
    assert all(total.values()), total
    print(f"{total} by four readers in {SECONDS} s, while a writer was killed {kills} times")
    RunWriter.open(folder).close()
    assert RunReader(folder).verify().errors == ()


# --- the same work twice at once --------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_changes_nothing(zygote, tmp_path):
    folder = tmp_path / CONFIGS["transformer"].run_id
    with RunWriter.create(folder, {"config": CONFIGS["transformer"].to_dict()}, fsync=False) as writer:
        writer.append(0, weights(0))
        writer.commit()
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for name in ("resume", "delete"):
            said = answer(zygote.call("tests.soak.test_company:intrude", name, str(tmp_path)))
            assert said == "RunLockedError", name
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        writer.append(1, weights(1))
    assert RunReader(folder).steps.tolist() == [0, 1]


def intrude(what: str, root: str) -> None:
    """Work of a child: continue or overwrite a run that another process writes; prints the kind of the error."""
    from interp.training.api import train

    try:
        train(CONFIGS["transformer"], root=root, existing="resume" if what == "resume" else "overwrite", **PLACE)
    except InterpError as error:
        print(json.dumps(type(error).__name__))


def test_work_of_all_kinds_twice_at_once(zygote, tmp_path):
    """Reading work is done by both; of writing work one may be refused, with the error that says so."""
    for name in WORKS if SOAK else ("measure --output", "report", "sweep", "transformer"):
        source = tmp_path / f"{name} source"
        source.mkdir()
        if WORKS[name].source:
            zygote.call("tests.soak.work:work", WORKS[name].source, str(source))
        alone = fresh(source, tmp_path / f"{name} alone", name)
        said, want = answer(zygote.call("tests.soak.work:work", name, str(alone))), outcome(alone)
        draw = random.Random(f"{seed()} {name}")
        for trial in range(scaled(1, 40)):
            root = fresh(source, tmp_path / f"{name} {trial}", name)
            pair = []
            for _ in range(2):
                pair.append(zygote.start("tests.soak.test_company:attempt", name, str(root)))
                pair[0].ended(draw.uniform(0, 0.1))
            for child in pair:
                assert child.wait() == 0, child.said()
            ends = [answer(child.said()) for child in pair]
            done = [end for end in ends if "done" in end]
            refused = [end["refused"] for end in ends if "done" not in end]
            assert all(end["done"] == said["said"] for end in done), (name, ends)
            assert set(refused) <= {"RunLockedError", "RunExistsError"}, (name, ends)
            if name in ("measure", "measure --output", "report", "sweep"):
                assert len(done) == 2, (name, ends)
            zygote.call("tests.soak.work:work", name, str(root))
            assert outcome(root) == want, name
            assert [error for folder in runs_below(root) for error in sound(folder)] == [], name


def attempt(name: str, root: str) -> None:
    """Work of a child: do a piece of work, or print the kind of the error."""
    try:
        said = WORKS[name].do(Path(root))
    except InterpError as error:
        print(json.dumps({"refused": type(error).__name__, "why": str(error)}))
    else:
        print(json.dumps({"done": said}))


# --- locks that fail or do nothing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_named(number, tmp_path):
    """A run is not written where no lock can be had, and the reason is not said to be another writer."""
    folder = tmp_path / "run"
    RunWriter.create(folder, {"p": 59}, fsync=False).close()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def fails(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    with patch.object(fcntl, "flock", fails):
        with pytest.raises(StoreError, match=r"LOCK cannot be locked: .*flock") as error:
            RunWriter.open(folder)
        assert not isinstance(error.value, RunLockedError)
        assert "another process" not in str(error.value)
        assert "\n" not in error.value.args[0]
        assert RunReader(folder).verify().ok
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    RunWriter.open(folder).close()


def without_locks(name: str, root: str) -> None:
    """Work of a child: do a piece of work where locks always succeed."""
    with patch.object(fcntl, "flock", lambda handle, operation: None):
        attempt(name, root)


@pytest.mark.parametrize("name", ["transformer", "ensemble"])
def test_where_locks_do_nothing_two_writers_end_in_an_error_or_in_the_right_run(name, zygote, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    zygote.call("tests.soak.work:work", name, str(alone))
    want, draw = outcome(alone), random.Random(f"{seed()} {name}")
    ends = {"right": 0, "refused": 0}
    for trial in range(scaled(2, 100)):
        root = tmp_path / str(trial)
        root.mkdir()
        pair = []
        for _ in range(2):
            pair.append(zygote.start("tests.soak.test_company:without_locks", name, str(root)))
            pair[0].ended(draw.uniform(0, 0.2))
        for child in pair:
            assert child.wait() == 0, child.said()
        if any(sound(folder) for folder in runs_below(root)):
            ends["refused"] += 1  # it is said that the run is not sound
            continue
        try:
            WORKS[name].do(root)
        except InterpError:
            ends["refused"] += 1
        else:
            assert outcome(root) == want
            ends["right"] += 1
    print(ends)
