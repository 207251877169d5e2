"""Checkpoints as the measures see them: a few steps at a time, each array computed once and only if asked for."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analysis import geometry, keys, logits, progress, spectra
from interp.models import Model, Pairs
from interp.trajectory import Trajectory

__all__ = ["Source", "View"]

COMPONENTS = 8
"""Principal components that are followed."""
CHUNK_BYTES = 128 * 2**20
"""Activations of this size are held at once."""
CHUNK_STEPS = 64
"""Steps that are held at once where no activations are."""


class View:
    """A few checkpoints as the measures see them: arrays `[step, ...]`, each computed when first asked for."""

    def __init__(self, source: "Source", positions: slice) -> None:
        self._source, self._positions = source, positions
        self.p, self.operation = source.p, source.operation
        self.labels, self.train, self.test = source.labels, source.train, source.test

    @cached_property
    def W_E(self) -> Float[Tensor, "step p d_model"]:
        """Embeddings of the numbers, '=' left out."""
        return torch.from_numpy(np.array(self._source.traj.param("embed.W_E")[self._positions]))[:, : self.p]

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """All parameters."""
        traj = self._source.traj
        return {name: torch.from_numpy(np.array(traj.param(name)[self._positions])) for name in traj.names}

    @cached_property
    def _answers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, neurons and W_L of every pair at every step."""
        model, pairs = self._source.model, self._source.pairs
        parts = []
        with torch.no_grad():
            for i in range(len(next(iter(self.weights.values())))):
                model.load_state_dict({name: value[i] for name, value in self.weights.items()})
                answer = model.answer(pairs)
                # a map that is a parameter itself changes with the next step's weights
                parts.append((answer.logits, answer.neurons, answer.neuron_logit_map.clone()))
        every_logit, neurons, W_L = (torch.stack(part) for part in zip(*parts))
        grid = (len(parts), self.p, self.p, -1)
        return every_logit.reshape(grid), neurons.reshape(grid), W_L

    @property
    def logits_of_all_classes(self) -> Float[Tensor, "step p p d_vocab_out"]:
        """Logits of every pair [a, b]."""
        return self._answers[0]

    @property
    def logits(self) -> Float[Tensor, "step p p p"]:
        """Logits of the numbers."""
        return self._answers[0][..., : self.p]

    @property
    def neurons(self) -> Float[Tensor, "step p p neuron"]:
        """Activations of the last hidden layer."""
        return self._answers[1]

    @property
    def W_L(self) -> Float[Tensor, "step neuron p"]:
        """Neuron-logit map, numbers only."""
        return self._answers[2][..., : self.p]

    @cached_property
    def neuron_power(self) -> Float[Tensor, "step neuron frequency"]:
        """Share of each neuron's variance per frequency."""
        return spectra.neuron_power(self.neurons)

    @cached_property
    def pca(self) -> geometry.EmbeddingPCA:
        """Principal components, each step its own."""
        return geometry.embedding_pca(self.W_E, axes="each", components=COMPONENTS)

    @cached_property
    def final_pca(self) -> geometry.EmbeddingPCA:
        """Coordinates on the principal axes of the last stored step."""
        both = torch.cat([self.W_E, self._source.last.W_E])
        pca = geometry.embedding_pca(both, axes="last", components=COMPONENTS)
        n = len(self.W_E)
        return geometry.EmbeddingPCA(pca.coordinates[:n], pca.axes[:n], pca.explained_variance_ratio[:n], pca.mean[:n])

    @cached_property
    def circle(self) -> geometry.AngularOrder:
        """Order of the tokens in the first two of those components."""
        return geometry.angular_order(self.final_pca.coordinates[..., :2])

    @property
    def keys(self) -> Bool[Tensor, " frequency"]:
        """Key frequencies of the last stored step."""
        return self._source.keys

    @cached_property
    def excluded(self) -> dict[str, progress.ExcludedLoss]:
        """The excluded losses, each of which yields two measures."""
        common = {"labels": self.labels, "train_mask": self.train, "keys": self.keys, "operation": self.operation}
        return {
            "2d": progress.excluded_loss_2d(self.logits, **common),
            "3d": progress.excluded_loss_3d(self.logits, **common),
            "neuron": progress.excluded_loss_neuron(self.neurons, self.W_L, self.logits, **common),
        }


class Source:
    """A trajectory, its model, and what is the same for all its steps."""

    def __init__(self, traj: Trajectory) -> None:
        self.traj, task = traj, traj.task
        self.p = task.p
        operation = getattr(traj.config.task, "operation", None)
        self.operation: Any = operation if operation in ("add", "subtract") else None
        self.labels, self.train, self.test = (x.reshape(self.p, self.p) for x in (task.labels, task.train, task.test))

    @cached_property
    def model(self) -> Model:
        """The model whose weights are exchanged step by step."""
        return self.traj.model()

    @cached_property
    def pairs(self) -> Pairs:
        """All p^2 inputs."""
        return self.model.pairs(self.traj.task.tokens)

    @cached_property
    def last(self) -> View:
        """The last stored step."""
        return View(self, slice(len(self.traj.steps) - 1, len(self.traj.steps)))

    @cached_property
    def keys(self) -> Bool[Tensor, " frequency"]:
        """Frequencies that at least two of the three criteria name at the last stored step."""
        by_criterion = [
            keys.key_frequency_neuron(self.last.neuron_power),
            keys.key_frequency_logit(logits.logit_similarity(self.last.logits, self.operation)),
            keys.key_frequency_embedding(spectra.embedding_power(self.last.W_E)),
        ]
        return torch.stack(by_criterion).sum(0)[0] >= 2

    @property
    def key_list(self) -> list[int]:
        """The same as numbers, increasing."""
        return (self.keys.nonzero().squeeze(1) + 1).tolist()

    def views(self, start: int, reads: str) -> Iterator[View]:
        """The steps from position `start` on, in chunks that fit into memory."""
        n = len(self.traj.steps)
        size = CHUNK_STEPS
        if reads == "answer":
            neurons, classes = self.model.neuron_logit_map().shape
            size = max(1, CHUNK_BYTES // (4 * self.p**2 * (neurons + classes)))
        for low in range(start, n, size):
            yield View(self, slice(low, min(low + size, n)))
