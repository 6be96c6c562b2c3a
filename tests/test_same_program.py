"""A program does not depend on what Python's hashes happen to be: a second process finds it in a cache."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
SCRIPT = """
import hashlib, helpers, jax, rlra_jax
from rlra_jax import KolenPollack, Mirror, wire_blocks, wire_modules, wire_reverse

def told(net, update):
    shapes = jax.eval_shape(update.init, jax.random.key(0))
    text = jax.jit(update.update).lower(*shapes, batch, jax.random.key(0)).as_text()
    print(hashlib.sha256(text.encode()).hexdigest(), len(text))

batch = helpers.make_batch(4)
net = rlra_jax.regions(rlra_jax.nn.ResidualMLP(width=5, depth=4, gap=2, classes=4), batch)
skips = rlra_jax.nn.with_readouts(net, ['hidden_2'])
block = lambda name: (int(name[-1]) + 1) // 2
for wired in (
    wire_reverse(net), wire_blocks(net, gap=2),
    wire_modules(skips, block=block, rule=KolenPollack(), rest=Mirror(), overlap=1),
):
    told(net, rlra_jax.update_fn(skips if wired.own else net, wired))
for name in ('direct_feedback_alignment', 'weight_mirror', 'difference_target_prop'):
    told(net, rlra_jax.LEARNERS[name](rlra_jax.regions(rlra_jax.nn.MLP(widths=(5, 6, 7)), batch)))
"""


def programs(seed):
    environment = {**os.environ, 'PYTHONHASHSEED': seed, 'PYTHONPATH': f'{HERE}{os.pathsep}{HERE.parent}'}
    finished = subprocess.run([sys.executable, '-c', SCRIPT], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_hashes_of_names_do_not_change_the_program():
    first = programs('1')
    assert len(first.splitlines()) == 6
    assert programs('2') == first
