"""The small model of an arm that the server's tests serve."""

from ..server.conftest import arm_checkpoint, arm_contract, arm_policy  # noqa: F401
