//! What nobody waits for: made durable by a flush instead of a sync, which is asked for where it is much.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use bytes::Bytes;
use ottla_protocol::batch::BatchBuilder;

use super::between::{Between, Through};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::log::{Log, NoObserver};
use crate::log_tests::{Bench, ID, TestClock, block};
use crate::memory::MemoryEngine;
use crate::partition::LogConfig;

/// A store whose writes are in files of their own as soon as somebody asks.
#[derive(Default)]
struct Flushing {
    begun: AtomicUsize,
    syncs: AtomicUsize,
}

impl Between for Flushing {
    fn sync(&self, engine: &dyn Engine) -> Result<(), EngineError> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        engine.sync()
    }

    fn is_flushed(&self, _: &dyn Engine, _: u64) -> bool {
        true
    }

    fn begin_flush(&self, _: &dyn Engine) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }
}

fn batch(bytes: usize) -> Bytes {
    BatchBuilder::new(1_000)
        .record(1_000, None, Some(&vec![7; bytes]), &[])
        .build()
}

#[test]
fn much_that_nobody_waits_for_is_flushed_and_little_is_not() {
    let store = Arc::new(Through {
        engine: Arc::new(MemoryEngine::new()),
        between: Flushing::default(),
    });
    let clock = Arc::new(TestClock(AtomicI64::new(1_000)));
    let log = Log::open(store.clone(), 1, clock, Arc::new(NoObserver)).expect("opens");
    let partition = block(log.create(vec![ID])).expect("creates").remove(0);
    let bench = Bench {
        engine: Arc::new(MemoryEngine::new()),
        log,
        partition,
    };
    // Due at once: the clock stands still.
    bench.partition.set_config(LogConfig {
        flush_messages: i64::MAX,
        flush_ms: 0,
        log_append_time: false,
    });
    let syncs = || store.between.syncs.load(Ordering::SeqCst);
    let before = syncs();
    for (bytes, flushes) in [(1 << 20, 0), (16 << 20, 1)] {
        let end = bench.appended(batch(bytes)) + 1;
        while bench.offsets().fsynced_end < end {
            std::thread::yield_now();
        }
        assert_eq!(
            store.between.begun.load(Ordering::SeqCst),
            flushes,
            "{bytes} bytes"
        );
    }
    assert_eq!(syncs(), before);
}
