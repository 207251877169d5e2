"""Import of foreign checkpoints into a run folder."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from interp.config import RunConfig, TaskConfig
from interp.errors import (
    ConfigError,
    ForeignFormatError,
    InterpError,
    InvalidArgumentError,
    NotAvailableError,
    RunExistsError,
    RunLockedError,
)
from interp.importers.files import Dump, digest_of, read_dump, with_steps
from interp.importers.layouts import detect
from interp.importers.modules import ModuleFit, OwnModule, fit_files
from interp.importers.proof import Proof
from interp.importers.reading import ImportedRun, NotFiniteError, kept_steps, left_out, read_run
from interp.importers.sources import Sources, find_sources
from interp.importers.states import Names, Renaming
from interp.models import Forward
from interp.models.recorded import unwrapped
from interp.store import RunWriter
from interp.store.opening import delete_run, is_there
from interp.tasks import Examples
from interp.tasks.base import packed
from interp.trajectory import Trajectory

__all__ = ["ImportPlan", "import_checkpoints", "plan_import"]

LONGEST = 2000
"""Characters of an error: names and values in it come from the file."""


def import_checkpoints(
    path: str | Path,
    root: str | Path = "checkpoints",
    *,
    format: str | None = None,
    assume: Mapping[str, Any] | None = None,
    steps: Sequence[int] | None = None,
    names: Names | None = None,
    model: nn.Module | None = None,
    task: Examples | TaskConfig | None = None,
    forward: Forward | None = None,
    neurons: str = "",
    progress: bool = False,
) -> Trajectory:
    """Foreign checkpoints as a trajectory, stored in `root/<task>-<model>-imported-<digest>`.

    The layout is recognised by names and shapes (`interp.importers.layouts`), the operation by the answers of the last
    checkpoint where no configuration states it, the split by the stored indices or losses. The stored losses are
    computed again from the imported weights; where they differ, nothing is imported. Everything found, assumed and
    proven is in `traj.run["import"]`. Files that were imported before are not imported again: the existing run is
    returned.

    The number of a checkpoint counts its updates: 0.pt is the initialisation. One update is added only where a
    published script is known to save after an update under its index, from 0: simple-grokking's folders, group MLPs'
    folders, the files of Nanda et al.'s Trainer, full_run_data.pth and the Grokking demo's file (sources in
    `interp.importers.layouts` and `files`). Stored losses that determine the numbering overrule both. An undetermined
    numbering is recorded in `traj.run["import"]["assumed"]` as "steps: ...".

    Where the split is not known, all pairs are both train and test pairs, and `traj.task.held_out` is false: no metric
    is a test metric.

    With `model`, a network of the class whose state dicts the files hold, no layout is recognised: each checkpoint goes
    into a copy of it, strictly (a prefix of all names is taken off), and is stored as `interp.record` stores it. What
    is found and assumed is in `traj.run["record"]["files"]`; `interp.load(folder, model=...)` opens the run again.

    Arguments:
        path: a file, or a folder with a file per checkpoint.
        root: folder of runs.
        format: a name in `interp.importers.LAYOUTS`, to refuse all others, or transformer, mlp, decoder or recurrent
            for the parameters of this package's models (with `names`); None: any layout.
        assume: facts that the files lack, as dotted paths into the config: {"task.operation": "multiply"}; and as
            "steps" the meaning of the checkpoints' numbers: "updates", or "indices" of the update just made, from 0. An
            assumed operation is accepted; the operation that the weights answer is reported beside it.
        steps: updates that the checkpoints have seen, in their order, where the files do not say. Without them the
            checkpoints of a bare list are numbered 0, 1, 2, ..., and reports speak of checkpoints, not of steps.
        names: names of this package's parameters by the entries of the files, for networks whose names are their own:
            {"tok.weight": "embed.W_E", "head.weight": ("unembed.W_U", "T")}; "T" transposes, None leaves out. With
            `model`, stored names by the module's own, as in `interp.record`.
        model: a network of your own, of the class that was trained, with any weights; it is copied.
        task: with `model`, inputs, answers and split, as in `interp.record`; None: that of `assume` "task.FIELD", or
            none, and measures of the weights alone apply.
        forward: with `model` and a task, function (model, tokens) -> logits; None: the model's own call.
        neurons: with `model` and a task, path of the module of the last hidden layer, as in `interp.record`.
        progress: show a progress bar.

    Raises:
        ForeignFormatError: there is no such file, its layout is not known, its shapes contradict each other, reading it
            would run foreign code or take far more memory than it has bytes, a value in it is of a wrong kind, a weight
            is complex, NaN or infinite, or it does not reproduce its own losses.
        ConfigError: `assume` names no field of the config, or breaks a rule of it, or numbers files without numbers.
        RunLockedError: another process is importing these files.
        InvalidArgumentError, UnknownNameError: `model` does not fit `task`, `names`, `forward` or `neurons`, or these
            are given without it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> p, d, neurons = 5, 4, 8
        >>> shapes = {"W_x": (p, d), "W_y": (p, d), "W": (2 * d, neurons), "W_U": (neurons, p)}
        >>> torch.save({name: torch.ones(shape) for name, shape in shapes.items()}, folder / "model.pt")
        >>> traj = import_checkpoints(folder / "model.pt", root=folder)
        >>> traj.names, traj.model()(traj.task.tokens[:1]).flatten().tolist()  # each neuron is 8, each logit 8 * 8
        (('blocks.0.mlp.W_in', 'embed.W_E', 'embed_b.W_E', 'unembed.W_U'), [64.0, 64.0, 64.0, 64.0, 64.0])

        >>> net = nn.Linear(3, 2)
        >>> for epoch in (10, 20):
        ...     torch.save({"model": net.state_dict()}, folder / f"epoch_{epoch}.pt")
        >>> (folder / "model.pt").unlink()
        >>> traj = import_checkpoints(folder, root=folder, model=nn.Linear(3, 2), names={"weight": "unembed.W_U"})
        >>> traj.names, traj.steps.tolist()
        (('unembed.W_U', 'bias'), [10, 20])
    """
    path, root = Path(path), Path(root)
    assume = dict(assume or {})
    own = _own(model, task, forward, neurons, format)
    if own is not None:
        return _import_own(path, root, own, assume, steps, names or {}, progress)
    sources, sha256, key = _identified(path, assume, steps, names)
    for folder in root.glob(f"*-imported-{key}"):
        if (folder / "run.json").exists():
            done = Trajectory(folder)
            if done.complete and not done.problems:
                return done
            RunWriter.open(folder).close()  # raises where another process is writing
            delete_run(folder)
    run, source = _read(path, sources, sha256, format, assume, steps, names)
    folder = root / f"{run.config.task.slug}-{run.config.model.slug}-imported-{key}"
    try:
        _write(folder, path, run, source, progress)
    except (RunExistsError, RunLockedError):  # the folder is another process's, which imports the same files
        raise
    except BaseException:  # a later file may contradict the first
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Trajectory(folder)


@dataclass(frozen=True)
class ImportPlan:
    """An import as it would be made."""

    config: RunConfig
    steps: tuple[int, ...]
    """Steps that would be stored."""
    found: Mapping[str, Any]
    """Record of what is found, assumed and proven: `traj.run["import"]` of the import, or with `model`
    `traj.run["record"]["files"]`."""


def plan_import(
    path: str | Path,
    *,
    format: str | None = None,
    assume: Mapping[str, Any] | None = None,
    steps: Sequence[int] | None = None,
    names: Names | None = None,
    model: nn.Module | None = None,
    task: Examples | TaskConfig | None = None,
    forward: Forward | None = None,
    neurons: str = "",
) -> ImportPlan:
    """The import that `import_checkpoints` would make of the files, with all its reasons; nothing is written.

    All files are read. The arguments are those of `import_checkpoints`.

    Raises:
        ForeignFormatError: as `import_checkpoints`.
        ConfigError: as `import_checkpoints`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.pt"
        >>> torch.save({"0.weight": torch.ones(8, 10), "2.weight": torch.ones(5, 8)}, path)
        >>> plan = plan_import(path)
        >>> plan.found["format"], plan.config.task.p, plan.steps, plan.config.model.embedding
        ('linear-layers', 5, (1,), 'one-hot')
    """
    path, assume = Path(path), dict(assume or {})
    own = _own(model, task, forward, neurons, format)
    if own is not None:
        sources, sha256, _ = _identified(path, assume, steps, names, own)
        fit, about = _fitted(path, sources, sha256, own, assume, steps, names or {})
        with _named(path):
            recorder = fit.recorder(Path(path.name), about)
            behind, broken = fit.each(lambda step: None, recorder.now)
        stored = (recorder.now, *behind)
        said = [*recorder.files["said"], *broken]
        return ImportPlan(kept_steps(recorder.config, stored), stored, {**recorder.files, "said": said})
    sources, sha256, _ = _identified(path, assume, steps, names)
    run, source = _read(path, sources, sha256, format, assume, steps, names)
    kept, broken = list[int](), list[str]()
    for i, step in enumerate(run.steps):
        try:
            with _named(path):
                run.reader.read(run.dump, i)
            kept.append(step)
        except NotFiniteError as error:
            broken.append(left_out(error))
    found = _found(run, source)
    return ImportPlan(kept_steps(run.config, kept), tuple(kept), {**found, "said": [*found["said"], *broken]})


def _own(
    model: nn.Module | None,
    task: Examples | TaskConfig | None,
    forward: Forward | None,
    neurons: str,
    format: str | None,
) -> OwnModule | None:
    """The user's module with what is said of it; None where the layout is to be recognised."""
    if model is not None:
        if format is not None:
            raise ConfigError("`format` names a layout, and `model` a network of your own: give one of them.")
        if not isinstance(model, nn.Module):
            raise InvalidArgumentError(f"`model` must be a torch.nn.Module; got a {type(model).__name__}.")
        return OwnModule(model, task, forward, neurons)
    given = [name for name, x in (("task", task), ("forward", forward), ("neurons", neurons or None)) if x is not None]
    if given:
        raise ConfigError(f"`{given[0]}` must come with `model`, a network of your own; got none.")
    return None


