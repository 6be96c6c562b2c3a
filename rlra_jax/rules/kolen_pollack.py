"""The rule of Kolen and Pollack (1994), and of LRA-E's released code."""

import dataclasses
from typing import ClassVar

from rlra_jax.edges import Link, LinkSignals, Rule
from rlra_jax.types import PyTree
from rlra_jax.validate import require_flag


@dataclasses.dataclass(frozen=True)
class KolenPollack(Rule):
    """The transpose of the forward update, e_j x z_i.

    On a path the very update of the parameters that E stands for: E - W decays where both sides decay and share an
    optimizer.

    Attributes:
      equal: whether a path's E starts as W. With one optimizer for both it then stays W; not
        quite where W has fewer bits than E, which is float32 or wider.

    Raises:
      ValueError: equal is neither True nor False.
    """

    equal: bool = False

    sums: ClassVar[bool] = False
    from_nothing: ClassVar[bool] = True

    def __post_init__(self):
        require_flag('equal', self.equal)

    def learn(self, link: Link, signals: LinkSignals) -> PyTree:
        if link.edges[0].kind.follows:
            return {name: signals.params[name].astype(value.dtype) for name, value in signals.E.items()}
        return link.correlate(signals.E, signals.e, signals.z)
