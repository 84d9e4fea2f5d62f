//! The stores of a `world`: what outlives a life of the process, and a life that can be cut off from it.

use std::sync::{Arc, Mutex};

use super::between::{Between, Through};
use crate::directory::TempDir;
use crate::engine::{Engine, WriteOps};
use crate::error::EngineError;
use crate::memory::MemoryEngine;
use crate::rocks::{RocksEngine, RocksOptions};

/// One life of the process: when it is over, nothing of it reaches the store any more.
pub(super) type Life = Through<Lifetime>;

pub(super) struct Lifetime {
    rocks: Option<Arc<RocksEngine>>,
    over: Mutex<bool>,
}

impl Life {
    fn new(engine: Arc<dyn Engine>, rocks: Option<Arc<RocksEngine>>, over: bool) -> Arc<Self> {
        let over = Mutex::new(over);
        Arc::new(Self {
            engine,
            between: Lifetime { rocks, over },
        })
    }

    /// One that is over, on a store of nothing.
    pub(super) fn ended() -> Arc<Self> {
        Self::new(Arc::new(MemoryEngine::new()), None, true)
    }

    pub(super) fn end(&self) {
        *self.between.over.lock().expect("not poisoned") = true;
    }

    pub(super) fn rocks(&self) -> Option<&RocksEngine> {
        self.between.rocks.as_deref()
    }
}

fn killed() -> EngineError {
    EngineError::Io("killed".to_owned())
}

impl Between for Lifetime {
    fn write(&self, engine: &dyn Engine, ops: &WriteOps) -> Result<(), EngineError> {
        let over = self.over.lock().expect("not poisoned");
        if *over {
            return Err(killed());
        }
        engine.write(ops)
    }

    fn sync(&self, engine: &dyn Engine) -> Result<(), EngineError> {
        if *self.over.lock().expect("not poisoned") {
            return Err(killed());
        }
        engine.sync()?;
        if *self.over.lock().expect("not poisoned") {
            return Err(killed());
        }
        Ok(())
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
        Life::new(engine, rocks, false)
    }

    pub(super) fn memory(&self) -> Option<&Arc<MemoryEngine>> {
        match self {
            Store::Memory(engine) => Some(engine),
            Store::Rocks(_) => None,
        }
    }
}
