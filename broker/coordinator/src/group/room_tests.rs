//! Row C31 of the hostile table: how many groups a shard keeps, which one makes room, and how newcomers look.

use super::commit_tests::{DAY_MS, commit, commit_by, partition};
use super::tests::*;
use super::*;

fn at_most(max_groups: usize) -> Shard {
    shard_with(GroupConfig {
        max_groups,
        ..GroupConfig::default()
    })
}

/// A client asks for a member id; it gets `m`.
fn ask_for_id(group: &str) -> Command {
    Command::JoinGroup(JoinGroup {
        group: group.to_owned(),
        require_known_member_id: true,
        ..join("", "m")
    })
}

/// It comes back with its id.
fn come_back(group: &str) -> Command {
    Command::JoinGroup(JoinGroup {
        group: group.to_owned(),
        ..join("m", "-")
    })
}

fn ask_for_ids(shard: &mut Shard, groups: &[&str]) {
    for group in groups {
        shard.advance(1_000);
        let reply = shard.ask(ask_for_id(group));
        assert_eq!(*reply, refused(GroupError::MemberIdRequired, "m"));
    }
}

fn listed(shard: &mut Shard) -> Vec<(String, GroupState)> {
    let Reply::Listed(listed) = shard.ask(Command::ListGroups {
        states: None,
        types: None,
    }) else {
        panic!("a list");
    };
    let listed = listed.iter();
    listed.map(|g| (g.group.to_string(), g.state)).collect()
}

