"""Where on a picture an answer stands: strong supervision of attention.

A question names what it looks for; a small model takes hours to find out from
answers alone that it should look there. So training also asks that the token
before each token of an answer look, in the last layer that reads the image,
at the patches where the answer is written or drawn.
"""

import numpy as np
from supervision import label_patches


def answer_patches(question, answer, words):
    """Patches of the whole picture that show an answer.

    Args:
        question: string.
        answer: string.
        words: list of what `RenderedPictures` gives as `"words"`.

    Returns:
        An int array of patches, row by row; empty where nothing on the
        picture says the answer, as with "yes".
    """
    asked = set(question.lower().replace(",", "").rstrip("?").split())
    places = {}
    for word in words:
        parts = word.text.split()
        for part in parts:
            if part in answer.replace(":", " : ").split():
                # A number may stand in several cells: the one asked for is
                # beside and below words of the question.
                keys = {word.beside, word.above, *parts}
                named = sum(str(key).lower() in asked for key in keys)
                places.setdefault(part, []).append((named, word))
    found = [
        label_patches(word.box)
        for candidates in places.values()
        for named, word in candidates
        if named == max(named for named, _ in candidates)
    ]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, "int64")
