//! An engine in memory for tests: an ordered map that forgets unsynced writes on a simulated power cut and
//! fails on demand. Never used by a running broker.
//!
//! Invariant: `live` is what reads see; `durable` plus the `unsynced` writes in order is equal to it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::{Condvar, Mutex, MutexGuard};

use bytes::Bytes;

use crate::engine::{Engine, Family, Op, Start, Visit, WriteOps};
use crate::error::EngineError;
use crate::reclaim::{Space, ValueFile};

type Map = BTreeMap<(Family, Vec<u8>), Bytes>;

#[derive(Debug, Default)]
struct State {
    live: Map,
    durable: Map,
    unsynced: VecDeque<WriteOps>,
    /// How many writes are durable; with `unsynced` it numbers every write.
    synced_writes: u64,
    power_cuts: u64,
    fail_writes: Option<EngineError>,
    fail_syncs: Option<EngineError>,
    unreadable: BTreeMap<(Family, Vec<u8>), EngineError>,
    syncs_held: bool,
    syncs: u64,
    writes: u64,
    scans: u64,
}

/// The engine; share it through an `Arc` and reopen logs on it to simulate a restart.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    state: Mutex<State>,
    released: Condvar,
}

impl MemoryEngine {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lock is held")
    }

    /// A power cut: everything not synced is gone, and a sync on its way fails. Injected faults end.
    pub fn power_cut(&self) {
        self.power_off();
        self.power_on();
    }

    /// The first half of a power cut: until the second one nothing is written or synced, whoever is still at work.
    pub fn power_off(&self) {
        let mut state = self.lock();
        state.live = state.durable.clone();
        state.unsynced.clear();
        state.power_cuts += 1;
        let off = EngineError::Io("power cut".to_owned());
        state.fail_writes = Some(off.clone());
        state.fail_syncs = Some(off);
        state.syncs_held = false;
        self.released.notify_all();
    }

    /// The second half.
    pub fn power_on(&self) {
        let mut state = self.lock();
        state.fail_writes = None;
        state.fail_syncs = None;
    }

    /// Every write from now on fails with `error`; `None` ends it.
    pub fn fail_writes(&self, error: Option<EngineError>) {
        self.lock().fail_writes = error;
    }

    /// Every sync from now on fails with `error`; `None` ends it.
    pub fn fail_syncs(&self, error: Option<EngineError>) {
        self.lock().fail_syncs = error;
    }

    /// From now on whoever comes to the value of this key, looking for it or in passing, finds damage. It outlives power
    /// cuts, and ends with `mend`.
    pub fn damage(&self, family: Family, key: &[u8]) {
        let damage = EngineError::Corruption("test".to_owned());
        self.fail_reads_of(family, key, damage);
    }

    /// The same with any error, as over a bad sector.
    pub fn fail_reads_of(&self, family: Family, key: &[u8], error: EngineError) {
        self.lock().unreadable.insert((family, key.to_vec()), error);
    }

    /// Everything can be read again.
    pub fn mend(&self) {
        self.lock().unreadable.clear();
    }

    /// While held, `sync` does not return; what it covers is fixed when it is called.
    pub fn hold_syncs(&self, held: bool) {
        self.lock().syncs_held = held;
        self.released.notify_all();
    }

    /// How many syncs succeeded.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// How many writes succeeded.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// How many scans were begun.
    pub fn scans(&self) -> u64 {
        self.lock().scans
    }

    /// What a power cut would leave under one key.
    pub fn durable(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        self.lock().durable.get(&(family, key.to_vec())).cloned()
    }

    /// The greatest key in `from..to`, with its value, that a power cut would leave.
    pub fn durable_last(&self, family: Family, from: &[u8], to: &[u8]) -> Option<(Vec<u8>, Bytes)> {
        last_in(&self.lock().durable, family, from, to)
    }

    /// All keys and values of a family, for comparisons in tests.
    pub fn dump(&self, family: Family) -> Vec<(Vec<u8>, Bytes)> {
        let state = self.lock();
        state
            .live
            .iter()
            .filter(|((held, _), _)| *held == family)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }
}

