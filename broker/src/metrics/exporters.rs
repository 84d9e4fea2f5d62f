//! Every metric name that the two exporters list whose dashboards people use, and whether this broker shows it.
//!
//! `Jmx` is what the JMX exporter makes of Kafka's MBeans, as far as Strimzi's dashboards and alerts and the usual boards
//! ask for it, with what the exporter tells of its own process; `KafkaExporter` is kafka_exporter's list. An absent name
//! has its reason. The README's table is made from here; a test asks a live broker.
//!
//! Invariant: a name is shown if and only if it has a row in `families`.

use super::families::{ALL, Family};
use Exporter::{Jmx, KafkaExporter};
use Shown::{Absent, Here};

/// Whose name it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exporter {
    /// The JMX exporter's.
    Jmx,
    /// kafka_exporter's.
    KafkaExporter,
}

/// Whether the broker shows a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It does.
    Here,
    /// It does not, for this reason.
    Absent(&'static str),
}

const NO_QUOTAS: &str = "there are no quotas, so no request is ever throttled";
const NO_CONSUMER_PROTOCOL: &str = "only the classic group protocol is served";
const NO_TRANSACTIONS: &str = "transactions are not served yet";
const ONE_BROKER: &str = "one broker has no followers and follows nobody";
const NO_QUEUE: &str =
    "there is no queue between network and handlers: a connection runs its own requests";
const NO_RAFT: &str = "there is no KRaft quorum: metadata is kept by the broker itself";
const NO_JVM: &str = "there is no JVM; the process_ names tell of the process";
const NO_ZOOKEEPER: &str = "there is no ZooKeeper";

