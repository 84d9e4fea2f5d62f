//! Every row of the state table, the rows C of the hostile table, and what survives a restart.

use bytes::Bytes;

use super::*;
use crate::script::Script;

pub(super) const GROUP: &str = "g";
pub(super) const SESSION_MS: i32 = 10_000;
pub(super) const REBALANCE_MS: i32 = 60_000;

pub(super) type Shard = Script<GroupMachine>;

pub(super) fn shard() -> Shard {
    shard_with(GroupConfig::default())
}

pub(super) fn shard_with(config: GroupConfig) -> Shard {
    let mut shard = Script::new(GroupMachine::new(config));
    shard.start();
    shard
}

/// A shard that has only the log of another one, at the same time.
pub(super) fn restarted(shard: &Shard) -> Shard {
    let mut machine = GroupMachine::new(shard.machine.config.clone());
    for record in &shard.log {
        let (key, value) = record.encode();
        let read = GroupRecord::decode(Some(&key), value.as_deref()).unwrap();
        machine.replay(&read);
    }
    let mut again = Script::new(machine);
    again.now = shard.now;
    again.start();
    again
}

/// A consumer's subscription, version 0.
pub(super) fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend_from_slice(&(topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend_from_slice(&(topic.len() as i16).to_be_bytes());
        bytes.extend_from_slice(topic.as_bytes());
    }
    bytes.extend_from_slice(&(-1i32).to_be_bytes());
    bytes.into()
}

/// A join as the oldest clients send it: without id they are in at once, under the id `fresh`.
pub(super) fn join(member_id: &str, fresh: &str) -> JoinGroup {
    JoinGroup {
        group: GROUP.to_owned(),
        member_id: member_id.to_owned(),
        fresh_member_id: fresh.to_owned(),
        group_instance_id: None,
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), subscription(&["t"]))],
        client_id: "client".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        require_known_member_id: false,
        supports_skip_assignment: false,
    }
}

pub(super) fn static_join(instance: &str, member_id: &str, fresh: &str) -> JoinGroup {
    JoinGroup {
        group_instance_id: Some(instance.to_owned()),
        ..join(member_id, fresh)
    }
}

pub(super) fn caller(member_id: &str, generation: i32) -> Caller {
    Caller {
        group: GROUP.to_owned(),
        member_id: member_id.to_owned(),
        group_instance_id: None,
        generation,
    }
}

pub(super) fn sync(member_id: &str, generation: i32, assignments: &[(&str, &str)]) -> Command {
    let owned = |(id, bytes): &(&str, &str)| ((*id).to_owned(), Bytes::from((*bytes).to_owned()));
    Command::SyncGroup(SyncGroup {
        caller: caller(member_id, generation),
        assignments: assignments.iter().map(owned).collect(),
        ..SyncGroup::default()
    })
}

pub(super) fn heartbeat(member_id: &str, generation: i32) -> Command {
    Command::Heartbeat {
        caller: caller(member_id, generation),
    }
}

pub(super) fn leave(member_id: &str) -> Command {
    Command::LeaveGroup {
        group: GROUP.to_owned(),
        members: vec![LeavingMember {
            member_id: member_id.to_owned(),
            group_instance_id: None,
        }],
    }
}

pub(super) fn reply_to(shard: &Shard, id: ReplyId) -> &Reply {
    let found = shard.replies.iter().find(|(answered, _)| *answered == id);
    &found.expect("an answer").1
}

fn has_reply(shard: &Shard, id: ReplyId) -> bool {
    shard.replies.iter().any(|(answered, _)| *answered == id)
}

pub(super) fn joined(shard: &Shard, id: ReplyId) -> &Joined {
    match reply_to(shard, id) {
        Reply::Joined(joined) => joined,
        other => panic!("{other:?}"),
    }
}

pub(super) fn refused(error: GroupError, member_id: &str) -> Reply {
    Reply::JoinFailed {
        member_id: member_id.to_owned(),
        error,
    }
}

fn failed(error: GroupError) -> Reply {
    Reply::Failed(error)
}

pub(super) fn assigned(assignment: &str) -> Reply {
    Reply::Synced {
        protocol_type: "consumer".to_owned(),
        protocol_name: "range".to_owned(),
        assignment: Bytes::from(assignment.to_owned()),
    }
}

