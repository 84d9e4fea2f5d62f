//! End-to-end latency: from the time a record is due to be sent until a waiting consumer has received it.
//!
//! Records are due at a steady pace, whatever the broker does: a record that had to wait because the broker was slow
//! counts from the time it was due. One connection produces single records with a few requests in flight, another one
//! fetches and waits.

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
    let mut frames = Vec::new();
    for partition in 0..target.partitions {
        let batch = Shape::single(pace.value_bytes).batch(&mut random, env.now_ms());
        frames.push(ProduceFrame::new(&target.topic, partition, batch)?);
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
    let sent = send(&env, pipe, frames, pace, begin, count);
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

fn send(
    env: &Env,
    mut pipe: Pipe,
    mut frames: Vec<ProduceFrame>,
    pace: &Pace,
    begin: Duration,
    count: usize,
) -> io::Result<()> {
    let mut flying: VecDeque<(usize, i32)> = VecDeque::new();
    let mut sent = 0;
    let partitions = frames.len();
    while sent < count || !flying.is_empty() {
        let now = env.monotonic();
        let due = begin + pace.due(sent);
        let may_send = sent < count && flying.len() < pace.in_flight;
        if may_send && now >= due {
            let frame = &mut frames[sent % partitions];
            sent += 1;
            let correlation_id = i32::try_from(sent).unwrap_or(i32::MAX);
            frame.number(correlation_id);
            write_all(&mut pipe, frame.bytes())?;
            flying.push_back((sent - 1, correlation_id));
            continue;
        }
        let timeout = if may_send { due - now } else { DEADLINE };
        if !pipe.wait(false, timeout)? {
            if !may_send {
                return Err(failed(format!("no answer within {DEADLINE:?}")));
            }
            continue;
        }
        pipe.read_some()?;
        while let Some(answer) = pipe.next_frame() {
            let (record, correlation_id) = flying
                .pop_front()
                .ok_or_else(|| failed("an answer that nothing was asked for"))?;
            let (partition, offset) = base_offset(answer, correlation_id)?;
            let place = (partition as usize, offset as usize);
            if place != (record % partitions, record / partitions) {
                return Err(failed(format!("record {record} was put at {place:?}")));
            }
        }
    }
    Ok(())
}

/// A record is small: the socket nearly always takes it at once.
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
