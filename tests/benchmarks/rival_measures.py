"""What there is to compare with: one checkpoint measured as TransformerLens's Grokking demo measures.

A full pass of all p^2 inputs through TransformerLens 4's bridge, cubes cos(w_k(a + b - c)) for all frequencies at once,
projections on explicit vectors over all inputs, and a new product with W_out W_U for every network that is asked about.
float32, with losses through a float64 log-softmax, as there. What the demo does not measure is written the same way:
plainly, over all inputs. The definitions are those of `interp.measure`, so that the values can be compared too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from interp.models import Network
from interp.models.lens import to_bridge

P = 113
FREQUENCIES = range(1, P // 2 + 1)


def make(model: Network, train: Tensor, labels: Tensor, keys: list[int]) -> Callable[[], dict[str, Tensor]]:
    """A function that measures the weights that `model`, one of this package, has when it is called now."""
    bridge = to_bridge(model)
    t = torch.arange(P)
    a, b = torch.cartesian_prod(t, t).unbind(1)
    tokens = torch.stack([a, b, torch.full_like(a, P)], dim=1)
    rows = [torch.full((P,), P**-0.5)]
    for k in FREQUENCIES:
        angle = 2 * torch.pi * k * t / P
        rows += [angle.cos() * (2 / P) ** 0.5, angle.sin() * (2 / P) ** 0.5]
    fourier = torch.stack(rows)
    r = (t[:, None, None] + t[:, None] - t) % P
    cos_cube = torch.stack([torch.cos(2 * torch.pi * k * r / P) for k in FREQUENCIES])
    cos_cube /= (P**3 / 2) ** 0.5
    waves = {}
    for k in FREQUENCIES:
        angle = 2 * torch.pi * k * (a + b) / P
        waves[k] = [wave / wave.norm() for wave in (angle.cos(), angle.sin())]

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        log_probs = logits[mask].to(torch.float64).log_softmax(-1)
        return -log_probs.gather(-1, labels[mask][:, None])[:, 0].mean()

    def projected(x: Tensor, frequencies: list[int]) -> Tensor:
        total = torch.zeros_like(x)
        for k in frequencies:
            for wave in waves[k]:
                total += wave[:, None] * (wave @ x)
        return total

    def gini(x: Tensor) -> Tensor:
        ordered, n = x.sort().values, len(x)
        return ((2 * torch.arange(1, n + 1) - n - 1) * ordered).sum() / (n * ordered.sum())

    @torch.no_grad()
    def measure() -> dict[str, Tensor]:
        every = torch.ones_like(train)
        found: dict[str, Tensor] = {}
        logits, cache = bridge.run_with_cache(tokens)
        logits = logits[:, -1]
        neurons = cache["blocks.0.mlp.hook_post"][:, -1]
        W_L = model.neuron_logit_map()
        for name, mask in (("train", train), ("test", ~train), ("all", every)):
            found[f"{name}_loss"] = loss(logits, mask)
            found[f"{name}_accuracy"] = (logits.argmax(-1) == labels)[mask].double().mean()
        found["sum_of_squares"] = sum(x.double().square().sum() for x in model.state_dict().values())
        W_E = model.state_dict()["embed.W_E"][:P]
        by_row = (fourier @ W_E).norm(dim=1)
        found["embedding_power"] = by_row[1:].square().reshape(-1, 2).sum(1)
        found["gini_embedding"] = gini(found["embedding_power"].sqrt())
        found["neuron_logit_power"] = (W_L @ fourier.T).square().sum(0)[1:].reshape(-1, 2).sum(1)
        found["gini_neuron_logit"] = gini(found["neuron_logit_power"].sqrt())

        # neurons in the two-dimensional Fourier basis
        centred = (neurons - neurons.mean(0)).reshape(P, P, -1)
        square = torch.einsum("xa,yb,abm->xym", fourier, fourier, centred).square()
        total = square.sum((0, 1))
        share = torch.stack(
            [square[[0, 2 * k - 1, 2 * k]][:, [0, 2 * k - 1, 2 * k]].sum((0, 1)) / total for k in FREQUENCIES]
        )
        found["neuron_frequency_share"], found["neuron_frequency"] = share.max(0)
        found["neuron_frequency"] = found["neuron_frequency"] + 1

        # logits on the cubes
        cube = logits.reshape(P, P, P)
        rowless = cube - cube.mean(-1, keepdim=True)
        found["logit_coefficient"] = (cos_cube * cube).sum((1, 2, 3))
        found["logit_similarity_raw"] = found["logit_coefficient"] / cube.norm()
        found["logit_similarity"] = (cos_cube * rowless).sum((1, 2, 3)) / rowless.norm()
        found["logit_variance_explained"] = found["logit_similarity"][[k - 1 for k in keys]].square().sum()

        # restricted and excluded
        restricted = projected(logits, keys)
        found["restricted_loss_logit"] = loss(restricted + (logits - restricted).mean(0), every)
        kept = (neurons.mean(0) + projected(neurons, keys)) @ W_L
        found["restricted_loss_neuron"] = loss(kept + (logits - kept).mean(0), ~train)
        found["restricted_loss_hidden"] = loss(projected(neurons, keys) @ W_L, every)
        around = logits - neurons @ W_L
        flat = cos_cube.flatten(2).reshape(len(cos_cube), P * P, P)
        excluded: dict[str, Callable[[list[int]], Tensor]] = {
            "2d": lambda ks: logits - projected(logits, ks),
            "3d": lambda ks: logits - sum(found["logit_coefficient"][k - 1] * flat[k - 1] for k in ks),
            "neuron": lambda ks: (neurons - projected(neurons, ks)) @ W_L + around,
            "hidden": lambda ks: (neurons - projected(neurons, ks)) @ W_L,
        }
        for name, without in excluded.items():
            found[f"excluded_loss_{name}"] = loss(without(keys), train)
            alone = [loss(without([k]), train) for k in FREQUENCIES]
            found[f"excluded_loss_{name}_by_frequency"] = torch.stack(alone)
        return found

    return measure
