"""What setup.py and MANIFEST.in declare."""

import os
import pathlib
import runpy
import subprocess
import sys
import tarfile
import types

from packaging.requirements import Requirement

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
