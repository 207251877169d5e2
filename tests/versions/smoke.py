"""A smoke run of an installed package: everything is imported, a small network trained, resumed, measured and shown.

`python smoke.py FOLDER` in the environment to be tried, in a folder from where the checkout cannot be imported.
"""

import importlib
import pkgutil
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import interp
from interp.errors import NotInstalledError
from interp.training import Observer, StopTraining

DEPENDENCIES = ("torch", "transformer-lens", "numpy", "scipy", "plotly", "xarray", "jaxtyping", "filelock")
OPTIONAL = ("dask", "distributed", "devinterp", "submitit", "ipywidgets", "anywidget", "kaleido", "IPython")


class Stops(Observer):
    """Ends a run early, as Ctrl-C does."""

    def before_step(self, run, step):
        if step == 12:
            raise StopTraining("the smoke run is resumed")


def import_everything():
    """Import every module of the package; of those of extras, the extra may be missing."""
    count = 0
    for module in pkgutil.walk_packages(interp.__path__, "interp."):
        if module.name != "interp.__main__":
            try:
                importlib.import_module(module.name)
            except NotInstalledError:  # an integration, which is for those who have the library
                pass
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] not in OPTIONAL:
                    raise
            count += 1
    for name in interp.__all__:
        getattr(interp, name)
    return count


def program(*words):
    """What the installed program prints."""
    command = [Path(sys.executable).parent / "interp", *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8", timeout=300).stdout


def main(root):
    """Train 20 steps in two parts, measure, report, verify."""
    print(f"Python {sys.version.split()[0]}:", ", ".join(f"{name} {version(name)}" for name in DEPENDENCIES))
    print(f"{import_everything()} modules imported")
    small = {"task.p": 7, "model.d_model": 16, "model.n_heads": 2, "model.d_head": 8, "model.d_mlp": 24, "steps": 20}
    config = interp.recipes.get("kitouni-circle").replace({**small, "save.weights": "every(4)"})
    part = interp.train(config, root=root, device="cpu", observers=[Stops()])
    assert not part.complete
    program("resume", part.folder, "--device", "cpu")
    traj = interp.load(part.folder)
    assert traj.complete
    assert traj.steps.tolist() == [0, 4, 8, 12, 16, 20]
    whole = interp.train(config, root=root / "whole", device="cpu")
    assert traj.fingerprints() == whole.fingerprints()
    assert interp.replay(traj, 4, 8).run["replay"]["proven"] == [4, 8]
    data = interp.measure(traj)
    assert {"train_loss", "weight_norm", "embedding_power"} <= set(data.data_vars)
    page = interp.report(traj, data=data).read_text(encoding="utf-8")
    assert "plotly" in page
    lens = traj.lens(20)
    assert lens(traj.task.tokens).shape[0] == 49
    print(program("verify", traj.folder).strip())
    assert "usage: interp" in program("--help")
    print("smoke run passed")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]).resolve())