fn names(shard: &mut Shard) -> Vec<String> {
    listed(shard).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn the_oldest_unused_group_makes_room() {
    let mut shard = at_most(3);
    shard.send(Command::JoinGroup(join("", "a")));
    ask_for_ids(&mut shard, &["one", "two", "three"]);
    assert_eq!(names(&mut shard), ["g", "three", "two"], "`one` was oldest");
    let reply = shard.ask(come_back("one"));
    assert_eq!(*reply, refused(GroupError::UnknownMemberId, "m"));
    // Asked for again it is younger than the others.
    ask_for_ids(&mut shard, &["two", "four"]);
    assert_eq!(names(&mut shard), ["four", "g", "two"]);
}

/// Groups that had members once have records, newcomers have nothing: the time of their last use alone counts.
#[test]
fn former_groups_and_newcomers_go_in_the_order_of_their_last_use() {
    let mut shard = at_most(4);
    let come_and_go = |shard: &mut Shard, group: &str| {
        shard.advance(1_000);
        shard.send(Command::JoinGroup(JoinGroup {
            group: group.to_owned(),
            ..join("", "a")
        }));
        shard.advance(3_000);
        shard.ask(Command::LeaveGroup {
            group: group.to_owned(),
            members: vec![LeavingMember {
                member_id: "a".to_owned(),
                group_instance_id: None,
            }],
        });
    };
    come_and_go(&mut shard, "former-1");
    ask_for_ids(&mut shard, &["new-1"]);
    come_and_go(&mut shard, "former-2");
    ask_for_ids(&mut shard, &["new-2"]);
    let mut left = vec!["former-1", "former-2", "new-1", "new-2"];
    assert_eq!(names(&mut shard), left);
    for (number, gone) in ["former-1", "new-1", "former-2", "new-2"]
        .iter()
        .enumerate()
    {
        let next = format!("next-{number}");
        ask_for_ids(&mut shard, &[&next]);
        left.retain(|group| group != gone);
        let there = names(&mut shard);
        let former: Vec<_> = there.iter().filter(|g| !g.starts_with("next")).collect();
        assert_eq!(former, left.iter().collect::<Vec<_>>(), "{gone} was oldest");
    }
    assert_eq!(
        restarted(&shard).machine.group_count(),
        0,
        "with tombstones"
    );
}

#[test]
fn when_all_groups_are_in_use_there_is_no_room() {
    let mut shard = at_most(1);
    shard.send(Command::JoinGroup(join("", "a")));
    let reply = shard.ask(Command::JoinGroup(JoinGroup {
        group: "other".to_owned(),
        ..join("", "b")
    }));
    assert_eq!(*reply, refused(GroupError::TooManyGroups, ""));
}

#[test]
fn committed_offsets_never_make_room_until_they_expire() {
    let mut shard = at_most(1);
    shard.ask(commit("t", vec![partition(0, 1)]));
    let by_other = || {
        let other = Caller {
            group: "other".to_owned(),
            ..caller("", -1)
        };
        commit_by(other, "t", vec![partition(0, 1)])
    };
    let no_room = Reply::Failed(GroupError::TooManyGroups);
    assert_eq!(*shard.ask(by_other()), no_room);
    shard.advance(6 * DAY_MS);
    assert_eq!(*shard.ask(by_other()), no_room);
    let reply = shard.ask(ask_for_id("another"));
    assert_eq!(*reply, refused(GroupError::TooManyGroups, ""));
    shard.advance(2 * DAY_MS);
    assert!(matches!(shard.ask(by_other()), Reply::Committed(_)));
    assert_eq!(names(&mut shard), ["other"]);
}

#[test]
fn a_newcomer_looks_like_any_group_without_members_and_offsets() {
    let mut shard = shard();
    ask_for_ids(&mut shard, &["new", "nine"]);
    shard.ask(commit("t", vec![partition(0, 1)]));
    let all: Vec<_> = ["g", "new", "nine"]
        .map(|group| (group.to_owned(), GroupState::Empty))
        .into();
    assert_eq!(listed(&mut shard), all);
    let Reply::Described(described) = shard.ask(Command::DescribeGroup {
        group: "new".to_owned(),
    }) else {
        panic!("described");
    };
    let empty = DescribedGroup {
        state: GroupState::Empty,
        protocol_type: String::new(),
        protocol: String::new(),
        members: Vec::new(),
    };
    assert_eq!(*described, empty);
    let Reply::Summary(summary) = shard.ask(Command::Summary { offsets: true }) else {
        panic!("a summary");
    };
    let summary: Vec<_> = summary
        .iter()
        .map(|g| (&*g.group, g.offset_count))
        .collect();
    assert_eq!(summary, [("g", 1), ("new", 0), ("nine", 0)]);

    // It can be deleted, and its id with it; or get offsets, and its id stays.
    let delete = |group: &str| Command::DeleteGroup {
        group: group.to_owned(),
    };
    assert_eq!(*shard.ask(delete("new")), Reply::Done);
    let reply = shard.ask(come_back("new"));
    assert_eq!(*reply, refused(GroupError::UnknownMemberId, "m"));
    let nine = Caller {
        group: "nine".to_owned(),
        ..caller("", -1)
    };
    shard.ask(commit_by(nine, "t", vec![partition(0, 9)]));
    let id = shard.send(come_back("nine"));
    shard.advance(3_000);
    assert_eq!(joined(&shard, id).generation, 1);
    assert_eq!(names(&mut shard), ["g", "nine"]);
}

#[test]
fn a_newcomer_is_gone_when_nobody_came_back_in_time() {
    let mut shard = shard();
    ask_for_ids(&mut shard, &["new"]);
    shard.advance(Millis::from(SESSION_MS) - 1);
    let id = shard.send(come_back("new"));
    shard.advance(3_000);
    assert_eq!(joined(&shard, id).generation, 1, "in time");

    ask_for_ids(&mut shard, &["late"]);
    shard.advance(SESSION_MS.into());
    let reply = shard.ask(come_back("late"));
    assert_eq!(*reply, refused(GroupError::UnknownMemberId, "m"));
    // What is left of it goes with the next look at offsets.
    shard.advance(600_000);
    assert!(!names(&mut shard).contains(&"late".to_owned()));
}

/// Else the ids of the groups that are allowed could be 64 KiB each.
#[test]
fn long_ids_leave_room_for_fewer_newcomers() {
    let mut shard = at_most(100);
    let short = ["a", "b", "c"];
    ask_for_ids(&mut shard, &short);
    let long = |first: char| format!("{first}{}", "x".repeat(11_999));
    for first in ['l', 'm', 'n'] {
        ask_for_ids(&mut shard, &[&long(first)]);
    }
    assert_eq!(names(&mut shard), [long('m'), long('n')], "100 times 256 B");
    let id = shard.send(Command::JoinGroup(JoinGroup {
        group: long('n'),
        ..join("m", "-")
    }));
    shard.advance(3_000);
    assert_eq!(joined(&shard, id).generation, 1);
}
