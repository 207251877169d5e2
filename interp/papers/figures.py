"""A figure of a paper and what the paper claims with it, as data: what to run, what to compute, how to judge.

    runs(preset) -> configs -> trajectories -> compute -> labelled results -> plot, and each claim's measure -> verdict

A claim is a number that is measured in the results and the interval in which the paper's statement says it lies. It is
fixed before the runs; a claim that fails is reported, not tuned.
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
"""The least and the most that a number can be."""
Preset = Literal["toy", "laptop", "paper"]
PRESETS: tuple[Preset, ...] = ("toy", "laptop", "paper")
"""toy: seconds, to see that it works; laptop: two CPU cores, minutes; paper: the published sizes and budgets."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a claim."""

    text: str
    """The claim."""
    expected: str
    """The interval in which the measured number was to lie."""
    measured: float
    """The number; NaN where the results cannot decide."""
    verdict: Literal["held", "did not hold", "not testable here"]
    reason: str = ""
    """Why it is not testable here."""


def bounds(number: float | Bounds) -> Bounds:
    """A number as the least and the most that it can be.

    Example:
        >>> bounds(2.0), bounds(math.nan), bounds((1.0, math.inf))
        ((2.0, 2.0), (-inf, inf), (1.0, inf))
    """
    if isinstance(number, tuple):
        return number
    return (-math.inf, math.inf) if math.isnan(number) else (float(number), float(number))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of a paper as a number that can be measured, and where it must lie for the statement to hold."""

    text: str
    """The statement, in words that name the numbers."""
    measure: Callable[["xr.Dataset"], float | Bounds]
    """From the results of the figure; NaN where they cannot decide (too small a preset, a run that never memorised), or
    the least and the most that it can be, which may decide all the same."""
    at_least: float = -math.inf
    at_most: float = math.inf
    unit: str = ""
    """Of the measured number: steps, decades, ..."""
    needs: str = "a larger preset"
    """What is missing where the measure is NaN."""

    def __post_init__(self) -> None:
        if not self.at_least <= self.at_most or (math.isinf(self.at_least) and math.isinf(self.at_most)):
            raise InvalidArgumentError(
                f"A claim must exclude something: `at_least` <= `at_most`, one of them finite; got {self.at_least} and "
                f"{self.at_most} for {self.text!r}."
            )

    @property
    def expected(self) -> str:
        """The interval, as text.

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
        """Measure, and compare with what was expected; of a number that is not quite known the bound that decides."""
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


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure: its runs, its results, its picture and its claims."""

    paper: str
    """Author and title."""
    label: str
    """As `interp reproduce` calls it: K1, H2, A5, B8."""
    title: str
    """What it shows, in a line."""
    runs: Callable[[Preset], Sequence[RunConfig]]
    """What has to be trained; none for a figure of theory alone."""
    compute: Callable[[Sequence["Trajectory"], Preset], "xr.Dataset"]
    """The labelled results, from the trajectories of `runs` in their order. Everything plotted or judged is in them."""
    plot: Callable[["xr.Dataset"], "go.Figure"]
    """The picture of these results."""
    claims: tuple[Claim, ...]
    notes: str = ""
    """What was chosen where the paper is silent, and where its statement needs care."""
    together: int = 1
    """How many runs of equal shape are trained in one batched step, where that is faster."""
    minutes: dict[Preset, float] = field(default_factory=dict)
    """Measured or estimated minutes on two CPU cores, by preset."""
