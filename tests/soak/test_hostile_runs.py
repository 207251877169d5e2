"""Run folders written by someone who means harm: every operation ends well, or with one line that names what is wrong.

A small stored run is copied and altered: bytes are flipped, and fields of run.json, of headers and of metrics are
replaced by values of other kinds, *with the seals computed anew*, so that what lies behind the seals is reached.
"""

import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import time
import traceback
import zlib
from pathlib import Path

import numpy as np
import pytest

import interp
from interp.cli import main
from interp.errors import CorruptRunError, InterpError
from interp.store.segments import BLANK, _seal, _seal_field
from interp.trajectory import find_runs
from tests.soak.scale import scaled, seed
from tests.stored_runs.make import HERE

RUNS = HERE / "runs"
KINDS = {
    "ensemble": "add5-mlp-seed0-12226849",
    "with a replay and measures": "add7-transformer-seed4-6b8d1eca",
    "imported": "add5-transformer-imported-3870d2f7",
    "unfinished": "add5-transformer-seed0-0c73d33c",
    "diverged": "add5-mlp-seed0-b544a7a0",
}
"""Stored runs that are altered."""
COMPANION = "add5-mlp-seed1-17d674b9"
"""The other member of the ensemble."""
SECONDS = 20
"""Time that an operation may take, on a busy machine."""
MEMORY = 400_000
"""Kilobytes by which the process may grow."""
SIMPLE = [None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 10**40, 0.5, -0.0, 1e308]
BROKEN = ("a\nb", "x\ny")
"""Names with a line break, which an error may quote."""
TEXTS = ["", "0", "x", "../../x", "/etc/passwd", BROKEN[0], "\x1b[31m", "\ud800", "\u202e", "x" * 5000, "every(1)"]
TEXTS += ["step 1: optimizer.lr=0", "module:Name", "os:system", "add5-mlp-seed0-12226849"]
LISTS = [[], [0], [-1], [None], ["../../x"], [[1, "x"]], [[0, "step 0: optimizer.lr=1"]], [3, 2, 1], [0, 0], [[[[]]]]]
LISTS += [list(range(300)), ["add5-mlp-seed0-12226849"], [[1, "step 1: optimizer.lr=0.1"]]]
OBJECTS = [{}, {"step": 1}, {"kind": "Modular"}, {"x": {"y": {}}}, {"threads": 10**9}, {"device": "cuda:99"}]
OBJECTS += [
    {"start": 0, "stop": 10**12, "every": 1, "of": "x", "from_state": 0},
    {"split": {"train": "ff", "test": "00"}},
]
OBJECTS += [{"split": {"train": "zz", "test": 1}}, {"step": 3, "what": "x"}, {"device": "meta", "threads": 1}]
ODD = [*SIMPLE, *TEXTS, *LISTS, *OBJECTS]
"""Values to put in the place of any other."""
NAMES = ["00000000-00000001", "00000000", "99999999", "0" * 30, "00000001-00000000", "\u0661" * 8, BROKEN[1]]
"""Names that files are given."""
EXTRA = ("diverged", "events", "ensemble", "replay", "import", "provenance", "examples", "schedule", "config")
"""Entries of run.json that may be there or not."""


# -- writing what a reader would believe -------------------------------------------------------------------------------


def write_run_json(folder, whole):
    """A run.json with a seal that is right."""
    store = whole.get("store")
    if isinstance(store, dict):
        store.pop("sha256", None)
        store["sha256"] = _seal(json.dumps(whole, sort_keys=True).encode())
    (folder / "run.json").write_text(json.dumps(whole))


