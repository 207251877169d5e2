"""The numbers in BENCHMARKS.md, as ratios measured in one process on one machine: `make benchmark`.

Each comparison alternates its contestants and takes the median of the ratios pair by pair, so that a machine whose
speed drifts does not favour either. Times are printed to show their size; only the ratios mean something elsewhere.
"""

import itertools
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

import interp
from interp.analysis.measures import key_frequencies
from interp.config import SGD, FeedForward, Gaussian, Logistic, Modular, Recurrent
from interp.papers.beck.theory.gradient_flow import flow
from interp.store import RunWriter
from interp.theory.separability import asymptotic_weights, margin
from interp.training.ensemble import EnsembleStep
from interp.training.environment import run_environment
from interp.training.state import TrainState
from interp.training.step import TrainingStep
from tests.benchmarks.elsewhere import Elsewhere, seconds, turns
from tests.benchmarks.feedforward import make as make_feedforward
from tests.benchmarks.ours import stepping
from tests.benchmarks.recurrent import make as make_recurrent
from tests.benchmarks.rival_demo import make, matmul_floor
from tests.benchmarks.rival_measures import make as make_measures
from tests.recorded import NAMES, made, sums

CPU = torch.device("cpu")


def compare(
    a: Callable[[], object], b: Callable[[], object] | Elsewhere, n: int = 15, block: int = 1
) -> tuple[float, float, float]:
    """Median times [s] of a and b, and the median over pairs of b's time divided by a's.

    Each takes `block` turns before the other comes: short steps follow each other in a run, with what they need in the
    caches, and not after somebody else's.
    """

    def of_b() -> float:
        return b.turns(block) if isinstance(b, Elsewhere) else turns(b, block)

    for _ in range(2):
        turns(a, block), of_b()
    pairs = [(turns(a, block), of_b()) for _ in range(n)]
    return (
        statistics.median(x for x, _ in pairs),
        statistics.median(y for _, y in pairs),
        statistics.median(y / x for x, y in pairs),
    )


def row(what: str, a: float, b: float, ratio: float, goal: str) -> None:
    print(f"| {what} | {a * 1e3:,.2f} ms | {b * 1e3:,.2f} ms | {ratio:.2f} | {goal} |", flush=True)


def training_step() -> None:
    """The recipe tl-demo against the demo's own loop around TransformerLens's bridge, and against its products."""
    ours = stepping([TrainState(interp.recipes.get("tl-demo"), CPU)])
    demo, (floor_train, floor_test) = make("cpu"), matmul_floor("cpu")

    def floor() -> None:
        floor_train()
        floor_test()

    row("training step with test loss: ours, demo", *compare(lambda: ours(True), lambda: demo(True)), ">= 4.5")
    row("training step: ours, demo", *compare(lambda: ours(False), lambda: demo(False)), ">= 4")
    row("step with test: ours, bare products", *compare(lambda: ours(True), floor, 40), ">= 0.70")
    row("step: ours, bare products", *compare(lambda: ours(False), floor_train, 40), ">= 0.70")


def checkpoints_and_metrics(n: int = 120) -> None:
    """Whole runs of tl-demo without its test pass: checkpoints never, every 10 steps, every step; metrics or none."""
    base = interp.recipes.get("tl-demo").replace({"steps": n, "log.test": "steps(0)", "save.state": "steps()"})

    def run(weights: str, log: str) -> None:
        with tempfile.TemporaryDirectory() as root:
            interp.train(base.replace({"save.weights": weights, "log.train": log}), root=root, device="cpu")

    def bare() -> None:
        run("steps()", "every(1)")

    row(f"{n} steps: no checkpoints, every 10", *compare(bare, lambda: run("every(10)", "every(1)"), 7), "<= 1.03")
    row(f"{n} steps: no checkpoints, every step", *compare(bare, lambda: run("every(1)", "every(1)"), 7), "<= 1.15")
    row(f"{n} steps: no metrics, every step", *compare(lambda: run("steps()", "steps()"), bare, 7), "<= 1.02")


