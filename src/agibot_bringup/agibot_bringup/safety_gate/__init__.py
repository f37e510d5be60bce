"""The safety gate: it stands between whoever sends trajectories and the controllers, and lets through what it may.

Everything but `node.py` and `messages.py` is without ROS. `gate.py` is the place to begin.
"""
