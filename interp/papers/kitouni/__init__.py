"""Some thoughts on Grokking (Kitouni): a post on "Towards Understanding Grokking" (Liu et al., 2022).

A transformer that learns addition mod 59 ends with its numbers on a circle (K1). In the axes of the end the circle is
seen before training (K2), and it may be spread over several components (K3). A small MLP generalises long after it has
memorised (K4), and with more weight decay it does not wait (K5). https://arxiv.org/abs/2205.10343,
https://github.com/okitouni/simple-grokking.

*Order* is the resultant R_k of `interp.analysis.geometry`, 0 to 1: the agreement of the angles of the numbers t in a
plane with the circle of frequency k. A frequency has a plane of its own, W_E^T cos(2 pi k t/p) and
W_E^T sin(2 pi k t/p), in which even a random embedding is ordered, the better the wider it is (signal to noise
sqrt(2 d_model/p)).
"""

__all__ = ["LEARNED", "PAPER"]

PAPER = "Kitouni, Some thoughts on Grokking"
LEARNED = "a run that generalises"
"""Requirement of a claim about networks that have learned the task."""
