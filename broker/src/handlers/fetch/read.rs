//! What a fetch reads, and the room that it takes until the client has it.
//!
//! Called by `fetch.rs`, which decides whether it is enough. What can be had without waiting is read first and never blocks:
//! from memory, or of what stays in its file where it lies. The rest is read off the async workers. Every batch in memory of
//! an answer counts, also one that is there anyway: it stays allocated for the client when memory lets go of it; what stays in
//! its file does not. Room is asked for before anything is read from the disk, and a batch that turns out to be larger is left
//! there until its room is had; whoever waits for room holds none.

use std::time::Duration;

use kafka_protocol::messages::ProducerId;
use kafka_protocol::messages::fetch_response::{AbortedTransaction, EpochEndOffset, PartitionData};
use ottla_protocol::error_code::ErrorCode;
use ottla_storage::error::StorageError;
use ottla_storage::log::{Log, Most, Partition, Read, ReadLimit};
use ottla_storage::partition::Offsets;
use ottla_storage::records::Records;
use tokio::time::{Instant, timeout_at};

use super::Target;
use crate::error::storage_error;
use crate::handlers::apart;
use crate::handlers::fetch_session::Wanted;
use crate::room::{Held, LEAST_BYTES, Room};
use crate::router::Ctx;

/// A batch of the usual limit, with its header. The store hands out whole batches, so that a read takes as much for a
/// moment whatever the client's limit is; it also spares a second read where the first batch is larger than that.
const USUAL_BATCH_BYTES: usize = (1 << 20) + (1 << 10);

/// How long a fetch that finds data waits for room at least, whatever it said; who holds it for a slow client is ended
/// by then.
const ROOM_PATIENCE: Duration = Duration::from_secs(3);

/// What one partition has to say.
pub(super) struct Outcome {
    pub(super) data: PartitionData,
    pub(super) records: Vec<Records>,
    pub(super) bytes: usize,
    /// Size of the batch that comes next, where it was too large.
    pub(super) left_out: usize,
    /// What is wrong with the log.
    pub(super) failure: Option<StorageError>,
}

impl Outcome {
    fn of(data: PartitionData) -> Self {
        Self {
            data,
            records: Vec::new(),
            bytes: 0,
            left_out: 0,
            failure: None,
        }
    }

    fn memory_bytes(&self) -> usize {
        self.records.iter().map(Records::memory_bytes).sum()
    }

    /// Whether the client is to hear of it at once.
    pub(super) fn is_news(&self) -> bool {
        self.data.error_code != 0 || self.data.diverging_epoch.epoch >= 0
    }
}

/// What was read for one answer.
#[derive(Default)]
pub(super) struct Readings {
    pub(super) outcomes: Vec<Outcome>,
    /// Room for the batches.
    pub(super) room: Option<Held>,
    /// Whether there is more that the client wanted, but no room for it.
    pub(super) limited: bool,
    /// Whether it was only a look at what is too little to answer: no room was taken for it.
    pub(super) look: bool,
}

/// Where a read looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// At the newest batches, which are in memory.
    Newest,
    /// Also at the store, where nothing has to be waited for.
    Now,
    /// At the disk, where it must.
    Store,
}

/// Partitions with data of one fetch, at most, that may be looked up in the store without waiting: each takes tens of
/// microseconds, in which others wait for the thread.
const LOOKS: usize = 16;

/// How a read over all targets went.
enum Turn {
    Read(Vec<Outcome>),
    /// Some of it has to be waited for.
    Waits,
    /// The first batch there is has so many bytes, which is too much.
    TooLarge(usize),
}

/// Reads all targets in order until `max_bytes` are spent, `None` being no data at all. While there is time left, what can be had
/// at once and is less than `min_bytes` is only looked at. Where there is no room for data
/// within `left`, or a few seconds if that is less, there is none in the answer.
pub(super) async fn read_all(
    ctx: &Ctx,
    targets: Vec<Target>,
    limit: ReadLimit,
    (min_bytes, max_bytes): (usize, Option<usize>),
    left: Duration,
) -> (Vec<Target>, Readings) {
    let (log, answers) = (&ctx.broker.log, &ctx.broker.answers);
    let has_data = |target: &&Target| match &target.found {
        Ok((_, partition)) => limit.end(&partition.offsets()) > target.wanted.offset,
        Err(_) => false,
    };
    let with_data = targets.iter().filter(has_data).take(LOOKS + 1).count();
    let Some(max_bytes) = max_bytes.filter(|_| with_data > 0) else {
        let outcomes = read_nothing(log, &targets, limit);
        return (targets, outcomes);
    };
    let too_little = if left.is_zero() { 0 } else { min_bytes };
    let sizes = (too_little, max_bytes);
    let source = if with_data > LOOKS {
        Source::Newest
    } else {
        Source::Now
    };
    if let Some(readings) = read_now(log, answers, (&targets, source), limit, sizes) {
        return (targets, readings);
    }
    // Apart, so that a fetch that waits for news is no larger for it.
    Box::pin(read_with_room(ctx, targets, limit, max_bytes, left)).await
}

