//! What a log must look like after any sequence of calls and crashes: a list of batches for each partition and
//! plain folds over it. Used by `world.rs` only; it shares no rule with the code that it judges, but for
//! the record batch's own header.
//!
//! A fold begins at a producer's `cut`: a truncation may rebuild producers from the batches that are left, and
//! an expired producer is unknown until it writes again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use ottla_protocol::batch::{self, BatchBuilder, BatchHeader};

use super::cleaning::offsets_in;

use crate::log::{Partition, ReadLimit};
use crate::partition::{LogConfig, Offsets};
use crate::producers::Producers;

/// A transaction marker as a coordinator writes it.
pub(super) fn marker(producer_id: i64, epoch: i16, commit: bool, coordinator_epoch: i32) -> Bytes {
    let key = [0, 0, 0, u8::from(commit)];
    let value = [&[0, 0][..], &coordinator_epoch.to_be_bytes()].concat();
    BatchBuilder::new(1_000)
        .producer(producer_id, epoch, -1)
        .transactional(true)
        .control(true)
        .record(1_000, Some(&key), Some(&value), &[])
        .build()
}

/// What a test sends: the batch and what its records say.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) bytes: Bytes,
    pub(super) timestamps: Vec<i64>,
    /// Commit or abort, and the coordinator's epoch.
    pub(super) marker: Option<(bool, i32)>,
}

/// One batch as the log must hold it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Its place in the order of all partitions.
    pub(super) index: u64,
    pub(super) sent: Sent,
    pub(super) bytes: Bytes,
    pub(super) header: BatchHeader,
    pub(super) timestamps: Vec<i64>,
    /// Whether its topic wants a sync before the answer.
    pub(super) durable_topic: bool,
    /// Answered or shown to a reader: must survive a kill.
    pub(super) seen: bool,
    /// Must survive a power cut.
    pub(super) durable: bool,
    /// First batch of a leader epoch.
    pub(super) begins_epoch: bool,
    /// The cleaner took it before a truncation made recovery count producers anew: it counts no more.
    pub(super) uncounted: bool,
}

/// What the cleaner has changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Edition {
    /// By base offset: other bytes, or none.
    pub(super) content: BTreeMap<i64, Option<Bytes>>,
    /// Aborted transactions that readers are not told of any more, by marker and producer.
    pub(super) forgotten: BTreeSet<(i64, i64)>,
}

/// What an append must be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// Offsets of the batch, and the place of the batch they belong to.
    Appended {
        base: i64,
        end: i64,
        duplicate: bool,
        index: u64,
    },
    Fenced,
    UnknownEpoch,
    ProducerEpoch,
    OutOfOrder,
    CoordinatorFenced,
}

/// One batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    first_sequence: i32,
    last_sequence: i32,
    base: i64,
    last: i64,
    index: u64,
}

/// A producer, folded from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) epoch: i16,
    pub(super) coordinator_epoch: i32,
    pub(super) batches: Vec<Kept>,
    open: Option<i64>,
    last_timestamp: i64,
}

impl Producer {
    pub(super) fn next_sequence(&self) -> i32 {
        match self.batches.last() {
            None => 0,
            Some(last) => ((i64::from(last.last_sequence) + 1) % (1 << 31)) as i32,
        }
    }
}

/// A transaction, folded from the log.
#[derive(Debug, Clone, Copy)]
struct Transaction {
    producer_id: i64,
    first: i64,
    /// Where it ended, and whether in a commit.
    end: Option<(i64, bool)>,
}

/// One partition.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) partition: Arc<Partition>,
    pub(super) config: LogConfig,
    /// Everything that was written and not truncated, as it was then, deleted and cleaned batches included.
    pub(super) batches: Vec<Stored>,
    pub(super) log_start: i64,
    pub(super) log_end: i64,
    pub(super) leader_epoch: i32,
    pub(super) epochs: BTreeMap<i32, i64>,
    /// Where a producer's fold begins, if not at 0.
    cuts: BTreeMap<i64, i64>,
    /// Where one may begin after the next recovery.
    possible_cuts: BTreeSet<i64>,
    /// What cleaning made of the batches: now, and before where a power cut may bring that back.
    pub(super) editions: Vec<Edition>,
}

fn sequence_after(first: i32, delta: i32) -> i32 {
    ((i64::from(first) + i64::from(delta)) % (1 << 31)) as i32
}

