//! Thousands of random lives of a group: clients that join, sync, beat, commit, leave, crash and come back, a shard
//! that crashes with or without its last records, and a clock. What must hold is checked after every step.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::tests::{GROUP, join};
use super::*;

/// More than members, those included whose clients gave them up: everybody is due something.
const PARTITIONS: u8 = 40;
const SEEDS: u64 = 2_000;
const STEPS: usize = 250;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Wants to join.
    Out,
    Joining(ReplyId),
    Syncing(ReplyId),
    /// Has its assignment.
    In,
}

#[derive(Debug, Clone)]
enum Asked {
    Join,
    Sync,
    Beat,
    Leave,
    Commit(Vec<(u8, i64)>),
    /// A commit of the generation before.
    Stale,
}

struct Client {
    name: String,
    instance: Option<String>,
    alive: bool,
    /// Answers to an earlier life are not heard.
    life: u32,
    member_id: String,
    generation: i32,
    phase: Phase,
    owned: Vec<u8>,
    /// What it subscribes to; a change forces a rebalance.
    flavour: u8,
    session_timeout_ms: i32,
    rebalance_timeout_ms: i32,
    knows_member_id_required: bool,
    knows_skip: bool,
}

type Hard = BTreeMap<Arc<str>, (Option<Arc<GroupMetadataValue>>, Offsets)>;

/// Records on their way to the disk, and the replies that wait for them.
type Undurable = (Vec<GroupRecord>, Vec<(ReplyId, Reply)>);

