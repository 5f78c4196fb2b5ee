"""FastV and PyramidDrop, against the reference run layer by layer."""

import dataclasses
import math

import numpy as np
import pytest
import reference as ref
import torch
from keras import ops
from model_checks import batch
from model_checks import check_rows
from model_checks import outputs
from model_checks import preprocess
from samples import MAX_LENGTH
from samples import SAMPLES

from keras_visor import VisorCausalLM
from keras_visor.reduction import FastV
from keras_visor.reduction import PyramidDrop


def weights_of(query, key):
    """Attention weights of the last query, the mean over the heads."""
    seen = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool)
    # What a query reads where every value is a unit vector.
    value = torch.eye(key.shape[1]).expand(key.shape[0], -1, -1)
    read = ref.attention(query[:, -1:], key, value, seen[-1:])
    return read.unflatten(1, (query.shape[0], -1)).mean(1)[0]


def self_attention_weights(streams, layer, shape):
    """How the last text token looks at the visual tokens, when on."""

    def heads(tokens, positions, name, count):
        h = ref.rms_norm(tokens, layer["input_layernorm.weight"], shape.epsilon)
        h = ref.split_heads(ref.linear(h, layer, name), count)
        return ref.rotate(h, positions, shape.rope_theta)

    query = heads(
        streams.text,
        streams.text_positions,
        "self_attn.q_proj",
        shape.num_heads,
    )
    key = heads(
        torch.cat((streams.visual, streams.text)),
        torch.cat((streams.vision_positions, streams.text_positions)),
        "self_attn.k_proj",
        shape.num_key_value_heads,
    )
    return weights_of(query, key)[: len(streams.visual)]


def cross_attention_weights(streams, weights, shape):
    text = ref.rms_norm(
        streams.text, weights["query_norm.weight"], shape.epsilon
    )
    visual = streams.visual + ref.position_convolution(
        streams.visual,
        streams.vision_image_ids,
        weights["position.weight"],
        weights["position.bias"],
    )
    scale = weights["key_value_norm.weight"]
    visual = ref.rms_norm(visual, scale, shape.epsilon)
    query = ref.split_heads(
        ref.linear(text, weights, "q_proj"), shape.cross_attention_num_heads
    )
    key = ref.split_heads(
        ref.linear(visual, weights, "k_proj"),
        shape.cross_attention_num_key_value_heads,
    )
    return weights_of(query, key)


@torch.no_grad()
def expected_logits(model, name, budget, rates):
    """The reference's logits, visual tokens left out after some layers."""
    streams = model.embed(model.prepare(*SAMPLES[name]))
    for index, role in enumerate(model.roles(budget)):
        layer = model._scope(f"model.language_model.layers.{index}.")
        weights = model._scope(f"visor.cross_attention.{index}.")
        before = streams
        if role == ref.SELF_ATTENTION:
            streams = ref.self_attention(streams, layer, model.shape)
        elif role == ref.CROSS_ATTENTION:
            streams = ref.cross_attention(streams, layer, weights, model.shape)
        else:
            streams = ref.text_only(streams, layer, model.shape)
        if index not in rates or not len(before.visual):
            continue
        if role == ref.SELF_ATTENTION:
            looks = self_attention_weights(before, layer, model.shape)
        else:
            looks = cross_attention_weights(before, weights, model.shape)
        count = math.ceil(rates[index] * len(looks))
        kept = looks.argsort(descending=True)[:count].sort().values
        streams = dataclasses.replace(
            streams,
            **{
                field: getattr(streams, field)[kept]
                for field in ("visual", "vision_positions", "vision_image_ids")
            },
        )
    return model.read_out(streams.text).numpy()


def check(lm, model, reducer, rates, budget):
    """Logits, and the first token of what `generate` writes."""
    samples = batch(budget=[budget] * len(SAMPLES))
    expected = [expected_logits(model, name, budget, rates) for name in SAMPLES]
    lm.reducer = reducer
    inputs = preprocess(lm, samples)
    check_rows(outputs(lm, inputs), expected, atol=1e-4)
    assert not np.allclose(
        expected[0], model.logits(*SAMPLES["one image"], budget), atol=1e-3
    )
    answers = lm.generate(
        batch(), max_length=MAX_LENGTH, budget=budget, strip_prompt=True
    )
    for answer, logits in zip(answers, expected, strict=True):
        token = lm.preprocessor.tokenizer.detokenize([int(logits[-1].argmax())])
        assert answer.startswith(token) and bool(answer) == bool(token)


@pytest.mark.parametrize(
    "reducer, rates",
    [
        (FastV(0.3), {1: 0.3}),
        (PyramidDrop(0.5, layers=[0, 2, 4]), dict.fromkeys((0, 2, 4), 0.5)),
    ],
    ids=str,
)
def test_dense(dense_directory, dense_reference, reducer, rates):
    lm = VisorCausalLM.from_preset(dense_directory)
    check(lm, dense_reference, reducer, rates, budget=0)


def test_inputs_can_be_numpy_arrays(dense_directory):
    lm = VisorCausalLM.from_preset(dense_directory, reducer=FastV(0.2))
    inputs = preprocess(lm, batch(["one image"]))
    logits = ops.convert_to_numpy(lm(inputs))
    np.testing.assert_allclose(logits, outputs(lm, inputs), atol=1e-4)


@pytest.mark.parametrize("budget", [0, 2])
def test_visor_by_its_cross_attention(visor_directory, visor_reference, budget):
    lm = VisorCausalLM.from_preset(visor_directory)
    check(lm, visor_reference, FastV(0.3, layer=0), {0: 0.3}, budget)


def test_the_prompt_chooses_in_training_too(dense_directory):
    """Not the response, which the model has yet to write."""
    lm = VisorCausalLM.from_preset(dense_directory, reducer=FastV(0.2))
    samples = batch(["one image"])
    prompt = preprocess(lm, samples)
    expected = outputs(lm, prompt)
    x, _, _ = lm.preprocessor(
        {**samples, "responses": ["12 red ones (and more)"]},
        sequence_length=56,
    )
    length = prompt["padding_mask"].sum()
    assert x["prompt_lengths"].tolist() == [length]
    trained = outputs(lm, x)
    check_rows(trained, [expected[0, :length]])


def test_models_can_share_a_preprocessor(dense_directory):
    lm = VisorCausalLM.from_preset(dense_directory, reducer=FastV(0.2))
    lm.compile(optimizer="sgd")
    samples = {
        **batch(["one image"]),
        "responses": ["12 red ones (and more)"],
    }
    loss = lm.evaluate(samples, batch_size=1, verbose=0)[0]
    other = VisorCausalLM(lm.backbone, lm.preprocessor)
    assert other.reducer is None
    assert lm.evaluate(samples, batch_size=1, verbose=0)[0] == loss
