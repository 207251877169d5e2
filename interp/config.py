"""What a run is, as a value: small frozen dataclasses, one per stage, composed in `RunConfig`.

Construction validates and does nothing else. A config never says where a run happens: device, paths and workers are
arguments. Its canonical JSON names it: `run_id` is a readable slug and the first 8 hex digits of its SHA-256.
This module imports neither torch nor numpy.

>>> config = RunConfig(task=Modular(p=59, train_fraction=0.5), model=Transformer(), steps=2500)
>>> config.run_id  # doctest: +ELLIPSIS
'add59-transformer-seed0-...'
>>> RunConfig.from_json(config.to_json()) == config
True
"""

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from interp.errors import ConfigError
from interp.events import Event, parse_event
from interp.record import Record, later
from interp.schedule import Every, Schedule

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Decoder",
    "FeedForward",
    "Gaussian",
    "Group",
    "Interventions",
    "Log",
    "Logistic",
    "Modular",
    "Muon",
    "Parity",
    "Recurrent",
    "RunConfig",
    "Save",
    "SplitTask",
    "Sums",
    "Symbolic",
    "Transformer",
]

Operation = Literal[
    "add", "subtract", "multiply", "divide", "x2+y2", "x2+xy+y2", "x2+xy+y2+x", "x3+xy", "x3+xy2+y", "x2+y", "x3+y",
    "divide_subtract", "add_multiply", "add_subtract",
]  # fmt: skip
GroupOperation = Literal["compose", "conjugate", "aba"]
Split = Literal["torch-randperm", "python-shuffle", "numpy-shuffle", "stored"]
Biases = Literal["trainable", "frozen", "absent"]
Init = Literal["tl", "nanda", "torch"]


# --- tasks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Split(Record):
    """What all tasks have: inputs that are trained on, and others."""

    train_fraction: float = 0.3
    """Share of all pairs that is trained on, in (0, 1)."""
    split: Literal[Split, "numpy-choice"] = "torch-randperm"
    """How pairs are shuffled before the first ones become the training set; stored: no recipe, but the split that
    the folder of an imported run holds (all pairs on both sides where nothing is known of it)."""
    seed: int = 0
    """Seed of the split, and of the draws of a task that has others."""

    def _rules(self) -> None:
        self._require("train_fraction", 0 < self.train_fraction < 1, "a share in (0, 1)")
        self._require("seed", 0 <= self.seed < 2**32, "in 0 .. 2^32-1")

    def _require_pairs_on_each_side(self, pairs: int) -> None:
        if not 1 <= int(self.train_fraction * pairs) < pairs:
            raise ConfigError(
                f"`{type(self).__name__}.train_fraction` must leave at least one of {pairs} pairs on each side; "
                f"got {self.train_fraction}."
            )


@dataclass(frozen=True, kw_only=True)
class _Pairs(_Split):
    """What tasks on pairs of tokens have besides: a way to write a pair down."""

    split: Split = "torch-randperm"
    """How pairs are shuffled before the first ones become the training set, or stored."""
    encoding: Literal["direct", "operands", "sentence"] = "direct"
    """Tokens of a pair: direct is (a, b, =) with vocabulary p+1; operands is (a, b) with vocabulary p; sentence is
    (<sos>, a, +, b, mod, =) with vocabulary p+4, one sign for whatever the operation is ("Grokking in neural networks
    and the role of regularization", Ahmed, 7.1; the vocabulary 114 and the three positions of its table 7.1 are those
    of its transformer, which reads direct tokens mod 113)."""
    outputs: Literal["numbers", "tokens"] = "numbers"
    """Classes: the p numbers, or all tokens, '=' included (as Nanda et al. train)."""

    def _rules(self) -> None:
        super()._rules()
        if self.encoding == "operands" and self.outputs == "tokens":
            raise ConfigError(
                f"`{type(self).__name__}.outputs` tokens needs encoding direct, where '=' is a token; got operands."
            )


