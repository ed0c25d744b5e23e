import dataclasses
import json

from engine.core.findings import ERROR, NOTE, Case, DatasetExamination, Finding, FindingKind
from engine.report import doctor_page
from tests.engine.report.html_checks import complaints

EMPTY = FindingKind("empty", ERROR, "file", "without contents", "copy again or remove")
ALIKE = FindingKind("near_duplicates", NOTE, "group", "of near-duplicates", "look at them")
JPEG = b"\xff\xd8"
RESULT = DatasetExamination(
    root="/data/",
    images=29,
    readable=20,
    counts={"train": {"cats": 27, "dogs<b>": 2}},
    findings=(
        Finding(EMPTY, tuple(Case((f"/data/{n}.jpg",), "empty file", (n,)) for n in range(9))),
        Finding(ALIKE, (Case(tuple(f"/data/{n}.png (train, cats)" for n in range(6))),)),
    ),
    seconds=2.0,
)


def thumbnail(index: int) -> bytes | None:
    return JPEG if index % 2 else None


def shown(**changes) -> str:
    page = doctor_page.page(dataclasses.replace(RESULT, **changes), thumbnail)
    assert complaints(page) == []
    return page


def test_page_shows_thumbnails_of_readable_examples_only():
    page = shown()
    assert page.count("<img") == 4
    assert 'alt="/data/1.jpg"' in page


def test_page_escapes_names_and_details():
    name = '/data/"><script>alert(1)</script>.jpg'
    page = shown(findings=(Finding(EMPTY, (Case((name,), "<i>empty</i>", (1,)),)),))
    assert "dogs&lt;b&gt;" in page
    for markup in ("<script>alert", "<i>", "<b>", '""'):
        assert markup not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;.jpg") >= 2, "beside the image, too"


def test_page_counts_cases_beyond_the_limit(monkeypatch):
    monkeypatch.setattr(doctor_page, "PAGE_CASES", 2)
    assert "And 7 more, listed in report.json." in shown()


def test_page_without_findings_says_so():
    assert "examined in 2.0 s: no problems." in shown(findings=())


def test_page_has_errors_first():
    headings = ("error: files without contents", "Images of each class", "note: groups of near")
    places = [shown().index(heading) for heading in headings]
    assert places == sorted(places)


def test_terminal_counts_the_classes_that_a_split_has_images_of():
    counts = {"validation": {f"class {number}": number % 3 for number in range(12)}}
    lines = doctor_page.lines(dataclasses.replace(RESULT, counts=counts))
    assert "validation: 8 classes" in lines


def test_terminal_shows_some_cases_and_counts_the_rest():
    assert "\n".join(doctor_page.lines(RESULT)) == (
        "29 images in /data/ examined in 2.0 s, 14 a second\n"
        "\n"
        "error: 9 files without contents; copy again or remove\n"
        "  0.jpg: empty file\n"
        "  1.jpg: empty file\n"
        "  2.jpg: empty file\n"
        "  and 6 more\n"
        "\n"
        "train: 27 cats, 2 dogs<b>\n"
        "\n"
        "note: 1 group of near-duplicates; look at them\n"
        "  0.png (train, cats), 1.png (train, cats), 2.png (train, cats), 3.png (train, cats)"
        " and 2 more\n"
        "\n"
        "1 error, 0 warnings, 1 note"
    )


def test_json_lists_every_case():
    value = json.loads(json.dumps(doctor_page.to_json(RESULT)))
    assert {one["kind"]: len(one["cases"]) for one in value["findings"]} == {
        "empty": 9,
        "near_duplicates": 1,
    }
    assert (value["images"], value["readable"]) == (29, 20)
    assert value["classes"]["train"]["cats"] == 27
