//! Whole scrapes, read back by a strict parser of the text format.

use std::collections::{BTreeMap, BTreeSet};

use ottla_coordinator::group::{GroupState, GroupType};

use super::families::{ALL, Kind};
use super::*;

/// Topic names with partition counts; every partition is healthy and led by broker 1.
struct Partitions(Vec<(String, i32)>);

impl PartitionSource for Partitions {
    fn for_each(&self, tell: &mut dyn FnMut(PartitionFacts<'_>)) {
        for (topic, partitions) in &self.0 {
            for partition in 0..*partitions {
                tell(PartitionFacts {
                    topic,
                    partition,
                    log_start: 1_000_000,
                    log_end: 123_456_789,
                    high_watermark: 123_456_789,
                    last_stable: 123_456_700,
                    size_bytes: 987_654_321,
                    leader: 1,
                    node_id: 1,
                    replicas: &[1],
                    isr: &[1],
                    min_isr: 1,
                    producers: 2,
                });
            }
        }
    }
}

/// Every property with a name of its own, and one without.
struct Engine;

impl EngineSource for Engine {
    fn properties(&self) -> Vec<(&'static str, u64)> {
        let known = families::ENGINE_PROPERTIES.iter().enumerate();
        known
            .map(|(at, (name, _))| (*name, at as u64))
            .chain([("keys", 42), ("syncs", 43)])
            .collect()
    }
}

/// Threads that were busy half of the time, and a disk.
struct Host;

impl HostSource for Host {
    fn busy_time(&self) -> BusyTime {
        BusyTime {
            at: Duration::from_secs(10),
            busy: Duration::from_secs(10),
            threads: 2,
        }
    }

    fn disk_space(&self) -> Option<DiskSpace> {
        Some(DiskSpace {
            free_bytes: 7,
            total_bytes: 9,
        })
    }

    fn disk_level(&self) -> Level {
        Level::Low
    }
}

/// Groups by id, all with the same offsets.
struct Groups(Vec<String>, Vec<CommittedFacts>);

impl GroupSource for Groups {
    fn for_each(&self, _: Detail, tell: &mut dyn FnMut(GroupFacts<'_>)) {
        for group in &self.0 {
            tell(GroupFacts {
                group,
                group_type: GroupType::Classic,
                state: GroupState::Empty,
                members: 0,
                offset_count: self.1.len(),
                committed: &self.1,
            });
        }
    }
}

/// An offset ten behind, of five seconds ago.
fn committed(topic: &str, partition: i32) -> CommittedFacts {
    CommittedFacts {
        topic: topic.into(),
        partition,
        offset: 1_000,
        lag: Some(10),
        lag_seconds: Some(5.0),
    }
}

/// What a scrape asks, kept alive.
struct Sources {
    partitions: Arc<Partitions>,
    engine: Arc<Engine>,
    groups: Arc<Groups>,
    host: Arc<Host>,
}

/// A broker on which everything happened once.
fn busy(detail: Detail) -> (Metrics, Sources) {
    let metrics = Metrics::new(detail);
    let partitions = Arc::new(Partitions(vec![("orders".into(), 3), ("bills".into(), 1)]));
    let engine = Arc::new(Engine);
    let groups = Arc::new(Groups(vec!["audit".into()], vec![committed("orders", 0)]));
    let host = Arc::new(Host);
    metrics.watch_partitions(&partitions);
    metrics.watch_engine(&engine);
    metrics.watch_groups(&groups);
    metrics.watch_host(&host);
    metrics.broker(1, "localhost:9092");
    metrics.broker_state(BrokerState::Running);
    let orders = metrics.topic("orders");
    orders.produce_request();
    orders.appended(10, 1_000);
    let elapsed = Elapsed {
        queue: Duration::from_micros(100),
        local: Duration::from_micros(900),
        remote: Duration::from_millis(3),
    };
    let sent = SendTimes {
        response_queue: Duration::from_micros(200),
        response_send: Duration::from_micros(50),
        total: Duration::from_millis(4),
    };
    metrics.api(0).answered(9, 0, 1_200, &elapsed);
    metrics.api(0).sent(&sent);
    metrics.api(1).answered(17, 3, 80, &elapsed);
    metrics.api(1).sent(&sent);
    metrics.refused("frame_size");
    drop(metrics.decompression());
    metrics.group_commit(2, 3, 1_000);
    metrics.fsync(Duration::from_micros(300));
    drop(metrics.connection("PLAINTEXT"));
    let sources = Sources {
        partitions,
        engine,
        groups,
        host,
    };
    (metrics, sources)
}

/// A page, read back: samples by name and sorted labels.
#[derive(Debug, Default)]
struct Scrape {
    /// Type and help by family.
    families: BTreeMap<String, (String, String)>,
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
    /// The families that have a sample.
    seen: BTreeSet<String>,
}

impl Scrape {
    /// Panics on whatever Prometheus would refuse, and on families that are spread or come twice.
    fn parse(page: &str) -> Self {
        let mut scrape = Self::default();
        let mut current = String::new();
        let mut helped = String::new();
        assert!(page.ends_with('\n'));
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect(line);
                let new = (String::new(), help.to_owned());
                assert!(
                    scrape.families.insert(name.to_owned(), new).is_none(),
                    "{name} twice"
                );
                helped = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                assert_eq!(name, helped, "type without help");
                scrape.families.get_mut(name).unwrap().0 = kind.to_owned();
                current = name.to_owned();
            } else {
                scrape.sample(&current, line);
            }
        }
        scrape
    }

