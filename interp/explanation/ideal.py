"""Idealised network of an account: neurons and read-out from its numbers alone, as a model and as a run.

The numbers are the network's parameters; keys, clusters and the places of tokens are its config. A run of idealised
networks, one for each step of a run, is a trajectory like any other: measures and the report take it. Its model is
named by its class, so that on the command line `interp --import interp.explanation.ideal report RUN` opens it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from interp.analysis.account import Account
from interp.analysis.bases import functions_of
from interp.analysis.context import RunContext
from interp.analysis.explaining import Examined
from interp.config import RunConfig
from interp.models import Answer, Batch, Model, Network, Sizes
from interp.models.base import activate
from interp.store import RunWriter
from interp.theory.groups import Family
from interp.trajectory import Trajectory

__all__ = ["IdealNetwork", "Idealised", "ideal_run", "idealised"]

ARRAYS = ("beta", "first", "second", "product", "readout")
"""Arrays of an account that are the parameters of its idealised network."""


@dataclass(frozen=True, kw_only=True)
class Idealised(Model):
    """Model of the networks L^ = act(x^) W^ of accounts with the same keys and clusters."""

    keys: tuple[str, ...] = ()
    """Key frequencies, or names of key irreps."""
    family: Family = "cyclic"
    """Family of the group: cyclic for frequencies."""
    size: int = 3
    """Size of the group, as its family counts it."""
    activation: str = "relu"
    """Non-linearity of the neurons."""
    cluster: tuple[int, ...] = ()
    """Place of each neuron's key in `keys`."""
    positions: tuple[int, ...] = (0, 1)
    """Positions of the two operands in an input."""
    first: tuple[int, ...] = ()
    """Place of each token, as first operand, among the elements; -1 where it is none."""
    second: tuple[int, ...] = ()
    """Place of each token as second operand."""
    columns: tuple[int, ...] = ()
    """Output of each element as answer."""

    @property
    def slug(self) -> str:
        """See `ModelConfig.slug`."""
        return "ideal"

    @property
    def draws_weights(self) -> bool:
        """See `ModelConfig.draws_weights`; an account has nothing to draw."""
        return False

    def build(self, sizes: Sizes, generator: torch.Generator) -> "IdealNetwork":
        """Network with all numbers 0."""
        return IdealNetwork(self, sizes)


