//! A disk that runs full while a producer writes: it hears KAFKA_STORAGE_ERROR, readers go on, and once there is room
//! everything acknowledged is there and more is taken, without anybody's help. Here are the answers of all kinds of
//! requests, one disk each; `soak/full_disks.rs` has rounds under load.
//!
//! The disk is a small file system in memory, in a mount namespace of its own; most of it is taken by a file that
//! is removed to make room.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    CreatePartitionsRequest, DeleteRecordsRequest, DeleteTopicsRequest, FetchRequest,
    FindCoordinatorRequest, GroupId, InitProducerIdRequest, MetadataRequest, OffsetCommitRequest,
    ProducerId, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_integration_tests::broker::free_port;
use ottla_integration_tests::http::{get, metrics_when, sample};
use ottla_integration_tests::namespace::SmallDisk;
use ottla_integration_tests::topics::topic_name;
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, TempDir, seed, topics};
use ottla_protocol::batch::{self, BatchBuilder};

const DISK_MIB: u32 = 64;
const BALLAST_MIB: usize = 36;
/// Leaves more, since requests are refused before the disk is full.
const SMALL_BALLAST_MIB: usize = 24;
/// Less than the floor of the alarm, an eighth of the disk.
const SMALL_ROOM_MIB: usize = 7;
const VALUE_BYTES: usize = 100_000;
const TOPIC: &str = "full";
const GROUP: &str = "readers";
const RESERVE_FILE: &str = "disk-reserve";
/// Room for the second time that the disk runs full.
const ROOM_BYTES: usize = 16 << 20;
/// What a new start takes, five seconds of patience included, and much more.
const DEADLINE: Duration = Duration::from_secs(60);
const NONE: i16 = 0;
const KAFKA_STORAGE_ERROR: i16 = 56;
/// The exit code of a broker whose storage failed while it served.
const EXIT_STORAGE_LOST: i32 = 4;

/// Switches off what refuses in time, so that the store itself finds the disk full.
const NO_FLOORS: [(&str, &str); 4] = [
    // What is in memory when the disk runs full needs room in files before a new start.
    ("memory.budget.bytes", "16777216"),
    ("disk.alarm.free.bytes", "0"),
    ("disk.alarm.free.percent", "0"),
    ("disk.refuse.free.bytes", "0"),
];

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
    let listener = format!("PLAINTEXT://127.0.0.1:{}", free_port());
    let metrics = format!("127.0.0.1:{}", free_port());
    let mut properties = NO_FLOORS.to_vec();
    properties.extend([
        ("listeners", listener.as_str()),
        ("metrics.listener", &metrics),
    ]);

    let mut broker = Broker::start(&data, &properties);
    broker.allow_log("storage failed, no more writes are accepted");
    broker.allow_log("a coordinator's records could not be stored");
    let mut wire = Wire::connect(&broker);
    assert_eq!(create(&mut wire, TOPIC), NONE);
    let mut acknowledged = Vec::new();
    let refused = fill(&mut wire, &mut random, &mut acknowledged);
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
        topic_names(&mut wire),
        [TOPIC],
        "what was not stored is not there"
    );
    assert_eq!(read_all(&mut Wire::connect(&broker)), acknowledged);
    assert_eq!(broker.sigterm().code(), Some(EXIT_STORAGE_LOST));
    assert!(!clean_marker(&data), "a failed log is no clean stop");
    let log = broker.log();
    let complaints = log.iter().filter(|line| line.starts_with("ottla: "));
    assert_eq!(complaints.count(), 1, "{log:?}");

    std::fs::remove_file(&ballast).expect("the ballast is ours");
    broker.restart();
    let mut wire = Wire::connect(&broker);
    acknowledged = stored(&mut wire, acknowledged);
    assert_eq!(topic_names(&mut wire), [TOPIC]);

    // Room alone is not enough, since only a new start tells what reached the disk; but that is made without help.
    let free = free_bytes(disk.path());
    let taken = free.checked_sub(ROOM_BYTES).expect("more room than that");
    std::fs::write(&ballast, vec![0; taken]).expect("room for the ballast");
    let refused = fill(&mut wire, &mut random, &mut acknowledged);
    assert_eq!(refused.error_code, KAFKA_STORAGE_ERROR, "{refused:?}");
    std::fs::remove_file(&ballast).expect("the ballast is ours");
    let response = produce(&mut wire, batch_of(&mut random));
    assert_eq!(response.error_code, KAFKA_STORAGE_ERROR);
    let second_banner = |lines: &[String]| {
        let banners = lines.iter().filter(|line| line.starts_with("try: "));
        (banners.count() == 2).then_some(())
    };
    let begun = broker.process().stdout.wait_for(DEADLINE, second_banner);
    assert!(
        begun.is_some(),
        "it does not begin anew: {:?}",
        broker.log()
    );
    let mut wire = Wire::connect(&broker);
    acknowledged = stored(&mut wire, acknowledged);
    let batch = batch_of(&mut random);
    assert_eq!(produce(&mut wire, batch.clone()).error_code, NONE);
    acknowledged.push(batch);
    assert_eq!(read_all(&mut wire), acknowledged);
    assert_eq!(get(port, "/readyz").0, 200);
    assert_eq!(broker.sigterm().code(), Some(0));
    assert!(clean_marker(&data));
    drop(broker);
    drop(disk);
}

