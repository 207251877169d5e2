"""Explain: the account of a run at a step, its scores and controls, its certificate, and a verdict.

Verdict: "explained" if at least `CERTIFIED` of the accuracy is certified and resampling everything outside the account
keeps `KEPT` of the accuracy; "none" if there is no key, or the idealised network explains less than `LEAST` of the
logits; otherwise "in part". With all irreps for keys it is "in part" at most: every network can be written in them.
These thresholds are ours. Where a term cannot be computed, as for a recurrent network, the
verdict is "in part" at most.
"""

import html
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from interp.analysis import spectra
from interp.analysis.account import Account, variance_explained
from interp.analysis.batch import CheckpointBatch
from interp.analysis.certificate import Certificate
from interp.analysis.context import RunContext
from interp.analysis.explaining import RANK, Examined, control_keys
from interp.analysis.scrubbing import Score, Scrubbed
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.explanation.ideal import IdealNetwork, ideal_run, idealised
from interp.explanation.presenting import html_of, lines_of
from interp.explanation.sentences import CERTIFIED, KEPT, Sentence, sentences_of
from interp.explanation.timeline import births, spread, timeline_of
from interp.explanation.verifying import certificate_of
from interp.literals import as_count
from interp.trajectory import Trajectory, as_trajectory

if TYPE_CHECKING:
    import xarray

__all__ = ["LEAST", "Explanation", "LeftOver", "explain", "own_folder"]

LEAST = 0.2
"""Share of the logits that the idealised network must explain for an account to say anything."""
PERMUTATIONS = 10
"""Permutations of the inputs over which resampled scores are averaged."""
DRAWS = 5
"""Draws of other keys, of which the controls are the means."""
RANKS = (2, 4, 6)

Verdict = Literal["explained", "in part", "none"]


@dataclass(frozen=True, eq=False)
class LeftOver:
    """Parts of the network outside the account, as shares of what they are parts of; NaN where not defined."""

    pre_activations: float
    """Share of the variance of the pre-activations outside the account."""
    by_frequency: Mapping[int, float]
    """The largest of it by frequency, of functions of one operand; the rest mixes operands or frequencies."""
    readout: float
    """Share of the squared centred neuron-logit map outside the account."""
    bypass: float
    """Share of the squared centred logits that passes by the neurons."""
    logits: float
    """Share of the squared centred logits that the idealised network does not explain."""
    not_computed: tuple[str, ...] = ()
    """Terms that cannot be computed for this network, and why."""

    def __str__(self) -> str:
        parts = [
            f"{share:.1%} of the {name}"
            for name, share in (
                ("pre-activations", self.pre_activations),
                ("read-out", self.readout),
                ("logits", self.logits),
                ("logits in what passes by the neurons", self.bypass),
            )
            if np.isfinite(share)
        ]
        largest = [f"{k}: {share:.2%}" for k, share in self.by_frequency.items()]
        said = ", ".join(parts) + (f"; by frequency {', '.join(largest)}" if largest else "")
        return "; ".join([said, *self.not_computed]) if said else "; ".join(self.not_computed)


