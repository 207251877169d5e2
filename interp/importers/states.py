"""State dicts: where they lie in a file's content, and what is taken off their names.

A content is searched for weights under the usual keys (`model`, `state_dict`, `params`, ...), nested dicts become
dotted names, and arrays tensors. A `Cleaning` then removes what wrappers put around a network: a prefix of all names
(`module.` of DataParallel, `_orig_mod.` of torch.compile, the name under which another module holds the network), and
entries that are no parameters of it: buffers, and entries equal to a parameter under a second name (aliases).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from interp.errors import ConfigError, ForeignFormatError, did_you_mean
from interp.models.recorded import name_without_wrappers

__all__ = ["Cleaning", "Names", "Renaming", "State", "cleanings", "find_state", "unwrapped_names"]

X = TypeVar("X")
State = Mapping[str, Tensor]
Names = Mapping[str, str | Sequence[str] | None]
"""Names of this package by those of a file: a name, a pair of a name and "T" to transpose, or None to leave out."""

KEYS = (
    "model", "state_dict", "model_state_dict", "module", "weights", "params", "parameters", "network", "net", "state",
    "model_state", "model_weights", "model_dict", "network_state_dict", "net_state_dict", "transformer", "mlp",
)  # fmt: skip
"""Usual keys of a state dict, by preference."""
OTHERS = re.compile(
    r"optim|sched|scaler|rng|grad|moment|exp_avg|buffer|data|indices|loss|acc|history|ema|swa|init", re.I
)
"""Keys under which other tensors lie than the weights of a network."""
EXPANSION = 4
"""Largest ratio of a state dict's bytes to its file's: tied weights are few, views of one storage can be many."""
MOST = 64
"""Largest number of entries of one shape with which another is compared."""
DEPTH = 8
"""Levels of dicts in which weights are looked for."""


def find_state(contents: Any, path: Path, size: int | None = None) -> dict[str, Tensor]:
    """The state dict in the content of a file of `size` bytes.

    Raises:
        ForeignFormatError: there is none, or its tensors are no weights.
    """
    found = _found(contents, 0)
    if found is None:
        said = (
            f"the keys {', '.join(map(str, list(contents)[:8]))}"
            if isinstance(contents, Mapping)
            else f"a {type(contents).__name__}"
        )
        raise ForeignFormatError(
            f"{path} must hold a state dict, a list or dict of them, or a dict with `model` or `checkpoints`; got "
            f"{said}."
        )
    return _checked(found, path, path.stat().st_size if size is None else size)


def _found(contents: Any, depth: int) -> State | None:
    """The first state dict under the usual keys, else the content itself, else the only one under another key."""
    if not isinstance(contents, Mapping) or depth > DEPTH:
        return None
    for key in KEYS:
        if isinstance(contents.get(key), Mapping) and (state := _found(contents[key], depth + 1)) is not None:
            return state
    if isinstance(contents.get("_parameters"), Mapping):  # the parameters of a whole module
        return _found(contents["_parameters"], depth + 1)
    if contents and all(type(name) is str and _is_array(x) for name, x in contents.items()):
        return contents
    nested = dict(_flattened(contents, "", 0)) if _is_nested(contents, 0) else None
    if nested:
        return nested
    inside = [
        state
        for key, value in contents.items()
        if isinstance(key, str) and isinstance(value, Mapping) and not OTHERS.search(key)
        if (state := _found(value, depth + 1)) is not None
    ]
    return inside[0] if len(inside) == 1 else None


def _is_array(x: Any) -> bool:
    return isinstance(x, Tensor) or (isinstance(x, np.ndarray) and x.dtype.kind in "biufc")


def _is_nested(contents: Mapping[Any, Any], depth: int) -> bool:
    """Whether a dict holds nothing but arrays and dicts of them."""
    return (
        bool(contents)
        and depth <= DEPTH
        and all(
            type(key) is str and (_is_array(x) or (isinstance(x, Mapping) and _is_nested(x, depth + 1)))
            for key, x in contents.items()
        )
    )


def _flattened(contents: Mapping[str, Any], at: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, x in contents.items():
        if isinstance(x, Mapping):
            yield from _flattened(x, f"{at}{key}.", depth + 1)
        else:
            yield f"{at}{key}", x


def _checked(state: State, path: Path, size: int) -> dict[str, Tensor]:
    """A state dict whose tensors are weights: of real numbers, with elements, and not far larger than the file."""
    tensors = {
        name: x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x)).reshape(x.shape)
        for name, x in state.items()
    }
    for name, x in tensors.items():
        if x.is_complex() or not x.numel():
            rule = "have at least one element" if not x.numel() else "be real: its imaginary parts would be lost"
            raise ForeignFormatError(f"{path}: `{name}` must {rule}; got {str(x.dtype)[6:]} of shape {tuple(x.shape)}.")
    most = EXPANSION * size
    if (whole := sum(x.numel() * x.itemsize for x in tensors.values())) > most:
        raise ForeignFormatError(
            f"{path}: the tensors of a state dict must have at most {EXPANSION} times the bytes of the file, {most}; "
            f"got {whole}, by views of shared storages."
        )
    return {name: x.detach() for name, x in tensors.items()}


# --- names ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Renaming:
    """Names of a user's own for the entries of a file's state dicts.

    Example:
        >>> rename = Renaming({"tok.weight": "embed.W_E", "head.weight": ("unembed.W_U", "T"), "scale": None})
        >>> shapes = {"net.tok.weight": (5, 4), "net.head.weight": (5, 4), "net.scale": (1,)}
        >>> state = {name: torch.ones(shape) for name, shape in shapes.items()}
        >>> {name: list(x.shape) for name, x in rename(state).items()}
        {'embed.W_E': [5, 4], 'unembed.W_U': [4, 5]}
    """

    names: Names

    def __call__(self, state: State) -> dict[str, Tensor]:
        """A state dict with the entries under their new names; entries that are not named keep theirs.

        Raises:
            ForeignFormatError: an entry is not there, or is no matrix and to be transposed.
            ConfigError: a new name is not written as one.
        """
        out = dict(unwrapped_names(state) if self.names else state)
        for own, target in self.names.items():
            found = [name for name in out if name == own] or [name for name in out if name.endswith(f".{own}")]
            if len(found) != 1:
                raise ForeignFormatError(
                    f"`names` must be of entries of the file; there is {'more than one' if found else 'no'} "
                    f"`{own}`. {did_you_mean(own, out)}"
                )
            x = out.pop(found[0])
            match target:
                case None:
                    continue
                case str() as new:
                    out[new] = x
                case [str() as new, "T"]:
                    if x.ndim != 2:
                        raise ForeignFormatError(f"`names` can transpose matrices; `{own}` has {x.ndim} axes.")
                    out[new] = x.T.contiguous()
                case _:
                    raise ConfigError(
                        f'`names` must give "name", ["name", "T"] to transpose, or null to leave out; got {target!r} '
                        f"for {own}."
                    )
        return out


@dataclass(frozen=True)
class Cleaning:
    """Names and entries that are taken off every state dict of a run."""

    prefix: str = ""
    """Prefix of the names of the network's entries."""
    wrapped: bool = False
    """Whether wrappers stand in names."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Entries that equal another, by their names."""
    buffers: tuple[str, ...] = ()
    """Entries that are no parameters: constants of whole numbers or booleans."""
    outside: tuple[str, ...] = ()
    """Entries without the prefix."""

    def __call__(self, state: State) -> dict[str, Tensor]:
        """A state dict with this taken off.

        Raises:
            ForeignFormatError: an alias differs from the entry that it equalled before.
        """
        inside = _inside(unwrapped_names(state), self.prefix)
        for alias, name in self.aliases.items():
            if alias in inside and not (name in inside and torch.equal(inside[alias], inside[name])):
                raise ForeignFormatError(
                    f"`{alias}` equals `{name}` in the last checkpoint and differs from it in this one: it is no alias."
                )
        return {name: x for name, x in inside.items() if name not in self.aliases and name not in self.buffers}

    @property
    def said(self) -> list[str]:
        """Sentences about names and entries that were taken off."""
        lines = []
        if self.wrapped:
            lines.append("the names of wrappers (`_orig_mod.` of torch.compile and the like) were taken off")
        if self.prefix:
            lines.append(f"the prefix `{self.prefix}` was taken off the names")
        if self.outside:
            some = ", ".join(f"`{name}`" for name in self.outside[:3])
            more = f" and {len(self.outside) - 3} others" if len(self.outside) > 3 else ""
            lines.append(f"entries without the prefix were left out: {some}{more}")
        lines += [f"`{alias}` was dropped: it equals `{name}`" for alias, name in list(self.aliases.items())[:8]]
        if self.buffers:
            lines.append(f"buffers were left out: {', '.join(f'`{name}`' for name in self.buffers[:4])}")
        return lines


