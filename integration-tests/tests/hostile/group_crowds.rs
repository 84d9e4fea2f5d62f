//! Rows C30, C31 and B5, and what many members of one group cost.

use std::time::Duration;

use ottla_integration_tests::broker::TERM_DEADLINE;
use ottla_protocol::codec::messages::{
    DescribeGroupsResponse, JoinGroupResponse, LeaveGroupResponse, ListGroupsResponse,
    OffsetFetchResponse, SyncGroupResponse,
};

use crate::batch::{Batch, Record};
use crate::crowds::allow_files;
use crate::groups::{
    Caller, DESCRIBE_GROUPS, JOINED, Join, LEAVE_GROUP, LEFT, OFFSET_COMMIT, OFFSET_FETCH, SYNCED,
    find_coordinator,
};
use crate::target::{Answer, Client, PATIENCE, Target};
use crate::wire::{self, PRODUCE, Produce, decode, header};
use crate::{TOPIC, alone};

const MANY_CONNECTIONS: [(&str, &str); 2] = [
    ("max.connections.per.ip", "2000"),
    ("max.connection.creation.rate", "100000"),
];
/// What threads, buffers and the allocator add, whatever is counted.
const SLACK: u64 = 2 << 20;
/// How long the first members of a group wait for others in these tests.
const INITIAL_DELAY: Duration = Duration::from_millis(500);
/// Wanted of every rebalance beyond the initial delay.
const SETTLED: Duration = Duration::from_secs(5);
/// Wanted: no more memory than this for 1,000 members, whatever they do.
const CROWD_BYTES: u64 = 200 << 20;

fn start(name: &str, properties: &[(&str, &str)]) -> Target {
    start_with(name, &INITIAL_DELAY.as_millis().to_string(), properties)
}

fn start_with(name: &str, initial_delay_ms: &str, properties: &[(&str, &str)]) -> Target {
    let mut all = vec![("group.initial.rebalance.delay.ms", initial_delay_ms)];
    all.extend(MANY_CONNECTIONS);
    all.extend(properties);
    let target = crate::start(name, &all);
    find_coordinator(&target);
    allow_files(2_100);
    target
}

/// Members of one group, each with its own connection. All do the same at the same time.
struct Crowd {
    group: &'static str,
    clients: Vec<Client>,
    ids: Vec<String>,
    metadata: Vec<u8>,
    generation: i32,
    leader: usize,
}

impl Crowd {
    fn new(target: &Target, group: &'static str, members: usize) -> Self {
        Self {
            group,
            clients: (0..members).map(|_| target.connect()).collect(),
            ids: vec![String::new(); members],
            // As a consumer of one topic sends it.
            metadata: b"\0\x03\0\0\0\x01\0\x06target\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff"
                .to_vec(),
            generation: -1,
            leader: 0,
        }
    }

    fn join(&self, member: usize) -> Vec<u8> {
        let join = Join {
            member_id: &self.ids[member],
            protocols: vec![("range", &self.metadata), ("sticky", &self.metadata)],
            ..Join::of(self.group)
        };
        join.framed()
    }

    /// Everybody asks for a member id.
    fn get_ids(&mut self) {
        self.ids.iter_mut().for_each(String::clear);
        let requests: Vec<_> = (0..self.clients.len())
            .map(|each| self.join(each))
            .collect();
        for (client, request) in self.clients.iter_mut().zip(requests) {
            client.send(&request);
        }
        for (client, id) in self.clients.iter_mut().zip(&mut self.ids) {
            let response: JoinGroupResponse = decode(&client.expect_answer(), JOINED.1);
            assert_eq!(response.error_code, 79);
            *id = response.member_id.to_string();
        }
    }

    /// Everybody joins, and everybody is in the next generation by the same answer.
    fn join_all(&mut self) {
        let requests: Vec<_> = (0..self.clients.len())
            .map(|each| self.join(each))
            .collect();
        for (client, request) in self.clients.iter_mut().zip(requests) {
            client.send(&request);
        }
        let mut generations = Vec::new();
        for (index, client) in self.clients.iter_mut().enumerate() {
            let response: JoinGroupResponse = decode(&client.expect_answer(), JOINED.1);
            assert_eq!(response.error_code, 0);
            assert_eq!(response.member_id.as_str(), self.ids[index]);
            let is_leader = response.leader == response.member_id;
            let told = if is_leader { self.ids.len() } else { 0 };
            assert_eq!(response.members.len(), told, "members for the leader alone");
            if is_leader {
                self.leader = index;
            }
            generations.push(response.generation_id);
        }
        generations.dedup();
        assert_eq!(generations.len(), 1, "one rebalance: {generations:?}");
        self.generation = generations[0];
    }

