//! Apache Kafka's own tools of 4.3.1 unchanged against a real broker. A JVM takes a second or two to start, so
//! each test walks one story.

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_integration_tests::broker::ottla;
use ottla_integration_tests::clients::{kafka_tool, kcat};
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, Output, Run, TempDir, unique};
use ottla_protocol::batch::{Compression, walk};

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer";
const CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
const DELETE_RECORDS: &str = "org.apache.kafka.tools.DeleteRecordsCommand";
const PRODUCER_PERFORMANCE: &str = "org.apache.kafka.tools.ProducerPerformance";
const API_VERSIONS: &str = "org.apache.kafka.tools.BrokerApiVersionsCommand";

fn tool(broker: &Broker, class: &str, args: &[&str]) -> Run {
    kafka_tool(class)
        .args(["--bootstrap-server", &broker.bootstrap()])
        .args(args.to_vec())
}

fn topics(broker: &Broker, args: &[&str]) -> Output {
    tool(broker, TOPICS, args).finish()
}

fn create(broker: &Broker, topic: &str, partitions: &str) {
    let output = topics(
        broker,
        &["--create", "--topic", topic, "--partitions", partitions],
    );
    assert_eq!(
        output.stdout.lines().last(),
        Some(format!("Created topic {topic}.").as_str()),
        "{output:?}"
    );
}

/// Lines of get-offsets: `topic:partition:offset`.
fn offsets(broker: &Broker, topic: &str, time: &str) -> Vec<String> {
    let output = tool(broker, OFFSETS, &["--topic", topic, "--time", time]).succeed();
    output.lines().into_iter().map(str::to_owned).collect()
}

/// Reads `count` records of one partition from an offset on, printed with all that the tool can print.
fn consume(
    broker: &Broker,
    topic: &str,
    partition: &str,
    offset: &str,
    count: usize,
) -> Vec<String> {
    let mut args = vec![
        "--topic",
        topic,
        "--partition",
        partition,
        "--offset",
        offset,
    ];
    let count = count.to_string();
    args.extend(["--max-messages", &count, "--timeout-ms", "30000"]);
    let printed =
        ["partition", "offset", "headers", "key"].map(|part| format!("print.{part}=true"));
    for property in &printed {
        args.extend(["--formatter-property", property]);
    }
    let output = tool(broker, CONSUMER, &args).succeed();
    assert!(
        output
            .stderr
            .contains(&format!("Processed a total of {count} messages")),
        "{output:?}"
    );
    output.lines().into_iter().map(str::to_owned).collect()
}

/// Key and partition of the console producer's keyed records are the Java default partitioner's business; one
/// partition keeps the expectation plain.
fn produce_keyed(broker: &Broker, topic: &str, count: usize, args: &[&str]) {
    let lines: String = (0..count)
        .map(|n| format!("n:{n}\tkey {n}\tvalue {n}\n"))
        .collect();
    let keyed = [
        "--topic",
        topic,
        "--reader-property",
        "parse.key=true",
        "--reader-property",
        "parse.headers=true",
    ];
    tool(broker, PRODUCER, &keyed)
        .args(args.to_vec())
        .stdin(lines)
        .succeed();
}

fn printed(range: std::ops::Range<usize>) -> Vec<String> {
    range
        .map(|n| format!("Partition:0\tOffset:{n}\tn:{n}\tkey {n}\tvalue {n}"))
        .collect()
}

