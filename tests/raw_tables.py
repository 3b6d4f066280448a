"""Small made-up raw tables under the column names of OMOP CDM, the SNDS and the RPU, with the rows
that their mappings must give.

The expected rows are computed here person by person and day by day, by loops that share nothing
with the SQL."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas

KEYS = [
    "DCT_ORD_NUM",
    "FLX_DIS_DTD",
    "FLX_EMT_NUM",
    "FLX_EMT_ORD",
    "FLX_EMT_TYP",
    "FLX_TRT_DTD",
    "ORG_CLE_NUM",
    "PRS_ORD_NUM",
    "REM_TYP_AFF",
]
A, B, BLEEDING, OTHER = 1310149, 1309944, 192671, 316866
SEASONS = {12: "hiver", 1: "hiver", 2: "hiver", 3: "printemps", 4: "printemps", 5: "printemps"} | {
    6: "ete", 7: "ete", 8: "ete", 9: "automne", 10: "automne", 11: "automne"
}  # fmt: skip
Tables = dict[str, pandas.DataFrame]


# -- OMOP
def omop(seed: int, people: int) -> Tables:
    rng = np.random.default_rng(seed)
    first = date(2023, 1, 1)
    person, periods, drugs, conditions = [], [], [], []
    for i in range(people):
        key = seed * 100_000 + i
        person.append(
            {"person_id": key, "gender_concept_id": 8507 + 25 * (i % 2), "year_of_birth": 1950}
        )
        last = first + timedelta(int(rng.integers(150, 340)))
        periods.append(
            {
                "observation_period_id": key,
                "person_id": key,
                "observation_period_start_date": first,
                "observation_period_end_date": last,
            }
        )
        for concept in (A, B):
            begin = first + timedelta(int(rng.integers(20, 100)))
            drugs.append(
                {
                    "drug_exposure_id": 2 * key + (concept == B),
                    "person_id": key,
                    "drug_concept_id": concept,
                    "drug_exposure_start_date": begin,
                    "drug_exposure_end_date": begin + timedelta(int(rng.integers(10, 60))),
                }
            )
        for n in range(int(rng.integers(0, 3))):
            conditions.append(
                {
                    "condition_occurrence_id": 10 * key + n,
                    "person_id": key,
                    "condition_concept_id": BLEEDING if rng.random() < 0.8 else OTHER,
                    "condition_start_date": first + timedelta(int(rng.integers(0, 340))),
                }
            )
    return {
        "person": pandas.DataFrame(person),
        "observation_period": pandas.DataFrame(periods),
        "drug_exposure": pandas.DataFrame(drugs),
        "condition_occurrence": pandas.DataFrame(conditions),
    }


def expected_periods(tables: Tables) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Days and events by person, window and season."""
    days: Counter[tuple[str, str, str]] = Counter()
    events: Counter[tuple[str, str, str]] = Counter()
    drugs = list(tables["drug_exposure"].itertuples())
    bled = Counter(
        (condition.person_id, condition.condition_start_date)
        for condition in tables["condition_occurrence"].itertuples()
        if condition.condition_concept_id == BLEEDING
    )
    for period in tables["observation_period"].itertuples():
        mine = [drug for drug in drugs if drug.person_id == period.person_id]
        day = period.observation_period_start_date
        while day <= period.observation_period_end_date:
            on = {
                drug.drug_concept_id
                for drug in mine
                if drug.drug_exposure_start_date <= day <= drug.drug_exposure_end_date
            }
            before = any(1 <= (drug.drug_exposure_start_date - day).days <= 14 for drug in mine)
            window = {(A,): "a_seul", (B,): "b_seul", (B, A): "a_et_b"}.get(
                tuple(sorted(on)), "avant" if before else "aucune"
            )
            key = (str(period.person_id), window, SEASONS[day.month])
            days[key] += 1
            events[key] += bled[period.person_id, day]
            day += timedelta(1)
    return {key: (days[key], events[key]) for key in days}


# -- SNDS
DEPARTMENTS = {"035": "bretagne", "075": "idf", "031": "occitanie", "013": "paca", "069": None}