    /// The leader assigns to everybody, and everybody has its own.
    fn sync_all(&mut self) {
        let each = self.ids.iter().map(|id| (id.as_str(), id.as_bytes()));
        let assigned: Vec<_> = each.collect();
        for (index, client) in self.clients.iter_mut().enumerate() {
            let caller = Caller {
                group: self.group,
                generation: self.generation,
                member_id: &self.ids[index],
                instance_id: None,
            };
            let assigned: &[_] = if index == self.leader { &assigned } else { &[] };
            client.send(&caller.sync(assigned));
        }
        for (client, id) in self.clients.iter_mut().zip(&self.ids) {
            let response: SyncGroupResponse = decode(&client.expect_answer(), SYNCED.1);
            assert_eq!(response.error_code, 0);
            assert_eq!(response.assignment, id.as_bytes());
        }
    }

    /// Everybody leaves and asks for another member id, in one write.
    fn leave_all_and_get_ids(&mut self) {
        let leaves: Vec<_> = self
            .ids
            .iter()
            .map(|id| {
                header(LEAVE_GROUP, 1)
                    .string(self.group)
                    .string(id)
                    .framed()
            })
            .collect();
        self.ids.iter_mut().for_each(String::clear);
        for (index, leave) in leaves.into_iter().enumerate() {
            let join = self.join(index);
            self.clients[index].send(&[leave, join].concat());
        }
        for (client, id) in self.clients.iter_mut().zip(&mut self.ids) {
            let response: LeaveGroupResponse = decode(&client.expect_answer(), 1);
            assert_eq!(response.error_code, 0);
            let response: JoinGroupResponse = decode(&client.expect_answer(), JOINED.1);
            assert_eq!(response.error_code, 79);
            *id = response.member_id.to_string();
        }
    }
}

#[test]
fn a_thousand_members_join_at_once_and_rebalance_three_times() {
    const MEMBERS: usize = 1_000;
    let _alone = alone();
    let mut target = start("hostile-storms", &[]);
    let before = target.resident();
    let memory = target.watch_memory();
    let mut crowd = Crowd::new(&target, "crowd", MEMBERS);
    let settle = |target: &mut Target, crowd: &mut Crowd, what: &str, delay: Duration| {
        let began = target.now();
        if crowd.ids[0].is_empty() {
            crowd.get_ids();
        }
        crowd.join_all();
        let joined = target.now() - began;
        crowd.sync_all();
        let took = target.now() - began;
        println!(
            "{what}: joined after {joined:?}, settled after {took:?}, generation {}",
            crowd.generation
        );
        assert!(took <= delay + SETTLED, "{what}: {took:?}");
        assert!(target.probes::<5>()[2] <= Duration::from_millis(20));
    };
    // Members that come while the first ones wait make them wait as long again, once.
    settle(
        &mut target,
        &mut crowd,
        "1,000 members join",
        2 * INITIAL_DELAY,
    );
    for storm in 1..=3 {
        // As after a change of their subscriptions.
        crowd.metadata.extend(b"changed");
        let what = format!("storm {storm}");
        let generation = crowd.generation;
        settle(&mut target, &mut crowd, &what, Duration::ZERO);
        assert_eq!(crowd.generation, generation + 1, "one rebalance");
    }
    let growth = memory.growth(&target);
    println!(
        "1,000 members: memory grew by {} KiB at most, by {} KiB at the end",
        growth >> 10,
        target.resident().saturating_sub(before) >> 10
    );
    assert!(growth <= CROWD_BYTES, "memory grew by {growth}");
    target.check_health();
}

