"""Configs of tasks, with the rules that their values obey."""

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from interp.config.base import added_field
from interp.config.declared import TaskConfig
from interp.config.polynomials import polynomial
from interp.errors import ConfigError

__all__ = [
    "Digits",
    "Gaussian",
    "Group",
    "GroupOperation",
    "Modular",
    "Operation",
    "Operations",
    "Parity",
    "Split",
    "Sums",
    "Symbolic",
]

Operation = Literal[
    "add", "subtract", "multiply", "divide", "x2+y2", "x2+xy+y2", "x2+xy+y2+x", "x3+xy", "x3+xy2+y", "x2+y", "x3+y",
    "divide_subtract", "add_multiply", "add_subtract",
]  # fmt: skip
GroupOperation = Literal["compose", "conjugate", "aba"]
_LOSS_RULE = (
    "`optimizer.loss` must be cross-entropy or exponential for the one logit of a point, cross-entropy, stablemax or "
    "mse elsewhere"
)
Split = Literal["torch-randperm", "python-shuffle", "numpy-shuffle", "stored"]


@dataclass(frozen=True, kw_only=True)
class _Split(TaskConfig):
    """Tasks that hold out a part of their inputs."""

    train_fraction: float = 0.3
    """Share of all pairs that is trained on, in (0, 1)."""
    split: Literal[Split, "numpy-choice"] = "torch-randperm"
    """Recipe that shuffles the pairs before the first ones become the training set; stored: no recipe, but the split
    that the folder of an imported run holds (all pairs on both sides where nothing is known of it)."""
    seed: int = 0
    """Seed of the split, and of the draws of a task that has others."""

    def _rules(self) -> None:
        self._require_share()
        self._require("seed", 0 <= self.seed < 2**32, "in 0 .. 2^32-1")

    @property
    def loss_rule(self) -> str:
        """See `TaskConfig.loss_rule`."""
        return _LOSS_RULE

    def _require_share(self) -> None:
        self._require("train_fraction", 0 < self.train_fraction < 1, "a share in (0, 1)")

    def _require_pairs_on_each_side(self, pairs: int) -> None:
        if not 1 <= int(self.train_fraction * pairs) < pairs:
            raise ConfigError(
                f"`{type(self).__name__}.train_fraction` must leave at least one of {pairs} pairs on each side; "
                f"got {self.train_fraction}."
            )


