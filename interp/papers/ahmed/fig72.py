"""Figure A72 (7.2 of the essay): the RNN with AdamW and dropout."""

from functools import partial

from interp.papers.ahmed import PAPER
from interp.papers.ahmed.claims import RNN_SIZE, SIZE, claim_dropout
from interp.papers.ahmed.picture import picture
from interp.papers.ahmed.results import over_training, panel_of_regularisation
from interp.papers.ahmed.runs import regularised
from interp.papers.kit.figure import Figure

__all__ = ["FIGURE"]

TITLE = "RNN, AdamW with dropout"

FIGURE = Figure(
    paper=PAPER,
    label="A72",
    title=TITLE,
    runs=partial(regularised, "rnn", decay=True, dropouts=(0.5,)),
    results=partial(over_training, panel=panel_of_regularisation),
    picture=partial(picture, title=TITLE),
    claims=(claim_dropout("RNN"),),
    notes=f"{SIZE}{RNN_SIZE}One seed. The essay does not say at which fractions it groks.",
    ensemble_size=8,
    minutes={"toy": 0.1, "laptop": 0.8, "paper": 60},
)
