"""Is the model cut where it should be? No global backprop in silence."""

from collections.abc import Collection, Mapping

import jax

from rlra_jax.model.inside import made_of
from rlra_jax.model.net import Net, require_net
from rlra_jax.model.programs import cut_model
from rlra_jax.model.uses import used_in_common
from rlra_jax.paths import flatten
from rlra_jax.validate import require_paths


class Cut(dict[str, tuple[str, ...]]):
    """Parameter path, such as 'dense_1/kernel' -> the regions it reaches, in forward order.

    Attributes:
      shared: those that several regions train, as of a layer that is called several times; such a parameter gets the
        sum of their updates.
      inside: region -> the non-linear operations between its inputs and its h, which gradients pass as in backprop:
        functions of jax.nn and 'normalisation' by name, others by the primitive's, such as 'tanh'.
    """

    def __init__(self, reached: Mapping[str, tuple[str, ...]], inside: Mapping[str, tuple[str, ...]]):
        super().__init__(reached)
        self.shared = {path: regions for path, regions in reached.items() if len(regions) > 1}
        self.inside = dict(inside)

    def __repr__(self) -> str:
        return f'{super().__repr__()}, shared: {self.shared}, inside: {self.inside}'


def check_cut(net: Net, *, allow: Collection[str] | None = ()) -> Cut:
    """Finds the regions that each use of a parameter reaches without passing a Site, and raises unless it is one.

    A path that bypasses every Site (a transformer's residual stream) carries a parameter's influence into regions
    above its own, where backprop would train it: several regions then read what was computed with it once. Put a Site
    on the stream; the identity is a valid phi.

    Args:
      net: what `regions` returned.
      allow: parameter paths (or their first parts) that are meant to be trained by several regions at once; None if
        the caller allows none, and the error shall not propose it.

    Returns:
      Parameter path -> the regions it reaches; and, as its `shared` and `inside`, which parameters serve several
      regions, and which non-linear operations each region keeps.

    Raises:
      ValueError: naming the parameters and the regions they reach; the model has no Site, so that all of it would be
        one region; or allow names no parameter.
    """
    require_net(net)
    require_paths('allow', allow or ())
    variables = net.variable_shapes()
    paths = list(flatten(variables['params']))
    unknown = [name for name in allow or () if not any(_within(path, name) for path in paths)]
    if unknown:
        raise ValueError(f'`allow` names no parameter by {unknown}; the parameters are {paths}')
    cut = cut_model(net, variables, net.example, jax.random.key(0))
    made = made_of(cut)
    reached = {path: tuple(name for name, own in made.items() if path in own.params) for path in paths}
    if set(made) == set(net.outputs):
        raise ValueError(
            'the model has no Site, and all of it would be one region, trained by backprop; mark its activations with '
            'Site(phi)'
        )
    looped = {region.name for region in net if region.loops}
    several = any(len(regions) > 1 for regions in reached.values())
    common = used_in_common(cut, looped) if several or looped else set()
    wrong = {
        path: regions
        for path, regions in reached.items()
        if (not regions or path in common) and not any(_within(path, name) for name in allow or ())
    }
    if wrong:
        listing = '\n'.join(f'  {path}: {list(regions) or "no region"}' for path, regions in wrong.items())
        remedy = (
            'Put a Site (identity phi allowed) on the path that bypasses the others, compute what the steps of a loop '
            'read inside the loop, not of all at once before it, or drop parameters that are not '
        )
        remedy += 'used or that a phi holds.'
        if allow is not None:
            remedy += ' Those that several regions are meant to train can be listed in `allow`.'
        raise ValueError(
            'each use of a parameter must reach exactly one region before the first cut, but of these it does not:\n'
            f'{listing}\n{remedy}'
        )
    inside = {region: own.nonlinear for region, own in made.items()}
    return Cut(reached, inside)


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(f'{name}/')
