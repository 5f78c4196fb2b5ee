"""Training: data in every form, the loss, the gradients, LoRA."""

import copy
import functools

import grain
import keras
import numpy as np
import pytest
import torch
from keras import ops
from made_checkpoints import make_checkpoint
from model_checks import batch
from reference import Reference
from samples import picture
from samples import question
from torch.nn import functional as F

from keras_visor import VisorCausalLM
from keras_visor import VisorCausalLMPreprocessor
from keras_visor.checkpoints.name_map import weight_map

BACKEND = keras.config.backend()
SEQUENCE_LENGTH = 40

# `(a` and `?\n` are where tokenizers inside and outside tf.data part.
SAMPLES = {
    "prompts": np.array(
        [
            question("Is (a small) circle here?\n", 1),
            question("Which shape?", 1),
            question("How many rows (or columns)?", 1),
            question("Read it!", 1),
        ]
    ),
    "responses": np.array(["yes", "a red circle", "12", "no, it isn't"]),
    "images": np.stack([picture(24, 50, seed) for seed in range(4)]),
    "budget": np.array([0, 1, 1, 0]),
}
# Several images a prompt, or none, of different sizes.
MIXED = {
    "prompts": [
        question("Which shape?", 1),
        question("How many rows?", 0),
        question("Which one?", 2),
        question("Read it!", 1),
    ],
    "responses": ["a red circle", "12", "the second", "no, it isn't"],
    "images": [
        [picture(24, 50)],
        None,
        [picture(30, 20), picture(40, 70)],
        picture(10, 100),
    ],
}


@pytest.fixture(scope="module")
def reference(small_directory):
    return Reference(small_directory)


def load(directory, **arguments):
    lm = VisorCausalLM.from_preset(directory, **arguments)
    lm.preprocessor.sequence_length = SEQUENCE_LENGTH
    return lm


@pytest.fixture(scope="module")
def standing(small_directory):
    """A model that training leaves as it is: the learning rate is zero."""
    lm = load(small_directory)
    lm.compile(optimizer=keras.optimizers.SGD(0.0))
    return lm


def response_losses(reference, samples, budgets):
    """The reference's cross entropy, summed over each sample's response."""
    losses = []
    for prompt, images, response, budget in zip(
        samples["prompts"],
        samples["images"],
        samples["responses"],
        budgets,
        strict=True,
    ):
        if images is None:
            images = []
        images = images if isinstance(images, list) else [images]
        text = f"{prompt}{response}<|im_end|>"
        logits = reference.logits(text, images, budget)
        ids = reference.prepare(text, images).token_ids
        count = len(ids) - len(reference.prepare(prompt, images).token_ids)
        loss = F.cross_entropy(
            torch.tensor(logits[-count - 1 : -1]),
            ids[-count:],
            reduction="sum",
        )
        losses.append(loss.item())
    return losses


def weights_of(lm):
    # By index: paths repeat.
    return [np.array(ops.convert_to_numpy(w)) for w in lm.weights]


# === Data ===


def rows(samples):
    return [
        {name: column[row] for name, column in samples.items()}
        for row in range(4)
    ]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        two = slice(2 * index, 2 * index + 2)
        return {name: column[two] for name, column in SAMPLES.items()}


def tf_dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(SAMPLES).batch(2)


def grain_dataset():
    return grain.MapDataset.source(rows(SAMPLES)).batch(2)


DATA = {
    "dict of arrays": lambda: (SAMPLES, {"batch_size": 2}),
    "dict of lists": lambda: (
        {name: list(column) for name, column in SAMPLES.items()},
        {"batch_size": 2},
    ),
    "tf.data": lambda: (tf_dataset(), {}),
    "grain": lambda: (grain_dataset(), {}),
    "PyDataset": lambda: (Batches(), {}),
}


@pytest.fixture(scope="module")
def expected_loss(reference):
    """Over all places of a batch, as KerasHub's tasks have it."""
    losses = response_losses(reference, SAMPLES, SAMPLES["budget"])
    return sum(losses) / (4 * SEQUENCE_LENGTH)


@pytest.mark.parametrize("form", DATA)
def test_the_loss_counts_responses_in_every_form(standing, expected_loss, form):
    data, arguments = DATA[form]()
    history = standing.fit(data, verbose=0, shuffle=False, **arguments).history
    np.testing.assert_allclose(history["loss"], [expected_loss], rtol=1e-5)
    evaluated = standing.evaluate(
        data, verbose=0, return_dict=True, **arguments
    )
    np.testing.assert_allclose(evaluated["loss"], expected_loss, rtol=1e-5)


