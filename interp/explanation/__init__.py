"""Explain: the algorithm of a run, found, rebuilt, scored against controls, dated, and certified.

explaining     `explain`: the account of a step with its verdict, certificate, timeline and what is left over
sentences      sentences of an account, their scores and controls, and whether they hold
words          words and formulas of an account
timeline       an account over the steps of a run, and when each part of it was born
ideal          the idealised network, made of the account's numbers alone
verifying      certificates of saved explanations, proved again from a run's weights
universality   the accounts of several runs beside each other
presenting     an explanation as lines of text, and as HTML

The mathematics is in `analysis`: `account`, `certificate`, `scrubbing`.
"""

from interp.explanation.explaining import Explanation, LeftOver, explain
from interp.explanation.sentences import Scores, Sentence
from interp.explanation.timeline import births
from interp.explanation.universality import compare_explanations
from interp.explanation.verifying import Verification, verify_explanation

__all__ = [
    "Explanation",
    "LeftOver",
    "Scores",
    "Sentence",
    "Verification",
    "births",
    "compare_explanations",
    "explain",
    "verify_explanation",
]
