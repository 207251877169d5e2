"""Interventions on an update beyond its optimiser: siblings with hooks around the training step.

    prepare     random draws of the step, on the host, before it runs (and outside a captured graph)
    around      a context of forward and backward: noise on the weights
    before      between backward and the optimiser: filters of the gradient, other forms of decay
    after       after the optimiser: noise on the update, a projection

With learning rate lr, gradient g, weights W and e of N(0, 1):

    weight noise    the pass sees W + s e, the update changes W             ("Grokking", Power et al., 2022, A.1.2)
    Grokfast        g <- g + lambda mean(g), over past updates              ("Grokfast", Lee et al., 2024)
    OrthoGrad       g <- (g - (W.g / W.W) W), at the old norm of g          ("Grokking at the edge of numerical
                                                                            stability", Prieto et al., 2025)
    decay           W <- W + lr wd (W_0 - W),  or  W <- W exp(lr wd e)      (github.com/openai/grok: to_init, jiggle)
    update noise    W <- W - lr nu e                                        (Power et al.)
    norm            w <- alpha |w_0| w / |w|, w being all weights           ("Omnigrok", Liu et al., 2023)

in this order. Draws are pure functions of (seed, step). An intervention's memory is its `state`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.config import RunConfig
from interp.config.optimizers import settings_of
from interp.rng import generator

__all__ = [
    "ConstantNorm",
    "DecayToInit",
    "Grokfast",
    "Intervention",
    "Jiggle",
    "OrthoGrad",
    "UpdateNoise",
    "WeightNoise",
    "build_interventions",
]


class Intervention:
    """Base of interventions on every update of `model`; hooks that a subclass does not override do nothing."""

    def __init__(self, model: nn.Module) -> None:
        trained = {name: W for name, W in model.named_parameters() if W.requires_grad}
        self.names = list(trained)
        self.parameters: list[Tensor] = list(trained.values())
        self.state: dict[str, Tensor] = {}
        """Memory from step to step, by name: tensors that are changed in place only."""

    def prepare(self, step: int, lr: float) -> None:
        """Make the draws of the update that leaves `step`, whose learning rate is `lr`."""

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Context manager around forward and backward."""
        yield

    def before(self) -> None:
        """Change gradients or weights before the optimiser does."""

    def after(self) -> None:
        """Change weights after the optimiser did."""

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients of all parameters."""
        return [W.grad for W in self.parameters if W.grad is not None]

    @property
    def changes_the_pass(self) -> bool:
        """Whether the pass is evaluated at other weights than the model's, as under weight noise."""
        return type(self).around is not Intervention.around


def build_interventions(
    config: RunConfig, model: nn.Module, initial: Callable[[], Mapping[str, Tensor]]
) -> tuple[Intervention, ...]:
    """The active interventions of `config` on `model`, in the order of the module's docstring.

    `initial` gives the weights of step 0 by name, and is called only where they are needed.

    Example:
        >>> config = RunConfig().replace({"interventions.weight_noise": 0.01, "interventions.grokfast": "ema"})
        >>> [type(one).__name__ for one in build_interventions(config, nn.Linear(2, 2), dict)]
        ['WeightNoise', 'Grokfast']
    """
    chosen, optimizer = config.interventions, config.optimizer
    built: list[Intervention] = []
    if chosen.weight_noise:
        built.append(WeightNoise(model, chosen.weight_noise, config.seed))
    if chosen.grokfast != "off":
        window = chosen.grokfast_window if chosen.grokfast == "ma" else None
        built.append(Grokfast(model, chosen.grokfast_lambda, chosen.grokfast_alpha, window))
    if chosen.orthogonal_gradient:
        built.append(OrthoGrad(model))
    if optimizer.decay == "to_init":
        built.append(DecayToInit(model, optimizer.weight_decay, initial()))
    if optimizer.decay == "jiggle":
        built.append(Jiggle(model, optimizer.weight_decay, config.seed))
    if chosen.update_noise:
        built.append(UpdateNoise(model, chosen.update_noise, config.seed, _relative_rates(model, config)))
    if chosen.norm is not None:
        built.append(ConstantNorm(model, chosen.norm, initial()))
    return tuple(built)


def _relative_rates(model: Any, config: RunConfig) -> dict[str, float]:
    """Learning rates of parameters over the optimiser's, by name, where they are others: settings, and Muon's AdamW."""
    own, optimizer = config.optimizer.relative_lr, config.optimizer
    if own == 1 and not optimizer.parameters:
        return {}
    rates = {
        name: settings_of(name, optimizer.parameters, 0.0)[1]
        * (1.0 if own == 1 or model.muon_turns(name, W.ndim) else own)
        for name, W in model.named_parameters()
    }
    return {name: rate for name, rate in rates.items() if rate != 1}


class WeightNoise(Intervention):
    """The pass sees W + std e; the gradient taken there changes W."""

    def __init__(self, model: nn.Module, std: float, seed: int) -> None:
        super().__init__(model)
        self.std, self.seed = std, seed
        self._noise = _Draws(self.parameters)
        self._clean = [torch.empty_like(W) for W in self.parameters]

    def prepare(self, step: int, lr: float) -> None:
        """See `Intervention`."""
        self._noise.draw(self.std, generator(self.seed, "weight noise", step))

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """See `Intervention`; the weights come back bit for bit."""
        with torch.no_grad():
            torch._foreach_copy_(self._clean, self.parameters)
            torch._foreach_add_(self.parameters, self._noise.tensors)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self._clean)


