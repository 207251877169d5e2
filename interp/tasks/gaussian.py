"""Points of R^d that all have the same label ("Grokking at the Edge of Linear Separability", Beck et al., 2024).

    x_i ~ N(0, sigma^2 I_d),  i = 1 .. n,  all with y = -1:  x is answered rightly where S.x + b < 0

Perfect generalisation needs b to outgrow |S|; a training set that a plane through the origin separates (n < 2 d, for
large n) can be answered with S alone. There is nothing to hold out: test loss and accuracy are the population's.
"""

import torch

from interp.config import Gaussian
from interp.rng import generator
from interp.tasks.base import Examples
from interp.tasks.declared import Points, Sides
from interp.tasks.objective import OneClass

__all__ = ["gaussian_task"]


def gaussian_task(config: Gaussian) -> Examples:
    """The points of `config`, in float32; all are trained on.

    Example:
        >>> task = gaussian_task(Gaussian(n=1000, d=2, sigma=3.0))
        >>> task.tokens.shape, bool((task.tokens.std(0) - 3).abs().max() < 0.2)
        (torch.Size([1000, 2]), True)
    """
    stream = generator(config.seed, "points")
    points = torch.randn(config.n, config.d, generator=stream, dtype=torch.float32) * config.sigma
    everything = torch.ones(config.n, dtype=torch.bool)
    return Examples(
        tokens=points,
        labels=torch.zeros(config.n, dtype=torch.long),
        train=everything,
        test=~everything,
        inputs=Points(config.d),
        answers=Sides(),
        d_vocab=0,
        d_vocab_out=1,
        operands=torch.arange(0),
        classes=torch.arange(2),
        objective=OneClass(config.sigma),
    )