pub(super) fn state(shard: &mut Shard) -> GroupState {
    match shard.ask(Command::DescribeGroup {
        group: GROUP.to_owned(),
    }) {
        Reply::Described(group) => group.state,
        Reply::Failed(GroupError::GroupIdNotFound) => GroupState::Dead,
        other => panic!("{other:?}"),
    }
}

/// Members `a`, `b`, ... in CompletingRebalance of generation 1, led by `a`.
fn completing(members: &[&str]) -> Shard {
    let mut shard = shard();
    let joins = members.iter().map(|id| Command::JoinGroup(join("", id)));
    for command in joins.collect::<Vec<_>>() {
        shard.send(command);
    }
    shard.advance(6_000);
    assert_eq!(state(&mut shard), GroupState::CompletingRebalance);
    shard
}

/// Members in Stable of generation 1; each is assigned its own name.
pub(super) fn stable(members: &[&str]) -> Shard {
    let mut shard = completing(members);
    let all: Vec<(&str, &str)> = members.iter().map(|id| (*id, *id)).collect();
    for id in members {
        let assignments = if *id == members[0] { &all[..] } else { &[] };
        shard.send(sync(id, 1, assignments));
    }
    assert_eq!(state(&mut shard), GroupState::Stable);
    shard
}

/// Stable members of which `b` was told to rejoin because `late` joins.
fn preparing() -> (Shard, ReplyId) {
    let mut shard = stable(&["a", "b"]);
    let late = shard.send(Command::JoinGroup(join("", "late")));
    assert_eq!(state(&mut shard), GroupState::PreparingRebalance);
    (shard, late)
}

#[test]
fn the_first_join_waits_for_others_and_a_later_one_extends_the_wait() {
    let mut shard = shard();
    let a = shard.send(Command::JoinGroup(join("", "a")));
    shard.advance(2_000);
    let b = shard.send(Command::JoinGroup(join("", "b")));
    shard.advance(3_000);
    assert!(!has_reply(&shard, a), "b extended the delay to 6 s");
    shard.advance(1_000);
    let leader = joined(&shard, a);
    assert_eq!((leader.generation, &*leader.leader), (1, "a"));
    let members: Vec<_> = leader.members.iter().map(|m| &*m.member_id).collect();
    assert_eq!(members, ["a", "b"]);
    assert_eq!(leader.members[0].metadata, subscription(&["t"]));
    assert!(joined(&shard, b).members.is_empty());
    assert_eq!(joined(&shard, b).member_id, "b");
}

#[test]
fn the_initial_delay_ends_with_the_rebalance_timeout() {
    let mut shard = shard();
    let quick = |id| JoinGroup {
        rebalance_timeout_ms: 5_000,
        ..join("", id)
    };
    let a = shard.send(Command::JoinGroup(quick("a")));
    shard.advance(1_000);
    shard.send(Command::JoinGroup(quick("b")));
    shard.advance(3_000);
    shard.send(Command::JoinGroup(quick("c")));
    assert!(!has_reply(&shard, a));
    shard.advance(1_000);
    assert!(has_reply(&shard, a));
}

#[test]
fn a_client_without_id_is_sent_back_with_one() {
    let mut shard = shard();
    let first = JoinGroup {
        require_known_member_id: true,
        ..join("", "a")
    };
    let reply = shard.ask(Command::JoinGroup(first));
    assert_eq!(*reply, refused(GroupError::MemberIdRequired, "a"));
    assert_eq!(state(&mut shard), GroupState::Empty);
    let a = shard.send(Command::JoinGroup(join("a", "unused")));
    shard.advance(3_000);
    assert_eq!(joined(&shard, a).member_id, "a");
}

#[test]
fn an_id_that_nobody_comes_back_with_is_forgotten() {
    let mut shard = shard();
    let first = JoinGroup {
        require_known_member_id: true,
        ..join("", "a")
    };
    shard.ask(Command::JoinGroup(first));
    shard.advance(SESSION_MS.into());
    let reply = shard.ask(Command::JoinGroup(join("a", "b")));
    assert_eq!(*reply, refused(GroupError::UnknownMemberId, "a"));
    // The group itself goes when groups are looked through.
    assert_eq!(state(&mut shard), GroupState::Empty);
    shard.advance(shard.machine.config.offsets_retention_check_interval_ms);
    assert_eq!(state(&mut shard), GroupState::Dead);
    assert_eq!(shard.machine.group_count(), 0);
    assert!(shard.log.is_empty());
}

