"""Recorder as a callback of Lightning's Trainer (https://lightning.ai/docs/pytorch/stable/).

recorder = Recorder("checkpoints/mine", task=task)
lightning.Trainer(callbacks=[recorder], max_steps=5000).fit(module, loader)
traj = recorder.trajectory
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from interp.errors import NotAvailableError, NotInstalledError
from interp.integrations.fits import RecordedFit

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise NotInstalledError(
        "interp.integrations.lightning needs lightning, which is not installed: pip install "
        "'grokking-interp[lightning]'."
    ) from error

__all__ = ["Recorder"]


class Recorder(RecordedFit, Callback):
    """Callback that records what a Trainer makes of a LightningModule; arguments are those of `RecordedFit`.

    The run has the parameters of the LightningModule under their names in it, such as `model.embed.weight`. Where the
    module has no `forward` of its own, give one: forward=lambda module, tokens: module.model(tokens).

    Logged are the loss of each update, `train_loss` (the sum over accumulated batches of what Lightning divides by
    their number), and whatever the module logs: by step, by epoch and in validation. The number of updates is
    Lightning's `global_step`; a module with several optimisers, or several updates in a batch, is refused.

    Example:
        >>> import tempfile, warnings, lightning, interp
        >>> warnings.simplefilter("ignore")  # Lightning's advice on workers
        >>> class Line(lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(2, 1)
        ...     def training_step(self, batch):
        ...         return self.layer(batch).square().mean()
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> recorder = Recorder(tempfile.mkdtemp() + "/mine", save="every(2)")
        >>> quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
        >>> trainer = lightning.Trainer(max_steps=4, callbacks=[recorder], enable_model_summary=False, **quiet)
        >>> loader = torch.utils.data.DataLoader(torch.eye(2))
        >>> with recorder:  # doctest: +ELLIPSIS
        ...     trainer.fit(Line(), loader)
        >>> recorder.trajectory.steps.tolist(), recorder.trajectory.names
        ([0, 2, 4], ('layer.weight', 'layer.bias'))
        >>> interp.measure(recorder.trajectory, ["weight_norm"]).weight_norm.shape
        (3,)
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, where Lightning has restored what it resumes from."""
        if len(trainer.optimizers) > 1:
            raise NotAvailableError(
                f"The module must have one optimiser to be recorded by a callback; it has {len(trainer.optimizers)}. "
                "Record such a loop with interp.record, and rec.step() behind each update."
            )
        steps = trainer.estimated_stepping_batches
        self._losses: list[Tensor] = []
        self._seen: dict[str, Tensor] = {}
        self._by_step: set[str] = set()
        self._fresh(trainer)
        self._begin(
            pl_module,
            next(iter(trainer.optimizers), None),
            trainer.global_step,
            int(steps) if 0 < steps < float("inf") else None,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the update, if the batch led to one."""
        if isinstance(outputs, Mapping) and isinstance(outputs.get("loss"), Tensor):
            self._losses.append(outputs["loss"].detach())
        scalars = self._fresh(trainer)
        self._by_step |= scalars.keys()
        if self._recorder is None or trainer.global_step == self._recorder.now:
            return
        loss = {"train_loss": torch.stack(self._losses).sum()} if self._losses else {}
        self._losses = []
        self._count(trainer.global_step, {**loss, **scalars})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what validation gave, which is of the weights as they are now."""
        if self._is_open:
            self._log(self._fresh(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what is known of an epoch alone."""
        self._log({name: x for name, x in self._fresh(trainer).items() if name not in self._by_step})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete the run."""
        self._log({name: x for name, x in self._fresh(trainer).items() if name not in self._by_step})
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Mark the run as interrupted."""
        self._end(exception)

    def _fresh(self, trainer: Trainer) -> dict[str, Tensor]:
        """Numbers that the module has logged since the last look; every rank looks, since Lightning may reduce them."""
        now = dict(trainer.callback_metrics)
        seen = {name: x.data_ptr() for name, x in self._seen.items()}  # which no other may have while they are kept
        self._seen = now
        return {name: x for name, x in now.items() if x.numel() == 1 and x.data_ptr() != seen.get(name)}
