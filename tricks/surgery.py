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
