"""Files whose weights are those of a user's own module: the module loads them, and the recorder stores it.

The names of a file must be the module's own, under one prefix at most. Everything else (other names in the store,
transposes, tied weights, 16 bits, the hidden layer, the noted logits) is the recorder's: an import is a recording of a
module that takes its weights from files and not from a loop.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.config import RunConfig, TaskConfig
from interp.errors import ConfigError, ForeignFormatError
from interp.importers.files import Dump
from interp.importers.proof import prove
from interp.importers.reading import NotFiniteError, assumed_updates, left_out, schedule_of, steps_of
from interp.importers.states import Cleaning, Names, State, unwrapped_names
from interp.models import Forward
from interp.models.recorded import unwrapped
from interp.recording import Recorder, record_files
from interp.tasks import Examples

__all__ = ["ModuleFit", "OwnModule", "fit_files"]

MOST = 3
"""Number of entries that an error names of each kind."""


@dataclass(frozen=True, eq=False)
class OwnModule:
    """A user's module, and what is said of it, as `import_checkpoints` takes them."""

    module: nn.Module
    task: Examples | TaskConfig | None = None
    forward: Forward | None = None
    neurons: str = ""

    @property
    def name(self) -> str:
        """Dotted name of its class."""
        kind = type(unwrapped(self.module))
        return f"{kind.__module__}.{kind.__qualname__}"

    def key(self) -> list[Any]:
        """Values of JSON that tell it from another module or task."""
        match self.task:
            case Examples() as examples:
                task: Any = examples.digest()
            case TaskConfig() as config:
                task = config.to_dict()
            case _:
                task = None
        return [self.name, task, self.forward is not None, self.neurons]


@dataclass(frozen=True, eq=False)
class ModuleFit:
    """Files that fit a module: their checkpoints and steps, and the way of an entry into the module."""

    own: OwnModule
    module: nn.Module
    """A copy of the module, on the CPU."""
    dump: Dump
    cleaning: Cleaning
    names: Names
    steps: tuple[int, ...]
    assumed: tuple[str, ...]

    def load(self, i: int) -> None:
        """Put checkpoint `i` into the module.

        Raises:
            ForeignFormatError: it does not fit; NotFiniteError, a weight in it is NaN or infinite.
        """
        checkpoint = self.dump.checkpoints[i]
        number = "The checkpoint" if checkpoint.epoch is None else f"Checkpoint {checkpoint.epoch}"
        where = f"{number} in {checkpoint.file}"
        state = _in_module(self.module, self.cleaning(checkpoint.load()), self.names, where)
        for name, _ in self.module.named_parameters():
            x = state.get(name)
            if x is not None and not x.isfinite().all():
                raise NotFiniteError(
                    f"{where}: `{name}` must hold finite numbers; got {int(x.isnan().sum())} NaN, "
                    f"{int(x.isinf().sum())} infinite, of {x.numel()}."
                )
        self.module.load_state_dict(state, strict=False)  # what is tied stands under one of its names

    def recorder(self, folder: Path, source: Mapping[str, Any]) -> Recorder:
        """Recorder of the checkpoints; the first that is finite is in the module.

        Raises:
            ForeignFormatError: no checkpoint is finite.
            InvalidArgumentError, UnknownNameError: as `interp.record`, where the module does not fit the task.
        """
        first, broken = 0, list[str]()
        while True:
            try:
                self.load(first)
                break
            except NotFiniteError as error:
                broken.append(left_out(error))
                first += 1
                if first == len(self.steps):
                    raise
        steps = self.steps[first:]
        stored: dict[str, Any] = {name: target for name, target in self.names.items() if target is not None}
        return record_files(
            folder,
            self.module,
            steps=steps,
            save=schedule_of(steps),
            task=self.own.task,
            names=stored,
            forward=self.own.forward,
            neurons=self.own.neurons,
            files=self.found(source, broken),
        )

    def found(self, source: Mapping[str, Any], broken: Sequence[str] = ()) -> dict[str, Any]:
        """Record of what is found and assumed, for run.json."""
        match self.own.task:
            case Examples() as examples:
                task = f"{examples.inputs}, answers {examples.answers}"
            case TaskConfig() as config:
                task = f"{config.slug}, as given"
            case _:
                task = "none: measures of the weights alone apply; `task` adds inputs and answers"
        found = {
            **source,
            "task": task,
            "assumed": list(self.assumed),
            "said": [*self.dump.said, *self.cleaning.said, *broken],
        }
        return found if self.dump.has_steps else {**found, "counts": "checkpoints"}

    def each(self, take: Callable[[int], None], first: int = 0) -> tuple[list[int], list[str]]:
        """Load every checkpoint behind step `first`, and have it taken; steps of these, and sentences about others."""
        kept, broken = list[int](), list[str]()
        for i, step in enumerate(self.steps):
            if step <= first:
                continue
            try:
                self.load(i)
            except NotFiniteError as error:
                broken.append(left_out(error))
                continue
            take(step)
            kept.append(step)
        return kept, broken