class Explanation:
    """The algorithm that a run has learned at a step, with scores, controls and a certificate.

    Printed, it is the verdict, the formula, the sentences with their scores, and the certificate.

    Attributes:
        run: name of the run.
        step: step explained.
        account: formulas and their coefficients.
        sentences: sentences with their scores, controls, and whether they hold.
        certificate: proved bounds on accuracy and loss [nats]; None where the network has no tables (see
            `left_over.not_computed`).
        left_over: parts of the network outside the account, as shares 0 to 1.
        verdict: "explained", "in part", or "none", by `rule`.
        network: loss [nats] and accuracy [0 to 1] of the network itself, over all pairs; like all scores of products
            mod p, without those with 0.
        ideal_model: the idealised network; None where there is no account of the pre-activations.
        settings: rank, seed, number of permutations, and keys of the controls.
    """

    def __init__(
        self,
        traj: Trajectory,
        step: int,
        account: Account,
        sentences: tuple[Sentence, ...],
        certificate: Certificate | None,
        left_over: LeftOver,
        verdict: Verdict,
        network: Score,
        ideal_model: IdealNetwork | None,
        settings: Mapping[str, Any],
    ) -> None:
        self.run, self.step = traj.folder.name, step
        self.account = account
        self.sentences = sentences
        self.certificate = certificate
        self.left_over = left_over
        self.verdict: Verdict = verdict
        self.network = network
        self.ideal_model = ideal_model
        self.settings = settings
        self._traj = traj

    def sentence(self, id: str) -> Sentence:
        """Sentence by its name, such as "keys" or "whole".

        Raises:
            NotAvailableError: the explanation has no such sentence.
        """
        for sentence in self.sentences:
            if sentence.id == id:
                return sentence
        raise NotAvailableError(
            f"This explanation has no sentence {id!r}; it has {', '.join(sentence.id for sentence in self.sentences)}."
        )

    @property
    def rule(self) -> str:
        """Rule of the verdict, in words."""
        return (
            f"explained if at least {CERTIFIED} of the accuracy is certified and resampling everything outside the "
            f"account keeps {KEPT} of the network's; none if there is no key, or the idealised network explains less "
            f"than {LEAST} of the logits; otherwise in part, as where a term cannot be computed."
        )

    @property
    def limit(self) -> str:
        """Restriction of the verdict in words: pairs that the account leaves out, and how many are proved; or empty.

        Products mod p are sums of logarithms, which 0 has not.
        """
        if self.certificate is None or self.account.p == self.account.N:
            return ""
        outside = ~np.isnan(self.certificate.margin)
        outside[np.ix_(self.account.elements, self.account.elements)] = False
        proved = int((self.certificate.right & outside).sum())
        return f"without 0: of the {int(outside.sum())} pairs with the operand 0, {proved} are proved to be right"

    @property
    def formula(self) -> str:
        """Formulas of the account in LaTeX: logits, pre-activations, read-out."""
        return ",\\quad ".join(s.formula for s in self.sentences if s.id in ("keys", "first", "readout", "whole"))

    @cached_property
    def scores(self) -> "xarray.Dataset":
        """Scores of all sentences as an `xarray.Dataset` over `sentence`, NaN where one is not defined.

        `explained`, and `loss`, `accuracy`, `agreement` of alone, without and resampled, each with its `null_`: the
        mean over the controls, with the range `null_explained_low`, `null_explained_high`.
        """
        import xarray

        columns: dict[str, list[float]] = {}
        for sentence in self.sentences:
            for prefix, scores in (("", sentence), ("null_", sentence.null)):
                value = scores.explained
                columns.setdefault(f"{prefix}explained", []).append(np.nan if value is None else value)
                for kind in ("alone", "without", "resampled"):
                    score: Score | None = getattr(scores, kind)
                    for field in ("loss", "accuracy", "agreement"):
                        one = np.nan if score is None else getattr(score, field)
                        columns.setdefault(f"{prefix}{kind}_{field}", []).append(one)
            for end, one in zip(("low", "high"), sentence.null_range or (np.nan, np.nan)):
                columns.setdefault(f"null_explained_{end}", []).append(one)
        names = [sentence.id for sentence in self.sentences]
        return xarray.Dataset({name: ("sentence", values) for name, values in columns.items()}, {"sentence": names})

    @cached_property
    def timeline(self) -> "xarray.Dataset":
        """Measures of the account up to the step explained, with its keys refitted at each step (see `timeline_of`).

        Certificates are those of rank 4.
        """
        steps = spread(self._traj.steps[self._traj.steps <= self.step])
        return timeline_of(self._traj, self.account, steps=steps, progress=bool(self.settings.get("progress")))

    @property
    def has_timeline(self) -> bool:
        """Whether the timeline has been computed."""
        return "timeline" in vars(self)

    @property
    def births(self) -> Mapping[str, Mapping[Any, int | None]]:
        """First steps from which alpha, cluster size and embedding share of a key stay above half their last value."""
        return births(self.timeline)

    def ideal_run(self, folder: str | Path, steps: Sequence[int] | None = None) -> Trajectory:
        """Trajectory of idealised networks, refitted at each of these steps, stored in a new folder.

        Measures and the report take it as any run. `steps`: stored steps up to the one explained; by default at most
        100 of them. Keys and clusters are those of this explanation.

        Raises:
            NotAvailableError: there is no account of the pre-activations.
            RunExistsError: the folder holds a run.
        """
        if self.ideal_model is None:
            raise NotAvailableError(f"{self.run} has no idealised network at step {self.step}: {self.left_over}.")
        before = self._traj.steps[self._traj.steps <= self.step]
        chosen = spread(before) if steps is None else steps
        if isinstance(chosen, str) or not isinstance(chosen, Iterable) or not len(known := list(chosen)):
            raise InvalidArgumentError(f"`steps` must be one or more stored steps; got {steps!r}.")
        if not {*known} <= {*before.tolist()} or sorted({*known}) != known:
            raise InvalidArgumentError(f"`steps` must be stored steps up to {self.step}, increasing; got {steps!r}.")
        return ideal_run(self._traj, self.account, Path(folder), known)

    def verify(self, traj: Trajectory | None = None) -> Certificate:
        """Certificate computed again from the stored weights and this account alone; nothing is fitted or found.

        `traj`: the run; None is the one explained. `verify_explanation` does so for a saved explanation.

        Raises:
            NotAvailableError: the run's networks have no certificate.
            InvalidArgumentError: the run is of another task, or its networks of another size.
        """
        return certificate_of(self._traj if traj is None else traj, self.step, self.account, self.settings["rank"])

    def lines(self) -> list[str]:
        """Verdict, formula, sentences with scores, certificate and left-over as lines of text."""
        return lines_of(self)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        return f"<Explanation of {self.run} at step {self.step}: {self.verdict}>"

    def _repr_html_(self) -> str:
        return html_of(self)

    def save(self, folder: str | Path) -> Path:
        """Write the explanation into a folder, which is created: explanation.json, account.safetensors, index.html.

        The account is read back by `Account.load(folder)`; `verify_explanation` proves the certificate again.
        """
        folder = own_folder(folder)
        self.account.save(folder)
        summary = {
            "run": self.run,
            "step": self.step,
            "verdict": self.verdict,
            "network": _plain(self.network),
            "sentences": [_plain(sentence) for sentence in self.sentences],
            "certificate": None if self.certificate is None else _summary(self.certificate),
            "left_over": str(self.left_over),
            **({"births": self.births, "timeline": _curves(self.timeline)} if self.has_timeline else {}),
            "settings": {name: value for name, value in self.settings.items() if name != "progress"},
        }
        (folder / "explanation.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        page = (
            f'<!doctype html><meta charset="utf-8"><title>{html.escape(self.run)}, explained</title>{html_of(self)}\n'
        )
        (folder / "index.html").write_text(page, encoding="utf-8")
        return folder


