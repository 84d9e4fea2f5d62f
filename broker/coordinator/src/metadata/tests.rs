use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::script::Script;

const BROKER: i32 = 1;

fn id(value: u128) -> Uuid {
    Uuid::from_u128(value)
}

fn registered() -> Script<MetadataMachine> {
    let mut script = Script::new(MetadataMachine::default());
    register(&mut script, BROKER, false);
    script
}

fn register(script: &mut Script<MetadataMachine>, broker_id: i32, unclean: bool) -> i64 {
    let incarnation = id(script.log.len() as u128 + 1_000);
    match script.ask(Command::RegisterBroker {
        broker_id,
        incarnation,
        unclean,
    }) {
        Reply::BrokerRegistered { epoch } => *epoch,
        other => panic!("{other:?}"),
    }
}

fn create(name: &str, topic_id: u128, num_partitions: i32) -> Command {
    Command::CreateTopic {
        name: name.to_owned(),
        id: id(topic_id),
        partitions: None,
        num_partitions,
        replication_factor: -1,
        configs: BTreeMap::new(),
        validate_only: false,
    }
}

fn create_assigned(
    assignments: Vec<Vec<i32>>,
    num_partitions: i32,
    replication_factor: i16,
) -> Command {
    Command::CreateTopic {
        name: "assigned".to_owned(),
        id: id(77),
        partitions: Some(assignments),
        num_partitions,
        replication_factor,
        configs: BTreeMap::new(),
        validate_only: false,
    }
}

fn add_partitions(name: &str, new_count: i32, assignments: Option<Vec<Vec<i32>>>) -> Command {
    Command::CreatePartitions {
        name: name.to_owned(),
        new_count,
        assignments,
        validate_only: false,
    }
}

/// A change by somebody who saw the present configuration.
fn alter(
    script: &Script<MetadataMachine>,
    resource: ConfigResource,
    changes: &[(&str, Option<&str>)],
) -> Command {
    Command::AlterConfigs {
        seen: script.machine.image().resource_configs(&resource),
        resource,
        changes: changes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
            .collect(),
        validate_only: false,
    }
}

fn change(topic_id: u128, expected_partition_epoch: i32, leader: i32, isr: &[i32]) -> Command {
    Command::ChangePartition {
        topic_id: id(topic_id),
        partition: 0,
        expected_partition_epoch,
        leader,
        isr: isr.to_vec(),
    }
}

fn error(reply: &Reply) -> &MetadataError {
    match reply {
        Reply::Failed(error) => error,
        other => panic!("{other:?} is not an error"),
    }
}

#[test]
fn a_topic_is_created_with_its_partitions_led_by_the_only_broker() {
    let mut script = registered();
    let reply = script.ask(create("orders", 5, 3));
    assert_eq!(
        *reply,
        Reply::TopicCreated {
            id: id(5),
            num_partitions: 3,
            replication_factor: 1
        }
    );
    let image = script.machine.image();
    let topic = image.topic("orders").unwrap();
    let expected = Partition {
        replicas: vec![BROKER],
        isr: vec![BROKER],
        leader: BROKER,
        leader_epoch: 0,
        partition_epoch: 0,
    };
    assert_eq!(topic.partitions, vec![expected; 3]);
    assert_eq!(image.topic_by_id(&id(5)), Some(topic));
    assert_eq!(image.partition_count(), 3);
}

#[test]
fn minus_one_means_one_partition_and_one_replica() {
    let mut script = registered();
    let reply = script.ask(create("orders", 5, -1));
    assert!(matches!(
        reply,
        Reply::TopicCreated {
            num_partitions: 1,
            replication_factor: 1,
            ..
        }
    ));
}

