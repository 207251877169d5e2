"""Files of an import: which hold the checkpoints, in which order, and what lies beside them.

A run is a file, or a folder with a file per checkpoint (`300.pt`, `epoch_300.safetensors`, `epoch=4-step=500.ckpt`) or
a folder per checkpoint (`checkpoint-500/`, `NAME:v3/`, `step_500/`). A checkpoint may be cut into shards that an index
names (`model.safetensors.index.json`). Where a folder has no checkpoints, the only folder below it that has is taken.
Optimisers, schedulers and random states beside the weights are left out, and so are copies (`best.pt`) of a numbered
checkpoint.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from interp.errors import ForeignFormatError
from interp.importers.contents import ARCHIVES, SAFETENSORS, TORCH
from interp.importers.numbering import Counts, numbered, template
from interp.importers.opening import open_regular

__all__ = ["Part", "Sources", "find_sources"]

SUFFIXES = (*TORCH, *SAFETENSORS, *ARCHIVES)
"""Suffixes of files with weights."""
CONFIGURATIONS = (
    "cfg.json", "config.json", "hparams.json", "args.json", "params.json", "hparams.yaml", "config.yaml", "cfg.yaml",
    "args.yaml", "config.yml", "hparams.yml",
)  # fmt: skip
"""Names of configurations beside checkpoints."""
LOGS = (
    "metrics.csv", "log.csv", "logs.csv", "history.csv", "progress.csv", "losses.csv", "trainer_state.json",
    "metrics.json", "history.json", "log.json", "logs.json", "losses.json", "metrics.jsonl", "log.jsonl",
    "history.jsonl", "wandb-history.jsonl",
)  # fmt: skip
"""Names of logs beside checkpoints."""
UNREAD = re.compile(r"events\.out\.tfevents.*|.*\.log|log\.txt|.*\.(csv|jsonl|wandb)")
"""Names of logs that are not read."""
BESIDE_WEIGHTS = ("optim", "scheduler", "scaler", "rng_state", "rng", "training_args", "random_states", "opt_", "sched")
"""Beginnings of names of files that hold no weights."""
ENDS = ("final", "model", "last", "latest")
"""Names of the last weights of a folder."""
STARTS = ("init", "initial")
COPIES = ("best", "best_model", "model_best", "ema", "swa")
"""Names of files that repeat a checkpoint, or average several."""
USUAL = ("model", "pytorch_model", "weights", "state", "state_dict", "checkpoint", "ckpt", "final", "last", "params")
"""Names of the one file of weights in a checkpoint's folder, by preference."""
SHARD = re.compile(r"(.+)-\d+-of-\d+")
"""Name of a part of one checkpoint."""
PARTS_OF_RUNS = ("models", "checkpoints", "checkpoint", "ckpt", "ckpts", "weights", "saves", "states")
"""Names of folders that are a part of a run's folder."""
DEPTH = 4
"""Folders below the given one in which checkpoints are looked for."""
FOLDERS = 2000
"""Largest number of folders that are looked into."""


@dataclass(frozen=True)
class Part:
    """Files of one checkpoint, or of all of them."""

    files: tuple[Path, ...]
    """Shards of one checkpoint, or one file."""
    name: str
    """Name by which it is spoken of."""
    number: int | None = None
    """Number in its name."""

    @property
    def stem(self) -> str:
        """Name without its suffixes."""
        return _stem(self.name)


@dataclass(frozen=True)
class Sources:
    """Files that an import reads, and what is to be said of the others."""

    parts: tuple[Part, ...]
    """Files of weights by number, those without one last."""
    counts: Counts = "numbers"
    """Meaning of the numbers."""
    configurations: tuple[Path, ...] = ()
    logs: tuple[Path, ...] = ()
    said: tuple[str, ...] = ()
    """Sentences about files that were chosen and left out."""

    @property
    def files(self) -> list[Path]:
        """All files."""
        weights = [file for part in self.parts for file in part.files]
        return [*weights, *self.configurations, *self.logs]


def find_sources(path: Path) -> Sources:
    """The files that an import of `path` reads.

    Raises:
        ForeignFormatError: the path does not exist, holds no checkpoints, or those of several runs.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("epoch=0-step=10.ckpt", "epoch=1-step=20.ckpt", "optimizer.pt"):
        ...     (folder / name).touch()
        >>> found = find_sources(folder)
        >>> [part.number for part in found.parts], found.counts, found.said
        ([10, 20], 'updates', ('left out optimizer.pt, which holds no weights of the network',))
    """
    if path.is_file():
        if path.name.endswith(".index.json"):
            return _beside(Sources((_sharded(path),)), [path.parent])
        stem = re.sub(r"^model_", "config_", path.stem)
        beside = [path.with_name(f"{stem}.json")] if stem != path.stem else []
        beside += [path.with_name(name) for name in CONFIGURATIONS]
        alone = Sources((Part((path,), path.name),), configurations=tuple(x for x in beside if x.is_file())[:1])
        others = [file for file in path.parent.iterdir() if file.suffix in SUFFIXES and file != path]
        return alone if others else replace(alone, logs=_existing([path.parent], LOGS))
    if not path.is_dir():
        if path.exists():
            open_regular(path).close()  # says what it is
        raise ForeignFormatError(f"`path` must be a file or a folder of checkpoints; there is no {path}.")
    looked = [0]
    found = _in_folder(path, 0, looked)
    if found is None:
        inside = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise ForeignFormatError(
            f"`path` must be a file, or a folder of files whose names hold one number each, such as 300.pt, or of "
            f"folders such as checkpoint-300; {path} holds {inside}."
        )
    return found


