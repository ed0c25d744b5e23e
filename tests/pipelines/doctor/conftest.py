"""A data set with one problem of each kind, and its examination."""

import pytest
from PIL import Image

from engine.core.recipe import DataSpec
from pipelines.doctor import examine
from tests.pipelines import bad_images
from tests.pipelines.doctor.scenes import SCENES, jpeg, scene
from tests.pipelines.encoded_images import COLOUR, saved


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """train/ and val/ of cats and dogs."""
    root = tmp_path_factory.mktemp("doctor") / "data"
    files = {f"train/cats/{number}.jpg": scene(number) for number in range(12)}
    files |= {f"train/dogs/{number}.jpg": scene(number) for number in range(12, 13)}
    files |= {f"val/cats/{number}.jpg": scene(number) for number in range(20, 24)}
    files |= {f"val/dogs/{number}.jpg": scene(number) for number in range(24, 28)}
    files |= {
        "train/cats/copy.jpg": scene(0),
        "train/dogs/of_other_label.jpg": scene(1),
        "train/cats/leak.jpg": scene(20),
        "train/cats/near_leak.jpg": saved(jpeg(SCENES[21], 40), "JPEG"),
        "val/dogs/near_label.jpg": saved(jpeg(SCENES[22], 40), "JPEG"),
        "train/cats/again.png": saved(SCENES[2].resize((200, 150)), "PNG"),
        "train/cats/black.png": saved(Image.new("RGB", (90, 90)), "PNG"),
        "train/cats/tiny.png": saved(SCENES[30].resize((20, 16)), "PNG"),
        "train/cats/long.png": saved(SCENES[31].resize((400, 40)), "PNG"),
        "train/cats/named.png": scene(32),
        "train/cats/moving.gif": saved(
            COLOUR.quantize(64), "GIF", save_all=True, append_images=[COLOUR.rotate(180)]
        ),
        "train/cats/empty.jpg": b"",
        "train/cats/text.jpg": b"no image",
        "train/cats/other.jpg": saved(COLOUR, "TIFF"),
        "train/cats/cut.jpg": scene(33)[:3000],
        "train/cats/bomb.png": bad_images.png_bomb(None),
    }
    turned = Image.Exif()
    turned[0x0112] = 6
    files["train/cats/turned.jpg"] = saved(SCENES[34], "JPEG", exif=turned)
    for name, contents in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    return root


@pytest.fixture(scope="session")
def examined(data):
    before = sorted((path, path.stat().st_mtime_ns) for path in data.rglob("*"))
    progress = []
    spec = DataSpec("folders", str(data))
    dataset = examine.examine(spec, 2, lambda *counts: progress.append(counts))
    assert sorted((path, path.stat().st_mtime_ns) for path in data.rglob("*")) == before
    assert progress[-1] == (dataset.summary.readable, len(dataset.examples))
    return dataset
