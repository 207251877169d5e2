"""Diagnosis of a run that does not grok: what stands in the way, each finding with its number, threshold and source.

A run has memorised and generalised by the criteria of `criterion`, as everywhere. Where it has not generalised, these
are looked at: finite numbers, spikes of the loss, steps, weight decay, the training fraction, operands that are in no
training input, softmax collapse, and dead neurons. Thresholds are those of runs that were recorded (REPRODUCTIONS.md:
`RECORDED` has its table of recipes, `FRACTIONS` its figures by training fraction) or of the literature; the few that
were chosen here say so. Weight decay acts by the product eta lambda t of learning rate, decay and steps: without a
gradient, AdamW shrinks a weight by exp(-eta lambda t) in t steps (Decoupled Weight Decay Regularization, Loshchilov and
Hutter, 2019, arXiv:1711.05101, algorithm 2).
"""

import html
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from interp.analysis import numerics
from interp.analysis.batch import CheckpointBatch
from interp.analysis.context import RunContext
from interp.analysis.norms import weight_norm
from interp.config import recipes
from interp.config.base import flat
from interp.config.events import parse_event
from interp.errors import ConfigError, error_line, printable
from interp.milestones.finding import Milestones, find
from interp.milestones.sources import curves
from interp.trajectory import Trajectory, as_trajectory

__all__ = ["FRACTIONS", "RECORDED", "Diagnosis", "Finding", "diagnose"]

Outcome = Literal["generalised", "memorised", "not memorised", "not known"]
Verdict = Literal["cause", "possible", "fine", "not known"]

RECORDED: Mapping[str, tuple[int, int]] = {
    "kitouni-circle": (112, 980),
    "kitouni-circle-small": (82, 230),
    "simple-grokking": (14, 4_090),
    "comprehension": (43, 100),
    "nanda": (136, 11_380),
    "tl-demo": (156, 6_851),
    "power": (2_300, 4_700),
    "power-s5": (5_200, 20_800),
    "hu-direct": (149, 12_170),
    "hu-lstm": (12_690, 8_200),
    "ahmed-lstm": (55_000, 220_500),
    "ahmed-lstm-small": (1_095, 12_717),
    "pizza": (99, 300),
    "clock": (106, 280),
    "chughtai-s5": (350, 73_500),
    "chughtai-bilinear": (510, 3_700),
    "beck": (144, 5_755),
    "beck-adam": (139, 817),
}
"""Steps at which the runs of recipes memorised and generalised: REPRODUCTIONS.md, without those that did not stay
generalised to their end and those that something else than weight decay regularises."""
FRACTIONS: Mapping[tuple[str, str], tuple[float, float, str]] = {
    ("Modular", "Transformer"): (0.15, 0.30, "REPRODUCTIONS.md, H2: p = 97, 5,000 steps at 15 %"),
    ("Symbolic", "Decoder"): (0.05, 0.45, "REPRODUCTIONS.md, H1: p = 47"),
}
"""Largest training fraction at which a recorded run did not generalise, smallest at which one did, and the figure, by
the kinds of task and model."""
SATURATED = 0.5
"""Share of training inputs without a gradient at their label from which a softmax has collapsed (chosen here; it grows
to 1 in Prieto et al., 2025)."""
DEAD = 0.5
"""Share of dead neurons that hinders a network (chosen here)."""
CHANCE = 0.95
"""Share of ln(number of answers) from which a training loss is that of guessing (chosen here)."""
SHRUNK = 0.5
"""Last over first norm of the weights below which decay has shrunk a network (chosen here)."""
CHOSEN = "threshold chosen here"


@dataclass(frozen=True)
class Finding:
    """Answer to one question about a run that has not generalised."""

    question: str
    """Subject in a word or two: weight decay, fraction, softmax, ..."""
    verdict: Verdict
    """Whether it is a cause, may be one, is in order, or could not be told."""
    says: str
    """Sentence with the number and the threshold."""
    number: float | None = None
    threshold: float | None = None
    """Value that `number` is compared with."""
    source: str = ""
    """Source of the threshold."""
    advice: str = ""
    """Command or line of Python to try; empty where nothing has to change."""


