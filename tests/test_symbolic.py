"""The dictionary, equations, split and outliers of openai/grok, rebuilt from its description as lists of texts."""

import itertools
import re
from typing import get_args

import numpy as np
import pytest
import torch

from interp.config import Group, Modular, RunConfig, Symbolic
from interp.config.tasks import GroupOperation, Operation
from interp.errors import ConfigError
from interp.tasks import build_task
from interp.tasks.symbolic import LIST_WORDS, WORDS, dictionary

P = 97
INVERSE = [0, *(pow(b, -1, P) for b in range(1, P))]
RESIDUES = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "**2+": lambda a, b: a**2 + b,
    "**3+": lambda a, b: a**3 + b,
    "x**2+y**2_mod_97": lambda a, b: a**2 + b**2,
    "x**2+y**2+x*y_mod_97": lambda a, b: a**2 + b**2 + a * b,
    "x**2+y**2+x*y+x_mod_97": lambda a, b: a**2 + b**2 + a * b + a,
    "x**3+x*y_mod_97": lambda a, b: a**3 + a * b,
    "x**3+x*y**2+y_mod_97": lambda a, b: a**3 + a * b**2 + b,
    "(x._value//y)if(y._value%2==1)else(x-y)_mod_97": lambda a, b: a * INVERSE[b] if b % 2 else a - b,
    "+*": lambda a, b: a * b if a % 2 else a + b,
    "+-": lambda a, b: a - b if a % 2 else a + b,
}


def after(first, second):
    """The permutation that does `first`, then `second`."""
    return tuple(second[point] for point in first)


def inverse(permutation):
    return tuple(permutation.index(point) for point in range(5))


PERMUTATIONS = {
    "s5": after,
    "s5conj": lambda a, b: after(after(a, b), inverse(a)),
    "s5aba": lambda a, b: after(after(a, b), a),
}
OPERATIONS = [*get_args(Operation), *get_args(GroupOperation)]


def published_equations(word):
    """The texts `a o b = c` of an operator, in the order of its loops."""

    def text(a, b, c):
        return f"{a} {word} {b} = {c}"

    if word in PERMUTATIONS:
        elements = list(itertools.permutations(range(5)))
        names = {element: "".join(map(str, element)) for element in elements}
        return [
            text(names[a], names[b], names[PERMUTATIONS[word](a, b)]) for a, b in itertools.product(elements, repeat=2)
        ]
    if word == "/":  # the quotient runs first, and the dividend is made from it
        return [text(b * c % P, b, c) for c in range(P) for b in range(1, P)]
    return [text(a, b, RESIDUES[word](a, b) % P) for a in range(P) for b in range(P)]


def published_split(word, percent, noise=0):
    """Training and validation texts; the answers of the first `noise` are those of others, drawn after the shuffle."""
    equations, stream = published_equations(word), np.random.RandomState(0)
    stream.shuffle(equations)
    if noise:
        drawn = [text.split(" = ")[1] for text in stream.choice(equations, size=noise)]
        equations[:noise] = [f"{text.split(' = ')[0]} = {c}" for text, c in zip(equations, drawn)]
    n_train = round(len(equations) * (percent / 100))
    return equations[:n_train], equations[n_train:]


def texts(task, side, words):
    """Equations of a split as texts, without the signs at both ends."""
    mask = {"train": task.train, "test": task.test}[side]
    rows = torch.cat([task.tokens, task.labels[:, None]], dim=1)[mask].tolist()
    assert {words[row[0]] for row in rows} == {"<|eos|>"}
    return sorted(" ".join(words[token] for token in row[1:]) for row in rows)


# --- dictionary -------------------------------------------------------------------------------------------------------


def test_the_dictionary_is_the_published_one():
    words = dictionary(P)
    operators = [*RESIDUES, "/", *PERMUTATIONS, "sort", "reverse", "copy"]
    permutations = ["".join(map(str, permutation)) for permutation in itertools.permutations(range(5))]
    assert len(operators) == 20
    assert list(words) == ["<|eos|>", "=", *sorted(operators), *map(str, range(97)), *permutations]
    assert len(words) == 239


@pytest.mark.parametrize("p", [3, 113, 1009])
def test_another_modulus_changes_the_numbers_and_nothing_before_them(p):
    words = dictionary(p)
    assert len(words) == len(set(words)) == p + 142
    assert [word.replace(f"_mod_{p}", "_mod_97") for word in words[:22]] == list(dictionary(P)[:22])
    assert list(words[22 : 22 + p]) == list(map(str, range(p)))


def test_every_operation_has_its_word_and_no_list_has_one():
    assert set(WORDS) == set(OPERATIONS)
    assert not set(WORDS.values()) & set(LIST_WORDS)


# --- equations and split against the description ----------------------------------------------------------------------


@pytest.mark.parametrize(("operation", "percent"), [*((operation, 50) for operation in OPERATIONS), ("add", 33.3)])
def test_equations_and_split_are_those_of_openai_grok(operation, percent):
    task = build_task(Symbolic(operation=operation, train_fraction=percent / 100))
    train, test = published_split(WORDS[operation].format(p=P), percent)
    assert texts(task, "train", dictionary(P)) == sorted(train)
    assert texts(task, "test", dictionary(P)) == sorted(test)


@pytest.mark.parametrize(
    ("operation", "counts"), [("add", (4704, 4705)), ("divide", (4656, 4656)), ("compose", (7200, 7200))]
)
def test_counts_are_the_published_ones(operation, counts):
    task = build_task(Symbolic(operation=operation))
    assert (int(task.train.sum()), int(task.test.sum())) == counts
    assert (task.n_ctx, task.d_vocab, task.d_vocab_out) == (5, 239, 239)


