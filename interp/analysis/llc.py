"""The local learning coefficient: an effective number of parameters of a trained network, from its loss landscape.

Let w* be a local minimum of a loss L, the mean over n inputs. The volume of the weights near w* whose loss exceeds
L(w*) by less than e shrinks as

    V(e) ~ c e^lambda (-log e)^(m - 1),

and lambda is the local learning coefficient, the real log canonical threshold of singular learning theory (Watanabe,
2009). With d weights, lambda = d/2 where the Hessian is regular and less where it is not: 1/4 for w^4, 1/2 (with m = 2)
for w_1^2 w_2^2, 0 for weights that change nothing. It is estimated by sampling the weights near w*,

    lambda-hat = n beta (E[L(w)] - L(w*)),    w ~ exp(-n beta L(w) - gamma |w - w*|^2 / 2),

with stochastic gradient Langevin dynamics, every chain from w_0 = w* and with fresh noise xi_t ~ N(0, 1):

    w_{t+1} = w_t - eps/2 u_t + sqrt(eps) xi_t,    u_t = n beta grad L_t(w_t) + gamma (w_t - w*),

where L_t is the loss on a batch. The names: `step_size` eps, `localization` gamma, `inverse_temperature` n beta, by
default n / log n with n the number of inputs, at which E[L] estimates the free energy (WBIC, Watanabe, 2013), as in
Lau et al.; devinterp's `default_nbeta` has the batch size for n.

References: The Local Learning Coefficient: A Singularity-Aware Complexity Measure (Lau et al., 2023), arXiv:2308.12108,
https://arxiv.org/abs/2308.12108; A Widely Applicable Bayesian Information Criterion (Watanabe, 2013), arXiv:1208.6338.

The sampler is devinterp 2's (`devinterp.optim.SGMCMC`, https://github.com/timaeus-research/devinterp; install it with
`pip install "grokking-interp[llc]"`). devinterp's own loop is made for language models; this module differs from it:
losses are float64, L(w*) is exact (all inputs, not a few batches), burn-in is left out of the mean, each chain has its
own batches in a new order every epoch, and the noise comes from separate generators, not from the global ones.

Caveats. The estimate presumes a local minimum: chains that leave w* for a lower loss give too low an estimate, even
below 0. Too large a step size inflates it, for a quadratic loss of curvature h by the factor
1/(1 - eps (n beta h + gamma)/4); too small a step size leaves the chains where they started. `LLC.healthy` tests the
traces for these faults.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from interp.errors import InvalidArgumentError, NotAvailableError
from interp.literals import as_count
from interp.models.base import Batch, Network
from interp.rng import generator
from interp.tasks.objective import answer_loss

__all__ = ["LLC", "Calibration", "calibrate", "local_learning_coefficient"]

STEP_SIZES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
"""Step sizes that `calibrate` tries by default."""


@dataclass(frozen=True)
class LLC:
    """A local learning coefficient and the chains behind the estimate; several estimates have leading axes `*steps`."""

    value: Float[Tensor, "*steps"]
    """lambda-hat, the mean over chains. NaN where a chain diverged; below 0 where chains found a lower loss than w*."""
    standard_error: Float[Tensor, "*steps"]
    """Standard error of `value`: standard deviation (ddof = 1) of the chains' estimates over sqrt(number of chains)."""
    trace: Float[Tensor, "*steps chain draw"]
    """Loss of the batch at each draw after burn-in, in nats; NaN from where a chain diverged."""
    initial_loss: Float[Tensor, "*steps"]
    """L(w*) on all inputs, in nats."""
    acceptance: Float[Tensor, "*steps chain"]
    """Mean probability, in [0, 1], with which a Metropolis test of the Langevin steps (MALA) would have kept them.

    min(1, exp(-n beta (L' - L) + n beta/2 (w' - w).(g + g') + eps/8 (|u|^2 - |u'|^2))) for a step from w to w' with the
    gradients g, g' of the loss. Near 1 the step size costs nothing. With batches, their noise counts as rejection.
    """
    inverse_temperature: Float[Tensor, "*steps"]
    """Inverse temperature n beta."""
    parameters: Int[Tensor, "*steps"]
    """Number d of sampled weights."""

    @property
    def by_chain(self) -> Float[Tensor, "*steps chain"]:
        """Estimate of each chain."""
        return self.inverse_temperature[..., None] * (self.trace.mean(-1) - self.initial_loss[..., None])

    @property
    def drift(self) -> Float[Tensor, "*steps chain"]:
        """Drift of each chain: its estimate from the later half of the draws minus the earlier half; 0 on a plateau."""
        half = self.trace.shape[-1] // 2
        later, earlier = self.trace[..., -half:].mean(-1), self.trace[..., :half].mean(-1)
        return self.inverse_temperature[..., None] * (later - earlier)

    @property
    def diverged(self) -> Bool[Tensor, "*steps chain"]:
        """Chains in which a loss was infinite or no number."""
        return ~self.trace.isfinite().all(-1)

    @property
    def healthy(self) -> Bool[Tensor, "*steps"]:
        """Whether no chain diverged, 0 < lambda-hat <= d/2, and the traces lie on a plateau: necessary, not sufficient.

        lambda <= d/2 holds at every minimum. On a plateau the mean drift is at most a tenth of lambda-hat. Excess and
        drift of at most three of their standard errors count as chance, except a drift of more than 0.3 lambda-hat:
        chains that have only begun to climb drift by a third, with as much burn-in as draws, and by more with less.
        """
        drift = self.drift.mean(-1).abs()
        chance = (drift <= 3 * _standard_error(self.drift)) & (drift <= 0.3 * self.value)
        flat = (drift <= 0.1 * self.value) | chance
        below = self.value - 3 * self.standard_error <= self.parameters / 2
        return (self.value > 0) & below & flat  # NaN, where a chain diverged, passes no comparison


