"""The search space of `tune`: for each hyperparameter a range or a choice, from its text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from speedtrain.config import Config
from speedtrain.errors import UserError

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Dimension:
    """The values of one hyperparameter to search: a range, or a choice.

    Attributes:
        key: the hyperparameter, dotted.
        low: the lower end of the range, included.
        high: the upper end of the range, included. Where both ends are whole numbers, so are the values.
        log: whether the range is searched on a logarithmic scale. Default: no.
        choices: the values of a choice; empty for a range.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    @classmethod
    def parse(cls, key: str, values: str | Sequence[Any]) -> "Dimension":
        """From `0.1..0.5`, `log:0.01..0.5` or `a,b,c`, or from a list of choices.

        Raises:
            UserError: it is none of these, or LOW is not below HIGH.
        """
        wrong = f"--search {key}={values}: must be LOW..HIGH, log:LOW..HIGH, or a,b,c"
        if not isinstance(values, str):
            return cls(key, choices=tuple(values))
        text, log = values.removeprefix("log:"), values.startswith("log:")
        low_text, dots, high_text = text.partition("..")
        try:
            if not dots:
                choices = tuple(dict.fromkeys(yaml.safe_load(f"[{text}]")))
                if log or len(choices) < 2:
                    raise UserError(wrong)
                return cls(key, choices=choices)
            low, high = _number(low_text), _number(high_text)
        except (yaml.YAMLError, TypeError, ValueError):
            raise UserError(wrong) from None
        if not low < high or (log and low <= 0):
            raise UserError(f"{wrong}; LOW must be below HIGH, and above 0 for log:")
        return cls(key, low, high, log)

    def extremes(self) -> Sequence[Any]:
        """The choices, or the ends of the range: where these values are valid, all values are."""
        return self.choices or (self.low, self.high)

    def suggest(self, proposal: "optuna.Trial") -> Any:
        """The value that Optuna chooses for a proposal."""
        if self.choices:
            return proposal.suggest_categorical(self.key, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return proposal.suggest_int(self.key, self.low, self.high, log=self.log)
        return proposal.suggest_float(self.key, self.low, self.high, log=self.log)


def _number(text: str) -> int | float:
    value = yaml.safe_load(text)
    return value if isinstance(value, int) else float(value)  # YAML takes 1e-3 for text


def make_search_space(
    search: Mapping[str, str | Sequence[Any]], configure: Callable[[Mapping[str, Any]], Config]
) -> list[Dimension]:
    """The dimensions of a search, checked.

    Args:
        search: hyperparameter → `LOW..HIGH`, `log:LOW..HIGH`, `a,b,c`, or a list of choices.
        configure: the configuration with these hyperparameters; raises UserError where they are not valid.

    Raises:
        UserError: nothing to search, or a value that is not valid.
    """
    if not search:
        raise UserError("nothing to search; say where, as in --search sam.rho=log:0.01..0.5")
    space = [Dimension.parse(key, values) for key, values in search.items()]
    for dimension in space:
        for value in dimension.extremes():
            try:
                configure({dimension.key: value})
            except UserError as error:
                why = str(error).removeprefix(f"--set {dimension.key}: ")
                raise UserError(f"--search {dimension.key}: {why}") from None
    return space
