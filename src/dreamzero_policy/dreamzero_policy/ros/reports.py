"""What the node says of itself: ~/status and /diagnostics, both made of the same loop."""

from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from dreamzero_msgs.msg import PolicyStatus
from dreamzero_policy.ros.backends import Served
from dreamzero_policy.ros.messages import to_stamp
from dreamzero_policy.runtime.faults import Outcome, Trouble
from dreamzero_policy.runtime.latency import stages_s
from dreamzero_policy.runtime.loop import Loop, Phase
from dreamzero_policy.runtime.surprise import SurpriseWatch

STATES = {
    Phase.IDLE: PolicyStatus.IDLE,
    Phase.WAITING: PolicyStatus.WAITING,
    Phase.THINKING: PolicyStatus.RUNNING,
    Phase.FAULT: PolicyStatus.FAULT,
}


def waiting_for(troubles: Sequence[Trouble]) -> list[str]:
    """A line for everything that has to come back or be released."""
    lasting = (Outcome.HOLD, Outcome.STOP, Outcome.WAIT)
    return [trouble.text for trouble in troubles if trouble.fault.outcome in lasting]


def labels(troubles: Sequence[Trouble]) -> list[str]:
    """The names of the faults, each once."""
    return list(dict.fromkeys(trouble.fault.label for trouble in troubles))


def describe_loop(status: PolicyStatus, loop: Loop, troubles: Sequence[Trouble], now_ns: int) -> None:
    """Fill in everything but the stamp."""
    counters, chunk = loop.counters, loop.last_chunk
    status.waiting_for, status.faults = waiting_for(troubles), labels(troubles)
    status.fault_names = [fault.label for fault in loop.faults.counts]
    status.fault_counts = list(loop.faults.counts.values())
    status.state = loop_state(loop, troubles, now_ns)
    status.message = loop.message or status.message
    status.regime, status.prompt = loop.regime, loop.prompt
    status.overlap, status.speed = loop.scheduler.mode.way, loop.scheduler.mode.speed
    status.session, status.epoch, status.chunk_index = loop.session, loop.epoch, loop.chunk_index
    if chunk is not None:
        status.observation_stamp = to_stamp(chunk.block.observation_ns)
        status.inference_start, status.inference_end = to_stamp(chunk.asked_ns), to_stamp(chunk.answered_ns)
        status.latency_s, status.model_s = chunk.observation_to_command_s, chunk.reply.timings_s.get("model", 0.0)
    status.chunk_rate_hz = counters.chunk_rate_hz()
    status.buffered_s = loop.plan.remaining_s(now_ns) if loop.plan else 0.0
    status.chunks, status.plan_underruns = counters.chunks, counters.underruns
    status.rejected_reasons = [verdict.name.lower() for verdict in counters.rejected]
    status.rejected_counts = list(counters.rejected.values())
    cameras = loop.buffer.cameras
    status.camera_names = list(cameras)
    status.dropped_frames = [stream.dropped for stream in cameras.values()]
    status.duplicate_frames = [stream.duplicates for stream in cameras.values()]
    status.out_of_order_frames = [stream.out_of_order for stream in cameras.values()]


def loop_state(loop: Loop, troubles: Sequence[Trouble], now_ns: int) -> int:
    """The state of PolicyStatus."""
    if loop.phase is not Phase.FAULT and any(trouble.fault.outcome is Outcome.STOP for trouble in troubles):
        return PolicyStatus.ESTOP
    if loop.phase is Phase.IDLE and loop.plan is not None and loop.plan.end_ns > now_ns:
        return PolicyStatus.STOPPING
    if loop.phase is Phase.WAITING and not troubles and loop.last_chunk is not None:
        return PolicyStatus.RUNNING
    return STATES[loop.phase]


def diagnostics(
    name: str, loop: Loop, served: Served, troubles: Sequence[Trouble], active: bool, surprise: SurpriseWatch
) -> DiagnosticArray:
    """One status, without a stamp. What is wrong is a warning while it can end by itself, and an error else."""
    level, message = DiagnosticStatus.OK, loop.message or "ok"
    lasting = [trouble for trouble in troubles if trouble.fault.outcome not in (Outcome.HOLD, Outcome.WAIT)]
    if shown := troubles if active else lasting:
        level = DiagnosticStatus.ERROR if lasting else DiagnosticStatus.WARN
        message = "; ".join(trouble.text for trouble in shown)
    elif active and surprise.warning:
        level, message = DiagnosticStatus.WARN, surprise.warning
    counters = loop.counters
    values = {
        "phase": loop.phase.value,
        "regime": loop.regime,
        "overlap": loop.scheduler.mode.way,
        "speed": f"{loop.scheduler.mode.speed:.2f}",
        "prompt": loop.prompt,
        "epoch": loop.epoch,
        "chunks": counters.chunks,
        "chunk_rate_hz": f"{counters.chunk_rate_hz():.2f}",
        "plan_underruns": counters.underruns,
        "eased_chunks": counters.eased,
        "contract_hash": loop.embodiment.contract.hash,
        "checkpoint_hash": served.checkpoint_hash,
        "faults": ", ".join(labels(troubles)),
    }
    values |= {"surprise_action": surprise.settings.action, "surprise_blocks": surprise.blocks}
    if surprise.distance is not None:
        values["surprise"] = f"{surprise.distance:.4f}"
    if surprise.score is not None:
        values["surprise_score"] = f"{surprise.score:.2f}"
        values["surprise_percentile"] = f"{surprise.percentile:.1f}"
    values |= {f"fault.{fault.label}": count for fault, count in loop.faults.counts.items()}
    values |= {f"rejected.{verdict.name.lower()}": count for verdict, count in counters.rejected.items()}
    for camera, stream in loop.buffer.cameras.items():
        values[f"dropped_frames.{camera}"] = stream.dropped
        values[f"duplicate_frames.{camera}"] = stream.duplicates
        values[f"out_of_order_frames.{camera}"] = stream.out_of_order
        values[f"unchanged_s.{camera}"] = f"{stream.frozen_s:.2f}"
    if loop.last_chunk:
        values |= {f"{stage}_s": f"{seconds:.4f}" for stage, seconds in stages_s(loop.last_chunk).items()}
    values |= {f"histogram.{stage}_ms": histogram for stage, histogram in loop.latency.histograms.items()}
    status = DiagnosticStatus(
        level=level,
        name=f"{name}: policy",
        message=message,
        hardware_id=loop.model.embodiment,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
    return DiagnosticArray(status=[status])
