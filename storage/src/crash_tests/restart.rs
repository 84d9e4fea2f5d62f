//! The end of a life and the next one: what a `world` does when its process dies, and what must be there then.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::model::Model;
use super::store::Life;
use super::world::{Change, PARTITIONS, World, id_of, open};
use crate::log::{Log, NoObserver, ReadLimit};
use crate::memory::MemoryEngine;
use crate::partition::LogConfig;
use crate::producers;
use crate::recovery;

impl World {
    /// The process dies, perhaps with the power and perhaps while a change is on its way; then the log is opened
    /// again and must hold all that it had promised.
    pub(super) fn crash(&mut self, power_cut: bool, change: Option<(usize, Change)>) {
        let mut on_its_way = None;
        self.cleaning = None;
        if let Some((index, change)) = change {
            on_its_way = Some(self.send(index, change));
            if self.rng.bool() {
                std::thread::yield_now();
            }
        }
        self.life.end();
        if let Some(engine) = self.store.memory().filter(|_| power_cut) {
            engine.power_cut();
        }
        // Whatever was answered before the end counts, and a failure at the end is none.
        self.faulted = true;
        for mut pending in std::mem::take(&mut self.pending) {
            if let Ok(results) = pending.answers.try_recv() {
                self.answered(&pending.expected, results);
            }
        }
        drop(on_its_way);
        if let Some(engine) = self.store.memory() {
            engine.hold_syncs(false);
            engine.fail_writes(None);
            engine.fail_syncs(None);
        }
        self.held = false;
        let life = self.life.clone();
        // A log that is gone for good: nothing but `life` keeps the store open.
        self.log = {
            let (none, clock) = (Arc::new(MemoryEngine::new()), self.clock.clone());
            Log::open(none, 1, clock, Arc::new(NoObserver)).expect("opens")
        };
        self.life = Life::ended();
        while Arc::strong_count(&life) > 1 {
            std::thread::yield_now();
        }
        drop(life);
        self.life = self.store.begin();
        self.log = open(&self.life, &self.clock, self.looks.as_ref());
        self.faulted = false;
        self.recovered(power_cut, change);
    }

    /// Sends a change without waiting for it.
    fn send(&self, index: usize, change: Change) -> Pin<Box<dyn Future<Output = ()>>> {
        let (log, partition) = (self.log.clone(), self.models[index].partition.clone());
        let mut future: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
            match change {
                Change::DeletePrefix(offset) => drop(log.delete_prefix(&partition, offset).await),
                Change::Truncate(offset) => drop(log.truncate_to(&partition, offset).await),
                Change::TruncateFully(offset) => {
                    drop(log.truncate_fully_and_start_at(&partition, offset).await);
                }
                Change::Delete => drop(log.delete(vec![partition.id()]).await),
            }
        });
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        if polled == Poll::Ready(()) {
            return Box::pin(std::future::ready(()));
        }
        future
    }

    fn recovered(&mut self, power_cut: bool, change: Option<(usize, Change)>) {
        let mut lost = BTreeSet::new();
        for index in 0..PARTITIONS {
            let change = change
                .filter(|(at, _)| *at == index)
                .map(|(_, change)| change);
            let Some(partition) = self.log.partition(id_of(index)) else {
                assert!(
                    matches!(change, Some(Change::Delete)),
                    "a partition is lost"
                );
                self.created_anew(index);
                continue;
            };
            let mut model = self.models[index].clone();
            assert_eq!(model.partition.handle(), partition.handle());
            model.partition = partition;
            model.config = LogConfig::default();
            // As if the change had been, or else as if it had not: what a truncation took is not lost.
            let mut before = model.clone();
            let offsets = model.partition.offsets();
            match change {
                Some(Change::DeletePrefix(-1)) => model.delete_prefix(offsets.log_start),
                Some(Change::DeletePrefix(offset)) => model.delete_prefix(offset),
                Some(Change::Truncate(offset)) => model.truncate(offset),
                Some(Change::TruncateFully(offset)) => model.truncate_fully(offset),
                Some(Change::Delete) | None => {}
            }
            let truncated = matches!(change, Some(Change::Truncate(_)));
            let taken = self
                .matches(&mut model, power_cut, truncated)
                .or_else(|what| {
                    let lost = self.matches(&mut before, power_cut, false);
                    model = before;
                    lost.map_err(|other| format!("after {change:?}: {what}\nwithout it: {other}"))
                });
            lost.extend(taken.unwrap_or_else(|what| panic!("partition {index}: {what}")));
            model.leader_epoch = model
                .leader_epoch
                .max(model.partition.offsets().leader_epoch);
            if self.rng.bool() {
                model.leader_epoch += 1;
            }
            model.partition.become_leader(model.leader_epoch, vec![1]);
            self.models[index] = model;
        }
        let first_lost = lost.first().copied().unwrap_or(u64::MAX);
        for (index, model) in self.models.iter().enumerate() {
            let last = model.last_index().unwrap_or(0);
            assert!(
                last < first_lost,
                "partition {index} has {last}, but {first_lost} is lost"
            );
        }
        let no_change: Vec<_> = self
            .models
            .iter()
            .map(|model| model.partition.offsets())
            .collect();
        for offsets in no_change {
            assert_eq!(offsets.high_watermark, offsets.log_end);
        }
        self.check_all();
    }

    /// Compares a recovered partition with a model, and says which batches are lost.
    fn matches(
        &self,
        model: &mut Model,
        power_cut: bool,
        truncated: bool,
    ) -> Result<Vec<u64>, String> {
        let state = model.partition.state();
        if state.log_start != model.log_start {
            return Err(format!(
                "begins at {}, not at {}",
                state.log_start, model.log_start
            ));
        }
        let lost = model.lose_from(state.log_end, power_cut)?;
        let limit = ReadLimit::LogEnd;
        let read = self
            .log
            .read(&model.partition, state.log_start, usize::MAX, true, limit);
        let read = read.map_err(|error| error.to_string())?;
        if !model.is_some_edition(&state, &read.batches, power_cut) {
            return Err("the batches differ".to_owned());
        }
        if state.size_bytes != read.bytes as u64 {
            let (told, held) = (state.size_bytes, read.bytes);
            return Err(format!("holds {held} bytes, not the {told} it tells"));
        }
        if state.epochs != model.epochs {
            return Err(format!(
                "epochs are {:?}, not {:?}",
                state.epochs, model.epochs
            ));
        }
        if state.running_max_timestamp < model.max_timestamp_held() {
            return Err("the greatest timestamp is too small".to_owned());
        }
        model.match_producers(&state.producers, true, truncated)?;
        let again = recovery::recover(
            self.life.as_ref(),
            model.partition.handle(),
            1,
            producers::DEFAULT_LIMIT,
        );
        if again.as_ref() != Ok(&state) {
            return Err("a second recovery differs".to_owned());
        }
        Ok(lost)
    }
}
