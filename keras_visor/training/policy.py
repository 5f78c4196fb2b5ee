"""Training the policy, the rest of the model frozen."""

import hashlib
import json
import os
from collections.abc import Iterable
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_visor.generation import stages
from keras_visor.layers.budget_policy import check_rule
from keras_visor.layers.streams import Streams
from keras_visor.models.encoded_images import EncodedImages
from keras_visor.models.sample_batches import SampleBatches
from keras_visor.models.sample_batches import for_training
from keras_visor.models.visor_causal_lm import VisorCausalLM
from keras_visor.training.budget_scores import BudgetScores
from keras_visor.training.checks import check_positive
from keras_visor.training.columns import image_column
from keras_visor.training.freezing import training_only
from keras_visor.training.pseudo_labels import is_right
from keras_visor.training.pseudo_labels import pseudo_labels
from keras_visor.training.rebuild import set_policy_rule
from keras_visor.training.rebuild import with_policy
from keras_visor.training.resumable_fit import fit


def train_policy(
    lm: VisorCausalLM,
    samples: dict,
    scores: BudgetScores,
    rule: str = "argmax",
    slack: float = 0.01,
    balanced: bool = True,
    hidden_dim: int | None = None,
    groups: Sequence[str] | None = None,
    held_out: Iterable[str] = (),
    num_steps: int = 1000,
    batch_size: int = 32,
    learning_rate: float
    | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
    directory: str | os.PathLike | None = None,
    seed: int = 0,
    **kwargs,
) -> VisorCausalLM:
    """Teach a model's policy which budget a prompt needs.

    Follows section "Training" of VISOR (arXiv 2603.23495): a routing token
    and a small MLP learn from offline pseudo-labels by cross-entropy. The
    rest of the model is frozen and answers as before.

    Args:
        lm: `VisorCausalLM` with its preprocessor.
        samples: dict of columns `prompts` and, if wanted, `images`, the
            samples of `scores`. What `lm.encode` gave, instead of images, is
            not encoded again in every epoch. If some images come encoded, the
            others are encoded first; all together have to fit in memory.
        scores: `BudgetScores`, see `score_budgets`, or an array (samples,
            budgets).
        rule: `"argmax"` learns the label, the cheapest budget that is right,
            by cross-entropy. `"tolerance"` learns for each budget whether it
            is right, and the cheapest that is about as likely right as the
            full one is chosen; see `calibrate_tolerance`. Defaults to
            `"argmax"`.
        slack: float. See `pseudo_labels`. Defaults to `0.01`.
        balanced: bool. Whether rare labels weigh more, so that all labels
            weigh the same; for `"argmax"` only: probabilities are learned as
            they are. Defaults to `True`.
        hidden_dim: int. Width of the policy's hidden layer, for a model that
            has no policy yet. Defaults to `None`: a quarter of the decoder's.
        groups: sequence of strings, one a sample: its data set, say. Defaults
            to `None`: no groups.
        held_out: iterable of strings. The groups not to train on, to see how
            the policy fares on what it does not know, see `evaluate_routing`.
            Defaults to none.
        num_steps: int. Defaults to `1000`.
        batch_size: int. Defaults to `32`.
        learning_rate: float or `LearningRateSchedule`. Defaults to `1e-3`.
        directory: str or path. Where to save, so that an interrupted training
            goes on. Defaults to `None`: nowhere.
        seed: int. Of the order of the samples. Defaults to `0`.
        **kwargs: Other arguments of `keras_visor.training.fit`.

    Returns:
        `lm`, its policy trained, or a copy of it that has one.

    Raises:
        ValueError: Bad arguments; scores of other budgets; or nothing to
            route: a single budget, or budgets that differ at the first layer,
            before which a policy sees nothing.

    Example:
    ```python
    picture = keras_visor.datasets.RenderedPictures("train", 1).example(0)
    samples = {
        "prompts": picture["questions"][:2],
        "images": [picture["image"]] * 2,
    }
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    scores = [[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]  # see `score_budgets`
    lm = keras_visor.training.train_policy(lm, samples, scores, num_steps=2)
    ```
    """
    check_rule(rule)
    check_positive(num_steps=num_steps, batch_size=batch_size)
    _check_routable(lm)
    if isinstance(scores, BudgetScores):
        scores.check_budgets(lm)
    right = is_right(scores, slack)
    prompts = samples["prompts"]
    if right.shape != (len(prompts), len(lm.backbone.budgets)):
        raise ValueError(
            f"`scores` must be of {len(prompts)} samples and "
            f"{len(lm.backbone.budgets)} budgets. Received: shape {right.shape}"
        )
    rows = rows_to_train(len(prompts), groups, held_out)
    if rule == "argmax":
        targets = pseudo_labels(scores, slack).astype("int32")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        targets = targets[rows]
        weights = class_weights(targets) if balanced else None
    else:
        targets = right[rows].astype("float32")
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        weights = None
    images = [image_column(samples)[row] for row in rows]
    if any(isinstance(entry, EncodedImages) for entry in images):
        # All of them, now: within its `fit` JAX has no weights to encode with.
        images = lm.encode(images)
    columns = {
        "prompts": [prompts[row] for row in rows],
        "images": images,
        "targets": targets,
        "weights": weights,
    }
    if lm.backbone.policy is None:
        lm = with_policy(lm, hidden_dim)
    model = RoutingModel(lm)
    with training_only(lm, ["policy"]):
        model.compile(keras.optimizers.Adam(learning_rate), loss)
        fit(
            model,
            columns,
            num_steps=num_steps,
            directory=directory,
            batch_size=batch_size,
            seed=seed,
            settings={"rule": rule, "labels": _digest(targets, weights, rows)},
            **kwargs,
        )
    set_policy_rule(lm, rule)
    return lm


