//! Rows of committed offsets: OffsetCommit, OffsetFetch, OffsetDelete.

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponsePartition;
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, OffsetFetchResponse,
};
use ottla_integration_tests::unique;
use ottla_integration_tests::wire::Wire;

use crate::groups::{
    FENCED_INSTANCE_ID, ILLEGAL_GENERATION, INVALID_GROUP_ID, Member, REBALANCE_IN_PROGRESS,
    UNKNOWN_MEMBER_ID, group_id, new_group,
};
use crate::requests::{NONE, create, text, topic_name};
use crate::{Stage, started};

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const OFFSET_METADATA_TOO_LARGE: i16 = 12;
const NOT_COORDINATOR: i16 = 16;
const GROUP_ID_NOT_FOUND: i16 = 69;
const GROUP_SUBSCRIBED_TO_TOPIC: i16 = 86;

/// A commit without membership, as tools make it, of (partition, offset) of one topic.
pub fn commit_request(
    version: i16,
    group: &str,
    topic: &str,
    offsets: &[(i32, i64)],
) -> OffsetCommitRequest {
    let partitions = offsets.iter().map(|(partition, offset)| {
        let asked = OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
            .with_committed_metadata(Some(text("note")));
        if version >= 6 {
            asked.with_committed_leader_epoch(3)
        } else {
            asked
        }
    });
    let topics = vec![
        OffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(partitions.collect()),
    ];
    OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_topics(topics)
}

/// The codes of a commit, by partition.
fn committed(wire: &mut Wire, version: i16, request: &OffsetCommitRequest) -> Vec<(i32, i16)> {
    let response = wire.ask(version, request);
    assert_eq!(response.throttle_time_ms, 0);
    assert_eq!(response.topics.len(), 1);
    assert_eq!(response.topics[0].name, request.topics[0].name);
    let partitions = response.topics[0].partitions.iter();
    partitions
        .map(|answer| (answer.partition_index, answer.error_code))
        .collect()
}

/// Asks for partitions of one topic, or for everything.
fn fetch_request(version: i16, group: &str, wanted: Option<(&str, &[i32])>) -> OffsetFetchRequest {
    if version >= 8 {
        let topics = wanted.map(|(topic, partitions)| {
            vec![
                OffsetFetchRequestTopics::default()
                    .with_name(topic_name(topic))
                    .with_partition_indexes(partitions.to_vec()),
            ]
        });
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(group_id(group))
            .with_topics(topics);
        return OffsetFetchRequest::default().with_groups(vec![group]);
    }
    let topics = wanted.map(|(topic, partitions)| {
        vec![
            OffsetFetchRequestTopic::default()
                .with_name(topic_name(topic))
                .with_partition_indexes(partitions.to_vec()),
        ]
    });
    OffsetFetchRequest::default()
        .with_group_id(group_id(group))
        .with_topics(topics)
}

type Answers = Vec<(String, Vec<OffsetFetchResponsePartition>)>;

/// The error of the whole answer and its partitions by topic, for one group, at any version.
fn answers(response: OffsetFetchResponse, version: i16, group: &str) -> (i16, Answers) {
    assert_eq!(response.throttle_time_ms, 0);
    if version < 8 {
        let topics = response.topics.into_iter();
        let topics = topics.map(|topic| (topic.name.to_string(), topic.partitions));
        return (response.error_code, topics.collect());
    }
    assert_eq!((response.groups.len(), response.error_code), (1, NONE));
    let answer = &response.groups[0];
    assert_eq!(answer.group_id.as_str(), group);
    let topics = answer.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_metadata(partition.metadata.clone())
                .with_error_code(partition.error_code)
        });
        (topic.name.to_string(), partitions.collect())
    });
    (answer.error_code, topics.collect())
}

fn fetch(
    wire: &mut Wire,
    version: i16,
    group: &str,
    wanted: Option<(&str, &[i32])>,
) -> (i16, Answers) {
    let response = wire.ask(version, &fetch_request(version, group, wanted));
    answers(response, version, group)
}

/// What is committed for one partition, by the newest version.
pub fn fetched(
    wire: &mut Wire,
    group: &str,
    topic: &str,
    partition: i32,
) -> OffsetFetchResponsePartition {
    let (error, mut topics) = fetch(wire, 9, group, Some((topic, &[partition])));
    assert_eq!((error, topics.len()), (NONE, 1));
    topics.remove(0).1.remove(0)
}

fn answer(
    partition: i32,
    offset: i64,
    leader_epoch: i32,
    note: &str,
) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(leader_epoch)
        .with_metadata(Some(text(note)))
}

