"""Exact match by question family, on pictures that were not trained on."""

import numpy as np
from conversations import draw_questions

from keras_visor.datasets import RenderedPictures
from keras_visor.datasets import exact_match_by_family


def evaluate(lm, split, count, budget, seed=0, batch_size=50):
    """Exact match by family, of two questions a fresh picture."""
    pictures = RenderedPictures(split, count, seed=seed)
    generator = np.random.default_rng(seed)
    predictions, answers, families = [], [], []
    for start in range(0, count, batch_size):
        prompts, images = [], []
        for index in range(start, min(start + batch_size, count)):
            example = pictures.example(index)
            for question, answer, family in draw_questions(
                example, generator, 2
            ):
                prompts.append(question)
                images.append(example["image"])
                answers.append(answer)
                families.append(family)
        predictions += lm.generate(
            {"prompts": prompts, "images": images},
            max_length=64,
            strip_prompt=True,
            budget=budget,
        )
    return exact_match_by_family(predictions, answers, families)
