"""A run's folder: it belongs to one config, on one data set, and to one run at a time."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import filelock
from etils import epath

from rlra_jax.experiment import report
from rlra_jax.experiment.entries import ADDED, LATER, NOTED, WHERE, differing, flat, plain
from rlra_jax.experiment.storage import is_local, open_path, writing
from rlra_jax.parallel.distributed import leads

_LOG = logging.getLogger(__name__)
_COPY = 'the command that began the run writes the same one into an empty folder'


def own_workdir(runs: str | os.PathLike[str], config: Any) -> epath.Path:
    """runs/DATA-LEARNER-HASH: the same for equal configs, wherever they run (the entries of `entries.WHERE`).

    And the same for a config of an older version, which lacks entries that stand now as if they were left out.
    """
    digest = hashlib.sha256(json.dumps(differing(config), sort_keys=True).encode()).hexdigest()[:8]
    return open_path(runs) / f'{config["dataset"]}-{config["learner"]["name"]}-{digest}'


@contextlib.contextmanager
def held(workdir: epath.Path) -> Iterator[None]:
    """Makes the folder, and keeps other runs out of it for as long as this one lasts, however it ends.

    A bucket, or a file system without locks, cannot keep them out; a warning says so.

    Raises:
      ValueError: another run has it.
    """
    if not leads():
        yield
        return
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    holder = workdir / 'holder'  # not in the lock itself, which nobody else may read under Windows
    lock = filelock.FileLock(os.fspath(workdir / 'lock'), timeout=0)
    try:
        if is_local(workdir):
            lock.acquire()
        else:
            _LOG.warning('nothing keeps a second run out of %s: a bucket has no locks', workdir)
    except filelock.Timeout:
        by = holder.read_text(encoding='utf-8') if holder.exists() else 'another run'
        raise ValueError(f'{workdir} is in use by {by}; wait for it, or choose another --workdir') from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, 'errno', None) not in (errno.EROFS, errno.EACCES):  # of which the next line tells
            _LOG.warning('nothing keeps a second run out of %s: its file system has no locks (%s)', workdir, error)
    try:
        with writing(holder):
            holder.write_text(f'process {os.getpid()} on {socket.gethostname()}', encoding='utf-8')
        yield
    finally:
        lock.release()


def read_config(workdir: epath.Path) -> dict[str, Any]:
    """The config of the run that has this folder.

    Raises:
      ValueError: it is damaged.
    """
    return report.read_json(workdir / 'config.json', remedy=f'put the file back: {_COPY}')


def claim(
    workdir: epath.Path, config: Any, data_sha256: str, code_sha256: str, meaning: Mapping[str, Any] | None = None
) -> None:
    """Makes workdir this config's own, or raises if it is another's, or of other data; warns of other code.

    Where it runs (the entries of `entries.WHERE`) is no part of what it is, nor are the entries of `entries.LATER`.

    Args:
      workdir: the folder.
      config: of the run.
      data_sha256: of its data.
      code_sha256: of the package.
      meaning: what the data's numbers mean, see `Dataset.meaning`.

    Raises:
      ValueError: saying what the folder holds, and what was wanted.
    """
    path, origin = workdir / 'config.json', workdir / 'origin.json'
    mine, means = plain(config), dict(meaning or {})
    ours = {**report.provenance(data_sha256), 'code_sha256': code_sha256, 'data': means}
    if not path.exists():
        if leads():
            foreign = [name for name in ('result.json', 'checkpoints') if (workdir / name).exists()]
            if foreign:
                raise ValueError(
                    f'{workdir} holds {" and ".join(foreign)} of a run, but no config.json that tells which; choose '
                    f'another --workdir, or put the file back: {_COPY}'
                )
            report.write_json(origin, ours)
            report.write_json(path, mine)
        return
    theirs = read_config(workdir) | {key: mine[key] for key in (*WHERE, *LATER)}
    a, b = ADDED | flat(theirs), ADDED | flat(mine)
    if a != b:
        changed = [
            f'  {key}: {a.get(key)!r} there, {b.get(key)!r} here' for key in sorted(a | b) if a.get(key) != b.get(key)
        ]
        raise ValueError(
            f'{workdir} holds a run of another config:\n' + '\n'.join(changed) + '\nChoose another --workdir.'
        )
    if not origin.exists() and leads():
        report.write_json(origin, ours)
    begun = report.read_json(origin) if origin.exists() else ours
    if begun.get('data_sha256', data_sha256) != data_sha256:
        raise ValueError(
            f'{workdir} holds a run on other data, of sha256 {begun["data_sha256"]:.8}; this is {data_sha256:.8}. '
            'Choose another --workdir.'
        )
    check_meaning(workdir, begun, means)
    if report.is_other_code(begun, code_sha256):
        _LOG.warning('begun by another version of rlra_jax: %s; another --workdir trains anew', workdir)


def check_meaning(workdir: epath.Path, begun: Mapping[str, Any], meaning: Mapping[str, Any]) -> None:
    """Raises ValueError if data of the same numbers meant something else to the run, as far as it noted that."""
    for key, there in begun.get('data', {}).items():
        if (here := meaning.get(key, there)) != there:
            raise ValueError(f'{workdir} holds a run on data of {key} {there!r}; here it is {here!r}')


def go_on(workdir: epath.Path, config: Any, epoch: int) -> None:
    """Notes the entries that changed since the run began, of those that may (`entries.NOTED`).

    Args:
      workdir: claimed.
      config: as it is now.
      epoch: the last one done.

    Raises:
      ValueError: the run has more epochs already.
    """
    theirs, mine = read_config(workdir), plain(config)
    if mine['epochs'] < epoch:
        raise ValueError(
            f'{workdir} holds {epoch} epochs of this run; epochs must be at least that, got {mine["epochs"]}'
        )
    changed = {key: mine[key] for key in NOTED if theirs.get(key) != mine[key]}
    for key in changed:
        _LOG.info('%s is %r now; it was %r', key, mine[key], theirs.get(key))
    schedules = [mine[name].get('schedule', 'constant') for name in ('optimizer', 'synapse_optimizer')]
    if 'epochs' in changed and set(schedules) != {'constant'}:
        _LOG.warning('learning rates go on as the schedule of %d epochs has them from here', mine['epochs'])
    if changed and leads():
        result = workdir / 'result.json'
        if 'epochs' in changed and result.exists():
            result.rename(workdir / f'result-{theirs["epochs"]}.json')  # the run is not finished any more
        report.write_json(workdir / 'config.json', theirs | changed)
