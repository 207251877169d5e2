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
# # Do decomposition methods find the features that are there?
#
# Sparse autoencoders and their kin promise the features of a network, and are mostly judged on networks whose features
# nobody knows. Here they are known: a network that has learned to add mod $p$ computes with $\cos(w_k f)$ and
# $\sin(w_k f)$ of a few key frequencies $k$, for $f = a$, $b$ and $a + b$. `interp.benchmarks.decomposition` gives
# their directions in the space of the neurons, and scores any dictionary against them.
#
# Three steps: the known features, what six methods find of them, and whether the network *uses* what was found.
# `INTERP_NOTEBOOK_SCALE=toy` takes a smaller network, which trains in seconds.

# %%
import os
import tempfile
import warnings
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown, display
from sklearn.decomposition import NMF, FastICA, MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning

import interp
from interp.analysis.interchange import das, interchange_intervention
from interp.analysis.patching import Site
from interp.plots.style import SERIES, figure
from interp.rng import generator

config, root, TOY = interp.recipes.get("kitouni-circle"), Path("../checkpoints"), False
if os.environ.get("INTERP_NOTEBOOK_SCALE", "full") == "toy":
    config, TOY = interp.recipes.get("kitouni-circle-small"), True
    scratch = tempfile.TemporaryDirectory()
    root = Path(scratch.name)
warnings.simplefilter("ignore", ConvergenceWarning)  # few iterations, on purpose


def say(text):
    display(Markdown(text))


# %% [markdown]
# ## The known features
#
# Each key frequency and each function $f$ has a plane. Which cosine and which sine of it a method finds is a matter of
# convention, so that both are counted: features (the cosine and the sine of phase 0) and planes.

# %%
traj = interp.train(config, root=root, progress=True)
known = interp.benchmarks.decomposition(traj, "neurons")
X = known.activations
say(
    f"{X.shape[0]:,} inputs, {X.shape[1]} neurons. Known: {len(known.planes)} planes ({known.answer}), which hold "
    f"**{known.explained:.0%}** of the neurons' variance."
)

assert known.score(known.features).coverage == 1
assert known.score(known.features).false == 0

# %% [markdown]
# ## Six dictionaries
#
# All of them see the activations of all inputs, and none of them knows the answer. An atom is false if it lies in no
# known plane; it is of one key if it lies in the span of all features of one frequency. A sparse autoencoder
# ("Towards Monosemanticity", Bricken et al., 2023) is
#
# $$z = \mathrm{ReLU}((x - b) W_e + c), \qquad \hat x = z D + b, \qquad
# \text{loss} = |x - \hat x|^2 + \lambda \sum_i z_i,$$
#
# with atoms $D$ of unit length. The published libraries of autoencoders need another TransformerLens (SAELens, < 4) or
# another torch (dictionary-learning), so that here a loop of a few lines trains one.


# %%
def sparse_autoencoder(X, size, *, sparsity, updates, rate=1e-3, batch=512):
    """Atoms [size, d] and whether each is ever active; the activations are scaled to a mean squared norm of d."""
    X = X.float()
    X = X / ((X - X.mean(0)).square().sum(1).mean() / X.shape[1]).sqrt()
    D = torch.randn(size, X.shape[1], generator=generator(0, "autoencoder"))
    D = D / D.norm(dim=1, keepdim=True)
    W, c, b = D.T.clone(), torch.zeros(size), X.mean(0)
    parameters = [parameter.requires_grad_() for parameter in (D, W, c, b)]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    draws = generator(0, "autoencoder-batches")
    for _ in range(updates):
        x = X[torch.randint(len(X), (batch,), generator=draws)]
        z = ((x - b) @ W + c).relu()
        loss = (x - z @ D - b).square().sum(1).mean() + sparsity * z.sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            D /= D.norm(dim=1, keepdim=True)
    with torch.no_grad():
        z = ((X - b) @ W + c).relu()
        left = (X - z @ D - b).square().sum() / (X - X.mean(0)).square().sum()
    say(f"Autoencoder: {1 - left:.1%} of the variance explained, {(z > 0).sum(1).float().mean():.1f} atoms per input.")
    return D.detach(), (z > 0).any(0)


