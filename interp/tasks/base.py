"""Examples: all inputs of a task with answers, split and declarations; tokens of tuples, and the split recipes."""

import hashlib
import random
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.config import Group, Modular
from interp.errors import InvalidArgumentError
from interp.rng import generator
from interp.tasks.declared import Alphabet, Elements, Inputs, Numbers, Tuples
from interp.tasks.objective import CrossEntropy, Objective

__all__ = [
    "Examples",
    "operand_tokens",
    "packed",
    "pair_grid",
    "pair_task",
    "shuffled",
    "split",
    "split_masks",
    "tuples_of",
    "unpacked",
]

_OPERATIONS = ("", "add", "subtract", "multiply", "divide", "product")


@dataclass(frozen=True, eq=False)
class Examples:
    """All inputs of a task with their answers, the split, and what the task declares of them.

    Inputs that are tuples of operands stand in lexicographic order, so that `x.reshape(p, p, ...)` of pairs is indexed
    `[a, b]`. An input without an answer (b = 0 in division) is in neither `train` nor `test`; it is labelled like an
    answer 0, which means nothing. `Examples.of` fills in most fields.
    """

    tokens: Int[Tensor, "input pos"] | Float[Tensor, "input pos"]
    """Input tokens; the coordinates of points, where the inputs are points."""
    labels: Int[Tensor, " input"]
    """Class of the answer."""
    train: Bool[Tensor, " input"]
    """Inputs trained on."""
    test: Bool[Tensor, " input"]
    """Inputs held out."""
    inputs: Inputs
    """Set of inputs: tuples of operands, sequences, bits or points."""
    answers: Alphabet
    """Alphabet of the answers."""
    d_vocab: int
    """Number of tokens."""
    d_vocab_out: int
    """Number of outputs: classes, or the width of a code."""
    operands: Int[Tensor, " p"]
    """Token of each operand; 0 .. p-1, but in openai/grok's dictionary."""
    classes: Int[Tensor, " answer"]
    """Class of each answer; 0 .. size-1, but in openai/grok's dictionary. Labels are among them."""
    operation: str = ""
    """Operation that makes the answer of the operands: add, subtract, multiply, divide (as residues or as numbers),
    product (of group elements); empty for anything else."""
    objective: Objective = field(default_factory=CrossEntropy)
    """Loss that is minimised, and when an answer is correct."""
    repeats: Int[Tensor, " input"] | None = None
    """Number of times that each input occurs in the training set, 0 outside; None: once each."""

    @staticmethod
    def of(
        tokens: Int[Tensor, "input pos"] | Float[Tensor, "input pos"],
        labels: Int[Tensor, " input"],
        train: Bool[Tensor, " input"],
        test: Bool[Tensor, " input"] | None = None,
        *,
        inputs: Inputs,
        answers: Alphabet,
        operation: str = "",
        objective: Objective | None = None,
        d_vocab: int | None = None,
        repeats: Int[Tensor, " input"] | None = None,
    ) -> "Examples":
        """Examples whose operands and answers are the first tokens and classes, checked.

        Args:
            test: held-out inputs; None: all that are not trained on.
            d_vocab: number of tokens; None: the largest token that occurs, and 1.
            repeats: number of times that each input occurs in the training set; None: once each.

        Raises:
            InvalidArgumentError: shapes disagree, a label is no answer, nothing is trained on, or an input is on both
                sides.

        Example:
            >>> from interp.tasks.declared import Classes, Residues
            >>> tokens = tuples_of(Residues(3))
            >>> larger = (tokens[:, 0] > tokens[:, 1]).long()
            >>> train, test = split(len(tokens), 0.5, seed=0)
            >>> examples = Examples.of(tokens, larger, train, test, inputs=Tuples(Residues(3)), answers=Classes(2))
            >>> examples.d_vocab, examples.d_vocab_out, examples.operands.tolist()
            (3, 2, [0, 1, 2])
        """
        for name, value in (("tokens", tokens), ("labels", labels), ("train", train), ("test", test)):
            if not isinstance(value, Tensor) and not (name == "test" and value is None):
                raise InvalidArgumentError(
                    f"`{name}` must be a tensor; got a {type(value).__name__}: write torch.as_tensor({name})."
                )
        if not isinstance(inputs, Inputs):
            raise InvalidArgumentError(
                f"`inputs` must be a declaration such as Tuples(Residues(p)) or Sequences(); got {_shown(inputs)}."
            )
        if not isinstance(answers, Alphabet):
            raise InvalidArgumentError(
                f"`answers` must be an alphabet such as Residues(p) or Classes(n); got {_shown(answers)}."
            )
        largest = int(tokens.max()) if len(tokens) and not tokens.is_floating_point() else -1
        examples = Examples(
            tokens=tokens,
            labels=labels,
            train=train,
            test=~train if test is None else test,
            inputs=inputs,
            answers=answers,
            d_vocab=largest + 1 if d_vocab is None else d_vocab,
            d_vocab_out=answers.n_outputs,
            operands=torch.arange(inputs.n_operands),
            classes=torch.arange(answers.size),
            operation=operation,
            objective=objective or CrossEntropy(),
            repeats=repeats,
        )
        examples.require_consistent()
        return examples

    def require_consistent(self) -> None:
        """Raise an `InvalidArgumentError` where fields contradict each other; tasks of this package need no check."""
        n = len(self.tokens)
        if self.tokens.ndim != 2 or n == 0:
            raise InvalidArgumentError(f"`tokens` must be [input, pos]; got shape {tuple(self.tokens.shape)}.")
        for name in ("labels", "train", "test"):
            if getattr(self, name).shape != (n,):
                shape = tuple(getattr(self, name).shape)
                raise InvalidArgumentError(f"`{name}` must have one entry for each of {n} inputs; got shape {shape}.")
        for name in ("train", "test"):
            if getattr(self, name).dtype != torch.bool:
                raise InvalidArgumentError(f"`{name}` must be a mask of booleans; got {getattr(self, name).dtype}.")
        if self.labels.dtype != torch.long:
            raise InvalidArgumentError(f"`labels` must be int64 classes; got {self.labels.dtype}.")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= max(self.d_vocab_out, self.answers.size):
            raise InvalidArgumentError(
                f"`labels` must be classes in 0 .. {max(self.d_vocab_out, self.answers.size) - 1} ({self.answers}); "
                f"got {low if low < 0 else high}."
            )
        if not self.tokens.is_floating_point():
            if self.tokens.dtype != torch.long:
                raise InvalidArgumentError(f"`tokens` must be int64, or floats of points; got {self.tokens.dtype}.")
            low, high = int(self.tokens.min()), int(self.tokens.max())
            if low < 0 or high >= self.d_vocab:
                raise InvalidArgumentError(
                    f"`tokens` must be in 0 .. {self.d_vocab - 1} (d_vocab = {self.d_vocab}); "
                    f"got {low if low < 0 else high}."
                )
        if self.inputs.arity and n != self.inputs.n_operands**self.inputs.arity:
            raise InvalidArgumentError(
                f"`tokens` must have a row for each of the {self.inputs.n_operands**self.inputs.arity} "
                f"{self.inputs}, lexicographic; got {n} rows."
            )
        if self.operation not in _OPERATIONS:
            raise InvalidArgumentError(
                f"`operation` must be {', '.join(_OPERATIONS[1:])}, or empty for any other; got {self.operation!r}."
            )
        if self.inputs.arity:
            self._require_tuples()
        if not self.train.any():
            raise InvalidArgumentError("`train` must hold at least one input; got none.")
        if (self.train & self.test).any():
            both = int((self.train & self.test).sum())
            raise InvalidArgumentError(f"`train` and `test` must have no input in common; got {both}.")
        if self.repeats is not None and (
            self.repeats.shape != (n,)
            or self.repeats.dtype != torch.long
            or not torch.equal(self.repeats > 0, self.train)
        ):
            raise InvalidArgumentError(
                f"`repeats` must be int64, one for each of {n} inputs, >= 1 for those trained on and 0 elsewhere; "
                f"got {self.repeats.dtype} of shape {tuple(self.repeats.shape)}."
            )
        if not self.objective.has_population and not self.test.any():
            raise InvalidArgumentError("`test` must hold at least one input; got none.")

    def _require_tuples(self) -> None:
        """Raise an `InvalidArgumentError` where tokens, or labels of an operation, are not those of the tuples."""
        tuples = tuples_of(Numbers(self.p), self.inputs.arity)
        if not self.tokens.is_floating_point():
            for k, operand in enumerate(self.operands[tuples].T):
                if not (self.tokens == operand[:, None]).all(dim=0).any():
                    raise InvalidArgumentError(
                        f"`tokens` must hold operand {k} of the {self.inputs} in a column, the rows lexicographic as "
                        f"`tuples_of` gives them; no column of {self.tokens.shape[1]} is it. Inputs in another order "
                        "or form are Sequences()."
                    )
        answered = (self.train | self.test).nonzero().flatten()
        right = self.follows_operation(tuples)[answered]
        if 2 * int(right.sum()) < len(right):
            at = int(answered[~right][0])
            raise InvalidArgumentError(
                f"`operation` {self.operation!r} must give the labels; it does not for {int((~right).sum())} of "
                f"{len(right)} inputs, such as {tuple(tuples[at].tolist())} with label {int(self.labels[at])}. "
                "Correct the labels, or leave `operation` empty."
            )

    def follows_operation(self, tuples: Int[Tensor, "input arity"]) -> Bool[Tensor, " input"]:
        """Whether the label of each tuple is what `operation` makes of it: as residues, or as numbers."""
        places = torch.full((max(int(self.classes.max()), int(self.labels.max())) + 1,), -1)
        places[self.classes] = torch.arange(len(self.classes))
        answer = places[self.labels]
        first, last = tuples[:, 0], tuples[:, -1]
        match self.operation:
            case "add":
                difference = tuples.sum(dim=1) - answer
            case "subtract":
                difference = 2 * first - tuples.sum(dim=1) - answer
            case "multiply":
                difference = tuples.prod(dim=1) - answer
            case "divide":
                difference = answer * last - first
            case "product":
                if not isinstance(self.answers, Elements) or self.inputs.arity != 2:
                    return torch.zeros(len(tuples), dtype=torch.bool)
                return torch.as_tensor(self.answers.group.table)[first, last] == answer
            case _:
                return torch.ones(len(tuples), dtype=torch.bool)
        readings = [difference == 0, *(difference % n == 0 for n in (self.p, self.answers.size))]
        return max(readings, key=lambda right: int(right.sum()))

    def digest(self) -> str:
        """Digest of inputs, answers, split and declarations; of points their number alone, which machines round.

        Example:
            >>> from interp.tasks import Modular, build_task
            >>> one, other = (build_task(Modular(p=5, seed=seed)) for seed in (0, 1))
            >>> one.digest() == one.digest(), one.digest() == other.digest()
            (True, False)
        """
        about = (str(self.inputs), str(self.answers), self.d_vocab, self.d_vocab_out, self.operation)
        found = hashlib.sha256(repr((about, tuple(self.tokens.shape))).encode())
        tokens = self.tokens[:0] if self.tokens.is_floating_point() else self.tokens
        for tensor in (tokens, self.labels, self.train, self.test, self.operands, self.classes):
            found.update(tensor.contiguous().numpy().tobytes())
        if self.repeats is not None:
            found.update(self.repeats.contiguous().numpy().tobytes())
        return found.hexdigest()[:32]

    @property
    def p(self) -> int:
        """Number of values of an operand, the modulus or the order of the group; 0 where inputs are no tuples."""
        return self.inputs.n_operands

    @property
    def trained(self) -> Int[Tensor, " example"]:
        """Numbers of the inputs of the training set, increasing, each as often as it occurs there."""
        once = self.train.nonzero().squeeze(1)
        return once if self.repeats is None else once.repeat_interleave(self.repeats[once])

    @property
    def arity(self) -> int:
        """Operands of an input; 0 where inputs are no tuples of operands."""
        return self.inputs.arity

    @property
    def n_ctx(self) -> int:
        """Positions of an input, that of the answer included where a token is due behind it."""
        return self.tokens.shape[1] + self.objective.positions - 1

    @property
    def held_out(self) -> bool:
        """Whether test numbers are of inputs that were not trained on.

        Of an imported run whose split is not known all inputs are both, and its test loss is its train loss.
        """
        return self.objective.has_population or bool((self.test & ~self.train).any())


