//! A member of a consumer group as a process, and what it tells.
//!
//! The programs of `compat/*` print one JSON line per event when they are run as `member BOOTSTRAP TOPIC GROUP COMMIT`:
//! `{"event", "at"}`, where `at` is the wall clock in microseconds, and with it
//!
//! ```text
//! assigned   "partitions": the ones added          record     "partition", "offset", "key", "value"
//! revoked    "partitions": the ones taken away     committed  "partition", "offset": the next to be read
//! leaving    SIGTERM came                          left       the group was left; the program ends with status 0
//! ```
//!
//! A member reads from the earliest record where nothing is committed, has a session timeout of 6 s, sends heartbeats
//! every 500 ms, and commits synchronously: after every record or batch (`each`), never (`none`), or up to exactly the
//! first so many records it reads. `json_client.rs` reads these lines; other clients are
//! translated to the same events by their [`GroupClient`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustix::process::Signal;

use crate::process::{Process, Run};
use crate::{Broker, clients};

/// For one step of a story: far above the session timeout and what clients wait between two attempts.
const PATIENCE: Duration = Duration::from_secs(40);

/// Where a record lies: partition and offset.
pub type Place = (i32, i64);

/// One record that a story sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its key.
    pub key: String,
    /// Its value; no two records of a story have the same.
    pub value: String,
}

/// What a member commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Everything it reads, soon.
    Each,
    /// Nothing.
    None,
    /// Exactly the first so many records; after that it may read on, or end by itself.
    First(usize),
}

/// One thing a member told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Microseconds since 1970, where the client tells.
    pub at: Option<i64>,
    /// What happened.
    pub what: What,
}

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Partitions were added.
    Assigned(BTreeSet<i32>),
    /// Partitions were taken away.
    Revoked(BTreeSet<i32>),
    /// A record was read.
    Record {
        /// Where it lies.
        place: Place,
        /// Its key.
        key: Option<String>,
        /// Its value.
        value: String,
    },
    /// A commit was answered: partition and next offset.
    Committed(Place),
    /// The member was asked to leave.
    Leaving,
    /// The member has left.
    Left,
}

/// A client that can produce and be a member of a group.
pub trait GroupClient {
    /// The records of a round; `lines` are ever new lines of WordNet.
    fn records(&self, _round: usize, lines: &[&str]) -> Vec<Sent> {
        lines.iter().map(|line| sent(line)).collect()
    }

    /// Sends all records and returns where each lies. Only in round 0 a place may be unknown.
    fn produce(
        &self,
        broker: &Broker,
        topic: &str,
        round: usize,
        records: &[Sent],
    ) -> Vec<Option<Place>>;

    /// A member that reads until SIGTERM, and then leaves its group and ends with status 0.
    fn member(&self, broker: &Broker, topic: &str, group: &str, commit: Commit) -> Run;

    /// What one line of a member's standard output tells.
    fn events(&self, line: &str) -> Vec<Event>;

    /// False when commits are made silently, at the latest when partitions are taken away and at a clean end.
    fn tells_commits(&self) -> bool {
        true
    }

    /// True when a member with [`Commit::First`] reads no further and ends by itself.
    fn ends_after_first(&self) -> bool {
        false
    }

    /// The status of a member that SIGTERM ended cleanly.
    fn status_after_sigterm(&self) -> i32 {
        0
    }
}

fn sent(line: &str) -> Sent {
    Sent {
        key: clients::wordnet_key(line).to_owned(),
        value: line.to_owned(),
    }
}

/// A running or ended member.
pub struct Member<'a> {
    /// For messages: A, B and so on.
    pub name: &'static str,
    /// What it was told to commit.
    pub commit: Commit,
    client: &'a dyn GroupClient,
    process: Process,
}

