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

# %% [markdown]
# # What has it learned, how sure are we, and what is left over?
#
# A network that has grokked addition mod $p$ computes with a few frequencies. `interp.explain` turns that into an
# *account*: formulas with fitted coefficients, from which the network is rebuilt. Each sentence of the account is
# scored beside a control, the whole is dated along the training run, and a lower bound on the accuracy is **proved**
# from it.
#
# The run is that of `make demo`. `INTERP_NOTEBOOK_SCALE=toy` takes a smaller network, which trains in seconds; its
# account is nearly as good, and its certificate is.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

import interp
from interp import plots
from interp.plots.style import COLOURS, SERIES, figure

config, root = interp.recipes.get("kitouni-circle"), Path("../checkpoints")
never = config.replace({"optimizer.weight_decay": 0.0, "task.train_fraction": 0.3, "steps": 800})  # only memorises
if os.environ.get("INTERP_NOTEBOOK_SCALE", "full") == "toy":
    config = interp.recipes.get("kitouni-circle-small")
    never = config.replace({"optimizer.weight_decay": 0.0, "task.train_fraction": 0.3, "steps": 300})
    scratch = tempfile.TemporaryDirectory()
    root = Path(scratch.name)


def say(text):
    display(Markdown(text))


# %% [markdown]
# ## What it learned
#
# Logits are sums of $\alpha_k \cos w_k(a + b - c)$ over key frequencies $k$, with $w_k = 2\pi k/p$. Each neuron
# belongs to one key, and reads a wave in $a$ plus a wave in $b$ of that frequency, a little of twice the frequency,
# and, because attention multiplies, a few products of both.

# %%
traj = interp.train(config, root=root, progress=True)
explanation = interp.explain(traj, progress=True)
explanation

# %%
account, certificate, p = explanation.account, explanation.certificate, traj.task.p
say(
    f"Verdict: **{explanation.verdict}**. The account has {account.numbers:,} numbers, the network "
    f"{account.parameters:,}. Keys: {', '.join(map(str, account.keys))}."
)

assert explanation.verdict in ("explained", "in part")
assert explanation.sentence("keys").holds

# %% [markdown]
# ### Where the multiplication happens
#
# $\cos w(a + b)$ is a product of waves, and a sum of waves is none. The product comes from the non-linearity of the
# neurons, or from attention; second harmonics cancel what the non-linearity leaves of $a - b$. One network may do it
# differently in each frequency.

# %%
fig = figure("Share of each key's coefficient", y="share of alpha", x="key frequency", barmode="stack")
for source, share, colour in zip(("non-linearity", "second harmonic", "attention"), account.alpha_from.T, SERIES):
    fig.add_bar(x=[str(k) for k in account.keys], y=share, name=source, marker_color=colour)
fig.update_xaxes(type="category").show()

assert np.allclose(account.alpha_from.sum(1), 1)

# %% [markdown]
# ## How sure we are: each sentence beside its control
#
# The control is the same sentence about as many frequencies that are not key. *Explained* is a share of variance. *Part
# replaced* runs the network with what the sentence speaks of taken from the account, *part removed* without it, and
# *rest resampled* with all that the sentence calls irrelevant taken from other inputs (causal scrubbing). A sentence
# holds if the last of these keeps the accuracy where its control does not.

# %%
plots.sentence_bars(explanation).show()

# %% [markdown]
# ### How sure we are: an accuracy that is proved
#
# The certificate bounds the margin of every pair (the right answer's logit less the largest other one) from below, from
# the weights and the account, without computing all logits. Where the bound is above 0, the network's answer is right.
# The account is only advice: a wrong one makes the bound worse, never wrong.

# %%
plots.margin_map(explanation.timeline).show()

logits = traj.model()(traj.task.tokens)[:, -1]
right = (logits.argmax(-1) == traj.task.labels).reshape(p, p).numpy()
say(
    f"Proved: **{certificate.right.sum():,} of {p * p:,}** pairs are answered right, with "
    f"{certificate.exhaustive / certificate.operations:.1f} times fewer operations than computing all answers from the "
    f"same tables: an accuracy of at least {certificate.accuracy:.4f}. For comparison: {p * p:,} random inputs, all "
    f"answered right, say at least {1 - np.log(100) / p**2:.4f}, with 99 % confidence."
)

assert certificate.accuracy >= 0.95
assert certificate.compact
assert right[certificate.right].all()  # no certified input is wrong

