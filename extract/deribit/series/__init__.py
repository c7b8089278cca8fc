"""Public series besides trades: funding rates, delivery prices, settlements, the volatility index, book summaries.

schema     columns and types of each series, in one place
decode     bodies of answers to typed rows; a record that does not fit is rejected with its text
grid       pager of a series with one row per step of time
state      what is loaded of one key of a series, and which rows are new or restated
cadence    when a series can have something new

Each of the other modules is one endpoint: its pager without I/O, its proof, and a function that fetches it.
"""
