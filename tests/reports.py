"""A released study of made-up people with most of what a report can show, in French and English."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas

import federation as fed

N = 3000
CONTRACT = {
    "dataset": "people", "version": 1, "unit": "row",
    "columns": {
        "age": {
            "type": "number", "range": [18, 90], "unit": "years",
            "description": {"fr": "Âge à l'entrée", "en": "Age at entry"},
        },
        "sex": {
            "type": "category", "levels": ["F", "M"],
            "description": {"fr": "Sexe", "en": "Sex"},
        },
        "arm": {
            "type": "category", "levels": ["=1+1", "drug"],
            "description": {"fr": "Bras de l'essai"},
        },
        "stay": {"type": "number", "range": [0, 60], "step": 1, "unit": "days",
                 "description": {"fr": "Durée du séjour", "en": "Length of stay"}},
        "died": {"type": "boolean", "description": {"fr": "Décès", "en": "Death"}},
    },
}  # fmt: skip


def people() -> pandas.DataFrame:
    draw = np.random.default_rng(5)
    age, male = draw.integers(18, 90, N).astype(float), draw.random(N) < 0.5
    drug = draw.random(N) < 0.5
    return pandas.DataFrame(
        {
            "age": age,
            "sex": np.where(male, "M", "F"),
            "arm": np.where(drug, "drug", "=1+1"),
            "stay": draw.exponential(12 + 6 * drug).round().clip(1, 60),
            "died": draw.random(N) < 1 / (1 + np.exp((75 - age) / 15 + 0.5 * drug)),
        }
    )


@cache
def result() -> fed.Result:
    study = (
        fed.Study(
            "people",
            title="Une étude d'essai",
            question="Le traitement réduit-il la mortalité ?",
            mode="exact",
        )
        .describe("profile", ["age", "stay", "sex"])
        .crosstab("sexes", "sex", "arm")
        .anova("ages", "age", "arm")
        .glm("risk", "died ~ age * arm + sex", family="binomial", results="both", conf_level=0.9)
        .kaplan_meier("survival", "Surv(stay, died) ~ arm")
        .cox("hazard", "Surv(stay, died) ~ age + sex")
    )
    rows = people()
    with fed.simulate({f"node-{i}": rows[i::3] for i in range(3)}, CONTRACT) as nodes:
        return study.run(nodes, progress=False)
