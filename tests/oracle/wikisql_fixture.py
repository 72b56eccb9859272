#!/usr/bin/env python3
"""Writes tests/fixtures/wikisql: thirty questions of our own on four tables of our own, in the format of
WikiSQL's published files (test.jsonl, test.tables.jsonl, test.db), and expected.jsonl with what each
gold query gives, computed here as WikiSQL's own engine does (values in lower case, numbers for columns
of type real). Needs Python alone.

    python tests/oracle/wikisql_fixture.py
"""
import json
import os
import re
import sqlite3

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "..", "fixtures", "wikisql")
AGGREGATES = ["", "MAX", "MIN", "COUNT", "SUM", "AVG"]
OPERATORS = ["=", ">", "<"]

TABLES = [
    {"id": "1-90001-1", "page_title": "Lighthouses of an invented coast",
     "header": ["Name", "Built", "Height (m)", "Keeper", "Light"], "types": ["text", "real", "real", "text", "text"],
     "rows": [["North Head", 1871, 24.5, "Ada Brook", "white"], ["Gull Rock", 1902, 31, "Ines Vale", "red"],
              ["Saint Orla", 1854, 18.2, "Tom O'Dell", "white"], ["Long Spit", 1933, 40, "Ada Brook", "green"],
              ["Far Skerry", 1902, 27.5, "None", "white"], ["Old Mole", 1820, 12, "Piet Maas", "red"]]},
    {"id": "1-90002-3", "page_title": "A league of model trains",
     "header": ["Team", "Played", "Won", "Points", "Home town"], "types": ["text", "real", "real", "real", "text"],
     "rows": [["Blue Engines", 10, 7, 22, "Arden"], ["Night Freight", 10, 6, 19, "Molby"],
              ["Steam & Sons", 9, 6, 18, "Arden"], ["The Shunters", 10, 2, 8, "Quill"],
              ["Red Signal", 9, 0, 2, "Molby"], ["Branch Line", 10, 4, 13, "Tarn"]]},
    {"id": "2-90003-7", "page_title": "Recipes of a small kitchen",
     "header": ["Dish", "Minutes", "Serves", "Main ingredient"], "types": ["text", "real", "real", "text"],
     "rows": [["Leek pie", 75, 6, "leek"], ["Bean stew", 120, 8, "beans"], ["Green soup", 35, 4, "peas"],
              ["Plum cake", 60, 12, "plums"], ["Flat bread", 25, 4, "flour"], ["Pea fritters", 30, 4, "peas"]]},
    {"id": "2-90004-2", "page_title": "Moons of an invented planet",
     "header": ["Moon", "Found in", "Found by", "Days per orbit", "Notes"],
     "types": ["text", "real", "text", "real", "text"],
     "rows": [["Asha", 1911, "R. Lund", 1.5, "ice"], ["Belo", 1911, "R. Lund", 4.25, "rock"],
              ["Cirra", 1987, "M. Okoro", 12, "ice"], ["Doon", 2003, "M. Okoro", 30.75, "unknown"],
              ["Ettu", 2003, "probe", 31, "rock"]]},
]

