"""Produces, joins groups and administrates with kafka-python, JSON lines in and out.

usage: client.py produce BOOTSTRAP TOPIC [setting=value ...]      records on stdin, one acknowledgement a line out
       client.py member BOOTSTRAP TOPIC GROUP COMMIT [setting=value ...]   COMMIT: each, none, or a number of records
       client.py storm BOOTSTRAP TOPIC GROUP
       client.py admin BOOTSTRAP STEP ...                         STEP: name or name=argument,...

Settings go to the client as they are; numbers and true and false are understood.
"""

import json
import signal
import sys

from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import CommitFailedError, KafkaError
from kafka.structs import OffsetAndMetadata
from lines import Commits, decode, encode, event, records_in, say, settings_of

PATIENCE_S = 30


def typed(settings):
    def value_of(text):
        try:
            return json.loads(text)
        except ValueError:
            return text

    return {name: value_of(text) for name, text in settings_of(settings).items()}


def produce(bootstrap, topic, settings):
    producer = KafkaProducer(bootstrap_servers=bootstrap, **typed(settings))
    sent = [
        (line, producer.send(topic, key=encode(record["key"]), value=encode(record["value"])))
        for line, record in records_in()
    ]
    producer.flush(PATIENCE_S)
    for line, future in sent:
        place = future.get(PATIENCE_S)
        say({"line": line, "partition": place.partition, "offset": place.offset})
    producer.close()


class Told(ConsumerRebalanceListener):
    def on_partitions_assigned(self, assigned):
        event("assigned", partitions=[each.partition for each in assigned])

    def on_partitions_revoked(self, revoked):
        event("revoked", partitions=[each.partition for each in revoked])

    def on_partitions_lost(self, lost):
        event("revoked", partitions=[each.partition for each in lost])


def member(bootstrap, topic, group, commit, settings):
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        session_timeout_ms=6000,
        heartbeat_interval_ms=500,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        reconnect_backoff_max_ms=500,
        **typed(settings),
    )
    consumer.subscribe([topic], listener=Told())
    commits = Commits(commit)
    while not stop:
        # Much longer than retry_backoff_ms: a poll whose time is over in the middle of the join that the first metadata
        # asks for forgets that join's assignment (3.0.12).
        for messages in consumer.poll(timeout_ms=1000).values():
            for each in messages:
                event("record", partition=each.partition, offset=each.offset, key=decode(each.key), value=decode(each.value))
                commits.read(each.partition, each.offset)
        due = commits.take()
        if due:
            places = {TopicPartition(topic, partition): OffsetAndMetadata(offset, "", -1) for partition, offset in due.items()}
            try:
                consumer.commit(places)
            except CommitFailedError as error:
                # The group has moved on: what was read comes again to whoever has the partition now.
                print(f"not committed: {error!r}", file=sys.stderr)
                continue
            for partition, offset in due.items():
                event("committed", partition=partition, offset=offset)
    event("leaving")
    consumer.close(autocommit=False)
    event("left")


class Generation(ConsumerRebalanceListener):
    """Which generation what is polled belongs to: partitions change hands within a poll only."""

    def __init__(self, consumer):
        self.consumer = consumer
        self.number = -1

    def on_partitions_assigned(self, assigned):
        self.number = self.consumer._coordinator.generation().generation_id

    def on_partitions_revoked(self, revoked):
        pass


def storm(bootstrap, topic, group):
    """Reads as part of a group while members and broker die, as storm.go of franz-go does."""
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        session_timeout_ms=6000,
        heartbeat_interval_ms=500,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        reconnect_backoff_max_ms=200,
        partition_assignment_strategy=[RangePartitionAssignor],
    )
    generation = Generation(consumer)
    consumer.subscribe([topic], listener=generation)
    while not stop:
        try:
            # As long as in `member`, for the same reason.
            polled = consumer.poll(timeout_ms=1000)
        except KafkaError as error:
            print("poll:", error, file=sys.stderr)
            continue
        due = {}
        for place, messages in polled.items():
            first, last = messages[0].offset, messages[-1].offset
            part = {"partition": place.partition, "first": first, "last": last, "count": len(messages)}
            event("read", **part, generation=generation.number)
            due[place] = OffsetAndMetadata(last + 1, "", -1)
        if due:
            try:
                consumer.commit(due, timeout_ms=5000)
            except KafkaError as error:
                print("commit:", error, file=sys.stderr)
                continue
            for place, committed in due.items():
                event("committed", partition=place.partition, offset=committed.offset)
    consumer.close(autocommit=False)
    event("left")


def configs(admin, kind, name):
    """Every configuration key of a resource with its value."""
    resource = ConfigResource(kind, name)
    described = admin.describe_configs([resource], config_filter="all")
    return {key: entry["value"] for key, entry in described[kind.name.lower()][name].items()}


def step(admin, name, *args):
    match name, args:
        case "create-topic", [topic, partitions]:
            admin.create_topics({topic: {"num_partitions": int(partitions)}})
            return {}
        case "list-topics", []:
            return {"topics": admin.list_topics()}
        case "describe-topic", [topic]:
            (described,) = admin.describe_topics([topic])
            return {"partitions": len(described["partitions"])}
        case "grow-topic", [topic, partitions]:
            admin.create_partitions({topic: int(partitions)})
            return {}
        case "alter-config", [topic, key, value]:
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={key: value})])
            return {}
        case "describe-config", [topic]:
            return {"configs": configs(admin, ConfigResourceType.TOPIC, topic)}
        case "broker-config", []:
            node = admin.describe_cluster()["controller_id"]
            return {"configs": configs(admin, ConfigResourceType.BROKER, str(node))}
        case "list-groups", []:
            return {"groups": [each["group_id"] for each in admin.list_groups()]}
        case "describe-group", [group]:
            described = admin.describe_groups([group])[group]
            return {"state": described["group_state"], "members": len(described["members"])}
        case "group-offsets", [group]:
            found = admin.list_group_offsets(group)[group]
            return {"offsets": sorted([tp.topic, tp.partition, each.offset] for tp, each in found.items())}
        case "delete-group", [group]:
            deleted = admin.delete_groups([group])
            if deleted != {group: "OK"}:
                sys.exit(f"delete-group: {deleted}")
            return {}
        case "delete-topic", [topic]:
            admin.delete_topics([topic])
            return {}
        case _:
            sys.exit(f"unknown step {name} {args}")


def administrate(bootstrap, steps):
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    for text in steps:
        name, _, args = text.partition("=")
        say({"step": name, **step(admin, name, *(args.split(",") if args else []))})
    admin.close()


match sys.argv[1:]:
    case ["produce", bootstrap, topic, *settings]:
        produce(bootstrap, topic, settings)
    case ["member", bootstrap, topic, group, commit, *settings]:
        member(bootstrap, topic, group, commit, settings)
    case ["storm", bootstrap, topic, group]:
        storm(bootstrap, topic, group)
    case ["admin", bootstrap, *steps] if steps:
        administrate(bootstrap, steps)
    case _:
        sys.exit(__doc__)
