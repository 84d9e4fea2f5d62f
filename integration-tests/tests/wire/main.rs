//! The wire test: every row of the API table at every version, against a real broker process.
//!
//! Each row has two stories here. One request succeeds, and its answer is looked at field by field; one fails with
//! the error that Kafka names for it. `wire.rs` of the library checks of every single answer that the codec reads it
//! to its last byte. A row without a story fails the test, so that a new API cannot be forgotten. What spans several
//! requests (order, long polls, sessions, sequences, restarts) stands in the sibling files.
//!
//! Nothing here sleeps: a test waits for an answer, or for the end of a process.
//!
//! `OTTLA_TEST_BOOTSTRAP` tells what needs no restart to another broker. Apache Kafka 4.3.1 differs in this much:
//! - it answers CreateTopics, CreatePartitions and Metadata's creations before partitions are there;
//! - its lists of topics and configs have another order, and `min.insync.replicas` another source;
//! - a partition that Produce names twice gets one of the two batches, here error 42;
//! - some refusals have no message, or tell the log start beside the error;
//! - an unknown version of ApiVersions is answered with key 18 alone, here with all;
//! - a fetch may end in a part of a batch, here never;
//! - a join that names a protocol twice is never answered, here the first one counts;
//! - transactions exist, so InitProducerId with a transactional id has other errors.

mod admin;
mod clusters;
mod fetches;
mod group_expiry;
mod group_lists;
mod group_offsets;
mod group_returns;
mod groups;
mod logs;
mod order;
mod producers;
mod requests;
mod sessions;
mod topic_configs;
mod topics;
mod versions;

use std::panic::{AssertUnwindSafe, catch_unwind};

use kafka_protocol::messages::ApiKey;
use ottla::router;
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, TempDir};

/// Where the stories play: one broker, one connection.
struct Stage {
    broker: Broker,
    wire: Wire,
}

impl Stage {
    /// A connection for what ends in a closed one.
    fn another(&self) -> Wire {
        Wire::connect(&self.broker)
    }
}

/// Both stories of a row; they are told at each of its versions.
struct Row {
    key: ApiKey,
    succeeds: fn(&mut Stage, i16),
    fails: fn(&mut Stage, i16),
}

const fn row(key: ApiKey, succeeds: fn(&mut Stage, i16), fails: fn(&mut Stage, i16)) -> Row {
    Row {
        key,
        succeeds,
        fails,
    }
}

