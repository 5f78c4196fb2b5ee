import pytest

from keras_visor.datasets import public_datasets

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.mark.parametrize("name", public_datasets())
def test_is_registered_and_described(name, tmp_path):
    public_datasets()[name].builder_cls()
    assert name in tfds.list_builders()
    info = tfds.builder(name, data_dir=tmp_path).info
    assert info.name == name
    assert info.description
    assert info.homepage.startswith("https://")
    assert info.citation.startswith("@inproceedings{")
    assert str(info.version) in info.release_notes


def test_the_base_is_not_registered():
    assert "question_builder" not in tfds.list_builders()


@pytest.mark.parametrize("name", public_datasets())
def test_mock_data_needs_no_files(name, tmp_path):
    dataset = public_datasets()[name]
    dataset.builder_cls()
    with tfds.testing.mock_data(num_examples=1):
        examples = tfds.load(name, split=dataset.split, data_dir=tmp_path)
    (example,) = tfds.as_numpy(examples)
    assert example["images"].shape[-1] == 3
    texts = ("id", "question", "prompts", "responses", "group")
    assert all(isinstance(example[text], bytes) for text in texts)
    assert set(example) == {"images", "answers", *texts}