@pytest.mark.parametrize("form", ["tf.data", "grain"])
def test_without_the_preprocessor(monkeypatch, standing, expected_loss, form):
    data, _ = DATA[form]()
    data = data.map(standing.preprocessor)
    monkeypatch.setattr(standing, "preprocessor", None)
    history = standing.fit(data, verbose=0, shuffle=False).history
    np.testing.assert_allclose(history["loss"], [expected_loss], rtol=1e-5)


def one_by_one(columns, form, preprocessor):
    """Batches of one sample each, in every form that can have them."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            batch = {n: column[index : index + 1] for n, column in columns}
            return preprocessor(batch) if form == "detached" else batch

    columns = list(columns.items())
    if form == "dict":
        return dict(columns)
    if form == "grain":
        return grain.MapDataset.source(Batches())
    return Batches()


@pytest.mark.parametrize("form", ["dict", "PyDataset", "grain", "detached"])
def test_a_batch_of_another_size_comes_last(
    monkeypatch, standing, reference, form
):
    """After two that are alike; the order is the data's."""
    columns = {
        "prompts": [question("Which shape?", 1)] * 3,
        "responses": ["12", "a red circle", "the second"],
        "images": [picture(24, 50), picture(24, 50, 1), picture(160, 150, 8)],
        "budget": [0, 1, 1],
    }
    data = one_by_one(columns, form, standing.preprocessor)
    batch_size = 1 if form == "dict" else None
    if form == "detached":
        monkeypatch.setattr(standing, "preprocessor", None)
    losses = response_losses(reference, columns, columns["budget"])
    seen = []
    standing.fit(
        data,
        batch_size=batch_size,
        verbose=0,
        shuffle=False,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: seen.append(logs["loss"])
            )
        ],
    )
    # Keras gives the mean of what it has seen.
    means = np.cumsum(losses) / np.arange(1, 4) / SEQUENCE_LENGTH
    np.testing.assert_allclose(seen, means, rtol=1e-5)
    evaluated = standing.evaluate(
        data, batch_size=batch_size, verbose=0, return_dict=True
    )
    np.testing.assert_allclose(evaluated["loss"], means[-1], rtol=1e-5)


def test_every_epoch_shuffles(standing):
    class Numbered(Batches):
        seen = []
        ends = 0

        def __len__(self):
            return 6

        def __getitem__(self, index):
            self.seen.append(index)
            return super().__getitem__(index % 2)

        def on_epoch_end(self):
            Numbered.ends += 1

    keras.utils.set_random_seed(0)
    standing.fit(Numbered(), epochs=2, verbose=0)
    # TensorFlow has a look at the first one to know what is in it.
    epochs = Numbered.seen[-12:-6], Numbered.seen[-6:]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(6))
    assert epochs[0] != epochs[1]
    assert Numbered.ends >= 2


def test_images_of_different_sizes(standing, reference):
    """And the full budget where the data have none."""
    before = copy.deepcopy(MIXED)
    expected = sum(response_losses(reference, MIXED, [1, 1, 1, 1]))
    expected /= 4 * SEQUENCE_LENGTH
    history = standing.fit(
        MIXED, batch_size=4, verbose=0, validation_data=SAMPLES
    ).history
    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)
    np.testing.assert_allclose(
        history["val_loss"],
        [standing.evaluate(SAMPLES, verbose=0)[0]],
        rtol=1e-5,
    )
    keras.tree.map_structure(
        np.testing.assert_array_equal,
        MIXED["images"],
        before["images"],
        none_is_leaf=False,
    )
    assert MIXED.keys() == before.keys()


