"""Which column is what: the names that people give to users, items, ratings and times.

A name that was given counts; else the first group of usual names of which the table has one. Two of a group leave it
open, and what is open is never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mrl.errors import ConfigError, DataError

ROLES = ("user", "item", "rating", "timestamp")
# In lower case without separators: `user_id`, `userId` and `User-ID` are the same. The first group that is found wins.
USUAL = {
    "user": (
        "user", "userid", "uid", "userno userkey usernumber userhash", "username",
        "customer customerid customerno custid customerkey client clientid visitor visitorid member memberid reviewer "
        "reviewerid rater raterid account accountid buyer buyerid shopper shopperid household householdid householdkey "
        "reader readerid listener listenerid viewer viewerid player playerid person personid profile profileid",
    ),
    "item": (
        "item", "itemid", "iid", "itemno itemkey itemnumber",
        "movie movieid film filmid product productid productno productkey productcode asin parentasin sku skuid "
        "stockcode article articleid song songid track trackid artist artistid album albumid book bookid isbn game "
        "gameid app appid business businessid venue venueid poi poiid location locationid news newsid video videoid "
        "recipe recipeid anime animeid course courseid job jobid hotel hotelid restaurant restaurantid listing "
        "listingid offer offerid goods goodsid document documentid doc docid content contentid paper paperid",
    ),
    "rating": (
        "rating ratings", "stars starrating overall score ratingscore bookrating movierating ratingvalue userrating",
        "label",
    ),
    "timestamp": (
        "timestamp", "time times ts unixtime unixtimestamp unixreviewtime",
        "date datetime when eventtime reviewtime reviewdate createdat created ratingtime ratingdate timestampms "
        "eventtimestamp purchasedate orderdate transactiondate transactiontimestamp invoicedate playedat",
    ),
}  # fmt: skip
TITLES = ("title", "name", "movietitle itemtitle producttitle booktitle itemname productname songname", "description")


def plain(name: str) -> str:
    """A column name in lower case without separators, and without the type of an atomic header."""
    return re.sub(r"[^a-z0-9]", "", name.partition(":")[0].lower())


def usual(names: Sequence[str], groups: Sequence[str]) -> list[str]:
    """The names of the first group that has any; two or more leave it open."""
    for group in groups:
        if found := [name for name in names if plain(name) in group.split()]:
            return found
    return []


def is_header(names: Sequence[str], given: Mapping[str, str | None]) -> bool:
    """Whether these fields of a first line name a user and an item column."""
    return all(given.get(role) in names or usual(names, USUAL[role]) for role in ("user", "item"))


def find_columns(
    place: str, names: Sequence[str], given: Mapping[str, str | None], needed: Sequence[str], notes: list[str]
) -> dict[str, str]:
    """The column of each role that there is. DataError, after `place`, where a needed one is missing or left open.

    given: role → name; None: look for a usual one; "": leave the role alone. Names that were decided on are noted.
    """
    columns: dict[str, str] = {}
    for role in ROLES:
        name, is_needed = given.get(role), role in needed
        if name == "" and role in ("rating", "timestamp"):
            continue
        found = [column for column in names if name in (column, column.partition(":")[0])]
        found = found if name else usual(names, USUAL[role])
        shown = ", ".join(names[:20])
        if len(found) == 1:
            columns[role] = found[0]
        elif len(found) > 1 and (name or is_needed):
            raise DataError(f"{place}: {role} may be {' or '.join(found)}; set {role}_column to the one that is meant")
        elif name:
            raise DataError(f"{place}: no column {name!r}; its columns are {shown}; set {role}_column to one of them")
        elif is_needed and role in ("user", "item"):
            remedy = f"set {role}_column to one of them, or put a header line on top if these are values"
            raise DataError(f"{place}: no {role} column; its columns are {shown}; {remedy}")
    if columns["user"] == columns["item"]:
        raise DataError(f"{place}: column {columns['user']!r} cannot be both user and item; set item_column")
    plainly = (*ROLES, "userid", "itemid") if all(":" in name for name in names) else ROLES
    decided = [role for role, name in columns.items() if not given.get(role) and plain(name) not in plainly]
    if decided:
        words = ", ".join(f"{role} = {columns[role]}" for role in decided)
        settings = ", ".join(f"{role}_column" for role in decided)
        notes.append(f"columns found by their usual names: {words}; set {settings} if others are meant")
    return columns


def check_given(columns: Mapping[str, str]) -> None:
    """Raise ConfigError where settings such as `user_column` are no names, or one stands for both sides."""
    for name, value in columns.items():
        if not isinstance(value, str) or (not value and name in ("user_column", "item_column")):
            raise ConfigError(f"{name}={value!r}: must be the name of a column, or None to look for a usual one")
    if columns.get("user_column", 0) == columns.get("item_column", 1):
        raise ConfigError(f"item_column={columns['item_column']!r}: is user_column too; give two columns")
