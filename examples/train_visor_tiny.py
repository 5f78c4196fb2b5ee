"""Train `visor_tiny_en`, the model that comes with the package.

A VISOR of 1.4 million parameters learns coarse questions about rendered
pictures (colours, shapes, presence, counts, document kinds) from scratch, in
about an hour on one core:

    KERAS_BACKEND=torch python examples/train_visor_tiny.py

What takes long is *binding*: to look where the question says, and at nothing
else. Three things make it quick: the cross-attention starts as a similarity
between words and patches (`start_as_similarity`), the encoder first learns to
name single shapes (`pretrain_vision`), and matrices are trained by Muon
(`MatrixMuon`).

It saves a checkpoint after every block of steps and goes on from it when it
is started again. At the end it writes the preset and `training.json`, with
the exact match over 1,000 fresh pictures under every budget, beside it.
"""

import argparse
import itertools
import json
import os
import pathlib
import random
import time

import keras
import keras_hub
import numpy as np
from keras import ops
from tokenizers import Tokenizer
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

import keras_visor
from keras_visor.checkpoints.qwen2_tokenizer import set_pipeline
from keras_visor.datasets import RenderedPictures
from keras_visor.datasets import exact_match
from keras_visor.datasets import exact_match_by_family
from keras_visor.datasets.rendered.canvas import BACKGROUNDS
from keras_visor.datasets.rendered.canvas import COLOURS
from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.scene import SHAPES

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

# How many of the pictures drawn are trained on: half of those kept are scenes.
KEPT_PICTURES = {"scene": 1.0, "chart": 0.5, "table": 0.25, "letter": 0.25}
# How often a question family is drawn; 1.0 where nothing is said. What can be
# asked of every picture comes less often, and in training what is hardest to
# learn comes more often.
TEST_WEIGHTS = dict.fromkeys(
    ("document_kind", "is_document_kind", "background"), 0.4
)
TRAINING_WEIGHTS = {
    **TEST_WEIGHTS,
    **dict.fromkeys(
        ("shape_of_colour", "shape_colour", "shape_present", "bar_present"), 3.0
    ),
}


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
        cross_attention_num_key_value_heads=4,
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
    start_as_similarity(backbone)
    preprocessor = keras_visor.VisorCausalLMPreprocessor(
        tokenizer, converter, sequence_length=SERVING_LENGTH
    )
    return keras_visor.VisorCausalLM(backbone, preprocessor)


def start_as_similarity(backbone):
    """Let a word look, from the start, at the patches that resemble it.

    Queries and keys are projected alike, and what is seen is added to the
    word as it is. So the encoder need only turn a patch into something like
    the word embeddings of its colour and shape.
    """
    embedding = backbone.token_embedding.embeddings
    embedding.assign(5.0 * embedding)
    for attention in backbone.cross_attentions:
        shape = attention.query_dense.kernel.shape  # width, heads, head width
        identity = np.eye(shape[0], dtype="float32")
        attention.key_dense.kernel.assign(attention.query_dense.kernel)
        attention.value_dense.kernel.assign(identity.reshape(shape))
        attention.output_dense.kernel.assign(
            0.5 * identity.reshape(*shape[1:], shape[0])
        )


class MatrixMuon(keras.optimizers.Muon):
    """Muon for the attention's matrices too, which Keras keeps by head.

    Keras' own takes all variables of rank 2, and those alone. This one takes
    the kernels of dense and of attention layers; AdamW trains the rest, such
    as embeddings, convolutions, biases and norms.
    """

    def _should_use_adamw(self, variable):
        is_matrix = variable.name == "kernel" and len(variable.shape) in (2, 3)
        return not is_matrix

    def _muon_update_step(self, gradient, variable, lr, m):
        # From heads: (heads, head width, width). Else the input comes first.
        from_heads = "output" in variable.path
        rows_and_columns = (
            (-1, variable.shape[-1]) if from_heads else (variable.shape[0], -1)
        )
        self.assign(m, self.momentum * m + gradient)
        update = self.zeropower_via_newtonschulz5(
            ops.reshape(gradient + self.momentum * m, rows_and_columns),
            self.ns_steps,
        )
        update = ops.reshape(self.lr_adjust(update), variable.shape)
        self.assign_sub(variable, lr * update)


