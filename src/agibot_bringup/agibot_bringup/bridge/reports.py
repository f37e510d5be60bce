"""What the bridge says of itself: a line for ~/status, and two statuses for /diagnostics."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from agibot_bringup.bridge.guard import Guard, State
from agibot_bringup.bridge.units import Table

SENTENCES = {
    State.INACTIVE: "states pass, commands do not",
    State.WAITING: "no controller has commanded anything yet",
    State.STREAMING: "commands pass",
    State.HOLDING: "ros2_control is silent, the last command is repeated",
}
LEVELS = {State.STOPPED: DiagnosticStatus.ERROR, State.HOLDING: DiagnosticStatus.WARN}


def status_line(guard: Guard, now_ns: int) -> str:
    """`<state>: <sentence>`. States are those of `guard.State`; the sentence is for a person."""
    state = guard.state(now_ns)
    return f"{state.value}: {guard.stopped or guard.latch.reason or guard.deaf or guard.refused or SENTENCES[state]}"


def diagnostics(name: str, hardware: str, guard: Guard, table: Table, now_ns: int) -> DiagnosticArray:
    """The bridge's state; and every joint as the robot reports it and as it is understood. Without a stamp."""
    state = guard.state(now_ns)
    level = LEVELS.get(state, DiagnosticStatus.OK)
    if guard.latch.reason or guard.deaf or guard.refused:
        level = DiagnosticStatus.ERROR
    counts = {key: guard.counts[key] for key in ("sent", "dropped", "partial", "not_finite", "refused", "malformed")}
    bridge = DiagnosticStatus(
        level=level,
        name=f"{name}: bridge",
        message=status_line(guard, now_ns),
        hardware_id=hardware,
        values=[KeyValue(key=key, value=str(count)) for key, count in counts.items()],
    )
    joints = DiagnosticStatus(level=DiagnosticStatus.OK, name=f"{name}: joints", hardware_id=hardware)
    for group, entries in table.items():
        if (reading := guard.readings.get(group)) is None:
            joints.level, joints.message = DiagnosticStatus.WARN, f"{group.value}: nothing reported yet"
            continue
        for entry, raw, position in zip(entries, reading.raw, reading.positions, strict=True):
            text = f"{raw:.4f} {entry.feedback.unit} = {position:.4f}"
            joints.values.append(KeyValue(key=entry.joint, value=text))
    return DiagnosticArray(status=[bridge, joints])
