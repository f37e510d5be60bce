"""Files of tensors: read in place, written in shards, and refused when they are not whole."""

import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dreamzero_policy.model import weights
from dreamzero_policy.model.weights import CheckpointError, TensorInfo, open_weights, read_header, write_weights

NAME = "model.safetensors"
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
SHAPES = st.lists(st.integers(0, 4), max_size=3)


def infos(tensors: dict[str, torch.Tensor]) -> dict[str, TensorInfo]:
    return {key: TensorInfo(weights.DTYPE_NAMES[t.dtype], tuple(t.shape)) for key, t in tensors.items()}


@given(st.dictionaries(st.text("ab.", min_size=1, max_size=4), st.tuples(DTYPES, SHAPES)), st.integers(1, 200))
def test_what_is_written_in_shards_is_read_back_and_by_the_library_too(tmp_path_factory, wanted, shard_bytes):
    folder = tmp_path_factory.mktemp("shards")
    tensors = {key: torch.randint(0, 2, shape).to(dtype) for key, (dtype, shape) in wanted.items()}
    files = write_weights(folder, NAME, infos(tensors), tensors.__getitem__, shard_bytes=shard_bytes)
    read = open_weights(folder, (NAME,))
    library = {key: tensor for file in files for key, tensor in load_file(file).items()}
    assert set(read) == set(library) == set(tensors)
    for key, tensor in tensors.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor)
        assert torch.equal(library[key], tensor)


def test_no_shard_is_larger_than_asked_unless_one_tensor_is(tmp_path):
    tensors = {"a": torch.zeros(10), "b": torch.zeros(10), "c": torch.zeros(100), "d": torch.zeros(5)}
    files = write_weights(tmp_path, NAME, infos(tensors), tensors.__getitem__, shard_bytes=80)
    assert [sorted(read_header(file)) for file in files] == [["a", "b"], ["c"], ["d"]]
    assert [file.name for file in files] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


def test_a_tensor_is_a_view_of_the_file_and_writing_to_it_leaves_the_file_alone(tmp_path):
    save_file({"a": torch.ones(4)}, tmp_path / NAME)
    read = open_weights(tmp_path, (NAME,))
    assert read["a"].untyped_storage().nbytes() == (tmp_path / NAME).stat().st_size
    read["a"].zero_()
    assert load_file(tmp_path / NAME)["a"].tolist() == [1, 1, 1, 1]


def test_mappings_are_renewed_without_harm_to_tensors_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "REMAP_BYTES", 16)
    save_file({"a": torch.arange(8), "b": torch.arange(8) + 1}, tmp_path / NAME)
    read = open_weights(tmp_path, (NAME,))
    first, second, again = read["a"], read["b"], read["a"]
    assert first.untyped_storage().data_ptr() != again.untyped_storage().data_ptr()
    assert torch.equal(first, again)
    assert second.tolist() == list(range(1, 9))


def test_a_hole_has_complete_headers_and_costs_no_disk(tmp_path):
    big = {"a": TensorInfo("BF16", (1 << 20, 1 << 10)), "b": TensorInfo("F32", (3,))}
    (file,) = write_weights(tmp_path, NAME, big, None)
    assert {key: (info.dtype, info.shape) for key, info in read_header(file).items()} == {
        "a": ("BF16", (1 << 20, 1 << 10)),
        "b": ("F32", (3,)),
    }
    assert file.stat().st_size > 1 << 31
    assert file.stat().st_blocks * 512 < 1 << 20
    assert open_weights(tmp_path, (NAME,))["b"].tolist() == [0, 0, 0]


def test_a_file_that_was_cut_off_is_refused_with_key_and_both_sizes(tmp_path):
    save_file({"first": torch.ones(4), "last": torch.ones(2, 3)}, tmp_path / NAME)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[:-1])
    with pytest.raises(
        CheckpointError, match=rf"last \[2, 3\] ends at byte {len(whole)}, the file has {len(whole) - 1}"
    ):
        open_weights(tmp_path, (NAME,))
    (tmp_path / NAME).write_bytes(whole[:20])
    with pytest.raises(CheckpointError, match=r"may be cut off: its header needs \d+ bytes, the file has 20"):
        open_weights(tmp_path, (NAME,))


@pytest.mark.parametrize("content", [b"", b"\x80\x04junk", b"\xff" * 64, struct.pack("<Q", 4) + b"{[]}"])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        open_weights(tmp_path, (NAME,))


def test_a_header_that_contradicts_itself_is_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    (tmp_path / NAME).write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match=r"a of shape \[3\] and dtype F32 needs 12 bytes, its header reserves 8"):
        open_weights(tmp_path, (NAME,))


def test_an_index_that_lies_is_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    index = tmp_path / f"{NAME}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "x.safetensors", "b": "x.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"says that b is in x\.safetensors, which does not have it"):
        open_weights(tmp_path, (NAME,))
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"gone\.safetensors is named by the index and does not exist"):
        open_weights(tmp_path, (NAME,))


class Payload:
    """Unpickling it would call print."""

    def __reduce__(self):
        return print, ("executed",)


def test_torch_files_are_read_when_asked_for_and_never_executed(tmp_path, capsys):
    torch.save({"a": torch.arange(3)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt is a pickle and is not read"):
        open_weights(tmp_path, (NAME,))
    assert open_weights(tmp_path, (NAME,), torch_files=True)["a"].tolist() == [0, 1, 2]
    torch.save({"a": torch.arange(3), "b": Payload()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="cannot be read as plain tensors"):
        open_weights(tmp_path, (NAME,), torch_files=True)
    (tmp_path / "model.pt").rename(tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match=r"model\.bin is a pickle and is not read"):
        open_weights(tmp_path, (NAME,), torch_files=True)
    assert "executed" not in capsys.readouterr().out
