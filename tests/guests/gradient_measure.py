"""A user's measure that takes gradients: do training inputs and held-out inputs pull the weights the same way?"""

import torch

import interp


def gradient_alignment(batch):
    """Cosine of the gradients of the training loss and of the held-out loss, -1 to 1."""
    run = batch.context

    def cosine(model):
        logits = model.answer_logits(run.inputs).double()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        gradients = []
        for mask in (run.train, run.test):
            loss = torch.nn.functional.cross_entropy(logits[mask], run.labels[mask])
            found = torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True)
            gradients.append(torch.cat([gradient.flatten() for gradient in found]))
        return torch.cosine_similarity(*gradients, dim=0)

    return batch.each(cosine, gradients=True)


GRADIENT_ALIGNMENT = interp.Measure(
    "gradient_alignment", gradient_alignment, requires=("logits of classes",), inputs="weights"
)
