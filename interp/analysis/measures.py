"""Measures over whole trajectories: the only part of `analysis` that reads runs.

`measure` streams the functions of the other modules over the stored steps, a few checkpoints at a time so that memory
stays bounded, and returns labelled results. Values computed once lie beside the run (`cache`), known by the content
of the checkpoints, so that a run that has grown costs only its new steps. `catalogue` is the table of all measures.

Restricted and excluded losses need a set of key frequencies. It is found, not typed: the frequencies that at least two
of the three criteria of `keys` name at the last stored step. Or it is given, as the argument `keys` of `measure`.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from interp.analysis import keys, spectra
from interp.analysis.batch import CheckpointBatch
from interp.analysis.cache import MeasureCache
from interp.analysis.catalogue import MEASURES
from interp.analysis.context import RunContext
from interp.analysis.definitions import Measure, failure_of, measure_of_model
from interp.analysis.keys import GivenKeys
from interp.errors import InterpError, InvalidArgumentError, NotAvailableError, UnknownNameError, did_you_mean
from interp.models import Network
from interp.store.measured import owner_of
from interp.training.environment import keep_large_buffers, release_buffers
from interp.trajectory import Trajectory, as_trajectory

if TYPE_CHECKING:
    import xarray

__all__ = ["key_frequencies", "key_frequency_votes", "measure"]

RELEASE_AFTER = 16
"""Number of chunks after which freed memory goes back to the kernel."""

Own = Measure | Callable[[Network], Any]
"""A user's own measure, or a function of the model at a step that returns a number or an array."""


