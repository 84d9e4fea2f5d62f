//! franz-go, which begins with the newest ApiVersions it knows and is idempotent by default, against a real broker.

use ottla_integration_tests::admin::{self, Alter};
use ottla_integration_tests::clients::franz_go;
use ottla_integration_tests::groups::members_share_leave_crash_and_resume;
use ottla_integration_tests::json_client::JsonClient;
use ottla_integration_tests::round_trip::{Client, PARTITIONS};
use ottla_integration_tests::{Broker, TempDir};

fn with_client(name: &str, test: impl Fn(Client)) {
    let folder = TempDir::new(name);
    let broker = Broker::small(
        folder.path(),
        &[("num.partitions", &PARTITIONS.to_string())],
    );
    test(Client {
        broker: &broker,
        program: franz_go,
    });
}

#[test]
fn keyed_text_comes_back_with_the_defaults_without_idempotence_and_in_every_codec() {
    let settings: [&[&str]; 6] = [
        &[],
        &["idempotent=false"],
        &["codec=none"],
        &["codec=gzip"],
        &["codec=lz4"],
        &["codec=zstd"],
    ];
    with_client("franz-text", |client| {
        client.keyed_text_comes_back(&settings)
    });
}

#[test]
fn unusual_records_come_back() {
    with_client("franz-unusual", |client| client.unusual_records_come_back());
}

#[test]
fn an_assigned_consumer_starts_where_it_is_told() {
    with_client("franz-starts", |client| client.every_start_is_found());
}

const GROUPS: JsonClient = JsonClient {
    program: franz_go,
    produce: &[&[], &["codec=zstd"], &["idempotent=false"]],
    member: &[],
};

#[test]
fn cooperative_members_share_leave_crash_and_resume() {
    members_share_leave_crash_and_resume("franz-cooperative", &GROUPS);
}

#[test]
fn members_of_the_older_protocol_share_leave_crash_and_resume() {
    let eager = JsonClient {
        member: &["balancer=range"],
        ..GROUPS
    };
    members_share_leave_crash_and_resume("franz-eager", &eager);
}

#[test]
fn topics_configs_and_groups_are_managed() {
    let alters = [Alter::OneKey, Alter::Whole];
    admin::topics_configs_and_groups_are_managed("franz-admin", &GROUPS, &alters, &[]);
}