#[test]
fn a_thousand_members_leave_and_join_at_once_ten_times() {
    const MEMBERS: usize = 1_000;
    let _alone = alone();
    let mut target = start("hostile-leaves", &[]);
    let memory = target.watch_memory();
    let mut crowd = Crowd::new(&target, "crowd", MEMBERS);
    crowd.get_ids();
    crowd.join_all();
    crowd.sync_all();
    for round in 1..=10 {
        let generation = crowd.generation;
        let began = target.now();
        // Each leaves and asks for a new id in one write; the group is never empty on the way.
        crowd.leave_all_and_get_ids();
        crowd.join_all();
        crowd.sync_all();
        let took = target.now() - began;
        println!("B5, round {round}: settled after {took:?}");
        assert_eq!(crowd.generation, generation + 1, "one rebalance");
        assert!(took <= SETTLED, "round {round}: {took:?}");
        assert!(target.probes::<5>()[2] <= Duration::from_millis(20));
    }
    let growth = memory.growth(&target);
    println!("B5: memory grew by {} KiB at most", growth >> 10);
    assert!(growth <= CROWD_BYTES, "memory grew by {growth}");
    target.check_health();
}

/// Members that join with as much metadata as there may be, by a version that takes them in at once.
fn join_with(target: &Target, members: usize, metadata: &[u8]) -> Vec<Client> {
    let join = Join {
        version: 3,
        protocols: vec![("range", metadata)],
        ..Join::of("heavy")
    };
    let request = join.framed();
    let each = (0..members).map(|_| {
        let mut client = target.connect();
        client.send(&request);
        client
    });
    each.collect()
}

/// C30: 1 MiB of metadata each is refused; of the largest that is taken, the group takes 64 MiB.
#[test]
fn a_group_holds_a_bounded_number_of_bytes() {
    const MEMBERS: usize = 1_000;
    const GROUP_BYTES: u64 = 64 << 20;
    let _alone = alone();
    let mut target = start("hostile-heavy", &[]);
    let memory = target.watch_memory();
    let mut refused = join_with(&target, MEMBERS, &vec![b'x'; 1 << 20]);
    for client in &mut refused {
        let response: JoinGroupResponse = decode(&client.expect_answer(), 3);
        assert_eq!(response.error_code, 42);
    }
    drop(refused);
    let growth = memory.growth(&target);
    println!(
        "C30: {MEMBERS} members of 1 MiB refused, memory grew by {} KiB",
        growth >> 10
    );
    assert!(growth <= 256 << 20, "memory grew by {growth}");

    let memory = target.watch_memory();
    let metadata = vec![b'x'; (256 << 10) - 100];
    let mut clients = join_with(&target, MEMBERS, &metadata);
    let mut joined = Vec::new();
    let mut leader = None;
    for (index, client) in clients.iter_mut().enumerate() {
        let response: JoinGroupResponse = decode(&client.expect_answer(), 3);
        match response.error_code {
            0 => joined.push((
                index,
                response.member_id.to_string(),
                response.generation_id,
            )),
            81 => continue,
            other => panic!("error {other}"),
        }
        if response.leader == response.member_id {
            leader = Some(joined.len() - 1);
            let bytes: usize = response
                .members
                .iter()
                .map(|member| member.metadata.len())
                .sum();
            println!(
                "C30: the leader hears of {} members, {} MiB",
                response.members.len(),
                bytes >> 20
            );
        }
    }
    let growth = memory.growth(&target);
    println!(
        "C30: {} of {MEMBERS} members with 256 KiB joined, memory grew by {} MiB",
        joined.len(),
        growth >> 20
    );
    assert!((250..=256).contains(&joined.len()), "{}", joined.len());
    assert!(growth <= 6 * GROUP_BYTES, "memory grew by {growth}");

    // Protocols without metadata cost something, too.
    let empty = Join {
        protocols: vec![("p", b""); 10_000],
        ..Join::of("heavy")
    };
    let response: JoinGroupResponse = decode(&target.ask(&empty.framed()), JOINED.1);
    assert_eq!(response.error_code, 42);

    // What the leader assigns counts as well.
    let (index, id, generation) = &joined[leader.expect("one leads")];
    let caller = Caller {
        group: "heavy",
        generation: *generation,
        member_id: id,
        instance_id: None,
    };
    let large = vec![b'y'; 2 << 20];
    for (assignment, code) in [(large.as_slice(), 42), (b"small", 0)] {
        clients[*index].send(&caller.sync(&[(id, assignment)]));
        let response: SyncGroupResponse = decode(&clients[*index].expect_answer(), SYNCED.1);
        assert_eq!(response.error_code, code);
    }
    let growth = memory.growth(&target);
    println!("C30: assigned, memory grew by {} MiB", growth >> 20);
    // The group's record is as large as the group, and is on its way to the log and to the view.
    assert!(growth <= 8 * GROUP_BYTES, "memory grew by {growth}");

    // Named a thousand times it is described until that is 64 MiB.
    let memory = target.watch_memory();
    let names = (0..1_000).fold(header(DESCRIBE_GROUPS, 0).i32(1_000), |wire, _| {
        wire.string("heavy")
    });
    let began = target.now();
    let response: DescribeGroupsResponse = decode(&target.ask(&names.framed()), 0);
    let growth = memory.growth(&target);
    let described = response.groups.iter();
    let described = described.filter(|group| group.error_code == 0).count();
    println!(
        "C30: described {described} of 1,000 times in {:?}, memory grew by {} MiB",
        target.now() - began,
        growth >> 20
    );
    assert_eq!(response.groups.len(), 1_000);
    assert!((1..=2).contains(&described), "{described}");
    assert_eq!(response.groups[2].error_code, 14);
    assert!(growth <= 4 * GROUP_BYTES, "memory grew by {growth}");
    assert!(target.probes::<5>()[2] <= Duration::from_millis(20));
    target.check_health();

    // And it is all there after a crash.
    target.broker.kill9();
    let began = target.now();
    target.broker.restart();
    println!("C30: back after {:?}", target.now() - began);
    let there = (joined.len(), "Stable".to_owned());
    assert_eq!(members_of(&target, "heavy"), there);
}

