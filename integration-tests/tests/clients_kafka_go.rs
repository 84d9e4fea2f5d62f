//! kafka-go, which speaks fixed old versions and writes with acks=0 by default, against a real broker.

use ottla_integration_tests::admin::{self, Alter};
use ottla_integration_tests::clients::kafka_go;
use ottla_integration_tests::groups;
use ottla_integration_tests::member::JsonClient;

const CLIENT: JsonClient = JsonClient {
    program: kafka_go,
    produce: &[
        &[],
        &["acks=all"],
        &["acks=1", "codec=gzip"],
        &["acks=all", "codec=snappy"],
        &["acks=all", "codec=lz4"],
        &["acks=all", "codec=zstd"],
    ],
    member: &[],
};

#[test]
fn members_share_leave_crash_and_resume() {
    groups::members_share_leave_crash_and_resume("kafka-go", &CLIENT);
}

#[test]
fn topics_configs_and_groups_are_managed() {
    let alters = [Alter::OneKey, Alter::Whole];
    admin::topics_configs_and_groups_are_managed("kafka-go-admin", &CLIENT, &alters, &[]);
}
