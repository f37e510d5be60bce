"""A recording stand-in for `launch` and `launch_ros`, as much of them as our launch files use.

It runs a launch file for given arguments and writes down what would be started: package, executable, names,
parameters, remappings, arguments, each under the event that starts it. Substitutions and conditions are carried out as
the real ones do; as there, the arguments of an included file stay set afterwards. What a launch file imports and is not
here cannot be imported, so that nothing is used that was not thought of.
"""

import os
import runpy
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
SHARES = {
    "dreamzero": ROOT,
    "dreamzero_policy": ROOT / "src" / "dreamzero_policy",
    "agibot_bringup": ROOT / "src" / "agibot_bringup",
    "agibot_twin": ROOT / "src" / "agibot_twin",
}


class Context:
    """The launch configurations, and what has been recorded."""

    def __init__(self) -> None:
        self.configurations: dict[str, str] = {}
        self.declared: dict[str, tuple[str, tuple[str, ...] | None]] = {}  # name: (description, choices)
        self.started: list[Any] = []  # processes, in order
        self.events: list[Any] = []
        self.handlers: list[Any] = []
        self.is_shutdown = False


def text(value: Any, context: Context) -> str:
    """What a substitution, a string or a list of both stands for."""
    if isinstance(value, str):
        return value
    if isinstance(value, Substitution):
        return value.perform(context)
    if isinstance(value, (list, tuple)):
        return "".join(text(part, context) for part in value)
    raise TypeError(f"{value!r} is neither text nor a substitution")


# Substitutions


class Substitution:
    def perform(self, context: Context) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class LaunchConfiguration(Substitution):
    name: str

    def perform(self, context: Context) -> str:
        assert self.name in context.configurations, f"launch configuration {self.name} is not declared"
        return context.configurations[self.name]


class PathJoinSubstitution(Substitution):
    def __init__(self, parts: Iterable[Any]) -> None:
        self.parts = list(parts)
        assert not any(isinstance(part, (list, tuple)) for part in self.parts), "Humble joins single parts alone"

    def perform(self, context: Context) -> str:
        return os.path.join(*(text(part, context) for part in self.parts))


class FindPackageShare(Substitution):
    def __init__(self, package: str) -> None:
        self.package = package

    def perform(self, context: Context) -> str:
        return str(SHARES[self.package])


class PythonExpression(Substitution):
    def __init__(self, expression: Any) -> None:
        self.expression = expression

    def perform(self, context: Context) -> str:
        return str(eval(text(self.expression, context), {}))


class EnvironmentVariable(Substitution):
    def __init__(self, name: str) -> None:
        self.name = name

    def perform(self, context: Context) -> str:
        return os.environ[self.name]


class FindExecutable(Substitution):
    def __init__(self, name: str) -> None:
        self.name = name

    def perform(self, context: Context) -> str:
        return self.name


class Command(Substitution):
    """The command line stands for its output."""

    def __init__(self, command: Any) -> None:
        self.command = command

    def perform(self, context: Context) -> str:
        return f"$({text(self.command, context)})"


@dataclass(frozen=True)
class ParameterValue:
    value: Any
    value_type: type

    def perform(self, context: Context) -> Any:
        written = text(self.value, context)
        if self.value_type is bool:
            assert written.lower() in ("true", "false"), f"{written!r} is no bool"
            return written.lower() == "true"
        return self.value_type(written)


class IfCondition:
    def __init__(self, expression: Any) -> None:
        self.expression = expression

    def holds(self, context: Context) -> bool:
        written = text(self.expression, context).lower()
        assert written in ("true", "false", "1", "0"), f"{written!r} is no condition"
        return written in ("true", "1")


# Actions


class Action:
    def __init__(self, *, condition: IfCondition | None = None) -> None:
        self.condition = condition

    def visit(self, context: Context) -> None:
        if self.condition is None or self.condition.holds(context):
            self.execute(context)

    def execute(self, context: Context) -> None:
        raise NotImplementedError


