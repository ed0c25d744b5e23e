"""Manifests, listed as examples with labels, splits and groups."""

import os

import pytest

from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from pipelines.sources import sources
from tests.pipelines.sources.listed import counts, manifest


def test_manifest_without_splits_gets_validation(tmp_path):
    rows = [f"{name}/{index}.jpg,{name}" for name in ("cat", "dog") for index in range(10)]
    examples = manifest(tmp_path, "path,label\n" + "\n".join(rows) + "\n\n")
    assert examples.classes == ("cat", "dog")
    assert counts(examples) == [(8, 8), (2, 2), (0, 0)]
    assert examples.paths[0] == str(tmp_path / "cat" / "0.jpg")
    assert examples.keys[0] == "cat/0.jpg"


def test_manifest_with_splits_groups_and_quoting(tmp_path):
    text = (
        "\ufeffLabel, path ,group,note,split\r\n"
        'cat,"a, b.jpg",g1,x,train\r\ncat,c.jpg,g2,x,VAL\r\ndog,d.jpg,g1,x,\r\n'
        f"dog,{tmp_path}/e.jpg,,x,validation\r\ndog,f.jpg,,x,test\r\n"
    )
    examples = manifest(tmp_path, text)
    assert counts(examples) == [(1, 1), (1, 1), (0, 1)]
    assert examples.groups.tolist() == ["g1", "g2", "g1", "", ""]
    assert examples.paths[[0, 3]].tolist() == [f"{tmp_path}/a, b.jpg", f"{tmp_path}/e.jpg"]


def test_manifest_groups_stay_in_one_split(tmp_path):
    rows = [f"{i}.jpg,{'ab'[i % 2]},,module{i // 4}" for i in range(200)]
    for seed in range(5):
        examples = manifest(tmp_path, "path,label,split,group\n" + "\n".join(rows), split_seed=seed)
        parts = [set(examples.subset(split).groups) for split in ("train", "validation")]
        assert not parts[0] & parts[1]
        assert counts(examples)[1] == (20, 20)


OUTSIDE = (
    "/etc/hostname",
    "../other.jpg",
    "../data2/a.jpg",
    "a/../../other.jpg",
    "up/x.jpg",
    "out.jpg",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_manifest_path_outside_of_root_is_refused(tmp_path, path):
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (data / "up").symlink_to(tmp_path / "elsewhere")
    (data / "out.jpg").symlink_to(tmp_path / "elsewhere" / "x.jpg")
    text = f"path,label\na.jpg,a\nb.jpg,b\nc.jpg,b\n{path},a\n"
    with pytest.raises(UserError, match=r"line 5: .* is outside of .*--manifest_root=DIR"):
        manifest(data, text)
    absolute = text.replace(path, os.path.normpath(data / path))  # as the message says
    assert len(manifest(data, absolute, manifest_root="/")) == 4


def test_manifest_paths_count_from_the_root(tmp_path):
    (tmp_path / "lists").mkdir()
    text = "path,label\n" + "".join(f"images/{n}.jpg,{'ab'[n % 2]}\n" for n in range(4))
    examples = manifest(tmp_path / "lists", text, manifest_root=str(tmp_path))
    assert examples.paths[0] == str(tmp_path / "images" / "0.jpg")
    assert examples.keys[0] == "images/0.jpg"
    with pytest.raises(UserError, match=r"the folder .*/none does not exist"):
        manifest(tmp_path / "lists", text, manifest_root=str(tmp_path / "none"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_manifest_of_any_delimiter_and_encoding_is_read(tmp_path, delimiter, encoding):
    rows = [("Filename", "Class"), ("ä, b;.jpg", "ä"), ("c|d.jpg", "b"), ("\t.jpg", "b")]
    text = "\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "list.csv").write_bytes((mark + text).encode(encoding))
    examples = sources.list_examples(DataSpec("manifest", str(tmp_path / "list.csv")))
    assert examples.classes == ("b", "ä")
    assert examples.keys.tolist() == [path for path, _ in rows[1:]]


@pytest.mark.parametrize("path", ["filename", "image", "filepath", "File_Path"])
@pytest.mark.parametrize("label", ["class", "target", "category"])
def test_manifest_columns_are_found_by_their_usual_names(tmp_path, path, label):
    text = f"id,{label},{path}\n1,a,x\n2,b,y\n3,a,z\n"
    assert manifest(tmp_path, text).keys.tolist() == ["x", "y", "z"]


def test_manifest_column_by_its_own_name_comes_before_others(tmp_path):
    text = "image,path,class,label\n1,x,7,a\n2,y,8,b\n3,z,8,b\n"
    examples = manifest(tmp_path, text)
    assert (examples.classes, examples.keys.tolist()) == (("a", "b"), ["x", "y", "z"])


def test_manifest_behind_a_link_is_read(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    text = "path,label\n" + "".join(f"{n}.jpg,{'ab'[n % 2]}\n" for n in range(4))
    assert len(manifest(tmp_path / "link", text)) == 4


MANIFESTS = {
    "columns photo, label and no 'path'": "photo,label\nx,a\n",
    "is it 'lable'": "path,lable\nx,a\n",
    "is it 'img_name'": "img_name;label\nx;a\n",
    "of which image and file may be the 'path'": "image,file,label\nx,y,a\n",
    "of which label and label may be the 'label'": "path,label,label\nx,a,b\n",
    "mark; save it as UTF-8": "p\0a\0t\0h\0,\0l\0a\0b\0e\0l\0\n\0",
    "is it 'groups'": "path,label,groups\nx,a,g\n",
    r"\(none\)": "",
    "line 3: path 'y', label ''": "path,label\nx,a\ny,  \n",
    "line 2: path 'x', label ''": "path,label\nx\n",
    "line 2: split 'fold 1'": "path,label,split\nx,a,fold 1\n",
    "classes 'a.nb' and 'a..nb' look alike": 'path,label\nx,"a\nb"\ny,a\\nb\n',
    "line 3: duplicate path ./x": "path,label\nx,a\n./x,b\n",
    "zero byte|no CSV": "path,label\nx\0y,a\n",
    "no CSV file, line 3": 'path,label\nx,a\n"y"z,b\n',
    "no images": "path,label\n",
    "group 'g' is in train and in validation": (
        "path,label,split,group\n1,a,train,g\n2,b,train,\n3,a,val,g\n4,b,val,\n"
    ),
}


@pytest.mark.parametrize("message", MANIFESTS)
def test_invalid_manifest_is_refused_with_its_line(tmp_path, message):
    with pytest.raises(UserError, match=message):
        manifest(tmp_path, MANIFESTS[message])


def test_missing_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"the manifest .*none\.csv does not exist"):
        sources.load_examples(DataSpec("manifest", str(tmp_path / "none.csv")))
