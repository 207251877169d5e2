"""A run that is killed at any moment, again and again, ends as one that was not; nothing acknowledged is lost."""

import random
import time

import pytest

from interp.store import RunReader
from tests.soak.scale import scaled, seed
from tests.soak.work import WORKS, acknowledged, answer, fresh, outcome, runs_below, sound

KILLS = scaled(5, 400)
"""Kills of each piece of work."""
MOST = 12
"""Maximum number of kills before the work is left to end, to be compared, and begun anew."""


@pytest.fixture(scope="module")
def sources(zygote, tmp_path_factory):
    """Folders in which the work has been done that other work begins with, by its name; "" is an empty one."""
    folders = {"": tmp_path_factory.mktemp("empty")}
    for name in {work.source for work in WORKS.values()} - {""}:
        folders[name] = tmp_path_factory.mktemp("source")
        zygote.call("tests.soak.work:work", name, str(folders[name]))
    return folders


@pytest.mark.parametrize("name", WORKS)
def test_killed_work_goes_on_to_the_same_end(name, zygote, sources, tmp_path):
    draw = random.Random(f"{seed()} {name}")
    source = sources[WORKS[name].source]
    root = fresh(source, tmp_path / "undisturbed", name)
    before = outcome(root)
    began = time.monotonic()
    said = answer(zygote.call("tests.soak.work:work", name, str(root)))
    seconds, calls, want = time.monotonic() - began, said["calls"], outcome(root)

    kills = trial = 0
    while kills < KILLS:
        trial += 1
        root = fresh(source, tmp_path / "attacked", name)
        for life in range(MOST + 1):
            notes = tmp_path / f"{trial}-{life}.txt"
            spared = kills == KILLS or life == MOST
            at_call = 0 if spared or draw.random() < 0.5 else draw.randint(1, calls)
            if at_call and WORKS[name].replaces:  # where the file is written
                at_call = draw.randint(calls - 4, calls)
            child = zygote.start(
                "tests.soak.work:work", name, str(root), str(notes), at_call, None, draw.random() < 0.5
            )
            if not spared and not at_call:
                child.ended(draw.uniform(0, seconds))
                child.kill()
            status = child.wait()
            assert status in (0, -9), child.said()
            if status == 0:
                break
            kills += 1
            holds_what_was_promised(root, notes, want, before)
        assert status == 0, "it never ended"
        assert answer(child.said())["said"] == said["said"]
        assert outcome(root) == want
        assert [error for folder in runs_below(root) for error in sound(folder)] == []
    print(f"{name}: {kills} kills in {trial} runs of {seconds:.2f} s and {calls} calls")


def holds_what_was_promised(root, notes, want, before):
    """Demand that a run is sound after a kill, that what was acknowledged is there, and that nothing there is wrong."""
    for name, promised in acknowledged(notes).items():
        folder = root / name
        assert sound(folder) == []
        reader = RunReader(folder)
        weights = dict(zip(reader.steps.tolist(), reader.fingerprints(), strict=True))
        assert all(want[name]["weights"].get(step) == found for step, found in weights.items())
        due = {step for step in want[name]["weights"] if step <= promised.get("weights", -1)}
        assert due <= set(weights)
        if "metrics" in promised:
            assert reader.metrics["step"][-1] >= promised["metrics"]
        if "state" in promised:
            assert promised["state"] in reader.state_steps or max(reader.state_steps) > promised["state"]
        for step in reader.state_steps:
            reader.read_state(step)
    for folder in runs_below(root):
        assert sound(folder) == []
    after = outcome(root)
    for name, whole in before.items():  # finished work is untouched
        assert isinstance(whole, str) or after[name] == whole
        assert isinstance(whole, dict) or after[name] in (whole, want[name])  # what people keep is whole, old or new
