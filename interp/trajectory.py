"""A run as a value to look at: its config, the weights at every stored step, and its metrics.

A trajectory reads; it never trains. It may be complete or still growing: `refresh` sees what has been added since.
"""

import contextlib
import dataclasses
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from interp.config import RunConfig, TaskConfig
from interp.config.events import is_stop
from interp.config.schedule import parse_schedule
from interp.errors import (
    ConfigError,
    CorruptRunError,
    DamagedRunWarning,
    InvalidArgumentError,
    NotAvailableError,
    NotImportedError,
    StoreError,
    UnknownNameError,
    did_you_mean,
)
from interp.models import Forward, Model, Network, StoredModel, build_model
from interp.models.guests import load_weights
from interp.models.recorded import require_same_logits
from interp.store import RunReader, VerifyReport
from interp.store.conditions import continuations
from interp.store.kinds import Kind, kind_of
from interp.store.opening import size_of
from interp.tasks import Examples, Task, build_task

if TYPE_CHECKING:  # xarray and transformer_lens take longer to import than this whole package
    import xarray
    from transformer_lens.model_bridge import TransformerBridge

__all__ = ["ParameterSteps", "Trajectory", "as_trajectory", "find_runs", "load"]


LONGEST = 10**7
"""Maximum number of steps of a run whose whole schedule is compared with what is stored."""
WHATS: tuple[Literal["weights", "metrics"], ...] = ("weights", "metrics")
"""Parts of a run that have a schedule."""


LARGEST_TASK = 2**27
"""Maximum number of inputs of a stored run's task: pairs of 11,585 numbers."""
LARGEST_SIZE = 10**4
"""Size of a model that is believed of any run; larger ones must fit the number of its stored weights."""
LARGEST_DEPTH = 100
"""Number of layers that is believed of any run; a larger one must fit the number of its stored arrays."""


def load(path: str | Path, *, model: nn.Module | None = None, forward: Forward | None = None) -> "Trajectory":
    """The trajectory in a run folder, with a `DamagedRunWarning` for each of its `problems`.

    Arguments:
        path: the run folder.
        model: of a recorded run, a network of the class that was recorded, with any weights; None: what needs weights
            alone is available. The run's own network is never imported. It is copied, and left as it is.
        forward: of a recorded run, the function (model, tokens) -> logits that it was recorded with.

    Raises:
        StoreError: where `path` is no run folder.
        InvalidArgumentError: the run was not recorded, so that its config alone gives the network.
        NotAvailableError: `model` has other parameters than the run stores, or computes other logits.
    """
    traj = Trajectory(Path(path), model=model, forward=forward)
    for problem in traj.problems:
        warnings.warn(problem, DamagedRunWarning, stacklevel=2)
    return traj


def as_trajectory(run: "Trajectory | str | Path") -> "Trajectory":
    """The run itself, or the one in this folder.

    Raises:
        InvalidArgumentError: it is neither.
        StoreError: it is a path, and no run folder.
    """
    if isinstance(run, Trajectory):
        return run
    if not isinstance(run, str | os.PathLike):
        raise InvalidArgumentError(
            f"A run must be a Trajectory or the path of its folder; got {type(run).__name__}. A network alone is none."
        )
    return load(run)


def find_runs(root: str | Path) -> list[Path]:
    """The run folders directly below `root`, newest last."""
    found = []
    for run in Path(root).glob("*"):
        with contextlib.suppress(OSError):  # no folder, or gone meanwhile
            found.append(((run / "run.json").lstat().st_mtime, run))
    return [run for _, run in sorted(found)]


