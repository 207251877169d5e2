"""The worked examples of CONTRIBUTING.md run as they stand, in one folder, one after the other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
FILES = {found[1]: block for block in BLOCKS if (found := re.match(r"# file: (\w+\.py)\n", block))}
SCRIPT = "\n".join(block for block in BLOCKS if block not in FILES.values())
SHORT = ('"steps": 600', '"steps": 60')


def run(*command, cwd):
    paths = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of someone who has typed all examples, and run them."""
    folder = tmp_path_factory.mktemp("study")
    for name, block in FILES.items():
        (folder / name).write_text(block)
    assert SHORT[0] in SCRIPT
    (folder / "study.py").write_text(SCRIPT.replace(*SHORT) + CHECKS)
    (folder / "printed").write_text(run("study.py", cwd=folder))
    return folder


CHECKS = """
    assert traj.complete and table.dims == ("step", "token", "d_model")
    assert data.von_neumann_ratio.dims == ("step",) and 1.5 < data.von_neumann_ratio[0] < 2.5
    assert {"train_loss", "test_accuracy", "von_neumann_ratio"} <= set(interp.measure(traj, None)) | set(data)
    assert figure.data and again.complete and best.accuracy == float(again.metrics.test_accuracy.max())
    assert recorded.complete and recorded.task.operation == "subtract" and circle.data
    assert "order-of-numbers" in path.read_text() and "Order of the numbers" in path.read_text()
    assert gradients.test_gradient_norm.dims == ("step",) and (gradients.test_gradient_norm > 0).all()
    print(traj.folder)
    assert [verdict.verdict for verdict in done.verdicts] != ["not testable here"]
"""


def test_there_is_one_of_each():
    headings = re.findall(r"^### (.*)$", TEXT, flags=re.MULTILINE)
    assert headings == ["A task", "A model", "A loop", "A measure", "An observer", "A panel", "A figure of a paper"]
    for heading in headings:
        (section,) = re.findall(rf"^### {heading}\n(.*?)(?=^##)", TEXT, flags=re.MULTILINE | re.DOTALL)
        assert "# file: " in section
        assert "*Built in*: " in section


def test_the_examples_run(folder):
    printed = (folder / "printed").read_text()
    assert re.search(r"test accuracy [\d.]+% at step \d+", printed)
    assert re.search(r"measured [\d.]+, expected <= 1", printed)


def test_a_run_is_loaded_with_the_import_and_refused_without(folder):
    stored = (folder / "printed").read_text().splitlines()[-1]
    look = f"import interp; print(interp.load({stored!r}).config.task)"
    assert "Larger" in run("-c", f"import larger, bag; {look}", cwd=folder)
    wrong = subprocess.run([sys.executable, "-c", look], cwd=folder, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "`import larger`" in wrong.stderr.splitlines()[-1]
    words = ["-m", "interp", "--import", "larger", "--import", "bag", "measure", stored, "test_loss"]
    assert "test_loss" in run(*words, cwd=folder)


def test_the_examples_are_formatted(folder):
    for name in FILES:
        run("-m", "ruff", "check", "--quiet", "--select", "E,F,W", "--line-length", "120", name, cwd=folder)
        run("-m", "ruff", "format", "--check", "--quiet", "--line-length", "120", name, cwd=folder)
