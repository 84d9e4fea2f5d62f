use kafka_protocol::protocol::{Decodable, Encodable};
use ottla_coordinator::metadata::ConfigResource;
use ottla_coordinator::record::MetadataRecord;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

use super::super::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use super::*;

fn image_with(topic: &str, configs: &[(&str, &str)]) -> Image {
    let mut image = Image::default();
    let record = MetadataRecord::Topic {
        name: topic.to_owned(),
        topic_id: Uuid::from_u128(7),
    };
    image.apply(&record).unwrap();
    let configs: BTreeMap<String, String> = configs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    image
        .configs
        .insert(ConfigResource::Topic(topic.to_owned()), Arc::new(configs));
    image
}

fn config(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Config::load(None, std::iter::empty(), &sets)
        .unwrap()
        .config
}

/// As the handler, with nothing set at run time but what `image` has.
fn describe(
    request: DescribeConfigsRequest,
    version: i16,
    image: &Image,
    config: &Config,
) -> DescribeConfigsResponse {
    let live = DynamicConfig::of_image(config, image);
    let source = Source {
        image,
        config,
        live: &live,
    };
    super::describe(request, version, source)
}

fn resource(resource_type: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsResource {
    let owned = |text: &&str| StrBytes::from_string((*text).to_owned());
    let mut resource = DescribeConfigsResource::default();
    resource.resource_type = resource_type;
    resource.resource_name = owned(&name);
    resource.configuration_keys = keys.map(|keys| keys.iter().map(owned).collect());
    resource
}

fn ask(resources: Vec<DescribeConfigsResource>) -> DescribeConfigsRequest {
    let mut request = DescribeConfigsRequest::default();
    request.resources = resources;
    request.include_synonyms = true;
    request.include_documentation = true;
    request
}

fn answer_to(resource: DescribeConfigsResource) -> DescribeConfigsResult {
    let image = image_with("t", &[("max.message.bytes", "5000")]);
    let mut response = describe(
        ask(vec![resource]),
        4,
        &image,
        &config(&["num.partitions=3"]),
    );
    assert_eq!(response.results.len(), 1);
    response.results.remove(0)
}

fn names(result: &DescribeConfigsResult) -> Vec<&str> {
    result
        .configs
        .iter()
        .map(|config| config.name.as_str())
        .collect()
}

#[test]
fn null_or_no_names_ask_for_all_configs_of_a_topic() {
    for keys in [None, Some(&[][..])] {
        let result = answer_to(resource(TOPIC, "t", keys));
        assert_eq!(
            (result.error_code, result.error_message.as_deref()),
            (0, Some(""))
        );
        assert_eq!(result.configs.len(), 33);
    }
}

#[test]
fn names_that_do_not_exist_are_left_out() {
    let result = answer_to(resource(
        TOPIC,
        "t",
        Some(&["retention.ms", "nope", "max.message.bytes", "retention.ms"]),
    ));
    assert_eq!(names(&result), ["max.message.bytes", "retention.ms"]);
    let own = &result.configs[0];
    assert_eq!(
        (own.value.as_deref(), own.config_source, own.config_type),
        (Some("5000"), 1, 3)
    );
    let synonyms: Vec<_> = own
        .synonyms
        .iter()
        .map(|s| (s.name.as_str(), s.value.as_deref(), s.source))
        .collect();
    assert_eq!(
        synonyms,
        [
            ("max.message.bytes", Some("5000"), 1),
            ("message.max.bytes", Some("1048588"), 5)
        ]
    );
    assert!(!own.read_only && !own.is_sensitive);
}

#[test]
fn a_broker_is_named_by_its_id() {
    let result = answer_to(resource(BROKER, "1", None));
    assert_eq!(
        result.configs.len(),
        crate::config::table::BROKER_CONFIGS.len()
    );
    // ksqlDB asks for the authorizer (redpanda 554).
    let result = answer_to(resource(
        BROKER,
        "01",
        Some(&["authorizer.class.name", "num.partitions", "custom.key"]),
    ));
    assert_eq!(names(&result), ["authorizer.class.name", "num.partitions"]);
    assert_eq!(
        (
            result.configs[0].value.as_deref(),
            result.configs[0].config_source
        ),
        (Some(""), 5)
    );
    assert_eq!(
        (
            result.configs[1].value.as_deref(),
            result.configs[1].config_source
        ),
        (Some("3"), 4)
    );

    let all_brokers = answer_to(resource(BROKER, "", None));
    assert_eq!((all_brokers.error_code, all_brokers.configs.len()), (0, 0));
}

#[test]
fn each_resource_has_its_own_error() {
    let resources = vec![
        resource(TOPIC, "t", Some(&["retention.ms"])),
        resource(TOPIC, "missing", None),
        resource(TOPIC, "a b", None),
        resource(TOPIC, "", None),
        resource(BROKER, "2", None),
        resource(BROKER, "abc", None),
        resource(0, "x", None),
        resource(BROKER_LOGGER, "1", None),
        resource(GROUP, "", None),
        resource(CLIENT_METRICS, "", None),
        resource(127, "x", None),
        resource(TOPIC, "t", Some(&["segment.ms"])),
    ];
    let response = describe(ask(resources), 4, &image_with("t", &[]), &config(&[]));
    let codes: Vec<i16> = response
        .results
        .iter()
        .map(|result| result.error_code)
        .collect();
    assert_eq!(codes, [0, 3, 17, 17, 42, 42, 42, 42, 42, 42, 42, 42]);
    assert_eq!(response.results[0].configs.len(), 1);
    assert!(
        response.results[1..]
            .iter()
            .all(|result| result.configs.is_empty())
    );
}

#[test]
fn a_broker_is_described_once_however_its_id_is_spelled() {
    let resources = vec![resource(BROKER, "1", None), resource(BROKER, "+01", None)];
    let response = describe(ask(resources), 4, &Image::default(), &config(&[]));
    assert_eq!(response.results[0].error_code, 0);
    assert_eq!(response.results[1].error_code, 42);
}

#[test]
fn groups_and_client_metrics_have_no_configs() {
    for resource_type in [GROUP, CLIENT_METRICS] {
        for name in ["a", "b"] {
            let result = answer_to(resource(resource_type, name, None));
            assert_eq!((result.error_code, result.configs.len()), (0, 0));
        }
    }
}

#[test]
fn what_is_set_at_run_time_is_described_with_its_source() {
    let mut image = image_with("t", &[]);
    for (name, value) in [("", "2000"), ("1", "3000"), ("2", "4000")] {
        image.configs.insert(
            ConfigResource::Broker(name.to_owned()),
            Arc::new(BTreeMap::from([(
                "message.max.bytes".to_owned(),
                value.to_owned(),
            )])),
        );
    }
    let keys = Some(&["message.max.bytes", "max.message.bytes", "num.partitions"][..]);
    let resources = vec![
        resource(BROKER, "1", keys),
        resource(BROKER, "", keys),
        resource(TOPIC, "t", keys),
    ];
    let response = describe(ask(resources), 4, &image, &config(&[]));
    let told: Vec<Vec<_>> = response
        .results
        .iter()
        .map(|result| {
            let configs = result.configs.iter();
            configs
                .filter(|config| config.name.as_str() != "num.partitions")
                .map(|config| {
                    (
                        config.value.as_deref().unwrap(),
                        config.config_source,
                        config.read_only,
                    )
                })
                .collect()
        })
        .collect();
    assert_eq!(
        told,
        [
            [("3000", 2, false)],
            [("2000", 3, false)],
            [("3000", 2, false)]
        ]
    );
}

#[test]
fn synonyms_types_and_documentation_come_when_asked_for_and_encode_at_every_version() {
    let image = image_with("t", &[]);
    for version in 1..=4 {
        for (synonyms, documentation) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            let mut request = ask(vec![
                resource(TOPIC, "t", None),
                resource(BROKER, "1", None),
                resource(TOPIC, "u", None),
            ]);
            request.include_synonyms = synonyms;
            request.include_documentation = documentation;
            let response = describe(request, version, &image, &config(&[]));
            let mut bytes = bytes::BytesMut::new();
            response.encode(&mut bytes, version).unwrap();
            let decoded = DescribeConfigsResponse::decode(&mut bytes.freeze(), version).unwrap();
            assert_eq!(decoded, response);

            let typed = version >= 3;
            for config in &decoded.results[0].configs {
                assert_eq!(config.config_type != 0, typed, "{}", config.name);
                let text = config
                    .documentation
                    .as_ref()
                    .is_some_and(|text| !text.is_empty());
                assert_eq!(text, typed && documentation, "{}", config.name);
                assert!(synonyms || config.synonyms.is_empty());
            }
            assert_eq!(
                decoded.results[0]
                    .configs
                    .iter()
                    .any(|config| !config.synonyms.is_empty()),
                synonyms
            );
        }
    }
}
