"""Produces and consumes with confluent-kafka, records in and out as JSON lines.

usage: client.py produce BOOTSTRAP TOPIC [setting=value ...]     records on stdin, one acknowledgement a line out
       client.py consume BOOTSTRAP TOPIC PARTITION=START ...      START: an offset, beginning, end, or @timestamp
       client.py watermarks BOOTSTRAP TOPIC PARTITION
       client.py member BOOTSTRAP TOPIC GROUP COMMIT [setting=value ...]   COMMIT: each, none, or a number of records
       client.py admin BOOTSTRAP STEP ...                         STEP: name or name=argument,...

A record is {"key", "value", "headers": [[name, value]], "partition"?, "timestamp"?}; null stands for null.
consume reads each partition to its end. Settings go to the client as they are.
"""

import sys

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from group import administrate, member
from lines import decode, encode, records_in, say, settings_of

PATIENCE_S = 30


def produce(bootstrap, topic, settings):
    failures = []

    def acknowledged(line):
        def report(error, message):
            if error is not None:
                failures.append(error)
                print(f"line {line} failed: {error}", file=sys.stderr)
            else:
                say({"line": line, "partition": message.partition(), "offset": message.offset()})

        return report

    producer = Producer({"bootstrap.servers": bootstrap, **settings_of(settings)})
    for line, record in records_in():
        where = {name: record[name] for name in ("partition", "timestamp") if name in record}
        producer.produce(
            topic,
            key=encode(record["key"]),
            value=encode(record["value"]),
            headers=[(name, encode(value)) for name, value in record["headers"]],
            on_delivery=acknowledged(line),
            **where,
        )
        producer.poll(0)
    if producer.flush(PATIENCE_S) != 0:
        sys.exit("not all records were acknowledged in time")
    if failures:
        sys.exit(1)


def consumer_for(bootstrap):
    # group.id is demanded by the client, but assigned partitions without commits use no group.
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "unused",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
        }
    )


def start_offset(consumer, topic, partition, start):
    if start == "beginning":
        return OFFSET_BEGINNING
    if start == "end":
        return OFFSET_END
    if start.startswith("@"):
        asked = TopicPartition(topic, partition, int(start[1:]))
        (found,) = consumer.offsets_for_times([asked], timeout=PATIENCE_S)
        if found.error is not None:
            raise KafkaException(found.error)
        return found.offset
    return int(start)


def consume(bootstrap, topic, starts):
    consumer = consumer_for(bootstrap)
    assigned = []
    for text in starts:
        partition, start = text.split("=", 1)
        offset = start_offset(consumer, topic, int(partition), start)
        assigned.append(TopicPartition(topic, int(partition), offset))
    consumer.assign(assigned)
    unfinished = {each.partition for each in assigned}
    while unfinished:
        message = consumer.poll(PATIENCE_S)
        if message is None:
            sys.exit(f"nothing came in time; unfinished partitions: {sorted(unfinished)}")
        if message.error() is not None:
            if message.error().code() == KafkaError._PARTITION_EOF:
                unfinished.discard(message.partition())
                continue
            raise KafkaException(message.error())
        say(
            {
                "partition": message.partition(),
                "offset": message.offset(),
                "timestamp": message.timestamp()[1],
                "key": decode(message.key()),
                "value": decode(message.value()),
                "headers": [[name, decode(value)] for name, value in message.headers() or []],
            }
        )
    consumer.close()


def watermarks(bootstrap, topic, partition):
    consumer = consumer_for(bootstrap)
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, int(partition)), timeout=PATIENCE_S)
    say({"low": low, "high": high})


match sys.argv[1:]:
    case ["produce", bootstrap, topic, *settings]:
        produce(bootstrap, topic, settings)
    case ["consume", bootstrap, topic, *starts] if starts:
        consume(bootstrap, topic, starts)
    case ["watermarks", bootstrap, topic, partition]:
        watermarks(bootstrap, topic, partition)
    case ["member", bootstrap, topic, group, commit, *settings]:
        member(bootstrap, topic, group, commit, settings)
    case ["admin", bootstrap, *steps] if steps:
        administrate(bootstrap, steps)
    case _:
        sys.exit(__doc__)
