"""What there is to compare with: the Grokking demo's training step, and the multiplications of a folded exact step.

The demo is TransformerLens's `Grokking_Demo` ("Progress measures for grokking", Nanda et al., 2023), written here
around TransformerLens 4's bridge: a + b mod 113, 30 % of the pairs, one layer, biases frozen at 0, full batch, AdamW
(learning rate 1e-3, weight decay 1, betas 0.9 and 0.98), a float64 log-softmax at the last position, and the test loss
at every step. It reads both losses as Python numbers at every step, as the demo does.

Run it alone: `python -m tests.benchmarks.rival_demo [device]`.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

P, D_MODEL, N_HEADS, D_MLP = 113, 128, 4, 512
N_TRAIN = int(0.3 * P * P)
N_TEST = P * P - N_TRAIN
DATA_SEED, MODEL_SEED = 598, 999


def make(device: str = "cpu") -> Callable[[bool], float]:
    """The demo's `step(with_test)`: one update, then the test loss if asked for; returns the training loss."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources import boot_native

    model = boot_native(
        TransformerBridgeConfig(
            n_layers=1,
            n_heads=N_HEADS,
            d_model=D_MODEL,
            d_head=D_MODEL // N_HEADS,
            d_mlp=D_MLP,
            act_fn="relu",
            normalization_type=None,
            d_vocab=P + 1,
            d_vocab_out=P,
            n_ctx=3,
            seed=MODEL_SEED,
            device=device,
        ),
        device=device,
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.requires_grad = False

    a, b = torch.cartesian_prod(torch.arange(P), torch.arange(P)).unbind(1)
    order = torch.randperm(P * P, generator=torch.Generator().manual_seed(DATA_SEED))
    data = torch.stack([a, b, torch.full_like(a, P)], dim=1)[order].to(device)
    labels = ((a + b) % P)[order].to(device)
    (train_data, test_data), (train_labels, test_labels) = (x.split([N_TRAIN, N_TEST]) for x in (data, labels))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98))

    def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
        log_probs = logits[:, -1].to(torch.float64).log_softmax(dim=-1)
        return -log_probs.gather(dim=-1, index=labels[:, None])[:, 0].mean()

    test_losses: list[float] = []

    def step(with_test: bool = True) -> float:
        loss = loss_of(model(train_data), train_labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if with_test:
            with torch.inference_mode():
                test_losses.append(loss_of(model(test_data), test_labels).item())
        return loss.item()

    return step


def matmul_floor(device: str = "cpu") -> tuple[Callable[[], None], Callable[[], None]]:
    """The bare float32 multiplications of an exact step of the folded transformer: (train step, test pass).

    Folded, a pair costs two products: its mixture of values z [128] through W_O W_in to the neurons [512], and both of
    them [640] through the rest to the logits [113]; in training each has two gradients. What is done per token or per
    weight and all that is elementwise is left out: a step built on these products cannot be faster than this.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    W_hidden, W_out = random(D_MODEL, D_MLP), random(D_MODEL + D_MLP, P)

    def forward(n: int) -> tuple[Callable[[], None], Tensor, Tensor]:
        z, joint = random(n, D_MODEL), random(n, D_MODEL + D_MLP)
        neurons, logits = random(n, D_MLP), random(n, P)

        def run() -> None:
            torch.mm(z, W_hidden, out=neurons)
            torch.mm(joint, W_out, out=logits)

        return run, z, joint

    train_forward, z, joint = forward(N_TRAIN)
    grad_logits, grad_neurons = random(N_TRAIN, P), random(N_TRAIN, D_MLP)
    grad_joint, grad_z = torch.empty_like(joint), torch.empty_like(z)
    grad_W_out, grad_W_hidden = torch.empty_like(W_out), torch.empty_like(W_hidden)

    def train() -> None:
        train_forward()
        torch.mm(grad_logits, W_out.T, out=grad_joint)
        torch.mm(joint.T, grad_logits, out=grad_W_out)
        torch.mm(grad_neurons, W_hidden.T, out=grad_z)
        torch.mm(z.T, grad_neurons, out=grad_W_hidden)

    return train, forward(N_TEST)[0]


def median_ms(run: Callable[[], object], n: int = 20) -> float:
    """Median time of `n` calls in milliseconds, after three that do not count."""
    times = []
    for i in range(n + 3):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if i >= 3:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


if __name__ == "__main__":
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    step, (train, test) = make(device), matmul_floor(device)
    print(f"demo, with test pass     {median_ms(lambda: step(True)):8.1f} ms")
    print(f"demo, without            {median_ms(lambda: step(False)):8.1f} ms")
    print(f"floor, train step        {median_ms(train):8.1f} ms")
    print(f"floor, test pass         {median_ms(test):8.1f} ms")
    print(f"demo, training loss now  {step(False):8.4f} nats")
