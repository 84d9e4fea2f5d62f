//! Many partitions recovered at once, on several threads: what each is alone, and the same error at every start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ottla_protocol::batch::BatchHeader;
use uuid::Uuid;

use crate::engine::{Engine, Family, WriteOps};
use crate::error::{EngineError, StorageError};
use crate::keys::{self, Handle, PartitionId};
use crate::log::{AppendEntry, Log, NoObserver};
use crate::log_tests::{TestClock, block, sequenced};
use crate::memory::MemoryEngine;
use crate::partition::PartitionState;
use crate::producers::DEFAULT_LIMIT;
use crate::recovery::{recover, recover_all};
use crate::waiters::Acks;

const PARTITIONS: i32 = 40;

fn id(partition: i32) -> PartitionId {
    PartitionId {
        topic_id: Uuid::from_u128(99),
        partition,
    }
}

fn open(engine: &Arc<MemoryEngine>) -> Result<Log, StorageError> {
    let clock = Arc::new(TestClock(1_000.into()));
    Log::open(engine.clone(), 1, clock, Arc::new(NoObserver))
}

/// A store of partitions of which each holds a batch more than the one before, and their handles.
fn store() -> (Arc<MemoryEngine>, Vec<Handle>) {
    let engine = Arc::new(MemoryEngine::new());
    let log = open(&engine).expect("opens");
    let created = block(log.create((0..PARTITIONS).map(id).collect())).expect("creates");
    for (partition, batches) in created.iter().zip(0..) {
        for sequence in 0..batches {
            let bytes = sequenced(7, 0, sequence, 1);
            let entry = AppendEntry {
                partition: partition.clone(),
                header: BatchHeader::parse(&bytes).expect("a batch"),
                bytes: bytes.into(),
                leader_epoch: 0,
            };
            let answers = block(log.append(vec![entry], Acks::All)).expect("the log is open");
            assert!(block(answers).expect("answered")[0].is_ok());
        }
    }
    block(log.close()).expect("closes");
    let handles = created.iter().map(|partition| partition.handle()).collect();
    (engine, handles)
}

fn put(engine: &MemoryEngine, key: Vec<u8>, value: Vec<u8>) {
    let mut ops = WriteOps::new();
    ops.put(Family::Log, key, value);
    engine.write(&ops).expect("writes");
}

#[test]
fn each_of_many_partitions_is_recovered_as_if_it_were_alone() {
    let (engine, handles) = store();
    let together = Mutex::new(BTreeMap::new());
    let take = |state: PartitionState| {
        let other = together
            .lock()
            .expect("no panic")
            .insert(state.handle, state);
        assert_eq!(other, None, "once");
    };
    let each = |handle| recover(engine.as_ref(), handle, 1, DEFAULT_LIMIT);
    recover_all(&handles, &each, &take).expect("recovers");
    let together = together.into_inner().expect("no panic");
    assert_eq!(together.len(), handles.len());
    for (handle, batches) in handles.iter().zip(0..) {
        let alone = recover(engine.as_ref(), *handle, 1, DEFAULT_LIMIT).expect("recovers");
        assert_eq!(together[handle], alone);
        assert_eq!(alone.log_end, batches);
        assert_eq!(alone.producers.is_empty(), batches == 0);
    }
}

#[test]
fn the_first_damaged_partition_is_told_whichever_thread_comes_upon_which_first() {
    let (engine, handles) = store();
    for damaged in [handles[31], handles[7], handles[13]] {
        put(&engine, keys::batch(damaged, 1_000), vec![0; 10]);
    }
    let alone = recover(engine.as_ref(), handles[7], 1, DEFAULT_LIMIT).expect_err("it is damaged");
    for _ in 0..200 {
        let each = |handle| recover(engine.as_ref(), handle, 1, DEFAULT_LIMIT);
        let outcome = recover_all(&handles, &each, &|_| {});
        assert_eq!(outcome.as_ref(), Err(&alone));
    }
    let StorageError::Engine(EngineError::Corruption(alone)) = alone else {
        panic!("{alone}")
    };
    let told = open(&engine).expect_err("damaged").to_string();
    assert!(
        told.contains("partition 7 of topic") && told.contains(&alone),
        "{told}"
    );
}

#[test]
fn a_handle_that_two_partitions_have_is_refused() {
    let (engine, handles) = store();
    let key = keys::binding(id(PARTITIONS));
    put(&engine, key, keys::handle_value(handles[3]));
    let refused = open(&engine).expect_err("two logs under one handle");
    assert!(
        matches!(&refused, StorageError::Engine(EngineError::Corruption(why)) if why.contains("bound twice")),
        "{refused}"
    );
}
