"""Exploring Grokking: Experimental and Mechanistic Investigations (Hu, Zhou, Yu).

Transformers, an MLP and an LSTM learn modular addition at many training fractions.

    H1          accuracy against step, openai/grok's words ("symbolic" encoding), 5 to 90 %
    H2, H6      accuracy and loss, tokens (x, y, p) ("direct" encoding), 15, 30, 45 %
    H7          steps until generalisation against the training fraction, both encodings
    H3, H8; H4  the MLP's accuracy and loss; the LSTM's accuracy
    H5          best accuracy within 1800 updates against the training fraction, by optimiser

The paper calls the held-out pairs "validation", here they are "test", as everywhere in this package. Pairs are ordered,
so that a network that knows no more than a + b = b + a is right on a share alpha of the held-out pairs, alpha being the
training fraction: figures show that level, and claims about failure count the pairs whose mirror is held out too.

One reading holds throughout. Memorised and generalised are train accuracy at 99 % and test accuracy at 95 %, sustained
as in `interp.analysis.curves`; "about x" is x within a factor of two; "never" is judged of runs that went on for ten
times as long as memorising took, and failures to come by a given step only of runs that got that far.
"""

__all__ = ["PAPER", "P"]

PAPER = "Exploring Grokking: Experimental and Mechanistic Investigations (Hu, Zhou, Yu)"
P = 97
"""Modulus of the paper: its numbers of steps can be tested only there."""