#[test]
fn what_has_expired_goes_at_once_when_room_becomes_little() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TempDir::new("disk-early");
    let disk = SmallDisk::new(folder.path(), DISK_MIB);
    // Brokers of tests look once an hour for what has expired, and these batches are years old.
    let mut broker = Broker::start(&disk.path().join("data"), &[]);
    broker.allow_log("the disk is nearly full, what needs more of it is refused");
    broker.allow_log("little room is left on the disk");
    let mut wire = Wire::connect(&broker);
    assert_eq!(create(&mut wire, TOPIC), NONE);
    for _ in 0..5 {
        assert_eq!(produce(&mut wire, batch_of(&mut random)).error_code, NONE);
    }
    let log_start = format!("kafka_log_log_logstartoffset{{topic=\"{TOPIC}\",partition=\"0\"}}");
    let port = broker.metrics_port().expect("a metrics listener");
    let metrics = get(port, "/metrics").1;
    assert_eq!(sample(&metrics, &log_start), Some(0.0), "{metrics}");
    let taken = free_bytes(disk.path()) - (SMALL_ROOM_MIB << 20);
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; taken]).expect("room for the ballast");
    metrics_when(port, "what has expired is gone", |page| {
        sample(page, &log_start) == Some(5.0)
    });
    std::fs::remove_file(&ballast).expect("the ballast is ours");
    drop(broker);
    drop(disk);
}

#[test]
fn a_disk_without_inodes_refuses_in_time_and_takes_writes_again() {
    let folder = TempDir::new("no-inodes");
    let disk = SmallDisk::new(folder.path(), DISK_MIB);
    let mut broker = Broker::start(&disk.path().join("data"), &[]);
    broker.allow_log("the disk is nearly full, what needs more of it is refused");
    let mut wire = Wire::connect(&broker);
    assert_eq!(create(&mut wire, TOPIC), NONE);
    let files = disk.path().join("files");
    std::fs::create_dir(&files).expect("a folder");
    let free = rustix::fs::statvfs(&files).expect("a disk").f_favail;
    let mut names = (10..free).map(|index| files.join(index.to_string()));
    names
        .try_for_each(|name| std::fs::write(name, b""))
        .expect("empty files");
    let port = broker.metrics_port().expect("a metrics listener");
    let metrics = metrics_when(port, "the disk is full", |page| {
        sample(page, "ottla_disk_level") == Some(2.0)
    });
    let mut random = fastrand::Rng::with_seed(5);
    let refused = produce(&mut wire, batch_of(&mut random));
    assert_eq!(refused.error_code, KAFKA_STORAGE_ERROR);
    let offline = sample(&metrics, "kafka_log_logmanager_offlinelogdirectorycount");
    assert_eq!(offline, Some(0.0), "nothing failed");
    std::fs::remove_dir_all(&files).expect("ours");
    let enough = |line: &str| line.contains("there is enough room").then_some(());
    let passed = broker.process().stderr.wait_for_line(DEADLINE, enough);
    assert!(passed.is_some(), "{:?}", broker.log());
    let batch = batch_of(&mut random);
    assert_eq!(produce(&mut wire, batch).error_code, NONE);
    assert_eq!(broker.sigterm().code(), Some(0));
    drop(broker);
    drop(disk);
}

