"""Cross-entropy of the answer, exact where float32 is not.

After memorisation the right logit leads by so much that 1 + the sum of the others' exponentials rounds to 1 in float32:
loss and gradient become zero or noise ("Progress measures for grokking", Nanda et al., 2023; "Grokking at the edge of
numerical stability", Prieto et al., 2025). A float64 log-softmax cures it. So does keeping the others apart from the
right class c, which needs no float64 copy of the logits:

    m = max_j z_j,   R = sum_{j != c} exp(z_j - m)   (accumulated in float64),   Z = R + exp(z_c - m)
    loss = log(1 + R)  where c leads,  log Z - (z_c - m)  elsewhere
    d loss / d z_j = exp(z_j - m) / Z   for j != c,        d loss / d z_c = -R / Z   (never 1 - 1)

This agrees with the float64 log-softmax of the same logits to a few parts in 10^6, at any loss.

StableMax (Prieto et al.) has s(z) in place of exp(z), z + 1 for z >= 0 and 1 / (1 - z) below, which neither
overflows nor absorbs; since log s(z) = sign(z) log(1 + |z|), it is the softmax of that function of the logits.
"""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.errors import NotAvailableError

__all__ = [
    "AnswerAndClosing",
    "AnswerDigits",
    "CrossEntropy",
    "NearestCode",
    "Objective",
    "OneClass",
    "answer_loss",
    "log_stablemax_term",
    "mean_of",
    "one_class_loss",
    "population_numbers",
]

STEP = 0.005
"""Step of the trapezoidal rule over the population; its error falls faster than any power of it."""