    fn sample(&mut self, family: &str, line: &str) {
        let (name, labels, value) = split_sample(line);
        let histogram = self.families[family].0 == "histogram";
        let suffix = name
            .strip_prefix(family)
            .unwrap_or_else(|| panic!("{line} in {family}"));
        match suffix {
            "" => assert!(!histogram, "{line}"),
            "_bucket" | "_sum" | "_count" => assert!(histogram, "{line}"),
            _ => panic!("{line} in {family}"),
        }
        assert!(!value.is_nan(), "{line}");
        let twice = self.samples.insert((name, labels), value);
        assert!(twice.is_none(), "{line} twice");
        self.seen.insert(family.to_owned());
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    fn count(&self, name: &str) -> usize {
        self.samples.keys().filter(|(n, _)| n == name).count()
    }
}

/// Name, labels unescaped, value.
fn split_sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            rest = rest.strip_prefix(',').unwrap_or(rest);
            let (label, after) = rest.split_once("=\"").expect(line);
            let (value, after) = split_quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = after;
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').expect(line).parse().expect(line);
    (name.to_owned(), labels, value)
}

/// A value up to its closing quote, and what follows.
fn split_quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        let (at, c) = chars.next().expect("an open quote");
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next().expect("an escape").1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                other => panic!("escaped {other}"),
            }),
            c => value.push(c),
        }
    }
}

/// Whether only Linux tells.
fn of_linux(name: &str) -> bool {
    name.contains("_linux_") || name.starts_with("process_")
}

#[test]
fn a_busy_broker_shows_every_family_and_no_other() {
    let (metrics, _sources) = busy(Detail::Partition);
    let scrape = Scrape::parse(&metrics.render());
    let expected: BTreeSet<String> = ALL
        .iter()
        .filter(|f| cfg!(target_os = "linux") || !of_linux(f.name))
        .map(|f| f.name.to_owned())
        .collect();
    assert_eq!(scrape.seen, expected);
    assert_eq!(METRIC_FAMILIES.len(), ALL.len());
    for family in ALL.iter().filter(|f| expected.contains(f.name)) {
        let shown = &scrape.families[family.name];
        assert_eq!(
            *shown,
            (family.kind.word().to_owned(), family.help.to_owned())
        );
    }
}

#[test]
fn a_broker_at_rest_shows_only_known_families() {
    let scrape = Scrape::parse(&Metrics::new(Detail::Partition).render());
    for family in scrape.families.keys() {
        assert!(
            METRIC_FAMILIES.iter().any(|(name, _)| name == family),
            "{family}"
        );
        assert!(scrape.seen.contains(family), "{family} has no sample");
    }
    let zero = Some(0.0);
    assert_eq!(scrape.value("ottla_panics_total", &[]), zero);
    assert_eq!(scrape.value("ottla_fsyncs_total", &[]), zero);
    assert_eq!(
        scrape.value("kafka_server_replicamanager_partitioncount", &[]),
        zero
    );
    let bytes_in = "kafka_server_brokertopicmetrics_bytesin_total";
    assert_eq!(scrape.value(bytes_in, &[]), zero);
}

