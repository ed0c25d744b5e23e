"""Weight files from somewhere: none of them runs anything or reads another file."""

from __future__ import annotations

import resource
import zipfile

import h5py
import keras
import numpy as np
import pytest

from engine.core.errors import UserError
from engine.models import classifier
from tests.engine import small


def refused(file) -> str:
    with pytest.raises(UserError) as caught:
        classifier.build(small.recipe(weights=str(file)), 2)
    assert str(caught.value).startswith(f"--weights={file}: does not fit")
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:Skipping nested container")
@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_layer_that_is_code_is_never_built(tmp_path, kind):
    marker = tmp_path / "executed"

    def code(x, marker=str(marker)):
        open(marker, "w").close()
        return x

    pixels = keras.Input((32, 32, 3))
    model = keras.Model(pixels, keras.layers.Lambda(code, output_shape=(32, 32, 3))(pixels))
    model.save(tmp_path / f"model.{kind}")
    marker.unlink(missing_ok=True)
    refused(tmp_path / f"model.{kind}")
    assert not marker.exists()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """This network's weights in both of Keras' layouts."""
    place = tmp_path_factory.mktemp("weights")
    net = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3))
    net.save(place / "whole.h5")
    net.save_weights(place / "plain.weights.h5")
    return place


def put_elsewhere(name: str, place, way: str) -> None:
    """Replaces an array of 3 x 3 x 3 x 32 in the file by one that lies in another."""
    shape, found = (3, 3, 3, 32), []

    def look(key: str) -> None:
        if isinstance(file[key], h5py.Dataset) and file[key].shape == shape:
            found.append(key)

    with h5py.File(place / name, "a") as file:
        file.visit(look)
        del file[found[0]]
        if way == "bytes":
            secret = [(str(place / "secret"), 0, 3456)]
            file.create_dataset(found[0], shape, "f4", external=secret)
        else:
            file[found[0]] = h5py.ExternalLink(str(place / "other.h5"), "x")


@pytest.mark.parametrize("name", ["whole.h5", "plain.weights.h5"])
@pytest.mark.parametrize("way", ["bytes", "link"])
def test_weight_file_reads_no_other_file(saved, tmp_path, name, way):
    (tmp_path / name).write_bytes((saved / name).read_bytes())
    (tmp_path / "secret").write_bytes(np.full((3, 3, 3, 32), 7, "f4").tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.full((3, 3, 3, 32), 7, "f4")
    put_elsewhere(name, tmp_path, way)
    refused(tmp_path / name)


def test_whole_model_file_is_loaded(saved):
    classifier.build(small.recipe(weights=str(saved / "whole.h5")), 2)


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_small_file_that_claims_gigabytes_is_refused_before_they_are_read(tmp_path, kind):
    """Without chunks that were written the arrays take no space in the file."""
    weights, file = tmp_path / "model.weights.h5", tmp_path / f"bomb.{kind}"
    with h5py.File(weights, "w") as arrays:
        arrays.create_dataset("bomb", (10**9,), "f4", chunks=(2**20,), compression="gzip")
    if kind == "keras":
        with zipfile.ZipFile(file, "w") as archive:
            archive.write(weights, weights.name)
    else:
        weights.rename(file)
    assert file.stat().st_size < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "holds arrays of 4" in refused(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
