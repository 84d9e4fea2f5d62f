//! A disk that runs full while a producer writes: it hears KAFKA_STORAGE_ERROR, readers go on, and after making room
//! and a new start everything acknowledged is there.
//!
//! The disk is a small file system in memory, in a mount namespace of its own; most of it is taken by a file that
//! is removed to make room.

use std::path::Path;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    CreateTopicsRequest, FetchRequest, MetadataRequest, ProduceRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_integration_tests::http::{get, sample};
use ottla_integration_tests::namespace::SmallDisk;
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, TempDir, seed};
use ottla_protocol::batch::{self, BatchBuilder};

const DISK_MIB: u32 = 64;
const BALLAST_MIB: usize = 48;
const VALUE_BYTES: usize = 100_000;
const TOPIC: &str = "full";
const NONE: i16 = 0;
const KAFKA_STORAGE_ERROR: i16 = 56;
/// The exit code of a broker whose storage failed while it served.
const EXIT_STORAGE_LOST: i32 = 4;

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_loses_nothing() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TempDir::new("disk-full");
    let disk = SmallDisk::new(folder.path(), DISK_MIB);
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; BALLAST_MIB << 20]).expect("room for the ballast");
    let data = disk.path().join("data");

    let mut broker = Broker::start(&data, &[]);
    broker.allow_log("storage failed, no more writes are accepted");
    broker.allow_log("a coordinator's records could not be stored");
    let mut wire = Wire::connect(&broker);
    assert_eq!(create(&mut wire, TOPIC), NONE);
    let mut acknowledged = Vec::new();
    let refused = loop {
        let batch = batch_of(&mut random);
        let response = produce(&mut wire, batch.clone());
        if response.error_code != NONE {
            break response;
        }
        assert_eq!(response.base_offset, acknowledged.len() as i64);
        acknowledged.push(batch);
        assert!(acknowledged.len() * VALUE_BYTES < (DISK_MIB as usize) << 20);
    };
    println!("{} batches acknowledged", acknowledged.len());
    assert!(acknowledged.len() > 50, "the disk was full too early");
    assert_eq!(refused.error_code, KAFKA_STORAGE_ERROR, "{refused:?}");
    let message = refused.error_message.expect("a message");
    assert!(message.contains("No space left"), "{message:?}");

    // It says so, takes nothing more, and goes on to serve what it has.
    let port = broker.metrics_port().expect("a metrics listener");
    let (status, why) = get(port, "/readyz");
    assert_eq!(status, 503);
    assert!(why.starts_with("storage failed: disk full"), "{why:?}");
    assert_eq!(get(port, "/healthz").0, 200);
    let metrics = get(port, "/metrics").1;
    let offline = sample(&metrics, "kafka_log_logmanager_offlinelogdirectorycount");
    assert_eq!(offline, Some(1.0));
    assert_eq!(read_all(&mut wire), acknowledged);
    assert_eq!(create(&mut wire, "another"), KAFKA_STORAGE_ERROR);
    assert_eq!(
        topics(&mut wire),
        [TOPIC],
        "what was not stored is not there"
    );
    assert_eq!(read_all(&mut Wire::connect(&broker)), acknowledged);

    // Room alone is not enough: what reached the disk is told by a new start only.
    std::fs::remove_file(&ballast).expect("the ballast is ours");
    let response = produce(&mut wire, batch_of(&mut random));
    assert_eq!(response.error_code, KAFKA_STORAGE_ERROR);
    assert_eq!(broker.sigterm().code(), Some(EXIT_STORAGE_LOST));
    assert!(!clean_marker(&data), "a failed log is no clean stop");
    let log = broker.log();
    let complaints = log.iter().filter(|line| line.starts_with("ottla: "));
    assert_eq!(complaints.count(), 1, "{log:?}");

    broker.restart();
    let mut wire = Wire::connect(&broker);
    let mut stored = read_all(&mut wire);
    // A batch that was refused may have reached the disk all the same; its producer would send it again.
    assert!(stored.len() <= acknowledged.len() + 1);
    stored.truncate(acknowledged.len());
    assert_eq!(stored, acknowledged);
    assert_eq!(topics(&mut wire), [TOPIC]);
    assert_eq!(produce(&mut wire, batch_of(&mut random)).error_code, NONE);
    assert_eq!(
        get(
            broker.metrics_port().expect("a metrics listener"),
            "/readyz"
        )
        .0,
        200
    );
    assert_eq!(broker.sigterm().code(), Some(0));
    assert!(clean_marker(&data));
    drop(broker);
    drop(disk);
}

fn clean_marker(data: &Path) -> bool {
    data.join(".kafka_cleanshutdown").exists()
}

fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// Random bytes, so that nothing on the way makes them smaller.
fn batch_of(random: &mut fastrand::Rng) -> Vec<u8> {
    let value: Vec<u8> = (0..VALUE_BYTES).map(|_| random.u8(..)).collect();
    let time = 1_700_000_000_000;
    let batch = BatchBuilder::new(time).record(time, None, Some(&value), &[]);
    batch.build().to_vec()
}

/// Creates a topic of one partition; its error code.
fn create(wire: &mut Wire, topic: &str) -> i16 {
    let topic = CreatableTopic::default()
        .with_name(topic_name(topic))
        .with_num_partitions(1)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000);
    wire.ask(7, &request).topics[0].error_code
}

fn topics(wire: &mut Wire) -> Vec<String> {
    let all = MetadataRequest::default().with_topics(None);
    let topics = wire.ask(9, &all).topics;
    let name = |name: Option<TopicName>| name.expect("topics have names").0.to_string();
    topics.into_iter().map(|topic| name(topic.name)).collect()
}

fn produce(wire: &mut Wire, batch: Vec<u8>) -> PartitionProduceResponse {
    let data = PartitionProduceData::default().with_records(Some(batch.into()));
    let topic = TopicProduceData::default()
        .with_name(topic_name(TOPIC))
        .with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(10_000)
        .with_topic_data(vec![topic]);
    wire.ask(9, &request).responses[0].partition_responses[0].clone()
}

/// All batches of the topic, as their producer sent them, after a look at its metadata.
fn read_all(wire: &mut Wire) -> Vec<Vec<u8>> {
    let topic = MetadataRequestTopic::default().with_name(Some(topic_name(TOPIC)));
    let request = MetadataRequest::default().with_topics(Some(vec![topic]));
    assert_eq!(wire.ask(9, &request).topics[0].error_code, NONE);
    let mut batches = Vec::new();
    loop {
        let partition = FetchPartition::default()
            .with_fetch_offset(batches.len() as i64)
            .with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default()
            .with_topic(topic_name(TOPIC))
            .with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_max_bytes(1 << 20)
            .with_topics(vec![topic]);
        let response = wire.ask(12, &request);
        let found = &response.responses[0].partitions[0];
        assert_eq!(found.error_code, NONE);
        let records = found.records.clone().unwrap_or_default();
        for batch in batch::walk(&records) {
            let (header, bytes) = batch.expect("whole batches");
            assert_eq!(header.base_offset, batches.len() as i64);
            let mut sent = bytes.to_vec();
            batch::stamp(&mut sent, 0, -1);
            batches.push(sent);
        }
        if batches.len() as i64 == found.high_watermark {
            return batches;
        }
        assert!(!records.is_empty(), "records up to the high watermark");
    }
}