#[test]
fn the_values_are_those_that_were_counted() {
    let (metrics, _sources) = busy(Detail::Partition);
    let open = metrics.connection("PLAINTEXT");
    metrics.refused("frame_size");
    let scrape = Scrape::parse(&metrics.render());
    let orders = ("topic", "orders");
    let listener = [("listener", "PLAINTEXT"), ("networkProcessor", "0")];
    for (name, labels, value) in [
        (
            "kafka_server_brokertopicmetrics_messagesin_total",
            &[orders][..],
            10.0,
        ),
        (
            "kafka_server_brokertopicmetrics_messagesin_total",
            &[],
            10.0,
        ),
        (
            "kafka_server_brokertopicmetrics_bytesin_total",
            &[orders],
            1_000.0,
        ),
        (
            "kafka_server_brokertopicmetrics_totalproducerequests_total",
            &[orders],
            1.0,
        ),
        ("kafka_server_replicamanager_partitioncount", &[], 4.0),
        ("kafka_server_replicamanager_leadercount", &[], 4.0),
        (
            "kafka_server_replicamanager_underreplicatedpartitions",
            &[],
            0.0,
        ),
        (
            "kafka_controller_kafkacontroller_activecontrollercount",
            &[],
            1.0,
        ),
        (
            "kafka_controller_kafkacontroller_globaltopiccount",
            &[],
            2.0,
        ),
        (
            "kafka_controller_kafkacontroller_globalpartitioncount",
            &[],
            4.0,
        ),
        (
            "kafka_controller_kafkacontroller_offlinepartitionscount",
            &[],
            0.0,
        ),
        ("kafka_server_kafkaserver_brokerstate", &[], 3.0),
        (
            "kafka_server_socket_server_metrics_connection_count",
            &listener,
            1.0,
        ),
        (
            "kafka_log_log_size",
            &[orders, ("partition", "2")],
            987_654_321.0,
        ),
        ("kafka_topic_partitions", &[orders], 3.0),
        (
            "kafka_topic_partition_current_offset",
            &[orders, ("partition", "0")],
            123_456_789.0,
        ),
        ("kafka_brokers", &[], 1.0),
        (
            "kafka_broker_info",
            &[("id", "1"), ("address", "localhost:9092")],
            1.0,
        ),
        (
            "kafka_consumergroup_lag_seconds",
            &[("consumergroup", "audit"), orders, ("partition", "0")],
            5.0,
        ),
        ("kafka_server_replicamanager_produceridcount", &[], 8.0),
        (
            "kafka_server_kafkarequesthandlerpool_requesthandleravgidle_percent",
            &[],
            0.5,
        ),
        ("ottla_disk_free_bytes", &[], 7.0),
        ("ottla_disk_level", &[], 1.0),
        ("ottla_metrics_left_out", &[("section", "groups")], 0.0),
        ("ottla_connections_accepted_total", &[], 2.0),
        ("ottla_connections_closed_total", &[], 1.0),
        ("ottla_refused_total", &[("cause", "frame_size")], 2.0),
        ("ottla_group_commit_batches_sum", &[], 3.0),
        ("ottla_group_commit_requests_sum", &[], 2.0),
        ("ottla_group_commit_bytes_bucket", &[("le", "1024")], 1.0),
        ("ottla_fsyncs_total", &[], 1.0),
        ("ottla_fsync_seconds_count", &[], 1.0),
        ("ottla_rocksdb_running_compactions", &[], 3.0),
        ("ottla_engine_property", &[("name", "keys")], 42.0),
        (
            "ottla_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))],
            1.0,
        ),
    ] {
        assert_eq!(scrape.value(name, labels), Some(value), "{name} {labels:?}");
    }
    drop(open);
    let scrape = Scrape::parse(&metrics.render());
    let connections = "kafka_server_socket_server_metrics_connection_count";
    assert_eq!(scrape.value(connections, &listener), Some(0.0));
}