/// How many group ids a flood brings, and how many of them the broker may keep: some of the default, or a million
/// and the default.
fn flood() -> (usize, usize) {
    match std::env::var("OTTLA_TEST_GROUP_IDS") {
        Ok(ids) => (ids.parse().expect("a number"), 100_000),
        Err(_) => (60_000, 20_000),
    }
}

/// Sends requests in bundles over some connections and looks at every answer.
fn in_bundles(
    clients: &mut [Client],
    numbers: std::ops::Range<usize>,
    requests: impl Fn(usize) -> Vec<u8>,
    mut look: impl FnMut(usize, &mut Client),
) {
    const BUNDLE: usize = 50;
    let mut bundles: Vec<_> = numbers.collect();
    while !bundles.is_empty() {
        let rest = bundles.split_off(bundles.len().min(BUNDLE * clients.len()));
        for (client, bundle) in clients.iter_mut().zip(bundles.chunks(BUNDLE)) {
            let bytes: Vec<u8> = bundle.iter().flat_map(|number| requests(*number)).collect();
            client.send(&bytes);
        }
        for (client, bundle) in clients.iter_mut().zip(bundles.chunks(BUNDLE)) {
            for number in bundle {
                look(*number, client);
            }
        }
        bundles = rest;
    }
}

/// C31: of any number of group ids only so many are kept, and each of them costs little.
#[test]
fn group_ids_that_are_only_made_up_are_bounded() {
    let _alone = alone();
    let (ids, kept) = flood();
    let max = kept.to_string();
    let mut target = start("hostile-group-ids", &[("groups.max", &max)]);
    let mut clients: Vec<Client> = (0..4).map(|_| target.connect()).collect();
    let group = |number: usize| format!("made-up-group-{number}");
    let join = |number: usize| Join::of(&group(number)).framed();
    let mut ask = |numbers: std::ops::Range<usize>| {
        let mut given = Vec::new();
        in_bundles(&mut clients, numbers, join, |number, client| {
            let response: JoinGroupResponse = decode(&client.expect_answer(), JOINED.1);
            assert_eq!(response.error_code, 79);
            given.push((number, response.member_id.to_string()));
        });
        given
    };
    // Threads and buffers.
    ask(ids..ids + 1_000);
    let (before, began) = (target.resident(), target.now());
    let first = ask(0..kept);
    let full = target.resident().saturating_sub(before);
    let last = ask(kept..ids);
    let growth = target.resident().saturating_sub(before);
    println!(
        "C31: {ids} group ids in {:?}, {kept} kept at {} B each, memory grew by {} KiB in the end",
        target.now() - began,
        full / kept as u64,
        growth >> 10
    );
    // The oldest are forgotten, the newest are not.
    let come_back = |(number, id): &(usize, String)| {
        let group = group(*number);
        let join = Join {
            member_id: id,
            ..Join::of(&group)
        };
        let response: JoinGroupResponse = decode(&target.ask(&join.framed()), JOINED.1);
        response.error_code
    };
    assert_eq!(come_back(&first[0]), 25);
    assert_eq!(come_back(last.last().expect("ids")), 0);
    let allowed = kept as u64 * 256 + SLACK;
    assert!(full <= allowed, "memory grew by {full}");
    // All of them kept would be three times as much, or ten times.
    assert!(growth <= allowed, "memory grew by {growth}");
    target.check_health();
}

