"""Level mode: the regions of one recursion level learn on different devices (the paper's "3 processors, then 5").

The forward pass is data parallel. Then, one recursion level after the other, regions that compute the same function
are stacked and spread over the mesh's 'level' axis: an all-to-all trades shares of the batch for shares of the
regions, each device finds targets, errors and updates of its own regions from all examples, and the errors that lower
levels will hear return the same way. No gradient is summed over devices along the level axis. Regions of a kind of
their own, the output among them, stay data parallel. So do synapses that follow a path, since they read activities of
several regions, and the noisy passes of the rule `Mirror`.
"""

import functools
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlra_jax.compiler import varying, varying_like
from rlra_jax.edges import Carries, Edge, LinkSignals, Wiring
from rlra_jax.learners.rec_lra import wired
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.capture import batch_size
from rlra_jax.model.net import Net
from rlra_jax.model.programs import split
from rlra_jax.parallel.dissect import INPUT, Flat, Part, check_independent, dissect, input_name, values
from rlra_jax.parallel.mesh import check_mesh, check_shares, shares
from rlra_jax.paths import refill
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.propagate import Recursion
from rlra_jax.recursion.region import Reaction, learn, react
from rlra_jax.recursion.targets import total_discrepancy
from rlra_jax.recursion.update import Context
from rlra_jax.synapses.path import find_ways
from rlra_jax.synapses.straight import Straight
from rlra_jax.types import Array, Learner, Loss, PyTree, Weights
from rlra_jax.validate import per_region
from rlra_jax.wiring.levels import settled

_SHARED = ('data', 'level')
_DEFAULTS = Options()


class Group(NamedTuple):
    """Regions of one recursion level that compute and learn alike; one alone stays data parallel."""

    regions: tuple[str, ...]
    parents: tuple[tuple[str, ...], ...]  # for each region
    params: tuple[tuple[str, ...], ...]
    edges: tuple[tuple[Edge, ...], ...]  # the straight ones


class Member(NamedTuple):
    """What a region learns from; of a group, every leaf is stacked."""

    h: Array  # [B, ...]
    z: tuple[Array, ...]  # its parents' activities
    e: tuple[Array, ...]  # its straight edges' sources' errors; of the output, none
    along: tuple[Array, ...]  # the displacement that has come along paths, if any has
    params: tuple[Array, ...]
    synapses: tuple[PyTree, ...]


class Learned(NamedTuple):
    """What it learns; of a group, every leaf is stacked."""

    params: tuple[Array, ...]
    synapses: tuple[PyTree, ...]
    e: Array
    total: Array  # [B, ...] the displacements' sum; of the output, zeros
    discrepancy: Array  # [] summed over examples


def level_update_fn(
    net: Net,
    wiring: Wiring | Callable[[Net], Wiring],
    mesh: Mesh,
    options: Options = _DEFAULTS,
    *,
    loss: Loss = softmax_cross_entropy,
    synapse_std: float = 0.05,
    allow: Collection[str] = (),
) -> Learner:
    """`update_fn` whose regions learn spread over the mesh's 'level' axis; same arguments and result.

    Batches lie as `mesh.shard_batch` puts them, weights and state on every device.

    Args:
      net: as for `update_fn`; a parameter must belong to one region.
      wiring: any.
      mesh: from `make_mesh`.
      options: as for `update_fn`.
      loss: as for `update_fn`.
      synapse_std: as for `update_fn`.
      allow: as for `update_fn`.

    Raises:
      ValueError: as `update_fn`, or the mesh is not one of `make_mesh`; at the first call also, the batch does not
        split evenly over the mesh, or the model has batch statistics, draws random numbers, has several outputs or
        Sites in a loop that JAX traces once, or several of its regions share a parameter.
    """
    check_mesh(mesh)
    wiring = settled(wiring, net)
    return wired(net, wiring, options, loss, synapse_std, allow, functools.partial(_learn, net, mesh))


