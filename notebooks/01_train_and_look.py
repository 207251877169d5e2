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
# # A first morning: train a network until it groks, and look at it
#
# A small transformer learns to add modulo a prime. It first memorises the pairs it is shown; much later, without any
# change in what it is shown, it answers the pairs it has never seen. This is *grokking*. Here we train such a network,
# keep its weights at many steps, and look at what happened in between: curves, norms, the circle in the embedding, the
# Fourier spectrum, progress measures, single weights, the attention pattern, and the moment itself, update by update.
#
# The run is the recipe `kitouni-circle`: addition mod 59, after "Some thoughts on Grokking" (Kitouni). It takes a
# few minutes on a laptop the first time; after that it is read from disk. Set `INTERP_NOTEBOOK_SCALE=toy` for a small
# network that groks in seconds, in a folder that is deleted afterwards.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
import xarray as xr
from IPython.display import Markdown, display
from plotly.subplots import make_subplots

import interp
from interp import plots
from interp.analysis.spectra import fourier_power
from interp.plots.style import template

config, root = interp.recipes.get("kitouni-circle"), Path("../checkpoints")
if os.environ.get("INTERP_NOTEBOOK_SCALE", "full") == "toy":
    config = interp.recipes.get("kitouni-circle-small")
    scratch = tempfile.TemporaryDirectory()
    root = Path(scratch.name)


def say(text):
    display(Markdown(text))


# %% [markdown]
# ## Train, or load
#
# `interp.train` returns the finished run if it is there, goes on with it if it was interrupted, and starts it if it is
# new: the folder's name ends in a digest of the configuration, so that another configuration is another run.

# %%
traj = interp.train(config, root=root, progress=True)
last = int(traj.steps[-1])
traj

# %%
say(
    f"Addition mod {traj.task.p}: {int(traj.task.train.sum()):,} of {len(traj.task.labels):,} pairs are for training, "
    f"the other {int(traj.task.test.sum()):,} are held out. {len(traj.steps)} checkpoints, "
    f"{traj.size_in_bytes / 1e6:.0f} MB on disk; they lie densely at the beginning ({traj.run['schedule']})."
)

# %% [markdown]
# `traj.metrics` is what was logged while training. `interp.measure` computes everything else from the stored weights,
# a few checkpoints at a time, and keeps it beside the run, so that the second time costs nothing.

# %%
metrics = traj.metrics
data = interp.measure(traj, progress=True)
data

# %% [markdown]
# ## Memorised early, understood late

# %%
milestones = interp.milestones.find((data, metrics))
memorised, generalised, delay = milestones.memorised.upper, milestones.generalised.upper, milestones.delay.step
plots.accuracy_curves(data, metrics, phases=milestones.ends).show()
plots.loss_curves(data, metrics, phases=milestones.ends).show()

# %%
assert delay > 0
assert milestones.last["test_accuracy"] > 0.999

say(
    f"Train accuracy stays at 99 % from step {memorised:,}, test accuracy at 95 % from step {generalised:,}: a "
    f"delay of **{delay:,} updates**, {generalised / memorised:.1f} times the time it took to memorise. "
    f"At the end the test accuracy is {milestones.last['test_accuracy']:.1%}."
)

# %% [markdown]
# ### What the test accuracy is made of
#
# The test accuracy does not wait at zero. Addition is commutative: of many held-out pairs $(a, b)$ the mirror $(b, a)$
# was in the training set, and a network that treats its two inputs alike answers them without having understood
# anything. So the two kinds of held-out pairs are scored apart.

# %%
task = traj.task
p = task.p
by_mirror = data[["test_accuracy_mirrored", "test_accuracy_unmirrored"]].rename(
    test_accuracy_mirrored="mirror was trained on", test_accuracy_unmirrored="mirror is held out too"
)
plots.measure_curves(
    by_mirror, list(by_mirror), title="Test accuracy, by what was seen of the mirror pair", y="accuracy (share right)"
).show()