/// C31: the same of groups that had a member once.
#[test]
fn groups_that_nobody_uses_any_more_are_bounded() {
    let _alone = alone();
    let (ids, kept) = flood();
    let max = kept.to_string();
    let properties = [("groups.max", max.as_str())];
    let mut target = start_with("hostile-idle-groups", "0", &properties);
    let mut clients: Vec<Client> = (0..20).map(|_| target.connect()).collect();
    let come_and_go = |number: usize| {
        let group = format!("made-up-group-{number}");
        let join = Join {
            instance_id: Some("i"),
            ..Join::of(&group)
        };
        let leave = Caller {
            group: &group,
            generation: 1,
            member_id: "",
            instance_id: Some("i"),
        };
        [join.framed(), leave.leave()].concat()
    };
    let mut ask = |numbers: std::ops::Range<usize>| {
        in_bundles(&mut clients, numbers, come_and_go, |_, client| {
            let response: JoinGroupResponse = decode(&client.expect_answer(), JOINED.1);
            assert_eq!(response.error_code, 0);
            let response: LeaveGroupResponse = decode(&client.expect_answer(), LEFT.1);
            assert_eq!(response.members[0].error_code, 0);
        });
    };
    ask(ids..ids + 1_000);
    let (before, began) = (target.resident(), target.now());
    ask(0..kept);
    let full = target.resident().saturating_sub(before);
    ask(kept..ids);
    let growth = target.resident().saturating_sub(before);
    println!(
        "C31: {ids} groups come and gone in {:?}, {kept} kept at {} B each, memory grew by {} KiB in the end",
        target.now() - began,
        full / kept as u64,
        growth >> 10
    );
    // With what the log and the view keep of their records, in the engine's buffers.
    assert!(full <= kept as u64 * 1_200 + SLACK, "memory grew by {full}");
    let listed: ListGroupsResponse = decode(&target.ask(&header(16, 2).framed()), 2);
    assert!(listed.groups.len() <= kept + 50, "{}", listed.groups.len());
    target.check_health();
}

/// Members that wait for others: one in each way there is to wait. Their requests bring bytes that nobody reads.
fn parked(target: &Target, joins: usize, syncs: usize) -> Vec<Client> {
    let join = |group: &str, trailing: usize| {
        Join {
            version: 3,
            trailing,
            ..Join::of(group)
        }
        .framed()
    };
    let mut clients: Vec<Client> = (0..joins + syncs).map(|_| target.connect()).collect();
    // A group whose first member does not rejoin, so that the others wait for it.
    let mut first = target.connect();
    first.send(&join("joining", 0));
    first.expect_answer();
    let (joining, syncing) = clients.split_at_mut(joins);
    for client in joining {
        client.send(&join("joining", 256 << 10));
    }
    // A group whose leader does not assign.
    for client in syncing.iter_mut() {
        client.send(&join("syncing", 0));
    }
    for client in syncing {
        let response: JoinGroupResponse = decode(&client.expect_answer(), 3);
        if response.leader == response.member_id {
            continue;
        }
        let caller = Caller {
            group: "syncing",
            generation: response.generation_id,
            member_id: &response.member_id,
            instance_id: None,
        };
        client.send(&caller.sync_with(&[], 256 << 10));
    }
    clients.push(first);
    clients
}

/// How many members a group has, and its state.
fn members_of(target: &Target, group: &str) -> (usize, String) {
    let request = header(DESCRIBE_GROUPS, 0).i32(1).string(group).framed();
    let mut response: DescribeGroupsResponse = decode(&target.ask(&request), 0);
    let group = response.groups.remove(0);
    (group.members.len(), group.group_state.to_string())
}

