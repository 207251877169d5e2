"""The table of all measures: name, axes, definition, and what a run must have for it to be defined.

A measure is one line: a function of `CheckpointBatch`, which hands it arrays, and a sentence for reports. The
definition is in the function that the line names. `measures` streams the table over runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from interp.analysis import (
    ablations,
    algorithms,
    circuits,
    geometry,
    irreps,
    keys,
    logistic,
    logits,
    norms,
    numerics,
    parallelograms,
    progress,
    spectra,
    subspaces,
)
from interp.analysis.context import CheckpointBatch, RunContext
from interp.analysis.loss import cross_entropy
from interp.config import Logistic, Transformer

__all__ = ["MEASURES", "REQUIREMENTS", "Measure", "Requirement"]


@dataclass(frozen=True)
class Measure:
    """A measure as `measures.measure` knows it."""

    name: str
    dims: tuple[str, ...]
    compute: Callable[[CheckpointBatch], Tensor]
    meaning: str
    """One line for reports: what it is, whose definition, the unit."""
    reads: Literal["embedding", "weights", "answer"] = "answer"
    """What is held in memory for it: embeddings, all weights, or the activations of all pairs."""
    needs: tuple[str, ...] = ()
    """Names in `REQUIREMENTS`."""
    relative_to: Literal["last", "before"] | None = None
    """Another stored step that every value depends on: the last (none is of use when the run has grown), or the one
    before."""
    costly: bool = False
    """Whether it is computed only when asked for by name."""
    revision: int = 0
    """Raise it when the meaning changes, so that values stored before are not read."""
    kept: bool = True
    """Whether its values are stored beside the run: those of a function that may be another one tomorrow are not."""

    @property
    def requires(self) -> tuple[str, ...]:
        """`needs`, and what follows from what is read: pairs of operands with an embedding, or with logits."""
        implied = {"embedding": ("pairs", "embedding"), "answer": ("pairs", "classes"), "weights": ()}
        return (*implied[self.reads], *self.needs)


class Requirement(NamedTuple):
    """What a run must have for a measure to be defined."""

    met: Callable[[RunContext], bool]
    rule: str
    """Continues the sentence '`measure` ...'."""


REQUIREMENTS: Mapping[str, Requirement] = MappingProxyType(
    {
        "pairs": Requirement(lambda s: s.p > 0, "needs inputs that are pairs of operands"),
        "points": Requirement(
            lambda s: isinstance(s.traj.config.model, Logistic), "is defined for logistic regression on points"
        ),
        "sum": Requirement(
            lambda s: s.operation is not None,
            "is defined for addition and subtraction, and for products mod a prime, whose answer is a sum on a circle",
        ),
        "keys": Requirement(
            lambda s: s.operation is not None and bool(s.key_list),
            "needs key frequencies, on which two of three criteria agree at the last stored step",
        ),
        "classes": Requirement(
            lambda s: s.traj.task.answers.is_classes or s.traj.task.objective.has_population,
            "needs outputs that are logits of classes, and here they are codes",
        ),
        "embedding": Requirement(lambda s: s.has_embedding, "needs an embedding, and this model has none"),
        "plane": Requirement(lambda s: s.dimensions >= 2, "needs an embedding of at least two dimensions"),
        "four": Requirement(lambda s: s.dimensions >= 4, "needs an embedding of at least four dimensions"),
        "table": Requirement(
            lambda s: getattr(s.traj.config.model, "embedding", "learned") in ("learned", "shared", "separate"),
            "needs operands that are looked up in a table",
        ),
        "cyclic": Requirement(
            lambda s: s.cyclic, "is defined where the operands are residues, whose Fourier basis is that of Z_p"
        ),
        "group": Requirement(
            lambda s: s.group is not None, "is defined for the products of a finite group (`task.kind` Group, compose)"
        ),
        "attention": Requirement(
            lambda s: (
                isinstance(s.traj.config.model, Transformer)
                and s.traj.config.model.n_layers == 1
                and s.traj.config.task.encoding == "direct"
            ),
            "is defined for a transformer of one layer that reads its answer at '='",
        ),
        "mirrors": Requirement(
            lambda s: bool((s.labels == s.labels.T).all() and s.mirrored.any() and (s.test & ~s.mirrored).any()),
            "needs a commutative operation, and held-out pairs (a, b) with and without (b, a) in the training set",
        ),
    }
)

_ANSWER: Any = {"reads": "answer"}
_CYCLIC: Any = {"reads": "answer", "needs": ("cyclic",)}
_WAVES: Any = {"reads": "embedding", "needs": ("cyclic",)}
_SUM: Any = {"reads": "answer", "needs": ("sum",)}
_KEYS: Any = {"reads": "answer", "needs": ("sum", "keys")}
_FINAL: Any = {"reads": "embedding", "relative_to": "last"}
_CIRCLE: Any = _FINAL | {"needs": ("cyclic", "plane")}
_PLANE: Any = {"reads": "embedding", "needs": ("cyclic", "plane")}
_COSTLY: Any = {"reads": "weights", "costly": True}
_GROUP: Any = {"reads": "answer", "needs": ("group",)}
_POINTS: Any = {"reads": "weights", "needs": ("points",)}
_S = ("step",)
_I = ("step", "irrep")
_F = ("step", "frequency")
_C = ("step", "component")


def _loss(mask: Callable[[RunContext], Tensor]) -> Callable[[CheckpointBatch], Tensor]:
    return lambda v: v.losses[:, mask(v.source)].mean(-1)


def _accuracy(mask: Callable[[RunContext], Tensor]) -> Callable[[CheckpointBatch], Tensor]:
    return lambda v: v.right[:, mask(v.source)].double().mean(-1)


def _update_norm(view: CheckpointBatch) -> Tensor:
    value = norms.sum_of_squares_by_parameter(view.updates, leading=1).value.sqrt()
    value[view.positions == 0] = torch.nan  # nothing is stored before
    return value


def _excluded(kind: str, what: str) -> tuple[Measure, Measure]:
    """An excluded loss without all key frequencies, and without each frequency alone."""
    name = f"excluded_loss_{kind}"

    def together(view: CheckpointBatch) -> Tensor:
        return view.excluded[kind].together

    def by_frequency(view: CheckpointBatch) -> Tensor:
        return view.excluded[kind].by_frequency

    return (
        Measure(name, _S, together, f"{what} [nats]", **_KEYS),
        Measure(f"{name}_by_frequency", _F, by_frequency, f"{what}, each frequency alone [nats]", **_KEYS),
    )


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        item.name: item
        for item in (
            # --- losses, from the weights, over all classes
            Measure("train_loss", _S, _loss(lambda s: s.train),
                    "cross-entropy on the training pairs [nats]", **_ANSWER),
            Measure("test_loss", _S, _loss(lambda s: s.test), "cross-entropy on the held-out pairs [nats]", **_ANSWER),
            Measure("all_loss", _S, _loss(lambda s: s.train | s.test), "cross-entropy on all pairs [nats]", **_ANSWER),
            Measure("train_accuracy", _S, _accuracy(lambda s: s.train),
                    "share of training pairs answered rightly", **_ANSWER),
            Measure("test_accuracy", _S, _accuracy(lambda s: s.test),
                    "share of held-out pairs answered rightly", **_ANSWER),
            Measure("all_accuracy", _S, _accuracy(lambda s: s.train | s.test), "share of all pairs answered rightly",
                    **_ANSWER),
            Measure("test_accuracy_mirrored", _S, _accuracy(lambda s: s.mirrored),
                    "accuracy on held-out (a, b) of which (b, a) is trained on: commutativity is enough",
                    needs=("mirrors",)),
            Measure("test_accuracy_unmirrored", _S, _accuracy(lambda s: s.test & ~s.mirrored),
                    "accuracy on held-out (a, b) of which (b, a) is held out too", needs=("mirrors",)),
            # --- norms
            Measure("weight_norm", _S, lambda v: norms.weight_norm(v.weights, leading=1),
                    "L2 norm of all parameters", "weights"),
            Measure("sum_of_squares", _S, lambda v: norms.weight_norm(v.weights, leading=1).square(),
                    "sum of squared parameters (Nanda et al., 2023)", "weights"),
            Measure("sum_of_squares_by_parameter", ("step", "parameter"),
                    lambda v: norms.sum_of_squares_by_parameter(v.weights, leading=1).value,
                    "sum of squares of each parameter", "weights"),
            Measure("gradient_norm_by_parameter", ("step", "parameter"),
                    lambda v: norms.sum_of_squares_by_parameter(v.gradients, leading=1).value.sqrt(),
                    "L2 norm of the gradient of the answers' training loss, each parameter", "weights",
                    needs=("pairs", "classes")),
            Measure("update_norm_by_parameter", ("step", "parameter"), _update_norm,
                    "L2 norm of the change per optimiser step since the stored step before, each parameter; "
                    "NaN at the first", "weights", relative_to="before"),
            # --- logistic regression on points
            Measure("weight_length", _S, lambda v: v.weights["S"].norm(dim=-1),
                    "|S|, length of the weights without the bias (Beck et al., 2024)", **_POINTS),
            Measure("bias", _S, lambda v: v.weights["b"][:, 0], "bias b (Beck et al., 2024)", **_POINTS),
            Measure("positive_share", _S,
                    lambda v: logistic.positive_share(v.source.traj.task.tokens, v.weights["S"]),
                    "share of points with S.x > 0, which the bias alone answers rightly (Beck et al., 2024), 0 to 1",
                    **_POINTS),
            Measure("late_direction_cosine", _S,
                    lambda v: logistic.late_direction_cosine(v.source.late_direction, v.weights["S"]),
                    "cosine of S with what gradient descent tends to: S_inf, or the largest margin, -1 to 1",
                    **_POINTS),
            # --- the embedding
            Measure("embedding_power", _F, lambda v: spectra.embedding_power(v.W_E),
                    "squared norm of the embedding at each frequency (Nanda et al., 2023)", **_WAVES),
            Measure("gini_embedding", _S, lambda v: spectra.gini_embedding(v.W_E),
                    "Gini coefficient of the embedding's Fourier norms (Nanda et al., 2023), 0 to 1", **_WAVES),
            Measure("key_frequency_embedding", _F,
                    lambda v: keys.key_frequency_embedding(spectra.embedding_power(v.W_E)),
                    "embedding norm above twice the median", **_WAVES),
            Measure("circularity_by_component", ("step", "component"),
                    lambda v: geometry.circularity(v.pca.coordinates).value,
                    "circularity of each principal component (Zhong et al., 2023), 0 to 1", **_WAVES),
            Measure("circularity", _S, lambda v: geometry.mean_circularity(v.pca.coordinates),
                    "mean circularity of components 1 to 4 (Zhong et al., 2023), 0 to 1", "embedding",
                    needs=("cyclic", "four")),
            Measure("effective_rank_embedding", _S, lambda v: subspaces.effective_rank(v.W_E),
                    "exponential of the entropy of the embedding's singular values (Roy and Vetterli, 2007)",
                    "embedding"),
            Measure("participation_ratio_embedding", _S, lambda v: subspaces.participation_ratio(v.W_E),
                    "(sum of the principal variances)^2 over the sum of their squares", "embedding"),
            Measure("rqi", _S, lambda v: parallelograms.rqi(v.W_E),
                    "share of the parallelograms a + b = c + d (mod p) that the embedding shows (Liu et al., 2022), "
                    "0 to 1", "embedding", needs=("sum",)),
            Measure("subspace_angle", ("step", "angle"),
                    lambda v: subspaces.subspace_angles(v.W_E, v.source.last.W_E[0]),
                    "principal angles between the plane of components 1 and 2 and that of the last step [rad]",
                    needs=("plane",), **_FINAL),
            Measure("component_partner", _C, lambda v: v.component_circles.partner,
                    "the component with which each one is most nearly a circle", **_PLANE),
            Measure("component_pair_circularity", _C, lambda v: v.component_circles.circularity,
                    "circularity of the two, 0 to 1", **_PLANE),
            Measure("component_frequency", _C, lambda v: v.component_circles.frequency,
                    "frequency of that circle", **_PLANE),
            Measure("component_multiplicity", _C, lambda v: v.component_circles.multiplicity,
                    "number of tokens that share a place on that circle", **_PLANE),
            # --- the circle in the axes of the last step
            Measure("embedding_coordinates", ("step", "token", "component"), lambda v: v.final_pca.coordinates,
                    "tokens on the principal axes of the last step (Kitouni)", **_FINAL),
            Measure("embedding_variance_ratio", ("step", "component"), lambda v: v.final_pca.explained_variance_ratio,
                    "share of the step's variance along the principal axes of the last step", **_FINAL),
            Measure("circle_resultant", _S, lambda v: v.circle.resultant,
                    "how well the tokens' angles in that plane are ordered at the best frequency, 0 to 1", **_CIRCLE),
            Measure("circle_frequency", _S, lambda v: v.circle.frequency,
                    "the frequency of that order", **_CIRCLE),
            Measure("circle_stride", _S, lambda v: v.circle.stride,
                    "difference of neighbouring tokens on the circle", **_CIRCLE),
            Measure("circle_multiplicity", _S, lambda v: v.circle.multiplicity,
                    "number of tokens that share a place on the circle", **_CIRCLE),
            Measure("circle_order_correlation", _S, lambda v: v.circle.order_correlation,
                    "rank correlation of the tokens' places with the ideal order", **_CIRCLE),
            Measure("circle_winding", _S, lambda v: v.circle.winding,
                    "turns of the polygon through the tokens in order; 1 is a circle", **_CIRCLE),
            # --- neurons and logits
            Measure("neuron_frequency", ("step", "neuron"),
                    lambda v: v.neuron_frequency.frequency,
                    "frequency with the largest share of a neuron's variance", **_CYCLIC),
            Measure("neuron_frequency_share", ("step", "neuron"),
                    lambda v: v.neuron_frequency.share,
                    "that share, 0 to 1 (Nanda et al., 2023)", **_CYCLIC),
            Measure("neuron_cluster_size", _F, lambda v: spectra.neuron_cluster_size(v.neuron_power),
                    "neurons with more than 85 % of their variance at a frequency (Nanda et al., 2023)", **_CYCLIC),
            Measure("neuron_phase_first", ("step", "neuron"), lambda v: v.neuron_phase.first.phase,
                    "phase of a neuron's wave in the first operand at its frequency [rad]", **_CYCLIC),
            Measure("neuron_phase_second", ("step", "neuron"), lambda v: v.neuron_phase.second.phase,
                    "the same in the second operand [rad]", **_CYCLIC),
            Measure("neuron_phase_sum", ("step", "neuron"), lambda v: v.neuron_phase.both.phase,
                    "the same in the sum (or difference) of the operands [rad]", **_CYCLIC),
            Measure("neuron_logit_rank", _S, lambda v: circuits.neuron_logit_rank(v.W_L).directions,
                    "directions that hold 95 % of the squared norm of W_L (Nanda et al., 2023)", **_ANSWER),
            Measure("neuron_logit_key_share", _S, lambda v: circuits.neuron_logit_directions(v.W_L, v.keys),
                    "share of the squared norm of W_L at the key frequencies (Nanda et al., 2023), 0 to 1", **_KEYS),
            Measure("attention_score_power", ("step", "head", "frequency"),
                    lambda v: circuits.attention_score_power(v.attention_scores),
                    "power of the scores that '=' gives to the numbers, by head and frequency (Nanda et al., 2023)",
                    "weights", needs=("attention", "cyclic")),
            Measure("neuron_logit_power", _F, lambda v: spectra.embedding_power(v.W_L.mT),
                    "squared norm of W_L = W_out W_U at each frequency (Nanda et al., 2023)", **_CYCLIC),
            Measure("gini_neuron_logit", _S, lambda v: spectra.gini_neuron_logit(v.W_L),
                    "Gini coefficient of the Fourier norms of W_L (Nanda et al., 2023), 0 to 1", **_CYCLIC),
            Measure("key_frequency_neuron", _F, lambda v: keys.key_frequency_neuron(v.neuron_power),
                    "some neuron has more than 85 % of its variance there", **_CYCLIC),
            Measure("logit_coefficient", _F, lambda v: logits.logit_coefficient(v.logits, v.operation),
                    "coefficient of the logits on cos(w_k(a+b-c)) of unit norm (Nanda et al., 2023)", **_SUM),
            Measure("logit_similarity", _F, lambda v: v.logit_similarity,
                    "cosine of the row-centred logits with cos(w_k(a+b-c)) (Chughtai et al., 2023)", **_SUM),
            Measure("logit_similarity_raw", _F, lambda v: logits.logit_similarity_raw(v.logits, v.operation),
                    "cosine of the logits with cos(w_k(a+b-c)) (Nanda et al., 2023)", **_SUM),
            Measure("key_frequency_logit", _F,
                    lambda v: keys.key_frequency_logit(v.logit_similarity),
                    "logit similarity above 0.005 (Chughtai et al., 2023)", **_SUM),
            # --- which algorithm
            Measure("gradient_symmetricity", _S,
                    lambda v: algorithms.gradient_symmetricity(*ablations.symmetricity_gradients(v)),
                    "mean cosine of a logit's gradients by the two embeddings (Zhong et al., 2023), 1 for a pizza",
                    "weights", needs=("pairs", "table", "classes")),
            Measure("distance_irrelevance", _S,
                    lambda v: algorithms.distance_irrelevance(v.logits, v.source.sums, v.operation),
                    "how little the right logit depends on a - b (Zhong et al., 2023), 0 for a pizza", **_SUM),
            Measure("distance_irrelevance_wrong", _S,
                    lambda v: algorithms.distance_irrelevance_wrong(v.logits, v.source.sums, v.operation),
                    "the same of the largest wrong logit (the code of Zhong et al., 2023)", **_SUM),
            Measure("clock_variance_explained", _S,
                    lambda v: v.logit_variance_explained,  # which `algorithms.clock_variance_explained` is
                    "share of the logits' variance in cos(w_k(a+b-c)) of the key frequencies, 0 to 1 (Zhong et al., "
                    "2023)", **_KEYS),
            Measure("pizza_variance_explained", _S,
                    lambda v: algorithms.pizza_variance_explained(v.logits, v.keys, v.operation),
                    "share in |cos(w_k(a-b)/2)| cos(w_k(a+b-c)) and the accompanying circles', 0 to 1 (Zhong et al., "
                    "2023)", **_KEYS),
            # --- numerical health
            Measure("softmax_collapse", _S, lambda v: numerics.softmax_collapse(
                        v.logits_of_all_classes, v.source.labels, v.source.train),
                    "share of training pairs whose float32 softmax is exactly one-hot (Prieto et al., 2025)",
                    **_ANSWER),
            Measure("zero_loss_share", _S, lambda v: numerics.zero_loss_share(
                        v.logits_of_all_classes, v.source.labels, v.source.train),
                    "share of training pairs whose float32 loss is exactly 0 (Prieto et al., 2025)", **_ANSWER),
            Measure("precision_gap", _S, lambda v: numerics.precision_gap(
                        v.logits_of_all_classes, v.source.labels, v.source.train),
                    "difference of the float32 and the float64 training loss [nats]", **_ANSWER),
            # --- groups: irreducible representations
            Measure("logit_similarity_by_irrep", _I, lambda v: irreps.logit_similarity(v.logits, v.group),
                    "cosine of the row-centred logits with the character chi(a b c^-1) (Chughtai et al., 2023)",
                    **_GROUP),
            Measure("embedding_share_by_irrep", _I, lambda v: irreps.embedding_share(v.operand_embeddings, v.group),
                    "share of the squared norm of the operands' embeddings in each irrep, for an MLP times the first "
                    "layer's weights (Chughtai et al., 2023), 0 to 1", "answer", needs=("group", "embedding"),
                    revision=1),
            Measure("unembedding_share_by_irrep", _I, lambda v: irreps.unembedding_share(v.W_L, v.group),
                    "share of the squared norm of W_L in each irrep (Chughtai et al., 2023), 0 to 1", **_GROUP),
            Measure("hidden_share_by_irrep", _I, lambda v: irreps.hidden_share(v.neurons, v.group).total,
                    "share of the neurons' variance in a, b and a b of each irrep (Chughtai et al., 2023), 0 to 1",
                    **_GROUP),
            # --- with a part of the network taken away; each runs the network again
            Measure("head_ablation_loss", ("step", "head"), ablations.head_ablation_loss,
                    "loss over all pairs without what one head writes [nats]",
                    needs=("attention", "classes"), **_COSTLY),
            Measure("frequency_ablation_loss", _F, ablations.frequency_ablation_loss,
                    "loss over all pairs without one frequency of the embedding [nats]",
                    needs=("cyclic", "table", "classes"), revision=1, **_COSTLY),
            Measure("neuron_cluster_ablation_loss", _F, ablations.neuron_cluster_ablation_loss,
                    "loss over all pairs with the neurons of one frequency at their means [nats]",
                    needs=("cyclic",), costly=True),
            Measure("circle_isolation_accuracy", ("step", "circle"), ablations.circle_isolation_accuracy,
                    "accuracy over all pairs with components (1, 2), (3, 4), ... of the embedding alone (Zhong et al., "
                    "2023)", needs=("pairs", "table", "classes"), revision=1, **_COSTLY),
            Measure("attention_periodicity", ("step", "head", "frequency"),
                    lambda v: ablations.attention_periodicity(v).first,
                    "share of the attention to the first number that is a wave in it (Nanda et al., 2023), 0 to 1",
                    needs=("attention", "cyclic"), **_COSTLY),
            Measure("local_learning_coefficient", _S, lambda v: v.llc[0],
                    "local learning coefficient on the training pairs (Lau et al., 2023); needs the extra `llc`",
                    relative_to="last", needs=("pairs", "classes"), **_COSTLY),
            Measure("local_learning_coefficient_error", _S, lambda v: v.llc[1],
                    "its standard error over chains", relative_to="last", needs=("pairs", "classes"), **_COSTLY),
            # --- progress measures with the key frequencies of the last step
            Measure("restricted_loss_logit", _S, lambda v: v.restricted_loss_logit,
                    "loss of the key frequencies of the logits, all pairs (Nanda et al., 2023) [nats]", **_KEYS),
            Measure("restricted_loss_neuron", _S, lambda v: progress.restricted_loss_neuron(
                        v.neurons, v.W_L, v.logits, v.source.sums, v.source.sums_tested, v.keys, operation=v.operation,
                        table=v.neuron_table),
                    "loss of the key frequencies of the neurons, held-out pairs (TransformerLens demo) [nats]",
                    **_KEYS),
            Measure("restricted_loss_hidden", _S, lambda v: progress.restricted_loss_hidden(
                        v.neurons, v.W_L, v.source.sums, v.keys, operation=v.operation, table=v.neuron_table),
                    "loss of the key frequencies of the neurons, no mean, no correction, all pairs (Chughtai et al., "
                    "2023) [nats]", **_KEYS),
            Measure("trig_loss_ratio", _S, lambda v: progress.trig_loss_ratio(
                        cross_entropy(v.logits, v.source.sums, v.source.sums_tested), v.restricted_loss_logit),
                    "test loss over restricted loss: rises while the circuit forms (Nanda et al., 2023)", **_KEYS),
            *_excluded("2d", "loss without the key directions of the logits, training pairs (Nanda et al., 2023)"),
            *_excluded("3d", "loss without cos(w_k(a+b-c)) in the logits, training pairs (Nanda et al., 2023)"),
            *_excluded("neuron", "loss without the neurons' key directions, training pairs (TransformerLens demo)"),
            *_excluded("hidden", "the same with nothing that passes by the neurons (Chughtai et al., 2023)"),
            Measure("sum_explained_variance", _S, lambda v: logits.sum_explained_variance(v.logits, v.operation),
                    "share of the logits' variance over the pairs that depends on a + b only, 0 to 1", **_SUM),
            Measure("logit_variance_explained", _S,
                    lambda v: v.logit_variance_explained,
                    "share of the logits' variance in cos(w_k(a+b-c)) of the key frequencies, 0 to 1", **_KEYS),
        )
    }
)  # fmt: skip
"""Every measure by name."""
