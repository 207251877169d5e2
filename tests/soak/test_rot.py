"""No damage is silent: a flipped bit, a cut, a swapped, renamed, foreign, stale or missing file is reported by
`verify`, refused, or healed to the right bits.

Each case damages a copy of a run, finished or not, in one way, and then does all that a user may do. Three things must
hold: what is read is right or refused; `verify` says "ok" of a finished run only where all of it is right; and a run
that can be continued to its end without an error, and that `verify` then passes, ends as it would have undamaged.
"""

import hashlib
import os
import random
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import interp
from interp.errors import DamagedRunWarning, InterpError
from tests.observers import Interrupts
from tests.soak.scale import scaled, seed
from tests.soak.work import CONFIGS, MEASURED, PLACE, outcome, outcome_of

CASES = scaled(25, 625)
"""Cases of each kind of run and family of harm; there are four and two."""
REPLAY = (21, 33, 3)
SPARSE = {"save.weights": "every(13)", "save.state": "every(8)"}
"""Few weights, and none at most steps that have a state: a state cannot be proven by them."""


# --- harms ------------------------------------------------------------------------------------------------------------


def flip(path: Path, others: list[Path], draw: random.Random) -> None:
    """Flip one to three bits."""
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 1, 3))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def cut(path: Path, others: list[Path], draw: random.Random) -> None:
    """The end is missing, or whole last lines of text."""
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    if path.suffix == ".jsonl" and draw.random() < 0.7:
        path.write_bytes(b"".join(lines[: draw.randrange(len(lines))]))
    else:
        path.write_bytes(data[: draw.randrange(len(data))])


def drop(path: Path, others: list[Path], draw: random.Random) -> None:
    """A piece out of the middle is missing; of text, whole lines."""
    pieces = path.read_bytes().splitlines(keepends=True)
    if len(pieces) < 2 or path.suffix != ".jsonl":
        data = path.read_bytes()
        start, stop = sorted(draw.sample(range(len(data) + 1), 2))
        path.write_bytes(data[:start] + data[stop:])
    else:
        start, stop = sorted(draw.sample(range(len(pieces) + 1), 2))
        path.write_bytes(b"".join(pieces[:start] + pieces[stop:]))


def repeat(path: Path, others: list[Path], draw: random.Random) -> None:
    """A piece is there twice; of text, a whole line."""
    pieces = path.read_bytes().splitlines(keepends=True)
    at = draw.randrange(len(pieces))
    path.write_bytes(b"".join([*pieces[: at + 1], *pieces[at:]]))


def zero(path: Path, others: list[Path], draw: random.Random) -> None:
    """A block of zeros, as after a power cut."""
    data = bytearray(path.read_bytes())
    start = draw.randrange(len(data))
    stop = min(len(data), start + draw.choice((16, 512, len(data))))
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)


def remove(path: Path, others: list[Path], draw: random.Random) -> None:
    """The file is missing."""
    path.unlink()


def swap(path: Path, others: list[Path], draw: random.Random) -> None:
    """The contents of two files of a kind are exchanged."""
    other = draw.choice(others)
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


def copy_over(path: Path, others: list[Path], draw: random.Random) -> None:
    """Another file of the kind in its place."""
    shutil.copy(draw.choice(others), path)


def rename(path: Path, others: list[Path], draw: random.Random) -> None:
    """Another step in the name of a file, by moving or by copying it."""
    digits = path.stem.split("-")
    moved = path.with_name("-".join(f"{int(part) + draw.choice((-8, 1, 2, 8)):08d}" for part in digits) + path.suffix)
    if all(int(part) >= 0 for part in moved.stem.split("-") if part) and moved != path:
        shutil.copy(path, moved)
        if draw.random() < 0.5:
            path.unlink()
    else:
        path.unlink()


def rename_over(path: Path, others: list[Path], draw: random.Random) -> None:
    """A file takes the name of another."""
    os.replace(path, draw.choice(others))


def remove_after(path: Path, others: list[Path], draw: random.Random) -> None:
    """The file is missing, and all of its kind that come later."""
    for other in [path, *others]:
        if other >= path:
            other.unlink()


def remove_all(path: Path, others: list[Path], draw: random.Random) -> None:
    """All files of the kind are missing."""
    for other in [path, *others]:
        other.unlink()


