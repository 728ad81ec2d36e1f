"""What a simulation came to, for people and for programs.

outcome.py      which policies matter, and the sentences that say what they came to
document.py     the result as JSON
tables.py       policies, classes and assumptions as tables of text, for terminal and page alike
timeline.py     money, load and bid prices over the judged part, in bins
bars.py         drawings of one moment: costs, objectives, regret
curves.py       drawings over time
figures.py      the six figures, each with its finding
page.py         what stands where on the page
"""
