"""Weights without a network, and the loop that moves them: for methods that see nothing else."""

import torch
from torch import nn

from edgeinc import registry
from edgeinc.methods import StepContext, Survey

LR = 0.1


class Weights(nn.Module):
    """Weights without a network: the methods see names, values and gradients only."""

    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor.clone()))


def weights(seed=0, **shapes):
    generator = torch.Generator().manual_seed(seed)
    return Weights(**{n: torch.randn(*s, generator=generator) for n, s in shapes.items()})


def make(name, memory=None, first_new=0, **options):
    plugin = registry.load("methods", name)
    context = StepContext(first_new, 3, "none", None, memory or {})
    return plugin(plugin.Config(**options), context)


def iterate(method, model, gradients):
    """What the loop does: gradients of the terms, the method's hooks, the optimiser."""
    logged = []
    for gradient in gradients:
        for name, p in model.named_parameters():
            p.grad = gradient[name].clone() if name in gradient else None
        logged.append(method.after_backward(model))
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= LR * p.grad
        method.after_update(model)
    return logged


def random_gradients(model, count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        {n: torch.randn(p.shape, generator=generator) for n, p in model.named_parameters()}
        for _ in range(count)
    ]


def frozen_copy(model):
    return Weights(**{n: p.detach() for n, p in model.named_parameters()}).requires_grad_(False)


def finish(method, model, old=None):
    return method.finish(model, old, Survey(lambda: iter(()), lambda network, x: network(x)))


def flat(tensors):
    return {n: t.detach().flatten().double().tolist() for n, t in tensors.items()}
