"""Ensembles: runs of equal shape in one batched step, with the weights of all members in one tensor per parameter.

    W [member, ...]      stacked weights; model and optimiser state of each member are views of them
    outputs              torch.func.vmap of the network's pass over members, their inputs and their batches
    gradient             of the sum of the losses, which is the gradient of each member's own loss
    update               one optimiser for all members with equal hyper-parameters, on stacked weights on CUDA, on each
                         member's own weights on the CPU; interventions member by member

A member differs from the run of its config alone by the rounding of its products, if at all: seeds, splits, batches,
draws and events are its own. Training sets may differ in size: shorter ones are padded with inputs of weight 0.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from interp.config import RunConfig, TaskConfig
from interp.config.events import AtStep, parse_event
from interp.errors import ConfigError
from interp.models import Batch, Network
from interp.optim import build_optimizer, learning_rate, set_learning_rate
from interp.tasks import build_task
from interp.tasks.objective import mean_of
from interp.training.capture import CapturedEvaluations, Split
from interp.training.state import TrainState
from interp.training.step import Step, captured_update

__all__ = ["EnsembleStep", "require_equal_inputs", "require_equal_shape", "shape_of"]

SHARED_OPTIMIZER_FIELDS = ("batch_size", "loss", "loss_precision", "frozen")
"""Fields of the optimiser in which members must agree; in all others they may differ."""


def require_equal_inputs(runs: Sequence[TrainState]) -> None:
    """Raise a `ConfigError` where the inputs of runs of equal shape cannot be stacked."""
    for own, others in (("train", "test"), ("test", "train")):
        _Stacked(runs[0].model, [(getattr(run, own), getattr(run, others)) for run in runs])
    _require_batched_pass(runs[0])


def shape_of(config: RunConfig) -> str:
    """Key of the fields in which the members of an ensemble must agree: configs with equal keys can be batched.

    Example:
        >>> config = RunConfig()
        >>> shape_of(config) == shape_of(config.replace({"seed": 1, "optimizer.lr": 0.01, "task.train_fraction": 0.4}))
        True
        >>> shape_of(config) == shape_of(config.replace({"task.p": 97}))
        False
    """
    return repr(sorted(_fields(config).items()))


def require_equal_shape(configs: Sequence[RunConfig]) -> None:
    """Raise a `ConfigError` that names the fields in which configs differ and the members of an ensemble must not."""
    first = _fields(configs[0])
    for i, config in enumerate(configs):
        other = _fields(config)
        differing = sorted(path for path in first | other if first.get(path) != other.get(path))
        if differing:
            raise ConfigError(
                f"Runs that are trained together must agree in {', '.join(f'`{path}`' for path in differing)}; "
                f"the first and number {i + 1} do not. Train them apart, or in ensembles of equal shape."
            )


class EnsembleStep(Step):
    """The update of several runs of equal shape, whose results are in the order of `runs`.

    With `stacked_updates`, optimisers change the stacked weights: the default on CUDA and for logistic regression. On
    the CPU the fused optimisers round the last numbers of a tensor differently, which deep networks amplify: there each
    member's own tensors are changed.
    """

    def __init__(self, runs: Sequence[TrainState], stacked_updates: bool | None = None) -> None:
        super().__init__(runs)
        require_equal_shape([run.current for run in runs])
        device = runs[0].device
        kinds = [f"{run.current.optimizer} {_remembered(run)}" for run in runs]
        if stacked_updates is None:
            stacked_updates = device.type == "cuda" or runs[0].objective.has_slopes
        order = sorted(range(len(runs)), key=lambda i: kinds.index(kinds[i]))  # equal optimisers side by side
        self._runs = [runs[i] for i in order]
        self._first = self._runs[0]
        self._place = torch.tensor(order, device=device).argsort()
        self._module = _Outputs(self._first)
        self._inputs = {
            "train": _Stacked(self._first.model, [(run.train, run.test) for run in self._runs]),
            "test": _Stacked(self._first.model, [(run.test, run.train) for run in self._runs]),
        }
        self._weights = self._stack_weights()
        self._groups: list[_Group] = []
        for count in Counter(kinds).values():  # in the order in which they first occur
            start = sum(len(group.runs) for group in self._groups)
            rows = slice(start, start + count)
            weights = {name: W.detach()[rows] for name, W in self._weights.items()} if stacked_updates else None
            self._groups.append(_Group(self._runs[rows], weights, rows))
        self._result = torch.zeros(len(runs), 2, dtype=torch.float64, device=device)
        self._batch = self._draw_batches(0) if self._first.minibatches else None
        self._dropout = self._draw_dropout(0)
        self._graph = captured_update(self._update, self._runs) if device.type == "cuda" else None
        self._evaluations = None if self._graph is None else CapturedEvaluations(self._graph)

    def evaluate(self, split: Split) -> Float[Tensor, "member 2"]:
        """See `Step.evaluate`."""
        evaluate = self._evaluate
        return evaluate(split) if self._evaluations is None else self._evaluations(evaluate, split)

    def _evaluate(self, split: Split) -> Float[Tensor, "member 2"]:
        inputs = self._inputs[split]
        with torch.no_grad():
            if split == "test" and self._first.objective.has_population:
                return self._first.population(self._weights)[self._place]
            precision = self._first.config.optimizer.loss_precision
            loss, correct = self._first.objective.loss(
                self._outputs(inputs), inputs.labels, precision, weights=inputs.weights
            )
            return _metrics(loss, correct, inputs.weights)[self._place]

    def __call__(self, step: int) -> Float[Tensor, "member 2"]:
        """See `Step.__call__`."""
        for group in self._groups:
            group.prepare(step)
        if self._batch is not None:
            self._batch.copy_(self._draw_batches(step))
        if self._dropout is not None and (masks := self._draw_dropout(step)) is not None:
            self._dropout.copy_(masks)
        if self._graph is None:
            self._update()
        else:
            self._graph.replay()
        return self._result[self._place]

    def _update(self) -> None:
        inputs, optimizer = self._inputs["train"], self._first.current.optimizer
        labels, weights = inputs.labels, inputs.weights
        if self._batch is not None:
            labels, weights = torch.stack([own[batch] for own, batch in zip(labels, self._batch)]), None
        with contextlib.ExitStack() as stack:
            for group in self._groups:
                for intervention in group.interventions:
                    stack.enter_context(intervention.around())
            if self._first.objective.has_slopes and self._batch is None:
                loss, correct, gradients = self._first.closed_form(inputs.leaves[0], self._weights)
            else:
                outputs = self._outputs(inputs, self._batch, self._dropout)
                loss, correct = self._first.objective.loss(
                    outputs, labels, optimizer.loss_precision, optimizer.loss, weights
                )
                trained = {name: W for name, W in self._weights.items() if W.requires_grad}
                found = torch.autograd.grad(loss.sum(), list(trained.values()))
                gradients = {name: g.contiguous() for name, g in zip(trained, found)}  # as the fused optimisers need
        for group in self._groups:
            group.update(gradients)
        self._result.copy_(_metrics(loss.detach(), correct, weights))

    def _outputs(self, inputs: "_Stacked", batch: Tensor | None = None, dropout: Tensor | None = None) -> Tensor:
        """Outputs of every member for its inputs, by its own weights."""

        def of_member(
            weights: dict[str, Tensor], leaves: list[Tensor], batch: Tensor | None, dropout: Tensor | None
        ) -> Tensor:
            prepared = inputs.rebuilt(leaves)
            prepared = prepared if batch is None else prepared.select(batch)
            prepared = prepared if dropout is None else replace(prepared, dropout=dropout)
            named = {f"model.{name}": W for name, W in weights.items()}
            return torch.func.functional_call(self._module, named, (prepared,))

        in_dims = (0, 0, None if batch is None else 0, None if dropout is None else 0)
        return torch.func.vmap(of_member, in_dims)(self._weights, inputs.leaves, batch, dropout)

    def _stack_weights(self) -> dict[str, Tensor]:
        """Stack each parameter over members; the rows become the members' own parameters."""
        own = [dict(run.model.named_parameters()) for run in self._runs]
        stacks = {name: torch.stack([parameters[name].detach() for parameters in own]) for name in own[0]}
        for row, parameters in enumerate(own):
            for name, W in parameters.items():
                W.data = stacks[name][row]
        return {name: stack.requires_grad_(own[0][name].requires_grad) for name, stack in stacks.items()}

    def _draw_batches(self, step: int) -> Tensor:
        return torch.stack([run.batch_indices(step) for run in self._runs])

    def _draw_dropout(self, step: int) -> Tensor | None:
        drawn = [run.dropout_mask(step) for run in self._runs]
        masks = [mask for mask in drawn if mask is not None]
        longest = max((len(mask) for mask in masks), default=0)
        filled = [F.pad(mask, (0, 0, 0, longest - len(mask))) for mask in masks]
        return torch.stack(filled).to(self._result.device) if filled else None