#[test]
fn a_topic_name_is_taken_once_and_its_collisions_are_refused() {
    let mut script = registered();
    script.ask(create("a.b", 5, 1));
    let again = script.ask(create("a.b", 6, 1));
    assert_eq!(error(again).to_string(), "Topic 'a.b' already exists.");
    let collision = script.ask(create("a_b", 7, 1));
    assert_eq!(
        *error(collision),
        MetadataError::InvalidTopicName("Topic 'a_b' collides with existing topic: a.b".to_owned())
    );
    assert!(matches!(
        script.ask(create("a-b", 8, 1)),
        Reply::TopicCreated { .. }
    ));
    assert!(matches!(
        error(script.ask(create("a/b", 9, 1))),
        MetadataError::InvalidTopicName(_)
    ));
}

#[test]
fn internal_topics_may_be_created_and_the_metadata_topic_may_not() {
    let mut script = registered();
    assert!(matches!(
        script.ask(create(topic_name::CONSUMER_OFFSETS, 5, 50)),
        Reply::TopicCreated { .. }
    ));
    assert!(matches!(
        error(script.ask(create(topic_name::CLUSTER_METADATA, 6, 1))),
        MetadataError::InvalidRequest(_)
    ));
}

#[test]
fn a_topic_id_is_never_shared_nor_reserved() {
    let mut script = registered();
    script.ask(create("a", 5, 1));
    for taken in [0, 1, 5] {
        assert!(matches!(
            error(script.ask(create("b", taken, 1))),
            MetadataError::InvalidRequest(_)
        ));
    }
}

#[test]
fn numbers_of_partitions_and_replicas_have_bounds() {
    let mut script = registered();
    for bad in [0, -2, i32::MIN] {
        assert!(matches!(
            error(script.ask(create("a", 5, bad))),
            MetadataError::InvalidPartitions(_)
        ));
    }
    for too_many in [10_001, i32::MAX] {
        assert!(matches!(
            error(script.ask(create("a", 5, too_many))),
            MetadataError::PolicyViolation(_)
        ));
    }
    for bad in [0, -2, 2, i16::MAX] {
        let command = Command::CreateTopic {
            name: "a".to_owned(),
            id: id(5),
            partitions: None,
            num_partitions: 1,
            replication_factor: bad,
            configs: BTreeMap::new(),
            validate_only: false,
        };
        assert!(matches!(
            error(script.ask(command)),
            MetadataError::InvalidReplicationFactor(_)
        ));
    }
}

#[test]
fn an_assignment_excludes_the_two_numbers_and_names_known_brokers() {
    let mut script = registered();
    for (partitions, replication) in [(1, -1), (-1, 1)] {
        let reply = script.ask(create_assigned(vec![vec![BROKER]], partitions, replication));
        assert!(matches!(error(reply), MetadataError::InvalidRequest(_)));
    }
    for bad in [vec![], vec![vec![]], vec![vec![2]], vec![vec![1, 1]]] {
        let reply = script.ask(create_assigned(bad, -1, -1));
        assert!(matches!(
            error(reply),
            MetadataError::InvalidReplicaAssignment(_)
        ));
    }
    let reply = script.ask(create_assigned(vec![vec![BROKER], vec![BROKER]], -1, -1));
    assert!(matches!(
        reply,
        Reply::TopicCreated {
            num_partitions: 2,
            ..
        }
    ));
}

#[test]
fn validate_only_answers_and_writes_nothing() {
    let mut script = registered();
    script.ask(create("a", 5, 1));
    let before = script.log.len();
    let create = Command::CreateTopic {
        name: "b".to_owned(),
        id: id(6),
        partitions: None,
        num_partitions: 2,
        replication_factor: 1,
        configs: BTreeMap::new(),
        validate_only: true,
    };
    assert!(matches!(
        script.ask(create),
        Reply::TopicCreated {
            num_partitions: 2,
            ..
        }
    ));
    let grow = Command::CreatePartitions {
        name: "a".to_owned(),
        new_count: 2,
        assignments: None,
        validate_only: true,
    };
    assert_eq!(*script.ask(grow), Reply::PartitionsCreated);
    let alter = Command::AlterConfigs {
        resource: ConfigResource::Topic("a".to_owned()),
        changes: vec![("retention.ms".to_owned(), Some("1".to_owned()))],
        seen: Arc::default(),
        validate_only: true,
    };
    assert_eq!(*script.ask(alter), Reply::Done);
    assert_eq!(script.log.len(), before);
}