def pair_task(
    config: Modular | Group,
    operands: Alphabet,
    operation: str,
    labels: Int[Tensor, " pair"],
    pairs: Int[Tensor, " defined"] | None = None,
) -> Examples:
    """All p^2 pairs (a, b), or tuples of `config.arity`, with these answers, in tokens and split as in `config`.

    `pairs` numbers those that have an answer, as a p + b, in the order in which the published script lists them (None:
    all, lexicographic).
    """
    p, n = operands.size, operands.size**config.arity
    pairs = torch.arange(n) if pairs is None else pairs
    train, test = _split_by_rule(config, pairs, p)
    repeats = None
    if config.draws is not None:
        among = train.nonzero().squeeze(1)
        drawn = among[torch.randint(len(among), (config.draws,), generator=generator(config.seed, "draws"))]
        repeats = torch.bincount(drawn, minlength=n)
        train, test = repeats > 0, test | (train & (repeats == 0))
    if config.random_labels:
        labels = _with_random_labels(labels, train, p, config.random_labels, config.seed)
    tokens, d_vocab = operand_tokens(config.encoding, p, config.arity)
    return Examples(
        tokens=tokens,
        labels=labels,
        train=train,
        test=test,
        inputs=Tuples(operands, config.arity),
        answers=operands,
        d_vocab=d_vocab,
        d_vocab_out=d_vocab if config.outputs == "tokens" else p,
        operands=torch.arange(p),
        classes=torch.arange(p),
        operation=operation,
        repeats=repeats,
    )


