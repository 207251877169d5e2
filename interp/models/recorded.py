"""Networks of recorded runs: a user's module behind the declarations of `Network`, or its parameters alone.

The parameters are those of the store, under the stored names (see `interp.record`, `names`). A pass puts them into a
copy of the user's module and calls that:

    logits = forward(module with the parameters, tokens)

Where the module's last hidden layer is told by its path, a hook reads it, and puts others in its place. The logits are
then neurons @ W_L + rest at the last position. W_L is the derivative of the logits by the neurons, which is exact where
they are affine in them; that is tried when recording begins (`reads_neurons`).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.config import RecordedModel
from interp.errors import InterpError, NotAvailableError, error_line
from interp.models.base import Activations, Answer, Batch, Network, Sizes

__all__ = [
    "HALVES",
    "Forward",
    "RecordedNetwork",
    "StoredModel",
    "is_affine",
    "name_without_wrappers",
    "own_arrays",
    "own_buffers",
    "own_parameters",
    "require_same_logits",
    "unwrapped",
]

Forward = Callable[[nn.Module, Tensor], Tensor]
"""Function of a user's module and tokens [batch, pos] that gives logits [batch, (pos,) d_vocab_out]."""
HALVES: Mapping[str, torch.dtype] = MappingProxyType({"bfloat16": torch.bfloat16, "float16": torch.float16})
"""Types of 16 bits, which are stored as float32."""
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Names under which modules of torch and of its trainers hold the one that they wrap."""
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}
"""Difference of logits, as a share of the largest, up to which they are the same, by the type of the parameters."""


@dataclass(frozen=True, eq=False)
class StoredModel:
    """Facts by which a recorded network is built, besides its config."""

    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]]
    """Shape and type of each stored array, by its stored name."""
    module: nn.Module | None = None
    """Module of the user's class; None: the network has weights and no pass."""
    forward: Forward | None = None
    """Function that gives the logits; None: the module's own call."""
    example: Tensor | None = None
    """An input, with which the way from the neurons to the logits is looked at."""


