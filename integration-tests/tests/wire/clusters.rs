//! Rows that describe: Metadata, DescribeCluster, DescribeConfigs, DescribeTopicPartitions.

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    BrokerId, DescribeClusterRequest, DescribeConfigsRequest, DescribeTopicPartitionsRequest,
    MetadataRequest, MetadataResponse,
};
use ottla_integration_tests::unique;
use ottla_integration_tests::wire::Wire;
use uuid::Uuid;

use crate::requests::{NONE, Topic, create, describe, metadata_request, newest, text, topic_name};
use crate::{DEFAULT_PARTITIONS, Stage, started};

const NODE: BrokerId = BrokerId(1);
const NOT_ASKED: i32 = i32::MIN;

/// Checks what is the same of every topic of a one-node cluster.
fn is_whole(answer: &MetadataResponseTopic, version: i16, partitions: i32) {
    assert_eq!(
        (answer.error_code, answer.is_internal),
        (NONE, false),
        "{answer:?}"
    );
    assert_eq!(answer.topic_id.is_nil(), version < 10);
    let indexes: Vec<i32> = answer
        .partitions
        .iter()
        .map(|partition| partition.partition_index)
        .collect();
    assert_eq!(indexes, (0..partitions).collect::<Vec<_>>());
    for partition in &answer.partitions {
        assert_eq!((partition.error_code, partition.leader_id), (NONE, NODE));
        assert_eq!(partition.leader_epoch, if version >= 7 { 0 } else { -1 });
        assert_eq!(
            (&partition.replica_nodes, &partition.isr_nodes),
            (&vec![NODE], &vec![NODE])
        );
        assert!(partition.offline_replicas.is_empty());
    }
}

fn names(response: &MetadataResponse) -> Vec<&str> {
    response
        .topics
        .iter()
        .map(|topic| topic.name.as_ref().expect("a name").as_str())
        .collect()
}

pub fn metadata_succeeds(stage: &mut Stage, version: i16) {
    let topic = create(&mut stage.wire, 2, &[]);
    let mut request = metadata_request(Some(&[&topic.name]));
    request.include_topic_authorized_operations = version >= 8;
    request.include_cluster_authorized_operations = (8..=10).contains(&version);
    let response = stage.wire.ask(version, &request);
    assert_eq!((response.throttle_time_ms, response.error_code), (0, NONE));
    assert_eq!(response.brokers.len(), 1);
    let broker = &response.brokers[0];
    assert_eq!(
        (broker.node_id, broker.host.as_str(), &broker.rack),
        (NODE, "127.0.0.1", &None)
    );
    assert_eq!(broker.port, i32::from(stage.broker.port()));
    assert_eq!(
        response.cluster_id.as_ref().map(|id| id.len()),
        (version >= 2).then_some(22)
    );
    assert_eq!(
        response.controller_id,
        if version >= 1 { NODE } else { BrokerId(-1) }
    );
    let operations = if (8..=10).contains(&version) {
        8096
    } else {
        NOT_ASKED
    };
    assert_eq!(response.cluster_authorized_operations, operations);
    assert_eq!(names(&response), [topic.name.as_str()]);
    let answer = &response.topics[0];
    is_whole(answer, version, 2);
    assert_eq!(
        answer.topic_authorized_operations,
        if version >= 8 { 3576 } else { NOT_ASKED }
    );
    if version >= 10 {
        assert_eq!(answer.topic_id, topic.id);
    }
    if version >= 8 {
        let response = stage
            .wire
            .ask(version, &metadata_request(Some(&[&topic.name])));
        assert_eq!(response.topics[0].topic_authorized_operations, NOT_ASKED);
    }
    if version >= 12 {
        let by_id = MetadataRequestTopic::default()
            .with_name(None)
            .with_topic_id(topic.id);
        let response = stage.wire.ask(
            version,
            &MetadataRequest::default().with_topics(Some(vec![by_id])),
        );
        assert_eq!(names(&response), [topic.name.as_str()]);
        is_whole(&response.topics[0], version, 2);
    }
}

