"""Two different keys never meet, whatever the template and the text."""

from __future__ import annotations

from datetime import date, datetime
from enum import Enum

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.gold.templates import KeyTemplate

# Text made of what separators and escapes are made of, so that collisions are near.
NASTY = st.text(st.sampled_from("%|:-25ABaé\0"), max_size=4)
LITERALS = st.text(st.sampled_from("%|:-25Aa é"), max_size=3)
VALUES = st.one_of(
    st.tuples(NASTY, NASTY),
    st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
    st.tuples(st.booleans(), st.booleans()),
    st.tuples(st.dates(), st.dates()),
)


@st.composite
def template_and_keys(draw):
    count = draw(st.integers(1, 3))
    literals = [draw(LITERALS) for _ in range(count + 1)]
    columns = "".join(f"{literal}{{c{n}}}" for n, literal in enumerate(literals[:-1]))
    pairs = [draw(VALUES) for _ in range(count)]
    return columns + literals[-1], *zip(*pairs, strict=True)


@given(template_and_keys())
@example(("{a}%{b}", ("x", "25y%"), ("x%y", "25")))
@example(("{a}3{b}", ("%", "3"), ("", "")))
@example(("{a}|{b}", ("|", ""), ("%7C", "")))
@example(("{a}|{b}", ("a|b", "c"), ("a", "b|c")))
@example(("{a}2{b}", (1, 2), (12, 2)))
def test_different_keys_render_differently(case):
    text, one, other = case
    try:
        template = KeyTemplate.parse(text)
    except ConfigurationError:
        assume(False)
    assert (template.render(one) == template.render(other)) == (one == other)


class Colour(str, Enum):  # noqa: UP042 - formatting gives its name, not its text
    RED = "r|%"


class Level(int, Enum):
    HIGH = 3


PARTS = st.sampled_from(
    ["", "a", "a|b", "%", "{}", "é:", 1, -7, True, False, date(2013, 1, 2), Colour.RED, Level.HIGH]
)


@settings(deadline=None)
@given(st.lists(st.tuples(PARTS, PARTS), max_size=4), st.data())
def test_many_keys_are_rendered_as_each_alone(keys, data):
    """In whatever form, and whatever others are with it."""
    template = KeyTemplate.parse("x{a}|{b}:")
    forms = (tuple, list, lambda key: dict(zip("ba", reversed(key), strict=True)))
    mixed = [data.draw(st.sampled_from(forms))(key) for key in keys]
    assert template.render_all(mixed) == [template.render(key) for key in keys]
    expected = [f"x{part(a)}|{part(b)}:" for a, b in keys]
    assert template.render_all(keys) == expected
    single = [a for a, _ in keys]
    assert KeyTemplate.parse("{a}").render_all(single) == [part(a, escape=False) for a in single]


def part(value, *, escape=True):
    """What a value is in a key, said in the plainest way."""
    match value:
        case bool():
            return str(value).lower()
        case str() if escape:
            return "".join(f"%{ord(c):02X}" if c in "%|" else c for c in value)
        case Enum():
            return str(value.value)
    return str(value)


@pytest.mark.parametrize("separator", ["%", "3", "A", "F|", "%|", "0:"])
def test_a_separator_that_escapes_could_hold_is_refused(separator):
    with pytest.raises(ConfigurationError, match="between"):
        KeyTemplate.parse(f"{{a}}{separator}{{b}}")


@pytest.mark.parametrize("separator", ["|", ":", "-", ":2024:", "g", "a", " ", "é", "/%41", "_A"])
def test_other_separators_are_taken(separator):
    template = KeyTemplate.parse(f"{{a}}{separator}{{b}}")
    assert template.render(("x", "y")) == f"x{separator}y"


@pytest.mark.parametrize(
    "text",
    ["", "sales", "{}", "{a}{b}", "{a}:{a}", "{a}:{}", "{a{b}}", "{a}}", "{{a}", "{a}:{", "x}{a}"],
)
def test_bad_templates_are_refused_by_name(text):
    with pytest.raises(ConfigurationError) as caught:
        KeyTemplate.parse(text)
    assert repr(text) in str(caught.value)


def test_a_column_name_with_braces_is_refused_and_not_taken_for_another():
    with pytest.raises(ConfigurationError, match=r"a\{b\}"):
        KeyTemplate.of_columns(["a{b}"])


def test_single_columns_are_left_as_they_are():
    assert KeyTemplate.parse("sales:{a}").render("50%:|{x}") == "sales:50%:|{x}"


def test_keys_by_value_tuple_and_name_are_the_same():
    template = KeyTemplate.of_columns(["a", "b"])
    assert template.render((1, "x")) == template.render({"b": "x", "a": 1}) == "1|x"
    assert KeyTemplate.of_columns(["a"]).render(date(2013, 1, 2)) == "2013-01-02"
    assert KeyTemplate.of_columns(["a"]).render(True) == "true"


@pytest.mark.parametrize("key", [1, (1,), (1, 2, 3), {"a": 1}, {"a": 1, "c": 2}, ()])
def test_wrong_number_or_names_of_columns(key):
    with pytest.raises(ConfigurationError, match="'a', 'b'"):
        KeyTemplate.of_columns(["a", "b"]).render(key)


@pytest.mark.parametrize("value", [None, 1.5, b"x", datetime(2013, 1, 1), ["x"]])  # noqa: DTZ001
def test_values_that_no_key_column_has(value):
    with pytest.raises(ConfigurationError):
        KeyTemplate.of_columns(["a"]).render({"a": value})