BYTES = (flip, flip, cut, drop, repeat, zero, remove)
FILES = (swap, copy_over, rename, rename_over, remove_after, remove_all)


# --- runs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A run to be damaged, the runs from which foreign files come, and what the undamaged run comes to."""

    folder: Path
    foreign: tuple[Path, ...]
    complete: bool
    want: dict
    values: dict[str, str]


def stopped(config: interp.RunConfig, root: Path, at: int) -> Path:
    """A run that was stopped at a step, and began in a second of its own: else it is the same run as another."""
    time.sleep(1)
    with pytest.raises(KeyboardInterrupt):
        interp.train(config, root=root, observers=[Interrupts(at - 1)], **PLACE)
    return root / config.run_id


@pytest.fixture(scope="module")
def subjects(tmp_path_factory, small_segments):
    """Finished and unfinished runs, with frequent and with sparse weights."""
    found = {}
    for kind, changes in (("dense", {"save.weights": "every(1)", "save.state": "every(8)"}), ("sparse", SPARSE)):
        config = CONFIGS["transformer"].replace({"steps": 40, "events": ("step 12: optimizer.lr=0.02",), **changes})
        other = config.replace({"seed": 1})
        roots = {
            name: tmp_path_factory.mktemp(name.replace(" ", "-")) for name in ("whole", "part", "foreign", "earlier")
        }
        whole = interp.train(config, root=roots["whole"], **PLACE).folder
        interp.replay(whole, *REPLAY, **PLACE)
        values = measured(whole)
        part = stopped(config, roots["part"], 29)
        foreign = interp.train(other, root=roots["foreign"], **PLACE).folder
        interp.replay(foreign, *REPLAY, **PLACE)
        interp.measure(foreign, MEASURED)
        elsewhere = stopped(other, roots["earlier"], 29)
        earlier = stopped(config, roots["earlier"], 19)  # an older copy of the same run
        want = outcome(roots["whole"])
        found[f"{kind} finished"] = Subject(whole, (foreign, part, earlier), True, want, values)
        found[f"{kind} unfinished"] = Subject(part, (elsewhere, foreign, earlier, whole), False, want, values)
    return found


@pytest.fixture(scope="module")
def small_segments():
    """Segments of four steps."""
    from interp.store import RunWriter

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RunWriter.__init__.__kwdefaults__, "segment_steps", 4)
        patch.setitem(RunWriter.__init__.__kwdefaults__, "fsync", False)
        yield


def measured(folder: Path) -> dict[str, str]:
    """Digests of measured values."""
    data = interp.measure(folder, MEASURED)
    return {str(name): hashlib.sha256(data[name].values.tobytes()).hexdigest() for name in data.data_vars}


def files_by_kind(folder: Path) -> dict[str, list[Path]]:
    """Files that can be damaged, by their kind."""
    patterns = {
        "segment": "trajectory/*.safetensors",
        "state": "state/*.safetensors",
        "metrics": "metrics.jsonl",
        "run.json": "run.json",
        "replay": "replay/*/*/*.safetensors",
        "replay's metrics": "replay/*/metrics.jsonl",
        "replay's run.json": "replay/*/run.json",
        "cache": "measures/*.safetensors",
    }
    found = {kind: sorted(folder.glob(pattern)) for kind, pattern in patterns.items()}
    return {kind: paths for kind, paths in found.items() if paths}


def damage(folder: Path, subject: Subject, harms: tuple[Callable, ...], draw: random.Random) -> str:
    """Damage one file, or a pair; says what was done."""
    kinds = files_by_kind(folder)
    while True:
        kind, harm = draw.choice(list(kinds)), draw.choice(harms)
        path = draw.choice(kinds[kind])
        others = [other for other in kinds[kind] if other != path]
        if harm in (swap, copy_over, rename_over, remove_after) and draw.random() < 0.5 and harm is not remove_after:
            source = draw.choice(subject.foreign)
            others = [one for one in files_by_kind(source).get(kind, []) if one.read_bytes() != path.read_bytes()]
            others = [one for one in others if one.name == path.name] or others
            if not others:
                continue
            shutil.copy(draw.choice(others), path)
            return f"foreign {kind} {path.name} from {source.parent.name}"
        if harm in (swap, copy_over, rename_over) and not others:
            continue
        if harm is rename and kind not in ("segment", "state", "replay"):
            continue
        before = {one: one.read_bytes() for one in kinds[kind]}
        harm(path, others, draw)
        if {one: one.read_bytes() for one in kinds[kind] if one.exists()} != before or harm is rename:
            return f"{harm.__name__} {kind} {path.name}"