class RecordedNetwork(Network):
    """Network of a recorded run, with its parameters under their stored names.

    Example:
        >>> config = RecordedModel(name="Linear", names=(("weight", "unembed.W_U", "T"),))
        >>> stored = StoredModel({"unembed.W_U": ((3, 2), np.dtype("f4"))}, nn.Linear(3, 2, bias=False))
        >>> network = RecordedNetwork(config, Sizes(3, 3, 2), stored)
        >>> network.load_state_dict({"unembed.W_U": torch.eye(3)[:, :2]})
        <All keys matched successfully>
        >>> network(torch.tensor([[5.0, 7.0, 9.0]])).tolist(), network.read_out
        ([[5.0, 7.0]], 'unembed.W_U')
    """

    def __init__(self, config: RecordedModel, sizes: Sizes, stored: StoredModel) -> None:
        super().__init__()
        self.config, (self.d_vocab, self.n_ctx, self.d_vocab_out) = config, sizes
        self._example = stored.example
        for name, (shape, dtype) in stored.arrays.items():
            empty = torch.from_numpy(np.zeros(shape, dtype))
            owner, _, last = name.rpartition(".")
            home = _home(self, owner)
            if name in config.buffers:
                home._buffers[last] = empty
            else:
                home._parameters[last] = nn.Parameter(empty, requires_grad=empty.is_floating_point())
        self._halves = {name: HALVES[kind] for name, _, kind in (half.rpartition(":") for half in config.halves)}
        # in a tuple, so that its parameters are not this network's
        self._called: tuple[_Called, ...] = ()
        if stored.module is not None:
            self._called = (_Called(_bare(copy.deepcopy(stored.module)), stored.forward, config),)
            self._require_parameters()
            self._require_layer()

    # --- declarations -------------------------------------------------------------------------------------------------

    @property
    def can_run(self) -> bool:
        """See `Network.can_run`: with a module."""
        return bool(self._called)

    @property
    def embeddings(self) -> tuple[str, ...]:
        """See `Network.embeddings`: the tables that were recorded as `embed.W_E` and `embed_b.W_E`."""
        names = ("embed.W_E", "embed_b.W_E")
        shapes = {name: parameter.shape for name, parameter in self.named_parameters()}
        return tuple(name for name in names if name in shapes and shapes[name][0] >= self.d_vocab > 0)

    @property
    def read_out(self) -> str:  # type: ignore[override]
        """See `Network.read_out`: the matrix that was recorded as `unembed.W_U`."""
        return "unembed.W_U"

    @property
    def has_neurons(self) -> bool:  # type: ignore[override]
        """See `Network.has_neurons`: where the hidden layer is told, and the logits are affine in it."""
        return self.can_run and self.config.reads_neurons

    @property
    def hidden_activations(self) -> str:
        """See `Network.hidden_activations`."""
        return self.config.neurons if self.can_run else ""

    @property
    def embedded(self) -> str:
        """See `Network.embedded`: the module that looks up `embed.W_E`, if it gives an embedding for each position."""
        return self._embedded if self.can_run else ""

    def axes_of(self, name: str) -> tuple[str, ...]:
        """See `Network.axes_of`."""
        return {
            "embed.W_E": ("token", "d_model"),
            "embed_b.W_E": ("token", "d_model"),
            "unembed.W_U": ("d_model", "d_vocab_out"),
        }.get(name, ())

    # --- passes -------------------------------------------------------------------------------------------------------

    def forward(self, tokens: Tensor) -> Tensor:
        """See `Network.forward`: the user's function, in evaluation mode."""
        called = self._module()
        found = torch.func.functional_call(called, self._own_arrays(), (tokens,))
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def plain_pass(self, tokens: Tensor, activations: Activations) -> Tensor:
        """See `Network.plain_pass`: outputs of the user's submodules under their names, and the hidden layer."""
        called = self._module()

        def keeping(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
            return lambda module, _, output: activations.keep(name, output) if isinstance(output, Tensor) else None

        names = [name for name, _ in called.module.named_modules() if name]
        handles = [called.module.get_submodule(name).register_forward_hook(keeping(name)) for name in names]
        if self.config.neurons.endswith(":input"):
            handles.append(called.listen(lambda neurons: activations.keep(self.config.neurons, neurons)))
        try:
            return self(tokens)
        finally:
            for handle in handles:
                handle.remove()

    def answer(self, batch: Batch) -> Answer:
        """See `Network.answer`."""
        if not self.has_neurons:
            return super().answer(batch)
        with self._read() as found:
            logits = self.answer_logits(batch)
        W_L = self.neuron_logit_map()
        neurons = _last(found[0]).to(logits.dtype)
        return Answer(logits, neurons, W_L, logits - neurons @ W_L)

    def neuron_logit_map(self) -> Float[Tensor, "neuron d_vocab_out"]:
        """See `Network.neuron_logit_map`: the derivative of the logits by the neurons."""
        if not self.has_neurons or self._example is None:
            return super().neuron_logit_map()
        return self._slopes(self._example)

    def _slopes(self, tokens: Int[Tensor, "1 pos"]) -> Float[Tensor, "neuron d_vocab_out"]:
        """Derivative of each logit of an input by the neurons at its last position, in one pass of as many copies."""
        copies = tokens.expand(self.d_vocab_out, -1)
        leaves: list[Tensor] = []

        def follow(neurons: Tensor) -> Tensor:
            leaves.append(_last(neurons).detach().requires_grad_())
            return torch.cat([neurons[:, :-1], leaves[0][:, None]], dim=1) if neurons.ndim == 3 else leaves[0]

        with torch.enable_grad():
            handle = self._module().listen(follow)
            try:
                logits = self.answer_logits(Batch(copies, None))
            finally:
                handle.remove()
            (slopes,) = torch.autograd.grad(logits.diagonal().sum(), leaves[:1])
        return slopes.T.to(logits.dtype).contiguous()

    @contextmanager
    def _read(self) -> Iterator[list[Tensor]]:
        """Context in which a pass leaves its neurons in a list."""
        found: list[Tensor] = []
        handle = self._module().listen(lambda neurons: found.append(neurons))
        try:
            yield found
        finally:
            handle.remove()

    def _with(self, change: Callable[[Tensor], Tensor], tokens: Int[Tensor, "batch pos"]) -> Tensor:
        """Logits with changed neurons."""
        handle = self._module().listen(change)
        try:
            return self.answer_logits(Batch(tokens, None))
        finally:
            handle.remove()

    def _module(self) -> "_Called":
        if not self._called:
            raise NotAvailableError(
                f"The run stores the parameters of the network `{self.config.name}` and not its code: pass a network "
                f"of that class, interp.load(folder, model={self.config.name}(...))."
            )
        called = self._called[0]
        if self.config.forward and called.forward_of_user is None:
            raise NotAvailableError(
                "The run was recorded with a function of its own for the logits: pass it to interp.load, too, as "
                "forward=..."
            )
        return called

    def _own_arrays(self) -> dict[str, Tensor]:
        """Parameters and buffers as the module has them: by its names, not transposed, and of its types."""
        stored = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        turned = {new: (own, turn) for own, new, turn in self.config.names}
        found = {}
        for name, value in stored.items():
            own, turn = turned.get(name, (name, ""))
            value = value.to(self._halves[name]) if name in self._halves else value
            found[f"module.{own}"] = value.T if turn else value
        return found

    def _require_parameters(self) -> None:
        """Demand that the module has the parameters that are stored, in their shapes."""
        module, config = self._called[0].module, self.config
        theirs = {name: tuple(x.shape) for name, x in own_arrays(module).items()}
        ours = {name.removeprefix("module."): tuple(value.shape) for name, value in self._own_arrays().items()}
        for name in sorted(theirs.keys() | ours.keys()):
            here, stored = (shapes.get(name, "absent") for shapes in (theirs, ours))
            if here != stored:
                raise NotAvailableError(
                    f"`model` must have the parameters that the run stores; `{name}` is {here} in "
                    f"{type(module).__name__} and {stored} in the run, recorded from {config.name}."
                )

    def _require_layer(self) -> None:
        """Demand that the module has the hidden layer that was recorded."""
        module, path = self._called[0].module, self.config.neurons.partition(":")[0]
        if path and path not in dict(module.named_modules()):
            raise NotAvailableError(
                f"`model` must have the hidden layer that the run was recorded with; there is no module `{path}` in "
                f"{type(module).__name__}, recorded from {self.config.name}."
            )

    @cached_property
    def _embedded(self) -> str:
        """Path of the module that looks up the embedding, if it is called once and gives [batch, pos, d]."""
        own = {new: name for name, new, _ in self.config.names}.get("embed.W_E", "embed.W_E")
        path, _, last = own.rpartition(".")
        if not self.embeddings or not path or last != "weight" or self._example is None:
            return ""
        outputs: list[Any] = []
        module = self._module().module.get_submodule(path)
        handle = module.register_forward_hook(lambda _, __, output: outputs.append(output))
        try:
            with torch.no_grad():
                self(self._example)
        finally:
            handle.remove()
        shape = (1, self._example.shape[1])
        once = len(outputs) == 1 and isinstance(outputs[0], Tensor) and outputs[0].shape[:2] == shape
        return path if once and outputs[0].ndim == 3 else ""


class _Called(nn.Module):
    """A user's module, in evaluation mode, as a function of tokens."""

    def __init__(self, module: nn.Module, forward: Forward | None, config: RecordedModel) -> None:
        super().__init__()
        self.module, self.forward_of_user, self._config = module.cpu().eval(), forward, config
        self.module.requires_grad_(False)  # the parameters of a pass are handed over

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the user's function."""
        logits = self.module(tokens) if self.forward_of_user is None else self.forward_of_user(self.module, tokens)
        if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim not in (2, 3):
            came = f"shape {list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise NotAvailableError(
                f"`forward` must return logits [batch, d_vocab_out] or [batch, pos, d_vocab_out]; got {came}."
            )
        return logits

    def listen(self, change: Callable[[Tensor], Tensor | None]) -> Any:
        """Hook on the hidden layer; `change` returns what is to stand in its place, or None."""
        path, _, side = self._config.neurons.partition(":")
        module = self.module.get_submodule(path)
        if side == "input":
            return module.register_forward_pre_hook(lambda _, inputs: _replaced(inputs, change(inputs[0])))
        return module.register_forward_hook(lambda _, __, output: change(output))


