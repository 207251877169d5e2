"""Shape and type annotations are checked while the tests run, no network is used; fixtures are small real runs."""

from jaxtyping import install_import_hook

_TENSORS = ["analysis", "benchmarks", "models", "optim", "plots", "rng", "tasks", "training.state", "training.step"]
_hook = install_import_hook([f"interp.{name}" for name in _TENSORS], "beartype.beartype")

import os  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
from pathlib import Path  # noqa: E402

import jaxtyping  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

import interp  # noqa: E402
from tests.offline import sitecustomize  # noqa: E402

_PATHS = [str(Path(sitecustomize.__file__).parent), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PATHS))  # processes of the tests are offline, too

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background; programs of the tests are to hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)

TOY = {
    "task.p": 7,
    "task.train_fraction": 0.6,
    "model.d_model": 16,
    "model.n_heads": 2,
    "model.d_head": 8,
    "model.d_mlp": 24,
    "steps": 40,
    "save.weights": "every(4)",
    "save.state": "every(16)",
    "log.test": "every(2)",
}


@pytest.fixture(autouse=True)
def offline():
    """No attempt to reach beyond this machine, though code that made one may have passed over the error."""
    yield
    blocked = list(sitecustomize.BLOCKED)
    sitecustomize.BLOCKED.clear()
    assert not blocked, blocked


@pytest.fixture
def as_users_run_it(monkeypatch):
    """Without the checks of shapes, which users do not have: what is checked then are our own messages."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def as_on_cuda(monkeypatch):
    """Look-ups are summed back as on CUDA, in a fixed order."""
    for module in ("base", "prefixes"):
        monkeypatch.setattr(f"interp.models.{module}.summed_by_product", lambda index: True)


@pytest.fixture
def float64():
    """Where what is amplified over many steps is not rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def toy_config():
    """A transformer on addition mod 7: 40 steps in a fraction of a second."""
    return interp.recipes.get("kitouni-circle").replace(TOY)


@pytest.fixture(scope="session")
def toy_run(toy_config, tmp_path_factory):
    """The finished toy run; tests must not change it."""
    return interp.train(toy_config, root=tmp_path_factory.mktemp("runs"), device="cpu")


@pytest.fixture(scope="session")
def grokked_run(tmp_path_factory):
    """A network that has generalised: addition mod 23, about ten seconds of training."""
    config = interp.recipes.get("kitouni-circle").replace(
        {
            "task.p": 23,
            "task.train_fraction": 0.8,
            "model.d_model": 64,
            "model.d_head": 16,
            "model.d_mlp": 128,
            "optimizer.lr": 2e-3,
            "steps": 1600,
            "save.weights": "every(50)",
        }
    )
    return interp.train(config, root=tmp_path_factory.mktemp("grokked"), device="cpu")


@pytest.fixture
def own_run(toy_run, tmp_path):
    """The toy run in a folder that a test may change."""
    shutil.copytree(toy_run.folder, tmp_path / toy_run.folder.name, ignore=shutil.ignore_patterns("measures"))
    return interp.load(tmp_path / toy_run.folder.name)
