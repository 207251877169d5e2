"""Small runs that take a second or two."""

import interp
from interp.store import RunWriter

TINY = {
    "task.p": 11,
    "task.train_fraction": 0.8,
    "model.d_model": 32,
    "model.n_heads": 2,
    "model.d_head": 16,
    "model.d_mlp": 64,
    "steps": 150,
    "save.weights": "every(10)",
    "save.state": "every(150)",
    "log.test": "every(5)",
}
"""Changes of kitouni-circle: addition mod 11 in 150 steps."""
AT = {"test_threshold": 0.55}  # p = 11 is small: half of the held-out pairs is as far as it gets


def extend(folder, traj, steps):
    """Write the steps of `traj` into a run folder that may hold some already."""
    begun = (folder / "run.json").exists()
    with RunWriter.open(folder) if begun else RunWriter.create(folder, traj.run, fsync=False) as writer:
        for step in steps:
            writer.append(int(step), {name: traj.param(name).sel(step) for name in traj.names})
    return interp.load(folder)
