"""Figure A73 (7.3 of the essay): the LSTM with Adam, without and with dropout."""

from functools import partial

from interp.papers.ahmed import PAPER
from interp.papers.ahmed.claims import ADAM, BY_FRACTION_LSTM, LSTM_SIZE, SIZE, claim_without
from interp.papers.ahmed.picture import picture
from interp.papers.ahmed.results import over_training, panel_without_decay
from interp.papers.ahmed.runs import without_decay
from interp.papers.kit.figure import Figure

__all__ = ["FIGURE"]

TITLE = "LSTM, Adam, without and with dropout"

FIGURE = Figure(
    paper=PAPER,
    label="A73",
    title=TITLE,
    runs=partial(without_decay, "lstm"),
    results=partial(over_training, panel=panel_without_decay),
    picture=partial(picture, title=TITLE),
    claims=tuple(claim_without("LSTM", dropout) for dropout in (0.0, 0.5)),
    notes=f"{ADAM}{SIZE}{LSTM_SIZE}{BY_FRACTION_LSTM}; one seed.",
    ensemble_size=8,
    minutes={"toy": 0.1, "laptop": 2.1, "paper": 450},
)
