//! Rows that change configs or tell what there is: AlterConfigs, IncrementalAlterConfigs, ListConfigResources,
//! DescribeLogDirs, the three of access control lists, DescribeClientQuotas; and what a changed config does.

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_configs_request::{
    AlterConfigsResource as Replaced, AlterableConfig as ReplacedConfig,
};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    AlterConfigsRequest, ApiKey, CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest,
    DescribeClientQuotasRequest, DescribeConfigsRequest, DescribeLogDirsRequest,
    IncrementalAlterConfigsRequest, ListConfigResourcesRequest,
};
use ottla_integration_tests::unique;
use ottla_integration_tests::wire::{self, Wire};

use crate::requests::{NONE, Topic, batch, create, newest, produce, text, topic_name, try_produce};
use crate::{Stage, started};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

const MESSAGE_TOO_LARGE: i16 = 10;

/// Key, operation, value.
type Change<'a> = (&'a str, i8, Option<&'a str>);

fn incremental(resources: &[(i8, &str, &[Change<'_>])]) -> IncrementalAlterConfigsRequest {
    let resource = |(resource_type, name, changes): &(i8, &str, &[Change<'_>])| {
        let config = |(name, operation, value): &Change<'_>| {
            AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(*operation)
                .with_value(value.map(text))
        };
        AlterConfigsResource::default()
            .with_resource_type(*resource_type)
            .with_resource_name(text(name))
            .with_configs(changes.iter().map(config).collect())
    };
    IncrementalAlterConfigsRequest::default()
        .with_resources(resources.iter().map(resource).collect())
}

/// Codes and messages, after a look at everything else in the answer.
fn change(
    wire: &mut Wire,
    version: i16,
    request: &IncrementalAlterConfigsRequest,
) -> Vec<(i16, Option<String>)> {
    let response = wire.ask(version, request);
    assert_eq!(response.throttle_time_ms, 0);
    let answered: Vec<_> = response
        .responses
        .iter()
        .map(|answer| (answer.resource_type, &answer.resource_name))
        .collect();
    let asked: Vec<_> = request
        .resources
        .iter()
        .map(|resource| (resource.resource_type, &resource.resource_name))
        .collect();
    assert_eq!(answered, asked);
    let told = response.responses.into_iter().map(|answer| {
        let message = answer.error_message.map(|message| message.to_string());
        (answer.error_code, message)
    });
    told.collect()
}

/// Changes one resource, which must work.
fn changed(wire: &mut Wire, resource_type: i8, name: &str, changes: &[Change<'_>]) {
    let version = newest::<IncrementalAlterConfigsRequest>();
    let request = incremental(&[(resource_type, name, changes)]);
    assert_eq!(change(wire, version, &request), [(NONE, None)]);
}

fn replacing(
    resource_type: i8,
    name: &str,
    configs: &[(&str, Option<&str>)],
) -> AlterConfigsRequest {
    let config = |(name, value): &(&str, Option<&str>)| {
        ReplacedConfig::default()
            .with_name(text(name))
            .with_value(value.map(text))
    };
    let resource = Replaced::default()
        .with_resource_type(resource_type)
        .with_resource_name(text(name))
        .with_configs(configs.iter().map(config).collect());
    AlterConfigsRequest::default().with_resources(vec![resource])
}

/// The code for the only resource of the request, after a look at everything else in the answer.
fn replace(wire: &mut Wire, version: i16, request: &AlterConfigsRequest) -> i16 {
    let response = wire.ask(version, request);
    assert_eq!(
        (response.throttle_time_ms, response.responses.len()),
        (0, 1)
    );
    let answer = &response.responses[0];
    let asked = &request.resources[0];
    assert_eq!(
        (answer.resource_type, &answer.resource_name),
        (asked.resource_type, &asked.resource_name)
    );
    assert_eq!(answer.error_code == NONE, answer.error_message.is_none());
    answer.error_code
}

/// Value and source of each config, by name.
fn configs(wire: &mut Wire, resource_type: i8, name: &str) -> BTreeMap<String, (String, i8)> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(resource_type)
        .with_resource_name(text(name))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let mut response = wire.ask(newest::<DescribeConfigsRequest>(), &request);
    assert_eq!(response.results[0].error_code, NONE);
    let described = response.results.remove(0).configs.into_iter();
    described
        .map(|config| {
            let value = config
                .value
                .map_or(String::new(), |value| value.to_string());
            (config.name.to_string(), (value, config.config_source))
        })
        .collect()
}

/// Value and source of one config. Here a change is in force when it is answered; in Apache Kafka
/// (`OTTLA_TEST_BOOTSTRAP`) soon after.
fn config_is(wire: &mut Wire, resource: (i8, &str), key: &str, expected: (&str, i8)) {
    let expected = Some(shown(expected.0, expected.1));
    let now = |wire: &mut Wire| configs(wire, resource.0, resource.1).remove(key);
    while std::env::var_os("OTTLA_TEST_BOOTSTRAP").is_some() && now(wire) != expected {}
    assert_eq!(now(wire), expected, "{resource:?} {key}");
}

fn config(wire: &mut Wire, resource_type: i8, name: &str, key: &str) -> (String, i8) {
    configs(wire, resource_type, name)
        .remove(key)
        .expect("a known key")
}

fn shown(value: &str, source: i8) -> (String, i8) {
    (value.to_owned(), source)
}

pub fn incremental_alter_configs_succeeds(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topic = create(wire, 1, &[("flush.ms", "9000")]);
    let done = [(NONE, None)];
    let ask = |wire: &mut Wire, changes: &[Change<'_>]| {
        let request = incremental(&[(TOPIC, &topic.name, changes)]);
        assert_eq!(change(wire, version, &request), done, "{changes:?}");
    };
    let key = "cleanup.policy";
    ask(
        wire,
        &[
            ("retention.ms", SET, Some("5000")),
            (key, SET, Some("compact")),
        ],
    );
    ask(
        wire,
        &[(key, APPEND, Some("delete")), ("no.such.key", DELETE, None)],
    );
    config_is(wire, (TOPIC, &topic.name), key, ("compact,delete", 1));
    ask(
        wire,
        &[
            (key, SUBTRACT, Some("compact")),
            ("retention.ms", DELETE, None),
        ],
    );
    config_is(wire, (TOPIC, &topic.name), key, ("delete", 1));
    let all = configs(wire, TOPIC, &topic.name);
    let own: Vec<_> = all.iter().filter(|(_, (_, source))| *source == 1).collect();
    assert_eq!(own.len(), 2, "{own:?}");
    assert_eq!(all["flush.ms"], shown("9000", 1), "not named, so it stays");
    assert_eq!(all["retention.ms"], shown("604800000", 5));

    let rehearsed = incremental(&[(TOPIC, &topic.name, &[("flush.ms", SET, Some("1"))])]);
    let rehearsed = rehearsed.with_validate_only(true);
    assert_eq!(change(wire, version, &rehearsed), done);
    config_is(wire, (TOPIC, &topic.name), "flush.ms", ("9000", 1));

    // The broker by its id and all brokers, each resource with an answer of its own.
    let key = "log.segment.delete.delay.ms";
    let set = incremental(&[
        (BROKER, "1", &[(key, SET, Some("77000"))]),
        (BROKER, "", &[(key, SET, Some("88000"))]),
    ]);
    assert_eq!(change(wire, version, &set), [(NONE, None), (NONE, None)]);
    config_is(wire, (BROKER, "1"), key, ("77000", 2));
    config_is(wire, (BROKER, ""), key, ("88000", 3));
    let of_topic = "file.delete.delay.ms";
    config_is(wire, (TOPIC, &topic.name), of_topic, ("77000", 2));
    let of_this = incremental(&[(BROKER, "1", &[(key, DELETE, None)])]);
    assert_eq!(change(wire, version, &of_this), done);
    config_is(wire, (TOPIC, &topic.name), of_topic, ("88000", 3));
    let of_all = incremental(&[(BROKER, "", &[(key, DELETE, None)])]);
    assert_eq!(change(wire, version, &of_all), done);
    config_is(wire, (TOPIC, &topic.name), of_topic, ("60000", 5));
    assert!(!configs(wire, BROKER, "").contains_key(key));
}

pub fn incremental_alter_configs_fails(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topic = create(wire, 1, &[]);
    let (absent, value) = (unique("absent"), Some("1"));
    let name = topic.name.as_str();
    for (resource_type, name, changes, error) in [
        (
            TOPIC,
            absent.as_str(),
            &[("retention.ms", SET, value)][..],
            3,
        ),
        (TOPIC, "not a name", &[("retention.ms", SET, value)], 17),
        (TOPIC, "", &[("retention.ms", SET, value)], 42),
        (TOPIC, name, &[("no.such.key", SET, value)], 40),
        (TOPIC, name, &[("retention.ms", SET, Some("soon"))], 40),
        (TOPIC, name, &[("retention.ms", SET, Some("-2"))], 40),
        (TOPIC, name, &[("retention.ms", SET, None)], 42),
        (TOPIC, name, &[("retention.ms", APPEND, value)], 40),
        (TOPIC, name, &[("cleanup.policy", APPEND, Some("burn"))], 40),
        (
            TOPIC,
            name,
            &[("flush.ms", SET, value), ("flush.ms", DELETE, None)],
            42,
        ),
        (BROKER, "2", &[("message.max.bytes", SET, value)], 42),
        (BROKER, "one", &[("message.max.bytes", SET, value)], 42),
        (BROKER, "1", &[("message.max.bytes", SET, Some("-1"))], 42),
        (BROKER, "1", &[("num.partitions", SET, value)], 42),
        (
            BROKER,
            "",
            &[("node.id", SET, value), ("message.max.bytes", SET, value)],
            42,
        ),
        (
            BROKER,
            "",
            &[("listeners", SET, Some("PLAINTEXT://:1"))],
            42,
        ),
        (BROKER_LOGGER, "1", &[("root", APPEND, Some("DEBUG"))], 42),
        (
            CLIENT_METRICS,
            "",
            &[("interval.ms", SET, Some("1000"))],
            42,
        ),
        (GROUP, "g", &[("no.such.key", SET, value)], 40),
        (99, "x", &[("retention.ms", SET, value)], 42),
    ] {
        let request = incremental(&[(resource_type, name, changes)]);
        for request in [request.clone(), request.with_validate_only(true)] {
            let (code, message) = change(wire, version, &request).remove(0);
            assert_eq!(
                code, error,
                "{resource_type} {name} {changes:?}: {message:?}"
            );
            assert!(message.is_some_and(|message| !message.is_empty()));
        }
    }
    let own = configs(wire, TOPIC, name).into_values();
    assert_eq!(
        own.filter(|(_, source)| *source == 1).count(),
        0,
        "nothing was changed"
    );

    // One that is refused does not keep the other from its change; one named twice is not changed at all.
    let other = create(wire, 1, &[]);
    let (set, wrong): (&[Change<'_>], &[Change<'_>]) = (
        &[("flush.ms", SET, Some("7"))],
        &[("flush.ms", SET, Some("x"))],
    );
    let codes = |wire: &mut Wire, request| -> Vec<i16> {
        let told = change(wire, version, &request).into_iter();
        told.map(|(code, _)| code).collect()
    };
    let request = incremental(&[(TOPIC, name, wrong), (TOPIC, &other.name, set)]);
    assert_eq!(codes(wire, request), [40, NONE]);
    let request = incremental(&[
        (TOPIC, name, set),
        (TOPIC, &other.name, set),
        (TOPIC, name, set),
    ]);
    assert_eq!(codes(wire, request), [42, NONE, 42]);
    assert_eq!(config(wire, TOPIC, name, "flush.ms").1, 5);
}

pub fn alter_configs_succeeds(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topic = create(wire, 1, &[("flush.ms", "9000"), ("retention.ms", "5")]);
    let name = topic.name.as_str();
    let request = replacing(
        TOPIC,
        name,
        &[("retention.ms", Some("6")), ("segment.ms", Some("7"))],
    );
    let rehearsed = request.clone().with_validate_only(true);
    assert_eq!(replace(wire, version, &rehearsed), NONE);
    config_is(wire, (TOPIC, name), "retention.ms", ("5", 1));
    assert_eq!(replace(wire, version, &request), NONE);
    config_is(wire, (TOPIC, name), "retention.ms", ("6", 1));
    let all = configs(wire, TOPIC, name);
    assert_eq!(all["segment.ms"], shown("7", 1));
    assert_eq!(all["flush.ms"].1, 5, "not named, so it goes");
    assert_eq!(replace(wire, version, &replacing(TOPIC, name, &[])), NONE);
    config_is(wire, (TOPIC, name), "retention.ms", ("604800000", 5));
    let own = configs(wire, TOPIC, name).into_values();
    assert_eq!(own.filter(|(_, source)| *source == 1).count(), 0);

    let key = "log.segment.delete.delay.ms";
    let request = replacing(BROKER, "1", &[(key, Some("77000"))]);
    assert_eq!(replace(wire, version, &request), NONE);
    config_is(wire, (BROKER, "1"), key, ("77000", 2));
    assert_eq!(replace(wire, version, &replacing(BROKER, "1", &[])), NONE);
    config_is(wire, (BROKER, "1"), key, ("60000", 5));
}

pub fn alter_configs_fails(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topic = create(wire, 1, &[("flush.ms", "9000")]);
    let (absent, name) = (unique("absent"), topic.name.as_str());
    for (resource_type, name, key, value, error) in [
        (TOPIC, absent.as_str(), "retention.ms", Some("1"), 3),
        (TOPIC, "not a name", "retention.ms", Some("1"), 17),
        (TOPIC, "", "retention.ms", Some("1"), 42),
        (TOPIC, name, "retention.ms", None, 42),
        (TOPIC, name, "retention.ms", Some("soon"), 40),
        (TOPIC, name, "no.such.key", Some("1"), 40),
        (BROKER, "2", "message.max.bytes", Some("1"), 42),
        (BROKER, "one", "message.max.bytes", Some("1"), 42),
        (BROKER, "1", "num.partitions", Some("1"), 42),
        (BROKER, "1", "message.max.bytes", Some("-1"), 42),
        (BROKER_LOGGER, "1", "root", Some("INFO"), 42),
    ] {
        let request = replacing(resource_type, name, &[(key, value)]);
        assert_eq!(
            replace(wire, version, &request),
            error,
            "{resource_type} {name} {key} {value:?}"
        );
    }
    let twice = replacing(
        TOPIC,
        name,
        &[("flush.ms", Some("1")), ("flush.ms", Some("2"))],
    );
    assert_eq!(replace(wire, version, &twice), 42);
    config_is(wire, (TOPIC, name), "flush.ms", ("9000", 1));
}

fn listed(wire: &mut Wire, version: i16, types: &[i8]) -> (i16, Vec<(i8, String)>) {
    let request = ListConfigResourcesRequest::default().with_resource_types(types.to_vec());
    let response = wire.ask(version, &request);
    assert_eq!(response.throttle_time_ms, 0);
    let resources = response.config_resources.into_iter();
    let named =
        |listed: kafka_protocol::messages::list_config_resources_response::ConfigResource| {
            (listed.resource_type, listed.resource_name.to_string())
        };
    (response.error_code, resources.map(named).collect())
}

pub fn list_config_resources_succeeds(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topic = create(wire, 1, &[]);
    if version == 0 {
        assert_eq!(listed(wire, 0, &[]), (NONE, vec![]), "client metrics only");
        return;
    }
    let (topics, broker) = ((TOPIC, topic.name), (BROKER, "1".to_owned()));
    let (code, all) = listed(wire, version, &[]);
    assert_eq!(code, NONE);
    assert!(all.contains(&topics) && all.contains(&broker), "{all:?}");
    assert_eq!(
        listed(wire, version, &[BROKER, BROKER]),
        (NONE, vec![broker])
    );
    let (_, found) = listed(wire, version, &[TOPIC]);
    assert!(found.contains(&topics) && found.iter().all(|(kind, _)| *kind == TOPIC));
    assert_eq!(
        listed(wire, version, &[CLIENT_METRICS, GROUP]),
        (NONE, vec![])
    );
}

pub fn list_config_resources_fails(stage: &mut Stage, version: i16) {
    if version == 0 {
        no_such_version(stage, ApiKey::ListConfigResources);
        return;
    }
    for unknown in [0, 3, 99] {
        assert_eq!(
            listed(&mut stage.wire, version, &[TOPIC, unknown]),
            (35, vec![])
        );
    }
}

/// For what can hardly fail: a version that does not exist closes the connection.
fn no_such_version(stage: &mut Stage, key: ApiKey) {
    let mut wire = stage.another();
    wire.write(&wire::frame(key as i16, i16::MAX, 1, 2, &[0; 8]));
    wire.expect_close();
}

fn log_dir(
    wire: &mut Wire,
    version: i16,
    topics: Option<&[(&str, &[i32])]>,
) -> DescribeLogDirsResult {
    let topic = |(name, partitions): &(&str, &[i32])| {
        DescribableLogDirTopic::default()
            .with_topic(topic_name(name))
            .with_partitions(partitions.to_vec())
    };
    let topics = topics.map(|topics| topics.iter().map(topic).collect());
    let mut response = wire.ask(
        version,
        &DescribeLogDirsRequest::default().with_topics(topics),
    );
    assert_eq!((response.throttle_time_ms, response.error_code), (0, NONE));
    assert_eq!(response.results.len(), 1, "there is one directory");
    let result = response.results.remove(0);
    assert_eq!(result.error_code, NONE);
    assert!(result.log_dir.starts_with('/'));
    if version >= 4 {
        assert!(0 < result.usable_bytes && result.usable_bytes < result.total_bytes);
    } else {
        assert_eq!((result.usable_bytes, result.total_bytes), (-1, -1));
    }
    result
}

/// Partition and size of a topic.
fn sizes(result: &DescribeLogDirsResult, topic: &Topic) -> Vec<(i32, i64)> {
    let mut found = result
        .topics
        .iter()
        .filter(|described| described.name == topic_name(&topic.name));
    let mut sizes = found.next().map_or(Vec::new(), |described| {
        let partitions = described.partitions.iter();
        let size = |partition: &kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsPartition| {
            assert_eq!((partition.offset_lag, partition.is_future_key), (0, false));
            (partition.partition_index, partition.partition_size)
        };
        partitions.map(size).collect()
    });
    assert!(found.next().is_none(), "a topic is told once");
    sizes.sort_unstable();
    sizes
}

pub fn describe_log_dirs_succeeds(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topic = create(wire, 2, &[]);
    let one = batch(&["a record", "and another"]);
    produce(wire, &topic, 1, one.clone());
    let bytes = one.len() as i64;
    assert_eq!(
        sizes(&log_dir(wire, version, None), &topic),
        [(0, 0), (1, bytes)]
    );
    produce(wire, &topic, 1, one.clone());
    produce(wire, &topic, 0, one);
    let name = topic.name.as_str();
    let absent = unique("absent");
    let asked = [(name, &[1, 1, 0, 7, -1][..]), (&absent, &[0][..])];
    let result = log_dir(wire, version, Some(&asked));
    assert_eq!(sizes(&result, &topic), [(0, bytes), (1, 2 * bytes)]);
    assert_eq!(result.topics.len(), 1);
    for nothing in [&[][..], &[(name, &[][..])], &[("not a name", &[0])]] {
        assert!(log_dir(wire, version, Some(nothing)).topics.is_empty());
    }
}

pub fn describe_log_dirs_fails(stage: &mut Stage, _version: i16) {
    no_such_version(stage, ApiKey::DescribeLogDirs);
}

/// There is no authorizer: all there is to say is an error.
pub fn acls_are_disabled(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    // All enums as 1, "any", in a filter.
    let request = DescribeAclsRequest::default()
        .with_resource_type_filter(1)
        .with_pattern_type_filter(1)
        .with_operation(1)
        .with_permission_type(1);
    let response = wire.ask(version, &request);
    assert_eq!((response.throttle_time_ms, response.error_code), (0, 54));
    assert!(
        response
            .error_message
            .is_some_and(|message| !message.is_empty())
    );
    assert!(response.resources.is_empty());

    let creation = AclCreation::default()
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_resource_pattern_type(3)
        .with_principal(text("User:a"))
        .with_host(text("*"))
        .with_operation(3)
        .with_permission_type(3);
    let request = CreateAclsRequest::default().with_creations(vec![creation.clone(), creation]);
    let response = wire.ask(version, &request);
    assert_eq!(response.throttle_time_ms, 0);
    let codes: Vec<_> = response
        .results
        .iter()
        .map(|result| result.error_code)
        .collect();
    assert_eq!(codes, [54, 54]);

    let filter = DeleteAclsFilter::default()
        .with_resource_type_filter(2)
        .with_pattern_type_filter(3)
        .with_operation(1)
        .with_permission_type(1);
    let request = DeleteAclsRequest::default().with_filters(vec![filter]);
    let response = wire.ask(version, &request);
    assert_eq!(
        (response.throttle_time_ms, response.filter_results.len()),
        (0, 1)
    );
    let result = &response.filter_results[0];
    assert_eq!((result.error_code, result.matching_acls.len()), (54, 0));
}

/// A request that asks for nothing is answered with nothing, not with an error.
pub fn no_acls_are_created_or_deleted(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let created = wire.ask(version, &CreateAclsRequest::default());
    assert_eq!((created.throttle_time_ms, created.results.len()), (0, 0));
    let deleted = wire.ask(version, &DeleteAclsRequest::default());
    assert_eq!(
        (deleted.throttle_time_ms, deleted.filter_results.len()),
        (0, 0)
    );
}

fn quota_filter(components: &[(&str, i8, Option<&str>)]) -> DescribeClientQuotasRequest {
    let component = |(entity_type, match_type, name): &(&str, i8, Option<&str>)| {
        ComponentData::default()
            .with_entity_type(text(entity_type))
            .with_match_type(*match_type)
            .with_match(name.map(text))
    };
    DescribeClientQuotasRequest::default()
        .with_components(components.iter().map(component).collect())
        .with_strict(true)
}

pub fn describe_client_quotas_succeeds(stage: &mut Stage, version: i16) {
    for components in [
        &[][..],
        &[("user", 0, Some("a")), ("client-id", 2, None)],
        &[("ip", 1, None)],
    ] {
        let response = stage.wire.ask(version, &quota_filter(components));
        assert_eq!((response.throttle_time_ms, response.error_code), (0, NONE));
        assert_eq!(response.error_message.as_deref(), Some(""));
        assert_eq!(response.entries, Some(vec![]), "there are no quotas");
    }
}

pub fn describe_client_quotas_fails(stage: &mut Stage, version: i16) {
    for (components, error) in [
        (&[("planet", 2, None)][..], 35),
        (&[("user", 0, None)], 42),
        (&[("user", 2, None), ("user", 2, None)], 42),
        (&[("user", 2, None), ("ip", 2, None)], 42),
    ] {
        let response = stage.wire.ask(version, &quota_filter(components));
        assert_eq!(response.error_code, error, "{components:?}");
        assert!(
            response
                .error_message
                .is_some_and(|message| !message.is_empty())
        );
        assert_eq!(response.entries, None);
    }
}

/// Codes of two batches, one of about 1 kB and one of about 3 kB.
fn small_and_large(wire: &mut Wire, topic: &Topic) -> (i16, i16) {
    let mut code = |bytes| {
        let value = "x".repeat(bytes);
        try_produce(wire, topic, 0, batch(&[value.as_str()])).error_code
    };
    (code(1_000), code(3_000))
}

#[test]
fn a_changed_config_is_in_force_when_its_change_is_answered_and_after_a_crash() {
    let (_folder, mut broker, mut wire) = started("wire-dynamic", &[("message.max.bytes", "500")]);
    let (plain, own) = (
        create(&mut wire, 1, &[]),
        create(&mut wire, 1, &[("max.message.bytes", "2000")]),
    );
    let (both, small, none) = (
        (NONE, NONE),
        (NONE, MESSAGE_TOO_LARGE),
        (MESSAGE_TOO_LARGE, MESSAGE_TOO_LARGE),
    );
    assert_eq!(small_and_large(&mut wire, &plain), none, "the file's");
    assert_eq!(small_and_large(&mut wire, &own), small, "the topic's own");

    let key = "message.max.bytes";
    changed(&mut wire, BROKER, "", &[(key, SET, Some("2000"))]);
    assert_eq!(
        small_and_large(&mut wire, &plain),
        small,
        "that of all brokers over the file's"
    );
    changed(&mut wire, BROKER, "1", &[(key, SET, Some("5000"))]);
    assert_eq!(
        small_and_large(&mut wire, &plain),
        both,
        "that of this broker over that of all"
    );
    assert_eq!(
        small_and_large(&mut wire, &own),
        small,
        "the topic's own over both"
    );
    let late = create(&mut wire, 1, &[]);
    assert_eq!(small_and_large(&mut wire, &late), both);

    broker.kill9();
    broker.restart();
    let mut wire = Wire::connect(&broker);
    config_is(&mut wire, (BROKER, "1"), key, ("5000", 2));
    config_is(&mut wire, (BROKER, ""), key, ("2000", 3));
    for (topic, expected) in [(&plain, both), (&own, small), (&late, both)] {
        assert_eq!(small_and_large(&mut wire, topic), expected);
    }
    changed(
        &mut wire,
        TOPIC,
        &own.name,
        &[("max.message.bytes", DELETE, None)],
    );
    assert_eq!(small_and_large(&mut wire, &own), both);
    changed(&mut wire, BROKER, "1", &[(key, DELETE, None)]);
    changed(&mut wire, BROKER, "", &[(key, DELETE, None)]);
    for topic in [&plain, &own, &late] {
        assert_eq!(small_and_large(&mut wire, topic), none, "the file's again");
    }
}

/// The broker stamps records itself as soon as the default of all topics says so: the change reaches the logs.
#[test]
fn a_changed_default_reaches_the_logs_of_topics_that_exist() {
    let (_folder, _broker, mut wire) = started("wire-append-time", &[]);
    let topic = create(&mut wire, 1, &[]);
    let stamped = |wire: &mut Wire| {
        let answer = try_produce(wire, &topic, 0, batch(&["a"]));
        assert_eq!(answer.error_code, NONE);
        answer.log_append_time_ms
    };
    assert_eq!(stamped(&mut wire), -1);
    let key = "log.message.timestamp.type";
    changed(&mut wire, BROKER, "", &[(key, SET, Some("LogAppendTime"))]);
    assert!(stamped(&mut wire) > 0);
    changed(
        &mut wire,
        TOPIC,
        &topic.name,
        &[("message.timestamp.type", SET, Some("CreateTime"))],
    );
    assert_eq!(stamped(&mut wire), -1);
}

#[test]
fn a_changed_limit_of_connections_holds_for_the_next_one() {
    let (_folder, mut broker, mut wire) = started("wire-limit", &[]);
    broker.allow_log("connection refused");
    changed(
        &mut wire,
        BROKER,
        "1",
        &[("max.connections", SET, Some("1"))],
    );
    Wire::connect(&broker).expect_close();
    changed(
        &mut wire,
        BROKER,
        "1",
        &[("max.connections", SET, Some("2"))],
    );
    let mut second = Wire::connect(&broker);
    assert_eq!(
        config(&mut second, BROKER, "1", "max.connections"),
        shown("2", 2)
    );
}

/// Each appends to the same list; a change that somebody else overtook is planned anew, so none is lost.
#[test]
fn changes_of_one_list_at_the_same_time_all_count() {
    const EACH: usize = 20;
    let (_folder, broker, mut wire) = started("wire-appends", &[]);
    let topic = create(&mut wire, 1, &[]);
    let key = "leader.replication.throttled.replicas";
    std::thread::scope(|scope| {
        for client in 1..=4 {
            let mut wire = Wire::connect(&broker);
            let name = topic.name.as_str();
            scope.spawn(move || {
                for index in 0..EACH {
                    let item = format!("{index}:{client}");
                    changed(&mut wire, TOPIC, name, &[(key, APPEND, Some(&item))]);
                }
            });
        }
    });
    let (value, _) = config(&mut wire, TOPIC, &topic.name, key);
    assert_eq!(value.split(',').count(), 4 * EACH, "{value}");
}

/// As much as a request can hold is refused or done in bounded time, and each answer can be sent.
#[test]
fn changes_of_hostile_size_are_bounded() {
    let (_folder, broker, mut wire) = started("wire-hostile-configs", &[]);
    let topic = create(&mut wire, 1, &[]);
    let long = "x".repeat(32_767);
    for version in 0..=1 {
        for resource_type in [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, 77] {
            for (name, key, value) in [
                (long.as_str(), "retention.ms", "1"),
                ("1", long.as_str(), "1"),
                ("1", "cleanup.policy", long.as_str()),
                (&topic.name, long.as_str(), long.as_str()),
                (&topic.name, "cleanup.policy", long.as_str()),
            ] {
                for operation in [SET, APPEND, 9] {
                    let changes: &[Change<'_>] = &[(key, operation, Some(value))];
                    let request = incremental(&[(resource_type, name, changes)]);
                    let (code, message) = change(&mut wire, version, &request).remove(0);
                    assert_ne!(code, NONE);
                    assert!(message.is_some_and(|message| message.len() < 2_000));
                }
            }
        }
    }
    // A hundred keys too many, and 10,000 of them, which is the most: all are looked at.
    let names: Vec<String> = (0..10_001).map(|index| format!("key.{index}")).collect();
    let deletions: Vec<Change<'_>> = names
        .iter()
        .map(|name| (name.as_str(), DELETE, None))
        .collect();
    let request = incremental(&[(TOPIC, &topic.name, &deletions)]);
    assert_eq!(change(&mut wire, 1, &request)[0].0, 44);
    let request = incremental(&[(TOPIC, &topic.name, &deletions[1..])]);
    assert_eq!(change(&mut wire, 1, &request), [(NONE, None)]);
    let resources: Vec<(i8, &str, &[Change<'_>])> = names
        .iter()
        .map(|name| (TOPIC, name.as_str(), &[][..]))
        .collect();
    assert!(
        change(&mut wire, 1, &incremental(&resources))
            .iter()
            .all(|(code, _)| *code == 44)
    );
    assert!(
        change(&mut wire, 1, &incremental(&resources[1..]))
            .iter()
            .all(|(code, _)| *code == 3)
    );

    // More elements than any request may have end the connection before they are decoded.
    let mut hostile = Wire::connect(&broker);
    let many: Vec<Change<'_>> = vec![("flush.ms", SET, Some("1")); 70_000];
    let (frame, _ticket) = hostile.frame(1, &incremental(&[(TOPIC, &topic.name, &many)]));
    hostile.write(&frame);
    hostile.expect_close();

    // The longest value there can be, and a list that would grow beyond it.
    let key = "leader.replication.throttled.replicas";
    let items = |from: usize| {
        (from..from + 4_000)
            .map(|item| format!("{item}:1"))
            .collect::<Vec<_>>()
            .join(",")
    };
    changed(
        &mut wire,
        TOPIC,
        &topic.name,
        &[(key, SET, Some(&items(1_000)))],
    );
    let grow = incremental(&[(TOPIC, &topic.name, &[(key, APPEND, Some(&items(5_000)))])]);
    assert_eq!(change(&mut wire, 1, &grow)[0].0, 40);
    assert_eq!(config(&mut wire, TOPIC, &topic.name, key).0, items(1_000));
}
