"""What is stored of a notebook: a .py source and the .ipynb that jupytext makes of it, without outputs.

That they run is checked by `make notebooks`, at toy scale.
"""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))
LARGEST = 200_000  # bytes; a figure that was left in is larger

# A path from the root of a disk, from a home folder, or with a drive letter. A URL has its "//" before the name.
ABSOLUTE = re.compile(r"""(?<![\w.:/~])(/(home|Users|root|tmp|work|mnt|opt|usr|var|content)\b|~/|[A-Z]:\\)""")


def notebook_of(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def source(request):
    return request.param


def test_every_notebook_has_its_source():
    assert SOURCES
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == [path.stem for path in SOURCES]


def test_the_pair_has_the_same_cells(source):
    assert cells(notebook_of(source)) == cells(jupytext.read(source)), (
        f"{source.stem}.ipynb is not what jupytext makes of its source: jupytext --sync notebooks/{source.name}"
    )


def test_jupyterlab_keeps_them_paired(source):
    assert notebook_of(source).metadata["jupytext"]["formats"] == "ipynb,py:percent"


def test_nothing_was_run(source):
    for cell in notebook_of(source).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_small(source):
    assert source.with_suffix(".ipynb").stat().st_size < LARGEST


def test_no_absolute_path(source):
    for path in (source, source.with_suffix(".ipynb")):
        assert ABSOLUTE.search(path.read_text()) is None


def test_an_absolute_path_is_seen():
    for text in ('Path("/home/me/run")', "see /tmp/x", r'open("C:\\run")', "cd ~/run"):
        assert ABSOLUTE.search(text)
    for text in ("https://example.org/home/x", '"../checkpoints"', "a/b", r"2\pi k t/p"):
        assert not ABSOLUTE.search(text)


def test_they_run_at_both_scales(source):
    text = source.read_text()
    assert 'os.environ.get("INTERP_NOTEBOOK_SCALE", "full") == "toy"' in text
    assert re.search(r"^assert ", text, re.M), "a notebook asserts what it says"