/// The offsets, and errors.
fn read_nothing(log: &Log, targets: &[Target], limit: ReadLimit) -> Readings {
    let nothing = Most { bytes: 0, first: 0 };
    match read_in_turn(log, targets, limit, nothing, Source::Store) {
        Turn::Read(outcomes) => readings_of(outcomes),
        Turn::Waits | Turn::TooLarge(_) => Readings::default(),
    }
}

/// All of it, where it can be had now and there is room for it; as much as there is room for, where there is not.
fn read_now(
    log: &Log,
    answers: &Room,
    (targets, source): (&[Target], Source),
    limit: ReadLimit,
    (too_little, max_bytes): (usize, usize),
) -> Option<Readings> {
    let all = Most {
        bytes: max_bytes,
        first: usize::MAX,
    };
    let Turn::Read(outcomes) = read_in_turn(log, targets, limit, all, source) else {
        return None;
    };
    let held = memory_bytes_of(&outcomes);
    if held <= LEAST_BYTES {
        return Some(readings_of(outcomes));
    }
    if bytes_of(&outcomes) < too_little && !outcomes.iter().any(Outcome::is_news) {
        return Some(Readings {
            look: true,
            ..readings_of(outcomes)
        });
    }
    let part = answers.some_of(held);
    let mut room = answers.take_now(part);
    if part == held && room.is_some() {
        return Some(Readings {
            outcomes,
            room,
            ..Readings::default()
        });
    }
    drop(outcomes);
    let less = if room.is_some() { part } else { LEAST_BYTES };
    let most = Most {
        bytes: max_bytes.min(less),
        first: less,
    };
    let Turn::Read(outcomes) = read_in_turn(log, targets, limit, most, source) else {
        return None;
    };
    if let Some(room) = &mut room {
        room.shrink(memory_bytes_of(&outcomes));
    }
    Some(Readings {
        outcomes,
        room,
        limited: true,
        look: false,
    })
}

/// As much as there is room for, from wherever it is.
async fn read_with_room(
    ctx: &Ctx,
    mut targets: Vec<Target>,
    limit: ReadLimit,
    max_bytes: usize,
    left: Duration,
) -> (Vec<Target>, Readings) {
    let answers = &ctx.broker.answers;
    let until = Instant::now() + left.max(ROOM_PATIENCE);
    let wanted = most_bytes(&targets, max_bytes);
    let mut bytes = answers.some_of(wanted).max(USUAL_BATCH_BYTES);
    loop {
        let Ok(Ok(mut room)) = timeout_at(until, answers.take(bytes)).await else {
            let readings = read_nothing(&ctx.broker.log, &targets, limit);
            return (targets, readings);
        };
        let most = Most {
            bytes: max_bytes.min(bytes),
            first: bytes,
        };
        let log = ctx.broker.log.clone();
        let count = targets.len();
        let read = apart(move || {
            let turn = read_in_turn(&log, &targets, limit, most, Source::Store);
            (targets, turn)
        });
        let turn = match read.await {
            Ok((same, turn)) => {
                targets = same;
                turn
            }
            Err(code) => {
                let outcomes = (0..count).map(|_| refused(0, code)).collect();
                return (Vec::new(), readings_of(outcomes));
            }
        };
        match turn {
            Turn::Read(outcomes) => {
                let read = bytes_of(&outcomes);
                let held = memory_bytes_of(&outcomes);
                room.shrink(held);
                let more = read >= bytes || outcomes.iter().any(|outcome| outcome.left_out > 0);
                let readings = Readings {
                    outcomes,
                    room: (held > 0).then_some(room),
                    limited: bytes < wanted && more,
                    look: false,
                };
                return (targets, readings);
            }
            Turn::TooLarge(larger) => bytes = larger,
            Turn::Waits => return (targets, Readings::default()),
        }
    }
}

fn readings_of(outcomes: Vec<Outcome>) -> Readings {
    Readings {
        outcomes,
        ..Readings::default()
    }
}

fn bytes_of(outcomes: &[Outcome]) -> usize {
    outcomes.iter().map(|outcome| outcome.bytes).sum()
}

