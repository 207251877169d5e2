"""The lowest declared version of each dependency, as constraints for pip: `python tests/versions/lowest.py`."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def lowest(requirements):
    """Constraints that pin each requirement NAME>=VERSION to its lowest version."""
    pins = []
    for requirement in requirements:
        match = re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", requirement)
        if match is None:
            raise ValueError(f"`{requirement}` must have a lowest version, as in NAME>=VERSION.")
        pins.append(f"{match[1]}=={match[2]}")
    return pins


def declared():
    """Dependencies of the package."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return project["dependencies"]


if __name__ == "__main__":
    print(*lowest(declared()), sep="\n")
