"""Replacing modules inside a network."""

from collections.abc import Mapping

from torch import nn


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """`model` with every key replaced by its value, at any depth and at every use."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children() skips a module's second use
            if child is not None and child in replacements:
                setattr(parent, name, replacements[child])
    return replacements.get(model, model)


def layers_of_parameters(model: nn.Module) -> dict[nn.Parameter, int]:
    """Parameter → number of its layer, from 0, in the order in which the network defines them.

    A layer is a module with a weight of more than one dimension; norms and biases go with the layer before them.
    """
    layer_of: dict[nn.Parameter, int] = {}
    layers = 0
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        layers += any(parameter.ndim > 1 for parameter in own)
        for parameter in own:
            layer_of.setdefault(parameter, max(0, layers - 1))
    return layer_of
