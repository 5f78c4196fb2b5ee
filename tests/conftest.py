import gc
import os

import keras
import pytest
from made_checkpoints import default_visor_config
from made_checkpoints import make_checkpoint
from reference import Reference

from keras_visor import VisorCausalLM

# Compiling takes most of the time, and models this small run fast enough as
# they come. Read when the first program is compiled.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",
)

# The suite runs once for each backend. What computes nothing in Keras would
# only repeat itself, and examples use what is tested on each: they run where
# the suite is shortest.
if keras.config.backend() != "torch":
    collect_ignore = [
        "analysis/test_answer_picture.py",
        "analysis/test_flops.py",
        "checkpoints/test_llava_onevision.py",
        "checkpoints/test_name_map.py",
        "checkpoints/test_safetensors_file.py",
        "datasets",
        "evaluation/test_answer_log.py",
        "layers/test_layout.py",
        "models/test_visor_image_converter.py",
        "preprocessing",
        "reduction/test_names.py",
        "test_examples.py",
        "test_reference.py",
        "training/test_pseudo_labels.py",
        "training/test_score_shards.py",
        "training/test_steps.py",
    ]


def pytest_collection_finish():
    """Keep garbage collection off what has been imported.

    Keras collects whenever a layer's attribute is deleted, as `quantize` does
    for each layer, and some million objects of libraries are half a second.
    """
    gc.collect()
    gc.freeze()


# Of memory maps: one more file of tests makes less than as many again.
MANY_MAPS = 30_000


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Give back what JAX has compiled, before it is too much.

    A process may have some 65,000 memory maps, each program takes several,
    and where they run out, compiling the next one ends the process.
    """
    yield
    if keras.config.backend() == "jax":
        import jax

        with open("/proc/self/maps") as maps:
            if sum(1 for _ in maps) > MANY_MAPS:
                jax.clear_caches()


# === One VISOR and its plain twin, in the file, in torch and in Keras ===


@pytest.fixture(scope="session")
def visor_directory(tmp_path_factory):
    # Of this seed the policy chooses each of the budgets among `SAMPLES`.
    return make_checkpoint(
        tmp_path_factory.mktemp("visor"),
        seed=5,
        visor_config=default_visor_config(),
    )


@pytest.fixture(scope="session")
def dense_directory(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("dense"), seed=5)


@pytest.fixture(scope="session")
def visor_reference(visor_directory):
    return Reference(visor_directory)


@pytest.fixture(scope="session")
def dense_reference(dense_directory):
    return Reference(dense_directory)


@pytest.fixture(scope="session")
def small_directory(tmp_path_factory):
    """A VISOR of three layers, whose budgets are `[[], [1]]`; no policy."""
    return make_checkpoint(
        tmp_path_factory.mktemp("small"),
        seed=3,
        num_layers=3,
        hidden_size=16,
        intermediate_size=24,
        vision_hidden=16,
        vision_layers=1,
        visor_config=default_visor_config(3, policy_hidden_dim=None),
    )


# Shared, with their compiled programs: a test that compiles, trains or takes
# the preprocessor away makes a task of its own.


@pytest.fixture(scope="session")
def visor(visor_directory):
    return VisorCausalLM.from_preset(visor_directory)


@pytest.fixture(scope="session")
def dense(dense_directory):
    return VisorCausalLM.from_preset(dense_directory)