@dataclass(frozen=True)
class Diagnosis:
    """Outcome of a run, and findings about what stands in the way of generalising.

    `print` shows it as the command line does; notebooks show a table.
    """

    run: str
    """Name of the run's folder."""
    outcome: Outcome
    """Criteria are those of `interp.milestones`; not known: nothing was held out, or evaluated."""
    memorised: int | None
    """Step from which the train accuracy holds its criterion; None: not yet."""
    generalised: int | None
    """Step from which the test accuracy held its criterion; None: not yet."""
    headline: str
    """Outcome in a sentence."""
    findings: tuple[Finding, ...] = ()
    """Causes first; none where the run has generalised."""

    @property
    def causes(self) -> tuple[Finding, ...]:
        """Findings that are causes."""
        return tuple(one for one in self.findings if one.verdict == "cause")

    @property
    def summary(self) -> str:
        """Outcome and first cause in one line."""
        first = next((one for one in self.findings if one.verdict in ("cause", "possible")), None)
        return self.headline if first is None else f"{self.headline} {first.says}"

    def lines(self) -> list[str]:
        """Lines as the command line prints them."""
        said = [f"{self.run}: {self.headline}"]
        for one in self.findings:
            source = f" [{one.source}]" if one.source else ""
            said.append(f"  {one.verdict:10} {one.question:14} {one.says}{source}")
            said += [f"{'':28}Try: {one.advice}"] if one.advice else []
        return [printable(line) for line in said]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        def cells(one: Finding) -> str:
            advice = f"<br><code>{html.escape(one.advice)}</code>" if one.advice else ""
            source = f" <small>[{html.escape(one.source)}]</small>" if one.source else ""
            return (
                f"<tr><td><b>{one.verdict}</b></td><td>{html.escape(one.question)}</td>"
                f'<td style="text-align: left">{html.escape(one.says)}{source}{advice}</td></tr>'
            )

        rows = "".join(map(cells, self.findings))
        table = f"<table>{rows}</table>" if rows else ""
        return f"<p><b>{html.escape(self.run)}</b>: {html.escape(self.headline)}</p>{table}"


def diagnose(traj: Trajectory | str | Path) -> Diagnosis:
    """Say whether a run has generalised, and if it has not, what stands in the way and what to try.

    Of any run: what cannot be told of it is a finding "not known" with the reason.

    Arguments:
        traj: a run, complete or still growing, or its folder.

    Raises:
        StoreError: the folder holds no run.

    Example:
        >>> import interp, tempfile
        >>> config = interp.recipes.get("kitouni-circle-small")
        >>> few = config.replace({"task.train_fraction": 0.1, "steps": 20})
        >>> found = diagnose(interp.train(few, root=tempfile.mkdtemp()))
        >>> found.outcome, [one.question for one in found.causes]
        ('not memorised', ['steps', 'fraction'])
    """
    traj = as_trajectory(traj)
    name = traj.folder.name
    try:
        found = find(traj, with_phases=False)
    except Exception as error:  # a user's own model may fail in any way, and a run may hold nothing to evaluate
        found = Milestones({}, held_out=False, diverged=traj.diverged)
        headline = f"whether it generalised is not known ({error_line(error)})"
    else:
        headline = _headline(found)
    memorised, generalised = found.memorised.upper, found.generalised.upper
    outcome = _outcome(found)
    if outcome == "generalised":
        return Diagnosis(name, outcome, memorised, generalised, headline)
    case = _Case(traj, found)
    findings: list[Finding] = []
    for question, look in _QUESTIONS.items():
        try:
            findings += look(case)
        except Exception as error:
            findings.append(Finding(question, "not known", f"Not known: {error_line(error)}"))
    order = ("cause", "possible", "not known", "fine")
    return Diagnosis(
        name, outcome, memorised, generalised, headline, tuple(sorted(findings, key=lambda f: order.index(f.verdict)))
    )


def _outcome(found: Milestones) -> Outcome:
    test = found.accuracies.get("test")
    if test is not None and test.step is not None and test.last >= test.criterion.level and found.diverged is None:
        return "generalised"
    if not found.accuracies:
        return "not known"
    if "train" in found.accuracies and found.memorised.upper is None:
        return "not memorised"
    return "not known" if test is None else "memorised"


