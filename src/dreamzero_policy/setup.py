"""Installs package dreamzero_policy for colcon: Python modules, executables, and the kernels where a C compiler is."""

import hashlib
from pathlib import Path

from setuptools import Extension, find_packages, setup

NAME = "dreamzero_policy"
KERNELS = f"{NAME}/runtime/_kernels.c"

# The flags keep the order and the rounding of every operation (no fused multiply-add), so that results are numpy's.
kernels = Extension(
    f"{NAME}.runtime._kernels",
    sources=[KERNELS],
    define_macros=[("SOURCE_DIGEST", f'"{hashlib.sha256(Path(KERNELS).read_bytes()).hexdigest()}"')],
    extra_compile_args=["-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"],
    optional=True,  # without them runtime/kernels.py leaves the work to numpy
)

setup(
    name=NAME,
    version="0.1.0",
    description="DreamZero as a ROS 2 policy",
    maintainer="DreamZero ROS 2 maintainers",
    maintainer_email="maintainers@dreamzero.example",
    license="Apache-2.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={f"{NAME}.replay.report": ["page.css", "charts.js", "page.js"]},
    ext_modules=[kernels],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={
        "rerun": ["rerun-sdk>=0.24"],  # dreamzero replay --rerun; half a gigabyte
        "fleet": ["ray[serve]>=2.40"],  # config/fleet.yaml
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "dreamzero = dreamzero_policy.cli.main:main",
            "policy_node = dreamzero_policy.ros.policy_node:main",
            "replay_node = dreamzero_policy.ros.replay_node:main",
        ],
    },
)
