"""The market and the six pure functions that hold all judgement.

No clock, no I/O, no randomness, no async: time arrives as ``now_s`` and effects come back as data, so the gateway, the
pool gates, the simulator and the planner call the same code.
"""
