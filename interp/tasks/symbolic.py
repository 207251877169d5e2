"""Equations in the dictionary of openai/grok ("Grokking", Power et al., 2022, https://arxiv.org/abs/2201.02177).

The text `<|eos|> a o b = c <|eos|>` is seven tokens of one dictionary for all operators: `<|eos|>`, `=`, the twenty
operators sorted as texts, the numbers 0 .. p-1, and the 120 permutations of 01234 in lexicographic order. The network
reads all but the last token and is to name, over the whole dictionary, the answer c at '=' and the closing `<|eos|>`
at c.

Equations are listed with a running slowest (in division the quotient, since a is made from it), shuffled by one numpy
stream whose seed is always 0, and cut at the rounded share. The same stream then draws the answers of outliers: the
first n of the shuffled list receive those of n equations drawn with replacement.

Reference: github.com/openai/grok, grok/data.py.
"""

import itertools

import numpy as np
import torch

from interp.config import Symbolic
from interp.tasks.algebraic import answers, declared_operation, defined_pairs
from interp.tasks.base import Examples, pair_grid, shuffled, split_masks
from interp.tasks.declared import Alphabet, Elements, Residues, Tuples
from interp.tasks.groups import group_answers
from interp.tasks.objective import AnswerAndClosing, CrossEntropy
from interp.theory.groups import finite_group

__all__ = ["dictionary", "symbolic_task"]

END, EQUALS = "<|eos|>", "="
WORDS = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "x2+y": "**2+",
    "x3+y": "**3+",
    "x2+y2": "x**2+y**2_mod_{p}",
    "x2+xy+y2": "x**2+y**2+x*y_mod_{p}",
    "x2+xy+y2+x": "x**2+y**2+x*y+x_mod_{p}",
    "x3+xy": "x**3+x*y_mod_{p}",
    "x3+xy2+y": "x**3+x*y**2+y_mod_{p}",
    "divide_subtract": "(x._value//y)if(y._value%2==1)else(x-y)_mod_{p}",
    "compose": "s5",
    "conjugate": "s5conj",
    "aba": "s5aba",
    "add_multiply": "+*",
    "add_subtract": "+-",
}
"""Operations by the words that the published code has for them."""
LIST_WORDS = ("sort", "reverse", "copy")
"""Operators on one list, which are no tasks here but have their places in the dictionary."""


def symbolic_task(config: Symbolic) -> Examples:
    """All equations of the operation of `config`, in tokens of the dictionary, which are the classes too.

    Example:
        >>> task, words = symbolic_task(Symbolic()), dictionary(97)
        >>> [words[token] for token in task.tokens[97 + 2]], words[task.labels[97 + 2]], task.d_vocab_out
        (['<|eos|>', '1', '+', '2', '='], '3', 239)
    """
    words = dictionary(config.p)
    if config.group:
        p, zero = config.group.order, words.index("01234")
        found, listed = group_answers(config.group), torch.arange(p * p)
        alphabet: Alphabet = Elements(finite_group(config.group.family, config.group.n))
        operation = "product" if config.group.operation == "compose" else ""
    else:
        p, zero = config.p, words.index("0")
        found, listed = answers(config.operation, *pair_grid(p), p), defined_pairs(config.operation, p, config.split)
        alphabet, operation = Residues(p), declared_operation(config.operation)
    operands = torch.arange(zero, zero + p)
    a, b = (operands[number] for number in pair_grid(p))
    signs = (END, WORDS[config.operation].format(p=config.p), EQUALS)
    end, operator, equals = (torch.full_like(a, words.index(sign)) for sign in signs)

    order = listed[shuffled(len(listed), config.split, config.seed)]
    train, test = split_masks(order, p * p, config.train_fraction, config.split)
    labels = operands[found]
    if config.noisy_answers:
        stream = np.random.RandomState(config.seed)
        stream.shuffle(np.arange(len(order)))  # the same shuffle once more: the draw continues its stream
        drawn = torch.from_numpy(stream.choice(len(order), size=config.noisy_answers))
        labels[order[: config.noisy_answers]] = labels[order[drawn]]
    return Examples(
        tokens=torch.stack([end, a, operator, b, equals], dim=1),
        labels=labels,
        train=train,
        test=test,
        inputs=Tuples(alphabet, 2),
        answers=alphabet,
        d_vocab=len(words),
        d_vocab_out=len(words),
        operands=operands,
        classes=operands,
        operation=operation,
        objective=AnswerAndClosing(words.index(END)) if config.closing else CrossEntropy(),
    )


def dictionary(p: int) -> tuple[str, ...]:
    """The words of all tokens, by number: 2 signs, 20 operators, p numbers, 120 permutations.

    Example:
        >>> words = dictionary(97)
        >>> len(words), words[:2], words[22], words[118], words[119]
        (239, ('<|eos|>', '='), '0', '96', '01234')
    """
    operators = sorted([word.format(p=p) for word in WORDS.values()] + list(LIST_WORDS))
    permutations = ("".join(permutation) for permutation in itertools.permutations("01234"))
    return (END, EQUALS, *operators, *map(str, range(p)), *permutations)
