"""Tasks against slow obvious versions: the answers against Python's integers, the splits against published scripts."""

import random
import re
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
import torch

from interp.config import Group, Modular
from interp.config.tasks import Operation
from interp.errors import ConfigError
from interp.tasks import build_task
from interp.tasks.algebraic import answers
from interp.tasks.base import shuffled
from interp.tasks.objective import CrossEntropy

OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "x2+y2": lambda a, b: a**2 + b**2,
    "x2+xy+y2": lambda a, b: a**2 + a * b + b**2,
    "x2+xy+y2+x": lambda a, b: a**2 + a * b + b**2 + a,
    "x3+xy": lambda a, b: a**3 + a * b,
    "x3+xy2+y": lambda a, b: a**3 + a * b**2 + b,
    "x2+y": lambda a, b: a**2 + b,
    "x3+y": lambda a, b: a**3 + b,
    "add_multiply": lambda a, b: a + b if a % 2 == 0 else a * b,
    "add_subtract": lambda a, b: a + b if a % 2 == 0 else a - b,
}


def global_states() -> tuple[object, ...]:
    numpy = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpy[1].tolist(), numpy[2:], torch.get_rng_state().tolist()


# --- answers ----------------------------------------------------------------------------------------------------------


def test_every_operation_is_tested():
    assert {*OPERATIONS, "divide", "divide_subtract"} == set(get_args(Operation))


OWN = {
    "2x+5y": lambda a, b: 2 * a + 5 * b,
    "-x3y2+10y-7": lambda a, b: -(a**3) * b**2 + 10 * b - 7,
    "x40y+y": lambda a, b: a**40 * b + b,
    "500xy-x12y3+y12": lambda a, b: 500 * a * b - a**12 * b**3 + b**12,
}


@pytest.mark.parametrize("p", [3, 4, 7, 113])
@pytest.mark.parametrize("operation", [*OPERATIONS, *OWN])
def test_answers_are_those_of_pythons_integers(operation, p):
    task = build_task(Modular(p=p, operation=operation, train_fraction=0.5))
    expected = [(OPERATIONS | OWN)[operation](a, b) % p for a in range(p) for b in range(p)]
    assert task.labels.tolist() == expected
    assert bool((task.train ^ task.test).all())


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            "ad",
            "must be one of add, subtract, multiply, divide, divide_subtract, add_multiply, add_subtract, or a polyn",
        ),
        ("x*2+y", "'x*2+y' is no polynomial in x and y"),
        ("x 2+y", "is no polynomial"),
        ("xy2x", "is no polynomial"),
        ("x0+y", "is no polynomial"),
        ("x++y", "is no polynomial"),
        ("x2+", "is no polynomial"),
        ("", "a polynomial must have an x and a y in it"),
        ("x2+3", "a polynomial must have an x and a y in it"),
        ("xy+y-xy", "a polynomial must have an x and a y in it"),
        ("7x+7y", "7x+7y mod 7 does not depend on both"),
        ("7x2+y", "does not depend on both"),
        ("x00+xy", "is no polynomial"),
        ("x02+y", "is no polynomial"),
        ("x+y", "x+y mod 7 is called add"),
        ("8x+6y", "8x+6y mod 7 is called subtract"),
        ("xy+7x2", "xy+7x2 mod 7 is called multiply"),
    ],
)
def test_what_is_no_operation_is_refused(operation, message):
    with pytest.raises(ConfigError) as caught:
        Modular(p=7, operation=operation)
    assert message in str(caught.value)


def test_powers_may_be_written_with_a_caret_and_signs_with_spaces():
    assert Modular(operation="x^2 + 3xy^2 - y") == Modular(operation="x2+3xy2-y")


@pytest.mark.parametrize("p", [3, 7, 97])
def test_a_quotient_times_its_divisor_is_the_dividend(p):
    task = build_task(Modular(p=p, operation="divide", train_fraction=0.5))
    a, b, c = task.tokens[:, 0], task.tokens[:, 1], task.labels
    defined = task.train | task.test
    assert torch.equal(defined, b != 0)  # b = 0 is in neither part
    assert torch.equal((c * b % p)[defined], a[defined])
    assert not c[~defined].any()
    assert not (task.train & task.test).any()
    assert int(defined.sum()) == p * (p - 1)


