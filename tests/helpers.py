"""Small nets and batches that several tests build."""

import dataclasses

import apart
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from allpairspy import AllPairs

import rlra_jax
from rlra_jax.experiment.epoch import init_runs
from rlra_jax.experiment.names import KINDS, RULES
from rlra_jax.experiment.records import Records
from rlra_jax.experiment.restore import Trained
from rlra_jax.experiment.train import prepare
from rlra_jax.nn import ACTIVATIONS
from rlra_jax.paths import flatten


def pairs(*factors):
    """Rows of one value from each factor, in which every two values of two factors meet; far fewer than all rows."""
    return [tuple(row) for row in AllPairs(list(map(list, factors)))]


def untrained(config):
    """A Trained as `restore` returns it, every seed at its start."""
    dataset, experiment, preprocess = prepare(config)
    run = jax.jit(lambda seeds: init_runs(experiment, seeds))(jnp.arange(config.num_seeds, dtype=jnp.int32))
    return Trained(config, experiment, dataset, preprocess, run, 0, None)


def quick(values, *those):
    """Values of a parametrised test, of which only those run in `make test`."""
    return [value if value in those else pytest.param(value, marks=pytest.mark.full) for value in values]


class Normed(nn.Module):
    """A net with batch statistics."""

    @nn.compact
    def __call__(self, x, train=False):
        h = nn.BatchNorm(use_running_average=not train, name='norm')(nn.Dense(6, name='dense')(x))
        return nn.Dense(4, name='readout')(rlra_jax.Site(jnp.tanh, name='hidden')(h))


class Boxed(nn.Module):
    """Five layers whose kernels name an axis of devices."""

    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, 'model'))
        for i in range(4):
            x = rlra_jax.Site(jnp.tanh, name=f'act_{i}')(nn.Dense(6, kernel_init=init)(x))
        return nn.Dense(4, kernel_init=init)(x)


class Tied(nn.Module):
    """One layer several times over; its first use has no hidden region below."""

    uses: int = 2

    @nn.compact
    def __call__(self, x):
        shared = nn.Dense(7, name='shared')
        for i in range(self.uses):
            x = rlra_jax.Site(jnp.tanh, name=f'hidden_{i + 1}')(shared(x))
        return nn.Dense(4, name='readout')(x)


class Dropping(nn.Module):
    """Three layers, each behind dropout that is always on."""

    @nn.compact
    def __call__(self, x):
        for i in (1, 2, 3):
            x = rlra_jax.Site(jnp.tanh, name=f'hidden_{i}')(nn.Dense(6)(nn.Dropout(0.5, deterministic=False)(x)))
        return nn.Dense(4)(x)


def make_batch(size=12, features=7, classes=4, seed=0, dtype=jnp.float32):
    key_image, key_label = jax.random.split(jax.random.key(seed))
    image = jax.random.normal(key_image, (size, features), dtype)
    return {'image': image, 'label': jax.random.randint(key_label, (size,), 0, classes)}


def filled(shapes, std=0.3, seed=0):
    """A tree of shapes -> Gaussian arrays, whole numbers being 0: quicker than compiling a model's initialisation."""
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(
        lambda s: jnp.asarray(draw(0, std, s.shape) * jnp.issubdtype(s.dtype, jnp.floating), s.dtype), shapes
    )


def transposed(kernel, in_front=0):
    """A convolution's kernel as a `conv_transpose` synapse with so many more taps in front, which are 0."""
    return jnp.pad(jnp.swapaxes(kernel, 2, 3), ((in_front, 0), (in_front, 0), (0, 0), (0, 0)))


def make_mlp(phi='tanh', depth=3, width=6, classes=4, seed=0, dtype=jnp.float32, gap=None, std=0.5):
    """(model, variables, batch) with weights large enough to make every nonlinearity matter."""
    batch = make_batch(classes=classes, seed=seed, dtype=dtype)
    shared = {'classes': classes, 'phi': ACTIVATIONS[phi], 'init_std': std, 'param_dtype': dtype}
    if gap is None:
        model = rlra_jax.nn.MLP(widths=(width,) * depth, **shared)
    else:
        model = rlra_jax.nn.ResidualMLP(width=width, depth=depth, gap=gap, **shared)
    variables = model.init(jax.random.key(seed + 1), batch['image'])
    return model, dict(variables), batch


def edge(source, target, kind='dense', rule='mirror'):
    """An edge whose kind and rule may be names, as in configs."""
    return rlra_jax.Edge(source, target, KINDS.get(kind, kind), RULES[rule]() if isinstance(rule, str) else rule)


