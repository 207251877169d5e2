"""Recorders as callbacks, in the real trainers: the steps are those of the trainer, the weights the model's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import interp
from tests.recorded import MLP, NAMES, sums, task

pytestmark = pytest.mark.filterwarnings("default")  # the libraries' own


class Rows(Dataset):
    """Training pairs as rows with names."""

    def __init__(self):
        pairs, answers, train = sums()
        self.pairs, self.answers = pairs[train], answers[train]

    def __len__(self):
        return len(self.answers)

    def __getitem__(self, i):
        return {"tokens": self.pairs[i], "labels": self.answers[i]}


class WithLoss(nn.Module):
    """The network in the form that Hugging Face's Trainer trains."""

    def __init__(self):
        super().__init__()
        self.net = MLP()

    def forward(self, tokens, labels=None):
        logits = self.net(tokens)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits} if labels is not None else {"logits": logits}


def test_trainer_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    from interp.integrations.transformers import Recorder

    def logits(model, tokens):
        return model(tokens)["logits"]

    names = {f"net.{name}": stored for name, stored in NAMES.items()}
    plan = {"save": "every(2)", "task": task(), "names": names, "forward": logits, "neurons": "net.act"}
    recorder = Recorder(tmp_path / "mine", **plan)
    arguments = transformers.TrainingArguments(
        str(tmp_path / "hf"), max_steps=5, per_device_train_batch_size=8, gradient_accumulation_steps=2,
        logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, seed=3,
    )  # fmt: skip
    model = WithLoss()
    transformers.Trainer(model, arguments, train_dataset=Rows(), callbacks=[recorder]).train()
    traj = recorder.trajectory
    assert traj.steps.tolist() == [0, 2, 4, 5]
    assert traj.complete
    assert traj.verify().ok
    assert torch.equal(traj.state(5)["embed.W_E"], model.net.embed.weight.detach())
    assert traj.config.optimizer.name == "AdamW"
    assert traj.full_state_steps == [0, 5]
    assert {"loss", "learning_rate"} <= set(traj.metrics.data_vars)
    assert interp.measure(traj, ["test_loss", "neuron_frequency"]).test_loss.shape == (4,)
    opened = interp.load(traj.folder, model=WithLoss(), forward=logits)
    assert torch.equal(opened.model()(traj.task.tokens), traj.model()(traj.task.tokens))


@pytest.mark.parametrize("fails", [False, True])
def test_trainer_of_lightning(tmp_path, fails):
    lightning = pytest.importorskip("lightning", reason="the extra `lightning` is not installed")
    from interp.integrations.lightning import Recorder

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = MLP()

        def forward(self, tokens):
            return self.net(tokens)

        def training_step(self, batch, index):
            if fails and self.global_step == 3:
                raise ValueError("stop")
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    pairs, answers, train = sums()
    loader = DataLoader(TensorDataset(pairs[train], answers[train]), batch_size=5)  # six batches
    recorder = Recorder(tmp_path / "mine", save="every(1)", task=task(), neurons="net.act")
    trainer = lightning.Trainer(
        max_epochs=2, accumulate_grad_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[recorder],
    )  # fmt: skip
    model = Module()
    if fails:
        with pytest.raises(ValueError, match="stop"):
            trainer.fit(model, loader)
    else:
        trainer.fit(model, loader)
    traj = recorder.trajectory
    assert traj.steps.tolist() == list(range(4 if fails else 7))
    assert traj.complete == (not fails)
    assert traj.verify().ok
    assert ("interrupted" in traj.run["record"]) == fails
    assert torch.equal(traj.state()["net.embed.weight"], model.net.embed.weight.detach())
    assert len(traj.metrics.train_loss) == (3 if fails else 6)
