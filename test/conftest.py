"""Whole-stack tests start real processes and talk to them over DDS on a domain of their own."""

import os
import random

import pytest

DOMAIN = random.SystemRandom().randrange(1, 60)
os.environ["ROS_DOMAIN_ID"] = str(DOMAIN)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


@pytest.fixture(scope="session")
def ros():
    """rclpy, initialised once for all tests of this process."""
    import rclpy

    rclpy.init()
    yield rclpy
    rclpy.try_shutdown()