#[test]
fn a_rebalance_waits_for_a_client_that_was_given_an_id() {
    let (mut shard, late) = preparing();
    let pending = JoinGroup {
        require_known_member_id: true,
        ..join("", "p")
    };
    shard.ask(Command::JoinGroup(pending));
    shard.send(Command::JoinGroup(join("a", "-")));
    shard.send(Command::JoinGroup(join("b", "-")));
    assert!(!has_reply(&shard, late));
    shard.send(Command::JoinGroup(join("p", "-")));
    assert_eq!(joined(&shard, late).generation, 2);
}

#[test]
fn a_rebalance_waits_no_longer_than_a_client_has_for_its_id() {
    let (mut shard, late) = preparing();
    for (id, session_timeout_ms) in [("p", 7_000), ("q", 6_000)] {
        shard.ask(Command::JoinGroup(JoinGroup {
            require_known_member_id: true,
            session_timeout_ms,
            ..join("", id)
        }));
    }
    shard.send(Command::JoinGroup(join("a", "-")));
    shard.send(Command::JoinGroup(join("b", "-")));
    shard.advance(6_999);
    assert!(!has_reply(&shard, late), "q is late, p is not");
    shard.advance(1);
    assert_eq!(joined(&shard, late).generation, 2);
}

#[test]
fn an_id_that_was_given_out_outlives_the_members_of_its_group() {
    let mut shard = shard();
    shard.ask(Command::JoinGroup(JoinGroup {
        require_known_member_id: true,
        ..join("", "p")
    }));
    shard.send(Command::JoinGroup(join("", "a")));
    shard.ask(leave("a"));
    shard.advance(3_000);
    assert_eq!(state(&mut shard), GroupState::Empty);
    let p = shard.send(Command::JoinGroup(join("p", "-")));
    shard.advance(3_000);
    assert_eq!(joined(&shard, p).member_id, "p");
}

#[test]
fn in_preparing_rebalance() {
    let (mut shard, late) = preparing();
    assert_eq!(
        *shard.ask(heartbeat("b", 1)),
        failed(GroupError::RebalanceInProgress)
    );
    assert_eq!(
        *shard.ask(sync("b", 1, &[])),
        failed(GroupError::RebalanceInProgress)
    );
    let a = shard.send(Command::JoinGroup(join("a", "-")));
    assert!(!has_reply(&shard, a));
    let again = shard.send(Command::JoinGroup(join("a", "-")));
    assert_eq!(
        *reply_to(&shard, a),
        refused(GroupError::RebalanceInProgress, "a"),
        "the newer join supersedes"
    );
    let b = shard.send(Command::JoinGroup(join("b", "-")));
    for id in [late, again, b] {
        assert_eq!(joined(&shard, id).generation, 2);
    }
    assert_eq!(joined(&shard, again).leader, "a", "the leader stays");
}

#[test]
fn a_rebalance_goes_on_without_those_who_do_not_rejoin() {
    let (mut shard, late) = preparing();
    let b = shard.send(Command::JoinGroup(join("b", "-")));
    for _ in 0..6 {
        shard.advance(9_000);
        assert!(!has_reply(&shard, late));
        shard.ask(heartbeat("a", 1));
    }
    shard.advance(6_000);
    let leader = joined(&shard, b);
    assert_eq!((leader.generation, &*leader.leader), (2, "b"));
    assert_eq!(leader.members.len(), 2);
    assert_eq!(
        *shard.ask(heartbeat("a", 1)),
        failed(GroupError::UnknownMemberId)
    );
}

#[test]
fn the_last_one_to_leave_completes_the_join_phase() {
    let (mut shard, late) = preparing();
    shard.send(Command::JoinGroup(join("a", "-")));
    assert_eq!(*shard.ask(leave("b")), Reply::Left(vec![Ok(())]));
    assert_eq!(joined(&shard, late).generation, 2);
}

#[test]
fn a_member_that_is_silent_during_a_rebalance_is_out_after_its_session() {
    let (mut shard, late) = preparing();
    shard.send(Command::JoinGroup(join("a", "-")));
    shard.advance(SESSION_MS.into());
    assert_eq!(joined(&shard, late).generation, 2);
}

