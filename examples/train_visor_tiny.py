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
from keras_visor.datasets import exact_match
from keras_visor.datasets import exact_match_by_family

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
TILE_SIZE = 48
PATCH_SIZE = 12
# Questions that share a picture's visual tokens in training: as the turns of
# a conversation, the longest of which has 26 text tokens.
TURNS = 4
TRAINING_LENGTH = TURNS * 26
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
    """LLaVA-OneVision's architecture in small: a picture has 88 tokens."""
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
        intermediate_dim=256,
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
        tokenizer, converter, sequence_length=SERVING_LENGTH
    )
    return keras_visor.VisorCausalLM(backbone, preprocessor)


class Block(keras.utils.PyDataset):
    """Batches of conversations about fresh pictures, one budget a batch."""

    def __init__(self, preprocessor, block, steps, batch_size, seed):
        super().__init__(workers=2)
        self.preprocessor = preprocessor
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
        first = step * self.batch_size
        prompts, responses, images = [], [], []
        for picture in range(first, first + self.batch_size):
            example = self.pictures.example(picture)
            *turns, last = draw_questions(example, random, TURNS)
            prompts.append(
                "<|im_start|>user <image>\n"
                + "".join(
                    f"{question}<|im_end|><|im_start|>assistant\n"
                    f"{answer}<|im_end|><|im_start|>user \n"
                    for question, answer, _ in turns
                )
                + f"{last[0]}<|im_end|><|im_start|>assistant\n"
            )
            responses.append(last[1])
            images.append(example["image"])
        budget = random.choice(len(BUDGET_SHARES), p=BUDGET_SHARES)
        x, y, _ = self.preprocessor(
            {
                "prompts": prompts,
                "responses": responses,
                "images": images,
                "budget": [budget] * self.batch_size,
            },
            sequence_length=TRAINING_LENGTH,
        )
        weight = weigh_answers(self.preprocessor.tokenizer, x, y)
        longest = x["padding_mask"].sum(axis=1).max()
        for name in ("token_ids", "padding_mask", "text_positions"):
            x[name] = x[name][:, :longest]
        return x, y[:, :longest], weight[:, :longest]


def weigh_answers(tokenizer, x, y):
    """1.0 where the next token belongs to an answer, of whichever turn."""
    header = tokenizer("<|im_start|>assistant\n")
    weight = np.zeros(y.shape, "float32")
    for row, ids in enumerate(x["token_ids"]):
        length = x["padding_mask"][row].sum()
        answering = False
        for at in range(len(header) - 1, length):
            if ids[at - len(header) + 1 : at + 1].tolist() == header:
                answering = True
            weight[row, at] = answering
            if y[row, at] == tokenizer.end_token_id:
                answering = False
    return weight


def draw_questions(example, random, count):
    """Questions of a picture, those that suit every picture less often.

    Returns:
        A list of `count` tuples: question, answer, family.
    """
    weights = np.array(
        [
            0.4 if family in ANY_PICTURE else 1.0
            for family in example["families"]
        ]
    )
    chosen = random.choice(
        len(weights), count, replace=False, p=weights / weights.sum()
    )
    columns = (example[name] for name in ("questions", "answers", "families"))
    triples = list(zip(*columns, strict=True))
    return [triples[index] for index in chosen]


ANY_PICTURE = ("document_kind", "is_document_kind", "background")


def evaluate(lm, split, count, budget, seed=0, batch_size=50):
    """Exact match, overall and by family, of one question a fresh picture."""
    pictures = RenderedPictures(split, count, seed=seed)
    random = np.random.default_rng(seed)
    predictions, answers, families = [], [], []
    for start in range(0, count, batch_size):
        examples = [
            pictures.example(index)
            for index in range(start, min(start + batch_size, count))
        ]
        drawn = [draw_questions(example, random, 1)[0] for example in examples]
        predictions += lm.generate(
            {
                "prompts": [question for question, _, _ in drawn],
                "images": [example["image"] for example in examples],
            },
            max_length=64,
            strip_prompt=True,
            budget=budget,
        )
        answers += [answer for _, answer, _ in drawn]
        families += [family for _, _, family in drawn]
    return {
        "exact_match": exact_match(predictions, answers),
        "by_family": exact_match_by_family(predictions, answers, families),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=36)
    parser.add_argument("--steps", type=int, default=100, help="per block")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
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
    preprocessor = lm.preprocessor
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
        # Preprocessed by the blocks, which share pictures among questions.
        lm.preprocessor = None
        lm.fit(
            Block(
                preprocessor,
                block,
                arguments.steps,
                arguments.batch_size,
                arguments.seed,
            ),
            initial_epoch=block,
            epochs=block + 1,
            verbose=2,
        )
        lm.preprocessor = preprocessor
        seconds += time.time() - start
        # Written whole or not at all: an interrupt costs one block at most.
        partial = arguments.run / "partial.weights.h5"
        lm.save_weights(partial)
        partial.replace(checkpoint)
        progress.write_text(json.dumps({"done": block + 1, "seconds": seconds}))
        if block % 6 == 5:
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
    lm.save_to_preset(str(arguments.output))
    (arguments.output / "training.json").write_text(
        json.dumps(results, indent=2) + "\n"
    )
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
