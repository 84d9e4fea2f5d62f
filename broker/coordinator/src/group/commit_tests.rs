//! Committed offsets: who may commit, what comes back, and what is forgotten when.

use super::tests::*;
use super::*;
use crate::group_record::OffsetCommitValue;

pub(super) const DAY_MS: Millis = 24 * 60 * 60 * 1_000;

pub(super) fn partition(partition: i32, offset: i64) -> CommitPartition {
    CommitPartition {
        partition,
        offset,
        leader_epoch: -1,
        metadata: None,
    }
}

pub(super) fn commit_by(caller: Caller, topic: &str, partitions: Vec<CommitPartition>) -> Command {
    Command::OffsetCommit(OffsetCommit {
        caller,
        retention_ms: None,
        topics: vec![CommitTopic {
            name: topic.to_owned(),
            partitions,
            ..CommitTopic::default()
        }],
    })
}

/// A commit by an administrator or a consumer without group management.
pub(super) fn commit(topic: &str, partitions: Vec<CommitPartition>) -> Command {
    commit_by(caller("", -1), topic, partitions)
}

fn committed(topic: &str, partitions: &[i32]) -> Reply {
    let ok = partitions.iter().map(|partition| (*partition, Ok(())));
    Reply::Committed(vec![PartitionResults {
        topic: topic.to_owned(),
        partitions: ok.collect(),
    }])
}

pub(super) fn fetch_all(shard: &mut Shard) -> Vec<(String, i32, i64)> {
    let all = Command::OffsetFetch {
        group: GROUP.to_owned(),
        topics: None,
    };
    let Reply::Fetched(topics) = shard.ask(all) else {
        panic!("offsets");
    };
    let mut offsets = Vec::new();
    for topic in topics {
        for (partition, value) in &topic.partitions {
            let value = value.as_ref().unwrap();
            offsets.push((topic.topic.to_string(), *partition, value.offset));
        }
    }
    offsets
}

fn at(topic: &str, partition: i32, offset: i64) -> (String, i32, i64) {
    (topic.to_owned(), partition, offset)
}

fn asked(topic: &str, partitions: &[i32]) -> Vec<TopicPartitions> {
    vec![TopicPartitions {
        topic: topic.to_owned(),
        partitions: partitions.to_vec(),
    }]
}

#[test]
fn a_commit_comes_back_whole_also_after_a_restart() {
    let mut shard = shard();
    let whole = CommitPartition {
        partition: 3,
        offset: 42,
        leader_epoch: 7,
        metadata: Some("note".to_owned()),
    };
    let reply = shard.ask(commit("t", vec![whole, partition(1, 5)]));
    assert_eq!(*reply, committed("t", &[3, 1]));
    let mut again = restarted(&shard);
    for shard in [&mut shard, &mut again] {
        let Reply::Fetched(topics) = shard.ask(Command::OffsetFetch {
            group: GROUP.to_owned(),
            topics: Some(asked("t", &[3, 9])),
        }) else {
            panic!("offsets");
        };
        let expected = CommittedOffset {
            offset: 42,
            leader_epoch: 7,
            metadata: "note".into(),
            commit_timestamp: 1_000,
        };
        assert_eq!(topics[0].partitions, [(3, Some(expected)), (9, None)]);
        assert_eq!(fetch_all(shard), [at("t", 1, 5), at("t", 3, 42)]);
        assert_eq!(state(shard), GroupState::Empty);
    }
}

#[test]
fn a_group_that_does_not_exist_has_no_offsets() {
    let mut shard = shard();
    assert_eq!(fetch_all(&mut shard), []);
    let by_member = commit_by(caller("a", 3), "t", vec![partition(0, 1)]);
    let unknown = Reply::Failed(GroupError::GroupIdNotFound);
    assert_eq!(*shard.ask(by_member), unknown);
    assert_eq!(shard.machine.group_count(), 0);
}

