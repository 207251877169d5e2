"""Observers that interrupt a run or damage its weights, at a known step."""

import os
import signal

import torch

from interp.training import Observer


class Interrupts(Observer):
    """Sends this process a signal before the update that leaves step `at`: the run ends at the step after it."""

    def __init__(self, at, signum=signal.SIGTERM):
        self.at, self.signum = at, signum

    def before_step(self, run, step):
        if step == self.at:
            os.kill(os.getpid(), self.signum)


class Changes(Observer):
    """Adds `amount` to one weight after the update that leaves step `at` (None: after every update).

    Of runs trained together it changes the run called `run_id` alone.
    """

    def __init__(self, at, amount, parameter="embed.W_E", run_id=None):
        self.at, self.amount, self.parameter, self.run_id = at, amount, parameter, run_id

    def after_step(self, run, step, values):
        if self.at in (None, step) and self.run_id in (None, run.config.run_id):
            with torch.no_grad():
                run.model.get_parameter(self.parameter).view(-1)[0] += self.amount


class Steps(Observer):
    """Notes every step that is made, of every run."""

    def __init__(self):
        self.steps = []

    def before_step(self, run, step):
        self.steps.append(step)


class Forbids(Observer):
    """Fails where an update is made at all."""

    def before_step(self, run, step):
        raise AssertionError(f"an update of step {step}")
