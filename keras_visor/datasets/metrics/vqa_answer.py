"""The normal form of an answer in which VQA accuracy compares."""

import re

_DIGITS = {
    word: str(digit)
    for digit, word in enumerate(
        "zero one two three four five six seven eight nine ten".split()
    )
} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
# The full stop of a decimal number stays.
_FULL_STOP = re.compile(r"\.(?!\d)")

# The original's; it leaves out those whose letters spell another word ("she'd",
# "we're"), and has "I'm" with a capital, which it never meets.
_CONTRACTIONS = """
ain't aren't can't couldn't couldn't've could've didn't doesn't don't hadn't
hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd
it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd
there'd've there're there's they'd they'd've they'll they're they've 'twas
wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll
you're you've
""".split()


def normalise_vqa_answer(text: str) -> str:
    """Returns the form in which VQA accuracy compares answers.

    Lower case; commas, question marks and full stops gone, but for decimal
    points; other punctuation gone or, between two words, a space; "none" and
    the words from zero to ten as digits; no articles; contractions with their
    apostrophes; single spaces.

    As MMF's `EvalAIAnswerProcessor` has it, which is the code of
    https://visualqa.org/evaluation.html with a possessive "'s" set apart
    first. Its oddities are kept: punctuation that touches a space anywhere is
    dropped everywhere ("a-b -c" becomes "ab c"), and an "'s" that has its
    apostrophe is a word of its own.

    Args:
        text: string. An answer.

    Returns:
        A string.

    Example:

    ```python
    normalise_vqa_answer("The two dogs' 1,000.5 e-mails, dont you?")
    # "2 dogs' 1000.5 e mails don't you"
    ```
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = text.strip().replace("\n", " ").replace("\t", " ").strip()
    unspaced = text
    for mark in _PUNCTUATION:
        touches_space = f"{mark} " in unspaced or f" {mark}" in unspaced
        text = text.replace(mark, "" if touches_space else " ")
    words = [
        _DIGITS.get(word, word) for word in _FULL_STOP.sub("", text).split()
    ]
    return " ".join(
        _APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES
    )


def _with_one_apostrophe_missing() -> dict[str, str]:
    return {
        word[:place] + word[place + 1 :]: word
        for word in _CONTRACTIONS
        for place, letter in enumerate(word)
        if letter == "'"
    }


# The other way round in the original, too.
_APOSTROPHES = _with_one_apostrophe_missing() | {"somebody'd": "somebodyd"}
