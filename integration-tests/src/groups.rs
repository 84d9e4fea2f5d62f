//! One story told with every client that joins groups: two members share the partitions, one leaves, one crashes, the
//! broker is killed twice, and what was committed is where a new run of the group goes on.
//!
//! Called by `clients_*.rs`. Panics, with what the members said, on the first difference. The members themselves, and
//! what a client program has to do, are in `member.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::broker::free_port;
use crate::clients::wordnet_lines;
use crate::group_checks::{check_log, check_own_records, check_ownership};
use crate::member::{Commit, Event, GroupClient, Member, Place, Sent, What, reads};
use crate::{Broker, TempDir, unique};

/// Partitions of every topic here.
pub(crate) const PARTITIONS: i32 = 4;
/// Records of one round; enough that every partition gets some.
const RECORDS: usize = 60;
/// What the members of all clients are started with, in microseconds.
const SESSION_TIMEOUT: i64 = 6_000_000;
/// Timers count from the last heartbeat's arrival at the broker, the members' stamps are made elsewhere.
const SLACK: i64 = 500_000;
/// Records that the member commits whose place the next run has to find.
const COMMITTED: usize = 25;

/// A broker for stories about groups: four partitions, no delay before a new group's first generation, and a port that
/// clients which stay connected cannot take from it while it is down.
pub fn broker(folder: &TempDir) -> Broker {
    let listener = format!("PLAINTEXT://127.0.0.1:{}", free_port());
    let properties = [
        ("listeners", listener.as_str()),
        ("num.partitions", "4"),
        ("group.initial.rebalance.delay.ms", "0"),
    ];
    let mut broker = Broker::small(folder.path(), &properties);
    broker.allow_log("unclean");
    broker
}

/// Tells the story.
pub fn members_share_leave_crash_and_resume(name: &str, client: &dyn GroupClient) {
    let folder = TempDir::new(name);
    let mut story = Story::new(name, client, broker(&folder));
    story.two_share_and_one_leaves();
    story.one_crashes();
    story.a_member_carries_on_over_a_restart();
    story.a_new_run_resumes_at_the_committed_offset();
    story.check();
}

struct Story<'a> {
    client: &'a dyn GroupClient,
    broker: Broker,
    topic: String,
    group: String,
    lines: Vec<String>,
    sent: Vec<Sent>,
    /// Which record lies where, by index in `sent`.
    log: BTreeMap<Place, usize>,
    members: Vec<Member<'a>>,
    /// What was read without a commit by a member that is gone: read once more by another one.
    again: BTreeSet<Place>,
    /// What was read around a restart of the broker: a member whose session ended meanwhile reads it once more.
    maybe_again: BTreeSet<Place>,
}

