"""Folders of class folders, from files and from records."""

from __future__ import annotations

from pipelines.sources import class_folders
from pipelines.sources.examples import from_columns


def test_files_become_links_and_records_copies(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG one")
    records = tmp_path / "records"
    records.write_bytes(b"..\xff\xd8 two")
    examples = from_columns(
        [str(tmp_path / "a.png"), str(records)],
        [1, 0],
        ("x", "y"),
        keys=["a", "b"],
        offsets=[0, 2],
        lengths=[-1, 6],
    )
    class_folders.write_class_folders(examples, tmp_path / "out")
    found = {p.relative_to(tmp_path / "out"): p for p in (tmp_path / "out").rglob("*.*")}
    assert sorted(map(str, found)) == ["00000/0000001.jpg", "00001/0000000.png"]
    one, other = (tmp_path / "out" / "00001/0000000.png", tmp_path / "out/00000/0000001.jpg")
    assert one.is_symlink()
    assert one.read_bytes() == b"\x89PNG one"
    assert other.read_bytes() == b"\xff\xd8 two"
