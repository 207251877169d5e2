"""Data flows one way: a module imports from its own family and from lines above it, never sideways, never down."""

import ast
import builtins
import dis
import importlib
import os
import subprocess
import sys
from collections.abc import Container
from pathlib import Path
from types import CodeType

import pytest

from interp.errors import NotInstalledError

PACKAGE = Path(__file__).parent.parent / "interp"

LINES = [
    ["errors"],
    ["literals", "rng"],
    ["config", "theory"],
    ["tasks", "models", "store"],
    ["optim", "trajectory"],
    ["training"],
    ["recording"],
    ["importers", "analysis"],
    ["benchmarks", "integrations"],
    ["milestones", "explanation"],
    ["plots"],
    ["reporting"],
    ["execution"],
    ["papers"],
    ["cli"],
    ["__main__"],
]
LINE_OF = {name: number for number, names in enumerate(LINES) for name in names}

HOMES = {
    "transformer_lens": {"models/lens.py"},
    "plotly": {"plots/", "reporting/"},
    "ipywidgets": {"reporting/scrubber.py"},
    "dask": {"execution/executors.py"},
    "submitit": {"execution/executors.py"},
    "devinterp": {"analysis/llc.py"},
    "transformers": {"integrations/transformers.py"},
    "lightning": {"integrations/lightning.py"},
    "tyro": {"cli/"},
}
NO_TORCH = [
    "theory.groups",
    "theory.representation",
    "theory.separability",
    "papers.beck.theory.gradient_flow",
    "papers.beck.theory.two_points",
    "papers.beck.theory.proportional_limit",
    "errors",
    "config",
    "config.recipes",
    "literals",
    "store",
    "cli",
]


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The family or file on the spine: `tasks` for interp/tasks/base.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    """Modules that a source names in import statements outside `if TYPE_CHECKING`, at any depth."""
    tree = ast.parse(source)
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(name: str, source: str) -> list[str]:
    """Imports of a module in room `name` that go sideways or down."""
    wrong = []
    for target in imports(source):
        parts = target.split(".")
        if parts[0] != "interp" or len(parts) < 2 or parts[1] == name or parts[1] not in LINE_OF:
            continue
        if LINE_OF[parts[1]] >= LINE_OF[name]:
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_up(path):
    if path == PACKAGE / "__init__.py":
        return  # names only, looked up on first use: test_import_is_lazy
    assert room(path) in LINE_OF, f"{path.name} stands on no line of the picture of the house"
    assert violations(room(path), path.read_text()) == []


def undefined(code: CodeType, known: Container[str]) -> set[str]:
    """Global names that functions and classes of a module look up and that it does not have.

    (The linters do not look: to them the axes in `Float[Tensor, "step token"]` are undefined names.)
    """
    wanted = {str(step.argval) for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    return {name for name in wanted if name not in known}.union(*(undefined(one, known) for one in inner))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_name_is_defined(path):
    if path.name == "__main__.py":
        return  # which would run
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    try:
        module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    except NotInstalledError as error:
        pytest.skip(str(error))
    assert undefined(compile(path.read_text(), path, "exec"), vars(module) | vars(builtins)) == set()


def test_an_undefined_name_is_seen():
    source = "import os\n\ndef f(x):\n    return [os.path, len(x), (lambda: Counter(x))()]\n"
    assert undefined(compile(source, "source", "exec"), {"os": os} | vars(builtins)) == {"Counter"}


def test_a_wrong_import_is_seen():
    assert violations("models", "from interp.tasks import Task") == ["interp.tasks.Task"]
    assert violations("store", "def f():\n    import interp.training.api\n") == ["interp.training.api"]
    assert violations("training", "from interp.trajectory import load\nimport torch") == []
    assert violations("store", "if TYPE_CHECKING:\n    from interp.training.api import train") == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_heavy_library_has_one_home(path):
    relative = path.relative_to(PACKAGE).as_posix()
    for target in imports(path.read_text()):
        homes = HOMES.get(target.split(".")[0])
        assert homes is None or any(relative.startswith(home) for home in homes), f"{relative} imports {target}"


def loaded_by(code: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(' '.join(sys.modules))"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_import_is_lazy():
    loaded = loaded_by("import interp")
    assert not {name for name in loaded if name.startswith("interp.")}
    assert not {"torch", "numpy", "plotly", "xarray"} & loaded


@pytest.mark.parametrize("name", NO_TORCH)
def test_no_torch(name):
    assert "torch" not in loaded_by(f"import interp.{name}")


def test_every_public_name_resolves():
    import interp

    for name in interp.__all__:
        assert getattr(interp, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = interp.nonsense
