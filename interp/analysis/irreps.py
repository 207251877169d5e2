"""Shares of a network's weights, neurons and logits in each irreducible representation of a finite group.

Notation: a finite group of n elements, its irreps rho over the real numbers (`interp.theory.groups.irreps`, in that
order, the trivial one first) with characters chi; logits L [x, y, z] on all n^2 inputs with the n elements as answers,
neurons A [x, y, m], W_L the map from neurons to logits. P_rho projects a function on the group on the span of the
entries of rho(x), for which Q_rho is an orthonormal basis. A network that multiplies by composing matrices has logits

    tr(rho(x) rho(y) rho(z)^-1) = chi(x y z^-1)    for a few key irreps rho.

These n^3 numbers depend on g = x y z^-1 only, so that their product with L is the sum over g of chi(g) times the sum of
L over x y z^-1 = g: n^3 additions for all irreps together, where explicit cubes would take n^3 numbers for each.
Cubes of different irreps are orthogonal, and the squared norm of a cube is n^2 times the squared norm of chi.

For C_n the nontrivial irreps are the frequencies, and the measures of this module equal the Fourier measures of
`logits`, `spectra` and `progress` under addition. They are defined for the product x y only, not x y x^-1 or x y x.

Reference: A Toy Model of Universality: Reverse Engineering how Networks Learn Group Operations (Chughtai et al., 2023),
arXiv:2302.03025, and its code, https://github.com/bilal-chughtai/rep-theory. Sums are in float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analysis.arrays import Array, as_floats, l2_norm, ratio
from interp.analysis.loss import as_targets
from interp.analysis.spectra import line_mean
from interp.errors import InvalidArgumentError
from interp.theory.groups import Group, irreps

__all__ = [
    "HiddenShare",
    "IrrepLoss",
    "Keys",
    "embedding_share",
    "excluded_loss_hidden",
    "hidden_share",
    "key_irreps",
    "logit_similarity",
    "logit_variance_explained",
    "restricted_loss_hidden",
    "unembedding_share",
]

Keys = Bool[Array, "... irrep"] | Sequence[str]


@dataclass(frozen=True)
class HiddenShare:
    """Shares of the variance of the neurons in functions of x, of y, and of the product x y, by irrep."""

    first: Float[Tensor, "*steps irrep"]
    second: Float[Tensor, "*steps irrep"]
    product: Float[Tensor, "*steps irrep"]

    @property
    def total(self) -> Float[Tensor, "*steps irrep"]:
        """The sum of the three orthogonal shares, in [0, 1]."""
        return self.first + self.second + self.product


@dataclass(frozen=True)
class IrrepLoss:
    """Losses with (or without) all key irreps together, and with (or without) each irrep alone, key or not; in nats."""

    together: Float[Tensor, "*steps"]
    by_irrep: Float[Tensor, "*steps irrep"]


def logit_similarity(
    logits: Float[Array, "*steps element element element"], group: Group
) -> Float[Tensor, "*steps irrep"]:
    """Cosine similarity of the logits, centred over the answers, with chi(x y z^-1): Chughtai et al. (2023).

    In [-1, 1]; 0 for the trivial irrep, which a softmax ignores, and where the centred logits vanish. The squares
    sum to at most 1. `logits` has the axes [x, y, z] and elements only as answers (slice off '=').

    Raises `InvalidArgumentError` where the last three axes are not the elements of `group`.

    >>> from interp.theory.groups import irreps, symmetric
    >>> S = symmetric(3)
    >>> chi = torch.tensor(irreps(S)[2].character)
    >>> L = 7 + chi[S.table[S.table][..., S.inverse]]                            # of the standard irrep
    >>> [round(abs(s), 4) for s in logit_similarity(L, S).tolist()]
    [0.0, 0.0, 1.0]
    """
    logits = as_floats("logits", logits, "*steps element element element")
    _require_elements("logits", logits.shape[-1], group)
    size = l2_norm(logits)
    floor = 4 * torch.finfo(logits.dtype).eps * size
    centred = logits - logits.mean(-1, keepdim=True)
    by_product = _product_sum(centred, group)  # [*steps, w, z]
    quotient = torch.as_tensor(group.table[:, group.inverse], device=logits.device)  # w z^-1
    by_quotient = torch.zeros(*by_product.shape[:-1], dtype=torch.float64, device=logits.device)
    by_quotient.index_add_(-1, quotient.flatten(), by_product.flatten(-2))
    character = torch.stack([_tensor(irrep.character, logits) for irrep in irreps(group)])
    coefficient = by_quotient @ (character / (group.order * character.norm(dim=1, keepdim=True))).T
    similarity = ratio(coefficient, l2_norm(centred), floor)
    similarity[..., 0] = 0.0  # up to rounding it is
    return similarity


def logit_variance_explained(
    logits: Float[Array, "*steps element element element"], group: Group, keys: Keys | None = None
) -> Float[Tensor, "*steps"]:
    """Share of the squared norm of the centred logits along chi(x y z^-1), rho in `keys` (None: all), in [0, 1].

    The sum of the squared `logit_similarity`, which Chughtai et al. (2023) call the percentage of logits explained.

    >>> from interp.theory.groups import irreps, symmetric
    >>> S = symmetric(3)
    >>> _, sign, standard = (torch.tensor(irrep.character) for irrep in irreps(S))
    >>> L = (2 * sign + standard)[S.table[S.table][..., S.inverse]]
    >>> round(logit_variance_explained(L, S, ["sign"]).item(), 4)
    0.8
    """
    explained = logit_similarity(logits, group).square()
    if keys is not None:
        explained = explained * _key_mask(keys, group, explained.shape[:-1], explained.device)
    return explained.sum(-1).clamp(max=1.0)


def key_irreps(similarity: Float[Array, "*steps irrep"], *, threshold: float = 0.005) -> Bool[Tensor, "*steps irrep"]:
    """Irreps whose `logit_similarity` exceeds `threshold`; 0.005 is the value in the code of Chughtai et al. (2023).

    Random logits stay below with a standard deviation of about n^(-3/2): 0.0008 for S_5, but 0.07 for S_3. The trivial
    irrep, which comes first, is never key.

    >>> key_irreps(torch.tensor([0.0, 0.001, 0.6, -0.2])).tolist()
    [False, False, True, False]
    """
    keys = as_floats("similarity", similarity, "*steps irrep") > threshold
    keys[..., 0] = False
    return keys


def embedding_share(W_E: Float[Array, "*steps element d_model"], group: Group) -> Float[Tensor, "*steps irrep"]:
    """Share ||Q_rho^T W||^2/||W||^2 of the squared norm of the embedding that lies in each irrep, in [0, 1].

    Chughtai et al. (2023), who take W_E for a transformer, and for an MLP the embedding of each operand times the first
    layer's weights. Rows are the elements: slice off '='. The shares add up to 1; the trivial irrep has the mean over
    the elements. Invariant under rotations of d_model and under multiplication of all elements by a group element. 0
    for an embedding that vanishes.

    >>> from interp.theory.groups import dihedral
    >>> flips = torch.tensor([[1.0]] * 3 + [[-1.0]] * 3)                         # D_3: rotations, reflections
    >>> [round(share, 4) for share in embedding_share(flips, dihedral(3)).tolist()]
    [0.0, 1.0, 0.0]
    """
    W_E = as_floats("W_E", W_E, "*steps element d_model")
    _require_elements("W_E", W_E.shape[-2], group)
    W_E = W_E.double()
    return _shares(W_E, group, W_E.square().sum((-2, -1)), 0.0)


def unembedding_share(W_L: Float[Array, "*steps neuron element"], group: Group) -> Float[Tensor, "*steps irrep"]:
    """Share of the squared norm of the map from neurons to logits that lies in each irrep, over the answers, in [0, 1].

    Chughtai et al. (2023), who take W_U for an MLP and W_out W_U for a transformer. Columns are the elements. As
    rho(z^-1) is the transpose of rho(z), it equals `embedding_share` of the columns.

    >>> from interp.theory.groups import dihedral
    >>> flips = torch.tensor([[1.0, 1.0, 1.0, -1.0, -1.0, -1.0]])
    >>> [round(share, 4) for share in unembedding_share(flips, dihedral(3)).tolist()]
    [0.0, 1.0, 0.0]
    """
    W_L = as_floats("W_L", W_L, "*steps neuron element")
    _require_elements("W_L", W_L.shape[-1], group)
    return embedding_share(W_L.mT, group)


def hidden_share(activations: Float[Array, "*steps element element neuron"], group: Group) -> HiddenShare:
    """Shares of the neurons' variance over the inputs that rho(x), rho(y) and rho(x y) explain, each in [0, 1].

    Chughtai et al. (2023): ||Q^T A||^2/||A||^2 with A centred over all inputs and Q an orthonormal basis of the entries
    of rho(x), as functions of (x, y), and likewise of rho(y) and rho(x y). The trivial irrep has share 0, since A is
    centred; the entries of every other irrep sum to 0 over the group. Hence all these spaces are orthogonal, and the
    shares of all irreps add up to at most 1; the rest is in functions of x and y that are no sums
    f(x) + g(y) + h(x y). 0 for neurons that do not vary.

    >>> from interp.theory.groups import irreps, symmetric
    >>> S = symmetric(3)
    >>> A = torch.tensor(irreps(S)[1].matrices)[S.table].flatten(2)              # sign(x y)
    >>> [round(share, 4) for share in hidden_share(A, S).product.tolist()]
    [0.0, 1.0, 0.0]
    """
    activations = as_floats("activations", activations, "*steps element element neuron")
    _require_elements("activations", activations.shape[-2], group)
    n = group.order
    first, second = line_mean(activations, 1), line_mean(activations, 0)  # [*steps, x, neuron], [*steps, y, neuron]
    by_product = _product_sum(activations, group) / n
    mean = first.mean(-2, keepdim=True)
    varying = torch.zeros(activations.shape[:-3], dtype=torch.float64, device=activations.device)
    for x in range(n):
        varying += (activations[..., x, :, :] - mean).square().sum((-2, -1))
    eps = torch.finfo(activations.dtype).eps
    floor = (4 * eps * n) ** 2 * mean.square().sum((-2, -1))
    # n inputs have one x, so the squared norm over the inputs is n times that over the group
    return HiddenShare(*(_shares(table - mean, group, varying / n, floor / n) for table in (first, second, by_product)))


def restricted_loss_hidden(
    activations: Float[Array, "*steps element element neuron"],
    W_L: Float[Array, "*steps neuron answer"],
    group: Group,
    keys: Keys,
    *,
    mask: Bool[Array, "element element"] | None = None,
) -> IrrepLoss:
    """Restricted loss of Chughtai et al. (2023): logits (P A) W_L alone, on all inputs or the inputs in `mask`.

    P projects each neuron on the entries of rho(x y), of all `keys` together or of one irrep. Neither means nor biases
    are added. `keys` are names of irreps, or a mask over the irreps for all steps or for each step.

    Raises `InvalidArgumentError` for names that are no irreps, masks or arrays of other sizes, and an empty `mask`.

    >>> from interp.theory.groups import irreps, symmetric
    >>> S = symmetric(3)
    >>> A = torch.tensor(irreps(S)[1].matrices)[S.table].flatten(2)              # sign(x y)
    >>> W_L = 50 * torch.tensor(irreps(S)[1].matrices).flatten()[None]           # sign(z): three answers are as good
    >>> loss = restricted_loss_hidden(A, W_L, S, ["standard"])
    >>> round(loss.together.item(), 4), [round(nats, 4) for nats in loss.by_irrep.tolist()]     # log 6, log 3
    (1.7918, [1.7918, 1.0986, 1.7918])
    """
    A, W_L = _neurons(activations, W_L, group)
    tables = _product_sum(A, group) / group.order @ W_L  # P commutes with W_L: [*steps, x y, answer]
    products, mask = as_targets(group.table, mask, tables)
    weight = torch.bincount(products[mask], minlength=group.order).double() / mask.sum()

    def losses(step: tuple[int, ...], kept: Float[Tensor, "network element answer"]) -> Float[Tensor, " network"]:
        correct = kept.log_softmax(-1).diagonal(dim1=-2, dim2=-1)  # the answer to the product is the product
        return -correct @ weight

    return _irrep_loss(losses, tables, group, keys)


def excluded_loss_hidden(
    activations: Float[Array, "*steps element element neuron"],
    W_L: Float[Array, "*steps neuron answer"],
    group: Group,
    train_mask: Bool[Array, "element element"],
    keys: Keys,
) -> IrrepLoss:
    """Excluded loss of Chughtai et al. (2023): logits (A - P A) W_L alone, on the train inputs.

    P, `keys` and errors as in `restricted_loss_hidden`.

    >>> from interp.theory.groups import irreps, symmetric
    >>> S = symmetric(3)
    >>> A = torch.tensor(irreps(S)[1].matrices)[S.table].flatten(2)              # sign(x y)
    >>> W_L = 50 * torch.tensor(irreps(S)[1].matrices).flatten()[None]           # sign(z): three answers are as good
    >>> loss = excluded_loss_hidden(A, W_L, S, torch.ones(6, 6) > 0, ["standard"])
    >>> round(loss.together.item(), 4), [round(nats, 4) for nats in loss.by_irrep.tolist()]     # log 3, log 6
    (1.0986, [1.0986, 1.7918, 1.0986])
    """
    A, W_L = _neurons(activations, W_L, group)
    tables = _product_sum(A, group) / group.order @ W_L
    products, mask = as_targets(group.table, train_mask, tables)
    products = products[mask]

    def losses(step: tuple[int, ...], removed: Float[Tensor, "network element answer"]) -> Float[Tensor, " network"]:
        logits = A[step][mask].double() @ W_L[step]
        left = [torch.nn.functional.cross_entropy(logits - table[products], products) for table in removed]
        return torch.stack(left)

    return _irrep_loss(losses, tables, group, keys)


def _irrep_loss(
    losses: Callable[[tuple[int, ...], Tensor], Tensor],
    tables: Float[Tensor, "*steps element answer"],
    group: Group,
    keys: Keys,
) -> IrrepLoss:
    """The `losses` of the projections of each step's table on all keys together and on each irrep."""
    steps = tables.shape[:-2]
    key_mask = _key_mask(keys, group, steps, tables.device)
    bases = _bases(group, tables)
    found = []
    for step in product(*map(range, steps)):
        bands = torch.stack([Q @ (Q.T @ tables[step]) for Q in bases])
        together = (key_mask[step][:, None, None] * bands).sum(0, keepdim=True)
        found.append(losses(step, torch.cat([together, bands])))
    stacked = torch.stack(found).reshape(*steps, -1)
    return IrrepLoss(together=stacked[..., 0], by_irrep=stacked[..., 1:])