def _require_batched_pass(run: TrainState) -> None:
    """Raise a `ConfigError` where torch cannot take the network's pass for several members at once."""
    batch = run.train[0].select(torch.zeros(1, dtype=torch.long, device=run.device))
    module = _Outputs(run)
    twice = {f"model.{name}": W.detach().expand(2, *W.shape) for name, W in run.model.named_parameters()}
    try:
        with torch.no_grad():
            torch.func.vmap(lambda weights: torch.func.functional_call(module, weights, (batch,)))(twice)
    except Exception as error:  # of torch's, of any kind
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"`{type(run.config.model).__name__}` cannot be trained in an ensemble, since torch.func.vmap refuses "
            f"its pass: {reason} Train these runs one by one."
        ) from error


class _Group:
    """Neighbouring members with equal hyper-parameters, which share one optimiser.

    The optimiser changes the stacked `weights` where they are given, and else each member's own tensors.
    """

    def __init__(self, runs: list[TrainState], weights: dict[str, Tensor] | None, rows: slice) -> None:
        self.runs, self.rows = runs, rows
        self.interventions = [one for run in runs for one in run.interventions]
        self._own = [dict(run.model.named_parameters()) for run in runs]
        self._stacks = {
            name: nn.Parameter(W, requires_grad=self._own[0][name].requires_grad) for name, W in (weights or {}).items()
        }
        changed = [self._stacks] if self._stacks else self._own
        names = ((f"{name} {i}", W) for i, parameters in enumerate(changed) for name, W in parameters.items())
        self.config = runs[0].current.optimizer

        def muon_turns(name: str, ndim: int) -> bool:
            return runs[0].model.muon_turns(name.rpartition(" ")[0], ndim)

        self.optimizer = build_optimizer(self.config, names, muon_turns=muon_turns, stacked=bool(self._stacks))
        for name in self._own[0]:
            states = [run.optimizer.state.get(own[name], {}) for run, own in zip(runs, self._own)]
            if states[0] and self._stacks:
                stacked = {key: _stacked([state[key] for state in states]) for key in states[0]}
                self.optimizer.state[self._stacks[name]] = stacked
            elif states[0]:
                self.optimizer.state.update((own[name], state) for own, state in zip(self._own, states))
        self._share_state()

    def prepare(self, step: int) -> None:
        """Set the learning rate of the update that leaves `step`, and let the interventions draw."""
        lr = learning_rate(self.config, step)
        set_learning_rate(self.optimizer, lr)
        for intervention in self.interventions:
            intervention.prepare(step, lr)

    def update(self, gradients: dict[str, Tensor]) -> None:
        """Change the weights of the group; `gradients` are those of all members."""
        for name, gradient in gradients.items():
            if self._stacks:
                self._stacks[name].grad = gradient[self.rows]
            if self.interventions or not self._stacks:
                for own, of_member in zip(self._own, gradient[self.rows].unbind()):
                    own[name].grad = of_member
        for intervention in self.interventions:
            intervention.before()
        known = len(self.optimizer.state)
        self.optimizer.step()
        if len(self.optimizer.state) > known:  # the first update, or the first of parameters that were frozen
            self._share_state()
        for intervention in self.interventions:
            intervention.after()

    def _share_state(self) -> None:
        """Give each member its rows of the optimiser's state, to be stored and restored like that of a single run."""
        for row, (run, own) in enumerate(zip(self.runs, self._own)):
            for name, W in own.items():
                state = self.optimizer.state.get(self._stacks.get(name, W))
                if state is not None:
                    run.optimizer.state[W] = _row(state, row) if self._stacks else state


