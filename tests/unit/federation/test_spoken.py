"""The verbs of `import federation as fed` speak the reader's language, and results stay English."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import pytest

import federation as fed
from federation import errors, language

CONTRACT = {
    "dataset": "people",
    "version": 1,
    "unit": "row",
    "columns": {"age": {"type": "number", "range": [18, 110]}, "died": {"type": "boolean"}},
}


def frame(seed: int, low: int = 20) -> pandas.DataFrame:
    draw = np.random.default_rng(seed)
    return pandas.DataFrame({"age": draw.integers(low, 90, 200), "died": draw.random(200) < 0.4})


FRAMES = {"lyon": frame(1), "nice": frame(2), "brest": frame(3)}


def study(model: str, **options: Any) -> fed.Study:
    return fed.Study("people", mode="exact").glm("m", model, family="binomial", **options)


def run(model: str, **options: Any) -> fed.Result:
    with fed.simulate(FRAMES, CONTRACT) as nodes:
        return study(model, **options).run(nodes, progress=False)


@pytest.mark.parametrize(
    ("mistake", "english", "french"),
    [
        (
            lambda: run("died ~ aeg"),
            "unknown column 'aeg'",
            "étude people\u00a0: analyses.m: colonne inconnue\u00a0: 'aeg'",
        ),
        (lambda: run("died = age"), "`=` is no operator here", "n'est pas un opérateur ici"),
        (lambda: run("died ~ (age"), "a bracket or quote is open", "reste ouvert"),
        (lambda: run("died ~ "), "nothing on the right of ~", "rien à droite de ~"),
        (lambda: run("died ~ age", conf_level="x"), "must be a number", "doit être un nombre"),
        (lambda: fed.simulate(frame(1), CONTRACT), "are a DataFrame", "donnés comme DataFrame"),
        (lambda: study("died ~ age").run("lyon"), "and not on a str", "et non sur str"),
        (lambda: run("died ~ age").export("t", "txt"), "none of xlsx", "ni xlsx"),
        (lambda: run("died ~ age")["m"].forest().save("f.pdf"), ".svg or .png", ".svg ou .png"),
        (lambda: run("died ~ age")["x"], "no analysis 'x'", "pas d'analyse 'x'"),
        (lambda: fed.compare("none.json", "none.json"), "not a result", "pas un résultat"),
    ],
)
def test_a_mistake_is_told_in_the_language_of_the_environment(
    mistake: Callable[[], Any], english: str, french: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code, expected in (("en", english), ("fr", french)):
        monkeypatch.setenv("HDH_LANG", code)
        with pytest.raises(errors.InputError) as raised:
            mistake()
        assert expected in str(raised.value)
    assert language.current() == "en"  # as it was before


def test_a_result_stays_english_and_its_reason_is_french_where_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HDH_LANG", "fr")
    few = {name: rows[:8] for name, rows in FRAMES.items()}
    with fed.simulate(few, CONTRACT) as nodes:
        result = study("died ~ age").run(nodes, progress=False)
    assert "fewer than 11 people" in result.document["analyses"]["m"]["reason"]
    with pytest.raises(
        errors.InputError, match="m a échoué\u00a0: nœuds ayant donné une part\u00a0: 0, minimum 3"
    ):
        result["m"].tidy()
    assert "moins de 11 personnes" in result._repr_html_()


def test_the_methods_and_the_report_are_french_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    result = run("died ~ age")
    monkeypatch.setenv("HDH_LANG", "fr")
    assert "régression logistique" in result.methods()
    assert '<html lang="fr"' in result.report(tmp_path).read_text(encoding="utf-8")