#[test]
fn topics_are_created_listed_described_grown_and_deleted() {
    let folder = TempDir::new("java-topics");
    let broker = Broker::small(folder.path(), &[]);
    let topic = unique("managed");
    let config = ["--config", "max.message.bytes=2000000"];
    let arguments = [
        "--create",
        "--topic",
        &topic,
        "--partitions",
        "3",
        "--replication-factor",
        "1",
    ];
    let output = topics(&broker, &[&arguments[..], &config[..]].concat());
    assert!(
        output.stdout.contains(&format!("Created topic {topic}.")),
        "{output:?}"
    );

    let again = topics(&broker, &arguments);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(
        again
            .stdout
            .contains(&format!("Topic '{topic}' already exists.")),
        "{again:?}"
    );

    assert!(
        topics(&broker, &["--list"])
            .lines()
            .contains(&topic.as_str())
    );

    let described = topics(&broker, &["--describe", "--topic", &topic]);
    let lines = described.lines();
    assert!(
        lines[0].starts_with(&format!("Topic: {topic}\t")),
        "{described:?}"
    );
    for part in [
        "PartitionCount: 3\t",
        "ReplicationFactor: 1\t",
        "max.message.bytes=2000000",
    ] {
        assert!(lines[0].contains(part), "{part} in {described:?}");
    }
    assert_eq!(lines.len(), 4, "{described:?}");
    for (partition, line) in lines[1..].iter().enumerate() {
        let fields: Vec<&str> = line.trim().split('\t').collect();
        assert_eq!(
            fields[..2],
            [format!("Topic: {topic}"), format!("Partition: {partition}")],
            "{line}"
        );
        let field = |name: &str| {
            let found = fields.iter().find_map(|field| field.strip_prefix(name));
            found
                .unwrap_or_else(|| panic!("{name} in {line}"))
                .trim()
                .to_owned()
        };
        let leader = field("Leader:");
        assert!(leader.parse::<u32>().is_ok(), "{line}");
        assert_eq!(
            (field("Replicas:"), field("Isr:")),
            (leader.clone(), leader),
            "{line}"
        );
    }

    let grown = topics(
        &broker,
        &["--alter", "--topic", &topic, "--partitions", "5"],
    );
    assert!(grown.status.success(), "{grown:?}");
    let described = topics(&broker, &["--describe", "--topic", &topic]);
    assert!(
        described.stdout.contains("PartitionCount: 5\t"),
        "{described:?}"
    );
    let shrunk = topics(
        &broker,
        &["--alter", "--topic", &topic, "--partitions", "2"],
    );
    assert_eq!(shrunk.status.code(), Some(1), "{shrunk:?}");

    let deleted = topics(&broker, &["--delete", "--topic", &topic]);
    assert!(deleted.status.success(), "{deleted:?}");
    assert!(
        !topics(&broker, &["--list"])
            .lines()
            .contains(&topic.as_str())
    );
    let gone = topics(&broker, &["--describe", "--topic", &topic]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    assert!(
        gone.stdout
            .contains(&format!("Topic '{topic}' does not exist as expected")),
        "{gone:?}"
    );
}

#[test]
fn the_console_producer_writes_with_its_defaults_and_the_console_consumer_reads_it_back() {
    let folder = TempDir::new("java-console");
    let broker = Broker::small(folder.path(), &[]);
    let topic = unique("console");
    create(&broker, &topic, "1");
    // The defaults: idempotent, acks=all.
    produce_keyed(&broker, &topic, 20, &[]);
    assert_eq!(
        consume(&broker, &topic, "0", "earliest", 20),
        printed(0..20)
    );
    assert_eq!(consume(&broker, &topic, "0", "15", 5), printed(15..20));

    let mut count = 20;
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let lines: String = (0..3)
            .map(|n| format!("n:{0}\tkey {0}\tvalue {0}\n", count + n))
            .collect();
        let keyed = [
            "--topic",
            &topic,
            "--reader-property",
            "parse.key=true",
            "--reader-property",
        ];
        let codec = ["parse.headers=true", "--compression-codec", codec];
        tool(&broker, PRODUCER, &keyed)
            .args(codec)
            .stdin(lines)
            .succeed();
        count += 3;
    }
    assert_eq!(
        consume(&broker, &topic, "0", "earliest", count),
        printed(0..count)
    );
}

/// The codecs of the batches of partition 0, as they are stored.
fn stored_codecs(broker: &Broker, topic: &str) -> Vec<Compression> {
    let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic]);
    // The last version that names topics.
    let mut response = Wire::connect(broker).ask(12, &request);
    let partition = response.responses.remove(0).partitions.remove(0);
    walk(partition.records.as_deref().unwrap_or_default())
        .map(|found| found.expect("a batch").0.compression().expect("a codec"))
        .collect()
}

