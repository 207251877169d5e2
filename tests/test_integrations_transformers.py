"""Hugging Face's Trainer, recorded by a callback: its weights stay bit by bit, and what it logs and resumes is kept."""

import subprocess
import sys

import pytest
import torch
import transformers
from torch.utils.data import Dataset

import interp
from interp.errors import NotAvailableError, RunExistsError
from interp.integrations.transformers import Recorder, logits
from tests.recorded import sums

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory"),  # advice where there is no accelerator
]
P = 7
NAMES = {"transformer.wte.weight": "embed.W_E", "lm_head.weight": ("unembed.W_U", "T")}
NEURONS = "transformer.h.0.mlp.act"


class Pairs(Dataset):
    """Pairs `a b =` of a mask; the answer is the label behind the last token."""

    def __init__(self, mask):
        pairs, answers, _ = sums(P)
        self.tokens = torch.cat([pairs, torch.full((P * P, 1), P)], 1)[mask]
        self.labels = torch.full_like(self.tokens, -100)
        self.labels[:, -1] = answers[mask]

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, at):
        return {"input_ids": self.tokens[at], "labels": self.labels[at]}


class Answered(transformers.GPT2LMHeadModel):
    """A small GPT-2 whose loss is that of the answer at the last token, without the shift of language models."""

    def __init__(self, config):
        super().__init__(config)
        self.loss_function = lambda logits, labels, vocab_size, **told: torch.nn.functional.cross_entropy(
            logits[:, -1].float(), labels[:, -1]
        )


