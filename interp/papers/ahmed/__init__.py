"""Grokking in neural networks and the role of regularization (Ahmed, AIMS essay, 2024): recurrent nets.

An LSTM or an RNN reads the sentence `<sos> a + b mod =`, all its initial weights times 5; decoupled weight decay draws
them back, at a rate per step, so that the norm falls roughly as

    |theta| ~ exp(-lr wd t),

and what grokking waits for is the product lr wd t. The essay's decay of 0.01 takes hundreds of thousands of steps. The
laptop preset takes 0.1 (or 0.3) and a tenth (a thirtieth) of the time; that is good for the time of grokking and not
for its shape, which the lower decay smears out, and where decay and gradient balance is another norm too.

Figures are named as in the essay without the chapter: A2 is figure 5.2, A78 figure 7.8. Each row of panels is a
setting, as in the essay's appendix, with loss, accuracy and weight norm, and a line where the weight decay changes.

What its words mean here, fixed before the runs:

- A net has fitted at the first sustained training accuracy of 99 %, and generalised at that of 95 % on held-out pairs;
  the delay is the quotient of the two steps. It groks if the delay is at least 2; a net that has fitted and has not
  generalised by its end has not grokked.
- Where accuracy is below that, commutativity may be all it has learned: (b, a) is trained on for a share of the
  held-out (a, b) that is the training fraction. "Poor" and "half-way" are read off the other pairs, at stored steps.
- Something is earlier, or more of a thing, by a tenth at least: evaluations are too far apart to tell less.
"""

from collections.abc import Callable, Sequence
from functools import partial

from interp.config import RunConfig
from interp.papers.ahmed.drawing import plot_rows
from interp.papers.ahmed.numbers import (
    delay_begun,
    delays_by_scale,
    doubled_decay,
    faster_unscaled,
    final_accuracy,
    growth,
    held,
    highest,
    largest_delay,
    lost,
    more_gradual_unscaled,
    more_pronounced,
    norm_without,
    slowest_rise,
    smallest,
    smallest_delay,
)
from interp.papers.ahmed.results import (
    over_training,
    panel_of_fraction,
    panel_of_regularisation,
    panel_of_scale,
    panel_of_schedule,
    panel_without_decay,
)
from interp.papers.ahmed.runs import (
    begun,
    by_fraction,
    regularised,
    removed_early,
    removed_late,
    scaled,
    without,
    without_decay,
)
from interp.papers.ahmed.sizes import DELAYED, HARMLESS, MORE, PAPER, POOR
from interp.papers.kit.figure import Claim, Figure, Preset

__all__ = ["FIGURES"]

FITTING = "runs that fit their training set"
CONTROL = "runs that fit their training set, and one with weight decay that generalises in the same time"
GENERALISING = "runs that generalise"


def _claims_by_fraction(net: str) -> tuple[Claim, ...]:
    return (
        Claim(
            text=f"The {net} groks at 30, 50 and 70 %: validation reaches 95 % after at least twice the steps that "
            "training takes to 99 % (0: never).",
            measure=smallest_delay, at_least=DELAYED, unit="x", needs=FITTING,
        ),
        Claim(
            text="The improvement is sudden: from 50 % to 95 % validation accuracy takes no longer than the wait "
            "before it.",
            measure=slowest_rise, at_most=1.0, unit="of the wait", needs=GENERALISING,
        ),
        Claim(
            text="The smaller the fraction, the more pronounced: its delay (steps to validation over steps to training "
            "accuracy) is longer than that of the next larger one.",
            measure=more_pronounced, at_least=MORE, unit="x",
            needs="runs that generalise at each fraction, or are longer",
        ),
    )  # fmt: skip


def _claim_without(net: str, dropout: float) -> Claim:
    return Claim(
        text=f"The {net} does not generalise without weight decay, {'dropout' if dropout else 'no dropout'}: on pairs "
        "whose mirror is held out too, no accuracy above 50 % is held.",
        measure=partial(highest, of=held, weight_decay=0.0, dropout=dropout), at_most=POOR, unit="accuracy",
        needs=CONTROL,
    )  # fmt: skip


def _claim_dropout(net: str) -> Claim:
    return Claim(
        text=f"With weight decay and dropout the {net} groks, at one fraction at least: validation reaches 95 % after "
        "at least twice the steps that training takes to 99 % (0: never).",
        measure=largest_delay, at_least=DELAYED, unit="x", needs=FITTING,
    )  # fmt: skip


