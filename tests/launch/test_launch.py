"""The programs as a user starts them."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import helpers
import prepared
import pytest

from configs import digits
from rlra_jax.experiment import report
from rlra_jax.experiment.train import train

ROOT = pathlib.Path(__file__).parents[2]


def command(module, *arguments):
    return [sys.executable, '-m', module, *map(str, arguments)]


def run(module, *arguments, **environment):
    everything = {**os.environ, **environment}
    return subprocess.run(command(module, *arguments), capture_output=True, text=True, cwd=ROOT, env=everything)


def small(*more):
    return '--config=configs/digits.py:' + ','.join(['model.widths=(16,)', 'num_seeds=1', 'checkpoint_every=1', *more])


def test_train_then_compare(tmp_path):
    finished = run('launch.train', small('learner=rec_lra', 'epochs=2'), f'--workdir={tmp_path / "rec_lra"}')
    assert finished.returncode == 0, finished.stderr
    assert '| rec_lra | digits |' in finished.stdout
    told = (
        'building model and learner ...',
        r'building .* took \d+\.\d s',
        'model and error pathways:',
        'hidden_1 .*',
        'synapses / model',
        'compiling ...',
        r'compiling took \d+\.\d s',
    )
    told += (
        r'epoch 1/2: loss .* \d\d:\d\d left',
        'epoch 2/2: loss',
        'evaluating the best epoch .* data ...',
        r'evaluating .* took .* s',
    )
    assert re.search('(?s)' + '.*'.join(told), finished.stderr)
    assert '\x1b' not in finished.stdout + finished.stderr  # no colours where there is no terminal
    train(digits.get_config('learner=backprop,epochs=2,num_seeds=1'), tmp_path / 'backprop')
    saved = json.loads((tmp_path / 'rec_lra' / 'result.json').read_text())
    assert saved['command'].startswith("python -m launch.train '--config=configs/digits.py:model.widths=(16,)")
    compared = run('launch.compare', tmp_path / 'rec_lra', tmp_path / 'backprop', f'--plot={tmp_path / "c.png"}')
    assert compared.returncode == 0, compared.stderr
    assert '| backprop | digits |' in compared.stdout
    assert (tmp_path / 'c.png').exists()


@pytest.mark.full
def test_train_then_evaluate_and_export(tmp_path):
    workdir = tmp_path / 'run'
    result = train(digits.get_config('learner=backprop,epochs=2,num_seeds=2,model.widths=(16,)'), workdir)
    evaluated = run('launch.evaluate', f'--workdir={workdir}')
    assert evaluated.returncode == 0, evaluated.stderr
    assert 'digits/test, best variables of 2 epochs:' in evaluated.stdout
    assert f'| 400 | 2 | {result["test_error"]:.2f} ± ' in evaluated.stdout
    found = sorted(path.name for path in (workdir / 'evaluation').iterdir())
    assert found == ['test.json', 'test.npz', 'test.png']
    saved = json.loads((workdir / 'evaluation' / 'test.json').read_text())
    assert (saved['split'], saved['epoch'], saved['data_sha256']) == ('test', 2, result['data_sha256'])
    elsewhere = run('launch.evaluate', f'--workdir={workdir}', '--split=val', f'--out={tmp_path / "new" / "out"}')
    assert (tmp_path / 'new' / 'out' / 'val.npz').exists(), elsewhere.stderr
    exported = run('launch.export', f'--workdir={workdir}', '--index=1', f'--out={tmp_path / "model.jax"}')
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout == f'uint8[B,8,8,1] -> float32[B,10] on cpu, cuda, tpu: {tmp_path / "model.jax"}\n'
    assert (tmp_path / 'model.jax').exists()


@pytest.mark.full
def test_train_on_a_text_then_sample(tmp_path):
    """The same text for the same seed."""
    lines = b'the cat sat on the mat.\n'
    prepared.text(tmp_path, 'tiny_shakespeare', {'train': [lines * 30], 'validation': [lines], 'test': [lines]})
    options = 'quick=True,model.width=16,model.depth=1,model.context=8,train_examples=0,epochs=1,learner=backprop'
    paths = {'RLRA_DATA_DIR': str(tmp_path)}
    finished = run(
        'launch.train', f'--config=configs/shakespeare.py:{options}', f'--workdir={tmp_path / "run"}', **paths
    )
    assert finished.returncode == 0, finished.stderr
    assert 'bits a character' in finished.stderr
    assert '| test bits | perplexity |' in finished.stdout
    flags = [f'--workdir={tmp_path / "run"}', '--prompt=the ', '--length=20', '--temperature=0.9']
    one, again, other = (run('launch.sample', *flags, f'--seed={seed}', **paths) for seed in (1, 1, 2))
    assert one.returncode == 0, one.stderr
    assert one.stdout.startswith('the ')
    assert len(one.stdout) == 4 + 20 + 1
    assert one.stdout == again.stdout != other.stdout


@pytest.mark.full
def test_a_thin_cnn_trains_on_a_part_of_cifar10(tmp_path, data_dir):
    """Read, whitened, trained and evaluated; guessing gets 90 % wrong, with a standard deviation of 0.3."""
    thin = 'model.widths=(8,8,16,16,32,32),train_examples=5000,batch_size=50,epochs=2,learner=backprop'
    finished = run('launch.train', f'--config=configs/cifar10.py:{thin}', f'--workdir={tmp_path}')
    assert finished.returncode == 0, finished.stderr
    result = json.loads((tmp_path / 'result.json').read_text())
    assert result['test_error'] < 85
    assert 0 < result['test_top5_error'] < 45


FAULTY = """
import os, resource, runpy
from rlra_jax.experiment import stops
from rlra_jax.experiment.metrics import MetricsLog
write = MetricsLog.write
def then(self, epoch, *args):
    write(self, epoch, *args)
    if epoch == 4:
        FAULT
