"""Two backtests on the tape: selling covered calls, and earning the funding of a perpetual.

From a checkout, `make demo` provides the data; then

    .venv/bin/marimo edit docs/notebooks/backtests.py      read it as a notebook
    .venv/bin/python docs/notebooks/backtests.py           run it as a script

Elsewhere: pip install 'deribit-tape[polars]' marimo. TAPE_URL is the address of `tape serve`; without it, the notebook
reads the ClickHouse that the environment names.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium")


@app.cell
def _():
    import os
    from datetime import timedelta

    import deribit_tape
    import marimo as mo
    import polars as pl

    tape = deribit_tape.connect(os.environ.get("TAPE_URL"))
    return mo, pl, tape, timedelta


@app.cell
def _(mo):
    mo.md("""
    # Backtests on every trade

    Each answer is lazy and carries its proof: `.coverage` is false if a trade of the requested time is missing.
    Times are UTC, option prices of inverse options are in coin, volatility is in percent a year.
    """)
    return


@app.cell
def _(tape):
    days = tape.candles("BTC-PERPETUAL", "1d", since="all")
    daily = days.pl()
    print(f"BTC-PERPETUAL: {daily.height} days of candles, {days.coverage}")
    daily.tail(5)
    return (daily,)


@app.cell
def _(mo):
    mo.md("""
    ## Covered call

    Hold one BTC. At noon, sell the call that expires in one to eight days and whose delta is nearest to 0.25, at its
    last traded price; hold it to expiry, then sell the next one. The result of a call is its premium minus its payoff,
    in BTC.
    """)
    return


@app.cell
def _(pl, tape):
    # What every BTC option that has expired was worth at its expiry.
    outcomes = (
        tape.outcomes("BTC", since="all")
        .pl()
        .filter(
            pl.col("settlement_currency") == "BTC",
            pl.col("option_type") == "call",
            pl.col("payoff").is_not_null(),
        )
        .select("instrument_name", "expires_at", "payoff")
    )
    return (outcomes,)


@app.cell
def _(daily, outcomes, pl, tape, timedelta):
    def choose_call(noon):
        """The call to sell at a time: a row of the option chain, or None where none fits."""
        chain = tape.option_chain("BTC", at=noon).pl()
        fitting = (
            chain.filter(
                pl.col("settlement_currency") == "BTC",
                pl.col("option_type") == "call",
                pl.col("days_to_expiry").is_between(1, 8),
                pl.col("delta").is_between(0.05, 0.5),
            )
            .join(outcomes, on="instrument_name")
            .sort((pl.col("delta") - 0.25).abs(), "instrument_name")
        )
        return fitting.row(0, named=True) if fitting.height else None

    sold, free_at = [], daily["bucket_at"].min()
    for day in daily["bucket_at"]:
        noon = day + timedelta(hours=12)
        if noon < free_at or not (call := choose_call(noon)):
            continue
        sold.append(
            {
                "sold_at": noon,
                "instrument_name": call["instrument_name"],
                "delta": call["delta"],
                "premium": call["price"],
                "payoff": call["payoff"],
                "result": call["price"] - call["payoff"],
            }
        )
        free_at = call["expires_at"]
    calls = pl.DataFrame(sold)
    total = calls["result"].sum() if sold else 0.0
    print(f"Covered call: {calls.height} calls sold, {total:+.6f} BTC per BTC held")
    calls
    return


@app.cell
def _(mo):
    mo.md("""
    ## Funding carry

    Hold one dollar of BTC and sell one dollar of BTC-PERPETUAL: the price cancels out, and each hour pays
    `interest_1h`, a fraction of the position; where it is negative, it costs.
    """)
    return


@app.cell
def _(pl, tape):
    funding = tape.funding("BTC-PERPETUAL", since="all").pl()
    carry = funding.select("timestamp", "interest_1h", earned=pl.col("interest_1h").cum_sum())
    earned = funding["interest_1h"].sum()
    yearly = earned / max(carry.height, 1) * 24 * 365
    print(f"Funding carry: {carry.height} hours, {earned:+.6%} earned, {yearly:+.2%} a year")
    carry.tail(24)
    return


if __name__ == "__main__":
    app.run()
