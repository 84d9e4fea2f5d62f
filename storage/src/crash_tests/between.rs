//! A store with somebody between it and the log, who may hold a call up or fail it. The only wrapper of an engine;
//! what it does to calls is said by a `Between`: a life that ends (`store.rs`), a gate (`gate.rs`), or a flush
//! (`flushed.rs`).

use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{Engine, Family, Start, Visit, WriteOps};
use crate::error::EngineError;
use crate::reclaim::{Space, ValueFile};

/// Stands between the log and a store. What is not overridden passes as it is.
pub(super) trait Between: Send + Sync + 'static {
    fn write(&self, engine: &dyn Engine, ops: &WriteOps) -> Result<(), EngineError> {
        engine.write(ops)
    }

    fn sync(&self, engine: &dyn Engine) -> Result<(), EngineError> {
        engine.sync()
    }

    fn get(
        &self,
        engine: &dyn Engine,
        family: Family,
        key: &[u8],
    ) -> Result<Option<Bytes>, EngineError> {
        engine.get(family, key)
    }

    fn is_flushed(&self, engine: &dyn Engine, journal: u64) -> bool {
        engine.is_flushed(journal)
    }

    fn begin_flush(&self, engine: &dyn Engine) {
        engine.begin_flush();
    }

    /// A scan from `start` on is over, after so many keys, but the log does not know yet.
    fn scanned(&self, _start: Start<'_>, _visited: u64) {}
}

/// The store as the log sees it.
pub(super) struct Through<B> {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) between: B,
}

impl<B: Between> Engine for Through<B> {
    fn write(&self, ops: &WriteOps) -> Result<(), EngineError> {
        self.between.write(self.engine.as_ref(), ops)
    }
    fn sync(&self) -> Result<(), EngineError> {
        self.between.sync(self.engine.as_ref())
    }
    fn journal(&self) -> Result<u64, EngineError> {
        self.engine.journal()
    }
    fn is_flushed(&self, journal: u64) -> bool {
        self.between.is_flushed(self.engine.as_ref(), journal)
    }
    fn begin_flush(&self) {
        self.between.begin_flush(self.engine.as_ref());
    }
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.between.get(self.engine.as_ref(), family, key)
    }
    fn scan(
        &self,
        family: Family,
        start: Start<'_>,
        to: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), EngineError> {
        let mut visited = 0;
        let scanned = self.engine.scan(family, start, to, &mut |key, value| {
            visited += 1;
            visit(key, value)
        });
        self.between.scanned(start, visited);
        scanned
    }
    fn last(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
    ) -> Result<Option<(Vec<u8>, Bytes)>, EngineError> {
        self.engine.last(family, from, to)
    }
    fn compact(&self, from: &[u8], to: &[u8]) -> Result<(), EngineError> {
        self.engine.compact(from, to)
    }
    fn value_files(&self) -> Result<Vec<ValueFile>, EngineError> {
        self.engine.value_files()
    }
    fn collect(&self, end: u64) -> Result<(), EngineError> {
        self.engine.collect(end)
    }
    fn space(&self) -> Result<Space, EngineError> {
        self.engine.space()
    }
    fn properties(&self) -> Vec<(&'static str, u64)> {
        self.engine.properties()
    }
}