def _claims_by_scale(net: str) -> tuple[Claim, ...]:
    cell = net.lower()
    return (
        Claim(
            text=f"{net}, all initial weights times 5: groks, validation reaches 95 % after at least twice the steps "
            "that training takes to 99 % (0: never).",
            measure=partial(delays_by_scale, cell=cell), at_least=DELAYED, unit="x", needs=FITTING,
        ),
        Claim(
            text=f"{net}: with unscaled weights generalisation is faster, in fewer steps than with weights times 5.",
            measure=partial(faster_unscaled, cell=cell), at_least=MORE, unit="x", needs=GENERALISING,
        ),
        Claim(
            text=f"{net}: with unscaled weights generalisation is more gradual, from 50 % to 95 % validation accuracy "
            "in a larger share of the steps it takes.",
            measure=partial(more_gradual_unscaled, cell=cell), at_least=MORE, unit="x",
            needs="runs that generalise with either initialisation",
        ),
    )  # fmt: skip


SIZE = (
    "The essay's learning rate is lost; the paper preset takes 1e-3, which lr wd t makes likely. Laptop: batches of 64 "
    "(the essay: 32); "
)
LSTM_SIZE = "LSTM and embeddings of 64, learning rate 3e-3. "
RNN_SIZE = (
    "tanh RNN and embeddings of 128, p = 47, learning rate 1e-3, weight decay 0.3 for 0.01, time divided by 30; no "
    "lower one is known to make it grok, and that of the essay was not tried. "
)
BY_FRACTION_LSTM = "p = 47, weight decay 0.3 for 0.01, time divided by 30"
SCHEDULED = (
    f"{SIZE}{LSTM_SIZE}p = 31, one seed, 70 % of the pairs (the essay: 50 %). Weight decay 0.1 stands for 0.01, time "
    "divided by 10, which is right for the time of grokking and not for its shape. "
)
ADAM = (
    "'Adam' has no weight decay at all, neither decoupled nor as L2 in the gradient. A run counts only if it has "
    "fitted its training set, which dropout makes slow with large initial weights, and if the same net with weight "
    "decay and no dropout has generalised in as many steps (those runs are not drawn). "
)


def _figure(
    label: str,
    title: str,
    runs: Callable[[Preset], Sequence[RunConfig]],
    panel: Callable[[RunConfig], str],
    claims: tuple[Claim, ...],
    *,
    notes: str,
    minutes: tuple[float, float],
) -> Figure:
    """A figure of the essay; `minutes` of the laptop and of the paper preset."""
    return Figure(
        paper=PAPER,
        label=label,
        title=title,
        runs=runs,
        results=partial(over_training, panel=panel),
        picture=partial(plot_rows, title=title),
        claims=claims,
        notes=notes.strip(),
        ensemble_size=8,
        minutes={"toy": 0.1, "laptop": minutes[0], "paper": minutes[1]},
    )


