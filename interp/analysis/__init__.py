"""What a network has learned, as functions of arrays: arrays in, small results out, leading axes carried through.

    spectra     Fourier power of embeddings and neurons; which frequency a neuron has
    logits      coefficients of the logits on cos(w_k(a + b - c)), and how much of them these explain
    keys        which frequencies a network uses, by three criteria
    geometry    principal components of the embedding, circles, and the order of the tokens on them
    norms       L2 norms of the weights
    progress    restricted and excluded losses (each variant under its own name), Gini coefficients
    phases      when something happened for good: sustained thresholds, delays, the phase lines

They know neither models nor runs. Every result is float64 (or an integer, or a boolean) on the device of its input.
"""
