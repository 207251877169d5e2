"""Checkpoints as measures see them: a few steps at a time, each array computed once and only if asked for.

`CheckpointBatch` is the argument of `Measure.compute`. Its attributes are arrays with the axis `step` first; an
attribute that the run does not admit raises `NotAvailableError` with the requirement that a measure should declare.
"""

import contextlib
from collections.abc import Callable, Container, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analysis import circuits, geometry, irreps, keys, llc, logits, patching, progress, spectra, subspaces
from interp.analysis.context import RunContext
from interp.analysis.explaining import Examined
from interp.analysis.loss import cross_entropy_by_input
from interp.analysis.requirements import suggested_requirement
from interp.errors import NotAvailableError
from interp.models import Network
from interp.tasks.objective import answer_loss

__all__ = ["CheckpointBatch"]

COMPONENTS = 8
"""Number of principal components that are followed."""
NO_GRAPH = "does not require grad"
"""Words of torch's error where a gradient is asked for under `torch.no_grad`."""


class CheckpointBatch:
    """A few checkpoints of a run, as arrays `[step, ...]`, each computed when first asked for.

    Axes of length `n` are operands in the order of `RunContext.residues`; axes `input` are all inputs of the task, in
    the order of `context.examples.tokens`. Arrays are torch tensors without gradients, on the CPU.
    """

    def __init__(self, context: RunContext, positions: Int[np.ndarray, " step"]) -> None:
        self.context, self.positions = context, positions
        """The run, and where the checkpoints lie among its stored steps."""
        self.operation: Any = context.operation
        """add or subtract where the answer is a sum in the order of `RunContext.residues`; otherwise None."""
        self.group: Any = context.group
        """Finite group whose product is the answer; None for other tasks."""
        self.depends_on: set[str] = set()
        """Facts about other checkpoints that were used: key frequencies, last, before."""

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def steps(self) -> Int[np.ndarray, " step"]:
        """Step numbers of the checkpoints."""
        return self.context.traj.steps[self.positions]

    # --- weights ------------------------------------------------------------------------------------------------------

    @cached_property
    def weights(self) -> Mapping[str, Tensor]:
        """All parameters by name, `[step, ...]` each."""
        traj = self.context.traj
        found = {name: _tensor(traj.param(name)[self.positions]) for name in traj.names}
        return _Weights(found, self.context.description)

    @cached_property
    def _buffers(self) -> dict[str, Tensor]:
        """Stored arrays that are no parameters, by name, `[step, ...]` each."""
        traj = self.context.traj
        return {name: _tensor(traj.param(name)[self.positions]) for name in traj.buffers}

    @cached_property
    def W_E(self) -> Float[Tensor, "step n d_model"]:
        """Embeddings of the operands; '=' and other signs are left out."""
        self._require("W_E", "embedding")
        table = self.context.traj.param(self.context.network.embeddings[0])
        return self.context.select(_tensor(table[self.positions]), -2)

    @cached_property
    def operand_embeddings(self) -> Float[Tensor, "step n column"]:
        """Embedding of each operand at either place, side by side: for an MLP, times its first layer's weights (as
        Chughtai et al., 2023, take it)."""
        self._require("operand_embeddings", "embedding")
        network = self.context.network
        tables = {name: self.context.select(self.weights[name], -2) for name in network.embeddings}
        return network.operand_embeddings({**self.weights, **tables})

    @cached_property
    def W_U(self) -> Float[Tensor, "step d_in d_vocab_out"]:
        """Unembedding: the matrix that is multiplied last, all classes."""
        self._require("W_U", "unembedding")
        return self.weights[self.context.network.read_out]

    @property
    def updates(self) -> dict[str, Float[Tensor, "step ..."]]:
        """Change of each parameter per optimiser step since the stored step before; 0 at the first one."""
        self.depends_on.add("before")
        return self._updates

    @cached_property
    def _updates(self) -> dict[str, Tensor]:
        traj = self.context.traj
        before = np.maximum(self.positions - 1, 0)
        apart = torch.from_numpy(traj.steps[self.positions] - traj.steps[before]).double()
        apart[apart == 0] = 1
        changes = {}
        for name, value in self.weights.items():
            change = value.double() - _tensor(traj.param(name)[before]).double()
            changes[name] = change / apart.reshape(-1, *[1] * (change.ndim - 1))
        return changes

    # --- the network, run ---------------------------------------------------------------------------------------------

    def each(
        self,
        compute: Callable[[Network], Any],
        changed: Mapping[str, Tensor] | None = None,
        *,
        gradients: bool | None = None,
    ) -> list[Any]:
        """Results of `compute(model)` for the model at each step, without their gradients.

        `changed` replaces some parameters, `[step, ...]` each. `gradients` enables torch's gradients; None enables them
        once `compute` asks for one. Whatever `compute` leaves in `.grad` and `.requires_grad` is undone.
        """
        with self.context.lent() as model:
            return self._at_each_step(model, compute, {**self.weights, **(changed or {})}, gradients)

    def _at_each_step(
        self, model: Network, compute: Callable[[Network], Any], weights: Mapping[str, Tensor], gradients: bool | None
    ) -> list[Any]:
        results = []
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        for i in range(len(self)):
            model.load_state_dict({name: value[i] for name, value in {**self._buffers, **weights}.items()})
            try:
                with _as_it_was(model), torch.set_grad_enabled(bool(gradients)):
                    results.append(_detached(compute(model), own))
            except RuntimeError as error:
                if gradients is not None or NO_GRAPH not in str(error):
                    raise
                gradients = True
                with _as_it_was(model), torch.enable_grad():
                    results.append(_detached(compute(model), own))
        return results

    @cached_property
    def _answers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, neurons, W_L, and the part of the logits that comes from the neurons, of all inputs at every step."""

        def answer(model: Network) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            found = model.answer(self.context.inputs)
            return found.logits, found.neurons, found.neuron_logit_map, found.logits - found.residual_logits

        every_logit, neurons, W_L, through = (torch.stack(part) for part in zip(*self.each(answer, gradients=False)))
        return every_logit, neurons, W_L, through

    @cached_property
    def outputs(self) -> Float[Tensor, "step input d_vocab_out"]:
        """Outputs of the network for every input: logits of all classes, or a code."""
        if self.context.has_neurons:
            return self._answers[0]
        return torch.stack(self.each(lambda model: model.answer_logits(self.context.inputs), gradients=False))

    @cached_property
    def logits(self) -> Float[Tensor, "step n n n"]:
        """Logits of the operands as answers, for every pair of operands."""
        self._require("logits", "operand pairs", "answers are operands")
        return self.context.arrange(self.context.select_answers(self.outputs, -1))

    @cached_property
    def neurons(self) -> Float[Tensor, "step n n neuron"]:
        """Activations of the last hidden layer for every pair of operands."""
        self._require("neurons", "operand pairs", "neurons")
        return self.context.arrange(self._answers[1])

    @cached_property
    def neuron_logits(self) -> Float[Tensor, "step n n n"]:
        """Part of `logits` that comes from the neurons: neurons @ W_L."""
        self._require("neuron_logits", "operand pairs", "neurons", "answers are operands")
        return self.context.arrange(self.context.select_answers(self._answers[3], -1))

    @cached_property
    def W_L(self) -> Float[Tensor, "step neuron n"]:
        """Neuron-logit map, W_out W_U of Nanda et al. (2023), for the operands as answers."""
        self._require("W_L", "neurons", "answers are operands")
        return self.context.select_answers(self._answers[2], -1)

    @cached_property
    def losses(self) -> Float[Tensor, "step input"]:
        """Cross-entropy of each input over all classes, in nats."""
        self._require("losses", "logits of classes")
        return cross_entropy_by_input(self.outputs, self.context.labels)

    @cached_property
    def correct(self) -> Bool[Tensor, "step input"]:
        """Whether the largest logit of each input is that of its answer."""
        self._require("correct", "logits of classes")
        return self.outputs.argmax(-1) == self.context.labels

    @cached_property
    def neuron_table(self) -> Float[Tensor, "step n neuron"]:
        """E[A | a + b], the part of the neurons that functions of the sum depend on."""
        return spectra.conditional_mean(self.neurons, self.operation or "add")

    @cached_property
    def gradients(self) -> dict[str, Float[Tensor, "step ..."]]:
        """Gradient of the answers' mean training loss with respect to each parameter; 0 for a frozen one."""
        self._require("gradients", "logits of classes")
        inputs, labels = self.context.training_batch

        def gradient(model: Network) -> list[Tensor]:
            model.requires_grad_(True)
            loss, _ = answer_loss(model.answer_logits(inputs), labels, "float64")
            return list(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True, allow_unused=True))

        names = [name for name, _ in self.context.model.named_parameters()]
        return {name: torch.stack(parts) for name, parts in zip(names, zip(*self.each(gradient, gradients=True)))}

    @cached_property
    def attention_scores(self) -> Float[Tensor, "step head n"]:
        """Score that '=' gives to each number at the first position, per head of a one-layer transformer."""
        self._require("attention_scores", "token scores")
        names = (*self.context.network.embeddings, "pos_embed.W_pos", "blocks.0.attn.W_Q", "blocks.0.attn.W_K")
        biases: dict[str, Any] = {name: self.weights.get(f"blocks.0.attn.{name}") for name in ("b_Q", "b_K")}
        W_E, *others = (self.weights[name] for name in names)
        equals = int(self.context.examples.tokens[0, -1])  # the sign of an operation has a token behind it
        scores = circuits.attention_scores(W_E[..., : equals + 1, :], *others, **biases)
        return self.context.select(scores[..., 0, :], -1)

    @cached_property
    def head_patching(self) -> patching.Effects:
        """Effect on the answers of each head of other inputs, and its control: see `patching.activation_patching`."""
        return self._patched_heads(lambda model, runs, head: patching.activation_patching(model, runs, head, draws=1))

    @cached_property
    def head_mlp_path(self) -> patching.Effects:
        """Effect of each head of other inputs through the MLP alone, and its control: see `patching.path_patching`."""
        mlp = "blocks.0.mlp.hook_pre"
        return self._patched_heads(lambda model, runs, head: patching.path_patching(model, runs, head, mlp, draws=1))

    def _patched_heads(
        self, patch: Callable[[Network, patching.Sources, patching.Site], patching.Patching]
    ) -> patching.Effects:
        self._require("head_patching", "attention", "logits of classes")
        runs = patching.Sources.of(self.context.examples, self.context.patched_inputs)
        heads = range(self.weights["blocks.0.attn.W_O"].shape[1])

        def effects(model: Network) -> Tensor:
            found = [patch(model, runs, patching.Site("blocks.0.attn.hook_z", heads=head)) for head in heads]
            return torch.tensor([[one.effect for one in found], [one.random_source_effect for one in found]])

        return patching.Effects(*torch.stack(self.each(effects, gradients=False)).unbind(1))

    @cached_property
    def llc(self) -> tuple[Float[Tensor, " step"], Float[Tensor, " step"]]:
        """Local learning coefficient on the training inputs, and its standard error."""
        self._require("llc", "logits of classes")
        self.depends_on.add("last")
        settings: Any = self.context.llc_settings()
        inputs = self.context.training_inputs
        found = self.each(lambda m: llc.local_learning_coefficient(m, *inputs, **settings), gradients=True)
        return torch.stack([x.value for x in found]), torch.stack([x.standard_error for x in found])

    # --- spectra, circles ---------------------------------------------------------------------------------------------

    @property
    def fourier_basis(self) -> Float[Tensor, "n n"]:
        """Orthonormal Fourier basis of functions of one operand, in the rows: constant, cos 1, sin 1, cos 2, ..."""
        return self.context.fourier_basis

    @cached_property
    def neuron_power(self) -> Float[Tensor, "step neuron frequency"]:
        """Share of each neuron's variance per frequency."""
        self._require("neuron_power", "operands are residues")
        return spectra.neuron_power(self.neurons)

    @cached_property
    def neuron_frequency(self) -> spectra.NeuronFrequency:
        """Frequency of each neuron, and the share of its variance at that frequency."""
        return spectra.neuron_frequency(self.neuron_power)

    @cached_property
    def neuron_phase(self) -> circuits.NeuronPhase:
        """Phases of each neuron at its frequency."""
        return circuits.neuron_phase(
            self.neurons, self.neuron_frequency.frequency, self.operation or "add", table=self.neuron_table
        )

    @cached_property
    def logit_similarity(self) -> Float[Tensor, "step frequency"]:
        """Cosine of the row-centred logits with cos(w_k(a + b - c))."""
        self._require("logit_similarity", "answer is a sum")
        return logits.logit_similarity(self.logits, self.operation)

    @cached_property
    def pca(self) -> geometry.EmbeddingPCA:
        """Principal components of the embedding, each step its own."""
        return geometry.embedding_pca(self.W_E, axes="each", components=COMPONENTS)

    @cached_property
    def component_circles(self) -> subspaces.ComponentCircles:
        """Partner with which each component is most nearly a circle."""
        return subspaces.component_circles(self.pca.coordinates)

    @property
    def final_pca(self) -> geometry.EmbeddingPCA:
        """Coordinates of the embedding on the principal axes of the last stored step."""
        self.depends_on.add("last")
        return self._final_pca

    @cached_property
    def _final_pca(self) -> geometry.EmbeddingPCA:
        both = torch.cat([self.W_E, self.context.last.W_E])
        pca = geometry.embedding_pca(both, axes="last", components=COMPONENTS)
        n = len(self.W_E)
        return geometry.EmbeddingPCA(pca.coordinates[:n], pca.axes[:n], pca.explained_variance_ratio[:n], pca.mean[:n])

    @cached_property
    def circle(self) -> geometry.AngularOrder:
        """Order of the operands in the first two components of `final_pca`."""
        return geometry.angular_order(self.final_pca.coordinates[..., :2])

    @property
    def last(self) -> "CheckpointBatch":
        """The last stored checkpoint, for what is measured against it."""
        self.depends_on.add("last")
        return self.context.last

    # --- what is left with and without the key frequencies ------------------------------------------------------------

    @property
    def keys(self) -> Bool[Tensor, " frequency"]:
        """Whether each frequency 1, 2, ... is a key frequency: given, or of the last stored step."""
        self._require("keys", "answer is a sum")
        self.depends_on.add("key frequencies")
        return self.context.keys

    @cached_property
    def own_keys(self) -> Bool[Tensor, "step frequency"]:
        """Frequencies that at least two of the three criteria name at a step itself."""
        by_criterion = [keys.key_frequency_logit(self.logit_similarity)]
        if self.context.has_neurons:
            by_criterion.append(keys.key_frequency_neuron(self.neuron_power))
        if self.context.has_embedding:
            by_criterion.append(keys.key_frequency_embedding(spectra.embedding_power(self.W_E)))
        return torch.stack(by_criterion).sum(0) >= 2

    @cached_property
    def logit_variance_explained(self) -> Float[Tensor, " step"]:
        """Share of the logits' variance along cos(w_k(a + b - c)), k a key frequency."""
        return (self.logit_similarity.square() * self.keys).sum(-1).clamp(max=1.0)

    @cached_property
    def restricted_loss_logit(self) -> Float[Tensor, " step"]:
        """Restricted loss of Nanda et al. (2023), in nats, which the trig loss ratio needs as well."""
        context = self.context
        return progress.restricted_loss_logit(self.logits, context.sums, self.keys, operation=self.operation)

    @cached_property
    def excluded(self) -> dict[str, progress.ExcludedLoss]:
        """Excluded losses by variant, in nats; each yields two measures."""
        context = self.context
        common: dict[str, Any] = {
            "labels": context.sums, "train_mask": context.sums_trained, "keys": self.keys, "operation": self.operation
        }  # fmt: skip
        losses = {
            "2d": progress.excluded_loss_2d(self.logits, **common),
            "3d": progress.excluded_loss_3d(self.logits, **common),
        }
        if context.has_neurons:
            common |= {"table": self.neuron_table}
            losses["neuron"] = progress.excluded_loss_neuron(self.neurons, self.W_L, self.logits, **common)
            losses["hidden"] = progress.excluded_loss_neuron(self.neurons, self.W_L, self.neuron_logits, **common)
        return losses

    # --- irreducible representations of a group -----------------------------------------------------------------------

    @cached_property
    def irrep_similarity(self) -> Float[Tensor, "step irrep"]:
        """Cosine of the row-centred logits with the character chi(a b c^-1) of each irrep."""
        self._require("irrep_similarity", "finite group")
        return irreps.logit_similarity(self.logits, self.group)

    @property
    def key_irreps(self) -> Bool[Tensor, " irrep"]:
        """Whether each irrep is key: given, or the logits are similar to its character at the last stored step."""
        self._require("key_irreps", "finite group")
        self.depends_on.add("last")
        return self.context.key_irreps

    @cached_property
    def restricted_loss_irreps(self) -> irreps.IrrepLoss:
        """Loss of the neurons' parts in rho(a b), all inputs, in nats: of the key irreps, and of each irrep alone."""
        self._require("restricted_loss_irreps", "finite group", "neurons")
        return irreps.restricted_loss_hidden(self.neurons, self.W_L, self.group, self.key_irreps)

    @cached_property
    def excluded_loss_irreps(self) -> irreps.IrrepLoss:
        """Loss without the neurons' parts in rho(a b), train inputs, in nats: the key irreps, and each irrep alone."""
        self._require("excluded_loss_irreps", "finite group", "neurons")
        trained = self.context.grid(self.context.train)
        return irreps.excluded_loss_hidden(self.neurons, self.W_L, self.group, trained, self.key_irreps)

    # --- accounts -----------------------------------------------------------------------------------------------------

    @property
    def named_keys(self) -> list[Any]:
        """Frequencies that two of three criteria name at the first step of this batch, or irreps that are key there."""
        if self.operation is not None:
            return (self.own_keys[0].nonzero().squeeze(1) + 1).tolist()
        flags = irreps.key_irreps(self.irrep_similarity)[0]
        return [name for name, flag in zip(self.context.labels_of("irrep", len(flags)).tolist(), flags) if flag]

    @cached_property
    def certified(self) -> tuple[Float[Tensor, " step"], Float[Tensor, " step"], Float[Tensor, "step pair"]]:
        """Certified accuracy, loss [nats] and margins, by the account of each step with the keys of the last one."""
        self._require("certified", "account")
        self.depends_on.add("last")
        keys = self.context.account_keys
        accuracy, loss, margin = zip(*self.each(lambda m: Examined(self.context, m).bounds(keys), gradients=False))
        proved, at_most = (torch.tensor(bound, dtype=torch.float64) for bound in (accuracy, loss))
        return proved, at_most, torch.from_numpy(np.stack(margin)).float()

    @cached_property
    def account_scores(self) -> tuple[Float[Tensor, " step"], Float[Tensor, " step"]]:
        """Share of the logits that the idealised network explains, and accuracy with everything else resampled."""
        self._require("account_scores", "account")
        self.depends_on.add("last")
        keys = self.context.account_keys
        explained, resampled = zip(*self.each(lambda m: Examined(self.context, m).scores(keys), gradients=False))
        return torch.tensor(explained, dtype=torch.float64), torch.tensor(resampled, dtype=torch.float64)

    def _require(self, attribute: str, *requires: str) -> None:
        """Raises NotAvailableError where the run does not admit `attribute`."""
        unmet = self.context.unmet(requires)
        if unmet is not None:
            raise NotAvailableError(
                f"`batch.{attribute}` {unmet.rule}; this run is {self.context.description}. A measure that reads it "
                f'declares requires=("{unmet.name}",).'
            )


class _Weights(dict[str, Tensor]):
    """Parameters by name; one that the model does not have raises NotAvailableError."""

    def __init__(self, parameters: Mapping[str, Tensor], run: str) -> None:
        super().__init__(parameters)
        self._run = run

    def __missing__(self, name: str) -> Tensor:
        raise NotAvailableError(
            f"There is no parameter `{name}` in this run, {self._run}. A measure that reads it declares "
            f"{suggested_requirement(name)}."
        )


@contextlib.contextmanager
def _as_it_was(model: Network) -> Iterator[None]:
    """Undo changes of gradients, of their flags and of the training mode."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    training = model.training
    try:
        yield
    finally:
        for parameter, flag, gradient in before:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
        model.train(training)


def _detached(value: Any, own: Container[int]) -> Any:
    """Tensors without their gradients, and copied where they are the model's own memory, which the next step fills."""
    match value:
        case Tensor():
            value = value.detach()
            return value.clone() if value.untyped_storage().data_ptr() in own else value
        case list() | tuple() if type(value) in (list, tuple):
            return type(value)(_detached(part, own) for part in value)
        case dict():
            return {name: _detached(part, own) for name, part in value.items()}
        case np.ndarray():
            return value.copy()
    return value


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values))
