"""Low-rank adapters: only they and the modules of actions and state learn, and the checkpoint needs no adapter."""

import pytest
import torch

from dreamzero_policy.training.tuning import TRAINED_IN_FULL

pytest.importorskip("peft")


@pytest.fixture
def tuned(make_trainer, make_config):
    train = make_trainer(config=make_config(layers=2), tuning="lora", learning_rate=1e-2, steps=8)
    for _ in range(8):
        train.advance()
    return train


def test_only_adapters_and_the_modules_of_actions_and_state_learn(tuned):
    for key in tuned.masters:
        network, module = key.split(".")[:2]
        assert network == "transformer" and (".lora_" in key or module in TRAINED_IN_FULL), key
    targets = {key.split(".lora_")[0].split(".", 3)[3] for key in tuned.masters if ".lora_" in key}
    attention = {f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")}
    assert targets == attention | {"ffn.net.0.proj", "ffn.net.2"}
    assert all(min(t.shape) == 4 for key, t in tuned.masters.items() if ".lora_" in key)


def test_the_exported_weights_are_plain_and_say_the_same(tuned, make_trainer, make_window):
    plain = make_trainer(config=tuned.config)
    exported = tuned.averaged_networks()
    moved = 0
    for name, network in plain.networks.items():
        before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        network.load_state_dict(getattr(exported, name).state_dict())
        moved += sum(not torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    assert moved > 20
    batch = tuned.batch(0)
    with torch.no_grad(), tuned.averaged():
        theirs = tuned.losses_of(batch, torch.Generator().manual_seed(0)).total.item()
    ours = plain.losses_of(batch, torch.Generator().manual_seed(0)).total.item()
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_an_interrupted_run_with_adapters_resumes_exactly(tmp_path, make_trainer):
    whole, first, second = (make_trainer(tuning="lora", bfloat16=True) for _ in range(3))
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    first.save_state(tmp_path / "state.pt")
    second.load_state(tmp_path / "state.pt")
    for _ in range(2):
        second.advance()
    assert all(torch.equal(second.masters[key], tensor) for key, tensor in whole.masters.items())
