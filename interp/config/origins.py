"""Origins: stored weights of another run, from which a run starts in place of initial weights of its own."""

import re
from dataclasses import dataclass

from interp.config.base import Record

__all__ = ["Branch", "StoredWeights"]


@dataclass(frozen=True, kw_only=True)
class _Origin(Record):
    run: str
    """Id of the other run, which its folder is called."""
    step: int
    """Step of the other run."""

    def _rules(self) -> None:
        plain = re.fullmatch(r"(?!\.)[\w.+-]+", self.run) is not None  # it becomes a part of a path
        self._require("run", plain, "the id of a run: letters, digits and any of _ . + -")
        self._require("step", self.step >= 0, ">= 0")


@dataclass(frozen=True, kw_only=True)
class Branch(_Origin):
    """Origin of a branch: the full state of a run at `step`, from which the branch counts its steps on.

    >>> str(Branch(run="add59-transformer-seed0-1a2b3c4d", step=900))
    'branch of add59-transformer-seed0-1a2b3c4d at step 900'
    """

    sets_initial_weights = False
    """Whether interventions that refer to the initial weights mean those of the origin."""

    def __str__(self) -> str:
        return f"branch of {self.run} at step {self.step}"

    @property
    def first_step(self) -> int:
        """Step at which the run begins."""
        return self.step


@dataclass(frozen=True, kw_only=True)
class StoredWeights(_Origin):
    """Origin of a run that begins at step 0 with weights of another run, and nothing else of it.

    >>> str(StoredWeights(run="add59-transformer-seed0-1a2b3c4d", step=900, digest="0" * 64))
    'weights of add59-transformer-seed0-1a2b3c4d at step 900'
    """

    digest: str
    """SHA-256 of these weights, in hexadecimal (`interp.training.origins.digest_of`)."""

    sets_initial_weights = True
    first_step = 0

    def __str__(self) -> str:
        return f"weights of {self.run} at step {self.step}"

    def _rules(self) -> None:
        super()._rules()
        self._require("digest", re.fullmatch(r"[0-9a-f]{64}", self.digest) is not None, "64 hexadecimal digits")