impl Model {
    pub(super) fn new(partition: Arc<Partition>) -> Self {
        Self {
            partition,
            config: LogConfig::default(),
            batches: Vec::new(),
            log_start: 0,
            log_end: 0,
            leader_epoch: 0,
            epochs: BTreeMap::new(),
            cuts: BTreeMap::new(),
            possible_cuts: BTreeSet::from([0]),
            editions: vec![Edition::default()],
        }
    }

    fn producer_ids(&self) -> BTreeSet<i64> {
        self.batches
            .iter()
            .filter(|held| held.header.producer_id >= 0)
            .map(|held| held.header.producer_id)
            .collect()
    }

    fn fold(&self, producer_id: i64, cut: i64) -> (Option<Producer>, Vec<Transaction>) {
        self.fold_without(producer_id, cut, i64::MAX)
    }

    /// As if recovery had only what the cleaner left from `gap` on.
    fn fold_without(
        &self,
        producer_id: i64,
        cut: i64,
        gap: i64,
    ) -> (Option<Producer>, Vec<Transaction>) {
        let mut producer: Option<Producer> = None;
        let mut transactions = Vec::new();
        let own = |held: &&Stored| {
            held.header.producer_id == producer_id
                && held.header.base_offset >= cut
                && !held.uncounted
                && !(held.header.base_offset >= gap && self.tells_nothing(held))
        };
        for held in self.batches.iter().filter(own) {
            let header = &held.header;
            let state = producer.get_or_insert(Producer {
                epoch: header.producer_epoch,
                coordinator_epoch: -1,
                batches: Vec::new(),
                open: None,
                last_timestamp: -1,
            });
            state.last_timestamp = header.max_timestamp;
            if header.producer_epoch != state.epoch {
                state.epoch = header.producer_epoch;
                state.batches.clear();
            }
            let (base, last) = (header.base_offset, header.last_offset());
            if let Some((commit, coordinator_epoch)) = held.sent.marker {
                state.coordinator_epoch = coordinator_epoch;
                if let Some(first) = state.open.take() {
                    transactions.push(Transaction {
                        producer_id,
                        first,
                        end: Some((last, commit)),
                    });
                }
                continue;
            }
            state.batches.push(Kept {
                first_sequence: header.base_sequence,
                last_sequence: sequence_after(header.base_sequence, header.last_offset_delta),
                base,
                last,
                index: held.index,
            });
            if state.batches.len() > 5 {
                state.batches.remove(0);
            }
            if header.is_transactional() && state.open.is_none() {
                state.open = Some(base);
            }
        }
        if let Some(first) = producer.as_ref().and_then(|producer| producer.open) {
            transactions.push(Transaction {
                producer_id,
                first,
                end: None,
            });
        }
        (producer, transactions)
    }

    fn cut(&self, producer_id: i64) -> i64 {
        self.cuts.get(&producer_id).copied().unwrap_or(0)
    }

    pub(super) fn producer(&self, producer_id: i64) -> Option<Producer> {
        self.fold(producer_id, self.cut(producer_id)).0
    }

    fn transactions(&self) -> Vec<Transaction> {
        let ids = self.producer_ids().into_iter();
        ids.flat_map(|id| self.fold(id, self.cut(id)).1).collect()
    }

    fn checked(&self, sent: &Sent, header: &BatchHeader, leader_epoch: i32) -> Option<Expected> {
        if leader_epoch < self.leader_epoch {
            return Some(Expected::Fenced);
        }
        if leader_epoch > self.leader_epoch {
            return Some(Expected::UnknownEpoch);
        }
        if header.producer_id < 0 {
            return None;
        }
        let producer = self.producer(header.producer_id)?;
        if header.producer_epoch < producer.epoch {
            return Some(Expected::ProducerEpoch);
        }
        if let Some((_, coordinator_epoch)) = sent.marker {
            return (coordinator_epoch < producer.coordinator_epoch)
                .then_some(Expected::CoordinatorFenced);
        }
        if header.producer_epoch > producer.epoch {
            return (header.base_sequence != 0).then_some(Expected::OutOfOrder);
        }
        let last = sequence_after(header.base_sequence, header.last_offset_delta);
        let same = |kept: &&Kept| {
            (kept.first_sequence, kept.last_sequence) == (header.base_sequence, last)
        };
        if let Some(kept) = producer.batches.iter().find(same) {
            return Some(Expected::Appended {
                base: kept.base,
                end: kept.last + 1,
                duplicate: true,
                index: kept.index,
            });
        }
        (header.base_sequence != producer.next_sequence()).then_some(Expected::OutOfOrder)
    }

