//! Where settings come from, and what is said of those that are odd.

use std::collections::BTreeMap;
use std::fs;

use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::protocol::StrBytes;
use ottla_integration_tests::broker::Launch;
use ottla_integration_tests::clients::kcat;
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, TempDir, repository};
use serde_json::Value;

/// ConfigResource.Type.BROKER.
const BROKER: i8 = 4;

/// Value and source (`DescribeConfigsResponse.ConfigSource`) of every broker config.
fn broker_configs(broker: &Broker) -> BTreeMap<String, (String, i8)> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(BROKER)
        .with_resource_name(StrBytes::from_static_str("1"));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let mut response = Wire::connect(broker).ask(4, &request);
    let result = response.results.remove(0);
    assert_eq!(result.error_code, 0);
    let shown = |value: Option<StrBytes>| value.map(|value| value.to_string()).unwrap_or_default();
    result
        .configs
        .into_iter()
        .map(|config| {
            (
                config.name.to_string(),
                (shown(config.value), config.config_source),
            )
        })
        .collect()
}

#[test]
fn the_command_line_wins_over_the_environment_and_the_environment_over_the_file() {
    const STATIC: i8 = 4;
    const DEFAULT: i8 = 5;
    let folder = TempDir::new("sources");
    let file = folder.path().join("server.properties");
    let text = "num.partitions=2\nmessage.max.bytes=2000000\nmax.connections.per.ip=20\n";
    fs::write(&file, text).expect("a file in the test's folder");
    let file = file.display().to_string();
    let launch = Launch {
        args: &["--config", &file],
        env: &[
            ("KAFKA_MESSAGE_MAX_BYTES", "3000000"),
            ("KAFKA_MAX_CONNECTIONS_PER_IP", "30"),
            // The official image's environment holds these too; they are no properties.
            ("KAFKA_HEAP_OPTS", "-Xmx1G"),
            ("KAFKA_JMX_PORT", "9999"),
        ],
        properties: &[("max.connections.per.ip", "40")],
    };
    let broker = Broker::launch(&folder.path().join("data"), &launch);
    let configs = broker_configs(&broker);
    for (name, value, source) in [
        ("num.partitions", "2", STATIC),
        ("message.max.bytes", "3000000", STATIC),
        ("max.connections.per.ip", "40", STATIC),
        ("log.segment.bytes", "1073741824", DEFAULT),
    ] {
        assert_eq!(configs[name], (value.to_owned(), source), "{name}");
    }
    // They are not only shown: two partitions, for one.
    kcat(&broker).args(["-P", "-t", "t"]).stdin("x\n").succeed();
    let listed = kcat(&broker).args(["-L", "-t", "t"]).succeed().stdout;
    assert!(listed.contains("topic \"t\" with 2 partitions"), "{listed}");
}

#[test]
fn an_unknown_key_is_a_warning() {
    let folder = TempDir::new("unknown-key");
    let mut broker = Broker::start(folder.path(), &[("no.such.key", "1")]);
    broker.allow_log("no.such.key");
    let warned = "no.such.key: unknown property, ignored (--set)";
    let lines: Vec<String> = broker.log();
    assert!(
        lines
            .iter()
            .any(|line| line.contains(" WARN ") && line.ends_with(warned)),
        "{lines:?}"
    );
    kcat(&broker).args(["-L"]).succeed();
}

#[test]
fn a_stock_server_properties_starts_with_a_folder_and_a_port_of_its_own() {
    let folder = TempDir::new("stock");
    let stock = repository().join("broker/src/testdata/server.properties");
    let stock = stock.display().to_string();
    let launch = Launch {
        args: &["--config", &stock],
        ..Launch::default()
    };
    let broker = Broker::launch(folder.path(), &launch);
    // Nothing that the file asks for is left undone.
    let warnings = broker
        .log()
        .iter()
        .filter(|line| line.contains(" WARN "))
        .count();
    assert_eq!(warnings, 0, "{:?}", broker.log());
    let listed = kcat(&broker).args(["-L"]).succeed().stdout;
    assert!(listed.contains("broker 1 at localhost:9092"), "{listed}");
    let banner = broker.process().stdout.all();
    let advertised = "clients are told to connect to localhost:9092";
    assert!(
        banner.iter().any(|line| line.contains(advertised)),
        "{banner:?}"
    );
    let listening = banner
        .iter()
        .filter(|line| line.starts_with("listening on"));
    assert_eq!(listening.count(), 1, "no controller's listener: {banner:?}");
}

#[test]
fn logs_for_machines_are_one_json_object_a_line() {
    let folder = TempDir::new("json-log");
    let launch = Launch {
        args: &["--log-format", "json"],
        properties: &[("no.such.key", "1")],
        ..Launch::default()
    };
    let mut broker = Broker::launch(folder.path(), &launch);
    broker.allow_log("no.such.key");
    kcat(&broker).args(["-P", "-t", "t"]).stdin("x\n").succeed();
    assert!(broker.sigterm().success());
    let lines: Vec<Value> = broker
        .log()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    for line in &lines {
        for field in ["timestamp", "level", "message"] {
            assert!(line[field].is_string(), "{field} of {line}");
        }
    }
    let told = |level: &str, message: &str| {
        lines.iter().find(|line| {
            let text = line["message"].as_str().unwrap_or_default();
            line["level"] == level && text.contains(message)
        })
    };
    assert!(told("WARN", "no.such.key").is_some(), "{lines:?}");
    assert!(told("INFO", "stopped cleanly").is_some(), "{lines:?}");
    let created = told("INFO", "topic created on first use").expect("a line about the topic");
    assert_eq!(
        (&created["topic"], &created["partitions"]),
        (&"t".into(), &1.into())
    );
}
