"""Grokking in neural networks and the role of regularization (Ahmed, AIMS essay, 2024).

A recurrent net, an LSTM or an RNN, reads the sentence `<sos> a + b mod =`, all its initial weights times 5; decoupled
weight decay draws them back, at a rate per step, so that the norm falls roughly as

    |theta| ~ exp(-lr wd t),

and grokking waits for the product lr wd t. The essay's decay of 0.01 takes hundreds of thousands of steps. The
laptop preset takes 0.1 (or 0.3) and a tenth (a thirtieth) of the time; that is good for the time of grokking and not
for its shape, which the lower decay smears out, and where decay and gradient balance is another norm too.

Figures are named as in the essay without the chapter: A2 is figure 5.2, A78 figure 7.8. Each row of panels is a
setting, as in the essay's appendix, with loss, accuracy and weight norm, and a line where the weight decay changes.

Its words are read as follows, fixed before the runs:

- A net has fitted at the first sustained training accuracy of 99 %, and generalised at that of 95 % on held-out pairs;
  the delay is the quotient of the two steps. It groks if the delay is at least 2; a net that has fitted and has not
  generalised by its end has not grokked.
- Where accuracy is below that, commutativity may be all it has learned: (b, a) is trained on for a share of the
  held-out (a, b) that is the training fraction. "Poor" and "half-way" are read off the other pairs, at stored steps.
- Something is earlier, or more of a thing, by a tenth at least: evaluations are too far apart to tell less.
"""

__all__ = ["PAPER"]

PAPER = "Grokking in neural networks and the role of regularization (Ahmed, AIMS essay, 2024)"
