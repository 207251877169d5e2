"""Milestones: when a run memorised and generalised, how sure that is, and how runs compare.

sources        one rule for where a curve comes from: the log, or measured checkpoints
criterion      a level that must be held; transitions and lags as intervals
phases         the training phases: memorisation, circuit formation, cleanup
changepoints   where a curve changes its slope, with intervals
finding        all milestones of a run, found once
words          a run in sentences and headline numbers
quantiles      steps to generalise over seeds, some of which never do
prediction     early measures scored by which runs generalise later
comparison     runs side by side
diagnosis      what stands in the way of a run that does not generalise
"""

from interp.milestones.criterion import GENERALISED, MEMORISED, Criterion, Lag, Transition
from interp.milestones.diagnosis import Diagnosis, diagnose
from interp.milestones.finding import Milestones, Passage, find
from interp.milestones.sources import curve

__all__ = [
    "GENERALISED",
    "MEMORISED",
    "Criterion",
    "Diagnosis",
    "Lag",
    "Milestones",
    "Passage",
    "Transition",
    "curve",
    "diagnose",
    "find",
]