# %% [markdown]
# ### A trap: restricted logits are right whatever the network does
#
# Keep only $\cos w_k(a + b - c)$ of the logits, for any frequencies at all: the answer is right, because each such
# cosine is largest at $c = a + b$, and one needs only a coefficient that is positive by chance. So "the formula has
# accuracy 1" says nothing. We ask the same of three other pairs of network and account: the network with wrong keys, a
# network that has **only memorised** (no weight decay, fewer pairs), explained by the keys of the one that has
# learned, and the network before its first step.

# %%
near = {*account.keys, *(min(2 * k % p, -2 * k % p) for k in account.keys)}
wrong = [k for k in range(1, p // 2 + 1) if k not in near][: len(account.keys)]
memorised = interp.train(never, root=root, progress=True)
examined = {
    "learned": explanation,
    "learned, wrong keys": interp.explain(traj, keys=wrong, timeline=False),
    "only memorised": interp.explain(memorised, keys=account.keys, timeline=False),
    "step 0": interp.explain(traj, step=0, keys=account.keys, timeline=False),
}
table = pd.DataFrame(
    {
        name: {
            "accuracy of the network": one.network.accuracy,
            "accuracy of restricted logits": one.sentence("keys").alone.accuracy,
            "logits on the keys (share)": one.sentence("keys").explained,
            "accuracy, all else resampled": one.sentence("whole").resampled.accuracy,
            "certified accuracy": one.certificate.accuracy,
            "verdict": one.verdict,
        }
        for name, one in examined.items()
    }
).T
display(table.style.format(precision=3))

# %%
others = table.drop("learned")
restricted = table["accuracy of restricted logits"]

assert restricted["learned, wrong keys"] == restricted["only memorised"] == 1  # the trap
assert memorised.last_metrics("test_accuracy")["test_accuracy"] < 0.1
assert (others["certified accuracy"] < 0.1).all()
assert (others["accuracy, all else resampled"] < 0.1).all()
assert (others["verdict"] == "none").all()

# %% [markdown]
# ## When each part was born
#
# The account is refitted at each step with the keys of the last one. A birth (diamond) is the first step from which a
# quantity stays above half its last value. Below: **certified accuracy is a progress measure**. Test accuracy rises
# first, while what was memorised is still there; certified accuracy rises when that has been cleaned up, and the
# account is all there is.

# %%
timeline = explanation.timeline
phases = interp.milestones.find(traj).ends
plots.birth_curves(timeline, phases=phases).show()


def above(name, level=0.95):
    """First step from which a measure of the timeline stays above a level."""
    below = np.flatnonzero(timeline[name].values <= level)
    return int(timeline["step"].values[below[-1] + 1])


say(
    f"Test accuracy stays above 95 % from step **{above('test_accuracy'):,}**, certified accuracy from step "
    f"**{above('certified_accuracy'):,}**. "
    + " ".join(f"Frequency {k} is in the logits from step {step:,}." for k, step in explanation.births["alpha"].items())
)

assert above("test_accuracy") < above("certified_accuracy")

# %% [markdown]
# The margins themselves, while they rise through 0:

# %%
middle = int(timeline["step"].values[np.abs(timeline["certified_accuracy"].values - 0.5).argmin()])
for step in (above("test_accuracy"), middle):
    plots.margin_map(timeline, step).show()

# %% [markdown]
# ## What is left over
#
# An account that says all would be the network itself. Shares of what the account does not contain, and what the heads
# do that it summarises as a mean plus a function of $a$ plus a function of $b$:

# %%
say(f"Left over: {explanation.left_over}.")
heads = interp.measure(traj, ["attention_pattern", "head_ablation_loss", "all_loss"], steps=timeline["step"].values)
plots.attention_maps(heads).show()
plots.head_ablation_curves(heads, phases=phases).show()

assert explanation.left_over.pre_activations < 0.1

# %% [markdown]
# The account alone, with no weight of the network, is a model like any other. It answers as the network does; its loss
# is larger, and that is left over as well.

# %%
ideal = explanation.ideal_model(traj.task.tokens)
agreement = (ideal.argmax(-1) == logits.argmax(-1)).double().mean().item()
loss = torch.nn.functional.cross_entropy(ideal.double(), traj.task.labels).item()
fig = figure("Logits of one pair", y="logit", x="answer c")
for name, values, colour in (("network", logits, COLOURS["test"]), ("account alone", ideal, COLOURS["restricted"])):
    row = values[5 * p + 7, :p].detach()
    fig.add_scatter(y=row - row.mean(), name=name, line_color=colour)
fig.show()
say(f"Agreement **{agreement:.2%}**; loss {loss:.2g} nats, of the network {explanation.network.loss:.2g}.")

assert agreement > 0.99

# %% [markdown]
# `explanation.save(folder)` writes all of it; `interp explain RUN` prints it, and `interp report RUN --panels explain`
# puts these figures into the report, where the slider moves the maps.
