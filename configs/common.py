"""What all configs share. A config file is `--config=configs/NAME.py`, or `--config=configs/NAME.py:key=value,...`.

The part behind the colon is read before the config is made, so that `learner=`, `rule=` and `model=` bring entries and
hyper-parameters of their own; `--config.key=value` changes one entry afterwards.
"""

import ast
from typing import Any

from ml_collections import ConfigDict, config_dict

UNITS = ('mlp', 'residual_mlp', 'elman', 'gru')  # models whose regions are no maps
_OPEN = (['learner'], ['optimizer'], ['synapse_optimizer'])  # entries that take keys of their own


def base(
    *, learner: str = 'rec_lra', rule: str = 'mirror', model: str = 'mlp', width: int = 256, depth: int = 5
) -> ConfigDict:
    """Every entry that a config has, with its default; the learner, its rule and the model settle which there are."""
    config = ConfigDict()
    config.dataset = 'digits'  # digits, mnist, fashion_mnist, cifar10, tiny_imagenet, imagenet2012
    config.data_dir = ''  # folder of prepared TFDS sets; '': $RLRA_DATA_DIR, else TFDS's own default
    config.bad_examples = 'error'  # or skip: go on without examples that cannot be read, with a warning
    config.train_examples = 0  # only the first so many; 0: all
    config.preprocess = {  # on the device, after scaling to [0, 1]
        'contrast': False,  # each image to mean 0 and standard deviation 1: global contrast normalisation
        'zca': False,  # ZCA whitening, fitted to the training images
    }
    config.augment = {  # of training images, after that
        'pad': 0,  # pixels of zeros around an image before a random crop to its old size; 0: no crop
        'flip': False,  # mirror every other image, at random
    }
    config.batch_size = 50
    config.epochs = 30
    config.seed = 0  # the first of num_seeds consecutive ones, trained side by side
    config.num_seeds = 1
    config.checkpoint_every = 1  # epochs
    config.checkpoint_steps = 0  # also within an epoch, after every so many steps; 0: no
    config.parallel = {  # where training runs, not what it computes: a run goes on under another mode or mesh
        'mode': 'data',  # data, level, stage or stream; the last three for the learner rec_lra
        'data': -1,  # devices that share the batch; -1: all that the others leave, if batch_size allows
        'level': 1,  # devices that share a recursion level's regions
        'stage': 1,  # devices that share the model's blocks
        'microbatches': 1,  # of a device's share of the batch, up the stages
    }
    config.diagnostics = False  # after each epoch: angle to backprop's gradient, alignment, saturation, ... by region
    compute = {'dtype': 'float32'}  # or bfloat16; parameters and errors stay float32
    resnet = {
        'width': 64,  # channels of the first stage
        'stem': 'cifar',  # or imagenet
        'norm': 'batch',  # batch, group or layer
        **compute,
    }
    sizes: dict[str, dict[str, Any]] = {
        'mlp': {'widths': (width,) * depth, 'init_std': 0.05},
        'elman': {'width': width, **compute},
        'gru': {'width': width, **compute},
        'residual_mlp': {'width': width, 'depth': depth, 'gap': 2, 'init_std': 0.05},
        'cnn': {'widths': (32, 32, 64, 64, 128, 128), 'strides': (1, 2, 1, 2, 1, 2), 'norm': 'layer', **compute},
        'resnet18': {'blocks': (2, 2, 2, 2), 'kernels': (3, 3), **resnet},
        'presnet18': {'blocks': (2, 2, 2, 2), 'kernels': (3, 3), **resnet},
        'resnet50': {'blocks': (3, 4, 6, 3), **resnet},
    }
    config.model = {'name': model, 'phi': 'tanh', **sizes.get(model, {})}
    maps = model not in UNITS
    options = rec_lra(rule, maps=maps) if learner == 'rec_lra' else {}
    if options and 'resnet' in model:
        # Residual networks average their last map, and errors of several levels meet where a skip does.
        options |= {'kind': 'pooled', 'normalise': True}
    config.learner = {'name': learner, **options}
    config.optimizer = optimizer('adam', 5e-4 if learner == 'rec_lra' else 1e-3, schedule='cosine')
    config.synapse_optimizer = optimizer(*_synapse_rate(learner, rule, maps), schedule='cosine')
    return config


# Between neighbouring regions a mirror hears only what it can learn: the sooner it follows W the better, and the
# response has no even part, which passes in pairs would cancel.
NEIGHBOURS = {'synapse_optimizer.learning_rate': 1.0, 'learner.mirror_antithetic': False}


def _synapse_rate(learner: str, rule: str, maps: bool) -> tuple[str, float]:
    """What trains the synapses: mirrors regress, decoders descend a loss, and Kolen-Pollack needs W's own steps."""
    if learner == 'rec_lra':
        mirror = 0.5 if maps else 0.3  # convolutions average noise over positions
        return 'sgd', mirror if rule == 'mirror' else 0.01
    return {
        'kolen_pollack': ('adam', 1e-3),
        'weight_mirror': ('sgd', 0.02),
        'target_prop': ('adam', 1e-3),
        'difference_target_prop': ('adam', 1e-3),
    }.get(learner, ('sgd', 0.01))