class DeclareLaunchArgument(Action):
    def __init__(
        self, name: str, *, default_value: Any = None, description: str = "", choices: Iterable[str] | None = None
    ) -> None:
        super().__init__()
        self.name, self.default, self.description = name, default_value, description
        self.choices = None if choices is None else tuple(choices)

    def execute(self, context: Context) -> None:
        context.declared.setdefault(self.name, (self.description, self.choices))
        if self.name not in context.configurations:
            context.configurations[self.name] = text(self.default, context)
        value = context.configurations[self.name]
        assert self.choices is None or value in self.choices, f"{self.name} is {value!r}, not one of {self.choices}"


class PythonLaunchDescriptionSource:
    def __init__(self, path: Any) -> None:
        self.path = path


class IncludeLaunchDescription(Action):
    def __init__(
        self,
        source: PythonLaunchDescriptionSource,
        *,
        launch_arguments: Iterable[tuple[str, Any]] = (),
        condition: IfCondition | None = None,
    ) -> None:
        super().__init__(condition=condition)
        self.source, self.arguments = source, list(launch_arguments)

    def execute(self, context: Context) -> None:
        context.configurations |= {name: text(value, context) for name, value in self.arguments}
        described(Path(text(self.source.path, context))).visit(context)


class ExecuteProcess(Action):
    def __init__(self, *, cmd: list[Any], output: str = "log", condition: IfCondition | None = None) -> None:
        super().__init__(condition=condition)
        self.command = cmd

    def execute(self, context: Context) -> None:
        self.command = [text(part, context) for part in self.command]
        context.started.append(self)


class Node(Action):
    """Attributes are carried out when it is started."""

    def __init__(
        self,
        *,
        package: str,
        executable: str,
        name: str | None = None,
        namespace: Any = "",
        parameters: Iterable[Any] = (),
        remappings: Iterable[tuple[Any, Any]] = (),
        arguments: Iterable[Any] = (),
        additional_env: dict[str, str] | None = None,
        output: str = "log",
        on_exit: "Callable[[Any, Context], list[Action]] | None" = None,
        condition: IfCondition | None = None,
    ) -> None:
        super().__init__(condition=condition)
        self.package, self.executable, self.name, self._namespace = package, executable, name, namespace
        self._parameters, self._remappings, self._arguments = list(parameters), list(remappings), list(arguments)
        self.environment, self.on_exit = additional_env or {}, on_exit

    def execute(self, context: Context) -> None:
        assert not hasattr(self, "namespace"), f"{self.executable} is started by the same action a second time"
        if self.on_exit is not None:
            context.handlers.append(OnProcessExit(self, self.on_exit))
        self.namespace = text(self._namespace, context)
        self.arguments = [text(argument, context) for argument in self._arguments]
        self.remappings = {text(origin, context): text(target, context) for origin, target in self._remappings}
        self.files: list[Path] = []
        self.parameters: dict[str, Any] = {}
        for entry in self._parameters:
            if isinstance(entry, dict):
                self.parameters |= {
                    name: value.perform(context) if isinstance(value, ParameterValue) else value
                    for name, value in entry.items()
                }
            else:
                self.files.append(Path(text(entry, context)))
        context.started.append(self)


class LifecycleNode(Node):
    def __init__(self, *, name: str, namespace: Any, **rest: Any) -> None:
        super().__init__(name=name, namespace=namespace, **rest)


class Shutdown(Action):
    def __init__(self, *, reason: str = "") -> None:
        super().__init__()
        self.reason = reason

    def execute(self, context: Context) -> None:
        context.events.append(self)


class TimerAction(Action):
    def __init__(self, *, period: Any, actions: list[Action]) -> None:
        super().__init__()
        self.period, self.actions = period, actions

    def execute(self, context: Context) -> None:
        self.seconds = float(text(self.period, context))


class EmitEvent(Action):
    def __init__(self, *, event: Any, condition: IfCondition | None = None) -> None:
        super().__init__(condition=condition)
        self.event = event

    def execute(self, context: Context) -> None:
        context.events.append(self.event)


class RegisterEventHandler(Action):
    def __init__(self, handler: Any) -> None:
        super().__init__()
        self.handler = handler

    def execute(self, context: Context) -> None:
        context.handlers.append(self.handler)


# Events


@dataclass(frozen=True)
class OnProcessStart:
    target_action: Node
    on_start: list[Action]


@dataclass(frozen=True)
class OnProcessExit:
    target_action: Node
    on_exit: Callable[[Any, Context], list[Action]]