# table, question, sel, agg, conds
QUESTIONS = [
    (0, "Who keeps the lighthouse Gull Rock?", 3, 0, [[0, 0, "Gull Rock"]]),
    (0, "When was Saint Orla built?", 1, 0, [[0, 0, "Saint Orla"]]),
    (0, "How many lighthouses does Ada Brook keep?", 0, 3, [[3, 0, "Ada Brook"]]),
    (0, "How tall is the tallest lighthouse with a white light?", 2, 1, [[4, 0, "white"]]),
    (0, "Which lighthouses are taller than 25 m?", 0, 0, [[2, 1, 25]]),
    (0, "Which red lighthouse was built before 1900?", 0, 0, [[4, 0, "red"], [1, 2, 1900]]),
    (0, "What is the mean height of the lighthouses built in 1902?", 2, 5, [[1, 0, 1902]]),
    (0, "Which lighthouse does Tom O'Dell keep?", 0, 0, [[3, 0, "Tom O'Dell"]]),
    (1, "How many points have the Blue Engines?", 3, 0, [[0, 0, "Blue Engines"]]),
    (1, "Which teams come from Arden?", 0, 0, [[4, 0, "Arden"]]),
    (1, "How many teams have played 10 games?", 0, 3, [[1, 0, 10]]),
    (1, "How many points do the teams of Molby have together?", 3, 4, [[4, 0, "Molby"]]),
    (1, "Where are Steam & Sons at home?", 4, 0, [[0, 0, "Steam & Sons"]]),
    (1, "What is the smallest number of points?", 3, 2, []),
    (1, "Which team won more than 5 games and has fewer than 19 points?", 0, 0, [[2, 1, 5], [3, 2, 19]]),
    (1, "How many games did Red Signal win?", 2, 0, [[0, 0, "Red Signal"]]),
    (2, "How long does bean stew take?", 1, 0, [[0, 0, "Bean stew"]]),
    (2, "Which dishes have peas as the main ingredient?", 0, 0, [[3, 0, "peas"]]),
    (2, "How many dishes serve 4?", 0, 3, [[2, 0, 4]]),
    (2, "How long does the quickest dish take?", 1, 2, []),
    (2, "Which dish takes less than 40 minutes and is made of flour?", 0, 0, [[1, 2, 40], [3, 0, "flour"]]),
    (2, "How many does the largest dish made in more than 50 minutes serve?", 2, 1, [[1, 1, 50]]),
    (2, "What is the main ingredient of plum cake?", 3, 0, [[0, 0, "Plum cake"]]),
    (3, "Who found the moon Cirra?", 2, 0, [[0, 0, "Cirra"]]),
    (3, "Which moons did R. Lund find?", 0, 0, [[2, 0, "R. Lund"]]),
    (3, "How many moons were found in 2003?", 0, 3, [[1, 0, 2003]]),
    (3, "How many days does Belo take for an orbit?", 3, 0, [[0, 0, "Belo"]]),
    (3, "What is the longest orbit of a moon of ice?", 3, 1, [[4, 0, "ice"]]),
    (3, "Which moon of rock was found after 1950?", 0, 0, [[4, 0, "rock"], [1, 1, 1950]]),
    (3, "What is the mean orbit of M. Okoro's moons?", 3, 5, [[2, 0, "M. Okoro"]]),
]


def table_name(table):
    return "table_" + table["id"].replace("-", "_")


def run(db, table, sel, agg, conds):
    column = f"col{sel}" if not agg else f"{AGGREGATES[agg]}(col{sel})"
    where, values = [], []
    for index, op, value in conds:
        if isinstance(value, str):
            value = value.lower()
            if table["types"][index] == "real":
                value = float(re.findall(r"[-+]?\d*\.\d+|\d+", value.replace(",", ""))[0])
        where.append(f"col{index} {OPERATORS[op]} ?")
        values.append(value)
    sql = f"SELECT {column} AS result FROM {table_name(table)}" + (" WHERE " + " AND ".join(where) if where else "")
    return [row[0] for row in db.execute(sql, values)]


def main():
    os.makedirs(FOLDER, exist_ok=True)
    path = os.path.join(FOLDER, "test.db")
    if os.path.exists(path):
        os.remove(path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA page_size = 512")
    for table in TABLES:
        columns = ", ".join(f"col{i} {kind}" for i, kind in enumerate(table["types"]))
        db.execute(f"CREATE TABLE {table_name(table)} ({columns})")
        for row in table["rows"]:
            cells = [cell.lower() if isinstance(cell, str) else cell for cell in row]
            db.execute(f"INSERT INTO {table_name(table)} VALUES ({', '.join('?' * len(cells))})", cells)
    db.commit()
    with open(os.path.join(FOLDER, "test.tables.jsonl"), "w", encoding="utf-8") as f:
        for table in TABLES:
            f.write(json.dumps(table) + "\n")
    with open(os.path.join(FOLDER, "test.jsonl"), "w", encoding="utf-8") as f, \
            open(os.path.join(FOLDER, "expected.jsonl"), "w", encoding="utf-8") as e:
        for which, question, sel, agg, conds in QUESTIONS:
            table = TABLES[which]
            f.write(json.dumps({"phase": 1, "table_id": table["id"], "question": question,
                                "sql": {"sel": sel, "conds": conds, "agg": agg}}) + "\n")
            e.write(json.dumps({"result": run(db, table, sel, agg, conds)}) + "\n")
    db.close()


if __name__ == "__main__":
    main()
