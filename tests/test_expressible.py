"""Networks and tasks that people train, end to end: they train and resume bit for bit, are measured and reported."""

import pytest

import interp
from interp.analysis.catalogue import MEASURES
from interp.config import Digits, FeedForward, Modular, Operations, RunConfig, Transformer
from interp.errors import InterpError
from interp.training.api import RunInterrupted
from tests.observers import Interrupts

TINY = {"d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 24}
ALONE = {"d_model": 16, "n_heads": 2, "d_head": 8, "attention_only": True}
TASK = Modular(p=7, train_fraction=0.7)
MODELS = {
    "pre": Transformer(**TINY, normalization="pre"),
    "pre, two layers": Transformer(**TINY, n_layers=2, normalization="pre", activation="gelu_new"),
    "post": Transformer(**TINY, normalization="post"),
    "attention alone": Transformer(**ALONE),
    "attention alone, pre, two layers": Transformer(**ALONE, n_layers=2, normalization="pre"),
    "square": Transformer(**TINY, activation="square"),
    "tied": Transformer(**TINY, tied=True),
    "scaled": Transformer(**TINY, output_scale=2.0),
}
SMALL = Transformer(**TINY)
TASKS = {
    "a op b =": Modular(p=7, train_fraction=0.7, encoding="operation"),
    "three operands": Modular(p=5, train_fraction=0.7, arity=3),
    "three operands, signs": Modular(p=5, train_fraction=0.7, arity=3, encoding="operation", operation="subtract"),
    "held-out rows": Modular(p=7, train_fraction=0.7, hold_out="rows"),
    "a <= b": Modular(p=7, train_fraction=1, hold_out="a>b"),
    "random labels": Modular(p=7, train_fraction=0.7, random_labels=0.2),
    "multiset": Modular(p=7, train_fraction=0.7, draws=40),
    "digits": Digits(base=3, train_fraction=0.7),
    "several operations": Operations(p=7, operations=("add", "multiply", "x2+y"), train_fraction=0.7),
}
RUNS = {name: (TASK, model) for name, model in MODELS.items()} | {name: (task, SMALL) for name, task in TASKS.items()}
MSE = ("mse", "mlp, square")
RUNS |= {
    "mse": (TASK, SMALL),
    "mlp, square": (Modular(p=7, train_fraction=0.7, encoding="operands"), FeedForward(d_model=8, activation="square")),
}


@pytest.fixture(scope="module", params=RUNS, ids=str)
def run(request, tmp_path_factory):
    """A run that was interrupted and resumed, and its twin that was not."""
    task, model = RUNS[request.param]
    loss = "mse" if request.param in MSE else "cross-entropy"
    changes = {
        "steps": 40,
        "optimizer.loss": loss,
        "optimizer.lr": 1e-2,
        "save.weights": "every(10)",
        "save.state": "every(10)",
        "log.test": "every(5)",
    }
    config = RunConfig(task=task, model=model).replace(changes)
    folder = tmp_path_factory.mktemp("expressible")
    with pytest.raises(RunInterrupted):
        interp.train(config, root=folder / "a", device="cpu", observers=[Interrupts(23)])
    resumed = interp.resume(folder / "a" / config.run_id)
    return resumed, interp.train(config, root=folder / "b", device="cpu")


def loss_of(traj):
    """The log of what is minimised: train_loss, but of squared errors, which are no cross-entropies."""
    return "train_loss" if traj.config.optimizer.loss == "cross-entropy" else "batch_loss"


def test_it_learns_and_resumes_bit_for_bit(run):
    resumed, whole = run
    losses = whole.metrics[loss_of(whole)].dropna("step").values
    assert losses[-1] < 0.9 * losses[0]
    assert resumed.fingerprints() == whole.fingerprints()
    assert resumed.metrics.equals(whole.metrics)


def test_measures_run_or_are_refused_in_one_line(run):
    traj, _ = run
    data = interp.measure(traj, steps=[0, 40])
    expected = {"weight_norm"} | ({"train_loss", "test_accuracy"} if traj.task.answers.is_classes else set())
    assert set(data) > expected
    assert all(data[name].notnull().any() for name in expected)
    refused = 0
    for name in MEASURES:
        if name not in data and not MEASURES[name].opt_in:
            try:
                interp.measure(traj, [name], steps=[40])
            except InterpError as error:
                assert "\n" not in str(error)  # noqa: PT017 -- some are refused, others are empty for want of keys
                refused += 1
    assert refused > 0


def test_a_report_is_built(run):
    traj, _ = run
    html = interp.report(traj, traj.folder / "report.html").read_text()
    assert "train_loss" in html