def own_arrays(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and persistent buffers of a module, by name."""
    buffers = {name: owner._buffers[last] for name, (owner, last) in own_buffers(module).items()}
    return {**own_parameters(module), **{name: x for name, x in buffers.items() if x is not None}}


def own_buffers(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Persistent buffers of a module by name: the module that owns each, and its name there."""
    return {
        name_without_wrappers(f"{path}.{name}".removeprefix(".")): (owner, name)
        for path, owner in nn.Module.named_modules(module)
        for name, x in owner._buffers.items()
        if x is not None and name not in owner._non_persistent_buffers_set
    }


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of a module, tied ones once, by the paths of the modules that own them, without wrappers.

    A class that tells other names (TransformerBridge) is not asked: functional calls look for the modules.
    """
    return {name_without_wrappers(name): x for name, x in nn.Module.named_parameters(module)}


def name_without_wrappers(name: str) -> str:
    """Name of a parameter, module or buffer without the modules that wrap others on its path.

    >>> name_without_wrappers("_orig_mod.core._orig_mod.0.weight")
    'core.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside wrappers of torch: compiled, data-parallel, distributed.

    >>> unwrapped(nn.DataParallel(nn.Linear(2, 2)))
    Linear(in_features=2, out_features=2, bias=True)
    """
    while True:
        inside = [child for name, child in module.named_children() if name in WRAPPERS]
        if inside:
            module = inside[0]
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        else:
            return module


def _bare(module: nn.Module) -> nn.Module:
    """The module inside wrappers, its submodules, too: in place, and so of a copy."""
    module = unwrapped(module)
    for name, child in module._modules.items():
        module._modules[name] = None if child is None else _bare(child)
    return module


def is_affine(network: RecordedNetwork, tokens: Int[Tensor, "few pos"], seed: int = 0) -> bool:
    """Whether the logits are affine in the neurons at the last position, and in no others of that layer.

    Their derivative must be the same everywhere, which is tried with random parameters, at the inputs' own neurons and
    at none; and the neurons of other positions must not reach them.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        before = {name: parameter.clone() for name, parameter in network.named_parameters()}
        try:
            for parameter in network.parameters():
                if parameter.is_floating_point():
                    width = max(parameter.shape[-1:] or (1,))
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / width**0.5)
            W_L = network._slopes(tokens[:1])
            with network._read() as found:
                logits = network.answer_logits(Batch(tokens, None))
            rest = network._with(lambda x: torch.zeros_like(x) if x.ndim == 2 else _without_last(x), tokens)
            others = network._with(torch.zeros_like, tokens) - rest
        finally:
            for name, parameter in network.named_parameters():
                parameter.copy_(before[name])
    off = (logits - rest - _last(found[0]).to(W_L.dtype) @ W_L).abs().max()
    most = _tolerance(network) * (logits - rest).abs().max().clamp(min=1e-6)
    return len(found) == 1 and bool(W_L.any()) and bool(off <= most) and bool(others.abs().max() <= most)