def read_sealed(path):
    """Header and data of a segment or state; steps and digests as values."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    fields = header["__metadata__"]
    for name in ("steps", "digests", "metadata", "follows"):
        if name in fields:
            fields[name] = json.loads(fields[name])
    return header, data[end:]


def write_sealed(path, header, data):
    """A segment or state with a seal that is right."""
    fields = header.get("__metadata__")
    if isinstance(fields, dict):
        for name in ("steps", "digests", "metadata", "follows"):
            if name in fields and not isinstance(fields[name], str):
                fields[name] = json.dumps(fields[name])
        fields["seal"] = BLANK
    text = json.dumps(header).encode()
    head = len(text).to_bytes(8, "little") + text
    blank = b'"seal": "' + BLANK.encode() + b'"'
    head = head.replace(blank, _seal_field(BLANK).ljust(len(blank)))
    seal = _seal(head)
    path.write_bytes(head.replace(_seal_field(BLANK), _seal_field(seal)) + data)


def write_metrics(path, records):
    """Metrics whose checksums are right."""
    lines = []
    for record in records:
        body = json.dumps(record, separators=(",", ":"))[:-1].encode() if not isinstance(record, bytes) else record
        lines.append(body + b',"crc32":"%08x"}' % zlib.crc32(body))
    path.write_bytes(b"\n".join([*lines, b""]))


# -- changes -----------------------------------------------------------------------------------------------------------


def places(tree, path=()):
    """Paths of all values in nested lists and objects."""
    yield path
    for key, child in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(child, (*path, key))


def altered(tree, rng):
    """Nested lists and objects, changed in place: a value is replaced, removed, repeated, renamed or nudged."""
    everywhere = [path for path in places(tree) if path]
    *parents, last = rng.choice(everywhere)
    node = tree
    for key in parents:
        node = node[key]
    kind = rng.choice(["replace", "replace", "replace", "remove", "rename", "nudge", "repeat"])
    if kind == "replace":
        node[last] = rng.choice(ODD)
    elif kind == "remove":
        del node[last]
    elif kind == "rename" and isinstance(node, dict):
        node[str(rng.choice(ODD))] = node.pop(last)
    elif kind == "repeat" and isinstance(node, list):
        node.insert(last, node[last])
    elif isinstance(node[last], int | float):
        node[last] = rng.choice([node[last] + 1, node[last] - 1, -node[last], node[last] * 2**40, float(node[last])])
    else:
        node[last] = rng.choice(ODD)
    return tree


def sealed_files(folder):
    return sorted([*folder.rglob("trajectory/*.safetensors"), *folder.rglob("state/*.safetensors")])


def change_run_json(folder, rng):
    path = rng.choice(sorted(folder.rglob("run.json")))
    whole = json.loads(path.read_text())
    for _ in range(rng.choice([1, 1, 2])):
        if rng.random() < 0.4:
            whole[rng.choice(EXTRA)] = rng.choice(ODD)
        else:
            altered(whole, rng)
    write_run_json(path.parent, whole)


def change_header(folder, rng):
    path = rng.choice(sealed_files(folder))
    header, data = read_sealed(path)
    write_sealed(path, altered(header, rng), data)


def change_metrics(folder, rng):
    path = folder / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    for record in records:
        del record["crc32"]
    altered(records, rng)
    raw = [b"[" * 100_000, b'{"step":1},{"step":2', b'{"step":1', b"1],[2", b'{"a":' * 5000, b"{", b"\xff\xfe"]
    write_metrics(path, [*records, *([rng.choice(raw)] if rng.random() < 0.3 else [])])


def flip_bytes(folder, rng):
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 10])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data[: rng.choice([len(data), len(data), rng.randrange(len(data) + 1)])])


def change_kind(folder, rng):
    """Something else in the place of a file or folder."""
    path = rng.choice(sorted(path for path in folder.rglob("*")))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    kind = rng.choice(["nothing", "pipe", "folder", "link", "loop", "nested", "empty", "huge"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(rng.choice(["/dev/zero", "/etc", "/etc/passwd", "../../..", "nowhere"]))
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "nested":
        path.write_bytes(rng.choice([b"[", b'{"a":']) * 200_000)
    elif kind == "empty":
        path.touch()
    elif kind == "huge":
        path.write_bytes((10**12).to_bytes(8, "little"))
        os.truncate(path, 10**13)


def rename(folder, rng):
    """A file under another name: of another step, or of another kind."""
    path = rng.choice(sealed_files(folder))
    target = rng.choice([path.parent, folder / "trajectory", folder / "state"]) / f"{rng.choice(NAMES)}.safetensors"
    target.parent.mkdir(exist_ok=True)
    if target != path:
        rng.choice([shutil.copy, shutil.move])(path, target)


CHANGES = (
    change_run_json,
    change_run_json,
    change_header,
    change_header,
    change_metrics,
    flip_bytes,
    change_kind,
    rename,
)


# -- operations --------------------------------------------------------------------------------------------------------


def operations(folder):
    """Everything that is done with a run, by name."""

    def load():
        return interp.load(folder)

    def command(*words):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
            main([*map(str, words)])
        assert "Traceback" not in said.getvalue()

    yield "load", lambda: [repr(load()), load().problems, load().events, load().provenance, load().size_in_bytes]
    yield "verify", lambda: str(load().verify())
    yield "params", lambda: [np.asarray(load().param(name)) for name in load().names]
    yield "model", lambda: load().model(int(load().steps[-1])) if len(load().steps) else None
    yield "metrics", lambda: [load().metrics, load().last_metrics("train_loss", "test_accuracy")]
    yield "states", lambda: [load().full_state(step) for step in load().full_state_steps]
    yield "find", lambda: find_runs(folder.parent)
    yield "list", lambda: command("list", folder.parent)
    yield "command verify", lambda: command("verify", folder)
    yield "measure", lambda: interp.measure(load(), ["weight_norm", "test_loss"])
    yield "resume", lambda: interp.resume(folder)
    yield "replay", lambda: interp.replay(load(), 0, min(int(load().steps[-1]), 4) if len(load().steps) else 1)


def copied(name, root):
    """A copy of a stored run, with the other member of its ensemble beside it."""
    if name == KINDS["ensemble"]:
        shutil.copytree(RUNS / COMPANION, root / COMPANION)
    return shutil.copytree(RUNS / name, root / name)


class Hangs(BaseException):
    """An operation has not ended in time."""


def unexpected(call):
    """End of an operation in words, unless it was well or an error of this package in one line."""

    def give_up(number, frame):
        raise Hangs

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    try:
        call()
    except InterpError as error:
        words = str(error.args[0])  # of which `str` makes one line whatever they are
        for name in BROKEN:
            words = words.replace(name, "")
        return f"two lines: {error}" if "\n" in words else None
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "/interp/" in frame.filename] or frames
        return f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return None


@pytest.mark.filterwarnings("ignore")
def test_only_typed_errors_reach_the_user(tmp_path):
    chosen, found = seed(), {}
    outside = tmp_path / "outside"
    outside.write_text("precious")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(scaled(150, 10_000)):
        rng = random.Random(f"{chosen}/{case}")
        kind, change = rng.choice([*KINDS]), rng.choice(CHANGES)
        folder = copied(KINDS[kind], tmp_path / "runs")
        change(folder, rng)
        calls = dict(operations(folder))
        for name in dict.fromkeys(["load", "verify", "params", "metrics", "states", *rng.sample([*calls], 2)]):
            if problem := unexpected(calls[name]):
                key = re.sub(r"/\S+|\d\d+", "", problem)[:80]
                found.setdefault(key, f"case {case}, {kind}, {change.__name__}, {name}: {problem}")
        shutil.rmtree(tmp_path / "runs")
    assert not found, "\n".join(found.values())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + MEMORY
    assert outside.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("value", [100_003, 10**7 + 19, 10**12])
@pytest.mark.parametrize("path", ["task.p", "model.d_model", "model.n_layers", "model.n_heads", "model.d_mlp", "steps"])
def test_a_config_cannot_ask_for_more_than_the_weights_are(tmp_path, path, value):
    folder = copied(KINDS["with a replay and measures"], tmp_path)
    whole = json.loads((folder / "run.json").read_text())
    node = whole["config"]
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    node[last] = value
    write_run_json(folder, whole)
    traj = []
    begun = time.monotonic()
    problem = unexpected(lambda: traj.append(interp.load(folder).model()))
    assert problem is None
    assert traj == [] or path == "steps"
    assert time.monotonic() - begun < 10


@pytest.mark.filterwarnings("ignore")
def test_no_model_is_built_that_the_weights_contradict(tmp_path):
    folder = copied(KINDS["unfinished"], tmp_path)
    whole = json.loads((folder / "run.json").read_text())
    whole["config"]["model"]["d_mlp"] = 2**31
    write_run_json(folder, whole)
    with pytest.raises(CorruptRunError, match="d_mlp"):
        interp.resume(folder)


def test_an_untyped_error_is_seen():
    """The test above can fail: errors of other kinds, errors of two lines, and what never ends."""

    def fails():
        raise KeyError("x")

    def says_much():
        raise InterpError("one line\nand another")

    assert unexpected(fails).startswith("KeyError at test_hostile_runs.py")
    assert unexpected(says_much).startswith("two lines")
    assert unexpected(lambda: None) is None
