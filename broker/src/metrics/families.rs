//! Every metric name on `/metrics`, in one table.
//!
//! Used by the rest of `metrics`; nothing else spells a metric name but `exporters`, which tells of each name of the
//! two exporters whether it is here. Three groups: the names under which the JMX exporter shows Apache Kafka's MBeans
//! (`kafka_<domain>_<type>_<name>`, lower case, as the Strimzi dashboards and alerts ask for them) and its own process
//! (`process_`), the names of kafka_exporter, and our own `ottla_` names.
//!
//! Invariants: names are distinct; a scrape of a busy broker shows each of them, and no other.

/// What kind of values a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows, from 0 at start.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, `_sum` and `_count`.
    Histogram,
}

impl Kind {
    /// The word on the `# TYPE` line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric name.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
}

/// Declares one constant per row, and both tables.
macro_rules! families {
    ($($(#[$note:meta])* $constant:ident: $kind:ident $name:literal $help:literal;)*) => {
        $($(#[$note])* pub(crate) const $constant: Family = Family {
            name: $name,
            kind: Kind::$kind,
            help: $help,
        };)*

        /// Name and help text of every metric on `/metrics`.
        pub const METRIC_FAMILIES: &[(&str, &str)] = &[$(($name, $help),)*];

        /// The rows themselves.
        pub(crate) const ALL: &[&Family] = &[$(&$constant,)*];
    };
}

families! {
    // Per topic, and once without the topic label for all of them.
    MESSAGES_IN: Counter "kafka_server_brokertopicmetrics_messagesin_total"
        "Records appended by producers.";
    BYTES_IN: Counter "kafka_server_brokertopicmetrics_bytesin_total"
        "Bytes of record batches appended by producers.";
    BYTES_OUT: Counter "kafka_server_brokertopicmetrics_bytesout_total"
        "Bytes of record batches sent to consumers.";
    PRODUCE_REQUESTS: Counter "kafka_server_brokertopicmetrics_totalproducerequests_total"
        "Partitions asked for in Produce requests.";
    FETCH_REQUESTS: Counter "kafka_server_brokertopicmetrics_totalfetchrequests_total"
        "Partitions asked for in Fetch requests.";
    FAILED_PRODUCE_REQUESTS: Counter "kafka_server_brokertopicmetrics_failedproducerequests_total"
        "Partitions of Produce requests that failed for a reason on the broker.";
    FAILED_FETCH_REQUESTS: Counter "kafka_server_brokertopicmetrics_failedfetchrequests_total"
        "Partitions of Fetch requests that failed for a reason on the broker.";

    // This broker as a replica.
    PARTITION_COUNT: Gauge "kafka_server_replicamanager_partitioncount"
        "Partitions with a replica on this broker.";
    LEADER_COUNT: Gauge "kafka_server_replicamanager_leadercount"
        "Partitions this broker leads.";
    PRODUCER_ID_COUNT: Gauge "kafka_server_replicamanager_produceridcount"
        "Producers whose sequence state is kept, each counted once a partition.";
    UNDER_REPLICATED_PARTITIONS: Gauge "kafka_server_replicamanager_underreplicatedpartitions"
        "Led partitions with fewer in-sync replicas than replicas.";
    UNDER_MIN_ISR_PARTITION_COUNT: Gauge "kafka_server_replicamanager_underminisrpartitioncount"
        "Led partitions with fewer in-sync replicas than min.insync.replicas.";
    OFFLINE_REPLICA_COUNT: Gauge "kafka_server_replicamanager_offlinereplicacount"
        "Replicas on this broker that cannot be used because the store failed.";
    OFFLINE_LOG_DIRECTORY_COUNT: Gauge "kafka_log_logmanager_offlinelogdirectorycount"
        "Log directories that failed: 1 after a write or sync error of the store, else 0.";
    BROKER_STATE: Gauge "kafka_server_kafkaserver_brokerstate"
        "0 not running, 1 starting, 2 recovery, 3 running, 6 pending controlled shutdown, 7 shutting down.";
    DISK_READ_BYTES: Gauge "kafka_server_kafkaserver_linux_disk_read_bytes"
        "Bytes this process made Linux read from disks, from /proc/self/io.";
    DISK_WRITE_BYTES: Gauge "kafka_server_kafkaserver_linux_disk_write_bytes"
        "Bytes this process made Linux write to disks, from /proc/self/io.";

    REQUEST_HANDLER_IDLE: Gauge "kafka_server_kafkarequesthandlerpool_requesthandleravgidle_percent"
        "Share of the last minute, 0 to 1, that the network threads were idle, which serve what is produced and fetched.";
    NETWORK_PROCESSOR_IDLE: Gauge "kafka_network_socketserver_networkprocessoravgidle_percent"
        "The same value: the threads that serve the sockets also serve the requests.";

    // The controller's view.
    ACTIVE_CONTROLLER_COUNT: Gauge "kafka_controller_kafkacontroller_activecontrollercount"
        "1 if this node is the active controller, else 0.";
    OFFLINE_PARTITIONS_COUNT: Gauge "kafka_controller_kafkacontroller_offlinepartitionscount"
        "Partitions without a leader.";
    GLOBAL_TOPIC_COUNT: Gauge "kafka_controller_kafkacontroller_globaltopiccount"
        "Topics of the cluster.";
    GLOBAL_PARTITION_COUNT: Gauge "kafka_controller_kafkacontroller_globalpartitioncount"
        "Partitions of the cluster.";
    UNCLEAN_LEADER_ELECTIONS: Counter "kafka_controller_controllerstats_uncleanleaderelections_total"
        "Leaders elected from outside the in-sync replicas.";

    // Partitions this broker leads.
    PARTITION_UNDER_MIN_ISR: Gauge "kafka_cluster_partition_underminisr"
        "1 if there are fewer in-sync replicas than min.insync.replicas.";
    PARTITION_AT_MIN_ISR: Gauge "kafka_cluster_partition_atminisr"
        "1 if there are exactly min.insync.replicas in-sync replicas.";
    PARTITION_REPLICAS: Gauge "kafka_cluster_partition_replicascount"
        "Replicas of the partition.";
    PARTITION_IN_SYNC_REPLICAS: Gauge "kafka_cluster_partition_insyncreplicascount"
        "In-sync replicas of the partition.";
    PARTITION_LSO_LAG: Gauge "kafka_cluster_partition_laststableoffsetlag"
        "Offsets between the last stable offset and the high watermark.";

    // Partitions with a replica on this broker.
    LOG_SIZE: Gauge "kafka_log_log_size"
        "Bytes of record batches in the partition's log.";
    LOG_START_OFFSET: Gauge "kafka_log_log_logstartoffset"
        "First offset of the partition's log.";
    LOG_END_OFFSET: Gauge "kafka_log_log_logendoffset"
        "Offset the next record of the partition will get.";
    NUM_LOG_SEGMENTS: Gauge "kafka_log_log_numlogsegments"
        "Always 1: a partition is one range of keys, not a list of segment files.";

    // The network.
    CONNECTION_COUNT: Gauge "kafka_server_socket_server_metrics_connection_count"
        "Open connections of a listener.";
    REQUESTS: Counter "kafka_network_requestmetrics_requests_total"
        "Requests answered, by API and version.";
    ERRORS: Counter "kafka_network_requestmetrics_errors_total"
        "Error codes answered, NONE included, by API.";
    TOTAL_TIME: Gauge "kafka_network_requestmetrics_totaltimems"
        "Milliseconds from a request's arrival to the end of its answer; quantiles of the last minutes.";
    TOTAL_TIME_COUNT: Counter "kafka_network_requestmetrics_totaltimems_count"
        "Values behind kafka_network_requestmetrics_totaltimems.";
    QUEUE_TIME: Gauge "kafka_network_requestmetrics_requestqueuetimems"
        "Milliseconds a request waited before its handler began; quantiles of the last minutes.";
    QUEUE_TIME_COUNT: Counter "kafka_network_requestmetrics_requestqueuetimems_count"
        "Values behind kafka_network_requestmetrics_requestqueuetimems.";
    LOCAL_TIME: Gauge "kafka_network_requestmetrics_localtimems"
        "Milliseconds the handler worked; quantiles of the last minutes.";
    LOCAL_TIME_COUNT: Counter "kafka_network_requestmetrics_localtimems_count"
        "Values behind kafka_network_requestmetrics_localtimems.";
    REMOTE_TIME: Gauge "kafka_network_requestmetrics_remotetimems"
        "Milliseconds spent waiting for commits or for data; quantiles of the last minutes.";
    REMOTE_TIME_COUNT: Counter "kafka_network_requestmetrics_remotetimems_count"
        "Values behind kafka_network_requestmetrics_remotetimems.";
    RESPONSE_QUEUE_TIME: Gauge "kafka_network_requestmetrics_responsequeuetimems"
        "Milliseconds an answer waited for the answers before it; quantiles of the last minutes.";
    RESPONSE_QUEUE_TIME_COUNT: Counter "kafka_network_requestmetrics_responsequeuetimems_count"
        "Values behind kafka_network_requestmetrics_responsequeuetimems.";
    RESPONSE_SEND_TIME: Gauge "kafka_network_requestmetrics_responsesendtimems"
        "Milliseconds it took to write an answer to the socket; quantiles of the last minutes.";
    RESPONSE_SEND_TIME_COUNT: Counter "kafka_network_requestmetrics_responsesendtimems_count"
        "Values behind kafka_network_requestmetrics_responsesendtimems.";
    REQUEST_BYTES: Gauge "kafka_network_requestmetrics_requestbytes"
        "Bytes of a request; quantiles of the last minutes.";
    REQUEST_BYTES_COUNT: Counter "kafka_network_requestmetrics_requestbytes_count"
        "Values behind kafka_network_requestmetrics_requestbytes.";

    // Groups.
    NUM_GROUPS: Gauge "kafka_coordinator_group_groupmetadatamanager_numgroups"
        "Groups, with members or with committed offsets only.";
    NUM_OFFSETS: Gauge "kafka_coordinator_group_groupmetadatamanager_numoffsets"
        "Committed offsets, one per group and partition.";
    NUM_GROUPS_STABLE: Gauge "kafka_coordinator_group_groupmetadatamanager_numgroupsstable"
        "Groups whose members have their assignment.";
    NUM_GROUPS_PREPARING: Gauge "kafka_coordinator_group_groupmetadatamanager_numgroupspreparingrebalance"
        "Groups that wait for their members to join.";
    NUM_GROUPS_COMPLETING: Gauge "kafka_coordinator_group_groupmetadatamanager_numgroupscompletingrebalance"
        "Groups that wait for their leader's assignment.";
    NUM_GROUPS_EMPTY: Gauge "kafka_coordinator_group_groupmetadatamanager_numgroupsempty"
        "Groups without members.";
    NUM_GROUPS_DEAD: Gauge "kafka_coordinator_group_groupmetadatamanager_numgroupsdead"
        "Groups about to be forgotten; here they are forgotten at once.";
    GROUP_COUNT: Gauge "kafka_server_group_coordinator_metrics_group_count"
        "Groups by protocol.";
    OFFSET_COUNT: Gauge "kafka_server_group_coordinator_metrics_offset_count"
        "Committed offsets, one per group and partition.";
    CLASSIC_GROUP_COUNT: Gauge "kafka_server_group_coordinator_metrics_classic_group_count"
        "Groups of the classic protocol by state.";

    // The names of kafka_exporter.
    BROKERS: Gauge "kafka_brokers"
        "Brokers in the cluster.";
    BROKER_INFO: Gauge "kafka_broker_info"
        "Always 1; the labels tell a broker's id and address.";
    TOPIC_PARTITIONS: Gauge "kafka_topic_partitions"
        "Partitions of the topic.";
    TOPIC_CURRENT_OFFSET: Gauge "kafka_topic_partition_current_offset"
        "The partition's high watermark.";
    TOPIC_OLDEST_OFFSET: Gauge "kafka_topic_partition_oldest_offset"
        "The partition's first offset.";
    TOPIC_LEADER: Gauge "kafka_topic_partition_leader"
        "Id of the broker that leads the partition, -1 if there is none.";
    TOPIC_LEADER_IS_PREFERRED: Gauge "kafka_topic_partition_leader_is_preferred"
        "1 if the first of the partition's replicas leads it.";
    TOPIC_REPLICAS: Gauge "kafka_topic_partition_replicas"
        "The partition's replicas.";
    TOPIC_IN_SYNC_REPLICA: Gauge "kafka_topic_partition_in_sync_replica"
        "The partition's in-sync replicas.";
    TOPIC_UNDER_REPLICATED: Gauge "kafka_topic_partition_under_replicated_partition"
        "1 if the partition has fewer in-sync replicas than replicas.";

    GROUP_MEMBERS: Gauge "kafka_consumergroup_members"
        "Members of the group.";
    GROUP_CURRENT_OFFSET: Gauge "kafka_consumergroup_current_offset"
        "The group's committed offset: the next one it will read.";
    GROUP_LAG: Gauge "kafka_consumergroup_lag"
        "Offsets between the committed offset and the high watermark, at least 0.";
    GROUP_CURRENT_OFFSET_SUM: Gauge "kafka_consumergroup_current_offset_sum"
        "Committed offsets of the group, summed over the partitions of the topic.";
    GROUP_LAG_SUM: Gauge "kafka_consumergroup_lag_sum"
        "Lag of the group, summed over the partitions of the topic.";

    // The process, as every exporter of Prometheus shows its own.
    PROCESS_CPU_SECONDS: Counter "process_cpu_seconds_total"
        "User and system CPU time of the process.";
    PROCESS_OPEN_FDS: Gauge "process_open_fds"
        "Open file descriptors.";
    PROCESS_MAX_FDS: Gauge "process_max_fds"
        "File descriptors the process may open.";
    PROCESS_VIRTUAL_BYTES: Gauge "process_virtual_memory_bytes"
        "Virtual memory of the process.";
    PROCESS_RESIDENT_BYTES: Gauge "process_resident_memory_bytes"
        "Memory of the process that is in RAM.";
    PROCESS_START_SECONDS: Gauge "process_start_time_seconds"
        "When the process started, in seconds since 1970.";

    // Our own.
    GROUP_LAG_SECONDS: Gauge "kafka_consumergroup_lag_seconds"
        "Age of the first batch the group has not read whole, by its first record's timestamp; 0 without lag.";
    LEFT_OUT: Gauge "ottla_metrics_left_out"
        "Samples this page would have had beyond its size limit, by section; see metrics.detail.";
    DISK_FREE_BYTES: Gauge "ottla_disk_free_bytes"
        "Bytes that the broker may still write to the disk of its data directory.";
    DISK_TOTAL_BYTES: Gauge "ottla_disk_total_bytes"
        "Size of the disk of the data directory.";
    DISK_LEVEL: Gauge "ottla_disk_level"
        "0: enough room on the disk. 1: little, an alarm. 2: nearly full, requests that need room are refused.";
    BUILD_INFO: Gauge "ottla_build_info"
        "Always 1; the label tells the version.";
    REQUEST_SECONDS: Histogram "ottla_request_seconds"
        "Seconds from a request's arrival to the end of its answer.";
    CONNECTIONS_ACCEPTED: Counter "ottla_connections_accepted_total"
        "Connections accepted.";
    CONNECTIONS_CLOSED: Counter "ottla_connections_closed_total"
        "Connections closed, by whichever side.";
    REFUSED: Counter "ottla_refused_total"
        "Input refused as damaged, oversized or hostile, by cause.";
    PANICS: Counter "ottla_panics_total"
        "Panics caught; each one is a bug.";
    DECOMPRESSIONS_RUNNING: Gauge "ottla_decompressions_running"
        "Batches that are being decompressed or compressed now.";
    DECOMPRESSIONS_MOST: Gauge "ottla_decompressions_running_most"
        "Most batches that were being decompressed or compressed at a moment since the start.";
    GROUP_COMMIT_REQUESTS: Histogram "ottla_group_commit_requests"
        "Requests whose batches were written together.";
    GROUP_COMMIT_BATCHES: Histogram "ottla_group_commit_batches"
        "Record batches written together.";
    GROUP_COMMIT_BYTES: Histogram "ottla_group_commit_bytes"
        "Bytes written together.";
    FSYNCS: Counter "ottla_fsyncs_total"
        "Syncs of the log that returned.";
    FSYNC_SECONDS: Histogram "ottla_fsync_seconds"
        "Seconds one sync of the log took.";
    ROCKSDB_MEMTABLE_BYTES: Gauge "ottla_rocksdb_memtable_bytes"
        "Bytes in active and waiting memtables.";
    ROCKSDB_IMMUTABLE_MEMTABLES: Gauge "ottla_rocksdb_immutable_memtables"
        "Memtables that wait to be flushed.";
    ROCKSDB_RUNNING_FLUSHES: Gauge "ottla_rocksdb_running_flushes"
        "Flushes now running.";
    ROCKSDB_RUNNING_COMPACTIONS: Gauge "ottla_rocksdb_running_compactions"
        "Compactions now running.";
    ROCKSDB_DELAYED_WRITE_RATE: Gauge "ottla_rocksdb_delayed_write_rate"
        "Bytes a second to which writes are slowed down, 0 if they are not.";
    ROCKSDB_BACKGROUND_RATE: Gauge "ottla_rocksdb_background_rate"
        "Bytes a second that flushes and compactions may write: little while they are not behind, without limit once they are.";
    ROCKSDB_WRITE_STOPPED: Gauge "ottla_rocksdb_write_stopped"
        "1 while RocksDB holds writes back.";
    ROCKSDB_BACKGROUND_ERRORS: Gauge "ottla_rocksdb_background_errors"
        "Errors of flushes and compactions since the store was opened.";
    ROCKSDB_BLOB_BYTES: Gauge "ottla_rocksdb_blob_bytes"
        "Bytes of blob files.";
    SYNCED_SEQUENCE: Gauge "ottla_log_synced_sequence"
        "The store's sequence number up to which everything is synced.";
    PROVEN_SEQUENCE: Gauge "ottla_log_proven_sequence"
        "The same as the durable file has it, at most 100 ms behind.";
    FAILED_SLOTS: Gauge "ottla_durable_write_failures"
        "Times the durable file could not be written since the start.";
    SCRUBBED_BYTES: Counter "ottla_scrub_bytes_total"
        "Bytes of record batches that the scrub has read and checked since the start.";
    SCRUB_DAMAGES: Gauge "ottla_scrub_damages"
        "Damages that the scrub found in its last pass, or so far in the one that runs; alarm when it is not 0.";
    SCRUB_LAST_PASS: Gauge "ottla_scrub_last_pass_timestamp_seconds"
        "When the last full pass of the scrub ended, in seconds since 1970; 0 before the first one.";
    ENGINE_PROPERTY: Gauge "ottla_engine_property"
        "Values of the storage engine that have no name of their own here.";
}

/// The properties the RocksDB engine reports, by the engine's name for them.
pub(crate) const ENGINE_PROPERTIES: [(&str, &Family); 15] = [
    ("memtable_bytes", &ROCKSDB_MEMTABLE_BYTES),
    ("immutable_memtables", &ROCKSDB_IMMUTABLE_MEMTABLES),
    ("running_flushes", &ROCKSDB_RUNNING_FLUSHES),
    ("running_compactions", &ROCKSDB_RUNNING_COMPACTIONS),
    ("delayed_write_rate", &ROCKSDB_DELAYED_WRITE_RATE),
    ("background_rate", &ROCKSDB_BACKGROUND_RATE),
    ("write_stopped", &ROCKSDB_WRITE_STOPPED),
    ("background_errors", &ROCKSDB_BACKGROUND_ERRORS),
    ("blob_bytes", &ROCKSDB_BLOB_BYTES),
    ("synced_sequence", &SYNCED_SEQUENCE),
    ("proven_sequence", &PROVEN_SEQUENCE),
    ("failed_slots", &FAILED_SLOTS),
    ("scrubbed_bytes", &SCRUBBED_BYTES),
    ("scrub_damages", &SCRUB_DAMAGES),
    ("scrub_last_pass", &SCRUB_LAST_PASS),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_valid_and_explained() {
        let mut names = HashSet::new();
        for &(name, help) in METRIC_FAMILIES {
            assert!(names.insert(name), "{name} twice");
            let valid = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
            assert!(name.chars().all(valid), "{name}");
            let known = ["kafka_", "ottla_", "process_"];
            assert!(known.iter().any(|start| name.starts_with(start)), "{name}");
            assert!(
                help.ends_with('.') && !help.contains(['\\', '\n']),
                "{name}"
            );
        }
    }

    #[test]
    fn counters_and_only_counters_end_as_prometheus_wants() {
        for family in ALL {
            let counts = family.name.ends_with("_total") || family.name.ends_with("_count");
            let is_counter = family.kind == Kind::Counter;
            // Kafka's own gauges; their names are what dashboards ask for.
            let kept = [
                &CONNECTION_COUNT,
                &GROUP_COUNT,
                &OFFSET_COUNT,
                &CLASSIC_GROUP_COUNT,
            ];
            let kept = kept.iter().any(|gauge| gauge.name == family.name);
            assert_eq!(counts && !kept, is_counter, "{}", family.name);
        }
    }
}
