"""Tasks given as tables of inputs and answers, and their written form in a run.json.

    task = interp.tasks.table(inputs, answers, train=mask, answers_are="residues", p=97)

Inputs of which two columns hold all pairs of operands become those pairs, lexicographic, whatever their order in the
table; pairs that it lacks have no answer. If the answers follow an operation that measures know, it is found.
"""

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.config import NoTask, TableTask
from interp.errors import ConfigError, InvalidArgumentError
from interp.tasks.base import Examples, packed, tuples_of, unpacked
from interp.tasks.declared import Alphabet, Bits, Classes, Elements, Inputs, Numbers, Residues, Sequences, Tuples
from interp.tasks.objective import CrossEntropy
from interp.theory.groups import finite_group

__all__ = ["examples_in_words", "examples_of_words", "no_examples", "table", "table_config"]

LARGEST_TABLE = 2**27
"""Maximum number of tokens of a stored table."""
_ALPHABETS: Mapping[str, type[Residues] | type[Numbers] | type[Classes]] = {
    "residues": Residues,
    "numbers": Numbers,
    "classes": Classes,
}


def table(
    inputs: Tensor | np.ndarray,
    answers: Tensor | np.ndarray,
    *,
    train: Tensor | np.ndarray,
    test: Tensor | np.ndarray | None = None,
    answers_are: str = "classes",
    p: int | None = None,
) -> Examples:
    """Task of a user's own: all inputs, their answers, and which are trained on.

    Arguments:
        inputs: tokens, whole numbers >= 0, [input, pos].
        answers: class of each input's answer, a whole number >= 0, [input].
        train: mask of the inputs trained on, bool [input].
        test: mask of the inputs held out, bool [input]; None: all others.
        answers_are: residues: integers mod `p`, and so are the operands; numbers: 0 .. p-1 on a line; classes: without
            structure.
        p: number of values of an operand, and of answers that are residues; None for inputs that are no operands.

    Raises:
        InvalidArgumentError: shapes disagree, an answer is none of 0 .. p-1, an input occurs twice with other answers.

    Example:
        >>> a, b = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
        >>> task = table(torch.stack([b, a], 1), (a + b) % 5, train=a > 1, answers_are="residues", p=5)
        >>> str(task.inputs), str(task.answers), task.operation
        ('pairs of residues mod 5', 'residues mod 5', 'add')
        >>> task.tokens[7].tolist(), int(task.labels[7])
        ([1, 2], 3)
    """
    tokens, labels = _whole("inputs", inputs, 2), _whole("answers", answers, 1)
    n = len(tokens)
    if len(labels) != n or n == 0:
        raise InvalidArgumentError(f"`answers` must hold one answer for each of {n} inputs; got {len(labels)}.")
    trained = _mask("train", train, n)
    tested = ~trained if test is None else _mask("test", test, n)
    if answers_are not in _ALPHABETS:
        raise InvalidArgumentError(f"`answers_are` must be {', '.join(_ALPHABETS)}; got {answers_are!r}.")
    if p is None and answers_are == "residues":
        raise InvalidArgumentError("`p` must be the modulus where `answers_are` residues; got None.")
    alphabet = _ALPHABETS[answers_are]
    size = p if p is not None and answers_are == "residues" else max(int(labels.max()) + 1, p or 0)
    if int(labels.max()) >= size:
        raise InvalidArgumentError(f"`answers` must be in 0 .. {size - 1} (p = {p}); got {int(labels.max())}.")
    common: dict[str, Any] = {"answers": alphabet(size), "d_vocab": int(tokens.max()) + 1}
    columns = [at for at, column in enumerate(tokens.T) if bool((column != column[0]).any())]
    is_tuples = p is not None and len(columns) >= 2 and int(tokens[:, columns].max()) < p
    if p is None or not is_tuples or p ** len(columns) > LARGEST_TABLE:
        return Examples.of(tokens, labels, trained, tested, inputs=Sequences(), **common)
    tokens, labels, trained, tested = _as_tuples(tokens, labels, trained, tested, columns, p)
    declared = Tuples(alphabet(p), len(columns))
    for operation in ("add", "subtract", "multiply", "divide") if answers_are != "classes" else ():
        try:
            examples = Examples.of(tokens, labels, trained, tested, inputs=declared, operation=operation, **common)
        except InvalidArgumentError:
            continue
        if follows(examples):
            return examples
    return Examples.of(tokens, labels, trained, tested, inputs=declared, **common)