#[test]
fn in_completing_rebalance() {
    let mut shard = completing(&["a", "b"]);
    assert_eq!(*shard.ask(heartbeat("b", 1)), Reply::Done);
    // The same metadata: the answer again.
    let again = shard.send(Command::JoinGroup(join("a", "-")));
    assert_eq!(joined(&shard, again).members.len(), 2);
    let again = shard.send(Command::JoinGroup(join("b", "-")));
    assert_eq!(joined(&shard, again).generation, 1);
    assert!(joined(&shard, again).members.is_empty());

    let early = shard.send(sync("b", 1, &[]));
    assert!(!has_reply(&shard, early), "parked until the leader syncs");
    let b = shard.send(sync("b", 1, &[]));
    assert_eq!(
        *reply_to(&shard, early),
        failed(GroupError::RebalanceInProgress)
    );
    assert!(shard.log.is_empty(), "nothing to remember so far");
    let a = shard.send(sync("a", 1, &[("a", "0"), ("b", "1"), ("stranger", "2")]));
    assert_eq!(shard.log.len(), 1);
    assert_eq!(*reply_to(&shard, a), assigned("0"));
    assert_eq!(*reply_to(&shard, b), assigned("1"));
    assert_eq!(state(&mut shard), GroupState::Stable);
}

#[test]
fn a_change_while_completing_rebalance_begins_another_rebalance() {
    let changed = JoinGroup {
        protocols: vec![("range".to_owned(), subscription(&["other"]))],
        ..join("a", "-")
    };
    for command in [
        Command::JoinGroup(changed),
        Command::JoinGroup(join("", "c")),
        leave("a"),
    ] {
        let mut shard = completing(&["a", "b"]);
        let b = shard.send(sync("b", 1, &[]));
        shard.send(command);
        assert_eq!(
            *reply_to(&shard, b),
            failed(GroupError::RebalanceInProgress)
        );
        assert_eq!(state(&mut shard), GroupState::PreparingRebalance);
    }
}

#[test]
fn whoever_does_not_sync_in_time_is_out() {
    let mut shard = completing(&["a", "b"]);
    let b = shard.send(sync("b", 1, &[]));
    for _ in 0..6 {
        shard.advance(9_500);
        shard.ask(heartbeat("a", 1));
    }
    shard.advance(3_000);
    assert_eq!(
        *reply_to(&shard, b),
        failed(GroupError::RebalanceInProgress)
    );
    assert_eq!(
        *shard.ask(heartbeat("a", 1)),
        failed(GroupError::UnknownMemberId)
    );
    let b = shard.send(Command::JoinGroup(join("b", "-")));
    assert_eq!(joined(&shard, b).leader, "b");
}

#[test]
fn whoever_does_not_sync_in_a_stable_group_is_out_as_well() {
    let mut shard = completing(&["a", "b"]);
    shard.send(sync("a", 1, &[("a", "0"), ("b", "1")]));
    for _ in 0..7 {
        shard.ask(heartbeat("a", 1));
        shard.ask(heartbeat("b", 1));
        shard.advance(9_000);
    }
    assert_eq!(
        *shard.ask(heartbeat("b", 1)),
        failed(GroupError::UnknownMemberId)
    );
    assert_eq!(
        *shard.ask(heartbeat("a", 1)),
        failed(GroupError::RebalanceInProgress)
    );
}

#[test]
fn a_member_the_leader_leaves_out_gets_no_bytes_and_nobody_else() {
    let mut shard = completing(&["a", "b"]);
    shard.send(sync("a", 1, &[("a", "all")]));
    assert_eq!(*shard.ask(sync("b", 1, &[])), assigned(""));
    assert_eq!(*shard.ask(sync("a", 1, &[])), assigned("all"));
}

#[test]
fn in_stable() {
    let mut shard = stable(&["a", "b"]);
    assert_eq!(*shard.ask(heartbeat("a", 1)), Reply::Done);
    assert_eq!(*shard.ask(sync("b", 1, &[])), assigned("b"));
    // A follower with the same metadata.
    let b = shard.send(Command::JoinGroup(join("b", "-")));
    assert_eq!(joined(&shard, b).generation, 1);
    assert_eq!(state(&mut shard), GroupState::Stable);
    // The leader.
    shard.send(Command::JoinGroup(join("a", "-")));
    assert_eq!(state(&mut shard), GroupState::PreparingRebalance);
    let mut shard = stable(&["a", "b"]);
    // A follower with other metadata.
    let changed = JoinGroup {
        protocols: vec![("range".to_owned(), subscription(&["other"]))],
        ..join("b", "-")
    };
    shard.send(Command::JoinGroup(changed));
    assert_eq!(state(&mut shard), GroupState::PreparingRebalance);
    let mut shard = stable(&["a", "b"]);
    shard.ask(leave("b"));
    assert_eq!(
        *shard.ask(heartbeat("a", 1)),
        failed(GroupError::RebalanceInProgress)
    );
}