def _headline(found: Milestones) -> str:
    train, test = found.accuracies.get("train"), found.accuracies.get("test")
    if test is None and train is None:
        return "its accuracy was not evaluated, so that nothing is known of generalising."
    said = []
    if train is not None:
        level = train.criterion.percent
        held = f"it memorised at step {train.step:,}" if train.step is not None else f"it has not held {level} on train"
        said.append(f"{held} (train accuracy {train.last:.3g} at step {train.end:,})")
    if test is None:
        said.append("no input is known to have been held out, so that nothing is known of generalising")
    elif test.step is None:
        ahead = f", held since step {test.pending:,} and not long enough to count" if test.pending is not None else ""
        said.append(f"it has not generalised by step {test.end:,} (test accuracy {test.last:.3g}{ahead})")
    elif test.last < test.criterion.level:
        said.append(f"it generalised at step {test.step:,} and has fallen to {test.last:.3g} by step {test.end:,}")
    else:
        said.append(f"it generalised at step {test.step:,} (test accuracy {test.last:.3g} at step {test.end:,})")
    if found.diverged is not None:
        said.append(f"it diverged at step {found.diverged:,}")
    return "; ".join(said) + "."


@dataclass(frozen=True)
class _Case:
    """A run that has not generalised, with what several questions need."""

    traj: Trajectory
    found: Milestones
    fields: Mapping[str, Any] = field(init=False)
    """Fields of the config by dotted path."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", flat(self.traj.config.to_dict()))

    @property
    def trained_here(self) -> bool:
        """Whether this package trained the run, so that its config says how, and can train it again."""
        return not self.traj.kind.no_continuation

    @property
    def optimizer(self) -> str:
        """Kind of the optimiser."""
        return str(self.fields["optimizer.name" if self.traj.kind.name == "recorded" else "optimizer.kind"])

    @cached_property
    def last_step(self) -> int:
        """Last step that is known of."""
        stored = int(self.traj.steps[-1]) if len(self.traj.steps) else 0
        return max(stored, self.found.last_step)

    @property
    def kinds(self) -> tuple[str, str]:
        """Kinds of task and model."""
        return str(self.fields["task.kind"]), str(self.fields["model.kind"])

    @cached_property
    def recorded(self) -> dict[str, Mapping[str, Any]]:
        """Fields of the recorded recipes with this task, kind of model, and kind of embedding; a network of the user's
        own is like any."""
        own_network = self.traj.kind.name == "recorded"
        same = ("task.kind",) if own_network else ("task.kind", "model.kind", "model.embedding")
        every = {name: flat(recipes.get(name).to_dict()) for name in RECORDED}
        return {name: own for name, own in every.items() if all(own.get(key) == self.fields.get(key) for key in same)}

    @cached_property
    def last(self) -> CheckpointBatch:
        """Last stored checkpoint."""
        return CheckpointBatch(RunContext(self.traj), np.array([self.traj.position()]))

    def again(self, **changes: Any) -> str:
        """Command that trains the run with changes (`optimizer__lr` is optimizer.lr); of others' runs, the changes."""
        named = {name.replace("__", "."): value for name, value in changes.items() if value}
        if not self.trained_here:
            return (
                ""
                if not named
                else f"train it again with {', '.join(f'{name}={value}' for name, value in named.items())}"
            )
        return _command(self.traj, named)


def _command(traj: Trajectory, changes: Mapping[str, Any]) -> str:
    """Command line that trains the run's config with changes, or a line of Python where flags cannot say it."""
    python = f"interp.train(interp.load({str(traj.folder)!r}).config.replace({dict(changes)!r}))"
    try:
        config = traj.config.replace(dict(changes))
    except ConfigError:
        return ""
    data = config.to_dict()
    if any(":" in data[part]["kind"] for part in ("task", "model")):
        return python
    name, fields = recipes.nearest(config)
    save, log = config.save, config.log
    schedules = {"save.weights": save.weights, "save.state": save.state, "log.train": log.train, "log.test": log.test}
    flags = {key: value for key, value in fields.items() if not key.startswith(tuple(schedules))}
    flags |= {key: str(value) for key, value in schedules.items() if any(field.startswith(key) for field in fields)}
    plain = all(type(value) in (int, float, str) and not key.endswith("kind") for key, value in flags.items())
    if not plain or recipes.get(name).replace(flags) != config:
        return python
    words = (f"--{key.replace('_', '-')} {shlex.quote(str(value))}" for key, value in flags.items())
    return " ".join(["interp train", name, *words])


