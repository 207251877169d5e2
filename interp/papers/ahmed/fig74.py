"""Figure A74 (7.4 of the essay): the LSTM with AdamW and dropout."""

from functools import partial

from interp.papers.ahmed import PAPER
from interp.papers.ahmed.claims import BY_FRACTION_LSTM, LSTM_SIZE, SIZE, claim_dropout
from interp.papers.ahmed.picture import picture
from interp.papers.ahmed.results import over_training, panel_of_regularisation
from interp.papers.ahmed.runs import regularised
from interp.papers.kit.figure import Figure

__all__ = ["FIGURE"]

TITLE = "LSTM, AdamW with dropout"

FIGURE = Figure(
    paper=PAPER,
    label="A74",
    title=TITLE,
    runs=partial(regularised, "lstm", decay=True, dropouts=(0.5,)),
    results=partial(over_training, panel=panel_of_regularisation),
    picture=partial(picture, title=TITLE),
    claims=(claim_dropout("LSTM"),),
    notes=f"{SIZE}{LSTM_SIZE}{BY_FRACTION_LSTM}; one seed. The essay does not say at which fractions it groks.",
    ensemble_size=8,
    minutes={"toy": 0.1, "laptop": 0.6, "paper": 150},
)