def recording(n: int = 300) -> None:
    """A plain loop of the recipe simple-grokking, alone and recorded at every 10 steps with its losses."""
    pairs, answers, train = sums(53, 2)
    inputs, labels = pairs[train], answers[train]
    table = interp.tasks.table(pairs, answers, train=train, answers_are="residues", p=53)

    def loop(rec: interp.recording.Recorder | None, model: torch.nn.Module, opt: torch.optim.Optimizer) -> None:
        for _ in range(n):
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            opt.zero_grad()
            loss.backward()
            opt.step()
            if rec is not None:
                rec.step(train_loss=loss)

    def recorded() -> None:
        model, opt = made(53, d=128, d_hidden=128)
        with tempfile.TemporaryDirectory() as root:
            plan: dict[str, Any] = {"save": "every(10)", "task": table, "names": NAMES, "neurons": "act", "steps": n}
            with interp.record(f"{root}/run", model, optimizer=opt, **plan) as rec:
                loop(rec, model, opt)

    row(
        f"{n} steps of a loop: alone, recorded",
        *compare(lambda: loop(None, *made(53, d=128, d_hidden=128)), recorded, 7),
        "<= 1.05",
    )


def branching(fork: int = 300, steps: int = 400) -> None:
    """A branch of `kitouni-circle` at step 300 of 400, against the run that changes there, trained from step 0."""
    base = interp.recipes.get("kitouni-circle").replace({"steps": steps, "save.state": "every(100)"})
    with tempfile.TemporaryDirectory() as root:
        parent = interp.train(base, root=root, device="cpu")

        def branched() -> None:
            change = {"optimizer.weight_decay": 0}
            interp.branch(parent, fork, change, root=f"{root}/branches", existing="overwrite")

        def trained() -> None:
            config = base.replace({"events": (f"step {fork}: optimizer.weight_decay=0",)})
            interp.train(config, root=f"{root}/trained", device="cpu", existing="overwrite")

        row(f"a branch at step {fork} of {steps}, training from 0", *compare(branched, trained, 3), ">= 3")


def reading(n: int = 1000) -> None:
    """One [114, 128] parameter over 1000 checkpoints of the p = 113 transformer."""
    weights = TrainState(interp.recipes.get("tl-demo"), CPU).weights()
    config = interp.recipes.get("tl-demo").replace({"steps": n - 1, "save.weights": "every(1)"})
    with tempfile.TemporaryDirectory() as folder:
        run, flat, loose = Path(folder) / "run", Path(folder) / "flat.bin", Path(folder) / "loose"
        loose.mkdir()
        W_E = np.memmap(flat, np.float32, "w+", shape=(n, *weights["embed.W_E"].shape))
        with RunWriter.create(run, {"config": config.to_dict()}) as writer:
            for step in range(n):
                W_E[step] = weights["embed.W_E"] + step
                writer.append(step, {**weights, "embed.W_E": W_E[step]})
                state = {name: torch.from_numpy(array) for name, array in weights.items()}
                torch.save(state, loose / f"{step}.pt")
        W_E.flush()
        parameter = interp.load(run).param("embed.W_E")

        def ours() -> np.ndarray:
            return np.array(parameter[:])

        def flat_map() -> np.ndarray:
            return np.array(np.memmap(flat, np.float32, "r", shape=W_E.shape))

        def pickles() -> np.ndarray:
            return np.stack([torch.load(loose / f"{i}.pt", weights_only=True)["embed.W_E"].numpy() for i in range(n)])

        assert np.array_equal(ours(), flat_map())
        a, b, ratio = compare(flat_map, ours)
        row("one parameter, 1000 checkpoints: flat memory map, ours", a, b, ratio, "<= 2")
        row("the same: ours, 1000 torch.load", *compare(ours, pickles, 3), ">= 50")


def recurrent() -> None:
    """Steps of an LSTM and an RNN of width 128 against torch's modules.

    The full batch mod 97, in three tokens and in six; and minibatches of 32 mod 113, in six.
    """
    full = interp.RunConfig(task=Modular(p=97, train_fraction=0.3), model=Recurrent())
    for cell in ("lstm", "rnn"):
        cases = {
            f"{cell.upper()}, {encoding}": full.replace({"model.cell": cell, "task.encoding": encoding})
            for encoding in ("direct", "sentence")
        }
        for name, config in {**cases, f"ahmed-{cell}, batches of 32": interp.recipes.get(f"ahmed-{cell}")}.items():
            session, steps = TrainState(config, CPU), itertools.count()
            update = TrainingStep(session)

            def ours(update: TrainingStep = update, steps: Iterator[int] = steps) -> None:
                update(next(steps))

            goal, block = ("", 100) if session.minibatches else (">= 3", 10)
            against(f"step of {name}: ours, torch's modules", ours, make_recurrent, session, goal, block)


