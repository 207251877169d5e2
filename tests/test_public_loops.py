"""Two public training loops, recorded with three added lines, are trajectories like any other."""

import pytest
import torch

import interp
from tests.public_loops import Loop

SMALL = {"p": 7, "width": 16, "batch": 8}
NAMES = {"tok.weight": "embed.W_E", "head.weight": ("unembed.W_U", "T")}


def recorded(loop, folder, epochs):
    """The loop with its three lines, that of the `with`, that of the step, and the last one."""
    task = interp.tasks.table(loop.inputs, loop.answers, train=loop.mask, answers_are="residues", p=SMALL["p"])
    with interp.record(folder, loop.model, optimizer=loop.optimizer, save="every(2)", task=task, names=NAMES) as rec:
        for _ in range(epochs):
            for loss in loop.epoch():
                rec.step(train_loss=loss)
    return rec.trajectory


@pytest.mark.parametrize("kind", ["grokfast", "mamay"])
def test_public_loop_with_three_added_lines(kind, tmp_path):
    plain = Loop(kind, **SMALL)
    losses = [loss.item() for _ in range(4) for loss in plain.epoch()]
    loop = Loop(kind, **SMALL)
    traj = recorded(loop, tmp_path / kind, 4)
    for (name, x), y in zip(plain.model.state_dict().items(), loop.model.state_dict().values(), strict=True):
        assert torch.equal(x, y), name
    assert traj.complete
    assert traj.task.operation == {"grokfast": "multiply", "mamay": "add"}[kind]
    assert traj.steps.tolist() == [*range(0, len(losses), 2), *([len(losses)] if len(losses) % 2 == 0 else [])]
    assert traj.metrics["train_loss"].values.tolist()[: len(losses)] == losses
    data = interp.measure(traj, ["test_accuracy", "test_loss", "weight_norm", "embedding_power"])
    with torch.no_grad():
        logits = loop.model(loop.inputs)[loop.test, -1]
    right = (logits.argmax(-1) == loop.answers[loop.test]).double().mean()
    assert float(data.test_accuracy[-1]) == pytest.approx(float(right))
    assert interp.report(traj, tmp_path / "report.html").stat().st_size > 10_000
