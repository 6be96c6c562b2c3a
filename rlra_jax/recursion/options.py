"""The hyper-parameters of rec-LRA."""

import dataclasses
from collections.abc import Mapping

from rlra_jax.types import Phi
from rlra_jax.validate import require_flag, require_number, require_phi


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The hyper-parameters of rec-LRA, checked.

    Attributes:
      beta: modulation factor of the targets (Eq. 3), above 0.
      gamma: strength of the error synapses' own update, whatever their rule (Eq. 6); 0 or more.
      kappa: scale of a region's update (Eq. 2): one number, or {region: number} with 1 for the others.
      alpha: error mixture alpha e + (1 - alpha) sign(e), 0 to 1: one number, or {hidden region: number}.
      normalise: divide each hidden error by beta. Errors shrink by beta from level to level; long chains need this to
        stay above float32's resolution, and plain SGD to give all regions steps of one size.
      surrogate: a smooth function that targets use in place of the regions' phi; None for phi itself. Errors of sign
        units are +-2 for the few that beta d carries over the threshold and 0 for the others: too noisy to follow
        Eq. 5 far. jnp.tanh tells each unit how near it was. Not differentiated either.
      radius: if given, every update with a larger Euclidean norm is scaled down to it.
      input_noise: standard deviation of Gaussian noise added to the images.

    Raises:
      ValueError: a number out of range, a flag that is neither True nor False, or a surrogate that is no function.
    """

    beta: float = 0.1
    gamma: float = 1.0
    kappa: float | Mapping[str, float] = 1.0
    alpha: float | Mapping[str, float] = 1.0
    normalise: bool = False
    surrogate: Phi | None = None
    radius: float | None = None
    input_noise: float = 0.0

    def __post_init__(self) -> None:
        require_number('beta', self.beta, 0, above=True)
        require_number('gamma', self.gamma, 0)
        if self.radius is not None:
            require_number('radius', self.radius, 0, above=True)
        require_number('input_noise', self.input_noise, 0)
        require_flag('normalise', self.normalise)
        if self.surrogate is not None:
            require_phi('surrogate', self.surrogate)
        for value in self.alpha.values() if isinstance(self.alpha, Mapping) else [self.alpha]:
            require_number('alpha', value, 0, 1)
        for value in self.kappa.values() if isinstance(self.kappa, Mapping) else [self.kappa]:
            require_number('kappa', value, 0)
