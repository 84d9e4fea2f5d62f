//! Why a broker does not start, or not stop cleanly; `main.rs` makes an exit code of it.

use std::io;

use ottla_protocol::error_code::ErrorCode;
use ottla_storage::error::{EngineError, OpenError, StorageError};
use thiserror::Error;

/// Why a broker does not start, or not stop cleanly. Each prints as one line.
#[derive(Debug, Error)]
pub enum StartError {
    /// A listener's address cannot be had.
    #[error(
        "cannot listen on {address}: {source}; stop what uses the address, or choose another one with {key}"
    )]
    Listen {
        /// The address.
        address: String,
        /// The property that names it.
        key: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The metadata cannot be loaded or written.
    #[error("cannot load the metadata: {0}")]
    Metadata(StorageError),
    /// The log cannot be closed; what it acknowledged before is safe, and the next start tells the rest.
    #[error("cannot close the log: {0}")]
    Close(StorageError),
    /// The broker cannot register itself.
    #[error("cannot register the broker in the metadata log: {}", .0.name())]
    Register(ErrorCode),
}

impl StartError {
    /// Whether data is missing or damaged that was safe on disk.
    pub fn is_data_lost(&self) -> bool {
        let damaged = |error: &StorageError| {
            matches!(
                error,
                StorageError::Engine(EngineError::Corruption(_)) | StorageError::InvalidBatch(_)
            )
        };
        match self {
            Self::Directory(OpenError::Lost { .. })
            | Self::Directory(OpenError::Engine {
                source: EngineError::Corruption(_),
                ..
            }) => true,
            Self::Directory(OpenError::Log(error)) | Self::Metadata(error) => damaged(error),
            _ => false,
        }
    }
}