def find_groups(parts: Mapping[str, Part], wiring: Wiring, options: Options) -> tuple[tuple[Group, ...], ...]:
    """Level by level, from the output (level 0) on: groups of regions."""
    kappas = per_region('kappa', options.kappa, parts)
    alphas = per_region('alpha', options.alpha, list(parts)[:-1])
    unheard = wiring.unheard
    levels = []
    for level in ((), *wiring.levels):
        found: dict[Any, list[str]] = {}
        for name in dict.fromkeys(edge.target for edge in level) or (wiring.output,):
            straight = tuple((e.kind, e.rule, parts[e.source].shape, e in unheard) for e in _straight(level, name))
            heard = straight, any(e.kind.follows for e in level if e.target == name)
            stats = parts[name].program.named('stats')  # are read by name
            found.setdefault((parts[name].signature, stats, heard, kappas[name], alphas.get(name)), []).append(name)
        levels.append(
            tuple(
                Group(
                    tuple(names),
                    tuple(parts[name].parents for name in names),
                    tuple(parts[name].params for name in names),
                    tuple(_straight(level, name) for name in names),
                )
                for names in found.values()
            )
        )
    return tuple(levels)


def _straight(level: Sequence[Edge], target: str) -> tuple[Edge, ...]:
    return tuple(edge for edge in level if edge.target == target and not edge.kind.follows)


def _learn(net: Net, mesh: Mesh, context: Context, pull: Any) -> tuple[Weights, Array]:
    """The part of an update that is spread over devices."""
    del pull
    x = context.batch[input_name(net)]
    check_shares(len(x), shares(mesh))
    parts = dissect(net, context.variables, x, context.key)
    check_independent(parts, 'level')
    levels = find_groups(parts, context.wiring, context.options)
    groups = [group for level in levels for group in level]
    params, stats = split(context.variables)
    edges = {name: E for level in context.synapses for name, E in level.items()}
    paths = {edge.synapse: edges[edge.synapse] for edge in context.wiring.edges if edge.kind.follows}
    own = context.synapses if context.wiring.own else ()
    owned = [_owned(group, params, edges, mesh.shape['level']) for group in groups]
    spread = [PartitionSpec('level') if len(group.regions) > 1 else PartitionSpec() for group in groups]
    shared = PartitionSpec(_SHARED)

    def body(owned: list[Any], known: Any, x: Array, e: Array, h: dict[str, Array]):
        return _Devices(net, mesh, context, known, x, h).learn(levels, owned, e)

    learned, along, discrepancy = jax.shard_map(
        body,
        mesh=mesh,
        in_specs=(spread, PartitionSpec(), shared, shared, shared),
        out_specs=(spread, PartitionSpec(), PartitionSpec()),
    )(owned, (params if paths else {}, stats, paths, own, context.key), x, context.e[context.wiring.output], context.h)
    everywhere = NamedSharding(mesh, PartitionSpec())
    learned = jax.lax.with_sharding_constraint(learned, everywhere)  # one all-gather per array, not one per region
    new_params = jax.tree.map(jnp.zeros_like, params)  # of regions that no error comes to
    new_edges: dict[str, PyTree] = {}
    for group, (of_params, of_edges) in zip(groups, learned, strict=True):
        for i in range(len(group.regions)):
            pick = operator.itemgetter(i if len(group.regions) > 1 else ...)
            own_params, own_edges = jax.tree.map(pick, (of_params, of_edges))
            new_params |= zip(group.params[i], own_params, strict=True)
            new_edges |= zip((edge.name for edge in group.edges[i]), own_edges, strict=True)
    for edge in context.wiring.edges:
        if edge.synapse in paths:
            E = paths[edge.synapse]
            new_edges[edge.synapse] = along[edge.synapse] if edge.rule.sums else _copied(edge, E, new_params)
    synapses = tuple({name: new_edges[name] for name in level} for level in context.wiring.synapses)
    grads = {'params': refill(context.variables['params'], new_params), 'synapses': synapses}
    return grads, discrepancy / len(x)


def _copied(edge: Edge, E: PyTree, params: Flat) -> PyTree:
    """What a path's synapse learns by a rule that sums nothing of its own: of its signals it reads no more than E."""
    nothing = Straight(edge, (1, 1), (1, 1))  # a link that the rule does not use
    return edge.rule.learn(nothing, LinkSignals(E, jnp.zeros(()), {}, {}, {}, params))