def explain(
    traj: Trajectory | str | Path,
    step: int | None = None,
    *,
    rank: int = RANK,
    keys: Sequence[int] | Sequence[str] | None = None,
    timeline: bool = True,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    progress: bool = False,
) -> Explanation:
    """Explain a run at a step: its algorithm as formulas, tested sentence by sentence, with a certificate.

    Args:
        traj: the run, or its folder.
        step: a stored step; None is the last one.
        rank: directions per cluster of the certificate: 2, 4 or 6 for frequencies. More prove more and cost more.
        keys: key frequencies or irreps to explain it by; None finds them.
        timeline: whether to compute the account over the run's steps now; otherwise `Explanation.timeline` does when
            it is first asked for.
        permutations: permutations of the inputs over which resampled scores are averaged.
        seed: of the permutations, and of the draws of the controls' keys.
        progress: whether to show a progress bar.

    Raises:
        NotAvailableError: the run has no account: its operation is no sum and no group, or its network has more than
            one layer; the message says which condition fails.
        UnknownNameError: no weights are stored at `step`.
        InvalidArgumentError: an argument breaks its rule.

    Example:
        >>> import interp, tempfile
        >>> config = interp.recipes.get("kitouni-circle-small").replace({"steps": 2})
        >>> found = explain(interp.train(config, root=tempfile.mkdtemp()), timeline=False)
        >>> found.verdict  # two updates of a random network
        'none'
    """
    traj = as_trajectory(traj)
    permutations = as_count("permutations", permutations)
    seed = as_count("seed", seed, minimum=0)
    if rank not in RANKS:
        raise InvalidArgumentError(f"`rank` must be one of {', '.join(map(str, RANKS))}; got {rank!r}.")
    rank = int(rank)
    context, position = RunContext(traj), traj.position(step)
    step = int(traj.steps[position])
    examined = Examined(context, traj.model(step))
    tables = examined.tables  # which raises where the network is of a kind that has no account
    batch = CheckpointBatch(context, np.array([position]))
    chosen = _as_keys(keys) if keys is not None else examined.keys(batch.named_keys)
    scrubbed = Scrubbed(examined.circuit)
    network = scrubbed.score(scrubbed.logits)
    settings: dict[str, Any] = {"rank": rank, "seed": seed, "permutations": permutations, "progress": progress}
    account = examined.account(chosen)
    certificate = None if tables is None else examined.certificate(account, rank)
    controls = control_keys(examined.circuit, chosen or (1,), seed, DRAWS)
    settings["controls"] = [list(other) for other in controls]
    others = [examined.account(other, sources=False) for other in controls]
    proved = [] if certificate is None else [examined.certificate(other, rank) for other in others]
    sentences = sentences_of(
        examined, scrubbed, account, others, certificate, proved, permutations=permutations, seed=seed
    )
    explained = variance_explained(examined.circuit, account) if chosen and tables is not None else (np.nan, np.nan)
    whole = next((s for s in sentences if s.id == "whole"), None)
    found = Explanation(
        traj=traj,
        step=step,
        account=account,
        sentences=sentences,
        certificate=certificate,
        left_over=_left_over(examined, account, explained),
        verdict=_verdict(account, certificate, whole, explained[1], network),
        network=network,
        ideal_model=idealised(examined, account) if chosen and tables is not None else None,
        settings=settings,
    )
    if timeline and chosen and tables is not None:
        found.timeline  # noqa: B018  computed now, while progress is shown
    return found


