"""Early stopping: end training once the test accuracy has held a level, and log to a CSV file why."""

import csv

from interp import Observer
from interp.training import StopTraining


class EarlyStopping(Observer):
    """Ends a run at the first step whose test accuracy has been at least `level` for `hold` evaluations in a row.

    Every evaluation is a line of `early_stopping.csv` in the run's folder. Of runs trained together, all must have
    reached the level.
    """

    def __init__(self, level: float, hold: int = 1) -> None:
        self.level, self.hold = level, hold
        self.streaks: dict[str, int] = {}

    def before_step(self, run, step):
        self.streaks.setdefault(run.config.run_id, 0)

    def on_metrics(self, run, step, metrics):
        if "test_accuracy" not in metrics:
            return
        accuracy, name = metrics["test_accuracy"], run.config.run_id
        self.streaks[name] = self.streaks.get(name, 0) + 1 if accuracy >= self.level else 0
        with open(run.folder / "early_stopping.csv", "a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([step, accuracy, self.streaks[name]])
        if min(self.streaks.values()) >= self.hold:
            raise StopTraining(f"test accuracy {accuracy:.1%} at step {step}")
