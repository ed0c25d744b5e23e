from pipelines.sources.class_folders import write_class_folders
from pipelines.sources.examples import from_columns


def test_files_become_links_and_records_copies(tmp_path):
    image, records, out = tmp_path / "a.png", tmp_path / "records", tmp_path / "out"
    image.write_bytes(b"\x89PNG one")
    records.write_bytes(b"..\xff\xd8 two")
    where = {"offsets": [0, 2], "lengths": [-1, 6]}
    examples = from_columns([str(image), str(records)], [1, 0], ("x", "y"), keys="ab", **where)
    write_class_folders(examples, out)
    names = {path.relative_to(out).as_posix(): path for path in out.rglob("*.*")}
    assert sorted(names) == ["00000/0000001.jpg", "00001/0000000.png"]
    assert names["00001/0000000.png"].readlink() == image
    assert names["00000/0000001.jpg"].read_bytes() == b"\xff\xd8 two"


def test_classes_without_images_have_folders(tmp_path):
    write_class_folders(from_columns(["/a.png"], [1], ("x", "y", "z"), keys="a"), tmp_path / "out")
    assert sorted(place.name for place in (tmp_path / "out").iterdir()) == [
        *("00000", "00001", "00002"),
    ]
