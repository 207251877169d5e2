"""Networks: their passes and declarations, and what the fast passes share: prepared batches and table look-up."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from interp.errors import InvalidArgumentError, NotAvailableError, UnknownNameError, did_you_mean
from interp.models.tables import PairTables

__all__ = [
    "Activations",
    "Answer",
    "Batch",
    "Network",
    "NeuronNetwork",
    "Parameters",
    "Sizes",
    "activate",
    "draw",
    "in_front",
    "is_block_matrix",
    "is_stacked",
    "look_up",
    "numbers_of_tokens",
    "rows_of",
]


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of inputs as the fast passes read it, made once by `Network.prepare` and used at every step."""

    tokens: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos"]
    """The input: tokens, or points."""
    incidence: Float[Tensor, "pos token batch"] | None
    """1 where a position holds a token: on CUDA look-ups are summed back with it, in a fixed order; None on the CPU."""
    dropout: Float[Tensor, "batch neuron"] | None = None
    """Factors of the neurons in a training pass, from `Network.dropout_mask`; None: nothing is dropped."""

    def select(self, indices: Int[Tensor, " some"]) -> "Batch":
        """The inputs at these positions, without dropout."""
        incidence = None if self.incidence is None else self.incidence.index_select(2, indices)
        return Batch(self.tokens.index_select(0, indices), incidence)


@dataclass(frozen=True, eq=False)
class Answer:
    """Logits at the last position in two parts: logits = neurons @ neuron_logit_map + residual_logits."""

    logits: Float[Tensor, "batch d_vocab_out"]
    neurons: Float[Tensor, "batch neuron"]
    """Activations of the last hidden layer, after the non-linearity."""
    neuron_logit_map: Float[Tensor, "neuron d_vocab_out"]
    """W_L of Nanda et al. (2023): what a neuron adds to each logit."""
    residual_logits: Float[Tensor, "batch d_vocab_out"]
    """Part of the logits that bypasses the last hidden layer, biases included."""


class Sizes(NamedTuple):
    """Sizes of a task that a model is built for."""

    d_vocab: int
    """Number of tokens."""
    n_ctx: int
    """Positions of an input."""
    d_vocab_out: int
    """Number of outputs."""


class Activations(dict[str, Tensor]):
    """Activations of one plain pass by name, in the order in which it computes them, and the changes to be made in it.

    A plain pass hands over each activation and goes on with what it gets back. Without changes that is the tensor
    itself.

    Example:
        >>> activations = Activations({"hidden": lambda x: 2 * x})
        >>> activations.keep("embed", torch.ones(2)).tolist(), activations.keep("hidden", torch.ones(2)).tolist()
        ([1.0, 1.0], [2.0, 2.0])
        >>> list(activations)
        ['embed', 'hidden']
    """

    def __init__(self, changes: Mapping[str, Callable[[Tensor], Tensor]] | None = None) -> None:
        super().__init__()
        self.changes = dict(changes or {})
        """Functions that take an activation and return what is to stand in its place, by the activation's name."""

    def keep(self, name: str, x: Tensor) -> Tensor:
        """The activation with which the pass goes on: `x`, or its change, which is what is kept.

        Raises:
            InvalidArgumentError: a change returns another shape.
            NotAvailableError: the pass computes an activation that is to be changed more than once.
        """
        if name in self.changes:
            if name in self:
                raise NotAvailableError(
                    f"`{name}` is computed more than once in a pass, so that it is not one activation to be changed. "
                    "Give each use a name of its own in `Network.plain_pass`."
                )
            x = self._changed(name, x)
        self[name] = x
        return x

    def at_position(self, name: str, x: Float[Tensor, "batch d"], pos: int, positions: int) -> Float[Tensor, "batch d"]:
        """State at one position with which a recurrence goes on; the pass keeps the states of all positions itself.

        A change is asked at each position in turn, for a tensor [batch, positions, d] that is right at `pos` alone.
        """
        if name not in self.changes:
            return x
        return self._changed(name, x[:, None].expand(-1, positions, -1))[:, pos]

    def _changed(self, name: str, x: Tensor) -> Tensor:
        changed = self.changes[name](x.clone())  # which it may write over
        if not isinstance(changed, Tensor) or changed.shape != x.shape:
            came = f"shape {list(changed.shape)}" if isinstance(changed, Tensor) else f"a {type(changed).__name__}"
            raise InvalidArgumentError(f"The change of `{name}` must return the shape {list(x.shape)}; got {came}.")
        return changed


