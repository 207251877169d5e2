"""Declared lowest versions fit together; `make test-lowest` installs and tries them, which takes minutes."""

import re
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.versions.lowest import declared, lowest

ROOT = Path(__file__).parent.parent


def lows():
    """Lowest declared version of each dependency."""
    return dict(pin.split("==") for pin in lowest(declared()))


def test_each_dependency_has_a_lowest_version():
    assert lowest(["transformer-lens>=4,<5", "dask[distributed]>=2024.9"]) == ["transformer-lens==4", "dask==2024.9"]
    assert len(lows()) == len(declared())
    with pytest.raises(ValueError, match="`plotly` must have a lowest version"):
        lowest(["plotly"])


@pytest.mark.parametrize("name", sorted(lows()))
def test_the_lowest_versions_are_those_that_dependencies_take(name):
    """As far as the installed ones tell: what transformer-lens needs is declared here no lower."""
    for other in map(Requirement, requires(name) or []):
        if other.name in lows() and (other.marker is None or other.marker.evaluate({"extra": ""})):
            assert other.specifier.contains(Version(lows()[other.name])), f"{name} needs {other}"


def test_the_tested_installation_has_what_is_declared():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = {name.lower(): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, flags=re.MULTILINE)}
    for requirement in map(Requirement, declared()):
        assert requirement.specifier.contains(pins[requirement.name]), requirement
