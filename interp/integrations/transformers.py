"""Recorder as a callback of Hugging Face's Trainer (https://huggingface.co/docs/transformers/main_classes/trainer).

with Recorder("checkpoints/mine", task=task, forward=logits) as recorder:
    transformers.Trainer(model, args, train_dataset=dataset, callbacks=[recorder]).train()
traj = recorder.trajectory
"""

from typing import Any

from torch import Tensor, nn

from interp.errors import NotInstalledError
from interp.integrations.fits import RecordedFit

try:
    from accelerate.optimizer import AcceleratedOptimizer
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise NotInstalledError(
        "interp.integrations.transformers needs transformers and accelerate, which are not installed: pip install "
        "'grokking-interp[transformers]'."
    ) from error

__all__ = ["Recorder", "logits"]

UNLOGGED = ("_runtime", "_per_second", "total_flos")
"""Ends of the names of what the Trainer says of itself and not of the network."""


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits of a Hugging Face model at every position, as `forward` of the recorder and of `interp.load`.

    Arguments:
        tokens: [batch, pos].

    Returns:
        [batch, pos, d_vocab_out], or [batch, class] of a classifier.

    Example:
        >>> import torch, transformers
        >>> config = transformers.GPT2Config(vocab_size=5, n_positions=3, n_embd=4, n_layer=1, n_head=1)
        >>> logits(transformers.GPT2LMHeadModel(config), torch.tensor([[1, 2, 4]])).shape
        torch.Size([1, 3, 5])
    """
    found: Tensor = model(input_ids=tokens).logits
    return found


class Recorder(RecordedFit, TrainerCallback):
    """Callback that records what a Trainer makes of a model; arguments are those of `RecordedFit`.

    A model that returns its logits inside an output of the library's is told by `forward=logits` when there is a task.

    Logged is what the Trainer logs, when it does (`logging_steps`), under its names: `loss`, gradient norm and rate at
    the weights that gave them (a mean over several updates stands at the last of them), `eval_loss` at those that were
    evaluated. Of an exception in training the Trainer tells no callback: use the recorder as a context manager around
    `train()` to have the run marked as interrupted and written up to its last step; otherwise it is left as by a killed
    program.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **told: Any,
    ) -> None:
        """Begin, where the Trainer has restored what it resumes from."""
        assert model is not None
        optimizer = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
        self._begin(model, optimizer, state.global_step, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any) -> None:
        """Record the update."""
        if self._is_open:
            self._count(state.global_step, {})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **told: Any,
    ) -> None:
        """Log what the Trainer does; its summary ends the run, before the best weights may replace the last."""
        logs = logs or {}
        if "train_runtime" in logs:
            self._end()
            return
        is_of_update = "loss" in logs
        self._log(
            {
                name: value
                for name, value in logs.items()
                if isinstance(value, int | float) and not name.endswith(UNLOGGED)
            },
            before=int(is_of_update),
        )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any) -> None:
        """Complete the run, if it has not ended."""
        self._end()
