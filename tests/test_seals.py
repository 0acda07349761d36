"""JSON that vouches for itself: every flipped bit is noticed, and nothing odd gets through."""

import json
import os

import pytest

from lattice_ml.storage import seals
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.schema import anything, listed, number, table, text, whole

RULE = table({"seconds": number(0), "sizes": listed(whole(1))}, {"name": text(), "more": anything})
CONTENT = {
    "seconds": 0.1,
    "sizes": [1, 25, 10**17],
    "name": "\u00e4\n",
    "more": {"b": None, "a": {}},
}


def read(path):
    return seals.read(path, RULE, remedy="put it back")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(seals.image(CONTENT))
    return path


def test_what_was_sealed_is_read_back_with_its_seal_last(path):
    found = read(path)
    assert list(found) == [*CONTENT, "seal"] and found == seals.sealed(CONTENT)
    assert seals.sealed(found) == found, "a seal is not a part of what is sealed"


def test_neither_the_order_of_keys_nor_white_space_matters(path):
    found = json.loads(path.read_bytes())
    path.write_text(json.dumps(dict(reversed(found.items())), separators=(" ,\n", "\t:  ")))
    assert read(path) == found


def test_every_flipped_bit_is_noticed_unless_it_changes_nothing(path):
    whole, found, harmless = path.read_bytes(), read(path), 0
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                assert read(path) == found, (position, bit)
                harmless += 1
            except StorageError as error:
                assert str(error).startswith(f"{path} is altered: ")
    assert harmless < 5, "such as \\u00e4 and \\u00E4"


def test_a_file_of_an_earlier_version_has_no_seal_and_is_read(path):
    path.write_text(json.dumps(CONTENT))
    assert read(path) == CONTENT


def test_a_changed_number_is_named_with_what_helps(path):
    path.write_text(path.read_text().replace("0.1", "0.2"))
    with pytest.raises(StorageError, match="its seal does not fit its content; put it back"):
        read(path)


ODD = {
    "not JSON": ("{", "it is not JSON as we write it"),
    "a key twice": ('{"a": 1, "a": 1}', "the key 'a' is there twice"),
    "not a number": ('{"a": NaN}', "NaN is not a finite number"),
    "infinite": ('{"a": -1e999}', "-1e999 is not a finite number"),
    "too many digits": ('{"a": ' + "9" * 5000 + "}", "it is not JSON"),
    "too deep": ('{"a": ' + "[" * 10**5 + "]" * 10**5 + "}", "it is nested too deeply"),
    "half a character": ('{"a": "\\ud800"}', "it is not JSON as we write it .*surrogate"),
    "a byte order mark": ("\ufeff{}", "it is not JSON as we write it .*BOM"),
    "no table": ("[1]", "it holds no table"),
    "a missing key": ('{"sizes": []}', "seconds is missing"),
    "an unknown key": ('{"seconds": 1, "sizes": [], "nane": ""}', "nane is an unknown .* it name"),
    "a wrong type": ('{"seconds": true, "sizes": []}', "seconds must be a finite number"),
    "a wrong member": ('{"seconds": 1, "sizes": [1, 0]}', r"sizes\[1\] must be a whole number"),
    "no list": ('{"seconds": 1, "sizes": {}}', "sizes must be a list, got a table of 0 values"),
    "deep": ('{"seconds": 1, "sizes": [], "more": ' + "[" * 20 + "]" * 20 + "}", "nested more tha"),
}


@pytest.mark.parametrize(("content", "message"), ODD.values(), ids=ODD)
def test_what_no_file_of_ours_holds_is_refused_in_one_sentence(path, content, message):
    path.write_text(content, encoding="utf-8")
    with pytest.raises(StorageError, match=rf"x\.json is altered: .*{message}") as caught:
        read(path)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_bytes_that_are_not_utf_8_and_files_too_large_are_refused(path):
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(StorageError, match=r"it is not JSON as we write it .*utf-8"):
        read(path)
    os.truncate(path, 2**28 + 1)  # a hole: nothing is written
    with pytest.raises(StorageError, match="268435457 bytes are more than it can have"):
        read(path)


def test_numbers_that_are_not_finite_are_read_where_they_may_be(path):
    path.write_bytes(seals.image({"seconds": 1, "sizes": [], "more": [float("nan")]}))
    assert str(seals.parse(path, finite=False)["more"]) == "[nan]"
    with pytest.raises(StorageError, match="NaN is not a finite number"):
        read(path)
