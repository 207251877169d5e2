"""The run behind a dump: its operation, split and steps, with a proof that the weights are read correctly."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from interp.config import Modular, RunConfig, Save
from interp.config.schedule import Every, Schedule, Steps
from interp.config.tasks import Operation
from interp.errors import ConfigError, ForeignFormatError
from interp.importers.files import Dump
from interp.importers.layouts import Description, Layout
from interp.importers.proof import Outputs, Proof, prove
from interp.importers.splits import SplitReading, read_split
from interp.importers.states import Cleaning, Renaming
from interp.models import Network, build_model
from interp.tasks import Examples, build_task

__all__ = [
    "CheckpointReader",
    "ImportedRun",
    "NotFiniteError",
    "assumed_updates",
    "kept_steps",
    "left_out",
    "read_run",
    "schedule_of",
    "steps_of",
]

NUMBERINGS = ("updates", "indices")
"""Meanings of a checkpoint's number n: it has seen n updates, or n + 1 (n is the index of the last update)."""
LARGEST = 2**29
"""Bound on the numbers of an evaluation: pairs times positions times the width of the widest layer."""
AT_ONCE = 2**26
"""Bound on those that are held at once; with more, pairs are evaluated in batches."""
POSITIONS = 3
"""Largest number of positions of an input."""
PROVEN = 0.9
"""Accuracy over all pairs above which the answers prove that weights are read correctly."""
LEARNT = 3
"""Multiple of chance accuracy above which a network's answers determine the operation."""


class NotFiniteError(ForeignFormatError):
    """Weights of a checkpoint are NaN or infinite."""


class CheckpointReader:
    """Weights and logits of one checkpoint after the other, through one model."""

    def __init__(
        self, layout: Layout, cleaning: Cleaning, rename: Renaming, config: RunConfig, task: Examples, batches: int
    ) -> None:
        self._layout, self._cleaning, self._rename = layout, cleaning, rename
        unused = torch.Generator()  # the draws are overwritten
        self._model: Network = build_model(config.model, task.d_vocab, task.n_ctx, task.d_vocab_out, generator=unused)
        self._shapes = {name: tuple(x.shape) for name, x in self._model.state_dict().items()}
        self._batches = [
            self._model.prepare(tokens) for tokens in task.tokens.split(max(1, math.ceil(len(task.tokens) / batches)))
        ]

    def read(self, dump: Dump, i: int) -> dict[str, Tensor]:
        """The weights of checkpoint `i` under this package's names, in float32."""
        checkpoint = dump.checkpoints[i]
        number = "The checkpoint" if checkpoint.epoch is None else f"Checkpoint {checkpoint.epoch}"
        where = f"{number} in {checkpoint.file}"
        try:
            state = self._cleaning(self._rename(checkpoint.load()))
        except ForeignFormatError as error:
            raise ForeignFormatError(f"{where}: {error}") from None
        if not self._layout.matches(state):
            raise ForeignFormatError(f"{where} must be of the format {self._layout.name}, as the last checkpoint is.")
        weights = self._layout.translate(state, dump.about)
        if missing := self._shapes.keys() - weights.keys():
            raise ForeignFormatError(f"{where} must hold every parameter; it lacks {', '.join(sorted(missing))}.")
        for name, shape in self._shapes.items():
            if tuple(weights[name].shape) != shape:
                raise ForeignFormatError(
                    f"{where}: `{name}` must have shape {shape}, as the other parameters say; "
                    f"got {tuple(weights[name].shape)}."
                )
        numbers = {name: weights[name].to(torch.float32) for name in sorted(self._shapes)}
        for name, x in numbers.items():
            if not x.isfinite().all():
                raise NotFiniteError(
                    f"{where}: `{name}` must hold finite float32 numbers; got {int(x.isnan().sum())} NaN, "
                    f"{int(x.isinf().sum())} infinite, of {x.numel()}."
                )
        return numbers

    def outputs(self, weights: Mapping[str, Tensor]) -> Outputs:
        """Outputs for all pairs."""

        @torch.no_grad()
        def batches() -> Iterator[Tensor]:
            self._model.load_state_dict(dict(weights))
            for batch in self._batches:
                yield self._model.answer_logits(batch)

        return Outputs(batches, at_once=len(self._batches) == 1)


