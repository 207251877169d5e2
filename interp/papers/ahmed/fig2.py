"""Figure A2 (5.2 of the essay): the LSTM by training fraction."""

from functools import partial

from interp.papers.ahmed import PAPER
from interp.papers.ahmed.claims import BY_FRACTION_LSTM, LSTM_SIZE, SIZE, claims_by_fraction
from interp.papers.ahmed.picture import picture
from interp.papers.ahmed.results import over_training, panel_of_fraction
from interp.papers.ahmed.runs import by_fraction
from interp.papers.kit.figure import Figure

__all__ = ["FIGURE"]

TITLE = "LSTM by training fraction"

FIGURE = Figure(
    paper=PAPER,
    label="A2",
    title=TITLE,
    runs=partial(by_fraction, "lstm"),
    results=partial(over_training, panel=panel_of_fraction),
    picture=partial(picture, title=TITLE),
    claims=claims_by_fraction("LSTM"),
    notes=f"{SIZE}{LSTM_SIZE}{BY_FRACTION_LSTM}; two seeds. The delay is a quotient, so that epochs and steps "
    "give the same; a fraction that has not generalised by its end enters with the least its delay can be.",
    ensemble_size=8,
    minutes={"toy": 0.1, "laptop": 1.8, "paper": 150},
)