#[test]
fn a_deleted_topic_takes_its_configuration_along() {
    let mut script = registered();
    let mut with_configs = create("a", 5, 2);
    if let Command::CreateTopic { configs, .. } = &mut with_configs {
        configs.insert("cleanup.policy".to_owned(), "compact".to_owned());
    }
    script.ask(with_configs);
    assert_eq!(script.machine.image().topic_configs("a").len(), 1);

    let by_unknown_id = Command::DeleteTopic {
        topic: TopicRef::Id(id(6)),
    };
    assert_eq!(
        *error(script.ask(by_unknown_id)),
        MetadataError::UnknownTopicId
    );
    let by_id = Command::DeleteTopic {
        topic: TopicRef::Id(id(5)),
    };
    let deleted = Reply::TopicDeleted {
        id: id(5),
        name: "a".to_owned(),
    };
    assert_eq!(*script.ask(by_id), deleted);
    let by_name = Command::DeleteTopic {
        topic: TopicRef::Name("a".to_owned()),
    };
    assert_eq!(
        *error(script.ask(by_name)),
        MetadataError::UnknownTopicOrPartition
    );

    script.ask(create("a", 8, 1));
    assert!(script.machine.image().topic_configs("a").is_empty());
}

#[test]
fn partitions_are_added_behind_the_others() {
    let mut script = registered();
    script.ask(create("a", 5, 2));
    assert_eq!(
        *script.ask(add_partitions("a", 4, None)),
        Reply::PartitionsCreated
    );
    assert_eq!(
        *script.ask(add_partitions("a", 5, Some(vec![vec![BROKER]]))),
        Reply::PartitionsCreated
    );
    assert_eq!(
        script.machine.image().topic("a").unwrap().partitions.len(),
        5
    );

    assert_eq!(
        error(script.ask(add_partitions("a", 5, None))).to_string(),
        "Topic already has 5 partition(s)."
    );
    assert_eq!(
        error(script.ask(add_partitions("a", -1, None))).to_string(),
        "The topic a currently has 5 partition(s); -1 would not be an increase."
    );
    assert_eq!(
        *error(script.ask(add_partitions("b", 5, None))),
        MetadataError::UnknownTopicOrPartition
    );
    for bad in [vec![], vec![vec![BROKER]], vec![vec![BROKER], vec![2]]] {
        let reply = script.ask(add_partitions("a", 7, Some(bad)));
        assert!(matches!(
            error(reply),
            MetadataError::InvalidReplicaAssignment(_)
        ));
    }
    assert!(matches!(
        error(script.ask(add_partitions("a", i32::MAX, None))),
        MetadataError::PolicyViolation(_)
    ));
}

#[test]
fn broker_epochs_rise_at_every_start_and_an_unclean_one_raises_leader_epochs() {
    let mut script = registered();
    script.ask(create("a", 5, 1));
    assert_eq!(register(&mut script, BROKER, false), 2);
    let epochs = |script: &Script<MetadataMachine>| {
        let partition = &script.machine.image().topic("a").unwrap().partitions[0];
        (partition.leader_epoch, partition.partition_epoch)
    };
    assert_eq!(epochs(&script), (0, 0));
    assert_eq!(register(&mut script, BROKER, true), 3);
    assert_eq!(epochs(&script), (1, 1));
    assert_eq!(register(&mut script, 2, true), 1);
    assert_eq!(epochs(&script), (1, 1), "led by another broker");
}

