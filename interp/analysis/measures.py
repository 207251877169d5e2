"""Measures over whole trajectories: the only part of `analysis` that reads runs.

`measure` streams the functions of the other modules over the stored steps, a few checkpoints at a time so that memory
stays bounded, and returns labelled results. What was computed once lies beside the run (`cache`), known by the content
of the checkpoints, so that a run that has grown costs only its new steps.

Restricted and excluded losses need a set of key frequencies. It is found, not typed: the frequencies that at least two
of the three criteria of `keys` name at the last stored step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from interp.analysis import geometry, keys, logits, norms, progress, spectra
from interp.analysis.cache import MeasureCache
from interp.analysis.loss import accuracy, cross_entropy
from interp.analysis.view import Source, View
from interp.environment import keep_large_buffers
from interp.errors import NotAvailableError, UnknownNameError, did_you_mean
from interp.trajectory import Trajectory

if TYPE_CHECKING:
    import xarray

__all__ = ["MEASURES", "Measure", "key_frequencies", "measure"]


@dataclass(frozen=True)
class Measure:
    """A measure as `measure` knows it; the definition is in the function that it names."""

    name: str
    dims: tuple[str, ...]
    compute: Callable[[View], Tensor]
    meaning: str
    """One line for reports: what it is, whose definition, the unit."""
    reads: Literal["embedding", "weights", "answer"] = "answer"
    needs_sum: bool = False
    """Whether it is defined only for addition and subtraction, whose answer is a sum on the circle."""
    needs_keys: bool = False
    relative_to_last: bool = False
    """Whether every value depends on the last stored step, so that none is kept."""


def measure(
    traj: Trajectory,
    names: Sequence[str] | None = None,
    *,
    cache: bool = True,
    progress: bool = False,
) -> "xarray.Dataset":
    """Measures at every stored step, as variables with named dimensions, `step` first.

    Arguments:
        traj: a run, complete or still growing.
        names: which measures (see `MEASURES`); None takes all that the run's model and task admit.
        cache: read and write `<run>/measures/`.
        progress: show a progress bar.

    Returns:
        A dataset with the coordinates `step`, and where needed `frequency` (1 .. floor(p/2)), `component` (1 ..),
        `token`, `neuron`, `parameter`; `attrs["key_frequencies"]` lists the key frequencies found at the last step.

    Raises:
        UnknownNameError: there is no such measure; the message suggests one.
        NotAvailableError: a measure that was asked for by name is not defined for this run, or it has no checkpoint.
    """
    import xarray

    if not len(traj.steps):
        raise NotAvailableError(f"{traj.folder.name} has no checkpoint yet, so there is nothing to measure.")
    keep_large_buffers()
    source = Source(traj)
    chosen = _choose(source, names)
    values = dict(_computed(source, chosen, MeasureCache(traj.folder, enabled=cache), progress))
    coords: dict[str, Any] = {"step": traj.steps}
    labels = {
        "frequency": lambda n: np.arange(1, n + 1),
        "component": lambda n: np.arange(1, n + 1),
        "token": lambda n: np.arange(n),
        "neuron": lambda n: np.arange(n),
        "parameter": lambda n: np.array(traj.names),
    }
    for item in chosen:
        for dim, size in zip(item.dims[1:], values[item.name].shape[1:]):
            coords.setdefault(dim, labels[dim](size))
    variables = {item.name: (item.dims, values[item.name], {"long_name": item.meaning}) for item in chosen}
    attrs = {"run": traj.folder.name, "p": traj.task.p}
    if any(item.needs_keys for item in chosen):
        attrs["key_frequencies"] = source.key_list
    return xarray.Dataset(variables, coords=coords, attrs=attrs)


def key_frequencies(traj: Trajectory) -> list[int]:
    """The frequencies that at least two of the three criteria (neuron, logit, embedding) name at the last stored step.

    Raises:
        NotAvailableError: the task is not addition or subtraction.
    """
    _require_sum(traj, "key_frequencies")
    return Source(traj).key_list


def _computed(
    source: Source, chosen: Sequence[Measure], cache: MeasureCache, show: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Each measure with its values at all steps: what the cache holds, and the rest computed chunk by chunk."""
    fingerprints = source.traj.fingerprints()
    settings = {item.name: f"keys={source.key_list}" if item.needs_keys else "" for item in chosen}
    known: dict[str, np.ndarray] = {}
    work: dict[tuple[str, int], list[Measure]] = {}
    for item in chosen:
        kept = not item.relative_to_last
        known[item.name] = cache.read(item.name, settings[item.name], fingerprints) if kept else np.empty(0)
        work.setdefault((item.reads, len(known[item.name])), []).append(item)
    n = len(source.traj.steps)
    total = sum(n - start for _, start in work)
    with tqdm(total=total, desc="measuring", unit="checkpoint", disable=not show or total == 0, leave=False) as bar:
        for (reads, start), items in work.items():
            parts: dict[str, list[np.ndarray]] = {item.name: [] for item in items}
            for view in source.views(start, reads):
                for item in items:
                    parts[item.name].append(item.compute(view).cpu().numpy())
                bar.update(len(parts[items[0].name][-1]))
            for item in items:
                values, new = known[item.name], parts[item.name]
                if new:
                    values = np.concatenate([values, *new] if len(values) else new)
                    if not item.relative_to_last:
                        cache.write(item.name, settings[item.name], fingerprints, values)
                yield item.name, values