#[test]
fn members_that_wait_take_no_room_from_others() {
    const EACH: usize = 200;
    let _alone = alone();
    let properties = [("queued.max.request.bytes", "1048576")];
    let mut target = start("hostile-room", &properties);
    let before = target.resident();
    let clients = parked(&target, EACH, EACH);
    target.wait_until("all joins are parked", |target| {
        members_of(target, "joining") == (EACH + 1, "PreparingRebalance".to_owned())
    });
    let state = members_of(&target, "syncing");
    assert_eq!(state, (EACH, "CompletingRebalance".to_owned()));
    // All the room there is, and nobody would get any.
    let value = vec![b'x'; 900 << 10];
    let record = Record::good(0).with(|record| record.value = value.clone());
    let batch = Batch::of(1, record.framed(), target.now_ms()).build();
    let began = target.now();
    let answer = target.ask(&Produce::of(TOPIC, &batch).framed());
    println!(
        "{} members wait, a produce of 900 KiB took {:?}, memory grew by {} KiB",
        2 * EACH,
        target.now() - began,
        target.resident().saturating_sub(before) >> 10
    );
    assert_eq!(wire::codes(PRODUCE, 7, &answer), [0]);
    assert!(target.now() - began <= Duration::from_secs(1));
    // Their 256 KiB are not kept: that would be 100 MiB.
    let growth = target.resident().saturating_sub(before);
    assert!(growth <= 64 << 20, "memory grew by {growth}");
    drop(clients);
    target.wait_until("waiting members end with their connections", |target| {
        target.connections() <= 2
    });
    target.check_health();
}

#[test]
fn a_stop_does_not_wait_for_members_that_wait_for_each_other() {
    const EACH: usize = 100;
    let _alone = alone();
    let mut target = start("hostile-stop", &[]);
    let mut clients = parked(&target, EACH, EACH);
    target.wait_until("all joins are parked", |target| {
        members_of(target, "joining") == (EACH + 1, "PreparingRebalance".to_owned())
    });
    let began = target.now();
    let status = target.broker.sigterm();
    let took = target.now() - began;
    println!("{} members wait, the stop took {took:?}", 2 * EACH);
    assert!(status.success(), "{status}");
    assert!(took <= TERM_DEADLINE, "{took:?}");
    // Whoever hears anything hears that somebody else is to be asked.
    let (joining, syncing) = clients.split_at_mut(EACH);
    let mut heard = [0, 0];
    for client in joining {
        if let Answer::Frame(frame) = client.answer(PATIENCE) {
            let response: JoinGroupResponse = decode(&frame, 3);
            assert!([15, 16].contains(&response.error_code), "{response:?}");
            heard[0] += 1;
        }
    }
    for client in &mut syncing[..EACH] {
        if let Answer::Frame(frame) = client.answer(PATIENCE) {
            let response: SyncGroupResponse = decode(&frame, SYNCED.1);
            assert!([15, 16].contains(&response.error_code), "{response:?}");
            heard[1] += 1;
        }
    }
    println!("answered: {} joins, {} syncs", heard[0], heard[1]);
}

/// An answer about offsets is no larger than they are, however often a request names them.
#[test]
fn an_offset_that_is_asked_for_again_and_again_does_not_fill_the_memory() {
    const TIMES: i32 = 60_000;
    let _alone = alone();
    let mut target = start("hostile-notes", &[]);
    let note = "n".repeat(4_096);
    let outside = Caller {
        group: "noted",
        generation: -1,
        member_id: "",
        instance_id: None,
    };
    let answer = target.ask(&outside.commit(TOPIC, &note));
    assert_eq!(wire::codes(OFFSET_COMMIT, 7, &answer), [0]);
    let memory = target.watch_memory();
    let asked = header(OFFSET_FETCH, 5).string("noted").i32(1).string(TOPIC);
    let asked = (0..TIMES).fold(asked.i32(TIMES), |wire, _| wire.i32(0));
    let began = target.now();
    let response: OffsetFetchResponse = decode(&target.ask(&asked.framed()), 5);
    assert_eq!(response.error_code, 42);

    // As often by the group's name, which may be asked for all it has.
    let asked = wire::flexible_header(OFFSET_FETCH, 8).unsigned(30_001);
    let asked = (0..30_000).fold(asked, |wire, _| {
        wire.compact("noted").unsigned(0).unsigned(0)
    });
    let response: OffsetFetchResponse = decode(&target.ask(&asked.i8(0).unsigned(0).framed()), 8);
    let groups = response.groups.iter();
    let told = groups.filter(|group| group.error_code == 0).count();
    let growth = memory.growth(&target);
    println!(
        "{TIMES} times a partition and 30,000 times a group in {:?}: told {told} times, memory grew by {} MiB",
        target.now() - began,
        growth >> 20
    );
    assert!((16_000..=16_384).contains(&told), "{told}");
    assert_eq!(response.groups[29_999].error_code, 14);
    assert!(growth <= 256 << 20, "memory grew by {growth}");
    target.check_health();
}
