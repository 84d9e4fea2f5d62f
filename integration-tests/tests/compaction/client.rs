//! What the compaction tests ask a broker, over the wire.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, OffsetCommitRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::StrBytes;
use ottla::env::Env;
use ottla_integration_tests::Broker;
use ottla_integration_tests::topics::{self, topic_name};
use ottla_integration_tests::wire::Wire;
use ottla_protocol::batch::{self, BatchBuilder, BatchHeader, crc_matches};
use ottla_protocol::records::for_each_record;

const NONE: i16 = 0;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
const PATIENCE: Duration = Duration::from_secs(60);

/// A record with its offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// A connection, and the clock.
pub struct Client {
    wire: Wire,
    env: Env,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

/// A batch of these records, as of now.
pub fn batch(now_ms: i64, records: &[(&str, Option<&str>)]) -> Bytes {
    let mut builder = BatchBuilder::new(now_ms);
    for (key, value) in records {
        let value = value.map(str::as_bytes);
        builder = builder.record(now_ms, Some(key.as_bytes()), value, &[]);
    }
    builder.build()
}

impl Client {
    pub fn of(broker: &Broker) -> Client {
        Client {
            wire: Wire::connect(broker),
            env: Env::system(),
        }
    }

    pub fn now_ms(&self) -> i64 {
        self.env.now_ms()
    }

    pub fn create(&mut self, topic: &str, configs: &[(&str, &str)]) {
        let created = topics::create(&mut self.wire, topic, 1, configs);
        assert_eq!(created.error_code, NONE, "{:?}", created.error_message);
        assert_eq!(topics::metadata(&mut self.wire, topic).error_code, NONE);
    }

    /// Appends a batch; the offset of its first record.
    pub fn produce(&mut self, topic: &str, batch: Bytes) -> i64 {
        let result = topics::produce_within(&mut self.wire, topic, 0, batch, 30_000);
        assert_eq!(result.error_code, NONE, "{:?}", result.error_message);
        result.base_offset
    }

    /// Appends one record.
    pub fn put(&mut self, topic: &str, key: &str, value: Option<&str>) -> i64 {
        let now_ms = self.now_ms();
        self.produce(topic, batch(now_ms, &[(key, value)]))
    }

    fn offset(&mut self, topic: &str, timestamp: i64) -> i64 {
        let found = topics::offset_of(&mut self.wire, topic, timestamp);
        assert_eq!(found.error_code, NONE);
        found.offset
    }

    fn fetch(&mut self, topic: &str, offset: i64, wait_ms: i32) -> Bytes {
        let request = topics::fetch_request(topic, 0, offset, 4 << 20)
            .with_max_wait_ms(wait_ms)
            .with_min_bytes(1);
        let response = self.wire.ask(12, &request);
        let found = &response.responses[0].partitions[0];
        assert_eq!(found.error_code, NONE, "at {offset}");
        found.records.clone().unwrap_or_default()
    }

    /// All records, in order.
    pub fn records(&mut self, topic: &str) -> Vec<Record> {
        let mut offset = self.offset(topic, EARLIEST);
        let end = self.offset(topic, LATEST);
        let mut all = Vec::new();
        while offset < end {
            let bytes = self.fetch(topic, offset, 0);
            let before = offset;
            for step in batch::walk(&bytes) {
                let (header, bytes) = step.expect("whole batches");
                assert!(crc_matches(bytes), "at {}", header.base_offset);
                records_of(&header, bytes, &mut all);
                offset = header.next_offset();
            }
            assert!(offset > before, "no batch up to the end, at {offset}");
        }
        all
    }

    /// Asks every 50 ms until the topic's records are as wanted, and gives them.
    pub fn wait_for(
        &mut self,
        topic: &str,
        what: &str,
        mut done: impl FnMut(&[Record]) -> bool,
    ) -> Vec<Record> {
        let began = self.env.monotonic();
        loop {
            let records = self.records(topic);
            if done(&records) {
                return records;
            }
            let waited = self.env.monotonic() - began;
            assert!(waited < PATIENCE, "{what}: not in time, {records:?}");
            // The pause is a fetch that waits in vain.
            let end = self.offset(topic, LATEST);
            self.fetch(topic, end, 50);
        }
    }

    /// Waits until the group has a coordinator.
    pub fn find_coordinator(&mut self, group: &str) {
        let request = FindCoordinatorRequest::default()
            .with_key_type(0)
            .with_coordinator_keys(vec![text(group)]);
        let began = self.env.monotonic();
        loop {
            let response = self.wire.ask(4, &request);
            match response.coordinators[0].error_code {
                NONE => return,
                COORDINATOR_NOT_AVAILABLE if self.env.monotonic() - began < PATIENCE => {}
                other => panic!("no coordinator: {other}"),
            }
        }
    }

    /// Commits an offset of partition 0 for a group without members.
    pub fn commit(&mut self, group: &str, topic: &str, offset: i64) {
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let response = self.wire.ask(7, &request);
        assert_eq!(response.topics[0].partitions[0].error_code, NONE);
    }

    /// The committed offset of partition 0; -1 when there is none.
    pub fn committed(&mut self, group: &str, topic: &str) -> i64 {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partition_indexes(vec![0]);
        let request = OffsetFetchRequest::default()
            .with_group_id(group_id(group))
            .with_topics(Some(vec![topic]));
        let response = self.wire.ask(7, &request);
        assert_eq!(response.error_code, NONE);
        response.topics[0].partitions[0].committed_offset
    }
}

fn records_of(header: &BatchHeader, bytes: &[u8], all: &mut Vec<Record>) {
    for_each_record(bytes, usize::MAX, |record| {
        all.push(Record {
            offset: header.base_offset + i64::from(record.offset_delta),
            key: record.key.unwrap_or_default().to_vec(),
            value: record.value.map(<[u8]>::to_vec),
        });
        ControlFlow::Continue(())
    })
    .expect("readable records");
}
