"""From a trace to what to own, what to rent and the policy to run: ``planner.plan`` makes a ``document.Plan``."""
