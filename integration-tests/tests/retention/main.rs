//! Retention against a real broker process: log starts move in time, the disk gets its room back, and what is left is
//! what a model says.
//!
//! Nothing here sleeps: a pause is a fetch at the end of a log that waits in vain.

mod idle;
mod mixed;
mod model;
mod space;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteTopicsRequest};
use ottla::env::Env;
use ottla_integration_tests::Broker;
use ottla_integration_tests::topics::{self, topic_name};
use ottla_integration_tests::wire::Wire;
use ottla_protocol::batch::{self, BatchBuilder};

/// The reserve for a full disk would count as room that was not given back.
pub const NO_RESERVE: (&str, &str) = ("disk.reserve.bytes", "0");
const NONE: i16 = 0;
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// The promise for the room of what was deleted.
const SPACE_DEADLINE: Duration = Duration::from_secs(120);

/// A connection, and the clock.
struct Client {
    wire: Wire,
    env: Env,
}

/// One record of this size and time; its value says which one it is.
fn record(timestamp: i64, index: u64, bytes: usize) -> Bytes {
    let mut value = index.to_be_bytes().to_vec();
    value.resize(bytes.max(8), b'r');
    let batch = BatchBuilder::new(timestamp).record(timestamp, None, Some(&value), &[]);
    batch.build()
}

impl Client {
    fn of(broker: &Broker) -> Client {
        Client {
            wire: Wire::connect(broker),
            env: Env::system(),
        }
    }

    fn create(&mut self, topic: &str, configs: &[(&str, &str)]) {
        let created = topics::create(&mut self.wire, topic, 1, configs);
        assert_eq!(created.error_code, NONE, "{:?}", created.error_message);
        assert_eq!(topics::metadata(&mut self.wire, topic).error_code, NONE);
    }

    /// Appends a batch; the offset of its first record.
    fn produce(&mut self, topic: &str, batch: Bytes) -> i64 {
        let result = topics::produce_within(&mut self.wire, topic, 0, batch, 30_000);
        assert_eq!(result.error_code, NONE, "{:?}", result.error_message);
        result.base_offset
    }

    fn offset(&mut self, topic: &str, timestamp: i64) -> i64 {
        let found = topics::offset_of(&mut self.wire, topic, timestamp);
        assert_eq!(found.error_code, NONE);
        found.offset
    }

    /// One fetch; the error and the batches, each with its base offset.
    fn fetch(&mut self, topic: &str, offset: i64, wait_ms: i32) -> (i16, Vec<(i64, Bytes)>) {
        let request = topics::fetch_request(topic, 0, offset, 4 << 20)
            .with_max_wait_ms(wait_ms)
            .with_min_bytes(1);
        let response = self.wire.ask(12, &request);
        let found = &response.responses[0].partitions[0];
        let records = found.records.clone().unwrap_or_default();
        let batches = batch::walk(&records).map(|batch| {
            let (header, bytes) = batch.expect("whole batches");
            (header.base_offset, records.slice_ref(bytes))
        });
        (found.error_code, batches.collect())
    }

    /// Everything from `offset` to the end.
    fn read_from(&mut self, topic: &str, mut offset: i64) -> Vec<(i64, Bytes)> {
        let end = self.offset(topic, LATEST);
        let mut all = Vec::new();
        while offset < end {
            let (error, batches) = self.fetch(topic, offset, 0);
            assert_eq!(error, NONE, "at {offset}");
            let (last, bytes) = batches.last().expect("batches up to the end");
            let header = batch::BatchHeader::parse(bytes).expect("a batch");
            offset = last + i64::from(header.last_offset_delta) + 1;
            all.extend(batches);
        }
        all
    }

    fn delete_records(&mut self, topic: &str, offset: i64) {
        let partition = DeleteRecordsPartition::default().with_offset(offset);
        let topic = DeleteRecordsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition]);
        let request = DeleteRecordsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(10_000);
        let response = self.wire.ask(2, &request);
        assert_eq!(response.topics[0].partitions[0].error_code, NONE);
    }

    fn delete_topic(&mut self, topic: &str) {
        let topic = DeleteTopicState::default().with_name(Some(topic_name(topic)));
        let request = DeleteTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(10_000);
        assert_eq!(self.wire.ask(6, &request).responses[0].error_code, NONE);
    }

    /// Asks every 100 ms until `done`, and says how long it took; panics with `what` after `deadline`.
    fn wait_until(
        &mut self,
        pause_at: &str,
        what: &str,
        deadline: Duration,
        mut done: impl FnMut(&mut Client) -> bool,
    ) -> Duration {
        let began = self.env.monotonic();
        while !done(self) {
            let waited = self.env.monotonic() - began;
            assert!(waited < deadline, "not within {deadline:?}: {what}");
            let end = self.offset(pause_at, LATEST);
            assert_eq!(self.fetch(pause_at, end, 100), (NONE, Vec::new()));
        }
        self.env.monotonic() - began
    }
}

/// Bytes that a folder takes on the disk. Files that go meanwhile take none.
fn on_disk(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let sizes = entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => on_disk(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        });
    sizes.sum()
}
