"""Measures of what a network has learned, as functions of arrays with leading axes carried through.

    spectra         Fourier power of embeddings and neurons; the frequency of each neuron; Gini coefficients
    logits          coefficients of the logits on cos(w_k(a + b - c)), and the variance that they explain
    loss            cross-entropy and accuracy on the train or test pairs
    keys            the key frequencies of a network, by three criteria
    multiplicative  products as sums of discrete logarithms
    irreps          irreducible representations of a finite group in place of frequencies
    geometry        principal components of the embedding, circles, and the order of the tokens on them
    subspaces       principal angles between subspaces, effective rank, pairs of components that form circles
    parallelograms  representation quality: parallelograms of the embedding for sums a + b = c + d
    norms           L2 norms of weights, gradients and updates
    progress        restricted and excluded losses, each variant under its own name
    algorithms      clock or pizza: gradient symmetricity, distance irrelevance, fits, circles
    circuits        attention, phases of neurons, directions of W_L, ablations
    numerics        softmax collapse, losses that are exactly zero, slingshots, collapses
    curves          curves over training, and the first step at which a threshold is passed for good
    logistic        logistic regression on points of one class
    llc             the local learning coefficient (extra `llc`)
    account         formulas of a network that adds, or composes elements of a group, with fitted coefficients
    bases           functions of the elements in which accounts are written: waves, or entries of irreps
    advising        advice of an account to a certificate
    scrubbing       a network with everything outside its account resampled
    certificate     proved bounds on the margins of a network, from its tables and an account of it

These modules know neither models nor runs (`llc` takes a model, which it samples). Every result is float64 (or an
integer, or a boolean) on the device of its input. On top of them stand

    operands        the order of the operands in which an operation adds
    requirements    properties of a run, by name, that measures depend on
    context         a run as far as it does not depend on the step: inputs, answers, axes, the network
    batch           a few checkpoints as arrays, each computed at its first use
    definitions     `Measure`: name, function of a batch, axes, requirements
    explaining      the network of a step as its account and certificate take it; its keys
    patching        activations of other inputs, or none, in the place of a part; paths between parts
    ablations       the network evaluated again without a part of its weights; `keep_only`
    interchange     a variable exchanged between two inputs, in a given or a learned subspace
    catalogue       the table of all measures
    measures        `measure`: the table evaluated over a run; `cache` stores the values
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Modules of this package, each imported when it is first named: `import interp` is enough."""
    module = f"{__name__}.{name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # a library that the module needs
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
