"""The public face: names after `import interp`, links and modules that the documents name, and the citation."""

import ast
import importlib
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import interp
from interp.papers.kit.running import figures

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "BENCHMARKS.md", "REPRODUCTIONS.md"]


def rooms():
    """Subpackages and modules directly under `interp` that are not private and not the program."""
    return {module.name for module in pkgutil.iter_modules(interp.__path__)} - {"__main__", "cli"}


def test_every_subpackage_answers():
    assert rooms() == {name for name, home in interp._MODULES.items() if home == f"interp.{name}"}
    for name in rooms():
        assert getattr(interp, name) is importlib.import_module(f"interp.{name}")


def test_the_lists_of_public_names_agree():
    """What `interp` exports, where it is looked up, and what a type checker is told."""
    assert sorted(interp.__all__) == list(interp.__all__) == sorted({*interp._HOMES, *interp._MODULES})
    assert not set(interp._HOMES) & set(interp._MODULES)
    tree = ast.parse((ROOT / "interp" / "__init__.py").read_text())
    (told,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {alias.name: node.module for node in told.body for alias in node.names}
    assert sorted(homes) == list(interp.__all__)
    assert all(f"{homes[name]}.{name}" == home or name == home for name, home in interp._MODULES.items())


def test_every_public_name_is_where_it_is_said_to_be():
    for name, home in interp._HOMES.items():
        module = importlib.import_module(home)
        assert name in module.__all__
        assert getattr(interp, name) is getattr(module, name)


def anchors(text):
    """The fragments by which GitHub links to headings."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text, folder=ROOT):
    wrong = []
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        if not (folder / path).exists() or (anchor and anchor not in anchors((folder / path).read_text())):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    assert broken_links((ROOT / name).read_text()) == []


def test_a_broken_link_is_seen():
    text = "[a](README.md) [b](missing.md) [c](README.md#the-house) [d](README.md#the-cellar) [e](https://example.org)"
    assert broken_links(text) == ["missing.md", "README.md#the-cellar"]


def test_the_changelog_names_modules_that_exist():
    rows = re.findall(r"^\| `interp.*?\| (.*) \|$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        for name in re.findall(r"`(interp\.[\w.]+)`", row):
            assert pkgutil.resolve_name(name) is not None


def test_the_citation_is_that_of_this_version():
    """(Its schema was checked by cffconvert, which the tests do not install.)"""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == project["urls"]["Homepage"]
    cited = " ".join(reference["title"] for reference in citation["references"]).lower()
    for paper in {figure.paper for figure in figures().values()}:
        title = max(re.findall(r"[\w' ]{15,}", paper), key=len).strip()
        assert title.lower() in cited, paper
    assert len(citation["references"]) == len({figure.paper for figure in figures().values()})