@pytest.mark.parametrize("operation", ["add", "divide", "aba"])
@pytest.mark.parametrize("noise", [1, 100])
def test_outliers_are_those_of_openai_grok(operation, noise):
    task = build_task(Symbolic(operation=operation, noisy_answers=noise))
    train, test = published_split(WORDS[operation], 50, noise)
    assert texts(task, "train", dictionary(P)) == sorted(train)
    assert texts(task, "test", dictionary(P)) == sorted(test)


def test_outliers_differ_from_the_clean_task_in_their_answers_only():
    clean, noisy = (build_task(Symbolic(noisy_answers=n, train_fraction=0.3)) for n in (0, 500))
    for name in ("tokens", "train", "test", "operands"):
        assert torch.equal(getattr(clean, name), getattr(noisy, name)), name
    changed = clean.labels != noisy.labels
    assert not changed[clean.test].any()
    assert 450 < int(changed.sum()) <= 500  # about one in 97 is drawn right


# --- the task behind the tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["torch-randperm", "python-shuffle", "numpy-shuffle"])
@pytest.mark.parametrize("operation", ["x3+xy", "divide", "conjugate"])
def test_it_is_the_direct_task_in_other_tokens(operation, split):
    common = {"train_fraction": 0.37, "split": split, "seed": 5, "operation": operation}
    symbolic = build_task(Symbolic(p=11, **common))
    plain = build_task(Group(**common) if operation == "conjugate" else Modular(p=11, **common))
    assert symbolic.p == plain.p
    assert torch.equal(symbolic.train, plain.train)
    assert torch.equal(symbolic.test, plain.test)
    assert torch.equal(symbolic.labels, symbolic.operands[plain.labels])
    assert torch.equal(symbolic.tokens[:, [1, 3]], symbolic.operands[plain.tokens[:, :2]])


def test_operands_are_the_places_of_numbers_and_of_permutations():
    assert build_task(Symbolic()).operands.tolist() == list(range(22, 119))
    words = dictionary(P)
    assert [words[token] for token in build_task(Symbolic(operation="aba")).operands[:2]] == ["01234", "01243"]


def test_the_closing_token_is_due_after_the_answer():
    words, task = dictionary(P), build_task(Symbolic(closing=True))
    inputs, classes = task.objective.inputs(task.tokens, task.labels)
    read = [" ".join(words[token] for token in row) for row in inputs[task.train].tolist()]
    assert sorted(read) == sorted(f"<|eos|> {text}" for text in published_split("+", 50)[0])  # all but the last token
    assert [words[token] for token in classes[P + 2].tolist()] == ["3", "<|eos|>"]
    assert torch.equal(classes[:, 0], task.labels)
    assert task.n_ctx == inputs.shape[1] == 6
    assert task.tokens.shape[1] == 5


def test_an_outlier_is_read_as_it_is_taught():
    task = build_task(Symbolic(closing=True, noisy_answers=50))
    inputs, classes = task.objective.inputs(task.tokens, task.labels)
    assert torch.equal(inputs[:, -1], classes[:, 0])


# --- config -----------------------------------------------------------------------------------------------------------


def test_it_travels_and_names_its_run():
    config = RunConfig(task=Symbolic(operation="x2+y2", noisy_answers=3))
    assert RunConfig.from_json(config.to_json()) == config
    assert config.run_id.startswith("symbolic_x2_y297-transformer-seed0-")
    names = [Symbolic().slug, Symbolic(operation="compose").slug, Symbolic(operation="aba").slug]
    assert names == ["symbolic_add97", "symbolic_S5", "symbolic_S5aba"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"p": 2}, "`Symbolic.p` must be a modulus in 3 .. 10234 (10234 itself is the name of a permutation); got 2."),
        ({"p": 10_235}, "`Symbolic.p` must be a modulus in 3 .. 10234"),
        ({"p": 9, "operation": "divide"}, "`Symbolic.operation` divide needs a prime p, since every b != 0"),
        ({"p": 9, "operation": "divide_subtract"}, "`Symbolic.operation` divide_subtract needs a prime p"),
        ({"operation": "sort"}, "`Symbolic.operation` must be one of add, subtract, "),
        ({"train_fraction": 1e-6}, "`Symbolic.train_fraction` must leave at least one of 9409 pairs on each side"),
        ({"train_fraction": 1e-6, "operation": "compose"}, "must leave at least one of 14400 pairs on each side"),
        ({"train_fraction": 1.0}, "`Symbolic.train_fraction` must be a share in (0, 1); got 1.0."),
        ({"noisy_answers": -1}, "`Symbolic.noisy_answers` must be in 0 .. 4704, the training equations; got -1."),
        ({"noisy_answers": 4705}, "`Symbolic.noisy_answers` must be in 0 .. 4704, the training equations; got 4705."),
        ({"noisy_answers": 1, "split": "torch-randperm"}, "`split` must be numpy-shuffle; got torch-randperm."),
        ({"split": "numpy-choice"}, "`Symbolic.split` must be one of torch-randperm, python-shuffle, numpy-shuffle, "),
        ({"closing": 1}, "`Symbolic.closing` must be true or false; got 1."),
    ],
)
def test_a_config_that_breaks_a_rule_is_refused(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Symbolic(**values)


def test_values_at_the_edge_of_a_rule_are_admitted():
    largest = Symbolic(p=10_234, operation="compose")
    assert len(set(dictionary(largest.p))) == largest.p + 142
    assert build_task(Symbolic(noisy_answers=4704)).train.sum() == 4704
