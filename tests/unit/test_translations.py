"""Every text that people read is in French, with the same places, and numbers and days follow; what
programs read is the same in both languages."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from babel.messages import pofile
from babel.messages.catalog import Message
from rich.text import Text

from aggregator.document import Document
from aggregator.report import html, words
from federation import language, message_texts
from federation.cli import console
from federation.cli.actions import tables
from tests import catalogue, reports

PLACE = re.compile(r"\{\w*(?:!r)?\}")
REMEDY = "run: make translations, and write what it says is missing into hdh.po"


def messages() -> list[Message]:
    with catalogue.PO.open("rb") as file:
        return [message for message in pofile.read_po(file, locale="fr") if message.id]


def forms(text: Any) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


# -- the catalogue
def test_every_text_of_the_code_has_its_french() -> None:
    lacking = catalogue.untranslated()
    assert not lacking, "\n".join([REMEDY, *lacking])


def test_no_text_of_the_catalogue_is_gone_from_the_code() -> None:
    assert catalogue.PO.read_text(encoding="utf-8") == catalogue.po_text(catalogue.updated()), (
        REMEDY
    )


SNIPPETS = {
    'raise StudyError(f"{path}: the cohort is odd; widen it")': "{0}: the cohort is odd; widen it",
    'return Refusal("rule", f"this site refuses {name}: ask")': "this site refuses {0}: ask",
    'notes = [f"about {share:.0f} % of them " + "were cut"]': "about {0} % of them were cut",
    'NOTE = "about {share:.0f} % of the people were cut"': "about {share} % of the people were cut",
    'print(f"first line of it\\n  second line of {x}")': "second line of {0}",
    "text = f\"{a}: {'it was lost' if b else 'it was found'}\"": "it was found",
    'yield f"# Drafted by hand from {origin}"': "Drafted by hand from {0}",
    'x = f"unit: row  # {MARK}: no column fits"': "{0}: no column fits",
}


@pytest.mark.parametrize(("code", "text"), SNIPPETS.items())
def test_a_text_is_found_wherever_it_is_written(code: str, text: str) -> None:
    collected = [each for _, each in catalogue._of_module(ast.parse(code), "nodes/x.py")]
    assert text in collected, collected


@pytest.mark.parametrize(
    "code",
    [
        'def f():\n    """A docstring of two words."""',
        'log.info("the line to the hub is open")',
        'assert x, "the code believes this"',
        'sql = f"SELECT * FROM {table} where this is that"',
        'app.command("x", examples=["hdh node check --dataset all of them"])',
        'PLAIN = "one"',
    ],
)
def test_what_no_person_reads_is_no_text(code: str) -> None:
    assert not list(catalogue._of_module(ast.parse(code), "nodes/x.py"))


def test_the_compiled_catalogue_is_the_one_that_people_edit() -> None:
    assert catalogue.MO.read_bytes() == catalogue.mo_bytes(), REMEDY


def test_no_translation_is_a_guess_and_each_has_the_places_of_its_text() -> None:
    for message in messages():
        assert not message.fuzzy, message.id
        for english, text in zip(forms(message.id), forms(message.string), strict=True):
            assert sorted(PLACE.findall(text)) == sorted(PLACE.findall(english)), (english, text)


def test_every_translation_can_be_filled_in() -> None:
    for message in messages():
        names = {name.strip("{}").removesuffix("!r") for name in PLACE.findall(str(message.id))}
        if names and "{{" not in str(message.id) and not any(name[:1].isdigit() for name in names):
            for text in forms(message.string):
                assert "{" not in text.format(**dict.fromkeys(names, "x")), text


def test_french_marks_stand_behind_a_space_that_does_not_break() -> None:
    for message in messages():
        for text in forms(message.string):
            prose = re.sub(r"`[^`]*`|\[[^\]]*\]", "", text)
            assert not re.search(r"[^\s\u00a0\u202f] ?[;?!](?=\s|$)", prose), text


# -- the glossary
ROW = re.compile(r"^\| (.+?) \| (.+?) \| .+ \|$", re.MULTILINE)
# The words whose term every message uses that has them, and further forms of a term in French.
MAIN = {
    "node": "", "study": "", "hub": "", "coordinator": "", "producer": "", "holder": "",
    "helper": "", "cohort": "", "contract": "", "dataset": "jeux? de données|jeux?",
    "ledger": "", "receipt": "", "transcript": "", "secure sum": "agrégation sécurisée",
    "audit log": "", "authorisation": "", "purpose": "", "invitation": "", "round": "",
    "noise": "bruit", "link": "appari", "linked": "appari", "refusal": "", "approval": "",
    "approved": "approuv", "identifier": "", "pseudonym": "", "roster": "liste", "sensitivity": "",
    "enrolled": "inscri", "withheld": "retenu", "level": "à [\\d{]|niveau", "operator": "",
}  # fmt: skip
CODE = re.compile(r"`[^`]*`|hdh [a-z ]+|type: \w+, |'[^']*'")
OTHER = {  # messages in which the word is not the glossary's, or goes without saying
    "level", "levels", "{label} ({level} interval)", "{level} low", "{level} high",
    "left, right and helper must be three different nodes",
    "Kind of file: study, contract, node, hub or result.",
    "a number is read with 15 digits: declare an identifier as `type: string`, or round it",
}  # fmt: skip


def glossary(name: str) -> str:
    return (catalogue.ROOT / name).read_text(encoding="utf-8")


def terms() -> dict[str, str]:
    """The French term of each English word."""
    rows = ROW.findall(glossary("GLOSSARY.fr.md"))
    return {word: term for words_, term in rows for word in words_.split(", ")}


def test_every_word_of_the_glossary_has_its_french_term() -> None:
    english = re.findall(r"^\| \*\*(.+?)\*\*", glossary("GLOSSARY.md"), re.MULTILINE)
    french = [word for word, _ in ROW.findall(glossary("GLOSSARY.fr.md"))]
    assert len(english) > 100
    assert not set(english) - set(french), "add the word to GLOSSARY.fr.md"


@pytest.mark.parametrize("word", MAIN)
def test_the_messages_use_the_terms_of_the_glossary(word: str) -> None:
    stems = [term.removesuffix("s") for term in terms().get(word, word).split(", ")]
    stems = [re.escape(stem.partition(" (")[0]) for stem in stems if word in terms()]
    french = re.compile("|".join([*stems, *filter(None, [MAIN[word]])]), re.IGNORECASE)
    others = [
        (text, form)
        for message in messages()
        for text, form in zip(forms(message.id), forms(message.string), strict=True)
        if re.search(rf"(?<![\w.`{{-]){word}s?(?![\w.:@=}}-])", CODE.sub("", text))
        and not french.search(form)
        and text not in OTHER
    ]
    assert not others, others[:20]


# -- which language
@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({}, "en"),
        ({"LANG": "fr_FR.UTF-8"}, "fr"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "fr_FR.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_GB.UTF-8", "LC_MESSAGES": "fr_CA"}, "fr"),
        ({"LC_ALL": "fr_FR", "HDH_LANG": "en"}, "en"),
        ({"LC_ALL": "C", "HDH_LANG": "FR"}, "fr"),
        ({"HDH_LANG": "", "LANG": "fr"}, "fr"),
        ({"HDH_LANG": "de"}, "en"),
        ({"HDH_LANG": "fr-CA"}, "fr"),
        ({"HDH_LANG": "fr:en"}, "fr"),
        ({"HDH_LANG": "french"}, "fr"),
        ({"HDH_LANG": "Français"}, "fr"),
        ({"LANG": "fr_FR.ISO-8859-1@euro"}, "fr"),
        ({"HDH_LANG": "frr_DE"}, "en"),  # North Frisian
        ({"HDH_LANG": "friulian"}, "en"),
        ({"LC_ALL": "POSIX", "LANG": "fr_FR"}, "en"),
    ],
)
def test_the_first_variable_that_is_set_decides(environment: dict[str, str], code: str) -> None:
    assert language.of(environment) == code


def run(*arguments: str, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "federation.cli.main", *arguments]
    environment = {**os.environ, "HDH_LANG": code, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_help_is_in_the_language_of_its_reader() -> None:
    done = run("study", "plan", "--help", code="fr")
    for text in ("Usage\u00a0: hdh study plan", "Montrer le coût", "répétable", "[obligatoire]"):
        assert text in done.stdout, done.stdout
    assert "repeatable" not in done.stdout and "Show this message" not in done.stdout


def test_english_reads_no_catalogue() -> None:
    code = (
        "import sys; from federation import language; from federation.cli import main; "
        "language.tr('yes'); language.plural('a', 'b', 2); "
        "print(language._catalogue.cache_info().currsize, "
        "'federation.message_texts' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["0", "False"], done.stderr


# -- what people read
@pytest.fixture(scope="module")
def document() -> Document:
    return Document.model_validate(reports.result().document)


def test_a_report_is_french_from_its_title_to_its_numbers(document: Document) -> None:
    with language.using("fr"):
        page = html.page(document)
    for text in (
        '<html lang="fr">', "Ce qui a été demandé", "Âge à l&#39;entrée (years)", "Tableau 1",
        "une régression logistique de died", "90 % bas", "Intervalles\u00a0: 90 %.",
        "3\u202f000 personnes", "Durée du séjour (days)", "Sexe\u00a0: M", "rapport de cotes",
        ">survie", "exact", "Copier",
    ):  # fmt: skip
        assert text in page, text
    english = ("What was asked", "Table one", "withheld", "odds ratio", "rows left out")
    shown = re.sub(r"<script>.*</script>|<code>.*?</code>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert not [text for text in english if f">{text}" in shown]
    row = next(iter(document.analyses["risk"].tables["coefficients"]))
    assert words.say("estimate", row["estimate"]).replace(".", ",") in page
    assert not re.search(r'class="number">-?\d+\.\d', page)  # no decimal point in a table


def test_numbers_and_days_follow_the_language() -> None:
    with language.using("fr"):
        assert (
            words.say("estimate", 1234.5) == "1234,50" and words.say("p_value", 0.0001) == "<0,001"
        )
        assert words.say("n", 1234567) == "1\u202f234\u202f567" and words.say("x", True) == "oui"
        assert (
            html._environment().globals["moment"]("2026-01-31T08:05:00+00:00") == "31/01/2026 08:05"
        )
        assert language.plural("{n} row", "{n} rows", 0) == "{n} ligne"  # zero is singular
    assert words.say("estimate", 1234.5) == "1234.50"
    assert language.plural("{n} row", "{n} rows", 0) == "{n} rows"


@pytest.mark.slow
def test_what_programs_read_is_the_same_in_both_languages(tmp_path: Path) -> None:
    result = reports.result()
    for code in language.LANGUAGES:
        with language.using(code):
            result.report(tmp_path / code)
    files = {path.relative_to(tmp_path / "en") for path in (tmp_path / "en").rglob("*.*")}
    assert len(files) > 8
    for name in files - {Path("report.html")}:
        assert (tmp_path / "en" / name).read_bytes() == (tmp_path / "fr" / name).read_bytes(), name


# -- messages that arrive in English
@pytest.mark.parametrize(
    ("english", "french"),
    [
        ("must be at least 3", "doit être au moins 3"),
        (
            "study.yaml:4: privacy.epsilon: must be at most 20, not 50",
            "study.yaml:4: privacy.epsilon: doit être au plus 20, et non 50",
        ),
        (
            "contract.yaml:7: columns.x: 'a' is among `levels` and `missing`; keep one",
            "contract.yaml:7: columns.x: 'a' est à la fois dans `levels` et `missing`\u00a0; "
            "gardez-en un",
        ),
        ("0.31 and 4.2", "0.31 and 4.2"),
        ("a text that no code writes", "a text that no code writes"),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_a_message_is_translated_with_its_values(english: str, french: str) -> None:
    assert message_texts.translated(english) == english
    with language.using("fr"):
        assert message_texts.translated(english) == french


@pytest.mark.parametrize(
    ("english", "french"),
    [
        (
            "support: fewer than 11 people of this node are in the cohort: widen `where`, or leave "
            "this node out",
            "support: moins de 11 personnes de ce nœud sont dans la cohorte\u00a0: élargissez "
            "`where`, ou laissez ce nœud de côté",
        ),
        (
            "authorisation: the authorisation 'DR-1' expired here on 2026-11-29: renew it",
            "authorisation: l'autorisation 'DR-1' a expiré ici le 29/11/2026\u00a0: renouvelez-la",
        ),
        (
            "network 'x' cannot be trained: it gives 2 for 3 rows, not (3, 1); ask its author, or "
            "use another network",
            "le réseau 'x' ne peut pas être entraîné\u00a0: il donne 2 pour 3 lignes, et non "
            "(3, 1)\u00a0; interrogez son auteur, ou prenez un autre réseau",
        ),
        (
            "m: 0 of the 3 nodes needed gave a part (a: cohort_size: the cohort leaves out fewer "
            "than 11 people of this node: widen or narrow `where`; b: cohort_size: the cohort "
            "leaves out fewer than 11 people of this node: widen or narrow `where`)",
            "m\u00a0: nœuds ayant donné une part\u00a0: 0, minimum 3 ("
            "a: taille de la cohorte\u00a0: la cohorte écarte moins de 11 personnes de ce "
            "nœud\u00a0: "
            "élargissez ou restreignez `where`\u00a0; "
            "b: taille de la cohorte\u00a0: la cohorte écarte moins de 11 personnes de ce "
            "nœud\u00a0: "
            "élargissez ou restreignez `where`)",
        ),
        (
            "in dataset 't', its CSV file: line 6: 9 fields where the header has 8; if a value "
            "holds the delimiter, quote the value; if all records end with the delimiter, end the "
            "header's line with it, too",
            "dans le jeu de données 't', son fichier CSV\u00a0: ligne 6\u00a0: 9 champs là où "
            "l'en-tête en a 8\u00a0; si une valeur contient le séparateur, mettez-la entre "
            "guillemets\u00a0; si tous les enregistrements se terminent par le séparateur, "
            "terminez aussi la ligne d'en-tête par lui",
        ),
        (
            "line 2: a unit behind the number: export the number alone, or take it off in a "
            "mapping (docs/mapping.md)",
            "ligne 2\u00a0: une unité derrière le nombre\u00a0: exportez le nombre seul, ou "
            "retirez-la dans un `mapping` (docs/mapping.md)",
        ),
        (
            "a comma before the decimals; a space between thousands",
            "une virgule devant les décimales\u00a0; une espace entre les milliers",
        ),
        ("waiting for chu-limoges (offline)", "attend chu-limoges (hors ligne)"),
        ("about 3 % of the people were cut", "about 3 % of the people were cut"),  # no such text
        ("12,345 rows in 64 buckets. To use them, write in node.yaml:",
         "12\u202f345 lignes dans 64 lots. Pour les employer, écrivez dans node.yaml\u00a0:"),
    ],
)  # fmt: skip
def test_a_message_of_a_node_or_a_hub_is_french_where_it_is_read(english: str, french: str) -> None:
    with language.using("fr"):
        assert message_texts.translated(english) == french


@pytest.mark.parametrize(
    ("written", "french"),
    [
        ("1234.5", "1234,5"), ("-0.001", "-0,001"), ("1,234,567", "1\u202f234\u202f567"),
        ("2026-01-31", "31/01/2026"), ("2026-01-31 08:05 UTC", "31/01/2026 08:05 UTC"),
        ("2026-01-31T08:05:59+00:00", "31/01/2026 08:05:59"), ("0.9.1", "0.9.1"),
        ("1e-06", "1e-06"),
        ("node.yaml", "node.yaml"), ("'0.5'", "'0.5'"), ("", ""),
    ],
)  # fmt: skip
def test_values_are_written_as_a_french_reader_writes_them(written: str, french: str) -> None:
    assert language.value(written) == written
    with language.using("fr"):
        assert language.value(written) == french


def test_the_number_of_a_study_is_no_count() -> None:
    """A text has one translation, and `number` heads the column by which studies are called."""
    with language.using("fr"):
        assert language.tr("number") == "numéro"


def test_a_version_an_option_and_code_are_no_numbers() -> None:
    with language.using("fr"):
        for english, verbatim in (
            ("in version 1.2 of this node, x", "version 1.2"),
            ("missing: contract: write `missing: 9.5` in the contract", "`missing: 9.5`"),
            ("--hours 0.5: an invitation is valid for more than 0 and at most 720 hours; choose "
             "another number", "--hours 0.5"),
        ):  # fmt: skip
            assert verbatim in message_texts.translated(english), english


# -- the screen
def test_a_table_on_the_screen_is_french_and_its_data_are_not() -> None:
    lines = io.StringIO()
    with language.using("fr"):
        table = tables.plain("node", "reason", title="\nHistory")
        table.add_row(Text("waiting"), "waits for the approval of its staff")
        table.add_row(tables.number(1234), "0.25")
        table.add_row("study", "2,112")  # a name, and a number that was written in French before
        console.Console(file=lines, width=80).print(table, "The hub is not running.")
    shown = lines.getvalue()
    for text in (
        "nœud", "raison", "Historique", "waiting", "attend l'approbation", "0,25", "study", "2,112",
        "1\u202f234", "Le hub ne tourne pas.",
    ):  # fmt: skip
        assert text in shown, shown


def test_the_actions_of_the_command_print_through_the_screen() -> None:
    for path in (catalogue.ROOT / "federation" / "cli" / "actions").glob("*.py"):
        code = path.read_text(encoding="utf-8")
        if "print(" in code:
            assert re.search(r"from federation\.cli\.(screen|console) import", code), path.name
        assert "from rich.console import" not in code and "print(json.dumps(" not in code, path.name


def test_an_error_of_the_command_is_french_and_its_json_is_not(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("study: x\nprivacy: {epsilon: 50}\n")
    done = run("study", "check", str(study), code="fr")
    assert "StudyError" in done.stderr and "cette clé manque\u00a0; ajoutez-la" in done.stderr
    assert "must be" not in done.stderr and done.returncode == 2
    schema = run("study", "schema", code="fr").stdout
    assert json.loads(schema) == json.loads(run("study", "schema", code="en").stdout)