def make_wiring(model, x, name, gap=2, *, kind='dense', rule='mirror'):
    """Dense synapses unless a kind is given: what the NumPy oracle has. Kind and rule may be names, as in configs."""
    rule = RULES[rule]() if isinstance(rule, str) else rule
    regions, kwargs = apart.sites(model, x), {'kind': KINDS.get(kind, kind), 'rule': rule}
    if name == 'blocks':
        return rlra_jax.wire_blocks(regions, gap=gap, **kwargs)
    return {'direct': rlra_jax.wire_direct, 'chain': rlra_jax.wire_chain}[name](regions, **kwargs)


def make_step(
    phi,
    wiring_name,
    depth,
    *,
    dtype=jnp.float64,
    gap=2,
    rule='fixed',
    kind='dense',
    residual=None,
    std=0.5,
    **options,
):
    """(model, wiring, variables, feedback, batch, update) of one rec-LRA step on a small net."""
    model, variables, batch = make_mlp(phi, depth, dtype=dtype, gap=residual)
    wiring = make_wiring(model, batch['image'], wiring_name, gap=gap, rule=rule, kind=kind)
    feedback = apart.init_feedback(jax.random.key(5), model, wiring, variables, batch['image'], std=std)
    update = apart.update_fn(model, wiring, **options)
    return model, wiring, variables, feedback, batch, update


def layers(tree):
    """A tree of Dense layers -> (kernels, biases) from the input up, in NumPy."""
    names = [*sorted((n for n in tree if n.startswith('dense_')), key=lambda n: int(n[6:])), 'readout']
    return tuple([np.asarray(tree[name][part], np.float64) for name in names] for part in ('kernel', 'bias'))


def own_weights(wiring, regions, params):
    """Synapses of a wiring of paths that equal the parameters that they stand for."""
    weights, flat = {region.name: region.weights for region in regions}, flatten(params)
    return tuple(
        {name: {path: flat[path] for path in weights[edges[0].source]} for name, edges in level.items()}
        for level in wiring.synapses
    )


def by_layer(levels):
    """An error-pathway pytree of an MLP -> {layer: array}."""
    return {int(name.rpartition('_')[2]): np.asarray(E, np.float64) for level in levels for name, E in level.items()}


def cosine(a, b):
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64) for tree in (a, b))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def make_config(**changes):
    """A small digits run: seconds, not minutes. Keys may be dotted."""
    from configs import common, digits

    return common.override(
        digits.get_config(),
        {'model.widths': (32, 32), 'epochs': 4, 'num_seeds': 2, 'checkpoint_every': 1, **changes},
    )


class FourStages(nn.Module):
    """Convolutional residual stages, each unlike the others, [B, 8, 8, 2] -> logits; two regions per stage."""

    norm: str = 'group'

    @nn.compact
    def __call__(self, x, train=False):
        def normed(h, name):
            if self.norm == 'group':
                return nn.GroupNorm(num_groups=2, name=name)(h)
            return nn.BatchNorm(use_running_average=not train, name=name)(h)

        z = x
        for stage, (width, stride) in enumerate([(4, 1), (4, 2), (6, 2), (8, 2)], start=1):
            conv = nn.Conv(
                width, (3, 3), strides=stride, use_bias=False, name=f'conv_{stage}a'
            )  # the norm would cancel it
            h = normed(conv(z), f'norm_{stage}')
            inner = rlra_jax.Site(jnp.tanh, name=f'stage_{stage}_inner')(h)
            h = nn.Conv(width, (3, 3), name=f'conv_{stage}b')(inner)
            skip = nn.Conv(width, (1, 1), strides=stride, name=f'skip_{stage}')(z)
            z = rlra_jax.Site(jnp.tanh, name=f'stage_{stage}')(h + skip)
        return nn.Dense(4, name='readout')(z.mean(axis=(1, 2)))


def make_four_stages(norm='group', size=8):
    """(model, variables, batch, train_kwargs)."""
    model = FourStages(norm)
    batch = {**make_batch(size), 'image': jax.random.normal(jax.random.key(3), (size, 8, 8, 2))}
    return model, dict(jax.jit(model.init)(jax.random.key(0), batch['image'])), batch, {'train': True}


