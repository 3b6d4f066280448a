"""Identifiers in one spelling, however they are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.linkage import forms, packing
from federation.linkage.forms import Form

# The keys are those of the French rule: 97 - (the 13 digits mod 97), with 2A as 19 and 2B as 18.
# The first NIR and its key are the worked example of service-public.fr; the Corsican ones are
# computed by hand: 1800519004123 mod 97 = 78, 1800518004123 mod 97 = 36.
GOOD = {
    "2 55 08 14 168 025 38": "2550814168025",
    "255081416802538": "2550814168025",
    "2550814168025": "2550814168025",
    " 2-55-08-14-168-025 ": "2550814168025",
    "180052a004123": "180052A004123",
    "1 80 05 2B 004 123": "180052B004123",
    "２５５０８１４１６８０２５": "2550814168025",
    "2 55 08 14 168 025 / 38": "2550814168025",
    "2\u201155\u201108\u201114\u2011168\u2011025": "2550814168025",
    "\ufeff2\u202f55\u202f08\u202f14\u202f168\u202f025": "2550814168025",
    "7550814168025": "7550814168025",
}
BAD = [
    "",
    "255081416802",
    "25508141680255",
    "255081416802539",
    "9550814168025",
    "2550814168O25",
    "2550814168025AB",
    "2550814168025.0",
    "2.550814168025E12",
    "0550814168025",
    "180052C004123",
    "né",
]


@pytest.mark.parametrize(("written", "spelled"), GOOD.items())
def test_a_nir_is_its_13_characters_however_it_is_written(written, spelled):
    assert forms.normalise("nir13", written) == spelled


@pytest.mark.parametrize("written", BAD)
def test_what_is_no_nir_is_missing(written):
    assert forms.normalise("nir13", written) is None


@pytest.mark.parametrize(("department", "digits"), [("2A", "19"), ("2B", "18")])
def test_the_key_of_a_corsican_counts_the_department_as_a_number(department, digits):
    key = 97 - int(f"18005{digits}004123") % 97
    assert forms.control_key(f"18005{department}004123") == key
    assert forms.normalise("nir13", f"18005{department}004123{key:02d}") is not None
    wrong = key % 97 + 1
    assert forms.normalise("nir13", f"18005{department}004123{wrong:02d}") is None


@pytest.mark.parametrize(("department", "digits"), [("2A", "19"), ("2B", "18")])
def test_a_corsican_is_not_the_person_of_correze_or_cher_with_the_same_digits(department, digits):
    both, usable = forms.blocks("nir13", [f"18005{department}004123", f"18005{digits}004123"])
    assert usable.all()
    assert both[0].tolist() != both[1].tolist()


@pytest.mark.parametrize(
    "written", ["Élodie", " ÉLODIE ", "e\u0301lodie", "\u00a0élodie", "ÉLODIE\t"]
)
def test_texts_that_unicode_writes_in_several_ways_are_one(written):
    assert forms.normalise("text", written) == "ÉLODIE"


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        ("d\u2019Arc", "D'ARC"),
        ("D\u00b4Arc", "D'ARC"),
        ("Jean\u2011Pierre", "JEAN-PIERRE"),
        ("Jean\u2013Pierre", "JEAN-PIERRE"),
        ("L\u0153titia", "LOETITIA"),
        ("C\u00c6SAR", "CAESAR"),
        ("\ufb01lle", "FILLE"),
        ("\uff21\uff4e\uff4e\uff45", "ANNE"),
        ("stra\u00dfe", "STRASSE"),
        ("i\u0307lker", "\u0130LKER"),
        ("Anne\u00ad\u200b", "ANNE"),
    ],
)
def test_what_a_program_sets_by_itself_makes_no_other_name(written, spelled):
    assert forms.normalise("text", written) == spelled


def test_names_that_differ_as_written_by_hand_stay_apart():
    written = ["Jean-Pierre", "Jean Pierre", "Jeanpierre", "\u0130lker", "Ilker", "D'Arc", "Darc"]
    assert len({forms.normalise("text", name) for name in written}) == len(written)


def test_each_character_of_unicode_is_spelled_in_one_way():
    for code in (*range(0xD800), *range(0xE000, 0x20000)):
        spelled = forms.normalise("text", f"a{chr(code)}")
        assert forms.normalise("text", spelled) == spelled, hex(code)


def test_a_text_keeps_its_accents_and_its_words():
    spelled = {
        forms.normalise("text", name) for name in ("Elodie", "Élodie", "Élo die", "Élo  die")
    }
    assert spelled == {"ELODIE", "ÉLODIE", "ÉLO DIE"}


@pytest.mark.parametrize(
    "written",
    [
        *("1980-05-02", "19800502", "1980/05/02", "1980.05.02"),
        *(
            "02/05/1980",
            "02.05.1980",
            "02-05-1980",
            "2/5/1980",
            "02 05 1980",
            "02\u201305\u20131980",
        ),
        *("1980-05-02 00:00:00", "1980-05-02T00:00:00.000Z", "02/05/1980 00:00"),
    ],
)
def test_a_date_is_one_however_it_is_written(written):
    assert forms.normalise("date", written) == "1980-05-02"


@pytest.mark.parametrize(
    "written",
    [
        *("1980-02-30", "30/13/1980", "1980", "1980-05-02 12:00:00", "05-02", "02/05/80"),
        *("1980-05/02", "02051980", "05/1980", "1980-00-00", "1981-02-29"),
    ],
)
def test_what_is_no_day_is_missing(written):
    assert forms.normalise("date", written) is None


@pytest.mark.parametrize("missing", [None, math.nan, "", "  "])
@pytest.mark.parametrize("form", ["nir13", "text", "date"])
def test_a_missing_identifier_is_missing_in_every_form(form: Form, missing):
    block, usable = forms.blocks(form, [missing])
    assert not usable.any()
    assert not block.any()


NIRS = st.from_regex(r"[1-8][0-9]{4}([0-9]{2}|2[ABab])[0-9]{6}", fullmatch=True)


@given(st.sampled_from(["nir13", "text", "date"]), st.one_of(st.text(max_size=30), NIRS))
def test_every_form_is_idempotent(form: Form, written: str):
    once = forms.normalise(form, written)
    assert once is None or forms.normalise(form, once) == once


@given(NIRS, st.integers(0, 12))
def test_a_nir_with_spaces_capitals_and_its_key_is_the_same(nir: str, at: int):
    spelled = forms.normalise("nir13", nir)
    written = f"{nir[:at]} {nir[at:]} {forms.control_key(str(spelled)):02d}"
    assert forms.normalise("nir13", written) == spelled


ODD = ["", "1", "186117510004\0", "\u0661861175100043", "28611 7510 0043", "9861175100043", None]


@given(st.lists(st.one_of(NIRS, st.from_regex(r"[0-9]{12,15}", fullmatch=True),
                          st.sampled_from(ODD)), max_size=20))  # fmt: skip
def test_many_nirs_at_once_have_the_blocks_of_one_after_the_other(written: list[str | None]):
    table, usable = packing.unpacked("nir13", packing.packed("nir13", written))
    for value, content, is_usable in zip(written, table, usable, strict=True):
        spelled = forms.normalise("nir13", value)
        assert is_usable == (spelled is not None)
        expected = bytes(16) if spelled is None else forms.block("nir13", spelled)
        assert content.tobytes() == expected


def test_every_block_of_a_person_begins_with_a_0_bit():
    names = [f"name {i}" for i in range(2000)]
    assert (forms.blocks("text", names)[0][:, 0] < 0x80).all()
    assert (forms.blocks("date", ["1980-05-02"])[0][:, 0] < 0x80).all()