pub fn metadata_fails(stage: &mut Stage, version: i16) {
    let response = stage
        .wire
        .ask(version, &metadata_request(Some(&["not a name"])));
    let answer = &response.topics[0];
    assert_eq!(
        (answer.error_code, &answer.name),
        (17, &Some(topic_name("not a name")))
    );
    assert!(answer.partitions.is_empty());
    if version >= 4 {
        let name = unique("absent");
        let request = metadata_request(Some(&[&name])).with_allow_auto_topic_creation(false);
        let response = stage.wire.ask(version, &request);
        let answer = &response.topics[0];
        assert_eq!(
            (answer.error_code, &answer.name),
            (3, &Some(topic_name(&name)))
        );
        assert_eq!(
            stage.wire.ask(version, &request).topics[0].error_code,
            3,
            "it was not created"
        );
    }
    if version >= 10 {
        let id = Topic::unknown().id;
        let by_id = MetadataRequestTopic::default().with_topic_id(id);
        let by_id = if version >= 12 {
            by_id.with_name(None)
        } else {
            by_id.with_name(Some(topic_name("t")))
        };
        let response = stage.wire.ask(
            version,
            &MetadataRequest::default().with_topics(Some(vec![by_id])),
        );
        // 10 and 11 have the field, but must not ask by it.
        assert_eq!(
            response.topics[0].error_code,
            if version >= 12 { 100 } else { 42 }
        );
        if version >= 12 {
            assert_eq!(
                (&response.topics[0].name, response.topics[0].topic_id),
                (&None, id)
            );
        }
    }
}

/// Gotcha: an empty list asks for all topics in version 0 and for none later; null asks for all since 1.
#[test]
fn metadata_of_all_of_none_and_of_a_topic_that_comes_to_be() {
    let (_folder, _broker, mut wire) = started("wire-metadata", &[("num.partitions", "3")]);
    for version in 0..=13 {
        let name = unique("auto");
        let before: Vec<String> = all(&mut wire, version);
        assert_eq!(
            before.len(),
            version as usize,
            "one for each version before"
        );
        assert!(!before.contains(&name), "asking for all creates nothing");
        if version >= 1 {
            assert!(
                wire.ask(version, &metadata_request(Some(&[])))
                    .topics
                    .is_empty(),
                "v{version}"
            );
        }
        if version >= 4 {
            let request = metadata_request(Some(&[&name])).with_allow_auto_topic_creation(false);
            assert_eq!(wire.ask(version, &request).topics[0].error_code, 3);
        }
        let request = metadata_request(Some(&[&name, &name]));
        let response = wire.ask(version, &request);
        assert_eq!(
            names(&response),
            [name.as_str()],
            "named twice, answered once"
        );
        is_whole(&response.topics[0], version, DEFAULT_PARTITIONS);
        assert!(all(&mut wire, version).contains(&name));
    }
    // The broker's own names are not made by asking for them.
    for (internal, error) in [
        ("__consumer_offsets", 3),
        ("__transaction_state", 3),
        ("__cluster_metadata", 3),
    ] {
        let response = wire.ask(13, &metadata_request(Some(&[internal])));
        assert_eq!(response.topics[0].error_code, error, "{internal}");
    }
}

fn all(wire: &mut Wire, version: i16) -> Vec<String> {
    let everything = if version == 0 {
        metadata_request(Some(&[]))
    } else {
        metadata_request(None)
    };
    let response = wire.ask(version, &everything);
    let mut sorted = names(&response);
    sorted.sort_unstable();
    sorted.into_iter().map(str::to_owned).collect()
}

#[test]
fn nothing_is_created_on_first_use_when_the_broker_is_told_so() {
    let (_folder, _broker, mut wire) =
        started("wire-no-auto", &[("auto.create.topics.enable", "false")]);
    for version in 0..=13 {
        let response = wire.ask(version, &metadata_request(Some(&["absent"])));
        assert_eq!(response.topics[0].error_code, 3, "v{version}");
    }
    assert!(all(&mut wire, 13).is_empty());
}