@dataclass(frozen=True, kw_only=True)
class _Pairs(_Split):
    """Tasks on pairs of operands (or tuples of `arity`), with a way to write a pair down."""

    split: Split = "torch-randperm"
    """Recipe that shuffles the pairs before the first ones become the training set, or stored."""
    encoding: Literal["direct", "operands", "sentence", "operation"] = "direct"
    """Tokens of a pair: direct is (a, b, =) with vocabulary p+1; operands is (a, b) with vocabulary p; operation is
    (a, o, b, =) with vocabulary p+2, '=' being token p and o, the operation's sign, p+1 ("Grokking", Power et al.,
    2022, figure 1); sentence is (<sos>, a, +, b, mod, =) with vocabulary p+4, one sign for whatever the operation is
    ("Grokking in neural networks and the role of regularization", Ahmed, 7.1; the vocabulary 114 and the three
    positions of its table 7.1 are those of its transformer, which reads direct tokens mod 113)."""
    outputs: Literal["numbers", "tokens"] = "numbers"
    """Classes: the p numbers, or all tokens, '=' included (as Nanda et al. train)."""
    hold_out: Literal["pairs", "rows", "a>b"] = added_field("pairs")
    """Rule of the split. pairs: the recipe shuffles the pairs. rows: it shuffles the first operands, and all pairs of
    those after the first share are held out. a>b: all pairs whose first operand is the larger are held out, and of the
    others those after the first share, which may be 1."""
    random_labels: float = added_field(0.0)
    """Share of the training inputs whose answers are drawn at random, all alike likely ("Understanding deep learning
    requires rethinking generalization", Zhang et al., 2017); held-out inputs keep theirs, and the same config without
    has the clean ones."""
    draws: int | None = added_field(None)
    """Size of a training set that is drawn with replacement from the inputs of the split to train on: some occur
    several times, and count so in the loss; those never drawn are held out. None: each input once."""

    arity = 2

    def _rules(self) -> None:
        super()._rules()
        self._require("random_labels", 0 <= self.random_labels <= 1, "a share in [0, 1]")
        self._require("draws", self.draws is None or self.draws >= 1, ">= 1, or None for each training input once")
        drawn = self.hold_out == "pairs" and self.draws is None
        if self.split == "stored" and not drawn:
            raise ConfigError(
                f"`{type(self).__name__}.split` stored is a list of pairs: `hold_out` must be pairs and `draws` None; "
                f"got hold_out={self.hold_out}, draws={self.draws}."
            )
        if self.encoding == "operands" and self.outputs == "tokens":
            raise ConfigError(
                f"`{type(self).__name__}.outputs` tokens needs encoding direct, where '=' is a token; got operands."
            )

    def _require_share(self) -> None:
        if self.hold_out == "a>b":
            self._require("train_fraction", 0 < self.train_fraction <= 1, "a share in (0, 1] of the pairs with a <= b")
        else:
            super()._require_share()

    @property
    def shuffles_inputs(self) -> bool:
        """See `TaskConfig.shuffles_inputs`."""
        return self.hold_out == "pairs"

    def _require_inputs_on_each_side(self, p: int, defined: int) -> None:
        """Raise a `ConfigError` where a side is empty; `defined` of all p^arity inputs have an answer."""
        if self.hold_out == "rows" and not 1 <= int(self.train_fraction * p) < p:
            raise ConfigError(
                f"`{type(self).__name__}.train_fraction` must leave at least one of {p} first operands on each side "
                f"(hold_out rows); got {self.train_fraction}."
            )
        if self.hold_out == "a>b":
            at_most = p * (p + 1) // 2
            self._require(
                "train_fraction", self.train_fraction * at_most >= 2, f"two of {at_most} pairs a <= b or more"
            )
        if self.hold_out == "pairs":
            self._require_pairs_on_each_side(defined)


@dataclass(frozen=True, kw_only=True)
class Modular(_Pairs):
    """All pairs (a, b) under a binary operation on Z_p ("Grokking", Power et al., 2022, appendix A.1.1).

    With `arity` k these are all k-tuples, under the operation from the left. `divide` is a / b for b != 0 and needs a
    prime p. The split is a named recipe, so that published runs can be rebuilt.
    """

    p: int = 113
    """Modulus: the numbers are 0 .. p-1."""
    operation: str = "add"
    """Operation of the answer, mod p: add, subtract, multiply, divide, or a polynomial in the operands x and y with
    whole coefficients: x2+xy+y2 is a^2+ab+b^2, 2x3y-5y+1 is 2a^3b-5b+1. Three have two cases: divide_subtract is a/b
    for odd b and else a-b, add_multiply is a+b for even a and else ab, add_subtract is a+b for even a and else a-b."""
    arity: int = added_field(2)
    """Operands of an input, from the left: a + b + c, a - b - c or a b c for 3."""

    def _rules(self) -> None:
        self._require("arity", self.arity >= 2, ">= 2")
        if self.arity > 2:
            several = ("add", "subtract", "multiply")
            rule = f"{', '.join(several)} for {self.arity} operands; the others are defined for two"
            self._require("operation", self.operation in several, rule)
            self._require("p", self.p**self.arity <= 10**7, f"small: p^{self.arity} inputs may be 10^7 at most")
        self._require("p", self.p >= 3, "a modulus >= 3")
        self._require("p", self.p <= 10**6, "at most 10^6, since there are p^2 pairs")
        super()._rules()
        if self.operation not in get_args(Operation):
            spelt = re.sub(r"\s*([+-])\s*", r"\1", self.operation.replace("^", ""))
            object.__setattr__(self, "operation", spelt)  # equal polynomials have equal JSON, in this order of terms
            self._require_polynomial()
        _require_quotients("Modular", self.operation, self.p)
        inputs = _answered(self.operation, self.p) if self.arity == 2 else self.p**self.arity
        self._require_inputs_on_each_side(self.p, inputs)

    @property
    def varying(self) -> tuple[str, ...]:
        """See `TaskConfig.varying`."""
        return (*super().varying, "operation")

    def _require_polynomial(self) -> None:
        try:
            terms = polynomial(self.operation)
        except ConfigError as error:
            names = ", ".join(name for name in get_args(Operation) if name.isalpha() or "_" in name)
            raise ConfigError(f"`Modular.operation` must be one of {names}, or a polynomial: {error}") from None
        reduced = {powers: factor % self.p for powers, factor in terms.items() if factor % self.p}
        if not all(any(powers[operand] for powers in reduced) for operand in (0, 1)):
            raise ConfigError(f"`Modular.operation` {self.operation} mod {self.p} does not depend on both operands.")
        for name, same in (("add", "x+y"), ("subtract", "x-y"), ("multiply", "xy")):
            if reduced == {powers: factor % self.p for powers, factor in polynomial(same).items()}:
                raise ConfigError(f"`Modular.operation` {self.operation} mod {self.p} is called {name}.")

    @property
    def slug(self) -> str:
        """See `TaskConfig.slug`."""
        operands = "" if self.arity == 2 else f"-{self.arity}operands"
        return self.operation.replace("+", "_") + str(self.p) + operands