def own_folder(folder: str | Path) -> Path:
    """Folder to write into, which is created.

    Raises:
        InvalidArgumentError: it is a file or a run.
    """
    folder = Path(folder)
    if (folder / "run.json").exists() or (folder.exists() and not folder.is_dir()):
        raise InvalidArgumentError(f"`folder` must be a folder of its own, and not a file or a run; got {folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _as_keys(keys: Any) -> tuple[Any, ...]:
    """Keys as whole numbers or names; which of them a run has, its account says."""
    if not isinstance(keys, str):
        with suppress(TypeError):
            return tuple(key if isinstance(key, str) else operator.index(key) for key in keys)
    raise InvalidArgumentError(f"`keys` must be frequencies, or names of irreps; got {keys!r}.")


def _verdict(
    account: Account, certificate: Certificate | None, whole: Sentence | None, explained: float, network: Score
) -> Verdict:
    if not account.keys:
        return "none"
    if certificate is None or whole is None or whole.resampled is None:
        return "in part"
    if not explained >= LEAST:  # NaN where there is nothing to explain
        return "none"
    if account.is_empty_claim:
        return "in part"
    kept = whole.resampled.accuracy >= KEPT * network.accuracy
    return "explained" if certificate.accuracy >= CERTIFIED and kept else "in part"


def _left_over(examined: Examined, account: Account, explained: tuple[float, float]) -> LeftOver:
    circuit = examined.circuit
    N, L = circuit.N, circuit.centred
    R = circuit.bypass[..., :N] - circuit.bypass[..., :N].mean(-1, keepdims=True)
    W = circuit.W_centred[:, :N]
    W_rest = W - account.read_out(circuit.W.shape[1])[:, :N] if account.keys else W
    missing, x_left, frequencies = [], float("nan"), {}
    if examined.tables is None:
        name = type(examined.network).__name__
        missing.append(f"pre-activations and certificate: {name} does not tell its tables, so logits and read-out only")
    else:
        x_left = 1 - explained[0] if account.keys else 1.0
        if account.keys and account.basis == "frequency":
            frequencies = _by_frequency(circuit.x - account.pre_activations(), circuit.x)
    if account.is_empty_claim:
        missing.append("evidence: every network can be written in these keys, which are all that there are")
    return LeftOver(
        pre_activations=x_left,
        by_frequency=frequencies,
        readout=_ratio(np.square(W_rest).sum(), np.square(W).sum()),
        bypass=_ratio(np.square(R).sum(), np.square(L).sum()),
        logits=1 - explained[1] if account.keys else 1.0,
        not_computed=tuple(missing),
    )


def _by_frequency(rest: np.ndarray, x: np.ndarray, most: int = 3) -> dict[int, float]:
    """Largest shares of the variance of x that functions of one operand have in the rest, by frequency."""
    total = np.square(x - x.mean((0, 1))).sum()
    # as many pairs as elements have one operand
    power = len(x) * spectra.embedding_power(np.stack([rest.mean(1), rest.mean(0)])).sum(0).numpy()
    shares = power / total if total else power
    return {int(k) + 1: float(shares[k]) for k in np.argsort(-shares)[:most]}


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def _plain(value: Any) -> Any:
    """Sentences and scores as JSON."""
    import dataclasses

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _curves(timeline: "xarray.Dataset") -> dict[str, Any]:
    """Curves of a timeline as JSON: steps, and the values of each quantity at each step, by key where it has keys."""
    names = [name for name in timeline.data_vars if "pair" not in timeline[name].dims]
    curves = {str(name): np.round(timeline[name].transpose("step", ...).values, 6).tolist() for name in names}
    return {"step": timeline["step"].values.tolist(), **curves}


def _summary(certificate: Certificate) -> dict[str, Any]:
    names = ("accuracy", "loss", "rank", "operations", "exhaustive", "forward", "slack", "compact")
    return {name: _plain(getattr(certificate, name)) for name in names} | {"right": int(certificate.right.sum())}