/// Name, whose it is, and whether it is shown.
#[rustfmt::skip]
pub const EXPORTER_NAMES: &[(&str, Exporter, Shown)] = &[
    ("kafka_server_brokertopicmetrics_messagesin_total", Jmx, Here),
    ("kafka_server_brokertopicmetrics_bytesin_total", Jmx, Here),
    ("kafka_server_brokertopicmetrics_bytesout_total", Jmx, Here),
    ("kafka_server_brokertopicmetrics_totalproducerequests_total", Jmx, Here),
    ("kafka_server_brokertopicmetrics_totalfetchrequests_total", Jmx, Here),
    ("kafka_server_brokertopicmetrics_failedproducerequests_total", Jmx, Here),
    ("kafka_server_brokertopicmetrics_failedfetchrequests_total", Jmx, Here),
    ("kafka_server_replicamanager_partitioncount", Jmx, Here),
    ("kafka_server_replicamanager_leadercount", Jmx, Here),
    ("kafka_server_replicamanager_underreplicatedpartitions", Jmx, Here),
    ("kafka_server_replicamanager_underminisrpartitioncount", Jmx, Here),
    ("kafka_server_replicamanager_offlinereplicacount", Jmx, Here),
    ("kafka_server_replicamanager_produceridcount", Jmx, Here),
    ("kafka_controller_kafkacontroller_activecontrollercount", Jmx, Here),
    ("kafka_controller_kafkacontroller_offlinepartitionscount", Jmx, Here),
    ("kafka_controller_kafkacontroller_globaltopiccount", Jmx, Here),
    ("kafka_controller_kafkacontroller_globalpartitioncount", Jmx, Here),
    ("kafka_controller_controllerstats_uncleanleaderelections_total", Jmx, Here),
    ("kafka_cluster_partition_underminisr", Jmx, Here),
    ("kafka_cluster_partition_atminisr", Jmx, Here),
    ("kafka_cluster_partition_replicascount", Jmx, Here),
    ("kafka_cluster_partition_insyncreplicascount", Jmx, Here),
    ("kafka_cluster_partition_laststableoffsetlag", Jmx, Here),
    ("kafka_log_log_logstartoffset", Jmx, Here),
    ("kafka_log_log_logendoffset", Jmx, Here),
    ("kafka_log_log_numlogsegments", Jmx, Here),
    ("kafka_log_logmanager_offlinelogdirectorycount", Jmx, Here),
    ("kafka_server_kafkarequesthandlerpool_requesthandleravgidle_percent", Jmx, Here),
    ("kafka_network_socketserver_networkprocessoravgidle_percent", Jmx, Here),
    ("kafka_server_socket_server_metrics_connection_count", Jmx, Here),
    ("kafka_server_kafkaserver_linux_disk_read_bytes", Jmx, Here),
    ("kafka_server_kafkaserver_linux_disk_write_bytes", Jmx, Here),
    ("kafka_server_kafkaserver_brokerstate", Jmx, Here),
    ("kafka_network_requestmetrics_requests_total", Jmx, Here),
    ("kafka_network_requestmetrics_errors_total", Jmx, Here),
    ("kafka_network_requestmetrics_totaltimems", Jmx, Here),
    ("kafka_network_requestmetrics_totaltimems_count", Jmx, Here),
    ("kafka_network_requestmetrics_requestqueuetimems", Jmx, Here),
    ("kafka_network_requestmetrics_requestqueuetimems_count", Jmx, Here),
    ("kafka_network_requestmetrics_localtimems", Jmx, Here),
    ("kafka_network_requestmetrics_localtimems_count", Jmx, Here),
    ("kafka_network_requestmetrics_remotetimems", Jmx, Here),
    ("kafka_network_requestmetrics_remotetimems_count", Jmx, Here),
    ("kafka_network_requestmetrics_responsequeuetimems", Jmx, Here),
    ("kafka_network_requestmetrics_responsequeuetimems_count", Jmx, Here),
    ("kafka_network_requestmetrics_responsesendtimems", Jmx, Here),
    ("kafka_network_requestmetrics_responsesendtimems_count", Jmx, Here),
    ("kafka_network_requestmetrics_requestbytes", Jmx, Here),
    ("kafka_network_requestmetrics_requestbytes_count", Jmx, Here),
    ("kafka_coordinator_group_groupmetadatamanager_numgroups", Jmx, Here),
    ("kafka_coordinator_group_groupmetadatamanager_numoffsets", Jmx, Here),
    ("kafka_coordinator_group_groupmetadatamanager_numgroupsstable", Jmx, Here),
    ("kafka_coordinator_group_groupmetadatamanager_numgroupspreparingrebalance", Jmx, Here),
    ("kafka_coordinator_group_groupmetadatamanager_numgroupscompletingrebalance", Jmx, Here),
    ("kafka_coordinator_group_groupmetadatamanager_numgroupsempty", Jmx, Here),
    ("kafka_coordinator_group_groupmetadatamanager_numgroupsdead", Jmx, Here),
    ("kafka_server_group_coordinator_metrics_group_count", Jmx, Here),
    ("kafka_server_group_coordinator_metrics_offset_count", Jmx, Here),
    ("kafka_server_group_coordinator_metrics_classic_group_count", Jmx, Here),
    ("process_cpu_seconds_total", Jmx, Here),
    ("process_open_fds", Jmx, Here),
    ("process_max_fds", Jmx, Here),
    ("process_virtual_memory_bytes", Jmx, Here),
    ("process_resident_memory_bytes", Jmx, Here),
    ("process_start_time_seconds", Jmx, Here),
    ("kafka_log_log_size", Jmx, Here),
    ("kafka_network_requestmetrics_throttletimems", Jmx, Absent(NO_QUOTAS)),
    ("kafka_network_requestmetrics_throttletimems_count", Jmx, Absent(NO_QUOTAS)),
    ("kafka_server_group_coordinator_metrics_consumer_group_count", Jmx, Absent(NO_CONSUMER_PROTOCOL)),
    ("kafka_server_replicamanager_partitionswithlatetransactionscount", Jmx, Absent(NO_TRANSACTIONS)),
    ("kafka_server_replicamanager_isrshrinks_total", Jmx, Absent(ONE_BROKER)),
    ("kafka_server_replicamanager_isrexpands_total", Jmx, Absent(ONE_BROKER)),
    ("kafka_server_replicafetchermanager_maxlag", Jmx, Absent(ONE_BROKER)),
    ("kafka_server_brokertopicmetrics_replicationbytesin_total", Jmx, Absent(ONE_BROKER)),
    ("kafka_server_brokertopicmetrics_replicationbytesout_total", Jmx, Absent(ONE_BROKER)),
    ("kafka_controller_kafkacontroller_preferredreplicaimbalancecount", Jmx, Absent(ONE_BROKER)),
    ("kafka_network_requestchannel_requestqueuesize", Jmx, Absent(NO_QUEUE)),
    ("kafka_network_requestchannel_responsequeuesize", Jmx, Absent(NO_QUEUE)),
    ("kafka_server_raftmetrics_current_leader", Jmx, Absent(NO_RAFT)),
    ("kafka_server_raftmetrics_current_epoch", Jmx, Absent(NO_RAFT)),
    ("kafka_server_raftmetrics_current_state", Jmx, Absent(NO_RAFT)),
    ("kafka_server_raftmetrics_current_vote", Jmx, Absent(NO_RAFT)),
    ("kafka_server_raftmetrics_high_watermark", Jmx, Absent(NO_RAFT)),
    ("kafka_server_raftmetrics_log_end_offset", Jmx, Absent(NO_RAFT)),
    ("kafka_server_raftmetrics_commit_latency_avg", Jmx, Absent(NO_RAFT)),
    ("kafka_server_raftmetrics_append_records_rate", Jmx, Absent(NO_RAFT)),
    ("kafka_server_raftmetrics_fetch_records_rate", Jmx, Absent(NO_RAFT)),
    ("kafka_server_raftchannelmetrics_incoming_byte_total", Jmx, Absent(NO_RAFT)),
    ("kafka_server_raftchannelmetrics_outgoing_byte_total", Jmx, Absent(NO_RAFT)),
    ("jvm_memory_bytes_used", Jmx, Absent(NO_JVM)),
    ("jvm_memory_used_bytes", Jmx, Absent(NO_JVM)),
    ("jvm_gc_collection_seconds_sum", Jmx, Absent(NO_JVM)),
    ("jvm_gc_collection_seconds_count", Jmx, Absent(NO_JVM)),
    ("jvm_threads_current", Jmx, Absent(NO_JVM)),
    ("kafka_brokers", KafkaExporter, Here),
    ("kafka_broker_info", KafkaExporter, Here),
    ("kafka_topic_partitions", KafkaExporter, Here),
    ("kafka_topic_partition_current_offset", KafkaExporter, Here),
    ("kafka_topic_partition_oldest_offset", KafkaExporter, Here),
    ("kafka_topic_partition_leader", KafkaExporter, Here),
    ("kafka_topic_partition_leader_is_preferred", KafkaExporter, Here),
    ("kafka_topic_partition_replicas", KafkaExporter, Here),
    ("kafka_topic_partition_in_sync_replica", KafkaExporter, Here),
    ("kafka_topic_partition_under_replicated_partition", KafkaExporter, Here),
    ("kafka_consumergroup_current_offset", KafkaExporter, Here),
    ("kafka_consumergroup_current_offset_sum", KafkaExporter, Here),
    ("kafka_consumergroup_lag", KafkaExporter, Here),
    ("kafka_consumergroup_lag_sum", KafkaExporter, Here),
    ("kafka_consumergroup_members", KafkaExporter, Here),
    ("kafka_consumergroupzookeeper_lag_zookeeper", KafkaExporter, Absent(NO_ZOOKEEPER)),
];