const ROWS: &[Row] = &[
    row(ApiKey::Produce, logs::produce_succeeds, logs::produce_fails),
    row(ApiKey::Fetch, logs::fetch_succeeds, logs::fetch_fails),
    row(
        ApiKey::ListOffsets,
        logs::list_offsets_succeeds,
        logs::list_offsets_fails,
    ),
    row(
        ApiKey::Metadata,
        clusters::metadata_succeeds,
        clusters::metadata_fails,
    ),
    row(
        ApiKey::OffsetCommit,
        group_offsets::offset_commit_succeeds,
        group_offsets::offset_commit_fails,
    ),
    row(
        ApiKey::OffsetFetch,
        group_offsets::offset_fetch_succeeds,
        group_offsets::offset_fetch_fails,
    ),
    row(
        ApiKey::FindCoordinator,
        group_lists::find_coordinator_succeeds,
        group_lists::find_coordinator_fails,
    ),
    row(
        ApiKey::JoinGroup,
        groups::join_group_succeeds,
        groups::join_group_fails,
    ),
    row(
        ApiKey::Heartbeat,
        groups::heartbeat_succeeds,
        groups::heartbeat_fails,
    ),
    row(
        ApiKey::LeaveGroup,
        groups::leave_group_succeeds,
        groups::leave_group_fails,
    ),
    row(
        ApiKey::SyncGroup,
        groups::sync_group_succeeds,
        groups::sync_group_fails,
    ),
    row(
        ApiKey::DescribeGroups,
        group_lists::describe_groups_succeeds,
        group_lists::describe_groups_fails,
    ),
    row(
        ApiKey::ListGroups,
        group_lists::list_groups_succeeds,
        group_lists::list_groups_fails,
    ),
    row(
        ApiKey::ApiVersions,
        versions::api_versions_succeeds,
        versions::api_versions_fails,
    ),
    row(
        ApiKey::CreateTopics,
        topics::create_topics_succeeds,
        topics::create_topics_fails,
    ),
    row(
        ApiKey::DeleteTopics,
        topics::delete_topics_succeeds,
        topics::delete_topics_fails,
    ),
    row(
        ApiKey::DeleteRecords,
        logs::delete_records_succeeds,
        logs::delete_records_fails,
    ),
    row(
        ApiKey::InitProducerId,
        producers::init_producer_id_succeeds,
        producers::init_producer_id_fails,
    ),
    row(
        ApiKey::OffsetForLeaderEpoch,
        logs::leader_epoch_succeeds,
        logs::leader_epoch_fails,
    ),
    row(
        ApiKey::DescribeAcls,
        admin::no_acls_are_created_or_deleted,
        admin::acls_are_disabled,
    ),
    row(
        ApiKey::CreateAcls,
        admin::no_acls_are_created_or_deleted,
        admin::acls_are_disabled,
    ),
    row(
        ApiKey::DeleteAcls,
        admin::no_acls_are_created_or_deleted,
        admin::acls_are_disabled,
    ),
    row(
        ApiKey::DescribeConfigs,
        clusters::describe_configs_succeeds,
        clusters::describe_configs_fails,
    ),
    row(
        ApiKey::AlterConfigs,
        admin::alter_configs_succeeds,
        admin::alter_configs_fails,
    ),
    row(
        ApiKey::DescribeLogDirs,
        admin::describe_log_dirs_succeeds,
        admin::describe_log_dirs_fails,
    ),
    row(
        ApiKey::CreatePartitions,
        topics::create_partitions_succeeds,
        topics::create_partitions_fails,
    ),
    row(
        ApiKey::DeleteGroups,
        group_lists::delete_groups_succeeds,
        group_lists::delete_groups_fails,
    ),
    row(
        ApiKey::IncrementalAlterConfigs,
        admin::incremental_alter_configs_succeeds,
        admin::incremental_alter_configs_fails,
    ),
    row(
        ApiKey::ListPartitionReassignments,
        topics::list_reassignments_succeeds,
        versions::newer_version_fails,
    ),
    row(
        ApiKey::OffsetDelete,
        group_offsets::offset_delete_succeeds,
        group_offsets::offset_delete_fails,
    ),
    row(
        ApiKey::DescribeClientQuotas,
        admin::describe_client_quotas_succeeds,
        admin::describe_client_quotas_fails,
    ),
    row(
        ApiKey::DescribeCluster,
        clusters::describe_cluster_succeeds,
        clusters::describe_cluster_fails,
    ),
    row(
        ApiKey::ListConfigResources,
        admin::list_config_resources_succeeds,
        admin::list_config_resources_fails,
    ),
    row(
        ApiKey::DescribeTopicPartitions,
        clusters::describe_topic_partitions_succeeds,
        clusters::describe_topic_partitions_fails,
    ),
];

/// Partitions of a topic that does not say how many it wants.
const DEFAULT_PARTITIONS: i32 = 3;

#[test]
fn every_row_at_every_version_succeeds_and_fails_as_kafka_does() {
    let folder = TempDir::new("wire-rows");
    let properties = [
        ("num.partitions", "3"),
        ("group.initial.rebalance.delay.ms", "0"),
    ];
    let broker = Broker::start(folder.path(), &properties);
    let wire = Wire::connect(&broker);
    let mut stage = Stage { broker, wire };
    let mut failed = Vec::new();
    for route in router::table() {
        let row = ROWS
            .iter()
            .find(|row| row.key as i16 == route.key)
            .unwrap_or_else(|| panic!("no stories of {} (key {})", route.name, route.key));
        for version in route.versions.clone() {
            for (story, outcome) in [(row.succeeds, "succeeds"), (row.fails, "fails")] {
                let name = format!("{} v{version} {outcome}", route.name);
                println!("{name}");
                // One failed story does not keep the others from being told.
                let told = catch_unwind(AssertUnwindSafe(|| story(&mut stage, version)));
                if told.is_err() {
                    failed.push(name);
                    stage.wire = stage.another();
                }
            }
        }
    }
    assert!(failed.is_empty(), "failed: {failed:#?}");
    assert_eq!(ROWS.len(), router::table().len(), "stories without a row");
}

/// A broker over a folder of its own, and a connection to it.
fn started(name: &str, properties: &[(&str, &str)]) -> (TempDir, Broker, Wire) {
    let folder = TempDir::new(name);
    let broker = Broker::start(folder.path(), properties);
    let wire = Wire::connect(&broker);
    (folder, broker, wire)
}
