"""The state of a run on its device: task, model, optimiser, interventions and prepared inputs.

Nothing in an update waits for the device. Losses and accuracies stay there until `MetricsBuffer.fetch` takes many at
once.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.config import RunConfig
from interp.config.events import Agenda, Event, parse_event
from interp.config.optimizers import freezes, parse_settings
from interp.errors import ConfigError
from interp.models import Batch, Model, Network, build_model
from interp.models.guests import load_weights, require_sound
from interp.models.logistic import gradients, logits
from interp.optim import (
    Intervention,
    build_interventions,
    build_optimizer,
    complete_momentum,
    load_optimizer_arrays,
    optimizer_arrays,
    set_hyper_parameters,
)
from interp.rng import generator
from interp.tasks import Examples, build_task
from interp.training.capture import Split

__all__ = ["MetricsBuffer", "TrainState", "initial_model"]

BUFFER_LENGTH = 512
"""Maximum number of pairs of loss and accuracy that wait on the device."""


def initial_model(config: RunConfig, task: Examples) -> Network:
    """Model of `config` with its initial weights, on the CPU.

    Example:
        >>> config = RunConfig()
        >>> initial_model(config, build_task(config.task)).embed.W_E.shape
        torch.Size([114, 128])
    """
    if config.model.init_stream == "split":
        stream = torch.Generator().manual_seed(config.task.seed)
        torch.randperm(int((task.train | task.test).sum()), generator=stream)
    else:
        stream = generator(config.seed, "init")
    return build_model(config.model, task.d_vocab, task.n_ctx, task.d_vocab_out, generator=stream)


class TrainState:
    """State of a run on its device: task, model, optimiser, interventions, prepared inputs.

    Attributes:
        config: config of the run, as it began.
        current: config in force, with the changes of all events so far.
        train, test: prepared inputs of each split, with their labels.
        agenda: events that have happened, and those to come.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.current = config
        self.task = build_task(config.task)
        self.model = initial_model(config, self.task)
        if isinstance(config.model, Model):
            self._require_sound()
        self.model.to(device)
        self._parameters = dict(self.model.named_parameters())
        self.optimizer = build_optimizer(
            config.optimizer, self.model.named_parameters(), muon_turns=self.model.muon_turns
        )
        self._trained = [name for name, parameter in self._parameters.items() if parameter.requires_grad]
        self._require_patterns()
        self._freeze()
        if (self.task.objective.has_population or self.task.objective.has_slopes) and not config.model.is_plane:
            raise ConfigError(
                f"The objective {type(self.task.objective).__name__} has closed forms for a plane S.x + b alone; "
                f"`model` must be Logistic; got {type(config.model).__name__}."
            )
        self.objective = self.task.objective.like(next(self.model.parameters()))
        tokens, labels = (x.to(device) for x in self.objective.inputs(self.task.tokens, self.task.labels))
        train, test = self.task.trained.to(device), self.task.test.nonzero().squeeze(1).to(device)
        self.train = self.model.prepare(tokens[train]), labels[train]
        self.test = self.model.prepare(tokens[test]), labels[test]
        size = config.optimizer.batch_size
        self.batch_size = None if size is None or size >= len(train) else size
        self._epoch: tuple[int, Tensor] = -1, torch.empty(0)
        self._begun_with: dict[str, Tensor] = {}
        self.interventions: tuple[Intervention, ...] = self._build_interventions()
        batches = 1 if self.batch_size is None else len(train) // self.batch_size
        self.agenda = Agenda([parse_event(text) for text in config.events], batches)

    @property
    def minibatches(self) -> bool:
        """Whether an update sees only a part of the training set."""
        return self.batch_size is not None

    @property
    def exact_pass(self) -> bool:
        """Whether the loss of an update's pass is the training loss: all inputs, clean weights, plain cross-entropy."""
        clean = not any(intervention.changes_the_pass for intervention in self.interventions)
        plain = self.current.optimizer.loss == "cross-entropy"
        return clean and plain and not self.minibatches and self.dropout_mask(0) is None

    @property
    def bytes_per_checkpoint(self) -> int:
        """Size of the weights of one step [bytes]."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

    def evaluate(self, split: Split) -> Float[Tensor, "2"]:
        """Cross-entropy and accuracy over all inputs of a split, on the device, whatever loss is minimised."""
        batch, labels = self.train if split == "train" else self.test
        with torch.no_grad():
            if split == "test" and self.objective.has_population:
                return self.population(self._parameters)
            loss, correct = self.objective.loss(self.outputs(batch), labels, self.config.optimizer.loss_precision)
            return torch.stack([loss.double(), correct.double().mean()])

    def population(self, weights: Mapping[str, Tensor]) -> Float[Tensor, "*members 2"]:
        """Cross-entropy and accuracy of logistic regression over the population of points, for each member."""
        return self.objective.population(weights["S"], weights["b"])

    def outputs(self, batch: Batch) -> Float[Tensor, "*batch d_vocab_out"]:
        """Logits at the answer position, or `[batch, positions, d_vocab_out]` where the objective reads several."""
        positions = self.objective.positions
        return self.model.answer_logits(batch) if positions == 1 else self.model.last_logits(batch, positions)

    def differentiate(self, batch: Batch, labels: Tensor) -> tuple[Float[Tensor, ""], Bool[Tensor, " batch"]]:
        """Loss of a batch, and which inputs are answered correctly; gradients are left in the parameters."""
        if self.objective.has_slopes:
            loss, correct, by_name = self.closed_form(batch.tokens, self._parameters)
            for name, gradient in by_name.items():
                self._parameters[name].grad = gradient if self._parameters[name].requires_grad else None
            return loss, correct
        optimizer = self.current.optimizer
        loss, correct = self.objective.loss(self.outputs(batch), labels, optimizer.loss_precision, optimizer.loss)
        for parameter in self._parameters.values():
            parameter.grad = None  # like zero_grad, without its 50 us of bookkeeping
        loss.backward()
        return loss.detach(), correct

    @torch.no_grad()
    def closed_form(
        self, points: Float[Tensor, "*members batch d"], weights: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"], dict[str, Tensor]]:
        """Loss, correct answers and gradients of logistic regression, for each member: a tenth of autograd's time."""
        z = logits(points, weights["S"], weights["b"])
        loss, correct, slopes = self.objective.slopes(z, self.current.optimizer.loss)
        return loss, correct, gradients(points, slopes)

    def batch_indices(self, step: int) -> Int[Tensor, " batch"]:
        """Indices of the training inputs of the update that leaves `step`: a pure function of (seed, step).

        An epoch is a fresh permutation; a last batch that would be incomplete is dropped.
        """
        assert self.batch_size is not None
        n = len(self.train[1])
        epoch, batch = divmod(step, n // self.batch_size)
        if self._epoch[0] != epoch:  # drawn once an epoch, kept only to save time
            self._epoch = (
                epoch,
                torch.randperm(n, generator=generator(self.config.seed, "batch", epoch)).to(self.device),
            )
        return self._epoch[1][batch * self.batch_size : (batch + 1) * self.batch_size]

    def dropout_mask(self, step: int) -> Tensor | None:
        """Factors of the neurons in the update that leaves `step`; None where the model has no dropout."""
        if not self.config.model.dropout:
            return None
        batch = self.batch_size or len(self.train[1])
        return self.model.dropout_mask(batch, generator(self.config.seed, "dropout", step))

    def select(self, indices: Int[Tensor, " batch"]) -> tuple[Batch, Tensor]:
        """Some of the training inputs, with their labels."""
        batch, labels = self.train
        return batch.select(indices), labels.index_select(0, indices)

    def weights(self) -> dict[str, np.ndarray]:
        """All parameters on the host; on the CPU they are views that the next update changes."""
        return {name: value.detach().cpu().numpy() for name, value in self.model.state_dict().items()}

    def moments(self) -> dict[str, np.ndarray]:
        """States of the optimiser and of the interventions, copied: with the weights, all that resuming needs."""
        own = optimizer_arrays(self.optimizer, self.model)
        kept = self._intervention_states()
        return {f"optimizer/{name}": array for name, array in own.items()} | {
            f"intervention/{name}": value.cpu().numpy().copy() for name, value in kept.items()
        }

    def restore(self, arrays: dict[str, np.ndarray], step: int = 0, events: Iterable[tuple[int, str]] = ()) -> None:
        """Continue from the full state of `step`, after those of `events` that had happened by then."""
        for _, event in self.agenda.restore(events, step):
            self._adopt(event)
        weights = {n.removeprefix("model/"): a for n, a in arrays.items() if n.startswith("model/")}
        moments = {n.removeprefix("optimizer/"): a for n, a in arrays.items() if n.startswith("optimizer/")}
        load_weights(self.model, {name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        load_optimizer_arrays(self.optimizer, self.model, moments)
        for name, value in self._intervention_states().items():
            value.copy_(torch.from_numpy(arrays[f"intervention/{name}"]))

    def begin(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Begin at the config's `origin`: with the weights of `arrays`, and what it has of the optimiser's state.

        An intervention whose state is there in equal shapes goes on with it; another begins anew, as after an event.

        Raises:
            ConfigError: the network has parameters of other names or shapes.
        """
        weights = {n.removeprefix("model/"): a for n, a in arrays.items() if n.startswith("model/")}
        moments = {n.removeprefix("optimizer/"): a for n, a in arrays.items() if n.startswith("optimizer/")}
        own = {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        theirs = {name: array.shape for name, array in weights.items()}
        if own != theirs:
            name = min(name for name in own.keys() | theirs.keys() if own.get(name) != theirs.get(name))
            raise ConfigError(
                f"A run that begins with stored weights must have parameters of their names and shapes: `{name}` is "
                f"{_shape_in_words(own.get(name))} in the config and {_shape_in_words(theirs.get(name))} in the stored "
                "run. Leave what decides shapes (`task.p`, the sizes of `model`) as it is."
            )
        load_weights(self.model, {name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        load_optimizer_arrays(self.optimizer, self.model, moments)
        if self.config.origin is not None and self.config.origin.sets_initial_weights:
            self._begun_with = {name: W.detach().cpu().clone() for name, W in self.model.named_parameters()}
            self.interventions = self._build_interventions()
        for one in self.interventions:
            found = {name: arrays.get(f"intervention/{name}") for name in one.state}
            if all(array is not None and array.shape == one.state[name].shape for name, array in found.items()):
                for name, array in found.items():
                    one.state[name].copy_(torch.from_numpy(np.array(array)))

    def put_back(self, weights: dict[str, np.ndarray], moments: dict[str, np.ndarray]) -> None:
        """Undo updates in place, so that all tensors stay where a captured graph expects them."""
        tensors = {f"intervention/{name}": value for name, value in self._intervention_states().items()}
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(torch.from_numpy(weights[name]))
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        tensors[f"optimizer/{key}/{name}"] = value
            for name, value in tensors.items():
                old = moments.get(name)
                value.zero_() if old is None else value.copy_(torch.from_numpy(old))

    def apply_events(self, step: int) -> list[Event]:
        """Let the events of `step` happen and return them; after any, a new `Step` must be built."""
        events = self.agenda.pop_due(step)
        for event in events:
            self._adopt(event)
        return events

    def _require_sound(self) -> None:
        """Check a user's network on a few inputs, so few that their number is not that of the positions."""
        objective = self.task.objective.like(next(self.model.parameters()))
        tokens, _ = objective.inputs(self.task.tokens, self.task.labels)
        few = 5 if tokens.shape[1] != 5 else 6
        twin = initial_model(self.config, self.task)
        require_sound(self.model, twin, tokens[self.task.train][:few], slopes=objective.has_slopes)

    def _adopt(self, event: Event) -> None:
        self.current = self.current.after(event)
        set_hyper_parameters(self.optimizer, self.current.optimizer)
        self._freeze()
        before = self._intervention_states()
        self.interventions = self._build_interventions()
        for one in self.interventions:  # an unchanged intervention keeps all of its state, a changed one nothing
            if all(name in before and before[name].shape == value.shape for name, value in one.state.items()):
                for name, value in one.state.items():
                    value.copy_(before[name])

    def _freeze(self) -> None:
        """Train the parameters that the optimiser's config does not freeze, of those that the network has trained."""
        trained = [name for name in self._trained if not freezes(self.current.optimizer.frozen, name)]
        if not trained:
            raise ConfigError(
                f"`optimizer.frozen` must leave a parameter to train; got {self.current.optimizer.frozen}."
            )
        for name in self._trained:
            self._parameters[name].requires_grad_(name in trained)
            if name not in trained:
                self._parameters[name].grad = None
        complete_momentum(self.optimizer)

    def _require_patterns(self) -> None:
        """Refuse a pattern, now or in an event, that no trained parameter matches."""
        changes = [change for text in self.config.events for change in parse_event(text).changes]
        patterns = [value for path, value in changes if path in ("freeze", "unfreeze")]
        patterns += [one for path, value in changes if path == "optimizer.frozen" for one in value]
        settings = [one for path, value in changes if path == "optimizer.parameters" for one in value]
        patterns += [parse_settings(one)[0] for one in (*self.config.optimizer.parameters, *settings)]
        for pattern in (*self.config.optimizer.frozen, *patterns):
            if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in self._trained):
                raise ConfigError(
                    f"`{pattern}` must match the name of a trained parameter, and matches none of "
                    f"{', '.join(self._trained)}."
                )

    def _build_interventions(self) -> tuple[Intervention, ...]:
        def initial() -> Mapping[str, Tensor]:
            return self._begun_with or dict(initial_model(self.config, self.task).named_parameters())

        return build_interventions(self.current, self.model, initial)

    def _intervention_states(self) -> dict[str, Tensor]:
        return {name: value for one in self.interventions for name, value in one.state.items()}


def _shape_in_words(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))


class MetricsBuffer:
    """Losses and accuracies of many steps, of one run or of several, which wait on the device to be fetched."""

    def __init__(self, device: torch.device, runs: int = 1) -> None:
        self._values = torch.zeros(BUFFER_LENGTH, runs, 2, dtype=torch.float64, device=device)
        self._keys: list[tuple[int, str]] = []

    @property
    def full(self) -> bool:
        """Whether the metrics of another step might not fit."""
        return len(self._keys) > BUFFER_LENGTH - 4

    def add(self, step: int, split: str, values: Float[Tensor, "run 2"]) -> None:
        """Add losses and accuracies of one step on a split."""
        self._values[len(self._keys)].copy_(values)
        self._keys.append((step, split))

    def fetch(self) -> list[dict[int, dict[str, float]]]:
        """Metrics by step, for each run; empties the buffer. This waits for the device."""
        waiting = self._values[: len(self._keys)].transpose(0, 1).tolist()
        runs: list[dict[int, dict[str, float]]] = [{} for _ in waiting]
        for records, values in zip(runs, waiting):
            for (step, split), (loss, accuracy) in zip(self._keys, values, strict=True):
                records.setdefault(step, {}).update({f"{split}_loss": loss, f"{split}_accuracy": accuracy})
        self._keys = []
        return runs
