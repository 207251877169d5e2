"""Figure A71 (7.1 of the essay): the RNN with Adam, without and with dropout."""

from functools import partial

from interp.papers.ahmed import PAPER
from interp.papers.ahmed.claims import ADAM, RNN_SIZE, SIZE, claim_without
from interp.papers.ahmed.picture import picture
from interp.papers.ahmed.results import over_training, panel_without_decay
from interp.papers.ahmed.runs import without_decay
from interp.papers.kit.figure import Figure

__all__ = ["FIGURE"]

TITLE = "RNN, Adam, without and with dropout"

FIGURE = Figure(
    paper=PAPER,
    label="A71",
    title=TITLE,
    runs=partial(without_decay, "rnn"),
    results=partial(over_training, panel=panel_without_decay),
    picture=partial(picture, title=TITLE),
    claims=tuple(claim_without("RNN", dropout) for dropout in (0.0, 0.5)),
    notes=f"{ADAM}{SIZE}{RNN_SIZE}One seed; 50 and 70 % only, as in this time no RNN is known to generalise from 30 %.",
    ensemble_size=8,
    minutes={"toy": 0.1, "laptop": 2.7, "paper": 180},
)