def _digest(*values):
    text = json.dumps([np.asarray(value).tolist() for value in values])
    return hashlib.sha256(text.encode()).hexdigest()


def class_weights(labels: Sequence[int]) -> np.ndarray:
    """Weights (samples,) with which all labels that occur weigh the same.

    Their mean is 1.
    """
    labels = np.asarray(labels)
    counts = np.bincount(labels)
    return (len(labels) / (np.count_nonzero(counts) * counts[labels])).astype(
        "float32"
    )


def rows_to_train(
    count: int, groups: Sequence[str] | None, held_out: Iterable[str]
) -> list[int]:
    """The samples of the groups that are not held out."""
    held_out = set(held_out)
    if groups is None and not held_out:
        return list(range(count))
    if groups is None or len(groups) != count:
        raise ValueError(
            f"`groups` must have one entry for each of the {count} samples. "
            f"Received: {None if groups is None else len(groups)}"
        )
    unknown = sorted(held_out - set(groups))
    rows = [row for row in range(count) if groups[row] not in held_out]
    if unknown or not rows:
        raise ValueError(
            "`held_out` must be some of `groups`, not all. Received: "
            f"held_out={sorted(held_out)}, groups={sorted(set(groups))}"
        )
    return rows


class RoutingModel(keras.Model):
    """A model's logits of its policy, to be trained.

    Runs what `generate` runs to choose a budget: the layers below the first
    optional one, over the prompt and the routing token, and the policy.

    Args:
        lm: `VisorCausalLM` with a policy and its preprocessor.

    Call arguments:
        inputs: dict, what `lm.prompt_inputs` gives.

    Returns:
        A float32 tensor (batch, number of budgets).
    """

    def __init__(self, lm: VisorCausalLM):
        super().__init__()
        self.lm = lm
        self.built = True

    def call(self, inputs):
        reducer = self.lm.reducer
        vision, sources = self.lm.backbone.embed_images(inputs, reducer)
        names = ("vision_positions", "vision_mask", "vision_image_ids")
        streams = Streams(
            text=None,
            text_positions=inputs["text_positions"],
            text_mask=inputs["padding_mask"],
            vision=vision,
            **{name: inputs[name] for name in names},
        )
        _, _, logits = stages.run_shared_layers(
            self.lm,
            inputs["token_ids"],
            streams,
            sources,
            num_layers=self.lm.backbone.first_optional_layer,
            route=True,
            reducer=reducer,
        )
        return ops.cast(logits, "float32")

    def fit(self, x, batch_size=None, **kwargs):
        """On a `PyDataset` of `prompts`, `images`, `targets`, `weights`."""
        batches = SampleBatches(x, self._preprocess)
        return super().fit(for_training(batches), **kwargs)

    def _preprocess(self, batch):
        batch = dict(batch)
        labels = [np.stack(batch.pop("targets"))]
        if "weights" in batch:
            labels.append(np.stack(batch.pop("weights")))
        inputs = self.lm.prompt_inputs(batch)
        if "vision" in inputs:
            # Every batch has the same structure: of what came with encoded
            # images only that which the reducer goes by.
            reducer = self.lm.reducer
            if reducer is None:
                inputs.pop("vision_indices", None)
                inputs.pop("vision_weights", None)
            if reducer is None or not reducer.needs_attention:
                inputs.pop("vision_attention", None)
        return keras.tree.map_structure(ops.convert_to_numpy, inputs), *labels


def _check_routable(lm):
    if lm.preprocessor is None:
        raise ValueError("`lm` must have its preprocessor. Received: None")
    backbone = lm.backbone
    if len(backbone.budgets) < 2:
        raise ValueError(
            "`lm` must have several budgets to choose among. Received: "
            f"budgets={backbone.budgets}"
        )
    if backbone.first_optional_layer == 0:
        raise ValueError(
            "`lm` must have budgets that share their first layer, or the "
            "policy has nothing to go by. Received: budgets="
            f"{backbone.budgets}"
        )
