//! The newest batches of all partitions, in memory: what tailing consumers read without asking the store, and without
//! a copy. Filled by the writer once a batch is written; read by `log/reads.rs`, which never shows anything at or
//! above the limit it is given.
//!
//! Each partition holds its own batches (`Tail`, under the partition's lock); the writer alone knows in which order
//! all of them came and lets go of the oldest when they are too many bytes (`Arrivals`). It never holds more than its
//! budget, each batch counted with what it really keeps allocated; a budget of 0 holds nothing.
//!
//! Invariants: the batches of a `Tail` follow each other in the log and end with the newest one that was written, so
//! that whoever finds the first one there finds all; a truncation, a deletion, batches that came as to a follower and
//! whoever replaces a batch clear it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::log::{Most, Partition};

/// What a batch costs besides its bytes: its places in both queues and its allocation's own bookkeeping.
const OVERHEAD_BYTES: usize = 160;

/// The newest batches of one partition.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    batches: VecDeque<Kept>,
    /// Of the batch that comes next; tells a batch from an older one at the same offset.
    next_id: u64,
}

#[derive(Debug)]
struct Kept {
    id: u64,
    base_offset: i64,
    end_offset: i64,
    bytes: Bytes,
}

/// What a read of the tail found: batches, their bytes, the size of the one that was too large to come next, and the
/// offset after them.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) batches: Vec<Bytes>,
    pub(crate) bytes: usize,
    pub(crate) left_out: usize,
    pub(crate) next_offset: i64,
}

impl Tail {
    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.batches = VecDeque::new();
    }

    fn push(&mut self, base_offset: i64, end_offset: i64, bytes: Bytes) -> u64 {
        if self
            .batches
            .back()
            .is_some_and(|last| last.end_offset != base_offset)
        {
            self.batches.clear();
        }
        let id = self.next_id;
        self.next_id += 1;
        self.batches.push_back(Kept {
            id,
            base_offset,
            end_offset,
            bytes,
        });
        id
    }

    /// Forgets the batch `id`, which is the oldest one if it is still here.
    fn evict(&mut self, id: u64) {
        if self.batches.front().is_some_and(|oldest| oldest.id == id) {
            self.batches.pop_front();
        }
        if self.batches.is_empty() {
            self.batches = VecDeque::new();
        }
    }

    /// Whole batches from the one that holds `from` on, below `end`, as many as `most` takes. `None` when that batch is
    /// not here.
    pub(crate) fn read(&self, from: i64, end: i64, most: Most) -> Option<Found> {
        let first = self.batches.front()?;
        let last = self.batches.back()?;
        if from < first.base_offset || from >= last.end_offset {
            return None;
        }
        let begin = self.batches.partition_point(|kept| kept.end_offset <= from);
        let mut found = Found {
            next_offset: from,
            ..Found::default()
        };
        for kept in self.batches.range(begin..) {
            if kept.base_offset >= end {
                break;
            }
            if !most.takes(found.bytes, kept.bytes.len()) {
                found.left_out = kept.bytes.len();
                break;
            }
            found.bytes += kept.bytes.len();
            found.batches.push(kept.bytes.clone());
            found.next_offset = kept.end_offset;
            if found.bytes >= most.bytes {
                break;
            }
        }
        Some(found)
    }
}

/// The batches of all tails in the order in which they came. Owned by the writer.
#[derive(Debug)]
pub(crate) struct Arrivals {
    budget_bytes: usize,
    held_bytes: usize,
    order: VecDeque<Arrival>,
}

#[derive(Debug)]
struct Arrival {
    partition: Arc<Partition>,
    id: u64,
    bytes: usize,
}

