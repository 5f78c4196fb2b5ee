import pytest

from keras_visor.datasets import pope_scores
from keras_visor.datasets import public_datasets

METRICS = [dataset.metric for dataset in public_datasets().values()]
METRICS.append(pope_scores)


@pytest.mark.parametrize("metric", METRICS)
def test_refuses_what_it_cannot_score(metric):
    with pytest.raises(ValueError, match="1 predictions, 2 answers"):
        metric(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="`predictions` must not be empty"):
        metric([], [])
    with pytest.raises(ValueError, match=r"`answers\[1\]` is empty.*public"):
        metric(["a", "b"], [["a"], []])


@pytest.mark.parametrize("metric", METRICS)
def test_refuses_what_is_no_list_of_strings(metric):
    with pytest.raises(TypeError, match="`predictions`.*'ab'"):
        metric("ab", [["a"], ["b"]])
    with pytest.raises(TypeError, match="`predictions`.*bytes"):
        metric([b"a"], [["a"]])
    with pytest.raises(TypeError, match="`answers`.*'a'"):
        metric(["a"], "a")
    # One answer a question is a list of one, too.
    with pytest.raises(TypeError, match=r"`answers\[0\]`.*'a'"):
        metric(["a"], ["a"])
    with pytest.raises(TypeError, match=r"`answers\[0\]`.*3"):
        metric(["a"], [[3]])
