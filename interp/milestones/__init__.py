"""Milestones: when a run memorised and generalised, how sure that is, and how runs compare.

phases         sustained thresholds, delays, phase lines, quantiles over seeds with censored runs
changepoints   where a curve changes its slope, with intervals
prediction     early measures scored by which runs generalise later
comparison     runs side by side
words          a run in sentences and headline numbers
"""
