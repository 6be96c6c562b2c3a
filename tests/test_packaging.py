"""What setup.py and MANIFEST.in declare, and what an installed wheel does."""

import json
import os
import pathlib
import runpy
import subprocess
import sys
import tarfile
import types

import pytest
import strict_user
from packaging.requirements import Requirement

import rlra_jax
from rlra_jax.experiment.report import code_sha256

ROOT = pathlib.Path(__file__).parents[1]


def requirements(monkeypatch):
    """Of the package and all its extras."""
    declared = {}
    stand_in = types.SimpleNamespace(setup=declared.update, find_packages=lambda **_: [])
    monkeypatch.setitem(sys.modules, 'setuptools', stand_in)
    runpy.run_path(str(ROOT / 'setup.py'))
    extras = declared['extras_require'].values()
    return [Requirement(line) for lines in (declared['install_requires'], *extras) for line in lines]


def test_every_requirement_has_the_floor_that_is_tested(monkeypatch):
    declared = {f'{r.name}{r.specifier}' for r in requirements(monkeypatch)}
    tested = {line for line in (ROOT / 'tests' / 'floors.txt').read_text().splitlines() if not line.startswith('#')}
    assert {line.replace('>=', '==') for line in declared} == tested


def test_extras_for_both_versions_of_cuda(monkeypatch):
    extras = {extra for r in requirements(monkeypatch) for extra in r.extras}
    assert extras - {'epath'} == {'cuda12', 'cuda13', 'tpu'}


def test_tests_run_from_a_source_archive(tmp_path):
    """It has all that git tracks."""
    command = [sys.executable, 'setup.py', '-q', 'egg_info', '-e', tmp_path, 'sdist', '-d', tmp_path]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (archive,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / 'unpacked', filter='data')
    (unpacked,) = (tmp_path / 'unpacked').iterdir()
    if (ROOT / '.git').exists():
        listed = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert [path for path in listed.splitlines() if not (unpacked / path).exists()] == []
    some = 'tests/recursion/test_targets.py', 'tests/test_configs.py'
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *some]
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    finished = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


HEAVY = (
    'cv2',
    'grain',
    'matplotlib',
    'optuna',
    'orbax',
    'sklearn',
    'tensorboardX',
    'tensorflow',
    'tensorflow_datasets',
)


def test_import_brings_nothing_heavy():
    code = f'import sys, rlra_jax; print([name for name in {HEAVY} if name in sys.modules])'
    told = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ('[]\n', '')


@pytest.mark.full
def test_the_program_that_mypy_checks_strictly_runs():
    assert 0 < strict_user.main() < 10


def test_one_version_is_told_everywhere():
    newest = next(line for line in (ROOT / 'CHANGELOG.md').read_text().splitlines() if line.startswith('## '))
    assert newest.split()[1] == rlra_jax.__version__


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """The folder that a wheel of this checkout was installed into, without what it requires."""
    pytest.importorskip('setuptools', minversion='77.0.3', reason='older ones need the package wheel to make one')
    tmp = tmp_path_factory.mktemp('wheel')
    steps = ['egg_info', '-e', tmp, 'build', '-b', tmp / 'build', 'bdist_wheel', '-d', tmp / 'dist']
    made = subprocess.run([sys.executable, 'setup.py', '-q', *steps], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (wheel,) = (tmp / 'dist').glob('*.whl')
    pip = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check', 'install', '--no-deps', '--no-index']
    done = subprocess.run([*pip, f'--target={tmp / "site"}', wheel], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tmp / 'site'


def alone(installed, folder, program, *arguments):
    """What a console script says in an empty folder, with the wheel and nothing of the checkout on the path."""
    everything = {**os.environ, 'PYTHONPATH': str(installed)}
    command = [sys.executable, installed / 'bin' / program, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=everything, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SMALL = '--config=digits:model.widths=(16,),num_seeds=1,epochs=1'


def test_a_wheel_alone_serves_from_training_to_tuning(installed, tmp_path, record_property):
    """`make test` prints what its console scripts say."""
    pytest.importorskip('optuna', reason="pip install 'rlra_jax[tune]'")
    log = {
        ' '.join(map(str, command)): alone(installed, tmp_path, *command)
        for command in (
            ('rlra-train', SMALL, '--workdir=run'),
            ('rlra-evaluate', '--workdir=run'),
            ('rlra-export', '--workdir=run'),
            ('rlra-report', 'run', '--out=run.html'),
            ('rlra-tune', SMALL, '--trials=1', '--study=tuned'),
        )
    }
    record_property('log', '\n'.join(f'$ {command}\n{told}' for command, told in log.items()))
    for told, wanted in zip(log.values(), ('| rec_lra | digits |', 'digits/test', 'run/model.jax'), strict=False):
        assert wanted in told
    saved = json.loads((tmp_path / 'run' / 'result.json').read_text())
    assert saved['command'] == f"rlra-train '{SMALL}' --workdir=run"
    assert (saved['code_sha256'], saved['git']) == (code_sha256(), None)
    assert '<html' in (tmp_path / 'run.html').read_text()
    assert len(json.loads((tmp_path / 'tuned' / 'front.json').read_text())['trials']) == 1


@pytest.mark.full
def test_a_wheel_lists_compares_and_explains(installed, tmp_path):
    assert '  table2a ' in alone(installed, tmp_path, 'rlra-list', 'experiments')
    alone(installed, tmp_path, 'rlra-train', SMALL, '--workdir=run')
    assert 'curves.png' in alone(installed, tmp_path, 'rlra-compare', 'run', '--plot=curves.png')
    assert 'rlra-reproduce --experiment=table1 --quick' in alone(installed, tmp_path, 'rlra-reproduce', '--help')


@pytest.mark.full
def test_a_wheel_takes_config_files_of_ones_own(installed, tmp_path):
    (tmp_path / 'mine.py').write_text(
        'from rlra_jax.configs import common, digits\n'
        'def get_config(argument=""):\n'
        '    return common.override(digits.get_config("num_seeds=1,epochs=1"), common.parse(argument))\n'
    )
    chosen = '--config=mine.py:model.widths=(16,)'
    assert '| digits |' in alone(installed, tmp_path, 'rlra-train', chosen, '--workdir=run')
