"""Checkpoints as the measures see them: a few steps at a time, each array computed once and only if asked for."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analysis import circuits, geometry, keys, llc, logistic, logits, progress, spectra, subspaces
from interp.analysis.loss import cross_entropy_by_pair
from interp.analysis.multiplicative import powers_of_primitive_root, primitive_root
from interp.config import FeedForward, Group, Sums, Symbolic
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.models import Batch, Network
from interp.tasks.objective import answer_loss
from interp.theory.groups import finite_group, irreps
from interp.trajectory import Trajectory

__all__ = ["CheckpointBatch", "RunContext"]

COMPONENTS = 8
"""Principal components that are followed."""
CHUNK_BYTES = 64 * 2**20
"""Activations of this size are held at once."""
CHUNK_STEPS = 16
"""Steps that are held at once where no activations are."""
BURN_INS = (200, 1500)
"""Updates before the first draw of a learning coefficient: the second where chains drift after the first."""


class CheckpointBatch:
    """A few checkpoints as the measures see them: arrays `[step, ...]`, each computed when first asked for.

    What is indexed by numbers is so in the order of `RunContext.elements`; `n` is how many there are.
    """

    def __init__(self, source: "RunContext", positions: Int[np.ndarray, " step"]) -> None:
        self.source, self.positions = source, positions
        self.operation = source.operation
        self.group: Any = source.group

    # --- weights ------------------------------------------------------------------------------------------------------

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """All parameters."""
        traj = self.source.traj
        return {name: _tensor(traj.param(name)[self.positions]) for name in traj.names}

    @cached_property
    def W_E(self) -> Float[Tensor, "step n d_model"]:
        """Embeddings of the numbers, '=' left out."""
        table = _tensor(self.source.traj.param("embed.W_E")[self.positions])
        return self.source.named(table, -2)

    @cached_property
    def operand_embeddings(self) -> Float[Tensor, "step n column"]:
        """What the network makes of each number at either operand, side by side: the embedding, for an MLP times its
        first layer's weights (as Chughtai et al., 2023, take it)."""
        config = self.source.traj.config.model
        if not isinstance(config, FeedForward) or config.embedding == "one-hot" or config.combine == "product":
            return self.W_E
        W_in = self.weights["blocks.0.mlp.W_in"]
        halves = W_in.chunk(2, dim=-2) if config.combine == "concatenate" else (W_in, W_in)
        second = self.weights["embed_b.W_E"] if config.embedding == "separate" else self.weights["embed.W_E"]
        return torch.cat([self.W_E @ halves[0], self.source.named(second, -2) @ halves[1]], dim=-1)

    @cached_property
    def updates(self) -> dict[str, Tensor]:
        """Change of each parameter per optimiser step since the stored step before; 0 at the first one."""
        traj = self.source.traj
        before = np.maximum(self.positions - 1, 0)
        apart = torch.from_numpy(traj.steps[self.positions] - traj.steps[before]).double()
        apart[apart == 0] = 1
        changes = {}
        for name, value in self.weights.items():
            change = value.double() - _tensor(traj.param(name)[before]).double()
            changes[name] = change / apart.reshape(-1, *[1] * (change.ndim - 1))
        return changes

    # --- what the network computes ------------------------------------------------------------------------------------

    def each(self, compute: Callable[[Network], Any], changed: Mapping[str, Tensor] | None = None) -> list[Any]:
        """What `compute` makes of the model at each step, with some parameters `[step, ...]` changed."""
        model, results, weights = self.source.model, [], self.weights | dict(changed or {})
        for i in range(len(self.positions)):
            model.load_state_dict({name: value[i] for name, value in weights.items()})
            results.append(compute(model))
        return results

    @cached_property
    def _answers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, neurons, W_L, and the part of the logits that comes from the neurons, of every pair at every step."""

        def answer(model: Network) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            found = model.answer(self.source.pairs)
            # a map that is a parameter itself changes with the next step's weights
            return found.logits, found.neurons, found.neuron_logit_map.clone(), found.logits - found.residual_logits

        with torch.no_grad():
            every_logit, neurons, W_L, through = (torch.stack(part) for part in zip(*self.each(answer)))
        grid = (len(self.positions), self.source.p, self.source.p, -1)
        return every_logit.reshape(grid), neurons.reshape(grid), W_L, through.reshape(grid)

    @property
    def logits_of_all_classes(self) -> Float[Tensor, "step p p d_vocab_out"]:
        """Logits of every pair [a, b]."""
        return self._answers[0]

    @cached_property
    def logits(self) -> Float[Tensor, "step n n n"]:
        """Logits of the numbers."""
        return self.source.arranged(self.source.named(self._answers[0], -1), -2, -3)

    @cached_property
    def neurons(self) -> Float[Tensor, "step n n neuron"]:
        """Activations of the last hidden layer."""
        return self.source.arranged(self._answers[1], -2, -3)

    @cached_property
    def neuron_logits(self) -> Float[Tensor, "step n n n"]:
        """What the neurons add to the logits of the numbers: neurons @ W_L."""
        return self.source.arranged(self.source.named(self._answers[3], -1), -2, -3)

    @cached_property
    def W_L(self) -> Float[Tensor, "step neuron n"]:
        """Neuron-logit map, numbers only."""
        return self.source.named(self._answers[2], -1)

    @cached_property
    def losses(self) -> Float[Tensor, "step p p"]:
        """Cross-entropy of every pair [a, b] over all classes."""
        return cross_entropy_by_pair(self.logits_of_all_classes, self.source.labels)

    @cached_property
    def right(self) -> Bool[Tensor, "step p p"]:
        """Whether the largest logit of a pair is that of its answer."""
        return self.logits_of_all_classes.argmax(-1) == self.source.labels

    @cached_property
    def neuron_table(self) -> Float[Tensor, "step n neuron"]:
        """E[A | a + b], all that functions of the sum see of the neurons."""
        return spectra.conditional_mean(self.neurons, self.operation or "add")

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """Gradient of the training loss with respect to each parameter; 0 for a frozen one."""

        def gradient(model: Network) -> list[Tensor]:
            pairs, labels = self.source.training_pairs
            loss, _ = answer_loss(model.answer_logits(pairs), labels, "float64")
            return list(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True, allow_unused=True))

        model = self.source.model
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        found = self.each(gradient)
        for parameter in frozen:
            parameter.requires_grad_(False)
        names = [name for name, _ in model.named_parameters()]
        return {name: torch.stack(parts) for name, parts in zip(names, zip(*found))}

    @cached_property
    def attention_scores(self) -> Float[Tensor, "step head n"]:
        """Score that '=' gives to each number at the first position, per head of a one-layer transformer."""
        names = ("embed.W_E", "pos_embed.W_pos", "blocks.0.attn.W_Q", "blocks.0.attn.W_K")
        biases: dict[str, Any] = {name: self.weights.get(f"blocks.0.attn.{name}") for name in ("b_Q", "b_K")}
        scores = circuits.attention_scores(*(self.weights[name] for name in names), **biases)
        return self.source.named(scores[..., 0, :], -1)

    @cached_property
    def llc(self) -> tuple[Float[Tensor, " step"], Float[Tensor, " step"]]:
        """Local learning coefficient on the training pairs, and its standard error."""
        settings: Any = self.source.llc_settings()
        inputs = self.source.training_inputs
        found = self.each(lambda m: llc.local_learning_coefficient(m, *inputs, **settings))
        return torch.stack([x.value for x in found]), torch.stack([x.standard_error for x in found])

    # --- spectra, circles ---------------------------------------------------------------------------------------------

    @cached_property
    def neuron_power(self) -> Float[Tensor, "step neuron frequency"]:
        """Share of each neuron's variance per frequency."""
        return spectra.neuron_power(self.neurons)

    @cached_property
    def neuron_frequency(self) -> spectra.NeuronFrequency:
        """The frequency of each neuron and the share of its variance that it has."""
        return spectra.neuron_frequency(self.neuron_power)

    @cached_property
    def neuron_phase(self) -> circuits.NeuronPhase:
        """The phases of each neuron at its frequency."""
        return circuits.neuron_phase(
            self.neurons, self.neuron_frequency.frequency, self.operation or "add", table=self.neuron_table
        )

    @cached_property
    def logit_similarity(self) -> Float[Tensor, "step frequency"]:
        """Cosine of the row-centred logits with cos(w_k(a + b - c))."""
        return logits.logit_similarity(self.logits, self.operation)

    @cached_property
    def pca(self) -> geometry.EmbeddingPCA:
        """Principal components, each step its own."""
        return geometry.embedding_pca(self.W_E, axes="each", components=COMPONENTS)

    @cached_property
    def component_circles(self) -> subspaces.ComponentCircles:
        """Which component makes a circle with which other one."""
        return subspaces.component_circles(self.pca.coordinates)

    @cached_property
    def final_pca(self) -> geometry.EmbeddingPCA:
        """Coordinates on the principal axes of the last stored step."""
        both = torch.cat([self.W_E, self.source.last.W_E])
        pca = geometry.embedding_pca(both, axes="last", components=COMPONENTS)
        n = len(self.W_E)
        return geometry.EmbeddingPCA(pca.coordinates[:n], pca.axes[:n], pca.explained_variance_ratio[:n], pca.mean[:n])

    @cached_property
    def circle(self) -> geometry.AngularOrder:
        """Order of the tokens in the first two of those components."""
        return geometry.angular_order(self.final_pca.coordinates[..., :2])

    # --- what is left with and without the key frequencies ------------------------------------------------------------

    @cached_property
    def logit_variance_explained(self) -> Float[Tensor, " step"]:
        """Share of the logits' variance along cos(w_k(a + b - c)), k a key frequency."""
        return (self.logit_similarity.square() * self.keys).sum(-1).clamp(max=1.0)

    @cached_property
    def own_keys(self) -> Bool[Tensor, "step frequency"]:
        """Frequencies that at least two of the three criteria name at a step itself."""
        by_criterion = [
            keys.key_frequency_neuron(self.neuron_power),
            keys.key_frequency_logit(self.logit_similarity),
        ]
        if self.source.has_embedding:
            by_criterion.append(keys.key_frequency_embedding(spectra.embedding_power(self.W_E)))
        return torch.stack(by_criterion).sum(0) >= 2

    @property
    def keys(self) -> Bool[Tensor, " frequency"]:
        """Key frequencies of the last stored step."""
        return self.source.keys

    @cached_property
    def restricted_loss_logit(self) -> Float[Tensor, " step"]:
        """Restricted loss of Nanda et al., which the trig loss ratio needs as well."""
        source = self.source
        return progress.restricted_loss_logit(self.logits, source.sums, self.keys, operation=self.operation)

    @cached_property
    def excluded(self) -> dict[str, progress.ExcludedLoss]:
        """The excluded losses, each of which yields two measures."""
        source = self.source
        common: dict[str, Any] = {
            "labels": source.sums, "train_mask": source.sums_trained, "keys": self.keys, "operation": self.operation
        }  # fmt: skip
        return {
            "2d": progress.excluded_loss_2d(self.logits, **common),
            "3d": progress.excluded_loss_3d(self.logits, **common),
            "neuron": progress.excluded_loss_neuron(
                self.neurons, self.W_L, self.logits, table=self.neuron_table, **common
            ),
            # `excluded_loss_hidden`, which is this, would multiply neurons and W_L once more
            "hidden": progress.excluded_loss_neuron(
                self.neurons, self.W_L, self.neuron_logits, table=self.neuron_table, **common
            ),
        }


