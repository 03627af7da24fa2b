"""Kills: an agent gets SIGKILL thousands of times, at moments that dice choose, whatever it does then.

Two nodes, apps of different habits that write all the time, and upkeep at full haste, so that every
stage is under way all the time: start and recovery, capture, ship, compact, snapshot, retain, scrub,
restore (pods move) and drain (SIGTERM comes first). Between bursts of kills the agent lives for long
enough to get somewhere; then states are compared as in the soak.

  tests/run kills [--kills 1500] [--seed N] [--apps 4]

The same seed throws the same dice. The last lines are the account: kills by what the agent was doing,
commits, states compared, commits lost.
"""

import argparse
import collections
import os
import random
import sys
import time

import soak as s
from world import Agent

FLAGS = ["--spool-limit", "64Mi", "--l0-retention", "3s", "--levels", "2s,6s,20s",
         "--snapshot-interval", "20s", "--verify-interval", "5s", "--drain-timeout", "5s"]
# Upkeep at this pace keeps more than an hour of a file every two seconds.
s.SHARE_MEGABYTES = 8192


class Kills(s.Soak):
    """A soak of which all faults are kills."""

    def __init__(self, args, path):
        self.left, self.killed = args.kills, collections.Counter()
        super().__init__(args, path)

    def begin(self, node):
        """An agent that nobody waits for."""
        self.agents[node.name] = Agent(node, self.share.path, *FLAGS, ready=False,
                                       clock=self.clocks[node.name])
        return self.agents[node.name]

    def start(self, node, patience=90):
        self.begin(node).answers(patience)

    def doing(self, node, agent, age):
        """What an agent is doing, as far as it can be told from outside."""
        if not agent.socket.exists():
            return "begins"
        if any(life.node is node and life.state != "writing" for life in self.lives):
            return "restores"
        return "has just begun" if age < 0.5 else "follows and tends"

    def kill(self):
        """A burst: each agent lives for a moment."""
        node = self.dice.choice(self.nodes)
        agent = self.agents[node.name]
        for _ in range(self.dice.randint(10, 40)):
            what = self.doing(node, agent, 9)
            if self.dice.random() < 0.1 and what != "begins":
                agent.process.terminate()
                what = "drains"
            # Most of an agent's life is short here, some of it is not.
            age = self.dice.uniform(0.005, 0.3) if self.dice.random() < 0.9 else self.dice.uniform(0.3, 2)
            time.sleep(age)
            if what != "drains":
                what = self.doing(node, agent, age)
            agent.kill()
            self.world.processes.remove(agent.process)
            self.killed[what] += 1
            self.left -= 1
            agent = self.begin(node)
        agent.answers(90)
        return True

    def settle(self):
        """What an app was told of is on the share as soon as its agent lives for a while."""
        lives = [life for life in self.lives if life.state == "writing"]
        if not lives:
            return False
        life = self.dice.choice(lives)
        self.agent(life).wait_state(life.pod, "following", s.PATIENCE)
        self.refused += life.app.pause()["busy"]
        self.agent(life).sync(life.pod, s.PATIENCE)
        restored = self.world.restore(life.pod.replica(self.share.path))
        s.w.same(life.pod.database, restored)
        self.compare(life, restored, "proofs while it lives")
        restored.unlink()
        life.app.resume()
        return True

    FAULTS = {
        "burst of kills": (kill, 8),
        "pod moved": (s.Soak.move, 3),
        "kill -9 of an app": (s.Soak.crash_app, 1),
        "settled": (settle, 3),
    }

    def account(self, begun):
        kills = ", ".join(f"{what} {count}" for what, count in sorted(self.killed.items()))
        s.say(f"kills {sum(self.killed.values())}: {kills}")
        super().account(begun)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SQLREP_SEED", 0)))
    parser.add_argument("--apps", type=int, default=4)
    args = parser.parse_args()
    args.seed = args.seed or random.randrange(1, 1 << 30)
    s.say(f"SQLREP_SEED={args.seed}, {args.kills} kills, {args.apps} apps")
    sys.exit(s.run(lambda path: Kills(args, path), lambda run: run.left > 0, args.seed))


if __name__ == "__main__":
    main()
