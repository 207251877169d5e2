"""How the runs of format 1.1 were made: a record, which no test runs and which overwrites nothing.

    python -m tests.stored_runs.make_1_1

It wrote `runs_1_1/`: a complete run with a replay and measured values, and one that was interrupted at step 10; and
`expected_1_1.json`: the environment, and what was read of the runs then.
"""

import json

import interp
from tests.observers import Interrupts
from tests.stored_runs.digests import about, environment
from tests.stored_runs.make import CONFIGS, HERE, PLACE

ROOT = HERE / "runs_1_1"
EXPECTED = HERE / "expected_1_1.json"


def main():
    """Train the runs and write down what is read of them."""
    whole = interp.train(CONFIGS["transformer"], root=ROOT, **PLACE)
    interp.measure(whole, ["weight_norm", "test_loss"])
    zoom = interp.replay(whole, 6, 12, 3, **PLACE)
    begun = CONFIGS["mlp"].replace({"save.weights": "every(4)", "save.state": "every(5)"})
    try:
        interp.train(begun, root=ROOT, observers=[Interrupts(9)], **PLACE)
    except interp.training.RunInterrupted as interruption:
        unfinished = interp.load(interruption.folder)
    runs = {"whole": whole, "replay": zoom, "unfinished": unfinished}
    found = {name: {"folder": str(run.folder.relative_to(ROOT)), "about": about(run)} for name, run in runs.items()}
    EXPECTED.write_text(json.dumps({"environment": environment(), "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
