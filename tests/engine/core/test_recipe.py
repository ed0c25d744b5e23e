from __future__ import annotations

import dataclasses
import json
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.core import recipe as specs
from engine.core.call_syntax import Call, parse_calls
from engine.core.errors import UserError, choose, nearest
from engine.core.recipe import DataSpec, Phase, Recipe, differences, from_json, parse_phase, to_json
from tests.engine.core.test_call_syntax import calls, names, parsed_or_refused, texts, values
from tests.engine.small import recipe

FULL = recipe(
    data=DataSpec("split_folders", "/täglich/a b", "/v", "/t", 300.0, 7, 20, "fail"),
    phases=(
        parse_phase("transfer(epochs=0)"),
        parse_phase(
            "tune(trainable=mixed9, epochs=3, optimizer=sgd, momentum=0.9, nesterov=true, "
            "schedule=step, drops=2, warmup_epochs=0.5, weight_decay=1e-2, clip_global_norm=1, "
            "batch_norm=train, early_stopping_patience=2, views=4, refresh=0.25)"
        ),
    ),
    augment=parse_calls("rotate(30)|shift(share=0.2)|flip"),
    init_from="/runs/before",
    image_size=(192, 256),
    gradient_accumulation_steps=4,
    precision="mixed_bfloat16",
    xla="on",
    cache="features",
    deterministic=True,
)


shares = st.floats(0, 1, exclude_max=True)
above_0 = st.floats(0, exclude_min=True, allow_infinity=False)
counts = st.integers(1, 10**6)
paths = st.binary(max_size=9).map(os.fsdecode)
FIELDS = {
    kind: [field.name for field in dataclasses.fields(kind)] for kind in (Phase, DataSpec, Recipe)
}
plain = {
    "name": names,
    "trainable": texts,
    "epochs": counts,
    "optimizer": texts,
    "learning_rate": above_0,
    "schedule": texts,
    "batch_norm": st.sampled_from(specs.BATCH_NORM),
    "layer_decay": st.none() | st.floats(0, 1, exclude_min=True),
    "weight_decay": st.none() | shares,
    "clip_global_norm": st.none() | above_0,
    "early_stopping_patience": st.none() | counts,
    "views": st.none() | counts,
    "options": st.dictionaries(
        names.filter(lambda name: name not in FIELDS[Phase]), values, max_size=3
    ),
}
phases = st.builds(Phase, **plain) | st.builds(
    Phase, **{**plain, "views": counts, "refresh": st.floats(0, 1)}
)
phases |= st.builds(Phase, **{**plain, "batch_norm": st.just("frozen"), "average": calls})
data = st.builds(
    DataSpec,
    source=st.text(max_size=9),
    location=paths,
    validation_location=st.none() | paths,
    test_location=st.none() | paths,
    validation_fraction=st.floats(0, 1, exclude_min=True, exclude_max=True) | counts.map(float),
    split_seed=st.integers(0),
    limit_examples=st.none() | counts,
    on_bad_image=st.sampled_from(specs.ON_BAD_IMAGE),
)
whole = st.builds(
    Recipe,
    data=data,
    phases=st.lists(phases, min_size=1, max_size=3, unique_by=lambda p: p.name).map(tuple),
    backbone=st.text(max_size=9),
    image_size=st.tuples(counts, counts),
    weights=paths,
    init_from=st.none() | paths,
    hidden_units=counts,
    dropout=shares,
    resize=st.sampled_from(specs.RESIZES),
    augment=st.lists(calls, max_size=3).map(tuple),
    label_smoothing=shares,
    class_weights=st.sampled_from(specs.CLASS_WEIGHTS),
    batch_size=counts,
    precision=st.sampled_from(specs.PRECISIONS),
    xla=st.sampled_from(specs.XLA),
    cache=st.sampled_from(specs.CACHES),
    seed=st.integers(0, 2**32 - 1),
    deterministic=st.booleans(),
)