impl<'a> Story<'a> {
    fn new(name: &str, client: &'a dyn GroupClient, broker: Broker) -> Story<'a> {
        Story {
            client,
            broker,
            topic: unique(name),
            group: unique("group"),
            lines: wordnet_lines(),
            sent: Vec::new(),
            log: BTreeMap::new(),
            members: Vec::new(),
            again: BTreeSet::new(),
            maybe_again: BTreeSet::new(),
        }
    }

    /// Starts a member and returns its number.
    fn join(&mut self, name: &'static str, commit: Commit) -> usize {
        let names = (self.topic.as_str(), self.group.as_str());
        let member = Member::join(name, self.client, &self.broker, names, commit);
        self.members.push(member);
        self.members.len() - 1
    }

    /// Sends one round of records and returns their places as far as they are known.
    fn produce(&mut self) -> BTreeSet<Place> {
        let round = self.sent.len() / RECORDS;
        let chosen = self.lines.iter().step_by(97).skip(round * RECORDS);
        let chosen: Vec<&str> = chosen.take(RECORDS).map(String::as_str).collect();
        let records = self.client.records(round, &chosen);
        let places = self
            .client
            .produce(&self.broker, &self.topic, round, &records);
        assert_eq!(places.len(), records.len(), "one answer for each record");
        for (index, place) in places.iter().enumerate() {
            assert!(
                place.is_some() || round == 0,
                "round {round} needs to know its places"
            );
            if let Some(place) = place {
                let before = self.log.insert(*place, self.sent.len() + index);
                assert_eq!(before, None, "two records at {place:?}");
            }
        }
        self.sent.extend(records);
        places.into_iter().flatten().collect()
    }

    /// Waits until two members own half of the partitions each, and these have all read and committed `places`.
    fn share(&self, members: [usize; 2]) -> [BTreeSet<i32>; 2] {
        let half = PARTITIONS as usize / 2;
        let shares = members.map(|member| self.members[member].wait_owned(half));
        assert!(shares[0].is_disjoint(&shares[1]), "owned twice: {shares:?}");
        shares
    }

    fn read_by(&self, members: [usize; 2], shares: &[BTreeSet<i32>; 2], places: &BTreeSet<Place>) {
        for (member, share) in members.iter().zip(shares) {
            let own = places.iter().filter(|place| share.contains(&place.0));
            self.members[*member].wait_read(&own.copied().collect());
        }
    }

    fn two_share_and_one_leaves(&mut self) {
        let known = self.produce();
        let a = self.join("A", Commit::Each);
        self.members[a].wait_owned(PARTITIONS as usize);
        self.members[a].wait_read(&known);
        self.members[a].wait("at the end of the first round", |events| {
            (reads(events).count() >= RECORDS).then_some(())
        });

        let b = self.join("B", Commit::Each);
        let shares = self.share([a, b]);
        let places = self.produce();
        self.read_by([a, b], &shares, &places);

        self.members[b].leave();
        self.members[a].wait_owned(PARTITIONS as usize);
        let gone = |event: &Event| matches!(event.what, What::Leaving | What::Left);
        let told = self.members[b].events().into_iter().find(gone);
        if let (Some(left), Some(taken)) = (
            told.and_then(|event| event.at),
            last_assigned(&self.members[a]),
        ) {
            let took = taken - left;
            assert!(
                took < SESSION_TIMEOUT - SLACK,
                "A waited {took} µs for B, which had said goodbye"
            );
        }
        let places = self.produce();
        self.members[a].wait_read(&places);
    }

    fn one_crashes(&mut self) {
        let a = 0;
        let c = self.join("C", Commit::None);
        let shares = self.share([a, c]);
        let places = self.produce();
        self.read_by([a, c], &shares, &places);
        self.members[c].crash();
        let again = self.members[c].uncommitted();
        self.members[a].wait_owned(PARTITIONS as usize);
        let given = last_assigned(&self.members[c]);
        if let (Some(given), Some(taken)) = (given, last_assigned(&self.members[a])) {
            let took = taken - given;
            assert!(
                took > SESSION_TIMEOUT - SLACK,
                "A took over {took} µs after C was given its share: C's session was not over"
            );
        }
        self.members[a].wait_read(&again);
        if !self.client.tells_commits() {
            // The broker is killed next, and A's silent commit of these may not have arrived by then.
            self.maybe_again.extend(&again);
        }
        self.again.extend(again);
    }

    fn a_member_carries_on_over_a_restart(&mut self) {
        self.broker.kill9();
        self.broker.restart();
        let places = self.produce();
        self.members[0].wait_read(&places);
        self.members[0].leave();
        self.maybe_again.extend(places);
    }

    fn a_new_run_resumes_at_the_committed_offset(&mut self) {
        let places = self.produce();
        let d = self.join("D", Commit::First(COMMITTED));
        let wanted = if self.client.ends_after_first() {
            COMMITTED
        } else {
            places.len()
        };
        self.members[d].wait("at the end of its round", |events| {
            (reads(events).count() == wanted).then_some(())
        });
        if self.client.tells_commits() {
            let starts = starts(&places);
            self.members[d].wait("done with its commits", |events| {
                let committed = events.iter().filter_map(|event| match event.what {
                    What::Committed(place) => Some(place),
                    _ => None,
                });
                let newest: BTreeMap<i32, i64> = committed.collect();
                let count: i64 = newest.iter().map(|(each, next)| next - starts[each]).sum();
                (count == COMMITTED as i64).then_some(())
            });
        }
        if self.client.ends_after_first() {
            self.members[d].wait_end();
        } else {
            self.members[d].leave();
        }
        let committed = self.members[d].committed();
        self.again.extend(self.members[d].uncommitted());

        self.broker.kill9();
        self.broker.restart();
        let e = self.join("E", Commit::Each);
        let open = |(partition, offset): &&Place| {
            committed.get(partition).is_none_or(|next| offset >= next)
        };
        let rest: BTreeSet<Place> = places.iter().filter(open).copied().collect();
        assert_eq!(rest.len(), RECORDS - COMMITTED, "what is left to E");
        self.members[e].wait_read(&rest);
        self.members[e].leave();
        let read: Vec<Place> = reads(&self.members[e].events()).collect();
        assert_eq!(
            read.iter().copied().collect::<BTreeSet<_>>(),
            rest,
            "E reads from the committed offsets on, and nothing else"
        );
        assert_eq!(read.len(), rest.len(), "E reads nothing twice");
    }

    /// What holds for the whole story.
    fn check(&mut self) {
        for member in &self.members {
            println!("{} told {}\n", member.name, member.told());
        }
        let all: Vec<(&str, Vec<Event>)> = self
            .members
            .iter()
            .map(|member| (member.name, member.events()))
            .collect();
        let mut times: BTreeMap<Place, usize> = BTreeMap::new();
        let index: BTreeMap<&str, usize> = self
            .sent
            .iter()
            .enumerate()
            .map(|(index, sent)| (sent.value.as_str(), index))
            .collect();
        for (name, events) in &all {
            check_own_records(name, events);
            for event in events {
                let What::Record { place, key, value } = &event.what else {
                    continue;
                };
                let sent = *index.get(value.as_str()).unwrap_or_else(|| {
                    panic!("{name} read at {place:?} what was never sent: {value}")
                });
                assert_eq!(
                    key.as_deref(),
                    Some(self.sent[sent].key.as_str()),
                    "{place:?}"
                );
                let known = *self.log.entry(*place).or_insert(sent);
                assert_eq!(known, sent, "{name} read another record at {place:?}");
                *times.entry(*place).or_default() += 1;
            }
        }
        check_log(&self.log, self.sent.len());
        for place in self.log.keys() {
            let wanted = if self.again.contains(place) { 2 } else { 1 };
            let read = times.get(place).copied().unwrap_or(0);
            let fine = read == wanted || read > wanted && self.maybe_again.contains(place);
            assert!(fine, "{place:?} was read {read} times, not {wanted}");
        }
        check_ownership(&all);
    }
}

/// When a member was last given partitions.
fn last_assigned(member: &Member) -> Option<i64> {
    let events = member.events();
    let given = |event: &&Event| matches!(&event.what, What::Assigned(given) if !given.is_empty());
    events.iter().rev().find(given)?.at
}

/// The first offset of each partition.
fn starts(places: &BTreeSet<Place>) -> BTreeMap<i32, i64> {
    let mut starts = BTreeMap::new();
    for &(partition, offset) in places {
        starts.entry(partition).or_insert(offset);
    }
    starts
}
