"""Training: one visible loop, exact resume and replay, and several runs in one batched step.

api            train, train_many, resume, branch, replay: folders in, trajectories out
loop           what is evaluated, saved and logged at which step
observers      what a user's observer is, and what it sees
checking       updates made again at random, and compared with what is stored
members        the runs of an ensemble, whose steps are computed again together
origins        runs that begin with stored weights of another: branches
recording      the package's own observers: storing, proving a replay, divergence, the progress bar
folders        of an ensemble that was killed while they were made
ensemble       the update of several runs of equal shape
step           the update of one run; on CUDA a captured graph
state          model, optimiser and inputs of a run on its device
capture        repeated work on CUDA as a graph
environment    device, threads, exact arithmetic, signals, provenance
"""

from interp.training.api import RunInterrupted, branch, replay, resume, train, train_many
from interp.training.checking import UpdatesReport, verify_updates
from interp.training.observers import ObservedRun, Observer, StopTraining

__all__ = [
    "ObservedRun",
    "Observer",
    "RunInterrupted",
    "StopTraining",
    "UpdatesReport",
    "branch",
    "replay",
    "resume",
    "train",
    "train_many",
    "verify_updates",
]
