//! A disk that is full: for writes, which readers outlive, and for syncs, which nobody does.

use crate::error::{EngineError, StorageError};
use crate::log_tests::{Bench, block, plain};
use crate::waiters::Acks;

fn full() -> EngineError {
    EngineError::Full("test".to_owned())
}

/// What RocksDB says of a file whose last write failed.
fn consequence() -> EngineError {
    EngineError::Failed("test".to_owned())
}

#[test]
fn a_sync_after_a_failed_write_does_not_make_a_full_disk_worse() {
    let bench = Bench::new();
    bench.appended(plain(1));
    bench.engine.hold_syncs(true);
    let written = bench.submit(plain(1), Acks::All);
    bench.engine.fail_writes(Some(full()));
    bench.engine.fail_syncs(Some(consequence()));
    let refused = bench.append(plain(1));
    assert_eq!(refused, Err(StorageError::Engine(full())));
    let results = block(written).expect("answered");
    assert_eq!(results, [Err(StorageError::Engine(full()))]);
    bench.engine.hold_syncs(false);
    block(bench.log.close()).expect_err("the syncer has ended, and nothing was closed");
    assert_eq!(bench.log.failure(), Some(full()));
    assert_eq!(bench.read(0), Ok(vec![0]), "reads go on");
}

#[test]
fn a_sync_that_meets_a_failed_write_first_waits_for_the_writer_to_say_why() {
    let bench = Bench::new();
    bench.engine.fail_syncs(Some(consequence()));
    let written = bench.submit(plain(1), Acks::All);
    bench.engine.fail_writes(Some(full()));
    // Whichever of the two threads comes first.
    let refused = block(bench.submit(plain(1), Acks::All)).expect("answered");
    assert_eq!(refused, [Err(StorageError::Engine(full()))]);
    let results = block(written).expect("answered");
    assert_eq!(results, [Err(StorageError::Engine(full()))]);
    assert_eq!(bench.log.failure(), Some(full()));
}

#[test]
fn a_sync_that_finds_no_space_is_a_failed_sync_like_any_other() {
    let bench = Bench::new();
    bench.engine.fail_syncs(Some(full()));
    let io = EngineError::Io("test".to_owned());
    assert_eq!(
        bench.append(plain(1)),
        Err(StorageError::Engine(io.clone()))
    );
    assert_eq!(bench.log.failure(), Some(io));
    let syncs = bench.engine.syncs();
    bench.engine.fail_syncs(None);
    assert!(bench.append(plain(1)).is_err());
    assert_eq!(bench.engine.syncs(), syncs, "and never tried again");
}
