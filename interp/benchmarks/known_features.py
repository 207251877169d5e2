"""Known features of a network that adds, and the score of a dictionary of directions against them.

A decomposition method (principal or independent components, a sparse autoencoder, ...) proposes a dictionary of
directions in the space R^d of a site's activations. Here the answer is known. A network that adds mod p by its key
frequencies k has, at a site with the activations h, the features cos(w_k f) and sin(w_k f), w_k = 2 pi k/p, of the
functions f = a, b and a + b of its inputs, with the directions

    v = mean over inputs of cos(w_k f) h,    and the same with the sine.

Both span the plane of (k, f). Which cosine and which sine a method finds is a convention, since any phase will do: a
dictionary that has turned a plane within itself has found the plane, but not these two features. So the score counts
features and planes, and an atom that lies in a known plane is not false. A plane counts where it is there: its norm
at k must exceed twice the median over all frequencies (`keys.key_frequency_embedding`), and k must be a key frequency
at that step, by two of three criteria. A network that has memorised has none: then the answer is "none", and whatever a
method finds is false.

"False" is relative to what is listed: the neurons also have second harmonics, functions of a - b, and a mean.
`explained` says how much of the variance the known features leave to them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analysis import spectra
from interp.analysis.arguments import as_seed
from interp.analysis.arrays import Array, as_floats, as_tensor
from interp.analysis.batch import CheckpointBatch
from interp.analysis.context import RunContext
from interp.analysis.keys import key_frequency_embedding
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.literals import as_count
from interp.models import Network
from interp.rng import generator
from interp.trajectory import Trajectory, as_trajectory

__all__ = ["Decomposition", "DictionaryScore", "decomposition"]

Site = Literal["embedding", "pre-activations", "neurons"]

MATCH = 0.9
"""Cosine above which an atom matches: a threshold of this package, at an angle of 26 degrees."""
FEW = 16
"""Atoms of which the nearest pair is sought where fewer than two are near a plane."""
CHUNK = 512
"""Atoms whose pairs with all others are held in memory at once."""


@dataclass(frozen=True)
class DictionaryScore:
    """Agreement of a dictionary with the known features; cosines are absolute, since a direction may be found negative.

    "Covered" means a cosine above 0.9, a threshold of this package.
    """

    cosine: Float[Tensor, " feature"]
    """Largest cosine of each known feature with an atom, in [0, 1]."""
    plane_cosine: Float[Tensor, " plane"]
    """Cosine of the largest angle between each known plane and the span of the two atoms that come nearest to it."""
    coverage: float
    """Share of the known features that are covered; NaN where none is known."""
    plane_coverage: float
    """Share of the known planes that are covered; NaN where none is known."""
    used: int
    """Number of atoms that are used."""
    false: int
    """Number of used atoms that lie in no known plane: their projections on all of them are shorter than 0.9."""
    of_one_key: int
    """Number of used atoms in the span of the features of one key frequency, of all functions: false atoms among them
    mix functions, and not frequencies."""


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Activations of a site with the features that are known of them; see `decomposition`."""

    site: str
    """Site of the activations: embedding, pre-activations or neurons."""
    step: int
    """Step of the weights."""
    activations: Float[Tensor, "sample d"]
    """Activations over all pairs (for the embedding, all operands), neither centred nor scaled, in float64."""
    features: Float[Tensor, "feature d"]
    """Directions of the known features, of unit length; plane i is spanned by features 2 i and 2 i + 1."""
    names: tuple[str, ...]
    """Name of each feature, such as `cos 15 a+b`."""

    @property
    def planes(self) -> tuple[str, ...]:
        """Name of each plane, such as `15 a+b`."""
        return tuple(name.removeprefix("cos ") for name in self.names[::2])

    @property
    def keys(self) -> tuple[int, ...]:
        """Key frequencies of the known features, increasing."""
        return tuple(sorted({int(name.split()[1]) for name in self.names}))

    @property
    def answer(self) -> str:
        """The answer in words: the known planes, or "none"."""
        return ", ".join(self.planes) or "none"

    @property
    def explained(self) -> float:
        """Share of the variance of the activations in the span of the known features, 0 to 1."""
        centred = self.activations - self.activations.mean(0)
        return float((centred @ _basis(self.features)).square().sum() / centred.square().sum())

    def score(self, dictionary: Float[Array, "atom d"], used: Bool[Array, " atom"] | None = None) -> DictionaryScore:
        """Agreement of a dictionary with the known features.

        Args:
            dictionary: a direction in each row, of any length.
            used: whether each atom is active for some input; None: those that do not vanish. Pass it for a dictionary
                with dead atoms, which are no false features.

        Raises:
            InvalidArgumentError: the atoms have another number of dimensions than the site.

        Example:
            >>> turned = torch.tensor([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # by 45 degrees; one more
            >>> known = Decomposition("neurons", 0, torch.eye(3), torch.eye(3)[:2], ("cos 1 a", "sin 1 a"))
            >>> found = known.score(turned)
            >>> found.coverage, found.plane_coverage, found.false
            (0.0, 1.0, 1)
        """
        atoms = as_floats("dictionary", dictionary, "atom d").double()
        d = self.activations.shape[1]
        if atoms.shape[1] != d:
            raise InvalidArgumentError(
                f"`dictionary` must have a row of {d} numbers for each atom; got shape {list(atoms.shape)}. "
                "Transpose a dictionary with an atom in each column."
            )
        length = atoms.norm(dim=1)
        active = length > 0
        if used is not None:
            flags = as_tensor("used", used).to(active.device)
            if flags.shape != length.shape or flags.dtype != torch.bool:
                raise InvalidArgumentError(
                    f"`used` must have a boolean for each of {len(length)} atoms; got {flags.dtype} of shape "
                    f"{list(flags.shape)}."
                )
            active &= flags
        atoms = atoms[active] / length[active, None]
        known = self.features.double()
        planes = torch.linalg.qr(known.reshape(-1, 2, d).mT).Q  # [plane, d, 2]
        within = atoms @ planes  # [plane, atom, 2]
        cosine = (known @ atoms.T).abs().amax(1) if len(atoms) else known.new_zeros(len(known))
        plane_cosine = torch.tensor([_plane_cosine(c, atoms) for c in within], dtype=torch.float64)
        frequencies = torch.tensor([int(name.split()[1]) for name in self.names])
        of_key = [(atoms @ _basis(known[frequencies == k])).norm(dim=1) > MATCH for k in self.keys]
        return DictionaryScore(
            cosine=cosine.clamp(max=1.0),
            plane_cosine=plane_cosine,
            coverage=_share(cosine),
            plane_coverage=_share(plane_cosine),
            used=len(atoms),
            false=int((within.norm(dim=2) <= MATCH).all(0).sum()),
            of_one_key=int(torch.stack(of_key).any(0).sum()) if of_key else 0,
        )

    def random_dictionary(self, size: int, *, seed: int = 0) -> Float[Tensor, "atom d"]:
        """Control: random directions, which match nothing in more than a few dimensions."""
        shape = as_count("size", size), self.activations.shape[1]
        atoms = torch.randn(shape, generator=generator(as_seed(seed), "random-dictionary"), dtype=torch.float64)
        return atoms / atoms.norm(dim=1, keepdim=True)

    def pca_dictionary(self, size: int) -> Float[Tensor, "atom d"]:
        """Control: the first principal directions of the activations, at most as many as there are dimensions."""
        centred = self.activations - self.activations.mean(0)
        return torch.linalg.svd(centred, full_matrices=False).Vh[: as_count("size", size)]