#[test]
fn producer_id_blocks_do_not_overlap_and_need_the_present_epoch() {
    let mut script = registered();
    let allocate = |broker_epoch, count| Command::AllocateProducerIds {
        broker_id: BROKER,
        broker_epoch,
        count,
    };
    assert_eq!(
        *script.ask(allocate(1, 1_000)),
        Reply::ProducerIds {
            first: 0,
            count: 1_000
        }
    );
    assert_eq!(
        *script.ask(allocate(1, 10)),
        Reply::ProducerIds {
            first: 1_000,
            count: 10
        }
    );
    assert!(matches!(
        error(script.ask(allocate(1, 0))),
        MetadataError::InvalidRequest(_)
    ));
    register(&mut script, BROKER, false);
    assert_eq!(
        *error(script.ask(allocate(1, 10))),
        MetadataError::StaleBrokerEpoch
    );

    script.machine.replay(&MetadataRecord::ProducerIds {
        broker_id: BROKER,
        broker_epoch: 2,
        next_producer_id: i64::MAX,
    });
    assert_eq!(
        *error(script.ask(allocate(2, 1))),
        MetadataError::ProducerIdsExhausted
    );
}

#[test]
fn configs_are_set_and_removed_and_only_changes_are_written() {
    let mut script = registered();
    script.ask(create("a", 5, 1));
    let topic = || ConfigResource::Topic("a".to_owned());
    script.ask(alter(
        &script,
        topic(),
        &[
            ("retention.ms", Some("1")),
            ("cleanup.policy", Some("compact")),
        ],
    ));
    let before = script.log.len();
    script.ask(alter(
        &script,
        topic(),
        &[("retention.ms", Some("1")), ("flush.ms", None)],
    ));
    assert_eq!(script.log.len(), before);
    script.ask(alter(&script, topic(), &[("retention.ms", None)]));
    let configs = script.machine.image().topic_configs("a");
    assert_eq!(configs.keys().collect::<Vec<_>>(), ["cleanup.policy"]);

    let unknown = ConfigResource::Topic("b".to_owned());
    assert_eq!(
        *error(script.ask(alter(&script, unknown, &[]))),
        MetadataError::UnknownTopicOrPartition
    );
    let no_broker = ConfigResource::Broker("x".to_owned());
    assert!(matches!(
        error(script.ask(alter(&script, no_broker, &[]))),
        MetadataError::InvalidRequest(_)
    ));
    let twice = alter(
        &script,
        topic(),
        &[("flush.ms", Some("1")), ("flush.ms", None)],
    );
    assert!(matches!(
        error(script.ask(twice)),
        MetadataError::InvalidRequest(_)
    ));
}

#[test]
fn a_configuration_changes_only_from_the_state_the_caller_has_seen() {
    let mut script = registered();
    let all = || ConfigResource::Broker(String::new());
    let first = alter(&script, all(), &[("message.max.bytes", Some("5"))]);
    let second = alter(&script, all(), &[("message.max.bytes", Some("6"))]);
    assert_eq!(*script.ask(first), Reply::Done);
    let before = script.log.len();
    assert_eq!(*error(script.ask(second)), MetadataError::ConfigsChanged);
    assert_eq!(script.log.len(), before);
    let again = alter(&script, all(), &[("message.max.bytes", Some("6"))]);
    assert_eq!(*script.ask(again), Reply::Done);
    let configs = script.machine.image().resource_configs(&all());
    assert_eq!(configs["message.max.bytes"], "6");
}

