"""Named random draws: `generator(seed, purpose, step)` is a fresh generator that depends on its arguments alone.

A draw is a pure function of its name, so that no generator state is stored in a checkpoint and no draw depends on the
order of the others. Draws happen on the CPU and move to the device. The global generators of torch, numpy and random
are never used.
"""

import hashlib

import torch

__all__ = ["generator"]


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A fresh CPU generator for the draw called `purpose` at `step` of the run with this `seed`.

    Example:
        >>> a, b = (torch.rand(1, generator=generator(0, "init")) for _ in range(2))
        >>> bool(a == b), bool(a == torch.rand(1, generator=generator(0, "batch")))
        (True, False)
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    # torch's Mersenne twister is seeded by 32 bits; a larger number would be cut there in silence
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
