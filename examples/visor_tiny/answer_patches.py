"""Where on a picture an answer is found: strong supervision of attention.

A question names what it looks for; a small model takes hours to find out from
answers alone that it should look there. So training also asks that the token
before each token of an answer look, in the last layer that reads the image,
at the patches where the answer is written or drawn, or at the number that has
the item that is asked for.
"""

import numpy as np
from supervision import label_patches


def answer_patches(question, answer, words):
    """Patches of the whole picture at which an answer is found.

    Args:
        question: string.
        answer: string.
        words: list of what `RenderedPictures` gives as `"words"`.

    Returns:
        An int array of patches, row by row: those of the numbers of an item,
        else of the words that are the answer or belong to it, and of these
        the ones that the question names best. Empty where nothing on the
        picture says the answer, as with "yes".
    """
    asked = set(question.lower().replace(",", "").rstrip("?").split())
    found = []
    for part in answer.replace(":", " : ").split():
        # Visual tokens see what comes before them, so that an item knows none
        # of its numbers: it is its number that is to be found.
        numbers = [w for w in words if w.beside == part and w.text.isdigit()]
        # Else what is the answer, and what belongs to it, as to a bar's label.
        shown = [word for word in words if part in _shown(word)]
        belongs = [word for word in words if part in _keys(word)]
        for alike in [numbers] if numbers else [shown, belongs]:
            candidates = [
                # A number may stand in several cells: the one asked for is
                # beside and below words of the question.
                (sum(str(key).lower() in asked for key in _keys(word)), word)
                for word in alike
            ]
            best = max((named for named, _ in candidates), default=0)
            found += [
                label_patches(word.box)
                for named, word in candidates
                if named == best
            ]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, "int64")


def _shown(word):
    return set(word.text.split())


def _keys(word):
    return {word.beside, word.above} | _shown(word)