def make_optimizer(learning_rate, steps):
    """Muon at `learning_rate`, AdamW at a third; warm-up, then a cosine."""
    return MatrixMuon(
        keras.optimizers.schedules.CosineDecay(
            0.0,
            steps,
            alpha=0.01,
            warmup_target=learning_rate,
            warmup_steps=min(100, steps // 10),
        ),
        adam_lr_ratio=1 / 3,
        adam_beta_2=0.99,
        weight_decay=0.0,
        adam_weight_decay=0.0,
        global_clipnorm=1.0,
    )


class Tiles(keras.utils.PyDataset):
    """Batches of tiles with one coloured shape, as a scene's quarters have.

    The labels are its colour and its shape, for the patches that it covers.
    """

    def __init__(self, steps, batch_size, seed):
        super().__init__()
        self.steps = steps
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        tiles, labels, weights = [], [], []
        for sample in range(self.batch_size):
            rng = random.Random(f"{self.seed} {index} {sample}")
            colour = rng.randrange(len(COLOURS))
            shape = rng.randrange(len(SHAPES))
            canvas = Canvas(TILE_SIZE, rng.choice(BACKGROUNDS), rng)
            radius = rng.uniform(0.2, 0.42)
            x, y = (rng.uniform(radius, 1 - radius) for _ in range(2))
            fill = canvas.colour(list(COLOURS)[colour])
            list(SHAPES.values())[shape](canvas, x, y, radius, fill)
            tiles.append(canvas.finish() / 127.5 - 1)
            labels.append((colour, shape))
            side = TILE_SIZE // PATCH_SIZE
            centres = (np.arange(side) + 0.5) / side
            inside = np.outer(
                abs(centres - y) < radius, abs(centres - x) < radius
            )
            weights.append(inside.ravel())
        patches = np.ones(len(weights[0]), "int32")
        colours, shapes = np.array(labels).T
        weights = np.array(weights, "float32")
        return (
            np.array(tiles, "float32"),
            (np.outer(colours, patches), np.outer(shapes, patches)),
            (weights, weights),
        )


def pretrain_vision(lm, steps, seed, batch_size=64):
    """Teach the patches to resemble the words for what they show.

    Other vision-language models start from an encoder that has seen pictures.
    This one sees single shapes: each patch, projected, is classified against
    the word embeddings of the colours and of the shapes.
    """
    tower, tokenizer = lm.backbone.vision_tower, lm.preprocessor.tokenizer
    embeddings = ops.convert_to_numpy(lm.backbone.token_embedding.embeddings)

    def rows(words):
        # As a question has the word, and as an answer does.
        return np.stack(
            [
                embeddings[tokenizer(" " + word)].mean(axis=0)
                + embeddings[tokenizer(word)].mean(axis=0)
                for word in words
            ],
            axis=1,
        )

    images = keras.Input((TILE_SIZE, TILE_SIZE, 3))
    hidden = tower.projector_in(tower.encoder(images))
    patches = tower.projector_out(ops.gelu(hidden, approximate=False))
    model = keras.Model(
        images,
        [ops.matmul(patches, rows(COLOURS)), ops.matmul(patches, rows(SHAPES))],
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        make_optimizer(5e-3, steps),
        loss=[loss, loss],
        weighted_metrics=[["accuracy"], ["accuracy"]],
    )
    model.fit(Tiles(steps, batch_size, seed), verbose=2)


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
        generator = np.random.default_rng([self.seed, step])
        prompts, responses, images = [], [], []
        for example in self.draw_pictures(step, generator):
            *turns, last = draw_questions(
                example, generator, TURNS, TRAINING_WEIGHTS
            )
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
        budget = generator.choice(len(BUDGET_SHARES), p=BUDGET_SHARES)
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

    def draw_pictures(self, step, generator):
        """A batch of fresh pictures, `KEPT_PICTURES` of each kind."""
        kept = []
        # Half of them are kept: a batch has its own indices, and to spare.
        for picture in itertools.count(4 * step * self.batch_size):
            example = self.pictures.example(picture)
            at = example["families"].index("document_kind")
            if generator.random() < KEPT_PICTURES[example["answers"][at]]:
                kept.append(example)
            if len(kept) == self.batch_size:
                return kept


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


def draw_questions(example, generator, count, weights):
    """Questions of a picture, each family as often as `weights` say.

    Returns:
        A list of `count` tuples: question, answer, family.
    """
    columns = (example[name] for name in ("questions", "answers", "families"))
    triples = list(zip(*columns, strict=True))
    shares = np.array([weights.get(family, 1.0) for _, _, family in triples])
    chosen = generator.choice(
        len(triples), count, replace=False, p=shares / shares.sum()
    )
    return [triples[index] for index in chosen]


def evaluate(lm, split, count, budget, seed=0, batch_size=50):
    """Exact match, overall and by family, of one question a fresh picture."""
    pictures = RenderedPictures(split, count, seed=seed)
    generator = np.random.default_rng(seed)
    predictions, answers, families = [], [], []
    for start in range(0, count, batch_size):
        examples = [
            pictures.example(index)
            for index in range(start, min(start + batch_size, count))
        ]
        drawn = [
            draw_questions(example, generator, 1, TEST_WEIGHTS)[0]
            for example in examples
        ]
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


def count_cores():
    """The cores that this process may use, fewer than all under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vision-steps", type=int, default=1500)
    parser.add_argument("--blocks", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100, help="per block")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
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
    lm.compile(optimizer=make_optimizer(arguments.learning_rate, total))
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
    else:
        start = time.time()
        pretrain_vision(lm, arguments.vision_steps, arguments.seed)
        seconds += time.time() - start
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
        if block % 8 == 7:
            score = evaluate(lm, "validation", 200, "full")
            print("validation", json.dumps(score))

    results = {
        "command": "python examples/train_visor_tiny.py",
        "backend": keras.config.backend(),
        "cores": count_cores(),
        "vision_steps": arguments.vision_steps,
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