def _in_folder(folder: Path, depth: int, looked: list[int]) -> Sources | None:
    """The checkpoints of a folder: files in it, else folders in it."""
    looked[0] += 1
    if depth > DEPTH or looked[0] > FOLDERS:
        return None
    inner = [folder / name for name in ("models", "checkpoints") if (folder / name).is_dir()]
    direct = [part for each in (folder, *inner) for part in _parts(each)]
    parts, said = _weights_among(direct)
    if parts:
        return _beside(_counted(folder, parts, said), [folder, *inner], folder.parent)
    below = [each for each in sorted(folder.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    if len(below) > FOLDERS:
        return None
    by_folder = {each: one for each in below if (one := _only(each)) is not None}
    if len(by_folder) > 1:
        return _of_folders(folder, by_folder)
    inside = [found for each in below if (found := _in_folder(each, depth + 1, looked)) is not None]
    if len(inside) > 1:
        names = ", ".join(str(found.parts[0].files[0].parent.relative_to(folder)) for found in inside[:4])
        raise ForeignFormatError(f"{folder} holds the checkpoints of several runs: import one of {names}.")
    if inside:
        return _beside(inside[0], [folder])
    return None


def _of_folders(folder: Path, by_folder: dict[Path, tuple[Part, list[str]]]) -> Sources:
    """A checkpoint in each of several folders, whose names count them."""
    found = numbered([each.name for each in by_folder])
    if found is None:
        names = ", ".join(each.name for each in list(by_folder)[:4])
        raise ForeignFormatError(
            f"{folder} holds the checkpoints of several runs, since no number in the folders' names counts them: "
            f"import one of {names}."
        )
    parts = [
        replace(part, name=f"{each.name}/{part.name}", number=found.numbers[each.name])
        for each, (part, _) in by_folder.items()
    ]
    said = list(dict.fromkeys(line for _, lines in by_folder.values() for line in lines))
    ordered = tuple(sorted(parts, key=lambda part: part.number or 0))
    last = ordered[-1].files[0].parent
    return _beside(Sources(ordered, found.counts, said=tuple(said)), [folder, last], folder.parent)


def _only(folder: Path) -> tuple[Part, list[str]] | None:
    """The weights of a folder of one checkpoint."""
    parts, said = _weights_among(_parts(folder))
    if len(parts) > 1:
        ranked = sorted(
            (part for part in parts if part.stem in USUAL),
            key=lambda part: (USUAL.index(part.stem), part.files[0].suffix not in SAFETENSORS),
        )
        if not ranked:
            return None
        left = ", ".join(part.name for part in parts if part is not ranked[0])
        parts, said = ranked[:1], [*said, f"left out {left} beside {ranked[0].name} in each folder"]
    return (parts[0], said) if parts else None


def _parts(folder: Path) -> list[Part]:
    """Files of weights in a folder, the shards of one checkpoint together."""
    files = sorted(
        file for file in folder.iterdir() if file.name.endswith(SUFFIXES) or file.name.endswith(".index.json")
    )
    parts = [_sharded(file) for file in files if file.name.endswith(".index.json")]
    taken = {file for part in parts for file in part.files}
    shards: dict[str, list[Path]] = {}
    for file in files:
        if file in taken or file.name.endswith(".index.json"):
            continue
        if match := SHARD.fullmatch(_stem(file.name)):
            shards.setdefault(match[1] + file.suffix, []).append(file)
        else:
            parts.append(Part((file,), file.name))
    return [*parts, *(Part(tuple(some), name) for name, some in shards.items())]


def _sharded(index: Path) -> Part:
    """The checkpoint whose parts an index names."""
    with open_regular(index) as stream:
        try:
            names = sorted(set(json.loads(stream.read(2**22))["weight_map"].values()))
            files = tuple(index.parent / Path(str(name)).name for name in names)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ForeignFormatError(f"{index} must be an index of tensors by file, with a `weight_map`.") from None
    if missing := [file.name for file in files if not file.is_file()]:
        raise ForeignFormatError(f"{index} names {', '.join(missing[:4])}, which must lie beside it.")
    return Part(files, index.name.removesuffix(".index.json"))


def _weights_among(parts: Iterable[Part]) -> tuple[list[Part], list[str]]:
    """The parts without optimisers and the like, and what is said of those."""
    parts = list(parts)
    beside = [part for part in parts if part.stem.lower().startswith(BESIDE_WEIGHTS)]
    kept = [part for part in parts if part not in beside]
    said = [f"left out {_listed(beside)}, which {'holds' if len(beside) == 1 else 'hold'} no weights of the network"]
    return kept, said if beside else []


def _counted(folder: Path, parts: Sequence[Part], said: list[str]) -> Sources:
    """Files of one folder as checkpoints by their numbers, the initial and the last weights beside them."""
    ends = [part for part in parts if part.stem in (*ENDS, *STARTS)]
    copies = [part for part in parts if part.stem in COPIES or part.stem.startswith(("best", "ema"))]
    others = [part for part in parts if part not in ends and part not in copies]
    kinds: dict[str, list[Part]] = {}
    for part in others:
        kinds.setdefault(template(part.stem), []).append(part)
    by_kind = {kind: found for kind, some in kinds.items() if (found := numbered([part.stem for part in some]))}
    if not by_kind:
        if len(parts) == 1 or (len(others) == 1 and not ends):
            return Sources((*others, *ends, *copies)[:1], said=tuple(said))
        if ends:
            return Sources(tuple(ends), said=(*said, *_left_out([*others, *copies])))
        inside = _listed(parts, 8)
        raise ForeignFormatError(
            f"`path` must be a file, or a folder of files whose names hold one number each, such as 300.pt; {folder} "
            f"holds {inside}. Import one of the files, or give them numbers of steps."
        )
    most = max(len(found.numbers) for found in by_kind.values())
    largest = [kind for kind, found in by_kind.items() if len(found.numbers) == most]
    if len(largest) > 1 and most > 1:
        raise ForeignFormatError(
            f"{folder} must hold one series of numbered files; it holds {' and '.join(sorted(largest)[:4])} (# for a "
            "number). Import a folder with one of them."
        )
    chosen = set(largest) if most > 1 else set(by_kind)  # single files of different kinds are one series
    series = [replace(part, number=by_kind[kind].numbers[part.stem]) for kind in chosen for part in kinds[kind]]
    counts = by_kind[largest[0]].counts
    choice = by_kind[largest[0]].said
    rest = [part for part in others if template(part.stem) not in chosen]
    lines = [*said, *_left_out([*rest, *copies])]
    if choice:
        lines.append(f"the checkpoints are counted by {choice} of {series[0].name}")
    ordered = sorted(series, key=lambda part: part.number or 0)
    return Sources((*ordered, *ends), counts, said=tuple(lines))


def _left_out(parts: Sequence[Part]) -> list[str]:
    return [f"left out {_listed(parts)}, which no number puts among the checkpoints"] if parts else []


def _beside(sources: Sources, folders: Sequence[Path], parent: Path | None = None) -> Sources:
    """The sources with the configurations and logs of these folders, nearest first, and unread logs named.

    Of the `parent` folder, which may hold other runs, only the commonest names are read, unless the folder's name says
    that it is a part of it.
    """
    configurations = (*sources.configurations, *_existing(folders, CONFIGURATIONS))
    logs = (*sources.logs, *_existing(folders, LOGS))
    if parent is not None:
        every = folders[0].name.lower() in PARTS_OF_RUNS
        configurations += _existing([parent], CONFIGURATIONS if every else CONFIGURATIONS[:2])
        logs += _existing([parent], LOGS if every else LOGS[:1])
    unread = [
        file.name
        for folder in folders
        for file in sorted(folder.iterdir())
        if UNREAD.fullmatch(file.name) and file not in logs
    ]
    said = list(sources.said)
    if unread:
        names = f"{', '.join(unread[:4])}{' and others' if len(unread) > 4 else ''}"
        said.append(f"ignored {names}: logs in a format that is not read")
    return replace(
        sources,
        configurations=tuple(dict.fromkeys(configurations)),
        logs=tuple(dict.fromkeys(logs)),
        said=tuple(dict.fromkeys(said)),
    )


def _existing(folders: Sequence[Path], names: Sequence[str]) -> tuple[Path, ...]:
    return tuple(folder / name for folder in folders for name in names if (folder / name).is_file())


def _listed(parts: Sequence[Part], most: int = 4) -> str:
    names = ", ".join(part.name for part in parts[:most])
    return names + (f" and {len(parts) - most} others" if len(parts) > most else "")


def _stem(name: str) -> str:
    """A name without its suffix, nor that of an archive (model.pth.tar)."""
    stem = Path(name).stem if name.endswith(SUFFIXES) else name
    return Path(stem).stem if name.endswith(".tar") and stem.endswith(SUFFIXES) else stem
