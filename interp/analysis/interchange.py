"""Interchange interventions: which variable of an algorithm a subspace of a network's activations carries.

Let h(x) in R^d be the activation at a site, of the input x = (a, b), and Q [d, dimension] an orthonormal basis. The
network is run on a *base* input x with the component in the subspace taken from a *source* input x',

    h  <-  h(x) + Q Q^T (h(x') - h(x)),

and the rest of the network follows. If the subspace carries a variable of the algorithm, and nothing else, then the
network answers as the algorithm does after that variable has been exchanged. With o the operation of the task:

    variable      answer that is due
    first         a' o b
    second        a o b'
    answer        a' o b'

The share of pairs of inputs with that answer is the *interchange accuracy*. Pairs whose answer does not change are left
out, so that a subspace that carries nothing has the accuracy 0 in a network that answers correctly.

Q is given (cosine and sine directions of key frequencies), or learned: *distributed alignment search* (DAS) minimises
the cross-entropy of the answers that are due by gradient descent on orthonormal bases, the network being fixed. The
inputs are divided into halves: bases are learned with pairs from one, and judged by pairs from the other.

A learned subspace may fit anything that is rich enough. So each accuracy comes with controls: the same search for
answers that are permuted at random, a random subspace, the same search in an untrained network, and a constant answer.
Where both operands take the same way, as in a transformer that adds, they share a subspace from the position of '=' on:
there the sum can be exchanged, and neither operand can.

References: Causal Abstractions of Neural Networks (Geiger et al., 2021), arXiv:2106.02997; Finding Alignments Between
Interpretable Causal Variables and Distributed Neural Representations (Geiger et al., 2023), arXiv:2303.02536. Their
search learns a rotation of the whole space; here Q = qr(A) of a free matrix A [d, dimension] is a basis of the subspace
alone. (Of torch's orthogonal parametrisations, Householder reflections stop at saddles more often, and the others cost
products of d x d matrices.) A search may end in a local optimum: repeat it with another seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.analysis.arguments import as_examples, as_network, as_seed, first_pass, require_rows
from interp.analysis.arrays import Array, as_floats
from interp.analysis.batch import CheckpointBatch
from interp.analysis.patching import Site, as_site
from interp.errors import InvalidArgumentError, NotAvailableError, UnknownNameError, did_you_mean
from interp.literals import as_count
from interp.models import Network
from interp.rng import generator
from interp.tasks import Examples

__all__ = ["Interchange", "Variable", "das", "interchange_accuracy", "interchange_intervention"]

Variable = Literal["first", "second", "answer"]
"""Variable of the algorithm that is exchanged: an operand, or the answer."""

PAIRS = 2000
"""Pairs of inputs that an accuracy is measured on: its standard error is at most 0.011."""
BATCH = 128
"""Pairs of inputs of an update."""
DIMENSION = 8
"""Dimension of the subspaces of `interchange_accuracy`: planes of four frequencies."""
UPDATES = 100
"""Updates of `interchange_accuracy`."""
RATE = 1.0
"""Learning rate of Adam in the first update; it falls linearly to 0.