#[test]
fn a_signal_while_it_begins_anew_is_heard() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TempDir::new("disk-full-signal");
    let disk = SmallDisk::new(folder.path(), DISK_MIB);
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; BALLAST_MIB << 20]).expect("room for the ballast");
    let mut broker = Broker::start(&disk.path().join("data"), &NO_FLOORS);
    broker.allow_log("storage failed, no more writes are accepted");
    let mut wire = Wire::connect(&broker);
    assert_eq!(create(&mut wire, TOPIC), NONE);
    fill(&mut wire, &mut random, &mut Vec::new());
    // Answers that nobody reads keep their connection, so that the end takes its time.
    let mut unread = Wire::connect(&broker);
    for _ in 0..16 {
        let _unread = unread.send(12, &read_from(0));
    }
    std::fs::remove_file(&ballast).expect("the ballast is ours");
    let begins = |line: &str| line.contains("beginning anew").then_some(());
    let seen = broker.process().stderr.wait_for_line(DEADLINE, begins);
    assert!(seen.is_some(), "{:?}", broker.log());
    // How it ends depends on where it is; a second start that serves on would be wrong.
    let status = broker.stop_with(rustix::process::Signal::TERM);
    println!("it ended with {status}");
    drop(broker);
    drop(disk);
}

#[test]
fn with_little_room_what_needs_more_is_refused_in_time_and_the_rest_goes_on() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TempDir::new("disk-nearly-full");
    let disk = SmallDisk::new(folder.path(), DISK_MIB);
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; SMALL_BALLAST_MIB << 20]).expect("room for the ballast");
    let data = disk.path().join("data");
    let properties = [
        ("offsets.topic.num.partitions", "1"),
        // The batches are years old.
        ("log.retention.ms", "-1"),
    ];
    let mut broker = Broker::start(&data, &properties);
    broker.allow_log("the disk is nearly full, what needs more of it is refused");
    broker.allow_log("little room is left on the disk");
    let mut wire = Wire::connect(&broker);
    assert_eq!(create(&mut wire, TOPIC), NONE);
    assert_eq!(create(&mut wire, "doomed"), NONE);
    find_coordinator(&mut wire);
    assert_eq!(producer_id(&mut wire), NONE);
    let port = broker.metrics_port().expect("a metrics listener");
    assert!(data.join(RESERVE_FILE).exists());

    let mut acknowledged = Vec::new();
    let mut refused = fill(&mut wire, &mut random, &mut acknowledged);
    // Whoever writes faster than the disk is looked at is refused until the next look, which may find room.
    while sample(&get(port, "/metrics").1, "ottla_disk_level") != Some(2.0) {
        refused = produce_until_refused(&mut wire, &mut random, &mut acknowledged);
    }
    assert_eq!(refused.error_code, KAFKA_STORAGE_ERROR, "{refused:?}");
    let (status, why) = get(port, "/readyz");
    assert_eq!(status, 503);
    assert!(why.contains("nearly full"), "{why:?}");
    assert_eq!(get(port, "/healthz").0, 200);
    let metrics = get(port, "/metrics").1;
    assert_eq!(sample(&metrics, "ottla_disk_level"), Some(2.0));
    let offline = sample(&metrics, "kafka_log_logmanager_offlinelogdirectorycount");
    assert_eq!(offline, Some(0.0), "nothing failed");
    assert!(
        !data.join(RESERVE_FILE).exists(),
        "given back for what goes on"
    );

    assert_eq!(create(&mut wire, "another"), KAFKA_STORAGE_ERROR);
    assert_eq!(used(&mut wire, "used-first"), KAFKA_STORAGE_ERROR);
    assert_eq!(grow(&mut wire), KAFKA_STORAGE_ERROR);
    assert_eq!(producer_id(&mut wire), KAFKA_STORAGE_ERROR);
    assert_eq!(read_all(&mut wire), acknowledged);
    assert_eq!(commit(&mut wire, 7), NONE);
    assert_eq!(delete_records(&mut wire, "doomed"), NONE);
    assert_eq!(delete(&mut wire, "doomed"), NONE);
    assert_eq!(topic_names(&mut wire), ["__consumer_offsets", TOPIC]);

    std::fs::remove_file(&ballast).expect("the ballast is ours");
    let enough = |line: &str| line.contains("there is enough room").then_some(());
    let passed = broker.process().stderr.wait_for_line(DEADLINE, enough);
    assert!(passed.is_some(), "{:?}", broker.log());
    assert_eq!(get(port, "/readyz").0, 200);
    assert_eq!(producer_id(&mut wire), NONE);
    assert_eq!(create(&mut wire, "another"), NONE);
    let batch = batch_of(&mut random);
    assert_eq!(produce(&mut wire, batch.clone()).error_code, NONE);
    acknowledged.push(batch);
    assert_eq!(read_all(&mut wire), acknowledged);
    assert_eq!(broker.sigterm().code(), Some(0));
    drop(broker);
    drop(disk);
}

