"""Produces, joins groups and administrates with aiokafka, JSON lines in and out.

usage: client.py produce BOOTSTRAP TOPIC [setting=value ...]      records on stdin, one acknowledgement a line out
       client.py member BOOTSTRAP TOPIC GROUP COMMIT [setting=value ...]   COMMIT: each, none, or a number of records
       client.py admin BOOTSTRAP STEP ...                         STEP: name or name=argument,...

Settings go to the client as they are; numbers and true and false are understood.
"""

import asyncio
import json
import signal
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from lines import Commits, decode, encode, event, records_in, say, settings_of


def typed(settings):
    def value_of(text):
        try:
            return json.loads(text)
        except ValueError:
            return text

    return {name: value_of(text) for name, text in settings_of(settings).items()}


async def produce(bootstrap, topic, settings):
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, **typed(settings)) as producer:
        sent = [
            (line, await producer.send(topic, key=encode(record["key"]), value=encode(record["value"])))
            for line, record in records_in()
        ]
        for line, future in sent:
            place = await future
            say({"line": line, "partition": place.partition, "offset": place.offset})


class Told(ConsumerRebalanceListener):
    async def on_partitions_assigned(self, assigned):
        event("assigned", partitions=[each.partition for each in assigned])

    async def on_partitions_revoked(self, revoked):
        event("revoked", partitions=[each.partition for each in revoked])


async def member(bootstrap, topic, group, commit, settings):
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        session_timeout_ms=6000,
        heartbeat_interval_ms=500,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        **typed(settings),
    )
    consumer.subscribe([topic], listener=Told())
    await consumer.start()
    commits = Commits(commit)
    while not stop.is_set():
        for messages in (await consumer.getmany(timeout_ms=100)).values():
            for each in messages:
                event("record", partition=each.partition, offset=each.offset, key=decode(each.key), value=decode(each.value))
                commits.read(each.partition, each.offset)
        due = commits.take()
        if due:
            try:
                await consumer.commit({TopicPartition(topic, partition): offset for partition, offset in due.items()})
            except KafkaError as error:
                # The group has moved on: what was read comes again to whoever has the partition now.
                print(f"not committed: {error!r}", file=sys.stderr)
                continue
            for partition, offset in due.items():
                event("committed", partition=partition, offset=offset)
    event("leaving")
    await consumer.stop()
    event("left")


def checked(response):
    """Raises on the error codes of an answer to creating, growing or deleting topics, or to altering configs."""
    plain = response.to_object()
    for results in plain.values():
        for each in results if isinstance(results, list) else []:
            if each["error_code"] != 0:
                raise RuntimeError(f"{plain}")
    return plain


async def configs(admin, kind, name):
    """Every configuration key of a resource with its value."""
    (response,) = await admin.describe_configs([ConfigResource(kind, name)])
    (described,) = checked(response)["resources"]
    return {entry["config_names"]: entry["config_value"] for entry in described["config_entries"]}


async def step(admin, name, *args):
    match name, args:
        case "create-topic", [topic, partitions]:
            checked(await admin.create_topics([NewTopic(topic, int(partitions), 1)]))
            return {}
        case "list-topics", []:
            return {"topics": await admin.list_topics()}
        case "describe-topic", [topic]:
            (described,) = await admin.describe_topics([topic])
            return {"partitions": len(described["partitions"])}
        case "grow-topic", [topic, partitions]:
            checked(await admin.create_partitions({topic: NewPartitions(int(partitions))}))
            return {}
        case "alter-config-whole", [topic, key, value]:
            resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={key: value})
            for response in await admin.alter_configs([resource]):
                checked(response)
            return {}
        case "describe-config", [topic]:
            return {"configs": await configs(admin, ConfigResourceType.TOPIC, topic)}
        case "broker-config", []:
            node = (await admin.describe_cluster())["controller_id"]
            return {"configs": await configs(admin, ConfigResourceType.BROKER, str(node))}
        case "list-groups", []:
            return {"groups": [each[0] for each in await admin.list_consumer_groups()]}
        case "describe-group", [group]:
            (response,) = await admin.describe_consumer_groups([group])
            (described,) = response.to_object()["groups"]
            return {"state": described["state"], "members": len(described["members"])}
        case "group-offsets", [group]:
            found = await admin.list_consumer_group_offsets(group)
            return {"offsets": sorted([tp.topic, tp.partition, each.offset] for tp, each in found.items())}
        case "delete-topic", [topic]:
            checked(await admin.delete_topics([topic]))
            return {}
        case _:
            sys.exit(f"unknown step {name} {args}")


async def administrate(bootstrap, steps):
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        for text in steps:
            name, _, args = text.partition("=")
            say({"step": name, **await step(admin, name, *(args.split(",") if args else []))})
    finally:
        await admin.close()


match sys.argv[1:]:
    case ["produce", bootstrap, topic, *settings]:
        asyncio.run(produce(bootstrap, topic, settings))
    case ["member", bootstrap, topic, group, commit, *settings]:
        asyncio.run(member(bootstrap, topic, group, commit, settings))
    case ["admin", bootstrap, *steps] if steps:
        asyncio.run(administrate(bootstrap, steps))
    case _:
        sys.exit(__doc__)
