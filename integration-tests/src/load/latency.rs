//! End-to-end latency: from the time a record is due to be sent until a waiting consumer has received it.
//!
//! Records are due at a steady pace, whatever the broker does: a record that had to wait because the broker was slow
//! counts from the time it was due. One connection produces with a few requests in flight, another one fetches and
//! waits. As a producer without linger does, each request takes what is due of one partition: a single record while
//! the broker keeps up, more of them when requests come back late.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use ottla::env::Env;

use super::batches::{ProduceFrame, Shape};
use super::consume::Fetcher;
use super::pipe::Pipe;
use super::produce::base_offset;
use super::{Quantiles, Target, failed};

/// Records that stay away longer than this after the last one was due are an error.
const DEADLINE: Duration = Duration::from_secs(60);

/// Records in one batch at the most: about the `batch.size` of the Java producer, 16 KiB, for values of 1 KiB.
const MOST_RECORDS: usize = 15;

/// How records are sent.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Records per second.
    pub per_second: u32,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// How long records are sent that are not counted.
    pub warm_up: Duration,
    /// How long after that.
    pub length: Duration,
    /// Where the random bytes come from.
    pub seed: u64,
}

impl Pace {
    /// The pace beside other work.
    pub fn beside(length: Duration, seed: u64) -> Self {
        Self {
            per_second: 1_000,
            value_bytes: 1 << 10,
            in_flight: 5,
            warm_up: Duration::from_secs(1),
            length,
            seed,
        }
    }

    fn records(&self, length: Duration) -> usize {
        (length.as_secs_f64() * f64::from(self.per_second)).round() as usize
    }

    fn due(&self, record: usize) -> Duration {
        Duration::from_secs_f64(record as f64 / f64::from(self.per_second))
    }
}

/// Runs it over an empty topic, the partitions in turn.
pub fn end_to_end(env: Env, target: &Target, pace: &Pace) -> io::Result<Quantiles> {
    let warm = pace.records(pace.warm_up);
    let count = warm + pace.records(pace.length);
    let partitions = usize::try_from(target.partitions).map_err(|_| failed("no partitions"))?;
    let mut random = fastrand::Rng::with_seed(pace.seed);
    let shape = Shape::single(pace.value_bytes);
    let mut lanes = Vec::new();
    for partition in 0..target.partitions {
        let mut frames = Vec::new();
        for records in 1..=MOST_RECORDS {
            let batch = shape.batch_of(records, &mut random, env.now_ms());
            frames.push(ProduceFrame::new(&target.topic, partition, batch)?);
        }
        lanes.push(Lane { frames, next: 0 });
    }
    let mut fetcher = Fetcher::of_all(target)?;
    let pipe = Pipe::connect(&target.address)?;

    // Both sides are connected; the first record is due soon.
    let begin = env.monotonic() + Duration::from_millis(20);
    let last = begin + pace.due(count) + DEADLINE;
    let consumer = std::thread::spawn(move || -> io::Result<Vec<Duration>> {
        let mut arrived = vec![Duration::MAX; count];
        let mut left = count;
        while left > 0 {
            if env.monotonic() > last {
                return Err(failed(format!("{left} of {count} records did not arrive")));
            }
            let mut batches = Vec::new();
            fetcher.fetch(|partition, header, _| {
                batches.push((partition, header.base_offset, header.next_offset()));
            })?;
            let now = env.monotonic();
            for (partition, base, next) in batches {
                for offset in base..next {
                    let record = offset as usize * partitions + partition as usize;
                    let slot = arrived
                        .get_mut(record)
                        .ok_or_else(|| failed("a record that was not sent"))?;
                    *slot = now;
                    left -= 1;
                }
            }
        }
        Ok(arrived)
    });
    let sent = send(&env, pipe, lanes, pace, begin, count);
    let arrived = consumer
        .join()
        .map_err(|_| failed("a load thread panicked"))?;
    sent?;
    let mut latency = Quantiles::default();
    for (record, arrived) in arrived?.into_iter().enumerate().skip(warm) {
        latency.add(arrived.saturating_sub(begin + pace.due(record)));
    }
    Ok(latency)
}

/// What goes to one partition.
struct Lane {
    /// Requests with one record, with two, and so on.
    frames: Vec<ProduceFrame>,
    /// The offset that is sent next.
    next: usize,
}

/// Record `r` goes to partition `r % partitions`, and has offset `r / partitions` there.
fn send(
    env: &Env,
    mut pipe: Pipe,
    mut lanes: Vec<Lane>,
    pace: &Pace,
    begin: Duration,
    count: usize,
) -> io::Result<()> {
    // Partition, offset and correlation id of each request without an answer.
    let mut flying: VecDeque<(usize, usize, i32)> = VecDeque::new();
    let mut requests = 0;
    let partitions = lanes.len();
    let first_unsent = |lanes: &[Lane]| {
        let firsts = lanes.iter().enumerate();
        let firsts = firsts.map(|(partition, lane)| lane.next * partitions + partition);
        firsts.min().unwrap_or(count)
    };
    loop {
        let record = first_unsent(&lanes);
        if record >= count && flying.is_empty() {
            return Ok(());
        }
        let now = env.monotonic();
        let due = |record: usize| begin + pace.due(record);
        let may_send = record < count && flying.len() < pace.in_flight;
        if may_send && now >= due(record) {
            let partition = record % partitions;
            let records = (0..MOST_RECORDS)
                .map(|more| record + more * partitions)
                .take_while(|record| *record < count && now >= due(*record))
                .count();
            let lane = &mut lanes[partition];
            requests += 1;
            let frame = &mut lane.frames[records - 1];
            frame.prepare(requests, env.now_ms());
            write_all(&mut pipe, frame.bytes())?;
            flying.push_back((partition, lane.next, requests));
            lane.next += records;
            continue;
        }
        let timeout = if may_send {
            due(record) - now
        } else {
            DEADLINE
        };
        if !pipe.wait(false, timeout)? {
            if !may_send {
                return Err(failed(format!("no answer within {DEADLINE:?}")));
            }
            continue;
        }
        pipe.read_some()?;
        while let Some(answer) = pipe.next_frame() {
            let (partition, offset, correlation_id) = flying
                .pop_front()
                .ok_or_else(|| failed("an answer that nothing was asked for"))?;
            let answered = base_offset(answer, correlation_id)?;
            if answered != (partition as i32, offset as i64) {
                return Err(failed(format!(
                    "partition {partition}, offset {offset} was put at {answered:?}"
                )));
            }
        }
    }
}

/// A request is small: the socket nearly always takes it at once.
fn write_all(pipe: &mut Pipe, bytes: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        at += pipe.write_some(&bytes[at..])?;
        if at < bytes.len() {
            pipe.wait(true, DEADLINE)?;
        }
    }
    Ok(())
}
