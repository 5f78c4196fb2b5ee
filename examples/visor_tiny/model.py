"""The architecture of `visor_tiny_en`: LLaVA-OneVision's, in small."""

import functools
import itertools
import pathlib

import keras_hub
import numpy as np
from tokenizers import Tokenizer
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

import keras_visor
from keras_visor.checkpoints.qwen2_tokenizer import set_pipeline
from keras_visor.datasets import RenderedPictures

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
# Four tiles of 56 pixels cover a picture of 112: with the picture in small
# before them and a newline after each of 14 rows, 259 visual tokens.
TILE_SIZE = 56
PATCH_SIZE = 8
PATCHES_PER_SIDE = TILE_SIZE // PATCH_SIZE
SERVING_LENGTH = 128

ENCODER = {
    "hidden_dim": 128,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_dim": 512,
}

NUM_LAYERS = 9
CROSS_ATTENTION_LAYERS = (0, 3, 7)
# The last one before a cross-attention, which reads what it has related.
SELF_ATTENTION_LAYERS = (2, 4, 6)
# The last layer at which the text reads the image, of every layout.
LOOKING_LAYER = 7

# Where `train.py --dense` writes it.
DENSE_PRESET = pathlib.Path(__file__).parent / "dense"


def all_budgets():
    """Every subset of the self-attention layers, cheapest first."""
    return [
        list(budget)
        for count in range(len(SELF_ATTENTION_LAYERS) + 1)
        for budget in itertools.combinations(SELF_ATTENTION_LAYERS, count)
    ]


@functools.cache
def learn_vocabulary(words):
    """Byte-level BPE in Qwen2's style, to which each of `words` is a token.

    Args:
        words: tuple of strings.

    Returns:
        A string, the contents of a `tokenizer.json`.
    """
    pictures = RenderedPictures("train", 2000)
    examples = [pictures.example(index) for index in range(len(pictures))]
    questions = [text for each in examples for text in each["questions"]]
    answers = [text for each in examples for text in each["answers"]]
    # Within a question a word follows a space, as an answer it does not.
    texts = [*words, *(f" {word}" for word in words)] * 50
    tokenizer = Tokenizer(models.BPE())
    set_pipeline(tokenizer)
    tokenizer.train_from_iterator(
        [*texts, *questions, *answers, "user assistant"],
        trainers.BpeTrainer(
            vocab_size=2000,
            min_frequency=20,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer.to_str()


def universal_layout():
    """All budgets of the layers that were found to work best."""
    return {
        "cross_attention_layers": CROSS_ATTENTION_LAYERS,
        "self_attention_layers": SELF_ATTENTION_LAYERS,
        "budgets": all_budgets(),
    }


def dense_layout():
    """LLaVA-OneVision itself: every layer runs over all tokens."""
    return {
        "cross_attention_layers": (),
        "self_attention_layers": range(NUM_LAYERS),
        "budgets": [list(range(NUM_LAYERS))],
    }


def make_model(words, layout, dtype="float32"):
    """An untrained model.

    Args:
        words: list of strings that are to be tokens.
        layout: dict of the arguments of `VisorBackbone` that say which layers
            look at the image.
        dtype: The dtype policy. Defaults to `"float32"`.
    """
    tokenizer = keras_visor.VisorTokenizer(learn_vocabulary(tuple(words)))
    backbone = keras_visor.VisorBackbone(
        vision_encoder=keras_hub.models.SigLIPVisionEncoder(
            patch_size=PATCH_SIZE,
            **ENCODER,
            image_shape=(TILE_SIZE, TILE_SIZE, 3),
            dtype=dtype,
        ),
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=NUM_LAYERS,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=128,
        intermediate_dim=352,
        rope_max_wavelength=10000.0,
        dtype=dtype,
        **layout,
    )
    start_as_similarity(backbone)
    converter = keras_visor.VisorImageConverter(
        tile_size=TILE_SIZE,
        patches_per_side=PATCHES_PER_SIDE,
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


def start_as_similarity(backbone):
    """Let a word look, from the start, at the patches that resemble it.

    Queries and keys are projected alike, and what is seen is added to the
    word much as it is. So the encoder need only turn a patch into something
    like the embedding of the word for what it shows.
    """
    embedding = backbone.token_embedding.embeddings
    embedding.assign(5.0 * embedding)
    generator = np.random.default_rng(0)
    for attention in backbone.cross_attentions:
        width, heads, head_width = attention.query_dense.kernel.shape
        groups = attention.key_dense.kernel.shape[1]
        keys, values = (
            np.linalg.qr(generator.normal(size=(width, width)))[0]
            .astype("float32")[:, : groups * head_width]
            .reshape(width, groups, head_width)
            for _ in range(2)
        )
        share = heads // groups
        # Twice: alike vectors get a score of 2 width / head_width**1.5 = 1.4
        # in each of the groups.
        queries = 2.0 * np.repeat(keys, share, axis=1)
        attention.query_dense.kernel.assign(queries)
        attention.key_dense.kernel.assign(keys)
        attention.value_dense.kernel.assign(values)
        outputs = np.repeat(values, share, axis=1).transpose(1, 2, 0)
        attention.output_dense.kernel.assign(0.5 * outputs / share)
