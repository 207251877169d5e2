"""The program as a process: it prints under any locale, and a signal at any time ends it in one line."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from interp.cli.commands import COMMANDS
from tests.soak.scale import scaled, seed

ROOT = Path(__file__).parent.parent
PLAIN = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Environment in which Python writes ASCII."""

# --- characters -------------------------------------------------------------------------------------------------------


def program(words, **environment):
    """The program with its output in a pipe, as bytes."""
    return subprocess.run(
        [sys.executable, "-m", "interp", *words], env={**os.environ, **environment}, capture_output=True, check=False
    )


def test_every_help_is_printed_where_only_ascii_is(tmp_path):
    """One process for all: starting one for each would take most of a minute."""
    script = """
        import os, sys
        from interp.cli import main
        from interp.cli.commands import COMMANDS

        for words in [[], ["--help"], ["train"], ["train", "nanda", "--help"], ["recipes"], ["measure", "--list"],
                      *([name, "--help"] for name in COMMANDS)]:
            print("###", *words, flush=True)
            try:
                main(words)
            except SystemExit as end:
                assert not end.code, words
    """
    with open(tmp_path / "printed", "wb") as file:
        command = [sys.executable, "-c", textwrap.dedent(script)]
        done = subprocess.run(command, env={**os.environ, **PLAIN}, stdout=file, stderr=subprocess.PIPE, check=False)
    printed = (tmp_path / "printed").read_bytes()
    assert (done.returncode, done.stderr) == (0, b"")
    parts = re.split("^### ?", printed.decode("ascii"), flags=re.MULTILINE)
    assert len(parts) == 1 + 6 + len(COMMANDS)
    assert all(len(part.splitlines()) > 3 for part in parts[1:])


@pytest.mark.parametrize("environment", [PLAIN, {"PYTHONIOENCODING": "ascii"}], ids=["locale", "PYTHONIOENCODING"])
def test_the_first_help_is_printed_in_ascii(environment):
    done = program(["--help"], **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert done.stdout.startswith(b"usage: interp ")


def test_runs_are_looked_at_where_only_ascii_is(toy_run, tmp_path):
    """In a folder whose name is no ASCII, and that no encoding has."""
    root = tmp_path / "größe" / os.fsdecode(b"\xff")
    folder = root / toy_run.folder.name
    shutil.copytree(toy_run.folder, folder)
    script = """
        import sys
        from interp.cli import main

        root, run = sys.argv[1:]
        for words in [["list", root], ["verify", run], ["measure", run, "train_loss"],
                      ["resume", run], ["list", root + "/nowhere"]]:
            try:
                main(words)
            except SystemExit as end:
                assert end.code == (2 if "nowhere" in words[1] else 0), words
    """
    command = [sys.executable, "-c", textwrap.dedent(script), root, folder]
    done = subprocess.run(command, env={**os.environ, **PLAIN}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert os.fsencode(folder) in done.stdout  # the bytes that the folder's name has


# --- signals ----------------------------------------------------------------------------------------------------------


def entry_points():
    """The program's commands: the module, and as the installed script calls it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    module, function = tomllib.loads(text)["project"]["scripts"]["interp"].split(":")
    script = f"import sys; from {module} import {function}; sys.argv[0] = 'interp'; sys.exit({function}())"
    return [[sys.executable, "-m", "interp"], [sys.executable, "-c", script]]


def takes_signals(pid):
    """Whether a process has a handler of SIGTERM, as the program has from its first line on."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), re.MULTILINE)
    return bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def interrupted(command, signum, delay):
    """Exit code and errors of a program that gets a signal so many seconds after it takes signals."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        while process.poll() is None and not takes_signals(process.pid):
            time.sleep(0.0005)
        time.sleep(delay)
        process.send_signal(signum)
        err = process.communicate(timeout=60)[1]
    return process.returncode, err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_while_the_program_starts_ends_it_in_one_line(signum, toy_run):
    """Imports take a second or two, and every moment of them is as likely."""
    draws = random.Random(seed() + signum)
    words = ["measure", str(toy_run.folder), "train_loss", "weight_norm"]
    cases = [
        ([*entry_points()[i % 2], *words], signum, draws.choice([0.0, draws.uniform(0, 0.3), draws.uniform(0, 2.5)]))
        for i in range(scaled(5, 100))
    ]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda case: interrupted(*case), cases))
    for (command, _, delay), (code, err) in zip(cases, found):
        lines = [line for line in err.splitlines() if line.strip() and "measuring" not in line]  # without the bar
        said = (code, lines, command[1], delay)
        assert code in (130, 0, -signal.SIGTERM), said  # 0: it was done; SIGTERM at the very end has nothing to say
        assert lines == (["interp: Interrupted."] if code == 130 else []), said
    assert sum(code == 130 for code, _ in found) >= len(found) // 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda signum: signum.name)
def test_a_signal_that_was_ignored_stays_ignored(signum):
    """As a shell ignores Ctrl-C for what it starts in the background."""
    script = """
        import os, signal, sys
        import interp.cli
        from interp.__main__ import run
        from interp.training.environment import interruptible

        signum = int(sys.argv[1])

        def main():
            os.kill(os.getpid(), signum)
            with interruptible() as received:
                os.kill(os.getpid(), signum)
            print(received)

        signal.signal(signum, signal.SIG_IGN)
        interp.cli.main = main
        run()
        os.kill(os.getpid(), signum)
        print(signal.getsignal(signum) is signal.SIG_IGN)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(int(signum))]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["[]", "True"], "")


def test_ctrl_c_while_workers_start_ends_them_quietly(tmp_path):
    """A terminal sends it to all processes of the group, and worker processes import for a second."""
    words = ["sweep", "kitouni-circle", "seed=0,1", "--root", str(tmp_path), "--workers", "2", "--device", "cpu"]
    command = [*entry_points()[0], *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True
    ) as process:
        while len(children(process.pid)) < 3:  # the workers, and Python's tracker of their resources
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    assert "Traceback" not in err, err
    assert err.splitlines()[-1].startswith("interp: Interrupted; 0 of 2 runs are done.")


def children(pid):
    """Processes that the threads of a process have started."""
    listed = (path.read_text(encoding="utf-8") for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return " ".join(listed).split()
