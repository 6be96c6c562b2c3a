"""Run by test_stops.py through launch.local_pod: two that train as one; one hears SIGTERM, both stop."""

import os
import signal
import sys

import helpers

from rlra_jax.experiment import stops
from rlra_jax.experiment.data import load
from rlra_jax.experiment.stepwise import Pace
from rlra_jax.experiment.train import train
from rlra_jax.parallel.distributed import join

workdir, *flags = sys.argv[1:]
values = dict(flag.removeprefix('--').split('=') for flag in flags)
rank = int(values['process_id'])
join(values['coordinator'], int(values['num_processes']), rank)
stops.listen()
wait, waits = Pace.wait, []


def signal_at_the_third_step(self, result):
    waits.append(result)
    if rank == 1 and len(waits) == 3:
        os.kill(os.getpid(), signal.SIGTERM)
        stops._heard.wait()
    wait(self, result)


Pace.wait = signal_at_the_third_step
config = helpers.make_config(num_seeds=1, epochs=2, batch_size=48, checkpoint_steps=23)
try:
    train(config, workdir, helpers.kept(load('digits')))
except stops.StoppedError as stopped:
    assert stops._heard.is_set() == (rank == 1)
    print(f'process {rank} {stopped}')