#[test]
fn whoever_leaves_gets_an_answer_to_what_it_has_parked() {
    let mut shard = completing(&["a", "b"]);
    let parked = shard.send(sync("b", 1, &[]));
    shard.send(leave("b"));
    let unknown = failed(GroupError::UnknownMemberId);
    assert_eq!(*reply_to(&shard, parked), unknown);
    let (mut shard, late) = preparing();
    shard.send(leave("late"));
    let unknown = refused(GroupError::UnknownMemberId, "");
    assert_eq!(*reply_to(&shard, late), unknown);
}

#[test]
fn a_silent_member_of_a_stable_group_is_out_after_its_session() {
    let mut shard = stable(&["a", "b"]);
    shard.advance(6_000);
    shard.ask(heartbeat("a", 1));
    shard.advance(4_000);
    assert_eq!(
        *shard.ask(heartbeat("b", 1)),
        failed(GroupError::UnknownMemberId)
    );
    let a = shard.send(Command::JoinGroup(join("a", "-")));
    assert_eq!(joined(&shard, a).members.len(), 1);
}

#[test]
fn a_group_without_members_is_empty_and_its_generation_goes_on() {
    let mut shard = stable(&["a"]);
    shard.ask(leave("a"));
    assert_eq!(state(&mut shard), GroupState::Empty);
    let GroupRecord::GroupMetadata { value, .. } = shard.log.last().unwrap() else {
        panic!("a group record");
    };
    let value = value.as_ref().unwrap();
    assert_eq!((value.generation, value.members.len()), (2, 0));
    assert_eq!((&value.protocol, &value.leader), (&None, &None));
    for command in [heartbeat("a", 2), sync("a", 2, &[])] {
        assert_eq!(*shard.ask(command), failed(GroupError::UnknownMemberId));
    }
    let reply = shard.ask(Command::JoinGroup(join("a", "-")));
    assert_eq!(*reply, refused(GroupError::UnknownMemberId, "a"));
    let unknown = Reply::Left(vec![Err(GroupError::UnknownMemberId)]);
    assert_eq!(*shard.ask(leave("a")), unknown);
    let b = shard.send(Command::JoinGroup(join("", "b")));
    shard.advance(3_000);
    assert_eq!(joined(&shard, b).generation, 3);
}

#[test]
fn hostile_rows() {
    let mut shard = stable(&["a"]);
    let no_session = JoinGroup {
        session_timeout_ms: 0,
        ..join("", "x")
    };
    let reply = shard.ask(Command::JoinGroup(no_session));
    assert_eq!(*reply, refused(GroupError::InvalidSessionTimeout, ""));
    let no_group = JoinGroup {
        group: String::new(),
        ..join("", "x")
    };
    let reply = shard.ask(Command::JoinGroup(no_group));
    assert_eq!(*reply, refused(GroupError::InvalidGroupId, ""));
    for protocols in [vec![], vec![("other".to_owned(), Bytes::new())]] {
        let join = JoinGroup {
            protocols,
            ..join("", "x")
        };
        let reply = shard.ask(Command::JoinGroup(join));
        assert_eq!(*reply, refused(GroupError::InconsistentGroupProtocol, ""));
    }
    let other_type = JoinGroup {
        protocol_type: "connect".to_owned(),
        ..join("", "x")
    };
    let reply = shard.ask(Command::JoinGroup(other_type));
    assert_eq!(*reply, refused(GroupError::InconsistentGroupProtocol, ""));
    let reply = shard.ask(Command::JoinGroup(join("x", "-")));
    assert_eq!(*reply, refused(GroupError::UnknownMemberId, "x"));
    for command in [sync("x", 1, &[]), heartbeat("x", 1)] {
        assert_eq!(*shard.ask(command), failed(GroupError::UnknownMemberId));
    }
    let unknown = Reply::Left(vec![Err(GroupError::UnknownMemberId)]);
    assert_eq!(*shard.ask(leave("x")), unknown);
    for command in [sync("a", 7, &[]), heartbeat("a", 7)] {
        assert_eq!(*shard.ask(command), failed(GroupError::IllegalGeneration));
    }
    let other_protocol = Command::SyncGroup(SyncGroup {
        caller: caller("a", 1),
        protocol_name: Some("other".to_owned()),
        ..SyncGroup::default()
    });
    let inconsistent = failed(GroupError::InconsistentGroupProtocol);
    assert_eq!(*shard.ask(other_protocol), inconsistent);
    assert_eq!(state(&mut shard), GroupState::Stable);
}

