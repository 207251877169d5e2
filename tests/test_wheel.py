"""A wheel built from the checkout holds the whole package, and works where the checkout is not."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command, cwd, timeout=240):
    """A command without our PYTHONPATH; what it printed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built offline by the backend that pip would use."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A virtual environment with the wheel, which finds the dependencies, but not the checkout, in ours."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # a path in a .pth file: the .pth files in there, such as that of an editable installation, are not read
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    where = run(python, "-c", "import interp; print(interp.__file__)", cwd=folder).strip()
    assert Path(where) == packages / "interp" / "__init__.py"
    return folder


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel):
    paths = (path for path in (ROOT / "interp").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    files = {path.relative_to(ROOT).as_posix() for path in paths}
    assert contents(wheel) == files
    assert {"interp/py.typed", *(f"interp/reporting/page.{ending}" for ending in ("html.jinja", "css", "js"))} <= files


def test_its_metadata_say_where_the_project_lives(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    links = dict(link.split(", ") for link in metadata.get_all("Project-URL"))
    assert {"Homepage", "Documentation", "Changelog", "Issues"} <= set(links)
    assert len({link.split("/blob/")[0].removesuffix("/issues") for link in links.values()}) == 1
    for link in links.values():
        if "/blob/main/" in link:
            assert (ROOT / link.split("/blob/main/")[1]).is_file(), link
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata["License-Expression"] == "MIT"


def test_it_trains_and_reports_where_the_checkout_is_not(installed, tmp_path):
    interp = installed / "bin" / "interp"
    small = "--task.p 7 --model.d-model 16 --model.n-heads 2 --model.d-head 8 --model.d-mlp 24 --steps 20 --device cpu"
    run(interp, "train", "kitouni-circle", *small.split(), cwd=tmp_path)
    (folder,) = (tmp_path / "checkpoints").iterdir()
    run(interp, "report", folder, cwd=tmp_path)
    page = (folder / "report.html").read_text()
    for ending in ("css", "js"):  # the page holds the style and the script of the template
        assert (ROOT / "interp" / "reporting" / f"page.{ending}").read_text()[:200] in page


@pytest.mark.slow
def test_the_demo_runs_from_it(installed, tmp_path):
    said = run(installed / "bin" / "interp", "demo", "--device", "cpu", cwd=tmp_path, timeout=600)
    assert "report.html" in said
    (report,) = tmp_path.glob("checkpoints/*/report.html")
    assert report.stat().st_size > 1_000_000
