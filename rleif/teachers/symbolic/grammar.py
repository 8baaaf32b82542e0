"""The grammar table: every word and every sentence of the world. Data only; the one thing that writer and reader share.

Slots of a template:
    {S} subject          {U} {u} noun, plural and singular      {V} {b} its verb, "bakes" and "bake"
    {N} {M} numbers      {T} "twice" or "3 times"               {F} "half", "one third" ...
    {A} {B} two owners   {L} verb of giving up, "sells"         {G} container, "trays"
    {R} a reference: "Cleo", "Cleo has left", "she does"
    {W} a reference with its verb: "Cleo bakes", "Cleo has left", "she bakes"; a rate names its noun as {x}

A reference without "left" speaks of what the person bakes, picks ... in all; a pronoun may stand for any person of that
gender whose amount of that noun was stated before and is not the one being defined. The larger of a difference comes
first.
"""

from dataclasses import dataclass
from typing import Literal

Gender = Literal["she", "he"]


@dataclass(frozen=True, slots=True)
class Unit:
    """Something that is counted, what people do to get it (`base`, `verb`), how they lose it, and its container.

    >>> Unit("muffin", "muffins", "bake", "bakes", "sells", "trays")
    """

    one: str
    many: str
    base: str
    verb: str
    loss: str
    group: str


@dataclass(frozen=True, slots=True)
class Theme:
    """A topic: opening sentences and the plural nouns of what is made (`items`) and what is paid for it (`rewards`)."""

    name: str
    scenes: tuple[str, ...]
    items: tuple[str, ...]
    rewards: tuple[str, ...]


_UNITS = (
    # what is paid
    Unit("dollar", "dollars", "earn", "earns", "spends", "envelopes"),
    Unit("point", "points", "score", "scores", "loses", "rounds"),
    Unit("sticker", "stickers", "get", "gets", "trades", "sheets"),
    Unit("token", "tokens", "receive", "receives", "spends", "pouches"),
    # what is made, found, bought
    Unit("muffin", "muffins", "bake", "bakes", "sells", "trays"),
    Unit("bagel", "bagels", "bake", "bakes", "sells", "trays"),
    Unit("tart", "tarts", "bake", "bakes", "eats", "trays"),
    Unit("apple", "apples", "pick", "picks", "gives away", "baskets"),
    Unit("plum", "plums", "pick", "picks", "eats", "baskets"),
    Unit("pear", "pears", "pick", "picks", "sells", "baskets"),
    Unit("crab", "crabs", "catch", "catches", "sets free", "buckets"),
    Unit("eel", "eels", "catch", "catches", "sets free", "buckets"),
    Unit("shell", "shells", "find", "finds", "loses", "jars"),
    Unit("pebble", "pebbles", "find", "finds", "drops", "jars"),
    Unit("novel", "novels", "borrow", "borrows", "returns", "stacks"),
    Unit("comic", "comics", "borrow", "borrows", "returns", "stacks"),
    Unit("chair", "chairs", "build", "builds", "sells", "sets"),
    Unit("stool", "stools", "build", "builds", "sells", "sets"),
    Unit("mask", "masks", "paint", "paints", "gives away", "boxes"),
    Unit("tile", "tiles", "paint", "paints", "breaks", "boxes"),
    Unit("letter", "letters", "write", "writes", "mails", "packs"),
    Unit("poem", "poems", "write", "writes", "gives away", "packs"),
    Unit("tulip", "tulips", "grow", "grows", "sells", "rows"),
    Unit("fern", "ferns", "grow", "grows", "gives away", "rows"),
    Unit("egg", "eggs", "gather", "gathers", "sells", "crates"),
    Unit("pumpkin", "pumpkins", "gather", "gathers", "gives away", "crates"),
    Unit("kite", "kites", "make", "makes", "sells", "bundles"),
    Unit("puppet", "puppets", "make", "makes", "gives away", "bundles"),
    Unit("lemon", "lemons", "buy", "buys", "uses up", "bags"),
    Unit("onion", "onions", "buy", "buys", "uses up", "bags"),
    Unit("poster", "posters", "print", "prints", "gives away", "rolls"),
    Unit("flyer", "flyers", "print", "prints", "gives away", "rolls"),
    Unit("hat", "hats", "knit", "knits", "sells", "piles"),
    Unit("mitten", "mittens", "knit", "knits", "gives away", "piles"),
    Unit("goal", "goals", "shoot", "shoots", "loses", "series"),
    Unit("medal", "medals", "win", "wins", "gives away", "series"),
    Unit("robot", "robots", "assemble", "assembles", "sells", "batches"),
    Unit("drone", "drones", "assemble", "assembles", "breaks", "batches"),
)
UNITS = {unit.many: unit for unit in _UNITS}

