//! Goes on without what a start cannot read: cuts a log before the first damaged batch among those that recovery has to
//! read, which are the ones after the last chunk or the newest producer snapshot. Called by `log.rs` once the loss is
//! accepted, before anything is served.
//!
//! What comes after the damage goes too, as where Kafka recovers a segment (`LogSegment.recover`): a log has no holes
//! that its producers' sequences and its transactions could be told across. Damage before that is not looked for; it is
//! served around while the broker runs.

use std::ops::ControlFlow;

use crate::engine::{Engine, Family, Start};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle, PartitionId};
use crate::log::LogOptions;
use crate::partition::PartitionState;
use crate::proof::OnLoss;
use crate::recovery;

/// Recovers the state of one partition, without the damaged end of its log if that loss is accepted.
///
/// # Errors
/// The store's, or damage that is not accepted or cannot be cut off.
pub(crate) fn recover(
    engine: &dyn Engine,
    (id, handle): (PartitionId, Handle),
    node_id: i32,
    options: &LogOptions,
) -> Result<PartitionState, StorageError> {
    let recover = || recovery::recover(engine, handle, node_id, options.max_producers);
    let damage = match recover() {
        Err(StorageError::Engine(EngineError::Corruption(why))) => why,
        other => return other,
    };
    let cut_at = match options.on_loss {
        OnLoss::Accept => cut(engine, handle, node_id)?,
        OnLoss::Refuse => None,
    };
    let PartitionId {
        topic_id,
        partition,
    } = id;
    let Some(from) = cut_at else {
        let why = format!("partition {partition} of topic {topic_id}: {damage}");
        return Err(StorageError::Engine(EngineError::Corruption(why)));
    };
    tracing::warn!(%topic_id, partition, from, damage, "a loss is accepted: what the log holds from this offset on is cut off");
    recover()
}

/// Cuts the log, durably, and tells where it ends now. `None`: every batch can be read, so that the damage is elsewhere
/// and cannot be cut off.
///
/// # Errors
/// The store's; damage of what is kept beside the batches.
fn cut(engine: &dyn Engine, handle: Handle, node_id: i32) -> Result<Option<i64>, StorageError> {
    let mut state = recovery::recover_start(engine, handle, node_id)?;
    // Nobody can tell it, and everything derived is looked at.
    state.log_end = i64::MAX;
    recovery::recover_epochs(engine, &mut state)?;
    let snapshot = recovery::recover_snapshot(engine, &mut state)?;
    let chunks = chunks(engine, handle)?;
    let (closed, open) = chunks.last().copied().unwrap_or((0, 0));
    let mut found = None;
    // The last batch is read in any case: it may be one of a closed chunk.
    for begin in [open, closed] {
        let begin = recovery::replay_from(&state, begin, snapshot);
        found = readable_end(engine, handle, begin)?;
        if found.is_some() {
            break;
        }
    }
    let Some(end) = found else {
        return Ok(None);
    };
    let beyond = chunks.iter().find(|(_, chunk_end)| *chunk_end > end);
    let chunk_from = beyond.map_or(end, |(base, _)| *base);
    let times_from = recovery::times_before(engine, handle, end)?;
    engine.write(&state.plan_truncate(end, times_from, chunk_from))?;
    engine.sync()?;
    Ok(Some(end.max(state.log_start)))
}

/// Base and end offset of every closed chunk.
fn chunks(engine: &dyn Engine, handle: Handle) -> Result<Vec<(i64, i64)>, StorageError> {
    let (from, to) = keys::chunks(handle, 0);
    let mut chunks = Vec::new();
    engine.scan(Family::Log, Start::At(&from), &to, &mut |key, value| {
        let chunk = keys::parse_chunk(key, value);
        chunks.extend(chunk.map(|chunk| (chunk.base_offset, chunk.end_offset)));
        ControlFlow::Continue(())
    })?;
    Ok(chunks)
}

