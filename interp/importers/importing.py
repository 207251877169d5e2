"""Somebody else's checkpoints become a run folder: read, understood, proven, written."""

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from interp.config import Modular, RunConfig, Save
from interp.config.schedule import Every, Schedule, Steps
from interp.config.tasks import Operation, Split
from interp.errors import ConfigError, ForeignFormatError
from interp.importers.files import Dump, digest_of, read_dump, source_files
from interp.importers.layouts import Description, Layout, detect
from interp.importers.proof import TOLERANCE, Proof, evaluate, prove
from interp.models import Network, build_model
from interp.store import RunWriter
from interp.tasks import Examples, build_task
from interp.tasks.base import packed
from interp.trajectory import Trajectory

__all__ = ["import_checkpoints"]

PUBLISHED_SEEDS = (598, 0, 1, 2, 42)
"""Seeds of published splits, tried first where a file holds the pairs or only their losses."""
WRONG_SEED = 3_141_592_653
"""Of a split that nobody has published: where it reproduces the losses as well, they say nothing of the split."""
SEEDS_TRIED = 100
NUMBERINGS = ("updates", "indices")
"""What the numbers of checkpoints may be said to be, by how many updates more a checkpoint has seen."""
RECIPES_TRIED: tuple[Split, ...] = ("torch-randperm", "python-shuffle", "numpy-shuffle")


