//! THE API TABLE. One row a key: range, handler, marks. From the rows come ApiVersions, the version check,
//! the frame guard's call, decoding and encoding, the metric label, the README table and the wire tests.
//!
//! A new API is one function in `handlers/` and one row here. Nothing runs here: what a row does is in `route.rs`.

use std::sync::LazyLock;

use kafka_protocol::messages::ProduceRequest;

use super::route::{Route, route, route_deferred, route_fetch};
use crate::handlers::{
    acls, api_versions, configs, fetch, group_offsets, groups, log_dirs, metadata, offsets,
    produce, producer_ids, quotas, topics,
};

macro_rules! row {
    ($route:ident, $min:literal ..= $max:literal, $name:literal, $handler:path) => {
        $route::<$min, $max, _, _>($name, $handler)
    };
    ($min:literal ..= $max:literal, $name:literal, $handler:path) => {
        route::<$min, $max, _, _, _>($name, $handler)
    };
}

const NO_AUTHORIZER: &str = "no authorizer exists: SECURITY_DISABLED";

static TABLE: LazyLock<Vec<Route>> = LazyLock::new(|| {
    vec![
        route_deferred::<3, 13, ProduceRequest, _, _>("Produce", produce::produce).advertised_from(
            0,
            "advertised from 0, or older librdkafka switches compression off (KAFKA-18659); 0-2 close the connection",
        ),
        row!(route_fetch, 4..=18, "Fetch", fetch::fetch),
        row!(1..=10, "ListOffsets", offsets::list_offsets),
        row!(0..=13, "Metadata", metadata::metadata),
        row!(2..=9, "OffsetCommit", group_offsets::offset_commit),
        row!(1..=9, "OffsetFetch", group_offsets::offset_fetch),
        row!(0..=6, "FindCoordinator", groups::find_coordinator),
        row!(0..=9, "JoinGroup", groups::join_group),
        row!(0..=4, "Heartbeat", groups::heartbeat),
        row!(0..=5, "LeaveGroup", groups::leave_group),
        row!(0..=5, "SyncGroup", groups::sync_group),
        row!(0..=6, "DescribeGroups", groups::describe_groups),
        row!(0..=5, "ListGroups", groups::list_groups),
        row!(0..=4, "ApiVersions", api_versions::api_versions).noted("an unknown version is answered in version 0 with error 35"),
        row!(2..=7, "CreateTopics", topics::create_topics),
        row!(1..=6, "DeleteTopics", topics::delete_topics),
        row!(0..=2, "DeleteRecords", offsets::delete_records),
        row!(0..=5, "InitProducerId", producer_ids::init_producer_id)
            .noted("idempotent producers; a transactional id is refused until transactions exist"),
        row!(2..=4, "OffsetForLeaderEpoch", offsets::offset_for_leader_epoch),
        row!(1..=3, "DescribeAcls", acls::describe_acls).noted(NO_AUTHORIZER),
        row!(1..=3, "CreateAcls", acls::create_acls).noted(NO_AUTHORIZER),
        row!(1..=3, "DeleteAcls", acls::delete_acls).noted(NO_AUTHORIZER),
        row!(1..=4, "DescribeConfigs", configs::describe_configs),
        row!(0..=2, "AlterConfigs", configs::alter_configs),
        row!(1..=4, "DescribeLogDirs", log_dirs::describe_log_dirs),
        row!(0..=3, "CreatePartitions", topics::create_partitions),
        row!(0..=2, "DeleteGroups", groups::delete_groups),
        row!(0..=1, "IncrementalAlterConfigs", configs::incremental_alter_configs),
        row!(0..=0, "ListPartitionReassignments", topics::list_partition_reassignments),
        row!(0..=0, "OffsetDelete", group_offsets::offset_delete),
        row!(0..=1, "DescribeClientQuotas", quotas::describe_client_quotas).noted("there are no quotas"),
        row!(0..=2, "DescribeCluster", metadata::describe_cluster),
        row!(0..=1, "ListConfigResources", configs::list_config_resources),
        row!(0..=0, "DescribeTopicPartitions", metadata::describe_topic_partitions),
    ]
});

/// The rows, by key in rising order.
pub fn table() -> &'static [Route] {
    &TABLE
}

/// The row of an API key.
pub fn find(key: i16) -> Option<&'static Route> {
    table().iter().find(|route| route.key == key)
}

/// The table as Markdown, for the README.
pub fn markdown_table() -> String {
    let mut text = String::from("| key | API | versions | note |\n|--|--|--|--|\n");
    for route in table() {
        let (min, max) = (route.versions.start(), route.versions.end());
        let note = if route.note.is_empty() {
            String::new()
        } else {
            format!(" {}", route.note)
        };
        text.push_str(&format!(
            "| {} | {} | {min}-{max} |{note} |\n",
            route.key, route.name
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_each_key_has_one() {
        assert!(table().is_sorted_by_key(|route| route.key));
        let mut keys: Vec<_> = table().iter().map(|route| route.key).collect();
        keys.dedup();
        assert_eq!(keys.len(), table().len());
    }

    /// Without one of these some stock client, console tool or dashboard does not work at all.
    #[test]
    fn what_stock_clients_cannot_do_without_is_served() {
        let keys = [
            0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 22, 23, 32, 35, 37, 42, 44,
            46, 60, 75,
        ];
        for key in keys {
            assert!(find(key).is_some(), "key {key}");
        }
    }
}