def _import_own(
    path: Path,
    root: Path,
    own: OwnModule,
    assume: Mapping[str, Any],
    steps: Sequence[int] | None,
    names: Names,
    progress: bool,
) -> Trajectory:
    """The trajectory of a user's own module, whose weights files hold: recorded from them, or from an earlier time."""
    sources, sha256, key = _identified(path, assume, steps, names, own)
    folder = root / f"{type(unwrapped(own.module)).__name__.lower()}-imported-{key}"
    if is_there(folder / "run.json"):
        with contextlib.suppress(NotAvailableError):  # the module has changed since
            done = Trajectory(folder, model=own.module, forward=own.forward)
            if done.complete and not done.problems:
                return done
        RunWriter.open(folder).close()  # raises where another process is writing
        delete_run(folder)
    fit, source = _fitted(path, sources, sha256, own, assume, steps, names)
    with _named(path):
        recorder = fit.recorder(folder, source)
    bar = tqdm(total=len(fit.steps), unit="checkpoint", disable=not progress, dynamic_ncols=True)
    try:
        with _named(path), bar, recorder:

            def take(step: int) -> None:
                recorder.arrive(step)
                bar.update()

            kept, broken = fit.each(take, recorder.now)
        if broken:  # the schedule is that of the steps that are there
            config = kept_steps(recorder.config, (recorder.start, *kept))
            files = {**recorder.files, "said": [*recorder.files["said"], *broken]}
            with RunWriter.open(folder) as writer:
                record = {**writer.run["record"], "files": files}
                writer.replace_run({**writer.run, "config": config.to_dict(), "record": record}, complete=True)
    except (RunExistsError, RunLockedError):  # the folder is another process's, which imports the same files
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Trajectory(folder, model=own.module, forward=own.forward)


