"""Ctrl-C and SIGTERM at any moment end with one line, SIGUSR2 as a kill does; each is resumed to the same end."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback

import pytest

from interp.store import RunReader
from tests.soak.scale import scaled, seed
from tests.soak.work import outcome, runs_below, sound
from tests.soak.zygote import ONE_THREAD, ROOT

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
SENT = scaled(3, 60)
"""Times that each is sent in the middle of runs."""
WORDS = [
    "train", "kitouni-circle", "--task.p", "5", "--task.train-fraction", "0.6", "--model.d-model", "8",
    "--model.n-heads", "2", "--model.d-head", "4", "--model.d-mlp", "8", "--steps", "150", "--save.state", "every(30)",
    "--log.test", "every(5)", "--device", "cpu", "--threads", "1",
]  # fmt: skip


def command(words: list[str]) -> None:
    """Work of a child: one command of the program."""
    from interp.cli import main

    try:
        main(words)
    except KeyboardInterrupt as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is None:
            raise  # the signal came before the command
        traceback.print_exc()
        sys.exit(1)


def check_words(status: int, signum: int, said: str) -> None:
    """Demand the exit code of a signal, and one line that says what to do; SIGUSR2 ends a process as SIGKILL does."""
    assert "Traceback" not in said, said
    if status == 0 or signum == signal.SIGUSR2:
        assert status in (0, -signum), said
        return
    assert status in (130, -signum), said
    if status == 130:
        assert said.splitlines()[-1].startswith("interp: Interrupted"), said


@pytest.fixture(scope="module")
def whole(zygote, tmp_path_factory):
    """Folder of the run that is not disturbed, and the seconds that it takes."""
    root = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    zygote.call("tests.soak.test_signals:command", [*WORDS, "--root", str(root)])
    return outcome(root), time.monotonic() - began


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_signal_at_any_moment_of_a_run(signum, zygote, whole, tmp_path):
    draw, (want, seconds) = random.Random(f"{seed()} {signum}"), whole
    sent, root = 0, tmp_path / "runs"
    while sent < SENT:
        shutil.rmtree(root, ignore_errors=True)
        while True:
            child = zygote.start("tests.soak.test_signals:command", [*WORDS, "--root", str(root)])
            if sent < SENT:
                child.ended(draw.uniform(0, seconds))
                child.kill(signum)
                sent += 1
            status = child.wait()
            check_words(status, signum, child.said())
            if status == 0:
                break
            for folder in runs_below(root):
                assert sound(folder) == []
                if status == 130 and "at step" in child.said():  # all that was computed is there
                    stopped = int(child.said().rpartition("at step ")[2].partition(";")[0])
                    assert RunReader(folder).state_steps[-1] == stopped
        assert outcome(root) == want


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_signal_while_the_program_starts(signum, whole, zygote, tmp_path):
    draw, (want, _) = random.Random(f"{seed()} {signum}"), whole
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    for trial in range(scaled(1, 8)):
        root = tmp_path / str(trial)
        process = subprocess.Popen(
            [sys.executable, "-m", "interp", *WORDS, "--root", str(root)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background ignores it
        )  # fmt: skip
        time.sleep(draw.uniform(0.3, 3.0))
        process.send_signal(signum)
        said, _ = process.communicate(timeout=120)
        check_words(process.returncode, signum, said)
        zygote.call("tests.soak.test_signals:command", [*WORDS, "--root", str(root)])
        assert outcome(root) == want