fn memory_bytes_of(outcomes: &[Outcome]) -> usize {
    outcomes.iter().map(Outcome::memory_bytes).sum()
}

/// How much the targets may give together.
fn most_bytes(targets: &[Target], max_bytes: usize) -> usize {
    let each = |target: &Target| usize::try_from(target.wanted.max_bytes).unwrap_or(0);
    let all = targets.iter().map(each).fold(0, usize::saturating_add);
    all.min(max_bytes)
}

/// Reads one target after the other; only the first batch of all may be larger than what is left.
fn read_in_turn(
    log: &Log,
    targets: &[Target],
    limit: ReadLimit,
    most: Most,
    source: Source,
) -> Turn {
    let mut left = most;
    let mut outcomes = Vec::with_capacity(targets.len());
    for target in targets {
        let wanted = &target.wanted;
        let partition = match &target.found {
            Ok((_, partition)) => partition,
            Err(code) => {
                outcomes.push(refused(wanted.partition, *code));
                continue;
            }
        };
        let Some(outcome) = read_one(log, partition, wanted, limit, left, source) else {
            return Turn::Waits;
        };
        if outcome.bytes > 0 {
            left.bytes = left.bytes.saturating_sub(outcome.bytes);
            left.first = 0;
        } else if outcome.left_out > 0 && left.first > 0 {
            return Turn::TooLarge(outcome.left_out);
        }
        outcomes.push(outcome);
    }
    Turn::Read(outcomes)
}

/// `None` when `source` does not have it.
fn read_one(
    log: &Log,
    partition: &Partition,
    wanted: &Wanted,
    limit: ReadLimit,
    left: Most,
    source: Source,
) -> Option<Outcome> {
    let mut data = PartitionData::default().with_partition_index(wanted.partition);
    if wanted.last_fetched_epoch >= 0 {
        let offsets = partition.offsets();
        let (epoch, end) = partition.epoch_end(wanted.last_fetched_epoch);
        if epoch < 0 || wanted.offset < offsets.log_start {
            // Nothing to cut back to (Kafka's `Partition.readRecords`): the client starts over.
            return Some(refused(wanted.partition, ErrorCode::OffsetOutOfRange));
        }
        if epoch < wanted.last_fetched_epoch || end < wanted.offset {
            set_offsets(&mut data, &offsets);
            data.diverging_epoch = EpochEndOffset::default()
                .with_epoch(epoch)
                .with_end_offset(end);
            return Some(Outcome::of(data));
        }
    }
    let most = match usize::try_from(wanted.max_bytes) {
        Ok(own) => Most {
            bytes: own.min(left.bytes),
            first: left.first,
        },
        Err(_) => Most { bytes: 0, first: 0 },
    };
    let from = wanted.offset;
    let read = match source {
        Source::Store => log.read_most(partition, from, most, limit),
        Source::Newest => log.read_newest(partition, from, most, limit).transpose()?,
        Source::Now => log.read_now(partition, from, most, limit).transpose()?,
    };
    let Read {
        batches,
        bytes,
        left_out,
        aborted,
    } = match read {
        Ok(read) => read,
        Err(error) => {
            let code = storage_error(&error);
            // Out of range, or deleted since it was looked up: nothing is wrong here.
            let expected = [ErrorCode::OffsetOutOfRange, ErrorCode::NotLeaderOrFollower];
            return Some(Outcome {
                failure: (!expected.contains(&code)).then_some(error),
                ..refused(wanted.partition, code)
            });
        }
    };
    set_offsets(&mut data, &partition.offsets());
    data.aborted_transactions = (limit == ReadLimit::Stable).then(|| {
        aborted
            .iter()
            .map(|aborted| {
                AbortedTransaction::default()
                    .with_producer_id(ProducerId(aborted.producer_id))
                    .with_first_offset(aborted.first_offset)
            })
            .collect()
    });
    Some(Outcome {
        data,
        records: batches,
        bytes,
        left_out,
        failure: None,
    })
}

fn set_offsets(data: &mut PartitionData, offsets: &Offsets) {
    data.high_watermark = offsets.high_watermark;
    data.last_stable_offset = offsets.last_stable;
    data.log_start_offset = offsets.log_start;
}

/// Only an error.
pub(super) fn refused(index: i32, code: ErrorCode) -> Outcome {
    let data = PartitionData::default()
        .with_partition_index(index)
        .with_error_code(code.code())
        .with_high_watermark(-1)
        .with_last_stable_offset(-1)
        .with_log_start_offset(-1);
    Outcome::of(data)
}