It is that of the entries of A, which begin as standard normal numbers. With 0.1 and 0.3 the same accuracies are reached
later, and a planted plane less often.
"""


@dataclass(frozen=True)
class Interchange:
    """Interchange accuracy of a subspace and its controls, all on held-out pairs of inputs and in [0, 1]."""

    accuracy: float
    """Share of pairs that the network answers as the high-level model does."""
    arbitrary_answers: float
    """Accuracy by the same procedure where the answers due are permuted at random, no answer being its own."""
    random_subspace: float
    """Accuracy of a random subspace of the same dimension."""
    untrained: float
    """Accuracy by the same procedure in the untrained network."""
    chance: float
    """Accuracy of the best constant answer."""
    subspace: Float[Tensor, "d dimension"]
    """Orthonormal basis of the subspace, in the columns."""


class _Pairs(NamedTuple):
    """Pairs of inputs by their numbers, and the class of the answer that is due after the exchange."""

    base: Int[Tensor, " pair"]
    source: Int[Tensor, " pair"]
    due: Int[Tensor, " pair"]


def interchange_intervention(
    network: Network,
    examples: Examples,
    site: Site,
    subspace: Float[Array, "d dimension"],
    *,
    variable: Variable,
    untrained: Network,
    seed: int = 0,
) -> Interchange:
    """Interchange accuracy of a given subspace at a site, with its controls.

    Args:
        network: network of the task; its weights are not changed.
        examples: inputs of the task, which are pairs of operands, and their answers.
        subspace: directions in the activation at the site, in the columns; they are orthonormalised, and need not be
            independent.
        variable: what the subspace is to carry.
        untrained: network of the same shape with weights of step 0, or drawn anew.
        seed: of the halves of the inputs, the pairs, the permutation of the answers and the random subspace.

    Raises:
        UnknownNameError: the network has no activation of that name.
        InvalidArgumentError: position or subspace do not fit the activation, or `subspace` vanishes.
        NotAvailableError: the inputs are no pairs, the outputs no classes, or no exchange changes an answer.

    Example:
        >>> import interp, tempfile
        >>> from interp.analysis.interchange import interchange_intervention
        >>> from interp.analysis.patching import Site, as_site
        >>> small = interp.RunConfig().replace({"task.p": 5, "model.d_model": 8, "model.d_mlp": 8, "steps": 1})
        >>> traj = interp.train(small, root=tempfile.mkdtemp())
        >>> everything = torch.eye(8)  # all of the embedding at the first operand: the base becomes (a', b)
        >>> found = interchange_intervention(
        ...     traj.model(1), traj.task, Site("hook_embed", 0), everything, variable="first", untrained=traj.model(0))
        >>> found.subspace.shape, found.accuracy == found.random_subspace
        (torch.Size([8, 8]), True)
    """
    given = _orthonormal(as_floats("subspace", subspace, "d dimension"))
    return _with_controls(network, untrained, examples, site, variable, seed, lambda swap, due: given)


def das(
    network: Network,
    examples: Examples,
    site: Site,
    *,
    variable: Variable,
    dimension: int,
    untrained: Network,
    updates: int = 200,
    seed: int = 0,
) -> Interchange:
    """Interchange accuracy of a learned subspace at a site, with its controls: distributed alignment search.

    Args:
        network: network of the task; its weights are not changed.
        examples: inputs of the task, which are pairs of operands, and their answers.
        variable: what the subspace is to carry.
        dimension: number of dimensions of the subspace, 1 .. d.
        untrained: network of the same shape with weights of step 0, or drawn anew; a subspace is learned in it, too.
        updates: number of updates, with 128 pairs each.
        seed: of the halves of the inputs, the pairs, the first basis, and the controls; equal seeds give equal results.

    Raises:
        UnknownNameError: the network has no activation of that name.
        InvalidArgumentError: position or dimension do not fit the activation.
        NotAvailableError: the inputs are no pairs, the outputs no classes, or no exchange changes an answer.

    Example:
        >>> import interp, tempfile
        >>> from interp.analysis.interchange import das
        >>> from interp.analysis.patching import Site, as_site
        >>> small = interp.RunConfig().replace({"task.p": 5, "model.d_model": 8, "model.d_mlp": 8, "steps": 1})
        >>> traj = interp.train(small, root=tempfile.mkdtemp())
        >>> found = das(traj.model(1), traj.task, Site("blocks.0.mlp.hook_post"), variable="answer", dimension=2,
        ...             untrained=traj.model(0), updates=5)
        >>> torch.allclose(found.subspace.T @ found.subspace, torch.eye(2), atol=1e-6)
        True
    """
    as_count("dimension", dimension)
    as_count("updates", updates)

    def learned(swap: "_Swap", due: Int[Tensor, " answer"]) -> Tensor:
        return _learned(swap, due, dimension, updates, seed)

    return _with_controls(network, untrained, examples, site, variable, seed, learned)


def interchange_accuracy(batch: CheckpointBatch, site: Site, variable: Variable) -> Float[Tensor, " step"]:
    """Held-out interchange accuracy of a learned subspace of `DIMENSION` dimensions (or all), without controls."""

    def accuracy(network: Network) -> float:
        swap = _Swap(network, batch.context.examples, site, variable, seed=0)
        subspace = _learned(swap, swap.answers, min(DIMENSION, swap.width), UPDATES, seed=0)
        return swap.accuracy(subspace, swap.answers)

    return torch.tensor(batch.each(accuracy, gradients=True), dtype=torch.float64)


def _with_controls(
    network: Network,
    untrained: Network,
    examples: Examples,
    site: Site,
    variable: Variable,
    seed: int,
    find: Callable[["_Swap", Int[Tensor, " answer"]], Tensor],
) -> Interchange:
    """Accuracies of the subspaces that `find` gives for the answers due, for permuted ones, and without training."""
    network, untrained = as_network("network", network), as_network("untrained", untrained)
    seed = as_seed(seed)
    swap = _Swap(network, examples, site, variable, seed)
    before = _Swap(untrained, examples, site, variable, seed)
    if before.width != swap.width:
        raise InvalidArgumentError(
            f"`untrained` must be a network of the shape of `network`, with {swap.width} dimensions of "
            f"`{swap.site.name}`; got {before.width}."
        )
    permuted = swap.answers.clone()
    classes = examples.classes[torch.randperm(len(examples.classes), generator=generator(seed, "interchange-answers"))]
    permuted[classes] = classes.roll(1)
    subspace = find(swap, swap.answers)
    if subspace.shape[0] != swap.width:
        raise InvalidArgumentError(
            f"`subspace` must have a row for each of {swap.width} dimensions of `{swap.site.name}`; got "
            f"{list(subspace.shape)}."
        )
    noise = torch.randn(subspace.shape, generator=generator(seed, "interchange-random"), dtype=torch.float64)
    return Interchange(
        accuracy=swap.accuracy(subspace, swap.answers),
        arbitrary_answers=swap.accuracy(find(swap, permuted), permuted),
        random_subspace=swap.accuracy(_orthonormal(noise), swap.answers),
        untrained=before.accuracy(find(before, swap.answers), swap.answers),
        chance=float(torch.bincount(swap.held_out.due).max() / len(swap.held_out.due)),
        subspace=subspace,
    )


class _Swap:
    """A network with a site, and pairs of inputs between which the component in a subspace is exchanged."""

    def __init__(self, network: Network, examples: Examples, site: Site | str, variable: Variable, seed: int) -> None:
        examples, site = as_examples("examples", examples), as_site("site", site)
        if examples.arity != 2 or not examples.answers.is_classes:
            raise NotAvailableError(
                f"Interchange interventions need inputs that are pairs of operands and outputs that are logits of "
                f"classes; these are {examples.inputs}, and the answers {examples.answers}."
            )
        if variable not in get_args(Variable):
            raise InvalidArgumentError(f"`variable` must be one of {get_args(Variable)}; got {variable!r}.")
        self.network, self.examples, self.site, self.variable = network, examples, site, variable
        position = -1 if site.positions is None else site.positions
        one = isinstance(position, int | np.integer) and not isinstance(position, bool)
        if site.heads is not None or site.neurons is not None or not one:
            raise InvalidArgumentError(
                f"`site` must be a whole activation at one position, whose subspaces are exchanged; got {site}."
            )
        self._position = int(position)  # type: ignore[arg-type]
        self.answers = torch.arange(max(examples.d_vocab_out, int(examples.classes.max()) + 1))
        """Class that is due for each class of the algorithm's answer: itself."""
        halves = torch.randperm(len(examples.tokens), generator=generator(seed, "interchange-halves")).chunk(2)
        self.learning, other = halves
        self.held_out = self.pairs(other, PAIRS, generator(seed, "interchange-held-out"))
        with torch.no_grad():
            logits, cache, _ = first_pass(network, "examples", examples.tokens)
        if logits.shape[1] < len(self.answers):
            raise InvalidArgumentError(
                f"`examples` must be the task of the network: it has {len(self.answers)} classes, and the network "
                f"{logits.shape[1]} logits."
            )
        if site.name not in cache:
            raise UnknownNameError(
                f"`site.name` must be an activation of {type(network).__name__}; got {site.name!r}. "
                f"{did_you_mean(site.name, cache)}"
            )
        require_rows(network, site.name, cache[site.name], len(examples.tokens))
        self.sources: Float[Tensor, "input d"] = self.at_site(cache[site.name])
        if not self.sources.isfinite().all():
            raise NotAvailableError(
                f"`{site.name}` has no subspaces at this position: some of its numbers are not finite, such as masked "
                "attention scores."
            )

    @property
    def width(self) -> int:
        """Number d of dimensions of the activation at the site."""
        return self.sources.shape[1]

    def pairs(self, inputs: Int[Tensor, " input"], count: int, draws: torch.Generator) -> _Pairs:
        """Random pairs of these inputs, `count` less those whose answer does not change or is not defined."""
        p, labels = self.examples.p, self.examples.labels
        base, source = inputs[torch.randint(len(inputs), (2, count), generator=draws)]
        exchanged = {"first": source // p * p + base % p, "second": base // p * p + source % p, "answer": source}
        due = exchanged[self.variable]
        answered = self.examples.train | self.examples.test
        kept = answered[base] & answered[source] & answered[due] & (labels[due] != labels[base])
        if not kept.any():
            raise NotAvailableError(
                f"`variable` {self.variable!r} cannot be judged: no exchange of it changes the answer of this task."
            )
        return _Pairs(base[kept], source[kept], labels[due[kept]])

    def logits(self, pairs: _Pairs, Q: Float[Tensor, "d dimension"]) -> Float[Tensor, "pair d_vocab_out"]:
        """Logits of the bases with the components in the subspace taken from the sources."""
        sources = self.sources[pairs.source]

        def exchange(x: Tensor) -> Tensor:
            old = self.at_site(x)
            new = old + (sources - old) @ Q @ Q.T
            axis = self.axis_of_positions(x)
            if not axis:
                return new.reshape(x.shape)
            changed = x.clone()
            here = changed.select(axis, self._position)
            here.copy_(new.reshape(here.shape))
            return changed

        changes = {self.site.name: exchange}
        outputs, _ = self.network.run_with_changes(self.examples.tokens[pairs.base], changes)
        return outputs[:, -1] if outputs.ndim == 3 else outputs

    def at_site(self, x: Float[Tensor, "batch *axes"]) -> Float[Tensor, "batch d"]:
        """The activation at the position of the site, one row for each input."""
        axis = self.axis_of_positions(x)
        positions = x.shape[axis] if axis else 1
        if not -positions <= self._position < positions:
            raise InvalidArgumentError(
                f"`site.positions` must be one position of `{self.site.name}`, an activation of shape {list(x.shape)}; "
                f"got {self.site.positions}."
            )
        return (x.select(axis, self._position) if axis else x).reshape(len(x), -1)

    def axis_of_positions(self, x: Float[Tensor, "batch *axes"]) -> int:
        """Axis of the positions of the activation at the site; 0 where it has none."""
        axes = self.network.activation_axes_of(self.site.name, x.ndim)
        return 1 + axes.index("pos") if "pos" in axes else 0

    def accuracy(self, Q: Float[Tensor, "d dimension"], due: Int[Tensor, " answer"]) -> float:
        """Share of held-out pairs that are answered with the class `due` of the algorithm's answer."""
        with torch.no_grad():
            found = self.logits(self.held_out, Q.to(self.sources.dtype)).argmax(-1)
        return float((found == due[self.held_out.due]).double().mean())


def _learned(
    swap: _Swap, due: Int[Tensor, " answer"], dimension: int, updates: int, seed: int
) -> Float[Tensor, "d dimension"]:
    """Orthonormal basis with the least cross-entropy of the answers due, by Adam."""
    if dimension > swap.width:
        raise InvalidArgumentError(
            f"`dimension` must be at most {swap.width}, that of `{swap.site.name}`; got {dimension}."
        )
    draws = generator(seed, "interchange-pairs")
    noise = torch.randn(swap.width, dimension, generator=generator(seed, "interchange-basis"))
    A = noise.to(swap.sources.dtype).requires_grad_()
    optimizer = torch.optim.Adam([A], lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / updates, updates)
    for _ in range(updates):
        pairs = swap.pairs(swap.learning, BATCH, draws)
        with torch.enable_grad():
            loss = F.cross_entropy(swap.logits(pairs, torch.linalg.qr(A).Q), due[pairs.due])
            (gradient,) = torch.autograd.grad(loss, [A], allow_unused=True) if loss.requires_grad else (None,)
            if gradient is None:
                raise NotAvailableError(
                    f"No subspace of `{swap.site.name}` can be learned: the logits do not depend on it, or the pass of "
                    f"{type(swap.network).__name__} keeps no gradients."
                )
            A.grad = gradient
        optimizer.step()
        schedule.step()
    return torch.linalg.qr(A.detach()).Q


def _orthonormal(directions: Float[Tensor, "d dimension"]) -> Float[Tensor, "d rank"]:
    """Orthonormal basis of the span of the columns, in float64; directions below rounding are left out."""
    U, S, _ = torch.linalg.svd(directions.double(), full_matrices=False)
    rounding = max(directions.shape) * torch.finfo(directions.dtype).eps
    kept = S.max() * rounding < S
    if not kept.any():
        raise InvalidArgumentError("`subspace` must span at least one direction; got zeros.")
    return U[:, kept]
