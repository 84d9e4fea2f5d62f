//! When committed offsets go and when they stay, as a client sees it, and what `__consumer_offsets` holds then.
//!
//! Retention is counted in minutes, and nobody waits for them here: an old commit is put into the log as Kafka writes
//! it, under the client id that may do so, and the broker reads it when it starts; and commits of versions 2 to 4 say
//! themselves how long they are kept. A tombstone is waited for with a fetch.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use kafka_protocol::messages::{DescribeGroupsRequest, FetchRequest, OffsetCommitRequest};
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, TempDir, unique};
use ottla_protocol::batch::{self, BatchBuilder};
use ottla_protocol::records;

use crate::group_offsets::{commit_request, fetched};
use crate::groups::{Member, group_id, leave_request, new_group};
use crate::requests::{
    self, NONE, Topic, bounds, create, describe, fetch_request, newest, produce, text,
};
use crate::{Stage, started};

/// The version that says how long its offsets are kept, in milliseconds.
const WITH_RETENTION: i16 = 4;
const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// Who may write to internal topics in Kafka (`AdminUtils.ADMIN_CLIENT_ID`).
const ADMIN_CLIENT: &str = "__admin_client";

/// Offsets are kept for a minute, which is as short as it gets, and looked at ten times a second. All groups share a
/// partition.
const PROPERTIES: [(&str, &str); 4] = [
    ("offsets.retention.minutes", "1"),
    ("offsets.retention.check.interval.ms", "100"),
    ("offsets.topic.num.partitions", "1"),
    ("group.initial.rebalance.delay.ms", "0"),
];

fn stage(name: &str) -> (TempDir, Stage) {
    let (folder, broker, wire) = started(name, &PROPERTIES);
    (folder, Stage { broker, wire })
}

/// `__consumer_offsets`, followed from where it ended when it was opened.
struct Follower {
    topic: Topic,
    wire: Wire,
    next: i64,
}

impl Follower {
    fn open(broker: &Broker) -> Follower {
        let mut wire = Wire::connect(broker);
        let id = describe(&mut wire, CONSUMER_OFFSETS).topic_id;
        let name = CONSUMER_OFFSETS.to_owned();
        let topic = Topic { name, id };
        let (_, next) = bounds(&mut wire, &topic, 0);
        Follower { topic, wire, next }
    }

    /// Waits until records say of all these keys that they are no more. Whatever else is written is passed over.
    fn wait_tombstones(&mut self, keys: &[Vec<u8>]) {
        let mut missing: BTreeSet<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        while !missing.is_empty() {
            let version = newest::<FetchRequest>();
            let request = fetch_request(version, &[(&self.topic, 0, self.next)]);
            let data = requests::fetched(self.wire.ask(version, &request.with_max_wait_ms(20_000)));
            assert_eq!(data.error_code, NONE);
            let bytes = data.records.unwrap_or_default();
            assert!(!bytes.is_empty(), "no tombstone of {missing:?} within 20 s");
            for batch in batch::walk(&bytes) {
                let (header, bytes) = batch.expect("whole batches");
                self.next = header.next_offset();
                let read = records::for_each_record(bytes, 1 << 20, |record| {
                    if let (Some(key), None) = (record.key, record.value) {
                        missing.remove(key);
                    }
                    ControlFlow::Continue(())
                });
                read.expect("readable records");
            }
        }
    }
}

/// A string as the schemas of `__consumer_offsets` have it.
fn string(bytes: &mut Vec<u8>, text: &str) {
    let len = i16::try_from(text.len()).expect("a short text");
    bytes.extend(len.to_be_bytes());
    bytes.extend(text.as_bytes());
}

/// `OffsetCommitKey`, version 1.
fn offset_key(group: &str, topic: &str, partition: i32) -> Vec<u8> {
    let mut key = vec![0, 1];
    string(&mut key, group);
    string(&mut key, topic);
    key.extend(partition.to_be_bytes());
    key
}

/// `OffsetCommitValue`, version 3, without metadata.
fn offset_value(offset: i64, commit_timestamp: i64) -> Vec<u8> {
    let mut value = vec![0, 3];
    value.extend(offset.to_be_bytes());
    value.extend((-1i32).to_be_bytes());
    string(&mut value, "");
    value.extend(commit_timestamp.to_be_bytes());
    value
}

/// `GroupMetadataKey`, version 2.
fn group_key(group: &str) -> Vec<u8> {
    let mut key = vec![0, 2];
    string(&mut key, group);
    key
}

/// A commit that is kept for a millisecond only.
fn short_lived(group: &str, topic: &str) -> OffsetCommitRequest {
    commit_request(WITH_RETENTION, group, topic, &[(0, 7)]).with_retention_time_ms(1)
}

