"""Every public name has a door: something in the package, a notebook or a guide uses it, or it is listed below."""

import ast
import importlib
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from interp.errors import NotInstalledError

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "interp"
GUIDES = ["README.md", "CONTRIBUTING.md"]

PUBLIC_API = {
    "interp.cli.main": "the entry point of the command line",
    "interp.tasks.base.split": "for tasks of a user's own",
    "interp.tasks.base.tuples_of": "for tasks of a user's own",
    "interp.tasks.declared.Sequences": "for tasks of a user's own",
    "interp.analysis.certificate.exhaustive_margins": "the margins themselves, to compare a certificate with",
    "interp.papers.*.FIGURE": "looked up by the number of the figure",
    "interp.papers.*.FIGURES": "looked up by the name of the paper",
}
"""Patterns of names that are called from outside or looked up by name, and the reason."""


def module_of(path: Path) -> str:
    """Dotted name of a module of the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__main__.py"}


def public_names(module: str) -> list[str]:
    """Names in `__all__` that the module itself defines."""
    try:
        names = getattr(importlib.import_module(module), "__all__", [])
    except NotInstalledError:
        return []
    tree = ast.parse(MODULES[module].read_text())
    imported = dict(aliases(tree.body))
    return [name for name in names if name not in imported and f"{module}.{name}" not in MODULES]


@cache
def exports(module: str) -> dict[str, str]:
    """Dotted target of each name that a module imports at its top level."""
    return dict(aliases(ast.parse(MODULES[module].read_text()).body))


def aliases(nodes: list[ast.stmt] | Iterator[ast.AST]) -> Iterator[tuple[str, str]]:
    """Local names that import statements bind, and what they stand for."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (first, first)


def home(target: str) -> str:
    """Dotted name of a public name at the module that defines it, through the packages that re-export it."""
    module, _, name = target.rpartition(".")
    if target in MODULES or module not in MODULES:
        return target
    if module == "interp":
        from interp import _HOMES, _MODULES

        return f"{_HOMES[name]}.{name}" if name in _HOMES else _MODULES.get(name, target)
    return home(exports(module)[name]) if exports(module).get(name, target) != target else target


def uses(source: str, module: str = "") -> set[str]:
    """Dotted names, at their homes, that a source looks up: by a bare name or as attributes of a module."""
    tree = ast.parse(source)
    known = dict(aliases(ast.walk(tree)))
    found = set()

    def resolve(node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            return known.get(node.id, f"{module}.{node.id}" if module else None)
        if isinstance(node, ast.Attribute) and (base := resolve(node.value)):
            return home(f"{base}.{node.attr}")
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load) and (target := resolve(node)):
            found.add(home(target))
    return found


def home_of_chain(dotted: str) -> str:
    """Dotted name at its home of a chain of attributes, such as interp.recipes.get."""
    target, *parts = dotted.split(".")
    for part in parts:
        target = home(f"{target}.{part}")
    return target


@cache
def used() -> set[str]:
    """Dotted names that the package, the notebooks, the guides and the tests' guests use."""
    found = {home(f"interp.{name}") for name in importlib.import_module("interp").__all__}
    for module, path in MODULES.items():
        found |= uses(path.read_text(), module)
    for path in [*(ROOT / "notebooks").glob("*.py"), *(ROOT / "tests" / "guests").glob("*.py")]:
        found |= uses(path.read_text())
    for text in [(ROOT / guide).read_text() for guide in GUIDES]:
        found |= {home_of_chain(dotted) for dotted in re.findall(r"\binterp(?:\.\w+)+", text)}
        for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
            found |= uses(block)
    return found


@pytest.mark.parametrize("module", [module for module in MODULES if module != "interp"])
def test_every_public_name_is_used(module):
    unused = {f"{module}.{name}" for name in public_names(module)} - used()
    unused = {name for name in unused if not any(fnmatch(name, pattern) for pattern in PUBLIC_API)}
    assert unused == set(), "give it a door (a measure, a panel, a notebook), or delete it"


def test_uses_are_seen():
    assert "interp.analysis.spectra.gini" in uses("from interp.analysis import spectra\nspectra.gini(x)")
    assert "interp.analysis.spectra.gini" in uses("from interp.analysis.spectra import gini as g\ng(x)")
    assert "interp.analysis.measures.measure" in uses("import interp\ninterp.measure(x)")
    assert "interp.analysis.spectra.gini" in uses("def other():\n    gini(3)\n", "interp.analysis.spectra")
    assert "interp.analysis.spectra.gini" not in uses("from interp.analysis.spectra import gini")
    assert "interp.analysis.spectra.gini" not in uses("def gini(x): ...", "interp.analysis.spectra")
