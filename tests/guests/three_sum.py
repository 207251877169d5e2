"""A user's task: sums of three operands mod p. The inputs are no pairs."""

from dataclasses import dataclass

from interp.tasks import Examples, Residues, Task, Tuples, split, tuples_of


@dataclass(frozen=True, kw_only=True)
class ThreeSum(Task):
    """All triples (a, b, c) of residues mod p, with the answer a + b + c; the input is `a b c =`."""

    p: int = 7
    train_fraction: float = 0.5
    seed: int = 0
    equals: bool = True
    """Whether '=' follows the operands."""

    def examples(self) -> Examples:
        residues = Residues(self.p)
        labels = tuples_of(residues, 3).sum(1) % self.p
        tokens = tuples_of(residues, 3, equals=self.equals)
        train, test = split(len(tokens), self.train_fraction, self.seed)
        inputs = Tuples(residues, arity=3)
        return Examples.of(tokens, labels, train, test, inputs=inputs, answers=residues, operation="add")
