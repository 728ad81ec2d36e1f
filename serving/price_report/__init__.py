"""The price board for people: the same tables on a terminal and on a page, and figures for the page.

tables.py       what offers and our own pools cost, as tables of text for terminal and page alike
nodes.py         what the meters read on every node
owned.py         owning as accountants see it: straight line beside annuity, years after tax
sources.py      the same of where prices come from: feeds, rents, incidents, and what the figures rest on
history.py      the types of a price history, bounded for drawing, and what can be said of one series
findings.py     the sentence below each figure, computed from the data
drawing.py      lines of prices over time, named at their ends
figures.py      the five figures, each with its finding, its alternative text and its table
page.py         what stands where on the page

Tables, inline SVG and the page itself: serving/report.
"""