#[test]
fn request_metrics_carry_the_labels_dashboards_ask_for() {
    let (metrics, _sources) = busy(Detail::Partition);
    let scrape = Scrape::parse(&metrics.render());
    let requests = "kafka_network_requestmetrics_requests_total";
    for (request, version) in [("Produce", "9"), ("Fetch", "17"), ("FetchConsumer", "17")] {
        let labels = [("request", request), ("version", version)];
        assert_eq!(scrape.value(requests, &labels), Some(1.0), "{request}");
    }
    let errors = "kafka_network_requestmetrics_errors_total";
    for (request, error) in [("Produce", "NONE"), ("Fetch", "UNKNOWN_TOPIC_OR_PARTITION")] {
        let labels = [("request", request), ("error", error)];
        assert_eq!(scrape.value(errors, &labels), Some(1.0), "{request}");
    }
    assert_eq!(scrape.count(errors), 2);
    for (name, expected) in [
        ("total", 4.0),
        ("requestqueue", 0.1),
        ("local", 0.9),
        ("remote", 3.0),
        ("responsequeue", 0.2),
        ("responsesend", 0.05),
    ] {
        let family = format!("kafka_network_requestmetrics_{name}timems");
        for quantile in ["0.50", "0.75", "0.95", "0.98", "0.99", "0.999"] {
            let labels = [("request", "FetchConsumer"), ("quantile", quantile)];
            let value = scrape.value(&family, &labels).expect(name);
            assert!(
                (value - expected).abs() <= expected / 32.0,
                "{name} {value}"
            );
        }
        // Produce, Fetch and FetchConsumer.
        assert_eq!(scrape.count(&family), 3 * 6);
        let count = scrape.value(&format!("{family}_count"), &[("request", "Produce")]);
        assert_eq!(count, Some(1.0));
    }
    let under_5_ms = [("api", "Produce"), ("le", "0.005")];
    assert_eq!(
        scrape.value("ottla_request_seconds_bucket", &under_5_ms),
        Some(1.0)
    );
    let under_1_ms = [("api", "Produce"), ("le", "0.001")];
    assert_eq!(
        scrape.value("ottla_request_seconds_bucket", &under_1_ms),
        Some(0.0)
    );
}

#[test]
fn odd_names_survive_as_labels() {
    let metrics = Metrics::new(Detail::Partition);
    let odd = [
        "",
        "a\"b",
        "a\\b",
        "a\nb",
        "\\\"\n\\n",
        "ü 漢 😀",
        "a{b=\"c\"} 1",
        "a,b=\"",
        "\u{0}\t\r",
    ];
    let partitions = odd.map(|name| (name.to_owned(), 1)).to_vec();
    let partitions = Arc::new(Partitions(partitions));
    metrics.watch_partitions(&partitions);
    let groups = odd.map(str::to_owned).to_vec();
    let groups = Arc::new(Groups(groups, odd.map(|name| committed(name, 0)).to_vec()));
    metrics.watch_groups(&groups);
    for name in odd {
        metrics.topic(name).appended(1, 1);
        drop(metrics.connection(name));
    }
    metrics.broker(7, "a\"b\\c\n:9092");
    let scrape = Scrape::parse(&metrics.render());
    for name in odd {
        let (topic, partition) = (("topic", name), ("partition", "0"));
        let messages = "kafka_server_brokertopicmetrics_messagesin_total";
        assert_eq!(scrape.value(messages, &[topic]), Some(1.0), "{name:?}");
        assert_eq!(
            scrape.value("kafka_log_log_numlogsegments", &[topic, partition]),
            Some(1.0)
        );
        let lag = [("consumergroup", name), topic, partition];
        let shown = scrape.value("kafka_consumergroup_lag", &lag);
        assert_eq!(shown, Some(10.0), "{name:?}");
        let listener = [("listener", name), ("networkProcessor", "0")];
        let connections = "kafka_server_socket_server_metrics_connection_count";
        assert_eq!(scrape.value(connections, &listener), Some(0.0), "{name:?}");
    }
    let broker = [("id", "7"), ("address", "a\"b\\c\n:9092")];
    assert_eq!(scrape.value("kafka_broker_info", &broker), Some(1.0));
}

