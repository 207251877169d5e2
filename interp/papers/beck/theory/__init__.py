"""Theory of points of one class next to linear separability: arrays in, arrays out, no torch.

    gradient_flow        gradient flow to astronomically long times, and times to fit and to generalise
    two_points           the solvable model in one dimension, in closed form
    proportional_limit   the limit of many points and dimensions (an extension of the paper)

Losses of the population, margins and S_inf, which tasks need as well, are in `interp.theory.separability`.
"""
