"""The recorder: it stores what a training loop of a user's own makes of a network, step by step."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from interp.config import NoTask, RecordedModel, RunConfig, Save, TaskConfig
from interp.config.schedule import Schedule, parse_schedule
from interp.errors import (
    DivergedWarning,
    InterpError,
    InvalidArgumentError,
    NotAvailableError,
    RunExistsError,
    UnknownNameError,
    did_you_mean,
    error_line,
)
from interp.models.base import Sizes
from interp.models.lens import lens_names
from interp.models.recorded import (
    HALVES,
    Forward,
    RecordedNetwork,
    StoredModel,
    is_affine,
    name_without_wrappers,
    own_arrays,
    own_buffers,
    own_parameters,
    unwrapped,
)
from interp.recording.optimizers import as_array, described, load_state, state_arrays
from interp.recording.staging import Staging
from interp.store import RunWriter
from interp.store.opening import delete_run, is_there
from interp.tasks import Examples, build_task
from interp.tasks.tables import examples_in_words, table_config
from interp.training.environment import provenance
from interp.training.recording import record_continuation
from interp.trajectory import Trajectory

__all__ = ["Recorder", "record", "record_files"]

TRIED = 3
"""Number of inputs whose logits are noted, so that a network that is given later can be compared."""
NOTED = 8
"""Maximum number of logits that are noted for each of them."""
WAITING = 64
"""Number of steps whose scalars wait on the device before they are fetched together."""
Existing = Literal["error", "resume", "overwrite"]
_NUMBERS = (Tensor, float, int, np.number, np.ndarray)
"""Kinds of what can be logged."""


def record(
    folder: str | Path,
    model: nn.Module,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    save: str | Schedule = "every(1, until=100) | every(10)",
    state: str | Schedule = "every(1000)",
    task: Examples | TaskConfig | None = None,
    names: Mapping[str, str | tuple[str, str]] | None = None,
    forward: Forward | None = None,
    neurons: str = "",
    steps: int = 10_000,
    existing: Existing = "error",
    start: int | None = None,
) -> "Recorder":
    """Recorder of a training loop, to be used as a context manager: a run folder that `interp.load` opens.

    The loop stays as it is, but for `rec.step(...)` behind each update of the weights. Nothing of the model, the
    optimiser or the generators of random numbers is changed.

    Arguments:
        folder: the run's folder.
        model: the network in training; wrappers of `torch.compile` and data-parallel training are looked through, and
            only the process of rank 0 writes.
        optimizer: its optimiser, whose state is stored sparsely, so that the loop can be resumed; None: no full
            states.
        save: steps at which weights are stored. Step 0 and the last one always are.
        state: steps at which the full state is stored.
        task: inputs, answers and split (`interp.tasks.table`, or a config such as `Modular(p=97)`); None: norms
            and updates of the weights are measured, and functions of one's own.
        names: stored names of parameters, by their own: {"tok.weight": "embed.W_E"} is the table of embeddings,
            {"head.weight": ("unembed.W_U", "T")} the matrix that gives the logits, transposed, as [d, d_vocab_out].
            Those of a TransformerBridge come by themselves, and parameters named as HookedTransformer's need none.
        forward: function (model, tokens) -> logits; None: the model's own call.
        neurons: path of the module whose output is the last hidden layer behind its non-linearity, such as
            "blocks.0.mlp.act"; "head:input" is the input of the module `head`.
        steps: number of updates that the loop is expected to make, which log(n) and dense(...) are spread over; the
            loop may end earlier or later.
        existing: treatment of a run in the folder: "error" refuses; "overwrite" deletes it; "resume" puts its last full
            state into model, optimiser and torch's generators, and drops what lies behind it: the loop goes on at
            `rec.start`.
        start: with "resume", the step at which a loop goes on that has restored its model itself; the stored weights of
            that step must be those of the model. Where the folder holds no run, it begins there.

    Raises:
        InvalidArgumentError, UnknownNameError: an argument has no meaning; nothing is written.
        RunExistsError: the folder holds a run, and `existing` is "error".
        NotAvailableError: the run to be resumed is of another network, or holds no full state.

    Example:
        >>> import interp, tempfile
        >>> pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
        >>> sums = pairs.sum(1) % 5
        >>> task = interp.tasks.table(pairs, sums, train=torch.arange(25) % 2 == 0, answers_are="residues", p=5)
        >>> model = nn.Sequential(nn.Embedding(5, 8), nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5))
        >>> opt = torch.optim.AdamW(model.parameters(), lr=0.01)
        >>> names = {"0.weight": "embed.W_E", "4.weight": ("unembed.W_U", "T")}
        >>> folder = tempfile.mkdtemp() + "/mine"
        >>> with record(folder, model, optimizer=opt, save="every(5)", task=task, names=names, neurons="3") as rec:
        ...     for step in range(20):
        ...         loss = nn.functional.cross_entropy(model(pairs[task.train]), sums[task.train])
        ...         opt.zero_grad()
        ...         loss.backward()
        ...         opt.step()
        ...         rec.step(train_loss=loss)
        >>> rec.trajectory.steps.tolist(), interp.measure(rec.trajectory, ["test_loss"]).test_loss.shape
        ([0, 5, 10, 15, 20], (5,))
    """
    recorder = Recorder(Path(folder), model, optimizer, names, forward, neurons)
    recorder._plan(save, state, task, steps, existing, start)
    return recorder


def record_files(
    folder: Path,
    model: nn.Module,
    *,
    steps: Sequence[int],
    save: Schedule,
    task: Examples | TaskConfig | None,
    names: Mapping[str, str | tuple[str, str]],
    forward: Forward | None,
    neurons: str,
    files: Mapping[str, Any],
) -> "Recorder":
    """Recorder of weights that come from files: `model` has those of the first of `steps`, and `arrive` takes the next.

    Arguments:
        steps: updates that the weights have seen.
        save: the same as a schedule.
        files: what is known of the files, which run.json keeps with the run.

    Raises:
        InvalidArgumentError, UnknownNameError: as `record`.
    """
    recorder = Recorder(folder, model, None, names, forward, neurons)
    recorder._plan(save, "every(1000)", task, max(1, steps[-1]), "error", None)
    recorder._given_start = recorder.now = recorder.start = steps[0]
    recorder._record["files"] = dict(files)
    recorder._made = {"imported": datetime.now(UTC).isoformat(timespec="seconds")}
    return recorder


class Recorder:
    """Recorder of a training loop; get it from `interp.record`.

    Attributes:
        folder: the run's folder.
        start: step at which the loop begins: 0, or that of the resumed run.
        now: number of updates so far.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        names: Mapping[str, str | tuple[str, str]] | None,
        forward: Forward | None,
        neurons: str,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidArgumentError(f"`model` must be a torch.nn.Module; got a {type(model).__name__}.")
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            raise InvalidArgumentError(
                f"`optimizer` must be a torch.optim.Optimizer, or None; got a {type(optimizer).__name__}."
            )
        self.folder, self.start, self.now = folder, 0, 0
        self._made = {
            "update": "a loop of the user's own",
            "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._model, self._optimizer, self._forward, self._neurons = unwrapped(model), optimizer, forward, neurons
        self._names = _checked_names({**lens_names(self._model), **(names or {})}, self._model)
        self._shapes = {name: tuple(x.shape) for name, x in own_parameters(self._model).items()}
        self._buffers = own_buffers(self._model)
        self._is_writer = not torch.distributed.is_available() or (
            not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        )
        self._writer: RunWriter | None = None
        self._stored_at = self._state_at = -1
        self._scalars: list[tuple[int, dict[str, Any]]] = []
        self._diverged = False
        if not self._shapes:
            raise InvalidArgumentError("`model` must have parameters; got none.")
        if sharded := [name for name, _ in self._model.named_parameters() if "_fsdp_wrapped_module" in name]:
            raise InvalidArgumentError(
                f"`model` must hold whole parameters; {sharded[0]} is a shard (FSDP). Record the module that is "
                "gathered from the shards."
            )
        device = next(self._model.parameters()).device
        self._staging = Staging(device)
        self._device = device

    def _plan(
        self,
        save: str | Schedule,
        state: str | Schedule,
        task: Examples | TaskConfig | None,
        steps: int,
        existing: Existing,
        start: int | None,
    ) -> None:
        """Check the other arguments, and describe the run; nothing is written."""
        if existing not in ("error", "resume", "overwrite"):
            raise InvalidArgumentError(f"`existing` must be error, resume or overwrite; got {existing!r}.")
        if start is not None and (existing != "resume" or isinstance(start, bool) or start < 0):
            raise InvalidArgumentError(
                f'`start` must be a step >= 0, of a run that is resumed (existing="resume"); got {start!r}.'
            )
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise InvalidArgumentError(f"`steps` must be a whole number >= 1; got {steps!r}.")
        self._existing, self._given_start = existing, start
        schedule = parse_schedule(save) if isinstance(save, str) else save
        size = sum(x.numel() * max(x.element_size(), 4) for x in self._live().values())
        self._schedule = schedule.resolve(size, steps)
        self._states = parse_schedule(state) if isinstance(state, str) else state
        self._horizon = steps
        config, examples, self._record = self._described_task(task)
        model = RecordedModel(
            name=type(self._model).__name__,
            names=tuple((own, new, turn) for own, (new, turn) in self._names.items()),
            buffers=tuple(self._buffers),
            halves=tuple(f"{self._stored_name(name)}:{kind}" for name, kind in _halves(self._model)),
            forward=self._forward is not None,
            neurons=self._neurons,
        )
        if task is not None:
            model, examples = self._tried(model, examples)
        elif self._forward is not None or self._neurons:
            raise InvalidArgumentError(
                "`forward` and `neurons` must come with `task`, whose inputs the network is run on; got no task."
            )
        self._examples = examples
        self._config = RunConfig(
            task=config,
            model=model,
            optimizer=described(self._optimizer),
            steps=steps,
            save=Save(weights=self._schedule, state=self._states),
        )

    # --- the loop's side ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if not self._is_writer:
            return self
        about: dict[str, Any] = {
            "config": self._config.to_dict(),
            "provenance": {**provenance(self._device), **self._made},
            "record": self._record,
        }
        if self._examples is not None and "task" in self._record:
            about["examples"] = self._examples.digest()
        there = is_there(self.folder / "run.json")
        if there and self._existing == "error":
            raise RunExistsError(
                f'{self.folder} already holds a run; record into another folder, or with existing="resume" or '
                '"overwrite".'
            )
        if there and self._existing == "overwrite":
            RunWriter.open(self.folder).close()  # raises where another process is writing
            delete_run(self.folder)
        resumes = there and self._existing == "resume"
        if resumes:
            self._writer = RunWriter.open(self.folder)
            try:
                self._resume(about)
            except BaseException:
                self._writer.close()
                raise
        else:
            self._writer = RunWriter.create(self.folder, about)
            self.start = self.now = self._given_start or 0
        if self._stored_at < 0 and (self.now == 0 or not resumes):
            self._store()
            if self._optimizer is not None:
                self._save_state()
        elif self._stored_at < self.now and self._due(self._schedule, self.now):
            self._store()
        return self

    def step(self, **scalars: float | Tensor) -> None:
        """Count an update of the weights, and store what is due.

        `scalars`, such as train_loss, are of the pass that led to the update: they are logged at the step whose weights
        gave them, the one before. Those of the weights as they are now go to `log`.

        Raises:
            InvalidArgumentError: a scalar is no number, or the model has other parameters than when recording began.
            StoreError: an earlier step could not be written.
        """
        if scalars:
            self.log_at(self.now, **scalars)
        self.now += 1
        if self._writer is None:
            return
        if self._due(self._schedule, self.now):
            self._store()
        if self._optimizer is not None and self._due(self._states, self.now):
            self._save_state()

    def arrive(self, step: int) -> None:
        """Store the weights that the model has now as those of `step`, which lies behind all steps before.

        Raises:
            InvalidArgumentError: it does not.
            StoreError: an earlier step could not be written.
        """
        if step <= self.now:
            raise InvalidArgumentError(f"`step` must be > {self.now}, the last one; got {step}.")
        self.now = step
        if self._writer is not None:
            self._store()

    @property
    def config(self) -> RunConfig:
        """Config of the run as it is planned."""
        return self._config

    @property
    def files(self) -> dict[str, Any]:
        """Facts of the files that the weights come from; empty where a loop makes them."""
        return dict(self._record.get("files", {}))

    def log(self, **scalars: float | Tensor) -> None:
        """Log numbers that belong to the weights as they are now, such as test_loss.

        Raises:
            InvalidArgumentError: one of them is no number.
        """
        self.log_at(self.now, **scalars)

    def log_at(self, at: int, /, **scalars: float | Tensor) -> None:
        """Log numbers that belong to the weights of step `at`, which may lie behind: see `log`."""
        if self._writer is None:
            return
        found = {name: _number(name, value) for name, value in scalars.items()}
        if self._device.type == "cpu":
            self._writer.log({"step": at, **{name: float(value) for name, value in found.items()}})
            return
        self._scalars.append((at, found))
        if len(self._scalars) >= WAITING:
            self._fetch()

    @property
    def committed(self) -> int | None:
        """Last step whose weights are safe on disk; None before the first."""
        return None if self._writer is None else self._writer.last_committed

    def commit(self) -> int | None:
        """Make everything so far durable; returns the last step whose weights are safe on disk."""
        if self._writer is None:
            return None
        self._hand_over()
        self._fetch()
        return self._writer.commit()

    @property
    def trajectory(self) -> Trajectory:
        """The run so far, with the network that was recorded.

        Raises:
            NotAvailableError: recording has not begun, or this process does not write.
        """
        if not self._is_writer or not is_there(self.folder / "run.json"):
            raise NotAvailableError(
                f"There is no run in {self.folder} yet: recording begins with the `with` block, in the process of rank "
                "0 alone."
            )
        if self._writer is not None:
            self.commit()
        return Trajectory(self.folder, model=self._model, forward=self._forward)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is None:
            return
        try:
            with self._writer as writer:
                if error is None:
                    self._complete()
                else:
                    self._hand_over()
                    self._fetch()
                    ended = {"step": self.now, "by": type(error).__name__, "words": error_line(error)[:200]}
                    writer.replace_run({**writer.run, "record": {**writer.run["record"], "interrupted": ended}})
        except Exception as second:
            if error is None:
                raise
            if second is not error:
                error.add_note(f"The run could not be closed cleanly: {second}")
        finally:
            self._writer = None

    # --- storing ------------------------------------------------------------------------------------------------------

    def _due(self, schedule: Schedule, step: int) -> bool:
        """Whether a step belongs to a schedule, whose end moves away when the loop goes on beyond it."""
        last = self._horizon
        while step > last:
            last *= 2
        return schedule.at(step, last)

    def _store(self) -> None:
        """Take the weights as they are now; those that were taken before go to the writer."""
        self._hand_over()
        if self._diverged:
            return
        self._staging.start(self.now, self._stored())
        self._stored_at = self.now
        if self._device.type == "cpu":
            self._hand_over()

    def _hand_over(self) -> None:
        taken = self._staging.finish()
        if taken is None or self._writer is None or self._diverged:
            return
        step, arrays = taken
        trained = {self._stored_name(name) for name in self._shapes}  # and no buffers, such as a mask of -inf
        for name, array in arrays.items():
            if name in trained and array.dtype.kind in "fc" and not np.isfinite(array).all():
                self._diverged = True
                about = {"step": step, "what": f"a weight of `{name}`"}
                self._writer.replace_run({**self._writer.run, "diverged": about})
                warnings.warn(
                    f"At step {step} `{name}` holds a number that is not finite; no later step is stored in "
                    f"{self.folder}.",
                    DivergedWarning,
                    stacklevel=4,
                )
                return
        self._writer.append(step, arrays)

    def _save_state(self) -> None:
        """Store the full state: weights, the optimiser's, and torch's generators."""
        if self._writer is None or self._optimizer is None or self._diverged:
            return
        self._hand_over()
        self._fetch()
        names: dict[Tensor, str] = {parameter: name for name, parameter in self._current().items()}
        try:
            arrays, words = state_arrays(self._optimizer, names)
        except NotAvailableError as error:
            warnings.warn(f"{error} No full state is stored, so that the run cannot be resumed.", stacklevel=3)
            self._optimizer = None
            return
        weights = {f"model/{name}": as_array(x) for name, x in self._stored().items()}
        for at, generator in enumerate(_generators()):
            arrays[f"rng/{at}"] = generator.numpy()
        last, self._state_at = self._horizon, self.now
        self._writer.save_state(
            self.now, {**weights, **arrays}, {"step": str(self.now), **words}, keep=lambda s: self._states.at(s, last)
        )

    def _fetch(self) -> None:
        """Write the scalars that wait."""
        waiting, self._scalars = self._scalars, []
        if self._writer is not None:
            for step, scalars in waiting:
                self._writer.log({"step": step, **{name: float(value) for name, value in scalars.items()}})

    def _complete(self) -> None:
        """Store the last step, and mark the run as complete."""
        if self._writer is None:
            return
        if self._stored_at < self.now:
            self._store()
        self._hand_over()
        self._fetch()
        if self._optimizer is not None and self.now > max(self.start, self._state_at):  # generators go on in the loop
            self._save_state()
        config = {**self._writer.run["config"], "steps": max(self.now, 1)}
        self._writer.replace_run({**self._writer.run, "config": config}, complete=not self._diverged)

    # --- arrays of the model ------------------------------------------------------------------------------------------

    def _stored_name(self, own: str) -> str:
        return self._names[own][0] if own in self._names else own

    def _current(self) -> dict[str, nn.Parameter]:
        """Parameters by their own names; they must be those that recording began with.

        Raises:
            InvalidArgumentError: some were added, removed, or have another shape.
        """
        found = own_parameters(self._model)
        if found.keys() != self._shapes.keys() or any(found[n].shape != shape for n, shape in self._shapes.items()):
            added, removed = found.keys() - self._shapes.keys(), self._shapes.keys() - found.keys()
            other = [n for n in found.keys() & self._shapes.keys() if found[n].shape != self._shapes[n]]
            parts = {"new": added, "gone": removed, "of another shape": set(other)}
            told = "; ".join(f"{', '.join(sorted(names))} {what}" for what, names in parts.items() if names)
            raise InvalidArgumentError(
                f"`model` must keep the parameters that recording began with; at step {self.now} of {self.folder} "
                f"{told}. Record the network as it is now into a folder of its own."
            )
        return found

    def _live(self) -> dict[str, Tensor]:
        """Parameters and stored buffers by their own names, as they are in the model."""
        buffers = {name: owner._buffers[last] for name, (owner, last) in self._buffers.items()}
        return {**self._current(), **{name: x for name, x in buffers.items() if x is not None}}

    def _stored(self) -> dict[str, Tensor]:
        """Arrays of the model as they are stored: by their stored names, and transposed where these are."""
        turns = {name: turn for name, (_, turn) in self._names.items()}
        return {
            self._stored_name(name): x.detach().T if turns.get(name) else x.detach() for name, x in self._live().items()
        }

    # --- before the loop ----------------------------------------------------------------------------------------------

    def _described_task(self, task: Examples | TaskConfig | None) -> tuple[TaskConfig, Examples, dict[str, Any]]:
        """Config, examples, and the entry `record` of run.json."""
        about: dict[str, Any] = {"class": f"{type(self._model).__module__}.{type(self._model).__qualname__}"}
        match task:
            case None:
                return NoTask(), build_task(NoTask()), about
            case Examples():
                return table_config(task), task, {**about, "task": examples_in_words(task)}
            case TaskConfig():
                return task, build_task(task), about
        raise InvalidArgumentError(
            "`task` must be a table (interp.tasks.table), the config of a task, such as Modular(p=97), or None; got a "
            f"{type(task).__name__}."
        )

    def _tried(self, config: RecordedModel, examples: Examples) -> tuple[RecordedModel, Examples]:
        """Config and examples with what a pass of a few inputs shows; its logits are noted.

        Raises:
            InvalidArgumentError: the pass fails, or gives other logits than the task has classes.
        """
        tokens = examples.tokens[:TRIED]
        arrays = {name: as_array(x) for name, x in self._stored().items()}
        stored = StoredModel(
            {name: (x.shape, x.dtype) for name, x in arrays.items()}, self._model, self._forward, tokens[:1]
        )
        if config.neurons:
            _require_module(self._model, config.neurons)
        network = RecordedNetwork(config, Sizes(examples.d_vocab, examples.n_ctx, examples.d_vocab_out), stored)
        network.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in arrays.items()})
        with torch.random.fork_rng(devices=[]):
            logits = self._logits(network, tokens)
            width = logits.shape[-1]
            if width != examples.d_vocab_out:
                if "task" not in self._record or width < examples.d_vocab_out:
                    raise InvalidArgumentError(
                        f"`model` must give {examples.d_vocab_out} logits, one for each class of `task`; it gives "
                        f"{width}."
                    )
                self._record["task"]["d_vocab_out"] = network.d_vocab_out = width
                examples = replace(examples, d_vocab_out=width)
            self._record["logits"] = [[float(x) for x in row[:NOTED]] for row in logits]
            if not np.isfinite(np.array(self._record["logits"])).all():
                del self._record["logits"]
            if not config.neurons:
                return config, examples
            try:
                reads = is_affine(network, examples.tokens[: TRIED + 2])
            except Exception as error:
                raise InvalidArgumentError(
                    f"`neurons` {config.neurons} must be a layer of activations [batch, neuron] or [batch, pos, "
                    f"neuron] that is computed once in a pass; {type(error).__name__}: {error_line(error)}"
                ) from error
        if not reads:
            warnings.warn(
                f"The logits are not affine in `neurons` {config.neurons} at the last position alone (is there a "
                "LayerNorm, or another layer, behind it, or are other positions read?): measures of the neurons' "
                "effect on the logits are left out, interchanges of them stay.",
                stacklevel=4,
            )
        return config.replace({"reads_neurons": reads}), examples

    def _logits(self, network: RecordedNetwork, tokens: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                return network.answer_logits(network.prepare(tokens))
        except Exception as error:
            said = str(error) if isinstance(error, InterpError) else f"{type(error).__name__}: {error_line(error)}"
            raise InvalidArgumentError(
                f"`model` must give logits for the tokens of `task`, here {list(tokens.shape)}, on the CPU; {said} Say "
                "how with forward=lambda model, tokens: ..."
            ) from error

    def _resume(self, about: Mapping[str, Any]) -> None:
        """Go on with the stored run: at the step of the loop, or at that of the last full state, which is put back."""
        writer = self._writer
        assert writer is not None
        run = writer.run
        for part in ("model", "task"):
            is_same = run.get("config", {}).get(part) == about["config"][part]
            if "record" not in run or not is_same or (part == "task" and run.get("examples") != about.get("examples")):
                wrong = "is no recorded run" if "record" not in run else f"was recorded with another {part}"
                raise NotAvailableError(
                    f'{self.folder} {wrong}; record into another folder, or overwrite it (existing="overwrite").'
                )
        traj = Trajectory(self.folder)
        self._require_shapes(traj)
        if self._given_start is None:
            states = traj.resumable_steps()[0]
            if not states and self._optimizer is not None and not traj.steps.any():  # killed before its first step
                writer.close()
                delete_run(self.folder)
                self._writer = RunWriter.create(self.folder, about)
                return  # with the weights that the loop has now
            if not states or self._optimizer is None:
                lacks = (
                    "holds no full state" if self._optimizer is not None else "can be put back with `optimizer` alone"
                )
                raise NotAvailableError(
                    f"{self.folder} {lacks}; restore the loop's own checkpoint and pass its step as `start`, or "
                    "overwrite the run."
                )
            self.start = states[-1]
            self._put_back(*traj._reader.read_state(self.start))
        else:
            self.start = self._given_start
            if self.start in traj.steps.tolist():
                self._require_stored(traj, {name: as_array(x) for name, x in self._stored().items()})
        writer.truncate_after(self.start)
        writer.cut_after(self.start)
        record = {name: x for name, x in run["record"].items() if name != "interrupted"}
        left = {name: x for name, x in writer.run.items() if name != "diverged"}
        writer.replace_run({**left, "config": about["config"], "record": record})
        record_continuation(writer, self.start, about["provenance"])
        self.now = self.start
        self._stored_at = self.start if self.start in Trajectory(self.folder).steps.tolist() else -1

    def _require_shapes(self, traj: Trajectory) -> None:
        for name, x in self._stored().items():
            if name in traj._reader.names and tuple(x.shape) != traj._reader.shape(name):
                raise NotAvailableError(
                    f"`model` must have the shapes that {self.folder} stores; `{name}` is {list(x.shape)} and "
                    f"{list(traj._reader.shape(name))} there."
                )

    def _require_stored(self, traj: Trajectory, weights: Mapping[str, np.ndarray]) -> None:
        at = traj.position(self.start)
        for name, array in weights.items():
            if np.ascontiguousarray(array).tobytes() != traj._reader.read(name, at).tobytes():
                raise NotAvailableError(
                    f"`model` must have the weights that {self.folder} stores at step {self.start}, where the loop is "
                    f"to go on; `{name}` differs. Restore the loop's own checkpoint first."
                )

    @torch.no_grad()
    def _put_back(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
        """Put a full state into model, optimiser and generators; where it does not fit, nothing is changed."""
        assert self._optimizer is not None
        load_state(self._optimizer, {x: name for name, x in self._current().items()}, arrays, metadata)
        for name, x in self._live().items():
            value = torch.from_numpy(np.array(arrays[f"model/{self._stored_name(name)}"]))
            x.copy_(value.T if self._names.get(name, ("", ""))[1] else value)
        for at, generator in enumerate(_generators()):
            if f"rng/{at}" in arrays:
                generator.copy_(torch.from_numpy(arrays[f"rng/{at}"]))
                _set_generator(at, generator)


def _number(name: str, value: Any) -> float | Tensor:
    """Scalar to be logged; one on another device is copied there, so that nothing waits for it.

    Raises:
        InvalidArgumentError: it is no number, or called step.
    """
    if name == "step" or not isinstance(value, _NUMBERS):
        raise InvalidArgumentError(f"`{name}` must be a number to be logged, and not called step; got {value!r}.")
    if not isinstance(value, Tensor | np.ndarray):
        return float(value)
    if math.prod(value.shape) != 1:
        raise InvalidArgumentError(f"`{name}` must be one number; got shape {list(value.shape)}.")
    if isinstance(value, Tensor) and value.device.type != "cpu":
        return value.detach().clone()
    return float(value.item())


def _checked_names(
    names: Mapping[str, str | tuple[str, str]], model: nn.Module
) -> dict[str, tuple[str, Literal["", "T"]]]:
    """Stored name of each renamed parameter, and whether it is transposed.

    Raises:
        InvalidArgumentError, UnknownNameError: one is no parameter, two have one stored name, or there is no such turn.
    """
    parameters = own_parameters(model)
    found: dict[str, tuple[str, Literal["", "T"]]] = {}
    for name, target in names.items():
        own = name if name in parameters else name_without_wrappers(name).removeprefix("module.")
        if own not in parameters:
            raise UnknownNameError(
                f"`names` must be of parameters; there is no `{own}`. {did_you_mean(own, parameters)}"
            )
        new, turn = (target, "") if isinstance(target, str) else tuple(target) if len(target) == 2 else ("", "")
        if turn not in ("", "T") or not new or any(not part for part in new.split(".")):
            raise InvalidArgumentError(
                f'`names` must give "stored.name", or ("stored.name", "T") to transpose; got {target!r} for {own}.'
            )
        if turn and parameters[own].ndim != 2:
            raise InvalidArgumentError(f"`names` can transpose matrices; {own} has {parameters[own].ndim} axes.")
        found[own] = new, "T" if turn else ""
    stored = [found[name][0] if name in found else name for name in own_arrays(model)]
    if twice := [name for name in stored if stored.count(name) > 1]:
        raise InvalidArgumentError(f"`names` must give each parameter a name of its own; {twice[0]} is given twice.")
    return found


def _halves(model: nn.Module) -> list[tuple[str, str]]:
    """Arrays of 16 bits, with their types."""
    kinds = {dtype: kind for kind, dtype in HALVES.items()}
    return [(name, kinds[x.dtype]) for name, x in own_arrays(model).items() if x.dtype in kinds]


def _require_module(model: nn.Module, neurons: str) -> None:
    """Demand that the path names a submodule.

    Raises:
        UnknownNameError: it does not; the message names the nearest.
    """
    path, _, side = neurons.partition(":")
    names = [name_without_wrappers(name) for name, _ in model.named_modules() if name]
    if path not in names or side not in ("", "input"):
        raise UnknownNameError(
            f"`neurons` must be the path of a module, or that with `:input`; there is no `{neurons}`. "
            f"{did_you_mean(path, names)}"
        )


def _generators() -> list[Tensor]:
    """States of torch's generators: the CPU's, and those of CUDA devices in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda]


def _set_generator(at: int, state: Tensor) -> None:
    if at == 0:
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, at - 1)