class RunContext:
    """A trajectory, its model, and what is the same for all its steps."""

    def __init__(self, traj: Trajectory) -> None:
        self.traj, task = traj, traj.task
        self._calibrating, self._llc_settings = threading.Lock(), dict[str, Any]()  # one for all twins
        config = traj.config.task
        self.p = task.p
        """Operands; 0 where the inputs are no pairs of such."""
        grids = (task.labels, task.train, task.test)
        self.labels, self.train, self.test = (x.reshape(self.p, self.p) if self.p else x.new_empty(0, 0) for x in grids)
        operation: str | None = config.operation
        self.cyclic = self.p > 0
        """Whether the operands are residues, and the answer too."""
        self.group = None
        """The group whose product is the answer, of a group task."""
        match config:
            case Group() | Symbolic(group=Group()):
                group = config if isinstance(config, Group) else config.group
                assert group is not None
                self.group = finite_group(group.family, group.n) if group.operation == "compose" else None
                self.cyclic = self.group is not None and group.family == "cyclic"
                operation = "add" if self.cyclic else None
            case Sums():
                self.cyclic = False
        self.elements = torch.arange(self.p)
        """The numbers in the order in which the operation adds: products of a prime p add up in discrete logarithms."""
        self.basis = f"characters of the integers mod {self.p}"
        """What the frequencies are, in words."""
        self.operation: Any = operation if operation in ("add", "subtract") else None
        if operation in ("multiply", "divide"):
            try:
                self.elements = powers_of_primitive_root(self.p)
            except InvalidArgumentError:  # no root: p is composite, and products are no sums
                return
            if self.p == 3:  # 1 and 2 alone: two elements have no frequency
                self.elements = torch.arange(self.p)
                return
            self.basis = (
                f"characters of the products mod {self.p}, discrete logarithms to base {primitive_root(self.p)}"
            )
            self.operation = {"multiply": "add", "divide": "subtract"}[operation]

    @property
    def has_embedding(self) -> bool:
        """Whether the model has a row of weights for each token, and does not read them as numbers."""
        return "embed.W_E" in self.traj.names

    @property
    def dimensions(self) -> int:
        """The most dimensions that the centred embeddings of the numbers can span."""
        width = self.traj.param("embed.W_E").shape[-1] if self.has_embedding else 0
        return min(len(self.elements) - 1, width)

    @cached_property
    def late_direction(self) -> Float[Tensor, " d"]:
        """The direction that the weights of logistic regression tend to."""
        return logistic.late_direction(self.traj.task.tokens)

    def labels_of(self, dim: str, size: int) -> np.ndarray:
        """What stands along a dimension of a measure."""
        match dim:
            case "token":
                return self.elements.numpy()
            case "parameter":
                return np.array(self.traj.names)
            case "irrep":
                assert self.group is not None
                return np.array([irrep.name for irrep in irreps(self.group)])
            case "frequency" | "component" | "circle" | "angle":
                return np.arange(1, size + 1)
        return np.arange(size)

    def arranged(self, x: Float[Tensor, "..."], *axes: int) -> Float[Tensor, "..."]:
        """`x` with only `elements` along these axes, which number operands; a view where nothing has to move."""
        if len(self.elements) < self.p:
            for axis in axes:
                x = x.index_select(axis, self.elements)
        return x

    def named(self, x: Float[Tensor, "..."], axis: int) -> Float[Tensor, "..."]:
        """`x` with only `elements` along an axis of tokens or of classes; a view where nothing has to move."""
        operands = self.traj.task.operands
        if int(operands[0]) == 0 and len(self.elements) == self.p:  # they are the first ones
            return x.narrow(axis, 0, self.p)
        return x.index_select(axis, operands[self.elements])

    @cached_property
    def operand_positions(self) -> tuple[int, int]:
        """Where the two operands stand in an input."""
        tokens = self.traj.task.tokens.reshape(self.p, self.p, -1)
        first, second = (tokens[pair] != tokens[0, 0] for pair in ((1, 0), (0, 1)))
        return int(first.nonzero()[0]), int(second.nonzero()[0])

    def llc_settings(self) -> dict[str, Any]:
        """Step size, inverse temperature and burn-in that suit the last stored step, for all steps and threads alike.

        Raises:
            NotAvailableError: no step size gives a healthy estimate, not even after the longest burn-in.
        """
        with self._calibrating:
            if not self._llc_settings:
                self._llc_settings |= self._calibrated()
            return self._llc_settings

    def _calibrated(self, burn_ins: Sequence[int] = BURN_INS) -> dict[str, Any]:
        try:
            found = llc.calibrate(self.traj.model(), *self.training_inputs, burn_in=burn_ins[0])
        except NotAvailableError:
            if len(burn_ins) == 1:
                raise
            return self._calibrated(burn_ins[1:])
        return {
            "step_size": found.step_size,
            "inverse_temperature": found.inverse_temperature,
            "burn_in": burn_ins[0],
        }

    @property
    def training_inputs(self) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
        """The training inputs as tokens, and their answers."""
        task = self.traj.task
        return task.tokens[task.train], task.labels[task.train]

    @cached_property
    def sums(self) -> Int[Tensor, "n n"]:
        """The right answers among `elements`."""
        task = self.traj.task
        place = torch.zeros(task.d_vocab_out, dtype=torch.long)
        place[task.operands[self.elements]] = torch.arange(len(self.elements))
        return place[self.labels[self.elements][:, self.elements]]

    @cached_property
    def sums_trained(self) -> Bool[Tensor, "n n"]:
        """Which pairs of `elements` are trained on."""
        return self.train[self.elements][:, self.elements]

    @cached_property
    def sums_tested(self) -> Bool[Tensor, "n n"]:
        """Which pairs of `elements` are held out."""
        return self.test[self.elements][:, self.elements]

    @cached_property
    def mirrored(self) -> Bool[Tensor, "p p"]:
        """Held-out pairs (a, b) whose mirror (b, a) is trained on."""
        return self.test & self.train.T

    @cached_property
    def model(self) -> Network:
        """The model whose weights are exchanged step by step."""
        return self.traj.model()

    @cached_property
    def pairs(self) -> Batch:
        """All p^2 inputs."""
        return self.model.prepare(self.traj.task.tokens)

    @cached_property
    def training_pairs(self) -> tuple[Batch, Int[Tensor, " batch"]]:
        """The training inputs and their answers."""
        task = self.traj.task
        return self.pairs.select(task.train.nonzero().squeeze(1)), task.labels[task.train]

    @cached_property
    def last(self) -> CheckpointBatch:
        """The last stored step."""
        return CheckpointBatch(self, np.array([len(self.traj.steps) - 1]))

    @cached_property
    def keys(self) -> Bool[Tensor, " frequency"]:
        """Frequencies that at least two of the three criteria name at the last stored step."""
        return self.last.own_keys[0]

    @property
    def key_list(self) -> list[int]:
        """The same as numbers, increasing."""
        return (self.keys.nonzero().squeeze(1) + 1).tolist()

    def chunks(self, positions: Int[np.ndarray, " step"], reads: str, at_once: int) -> Iterator[np.ndarray]:
        """These positions in pieces of which `at_once` fit into memory together."""
        size = CHUNK_STEPS
        if reads == "answer":
            neurons, classes = self.model.neuron_logit_map().shape
            size = CHUNK_BYTES // (4 * self.p**2 * (neurons + 2 * classes))
        size = max(1, size // at_once)
        for low in range(0, len(positions), size):
            yield positions[low : low + size]

    def twin(self) -> "RunContext":
        """The same with a model of its own, for another thread; keys and the last step are shared."""
        twin = copy.copy(self)
        twin.__dict__.pop("model", None)
        return twin


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values))