@settings(deadline=None, max_examples=100)
@example(recipe())
@example(FULL)
@given(whole)
def test_any_recipe_from_its_json_is_unchanged(value):
    again = from_json(Recipe, to_json(value))
    assert again == value
    assert to_json(again) == to_json(value), "True is not 1, and 1.0 is not 1"


@settings(deadline=None, max_examples=100)
@given(phases)
def test_phase_from_its_written_call_is_unchanged(phase):
    keys = {key: getattr(phase, key) for key in FIELDS[Phase] if key not in ("name", "options")}
    again = parse_phase(str(Call(phase.name, (), {**keys, **phase.options})))
    assert again == phase
    assert to_json(again) == to_json(phase)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_recipe_json_with_any_value_loads_or_raises_one_line(data):
    recipe = json.loads(to_json(FULL))
    place, kind = data.draw(
        st.sampled_from(
            [(recipe, Recipe), (recipe["data"], DataSpec), (recipe["phases"][1], Phase)]
        )
    )
    place[data.draw(st.sampled_from(FIELDS[kind]))] = data.draw(anything)
    parsed = parsed_or_refused(from_json, Recipe, json.dumps(recipe))
    assert parsed is None or to_json(from_json(Recipe, to_json(parsed))) == to_json(parsed)


def test_recipe_json_holds_calls_as_text():
    values = json.loads(to_json(FULL))
    assert values["augment"] == ["rotate(30)", "shift(share=0.2)", "flip"]
    assert values["image_size"] == [192, 256]
    options = {"momentum": 0.9, "nesterov": True, "drops": 2, "warmup_epochs": 0.5}
    assert values["phases"][1]["options"] == options


def test_parse_phase_converts_types_and_collects_options():
    phase = parse_phase(
        "tune(epochs=3, learning_rate=1, momentum=0.9, clip_global_norm=none, views=2, refresh=1)"
    )
    assert phase == Phase(
        "tune", epochs=3, learning_rate=1.0, views=2, refresh=1.0, options={"momentum": 0.9}
    )
    assert type(phase.learning_rate) is float
    assert type(phase.refresh) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tune(head)", "write every value as key=value"),
        ("tune(epochs=two)", r"phase 'tune': epochs='two'; allowed: a whole number"),
        ("tune(epochs=2.5)", r"epochs=2.5; allowed: a whole number"),
        ("tune(epochs=true)", r"epochs=True; allowed: a whole number"),
        ("tune(epochs=-1)", "phase 'tune': epochs=-1; allowed: a whole number, 0 or more"),
        ("tune(learning_rate=0)", "learning_rate=0.0; allowed: a number, above 0"),
        ("tune(learning_rate=nan)", "learning_rate='nan'; allowed: a number"),
        ("tune(trainable=9)", "trainable=9; allowed: a word"),
        ("tune(refresh=0.5)", "refresh=0.5 requires views=K"),
        ("tune(layer_decay=0)", "layer_decay=0.0; allowed: a number, above 0, up to 1"),
        ("tune(average=3)", r"average=3; allowed: text as in rotate\(30\)"),
        ("tune(average=ema, batch_norm=train)", "average=ema requires batch_norm=frozen"),
        ("tune(batch_norm=forzen)", r"batch_norm 'forzen' .*allowed: frozen, train"),
    ],
)
def test_invalid_phase_is_refused_with_allowed_values(text, message):
    with pytest.raises(UserError, match=message):
        parse_phase(text)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("key", ["learning_rate", "clip_global_norm", "weight_decay", "refresh"])