fn apply(map: &mut Map, ops: &WriteOps) {
    for op in ops.ops() {
        match op {
            Op::Put { family, key, value } => {
                map.insert((*family, key.clone()), value.clone());
            }
            Op::Delete { family, key } => {
                map.remove(&(*family, key.clone()));
            }
            Op::DeleteRange { family, from, to } => {
                let doomed: Vec<_> = map
                    .range((*family, from.clone())..(*family, to.clone()))
                    .map(|(key, _)| key.clone())
                    .collect();
                for key in doomed {
                    map.remove(&key);
                }
            }
        }
    }
}

impl State {
    fn check(&self, family: Family, key: &[u8]) -> Result<(), EngineError> {
        let failure = self.unreadable.get(&(family, key.to_vec()));
        failure.map_or(Ok(()), |error| Err(error.clone()))
    }
}

fn last_in(map: &Map, family: Family, from: &[u8], to: &[u8]) -> Option<(Vec<u8>, Bytes)> {
    if from >= to {
        return None;
    }
    map.range((family, from.to_vec())..(family, to.to_vec()))
        .next_back()
        .map(|((_, key), value)| (key.clone(), value.clone()))
}

impl Engine for MemoryEngine {
    fn write(&self, ops: &WriteOps) -> Result<(), EngineError> {
        let mut state = self.lock();
        if let Some(error) = &state.fail_writes {
            return Err(error.clone());
        }
        apply(&mut state.live, ops);
        state.unsynced.push_back(ops.clone());
        state.writes += 1;
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut state = self.lock();
        let covered = state.synced_writes + state.unsynced.len() as u64;
        let power_cuts = state.power_cuts;
        while state.syncs_held {
            state = self
                .released
                .wait(state)
                .expect("no panic while the lock is held");
        }
        if state.power_cuts != power_cuts {
            return Err(EngineError::Io("power cut".to_owned()));
        }
        if let Some(error) = &state.fail_syncs {
            return Err(error.clone());
        }
        // Another sync may have covered some of it meanwhile.
        while state.synced_writes < covered {
            let ops = state.unsynced.pop_front();
            apply(
                &mut state.durable,
                &ops.expect("every write not synced is listed"),
            );
            state.synced_writes += 1;
        }
        state.syncs += 1;
        Ok(())
    }

    fn journal(&self) -> Result<u64, EngineError> {
        Ok(0)
    }

    fn is_flushed(&self, _: u64) -> bool {
        false
    }

