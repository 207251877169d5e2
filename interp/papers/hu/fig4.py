"""Figure H4: accuracy of an LSTM by training fraction."""

import math

import numpy as np
import xarray as xr

from interp.config.recipes import get
from interp.papers.hu import PAPER, P
from interp.papers.hu.claims import SCALARS, THREE_SEEDS, OneRun, at_fractions, delayed_gain, steady
from interp.papers.hu.curves import curves_picture, over_training
from interp.papers.hu.runs import INPUTS, Cases, configs, of_inputs
from interp.papers.kit.curves import last_evaluation
from interp.papers.kit.figure import Claim, Figure, Preset

__all__ = ["FIGURE"]

FRACTIONS = (0.3, 0.45, 0.6)


def _cases(preset: Preset) -> Cases:
    """LSTMs at the learning rate 1e-2, full batch."""
    base = get("hu-lstm").replace({"task.p": {"toy": 11, "laptop": 47, "paper": P}[preset]})
    words = base.replace({"model.embedding": "learned", "model.d_model": 20})
    far = {"toy": (20, 20), "laptop": (10_000, 2000), "paper": (100_000, 100_000)}[preset]
    return of_inputs(base, words, FRACTIONS, dict(zip(INPUTS, far)), preset)


def _best_test(budget: int, level: float) -> OneRun:
    """Best test accuracy, without spikes; below `level` it is known only of runs of the published length."""

    def best(run: xr.Dataset) -> float:
        _, test = steady(run, "test_accuracy")
        found = float(test.max()) if len(test) else math.nan
        return found if found >= level or last_evaluation(run) >= budget else math.nan

    return best


FIGURE = Figure(
    paper=PAPER,
    label="H4",
    title="Accuracy of the LSTM, 30, 45, 60 %",
    runs=configs(_cases),
    results=over_training(_cases),
    picture=curves_picture("accuracy", "LSTM: accuracy by training fraction"),
    claims=(
        Claim(
            text="No grokking: test accuracy gains at most 0.2 after twice the steps of train accuracy to its best",
            measure=at_fractions(delayed_gain, *FRACTIONS, inputs="numbers"),
            at_most=0.2,
            needs="runs that learn nine tenths of their training set, and go on for as long again",
        ),
        Claim(
            text="Test accuracy reaches a relatively high level, 50 % or more, within 100,000 epochs",
            measure=at_fractions(_best_test(100_000, 0.5), *FRACTIONS, of=np.min, inputs="numbers"),
            at_least=0.5,
            needs="100,000 epochs",
        ),
    ),
    notes=SCALARS + "Full batch, so that an epoch is an update. Adam at 1e-2 spikes: accuracies that are judged "
    "are running medians over five evaluations. The laptop preset is p = 47 and 10,000 updates (2,000 with "
    "embeddings), a tenth of the paper's. " + THREE_SEEDS,
    minutes={"toy": 0.1, "laptop": 4, "paper": 160},
)
