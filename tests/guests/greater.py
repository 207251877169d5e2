"""A user's task: which of two numbers is the larger one. The answers are no operands."""

from dataclasses import dataclass
from typing import Literal

from interp.tasks import Classes, Examples, Numbers, Task, Tuples, split, tuples_of


@dataclass(frozen=True, kw_only=True)
class Greater(Task):
    """All pairs (a, b) of 0 .. n-1, with the answer 1 where a > b and 0 elsewhere."""

    n: int = 11
    train_fraction: float = 0.5
    seed: int = 0
    encoding: Literal["operands", "direct"] = "direct"

    def _rules(self) -> None:
        self._require("n", self.n >= 2, ">= 2")

    @property
    def slug(self) -> str:
        return f"greater{self.n}"

    def examples(self) -> Examples:
        numbers = Numbers(self.n)
        a, b = tuples_of(numbers).T
        tokens = tuples_of(numbers, equals=self.encoding == "direct")
        train, test = split(len(tokens), self.train_fraction, self.seed)
        return Examples.of(tokens, (a > b).long(), train, test, inputs=Tuples(numbers), answers=Classes(2))