def snds(seed: int, people: int) -> tuple[Tables, dict[tuple[str, str], tuple[Any, ...]]]:
    """The raw tables, and the expected rows: by patient and step, the day, region, follow-up and
    what ends it."""
    rng = np.random.default_rng(seed)
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("ir_ben_r", "er_prs_f", "er_pha_f", "t_mcoaab", "t_mcoaac")
    }
    expected: dict[tuple[str, str], tuple[Any, ...]] = {}
    for i in range(people):
        patient = f"{seed:02d}{i:015d}"
        department = list(DEPARTMENTS)[int(rng.integers(0, 5))]
        begun = date(2020, 1, 1) + timedelta(int(rng.integers(0, 365)))
        root = ["05K05", "05K06", "05K10", "05M04"][int(rng.integers(0, 4))]
        months = int(rng.integers(1, 40))
        end = _later(begun, months)
        ended_by = ["aucune", "deces", "readmission"][int(rng.integers(0, 3))]
        statin, seen = int(rng.integers(0, 60)), int(rng.integers(1, 500))
        _person(tables, patient, department, end if ended_by == "deces" else None)
        _stay(tables, f"{seed}{i}a", patient, begun, root, "I21.0" if i % 2 else "I2100")
        _stay(tables, f"{seed}{i}b", patient, begun - timedelta(300), "05M09", "I50.0")
        if ended_by == "readmission":
            _stay(tables, f"{seed}{i}c", patient, end, "05M04", "I22")
        _service(tables, patient, begun + timedelta(statin), "3313", "3400930000018")
        _service(tables, patient, begun + timedelta(seen), "1111", None)
        _service(tables, patient, begun - timedelta(9), "1111", None)
        if DEPARTMENTS[department] is None:
            continue
        ending = (24, "aucune") if ended_by == "aucune" or months >= 24 else (months, ended_by)
        region = DEPARTMENTS[department]
        expected[patient, "usic"] = (0, region, *ending)
        if root != "05M04":
            expected[patient, "coronarographie"] = (0, region, None, None)
        if root in ("05K05", "05K06"):
            expected[patient, "angioplastie"] = (0, region, None, None)
        expected[patient, "statine"] = (statin, region, None, None)
        if seen <= 400:
            expected[patient, "consultation"] = (seen, region, None, None)
    drugs = [
        {"PHA_CIP_C13": "3400930000018", "PHA_ATC_CLA": "C10AA05"},
        {"PHA_CIP_C13": "3400930000025", "PHA_ATC_CLA": "N02BE01"},
    ]
    frames = {name: pandas.DataFrame(rows) for name, rows in tables.items()}
    return frames | {"ir_pha_r": pandas.DataFrame(drugs)}, expected


def _later(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    # safely in that month of follow-up
    return date(year, month + 1, min(day.day, 28)) + timedelta(3)


def _french(day: date | None) -> str:
    return "01/01/1600" if day is None else day.strftime("%d/%m/%Y")


def _person(tables: Any, patient: str, department: str, death: date | None) -> None:
    tables["ir_ben_r"].append(
        {"BEN_NIR_PSA": patient, "BEN_DCD_DTE": _french(death), "BEN_RES_DPT": department}
    )


def _stay(tables: Any, stay: str, patient: str, day: date, root: str, diagnosis: str) -> None:
    key = {"ETA_NUM": "350000001", "RSA_NUM": stay}
    tables["t_mcoaab"].append({**key, "GRG_GHM": root + "1", "DGN_PAL": diagnosis})
    tables["t_mcoaac"].append({**key, "NIR_ANO_17": patient, "EXE_SOI_DTD": _french(day)})


def _service(tables: Any, patient: str, day: date, nature: str, drug: str | None) -> None:
    number = len(tables["er_prs_f"])
    key = dict.fromkeys(KEYS, "1") | {"DCT_ORD_NUM": str(number)}
    row = {
        "BEN_NIR_PSA": patient,
        "EXE_SOI_DTD": _french(day),
        "PRS_NAT_REF": nature,
        "DPN_QLF": "0",
    }
    tables["er_prs_f"].append({**key, **row})
    if drug is not None:
        tables["er_pha_f"].append({**key, "PHA_PRS_C13": drug, "PHA_ACT_QSN": "1"})
    else:
        tables["er_pha_f"].append({**key, "PHA_PRS_C13": "3400930000025", "PHA_ACT_QSN": "2"})


# -- RPU
SYNDROMES = {
    "J21.9": "bronchiolite",
    "J101": "grippe",
    "A09": "gastro-enterite",
    "J45.0": "asthme",
    "I21.0": "iam",
    "I63.9": "avc",
    "Z76.0": "autre",
}
PLACES = {"35000": "bre", "75013": "idf", "20200": "cor", "97400": "reu", "69003": "ara"}


def rpu(seed: int, visits: int) -> tuple[pandas.DataFrame, Counter[tuple[int, str, str, str]]]:
    """The export, and the expected visits by week, region, age group and syndrome."""
    rng = np.random.default_rng(seed)
    rows, expected = [], Counter()
    for i in range(visits):
        code = list(SYNDROMES)[int(rng.integers(0, len(SYNDROMES)))]
        place = list(PLACES)[int(rng.integers(0, len(PLACES)))]
        days, years = int(rng.integers(0, 3200)), int(rng.integers(0, 100))
        day = date(2018, 1, 1) + timedelta(days)
        born = date(day.year - years, 1, 1)
        rows.append(
            {
                "ORDRE": i,
                "CP": place,
                "NAISSANCE": _french(born),
                "SEXE": "MF"[i % 2],
                "ENTREE": f"{_french(day)} {i % 24:02d}:30",
                "DP": code,
            }
        )
        group = next(
            name
            for limit, name in (
                (5, "0-4"),
                (15, "5-14"),
                (65, "15-64"),
                (80, "65-79"),
                (200, "80+"),
            )
            if years < limit
        )
        expected[days // 7, PLACES[place], group, SYNDROMES[code]] += 1
    return pandas.DataFrame(rows), expected


def as_csv(table: pandas.DataFrame, path: Path) -> None:
    """As French exports are written."""
    table.to_csv(path, sep=";", index=False, encoding="cp1252")
