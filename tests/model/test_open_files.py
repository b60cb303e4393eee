"""mlx-lm may not take open files from the server."""

import subprocess
import sys

BUILD = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 3000))
from vllm_mlx.assembly import build_engine, load_settings
from vllm_mlx.cli import compose
cfg = compose(["model=toy"])
build_engine(load_settings(cfg), cfg)
import mlx_lm.utils
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_limit_on_open_files_stays() -> None:
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("(1000, 3000)", 0), done.stderr
