"""The entries of a config, as files and comparisons want them."""

import json
from typing import Any

WHERE = ('data_dir', 'parallel')  # entries of a config that say where a run happens, not what it is


def plain(config: Any) -> dict[str, Any]:
    """A config as JSON would give it back."""
    return json.loads(json.dumps(config.to_dict() if hasattr(config, 'to_dict') else dict(config)))


def what(config: Any) -> dict[str, Any]:
    """The part of a config that says what a run is, not where it happens."""
    return {key: value for key, value in plain(config).items() if key not in WHERE}


def flat(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """{'learner.name': ...}: a config with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
    return found