def _choose(source: Source, names: Sequence[str] | None) -> list[Measure]:
    if isinstance(names, str):
        names = [names]
    unknown = [name for name in names or () if name not in MEASURES]
    if unknown:
        raise UnknownNameError(f"There is no measure `{unknown[0]}`. {did_you_mean(unknown[0], MEASURES)}")
    if names is not None:
        for name in names:
            if MEASURES[name].needs_sum:
                _require_sum(source.traj, name)
        return [MEASURES[name] for name in dict.fromkeys(names)]
    has_sum = source.operation is not None
    has_keys = has_sum and bool(source.key_list)
    return [m for m in MEASURES.values() if (has_sum or not m.needs_sum) and (has_keys or not m.needs_keys)]


def _require_sum(traj: Trajectory, name: str) -> None:
    operation = traj.config.task.operation
    if operation not in ("add", "subtract"):
        raise NotAvailableError(
            f"`{name}` is defined for addition and subtraction, whose answer is a + b or a - b on the circle Z_p; "
            f"this run learns {operation}."
        )


_ANSWER: Any = {"reads": "answer"}
_SUM: Any = {"reads": "answer", "needs_sum": True}
_KEYS: Any = {"reads": "answer", "needs_sum": True, "needs_keys": True}
_FINAL: Any = {"reads": "embedding", "relative_to_last": True}
_F = ("step", "frequency")