class Grokfast(Intervention):
    """Grokfast, g <- g + lamb mean(g): the mean is mu <- alpha mu + (1 - alpha) g, first mu = g, or over a window.

    The gradient is unchanged until a window is full.
    """

    def __init__(self, model: nn.Module, lamb: float, alpha: float, window: int | None = None) -> None:
        super().__init__(model)
        self.lamb, self.alpha, self.window = lamb, alpha, window
        shape = () if window is None else (window,)
        kept = "mean" if window is None else "window"
        self._means = [W.new_zeros((*shape, *W.shape)) for W in self.parameters]
        self._seen = torch.zeros(1, dtype=torch.int64, device=self.parameters[0].device)
        self.state = {f"grokfast/{kept}/{name}": mean for name, mean in zip(self.names, self._means)}
        self.state["grokfast/seen"] = self._seen

    @torch.no_grad()
    def before(self) -> None:
        """See `Intervention`; never waits for the device, on which the count stays."""
        for mean, g in zip(self._means, self.gradients, strict=True):
            if self.window is None:
                mean.lerp_(g, torch.where(self._seen == 0, 1.0, 1 - self.alpha).to(g.dtype))
                g.add_(mean, alpha=self.lamb)
            else:
                now = torch.arange(self.window, device=g.device) == self._seen % self.window
                mean.lerp_(g[None], now.to(g.dtype).view(-1, *[1] * g.ndim))  # only g's place in the window changes
                filled = (self._seen + 1 >= self.window).to(g.dtype)
                g.add_(mean.mean(0) * filled, alpha=self.lamb)
        self._seen += 1


class OrthoGrad(Intervention):
    """OrthoGrad: each tensor's gradient is projected orthogonally to the tensor, at the old norm; 0 for single numbers.

    The update of plain gradient descent is then orthogonal, too; Adam's, which rescales coordinates, is not.
    """

    @torch.no_grad()
    def before(self) -> None:
        """See `Intervention`."""
        for W, g in zip(self.parameters, self.gradients, strict=True):
            if g.numel() == 1:
                g.zero_()  # only 0 is orthogonal to a number; a rounding error has no direction
                continue
            old = torch.linalg.vector_norm(g)
            g.sub_(W * ((W * g).sum() / ((W * W).sum() + 1e-30)))
            g.mul_(old / (torch.linalg.vector_norm(g) + 1e-30))


class DecayToInit(Intervention):
    """Weight decay towards the initialisation, W <- W + lr decay (W_0 - W)."""

    def __init__(self, model: nn.Module, decay: float, initial: Mapping[str, Tensor]) -> None:
        super().__init__(model)
        self.decay = decay
        self._initial = [initial[name].detach().to(W.device).clone() for name, W in zip(self.names, self.parameters)]
        self._rate = torch.zeros((), device=self.parameters[0].device)

    def prepare(self, step: int, lr: float) -> None:
        """See `Intervention`."""
        self._rate.fill_(lr * self.decay)

    @torch.no_grad()
    def before(self) -> None:
        """See `Intervention`."""
        away = torch._foreach_sub(self._initial, self.parameters)
        torch._foreach_mul_(away, self._rate)
        torch._foreach_add_(self.parameters, away)


class Jiggle(Intervention):
    """Random decay and growth, W <- W exp(lr decay e), one e per tensor: a control for weight decay as mere noise."""

    def __init__(self, model: nn.Module, decay: float, seed: int) -> None:
        super().__init__(model)
        self.decay, self.seed = decay, seed
        self._scales = torch.ones(len(self.parameters), device=self.parameters[0].device)

    def prepare(self, step: int, lr: float) -> None:
        """See `Intervention`."""
        e = torch.randn(len(self.parameters), generator=generator(self.seed, "jiggle", step))
        self._scales.copy_((lr * self.decay * e).exp())

    @torch.no_grad()
    def before(self) -> None:
        """See `Intervention`."""
        torch._foreach_mul_(self.parameters, list(self._scales))


class UpdateNoise(Intervention):
    """Noise on the update, W <- W - lr std e after the optimiser; `relative` has tensors' own rates relative to lr."""

    def __init__(self, model: nn.Module, std: float, seed: int, relative: Mapping[str, float] | None = None) -> None:
        super().__init__(model)
        self.std, self.seed = std, seed
        self._noise = _Draws(self.parameters)
        self._relative = [(i, relative[name]) for i, name in enumerate(self.names) if relative and name in relative]

    def prepare(self, step: int, lr: float) -> None:
        """See `Intervention`."""
        self._noise.draw(lr * self.std, generator(self.seed, "update noise", step))
        for i, rate in self._relative:
            self._noise.tensors[i].mul_(rate)

    @torch.no_grad()
    def after(self) -> None:
        """See `Intervention`."""
        torch._foreach_sub_(self.parameters, self._noise.tensors)


class ConstantNorm(Intervention):
    """Constant weight norm: all trained weights are scaled together to `multiple` times their initial norm."""

    def __init__(self, model: nn.Module, multiple: float, initial: Mapping[str, Tensor]) -> None:
        super().__init__(model)
        self.norm = multiple * float(_norm([initial[name].detach().double() for name in self.names]))

    @torch.no_grad()
    def after(self) -> None:
        """See `Intervention`."""
        torch._foreach_mul_(self.parameters, self.norm / _norm(self.parameters))


class _Draws:
    """Gaussian numbers for every parameter, in one buffer on the device with a fixed address."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self._flat = torch.zeros(sum(W.numel() for W in parameters), device=parameters[0].device)
        parts = self._flat.split([W.numel() for W in parameters])
        self.tensors = [part.view_as(W) for part, W in zip(parts, parameters)]

    def draw(self, std: float, stream: torch.Generator) -> None:
        """Fill the buffer with draws of N(0, std^2), made on the host."""
        self._flat.copy_(torch.randn(self._flat.shape, generator=stream).mul_(std))


def _norm(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
