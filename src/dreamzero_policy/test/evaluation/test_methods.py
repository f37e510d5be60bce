"""Methods by name, and what they need."""

from pathlib import Path

import pytest

from dreamzero_policy.evaluation.methods import TABLE, MethodError, headline, lack, method


def test_the_table_names_every_method_once() -> None:
    assert len({method(name) for name in TABLE}) == len(TABLE) == 13
    assert [method(name).steps for name in TABLE] == [16, 4, 1, 4, 1, 4, 1, 4, 1, 0, 0, 0, 0]


def test_a_name_says_weights_steps_and_injection() -> None:
    assert (method("flash-2").weights, method("flash-2").steps) == ("flash", 2)
    assert [name for name in TABLE if not method(name).injection] == ["no-injection-4", "no-injection-1"]


@pytest.mark.parametrize("name", ["wam", "wam-0", "wam-65", "wam-4x", "dream-4", ""])
def test_an_unknown_method_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(MethodError, match="wam-N"):
        method(name)


def test_what_a_method_lacks_is_named_by_its_option() -> None:
    assert lack(method("flash-4"), {"checkpoint"}, None, False) == "--flash-checkpoint"
    assert "--demonstrations or a --world that" in lack(method("mean-demonstration"), {"checkpoint"}, None, False)
    assert "--world" in lack(method("demonstration"), {"checkpoint"}, Path("demos"), False)
    assert lack(method("mean-demonstration"), set(), Path("demos"), False) == ""
    assert lack(method("mean-demonstration"), set(), None, True) == ""
    assert lack(method("demonstration"), set(), None, True) == lack(method("hold"), set(), None, False) == ""


def test_what_is_served_stands_on_top_where_it_was_measured_then_four_steps() -> None:
    assert headline(["wam-16", "wam-4", "wam-1"], served="wam-1") == "wam-1"
    assert headline(["wam-16", "wam-4", "hold"], served="wam-1") == "wam-4"
    assert headline(["flash-1", "hold"]) == "flash-1"