class _Outputs(nn.Module):
    """Outputs of a run's model for a batch, as a module, as `functional_call` needs it."""

    def __init__(self, run: TrainState) -> None:
        super().__init__()
        self.run, self.model = run, run.model

    def forward(self, prepared: Batch) -> Tensor:
        return self.run.outputs(prepared)


class _Stacked:
    """Inputs and labels of all members, stacked; shorter sets are padded with inputs of weight 0.

    `inputs` holds two sets for each member, its own and another to pad with: held-out inputs pad training inputs.
    """

    def __init__(self, model: Network, inputs: list[tuple[tuple[Batch, Tensor], tuple[Batch, Tensor]]]) -> None:
        own = [own for own, _ in inputs]
        sizes = [len(labels) for _, labels in own]
        longest = max(sizes)
        self.weights: Float[Tensor, "member batch"] | None = None
        if min(sizes) < longest:
            first = torch.arange(longest, device=own[0][1].device)
            self.weights = torch.stack([(first < n).double() / n for n in sizes])
            own = [_filled(model, *both, longest) for both in inputs]
        self.labels = torch.stack([labels for _, labels in own])
        self._template = own[0][0]
        everything = [list(_leaves(prepared)) for prepared, _ in own]
        if len({tuple(leaf.shape for leaf in leaves) for leaves in everything}) > 1:
            raise ConfigError(
                "These runs cannot be trained together: their training sets do not hold the same operands, so that "
                "what is computed once per operand differs. Train them apart, or on larger fractions."
            )
        self.leaves = [torch.stack(of_all) for of_all in zip(*everything, strict=True)]

    def rebuilt(self, leaves: Sequence[Tensor]) -> Batch:
        """The prepared of one member, from its part of the leaves."""
        return _with_leaves(self._template, iter(leaves))


