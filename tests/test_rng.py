"""Named draws: pure functions of their names, and no use of global generators."""

import random

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given, settings

from interp.rng import generator


def draw(*name) -> list[float]:
    return torch.rand(4, generator=generator(*name), dtype=torch.float64).tolist()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**63 - 1), st.text(max_size=20), st.integers(0, 10**9))
def test_a_draw_is_a_function_of_its_name(seed, purpose, step):
    assert draw(seed, purpose, step) == draw(seed, purpose, step)


def test_every_part_of_the_name_matters():
    names = [(0, "init", 0), (1, "init", 0), (2**40, "init", 0), (0, "batch", 0), (0, "init", 1), (0, "init1", 0)]
    assert len({tuple(draw(*name)) for name in names}) == len(names)
    assert draw(0, "init") == draw(0, "init", 0)


def test_parts_of_a_name_do_not_run_together():
    assert draw(1, "a", 12) != draw(1, "a1", 2)
    assert draw(1, "batch", 1) != draw(11, "batch", 1)


def test_drawing_from_one_does_not_move_another():
    first, second = generator(0, "a"), generator(0, "a")
    torch.rand(100, generator=first)
    assert torch.rand(1, generator=second).item() == torch.rand(1, generator=generator(0, "a")).item()


def test_global_generators_are_neither_read_nor_moved():
    with torch.random.fork_rng(devices=[]):
        values = []
        for global_seed in (0, 1):
            torch.manual_seed(global_seed)
            before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
            values.append(draw(0, "init", 0))
            assert torch.equal(torch.get_rng_state(), before[0])
            assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]  # noqa: NPY002
    assert values[0] == values[1]


def test_generators_of_neighbouring_steps_are_independent():
    """Correlations of 500 neighbours are within five standard errors of none."""
    x = torch.stack([torch.rand(64, generator=generator(0, "batch", step)) for step in range(500)]) - 0.5
    neighbours = (x[1:] * x[:-1]).mean() * 12
    assert abs(float(neighbours)) < 5 / (499 * 64) ** 0.5
