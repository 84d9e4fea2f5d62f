"""Writes a file of text to a topic while its broker is killed and started again and again.

usage: restart_producer.py BOOTSTRAP TOPIC FILE [setting=value ...]

FILE holds one `key<tab>value` a line. Each record carries its line number in the header `line`. For every
acknowledgement one line `LINE PARTITION OFFSET` is printed. Ends with status 0 when everything was acknowledged.
"""

import sys

from confluent_kafka import Producer

PATIENCE_S = 120

# Small batches and a short queue: many requests are on their way whenever the broker dies, and the producer never
# runs far ahead of what is acknowledged. Reconnecting soon keeps the run short.
SETTINGS = {
    "acks": "all",
    "batch.num.messages": 50,
    "linger.ms": 2,
    "queue.buffering.max.messages": 2000,
    "message.timeout.ms": PATIENCE_S * 1000,
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 100,
    "retry.backoff.ms": 20,
    "log_level": 0,
}

failures = []


def acknowledged(line):
    def report(error, message):
        if error is None:
            sys.stdout.write(f"{line} {message.partition()} {message.offset()}\n")
        else:
            failures.append(error)
            print(f"line {line} failed: {error}", file=sys.stderr)

    return report


def fatal(error):
    if error.fatal():
        failures.append(error)
        print(f"fatal: {error}", file=sys.stderr)


def main(bootstrap, topic, file, *settings):
    given = dict(setting.split("=", 1) for setting in settings)
    producer = Producer({"bootstrap.servers": bootstrap, "error_cb": fatal, **SETTINGS, **given})
    with open(file, encoding="ascii") as lines:
        for line, text in enumerate(lines):
            key, value = text.rstrip("\n").split("\t", 1)
            headers = [("line", str(line))]
            while True:
                try:
                    producer.produce(topic, key=key, value=value, headers=headers, on_delivery=acknowledged(line))
                    break
                except BufferError:
                    # The queue is full until acknowledgements arrive.
                    producer.poll(0.1)
                    sys.stdout.flush()
            if line % 20 == 0:
                producer.poll(0)
                sys.stdout.flush()
            if failures:
                return 1
    left = producer.flush(PATIENCE_S)
    if left != 0:
        print(f"{left} records are not acknowledged", file=sys.stderr)
    return 1 if failures or left != 0 else 0


if len(sys.argv) < 4:
    sys.exit(__doc__)
sys.exit(main(*sys.argv[1:]))
