"""The price board for people: the same tables on a terminal and on a page, and figures for the page.

words.py        numbers, ages, instants and names as text; everything from outside is made harmless here
tables.py       what offers and our own pools cost, as tables of text for terminal and page alike
nodes.py         what the meters read on every node
owned.py         owning as accountants see it: straight line beside annuity, years after tax
sources.py      the same of where prices come from: feeds, rents, incidents, and what the figures rest on
history.py      the types of a price history, bounded for drawing, and what can be said of one series
findings.py     the sentence below each figure, computed from the data
drawing.py      lines and inline SVG by matplotlib, without pyplot and its global state
figures.py      the five figures, each with its finding, its alternative text and its table
page.py         one self-contained HTML file: no script, no style sheet, font or picture from elsewhere
"""
