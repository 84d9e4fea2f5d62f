//! Which transactions of a log were aborted, and which still have batches, as batches go by in log order (Kafka's
//! `CleanedTransactionMetadata`). Used by a cleaning round, while it maps keys and again while it filters.
//!
//! A marker may go only when no batch of its transaction is left, and no reader may be told of an aborted transaction
//! whose marker is gone: it would take the producer's next transaction for aborted. So an entry of the aborted index
//! goes with the last batch, and the marker in a later round. Invariant: batches come in log order, from the log start
//! (or, for mapping, from the first dirty offset) on.

use std::collections::{HashMap, HashSet, VecDeque};

use ottla_protocol::batch::BatchHeader;

use crate::producers::AbortedTransaction;

/// Transactions, as far as the batches seen tell of them.
#[derive(Debug)]
pub(crate) struct Transactions {
    /// Aborted ones that have not begun yet, by first offset.
    upcoming: VecDeque<AbortedTransaction>,
    /// Aborted ones that have begun, by producer, and whether one of their batches was seen.
    aborted: HashMap<i64, (AbortedTransaction, bool)>,
    /// Producers of batches that no abort is known for.
    committed: HashSet<i64>,
}

/// What a marker means for its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// No batch of the transaction is left, so that the marker may go, too.
    pub(crate) is_empty: bool,
    /// The aborted transaction that readers need not be told of any more.
    pub(crate) forgotten: Option<AbortedTransaction>,
}

impl Transactions {
    /// Knows of these aborted transactions.
    pub(crate) fn new(mut aborted: Vec<AbortedTransaction>) -> Self {
        aborted.sort_unstable_by_key(|held| (held.first_offset, held.producer_id));
        Self {
            upcoming: aborted.into(),
            aborted: HashMap::new(),
            committed: HashSet::new(),
        }
    }

    /// A batch of data goes by: whether it belongs to an aborted transaction.
    pub(crate) fn is_aborted(&mut self, batch: &BatchHeader) -> bool {
        self.begin_up_to(batch.last_offset());
        if !batch.is_transactional() {
            return false;
        }
        match self.aborted.get_mut(&batch.producer_id) {
            Some((_, seen)) => {
                *seen = true;
                true
            }
            None => {
                self.committed.insert(batch.producer_id);
                false
            }
        }
    }

    /// A control batch goes by, which commits or aborts, or says nothing: it was emptied, or is of a kind that is not
    /// known, which then stays.
    pub(crate) fn ended(&mut self, batch: &BatchHeader, commits: Option<bool>) -> Ended {
        self.begin_up_to(batch.last_offset());
        let (is_empty, forgotten) = match commits {
            Some(false) => match self.aborted.remove(&batch.producer_id) {
                Some((_, true)) => (false, None),
                Some((transaction, false)) => (true, Some(transaction)),
                None => (true, None),
            },
            Some(true) => (!self.committed.remove(&batch.producer_id), None),
            None => (batch.record_count == 0, None),
        };
        Ended {
            is_empty,
            forgotten,
        }
    }

    fn begin_up_to(&mut self, offset: i64) {
        while let Some(next) = self.upcoming.front()
            && next.first_offset <= offset
        {
            self.aborted
                .entry(next.producer_id)
                .or_insert((*next, false));
            self.upcoming.pop_front();
        }
    }
}