#[test]
fn members_commit_in_their_generation_only() {
    let mut shard = stable(&["a", "b"]);
    let by = |id, generation| commit_by(caller(id, generation), "t", vec![partition(0, 1)]);
    assert_eq!(*shard.ask(by("a", 1)), committed("t", &[0]));
    for (id, generation, error) in [
        ("a", 0, GroupError::IllegalGeneration),
        ("x", 1, GroupError::UnknownMemberId),
        ("", -1, GroupError::UnknownMemberId),
        ("a", -1, GroupError::IllegalGeneration),
    ] {
        let reply = shard.ask(by(id, generation));
        assert_eq!(*reply, Reply::Failed(error), "{id} {generation}");
    }
    // During a rebalance the old generation may still commit, until the next one begins.
    shard.send(Command::JoinGroup(join("a", "-")));
    assert_eq!(*shard.ask(by("b", 1)), committed("t", &[0]));
    shard.send(Command::JoinGroup(join("b", "-")));
    let illegal = Reply::Failed(GroupError::IllegalGeneration);
    assert_eq!(*shard.ask(by("b", 1)), illegal);
    let rebalancing = Reply::Failed(GroupError::RebalanceInProgress);
    assert_eq!(*shard.ask(by("b", 2)), rebalancing);
}

#[test]
fn a_fenced_instance_does_not_commit() {
    let mut shard = shard();
    for fresh in ["old", "new"] {
        shard.send(Command::JoinGroup(JoinGroup {
            group_instance_id: Some("i".to_owned()),
            ..join("", fresh)
        }));
    }
    shard.advance(3_000);
    let old = Caller {
        group_instance_id: Some("i".to_owned()),
        ..caller("old", 1)
    };
    let reply = shard.ask(commit_by(old, "t", vec![partition(0, 1)]));
    assert_eq!(*reply, Reply::Failed(GroupError::FencedInstanceId));
}

#[test]
fn a_commit_is_a_sign_of_life() {
    let mut shard = stable(&["a"]);
    shard.advance(9_000);
    shard.ask(commit_by(caller("a", 1), "t", vec![partition(0, 1)]));
    shard.advance(9_000);
    assert_eq!(*shard.ask(heartbeat("a", 1)), Reply::Done);
}

#[test]
fn metadata_that_is_too_large_fails_its_partition_only() {
    let mut shard = shard();
    let large = CommitPartition {
        metadata: Some("x".repeat(4_097)),
        ..partition(1, 1)
    };
    let Reply::Committed(results) = shard.ask(commit("t", vec![partition(0, 1), large])) else {
        panic!("results");
    };
    let expected = [(0, Ok(())), (1, Err(GroupError::OffsetMetadataTooLarge))];
    assert_eq!(results[0].partitions, expected);
    assert_eq!(fetch_all(&mut shard), [at("t", 0, 1)]);
}

#[test]
fn offsets_of_a_group_without_members_expire_after_their_commit() {
    let mut shard = shard();
    shard.ask(commit("t", vec![partition(0, 1)]));
    shard.advance(4 * DAY_MS);
    shard.ask(commit("t", vec![partition(1, 1)]));
    shard.advance(4 * DAY_MS);
    assert_eq!(fetch_all(&mut shard), [at("t", 1, 1)]);
    shard.advance(4 * DAY_MS);
    assert_eq!(state(&mut shard), GroupState::Dead);
    assert_eq!(restarted(&shard).machine.group_count(), 0);
}

#[test]
fn a_commit_may_bring_its_own_retention() {
    let mut shard = shard();
    let Command::OffsetCommit(commit) = commit("t", vec![partition(0, 1)]) else {
        panic!("a commit");
    };
    shard.ask(Command::OffsetCommit(OffsetCommit {
        retention_ms: Some(DAY_MS),
        ..commit
    }));
    let mut shard = restarted(&shard);
    shard.advance(DAY_MS - 1_000_000);
    assert_eq!(fetch_all(&mut shard).len(), 1);
    shard.advance(2_000_000);
    assert_eq!(fetch_all(&mut shard), []);
}

#[test]
fn offsets_of_an_empty_group_expire_after_it_became_empty() {
    let mut shard = stable(&["a"]);
    shard.ask(commit_by(caller("a", 1), "t", vec![partition(0, 1)]));
    for _ in 0..20 * 24 * 60 {
        shard.advance(9_000);
        shard.ask(heartbeat("a", 1));
    }
    shard.ask(leave("a"));
    let mut shard = restarted(&shard);
    shard.advance(7 * DAY_MS - 1_000_000);
    assert_eq!(fetch_all(&mut shard).len(), 1);
    shard.advance(2_000_000);
    assert_eq!(state(&mut shard), GroupState::Dead);
    let last = shard.log.last();
    let tombstone = GroupRecord::GroupMetadata {
        group: GROUP.into(),
        value: None,
    };
    assert_eq!(last, Some(&tombstone));
}

