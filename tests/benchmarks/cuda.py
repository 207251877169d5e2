"""What a CUDA device makes of it: `python -m tests.benchmarks.cuda`, where there is one.

As in the other benchmarks contestants alternate, and the median of the ratios counts; every turn ends when the device
has finished.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial

import torch

import interp
from interp.analysis.curves import first_step
from interp.config import FeedForward, Modular, Recurrent
from interp.training.state import TrainState
from tests.benchmarks.elsewhere import seconds
from tests.benchmarks.feedforward import Plain as PlainFeedForward
from tests.benchmarks.ours import stepping
from tests.benchmarks.recurrent import Plain as PlainRecurrent
from tests.benchmarks.rival_demo import make as make_demo

CUDA = torch.device("cuda")


def turn(run: Callable[[], object], block: int) -> float:
    """Seconds of one of `block` turns in a row, the device's work included."""

    def all_of_them() -> None:
        for _ in range(block):
            run()
        torch.cuda.synchronize()

    return seconds(all_of_them) / block


def compare(what: str, ours: Callable[[], object], theirs: Callable[[], object], n: int = 9, block: int = 20) -> None:
    """A row: median times and the median of the ratios of neighbouring turns."""
    for run in (ours, theirs) * 2:
        turn(run, block)
    pairs = [(turn(ours, block), turn(theirs, block)) for _ in range(n)]
    a, b, ratio = (statistics.median(x) for x in zip(*((a, b, b / a) for a, b in pairs), strict=True))
    print(f"| {what} | {a * 1e3:.3f} ms | {b * 1e3:.3f} ms | {ratio:.1f} |", flush=True)


def plain_loop(model: torch.nn.Module, session: TrainState, with_test: bool) -> Callable[[], None]:
    """A full-batch step as scripts make it, losses read at every step."""
    model, task, settings = model.to(CUDA), session.task, session.config.optimizer
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    train, test = ((task.tokens[mask].to(CUDA), task.labels[mask].to(CUDA)) for mask in (task.train, task.test))

    def step() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(train[0]), train[1])
        loss.backward()
        optimizer.step()
        loss.item()
        if with_test:
            with torch.no_grad():
                torch.nn.functional.cross_entropy(model(test[0]), test[1]).item()

    return step


def steps() -> None:
    """Steps of single runs, against the loops that people write."""
    demo = make_demo("cuda")
    ours = stepping([TrainState(interp.recipes.get("tl-demo"), CUDA)])
    compare("tl-demo, with test loss: ours, the demo's loop", partial(ours, True), partial(demo, True))
    compare("tl-demo: ours, the demo's loop", partial(ours, False), partial(demo, False))
    session = TrainState(interp.recipes.get("simple-grokking"), CUDA)
    assert isinstance(session.config.model, FeedForward)
    plain = PlainFeedForward(session.config.model, session.task.d_vocab, session.task.d_vocab_out)
    mlp = partial(stepping([session]), True)
    compare("simple-grokking, both metrics: ours, the plain loop", mlp, plain_loop(plain, session, True))
    for cell in ("lstm", "rnn"):
        task = Modular(p=97, train_fraction=0.3, encoding="sentence")
        session = TrainState(interp.RunConfig(task=task, model=Recurrent(cell=cell)), CUDA)
        assert isinstance(session.config.model, Recurrent)
        plain = PlainRecurrent(session.config.model, session.task.d_vocab, session.task.d_vocab_out)
        recurrent = partial(stepping([session]), False)
        compare(f"{cell.upper()}, six tokens: ours, torch's modules", recurrent, plain_loop(plain, session, False))


def ensembles() -> None:
    """Steps of many runs at once, with their test numbers, against that of one."""
    mlp = interp.RunConfig(
        task=Modular(p=53, train_fraction=0.6, encoding="operands"), model=FeedForward(d_model=128, d_hidden=(128,))
    )
    lstm = interp.RunConfig(task=Modular(p=53, train_fraction=0.4), model=Recurrent(d_model=20, d_hidden=20))
    for name, config in (("MLP p=53", mlp), ("LSTM p=53", lstm), ("nanda", interp.recipes.get("nanda"))):
        one = partial(stepping([TrainState(config, CUDA)]), True)
        for members in (8, 64, 256) if name != "nanda" else (8, 32):
            configs = [config.replace({"seed": seed, "task.seed": seed}) for seed in range(members)]
            together = partial(stepping([TrainState(config, CUDA) for config in configs]), True)
            compare(f"{name}: one run, {members} in one step", one, together, n=5)
            peak = torch.cuda.max_memory_allocated() / 2**30
            print(f"|  |  |  | (memory so far at most {peak:.1f} GiB) |", flush=True)


def whole_runs() -> None:
    """Recipes to their last step, with all their checkpoints and metrics, on the device."""
    print("\n| recipe | steps | seconds | steps/s | train > 99 % | test > 99 % | last test loss |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in ("nanda", "tl-demo", "kitouni-circle", "simple-grokking", "comprehension", "chughtai-s5"):
        with tempfile.TemporaryDirectory() as root:
            start = time.perf_counter()
            traj = interp.train(interp.recipes.get(name), root=root, device="cuda")
            taken = time.perf_counter() - start
            curves = [traj.metrics[f"{split}_accuracy"].dropna("step") for split in ("train", "test")]
            reached = [first_step(curve.step.values, curve.values, 0.99) for curve in curves]
            loss = float(traj.metrics.test_loss.dropna("step")[-1])
            speed = f"{traj.config.steps:,} | {taken:.1f} | {traj.config.steps / taken:,.0f}"
            print(f"| {name} | {speed} | {reached[0]} | {reached[1]} | {loss:.2g} |", flush=True)


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here.")
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}\n")
    print("| first, second | first | second | second / first |\n| --- | --- | --- | --- |", flush=True)
    steps()
    ensembles()
    whole_runs()


if __name__ == "__main__":
    main()
