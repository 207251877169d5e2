"""Measures over whole trajectories: the only part of `analysis` that reads runs.

`measure` streams the functions of the other modules over the stored steps, a few checkpoints at a time so that memory
stays bounded, and returns labelled results. What was computed once lies beside the run (`cache`), known by the content
of the checkpoints, so that a run that has grown costs only its new steps. `catalogue` is the table of all measures.

Restricted and excluded losses need a set of key frequencies. It is found, not typed: the frequencies that at least two
of the three criteria of `keys` name at the last stored step.
"""

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
from interp.analysis.cache import MeasureCache
from interp.analysis.catalogue import MEASURES, REQUIREMENTS, Measure
from interp.analysis.context import CheckpointBatch, RunContext
from interp.errors import InvalidArgumentError, NotAvailableError, UnknownNameError, did_you_mean
from interp.models import Network
from interp.training.environment import keep_large_buffers, release_buffers
from interp.trajectory import Trajectory, as_trajectory

if TYPE_CHECKING:
    import xarray

__all__ = ["key_frequencies", "key_frequency_votes", "measure"]

RELEASE_AFTER = 16
"""Chunks after which freed memory goes back to the kernel."""

Own = Callable[[Network], Any]
"""A function of the model at a step, which returns a number or an array."""


def measure(
    traj: Trajectory | str | Path,
    names: Sequence[str | Own] | str | Own | None = None,
    *,
    steps: Sequence[int] | slice | None = None,
    cache: bool = True,
    progress: bool = False,
) -> "xarray.Dataset":
    """Measures at the stored steps, as variables with named dimensions, `step` first.

    Arguments:
        traj: a run, complete or still growing, or its folder.
        names: which measures (see `interp measure --list`); None takes all that the run's model and task admit, but for
            those that cost more than all others together and come by name only. A function of the model (see
            `Trajectory.model`) that returns a number or an array is a measure, too, called by its own name; its further
            axes are called `<name>_0` and so on, and its values are not cached.
        steps: at which stored steps: some of them, or a slice of step numbers with both ends included, as in
            xarray (`slice(900, 1400)`); None takes all.
        cache: read and write `<run>/measures/`.
        progress: show a progress bar.

    Returns:
        A dataset with the coordinates `step`, and where needed `frequency` (1 .. floor(p/2)), `component` (1 ..),
        `token`, `neuron`, `head`, `parameter`; `attrs["key_frequencies"]` lists the key frequencies found at the last
        stored step (where all measures are asked for, also if there are none), `attrs["basis"]` says what the
        frequencies are. For products mod a prime p the numbers stand in the order of their discrete logarithms, without
        0 (see `multiplicative`), and `token` names them.

    Raises:
        UnknownNameError: there is no such measure, or no such step; the message suggests one.
        NotAvailableError: a measure that was asked for by name is not defined for this run, or it has no checkpoint.
        InvalidArgumentError: a function has no name, or that of another measure, or its results differ in shape.

    Example:
        >>> import interp, tempfile
        >>> small = interp.RunConfig().replace({"task.p": 5, "model.d_model": 8, "model.d_mlp": 8, "steps": 3})
        >>> def largest_readout(model):
        ...     return model.unembed.W_U.abs().max()
        >>> data = measure(interp.train(small, root=tempfile.mkdtemp()), ["weight_norm", largest_readout])
        >>> {name: variable.dims for name, variable in data.data_vars.items()}
        {'weight_norm': ('step',), 'largest_readout': ('step',)}
    """
    import xarray

    traj = as_trajectory(traj)
    if not len(traj.steps):
        raise NotAvailableError(f"{traj.folder.name} has no checkpoint yet, so there is nothing to measure.")
    keep_large_buffers(8 * 2**20)
    source = RunContext(traj)
    chosen = _choose(source, names)
    positions = _positions(traj, steps)
    values = dict(_computed(source, chosen, positions, MeasureCache(traj.folder, enabled=cache), progress))
    coords: dict[str, Any] = {"step": traj.steps[positions]}
    for item in chosen:
        for dim, size in zip(item.dims[1:], values[item.name].shape[1:]):
            coords.setdefault(dim, source.labels_of(dim, size))
    variables = {}
    for item in chosen:
        unnamed = range(values[item.name].ndim - len(item.dims))
        dims = (*item.dims, *(f"{item.name}_{axis}" for axis in unnamed))
        variables[item.name] = dims, values[item.name], {"long_name": item.meaning}
    attrs: dict[str, Any] = {"run": traj.folder.name, "p": source.p, "cyclic": int(source.cyclic)}
    if not traj.task.held_out:  # as of some imported runs: then all pairs are both, and no number is a test's
        attrs["held_out"] = 0
    if any("frequency" in item.dims for item in chosen):
        attrs["basis"] = source.basis
    if any("keys" in item.needs for item in chosen) or (names is None and source.operation is not None):
        attrs["key_frequencies"] = source.key_list
    return xarray.Dataset(variables, coords=coords, attrs=attrs)


