"""What /metrics tells, in the format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class Measures:
    """All of one server; a registry of its own, so that two servers in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"dreamzero_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"dreamzero_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"dreamzero_{name}", text, labels, registry=self.registry, buckets=SECONDS)

        self.ready = gauge("ready", "1 when warmed up and taking sessions")
        self.connections = gauge("connections", "Open connections", "protocol")
        self.sessions = gauge("sessions", "Sessions that have memory", "protocol")
        self.load = gauge("load_promised", "Share of the model that is promised to sessions")
        self.waiting = gauge("work_waiting", "Pieces of work that wait for the model")
        self.session_bytes = gauge("session_budget_bytes", "Memory that a session may take")
        self.chunks = counter("chunks", "Chunks given", "protocol")
        self.blocks = counter("blocks", "Blocks observed", "protocol")
        self.refusals = counter("refusals", "Asks that were refused, by the protocol's code", "protocol", "code")
        self.resumed = counter("resumed", "Sessions that went on behind a lost connection")
        self.expired = counter("expired", "Sessions that nobody resumed in time")
        self.busy = counter("model_busy_seconds", "Time the model worked")
        self.answer = histogram("answer_seconds", "Receipt of an ask for a chunk to its answer", "protocol")
        self.queue = histogram("queue_seconds", "Time a piece of work waited for the model")
        self.batch = Histogram(
            "dreamzero_batch_chunks", "Chunks denoised together", registry=self.registry, buckets=(1, 2, 3, 4, 6, 8, 16)
        )
        self.model = histogram("model_seconds", "Time of a piece of work on the model", "work")

    def text(self) -> bytes:
        return generate_latest(self.registry)
