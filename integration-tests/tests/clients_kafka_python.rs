//! kafka-python (pure Python, idempotent by default) against a real broker.

use ottla_integration_tests::admin::{self, Alter};
use ottla_integration_tests::clients::kafka_python;
use ottla_integration_tests::groups;
use ottla_integration_tests::member::JsonClient;

const CLIENT: JsonClient = JsonClient {
    program: kafka_python,
    produce: &[
        &[],
        &["compression_type=gzip"],
        &["compression_type=snappy"],
        &["compression_type=lz4"],
        &["compression_type=zstd"],
        &["enable_idempotence=false", "acks=1"],
    ],
    member: &[],
};

#[test]
fn members_share_leave_crash_and_resume() {
    groups::members_share_leave_crash_and_resume("kafka-python", &CLIENT);
}

#[test]
fn topics_configs_and_groups_are_managed() {
    let alters = [Alter::OneKey];
    admin::topics_configs_and_groups_are_managed("kafka-python-admin", &CLIENT, &alters, &[]);
}
