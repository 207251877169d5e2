"""The update of one run, as a step that the loop repeats: forward, loss, backward, optimiser; on CUDA a graph."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.optim import learning_rate, set_learning_rate
from interp.training.capture import CapturedEvaluations, Split, captured
from interp.training.state import TrainState

__all__ = ["TrainingStep", "captured_update"]


class TrainingStep:
    """One update: forward, loss, backward, optimiser. On CUDA it is captured once as a graph and replayed.

    Calling it with `step` updates the session's model in place and returns loss and accuracy of the pass, on the
    device, without waiting for it.
    """

    def __init__(self, session: "TrainState") -> None:
        self.session = session
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result = torch.zeros(2, dtype=torch.float64, device=session.device)
        self._loss, self._accuracy = self._result
        self._batch = session.batch_indices(0).clone() if session.minibatches else None
        mask = session.dropout_mask(0)
        self._dropout = None if mask is None else mask.to(session.device)
        if session.device.type == "cuda":
            self._graph = captured_update(self._update, [session])
        self._evaluations = None if self._graph is None else CapturedEvaluations(self._graph)

    def evaluate(self, split: Split) -> Float[Tensor, "2"]:
        """See `TrainState.evaluate`; on CUDA the next evaluation of the same split overwrites it."""
        evaluate = self.session.evaluate
        return evaluate(split) if self._evaluations is None else self._evaluations(evaluate, split)

    def __call__(self, step: int) -> Float[Tensor, "2"]:
        """Make the update that leads from `step` to `step + 1`."""
        session = self.session
        lr = learning_rate(session.current.optimizer, step)
        set_learning_rate(session.optimizer, lr)
        for intervention in session.interventions:
            intervention.prepare(step, lr)
        if self._batch is not None:
            self._batch.copy_(session.batch_indices(step))
        if self._dropout is not None and (mask := session.dropout_mask(step)) is not None:
            self._dropout.copy_(mask)
        if self._graph is None:
            self._update()
        else:
            self._graph.replay()
        return self._result

    def _update(self) -> None:
        session = self.session
        pairs, labels = session.train if self._batch is None else session.select(self._batch)
        if self._dropout is not None:
            pairs = replace(pairs, dropout=self._dropout)
        if not session.interventions:
            loss, right = session.differentiate(pairs, labels)
        else:
            with contextlib.ExitStack() as stack:
                for intervention in session.interventions:
                    stack.enter_context(intervention.around())
                loss, right = session.differentiate(pairs, labels)
        for intervention in session.interventions:
            intervention.before()
        session.optimizer.step()
        for intervention in session.interventions:
            intervention.after()
        self._loss.copy_(loss)
        self._accuracy.copy_(right.mean(dtype=torch.float64))


def captured_update(update: Callable[[], None], sessions: Sequence[TrainState]) -> torch.cuda.CUDAGraph:
    """The update as a CUDA graph, with weights and optimisers as they were before."""
    before = [(session.weights(), session.moments()) for session in sessions]  # on CUDA these are copies

    def drop_gradients() -> None:
        for session in sessions:
            session.optimizer.zero_grad(set_to_none=True)

    graph, _ = captured(update, drop_gradients)
    for session, (weights, moments) in zip(sessions, before, strict=True):
        session.put_back(weights, moments)
    return graph