impl<'a> Member<'a> {
    /// Starts one.
    pub fn join(
        name: &'static str,
        client: &'a dyn GroupClient,
        broker: &Broker,
        (topic, group): (&str, &str),
        commit: Commit,
    ) -> Member<'a> {
        let process = client.member(broker, topic, group, commit).start();
        Member {
            name,
            commit,
            client,
            process,
        }
    }

    /// Everything it told so far.
    pub fn events(&self) -> Vec<Event> {
        let lines = self.process.stdout.all();
        let events = lines.iter().flat_map(|line| self.client.events(line));
        events.collect()
    }

    /// Waits until `found` makes something of its events; `what` is for the message when it does not.
    pub fn wait<T>(&self, what: &str, mut found: impl FnMut(&[Event]) -> Option<T>) -> T {
        let mut events = Vec::new();
        let mut seen = 0;
        let result = self.process.stdout.wait_for(PATIENCE, |lines| {
            let new = lines[seen..].iter();
            events.extend(new.flat_map(|line| self.client.events(line)));
            seen = lines.len();
            found(&events)
        });
        result.unwrap_or_else(|| panic!("{}: not {what}\n{}", self.name, self.told()))
    }

    /// Waits for another line of it, but only a moment.
    pub fn wait_a_moment(&self) {
        let seen = self.process.stdout.all().len();
        let another = |lines: &[String]| (lines.len() > seen).then_some(());
        // Whether it came is for the caller to see.
        let _ = self
            .process
            .stdout
            .wait_for(Duration::from_millis(100), another);
    }

    /// Waits until it owns so many partitions.
    pub fn wait_owned(&self, count: usize) -> BTreeSet<i32> {
        self.wait(&format!("given {count} partitions"), |events| {
            owned(events).filter(|owned| owned.len() == count)
        })
    }

    /// Waits until it has read all of these, and committed what it is to commit of them.
    pub fn wait_read(&self, wanted: &BTreeSet<Place>) {
        self.wait(
            &format!("at the end of {} records", wanted.len()),
            |events| {
                let read: BTreeSet<Place> = reads(events).collect();
                let committed = committed(events);
                let is_committed = |place: &Place| committed.get(&place.0) > Some(&place.1);
                let silent = self.commit != Commit::Each || !self.client.tells_commits();
                let done = wanted.is_subset(&read) && (silent || wanted.iter().all(is_committed));
                done.then_some(())
            },
        );
    }

    /// What it has committed: partition and next offset. For silent clients all it read, as they end cleanly.
    pub fn committed(&self) -> BTreeMap<i32, i64> {
        let events = self.events();
        if self.client.tells_commits() || self.commit == Commit::None {
            return committed(&events);
        }
        let mut next = BTreeMap::new();
        for (partition, offset) in reads(&events) {
            next.insert(partition, offset + 1);
        }
        next
    }

    /// What it read and did not commit.
    pub fn uncommitted(&self) -> BTreeSet<Place> {
        let committed = self.committed();
        reads(&self.events())
            .filter(|(partition, offset)| {
                committed.get(partition).is_none_or(|next| offset >= next)
            })
            .collect()
    }

    /// Asks it to leave and waits for its end, which must be a clean one.
    pub fn leave(&self) {
        self.process.signal(Signal::TERM);
        self.wait_status(self.client.status_after_sigterm());
    }

    /// Waits until it ends by itself, which must be a clean end.
    pub fn wait_end(&self) {
        self.wait_status(0);
    }

    fn wait_status(&self, clean: i32) {
        let status = self.process.wait(PATIENCE);
        assert!(
            status.and_then(|status| status.code()) == Some(clean),
            "{}: ended with {status:?}\n{}",
            self.name,
            self.told()
        );
        assert!(self.process.stdout.wait_for_end(PATIENCE));
    }

    /// Kills it, so that it cannot say goodbye.
    pub fn crash(&self) {
        self.process.signal(Signal::KILL);
        assert!(
            self.process.wait(PATIENCE).is_some(),
            "a killed process ends"
        );
        assert!(self.process.stdout.wait_for_end(PATIENCE));
    }

    /// Its output for messages, without the records.
    pub fn told(&self) -> String {
        let lines = self.process.stdout.all();
        let is_record = |line: &&String| {
            let events = self.client.events(line);
            let record = |event: &Event| matches!(event.what, What::Record { .. });
            !events.is_empty() && events.iter().all(record)
        };
        let rest: Vec<String> = lines
            .iter()
            .filter(|line| !is_record(line))
            .cloned()
            .collect();
        let records = lines.len() - rest.len();
        let errors = self.process.stderr.all().join("\n");
        format!(
            "{records} lines of records and:\n{}\nstderr:\n{errors}",
            rest.join("\n")
        )
    }
}

/// What a member owns after these events; `None` before it was given anything at all.
pub fn owned(events: &[Event]) -> Option<BTreeSet<i32>> {
    let mut owned = None;
    for event in events {
        let before = owned.get_or_insert_with(BTreeSet::new);
        match &event.what {
            What::Assigned(partitions) => before.extend(partitions),
            What::Revoked(partitions) => before.retain(|each| !partitions.contains(each)),
            _ => (),
        }
    }
    owned
}

/// The places of all records read, in the order of reading.
pub fn reads(events: &[Event]) -> impl Iterator<Item = Place> {
    events.iter().filter_map(|event| match event.what {
        What::Record { place, .. } => Some(place),
        _ => None,
    })
}

/// The newest commit of each partition. Panics when one goes back.
fn committed(events: &[Event]) -> BTreeMap<i32, i64> {
    let mut newest = BTreeMap::new();
    for event in events {
        if let What::Committed((partition, offset)) = event.what {
            let before = newest.insert(partition, offset);
            assert!(
                before <= Some(offset),
                "commit of partition {partition} went from {before:?} back to {offset}"
            );
        }
    }
    newest
}
