"""Inputs by their prefixes: what a causal model computes at a position depends on the tokens up to there only.

In `<sos> a + b mod =` the prefixes up to '+' are as many as there are numbers a, not as there are pairs. Positions are
therefore grouped into levels: leading tokens that all pairs share are one row, those up to the second operand a row
for each distinct prefix, and the rest a row for each pair. A row of a level continues a row of the level before.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.models.base import Batch, rows_of, summed_by_product

__all__ = ["Level", "PrefixBatch", "Rows", "prefix_batch", "whole_batch"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Indices of rows of a table."""

    index: Int[Tensor, " row"]
    incidence: Float[Tensor, "entry row"] | None
    """1 where a row takes an entry, on CUDA, as in `Batch`; None on the CPU."""

    def of(self, table: Float[Tensor, "entry *d"]) -> Float[Tensor, "row *d"]:
        """Rows of `table` at these indices."""
        return rows_of(table, self.index, self.incidence)

    def select(self, indices: Int[Tensor, " some"]) -> "Rows":
        """The rows at these positions."""
        incidence = None if self.incidence is None else self.incidence.index_select(1, indices)
        return Rows(self.index.index_select(0, indices), incidence)


@dataclass(frozen=True, eq=False)
class Level:
    """Positions with one row for each distinct prefix, or (the last level) for each pair."""

    n_rows: int
    first: int
    """The first of its positions."""
    tokens: tuple[Rows | int, ...]
    """The token of each row at each position; a number where it is the same in all rows."""
    parent: Rows | None
    """The row of the level before that each row continues; None in the first level."""

    def column(self, table: Float[Tensor, "token *d"], i: int) -> Float[Tensor, "row_or_1 *d"]:
        """Each row's entry of `table` at the level's i-th position; a single one where the token is always the same."""
        token = self.tokens[i]
        return table[token : token + 1] if isinstance(token, int) else token.of(table)

    def select(self, indices: Int[Tensor, " some"]) -> "Level":
        """The rows at these positions."""
        tokens = tuple(token if isinstance(token, int) else token.select(indices) for token in self.tokens)
        return Level(len(indices), self.first, tokens, None if self.parent is None else self.parent.select(indices))

    def continuing(self, before: "Level") -> "Level":
        """Union of this level and the one before, which shares nothing between its rows."""
        assert self.parent is not None
        old = before.select(self.parent.index)
        return Level(self.n_rows, old.first, old.tokens + self.tokens, old.parent)


@dataclass(frozen=True, eq=False)
class PrefixBatch(Batch):
    """A batch of inputs, with the levels of its prefixes."""

    levels: tuple[Level, ...] = ()

    def select(self, indices: Int[Tensor, " some"]) -> "PrefixBatch":
        """The inputs at these positions, without dropout; prefixes that outnumber them are computed once per pair."""
        chosen = super().select(indices)
        *before, last = self.levels
        last = last.select(indices)
        while before and last.parent is not None and before[-1].n_rows >= last.n_rows:
            last = last.continuing(before.pop())
        return PrefixBatch(chosen.tokens, chosen.incidence, levels=(*before, last))


def prefix_batch(batch: Batch, d_vocab: int) -> PrefixBatch:
    """The levels of `batch`: prefixes are shared where they are at most half as many as the inputs.

    Example:
        >>> a, b = torch.cartesian_prod(torch.arange(5), torch.arange(5)).unbind(1)
        >>> tokens = torch.stack([torch.full_like(a, 7), a, torch.full_like(a, 5), b, torch.full_like(a, 6)], dim=1)
        >>> levels = prefix_batch(Batch(tokens, None), d_vocab=8).levels  # 7, then a 5, then b 6
        >>> [(level.n_rows, len(level.tokens)) for level in levels]
        [(1, 1), (5, 2), (25, 2)]
    """
    tokens, start = batch.tokens, 0
    levels: list[Level] = []
    everyone = torch.arange(len(tokens), device=tokens.device)
    row: Tensor | None = None  # of each pair in the level before
    prefixes = [torch.unique(tokens[:, :stop], dim=0, return_inverse=True) for stop in range(1, tokens.shape[1])]
    shared = [(len(distinct), of_pair) for distinct, of_pair in prefixes if 2 * len(distinct) <= len(tokens)]
    for stop, (n_rows, of_pair) in enumerate(shared, start=1):
        if stop < len(shared) and shared[stop][0] == n_rows:
            continue  # the next position belongs to the same level
        some_pair = everyone.new_empty(n_rows).scatter_(0, of_pair, everyone)
        levels.append(_level(tokens[some_pair], start, stop, None if row is None else row[some_pair], levels, d_vocab))
        row, start = of_pair, stop
    levels.append(_level(tokens, start, tokens.shape[1], row, levels, d_vocab))
    return PrefixBatch(tokens, batch.incidence, levels=tuple(levels))


def whole_batch(batch: Batch, d_vocab: int) -> PrefixBatch:
    """`batch` as one level, for a model in which earlier positions know of later ones: nothing but tokens is shared.

    Example:
        >>> tokens = torch.tensor([[0, 3, 5], [0, 4, 5]])
        >>> [(level.n_rows, len(level.tokens)) for level in whole_batch(Batch(tokens, None), d_vocab=6).levels]
        [(2, 3)]
    """
    level = _level(batch.tokens, 0, batch.tokens.shape[1], None, [], d_vocab)
    return PrefixBatch(batch.tokens, batch.incidence, levels=(level,))


def _level(
    tokens: Int[Tensor, "row pos"], start: int, stop: int, parent: Tensor | None, before: list[Level], d_vocab: int
) -> Level:
    columns = (
        int(column[0]) if len(column.unique()) == 1 else _rows(column, d_vocab) for column in tokens[:, start:stop].T
    )
    return Level(len(tokens), start, tuple(columns), None if parent is None else _rows(parent, before[-1].n_rows))


def _rows(index: Int[Tensor, " row"], entries: int) -> Rows:
    incidence = None
    if summed_by_product(index):
        incidence = F.one_hot(index, entries).T.to(torch.float32).contiguous()
    return Rows(index.contiguous(), incidence)