MetricsLog.write = then
runpy.run_module('launch.train', run_name='__main__')
"""


def run_with_a_fault(fault, arguments, workdir):
    """Trains; a line of Python runs once epoch 4 is in metrics.csv."""
    command = [sys.executable, '-c', FAULTY.replace('FAULT', fault), arguments, f'--workdir={workdir}']
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    ('number', 'status', 'last_word'),
    [
        pytest.param(
            signal.SIGKILL, -signal.SIGKILL, '', marks=pytest.mark.full
        ),  # test_faults.py does it in every run
        (signal.SIGINT, 75, 'stopped after epoch 4 of 12; the same command goes on from there\n'),
    ],
)
def test_stopped_and_started_again_it_resumes_to_the_same_numbers(tmp_path, number, status, last_word):
    """In the middle of training, while a checkpoint may be half written; then the same command."""
    arguments, workdir = small('epochs=12'), tmp_path / 'stopped'
    stopped = run_with_a_fault(f'os.kill(os.getpid(), {int(number)}); stops._heard.wait()', arguments, workdir)
    assert stopped.returncode == status
    assert stopped.stderr.endswith(last_word)
    assert 'Traceback' not in stopped.stderr
    assert not (workdir / 'result.json').exists()
    resumed = run('launch.train', arguments, f'--workdir={workdir}')
    assert resumed.returncode == 0, resumed.stderr
    assert 'resuming after epoch' in resumed.stderr
    _, options = arguments.split(':', 1)
    whole = train(digits.get_config(options), tmp_path / 'whole')
    assert json.loads((workdir / 'result.json').read_text())['per_seed'] == whole['per_seed']


@pytest.mark.parametrize(
    ('fault', 'reason'),
    [
        ('resource.setrlimit(resource.RLIMIT_FSIZE, (0, -1))', 'File too large'),  # what anyone may do to a disk
        pytest.param(
            'os.rename(WORKDIR, WORKDIR + "-gone")',
            'No such file or directory|the folder is gone',
            marks=pytest.mark.full,
        ),
    ],
    ids=['full', 'removed'],
)
def test_a_workdir_that_can_no_longer_be_written_is_told_in_one_line(tmp_path, fault, reason):
    """And the same command goes on once it can be."""
    arguments, workdir = small('epochs=8'), tmp_path / 'run'
    stopped = run_with_a_fault(fault.replace('WORKDIR', f'"{workdir}"'), arguments, workdir)
    assert stopped.returncode == 1
    *_, error, hint = stopped.stderr.splitlines()
    assert re.match(rf'OSError: {workdir}/\S+ cannot be written \(({reason})\); once it can, the same command', error)
    assert hint == '(--verbosity=0 shows where it was raised)'
    assert 'Traceback' not in stopped.stderr
    config = digits.get_config(arguments.split(':', 1)[1])
    assert train(config, workdir)['per_seed'] == train(config, tmp_path / 'whole')['per_seed']


def test_a_bad_command_line_ends_in_one_clear_error():
    """Many more, without a process of their own: test_bad_command_lines.py."""
    finished = run('launch.train', '--config=configs/digits.py:learner=fb')
    assert finished.returncode == 1
    assert "unknown learner 'fb'; known: " in finished.stderr.splitlines()[-2]
    assert 'Traceback' not in finished.stderr


def test_xlas_alarms_about_slow_compilation_are_not_shown():
    """Folding these constants takes XLA a few seconds, and it tells of one."""
    slow = 'jax.lax.reduce_window(jax.numpy.arange(40_000.0), 0.0, jax.lax.add, (64,), (1,), "SAME").sum()'
    code = f'import launch.cli, jax; print(jax.jit(lambda: {slow})())'
    plain = {**os.environ, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '0', 'JAX_ENABLE_COMPILATION_CACHE': '0'}
    del plain['TF_CPP_MIN_LOG_LEVEL']  # which jax set when these tests imported it
    shell = {'capture_output': True, 'text': True, 'cwd': ROOT, 'env': plain, 'timeout': 300}
    told = subprocess.run([sys.executable, '-c', code], **shell)
    assert told.returncode == 0
    assert told.stderr == ''


def test_every_key_of_a_config_is_told():
    told = run('launch.train', '--config=digits:learner=backprop', '--config.epochs=4', '--list_config')
    assert told.returncode == 0, told.stderr
    assert re.search(r'^epochs = 4 +about how often each training example is seen$', told.stdout, re.MULTILINE)
    assert told.stdout.index('\nOf other models') < told.stdout.index('\nlearner.beta ')


@pytest.mark.full
def test_a_trace_of_a_run(tmp_path):
    finished = run('launch.train', small('learner=backprop', 'epochs=1'), f'--workdir={tmp_path}', '--profile=2')
    assert finished.returncode == 0, finished.stderr
    assert f'tracing 2 steps into {tmp_path / "profile"} took' in finished.stderr
    assert len(list(tmp_path.glob('profile/plugins/profile/*/*.xplane.pb'))) == 1
    again = run('launch.train', small('learner=backprop', 'epochs=1'), f'--workdir={tmp_path}', '--profile=2')
    assert again.returncode == 1
    assert f'profile must be 0 for {tmp_path}, whose run is finished; got 2' in again.stderr


LEVELS = """
import logging
from launch import cli
def main(argv):
    for name in ('rlra_jax.experiment.train', 'another', 'absl'):
        for level in ('debug', 'info', 'warning', 'error'):
            getattr(logging.getLogger(name), level)(f'{level} of {name.partition(".")[0]}')
    raise ValueError('in vain')