def decomposition(traj: Trajectory | str | Path, site: Site = "neurons", *, step: int | None = None) -> Decomposition:
    """Activations of a trained run whose answer is a sum, and the features that are known of them.

    Args:
        traj: the run, or its folder.
        site: `embedding`, the rows of the operands in the (first) table: features of a; `pre-activations` or `neurons`,
            the last hidden layer before and after its non-linearity at the answer's position: features of a, b and the
            sum (for subtraction, the difference).
        step: a stored step; None: the last one.

    Frequencies are those of the operands in the order in which the operation adds (for products mod a prime, discrete
    logarithms). The frequency p/2 of an even p has no plane and is left out.

    Raises:
        InvalidArgumentError: there is no such site, or `traj` is no run.
        NotAvailableError: the answer is no sum, or the network does not tell these activations.
        UnknownNameError: the step is not stored.

    Example:
        >>> import interp, tempfile
        >>> small = interp.RunConfig().replace({"task.p": 23, "model.d_model": 16, "model.d_mlp": 16, "steps": 1})
        >>> known = interp.benchmarks.decomposition(interp.train(small, root=tempfile.mkdtemp()))
        >>> known.answer, known.activations.shape, known.score(known.random_dictionary(8)).false
        ('none', torch.Size([529, 16]), 8)
    """
    if site not in get_args(Site):
        raise InvalidArgumentError(f"`site` must be one of {get_args(Site)}; got {site!r}.")
    traj = as_trajectory(traj)
    context = RunContext(traj)
    need = {"embedding": "embedding", "pre-activations": "pre-activations", "neurons": "neurons"}[site]
    unmet = context.unmet(("answer is a sum", need))
    if unmet is not None:
        raise NotAvailableError(f"The site {site!r} {unmet.rule}; this run is {context.description}.")
    at = len(traj.steps) - 1 if step is None else traj.position(step)
    batch = CheckpointBatch(context, np.array([at]))
    tables, activations = _TABLES[site](batch)
    found, names = [], []
    for function, table in tables.items():
        present = batch.own_keys[0] & key_frequency_embedding(spectra.embedding_power(table))
        waves = context.fourier_basis @ table  # constant, cos 1, sin 1, ...
        for k in (present.nonzero().squeeze(1) + 1).tolist():
            if 2 * k < len(table):
                found += [wave / wave.norm() for wave in waves[2 * k - 1 : 2 * k + 1]]
                names += [f"cos {k} {function}", f"sin {k} {function}"]
    features = torch.stack(found) if found else activations.new_zeros(0, activations.shape[1])
    return Decomposition(site, int(traj.steps[at]), activations, features, tuple(names))


