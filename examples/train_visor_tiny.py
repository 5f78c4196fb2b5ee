"""Train `visor_tiny_en`, the model that comes with the package.

A VISOR of 1.5 million parameters learns coarse questions about rendered
pictures (colours, shapes, presence, counts, document kinds) from scratch, in
less than an hour on two cores:

    KERAS_BACKEND=torch python examples/train_visor_tiny.py

It saves a checkpoint after every block of steps and goes on from it when it
is started again. At the end it writes the preset and `training.json`, with
the exact match over 1,000 fresh pictures under every budget, beside it.
"""

import argparse
import json
import pathlib
import time

import keras
import keras_hub
import numpy as np
from tokenizers import Tokenizer
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

import keras_visor
from keras_visor.checkpoints.qwen2_tokenizer import set_pipeline
from keras_visor.datasets import RenderedPictures
from keras_visor.datasets import exact_match_by_family

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
TILE_SIZE = 48
PATCH_SIZE = 8
# The longest sample has 26 text tokens, the last of which is only predicted.
TRAINING_LENGTH = 25
SERVING_LENGTH = 128

# How often a training batch runs at each budget: the cheapest must learn what
# it can, and the dearest has most to learn.
BUDGET_SHARES = (0.6, 0.15, 0.25)


def make_tokenizer(vocabulary_size=512):
    """Byte-level BPE in Qwen2's style, learned from training questions."""
    pictures = RenderedPictures("train", 2000)
    texts = (
        text
        for index in range(len(pictures))
        for text in (
            *pictures.example(index)["questions"],
            *pictures.example(index)["answers"],
            "user assistant",
        )
    )
    tokenizer = Tokenizer(models.BPE())
    set_pipeline(tokenizer)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return keras_visor.VisorTokenizer(tokenizer.to_str())


def make_model():
    """LLaVA-OneVision's architecture in small: a picture has 192 tokens."""
    tokenizer = make_tokenizer()
    backbone = keras_visor.VisorBackbone(
        vision_encoder=keras_hub.models.SigLIPVisionEncoder(
            patch_size=PATCH_SIZE,
            hidden_dim=128,
            num_layers=2,
            num_heads=4,
            intermediate_dim=256,
            image_shape=(TILE_SIZE, TILE_SIZE, 3),
        ),
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=6,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=128,
        intermediate_dim=352,
        rope_max_wavelength=10000.0,
        **keras_visor.uniform_layout(6),
    )
    converter = keras_visor.VisorImageConverter(
        tile_size=TILE_SIZE,
        patches_per_side=TILE_SIZE // PATCH_SIZE,
        grid_pinpoints=[
            (rows * TILE_SIZE, columns * TILE_SIZE)
            for rows in (1, 2)
            for columns in (1, 2)
        ],
        max_tiles=4,
    )
    preprocessor = keras_visor.VisorCausalLMPreprocessor(
        tokenizer, converter, sequence_length=TRAINING_LENGTH
    )
    return keras_visor.VisorCausalLM(backbone, preprocessor)


class Block(keras.utils.PyDataset):
    """Batches of fresh pictures, one question each, one budget a batch."""

    def __init__(self, block, steps, batch_size, seed):
        super().__init__(workers=2)
        self.first = block * steps
        self.steps = steps
        self.batch_size = batch_size
        self.seed = seed
        self.pictures = RenderedPictures("train", 10**8, seed=seed)

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        step = self.first + index
        random = np.random.default_rng([self.seed, step])
        samples = [
            draw_question(self.pictures, step * self.batch_size + row, random)
            for row in range(self.batch_size)
        ]
        budget = random.choice(len(BUDGET_SHARES), p=BUDGET_SHARES)
        return {
            "prompts": [sample["question"] for sample in samples],
            "responses": [sample["answer"] for sample in samples],
            "images": [sample["image"] for sample in samples],
            "budget": [budget] * self.batch_size,
        }


def draw_question(pictures, index, random):
    """One question of a picture, those that suit every picture less often."""
    example = pictures.example(index)
    weights = np.array(
        [
            0.4 if family in ANY_PICTURE else 1.0
            for family in example["families"]
        ]
    )
    chosen = random.choice(len(weights), p=weights / weights.sum())
    return {
        "image": example["image"],
        "question": example["questions"][chosen],
        "answer": example["answers"][chosen],
        "family": example["families"][chosen],
    }


ANY_PICTURE = ("document_kind", "is_document_kind", "background")


def evaluate(lm, split, count, budget, seed=0, batch_size=50):
    """Exact match, overall and by family, of one question a fresh picture."""
    pictures = RenderedPictures(split, count, seed=seed)
    random = np.random.default_rng(seed)
    samples = [draw_question(pictures, i, random) for i in range(count)]
    predictions = []
    for start in range(0, count, batch_size):
        batch = samples[start : start + batch_size]
        predictions += lm.generate(
            {
                "prompts": [sample["question"] for sample in batch],
                "images": [sample["image"] for sample in batch],
            },
            max_length=48,
            strip_prompt=True,
            budget=budget,
        )
    answers = [sample["answer"] for sample in samples]
    families = [sample["family"] for sample in samples]
    by_family = exact_match_by_family(predictions, answers, families)
    right = sum(
        score * families.count(family) for family, score in by_family.items()
    )
    return {"exact_match": right / count, "by_family": by_family}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--steps", type=int, default=75, help="per block")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=1000, help="tested")
    parser.add_argument("--run", type=pathlib.Path, default="runs/visor_tiny")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default="keras_visor/presets/visor_tiny_en",
    )
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    lm = make_model()
    total = arguments.blocks * arguments.steps
    lm.compile(
        optimizer=keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(
                0.0,
                total,
                alpha=0.01,
                warmup_target=arguments.learning_rate,
                warmup_steps=min(500, total // 10),
            ),
            weight_decay=0.0,
            global_clipnorm=1.0,
        )
    )
    lm.optimizer.build(lm.trainable_variables)
    print(f"{lm.count_params():,} parameters, budgets {lm.backbone.budgets}")

    arguments.run.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.run / "checkpoint.weights.h5"
    progress = arguments.run / "progress.json"
    done, seconds = 0, 0.0
    if progress.exists():
        lm.load_weights(checkpoint)
        done, seconds = json.loads(progress.read_text()).values()
        print(f"going on after block {done}")
    for block in range(done, arguments.blocks):
        start = time.time()
        lm.fit(
            Block(
                block, arguments.steps, arguments.batch_size, arguments.seed
            ),
            initial_epoch=block,
            epochs=block + 1,
            verbose=2,
        )
        seconds += time.time() - start
        # Written whole or not at all: an interrupt costs one block at most.
        partial = arguments.run / "partial.weights.h5"
        lm.save_weights(partial)
        partial.replace(checkpoint)
        progress.write_text(json.dumps({"done": block + 1, "seconds": seconds}))
        if block % 5 == 4:
            score = evaluate(lm, "validation", 200, "full")
            print("validation", json.dumps(score))

    results = {
        "command": "python examples/train_visor_tiny.py",
        "backend": keras.config.backend(),
        "blocks": arguments.blocks,
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "seed": arguments.seed,
        "training_minutes": round(seconds / 60, 1),
        "test_samples": arguments.samples,
        "test": {
            str(layers): evaluate(lm, "test", arguments.samples, budget)
            for budget, layers in enumerate(lm.backbone.budgets)
        },
    }
    lm.preprocessor.sequence_length = SERVING_LENGTH
    lm.save_to_preset(str(arguments.output))
    (arguments.output / "training.json").write_text(
        json.dumps(results, indent=2) + "\n"
    )
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