FIGURES: tuple[Figure, ...] = (
    _figure(
        "A2",
        "LSTM by training fraction",
        partial(by_fraction, "lstm"),
        panel_of_fraction,
        _claims_by_fraction("LSTM"),
        notes=f"{SIZE}{LSTM_SIZE}{BY_FRACTION_LSTM}; two seeds. The delay is a quotient, so that epochs and steps "
        "give the same; a fraction that has not generalised by its end enters with the least its delay can be.",
        minutes=(1.8, 150),
    ),
    _figure(
        "A3",
        "RNN by training fraction",
        partial(by_fraction, "rnn"),
        panel_of_fraction,
        _claims_by_fraction("RNN"),
        notes=f"{SIZE}{RNN_SIZE}One seed. How much of a delay there is depends on p (hardly any at p = 59); at 30 % "
        "no run is known to generalise in this time.",
        minutes=(1.5, 60),
    ),
    _figure(
        "A4",
        "LSTM without weight decay",
        without,
        panel_of_schedule,
        (
            _claim_without("LSTM", 0.0),
            Claim(
                text="Without weight decay the weight norm ends above that with it.",
                measure=norm_without,
                at_least=MORE,
                unit="x",
            ),
        ),
        notes=f"{SCHEDULED}'Never' is as far as run: the essay's second panel, much longer, is twice as long in the "
        "paper preset (how long is not stated) and left out on the laptop.",
        minutes=(0.8, 200),
    ),
    _figure(
        "A5",
        "LSTM, weight decay removed early",
        removed_early,
        panel_of_schedule,
        (
            Claim(
                text="Weight decay removed early: generalisation is poor, on pairs whose mirror is held out too the "
                "accuracy at the end is 50 % at most.",
                measure=partial(highest, of=final_accuracy, phase="early"),
                at_most=POOR,
                unit="accuracy",
                needs=CONTROL,
            ),
            Claim(
                text="The weight norm keeps growing after the removal, in the first and in the second half of what is "
                "left of the run.",
                measure=partial(smallest, of=growth),
                at_least=1.0,
                unit="x in each half",
                needs="two stored steps and more behind the removal",
            ),
        ),
        notes=f"{SCHEDULED}The essay removes it at epochs 60, 70, 97 and 200, long before anything else happens. The "
        "removals in between, while the norm is on its way to that at which the net generalises, are not in the essay "
        "and are not judged by the first claim: they show which removal is too early.",
        minutes=(1.7, 400),
    ),
    _figure(
        "A6",
        "LSTM, weight decay removed late",
        removed_late,
        panel_of_schedule,
        (
            Claim(
                text="Weight decay removed after grokking: validation accuracy at the end is not below that at the "
                "removal by more than 5 points.",
                measure=partial(smallest, of=lost),
                at_least=HARMLESS,
                unit="accuracy",
                needs="runs that have generalised for good before the removal",
            ),
        ),
        notes=f"{SCHEDULED}The essay removes it at epochs 3495, 3690, 3850 and 4270. Levels are medians of six "
        "evaluations, so that a spike of the loss is no loss of generalisation.",
        minutes=(0.8, 200),
    ),
    _figure(
        "A7",
        "LSTM, weight decay begun late",
        begun,
        panel_of_schedule,
        (
            Claim(
                text="Weight decay that sets in after the training set is fitted leads to grokking nevertheless: "
                "validation reaches 95 % after at least twice the steps that training takes to 99 % (0: never).",
                measure=partial(smallest_delay, of=delay_begun),
                at_least=DELAYED,
                unit="x",
                needs="runs that fit their training set and have not generalised when weight decay sets in",
            ),
            Claim(
                text="Twice the weight decay: grokking is earlier, in fewer steps after it sets in.",
                measure=doubled_decay,
                at_least=MORE,
                unit="x",
                needs=GENERALISING,
            ),
        ),
        notes=f"{SCHEDULED}When it sets in is not stated in the essay; epoch 2000 of the paper preset is a choice.",
        minutes=(0.8, 100),
    ),
    _figure(
        "A71",
        "RNN, Adam, without and with dropout",
        partial(without_decay, "rnn"),
        panel_without_decay,
        tuple(_claim_without("RNN", dropout) for dropout in (0.0, 0.5)),
        notes=f"{ADAM}{SIZE}{RNN_SIZE}One seed; 50 and 70 % only, as in this time no RNN is known to generalise "
        "from 30 %.",
        minutes=(2.7, 180),
    ),
    _figure(
        "A72",
        "RNN, AdamW with dropout",
        partial(regularised, "rnn", decay=True, dropouts=(0.5,)),
        panel_of_regularisation,
        (_claim_dropout("RNN"),),
        notes=f"{SIZE}{RNN_SIZE}One seed. The essay does not say at which fractions it groks.",
        minutes=(0.8, 60),
    ),
    _figure(
        "A73",
        "LSTM, Adam, without and with dropout",
        partial(without_decay, "lstm"),
        panel_without_decay,
        tuple(_claim_without("LSTM", dropout) for dropout in (0.0, 0.5)),
        notes=f"{ADAM}{SIZE}{LSTM_SIZE}{BY_FRACTION_LSTM}; one seed.",
        minutes=(2.1, 450),
    ),
    _figure(
        "A74",
        "LSTM, AdamW with dropout",
        partial(regularised, "lstm", decay=True, dropouts=(0.5,)),
        panel_of_regularisation,
        (_claim_dropout("LSTM"),),
        notes=f"{SIZE}{LSTM_SIZE}{BY_FRACTION_LSTM}; one seed. The essay does not say at which fractions it groks.",
        minutes=(0.6, 150),
    ),
    _figure(
        "A78",
        "Initial weights, unscaled and times 5",
        scaled,
        panel_of_scale,
        (*_claims_by_scale("RNN"), *_claims_by_scale("LSTM")),
        notes=f"{SIZE}{LSTM_SIZE}p = 59 (at p = 31 the unscaled one has a delay too), weight decay 0.1 for 0.01, "
        f"time divided by 10; {RNN_SIZE}One seed each; 70 %. The initial norm is the whole difference, so 'faster' is "
        "in steps to a validation accuracy of 95 %.",
        minutes=(1.5, 195),
    ),
)
"""A2 to A7, A71 to A74 (the appendix's figures 7.1 to 7.4) and A78."""