def _product_sum(x: Float[Tensor, "*steps element element feature"], group: Group) -> Tensor:
    """The sum of x(a, b) over the n inputs with a b = w: [*steps, w, feature]."""
    total = torch.zeros(*x.shape[:-3], group.order, x.shape[-1], dtype=torch.float64, device=x.device)
    for a, inverse in enumerate(group.inverse):
        b = torch.as_tensor(group.table[inverse], device=x.device)  # w -> b = a^-1 w
        total += x[..., a, b, :]
    return total


def _shares(
    x: Float[Tensor, "*steps element feature"], group: Group, total: Float[Tensor, "*steps"], floor: Tensor | float
) -> Float[Tensor, "*steps irrep"]:
    """Squared norm of x in each irrep, divided by `total`."""
    powers = [(Q.T @ x).square().sum((-2, -1)) for Q in _bases(group, x)]
    return ratio(torch.stack(powers, dim=-1), total, floor).clamp(max=1.0)


def _bases(group: Group, like: Tensor) -> list[Float[Tensor, "element function"]]:
    return [_tensor(irrep.basis, like) for irrep in irreps(group)]


def _tensor(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)


def _require_elements(name: str, size: int, group: Group) -> None:
    if size != group.order:
        raise InvalidArgumentError(
            f"`{name}` must have one entry for each of the {group.order} elements of {group.name}; got {size}. "
            f"Leave out the '=' token first."
        )


