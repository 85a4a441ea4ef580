"""Mappings that say what the columns of a table mean, on small tables in the forms of published ones."""

import json
import re
import sys
from pathlib import Path

import pytest

from blan_facial.data.columns import Columns, read_columns
from blan_facial.data.faces import UNKNOWN, DataError
from blan_facial.data.table import Table, read_table

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="TOML is read from Python 3.11 on")

MAAD_FACE = """\
Filename,Identity,Male,Young,Bald
n000002/0001_01.jpg,2,1,-1,0
n000002/0002_01.jpg,2,1,0,-1
n000003/0001_01.jpg,3,-1,1,-1
"""
FAIR_FACE = """\
file,age,gender,race,service_test
train/1.jpg,50-59,Male,East Asian,True
train/2.jpg,more than 70,Female,Indian,False
val/1.jpg,3-9,Female,East Asian,False
"""
UTK_FACE = """\
img_name,age,gender,ethnicity
a.jpg,59.0,0,2
b.jpg,60,1,0
c.jpg,,1,4
"""


def read(folder: Path, table: str, mapping: str, *, name: str = "columns.toml") -> Table:
    (folder / "table.csv").write_text(table)
    (folder / name).write_text(mapping)
    return read_table(folder / "table.csv", read_columns(folder / name), unknown="zero")


def test_maad_face_is_dealt_out_by_people(tmp_path: Path) -> None:
    table = read(tmp_path, MAAD_FACE, "[split]\ntrain = 80\nvalidation = 10\ntest = 10\n")
    assert table.attributes == ("Male", "Young", "Bald")
    assert table.labels.tolist() == [[1, 0, UNKNOWN], [1, UNKNOWN, 0], [0, 1, 0]]
    assert table.splits[0] == table.splits[1]
    assert table.groups is not None
    assert table.groups.tolist() == [0, 0, 1]


def test_parts_are_about_as_large_as_they_are_said_to_be() -> None:
    columns = Columns(parts={"train": 80, "validation": 10, "test": 10})
    dealt = [columns.part_of(str(person)) for person in range(2000)]
    assert [dealt.count(split) / 2000 for split in ("train", "validation", "test")] == pytest.approx(
        [0.8, 0.1, 0.1], abs=0.03
    )


@pytest.mark.attack("15.13", "FairFace's table")
def test_fair_face_has_an_attribute_for_each_category(tmp_path: Path) -> None:
    mapping = """
    [split]
    column = "file"
    train = ["train/*"]
    test = ["val/*"]
    [attributes]
    Male = { column = "gender", yes = ["Male"], no = ["Female"] }
    Senior = { column = "age", yes = ["60-69", "more than 70"] }
    [categories]
    race = []
    """
    table = read(tmp_path, FAIR_FACE, mapping)
    assert table.attributes == ("Male", "Senior", "race_East Asian", "race_Indian")
    assert table.labels.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert table.splits.tolist() == ["train", "train", "test"]


def test_fair_face_s_two_tables_are_read_as_one(tmp_path: Path) -> None:
    header, *rows = FAIR_FACE.splitlines()
    (tmp_path / "tables").mkdir()
    for name, part in (("fairface_label_train.csv", rows[:2]), ("fairface_label_val.csv", rows[2:])):
        (tmp_path / "tables" / name).write_text("\n".join([header, *part]))
    mapping = {"split": {"column": "file", "train": ["train/*"], "test": ["val/*"]}, "categories": ["gender"]}
    (tmp_path / "columns.json").write_text(json.dumps(mapping))
    table = read_table(tmp_path / "tables", read_columns(tmp_path / "columns.json"))
    assert table.attributes == ("gender_Female", "gender_Male")
    assert table.labels.tolist() == [[0, 1], [1, 0], [1, 0]]
    (tmp_path / "tables" / "other.csv").write_text(f"{header},x\n")
    with pytest.raises(DataError, match=re.escape("other.csv: must have the same columns as the other files in")):
        read_table(tmp_path / "tables", read_columns(tmp_path / "columns.json"))


@pytest.mark.attack("15.13", "UTKFace's table")
def test_utk_face_s_ages_have_thresholds(tmp_path: Path) -> None:
    mapping = """
    [split]
    train = 1
    [attributes]
    Senior = { column = "age", at_least = 60 }
    Middle = { column = "age", at_least = 40, below = 60 }
    Female = { column = "gender", yes = [1], no = [0] }
    [categories]
    ethnicity = [0, 2, 4]
    """
    table = read(tmp_path, UTK_FACE, mapping)
    assert table.attributes == ("Senior", "Middle", "Female", "ethnicity_0", "ethnicity_2", "ethnicity_4")
    assert table.labels.tolist() == [[0, 1, 0, 0, 1, 0], [1, 0, 1, 1, 0, 0], [UNKNOWN, UNKNOWN, 1, 0, 0, 1]]


