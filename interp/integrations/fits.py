"""Recording of a fit that another library's trainer runs: `interp.record`, opened and closed by its events."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from torch import nn
from torch.optim import Optimizer

from interp.config import TaskConfig
from interp.config.schedule import Schedule
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.models.recorded import Forward
from interp.recording import Recorder, record
from interp.tasks import Examples
from interp.trajectory import Trajectory

__all__ = ["RecordedFit"]

OPEN_ENDED = 10_000
"""Number of updates that schedules are spread over where the trainer sets no end; `interp.record`'s default."""


class RecordedFit:
    """Recording of a trainer's fit: arguments of `interp.record`, and its recorder while the trainer runs.

    Recording begins when training does, and counts as the trainer counts its updates: batches whose gradients are
    accumulated are one update. Where the trainer resumes from a checkpoint of its own, at step s, the run in `folder`
    is resumed, too: what lies behind s is dropped, and the weights of step s must be the stored ones. Where the folder
    holds no run, it begins at s. An exception marks the run as interrupted.

    Used as a context manager, it also sees an end of which the trainer does not tell its callbacks.

    Arguments:
        folder: the run's folder.
        save, state, task, names, forward, neurons: see `interp.record`; names and `forward` are of the module that the
            trainer trains.
        steps: number of updates that log(n) and dense(...) are spread over; None: the trainer's.
        existing: treatment of a run in the folder when the trainer begins at step 0: "error" refuses, "overwrite"
            deletes it.

    Raises:
        InvalidArgumentError: `existing` is another word. All else is checked when training begins.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        save: str | Schedule = "every(1, until=100) | every(10)",
        state: str | Schedule = "every(1000)",
        task: Examples | TaskConfig | None = None,
        names: Mapping[str, str | tuple[str, str]] | None = None,
        forward: Forward | None = None,
        neurons: str = "",
        steps: int | None = None,
        existing: Literal["error", "overwrite"] = "error",
    ) -> None:
        if existing not in ("error", "overwrite"):
            raise InvalidArgumentError(
                f"`existing` must be error or overwrite; got {existing!r}. A run is resumed where the trainer resumes "
                "from its own checkpoint."
            )
        self.folder = Path(folder)
        self._settings: dict[str, Any] = {
            "save": save,
            "state": state,
            "task": task,
            "names": names,
            "forward": forward,
            "neurons": neurons,
        }
        self._steps, self._existing = steps, existing
        self._recorder: Recorder | None = None
        self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end(error)

    @property
    def trajectory(self) -> Trajectory:
        """The run so far, with the network that is trained.

        Raises:
            NotAvailableError: training has not begun in this process, or this process does not write.
        """
        if self._recorder is None:
            raise NotAvailableError(
                f"There is no recording in {self.folder} yet: it begins when the trainer does, in its process. "
                "interp.load opens what an earlier one left."
            )
        return self._recorder.trajectory

    # --- the trainer's events -----------------------------------------------------------------------------------------

    def _begin(self, model: nn.Module, optimizer: Optimizer | None, step: int, steps: int | None) -> None:
        """Begin to record, at the step where the trainer begins; an earlier fit that is still open was interrupted."""
        self._end(NotAvailableError("the trainer began again without having ended"))
        self._recorder = record(
            self.folder,
            model,
            optimizer=optimizer,
            steps=self._steps or steps or OPEN_ENDED,
            existing="resume" if step else self._existing,
            start=step or None,
            **self._settings,
        )
        self._recorder.__enter__()
        self._is_open = True

    def _count(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Record the update that the trainer counts as `step`, if it is not recorded yet.

        Raises:
            NotAvailableError: updates between the recorded one and this were not seen.
        """
        assert self._recorder is not None
        if step > self._recorder.now + 1:
            raise NotAvailableError(
                f"The trainer must tell of each update of the weights; it went from step {self._recorder.now} to "
                f"{step} at once. Record such a loop with interp.record, and rec.step() behind each update."
            )
        if step > self._recorder.now:
            self._recorder.step(**_numbers(scalars))

    def _log(self, scalars: Mapping[str, Any], before: int = 0) -> None:
        """Log numbers at the present step, or so many `before`."""
        if self._is_open and self._recorder is not None and scalars:
            self._recorder.log_at(max(self._recorder.now - before, 0), **_numbers(scalars))

    def _end(self, error: BaseException | None = None) -> None:
        """Complete the run, or mark it as interrupted by an error; nothing where it has ended."""
        if self._is_open and self._recorder is not None:
            self._is_open = False
            self._recorder.__exit__(type(error) if error else None, error, None)


def _numbers(scalars: Mapping[str, Any]) -> dict[str, Any]:
    """Scalars without the trainer's own count, whose name is the run's."""
    return {name: value for name, value in scalars.items() if name != "step"}
