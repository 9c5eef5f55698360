"""Loss scaling for training in fp16."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al., 1710.03740, section 3.2).

    Unlike torch's GradScaler it gives true gradients after every backward pass, so that several passes may
    make up one step, as in SAM.
    """

    GROW_AFTER = 2000

    def __init__(self, enabled: bool) -> None:
        self.scale = 2.0**15 if enabled else 1.0
        self.enabled = enabled
        self.overflow = False
        self._good_steps = 0

    @torch.no_grad()
    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Divides their gradients by the scale, and notes whether one of them is not finite."""
        if self.enabled:
            gradients = [p.grad for p in parameters if p.grad is not None]
            torch._foreach_mul_(gradients, 1 / self.scale)
            self.overflow |= not torch.stack(torch._foreach_norm(gradients)).norm().isfinite().item()

    def state(self) -> dict[str, Any]:
        """What it carries from step to step."""
        return {"scale": self.scale, "overflow": self.overflow, "good_steps": self._good_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.scale, self.overflow, self._good_steps = state["scale"], state["overflow"], state["good_steps"]

    def may_step(self) -> bool:
        """Whether this step's gradients are usable; adapts the scale for the next one."""
        usable, self.overflow = not self.overflow, False
        self._good_steps = self._good_steps + 1 if usable else 0
        if self.enabled and not usable:
            self.scale /= 2
        elif self.enabled and self._good_steps == self.GROW_AFTER:
            self.scale, self._good_steps = self.scale * 2, 0
        return usable
