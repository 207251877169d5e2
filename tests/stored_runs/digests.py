"""Short descriptions of a run: digests of what is stored exactly, and numbers of what is computed from it.

`make.py` wrote them down once; `tests/test_stored_runs.py` computes them again.
"""

import hashlib
import platform
from pathlib import Path

import numpy as np
import torch

import interp

__all__ = [
    "OPT_IN",
    "about",
    "close",
    "described",
    "digest",
    "environment",
    "file_digests",
    "measures",
    "sha256",
    "together",
    "trained",
    "weights",
]

OPT_IN = (
    "head_ablation_loss",
    "frequency_ablation_loss",
    "neuron_cluster_ablation_loss",
    "circle_isolation_accuracy",
    "attention_periodicity",
)
"""Measures that are computed only when asked for by name. Left out are the local learning coefficient and its error:
its calibration takes most of a minute, and finds no minimum in networks that are hardly trained."""
WHOLE = 4
"""Number of values up to which an array is written down as it is; of a larger one as many numbers are."""
DIGITS = 14
"""Decimal digits of a number, two more than are compared."""


def sha256(text):
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest(array):
    """First 128 bits of the SHA-256 of an array's type, shape and bytes."""
    array = np.ascontiguousarray(array)
    return hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()).hexdigest()[:32]


def together(arrays):
    """SHA-256 of arrays by name."""
    return sha256("".join(f"{name} {digest(array)} " for name, array in sorted(arrays.items())))


def weights(traj):
    """Digest of each parameter over all stored steps."""
    return {name: digest(np.asarray(traj.param(name))) for name in traj.names}


def about(traj):
    """Identity of a run and everything that is stored in it, exactly."""
    metrics, task = traj.metrics, traj.task
    return {
        "run_id": traj.config.run_id,
        "config": sha256(traj.config.to_json()),
        "complete": traj.complete,
        "diverged": traj.diverged,
        "events": [list(event) for event in traj.events],
        "ensemble": traj.run.get("ensemble"),
        "schedule": traj.run.get("schedule"),
        "steps": traj.steps.tolist(),
        "weights": weights(traj),
        "states": {str(step): together(traj.full_state(step)) for step in traj.full_state_steps},
        "metrics": {name: digest(metrics[name].values) for name in sorted({"step", *metrics.data_vars})},
        "task": together({name: getattr(task, name).numpy() for name in ("tokens", "labels", "train", "test")}),
    }


def trained(traj):
    """Digest of the last stored weights, all parameters together, and the norm of each."""
    state = {name: np.asarray(traj.param(name)[-1]) for name in sorted(traj.names)}
    norms = {name: float(f"{np.linalg.norm(array.astype(np.float64)):.7g}") for name, array in state.items()}
    return {"step": int(traj.steps[-1]), "sha256": together(state), "norms": norms}


def measures(traj):
    """All measures that a run admits, the opt-in ones too, each described by `described`; and the attributes."""
    data = interp.measure(traj, cache=False)
    found = {str(name): described(variable.values, variable.dims) for name, variable in data.variables.items()}
    for name in OPT_IN:
        try:
            variable = interp.measure(traj, name, cache=False)[name]
        except interp.InterpError:  # it is not defined for this run
            continue
        found[name] = described(variable.values, variable.dims)
    return {"attrs": {name: np.asarray(value).tolist() for name, value in data.attrs.items()}, "measures": found}


def described(values, dims):
    """Type, axes, shape, number of NaNs, and numbers of an array.

    The numbers are the values of a small array. Of a large one they are the sum of its values, each times its place,
    that of the squares, the first value and the last; the sums are of finite values.
    """
    values = np.asarray(values)
    axes, shape = " ".join(map(str, dims)), list(values.shape)
    if values.dtype.kind not in "biuf":
        return ["text", axes, shape, 0, values.ravel().astype(str).tolist()]
    flat = values.ravel().astype(np.float64)
    head = [str(values.dtype), axes, shape, int(np.isnan(flat).sum())]
    if flat.size <= WHOLE:
        return [*head, _plain(flat)]
    finite = np.where(np.isfinite(flat), flat, 0.0)
    ramp = np.arange(1, finite.size + 1)
    return [*head, _plain([(ramp * finite).sum(), np.square(finite).sum(), flat[0], flat[-1]])]


def close(found, expected, rtol, atol=0.0):
    """Whether two descriptions of an array agree: its type, axes, shape and NaNs exactly, its numbers to `rtol`.

    Sums over many values are held to `rtol` of the sum that values of one sign and of the same size could have.
    """
    (*head, now), (*known, then) = found, expected
    if head != known or head[0] == "text":
        return found == expected
    then = np.array(then, dtype=float)  # "nan" and "inf" are read, too
    slack = np.full_like(then, atol)
    size = int(np.prod(head[2]))
    if size > WHOLE:
        slack[0] += rtol * size * np.sqrt(size * then[1])
    return bool(np.isclose(np.array(now, dtype=float), then, rtol=rtol, atol=slack, equal_nan=True).all())


def environment():
    """What bits depend on: torch, and the processor with the instructions that torch uses of it."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def file_digests(folder):
    """SHA-256 of each file below a folder, by its path there; what Python compiles is left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }


def _plain(values):
    """Numbers as JSON has them: rounded, whole ones without a point, and words for those that it lacks."""
    texts = [f"{float(value):.{DIGITS}g}" for value in values]
    return [text if text in ("nan", "inf", "-inf") else int(text) if text.lstrip("-").isdigit() else float(text)
            for text in texts]  # fmt: skip


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
