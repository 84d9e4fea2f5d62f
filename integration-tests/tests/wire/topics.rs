//! Rows that make, grow and delete topics: CreateTopics, CreatePartitions, DeleteTopics,
//! ListPartitionReassignments; and what topic ids promise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    ListPartitionReassignmentsRequest,
};
use ottla_integration_tests::unique;
use ottla_integration_tests::wire::Wire;
use uuid::Uuid;

use crate::requests::{
    NONE, Topic, batch, bounds, creatable, create, create_one, create_request, describe, fetch,
    fetch_request, fetched, list, newest, produce, stored, topic_name, try_produce,
};
use crate::{DEFAULT_PARTITIONS, Stage, started};

fn created(result: &CreatableTopicResult, version: i16, partitions: i32, own: &[(&str, &str)]) {
    assert_eq!(result.error_code, NONE, "{:?}", result.error_message);
    assert_eq!(result.error_message, None);
    assert_eq!(result.topic_id.is_nil(), version < 7);
    if version < 5 {
        assert_eq!((result.num_partitions, result.replication_factor), (-1, -1));
        return;
    }
    assert_eq!(
        (result.num_partitions, result.replication_factor),
        (partitions, 1)
    );
    assert_eq!(result.topic_config_error_code, NONE);
    let configs = result.configs.as_ref().expect("configs since 5");
    assert_eq!(configs.len(), 33, "all of them, not only the topic's own");
    let source = |name: &str| {
        if own.iter().any(|(key, _)| *key == name) {
            1
        } else {
            5
        }
    };
    let by_name: BTreeMap<&str, Option<&str>> = configs
        .iter()
        .map(|config| {
            assert_eq!(
                config.config_source,
                source(&config.name),
                "{}",
                config.name
            );
            assert!(!config.read_only && !config.is_sensitive);
            (config.name.as_str(), config.value.as_deref())
        })
        .collect();
    for (name, value) in [
        &[
            ("min.insync.replicas", "1"),
            ("compression.type", "producer"),
        ],
        own,
    ]
    .concat()
    {
        assert_eq!(by_name[name], Some(value), "{name}");
    }
}

fn partitions_of(wire: &mut Wire, name: &str) -> usize {
    let topic = describe(wire, name);
    assert_eq!(topic.error_code, NONE, "{name}");
    topic.partitions.len()
}

fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> CreatableTopic {
    let assignment = |(partition, brokers): &(i32, &[i32])| {
        CreatableReplicaAssignment::default()
            .with_partition_index(*partition)
            .with_broker_ids(brokers.iter().copied().map(BrokerId).collect())
    };
    creatable(name, -1, &[]).with_assignments(assignments.iter().map(assignment).collect())
}

pub fn create_topics_succeeds(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    // Partitions and replication factor left to the broker.
    let name = unique("default");
    let result = create_one(wire, version, creatable(&name, -1, &[]));
    assert_eq!(result.name, topic_name(&name));
    created(&result, version, DEFAULT_PARTITIONS, &[]);
    let described = describe(wire, &name);
    assert_eq!(described.partitions.len(), DEFAULT_PARTITIONS as usize);
    if version >= 7 {
        assert_eq!(result.topic_id, described.topic_id);
    }
    // Given ones, and configs.
    let name = unique("given");
    let configs = [("cleanup.policy", "compact"), ("max.message.bytes", "2000")];
    let result = create_one(
        wire,
        version,
        creatable(&name, 5, &configs).with_replication_factor(1),
    );
    created(&result, version, 5, &configs);
    assert_eq!(partitions_of(wire, &name), 5);
    // A manual assignment.
    let name = unique("assigned");
    let result = create_one(wire, version, assigned(&name, &[(1, &[1]), (0, &[1])]));
    created(&result, version, 2, &[]);
    assert_eq!(partitions_of(wire, &name), 2);
    // A rehearsal answers the same and leaves nothing.
    let name = unique("rehearsed");
    for _ in 0..2 {
        let request = create_request(vec![creatable(&name, 4, &configs)]).with_validate_only(true);
        let response = wire.ask(version, &request);
        assert_eq!(response.throttle_time_ms, 0);
        let result = &response.topics[0];
        assert_eq!(result.error_code, NONE);
        if version >= 5 {
            assert_eq!((result.num_partitions, result.replication_factor), (4, 1));
        }
        assert_eq!(describe(wire, &name).error_code, 3);
    }
}