class Trajectory:
    """A run folder, read lazily: nothing but its listing is read until it is asked for.

    Example:
        >>> import tempfile
        >>> from interp.training.api import train
        >>> config = RunConfig().replace({"task.p": 5, "model.d_model": 8, "model.d_mlp": 8, "steps": 3})
        >>> traj = train(config, root=tempfile.mkdtemp())
        >>> traj.steps, traj.param("embed.W_E").shape
        (array([0, 1, 2, 3]), (4, 6, 8))
        >>> traj.model(3)(traj.task.tokens).shape
        torch.Size([25, 3, 5])
    """

    def __init__(
        self,
        folder: Path,
        *,
        verify: Literal["first", "always", "never"] = "first",
        model: nn.Module | None = None,
        forward: Forward | None = None,
    ) -> None:
        self.folder = folder
        self._given = model, forward
        self._reader = RunReader(folder, verify=verify)
        if "config" not in self._reader.run:
            raise CorruptRunError(f"{folder / 'run.json'} holds no `config`; it was not written by this package.")
        try:
            self.config = RunConfig.from_dict(self._reader.run["config"])
        except NotImportedError as error:
            raise StoreError(f"{folder / 'run.json'}: {error}") from error
        except ConfigError as error:
            raise StoreError(f"{folder / 'run.json'} describes a run that this version cannot read: {error}") from error
        if model is not None or forward is not None:
            self._require_recorded_logits()

    def __repr__(self) -> str:
        steps = self.steps
        extent = f"{len(steps)} checkpoints, steps {steps[0]}..{steps[-1]}" if len(steps) else "no checkpoint yet"
        end = "" if self.complete else ", not complete" if self.diverged is None else f", diverged at {self.diverged}"
        return f"<Trajectory {self.folder.name}: {extent}{end}>"

    # --- what there is ------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> np.ndarray:
        """Steps at which weights are stored, increasing; int64 `[step]`."""
        return self._reader.steps

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stored parameters."""
        return tuple(name for name in self._reader.names if name not in self.buffers)

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the stored arrays that are no parameters: of a recorded network its persistent buffers."""
        return self.config.model.buffers

    @property
    def complete(self) -> bool:
        """Whether the run came to its end and everything of it is stored."""
        return self._reader.complete

    @property
    def diverged(self) -> int | None:
        """The step at which the loss or a weight was no longer finite: what there is of the run lies before it."""
        return self._reader.run.get("diverged", {}).get("step")

    @property
    def problems(self) -> tuple[str, ...]:
        """Damaged or missing parts, as far as is seen without reading weights, one sentence each: see `verify`."""
        return (*self._reader.problems, *self._shortfall("weights"))

    @property
    def run(self) -> dict[str, Any]:
        """Contents of run.json: config, schedule, provenance, and for a replay its stretch."""
        return self._reader.run

    @property
    def kind(self) -> Kind:
        """Declarations of who made the run: trained, replayed, imported or recorded."""
        return kind_of(self.run)

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, device, threads and code revision of the run, as noted when it began.

        `arithmetic` has further conditions on which bits depend (empty in runs of earlier versions), `continuations`
        what differed each time that the run was resumed (`interp.store.conditions.Continuation`).
        """
        noted = self._reader.run.get("provenance", {})
        return {"arithmetic": {}, **noted, "continuations": continuations(self._reader.run)}

    @property
    def events(self) -> list[tuple[int, str]]:
        """Changes in the course of the run, as (step, event in its written form); see `interp.config.events`."""
        return [(int(step), str(what)) for step, what in self._reader.run.get("events", [])]

    @property
    def stopped(self) -> int | None:
        """Step at which an event ended the run, before the last step of its config; None: none did."""
        return next((step for step, text in self.events if is_stop(text)), None)

    @property
    def last_step(self) -> int:
        """Step at which the run ends, or ended: that of its config, or an earlier one at which an event stopped it."""
        return self.config.steps if self.stopped is None else self.stopped

    @property
    def size_in_bytes(self) -> int:
        """Size of the run folder on disk."""
        return size_of(self.folder)

    @cached_property
    def task(self) -> Examples:
        """The task, rebuilt from the config: inputs, answers and split (an imported run's may be stored with it)."""
        self._require_plausible()
        with self._within_memory():
            examples = build_task(self.config.task, self.kind.stored_task)
        if "examples" in self.run and self.run["examples"] != examples.digest():
            raise NotAvailableError(
                f"The class {type(self.config.task).__name__} gives other examples than when {self.folder} was "
                "trained: it has changed since, or draws from global generators. Load the run with the code that "
                "trained it."
            )
        return examples

    def require_same_examples(self) -> None:
        """Demand that a user's task gives the examples that the run was trained on; `task` does so, too.

        Raises:
            NotAvailableError: the class has changed, or draws from global generators.
        """
        if "examples" in self.run:
            _ = self.task

    @cached_property
    def network(self) -> Network:
        """The network with unspecified weights, to be asked for what it declares; `model` has a step's weights."""
        return self._build()

    def _build(self) -> Network:
        task, unused = self.task, torch.Generator()  # the draws are overwritten
        with self._within_memory():
            return build_model(
                self.config.model,
                task.d_vocab,
                task.n_ctx,
                task.d_vocab_out,
                generator=unused,
                stored=self._stored_model,
            )

    @property
    def _stored_model(self) -> StoredModel:
        """Facts by which a recorded network is built."""
        model, forward = self._given
        arrays = {name: (self._reader.shape(name), self._reader.dtype(name)) for name in self._reader.names}
        return StoredModel(arrays, model, forward, self.task.tokens[:1] if len(self.task.tokens) else None)

    def _require_recorded_logits(self) -> None:
        """Refuse a network that is not the one that was recorded.

        Raises:
            InvalidArgumentError, NotAvailableError: see `load`.
        """
        if self.kind.name != "recorded":
            raise InvalidArgumentError(
                f"`model` and `forward` must be left out for {self.folder}, which was {self.kind.name}: its config "
                "gives its network."
            )
        if len(self.steps):
            network = self.model(int(self.steps[0]))
            require_same_logits(network, self.task.tokens, self.run["record"].get("logits", []))

    def _require_plausible(self) -> None:
        """Refuse a config with larger arrays than the run can have been trained with: building them might never end.

        Sizes of a model are axes of its weights, or their number. (A user's own task or model may mean anything by its
        numbers.)
        """
        task, model = self.config.task.to_dict(), self.config.model.to_dict()
        kinds = {"task": task.pop("kind"), "model": model.pop("kind")}
        numbers = [(name, size) for name, size in model.items() if type(size) is int and ":" not in kinds["model"]]
        largest = max(LARGEST_SIZE, sum(math.prod(self._reader.shape(name)) for name in self.names))
        for name, size in numbers:
            if size > (max(LARGEST_DEPTH, len(self.names)) if name == "n_layers" else largest):
                self._refuse_size(f"model.{name}", size)
        sizes = {name: size for name, size in task.items() if type(size) is int and ":" not in kinds["task"]}
        inputs = max(sizes.get("p", 0) ** 2, sizes.get("n", 0) * max(sizes.get("d", 0), sizes.get("samples", 0)))
        if inputs > LARGEST_TASK:
            self._refuse_size("task", inputs)

    def _refuse_size(self, name: str, size: int) -> NoReturn:
        raise CorruptRunError(
            f"{self.folder / 'run.json'} is damaged: `{name}` cannot have the size {size:,} with the weights that are "
            "stored."
        )

    @contextlib.contextmanager
    def _within_memory(self) -> Iterator[None]:
        """Context in which a lack of memory is an error of this package."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "allocate" not in str(error):
                raise
            raise StoreError(
                f"{self.folder / 'run.json'} describes a task or model that needs more memory than there is."
            ) from error

    def refresh(self) -> "Trajectory":
        """See what has been committed since; returns itself."""
        last = self.last_step
        self._reader.refresh()
        if self.last_step != last:
            for name in ("_scheduled_weights", "_scheduled_metrics"):
                self.__dict__.pop(name, None)
        return self

    def verify(self) -> VerifyReport:
        """Check every byte of the run, and that a complete one comes to its last step; see `RunReader.verify`."""
        report = self._reader.verify()
        errors = [*report.errors, *self._shortfalls()]
        with contextlib.suppress(StoreError):  # which is among the errors already
            for folder in self._reader.replays:
                replay = Trajectory(folder)
                errors += replay._shortfalls()
                errors += [fault] if (fault := self.replay_fault(replay)) else []
            if not self._reader.locked:  # else a living writer has added full states meanwhile, and more than them
                self.refresh()
                if not self.complete and (lost := self.resumable_steps()[1]) not in ("", *errors):
                    errors.append(lost)
        changes = [
            f"From step {one.step} on it was computed under other conditions than before: {one}. Its last bits may be "
            "others than those of a run that was never interrupted."
            for one in continuations(self._reader.run)
            if one.differs
        ]
        return dataclasses.replace(report, errors=tuple(errors), warnings=(*report.warnings, *changes))

    def replay_fault(self, replay: "Trajectory") -> str:
        """Sentence about a replay that is none of this run, by config or weights; empty where it may be one."""
        ours, theirs = (dict(zip(one.steps.tolist(), one.fingerprints())) for one in (self, replay))
        differing = [step for step in sorted(ours.keys() & theirs) if ours[step] != theirs[step]]
        if replay.config != self.config:
            return f"{replay.folder} is a replay of another run; was it copied here?"
        if differing:
            return f"{replay.folder} holds other weights than {self.folder} at step {differing[0]}; was it copied here?"
        return ""

    def _shortfalls(self) -> list[str]:
        """Sentences about the weights and metrics that a complete run lacks."""
        losses = self._shortfall("weights")
        with contextlib.suppress(StoreError):  # `verify` of the store names it
            losses += self._shortfall("metrics")
        return losses

    def first_missing(self, what: Literal["weights", "metrics"]) -> int | None:
        """First step of the run's schedule whose weights or metrics are not stored; None where all are.

        An imported or a recorded run has no schedule, so nothing of it is missing.
        """
        missing = np.setdiff1d(self._scheduled(what), self._stored(what))
        return int(missing[0]) if len(missing) else None

    def _scheduled(self, what: Literal["weights", "metrics"]) -> np.ndarray:
        """Steps at which the whole run stores weights, or logs metrics; none where that is not known."""
        return self._scheduled_weights if what == "weights" else self._scheduled_metrics

    @cached_property
    def _scheduled_weights(self) -> np.ndarray:
        run, last = self.run, self.config.steps
        if not self.kind.plans_steps:
            return np.empty(0, np.int64)
        if self.kind.stretch:
            start, stop, every = self.kind.stretch
            return np.append(np.arange(start, stop, max(every, 1) if stop <= LONGEST else stop), stop)
        if not run.get("schedule") or last > LONGEST:
            return np.array([self.last_step])
        try:
            return self._made(parse_schedule(run["schedule"]).steps(last), self.config.anchors)
        except ConfigError as error:
            raise CorruptRunError(f"{self.folder / 'run.json'} is damaged: {error}") from error

    @cached_property
    def _scheduled_metrics(self) -> np.ndarray:
        last = self.config.steps
        start, stop, _ = self.kind.stretch or (0, 0, 0)
        if not self.kind.plans_steps or max(last, stop) > LONGEST:
            return np.empty(0, np.int64)
        if self.kind.stretch:
            return np.arange(start, stop + 1)
        return self._made((self.config.log.test | self.config.log.train).steps(last), anchors=())

    def _made(self, scheduled: Sequence[int], anchors: Sequence[int]) -> np.ndarray:
        """Steps of a schedule that the run itself makes, with `anchors` and its last step."""
        first, last = self.config.first_step, self.last_step
        made = {*anchors, last, *(step for step in scheduled if first <= step <= last)}
        return np.array(sorted(made), np.int64)

    def _shortfall(self, what: Literal["weights", "metrics"]) -> list[str]:
        """Sentence about a complete run that lacks weights or metrics of its schedule."""
        if not self.complete or (missing := self.first_missing(what)) is None:
            return []
        stored, end = self._stored(what), self._scheduled(what)[-1]
        if not len(stored):
            found = f"it holds no {what}"
        elif stored[-1] != end:
            found = f"its {what} end at step {stored[-1]}"
        else:
            found = f"it lacks the {what} of step {missing}"
        return [f"{self.folder} is complete at step {end}, but {found}."]

    def _stored(self, what: Literal["weights", "metrics"]) -> np.ndarray:
        return self.steps if what == "weights" else self._reader.metrics["step"]

    # --- weights ------------------------------------------------------------------------------------------------------

    def param(self, name: str) -> "ParameterSteps":
        """Parameter over all stored steps, `[step, ...]`, lazily.

        Raises:
            UnknownNameError: where the run has no parameter of that name.
        """
        if name not in self._reader.names:
            raise UnknownNameError(
                f"There is no parameter `{name}` in {self.folder.name}. {did_you_mean(name, self.names)}"
            )
        return ParameterSteps(self._reader, name, ("step", *self._axes(name)))

    def position(self, step: int | None = None) -> int:
        """Position of `step` in `steps`; None is the last one.

        Raises:
            UnknownNameError: where no weights are stored at that step; the message names the nearest ones.
            InvalidArgumentError: `step` is no number.
        """
        if step is not None and (np.ndim(step) or np.asarray(step).dtype.kind not in "biuf"):
            raise InvalidArgumentError(f"`step` must be one stored step, or None for the last; got {step!r}.")
        if step is None and len(self.steps):
            return len(self.steps) - 1
        return int(_positions(self._reader, -1 if step is None else step))

    def _axes(self, name: str) -> tuple[str, ...]:
        """Names of the axes of a parameter at one step."""
        return self.network.axes_of(name) or tuple(f"axis_{i}" for i in range(len(self._reader.shape(name))))

    def state(self, step: int | None = None) -> dict[str, Tensor]:
        """All parameters, and stored buffers, at one step (None: the last), by name."""
        at = self.position(step)
        return {name: torch.from_numpy(np.array(self._reader.read(name, at))) for name in self._reader.names}

    def model(self, step: int | None = None) -> Network:
        """The model with its weights of one step (None: the last), in evaluation mode, on the CPU."""
        model = self._build()
        load_weights(model, self.state(step))
        return model.eval()

    def lens(self, step: int | None = None) -> "TransformerBridge":
        """The model of one step (None: the last) as TransformerLens sees it: `run_with_cache`, hooks and all.

        Raises:
            NotAvailableError: where TransformerLens has no such model.
        """
        from interp.models.lens import to_bridge

        return to_bridge(self.model(step))

    def fingerprints(self) -> list[str]:
        """A digest of the weights of each stored step, read from headers; equal weights have equal ones."""
        return self._reader.fingerprints()

    def require_equal(self, step: int, weights: Mapping[str, np.ndarray]) -> None:
        """Demand that `weights` are bitwise those stored at `step`.

        Raises:
            CorruptRunError: they are not; the message names the parameter and the largest difference.
        """
        at = self.position(step)
        users = [type(own).__name__ for own in (self.config.task, self.config.model) if isinstance(own, Task | Model)]
        guests = f", and for a {' or '.join(users)} that has not changed and draws nothing elsewhere" if users else ""
        for name in self.names:
            stored = self._reader.read(name, at)
            if stored.tobytes() != weights[name].tobytes():
                difference = float(np.abs(stored.astype(float) - weights[name].astype(float)).max())
                raise CorruptRunError(
                    f"`{name}` at step {step} is not what {self.folder} stores (largest difference {difference:.3g}); "
                    f"exactness holds for one device model, torch version and number of threads{guests}."
                )

    def full_state(self, step: int) -> dict[str, np.ndarray]:
        """Full state to continue from `step`: `model/...` weights and `optimizer/...` arrays."""
        return self._reader.read_state(step)[0]

    @property
    def full_state_steps(self) -> list[int]:
        """Steps at which a full state is stored."""
        return list(self._reader.state_steps)

    def resumable_steps(self) -> tuple[list[int], str]:
        """Full states from which the run can be continued, and a sentence about what it has lost (empty: nothing).

        A full state can be continued if everything that the run stores before it is still there: what it follows, and
        by the schedule.
        """
        orphans = self._reader.orphaned_states()
        stored = self.full_state_steps
        states = self.config.save.state
        gaps: dict[str, int] = {what: step for what in WHATS if (step := self.first_missing(what)) is not None}
        if (
            self.kind.plans_steps
            and self.config.steps <= LONGEST
            and (missing := {*self._made(states.steps(self.config.steps), self.config.anchors).tolist()} - {*stored})
        ):
            gaps["full state"] = min(missing)  # of those that are kept for replays
        end = min(gaps.values(), default=self.config.steps if self.kind.plans_steps else max(stored, default=0))
        steps = [step for step in stored if step not in orphans and step <= end]
        lost = [orphans[step] for step in sorted(orphans)]
        if not lost and len(steps) < len(stored):
            what = min(gaps, key=gaps.__getitem__)
            lost = [f"{self.folder} holds no {what} of step {end}, before its last full state."]
        return steps, lost[-1] if lost else ""

    def proves_state(self, step: int) -> bool:
        """Whether something proves, or will prove when the run goes on, that the full state at `step` belongs to it.

        Its file names the run, or weights are stored at `step` or later and are compared. (Files of format 1.0 name no
        run.)

        Raises:
            CorruptRunError: the weights of the full state are not those stored, or it is damaged, or of another run.
        """
        stored = self.steps.tolist()
        if step in stored:
            arrays = self.full_state(step)
            self.require_equal(step, {name: arrays[f"model/{name}"] for name in self.names})
        return self._reader.is_bound(step) or any(known >= step for known in stored)

    # --- metrics ------------------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> "xarray.Dataset":
        """Logged metrics: train_loss, test_loss [nats], train_accuracy, test_accuracy over `step`; NaN elsewhere.

        `attrs["diverged"]` is there if the run has `diverged`, and `attrs["loss"]` says in words what the losses are
        where they are no cross-entropies of the answers alone: of codes, and of tasks with a closing token (whose
        accuracies are those of both tokens, too).
        """
        import xarray

        columns = dict(self._reader.metrics)
        step = columns.pop("step").astype(np.int64)
        attrs: dict[str, Any] = {} if self.diverged is None else {"diverged": self.diverged}
        if self.config.task.loss_words != TaskConfig.PLAIN_LOSS:
            attrs["loss"] = self.config.task.loss_words
        return xarray.Dataset({name: ("step", column) for name, column in columns.items()}, {"step": step}, attrs)

    def last_metrics(self, *names: str) -> dict[str, float]:
        """The last logged value of each of these metrics, where there is one, without reading the whole log."""
        return self._reader.last_metrics(names)


class ParameterSteps:
    """Parameter over the stored steps: an array `[step, ...]` that reads only what is sliced.

    Index by position, or by step with `sel`; `numpy.asarray` reads it all. Slices within one stored segment are views
    of the file.
    """

    def __init__(self, reader: RunReader, name: str, dims: tuple[str, ...]) -> None:
        self._reader, self.name = reader, name
        self.dims = dims
        """Names of the axes, `step` first."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(number of stored steps, *shape of the parameter)."""
        return (len(self._reader.steps), *self._reader.shape(self.name))

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored numbers."""
        return self._reader.dtype(self.name)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        axes = ", ".join(f"{dim}: {n}" for dim, n in zip(self.dims, self.shape))
        return f"<{self.name} [{axes}] {self.dtype}, not read yet>"

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) and index else (index,)
        if first is Ellipsis or isinstance(first, tuple):
            return np.asarray(self)[index]
        if isinstance(first, list | np.ndarray):
            first = np.asarray(first, dtype=None if len(first) else int)
        values = self._reader.read(self.name, first)
        if not rest:
            return values
        # what has been read stands at the front, indexed as the steps were, so that numpy's rules hold for the rest
        if isinstance(first, int | np.integer):
            return values[None][(0, *rest)]
        return values[(np.arange(len(values)) if isinstance(first, np.ndarray) else slice(None), *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._reader.read(self.name, slice(None)), dtype=dtype, copy=copy)

    def sel(self, step: int | Sequence[int] | slice) -> np.ndarray:
        """The parameter at a step, at several, or at all stored steps of a range (both ends included, as in xarray)."""
        steps = self._reader.steps
        if isinstance(step, slice):
            low = 0 if step.start is None else int(np.searchsorted(steps, step.start, "left"))
            high = len(steps) if step.stop is None else int(np.searchsorted(steps, step.stop, "right"))
            return self._reader.read(self.name, slice(low, high, step.step))
        return self._reader.read(self.name, _positions(self._reader, step))


def _positions(reader: RunReader, step: int | Sequence[int]) -> Any:
    """Positions of steps among the stored ones: an int for one step, an array for several."""
    steps, wanted = reader.steps, np.asarray(step, dtype=None if np.size(step) else int)
    if not len(steps):
        raise UnknownNameError(f"{reader.folder.name} has no checkpoint yet.")
    at = np.searchsorted(steps, wanted)
    missing = np.atleast_1d(wanted)[np.atleast_1d(steps[np.minimum(at, len(steps) - 1)] != wanted)]
    if len(missing):
        after = int(np.searchsorted(steps, missing[0]))
        near = [int(stored) for stored in steps[max(0, after - 1) : after + 1]]
        raise UnknownNameError(
            f"There is no checkpoint at step {missing[0]} in {reader.folder.name}; "
            f"the nearest {'is' if len(near) == 1 else 'are'} {' and '.join(map(str, near))}. "
            "interp.replay stores any step of a stretch."
        )
    return at if wanted.ndim else int(at)