# fmt: off
THEMES = (
    Theme("bakery",
          ("The bakery opens early.", "It is a busy day at the bakery."),
          ("muffins", "bagels", "tarts"), ("dollars", "tokens")),
    Theme("orchard",
          ("The orchard is open to visitors.", "Harvest starts in the orchard."),
          ("apples", "plums", "pears"), ("dollars", "tokens")),
    Theme("harbor",
          ("Friends meet at the harbor.", "The tide is low at the harbor."),
          ("crabs", "eels"), ("dollars", "points")),
    Theme("beach",
          ("The class visits a beach.", "A walk along the beach begins."),
          ("shells", "pebbles"), ("stickers", "tokens")),
    Theme("library",
          ("The library runs a summer club.", "Readers meet at the library."),
          ("novels", "comics"), ("points", "stickers")),
    Theme("workshop",
          ("The workshop has many orders.", "Carpenters share a workshop."),
          ("chairs", "stools"), ("dollars", "tokens")),
    Theme("art studio",
          ("An art studio prepares a show.", "Painters share a studio."),
          ("masks", "tiles"), ("dollars", "stickers")),
    Theme("writing club",
          ("The writing club meets today.", "A writing club starts a new season."),
          ("letters", "poems"), ("points", "stickers")),
    Theme("garden",
          ("A town garden needs helpers.", "Spring comes to the garden."),
          ("tulips", "ferns"), ("dollars", "tokens")),
    Theme("farm",
          ("Morning begins on the farm.", "The farm hires helpers."),
          ("eggs", "pumpkins"), ("dollars", "tokens")),
    Theme("craft fair",
          ("The craft fair opens soon.", "Neighbors prepare a craft fair."),
          ("kites", "puppets"), ("dollars", "tokens")),
    Theme("kitchen",
          ("Cooks plan a street dinner.", "The kitchen needs supplies."),
          ("lemons", "onions"), ("points", "tokens")),
    Theme("print shop",
          ("The print shop runs all day.", "A print shop gets new orders."),
          ("posters", "flyers"), ("dollars", "points")),
    Theme("knitting circle",
          ("A knitting circle works all winter.", "The knitting circle meets again."),
          ("hats", "mittens"), ("dollars", "stickers")),
    Theme("sports day",
          ("Sports day has started.", "The teams line up for sports day."),
          ("goals", "medals"), ("points", "stickers")),
    Theme("robot lab",
          ("The robot lab is full.", "Students fill the robot lab."),
          ("robots", "drones"), ("dollars", "points")),
)
# fmt: on

# Rare in public test sets on purpose, so that no 8-gram with a name in it is shared by chance.
NAMES: dict[str, Gender] = {
    **dict.fromkeys(
        ("Amara", "Celia", "Elif", "Greta", "Ines", "Kaia", "Mirela", "Nadia", "Petra", "Saskia", "Thea", "Yuki"), "she"
    ),
    **dict.fromkeys(
        ("Bruno", "Dario", "Farid", "Hugo", "Jonas", "Lars", "Matteo", "Nils", "Otto", "Pavel", "Stefan", "Tarek"), "he"
    ),
}

FRACTIONS = {
    2: "half",
    3: "one third",
    4: "one quarter",
    5: "one fifth",
    6: "one sixth",
    8: "one eighth",
    10: "one tenth",
}


@dataclass(frozen=True, slots=True)
class Form:
    """A relation: how many earlier quantities and how many numbers it takes, its sentences, and its equation in a step.

    In `equation` {0} and {1} are the values of the arguments, {n} and {m} the numbers of the sentence.

    >>> Form(1, 1, ("{S} {V} {N} more {U} than {R}.",), "{0} + {n}")
    """

    n_args: int
    n_numbers: int
    sentences: tuple[str, ...]
    equation: str