def _fitted(
    path: Path,
    sources: Sources,
    sha256: str,
    own: OwnModule,
    assume: Mapping[str, Any],
    steps: Sequence[int] | None,
    names: Names,
) -> tuple[ModuleFit, dict[str, Any]]:
    """The files as weights of a user's module, and what is said of the files."""
    with _named(path):
        fit = fit_files(with_steps(read_dump(sources), steps), own, names, assume, steps is not None)
    named = f"the module {own.name}"
    return fit, {"from": path.name, "files": len(sources.files), "sha256": sha256, "format": named}


def _identified(
    path: Path,
    assume: Mapping[str, Any],
    steps: Sequence[int] | None,
    names: Names | None,
    own: OwnModule | None = None,
) -> tuple[Sources, str, str]:
    """The files, their digest, and a key of them with what the user says of them."""
    with _named(path):
        sources = find_sources(path)
        sha256 = digest_of(sources.files)
    said: list[Any] = [sha256, assume]
    if steps is not None or names:
        said += [None if steps is None else list(steps), dict(names or {})]
    if own is not None:
        said += [own.key()]
    return sources, sha256, hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _read(
    path: Path,
    sources: Sources,
    sha256: str,
    format: str | None,
    assume: Mapping[str, Any],
    steps: Sequence[int] | None,
    names: Names | None,
) -> tuple[ImportedRun, dict[str, Any]]:
    """The run that files describe, and what is said of the files."""
    rename = Renaming(names or {})
    with _named(path):
        dump = with_steps(read_dump(sources), steps)
        state = rename(_last_finite(dump))
        layout, cleaning = detect(state, dump.about, format)
        last = layout.translate(cleaning(state), dump.about)
        described = layout.describe(last, dump.about)
        run = read_run(dump, layout, cleaning, described, last, assume, steps is not None, rename)
    return run, {"from": path.name, "files": len(sources.files), "sha256": sha256, "format": layout.name}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Make every error of a body that reads foreign values a typed one, in one line that names the file."""
    try:
        yield
    except (ForeignFormatError, ConfigError) as error:
        said = _printable(str(error) if path.name in str(error) else f"{path}: {error}")
        if said == str(error):
            raise
        raise type(error)(said) from None
    except InterpError:
        raise
    except Exception as error:
        raise ForeignFormatError(_printable(f"{path} holds what no importer expects ({error!r}).")) from error


def _printable(text: str) -> str:
    """The text in one line of printable characters."""
    line = " ".join(text[:LONGEST].split())
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in line)


def _last_finite(dump: Dump) -> Mapping[str, Tensor]:
    """The last weights that are numbers; of a run that diverged, those before. Without any, the last."""
    for checkpoint in reversed(dump.checkpoints):
        state = checkpoint.load()
        if all(x.isfinite().all() for x in state.values() if x.is_floating_point() and x.ndim):
            return state
    return dump.checkpoints[-1].load()


def _found(run: ImportedRun, source: Mapping[str, Any]) -> dict[str, Any]:
    """Record of what is found, assumed and proven, for run.json."""
    proof, dump = run.proof, run.dump
    verdict = (
        f"{proof.compared} stored numbers agree with those of the imported weights, to {proof.difference:.1e}"
        if proof.compared
        else "no stored number to compare with"
        if not dump.curves
        else "none: what the file stores is the same on every split that was tried"
        if proof.agrees
        else "NONE: what the file stores comes out on no split that was tried; is the activation or the operation "
        "another (`assume`), or the split one of its own?"
    ) + (f"; but {run.doubt}" if run.doubt else "")
    imported = {
        **source,
        "operation": run.operation,
        "split_origin": run.split_origin,
        "assumed": list(run.assumed),
        "said": list(run.said),
        "proof": {
            "verdict": verdict,
            "compared": proof.compared,
            "difference": proof.difference,
            "worst": proof.example,
        },
    }
    if not dump.has_steps:
        imported["counts"] = "checkpoints"
    if run.config.task.split == "stored":
        imported["split"] = {"train": packed(run.examples.train), "test": packed(run.examples.test)}
    return imported


def _write(folder: Path, path: Path, run: ImportedRun, source: Mapping[str, Any], progress: bool) -> None:
    """Write the run folder: weights, the stored metrics, and at every checkpoint the metrics that the file lacks."""
    proof, dump, imported = run.proof, run.dump, _found(run, source)
    provenance = {
        "imported": datetime.now(UTC).isoformat(timespec="seconds"),
        "interp": version("grokking-interp"),
        "torch": torch.__version__,
        **source,
        "split": run.split_origin,
        "proof": imported["proof"]["verdict"],
    }
    about = {"config": run.config.to_dict(), "provenance": provenance, "import": imported}
    precision = run.config.optimizer.loss_precision
    with RunWriter.create(folder, about) as writer:
        for step, record in _stored_metrics(dump, proof).items():
            writer.log({"step": step, **record})
        count = len(dump.checkpoints)
        kept, broken = list[int](), list[str]()
        for i in tqdm(range(count), unit="checkpoint", disable=not progress, dynamic_ncols=True):
            try:
                with _named(path):
                    weights = run.reader.read(dump, i)
            except NotFiniteError as error:
                broken.append(left_out(error))
                continue
            kept.append(run.steps[i])
            writer.append(run.steps[i], {name: x.numpy() for name, x in weights.items()})
            if len(dump.curves) < 4:
                numbers = run.reader.outputs(weights).numbers(run.examples, precision)
                missing = {name: value for name, value in numbers.items() if name not in dump.curves}
                writer.log({"step": run.steps[i], **missing})
        if broken:  # the schedule is that of the steps that are there
            imported["said"] = [*imported["said"], *broken]
            writer.replace_run({**about, "config": kept_steps(run.config, kept).to_dict(), "import": imported})
        writer.finish()


def _stored_metrics(dump: Dump, proof: Proof) -> dict[int, dict[str, float]]:
    """The metrics of the file by step."""
    records: dict[int, dict[str, float]] = {}
    for name, values in dump.curves.items():
        lag = proof.test_lag if name.startswith("test") else 0
        for index, value in values.items():
            records.setdefault(index + lag, {})[name] = value
    return dict(sorted(records.items()))
