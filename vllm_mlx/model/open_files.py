"""mlx-lm lowers the limit on open files of its process to 2048 when it is imported, the hard limit
to 4096 for good. A server needs one file per client: the limit stays what the operator has set.
"""

import importlib
import resource


def import_mlx_lm() -> None:
    """Import mlx-lm with the limit on open files untouched; must come before any other import."""
    lower = resource.setrlimit
    resource.setrlimit = _leave_alone
    try:
        importlib.import_module("mlx_lm.utils")
    finally:
        resource.setrlimit = lower


def _leave_alone(kind: int, limits: tuple[int, int], /) -> None:
    """Stands for ``resource.setrlimit`` during the import; where hard limits are low it raises."""