@dataclass(frozen=True)
class Calibration:
    """A sweep over step sizes and inverse temperatures, and the cell that was chosen."""

    step_size: float
    inverse_temperature: float
    step_sizes: Float[Tensor, " step_size"]
    inverse_temperatures: Float[Tensor, " inverse_temperature"]
    cells: LLC
    """The estimates, with the leading axes [step_size, inverse_temperature]."""
    sensitivity: Float[Tensor, "step_size inverse_temperature"]
    """|d log lambda-hat / d log eps| + |d log lambda-hat / d log(n beta)|, to the worst healthy neighbour along each
    axis; infinite for cells that are not healthy or have no healthy neighbour along an axis of several cells."""


def local_learning_coefficient(
    model: nn.Module,
    inputs: Shaped[Tensor, "input ..."],
    labels: Int[Tensor, " input"],
    *,
    step_size: float,
    inverse_temperature: float | None = None,
    localization: float = 5.0,
    chains: int = 4,
    draws: int = 200,
    burn_in: int = 200,
    batch_size: int | None = None,
    seed: int = 0,
) -> LLC:
    """Local learning coefficient of Lau et al. (2023) at the weights of `model`, which are not changed.

    The loss is the mean cross-entropy of the answers, in nats and in float64, on `inputs` [input, ...] with the classes
    `labels`: usually the train inputs, at whose loss the weights are a minimum. `model` is a `Network` of this package
    (its fast pass is taken) or any module that maps inputs to logits [input, answer]. All parameters that require
    gradients are sampled, in their own precision.

    `step_size` eps > 0: see `calibrate`. `inverse_temperature` n beta > 0, None: n / log n. `localization` gamma >= 0;
    its default comes from devinterp's grokking example. `chains` >= 2 (the error bar needs two), `draws` >= 2, as many
    as devinterp's defaults; `burn_in` updates of each chain come before the first draw. `batch_size` in 1..n, None: all
    inputs. `seed`: the draws of noise and batches are functions of it and of the chain.

    Raises `InvalidArgumentError` where an argument breaks these rules and `NotAvailableError` where devinterp 2 is not
    installed. Divergence raises nothing: see `LLC`.

    >>> class Logistic(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.w = nn.Parameter(torch.zeros(4))
    ...     def forward(self, x):
    ...         return torch.stack([self.w[x], torch.zeros(len(x))], dim=1)
    >>> cells, coins = torch.arange(8) % 4, torch.arange(8) // 4         # in each cell both answers once: w* = 0
    >>> llc = local_learning_coefficient(
    ...     Logistic(), cells, coins, step_size=4e-3, inverse_temperature=1000.0, draws=100, burn_in=30)
    >>> abs(llc.value - 4 / 2).item() < 3 * llc.standard_error.item()
    True
    """
    objective = _Objective(model, inputs, labels)
    n = len(labels)
    n_beta = _free_energy_temperature(n) if inverse_temperature is None else float(inverse_temperature)
    for name, value in [("step_size", step_size), ("inverse_temperature", n_beta)]:
        if not (math.isfinite(value) and value > 0):
            raise InvalidArgumentError(f"`{name}` must be finite and > 0; got {value!r}.")
    if not (math.isfinite(localization) and localization >= 0):
        raise InvalidArgumentError(f"`localization` must be finite and >= 0; got {localization!r}.")
    as_count("chains", chains, minimum=2)
    as_count("draws", draws, minimum=2)
    as_count("burn_in", burn_in, minimum=0)
    batch_size = n if batch_size is None else as_count("batch_size", batch_size)
    if batch_size > n:
        raise InvalidArgumentError(f"`batch_size` must be at most the number of inputs, {n}; got {batch_size}.")
    settings = {"lr": step_size, "nbeta": n_beta, "prior": float(localization)}
    traces, acceptances = [], []
    for chain in range(chains):
        batches = _batches(n, batch_size, generator(seed, "llc-batch", chain))
        noise = generator(seed, "llc-noise", chain)
        losses, accepted = _chain(objective, batches, burn_in + draws, noise, settings)
        traces.append(losses[burn_in:])
        acceptances.append(accepted[burn_in:].nanmean())
    objective.restart()
    trace, initial_loss = torch.stack(traces), objective.loss(None).detach()
    by_chain = n_beta * (trace.mean(-1) - initial_loss)
    return LLC(
        value=by_chain.mean(),
        standard_error=_standard_error(by_chain),
        trace=trace,
        initial_loss=initial_loss,
        acceptance=torch.stack(acceptances),
        inverse_temperature=torch.tensor(n_beta, dtype=torch.float64),
        parameters=torch.tensor(sum(w.numel() for w in objective.weights)),
    )


