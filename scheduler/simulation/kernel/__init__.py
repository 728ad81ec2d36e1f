"""The compiled kernel: the same pools, gates and rules as the exact engine, a thousand times as fast, for planning.

Left out: failures and limits of providers, sessions, engines that are lost (they drain), several pools for one profile.
"""

from scheduler.simulation.kernel.run import NAMES, KernelRun, KernelSettings, KernelTally, play

__all__ = ["NAMES", "KernelRun", "KernelSettings", "KernelTally", "play"]