def feedforward() -> None:
    """The recipe simple-grokking, both metrics at every step, against the plain loop of the published script."""
    session = TrainState(interp.recipes.get("simple-grokking"), CPU)
    assert session.exact_pass
    step = stepping([session])
    against(
        "step of an MLP, both metrics: ours, the plain loop",
        lambda: step(True),
        make_feedforward,
        session,
        ">= 2",
        block=50,
    )


def against(
    what: str,
    ours: Callable[[], None],
    make: Callable[[TrainState], Callable[[], None]],
    session: TrainState,
    goal: str,
    block: int = 10,
) -> None:
    """A row with the rival in a process of its own, as one would run it, and one with it in ours, with our settings."""
    with Elsewhere(make, session.config) as rival:
        row(what, *compare(ours, rival, block=block), goal)
    row(f"{what}, with our allocator", *compare(ours, make(session), block=block), "")


def ensembles(members: int = 8) -> None:
    """Steps of `members` small models, full batch and both metrics, apart and in one batched step."""
    mlp = interp.RunConfig(
        task=Modular(p=53, train_fraction=0.6, encoding="operands"), model=FeedForward(d_model=128, d_hidden=(128,))
    )
    lstm = interp.RunConfig(task=Modular(p=53, train_fraction=0.4), model=Recurrent(d_model=20, d_hidden=20))
    for name, config in (
        ("MLP p=53 hidden 128", mlp),
        ("LSTM p=53 hidden 20", lstm),
        ("LSTM p=53 hidden 20, batch 64", lstm.replace({"optimizer.batch_size": 64})),
    ):
        configs = [config.replace({"seed": seed, "task.seed": seed}) for seed in range(members)]
        apart = [TrainingStep(TrainState(config, CPU)) for config in configs]
        together = EnsembleStep([TrainState(config, CPU) for config in configs])
        steps, same_steps = iter(range(10**9)), iter(range(10**9))

        def alone(apart: list[TrainingStep] = apart, steps: Iterator[int] = steps) -> None:
            step = next(steps)
            for update in apart:
                update.evaluate("test")
                update(step)

        def batched(together: EnsembleStep = together, steps: Iterator[int] = same_steps) -> None:
            together.evaluate("test")
            together(next(steps))

        row(f"step of {members} runs, {name}: apart, together", *compare(alone, batched, block=5), "<= 0.75")


def measures(n: int = 400) -> None:
    """All measures of a network that has learned addition mod 113, against the demo's way; then n checkpoints of it."""
    grokked = interp.recipes.get("tl-demo").replace(
        {"task.train_fraction": 0.9, "steps": 400, "log.test": "steps(400)"}
    )
    config = interp.recipes.get("tl-demo").replace({"steps": n + 9, "save.weights": "every(1)"})
    with tempfile.TemporaryDirectory() as root:
        last = interp.train(grokked, root=root, device="cpu")
        folder = Path(root) / "run"
        weights = {name: value.numpy() for name, value in last.state().items()}

        def extended(first: int, stop: int) -> interp.Trajectory:
            opened = RunWriter.open(folder) if first else RunWriter.create(folder, {"config": config.to_dict()})
            with opened as writer:
                for step in range(first, stop):  # no two are equal
                    writer.append(step, {name: value * np.float32(1 - 1e-5 * step) for name, value in weights.items()})
            return interp.load(folder)

        traj = extended(0, n)
        task = traj.task
        theirs = make_measures(traj.model(0), task.train, task.labels, key_frequencies(traj))
        data, other = interp.measure(traj, steps=[0], cache=False).isel(step=0), theirs()
        for name, value in other.items():
            rounding = 1e-4 * max(1.0, float(value.abs().max()))  # of float32 sums over p^3 numbers
            np.testing.assert_allclose(data[name], value, rtol=2e-2, atol=rounding, err_msg=name)
        names = list(other)

        def ours(which: list[str] | None, count: int) -> None:
            interp.measure(traj, which, steps=range(count), cache=False)

        print(f"(key frequencies {key_frequencies(traj)}; {len(other)} measures that both compute)")
        plain = statistics.median(seconds(theirs) for _ in range(3))
        for what, which in ((f"the {len(names)} measures", names), (f"all {len(data)} measures", None)):
            own = statistics.median(seconds(lambda which=which: ours(which, 8)) for _ in range(3)) / 8
            row(f"one checkpoint: {what} of ours, {len(names)} the demo's way", own, plain, plain / own, ">= 20")

        once = f"import interp; interp.measure(interp.load({str(folder)!r}))"
        peak = "print(max(int(x.split()[1]) for x in open('/proc/self/status') if x.startswith('RssAnon')) / 1024)"
        start = time.perf_counter()
        shown = subprocess.run([sys.executable, "-c", f"{once}; {peak}"], check=True, capture_output=True, text=True)
        print(f"| all measures of {n} checkpoints | {time.perf_counter() - start:.0f} s | | | < 180 s |")
        print(f"| the same, memory of its own at the end | {float(shown.stdout):,.0f} MiB | | | < 1024 MiB |")
        print(f"| the same again, from the cache | {seconds(lambda: interp.measure(traj)):.2f} s | | | < 1 s |")
        traj = extended(n, n + 10)
        print(f"| the same with 10 new checkpoints | {seconds(lambda: interp.measure(traj)):.2f} s | | | |", flush=True)