def calibrate(
    model: nn.Module,
    inputs: Shaped[Tensor, "input ..."],
    labels: Int[Tensor, " input"],
    *,
    step_sizes: Sequence[float] = STEP_SIZES,
    inverse_temperatures: Sequence[float] | None = None,
    **sampling: Any,
) -> Calibration:
    """The step size and inverse temperature, out of a small grid, to which lambda-hat is least sensitive.

    devinterp's guides recommend this sweep and judge it by eye; here a rule does. Among the healthy cells of the grid
    (`LLC.healthy`), the cell of least `sensitivity` is chosen, the sum of the logarithmic slopes of lambda-hat along
    the axes of the grid; among equals, the larger step size.

    `step_sizes` and `inverse_temperatures` increase; None: n / log n alone, and only the step size is chosen.
    `sampling`: the other keywords of `local_learning_coefficient`, for all cells.

    Raises `InvalidArgumentError` for grids that do not increase or are not positive, and `NotAvailableError` where no
    cell is healthy, or no two neighbouring cells are.

    >>> table = nn.Embedding(1, 41, _weight=torch.zeros(1, 41))                  # softmax ignores a shift:
    >>> at, answers = torch.zeros(41, dtype=torch.long), torch.arange(41)        # lambda = (41 - 1)/2
    >>> found = calibrate(
    ...     table, at, answers, step_sizes=[5e-4, 1e-3], inverse_temperatures=[1e4], draws=60, burn_in=30)
    >>> abs(found.cells.value[1, 0] - 20).item() < 3 * found.cells.standard_error[1, 0].item()
    True
    """
    if inverse_temperatures is None:
        inverse_temperatures = [_free_energy_temperature(len(labels))]
    axes = [_grid("step_sizes", step_sizes), _grid("inverse_temperatures", inverse_temperatures)]
    results = [
        local_learning_coefficient(
            model, inputs, labels, step_size=step_size, inverse_temperature=inverse_temperature, **sampling
        )
        for step_size in axes[0].tolist()
        for inverse_temperature in axes[1].tolist()
    ]
    cells = _stack(results, (len(axes[0]), len(axes[1])))
    healthy = cells.healthy
    if not healthy.any():
        raise NotAvailableError(
            f"No cell of the grid gives a healthy estimate: of {healthy.numel()}, "
            f"{int(cells.diverged.any(-1).sum())} diverged and {int((cells.value <= 0).sum())} are not positive. "
            f"Cells that diverge or exceed d/2 need a smaller `step_sizes`, cells that drift more `burn_in`; if all "
            f"are negative the weights are no minimum of this loss: take a larger `localization` or the train inputs."
        )
    sensitivity = _sensitivity(cells.value, healthy, axes)
    if not sensitivity.isfinite().any():
        raise NotAvailableError(
            "No healthy cell of the grid has a healthy neighbour along each axis, so that no plateau can be seen. "
            "Take a finer grid of `step_sizes` and `inverse_temperatures`, or more `draws`."
        )
    best = sensitivity.flip(0).argmin()  # the first of equals
    row, column = len(axes[0]) - 1 - int(best) // len(axes[1]), int(best) % len(axes[1])
    return Calibration(
        step_size=axes[0][row].item(),
        inverse_temperature=axes[1][column].item(),
        step_sizes=axes[0],
        inverse_temperatures=axes[1],
        cells=cells,
        sensitivity=sensitivity,
    )


