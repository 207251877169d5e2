"""Figure H2: accuracy of transformers on tokens (x, y, p) by training fraction."""

from interp.papers.hu import PAPER
from interp.papers.hu.claims import (
    CHANCE,
    GROKKED,
    LONGER,
    MODULUS,
    ONE_SEED,
    at_fractions,
    best_unmirrored,
    lateness,
    ratio_of,
    reaches,
)
from interp.papers.hu.curves import curves_picture, over_training
from interp.papers.hu.runs import FRACTIONS, configs, laptop_ends, three_fractions
from interp.papers.kit.figure import Claim, Figure

__all__ = ["FIGURE"]

FIGURE = Figure(
    paper=PAPER,
    label="H2",
    title="Accuracy of the one-layer transformer on tokens (x, y, p), 15, 30, 45 %",
    runs=configs(three_fractions),
    results=over_training(three_fractions, mirrors=True),
    picture=curves_picture("accuracy", "Direct encoding: accuracy by training fraction"),
    claims=(
        Claim(
            text="15 %: no generalisation; at best 10 % right of the pairs whose mirror is held out too",
            measure=at_fractions(best_unmirrored, 0.15),
            at_most=CHANCE,
            needs=LONGER,
        ),
        Claim(
            text="30 %: train accuracy reaches 100 % (99.9 %) at about 200 steps",
            measure=at_fractions(reaches("train_accuracy", 0.999, 400), 0.3),
            at_least=100,
            at_most=400,
            unit="steps",
            needs=MODULUS,
        ),
        Claim(
            text="30 %: test accuracy surges, through 50 %, at about 6,000 steps",
            measure=at_fractions(reaches("test_accuracy", 0.5, 12_000), 0.3),
            at_least=3000,
            at_most=12_000,
            unit="steps",
            needs=MODULUS,
        ),
        Claim(
            text="30 %: test accuracy reaches 100 % (99.9 %) at about 9,100 steps",
            measure=at_fractions(reaches("test_accuracy", 0.999, 18_200), 0.3),
            at_least=4550,
            at_most=18_200,
            unit="steps",
            needs=MODULUS,
        ),
        Claim(
            text="45 %: still a delay; generalising takes at least twice as many steps as memorising",
            measure=at_fractions(lateness, 0.45),
            at_least=2,
            unit="x",
            needs=GROKKED,
        ),
        Claim(
            text="45 %: a shorter delay than at 30 %, by a tenth at least",
            measure=ratio_of(at_fractions(lateness, 0.45), at_fractions(lateness, 0.3)),
            at_most=0.9,
            unit="x",
            needs=GROKKED,
        ),
    ),
    notes="The initialisation, N(0, 0.64/d_model), and biases in the MLP alone were chosen here. The laptop preset "
    "keeps p = 97, since the delay does not shrink with p, and cuts the runs at "
    f"{laptop_ends(*FRACTIONS)} steps instead of 25,000. {ONE_SEED}",
    minutes={"toy": 0.1, "laptop": 14, "paper": 80},
)
