"""Tokens become text: whole characters only, and nothing from a stop sequence on."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from node.requests.text import TextAssembler

few_letters = st.text("abä", max_size=24)


def assemble(pieces: list[bytes], *stops: str) -> list[str]:
    """Return the text that each piece released, and the rest at the end."""
    assembler = TextAssembler(stops)
    return [*map(assembler.feed, pieces), assembler.finish()]


def cut_into_pieces(written: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(written), *(cut % (len(written) + 1) for cut in cuts)})
    return [written[begin:end] for begin, end in itertools.pairwise(places)]


def cut_at_first_stop(text: str, stops: list[str]) -> str:
    """Return the text before the stop that is complete first, the longest of several."""
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)[1]] if found else text


def test_character_split_over_pieces_is_held_until_whole() -> None:
    """A character split over several tokens is shown once, whole."""
    first, second, third = (bytes([byte]) for byte in "€".encode())
    assert assemble([b"1 ", first, second, third, b"!"]) == ["1 ", "", "", "€", "!", ""]


def test_character_that_is_never_completed_is_replaced() -> None:
    """A character that is never completed is shown as a replacement character."""
    assert assemble(["é".encode()[:1]]) == ["", "\N{REPLACEMENT CHARACTER}"]


def test_invalid_byte_is_replaced() -> None:
    """Invalid bytes replace only themselves."""
    assert assemble([b"a\xffb"]) == ["a\N{REPLACEMENT CHARACTER}b", ""]


def test_stop_within_a_piece_ends_the_text() -> None:
    """Neither the stop sequence nor the text after it is shown."""
    assembler = TextAssembler(["END"])
    assert assembler.feed(b"one END two") == "one "
    assert assembler.stopped
    assert (assembler.feed(b"three"), assembler.finish()) == ("", "")


def test_stop_across_pieces_is_held_back() -> None:
    """The possible beginning of a stop is held back until it is known not to be one."""
    assert assemble([b"one E", b"N", b"D two"], "END") == ["one ", "", "", ""]
    assert assemble([b"one E", b"N", b"VY"], "END") == ["one ", "", "ENVY", ""]


def test_beginning_of_a_stop_at_the_end_is_shown() -> None:
    """The beginning of a stop at the end of an answer is shown."""
    assert assemble([b"one EN"], "END") == ["one ", "EN"]


def test_repeating_beginning_of_a_stop_is_found() -> None:
    """The beginning of a stop is found inside text that is held back."""
    assert "".join(assemble([b"a", b"a", b"a", b"b"], "aab")) == "a"


def test_stop_completed_by_the_last_bytes_is_found() -> None:
    """The last bytes can complete a stop sequence."""
    assembler = TextAssembler(["\N{REPLACEMENT CHARACTER}"])
    assert assembler.feed(b"a\xe2\x82") == "a"
    assert assembler.finish() == ""
    assert assembler.stopped


def test_finish_gives_what_is_left_once() -> None:
    """`finish` returns the rest only once."""
    assembler = TextAssembler(["xyz"])
    assembler.feed(b"xy")
    assert (assembler.finish(), assembler.finish()) == ("xy", "")


@given(text=few_letters, stop=st.text("abä", min_size=1, max_size=4), cuts=st.lists(st.integers(0)))
def test_any_split_gives_the_text_up_to_the_stop(text: str, stop: str, cuts: list[int]) -> None:
    """Any split of the bytes gives the text before the stop."""
    shown = "".join(assemble(cut_into_pieces(text.encode(), cuts), stop))
    assert shown == cut_at_first_stop(text, [stop])


@given(written=st.binary(max_size=24), cuts=st.lists(st.integers(0)))
def test_any_split_of_any_bytes_gives_their_text(written: bytes, cuts: list[int]) -> None:
    """Any split of any bytes loses no character."""
    assert "".join(assemble(cut_into_pieces(written, cuts))) == written.decode(errors="replace")


@given(
    text=few_letters,
    stops=st.lists(st.text("abä", min_size=2, max_size=2), max_size=4),
    cuts=st.lists(st.integers(0)),
)
def test_any_split_gives_the_text_up_to_the_first_stop(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    """Of several stops of one length, the first one in the text counts."""
    shown = "".join(assemble(cut_into_pieces(text.encode(), cuts), *stops))
    assert shown == cut_at_first_stop(text, stops)


def test_stop_inside_another_does_not_depend_on_the_split() -> None:
    """The stop that is complete first ends the text, for any split."""
    slowly = "".join(assemble([b"a", b"b", b"c"], "abc", "b"))
    assert slowly == "a"
    assert "".join(assemble([b"abc"], "abc", "b")) == slowly