pub fn offset_commit_succeeds(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let topic = create(&mut stage.wire, 2, &[]);
    let mut request = commit_request(version, &group, &topic.name, &[(1, 11), (0, 7)]);
    if version <= 4 {
        request.retention_time_ms = 60_000;
    }
    let codes = committed(&mut stage.wire, version, &request);
    assert_eq!(codes, [(1, NONE), (0, NONE)], "in the order of the request");
    let nothing = commit_request(version, &group, &topic.name, &[]);
    let response = stage.wire.ask(version, &nothing);
    assert!(response.topics.is_empty(), "{response:?}");
    let leader_epoch = if version >= 6 { 3 } else { -1 };
    for (partition, offset) in [(0, 7), (1, 11)] {
        assert_eq!(
            fetched(&mut stage.wire, &group, &topic.name, partition),
            answer(partition, offset, leader_epoch, "note")
        );
    }
    // A member, for its generation; no metadata is as good as empty metadata.
    let group = new_group(&mut stage.wire);
    let mut member = Member::new(stage, &group, "m").named("i");
    member.settle(b"all");
    let mut request = commit_request(version, &group, &topic.name, &[(0, 1)])
        .with_generation_id_or_member_epoch(member.generation)
        .with_member_id(text(&member.id));
    request.topics[0].partitions[0].committed_metadata = None;
    if version >= 7 {
        request.group_instance_id = Some(text("i"));
    }
    let codes = committed(&mut stage.wire, version, &request);
    assert_eq!(codes, [(0, NONE)]);
    assert_eq!(
        fetched(&mut stage.wire, &group, &topic.name, 0),
        answer(0, 1, leader_epoch, "")
    );
}

pub fn offset_commit_fails(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let topic = create(&mut stage.wire, 1, &[]);
    let mut member = Member::new(stage, &group, "m").named("i");
    member.settle(b"all");
    let by_member = |offsets: &[(i32, i64)]| {
        commit_request(version, &group, &topic.name, offsets)
            .with_generation_id_or_member_epoch(member.generation)
            .with_member_id(text(&member.id))
    };
    let good = by_member(&[(0, 7)]);
    let mut refused = vec![
        (
            good.clone().with_generation_id_or_member_epoch(7),
            ILLEGAL_GENERATION,
        ),
        (good.clone().with_member_id(text("who")), UNKNOWN_MEMBER_ID),
        // From outside, while there are members.
        (
            commit_request(version, &group, &topic.name, &[(0, 7)]),
            UNKNOWN_MEMBER_ID,
        ),
        // A generation of a group that does not exist.
        (
            good.clone().with_group_id(group_id(&unique("group"))),
            if version >= 9 {
                GROUP_ID_NOT_FOUND
            } else {
                ILLEGAL_GENERATION
            },
        ),
    ];
    if version >= 7 {
        let fenced = good.clone().with_member_id(text("who"));
        let fenced = fenced.with_group_instance_id(Some(text("i")));
        refused.push((fenced, FENCED_INSTANCE_ID));
    }
    for (request, error) in refused {
        let codes = committed(&mut stage.wire, version, &request);
        assert_eq!(codes, [(0, error)], "{request:?}");
    }
    let mut large = good.clone();
    large.topics[0].partitions[0].committed_metadata = Some(text(&"x".repeat(4097)));
    let codes = committed(&mut stage.wire, version, &large);
    assert_eq!(codes, [(0, OFFSET_METADATA_TOO_LARGE)]);
    let mut unknown = good.clone();
    unknown.topics[0].name = topic_name(&unique("unknown"));
    let codes = committed(&mut stage.wire, version, &unknown);
    assert_eq!(codes, [(0, UNKNOWN_TOPIC_OR_PARTITION)]);
    let nothing = fetched(&mut stage.wire, &group, &topic.name, 0);
    assert_eq!(nothing, answer(0, -1, -1, ""), "nothing was committed");

    // One bad partition does not keep the others.
    let mixed = by_member(&[(5, 1), (0, 2)]);
    let codes = committed(&mut stage.wire, version, &mixed);
    assert_eq!(codes, [(5, UNKNOWN_TOPIC_OR_PARTITION), (0, NONE)]);
    assert_eq!(
        fetched(&mut stage.wire, &group, &topic.name, 0).committed_offset,
        2
    );
    // Between join and assignment nobody may commit.
    let mut second = Member::new(stage, &group, "m");
    let ticket = second.begin_join(9);
    member.hears_of_rebalance();
    assert_eq!(member.join(9).error_code, NONE);
    second.end_join(ticket);
    let request = good.with_generation_id_or_member_epoch(member.generation);
    let codes = committed(&mut stage.wire, version, &request);
    assert_eq!(codes, [(0, REBALANCE_IN_PROGRESS)]);
}

