"""What databases ask of a share, by the constants that the agent is built with and started with.

A database that is written to ships one file per interval. Each level above level 0 makes one file
per step, out of those of the level below; those of level 0 are still on the node, the others are
read from the share, once. A file is removed when its level keeps it no longer, so in the long run as
many go as come; it is looked for them every second step of the finest level. Before a batch is
shipped, and before a chore, it is looked whether the share is the one that it was; before a chore
also whether somebody else wrote there, by the names of level 0. A database that is not written to
is looked at once after a start, and read back once a day.
"""

from dataclasses import dataclass

# agent/pipeline/src/limits.rs, FIRST_LOOK
FIRST_LOOK = 600
# ctl/src/agents.rs, AT_ONCE
CALLERS = 32


@dataclass(frozen=True)
class Constants:
    """What an agent is started with; its defaults, in seconds."""

    interval: float = 1.0
    levels: tuple = (30.0, 300.0, 3600.0)
    snapshot: float = 86400.0
    verify: float = 86400.0


def active(constants=Constants()):
    """Calls per second of a database with a commit in each interval, in the long run."""
    made = [1 / step for step in (constants.interval, *constants.levels, constants.snapshot)]
    chores = sum(made[1:]) + made[1] / 2
    return {
        "put": sum(made),
        "open": sum(made[1:-1]),
        "remove": sum(made),
        "check": made[0] + chores,
        "list": chores,
    }


def idle(constants=Constants()):
    """Calls per second of a database that nobody writes to: it is read back, a snapshot and about one
    file of each level."""
    files = 2 + len(constants.levels)
    return {"open": files / constants.verify, "check": 1 / constants.verify, "list": 2 / constants.verify}


def begun(databases):
    """Calls per second in the first minutes after a start: each replica is looked at once."""
    return {op: databases / FIRST_LOOK for op in ("check", "list")}


def fleet(nodes, databases, share_active, constants=Constants()):
    """Calls per second of a fleet, by operation."""
    busy = nodes * databases * share_active
    rest = nodes * databases - busy
    rates = {}
    for count, calls in ((busy, active(constants)), (rest, idle(constants))):
        for op, rate in calls.items():
            rates[op] = rates.get(op, 0.0) + count * rate
    return rates