@dataclass(frozen=True, kw_only=True)
class Modular(_Pairs):
    """All pairs (a, b) under a binary operation on Z_p ("Grokking", Power et al., 2022, appendix A.1.1).

    `divide` is a / b for b != 0 and needs a prime p. The split is a named recipe, so that
    published runs can be rebuilt.
    """

    p: int = 113
    """Modulus: the numbers are 0 .. p-1."""
    operation: Operation = "add"
    """What the answer is, mod p: add is a+b, x2+xy+y2 is a^2+ab+b^2, and so on. Three have two cases:
    divide_subtract is a/b for odd b and else a-b, add_multiply is a+b for even a and else ab, add_subtract is a+b for
    even a and else a-b."""

    def _rules(self) -> None:
        self._require("p", self.p >= 3, "a modulus >= 3")
        super()._rules()
        _require_quotients("Modular", self.operation, self.p)
        self._require_pairs_on_each_side(_answered(self.operation, self.p))

    @property
    def slug(self) -> str:
        """The task in a file name."""
        return self.operation.replace("+", "_") + str(self.p)


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
        self._require_pairs_on_each_side(self.order**2)

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
        """The task in a file name: S5, S5conjugate."""
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
    """How equations are shuffled before the first ones become the training set; with seed 0 the default is the
    published split, whatever the seed of the run."""
    noisy_answers: int = 0
    """Outliers: the answers of so many training equations, the first after the shuffle, are exchanged for those of
    equations drawn at random with replacement (so about one in p stays right); the clean answers are those of the same
    config without noise."""
    closing: bool = False
    """Whether, as published, loss and accuracy are of two tokens, the answer and the `<|eos|>` behind it: the loss is
    the mean over both, and an equation is right if both are."""

    encoding: ClassVar[str] = "symbolic"

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
    def slug(self) -> str:
        """The task in a file name: symbolic_add97, symbolic_S5conjugate."""
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
    """How pairs are shuffled before the first ones become the training set; the default is that of
    github.com/ejmichaud/grokking-squared, which draws it behind the codes in one random stream."""
    encoding: Literal["direct", "operands"] = "operands"
    """Tokens of a pair: operands is (a, b) with vocabulary p; direct is (a, b, =) with vocabulary p+1."""
    codes: int | None = None
    """Width of random codes N(0, 1) that the outputs are to equal, one for each answer, as in the paper (30); None:
    the outputs are 2p-1 classes."""

    operation: ClassVar[str] = "sum"

    def _rules(self) -> None:
        self._require("p", self.p >= 3, "a count of numbers >= 3")
        super()._rules()
        self._require("codes", self.codes is None or self.codes >= 1, "a width >= 1, or None for classes")
        self._require_pairs_on_each_side(self.p * (self.p + 1) // 2 if self.order == "unordered" else self.p**2)

    @property
    def slug(self) -> str:
        """The task in a file name."""
        return f"sums{self.p}"


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
    """How samples are shuffled before the first ones become the training set, or stored."""

    operation: ClassVar[str] = "parity"
    encoding: ClassVar[str] = "bits"

    def _rules(self) -> None:
        self._require("n", self.n >= 1, ">= 1")
        self._require("k", 1 <= self.k <= self.n, f"in 1 .. {self.n}, the bits of an input")
        self._require("samples", 2 <= self.samples <= 2**self.n, f"in 2 .. 2^{self.n}, the words there are")
        super()._rules()
        self._require_pairs_on_each_side(self.samples)

    @property
    def slug(self) -> str:
        """The task in a file name: parity43_3."""
        return f"parity{self.n}_{self.k}"


@dataclass(frozen=True, kw_only=True)
class Gaussian(Record):
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

    operation: ClassVar[str] = "one class"
    encoding: ClassVar[str] = "points"
    split: ClassVar[str] = "all"

    def _rules(self) -> None:
        self._require("n", self.n >= 1, ">= 1")
        self._require("d", self.d >= 1, ">= 1")
        self._require("sigma", self.sigma > 0, "> 0")
        self._require("seed", 0 <= self.seed < 2**32, "in 0 .. 2^32-1")

    @property
    def slug(self) -> str:
        """The task in a file name: gauss400x180."""
        return f"gauss{self.n}x{self.d}"


SplitTask = Modular | Group | Symbolic | Sums | Parity
"""Tasks of which a part is held out."""
TaskConfig = SplitTask | Gaussian


# --- models -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Transformer(Record):
    """Decoder without LayerNorm, learned positions, untied ("Progress measures for grokking", Nanda et al., 2023, 3).

    Parameter names are HookedTransformer's.
    """

    n_layers: int = 1
    d_model: int = 128
    n_heads: int = 4
    d_head: int = 32
    d_mlp: int = 512
    activation: Literal["relu", "gelu"] = "relu"
    attention: Literal["causal", "bidirectional"] = "causal"
    """Which positions a position attends to; for the last position of one layer the two are the same."""
    attention_rate: float = later(1.0)
    """r in [0, 1]: a position attends with r * softmax + (1 - r), 1 being full attention and 0 the same weight 1 for
    all positions ("The Clock and the Pizza", Zhong et al., 2023, section 5)."""
    attention_biases: Biases = "absent"
    mlp_biases: Biases = "absent"
    unembed_biases: Biases = "absent"
    init: Init = "tl"
    """tl: N(0, 0.64/d_model) everywhere; nanda: N(0, 1/d_model), W_U N(0, 1/d_vocab_out); torch: the defaults of
    nn.Embedding and nn.Linear. Biases start at 0 (torch: uniform)."""

    def _rules(self) -> None:
        for name in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp"):
            self._require(name, getattr(self, name) >= 1, ">= 1")
        self._require("attention_rate", 0 <= self.attention_rate <= 1, "in [0, 1]")

    slug: ClassVar[str] = "transformer"


@dataclass(frozen=True, kw_only=True)
class Decoder(Record):
    """Decoder of Power et al. ("Grokking", 2022, appendix A.1.2; github.com/openai/grok): LayerNorm, no biases.

    Each block normalises behind the attention and behind the MLP; positions are sinusoidal; the head is a table of its
    own. Weights start as those of nn.Embedding and nn.Linear.
    """

    n_layers: int = 2
    d_model: int = 128
    n_heads: int = 4
    """Heads, each d_model / n_heads wide."""
    d_mlp: int = 512
    activation: Literal["relu", "gelu"] = "relu"

    def _rules(self) -> None:
        for name in ("n_layers", "d_model", "n_heads", "d_mlp"):
            self._require(name, getattr(self, name) >= 1, ">= 1")
        self._require("n_heads", self.d_model % self.n_heads == 0, f"a divisor of d_model = {self.d_model}")

    slug: ClassVar[str] = "decoder"


@dataclass(frozen=True, kw_only=True)
class FeedForward(Record):
    """MLP on two learned embeddings (github.com/okitouni/simple-grokking; "Some thoughts on Grokking", Kitouni).

    One that combines by product and has no hidden layer is the bilinear model of Chughtai et al. (2023), whose MLP has
    `embedding` separate; both have `init` fan-in and no biases (github.com/bilal-chughtai/rep-theory).
    """

    embedding: Literal["shared", "separate", "one-hot", "scalars"] = "shared"
    """One table for both operands, or one each (`embed.W_E`, `embed_b.W_E`); one-hot: none, but then the rows of the
    first layer's weights are the embedding; scalars: the tokens are read as numbers, '=' as p (encoding direct)."""
    scalars: Literal["raw", "divided"] = later("divided")
    """How numbers are read: as they are, or divided by the largest token, p."""
    combine: Literal["concatenate", "sum", "product"] = "concatenate"
    """What the first layer reads of the two operands' embeddings; numbers are always concatenated."""
    d_model: int = 128
    """Width of an embedding; one-hot inputs and numbers have none."""
    d_hidden: tuple[int, ...] = (128,)
    """Widths of the hidden layers, first to last; none where products are read out at once."""
    activation: Literal["relu", "gelu"] = "relu"
    biases: Biases = "trainable"
    init: Literal[Init, "fan-in"] = "torch"
    """As of a transformer; fan-in: embeddings N(0, 1/d_model), weights N(0, 1/d_in)."""
    init_stream: Literal["seed", "split"] = "seed"
    """seed: initial weights come from the run's seed. split: they continue the random stream that shuffled the pairs,
    as in a script with a single torch.manual_seed, which rebuilds such a script's initial weights exactly."""

    def _rules(self) -> None:
        self._require("d_model", self.d_model >= 1, ">= 1")
        tables = self.embedding in ("shared", "separate")
        self._require(
            "d_hidden",
            (len(self.d_hidden) >= 1 or (self.combine == "product" and tables)) and min(self.d_hidden, default=1) >= 1,
            "one or more widths >= 1, such as (128,)",
        )
        self._require("combine", self.combine != "product" or tables, "concatenate or sum without embeddings")
        self._require("combine", self.combine == "concatenate" or self.embedding != "scalars", "concatenate of scalars")
        self._require(
            "init",
            tables or self.init in ("torch", "fan-in"),
            "torch or fan-in without embeddings, since the others are scaled by d_model",
        )

    @property
    def slug(self) -> str:
        """The model in a file name."""
        return "mlp" if self.d_hidden else "bilinear"


@dataclass(frozen=True, kw_only=True)
class Recurrent(Record):
    """LSTM or RNN whose last state is read out ("Grokking in neural networks and the role of regularization", Ahmed).

    Weights and biases start as those of nn.Embedding, nn.LSTM (nn.RNN) and nn.Linear, all times `init_scale`.
    """

    cell: Literal["lstm", "rnn"] = "lstm"
    embedding: Literal["learned", "scalars"] = "learned"
    """scalars: the tokens are read one by one as numbers, '=' as p (encoding direct)."""
    scalars: Literal["raw", "divided"] = "divided"
    """How numbers are read: as they are, or divided by the largest token, p."""
    d_model: int = 128
    """Width of an embedding; numbers have none."""
    d_hidden: int = 128
    """Width of a state."""
    n_layers: int = 1
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    """Of the RNN; the LSTM has its own."""
    dropout: float = 0.0
    """Share of the last state's entries that a training pass sets to 0, the others being divided by 1 - dropout."""
    init_scale: float = 1.0
    """alpha of "Omnigrok" (Liu et al., 2022): what all initial weights and biases are multiplied with; 5 for Ahmed."""

    def _rules(self) -> None:
        for name in ("d_model", "d_hidden", "n_layers"):
            self._require(name, getattr(self, name) >= 1, ">= 1")
        self._require("dropout", 0 <= self.dropout < 1, "in [0, 1)")
        self._require("init_scale", self.init_scale > 0, "> 0")

    @property
    def slug(self) -> str:
        """The model in a file name."""
        return self.cell


@dataclass(frozen=True, kw_only=True)
class Logistic(Record):
    """Logistic regression on points, S.x + b, in float64; it begins at zero unless told otherwise."""

    initial_norm: float = 0.0
    """|S| at step 0, in a random direction."""
    initial_bias: float = 0.0
    """b at step 0."""

    slug: ClassVar[str] = "logistic"

    def _rules(self) -> None:
        self._require("initial_norm", self.initial_norm >= 0, ">= 0")


ModelConfig = Transformer | FeedForward | Decoder | Recurrent | Logistic


# --- optimisers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Optimizer(Record):
    lr: float = 1e-3
    """Learning rate."""
    weight_decay: float = 0.0
    warmup_steps: int = 0
    """Update n (from 0) has learning rate lr * min(n / warmup_steps, 1): the first update of a warm-up has rate 0."""
    batch_size: int | None = None
    """Pairs per step; None: the whole training set."""
    loss_precision: Literal["float64", "float32"] = "float64"
    """Precision of the log-softmax; float32 makes late training unstable (Nanda et al., appendix)."""
    loss: Literal["cross-entropy", "stablemax", "exponential"] = later("cross-entropy")
    """What is minimised; stablemax: cross-entropy with StableMax for the softmax ("Grokking at the edge of numerical
    stability", Prieto et al., 2025); exponential: e^z, of the logit z of points (Beck et al.). Others than
    cross-entropy are logged as batch_loss: train_loss and test_loss are cross-entropies always."""
    anneal_steps: int | None = later(None)
    """Updates, after the warm-up, in which half a cosine leads from lr to anneal_to * lr; None: lr stays."""
    anneal_to: float = later(0.1)
    """Share of lr that is left in the end, in [0, 1]; 0.1 is that of github.com/openai/grok."""

    def _rules(self) -> None:
        self._require("lr", self.lr > 0, "> 0")
        self._require("anneal_steps", self.anneal_steps is None or self.anneal_steps >= 1, ">= 1, or None")
        self._require("anneal_to", 0 <= self.anneal_to <= 1, "a share in [0, 1]")
        self._require("weight_decay", self.weight_decay >= 0, ">= 0")
        self._require("warmup_steps", self.warmup_steps >= 0, ">= 0")
        self._require("batch_size", self.batch_size is None or self.batch_size >= 1, ">= 1, or None for a full batch")


@dataclass(frozen=True, kw_only=True)
class Adam(_Optimizer):
    """Adam; `weight_decay` is the coupled kind: L2 in the gradient."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def _rules(self) -> None:
        super()._rules()
        self._require("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)")
        self._require("eps", self.eps >= 0, ">= 0")


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: each step multiplies every trained parameter by 1 - lr * weight_decay."""

    weight_decay: float = 1.0
    decay: Literal["to_zero", "to_init", "jiggle"] = later("to_zero")
    """What weight decay does to a parameter W, as in github.com/openai/grok: to_zero is W (1 - lr wd); to_init draws it
    to its initial value, W + lr wd (W_0 - W); jiggle is W exp(lr wd x) with one x of N(0, 1) per tensor and update."""


@dataclass(frozen=True, kw_only=True)
class SGD(_Optimizer):
    """Gradient descent with momentum; `weight_decay` is L2 in the gradient."""

    lr: float = 1e-1
    momentum: float = 0.0

    def _rules(self) -> None:
        super()._rules()
        self._require("momentum", 0 <= self.momentum < 1, "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Muon(_Optimizer):
    """Orthogonalised momentum for the matrices of the blocks, AdamW for all else ("Muon", Jordan et al., 2024).

    https://kellerjordan.github.io/posts/muon, where the defaults come from; on grokking, "Muon Optimizer Accelerates
    Grokking" (Tveit et al., 2025). `weight_decay` is decoupled, in both parts.
    """

    lr: float = 2e-2
    momentum: float = 0.95
    iterations: int = 5
    """Newton-Schulz iterations; 0 leaves the momentum as it is, which is gradient descent: the control."""
    adam_lr: float = 3e-4
    """Learning rate of AdamW's part: embeddings, unembedding, biases. Warm-up and annealing act on both rates."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-10

    def _rules(self) -> None:
        super()._rules()
        self._require("momentum", 0 <= self.momentum < 1, "in [0, 1)")
        self._require("iterations", self.iterations >= 0, ">= 0")
        self._require("adam_lr", self.adam_lr > 0, "> 0")
        self._require("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)")
        self._require("eps", self.eps >= 0, ">= 0")


@dataclass(frozen=True, kw_only=True)
class Interventions(Record):
    """What is done to an update beyond its optimiser; with the defaults, nothing."""

    update_noise: float = 0.0
    """nu: every update becomes W - lr (Delta + nu e), e of N(0, 1) ("Grokking", Power et al., 2022, appendix A.1.2)."""
    weight_noise: float = 0.0
    """Standard deviation of the noise on all trained weights during the pass of an update (ibid.; 0.01 there)."""
    orthogonal_gradient: bool = False
    """OrthoGrad: of each tensor's gradient only the part orthogonal to the tensor, at the old norm (Prieto et al.)."""
    grokfast: Literal["off", "ema", "ma"] = "off"
    """Amplify the slow part of the gradient, a moving average: g + lambda mean(g) ("Grokfast", Lee et al., 2024)."""
    grokfast_lambda: float = 2.0
    """Amplification; 2 with ema and 5 with ma in the paper."""
    grokfast_alpha: float = 0.98
    """Memory of ema, in [0, 1)."""
    grokfast_window: int = 100
    """Updates that ma looks back on, the present one included."""
    norm: float | None = None
    """After each update all trained weights are scaled together to the norm that is `norm` times the initial one
    ("Omnigrok", Liu et al., 2023, where weight decay is 0 then); None: free."""

    def _rules(self) -> None:
        self._require("update_noise", self.update_noise >= 0, "a standard deviation >= 0")
        self._require("weight_noise", self.weight_noise >= 0, "a standard deviation >= 0")
        self._require("grokfast_lambda", self.grokfast_lambda >= 0, ">= 0")
        self._require("grokfast_alpha", 0 <= self.grokfast_alpha < 1, "in [0, 1)")
        self._require("grokfast_window", self.grokfast_window >= 1, ">= 1")
        self._require("norm", self.norm is None or self.norm > 0, "> 0, or None to leave the norm free")


# --- the run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Save(Record):
    """What is stored when: weights densely, the full state (optimiser moments too) sparsely."""

    weights: Schedule = Every(1, until=100) | Every(10)
    state: Schedule = Every(1000)


@dataclass(frozen=True, kw_only=True)
class Log(Record):
    """What is measured when: the training pass yields loss and accuracy for nothing; the test pass costs a forward."""

    train: Schedule = Every(1)
    test: Schedule = Every(10)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Record):
    """A run: everything that its weights are a function of, and when they are saved."""

    task: TaskConfig = field(default_factory=Modular)
    model: ModelConfig = field(default_factory=Transformer)
    optimizer: AdamW | Adam | SGD | Muon = field(default_factory=AdamW)
    steps: int = 10_000
    """Optimiser updates."""
    seed: int = 0
    """Seed of the initial weights and of every later draw; `task.seed` is that of the split."""
    save: Save = field(default_factory=Save)
    log: Log = field(default_factory=Log)
    interventions: Interventions = later(Interventions())
    events: tuple[str, ...] = later(())
    """Changes of `optimizer` and `interventions` in the course of the run: "step 200: optimizer.weight_decay=0",
    "epoch 60: ...", "test_accuracy>=0.99: ..." (see `interp.events`)."""

    def _rules(self) -> None:
        self._require("steps", self.steps >= 1, ">= 1")
        self._require("seed", 0 <= self.seed < 2**63, "in 0 .. 2^63-1")
        object.__setattr__(self, "events", tuple(map(self._canonical, self.events)))  # equal events have equal JSON
        if isinstance(self.model, FeedForward | Recurrent) and self.model.embedding == "scalars":
            if self.task.encoding not in ("direct", "bits"):
                raise ConfigError(
                    "A model that reads its tokens as numbers needs tokens that are: `task.encoding` must be direct, "
                    f"or bits; got {self.task.encoding}."
                )
        elif isinstance(self.model, FeedForward) and self.task.encoding != "operands":
            raise ConfigError(
                "A FeedForward model reads the two operands: `task.encoding` must be operands; "
                f"got {self.task.encoding}."
            )
        points = isinstance(self.task, Gaussian)
        if points != isinstance(self.model, Logistic):
            raise ConfigError(
                "Points are classified by logistic regression, and nothing else is: `task` Gaussian and `model` "
                f"Logistic belong together; got {type(self.task).__name__} and {type(self.model).__name__}."
            )
        if self.optimizer.loss == ("stablemax" if points else "exponential"):
            raise ConfigError(
                "`optimizer.loss` must be cross-entropy or exponential for the one logit of a point, cross-entropy or "
                f"stablemax elsewhere; got {self.optimizer.loss}."
            )
        if getattr(self.task, "closing", False) and getattr(self.model, "attention", "causal") == "bidirectional":
            raise ConfigError(
                "`task.closing` has the model read the answer behind '=': `model.attention` must be causal; "
                "got bidirectional."
            )
        stream = getattr(self.model, "init_stream", "seed")
        if stream == "split" and self.task.split != "torch-randperm":
            raise ConfigError(
                "`model.init_stream` split continues torch's stream: `task.split` must be torch-randperm; "
                f"got {self.task.split}."
            )

    def after(self, event: Event) -> "RunConfig":
        """The config that is in force once `event` has happened.

        >>> RunConfig().after(parse_event("step 200: optimizer.weight_decay=0")).optimizer.weight_decay
        0.0
        """
        return self.replace(self._changed_parts(event))

    def _canonical(self, text: str) -> str:
        """The event as it is written when its values have become those of the fields: 0 is 0.0 where a float is due."""
        event = parse_event(text)
        parts = self._changed_parts(event)
        paths = [path.partition(".") for path, _ in event.changes]
        return str(Event(event.when, tuple((f"{part}.{name}", getattr(parts[part], name)) for part, _, name in paths)))

    def _changed_parts(self, event: Event) -> dict[str, Record]:
        """The optimiser and the interventions as `event` makes them, where it does."""
        changes: dict[str, dict[str, Any]] = {}
        for path, value in event.changes:
            part, _, name = path.partition(".")
            if part not in ("optimizer", "interventions") or not name or name == "batch_size":
                raise ConfigError(
                    f"`{path}` cannot change in the course of a run ({event}); events change fields of `optimizer` "
                    "(batch_size excepted) and of `interventions`."
                )
            changes.setdefault(part, {})[name] = value
        return {part: getattr(self, part).replace(values) for part, values in changes.items()}

    @property
    def run_id(self) -> str:
        """Readable slug and first 8 hex digits of the SHA-256 of the canonical JSON: the run folder's name."""
        digest = hashlib.sha256(self.to_json().encode()).hexdigest()[:8]
        return f"{self.task.slug}-{self.model.slug}-seed{self.seed}-{digest}"


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
