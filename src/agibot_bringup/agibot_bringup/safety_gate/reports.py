"""What the gate says of itself: a line for ~/status, and a status for /diagnostics."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from agibot_bringup.safety_gate.gate import Gate, State


def status_line(gate: Gate, now_ns: int) -> str:
    """`<state>: <sentence>`. States are those of `gate.State`; the sentence is for a person."""
    state, stop = gate.state(now_ns), gate.estop.trouble()
    if state is State.STOPPED and stop is not None:
        text = stop.text
    elif not gate.opened:
        text = gate.message
    elif gate.rejecting:
        text = f"the last trajectory was rejected, {gate.last_rejection}"
    elif state is State.SILENT:
        text = "nothing comes, the robot stands at the end of the last trajectory"
    else:
        text = "trajectories pass"
    return f"{state.value}: {text}"


def diagnostics(name: str, hardware: str, gate: Gate, now_ns: int, monotonic_ns: int) -> DiagnosticArray:
    """One status, without a stamp. What a person must end is an error, what keeps the robot from moving a warning."""
    state, interlocks = gate.state(now_ns), gate.interlocks(monotonic_ns)
    level = DiagnosticStatus.OK
    if state is State.STOPPED:
        level = DiagnosticStatus.ERROR
    elif interlocks or gate.rejecting or state is State.SILENT:
        level = DiagnosticStatus.WARN
    values = {
        "state": state.value,
        "interlocks": ", ".join(interlock.name for interlock in interlocks),
        "closed_because": "" if gate.opened else gate.message,
        "passed": gate.passed,
        "last_rejection": gate.last_rejection,
        "silent_s": f"{gate.silent_s(now_ns):.2f}",
    }
    values |= {f"rejected.{reason.name.lower()}": count for reason, count in gate.rejected.items()}
    status = DiagnosticStatus(
        level=level,
        name=f"{name}: gate",
        message="; ".join(interlock.text for interlock in interlocks) or status_line(gate, now_ns),
        hardware_id=hardware,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
    return DiagnosticArray(status=[status])