@dataclass(frozen=True)
class ImportedRun:
    """A dump with its config, split, steps and proof."""

    dump: Dump
    """Checkpoints, without those that were seen not to be finite."""
    config: RunConfig
    examples: Examples
    reader: CheckpointReader
    proof: Proof
    steps: tuple[int, ...]
    """Updates that each checkpoint has seen."""
    operation: str
    """Source of the operation, in words."""
    doubt: str
    """The operation that the weights answer instead, in words; empty where no other operation fits far better."""
    split_origin: str
    """Source of the split, in words."""
    assumed: tuple[str, ...]
    """Assumptions that neither files nor user confirm."""
    said: tuple[str, ...] = ()
    """Sentences about entries and files that were chosen, taken off, left out or ignored."""


def read_run(
    dump: Dump,
    layout: Layout,
    cleaning: Cleaning,
    described: Description,
    last: Mapping[str, Tensor],
    assume: Mapping[str, Any],
    given: bool = False,
    rename: Renaming | None = None,
) -> ImportedRun:
    """Operation, split and steps of a dump, and the proof that its weights are read correctly.

    `last` are the translated weights of the last checkpoint; `given` says that the user has numbered the checkpoints,
    `rename` the user's names of entries.

    Raises:
        ForeignFormatError: the weights do not reproduce the stored losses, or contradict `assume` or each other.
        ConfigError: `assume` breaks a rule of the config, or numbers files without numbers.
    """
    config = described.config.replace({key: value for key, value in assume.items() if key != "steps"})
    task = _modular(config)
    widest = max(task.arity + 1, POSITIONS) * max(
        x.shape[0] * x.shape[-1] if x.ndim == 3 else max(x.shape, default=1) for x in last.values()
    )
    inputs = task.p**task.arity
    if inputs * widest > LARGEST:
        raise ForeignFormatError(
            f"All pairs, evaluated at once or in batches, must take at most {LARGEST} numbers; the {inputs} inputs "
            f"of p = {task.p} take {widest} numbers each."
        )
    reader = CheckpointReader(
        layout, cleaning, rename or Renaming({}), config, build_task(task), math.ceil(inputs * widest / AT_ONCE)
    )
    dump, outputs = _looked_at(dump, reader)
    epochs = [checkpoint.epoch for checkpoint in dump.checkpoints]

    script = layout.script if dump.script is None else dump.script
    updates = assumed_updates(assume["steps"], epochs) if "steps" in assume else int(bool(script))
    unproven = prove([], {}, updates=updates, tests_after_update=layout.tests_after_update)

    def prove_with(examples: Examples) -> Proof:
        precision = config.optimizer.loss_precision
        numbers = [(e, x.numbers(examples, precision)) for i, x in outputs.items() if (e := epochs[i]) is not None]
        return prove(numbers, dump.curves, updates=updates, tests_after_update=layout.tests_after_update)

    drawn_by_none = set[str]()

    def split_of(candidate: Modular) -> SplitReading:
        names_split = "task.split" in assume or "task.seed" in assume  # a fraction alone names no pairs
        return read_split(
            candidate,
            dump,
            unshuffled=_modular(described.config).train_fraction if described.unshuffled else 0.0,
            known=described.knows_split or names_split,
            prove_with=prove_with,
            unproven=unproven,
            drawn_by_none=drawn_by_none,
            losses_of=lambda answers: [x.losses(answers) for x in outputs.values()],
        )

    assumed = list(described.assumed)
    operation, candidates, doubt = _operations(task, outputs[max(outputs)], _source_of_operation(described, assume))
    readings = (split_of(candidate) for candidate in candidates)
    found = first = next(readings)
    if operation == "assumed":  # the network has learnt too little for its answers to decide; its losses may
        found = next((reading for reading in (first, *readings) if reading.proof.agrees), first)
        if found.proof.agrees:
            operation = "found: it reproduces the stored numbers"
        else:
            assumed.append(f"operation {found.task.operation}")
    task, proof = found.task, found.proof
    learnt = float((outputs[max(outputs)].guesses() == found.examples.labels).double().mean()) >= PROVEN
    if proof.compared and not proof.agrees and dump.beside and learnt:  # of another run, or means over many steps
        line = (
            f"ignored {dump.beside}: {proof.example}, and the network's answers show that its weights are read rightly"
        )
        without = replace(dump, curves={}, beside="", said=(*dump.said, line))
        return read_run(without, layout, cleaning, described, last, assume, given, rename)
    if proof.compared and not proof.agrees:
        raise ForeignFormatError(
            f"The file does not reproduce its own numbers, read as {layout.name}, {task.operation} mod {task.p}, the "
            f"split {found.origin}: {proof.example}. Is the operation another (`assume` task.operation), or the "
            "activation?"
        )
    if "steps" in assume and proof.updates != updates:
        raise ForeignFormatError(
            "`assume` steps must agree with the stored losses, by which the checkpoints' numbers are "
            f"{NUMBERINGS[proof.updates]}; got {assume['steps']}."
        )
    if found.needs_mask:
        n, n_train = int((found.examples.train | found.examples.test).sum()), int(found.examples.train.sum())
        share = min(max(n_train, 1), n - 1) / n if found.origin.startswith("stored") else task.train_fraction
        task = task.replace({"split": "stored", "train_fraction": share})
    steps, assumed_steps = steps_of(dump, proof, script, given or "steps" in assume)
    changes: dict[str, Any] = {"task": task}
    if config.model.init_stream == "split" and task.split != "torch-randperm":
        changes["model.init_stream"] = "seed"
    config = kept_steps(config.replace(changes), steps)
    return ImportedRun(
        dump,
        config,
        found.examples,
        reader,
        proof,
        steps,
        operation,
        doubt,
        found.origin,
        (*assumed, *assumed_steps),
        (*dump.said, *cleaning.said),
    )