def _owned(group: Group, params: Flat, edges: Flat, ways: int) -> PyTree:
    """(parameters, synapses) of a group; of several regions, stacked and filled up with zeros to a multiple of ways."""
    members = [
        (tuple(params[path] for path in paths), tuple(edges[edge.name] for edge in heard))
        for paths, heard in zip(group.params, group.edges, strict=True)
    ]
    return _stack(members, ways) if len(members) > 1 else members[0]


def _stack(members: Sequence[PyTree], ways: int) -> PyTree:
    empty = -len(members) % ways
    return jax.tree.map(lambda *leaves: jnp.stack([*leaves, *[jnp.zeros_like(leaves[0])] * empty]), *members)


class _Devices:
    """What each device does, inside shard_map. Activities and errors are kept as shares of the batch [b, ...]."""

    def __init__(self, net: Net, mesh: Mesh, context: Context, known: Any, x: Array, h: Mapping[str, Array]):
        self.context, self.ways = context, mesh.shape['level']
        params, self.stats, self.synapses, self.whole, self.key = varying(known, _SHARED)
        self.h = h
        variables = varying(_zeros(dict(context.variables)), _SHARED)

        def parts(size: int) -> dict[str, Part]:
            like = varying(jnp.zeros((size, *x.shape[1:]), x.dtype), _SHARED)
            return dissect(net, variables, like, self.key)

        self.parts = {'share': parts(len(x)), 'whole': parts(len(x) * self.ways)}
        self.kappas = per_region('kappa', context.options.kappa, h)
        self.alphas = per_region('alpha', context.options.alpha, context.phi)
        self.z = {name: phi(h[name]).astype(self.parts['share'][name].z_dtype) for name, phi in context.phi.items()}
        self.z[INPUT] = x
        self.size = batch_size(context.batch)  # the whole batch's
        self.e: dict[str, Array] = {}
        self.d: dict[str, Array] = {}  # along paths
        self.total: dict[str, Array] = {}
        programs = {name: part.own for name, part in self.parts['share'].items()}
        self.paths = find_ways(context.wiring, programs, values(params, self.stats, self.z, self.key), _SHARED)

    def learn(self, levels: Sequence[Sequence[Group]], owned: list[Any], e: Array):
        """Level by level; returns ([(gradients of parameters, of synapses) by group], of paths, total discrepancy)."""
        wiring = self.context.wiring
        self.e[wiring.output] = e
        self.d |= self._of_own_errors()
        grads, missed = [], jnp.zeros((), e.dtype)
        left = iter(owned)
        for level, edges in zip(levels, ((), *wiring.levels), strict=True):
            for edge in edges:
                if edge.kind.follows and edge.name not in self.d:
                    sent = self.paths[edge.source].send(self.synapses[edge.synapse], self.e[edge.source])
                    self.d = sent | self.d
            for group in level:
                if len(group.regions) > 1:
                    found = self._spread(group, next(left))
                    grads.append(lax.psum((found.params, found.synapses), 'data'))
                else:
                    found = self._alone(group, next(left))
                    grads.append(lax.psum((found.params, found.synapses), _SHARED))
                missed += found.discrepancy.sum()
        return grads, lax.psum(self._along(), _SHARED), lax.psum(missed, _SHARED)

    def _of_own_errors(self) -> dict[str, Array]:
        """{edge name: displacement} of what carries own errors. These are found data parallel, before all else."""
        context = self.context
        if not context.wiring.own:
            return {}
        recursion = Recursion(context.wiring, self.whole, self.h, context.phi, context.options, self.paths)
        _, sent = recursion.own(self.e)
        return {edge.name: sent[edge.name] for edge in context.wiring.edges if edge.carries is Carries.OWN}

    def _along(self) -> dict[str, PyTree]:
        """{synapse: a share of its gradient} of paths whose rule sums over examples."""
        found = {}
        for source, path in self.paths.items():
            edge = path.edges[0]
            if not edge.rule.sums:
                continue
            e = self.e[source]
            reactions = {edge.target: self._react(edge.target) for edge in path.edges}
            grads = learn(path, self.synapses[edge.synapse], e, self.d, reactions, {})
            share = len(e) / self.size
            one = e.reshape(-1)[0]
            found[edge.synapse] = jax.tree.map(lambda g, s=share, one=one: varying_like(s * g, one), grads)
        return found

    def _react(self, name: str) -> Reaction:
        """A region's reaction, as shares of the batch; devices have found for regions of their own what it hears."""
        context = self.context
        return react(context.phi[name], self.h[name], [self.total[name]], self.alphas[name], context.options)

    def _member(self, group: Group, i: int) -> tuple[Array, tuple[Array, ...], tuple[Array, ...], tuple[Array, ...]]:
        """(h, z of the parents, e of the sources, what came along paths) of one region, as shares of the batch."""
        name = group.regions[i]
        z = tuple(self.z[parent] for parent in group.parents[i])
        paths = [edge.name for edge in self.context.wiring.edges if edge.target == name and edge.name in self.d]
        along = (functools.reduce(operator.add, (self.d[edge] for edge in paths)),) if paths else ()
        return self.h[name], z, tuple(self.e[edge.source] for edge in group.edges[i]), along

    def _alone(self, group: Group, owned: Any) -> Learned:
        params, synapses = varying(owned, _SHARED)
        found = self._region(group, 'share', Member(*self._member(group, 0), params, synapses))
        self.e[group.regions[0]], self.total[group.regions[0]] = found.e, found.total
        return found

    def _spread(self, group: Group, owned: Any) -> Learned:
        """Shares of the batch become shares of the regions, and back."""
        count = len(group.regions)
        stacked = _stack([self._member(group, i) for i in range(count)], self.ways)
        h, z, e, along = jax.tree.map(lambda a: lax.all_to_all(a, 'level', 0, 1, tiled=True), stacked)
        params, synapses = varying(owned, 'data')
        found = jax.vmap(functools.partial(self._region, group, 'whole'))(Member(h, z, e, along, params, synapses))
        edges = self.context.wiring.edges
        if any(edge.source in group.regions for edge in edges):
            self.e |= self._shares(group, found.e)
        if any(edge.target in group.regions and edge.kind.follows and edge.rule.sums for edge in edges):
            self.total |= self._shares(group, found.total)
        real = lax.axis_index('level') * len(found.discrepancy) + jnp.arange(len(found.discrepancy)) < count
        return found._replace(discrepancy=jnp.where(real, found.discrepancy, 0))

    def _shares(self, group: Group, stacked: Array) -> dict[str, Array]:
        """{region: a share of the batch}, of what devices found for their regions."""
        own = lax.all_to_all(stacked, 'level', 1, 0, tiled=True)
        return {name: own[i] for i, name in enumerate(group.regions)}

    def _region(self, group: Group, shape: str, member: Member) -> Learned:
        """Eqs. 3 to 6 for one region of the group, told as its first."""
        name, edges = group.regions[0], group.edges[0]
        part = self.parts[shape][name]
        h, of_sources, size = member.h, member.e, self.size
        if name == self.context.wiring.output:
            e = missed = self.e[name]
            total = jnp.zeros_like(e)
            news: tuple[PyTree, ...] = ()
        else:
            links = [Straight(edge, e.shape, h.shape) for edge, e in zip(edges, of_sources, strict=True)]
            heard = list(zip(links, member.synapses, of_sources, strict=True))
            d = {name: own for link, E, e in heard for name, own in link.send(E, e).items()}
            unheard = self.context.wiring.unheard
            carried = (*(d[edge.name] for edge in edges if edge not in unheard), *member.along)
            reaction = react(self.context.phi[name], h, carried, self.alphas[name], self.context.options)
            found = tuple(learn(link, E, e, d, {name: reaction}, {}) for link, E, e in heard)
            news = jax.tree.map(lambda g: g * (len(h) / size), found)
            e, total, missed = reaction.e, reaction.total, reaction.z - reaction.y
        values = dict(zip(group.parents[0], member.z, strict=True))
        out, pull = jax.vjp(
            lambda params: part.run(dict(zip(part.params, params, strict=True)), self.stats, values, self.key)[0],
            member.params,
        )
        (update,) = pull(((self.kappas[name] / size) * e).astype(out.dtype))
        discrepancy = total_discrepancy({name: missed}, self.kappas).sum()
        return Learned(update, news, e, total, discrepancy)


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)