# --- questions --------------------------------------------------------------------------------------------------------


def _numbers(case: _Case) -> list[Finding]:
    """Whether all numbers were finite."""
    name, traj = "finite numbers", case.traj
    lower = case.again(optimizer__lr=_rounded(case.traj.config.optimizer.lr / 10))
    if traj.diverged is not None:
        says = f"At step {traj.diverged:,} the loss or a weight was not finite."
        return [Finding(name, "cause", says, traj.diverged, advice=lower)]
    weights = [key for key, value in traj.state().items() if not bool(value.isfinite().all())]
    if weights:
        says = f"At the last stored step {len(weights)} parameters hold NaN or infinity: {', '.join(weights[:3])}."
        return [Finding(name, "cause", says, len(weights), 0, advice=lower)]
    metrics = traj.metrics
    logged = [key for key in ("train_loss", "test_loss") if key in metrics and np.isinf(metrics[key].values).any()]
    if logged:
        return [Finding(name, "cause", f"Infinite values were logged: {', '.join(logged)}.", advice=lower)]
    return [Finding(name, "fine", "All weights of the last step and all logged losses are finite.", 0, 0)]


def _spikes(case: _Case) -> list[Finding]:
    """Whether the training loss spiked after memorising."""
    found = curves(case.traj, ["train_loss", "train_accuracy"])
    if case.found.memorised.upper is None or not found.sizes["step"]:
        return []
    steps, loss = found["step"].values, found["train_loss"].values
    first = int(np.searchsorted(steps, case.found.memorised.upper))
    spikes = numerics.loss_spikes(loss, first)
    source = "ten times the running median, as for slingshots: Thilak et al., 2022"
    if not spikes:
        return [Finding("spikes", "fine", "The training loss has no spike after memorising.", 0, 0, source)]
    says = f"After memorising the training loss spiked {len(spikes)} times, first at step {int(steps[spikes[0][0]]):,}."
    advice = case.again(optimizer__lr=_rounded(case.traj.config.optimizer.lr / 3))
    return [Finding("spikes", "possible", says, len(spikes), 0, source, advice)]


def _steps(case: _Case) -> list[Finding]:
    """Whether the run was long enough to memorise, and whether it learns at all."""
    if "train" not in case.found.accuracies:
        return [Finding("steps", "not known", "The train accuracy was not evaluated.")]
    if case.found.memorised.upper is not None:
        says = f"The run memorised, at step {case.found.memorised.upper:,}, and went on to {case.last_step:,}."
        return [Finding("steps", "fine", says, case.last_step)]
    needed = {name: RECORDED[name][0] for name in case.recorded}
    if not needed:
        return [Finding("steps", "not known", f"Step {case.last_step:,}; no run of this kind is recorded.")]
    slowest = max(needed, key=needed.__getitem__)
    most, source = needed[slowest], "REPRODUCTIONS.md, recipes"
    says = (
        f"It has not memorised by step {case.last_step:,}; recorded runs of this kind did by step {most:,} ({slowest})."
    )
    if case.last_step < most:
        return [Finding("steps", "cause", says, case.last_step, most, source, case.again(steps=2 * most))]
    advice = case.again(optimizer__lr=recipes.get(slowest).optimizer.lr)
    return [Finding("steps", "possible", says, case.last_step, most, source, advice)]


