//! aiokafka (asyncio) against a real broker.

use ottla_integration_tests::admin::{self, Alter};
use ottla_integration_tests::clients::aiokafka;
use ottla_integration_tests::groups;
use ottla_integration_tests::member::JsonClient;

const CLIENT: JsonClient = JsonClient {
    program: aiokafka,
    produce: &[
        &[],
        &["enable_idempotence=true"],
        &["compression_type=gzip"],
        &["compression_type=snappy"],
        &["compression_type=lz4"],
        &["compression_type=zstd"],
    ],
    member: &[],
};

#[test]
fn members_share_leave_crash_and_resume() {
    groups::members_share_leave_crash_and_resume("aiokafka", &CLIENT);
}

#[test]
fn topics_configs_and_groups_are_managed() {
    let alters = [Alter::Whole];
    admin::topics_configs_and_groups_are_managed(
        "aiokafka-admin",
        &CLIENT,
        &alters,
        &["delete-group"],
    );
}
