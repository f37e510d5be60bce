"""The deployment file on a local Ray with two CPU replicas: robots are sent to either, and both answer alike.

Needs the extra `fleet`; left out where Ray is not installed.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from dreamzero_policy.inference.protocol import messages
from dreamzero_policy.runtime.contract import Contract

from ..server.robots import robot

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")

FLEET = Path(__file__).parents[5] / "config" / "fleet.yaml"
TOKEN = "a-token-of-some-length"
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


@pytest.mark.timeout(1200)
def test_robots_are_spread_over_the_replicas_that_answer_alike(desk: int, arm_contract: Contract) -> None:
    assert ask(desk, "/assign", token="")[0] == 401
    assert ask(desk, "/elsewhere")[0] == 404
    assert ask(desk, "/contract")[1]["contract"] == arm_contract.hash
    addresses = [ask(desk, "/assign")[1]["address"] for _ in range(2)]
    assert len(set(addresses)) == 2
    answers = []
    for address in addresses:
        with robot(address, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as there:
            there.open(arm_contract.hash)
            there.observe(0, np.full((1, 32, 32, 3), 80, np.uint8))
            answers.append(there.predict(0, np.zeros(8, np.float32)))
            assert isinstance(answers[-1], messages.Chunk)
    np.testing.assert_array_equal(answers[0].actions, answers[1].actions)
