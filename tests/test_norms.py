"""Weight norms: the obvious sums."""

import jaxtyping
import pytest
import torch

from interp.analysis import norms
from interp.errors import InvalidArgumentError


def parameters(*steps):
    generator = torch.Generator().manual_seed(0)
    shapes = {"embed.W_E": (5, 3), "unembed.b_U": (4,), "scale": ()}
    return {name: torch.randn((*steps, *shape), generator=generator) for name, shape in shapes.items()}


def test_norm_is_the_root_of_the_sum_of_squares_of_all():
    one = parameters()
    everything = torch.cat([array.flatten() for array in one.values()]).double()
    torch.testing.assert_close(norms.weight_norm(one), everything.norm())
    squares = norms.sum_of_squares_by_parameter(one)
    assert squares.names == ("embed.W_E", "unembed.b_U", "scale")
    torch.testing.assert_close(squares.value.sum(), everything.square().sum())


def test_a_trajectory_is_one_call():
    many = parameters(6)
    slow = [norms.weight_norm({name: array[step] for name, array in many.items()}) for step in range(6)]
    torch.testing.assert_close(norms.weight_norm(many, leading=1), torch.stack(slow))
    assert norms.sum_of_squares_by_parameter(many, leading=1).value.shape == (6, 3)


def test_float32_weights_are_summed_in_float64():
    value = norms.weight_norm({"W": torch.full((1_000_000,), 0.1)}).item()
    assert value == pytest.approx(torch.tensor(0.1).item() * 1000, rel=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norms.weight_norm({}), "`parameters` must hold at least one array"),
        (lambda: norms.weight_norm({"W": torch.tensor([torch.nan])}), "`W` must be finite; got 1"),
        (
            lambda: norms.weight_norm({"W": torch.ones(3, 2), "b": torch.ones(2)}, leading=1),
            r"`b` must share its first 1 axes with `W`, \[3\]; got \[2\]",
        ),
        (lambda: norms.weight_norm({"W": torch.ones(3)}, leading=2), r"`W` must share its first 2 axes"),
        (lambda: norms.weight_norm({"W": torch.ones(3)}, leading=-1), "`leading` must be a whole number >= 0; got -1"),
    ],
)
def test_bad_input_is_named(call, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InvalidArgumentError, match=message):
        call()