def measure(
    traj: Trajectory | str | Path,
    names: Sequence[str | Own] | str | Own | None = None,
    *,
    steps: Sequence[int] | slice | None = None,
    keys: GivenKeys | None = None,
    cache: bool = True,
    progress: bool = False,
) -> "xarray.Dataset":
    """Measures at the stored steps, as variables with named dimensions, `step` first.

    Arguments:
        traj: a run, complete or still growing, or its folder.
        names: which measures (see `interp measure --list`); None takes all that the run's model and task admit, but for
            those that cost more than all others together and come by name only. A `Measure` of the user's own stands
            beside the names, and so does a function of the model (see `Trajectory.model`) that returns a number or an
            array; it is called by its own name, its further axes `<name>_0` and so on. Their values are stored beside
            the run only where a `Measure.revision` is given.
        steps: at which stored steps: some of them, or a slice of step numbers with both ends included, as in
            xarray (`slice(900, 1400)`); None takes all.
        keys: key frequencies 1 .. floor(p/2), or names of irreps of a group's task, for all measures that keep or
            remove keys (restricted and excluded losses, shares, accounts); None finds them. The criteria themselves,
            such as `key_frequency_logit`, stay what they are.
        cache: read and write `<run>/measures/`.
        progress: show a progress bar.

    Returns:
        A dataset with the coordinates `step`, and where needed `frequency` (1 .. floor(p/2)), `component` (1 ..),
        `token`, `neuron`, `head`, `parameter`; `attrs["key_frequencies"]` lists the key frequencies found at the last
        stored step (where all measures are asked for, also if there are none), or those that were given, and then
        `attrs["keys"]` is "given" (irreps are in `attrs["key_irreps"]`); `attrs["basis"]` says what the frequencies
        are. For products mod a prime p the numbers stand in the order of their discrete logarithms, without 0 (see
        `multiplicative`), and `token` names them.

    Raises:
        UnknownNameError: there is no such measure, or no such step; the message suggests one.
        NotAvailableError: a measure that was asked for by name is not defined for this run, or it has no checkpoint;
            or `keys` are given and its task has neither frequencies nor irreps.
        InvalidArgumentError: a user's measure has the name of another one, or its results do not fit its axes; or
            `keys` holds what is no frequency or irrep of the task.
        MeasureError: a user's measure raised an exception.

    Warns:
        UserWarning: a user's measure has values that are NaN or infinite.

    Example:
        >>> import interp, tempfile
        >>> small = interp.RunConfig().replace({"task.p": 5, "model.d_model": 8, "model.d_mlp": 8, "steps": 3})
        >>> def largest_readout(model):
        ...     return model.unembed.W_U.abs().max()
        >>> traj = interp.train(small, root=tempfile.mkdtemp())
        >>> data = measure(traj, ["weight_norm", largest_readout])
        >>> {name: variable.dims for name, variable in data.data_vars.items()}
        {'weight_norm': ('step',), 'largest_readout': ('step',)}
        >>> measure(traj, "restricted_loss_logit", keys=[2]).attrs["key_frequencies"]
        [2]
    """
    import xarray

    traj = as_trajectory(traj)
    if not len(traj.steps):
        raise NotAvailableError(f"{traj.folder.name} has no checkpoint yet, so there is nothing to measure.")
    keep_large_buffers(8 * 2**20)
    context = RunContext(traj, keys)
    chosen = _choose(context, names)
    positions = _positions(traj, steps)
    values = dict(
        _computed(context, chosen, positions, MeasureCache(traj.folder, owner_of(traj.run), enabled=cache), progress)
    )
    coords: dict[str, np.ndarray] = {"step": traj.steps[positions]}
    variables = {}
    for item in chosen:
        found = values[item.name]
        unnamed = [f"{item.name}_{axis}" for axis in range(found.ndim - len(item.named_dims))]
        for dim, size in zip(item.named_dims[1:], found.shape[1:]):
            labels = np.asarray(item.coords[dim]) if dim in item.coords else context.labels_of(dim, size)
            if len(labels) != size or not np.array_equal(coords.setdefault(dim, labels), labels):
                raise InvalidArgumentError(
                    f"`{item.name}` must have the coordinates of its axis `{dim}`, of which there are "
                    f"{len(coords.get(dim, labels))}; got {size} entries. Give the axis another name."
                )
        variables[item.name] = (*item.named_dims, *unnamed), found, {"long_name": item.meaning}
        if item.name not in MEASURES:
            _warn_if_not_finite(item, found, coords["step"])
    cyclic = context.unmet(("answers are residues",)) is None
    attrs: dict[str, Any] = {"run": traj.folder.name, "p": context.p, "cyclic": int(cyclic)}
    if not traj.task.held_out:  # as of some imported runs: then all inputs are both, and no number is a test's
        attrs["held_out"] = 0
    if traj.kind.counts != "steps":  # imported without steps: places in the order of the checkpoints
        attrs["counts"] = traj.kind.counts
    if any("frequency" in item.dims for item in chosen):
        attrs["basis"] = context.basis
    if context.given_keys is not None:
        attrs["keys"] = "given"
        if context.operation is None:
            attrs["key_irreps"] = "; ".join(map(str, context.given_keys))  # which a netCDF file can hold
    all_or_given = names is None or context.given_keys is not None
    sums = context.unmet(("answer is a sum",)) is None
    if sums and (all_or_given or any(item.needs("key frequencies") for item in chosen)):
        attrs["key_frequencies"] = context.key_list
    return xarray.Dataset(variables, coords=coords, attrs=attrs)


def key_frequencies(traj: Trajectory) -> list[int]:
    """Frequencies that at least two of the three criteria (neuron, logit, embedding) name at the last stored step.

    Raises:
        NotAvailableError: the task's answer is no sum, in whatever order of the numbers.
    """
    context = RunContext(traj)
    _require(context, "key_frequencies", ("answer is a sum",))
    return context.key_list