def make_deep(name, size=16):
    """(model, variables, batch, wiring of rule kp) of a thin 'resnet' or 'presnet' of four unlike stages, or of a
    transformer 'encoder', [B, 8, 8, 2] -> 4 logits."""
    if name == 'encoder':
        model = zoo.Encoder()
    else:
        make = {'resnet': rlra_jax.nn.ResNet18, 'presnet': rlra_jax.nn.PResNet18}[name]
        model = make(classes=4, width=4, blocks=(1, 1, 1, 1), norm='group', phi=jnp.tanh)
    x = jax.random.normal(jax.random.key(3), (size, 8, 8, 2))
    wire = rlra_jax.wire_direct if name == 'encoder' else rlra_jax.wire_modules
    wiring = wire(apart.sites(model, x), rule=rlra_jax.KolenPollack())
    return model, dict(jax.jit(model.init)(jax.random.key(0), x)), {**make_batch(size), 'image': x}, wiring


def make_skips(blocks=3, rule='kp', size=16, overlap=0, rest=None, read=None):
    """(model, variables, batch, wiring) of blocks of two regions; the output reads all their ends, or those of `read`.

    Inside blocks half of the channels send their errors; with `overlap` the lowest region also to the block below. With
    `rest`, a rule, ends of blocks learn by it what does not come straight.

    With rule 'mirror' the regions that it does not read hear it, too, by synapses that learn from noise; what comes of
    that to the output comes over the others as well.
    """
    batch = make_batch(size)
    plain = rlra_jax.regions(rlra_jax.nn.ResidualMLP(width=6, depth=2 * blocks, gap=2, classes=4), batch)
    net = rlra_jax.nn.with_readouts(plain, [f'hidden_{2 * i}' for i in read or range(1, blocks)])
    along = rlra_jax.KolenPollack()
    wiring = rlra_jax.wire_modules(
        net, block=lambda name: (int(name[7:]) + 1) // 2, rule=along, sends=0.5, overlap=overlap, rest=rest
    )
    if rule == 'mirror':
        edges = rlra_jax.wire_direct(net, rule=rlra_jax.Mirror()).edges
        wiring = rlra_jax.wire(net, [dataclasses.replace(e, rule=along) if e.kind.follows else e for e in edges])
    return net.model, filled(dict(net.model.init(jax.random.key(0), batch['image'])), 0.5), batch, wiring


def assert_updates_agree(expected, came, tolerance=2e-5):
    """Every leaf within the tolerance times the leaf's largest entry."""
    assert jax.tree.structure(expected) == jax.tree.structure(came)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(came), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * max(float(np.abs(a).max()), 1e-30))


class ConvNet(nn.Module):
    """Strided and padded convolutions, a residual sum and a readout."""

    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.tanh, name='hidden_1')(nn.Conv(4, (3, 3), name='conv_1')(x))
        h = nn.Conv(4, (3, 3), name='conv_2')(z) + z
        z = rlra_jax.Site(jnp.tanh, name='hidden_2')(h)
        z = rlra_jax.Site(jnp.tanh, name='hidden_3')(nn.Conv(6, (3, 3), strides=2, padding='VALID', name='conv_3')(z))
        return nn.Dense(3, name='readout')(z.reshape(len(z), -1))


def make_conv():
    x = jax.random.normal(jax.random.key(0), (5, 9, 9, 2))
    batch = {'image': x, 'label': jnp.arange(5) % 3}
    model = ConvNet()
    return model, dict(model.init(jax.random.key(1), x)), batch


def run_learner(learner, variables, batch, feedback=None):
    """(grads, feedback, aux) of one jitted update."""
    feedback = learner.init(jax.random.key(2), variables, batch) if feedback is None else feedback
    return jax.jit(learner.update)(variables, feedback, batch, jax.random.key(3))


def gradient(model, variables, batch):
    """What backprop gives."""
    return run_learner(apart.make_learner('backprop', model, batch['image']), variables, batch)[0].params


class Kept(Records):
    """Records whose source is a Split: what stepwise training sees then, scanned training sees too."""

    @property
    def shape(self):
        return self.source.shape

    def read(self, place, key):
        if place < 0:
            return {'image': np.zeros_like(self.source.image[0]), 'label': np.int32(-1)}
        return {name: getattr(self.source, name)[self.indices[place]] for name in ('image', 'label')}


def kept(dataset):
    """The data set with Records for arrays."""
    splits = {name: getattr(dataset, name) for name in ('train', 'val', 'test')}
    records = {n: Kept(n, split, range(split.size), dataset.classes, 0) for n, split in splits.items()}
    return dataset._replace(**records)
