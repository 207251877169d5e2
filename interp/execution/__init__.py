"""Execution: many runs, on this machine or on a cluster.

executors    pools of worker processes, Dask and SLURM, each a concurrent.futures.Executor
queue        a list of configs, trained by an executor; finished runs are skipped, partial ones resumed
sweeps       a grid over any fields of a config, and the table of its runs
"""

from interp.execution.queue import Outcome, Resources, train_all
from interp.execution.sweeps import Sweep, sweep

__all__ = ["Outcome", "Resources", "Sweep", "sweep", "train_all"]