def test_columns_may_have_any_names(tmp_path: Path) -> None:
    mapping = 'image = "img_name"\nsplit = "gender"\nattributes = []\ncategories = ["ethnicity"]\n'
    with pytest.raises(DataError, match="2 mistakes must be corrected:\n  line 2: split must be train, validation"):
        read(tmp_path, UTK_FACE, mapping)
    values = '[split]\ncolumn = "gender"\ntrain = [0]\ntest = ["1"]\n[attributes]\nOld = { column = "age", below = 60 }'
    table = read(tmp_path, UTK_FACE, values)
    assert table.splits.tolist() == ["train", "test", "test"]
    assert table.labels.tolist() == [[1], [0], [UNKNOWN]]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("imag = 'a'", "entries must be image, split, person, attributes, categories, got 'imag'. Remove it, or"),
        ("image = 3", "image must be the name of a column, got 3. Write it in quotes."),
        ("split = 3", "split must be a column's name or a table, got 3. Name the column."),
        (
            "[split]\nfold = ['a']",
            "2 mistakes must be corrected:\n  split may contain column, train, validation, test, got 'fold'. Remove it",
        ),
        ("[split]\ncolumn = 'file'\ntrain = 3", "split must name its column and list the values of each split, got"),
        ("[split]\ntrain = ['a']", "split must name its column, or give the share of each split as a number, got"),
        ("attributes = 3", "attributes must be a list of columns, or a table, got 3. Write a list of names."),
        ("[attributes]\nA = 3", "attributes: A must be a table, got 3. Write {} for a column with yes and no."),
        (
            "[attributes]\nA = { colum = 'b' }",
            "attributes: A may contain column, yes, no, unknown, at_least, below, got",
        ),
        ("[attributes]\nA = { yes = 1 }", "attributes: A: yes, no and unknown must be lists of values. Write yes ="),
        (
            "[attributes]\nA = { yes = [1], no = ['1.0'] }",
            "attributes: A: a value must have one meaning, got '1' twice.",
        ),
        ("[attributes]\nA = { no = [1] }", "attributes: A must list the values that mean yes, got only no. Add yes."),
        ("[attributes]\nA = { yes = [1], below = 3 }", "attributes: A must have bounds or lists of yes and no, got"),
        ("[attributes]\nA = { at_least = 3, below = 3 }", "attributes: A: at_least must be smaller than below, got"),
        ("[attributes]\nA = { below = '3' }", "attributes: A: at_least and below must be finite numbers, got"),
        ("[attributes]\nA = { at_least = nan }", "attributes: A: at_least and below must be finite numbers, got"),
        ("[attributes]\nA = { below = true }", "attributes: A: at_least and below must be finite numbers, got"),
        ("[split]\ntrain = true", "split must name its column, or give the share of each split as a number, got"),
        ("attributes = ['A', 'A']", "attributes must name each column once, got A twice. Remove one of the two."),
        ("categories = ['A', 'A']", "categories must name each column once, got A twice. Remove one of the two."),
        ("[categories]\nA = ['b', 'B']", "categories: A: a value must be listed once, got 'b' twice. Remove one."),
        ("attributes = ['']", "attributes: : column must be a column's name, got ''. Write it in quotes."),
        ("categories = 3", "categories must be a list of columns, or list their values, got 3. Write a list."),
        ("image = ", "must be TOML, or JSON with a name ending in .json, got"),
    ],
)
def test_a_mapping_that_says_what_cannot_be_is_refused(tmp_path: Path, mapping: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'columns.toml'}: {message}")):
        read(tmp_path, FAIR_FACE, mapping)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("image = 'photo'", "line 1: needs the column photo, got file, age, gender, race, service_test. Rename"),
        ("person = 'who'", "line 1: needs the column who, got file, age, gender, race, service_test. Correct"),
        (
            "attributes = ['Smile']",
            "line 1: needs the column Smile, got file, age, gender, race, service_test. Correct",
        ),
        ("[categories]\nrace = ['Martian']", "categories: race must have rows of 'Martian', got none. Correct or"),
        (
            "[attributes]\nA = {column = 'age', below = 3}",
            "line 2: A must be a number, or empty (unknown), got '50-59'",
        ),
        (
            "[attributes]\nA = {column = 'gender', yes = ['M'], no = ['F']}",
            "A must be M (yes); F (no), as given in --columns",
        ),
    ],
)
def test_a_mapping_that_does_not_fit_the_table_is_refused(tmp_path: Path, mapping: str, message: str) -> None:
    head, _, tables = mapping.partition("[")
    split = "[split]\ntrain = 1\n"
    with pytest.raises(DataError, match=re.escape(message)):
        read(tmp_path, FAIR_FACE, f"{head}\n{split}[{tables}" if tables and "=" not in head else f"{mapping}\n{split}")