@dataclass(frozen=True)
class OnStateTransition:
    target_lifecycle_node: LifecycleNode
    goal_state: str
    entities: list[Action]
    start_state: str | None = None
    handle_once: bool = False


@dataclass(frozen=True)
class Exited:
    returncode: int


def matches_action(action: Action) -> Action:
    return action


@dataclass(frozen=True)
class ChangeState:
    lifecycle_node_matcher: LifecycleNode
    transition_id: int


class LaunchDescription:
    def __init__(self, actions: Iterable[Action]) -> None:
        self.actions = list(actions)

    def visit(self, context: Context) -> None:
        for action in self.actions:
            action.visit(context)


MODULES: dict[str, tuple[type | Callable, ...]] = {
    "launch": (LaunchDescription,),
    "launch.actions": (
        DeclareLaunchArgument,
        EmitEvent,
        ExecuteProcess,
        IncludeLaunchDescription,
        RegisterEventHandler,
        Shutdown,
        TimerAction,
    ),
    "launch.conditions": (IfCondition,),
    "launch.event_handlers": (OnProcessExit, OnProcessStart),
    "launch.events": (matches_action,),
    "launch.launch_description_sources": (PythonLaunchDescriptionSource,),
    "launch.substitutions": (
        Command,
        EnvironmentVariable,
        FindExecutable,
        LaunchConfiguration,
        PathJoinSubstitution,
        PythonExpression,
    ),
    "launch_ros": (),
    "launch_ros.actions": (LifecycleNode, Node),
    "launch_ros.event_handlers": (OnStateTransition,),
    "launch_ros.events": (),
    "launch_ros.events.lifecycle": (ChangeState,),
    "launch_ros.parameter_descriptions": (ParameterValue,),
    "launch_ros.substitutions": (FindPackageShare,),
}


def described(file: Path) -> LaunchDescription:
    """The description that a launch file generates, with the stand-in in place of the real packages."""
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("launch", "launch_ros")}
    for name in kept:
        del sys.modules[name]
    for name, things in MODULES.items():
        module = sys.modules[name] = ModuleType(name)
        module.__path__ = []  # a package, so that its parts can be imported
        module.__dict__.update({thing.__name__: thing for thing in things})
    try:
        return runpy.run_path(str(file))["generate_launch_description"]()
    finally:
        for name in MODULES:
            del sys.modules[name]
        sys.modules.update(kept)


@dataclass
class Run:
    """A launch file, started with arguments."""

    file: Path
    arguments: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.context = Context()
        self.context.configurations |= self.arguments
        described(self.file).visit(self.context)

    @property
    def nodes(self) -> list[Node]:
        return [process for process in self.context.started if isinstance(process, Node)]

    def node(self, executable: str) -> Node:
        (found,) = (node for node in self.nodes if node.executable == executable)
        return found

    def executables(self) -> list[str]:
        return [node.executable for node in self.nodes]

    def ends_all(self, node: Node) -> bool:
        """Whether the end of a process is the end of everything."""
        return any(isinstance(event, Shutdown) for event in self.process_exits(node, 0).context.events)

    def process_starts(self, node: Node) -> "Run":
        return self._follow(h.on_start for h in self._handlers(OnProcessStart) if h.target_action is node)

    def process_exits(self, node: Node, status: int) -> "Run":
        handlers = [h for h in self._handlers(OnProcessExit) if h.target_action is node]
        return self._follow(h.on_exit(Exited(status), self.context) for h in handlers)

    def state_changes(self, node: Node, start: str, goal: str) -> "Run":
        handlers = [
            h
            for h in self._handlers(OnStateTransition)
            if h.target_lifecycle_node is node and h.goal_state == goal and h.start_state in (None, start)
        ]
        self.context.handlers = [h for h in self.context.handlers if not (h in handlers and h.handle_once)]
        return self._follow(h.entities for h in handlers)

    def _handlers(self, kind: type) -> Iterator[Any]:
        return (handler for handler in self.context.handlers if isinstance(handler, kind))

    def _follow(self, batches: Iterable[list[Action]]) -> "Run":
        """What one event brings: only that is in `nodes` and `events` afterwards."""
        self.context.started, self.context.events = [], []
        for batch in batches:
            for action in batch:
                action.visit(self.context)
        return self
