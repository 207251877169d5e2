"""Configs: a run as a value, in small frozen dataclasses, one per stage, composed in `RunConfig`.

Construction validates and does nothing else. A config never says where a run happens: device, paths and workers are
arguments. Its canonical JSON names it: `run_id` is a readable slug and the first 8 hex digits of its SHA-256.
This module imports neither torch nor numpy.

>>> config = RunConfig(task=Modular(p=59, train_fraction=0.5), model=Transformer(), steps=2500)
>>> config.run_id  # doctest: +ELLIPSIS
'add59-transformer-seed0-...'
>>> RunConfig.from_json(config.to_json()) == config
True
"""

from interp.config.declared import ModelConfig, TaskConfig
from interp.config.models import Decoder, FeedForward, Logistic, Recurrent, Transformer
from interp.config.optimizers import SGD, Adam, AdamW, Interventions, Muon
from interp.config.origins import Branch, StoredWeights
from interp.config.recorded import NoTask, RecordedModel, RecordedOptimizer, TableTask
from interp.config.run import Log, RunConfig, Save
from interp.config.tasks import Digits, Gaussian, Group, Modular, Operations, Parity, Sums, Symbolic

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Branch",
    "Decoder",
    "Digits",
    "FeedForward",
    "Gaussian",
    "Group",
    "Interventions",
    "Log",
    "Logistic",
    "ModelConfig",
    "Modular",
    "Muon",
    "NoTask",
    "Operations",
    "Parity",
    "RecordedModel",
    "RecordedOptimizer",
    "Recurrent",
    "RunConfig",
    "Save",
    "StoredWeights",
    "Sums",
    "Symbolic",
    "TableTask",
    "TaskConfig",
    "Transformer",
]