def test_phase_with_non_finite_number_is_refused(key, rate):
    with pytest.raises(UserError, match=key):
        Phase("tune", **{key: rate})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size=0; allowed: a whole number, 1 or more"),
        ({"image_size": (0, 8)}, "image_size="),
        ({"dropout": 1.0}, "dropout=1.0; allowed: a number, 0 or more, below 1"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"seed": None}, "seed=None; allowed: a value"),
        ({"precision": "bfloat16"}, r"did you mean 'mixed_bfloat16'\?"),
        ({"xla": "yes"}, r"xla 'yes' .*allowed: auto, on, off"),
        ({"cache": "feature"}, r"cache .*did you mean 'features'\?.*auto, none, pixels, features"),
        (
            {"gradient_accumulation_steps": 5},
            "gradient_accumulation_steps=5; allowed: a number that divides batch_size=32",
        ),
        ({"resize": "crob"}, r"resize 'crob' .*squash, crop, pad"),
        ({"phases": ()}, "no phase"),
        ({"phases": (Phase("a"), Phase("a"))}, "duplicate phase name 'a'"),
        ({"phases": (Phase("a", epochs=0), Phase("b", epochs=0))}, r"epochs=0 in every.*a, b"),
    ],
)
def test_invalid_recipe_is_refused_with_allowed_values(changes, message):
    with pytest.raises(UserError, match=message):
        recipe(**changes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("validation_fraction", value) for value in (0, 1.5, float("nan"), float("inf"))),
        ("limit_examples", 0),
        ("split_seed", "x"),
    ],
)
def test_invalid_data_spec_is_refused(key, value):
    with pytest.raises(UserError, match=f"{key}={value!r}; allowed: "):
        DataSpec("folders", "x", **{key: value})


def edited(**changes) -> str:
    return json.dumps({**json.loads(to_json(FULL)), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "Recipe is list; allowed: an object"),
        (edited(batch_sise=3), r"key 'batch_sise' does not exist \(did you mean 'batch_size'\?\)"),
        (edited(batch_size="3"), "Recipe.batch_size='3'; allowed: a whole number"),
        (edited(batch_size=None), "Recipe.batch_size=None; allowed: a whole number"),
        (edited(deterministic=1), "Recipe.deterministic=1; allowed: true or false"),
        (edited(image_size=[1, 2, 3]), "allowed: 2 values"),
        (edited(image_size=5), "Recipe.image_size=5; allowed: a list or an object"),
        (edited(augment=[5]), r"Recipe.augment=5; allowed: text as in rotate\(30\)"),
        (edited(augment=["rotate("]), "expected"),
        (edited(data=None), "Recipe.data is NoneType; allowed: an object"),
        (edited(data={"source": "folders"}), "Recipe.data: key 'location' is missing"),
        (edited(phases=[]), "no phase"),
        (edited(dropout=float("nan")), "dropout=nan"),
        (edited(dropout=10**400), "dropout=1000"),
        (edited(dropout=True), "Recipe.dropout=True; allowed: a number"),
    ],
)
def test_json_that_is_no_recipe_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        from_json(Recipe, text)


def test_key_missing_in_json_gets_its_default():
    values = json.loads(to_json(recipe()))
    needed = {key: values[key] for key in ("data", "phases", "backbone", "image_size")}
    assert from_json(Recipe, json.dumps(needed)) == dataclasses.replace(
        recipe(), weights="imagenet"
    )


def test_choose_of_unknown_name_suggests_nearest():
    assert choose("adam", {"adam": 1}, "optimizer") == 1
    with pytest.raises(UserError) as caught:
        choose("adamm", {"sgd": 0, "adam": 1}, "optimizer")
    assert str(caught.value) == (
        "optimizer 'adamm' does not exist (did you mean 'adam'?); allowed: sgd, adam"
    )


def test_nearest_of_nonsense_is_empty():
    assert nearest("xyz", ["sgd", "adam"]) == ""


def test_differences_name_the_fields():
    one = recipe()
    phase = dataclasses.replace(one.phases[0], epochs=one.phases[0].epochs + 1)
    data = dataclasses.replace(one.data, split_seed=9)
    other = dataclasses.replace(one, phases=(phase, *one.phases[1:]), data=data, seed=one.seed + 1)
    assert differences(one, other) == ["data.split_seed", "phases[0].epochs", "seed"]
    assert differences(one, dataclasses.replace(one, phases=(phase, Phase("b")))) == ["phases"]
    assert differences(one, dataclasses.replace(one)) == []