@pytest.mark.parametrize("p", [3, 7, 97])
def test_divide_subtract_has_a_quotient_where_b_is_odd_and_a_difference_elsewhere(p):
    task = build_task(Modular(p=p, operation="divide_subtract", train_fraction=0.5))
    a, b, c = task.tokens[:, 0], task.tokens[:, 1], task.labels
    odd = b % 2 == 1
    assert torch.equal((c * b % p)[odd], a[odd])
    assert torch.equal(c[~odd], ((a - b) % p)[~odd])
    assert bool((task.train ^ task.test).all())  # b = 0 is even


@pytest.mark.parametrize("operation", ["divide", "divide_subtract"])
def test_quotients_need_a_prime(operation):
    with pytest.raises(ConfigError, match=re.escape(f"`Modular.operation` {operation} needs a prime p, since every")):
        Modular(p=9, operation=operation)


def test_answers_by_hand():
    assert answers("subtract", torch.tensor(2), torch.tensor(5), 7).item() == 4
    assert answers("divide", torch.tensor(1), torch.tensor(2), 7).item() == 4  # 2 * 4 = 8 = 1
    assert answers("x3+xy2+y", torch.tensor(2), torch.tensor(3), 97).item() == 8 + 18 + 3
    assert answers("divide_subtract", torch.tensor([1, 1]), torch.tensor([3, 2]), 7).tolist() == [5, 6]


def test_the_largest_cubes_do_not_overflow():
    p = 9973  # p^3 is about 10^12
    assert (
        answers("x3+xy", torch.tensor(p - 1), torch.tensor(p - 2), p).item() == ((p - 1) ** 3 + (p - 1) * (p - 2)) % p
    )


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_direct_tokens_are_lexicographic_and_end_in_equals():
    task = build_task(Modular(p=5))
    assert task.tokens.tolist() == [[a, b, 5] for a in range(5) for b in range(5)]
    assert (task.n_ctx, task.d_vocab, task.d_vocab_out) == (3, 6, 5)
    assert build_task(Modular(p=5, outputs="tokens")).d_vocab_out == 6


def test_operand_tokens_have_no_equals():
    task = build_task(Modular(p=5, encoding="operands"))
    assert task.tokens.tolist() == [[a, b] for a in range(5) for b in range(5)]
    assert (task.n_ctx, task.d_vocab, task.d_vocab_out) == (2, 5, 5)


def test_a_sentence_has_the_signs_of_the_essay():
    """<sos> x + y mod =, where '=' is token p as in the other encodings."""
    start, plus, mod = 6, 7, 8
    task = build_task(Modular(p=5, encoding="sentence"))
    assert task.tokens.tolist() == [[start, a, plus, b, mod, 5] for a in range(5) for b in range(5)]
    assert (task.n_ctx, task.d_vocab, task.d_vocab_out) == (6, 9, 5)
    assert build_task(Modular(p=5, encoding="sentence", outputs="tokens")).d_vocab_out == 9
    assert task.labels.tolist() == build_task(Modular(p=5)).labels.tolist()


def test_only_residues_make_sentences():
    with pytest.raises(ConfigError, match=re.escape("`Group.encoding` must be one of direct, operands; got 'sentence")):
        Group(encoding="sentence")


@pytest.mark.parametrize("config", [Modular(p=7), Modular(p=7, encoding="sentence"), Group(n=3)])
def test_operands_are_tokens_and_classes_by_their_own_number(config):
    task = build_task(config)
    assert task.operands.tolist() == list(range(task.p))
    assert task.classes.tolist() == list(range(task.p))
    assert task.answers == task.inputs.operands
    assert task.objective == CrossEntropy()


def test_nothing_is_due_after_the_answer_of_a_modular_task():
    task = build_task(Modular(p=7))
    inputs, classes = task.objective.inputs(task.tokens, task.labels)
    assert task.objective.positions == 1
    assert inputs is task.tokens
    assert classes is task.labels


def test_encoding_and_outputs_do_not_touch_the_split():
    split = build_task(Modular(p=11)).train
    for other in (
        Modular(p=11, encoding="operands"),
        Modular(p=11, outputs="tokens"),
        Modular(p=11, encoding="sentence"),
    ):
        assert torch.equal(build_task(other).train, split)


