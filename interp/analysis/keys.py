"""Key frequencies: which frequencies a network uses. Three criteria, which need not agree.

    neuron      some neuron has most of its variance in k (Nanda et al., 2023, cluster their neurons by it)
    logit       the logits have a component along cos(w_k(a + b - c)) (Chughtai et al., 2023)
    embedding   the embedding is much larger at k than at the typical frequency

A frequency can be large in the embedding and unused by the logits; the main network of Nanda et al. has one.
Each takes what `spectra` and `logits` compute and returns a mask over the frequencies 1, ..., floor(p/2). A user who
knows better gives a set of keys (`given_key_set`).

References: Progress measures for grokking via mechanistic interpretability (Nanda et al., 2023), arXiv:2301.05217;
A Toy Model of Universality (Chughtai et al., 2023), arXiv:2302.03025.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analysis.arrays import Array, as_floats, as_tensor
from interp.analysis.spectra import NEURON_SHARE, frequencies, neuron_cluster_size
from interp.errors import InvalidArgumentError, did_you_mean
from interp.literals import as_count, is_whole

if TYPE_CHECKING:
    import xarray

__all__ = [
    "GivenKeys",
    "Keys",
    "as_key_mask",
    "given_key_set",
    "given_keys",
    "key_frequency_embedding",
    "key_frequency_logit",
    "key_frequency_neuron",
    "named_key_frequencies",
]


Keys = Bool[Array, "... frequency"] | Sequence[int]
"""Key frequencies as a mask over 1, ..., floor(p/2), one for all steps or one for each, or as a list."""
GivenKeys = Sequence[int] | Sequence[str]
"""Keys that a user gives: frequencies, or names of irreps."""


def key_frequency_neuron(
    shares: Float[Array, "*steps neuron frequency"], *, threshold: float = NEURON_SHARE, minimum: int = 1
) -> Bool[Tensor, "*steps frequency"]:
    """Frequencies to which at least `minimum` neurons give more than `threshold` of their variance.

    `shares` from `spectra.neuron_power`; the default threshold is Nanda et al.'s. Raise `minimum` to ignore stray
    neurons.

    >>> import torch
    >>> key_frequency_neuron(torch.tensor([[0.1, 0.9], [0.6, 0.3]])).tolist()
    [False, True]
    """
    as_count("minimum", minimum)
    return neuron_cluster_size(shares, threshold=threshold) >= minimum


def key_frequency_logit(
    similarity: Float[Array, "*steps frequency"], *, threshold: float = 0.005
) -> Bool[Tensor, "*steps frequency"]:
    """Frequencies whose logit similarity exceeds `threshold`.

    `similarity` from `logits.logit_similarity`. 0.005 is the threshold of the code of Chughtai et al.; random logits
    stay below it with a standard deviation of p^(-3/2), which is 0.0008 at p = 113 but 0.02 at p = 13.

    >>> import torch
    >>> key_frequency_logit(torch.tensor([0.001, 0.6, -0.2])).tolist()
    [False, True, False]
    """
    return as_floats("similarity", similarity, "*steps frequency") > threshold


def key_frequency_embedding(
    power: Float[Array, "*steps frequency"], *, multiple: float = 2.0
) -> Bool[Tensor, "*steps frequency"]:
    """Frequencies whose norm in the embedding, the square root of `power`, exceeds `multiple` times the median norm.

    `power` from `spectra.embedding_power`. At initialisation a power is chi-square with 2 d_model degrees of freedom,
    so that a norm twice the median occurs with probability 3e-4 for d_model = 4, 3e-7 for 8 and less beyond, whereas a
    trained network's keys stand several-fold above the rest: hence the default 2, which finds none in random embeddings
    of 8 dimensions or more. A median is typical only while less than half of the frequencies are keys: for small p use
    another criterion. Norms below 1e-6 of the largest are rounding, never keys.

    >>> import torch
    >>> key_frequency_embedding(torch.tensor([1.0, 9.0, 1.0, 1.5])).tolist()
    [False, True, False, False]
    """
    norm = as_floats("power", power, "*steps frequency").double().clamp(min=0).sqrt()
    if not multiple > 0:
        raise InvalidArgumentError(f"`multiple` must be positive; got {multiple!r}. 1 marks all above the median.")
    typical = norm.quantile(0.5, dim=-1, keepdim=True)  # midway between two middle values
    return (norm > multiple * typical) & (norm > 1e-6 * norm.amax(-1, keepdim=True))


def as_key_mask(
    keys: Keys, like: Tensor, p: int | None = None, *, name: str = "keys"
) -> Bool[Tensor, "*steps frequency"]:
    """`keys` as a mask [*steps, frequency] over the steps of `like`, a table [*steps, p, feature] (or with p given,
    [*steps, frequency]). `name` is that of the argument, for errors."""
    steps = like.shape[:-2] if p is None else like.shape[:-1]
    p = like.shape[-2] if p is None else p
    count = p // 2
    given = as_tensor(name, keys).to(like.device)
    if given.dtype != torch.bool:
        if (given.is_floating_point() or given.is_complex()) and given.numel():
            raise InvalidArgumentError(f"`{name}` must be frequencies or a boolean mask; got {given.dtype}.")
        if given.ndim != 1 or (given.numel() and (given.min() < 1 or given.max() > count)):
            raise InvalidArgumentError(
                f"`{name}` must be a list of frequencies in 1..{count} for p={p}; got {given.tolist()}."
            )
        given = torch.isin(frequencies(p, device=like.device), given)
    if given.shape[-1:] != (count,) or given.shape[:-1] not in ((), steps):
        raise InvalidArgumentError(
            f"`{name}` must be a mask of shape {[count]} or {[*steps, count]}; got {list(given.shape)}."
        )
    return given.expand(*steps, count)


def given_key_set(keys: GivenKeys, known: Sequence[int] | Sequence[str], kind: str) -> Any:
    """Keys that a user gave, each once and in the order of `known`, the frequencies or irreps that there are.

    Raises:
        InvalidArgumentError: there is no key, or one that is not `known`.

    >>> given_key_set([3, 1, 3], range(1, 6), "frequencies"), given_key_set(["sign"], ["trivial", "sign"], "irreps")
    ((1, 3), ('sign',))
    """
    every = f"{known[0]}..{known[-1]}" if isinstance(known, range) else ", ".join(map(str, known))
    what = f"{every}, the {kind}"
    listed = isinstance(keys, Sequence | np.ndarray) and not isinstance(keys, str | bytes) and np.ndim(keys) == 1
    if not listed or not len(keys):
        raise InvalidArgumentError(f"`keys` must be a list with at least one of {what}; got {keys!r}.")
    whole = [int(key) if is_whole(key) else str(key) if isinstance(key, str) else key for key in keys]
    for key in whole:
        if isinstance(key, bool | float) or key not in known:
            named = isinstance(key, str) and isinstance(known[0], str)
            near = f" {did_you_mean(str(key), map(str, known))}" if named else ""
            raise InvalidArgumentError(f"`keys` must be among {what}; got {key!r}.{near}")
    return tuple(key for key in known if key in whole)


def named_key_frequencies(data: "xarray.Dataset") -> tuple[list[int], str | None]:
    """The key frequencies at the last step of measured data, and what names them.

    Frequencies that the user gave to `interp.measure` have the rule "given", and that it noted by two of three criteria
    "criteria"; otherwise the rule is the variable that is there (logits first, then neurons, then embedding), or None
    where there is none.
    """
    if "key_frequencies" in data.attrs:
        listed = np.atleast_1d(data.attrs["key_frequencies"])
        return [int(k) for k in listed], "given" if data.attrs.get("keys") == "given" else "criteria"
    for name in ("key_frequency_logit", "key_frequency_neuron", "key_frequency_embedding"):
        if name in data:
            flags = np.asarray(data[name].isel(step=-1).values, dtype=bool)
            return [int(k) for k in data["frequency"].values[flags]], name
    return [], None


def given_keys(data: "xarray.Dataset") -> list[int] | list[str] | None:
    """Keys that the user gave for measured data, frequencies or irreps; None where they were found.

    >>> import xarray
    >>> given_keys(xarray.Dataset(attrs={"keys": "given", "key_irreps": "sign; standard"}))
    ['sign', 'standard']
    """
    if data.attrs.get("keys") != "given":
        return None
    if "key_irreps" in data.attrs:
        return str(data.attrs["key_irreps"]).split("; ")
    return named_key_frequencies(data)[0]
