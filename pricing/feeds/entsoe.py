"""Day-ahead power prices of any European bidding zone, from the transparency platform of ENTSO-E.

Source: "Energy prices" [12.1.D] of the platform's RESTful API, document type A44, an XML document of IEC 62325-451-3. Prices
are per MWh in the zone's currency. A zone may have several auctions: ``sequence`` 1 is the coupled European one, in Germany 2
is that of EXAA. In a curve of type A03 a point holds until the next one that is given; in one of type A01 a point that is
missing has no price. The answer "no data" is an acknowledgement document.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Literal
from xml.etree import ElementTree

import msgspec
from msgspec import Meta

from pricing.feeds import FeedChanged, FeedKind, FeedUnavailable, Http
from pricing.feeds.reading import TEXT_MAX, instant, number, plain
from pricing.feeds.series import KWH_PER_MWH, Reading, sound, steps_of
from pricing.listing import Listing, PowerPrice

Element = ElementTree.Element
# Three days of four auctions in quarters of an hour are 200 kB; a tree takes some thirty times its text.
_BYTES_MAX = 2 * 1024 * 1024
_TAGS_MAX = 150_000  # ENTRIES_MAX points of three elements each, and what is around them
_DAY_S = 86_400.0
_STEP_S = {"PT15M": 900.0, "PT30M": 1800.0, "PT60M": 3600.0, "PT1H": 3600.0}
_DAY_AHEAD = "A01"
_TOKEN = re.compile(r"[0-9A-Za-z-]{16,80}")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``area``: EIC code of a bidding zone, and the product's name. ``token_env``: variable with the security token.

    ``usd_per_currency`` converts other currencies than the euro; a price in one that is not there is no price.
    ``resolution`` picks one where the platform publishes the same auction in several.
    """

    token_env: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z")]
    area: Annotated[str, Meta(pattern=r"^[0-9A-Z-]{16}\Z")]
    usd_per_eur: Annotated[float, Meta(gt=0, lt=100)]
    usd_per_currency: dict[Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")], Annotated[float, Meta(gt=0, lt=100)]] = {}
    sequence: Annotated[int, Meta(ge=1, le=99)] = 1
    resolution: Literal["PT15M", "PT30M", "PT60M"] | None = None
    url: Annotated[str, Meta(pattern=r"^https?://[^/?#]+/[^?#]*\Z")] = "https://web-api.tp.entsoe.eu/api"


def feed(http: Http, options: Options, now_s: float) -> Iterable[Listing] | None:
    """One listing from yesterday to tomorrow. Raises FeedUnavailable without a token and where there is no data."""
    token = os.environ.get(options.token_env, "").strip()
    if not _TOKEN.fullmatch(token):
        raise FeedUnavailable(f"the environment variable {options.token_env} holds no security token")
    day_s = now_s // _DAY_S * _DAY_S
    body = http.get(
        options.url,
        {
            "securityToken": token,
            "documentType": "A44",
            "in_Domain": options.area,
            "out_Domain": options.area,
            "periodStart": f"{datetime.fromtimestamp(day_s - _DAY_S, UTC):%Y%m%d%H%M}",
            "periodEnd": f"{datetime.fromtimestamp(day_s + 2 * _DAY_S, UTC):%Y%m%d%H%M}",
        },
        bytes_max=_BYTES_MAX,
    )
    if body is None:
        return None
    root = _parsed(body.replace(token.encode(), b""))  # what it repeats must not get into an error
    kind = _local(root.tag)
    if kind == "Acknowledgement_MarketDocument":
        reason = " ".join(root.findtext("{*}Reason/{*}text", "").split())
        raise FeedUnavailable(f"no data: {plain(reason, TEXT_MAX) or 'no reason given'}")
    if kind != "Publication_MarketDocument":
        raise FeedChanged(f"the document is a {plain(kind)}, not a Publication_MarketDocument")
    return [Listing(options.area, PowerPrice(steps_of(_read(root, options))), now_s)]


def _parsed(body: bytes) -> Element:
    """The document as a tree. Raises FeedChanged for one that is large, declares a type or entities, or is no XML."""
    if len(body) > _BYTES_MAX:
        raise FeedChanged(f"a document of {len(body)} bytes")
    try:
        # Decoded here, since a declaration in another encoding would not be seen. A text is parsed as UTF-8 whatever it says
        # of itself, but for one: expat takes a zero byte after the first character for UTF-16.
        text = body.decode("utf-8-sig")
        if "\0" in text or "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise FeedChanged("the document declares a type or entities, or is not UTF-8")
        if text.count("<") > _TAGS_MAX:
            raise FeedChanged(f"a document of more than {_TAGS_MAX} tags")
        return ElementTree.fromstring(text)  # noqa: S314  without declarations nothing can be expanded or fetched
    except (ElementTree.ParseError, ValueError) as error:
        raise FeedChanged(f"the document is no XML: {plain(str(error))}") from None


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _some(parent: Element, tag: str, path: str) -> list[Element]:
    """The children of this name. Raises FeedChanged where there is none."""
    children = parent.findall(f"{{*}}{tag}")
    if not children:
        raise FeedChanged(f"{path}: no {tag}")
    return children


def _read(root: Element, options: Options) -> Iterator[Reading | str]:
    """Every point of the auction that is asked for as a reading in USD/kWh, or what is wrong with it."""
    for i, series in enumerate(_some(root, "TimeSeries", "document")):
        path = f"TimeSeries[{i}]"
        agreement = series.findtext("{*}contract_MarketAgreement.type", _DAY_AHEAD)
        sequence = series.findtext("{*}classificationSequence_AttributeInstanceComponent.position")
        if agreement != _DAY_AHEAD or (sequence is not None and sequence.strip() != str(options.sequence)):
            continue
        usd_per_kwh, curve = _unit(series, path, options) / KWH_PER_MWH, series.findtext("{*}curveType", "A01")
        if curve not in ("A01", "A03"):
            raise FeedChanged(f"{path}.curveType: {plain(curve)}")
        for j, period in enumerate(_some(series, "Period", path)):
            yield from _points(period, f"{path}.Period[{j}]", usd_per_kwh, curve == "A03", options.resolution)


def _unit(series: Element, path: str, options: Options) -> float:
    """USD per unit of the currency; the area and the measure are those that were asked for, or it is another source."""
    area = series.findtext("{*}in_Domain.mRID", options.area)
    if area != options.area:
        raise FeedChanged(f"{path}.in_Domain.mRID: {plain(area)}")
    measure = series.findtext("{*}price_Measure_Unit.name", "")
    if measure != "MWH":
        raise FeedChanged(f"{path}.price_Measure_Unit.name: {plain(measure) or 'missing'}")
    currency = series.findtext("{*}currency_Unit.name", "")
    usd = options.usd_per_eur if currency == "EUR" else options.usd_per_currency.get(currency)
    if usd is None:
        raise FeedChanged(f"{path}.currency_Unit.name: no exchange rate for {plain(currency) or 'a missing currency'}")
    return usd


def _points(
    period: Element, path: str, usd_per_kwh: float, holds: bool, resolution: str | None
) -> Iterator[Reading | str]:
    """The points of a period. ``holds``: each until the next given one (curve A03), one without a readable price as well."""
    named = period.findtext("{*}resolution", "")
    step_s = _STEP_S.get(named)
    if step_s is None:
        raise FeedChanged(f"{path}.resolution: {plain(named) or 'missing'}")
    if resolution is not None and step_s != _STEP_S[resolution]:
        return
    start_s = instant(period.findtext("{*}timeInterval/{*}start"))
    end_s = instant(period.findtext("{*}timeInterval/{*}end"))
    if start_s is None or end_s is None or not sound(start_s, end_s) or (end_s - start_s) % step_s:
        raise FeedChanged(f"{path}.timeInterval: not a whole number of {named}")
    count = int((end_s - start_s) / step_s)
    given: dict[int, float | None] = {}
    for k, point in enumerate(_some(period, "Point", path)):
        said, amount = point.findtext("{*}position", ""), point.findtext("{*}price.amount", "")
        position = int(said) if said.isascii() and said.isdigit() and len(said) < 9 else 0
        if not 1 <= position <= count or position in given:  # who holds until when would be a guess
            raise FeedChanged(f"{path}.Point[{k}].position: {plain(said) or 'missing'}")
        given[position] = number(amount)
        if given[position] is None:
            yield f"{path}.Point[{k}].price.amount: {plain(amount) or 'missing'}"
    ascending = sorted(given)
    for position, following in zip(ascending, [*ascending[1:], count + 1], strict=True):
        price, last = given[position], following if holds else position + 1
        value = None if price is None else price * usd_per_kwh
        yield Reading(f"{path}.Point", start_s + (position - 1) * step_s, start_s + (last - 1) * step_s, value)


KIND = FeedKind(feed=feed, options=Options)