def test_ids_and_pixels_are_the_same_everywhere(standing):
    preprocessor = standing.preprocessor
    two = {name: column[:2] for name, column in SAMPLES.items()}
    expected = preprocessor(two)
    in_tf_data = next(iter(tf_dataset().map(preprocessor)))
    in_grain = grain_dataset().map(preprocessor)[0]
    one_by_one = next(iter(tf_dataset().unbatch().map(preprocessor).batch(2)))
    for outputs in (in_tf_data, in_grain, one_by_one):
        assert outputs[0].keys() == expected[0].keys()
        for value, same in zip(
            keras.tree.flatten(outputs),
            keras.tree.flatten(expected),
            strict=True,
        ):
            value = np.asarray(value)
            assert value.dtype == same.dtype
            np.testing.assert_array_equal(value, same)
    # As the tokenizer of `transformers` has them.
    inputs, labels, weight = expected
    assert inputs["budget"].tolist() == [0, 1]
    for row in range(2):
        text = two["prompts"][row] + two["responses"][row] + "<|im_end|>"
        encode = preprocessor.tokenizer.tokenize
        image_id = preprocessor.tokenizer.token_to_id("<image>")
        ids = [token_id for token_id in encode(text) if token_id != image_id]
        mask = inputs["padding_mask"][row]
        assert inputs["token_ids"][row, mask].tolist() == ids[:-1]
        assert labels[row, mask].tolist() == ids[1:]
        response = encode(two["responses"][row] + "<|im_end|>")
        assert labels[row, weight[row] == 1].tolist() == response
        assert weight[row].sum() == len(response)


def test_images_of_many_sizes_in_tf_data(standing):
    import tensorflow as tf

    samples = {
        **SAMPLES,
        "images": [picture(height, 25) for height in (50, 30, 10, 60)],
    }
    samples["images"][1] = samples["images"][1][:, :13]
    dataset = tf.data.Dataset.from_generator(
        lambda: rows(samples),
        output_signature={
            "prompts": tf.TensorSpec((), tf.string),
            "responses": tf.TensorSpec((), tf.string),
            "images": tf.TensorSpec((None, None, 3), tf.uint8),
            "budget": tf.TensorSpec((), tf.int32),
        },
    ).ragged_batch(4)
    outputs = next(iter(dataset.map(standing.preprocessor)))
    keras.tree.map_structure(
        np.testing.assert_array_equal, outputs, standing.preprocessor(samples)
    )


def test_ragged_images_of_one_prompt_are_refused(standing):
    import tensorflow as tf

    images = tf.ragged.constant([[[[[0] * 3]]], [[[[0] * 3]] * 2]], 4)
    samples = {"prompts": ["a", "b"], "responses": ["c", "d"], "images": images}
    dataset = tf.data.Dataset.from_tensors(samples)
    with pytest.raises(ValueError, match="one a prompt.*Received a ragged"):
        dataset.map(standing.preprocessor)


def test_epochs_of_grain(standing, expected_loss, recwarn):
    """Keras would take the second one for empty, or warn of it."""
    history = standing.fit(
        grain_dataset(), epochs=2, steps_per_epoch=2, verbose=0
    ).history
    np.testing.assert_allclose(history["loss"], [expected_loss] * 2, rtol=1e-5)
    standing.fit(grain_dataset(), epochs=2, verbose=0)
    assert not [each for each in recwarn if "ran out of data" in str(each)]


def test_a_shared_preprocessor_is_used_meanwhile(small_directory, monkeypatch):
    """Another model's number of budgets does not get into the training."""
    lm = load(small_directory)
    lm.compile(optimizer=keras.optimizers.SGD(0.0))
    other = VisorCausalLM.from_preset(small_directory, budgets=[[1]])
    other.preprocessor = lm.preprocessor
    budgets = []
    convert = VisorCausalLMPreprocessor._call_python

    def noted(*arguments, **options):
        # What the other model says comes in between.
        other.prompt_inputs([question("How many rows?", 0)])
        x, y, sample_weight = convert(*arguments, **options)
        budgets.extend(x["budget"].tolist())
        return x, y, sample_weight

    monkeypatch.setattr(VisorCausalLMPreprocessor, "_call_python", noted)
    samples = {n: c for n, c in SAMPLES.items() if n != "budget"}
    lm.fit(samples, batch_size=2, epochs=2, verbose=0)
    assert set(budgets) == {1}


# === Learning ===


def test_four_samples_are_learnt(small_directory):
    lm = load(small_directory)
    # At a constant rate the loss jumps now and then: rounding decides when.
    rate = keras.optimizers.schedules.CosineDecay(0.03, 40)
    lm.compile(optimizer=keras.optimizers.Adam(rate))
    samples = {**SAMPLES, "budget": [0, 1, 1, 0]}
    losses = lm.fit(samples, batch_size=4, epochs=36, verbose=0).history["loss"]
    assert losses[-1] < 0.05 * losses[0]
    answers = lm.generate(
        {"prompts": SAMPLES["prompts"], "images": SAMPLES["images"]},
        max_length=SEQUENCE_LENGTH,
        budget=[0, 1, 1, 0],
        strip_prompt=True,
    )
    assert answers == SAMPLES["responses"].tolist()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX compiles anyway")
