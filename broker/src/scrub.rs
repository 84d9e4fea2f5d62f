//! Reads the whole store from time to time, so that damage is found before somebody needs what it hit. One thread of
//! its own, started by `start.rs` and stopped by `running.rs`; it changes nothing.
//!
//! It yields to everybody: a thread of the lowest priority that reads a piece at a time, and while the broker has
//! something to do rests nine times as long as a piece took. What is damaged is an error line with topic, partition
//! and offset, and a gauge to alarm on; `/readyz` stays as it is, because everything else is served.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ottla_storage::engine::Engine;
use ottla_storage::error::EngineError;
use ottla_storage::log::{Log, Partition};
use ottla_storage::verify::{self, Place, Problem};

use crate::env::Env;
use crate::partitions::Partitions;

/// Bytes read at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// A start is followed by the first pass after this long, or after the interval if that is shorter.
const FIRST_AFTER: Duration = Duration::from_secs(3_600);

/// While the broker works, a piece is followed by a rest of this many times as long.
const REST: u32 = 9;

/// The broker counts as busy when this share of its workers' time was used, in hundredths.
const BUSY_PERCENT: u128 = 5;

/// Error lines of one pass; what is beyond is counted only.
const LINES: u64 = 100;

/// What the scrub looks at.
pub struct Parts {
    /// The store.
    pub engine: Arc<dyn Engine>,
    /// All partition logs.
    pub log: Log,
    /// Their topics' names.
    pub partitions: Arc<Partitions>,
    /// Time.
    pub env: Env,
    /// From the end of a pass to the next one.
    pub interval: Duration,
    /// How long the workers that serve requests were busy so far, all together, and how many there are.
    pub busy: Box<dyn Fn() -> (Duration, usize) + Send>,
}

/// What the scrub found, for `/metrics`.
#[derive(Debug, Default)]
pub struct Counts {
    bytes: AtomicU64,
    damaged: AtomicU64,
    last_pass: AtomicU64,
    state: Mutex<bool>,
    stopped: Condvar,
}

impl Counts {
    /// Values by the names that `metrics/families.rs` knows them by.
    pub fn properties(&self) -> [(&'static str, u64); 3] {
        [
            ("scrubbed_bytes", self.bytes.load(Ordering::Relaxed)),
            ("scrub_damages", self.damaged.load(Ordering::Relaxed)),
            ("scrub_last_pass", self.last_pass.load(Ordering::Relaxed)),
        ]
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        *self.lock()
    }

    /// Waits; false when it is time to stop.
    fn rest(&self, time: Duration) -> bool {
        let waited = self
            .stopped
            .wait_timeout_while(self.lock(), time, |stopping| !*stopping);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The thread, and the way to stop it.
#[derive(Debug)]
pub struct Scrub {
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

impl Scrub {
    /// Starts the thread; without an interval there is none.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(parts: Parts) -> std::io::Result<Self> {
        let counts = Arc::new(Counts::default());
        if parts.interval.is_zero() {
            return Ok(Self {
                counts,
                thread: None,
            });
        }
        let shared = counts.clone();
        let thread = std::thread::Builder::new()
            .name("ottla-scrub".to_owned())
            .spawn(move || run(&parts, &shared))?;
        Ok(Self {
            counts,
            thread: Some(thread),
        })
    }

    /// What it counts.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Ends it after the piece that it reads now, and waits for that. Also when dropped.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        *self.counts.lock() = true;
        self.counts.stopped.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the scrub panicked");
        }
    }
}

impl Drop for Scrub {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(parts: &Parts, counts: &Counts) {
    // Of this thread only, as Linux has it.
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), 19) {
        tracing::debug!(%error, "the scrub has no lower priority");
    }
    let mut next = parts.interval.min(FIRST_AFTER);
    while counts.rest(next) {
        let mut pass = Pass {
            parts,
            counts,
            found: 0,
            bytes: 0,
        };
        match pass.run() {
            Ok(true) => {
                let (bytes, damaged) = (pass.bytes, pass.found);
                let now = u64::try_from(parts.env.now_ms() / 1_000).unwrap_or(0);
                counts.last_pass.store(now, Ordering::Relaxed);
                counts.damaged.store(damaged, Ordering::Relaxed);
                tracing::debug!(bytes, damaged, "the store was read");
            }
            Ok(false) => return,
            Err(error) => tracing::warn!(%error, "the store cannot be read to its end"),
        }
        next = parts.interval;
    }
}

/// One pass over all partitions.
struct Pass<'a> {
    parts: &'a Parts,
    counts: &'a Counts,
    found: u64,
    bytes: u64,
}

impl Pass<'_> {
    /// Reads everything; false when it is time to stop.
    fn run(&mut self) -> Result<bool, EngineError> {
        let mut partitions = self.parts.log.partitions();
        partitions.sort_by_key(|partition| partition.handle());
        for partition in &partitions {
            if !self.partition(partition)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn partition(&mut self, partition: &Partition) -> Result<bool, EngineError> {
        let engine = self.parts.engine.clone();
        let handle = partition.handle();
        let counts = self.counts;
        let stopping = || counts.is_stopping();
        verify::derived(engine.as_ref(), handle, &stopping, &mut |problem| {
            self.report(partition, &problem);
        })?;
        if stopping() {
            return Ok(false);
        }
        let mut next = Some(Place::default());
        while let Some(place) = next {
            let began = self.parts.env.monotonic();
            let (busy_before, _) = (self.parts.busy)();
            let walked = verify::batches(
                engine.as_ref(),
                handle,
                place,
                PIECE_BYTES,
                &mut |problem| {
                    self.report(partition, &problem);
                },
            )?;
            self.bytes += walked.bytes;
            self.counts.bytes.fetch_add(walked.bytes, Ordering::Relaxed);
            // What is written meanwhile is another log.
            next = walked.next.map(|place| Place {
                floor: place.from,
                ..place
            });
            let took = self.parts.env.monotonic().saturating_sub(began);
            let (busy_after, workers) = (self.parts.busy)();
            let busy = busy_after.saturating_sub(busy_before);
            let time = if is_busy(busy, took, workers) {
                took * REST
            } else {
                Duration::ZERO
            };
            if !self.counts.rest(time) || self.counts.is_stopping() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn report(&mut self, partition: &Partition, problem: &Problem) {
        self.found += 1;
        // Told as soon as it is known; a pass without it takes it back.
        self.counts.damaged.fetch_max(self.found, Ordering::Relaxed);
        if self.found > LINES {
            return;
        }
        let name = Name(&self.parts.partitions, partition);
        tracing::error!(partition = %name, %problem, "stored data is damaged");
    }
}

fn is_busy(busy: Duration, time: Duration, workers: usize) -> bool {
    let all = time.as_nanos() * workers.max(1) as u128;
    busy.as_nanos() * 100 > all * BUSY_PERCENT
}

/// `topic-partition`, as Kafka writes it; the topic's id where it has no name here.
struct Name<'a>(&'a Partitions, &'a Partition);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.1.id();
        match self.0.by_id(&id.topic_id) {
            Some(topic) => write!(f, "{}-{}", topic.name, id.partition),
            None => write!(f, "{}-{}", id.topic_id, id.partition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_works_is_busy_and_one_that_waits_is_not() {
        let ms = Duration::from_millis;
        assert!(!is_busy(ms(0), ms(10), 3));
        assert!(!is_busy(ms(1), ms(10), 3), "a thirtieth");
        assert!(is_busy(ms(2), ms(10), 3));
        assert!(!is_busy(ms(0), ms(0), 0));
    }
}