pub fn create_topics_fails(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let taken = create(wire, 1, &[]);
    let dotted = unique("a.b");
    assert_eq!(
        create_one(wire, version, creatable(&dotted, 1, &[])).error_code,
        NONE
    );
    let fresh = unique("fresh");
    let refusals = [
        ("a taken name", creatable(&taken.name, 1, &[]), 36),
        ("a bad name", creatable("not a name", 1, &[]), 17),
        ("no name", creatable("", 1, &[]), 17),
        (
            "a colliding name",
            creatable(&dotted.replace('.', "_"), 1, &[]),
            17,
        ),
        ("no partitions", creatable(&fresh, 0, &[]), 37),
        ("fewer than none", creatable(&fresh, -2, &[]), 37),
        (
            "more replicas than brokers",
            creatable(&fresh, 1, &[]).with_replication_factor(2),
            38,
        ),
        (
            "no replicas",
            creatable(&fresh, 1, &[]).with_replication_factor(0),
            38,
        ),
        (
            "an unknown config",
            creatable(&fresh, 1, &[("no.such", "1")]),
            40,
        ),
        (
            "a bad value",
            creatable(&fresh, 1, &[("retention.ms", "soon")]),
            40,
        ),
        (
            "an assignment to nobody",
            assigned(&fresh, &[(0, &[9])]),
            39,
        ),
        (
            "an assignment with a gap",
            assigned(&fresh, &[(0, &[1]), (2, &[1])]),
            39,
        ),
        (
            "an assignment and a count",
            assigned(&fresh, &[(0, &[1])]).with_num_partitions(1),
            42,
        ),
        (
            "more partitions than a request may make",
            creatable(&fresh, 10_001, &[]),
            44,
        ),
    ];
    for (what, topic, error) in refusals {
        let name = topic.name.clone();
        let result = create_one(wire, version, topic);
        assert_eq!(
            result.error_code, error,
            "{what}: {:?}",
            result.error_message
        );
        assert_eq!(result.name, name);
        assert!(
            result
                .error_message
                .is_some_and(|message| !message.is_empty()),
            "{what}"
        );
        assert_eq!(result.topic_id, Uuid::nil());
    }
    // A topic named twice is refused once; the others of the request are made.
    let other = unique("other");
    let topics = vec![
        creatable(&fresh, 1, &[]),
        creatable(&other, 1, &[]),
        creatable(&fresh, 2, &[]),
    ];
    let response = wire.ask(version, &create_request(topics));
    let mut errors: Vec<_> = response
        .topics
        .iter()
        .map(|topic| (topic.name.to_string(), topic.error_code))
        .collect();
    errors.sort();
    assert_eq!(errors, [(fresh.clone(), 42), (other, NONE)]);
    assert_eq!(describe(wire, &fresh).error_code, 3);
}

fn delete(wire: &mut Wire, version: i16, names: &[&str]) -> Vec<DeletableTopicResult> {
    let request = DeleteTopicsRequest::default().with_timeout_ms(10_000);
    let names = names.iter().map(|name| topic_name(name));
    let request = if version >= 6 {
        let by_name = |name| DeleteTopicState::default().with_name(Some(name));
        request.with_topics(names.map(by_name).collect())
    } else {
        request.with_topic_names(names.collect())
    };
    let response = wire.ask(version, &request);
    assert_eq!(response.throttle_time_ms, 0);
    response.responses
}

fn delete_by_id(wire: &mut Wire, version: i16, id: Uuid) -> DeletableTopicResult {
    let topic = DeleteTopicState::default()
        .with_name(None)
        .with_topic_id(id);
    let request = DeleteTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000);
    wire.ask(version, &request).responses.remove(0)
}

