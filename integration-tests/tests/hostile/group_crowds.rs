//! Rows C30, C31 and B5, and what many members of one group cost.

use std::time::Duration;

use ottla_protocol::codec::messages::{
    JoinGroupResponse, LeaveGroupResponse, ListGroupsResponse, SyncGroupResponse,
};

use crate::crowds::allow_files;
use crate::groups::{Caller, JOINED, Join, SYNCED, find_coordinator};
use crate::target::{Client, Target};
use crate::wire::{decode, header};
use crate::{TOPIC, alone};

const MANY_CONNECTIONS: [(&str, &str); 2] = [
    ("max.connections.per.ip", "2000"),
    ("max.connection.creation.rate", "100000"),
];
/// How long the first members of a group wait for others in these tests.
const INITIAL_DELAY: Duration = Duration::from_millis(500);
/// Wanted of every rebalance beyond the initial delay.
const SETTLED: Duration = Duration::from_secs(5);
/// Wanted: no more memory than this for 1,000 members, whatever they do.
const CROWD_BYTES: u64 = 200 << 20;

fn start(name: &str, properties: &[(&str, &str)]) -> Target {
    let delay = INITIAL_DELAY.as_millis().to_string();
    let mut all = vec![("group.initial.rebalance.delay.ms", delay.as_str())];
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

    fn leave_all(&mut self) {
        for (client, id) in self.clients.iter_mut().zip(&self.ids) {
            let leave = header(13, 1).string(self.group).string(id).framed();
            client.send(&leave);
        }
        for client in &mut self.clients {
            let response: LeaveGroupResponse = decode(&client.expect_answer(), 1);
            assert_eq!(response.error_code, 0);
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