def _decay(case: _Case) -> list[Finding]:
    """Whether weight decay has had its effect, against what runs of this kind needed."""
    name, source = "weight decay", "REPRODUCTIONS.md, recipes"
    if case.traj.kind.name == "imported":
        return [Finding(name, "not known", "An imported run does not say how it was trained.")]
    optimizer = case.traj.config.optimizer
    if optimizer.lr == 0:
        return [Finding(name, "not known", "The learning rate is not known.")]
    shrunk = _shrunk(case)
    if shrunk:
        return shrunk
    regularised = [key for key in ("interventions.orthogonal_gradient", "interventions.norm") if case.fields.get(key)]
    if regularised or optimizer.loss != "cross-entropy":
        by = ", ".join(regularised) or f"the loss {optimizer.loss}"
        return [Finding(name, "fine", f"Something else regularises this run: {by}.")]
    needed = {
        key: float(own["optimizer.lr"]) * float(own["optimizer.weight_decay"]) * RECORDED[key][1]
        for key, own in case.recorded.items()
        if own["optimizer.kind"] == case.optimizer
    }
    number = _decayed(case)
    if not needed:
        return [Finding(name, "not known", f"eta lambda t = {number:.3g}; no run of this kind is recorded.", number)]
    easiest, hardest = min(needed, key=needed.__getitem__), max(needed, key=needed.__getitem__)
    low, high = needed[easiest], needed[hardest]
    says = (
        f"eta lambda t = {number:.3g} (learning rate {optimizer.lr:g}, decay {optimizer.weight_decay:g}, "
        f"{case.last_step:,} steps); recorded runs of this kind generalised at {low:.3g} ({easiest}) to {high:.3g} "
        f"({hardest})."
    )
    rate = optimizer.lr * optimizer.weight_decay
    urgent: Verdict = "cause" if case.found.memorised.upper is not None else "possible"  # decay acts after memorising
    if number < low:
        decay = recipes.get(easiest).optimizer.weight_decay
        decay = decay if decay > optimizer.weight_decay else optimizer.weight_decay
        steps = max(case.last_step, math.ceil(high / (optimizer.lr * decay)))
        advice = case.again(optimizer__weight_decay=decay, steps=steps)
        return [Finding(name, urgent, says, number, low, source, advice)]
    if number < high and rate > 0:
        advice = case.again(steps=math.ceil(high / rate))
        return [Finding(name, "possible", says, number, high, source, advice)]
    return [Finding(name, "fine", says, number, high, source)]


def _shrunk(case: _Case) -> list[Finding]:
    """Whether weight decay has shrunk the weights until nothing is left to answer with."""
    if not len(case.traj.steps) or not case.traj.task.answers.is_classes or "train_loss" not in case.found.last:
        return []
    loss, chance = case.found.last["train_loss"], math.log(case.traj.task.d_vocab_out)
    first, last = (float(weight_norm(case.traj.state(int(case.traj.steps[at])))) for at in (0, -1))
    if case.traj.config.optimizer.weight_decay == 0 or loss < CHANCE * chance or not last < SHRUNK * first:
        return []
    says = (
        f"Weight decay {case.traj.config.optimizer.weight_decay:g} has shrunk the weights to {last / first:.2g} of "
        f"their first norm (a network below {SHRUNK:g} that guesses has collapsed): the train loss is {loss:.3g}, and "
        f"guessing costs {chance:.3g} nats."
    )
    usual = [recipes.get(name).optimizer.weight_decay for name in case.recorded]
    advice = case.again(optimizer__weight_decay=max(usual, default=1.0))
    return [Finding("weight decay", "cause", says, last / first, SHRUNK, CHOSEN, advice)]


def _decayed(case: _Case) -> float:
    """Product eta lambda t of learning rate, weight decay and steps, with the events of the run; nominal rates."""
    now = {"optimizer.lr": case.traj.config.optimizer.lr, "optimizer.weight_decay": 0.0}
    now["optimizer.weight_decay"] = case.traj.config.optimizer.weight_decay
    total, at = 0.0, 0
    for step, words in [*case.traj.events, (case.last_step, "")]:
        total += now["optimizer.lr"] * now["optimizer.weight_decay"] * max(min(step, case.last_step) - at, 0)
        at = step
        now |= {path: value for path, value in (parse_event(words).changes if words else ()) if path in now}
    return total


