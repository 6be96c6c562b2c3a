"""What starts training elsewhere: scripts, images and manifests, as far as they can be checked on one machine."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import manifests
import pytest
from absl import flags

from launch import cli, find_config
from rlra_jax.experiment import stops

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ('linter', 'files'),
    [('shellcheck', ['.ci/run', *(f'launch/{name}.sh' for name in ('pod', 'slurm'))]), ('hadolint', ['Dockerfile'])],
)
def test_linters_find_nothing(linter, files):
    program = shutil.which(linter, path=f'{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    if program is None:
        pytest.skip(f'{linter} is not installed')
    told = subprocess.run([program, *files], cwd=ROOT, capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (0, ''), told.stderr


def test_all_that_the_image_is_made_of_is_let_in_and_installs():
    """A build sees but what .dockerignore lets in; what is copied must be there, and be all that setup.py reads."""
    lines = (ROOT / '.dockerignore').read_text().splitlines()
    let_in = {line.removeprefix('!') for line in lines if line.startswith('!')}
    copied = re.findall(r'^COPY (.+) \S+$', (ROOT / 'Dockerfile').read_text(), re.MULTILINE)
    assert {name for names in copied for name in names.split()} == let_in
    assert all((ROOT / name).exists() for name in let_in)
    read = set(re.findall(r"ROOT / '([\w.]+)'", (ROOT / 'setup.py').read_text()))
    assert {*read, 'LICENSE', 'pyproject.toml', 'setup.py', 'configs', 'launch'} == let_in


def test_the_manifest_starts_the_launcher_as_it_wants_to_be():
    """Schemas of its kinds: manifests.py, by hand."""
    found = {document['kind']: document for _, document in manifests.documents()}
    assert set(found) == {'JobSet', 'ResourceFlavor', 'ClusterQueue', 'LocalQueue'}
    name, spec = found['JobSet']['metadata']['name'], found['JobSet']['spec']
    (workers,) = spec['replicatedJobs']
    job = workers['template']['spec']
    pod = job['template']['spec']
    (container,) = pod['containers']
    given = dict(argument.removeprefix('--').split('=', 1) for argument in container['args'])
    assert given['num_processes'] == str(job['completions']) == str(job['parallelism'])
    port = container['ports'][0]['containerPort']
    assert given['coordinator'] == f'{name}-{workers["name"]}-0-0.{name}:{port}'
    assert given['process_id'] == f'$({container["env"][0]["name"]})'
    assert find_config.find(given['config'].partition(':')[0]).exists()
    assert {'coordinator', 'num_processes', 'process_id'} <= {flag.name for flag in key_flags()}
    (stopped, _) = job['podFailurePolicy']['rules']
    assert stopped['onExitCodes']['values'] == [stops.STATUS]
    assert stopped['onExitCodes']['containerName'] == container['name']
    assert pod['restartPolicy'] == 'Never'  # which a podFailurePolicy needs
    volumes = {volume['name'] for volume in pod['volumes']}
    assert {mount['name'] for mount in container['volumeMounts']} == volumes
    queue = found['JobSet']['metadata']['labels']['kueue.x-k8s.io/queue-name']
    assert queue == found['LocalQueue']['metadata']['name']
    (group,) = found['ClusterQueue']['spec']['resourceGroups']
    asked = {**container['resources']['requests'], **container['resources']['limits']}
    assert set(group['coveredResources']) == set(asked)


def key_flags():
    return flags.FLAGS.get_key_flags_for_module(cli)


@pytest.mark.parametrize(('ended', 'requeued'), [(0, ''), (1, ''), (stops.STATUS, 'requeue 4711\n')])
def test_a_stopped_slurm_job_queues_again(tmp_path, ended, requeued):
    """By the status of training; the signal itself is SLURM's, which this machine does not have."""
    for name, script in (('srun', f'exit {ended}'), ('scontrol', 'echo "$@" > told')):
        (tmp_path / name).write_text(f'#!/usr/bin/env bash\n{script}\n')
        (tmp_path / name).chmod(0o755)
    environment = {'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}', 'SLURM_JOB_ID': '4711'}
    command = [ROOT / 'launch' / 'slurm.sh', 'launch.train', '--config=digits']
    assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == ended
    told = tmp_path / 'told'
    assert (told.read_text() if told.exists() else '') == requeued


def test_compiled_programs_are_kept_where_a_flag_says(tmp_path):
    """JAX's own flag, which every launcher has."""
    code = 'from launch import cli; import jax; cli.run(lambda argv: print(jax.jit(lambda x: x + 1)(1)))'
    flag = f'--jax_compilation_cache_dir={tmp_path}', '--jax_persistent_cache_min_compile_time_secs=0'
    told = subprocess.run([sys.executable, '-c', code, *flag], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert any(tmp_path.iterdir())
