"""What nobody can mean is refused before anything is computed, in one sentence: what was expected, and what came.

Each learner has a suite of its own of this, tests/learners/test_refusals.py; and so have command lines,
tests/launch/test_bad_command_lines.py.
"""

import functools

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlra_jax
from rlra_jax import LEARNERS, Dense, Edge, Fixed, Grid, Mirror, Options, Site, parallel
from rlra_jax.experiment.data import Split, check_dataset, first_examples, load, make_dataset
from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.train import train
from rlra_jax.nn import ACTIVATIONS, CNN, MLP, MODELS, ResidualMLP, ResNet18

KEY = jax.random.key(0)
BATCH = helpers.make_batch()
MODEL = MLP(widths=(6, 6, 6), classes=4)
MAPS = {'image': jnp.zeros((2, 8, 8, 1))}


class Made:
    """A net and what is made of it, once."""

    @functools.cached_property
    def net(self):
        return rlra_jax.regions(MODEL, BATCH)

    @functools.cached_property
    def other(self):
        """One region more, and other widths."""
        return rlra_jax.regions(MLP(widths=(8,) * 4, classes=4), BATCH)

    @functools.cached_property
    def wiring(self):
        return rlra_jax.wire_blocks(self.net)

    @functools.cached_property
    def update(self):
        return rlra_jax.update_fn(self.net, self.wiring)

    @functools.cached_property
    def started(self):
        return self.update.init(KEY)

    @functools.cached_property
    def digits(self):
        return load('digits')

    def called(self, weights=None, state=None, batch=None, key=KEY, **options):
        """An update, traced, of what is given or right."""
        own, kept = self.started
        given = own if weights is None else weights, state or kept, batch or BATCH, key
        return jax.eval_shape(lambda: rlra_jax.update_fn(self.net, self.wiring, **options)(*given))

    def traced(self, loss):
        return self.called(loss=loss)

    def split(self, **changes):
        """The digits with another validation split."""
        val = self.digits.val
        changed = {name: change(np.asarray(getattr(val, name))) for name, change in changes.items()}
        return check_dataset(self.digits._replace(val=val._replace(**changed)))


MADE = Made()


def bind(model=MODEL, batch=BATCH, **call):
    return rlra_jax.regions(model, batch, **call)


class WholeParameter(nn.Module):
    @nn.compact
    def __call__(self, x):
        order = self.param('order', lambda _: jnp.arange(x.shape[-1]))
        return nn.Dense(2)(x[:, order])


def wire(*edges):
    return rlra_jax.wire(MADE.net, edges)


def edge(source, target):
    return Edge(source, target, Dense(), Fixed())


def poisoned(image):
    image = image.astype(np.float32)
    image[3, 1] = np.nan
    return image


