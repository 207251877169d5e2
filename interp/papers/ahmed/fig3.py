"""Figure A3 (5.3 of the essay): the RNN by training fraction."""

from functools import partial

from interp.papers.ahmed import PAPER
from interp.papers.ahmed.claims import RNN_SIZE, SIZE, claims_by_fraction
from interp.papers.ahmed.picture import picture
from interp.papers.ahmed.results import over_training, panel_of_fraction
from interp.papers.ahmed.runs import by_fraction
from interp.papers.kit.figure import Figure

__all__ = ["FIGURE"]

TITLE = "RNN by training fraction"

FIGURE = Figure(
    paper=PAPER,
    label="A3",
    title=TITLE,
    runs=partial(by_fraction, "rnn"),
    results=partial(over_training, panel=panel_of_fraction),
    picture=partial(picture, title=TITLE),
    claims=claims_by_fraction("RNN"),
    notes=f"{SIZE}{RNN_SIZE}One seed. How much of a delay there is depends on p (hardly any at p = 59); at 30 % "
    "no run is known to generalise in this time.",
    ensemble_size=8,
    minutes={"toy": 0.1, "laptop": 1.5, "paper": 60},
)
