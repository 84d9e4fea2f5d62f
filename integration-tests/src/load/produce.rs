//! Producing as fast as the broker acknowledges, with a fixed number of requests in flight on each connection.
//!
//! A run is warmed up, measured, and ends in one of two ways: drained, or with connections that are expected to break
//! because the broker is killed under load. Requests carry one batch each and visit the partitions in turn.
//! Each acknowledgement is remembered as [`Acknowledged`], warm-up included. An error answer ends the run with an error.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{ProduceResponse, ResponseHeader};
use kafka_protocol::protocol::{Decodable, HeaderVersion};
use ottla::env::Env;

use super::batches::{PRODUCE_VERSION, ProduceFrame, Shape};
use super::pipe::Pipe;
use super::read_back::Acknowledged;
use super::{Quantiles, Target, failed};

/// No answer takes longer, on however loaded a machine.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// How soon a worker with nothing to do sees that the run goes on to its next phase.
const NOTICE: Duration = Duration::from_millis(50);

/// How to produce.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections, one thread each.
    pub connections: usize,
    /// Requests in flight on each.
    pub in_flight: usize,
    /// The batches.
    pub shape: Shape,
    /// Different batches per connection and partition.
    pub distinct: usize,
    /// Where their random bytes come from.
    pub seed: u64,
}

/// What the measured part of a run did.
#[derive(Clone, Debug, Default)]
pub struct Produced {
    /// Its length.
    pub seconds: f64,
    /// Requests acknowledged in it.
    pub requests: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// From the first byte of each of those requests to its answer.
    pub latency: Quantiles,
    /// Everything acknowledged in the whole run.
    pub acknowledged: Acknowledged,
}

const WARM: u8 = 0;
const MEASURE: u8 = 1;
const DRAIN: u8 = 2;
const BREAK: u8 = 3;

#[derive(Default)]
struct Shared {
    phase: AtomicU8,
    /// Bytes acknowledged while measuring.
    bytes: AtomicU64,
    ended: Mutex<bool>,
    a_worker_ended: Condvar,
}