class Network(nn.Module, ABC):
    """A model's parameters and passes, with what trainers, optimisers and measures ask of them.

    A user's network writes one method, `forward`. Everything else has a default; each further declaration opens more
    measures. A checkpoint stores weights alone, so that constants belong in non-persistent buffers, and draws of a
    training pass in `dropout_mask`, since global generators are not the run's.
    """

    d_vocab: int
    n_ctx: int
    d_vocab_out: int

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    """Names of the axes of parameters, by a parameter's name; in blocks without `blocks.i.` in front."""
    read_out: ClassVar[str] = ""
    """Name of the matrix [stream, d_vocab_out] that gives the logits; empty where no parameter is one."""
    has_neurons: bool = False
    """Whether `answer` tells the neurons of the last hidden layer, and `neuron_logit_map` their way to the logits."""
    activation_axes: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    """Names of the axes of activations behind the batch, by name; in blocks without `blocks.i.` in front.

    Patching and ablation choose along `pos`, `head` and `neuron`. Where an activation is not named here, two axes are
    (batch, neuron) and three (batch, pos, neuron)."""
    ablation: str = ""
    """Parts that `interp.analysis.ablations.keep_only` has taken away, in words; empty where nothing is."""

    @property
    def branches(self) -> tuple[tuple[str, ...], ...]:
        """Names of the activations of each part that reads a shared stream and adds to it, the last one what it adds.

        Path patching freezes the last one of each, but where the path begins or ends in it: heads and MLPs of a
        transformer. Empty where there is no way around a layer.
        """
        return ()

    @property
    def readers(self) -> Mapping[str, tuple[str, str]]:
        """Matrix and bias that read an activation, by its name: those by which its heads or neurons act.

        The matrix has the axes of a head or a neuron first. An empty name of a bias says that the network has no place
        for one; a place may hold None.
        """
        return {}

    @property
    def can_run(self) -> bool:
        """Whether the network has a pass; a recorded one has its weights alone where its class is not given."""
        return True

    has_tables: bool = False
    """Whether `pair_tables` tells the network as tables with a row per token, or why this one cannot."""

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Names of the tables with a row per token: one, or one for each operand; empty where there is none."""
        return ()

    @property
    def looks_up(self) -> bool:
        """Whether operands are looked up in `embeddings`, a row for each token wherever it stands."""
        return bool(self.embeddings)

    @property
    def pattern(self) -> str:
        """Name in the cache of the only layer's attention pattern [batch, head, query, key]; empty where there is none.

        A network that names one has HookedTransformer's parameters: `blocks.0.attn.W_Q`, `W_K`, `pos_embed.W_pos`.
        """
        return ""

    attends_to_sums: bool = True
    """Whether queries and keys of the first layer read the sum of the embeddings of token and position as it is, and
    not a LayerNorm of it."""

    @property
    def embedded(self) -> str:
        """Name in the cache of the embeddings [batch, pos, d_model] of inputs; empty where there is none."""
        return ""

    @property
    def pre_activations(self) -> str:
        """Name in the cache of the last hidden layer before its non-linearity, [batch, pos, neuron] or [batch, neuron];
        empty where there is none.
        """
        return ""

    @property
    def hidden_activations(self) -> str:
        """Name in the cache of the last hidden layer, [batch, pos, neuron] or [batch, neuron]; empty without one."""
        return ""

    def axes_of(self, name: str) -> tuple[str, ...]:
        """Names of the axes of a parameter, from `axes`; empty where they are not declared.

        Example:
            >>> from interp.config import Transformer
            >>> from interp.models import build_model
            >>> build_model(Transformer(), 6, 3, 5, generator=torch.Generator()).axes_of("blocks.0.mlp.W_in")
            ('d_model', 'neuron')
        """
        return self.axes.get(name, self.axes.get(_without_block(name), ()))

    def activation_axes_of(self, name: str, ndim: int) -> tuple[str, ...]:
        """Names of the axes of an activation of `ndim` axes, behind the batch, from `activation_axes`.

        Example:
            >>> from interp.config import Transformer
            >>> from interp.models import build_model
            >>> model = build_model(Transformer(), 6, 3, 5, generator=torch.Generator())
            >>> model.activation_axes_of("blocks.0.attn.hook_z", 4)
            ('pos', 'head', 'd_head')
        """
        declared = self.activation_axes.get(name, self.activation_axes.get(_without_block(name)))
        if declared is not None:
            return declared
        return {2: ("neuron",), 3: ("pos", "neuron")}.get(ndim, tuple(f"axis_{i}" for i in range(1, ndim)))

    def operand_embeddings(self, weights: Mapping[str, Tensor]) -> Float[Tensor, "*step token column"]:
        """Representation of each token at either operand, side by side: by default the table of the first operand.

        `weights` are the parameters, leading axes included; whoever asks may leave out rows of the tables.
        """
        if not self.embeddings:
            raise NotAvailableError(f"{type(self).__name__} has no embedding.")
        return weights[self.embeddings[0]]

    def muon_turns(self, name: str, ndim: int) -> bool:
        """Whether Muon orthogonalises the updates of a parameter, and AdamW does not make them.

        Matrices are turned, but for embeddings and the read-out (Jordan et al., 2024).
        """
        return ndim >= 2 and name not in (*self.embeddings, self.read_out)

    def lens_settings(self) -> dict[str, Any]:
        """Settings of the TransformerBridge that has the same parameters, `TransformerBridgeConfig`'s arguments.

        Raises:
            NotAvailableError: TransformerLens has no such model.
        """
        raise NotAvailableError(
            f"TransformerLens has bridges for transformers only; got a {type(self).__name__}, "
            "whose activations `run_with_cache` gives under the same names."
        )

    def lens_weights(self) -> dict[str, Tensor]:
        """Weights of the bridge of `lens_settings`, by HookedTransformer's names: those of the network itself.

        A network whose passes make a matrix of its parameters, such as a tied unembedding, gives the matrix.
        """
        return dict(self.state_dict())

    def extra_repr(self) -> str:
        """Words in the network's printed form: parts that were taken away."""
        return self.ablation

    @abstractmethod
    def forward(
        self, tokens: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch out_pos d_vocab_out"] | Float[Tensor, "batch d_vocab_out"]:
        """Logits at every position, or those of the answer alone."""

    def plain_pass(
        self, tokens: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos"], activations: Activations
    ) -> Float[Tensor, "batch out_pos d_vocab_out"] | Float[Tensor, "batch d_vocab_out"]:
        """Logits by a pass that hands over each activation: `x = activations.keep(name, x)`.

        By default the outputs of all submodules that are tensors, under their names.
        """

        def keeping(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
                return activations.keep(name, output) if isinstance(output, Tensor) else None

            return hook

        handles = [module.register_forward_hook(keeping(name)) for name, module in self.named_modules() if name]
        try:
            return self(tokens)
        finally:
            for handle in handles:
                handle.remove()

    def run_with_cache(
        self, tokens: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and activations by name, of `plain_pass`."""
        return self.run_with_changes(tokens, {})

    def run_with_changes(
        self,
        tokens: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos"],
        changes: Mapping[str, Callable[[Tensor], Tensor]],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and activations where some are changed on the way: `changes` are functions of them by name.

        Everything behind a changed activation is computed from it. States of a recurrence are changed position by
        position: a function is then called for each, and must not mix positions.

        Raises:
            UnknownNameError: there is no activation of that name.
            InvalidArgumentError: a change returns another shape.

        Example:
            >>> from interp.config import Transformer
            >>> from interp.models import build_model
            >>> config = Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=8, attention_biases="absent")
            >>> model = build_model(config, 6, 3, 5, generator=torch.Generator().manual_seed(0))
            >>> no_attention = {"blocks.0.attn.hook_pattern": lambda pattern: 0 * pattern}
            >>> _, cache = model.run_with_changes(torch.tensor([[1, 2, 5]]), no_attention)
            >>> cache["blocks.0.hook_attn_out"].abs().max().item()
            0.0
        """
        activations = Activations(changes)
        logits = self.plain_pass(tokens, activations)
        if unknown := changes.keys() - activations.keys():
            name = min(unknown)
            raise UnknownNameError(
                f"There is no activation `{name}` in {type(self).__name__}. {did_you_mean(name, activations)}"
            )
        return logits, dict(activations)

    def prepare(self, tokens: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos"]) -> Batch:
        """Inputs as the fast passes read them, prepared once, on the device of `tokens`."""
        return Batch(tokens, None)

    def dropout_mask(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch neuron"] | None:
        """Factors of the neurons in a training pass, drawn on the CPU; None for a model without dropout.

        They go into the field `dropout` of the batch of that pass, for `answer_logits` to multiply with; an evaluation
        leaves the field None. It is asked where the config's `dropout` is not 0.
        """
        return None

    def answer_logits(self, batch: Batch) -> Float[Tensor, "batch d_vocab_out"]:
        """Logits at the last position."""
        outputs = self(batch.tokens)
        return outputs[:, -1] if outputs.ndim == 3 else outputs

    def last_logits(self, batch: Batch, positions: int) -> Float[Tensor, "batch positions d_vocab_out"]:
        """Logits at the last positions: 2 for inputs behind whose '=' the answer stands, to learn what closes it."""
        return self(batch.tokens)[:, -positions:]

    def answer(self, batch: Batch) -> Answer:
        """Logits at the last position and what they are made of, where `has_neurons`.

        Raises:
            NotAvailableError: the network does not tell its neurons.
        """
        raise NotAvailableError(f"{type(self).__name__} does not tell its neurons (`has_neurons`).")

    def neuron_logit_map(self) -> Float[Tensor, "neuron d_vocab_out"]:
        """W_L, the map from the neurons of the last hidden layer to the logits, where `has_neurons`.

        Raises:
            NotAvailableError: the network does not tell its neurons.
        """
        raise NotAvailableError(f"{type(self).__name__} does not tell its neurons (`has_neurons`).")

    def pair_tables(self, tokens: Int[Tensor, "pair pos"]) -> PairTables:
        """The network on all pairs of operands as tables with a row per token, in float64.

        `tokens` are all pairs, the second operand varying fastest. Networks of one hidden layer whose pre-activations
        are sums of terms of one token each (`interp.models.tables`) have tables; accounts and certificates need them.

        Raises:
            NotAvailableError: the network is none of these; the message says which condition fails.
        """
        raise NotAvailableError(f"{type(self).__name__} does not tell its tables (`Network.pair_tables`).")


class NeuronNetwork(Network):
    """Networks of this package: a plain pass, and an exact fast one that tells the neurons of the last hidden layer.

    Parameters are named as HookedTransformer names them; `embed.W_E` is the token embedding. A model that reads its
    operands as numbers has none: `embed` is None, and the state dict lacks the name.
    """

    embed: Any
    blocks: Any
    unembed: Any

    read_out: ClassVar[str] = "unembed.W_U"
    has_neurons: bool = True

    @property
    def embeddings(self) -> tuple[str, ...]:
        """See `Network.embeddings`."""
        return () if self.embed is None else ("embed.W_E",)

    @property
    def embedded(self) -> str:
        """See `Network.embedded`."""
        return "hook_embed"

    def muon_turns(self, name: str, ndim: int) -> bool:
        """See `Network.muon_turns`: matrices of the blocks (biases of heads, [head, d_head], are none)."""
        return is_block_matrix(name, ndim)

    def forward(
        self, tokens: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch out_pos d_vocab_out"]:
        """Logits at every position, by the plain pass (a model without positions has one)."""
        return self.plain_pass(tokens, Activations())

    @abstractmethod
    def plain_pass(
        self, tokens: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos"], activations: Activations
    ) -> Float[Tensor, "batch out_pos d_vocab_out"]:
        """Logits at every position; the activations have HookedTransformer's names."""

    def prepare(self, tokens: Int[Tensor, "batch pos"]) -> Batch:
        """See `Network.prepare`; on CUDA with the incidence of tokens, by which look-ups are summed back."""
        incidence = None
        if summed_by_product(tokens):
            incidence = F.one_hot(tokens.T, self.d_vocab).transpose(1, 2).to(torch.float32).contiguous()
        return Batch(tokens, incidence)

    def answer_logits(self, batch: Batch) -> Float[Tensor, "batch d_vocab_out"]:
        """See `Network.answer_logits`, by the fast pass."""
        return self.answer(batch).logits

    @abstractmethod
    def answer(self, batch: Batch) -> Answer:
        """Logits at the last position and what they are made of: exact, and as fast as the model allows."""

    @abstractmethod
    def neuron_logit_map(self) -> Float[Tensor, "neuron d_vocab_out"]:
        """W_L, the map from the neurons of the last hidden layer to the logits."""


def _without_block(name: str) -> str:
    """Name of a parameter or an activation of a block without `blocks.i.`."""
    return name.split(".", 2)[-1] if name.startswith("blocks.") else name


def is_block_matrix(name: str, ndim: int) -> bool:
    """Whether a parameter is a matrix of a block, by HookedTransformer's names; `ndim` leaves out members' axes."""
    return name.startswith("blocks.") and ".W_" in name and ndim >= 2


class Parameters(nn.Module):
    """A named bundle of parameters, so that state-dict keys read `blocks.0.attn.W_Q`; None marks an absent one."""

    def __init__(self, **parameters: nn.Parameter | None) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            self.register_parameter(name, parameter)


def draw(
    shape: tuple[int, ...], generator: torch.Generator, *, std: float | None = None, bound: float | None = None
) -> nn.Parameter:
    """A parameter drawn from N(0, std^2) or from U(-bound, bound)."""
    empty = torch.empty(shape)
    if std is not None:
        return nn.Parameter(empty.normal_(0.0, std, generator=generator))
    assert bound is not None
    return nn.Parameter(empty.uniform_(-bound, bound, generator=generator))


def activate(kind: str, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The non-linearity of a hidden layer, by its name in `interp.config.models.Activation`.

    Example:
        >>> activate("square", torch.tensor([-3.0, 2.0])).tolist()
        [9.0, 4.0]
    """
    match kind:
        case "relu":
            return F.relu(x)
        case "gelu":
            return F.gelu(x)
        case "gelu_new":
            return F.gelu(x, approximate="tanh")
        case "silu":
            return F.silu(x)
        case "tanh":
            return x.tanh()
        case "sigmoid":
            return x.sigmoid()
        case "softplus":
            return F.softplus(x)
        case "square":
            return x.square()
        case "identity":
            return x
    raise AssertionError(kind)  # a config admits no other


def numbers_of_tokens(d_vocab: int, scalars: str, like: Tensor) -> Float[Tensor, " token"]:
    """The tokens as the numbers that they are, in the type of `like`: raw, or divided by the largest."""
    numbers = torch.arange(d_vocab, dtype=like.dtype, device=like.device)
    return numbers / (d_vocab - 1) if scalars == "divided" else numbers


def look_up(table: Float[Tensor, "token *d"], batch: Batch, pos: int) -> Float[Tensor, "batch *d"]:
    """Row `tokens[:, pos]` of `table` for each pair; its gradient is summed in a fixed order on every device."""
    return rows_of(table, batch.tokens[:, pos], None if batch.incidence is None else batch.incidence[pos])


def summed_by_product(index: Tensor) -> bool:
    """Whether gradients of look-ups are summed by a matrix product with the incidence: where their order is not fixed
    otherwise, and a captured step may not ask for the range of an index."""
    return index.is_cuda


def rows_of(
    table: Float[Tensor, "token *d"], index: Int[Tensor, " batch"], incidence: Float[Tensor, "entry batch"] | None
) -> Float[Tensor, "batch *d"]:
    """Rows `index` of `table`; `incidence`, 1 where a row takes an entry, sums their gradient in a fixed order."""
    if incidence is None:  # vmap makes an embedding of several tables one look-up; of index_select it makes a gather
        return F.embedding(index, table) if is_stacked(table) else table.index_select(0, index)
    return _LookUp.apply(table, index, incidence)


def is_stacked(x: Tensor) -> bool:
    """Whether `x` stands for that of every member of an ensemble, inside `torch.func.vmap`."""
    return torch._C._functorch.is_batchedtensor(x)


def in_front(members: int, in_dims: tuple[int | None, ...], inputs: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Inputs of a function under vmap, with the axis of the members in front of every tensor."""
    return [
        x if x is None else x.expand(members, *x.shape) if at is None else x.movedim(at, 0)
        for x, at in zip(inputs, in_dims, strict=True)
    ]


class _LookUp(torch.autograd.Function):
    """index_select whose backward is a matrix product: on CUDA, index_add sums in no fixed order.

    Of several tables and indices, one of each for a member of an ensemble, the rows are looked up in one table of all.
    """

    @staticmethod
    def forward(table: Tensor, index: Tensor, incidence: Tensor) -> Tensor:
        if index.ndim == 1:
            return table.index_select(0, index)
        first = torch.arange(0, len(table) * table.shape[1], table.shape[1], device=index.device)
        return F.embedding(index + first[:, None], table.flatten(0, 1))  # new memory, which may be written over

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        table, index, incidence = inputs
        ctx.save_for_backward(index, incidence)
        ctx.shape = table.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index, incidence = ctx.saved_tensors
        entries = incidence[..., : ctx.shape[index.ndim - 1], :].to(grad.dtype)
        return (entries @ grad.reshape(*index.shape, -1)).reshape(ctx.shape), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor | None) -> tuple[Tensor, int]:
        return _LookUp.apply(*in_front(info.batch_size, in_dims, inputs)), 0
