"""Recorder as a callback of the Trainer of Lightning.

from interp.integrations.lightning import Recorder

lightning.Trainer(max_epochs=10, callbacks=[Recorder("checkpoints/mine", save="every(10)")]).fit(module, loader)
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from interp.errors import NotAvailableError
from interp.recording import record
from interp.recording import recorder as recording
from interp.trajectory import Trajectory

try:
    from lightning import Callback
except ModuleNotFoundError:  # the module can be looked at, and its class says what it lacks
    Callback: Any = object  # type: ignore[no-redef]

__all__ = ["Recorder"]


class Recorder(Callback):
    """Callback that records every update of a Trainer, one for each step of the optimiser.

    The training loss is logged as train_loss, and what a validation logs under its names. A Trainer that goes on from
    its own checkpoint goes on recording with `existing="resume"`.

    Arguments:
        folder: the run's folder.
        settings: arguments of `interp.record`, but for model, optimizer, steps and start, which the Trainer has.

    Raises:
        NotAvailableError: lightning is not installed.
    """

    def __init__(self, folder: str | Path, **settings: Any) -> None:
        if Callback is object:
            raise NotAvailableError(
                "This Recorder is a callback of lightning, which is not installed: "
                "pip install 'grokking-interp[lightning]'."
            )
        super().__init__()
        self.folder, self._settings = Path(folder), settings
        self._recorder: recording.Recorder | None = None

    @property
    def trajectory(self) -> Trajectory:
        """The run so far; see `interp.recording.Recorder.trajectory`."""
        assert self._recorder is not None, "the Trainer has not begun"
        return self._recorder.trajectory

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, with the weights as they are."""
        planned = trainer.estimated_stepping_batches
        begins = {"start": trainer.global_step} if self._settings.get("existing") == "resume" else {}
        known = {"steps": int(planned)} if 0 < planned < float("inf") else {}
        optimizer = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
        self._recorder = record(self.folder, pl_module, optimizer=optimizer, **{**known, **begins, **self._settings})
        self._recorder.__enter__()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count an update, where this batch has led to one: of several that are accumulated, the last."""
        assert self._recorder is not None
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if trainer.global_step > self._recorder.now:
            self._recorder.step(**({"train_loss": loss} if isinstance(loss, Tensor) else {}))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the numbers that the validation has logged."""
        numbers = {name: x for name, x in trainer.callback_metrics.items() if isinstance(x, Tensor) and x.numel() == 1}
        if self._recorder is not None and numbers:
            self._recorder.log(**numbers)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Complete the run."""
        self._end(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Mark the run as interrupted."""
        self._end(exception)

    def _end(self, error: BaseException | None) -> None:
        if self._recorder is not None:
            self._recorder.__exit__(type(error) if error else None, error, None)
