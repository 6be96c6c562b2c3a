"""What every launcher shares: quiet logs, and bad input told in one clear line."""

import functools
import io
import itertools
import logging
import os
import sys
from collections.abc import Callable

# XLA tells at length of slow compilation and asks for bug reports; the trainer says what it compiles, and how long that
# took. XLA's real errors are raised. jax sets 1 as it is imported.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import jax
from absl import app, flags
from absl import logging as absl_logging
from etils import epath

from rlra_jax.experiment import stops
from rlra_jax.experiment.nonfinite import NonFiniteError
from rlra_jax.experiment.storage import open_path
from rlra_jax.parallel.distributed import join, leads

from . import usage
from .config_file import ConfigFileError

_COORDINATOR = flags.DEFINE_string(
    'coordinator',
    None,
    'For several processes: host:port of process 0, with --num_processes and --process_id; or auto, where the '
    'surroundings tell all three: on TPU pods, under SLURM and Open MPI. The workdir must be on storage all share.',
)
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many processes there are.', lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0.', lower_bound=0)
_HINT = '--help lists the flags.'
_USER_ERRORS = (ValueError, OSError, ModuleNotFoundError, NonFiniteError)


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a launcher's main under absl.

    Without --verbosity, rlra_jax tells what it does, and others what goes wrong. With it, all tell from that level on,
    as absl has it (-3 fatal, -2 error, -1 warning, 0 info, 1 debug), and from 0 on errors have their tracebacks.

    JAX's own flags are among the launcher's, such as --jax_debug_nans. Its exit status is `stops.STATUS` where training
    stopped as a signal asked, and 1 after errors.
    """

    def guarded(argv: list[str]) -> None:
        chosen = flags.FLAGS['verbosity'].present
        if not chosen:
            absl_logging.set_verbosity(absl_logging.WARNING)
            # Orbax tells through absl's own logger: much, with tracebacks, and it raises what matters.
            absl_logging.get_absl_logger().setLevel(logging.CRITICAL)
            logging.getLogger('rlra_jax').setLevel(logging.INFO)
        try:
            _join()
            stops.listen()
            main(argv)
        except stops.StoppedError as stopped:
            if leads():
                print(stopped, file=sys.stderr)
            sys.exit(stops.STATUS)
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except app.UsageError as error:  # absl would print all flags before it
            sys.exit(f'{error}\n{_HINT}')
        except _USER_ERRORS as error:
            if chosen and absl_logging.get_verbosity() >= absl_logging.INFO:
                raise
            sys.exit(f'{type(error).__name__}: {error}\n(--verbosity=0 shows where it was raised)')

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='replace')  # a result must not be lost for a sign that the terminal lacks
    jax.config.config_with_absl()
    app.run(guarded, flags_parser=functools.partial(_parse, main))


def finished(arguments: list[str]) -> list[epath.Path]:
    """The workdirs that are named, all of finished runs."""
    workdirs = [open_path(argument) for argument in arguments]
    if not workdirs:
        raise app.UsageError('name the workdirs of at least one finished run')
    unfinished = [str(workdir) for workdir in workdirs if not (workdir / 'result.json').exists()]
    if unfinished:
        raise app.UsageError(f'no result.json in {", ".join(unfinished)}: finish the run, or check the path')
    return workdirs


def _join() -> None:
    """Joins the other processes, if there are any. Alone it leaves devices be: launch.compare needs none."""
    address, *rest = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    if address is None and rest == [None, None]:
        return
    join(None if address == 'auto' else address, *rest)
    if not leads():
        logging.getLogger('rlra_jax').setLevel(logging.WARNING)


def _parse(main: Callable[[list[str]], None], argv: list[str]) -> list[str]:
    """Parses flags; what a config file raises would end in a traceback."""
    if {'--help', '-help', '-h'} & set(itertools.takewhile(lambda argument: argument != '--', argv[1:])):
        print(usage.told(main))
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except SystemExit as end:
        sys.exit(0 if end.code == 1 else end.code)  # absl ends with 1 after --helpfull
    except ConfigFileError as error:
        sys.exit(str(error))
    except Exception as error:
        if isinstance(error, flags.Error | OSError):
            sys.exit(f'{error}\n{_HINT}')
        overrides = [argument for argument in argv if argument.startswith('--config.')]
        if not overrides:
            raise
        sys.exit(f'the config has no such entry, or one of another type: {error}, given {overrides}')