/// Each batch is sent in another codec than its topic has at that moment.
#[test]
fn what_the_broker_compressed_is_read_by_java_and_librdkafka() {
    let folder = TempDir::new("java-codec-of-topic");
    let broker = Broker::small(folder.path(), &[]);
    let topic = unique("codecs");
    create(&broker, &topic, "1");
    let long = "compressible ".repeat(400);
    let mut sent = Vec::new();
    let mut expected = Vec::new();
    for (round, (settings, codec, of_producer)) in [
        ("compression.type=gzip", Compression::Gzip, "none"),
        ("compression.type=snappy", Compression::Snappy, "gzip"),
        ("compression.type=lz4", Compression::Lz4, "snappy"),
        ("compression.lz4.level=12", Compression::Lz4, "zstd"),
        ("compression.type=zstd", Compression::Zstd, "lz4"),
        ("compression.zstd.level=22", Compression::Zstd, "none"),
        ("compression.type=uncompressed", Compression::None, "zstd"),
    ]
    .into_iter()
    .enumerate()
    {
        ottla()
            .args(["topic", "alter", &topic, "--set", settings])
            .env("OTTLA_BOOTSTRAP", broker.bootstrap())
            .succeed();
        // Several blocks of LZ4 and Snappy in one batch.
        let lines: Vec<String> = (0..60).map(|n| format!("{round} {n} {long}")).collect();
        kcat(&broker)
            .args(["-P", "-t", &topic, "-p", "0", "-z", of_producer])
            .args(["-X", "linger.ms=1000"])
            .stdin(lines.join("\n") + "\n")
            .succeed();
        sent.extend(lines);
        expected.push(codec);
    }
    let mut codecs = stored_codecs(&broker, &topic);
    codecs.dedup();
    expected.dedup();
    assert_eq!(codecs, expected);
    let read = kcat(&broker)
        .args(["-C", "-e", "-q", "-t", &topic, "-o", "beginning"])
        .succeed();
    assert!(read.lines() == sent, "librdkafka read something else");
    let printed: Vec<String> = sent
        .iter()
        .enumerate()
        .map(|(offset, line)| format!("Partition:0\tOffset:{offset}\tNO_HEADERS\tnull\t{line}"))
        .collect();
    let read = consume(&broker, &topic, "0", "earliest", sent.len());
    assert!(read == printed, "the Java client read something else");
}