@pytest.mark.parametrize("form", ["tf.data", "dict of arrays"])
def test_forced_xla(small_directory, expected_loss, form):
    lm = load(small_directory)
    lm.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=True)
    data, arguments = DATA[form]()
    history = lm.fit(data, verbose=0, **arguments).history
    np.testing.assert_allclose(history["loss"], [expected_loss], rtol=1e-4)


def test_lora_trains_queries_and_values_alone(small_directory):
    lm = load(small_directory)
    lm.backbone.enable_lora(rank=2)
    # Keras leaves the bias of a layer with LoRA trainable.
    names = ["bias", "lora_kernel_a", "lora_kernel_b"]
    expected = [
        f"{layer}/{dense}/{name}"
        for layer in (
            "cross_attention_0",
            "decoder_layer_0",
            "decoder_layer_1",
            "decoder_layer_2",
        )
        for dense in ("query_dense", "value_dense")
        for name in names
    ]
    assert sorted(w.path for w in lm.trainable_weights) == sorted(expected)
    lm.compile(optimizer=keras.optimizers.Adam(0.01))
    before = weights_of(lm)
    lm.fit(SAMPLES, batch_size=2, epochs=2, verbose=0)
    trainable = {id(weight) for weight in lm.trainable_weights}
    for weight, old in zip(lm.weights, before, strict=True):
        changed = np.any(ops.convert_to_numpy(weight) != old)
        assert changed == (id(weight) in trainable), weight.path


def test_mixed_precision(small_directory, expected_loss):
    lm = load(small_directory, dtype="mixed_bfloat16")
    lm.compile(optimizer=keras.optimizers.Adam(0.01))
    losses = lm.fit(SAMPLES, batch_size=4, epochs=8, verbose=0).history["loss"]
    np.testing.assert_allclose(losses[0], expected_loss, rtol=0.05)
    assert losses[-1] < 0.8 * losses[0]
    for weight in lm.weights:
        dtype = keras.backend.standardize_dtype(weight.dtype)
        assert dtype == "float32" or "int" in dtype


# === Gradients ===


SUMMED_LOSS = keras.losses.SparseCategoricalCrossentropy(
    from_logits=True, reduction="sum"
)


def gradients(lm, inputs, labels, sample_weight, jit_compile=False):
    """Of the responses' summed loss, by variable; zeros where it has none."""
    variables = lm.trainable_variables
    tensors = keras.tree.map_structure(
        ops.convert_to_tensor, (inputs, labels, sample_weight)
    )
    if BACKEND == "torch":
        inputs, labels, sample_weight = tensors
        for variable in variables:
            variable.value.grad = None
        SUMMED_LOSS(labels, lm(inputs), sample_weight).backward()
        values = [variable.value.grad for variable in variables]
    elif BACKEND == "tensorflow":
        values = tensorflow_program(lm, jit_compile)(*tensors)
    else:
        values = jax_program(lm)([v.value for v in variables], *tensors)
    return {
        id(variable): np.zeros(variable.shape)
        if value is None
        else np.array(ops.convert_to_numpy(value))
        for variable, value in zip(variables, values, strict=True)
    }


@functools.cache
def tensorflow_program(lm, jit_compile):
    import tensorflow as tf

    # Of any batch and lengths, as `fit` may have it: no shape is known.
    shapes = keras.tree.map_structure(
        lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), lm.input
    )
    labels = tf.TensorSpec([None, None], "int32")
    weight = tf.TensorSpec([None, None], "float32")

    @tf.function(
        jit_compile=jit_compile,
        input_signature=[shapes, labels, weight],
        autograph=False,
    )
    def program(inputs, labels, sample_weight):
        with tf.GradientTape() as tape:
            loss = SUMMED_LOSS(labels, lm(inputs), sample_weight)
        values = [variable.value for variable in lm.trainable_variables]
        return [
            tf.convert_to_tensor(gradient)
            for gradient in tape.gradient(
                loss, values, unconnected_gradients="zero"
            )
        ]

    return program


@functools.cache
def jax_program(lm):
    import jax

    fixed = [variable.value for variable in lm.non_trainable_variables]

    def loss(values, inputs, labels, sample_weight):
        logits, _ = lm.stateless_call(values, fixed, inputs)
        return SUMMED_LOSS(labels, logits, sample_weight)

    return jax.jit(jax.grad(loss))


