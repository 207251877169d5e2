"""Figures of six papers, with their claims tested: `interp reproduce K1`.

Each paper is a folder, each figure a module `fig<number>.py` in it that holds a `FIGURE`: its runs, its results, its
picture and its claims. Runs, results, claims and pictures that several figures of a paper share are further modules
there; `kit` is shared by all papers.

    kit        Figure and Claim, reproducing, the table, curves of runs
    kitouni    K1 to K5: the circle of the embedding; grokking and comprehension of a small MLP
    hu         H1 to H8: training fractions, encodings and optimisers
    ahmed      A2 to A78: recurrent nets and their weight decay
    beck       B1 to B13: points next to linear separability, and their theory
    nanda      N1: progress measures
    zhong      N2: the clock and the pizza
"""