def test_splits_are_defined_once(tmp_path: Path) -> None:
    table = "image,Partition,A\na.jpg,train,1\n"
    text = "line 1: must have either a column split or shares in --columns, got the column Partition too. Remove the"
    with pytest.raises(DataError, match=re.escape(text)):
        read(tmp_path, table, "[split]\ntrain = 80\ntest = 20\n")


def test_a_missing_mapping_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'no'}: must be a TOML or JSON file, got no such file")):
        read_columns(tmp_path / "no")


@pytest.mark.attack("15.12", "thousands of brackets and absurd numbers in a column mapping")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "must be TOML, or JSON with a name ending in .json, got maximum recursion depth exceeded"),
        (
            '{"image": "a", "image": "b"}',
            "must be TOML, or JSON with a name ending in .json, got the entry 'image' twice.",
        ),
        (
            f'{{"split": {{"train": {"9" * 400}}}}}',
            "split must name its column, or give the share of each split as a number",
        ),
    ],
    ids=["deep", "twice", "large"],
)
def test_json_that_no_mapping_is_made_of_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'columns.json'}: {message}")):
        read(tmp_path, FAIR_FACE, text, name="columns.json")


@pytest.mark.parametrize("cell", ["1,000", "1_000", "\N{ARABIC-INDIC DIGIT ONE}", "inf", "1e400"])
def test_a_number_that_may_be_another_is_refused(tmp_path: Path, cell: str) -> None:
    mapping = "[split]\ntrain = 1\n[attributes]\nOld = { column = 'age', at_least = 60 }"
    with pytest.raises(DataError, match=f"Old must be a number, or empty .unknown., got '{cell}'"):
        read(tmp_path, f'image,age\na.jpg,"{cell}"\n', mapping)
    assert read(tmp_path, 'image,age\na.jpg,"60,5"\nb.jpg,"0,125"\n', mapping).labels.tolist() == [[1], [0]]


def test_people_without_a_name_are_each_one_of_their_own(tmp_path: Path) -> None:
    rows = "".join(f"{row}.jpg,{('nan', 'NaN', '', 'None')[row % 4]},1\n" for row in range(40))
    table = read(tmp_path, f"image,person,A\n{rows}x.jpg,7,1\ny.jpg,7.0,1\n", "[split]\ntrain = 1\ntest = 1\n")
    assert table.groups is not None
    assert len(set(table.groups.tolist())) == 41
    assert table.groups[-1] == table.groups[-2]
    assert set(table.splits.tolist()) == {"train", "test"}


def test_identifiers_are_compared_in_all_their_digits(tmp_path: Path) -> None:
    rows = "".join(
        f"{row}.jpg,{person},1700000000000{row % 2}\n"
        for row, person in enumerate([10**17, 10**17 + 1, "1e17", f"{10**17}.0", f"0{10**17}", "0.50", '",5"'])
    )
    mapping = "[split]\ntrain = 1\n[categories]\ncamera = []\n"
    table = read(tmp_path, f"image,person,camera\n{rows}", mapping)
    assert table.attributes == ("camera_17000000000000", "camera_17000000000001")
    assert table.groups is not None
    assert table.groups.tolist() == [0, 1, 0, 0, 0, 2, 2]
    lists = "[split]\ntrain = 1\n[attributes]\nA = { column = 'camera', yes = [17000000000001] }"
    assert read(tmp_path, "image,camera\na,17000000000001\nb,17000000000000\n", lists).labels.tolist() == [[1], [0]]


def test_categories_are_values_in_whatever_way_they_are_written(tmp_path: Path) -> None:
    text = "image,split,race,mask\na.jpg,train,East Asian,None\nb.jpg,train,EAST ASIAN,cloth\nc.jpg,train,1.0,\n"
    table = read(tmp_path, text, "[categories]\nrace = []\nmask = ['none', 'cloth']")
    assert table.attributes == ("race_1", "race_East Asian", "mask_none", "mask_cloth")
    assert table.labels.tolist() == [[0, 1, 1, 0], [0, 1, 0, 1], [1, 0, UNKNOWN, UNKNOWN]]
    with pytest.raises(DataError, match=re.escape("line 2: split must be unique, got 'train/1.jpg', which matches")):
        read(tmp_path, FAIR_FACE, "[split]\ncolumn = 'file'\ntrain = ['*']\ntest = ['train/*']\n")


def test_patterns_know_stars_alone_and_numbers_however_written(tmp_path: Path) -> None:
    text = "image,fold,A\n[a]/1.jpg,0.0,yes\na/1.jpg,1,no\n"
    by_number = "[split]\ncolumn = 'fold'\ntrain = [0]\ntest = ['1.0']\n[attributes]\nA = {}"
    assert read(tmp_path, text, by_number).splits.tolist() == ["train", "test"]
    by_name = "[split]\ncolumn = 'image'\ntrain = ['[a]/*']\ntest = ['a/*']\n[attributes]\nA = {}"
    assert read(tmp_path, text, by_name).splits.tolist() == ["train", "test"]