def key_frequencies(traj: Trajectory) -> list[int]:
    """The frequencies that at least two of the three criteria (neuron, logit, embedding) name at the last stored step.

    Raises:
        NotAvailableError: the task's answer is no sum, in whatever order of the numbers.
    """
    source = RunContext(traj)
    _require(source, "key_frequencies", "sum")
    return source.key_list


def key_frequency_votes(
    traj: Trajectory,
    step: int | None = None,
    *,
    neuron_share: float = 0.85,
    logit_similarity: float = 0.005,
    embedding_multiple: float = 2.0,
) -> "xarray.Dataset":
    """What each criterion says of each frequency at one stored step (None: the last), and how many agree.

    Arguments:
        neuron_share: a neuron belongs to a frequency that has more than this share of its variance (Nanda et al.).
        logit_similarity: a frequency is used by logits that are more similar than this to its cosine (Chughtai et al.).
        embedding_multiple: the embedding's norm at a frequency against the median over frequencies.

    Returns:
        Over `frequency`: the numbers `neuron_cluster_size`, `logit_similarity`, `embedding_norm_over_median`, the
        verdicts `by_neuron`, `by_logit`, `by_embedding`, and `votes`, 0 to 3; `.to_dataframe()` makes a table of it.

    Raises:
        NotAvailableError: the task's answer is no sum.
    """
    import xarray

    source = RunContext(traj)
    for need in ("sum", "embedding"):
        _require(source, "key_frequency_votes", need)
    view = CheckpointBatch(source, np.array([traj.position(step)]))
    norm = spectra.embedding_power(view.W_E).sqrt()
    verdicts = {
        "by_neuron": keys.key_frequency_neuron(view.neuron_power, threshold=neuron_share),
        "by_logit": keys.key_frequency_logit(view.logit_similarity, threshold=logit_similarity),
        "by_embedding": keys.key_frequency_embedding(norm.square(), multiple=embedding_multiple),
    }
    columns = {
        "neuron_cluster_size": spectra.neuron_cluster_size(view.neuron_power, threshold=neuron_share),
        "logit_similarity": view.logit_similarity,
        "embedding_norm_over_median": norm / norm.median(-1, keepdim=True).values,
        **verdicts,
        "votes": torch.stack(list(verdicts.values())).sum(0),
    }
    return xarray.Dataset(
        {name: ("frequency", column[0].numpy()) for name, column in columns.items()},
        coords={"frequency": source.labels_of("frequency", norm.shape[-1])},
        attrs={"run": traj.folder.name, "step": int(traj.steps[traj.position(step)]), "basis": source.basis},
    )


