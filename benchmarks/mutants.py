"""What tests notice: breaks the equations, the recursion, rules, synapses, capture and parallel modes, one at a time.

  python -m benchmarks.mutants
  python -m benchmarks.mutants --files=recursion/targets.py --jobs=1
  python -m benchmarks.mutants --files=recursion/targets.py --again   # after new tests

Each fault (`mutate.py`, and those of BY_HAND) is put into a copy of the tree, where the tests of its file run until one
fails. Prints the faults that none notices, and writes results/mutants.json. Files of ALGORITHM get every fault, and for
what `make test` does not notice the tests of `make test-full`; those of OTHERS get at most --most, evenly spread, and
the tests of `make test`. Not under Windows.
"""

import argparse
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NoReturn

import chex  # noqa: F401 what every child would import
import flax.linen
import flax.nnx  # noqa: F401
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import pytest
from tqdm import tqdm

from benchmarks.cases import replace_rows
from benchmarks.mutate import Mutant, by_hand, mutants
from rlra_jax.experiment import report

ROOT = pathlib.Path(__file__).parents[1]
TREE = 'rlra_jax', 'tests', 'configs', 'benchmarks', 'launch', 'pyproject.toml'
PROPAGATE, UPDATE, MIRROR = 'recursion/test_propagate.py', 'recursion/test_update.py', 'rules/test_mirror.py'
ORACLE, START = 'test_oracles.py::test_oracle_1_in_float32', 'recursion/test_start.py'
RULES = 'rules/test_rules.py'
SHALLOW, LOOPS, PATH = 'test_shallow.py', 'test_loops.py', 'synapses/test_path.py'
ALGORITHM = {  # file -> tests, those that notice most first; hours would pass with all of them
    'recursion/targets.py': ['recursion/test_targets.py', f'{UPDATE}::test_aux_reports_loss_error_and_discrepancy'],
    'recursion/propagate.py': [PROPAGATE, UPDATE, START, SHALLOW, LOOPS],
    'recursion/loop.py': [LOOPS],
    'recursion/update.py': [
        *(UPDATE, 'test_randomness.py', PROPAGATE, f'{MIRROR}::test_runs_every_so_many_steps_only'),
        f'{MIRROR}::test_noisy_passes_drop_what_the_clean_pass_drops_between_regions',
        'test_recurrent.py::test_calls_with_the_same_parameters_share_their_synapse',
        f'{PATH}::test_regions_that_share_a_parameter_share_its_synapse',
    ],
    'recursion/start.py': [
        *(START, SHALLOW, 'test_randomness.py', f'{PATH}::test_regions_that_share_a_parameter_share_its_synapse'),
        'model/test_check_phi.py::test_wirings_are_made_for_models_whose_phi_fits',
        f'{MIRROR}::test_runs_every_so_many_steps_only',
    ],
    'rules/dx.py': [PROPAGATE, RULES],
    'rules/fixed.py': [RULES, ORACLE],
    'rules/hebbian.py': [PROPAGATE],
    'rules/kolen_pollack.py': [PROPAGATE, START, RULES],
    'rules/mirror.py': [RULES, f'{MIRROR}::test_runs_every_so_many_steps_only', START, 'test_train_step.py'],
    'rules/noisy_passes.py': ['rules/test_mirror_noise.py', 'test_randomness.py', MIRROR],
    'loss.py': ['test_loss.py', UPDATE, 'test_bad_inputs.py::test_labels_that_are_no_class_train_nothing_under_jit'],
}
STRAIGHT = ['synapses/test_straight.py', 'rules/test_mirror_noise.py', MIRROR]
BLOCKS = ['parallel/test_blocks.py', 'parallel/test_stream.py', 'parallel/data_and_levels.py', 'parallel/stages.py']
DEFAULTS = 'parallel/test_stream.py::test_what_is_not_told_is_as_in_the_plain_update'
OTHERS = {
    **{f'synapses/{kind}.py': STRAIGHT for kind in ('channel', 'conv_transpose', 'dense', 'grid', 'straight', 'token')},
    'synapses/path.py': [
        START,
        PATH,
        'synapses/test_sends.py',
        MIRROR,
        'parallel/stages.py::test_stage_pipeline',
    ],
    'model/capture.py': [
        'model/test_capture.py',
        'model/test_capture_refusals.py',
        'model/test_outputs.py',
        'model/test_calls.py',
        'test_loops.py::test_scanned_layers_learn_as_one_by_one',
        'test_oracles.py::test_oracle_1_in_float32',
    ],
    'model/sparse.py': ['synapses/test_sends.py'],
    'parallel/shares.py': ['parallel/test_shares.py', *BLOCKS[1:]],
    **{
        f'parallel/{name}.py': BLOCKS
        for name in ('block_noise', 'blocks', 'forward_pass', 'block_update', 'setting', 'stream')
    },
    **{f'parallel/{name}.py': [DEFAULTS, *BLOCKS[2:]] for name in ('level', 'stage', 'stage_work', 'pipeline')},
}
BY_HAND = [  # faults that once went unnoticed, and that no operator makes
    ('recursion/propagate.py', "per_region('alpha', options.alpha, phi)", "per_region('alpha', 1.0, phi)"),
    (
        'recursion/update.py',
        'key_input, _, key_mirror = jax.random.split(key, 3)',
        'key_input = key_mirror = jax.random.split(key, 3)[0]',
    ),
    ('recursion/update.py', 'batch, rngs=key, leave=leave', 'batch, rngs=key_mirror, leave=leave'),
    ('recursion/update.py', 'x + std * jax', 'x + std**2 * jax'),
    ('recursion/update.py', 'batch = add_noise(batch, options.input_noise, key_input)', 'pass'),
    ('recursion/start.py', 'keys[edge], source', 'key, source'),
    ('rules/noisy_passes.py', 'jax.random.split(pass_key, len(tiles))', '[pass_key] * len(tiles)'),
    ('rules/noisy_passes.py', 'jax.random.split(key, len(groups))', '[key] * len(groups)'),
    ('rules/noisy_passes.py', 'max(top.get(edge.target, 0), place[edge.source])', 'place[edge.source]'),
    ('synapses/conv_transpose.py', 'dtype = jnp.result_type(E, z)', 'dtype = z.dtype'),
    ('synapses/straight.py', 'pull(e.astype(seen.dtype))', 'pull(e.astype(jnp.bfloat16).astype(seen.dtype))'),
    ('synapses/path.py', 'e.astype(self._back.out.dtype)', 'e.astype(jnp.bfloat16).astype(self._back.out.dtype)'),
]
NO_DIFFERENCE = [  # faults that change no result: file, what stands in their line, what they do there, why
    ('recursion/targets.py', 'return e if alpha ==', ' 1 -> 2', '1 e + 0 sign(e) is e: it saves arithmetic'),
    ('recursion/targets.py', 'return e if alpha ==', '-> (alpha * e', '1 e + 0 sign(e) is e: it saves arithmetic'),
    ('recursion/targets.py', 'total if p == q', '-> (total ** (q / p))', 'a power of 1: the branch saves it'),
    ('recursion/propagate.py', 'min(shrink, 1.0) ** levels', '< -> <=', 'a warning, whose bound is no exact one'),
    ('recursion/propagate.py', 'if known is not None', '-> (recursion.own', 'the same displacements, computed again'),
    ('recursion/update.py', 'if not any(edge.kind.follows', '-> False', 'the branch spares a trace'),
    ('recursion/update.py', 'maps = {', '> -> >=', 'which errors XLA is told to keep: their values stay'),
    ('recursion/update.py', 'maps = {', '2 -> 3', 'which errors XLA is told to keep: their values stay'),
    ('recursion/update.py', 'x + std * jax', '+ -> -', 'noise is as likely as its negative'),
    ('recursion/update.py', 'if every == 1 else', '-> (jax.lax.cond', 'all steps are every first one'),
    ('recursion/update.py', 'largest > radius', '> -> >=', 'at the rim both are the same'),
    ('recursion/loop.py', 'jnp.zeros_like(widen', 'widen(self', 'a signal has the bits of its loop either way'),
    ('recursion/loop.py', '_answering(phi, alpha', '-> (_answering', 'nobody asks for signals of regions outside'),
    ('rules/noisy_passes.py', 'if rule is None', '-> False', 'without noisy edges no pass has any'),
    ('rules/noisy_passes.py', 'if edges:', '-> True', 'a pass without edges learns nothing'),
    ('rules/noisy_passes.py', 'top[edge.target] = max', ' 0 -> 1', 'a source is not the first of all regions'),
    ('rules/noisy_passes.py', 'reach = max(reach', '0 -> 1', 'no region lies below the first'),
    ('rules/noisy_passes.py', 'xi = std * _coins', '* -> /', 'coins are 1 or -1'),
    ('rules/noisy_passes.py', 'if tiles < n', '-> True', 'a tile of one position is spread over it'),
    ('rules/noisy_passes.py', 'if tiles < n', '< -> <=', 'a tile of one position is spread over it'),
    ('rules/noisy_passes.py', 'words = jax.random.bits', '// -> *', 'more words than are read'),
    ('recursion/start.py', 'with_axes(jax.eval_shape', '0 -> 1', 'no number is drawn with this key'),
    ('recursion/start.py', 'shared(wiring, drawn', '0 -> 1', 'of several draws any will do'),
    ('loss.py', 'losses * jnp.where(inside', '* -> /', 'by 1 or by NaN'),
    ('loss.py', 'even = -jax', '-1 -> (1)', 'the mean over the other axes follows'),
    ('rules/dx.py', 'start=jnp.zeros', 'zeros -> ones', 'a constant has no derivative'),
    ('synapses/straight.py', 'return jax.eval_shape(lambda key', '1.0 -> 2.0', 'of what it draws the shape is read'),
    ('synapses/straight.py', 'return jax.eval_shape(lambda key', '0 -> 1', 'no number is drawn with this key'),
    ('synapses/straight.py', 'point = functools.reduce', 'sum -> mean', 'a linear map is the same at any point'),
    ('synapses/path.py', 'unmet = {', 'zeros_like -> ones_like', 'these parameters no error meets'),
    ('synapses/path.py', 'if not self._across', '-> False', 'a mean over no axes'),
    ('model/sparse.py', 'size = jnp.abs(signal)', 'sum -> mean', 'each channel has as many numbers'),
    ('parallel/setting.py', 'start: Array | int = 0', '0 -> 1', 'a slice of the whole batch begins nowhere else'),
    ('parallel/block_update.py', 'h = {name: widen', '-> (outputs)', 'of the outputs the shape is read'),
    ('parallel/block_update.py', 'if mirroring is not None and', 'and -> or', 'blocks without noisy edges learn none'),
    ('parallel/level.py', 'jax.tree.map(lambda *leaves: jnp.stack', '0 -> 1', 'of what fills up the shape is read'),
    ('parallel/level.py', 'one = e.reshape', '0 -> 1', 'of this number only the type is read'),
    ('parallel/pipeline.py', 'arriving = self._varying', '0 -> 1', 'of microbatches of one size one tells the size'),
    ('parallel/pipeline.py', 'jnp.zeros(a.shape, a.dtype)), jax.eval', 'zeros -> ones', 'nobody reads it'),
]
UNNOTICED = pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED


class Recorder:
    """Knows the first test that failed."""

    failed = ''

    def pytest_runtest_logreport(self, report):
        """Called by pytest after each part of a test."""
        self.failed = self.failed or (report.nodeid if report.failed else '')


def listed(file: str, most: int) -> list[Mutant]:
    """The faults of a file."""
    source = (ROOT / 'rlra_jax' / file).read_text()
    found = mutants(file, source)
    if file not in ALGORITHM and len(found) > most:
        found = [found[i * len(found) // most] for i in range(most)]
    return [by_hand(*fault[:1], source, *fault[1:]) for fault in BY_HAND if fault[0] == file] + found


def run(faults: Sequence[Mutant | str], folder: pathlib.Path, jobs: int) -> Iterator[tuple[Mutant | str, str]]:
    """(fault, the test that notices it or what else does; '' for none), in the order in which they end.

    Args:
      faults: a file in the place of one runs its tests without any.
      folder: for copies of the tree.
      jobs: how many run at a time, each in a copy of its own.
    """
    free = [folder / f'copy_{i}' for i in range(jobs)]
    for copy in free:
        for name in TREE:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    busy: dict[int, tuple[pathlib.Path, Mutant | str]] = {}
    waiting = list(reversed(faults))
    while waiting or busy:
        while waiting and free:
            copy, fault = free.pop(), waiting.pop()
            if (child := os.fork()) == 0:
                attempt(fault, copy)
            busy[child] = copy, fault
        child, status = os.wait()
        copy, fault = busy.pop(child)
        free.append(copy)
        told = (copy / 'told').read_text() if os.waitstatus_to_exitcode(status) == 0 else 'the process ends'
        yield fault, told


def attempt(fault: Mutant | str, copy: pathlib.Path) -> NoReturn:
    """Runs the tests of a file in a copy of the tree, with a fault or without, and writes what notices it; ends."""
    file = fault if isinstance(fault, str) else fault.file
    source = (ROOT / 'rlra_jax' / file).read_text()
    (copy / 'rlra_jax' / file).write_text(source if isinstance(fault, str) else fault.applied(source))
    for name in [name for name in sys.modules if name.partition('.')[0] in ('rlra_jax', 'benchmarks', 'launch')]:
        del sys.modules[name]  # the copy's are wanted
    os.chdir(copy)
    sys.path[:0] = [str(copy)]
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    if any(test.startswith('parallel/') for test in (ALGORITHM | OTHERS)[file]):
        os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
    recorder = Recorder()
    flags = '-x', '-q', '-p', 'no:cacheprovider', '-o', 'timeout=300'
    tests = [f'tests/{test}' for test in (ALGORITHM | OTHERS)[file]]
    for marked in ('not full', 'full') if file in ALGORITHM else ('not full',):  # the quick ones first
        code = pytest.main([*flags, '-m', marked, *tests], plugins=[recorder])
        if code not in UNNOTICED:
            break
    (copy / 'rlra_jax' / file).write_text(source)
    noticed = recorder.failed or f'pytest ends with {int(code)}'
    (copy / 'told').write_text(noticed if code not in UNNOTICED else '')
    os._exit(0)


def main() -> int:
    """Runs what the command line asks for; the exit status is 1 where a fault goes unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--files', nargs='*', default=[*ALGORITHM, *OTHERS], help='of rlra_jax/')
    parser.add_argument('--most', type=int, default=12, help='faults of a file that is not of the algorithm')
    parser.add_argument('--jobs', type=int, default=os.cpu_count(), help='how many run at a time')
    parser.add_argument('--results', type=pathlib.Path, default=ROOT / 'results', help='folder of mutants.json')
    parser.add_argument(
        '--again', action='store_true', help='only those of mutants.json that went unnoticed, without a reason'
    )
    parser.add_argument('--only', default='', help='only those whose name holds this; nothing is written')
    options = parser.parse_args()
    os.environ |= {'JAX_PLATFORMS': 'cpu', 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}
    os.environ |= {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0', 'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}
    sys.dont_write_bytecode = True
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ['JAX_COMPILATION_CACHE_DIR'] = f'{folder}/compiled'
        for file in options.files:
            every = [fault for fault in listed(file, options.most) if options.only in fault.name]
            faults, unnoticed = every, []
            if options.again:
                before = unnoticed_before(options.results / 'mutants.json', file, every)
                unnoticed, faults = ([f for f in before if bool(reason(f)) == known] for known in (True, False))
            with tempfile.TemporaryDirectory(dir=folder) as copies:
                unnoticed += survivors(file, faults, pathlib.Path(copies), options.jobs)
            equivalent = {fault.name: why for fault in unnoticed if (why := reason(fault))}
            names = [fault.name for fault in unnoticed if fault.name not in equivalent]
            missed += len(names)
            row = {'case': file, 'faults': len(every), 'noticed': len(every) - len(unnoticed)}
            row |= {'unnoticed': names, 'no_difference': equivalent}
            print(row)
            told_by = {'command': report.command(), 'versions': report.versions(), 'code_sha256': report.code_sha256()}
            if not options.only:
                replace_rows(options.results / 'mutants.json', file, [row], told_by)
    return int(missed > 0)


def unnoticed_before(path: pathlib.Path, file: str, faults: Sequence[Mutant]) -> list[Mutant]:
    """Those of a file's faults that no test noticed when the table at path was written.

    Raises:
      SystemExit: the table has no such file, or its faults stand elsewhere today.
    """
    rows = [row for row in report.read_json(path, ('rows',))['rows'] if row['case'] == file]
    names = {name for row in rows for name in (*row['unnoticed'], *row['no_difference'])}
    found = [fault for fault in faults if fault.name in names]
    if not rows or len({fault.name for fault in found}) < len(names):
        raise SystemExit(f'{path} does not tell what went unnoticed in {file} as it is now; leave out --again')
    return found


def reason(fault: Mutant) -> str:
    """Why a fault of NO_DIFFERENCE changes no result; '' for others."""
    line = (ROOT / 'rlra_jax' / fault.file).read_text().splitlines()[fault.line - 1]
    told = {
        why
        for file, place, change, why in NO_DIFFERENCE
        if file == fault.file and place in line and change in fault.name
    }
    return next(iter(told), '')


def survivors(file: str, faults: Sequence[Mutant], folder: pathlib.Path, jobs: int) -> list[Mutant]:
    """A file's faults that no test notices, in order.

    Raises:
      SystemExit: its tests fail without any.
    """
    for _, told in run([file], folder / 'whole', 1):
        if told:
            raise SystemExit(f'without a fault, the tests of {file} fail: {told}')
    found = []
    for fault, told in tqdm(run(faults, folder / 'broken', jobs), desc=file, total=len(faults), disable=None):
        tqdm.write(f'{fault.name}: {told or "UNNOTICED"}')
        found += [] if told else [fault]
    return sorted(found, key=faults.index)


if __name__ == '__main__':
    sys.exit(main())