#[test]
fn nobody_speaks_for_a_group_that_does_not_exist() {
    let mut shard = shard();
    for command in [sync("x", 1, &[]), heartbeat("x", 1)] {
        assert_eq!(*shard.ask(command), failed(GroupError::UnknownMemberId));
    }
    let unknown = Reply::Left(vec![Err(GroupError::UnknownMemberId)]);
    assert_eq!(*shard.ask(leave("x")), unknown);
    assert_eq!(shard.machine.group_count(), 0);
}

#[test]
fn protocols_are_chosen_by_votes_among_what_all_know() {
    let mut shard = shard();
    for (id, names) in [("a", "xyz"), ("b", "zyx"), ("c", "zyw")] {
        let names = names.chars().map(|name| (name.to_string(), Bytes::new()));
        shard.send(Command::JoinGroup(JoinGroup {
            protocols: names.collect(),
            ..join("", id)
        }));
    }
    shard.advance(6_000);
    let (_, Reply::Joined(joined)) = &shard.replies[0] else {
        panic!("a generation");
    };
    assert_eq!(joined.protocol_name, "z", "x is not known to all");
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let mut shard = shard();
    shard.send(Command::JoinGroup(static_join("i", "", "a1")));
    shard.send(Command::JoinGroup(join("", "b")));
    shard.advance(6_000);
    shard.send(sync("a1", 1, &[("a1", "0"), ("b", "1")]));
    shard.send(sync("b", 1, &[]));
    let records = shard.log.len();

    let back = shard.send(Command::JoinGroup(static_join("i", "", "a2")));
    let answer = joined(&shard, back);
    assert_eq!((answer.generation, &*answer.member_id), (1, "a2"));
    assert_eq!(answer.leader, "a1", "it must not assign anew");
    assert!(answer.members.is_empty() && !answer.skip_assignment);
    assert_eq!(shard.log.len(), records + 1, "the new id is durable");
    assert_eq!(*shard.ask(sync("a2", 1, &[])), assigned("0"));
    assert_eq!(state(&mut shard), GroupState::Stable);

    let newest = shard.send(Command::JoinGroup(JoinGroup {
        supports_skip_assignment: true,
        ..static_join("i", "", "a3")
    }));
    let answer = joined(&shard, newest);
    assert!(answer.skip_assignment);
    assert_eq!((&*answer.leader, answer.members.len()), ("a3", 2));
}

#[test]
fn a_static_member_that_takes_over_owes_the_sync_of_the_one_before() {
    let mut shard = shard();
    shard.send(Command::JoinGroup(join("", "a")));
    shard.send(Command::JoinGroup(static_join("i", "", "b1")));
    shard.advance(6_000);
    shard.send(sync("a", 1, &[("a", "0"), ("b1", "1")]));
    let back = shard.send(Command::JoinGroup(static_join("i", "", "b2")));
    assert_eq!(joined(&shard, back).generation, 1);
    for _ in 0..7 {
        shard.ask(heartbeat("a", 1));
        shard.ask(heartbeat("b2", 1));
        shard.advance(9_000);
    }
    assert_eq!(
        *shard.ask(heartbeat("b2", 1)),
        failed(GroupError::UnknownMemberId)
    );
}

#[test]
fn the_static_member_before_is_fenced() {
    let mut shard = shard();
    let old = shard.send(Command::JoinGroup(static_join("i", "", "a1")));
    let new = shard.send(Command::JoinGroup(static_join("i", "", "a2")));
    let fenced = refused(GroupError::FencedInstanceId, "a1");
    assert_eq!(*reply_to(&shard, old), fenced);
    shard.advance(6_000);
    assert_eq!(joined(&shard, new).generation, 1);
    let caller = Caller {
        group_instance_id: Some("i".to_owned()),
        ..caller("a1", 1)
    };
    let fenced = failed(GroupError::FencedInstanceId);
    let beat = Command::Heartbeat {
        caller: caller.clone(),
    };
    assert_eq!(*shard.ask(beat), fenced);
    let sync = Command::SyncGroup(SyncGroup {
        caller,
        ..SyncGroup::default()
    });
    assert_eq!(*shard.ask(sync), fenced);
    let reply = shard.ask(Command::JoinGroup(static_join("i", "a1", "-")));
    assert_eq!(*reply, refused(GroupError::FencedInstanceId, "a1"));
    let leave = Command::LeaveGroup {
        group: GROUP.to_owned(),
        members: vec![LeavingMember {
            member_id: "a1".to_owned(),
            group_instance_id: Some("i".to_owned()),
        }],
    };
    let fenced = Reply::Left(vec![Err(GroupError::FencedInstanceId)]);
    assert_eq!(*shard.ask(leave), fenced);
}

