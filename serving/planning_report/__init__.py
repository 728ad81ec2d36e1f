"""What a plan says, for people: the lead and the tables on a terminal, and the whole of it as a page.

outcome.py      money and GPUs as words, the one sentence that answers everything, what has to be said first
stack.py        which supply carries how much of a load-duration curve; how each kind of supply is drawn
tables.py       pools, costs, sizings and what-ifs as tables of text, for terminal and page alike
background.py   tables of what stands behind: finalists, switches, energy, expectations, assumptions
findings.py     the sentence below each figure on money and risk
supply_findings.py  the sentence below each figure on load and supply
axes.py         axes of money in a unit that suits it
panels.py       drawings with a panel for each pool: load-duration curve, screening curves
week.py         the week of a pool as a map of hours
merit.py        the merit order
money.py        drawings of money: cost against owned GPUs, tornado, net present value
figures.py      every figure with its finding and its alternative text
page.py         what stands where on the page
"""