pub fn describe_cluster_succeeds(stage: &mut Stage, version: i16) {
    let cluster_id = stage
        .wire
        .ask(newest::<MetadataRequest>(), &metadata_request(Some(&[])))
        .cluster_id;
    for asked in [false, true] {
        let request =
            DescribeClusterRequest::default().with_include_cluster_authorized_operations(asked);
        let response = stage.wire.ask(version, &request);
        assert_eq!((response.throttle_time_ms, response.error_code), (0, NONE));
        assert_eq!(response.error_message, None);
        assert_eq!((response.endpoint_type, response.controller_id), (1, NODE));
        assert_eq!(Some(&response.cluster_id), cluster_id.as_ref());
        let operations = if asked { 8096 } else { NOT_ASKED };
        assert_eq!(response.cluster_authorized_operations, operations);
        let broker = DescribeClusterBroker::default()
            .with_broker_id(NODE)
            .with_host(text("127.0.0.1"))
            .with_port(i32::from(stage.broker.port()))
            .with_rack(None);
        assert_eq!(response.brokers, [broker]);
    }
}

/// Version 0 cannot ask for anything that is not there.
pub fn describe_cluster_fails(stage: &mut Stage, version: i16) {
    for (endpoint_type, error) in [(2, 114), (3, 115), (0, 115)] {
        if version >= 1 {
            let request = DescribeClusterRequest::default().with_endpoint_type(endpoint_type);
            let response = stage.wire.ask(version, &request);
            assert_eq!(response.error_code, error);
            assert!(response.error_message.is_some() && response.brokers.is_empty());
        }
    }
}

fn configs_of(resource_type: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsRequest {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(resource_type)
        .with_resource_name(text(name))
        .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()));
    DescribeConfigsRequest::default().with_resources(vec![resource])
}

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

fn one_config(
    wire: &mut Wire,
    version: i16,
    request: &DescribeConfigsRequest,
) -> DescribeConfigsResult {
    let mut response = wire.ask(version, request);
    assert_eq!(response.throttle_time_ms, 0);
    assert_eq!(response.results.len(), 1);
    let asked = &request.resources[0];
    let result = response.results.remove(0);
    assert_eq!(
        (result.resource_type, &result.resource_name),
        (asked.resource_type, &asked.resource_name)
    );
    result
}

pub fn describe_configs_succeeds(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topic = create(wire, 1, &[("max.message.bytes", "5000")]);
    let mut request = configs_of(
        TOPIC,
        &topic.name,
        Some(&["max.message.bytes", "retention.ms", "no.such"]),
    )
    .with_include_synonyms(true);
    request.include_documentation = version >= 3;
    let result = one_config(wire, version, &request);
    assert_eq!(result.error_code, NONE);
    let shown: Vec<_> = result
        .configs
        .iter()
        .map(|config| {
            (
                config.name.as_str(),
                config.value.as_deref(),
                config.config_source,
            )
        })
        .collect();
    // Sources: 1 the topic, 5 the default.
    assert_eq!(
        shown,
        [
            ("max.message.bytes", Some("5000"), 1),
            ("retention.ms", Some("604800000"), 5)
        ]
    );
    let own = &result.configs[0];
    assert!(!own.read_only && !own.is_sensitive);
    let synonyms: Vec<_> = own
        .synonyms
        .iter()
        .map(|synonym| (synonym.name.as_str(), synonym.source))
        .collect();
    assert_eq!(
        synonyms,
        [("max.message.bytes", 1), ("message.max.bytes", 5)]
    );
    assert_eq!(own.config_type, if version >= 3 { 3 } else { 0 }, "an int");
    assert_eq!(
        own.documentation
            .as_ref()
            .is_some_and(|text| !text.is_empty()),
        version >= 3
    );

    let result = one_config(wire, version, &configs_of(TOPIC, &topic.name, None));
    assert_eq!(result.configs.len(), 33, "as many as Kafka has");
    assert!(
        result
            .configs
            .iter()
            .all(|config| config.synonyms.is_empty())
    );

    let keys = ["node.id", "num.partitions", "authorizer.class.name"];
    let result = one_config(wire, version, &configs_of(BROKER, "1", Some(&keys)));
    assert_eq!(result.error_code, NONE);
    let value = |name| {
        result
            .configs
            .iter()
            .find(|config| config.name == text(name))
            .map(|config| &config.value)
    };
    assert_eq!(value("node.id"), Some(&Some(text("1"))));
    assert_eq!(value("num.partitions"), Some(&Some(text("3"))));
}

