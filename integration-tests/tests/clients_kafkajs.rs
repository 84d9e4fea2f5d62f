//! kafkajs against a real broker.

use ottla_integration_tests::admin::{self, Alter};
use ottla_integration_tests::clients::kafkajs;
use ottla_integration_tests::groups;
use ottla_integration_tests::member::JsonClient;

const CLIENT: JsonClient = JsonClient {
    program: kafkajs,
    produce: &[&[], &["idempotent=true"], &["codec=gzip"]],
    member: &[],
};

#[test]
fn members_share_leave_crash_and_resume() {
    groups::members_share_leave_crash_and_resume("kafkajs", &CLIENT);
}

#[test]
fn topics_configs_and_groups_are_managed() {
    let alters = [Alter::Whole];
    admin::topics_configs_and_groups_are_managed("kafkajs-admin", &CLIENT, &alters, &[]);
}