pub fn offset_fetch_succeeds(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let topic = create(&mut stage.wire, 3, &[]);
    let commit = commit_request(9, &group, &topic.name, &[(0, 7), (2, 9)]);
    committed(&mut stage.wire, 9, &commit);
    let leader_epoch = if version >= 5 { 3 } else { -1 };
    let wanted: (&str, &[i32]) = (&topic.name, &[2, 1, 77, 0]);
    let (error, topics) = fetch(&mut stage.wire, version, &group, Some(wanted));
    assert_eq!(error, NONE);
    let expected = vec![
        answer(2, 9, leader_epoch, "note"),
        answer(1, -1, -1, ""),
        answer(77, -1, -1, ""),
        answer(0, 7, leader_epoch, "note"),
    ];
    assert_eq!(topics, [(topic.name.clone(), expected)]);
    if version >= 2 {
        let (error, mut topics) = fetch(&mut stage.wire, version, &group, None);
        assert_eq!((error, topics.len()), (NONE, 1));
        topics[0].1.sort_by_key(|answer| answer.partition_index);
        let expected = vec![
            answer(0, 7, leader_epoch, "note"),
            answer(2, 9, leader_epoch, "note"),
        ];
        assert_eq!(topics, [(topic.name.clone(), expected)]);
        let nobody = unique("group");
        assert_eq!(
            fetch(&mut stage.wire, version, &nobody, None),
            (NONE, vec![]),
            "a group that does not exist has no offsets"
        );
    }
    if version >= 8 {
        let mut request = fetch_request(version, &group, Some(wanted));
        let other = OffsetFetchRequestGroup::default().with_group_id(group_id(&unique("group")));
        request.groups.push(other.with_topics(None));
        let response = stage.wire.ask(version, &request);
        let told: Vec<_> = response
            .groups
            .iter()
            .map(|answer| (answer.error_code, answer.topics.len()))
            .collect();
        assert_eq!(told, [(NONE, 1), (NONE, 0)]);
    }
}

/// There is nothing about offsets to refuse; a broker without its groups is not the one to ask.
pub fn offset_fetch_fails(_stage: &mut Stage, version: i16) {
    let (_folder, _broker, mut wire) = started("wire-no-groups", &[]);
    let wanted: (&str, &[i32]) = ("t", &[1, 0]);
    let (error, topics) = fetch(&mut wire, version, "g", Some(wanted));
    if version >= 2 {
        assert_eq!(error, NOT_COORDINATOR);
    }
    if version >= 2 {
        return assert_eq!(topics, []);
    }
    let failed = |partition| answer(partition, -1, -1, "").with_error_code(NOT_COORDINATOR);
    assert_eq!(topics, [("t".to_owned(), vec![failed(1), failed(0)])]);
}

fn delete_request(group: &str, topic: &str, partitions: &[i32]) -> OffsetDeleteRequest {
    let partitions = partitions
        .iter()
        .map(|index| OffsetDeleteRequestPartition::default().with_partition_index(*index));
    let topic = OffsetDeleteRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(partitions.collect());
    OffsetDeleteRequest::default()
        .with_group_id(group_id(group))
        .with_topics(vec![topic])
}

/// The error of the whole answer, and those of its partitions.
fn deleted(wire: &mut Wire, version: i16, request: &OffsetDeleteRequest) -> (i16, Vec<(i32, i16)>) {
    let response = wire.ask(version, request);
    assert_eq!(response.throttle_time_ms, 0);
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    let codes = partitions.map(|answer| (answer.partition_index, answer.error_code));
    (response.error_code, codes.collect())
}

pub fn offset_delete_succeeds(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let topic = create(&mut stage.wire, 3, &[]);
    let commit = commit_request(9, &group, &topic.name, &[(0, 7), (1, 8)]);
    committed(&mut stage.wire, 9, &commit);
    let request = delete_request(&group, &topic.name, &[2, 0]);
    let outcome = deleted(&mut stage.wire, version, &request);
    assert_eq!(outcome, (NONE, vec![(2, NONE), (0, NONE)]));
    let left = fetch(&mut stage.wire, 9, &group, None).1;
    assert_eq!(left, [(topic.name, vec![answer(1, 8, 3, "note")])]);
}

pub fn offset_delete_fails(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let topic = create(&mut stage.wire, 1, &[]);
    let request = delete_request(&group, &topic.name, &[0]);
    let outcome = deleted(&mut stage.wire, version, &request);
    assert_eq!(outcome, (GROUP_ID_NOT_FOUND, vec![]));
    // The group of the empty name keeps offsets, as of old, and nobody can delete them.
    let commit = commit_request(9, "", &topic.name, &[(0, 7)]);
    assert_eq!(committed(&mut stage.wire, 9, &commit), [(0, NONE)]);
    let unnamed = delete_request("", &topic.name, &[0]);
    let outcome = deleted(&mut stage.wire, version, &unnamed);
    assert_eq!(outcome, (INVALID_GROUP_ID, vec![]));
    assert_eq!(
        fetched(&mut stage.wire, "", &topic.name, 0).committed_offset,
        7
    );
    // A consumer of the topic: its subscription names it.
    let mut member = Member::new(stage, &group, &topic.name);
    member.settle(b"");
    let outcome = deleted(&mut stage.wire, version, &request);
    assert_eq!(outcome, (NONE, vec![(0, GROUP_SUBSCRIBED_TO_TOPIC)]));
    let unknown = delete_request(&group, &unique("unknown"), &[0]);
    let outcome = deleted(&mut stage.wire, version, &unknown);
    assert_eq!(outcome, (NONE, vec![(0, UNKNOWN_TOPIC_OR_PARTITION)]));
}
