"""The logic of captured work, on CUDA where there is a device, and else with a device that only keeps the order."""

import contextlib
import gc
import weakref

import pytest
import torch

from interp.training.capture import WARM_UP_CALLS, CapturedEvaluations, captured


class Graph:
    """What `torch.cuda.CUDAGraph` is without a device: it can be held, shared and replayed."""

    replays = 0

    def pool(self):
        return None

    def replay(self):
        self.replays += 1


class Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture(autouse=True)
def device(monkeypatch):
    if torch.cuda.is_available():
        return torch.device("cuda")
    nothing = {"stream": lambda stream: contextlib.nullcontext(), "graph": lambda *_, **__: contextlib.nullcontext()}
    for name, fake in {"CUDAGraph": Graph, "Stream": Stream, "current_stream": Stream, **nothing}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return torch.device("cpu")


class Held:
    """In a cycle with itself, it goes when the collector comes along."""

    def __init__(self, graph):
        self.itself, self.graph = self, graph


def test_no_older_graph_is_destroyed_in_a_capture(device):
    """One that only a cycle holds would be, and would break it."""
    older, _ = captured(lambda: torch.ones(2, device=device) * 2)
    alive = weakref.ref(older)
    graphs, seen = [older], []
    del older

    def work():
        seen.append(gc.isenabled())
        if len(seen) > WARM_UP_CALLS:
            Held(graphs.pop())
            _ = [[] for _ in range(100_000)]  # more than the collector waits for
            seen.append(alive() is not None)
        return torch.ones(2, device=device) * 3

    captured(work)
    assert seen == [True] * WARM_UP_CALLS + [False, True]
    assert gc.isenabled()
    gc.collect()
    assert alive() is None


def test_the_collector_is_back_after_a_capture_that_failed(device):
    calls = []

    def work():
        calls.append(1)
        if len(calls) > WARM_UP_CALLS:
            raise ValueError("in the capture")

    with pytest.raises(ValueError, match="in the capture"):
        captured(work)
    assert gc.isenabled()


def test_a_split_is_captured_once(device):
    asked = []

    def evaluate(split):
        asked.append(split)
        return torch.zeros(2, device=device)

    update, _ = captured(lambda: torch.ones(2, device=device))
    evaluations = CapturedEvaluations(update)
    first = [evaluations(evaluate, split) for split in ("test", "train", "test")]
    assert asked == ["test"] * (WARM_UP_CALLS + 1) + ["train"] * (WARM_UP_CALLS + 1)
    assert first[0] is first[2]
    assert first[0] is not first[1]