impl Shared {
    /// Waits for the end of any worker; true when there was one.
    fn wait_for_end(&self, timeout: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .a_worker_ended
            .wait_timeout_while(ended, timeout, |ended| !*ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

struct Part {
    requests: u64,
    bytes: u64,
    latency: Quantiles,
    acknowledged: Acknowledged,
}

/// A run that goes on.
pub struct Running {
    env: Env,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<io::Result<Part>>>,
    seconds: f64,
}

impl Running {
    /// Encodes the batches, connects, and begins to warm up.
    pub fn start(env: Env, target: &Target, load: &Load) -> io::Result<Running> {
        let shared = Arc::new(Shared::default());
        let mut workers = Vec::new();
        for connection in 0..load.connections {
            let frames = frames(&env, target, load, connection)?;
            let worker = Worker {
                env,
                pipe: Pipe::connect(&target.address)?,
                in_flight: load.in_flight,
                // Connections do not begin at the same partition.
                next: connection * load.distinct % frames.len(),
                frames,
                partitions: target.partitions,
                shared: shared.clone(),
            };
            workers.push(std::thread::spawn(move || worker.work()));
        }
        Ok(Running {
            env,
            shared,
            workers,
            seconds: 0.0,
        })
    }

    /// Lets it run uncounted. An error when it broke.
    pub fn warm_up(&self, length: Duration) -> io::Result<()> {
        self.run(length, u64::MAX)
    }

    /// Counts for so long, or until so many bytes were acknowledged.
    pub fn measure(&mut self, length: Duration, most_bytes: u64) -> io::Result<()> {
        let begin = self.env.monotonic();
        self.shared.phase.store(MEASURE, Ordering::SeqCst);
        let result = self.run(length, most_bytes);
        // Uncounted again, until one of the two ends.
        self.shared.phase.store(WARM, Ordering::SeqCst);
        self.seconds = (self.env.monotonic() - begin).as_secs_f64();
        result
    }

    /// Stops sending and waits for the answers to what was sent.
    pub fn drain(self) -> io::Result<Produced> {
        self.shared.phase.store(DRAIN, Ordering::SeqCst);
        self.join()
    }

    /// Runs `kill` under load. Connections that break from now on are no error.
    pub fn break_off(self, kill: impl FnOnce()) -> io::Result<Produced> {
        self.shared.phase.store(BREAK, Ordering::SeqCst);
        kill();
        self.join()
    }

    fn run(&self, length: Duration, most_bytes: u64) -> io::Result<()> {
        let end = self.env.monotonic() + length;
        loop {
            let now = self.env.monotonic();
            if now >= end || self.shared.bytes.load(Ordering::Relaxed) >= most_bytes {
                return Ok(());
            }
            if self.shared.wait_for_end((end - now).min(NOTICE)) {
                // The error itself comes out of `drain` or `break_off`.
                return Ok(());
            }
        }
    }

    fn join(self) -> io::Result<Produced> {
        let mut produced = Produced {
            seconds: self.seconds,
            ..Produced::default()
        };
        for worker in self.workers {
            let part = worker
                .join()
                .map_err(|_| failed("a load thread panicked"))??;
            produced.requests += part.requests;
            produced.bytes += part.bytes;
            produced.latency.merge(&part.latency);
            produced.acknowledged.merge(part.acknowledged);
        }
        Ok(produced)
    }
}

/// `distinct` different batches for each partition, the partitions in turn.
fn frames(
    env: &Env,
    target: &Target,
    load: &Load,
    connection: usize,
) -> io::Result<Vec<ProduceFrame>> {
    let mut random = fastrand::Rng::with_seed(load.seed.wrapping_add(connection as u64));
    let mut frames = Vec::new();
    for _ in 0..load.distinct {
        for partition in 0..target.partitions {
            let batch = load.shape.batch(&mut random, env.now_ms());
            frames.push(ProduceFrame::new(&target.topic, partition, batch)?);
        }
    }
    Ok(frames)
}

struct Worker {
    env: Env,
    pipe: Pipe,
    in_flight: usize,
    frames: Vec<ProduceFrame>,
    next: usize,
    partitions: i32,
    shared: Arc<Shared>,
}

/// A request that was begun.
struct Flying {
    frame: usize,
    correlation_id: i32,
    begun: Duration,
}

impl Worker {
    fn work(mut self) -> io::Result<Part> {
        let batches: Vec<Bytes> = self
            .frames
            .iter()
            .map(|frame| frame.batch.clone())
            .collect();
        let mut part = Part {
            requests: 0,
            bytes: 0,
            latency: Quantiles::default(),
            acknowledged: Acknowledged::new(self.partitions, batches),
        };
        let result = self.produce(&mut part);
        let broken = self.shared.phase.load(Ordering::SeqCst) == BREAK;
        *self
            .shared
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.a_worker_ended.notify_all();
        match result {
            Err(error) if !(broken && is_broken_connection(&error)) => Err(error),
            _ => Ok(part),
        }
    }

    fn produce(&mut self, part: &mut Part) -> io::Result<()> {
        let mut flying: VecDeque<Flying> = VecDeque::new();
        // The frame on its way out, and how much of it is.
        let mut writing: Option<(usize, usize)> = None;
        let mut sent = 0_i32;
        let mut last_answer = self.env.monotonic();
        loop {
            let sends = self.shared.phase.load(Ordering::SeqCst) != DRAIN;
            if writing.is_none() && flying.is_empty() && !sends {
                return Ok(());
            }
            loop {
                let (frame, at) = match writing {
                    Some(begun) => begun,
                    None if sends && flying.len() < self.in_flight => {
                        let frame = self.next;
                        self.next = (self.next + 1) % self.frames.len();
                        sent = sent.wrapping_add(1);
                        self.frames[frame].number(sent);
                        flying.push_back(Flying {
                            frame,
                            correlation_id: sent,
                            begun: self.env.monotonic(),
                        });
                        (frame, 0)
                    }
                    None => break,
                };
                let bytes = self.frames[frame].bytes();
                let at = at + self.pipe.write_some(&bytes[at..])?;
                writing = (at < bytes.len()).then_some((frame, at));
                if writing.is_some() {
                    break;
                }
            }
            if self.pipe.wait(writing.is_some(), NOTICE)? {
                self.pipe.read_some()?;
                let now = self.env.monotonic();
                while let Some(answer) = self.pipe.next_frame() {
                    let Some(request) = flying.pop_front() else {
                        return Err(failed("an answer that nothing was asked for"));
                    };
                    let (partition, base_offset) = base_offset(answer, request.correlation_id)?;
                    let frame = &self.frames[request.frame];
                    if partition != frame.partition {
                        return Err(failed(format!(
                            "partition {partition} answered for {}",
                            frame.partition
                        )));
                    }
                    part.acknowledged.add(partition, base_offset, request.frame);
                    if self.shared.phase.load(Ordering::SeqCst) == MEASURE {
                        let bytes = frame.batch.len() as u64;
                        part.requests += 1;
                        part.bytes += bytes;
                        part.latency.add(now.saturating_sub(request.begun));
                        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
                    }
                    last_answer = now;
                }
            }
            if !flying.is_empty() && self.env.monotonic() - last_answer > ANSWER_DEADLINE {
                return Err(failed(format!("no answer within {ANSWER_DEADLINE:?}")));
            }
        }
    }
}

fn is_broken_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

/// What an answer with one partition says; an error code is an error.
pub(super) fn base_offset(answer: &[u8], correlation_id: i32) -> io::Result<(i32, i64)> {
    let mut bytes = Bytes::copy_from_slice(answer);
    let undecoded = |error| failed(format!("a Produce answer is not decoded: {error}"));
    let header_version = ProduceResponse::header_version(PRODUCE_VERSION);
    let header = ResponseHeader::decode(&mut bytes, header_version).map_err(undecoded)?;
    if header.correlation_id != correlation_id {
        return Err(failed(format!("an answer out of order: {header:?}")));
    }
    let response = ProduceResponse::decode(&mut bytes, PRODUCE_VERSION).map_err(undecoded)?;
    let mut partitions = response
        .responses
        .iter()
        .flat_map(|topic| &topic.partition_responses);
    match (partitions.next(), partitions.next()) {
        (Some(only), None) if only.error_code == 0 => Ok((only.index, only.base_offset)),
        (Some(only), None) => Err(failed(format!(
            "partition {}: error {} {:?}",
            only.index, only.error_code, only.error_message
        ))),
        _ => Err(failed(format!("not one partition in {response:?}"))),
    }
}
