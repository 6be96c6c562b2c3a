"""What --help prints: a launcher's own words, then its flags in the order in which it defines them."""

import pathlib
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from absl import flags

_WIDTH = 100
_OTHERS = '--helpfull also lists those of JAX and absl, such as --jax_compilation_cache_dir, for compiled programs.'


def told(main: Callable[..., None]) -> str:
    """The help of the launcher that main belongs to."""
    module = sys.modules[main.__module__]
    own = flags.FLAGS.get_key_flags_for_module(module)
    text = (module.__doc__ or '').replace('python -m launch.', _prefix())
    return '\n'.join([text, 'Flags:', *map(_flag, own), '', _OTHERS])


def _prefix() -> str:
    """How launchers are started here: console scripts are named after them."""
    installed = pathlib.Path(sys.argv[0]).suffix != '.py'
    return 'rlra-' if installed else f'python -m {__package__}.'


def _flag(flag: Any) -> str:
    value = '' if flag.boolean else '=...'
    default = '' if flag.default is None or flag.default is False else f' Default: {flag.default!r}.'  # 0 is one
    about = textwrap.fill(f'{flag.help}{default}', _WIDTH, initial_indent=' ' * 6, subsequent_indent=' ' * 6)
    return f'  --{flag.name}{value}\n{about}'
