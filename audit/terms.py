"""Which records a use concerns and under what they may be used: set-wise, one statement for any number of objects."""

import json
from collections.abc import Iterable, Mapping, Sequence

from audit.catalogue import Catalogue
from audit.policy import Terms

_TERMS = "consent, expires, source, substr(created, 1, 10) AS created"
_CONCERNED = f"""
WITH RECURSIVE
    asked(id) AS (
        SELECT DISTINCT o.id FROM json_each(?) JOIN objects o ON o.id = json_each.value WHERE o.patient <> ''),
    up(top, id) AS (
        SELECT id, id FROM asked
        UNION SELECT up.top, p.parent FROM up JOIN parents p ON p.child = up.id
        JOIN objects o ON o.id = p.parent WHERE o.patient <> ''),
    found(top, record) AS (
        SELECT up.top, r.id FROM up JOIN records r ON r.image = up.id
        UNION SELECT up.top, r.id FROM up JOIN records r ON r.report = up.id),
    lost(patient) AS (
        SELECT DISTINCT o.patient FROM asked JOIN objects o ON o.id = asked.id
        WHERE asked.id NOT IN (SELECT top FROM found)),
    concerned(id) AS (
        SELECT record FROM found
        UNION SELECT r.id FROM lost JOIN records r ON r.patient = lost.patient)
SELECT {_TERMS}, count(*) AS n FROM concerned JOIN records USING (id) GROUP BY 1, 2, 3, 4
UNION ALL
SELECT '', '', '', '', count(*) FROM lost WHERE patient NOT IN (SELECT patient FROM records) HAVING count(*) > 0
"""  # noqa: S608 nothing but names of columns
"""An object that leads to no record (a cache without parents) concerns all of its patient's; a patient without any
stands for one record without consent. Objects of no single patient (packed sets, models) concern none."""


def concerned(catalogue: Catalogue, object_ids: Iterable[str]) -> Mapping[Terms, int]:
    """The terms of the records that objects hold or were made from, with how many records stand under each."""
    rows = catalogue.select(_CONCERNED, json.dumps(list(object_ids)))
    return {Terms(row["consent"], row["expires"], row["source"], row["created"]): row["n"] for row in rows}


def of_records(catalogue: Catalogue, record_ids: Sequence[str]) -> Mapping[str, Terms]:
    """The terms of each of these records that there is."""
    query = f"SELECT records.id, {_TERMS} FROM json_each(?) JOIN records ON records.id = json_each.value"  # noqa: S608
    rows = catalogue.select(query, json.dumps(list(record_ids)))
    return {row["id"]: Terms(row["consent"], row["expires"], row["source"], row["created"]) for row in rows}
