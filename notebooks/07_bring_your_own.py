# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %%

# %% [markdown]
# # Your own loop, your own network, your own files
#
# A network in plain PyTorch, trained by a plain loop, becomes a trajectory that every tool here reads: three added
# lines record it. Then what it has learned, with measures of this package and one of your own, and the same with files
# that a script has saved by itself.
#
# `INTERP_NOTEBOOK_SCALE=toy` trains in seconds.

# %%
import os
import tempfile
from pathlib import Path

import torch
from IPython.display import Markdown, display
from torch import nn
from torch.nn import functional as F

import interp
from interp.milestones.words import describe

TOY = os.environ.get("INTERP_NOTEBOOK_SCALE", "full") == "toy"
p, width, hidden, updates = (23, 48, 128, 900) if TOY else (59, 128, 256, 3000)
scratch = tempfile.TemporaryDirectory()
root = Path(scratch.name) if TOY else Path("../checkpoints")


def say(text):
    display(Markdown(text))


# %% [markdown]
# ## A network and a loop
#
# Nothing in this cell knows of this package: an embedding table, two operands side by side, one hidden layer; all sums
# mod $p$, of which 80 % are trained on; AdamW with decay.


# %%
class Adder(nn.Module):
    def __init__(self):
        super().__init__()
        self.numbers = nn.Embedding(p, width)
        self.hidden = nn.Linear(2 * width, hidden)
        self.act = nn.ReLU()
        self.out = nn.Linear(hidden, p, bias=False)

    def forward(self, pairs):
        return self.out(self.act(self.hidden(self.numbers(pairs).flatten(1))))


torch.manual_seed(0)
pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
answers = pairs.sum(1) % p
train = torch.rand(p * p) < 0.8
model = Adder()
opt = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1.0, betas=(0.9, 0.98))

# %% [markdown]
# ## Three added lines
#
# `interp.record` opens a run folder; `rec.step` stores the weights where they are due, and logs whatever you hand it.
# Two optional words make the difference between a folder of weights and a run that is understood:
#
# - `task` holds inputs, answers and the split; accuracies, losses and spectra over the answers come from it;
# - `names` says which parameter is the embedding and which the read-out, here transposed, and `neurons` the module
#   whose output is the hidden layer.
#
# The loop's own state (optimiser, random numbers) is kept every 1,000 steps, so that a run that was killed goes on with
# `existing="resume"` at `rec.start`.

# %%
task = interp.tasks.table(pairs, answers, train=train, answers_are="residues", p=p)
names = {"numbers.weight": "embed.W_E", "out.weight": ("unembed.W_U", "T")}

with interp.record(
    root / "my-adder",
    model,
    optimizer=opt,
    save="every(1, until=100) | every(10)",
    task=task,
    names=names,
    neurons="act",
    existing="overwrite",
) as rec:  # 1
    for _ in range(updates):
        loss = F.cross_entropy(model(pairs[train]), answers[train])
        opt.zero_grad()
        loss.backward()
        opt.step()
        rec.step(train_loss=loss)  # 2

traj = rec.trajectory  # 3
traj

# %% [markdown]
# ## What it has learned
#
# The trajectory is one like any other: measures, milestones, figures, the report.

# %%
data = interp.measure(traj, progress=True)
found = interp.milestones.find(traj)
say(f"{len(traj.steps)} checkpoints, {traj.size_in_bytes / 1e6:.1f} MB; {len(data.data_vars)} measures apply.")
for sentence in describe(found, data):
    say(sentence)

assert found.accuracies["train"].sustained, "it has not learned its training pairs"
display(interp.plots.accuracy_curves(data))
interp.plots.embedding_circle(data)

# %% [markdown]
# A report is one HTML file, for a colleague: `interp.report(traj)`, or `interp report checkpoints/my-adder`.

# %%
say(f"Written: {interp.report(traj).name}")

# %% [markdown]
# ## A measure of one's own
#
# A function of the model is measured at every checkpoint. The model is yours, with the weights of that step; its layers
# are reached by their stored names, its activations by `run_with_cache`, under the paths of your modules. Here: the
# share of hidden units that no pair switches on.


# %%
def dead_units(network):
    _, cache = network.run_with_cache(pairs)
    return (cache["act"] <= 0).all(dim=0).double().mean()


own = interp.measure(traj, ["test_accuracy", dead_units])
interp.plots.measure_curves(own, ["dead_units"], title="Hidden units that no pair switches on", y="share")

# %% [markdown]
# ## In another session
#
# A folder never causes an import: it holds weights, numbers and words, no code. `interp.load` opens it by itself, and
# all that needs weights alone works at once; with a network of the class, everything else does, too.

# %%
bare = interp.load(traj.folder)
weights_alone = interp.measure(bare)
whole = interp.load(traj.folder, model=Adder())
say(f"{len(weights_alone.data_vars)} measures from the weights alone.")
say(f"{len(interp.measure(whole).data_vars)} measures with the network.")

with torch.no_grad():
    assert torch.equal(whole.model(updates)(pairs), model(pairs))  # the last step's network is the one just trained

# %% [markdown]
# ## A loop that was killed
#
# Recording goes on where the last full state lies; model, optimiser and random numbers are put back as they were.

# %%
torch.manual_seed(1)
model, kept = Adder(), root / "my-adder-killed"
opt = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1.0)


def update():
    loss = F.cross_entropy(model(pairs[train]), answers[train])
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss


words = {"optimizer": opt, "task": task, "names": names, "neurons": "act", "state": "every(50)"}
try:
    with interp.record(kept, model, existing="overwrite", **words) as rec:
        for step in range(300):
            rec.step(train_loss=update())
            if step == 120:
                raise KeyboardInterrupt  # Ctrl-C
except KeyboardInterrupt:
    say(f"Interrupted; stored until step {interp.load(kept).steps[-1]}.")

with interp.record(kept, model, existing="resume", **words) as rec:
    say(f"Goes on at step {rec.start}.")
    for _ in range(rec.start, 300):
        rec.step(train_loss=update())
rec.trajectory
