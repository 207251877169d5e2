"""Checks of a user's network before a run of it begins: its declarations, its weights, and its pass of a few inputs."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError, InterpError, NotAvailableError, error_line
from interp.models.base import Network

__all__ = ["load_weights", "require_sound"]


def require_sound(
    network: Network, twin: Network, tokens: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos"], *, slopes: bool
) -> None:
    """Demand of a user's network what training takes for granted; `network` itself is not run.

    Args:
        network: network of the run, on the CPU.
        twin: network that was built again from the same seed; it is run.
        tokens: a few inputs of the run.
        slopes: whether gradients have a closed form, so that the outputs need not have one.

    Raises:
        ConfigError: the network breaks a rule; the message names its class.
    """
    _require_declarations(network)
    _require_equal_weights(network, twin)
    _require_outputs(twin, tokens, slopes)
    if new := dict(twin.named_parameters()).keys() - dict(network.named_parameters()).keys():
        raise ConfigError(
            f"`{type(network).__name__}` must make its parameters in `build`; {min(new)} is made in `forward`, where "
            "no optimiser knows it."
        )


def load_weights(network: Network, weights: dict[str, Tensor]) -> None:
    """Put stored weights into a network.

    Raises:
        NotAvailableError: names or shapes of parameters are not those of the network.
    """
    own = network.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        here, stored = (tuple(state[name].shape) if name in state else "absent" for state in (own, weights))
        if here != stored:
            raise NotAvailableError(
                f"{type(network).__name__} has other parameters than the run stores, `{name}` being {here} and stored "
                f"{stored}: its class or task has changed since. Load the run with the code that trained it."
            )
    network.load_state_dict(weights)


def _require_declarations(network: Network) -> None:
    name = type(network).__name__
    shapes = {at: tuple(parameter.shape) for at, parameter in network.named_parameters(remove_duplicate=False)}
    if _is_users(network, "embeddings"):
        tables = network.embeddings
        if not isinstance(tables, tuple):
            raise ConfigError(
                f"`{name}.embeddings` must be a tuple of names; got {tables!r}: "
                f'write ("{tables if isinstance(tables, str) else "embed.weight"}",).'
            )
        for table in tables:
            if table not in shapes or not shapes[table] or shapes[table][0] != network.d_vocab:
                raise ConfigError(
                    f"`{name}.embeddings` must name parameters with a row for each of {network.d_vocab} tokens; got "
                    f"{table!r}, {_what(shapes, table)}."
                )
    if _is_users(network, "read_out") and network.read_out != "" and network.read_out not in shapes:
        raise ConfigError(
            f"`{name}.read_out` must name a parameter, or be empty; got {network.read_out!r}, "
            f"{_what(shapes, network.read_out)}."
        )
    if _is_users(network, "axes"):
        short = {at.split(".", 2)[-1]: shape for at, shape in shapes.items() if at.startswith("blocks.")}
        for at, axes in network.axes.items():
            shape = shapes.get(at, short.get(at))
            if shape is None or isinstance(axes, str) or len(axes) != len(shape):
                raise ConfigError(
                    f"`{name}.axes` must hold a name for each axis of a parameter; got {axes!r} for {at!r}, "
                    f"{_what(shapes | short, at)}."
                )
    if network.has_neurons:
        for method in ("answer", "neuron_logit_map"):
            if vars(Network)[method] is next(vars(cls)[method] for cls in type(network).mro() if method in vars(cls)):
                raise ConfigError(
                    f"`{name}.has_neurons` must be False where `{method}` is not overridden; write {name}.{method}."
                )


def _require_equal_weights(network: Network, twin: Network) -> None:
    own, other = network.state_dict(), twin.state_dict()
    different = [at for at in own.keys() | other.keys() if at not in own or at not in other]
    different += [at for at in own if at in other and not _equal(own[at], other[at])]
    if different:
        raise ConfigError(
            f"The weights of {type(network).__name__} must be a function of `generator`; two networks from one seed "
            f"differ in {min(different)}: `build` draws from another generator than torch's (numpy? random?)."
        )


def _require_outputs(network: Network, tokens: Tensor, slopes: bool) -> None:
    name, n = type(network).__name__, len(tokens)
    network.train()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            first, second = network(tokens), network(tokens)
        except (InterpError, MemoryError):
            raise
        except Exception as error:
            raise ConfigError(
                f"`{name}.forward` raised {type(error).__name__} for tokens {list(tokens.shape)}: {error_line(error)}"
            ) from error
    rule = (
        f"`{name}.forward` must return a floating tensor [batch, pos, d_vocab_out] or [batch, d_vocab_out] with "
        f"batch = {n} and d_vocab_out = {network.d_vocab_out}"
    )
    if not isinstance(first, Tensor) or not first.is_floating_point():
        found = f"a tensor of {first.dtype}" if isinstance(first, Tensor) else f"a {type(first).__name__}"
        raise ConfigError(f"{rule}; got {found}.")
    if first.ndim not in (2, 3) or first.shape[0] != n or first.shape[-1] != network.d_vocab_out:
        raise ConfigError(f"{rule}; got shape {list(first.shape)}.")
    if not _equal(first.detach(), second.detach()):
        raise ConfigError(
            f"`{name}.forward` must give equal outputs for equal inputs; got two that differ. It draws random numbers "
            "or keeps a state: declare `dropout_mask`, from which a run's draws come."
        )
    if not first.requires_grad and not slopes:
        raise ConfigError(
            f"`{name}.forward` must return outputs with a gradient; got detached ones (`detach`, `no_grad`, `.data`?)."
        )


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same bits, but that all numbers that are none are alike."""
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def _is_users(network: Network, declaration: str) -> bool:
    """Whether a declaration was written by the user, and not inherited from a class of this package."""
    if declaration in vars(network):
        return True
    owner = next(cls for cls in type(network).mro() if declaration in vars(cls))
    return owner.__module__.partition(".")[0] != __name__.partition(".")[0]


def _what(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return f"of shape {list(shapes[name])}" if name in shapes else f"which is none of {', '.join(sorted(shapes))}"