#[test]
fn a_partition_changes_only_from_the_state_the_caller_has_seen() {
    let mut script = registered();
    register(&mut script, 2, false);
    let mut command = create_assigned(vec![vec![1, 2]], -1, -1);
    if let Command::CreateTopic { id: topic_id, .. } = &mut command {
        *topic_id = id(5);
    }
    script.ask(command);
    let state = |script: &Script<MetadataMachine>| {
        let partition = &script
            .machine
            .image()
            .topic_by_id(&id(5))
            .unwrap()
            .partitions[0];
        (
            partition.leader,
            partition.leader_epoch,
            partition.partition_epoch,
        )
    };

    script.ask(change(5, 0, 1, &[1]));
    assert_eq!(
        state(&script),
        (1, 0, 1),
        "the leader stays, so does its epoch"
    );
    assert_eq!(
        *error(script.ask(change(5, 0, 1, &[1, 2]))),
        MetadataError::InvalidUpdateVersion
    );
    script.ask(change(5, 1, 2, &[1, 2]));
    assert_eq!(state(&script), (2, 1, 2));
    script.ask(change(5, 2, NO_LEADER, &[1, 2]));
    assert_eq!(state(&script), (NO_LEADER, 2, 3));

    assert_eq!(
        *error(script.ask(change(6, 0, 1, &[1]))),
        MetadataError::UnknownTopicId
    );
    for (leader, isr) in [(1, &[][..]), (1, &[1, 1]), (1, &[3]), (1, &[2])] {
        let reply = script.ask(change(5, 3, leader, isr));
        assert!(matches!(error(reply), MetadataError::InvalidRequest(_)));
    }
}

#[test]
fn features_are_finalized_and_removed() {
    let mut script = registered();
    let set = |level| Command::SetFeature {
        name: "transaction.version".to_owned(),
        level,
    };
    assert_eq!(*script.ask(set(2)), Reply::Done);
    assert_eq!(
        script.machine.image().features.get("transaction.version"),
        Some(&2)
    );
    assert_eq!(*script.ask(set(0)), Reply::Done);
    assert!(script.machine.image().features.is_empty());
    assert!(matches!(
        error(script.ask(set(-1))),
        MetadataError::InvalidRequest(_)
    ));
}

#[test]
#[should_panic(expected = "the metadata log contradicts itself")]
fn a_damaged_log_stops_the_machine() {
    MetadataMachine::default().replay(&MetadataRecord::RemoveTopic { topic_id: id(5) });
}

#[test]
fn a_record_that_does_not_fit_leaves_the_image_alone() {
    for seed in 0..2_000 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let script = run(&mut rng, 20);
        let mut image = script.machine.image().clone();
        let stray = script.log[rng.usize(..script.log.len())].clone();
        let before = image.clone();
        if image.apply(&stray).is_err() {
            assert_eq!(image, before, "seed {seed}, {stray:?}");
        }
    }
}

