//! What other work of the broker does to producing: the same steady load measured quietly, beside a consumer that
//! catches up from the disk, and beside retention and compaction of two topics.
//!
//! Saturated, two cores would show only how they are shared; so records come at 1,000 a second, fsynced, and count from
//! the time they were due until a waiting consumer has them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ottla::env::Env;

use super::broker::{Flush, Launch, Product, Server};
use super::cases::{PARTITIONS, PRODUCING, Producing, Stage, line};
use super::disk::forget_cached;
use crate::load::admin::{create_topic_with, ready_topic, size_of_topics, wait_for_leaders};
use crate::load::consume::{Span, consume};
use crate::load::latency::{Pace, end_to_end};
use crate::load::produce::Running;
use crate::load::{Quantiles, Target, failed};

/// What there is to catch up with, and what retention and compaction have to do.
const BACKLOG_BYTES: u64 = 1_000_000_000;
/// Keys in the compacted topic: about one record in fifty survives.
const KEYS: u32 = 20_000;
/// A backlog takes no longer to be produced.
const FILLING: Duration = Duration::from_secs(300);
/// Cleaning is seen for so long at least.
const CLEANING: Duration = Duration::from_secs(20);
/// Soon enough to be seen; Kafka would begin after minutes. It leaves the newest segment of a partition alone.
const OFTEN: [&str; 2] = [
    "log.retention.check.interval.ms=10000",
    "log.cleaner.backoff.ms=1000",
];
const SEGMENT_BYTES: (&str, &str) = ("segment.bytes", "16777216");

/// One pass over the backlog, again and again while records are sent.
const PASS: Duration = Duration::from_secs(1);

impl Stage<'_> {
    /// All three, in one broker after the other work of which nothing is left.
    pub fn beside(&mut self, product: Product) -> io::Result<()> {
        let launch = Launch {
            properties: &OFTEN,
            ..Launch::new(product, Flush::Fsynced)
        };
        let server = Server::start(self.kit, launch)?;
        let backlog = self.ready(&server, PARTITIONS)?;
        fill(self.kit.env, &backlog, 0, self.seed())?;
        let length = self.settings.length;
        self.report(product, "quiet", &mut self.paced(&server, "quiet", length)?);

        forget_cached(&server.data())?;
        let done = AtomicBool::new(false);
        let mut catching_up = std::thread::scope(|scope| {
            let reader = scope.spawn(|| -> io::Result<()> {
                while !done.load(Ordering::SeqCst) {
                    consume(self.kit.env, &backlog, 1, Span::All, PASS)?;
                }
                Ok(())
            });
            let latency = self.paced(&server, "catching-up", length);
            done.store(true, Ordering::SeqCst);
            reader
                .join()
                .map_err(|_| failed("a load thread panicked"))??;
            latency
        })?;
        self.report(product, "catching up", &mut catching_up);

        let topics = fill_to_be_cleaned(self.kit.env, &backlog, self.seed())?;
        let filled = topics.len() as u64 * BACKLOG_BYTES;
        let mut cleaning = self.paced(&server, "cleaning", length.max(CLEANING))?;
        let left = size_of_topics(&server.address(), &topics)?;
        self.report(product, "cleaning", &mut cleaning);
        if left > filled / 2 {
            return Err(failed(format!(
                "{}: {left} of {filled} bytes were not cleaned away",
                product.name()
            )));
        }
        Ok(())
    }

    fn paced(&self, server: &Server<'_>, topic: &str, length: Duration) -> io::Result<Quantiles> {
        let target = self.target(server, topic, PARTITIONS);
        ready_topic(&self.kit.env, &target)?;
        end_to_end(self.kit.env, &target, &Pace::beside(length, self.seed()))
    }

    fn report(&mut self, product: Product, beside: &str, latency: &mut Quantiles) {
        let names = ["p50 ms", "p99 ms", "p99.9 ms"];
        let values = [0.5, 0.99, 0.999].map(|share| latency.ms(share));
        let rows: Vec<(&str, f64)> = names.into_iter().zip(values).collect();
        let case = format!("beside {beside}");
        self.add(&case, product, Flush::Fsynced, &rows);
        self.say(&case, product, Some(Flush::Fsynced), &line(&rows));
    }
}

/// Produces a gigabyte, as fast as the broker takes it.
pub fn fill(env: Env, target: &Target, keys: u32, seed: u64) -> io::Result<()> {
    let producing: &Producing = &PRODUCING[1];
    let mut load = producing.load(seed);
    load.shape.keys = keys;
    let mut filling = Running::start(env, target, &load)?;
    filling.measure(FILLING, BACKLOG_BYTES)?;
    filling.drain()?;
    Ok(())
}

/// Produces what retention and compaction will find to clean away, at the broker of `beside`; tells the topics' names.
pub fn fill_to_be_cleaned(env: Env, beside: &Target, seed: u64) -> io::Result<[&'static str; 2]> {
    let topics = ["expiring", "compacted"];
    let configs = [
        ("retention.bytes", "1000000"),
        ("cleanup.policy", "compact"),
    ];
    for ((topic, config), keys) in topics.into_iter().zip(configs).zip([0, KEYS]) {
        let target = Target {
            topic: topic.to_owned(),
            ..beside.clone()
        };
        create_topic_with(&target, &[config, SEGMENT_BYTES])?;
        wait_for_leaders(&env, &target)?;
        fill(env, &target, keys, seed)?;
    }
    Ok(topics)
}
