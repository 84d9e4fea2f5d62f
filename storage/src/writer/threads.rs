//! The writer's thread and the syncer's: they begin here, and a panic of either fails the store. What they do stands in
//! `writer.rs` and `writer/syncer.rs`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::syncer::{Shared, sync_loop};
use super::{Command, Writer};
use crate::error::EngineError;

/// The two threads.
#[derive(Debug)]
pub(crate) struct Threads {
    writer: JoinHandle<()>,
    syncer: JoinHandle<()>,
}

impl Threads {
    pub(crate) fn join(self) {
        for thread in [self.writer, self.syncer] {
            if thread.join().is_err() {
                tracing::error!("a log thread panicked");
            }
        }
    }
}

/// Starts the writer and the syncer. `tail_bytes` of the newest batches stay in memory (`tail.rs`).
pub(crate) fn start(
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    tail_bytes: usize,
) -> Threads {
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>, shared: Arc<Shared>| {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(body)).is_err() {
                    shared.fail(&EngineError::Failed("a log thread panicked".to_owned()));
                }
                shared.close_queue();
            })
            .expect("the system has room for two threads at start")
    };
    let (writer_shared, syncer_shared) = (shared.clone(), shared.clone());
    Threads {
        writer: spawn(
            "ottla-writer",
            Box::new(move || Writer::new(writer_shared, tail_bytes).run(commands)),
            shared.clone(),
        ),
        syncer: spawn(
            "ottla-syncer",
            Box::new(move || sync_loop(&syncer_shared)),
            shared,
        ),
    }
}