# %%
halfway = by_mirror.sel(step=(memorised + generalised) // 2, method="nearest")
assert float(halfway["mirror was trained on"]) > float(halfway["mirror is held out too"])

mirrored = (task.test & task.train.reshape(p, p).T.reshape(-1)).sum() / task.test.sum()
say(
    f"{float(mirrored):.0%} of the held-out pairs have a mirror in the training set. Half-way between memorising and "
    f"generalising, at step {int(halfway.step):,}, the network answers {float(halfway['mirror was trained on']):.0%} "
    f"of those and {float(halfway['mirror is held out too']):.0%} of the others. "
    "The second curve is the one that groks."
)

# %% [markdown]
# ## Norms
#
# Memorising takes large weights; weight decay then prefers the solution that needs less.

# %%
plots.norm_curves(data, phases=milestones.ends).show()
plots.norm_curves(data, by="parameter", phases=milestones.ends).show()

# %%
norm = data["weight_norm"].values
peak = int(norm.argmax())
assert norm[-1] < norm[peak]

say(
    f"The norm goes from {norm[0]:.1f} to its peak of {norm[peak]:.1f} at step {int(data.step[peak]):,} and ends at "
    f"{norm[-1]:.1f}, {1 - norm[-1] / norm[peak]:.0%} below the peak."
)

# %% [markdown]
# ## The circle
#
# The embeddings of the numbers on the first two principal components of the last step. Neighbours on the line are
# joined in the order of the circle that is found there, the colours run once round it. Notebook 02 follows it through
# training.

# %%
plots.embedding_circle(data).show()
plots.component_grid(data).show()
plots.circularity_curves(data, phases=milestones.ends).show()

# %%
circle = data.isel(step=-1)
assert float(circle["circle_resultant"]) > 0.9

say(
    f"On the first two components the numbers stand in the order of frequency {int(circle['circle_frequency'])}: the "
    f"neighbour of $t$ is $t \\pm {int(circle['circle_stride'])}$. The order is "
    f"{float(circle['circle_resultant']):.3f} (1 is perfect, step 0 had {float(data['circle_resultant'][0]):.2f}), the "
    f"mean circularity of components 1 to 4 is {float(circle['circularity']):.2f} after "
    f"{float(data['circularity'][0]):.2f} at step 0."
)

# %% [markdown]
# ## The spectrum
#
# A circle of frequency $k$ is a pair of Fourier components: $\cos(2\pi k t/p)$ and $\sin(2\pi k t/p)$. So the Fourier
# power of the embedding over the tokens tells which circles there are. Which frequencies the network *uses* can be
# asked in three places: in the embedding, in the neurons, and in the logits. The answers need not agree.

# %%
plots.spectrum_bars(data).show()
plots.spectrum_heatmap(data, phases=milestones.ends).show()

# %%
found = {
    place: {int(k) for k in data.frequency.values[circle[f"key_frequency_{place}"].values]}
    for place in ("embedding", "neuron", "logit")
}
in_all = set.intersection(*found.values())
assert in_all

for place, frequencies in found.items():
    say(f"- {place}: {', '.join(map(str, sorted(frequencies)))}")
say(
    f"All three name {', '.join(map(str, sorted(in_all)))}. Below, a *key frequency* is one that at least two of them "
    f"name: {', '.join(map(str, data.attrs['key_frequencies']))}."
)

# %% [markdown]
# ## Progress measures
#
# "Progress measures for grokking via mechanistic interpretability" (Nanda et al., 2023) asks two questions of a
# checkpoint, knowing the key frequencies of the last one. *Restricted* loss: how well would it do with the key
# frequencies alone? *Excluded* loss: how badly without them? A network that only memorises is hurt by the first and
# indifferent to the second.

# %%
plots.progress_curves(data, phases=milestones.ends).show()

# %%
restricted, full, excluded = (float(circle[name]) for name in ("restricted_loss_logit", "all_loss", "excluded_loss_2d"))
assert restricted < full < excluded
assert float(circle["train_loss"]) < excluded  # the excluded loss is that of the training pairs
assert excluded > np.log(p)

rise = data["excluded_loss_2d"].values
rising_from = int(data.step.values[np.flatnonzero(rise > data["train_loss"].values + 0.5 * np.log(p))[0]])
assert rising_from < generalised

say(
    f"At the last step: restricted {restricted:.2g}, full {full:.2g}, excluded {excluded:.1f} nats. Without the key "
    f"frequencies the network is worse than guessing ($\\ln p$ = {np.log(p):.1f}). The excluded loss stands half "
    f"of that above the train loss from step {rising_from:,} on, when the test accuracy was "
    f"{float(data['test_accuracy'].sel(step=rising_from)):.0%}: the key frequencies matter long before the held-out "
    "pairs are answered."
)

# %% [markdown]
# ## Weights over time are one array
#
# `traj.param(name)` is an array `[step, ...]` that reads from disk only what is sliced, by position or, with `sel`, by
# step. Anything that takes numpy arrays works on it.

# %%
W_E = traj.param("embed.W_E")
W_E

# %%
first_token = W_E[:, 0]  # one token at all steps: [step, d_model]
around = W_E.sel(step=slice(memorised, generalised))  # all weights of a stretch
print(first_token.shape, around.shape)

matrices = {name: traj.param(name) for name in traj.names}
travelled = xr.Dataset(
    {
        name.removeprefix("blocks.0."): (
            "step",
            [np.linalg.norm(at - weights[-1]) / np.linalg.norm(weights[0] - weights[-1]) for at in weights],
        )
        for name, weights in matrices.items()
    },
    {"step": traj.steps},
)
plots.measure_curves(
    travelled, list(travelled.data_vars), title="Distance to the final weights", y="share of the distance at step 0"
).show()

# %%
ends = travelled.sel(step=generalised, method="nearest")
say(
    f"At step {int(ends.step):,}, where the test accuracy arrives, the embedding has "
    f"{float(ends['embed.W_E']):.0%} of its way still to go, the unembedding {float(ends['unembed.W_U']):.0%}."
)

# %% [markdown]
# ## The network as TransformerLens sees it
#
# `traj.lens(step)` is a `TransformerBridge` with the weights of that step: hooks, `run_with_cache` and everything built
# on them. (The first use imports TransformerLens, which takes a few seconds.) The answer is read off at `=`, the last
# position, so its attention to $a$ and $b$ decides what the network can know.

# %%
bridge = traj.lens(last)
with torch.no_grad():
    logits, cache = bridge.run_with_cache(task.tokens)
    own = traj.model(last)(task.tokens)
assert torch.allclose(logits, own, atol=1e-4)

pattern = cache["blocks.0.attn.hook_pattern"]  # [pair, head, from, to]
to_a, to_b, to_equals = (pattern[:, :, -1, position].reshape(p, p, -1) for position in range(3))
assert torch.allclose(to_a + to_b + to_equals, torch.ones_like(to_a), atol=1e-5)

heads = to_a.shape[-1]
fig = make_subplots(1, heads, subplot_titles=[f"head {head}" for head in range(heads)], horizontal_spacing=0.03)
for head in range(heads):
    fig.add_trace(go.Heatmap(z=to_a[..., head].numpy(), coloraxis="coloraxis"), row=1, col=head + 1)
fig.update_annotations(font_size=12)
fig.update_xaxes(title_text="b", nticks=4)
fig.update_yaxes(showticklabels=False)
fig.update_yaxes(title_text="a", showticklabels=True, nticks=4, col=1)
fig.update_layout(
    template=template(),
    title_text=f"Attention from '=' to a, step {last:,}",
    height=340,
    coloraxis={"cmin": 0, "cmax": 1, "colorbar": {"title": "weight", "thickness": 10}},
)
fig.show()

# %%
waves = fourier_power(to_a.mean(1), dim=0)[1:]  # the part that depends on a alone: [frequency, head]
strongest = [int(k) for k in waves.argmax(0) + 1]
keys = data.attrs["key_frequencies"]
at_keys = float(waves[[k - 1 for k in keys]].sum() / waves.sum())
say(
    "Averaged over $b$, the attention to $a$ is a wave in $a$ as well. Its strongest frequency is "
    + ", ".join(f"{k} (head {head})" for head, k in enumerate(strongest))
    + f"; {sum(k in keys for k in strongest)} of {heads} heads have a key frequency there. "
    f"Together {at_keys:.0%} of that variation is "
    f"at key frequencies. '=' gives itself {float(to_equals.mean()):.0%} of its attention on average."
)

# %% [markdown]
# ## The moment of grokking, update by update
#
# A run is a pure function of its configuration. So any stretch can be run again, from the nearest full state, with the
# weights of *every* update stored; wherever the replay passes a stored checkpoint the weights must be equal bit for
# bit, and it fails if they are not.
#
# We take the updates around the step from which the test accuracy stays at 95 %, but begin no earlier than the full
# state before it: a replay has to run from there. (`save.state` in the configuration says how many there are.)

# %%
state = max(step for step in traj.full_state_steps if step <= generalised)
start = max(state, generalised - 40)
stop = start + 80
zoom = interp.replay(traj, start=start, stop=stop, every=1, progress=True)
plots.accuracy_curves(zoom.metrics, axis="linear").update_yaxes(autorange=True).show()
plots.loss_curves(zoom.metrics, axis="linear").show()

# %%
replayed = zoom.metrics["test_accuracy"].values
proven = zoom.run["replay"]["proven"]
assert len(zoom.steps) == stop - start + 1
assert proven
assert np.array_equal(zoom.param("embed.W_E").sel(step=proven), W_E.sel(step=proven))

say(
    f"Steps {start:,} to {stop:,}, {len(zoom.steps)} checkpoints, {len(proven)} of them proven equal to the run. The "
    f"test accuracy goes from {replayed[0]:.1%} to {replayed[-1]:.1%}; the largest change in one update is "
    f"{np.abs(np.diff(replayed)).max():.1%}. From near by there is no jump."
)

# %% [markdown]
# ## Take it with you
#
# `interp.report` writes everything above as one HTML file with a slider through all checkpoints. It needs neither a
# kernel nor a network.

# %%
path = interp.report(traj, data=data)
assert path.stat().st_size > 0
say(f"`{path.name}` in the folder of the run, {path.stat().st_size / 1e6:.1f} MB.")
