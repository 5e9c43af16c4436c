"""Errors are one line, with a place and a near word."""

from __future__ import annotations

import pickle
import time

import pytest

from nas_agg.common.errors import GenotypeError, InputError, NasAggError, did_you_mean, one_line, truncate


def test_an_error_of_the_input_ends_with_status_2_and_one_of_the_work_with_1() -> None:
    assert (NasAggError.status, InputError.status, GenotypeError.status) == (1, 2, 2)
    assert issubclass(GenotypeError, InputError) and issubclass(InputError, ValueError)


@pytest.mark.parametrize(
    ("where", "used", "said"),
    [
        ("", (), "is wrong"),
        ("net[4].out", (), "net[4].out: is wrong"),
        ("let.block.unit[2].ot", ("net[4]", "node 1"), "let.block.unit[2].ot (net[4], node 1): is wrong"),
        ("", ("node 1",), "(node 1): is wrong"),
    ],
)
def test_an_error_names_the_place_where_it_was_written_then_where_it_is_used(
    where: str, used: tuple, said: str
) -> None:
    error = GenotypeError("is wrong", where, used)
    assert str(error) == said
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.where, again.used_at) == (said, where, used)


def test_an_error_seen_from_further_out_says_so_first() -> None:
    assert str(GenotypeError("x", "let.a").within("node 1").within("net[2]")) == "let.a (net[2], node 1): x"


def test_control_characters_are_written_out() -> None:
    assert one_line("a\nb\tc\x00\u2028é") == "a\\nb\\tc\\x00\\u2028é"
    assert len(str(GenotypeError("two\nlines", "net.a\rb")).splitlines()) == 1


def test_long_texts_are_cut() -> None:
    assert truncate("a" * 60) == "a" * 60 and truncate("a" * 61) == "a" * 57 + "..."


def test_near_words() -> None:
    assert did_you_mean("ot", ["out", "conv"]) == "; did you mean 'out'?"
    assert did_you_mean("mobile", ["mobilenet"]) == "; did you mean 'mobilenet'?"
    assert did_you_mean("zebra", ["out", "conv"]) == ""
    assert did_you_mean("", ["a"]) == ""


def test_looking_for_a_near_word_among_very_many_takes_no_time() -> None:
    began = time.process_time()
    did_you_mean("b" * 60, [f"{'b' * 50}{i:08d}" for i in range(100_000)])
    did_you_mean("b" * 1_000_000, ["b" * 999_999])
    assert time.process_time() - began < 1