#[test]
fn a_static_member_that_returns_while_syncs_are_missing_begins_a_rebalance() {
    let mut shard = shard();
    shard.send(Command::JoinGroup(static_join("i", "", "a1")));
    shard.send(Command::JoinGroup(join("", "b")));
    shard.advance(6_000);
    let parked = shard.send(sync("b", 1, &[]));
    shard.send(Command::JoinGroup(static_join("i", "", "a2")));
    assert_eq!(
        *reply_to(&shard, parked),
        failed(GroupError::RebalanceInProgress)
    );
    assert_eq!(state(&mut shard), GroupState::PreparingRebalance);
}

#[test]
fn an_administrator_removes_a_static_member_by_its_instance() {
    let mut shard = shard();
    shard.send(Command::JoinGroup(static_join("i", "", "a1")));
    shard.advance(3_000);
    let by_instance = |id: &str| LeavingMember {
        member_id: String::new(),
        group_instance_id: Some(id.to_owned()),
    };
    let reply = shard.ask(Command::LeaveGroup {
        group: GROUP.to_owned(),
        members: vec![by_instance("i"), by_instance("nobody")],
    });
    let expected = vec![Ok(()), Err(GroupError::UnknownMemberId)];
    assert_eq!(*reply, Reply::Left(expected));
    assert_eq!(state(&mut shard), GroupState::Empty);
}

#[test]
fn a_late_static_member_keeps_its_place_in_the_next_generation() {
    let mut shard = shard();
    let slow = JoinGroup {
        session_timeout_ms: 100_000,
        ..static_join("i", "", "s")
    };
    shard.send(Command::JoinGroup(slow));
    shard.send(Command::JoinGroup(join("", "b")));
    shard.advance(6_000);
    shard.send(sync("s", 1, &[]));
    shard.send(sync("b", 1, &[]));
    let b = shard.send(Command::JoinGroup(JoinGroup {
        protocols: vec![("range".to_owned(), subscription(&["other"]))],
        ..join("b", "-")
    }));
    shard.advance(REBALANCE_MS.into());
    let answer = joined(&shard, b);
    assert_eq!(answer.members.len(), 2, "{answer:?}");
    assert_eq!(answer.leader, "b");
}

#[test]
fn a_group_takes_no_more_members_than_it_may() {
    let mut shard = shard_with(GroupConfig {
        max_size: 2,
        ..GroupConfig::default()
    });
    for id in ["a", "b"] {
        shard.send(Command::JoinGroup(join("", id)));
    }
    let full = refused(GroupError::GroupMaxSizeReached, "");
    assert_eq!(*shard.ask(Command::JoinGroup(join("", "c"))), full);
    shard.advance(6_000);
    assert_eq!(*shard.ask(Command::JoinGroup(join("", "c"))), full);
    shard.send(sync("a", 1, &[]));
    assert_eq!(*shard.ask(Command::JoinGroup(join("", "c"))), full);
}

#[test]
fn members_and_groups_hold_no_more_bytes_than_they_may() {
    let mut shard = shard_with(GroupConfig {
        member_metadata_max_bytes: 1_000,
        group_max_bytes: 4_500,
        ..GroupConfig::default()
    });
    let with = |id, len| JoinGroup {
        protocols: vec![("range".to_owned(), Bytes::from(vec![0; len]))],
        ..join("", id)
    };
    let reply = shard.ask(Command::JoinGroup(with("a", 1_000)));
    let too_large = "The member's metadata is too large.";
    assert_eq!(*reply, refused(GroupError::InvalidRequest(too_large), ""));
    for id in ["a", "b", "c"] {
        shard.send(Command::JoinGroup(with(id, 900)));
    }
    let reply = shard.ask(Command::JoinGroup(with("d", 900)));
    assert_eq!(*reply, refused(GroupError::GroupMaxSizeReached, ""));
    shard.advance(6_000);
    let long = "x".repeat(4_000);
    let reply = shard.ask(sync("a", 1, &[("a", &long)]));
    let too_large = "The assignment is too large.";
    assert_eq!(*reply, failed(GroupError::InvalidRequest(too_large)));
}