struct Simulation {
    rng: fastrand::Rng,
    now: Millis,
    config: GroupConfig,
    machine: GroupMachine,
    timers: BTreeMap<Timer, Millis>,
    /// Records that are durable.
    log: Vec<GroupRecord>,
    /// Outcomes whose records are not durable yet.
    tail: Vec<Undurable>,
    waiting: BTreeMap<ReplyId, (usize, u32, Asked)>,
    answers: Vec<(ReplyId, Reply)>,
    clients: Vec<Client>,
    next_id: u64,
    next_offset: i64,
    /// Who got a partition in a generation: an instance, or a member id.
    owners: BTreeMap<(i32, u8), String>,
    /// The highest acknowledged commit.
    acknowledged: BTreeMap<u8, i64>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let config = GroupConfig {
            initial_rebalance_delay_ms: rng.i32(0..4_000),
            ..GroupConfig::default()
        };
        let clients = (0..rng.usize(2..6)).map(|at| Client {
            name: format!("c{at}"),
            instance: rng.bool().then(|| format!("i{at}")),
            alive: true,
            life: 0,
            member_id: String::new(),
            generation: -1,
            phase: Phase::Out,
            owned: Vec::new(),
            flavour: 0,
            session_timeout_ms: rng.i32(6_000..40_000),
            rebalance_timeout_ms: rng.i32(1_000..60_000),
            knows_member_id_required: rng.bool(),
            knows_skip: rng.bool(),
        });
        let clients = clients.collect();
        let mut simulation = Self {
            rng,
            now: 1_000_000,
            machine: GroupMachine::new(config.clone()),
            config,
            timers: BTreeMap::new(),
            log: Vec::new(),
            tail: Vec::new(),
            waiting: BTreeMap::new(),
            answers: Vec::new(),
            clients,
            next_id: 0,
            next_offset: 0,
            owners: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
        };
        simulation.load();
        simulation
    }

    /// Starts the shard with what is durable.
    fn load(&mut self) {
        self.machine = GroupMachine::new(self.config.clone());
        for record in &self.log {
            self.machine.replay(record);
        }
        self.timers.clear();
        let outcome = self.machine.start(self.now);
        self.perform(outcome);
    }

    fn crash_shard(&mut self) {
        self.tail.clear();
        self.waiting.clear();
        for client in &mut self.clients {
            // The connection is gone, the member is not.
            if client.phase != Phase::In {
                client.phase = Phase::Out;
            }
        }
        self.load();
    }

    fn perform(&mut self, outcome: Outcome<GroupMachine>) {
        for record in &outcome.records {
            self.machine.replay(record);
        }
        self.tail.push((outcome.records, outcome.replies));
        for change in outcome.timers {
            match change {
                TimerChange::Arm { timer, at } => self.timers.insert(timer, at),
                TimerChange::Cancel(timer) => self.timers.remove(&timer),
            };
        }
    }

    /// All records become durable, and the replies go out.
    fn flush(&mut self) {
        for (records, replies) in std::mem::take(&mut self.tail) {
            for record in records {
                if matches!(&record, GroupRecord::GroupMetadata { value: None, .. }) {
                    self.owners.clear();
                }
                self.log.push(record);
            }
            for (id, reply) in replies {
                let asked = self.waiting.remove(&id);
                let (client, life, asked) =
                    asked.unwrap_or_else(|| panic!("{id:?} answered twice"));
                self.answers.push((id, reply.clone()));
                if self.clients[client].life == life {
                    self.hear(client, id, &asked, reply);
                }
            }
        }
    }

    fn send(&mut self, client: usize, asked: Asked, command: Command) -> ReplyId {
        self.next_id += 1;
        let id = ReplyId(self.next_id);
        let life = self.clients[client].life;
        self.waiting.insert(id, (client, life, asked));
        let outcome = self.machine.handle(self.now, id, command);
        self.perform(outcome);
        id
    }

    fn caller(&self, client: usize) -> Caller {
        let client = &self.clients[client];
        Caller {
            group: GROUP.to_owned(),
            member_id: client.member_id.clone(),
            group_instance_id: client.instance.clone(),
            generation: client.generation,
        }
    }

    fn send_join(&mut self, at: usize) {
        let client = &self.clients[at];
        let fresh = format!("{}-{}", client.name, self.next_id);
        let request = JoinGroup {
            group_instance_id: client.instance.clone(),
            protocols: vec![("range".to_owned(), Bytes::from(vec![client.flavour]))],
            session_timeout_ms: client.session_timeout_ms,
            rebalance_timeout_ms: client.rebalance_timeout_ms,
            require_known_member_id: client.knows_member_id_required,
            supports_skip_assignment: client.knows_skip,
            ..join(&client.member_id, &fresh)
        };
        let id = self.send(at, Asked::Join, Command::JoinGroup(request));
        self.clients[at].phase = Phase::Joining(id);
    }

    fn send_sync(&mut self, at: usize, joined: &Joined) {
        let mut assignments: Vec<(String, Vec<u8>)> = Vec::new();
        let leads = joined.leader == joined.member_id && !joined.skip_assignment;
        if leads {
            let ids = joined.members.iter().map(|member| member.member_id.clone());
            assignments = ids.map(|id| (id, Vec::new())).collect();
            let count = assignments.len();
            for partition in 0..PARTITIONS {
                assignments[usize::from(partition) % count]
                    .1
                    .push(partition);
            }
        }
        let assignments = assignments.into_iter();
        let request = SyncGroup {
            caller: self.caller(at),
            protocol_type: Some("consumer".to_owned()),
            protocol_name: Some("range".to_owned()),
            assignments: assignments.map(|(id, bytes)| (id, bytes.into())).collect(),
        };
        let id = self.send(at, Asked::Sync, Command::SyncGroup(request));
        self.clients[at].phase = Phase::Syncing(id);
    }

    fn send_commit(&mut self, at: usize, caller: Caller, is_stale: bool) {
        let owned = self.clients[at].owned.clone();
        let mut offsets = Vec::new();
        for partition in owned {
            self.next_offset += 1;
            offsets.push((partition, self.next_offset));
        }
        let partitions = offsets.iter().map(|(partition, offset)| CommitPartition {
            partition: (*partition).into(),
            offset: *offset,
            leader_epoch: 3,
            metadata: None,
        });
        let request = OffsetCommit {
            caller,
            retention_ms: None,
            topics: vec![CommitTopic {
                name: "t".to_owned(),
                partitions: partitions.collect(),
                ..CommitTopic::default()
            }],
        };
        let asked = if is_stale {
            Asked::Stale
        } else {
            Asked::Commit(offsets)
        };
        self.send(at, asked, Command::OffsetCommit(request));
    }

    fn hear(&mut self, at: usize, id: ReplyId, asked: &Asked, reply: Reply) {
        let client = &mut self.clients[at];
        match (asked, reply) {
            (Asked::Join, _) if client.phase != Phase::Joining(id) => {}
            (Asked::Sync, _) if client.phase != Phase::Syncing(id) => {}
            (Asked::Join, Reply::Joined(joined)) => {
                client.member_id = joined.member_id.clone();
                client.generation = joined.generation;
                self.send_sync(at, &joined);
            }
            (Asked::Sync, Reply::Synced { assignment, .. }) => {
                assert!(!assignment.is_empty(), "{} got nothing", client.name);
                client.owned = assignment.to_vec();
                client.phase = Phase::In;
                let owner = client
                    .instance
                    .as_ref()
                    .unwrap_or(&client.member_id)
                    .clone();
                for partition in assignment {
                    let key = (client.generation, partition);
                    let first = self.owners.entry(key).or_insert_with(|| owner.clone());
                    assert_eq!(*first, owner, "{key:?} is owned twice");
                }
            }
            (Asked::Join, Reply::JoinFailed { member_id, error }) => {
                client.phase = Phase::Out;
                match error {
                    GroupError::MemberIdRequired => client.member_id = member_id,
                    other => client.lose(&other),
                }
            }
            (Asked::Beat | Asked::Commit(_) | Asked::Sync, Reply::Failed(error)) => {
                client.lose(&error);
            }
            (Asked::Commit(offsets), Reply::Committed(results)) => {
                assert!(
                    results[0]
                        .partitions
                        .iter()
                        .all(|(_, result)| result.is_ok())
                );
                for (partition, offset) in offsets {
                    let acknowledged = self.acknowledged.entry(*partition).or_default();
                    *acknowledged = (*acknowledged).max(*offset);
                }
            }
            (Asked::Stale, Reply::Failed(_)) => {}
            (Asked::Beat, Reply::Done) | (Asked::Leave, Reply::Left(_)) => {}
            (asked, reply) => panic!("{asked:?} was answered {reply:?}"),
        }
    }

    fn advance(&mut self, by: Millis) {
        let until = self.now + by;
        loop {
            let due = self.timers.iter().filter(|(_, at)| **at <= until);
            let first = due.min_by_key(|(timer, at)| (**at, (*timer).clone()));
            let Some((timer, at)) = first.map(|(timer, at)| (timer.clone(), *at)) else {
                break;
            };
            self.timers.remove(&timer);
            self.now = self.now.max(at);
            let outcome = self.machine.expire(self.now, timer);
            self.perform(outcome);
        }
        self.now = until;
    }

    /// What a client that is well does next.
    fn go_on(&mut self, at: usize) {
        match self.clients[at].phase {
            Phase::Out => self.send_join(at),
            Phase::In => {
                let caller = self.caller(at);
                self.send(at, Asked::Beat, Command::Heartbeat { caller });
            }
            Phase::Joining(_) | Phase::Syncing(_) => {}
        }
    }

    fn step(&mut self) {
        let at = self.rng.usize(..self.clients.len());
        let client = &mut self.clients[at];
        if !client.alive {
            client.alive = self.rng.u8(..4) == 0;
            return;
        }
        match self.rng.u8(..100) {
            0..40 => self.go_on(at),
            40..48 if client.phase == Phase::In => {
                let caller = self.caller(at);
                self.send_commit(at, caller, false);
            }
            50..53 if !client.member_id.is_empty() => {
                let command = Command::LeaveGroup {
                    group: GROUP.to_owned(),
                    members: vec![LeavingMember {
                        member_id: client.member_id.clone(),
                        group_instance_id: client.instance.clone(),
                    }],
                };
                client.forget();
                self.send(at, Asked::Leave, command);
            }
            48..50 if client.phase == Phase::In => {
                let mut caller = self.caller(at);
                caller.generation -= 1;
                self.send_commit(at, caller, true);
            }
            53..56 => client.crash(),
            56..60 => {
                // It asks again, with or without other metadata; maybe its old request is still parked.
                client.flavour = client.flavour.wrapping_add(self.rng.u8(..2));
                client.owned.clear();
                self.send_join(at);
            }
            60..85 => self.flush(),
            85..87 => self.crash_shard(),
            87 => self.advance(70_000),
            88 => self.advance(15_000),
            _ => {
                let by = self.rng.i64(0..3_000);
                self.advance(by);
            }
        }
    }

    fn check(&self) {
        let fetched = self.machine.groups.get(GROUP);
        let fetched = fetched
            .map(|group| group.offsets.fetch(None))
            .unwrap_or_default();
        let offset = |partition: u8| {
            let all = fetched.iter().flat_map(|topic| &topic.partitions);
            let mut all = all.filter(|(id, _)| *id == i32::from(partition));
            all.find_map(|(_, value)| value.as_ref().map(|value| value.offset))
        };
        for (partition, acknowledged) in &self.acknowledged {
            assert!(
                offset(*partition) >= Some(*acknowledged),
                "an offset went back"
            );
        }
        for group in self.machine.groups.values() {
            let Some(live) = group.live() else { continue };
            if live.state == GroupState::PreparingRebalance {
                assert!(self.timers.contains_key(&live.join_timer()), "{live:?}");
            }
            if !live.pending_sync.is_empty() {
                assert!(self.timers.contains_key(&live.sync_timer()), "{live:?}");
            }
            if !live.members.given.is_empty() {
                let timer = Timer::Given {
                    group: live.id.clone(),
                };
                assert!(self.timers.contains_key(&timer), "{live:?}");
            }
            let idle = live.members.iter().filter(|(_, member)| {
                member.is_new || (!member.is_joining() && member.sync.is_none())
            });
            for (id, _) in idle {
                let timer = live.session_timer(id);
                assert!(self.timers.contains_key(&timer), "{id} in {live:?}");
            }
            let joining = live
                .members
                .iter()
                .filter(|(_, member)| member.is_joining());
            assert_eq!(joining.count(), live.members.joining());
        }
    }

    fn hard(machine: &GroupMachine) -> Hard {
        let groups = machine.groups.iter();
        let hard =
            groups.map(|(id, group)| (id.clone(), (group.metadata.clone(), group.offsets.clone())));
        // A group with soft state only is not part of it.
        hard.filter(|(_, (metadata, offsets))| metadata.is_some() || !offsets.is_empty())
            .collect()
    }

    fn check_replay(&self) {
        let mut replayed = GroupMachine::new(self.config.clone());
        let tail = self.tail.iter().flat_map(|(records, _)| records);
        for record in self.log.iter().chain(tail) {
            let (key, value) = record.encode();
            let read = GroupRecord::decode(Some(&key), value.as_deref()).unwrap();
            assert_eq!(read, *record);
            replayed.replay(&read);
        }
        assert_eq!(Self::hard(&replayed), Self::hard(&self.machine));
    }

    /// No more faults: everybody ends in one generation and everything is owned.
    fn settle(&mut self) {
        for client in &mut self.clients {
            client.alive = true;
        }
        for _ in 0..150 {
            for at in 0..self.clients.len() {
                self.go_on(at);
                self.flush();
            }
            self.advance(2_000);
            self.flush();
            self.check();
        }
        let generation = self.clients[0].generation;
        let mut owned: Vec<u8> = Vec::new();
        for client in &self.clients {
            assert_eq!((client.phase, client.generation), (Phase::In, generation));
            owned.extend(&client.owned);
        }
        owned.sort_unstable();
        assert!(owned.into_iter().eq(0..PARTITIONS));
        assert!(self.waiting.is_empty(), "not answered: {:?}", self.waiting);
        assert_eq!(self.machine.groups[GROUP].state(), GroupState::Stable);
    }
}