def require_same_logits(
    network: Network, tokens: Int[Tensor, "input pos"], recorded: Sequence[Sequence[float]]
) -> None:
    """Demand that a network's logits of the first inputs are those that were noted when recording began.

    Raises:
        NotAvailableError: they are not.
    """
    if not recorded:
        return
    noted = torch.tensor(recorded, dtype=torch.float64)
    with torch.no_grad():
        try:
            found = network.answer_logits(network.prepare(tokens[: len(noted)]))[:, : noted.shape[1]].double()
        except InterpError:
            raise
        except Exception as error:
            raise NotAvailableError(
                f"`model` raised {type(error).__name__} for tokens {list(tokens[: len(noted)].shape)}: "
                f"{error_line(error)}"
            ) from error
    off = float((found - noted).abs().max()) if found.shape == noted.shape else float("inf")
    if not off <= _tolerance(network) * max(float(noted.abs().max()), 1e-3):
        raise NotAvailableError(
            f"`model` must compute the logits that were noted when recording began; they differ by {off:.3g}. Is its "
            "class, a constant in it, or `forward` another than when the run was recorded?"
        )


def _tolerance(network: Network) -> float:
    """Tolerance of the coarsest type of a network's parameters."""
    halves = set(network._halves.values()) if isinstance(network, RecordedNetwork) else set()
    dtypes = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()} | halves
    return max((TOLERANCE.get(dtype, 1e-3) for dtype in dtypes), default=1e-3)


def _home(network: nn.Module, path: str) -> nn.Module:
    """Submodule at a dotted path, made where it is not there.

    It is put where torch keeps it, past the attributes: a user's `embeddings` is also what a `Network` declares.
    """
    for part in path.split(".") if path else ():
        child = network._modules.get(part)
        if child is None:
            child = network._modules[part] = nn.Module()
        network = child
    return network


def _last(x: Tensor) -> Float[Tensor, "batch neuron"]:
    """Activations at the last position."""
    return x[:, -1] if x.ndim == 3 else x


def _without_last(x: Float[Tensor, "batch pos neuron"]) -> Float[Tensor, "batch pos neuron"]:
    """Activations with none at the last position."""
    return torch.cat([x[:, :-1], torch.zeros_like(x[:, -1:])], dim=1)


def _replaced(inputs: tuple[Any, ...], first: Tensor | None) -> tuple[Any, ...] | None:
    """Inputs of a module with another first one; None where it stays."""
    return None if first is None else (first, *inputs[1:])