/// What the page shows and what it does not, for the README.
pub fn markdown_table() -> String {
    let mut table = "| Name | Type | Meaning |\n|---|---|---|\n".to_owned();
    let is_absent = |family: &&&Family| {
        let absent = |row: &&(&str, Exporter, Shown)| row.0 == family.name && row.2 != Here;
        EXPORTER_NAMES.iter().any(|row| absent(&row))
    };
    for family in ALL.iter().filter(|family| !is_absent(family)) {
        let (name, kind, help) = (family.name, family.kind.word(), family.help);
        table += &format!("| `{name}` | {kind} | {help} |\n");
    }
    table += "\n| Not shown | Why |\n|---|---|\n";
    for (name, _, shown) in EXPORTER_NAMES {
        if let Absent(reason) = shown {
            table += &format!("| `{name}` | {reason} |\n");
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_name_is_shown_exactly_if_it_has_a_family_and_absent_with_a_reason() {
        let mut names = HashSet::new();
        for (name, _, shown) in EXPORTER_NAMES {
            assert!(names.insert(name), "{name} twice");
            let is_family = ALL.iter().any(|family| family.name == *name);
            match shown {
                Here => assert!(is_family, "{name} has no family"),
                Absent(reason) => {
                    assert!(!is_family, "{name} has a family");
                    assert!(reason.len() > 10, "{name}");
                }
            }
        }
    }

    #[test]
    fn every_name_that_is_not_our_own_is_in_the_list() {
        for family in ALL
            .iter()
            .filter(|family| !family.name.starts_with("ottla_"))
        {
            let listed = EXPORTER_NAMES.iter().any(|(name, ..)| *name == family.name);
            let own = family.name == "kafka_consumergroup_lag_seconds";
            assert!(listed || own, "{}", family.name);
        }
    }

    #[test]
    fn the_table_names_each_once() {
        let table = markdown_table();
        for (name, ..) in EXPORTER_NAMES {
            assert_eq!(table.matches(&format!("| `{name}` |")).count(), 1, "{name}");
        }
    }
}
