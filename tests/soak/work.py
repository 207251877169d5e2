"""The work that is attacked: every kind of run, and whatever else writes into a run folder; and what must come of it.

Each piece of work is a function of a folder that can be called again after any end of it. It goes on where it was, and
`outcome` then says everything that must be as in a folder where nothing happened.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from interp.config import (
    SGD,
    AdamW,
    Decoder,
    FeedForward,
    Gaussian,
    Interventions,
    Logistic,
    Modular,
    Recurrent,
    RunConfig,
    Sums,
    Symbolic,
    Transformer,
)
from interp.store import RunReader, RunWriter
from interp.trajectory import Trajectory
from tests.soak.faults import Fault, failing
from tests.soak.scale import scaled

__all__ = [
    "CONFIGS",
    "ENSEMBLE",
    "PLACE",
    "WORKS",
    "Work",
    "acknowledged",
    "answer",
    "fresh",
    "outcome",
    "outcome_of",
    "runs_below",
    "sound",
]

PLACE: dict[str, Any] = {"device": "cpu", "threads": 1}
OFTEN = {"save.weights": "every(2)", "save.state": "every(9)", "log.test": "every(3)"}
CONFIGS = {
    "transformer": RunConfig(
        task=Modular(p=5, train_fraction=0.6),
        model=Transformer(d_model=4, n_heads=2, d_head=2, d_mlp=4, mlp_biases="trainable"),
        optimizer=AdamW(lr=1e-2, batch_size=4),
        steps=30,
        interventions=Interventions(grokfast="ema"),
        events=("step 8: optimizer.lr=0.02", "step 20: optimizer.weight_decay=0"),
    ),
    "mlp": RunConfig(
        task=Modular(p=7, operation="x2+xy+y2", train_fraction=0.6, encoding="operands"),
        model=FeedForward(d_model=4, d_hidden=(6,)),
        optimizer=AdamW(lr=3e-2),
        steps=40,
        interventions=Interventions(update_noise=0.01),
    ),
    "lstm": RunConfig(
        task=Modular(p=5, operation="add_multiply", train_fraction=0.7, encoding="sentence"),
        model=Recurrent(d_model=4, d_hidden=4, dropout=0.2),
        optimizer=AdamW(batch_size=4),
        steps=30,
        events=("epoch 2: optimizer.lr=0.002",),
    ),
    "decoder": RunConfig(
        task=Symbolic(p=5, train_fraction=0.6, noisy_answers=2, closing=True),
        model=Decoder(d_model=2, n_heads=1, d_mlp=2),
        optimizer=AdamW(batch_size=4, warmup_steps=5),
        steps=24,
        interventions=Interventions(weight_noise=0.01),
    ),
    "logistic": RunConfig(
        task=Gaussian(n=12, d=5, sigma=1.5), model=Logistic(), optimizer=SGD(lr=0.05, loss="exponential"), steps=45
    ),
    "rnn-sums": RunConfig(
        task=Sums(p=5, order="ordered", train_fraction=0.6, encoding="direct"),
        model=Recurrent(cell="rnn", d_model=4, d_hidden=5),
        optimizer=SGD(lr=0.05),
        steps=30,
    ),
}
CONFIGS = {name: config.replace(OFTEN) for name, config in CONFIGS.items()}
ENSEMBLE = [
    CONFIGS["mlp"].replace({"seed": seed, "optimizer.lr": lr}) for seed, lr in ((1, 1e-2), (2, 2e-2), (3, 3e-2))
]
MEASURED = ["weight_norm", "test_loss", "embedding_power", "update_norm_by_parameter"]


# --- pieces of work ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """A piece of work."""

    do: Callable[[Path], Any]
    """Does it in a folder, or goes on with it; returns what is no file."""
    source: str = ""
    """Work that must have been done in the folder before."""
    replaces: str = ""
    """File for people that is there already, and is to be replaced."""


def _train(name: str) -> Callable[[Path], None]:
    def train(root: Path) -> None:
        from interp.training.api import train

        train(CONFIGS[name], root=root, **PLACE)

    return train


def _train_many(root: Path) -> None:
    from interp.training.api import train_many

    train_many(ENSEMBLE, root=root, **PLACE)


def _replay(root: Path) -> None:
    from interp.training.api import replay

    replay(root / CONFIGS["transformer"].run_id, 12, 27, 3, **PLACE)


def _import(root: Path) -> None:
    from interp.importers import import_checkpoints

    import_checkpoints(Path(__file__).parents[1] / "stored_runs" / "demo.pt", root)


def _measure(root: Path) -> dict[str, str]:
    from interp.analysis.measures import measure

    data = measure(root / CONFIGS["transformer"].run_id, MEASURED)
    return {str(name): hashlib.sha256(data[name].values.tobytes()).hexdigest() for name in data.data_vars}


def _measure_to_file(root: Path) -> None:
    from interp.cli import main

    main(["measure", str(root / CONFIGS["transformer"].run_id), *MEASURED, "--output", str(root / "measures.csv")])


def _report(root: Path) -> None:
    from interp.analysis.measures import measure
    from interp.reporting.page import report

    folder = root / CONFIGS["transformer"].run_id
    report(folder, root / "report.html", data=measure(folder, MEASURED[:1]))  # of one panel, to be quick


def _record(root: Path) -> None:
    import interp
    from tests.recorded import NAMES, made, task, update

    model, opt = made(d=4, d_hidden=6)
    plan: dict[str, Any] = {"save": "every(2)", "state": "every(9)", "existing": "resume"}
    with interp.record(root / "mine", model, optimizer=opt, task=task(), names=NAMES, neurons="act", **plan) as rec:
        for _ in range(rec.start, 31):
            rec.step(train_loss=update(model, opt))


def _sweep(root: Path) -> dict[str, str]:
    from interp.execution.sweeps import sweep

    done = sweep(
        CONFIGS["mlp"], {"optimizer.lr": [1e-2, 3e-2]}, seeds=range(scaled(1, 2)), root=root, workers=1, **PLACE
    )
    return dict(done.failures)


WORKS = {
    **{name: Work(_train(name)) for name in CONFIGS},
    "ensemble": Work(_train_many),
    "replay": Work(_replay, "transformer"),
    "import": Work(_import),
    "record": Work(_record),
    "measure": Work(_measure, "transformer"),
    "measure --output": Work(_measure_to_file, "transformer", "measures.csv"),
    "report": Work(_report, "transformer", "report.html"),
    "sweep": Work(_sweep),
}
KEPT = tuple(work.replaces for work in WORKS.values() if work.replaces)
"""Files for people: after a kill they are as they were before, or as they are to be."""


def work(name: str, root: str, notes: str = "", nth: int = 0, error: int | None = None, after: bool = False) -> None:
    """Do a piece of work in small segments; notes tell what was acknowledged, the number of calls and the outcome."""
    with _notes(Path(root), notes), failing(root, Fault(nth, error, after)) as calls:
        said = WORKS[name].do(Path(root))
    print(json.dumps({"calls": len(calls), "said": said}))


def attempt(name: str, root: str, nth: int, error: int, after: bool) -> None:
    """Do a piece of work during which a call fails; prints whether the error was typed, and its text."""
    said = io.StringIO()
    kinds, text = [], ""
    try:
        with contextlib.redirect_stderr(said), _notes(Path(root), ""), failing(root, Fault(nth, error, after)):
            WORKS[name].do(Path(root))
    except SystemExit:  # of the command line, which has said why
        text = said.getvalue().splitlines()[-1]
        kinds = ["InterpError"] if text.startswith("interp: ") else ["SystemExit"]
    except BaseException as raised:
        kinds, text = [cls.__name__ for cls in type(raised).__mro__], str(raised.args[0] if raised.args else "")
    print(json.dumps({"raised": kinds, "text": text}))


def answer(said: str) -> Any:
    """Last line of what a child has printed, which is JSON."""
    return json.loads(said.splitlines()[-1])


# --- what was acknowledged --------------------------------------------------------------------------------------------


@contextmanager
def _notes(root: Path, notes: str) -> Iterator[None]:
    """Context in which writers cut segments of four steps and note the steps of what they have promised."""
    settings = RunWriter.__init__.__kwdefaults__ | {"segment_steps": 4}
    append, commit, log, save_state = RunWriter.append, RunWriter.commit, RunWriter.log, RunWriter.save_state
    appended, logged = set[Path](), dict[Path, int]()  # a writer that adds nothing promises nothing
    handle = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if notes else None

    def note(writer: RunWriter, kind: str, step: int) -> None:
        if handle is not None:
            os.write(handle, json.dumps([os.path.relpath(writer.folder, root), kind, int(step)]).encode() + b"\n")

    def appends(writer: RunWriter, step: int, arrays: Any) -> None:
        append(writer, step, arrays)
        appended.add(writer.folder)

    def logs(writer: RunWriter, record: Any) -> None:
        log(writer, record)
        logged[writer.folder] = max(logged.get(writer.folder, -1), record["step"])

    def commits(writer: RunWriter) -> int | None:
        metrics = logged.get(writer.folder)
        last = commit(writer)
        if last is not None and writer.folder in appended:
            note(writer, "weights", last)
        if metrics is not None:
            note(writer, "metrics", metrics)
        return last

    def saves(writer: RunWriter, step: int, *arguments: Any, **keywords: Any) -> None:
        save_state(writer, step, *arguments, **keywords)
        note(writer, "state", step)

    try:
        with (
            patch.object(RunWriter.__init__, "__kwdefaults__", settings),
            patch.object(RunWriter, "append", appends),
            patch.object(RunWriter, "commit", commits),
            patch.object(RunWriter, "log", logs),
            patch.object(RunWriter, "save_state", saves),
        ):
            yield
    finally:
        if handle is not None:
            os.close(handle)


def acknowledged(notes: Path) -> dict[str, dict[str, int]]:
    """Last step of each kind that was promised, by folder; a torn last line was not."""
    last: dict[str, dict[str, int]] = {}
    for line in notes.read_bytes().split(b"\n")[:-1] if notes.exists() else ():
        folder, kind, step = json.loads(line)
        last.setdefault(folder, {})[kind] = max(step, last.get(folder, {}).get(kind, -1))
    return last


# --- what must come of it ---------------------------------------------------------------------------------------------


def runs_below(root: Path) -> list[Path]:
    """All run folders, replays among them."""
    return sorted(path.parent for path in root.rglob("run.json"))


def outcome(root: Path) -> dict[str, Any]:
    """Everything that must be equal however often the work was interrupted, as digests by folder."""
    found: dict[str, Any] = {
        name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in KEPT if (root / name).exists()
    }
    return found | {os.path.relpath(folder, root): outcome_of(folder) for folder in runs_below(root)}


def outcome_of(folder: Path) -> dict[str, Any]:
    """Everything that must be equal of one run; states that its schedule does not have come and go."""
    traj = Trajectory(folder)
    reader, config = RunReader(folder), traj.config
    kept = [step for step in reader.state_steps if config.save.state.at(step, config.steps)]
    return {
        "run": {key: value for key, value in reader.run.items() if key not in ("provenance", "continuations")},
        "complete": reader.complete,
        "weights": dict(zip(reader.steps.tolist(), reader.fingerprints(), strict=True)),
        "states": {step: _state(reader, step) for step in kept},
        "metrics": {name: _bytes(column) for name, column in reader.metrics.items()},
    }


def sound(folder: Path) -> list[str]:
    """Errors that `verify` finds in a run; temporary files and torn lines are none."""
    return list(Trajectory(folder).verify().errors)


def _state(reader: RunReader, step: int) -> str:
    arrays, _ = reader.read_state(step)
    whole = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        whole.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return whole.hexdigest()


def _bytes(column: np.ndarray) -> str:
    return hashlib.sha256(column.tobytes()).hexdigest()


def fresh(source: Path, target: Path, name: str) -> Path:
    """A folder in which a piece of work can begin: a copy of `source`, with an older file of what it writes."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    if WORKS[name].replaces:
        (target / WORKS[name].replaces).write_text("an older one")
    return target
