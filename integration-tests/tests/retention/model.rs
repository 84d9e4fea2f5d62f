//! Record by record, while a producer writes: what is there is what a model says.

use std::time::Duration;

use bytes::Bytes;
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, TempDir, seed};

use super::{Client, EARLIEST, LATEST, NONE, record};

const CHECK_INTERVAL_MS: i64 = 1_000;
/// For a loaded machine.
const SLACK_MS: i64 = 5_000;
const RUN: Duration = Duration::from_secs(25);

struct Sent {
    timestamp: i64,
    batch: Bytes,
}

struct Topic {
    name: &'static str,
    retention_ms: i64,
    retention_bytes: u64,
    sent: Vec<Sent>,
    /// The log start that was seen last.
    start: i64,
}

#[test]
fn under_load_nothing_young_goes_nothing_old_stays_and_the_rest_is_as_it_was_sent() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TempDir::new("retention-model");
    let interval = CHECK_INTERVAL_MS.to_string();
    let mut broker = Broker::start(
        folder.path(),
        &[("log.retention.check.interval.ms", interval.as_str())],
    );
    let mut client = Client::of(&broker);
    let topic = |name, retention_ms, retention_bytes| Topic {
        name,
        retention_ms,
        retention_bytes,
        sent: Vec::new(),
        start: 0,
    };
    let mut topics = [
        topic("young", 2_000, u64::MAX),
        topic("old", 6_000, u64::MAX),
        topic("small", i64::MAX, 3_000_000),
        topic("both", 8_000, 5_000_000),
    ];
    for topic in &topics {
        let retention_ms = match topic.retention_ms {
            i64::MAX => -1,
            limit => limit,
        };
        let retention_bytes = i64::try_from(topic.retention_bytes).unwrap_or(-1);
        let configs = [
            ("retention.ms", retention_ms.to_string()),
            ("retention.bytes", retention_bytes.to_string()),
        ];
        client.create(
            topic.name,
            &configs
                .each_ref()
                .map(|(name, value)| (*name, value.as_str())),
        );
    }
    let began = client.env.monotonic();
    let mut restarted = false;
    while client.env.monotonic() - began < RUN {
        for topic in &mut topics {
            for _ in 0..random.usize(0..8) {
                topic.produce(&mut client, &mut random);
            }
            topic.check(&mut client, &mut random);
        }
        if !restarted && client.env.monotonic() - began > RUN / 2 {
            broker.kill9();
            broker.restart();
            // The clock goes on.
            client.wire = Wire::connect(&broker);
            restarted = true;
        }
    }
    for topic in &mut topics {
        topic.check_all(&mut client);
        println!(
            "{}: {} of {} deleted",
            topic.name,
            topic.start,
            topic.sent.len()
        );
        assert!(topic.start > 0);
    }
}

impl Topic {
    fn produce(&mut self, client: &mut Client, random: &mut fastrand::Rng) {
        // Most in order, some late by as much as they are kept, none ahead of the clock.
        let late = if random.u8(0..4) == 0 {
            random.i64(0..2_000)
        } else {
            0
        };
        let timestamp = client.env.now_ms() - late;
        let batch = record(timestamp, self.sent.len() as u64, random.usize(0..100_000));
        let offset = client.produce(self.name, batch.clone());
        assert_eq!(offset, self.sent.len() as i64);
        self.sent.push(Sent { timestamp, batch });
    }

    /// The first record that may not have gone at `now`, by age and by size, were the clock of both the same.
    fn first_kept(&self, now: i64) -> i64 {
        let mut left: u64 = self.sent[self.start as usize..]
            .iter()
            .map(|sent| sent.batch.len() as u64)
            .sum();
        let mut first = self.start as usize;
        while let Some(sent) = self.sent.get(first) {
            let bytes = sent.batch.len() as u64;
            if left < self.retention_bytes.saturating_add(bytes) {
                break;
            }
            left -= bytes;
            first += 1;
        }
        while self
            .sent
            .get(first)
            .is_some_and(|sent| now.saturating_sub(sent.timestamp) > self.retention_ms)
        {
            first += 1;
        }
        first as i64
    }

    fn check(&mut self, client: &mut Client, random: &mut fastrand::Rng) {
        let asked = client.env.now_ms();
        let start = client.offset(self.name, EARLIEST);
        let answered = client.env.now_ms();
        assert!(
            start >= self.start,
            "{}: the log start goes back",
            self.name
        );
        let most = self.first_kept(answered);
        assert!(start <= most, "{}: {start} is beyond {most}", self.name);
        if self.retention_bytes == u64::MAX {
            let least = self.first_kept(asked - CHECK_INTERVAL_MS - SLACK_MS);
            assert!(start >= least, "{}: {start} is behind {least}", self.name);
        }
        self.start = start;
        if start < self.sent.len() as i64 {
            let offset = random.i64(start..self.sent.len() as i64);
            let (error, batches) = client.fetch(self.name, offset, 0);
            if error == NONE {
                self.compare(offset, &batches);
            } else {
                // It went between the two requests.
                assert!(
                    client.offset(self.name, EARLIEST) > offset,
                    "{error} at {offset}"
                );
            }
        }
    }

    fn compare(&self, from: i64, batches: &[(i64, Bytes)]) {
        assert!(!batches.is_empty());
        for (expected, (offset, batch)) in (from..).zip(batches) {
            assert_eq!(*offset, expected, "{}", self.name);
            // All but base offset and leader epoch, which the broker stamps.
            assert_eq!(batch[16..], self.sent[expected as usize].batch[16..]);
        }
    }

    /// Every single one of what is left.
    fn check_all(&mut self, client: &mut Client) {
        assert_eq!(client.offset(self.name, LATEST), self.sent.len() as i64);
        loop {
            let start = client.offset(self.name, EARLIEST);
            let mut next = start;
            while next < self.sent.len() as i64 {
                let (error, batches) = client.fetch(self.name, next, 0);
                if error != NONE {
                    break;
                }
                self.compare(next, &batches);
                next += batches.len() as i64;
            }
            self.start = start;
            if next == self.sent.len() as i64 {
                return;
            }
            assert!(
                client.offset(self.name, EARLIEST) > start,
                "it went meanwhile"
            );
        }
    }
}
