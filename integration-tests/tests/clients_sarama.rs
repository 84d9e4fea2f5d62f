//! sarama, with the protocol version it takes by default and with that of Kafka 2.0, against a real broker.

use ottla_integration_tests::admin::{self, Alter};
use ottla_integration_tests::clients::sarama;
use ottla_integration_tests::groups;
use ottla_integration_tests::member::JsonClient;

const CLIENT: JsonClient = JsonClient {
    program: sarama,
    produce: &[
        &[],
        &["idempotent=true"],
        &["codec=gzip"],
        &["codec=snappy"],
        &["codec=lz4"],
        &["codec=zstd"],
    ],
    member: &[],
};

#[test]
fn members_share_leave_crash_and_resume() {
    groups::members_share_leave_crash_and_resume("sarama", &CLIENT);
}

/// Version 2.0.0 knows neither zstd nor IncrementalAlterConfigs.
const VERSION_2_0: JsonClient = JsonClient {
    program: sarama,
    produce: &[
        &["version=2.0.0"],
        &["version=2.0.0", "idempotent=true"],
        &["version=2.0.0", "codec=lz4"],
    ],
    member: &["version=2.0.0"],
};

#[test]
fn members_of_version_2_0_share_leave_crash_and_resume() {
    groups::members_share_leave_crash_and_resume("sarama-2-0", &VERSION_2_0);
}

#[test]
fn version_2_0_manages_topics_configs_and_groups() {
    admin::topics_configs_and_groups_are_managed(
        "sarama-2-0-admin",
        &VERSION_2_0,
        &[Alter::Whole],
        &[],
    );
}

#[test]
fn topics_configs_and_groups_are_managed() {
    let alters = [Alter::OneKey, Alter::Whole];
    admin::topics_configs_and_groups_are_managed("sarama-admin", &CLIENT, &alters, &[]);
}