#[test]
fn members_keep_the_offsets_of_their_topics() {
    let mut shard = shard_with(GroupConfig {
        offsets_retention_ms: 5_000,
        offsets_retention_check_interval_ms: 1_000,
        ..GroupConfig::default()
    });
    shard.send(Command::JoinGroup(join("", "a")));
    shard.advance(3_000);
    shard.send(sync("a", 1, &[("a", "all")]));
    for topic in ["t", "former"] {
        shard.ask(commit_by(caller("a", 1), topic, vec![partition(0, 1)]));
    }
    shard.advance(4_000);
    shard.ask(heartbeat("a", 1));
    assert_eq!(fetch_all(&mut shard).len(), 2);
    shard.advance(4_000);
    assert_eq!(fetch_all(&mut shard), [at("t", 0, 1)]);
}

#[test]
fn what_the_expiry_does_not_finish_in_one_tick_it_finishes_in_the_next() {
    let mut shard = shard();
    for partitions in 0..3 {
        let topic = format!("t{partitions}");
        let group = format!("g{partitions}");
        let many = (0..6_000).map(|id| partition(id, 1)).collect();
        let caller = Caller {
            group,
            ..caller("", -1)
        };
        shard.ask(commit_by(caller, &topic, many));
    }
    shard.advance(8 * DAY_MS);
    assert_eq!(shard.machine.group_count(), 0);
}

#[test]
fn only_empty_groups_are_deleted() {
    let delete = || Command::DeleteGroup {
        group: GROUP.to_owned(),
    };
    let mut shard = stable(&["a"]);
    shard.ask(commit_by(caller("a", 1), "t", vec![partition(0, 1)]));
    let non_empty = Reply::Failed(GroupError::NonEmptyGroup);
    assert_eq!(*shard.ask(delete()), non_empty);
    shard.ask(leave("a"));
    assert_eq!(*shard.ask(delete()), Reply::Done);
    assert_eq!(state(&mut shard), GroupState::Dead);
    assert_eq!(restarted(&shard).machine.group_count(), 0);
    let unknown = Reply::Failed(GroupError::GroupIdNotFound);
    assert_eq!(*shard.ask(delete()), unknown);
}

#[test]
fn offsets_of_topics_that_members_read_are_not_deleted() {
    let mut shard = stable(&["a"]);
    for topic in ["t", "former"] {
        shard.ask(commit_by(caller("a", 1), topic, vec![partition(0, 1)]));
    }
    let mut topics = asked("t", &[0]);
    topics.extend(asked("former", &[0, 0, 5]));
    let Reply::OffsetsDeleted(results) = shard.ask(Command::OffsetDelete {
        group: GROUP.to_owned(),
        topics,
    }) else {
        panic!("results");
    };
    let refused = Err(GroupError::GroupSubscribedToTopic);
    assert_eq!(results[0].partitions, [(0, refused)]);
    assert_eq!(
        results[1].partitions,
        [(0, Ok(())), (0, Ok(())), (5, Ok(()))]
    );
    assert_eq!(fetch_all(&mut shard), [at("t", 0, 1)]);
}

#[test]
fn offsets_of_other_protocols_are_deleted_when_the_group_is_empty() {
    let mut shard = shard();
    shard.send(Command::JoinGroup(JoinGroup {
        protocol_type: "connect".to_owned(),
        ..join("", "a")
    }));
    let delete = || Command::OffsetDelete {
        group: GROUP.to_owned(),
        topics: asked("t", &[0]),
    };
    let non_empty = Reply::Failed(GroupError::NonEmptyGroup);
    assert_eq!(*shard.ask(delete()), non_empty);
    shard.ask(leave("a"));
    shard.advance(3_000);
    let deleted = Reply::OffsetsDeleted(vec![PartitionResults {
        topic: "t".to_owned(),
        partitions: vec![(0, Ok(()))],
    }]);
    assert_eq!(*shard.ask(delete()), deleted);
}

#[test]
fn offsets_go_with_their_topic() {
    let mut shard = shard();
    shard.ask(commit("gone", vec![partition(0, 1), partition(1, 1)]));
    shard.ask(commit("kept", vec![partition(0, 1)]));
    shard.ask(Command::TopicsDeleted {
        topics: vec!["gone".to_owned(), "unheard-of".to_owned()],
    });
    assert_eq!(fetch_all(&mut shard), [at("kept", 0, 1)]);
}

