"""Certificates computed again from a run's weights and a stored account: nothing is fitted, no key is looked for.

An account is advice that nobody has to trust. Whoever gets a saved explanation and the run can check what it claims
without knowing how the account was found.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from interp.analysis.account import Account
from interp.analysis.certificate import Certificate
from interp.analysis.context import RunContext
from interp.analysis.explaining import Examined
from interp.errors import InvalidArgumentError, UnknownNameError
from interp.trajectory import Trajectory

__all__ = ["Verification", "certificate_of", "verify_explanation"]

ROUNDING = 1e-9
"""Relative difference of two bounds on a loss that rounding on different machines may make."""


@dataclass(frozen=True, eq=False)
class Verification:
    """Claims of a saved explanation beside the certificate that the run's weights give with its account."""

    certificate: Certificate
    """Certificate computed again."""
    accuracy: float
    """Certified accuracy that was claimed."""
    loss: float
    """Certified loss that was claimed [nats]."""
    step: int
    """Step of the weights."""

    @property
    def confirmed(self) -> bool:
        """Whether at least as much is proved as was claimed."""
        proved = self.certificate
        return proved.accuracy >= self.accuracy and proved.loss <= self.loss * (1 + ROUNDING)

    def __str__(self) -> str:
        proved = self.certificate
        word = "Confirmed" if self.confirmed else "NOT confirmed"
        return (
            f"{word}: claimed at step {self.step:,} are an accuracy of at least {self.accuracy:.4f} and a loss of at "
            f"most {self.loss:.3g} nats; from the weights and the account follow {proved.accuracy:.4f} and "
            f"{proved.loss:.3g} nats."
        )


def certificate_of(traj: Trajectory, step: int | None, account: Account, rank: int) -> Certificate:
    """Certificate of a run's network at a step by an account of any origin.

    Raises:
        InvalidArgumentError: the account is of another task, or of a network of another size.
        NotAvailableError: the run's networks have no certificate; the message says which condition fails.
    """
    context = RunContext(traj)
    examined = Examined(context, traj.network)
    given = (account.p, account.operation, account.symmetry, len(account.beta), account.elements.tolist())
    found = (
        *(context.p, examined.operation, examined.symmetry, examined.neurons),
        examined.first.tolist(),
    )
    if given != found:
        words = "p = {}, {} on the group {}, {} neurons".format
        raise InvalidArgumentError(
            f"`account` must be of the run's task and network, {words(*found[:4])}; got one of {words(*given[:4])}"
            f"{', with its elements in another order' if given[:4] == found[:4] else ''}."
        )
    return Examined(context, traj.model(step)).certificate(account, rank)


def verify_explanation(folder: str | Path, traj: Trajectory) -> Verification:
    """Claims of an explanation that `Explanation.save` wrote, checked against the run's weights at its step.

    Errors about another run than the one explained name both.

    Raises:
        InvalidArgumentError: the folder holds no saved explanation with a certificate, or one of another task.
        UnknownNameError: the run stores no weights at the explanation's step.
        NotAvailableError: the run's networks have no certificate.
    """
    folder = Path(folder)
    account = Account.load(folder)
    try:
        saved = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
        name = saved["run"]
        step, rank, claimed = saved["step"], saved["settings"]["rank"], saved["certificate"]
        accuracy, loss = claimed["accuracy"], claimed["loss"]
    except OSError as error:
        raise InvalidArgumentError(
            f"`folder` must hold a saved explanation; {error.filename} cannot be read: {error.strerror}."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgumentError(
            f"`folder` must hold a saved explanation with a certificate; {folder} has none: it lacks {error}."
            if isinstance(error, KeyError)
            else f"`folder` must hold a saved explanation with a certificate; {folder} has none."
        ) from error
    try:
        certificate = certificate_of(traj, step, account, rank)
    except (InvalidArgumentError, UnknownNameError) as error:
        if name == traj.folder.name:
            raise
        raise type(error)(f"{error} {folder} explains the run {name}, and {traj.folder.name} was given.") from error
    return Verification(certificate, accuracy, math.inf if loss is None else loss, step)