/// Where the batches from `begin` on end that can be read one after the other; `None` if all can.
fn readable_end(
    engine: &dyn Engine,
    handle: Handle,
    begin: i64,
) -> Result<Option<i64>, StorageError> {
    let (from, to) = keys::batches(handle, begin);
    let mut end = begin;
    let mut all = true;
    let scanned = engine.scan(Family::Log, Start::At(&from), &to, &mut |_, value| {
        match recovery::stored_header(handle, value) {
            Ok(header) => {
                end = header.next_offset();
                ControlFlow::Continue(())
            }
            Err(_) => {
                all = false;
                ControlFlow::Break(())
            }
        }
    });
    match scanned {
        Ok(()) => Ok((!all).then_some(end)),
        Err(EngineError::Corruption(_)) => Ok(Some(end)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicI64;

    use ottla_protocol::batch::BatchBuilder;

    use super::*;
    use crate::log::{Log, LogOptions, NoObserver};
    use crate::log_tests::{Bench, TestClock, block, sequenced};
    use crate::memory::MemoryEngine;

    fn open(engine: &Arc<MemoryEngine>, on_loss: OnLoss) -> Result<Log, StorageError> {
        let clock = Arc::new(TestClock(AtomicI64::new(1_000)));
        let options = LogOptions {
            on_loss,
            ..LogOptions::default()
        };
        Log::open_with(engine.clone(), 1, options, clock, Arc::new(NoObserver))
    }

    /// The broker was started once with the loss accepted, and is started again.
    fn accepted(engine: Arc<MemoryEngine>) -> Bench {
        open(&engine, OnLoss::Accept).expect("the loss is accepted");
        let bench = Bench::on(engine);
        bench.engine.mend();
        bench
    }

    #[test]
    fn a_log_is_cut_before_its_damage_once_that_is_accepted_and_remembers_its_producers() {
        for damaged in 0..6 {
            let bench = Bench::new();
            for sequence in 0..6 {
                bench.appended(sequenced(7, 0, sequence, 1));
            }
            let key = keys::batch(bench.partition.handle(), i64::from(damaged));
            bench.engine.damage(Family::Log, &key);
            let before = bench.engine.dump(Family::Log);
            let refused = open(&bench.engine, OnLoss::Refuse).expect_err("damaged");
            let told = refused.to_string();
            assert!(told.contains("partition 0 of topic"), "{told}");
            assert_eq!(bench.engine.dump(Family::Log), before);
            let bench = accepted(bench.engine);
            assert_eq!(bench.offsets().log_end, i64::from(damaged));
            let left: Vec<i64> = (0..i64::from(damaged)).collect();
            assert_eq!(bench.read(0), Ok(left));
            if damaged > 0 {
                let again = bench.append(sequenced(7, 0, damaged - 1, 1));
                assert!(again.expect("known").duplicate);
            }
            let next = bench.append(sequenced(7, 0, damaged, 1)).expect("follows");
            assert_eq!((next.duplicate, next.base_offset), (false, damaged.into()));
        }
    }

    #[test]
    fn damage_that_is_not_in_a_batch_is_refused_all_the_same() {
        let bench = Bench::new();
        bench.appended(sequenced(7, 0, 0, 1));
        let key = keys::producer_end(bench.partition.handle(), 1);
        bench.engine.damage(Family::Log, &key);
        let before = bench.engine.dump(Family::Log);
        assert!(open(&bench.engine, OnLoss::Accept).is_err());
        assert_eq!(bench.engine.dump(Family::Log), before);
    }

    #[test]
    fn wherever_the_damage_is_the_log_that_is_left_is_a_whole_one() {
        let (mut cut, mut survived) = (0, 0);
        for seed in 0..400 {
            println!("seed {seed}");
            let mut rng = fastrand::Rng::with_seed(seed);
            let bench = Bench::new();
            let mut sequences = [0; 3];
            let mut bases = Vec::new();
            for _ in 0..rng.usize(1..40) {
                let who = rng.usize(0..4);
                let mut builder = BatchBuilder::new(1_000 + rng.i64(0..50));
                if let Some(sequence) = sequences.get_mut(who) {
                    let transactional = who == 2;
                    builder = builder.producer(who as i64, 0, *sequence);
                    builder = builder.transactional(transactional);
                    *sequence += 1;
                }
                let value = vec![7; rng.usize(0..400)];
                let batch = builder.record(1_000, None, Some(&value), &[]).build();
                bases.push(bench.appended(batch));
            }
            let end = bench.offsets().log_end;
            let start = rng.i64(0..=end / 2);
            block(bench.log.delete_prefix(&bench.partition, start)).expect("deletes");
            let damaged = bases[rng.usize(0..bases.len())];
            let key = keys::batch(bench.partition.handle(), damaged);
            bench.engine.damage(Family::Log, &key);
            let opened = open(&bench.engine, OnLoss::Refuse);
            let bench = accepted(bench.engine);
            let offsets = bench.offsets();
            let expected = match opened {
                Ok(_) => end,
                Err(_) => damaged.max(start),
            };
            assert_eq!((offsets.log_start, offsets.log_end), (start, expected));
            cut += u32::from(expected < end);
            survived += u32::from(expected == end && damaged >= start);
            let left = bench.read(start).expect("reads");
            assert!(left.iter().all(|base| *base < expected));
            assert_eq!(left.len() as i64, expected - start);
            let state = bench.partition.state();
            assert_eq!(bench.appended(sequenced(9, 0, 0, 1)), expected);
            assert!(state.open_chunk.end_offset <= expected);
            assert_eq!(bench.killed().offsets().log_end, expected + 1);
        }
        assert!(cut > 50 && survived > 20, "{cut} cut, {survived} survived");
    }

    #[test]
    fn nothing_is_cut_where_everything_can_be_read() {
        let bench = Bench::new();
        for sequence in 0..6 {
            bench.appended(sequenced(7, 0, sequence, 1));
        }
        let before = bench.engine.dump(Family::Log);
        let cut = cut(bench.engine.as_ref(), bench.partition.handle(), 1);
        assert_eq!(cut, Ok(None));
        assert_eq!(bench.engine.dump(Family::Log), before);
    }
}
