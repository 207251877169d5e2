"""Training: one visible loop, exact resume and replay, and several runs in one batched step.

api            train, train_many, resume, replay: folders in, trajectories out
loop           what is stored, evaluated and logged at which step
step           the update of one run; on CUDA a captured graph
ensemble       the update of several runs of equal shape
state          model, optimiser and inputs of a run on its device
capture        repeated work on CUDA as a graph
environment    device, threads, exact arithmetic, signals, provenance
"""

from interp.training.api import RunInterrupted, replay, resume, train, train_many

__all__ = ["RunInterrupted", "replay", "resume", "train", "train_many"]
