"""Configs of recorded runs: what is known of a network, a task and an optimiser that are a user's own code.

`interp.record` writes them. They describe; nothing can be trained from them, since the code is nowhere in a run folder.
"""

from dataclasses import dataclass
from typing import ClassVar

from interp.config.base import Record
from interp.config.declared import Encoding, ModelConfig, TaskConfig

__all__ = ["NoTask", "RecordedModel", "RecordedOptimizer", "TableTask"]


@dataclass(frozen=True, kw_only=True)
class RecordedModel(ModelConfig):
    """Network of a recorded loop; its code is the user's, its parameters are in the store."""

    offered: ClassVar[bool] = False
    name: str
    """Name of its class."""
    names: tuple[tuple[str, str, str], ...] = ()
    """Parameters that are stored under another name: their own, the stored one, and T where they are transposed."""
    buffers: tuple[str, ...] = ()
    """Stored buffers, which are no parameters."""
    halves: tuple[str, ...] = ()
    """Arrays of 16 bits, stored without loss as float32: name:bfloat16, or name:float16."""
    forward: bool = False
    """Whether the logits come from a function of the user's, which must be given again to run the network."""
    neurons: str = ""
    """Module whose output is the last hidden layer ("act"), or whose input is ("head:input"); empty where not told."""
    reads_neurons: bool = False
    """Whether the logits are affine in the neurons at the last position, as `Network.answer` demands."""

    def _rules(self) -> None:
        super()._rules()
        kinds = {half.rpartition(":")[2] for half in self.halves}
        self._require("halves", kinds <= {"bfloat16", "float16"}, "names with their type: name:bfloat16, name:float16")
        turns = {turn for _, _, turn in self.names}
        self._require("names", turns <= {"", "T"}, "own name, stored name, and T or nothing")

    @property
    def slug(self) -> str:
        """See `ModelConfig.slug`: the class's name."""
        return self.name.lower()

    @property
    def encodings(self) -> tuple[Encoding, ...]:
        """See `ModelConfig.encodings`: any, since the user's function reads them."""
        return (*super().encodings, "points")

    @property
    def draws_weights(self) -> bool:
        """See `ModelConfig.draws_weights`: the loop drew them."""
        return False


@dataclass(frozen=True, kw_only=True)
class TableTask(TaskConfig):
    """Task whose inputs, answers and split are stored with the run (`interp.tasks.table`)."""

    offered: ClassVar[bool] = False
    name: str = "table"
    """Name in tables, such as add97."""
    encoding: Encoding = "tokens"
    """Way in which the inputs are written, where they are written as a task of this package writes them."""
    operation: str = ""
    """Operation that the answers follow; empty where it is none of those that measures know."""

    split = "stored"

    @property
    def slug(self) -> str:
        """See `TaskConfig.slug`."""
        return self.name


@dataclass(frozen=True, kw_only=True)
class NoTask(TaskConfig):
    """No task: of the run nothing but its weights is known."""

    offered: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class RecordedOptimizer(Record):
    """Optimiser of a recorded loop, in words: its class and what it was set to when recording began."""

    offered: ClassVar[bool] = False
    name: str = ""
    """Name of its class; empty where no optimiser was given."""
    lr: float = 0.0
    """Learning rate of the first group of parameters; 0 where none is known."""
    weight_decay: float = 0.0
    """Weight decay of the first group of parameters; 0 where none is known."""
    settings: tuple[str, ...] = ()
    """Other settings, and those in which further groups differ: "betas=(0.9, 0.98)", "group 1: lr=0.0001"."""

    # what every optimiser's config declares, and a loop of one's own decides for itself
    batch_size = None
    decay = "to_zero"
    loss = "cross-entropy"
    loss_precision = "float64"
    warmup_steps = 0
    anneal_steps = None
    relative_lr = 1.0
    frozen = ()
    parameters = ()
    memory = ""
