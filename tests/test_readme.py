"""The README's Python tour runs as it stands, and its picture of the house is the one that is enforced."""

import re
import subprocess
import sys
from pathlib import Path

from tests.test_architecture import LINE_OF

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_tour_runs(tmp_path):
    (tour,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert 10 <= sum(bool(line.strip()) for line in tour.splitlines()) <= 11  # an import and ten lines
    shrink = '"model.d_model": 32, "model.d_head": 8, "model.d_mlp": 64, "steps": 450'
    assert '"steps": 1500' in tour
    tour = tour.replace('"steps": 1500', shrink).replace("traj.model(1500)", "traj.model(450)")
    tour = tour.replace("progress=True", "progress=False")
    code = tour + "\nassert path.is_file() and len(zoom.steps) == 21 and figure.data and logits.shape == (529, 23)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_the_picture_of_the_house_is_true():
    (picture,) = re.findall(r"lines above it\.\n\n(.*?)\n\n", README, flags=re.DOTALL)
    drawn = [re.match(r" *((?:\w+ {1,2})*\w+)(?= {3}|$)", line)[1].split() for line in picture.splitlines()]
    assert sorted(sum(drawn, ["__main__"])) == sorted(LINE_OF)
    numbers = [LINE_OF[name] for line in drawn for name in line]
    assert numbers == sorted(numbers)  # nothing is drawn above a line that it stands below


def test_commands_named_exist():
    from interp.cli.commands import COMMANDS

    assert set(re.findall(r"^interp (\w+)", README, flags=re.MULTILINE)) <= set(COMMANDS)
    targets = set(re.findall(r"`?make (\w+)", README))
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_the_tests_that_security_names_exist():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/.]+)`", text)
    assert len(named) > 4
    assert all((ROOT / path).exists() for path in named)