class _Objective:
    """The loss of a copy of the model, as a function of the indices of a batch."""

    def __init__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
        if len(labels) != len(inputs) or labels.ndim != 1 or labels.is_floating_point() or len(labels) < 2:
            raise InvalidArgumentError(
                f"`labels` must be whole numbers, one for each of at least 2 inputs; got {labels.dtype} of shape "
                f"{list(labels.shape)} for {len(inputs)} inputs."
            )
        self.model = copy.deepcopy(model)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        if not self.weights:
            raise InvalidArgumentError("`model` must have parameters that require gradients; got none.")
        self.start = [weight.detach().clone() for weight in self.weights]
        device = self.weights[0].device
        self.labels = labels.to(device, torch.long)
        inputs = inputs.to(device)
        self.inputs = self.model.prepare(inputs) if isinstance(self.model, Network) else inputs
        shape = self._logits(self.inputs).shape
        low, high = int(labels.min()), int(labels.max())
        if len(shape) != 2 or low < 0 or high >= shape[1]:
            raise InvalidArgumentError(
                f"`model` must map inputs to logits [input, answer] with an answer for each of `labels`, "
                f"{low}..{high}; got logits of shape {list(shape)}."
            )

    def restart(self) -> None:
        """Reset the weights to w*, for the next chain."""
        with torch.no_grad():
            for weight, start in zip(self.weights, self.start, strict=True):
                weight.copy_(start)
                weight.grad = None

    def loss(self, batch: Int[Tensor, " some"] | None) -> Float[Tensor, ""]:
        """Mean cross-entropy of a batch (None: all inputs), in nats and in float64."""
        if batch is None:
            return answer_loss(self._logits(self.inputs), self.labels)[0]
        batch = batch.to(self.labels.device)
        some = self.inputs.select(batch) if isinstance(self.inputs, Batch) else self.inputs[batch]
        return answer_loss(self._logits(some), self.labels[batch])[0]

    def displacement(self) -> Float[Tensor, " weight"]:
        """The displacement w - w*, all weights in one vector, in float64."""
        return torch.cat([(w.detach().double() - w0).flatten() for w, w0 in zip(self.weights, self.start, strict=True)])

    def gradient(self) -> Float[Tensor, " weight"]:
        """The gradient of the last backward pass; 0 for weights that do not enter the loss."""
        return torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).double().flatten() for w in self.weights])

    def _logits(self, inputs: Batch | Tensor) -> Tensor:
        if isinstance(self.model, Network) and isinstance(inputs, Batch):
            return self.model.answer_logits(inputs)
        return self.model(inputs)


