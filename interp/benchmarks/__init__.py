"""Benchmarks for methods of interpretability: networks that are understood, and scores of what a method finds in them.

known_features  `decomposition`: directions that are known, and the score of a dictionary of directions
"""

from interp.benchmarks.known_features import Decomposition, DictionaryScore, decomposition

__all__ = ["Decomposition", "DictionaryScore", "decomposition"]
