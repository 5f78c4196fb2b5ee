"""What nobody reads is not computed, and blocks change nothing."""

import keras
import numpy as np
import pytest
from model_checks import batch
from model_checks import preprocess
from samples import MAX_LENGTH

from keras_visor import VisorCausalLM
from keras_visor.layers import attention
from keras_visor.layers import cross_attention
from keras_visor.layers import decoder_layer


@pytest.mark.parametrize(
    "budget, refined", [(0, []), (1, []), (2, [1])], ids=str
)
def test_only_read_tokens_are_computed(
    monkeypatch, visor, visor_directory, budget, refined
):
    """Layers 1 and 4 can refine; after 3 nobody looks at the image."""
    lm = VisorCausalLM.from_preset(visor_directory)
    lengths = {}
    finish = decoder_layer.VisorDecoderLayer.finish

    def counted(layer, tokens, attended):
        index = lm.backbone.decoder_layers.index(layer)
        lengths[index] = tokens.shape[1]
        return finish(layer, tokens, attended)

    monkeypatch.setattr(decoder_layer.VisorDecoderLayer, "finish", counted)
    inputs = preprocess(lm, batch(["one image"]))
    lm.make_generate_function().prefill(inputs, budget)
    text = {lengths[index] for index in (0, 2, 3, 4)}
    assert len(text) == 1
    for index in (1, 4):
        assert (lengths[index] > max(text)) == (index in refined)
    # Of the last layer the last token alone.
    assert lengths[5] == 1


@pytest.mark.skipif(
    keras.config.backend() == "torch", reason="PyTorch pads no batch"
)
def test_rows_that_pad_a_batch_write_nothing(visor):
    """Or three answers would be as slow as a fourth that never ends."""
    inputs = preprocess(visor, batch(["one image", "strip", "text only"]))
    generator = visor.make_generate_function()
    (group,), _ = generator._prefill(inputs, MAX_LENGTH, np.array([1, 1, 1]))
    assert len(group.token_ids) == 4
    first, end = group.first, np.asarray(group.slots["end"])
    assert end[:3].min() > first and end[3] == first


@pytest.mark.skipif(
    keras.config.backend() != "torch",
    reason="A group keeps its batch's lengths where programs are compiled",
)
def test_a_group_carries_its_own_visual_tokens_alone(visor):
    samples = batch(["one image", "strip", "text only"])
    inputs = preprocess(visor, samples)
    lengths = inputs["vision_mask"].sum(axis=1)
    assert len(set(lengths.tolist())) == 3
    generator = visor.make_generate_function()
    groups, _ = generator._prefill(inputs, MAX_LENGTH, np.array([2, 1, 0]))
    for group in groups:
        (row,) = group.rows
        caches = [*group.cache["vision"].values()]
        caches += group.cache["cross"].values()
        assert bool(caches) == (row < 2)
        for keys, values in caches:
            assert keys.shape[1] == values.shape[1] == lengths[row]


def test_blocks_change_no_answer(monkeypatch, visor, visor_directory):
    samples = batch()
    budgets = [0, 1, 2, 1, 2]
    arguments = {"max_length": MAX_LENGTH, "strip_prompt": True}
    expected = visor.generate(samples, budget=budgets, **arguments)
    logits = visor.route(preprocess(visor, samples))
    # As if these few tokens were many.
    monkeypatch.setattr(attention, "FEW_SCORES", 100)
    monkeypatch.setattr(attention, "QUERY_BLOCK", 16)
    monkeypatch.setattr(decoder_layer, "TOKEN_BLOCK", 16)
    monkeypatch.setattr(cross_attention, "TOKEN_BLOCK", 16)
    lm = VisorCausalLM.from_preset(visor_directory)
    assert lm.generate(samples, budget=budgets, **arguments) == expected
    np.testing.assert_allclose(
        np.asarray(lm.route(preprocess(lm, samples))),
        np.asarray(logits),
        atol=5e-5,
    )
