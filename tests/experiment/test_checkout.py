import pathlib
import subprocess

import rlra_jax
from rlra_jax.experiment.checkout import commit

WHO = ('-c', 'user.name=nobody', '-c', 'user.email=nobody@example.com')


def git(folder, *arguments):
    ran = subprocess.run(['git', '-C', folder, *WHO, *arguments], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def package(folder):
    (folder / 'package').mkdir(parents=True)
    (folder / 'package' / '__init__.py').write_text('')
    return folder / 'package'


def told(folder):
    return commit.__wrapped__(folder)


def test_the_commit_and_whether_the_programs_differ_from_it(tmp_path):
    folder = package(tmp_path)
    git(tmp_path, 'init', '-q')
    git(tmp_path, 'add', '.')
    git(tmp_path, 'commit', '-q', '-m', 'first')
    first = git(tmp_path, 'rev-parse', 'HEAD')
    assert told(folder) == {'commit': first, 'dirty': False}
    (tmp_path / 'notes.txt').write_text('untracked')
    assert told(folder) == {'commit': first, 'dirty': False}
    (folder / '__init__.py').write_text('x = 1')
    assert told(folder) == {'commit': first, 'dirty': True}
    git(tmp_path, 'commit', '-q', '-a', '-m', 'second')
    assert told(folder) == {'commit': git(tmp_path, 'rev-parse', 'HEAD'), 'dirty': False}
    assert told(folder)['commit'] != first


def test_a_package_that_is_in_no_checkout_has_no_commit(tmp_path, monkeypatch):
    """Neither installed somewhere, nor in an environment inside somebody's repository, nor without git."""
    (tmp_path / 'bare').mkdir()
    assert told(package(tmp_path / 'bare')) is None
    git(tmp_path, 'init', '-q', 'theirs')
    (tmp_path / 'theirs' / 'own.py').write_text('')
    git(tmp_path / 'theirs', 'add', '.')
    git(tmp_path / 'theirs', 'commit', '-q', '-m', 'theirs')
    assert told(package(tmp_path / 'theirs' / 'site-packages')) is None
    monkeypatch.setenv('PATH', str(tmp_path))
    assert told(pathlib.Path(rlra_jax.__file__).parent) is None