fn commit(wire: &mut Wire, version: i16, request: &OffsetCommitRequest) {
    let response = wire.ask(version, request);
    let partitions = &response.topics[0].partitions;
    assert!(
        partitions
            .iter()
            .all(|partition| partition.error_code == NONE)
    );
}

fn offset(wire: &mut Wire, group: &str, topic: &str, partition: i32) -> i64 {
    fetched(wire, group, topic, partition).committed_offset
}

fn state(wire: &mut Wire, group: &str) -> String {
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
    let response = wire.ask(5, &request);
    response.groups[0].group_state.to_string()
}

/// When a broker last wrote something, by its own clock: the newest timestamp of a topic.
fn now_ms(wire: &mut Wire) -> i64 {
    let topic = create(wire, 1, &[("message.timestamp.type", "LogAppendTime")]);
    produce(wire, &topic, 0, requests::batch(&["now"]));
    let found = requests::list(wire, 7, &topic, 0, -3);
    assert_eq!(found.error_code, NONE);
    found.timestamp
}

#[test]
fn offsets_of_a_group_without_members_go_a_minute_after_their_commit() {
    let (_folder, mut stage) = stage("wire-expiry");
    let group = new_group(&mut stage.wire);
    let topic = create(&mut stage.wire, 3, &[]).name;
    let now = now_ms(&mut stage.wire);
    // Two were committed more than a minute ago, one of them by a group that has nothing else.
    let alone = unique("group");
    let old = Bytes::from(offset_value(5, now - 61_000));
    let recent = Bytes::from(offset_value(6, now));
    let batch = BatchBuilder::new(now)
        .record(now, Some(&offset_key(&group, &topic, 0)), Some(&old), &[])
        .record(
            now,
            Some(&offset_key(&group, &topic, 1)),
            Some(&recent),
            &[],
        )
        .record(now, Some(&offset_key(&alone, &topic, 0)), Some(&old), &[])
        .build();
    let mut admin = Wire::connect_as(&stage.broker, ADMIN_CLIENT);
    let follower = Follower::open(&stage.broker);
    produce(&mut admin, &follower.topic, 0, batch);
    let commit_now = commit_request(9, &group, &topic, &[(2, 7)]);
    commit(&mut stage.wire, 9, &commit_now);
    let (_, end) = bounds(&mut stage.wire, &follower.topic, 0);

    stage.broker.kill9();
    stage.broker.restart();
    stage.wire = stage.another();
    let mut follower = Follower {
        next: end,
        wire: stage.another(),
        ..follower
    };
    let gone = [&group, &alone].map(|group| offset_key(group, &topic, 0));
    follower.wait_tombstones(&gone);
    assert_eq!(offset(&mut stage.wire, &group, &topic, 0), -1);
    assert_eq!(
        offset(&mut stage.wire, &group, &topic, 1),
        6,
        "committed now"
    );
    assert_eq!(
        offset(&mut stage.wire, &group, &topic, 2),
        7,
        "committed now"
    );
    // Of the other group nothing is left.
    assert_eq!(state(&mut stage.wire, &alone), "Dead");
    assert_eq!(state(&mut stage.wire, &group), "Empty");
}

#[test]
fn members_keep_the_offsets_of_what_they_read_until_they_leave() {
    let (_folder, mut stage) = stage("wire-keeping");
    let group = new_group(&mut stage.wire);
    let topic = create(&mut stage.wire, 1, &[]).name;
    let mut member = Member::new(&stage, &group, &topic);
    member.settle(b"all");
    let by_member = short_lived(&group, &topic)
        .with_generation_id_or_member_epoch(member.generation)
        .with_member_id(text(&member.id));
    commit(&mut stage.wire, WITH_RETENTION, &by_member);
    let mut follower = Follower::open(&stage.broker);
    // Others of the same kind expire meanwhile; twice, so that one whole look at all groups lies between.
    for _ in 0..2 {
        let other = unique("group");
        commit(
            &mut stage.wire,
            WITH_RETENTION,
            &short_lived(&other, &topic),
        );
        follower.wait_tombstones(&[offset_key(&other, &topic, 0)]);
        assert_eq!(offset(&mut stage.wire, &other, &topic, 0), -1);
        assert_eq!(member.heartbeat(4), NONE);
        assert_eq!(offset(&mut stage.wire, &group, &topic, 0), 7);
    }
    let leave = leave_request(3, &group, &[(&member.id, None)]);
    assert_eq!(stage.wire.ask(3, &leave).error_code, NONE);
    follower.wait_tombstones(&[offset_key(&group, &topic, 0), group_key(&group)]);
    assert_eq!(offset(&mut stage.wire, &group, &topic, 0), -1);
    assert_eq!(state(&mut stage.wire, &group), "Dead");
}