NAMES = ("strip", "several images", "text only")
RESPONSES = ["a red circle", "12", "no"]


def training_batch(lm, names, budgets):
    samples = batch(names, responses=RESPONSES[: len(names)], budget=budgets)
    return lm.preprocessor(samples, sequence_length=48)


def reference_gradients(reference, names, budgets):
    """By torch's own differentiation, of all but the vision encoder."""
    weights = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in reference.weights.items()
    }
    differentiable = copy.copy(reference)
    differentiable.weights = weights
    samples = batch(names)
    for prompt, images, response, budget in zip(
        samples["prompts"], samples["images"], RESPONSES, budgets, strict=False
    ):
        text = f"{prompt}{response}<|im_end|>"
        prepared = reference.prepare(text, images)
        count = len(prepared.token_ids) - len(
            reference.prepare(prompt, images).token_ids
        )
        streams = differentiable.decode(
            differentiable.embed(prepared), differentiable.roles(budget)
        )[-1]
        logits = differentiable.read_out(streams.text)
        F.cross_entropy(
            logits[-count - 1 : -1],
            prepared.token_ids[-count:],
            reduction="sum",
        ).backward()
    gradients = {
        name: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        for name, tensor in weights.items()
    }
    # Tied: one tensor with two uses.
    embedding = "model.language_model.embed_tokens.weight"
    gradients[embedding] = gradients[embedding] + gradients["lm_head.weight"]
    return gradients


def in_reference(name):
    """The reference's spelling of a canonical name."""
    return name.replace("language_model.model.", "model.language_model.")


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "budgets", [(0, 0, 0), (1, 1, 1), (2, 2, 2), (2, 0, 1)]
)
def test_gradients(visor, visor_reference, budgets, jit_compile):
    if jit_compile and BACKEND != "tensorflow":
        pytest.skip("XLA is forced on TensorFlow alone")
    found = gradients(
        visor, *training_batch(visor, NAMES, budgets), jit_compile
    )
    expected = reference_gradients(visor_reference, NAMES, budgets)
    for weight in weight_map(visor.backbone):
        gradient = found.pop(id(weight.variable), None)
        if weight.name.startswith("visor.policy."):
            assert gradient is None or not np.any(gradient), weight.name
        elif weight.name.startswith(
            ("vision_tower.", "image_newline", "multi")
        ):
            # A bias that all keys share changes no attention.
            if not weight.name.endswith("k_proj.bias"):
                assert np.any(gradient), weight.name
        else:
            value = weight.to_keras(expected[in_reference(weight.name)].numpy())
            scale = max(1e-3, np.abs(value).max())
            if weight.name.startswith("visor.") and weight.name.endswith(
                "k_proj.bias"
            ):
                # Exactly nothing, were it not for what is left of the
                # matrix's gradient when it cancels out.
                matrix = in_reference(weight.name.replace("bias", "weight"))
                whole = np.abs(expected[matrix].numpy()).max()
                assert np.abs(gradient).max() < 1e-6 * whole, weight.name
                continue
            error = np.abs(gradient - value).max()
            assert error < 1e-3 * scale, weight.name
            assert np.any(gradient), weight.name
    assert not found  # every trainable variable has been looked at


def test_text_alone_trains_nothing_that_sees(visor):
    found = gradients(visor, *training_batch(visor, NAMES[2:], [2]))
    for weight in weight_map(visor.backbone):
        gradient = found.get(id(weight.variable))
        if weight.name.startswith("language_model."):
            assert np.any(gradient), weight.name
        else:
            assert gradient is None or not np.any(gradient), weight.name


def test_a_budget_that_never_looks_trains_no_encoder(tmp_path):
    """Without cross-attention, all self-attention off: the image is idle."""
    lm = load(
        make_checkpoint(tmp_path, num_layers=2),
        self_attention_layers=[1],
        cross_attention_layers=[],
    )
    assert lm.backbone.budgets == [[], [1]]
    for budget, looks in enumerate((False, True)):
        found = gradients(lm, *training_batch(lm, NAMES[:1], [budget]))
        for weight in weight_map(lm.backbone):
            gradient = found[id(weight.variable)]
            sees = not weight.name.startswith("language_model.")
            if sees and not looks:
                assert not np.any(gradient), weight.name
            elif not weight.name.endswith("k_proj.bias"):
                assert np.any(gradient), weight.name