Tables = tuple[dict[str, Tensor], Tensor]


def _of_operands(batch: CheckpointBatch) -> Tables:
    W_E = batch.W_E[0].double()
    return {"a": W_E}, W_E


def _of_pairs(batch: CheckpointBatch, x: Float[Tensor, "n n d"]) -> Tables:
    """Means of activations over the pairs with one a, one b, and one sum; and all of them."""
    total = "a+b" if batch.operation == "add" else "a-b"
    means = {"a": x.mean(1), "b": x.mean(0), total: spectra.conditional_mean(x, batch.operation)}
    return means, x.flatten(0, 1)


def _of_pre_activations(batch: CheckpointBatch) -> Tables:
    context = batch.context
    name = context.network.pre_activations

    def rows(network: Network) -> Tensor:
        x = network.run_with_cache(context.examples.tokens)[1][name]
        return x[:, -1] if x.ndim == 3 else x

    (found,) = batch.each(rows, gradients=False)
    return _of_pairs(batch, context.arrange(found[None])[0].double())


_TABLES: dict[Site, Callable[[CheckpointBatch], Tables]] = {
    "embedding": _of_operands,
    "pre-activations": _of_pre_activations,
    "neurons": lambda batch: _of_pairs(batch, batch.neurons[0].double()),
}


def _plane_cosine(within: Float[Tensor, "atom 2"], atoms: Float[Tensor, "atom d"]) -> float:
    """Largest cosine, over pairs of atoms, of the largest angle between their span and a plane.

    With the coordinates C [2, 2] of two unit atoms in the plane and their Gram matrix G, the squared cosines of the
    angles are the eigenvalues of G^-1 C^T C, and both atoms' projections are at least as long as the smaller cosine.
    """
    length = within.norm(dim=1)
    near = (length > MATCH).nonzero().squeeze(1)
    if len(near) < 2:  # the plane is not covered, and the nearest atoms say how far it is from that
        near = length.topk(min(FEW, len(length))).indices
    c, v, best = within[near], atoms[near], 0.0
    for c_i, v_i in zip(c.split(CHUNK), v.split(CHUNK)):
        g = v_i @ v.T
        apart = 1 - g.square()
        determinant = (c_i[:, None, 0] * c[:, 1] - c_i[:, None, 1] * c[:, 0]).square()
        trace = c_i.square().sum(1)[:, None] + c.square().sum(1) - 2 * g * (c_i @ c.T)
        smaller = (trace - (trace.square() - 4 * apart * determinant).clamp(min=0).sqrt()) / 2  # times `apart`
        squared = torch.where(apart > 1e-9, smaller / apart, 0.0)  # parallel atoms span no plane
        best = max(best, float(squared.max()))
    return min(best, 1.0) ** 0.5


def _basis(features: Float[Tensor, "feature d"]) -> Float[Tensor, "d rank"]:
    """Orthonormal basis of the span of directions of unit length, of which some may coincide."""
    _, S, Vh = torch.linalg.svd(features.double(), full_matrices=False)
    return Vh[S > 1e-6].T


def _share(cosine: Float[Tensor, " known"]) -> float:
    return float((cosine > MATCH).double().mean())  # NaN of none