impl Client {
    /// What a refusal means to a client.
    fn lose(&mut self, error: &GroupError) {
        match error {
            GroupError::RebalanceInProgress => {}
            GroupError::UnknownMemberId => self.member_id.clear(),
            GroupError::IllegalGeneration => self.generation = -1,
            // Its instance lives on elsewhere; here that is its own next life.
            GroupError::FencedInstanceId => return self.forget(),
            other => panic!("{} was refused: {other}", self.name),
        }
        self.owned.clear();
        if matches!(self.phase, Phase::In | Phase::Syncing(_)) {
            self.phase = Phase::Out;
        }
    }

    fn forget(&mut self) {
        self.life += 1;
        self.member_id.clear();
        self.generation = -1;
        self.phase = Phase::Out;
        self.owned.clear();
    }

    fn crash(&mut self) {
        self.forget();
        self.alive = false;
    }
}

fn run(seed: u64) -> Simulation {
    let mut simulation = Simulation::new(seed);
    for step in 0..STEPS {
        simulation.step();
        simulation.check();
        if step % 50 == 0 {
            simulation.check_replay();
        }
    }
    simulation.settle();
    simulation.check_replay();
    simulation
}

#[test]
fn groups_keep_their_promises_in_any_life() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..SEEDS {
        let Ok(simulation) = std::panic::catch_unwind(|| run(seed)) else {
            panic!("seed {seed}");
        };
        for (_, reply) in simulation.answers {
            let kind = match reply {
                Reply::Failed(error) | Reply::JoinFailed { error, .. } => format!("{error:?}"),
                Reply::Joined(joined) if joined.skip_assignment => "Skip".to_owned(),
                Reply::Synced { .. } => "Synced".to_owned(),
                Reply::Committed(_) => "Committed".to_owned(),
                _ => continue,
            };
            *seen.entry(kind).or_default() += 1;
        }
    }
    // What never happens is not tested.
    for kind in [
        "Synced",
        "Committed",
        "Skip",
        "MemberIdRequired",
        "UnknownMemberId",
        "IllegalGeneration",
        "RebalanceInProgress",
        "FencedInstanceId",
    ] {
        let count = seen.get(kind).copied().unwrap_or(0);
        assert!(count > 100, "{kind}: {count} of {seen:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_answers() {
    for seed in 0..50 {
        let (one, two) = (run(seed), run(seed));
        assert_eq!(one.answers, two.answers, "seed {seed}");
        assert_eq!(one.log, two.log, "seed {seed}");
    }
}