IS_A_BATCH = 'a batch is a mapping of arrays .*; got '
IS_A_NET = r"net must be what rlra_jax.regions\(model, batch\) returns; got 'MLP'"
IS_A_KIND = r'kind must be an object such as Path\(\) or Dense\(\), or a function .*; got '
IS_A_RULE = r'needs a rule such as Mirror\(\) or KolenPollack\(\); got '
IS_A_PHI = r"phi must be a function, such as jnp.tanh or ACTIVATIONS\['tanh'\]; got "
IS_A_MESH = 'the mesh must be one as make_mesh makes it, .*; got '
IS_A_LOSS = r'loss must be a function of outputs and batch that returns \[B\]; got '
IS_AN_OPTIMIZER = 'must be an optax.GradientTransformation; got '
BOUND = {  # models, batches, calls
    'a model that is none': (lambda: bind(None), 'a model is an instance of flax.linen.Module .*; got None'),
    'a class of models': (lambda: bind(MLP), 'a model is an instance of .*; got <class'),
    'a batch in a tuple': (lambda: bind(batch=(BATCH['image'], BATCH['label'])), f'{IS_A_BATCH}tuple'),
    'a batch that is none': (lambda: bind(batch=None), f'{IS_A_BATCH}NoneType'),
    'an empty batch': (lambda: bind(batch={}), f'{IS_A_BATCH}an empty one'),
    'a number in a batch': (lambda: bind(batch={**BATCH, 'w': jnp.ones(())}), r"batch\['w'\] .*; got shape \(\)"),
    'a list in a batch': (lambda: bind(batch={**BATCH, 'label': [0, 1]}), r"batch\['label'\] .*; got list"),
    'strings in a batch': (
        lambda: bind(batch={**BATCH, 'name': np.array(['a'] * 12)}),
        r"batch\['name'\] must be an array of numbers; got dtype\('<U1'\)",
    ),
    'a batch of unlike lengths': (
        lambda: bind(batch={**BATCH, 'label': BATCH['label'][:5]}),
        "must be of one length, the examples; got {'image': 12, 'label': 5}",
    ),
    'no examples': (lambda: bind(batch={'image': jnp.zeros((0, 7))}), r'of at least one example; got \(0, 7\)'),
    'images as they are stored': (
        lambda: bind(batch={'image': jnp.zeros((3, 7), jnp.uint8)}),
        r"batch\['image'\] must be floating; got uint8",
    ),
    'a batch without images or call': (lambda: bind(batch={'x': BATCH['image']}), r"the batch holds \['x'\]"),
    'a call that is none': (lambda: bind(call='train'), "call must be a function of module and batch, .*; got 'train'"),
    'a call of one argument': (lambda: bind(call=lambda m: m), 'call must be a function of module and batch'),
    'a call that calls nothing': (lambda: bind(call=lambda m, b: None), 'the call must call the module.* made nothing'),
    'a parameter of whole numbers': (
        lambda: bind(WholeParameter()),
        r"parameters must be floating, since they learn; \['order'\] are not: keep them elsewhere",
    ),
    'a call that returns two': (lambda: bind(call=lambda m, b: (m(b['image']), 1)), 'must return a floating array'),
    'a call that returns classes': (
        lambda: bind(call=lambda m, b: m(b['image']).argmax(axis=-1)),
        r'must return a floating array \[B, ...\], here \[12, ...\], or several by name; got int32 \(12,\)',
    ),
}
MODELS_MADE = {
    'a width for widths': (lambda: bind(MLP(widths=8)), 'widths must be a sequence of whole numbers; got 8'),
    'half a width': (lambda: bind(MLP(widths=(8.5,))), 'each of widths must be a whole number .*; got 8.5'),
    'no layers': (lambda: rlra_jax.wire_blocks(bind(MLP(widths=()))), 'this model has no Site'),
    'the name of a phi': (lambda: bind(MLP(phi='tanh')), f"{IS_A_PHI}'tanh'"),
    'no phi': (lambda: bind(MLP(phi=None)), f'{IS_A_PHI}None'),
    'the name of a phi in a Site': (lambda: Site('tanh'), f"{IS_A_PHI}'tanh'"),
    'no phi in a Site of its own': (lambda: Site.of(None), f'{IS_A_PHI}None'),
    'no classes': (lambda: bind(MLP(classes=0)), 'classes must be a whole number of at least 1; got 0'),
    'weights of no size': (lambda: bind(MLP(init_std=0)), 'init_std must be a number above 0; got 0'),
    'a gap of 0 in a model': (lambda: bind(ResidualMLP(gap=0)), 'gap must be a whole number of at least 1; got 0'),
    'strides of other widths': (
        lambda: bind(CNN(widths=(8, 8), strides=(1,)), MAPS),
        r'strides must be 2, one a width; got \(1,\)',
    ),
    'an unknown norm': (lambda: bind(CNN(norm='btach'), MAPS), "norm must be .*; got 'btach'"),
    'a number of blocks': (lambda: bind(ResNet18(blocks=2), MAPS), 'blocks must be a sequence .*; got 2'),
    'an unknown stem': (lambda: bind(ResNet18(stem='x'), MAPS), "unknown stem 'x'; known: cifar, imagenet"),
    'an unknown activation': (lambda: ACTIVATIONS['tahn'], "unknown activation 'tahn'; known: tanh, "),
    'an unknown model': (lambda: MODELS['resnet'], "unknown model 'resnet'; known: resnet50, resnet18"),
}
WIRED = {
    'names for regions': (lambda: rlra_jax.wire_blocks(['a', 'b']), "joins regions, as `regions` returns .*; got 'a'"),
    'no regions': (lambda: rlra_jax.wire_chain(None), "regions must be what `regions` returned; got 'NoneType'"),
    'a model for regions': (lambda: rlra_jax.wire_blocks(MODEL), "regions must be .*; got 'MLP'"),
    'a gap of 0': (lambda: rlra_jax.wire_blocks(MADE.net, gap=0), 'gap must be a whole number .*; got 0'),
    'a gap that is true': (lambda: rlra_jax.wire_blocks(MADE.net, gap=True), 'gap must be a whole number .*; got True'),
    'a gap where there is none': (lambda: rlra_jax.wire_direct(MADE.net, gap=2), "keyword argument 'gap'", TypeError),
    'the name of a kind': (lambda: rlra_jax.wire_blocks(MADE.net, kind='dense'), f"{IS_A_KIND}'dense'"),
    'a class of kinds': (lambda: rlra_jax.wire_blocks(MADE.net, kind=Dense), f'{IS_A_KIND}<class'),
    'the name of a rule': (lambda: rlra_jax.wire_blocks(MADE.net, rule='mirror'), f"{IS_A_RULE}'mirror'"),
    'a class of rules': (lambda: rlra_jax.wire_blocks(MADE.net, rule=Mirror), f'{IS_A_RULE}<class'),
    'no cells': (lambda: Grid(cells=0), 'cells must be a whole number of at least 1; got 0'),
    'no noise': (lambda: Mirror(std=0), 'std must be a number above 0; got 0'),
    'a yes': (lambda: Mirror(antithetic='yes'), "antithetic must be True or False; got 'yes'"),
    'a name for blocks': (lambda: rlra_jax.wire_modules(MADE.net, block='b'), "block must be a function .*; got 'b'"),
    'no modules': (lambda: rlra_jax.wire_modules(MADE.net, modules_per_block=0), 'modules_per_block must be'),
    'no devices': (lambda: rlra_jax.wire_auto(MADE.net, devices=0), 'devices must be a whole number .*; got 0'),
    'names for edges': (lambda: wire('output->hidden_1'), "is made of Edges, .*; got 'output->hidden_1'"),
    'no edges': (lambda: wire(), r"no error edge reaches \['hidden_1', "),
    'an unknown region': (lambda: wire(edge('output', 'hidden_9')), "an unknown region 'hidden_9'; the model has"),
    'an edge twice': (lambda: wire(*[edge('output', 'hidden_1')] * 2), 'edge output->hidden_1 is given twice'),
    'an edge into the output': (lambda: wire(edge('hidden_1', 'output')), "leads into the output 'output'"),
    'a cycle': (
        lambda: wire(edge('output', 'hidden_3'), edge('hidden_1', 'hidden_2'), edge('hidden_2', 'hidden_1')),
        'the error pathway must be acyclic',
    ),
}
OPTIONS = {
    'a beta of 0': (lambda: Options(beta=0), 'beta must be a number above 0; got 0'),
    'a beta that is true': (lambda: Options(beta=True), 'beta must be a number above 0; got True'),
    'a beta that is no number': (lambda: Options(beta=float('nan')), 'beta must be a number above 0; got nan'),
    'a beta in quotes': (lambda: Options(beta='0.1'), "beta must be a number above 0; got '0.1'"),
    'an alpha above 1': (lambda: Options(alpha={'hidden_1': 1.5}), 'alpha must be a number from 0 to 1; got 1.5'),
    'a kappa of nobody': (
        lambda: MADE.called(options=Options(kappa={'h': 1.0})),
        r"kappa names unknown regions \['h'\]",
    ),
    'a False in quotes': (lambda: Options(normalise='False'), "normalise must be True or False; got 'False'"),
    'the name of a surrogate': (lambda: Options(surrogate='tanh'), "surrogate must be a function, .*; got 'tanh'"),
    'a ball of no size': (lambda: Options(radius=0), 'radius must be a number above 0; got 0'),
    'noise below 0': (lambda: Options(input_noise=-1), 'input_noise must be a number of at least 0; got -1'),
    'an unknown option': (lambda: Options(bata=0.1), "unexpected keyword argument 'bata'", TypeError),
    'options in a dictionary': (
        lambda: rlra_jax.update_fn(MADE.net, options={'beta': 0.1}),
        r"options must be an Options, such as Options\(beta=0.1\); got {'beta': 0.1}",
    ),
    'synapses below 0': (lambda: rlra_jax.update_fn(MADE.net, synapse_std=-1), 'synapse_std must be .*; got -1'),
    'a path for paths': (lambda: rlra_jax.update_fn(MADE.net, allow='dense_1'), "allow must be .*; got 'dense_1'"),
}
LEARNT = {  # learners, their inits and updates
    'a model for a net': (lambda: rlra_jax.update_fn(MODEL), IS_A_NET),
    'a model for the net of another learner': (lambda: LEARNERS['feedback_alignment'](MODEL), IS_A_NET),
    'a model that is looked at': (lambda: rlra_jax.check_cut(MODEL), IS_A_NET),
    'a model whose activations are sought': (lambda: rlra_jax.find_activations(MODEL), IS_A_NET),
    'a model to be summed up': (lambda: rlra_jax.summary(MODEL, MADE.wiring), IS_A_NET),
    'the name of a wiring': (
        lambda: rlra_jax.update_fn(MADE.net, 'blocks'),
        "wiring must be a Wiring, .*; got 'blocks'",
    ),
    'the name of a wiring in a summary': (lambda: rlra_jax.summary(MADE.net, 'blocks'), 'wiring must be a Wiring'),
    'a function that makes no wiring': (lambda: rlra_jax.update_fn(MADE.net, len), 'must be a Wiring; got 4'),
    'a wiring of another model': (
        lambda: rlra_jax.update_fn(MADE.net, rlra_jax.wire_blocks(MADE.other)).init(KEY),
        "an unknown region 'hidden_4'",
    ),
    'the name of a loss': (lambda: rlra_jax.update_fn(MADE.net, loss='mse'), f"{IS_A_LOSS}'mse'"),
    'no loss for another learner': (lambda: LEARNERS['backprop'](MADE.net, loss=None), f'{IS_A_LOSS}None'),
    'a mean for a loss': (lambda: MADE.traced(lambda o, b: o.mean()), r'each of the 12 examples; got shape \(\)'),
    'classes for a loss': (lambda: MADE.traced(lambda o, b: o.argmax(-1)), 'floating numbers, .*; got int32'),
    'an unknown learner': (lambda: LEARNERS['reclra'], "unknown learner 'reclra'; known: rec_lra, "),
    'a model without a Site': (lambda: rlra_jax.check_cut(bind(nn.Dense(4))), 'the model has no Site'),
    'no layers left to backprop': (lambda: LEARNERS['fa_bp'](MADE.net, last=0), 'last must be .*; got 0'),
    'a number for a key': (lambda: MADE.update.init(3), 'key must be a single key, as from .*; got 3'),
    'no key': (lambda: MADE.called(key=None), 'key must be a single key, .*; got None'),
    'several keys': (lambda: MADE.called(key=jax.random.split(KEY)), r'key must be a single key, .*; got \(2,\)'),
    'the parameters for variables': (
        lambda: MADE.update.init(KEY, MADE.started[0]['params']),
        r"variables must be what the model's init returned, {'params': ..., ...}; got \['dense_1'",
    ),
    'variables of another width': (
        lambda: MADE.update.init(KEY, MADE.other.variable_shapes()),
        r'params/dense_1/bias must be \(6,\), and is \(8,\)',
    ),
    'the parameters for weights': (
        lambda: MADE.called(MADE.started[0]['params']),
        r"weights must be {'params': ..., 'synapses': ...}, as the learner's init returns; got \['dense_1'",
    ),
    'whole numbers for weights': (
        lambda: MADE.called(jax.tree.map(lambda leaf: leaf.astype(int), MADE.started[0])),
        'params/dense_1/bias must be floating, and is int32',
    ),
    'synapses of another width': (
        lambda: MADE.called({**MADE.started[0], 'synapses': rlra_jax.update_fn(MADE.other).init(KEY)[0]['synapses']}),
        r'the synapses are not what .* must be \(6, 4\), and is \(8, 4\)',
    ),
    'no synapses': (
        lambda: MADE.called({**MADE.started[0], 'synapses': None}),
        'the synapses are not what .*: 0/output->/readout/kernel is missing',
    ),
    'a dictionary for a state': (
        lambda: MADE.called(state=MADE.started[1]._asdict()),
        "state must be the State that the learner's init returned; got dict",
    ),
    'a batch without labels': (
        lambda: MADE.called(batch={'image': BATCH['image']}),
        r"a batch holds \['image', 'label'\] here.*; got \['image'\]",
    ),
    'images of another size': (
        lambda: MADE.called(batch={**BATCH, 'image': BATCH['image'][:, :5]}),
        r'params/dense_1/kernel must be \(5, 6\), and is \(7, 6\)',
    ),
    'labels that are one-hot': (
        lambda: MADE.called(batch={**BATCH, 'label': jax.nn.one_hot(BATCH['label'], 4)}),
        r"batch\['label'\] must hold an integer class .*; got float32 \(12, 4\)",
    ),
    'labels from 1': (
        lambda: MADE.update(*MADE.started, {**BATCH, 'label': 1 + BATCH['label']}, KEY),
        'labels of 4 classes run from 0 to 3; got 1 to 4',
    ),
    'no optimizer': (lambda: rlra_jax.make_train_step(MADE.update, None), f'optimizer {IS_AN_OPTIMIZER}None'),
    'the name of an optimizer': (lambda: rlra_jax.optimizers('adam'), f"params {IS_AN_OPTIMIZER}'adam'"),
    'a rate for an optimizer': (lambda: rlra_jax.optimizers(optax.sgd(0.1), 0.3), f'synapses {IS_AN_OPTIMIZER}0.3'),
    'the name of a learner': (
        lambda: rlra_jax.make_train_step('backprop', optax.sgd(0.1)),
        "learner must be what a factory in LEARNERS returned; got 'backprop'",
    ),
    'the name of a learner to be diagnosed': (
        lambda: rlra_jax.diagnose(MADE.net, 'backprop', *MADE.started, BATCH, KEY),
        "learner must be what a factory in LEARNERS returned; got 'backprop'",
    ),
    'no norm': (lambda: rlra_jax.total_discrepancy({'a': jnp.zeros((1, 2))}, p=0.5), 'a norm needs p >= 1 and q > 0'),
}
SPREAD = {
    'more levels than devices': (lambda: parallel.make_mesh(level=999), 'a divisor of the .*; got 999'),
    'a number of devices': (lambda: parallel.make_mesh(devices=3), 'devices must be a sequence of devices, .*; got 3'),
    'no mesh': (lambda: parallel.level_update_fn(MADE.net, MADE.wiring, None), f"{IS_A_MESH}'NoneType'"),
    'a number for a mesh': (lambda: rlra_jax.summary(MADE.net, MADE.wiring, mesh=2), f"{IS_A_MESH}'int'"),
    'a model to be streamed': (lambda: parallel.stream_update_fn(MODEL, MADE.wiring), IS_A_NET),
    'the name of a wiring to be streamed': (lambda: parallel.stream_update_fn(MADE.net, 'direct'), "; got 'direct'"),
    'a batch in a tuple on a mesh': (lambda: parallel.shard_batch(parallel.make_mesh(), (1, 2)), f'{IS_A_BATCH}tuple'),
}
DATA = {
    'an unknown data set': (lambda: load('minst'), "unknown data set 'minst'; known: mnist"),
    'an unknown policy': (lambda: load('digits', bad_examples='ignore'), "one of error, skip; got 'ignore'"),
    'nothing held out': (
        lambda: make_dataset('x', MADE.digits.train, MADE.digits.test, classes=10, held_out=0, scale=1),
        'x: cannot hold 0 of 1197 training examples out',
    ),
    'labels of digits from 1': (
        lambda: MADE.split(label=lambda label: label + 1),
        'digits/val: labels of 10 classes run from 0 to 9; got 1 to 10; subtract 1',
    ),
    'images that are not finite': (
        lambda: MADE.split(image=poisoned),
        'digits/val: images must be finite; 1 of 200 are not, the first at index 3',
    ),
    'images of whole numbers': (lambda: MADE.split(image=lambda x: x.astype(int)), 'uint8 or floating; got int'),
    'images without channels': (lambda: MADE.split(image=lambda x: x[..., 0]), r'; got \(200, 8, 8\)'),
    'an empty split': (
        lambda: MADE.split(image=lambda x: x[:0], label=lambda y: y[:0]),
        'digits/val must hold at least one example; got none',
    ),
    'splits for a data set': (
        lambda: check_dataset((Split(np.zeros((1, 2, 2, 1)), np.zeros(1, int)),) * 2),
        'a data set must be a Dataset, .*; got tuple',
        TypeError,
    ),
    'half an example': (lambda: first_examples(MADE.digits, 1.5), 'train_examples must be a whole .*; got 1.5'),
    'more examples than there are': (lambda: first_examples(MADE.digits, 10**6), 'train_examples .*; got 1000000'),
    'a workdir of nothing': (lambda: restore('/nowhere'), '/nowhere must be the workdir of a run', FileNotFoundError),
    'no config': (lambda: train(None, '/nowhere'), 'a config must be an ml_collections.ConfigDict, .*; got NoneType'),
    'a config of one entry': (lambda: train({'epochs': 3}, '/nowhere'), 'the config lacks dataset, data_dir, '),
}
CASES = BOUND | MODELS_MADE | WIRED | OPTIONS | LEARNT | SPREAD | DATA


@pytest.mark.parametrize('name', CASES)
def test_what_is_refused(name):
    attempt, message, *kind = CASES[name]
    with pytest.raises(*kind or [ValueError], match=message):
        attempt()


@pytest.mark.parametrize('name', helpers.quick(LEARNERS, 'backprop', 'equilibrium_prop', 'rec_lra', 'target_prop'))
def test_labels_that_are_no_class_train_nothing_under_jit(name):
    """There nobody can look at them: loss and updates are NaN, of every example of the batch."""
    learner = LEARNERS[name](MADE.net)
    weights, state = learner.init(KEY)
    for spoil in (lambda label: label.at[3].set(4), lambda label: label.at[3].set(-1)):
        grads, _, aux = jax.jit(learner)(weights, state, {**BATCH, 'label': spoil(BATCH['label'])}, KEY)
        assert np.isnan(aux.loss)
        assert np.isnan(grads['params']['readout']['bias']).all()
    _, _, aux = jax.jit(learner)(weights, state, BATCH, KEY)
    assert np.isfinite(aux.loss)