def made():
    torch.manual_seed(0)
    return Answered(
        transformers.GPT2Config(
            vocab_size=P + 1,
            n_positions=3,
            n_embd=16,
            n_layer=1,
            n_head=2,
            resid_pdrop=0.1,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def task():
    pairs, answers, train = sums(P)
    tokens = torch.cat([pairs, torch.full((P * P, 1), P)], 1)
    return interp.tasks.table(tokens, answers, train=train, answers_are="residues", p=P)


def trainer(model, folder, *callbacks, **settings):
    """Trainer on batches of half of the training pairs, quietly, with what it logs at every update."""
    train = sums(P)[2]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_eval_batch_size=P * P,
        disable_tqdm=True,
        report_to=[],
        use_cpu=True,
        seed=3,
        **{
            "per_device_train_batch_size": 15,
            "max_steps": 10,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            **settings,
        },
    )
    return transformers.Trainer(
        model, arguments, train_dataset=Pairs(train), eval_dataset=Pairs(~train), callbacks=list(callbacks)
    )


def equal(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_training_is_bitwise_that_without_the_callback_and_measured(tmp_path):
    plain, model = made(), made()
    trainer(plain, tmp_path, eval_strategy="steps", eval_steps=5).train()
    recorder = Recorder(tmp_path / "mine", save="every(5)", task=task(), names=NAMES, forward=logits)
    trainer(model, tmp_path, recorder, eval_strategy="steps", eval_steps=5).train()
    assert equal(model, plain)
    traj = recorder.trajectory
    assert traj.steps.tolist() == [0, 5, 10]
    assert traj.complete
    assert traj.verify().ok
    assert traj.config.steps == 10
    assert traj.config.optimizer.name == "AdamW"
    assert torch.equal(traj.state(10)["embed.W_E"], model.transformer.wte.weight)
    assert torch.equal(traj.state(10)["unembed.W_U"], model.lm_head.weight.T)
    found = interp.measure(traj, ["train_loss", "test_loss", "embedding_power"])
    metrics = traj.metrics
    assert metrics.eval_loss.values[[5, 10]] == pytest.approx(found.test_loss.values[1:], rel=1e-4)
    assert torch.isfinite(torch.tensor(metrics.loss.values[:10])).all()
    assert torch.tensor(metrics.loss.values[10]).isnan()  # the mean over all steps is none of a step
    assert metrics.learning_rate.values[:2] == pytest.approx([1e-2, 9e-3])
    assert not [name for name in metrics if str(name).endswith(("runtime", "per_second"))]
    opened = interp.load(tmp_path / "mine", model=made(), forward=logits)
    assert torch.equal(opened.model()(traj.task.tokens), traj.model()(traj.task.tokens))


def test_losses_are_those_of_the_weights_they_stand_at(tmp_path):
    """On whole batches without dropout, what the Trainer logs is what the stored weights give."""
    model = made().eval()
    for dropout in (module for module in model.modules() if isinstance(module, torch.nn.Dropout)):
        dropout.p = 0.0
    recorder = Recorder(tmp_path / "mine", save="every(1)", task=task(), names=NAMES, forward=logits)
    trainer(model, tmp_path, recorder, per_device_train_batch_size=29, max_steps=4).train()
    found = interp.measure(recorder.trajectory, ["train_loss"]).train_loss.values
    assert recorder.trajectory.metrics.loss.values[:4] == pytest.approx(found[:4], rel=1e-4)


def test_accumulated_batches_are_one_update(tmp_path):
    recorder = Recorder(tmp_path / "mine", save="every(1)")
    trainer(made(), tmp_path, recorder, gradient_accumulation_steps=2, max_steps=3).train()
    assert recorder.trajectory.steps.tolist() == [0, 1, 2, 3]
    assert recorder.trajectory.metrics.step.values.tolist() == [0, 1, 2]


def test_resumed_training_resumes_its_run(tmp_path):
    """Interrupted at step 8, resumed from the Trainer's checkpoint of step 6: the run is that of the whole training."""
    settings = {"save": "every(1)", "state": "every(4)", "task": task(), "names": NAMES, "forward": logits}
    saving = {"save_strategy": "steps", "save_steps": 3}
    whole = Recorder(tmp_path / "whole", **settings)
    trainer(made(), tmp_path / "a", whole, **saving).train()

    class Stop(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **told):
            if state.global_step == 8:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Recorder(tmp_path / "mine", **settings) as recorder:
        trainer(made(), tmp_path / "b", recorder, Stop(), **saving).train()
    traj = recorder.trajectory
    assert traj.steps.tolist() == list(range(9))
    assert traj.kind.words == "recorded, interrupted at step 8 (KeyboardInterrupt)"
    again = Recorder(tmp_path / "mine", **settings)
    trainer(made(), tmp_path / "b", again, **saving).train(resume_from_checkpoint=True)
    traj = again.trajectory
    assert traj.complete
    assert traj.verify().ok
    assert traj.fingerprints() == whole.trajectory.fingerprints()
    assert traj.metrics.loss.equals(whole.trajectory.metrics.loss)
    assert [one.step for one in traj.provenance["continuations"]] == [6]


def test_interruption_that_no_one_told_is_told_when_training_begins_again(tmp_path):
    class Stop(transformers.TrainerCallback):
        stopped = False

        def on_step_begin(self, args, state, control, **told):
            if state.global_step == 4 and not self.stopped:
                self.stopped = True
                raise ValueError("stop")

    recorder = Recorder(tmp_path / "mine", save="every(1)", existing="overwrite")
    training = trainer(made(), tmp_path, recorder, Stop(), save_strategy="steps", save_steps=3)
    with pytest.raises(ValueError, match="stop"):
        training.train()
    assert recorder.trajectory.steps.tolist() == [0, 1, 2, 3, 4]
    training.train(resume_from_checkpoint=True)
    assert recorder.trajectory.steps.tolist() == list(range(11))
    assert recorder.trajectory.complete


def test_last_weights_are_stored_where_the_trainer_goes_back_to_its_best(tmp_path):
    class Stop(transformers.TrainerCallback):  # before the planned end, at a step that is not due
        def on_step_end(self, args, state, control, **told):
            control.should_training_stop = state.global_step == 10

    losses = iter([1.0, 2.0])
    model, recorder = made(), Recorder(tmp_path / "mine", save="every(4)")
    training = trainer(
        model,
        tmp_path,
        recorder,
        Stop(),
        max_steps=20,
        eval_strategy="steps",
        eval_steps=5,
        save_strategy="steps",
        save_steps=5,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=False,
    )
    training.compute_metrics = lambda _: {"score": next(losses)}
    training.train()
    assert training.state.best_global_step == 5
    last = Recorder(tmp_path / "last", save="every(4)")
    trainer(
        plain := made(), tmp_path / "plain", last, Stop(), max_steps=20, eval_strategy="steps", eval_steps=5
    ).train()
    assert recorder.trajectory.steps.tolist() == [0, 4, 8, 10]
    assert recorder.trajectory.fingerprints() == last.trajectory.fingerprints()
    assert not equal(model, plain)


@pytest.mark.parametrize("library", ["lightning", "transformers"])
def test_missing_library_is_an_error_of_one_line(library):
    code = f"import sys; sys.modules['{library}'] = None; import interp.integrations.{library}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"interp.errors.NotInstalledError: interp.integrations.{library} needs {library}")
    assert last.endswith(f"pip install 'grokking-interp[{library}]'.")


def test_errors(tmp_path):
    recorder = Recorder(tmp_path / "mine")
    with pytest.raises(NotAvailableError, match="it begins when the trainer does"):
        _ = recorder.trajectory
    trainer(made(), tmp_path, recorder, max_steps=1).train()
    with pytest.raises(RunExistsError, match="already holds a run"):
        trainer(made(), tmp_path, Recorder(tmp_path / "mine"), max_steps=1).train()
    with pytest.raises(interp.InterpError, match="Say how with forward"):
        trainer(made(), tmp_path, Recorder(tmp_path / "other", task=task()), max_steps=1).train()
