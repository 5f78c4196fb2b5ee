import pytest

from keras_visor import reduction
from keras_visor.reduction.names import REDUCERS


def test_every_reducer_has_a_name():
    assert set(REDUCERS.values()) == {
        getattr(reduction, name)
        for name in reduction.__all__
        if isinstance(getattr(reduction, name), type)
        and issubclass(getattr(reduction, name), reduction.Reducer)
    } - {reduction.Reducer}


@pytest.mark.parametrize(
    "text, reducer",
    [
        ("vision_zip:0.25", reduction.VisionZip(0.25)),
        ("average_pooling:0.5", reduction.AveragePooling(0.5)),
        ("fast_v:1", reduction.FastV(1)),
        ("fast_v:0.5:3", reduction.FastV(0.5, layer=3)),
        ("pyramid_drop:0.5:0,3", reduction.PyramidDrop(0.5, layers=[0, 3])),
    ],
)
def test_by_name(text, reducer):
    assert reduction.reducer_from_text(text) == reducer


@pytest.mark.parametrize(
    "text, message",
    [
        ("zip:0.5", "NAME:RATE, with a name of .*'vision_zip'.*'zip:0.5'"),
        ("", "NAME:RATE, with a name of"),
        ("VisionZip:0.5", "NAME:RATE, with a name of"),
        ("vision_zip", "with a rate above 0.*'vision_zip'"),
        ("vision_zip:half", "with a rate above 0.*'vision_zip:half'"),
        (
            "vision_zip:0.5:1",
            "Only fast_v and pyramid_drop.*'vision_zip:0.5:1'",
        ),
        ("fast_v:0.5:1,2", "one index .fast_v.*'fast_v:0.5:1,2'"),
        ("pyramid_drop:0.5:", "ascending.*'pyramid_drop:0.5:'"),
        ("pyramid_drop:0.5:3,0", "ascending.*'pyramid_drop:0.5:3,0'"),
        ("vision_zip:2", "above 0 and at most 1.*2"),
        ("fast_v:2:1", "above 0 and at most 1.*2"),
        ("average_pooling:0.3", "one of .*0.25, 0.5"),
    ],
)
def test_refuses(text, message):
    with pytest.raises(ValueError, match=message):
        reduction.reducer_from_text(text)
