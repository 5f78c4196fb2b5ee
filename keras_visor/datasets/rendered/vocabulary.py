"""The words that documents are made of.

A second set, never trained on, tests whether reading goes beyond words that
were seen. The names of columns and fields are those of the first set there:
they come in the questions.
"""

from typing import NamedTuple

# At most four letters: the narrowest column holds no more.
COLUMNS = ("cost", "mass", "size", "age", "days", "rank", "sold", "left")
# Two of a kind each: what a value looks like does not tell whose it is.
FIELDS = {
    "name": ("host", "guest"),
    "city": ("from", "to"),
    "team": ("home", "away"),
    "time": ("start", "end"),
    "number": ("room", "seat"),
    "date": ("made", "due"),
}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct")


class Vocabulary(NamedTuple):
    """Words that stand in documents, by what they stand for."""

    items: tuple[str, ...]
    names: tuple[str, ...]
    cities: tuple[str, ...]
    teams: tuple[str, ...]
    headings: tuple[str, ...]
    words: tuple[str, ...]


SEEN = Vocabulary(
    items=(
        "tea", "milk", "salt", "rice", "oats", "corn", "fish", "eggs",
        "pear", "plum", "lime", "nuts", "bean", "beef", "jam", "cake",
    ),
    names=("Ann", "Bob", "Eva", "Tom", "Ida", "Max", "Zoe", "Leo"),
    cities=("Rome", "Oslo", "Lima", "Bonn", "Cork", "Nice", "Bern", "Kyiv"),
    teams=("hawk", "wolf", "lion", "bear", "deer", "fox", "owl", "crow"),
    headings=("Notice", "Invoice", "Report", "Order"),
    words=(
        "we", "you", "the", "and", "to", "of", "for", "at", "as", "by",
        "send", "pay", "meet", "note", "sign", "call", "box", "desk", "door",
        "week", "noon", "form", "book", "now", "new", "next",
    ),
)  # fmt: skip

UNSEEN = Vocabulary(
    items=("kale", "figs", "soup", "wine", "dill", "peas"),
    names=("Ben", "Mia", "Jon", "Liz"),
    cities=("Graz", "Metz", "Baku", "Riga"),
    teams=("lynx", "swan", "toad", "mole"),
    headings=("Letter", "Bill"),
    words=(
        "give", "took", "lamp", "hall", "park", "tree", "road", "word",
        "cold", "rain", "an", "it", "so", "or",
    ),
)  # fmt: skip
