"""The deployment file on a local Ray with two CPU replicas: robots are sent to both, stay, and outlive one of them.

Needs the extra `fleet`; left out where Ray is not installed.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.inference.protocol import messages
from dreamzero_policy.inference.remote.policy import RemotePolicy
from dreamzero_policy.inference.remote.sessions import Seat, SessionDialogue
from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.policy import Interruption, Reply, Resumption

from ..remote.conftest import ask as asked
from ..remote.conftest import next_answer
from ..server.robots import robot

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")

FLEET = Path(__file__).parents[5] / "config" / "fleet.yaml"
TOKEN = "a-token-of-some-length"
BLOCKS = 7  # over the end of a window
PATIENCE_S = 900.0


def ask(port: int, path: str, token: str = TOKEN) -> tuple[int, dict]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"} if token else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def desk(arm_checkpoint: Path, tmp_path_factory) -> Iterator[int]:
    """The port of the desk of a fleet of two."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    tokens = tmp_path_factory.mktemp("fleet") / "tokens.txt"
    tokens.write_text(f"{TOKEN}\n")
    document = yaml.safe_load(FLEET.read_text())
    (application,) = document["applications"]
    application["args"] |= {"checkpoint": str(arm_checkpoint), "token_file": str(tokens)}
    application["args"] |= {"device": "cpu", "dtype": "float32", "most_load": 1.0, "drain_s": 1.0}
    replica = next(each for each in application["deployments"] if each["name"] == "PolicyReplica")
    replica["ray_actor_options"] = {"num_cpus": 0.5, "num_gpus": 0}
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000)
    serve.start(proxy_location="HeadOnly", http_options=document["http_options"])
    _get_global_client().deploy_apps(ServeDeploySchema(**document), _blocking=False)
    deadline = time.monotonic() + PATIENCE_S
    while (status := serve.status().applications.get("dreamzero")) is None or status.status != "RUNNING":
        assert time.monotonic() < deadline, status
        assert status is None or status.status != "DEPLOY_FAILED", status
        time.sleep(1.0)
    yield document["http_options"]["port"]
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
def connect(desk: int, arm_contract: Contract, tmp_path: Path) -> Iterator[Callable[[], RemotePolicy]]:
    """Robots that know the desk alone."""
    policies, token = [], tmp_path / "token"
    token.write_text(f"{TOKEN}\n")

    def connect() -> RemotePolicy:
        seat = Seat()
        settings = RemoteSettings(
            f"http://127.0.0.1:{desk}", token_file=token, longest_pause_s=1.0, link_timeout_s=5.0, period_s=60.0
        )
        policies.append(RemotePolicy(settings, lambda server: SessionDialogue(server, arm_contract, seat)))
        policies[-1].wait_until_ready(PATIENCE_S)
        return policies[-1]

    yield connect
    for policy in policies:
        policy.close()


def follow(policy: RemotePolicy, epoch: int) -> list[np.ndarray]:
    policy.reset("touch", epoch)
    chunks = []
    for number in range(BLOCKS):
        policy.submit(asked(epoch, number, seed=number))
        chunks.append(next_answer(policy, Reply).actions)
    return chunks


def listener(address: str) -> psutil.Process:
    """The process that serves there."""
    port = int(address.rpartition(":")[2])
    (pid,) = {each.pid for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.laddr.port == port}
    return psutil.Process(pid)


@pytest.mark.timeout(1200)
def test_robots_are_spread_over_the_replicas_that_answer_alike(desk: int, arm_contract: Contract) -> None:
    assert ask(desk, "/assign", token="")[0] == 401
    assert ask(desk, "/elsewhere")[0] == 404
    assert ask(desk, "/contract")[1]["contract"] == arm_contract.hash
    addresses: set[str] = set()
    for _ in range(500):  # the one with more room first
        addresses.add(ask(desk, "/assign")[1]["address"])
        if len(addresses) == 2:
            break
    assert len(addresses) == 2
    answers = []
    for address in addresses:
        with robot(address, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as there:
            there.open(arm_contract.hash)
            there.observe(0, np.full((1, 32, 32, 3), 80, np.uint8))
            answers.append(there.predict(0, np.zeros(8, np.float32)))
            assert isinstance(answers[-1], messages.Chunk)
    np.testing.assert_array_equal(answers[0].actions, answers[1].actions)


@pytest.mark.timeout(1200)
def test_a_session_on_a_replica_gives_the_chunks_of_the_same_model_here(connect, arm_policy: Policy) -> None:
    here = Sessions(arm_policy)
    here.reset("touch")
    ours = [here.answer(asked(1, number, seed=number)).actions for number in range(BLOCKS)]
    for mine, theirs in zip(ours, follow(connect(), 1), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.timeout(1200)
def test_a_robot_whose_replica_dies_goes_on_with_another_in_a_new_epoch_and_the_fleet_heals(desk: int, connect) -> None:
    policy = connect()
    before = follow(policy, 1)
    server = policy._link._desk._assigned.url
    listener(server).kill()
    trouble = next_answer(policy, Interruption).trouble
    assert trouble.fault is Fault.SERVER_UNREACHABLE and server.removeprefix("ws://") in trouble.text
    next_answer(policy, Resumption)
    assert policy._link._desk._assigned.url != server
    for first, again in zip(before, follow(policy, 2), strict=True):
        np.testing.assert_array_equal(first, again)
    addresses: set[str] = set()
    deadline = time.monotonic() + PATIENCE_S
    while len(addresses) < 2:
        assert time.monotonic() < deadline, addresses
        time.sleep(1.0)
        status, answer = ask(desk, "/assign?period_s=60")
        addresses |= {answer["address"]} - {server} if status == 200 else set()