def _filled(model: Network, own: tuple[Batch, Tensor], others: tuple[Batch, Tensor], n: int) -> tuple[Batch, Tensor]:
    """The first `n` of a member's own inputs and the others, repeated if they are not enough."""
    tokens, labels = (torch.cat(both) for both in ((own[0].tokens, others[0].tokens), (own[1], others[1])))
    chosen = torch.arange(n, device=labels.device) % len(labels)
    return model.prepare(tokens[chosen]), labels[chosen]


def _leaves(part: Any) -> Iterator[Tensor]:
    """Tensors of a prepared batch, at any depth, in a fixed order."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple):
        for entry in part:
            yield from _leaves(entry)
    elif dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            yield from _leaves(getattr(part, field.name))


def _with_leaves(part: Any, leaves: Iterator[Tensor]) -> Any:
    """A copy of a prepared batch with other tensors, in the order of `_leaves`."""
    if isinstance(part, Tensor):
        return next(leaves)
    if isinstance(part, tuple):
        return tuple(_with_leaves(entry, leaves) for entry in part)
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        return replace(part, **{name: _with_leaves(value, leaves) for name, value in fields.items()})
    return part


def _remembered(run: TrainState) -> list[str]:
    """Names of the optimiser's state so far; runs share an optimiser only where it remembers the same for all."""
    states = run.optimizer.state.values()
    return sorted({key for state in states for key, value in state.items() if value is not None})


def _stacked(values: list[Any]) -> Any:
    """Entry of the optimiser's state, stacked over members; a counter is equal in all of them."""
    if not isinstance(values[0], Tensor):
        return values[0]
    return torch.stack(values) if values[0].ndim else values[0].clone()


def _row(state: dict[str, Any], row: int) -> dict[str, Any]:
    """Entry of the optimiser's state for one member."""
    return {key: value[row] if isinstance(value, Tensor) and value.ndim else value for key, value in state.items()}


def _metrics(loss: Tensor, correct: Tensor, weights: Tensor | None) -> Float[Tensor, "member 2"]:
    return torch.stack([loss.double(), mean_of(correct.double(), weights)], dim=1)


@cache
def _training_inputs(task: TaskConfig) -> int:
    """Number of training inputs of a task."""
    return len(build_task(task).trained)


def _fields(config: RunConfig) -> dict[str, str]:
    """Fields in which the members of an ensemble must agree, by dotted path."""
    data = config.to_dict()
    for name in ("seed", "interventions", "events"):
        data.pop(name, None)
    for part, varying in (("task", config.task.varying), ("model", config.model.varying)):
        for name in varying:
            data[part].pop(name, None)
    data["optimizer"] = {name: data["optimizer"].get(name) for name in SHARED_OPTIMIZER_FIELDS}
    size = data["optimizer"]["batch_size"]
    if size is not None and config.task.split != "stored" and size >= _training_inputs(config.task):
        data["optimizer"]["batch_size"] = None  # all are trained on at once
    shared = {*(f"optimizer.{name}" for name in SHARED_OPTIMIZER_FIELDS), "freeze", "unfreeze"}
    events = map(parse_event, config.events)
    changes = [event for event in events if event.stops or any(path in shared for path, _ in event.changes)]
    if changes:  # at one step in all members, or in a run that is trained alone
        data["events"] = [str(event) for event in changes]
        if any(event.stops or not isinstance(event.when, AtStep) for event in changes):
            data["events"].append(config.run_id)
    return {
        f"{part}.{name}" if name else part: repr(value)
        for part, values in data.items()
        for name, value in (values.items() if isinstance(values, dict) else [("", values)])
    }
