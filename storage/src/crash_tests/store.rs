//! The stores of a `world`: what outlives a life of the process, and a life that can be cut off from it.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::directory::TempDir;
use crate::engine::{Engine, Family, Start, Visit, WriteOps};
use crate::error::EngineError;
use crate::memory::MemoryEngine;
use crate::rocks::{RocksEngine, RocksOptions};

/// One life of the process: when it is over, nothing of it reaches the store any more.
pub(super) struct Life {
    engine: Arc<dyn Engine>,
    pub(super) rocks: Option<Arc<RocksEngine>>,
    over: Mutex<bool>,
}

impl Life {
    /// One that is over, on a store of nothing.
    pub(super) fn ended() -> Arc<Self> {
        Arc::new(Self {
            engine: Arc::new(MemoryEngine::new()),
            rocks: None,
            over: Mutex::new(true),
        })
    }

    pub(super) fn end(&self) {
        *self.over.lock().expect("not poisoned") = true;
    }
}

fn killed() -> EngineError {
    EngineError::Io("killed".to_owned())
}

impl Engine for Life {
    fn write(&self, ops: &WriteOps) -> Result<(), EngineError> {
        let over = self.over.lock().expect("not poisoned");
        if *over {
            return Err(killed());
        }
        self.engine.write(ops)
    }
    fn sync(&self) -> Result<(), EngineError> {
        if *self.over.lock().expect("not poisoned") {
            return Err(killed());
        }
        self.engine.sync()?;
        if *self.over.lock().expect("not poisoned") {
            return Err(killed());
        }
        Ok(())
    }
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(family, key)
    }
    fn scan(
        &self,
        family: Family,
        start: Start<'_>,
        to: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), EngineError> {
        self.engine.scan(family, start, to, visit)
    }
    fn last(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
    ) -> Result<Option<(Vec<u8>, Bytes)>, EngineError> {
        self.engine.last(family, from, to)
    }
    fn properties(&self) -> Vec<(&'static str, u64)> {
        self.engine.properties()
    }
}

/// What outlives a life.
pub(super) enum Store {
    Memory(Arc<MemoryEngine>),
    Rocks(TempDir),
}

impl Store {
    pub(super) fn begin(&self) -> Arc<Life> {
        let (engine, rocks): (Arc<dyn Engine>, _) = match self {
            Store::Memory(engine) => (engine.clone(), None),
            Store::Rocks(dir) => {
                let options = RocksOptions::default();
                let engine = Arc::new(RocksEngine::open(dir.path(), &options).expect("opens"));
                (engine.clone(), Some(engine))
            }
        };
        Arc::new(Life {
            engine,
            rocks,
            over: Mutex::new(false),
        })
    }

    pub(super) fn memory(&self) -> Option<&Arc<MemoryEngine>> {
        match self {
            Store::Memory(engine) => Some(engine),
            Store::Rocks(_) => None,
        }
    }
}
