"""Nothing is compiled twice, and nothing outlives its weights."""

import itertools

import keras
import numpy as np
import pytest
from model_checks import batch
from samples import MAX_LENGTH

from keras_visor import VisorCausalLM


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
