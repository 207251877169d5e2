"""The size of an attack: small in the suite, large in a soak."""

import os
import random

SOAK = os.environ.get("INTERP_SOAK") == "1"
"""Whether this is a soak (`make soak`)."""


def scaled(fast: int, soak: int) -> int:
    """Number of repetitions in this run: `fast` in the suite, `soak` in a soak.

    >>> scaled(3, 3)
    3
    """
    return soak if SOAK else fast


def seed() -> int:
    """Seed of the random choices: 0 in the suite, INTERP_SOAK_SEED or a fresh seed (which is printed) in a soak."""
    chosen = int(os.environ.get("INTERP_SOAK_SEED") or (random.SystemRandom().randrange(2**32) if SOAK else 0))
    print(f"INTERP_SOAK_SEED={chosen}")
    return chosen
