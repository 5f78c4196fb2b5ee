"""Nothing is compiled twice, and nothing outlives its weights."""

import itertools
import types

import keras
import numpy as np
import pytest
from model_checks import batch
from samples import MAX_LENGTH

from keras_visor import VisorCausalLM
from keras_visor.generation.programs import Programs
from keras_visor.layers.blocks import map_blocks


@pytest.mark.skipif(
    keras.config.backend() == "torch", reason="PyTorch compiles nothing"
)
def test_no_compilation_after_warm_up(visor_directory):
    lm = VisorCausalLM.from_preset(visor_directory)
    programs = lm.make_generate_function().programs
    # Lengths of one bucket each, budgets and sizes of groups all mixed.
    names = ["one image", "text only", "strip", "several images"]
    samples = batch(names)
    for budget in range(3):
        lm.generate(samples, max_length=MAX_LENGTH, budget=budget)
    lm.generate(samples, max_length=MAX_LENGTH)  # The policy chooses.
    for size in (1, 2):
        for budget in range(3):
            mixed = [budget] * size + [(budget + 1) % 3] * (4 - size)
            lm.generate(samples, max_length=MAX_LENGTH, budget=mixed)
    warm = programs.num_compiled
    assert warm > 0
    for budgets in itertools.islice(itertools.product(range(3), repeat=4), 40):
        # Groups of three fill up to four, which has run.
        lm.generate(samples, max_length=MAX_LENGTH, budget=list(budgets))
    lm.generate(samples, max_length=MAX_LENGTH)
    shorter = {**samples, "prompts": [p[:-1] for p in samples["prompts"]]}
    lm.generate(shorter, max_length=MAX_LENGTH - 1, budget=[0, 1, 2, 2])
    assert programs.num_compiled == warm


def test_lora_counts_from_the_next_answer_on(visor_directory):
    lm = VisorCausalLM.from_preset(visor_directory)
    arguments = {"max_length": MAX_LENGTH, "budget": 2}
    before = lm.generate(batch(["strip"]), **arguments)
    lm.backbone.enable_lora(rank=2)
    for weight in lm.trainable_weights:
        if "lora" in weight.path:
            weight.assign(np.full(weight.shape, 0.5))
    after = lm.generate(batch(["strip"]), **arguments)
    assert after != before
    again = VisorCausalLM(lm.backbone, lm.preprocessor)
    assert after == again.generate(batch(["strip"]), **arguments)


@pytest.mark.skipif(
    keras.config.backend() != "jax", reason="the order of JAX's programs"
)
def test_programs_are_ordered_for_memory(monkeypatch):
    """Against the same program as JAX orders it when not asked."""
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "cpu":
        pytest.skip("only a CPU's order is chosen")
    plain_jit = jax.jit
    sizes = []

    def jit(function, **options):
        def run(*arguments):
            for each in (options, {}):
                program = plain_jit(function, **each).lower(*arguments)
                found = program.compile().memory_analysis()
                sizes.append(found.temp_size_in_bytes)
            return plain_jit(function, **options)(*arguments)

        return run

    def layers(model, tokens, kernel):
        def layer(block):
            return keras.ops.tanh(block @ kernel)

        for _ in range(8):
            tokens = tokens + map_blocks(layer, 32, tokens)
        return tokens

    monkeypatch.setattr(jax, "jit", jit)
    model = types.SimpleNamespace(
        variables=[],
        sampler=types.SimpleNamespace(variables=[]),
        run_eagerly=False,
    )
    tokens = np.ones((1, 256, 64), "float32")
    Programs(model).run(layers, tokens, np.eye(64, dtype="float32"))
    ours, theirs = sizes
    assert ours < 0.6 * theirs