# --- what a user may do -----------------------------------------------------------------------------------------------


def look(folder: Path, subject: Subject) -> tuple[str, list[str]]:
    """Read, verify, continue, replay and measure a damaged run; its verdict, and what was silently wrong."""
    name, wrong = folder.name, []
    want = subject.want[name]
    said = ""
    try:
        traj = interp.trajectory.Trajectory(folder)
        said = "; ".join(traj.verify().errors)
    except InterpError as error:
        said = str(error.args[0])  # of which `str` makes one line whatever they are
    else:
        wrong += read_everything(traj, want)
        if subject.complete and not said and not (same(folder, want) and replays_hold(folder, subject)):
            wrong.append("verify is silent")
    if "\n" in said:
        wrong.append("more than one line")
    with warnings.catch_warnings(record=True) as caught, suppress(InterpError):
        warnings.simplefilter("always")
        data = measured(folder)
        told = any(issubclass(one.category, DamagedRunWarning) for one in caught)  # of steps that are left out
        if subject.complete and not told and data != subject.values:
            wrong.append("measured values are wrong")
    try:
        done = interp.resume(folder, **PLACE)
        if not done.verify().errors and not same(folder, want):
            wrong.append("resumed to a wrong end, which verify passes")
        zoom = interp.replay(done, *REPLAY, **PLACE)
        if not zoom.verify().errors and not same(
            zoom.folder, subject.want[f"{name}/{zoom.folder.relative_to(folder)}"]
        ):
            wrong.append("a wrong replay, which verify passes")
    except InterpError as error:
        if "\n" in str(error.args[0]):
            wrong.append("more than one line")
        return ("reported" if said else "refused"), wrong
    return ("reported" if said else "healed"), wrong


def same(folder: Path, want: dict) -> bool:
    """Whether a run holds what it should, to the bit; states for safety may be there besides."""
    try:
        return outcome_of(folder) == want
    except InterpError:
        return False


def replays_hold(folder: Path, subject: Subject) -> bool:
    """Whether replays beside a run are right."""
    return all(
        same(path, want)
        for name, want in subject.want.items()
        if "/replay/" in name
        for path in [folder.parent / name]
        if path.exists()
    )


def read_everything(traj: interp.Trajectory, want: dict) -> list[str]:
    """Sentences about values that are read wrongly, without an error."""
    wrong = []
    try:
        for name in traj.names:
            _ = np.asarray(traj.param(name))  # checks digests, to which fingerprints belong
        for step, found in zip(traj.steps.tolist(), traj.fingerprints(), strict=True):
            if want["weights"].get(step) != found:
                wrong.append(f"wrong weights are read at step {step}")
    except InterpError:
        pass
    return wrong


@pytest.mark.filterwarnings("ignore::interp.errors.DamagedRunWarning")
@pytest.mark.parametrize("harms", [BYTES, FILES], ids=["bytes", "files"])
@pytest.mark.parametrize("kind", ["dense finished", "dense unfinished", "sparse finished", "sparse unfinished"])
def test_no_damage_is_silent(kind, harms, subjects, small_segments, as_users_run_it, tmp_path):
    subject, start = subjects[kind], seed()
    verdicts: Counter[str] = Counter()
    silent = []
    for case in range(CASES):
        draw = random.Random(f"{start} {kind} {harms is BYTES} {case}")
        folder = Path(shutil.copytree(subject.folder, tmp_path / str(case) / subject.folder.name))
        what = damage(folder, subject, harms, draw)
        try:
            verdict, wrong = look(folder, subject)
        except Exception as error:
            verdict, wrong = "untyped", [f"{type(error).__name__}: {error}"]
        verdicts[verdict] += 1
        silent += [f"case {case}: {what}: {one}" for one in wrong]
        shutil.rmtree(folder.parent)
    print(f"{kind}: {dict(verdicts)}")
    assert silent == [], "\n".join(silent)
