"""The figures of "Some thoughts on Grokking" (Kitouni), a post on "Towards Understanding Grokking" (Liu et al., 2022).

A transformer that learns addition mod 59 ends with its numbers on a circle (K1). In the axes of the end the circle is
seen before training (K2), and it may be spread over several components (K3). A small MLP generalises long after it has
memorised (K4), and with more weight decay it does not wait (K5). https://arxiv.org/abs/2205.10343,
https://github.com/okitouni/simple-grokking.

*Order* is the resultant R_k of `interp.analysis.geometry`, 0 to 1: how well the angles of the numbers t in a plane are
those of the circle of frequency k. A frequency has a plane of its own, W_E^T cos(2 pi k t/p) and W_E^T sin(2 pi k t/p),
in which even a random embedding is ordered, the better the wider it is (signal to noise sqrt(2 d_model/p)).
"""

from interp.papers.kit.figure import Claim, Figure
from interp.papers.kitouni.drawing import plot_accuracies, plot_circle, plot_spread, plot_widths
from interp.papers.kitouni.numbers import (
    above_random,
    broken_share,
    circles_of_run,
    degenerate_runs,
    delay_left,
    delay_ratio,
    early_share,
    gain_per_doubling,
    lag_share,
    of_generalised,
    rank_of_winner,
    times_earlier,
    unordered_runs,
)
from interp.papers.kitouni.results import accuracies, order_by_pair, order_by_width, order_over_training
from interp.papers.kitouni.runs import circle_runs, comprehension_runs, grokking_runs, spread_runs, width_runs
from interp.papers.kitouni.sizes import COINCIDES, ORDERED, PAPER

__all__ = ["FIGURES"]

A_RUN = "a run that generalises"

