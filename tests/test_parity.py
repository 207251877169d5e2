"""Sparse parity against counting, its words and split against the published script's draws."""

import random
import re

import pytest
import torch

from interp.config import Parity, RunConfig, Transformer
from interp.errors import ConfigError
from interp.tasks import build_task
from interp.training.state import TrainState


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 2), (8, 8), (40, 3)])
def test_answers_are_parities_of_the_first_bits(n, k):
    task = build_task(Parity(n=n, k=k, samples=min(2**n, 64)))
    assert task.labels.tolist() == [bits[:k].count(1) % 2 for bits in task.tokens.tolist()]
    assert (task.n_ctx, task.d_vocab, task.d_vocab_out) == (n, 2, 2)


def test_words_are_distinct_and_all_are_drawn_where_all_are_asked_for():
    task = build_task(Parity(n=6, k=3, samples=64))
    assert len(set(map(tuple, task.tokens.tolist()))) == 64
    assert task.labels.sum() == 32  # half of all words


def test_one_bit_that_counts_changes_the_answer_and_noise_does_not():
    task = build_task(Parity(n=4, k=2, samples=16))
    answer = {tuple(bits): label for bits, label in zip(task.tokens.tolist(), task.labels.tolist())}
    for word, label in answer.items():
        for place in range(4):
            flipped = tuple(bit ^ (place == other) for other, bit in enumerate(word))
            assert answer[flipped] == label ^ (place < 2)


def test_words_and_split_are_those_of_the_published_script():
    """Bits by random.choice after random.seed(42), random_split after torch.manual_seed(42), 3 + 40 bits."""
    state = random.getstate()
    try:
        random.seed(42)
        words: list[list[int]] = []
        while len(words) < 2000:
            word = [random.choice([0, 1]) for _ in range(43)]
            if word not in words:
                words.append(word)
    finally:
        random.setstate(state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        train, test = torch.utils.data.random_split(range(2000), [1000, 1000])
    task = build_task(Parity(seed=42))
    assert task.tokens.tolist() == words
    assert task.train.nonzero().squeeze(1).tolist() == sorted(train.indices)
    assert task.test.nonzero().squeeze(1).tolist() == sorted(test.indices)


def test_words_are_functions_of_the_seed_and_leave_global_randomness_alone():
    before = random.getstate()
    one, same, other = (build_task(Parity(seed=seed)).tokens for seed in (1, 1, 2))
    assert random.getstate() == before
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_it_has_no_operands():
    task = build_task(Parity())
    assert task.p == len(task.operands) == 0


def test_it_travels_and_names_its_run():
    config = RunConfig(task=Parity(n=20, k=4, samples=100))
    assert RunConfig.from_json(config.to_json()) == config
    assert config.run_id.startswith("parity20_4-transformer-seed0-")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 0}, "`Parity.n` must be >= 1; got 0."),
        ({"k": 0}, "`Parity.k` must be in 1 .. 43, the bits of an input; got 0."),
        ({"k": 44}, "`Parity.k` must be in 1 .. 43, the bits of an input; got 44."),
        ({"n": 4, "samples": 17}, "`Parity.samples` must be in 2 .. 2^4, the words there are; got 17."),
        ({"samples": 1}, "`Parity.samples` must be in 2 .. 2^43, the words there are; got 1."),
        ({"train_fraction": 1e-4}, "`Parity.train_fraction` must leave at least one of 2000 pairs on each side; got"),
        ({"seed": -1}, "`Parity.seed` must be in 0 .. 2^32-1; got -1."),
    ],
)
def test_a_config_that_breaks_a_rule_is_refused(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Parity(**values)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_bits_are_learned_by_a_transformer_too(n):
    """Three bits are as many positions as a, b and '=' have, and end in either of two tokens."""
    model = Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=8)
    session = TrainState(RunConfig(task=Parity(n=n, k=2, samples=2**n), model=model), torch.device("cpu"))
    pairs, _ = session.train
    torch.testing.assert_close(session.outputs(pairs), session.model(pairs.tokens)[:, -1], atol=1e-5, rtol=1e-5)