FORMS: dict[str, Form] = {
    "given": Form(
        0,
        1,
        ("{S} {V} {N} {U}.", "{S} {V} exactly {N} {U}.", "The number of {U} {S} {V} is {N}."),
        "{n}",
    ),
    "groups": Form(
        0,
        2,
        ("{S} {V} {M} {G} of {N} {U} each.", "{S} {V} {M} {G} with {N} {U} in each.", "{S} {V} {U} in {M} {G} of {N}."),
        "{m} * {n}",
    ),
    "parts": Form(
        0,
        2,
        (
            "{S} {V} {M} {U} in the morning and {N} in the afternoon.",
            "{S} {V} {M} {U} on Monday and {N} more on Tuesday.",
            "{S} first {V} {M} {U} and later another {N}.",
        ),
        "{m} + {n}",
    ),
    "more": Form(
        1,
        1,
        (
            "{S} {V} {N} more {U} than {R}.",
            "{S} {V} as many {U} as {R} and then {N} more.",
            "The number of {U} {S} {V} is {N} more than the number {W}.",
        ),
        "{0} + {n}",
    ),
    "fewer": Form(
        1,
        1,
        (
            "{S} {V} {N} fewer {U} than {R}.",
            "{S} falls {N} short of the number of {U} {W}.",
            "The number of {U} {S} {V} is {N} less than the number {W}.",
        ),
        "{0} - {n}",
    ),
    "times": Form(
        1,
        1,
        (
            "{S} {V} {T} as many {U} as {R}.",
            "The number of {U} {S} {V} is {T} the number {W}.",
            "For every {u} {W}, {S} {V} {N}.",
        ),
        "{0} * {n}",
    ),
    "share": Form(
        1,
        1,
        (
            "{S} {V} {F} as many {U} as {R}.",
            "{S} {V} {U}, but only {F} as many as {R}.",
            "The number of {U} {S} {V} is {F} of the number {W}.",
        ),
        "{0} / {n}",
    ),
    "percent": Form(
        1,
        1,
        (
            "{S} {V} {N}% as many {U} as {R}.",
            "{S} {V} {U}, but only {N}% as many as {R}.",
            "The number of {U} {S} {V} is {N}% of the number {W}.",
        ),
        "{0} * {n} / 100",
    ),
    "rate": Form(
        1,
        1,
        (
            "{S} {V} {N} {U} for each {x} {W}.",
            "For every {x} {W}, {S} {V} {N} {U}.",
            "Each {x} {W} brings {S} {N} {U}.",
        ),
        "{0} * {n}",
    ),
    "left": Form(
        1,
        1,
        ("{S} {L} {N} of these {U}.", "Of these {U}, {S} {L} {N}.", "Later {S} {L} {N} of the {U}."),
        "{0} - {n}",
    ),
    "total": Form(
        2,
        0,
        (
            "{S} {V} as many {U} as {A} and {B} together.",
            "{S} {V} the same number of {U} as {A} and {B} combined.",
            "{A} and {B} together {b} as many {U} as {S}.",
        ),
        "{0} + {1}",
    ),
    "comparison": Form(
        2,
        0,
        (
            "{S} {V} as many {U} as the difference between {A} and {B}.",
            "The number of {U} {S} {V} is how many more {A} {V} than {B}.",
            "{S} {V} as many {U} as {A} is ahead of {B}.",
        ),
        "{0} - {1}",
    ),
}

# A question asks for one person's amount, for what is left of it, or itself states a last total or comparison.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "plain": (
        "How many {U} does {S} {b}?",
        "What is the number of {U} {S} {V}?",
        "Find how many {U} {S} {V}.",
    ),
    "left": (
        "How many {U} does {S} have left?",
        "What number of {U} does {S} still have?",
        "Find how many {U} {S} has left.",
    ),
    "total": (
        "How many {U} do {A} and {B} {b} together?",
        "What is the total number of {U} {A} and {B} {b}?",
        "Find how many {U} {A} and {B} {b} combined.",
    ),
    "comparison": (
        "How many more {U} does {A} {b} than {B}?",
        "By how many {U} is {A} ahead of {B}?",
        "Find how many more {U} {A} {V} than {B}.",
    ),
}
