"""Context of a run for measures, independent of the step: inputs, answers, axes, the network.

The properties that measures require of a run (`requirements`) are answered here, from what task and model declare.
"""

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analysis import irreps as representations
from interp.analysis import llc, logistic, spectra
from interp.analysis.keys import GivenKeys, given_key_set
from interp.analysis.operands import order_of_operands
from interp.analysis.requirements import Requirement, first_unmet
from interp.errors import NotAvailableError
from interp.models import Batch, Network
from interp.rng import generator
from interp.tasks.declared import Numbers, Operated, Sides, Tuples
from interp.theory.groups import irreps
from interp.trajectory import Trajectory

__all__ = ["RunContext"]

CHUNK_BYTES = 64 * 2**20
"""Maximum size of the activations held at once."""
CHUNK_STEPS = 16
"""Number of checkpoints held at once where no activations are."""
PATCHED = 1000
"""Maximum number of inputs that are patched: each patch is a plain pass over them."""
BURN_INS = (200, 1500)
"""Updates before the first draw of a learning coefficient: the second where chains drift after the first."""


class RunContext:
    """A run, its task and its model, as far as they do not depend on the step."""

    def __init__(self, traj: Trajectory, keys: GivenKeys | None = None) -> None:
        self.traj, self.examples = traj, traj.task
        """The run, and all inputs of its task with answers and split."""
        self._calibrating, self._llc_settings = threading.Lock(), dict[str, Any]()  # shared by copies for threads
        self._is_lent = False
        self.p = self.examples.p
        """Number of values of an operand; 0 where the inputs are no tuples of operands."""
        self.labels: Int[Tensor, " input"] = self.examples.labels
        """Class of each input's answer."""
        self.train: Bool[Tensor, " input"] = self.examples.train
        """Whether each input is trained on."""
        self.test: Bool[Tensor, " input"] = self.examples.test
        """Whether each input is held out."""
        order = order_of_operands(self.examples)
        self.residues: Int[Tensor, " n"] = order.residues
        """Operands in the order in which the operation adds: products of a prime p add up in discrete logarithms."""
        self.basis = order.basis
        """Functions that the frequencies stand for, in words."""
        self.operation: Any = order.operation
        """add or subtract where the answer is a sum in the order of `residues`; otherwise None."""
        self.group: Any = order.group
        """Finite group whose product is the answer; None for other tasks."""
        self.operands_are_residues = order.are_residues
        """Whether the operands have the Fourier basis of Z_p."""
        self.given_keys: tuple[int, ...] | tuple[str, ...] | None = None if keys is None else self._given(keys)
        """Key frequencies or irreps that the user gave, in their own order; None: they are found."""

    @property
    def description(self) -> str:
        """Task and model of the run, in words."""
        config = self.traj.config
        return f"{config.task.slug} with {config.model.slug}"

    # --- requirements of measures -------------------------------------------------------------------------------------

    def unmet(self, requires: Sequence[str | Requirement]) -> Requirement | None:
        """First requirement that the run does not meet; None where it meets all."""
        return first_unmet(self, requires)

    @property
    def network(self) -> Network:
        """Network of the run, to be asked for what it declares; its weights are of no step."""
        return self.traj.network

    @property
    def has_pairs(self) -> bool:
        """Whether the inputs are all pairs of operands."""
        return self.examples.arity == 2

    @property
    def has_points(self) -> bool:
        """Whether the inputs are points, and the model is a hyperplane `S`, `b` between them."""
        return isinstance(self.examples.answers, Sides) and {"S", "b"} <= set(self.traj.names)

    @property
    def has_classes(self) -> bool:
        """Whether the outputs are logits of the classes of answers."""
        return self.examples.answers.is_classes

    @property
    def answers_are_operands(self) -> bool:
        """Whether every operand is an answer, too."""
        match self.examples.inputs, self.examples.answers:
            case Tuples(Numbers(n)), Numbers(m):
                return n <= m
            case Operated(operands), answers:
                return operands == answers
            case Tuples(operands), answers:
                return operands == answers
        return False

    @property
    def operations(self) -> tuple[str, ...]:
        """Operations of which each input names one; empty where one makes all answers."""
        return self.examples.inputs.operations

    @property
    def has_mirrored_pairs(self) -> bool:
        """Whether the operation is commutative, and held-out pairs have and have not a mirror in the training set."""
        labels = self.grid(self.labels)
        return bool((labels == labels.T).all() and self.mirrored.any() and (self.test & ~self.mirrored).any())

    @property
    def has_embedding(self) -> bool:
        """Whether the model has a table with a row for each token, and does not read them as numbers."""
        return bool(self.network.embeddings)

    @property
    def embedding_dimensions(self) -> int:
        """Maximum number of dimensions that the centred embeddings of the operands can span."""
        width = self.traj.param(self.network.embeddings[0]).shape[-1] if self.has_embedding else 0
        return min(len(self.residues) - 1, width)

    @property
    def has_operand_table(self) -> bool:
        """Whether operands are looked up in a table of embeddings."""
        return self.network.looks_up

    @property
    def has_embedded_operands(self) -> bool:
        """Whether operands are looked up in a table, and the model tells the embedding at each position."""
        return self.network.looks_up and bool(self.network.embedded)

    @property
    def has_neurons(self) -> bool:
        """Whether the model tells the neurons of the last hidden layer before its logits."""
        return self.network.has_neurons

    @property
    def has_pre_activations(self) -> bool:
        """Whether the model tells its last hidden layer before the non-linearity."""
        return bool(self.network.pre_activations)

    @property
    def has_hidden_activations(self) -> bool:
        """Whether the model tells the activations of its last hidden layer."""
        return bool(self.network.hidden_activations)

    @property
    def has_unembedding(self) -> bool:
        """Whether the logits are the product of the last layer with a matrix, `Network.read_out`."""
        return self.network.read_out in self.traj.names

    @property
    def has_attention(self) -> bool:
        """Whether the model has one layer of attention and reads its answer at '='."""
        return bool(self.network.pattern) and self.traj.config.task.encoding in ("direct", "operation")

    @property
    def has_token_scores(self) -> bool:
        """Whether attention scores are sums of terms of one token each: no LayerNorm stands in front of them."""
        return self.has_attention and self.network.attends_to_sums

    # --- axes ---------------------------------------------------------------------------------------------------------

    def labels_of(self, dim: str, size: int) -> np.ndarray:
        """Coordinates along a dimension of a measure."""
        match dim:
            case "token":
                return self.residues.numpy()
            case "parameter":
                return np.array(self.traj.names)
            case "operation":
                return np.array(self.operations)
            case "irrep" if self.group is not None:
                return np.array([irrep.name for irrep in irreps(self.group)])
            case "frequency" if self.operands_are_residues:
                return np.arange(1, len(self.residues) // 2 + 1)
            case "frequency" | "component" | "circle" | "angle":
                return np.arange(1, size + 1)
        return np.arange(size)

    def grid(self, x: Tensor, axis: int = 0) -> Tensor:
        """`x` with its axis of inputs, which are pairs of operands, as two axes [a, b]."""
        return x.unflatten(axis, (self.p, self.p))

    def arrange(self, x: Float[Tensor, "step input column"]) -> Float[Tensor, "step n n column"]:
        """`x` for every pair of operands, in the order of `residues`; a view where nothing has to move."""
        x = self.grid(x, -2)
        if len(self.residues) < self.p:
            for axis in (-2, -3):
                x = x.index_select(axis, self.residues)
        return x

    def select(self, x: Float[Tensor, "..."], axis: int) -> Float[Tensor, "..."]:
        """Operands, in the order of `residues`, along an axis of tokens; a view where nothing moves."""
        return self._rows(x, axis, self.examples.operands)

    def select_answers(self, x: Float[Tensor, "..."], axis: int) -> Float[Tensor, "..."]:
        """Operands as answers, in the order of `residues`, along an axis of classes; a view where nothing moves."""
        return self._rows(x, axis, self.examples.classes)

    def _rows(self, x: Tensor, axis: int, numbers: Int[Tensor, " symbol"]) -> Tensor:
        if int(numbers[0]) == 0 and len(self.residues) == self.p:  # they are the first ones
            return x.narrow(axis, 0, self.p)
        return x.index_select(axis, numbers[self.residues])

    @cached_property
    def operand_positions(self) -> tuple[int, int]:
        """Positions of the two operands in an input."""
        tokens = self.grid(self.examples.tokens)
        first, second = (tokens[pair] != tokens[0, 0] for pair in ((1, 0), (0, 1)))
        return int(first.nonzero()[0]), int(second.nonzero()[0])

    # --- inputs and answers -------------------------------------------------------------------------------------------

    @property
    def training_inputs(self) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
        """Training inputs as tokens, and their answers."""
        return self.examples.tokens[self.examples.trained], self.labels[self.examples.trained]

    @cached_property
    def sums(self) -> Int[Tensor, "n n"]:
        """Correct answers of the pairs of operands, as places in `residues`."""
        place = torch.zeros(self.examples.d_vocab_out, dtype=torch.long)
        place[self.examples.classes[self.residues]] = torch.arange(len(self.residues))
        return place[self._by_operand(self.labels)]

    @cached_property
    def sums_trained(self) -> Bool[Tensor, "n n"]:
        """Whether each pair of operands, in the order of `residues`, is trained on."""
        return self._by_operand(self.train)

    @cached_property
    def sums_tested(self) -> Bool[Tensor, "n n"]:
        """Whether each pair of operands, in the order of `residues`, is held out."""
        return self._by_operand(self.test)

    @cached_property
    def mirrored(self) -> Bool[Tensor, " input"]:
        """Held-out pairs (a, b) whose mirror (b, a) is trained on."""
        return self.test & self.grid(self.train).T.flatten()

    @cached_property
    def late_direction(self) -> Float[Tensor, " d"]:
        """Direction that the weights of logistic regression tend to."""
        return logistic.late_direction(self.examples.tokens)

    def _by_operand(self, x: Tensor) -> Tensor:
        return self.grid(x)[self.residues][:, self.residues]

    # --- the network --------------------------------------------------------------------------------------------------

    @cached_property
    def model(self) -> Network:
        """Network whose weights are exchanged step by step."""
        return self.traj.model()

    @contextmanager
    def lent(self) -> Iterator[Network]:
        """The network whose weights are exchanged; another one while it is lent already.

        What is asked for while a step is looked at, such as the keys of the last step, exchanges weights as well.
        """
        if self._is_lent:
            yield self.traj.model()
            return
        self._is_lent = True
        try:
            yield self.model
        finally:
            self._is_lent = False

    @cached_property
    def inputs(self) -> Batch:
        """All inputs, prepared for the network's fast pass."""
        return self.model.prepare(self.examples.tokens)

    @cached_property
    def training_batch(self) -> tuple[Batch, Int[Tensor, " batch"]]:
        """Training inputs, prepared for the network's fast pass, and their answers."""
        return self.inputs.select(self.examples.trained), self.labels[self.examples.trained]

    @cached_property
    def patched_inputs(self) -> Int[Tensor, " some"]:
        """Inputs that are patched and resampled, by number: all that have an answer, or `PATCHED` of them at random."""
        answered = (self.train | self.test).nonzero().squeeze(1)
        return answered[torch.randperm(len(answered), generator=generator(0, "patched inputs"))[:PATCHED]]

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

    # --- frequencies --------------------------------------------------------------------------------------------------

    @cached_property
    def fourier_basis(self) -> Float[Tensor, "n n"]:
        """Orthonormal Fourier basis of functions of one operand in the order of `residues`, in the rows.

        Raises:
            NotAvailableError: the operands are no residues.
        """
        unmet = self.unmet(("operands are residues",))
        if unmet is not None:
            raise NotAvailableError(f"`fourier_basis` {unmet.rule}; this run is {self.description}.")
        return spectra.fourier_basis(len(self.residues))

    @cached_property
    def last(self) -> Any:
        """The last stored checkpoint, a `CheckpointBatch`."""
        from interp.analysis.batch import CheckpointBatch  # which imports this module

        return CheckpointBatch(self, np.array([len(self.traj.steps) - 1]))

    @cached_property
    def keys(self) -> Bool[Tensor, " frequency"]:
        """Whether each frequency is a given key; if none were given, whether at least two of the three criteria name it
        at the last stored step."""
        if self.given_keys is None:
            return self.last.own_keys[0]
        return torch.isin(spectra.frequencies(len(self.residues)), torch.tensor(self.given_keys))

    @property
    def key_list(self) -> list[int]:
        """Key frequencies, given or of the last stored step, as numbers, increasing."""
        return (self.keys.nonzero().squeeze(1) + 1).tolist()

    @cached_property
    def key_irreps(self) -> Bool[Tensor, " irrep"]:
        """Whether each irrep is a given key; if none were given, whether the logits of the last stored step are similar
        to its character."""
        if self.given_keys is None:
            return representations.key_irreps(self.last.irrep_similarity)[0]
        if self.operation is not None:  # a cyclic group: its irreps are the frequencies, after the trivial one
            return torch.cat([torch.zeros(1, dtype=torch.bool), self.keys])
        return torch.tensor([irrep.name in self.given_keys for irrep in irreps(self.group)])

    def _given(self, keys: GivenKeys) -> tuple[int, ...] | tuple[str, ...]:
        """Given keys, checked against the frequencies or irreps that the task has."""
        if self.operation is not None:
            return given_key_set(keys, range(1, len(self.residues) // 2 + 1), f"frequencies of {self.description}")
        if self.group is not None:
            return given_key_set(keys, [irrep.name for irrep in irreps(self.group)], f"irreps of {self.group.name}")
        raise NotAvailableError(
            "`keys` needs a task whose answer is a sum or the product of a finite group, which has frequencies or "
            f"irreps; this run is {self.description}."
        )

    # --- accounts -----------------------------------------------------------------------------------------------------

    @cached_property
    def has_account(self) -> bool:
        """Whether the operation is a sum or that of a group, and the network has tables of pairs."""
        try:
            return self._last_examined.tables is not None
        except NotAvailableError:
            return False

    @cached_property
    def account_keys(self) -> tuple[Any, ...]:
        """Key frequencies or irreps, given or of the account of the last stored step; empty where there is none."""
        return self.given_keys if self.given_keys is not None else self._last_examined.keys(self.last.named_keys)

    @property
    def _last_examined(self) -> Any:
        from interp.analysis.explaining import Examined  # which imports this module

        return Examined(self, self.traj.model())

    # --- streaming ----------------------------------------------------------------------------------------------------

    def chunks(self, positions: Int[np.ndarray, " step"], inputs: str, at_once: int) -> Iterator[np.ndarray]:
        """`positions` in pieces of which `at_once` fit into memory together; see `Measure.inputs`."""
        size = CHUNK_STEPS
        if inputs == "activations":
            neurons = self.model.neuron_logit_map().shape[0] if self.has_neurons else 0
            held = 4 * len(self.labels) * (neurons + 2 * self.examples.d_vocab_out)
            size = CHUNK_BYTES // max(held, 1)
        size = max(1, size // at_once)
        for low in range(0, len(positions), size):
            yield positions[low : low + size]

    def copy_for_thread(self) -> "RunContext":
        """A copy with a network of its own; key frequencies and the last step are shared."""
        other = copy.copy(self)
        other.__dict__.pop("model", None)
        return other