def _fraction(case: _Case) -> list[Finding]:
    """Whether enough is trained on, against the fractions at which recorded runs did and did not generalise."""
    task = case.traj.task
    if not (task.train | task.test).any():
        return []
    number = float(
        task.train.sum() / (task.train | task.test).sum()
    )  # a rule may hold out more than the config's share
    if (share := case.fields.get("task.train_fraction")) is not None and abs(number - float(share)) < 0.01:
        number = float(share)  # which was rounded down to whole inputs
    if case.kinds in FRACTIONS:
        fails, enough, source = FRACTIONS[case.kinds]
    else:
        known = [float(own["task.train_fraction"]) for own in case.recorded.values() if "task.train_fraction" in own]
        if not known:
            return [Finding("fraction", "not known", f"{number:.3g}; no fraction is recorded for its kind.", number)]
        fails, enough, source = 0.0, min(known), "REPRODUCTIONS.md, recipes: the smallest that was tried"
    says = f"{number:.3g} of the inputs are trained on; recorded runs generalised from {enough:g} on"
    says += f", and not at {fails:g}." if fails else "."
    if number >= enough:
        return [Finding("fraction", "fine", says, number, enough, source)]
    verdict: Verdict = "cause" if number <= fails else "possible"
    return [Finding("fraction", verdict, says, number, enough, source, case.again(task__train_fraction=enough))]


def _coverage(case: _Case) -> list[Finding]:
    """Whether every operand that is looked up stands in some training input."""
    task = case.traj.task
    if not task.arity or not case.traj.network.looks_up:
        return []
    seen = torch.isin(task.operands, task.tokens[task.train])
    missing = int((~seen).sum())
    says = f"{missing} of {len(seen)} operands stand in no training input, so that nothing is learnt of them."
    if missing:
        return [Finding("coverage", "cause", says, missing, 0, "counted in the split")]
    return [Finding("coverage", "fine", "Every operand stands in a training input.", 0, 0, "counted in the split")]


def _softmax(case: _Case) -> list[Finding]:
    """Whether the softmax has collapsed on the training inputs in the precision of the loss."""
    optimizer, context = case.traj.config.optimizer, case.last.context
    if not context.has_classes or optimizer.loss != "cross-entropy":
        return []
    precision = optimizer.loss_precision if case.trained_here else "float32"
    dtype = torch.float32 if precision == "float32" else torch.float64
    share = float(numerics.zero_loss_share(case.last.outputs, context.labels, context.train, dtype=dtype)[-1])
    says = f"{_percent(share)} of the training inputs have loss 0 in {precision}, and no gradient at their label"
    source = f"Prieto et al., 2025, arXiv:2501.04697; {CHOSEN}"
    if share < SATURATED:
        return [Finding("softmax", "fine", f"{says} ({_percent(SATURATED)} is a collapse).", share, SATURATED, source)]
    advice = (
        case.again(optimizer__loss_precision="float64")
        if precision == "float32"
        else case.again(optimizer__loss="stablemax")
    )
    says += f": softmax collapse, from {_percent(SATURATED)} on."
    return [Finding("softmax", "cause", says, share, SATURATED, source, advice)]


def _dead(case: _Case) -> list[Finding]:
    """Whether neurons of the last hidden layer answer every input alike."""
    context = case.last.context
    if not context.has_neurons:
        return []
    neurons = case.last.each(lambda model: model.answer(context.inputs).neurons, gradients=False)[0].double()
    spread = neurons.amax(0) - neurons.amin(0)
    share = float((spread <= 1e-6 * neurons.abs().max().clamp(min=1e-30)).double().mean())
    says = (
        f"{_percent(share)} of the {len(spread)} neurons of the last hidden layer have the same value for every input"
    )
    if share < DEAD:
        return [Finding("dead neurons", "fine", f"{says} ({_percent(DEAD)} hinder a network).", share, DEAD, CHOSEN)]
    says += f": from {_percent(DEAD)} on too few are left."
    advice = case.again(optimizer__lr=_rounded(case.traj.config.optimizer.lr / 3))
    return [Finding("dead neurons", "cause", says, share, DEAD, CHOSEN, advice)]


def _rounded(rate: float) -> float:
    """Learning rate to two digits."""
    return float(f"{rate:.2g}")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


_QUESTIONS: Mapping[str, Callable[[_Case], Sequence[Finding]]] = {
    "finite numbers": _numbers,
    "steps": _steps,
    "weight decay": _decay,
    "fraction": _fraction,
    "coverage": _coverage,
    "softmax": _softmax,
    "dead neurons": _dead,
    "spikes": _spikes,
}
