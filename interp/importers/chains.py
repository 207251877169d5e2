"""Feed-forward networks by the shapes of their matrices, whatever they are called.

A network on two operands is a chain: tables with a row per number, or one-hot operands, then layers of which each reads
what the one before writes, up to p classes. With p numbers, embeddings of width d and n neurons:

    shared tables      E [p, d]                 first layer reads 2 d (side by side) or d (their sum)
    separate tables    E [p, d], E_b [p, d]     first layer reads 2 d or d
    one-hot operands   no table                 first layer reads 2 p, or p (their sum)

All layers act from the left as torch's, [out, in], or all from the right, [in, out]. A chain that shapes allow in one
order only is recognised; for others the names have to be said.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from interp.config import FeedForward
from interp.importers.states import State

__all__ = ["Chain", "describe_chain", "find_chain"]

MOST = 8
"""Largest number of matrices of a chain."""
SMALLEST = 3
"""Smallest number of classes."""


@dataclass(frozen=True)
class Chain:
    """Names of the tables and layers of a feed-forward network, first to last."""

    tables: tuple[str, ...]
    layers: tuple[str, ...]
    biases: tuple[str, ...]
    """Bias of each layer; empty names where a layer has none."""
    left: bool
    """Whether layers act from the left, [out, in]."""

    def translate(self, state: State) -> dict[str, Tensor]:
        """Parameters under the names of a `FeedForward` model; biases that only some layers have are 0 elsewhere."""
        out = {name: state[table] for name, table in zip(("embed.W_E", "embed_b.W_E"), self.tables)}
        with_biases = any(self.biases)
        for i, (layer, bias) in enumerate(zip(self.layers, self.biases)):
            weight = (state[layer].T if self.left else state[layer]).contiguous()
            at, b = (f"blocks.{i}.mlp.W_in", f"blocks.{i}.mlp.b_in")
            if i == len(self.layers) - 1:
                at, b = "unembed.W_U", "unembed.b_U"
            elif i == 0 and not self.tables:
                at = "embed.W_E"
            out[at] = weight
            if with_biases:
                out[b] = state[bias] if bias else weight.new_zeros(weight.shape[1])
        return out


def find_chain(state: State) -> Chain | None:
    """The chain of a state dict; None where its shapes allow none, or several that are not the order of its entries.

    Example:
        >>> chain = find_chain({"0.weight": torch.ones(8, 10), "0.bias": torch.ones(8), "2.weight": torch.ones(5, 8)})
        >>> chain.tables, chain.layers, chain.biases, chain.left
        ((), ('0.weight', '2.weight'), ('0.bias', ''), True)
    """
    matrices = [name for name, x in state.items() if x.ndim == 2]
    vectors = [name for name, x in state.items() if x.ndim == 1]
    if not 2 <= len(matrices) <= MOST or len(matrices) + len(vectors) != len(state) or len(vectors) > len(matrices):
        return None
    found = [
        chain
        for left in (True, False)
        for tables, layers in _orders(state, matrices, left)
        if (chain := _with_biases(state, Chain(tables, layers, ("",) * len(layers), left), vectors)) is not None
    ]
    if len(found) > 1:
        as_listed = [chain for chain in found if [*chain.tables, *chain.layers] == matrices]
        as_listed = as_listed or [chain for chain in found if [*chain.tables, *chain.layers] == sorted(matrices)]
        found = [chain for chain in as_listed if chain.left] or as_listed
    return found[0] if len(found) == 1 else None


def _orders(state: State, matrices: Sequence[str], left: bool) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Tables and layers in each order that shapes allow."""

    def ends(name: str) -> tuple[int, int]:
        """Widths that a layer reads and writes."""
        rows, columns = state[name].shape
        return (columns, rows) if left else (rows, columns)

    def onward(width: int, rest: Sequence[str]) -> Iterator[tuple[str, ...]]:
        if not rest:
            yield ()
        for name in rest:
            if ends(name)[0] == width:
                for more in onward(ends(name)[1], [other for other in rest if other != name]):
                    yield (name, *more)

    for n_tables in (0, 1, 2):
        for tables in _chosen(matrices, n_tables):
            rest = [name for name in matrices if name not in tables]
            if len(rest) < 2 or len({tuple(state[table].shape) for table in tables}) > 1:
                continue
            for first in rest:
                reads, writes = ends(first)
                for more in onward(writes, [name for name in rest if name != first]):
                    p = ends(more[-1])[1] if more else writes
                    width = state[tables[0]].shape[1] if tables else p
                    numbers = state[tables[0]].shape[0] if tables else p
                    if p >= SMALLEST and numbers == p and reads in (width, 2 * width):
                        yield tables, (first, *more)


def _chosen(matrices: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Tables among matrices, two in the order of their names, since entries may stand in any."""
    if n == 0:
        yield ()
    elif n == 1:
        yield from ((name,) for name in matrices)
    else:
        yield from itertools.combinations(sorted(matrices), 2)


def _with_biases(state: State, chain: Chain, vectors: Sequence[str]) -> Chain | None:
    """The chain with a bias for each vector: that of the module of its name, else by order."""
    biases = dict.fromkeys(chain.layers, "")
    left = list(vectors)
    for layer in chain.layers:
        module = layer.rpartition(".")[0]
        own = [name for name in left if (module and name.rpartition(".")[0] == module) or _pair(layer, name)]
        if len(own) == 1:
            biases[layer] = own[0]
            left.remove(own[0])
    if left:
        free = [layer for layer in chain.layers if not biases[layer]]
        if len(free) < len(left):
            return None
        biases |= dict(zip(free, left))
    for layer, bias in biases.items():
        width = state[layer].shape[0 if chain.left else 1]
        if bias and state[bias].shape != (width,):
            return None
    return replace(chain, biases=tuple(biases[layer] for layer in chain.layers))


def _pair(layer: str, bias: str) -> bool:
    """Whether names are of a weight and its bias: W_1 and b_1, kernel and bias."""
    return re.sub(r"[Ww](eight)?|kernel", "b", layer) == re.sub(r"[Bb](ias)?", "b", bias)


def describe_chain(state: Mapping[str, Tensor], p: int) -> FeedForward:
    """The `FeedForward` model of translated weights; tables of p rows without a hidden layer are multiplied."""
    hidden = sorted({int(name.split(".")[1]) for name in state if name.startswith("blocks.")})
    widths = [state[f"blocks.{i}.mlp.W_in"].shape[1] for i in hidden if f"blocks.{i}.mlp.W_in" in state]
    W_E = state.get("embed.W_E", torch.empty(0, 0))
    first = state.get("blocks.0.mlp.W_in", state["unembed.W_U"])
    biases = "trainable" if "unembed.b_U" in state else "absent"
    if "blocks.0.mlp.W_in" not in state and (hidden or W_E.shape[0] == 2 * p):  # the first layer is the table
        return FeedForward(
            embedding="one-hot",
            combine="concatenate" if W_E.shape[0] == 2 * p else "sum",
            d_hidden=(W_E.shape[1], *widths),
            biases=biases,  # type: ignore[arg-type]
        )
    reads = first.shape[0]
    d_model = W_E.shape[1]
    return FeedForward(
        embedding="separate" if "embed_b.W_E" in state else "shared",
        combine="product" if not hidden else "concatenate" if reads == 2 * d_model else "sum",
        d_model=d_model,
        d_hidden=tuple(widths),
        biases=biases,  # type: ignore[arg-type]
    )