    /// Takes an append as the `index`-th batch of all, and says what it must be answered.
    pub(super) fn append(
        &mut self,
        sent: Sent,
        leader_epoch: i32,
        now_ms: i64,
        index: u64,
    ) -> Expected {
        let header = BatchHeader::parse(&sent.bytes).expect("a batch");
        if let Some(expected) = self.checked(&sent, &header, leader_epoch) {
            return expected;
        }
        let mut bytes = sent.bytes.to_vec();
        let mut timestamps = sent.timestamps.clone();
        batch::stamp(&mut bytes, self.log_end, leader_epoch);
        if self.config.log_append_time {
            batch::stamp_log_append_time(&mut bytes, now_ms);
            timestamps.fill(now_ms);
        }
        let header = BatchHeader::parse(&bytes).expect("a batch");
        let newest = self.epochs.last_key_value().map_or(-1, |(epoch, _)| *epoch);
        let begins_epoch = leader_epoch > newest;
        if begins_epoch {
            self.epochs.insert(leader_epoch, self.log_end);
        }
        let base = self.log_end;
        self.log_end += timestamps.len() as i64;
        self.batches.push(Stored {
            index,
            sent,
            bytes: bytes.into(),
            header,
            timestamps,
            durable_topic: self.config.flush_messages == 1,
            seen: false,
            durable: false,
            begins_epoch,
            uncounted: false,
        });
        Expected::Appended {
            base,
            end: self.log_end,
            duplicate: false,
            index,
        }
    }

    pub(super) fn delete_prefix(&mut self, offset: i64) {
        if offset <= self.log_start {
            return;
        }
        self.log_start = offset;
        let current = self
            .epochs
            .iter()
            .rev()
            .find(|(_, start)| **start <= offset);
        if let Some((&current, _)) = current {
            self.epochs = self.epochs.split_off(&current);
            self.epochs.insert(current, offset);
        }
    }

    pub(super) fn truncate(&mut self, offset: i64) {
        if offset >= self.log_end {
            return;
        }
        self.may_forget();
        let cut = self.end_before(offset);
        self.batches.retain(|held| held.header.base_offset < cut);
        self.epochs.retain(|_, start| *start < cut);
        self.log_end = cut.max(self.log_start);
        self.bound_cuts();
    }

    fn bound_cuts(&mut self) {
        let end = self.log_end;
        for edition in &mut self.editions {
            edition.content.retain(|base, _| *base < end);
            edition.forgotten.retain(|(marker, _)| *marker < end);
        }
        for cut in self.cuts.values_mut() {
            *cut = (*cut).min(self.log_end);
        }
        self.possible_cuts = self
            .possible_cuts
            .iter()
            .map(|cut| (*cut).min(self.log_end))
            .collect();
    }

    pub(super) fn truncate_fully(&mut self, offset: i64) {
        self.batches.clear();
        self.epochs.clear();
        self.cuts.clear();
        self.editions = vec![Edition::default()];
        (self.log_start, self.log_end) = (offset, offset);
    }

    /// Producers may be rebuilt from what is not deleted.
    pub(super) fn may_forget(&mut self) {
        let first_kept = self
            .batches
            .iter()
            .find(|held| held.header.last_offset() >= self.log_start);
        if let Some(held) = first_kept {
            self.possible_cuts.insert(held.header.base_offset);
        }
    }

    /// Producers without an open transaction that wrote nothing since `oldest` are forgotten.
    pub(super) fn expire(&mut self, oldest: i64) {
        for id in self.producer_ids() {
            let quiet = |held: Producer| held.open.is_none() && held.last_timestamp < oldest;
            if self.producer(id).is_some_and(quiet) {
                self.cuts.insert(id, self.log_end);
                self.possible_cuts.insert(self.log_end);
            }
        }
    }