def follows(examples: Examples) -> bool:
    """Whether every answer is what the examples' operation makes of its operands."""
    tuples = tuples_of(Numbers(examples.p), examples.arity)
    answered = examples.train | examples.test
    return bool(examples.follows_operation(tuples)[answered].all())


def table_config(examples: Examples) -> TableTask | NoTask:
    """Config that names a table in lists of runs: its operation, its operands, and how its tokens are written."""
    p, arity = examples.p, examples.arity
    if len(examples.tokens) == 0:
        return NoTask()
    name = f"{examples.operation or 'table'}{p}" if arity else "table"
    encoding: Literal["operands", "direct", "tokens"] = "tokens"
    if arity == 2 and not examples.tokens.is_floating_point():
        pairs = tuples_of(Numbers(p))
        width = examples.tokens.shape[1]
        if width in (2, 3) and torch.equal(examples.tokens[:, :2], pairs):
            encoding = "operands" if width == 2 else "direct"
    return TableTask(name=name, encoding=encoding, operation=examples.operation)


def no_examples() -> Examples:
    """Examples of a run without a task: none."""
    nothing = torch.zeros(0, dtype=torch.long)
    return Examples(
        tokens=nothing.reshape(0, 1),
        labels=nothing,
        train=nothing.bool(),
        test=nothing.bool(),
        inputs=Sequences(),
        answers=Nothing(),
        d_vocab=0,
        d_vocab_out=0,
        operands=nothing,
        classes=nothing,
    )


class Nothing(Alphabet):
    """Alphabet of a run without a task: no answers."""

    def __str__(self) -> str:
        return "no answers"

    @property
    def size(self) -> int:
        """See `Alphabet.size`."""
        return 0

    @property
    def is_classes(self) -> bool:
        """See `Alphabet.is_classes`."""
        return False


def examples_in_words(examples: Examples) -> dict[str, Any]:
    """Examples as values of JSON, from which `examples_of_words` makes them again.

    Raises:
        InvalidArgumentError: their objective or a declaration is a user's own, or of points.

    Example:
        >>> a, b = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
        >>> task = table(torch.stack([a, b], 1), a * b, train=a == b, answers_are="numbers", p=3)
        >>> again = examples_of_words(examples_in_words(task))
        >>> again.digest() == task.digest(), again.operation
        (True, 'multiply')
    """
    if type(examples.objective) is not CrossEntropy or examples.tokens.is_floating_point():
        raise InvalidArgumentError(
            "`task` must be of tokens, its objective the cross-entropy of the answer, to be stored with the run; got "
            f"{'points' if examples.tokens.is_floating_point() else type(examples.objective).__name__}. Pass the "
            "config of a task of this package, or None."
        )
    return {
        "inputs": _inputs_in_words(examples.inputs),
        "answers": _alphabet_in_words(examples.answers),
        "tokens": _packed_numbers(examples.tokens),
        "labels": _packed_numbers(examples.labels),
        "operands": _packed_numbers(examples.operands),
        "classes": _packed_numbers(examples.classes),
        "train": packed(examples.train),
        "test": packed(examples.test),
        "d_vocab": examples.d_vocab,
        "d_vocab_out": examples.d_vocab_out,
        "operation": examples.operation,
    }


def examples_of_words(words: Mapping[str, Any]) -> Examples:
    """Examples that `examples_in_words` wrote.

    Raises:
        ConfigError: the words are of another form.
    """
    try:
        numbers: dict[str, Any] = {
            name: _unpacked_numbers(words[name]) for name in ("tokens", "labels", "operands", "classes")
        }
        n = len(numbers["labels"])
        examples = Examples(
            **numbers,
            train=unpacked(words["train"], n),
            test=unpacked(words["test"], n),
            inputs=_inputs_of_words(words["inputs"]),
            answers=_alphabet_of_words(words["answers"]),
            d_vocab=int(words["d_vocab"]),
            d_vocab_out=int(words["d_vocab_out"]),
            operation=str(words["operation"]),
        )
        examples.require_consistent()
    except (ValueError, KeyError, TypeError, zlib.error, InvalidArgumentError) as error:
        raise ConfigError(f"The stored task is damaged: {error}") from error
    return examples


def _whole(name: str, values: Any, ndim: int) -> Tensor:
    x = torch.as_tensor(values).detach().cpu()
    if x.ndim != ndim or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        shape = "[input, pos]" if ndim == 2 else "[input]"
        raise InvalidArgumentError(
            f"`{name}` must be whole numbers {shape}; got {x.dtype} of shape {list(x.shape)}. Inputs of another form "
            "are made of tokens by `forward`."
        )
    if x.numel() and int(x.min()) < 0:
        raise InvalidArgumentError(f"`{name}` must be whole numbers >= 0; got {int(x.min())}.")
    return x.long().contiguous()