fn free_bytes(path: PathBuf) -> usize {
    let stat = rustix::fs::statvfs(path).expect("a disk");
    usize::try_from(stat.f_bavail * stat.f_frsize).expect("a small disk")
}

/// The group's coordinator, with its topic, is there.
fn find_coordinator(wire: &mut Wire) {
    let request = FindCoordinatorRequest::default().with_key(StrBytes::from_static_str(GROUP));
    for _ in 0..1_000 {
        if wire.ask(3, &request).error_code == NONE {
            return;
        }
    }
    panic!("no coordinator");
}

fn producer_id(wire: &mut Wire) -> i16 {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    wire.ask(4, &request).error_code
}

/// Uses a topic that is not there.
fn used(wire: &mut Wire, topic: &str) -> i16 {
    let topic = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![topic]))
        .with_allow_auto_topic_creation(true);
    wire.ask(9, &request).topics[0].error_code
}

fn grow(wire: &mut Wire) -> i16 {
    let topic = CreatePartitionsTopic::default()
        .with_name(topic_name(TOPIC))
        .with_count(2)
        .with_assignments(None);
    let request = CreatePartitionsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000);
    wire.ask(3, &request).results[0].error_code
}

fn commit(wire: &mut Wire, offset: i64) -> i16 {
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(TOPIC))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str(GROUP)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    wire.ask(8, &request).topics[0].partitions[0].error_code
}

fn delete_records(wire: &mut Wire, topic: &str) -> i16 {
    let partition = DeleteRecordsPartition::default().with_offset(-1);
    let topic = DeleteRecordsTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000);
    wire.ask(2, &request).topics[0].partitions[0].error_code
}

fn delete(wire: &mut Wire, topic: &str) -> i16 {
    let request = DeleteTopicsRequest::default()
        .with_topic_names(vec![topic_name(topic)])
        .with_timeout_ms(10_000);
    wire.ask(5, &request).responses[0].error_code
}

/// Produces until it is refused; the refusal.
fn fill(
    wire: &mut Wire,
    random: &mut fastrand::Rng,
    acknowledged: &mut Vec<Vec<u8>>,
) -> PartitionProduceResponse {
    let before = acknowledged.len();
    let response = produce_until_refused(wire, random, acknowledged);
    println!("{} batches acknowledged", acknowledged.len());
    assert!(
        acknowledged.len() - before > 50,
        "the disk was full too early"
    );
    response
}

fn produce_until_refused(
    wire: &mut Wire,
    random: &mut fastrand::Rng,
    acknowledged: &mut Vec<Vec<u8>>,
) -> PartitionProduceResponse {
    loop {
        let batch = batch_of(random);
        let response = produce(wire, batch.clone());
        if response.error_code != NONE {
            return response;
        }
        assert_eq!(response.base_offset, acknowledged.len() as i64);
        acknowledged.push(batch);
        assert!(acknowledged.len() * VALUE_BYTES < (DISK_MIB as usize) << 20);
    }
}

/// All that is stored after a new start, which is what was acknowledged and perhaps one batch that was refused but
/// had reached the disk; its producer would send it again.
fn stored(wire: &mut Wire, acknowledged: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let stored = read_all(wire);
    assert!(stored.len() <= acknowledged.len() + 1);
    assert!(stored.starts_with(&acknowledged));
    stored
}

fn clean_marker(data: &Path) -> bool {
    data.join(".kafka_cleanshutdown").exists()
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
    topics::create(wire, topic, 1, &[]).error_code
}

fn topic_names(wire: &mut Wire) -> Vec<String> {
    let all = MetadataRequest::default().with_topics(None);
    let topics = wire.ask(9, &all).topics;
    let name = |name: Option<TopicName>| name.expect("topics have names").0.to_string();
    let mut names: Vec<String> = topics.into_iter().map(|topic| name(topic.name)).collect();
    names.sort();
    names
}

fn produce(wire: &mut Wire, batch: Vec<u8>) -> PartitionProduceResponse {
    topics::produce(wire, TOPIC, 0, batch.into())
}

/// A fetch of what lies at an offset, a megabyte at most.
fn read_from(offset: i64) -> FetchRequest {
    topics::fetch_request(TOPIC, 0, offset, 1 << 20)
}

/// All batches of the topic, as their producer sent them, after a look at its metadata.
fn read_all(wire: &mut Wire) -> Vec<Vec<u8>> {
    assert_eq!(topics::metadata(wire, TOPIC).error_code, NONE);
    let mut batches = Vec::new();
    loop {
        let response = wire.ask(12, &read_from(batches.len() as i64));
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