#[test]
fn a_group_with_offsets_and_nothing_else_costs_little() {
    let entry = size_of::<(std::sync::Arc<str>, Group)>();
    assert!(entry <= 96, "{entry}");
    assert!(size_of::<OffsetCommitValue>() <= 80);
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut shard = stable(&["a"]);
    let simple = Caller {
        group: "simple".to_owned(),
        ..caller("", -1)
    };
    shard.ask(commit_by(simple, "t", vec![partition(0, 1)]));
    let mut list = |states: Option<&str>, types| {
        let states = states.map(|name| vec![name.parse().unwrap()]);
        match shard.ask(Command::ListGroups { states, types }) {
            Reply::Listed(groups) => groups.clone(),
            other => panic!("{other:?}"),
        }
    };
    let all = list(None, Some(vec![GroupType::Classic]));
    let names: Vec<_> = all.iter().map(|g| (&*g.group, &*g.protocol_type)).collect();
    assert_eq!(names, [("g", "consumer"), ("simple", "")]);
    let stable = list(Some("stable"), None);
    assert_eq!((stable.len(), &*stable[0].group), (1, "g"));
    assert_eq!(list(Some("Dead"), None), []);
    assert_eq!(list(None, Some(Vec::new())), []);
}

#[test]
fn a_summary_tells_states_members_and_offsets_also_after_a_restart() {
    let mut shard = stable(&["a", "b"]);
    let by_member = commit_by(caller("a", 1), "t", vec![partition(2, 7), partition(0, 3)]);
    assert_eq!(*shard.ask(by_member), committed("t", &[2, 0]));
    let mut by_admin = OffsetCommit {
        caller: caller("", -1),
        ..OffsetCommit::default()
    };
    by_admin.caller.group = "alone".to_owned();
    by_admin.topics = vec![CommitTopic {
        name: "u".to_owned(),
        partitions: vec![partition(1, 9)],
        ..CommitTopic::default()
    }];
    shard.ask(Command::OffsetCommit(by_admin));
    let now = shard.now;
    let offset = |topic: &str, partition, offset| SummaryOffset {
        topic: topic.into(),
        partition,
        offset,
        commit_timestamp: now,
    };
    let alone = GroupSummary {
        group: "alone".into(),
        group_type: GroupType::Classic,
        protocol_type: String::new(),
        state: GroupState::Empty,
        members: 0,
        offset_count: 1,
        offsets: vec![offset("u", 1, 9)],
    };
    let with_members = GroupSummary {
        group: GROUP.into(),
        protocol_type: "consumer".to_owned(),
        state: GroupState::Stable,
        members: 2,
        offset_count: 2,
        offsets: vec![offset("t", 0, 3), offset("t", 2, 7)],
        ..alone.clone()
    };
    let all = vec![alone, with_members];
    let mut again = restarted(&shard);
    let written = shard.log.len();
    for shard in [&mut shard, &mut again] {
        let told = shard.ask(Command::Summary { offsets: true });
        assert_eq!(*told, Reply::Summary(all.clone()));
        let counted = all.iter().cloned().map(|group| GroupSummary {
            offsets: Vec::new(),
            ..group
        });
        let counted = Reply::Summary(counted.collect());
        let told = shard.ask(Command::Summary { offsets: false });
        assert_eq!(*told, counted);
    }
    assert_eq!(shard.log.len(), written, "it only reads");
}

#[test]
fn a_stable_group_is_described_with_its_members() {
    let mut shard = stable(&["a"]);
    let describe = || Command::DescribeGroup {
        group: GROUP.to_owned(),
    };
    let Reply::Described(group) = shard.ask(describe()).clone() else {
        panic!("a group");
    };
    assert_eq!(
        (group.state, &*group.protocol),
        (GroupState::Stable, "range")
    );
    let member = &group.members[0];
    assert_eq!((&*member.member_id, &*member.client_id), ("a", "client"));
    assert_eq!(member.metadata, subscription(&["t"]));
    assert_eq!(&*member.assignment, b"a");
    shard.send(Command::JoinGroup(join("", "b")));
    let Reply::Described(group) = shard.ask(describe()) else {
        panic!("a group");
    };
    assert_eq!((group.members.len(), &*group.protocol), (2, ""));
    assert!(group.members[0].metadata.is_empty());
}