def _split_by_rule(
    config: Modular | Group, defined: Int[Tensor, " defined"], p: int
) -> tuple[Bool[Tensor, " input"], Bool[Tensor, " input"]]:
    """Masks of the inputs trained on and held out, by `hold_out`; `defined` are those that have an answer."""
    n, share, recipe = p**config.arity, config.train_fraction, config.split
    first, second = (defined // p ** (config.arity - place) % p for place in (1, 2))
    train, test = torch.zeros(2, n, dtype=torch.bool)
    match config.hold_out:
        case "rows":
            of_rows = split_masks(shuffled(p, recipe, config.seed), p, share, recipe)
            train[defined], test[defined] = (rows[first] for rows in of_rows)
        case "a>b":
            listed = defined[first <= second]
            order = listed[shuffled(len(listed), recipe, config.seed)]
            if share < 1:
                train, _ = split_masks(order, n, share, recipe)
            else:
                train[order] = True
            test[defined] = ~train[defined]
        case _:
            return split_masks(defined[shuffled(len(defined), recipe, config.seed)], n, share, recipe)
    return train, test


def _with_random_labels(
    labels: Int[Tensor, " input"], train: Bool[Tensor, " input"], p: int, share: float, seed: int
) -> Int[Tensor, " input"]:
    """Labels of which a share of the training inputs, rounded, has answers drawn at random."""
    among, stream = train.nonzero().squeeze(1), generator(seed, "random labels")
    chosen = among[torch.randperm(len(among), generator=stream)[: round(share * len(among))]]
    labels = labels.clone()
    labels[chosen] = torch.randint(p, (len(chosen),), generator=stream)
    return labels


def tuples_of(alphabet: Alphabet, arity: int = 2, *, equals: bool = False) -> Int[Tensor, "tuple pos"]:
    """All tuples of operands as tokens, lexicographic, the operands being tokens 0 .. size-1.

    Args:
        equals: whether an '=' follows, as the token `alphabet.size`: the position where the answer is read.

    Example:
        >>> from interp.tasks.declared import Residues
        >>> tuples_of(Residues(2), equals=True).tolist()
        [[0, 0, 2], [0, 1, 2], [1, 0, 2], [1, 1, 2]]
    """
    tuples = torch.cartesian_prod(*[torch.arange(alphabet.size)] * arity).reshape(-1, arity)
    sign = torch.full_like(tuples[:, :1], alphabet.size)
    return torch.cat([tuples, sign], dim=1) if equals else tuples


def split(
    n: int, fraction: float, seed: int, recipe: str = "torch-randperm"
) -> tuple[Bool[Tensor, " input"], Bool[Tensor, " input"]]:
    """Masks of the inputs trained on and held out, by a named recipe: see `shuffled`.

    Raises:
        InvalidArgumentError: a side is left without an input.

    Example:
        >>> train, test = split(10, 0.3, seed=0)
        >>> int(train.sum()), int(test.sum())
        (3, 7)
    """
    if not 1 <= int(fraction * n) < n:
        raise InvalidArgumentError(f"`fraction` must leave at least one of {n} inputs on each side; got {fraction}.")
    return split_masks(shuffled(n, recipe, seed), n, fraction, recipe)


def operand_tokens(encoding: str, p: int, arity: int = 2) -> tuple[Int[Tensor, "input pos"], int]:
    """All p^2 pairs (a, b), or tuples of `arity`, as tokens, lexicographic, and the size of the vocabulary.

    The operands are the first p tokens; '=' is p, and the other signs follow it: of an operation its own, of a sentence
    <sos>, +, mod.

    Example:
        >>> tokens, d_vocab = operand_tokens("sentence", 5)
        >>> tokens[7].tolist(), d_vocab  # <sos> 1 + 2 mod =
        ([6, 1, 7, 2, 8, 5], 9)
        >>> tokens, d_vocab = operand_tokens("operation", 5, arity=3)
        >>> tokens[7].tolist(), d_vocab  # 0 o 1 o 2 =
        ([0, 6, 1, 6, 2, 5], 7)
    """
    operands = tuples_of(Numbers(p), arity)

    def with_signs(*, between: int | None, before: tuple[int, ...] = (), behind: tuple[int, ...]) -> Tensor:
        columns: list[int | Tensor] = [*before]
        for place, operand in enumerate(operands.T):
            columns += [operand] if place == 0 or between is None else [between, operand]
        every = [x if isinstance(x, Tensor) else torch.full_like(operands[:, 0], x) for x in (*columns, *behind)]
        return torch.stack(every, dim=1)

    match encoding:
        case "operands":
            return operands, p
        case "direct":
            return with_signs(between=None, behind=(p,)), p + 1
        case "operation":
            return with_signs(between=p + 1, behind=(p,)), p + 2
        case "sentence":
            return with_signs(before=(p + 1,), between=p + 2, behind=(p + 3, p)), p + 4
    raise AssertionError(encoding)  # a config admits no other


def pair_grid(p: int) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """The numbers a and b of all p^2 pairs, lexicographic.

    Example:
        >>> a, b = pair_grid(3)
        >>> a.tolist(), b.tolist()
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 2, 0, 1, 2, 0, 1, 2])
    """
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).unbind(dim=1)
    return a, b