pub fn delete_topics_succeeds(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topics = [create(wire, 2, &[]), create(wire, 1, &[])];
    produce(wire, &topics[0], 1, batch(&["gone"]));
    let names = [topics[0].name.as_str(), topics[1].name.as_str()];
    let mut results = delete(wire, version, &names);
    results.sort_by(|a, b| a.name.cmp(&b.name));
    for (result, topic) in results.iter().zip(&topics) {
        assert_eq!(
            (result.error_code, &result.name),
            (NONE, &Some(topic_name(&topic.name)))
        );
        assert_eq!(result.error_message, None);
        assert_eq!(
            result.topic_id,
            if version >= 6 { topic.id } else { Uuid::nil() }
        );
        assert_eq!(describe(wire, &topic.name).error_code, 3);
        assert_eq!(fetch(wire, topic, 0, 0).error_code, 100);
        assert_eq!(
            try_produce(wire, topic, 0, batch(&["late"])).error_code,
            100
        );
    }
    if version >= 6 {
        let topic = create(wire, 1, &[]);
        let result = delete_by_id(wire, version, topic.id);
        assert_eq!((result.error_code, result.topic_id), (NONE, topic.id));
        assert_eq!(result.name, Some(topic_name(&topic.name)));
        assert_eq!(describe(wire, &topic.name).error_code, 3);
    }
}

pub fn delete_topics_fails(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let explained = |result: &DeletableTopicResult| {
        assert_eq!(
            result
                .error_message
                .as_ref()
                .is_some_and(|text| !text.is_empty()),
            version >= 5
        );
    };
    let absent = unique("absent");
    let result = delete(wire, version, &[&absent]).remove(0);
    assert_eq!(
        (result.error_code, &result.name),
        (3, &Some(topic_name(&absent)))
    );
    explained(&result);
    let twice = create(wire, 1, &[]);
    let results = delete(wire, version, &[&twice.name, &twice.name]);
    assert_eq!((results.len(), results[0].error_code), (1, 42));
    explained(&results[0]);
    assert_eq!(
        describe(wire, &twice.name).error_code,
        NONE,
        "it is still there"
    );
    if version >= 6 {
        let unknown = Topic::unknown().id;
        let result = delete_by_id(wire, version, unknown);
        assert_eq!(
            (result.error_code, &result.name, result.topic_id),
            (100, &None, unknown)
        );
        explained(&result);
        assert_eq!(
            delete_by_id(wire, version, Uuid::nil()).error_code,
            42,
            "neither name nor id"
        );
    }
}

fn grow(
    wire: &mut Wire,
    version: i16,
    name: &str,
    count: i32,
    validate_only: bool,
) -> CreatePartitionsTopicResult {
    let topic = CreatePartitionsTopic::default()
        .with_name(topic_name(name))
        .with_count(count)
        .with_assignments(None);
    let request = CreatePartitionsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000)
        .with_validate_only(validate_only);
    let mut response = wire.ask(version, &request);
    assert_eq!((response.throttle_time_ms, response.results.len()), (0, 1));
    let result = response.results.remove(0);
    assert_eq!(result.name, topic_name(name));
    result
}

pub fn create_partitions_succeeds(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topic = create(wire, 2, &[]);
    produce(wire, &topic, 1, batch(&["kept"]));
    assert_eq!(grow(wire, version, &topic.name, 4, true).error_code, NONE);
    assert_eq!(partitions_of(wire, &topic.name), 2, "a rehearsal");
    let result = grow(wire, version, &topic.name, 4, false);
    assert_eq!((result.error_code, result.error_message), (NONE, None));
    assert_eq!(partitions_of(wire, &topic.name), 4);
    assert_eq!(produce(wire, &topic, 3, batch(&["new"])), 0);
    assert_eq!(stored(wire, &topic, 1), ["kept"]);
    assert_eq!(
        describe(wire, &topic.name).topic_id,
        topic.id,
        "it is the same topic"
    );
}

pub fn create_partitions_fails(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topic = create(wire, 2, &[]);
    let absent = unique("absent");
    for (name, count, error) in [
        (&absent, 2, 3),
        (&topic.name, 2, 37),
        (&topic.name, 1, 37),
        (&topic.name, -1, 37),
    ] {
        let result = grow(wire, version, name, count, false);
        assert_eq!(
            result.error_code, error,
            "{name} {count}: {:?}",
            result.error_message
        );
        assert!(
            result
                .error_message
                .is_some_and(|message| !message.is_empty())
        );
    }
    assert_eq!(partitions_of(wire, &topic.name), 2);
}

