//! confluent-kafka (librdkafka 2.x, which speaks topic ids and newer versions than kcat's) against a real broker.

use ottla_integration_tests::admin::{self, Alter};
use ottla_integration_tests::clients::confluent_kafka;
use ottla_integration_tests::json_client::JsonClient;
use ottla_integration_tests::round_trip::{Client, PARTITIONS};
use ottla_integration_tests::{Broker, TempDir, groups};

fn with_client(name: &str, test: impl Fn(Client)) {
    let folder = TempDir::new(name);
    let broker = Broker::small(
        folder.path(),
        &[("num.partitions", &PARTITIONS.to_string())],
    );
    test(Client {
        broker: &broker,
        program: || confluent_kafka("client.py"),
    });
}

#[test]
fn keyed_text_comes_back_with_the_defaults_idempotence_every_codec_and_every_acks() {
    let settings: [&[&str]; 8] = [
        &[],
        &["enable.idempotence=true"],
        &["compression.type=gzip"],
        &["compression.type=snappy"],
        &["compression.type=lz4"],
        &["compression.type=zstd"],
        &[
            "enable.idempotence=true",
            "compression.type=zstd",
            "linger.ms=50",
        ],
        &["acks=1"],
    ];
    with_client("librdkafka-text", |client| {
        client.keyed_text_comes_back(&settings)
    });
}

#[test]
fn unusual_records_come_back() {
    with_client("librdkafka-unusual", |client| {
        client.unusual_records_come_back()
    });
}

#[test]
fn an_assigned_consumer_starts_where_it_is_told() {
    with_client("librdkafka-starts", |client| client.every_start_is_found());
}

const GROUPS: JsonClient = JsonClient {
    program: || confluent_kafka("client.py"),
    produce: &[&[], &["enable.idempotence=true"], &["compression.type=lz4"]],
    member: &[],
};

#[test]
fn members_share_leave_crash_and_resume() {
    groups::members_share_leave_crash_and_resume("librdkafka-eager", &GROUPS);
}

#[test]
fn cooperative_members_share_leave_crash_and_resume() {
    let cooperative = JsonClient {
        member: &["partition.assignment.strategy=cooperative-sticky"],
        ..GROUPS
    };
    groups::members_share_leave_crash_and_resume("librdkafka-cooperative", &cooperative);
}

#[test]
fn topics_configs_and_groups_are_managed() {
    let alters = [Alter::OneKey, Alter::Whole];
    admin::topics_configs_and_groups_are_managed("librdkafka-admin", &GROUPS, &alters, &[]);
}