/// A command that succeeds about as often as it fails, over few names and ids.
fn random_command(rng: &mut fastrand::Rng, image: &Image) -> Command {
    let name = |rng: &mut fastrand::Rng| {
        let names = [
            "a",
            "b",
            "a.b",
            "a_b",
            "long-name",
            "__consumer_offsets",
            "__cluster_metadata",
            "no/name",
            "",
        ];
        names[rng.usize(..names.len())].to_owned()
    };
    let topic_id = |rng: &mut fastrand::Rng| id(rng.u128(..12));
    let broker_id = |rng: &mut fastrand::Rng| rng.i32(1..4);
    let replicas = |rng: &mut fastrand::Rng| -> Vec<i32> {
        (0..rng.usize(..3)).map(|_| broker_id(rng)).collect()
    };
    let assignments = |rng: &mut fastrand::Rng| {
        let given = rng.u8(..4) == 0;
        given.then(|| {
            (0..rng.usize(..4))
                .map(|_| replicas(rng))
                .collect::<Vec<_>>()
        })
    };
    let entry = |rng: &mut fastrand::Rng| {
        let name = ["retention.ms", "cleanup.policy", "flush.ms"][rng.usize(..3)];
        (name.to_owned(), rng.i32(0..5).to_string())
    };
    match rng.u8(..12) {
        0 => Command::RegisterBroker {
            broker_id: broker_id(rng),
            incarnation: id(rng.u128(..)),
            unclean: rng.bool(),
        },
        1..=3 => {
            let partitions = assignments(rng);
            let unset = partitions.is_some() && rng.u8(..4) > 0;
            Command::CreateTopic {
                name: name(rng),
                id: topic_id(rng),
                partitions,
                num_partitions: if unset { -1 } else { rng.i32(-2..6) },
                replication_factor: if unset { -1 } else { rng.i16(-2..4) },
                configs: (0..rng.usize(..3)).map(|_| entry(rng)).collect(),
                validate_only: rng.u8(..6) == 0,
            }
        }
        4 | 5 => Command::DeleteTopic {
            topic: if rng.bool() {
                TopicRef::Name(name(rng))
            } else {
                TopicRef::Id(topic_id(rng))
            },
        },
        6 => Command::CreatePartitions {
            name: name(rng),
            new_count: rng.i32(-1..8),
            assignments: assignments(rng),
            validate_only: rng.u8(..6) == 0,
        },
        7 => {
            let broker_id = broker_id(rng);
            let known = image
                .brokers
                .get(&broker_id)
                .map_or(0, |broker| broker.epoch);
            Command::AllocateProducerIds {
                broker_id,
                broker_epoch: known - i64::from(rng.u8(..4) == 0),
                count: rng.i32(-1..2_000),
            }
        }
        8 | 9 => {
            let resource = match rng.u8(..4) {
                0 => ConfigResource::Broker(["", "1", "x"][rng.usize(..3)].to_owned()),
                1 => ConfigResource::Group("g".to_owned()),
                _ => ConfigResource::Topic(name(rng)),
            };
            let change = |rng: &mut fastrand::Rng| {
                let (name, value) = entry(rng);
                (name, rng.bool().then_some(value))
            };
            let present = image.resource_configs(&resource);
            Command::AlterConfigs {
                resource,
                // One in eight saw something else.
                seen: if rng.u8(..8) == 0 {
                    Arc::default()
                } else {
                    present
                },
                changes: (0..rng.usize(..4)).map(|_| change(rng)).collect(),
                validate_only: rng.u8(..6) == 0,
            }
        }
        10 => {
            let topic_id = topic_id(rng);
            let known = image
                .topic_by_id(&topic_id)
                .and_then(|topic| topic.partitions.first());
            let isr = replicas(rng);
            Command::ChangePartition {
                topic_id,
                partition: rng.i32(-1..3),
                expected_partition_epoch: known.map_or(0, |partition| partition.partition_epoch),
                leader: isr
                    .first()
                    .copied()
                    .filter(|_| rng.bool())
                    .unwrap_or(NO_LEADER),
                isr,
            }
        }
        _ => Command::SetFeature {
            name: ["transaction.version", "group.version", ""][rng.usize(..3)].to_owned(),
            level: rng.i16(-1..4),
        },
    }
}

/// Runs random commands; checks after each what must hold at every moment.
fn run(rng: &mut fastrand::Rng, commands: usize) -> Script<MetadataMachine> {
    let mut script = registered();
    for _ in 0..commands {
        let before = script.machine.image().clone();
        let command = random_command(rng, &before);
        let asked = format!("{command:?}");
        let written = script.log.len();

        let mut unchanged = script.machine.clone();
        unchanged.handle(script.now, ReplyId(u64::MAX), command.clone());
        assert_eq!(
            unchanged.image(),
            &before,
            "handle changed hard state: {asked}"
        );

        let failed = matches!(script.ask(command), Reply::Failed(_));
        assert!(
            !failed || script.log.len() == written,
            "refused and yet written: {asked}"
        );
        check_image(script.machine.image(), &asked);
        check_epochs(&before, script.machine.image(), &asked);
        script.advance(rng.i64(0..100));
    }
    assert_eq!(script.waiting(), 0);
    script
}

