"""Recorder as a callback of the Trainer of Hugging Face's `transformers`.

from interp.integrations.transformers import Recorder

Trainer(model, arguments, train_dataset=data, callbacks=[Recorder("checkpoints/mine", save="every(10)")]).train()
"""

from pathlib import Path
from typing import Any

from interp.errors import NotAvailableError
from interp.recording import record
from interp.recording import recorder as recording
from interp.trajectory import Trajectory

try:
    from transformers import TrainerCallback
except ModuleNotFoundError:  # the module can be looked at, and its class says what it lacks
    TrainerCallback: Any = object  # type: ignore[no-redef]

__all__ = ["Recorder"]


class Recorder(TrainerCallback):
    """Callback that records every update of a Trainer; what the Trainer logs is logged.

    A run that a Trainer resumes (`resume_from_checkpoint`) goes on with `existing="resume"` at the Trainer's own step.

    Arguments:
        folder: the run's folder.
        settings: arguments of `interp.record`, but for model, optimizer, steps and start, which the Trainer has.

    Raises:
        NotAvailableError: transformers is not installed.
    """

    def __init__(self, folder: str | Path, **settings: Any) -> None:
        if TrainerCallback is object:
            raise NotAvailableError(
                "This Recorder is a callback of transformers, which is not installed: "
                "pip install 'grokking-interp[transformers]'."
            )
        super().__init__()
        self.folder, self._settings = Path(folder), settings
        self._recorder: recording.Recorder | None = None

    @property
    def trajectory(self) -> Trajectory:
        """The run so far; see `interp.recording.Recorder.trajectory`."""
        assert self._recorder is not None, "the Trainer has not begun"
        return self._recorder.trajectory

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin, with the weights as they are."""
        optimizer = kwargs["optimizer"]
        if type(optimizer).__module__.startswith("accelerate."):
            optimizer = optimizer.optimizer
        begins = {"start": state.global_step} if self._settings.get("existing") == "resume" else {}
        plan = {"steps": max(int(state.max_steps), 1), **begins, **self._settings}
        self._recorder = record(self.folder, kwargs["model"], optimizer=optimizer, **plan)
        self._recorder.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count an update."""
        assert self._recorder is not None
        self._recorder.step()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Log the numbers that the Trainer logs, under their names."""
        numbers = {name: x for name, x in (logs or {}).items() if isinstance(x, int | float) and name != "step"}
        if self._recorder is not None and numbers:
            self._recorder.log(**numbers)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Complete the run."""
        assert self._recorder is not None
        self._recorder.__exit__(None, None, None)
