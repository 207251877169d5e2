"""Bases of task and model configs: what a config declares, so that nobody asks of which class it is.

`interp.tasks.Task` and `interp.models.Model` add the one method that a user's own task or model writes. A declaration
is a class attribute or a property; a subclass overrides those that differ.
"""

from typing import Any, ClassVar, Literal

from interp.config.base import Record

__all__ = ["Encoding", "ModelConfig", "TaskConfig"]

Encoding = Literal["operands", "direct", "operation", "sentence", "symbolic", "bits", "tokens", "points"]
"""Ways to write inputs: operands `a b`; direct `a b =`; operation `a o b =`; sentence `<sos> a + b mod =`; symbolic as
in openai/grok; bits; tokens of any other kind; points of R^d, which are no tokens."""
_TOKENS: tuple[Encoding, ...] = ("operands", "direct", "operation", "sentence", "symbolic", "bits", "tokens")


class TaskConfig(Record):
    """Config of a task, with what trainers and models ask of it. Subclasses are frozen dataclasses.

    Each annotation here is a declaration with a default, not a field; a subclass makes it a field by annotating it.
    """

    PLAIN_LOSS: ClassVar[str] = "cross-entropy (nats)"
    """Words for the loss of most tasks."""
    encoding: Any = "tokens"
    """Way to write inputs, an `Encoding`."""
    split: Any = "own"
    """Recipe of the split; "stored" is that of an imported run's folder, "own" a task's own."""
    seed: int = 0
    """Seed of the split, and of the draws of a task that has others."""
    operation: Any = ""
    """Operation in words, for reports; empty where there is none. Measures ask `Examples.operation`."""

    @property
    def slug(self) -> str:
        """Name in run ids and tables: the class name in lower case."""
        return type(self).__name__.lower()

    @property
    def losses(self) -> tuple[str, ...]:
        """Values of `optimizer.loss` that the objective has."""
        return ("cross-entropy", "stablemax", "mse")

    @property
    def loss_rule(self) -> str:
        """Rule that an `optimizer.loss` outside `losses` breaks, as the beginning of an error."""
        return f"`optimizer.loss` must be {' or '.join(self.losses)} for a {type(self).__name__} task"

    @property
    def loss_words(self) -> str:
        """Unit and meaning of train and test loss, in words."""
        return self.PLAIN_LOSS

    @property
    def reads_answer(self) -> bool:
        """Whether the model reads the answer behind '=', to learn its further tokens or what closes it."""
        return False

    @property
    def answer_rule(self) -> str:
        """Reason why `reads_answer`, as the beginning of an error."""
        return f"A {type(self).__name__} task has the model read the answer behind '='"

    @property
    def shuffles_inputs(self) -> bool:
        """Whether the split is a shuffle of all inputs that have an answer, and not of some, or by another rule."""
        return True

    @property
    def needs_plane(self) -> bool:
        """Whether loss and population numbers are those of a hyperplane, in closed form."""
        return False

    @property
    def varying(self) -> tuple[str, ...]:
        """Fields in which members of an ensemble may differ: those that leave all shapes as they are."""
        return ("seed", "train_fraction", "split")


class ModelConfig(Record):
    """Config of a model, with what trainers ask of it. Subclasses are frozen dataclasses.

    Each annotation here is a declaration with a default, not a field; a subclass makes it a field by annotating it.
    """

    init_stream: Any = "seed"
    """seed: initial weights come from the run's seed; split: they continue the stream that shuffled the inputs."""
    dropout: float = 0.0
    """Share of the neurons that a training pass drops."""
    buffers: Any = ()
    """Names of stored arrays that are no parameters."""

    @property
    def slug(self) -> str:
        """Name in run ids and tables: the class name in lower case."""
        return type(self).__name__.lower()

    @property
    def encodings(self) -> tuple[Encoding, ...]:
        """Encodings of a task that the model reads: all that are tokens."""
        return _TOKENS

    @property
    def encoding_rule(self) -> str:
        """Reason why `encodings` are what they are, as the beginning of an error."""
        return f"A {type(self).__name__} model reads tokens"

    @property
    def is_plane(self) -> bool:
        """Whether the only output is S.x + b, of parameters `S` and `b`."""
        return False

    @property
    def sees_later(self) -> bool:
        """Whether a position sees later ones."""
        return False

    @property
    def draws_weights(self) -> bool:
        """Whether the run's seed decides the initial weights."""
        return self.init_stream == "seed"

    @property
    def varying(self) -> tuple[str, ...]:
        """Fields in which members of an ensemble may differ: those that leave all shapes as they are."""
        return ()
