"""Sums against lists of pairs, their split against the published draws, their answer against the effective theory."""

import itertools
import re

import numpy as np
import pytest
import torch

from interp.config import RunConfig, Sums
from interp.errors import ConfigError
from interp.tasks import build_task
from interp.tasks.objective import CrossEntropy


def pairs(task, mask):
    return {tuple(divmod(int(index), task.p)) for index in mask.nonzero().squeeze(1)}


@pytest.mark.parametrize("p", [3, 4, 10])
@pytest.mark.parametrize("order", ["unordered", "ordered"])
def test_answers_are_sums_of_the_pairs_there_are(p, order):
    task = build_task(Sums(p=p, order=order, train_fraction=0.5))
    expected = {(a, b) for a, b in itertools.product(range(p), repeat=2) if order == "ordered" or a <= b}
    assert not (task.train & task.test).any()
    assert pairs(task, task.train | task.test) == expected
    for a, b in expected:
        assert task.labels[a * p + b] == a + b
    assert task.tokens.tolist() == [[a, b] for a in range(p) for b in range(p)]
    assert (task.p, task.n_ctx, task.d_vocab, task.d_vocab_out) == (p, 2, p, 2 * p - 1)
    assert task.operands.tolist() == list(range(p))


def test_direct_tokens_end_in_equals():
    task = build_task(Sums(p=3, encoding="direct", train_fraction=0.5))
    assert task.tokens.tolist() == [[a, b, 3] for a in range(3) for b in range(3)]
    assert (task.d_vocab, task.d_vocab_out) == (4, 5)


@pytest.mark.parametrize("codes", [None, 30])
@pytest.mark.parametrize("n_train", [20, 45, 54])
def test_split_and_codes_are_those_of_grokking_squared(codes, n_train):
    stream = np.random.RandomState(58)
    drawn = stream.normal(0, 1, size=(19, 19 if codes is None else codes))
    listed = [(i, j) for i in range(10) for j in range(i, 10)]
    chosen = stream.choice(55, n_train, replace=False)
    task = build_task(Sums(seed=58, codes=codes, train_fraction=n_train / 55))
    assert pairs(task, task.train) == {listed[index] for index in chosen}
    assert int(task.test.sum()) == 55 - n_train
    if codes is None:
        assert task.objective == CrossEntropy()
    else:
        np.testing.assert_array_equal(task.objective.codes.numpy(), drawn.astype(np.float32))
        assert task.d_vocab_out == codes


def test_every_published_number_of_training_pairs_is_met():
    """The share k/55 gives k pairs for every k, although k/55 is rounded."""
    for k in range(1, 55):
        assert int(build_task(Sums(train_fraction=k / 55)).train.sum()) == k


def test_the_published_split_determines_a_line():
    """Seed 58 and 45 pairs: 0 degrees of freedom but shift and scale, and all 10 held-out sums follow."""
    task = build_task(Sums(seed=58, codes=30))
    train, test = (pairs(task, mask) for mask in (task.train, task.test))
    relations = []
    for (i, j), (m, n) in itertools.combinations(sorted(train), 2):
        if i + j == m + n:
            relation = np.zeros(10)
            for number, sign in ((i, 1), (j, 1), (m, -1), (n, -1)):
                relation[number] += sign
            relations.append(relation)
    assert 10 - np.linalg.matrix_rank(np.array(relations)) == 2
    assert sum(any(a + b == m + n for m, n in train) for a, b in test) == 10


def test_codes_do_not_depend_on_the_recipe_of_the_split():
    chosen, shuffled = (build_task(Sums(codes=4, split=split)) for split in ("numpy-choice", "torch-randperm"))
    assert torch.equal(chosen.objective.codes, shuffled.objective.codes)
    assert not torch.equal(chosen.train, shuffled.train)


def test_it_travels_and_names_its_run():
    config = RunConfig(task=Sums(p=12, codes=30, encoding="direct"))
    assert RunConfig.from_json(config.to_json()) == config
    assert config.run_id.startswith("sums12-transformer-seed0-")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"p": 2}, "`Sums.p` must be a count of numbers >= 3; got 2."),
        ({"codes": 0}, "`Sums.codes` must be a width >= 1, or None for classes; got 0."),
        ({"train_fraction": 0.01}, "`Sums.train_fraction` must leave at least one of 55 pairs on each side; got 0.01."),
        (
            {"train_fraction": 0.005, "order": "ordered"},
            "must leave at least one of 100 pairs on each side; got 0.005.",
        ),
        ({"train_fraction": 0}, "`Sums.train_fraction` must be a share in (0, 1); got 0.0."),
        ({"order": "both"}, "`Sums.order` must be one of unordered, ordered; got 'both'."),
        ({"encoding": "sentence"}, "`Sums.encoding` must be one of direct, operands; got 'sentence'."),
        ({"split": "choice"}, "`Sums.split` must be one of torch-randperm, python-shuffle, numpy-shuffle, stored, num"),
    ],
)
def test_a_config_that_breaks_a_rule_is_refused(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Sums(**values)