    // There are no files.
    fn begin_flush(&self) {}

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let state = self.lock();
        let Some(value) = state.live.get(&(family, key.to_vec())) else {
            return Ok(None);
        };
        state.check(family, key)?;
        Ok(Some(value.clone()))
    }

    fn scan(
        &self,
        family: Family,
        start: Start<'_>,
        to: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), EngineError> {
        let found: Vec<(Vec<u8>, Result<Bytes, EngineError>)> = {
            let mut state = self.lock();
            state.scans += 1;
            let from = match start {
                Start::At(key) => key.to_vec(),
                Start::Floor { key, lower } => {
                    let floor = state
                        .live
                        .range((
                            Bound::Included((family, lower.to_vec())),
                            Bound::Included((family, key.to_vec())),
                        ))
                        .next_back();
                    floor.map_or_else(|| key.to_vec(), |((_, key), _)| key.clone())
                }
            };
            if from.as_slice() >= to {
                return Ok(());
            }
            state
                .live
                .range((family, from)..(family, to.to_vec()))
                .map(|((_, key), value)| {
                    let read = state.check(family, key).map(|()| value.clone());
                    (key.clone(), read)
                })
                .collect()
        };
        for (key, value) in found {
            if let ControlFlow::Break(()) = visit(&key, &value?) {
                break;
            }
        }
        Ok(())
    }

    fn last(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
    ) -> Result<Option<(Vec<u8>, Bytes)>, EngineError> {
        let state = self.lock();
        let found = last_in(&state.live, family, from, to);
        if let Some((key, _)) = &found {
            state.check(family, key)?;
        }
        Ok(found)
    }

    /// What is deleted is gone at once.
    fn compact(&self, _: &[u8], _: &[u8]) -> Result<(), EngineError> {
        Ok(())
    }

    fn value_files(&self) -> Result<Vec<ValueFile>, EngineError> {
        Ok(Vec::new())
    }

    fn collect(&self, _: u64) -> Result<(), EngineError> {
        Ok(())
    }

    fn space(&self) -> Result<Space, EngineError> {
        let state = self.lock();
        let held = state.live.iter().filter(|((family, _), _)| family.in_log());
        Ok(Space {
            key_bytes: held
                .map(|((_, key), value)| (key.len() + value.len()) as u64)
                .sum(),
            ..Space::default()
        })
    }

    fn properties(&self) -> Vec<(&'static str, u64)> {
        let state = self.lock();
        vec![("keys", state.live.len() as u64), ("syncs", state.syncs)]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conformance;

    #[test]
    fn conforms() {
        let engine = Arc::new(MemoryEngine::new());
        conformance::run(&mut || engine.clone());
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
        let engine = MemoryEngine::new();
        let mut ops = WriteOps::new();
        ops.put(Family::Log, b"kept".to_vec(), &b"1"[..]);
        engine.write(&ops).expect("writes");
        engine.sync().expect("syncs");
        let mut ops = WriteOps::new();
        ops.put(Family::Log, b"lost".to_vec(), &b"2"[..]);
        engine.write(&ops).expect("writes");
        engine.power_cut();
        assert!(engine.get(Family::Log, b"kept").expect("gets").is_some());
        assert!(engine.get(Family::Log, b"lost").expect("gets").is_none());
    }

    #[test]
    fn whoever_comes_to_a_damaged_value_hears_of_it_and_nobody_else() {
        let engine = MemoryEngine::new();
        let mut ops = WriteOps::new();
        for key in [b"a", b"b", b"c"] {
            ops.put(Family::Log, key.to_vec(), &b"1"[..]);
        }
        engine.write(&ops).expect("writes");
        engine.sync().expect("syncs");
        engine.damage(Family::Log, b"b");
        engine.power_cut();
        let scan = |start: Start<'_>, to: &[u8]| {
            let mut visited = 0;
            let scanned = engine.scan(Family::Log, start, to, &mut |_, _| {
                visited += 1;
                ControlFlow::Continue(())
            });
            (scanned.is_ok(), visited)
        };
        assert_eq!(scan(Start::At(b"a"), b"d"), (false, 1));
        assert_eq!(scan(Start::At(b"a"), b"b"), (true, 1));
        let floor = Start::Floor {
            key: b"bb",
            lower: b"a",
        };
        assert_eq!(scan(floor, b"d"), (false, 0));
        assert!(engine.get(Family::Log, b"b").is_err());
        assert!(engine.get(Family::Log, b"a").is_ok());
        assert!(engine.last(Family::Log, b"a", b"c").is_err());
        assert!(engine.last(Family::Log, b"a", b"d").is_ok());
        engine.mend();
        assert_eq!(scan(Start::At(b"a"), b"d"), (true, 3));
    }

    #[test]
    fn faults_come_and_go() {
        let engine = MemoryEngine::new();
        engine.fail_writes(Some(EngineError::Full("test".into())));
        let mut ops = WriteOps::new();
        ops.put(Family::Log, b"k".to_vec(), &b"1"[..]);
        assert_eq!(engine.write(&ops), Err(EngineError::Full("test".into())));
        engine.fail_writes(None);
        engine.write(&ops).expect("writes");
        engine.fail_syncs(Some(EngineError::Io("test".into())));
        assert_eq!(engine.sync(), Err(EngineError::Io("test".into())));
        engine.power_cut();
        assert_eq!(engine.get(Family::Log, b"k"), Ok(None));
    }
}