cli.run(main)
"""


@pytest.mark.parametrize(
    ('verbosity', 'ours', 'theirs', 'traceback'),
    [
        (None, 'info warning error', 'warning error', False),
        (1, 'debug info warning error', 'debug info warning error', True),
        pytest.param(0, 'info warning error', 'info warning error', True, marks=pytest.mark.full),
        pytest.param(-1, 'warning error', 'warning error', False, marks=pytest.mark.full),
        pytest.param(-2, 'error', 'error', False, marks=pytest.mark.full),
    ],
)
def test_logging_levels_are_those_of_absl(tmp_path, verbosity, ours, theirs, traceback):
    (tmp_path / 'levels.py').write_text(LEVELS)
    flags = [] if verbosity is None else [f'--verbosity={verbosity}']
    paths = {**os.environ, 'PYTHONPATH': str(ROOT)}
    told = subprocess.run(
        [sys.executable, tmp_path / 'levels.py', *flags], capture_output=True, text=True, env=paths
    ).stderr
    orbax = '' if verbosity is None else theirs  # it raises what matters, and tells of that through absl's logger
    for name, levels in (('rlra_jax', ours), ('another', theirs), ('absl', orbax)):
        assert re.findall(rf'(\w+) of {name}', told) == levels.split()
    assert 'ValueError: in vain' in told
    assert ('Traceback' in told) == traceback


@pytest.mark.parametrize(
    'program', helpers.quick(['train', 'compare', 'evaluate', 'export', 'sample', 'list'], 'train', 'list')
)
def test_help_helps(program):
    module = f'launch.{program}'
    helped = run(module, '--help')
    assert helped.returncode == 0
    assert helped.stderr == ''
    assert f'python -m {module}' in helped.stdout
    if module == 'launch.train':
        flags = re.findall(r'^  --(\w+)', helped.stdout, re.MULTILINE)
        assert flags[:3] == ['config', 'workdir', 'profile']
        assert flags[-3:] == ['coordinator', 'num_processes', 'process_id']
    assert ('--coordinator' in helped.stdout) == (module == 'launch.train')


@pytest.mark.full
def test_jaxs_flags_and_a_terminal_without_the_sign_for_plus_or_minus(tmp_path):
    ascii_only = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0', 'PYTHONIOENCODING': 'ascii'}
    telling = {'PYTHONWARNDEFAULTENCODING': '1', 'PYTHONWARNINGS': 'always::EncodingWarning'}
    flags = '--jax_debug_nans', '--jax_enable_x64=True'
    two = small('epochs=1').replace('num_seeds=1', 'num_seeds=2')
    finished = run('launch.train', two, f'--workdir={tmp_path}', *flags, **ascii_only, **telling)
    assert finished.returncode == 0, finished.stderr
    assert ' ? ' in finished.stdout
    assert not [line for line in finished.stderr.splitlines() if 'EncodingWarning' in line and str(ROOT) in line]
    saved = json.loads((tmp_path / 'result.json').read_text())
    assert saved['code_sha256'] == report.code_sha256()
    assert '--jax_debug_nans --jax_enable_x64=True' in saved['command']