def key_frequency_votes(
    traj: Trajectory,
    step: int | None = None,
    *,
    neuron_share: float = spectra.NEURON_SHARE,
    logit_similarity: float = 0.005,
    embedding_multiple: float = 2.0,
) -> "xarray.Dataset":
    """Verdict of each criterion on each frequency at one stored step (None: the last), and how many agree.

    Arguments:
        neuron_share: a neuron belongs to a frequency that has more than this share of its variance (Nanda et al.).
        logit_similarity: a frequency is used by logits that are more similar than this to its cosine (Chughtai et al.).
        embedding_multiple: the embedding's norm at a frequency against the median over frequencies.

    Returns:
        Over `frequency`: the numbers `neuron_cluster_size`, `logit_similarity`, `embedding_norm_over_median`, the
        verdicts `by_neuron`, `by_logit`, `by_embedding`, and `votes`, 0 to 3; `.to_dataframe()` makes a table of it.

    Raises:
        NotAvailableError: the task's answer is no sum, or the model has no embedding or no neurons.
    """
    import xarray

    context = RunContext(traj)
    _require(context, "key_frequency_votes", ("answer is a sum", "embedding", "neurons"))
    batch = CheckpointBatch(context, np.array([traj.position(step)]))
    norm = spectra.embedding_power(batch.W_E).sqrt()
    verdicts = {
        "by_neuron": keys.key_frequency_neuron(batch.neuron_power, threshold=neuron_share),
        "by_logit": keys.key_frequency_logit(batch.logit_similarity, threshold=logit_similarity),
        "by_embedding": keys.key_frequency_embedding(norm.square(), multiple=embedding_multiple),
    }
    columns = {
        "neuron_cluster_size": spectra.neuron_cluster_size(batch.neuron_power, threshold=neuron_share),
        "logit_similarity": batch.logit_similarity,
        "embedding_norm_over_median": norm / norm.median(-1, keepdim=True).values,
        **verdicts,
        "votes": torch.stack(list(verdicts.values())).sum(0),
    }
    return xarray.Dataset(
        {name: ("frequency", column[0].numpy()) for name, column in columns.items()},
        coords={"frequency": context.labels_of("frequency", norm.shape[-1])},
        attrs={"run": traj.folder.name, "step": int(traj.steps[traj.position(step)]), "basis": context.basis},
    )