FIGURES: tuple[Figure, ...] = (
    Figure(
        paper=PAPER,
        label="K1",
        title="A transformer that adds mod 59 ends with its numbers in order on a circle",
        runs=circle_runs,
        results=order_over_training,
        picture=plot_circle,
        claims=(
            Claim(
                text="in PC 1-2 of the last step the numbers have the angles of one circle (order)",
                measure=of_generalised("order"), at_least=ORDERED, needs=A_RUN,
            ),
            Claim(
                text="they lie in its order, however unevenly (rank correlation of the angles)",
                measure=of_generalised("order_correlation"), at_least=0.95, needs=A_RUN,
            ),
            Claim(
                text="it is round (circularity of the pair of components)",
                measure=of_generalised("circularity"), at_least=0.9, needs=A_RUN,
            ),
            Claim(
                text="generalisation coincides with the circle: the steps at which test accuracy stays above 95 % and "
                "order in PC 1-2 of its own step above 0.9 differ by at most a quarter of the later one",
                measure=lag_share, at_most=COINCIDES, needs="a run that generalises and goes on for long enough",
            ),
            Claim(
                text="up to local order the circle is there very early: in PC 1-2 of the last step the order stays "
                "above 0.8 before a quarter of the steps to generalisation are done",
                measure=early_share, at_most=0.25, needs=A_RUN,
            ),
        ),
        notes="The post states no hyper-parameters: those of the recipe kitouni-circle, 50 % of the pairs. Numbers are "
        "medians over the seeds (of split and initialisation) that generalise. The circle is dated in two kinds of "
        "axes, since those of the end are chosen with knowledge of it: 'coincides' is read in each step's own PC 1-2, "
        "'very early' in the last step's; 'very early' and 'coincides' are a quarter here. Runs are looked at every "
        "50 steps, which is the resolution of both steps. These are stills of the animation, which the "
        "report of a run and notebook 02 show.",
        minutes={"toy": 0.1, "laptop": 2, "paper": 7},
    ),
    Figure(
        paper=PAPER,
        label="K2",
        title="At initialisation the axes of the end already show the circle, the better the wider the model",
        runs=width_runs,
        results=order_by_width,
        picture=plot_widths,
        claims=(
            Claim(
                text="at every width the order of step 0 in PC 1-2 of the last step lies above that of 95 % of random "
                "planes (least margin)",
                measure=above_random, at_least=0, needs=A_RUN,
            ),
            Claim(
                text="it rises with width",
                measure=gain_per_doubling("order_start"), at_least=0.05, unit="per doubling",
                needs="runs of two widths that generalise",
            ),
            Claim(
                text="so it does in the last plane of the dominant frequency",
                measure=gain_per_doubling("order_start_dominant"), at_least=0.05, unit="per doubling",
                needs="runs of two widths that generalise",
            ),
            Claim(
                text="the network picks a good representation at initialisation: the frequency that wins is more "
                "ordered at step 0, each in its own plane, than three quarters of the others",
                measure=rank_of_winner, at_least=0.75, needs=A_RUN,
            ),
        ),
        notes="Three references. Random planes are chance for a frequency that is given. The grey band is the plane of "
        "a frequency in the initial embedding itself, for any frequency: it is ordered before training and better with "
        "width for elementary reasons (signal to noise sqrt(2 d_model/p)). So the first three claims may hold although "
        "nothing is found at initialisation; only the fourth tells a lottery ticket from the growth of whichever "
        "directions were there. Where PC 1-2 mixes two circles of equal strength the plane of the dominant frequency "
        "is the cleaner one. Runs that do not generalise are not judged, and are drawn pale; the planes above are of "
        "the first seed. Widths 32 to 256 on a laptop, to 512 in full; "
        "heads and neurons grow with the width (4 heads of d_model/4, 4 d_model neurons).",
        minutes={"toy": 0.1, "laptop": 7, "paper": 240},
    ),
    Figure(
        paper=PAPER,
        label="K3",
        title="A perfect circle in the first two components is not needed: circles are spread over components",
        runs=spread_runs,
        results=order_by_pair,
        picture=plot_spread,
        claims=(
            Claim(
                text="there are runs mod 59 that generalise with an order below 0.9 in PC 1-2",
                measure=unordered_runs, at_least=1, unit="runs", needs="three runs that generalise",
            ),
            Claim(
                text="circles are spread over components at different frequencies: ordered circles of key frequencies, "
                "each in its own plane, in the median run mod 59",
                measure=circles_of_run, at_least=2, unit="circles", needs=A_RUN,
            ),
            Claim(
                text="PC 1-2 may be ordered modulo 2, two degenerate circles on top of each other: runs mod 58",
                measure=degenerate_runs, at_least=1, unit="runs", needs="a run with an even p that generalises",
            ),
            Claim(
                text="lower components break that multiplicity: all its ordered circles together give each number a "
                "place of its own (share of these runs)",
                measure=broken_share, at_least=1, needs="a degenerate circle in PC 1-2",
            ),
        ),
        notes="Numbers share a place on the circle of frequency k where k and p have a common factor, which a prime "
        "excludes: mod 59 circles cannot be degenerate in this sense, only go round twice with the places interleaved. "
        "So the last two claims are tested mod 58, on three runs more. Whether any run shows something is weak "
        "evidence where it does not: few runs. A plane of a random embedding is nearly ordered where it is wide (K2), "
        "so that only key frequencies count, on which two of three criteria agree. The first row of the picture is the "
        "least ordered run, the second the one mod 58 whose PC 1-2 is degenerate or else most ordered.",
        minutes={"toy": 0.1, "laptop": 9, "paper": 250},
    ),
    Figure(
        paper=PAPER,
        label="K4",
        title="Simple grokking: an MLP on two embeddings generalises long after it has memorised",
        runs=grokking_runs,
        results=accuracies,
        picture=plot_accuracies,
        claims=(
            Claim(
                text="a clear delay: test accuracy stays above 95 % after at least ten times the steps after which "
                "train accuracy stays above 99 %",
                measure=delay_ratio, at_least=10, unit="x", needs="runs that memorise and generalise",
            ),
        ),
        notes="The published script with its seed, 2, rebuilt exactly, and other seeds. 'Clear' is read as a factor "
        "of ten. Medians over seeds; a run that has not generalised counts as later than all others.",
        minutes={"toy": 0.1, "laptop": 1, "paper": 2},
    ),
    Figure(
        paper=PAPER,
        label="K5",
        title="Comprehension: with weight decay 5 in place of 0.03 the delay is gone",
        runs=comprehension_runs,
        results=accuracies,
        picture=plot_accuracies,
        claims=(
            Claim(
                text="it generalises at least ten times earlier than with weight decay 0.03",
                measure=times_earlier, at_least=10, unit="x", needs="runs that generalise with both",
            ),
            Claim(
                text="the delay between train and test is gone: at most a tenth of that with weight decay 0.03",
                measure=delay_left, at_most=0.1, needs="runs that memorise and generalise with both",
            ),
        ),
        notes="Steps as in K4, with which it shares the runs at weight decay 0.03. 1,000 steps on a laptop, since both "
        "accuracies are at 100 % long before; 10,000 in the script.",
        minutes={"toy": 0.1, "laptop": 1.2, "paper": 4},
    ),
)  # fmt: skip
