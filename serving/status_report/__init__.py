"""What ``baseload status`` shows.

live.py         what the running gateway and its controller say of this moment
figures.py      what the plan expects beside what the ledger has seen, and budgets, as tables
sentences.py    verdicts on drift in words
"""
