"""What all reports share, on a terminal and as a page.

words.py        numbers, ages, instants and names as text; everything from outside is made harmless here
tables.py       a table of text
terminal.py     such a table on a terminal, however narrow
drawing.py      inline SVG by matplotlib, without pyplot and its global state
page.py         one self-contained HTML file: no script, no style sheet, font or picture from elsewhere
"""
