//! Runs the rows of the tables against one broker and checks, after each of them, all that holds for every row.

use std::time::Duration;

use crate::target::{Answer, Target};
use crate::wire;

/// What a row has to lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The connection is closed and nothing is answered.
    Close,
    /// An answer with these error codes, and nothing is written.
    Codes(Vec<i16>),
    /// An answer with no error in it.
    Accepted,
}

/// A row of a table.
pub struct Row {
    /// Its name there.
    pub id: &'static str,
    /// What is wrong with it.
    pub what: String,
    /// All bytes to send.
    pub bytes: Vec<u8>,
    /// API key and version of the answer.
    pub answer: (i16, i16),
    pub expect: Expect,
}

impl Row {
    pub fn closes(id: &'static str, what: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            id,
            what: what.into(),
            bytes,
            answer: (-1, -1),
            expect: Expect::Close,
        }
    }

    pub fn fails(
        id: &'static str,
        what: impl Into<String>,
        bytes: Vec<u8>,
        answer: (i16, i16),
        codes: &[i16],
    ) -> Self {
        Self {
            id,
            what: what.into(),
            bytes,
            answer,
            expect: Expect::Codes(codes.to_vec()),
        }
    }

    pub fn passes(
        id: &'static str,
        what: impl Into<String>,
        bytes: Vec<u8>,
        answer: (i16, i16),
    ) -> Self {
        Self {
            id,
            what: what.into(),
            bytes,
            answer,
            expect: Expect::Accepted,
        }
    }
}

/// An answer or the end within this time of the last byte.
pub const DEADLINE: Duration = Duration::from_millis(100);
/// How long a probe on another connection may take; asserted of the median of a few.
pub const PROBE: Duration = Duration::from_millis(20);
/// What any input may cost of a processor. The kernel's clock ticks every 10 ms, and all threads count.
pub const CPU: Duration = Duration::from_millis(50);

/// A busy machine may miss a limit on time once in a while. What could not be met at all would be missed every time.
const TRIES: usize = 10;

/// Does `once` until it meets its limits on time, at most `TRIES` times; it says which one it missed.
pub fn in_time(what: &str, mut once: impl FnMut() -> Result<(), String>) {
    let mut missed = Vec::new();
    while missed.len() < TRIES {
        match once() {
            Ok(()) => return,
            Err(miss) => missed.push(miss),
        }
    }
    panic!("{what}: missed {TRIES} times\n{}", missed.join("\n"));
}

/// What a refused request may cost beyond its own bytes.
const REFUSED_GROWTH: u64 = 64 << 10;
/// What the allocator and the kernel's rough counters add to a measurement: a thread's first arena page run, a heap
/// top that grows by its fixed step (128 KiB), counters kept per CPU (64 pages each).
const SLACK: u64 = 256 << 10;

/// The worst figures of a run, with the rows they come from.
#[derive(Default)]
pub struct Worst {
    answer: (Duration, String),
    probe: (Duration, String),
    small_growth: (u64, String),
    share: (f64, String),
}

fn raise<T: PartialOrd>(worst: &mut (T, String), value: T, row: &Row) {
    if worst.1.is_empty() || value > worst.0 {
        *worst = (value, format!("{} {}", row.id, row.what));
    }
}

impl Worst {
    pub fn print(&self) {
        println!(
            "slowest answer or close: {:?} ({})",
            self.answer.0, self.answer.1
        );
        println!(
            "slowest median probe: {:?} ({})",
            self.probe.0, self.probe.1
        );
        println!(
            "largest growth for a refused frame below 1 MiB: {} KiB ({})",
            self.small_growth.0 >> 10,
            self.small_growth.1
        );
        println!(
            "largest growth for a refused frame above that: {:.2} x frame ({})",
            self.share.0, self.share.1
        );
    }
}

/// Runs every row once. All mistakes are told together.
pub fn run(target: &mut Target, rows: &[Row], topic: &str, worst: &mut Worst) {
    let mistakes: Vec<String> = rows
        .iter()
        .flat_map(|row| {
            let mut mistakes = Vec::new();
            // Only limits on time are tried again.
            for _ in 0..TRIES {
                let (wrong, late) = run_row(target, row, topic, worst);
                mistakes = [wrong.clone(), late.clone()].concat();
                if !wrong.is_empty() || late.is_empty() {
                    break;
                }
            }
            mistakes
                .into_iter()
                .map(move |mistake| format!("{} {}: {mistake}", row.id, row.what))
        })
        .collect();
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

/// What was wrong, and what was late.
fn run_row(
    target: &mut Target,
    row: &Row,
    topic: &str,
    worst: &mut Worst,
) -> (Vec<String>, Vec<String>) {
    let (mut mistakes, mut late) = (Vec::new(), Vec::new());
    let refused_before = target.refused();
    let end_before = log_end(target, topic);

    let mut client = target.connect();
    let memory = target.watch_memory();
    let cpu = target.cpu();
    client.send(&row.bytes);
    let sent = target.now();
    let answer = client.answer(crate::target::PATIENCE);
    let took = target.now() - sent;
    let growth = memory.growth(target);

    let codes = match &answer {
        Answer::Frame(frame) if row.answer.0 >= 0 => {
            Some(wire::codes(row.answer.0, row.answer.1, frame))
        }
        _ => None,
    };
    let as_expected = match (&row.expect, &answer, &codes) {
        (Expect::Close, Answer::Closed, _) => true,
        (Expect::Codes(expected), Answer::Frame(_), Some(codes)) => codes == expected,
        (Expect::Accepted, Answer::Frame(_), Some(codes)) => codes.iter().all(|code| *code == 0),
        _ => false,
    };
    if !as_expected {
        let seen = match codes {
            Some(codes) => format!("codes {codes:?}"),
            None => format!("{answer:?}"),
        };
        mistakes.push(format!("{seen} instead of {:?}", row.expect));
    }

    let cpu = target.cpu() - cpu;
    if took > DEADLINE {
        late.push(format!("took {took:?}"));
    }
    // A large frame has to be read before anything is known of it.
    if cpu > CPU && row.bytes.len() < 1 << 20 {
        late.push(format!("took {cpu:?} of a processor"));
    }
    raise(&mut worst.answer, took, row);

    let probes = target.probes::<5>();
    if probes[2] > PROBE {
        late.push(format!("probes answered in {probes:?}"));
    }
    raise(&mut worst.probe, probes[2], row);

    if row.expect != Expect::Accepted {
        let frame = row.bytes.len() as u64;
        if growth > 2 * frame + REFUSED_GROWTH + SLACK {
            mistakes.push(format!("memory grew by {growth} for a frame of {frame}"));
        }
        if frame < 1 << 20 {
            raise(&mut worst.small_growth, growth, row);
        } else {
            raise(&mut worst.share, growth as f64 / frame as f64, row);
        }
        let end = log_end(target, topic);
        if end != end_before {
            mistakes.push(format!("the log grew from {end_before} to {end}"));
        }
    }
    if row.expect == Expect::Close {
        // The counter comes after the close, so it may be a moment late.
        target.wait_until(&format!("{} is counted", row.id), |target| {
            target.refused() > refused_before
        });
    }
    (mistakes, late)
}

fn log_end(target: &Target, topic: &str) -> i64 {
    let answer = target.ask(&wire::list_offsets(topic, -1));
    let response: ottla_protocol::codec::messages::ListOffsetsResponse = wire::decode(&answer, 1);
    response.topics[0].partitions[0].offset
}