def split_masks(
    order: Int[Tensor, " defined"], n: int, fraction: float, recipe: str
) -> tuple[Bool[Tensor, " input"], Bool[Tensor, " input"]]:
    """Masks of `n` inputs: the first share of `order`, all that have an answer, shuffled, is trained on.

    Example:
        >>> train, test = split_masks(torch.tensor([7, 2, 4, 5, 1, 8]), 9, 0.5, "torch-randperm")
        >>> train.nonzero().flatten().tolist(), test.nonzero().flatten().tolist()
        ([2, 4, 7], [1, 5, 8])
    """
    share = fraction * len(order)
    rounds = recipe in ("numpy-shuffle", "numpy-choice")  # the scripts with numpy; the others cut
    n_train = min(max(round(share), 1), len(order) - 1) if rounds else int(share)
    train, test = torch.zeros(2, n, dtype=torch.bool)
    train[order[:n_train]] = True
    test[order[n_train:]] = True
    return train, test


def shuffled(n: int, recipe: str, seed: int) -> Int[Tensor, " n"]:
    """The numbers 0 .. n-1 in the order in which a published script shuffles them.

    - `torch-randperm`: `torch.manual_seed(seed); torch.randperm(n)` (TransformerLens's Grokking demo, simple-grokking);
    - `python-shuffle`: `random.Random(seed).shuffle(list)` ("Progress measures for grokking", Nanda et al., 2023);
    - `numpy-shuffle`: `numpy.random.RandomState(seed).shuffle(list)` ("Grokking", Power et al., 2022).

    Example:
        >>> shuffled(5, "python-shuffle", 0).tolist()
        [2, 1, 0, 4, 3]
    """
    match recipe:
        case "torch-randperm":
            return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        case "python-shuffle":
            order = list(range(n))
            random.Random(seed).shuffle(order)
            return torch.tensor(order)
        case "numpy-shuffle":
            positions = np.arange(n)
            np.random.RandomState(seed).shuffle(positions)  # the published stream
            return torch.from_numpy(positions)
    raise AssertionError(recipe)  # a config admits no other


def packed(mask: Bool[Tensor, " pair"]) -> str:
    """A mask as text: eight pairs a byte, hexadecimal, the first pair in the highest bit.

    Example:
        >>> packed(torch.tensor([True, False, False, False, True, True, True, True, True]))
        '8f80'
    """
    return np.packbits(mask.numpy()).tobytes().hex()


def unpacked(text: str, n: int) -> Bool[Tensor, " pair"]:
    """The mask of `n` pairs that `packed` wrote.

    Example:
        >>> unpacked("8f80", 9).tolist().count(True)
        6
    """
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=n)
    return torch.from_numpy(bits.astype(bool))


def _shown(value: object) -> str:
    """A wrong argument in an error: a class asks for its parentheses."""
    return f"the class {value.__name__}; write {value.__name__}(...)" if isinstance(value, type) else repr(value)