def cleanings(state: State, knows: Callable[[str], bool]) -> Iterator[tuple[Cleaning, dict[str, Tensor]]]:
    """Cleanings that a state dict allows, the least first, each with what remains.

    Arguments:
        knows: whether a name is that of a parameter in the layout that is tried.

    Example:
        >>> wrapped = {"_orig_mod.net.W": torch.ones(2), "_orig_mod.net.V": torch.ones(2)}
        >>> [sorted(rest) for _, rest in cleanings(wrapped, lambda name: name == "W")]
        [['net.V', 'net.W'], ['V', 'W']]
    """
    inside = unwrapped_names(state)
    wrapped = inside.keys() != state.keys()
    prefix = ""
    for _ in range(DEPTH):
        aliases, buffers = _spare(inside, knows)
        outside = tuple(name for name in unwrapped_names(state) if not name.startswith(prefix))
        cleaning = Cleaning(prefix, wrapped, aliases, buffers, outside)
        yield cleaning, {name: x for name, x in inside.items() if name not in aliases and name not in buffers}
        heads: dict[str, int] = {}
        for name in inside:
            head, dot, _ = name.partition(".")
            if dot:
                heads[head] = heads.get(head, 0) + 1
        if not heads:
            return
        plain = {head: n for head, n in heads.items() if not OTHERS.search(head)} or heads
        head = max(plain, key=lambda head: plain[head])
        inside, prefix = _inside(inside, f"{head}."), f"{prefix}{head}."


def unwrapped_names(state: Mapping[str, X]) -> Mapping[str, X]:
    """Entries under their names without those of wrappers, such as `_orig_mod.`."""
    return {name_without_wrappers(name): x for name, x in state.items()}


def _inside(state: State, prefix: str) -> State:
    if not prefix:
        return state
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}


def _spare(state: State, knows: Callable[[str], bool]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Entries of unknown names that equal one of a known name, and constants of unknown names."""
    unknown = [name for name in state if not knows(name)]
    if len(unknown) == len(state):
        return {}, ()
    known: dict[tuple[int, ...], list[str]] = {}
    for name, x in state.items():
        if knows(name):
            known.setdefault(tuple(x.shape), []).append(name)
    aliases, buffers = {}, []
    for name in unknown:
        x = state[name]
        if not x.is_floating_point():
            buffers.append(name)
        elif x.min() < x.max() and (
            equal := [one for one in known.get(tuple(x.shape), [])[:MOST] if torch.equal(state[one], x)]
        ):
            aliases[name] = equal[0]
    return aliases, tuple(buffers)