def _mask(name: str, values: Any, n: int) -> Tensor:
    x = torch.as_tensor(values).detach().cpu()
    if x.dtype != torch.bool or x.shape != (n,):
        raise InvalidArgumentError(
            f"`{name}` must be a mask of booleans, one for each of {n} inputs; got {x.dtype} of shape {list(x.shape)}."
        )
    return x


def _as_tuples(
    tokens: Tensor, labels: Tensor, train: Tensor, test: Tensor, columns: list[int], p: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The table with a row for each tuple of operands, lexicographic; tuples that it lacks are on neither side."""
    weights = torch.tensor([p**k for k in reversed(range(len(columns)))])
    places = (tokens[:, columns] * weights).sum(1)
    counts = torch.bincount(places, minlength=p ** len(columns))
    if int(counts.max()) > 1:
        twice = tokens[places == int(counts.argmax())][0].tolist()
        raise InvalidArgumentError(f"`inputs` must hold each input once; {twice} occurs {int(counts.max())} times.")
    rows = tokens[:1].repeat(p ** len(columns), 1)
    rows[:, columns] = tuples_of(Numbers(p), len(columns))
    every = torch.zeros(len(rows), dtype=torch.long)
    sides = torch.zeros(2, len(rows), dtype=torch.bool)
    every[places], sides[0, places], sides[1, places] = labels, train, test
    return rows, every, sides[0], sides[1]


def _inputs_in_words(inputs: Inputs) -> list[Any]:
    match inputs:
        case Tuples(operands, arity):
            return ["tuples", _alphabet_in_words(operands), arity]
        case Sequences():
            return ["sequences"]
        case Bits(n):
            return ["bits", n]
    raise InvalidArgumentError(
        f"`task` must have inputs that are tuples, sequences or bits, to be stored with the run; got {inputs}."
    )


def _inputs_of_words(words: Any) -> Inputs:
    match words:
        case ["tuples", alphabet, int(arity)] if arity < 20:
            return Tuples(_alphabet_of_words(alphabet), arity)
        case ["sequences"]:
            return Sequences()
        case ["bits", int(n)]:
            return Bits(n)
    raise ValueError("its inputs are of no known kind")


def _alphabet_in_words(alphabet: Alphabet) -> list[Any]:
    for name, kind in _ALPHABETS.items():
        if type(alphabet) is kind:
            return [name, alphabet.size]
    if isinstance(alphabet, Elements):
        return ["elements", alphabet.group.family, alphabet.group.n]
    raise InvalidArgumentError(
        "`task` must have answers and operands that are residues, numbers, classes or elements of a group, to be "
        f"stored with the run; got {alphabet}."
    )


def _alphabet_of_words(words: Any) -> Alphabet:
    match words:
        case [str(name), int(size)] if name in _ALPHABETS:
            return _ALPHABETS[name](size)
        case ["elements", ("cyclic" | "dihedral" | "symmetric" | "alternating") as family, int(n)] if n <= 120:
            return Elements(finite_group(family, n))
    raise ValueError("an alphabet is of no known kind")


def _packed_numbers(x: Int[Tensor, "*n"]) -> dict[str, Any]:
    """Whole numbers >= 0 as text: the shortest type that holds them, compressed."""
    kind = next(kind for kind in ("u1", "u2", "u4", "i8") if x.numel() == 0 or int(x.max()) <= np.iinfo(kind).max)
    data = np.ascontiguousarray(x.numpy().astype(f"<{kind}")).tobytes()
    return {"shape": list(x.shape), "type": kind, "data": base64.b85encode(zlib.compress(data, 9)).decode()}


def _unpacked_numbers(words: Mapping[str, Any]) -> Int[Tensor, "*n"]:
    shape, kind = words["shape"], words["type"]
    if kind not in ("u1", "u2", "u4", "i8") or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("its numbers have no shape or type")
    size = math.prod(shape) * np.dtype(kind).itemsize
    if math.prod(shape) > LARGEST_TABLE:
        raise ValueError(f"it has more than {LARGEST_TABLE:,} tokens")
    data = zlib.decompressobj().decompress(base64.b85decode(words["data"]), size + 1)
    if len(data) != size:
        raise ValueError("its numbers are not as many as their shape says")
    return torch.from_numpy(np.frombuffer(data, f"<{kind}").astype(np.int64).reshape(shape))