    /// The log ends at `end` after a crash: what is lost must not be more than allowed.
    pub(super) fn lose_from(&mut self, end: i64, power_cut: bool) -> Result<Vec<u64>, String> {
        let kept = self
            .batches
            .iter()
            .take_while(|held| held.header.last_offset() < end);
        let kept = kept.count();
        let lost = self.batches.split_off(kept);
        for held in &lost {
            if held.durable || (held.seen && !power_cut) {
                return Err(format!(
                    "the batch at {} is lost, the log ends at {end}",
                    held.header.base_offset
                ));
            }
            if held.begins_epoch {
                self.epochs.remove(&held.header.partition_leader_epoch);
            }
        }
        self.log_end = match self.batches.last() {
            Some(last) => last.header.next_offset().max(self.log_start),
            None => self.log_start,
        };
        if self.log_end != end {
            return Err(format!("the log ends at {end}, not at {}", self.log_end));
        }
        self.bound_cuts();
        Ok(lost.iter().map(|held| held.index).collect())
    }

    /// The greatest order of a batch that is here.
    pub(super) fn last_index(&self) -> Option<u64> {
        self.batches.last().map(|held| held.index)
    }

    /// Compares producers; after a recovery each may begin at any possible cut, and after a truncation miss what the
    /// cleaner took.
    pub(super) fn match_producers(
        &mut self,
        live: &Producers,
        recovered: bool,
        truncated: bool,
    ) -> Result<(), String> {
        for id in self.producer_ids() {
            let held = live.get(id).map(|state| {
                let batches = state.batches.iter().map(|kept| {
                    (
                        kept.first_sequence(),
                        kept.last_sequence,
                        kept.first_offset(),
                        kept.last_offset,
                    )
                });
                let rest = (state.epoch, state.coordinator_epoch, state.open_transaction);
                (rest, batches.collect::<Vec<_>>())
            });
            let mut cuts = vec![self.cut(id)];
            if recovered {
                cuts.extend(&self.possible_cuts);
            }
            let mut gaps = vec![i64::MAX];
            if truncated {
                gaps.extend(self.batches.iter().map(|held| held.header.base_offset));
            }
            let choices = cuts
                .iter()
                .flat_map(|cut| gaps.iter().map(move |gap| (*cut, *gap)));
            let fits = choices.clone().find(|(cut, gap)| {
                let folded = self.fold_without(id, *cut, *gap).0.map(|state| {
                    let batches = state.batches.iter().map(|kept| {
                        (
                            kept.first_sequence,
                            kept.last_sequence,
                            kept.base,
                            kept.last,
                        )
                    });
                    let rest = (state.epoch, state.coordinator_epoch, state.open);
                    (rest, batches.collect::<Vec<_>>())
                });
                folded == held
            });
            let Some((cut, gap)) = fits else {
                return Err(format!(
                    "producer {id} is {held:?}, not {:?} (cuts {cuts:?})",
                    self.producer(id)
                ));
            };
            self.cuts.insert(id, cut);
            self.count_without(id, gap);
        }
        let known = self.producer_ids();
        match live.iter().find(|(id, _)| !known.contains(id)) {
            Some((id, _)) => Err(format!("producer {id} is out of nowhere")),
            None => Ok(()),
        }
    }

    /// The last stable offset for a high watermark: no undecided transaction below it, and none that was
    /// decided by a marker at or above it.
    pub(super) fn last_stable(&self, high_watermark: i64) -> i64 {
        self.transactions()
            .iter()
            .filter(|held| held.end.is_none_or(|(marker, _)| marker >= high_watermark))
            .map(|held| held.first)
            .fold(high_watermark, i64::min)
            .max(self.log_start)
    }

    /// Producer and marker of every aborted transaction with records in `from..to`. Its first offset is only
    /// known while no producer was forgotten.
    pub(super) fn aborted_in(&self, from: i64, to: i64) -> Option<Vec<(i64, i64)>> {
        let uncounted = self.batches.iter().any(|held| held.uncounted);
        if uncounted || self.cuts.values().any(|cut| *cut > 0) {
            return None;
        }
        let forgotten = &self.edition().forgotten;
        let mut found: Vec<_> = self
            .transactions()
            .iter()
            .filter_map(|held| match held.end {
                Some((last, false))
                    if last >= from
                        && held.first < to
                        && !forgotten.contains(&(last, held.producer_id)) =>
                {
                    Some((last, held.producer_id))
                }
                _ => None,
            })
            .collect();
        found.sort_unstable();
        Some(found)
    }

