"""A launcher as a user starts it, but in this process: a new one would take seconds before it reads its flags."""

import contextlib
import importlib
import io
import logging
import runpy
import sys
import traceback
import warnings
from unittest import mock

import jax
from absl import app, flags

from rlra_jax.experiment import stops

app.define_help_flags()
importlib.import_module('launch.cli')  # whose flags are those of every launcher


def launch(module, *arguments):
    """(exit status, what was printed) of `python -m module arguments`; 1 and a traceback where it would raise."""
    told, others = io.StringIO(), _flags_of_benchmarks()
    for _, flag in others:
        delattr(flags.FLAGS, flag.name)
    before = set(flags.FLAGS)
    with _restored_logs(), contextlib.redirect_stdout(told), contextlib.redirect_stderr(told), _alone():
        sys.argv[:] = [module, *map(str, arguments)]
        try:
            runpy.run_module(module, run_name='__main__')
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            told.write(f'{"" if isinstance(end.code, int | None) else end.code}')
        except Exception:
            status = 1
            traceback.print_exc(file=told)
        finally:
            for name in set(flags.FLAGS) - before:  # its own, and those that a config brings
                delattr(flags.FLAGS, name)
            for module_of_flag, flag in others:
                flags.FLAGS[flag.name] = flag
                flags.FLAGS.register_flag_by_module(module_of_flag, flag)
            flags.FLAGS.unparse_flags()
            sys.modules.pop('config_config', None)  # ml_collections would read the next file into the same module
    return status, told.getvalue()


def _flags_of_benchmarks():
    """(module, flag) of programs that another test has imported, which have flags of the same names."""
    modules = flags.FLAGS.flags_by_module_dict().items()
    return [(module, flag) for module, own in modules if module.startswith('benchmarks.') for flag in own]


@contextlib.contextmanager
def _alone():
    """Without what a process does but once: hear signals, and take JAX's flags."""
    with (
        mock.patch.object(stops, 'listen'),
        mock.patch.object(type(jax.config), 'config_with_absl'),
        mock.patch.object(sys, 'argv', list(sys.argv)),
        warnings.catch_warnings(action='ignore'),  # of how ml_collections reads a file; Python shows users none of it
    ):
        yield


@contextlib.contextmanager
def _restored_logs():
    """absl takes the root's handlers for itself, and launchers set levels."""
    loggers = [logging.getLogger(name) for name in (None, 'absl', 'rlra_jax')]
    kept = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    try:
        yield
    finally:
        for logger, level, handlers in kept:
            logger.setLevel(level)
            logger.handlers[:] = handlers