def optimizer(name: str, learning_rate: float, *, schedule: str = 'constant', **options: Any) -> dict[str, Any]:
    """An optimizer's entries; options are those of the optax function of that name, such as momentum."""
    return {
        'name': name,
        'learning_rate': learning_rate,
        'schedule': schedule,  # constant, cosine or polynomial, after the warm-up
        'warmup_epochs': 0,
        'end_rate': 0.0,  # where cosine and polynomial end
        'power': 1.0,  # of the polynomial
        'momentum': config_dict.placeholder(float),  # sgd and rmsprop
        'weight_decay': config_dict.placeholder(float),
        **options,
    }


def rec_lra(rule: str, *, maps: bool = False) -> dict[str, Any]:
    """The options of rec-LRA; maps: whether regions are maps, not layers of units."""
    return {
        'wiring': 'blocks',  # blocks, chain, direct, modules, reverse or time
        'gap': config_dict.placeholder(int),  # of the wiring blocks, which takes 2 unless told
        'rule': rule,  # hebbian, kp, dx, mirror or fixed
        # A mirror of many noisy units is slow to outgrow a random start, so that of a map starts near nothing.
        'synapse_std': 1e-4 if maps and rule == 'mirror' else 0.05,
        'beta': 0.1,
        'gamma': 1.0,
        'kappa': 1.0,
        'alpha': 1.0,
        'normalise': False,
        'surrogate': config_dict.placeholder(str),  # tanh for sign units
        'radius': config_dict.placeholder(float),
        'input_noise': 0.0,
        'mirror_std': 0.1,
        'mirror_every': 2,
        'mirror_antithetic': True,
        # Can be given besides: kind, of synapses; modules_per_block, of the wiring modules; through, of time.
    }


def row(
    name: str,
    algorithm: str | None,
    options: dict[str, Any],
    grid: list[dict[str, Any]],
    paper: tuple[float | None, float | None] = (None, None),
) -> dict[str, Any]:
    """A row of an experiment, as `launch.reproduce` takes it.

    Args:
      name: of the row in its experiment.
      algorithm: what the paper calls it, if it does.
      options: entries of the config.
      grid: entries to search over; a single point is not searched.
      paper: training and test error in %.
    """
    return {
        'name': name,
        'algorithm': algorithm,
        'options': options,
        'grid': grid,
        'paper_train_error': paper[0],
        'paper_test_error': paper[1],
    }


def parse(argument: str) -> dict[str, Any]:
    """'learner=backprop,model.phi=relu,epochs=5' -> {'learner': 'backprop', 'model.phi': 'relu', 'epochs': 5}.

    Raises:
      ValueError: a part is not key=value.
    """
    options = {}
    for part in _split(argument):
        key, equals, value = part.partition('=')
        if not equals or not key.strip():
            raise ValueError(f'what follows the colon of --config must be key=value,...; got {part!r}')
        try:
            options[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key.strip()] = value
    return options


def start(argument: str, **defaults: Any) -> tuple[ConfigDict, dict[str, Any]]:
    """(the base config for the learner, rule and model that an argument names, the argument's other options).

    Args:
      argument: what follows the colon of --config.
      **defaults: what `base` is called with where the argument names nothing else.

    Raises:
      ValueError: a learner, rule or model that is not a name, or a rule for another learner than rec_lra.
    """
    names, options = split(argument)
    named = parse(names)
    for key, name in named.items():
        if not isinstance(name, str):
            raise ValueError(f'{key} must be a name; got {name!r}')
    given = {**defaults, **named}
    if 'rule' in named and given.get('learner', 'rec_lra') != 'rec_lra':
        raise ValueError(f'only rec_lra has a rule; got {argument!r}')
    return base(**given), options


def split(argument: str) -> tuple[str, dict[str, Any]]:
    """(the part of an argument that names learner, rule and model, the other options): for configs made of others."""
    options = parse(argument)
    names = {key: options.pop(key) for key in ('learner', 'rule', 'model') if key in options}
    return ','.join(f'{key}={name}' for key, name in names.items()), options


def override(config: ConfigDict, options: dict[str, Any]) -> ConfigDict:
    """Sets dotted keys. Those in `_OPEN` may be new: they are arguments of a learner or optimizer, which checks them.

    Raises:
      ValueError: a key that the config does not have, or a value of another type.
    """
    for key, value in options.items():
        *parents, last = key.split('.')
        node = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, ConfigDict) else None
        if parents in _OPEN and last not in node:
            with config.unlocked():
                node[last] = value
        if not isinstance(node, ConfigDict) or last not in node:
            known = sorted(node) if isinstance(node, ConfigDict) else sorted(config)
            raise ValueError(f'the config has no key {key!r}; there are {", ".join(known)}')
        try:
            node[last] = value
        except TypeError as error:
            kept = 'entries of its own' if isinstance(node[last], ConfigDict) else repr(node[last])
            raise ValueError(f'config key {key!r} holds {kept}; {value!r} is of another type') from error
    return config


def _split(argument: str) -> list[str]:
    """Splits at commas outside parentheses: tuples are values too."""
    parts, depth = [''], 0
    for character in argument:
        depth += (character in '([') - (character in ')]')
        if character == ',' and depth == 0:
            parts.append('')
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]