# --- splits against the published scripts -----------------------------------------------------------------------------


def train_pairs(config: Modular) -> set[tuple[int, int]]:
    task = build_task(config)
    return {(a, b) for a, b, *_ in task.tokens[task.train].tolist()}


@pytest.mark.parametrize(
    ("p", "fraction", "n_train", "n_test"), [(113, 0.3, 3830, 8939), (53, 0.6, 1685, 1124), (97, 0.5, 4704, 4705)]
)
@pytest.mark.parametrize("split", ["torch-randperm", "python-shuffle", "numpy-shuffle"])
def test_counts_are_the_published_ones(split, p, fraction, n_train, n_test):
    if split == "numpy-shuffle":  # the one script that rounds
        n_train = round(Fraction(fraction) * p * p)
        n_test = p * p - n_train
    task = build_task(Modular(p=p, train_fraction=fraction, split=split))
    assert (int(task.train.sum()), int(task.test.sum())) == (n_train, n_test)


@pytest.mark.parametrize("seed", [0, 598, 2**32 - 1])
def test_torch_randperm_is_that_of_the_grokking_demo(seed):
    p, fraction = 113, 0.3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        indices = torch.randperm(p * p)
    first = indices[: int(p * p * fraction)].tolist()
    assert train_pairs(Modular(p=p, train_fraction=fraction, seed=seed)) == {divmod(i, p) for i in first}


@pytest.mark.parametrize("seed", [0, 42])
def test_python_shuffle_is_that_of_progress_measures(seed):
    p, fraction = 113, 0.3
    state = random.getstate()
    try:
        random.seed(seed)
        pairs = [(i, j, p) for i in range(p) for j in range(p)]
        random.shuffle(pairs)
    finally:
        random.setstate(state)
    expected = {(a, b) for a, b, _ in pairs[: int(fraction * len(pairs))]}
    assert train_pairs(Modular(p=p, train_fraction=fraction, split="python-shuffle", seed=seed)) == expected


@pytest.mark.parametrize(("operation", "percent"), [("add", 50), ("x3+xy", 33.3)])
def test_numpy_shuffle_is_that_of_openai_grok(operation, percent):
    p = 97
    equations = [f"{a} {b}" for a in range(p) for b in range(p)]  # a list of texts, as there
    np.random.RandomState(0).shuffle(equations)
    expected = {tuple(map(int, text.split())) for text in equations[: round(len(equations) * (percent / 100))]}
    config = Modular(p=p, operation=operation, train_fraction=percent / 100, split="numpy-shuffle", seed=0)
    assert train_pairs(config) == expected


@pytest.mark.parametrize("split", ["torch-randperm", "python-shuffle", "numpy-shuffle"])
def test_splits_are_functions_of_the_seed_and_leave_global_randomness_alone(split):
    before = global_states()
    orders = [shuffled(1000, split, seed) for seed in (1, 1, 2)]
    assert global_states() == before
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert torch.equal(orders[0].sort().values, torch.arange(1000))


def test_recipes_differ():
    orders = {
        tuple(shuffled(100, split, 0).tolist()) for split in ("torch-randperm", "python-shuffle", "numpy-shuffle")
    }
    assert len(orders) == 3


@pytest.mark.parametrize("split", ["torch-randperm", "numpy-shuffle"])
@pytest.mark.parametrize("fraction", [0.12, 0.999 - 0.1])
def test_neither_part_is_ever_empty(split, fraction):
    task = build_task(Modular(p=3, train_fraction=fraction, split=split))
    assert task.train.any()
    assert task.test.any()


def test_numpy_shuffle_is_that_of_openai_grok_for_division():
    p = 97
    equations = [f"{b * c % p} {b}" for c in range(p) for b in range(p) if b]  # a = b c: c runs first
    np.random.RandomState(0).shuffle(equations)
    expected = {tuple(map(int, text.split())) for text in equations[: round(len(equations) * 0.5)]}
    assert train_pairs(Modular(p=p, operation="divide", train_fraction=0.5, split="numpy-shuffle")) == expected