@dataclass(frozen=True, kw_only=True)
class Group(_Pairs):
    """All pairs (a, b) of elements of a finite group ("A Toy Model of Universality", Chughtai et al., 2023).

    The p elements are numbered as in `interp.theory.groups`, permutations lexicographically; a b is first a, then b.
    The other two operations, and the default group, are those of "Grokking" (Power et al., 2022), on S_5.
    """

    family: Literal["cyclic", "dihedral", "symmetric", "alternating"] = "symmetric"
    """cyclic: C_n of order p = n; dihedral: D_n of order 2n; symmetric: S_n of order n!; alternating: A_n of n!/2."""
    n: int = 5
    """Corners of the polygon, or points that are permuted."""
    operation: GroupOperation = "compose"
    """The answer: compose is a b, conjugate is a b a^-1, aba is a b a."""
    train_fraction: float = 0.4
    """Share of all pairs that is trained on, in (0, 1); 0.4 is that of Chughtai et al. for S_5."""
    encoding: Literal["direct", "operands"] = "direct"
    """Tokens of a pair: direct is (a, b, =) with vocabulary p+1; operands is (a, b) with vocabulary p."""

    def _rules(self) -> None:
        if self.family in ("symmetric", "alternating"):
            self._require("n", 3 <= self.n <= 6, f"in 3 .. 6 for {self.family} groups")
        else:
            self._require("n", self.n >= 3, f">= 3 for {self.family} groups")
        super()._rules()
        self._require_inputs_on_each_side(self.order, self.order**2)

    @property
    def varying(self) -> tuple[str, ...]:
        """See `TaskConfig.varying`."""
        return (*super().varying, "operation")

    @property
    def order(self) -> int:
        """Number of elements."""
        match self.family:
            case "cyclic":
                return self.n
            case "dihedral":
                return 2 * self.n
            case "symmetric":
                return math.factorial(self.n)
            case "alternating":
                return math.factorial(self.n) // 2

    @property
    def slug(self) -> str:
        """See `TaskConfig.slug`: S5, S5conjugate."""
        return f"{self.family[0].upper()}{self.n}{'' if self.operation == 'compose' else self.operation}"


