//! `/healthz`, `/readyz` and `/metrics` of a broker that was used.

use ottla_integration_tests::clients::kcat;
use ottla_integration_tests::http::{get, metrics_when, sample};
use ottla_integration_tests::{Broker, TempDir};

fn metrics_port(broker: &Broker) -> u16 {
    broker
        .metrics_port()
        .expect("the banner names the metrics listener")
}

#[test]
fn a_serving_broker_is_healthy_and_ready_and_knows_no_other_page() {
    let folder = TempDir::new("pages");
    let broker = Broker::start(folder.path(), &[]);
    let port = metrics_port(&broker);
    assert_eq!(get(port, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(port, "/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(get(port, "/metrics").0, 200);
    for other in [
        "/",
        "/metric",
        "/metrics/",
        "/healthz/x",
        "/..",
        "/%6detrics",
    ] {
        assert_eq!(get(port, other).0, 404, "{other}");
    }
}

#[test]
fn metrics_carry_the_names_of_dashboards_with_right_values() {
    let folder = TempDir::new("metrics");
    let broker = Broker::start(folder.path(), &[("num.partitions", "2")]);
    let port = metrics_port(&broker);
    let before = get(port, "/metrics").1;
    assert_eq!(
        sample(&before, "kafka_server_replicamanager_partitioncount"),
        Some(0.0)
    );

    let write = kcat(&broker).args(["-P", "-t", "spot", "-p", "1"]);
    write.stdin("one\ntwo\nthree\n").succeed();
    let read = kcat(&broker).args(["-C", "-t", "spot", "-p", "1", "-o", "1", "-e", "-q"]);
    assert_eq!(read.succeed().lines(), ["two", "three"]);
    // An answer's sending is recorded when it is written, which its reader need not wait for; and a client that is gone is
    // noticed a little later.
    let sent = "kafka_network_requestmetrics_totaltimems_count{request=\"Produce\"}";
    let connections = "kafka_server_socket_server_metrics_connection_count{listener=\"PLAINTEXT\",networkProcessor=\"0\"}";
    let page = metrics_when(port, sent, |page| {
        sample(page, sent).is_some_and(|count| count >= 1.0)
            && sample(page, connections) == Some(0.0)
    });

    let advertised = broker.bootstrap();
    let broker_info = format!("kafka_broker_info{{address=\"{advertised}\",id=\"1\"}}");
    for (series, value) in [
        ("kafka_server_brokertopicmetrics_messagesin_total", 3.0),
        (
            "kafka_server_brokertopicmetrics_messagesin_total{topic=\"spot\"}",
            3.0,
        ),
        (
            "kafka_server_brokertopicmetrics_totalproducerequests_total{topic=\"spot\"}",
            1.0,
        ),
        (
            "kafka_server_brokertopicmetrics_failedproducerequests_total{topic=\"spot\"}",
            0.0,
        ),
        (
            "kafka_server_brokertopicmetrics_failedfetchrequests_total{topic=\"spot\"}",
            0.0,
        ),
        ("kafka_server_replicamanager_partitioncount", 2.0),
        ("kafka_server_replicamanager_leadercount", 2.0),
        ("kafka_server_replicamanager_underreplicatedpartitions", 0.0),
        ("kafka_server_replicamanager_underminisrpartitioncount", 0.0),
        ("kafka_server_replicamanager_offlinereplicacount", 0.0),
        (
            "kafka_controller_kafkacontroller_activecontrollercount",
            1.0,
        ),
        (
            "kafka_controller_kafkacontroller_offlinepartitionscount",
            0.0,
        ),
        ("kafka_controller_kafkacontroller_globaltopiccount", 1.0),
        ("kafka_controller_kafkacontroller_globalpartitioncount", 2.0),
        (
            "kafka_controller_controllerstats_uncleanleaderelections_total",
            0.0,
        ),
        (
            "kafka_cluster_partition_underminisr{topic=\"spot\",partition=\"1\"}",
            0.0,
        ),
        (
            "kafka_cluster_partition_atminisr{topic=\"spot\",partition=\"1\"}",
            1.0,
        ),
        (
            "kafka_cluster_partition_replicascount{topic=\"spot\",partition=\"1\"}",
            1.0,
        ),
        (
            "kafka_cluster_partition_insyncreplicascount{topic=\"spot\",partition=\"1\"}",
            1.0,
        ),
        (
            "kafka_cluster_partition_laststableoffsetlag{topic=\"spot\",partition=\"1\"}",
            0.0,
        ),
        (
            "kafka_log_log_logstartoffset{topic=\"spot\",partition=\"1\"}",
            0.0,
        ),
        (
            "kafka_log_log_logendoffset{topic=\"spot\",partition=\"1\"}",
            3.0,
        ),
        (
            "kafka_log_log_logendoffset{topic=\"spot\",partition=\"0\"}",
            0.0,
        ),
        (
            "kafka_log_log_numlogsegments{topic=\"spot\",partition=\"1\"}",
            1.0,
        ),
        ("kafka_log_logmanager_offlinelogdirectorycount", 0.0),
        (connections, 0.0),
        ("kafka_server_kafkaserver_brokerstate", 3.0),
        ("kafka_brokers", 1.0),
        (&broker_info, 1.0),
        ("kafka_topic_partitions{topic=\"spot\"}", 2.0),
        (
            "kafka_topic_partition_current_offset{topic=\"spot\",partition=\"1\"}",
            3.0,
        ),
        (
            "kafka_topic_partition_oldest_offset{topic=\"spot\",partition=\"1\"}",
            0.0,
        ),
        (
            "kafka_topic_partition_leader{topic=\"spot\",partition=\"1\"}",
            1.0,
        ),
        (
            "kafka_topic_partition_leader_is_preferred{topic=\"spot\",partition=\"1\"}",
            1.0,
        ),
        (
            "kafka_topic_partition_replicas{topic=\"spot\",partition=\"1\"}",
            1.0,
        ),
        (
            "kafka_topic_partition_in_sync_replica{topic=\"spot\",partition=\"1\"}",
            1.0,
        ),
        (
            "kafka_topic_partition_under_replicated_partition{topic=\"spot\",partition=\"1\"}",
            0.0,
        ),
        (
            "kafka_network_requestmetrics_errors_total{request=\"Produce\",error=\"NONE\"}",
            1.0,
        ),
        (
            "kafka_network_requestmetrics_totaltimems_count{request=\"Produce\"}",
            1.0,
        ),
        ("ottla_panics_total", 0.0),
    ] {
        assert_eq!(sample(&page, series), Some(value), "{series}");
    }

    // One batch went in, and out whole, though the reader asked from its middle.
    let bytes = |name: &str| {
        let series = format!("kafka_server_brokertopicmetrics_{name}_total{{topic=\"spot\"}}");
        sample(&page, &series).unwrap_or_else(|| panic!("no {series}"))
    };
    assert!(bytes("bytesin") > 61.0, "more than a batch header");
    assert_eq!(bytes("bytesin"), bytes("bytesout"));
    assert!(bytes("totalfetchrequests") >= 1.0);
    for quantile in ["0.50", "0.75", "0.95", "0.98", "0.99", "0.999"] {
        for part in [
            "totaltimems",
            "requestqueuetimems",
            "localtimems",
            "remotetimems",
            "responsequeuetimems",
            "responsesendtimems",
        ] {
            let series = format!(
                "kafka_network_requestmetrics_{part}{{request=\"Produce\",quantile=\"{quantile}\"}}"
            );
            assert!(
                sample(&page, &series).is_some_and(|ms| ms >= 0.0),
                "{series}"
            );
        }
    }
    for own in [
        "ottla_fsyncs_total",
        "ottla_group_commit_batches_count",
        "ottla_rocksdb_memtable_bytes",
    ] {
        assert!(
            sample(&page, own).is_some_and(|value| value >= 1.0),
            "{own}"
        );
    }
    for requests in ["Produce", "Fetch", "Metadata", "ApiVersions"] {
        let series =
            format!("kafka_network_requestmetrics_requests_total{{request=\"{requests}\",version=");
        assert!(page.contains(&series), "{series}");
    }
}
