"""The update that the loop repeats, of one run or of several; here that of one: forward, loss, backward, optimiser."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.optim import learning_rate, set_learning_rate
from interp.training.capture import CapturedEvaluations, Split, captured
from interp.training.state import TrainState

__all__ = ["Step", "TrainingStep", "captured_update"]


class Step(ABC):
    """The update of one run or of several, made in place again and again; on CUDA it is a captured graph.

    Results lie on the device and are not waited for; the next call overwrites them.

    Arguments:
        states: the runs. A step holds their hyper-parameters: after an event, another is built.
    """

    def __init__(self, states: Sequence[TrainState]) -> None:
        self.exact_pass = all(state.exact_pass for state in states)
        """Whether the loss of an update's pass is the training loss, in every run."""

    @abstractmethod
    def __call__(self, step: int) -> Float[Tensor, "run 2"]:
        """Make the update that leads from `step` to `step + 1`; returns loss and accuracy of its pass, for each run."""

    @abstractmethod
    def evaluate(self, split: Split) -> Float[Tensor, "run 2"]:
        """Cross-entropy and accuracy of each run over all inputs of a split."""


class TrainingStep(Step):
    """The update of one run: forward, loss, backward, optimiser."""

    def __init__(self, state: TrainState) -> None:
        super().__init__([state])
        self._state = state
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result = torch.zeros(1, 2, dtype=torch.float64, device=state.device)
        self._loss, self._accuracy = self._result[0]
        self._batch = state.batch_indices(0).clone() if state.minibatches else None
        mask = state.dropout_mask(0)
        self._dropout = None if mask is None else mask.to(state.device)
        if state.device.type == "cuda":
            self._graph = captured_update(self._update, [state])
        self._evaluations = None if self._graph is None else CapturedEvaluations(self._graph)

    def evaluate(self, split: Split) -> Float[Tensor, "1 2"]:
        """See `Step.evaluate`."""
        return self._evaluate(split) if self._evaluations is None else self._evaluations(self._evaluate, split)

    def _evaluate(self, split: Split) -> Float[Tensor, "1 2"]:
        return self._state.evaluate(split)[None]

    def __call__(self, step: int) -> Float[Tensor, "1 2"]:
        """See `Step.__call__`."""
        state = self._state
        lr = learning_rate(state.current.optimizer, step)
        set_learning_rate(state.optimizer, lr)
        for intervention in state.interventions:
            intervention.prepare(step, lr)
        if self._batch is not None:
            self._batch.copy_(state.batch_indices(step))
        if self._dropout is not None and (mask := state.dropout_mask(step)) is not None:
            self._dropout.copy_(mask)
        if self._graph is None:
            self._update()
        else:
            self._graph.replay()
        return self._result

    def _update(self) -> None:
        state = self._state
        batch, labels = state.train if self._batch is None else state.select(self._batch)
        if self._dropout is not None:
            batch = replace(batch, dropout=self._dropout)
        if not state.interventions:
            loss, correct = state.differentiate(batch, labels)
        else:
            with contextlib.ExitStack() as stack:
                for intervention in state.interventions:
                    stack.enter_context(intervention.around())
                loss, correct = state.differentiate(batch, labels)
        for intervention in state.interventions:
            intervention.before()
        state.optimizer.step()
        for intervention in state.interventions:
            intervention.after()
        self._loss.copy_(loss)
        self._accuracy.copy_(correct.mean(dtype=torch.float64))


def captured_update(update: Callable[[], None], states: Sequence[TrainState]) -> torch.cuda.CUDAGraph:
    """The update as a CUDA graph, with weights and optimisers as they were before."""
    before = [(state.weights(), state.moments()) for state in states]  # on CUDA these are copies

    def drop_gradients() -> None:
        for state in states:
            state.optimizer.zero_grad(set_to_none=True)

    graph, _ = captured(update, drop_gradients)
    for state, (weights, moments) in zip(states, before, strict=True):
        state.put_back(weights, moments)
    return graph
