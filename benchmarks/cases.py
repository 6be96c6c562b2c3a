"""Result files of several cases, each measured by itself."""

import pathlib
from typing import Any

from rlra_jax.experiment.report import read_json, write_json


def replace_rows(path: pathlib.Path, case: str, rows: list[dict[str, Any]], measured: dict[str, Any]) -> None:
    """Puts the rows of a case, and how they were measured, in the place of those that a file holds of it.

    Args:
      path: of {'rows': rows of all cases, 'measured': {case: what is known of its measurement}}; made if need be.
      case: what its rows have as 'case', perhaps with details after a comma.
      rows: of the case.
      measured: what is told of them all, such as `provenance`.
    """
    known = read_json(path, ('rows', 'measured')) if path.exists() else {'rows': [], 'measured': {}}
    others = [row for row in known['rows'] if row['case'].partition(',')[0] != case]
    write_json(path, {'rows': others + rows, 'measured': {**known['measured'], case: measured}})