#[test]
fn detail_decides_how_many_labels_there_are_and_sums_stay() {
    let topic_family = "kafka_server_brokertopicmetrics_bytesin_total";
    for (detail, topics, partitions) in [
        (Detail::Cluster, 0, 0),
        (Detail::Topic, 1, 0),
        (Detail::Partition, 1, 4),
    ] {
        let (metrics, _sources) = busy(detail);
        let scrape = Scrape::parse(&metrics.render());
        assert_eq!(scrape.count(topic_family), 1 + topics, "{detail:?}");
        assert_eq!(
            scrape.count("kafka_topic_partitions"),
            2 * topics,
            "{detail:?}"
        );
        assert_eq!(
            scrape.count("kafka_log_log_logendoffset"),
            partitions,
            "{detail:?}"
        );
        for (family, count) in [
            ("kafka_consumergroup_members", topics),
            ("kafka_consumergroup_lag_sum", topics),
            ("kafka_consumergroup_lag", usize::from(partitions > 0)),
            (
                "kafka_consumergroup_lag_seconds",
                usize::from(partitions > 0),
            ),
        ] {
            assert_eq!(scrape.count(family), count, "{family} {detail:?}");
        }
        let led = scrape.value("kafka_server_replicamanager_leadercount", &[]);
        assert_eq!(led, Some(4.0), "{detail:?}");
        let groups = "kafka_coordinator_group_groupmetadatamanager_numgroups";
        assert_eq!(scrape.value(groups, &[]), Some(1.0), "{detail:?}");
        assert_eq!(scrape.value(topic_family, &[]), Some(1_000.0), "{detail:?}");
    }
}

#[test]
fn a_deleted_topic_leaves_the_page_but_not_the_sums() {
    let (metrics, _sources) = busy(Detail::Partition);
    metrics.remove_topic("orders");
    let scrape = Scrape::parse(&metrics.render());
    let family = "kafka_server_brokertopicmetrics_bytesin_total";
    assert_eq!(scrape.value(family, &[("topic", "orders")]), None);
    assert_eq!(scrape.value(family, &[]), Some(1_000.0));
}

#[test]
fn sources_that_are_gone_are_left_out() {
    let (metrics, sources) = busy(Detail::Partition);
    assert_eq!(
        [
            Arc::strong_count(&sources.partitions),
            Arc::strong_count(&sources.engine),
            Arc::strong_count(&sources.groups),
            Arc::strong_count(&sources.host),
        ],
        [1; 4]
    );
    drop(sources);
    let scrape = Scrape::parse(&metrics.render());
    assert_eq!(scrape.count("kafka_log_log_size"), 0);
    assert_eq!(scrape.count("ottla_rocksdb_memtable_bytes"), 0);
    assert_eq!(scrape.count("kafka_consumergroup_members"), 0);
    assert_eq!(scrape.count("ottla_disk_free_bytes"), 0);
    let hosted = scrape.value("kafka_server_replicamanager_partitioncount", &[]);
    assert_eq!(hosted, Some(0.0));
}

#[test]
fn a_failed_store_takes_all_replicas_offline() {
    let (metrics, _sources) = busy(Detail::Partition);
    metrics.log_directory_offline(true);
    let scrape = Scrape::parse(&metrics.render());
    assert_eq!(
        scrape.value("kafka_log_logmanager_offlinelogdirectorycount", &[]),
        Some(1.0)
    );
    assert_eq!(
        scrape.value("kafka_server_replicamanager_offlinereplicacount", &[]),
        Some(4.0)
    );
}

#[test]
fn a_broker_that_moves_shows_one_address() {
    let (metrics, _sources) = busy(Detail::Partition);
    metrics.broker(1, "elsewhere:9092");
    let scrape = Scrape::parse(&metrics.render());
    assert_eq!(scrape.count("kafka_broker_info"), 1);
}

