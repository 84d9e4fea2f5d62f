//! The batches of one Produce request on their way to the log, with the room that some need beyond the request's own.
//!
//! Used by `produce.rs`. All batches of a request go to the log together. Only where a batch is to get another codec,
//! may grow by that, and finds no room at once, is what the request has so far written first. Invariant: whoever waits
//! for room holds none, so nobody waits for ever.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ottla_storage::error::StorageError;
use ottla_storage::log::{AppendEntry, Log};
use ottla_storage::partition::Appended;
use ottla_storage::waiters::Acks;
use tokio::sync::AcquireError;

use crate::room::{Held, Room};

/// What became of each batch, in the order of their places.
pub(super) type Results = Vec<Result<Appended, StorageError>>;

pub(super) struct Submission<'a> {
    log: &'a Log,
    acks: Acks,
    /// What became of the batches that are written already.
    written: Results,
    entries: Vec<AppendEntry>,
    grown: Option<Held>,
}

impl<'a> Submission<'a> {
    pub(super) fn new(log: &'a Log, acks: Acks) -> Self {
        Self {
            log,
            acks,
            written: Vec::new(),
            entries: Vec::new(),
            grown: None,
        }
    }

    /// Waits for room for `bytes`.
    ///
    /// # Errors
    /// Only that the broker shuts down.
    pub(super) async fn room(&mut self, room: &Room, bytes: usize) -> Result<Held, AcquireError> {
        if let Some(held) = room.take(bytes).now_or_never() {
            return held;
        }
        self.write().await;
        room.take(bytes).await
    }

    /// Adds a batch, with the room for what it has grown by; its place among the results.
    pub(super) fn push(&mut self, entry: AppendEntry, grown: Option<Held>) -> usize {
        let place = self.written.len() + self.entries.len();
        self.entries.push(entry);
        if let Some(grown) = grown {
            match &mut self.grown {
                Some(held) => held.add(grown),
                None => self.grown = Some(grown),
            }
        }
        place
    }

    /// Writes what there is, and gives back its room.
    async fn write(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        let count = entries.len();
        if count > 0 {
            let answers = match self.log.append(entries, self.acks).await {
                Ok(answers) => answers.await.ok(),
                Err(_) => None,
            };
            let lost = || {
                (0..count)
                    .map(|_| Err(StorageError::ShuttingDown))
                    .collect()
            };
            self.written.extend(answers.unwrap_or_else(lost));
        }
        self.grown = None;
    }

    /// Hands all to the log. When it returns, the request has its place in the order of the log; what it returns waits
    /// for the answers. Batches that are missing in them were not written, because the broker shuts down.
    pub(super) async fn submit(self) -> BoxFuture<'static, Results> {
        let Self {
            log,
            acks,
            mut written,
            entries,
            grown,
        } = self;
        let answers = if entries.is_empty() {
            None
        } else {
            log.append(entries, acks).await.ok()
        };
        Box::pin(async move {
            if let Some(answers) = answers {
                written.extend(answers.await.unwrap_or_default());
            }
            drop(grown);
            written
        })
    }
}
