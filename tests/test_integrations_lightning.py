"""Lightning's Trainer, recorded by a callback: its weights stay bit by bit, and what it logs and resumes is kept."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import interp
from interp.errors import InvalidArgumentError, NotAvailableError, RunExistsError
from tests.recorded import MLP, NAMES, sums, task

lightning = pytest.importorskip("lightning", reason="lightning is not installed")
from interp.integrations.lightning import Recorder  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),  # advice
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),  # advice
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # Lightning's own, of a class that torch has renamed
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
]
OWN = {f"model.{name}": target for name, target in NAMES.items()}


class Module(lightning.LightningModule):
    """The network of the sums mod 7, in a LightningModule that logs by step, by epoch and in validation."""

    def __init__(self, stop_at=None):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.stop_at = MLP(), stop_at

    def forward(self, tokens):
        return self.model(tokens)

    def training_step(self, batch):
        if self.stop_at == self.global_step:
            raise ValueError("stop")
        pairs, answers = batch
        logits = self(pairs)
        self.log("accuracy", (logits.argmax(1) == answers).float().mean())
        self.log("epoch_accuracy", (logits.argmax(1) == answers).float().mean(), on_step=False, on_epoch=True)
        return F.cross_entropy(logits, answers)

    def validation_step(self, batch):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def loader(mask, parts=1):
    """The pairs of a mask, in as many batches, always in one order."""
    pairs, answers, _ = sums()
    size = -(-int(mask.sum()) // parts)
    return DataLoader(TensorDataset(pairs[mask], answers[mask]), batch_size=size)


def fit(module, folder, *callbacks, ckpt_path=None, parts=1, validation=False, **settings):
    """Fit a module on the training pairs, quietly."""
    settings = {"enable_checkpointing": False, "max_steps": 12, "max_epochs": -1, **settings}
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        num_sanity_val_steps=1,
        **settings,
    )
    train = sums()[2]
    trainer.fit(module, loader(train, parts), loader(~train) if validation else None, ckpt_path=ckpt_path)
    return trainer


def weights(module):
    return {name: x.detach().clone() for name, x in module.state_dict().items()}


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_fit_is_bitwise_that_without_the_callback_and_measured(tmp_path):
    plain, module = Module(), Module()
    fit(plain, tmp_path, validation=True)
    recorder = Recorder(tmp_path / "mine", save="every(3)", task=task(), names=OWN, neurons="model.act")
    fit(module, tmp_path, recorder, validation=True)
    assert equal(weights(module), weights(plain))
    traj = recorder.trajectory
    assert traj.steps.tolist() == [0, 3, 6, 9, 12]
    assert traj.complete
    assert traj.verify().ok
    assert traj.config.steps == 12
    assert traj.config.optimizer.name == "AdamW"
    assert torch.equal(traj.state(12)["embed.W_E"], module.model.embed.weight)
    assert torch.equal(traj.state(12)["unembed.W_U"], module.model.out.weight.T)
    found = interp.measure(traj, ["train_loss", "test_loss", "neuron_frequency_share", "embedding_power"])
    metrics = traj.metrics
    assert metrics.step.values.tolist() == list(range(13))
    logged = {name: metrics[name].values for name in ("train_loss", "val_loss", "accuracy", "epoch_accuracy")}
    assert logged["train_loss"][[0, 3, 6, 9]] == pytest.approx(found.train_loss.values[:4], rel=1e-5)
    assert logged["val_loss"][[3, 6, 9, 12]] == pytest.approx(found.test_loss.values[1:], rel=1e-5)
    assert logged["epoch_accuracy"][1:] == pytest.approx(logged["accuracy"][:12])  # an epoch is one batch here
    assert torch.tensor(logged["val_loss"][0]).isnan()  # the sanity check is no measurement
    opened = interp.load(tmp_path / "mine", model=Module())
    assert torch.equal(opened.model()(traj.task.tokens), traj.model()(traj.task.tokens))


def test_accumulated_batches_are_one_update(tmp_path):
    whole, module = Module(), Module()
    fit(whole, tmp_path, max_steps=4)
    recorder = Recorder(tmp_path / "mine", save="every(1)", task=task(), names=OWN)
    fit(module, tmp_path, recorder, max_steps=4, parts=2, accumulate_grad_batches=2)
    traj = recorder.trajectory
    assert traj.steps.tolist() == [0, 1, 2, 3, 4]
    found = interp.measure(traj, ["train_loss"]).train_loss.values
    assert traj.metrics.train_loss.values[:4] == pytest.approx(found[:4], rel=2e-2)  # batches of 15 and of 14
    torch.testing.assert_close(module.model.embed.weight, whole.model.embed.weight, rtol=0.1, atol=0.02)


def test_resumed_fit_resumes_its_run(tmp_path):
    """Interrupted at step 8, resumed from Lightning's checkpoint of step 6: the run is that of an uninterrupted fit."""
    settings = {"save": "every(1)", "state": "every(4)", "task": task(), "names": OWN}
    whole = Recorder(tmp_path / "whole", **settings)
    fit(Module(), tmp_path, whole)
    saving = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=3, save_top_k=-1)
    first = Recorder(tmp_path / "mine", **settings)
    with pytest.raises(ValueError, match="stop"):
        fit(Module(stop_at=8), tmp_path, first, saving, enable_checkpointing=True)
    traj = interp.load(tmp_path / "mine")
    assert traj.steps.tolist() == list(range(9))
    assert not traj.complete
    assert traj.run["record"]["interrupted"] == {"step": 8, "by": "ValueError", "words": "stop"}
    (path,) = (tmp_path / "ckpt").glob("*step=6.ckpt")
    again = Recorder(tmp_path / "mine", **settings)
    fit(Module(), tmp_path, again, ckpt_path=path)
    traj = again.trajectory
    assert traj.complete
    assert traj.verify().ok
    assert traj.fingerprints() == whole.trajectory.fingerprints()
    assert traj.metrics.equals(whole.trajectory.metrics)
    assert [one.step for one in traj.provenance["continuations"]] == [6]
    late = Recorder(tmp_path / "late", **settings)  # a run that begins where its trainer resumes
    fit(Module(), tmp_path, late, ckpt_path=path)
    assert late.trajectory.steps.tolist() == list(range(6, 13))
    assert late.trajectory.fingerprints() == whole.trajectory.fingerprints()[6:]


