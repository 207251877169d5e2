"""Any system call of a commit may fail, or be the last: the error is typed, nothing acknowledged is lost, and the same
work done again ends as if nothing had happened."""

import errno
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from interp.errors import InterpError
from interp.store import RunReader
from tests.soak.commits import check_promises, commit_everything, contents
from tests.soak.faults import Fault, failing
from tests.soak.scale import SOAK, scaled, seed
from tests.soak.work import WORKS, answer, fresh, outcome, runs_below, sound
from tests.soak.zygote import Zygote

ERRORS = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EINTR, errno.EDQUOT)


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Files are not synced in this process: a kill is survived all the same, and tests are ten times as fast."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Contents of the run that is not disturbed, and its calls."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with failing(folder.parent) as calls:
        commit_everything(folder, {})
    return contents(folder), calls


def cases(calls):
    """Numbers and manners of faults: all in a soak, else each call once, by turns before and after it."""
    ways = [(nth, error, after) for nth in range(1, len(calls) + 1) for error in ERRORS for after in (False, True)]
    return ways if SOAK else [ways[10 * i + (3 * i) % 10] for i in range(len(calls))]


def test_any_call_of_a_commit_may_fail(whole, tmp_path):
    want, calls = whole
    wrong = []
    for nth, error, after in cases(calls):
        with tempfile.TemporaryDirectory(dir=tmp_path) as place:
            folder, promised = Path(place) / "run", dict[str, int]()
            fault = Fault(nth, error, after)
            try:
                with failing(folder.parent, fault):
                    commit_everything(folder, promised)
            except OSError as raised:
                if not isinstance(raised, InterpError) or "\n" in raised.args[0]:
                    wrong.append(f"{fault}, {calls[nth - 1]}: {type(raised).__name__}: {raised}")
            check_promises(folder, promised)
            commit_everything(folder, {}, begun=(folder / "run.json").exists())
            assert contents(folder) == want, f"{fault}, {calls[nth - 1]}"
            assert RunReader(folder).verify().ok, f"{fault}, {calls[nth - 1]}"
    assert wrong == [], "\n".join(wrong)


def test_any_call_of_a_commit_may_be_the_last(whole, tmp_path):
    want, calls = whole
    with Zygote(("tests.soak.commits",)) as light:
        for nth, after in sorted({(nth, after) for nth, _, after in cases(calls)}):
            folder, notes = tmp_path / f"{nth}-{after}" / "run", tmp_path / f"{nth}-{after}.json"
            folder.parent.mkdir()
            child = light.start("tests.soak.commits:killed", str(folder), str(notes), nth, after)
            assert child.wait() == -9, child.said()
            check_promises(folder, json.loads(notes.read_text()) if notes.exists() else {})
            commit_everything(folder, {}, begun=(folder / "run.json").exists())
            assert contents(folder) == want, f"{calls[nth - 1]}, call {nth}"
            assert RunReader(folder).verify().ok


@pytest.mark.parametrize("name", WORKS if SOAK else ("transformer", "ensemble"))
def test_any_call_of_a_whole_run_may_fail(name, zygote, tmp_path):
    draw = random.Random(f"{seed()} {name}")
    source = tmp_path / "source"
    source.mkdir()
    if WORKS[name].source:
        zygote.call("tests.soak.work:work", WORKS[name].source, str(source))
    root = fresh(source, tmp_path / "undisturbed", name)
    calls = answer(zygote.call("tests.soak.work:work", name, str(root)))["calls"]
    want, before = outcome(root), outcome(fresh(source, tmp_path / "before", name))
    cases = [(nth, error, draw.random() < 0.5) for nth in range(1, calls + 1) for error in ERRORS]
    for nth, error, after in cases if SOAK else draw.sample(cases, 4):
        fault = Fault(nth, error, after)
        root = fresh(source, tmp_path / "attacked", name)
        said = answer(zygote.call("tests.soak.work:attempt", name, str(root), nth, error, after))
        assert not said["raised"] or "InterpError" in said["raised"], f"{fault}: {said}"
        assert "\n" not in said["text"], f"{fault}: {said}"
        for folder in runs_below(root):
            assert sound(folder) == [], fault
        now = outcome(root)
        assert all(now[kept] in (old, want[kept]) for kept, old in before.items()), fault
        zygote.call("tests.soak.work:work", name, str(root))
        assert outcome(root) == want, fault


# --- the kernel's calls -----------------------------------------------------------------------------------------------


def wait_and_work(name: str, root: str, go: str) -> None:
    """Work of a child: wait until a file is there, then do a piece of work; prints whether an error was typed."""
    while not Path(go).exists():
        time.sleep(0.001)
    try:
        WORKS[name].do(Path(root))
    except InterpError as raised:
        if "\n" in raised.args[0]:
            raise


def traced(zygote, name: str, root: Path, folder: Path, rule: str) -> tuple[int, str]:
    """Exit status and words of a child whose calls are tampered with by `rule` once it works."""
    go, log = folder / "go", folder / "log"
    go.unlink(missing_ok=True)
    child = zygote.start("tests.soak.test_faults:wait_and_work", name, str(root), str(go))
    words = ["strace", "-f", "-p", str(child.pid), "-o", str(log), "-e", f"trace={rule.partition(':')[0]}"]
    with subprocess.Popen([*words, "-e", f"inject={rule}"], stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        if "attached" not in (said := strace.stderr.readline()):
            child.kill()
            child.wait()
            pytest.skip(f"strace must not attach to a process here: {said}")
        go.touch()
        status = child.wait()
        strace.wait(30)
    return status, child.said()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("name", ["transformer", "ensemble"])
@pytest.mark.parametrize(
    "call", ["fsync", "link", "rename", "unlink", "ftruncate", "mkdir", "write", "flock", "openat"]
)
def test_any_call_of_the_kernel_may_fail(call, name, zygote, tmp_path):
    empty, alone = tmp_path / "empty", tmp_path / "undisturbed"
    empty.mkdir()
    alone.mkdir()
    zygote.call("tests.soak.work:work", name, str(alone))
    want, hits = outcome(alone), 0
    errors = ("error=EIO", "error=ENOSPC", "error=EINTR", "signal=KILL")
    if call == "openat":  # reading modules, too
        errors = ("signal=KILL",)
    elif call == "write":  # Python repeats what was interrupted
        errors = ("error=EIO", "error=ENOSPC", "signal=KILL")
    for nth in [*range(1, scaled(3, 25)), *range(25, scaled(25, 200), 9)]:
        for error in errors:
            root = fresh(empty, tmp_path / "attacked", name)
            status, said = traced(zygote, name, root, tmp_path, f"/^{call}:{error}:when={nth}")
            assert status in (0, -9), f"{call} {error} {nth}: {said}"
            hits += "INJECTED" in (tmp_path / "log").read_text() or status == -9
            for folder in runs_below(root):
                assert sound(folder) == [], f"{call} {error} {nth}"
            zygote.call("tests.soak.work:work", name, str(root))
            assert outcome(root) == want, f"{call} {error} {nth}"
    print(f"{call}: {hits} calls of {name} tampered with")
    assert hits
