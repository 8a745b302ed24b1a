"""What a measured run would take over a network.

The parties run over loopback, where a byte is nearly free and a round costs microseconds. Over a network,

    seconds = seconds on loopback + rounds * round trip + 8 * bytes of the busiest sender / bandwidth.

Links are full duplex. A round is charged a whole round trip, which is what an answer costs; a round in which both
parties send at once costs half of it, so that the figure errs on the slow side.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """A link between the parties: bandwidth in megabits per second each way, round trip in milliseconds."""

    name: str
    megabits: float
    round_trip_ms: float

    def seconds(self, local: float, rounds: float, sent_bytes: float) -> float:
        return local + rounds * self.round_trip_ms / 1e3 + 8 * sent_bytes / (self.megabits * 1e6)


LAN = Network("LAN", 1000, 0.5)
WAN = Network("WAN", 100, 50)
