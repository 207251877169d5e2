"""Requirements of measures: properties of a run, by name, without which a measure is not defined.

A measure lists names (`Measure.requires`); the run's `RunContext` answers them from what its task and its model
declare. A measure whose requirement is not met is left out where all measures are asked for, and refused in one line
where it is asked for by name.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from interp.errors import UnknownNameError, did_you_mean

__all__ = ["REQUIREMENTS", "Requirement", "first_unmet", "suggested_requirement", "with_implied"]


@dataclass(frozen=True)
class Requirement:
    """Property of a run that a measure depends on.

    Example:
        >>> even = Requirement("even modulus", lambda context: context.p % 2 == 0, "needs an even number of operands")
        >>> even.name
        'even modulus'
    """

    name: str
    """Name by which `Measure.requires` refers to it."""
    met: Callable[[Any], bool]
    """Whether a run has the property: a function of its `RunContext`."""
    rule: str
    """Predicate that continues the sentence '`measure` ...' where the run lacks the property."""
    implies: tuple[str, ...] = ()
    """Names of requirements that are checked before this one, and named first."""


_TABLE = (
    # --- inputs
    Requirement("operands", lambda c: c.p > 0, "needs inputs that are tuples of operands"),
    Requirement("operand pairs", lambda c: c.has_pairs, "needs inputs that are pairs of operands"),
    Requirement("points", lambda c: c.has_points, "is defined for logistic regression on points"),
    Requirement(
        "operands are residues",
        lambda c: c.operands_are_residues,
        "is defined where the operands are residues, whose Fourier basis is that of Z_p",
        implies=("operands",),
    ),
    Requirement(
        "mirrored pairs",
        lambda c: c.has_mirrored_pairs,
        "needs a commutative operation, and held-out pairs (a, b) with and without (b, a) in the training set",
        implies=("operand pairs",),
    ),
    Requirement(
        "several operations",
        lambda c: len(c.operations) > 1,
        "is defined where each input names one of several operations (`task.kind` Operations)",
    ),
    # --- answers
    Requirement(
        "network",
        lambda c: c.network.can_run,
        "needs a network that can be run: pass yours as interp.load(folder, model=...)",
    ),
    Requirement(
        "logits of classes",
        lambda c: c.has_classes,
        "needs outputs that are logits of classes",
        implies=("network",),
    ),
    Requirement(
        "answers are operands",
        lambda c: c.answers_are_operands,
        "needs answers among which every operand is",
        implies=("logits of classes",),
    ),
    Requirement(
        "answers are residues",
        lambda c: c.operands_are_residues and c.answers_are_operands,
        "is defined where operands and answers are the same residues",
        implies=("operands are residues", "answers are operands"),
    ),
    Requirement(
        "answer is a sum",
        lambda c: c.operation is not None,
        "is defined for addition and subtraction, and for products mod a prime, whose answer is a sum on a circle",
        implies=("operand pairs", "logits of classes"),
    ),
    Requirement(
        "key frequencies",
        lambda c: bool(c.key_list),
        "needs key frequencies, on which two of three criteria agree at the last stored step",
        implies=("answer is a sum",),
    ),
    Requirement(
        "finite group",
        lambda c: c.group is not None,
        "is defined for the products of a finite group (`task.kind` Group, compose)",
        implies=("operand pairs", "logits of classes"),
    ),
    # --- models
    Requirement(
        "embedding", lambda c: c.has_embedding, "needs an embedding, and this model has none", implies=("operands",)
    ),
    Requirement(
        "two embedding dimensions",
        lambda c: c.embedding_dimensions >= 2,
        "needs an embedding of at least two dimensions",
        implies=("embedding",),
    ),
    Requirement(
        "four embedding dimensions",
        lambda c: c.embedding_dimensions >= 4,
        "needs an embedding of at least four dimensions",
        implies=("embedding",),
    ),
    Requirement(
        "operand table", lambda c: c.has_operand_table, "needs operands that are looked up in a table", ("embedding",)
    ),
    Requirement(
        "embedded operands",
        lambda c: c.has_embedded_operands,
        "needs a model that tells the embedding at each position (`Network.embedded`)",
        implies=("operand table",),
    ),
    Requirement(
        "neurons",
        lambda c: c.has_neurons,
        "needs a model with a hidden layer of neurons before its logits",
        implies=("network",),
    ),
    Requirement(
        "pre-activations",
        lambda c: c.has_pre_activations,
        "needs a model that tells its last hidden layer before the non-linearity (`Network.pre_activations`)",
    ),
    Requirement(
        "hidden activations",
        lambda c: c.has_hidden_activations,
        "needs a model that tells the activations of its last hidden layer (`Network.hidden_activations`)",
    ),
    Requirement("unembedding", lambda c: c.has_unembedding, "needs an unembedding (such as `unembed.W_U`)"),
    Requirement(
        "account",
        lambda c: c.has_account,
        "needs a network of one hidden layer that tells its tables (`Network.pair_tables`), on sums or a finite group",
        implies=("operand pairs", "neurons", "answers are operands"),
    ),
    Requirement(
        "attention",
        lambda c: c.has_attention,
        "is defined for a transformer of one layer that reads its answer at '='",
        implies=("operand pairs",),
    ),
    Requirement(
        "token scores",
        lambda c: c.has_token_scores,
        "needs attention that reads embeddings as they are, without a LayerNorm in front",
        implies=("attention",),
    ),
)

REQUIREMENTS: Mapping[str, Requirement] = MappingProxyType({item.name: item for item in _TABLE})
"""Every requirement by name."""


def with_implied(requires: Sequence[str | Requirement]) -> Iterator[Requirement]:
    """Requirements in the order in which they are checked, those that others imply first.

    Raises:
        UnknownNameError: there is no requirement of that name; the message suggests one.

    Example:
        >>> [item.name for item in with_implied(["two embedding dimensions"])]
        ['operands', 'embedding', 'two embedding dimensions']
    """
    for item in requires:
        if not isinstance(item, Requirement):
            if item not in REQUIREMENTS:
                raise UnknownNameError(f"There is no requirement `{item}`. {did_you_mean(str(item), REQUIREMENTS)}")
            item = REQUIREMENTS[item]
        yield from with_implied(item.implies)
        yield item


def first_unmet(context: Any, requires: Sequence[str | Requirement]) -> Requirement | None:
    """First requirement that the run of this `RunContext` does not meet; None where it meets all."""
    return next((item for item in with_implied(requires) if not item.met(context)), None)


def suggested_requirement(part: str) -> str:
    """Requirement to declare for a part of the model, in code: the words `requires=("unembedding",)`.

    Example:
        >>> suggested_requirement("blocks.0.attn.W_Q")
        'requires=("attention",)'
    """
    for marks, name in (
        (("unembed", "W_U"), "unembedding"),
        (("embed", "W_E"), "embedding"),
        (("attn", "W_Q", "W_K", "W_V", "W_O"), "attention"),
        (("mlp", "W_in", "W_out", "neuron"), "neurons"),
    ):
        if any(mark in part for mark in marks):
            return f'requires=("{name}",)'
    return "a `Requirement` of its own in `requires`"
