"""What every task provides, and the named split recipes."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.config import Group, Modular, SplitTask
from interp.errors import NotAvailableError

__all__ = ["Examples", "operand_tokens", "packed", "pair_grid", "pair_task", "shuffled", "split_masks", "unpacked"]


@dataclass(frozen=True, eq=False)
class Examples:
    """All inputs of a task with their answers and the split.

    Inputs are the p^2 pairs of operands in lexicographic order, so that `x.reshape(p, p, ...)` is indexed `[a, b]`. A
    pair without an answer (b = 0 in division) is in neither `train` nor `test`; it is labelled like an answer 0, which
    means nothing. Where the inputs are no pairs (sparse parity), p is 0 and there are no operands.
    """

    p: int
    """Number of operands: the modulus, or the order of the group."""
    tokens: Int[Tensor, "pair pos"] | Float[Tensor, "pair pos"]
    """Input tokens; the coordinates of points, where the inputs are points."""
    labels: Int[Tensor, " pair"]
    """Class of the answer."""
    train: Bool[Tensor, " pair"]
    """Pairs trained on."""
    test: Bool[Tensor, " pair"]
    """Pairs held out."""
    d_vocab: int
    """Number of tokens."""
    d_vocab_out: int
    """Number of outputs: classes, or the width of `codes`."""
    operands: Int[Tensor, " p"]
    """Token of each operand, which is also its class as an answer: 0 .. p-1, but in openai/grok's dictionary."""
    closing: int | None = None
    """Class that is due after the answer, openai/grok's closing `<|eos|>`; None: the answer is all that is due."""
    codes: Float[Tensor, "answer code"] | None = None
    """What the outputs are to equal for each label, an answer being right if its code is the nearest one; None: the
    outputs are logits of the classes."""

    sigma: float | None = None
    """Standard deviation of the population of points that test loss and accuracy are those of; None: they are those of
    the inputs in `test`."""

    @property
    def n_ctx(self) -> int:
        """Number of positions of an input, with that of the answer where a closing class is due after it."""
        return self.tokens.shape[1] + (self.closing is not None)

    @property
    def held_out(self) -> bool:
        """Whether test numbers are of inputs that were not trained on.

        Of an imported run whose split is not known all pairs are both, and its test loss is its train loss.
        """
        return self.sigma is not None or bool((self.test & ~self.train).any())

    @property
    def closed(self) -> tuple[Int[Tensor, "pair n_ctx"], Int[Tensor, "pair 2"]]:
        """Inputs followed by their answers, and the classes of the last two positions: the answer, the closing one.

        The answer is there to be read at the last position only: a model that reads ahead would find it.

        Raises:
            NotAvailableError: nothing is due after the answer.
        """
        if self.closing is None:
            raise NotAvailableError(
                "Nothing follows the answers of this task: only a Symbolic task with `closing` has a closing token."
            )
        inputs = torch.cat([self.tokens, self.labels[:, None]], dim=1)  # where there is one, classes are tokens
        return inputs, torch.stack([self.labels, torch.full_like(self.labels, self.closing)], dim=1)


def pair_task(
    config: Modular | Group, p: int, labels: Int[Tensor, " pair"], pairs: Int[Tensor, " defined"] | None = None
) -> Examples:
    """All p^2 pairs (a, b) with these answers, in the tokens and with the split of `config`.

    `pairs` numbers those that have an answer, as a p + b, in the order in which the published script lists them (None:
    all, lexicographic).
    """
    pairs = torch.arange(p * p) if pairs is None else pairs
    train, test = split_masks(config, pairs[shuffled(len(pairs), config.split, config.seed)], p * p)
    tokens, d_vocab = operand_tokens(config.encoding, p)
    return Examples(
        p=p,
        tokens=tokens,
        labels=labels,
        train=train,
        test=test,
        d_vocab=d_vocab,
        d_vocab_out=d_vocab if config.outputs == "tokens" else p,
        operands=torch.arange(p),
    )


def operand_tokens(encoding: str, p: int) -> tuple[Int[Tensor, "pair pos"], int]:
    """All p^2 pairs (a, b) as tokens, lexicographic, and the size of the vocabulary.

    The operands are the first p tokens; '=' is p, and the other signs of a sentence follow it: <sos>, +, mod.

    Example:
        >>> tokens, d_vocab = operand_tokens("sentence", 5)
        >>> tokens[7].tolist(), d_vocab  # <sos> 1 + 2 mod =
        ([6, 1, 7, 2, 8, 5], 9)
    """
    a, b = pair_grid(p)
    equals, start, plus, mod = (torch.full_like(a, p + sign) for sign in range(4))
    match encoding:
        case "operands":
            return torch.stack([a, b], dim=1), p
        case "direct":
            return torch.stack([a, b, equals], dim=1), p + 1
        case "sentence":
            return torch.stack([start, a, plus, b, mod, equals], dim=1), p + 4
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
    config: SplitTask, order: Int[Tensor, " defined"], n: int
) -> tuple[Bool[Tensor, " pair"], Bool[Tensor, " pair"]]:
    """Which of `n` inputs are trained on, and which held out; `order` is all that have an answer, shuffled.

    Example:
        >>> train, test = split_masks(Modular(p=3, train_fraction=0.5), torch.tensor([7, 2, 4, 5, 1, 8]), 9)
        >>> train.nonzero().flatten().tolist(), test.nonzero().flatten().tolist()
        ([2, 4, 7], [1, 5, 8])
    """
    share = config.train_fraction * len(order)
    rounds = config.split in ("numpy-shuffle", "numpy-choice")  # the scripts with numpy; the others cut
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
