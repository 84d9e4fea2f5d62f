//! Members that come back: static ones under a new id, all of them after the broker was away.

use kafka_protocol::messages::JoinGroupRequest;

use crate::group_offsets::{commit_request, fetched};
use crate::groups::{FENCED_INSTANCE_ID, Member, UNKNOWN_MEMBER_ID, new_group};
use crate::requests::{NONE, create, newest, text};
use crate::{Stage, started};

const QUICK: [(&str, &str); 1] = [("group.initial.rebalance.delay.ms", "0")];

fn stage(name: &str) -> (ottla_integration_tests::TempDir, Stage) {
    let (folder, broker, wire) = started(name, &QUICK);
    (folder, Stage { broker, wire })
}

/// A static member that starts again takes its old place without a rebalance (KIP-345). If it led, it must not take
/// itself for the leader: before version 9 it is told that its old id is, from then on not to assign (KIP-814).
#[test]
fn a_static_leader_that_starts_again_takes_its_place_and_assigns_nothing() {
    let (_folder, mut stage) = stage("wire-static");
    for version in 5..=newest::<JoinGroupRequest>() {
        println!("v{version}");
        let group = new_group(&mut stage.wire);
        let mut old = Member::new(&stage, &group, "subscription").named("i");
        old.settle(b"assignment");
        let mut new = Member::new(&stage, &group, "subscription").named("i");
        let response = new.join(version);
        assert_eq!((response.error_code, response.generation_id), (NONE, 1));
        assert_ne!(new.id, old.id);
        if version >= 9 {
            assert!(response.skip_assignment);
            assert_eq!(response.leader.as_str(), new.id);
            assert_eq!(response.members.len(), 1);
            assert_eq!(response.members[0].member_id.as_str(), new.id);
        } else {
            assert_eq!(response.leader.as_str(), old.id);
            assert!(response.members.is_empty());
        }
        assert_eq!(new.sync(5, &[]).assignment, "assignment");
        assert_eq!(new.heartbeat(4), NONE);
        assert_eq!(old.heartbeat(4), FENCED_INSTANCE_ID);
        assert_eq!(old.heartbeat(2), UNKNOWN_MEMBER_ID);
        assert_eq!(old.sync(5, &[]).error_code, FENCED_INSTANCE_ID);
        assert_eq!(old.join(version).error_code, FENCED_INSTANCE_ID);
    }
}

/// What the leader assigned and what was committed is durable, so members go on with both. A generation that had no
/// assignment yet is not: its members begin anew.
#[test]
fn members_go_on_after_the_broker_was_stopped_or_killed() {
    let (_folder, mut stage) = stage("wire-groups-restart");
    let topic = create(&mut stage.wire, 1, &[]);
    let names = [(); 3].map(|()| new_group(&mut stage.wire));
    let [stable, joined, offsets] = names.each_ref().map(String::as_str);
    let mut leader = Member::new(&stage, stable, "first").named("i");
    let mut follower = Member::new(&stage, stable, "second");
    leader.join(9);
    let ticket = follower.begin_join(9);
    leader.hears_of_rebalance();
    leader.join(9);
    follower.end_join(ticket);
    let (one, other) = (leader.id.clone(), follower.id.clone());
    leader.sync(5, &[(&one, b"1"), (&other, b"2")]);
    let mut unassigned = Member::new(&stage, joined, "m");
    unassigned.join(9);
    for (committed, killed) in [(7, false), (8, true), (9, false)] {
        let commit = commit_request(9, stable, &topic.name, &[(0, committed)])
            .with_generation_id_or_member_epoch(2)
            .with_member_id(text(&follower.id));
        let response = stage.wire.ask(9, &commit);
        assert_eq!(response.topics[0].partitions[0].error_code, NONE);
        let commit = commit_request(9, offsets, &topic.name, &[(0, committed)]);
        let response = stage.wire.ask(9, &commit);
        assert_eq!(response.topics[0].partitions[0].error_code, NONE);
        if killed {
            stage.broker.kill9();
        } else {
            assert!(stage.broker.sigterm().success());
        }
        stage.broker.restart();
        stage.wire = stage.another();
        for (member, assignment) in [(&mut leader, "1"), (&mut follower, "2")] {
            member.wire = stage.another();
            assert_eq!(member.heartbeat(4), NONE);
            let response = member.sync(5, &[]);
            assert_eq!(response.error_code, NONE);
            assert_eq!(response.assignment, assignment);
        }
        for group in [stable, offsets] {
            let offset = fetched(&mut stage.wire, group, &topic.name, 0);
            assert_eq!(offset.committed_offset, committed);
            assert_eq!(offset.committed_leader_epoch, 3);
            assert_eq!(offset.metadata.expect("a note").as_str(), "note");
        }
        unassigned.wire = stage.another();
        assert_eq!(unassigned.heartbeat(4), UNKNOWN_MEMBER_ID);
    }
    // The next generation counts on.
    let mut late = Member::new(&stage, stable, "late");
    let ticket = late.begin_join(9);
    leader.hears_of_rebalance();
    let rejoin = follower.begin_join(9);
    assert_eq!(leader.join(9).generation_id, 3);
    assert_eq!(follower.end_join(rejoin).generation_id, 3);
    assert_eq!(late.end_join(ticket).generation_id, 3);
}