def fit_files(dump: Dump, own: OwnModule, names: Names, assume: Mapping[str, Any], given: bool) -> ModuleFit:
    """The way of the files' weights into a module.

    Arguments:
        names: stored names by the module's own, as `interp.record` takes them; None leaves an entry of the file out.
        assume: fields of the task's config ("task.p"), and "steps", the meaning of the numbers.
        given: whether the user has numbered the checkpoints.

    Raises:
        ForeignFormatError: the last checkpoint lacks a parameter, holds another entry, or one of another shape.
        ConfigError: `assume` is of other fields, or of a task beside `task`.
    """
    own = replace(own, task=_task(own.task, assume))
    module = copy.deepcopy(unwrapped(own.module)).cpu()
    last = dump.checkpoints[-1]
    state = last.load()
    cleaning = _cleaning(module, state)
    _in_module(module, cleaning(state), names, f"The last checkpoint, in {last.file},")
    epochs = [checkpoint.epoch for checkpoint in dump.checkpoints]
    script = dump.script or ""
    updates = assumed_updates(assume["steps"], epochs) if "steps" in assume else int(bool(script))
    unproven = prove([], {}, updates=updates, tests_after_update=False)
    steps, assumed = steps_of(replace(dump, curves={}), unproven, script, given or "steps" in assume)
    if dump.curves:
        names_of = ", ".join(sorted(dump.curves))
        dump = replace(dump, said=(*dump.said, f"ignored {names_of} of the files: measures compute them again"))
    return ModuleFit(own, module, dump, cleaning, names, steps, tuple(assumed))


def _task(task: Examples | TaskConfig | None, assume: Mapping[str, Any]) -> Examples | TaskConfig | None:
    """The task that is given, or that fields of its config describe."""
    fields = {name: value for name, value in assume.items() if name != "steps"}
    if others := [name for name in fields if not name.startswith("task.")]:
        raise ConfigError(f"`assume` can have task.FIELD and steps where `model` is given; got {others[0]}.")
    if fields and task is not None:
        raise ConfigError(f"`task` is given: `assume` must leave out {next(iter(fields))}.")
    return RunConfig().replace(fields).task if fields else task


def _cleaning(module: nn.Module, state: State) -> Cleaning:
    """The prefix under which a file has the names of the module.

    Raises:
        ForeignFormatError: there are several.
    """
    inside = unwrapped_names(state)
    names = [group[0] for group in _tied(module)]
    fitting = {name.removesuffix(own) for own in names for name in inside if name == own or name.endswith(f".{own}")}
    shares = {prefix: sum(prefix + own in inside for own in names) for prefix in fitting}
    most = max(shares.values(), default=0)
    best = sorted(sorted(prefix for prefix, share in shares.items() if share == most), key=len)
    if len(best) > 1 and best[0]:
        raise ForeignFormatError(
            f"The file holds the parameters of the module more than once, under `{'`, `'.join(best[:MOST])}`: save the "
            "state dict of one."
        )
    prefix = best[0] if best else ""
    outside = tuple(name for name in inside if not name.startswith(prefix))
    return Cleaning(prefix, inside.keys() != state.keys(), outside=outside)


def _in_module(module: nn.Module, state: State, names: Names, where: str) -> dict[str, Tensor]:
    """The entries of a file that are the module's, under its names, each in its shape.

    Raises:
        ForeignFormatError: one is missing, is none of the module's, or has another shape.
    """
    left = {name for name, target in names.items() if target is None}
    found = {name: x for name, x in state.items() if name not in left}
    groups = _tied(module)
    shapes = {plain: tuple(x.shape) for plain, (_, x) in _entries(module).items()}
    missing = [group[0] for group in groups if not any(name in found for name in group)]
    unexpected = [name for name in found if name not in shapes]
    other = [name for name in found if name in shapes and tuple(found[name].shape) != shapes[name]]
    wrong = {
        "lacks ": missing,
        "holds besides ": unexpected,
        "has in another shape ": [f"{name} {tuple(found[name].shape)} for {shapes[name]}" for name in other],
    }
    if any(wrong.values()):
        told = "; it ".join(f"{what}{_listed(some)}" for what, some in wrong.items() if some)
        remedy = ". `names` with null (None) leaves an entry out" if unexpected and not missing and not other else ""
        raise ForeignFormatError(
            f"{where} must have the parameters and buffers of {type(module).__name__}; it {told}{remedy}."
        )
    for group in groups:
        there = [name for name in group if name in found]
        if apart := [name for name in there[1:] if not torch.equal(found[name], found[there[0]])]:
            raise ForeignFormatError(
                f"{where} must have one tensor as `{there[0]}` and `{apart[0]}`, which are tied in "
                f"{type(module).__name__}; they differ."
            )
    entries = _entries(module)
    return {entries[name][0]: x for name, x in found.items()}


def _entries(module: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Entries of the module's state dict by their names without wrappers: full name, and the tensor itself."""
    state = module.state_dict(keep_vars=True)
    plain = unwrapped_names(dict(zip(state, state)))
    return {name: (full, state[full]) for name, full in plain.items()}


def _tied(module: nn.Module) -> list[list[str]]:
    """Names of each tensor of the module: several where weights are tied."""
    groups: dict[int, list[str]] = {}
    for name, (_, x) in _entries(module).items():
        groups.setdefault(id(x), []).append(name)
    return list(groups.values())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST} others" if len(names) > MOST else ""
    return ", ".join(f"`{name}`" for name in names[:MOST]) + more