@dataclass(frozen=True, kw_only=True)
class Symbolic(_Split):
    """All equations `<|eos|> a o b = c <|eos|>` of an operator, in the dictionary of openai/grok ("Grokking", 2022).

    One dictionary serves all operators: 2 signs, 20 operators, the numbers 0 .. p-1 and the 120 permutations of five
    points are p + 142 tokens, 239 for the published p = 97. The input is `<|eos|> a o b =` and all tokens are classes.
    Operators are named as in `Modular` and, on S_5, in `Group`; sort, reverse and copy, the three of the twenty that
    act on one list, are words of the dictionary and no task here.
    """

    p: int = 97
    """Modulus, of which the published code has no other; for permutations it only says how long the dictionary is."""
    operation: Literal[Operation, GroupOperation] = "add"
    """The answer: as in `Modular`, or the product of permutations of five points compose, conjugate, aba."""
    train_fraction: float = 0.5
    """Share of all equations that is trained on, in (0, 1); the code's own default is 5 %, with which nothing
    generalises."""
    split: Split = "numpy-shuffle"
    """Recipe that shuffles the equations before the first ones become the training set; with seed 0 the default is the
    published split, whatever the seed of the run."""
    noisy_answers: int = 0
    """Outliers: the answers of so many training equations, the first after the shuffle, are exchanged for those of
    equations drawn at random with replacement (so about one in p stays right); the clean answers are those of the same
    config without noise."""
    closing: bool = False
    """Whether, as published, loss and accuracy are of two tokens, the answer and the `<|eos|>` behind it: the loss is
    the mean over both, and an equation is right if both are."""

    encoding = "symbolic"

    def _rules(self) -> None:
        self._require("p", 3 <= self.p <= 10_234, "a modulus in 3 .. 10234 (10234 itself is the name of a permutation)")
        super()._rules()
        _require_quotients("Symbolic", self.operation, self.p)
        equations = self.group.order**2 if self.group else _answered(self.operation, self.p)
        self._require_pairs_on_each_side(equations)
        trained = int(self.train_fraction * equations)
        self._require("noisy_answers", 0 <= self.noisy_answers <= trained, f"in 0 .. {trained}, the training equations")
        if self.noisy_answers and self.split != "numpy-shuffle":
            raise ConfigError(
                "`Symbolic.noisy_answers` continues the random stream of the published shuffle: `split` must be "
                f"numpy-shuffle; got {self.split}."
            )

    @property
    def group(self) -> Group | None:
        """S_5 with the operation, where the operands are permutations; None where they are numbers."""
        match self.operation:
            case "compose" | "conjugate" | "aba" as operation:
                return Group(n=5, operation=operation)
        return None

    @property
    def loss_words(self) -> str:
        """See `TaskConfig.loss_words`."""
        return "cross-entropy (nats), mean of answer and closing token" if self.closing else super().loss_words

    @property
    def reads_answer(self) -> bool:
        """See `TaskConfig.reads_answer`."""
        return self.closing

    @property
    def answer_rule(self) -> str:
        """See `TaskConfig.answer_rule`."""
        return "`task.closing` has the model read the answer behind '='"

    @property
    def varying(self) -> tuple[str, ...]:
        """See `TaskConfig.varying`."""
        return (*super().varying, "operation", "noisy_answers")

    @property
    def slug(self) -> str:
        """See `TaskConfig.slug`: symbolic_add97, symbolic_S5conjugate."""
        return "symbolic_" + (self.group.slug if self.group else f"{self.operation.replace('+', '_')}{self.p}")


