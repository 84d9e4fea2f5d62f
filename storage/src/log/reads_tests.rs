//! Reads that do not wait, over RocksDB: they give what reads that wait give, or nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use ottla_protocol::batch::{BatchBuilder, BatchHeader};

use super::*;
use crate::directory::TempDir;
use crate::log::{AppendEntry, NoObserver};
use crate::log_tests::{ID, TestClock, block};
use crate::rocks::{RocksEngine, RocksOptions};
use crate::waiters::Acks;

#[test]
fn what_can_be_read_at_once_is_what_who_waits_would_read() {
    let seed = 77;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = TempDir::on_disk("reads-now");
    let engine = Arc::new(RocksEngine::open(dir.path(), &RocksOptions::default()).expect("opens"));
    let clock = Arc::new(TestClock(AtomicI64::new(1_000)));
    let log = Log::open(engine.clone(), 1, clock, Arc::new(NoObserver)).expect("opens");
    let partition = block(log.create(vec![ID])).expect("creates").remove(0);
    for index in 0..120 {
        // Now and then one that does not stay in its file.
        let most = if index % 20 == 7 { 9_000 } else { 60_000 };
        let value =
            vec![rng.u8(..); rng.usize(most / 2 + 16_000 * usize::from(most > 9_000)..most)];
        let mut batch = BatchBuilder::new(1_000);
        for _ in 0..rng.usize(1..4) {
            batch = batch.record(1_000, None, Some(&value), &[]);
        }
        let bytes = batch.build();
        let entry = AppendEntry {
            partition: partition.clone(),
            header: BatchHeader::parse(&bytes).expect("a batch"),
            bytes: bytes.into(),
            leader_epoch: partition.offsets().leader_epoch,
        };
        let answers = block(log.append(vec![entry], Acks::All)).expect("open");
        block(answers)
            .expect("answered")
            .remove(0)
            .expect("appended");
    }
    engine.settle(false);
    let end = partition.offsets().log_end;
    let (mut at_once, mut waits, mut in_files) = (0, 0, 0);
    for _ in 0..3_000 {
        let from = rng.i64(-1..end + 2);
        let most = Most {
            bytes: rng.usize(0..400_000),
            first: [0, 50_000, usize::MAX][rng.usize(0..3)],
        };
        let limit = [
            ReadLimit::LogEnd,
            ReadLimit::HighWatermark,
            ReadLimit::Stable,
        ];
        let limit = limit[rng.usize(0..3)];
        let now = log.read_now(&partition, from, most, limit);
        let waited = log.read_most(&partition, from, most, limit);
        let waited = waited.and_then(Read::in_memory);
        let now = match now {
            Ok(Some(now)) => {
                let is_in_file = |batch: &&Records| matches!(batch, Records::File(_));
                in_files += now.batches.iter().filter(is_in_file).count();
                now.in_memory()
            }
            Ok(None) => {
                waits += 1;
                continue;
            }
            Err(error) => Err(error),
        };
        let told = |read: Read| (read.batches, read.bytes, read.left_out, read.aborted);
        assert_eq!(
            now.map(told),
            waited.map(told),
            "from {from}, {most:?}, {limit:?}"
        );
        at_once += 1;
    }
    assert!(in_files > 1_000, "{in_files} batches");
    assert!(
        at_once > 1_000 && waits > 100,
        "{at_once} at once, {waits} not"
    );
}
