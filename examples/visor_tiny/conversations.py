"""Batches of conversations about fresh pictures, with labels."""

import keras
import numpy as np
from answer_patches import answer_patches
from supervision import ROLES
from supervision import label_tokens
from supervision import visual_tokens

from keras_visor.datasets import RenderedPictures
from keras_visor.datasets import question_families

# Questions that share a picture's visual tokens: turns of one conversation.
TURNS = 6
ROUNDS = 4
# Text tokens that a question and its answer take at most.
TURN_LENGTH = 32
# Text is padded to a multiple of this: JAX compiles anew for each length.
LENGTH_STEP = 32
# The kinds that take longest to learn are drawn most often.
KINDS = (
    *("table",) * 10,
    *("letter",) * 3,
    *("grid",) * 3,
    *("form",) * 2,
    *("chart", "scene"),
)
# How often a question family is drawn; 1.0 where nothing is said.
WEIGHTS = {
    "item": 6.0,
    **dict.fromkeys(("largest", "which_more"), 4.0),
    **dict.fromkeys(("document_kind", "is_document_kind", "background"), 0.1),
    **dict.fromkeys(("stamp_present", "bar_count", "shape_count"), 0.3),
    **dict.fromkeys(("header_colour", "stamp_colour"), 0.3),
}


class Conversations(keras.utils.PyDataset):
    """A slice of an endless stream of batches.

    Args:
        preprocessor: The model's preprocessor.
        first: int. The number of the first batch in the stream.
        steps: int. How many batches.
        batch_size: int. Pictures in a batch.
        targets: "answer" and names of `ROLES`, what there are labels for.
        budgets: The model's budgets.
        draw_budget: function from a NumPy generator and the number of the
            batch to the budget's index.
        seed: int.
        turns: int. Questions about a picture. Defaults to `TURNS`.
    """

    def __init__(
        self,
        preprocessor,
        first,
        steps,
        batch_size,
        targets,
        budgets,
        draw_budget,
        seed,
        turns=TURNS,
    ):
        super().__init__(workers=1)
        self.preprocessor = preprocessor
        self.first = first
        self.steps = steps
        self.batch_size = batch_size
        self.targets = targets
        self.budgets = budgets
        self.draw_budget = draw_budget
        self.seed = seed
        self.turns = turns
        self.pictures = RenderedPictures(
            "train", 10**9, seed=seed, rounds=ROUNDS, kinds=KINDS
        )

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        step = self.first + index
        generator = np.random.default_rng([self.seed, step])
        examples = [
            self.pictures.example(step * self.batch_size + sample)
            for sample in range(self.batch_size)
        ]
        turns = [
            draw_questions(example, generator, self.turns)
            for example in examples
        ]
        prompts, responses = zip(*map(converse, turns), strict=True)
        budget = self.draw_budget(generator, step)
        x, y, _ = self.preprocessor(
            {
                "prompts": list(prompts),
                "responses": list(responses),
                "images": [example["image"] for example in examples],
                "budget": [budget] * self.batch_size,
            },
            sequence_length=TURNS * TURN_LENGTH,
        )
        answering = find_answers(self.preprocessor.tokenizer, x, y)
        longest = x["padding_mask"].sum(axis=1).max()
        longest = LENGTH_STEP * -(-longest // LENGTH_STEP)
        for name in ("token_ids", "padding_mask", "text_positions"):
            x[name] = x[name][:, :longest]
        tokens = x["vision_mask"].sum(axis=1).max()
        for name in x:
            if name.startswith("vision"):
                x[name] = x[name][:, :tokens]
        x["labelled"], labels, shares = label_tokens(examples)
        if not self.budgets[budget]:
            # Without self-attention no token learns where it stands.
            shares[..., 2:] = 0.0
        answering = answering[:, :longest]
        x["looked_at"] = find_looks(
            answering, examples, turns, tokens, bool(self.budgets[budget])
        )
        looks = x["looked_at"].any(axis=-1, keepdims=True)
        y = {"answer": y[:, :longest], "looks": np.ones_like(looks, "float32")}
        weight = {
            "answer": (answering >= 0).astype("float32"),
            "looks": looks[..., 0].astype("float32"),
        }
        for role, name in enumerate(ROLES):
            y[name], weight[name] = labels[..., role], shares[..., role]
        return x, *(
            {name: values[name] for name in self.targets}
            for values in (y, weight)
        )


def converse(turns):
    """Questions of a picture as a conversation: prompt and last answer."""
    *before, last = turns
    prompt = "<|im_start|>user <image>\n"
    for question, answer, _ in before:
        prompt += (
            f"{question}<|im_end|><|im_start|>assistant\n"
            f"{answer}<|im_end|><|im_start|>user \n"
        )
    return f"{prompt}{last[0]}<|im_end|><|im_start|>assistant\n", last[1]


def draw_questions(example, generator, count):
    """Up to `count` tuples of question, answer and family, by `WEIGHTS`."""
    columns = (example[name] for name in ("questions", "answers", "families"))
    asked = list(zip(*columns, strict=True))
    shares = np.array([WEIGHTS.get(family, 1.0) for _, _, family in asked])
    chosen = generator.choice(
        len(asked),
        min(count, len(asked)),
        replace=False,
        p=shares / shares.sum(),
    )
    return [asked[index] for index in chosen]


def find_answers(tokenizer, x, y):
    """The turn whose answer the next token belongs to, -1 if to none."""
    header = tokenizer("<|im_start|>assistant\n")
    end = tokenizer.end_token_id
    answering = np.full(y.shape, -1)
    for row, ids in enumerate(x["token_ids"]):
        length = x["padding_mask"][row].sum()
        turn, answers = -1, False
        for at in range(len(header) - 1, length):
            if ids[at - len(header) + 1 : at + 1].tolist() == header:
                turn, answers = turn + 1, True
            if answers:
                answering[row, at] = turn
            if y[row, at] == end:
                answers = False
    return answering


def find_looks(answering, examples, turns, num_tokens, refined):
    """The visual tokens at which a text token should look.

    Args:
        answering: int array (batch, length), what `find_answers` gives.
        examples: list of what `RenderedPictures` gives.
        turns: list of what `draw_questions` gives.
        num_tokens: int. Visual tokens.
        refined: bool. Without self-attention no token learns where it stands,
            and only what coarse questions ask for can be found.

    Returns:
        A bool array (batch, length, num_tokens).
    """
    coarse = question_families()["coarse"]
    looked_at = np.zeros((*answering.shape, num_tokens), "bool")
    for row, example in enumerate(examples):
        for turn, (question, answer, family) in enumerate(turns[row]):
            if refined or family in coarse:
                patches = answer_patches(question, answer, example["words"])
                looked_at[row][
                    np.ix_(answering[row] == turn, visual_tokens(patches))
                ] = True
    return looked_at