#[test]
fn ids_given_out_count_against_the_bytes_of_a_group() {
    let mut shard = shard_with(GroupConfig {
        group_max_bytes: 10_000,
        ..GroupConfig::default()
    });
    let mut refusals = 0;
    for id in 0..100 {
        let reply = shard.ask(Command::JoinGroup(JoinGroup {
            require_known_member_id: true,
            ..join("", &format!("m{id}"))
        }));
        refusals += usize::from(*reply == refused(GroupError::GroupMaxSizeReached, ""));
    }
    assert!(refusals > 50, "{refusals}");
}

#[test]
fn strings_that_no_record_can_carry_are_refused() {
    let mut shard = shard();
    let long = "x".repeat(40_000);
    let reply = shard.ask(Command::JoinGroup(JoinGroup {
        group: long.clone(),
        ..join("", "a")
    }));
    assert_eq!(*reply, refused(GroupError::InvalidGroupId, ""));
    let reply = shard.ask(Command::JoinGroup(static_join(&long, "", "a")));
    let too_long = GroupError::InvalidRequest("A string of the member is too long.");
    assert_eq!(*reply, refused(too_long, ""));
}

#[test]
fn members_go_on_after_a_restart_with_fresh_sessions() {
    let mut shard = stable(&["a", "b"]);
    shard.advance(9_000);
    let mut shard = restarted(&shard);
    assert_eq!(state(&mut shard), GroupState::Stable);
    shard.advance(9_000);
    assert_eq!(*shard.ask(heartbeat("a", 1)), Reply::Done);
    assert_eq!(*shard.ask(sync("b", 1, &[])), assigned("b"));
    let b = shard.send(Command::JoinGroup(join("b", "-")));
    assert_eq!(joined(&shard, b).generation, 1);
    shard.advance(1_000);
    assert_eq!(
        *shard.ask(heartbeat("b", 1)),
        failed(GroupError::UnknownMemberId),
        "it was silent"
    );
}

#[test]
fn a_rebalance_under_way_is_forgotten_by_a_restart() {
    let (shard, _) = preparing();
    let mut shard = restarted(&shard);
    assert_eq!(*shard.ask(heartbeat("b", 1)), Reply::Done);
    let reply = shard.ask(Command::JoinGroup(join("late", "-")));
    assert_eq!(*reply, refused(GroupError::UnknownMemberId, "late"));

    let mut shard = restarted(&completing(&["a"]));
    assert_eq!(state(&mut shard), GroupState::Dead);
    assert_eq!(
        *shard.ask(sync("a", 1, &[])),
        failed(GroupError::UnknownMemberId)
    );
}

#[test]
fn a_group_larger_than_now_allowed_rebalances_after_a_restart() {
    let mut shard = stable(&["a", "b"]);
    shard.machine.config.max_size = 1;
    let mut shard = restarted(&shard);
    assert_eq!(state(&mut shard), GroupState::PreparingRebalance);
    let a = shard.send(Command::JoinGroup(join("a", "-")));
    let reply = shard.ask(Command::JoinGroup(join("b", "-")));
    assert_eq!(*reply, refused(GroupError::GroupMaxSizeReached, "b"));
    shard.advance(SESSION_MS.into());
    assert_eq!(joined(&shard, a).members.len(), 1);
}

#[test]
fn a_thousand_members_settle_in_one_generation() {
    let mut shard = shard();
    let ids: Vec<String> = (0..1_000).map(|id| format!("m{id:04}")).collect();
    let joins: Vec<ReplyId> = ids
        .iter()
        .map(|id| shard.send(Command::JoinGroup(join("", id))))
        .collect();
    shard.advance(6_000);
    assert!(joins.iter().all(|id| joined(&shard, *id).generation == 1));
    let all: Vec<(&str, &str)> = ids.iter().map(|id| (&**id, &**id)).collect();
    shard.send(sync(&ids[0], 1, &all));
    for id in &ids[1..] {
        assert_eq!(*shard.ask(sync(id, 1, &[])), assigned(id));
    }
}
