"""A user's measure: the largest key frequency of the embedding, from the Fourier basis and the key frequencies."""

import interp


def largest_key(batch):
    """Share of the embedding's variance at its strongest key frequency, 0 to 1."""
    W_E, basis = batch.W_E.double(), batch.fourier_basis  # rows of the basis: constant, cos 1, sin 1, cos 2, ...
    cosines, sines = ((waves @ W_E).square().sum(-1) for waves in (basis[1::2], basis[2::2]))
    power = cosines.clone()
    power[:, : sines.shape[1]] += sines  # of an even number of operands the last frequency has no sine
    return power[:, batch.keys].amax(-1) / power.sum(-1)


LARGEST_KEY = interp.Measure("largest_key", largest_key, requires=("key frequencies", "embedding"), revision="1")
