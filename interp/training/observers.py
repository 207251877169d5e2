"""Observers: objects that watch a run while it is trained, resumed or replayed, and do something of their own with it.

Give them to `train`, `train_many`, `resume` or `replay` as `observers=[...]`. Of runs that are trained together each is
shown to every observer, one after the other. The order of events around step n:

    on_event       an event of the config changed hyper-parameters at step n
    on_save        weights of step n are stored
    on_state       a full state of step n is stored
    before_step    the update that leaves step n comes next
    after_step     it was made: the model now has the weights of step n + 1
    on_metrics     losses and accuracies of a step were fetched from the device (up to some hundred steps later)
    on_end         no update follows: the last step is reached, the run was interrupted, or it has diverged

An observer must change neither weights nor hyper-parameters, and must draw from no global generator of random numbers:
resuming and replaying rely on it. An exception in a hook ends the run as Ctrl-C does: the step is finished, everything
is stored, and an `ObserverError` names the observer. `StopTraining` ends it in the same way and is no error.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.config import RunConfig
from interp.config.events import Event
from interp.errors import InvalidArgumentError, did_you_mean
from interp.models import Network
from interp.training.capture import Split
from interp.training.state import TrainState

__all__ = ["HOOKS", "ObservedRun", "Observer", "StopTraining", "check_observers"]

HOOKS = ("before_step", "after_step", "on_metrics", "on_save", "on_state", "on_event", "on_end")
"""Names of all hooks of an observer."""


class StopTraining(Exception):  # noqa: N818 (it is no error)
    """Raised by an observer to end training early: everything is stored, and `interp.resume` can go on with it.

    Runs that are trained together end together.
    """


class ObservedRun:
    """A run in training, as its observers see it: look, and change nothing.

    Attributes:
        state: model, optimiser, inputs and interventions on the device.
        folder: where the run is stored; a replay has a folder of its own.
        config: config of the run, as it began; `current` has the hyper-parameters in force.
    """

    def __init__(self, state: TrainState, folder: Path, fetch: Callable[[], Mapping[str, float]]) -> None:
        self.state, self.folder, self.config = state, folder, state.config
        self._fetch = fetch

    @property
    def current(self) -> RunConfig:
        """Config with the changes of all events so far."""
        return self.state.current

    @property
    def model(self) -> Network:
        """Live network on its device; in `after_step` it has the weights of step n + 1."""
        return self.state.model

    def weights(self) -> dict[str, np.ndarray]:
        """Current parameters by name, as read-only arrays on the host.

        On the CPU they are views that the next update changes: copy what is to last. On CUDA they are copies, and
        fetching them waits for the device.
        """
        return {name: _read_only(array) for name, array in self.state.weights().items()}

    def metrics(self) -> dict[str, float]:
        """Latest logged losses and accuracies by name (`train_loss`, `test_accuracy`, ...), each of its own last step.

        All values that wait on the device are fetched and shown to `on_metrics` first. On CUDA this waits for the
        device: every few hundred steps it costs nothing, at every step it costs the speed of graphs.
        """
        return dict(self._fetch())

    def evaluate(self, split: Split) -> dict[str, float]:
        """Cross-entropy and accuracy of the current weights on "train" or "test": a pass of the model, and a wait."""
        loss, accuracy = self.state.evaluate(split).tolist()
        return {f"{split}_loss": loss, f"{split}_accuracy": accuracy}


class Observer:
    """Base class of observers: override the hooks that you need; those of this class do nothing and cost nothing.

    `step` is the number of completed updates, as everywhere. Hooks run on the host between two updates: on CUDA, a hook
    that reads a tensor waits for the device.

    Example:
        >>> import tempfile
        >>> from interp.config import recipes
        >>> from interp.training import train
        >>> class Losses(Observer):
        ...     def __init__(self):
        ...         self.losses = []
        ...     def after_step(self, run, step, values):
        ...         self.losses.append(values[0].item())
        >>> observer = Losses()
        >>> config = recipes.get("kitouni-circle").replace({"task.p": 5, "steps": 3, "model.d_model": 16})
        >>> traj = train(config, root=tempfile.mkdtemp(), device="cpu", observers=[observer])
        >>> observer.losses == traj.metrics.train_loss.values[:3].tolist()
        True
    """

    def before_step(self, run: ObservedRun, step: int) -> None:
        """The update that leads from `step` to `step + 1` comes next; the model has the weights of `step`."""

    def after_step(self, run: ObservedRun, step: int, values: Float[Tensor, "2"]) -> None:
        """The update that leads from `step` to `step + 1` was made.

        `values` are loss and accuracy of its pass, by the weights of `step`, on the device; the next update overwrites
        them.
        """

    def on_metrics(self, run: ObservedRun, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics that belong to `step` were fetched, in the order of steps; one step's may come in two portions."""

    def on_save(self, run: ObservedRun, step: int, weights: Mapping[str, np.ndarray]) -> None:
        """A checkpoint is stored. The arrays are read-only, and on the CPU views that the next update changes."""

    def on_state(self, run: ObservedRun, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """A full state is stored: weights, and all that optimiser and interventions remember."""

    def on_event(self, run: ObservedRun, step: int, event: Event) -> None:
        """An event of the config has happened: the update that leaves `step` is the first with its changes."""

    def on_end(self, run: ObservedRun, step: int, error: BaseException | None) -> None:
        """No update follows `step`; all is stored.

        `error` is None at the last step; else it says why the run ends here: `RunInterrupted` (a signal),
        `StopTraining`, `ObserverError` (another observer's failure), `DivergedError`, or any other exception.
        """


def check_observers(observers: Any) -> None:
    """Refuse whatever is no sequence of observers, and a method that is called like a hook but is none.

    Raises:
        InvalidArgumentError: the message says what came; for a hook that is none, which are near.

    >>> class Late(Observer):
    ...     def on_metric(self, run, step, metrics): ...
    >>> check_observers([Late()])
    Traceback (most recent call last):
    interp.errors.InvalidArgumentError: `Late.on_metric` is no hook of an observer. Did you mean `on_metrics`?
    """
    if isinstance(observers, str) or not isinstance(observers, Sequence):
        raise InvalidArgumentError(f"`observers` must be a list of observers, such as [mine]; got {observers!r}.")
    for one in observers:
        if isinstance(one, type):
            raise InvalidArgumentError(
                f"`observers` must hold objects, not classes; got the class {one.__name__}. Write {one.__name__}()."
            )
        if not isinstance(one, Observer):
            raise InvalidArgumentError(f"`observers` must hold objects of type interp.Observer; got {one!r}.")
        kind = type(one)
        for name in dir(kind):
            if name.startswith(("on_", "before", "after")) and name not in HOOKS and callable(getattr(kind, name)):
                raise InvalidArgumentError(
                    f"`{kind.__name__}.{name}` is no hook of an observer. {did_you_mean(name, HOOKS)}"
                )


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
