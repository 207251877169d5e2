"""Kit that the figures of all papers share.

figure     Figure, Claim and Verdict: a figure as data
running    train the missing runs, compute, judge and store: `reproduce`
table      REPRODUCTIONS.md from what is stored
curves     curves and milestones of runs as the papers read them
"""
