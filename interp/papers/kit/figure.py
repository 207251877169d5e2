"""A figure of a paper as data: its runs, its results, its picture, and the paper's claims as numbers with intervals.

    runs(preset) -> configs -> trajectories -> results -> picture, and each claim's measure -> verdict

A claim is a number that is measured in the results, and the interval in which the paper's statement says it lies. Both
are fixed before the runs; a claim that fails is reported, not tuned.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from interp.config import RunConfig
from interp.errors import InvalidArgumentError

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr

    from interp.trajectory import Trajectory

__all__ = ["PRESETS", "Bounds", "Claim", "Figure", "Preset", "Verdict", "bounds"]

Bounds = tuple[float, float]
"""Lower and upper bound of a number that may not be known exactly."""
Preset = Literal["toy", "laptop", "paper"]
PRESETS: tuple[Preset, ...] = ("toy", "laptop", "paper")
"""Sizes of a figure. toy: seconds, to see that it works; laptop: minutes on two CPU cores; paper: as published."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Outcome of a claim."""

    text: str
    """Text of the claim."""
    expected: str
    """Interval in which the measured number was to lie."""
    measured: float
    """Measured number; NaN where the results cannot decide."""
    verdict: Literal["held", "did not hold", "not testable here"]
    reason: str = ""
    """Reason why the claim is not testable here; empty otherwise."""


def bounds(number: float | Bounds) -> Bounds:
    """Lower and upper bound of a number: equal where it is known, infinite where it is NaN.

    Example:
        >>> bounds(2.0), bounds(math.nan), bounds((1.0, math.inf))
        ((2.0, 2.0), (-inf, inf), (1.0, inf))
    """
    if isinstance(number, tuple):
        return number
    return (-math.inf, math.inf) if math.isnan(number) else (float(number), float(number))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Statement of a paper as a number that can be measured, and the interval in which it must lie."""

    text: str
    """Statement, in words that name the numbers."""
    measure: Callable[["xr.Dataset"], float | Bounds]
    """Number from the results of the figure; NaN where they cannot decide (too small a preset, a run that never
    memorised), or lower and upper bound, which may decide all the same."""
    at_least: float = -math.inf
    at_most: float = math.inf
    unit: str = ""
    """Unit of the measured number: steps, decades, ..."""
    needs: str = "a larger preset"
    """Missing ingredient where the measure is NaN."""

    def __post_init__(self) -> None:
        if not self.at_least <= self.at_most or (math.isinf(self.at_least) and math.isinf(self.at_most)):
            raise InvalidArgumentError(
                f"A claim must exclude something: `at_least` <= `at_most`, one of them finite; got {self.at_least} and "
                f"{self.at_most} for {self.text!r}."
            )

    @property
    def expected(self) -> str:
        """Interval as text.

        Example:
            >>> Claim(text="delay", measure=float, at_least=10, unit="x").expected
            '>= 10 x'
        """
        unit = f" {self.unit}" if self.unit else ""
        if math.isinf(self.at_most):
            return f">= {self.at_least:g}{unit}"
        if math.isinf(self.at_least):
            return f"<= {self.at_most:g}{unit}"
        return f"{self.at_least:g} to {self.at_most:g}{unit}"

    def judge(self, data: "xr.Dataset") -> Verdict:
        """Verdict on the claim; of a number that is known from one side only, the bound that decides is reported."""
        low, high = bounds(self.measure(data))
        held = self.at_least <= low and high <= self.at_most
        if not held and self.at_least <= high and low <= self.at_most:
            return Verdict(
                text=self.text,
                expected=self.expected,
                measured=math.nan,
                verdict="not testable here",
                reason=f"needs {self.needs}",
            )
        by_low = not math.isinf(self.at_least) if held else low > self.at_most
        return Verdict(
            text=self.text,
            expected=self.expected,
            measured=low if by_low else high,
            verdict="held" if held else "did not hold",
        )


def _no_runs(preset: Preset) -> Sequence[RunConfig]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Figure of a paper: its runs, its results, its picture and its claims."""

    paper: str
    """Author and title."""
    label: str
    """Name of the figure for `interp reproduce`: K1, H2, A5, B8."""
    title: str
    """Content of the figure, in one line."""
    results: Callable[[Sequence["Trajectory"], Preset], "xr.Dataset"]
    """Labelled results from the trajectories of `runs`, in their order. They hold everything drawn or judged."""
    picture: Callable[["xr.Dataset"], "go.Figure"]
    """Picture of these results."""
    claims: tuple[Claim, ...]
    runs: Callable[[Preset], Sequence[RunConfig]] = _no_runs
    """Configs of the runs to train; none for a figure of theory alone."""
    notes: str = ""
    """Choices made where the paper is silent, and statements that need care."""
    ensemble_size: int = 1
    """Number of runs of equal shape that are trained in one batched step, where that is faster."""
    minutes: dict[Preset, float] = field(default_factory=dict)
    """Measured or estimated minutes on two CPU cores, by preset."""