pub fn list_reassignments_succeeds(stage: &mut Stage, version: i16) {
    let topic = create(&mut stage.wire, 1, &[]);
    let named = ListPartitionReassignmentsTopics::default()
        .with_name(topic_name(&topic.name))
        .with_partition_indexes(vec![0]);
    for topics in [None, Some(vec![named])] {
        let request = ListPartitionReassignmentsRequest::default().with_topics(topics);
        let response = stage.wire.ask(version, &request);
        assert_eq!((response.throttle_time_ms, response.error_code), (0, NONE));
        assert_eq!((response.error_message, response.topics.len()), (None, 0));
    }
}

#[test]
fn a_topic_made_again_has_another_id_and_none_of_the_old_records() {
    let (_folder, mut broker, mut wire) = started("wire-again", &[]);
    let old = create(&mut wire, 1, &[("max.message.bytes", "100000")]);
    produce(&mut wire, &old, 0, batch(&["old"]));
    assert_eq!(
        delete(&mut wire, newest::<DeleteTopicsRequest>(), &[&old.name])[0].error_code,
        NONE
    );
    let again = create_one(
        &mut wire,
        newest::<CreateTopicsRequest>(),
        creatable(&old.name, 1, &[]),
    );
    created(&again, 7, 1, &[]);
    assert_ne!(again.topic_id, old.id);
    let new = Topic {
        name: old.name.clone(),
        id: again.topic_id,
    };
    assert_eq!(bounds(&mut wire, &new, 0), (0, 0));
    assert_eq!(
        try_produce(&mut wire, &old, 0, batch(&["stale"])).error_code,
        100
    );
    assert_eq!(fetch(&mut wire, &old, 0, 0).error_code, 100);
    assert_eq!(produce(&mut wire, &new, 0, batch(&["new"])), 0);

    broker.kill9();
    broker.restart();
    let mut wire = Wire::connect(&broker);
    assert_eq!(
        describe(&mut wire, &new.name).topic_id,
        new.id,
        "ids outlive a crash"
    );
    assert_eq!(stored(&mut wire, &new, 0), ["new"]);
    assert_eq!(fetch(&mut wire, &old, 0, 0).error_code, 100);
}

/// Whoever uses a topic while it goes hears of it by an error; the broker itself has nothing to complain about.
#[test]
fn topics_come_and_go_under_those_who_use_them() {
    let (_folder, broker, mut wire) = started("wire-come-and-go", &[]);
    let name = unique("wire");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for kind in 0..4 {
            let mut wire = Wire::connect(&broker);
            let (name, done) = (&name, &done);
            scope.spawn(move || {
                let mut heard = BTreeSet::new();
                while !done.load(Ordering::Relaxed) {
                    let id = describe(&mut wire, name).topic_id;
                    let topic = Topic {
                        name: name.clone(),
                        id,
                    };
                    heard.insert(match kind {
                        0 => try_produce(&mut wire, &topic, 0, batch(&["x"])).error_code,
                        1 => fetch(&mut wire, &topic, 0, 0).error_code,
                        2 => list(&mut wire, 10, &topic, 0, 0).error_code,
                        _ => {
                            let request = fetch_request(18, &[(&topic, 0, 0)])
                                .with_max_wait_ms(5)
                                .with_min_bytes(1 << 20);
                            fetched(wire.ask(18, &request)).error_code
                        }
                    });
                }
                // Not the leader (any more), unknown by name, unknown by id: a client asks for the topic anew.
                assert!(
                    heard.iter().all(|error| [NONE, 3, 6, 100].contains(error)),
                    "{heard:?}"
                );
            });
        }
        for _ in 0..50 {
            let version = newest::<CreateTopicsRequest>();
            let result = create_one(&mut wire, version, creatable(&name, 1, &[]));
            assert_eq!(result.error_code, NONE, "{:?}", result.error_message);
            let topic = Topic {
                name: name.clone(),
                id: result.topic_id,
            };
            assert_eq!(
                try_produce(&mut wire, &topic, 0, batch(&["y"])).error_code,
                NONE
            );
            let version = newest::<DeleteTopicsRequest>();
            assert_eq!(delete(&mut wire, version, &[&name])[0].error_code, NONE);
        }
        done.store(true, Ordering::Relaxed);
    });
}
