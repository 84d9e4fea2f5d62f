//! What a `world` looks at: reads and look-ups, offsets and all that is derived from the log.

use bytes::Bytes;
use ottla_protocol::batch::BatchHeader;

use super::model::Model;
use super::world::{PARTITIONS, World};
use crate::engine::Family;
use crate::error::StorageError;
use crate::keys;
use crate::log::ReadLimit;
use crate::partition::Offsets;
use crate::waiters::Watch;

const LIMITS: [ReadLimit; 3] = [
    ReadLimit::LogEnd,
    ReadLimit::HighWatermark,
    ReadLimit::Stable,
];

impl World {
    pub(super) fn read(&mut self) {
        if self.faulted {
            return;
        }
        self.barrier();
        let partition = self.partition();
        let limit = LIMITS[self.rng.usize(0..3)];
        let model = &self.models[partition];
        let from = self.rng.i64(model.log_start - 2..=model.log_end + 2);
        let max = [0, 1, 100, 500, 5_000, usize::MAX][self.rng.usize(0..6)];
        let one = self.rng.bool();
        let (offsets, read) = loop {
            let before = model.partition.offsets();
            let read = self.log.read(&model.partition, from, max, one, limit);
            if model.partition.offsets() == before {
                break (before, read);
            }
        };
        if from < model.log_start || from > model.log_end {
            assert!(
                matches!(read, Err(StorageError::OffsetOutOfRange { .. })),
                "{read:?}"
            );
            return;
        }
        let read = read.expect("reads");
        let end = Model::end_of(limit, &offsets);
        let (batches, next) = model.read(from, end, max, one);
        assert_eq!(read.batches, batches, "from {from} to {end}, at most {max}");
        assert_eq!(read.bytes, batches.iter().map(Bytes::len).sum::<usize>());
        if limit != ReadLimit::Stable || batches.is_empty() {
            assert!(read.aborted.is_empty());
        } else if let Some(aborted) = model.aborted_in(from, next) {
            let found: Vec<_> = read
                .aborted
                .iter()
                .map(|held| (held.last_offset, held.producer_id))
                .collect();
            assert_eq!(found, aborted, "{from}..{next}");
        }
        let beyond = end.max(from);
        let mut watch = Watch::new();
        watch.add(&model.partition, limit, beyond);
        if Model::end_of(limit, &model.partition.offsets()) <= beyond {
            assert!(model.partition.parked_fetches() <= 1);
        }
        drop(watch);
        assert_eq!(model.partition.parked_fetches(), 0);
        self.models[partition].observe(&offsets);
    }

    pub(super) fn look_up_times(&mut self) {
        if self.faulted {
            return;
        }
        self.barrier();
        let partition = self.partition();
        let model = &self.models[partition];
        let limit = LIMITS[self.rng.usize(0..3)];
        for _ in 0..5 {
            let timestamp = match self.rng.u8(0..12) {
                0 => i64::MIN,
                1 => i64::MAX,
                2 => -1,
                _ => self.rng.i64(0..102),
            };
            let (offsets, found) = loop {
                let before = model.partition.offsets();
                let found = self
                    .log
                    .offset_for_timestamp(&model.partition, timestamp, limit);
                if model.partition.offsets() == before {
                    break (before, found);
                }
            };
            let found = found
                .expect("looks up")
                .map(|held| (held.timestamp, held.offset));
            let end = Model::end_of(limit, &offsets);
            assert_eq!(
                found,
                model.first_since(timestamp, end),
                "since {timestamp}"
            );
        }
        let (offsets, found) = loop {
            let before = model.partition.offsets();
            let found = self.log.max_timestamp(&model.partition, limit);
            if model.partition.offsets() == before {
                break (before, found);
            }
        };
        let found = found
            .expect("looks up")
            .map(|held| (held.timestamp, held.offset));
        assert_eq!(
            found,
            model.greatest(Model::end_of(limit, &offsets)),
            "greatest"
        );
    }

    /// Checks what a reader may see at any time, and all that is derived from the log.
    pub(super) fn check_all(&mut self) {
        self.barrier();
        for index in 0..PARTITIONS {
            let (offsets, state) = {
                let inner = self.models[index].partition.lock();
                (inner.state.offsets(), inner.state.clone())
            };
            self.check_offsets(index, &offsets);
            let model = &mut self.models[index];
            model.observe(&offsets);
            if self.faulted {
                continue;
            }
            assert_eq!(
                (offsets.log_start, offsets.log_end, offsets.leader_epoch),
                (model.log_start, model.log_end, model.leader_epoch)
            );
            assert_eq!(
                offsets.last_stable,
                model.last_stable(offsets.high_watermark)
            );
            assert_eq!(state.epochs, model.epochs);
            let limit = i64::MAX;
            let (held, _) = model.read(model.log_start, limit, usize::MAX, true);
            let bytes: usize = held.iter().map(Bytes::len).sum();
            assert_eq!(state.size_bytes, bytes as u64, "bytes held");
            let matched = model.match_producers(&state.producers, false, false);
            matched.unwrap_or_else(|what| panic!("{what}"));
            let aborted = state.aborted_in(0, i64::MAX);
            assert!(
                aborted
                    .iter()
                    .all(|held| held.last_offset >= model.log_start)
            );
            for epoch in -1..model.leader_epoch + 3 {
                let end = model.partition.epoch_end(epoch);
                assert_eq!(end, model.epoch_end(epoch), "epoch {epoch}");
            }
            for offset in model.log_start..model.log_end {
                let epoch = model.epoch_of(offset).expect("every offset is held");
                assert_eq!(model.partition.epoch_of(offset), epoch, "offset {offset}");
            }
        }
    }

    /// Nothing is shown as committed or as fsynced that a power cut would take.
    fn check_offsets(&self, index: usize, offsets: &Offsets) {
        let model = &self.models[index];
        let ends = [
            offsets.log_start,
            offsets.last_stable,
            offsets.high_watermark,
            offsets.committed_end,
            offsets.log_end,
        ];
        assert!(ends.is_sorted(), "{offsets:?}");
        let Some(engine) = self.store.memory() else {
            return;
        };
        let handle = model.partition.handle();
        let (from, to) = keys::batches(handle, 0);
        let durable_end = match engine.durable_last(Family::Log, &from, &to) {
            Some((_, value)) => BatchHeader::parse(&value).expect("a batch").next_offset(),
            None => engine
                .durable(Family::Log, &keys::start(handle))
                .and_then(|value| keys::parse_start(&value))
                .map_or(0, |start| start.offset),
        };
        let durable_end = durable_end.max(offsets.log_start);
        assert!(
            offsets.fsynced_end <= durable_end,
            "{offsets:?}, durable {durable_end}"
        );
        let shown = model.batches.iter().filter(|held| {
            held.durable_topic && held.header.next_offset() <= offsets.high_watermark
        });
        for held in shown {
            let end = held.header.next_offset();
            assert!(
                end <= durable_end,
                "{offsets:?} shows {end}, durable {durable_end}"
            );
        }
    }
}
