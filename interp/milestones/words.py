"""A run in sentences and headline numbers, read from its milestones and its measures."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from interp.analysis.keys import named_key_frequencies
from interp.analysis.numerics import Collapse
from interp.milestones.finding import Milestones, Passage
from interp.milestones.phases import PHASES

__all__ = ["Row", "counted", "describe", "headline"]

Row = tuple[str, str, str]
"""A headline number: label, value, explanation."""
STEP = re.compile(r"(?<![-.\w\"=/])(?<!keys )([Ss])tep(s?)\b(?![-=\"'\w\[]|\.\w|\()")
"""The word in texts and pages, where it is no part of a name."""


def describe(found: Milestones, data: xr.Dataset, config: Mapping[str, Any] | None = None) -> list[str]:
    """The course of a run in plain sentences; measures that `data` does not hold are not mentioned.

    `found`: the milestones of the run. `config`: that of a run which is not complete; it says how far it is.

    >>> from interp.milestones import find
    >>> data = xr.Dataset({"train_accuracy": ("step", [0, *8 * [1]]), "test_accuracy": ("step", [0, 0, *7 * [1]])})
    >>> data = data.assign_coords(step=range(0, 900, 100))
    >>> describe(find((data, None)), data)[0]
    'Train accuracy passed 99 % at step 100, test accuracy 95 % at step 200: generalisation came 100 steps later.'
    """
    said = _accuracies(found)
    keys, rule = named_key_frequencies(data)
    if rule is not None:
        listed = f"Key frequencies: {_listed(keys)}" if keys else "No key frequency stands out"
        said.append(f"{listed} ({_said(rule)}).")
    if "key_irreps" in data.attrs:
        said.append(f"Key irreps: {data.attrs['key_irreps']} ({_said('given')}).")
    circle = _values(data, "circularity")
    if circle.size:
        now, start = float(circle[-1]), float(circle[0])
        verdict = f"up from {start:.2f}" if now >= 0.8 and now - start > 0.1 else "1 is a perfect circle"
        none = " No circle has formed." if now < 0.5 else ""
        said.append(f"Circularity of the embedding is {now:.2f} ({verdict}).{none}")
    said += [
        f"The end of {PHASES[key]} depends on the definition: step {end.step:,} by the shape of the test loss, "
        f"{end.change:,} by its change point (95 % interval {end.interval[0]:,} to {end.interval[1]:,})."
        for key, end in found.boundaries.items()
        if end.agrees is False and end.interval is not None
    ]
    loss = data["train_loss"].values if "train_loss" in data else np.array([0.0])
    planned, now_at = (config or {}).get("steps"), _last_step(found, data)
    if found.diverged is not None:
        said.append(f"The run has diverged: at step {found.diverged:,} there was a number that is not finite.")
    elif not np.isfinite(loss[-1]):
        said.append("The last train loss is not a finite number: the run has diverged.")
    elif isinstance(planned, int) and now_at < planned:
        said.append(f"The run is at step {now_at:,} of {planned:,}; all this may change.")
    return [counted(sentence, data) for sentence in said]


def counted(text: str, data: xr.Dataset) -> str:
    """A text about steps, in which they are checkpoints where the steps of an imported run are not known.

    >>> counted("passed 99 % at step 2, 1 steps later", xr.Dataset(attrs={"counts": "checkpoints"}))
    'passed 99 % at checkpoint 2, 1 checkpoints later'
    """
    if data.attrs.get("counts") != "checkpoints":
        return text
    text = text.replace("step (optimiser updates", "checkpoint (in their order; updates not known")
    return STEP.sub(lambda match: ("C" if match[1] == "S" else "c") + "heckpoint" + match[2], text)


def headline(found: Milestones, data: xr.Dataset) -> list[Row]:
    """The headline numbers of a run as rows (label, value, explanation).

    >>> from interp.milestones import find
    >>> data = xr.Dataset({"circularity": ("step", [0.1, 0.97])}, {"step": [0, 100]})
    >>> headline(find((data, None)), data)[-1][:2]
    ('Circularity', '0.970')
    """
    rows = [("Last step", f"{int(data['step'].values[-1]):,}", f"of {data.sizes['step']:,} checkpoints measured")]
    for who, passage in found.accuracies.items():
        explanation = f"from then on, {_hold(passage)}; now {_share(passage.last)}"
        rows.append((f"{who.capitalize()} accuracy ≥ {passage.criterion.percent}", _told(passage), explanation))
    known = not any(passage.before_begin for passage in found.accuracies.values())
    if found.delay.step is not None and known:
        delay = f"{found.delay.step:,} steps"
        rows.append(("Delay", delay, "from the first of these steps to the second: the length of grokking"))
    if "test_loss" in found.last:
        unit = found.loss or "cross-entropy in nats"
        rows.append(("Test loss", f"{found.last['test_loss']:#.3g}", f"{unit} at the last step"))
    for name, label, text in (
        ("weight_norm", "Weight norm", "l2 norm of all weights at the last step"),
        ("circularity", "Circularity", "mean over components 1 to 4 at the last step; 1 is a perfect circle"),
        ("circle_order_correlation", "Order on the circle", "at the last step, PC 1–2; 1 is perfect order"),
    ):
        values = _values(data, name)
        if values.size:
            rows.append((label, f"{float(values[-1]):#.3g}", text))
    keys, rule = named_key_frequencies(data)
    if rule is not None:
        rows.append(("Key frequencies", _listed(keys) or "none", _said(rule)))
    if "key_irreps" in data.attrs:
        rows.append(("Key irreps", data.attrs["key_irreps"], _said("given")))
    return [(counted(label, data), counted(value, data), counted(text, data)) for label, value, text in rows]


def _accuracies(found: Milestones) -> list[str]:
    """The sentences about accuracies."""
    train, test = (found.accuracies.get(who) for who in ("train", "test"))
    reached = {who: passage for who, passage in found.accuracies.items() if _passed(passage) is not None}
    said = []
    if train is not None and test is not None and len(reached) == 2:
        said.append(_both(train, test))
    elif train is not None and test is not None and "train" in reached:
        verdict = "it generalises in part" if test.last >= 0.5 else "the run has memorised and not generalised"
        said.append(f"{_when('train', train)}; test accuracy is {_share(test.last)} at step {test.end:,}: {verdict}.")
    elif reached:
        ((who, passage),) = reached.items()
        said.append(f"{_when(who, passage)}.")
    elif found.accuracies:
        missed = (f"{one.criterion.percent} ({who} {_share(one.last)})" for who, one in found.accuracies.items())
        said.append(f"By step {found.last_step:,} accuracy has not reached {' or '.join(missed)}.")
    said += [
        f"The {who} accuracy has not been held {_hold(passage)} yet."
        for who, passage in reached.items()
        if passage.pending is not None
    ]
    if not found.held_out:
        said.append("No pair is known to have been held out: accuracy is over all of them.")
    if found.collapses:
        said.append(_collapsed(found.collapses))
    if found.slingshots:
        times = "a slingshot" if len(found.slingshots) == 1 else f"{len(found.slingshots)} slingshots, the first"
        said.append(
            f"The training loss spiked after a growth of the last layer: {times} at step "
            f"{found.slingshots[0].start:,} (Thilak et al., 2022)."
        )
    if test is not None and "test" in reached and test.last < test.criterion.level:
        said.append(f"Test accuracy has since fallen to {_share(test.last)}.")
    return said


def _collapsed(collapses: Sequence[Collapse]) -> str:
    """The sentence about stretches in which a run that had generalised did not."""
    count, first = len(collapses), collapses[0]
    lowest, joint = min(one.lowest_test for one in collapses), sum(one.joint for one in collapses)
    times = "once" if count == 1 else f"{count} times, first"
    also = ""
    if joint:
        also = ", and so did train accuracy" if count == 1 else f"; train accuracy did in {joint} of them"
    return f"After that, test accuracy collapsed {times} at step {first.start:,} (lowest value {_share(lowest)}){also}."


def _both(train: Passage, test: Passage) -> str:
    """The sentence about a run that has memorised and generalised."""
    learnt, general = _passed(train), _passed(test)
    if learnt is None or general is None or train.before_begin or test.before_begin:
        return f"{_when('train', train)}; {_when('test', test, first=False)}."
    if general > learnt:
        return (
            f"Train accuracy passed {train.criterion.percent} at step {learnt:,}, test accuracy "
            f"{test.criterion.percent} at step {general:,}: generalisation came {general - learnt:,} steps later."
        )
    return (
        f"Test accuracy passed {test.criterion.percent} at step {general:,}, no later than train accuracy "
        f"{train.criterion.percent} (step {learnt:,})."
    )


def _passed(passage: Passage) -> int | None:
    """The step of the sustained crossing, or of one that the end of the run left open."""
    return passage.pending if passage.step is None else passage.step


def _when(who: str, passage: Passage, first: bool = True) -> str:
    name = f"{who.capitalize() if first else who} accuracy"
    if passage.before_begin:
        return f"{name} is above {passage.criterion.percent} from the first evaluation here, step {passage.begin:,}"
    return f"{name} passed {passage.criterion.percent} at step {_passed(passage):,}"


def _told(passage: Passage) -> str:
    """The value of a headline row: the step, or what is known of it."""
    if passage.before_begin:
        return f"before step {passage.begin:,}"
    if passage.step is not None:
        return f"step {passage.step:,}"
    return "not reached" if passage.pending is None else f"step {passage.pending:,}, not yet held"


def _hold(passage: Passage) -> str:
    """Number of evaluations for which the level must be held, in words."""
    hold = passage.criterion.hold
    return "to the end of the run" if hold is None else f"for {hold} more evaluations"


def _last_step(found: Milestones, data: xr.Dataset) -> int:
    """The last step at which the run was evaluated or measured."""
    return max(found.last_step, int(data["step"].values[-1]))


def _values(data: xr.Dataset, name: str) -> np.ndarray:
    """The finite values of a measure; empty where it was not taken."""
    values = data[name].values if name in data else np.empty(0)
    return values[np.isfinite(values)]


def _listed(keys: Sequence[int]) -> str:
    """The first twelve frequencies, and how many more there are."""
    return ", ".join(map(str, keys[:12])) + (f" and {len(keys) - 12} more" if len(keys) > 12 else "")


def _said(rule: str) -> str:
    names = {"key_frequency_logit": "the logits", "key_frequency_neuron": "the neurons"}
    if rule == "given":
        return "given by the user, not found"
    found = "named by two of three criteria" if rule == "criteria" else f"read from {names.get(rule, 'the embedding')}"
    return f"{found} at the last step"


def _share(accuracy: float) -> str:
    """An accuracy that is never rounded up to 1."""
    return f"{math.floor(accuracy * 1000) / 1000:.3f}" if accuracy >= 0.99 else f"{accuracy:.2f}"
