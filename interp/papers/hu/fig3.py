"""Figure H3: accuracy of an MLP by training fraction."""

import math

import xarray as xr

from interp.papers.hu import PAPER
from interp.papers.hu.claims import CHANCE, SCALARS, THREE_SEEDS, OneRun, at_fractions, delayed_gain, steady
from interp.papers.hu.curves import curves_picture, over_training
from interp.papers.hu.runs import FRACTIONS, configs, mlp_cases
from interp.papers.kit.curves import last_evaluation, step_of
from interp.papers.kit.figure import Claim, Figure

__all__ = ["FIGURE"]


def _half_rise_ratio(limit: float) -> OneRun:
    """Steps of the test accuracy to half of its best over those of the train accuracy to half of its own.

    NaN of runs that have not learned half of the training set. A test accuracy that stays at chance has not risen yet:
    its number is how late it is already, if that is beyond `limit`.
    """

    def ratio(run: xr.Dataset) -> float:
        _, train = steady(run, "train_accuracy")
        _, test = steady(run, "test_accuracy")
        if not len(train) or train.max() < 0.5:
            return math.nan
        learned = step_of(run, "train_accuracy", train.max() / 2)
        if test.max() >= CHANCE:
            return step_of(run, "test_accuracy", test.max() / 2) / learned
        so_far = last_evaluation(run) / learned
        return so_far if so_far > limit else math.nan

    return ratio


def _best_train(budget: int) -> OneRun:
    """Best train accuracy, without spikes; below 99.9 % it is known only of runs of the published length."""

    def best(run: xr.Dataset) -> float:
        _, train = steady(run, "train_accuracy")
        found = float(train.max()) if len(train) else math.nan
        return found if found >= 0.999 or last_evaluation(run) >= budget else math.nan

    return best


FIGURE = Figure(
    paper=PAPER,
    label="H3",
    title="Accuracy of the MLP, 15, 30, 45 %",
    runs=configs(mlp_cases),
    results=over_training(mlp_cases),
    picture=curves_picture("accuracy", "MLP: accuracy by training fraction"),
    claims=(
        Claim(
            text="Train and test accuracy rise together: half of its best is at most twice as late for test",
            measure=at_fractions(_half_rise_ratio(2), *FRACTIONS, inputs="numbers"),
            at_most=2,
            unit="x",
            needs="runs that learn half of their training set",
        ),
        Claim(
            text="No grokking: test accuracy gains at most 0.2 after twice the steps of train accuracy to its best",
            measure=at_fractions(delayed_gain, *FRACTIONS, inputs="numbers"),
            at_most=0.2,
            needs="runs that learn nine tenths of their training set, and go on for as long again",
        ),
        Claim(
            text="Train accuracy stays below 100 % (99.9 %) for 20,000 steps",
            measure=at_fractions(_best_train(20_000), *FRACTIONS, inputs="numbers"),
            at_most=0.999,
            needs="20,000 steps",
        ),
    ),
    notes=SCALARS + "The laptop preset is p = 47, 3,000 steps (600 with embeddings). " + THREE_SEEDS,
    minutes={"toy": 0.1, "laptop": 5, "paper": 240},
)