def _chain(
    objective: _Objective,
    batches: Iterator[Tensor | None],
    updates: int,
    noise: torch.Generator,
    settings: Mapping[str, float],
) -> tuple[Float[Tensor, " update"], Float[Tensor, " update"]]:
    """The batch's loss before each update of one chain, and the Metropolis probability of the update before it.

    For a step s = w' - w from U = n beta L + gamma |w - w*|^2/2 to U' it is min(1, exp(U - U' + s.(u + u')/2 +
    eps/8 (|u|^2 - |u'|^2))), and the part of gamma in s.(u + u')/2 is that in U' - U.
    """
    objective.restart()
    optimizer = _sampler()(objective.weights, **settings)  # the weights that it finds are its w*
    step_size, n_beta, localization = (settings[name] for name in ("lr", "nbeta", "prior"))
    noise = torch.Generator(objective.labels.device).manual_seed(noise.initial_seed())  # where the weights are
    losses, accepted = torch.full((2, updates), torch.nan, dtype=torch.float64)
    before = None
    for update in range(updates):
        loss = objective.loss(next(batches))
        if not loss.isfinite():
            break
        losses[update] = loss.detach()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        w, g = objective.displacement(), objective.gradient()
        u = n_beta * g + localization * w
        if before is not None:
            loss_0, w_0, g_0, u_0 = before
            log_ratio = n_beta * (loss_0 - losses[update] + ((w - w_0) @ (g + g_0)).cpu() / 2)
            log_ratio += step_size / 8 * (u_0 @ u_0 - u @ u).cpu()
            accepted[update] = log_ratio.clamp(max=0).exp()
        before = losses[update], w, g, u
        optimizer.step(noise_generator=noise)
    return losses, accepted


def _batches(n: int, batch_size: int, order: torch.Generator) -> Iterator[Tensor | None]:
    """Endless indices of batches: each epoch is shuffled anew, and its incomplete last batch left out."""
    while True:
        if batch_size == n:
            yield None
        else:
            yield from torch.randperm(n, generator=order)[: n - n % batch_size].split(batch_size)


def _sampler() -> Any:
    """devinterp's optimiser, imported when a chain starts."""
    try:
        from devinterp.optim import SGMCMC
    except ImportError as error:
        raise NotAvailableError(
            'The local learning coefficient needs devinterp >= 2; install it with `pip install "grokking-interp[llc]"`.'
        ) from error
    return SGMCMC


def _free_energy_temperature(n: int) -> float:
    """The inverse temperature n beta of WBIC, with beta = 1 / log n."""
    return n / math.log(n)


def _standard_error(by_chain: Float[Tensor, "*steps chain"]) -> Float[Tensor, "*steps"]:
    return by_chain.std(-1) / by_chain.shape[-1] ** 0.5


def _stack(results: Sequence[LLC], steps: tuple[int, ...]) -> LLC:
    """Results of single steps as one result with the leading axes `steps`."""
    stacked = {field.name: torch.stack([getattr(one, field.name) for one in results]) for field in fields(LLC)}
    return LLC(**{name: values.reshape(*steps, *values.shape[1:]) for name, values in stacked.items()})


def _grid(name: str, values: Sequence[float]) -> Float[Tensor, " value"]:
    grid = torch.tensor(list(values), dtype=torch.float64)
    if not len(grid) or not grid.isfinite().all() or grid[0] <= 0 or (grid.diff() <= 0).any():
        raise InvalidArgumentError(f"`{name}` must be finite, > 0 and increase; got {list(values)}.")
    return grid


def _sensitivity(
    value: Float[Tensor, "step_size inverse_temperature"],
    healthy: Bool[Tensor, "step_size inverse_temperature"],
    axes: Sequence[Tensor],
) -> Float[Tensor, "step_size inverse_temperature"]:
    log_value = torch.where(healthy, value, torch.nan).log()
    total = torch.where(healthy, 0.0, torch.inf).double()
    for dim, axis in enumerate(axes):
        if len(axis) > 1:
            slope = (log_value.diff(dim=dim).movedim(dim, -1) / axis.log().diff()).movedim(-1, dim).abs()
            none = torch.full_like(log_value.narrow(dim, 0, 1), torch.nan)
            beside = torch.stack([torch.cat([none, slope], dim), torch.cat([slope, none], dim)])
            total += beside.nan_to_num(nan=-torch.inf).amax(0).abs()  # -inf, no neighbour, becomes inf
    return total
