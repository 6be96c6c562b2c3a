"""Command lines that nobody can mean end in one plain line, and leave the workdir as it was."""

import json
import pathlib
import re

import in_process
import pytest

from launch import local_pod

SMALL = '--config=configs/digits.py:model.widths=(16,),num_seeds=1,checkpoint_every=1,learner=backprop,epochs=2'
TRAIN = [  # what follows the config of a run of two epochs -> the error
    ('batch_size=100000', 'batch_size must be from 1 to the 1197 training examples; got 100000'),
    ('num_seeds=0', 'num_seeds must be a whole number of at least 1; got 0'),
    ('seed=-1', 'seed must be a whole number of at least 0; got -1'),
    ('epochs=0', 'epochs must be a whole number of at least 1; got 0'),
    ('epochs=1', 'holds 2 epochs of this run; epochs must be at least that, got 1'),
    ('epochs=many', 'invalid literal for int'),
    ('epoch=3', 'the config has no such entry, or one of another type: .*epochs.*epoch=3'),
    ('checkpoint_every=0', 'checkpoint_every must be a whole number of at least 1; got 0'),
    ('train_examples=-5', 'train_examples must be a whole number of at least 0; got -5'),
    ('train_examples=5000', 'train_examples must be from 0, for all, to 1197; got 5000'),
    ('augment.pad=1000', 'augment.pad must be below 8, .*; got 1000'),
    ('augment.pad=-1', 'pad must be a whole number of at least 0; got -1'),
    ('dataset=minst', "unknown data set 'minst'; known: mnist, "),
    ('bad_examples=ignore', "bad_examples must be one of error, skip; got 'ignore'"),
    ('data_dir=/nowhere --config.dataset=mnist', 'mnist is not prepared at /nowhere'),
    ('optimizer.name=adamm', "unknown optimizer 'adamm'; known: adam, "),
    ('optimizer.learning_rate=0', 'learning_rate must be a number above 0; got 0.0'),
    ('optimizer.schedule=cosin', "unknown schedule 'cosin'; known: cosine, "),
    ('optimizer.warmup_epochs=60', 'warmup_epochs must be a step or more below the 2 epochs; got 60'),
    ('model.phi=tahn', "unknown activation 'tahn'; known: tanh, "),
    ('model.init_std=-1', 'init_std must be a number above 0; got -1'),
    ('learner.name=backpropp', "unknown learner 'backpropp'; known: backprop, "),
    ('parallel.mode=levels', "unknown parallel.mode 'levels'; known: level, "),
    ('parallel.mode=stream', "the learner of parallel.mode='stream' must be 'rec_lra'; got 'backprop'"),
    ('parallel.level=999', 'must be at most .*, the devices there are; got 999'),
    ('parallel.across=foo', "across must be one of data, level, stage; got 'foo'"),
    ('parallel.data=0', 'data must be a whole number of at least 1; got 0'),
    ('diagnostics=2', 'Non-boolean argument to boolean flag'),
    ('seed=1', r'(?s)holds a run of another config:.*seed: 0 there, 1 here.*Choose another --workdir'),
]
REC_LRA = [  # what follows the colon of --config
    ('learner.wiring=block', "unknown wiring 'block'; known: blocks, "),
    ('rule=mirrror', "unknown rule 'mirrror'; known: mirror, "),
    ('learner.kind=dens', "unknown kind of synapse 'dens'; known: dense, "),
    ('learner.bata=1', r"learner 'rec_lra' has no option \['bata'\]; it takes \['beta', "),
    ('learner.beta=0.0', r'beta must be a number above 0; got 0.0'),
    ('learner.wiring=direct,learner.gap=2', "gap must be left out, as the wiring 'direct' takes none; got 2"),
    ("learner.wiring=edges,learner.edges=('output->hidden_1')", "edges must be a sequence of .*; got 'output"),
    ('learner.wiring=edges,learner.edges=3', r"edges must be a .*, such as \('output->hidden_1',\); got 3"),
    ('learner.wiring=edges', r'edges must be a sequence of names .*; got \(\)'),
    ('optimizer.eps=x', "optimizer: eps must be a number of at least 0; got 'x'"),
    ('learner=backprop,rule=kp', "configs/digits.py:8: ValueError: only rec_lra has a rule; got 'learner=backprop,"),
    ('epochs', "configs/digits.py:8: ValueError: what follows the colon .* key=value,...; got 'epochs'"),
    ('epoch=3', "configs/digits.py:13: ValueError: the config has no key 'epoch'; there are augment, "),
    ('model.widths=8', r"config key 'model.widths' holds \(128, 128, 128\); 8 is of another type"),
    ('model=mpl', "unknown model 'mpl'; known: mlp, "),
    ('model.widths=()', 'this model has no Site'),
]
FLAGS = [  # further arguments of launch.train
    ('epochs=3', r"unexpected arguments \['epochs=3'\]; config entries are set by --config.key=value"),
    ('--nosuch=3', "Unknown command line flag 'nosuch'"),
    ('--profile=-1', '-1 is not a non-negative integer'),
    ('--profile=9999', 'profile must be at most 23, the steps of an epoch; got 9999'),
    ('--coordinator=nowhere', 'coordinator, num_processes and process_id must be given together'),
    ('--coordinator=a:1 --num_processes=2 --process_id=2', 'process_id must be from 0 to 1; got 2'),
    ('--num_processes=0', '0 is not a positive integer'),
    ('--workdir=ftp://a/b', 'ftp://a/b must be a local path, or begin with gs://'),
    ('--workdir=/dev/null', '/dev/null cannot be written'),
]
OTHERS = [
    (
        'launch.train',
        'SMALL --config.num_seeds=1000000000 --workdir=RUN-never',
        r'num_seeds must be at most \d+ here: a seed needs about .*; got 1000000000',
    ),
    ('launch.train', '', 'config must have a value'),
    ('launch.train', '--config=configs/nope.py', 'there is no config file configs/nope.py; of ours there are .*digits'),
    ('launch.train', '--config=configs/nope.py --config.epochs=3', 'there is no config file configs/nope.py'),
    ('launch.train', '--config=configs', "unknown config 'configs'; known: .*digits"),
    ('launch.train', '--config=', "unknown config ''; known: .*digits"),
    ('launch.train', '--config=configs/common.py', r'configs/common.py must define get_config\(argument\)'),
    ('launch.evaluate', '', 'workdir must have a value'),
    ('launch.evaluate', '--workdir=/nowhere', '/nowhere must be the workdir of a run; it has no config.json'),
    ('launch.evaluate', '--workdir=RUN --split=tset', 'should be one of <train.val.test>'),
    ('launch.evaluate', '--workdir=RUN --out=gs://a/b', 'gs://a/b must be a local path'),
    ('launch.evaluate', 'RUN --workdir=RUN', 'unexpected arguments '),
    ('launch.export', '', 'workdir must have a value'),
    ('launch.sample', '', 'workdir must have a value'),
    ('launch.sample', '--workdir=/nowhere', '/nowhere must be the workdir of a run; it has no config.json'),
    ('launch.sample', '--workdir=/nowhere --temperature=-1', '-1.0 is not a non-negative number'),
    ('launch.export', '--workdir=/nowhere', '/nowhere must be the workdir of a run; it has no config.json'),
    ('launch.export', '--workdir=/nowhere --out=RUN', 'the path to write must be that of a file'),
    ('launch.export', '--workdir=RUN --index=-1', '-1 is not a non-negative integer'),
    ('launch.export', '--workdir=RUN --index=1', 'index must be below 1, the number of seeds; got 1'),
    ('launch.export', 'RUN --workdir=RUN', 'unexpected arguments '),
    ('launch.compare', '', 'name the workdirs of at least one finished run'),
    ('launch.compare', '/nowhere', 'no result.json in /nowhere: finish the run, or check the path'),
    ('launch.compare', 'RUN --plot=curves', '--plot must end in a suffix that names a format'),
    ('launch.compare', 'RUN --plot=curves.foo', '--plot must end in a suffix that names a format, .*; got curves.foo'),
    ('launch.report', 'RUN --out=RUN', '--out must be a file; .* is a folder'),
    ('launch.reproduce', '', 'experiment must have a value'),
    ('launch.reproduce', '--experiment=table9', 'should be one of <cifar10.cifar10_fast'),
    ('launch.reproduce', '--experiment=table1 --rows=(', r"--rows must be a regular expression; got '\('"),
    ('launch.reproduce', '--experiment=table1 --rows=mnits', r"no row matches 'mnits'; there are \['mnist-"),
    ('launch.reproduce', '--experiment=table1 --results=gs://a/b', 'gs://a/b must be a local path'),
]
HINTS = '--help lists the flags.', '(--verbosity=0 shows where it was raised)'
LINES = [
    *(('launch.train', f'SMALL --config.{entry}', told) for entry, told in TRAIN),
    *(('launch.train', f'--config=configs/digits.py:{options}', told) for options, told in REC_LRA),
    *(('launch.train', f'SMALL {more}', told) for more, told in FLAGS),
    *OTHERS,
]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run of two epochs, and what its files hold."""
    workdir = tmp_path_factory.mktemp('run')
    status, told = in_process.launch('launch.train', SMALL, f'--workdir={workdir}')
    assert status == 0, told
    return workdir, contents(workdir)


def contents(workdir):
    return {path: path.read_bytes() for path in pathlib.Path(workdir).rglob('*') if path.is_file()}


@pytest.mark.parametrize(('module', 'line', 'message'), LINES, ids=[' '.join(line[:2]) for line in LINES])
def test_a_bad_command_line(module, line, message, run):
    workdir, held = run
    arguments = line.replace('RUN', str(workdir)).replace('SMALL', SMALL).split()
    if module == 'launch.train':
        arguments.insert(1, f'--workdir={workdir}')
    status, told = in_process.launch(module, *arguments)
    assert status == 1
    assert 'Traceback' not in told
    error, *more = [line for line in told.splitlines() if line not in HINTS]
    assert re.search(message, '\n'.join([error, *more]))
    assert not more or 'another config' in error or 'is not prepared' in error  # which list what differs, or what to do
    assert contents(workdir) == held


LACKS = 'from ml_collections import ConfigDict\ndef get_config(argument=""):\n    return ConfigDict({"epochs": 3})\n'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            'def get_config(argument=""):\n    return 3\n',
            'FILE:1: a config must be an ml_collections.ConfigDict',
        ),
        ('def get_config(argument=""):\n    return {"epochs": 3}\n', 'FILE:1: the config lacks dataset, data_dir, '),
        (LACKS, 'FILE:2: the config lacks dataset, data_dir, '),
        ('def get_config(argument=""):\n    return {"epochs": 3\n', "FILE:2: SyntaxError: '{' was never closed"),
        ('import nosuch\n', "FILE:1: ModuleNotFoundError: No module named 'nosuch'"),
        ('def get_config(argument=""):\n    return int(argument)\n', 'FILE:2: ValueError: invalid literal for int()'),
        ('def get_config(argument=""):\n    return {}["key"]\n', "FILE:2: KeyError: 'key'"),
        ('def get_config(argument=""):\n    return open("/nowhere")\n', 'FILE:2: FileNotFoundError: '),
        ('config = {}\n', 'FILE must define get_config(argument)'),
    ],
)
def test_a_config_file_that_cannot_be_used_is_told_in_one_line(tmp_path, text, message):
    file = tmp_path / 'mine.py'
    file.write_text(text)
    status, told = in_process.launch('launch.train', f'--config={file}', f'--workdir={tmp_path / "never"}')
    assert status == 1
    assert message.replace('FILE', str(file)) in told.splitlines()[0]
    assert 'Traceback' not in told
    assert not (tmp_path / 'never').exists()


def test_the_workdir_is_usable_after_all_that(run):
    """Its run is finished; with more epochs it goes on."""
    workdir, held = run
    for line, epochs in (('', 2), ('--config.epochs=3', 3)):
        status, told = in_process.launch('launch.train', SMALL, *line.split(), f'--workdir={workdir}')
        assert status == 0, told
        assert json.loads((workdir / 'result.json').read_text())['epochs'] == epochs
        assert (contents(workdir) == held) == (epochs == 2)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['0', 'launch.train'], 'processes and devices must be at least 1'),
        (['many', 'launch.train'], "invalid int value: 'many'"),
        (['2'], 'the following arguments are required: program'),
    ],
)
def test_a_bad_command_line_of_local_pod(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        local_pod.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
