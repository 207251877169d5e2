"""Definition of a measure: a name, a function of checkpoints, and what the run must have for it to be defined."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from types import EllipsisType
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from interp.analysis.batch import CheckpointBatch
from interp.analysis.requirements import Requirement, suggested_requirement, with_implied
from interp.errors import InvalidArgumentError, MeasureError, NotAvailableError, did_you_mean
from interp.models import Network

__all__ = ["Measure", "failure_of", "measure_of_model"]

Inputs = Literal["embedding", "weights", "activations"]


@dataclass(frozen=True, eq=False)
class Measure:
    """Measure over the checkpoints of a run; `interp.measure` takes a user's own beside the names of ours.

    `compute` is a function of a `CheckpointBatch`, a few checkpoints at once, and returns an array whose first axis is
    `step`. The batch offers weights, logits, neurons, gradients, key frequencies and the Fourier basis as attributes.
    Torch's gradients are enabled while it runs; the result is detached.

    Raises:
        InvalidArgumentError: a field breaks its rule.
        UnknownNameError: there is no requirement of a name in `requires`.

    Example:
        >>> def in_waves(batch):
        ...     amplitudes = batch.fourier_basis @ batch.W_E.double()  # [step, constant cos 1 sin 1 ..., d_model]
        ...     power = amplitudes.square().sum(-1)
        ...     return power[:, 1:].sum(1) / power.sum(1)
        >>> mine = Measure("in_waves", in_waves, "share of the embedding that is no constant, 0 to 1",
        ...                requires=("operands are residues", "embedding"))
        >>> import interp, tempfile
        >>> small = interp.RunConfig().replace({"task.p": 5, "model.d_model": 8, "model.d_mlp": 8, "steps": 3})
        >>> data = interp.measure(interp.train(small, root=tempfile.mkdtemp()), ["test_loss", mine])
        >>> data.in_waves.dims, bool((data.in_waves < 1).all())
        (('step',), True)
    """

    name: str
    """Name of the variable in the dataset: a Python identifier, and not that of another measure."""
    compute: Callable[[CheckpointBatch], Any]
    """Function of a few checkpoints; returns `[step, ...]`, a tensor, an array or a list with an entry per step."""
    meaning: str = ""
    """Meaning in one line, for reports: definition, source, unit. Default: the first line of `compute`'s docstring."""
    _: KW_ONLY
    dims: tuple[str | EllipsisType, ...] = ("step",)
    """Names of the axes, `step` first; a final `...` stands for any further axes, called `<name>_0` and so on."""
    requires: tuple[str | Requirement, ...] = ()
    """Requirements on a run for the measure to be defined: names in `requirements.REQUIREMENTS`, or a `Requirement`."""
    inputs: Inputs = "activations"
    """Arrays held in memory, which limit how many checkpoints are computed at once: the embedding, all weights, or
    activations and logits of all inputs."""
    coords: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Coordinates along its own dimensions. Dimensions of built-in measures, such as `frequency`, have theirs."""
    relative_to: Literal["last", "before"] | None = None
    """Reference step, stored too, on which every value depends: the last step of the run, or the step before."""
    opt_in: bool = False
    """Whether it is computed only when asked for by name, because it takes long."""
    revision: int | str = 0
    """Version of the definition. Values are stored beside the run under it, and others are not read; raise it when the
    definition changes. At 0 the values of a user's own measure are not stored, since its code may change."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise InvalidArgumentError(f"`Measure.name` must be an identifier, such as largest_key; got {self.name!r}.")
        if not callable(self.compute):
            raise InvalidArgumentError(f"`Measure.compute` must be a function of a batch; got {self.compute!r}.")
        if (
            isinstance(self.dims, str)
            or not self.dims
            or self.dims[0] != "step"
            or len(set(self.dims)) < len(self.dims)
        ):
            raise InvalidArgumentError(
                f'`Measure.dims` must be distinct names of axes, "step" first, such as ("step", "neuron"); '
                f"got {self.dims!r}."
            )
        if ... in self.dims[:-1] or self.name in self.dims:
            raise InvalidArgumentError(
                f"`Measure.dims` may end with `...`, and the measure's own name is no axis; got {self.dims!r}."
            )
        if self.inputs not in get_args(Inputs):
            raise InvalidArgumentError(f"`Measure.inputs` must be one of {get_args(Inputs)}; got {self.inputs!r}.")
        if isinstance(self.requires, str):
            raise InvalidArgumentError(f'`Measure.requires` must be a tuple, such as ("{self.requires}",).')
        list(with_implied(self.requires))
        unknown = set(self.coords) - set(self.dims[1:])
        if unknown:
            raise InvalidArgumentError(
                f"`Measure.coords` must be of axes in `dims`, which are {self.dims}; got {', '.join(unknown)}."
            )
        if not self.meaning:
            documented = (self.compute.__doc__ or "").strip()
            object.__setattr__(self, "meaning", documented.splitlines()[0] if documented else self.name)

    @property
    def named_dims(self) -> tuple[str, ...]:
        """Names of the axes without a final `...`."""
        return tuple(dim for dim in self.dims if isinstance(dim, str))

    @property
    def requirement_names(self) -> tuple[str, ...]:
        """Names of the requirements in `requires`."""
        return tuple(need if isinstance(need, str) else need.name for need in self.requires)

    def needs(self, requirement: str) -> bool:
        """Whether a requirement is among `requires`, or implied by one of them."""
        return any(item.name == requirement for item in with_implied(self.requires))

    def values(self, batch: CheckpointBatch) -> np.ndarray:
        """Values `[step, ...]` for a batch, checked.

        Raises:
            InvalidArgumentError: `compute` returned something else.
            NotAvailableError: `compute` asked for a part of the model that this run does not have.
        """
        try:
            with torch.enable_grad():
                found = _as_tensor(self.name, self.compute(batch))
        except (AttributeError, KeyError) as error:
            raise _missing_part(self, batch, error) or error from None
        if len(self.named_dims) == len(self.dims):
            fits = found.ndim == len(self.dims)
        else:
            fits = found.ndim >= len(self.named_dims)
        if not fits or len(found) != len(batch):
            axes = ", ".join(str(dim) if isinstance(dim, str) else "..." for dim in self.dims)
            raise InvalidArgumentError(
                f"`{self.name}` must return the axes [{axes}] with {len(batch)} steps; got shape {list(found.shape)}."
            )
        return found.cpu().numpy()