class IdealNetwork(Network):
    """The network L^ = act(x^) W^ of an account, and nothing else; measures of models take it.

    Its parameters are the coefficients of the account: `beta`, `first`, `second`, `product`, `readout`. An operand that
    is no element of the account (0 in products) leaves the pre-activations at `beta`.
    """

    beta: Tensor
    first: Tensor
    second: Tensor
    product: Tensor
    readout: Tensor
    waves: Tensor
    harmonics: Tensor
    answers: Tensor

    has_neurons: bool = True
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {"beta": ("neuron",), **dict.fromkeys(ARRAYS[1:], ("neuron", "coefficient"))}
    )

    def __init__(self, config: Idealised, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.d_vocab, self.n_ctx, self.d_vocab_out = sizes
        keys = config.keys if config.family != "cyclic" else tuple(map(int, config.keys))
        functions = functions_of((config.family, config.size), keys)
        cluster, n = np.array(config.cluster, dtype=int), len(config.cluster)
        widths = {"beta": (n,), "readout": (n, functions.answers.shape[1])}
        widths |= {name: (n, size) for name, size in zip(("first", "second", "product"), functions.sizes)}
        for name in ARRAYS:
            self.register_parameter(name, nn.Parameter(torch.zeros(widths[name])))

        def of_neurons(waves: Sequence[np.ndarray]) -> Float[Tensor, "place neuron f"]:
            """Functions of an operand as each neuron reads them; 0 at the last place, of tokens that are no element."""
            N = len(functions.answers)
            table = np.zeros((N + 1, n, waves[0].shape[1]))
            for k in range(functions.clusters):
                table[:N, functions.members(cluster, k)] = waves[k][:, None]
            return torch.from_numpy(table).float()

        places = {"a": config.first, "b": config.second, "columns": config.columns}
        for name, numbers in places.items():
            self.register_buffer(f"places_{name}", torch.tensor(numbers), persistent=False)
        self.register_buffer("waves", of_neurons(functions.first), persistent=False)
        self.register_buffer("harmonics", of_neurons(functions.second), persistent=False)
        self.register_buffer("answers", torch.from_numpy(functions.answers).float(), persistent=False)

    def neuron_logit_map(self) -> Float[Tensor, "neuron d_vocab_out"]:
        """See `Network.neuron_logit_map`."""
        ordered = self.readout @ self.answers.T
        W = ordered.new_zeros(len(ordered), self.d_vocab_out)
        return W.index_copy(1, self.get_buffer("places_columns"), ordered)

    def answer(self, batch: Batch) -> Answer:
        """See `Network.answer`."""
        i, j = self.config.positions
        a, b = (self.get_buffer(name)[batch.tokens[:, at]] for name, at in (("places_a", i), ("places_b", j)))
        x = self.beta + _read(self.first, self.waves, a, b) + _read(self.second, self.harmonics, a, b)
        if self.product.shape[1]:
            pairs = self.product.unflatten(1, (self.waves.shape[2], -1))
            x = x + torch.einsum("umi,mij,umj->um", self.waves[a], pairs, self.waves[b])
        neurons, W = activate(self.config.activation, x), self.neuron_logit_map()
        logits = neurons @ W
        return Answer(logits, neurons, W, torch.zeros_like(logits))

    def answer_logits(self, batch: Batch) -> Float[Tensor, "batch d_vocab_out"]:
        """See `Network.answer_logits`."""
        return self.answer(batch).logits

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch d_vocab_out"]:
        """Logits of the account."""
        return self.answer(Batch(tokens, None)).logits


def idealised(examined: Examined, account: Account) -> IdealNetwork:
    """Idealised network of an account of a run's network, for the inputs and outputs of that run."""
    context, network = examined.context, examined.network
    tokens = context.examples.operands.numpy()
    first, second = (np.full(context.examples.d_vocab, -1) for _ in range(2))
    first[tokens[examined.first]] = np.arange(len(examined.first))
    second[tokens[examined.second]] = np.arange(len(examined.second))
    config = Idealised(
        keys=tuple(map(str, account.keys)),
        family=account.symmetry[0],
        size=account.symmetry[1],
        activation=account.activation,
        cluster=tuple(account.cluster.tolist()),
        positions=context.operand_positions,
        first=tuple(first.tolist()),
        second=tuple(second.tolist()),
        columns=tuple(examined.columns[: account.N].tolist()),
    )
    sizes = Sizes(context.examples.d_vocab, network.n_ctx, context.examples.d_vocab_out)
    ideal = IdealNetwork(config, sizes)
    ideal.load_state_dict({name: torch.from_numpy(getattr(account, name)).float() for name in ARRAYS})
    return ideal.eval()


def ideal_run(
    traj: Trajectory, account: Account, folder: Path, steps: Sequence[int], *, progress: bool = False
) -> Trajectory:
    """Run of idealised networks, with `account`'s keys and clusters refitted at each step, stored in a new folder.

    Raises:
        RunExistsError: the folder holds a run.
        NotAvailableError: the run's networks have no account.
    """
    context = RunContext(traj)
    examined = Examined(context, traj.model(int(steps[-1])))
    config = RunConfig(
        task=traj.config.task, model=idealised(examined, account).config, steps=traj.config.steps, seed=traj.config.seed
    )
    about = {
        "config": config.to_dict(),
        "provenance": {
            "imported": datetime.now(UTC).isoformat(timespec="seconds"),
            "interp": version("grokking-interp"),
            "torch": torch.__version__,
            "account_of": traj.folder.name,
        },
        "import": {"from": traj.folder.name, "format": "account", "keys": list(account.keys)},
    }
    with RunWriter.create(folder, about) as writer:
        for step in tqdm(steps, unit="account", disable=not progress, leave=False):
            examined = Examined(context, traj.model(int(step)))
            refitted = examined.account(account.keys, cluster=account.cluster)
            writer.append(int(step), {name: getattr(refitted, name).astype(np.float32) for name in ARRAYS})
        writer.finish()
    return Trajectory(folder)


def _read(coefficients: Tensor, waves: Tensor, a: Tensor, b: Tensor) -> Tensor:
    of_a, of_b = coefficients.chunk(2, dim=1)
    table_a, table_b = ((waves * part).sum(-1) for part in (of_a, of_b))  # [place, neuron]
    return table_a[a] + table_b[b]