def separability() -> None:
    """The sizes of "Grokking at the Edge of Linear Separability": flows, S_inf, and descent by the common trainer."""
    n, sigma, log_t = 400, 5.0, np.linspace(-1, 6, 71) * np.log(10)
    swept = (20, 40, 80, 100, 120, 140, 160, 168, 180, 188, 192, 196, 200, 208, 220, 228, 240, 260, 280, 300, 320, 360)

    def points(d: int, sets: int) -> np.ndarray:
        return np.random.default_rng(0).normal(0, sigma, (sets, n, d))

    def sweep() -> None:
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(flow, [points(d, 10) for d in swept for _ in range(2)], repeat(log_t)))

    print(
        f"| flow to t = 1e6, {len(swept)} lambdas x 20 sets of {n} | {seconds(sweep):.0f} s | | | < 120 s |", flush=True
    )
    below = [points(d, 60) for d in range(20, 180, 16)]
    solved = seconds(lambda: [asymptotic_weights(sets[~margin(sets).separable]) for sets in below])
    print(f"| S_inf of 60 sets of {n} at {len(below)} lambdas, margins included | {solved:.0f} s | | | |", flush=True)
    inside = [points(d, 60) for d in range(20, 170, 15)]
    solved = seconds(lambda: [asymptotic_weights(sets) for sets in inside])
    print(f"| S_inf of 60 sets of {n} at {len(inside)} lambdas | {solved:.0f} s | | | < 20 s |", flush=True)

    steps = 20_000
    config = interp.RunConfig(task=Gaussian(n=n), model=Logistic(), optimizer=SGD(lr=0.05), steps=steps).replace(
        {"save.weights": "log(100)", "save.state": "steps()", "log.train": "log(100)", "log.test": "log(100)"}
    )
    sets = [config.replace({"task.seed": seed}) for seed in range(16)]
    with tempfile.TemporaryDirectory() as root:
        alone = statistics.median(
            seconds(lambda i=i: interp.train(config.replace({"seed": i}), root=root, device="cpu")) for i in range(3)
        )
        together = seconds(lambda: interp.train_many(sets, root=root, device="cpu"))
    print(f"| descent of one set through `train`, steps per second | {steps / alone:,.0f} | | | >= 5,000 |", flush=True)
    rate, ratio = 16 * steps / together, 16 * alone / together
    print(f"| of 16 sets through `train_many`, per set; against one | {rate:,.0f} | | {ratio:.1f} | >= 3 |", flush=True)


def imports() -> None:
    """Fresh interpreters."""

    def python(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    row("import torch, import interp", *compare(python("import torch"), python("import interp"), 5), "<= 1.3")
    both = python("import interp; interp.train; interp.load")
    row("import torch, import interp and its trainer", *compare(python("import torch"), both, 5), "<= 1.3")
    help_ = [sys.executable, "-m", "interp", "--help"]
    times = [seconds(lambda: subprocess.run(help_, check=True, capture_output=True)) for _ in range(5)]
    print(f"| interp --help | {statistics.median(times) * 1e3:,.0f} ms | | | < 500 ms |", flush=True)


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| first, second | first | second | second / first | goal |\n| --- | --- | --- | --- | --- |", flush=True)
    chosen = sys.argv[1:] or [
        "training_step",
        "feedforward",
        "recurrent",
        "ensembles",
        "checkpoints_and_metrics",
        "recording",
        "branching",
        "reading",
        "measures",
        "separability",
        "imports",
    ]
    with run_environment(CPU, None):
        for name in chosen:
            globals()[name]()


if __name__ == "__main__":
    main()