@dataclass(frozen=True, kw_only=True)
class Sums(_Split):
    """Sums a + b of the numbers 0 .. p-1, not modulo p ("Towards Understanding Grokking", Liu et al., 2022, 3).

    There are 2p-1 answers, and by default only the pairs with a <= b: 55 for the published p = 10.
    """

    p: int = 10
    """How many numbers there are."""
    order: Literal["unordered", "ordered"] = "unordered"
    """unordered: only pairs with a <= b; ordered: all p^2."""
    train_fraction: float = 45 / 55
    """Share of all pairs that is trained on, in (0, 1)."""
    split: Literal[Split, "numpy-choice"] = "numpy-choice"
    """Recipe that shuffles the pairs before the first ones become the training set; the default is that of
    github.com/ejmichaud/grokking-squared, which draws it behind the codes in one random stream."""
    encoding: Literal["direct", "operands"] = "operands"
    """Tokens of a pair: operands is (a, b) with vocabulary p; direct is (a, b, =) with vocabulary p+1."""
    codes: int | None = None
    """Width of random codes N(0, 1) that the outputs are to equal, one for each answer, as in the paper (30); None:
    the outputs are 2p-1 classes."""

    operation = "sum"

    def _rules(self) -> None:
        self._require("p", self.p >= 3, "a count of numbers >= 3")
        super()._rules()
        self._require("codes", self.codes is None or self.codes >= 1, "a width >= 1, or None for classes")
        self._require_pairs_on_each_side(self.p * (self.p + 1) // 2 if self.order == "unordered" else self.p**2)

    @property
    def slug(self) -> str:
        """See `TaskConfig.slug`."""
        return f"sums{self.p}"

    @property
    def losses(self) -> tuple[str, ...]:
        """See `TaskConfig.losses`."""
        return super().losses if self.codes is None else ("cross-entropy",)

    @property
    def loss_rule(self) -> str:
        """See `TaskConfig.loss_rule`."""
        return (
            super().loss_rule
            if self.codes is None
            else "Codes are learned by their squared error: `optimizer.loss` must be left at cross-entropy"
        )

    @property
    def loss_words(self) -> str:
        """See `TaskConfig.loss_words`."""
        return super().loss_words if self.codes is None else "mean squared error of the codes"

    @property
    def varying(self) -> tuple[str, ...]:
        """See `TaskConfig.varying`; the seed draws the codes, too, which must be the same ones."""
        return super().varying if self.codes is None else ("train_fraction", "split")


@dataclass(frozen=True, kw_only=True)
class Parity(_Split):
    """Parity of the first k of n random bits ("A Tale of Two Circuits", Merrill et al., 2023, arXiv:2303.11873).

    The inputs are no pairs but distinct words of n bits, `samples` of all 2^n. The default is that of "Grokking at the
    Edge of Numerical Stability" (Prieto et al., 2025), with seed 42; Merrill et al. have n = 40 and 1000 to train.
    """

    n: int = 43
    """Bits of an input."""
    k: int = 3
    """Bits that count: the first ones."""
    samples: int = 2000
    """Inputs, of which `train_fraction` are trained on."""
    train_fraction: float = 0.5
    """Share of the samples that is trained on, in (0, 1)."""
    split: Split = "torch-randperm"
    """Recipe that shuffles the samples before the first ones become the training set, or stored."""

    operation = "parity"
    encoding = "bits"

    def _rules(self) -> None:
        self._require("n", self.n >= 1, ">= 1")
        self._require("k", 1 <= self.k <= self.n, f"in 1 .. {self.n}, the bits of an input")
        self._require("samples", 2 <= self.samples <= 2 ** min(self.n, 64), f"in 2 .. 2^{self.n}, the words there are")
        super()._rules()
        self._require_pairs_on_each_side(self.samples)

    @property
    def slug(self) -> str:
        """See `TaskConfig.slug`: parity43_3."""
        return f"parity{self.n}_{self.k}"


@dataclass(frozen=True, kw_only=True)
class Gaussian(TaskConfig):
    """Points x_i ~ N(0, sigma^2 I_d), all of the class -1 ("Grokking at the Edge of Linear Separability", Beck et al.,
    2024, arXiv:2410.04489).

    All are trained on; test loss and accuracy are those of the population, in closed form.
    """

    n: int = 400
    """Points."""
    d: int = 180
    """Dimensions; lambda = d / n, and a large set is separable from the origin where lambda > 1/2."""
    sigma: float = 5.0
    """Standard deviation of each coordinate."""
    seed: int = 0
    """Seed of the points."""

    operation = "one class"
    encoding = "points"
    split = "all"

    def _rules(self) -> None:
        self._require("n", self.n >= 1, ">= 1")
        self._require("d", self.d >= 1, ">= 1")
        self._require("sigma", self.sigma > 0, "> 0")
        self._require("seed", 0 <= self.seed < 2**32, "in 0 .. 2^32-1")

    @property
    def slug(self) -> str:
        """See `TaskConfig.slug`: gauss400x180."""
        return f"gauss{self.n}x{self.d}"

    @property
    def losses(self) -> tuple[str, ...]:
        """See `TaskConfig.losses`."""
        return ("cross-entropy", "exponential")

    @property
    def loss_rule(self) -> str:
        """See `TaskConfig.loss_rule`."""
        return _LOSS_RULE

    @property
    def needs_plane(self) -> bool:
        """See `TaskConfig.needs_plane`."""
        return True


@dataclass(frozen=True, kw_only=True)
class Operations(_Split):
    """All pairs (a, b) under each of several operations on Z_p, in one run: a token names the operation.

    Inputs are `a o b =` with '=' as token p and the signs of the operations behind it, p+1, p+2, ..., in their order;
    there are p answers ("Interpreting Grokked Transformers in Complex Modular Arithmetic", Furuta et al., 2024). The
    recipe shuffles the pairs of all operations together, those of the first operation being listed first.
    """

    p: int = 97
    """Modulus: the numbers are 0 .. p-1."""
    operations: tuple[str, ...] = ("add", "subtract")
    """Operations, two or more, named as in `Modular`."""
    train_fraction: float = 0.5
    """Share of all pairs of all operations that is trained on, in (0, 1)."""
    split: Split = "torch-randperm"
    """Recipe that shuffles the inputs before the first ones become the training set, or stored."""
    outputs: Literal["numbers", "tokens"] = "numbers"
    """Classes: the p numbers, or all tokens, signs included."""

    encoding = "operation"

    def _rules(self) -> None:
        super()._rules()
        spelt = tuple(Modular(p=self.p, operation=operation).operation for operation in self.operations)
        object.__setattr__(self, "operations", spelt)  # equal polynomials have equal JSON
        self._require("operations", 2 <= len(set(spelt)) == len(spelt), "two or more, each once")
        self._require("p", len(spelt) * self.p**2 <= 10**7, "smaller: at most 10^7 inputs, p^2 for each operation")
        self._require_pairs_on_each_side(sum(_answered(operation, self.p) for operation in spelt))

    @property
    def slug(self) -> str:
        """See `TaskConfig.slug`: add+x2_y97."""
        return "+".join(operation.replace("+", "_") for operation in self.operations) + str(self.p)


@dataclass(frozen=True, kw_only=True)
class Digits(_Split):
    """Sums a + b written in digits of a base, with carries ("Understanding Addition in Transformers", Quirke and Barez,
    2024, arXiv:2310.13121).

    Inputs are the digits of a, '+', those of b and '=', the most significant digits first; the answer has a digit more
    than either, each of which is learned from those before it. An input is answered correctly where all of them are.
    """

    base: int = 10
    """Number of digits 0 .. base-1, which are the classes; '+' and '=' are the tokens base and base+1."""
    n_digits: int = 2
    """Digits of either number, leading zeros included."""
    answer_order: Literal["most", "least"] = "most"
    """Digit of the answer that is due first: the most or the least significant one ("Teaching Arithmetic to Small
    Transformers", Lee et al., 2023, where the reversed answer is learned from fewer examples)."""

    encoding = "tokens"

    def _rules(self) -> None:
        super()._rules()
        self._require("base", self.base >= 2, ">= 2")
        self._require("n_digits", self.n_digits >= 1, ">= 1")
        pairs = self.base ** (2 * self.n_digits)
        self._require("n_digits", pairs <= 10**7, f"smaller: at most 10^7 pairs, {self.base}^(2 n_digits)")
        self._require_pairs_on_each_side(pairs)

    @property
    def slug(self) -> str:
        """See `TaskConfig.slug`: digits2base10."""
        return f"digits{self.n_digits}base{self.base}"

    @property
    def reads_answer(self) -> bool:
        """See `TaskConfig.reads_answer`."""
        return True

    @property
    def loss_words(self) -> str:
        """See `TaskConfig.loss_words`."""
        return f"cross-entropy (nats), mean of {self.n_digits + 1} digits"


def _answered(operation: str, p: int) -> int:
    """How many pairs of residues have an answer."""
    return p * (p - 1) if operation == "divide" else p**2


def _require_quotients(kind: str, operation: str, p: int) -> None:
    if operation in ("divide", "divide_subtract") and not _is_prime(p):
        raise ConfigError(
            f"`{kind}.operation` {operation} needs a prime p, since every b != 0 must have an inverse; got p={p}. "
            "Choose a prime p, or multiply."
        )


def _is_prime(n: int) -> bool:
    return n >= 2 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))
