"""Is the model cut where it should be? No global backprop in silence."""

from collections.abc import Collection, Mapping

from rlra_jax.model.inside import made_of
from rlra_jax.model.net import Net, require_net
from rlra_jax.paths import flatten
from rlra_jax.validate import require_paths


class Cut(dict[str, tuple[str, ...]]):
    """Parameter path, such as 'dense_1/kernel' -> the regions it reaches, in forward order.

    Attributes:
      inside: region -> the non-linear operations between its inputs and its h, which gradients pass as in backprop:
        functions of jax.nn and 'normalisation' by name, others by the primitive's, such as 'tanh'.
    """

    def __init__(self, reached: Mapping[str, tuple[str, ...]], inside: Mapping[str, tuple[str, ...]]):
        super().__init__(reached)
        self.inside = dict(inside)

    def __repr__(self) -> str:
        return f'{super().__repr__()}, inside: {self.inside}'


def check_cut(net: Net, *, allow: Collection[str] | None = ()) -> Cut:
    """Traces which regions each parameter reaches without passing a Site, and raises unless it is exactly one.

    A path that bypasses every Site (a transformer's residual stream) carries a parameter's influence into regions
    above its own, where backprop would train it. Put a Site on the stream; the identity is a valid phi.

    Args:
      net: what `regions` returned.
      allow: parameter paths (or their first parts) that are meant to be trained by several regions at once; None if
        the caller allows none, and the error shall not propose it.

    Returns:
      Parameter path -> the regions it reaches; and, as its `inside`, which non-linear operations each region keeps.

    Raises:
      ValueError: naming the parameters and the regions they reach; or the model has no Site, so that all of it would
        be one region.
    """
    require_net(net)
    require_paths('allow', allow or ())
    variables = net.variable_shapes()
    paths = list(flatten(variables['params']))
    unknown = [name for name in allow or () if not any(_within(path, name) for path in paths)]
    if unknown:
        raise ValueError(f'`allow` names no parameter by {unknown}; the parameters are {paths}')
    reached: dict[str, list[str]] = {path: [] for path in paths}
    made = made_of(net, variables)
    if set(made) == set(net.outputs):
        raise ValueError(
            'the model has no Site, and all of it would be one region, trained by backprop; mark its activations with '
            'Site(phi)'
        )
    for region, own in made.items():
        for path in own.params:
            reached[path].append(region)

    wrong = {
        path: regions
        for path, regions in reached.items()
        if len(regions) != 1 and not any(_within(path, name) for name in allow or ())
    }
    if wrong:
        listing = '\n'.join(f'  {path}: {regions or "no region"}' for path, regions in wrong.items())
        remedy = (
            'Put a Site (identity phi allowed) on the path that bypasses the others, or drop parameters that are not '
        )
        remedy += 'used or that a phi holds.'
        if allow is not None:
            remedy += ' Those that several regions are meant to train can be listed in `allow`.'
        raise ValueError(
            f'each parameter must reach exactly one region before the first cut, but these do not:\n{listing}\n{remedy}'
        )
    inside = {region: own.nonlinear for region, own in made.items()}
    return Cut({path: tuple(regions) for path, regions in reached.items()}, inside)


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(f'{name}/')
