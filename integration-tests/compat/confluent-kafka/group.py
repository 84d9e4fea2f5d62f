"""The part of client.py that joins groups and administrates."""

import signal
import sys

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from lines import Commits, decode, event, say, settings_of

PATIENCE_S = 30


def member(bootstrap, topic, group, commit, settings):
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 500,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "reconnect.backoff.max.ms": 500,
            **settings_of(settings),
        }
    )
    told = {
        f"on_{how}": lambda _, partitions, how=how: event(
            "assigned" if how == "assign" else "revoked", partitions=[each.partition for each in partitions]
        )
        for how in ("assign", "revoke", "lost")
    }
    consumer.subscribe([topic], **told)
    commits = Commits(commit)
    while not stop:
        for message in consumer.consume(100, timeout=0.1):
            if message.error() is not None:
                # The client goes on by itself: says that the broker is away, say.
                print(message.error(), file=sys.stderr)
                continue
            where = {"partition": message.partition(), "offset": message.offset()}
            event("record", **where, key=decode(message.key()), value=decode(message.value()))
            commits.read(**where)
        due = commits.take()
        if due:
            offsets = [TopicPartition(topic, partition, offset) for partition, offset in due.items()]
            try:
                places = consumer.commit(offsets=offsets, asynchronous=False)
            except KafkaException as error:
                # The group has moved on: what was read comes again to whoever has the partition now.
                print(f"not committed: {error}", file=sys.stderr)
                continue
            for place in places:
                if place.error is not None:
                    raise KafkaException(place.error)
                event("committed", partition=place.partition, offset=place.offset)
    event("leaving")
    consumer.close()
    event("left")


def done(futures):
    """The one result of an administrator's call for one thing."""
    (future,) = futures.values()
    return future.result(PATIENCE_S)


def configs(admin, kind, name):
    """Every configuration key of a resource with its value."""
    described = done(admin.describe_configs([ConfigResource(kind, name)]))
    return {"configs": {key: entry.value for key, entry in described.items()}}


def step(admin, name, *args):
    match name, args:
        case "create-topic", [topic, partitions]:
            done(admin.create_topics([NewTopic(topic, int(partitions))]))
            return {}
        case "list-topics", []:
            return {"topics": list(admin.list_topics(timeout=PATIENCE_S).topics)}
        case "describe-topic", [topic]:
            return {"partitions": len(admin.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions)}
        case "grow-topic", [topic, partitions]:
            done(admin.create_partitions([NewPartitions(topic, int(partitions))]))
            return {}
        case "alter-config", [topic, key, value]:
            entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
            done(admin.incremental_alter_configs([resource]))
            return {}
        case "alter-config-whole", [topic, key, value]:
            done(admin.alter_configs([ConfigResource(ResourceType.TOPIC, topic, set_config={key: value})]))
            return {}
        case "describe-config", [topic]:
            return configs(admin, ResourceType.TOPIC, topic)
        case "broker-config", []:
            node = admin.describe_cluster().result(PATIENCE_S).controller.id
            return configs(admin, ResourceType.BROKER, str(node))
        case "list-groups", []:
            listed = admin.list_consumer_groups().result(PATIENCE_S)
            return {"groups": [each.group_id for each in listed.valid]}
        case "describe-group", [group]:
            described = done(admin.describe_consumer_groups([group]))
            return {"state": described.state.name.capitalize(), "members": len(described.members)}
        case "group-offsets", [group]:
            found = done(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]))
            return {"offsets": [[each.topic, each.partition, each.offset] for each in found.topic_partitions]}
        case "delete-group", [group]:
            done(admin.delete_consumer_groups([group]))
            return {}
        case "delete-topic", [topic]:
            done(admin.delete_topics([topic]))
            return {}
        case _:
            sys.exit(f"unknown step {name} {args}")


def administrate(bootstrap, steps):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for text in steps:
        name, _, args = text.partition("=")
        say({"step": name, **step(admin, name, *(args.split(",") if args else []))})