    /// What a read must return, and the end of the last batch.
    pub(super) fn read(&self, from: i64, end: i64, max: usize, one: bool) -> (Vec<Bytes>, i64) {
        let (mut found, mut bytes, mut next) = (Vec::new(), 0, from);
        let from_on = self
            .held()
            .filter(|(held, _)| held.header.last_offset() >= from);
        if from >= end {
            return (found, next);
        }
        for (held, content) in from_on.take_while(|(held, _)| held.header.base_offset < end) {
            let forced = one && found.is_empty();
            let fits = max > 0 && bytes < max && bytes + content.len() <= max;
            if !(forced || fits) {
                break;
            }
            bytes += content.len();
            next = held.header.next_offset();
            found.push(content.clone());
        }
        (found, next)
    }

    /// Timestamp and offset of every record that is readable below `end`.
    fn times(&self, end: i64) -> impl Iterator<Item = (i64, i64)> {
        self.held()
            .filter(move |(held, _)| held.header.base_offset < end)
            .flat_map(|(held, content)| {
                let times = held
                    .timestamps
                    .iter()
                    .copied()
                    .zip(held.header.base_offset..);
                let kept = (*content != held.bytes).then(|| offsets_in(content));
                times.filter(move |(_, offset)| {
                    kept.as_ref().is_none_or(|kept| kept.contains(offset))
                })
            })
            .filter(|(_, offset)| *offset >= self.log_start)
    }

    pub(super) fn first_since(&self, timestamp: i64, end: i64) -> Option<(i64, i64)> {
        self.times(end).find(|(held, _)| *held >= timestamp)
    }

    pub(super) fn greatest(&self, end: i64) -> Option<(i64, i64)> {
        self.times(end)
            .reduce(|best, next| if next.0 > best.0 { next } else { best })
    }

    pub(super) fn max_timestamp_held(&self) -> i64 {
        self.held()
            .filter(|(held, _)| held.header.last_offset() >= self.log_start)
            .map(|(_, content)| BatchHeader::parse(content).expect("a batch").max_timestamp)
            .fold(i64::MIN, i64::max)
    }

    /// Kafka's `LeaderEpochFileCache.endOffsetFor`.
    pub(super) fn epoch_end(&self, epoch: i32) -> (i32, i64) {
        let mut known: Vec<_> = self
            .epochs
            .iter()
            .map(|(epoch, start)| (*epoch, *start))
            .collect();
        if known
            .last()
            .is_none_or(|(newest, _)| *newest < self.leader_epoch)
        {
            known.push((self.leader_epoch, self.log_end));
        }
        let next = known.iter().find(|(held, _)| *held > epoch);
        let own = known.iter().rev().find(|(held, _)| *held <= epoch);
        match (own, next) {
            _ if epoch < 0 => (-1, -1),
            (Some((held, _)), None) if *held == epoch => (epoch, self.log_end),
            (_, None) => (-1, -1),
            (Some((held, _)), Some((_, start))) => (*held, *start),
            (None, Some((_, start))) => (epoch, *start),
        }
    }

    /// The epoch of a record that is here.
    pub(super) fn epoch_of(&self, offset: i64) -> Option<i32> {
        let holds = |held: &&Stored| {
            (held.header.base_offset..=held.header.last_offset()).contains(&offset)
        };
        let held = self.batches.iter().find(holds)?;
        Some(held.header.partition_leader_epoch)
    }

    /// Notes what a reader or a caller may have seen: it must not be taken back.
    pub(super) fn observe(&mut self, offsets: &Offsets) {
        for held in &mut self.batches {
            let end = held.header.next_offset();
            held.seen |= end <= offsets.high_watermark;
            held.durable |= end <= offsets.fsynced_end;
            held.durable |= held.durable_topic && end <= offsets.high_watermark;
        }
    }

    /// Notes an answer; a duplicate speaks for the batch that it repeats.
    pub(super) fn acknowledged(&mut self, index: u64) {
        if let Some(held) = self.batches.iter_mut().find(|held| held.index == index) {
            held.seen = true;
            held.durable |= held.durable_topic;
        }
    }

    pub(super) fn end_of(limit: ReadLimit, offsets: &Offsets) -> i64 {
        match limit {
            ReadLimit::LogEnd => offsets.log_end,
            ReadLimit::HighWatermark => offsets.high_watermark,
            ReadLimit::Stable => offsets.last_stable,
        }
    }
}