def measure_of_model(function: Callable[[Network], Any]) -> Measure:
    """Measure of a function of the model at one step, which returns a number or an array.

    Its name and its meaning are those of the function; further axes are called `<name>_0` and so on.

    Raises:
        InvalidArgumentError: the function has no name of its own, or its results are no numbers or differ in shape.

    Example:
        >>> def readout(model):
        ...     return model.unembed.W_U.norm()
        >>> measure_of_model(readout).name
        'readout'
    """
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise InvalidArgumentError(
            f"A function needs a name of its own, given by `def`, to be a measure; got {name or function!r}."
        )

    def compute(batch: CheckpointBatch) -> Tensor:
        try:
            values = [_as_tensor(name, value) for value in batch.each(function)]
        except AttributeError as error:
            if isinstance(error.obj, Network) and str(error.name) in dir(CheckpointBatch):
                raise InvalidArgumentError(
                    f"`{name}` is called with the model, which has no `{error.name}`, as a batch of checkpoints has. "
                    f'For a function of a batch, wrap it: interp.Measure("{name}", {name}).'
                ) from error
            raise
        return _stacked(name, values)

    meaning = (function.__doc__ or name).strip().splitlines()[0]
    return Measure(name, compute, meaning, dims=("step", ...), inputs="weights")


def failure_of(measure: Measure, error: Exception) -> MeasureError:
    """Error for an exception inside a user's measure; for an attribute that no batch has, with a suggestion.

    >>> print(failure_of(Measure("mine", len), ZeroDivisionError("division by zero")))
    `mine` raised ZeroDivisionError: division by zero
    """
    match error:
        case AttributeError(obj=CheckpointBatch(), name=str(attribute)):
            offered = [name for name in dir(CheckpointBatch) if not name.startswith("_")]
            return MeasureError(
                f"`{measure.name}` asks for `batch.{attribute}`, which no batch has. {did_you_mean(attribute, offered)}"
            )
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return MeasureError(f"`{measure.name}` raised {reason}")


def _as_tensor(name: str, value: Any) -> Tensor:
    """A result as a tensor without gradients; a list is stacked."""
    if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
        return _stacked(name, [_as_tensor(name, part) for part in value])
    try:
        found = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        raise InvalidArgumentError(f"`{name}` must return a number or an array; got {value!r}.") from None
    if found.is_complex():
        raise InvalidArgumentError(f"`{name}` must return real numbers; got {found.dtype}. Return a part or a modulus.")
    return found


def _stacked(name: str, values: Sequence[Tensor]) -> Tensor:
    for value in values:
        if value.shape != values[0].shape:
            got = f"{tuple(values[0].shape)} and {tuple(value.shape)}"
            raise InvalidArgumentError(f"`{name}` must return the same shape at every step; got {got}.")
    return torch.stack(list(values))


def _missing_part(measure: Measure, batch: CheckpointBatch, error: AttributeError | KeyError) -> Exception | None:
    """Error for a part that the model of this run does not have; None where `error` is about something else."""
    match error:
        case AttributeError(obj=Network() | None, name=str(part)):
            what = f"{error}"
        case KeyError(args=(str(part),)) if "." in part or part.startswith("hook_"):
            what = f"there is no `{part}`"
        case _:
            return None
    return NotAvailableError(
        f"`{measure.name}` asks for a part that the model of this run lacks ({what}); this run is "
        f"{batch.context.description}. A Measure that needs it declares {suggested_requirement(part)}."
    )
