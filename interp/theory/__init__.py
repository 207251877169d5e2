"""Predictions about a network before it is trained, from the task and the split alone.

    groups               finite groups, their irreducible representations and characters
    representation       parallelograms that a training set enforces, and the effective theory of their learning
    separability         one class of Gaussian points: population losses, margins, S_inf, Wendel's probability, bounds

Functions of numpy arrays, which know neither models nor runs, and need no torch.
"""
