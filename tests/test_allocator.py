"""Freed memory is kept."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from scadm.allocator import keep_freed_memory
import torch
torch.set_num_threads(1)
KEEP and keep_freed_memory()
for _ in range(10):
    [torch.ones(2**20) for _ in range(16)]  # 64 MiB, as a forward pass allocates them and a backward pass frees them
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def page_faults(keep: bool) -> int:
    program = PROGRAM.replace("KEEP", str(keep))
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's allocator that is told")
def test_large_blocks_are_not_fetched_from_the_system_again() -> None:
    """At least 16 blocks of 1024 pages each, of 10 times as many."""
    assert page_faults(keep=False) - page_faults(keep=True) > 16 * 1024