#[test]
fn histogram_buckets_grow_and_end_with_the_count() {
    let (metrics, _sources) = busy(Detail::Partition);
    for micros in [1, 60, 300, 700, 40_000, 9_000_000] {
        metrics.fsync(Duration::from_micros(micros));
    }
    let scrape = Scrape::parse(&metrics.render());
    for family in ALL.iter().filter(|f| f.kind == Kind::Histogram) {
        let mut by_series: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), value) in &scrape.samples {
            if name.strip_suffix("_bucket") == Some(family.name) {
                let mut labels = labels.clone();
                let bound = labels.remove("le").unwrap().parse().unwrap();
                by_series.entry(labels).or_default().push((bound, *value));
            }
        }
        assert!(!by_series.is_empty(), "{}", family.name);
        for (labels, mut buckets) in by_series {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.is_sorted_by_key(|bucket| bucket.1), "{buckets:?}");
            let count = scrape.samples[&(format!("{}_count", family.name), labels)];
            assert_eq!(
                buckets.last(),
                Some(&(f64::INFINITY, count)),
                "{}",
                family.name
            );
        }
    }
}

#[test]
fn ten_thousand_partitions_make_a_page_of_known_size_in_one_reservation() {
    let metrics = Metrics::new(Detail::Partition);
    let topics = (0..100).map(|t| (format!("events.of-topic.{t:04}"), 100));
    let partitions = Arc::new(Partitions(topics.collect()));
    metrics.watch_partitions(&partitions);
    (0..100).for_each(|t| {
        metrics
            .topic(&format!("events.of-topic.{t:04}"))
            .appended(1, 1)
    });
    let started = tokio::time::Instant::now();
    let page = metrics.render();
    let took = started.elapsed();
    println!("{} bytes for 10,000 partitions in {took:?}", page.len());
    let lines = page.lines().count();
    // 16 per partition, 8 per topic, and the rest of the page.
    assert!((160_800..161_300).contains(&lines), "{lines} lines");
    assert!(page.len() < 110 * lines, "{} bytes", page.len());
    // Doubling would leave up to twice the room; the reservation is at most the widest number too large per line.
    let spare = page.capacity() - page.len();
    assert!(spare < 25 * lines, "{spare} bytes spare");
    let scrape = Scrape::parse(&page);
    assert_eq!(scrape.count("kafka_log_log_logendoffset"), 10_000);
    assert_eq!(scrape.count("kafka_topic_partitions"), 100);
}

#[test]
fn scrapes_and_counting_go_on_together() {
    let (metrics, _sources) = busy(Detail::Partition);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let metrics = metrics.clone();
            scope.spawn(move || {
                for n in 0..2_000u64 {
                    let topic = format!("t{}", n % 7);
                    metrics.topic(&topic).appended(1, 10);
                    let api = metrics.api(thread);
                    api.answered(1, 0, 100, &Elapsed::default());
                    api.sent(&SendTimes::default());
                    metrics.refused("bad_header");
                    if n % 500 == 0 {
                        metrics.remove_topic(&topic);
                        metrics.fade_quantiles();
                    }
                }
            });
        }
        for _ in 0..20 {
            Scrape::parse(&metrics.render());
        }
    });
    let scrape = Scrape::parse(&metrics.render());
    let messages = "kafka_server_brokertopicmetrics_messagesin_total";
    assert_eq!(scrape.value(messages, &[]), Some(6_010.0));
    assert_eq!(
        scrape.value("ottla_refused_total", &[("cause", "bad_header")]),
        Some(6_000.0)
    );
    let requests = "kafka_network_requestmetrics_requests_total";
    let list_offsets = [("request", "ListOffsets"), ("version", "1")];
    assert_eq!(scrape.value(requests, &list_offsets), Some(2_000.0));
}

#[test]
fn the_most_decompressions_at_a_moment_are_remembered() {
    let metrics = Metrics::new(Detail::Cluster);
    let three: Vec<_> = (0..3).map(|_| metrics.decompression()).collect();
    drop(three);
    let _one = metrics.decompression();
    let page = metrics.render();
    assert!(
        page.contains("\nottla_decompressions_running 1\n"),
        "{page}"
    );
    assert!(page.contains("\nottla_decompressions_running_most 3\n"));
}