size = 2 * len(known.planes)  # as many atoms as there are known features
centred = (X - X.mean(0)).numpy()
autoencoder, active = sparse_autoencoder(X, 2 * size, sparsity=0.5, updates=300 if TOY else 2000)
iterations = 20 if TOY else 200
dictionaries = {
    "random": (known.random_dictionary(size), None),
    "PCA": (known.pca_dictionary(size), None),
    "ICA": (FastICA(size, max_iter=iterations, random_state=0).fit(centred).mixing_.T, None),
    "sparse coding": (
        MiniBatchDictionaryLearning(
            size, alpha=1.0, max_iter=iterations, batch_size=256, fit_algorithm="cd", random_state=0
        )
        .fit(centred)
        .components_,
        None,
    ),
    "NMF": (NMF(size, max_iter=iterations, init="nndsvda", random_state=0).fit(X.numpy()).components_, None),
    "autoencoder": (autoencoder, active),
}
scores = {name: known.score(*dictionary) for name, dictionary in dictionaries.items()}
table = pd.DataFrame(
    {
        name: {
            "features covered": score.coverage,
            "planes covered": score.plane_coverage,
            "mean best cosine": float(score.cosine.mean()),
            "mean plane cosine": float(score.plane_cosine.mean()),
            "atoms used": score.used,
            "false atoms": score.false,
            "atoms of one key": score.of_one_key,
        }
        for name, score in scores.items()
    }
).T
display(table.round(2))

best = max(scores, key=lambda name: scores[name].coverage)
say(
    f"{best} covers the most features, {scores[best].coverage:.0%}. Of the autoencoder's {scores['autoencoder'].used} "
    f"atoms {scores['autoencoder'].false} are false: how much a dictionary explains does not say whether its atoms are "
    "the features by which the network computes."
)

assert max(score.coverage for score in scores.values()) < 0.5
assert scores["random"].coverage == scores["random"].plane_coverage == 0
assert scores["random"].false == size
assert scores["PCA"].plane_cosine.mean() > scores["random"].plane_cosine.mean() + 0.2

# %%
fig = figure("Known planes found", y="cosine of the largest angle to two atoms", x="known plane")
for colour, (name, score) in zip(SERIES, scores.items()):
    fig.add_scatter(x=list(known.planes), y=score.plane_cosine, name=name, mode="markers", marker_color=colour)
fig.add_hline(y=0.9, line_dash="dot", annotation_text="covered: above 0.9", annotation_position="top left")
fig.update_yaxes(range=[0, 1.05])
fig.show()

# %% [markdown]
# ## None where there is nothing
#
# The same network before training has no key frequency. The answer is "none", and every atom of every dictionary is
# false, however well it reconstructs.

# %%
untrained = interp.benchmarks.decomposition(traj, "neurons", step=0)
components = untrained.score(untrained.pca_dictionary(size))
say(f"Known at step 0: {untrained.answer}. Of {components.used} principal components {components.false} are false.")

assert untrained.answer == "none"
assert components.false == size

# %% [markdown]
# ## Does the network use them?
#
# A direction that describes the activations need not matter. An *interchange intervention* decides: take the component
# in a subspace from another input, let the network go on, and see whether it answers accordingly. In the embedding of
# the first operand the known planes should carry $a$: with a source $(a', b')$ and a base $(a, b)$ the answer must
# become $a' + b$.

# %%
embedding = interp.benchmarks.decomposition(traj, "embedding")
site, network, task = Site("hook_embed", 0), traj.model(), traj.task
common = {"variable": "first", "untrained": traj.model(0)}
dimension = len(embedding.features)
found = {
    "known planes": interchange_intervention(network, task, site, embedding.features.T, **common),
    "as many principal components": interchange_intervention(
        network, task, site, embedding.pca_dictionary(dimension).T, **common
    ),
    "learned (DAS)": das(network, task, site, dimension=dimension, updates=100 if TOY else 200, **common),
}
rows = ["accuracy", "random_subspace", "arbitrary_answers", "untrained", "chance"]
display(pd.DataFrame({name: {row: getattr(one, row) for row in rows} for name, one in found.items()}).T.round(3))

assert found["known planes"].accuracy > 0.95
assert found["learned (DAS)"].accuracy > 0.95
for one in found.values():
    assert max(one.random_subspace, one.arbitrary_answers, one.untrained) < 0.2

# %% [markdown]
# A learned subspace proves less than a given one: it was made to do this. Hence the controls. In the untrained network
# the same search finds nothing, nor does it find a subspace that exchanges answers which are permuted at random.