fn check_image(image: &Image, asked: &str) {
    assert_eq!(image.names.len(), image.topics.len(), "{asked}");
    for (name, topic_id) in &image.names {
        let topic = image
            .topic_by_id(topic_id)
            .expect("every name has its topic");
        assert_eq!((&topic.name, &topic.id), (name, topic_id), "{asked}");
        assert!(!topic.partitions.is_empty(), "{asked}");
        for partition in &topic.partitions {
            assert!(
                partition
                    .isr
                    .iter()
                    .all(|id| partition.replicas.contains(id)),
                "{asked}"
            );
            let led = partition.leader == NO_LEADER || partition.isr.contains(&partition.leader);
            assert!(led && !partition.isr.is_empty(), "{asked}");
        }
    }
    for (resource, entries) in &image.configs {
        assert!(!entries.is_empty(), "{asked}");
        if let ConfigResource::Topic(name) = resource {
            assert!(image.names.contains_key(name.as_str()), "{asked}");
        }
    }
    let names: Vec<&str> = image.names.keys().map(|name| &**name).collect();
    for a in &names {
        assert!(!names.iter().any(|b| topic_name::collide(a, b)), "{asked}");
    }
}

fn check_epochs(before: &Image, after: &Image, asked: &str) {
    assert!(after.next_producer_id >= before.next_producer_id, "{asked}");
    for (broker_id, broker) in &before.brokers {
        assert!(after.brokers[broker_id].epoch >= broker.epoch, "{asked}");
    }
    for (topic_id, topic) in &before.topics {
        let Some(now) = after.topics.get(topic_id) else {
            continue;
        };
        assert!(now.partitions.len() >= topic.partitions.len(), "{asked}");
        for (old, new) in topic.partitions.iter().zip(&now.partitions) {
            assert!(new.leader_epoch >= old.leader_epoch, "{asked}");
            assert!(new.partition_epoch >= old.partition_epoch, "{asked}");
            assert!(
                new == old || new.partition_epoch == old.partition_epoch + 1,
                "{asked}"
            );
            assert!(
                new.leader == old.leader || new.leader_epoch == old.leader_epoch + 1,
                "{asked}"
            );
        }
    }
}

fn replayed<'a>(records: impl IntoIterator<Item = &'a MetadataRecord>) -> Image {
    let mut machine = MetadataMachine::default();
    for record in records {
        machine.replay(record);
    }
    machine.image
}

#[test]
fn replay_equals_live_state_and_the_same_seed_gives_the_same_answers() {
    for seed in 0..3_000 {
        println!("seed {seed}");
        let script = run(&mut fastrand::Rng::with_seed(seed), 60);
        let decoded: Vec<MetadataRecord> = script
            .log
            .iter()
            .map(|record| {
                MetadataRecord::decode(&record.encode()).expect("what was written can be read")
            })
            .collect();
        assert_eq!(&replayed(&decoded), script.machine.image(), "seed {seed}");

        let again = run(&mut fastrand::Rng::with_seed(seed), 60);
        assert_eq!(again.replies, script.replies, "seed {seed}");
        assert_eq!(again.log, script.log, "seed {seed}");
    }
}

#[test]
fn a_snapshot_equals_the_image_and_the_log_goes_on_from_it() {
    for seed in 0..3_000 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let script = run(&mut rng, 40);
        let image = script.machine.image();
        let snapshot = image.to_records();
        let restored = replayed(&snapshot);
        assert_eq!(&restored, image, "seed {seed}");
        assert_eq!(restored.to_records(), snapshot, "seed {seed}");

        let mut on_snapshot = Script::new(MetadataMachine::new(restored));
        let mut on_log = Script::new(script.machine);
        for _ in 0..20 {
            let command = random_command(&mut rng, on_log.machine.image());
            assert_eq!(
                on_snapshot.ask(command.clone()),
                on_log.ask(command),
                "seed {seed}"
            );
        }
        assert_eq!(on_snapshot.machine, on_log.machine, "seed {seed}");
    }
}

#[test]
fn random_commands_reach_every_kind_of_record() {
    let mut kinds = BTreeSet::new();
    for seed in 0..200 {
        println!("seed {seed}");
        let script = run(&mut fastrand::Rng::with_seed(seed), 60);
        kinds.extend(script.log.iter().map(|record| record.encode()[1]));
    }
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        [0, 2, 3, 4, 5, 9, 12, 15]
    );
}