def _computed(
    source: RunContext, chosen: Sequence[Measure], positions: np.ndarray, cache: MeasureCache, show: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Each measure with its values at these positions: what the cache holds, and the rest computed chunk by chunk."""
    fingerprints = source.traj.fingerprints()
    forgetful = MeasureCache(source.traj.folder, enabled=False)

    def of(item: Measure) -> MeasureCache:
        return cache if item.kept else forgetful

    held: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    work: dict[tuple[str, tuple[int, ...]], list[Measure]] = {}
    for item in chosen:
        held[item.name] = of(item).read(*_rows(item, source, fingerprints))
        missing = np.setdiff1d(positions, held[item.name][0])
        work.setdefault((item.reads, tuple(missing.tolist())), []).append(item)
    total = sum(len(at) for _, at in work)
    with tqdm(total=total, desc="measuring", unit="checkpoint", disable=not show or total == 0, leave=False) as bar:
        for (reads, at), items in work.items():
            parts: dict[str, list[np.ndarray]] = {item.name: [] for item in items}
            for found in _streamed(source, items, np.array(at, dtype=int), reads):
                for item, values in zip(items, found):
                    parts[item.name].append(values)
                if len(parts[items[0].name]) % RELEASE_AFTER == 0:
                    release_buffers()  # or what is kept between buffers of all sizes adds up over a long run
                bar.update(len(found[0]))
            for item in items:
                known, values = held[item.name]
                if at:
                    new = np.concatenate(parts[item.name])
                    known = np.concatenate([known, np.array(at)])
                    values = np.concatenate([values, new]) if len(values) else new
                    order = known.argsort()
                    known, values = known[order], values[order]
                    name, setting, every = _rows(item, source, fingerprints)
                    of(item).write(name, setting, [every[i] for i in known], values)
                yield item.name, values[np.searchsorted(known, positions)]


def _streamed(
    source: RunContext, items: Sequence[Measure], positions: np.ndarray, reads: str
) -> Iterator[list[np.ndarray]]:
    """The values of all items for one chunk of checkpoints after the other.

    Chunks are independent, and most of what is computed is too small to be split: each thread that torch would use for
    one product works through a chunk of its own.
    """
    threads = torch.get_num_threads()
    chunks = list(source.chunks(positions, reads, threads))
    sources: SimpleQueue[RunContext] = SimpleQueue()  # a model holds one checkpoint at a time
    for _ in range(min(threads, len(chunks))):
        sources.put(source.twin())

    def compute(chunk: np.ndarray) -> list[np.ndarray]:
        torch.set_num_threads(1)
        own = sources.get()
        try:
            view = CheckpointBatch(own, chunk)
            return [item.compute(view).cpu().numpy() for item in items]
        finally:
            sources.put(own)

    if threads == 1 or len(chunks) < 2:
        yield from (
            [item.compute(view).cpu().numpy() for item in items]
            for view in (CheckpointBatch(source, c) for c in chunks)
        )
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


def _rows(item: Measure, source: RunContext, fingerprints: Sequence[str]) -> tuple[str, str, Sequence[str]]:
    """What the cache knows the rows of a measure by: its name, its setting, and what each row depends on."""
    setting = f"keys={source.key_list}" if "keys" in item.needs else ""
    if item.relative_to == "last":
        setting = f"last={fingerprints[-1]}"
    if item.revision:
        setting += f"/{item.revision}"
    if item.relative_to == "before":
        steps = source.traj.steps
        pairs = zip(["", *fingerprints], fingerprints, np.diff(steps, prepend=steps[:1]))
        return item.name, setting, [f"{before}/{apart}/{own}" for before, own, apart in pairs]
    return item.name, setting, fingerprints


def _choose(source: RunContext, names: Sequence[str | Own] | str | Own | None) -> list[Measure]:
    if isinstance(names, str) or callable(names):
        names = [names]
    if names is not None:
        chosen = [_own(name) if callable(name) else _known(name) for name in dict.fromkeys(names)]
        for item in chosen:
            if sum(item.name == other.name for other in chosen) > 1:
                raise InvalidArgumentError(f"Measures need names of their own; `{item.name}` is that of two functions.")
            for need in item.requires:
                if need != "keys":  # without key frequencies nothing is kept and nothing is removed
                    _require(source, item.name, need)
        return chosen
    met = {need: requirement.met(source) for need, requirement in REQUIREMENTS.items()}
    return [item for item in MEASURES.values() if not item.costly and all(met[need] for need in item.requires)]


def _known(name: str) -> Measure:
    if not isinstance(name, str):
        raise InvalidArgumentError(f"`names` must hold names of measures, or functions; got {name!r}.")
    if name not in MEASURES:
        raise UnknownNameError(f"There is no measure `{name}`. {did_you_mean(name, MEASURES)}")
    return MEASURES[name]


def _own(function: Own) -> Measure:
    """A user's function of a model as a measure."""
    name = getattr(function, "__name__", "")
    if not name.isidentifier() or name in MEASURES:
        why = f"`{name}` is one of those that there are" if name in MEASURES else f"got {name or function!r}"
        raise InvalidArgumentError(f"A function needs a name of its own, given by `def`, to be a measure; {why}.")

    first: dict[str, torch.Size] = {}

    def number(model: Any) -> torch.Tensor:
        value = function(model)
        try:  # what it returns may be the model's own memory, which the next step overwrites
            return torch.as_tensor(value).detach().clone()
        except (TypeError, ValueError, RuntimeError):
            raise InvalidArgumentError(f"`{name}` must return a number or an array; got {value!r}.") from None

    def compute(view: CheckpointBatch) -> torch.Tensor:
        with torch.no_grad():
            values = view.each(number)
        shape = first.setdefault("shape", values[0].shape)
        for value in values:
            if value.shape != shape:
                got = f"{tuple(shape)} and {tuple(value.shape)}"
                raise InvalidArgumentError(f"`{name}` must return the same shape at every step; got {got}.")
        return torch.stack(values)

    meaning = (function.__doc__ or name).strip().splitlines()[0]
    return Measure(name, ("step",), compute, meaning, reads="weights", kept=False)


def _require(source: RunContext, name: str, need: str) -> None:
    if not REQUIREMENTS[need].met(source):
        config = source.traj.config
        raise NotAvailableError(
            f"`{name}` {REQUIREMENTS[need].rule}; this run is {config.task.slug} with {config.model.slug}."
        )


def _positions(traj: Trajectory, steps: Sequence[int] | slice | None) -> np.ndarray:
    """Where the wanted steps lie among the stored ones, increasing."""
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