impl Arrivals {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Self {
            budget_bytes,
            held_bytes: 0,
            order: VecDeque::new(),
        }
    }

    /// Notes a batch that was written, and what it keeps allocated. One that alone is above the budget is not held, and
    /// neither is what came before it. The caller holds the lock of `partition` as
    /// `tail`; `make_room` follows once it does not.
    pub(crate) fn push(
        &mut self,
        partition: &Arc<Partition>,
        tail: &mut Tail,
        (base_offset, end_offset): (i64, i64),
        (bytes, allocated): (Bytes, usize),
    ) {
        let cost = allocated + OVERHEAD_BYTES;
        if cost > self.budget_bytes {
            tail.clear();
            return;
        }
        let id = tail.push(base_offset, end_offset, bytes);
        self.held_bytes += cost;
        self.order.push_back(Arrival {
            partition: partition.clone(),
            id,
            bytes: cost,
        });
    }

    /// Lets go of the oldest batches until the rest is within the budget. Takes one partition's lock at a time.
    pub(crate) fn make_room(&mut self) {
        while self.held_bytes > self.budget_bytes {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            self.held_bytes -= oldest.bytes;
            oldest.partition.lock().tail.evict(oldest.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use uuid::Uuid;

    use super::*;
    use crate::keys::{Handle, PartitionId};
    use crate::partition::PartitionState;

    fn partition(index: i32) -> Arc<Partition> {
        let id = PartitionId {
            topic_id: Uuid::from_u128(9),
            partition: index,
        };
        let state = PartitionState::new(Handle(index as u32 + 2), 1);
        Arc::new(Partition::new(id, state))
    }

    /// What must be there: the newest batches of all partitions, as many as fit, of each from the newest gap on.
    #[test]
    fn the_newest_batches_are_held_within_the_budget_and_read_like_the_log() {
        for seed in 0..2_000 {
            println!("seed {seed}");
            let mut rng = fastrand::Rng::with_seed(seed);
            let budget = rng.usize(0..4_000);
            let mut arrivals = Arrivals::new(budget);
            let partitions: Vec<_> = (0..3).map(partition).collect();
            let mut ends = [0_i64; 3];
            // Partition, base, end and bytes, in the order of their arrival; cleared ones stay in the count.
            let mut all: Vec<(usize, i64, i64, Bytes, bool)> = Vec::new();
            for _ in 0..rng.usize(0..80) {
                let at = rng.usize(0..3);
                if rng.u8(0..20) == 0 {
                    partitions[at].lock().tail.clear();
                    all.iter_mut()
                        .filter(|held| held.0 == at)
                        .for_each(|held| held.4 = false);
                    continue;
                }
                let bytes: Bytes = vec![rng.u8(..); rng.usize(1..600)].into();
                let (base, end) = (ends[at], ends[at] + rng.i64(1..5));
                ends[at] = end;
                let mut inner = partitions[at].lock();
                let held = (bytes.clone(), bytes.len());
                arrivals.push(&partitions[at], &mut inner.tail, (base, end), held);
                drop(inner);
                arrivals.make_room();
                if bytes.len() + OVERHEAD_BYTES <= budget {
                    all.push((at, base, end, bytes, true));
                } else {
                    all.iter_mut()
                        .filter(|held| held.0 == at)
                        .for_each(|held| held.4 = false);
                }
            }
            let mut left = budget;
            let mut held: HashMap<usize, VecDeque<(i64, i64, Bytes)>> = HashMap::new();
            let mut next: HashMap<usize, i64> = HashMap::new();
            for (at, base, end, bytes, alive) in all.into_iter().rev() {
                let Some(rest) = left.checked_sub(bytes.len() + OVERHEAD_BYTES) else {
                    break;
                };
                left = rest;
                let follows = next.get(&at).is_none_or(|next| *next == end);
                if alive && follows {
                    next.insert(at, base);
                    held.entry(at).or_default().push_front((base, end, bytes));
                } else {
                    next.insert(at, -1);
                }
            }
            for (at, partition) in partitions.iter().enumerate() {
                let held = held.remove(&at).unwrap_or_default();
                let inner = partition.lock();
                for from in 0..ends[at] + 2 {
                    let limit = rng.i64(0..ends[at] + 3);
                    let max = rng.usize(0..1_500);
                    let first = [0, 300, usize::MAX][rng.usize(0..3)];
                    let most = Most { bytes: max, first };
                    let found = inner.tail.read(from, limit, most);
                    let begin = held.iter().position(|(_, end, _)| *end > from);
                    let begin = begin.filter(|_| held[0].0 <= from);
                    let Some(begin) = begin else {
                        assert!(found.is_none(), "{from} is not held");
                        continue;
                    };
                    let (mut batches, mut bytes, mut left_out) = (Vec::new(), 0, 0);
                    for (base, _, batch) in held.range(begin..) {
                        let forced = batches.is_empty() && batch.len() <= first;
                        let fits = bytes + batch.len() <= max || forced;
                        if *base >= limit || (bytes > 0 && bytes >= max) {
                            break;
                        }
                        if !fits {
                            left_out = batch.len();
                            break;
                        }
                        bytes += batch.len();
                        batches.push(batch.clone());
                    }
                    let found = found.expect("it is held");
                    assert_eq!(found.batches, batches, "from {from} below {limit}, {max}");
                    assert_eq!((found.bytes, found.left_out), (bytes, left_out));
                }
            }
        }
    }
}
