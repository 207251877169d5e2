"""Table of all measures: name, definition, meaning, axes, and what a run must have for it to be defined.

A measure is one entry: a function of a `CheckpointBatch`, which hands it arrays, and a sentence for reports. The
definition is in the function that the entry names. `measures` streams the table over runs.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from interp.analysis import (
    ablations,
    algorithms,
    circuits,
    geometry,
    interchange,
    irreps,
    keys,
    logistic,
    logits,
    norms,
    numerics,
    parallelograms,
    patching,
    progress,
    spectra,
    subspaces,
)
from interp.analysis.batch import CheckpointBatch
from interp.analysis.context import RunContext
from interp.analysis.definitions import Measure
from interp.analysis.loss import cross_entropy
from interp.analysis.spectra import NEURON_SHARE

__all__ = ["MEASURES"]

_CLASSES: Any = {"requires": ("logits of classes",)}
_WAVES: Any = {"inputs": "embedding", "requires": ("operands are residues", "embedding")}
_PLANE: Any = {"inputs": "embedding", "requires": ("operands are residues", "two embedding dimensions")}
_FINAL: Any = {"inputs": "embedding", "relative_to": "last"}
_CIRCLE: Any = _PLANE | _FINAL
_NEURONS: Any = {"requires": ("operand pairs", "neurons", "operands are residues")}
_NEURON_LOGITS: Any = {"requires": ("neurons", "answers are residues")}
_SUM: Any = {"requires": ("answer is a sum",)}
_KEYS: Any = {"requires": ("key frequencies",)}
_NEURON_KEYS: Any = {"requires": ("neurons", "key frequencies")}
_GROUP: Any = {"requires": ("finite group",)}
_NEURON_GROUP: Any = {"requires": ("neurons", "finite group")}
_ACCOUNT: Any = {"requires": ("account",), "relative_to": "last", "revision": 2, "opt_in": True}
_POINTS: Any = {"inputs": "weights", "requires": ("points",)}
_WEIGHTS: Any = {"inputs": "weights"}
_OPT_IN: Any = {"inputs": "weights", "opt_in": True}
_H = ("step", "head")
_PATCHED: Any = {"dims": _H, "requires": ("attention", "neurons", "logits of classes"), **_OPT_IN}
_SHARE = f"{NEURON_SHARE:.0%}".replace("%", " %")
_I = ("step", "irrep")
_F = ("step", "frequency")
_C = ("step", "component")
_N = ("step", "neuron")
_P = ("step", "parameter")


def _loss(mask: Callable[[RunContext], Tensor]) -> Callable[[CheckpointBatch], Tensor]:
    return lambda b: b.losses[:, mask(b.context)].mean(-1)


def _accuracy(mask: Callable[[RunContext], Tensor]) -> Callable[[CheckpointBatch], Tensor]:
    return lambda b: b.correct[:, mask(b.context)].double().mean(-1)


def _accuracy_by_operation(batch: CheckpointBatch) -> Tensor:
    """Accuracy on the held-out inputs of each operation; NaN where none is held out."""
    test = batch.context.test.unflatten(0, (len(batch.context.operations), -1))
    right = batch.correct.unflatten(1, test.shape) & test
    return right.sum(-1).double() / torch.where(test.any(-1), test.sum(-1), torch.nan)


def _update_norm(batch: CheckpointBatch) -> Tensor:
    value = norms.sum_of_squares_by_parameter(batch.updates, leading=1).value.sqrt()
    value[batch.positions == 0] = torch.nan  # nothing is stored before
    return value


def _excluded(kind: str, what: str) -> tuple[Measure, Measure]:
    """Measures of an excluded loss: without all key frequencies, and without each frequency alone."""
    requires = _NEURON_KEYS if kind in ("neuron", "hidden") else _KEYS
    name = f"excluded_loss_{kind}"

    def together(batch: CheckpointBatch) -> Tensor:
        return batch.excluded[kind].together

    def by_frequency(batch: CheckpointBatch) -> Tensor:
        return batch.excluded[kind].by_frequency

    return (
        Measure(name, together, f"{what} [nats]", **requires),
        Measure(f"{name}_by_frequency", by_frequency, f"{what}, each frequency alone [nats]", dims=_F, **requires),
    )


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        item.name: item
        for item in (
            # --- losses, from the weights, over all classes
            Measure("train_loss", _loss(lambda c: c.examples.trained),
                    "cross-entropy on the training inputs [nats]", **_CLASSES),
            Measure("test_loss", _loss(lambda c: c.test), "cross-entropy on the held-out inputs [nats]", **_CLASSES),
            Measure("all_loss", _loss(lambda c: c.train | c.test), "cross-entropy on all inputs [nats]", **_CLASSES),
            Measure("train_accuracy", _accuracy(lambda c: c.examples.trained),
                    "share of training inputs answered correctly, 0 to 1", **_CLASSES),
            Measure("test_accuracy", _accuracy(lambda c: c.test),
                    "share of held-out inputs answered correctly, 0 to 1", **_CLASSES),
            Measure("test_accuracy_by_operation", _accuracy_by_operation,
                    "share of held-out inputs of each operation answered correctly, 0 to 1",
                    dims=("step", "operation"), requires=("several operations", "logits of classes")),
            Measure("all_accuracy", _accuracy(lambda c: c.train | c.test),
                    "share of all inputs answered correctly, 0 to 1", **_CLASSES),
            Measure("test_accuracy_mirrored", _accuracy(lambda c: c.mirrored),
                    "accuracy on held-out (a, b) of which (b, a) is trained on: commutativity is enough",
                    requires=("mirrored pairs", "logits of classes")),
            Measure("test_accuracy_unmirrored", _accuracy(lambda c: c.test & ~c.mirrored),
                    "accuracy on held-out (a, b) of which (b, a) is held out too",
                    requires=("mirrored pairs", "logits of classes")),
            # --- norms
            Measure("weight_norm", lambda b: norms.weight_norm(b.weights, leading=1),
                    "L2 norm of all parameters", **_WEIGHTS),
            Measure("sum_of_squares", lambda b: norms.weight_norm(b.weights, leading=1).square(),
                    "sum of squared parameters (Nanda et al., 2023)", **_WEIGHTS),
            Measure("sum_of_squares_by_parameter",
                    lambda b: norms.sum_of_squares_by_parameter(b.weights, leading=1).value,
                    "sum of squares of each parameter", dims=_P, **_WEIGHTS),
            Measure("gradient_norm_by_parameter",
                    lambda b: norms.sum_of_squares_by_parameter(b.gradients, leading=1).value.sqrt(),
                    "L2 norm of the gradient of the answers' training loss, each parameter",
                    dims=_P, inputs="weights", **_CLASSES),
            Measure("update_norm_by_parameter", _update_norm,
                    "L2 norm of the change per optimiser step since the stored step before, each parameter; NaN at the "
                    "first", dims=_P, relative_to="before", **_WEIGHTS),
            # --- logistic regression on points
            Measure("weight_length", lambda b: b.weights["S"].norm(dim=-1),
                    "|S|, length of the weights without the bias (Beck et al., 2024)", **_POINTS),
            Measure("bias", lambda b: b.weights["b"][:, 0], "bias b (Beck et al., 2024)", **_POINTS),
            Measure("positive_share", lambda b: logistic.positive_share(b.context.examples.tokens, b.weights["S"]),
                    "share of points with S.x > 0, which the bias alone answers correctly (Beck et al., 2024), 0 to 1",
                    **_POINTS),
            Measure("late_direction_cosine",
                    lambda b: logistic.late_direction_cosine(b.context.late_direction, b.weights["S"]),
                    "cosine of S with the limit of gradient descent: S_inf, or the largest margin, -1 to 1",
                    **_POINTS),
            # --- the embedding
            Measure("embedding_power", lambda b: spectra.embedding_power(b.W_E),
                    "squared norm of the embedding at each frequency (Nanda et al., 2023)", dims=_F, **_WAVES),
            Measure("gini_embedding", lambda b: spectra.gini_embedding(b.W_E),
                    "Gini coefficient of the embedding's Fourier norms (Nanda et al., 2023), 0 to 1", **_WAVES),
            Measure("key_frequency_embedding", lambda b: keys.key_frequency_embedding(spectra.embedding_power(b.W_E)),
                    "whether the embedding's norm at a frequency is above twice the median", dims=_F, **_WAVES),
            Measure("circularity_by_component", lambda b: geometry.circularity(b.pca.coordinates).value,
                    "circularity of each principal component (Zhong et al., 2023), 0 to 1", dims=_C, **_WAVES),
            Measure("circularity", lambda b: geometry.mean_circularity(b.pca.coordinates),
                    "mean circularity of components 1 to 4 (Zhong et al., 2023), 0 to 1",
                    inputs="embedding", requires=("operands are residues", "four embedding dimensions")),
            Measure("effective_rank_embedding", lambda b: subspaces.effective_rank(b.W_E),
                    "exponential of the entropy of the embedding's singular values (Roy and Vetterli, 2007)",
                    inputs="embedding", requires=("embedding",)),
            Measure("participation_ratio_embedding", lambda b: subspaces.participation_ratio(b.W_E),
                    "(sum of the principal variances)^2 over the sum of their squares",
                    inputs="embedding", requires=("embedding",)),
            Measure("rqi", lambda b: parallelograms.rqi(b.W_E),
                    "share of the parallelograms a + b = c + d (mod p) that the embedding shows (Liu et al., 2022), 0 "
                    "to 1", inputs="embedding", requires=("answer is a sum", "embedding")),
            Measure("subspace_angle", lambda b: subspaces.subspace_angles(b.W_E, b.context.last.W_E[0]),
                    "principal angles between the plane of components 1 and 2 and that of the last step [rad]",
                    dims=("step", "angle"), requires=("two embedding dimensions",), **_FINAL),
            Measure("component_partner", lambda b: b.component_circles.partner,
                    "partner with which each principal component is most nearly a circle", dims=_C, **_PLANE),
            Measure("component_pair_circularity", lambda b: b.component_circles.circularity,
                    "circularity of each principal component with its partner, 0 to 1", dims=_C, **_PLANE),
            Measure("component_frequency", lambda b: b.component_circles.frequency,
                    "frequency of the circle of each principal component and its partner", dims=_C, **_PLANE),
            Measure("component_multiplicity", lambda b: b.component_circles.multiplicity,
                    "number of tokens that share a place on the circle of a component and its partner",
                    dims=_C, **_PLANE),
            # --- the circle in the axes of the last step
            Measure("embedding_coordinates", lambda b: b.final_pca.coordinates,
                    "tokens on the principal axes of the last step (Kitouni)",
                    dims=("step", "token", "component"), requires=("embedding",), **_FINAL),
            Measure("embedding_variance_ratio", lambda b: b.final_pca.explained_variance_ratio,
                    "share of the step's variance along the principal axes of the last step",
                    dims=_C, requires=("embedding",), **_FINAL),
            Measure("circle_resultant", lambda b: b.circle.resultant,
                    "order of the tokens' angles in the first two axes of the last step, at the best frequency, 0 to 1",
                    **_CIRCLE),
            Measure("circle_frequency", lambda b: b.circle.frequency,
                    "frequency at which the tokens' angles in that plane are ordered best", **_CIRCLE),
            Measure("circle_stride", lambda b: b.circle.stride,
                    "difference of neighbouring tokens on the circle", **_CIRCLE),
            Measure("circle_multiplicity", lambda b: b.circle.multiplicity,
                    "number of tokens that share a place on the circle", **_CIRCLE),
            Measure("circle_order_correlation", lambda b: b.circle.order_correlation,
                    "rank correlation of the tokens' places with the ideal order", **_CIRCLE),
            Measure("circle_winding", lambda b: b.circle.winding,
                    "turns of the polygon through the tokens in order; 1 is a circle", **_CIRCLE),
            # --- neurons and logits
            Measure("neuron_frequency", lambda b: b.neuron_frequency.frequency,
                    "frequency with the largest share of a neuron's variance", dims=_N, **_NEURONS),
            Measure("neuron_frequency_share", lambda b: b.neuron_frequency.share,
                    "largest share of a neuron's variance at one frequency, 0 to 1 (Nanda et al., 2023)",
                    dims=_N, **_NEURONS),
            Measure("neuron_cluster_size", lambda b: spectra.neuron_cluster_size(b.neuron_power),
                    f"neurons with more than {_SHARE} of their variance at a frequency (Nanda et al., 2023)",
                    dims=_F, **_NEURONS),
            Measure("neuron_phase_first", lambda b: b.neuron_phase.first.phase,
                    "phase of a neuron's wave in the first operand at its frequency [rad]", dims=_N, **_NEURONS),
            Measure("neuron_phase_second", lambda b: b.neuron_phase.second.phase,
                    "phase of a neuron's wave in the second operand at its frequency [rad]", dims=_N, **_NEURONS),
            Measure("neuron_phase_sum", lambda b: b.neuron_phase.both.phase,
                    "phase of a neuron's wave in the sum (or difference) of the operands at its frequency [rad]",
                    dims=_N, **_NEURONS),
            Measure("neuron_logit_rank", lambda b: circuits.neuron_logit_rank(b.W_L).directions,
                    "directions that hold 95 % of the squared norm of W_L (Nanda et al., 2023)",
                    requires=("neurons", "answers are operands")),
            Measure("neuron_logit_key_share", lambda b: circuits.neuron_logit_directions(b.W_L, b.keys),
                    "share of the squared norm of W_L, centred over the answers, at the key frequencies (Nanda et al., "
                    "2023), 0 to 1", revision=1, **_NEURON_KEYS),
            Measure("attention_score_power", lambda b: circuits.attention_score_power(b.attention_scores),
                    "power of the scores that '=' gives to the numbers, by head and frequency (Nanda et al., 2023)",
                    dims=("step", "head", "frequency"), inputs="weights",
                    requires=("token scores", "operands are residues")),
            Measure("neuron_logit_power", lambda b: spectra.embedding_power(b.W_L.mT),
                    "squared norm of W_L = W_out W_U at each frequency (Nanda et al., 2023)",
                    dims=_F, **_NEURON_LOGITS),
            Measure("gini_neuron_logit", lambda b: spectra.gini_neuron_logit(b.W_L),
                    "Gini coefficient of the Fourier norms of W_L (Nanda et al., 2023), 0 to 1", **_NEURON_LOGITS),
            Measure("gini_unembedding", lambda b: spectra.gini_embedding(b.context.select_answers(b.W_U, -1).mT),
                    "Gini coefficient of the Fourier norms of the unembedding W_U, 0 to 1",
                    inputs="weights", requires=("unembedding", "answers are residues"), revision=1),
            Measure("key_frequency_neuron", lambda b: keys.key_frequency_neuron(b.neuron_power),
                    f"whether a neuron has more than {_SHARE} of its variance at a frequency", dims=_F, **_NEURONS),
            Measure("logit_coefficient", lambda b: logits.logit_coefficient(b.logits, b.operation),
                    "coefficient of the logits on cos(w_k(a+b-c)) of unit norm (Nanda et al., 2023)", dims=_F, **_SUM),
            Measure("logit_similarity", lambda b: b.logit_similarity,
                    "cosine of the row-centred logits with cos(w_k(a+b-c)) (Chughtai et al., 2023)", dims=_F, **_SUM),
            Measure("logit_similarity_raw", lambda b: logits.logit_similarity_raw(b.logits, b.operation),
                    "cosine of the logits with cos(w_k(a+b-c)) (Nanda et al., 2023)", dims=_F, **_SUM),
            Measure("key_frequency_logit", lambda b: keys.key_frequency_logit(b.logit_similarity),
                    "whether the logit similarity at a frequency is above 0.005 (Chughtai et al., 2023)",
                    dims=_F, **_SUM),
            # --- which algorithm
            Measure("gradient_symmetricity",
                    lambda b: algorithms.gradient_symmetricity(*ablations.symmetricity_gradients(b)),
                    "mean cosine of a logit's gradients by the two embeddings (Zhong et al., 2023), 1 for a pizza",
                    inputs="weights", requires=("operand pairs", "embedded operands", "answers are operands")),
            Measure("distance_irrelevance",
                    lambda b: algorithms.distance_irrelevance(b.logits, b.context.sums, b.operation),
                    "independence of the correct logit from a - b (Zhong et al., 2023), 0 for a pizza", **_SUM),
            Measure("distance_irrelevance_wrong",
                    lambda b: algorithms.distance_irrelevance_wrong(b.logits, b.context.sums, b.operation),
                    "independence of the largest wrong logit from a - b (the code of Zhong et al., 2023)", **_SUM),
            Measure("clock_variance_explained",
                    lambda b: b.logit_variance_explained,  # which `algorithms.clock_variance_explained` is
                    "share of the logits' variance in cos(w_k(a+b-c)) of the key frequencies, 0 to 1 (Zhong et al., "
                    "2023)", **_KEYS),
            Measure("pizza_variance_explained",
                    lambda b: algorithms.pizza_variance_explained(b.logits, b.keys, b.operation),
                    "share in |cos(w_k(a-b)/2)| cos(w_k(a+b-c)) and the accompanying circles', 0 to 1 (Zhong et al., "
                    "2023)", **_KEYS),
            # --- numerical health
            Measure("softmax_collapse",
                    lambda b: numerics.softmax_collapse(b.outputs, b.context.labels, b.context.train),
                    "share of training inputs whose float32 softmax is exactly one-hot (Prieto et al., 2025)",
                    **_CLASSES),
            Measure("zero_loss_share",
                    lambda b: numerics.zero_loss_share(b.outputs, b.context.labels, b.context.train),
                    "share of training inputs whose float32 loss is exactly 0 (Prieto et al., 2025)", **_CLASSES),
            Measure("precision_gap", lambda b: numerics.precision_gap(b.outputs, b.context.labels, b.context.train),
                    "difference of the float32 and the float64 training loss [nats]", **_CLASSES),
            # --- groups: irreducible representations
            Measure("logit_similarity_by_irrep", lambda b: b.irrep_similarity,
                    "cosine of the row-centred logits with the character chi(a b c^-1) (Chughtai et al., 2023)",
                    dims=_I, **_GROUP),
            Measure("embedding_share_by_irrep", lambda b: irreps.embedding_share(b.operand_embeddings, b.group),
                    "share of the squared norm of the operands' embeddings in each irrep, for an MLP times the first "
                    "layer's weights (Chughtai et al., 2023), 0 to 1",
                    dims=_I, requires=("finite group", "embedding"), revision=1),
            Measure("unembedding_share_by_irrep", lambda b: irreps.unembedding_share(b.W_L, b.group),
                    "share of the squared norm of W_L in each irrep (Chughtai et al., 2023), 0 to 1",
                    dims=_I, **_NEURON_GROUP),
            Measure("hidden_share_by_irrep", lambda b: irreps.hidden_share(b.neurons, b.group).total,
                    "share of the neurons' variance in a, b and a b of each irrep (Chughtai et al., 2023), 0 to 1",
                    dims=_I, **_NEURON_GROUP),
            Measure("key_irrep", lambda b: irreps.key_irreps(b.irrep_similarity),
                    "whether the logit similarity with an irrep's character is above 0.005 (Chughtai et al., 2023)",
                    dims=_I, **_GROUP),
            Measure("irrep_variance_explained",
                    lambda b: irreps.logit_variance_explained(b.logits, b.group, b.key_irreps),
                    "share of the logits' variance in the characters of the key irreps of the last step, 0 to 1",
                    opt_in=True, relative_to="last", **_GROUP),
            Measure("restricted_loss_irreps", lambda b: b.restricted_loss_irreps.together,
                    "loss of the neurons' key irreps, no mean, no bias, all inputs (Chughtai et al., 2023) [nats]",
                    opt_in=True, relative_to="last", **_NEURON_GROUP),
            Measure("restricted_loss_irreps_by_irrep", lambda b: b.restricted_loss_irreps.by_irrep,
                    "loss of each irrep of the neurons alone, all inputs (Chughtai et al., 2023) [nats]",
                    dims=_I, opt_in=True, relative_to="last", **_NEURON_GROUP),
            Measure("excluded_loss_irreps", lambda b: b.excluded_loss_irreps.together,
                    "loss without the key irreps of the neurons, training inputs (Chughtai et al., 2023) [nats]",
                    opt_in=True, relative_to="last", **_NEURON_GROUP),
            Measure("excluded_loss_irreps_by_irrep", lambda b: b.excluded_loss_irreps.by_irrep,
                    "loss without each irrep of the neurons alone, training inputs (Chughtai et al., 2023) [nats]",
                    dims=_I, opt_in=True, relative_to="last", **_NEURON_GROUP),
            # --- with a part of the network taken away; each runs the network again
            Measure("head_ablation_loss", ablations.head_ablation_loss,
                    "loss over all inputs without what one head writes [nats]",
                    dims=("step", "head"), requires=("attention", "logits of classes"), **_OPT_IN),
            Measure("frequency_ablation_loss", ablations.frequency_ablation_loss,
                    "loss over all inputs without one frequency of the embedding [nats]",
                    dims=_F, requires=("operands are residues", "operand table", "logits of classes"), revision=1,
                    **_OPT_IN),
            Measure("neuron_cluster_ablation_loss", ablations.neuron_cluster_ablation_loss,
                    "loss over all inputs with the neurons of one frequency at their means [nats]",
                    dims=_F, requires=("operand pairs", "neurons", "answers are residues"), opt_in=True),
            Measure("neuron_cluster_ablation_loss_random",
                    lambda b: ablations.neuron_cluster_ablation_loss(b, random=True),
                    "loss over all inputs with as many other neurons as a frequency has, at random, at their means "
                    "[nats]",
                    dims=_F, requires=("operand pairs", "neurons", "answers are residues"), opt_in=True),
            Measure("head_resample_accuracy", ablations.head_resample_accuracy,
                    "accuracy over 1,000 inputs with the output of one head taken from other inputs, 0 to 1",
                    requires=("attention", "logits of classes"), dims=_H, **_OPT_IN),
            Measure("head_patching_effect", lambda b: b.head_patching.effect,
                    "shift of the logits to the answer of another input, of which one head is taken, over 1,000 inputs "
                    "(Wang et al., 2022): 0 none, 1 whole", **_PATCHED),
            Measure("head_patching_effect_random", lambda b: b.head_patching.random_source_effect,
                    "control of head_patching_effect: the head is taken from a third input", **_PATCHED),
            Measure("head_mlp_path_effect", lambda b: b.head_mlp_path.effect,
                    "shift of the logits to the answer of another input, of which the MLP alone sees one head, over "
                    "1,000 inputs (Wang et al., 2022)", **_PATCHED),
            Measure("head_mlp_path_effect_random", lambda b: b.head_mlp_path.random_source_effect,
                    "control of head_mlp_path_effect: the head is taken from a third input", **_PATCHED),
            Measure("circle_isolation_accuracy", ablations.circle_isolation_accuracy,
                    "accuracy over all inputs with components (1, 2), (3, 4), ... of the embedding alone "
                    "(Zhong et al., 2023)",
                    dims=("step", "circle"), requires=("operand table", "logits of classes"), revision=1, **_OPT_IN),
            Measure("attention_pattern", lambda b: ablations.first_attention(b).movedim(-1, 1),
                    "attention from '=' to the first number, of each pair, 0 to 1",
                    dims=("step", "head", "pair"), requires=("attention",), **_OPT_IN),
            Measure("attention_periodicity", lambda b: ablations.attention_periodicity(b).first,
                    "share of the attention to the first number that is a wave in it (Nanda et al., 2023), 0 to 1",
                    dims=("step", "head", "frequency"), requires=("attention", "operands are residues"), **_OPT_IN),
            Measure("interchange_accuracy",
                    lambda b: interchange.interchange_accuracy(
                        b, patching.Site(b.context.network.embedded, b.context.operand_positions[0]), "first"),
                    "held-out accuracy of exchanges of the first operand in 8 learned dimensions of its embedding "
                    "(Geiger et al., 2023), 0 to 1",
                    requires=("operand pairs", "embedded operands", "logits of classes"), **_OPT_IN),
            Measure("interchange_accuracy_answer",
                    lambda b: interchange.interchange_accuracy(
                        b, patching.Site(b.context.network.hidden_activations), "answer"),
                    "held-out accuracy of exchanges of the answer in 8 learned dimensions of the last hidden layer "
                    "(Geiger et al., 2023), 0 to 1",
                    requires=("operand pairs", "hidden activations", "logits of classes"), **_OPT_IN),
            Measure("local_learning_coefficient", lambda b: b.llc[0],
                    "local learning coefficient on the training inputs (Lau et al., 2023); needs the extra `llc`",
                    relative_to="last", requires=("logits of classes",), **_OPT_IN),
            Measure("local_learning_coefficient_error", lambda b: b.llc[1],
                    "standard error of the local learning coefficient over chains",
                    relative_to="last", requires=("logits of classes",), **_OPT_IN),
            # --- the account of each step, with the keys of the last one
            Measure("certified_accuracy", lambda b: b.certified[0],
                    "lower bound on the accuracy over all pairs, proved from the account, 0 to 1", **_ACCOUNT),
            Measure("certified_loss", lambda b: b.certified[1],
                    "upper bound on the loss over all pairs, proved from the account [nats]", **_ACCOUNT),
            Measure("certified_margin", lambda b: b.certified[2],
                    "lower bound on the answer's logit less the largest other one, of each pair, proved from the "
                    "account; NaN where a pair has no answer", dims=("step", "pair"), **_ACCOUNT),
            Measure("ideal_logits_explained", lambda b: b.account_scores[0],
                    "share of the logits' variance that the account's idealised network explains, at most 1",
                    **_ACCOUNT),
            Measure("resampled_accuracy", lambda b: b.account_scores[1],
                    "accuracy over all pairs with everything outside the account taken from other inputs (causal "
                    "scrubbing, Chan et al., 2022), 0 to 1", **_ACCOUNT),
            # --- progress measures with the key frequencies of the last step
            Measure("restricted_loss_logit", lambda b: b.restricted_loss_logit,
                    "loss of the key frequencies of the logits, all pairs (Nanda et al., 2023) [nats]", **_KEYS),
            Measure("restricted_loss_neuron",
                    lambda b: progress.restricted_loss_neuron(
                        b.neurons, b.W_L, b.logits, b.context.sums, b.context.sums_tested, b.keys,
                        operation=b.operation, table=b.neuron_table),
                    "loss of the key frequencies of the neurons, held-out pairs (TransformerLens demo) [nats]",
                    **_NEURON_KEYS),
            Measure("restricted_loss_hidden",
                    lambda b: progress.restricted_loss_hidden(
                        b.neurons, b.W_L, b.context.sums, b.keys, operation=b.operation, table=b.neuron_table),
                    "loss of the key frequencies of the neurons, no mean, no correction, all pairs (Chughtai et al., "
                    "2023) [nats]", **_NEURON_KEYS),
            Measure("trig_loss_ratio",
                    lambda b: progress.trig_loss_ratio(
                        cross_entropy(b.logits, b.context.sums, b.context.sums_tested), b.restricted_loss_logit),
                    "test loss over restricted loss: rises while the circuit forms (Nanda et al., 2023)", **_KEYS),
            *_excluded("2d", "loss without the key directions of the logits, training pairs (Nanda et al., 2023)"),
            *_excluded("3d", "loss without cos(w_k(a+b-c)) in the logits, training pairs (Nanda et al., 2023)"),
            *_excluded("neuron", "loss without the neurons' key directions, training pairs (TransformerLens demo)"),
            *_excluded("hidden", "loss without the neurons' key directions and without the path around the neurons "
                       "(Chughtai et al., 2023)"),
            Measure("sum_explained_variance", lambda b: logits.sum_explained_variance(b.logits, b.operation),
                    "share of the logits' variance over the pairs that depends on a + b only, 0 to 1", **_SUM),
            Measure("logit_variance_explained", lambda b: b.logit_variance_explained,
                    "share of the logits' variance in cos(w_k(a+b-c)) of the key frequencies, 0 to 1", **_KEYS),
        )
    }
)  # fmt: skip
"""Every measure by name."""
