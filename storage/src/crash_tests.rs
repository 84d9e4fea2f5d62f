//! What bad luck and hostile bytes do to a log: named cases in `bad_luck.rs`, `hostile.rs` and
//! `two_threads.rs`, and a search at random for cases that nobody thought of.

mod bad_luck;
mod between;
mod checks;
mod cleaning;
mod flushed;
mod full_disk;
mod gate;
mod hostile;
mod model;
mod restart;
mod store;
mod two_threads;
mod world;

use bytes::Bytes;
use ottla_protocol::batch::{self, BatchBuilder};

fn transactional(producer_id: i64, epoch: i16, sequence: i32) -> Bytes {
    BatchBuilder::new(1_000)
        .producer(producer_id, epoch, sequence)
        .transactional(true)
        .record(1_000, None, Some(b"v"), &[])
        .build()
}

/// A batch of a leader, as a follower gets it.
fn stamped(bytes: &Bytes, base_offset: i64, leader_epoch: i32) -> Bytes {
    let mut bytes = bytes.to_vec();
    batch::stamp(&mut bytes, base_offset, leader_epoch);
    bytes.into()
}

/// Seeds to run, from the environment variable `name` (`first..last`) or `first..last` as given here.
fn seeds(name: &str, usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let asked = std::env::var(name).ok();
    let parsed = asked.as_deref().map(|asked| {
        let (first, last) = asked.split_once("..").expect("first..last");
        first.parse().expect("a seed")..last.parse().expect("a seed")
    });
    parsed.unwrap_or(usual)
}

#[test]
fn any_sequence_of_calls_faults_and_crashes_leaves_what_the_model_says() {
    for seed in seeds("OTTLA_CRASH_SEEDS", 0..2_000) {
        println!("seed {seed}");
        world::run_in_memory(seed, 60);
    }
}

#[test]
fn a_killed_process_finds_on_rocksdb_what_the_model_says() {
    for seed in seeds("OTTLA_CRASH_ROCKS_SEEDS", 0..24) {
        println!("seed {seed}");
        world::run_on_rocks(seed, 60);
    }
}