def _excluded(kind: str, what: str) -> tuple[Measure, Measure]:
    """An excluded loss without all key frequencies, and without each frequency alone."""
    name = f"excluded_loss_{kind}"

    def together(view: View) -> Tensor:
        return view.excluded[kind].together

    def by_frequency(view: View) -> Tensor:
        return view.excluded[kind].by_frequency

    return (
        Measure(name, ("step",), together, f"{what} [nats]", **_KEYS),
        Measure(f"{name}_by_frequency", _F, by_frequency, f"{what}, each frequency alone [nats]", **_KEYS),
    )


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        item.name: item
        for item in (
            # --- losses, from the weights, over all classes
            Measure("train_loss", ("step",), lambda v: cross_entropy(v.logits_of_all_classes, v.labels, v.train),
                    "cross-entropy on the training pairs [nats]", **_ANSWER),
            Measure("test_loss", ("step",), lambda v: cross_entropy(v.logits_of_all_classes, v.labels, v.test),
                    "cross-entropy on the held-out pairs [nats]", **_ANSWER),
            Measure("all_loss", ("step",), lambda v: cross_entropy(v.logits_of_all_classes, v.labels, v.train | v.test),
                    "cross-entropy on all pairs [nats]", **_ANSWER),
            Measure("train_accuracy", ("step",), lambda v: accuracy(v.logits_of_all_classes, v.labels, v.train),
                    "share of training pairs answered rightly", **_ANSWER),
            Measure("test_accuracy", ("step",), lambda v: accuracy(v.logits_of_all_classes, v.labels, v.test),
                    "share of held-out pairs answered rightly", **_ANSWER),
            # --- norms
            Measure("weight_norm", ("step",), lambda v: norms.weight_norm(v.weights, leading=1),
                    "L2 norm of all parameters", "weights"),
            Measure("sum_of_squares", ("step",), lambda v: norms.weight_norm(v.weights, leading=1).square(),
                    "sum of squared parameters (Nanda et al., 2023)", "weights"),
            Measure("sum_of_squares_by_parameter", ("step", "parameter"),
                    lambda v: norms.sum_of_squares_by_parameter(v.weights, leading=1).value,
                    "sum of squares of each parameter", "weights"),
            # --- the embedding
            Measure("embedding_power", _F, lambda v: spectra.embedding_power(v.W_E),
                    "squared norm of the embedding at each frequency (Nanda et al., 2023)", "embedding"),
            Measure("gini_embedding", ("step",), lambda v: spectra.gini_embedding(v.W_E),
                    "Gini coefficient of the embedding's Fourier norms (Nanda et al., 2023), 0 to 1", "embedding"),
            Measure("key_frequency_embedding", _F,
                    lambda v: keys.key_frequency_embedding(spectra.embedding_power(v.W_E)),
                    "embedding norm above twice the median", "embedding"),
            Measure("circularity_by_component", ("step", "component"),
                    lambda v: geometry.circularity(v.pca.coordinates).value,
                    "circularity of each principal component (Zhong et al., 2023), 0 to 1", "embedding"),
            Measure("circularity", ("step",), lambda v: geometry.mean_circularity(v.pca.coordinates),
                    "mean circularity of components 1 to 4 (Zhong et al., 2023), 0 to 1", "embedding"),
            # --- the circle in the axes of the last step
            Measure("embedding_coordinates", ("step", "token", "component"), lambda v: v.final_pca.coordinates,
                    "tokens on the principal axes of the last step (Kitouni)", **_FINAL),
            Measure("embedding_variance_ratio", ("step", "component"), lambda v: v.final_pca.explained_variance_ratio,
                    "share of the step's variance along the principal axes of the last step", **_FINAL),
            Measure("circle_resultant", ("step",), lambda v: v.circle.resultant,
                    "how well the tokens' angles in that plane are ordered at the best frequency, 0 to 1", **_FINAL),
            Measure("circle_frequency", ("step",), lambda v: v.circle.frequency,
                    "the frequency of that order", **_FINAL),
            Measure("circle_stride", ("step",), lambda v: v.circle.stride,
                    "difference of neighbouring tokens on the circle", **_FINAL),
            Measure("circle_multiplicity", ("step",), lambda v: v.circle.multiplicity,
                    "number of tokens that share a place on the circle", **_FINAL),
            Measure("circle_order_correlation", ("step",), lambda v: v.circle.order_correlation,
                    "rank correlation of the tokens' places with the ideal order", **_FINAL),
            Measure("circle_winding", ("step",), lambda v: v.circle.winding,
                    "turns of the polygon through the tokens in order; 1 is a circle", **_FINAL),
            # --- neurons and logits
            Measure("neuron_frequency", ("step", "neuron"),
                    lambda v: spectra.neuron_frequency(v.neuron_power).frequency,
                    "frequency with the largest share of a neuron's variance", **_ANSWER),
            Measure("neuron_frequency_share", ("step", "neuron"),
                    lambda v: spectra.neuron_frequency(v.neuron_power).share,
                    "that share, 0 to 1 (Nanda et al., 2023)", **_ANSWER),
            Measure("neuron_cluster_size", _F, lambda v: spectra.neuron_cluster_size(v.neuron_power),
                    "neurons with more than 85 % of their variance at a frequency (Nanda et al., 2023)", **_ANSWER),
            Measure("neuron_logit_power", _F, lambda v: spectra.embedding_power(v.W_L.mT),
                    "squared norm of W_L = W_out W_U at each frequency (Nanda et al., 2023)", **_ANSWER),
            Measure("gini_neuron_logit", ("step",), lambda v: spectra.gini_neuron_logit(v.W_L),
                    "Gini coefficient of the Fourier norms of W_L (Nanda et al., 2023), 0 to 1", **_ANSWER),
            Measure("key_frequency_neuron", _F, lambda v: keys.key_frequency_neuron(v.neuron_power),
                    "some neuron has more than 85 % of its variance there", **_ANSWER),
            Measure("logit_coefficient", _F, lambda v: logits.logit_coefficient(v.logits, v.operation),
                    "coefficient of the logits on cos(w_k(a+b-c)) of unit norm (Nanda et al., 2023)", **_SUM),
            Measure("logit_similarity", _F, lambda v: logits.logit_similarity(v.logits, v.operation),
                    "cosine of the row-centred logits with cos(w_k(a+b-c)) (Chughtai et al., 2023)", **_SUM),
            Measure("logit_similarity_raw", _F, lambda v: logits.logit_similarity_raw(v.logits, v.operation),
                    "cosine of the logits with cos(w_k(a+b-c)) (Nanda et al., 2023)", **_SUM),
            Measure("key_frequency_logit", _F,
                    lambda v: keys.key_frequency_logit(logits.logit_similarity(v.logits, v.operation)),
                    "logit similarity above 0.005 (Chughtai et al., 2023)", **_SUM),
            # --- progress measures with the key frequencies of the last step
            Measure("restricted_loss_logit", ("step",), lambda v: progress.restricted_loss_logit(
                        v.logits, v.labels, v.keys, operation=v.operation),
                    "loss of the key frequencies of the logits, all pairs (Nanda et al., 2023) [nats]", **_KEYS),
            Measure("restricted_loss_neuron", ("step",), lambda v: progress.restricted_loss_neuron(
                        v.neurons, v.W_L, v.logits, v.labels, v.test, v.keys, operation=v.operation),
                    "loss of the key frequencies of the neurons, held-out pairs (TransformerLens demo) [nats]",
                    **_KEYS),
            *_excluded("2d", "loss without the key directions of the logits, training pairs (Nanda et al., 2023)"),
            *_excluded("3d", "loss without cos(w_k(a+b-c)) in the logits, training pairs (Nanda et al., 2023)"),
            *_excluded("neuron", "loss without the neurons' key directions, training pairs (TransformerLens demo)"),
            Measure("logit_variance_explained", ("step",),
                    lambda v: logits.logit_variance_explained(v.logits, v.keys, v.operation),
                    "share of the logits' variance in cos(w_k(a+b-c)) of the key frequencies, 0 to 1", **_KEYS),
        )
    }
)  # fmt: skip
"""Every measure by name."""