def _neurons(
    activations: Float[Array, "*steps element element neuron"], W_L: Float[Array, "*steps neuron answer"], group: Group
) -> tuple[Float[Tensor, "*steps element element neuron"], Float[Tensor, "*steps neuron answer"]]:
    activations = as_floats("activations", activations, "*steps element element neuron")
    W_L = as_floats("W_L", W_L, "*steps neuron answer").double()
    _require_elements("activations", activations.shape[-2], group)
    expected = [*activations.shape[:-3], activations.shape[-1]]
    if list(W_L.shape[:-1]) != expected or W_L.shape[-1] < group.order:
        raise InvalidArgumentError(
            f"`W_L` must have the axes [*steps neuron answer] with the steps and neurons of `activations`, {expected}, "
            f"and the {group.order} elements of {group.name} among the answers; got {list(W_L.shape)}."
        )
    return activations, W_L


def _key_mask(keys: Keys, group: Group, steps: Sequence[int], device: torch.device) -> Bool[Tensor, "*steps irrep"]:
    """The `keys` as a mask [*steps, irrep]."""
    names = [irrep.name for irrep in irreps(group)]
    if isinstance(keys, Tensor | np.ndarray):
        mask = torch.as_tensor(keys, device=device)
        if mask.dtype != torch.bool or mask.shape[-1:] != (len(names),) or mask.shape[:-1] not in ((), tuple(steps)):
            raise InvalidArgumentError(
                f"`keys` must be names of irreps or a boolean mask of shape {[len(names)]} or "
                f"{[*steps, len(names)]}; got {mask.dtype} of shape {list(mask.shape)}."
            )
        return mask.expand(*steps, len(names))
    if any(key not in names for key in keys):  # also where `keys` is one name: its letters are none
        raise InvalidArgumentError(
            f"`keys` must be a list of irreps of {group.name}, {', '.join(names)}; got {keys!r}."
        )
    return torch.tensor([name in keys for name in names], device=device).expand(*steps, len(names))