def _computed(
    context: RunContext, chosen: Sequence[Measure], positions: np.ndarray, cache: MeasureCache, show: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Each measure with its values at these positions: those in the cache, and the others computed chunk by chunk."""
    fingerprints = context.traj.fingerprints()
    disabled = MeasureCache(context.traj.folder, enabled=False)

    def of(item: Measure) -> MeasureCache:
        return cache if item.name in MEASURES or item.revision else disabled

    held: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    work: dict[tuple[str, tuple[int, ...]], list[Measure]] = {}
    for item in chosen:
        held[item.name] = of(item).read(*_rows(item, context, fingerprints))
        missing = np.setdiff1d(positions, held[item.name][0])
        work.setdefault((item.inputs, tuple(missing.tolist())), []).append(item)
    total = sum(len(at) for _, at in work)
    with tqdm(total=total, desc="measuring", unit="checkpoint", disable=not show or total == 0, leave=False) as bar:
        for (inputs, at), items in work.items():
            parts: dict[str, list[np.ndarray]] = {item.name: [] for item in items}
            for found in _streamed(context, items, np.array(at, dtype=int), inputs):
                for item, values in zip(items, found):
                    parts[item.name].append(values)
                if len(parts[items[0].name]) % RELEASE_AFTER == 0:
                    release_buffers()  # or freed memory between buffers of all sizes adds up over a long run
                bar.update(len(found[0]))
            for item in items:
                known, values = held[item.name]
                if at:
                    new = _joined(item, parts[item.name], values)
                    known = np.concatenate([known, np.array(at)])
                    values = np.concatenate([values, new]) if len(values) else new
                    order = known.argsort()
                    known, values = known[order], values[order]
                    name, setting, every = _rows(item, context, fingerprints)
                    of(item).write(name, setting, [every[i] for i in known], values)
                yield item.name, values[np.searchsorted(known, positions)]


def _joined(item: Measure, parts: Sequence[np.ndarray], held: np.ndarray) -> np.ndarray:
    """Values of all chunks, which must agree in shape with each other and with those held in the cache."""
    shapes = {part.shape[1:] for part in [*parts, *([held] if len(held) else [])]}
    if len(shapes) > 1:
        first, second, *_ = sorted(shapes)
        raise InvalidArgumentError(f"`{item.name}` must return the same shape at every step; got {first} and {second}.")
    return np.concatenate(parts)


def _streamed(
    context: RunContext, items: Sequence[Measure], positions: np.ndarray, inputs: str
) -> Iterator[list[np.ndarray]]:
    """Values of all items for one chunk of checkpoints after the other.

    Chunks are independent, and most of the work is too small to be split: each thread that torch would use for one
    product works through a chunk of its own.
    """
    threads = torch.get_num_threads()
    chunks = list(context.chunks(positions, inputs, threads))
    contexts: SimpleQueue[RunContext] = SimpleQueue()  # a network holds one checkpoint at a time
    for _ in range(min(threads, len(chunks))):
        contexts.put(context.copy_for_thread())

    def compute(chunk: np.ndarray) -> list[np.ndarray]:
        torch.set_num_threads(1)
        own = contexts.get()
        try:
            return _values(own, items, chunk)
        finally:
            contexts.put(own)

    if threads == 1 or len(chunks) < 2:
        yield from (_values(context, items, chunk) for chunk in chunks)
        return
    try:
        with ThreadPoolExecutor(threads) as pool:
            try:
                yield from pool.map(compute, chunks)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)


def _values(context: RunContext, items: Sequence[Measure], chunk: np.ndarray) -> list[np.ndarray]:
    """Values of all items at a chunk of checkpoints, which share intermediate arrays.

    Users' measures have a network and arrays of their own: one that changes them in place changes no built-in value.
    """
    shared = CheckpointBatch(context, chunk)
    if all(item.name in MEASURES for item in items):
        return [item.values(shared) for item in items]
    apart = context.copy_for_thread()
    users = CheckpointBatch(apart, chunk)
    return [
        item.values(shared)
        if item.name in MEASURES
        else _stored_values(item, apart, chunk)
        if item.revision
        else _values_of(item, users)
        for item in items
    ]


def _values_of(item: Measure, batch: CheckpointBatch) -> np.ndarray:
    """Values of a user's measure; an exception inside becomes an error that names it."""
    try:
        return item.values(batch)
    except InterpError:
        raise
    except Exception as error:
        raise failure_of(item, error) from error


def _stored_values(item: Measure, context: RunContext, chunk: np.ndarray) -> np.ndarray:
    """Values of a user's measure that are to be stored: it must declare on which other checkpoints they depend."""
    batch = CheckpointBatch(context, chunk)
    values = _values_of(item, batch)
    for fact, declared, way in (
        ("key frequencies", item.needs("key frequencies"), 'requires=("key frequencies",)'),
        ("last", item.relative_to == "last", 'relative_to="last"'),
        ("before", item.relative_to == "before", 'relative_to="before"'),
    ):
        if fact in batch.depends_on and not declared:
            raise InvalidArgumentError(
                f"`{item.name}` has a `revision`, so that its values are stored, and they depend on other checkpoints: "
                f"it must declare {way}."
            )
    return values


def _rows(item: Measure, context: RunContext, fingerprints: Sequence[str]) -> tuple[str, str, Sequence[str]]:
    """Key of the rows of a measure in the cache: its name, its setting, and the checkpoints each row depends on."""
    setting = f"keys={context.key_list}" if item.needs("key frequencies") else ""
    if item.relative_to == "last":
        setting = f"last={fingerprints[-1]}"
        if context.given_keys is not None and _may_use_keys(item):
            setting += f"/keys={list(context.given_keys)}"
    if item.revision:
        setting += f"/{item.revision}"
    if item.relative_to == "before":
        steps = context.traj.steps
        pairs = zip(["", *fingerprints], fingerprints, np.diff(steps, prepend=steps[:1]))
        return item.name, setting, [f"{before}/{apart}/{own}" for before, own, apart in pairs]
    return item.name, setting, fingerprints


def _may_use_keys(item: Measure) -> bool:
    """Whether a measure relative to the last step may use its keys; of a user's own that is not known."""
    return item.name not in MEASURES or item.needs("finite group") or item.needs("account")


def _choose(context: RunContext, names: Sequence[str | Own] | str | Own | None) -> list[Measure]:
    """Measures to compute, each of which the run admits."""
    if names is None:
        return [item for item in MEASURES.values() if not item.opt_in and context.unmet(item.requires) is None]
    if isinstance(names, str | Measure) or callable(names):
        names = [names]
    chosen = [_known(name) if isinstance(name, str) else _own(name) for name in dict.fromkeys(names)]
    for item in chosen:
        if sum(item.name == other.name for other in chosen) > 1:
            raise InvalidArgumentError(f"Measures need names of their own; `{item.name}` is that of two functions.")
        if any(item.name in other.dims for other in chosen):
            raise InvalidArgumentError(f"`{item.name}` is the name of an axis; the measure needs another one.")
        requires = item.requires
        if item.name in MEASURES:  # which are defined without key frequencies, too: nothing remains, or is removed
            requires = tuple("answer is a sum" if need == "key frequencies" else need for need in requires)
        _require(context, item.name, requires)
    return chosen


def _known(name: str) -> Measure:
    if name not in MEASURES:
        raise UnknownNameError(f"There is no measure `{name}`. {did_you_mean(name, MEASURES)}")
    return MEASURES[name]


def _own(item: Any) -> Measure:
    """A user's measure, or function of the model, as a measure."""
    if not isinstance(item, Measure):
        if isinstance(item, type):
            raise InvalidArgumentError(
                f"`names` must hold measures, not classes; got the class {item.__name__}. A measure of your own is "
                f'interp.Measure("name", function).'
            )
        if not callable(item):
            raise InvalidArgumentError(
                f"`names` must hold names of measures, or functions; got {item!r}. Or an `interp.Measure`."
            )
        item = measure_of_model(item)
    if item.name in MEASURES:
        raise InvalidArgumentError(
            f"A measure needs a name of its own; `{item.name}` is one of those that there are. Give it another one."
        )
    return item


def _require(context: RunContext, name: str, requires: Sequence[Any]) -> None:
    unmet = context.unmet(requires)
    if unmet is not None:
        raise NotAvailableError(f"`{name}` {unmet.rule}; this run is {context.description}.")


def _warn_if_not_finite(item: Measure, values: np.ndarray, steps: np.ndarray) -> None:
    wrong = np.array([not np.isfinite(row).all() for row in values])
    if wrong.any():
        warnings.warn(
            f"`{item.name}` is NaN or infinite at {int(wrong.sum())} of {len(steps)} checkpoints, first at step "
            f"{int(steps[wrong.argmax()])}.",
            stacklevel=3,
        )


def _positions(traj: Trajectory, steps: Sequence[int] | slice | None) -> np.ndarray:
    """Positions of the wanted steps among the stored steps, increasing."""
    if steps is None:
        return np.arange(len(traj.steps))
    if isinstance(steps, Integral):
        steps = [int(steps)]
    if isinstance(steps, slice):
        low = 0 if steps.start is None else int(np.searchsorted(traj.steps, steps.start, "left"))
        high = len(traj.steps) if steps.stop is None else int(np.searchsorted(traj.steps, steps.stop, "right"))
        positions = np.arange(low, high)[:: steps.step]
    else:
        positions = np.unique([traj.position(int(step)) for step in steps]).astype(int)
    if not len(positions):
        raise UnknownNameError(
            f"`steps` must choose at least one stored step of {traj.folder.name}, "
            f"{traj.steps[0]}..{traj.steps[-1]}; got {steps}."
        )
    return positions