def import_checkpoints(
    path: str | Path,
    root: str | Path = "checkpoints",
    *,
    format: str | None = None,
    assume: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Trajectory:
    """Somebody else's checkpoints as a trajectory, stored in `root/<task>-<model>-imported-<digest>`.

    The layout is recognised by names and shapes (`interp.importers.layouts`), the operation by what the last checkpoint
    answers where no configuration says it, the split by the stored indices or losses. The losses that the file stores
    are computed again from the imported weights; where they differ, nothing is imported. What was found, assumed and
    proven is in `traj.run["import"]`. The same files are imported once: again, the existing run is returned.

    The number of a checkpoint is that of the updates it has seen: 0.pt is the initialisation. Only where a published
    script is known to save after an update under its index, from 0, is one added: simple-grokking's folders, group
    MLPs' folders, the files of Nanda et al.'s Trainer, full_run_data.pth and the Grokking demo's file (sources in
    `interp.importers.layouts` and `files`). Stored losses, where they can tell, overrule both. What could not be told
    stands in `traj.run["import"]["assumed"]` as "steps: ...".

    Where the split is not known, all pairs are both, and `traj.task.held_out` is false: no number is a test's.

    Arguments:
        path: a file, or a folder with a file per checkpoint.
        root: folder that holds runs.
        format: one of `interp.importers.LAYOUTS`, to refuse anything else; None: whichever it is.
        assume: what the files do not say, as dotted paths into the config: {"task.operation": "multiply"}; and as
            "steps" what the checkpoints' numbers are: "updates", or "indices" of the update just made, from 0. An
            operation is believed, and what the weights answer is told beside it.
        progress: show a progress bar.

    Raises:
        ForeignFormatError: there is no such file, its layout is not known, its shapes contradict each other, reading it
            would run foreign code, a weight is NaN or infinite, or it does not reproduce its own losses.
        ConfigError: `assume` names no field of the config, or breaks a rule of it, or numbers files without numbers.
        RunLockedError: another process is importing the same files.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> p, d, neurons = 5, 4, 8
        >>> shapes = {"W_x": (p, d), "W_y": (p, d), "W": (2 * d, neurons), "W_U": (neurons, p)}
        >>> torch.save({name: torch.ones(shape) for name, shape in shapes.items()}, folder / "model.pt")
        >>> traj = import_checkpoints(folder / "model.pt", root=folder)
        >>> traj.names, traj.model()(traj.task.tokens[:1]).flatten().tolist()  # each neuron is 8, each logit 8 * 8
        (('blocks.0.mlp.W_in', 'embed.W_E', 'embed_b.W_E', 'unembed.W_U'), [64.0, 64.0, 64.0, 64.0, 64.0])
    """
    path, root = Path(path), Path(root)
    assume = dict(assume or {})
    files = source_files(path)
    sha256 = digest_of(files)
    key = hashlib.sha256(json.dumps([sha256, assume], sort_keys=True, default=str).encode()).hexdigest()[:8]
    for folder in root.glob(f"*-imported-{key}"):
        if (folder / "run.json").exists():
            if (done := Trajectory(folder)).complete:
                return done
            RunWriter.open(folder).close()  # nobody else is writing to it
            shutil.rmtree(folder)
    dump = read_dump(files)
    last = dump.checkpoints[-1].load()
    layout = detect(last, dump.about, format)
    described = layout.describe(layout.translate(last), dump.about)
    run = _understand(dump, layout, described, assume)
    source = {"from": path.name, "files": len(files), "sha256": sha256, "format": layout.name}
    folder = root / f"{run.config.task.slug}-{run.config.model.slug}-imported-{key}"
    try:
        _write(folder, dump, run, source, progress)
    except BaseException:  # a later file may contradict the first
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Trajectory(folder)


class _Run(NamedTuple):
    """A dump as it is understood."""

    config: RunConfig
    task: Examples
    network: "_Network"
    proof: Proof
    steps: tuple[int, ...]
    """Updates that each checkpoint has seen."""
    operation: str
    """Where the operation is known from, in words."""
    doubt: str
    """What the weights answer instead, in words; empty where no other operation fits far better."""
    split: str
    """The same of the split."""
    assumed: tuple[str, ...]


class _Network:
    """The model whose weights are exchanged checkpoint by checkpoint."""

    def __init__(self, layout: Layout, config: RunConfig, task: Examples) -> None:
        self._layout = layout
        unused = torch.Generator()  # the draws are overwritten
        self._model: Network = build_model(config.model, task.d_vocab, task.n_ctx, task.d_vocab_out, generator=unused)
        self._shapes = {name: tuple(x.shape) for name, x in self._model.state_dict().items()}
        self._pairs = self._model.prepare(task.tokens)

    def read(self, state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """The weights of one checkpoint under this package's names, in float32."""
        weights = self._layout.translate(state)
        if missing := self._shapes.keys() - weights.keys():
            raise ForeignFormatError(f"{where} must hold every parameter; it lacks {', '.join(sorted(missing))}.")
        for name, shape in self._shapes.items():
            if tuple(weights[name].shape) != shape:
                raise ForeignFormatError(
                    f"{where}: `{name}` must have shape {shape}, as the other parameters say; "
                    f"got {tuple(weights[name].shape)}."
                )
        numbers = {name: weights[name].to(torch.float32) for name in sorted(self._shapes)}
        for name, x in numbers.items():
            if not x.isfinite().all():
                raise ForeignFormatError(
                    f"{where}: `{name}` must hold finite float32 numbers; got {int(x.isnan().sum())} NaN, "
                    f"{int(x.isinf().sum())} infinite, of {x.numel()}."
                )
        return numbers

    @torch.no_grad()
    def logits(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Logits of all pairs, [pair, d_vocab_out]."""
        self._model.load_state_dict(dict(weights))
        return self._model.answer_logits(self._pairs)


# --- understanding ----------------------------------------------------------------------------------------------------


def _understand(dump: Dump, layout: Layout, described: Description, assume: Mapping[str, Any]) -> _Run:
    """Operation, split and steps of a dump, and the proof that its weights are read rightly."""
    config = described.config.replace({key: value for key, value in assume.items() if key != "steps"})
    task = _modular(config)
    network = _Network(layout, config, build_task(task))
    epochs = [checkpoint.epoch for checkpoint in dump.checkpoints]
    numbered = [i for i, epoch in enumerate(epochs) if epoch is not None] or [0]
    chosen = sorted({numbered[0], numbered[len(numbered) // 2], numbered[-1], len(epochs) - 1})
    logits = {i: network.logits(network.read(dump.checkpoints[i].load(), _where(dump, i))) for i in chosen}

    assumed = list(described.assumed)
    says_split = "task.split" in assume or "task.seed" in assume  # a fraction alone names no pairs
    knows_split = described.knows_split or says_split
    script = layout.script if dump.script is None else dump.script
    updates = _updates_said(assume["steps"], epochs) if "steps" in assume else int(bool(script))

    unproven = prove([], {}, updates=updates, tests_after_update=layout.tests_after_update)

    def proof_of(candidate: Examples) -> Proof:
        precision = config.optimizer.loss_precision
        numbers = [(e, evaluate(x, candidate, precision)) for i, x in logits.items() if (e := epochs[i]) is not None]
        return prove(numbers, dump.curves, updates=updates, tests_after_update=layout.tests_after_update)

    def reading(task: Modular) -> tuple[Modular, Examples, Proof, str]:
        full = _stored_split(dump, described, build_task(task))
        if full is not None:
            task, split = _recipe_of(full, task)
            return task, full, proof_of(full), split
        if knows_split:
            full = build_task(task)
            return task, full, proof_of(full), f"rebuilt: {task.split} with seed {task.seed}"
        return _split_that_agrees(task, proof_of, unproven, bool(dump.curves))

    operation, candidates, doubt = _operations(task, logits[chosen[-1]], _said(described, assume))
    readings = (reading(candidate) for candidate in candidates)
    task, full, proof, split = first = next(readings)
    if operation == "assumed":  # it has learnt too little for its answers to tell; its losses may
        task, full, proof, split = next((each for each in (first, *readings) if each[2].agrees), first)
        if proof.agrees:
            operation = "found: it reproduces the stored numbers"
        else:
            assumed.append(f"operation {task.operation}")
    if proof.compared and not proof.agrees:
        raise ForeignFormatError(
            f"The file does not reproduce its own numbers, read as {layout.name}, {task.operation} mod {task.p}, the "
            f"split {split}: {proof.example}. Is the operation another (`assume` task.operation), or the activation?"
        )
    if "steps" in assume and proof.updates != updates:
        raise ForeignFormatError(
            "`assume` steps must agree with the stored losses, by which the checkpoints' numbers are "
            f"{NUMBERINGS[proof.updates]}; got {assume['steps']}."
        )
    if split.startswith(("not known", "stored")):
        n, n_train = int((full.train | full.test).sum()), int(full.train.sum())
        share = task.train_fraction if split.startswith("not known") else min(max(n_train, 1), n - 1) / n
        task = task.replace({"split": "stored", "train_fraction": share})
    model = config.model
    if model.init_stream == "split" and task.split != "torch-randperm":
        model = model.replace({"init_stream": "seed"})
    seen = [checkpoint.updates for checkpoint in dump.checkpoints]
    steps = tuple((1 if n is None else n) if e is None else e + proof.updates for e, n in zip(epochs, seen))
    if (None, None) in zip(epochs, seen):
        assumed.append("step 1: the file does not say how many updates were made")
    if (e := epochs[numbered[-1]]) is not None and "steps" not in assume and not proof.tells_updates:
        why = f"as by {script}" if script else "its loss is of weights one update older"
        after = f" (saved after update {e}: {why})" if proof.updates else ""
        assumed.append(f"steps: checkpoint {e} has seen {e + proof.updates} updates{after}")
    if epochs[-1] is None and seen[-1] is not None and dump.curves:
        assumed.append(f"step {steps[-1]}: the last weights follow the last stored loss")
    if any(late <= early for early, late in itertools.pairwise(steps)):
        raise ForeignFormatError(f"The checkpoints must have different numbers; got {', '.join(map(str, epochs[:8]))}.")
    config = config.replace(
        {"task": task, "model": model, "steps": max(1, steps[-1]), "save": Save(weights=_schedule(steps))}
    )
    return _Run(config, full, network, proof, steps, operation, doubt, split, tuple(assumed))


def _updates_said(numbering: object, epochs: Sequence[int | None]) -> int:
    """How many updates more than its number a checkpoint is said to have seen."""
    if numbering not in NUMBERINGS:
        raise ConfigError(
            "`assume` steps must be updates (a checkpoint's number is that of the updates it has seen) or indices (of "
            f"the update just made, from 0); got {numbering!r}."
        )
    if all(epoch is None for epoch in epochs):
        raise ConfigError("`assume` steps says what the numbers of checkpoints mean; these files give none.")
    return NUMBERINGS.index(numbering)


def _modular(config: RunConfig) -> Modular:
    if not isinstance(config.task, Modular):
        raise ConfigError(f"`assume` must leave the task a Modular one; got {type(config.task).__name__}.")
    return config.task


def _said(described: Description, assume: Mapping[str, Any]) -> str:
    """Who says what the operation is; empty: nobody."""
    if "task.operation" in assume:
        return "as assumed"
    return "given by the configuration" if described.knows_operation else ""


def _operations(task: Modular, logits: Tensor, said: str) -> tuple[str, list[Modular], str]:
    """The operations to be tried: the one that somebody has `said`, else the one that the network answers, else all.

    And where it is known from, and what the answers have against what was said.
    """
    right = {}
    for operation in dict.fromkeys([*get_args(Operation), task.operation]):
        try:
            candidate = task.replace({"operation": operation})
        except ConfigError:  # division, where p is not prime
            continue
        full = build_task(candidate)
        right[candidate] = float((logits.argmax(1) == full.labels)[full.train | full.test].double().mean())
    best = max(right, key=lambda candidate: right[candidate])
    learnt = right[best] >= 3 / task.p  # three times chance
    if not said:
        told = f"found: {right[best]:.1%} of all pairs are answered by it" if learnt else "assumed"
        return told, [best] if learnt else list(right), ""
    told = f"{said}; {right[task]:.1%} of all pairs are answered by it"
    if not learnt or right[best] < 2 * right[task]:
        return told, [task], ""
    better = f"{right[best]:.1%} of all pairs by {best.operation}"
    doubt = f"the weights answer {better} and {right[task]:.1%} by {task.operation}"
    return f"{told}, {right[best]:.1%} by {best.operation}", [task], doubt


def _stored_split(dump: Dump, described: Description, full: Examples) -> Examples | None:
    """The task with the split whose pairs the file lists, or whose script does not shuffle."""
    defined = full.train | full.test
    if dump.train is None:
        if not described.unshuffled:
            return None
        task = _modular(described.config)
        train = torch.zeros_like(defined)
        train[: int(task.train_fraction * len(train))] = True
        return replace(full, train=train, test=defined & ~train)
    train = _mask("train", dump.train, full)
    test = defined & ~train if dump.test is None else _mask("test", dump.test, full)
    if (train & test).any() or not train.any() or not test.any():
        raise ForeignFormatError(
            f"The stored indices must name train and test pairs without overlap; got {int(train.sum())} and "
            f"{int(test.sum())}, of which {int((train & test).sum())} are both."
        )
    return replace(full, train=train, test=test)


def _mask(side: str, listed: Sequence[Any], full: Examples) -> Tensor:
    """Pairs as a mask; listed are numbers a p + b, or (a, b) or (a, b, =)."""
    indices = torch.as_tensor(np.asarray([np.asarray(item) for item in listed]))
    if indices.ndim == 2 and indices.shape[1] in (2, 3):
        indices = indices[:, 0] * full.p + indices[:, 1]
    if (
        indices.ndim != 1
        or indices.is_floating_point()
        or not 0 <= int(indices.min()) <= int(indices.max()) < full.p**2
    ):
        raise ForeignFormatError(f"The stored {side} indices must lie in 0 .. {full.p**2 - 1}, for p = {full.p}.")
    mask = torch.zeros(full.p**2, dtype=torch.bool)
    mask[indices.long()] = True
    return mask


def _recipe_of(full: Examples, task: Modular) -> tuple[Modular, str]:
    """The recipe that draws exactly these training pairs, where one of those tried does."""
    n, n_train = int((full.train | full.test).sum()), int(full.train.sum())
    shares = [task.train_fraction, *(round(n_train / n, digits) for digits in (1, 2, 3, 4)), n_train / n]
    for recipe, seed in _recipes(task):
        for share in shares:
            if not (0 < share < 1 and int(share * n) == n_train):
                continue
            candidate = task.replace({"split": recipe, "seed": seed, "train_fraction": share})
            if torch.equal(build_task(candidate).train, full.train):
                return candidate, f"rebuilt: {recipe} with seed {seed} draws the stored pairs"
            break
    return task, "stored: no recipe that was tried draws these pairs"


def _split_that_agrees(
    task: Modular, proof_of: Callable[[Examples], Proof], unproven: Proof, has_curves: bool
) -> tuple[Modular, Examples, Proof, str]:
    """The published split that reproduces the stored losses as no other does, or none."""

    def sharply(proof: Proof) -> bool:
        return proof.agrees and proof.difference <= TOLERANCE  # not loosely: by half, others may

    full = _all_pairs(build_task(task))
    proof_of_all = proof_of(full)
    wrong = build_task(task.replace({"split": "torch-randperm", "seed": WRONG_SEED}))
    tells = not sharply(proof_of_all) and not sharply(
        proof_of(wrong)
    )  # a network that answers all pairs alike does not
    for recipe, seed in _recipes(task, seeds=0) if has_curves and tells else ():
        candidate = task.replace({"split": recipe, "seed": seed})
        proof = proof_of(found := build_task(candidate))
        if proof.compared and sharply(proof):
            return candidate, found, proof, f"rebuilt: {recipe} with seed {seed} reproduces the stored numbers"
    sharp = sharply(proof_of_all)
    return task, full, replace(proof_of_all if sharp else unproven, compared=0), "not known: all pairs are both"


def _recipes(task: Modular, seeds: int = SEEDS_TRIED) -> list[tuple[Split, int]]:
    """Recipes and seeds in the order in which they are tried: the task's own first."""
    tried = [(task.split, task.seed)]
    tried += [(recipe, seed) for seed in (task.seed, *PUBLISHED_SEEDS) for recipe in RECIPES_TRIED]
    tried += [(recipe, seed) for seed in range(seeds) for recipe in RECIPES_TRIED]
    return list(dict.fromkeys(tried))


def _all_pairs(full: Examples) -> Examples:
    defined = full.train | full.test
    return replace(full, train=defined, test=defined)


def _schedule(steps: Sequence[int]) -> Schedule:
    gaps = set(np.diff(steps).tolist())
    even = len(gaps) == 1 and steps[0] % min(gaps) == 0
    return Every(min(gaps)) if even else Steps(tuple(steps))


def _where(dump: Dump, i: int) -> str:
    checkpoint = dump.checkpoints[i]
    number = "The checkpoint" if checkpoint.epoch is None else f"Checkpoint {checkpoint.epoch}"
    return f"{number} in {checkpoint.file}"


# --- writing ----------------------------------------------------------------------------------------------------------


def _write(folder: Path, dump: Dump, run: _Run, source: Mapping[str, Any], progress: bool) -> None:
    """The run folder: weights, the metrics that the file holds, and those that it lacks at every checkpoint."""
    proof = run.proof
    said = (
        f"{proof.compared} stored numbers agree with those of the imported weights, to {proof.difference:.1e}"
        if proof.compared
        else "no stored number to compare with"
        if not dump.curves
        else "none: what the file stores is the same on every split that was tried"
        if proof.agrees
        else "NONE: what the file stores comes out on no split that was tried; is the activation or the operation "
        "another (`assume`), or the split one of its own?"
    ) + (f"; but {run.doubt}" if run.doubt else "")
    imported = {
        **source,
        "operation": run.operation,
        "split_origin": run.split,
        "assumed": list(run.assumed),
        "proof": {"verdict": said, "compared": proof.compared, "difference": proof.difference, "worst": proof.example},
    }
    if run.config.task.split == "stored":
        imported["split"] = {"train": packed(run.task.train), "test": packed(run.task.test)}
    provenance = {
        "imported": datetime.now(UTC).isoformat(timespec="seconds"),
        "interp": version("grokking-interp"),
        "torch": torch.__version__,
        **source,
        "split": run.split,
        "proof": said,
    }
    about = {"config": run.config.to_dict(), "provenance": provenance, "import": imported}
    precision = run.config.optimizer.loss_precision
    with RunWriter.create(folder, about) as writer:
        for step, record in _stored_metrics(dump, proof).items():
            writer.log({"step": step, **record})
        bar = tqdm(dump.checkpoints, unit="checkpoint", disable=not progress, dynamic_ncols=True)
        for i, checkpoint in enumerate(bar):
            weights = run.network.read(checkpoint.load(), _where(dump, i))
            writer.append(run.steps[i], {name: x.numpy() for name, x in weights.items()})
            if len(dump.curves) < 4:
                numbers = evaluate(run.network.logits(weights), run.task, precision)
                missing = {name: value for name, value in numbers.items() if name not in dump.curves}
                writer.log({"step": run.steps[i], **missing})
        writer.finish()


def _stored_metrics(dump: Dump, proof: Proof) -> dict[int, dict[str, float]]:
    """The metrics of the file by step."""
    records: dict[int, dict[str, float]] = {}
    for name, values in dump.curves.items():
        lag = proof.test_lag if name.startswith("test") else 0
        for index, value in values.items():
            records.setdefault(index + lag, {})[name] = value
    return dict(sorted(records.items()))