def test_ctrl_c_marks_the_run(tmp_path):
    class Stopped(Module):
        def on_train_batch_start(self, batch, batch_idx):
            if self.global_step == 5:
                raise KeyboardInterrupt

    recorder = Recorder(tmp_path / "mine", save="every(1)")
    with pytest.raises(SystemExit):
        fit(Stopped(), tmp_path, recorder)
    assert recorder.trajectory.kind.words == "recorded, interrupted at step 5 (KeyboardInterrupt)"
    assert recorder.trajectory.steps.tolist() == [0, 1, 2, 3, 4, 5]


def test_modules_with_several_optimisers_or_updates_are_refused(tmp_path):
    class Two(Module):
        def __init__(self, optimizers):
            super().__init__()
            self.automatic_optimization, self.number = False, optimizers

        def configure_optimizers(self):
            return [torch.optim.SGD(self.parameters(), lr=1e-2) for _ in range(self.number)]

        def training_step(self, batch):
            optimizer = self.optimizers()
            for _ in range(2):
                optimizer.zero_grad()
                self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
                optimizer.step()

    with pytest.raises(NotAvailableError, match="must have one optimiser to be recorded by a callback; it has 2"):
        fit(Two(2), tmp_path, Recorder(tmp_path / "two"))
    assert not (tmp_path / "two").exists()
    with pytest.raises(NotAvailableError, match="from step 0 to 2 at once"):
        fit(Two(1), tmp_path, Recorder(tmp_path / "one"))


def test_errors(tmp_path):
    recorder = Recorder(tmp_path / "mine")
    with pytest.raises(NotAvailableError, match="it begins when the trainer does"):
        _ = recorder.trajectory
    with pytest.raises(InvalidArgumentError, match="`existing` must be error or overwrite; got 'resume'"):
        Recorder(tmp_path / "mine", existing="resume")
    fit(Module(), tmp_path, recorder, max_steps=2)
    with pytest.raises(RunExistsError, match="already holds a run"):
        fit(Module(), tmp_path, Recorder(tmp_path / "mine"), max_steps=2)
    again = Recorder(tmp_path / "mine", existing="overwrite")
    fit(Module(), tmp_path, again, max_steps=3)
    assert again.trajectory.config.steps == 3