def _looked_at(dump: Dump, reader: CheckpointReader) -> tuple[Dump, dict[int, Outputs]]:
    """Outputs of the first, the middle and the last checkpoint, and the dump without those that are not finite."""
    while True:
        epochs = [checkpoint.epoch for checkpoint in dump.checkpoints]
        numbered = [i for i, epoch in enumerate(epochs) if epoch is not None] or [0]
        chosen = sorted({numbered[0], numbered[len(numbered) // 2], numbered[-1], len(epochs) - 1})
        outputs = dict[int, Outputs]()
        try:
            for i in chosen:
                outputs[i] = reader.outputs(reader.read(dump, i))
        except NotFiniteError as error:
            if len(dump.checkpoints) == 1:
                raise
            rest = (*dump.checkpoints[: (at := chosen[len(outputs)])], *dump.checkpoints[at + 1 :])
            dump = replace(dump, checkpoints=rest, said=(*dump.said, left_out(error)))
            continue
        return dump, outputs


def left_out(error: NotFiniteError) -> str:
    """The sentence about a checkpoint that is not imported."""
    return f"left out: {error}"


def steps_of(dump: Dump, proof: Proof, script: str, given: bool) -> tuple[tuple[int, ...], list[str]]:
    """Updates that each checkpoint has seen, and assumptions about them unless the user has `given` the numbering."""
    epochs = [checkpoint.epoch for checkpoint in dump.checkpoints]
    seen = [checkpoint.updates for checkpoint in dump.checkpoints]
    steps = tuple((1 if n is None else n) if e is None else e + proof.updates for e, n in zip(epochs, seen))
    assumed = []
    if (None, None) in zip(epochs, seen):
        assumed.append("step 1: the file does not say how many updates were made")
    last = next((epoch for epoch in reversed(epochs) if epoch is not None), None)
    if not dump.has_steps and last is not None:
        assumed.append(
            "steps: not known, so that the checkpoints are numbered in their order; `steps` (--steps 0,500,...) gives "
            "them"
        )
    elif last is not None and not given and not proof.tells_updates:
        why = f"as by {script}" if script else "its loss is of weights one update older"
        after = f" (saved after update {last}: {why})" if proof.updates else ""
        assumed.append(f"steps: checkpoint {last} has seen {last + proof.updates} updates{after}")
    if epochs[-1] is None and seen[-1] is not None and dump.curves:
        assumed.append(f"step {steps[-1]}: the last weights follow the last stored loss")
    if any(late <= early for early, late in itertools.pairwise(steps)):
        raise ForeignFormatError(f"The checkpoints must have different numbers; got {', '.join(map(str, epochs[:8]))}.")
    return steps, assumed


def assumed_updates(numbering: object, epochs: Sequence[int | None]) -> int:
    """Updates minus number of a checkpoint, by the user's `numbering`."""
    if numbering not in NUMBERINGS:
        raise ConfigError(
            "`assume` steps must be updates (a checkpoint's number is the number of its updates) or indices (of the "
            f"update just made, from 0); got {numbering!r}."
        )
    if all(epoch is None for epoch in epochs):
        raise ConfigError("`assume` steps is the meaning of the checkpoints' numbers; these files have no numbers.")
    return NUMBERINGS.index(numbering)


def _modular(config: RunConfig) -> Modular:
    if not isinstance(config.task, Modular):
        raise ConfigError(f"`assume` must leave the task a Modular one; got {type(config.task).__name__}.")
    return config.task


def _source_of_operation(described: Description, assume: Mapping[str, Any]) -> str:
    """Source of a stated operation, in words; empty where nothing states it."""
    if "task.operation" in assume:
        return "as assumed"
    return "given by the configuration" if described.knows_operation else ""


def _operations(task: Modular, outputs: Outputs, source: str) -> tuple[str, list[Modular], str]:
    """Operations to try: the stated operation (if it has a `source`), else the network's answers decide, else all.

    Before and after the tasks to try: the source of the operation in words, and a doubt where the answers contradict
    the statement.
    """
    accuracy = {}
    for operation in dict.fromkeys([*get_args(Operation), task.operation]):
        try:
            candidate = task.replace({"operation": operation})
        except ConfigError:  # division, where p is not prime
            continue
        full = build_task(candidate)
        correct = outputs.guesses() == full.labels
        accuracy[candidate] = float(correct[full.train | full.test].double().mean())
    best = max(accuracy, key=lambda candidate: accuracy[candidate])
    learnt = accuracy[best] >= LEARNT / task.p
    if not source:
        found = f"found: {accuracy[best]:.1%} of all pairs are answered by it" if learnt else "assumed"
        return found, [best] if learnt else list(accuracy), ""
    stated = f"{source}; {accuracy[task]:.1%} of all pairs are answered by it"
    if not learnt or accuracy[best] < 2 * accuracy[task]:
        return stated, [task], ""
    better = f"{accuracy[best]:.1%} of all pairs by {best.operation}"
    doubt = f"the weights answer {better} and {accuracy[task]:.1%} by {task.operation}"
    return f"{stated}, {accuracy[best]:.1%} by {best.operation}", [task], doubt


def kept_steps(config: RunConfig, steps: Sequence[int]) -> RunConfig:
    """The run with weights of these steps."""
    return config.replace({"steps": max(1, steps[-1]), "save": Save(weights=schedule_of(steps))})


def schedule_of(steps: Sequence[int]) -> Schedule:
    """Shortest schedule of these steps."""
    gaps = set(np.diff(steps).tolist())
    even = len(gaps) == 1 and steps[0] % min(gaps) == 0
    return Every(min(gaps)) if even else Steps(tuple(steps))
