"""What the Python clients of compat/ share: JSON lines out, records in, and which offsets a member commits.

The events of a member and the steps of an administrator are described in integration-tests/src/groups.rs and admin.rs.
"""

import json
import sys
import time


def encode(text):
    return None if text is None else text.encode()


def decode(data):
    return None if data is None else data.decode()


def say(answer):
    print(json.dumps(answer), flush=True)


def event(name, **parts):
    """One event, stamped in microseconds so that the events of all members can be put in order."""
    say({"event": name, "at": time.time_ns() // 1000, **parts})


def records_in():
    """Numbered records from standard input."""
    return enumerate(json.loads(text) for text in sys.stdin)


def settings_of(texts):
    """`name=value` texts, split."""
    return dict(text.split("=", 1) for text in texts)


class Commits:
    """What is to be committed: after every record (`each`), never (`none`), or up to the first so many records read."""

    def __init__(self, setting):
        self.left = {"each": float("inf"), "none": 0}.get(setting)
        if self.left is None:
            self.left = int(setting)
        self.due = {}

    def read(self, partition, offset):
        if self.left > 0:
            self.left -= 1
            self.due[partition] = offset + 1

    def take(self):
        """Partitions and their next offsets that have not been committed yet."""
        due, self.due = self.due, {}
        return due