#[test]
fn records_before_an_offset_are_deleted_and_get_offsets_tells() {
    let folder = TempDir::new("java-delete");
    let broker = Broker::small(folder.path(), &[]);
    let topic = unique("trimmed");
    create(&broker, &topic, "2");
    let empty = [format!("{topic}:0:0"), format!("{topic}:1:0")];
    assert_eq!(offsets(&broker, &topic, "latest"), empty);
    let partition_0 = kcat(&broker);
    let lines: String = (0..10).map(|n| format!("value {n}\n")).collect();
    partition_0
        .args(["-P", "-t", &topic, "-p", "0"])
        .stdin(lines)
        .succeed();
    assert_eq!(
        offsets(&broker, &topic, "latest"),
        [format!("{topic}:0:10"), format!("{topic}:1:0")]
    );
    assert_eq!(offsets(&broker, &topic, "earliest"), empty);

    let wanted = folder.path().join("delete.json");
    let json =
        format!(r#"{{"partitions":[{{"topic":"{topic}","partition":0,"offset":4}}],"version":1}}"#);
    std::fs::write(&wanted, json).expect("a file in the test's folder");
    let file = wanted.display().to_string();
    let deleted = tool(&broker, DELETE_RECORDS, &["--offset-json-file", &file]).succeed();
    assert!(
        deleted
            .stdout
            .contains(&format!("partition: {topic}-0\tlow_watermark: 4")),
        "{deleted:?}"
    );

    assert_eq!(
        offsets(&broker, &topic, "earliest"),
        [format!("{topic}:0:4"), format!("{topic}:1:0")]
    );
    assert_eq!(
        offsets(&broker, &topic, "latest"),
        [format!("{topic}:0:10"), format!("{topic}:1:0")]
    );
    let left: Vec<String> = (4..10)
        .map(|n| format!("Partition:0\tOffset:{n}\tNO_HEADERS\tnull\tvalue {n}"))
        .collect();
    assert_eq!(consume(&broker, &topic, "0", "earliest", 6), left);
}

#[test]
fn the_performance_test_sends_every_record() {
    let folder = TempDir::new("java-performance");
    let broker = Broker::small(folder.path(), &[]);
    let topic = unique("fast");
    create(&broker, &topic, "3");
    let load = [
        "--topic",
        &topic,
        "--num-records",
        "20000",
        "--record-size",
        "300",
        "--throughput",
        "-1",
    ];
    let output = tool(&broker, PRODUCER_PERFORMANCE, &load).succeed();
    assert!(
        output
            .stdout
            .lines()
            .any(|line| line.starts_with("20000 records sent")),
        "{output:?}"
    );
    let stored: i64 = offsets(&broker, &topic, "latest")
        .iter()
        .map(|line| {
            line.rsplit(':')
                .next()
                .and_then(|offset| offset.parse::<i64>().ok())
                .expect("an offset")
        })
        .sum();
    assert_eq!(stored, 20_000);
}

#[test]
fn the_advertised_versions_are_usable_by_the_java_client() {
    let folder = TempDir::new("java-versions");
    let broker = Broker::small(folder.path(), &[]);
    let output = tool(&broker, API_VERSIONS, &[]).succeed();
    assert!(output.stdout.starts_with(&broker.bootstrap()), "{output:?}");
    // What the Java client picks: the newest version both sides know.
    let usable = [
        "Produce(0): 0 to 13 [usable: 13]",
        "Fetch(1): 4 to 18 [usable: 18]",
        "ListOffsets(2): 1 to 10 [usable: 10]",
        "Metadata(3): 0 to 13 [usable: 13]",
        "OffsetCommit(8): 2 to 9 [usable: 9]",
        "OffsetFetch(9): 1 to 9 [usable: 9]",
        "FindCoordinator(10): 0 to 6 [usable: 6]",
        "JoinGroup(11): 0 to 9 [usable: 9]",
        "Heartbeat(12): 0 to 4 [usable: 4]",
        "LeaveGroup(13): 0 to 5 [usable: 5]",
        "SyncGroup(14): 0 to 5 [usable: 5]",
        "DescribeGroups(15): 0 to 6 [usable: 6]",
        "ListGroups(16): 0 to 5 [usable: 5]",
        "ApiVersions(18): 0 to ",
        "CreateTopics(19): 2 to 7 [usable: 7]",
        "DeleteTopics(20): 1 to 6 [usable: 6]",
        "DeleteRecords(21): 0 to 2 [usable: 2]",
        "InitProducerId(22): 0 to ",
        "OffsetForLeaderEpoch(23): 2 to 4 [usable: 4]",
        "DescribeAcls(29): ",
        "DescribeConfigs(32): 1 to 4 [usable: 4]",
        "AlterConfigs(33): 0 to 2 [usable: 2]",
        "DescribeLogDirs(35): 1 to ",
        "CreatePartitions(37): 0 to 3 [usable: 3]",
        "DeleteGroups(42): 0 to 2 [usable: 2]",
        "IncrementalAlterConfigs(44): 0 to 1 [usable: 1]",
        "ListPartitionReassignments(46): 0 ",
        "OffsetDelete(47): 0 [usable: 0]",
        "DescribeCluster(60): 0 to 2 [usable: 2]",
        "DescribeTopicPartitions(75): 0 [usable: 0]",
    ];
    for wanted in usable {
        assert!(
            output.stdout.contains(wanted),
            "{wanted} in\n{}",
            output.stdout
        );
    }
}
