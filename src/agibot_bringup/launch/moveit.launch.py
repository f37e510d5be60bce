"""MoveIt for arms and torso: move_group, and RViz with its panel on request. The controllers run already.

ros2 launch agibot_bringup moveit.launch.py rviz:=true

On Humble planning:=ompl_humble.yaml. Joints and links carry no prefix here: robots are told apart by namespace.
"""

from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import Command, FindExecutable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

SHARE = FindPackageShare("agibot_bringup")


def expanded(*path: str) -> ParameterValue:
    """The text of a xacro file of this package."""
    return ParameterValue(
        Command([FindExecutable(name="xacro"), " ", PathJoinSubstitution([SHARE, *path])]), value_type=str
    )


def generate_launch_description() -> LaunchDescription:
    """move_group and, with rviz:=true, RViz; both know the robot, its kinematics, limits and planners."""
    namespace = LaunchConfiguration("namespace")
    robot = [
        {
            "robot_description": expanded("urdf", "agibot_g1.urdf.xacro"),
            "robot_description_semantic": expanded("moveit", "agibot_g1.srdf.xacro"),
            "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
        },
        PathJoinSubstitution([SHARE, "moveit", "kinematics.yaml"]),
        PathJoinSubstitution([SHARE, "moveit", "joint_limits.yaml"]),
        PathJoinSubstitution([SHARE, "moveit", LaunchConfiguration("planning")]),
    ]
    clock = [("/clock", "clock")]  # the namespace's own
    execute = {"allow_trajectory_execution": ParameterValue(LaunchConfiguration("execute"), value_type=bool)}
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of the nodes and controllers."),
            DeclareLaunchArgument(
                "use_sim_time", default_value="false", description="Take time from <namespace>/clock."
            ),
            DeclareLaunchArgument(
                "planning", default_value="ompl.yaml", description="Planners: ompl.yaml, or ompl_humble.yaml on Humble."
            ),
            DeclareLaunchArgument(
                "execute", default_value="true", description="false: plan only; MoveIt then moves nothing."
            ),
            DeclareLaunchArgument("rviz", default_value="false", description="RViz with MoveIt's panel."),
            DeclareLaunchArgument("log_level", default_value="info", description="Log level of the nodes."),
            Node(
                package="moveit_ros_move_group",
                executable="move_group",
                name="move_group",
                namespace=namespace,
                output="screen",
                arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
                parameters=[*robot, PathJoinSubstitution([SHARE, "moveit", "controllers.yaml"]), execute],
                remappings=clock,
            ),
            Node(
                package="rviz2",
                executable="rviz2",
                name="rviz2",
                namespace=namespace,
                output="log",
                arguments=["--display-config", PathJoinSubstitution([SHARE, "moveit", "moveit.rviz"])],
                parameters=robot,
                remappings=clock,
                condition=IfCondition(LaunchConfiguration("rviz")),
            ),
        ]
    )
