"""A user's panel: how far the right answer's logit is ahead of the largest wrong one, on the training inputs."""

import interp
from interp.plots import Panel, PanelContext


def training_margin(traj):
    """A function of the model: the margins of the training inputs of a run, least and median [logits]."""
    inputs, labels = traj.task.tokens[traj.task.train], traj.task.labels[traj.task.train]

    def margin(model):
        logits = model(inputs)[:, -1]
        right = logits.gather(1, labels[:, None])
        wrong = logits.scatter(1, labels[:, None], -float("inf")).amax(1, keepdim=True)
        ahead = (right - wrong).squeeze(1)
        return ahead.quantile(ahead.new_tensor([0.0, 0.5]))

    return margin


def draw(context: PanelContext):
    """A line for the least margin and one for the median, over the report's own axis of steps."""
    least, median = context.data["margin"].transpose(..., "step")
    lines = context.data.assign(least=least, median=median)
    return interp.plots.measure_curves(
        lines, ["least", "median"], title="Margin of the training inputs", y="logits", **context.overlay
    )


def margin_panel(traj) -> Panel:
    """The panel, for a run: its function is measured, because the panel needs it."""
    return Panel(
        "margin",
        group="Robustness",
        needs=[training_margin(traj)],
        draw=draw,
        note="Where the least margin is above 0, every training input is answered correctly.",
        method="Logit of the right answer less the largest other logit.",
    )
