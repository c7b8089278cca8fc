"""The page draws what is in the database and follows it; without data, server or key it says so; it is accessible."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from extract.sandbox.instrument_names import DAY_MS, HOUR_MS
from tests.serve.page.conftest import Planted, day_of, serving
from tests.support.browser import Visit, Visitor, needs_chromium

pytestmark = [pytest.mark.slow, pytest.mark.browser, needs_chromium]

CARDS = (
    "coverage", "market", "smile-card", "term-card", "dvol-card", "funding-card", "interest-card", "health-card",
)  # fmt: skip


@pytest.fixture(scope="module")
def visited(served: str, visit: Visitor) -> Iterator[Visit]:
    """The page, once every card has drawn; afterwards, what it requested and reported is checked."""
    here = visit(served, viewport={"width": 1280, "height": 900})
    here.wait_for(lambda: all(here.count(f"#{card}[data-version][data-status=ready]") for card in CARDS), 60)
    yield here
    here.page.context.close()
    assert here.hosts == {served.split("/")[2]}
    assert here.errors == []


def colour(visited: Visit, selector: str) -> tuple[int, int, int]:
    """Red, green and blue of a background."""
    text = visited.page.evaluate(f"getComputedStyle(document.querySelector({selector!r})).backgroundColor")
    red, green, blue = (int(part) for part in re.findall(r"\d+", text)[:3])
    return red, green, blue


def shown_ms(visited: Visit) -> tuple[str, int, int]:
    """Level of the candles, and the time that they cover."""
    level, first, last = re.findall(r"^(\w+) candles · (\S+ \S+) – (\S+ \S+)$", visited.text("#level"))[0]
    since, until = (
        int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000 for text in (first, last)
    )
    return level, since, until


def drawn_candles(visited: Visit, name: str) -> int:
    """The number of candles in the picture; 0 until all of an instrument are drawn."""
    label = re.match(rf"(\d+) candles of {name},", visited.page.get_attribute("#candles", "aria-label") or "")
    count = visited.count("#candles .boxlayer path.box")
    return count if label and count == int(label[1]) else 0


def test_candles_are_those_of_the_trades(visited: Visit, planted: Planted) -> None:
    """One candle and one bar of each side for each quarter of an hour with trades that begins in the newest day."""
    level, since, until = shown_ms(visited)
    assert level == "15m"
    assert until - since == pytest.approx(DAY_MS, abs=60_000)
    assert planted.now_ms - until < 10 * 60_000
    buckets = {
        each["timestamp"] // 900_000
        for each in planted.stored("BTC-PERPETUAL")
        if since <= each["timestamp"] // 900_000 * 900_000
    }
    drawn = visited.count("#candles .boxlayer path.box")
    assert len(buckets) > 20
    assert drawn == len(buckets)
    assert visited.count("#candles .barlayer .point") == 2 * drawn
    assert float(visited.text("#price b").replace(",", "")) == planted.stored("BTC-PERPETUAL")[-1]["price"]


def test_blocks_and_liquidations_are_marked(visited: Visit, planted: Planted) -> None:
    """A marker for each block trade and each liquidation of the time shown."""
    _, since, until = shown_ms(visited)
    inside = [each for each in planted.stored("BTC-PERPETUAL") if since <= each["timestamp"] < until]
    marked = sum("block_trade_id" in each for each in inside) + sum(
        each.get("liquidation", "none") != "none" for each in inside
    )
    assert marked
    assert visited.count("#candles .scatterlayer .point") == marked


def test_volatility_has_a_curve_for_each_expiry(visited: Visit) -> None:
    """Lines of the smile with the names of expiries, a term structure, and the index by hour."""
    assert visited.count("#smile .scatterlayer path.js-line") >= 2
    names = visited.page.locator("#smile .legendtext").all_text_contents()
    assert len(names) == visited.count("#smile .scatterlayer path.js-line")
    assert all(re.fullmatch(r"\d{1,2} \w{3,4} \d\d", name) for name in names)
    for path in visited.page.locator("#smile .scatterlayer path.js-line").all():
        assert len(re.findall(r"[-\d.]+,[-\d.]+", path.get_attribute("d") or "")) > 1
    assert visited.count("#term .scatterlayer .point") >= 2
    assert "Trades of the hour from" in (visited.page.text_content("#term .gtitle") or "")


def test_series_have_all_rows_of_the_exchange(visited: Visit, planted: Planted) -> None:
    """DVOL by hour, funding by hour, open interest by day."""
    exchange = planted.user.exchange
    hours = exchange.series("volatility_index", "BTC", HOUR_MS)
    paths = visited.page.locator("#dvol .scatterlayer path.js-line").all()
    points = [len(re.findall(r"[ML]", path.get_attribute("d") or "")) for path in paths]
    assert max(points) > len(hours) // 3  # collinear points are simplified
    rates = exchange.series("funding_rates", "BTC-PERPETUAL")
    assert visited.count("#funding .barlayer .point") == len(rates)
    days = {
        row["timestamp"] // DAY_MS
        for row in exchange.series("settlements", "BTC")
        if row["type"] == "settlement" and row.get("instrument_name") == "BTC-PERPETUAL"
    }
    assert visited.count("#interest .scatterlayer .point") == len(days)
    assert "in USD" in (visited.page.text_content("#interest .gtitle") or "")


def test_calendar_shows_the_hole_red_and_the_absent_stretch_amber(visited: Visit, planted: Planted) -> None:
    """On their days and streams, and nowhere else; days before the first load are not requested."""
    missing, absent = planted.missing[0], planted.absent[0]
    hole = f"#calendar button[aria-label^='BTC future, {day_of(missing)}']"
    lack = f"#calendar button[aria-label^='ETH future, {day_of(absent)}']"
    assert visited.page.get_attribute(hole, "class") == "missing"
    assert visited.page.get_attribute(lack, "class") == "absent"
    assert visited.count("#calendar button.missing") == visited.count("#calendar button.absent") == 1
    red, green, blue = colour(visited, hole)
    assert red > 180 > 100 > max(green, blue)
    red, green, blue = colour(visited, lack)
    assert red > 200 > green > 130 > blue
    assert visited.count("#calendar button.proven") > 50
    assert visited.count("#calendar button.not_requested") > 50
    assert "3" in visited.text("#figures div:nth-child(3)")
    assert "2" in visited.text("#figures div:nth-child(4)")


def test_cell_lists_its_gaps(visited: Visit, planted: Planted) -> None:
    """By click and by keyboard: instrument, numbers, and the command that fetches them."""
    first, last = planted.missing[0]["trade_seq"], planted.missing[-1]["trade_seq"]
    visited.page.click("#calendar button.missing")
    visited.wait_for(lambda: "BTC-PERPETUAL" in visited.text("#gaps"))
    assert f"{first:,} – {last:,}" in visited.text("#gaps")
    assert "tape repair" in visited.text("#gaps")
    visited.page.keyboard.press("ArrowLeft")
    visited.page.keyboard.press("Enter")
    visited.wait_for(lambda: "is loaded" in visited.text("#gaps"))
    visited.page.click("#gaps button")
    assert not visited.page.is_visible("#gaps")


def test_zoom_loads_finer_candles(visited: Visit, planted: Planted) -> None:
    """Twice as close by keyboard, then an hour: candles of a minute, one for each minute with trades."""
    visited.page.focus("#zoom button[aria-label='Zoom in']")
    visited.page.keyboard.press("Enter")
    visited.wait_for(lambda: visited.text("#level").startswith("1m candles"))
    visited.page.click("#timeframe button[data-value='1h']")
    visited.wait_for(lambda: shown_ms(visited)[2] - shown_ms(visited)[1] == HOUR_MS)
    stored = planted.stored("BTC-PERPETUAL")

    def minutes() -> int:
        """Of the time that is shown now: on a slow machine it moves on meanwhile."""
        _, since, until = shown_ms(visited)
        return len({each["timestamp"] // 60_000 for each in stored if since <= each["timestamp"] < until})

    visited.wait_for(lambda: abs(visited.count("#candles .boxlayer path.box") - minutes()) <= 1)
    drawn = visited.count("#candles .boxlayer path.box")
    assert visited.count("#candles .barlayer .point") == 2 * drawn
    visited.page.click("#basis button[data-value='book']")
    visited.wait_for(lambda: 0 < visited.count("#candles .barlayer .point") <= drawn)
    visited.page.click("#basis button[data-value='tape']")
    visited.page.click("#timeframe button[data-value='24h']")
    visited.wait_for(lambda: visited.text("#level").startswith("15m candles"))


def test_another_instrument_can_be_chosen(visited: Visit) -> None:
    """By its name; an unknown one is a sentence."""
    visited.page.fill("#instrument", "eth-perpetual")
    visited.page.press("#instrument", "Enter")
    visited.wait_for(lambda: visited.page.input_value("#instrument") == "ETH-PERPETUAL")
    visited.wait_for(lambda: float(visited.text("#price b").replace(",", "")) < 10_000)
    visited.page.fill("#instrument", "NO-SUCH")
    visited.page.press("#instrument", "Enter")
    visited.wait_for(lambda: "No instrument is named NO-SUCH" in visited.text("#market"))
    visited.page.fill("#instrument", "BTC-PERPETUAL")
    visited.page.press("#instrument", "Enter")
    visited.wait_for(lambda: drawn_candles(visited, "BTC-PERPETUAL") > 20)


def test_every_picture_can_be_taken_as_data(visited: Visit, served: str) -> None:
    """The CSV of the candles has a row for each candle; each card with a chart has links."""
    for card in CARDS[1:-1]:
        formats = visited.page.locator(f"#{card} footer a").all_inner_texts()
        assert formats == ["CSV", "Parquet", "JSON"]
    address = visited.page.get_attribute("#market footer a[data-format=csv]", "href")
    answer = visited.page.request.get(served.rstrip("/") + str(address))
    header, *rows = answer.text().strip().split("\n")
    assert header.startswith('"instrument_name"')
    assert abs(len(rows) - drawn_candles(visited, "BTC-PERPETUAL")) <= 1


def test_page_follows_new_loads(visited: Visit, planted: Planted) -> None:
    """A minute of trades later it shows more trades, without being loaded again."""
    before = visited.text("#figures div:first-child dd")
    planted.now_ms += 60_000
    planted.user.exchange.now_ms = planted.now_ms
    planted.user.shell.ok("dlt", "pipeline", "run")
    visited.wait_for(lambda: visited.text("#figures div:first-child dd") != before)
    count = int(visited.text("#figures div:first-child dd:nth-of-type(1)").replace(",", ""))
    assert count == planted.user.client.query("select count() from deribit.trades").result_rows[0][0]


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 390)], ids=["light-desktop", "dark-phone"]
)
def test_page_is_accessible(served: str, visit: Visitor, scheme: str, width: int) -> None:
    """axe finds nothing serious, with a list of gaps open; nothing is wider than the screen."""
    here = visit(served, viewport={"width": width, "height": 844}, color_scheme=scheme)
    here.wait_for(lambda: here.count(".card[data-version]") >= 8, 60)
    here.page.click("#calendar button.missing")
    here.wait_for(lambda: here.count("#gaps table") == 1)
    violations = Axe().run(here.page).response["violations"]
    serious = [
        (each["id"], [node["html"][:200] for node in each["nodes"][:3]])
        for each in violations
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert here.page.evaluate("document.documentElement.scrollWidth") == width
    here.page.context.close()


def test_funding_without_a_perpetual_is_none(served: str, visit: Visitor) -> None:
    """A database of options only has no funding; the card does not wait for any."""
    here = visit("about:blank")
    here.page.route(
        "**/v1/instruments?*kind=future*",
        lambda route: route.fulfill(json={"items": [], "next_cursor": None, "coverage": None}),
    )
    here.page.goto(served)
    here.wait_for(lambda: "No perpetual of BTC is loaded." in here.text("#funding-card"), 60)
    here.page.context.close()


def test_list_of_routes_is_shown_with_its_style(served: str, visit: Visitor) -> None:
    """Of /docs, too, the content security policy blocks nothing."""
    here = visit(f"{served}docs")
    assert (
        here.page.evaluate("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"
    )
    assert here.errors == []
    here.page.context.close()


def test_server_that_ends_is_reported(planted: Planted, visit: Visitor, tmp_path: Path) -> None:
    """In a sentence with the command that starts it; the data remain."""
    with serving(planted.user.shell, tmp_path) as url:
        here = visit(url)
        here.wait_for(lambda: here.count("#market[data-version]"), 60)
    here.wait_for(lambda: here.page.is_visible("#banner"))
    assert "No server answers at 127.0.0.1" in here.text("#banner")
    assert "make serve" in here.text("#banner")
    assert here.count("#candles .boxlayer path.box") > 20
    here.page.context.close()


def test_database_without_data_is_reported(planted: Planted, visit: Visitor, tmp_path: Path) -> None:
    """In a sentence with the command that loads some; each card refers to it."""
    nothing = {"TAPE_SCHEMA": "nothing", "TAPE_RAW_SCHEMA": "nothing_raw"}
    with serving(planted.user.shell, tmp_path, **nothing) as url:
        here = visit(url)
        here.wait_for(lambda: here.page.is_visible("#banner"))
        assert "make run" in here.text("#banner") or "dlt pipeline run" in here.text("#banner")
        for card in ("#coverage", "#market", "#dvol-card"):
            assert "Nothing to show." in here.text(card)
        assert here.count("svg.main-svg") == 0
        here.page.context.close()


def test_wrong_key_is_reported_and_the_right_one_accepted(
    planted: Planted, visit: Visitor, tmp_path: Path
) -> None:
    """Without a key and with a wrong one the page asks for it; with the right one it shows the data."""
    key = secrets.token_hex(32)
    keys = tmp_path / "keys"
    keys.touch(mode=0o600)
    keys.write_text(f"alice {key}\n")
    with serving(planted.user.shell, tmp_path, "--key-file", str(keys)) as url:
        here = visit(url)
        for wrong in ("", "0" * 64):
            if wrong:
                here.page.fill("#key", wrong)
                here.page.press("#key", "Enter")
            here.wait_for(lambda: here.page.is_visible("#banner form"))
            assert "key" in here.text("#banner")
            assert here.count("svg.main-svg") == 0
        here.page.fill("#key", key)
        here.page.press("#key", "Enter")
        here.wait_for(lambda: here.count("#market[data-version]"), 60)
        here.wait_for(lambda: not here.page.is_visible("#banner"))
        with here.page.expect_download() as download:
            here.page.click("#market footer a[data-format=csv]")
        assert Path(download.value.path()).read_text().startswith('"instrument_name"')
        here.page.context.close()
