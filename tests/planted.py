"""What tests of analysis plant: reproducible numbers, and the answers of a modular operation."""

import torch

SIGN = {"add": 1, "subtract": -1}


def random(*shape, seed=0):
    """Standard normal float64 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def answers(p, operation="add"):
    """a + b or a - b mod p, as an array [a, b]."""
    t = torch.arange(p)
    return (t[:, None] + SIGN[operation] * t) % p