pub fn describe_configs_fails(stage: &mut Stage, version: i16) {
    let refusals = [
        (TOPIC, unique("absent"), 3),
        (TOPIC, "not a name".to_owned(), 17),
        (BROKER, "2".to_owned(), 42),
        (BROKER, "one".to_owned(), 42),
        (99, "x".to_owned(), 42),
    ];
    for (resource_type, name, error) in refusals {
        let result = one_config(
            &mut stage.wire,
            version,
            &configs_of(resource_type, &name, None),
        );
        assert_eq!(
            result.error_code, error,
            "{resource_type} {name}: {:?}",
            result.error_message
        );
        assert!(result.error_message.is_some() && result.configs.is_empty());
    }
}

fn page_request(
    names: &[&str],
    limit: i32,
    cursor: Option<(&str, i32)>,
) -> DescribeTopicPartitionsRequest {
    let topics = names
        .iter()
        .map(|name| TopicRequest::default().with_name(topic_name(name)))
        .collect();
    let cursor = cursor.map(|(name, partition)| {
        Cursor::default()
            .with_topic_name(topic_name(name))
            .with_partition_index(partition)
    });
    DescribeTopicPartitionsRequest::default()
        .with_topics(topics)
        .with_response_partition_limit(limit)
        .with_cursor(cursor)
}

pub fn describe_topic_partitions_succeeds(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let (first, second) = (create(wire, 3, &[]), create(wire, 2, &[]));
    let mut names = [first.name.as_str(), second.name.as_str()];
    names.sort_unstable();
    // In order of name, two partitions a page.
    let mut found = Vec::new();
    let mut cursor: Option<(String, i32)> = None;
    loop {
        let at = cursor
            .as_ref()
            .map(|(name, partition)| (name.as_str(), *partition));
        let response = wire.ask(version, &page_request(&names, 2, at));
        assert_eq!(response.throttle_time_ms, 0);
        let mut on_page = 0;
        for topic in &response.topics {
            assert_eq!((topic.error_code, topic.is_internal), (NONE, false));
            assert_eq!(topic.topic_authorized_operations, 3576);
            let name = topic.name.as_ref().expect("a name").to_string();
            let id = if name == first.name {
                first.id
            } else {
                second.id
            };
            assert_eq!(topic.topic_id, id);
            for partition in &topic.partitions {
                assert_eq!(
                    (
                        partition.error_code,
                        partition.leader_id,
                        partition.leader_epoch
                    ),
                    (NONE, NODE, 0)
                );
                assert_eq!(
                    (&partition.replica_nodes, &partition.isr_nodes),
                    (&vec![NODE], &vec![NODE])
                );
                assert!(partition.offline_replicas.is_empty());
                found.push((name.clone(), partition.partition_index));
                on_page += 1;
            }
        }
        assert!(on_page <= 2);
        match response.next_cursor {
            Some(next) => cursor = Some((next.topic_name.to_string(), next.partition_index)),
            None => break,
        }
    }
    let partitions = |name: &str| if name == first.name { 3 } else { 2 };
    let expected: Vec<_> = names
        .iter()
        .flat_map(|name| (0..partitions(name)).map(|index| ((*name).to_owned(), index)))
        .collect();
    assert_eq!(found, expected);
    let response = wire.ask(version, &page_request(&[], 2000, None));
    assert!(response.topics.len() > 2, "none named: all are described");
}

pub fn describe_topic_partitions_fails(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let absent = unique("absent");
    for (name, error) in [(absent.as_str(), 3), ("not a name", 17)] {
        let response = wire.ask(version, &page_request(&[name], 10, None));
        let topic = &response.topics[0];
        assert_eq!(
            (topic.error_code, &topic.name),
            (error, &Some(topic_name(name)))
        );
        assert_eq!((topic.topic_id, topic.partitions.len()), (Uuid::nil(), 0));
    }
    assert_eq!(describe(wire, &absent).error_code, 3, "it was not created");
    let topic = create(wire, 1, &[]);
    for cursor in [("elsewhere", 0), (topic.name.as_str(), -1)] {
        let response = wire.ask(version, &page_request(&[&topic.name], 10, Some(cursor)));
        assert_eq!(
            response.topics[0].error_code, 42,
            "a cursor that makes no sense: {cursor:?}"
        );
    }
}
