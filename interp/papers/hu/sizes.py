"""What the figures of Hu et al. have in common: thresholds, and the kinds of their parts."""

from collections.abc import Callable
from typing import Any

import xarray as xr

from interp.config import RunConfig
from interp.papers.kit.figure import Bounds

__all__ = ["COMMUTED", "LASTING", "PAPER", "POINTS", "Cases", "Label", "Measured", "OneRun", "P"]

PAPER = "Exploring Grokking: Experimental and Mechanistic Investigations (Hu, Zhou, Yu)"
P = 97
"""The paper's modulus, at which its numbers of steps are to be had."""
LASTING = 10
"""A run that is to show that something never comes lasts so many times as long as memorising took."""
COMMUTED = 0.1
"""Accuracy on pairs whose mirror is held out, up to which a network has not generalised at all."""
POINTS = 2000
"""Of a figure, so that it stays a small file."""

Label = dict[str, Any]
Cases = list[tuple[Label, RunConfig]]
OneRun = Callable[[xr.Dataset], float]
"""A number from the curves of one run, over `step`; NaN where they cannot tell."""
Measured = Callable[[xr.Dataset], float | Bounds]
"""A number from all runs, or the least and the most that it can be."""
