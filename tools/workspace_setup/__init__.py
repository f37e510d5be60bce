"""Set-up of the workspace without a system ROS: system packages, virtual environment, pinned packages, colcon build.

Standard library only. Each step leaves a stamp, a hash of what it depended on, and is skipped while that hash stays the
same; the stamp is written last, so an interrupted set-up goes on where it stopped.
"""