class Objective(ABC):
    """Loss of a network's outputs, and which inputs are answered correctly.

    A task's objective is a value. The trainer asks it which positions it reads, what follows the inputs, and for the
    loss of a batch; the config says under which names (`optimizer.loss`) and in which words the loss is known.
    """

    positions: int = 1
    """Number of last positions whose outputs are compared with labels."""
    has_population: ClassVar[bool] = False
    """Whether test loss and accuracy are those of a whole population, in closed form: see `population`."""
    has_slopes: ClassVar[bool] = False
    """Whether the derivative of the loss by a single logit is known in closed form: see `slopes`."""

    def inputs(
        self, tokens: Int[Tensor, "input pos"] | Float[Tensor, "input pos"], labels: Int[Tensor, " input"]
    ) -> tuple[Tensor, Int[Tensor, "input *positions"]]:
        """Inputs as a network reads them in training, and the classes due at the last `positions` positions."""
        return tokens, labels

    def like(self, parameter: Tensor) -> "Objective":
        """The objective with its tensors on the device and in the type of a network's parameters."""
        return self

    @abstractmethod
    def loss(
        self,
        outputs: Float[Tensor, "*batch d_vocab_out"],
        labels: Int[Tensor, "*batch"],
        precision: str = "float64",
        kind: str = "cross-entropy",
        weights: Float[Tensor, "*members batch"] | None = None,
    ) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"]]:
        """Loss of a batch, or of the batch of each member of an ensemble, and which inputs are answered correctly.

        Args:
            outputs: `[*members, batch, d_vocab_out]`, with an axis of positions behind the batch for several of them.
            labels: as `inputs` returned them.
            precision: `optimizer.loss_precision`, "float64" or "float32".
            kind: `optimizer.loss`.
            weights: weights of the batch's inputs, of sum 1; None: all alike.
        """

    def slopes(
        self, z: Float[Tensor, "*members batch"], kind: str
    ) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"], Float[Tensor, "*members batch"]]:
        """Loss, correct answers, and the derivative of each input's loss by its only logit, where `has_slopes`.

        Raises:
            NotAvailableError: the derivative is not known in closed form.
        """
        raise NotAvailableError(f"{type(self).__name__} has no derivative in closed form.")

    def population(self, S: Float[Tensor, "*members d"], b: Float[Tensor, "*members 1"]) -> Float[Tensor, "*members 2"]:
        """Loss and accuracy of the plane S.x + b over the population of inputs, where `has_population`.

        Raises:
            NotAvailableError: the test numbers are those of held-out inputs.
        """
        raise NotAvailableError(f"{type(self).__name__} is tested on held-out inputs, not on a population.")


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy of the answer at the last position; an answer is correct where its logit leads all others.

    Example:
        >>> loss, correct = CrossEntropy().loss(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))
        >>> f"{loss:.4f}", correct.tolist()  # log 2; a tie is no answer
        ('0.6931', [False])
    """

    def loss(
        self,
        outputs: Float[Tensor, "*members batch d_vocab_out"],
        labels: Int[Tensor, "*members batch"],
        precision: str = "float64",
        kind: str = "cross-entropy",
        weights: Float[Tensor, "*members batch"] | None = None,
    ) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"]]:
        """See `Objective.loss`."""
        return answer_loss(outputs, labels, precision, kind, weights)


@dataclass(frozen=True)
class AnswerAndClosing(Objective):
    """Mean cross-entropy of two positions: the answer, and the closing token that is due behind it.

    The answer is appended to the inputs, to be read at the last position only: a model that reads ahead would find it.
    An input is answered correctly where both tokens are.

    Example:
        >>> tokens, classes = AnswerAndClosing(0).inputs(torch.tensor([[3, 4, 5]]), torch.tensor([7]))
        >>> tokens.tolist(), classes.tolist()
        ([[3, 4, 5, 7]], [[7, 0]])
    """

    token: int
    """Class that is due after the answer."""
    positions = 2

    def inputs(
        self, tokens: Int[Tensor, "input pos"], labels: Int[Tensor, " input"]
    ) -> tuple[Int[Tensor, "input n_ctx"], Int[Tensor, "input 2"]]:
        """See `Objective.inputs`: classes are tokens here."""
        both = torch.stack([labels, torch.full_like(labels, self.token)], dim=1)
        return torch.cat([tokens, labels[:, None]], dim=1), both

    def loss(
        self,
        outputs: Float[Tensor, "*members batch 2 d_vocab_out"],
        labels: Int[Tensor, "*members batch 2"],
        precision: str = "float64",
        kind: str = "cross-entropy",
        weights: Float[Tensor, "*members batch"] | None = None,
    ) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"]]:
        """See `Objective.loss`."""
        return _loss_of_positions(outputs, labels, precision, kind, weights)


@dataclass(frozen=True)
class AnswerDigits(Objective):
    """Mean cross-entropy of the digits of an answer, each given those before; correct where all of them are.

    Example:
        >>> tokens, classes = AnswerDigits(10, 2).inputs(torch.tensor([[9, 10, 5, 11]]), torch.tensor([14]))
        >>> tokens.tolist(), classes.tolist()
        ([[9, 10, 5, 11, 1]], [[1, 4]])
    """

    base: int
    positions: int
    """Digits of the answer."""
    least_first: bool = False
    """Whether the least significant digit is due first."""

    def inputs(
        self, tokens: Int[Tensor, "input pos"], labels: Int[Tensor, " input"]
    ) -> tuple[Int[Tensor, "input n_ctx"], Int[Tensor, "input positions"]]:
        """See `Objective.inputs`: labels are numbers, digits are tokens and classes."""
        powers = self.base ** torch.arange(self.positions, device=labels.device)
        digits = labels[:, None] // (powers if self.least_first else powers.flip(0)) % self.base
        return torch.cat([tokens, digits[:, :-1]], dim=1), digits

    def loss(
        self,
        outputs: Float[Tensor, "*members batch positions d_vocab_out"],
        labels: Int[Tensor, "*members batch positions"],
        precision: str = "float64",
        kind: str = "cross-entropy",
        weights: Float[Tensor, "*members batch"] | None = None,
    ) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"]]:
        """See `Objective.loss`."""
        return _loss_of_positions(outputs, labels, precision, kind, weights)


@dataclass(frozen=True, eq=False)
class NearestCode(Objective):
    """Mean squared distance of the outputs to the answer's code; an answer is correct where its code is the nearest.

    Example:
        >>> loss, correct = NearestCode(torch.eye(2)).loss(torch.tensor([[0.0, 0.5]]), torch.tensor([1]))
        >>> float(loss), correct.tolist()
        (0.125, [True])
    """

    codes: Float[Tensor, "answer code"]

    def like(self, parameter: Tensor) -> "NearestCode":
        """See `Objective.like`."""
        return NearestCode(self.codes.to(parameter))

    def loss(
        self,
        outputs: Float[Tensor, "*members batch code"],
        labels: Int[Tensor, "*members batch"],
        precision: str = "float64",
        kind: str = "cross-entropy",
        weights: Float[Tensor, "*members batch"] | None = None,
    ) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"]]:
        """See `Objective.loss`; `precision` and `kind` do not matter to squared errors."""
        correct = torch.cdist(outputs.detach(), self.codes).argmin(-1) == labels
        errors = F.mse_loss(outputs, self.codes[labels], reduction="none").mean(-1)
        return mean_of(errors, weights), correct


@dataclass(frozen=True)
class OneClass(Objective):
    """Logistic loss of points x ~ N(0, sigma^2 I) that all belong to the class -1, by the sign of a single logit.

    Test loss and accuracy are the population's, in closed form.
    """

    sigma: float
    """Standard deviation of each coordinate in the population."""
    has_population: ClassVar[bool] = True
    has_slopes: ClassVar[bool] = True

    def loss(
        self,
        outputs: Float[Tensor, "*members batch 1"],
        labels: Int[Tensor, "*members batch"],
        precision: str = "float64",
        kind: str = "cross-entropy",
        weights: Float[Tensor, "*members batch"] | None = None,
    ) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"]]:
        """See `Objective.loss`."""
        return one_class_loss(outputs[..., 0], kind)[:2]

    def slopes(
        self, z: Float[Tensor, "*members batch"], kind: str
    ) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"], Float[Tensor, "*members batch"]]:
        """See `Objective.slopes`."""
        return one_class_loss(z, kind)

    def population(self, S: Float[Tensor, "*members d"], b: Float[Tensor, "*members 1"]) -> Float[Tensor, "*members 2"]:
        """See `Objective.population`."""
        return population_numbers(S.norm(dim=-1), b[..., 0], self.sigma)


def answer_loss(
    logits: Float[Tensor, "*members batch d_vocab_out"],
    labels: Int[Tensor, "*members batch"],
    precision: str = "float64",
    kind: str = "cross-entropy",
    weights: Float[Tensor, "*members batch"] | None = None,
) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"]]:
    """Mean cross-entropy in nats, and which answers are right: those whose logit leads all others strictly.

    `precision` is "float64" (see the module's text) or "float32" (the plain log-softmax with all its failures); `kind`
    is "cross-entropy", "stablemax", cross-entropy with StableMax for the softmax, or "mse", the squared distance to 1
    at the answer and 0 elsewhere, mean over classes. `weights`, whose sum is 1, make the mean a weighted one. Leading
    axes are the members of an ensemble, each with a loss of its own.

    Example:
        >>> loss, right = answer_loss(torch.tensor([[40.0, 0.0, 0.0]]), torch.tensor([0]))
        >>> f"{loss:.4g}", bool(right)  # 2 exp(-40); float32 would say 0
        ('8.497e-18', True)
        >>> f"{answer_loss(torch.tensor([[3.0, 0.0, -1.0]]), torch.tensor([0]), kind='stablemax')[0].exp():.4g}"
        '1.375'
        >>> answer_loss(torch.tensor([[0.5, 0.0]]), torch.tensor([0]), kind="mse")  # (1/2)^2 / 2
        (tensor(0.1250, dtype=torch.float64), tensor([True]))

        (s is 4, 1 and 1/2, so the right answer has the share 4 / 5.5.)
    """
    if kind == "mse":
        return _squared_error(logits.double() if precision == "float64" else logits, labels, weights)
    if kind == "stablemax":
        logits = log_stablemax_term(logits.double() if precision == "float64" else logits)
    if precision == "float32":
        own = labels[..., None]
        leading = logits.detach().scatter(-1, own, -torch.inf).amax(-1)
        right = logits.detach().gather(-1, own)[..., 0] > leading
        if weights is None and logits.ndim == 2:
            return F.cross_entropy(logits, labels), right
        losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
        return mean_of(losses, weights), right
    return _SplitCrossEntropy.apply(logits, labels, weights)


def _squared_error(
    logits: Float[Tensor, "*members batch d_vocab_out"], labels: Int[Tensor, "*members batch"], weights: Tensor | None
) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"]]:
    """Mean squared error of one-hot answers; compared, not scattered, which a captured step may."""
    answer = labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)
    right = (logits.detach() * answer).sum(-1) > logits.detach().masked_fill(answer, -torch.inf).amax(-1)
    return mean_of((logits - answer.to(logits.dtype)).square().mean(-1), weights), right


def _loss_of_positions(
    outputs: Float[Tensor, "*members batch positions d_vocab_out"],
    labels: Int[Tensor, "*members batch positions"],
    precision: str,
    kind: str,
    weights: Float[Tensor, "*members batch"] | None,
) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"]]:
    """Mean loss over inputs and positions, and which inputs are answered correctly at all of them."""
    if weights is not None:
        weights = weights.repeat_interleave(labels.shape[-1], -1) / labels.shape[-1]
    loss, correct = answer_loss(outputs.flatten(-3, -2), labels.flatten(-2), precision, kind, weights)
    return loss, correct.view(labels.shape).all(-1)


def mean_of(
    values: Float[Tensor, "*members batch"], weights: Float[Tensor, "*members batch"] | None = None
) -> Float[Tensor, " *members"]:
    """The mean over a batch; `weights`, whose sum is 1, make it a weighted one."""
    return values.mean(-1) if weights is None else (values * weights).sum(-1)


def log_stablemax_term(z: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log s(z) = sign(z) log(1 + |z|), with slope 1 at 0 from both sides.

    Example:
        >>> log_stablemax_term(torch.tensor([1.0, 0.0, -1.0])).exp()
        tensor([2.0000, 1.0000, 0.5000])
    """
    return _SignedLog.apply(z)


def one_class_loss(
    z: Float[Tensor, "*members batch"], kind: str = "cross-entropy"
) -> tuple[Float[Tensor, " *members"], Bool[Tensor, "*members batch"], Float[Tensor, "*members batch"]]:
    """Mean loss of inputs that all belong to the class -1, which are answered rightly (z < 0), and the loss's slopes.

    Cross-entropy is log(1 + e^z) with slope 1 / (1 + e^-z), exponential is e^z (Beck et al., 2024, equations 1 and 8).

    Example:
        >>> loss, right, slopes = one_class_loss(torch.tensor([0.0, -1.0]))
        >>> f"{loss:.4f}", right.tolist(), f"{slopes[0]:.1f}"
        ('0.5032', [False, True], '0.5')
    """
    losses, slopes = (F.softplus(z), z.sigmoid()) if kind == "cross-entropy" else (z.exp(), z.exp())
    return losses.mean(-1), z < 0, slopes


def population_numbers(
    S_norm: Float[Tensor, " *members"], b: Float[Tensor, " *members"], sigma: float
) -> Float[Tensor, "*members 2"]:
    """Cross-entropy and accuracy of a plane S.x + b over x ~ N(0, sigma^2 I), all of the class -1.

    E log(1 + e^(s Z + b)) with s = sigma |S| and Z ~ N(0, 1), and Phi(-b / s) (Beck et al., 2024, equations 4 to 6), by
    the trapezoidal rule of `interp.theory.separability`, whose upper end follows s: good to 1e-9 up to s = 40.

    Example:
        >>> population_numbers(torch.tensor(0.0, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64), 1.0)
        tensor([0.3133, 1.0000], dtype=torch.float64)
    """
    s = sigma * S_norm
    Z = torch.arange(-12, 52, STEP, dtype=torch.float64, device=s.device)
    density = (-Z.square() / 2).exp() * (STEP / math.sqrt(2 * math.pi))
    loss = F.softplus(s[..., None] * Z + b[..., None], threshold=40) @ density
    accuracy = torch.special.ndtr((-b / s).nan_to_num(0.0, math.inf, -math.inf))
    return torch.stack([loss, accuracy], dim=-1)


class _SignedLog(torch.autograd.Function):
    """Signed logarithm, its slope 1 / (1 + |z|) in one piece: `torch.where` of two halves is three times slower."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.abs().log1p_().copysign_(z)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return slope / (1 + z.abs())


@contextlib.contextmanager
def _distinct_places() -> Iterator[None]:
    """Context of writes to distinct places, whose order does not matter.

    What torch does instead on CUDA, asked to be deterministic, asks the device for the range of the indices, which
    nothing in a captured step may.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)


class _SplitCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        index = labels[..., None]
        own = logits.gather(-1, index)
        others = logits.scatter(-1, index, -torch.inf)  # the only copy of the logits; becomes the gradient in place
        leading = others.amax(-1, keepdim=True)
        m = torch.maximum(leading, own)
        others.sub_(m).exp_()
        R = others.sum(-1, keepdim=True, dtype=torch.float64)
        gap = own.double() - m.double()
        Z = R + gap.exp()
        loss = mean_of(torch.where(gap == 0, R.log1p(), Z.log() - gap)[..., 0], weights)
        right = (own > leading)[..., 0]
        ctx.mark_non_differentiable(right)
        if ctx.needs_input_grad[0]:
            Zn = Z * labels.shape[-1] if weights is None else Z / weights[..., None]
            others.mul_((1 / Zn).to(logits.dtype))
            with _distinct_places():
                others.scatter_(-1, index, (-R / Zn).to(logits.dtype))
            ctx.save_for_backward(others)
        return loss, right

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_loss.to(grad.dtype)[..., None, None], None, None
