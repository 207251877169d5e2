"""Progress measures for grokking via mechanistic interpretability (Nanda et al., 2023), arXiv:2301.05217.

A network that adds mod 113 memorises, forms a circuit on a few key frequencies while neither loss shows it, and cleans
up its memory. The restricted loss (key frequencies only) and the excluded loss (without them) tell the phases apart.
"""

__all__ = ["PAPER"]

PAPER = "Nanda et al., Progress measures for grokking via mechanistic interpretability"
