"""The Clock and the Pizza (Zhong et al., 2023), arXiv:2306.17844.

Networks that add mod 59 by multiplying the two operands' places on a circle are clocks, networks that take the midpoint
are pizzas; attention decides which is learned. Formulas and definitions: `interp.analysis.algorithms`.
"""

__all__ = ["PAPER"]

PAPER = "Zhong et al., The Clock and the Pizza"
