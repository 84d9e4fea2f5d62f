//! Why a client does not get what it asked for: Kafka's code, and words for people. Of the APIs that answer with both;
//! it never decides anything.

use kafka_protocol::protocol::StrBytes;
use ottla_coordinator::metadata::{MetadataError, Reply};
use ottla_protocol::error_code::ErrorCode;

use crate::error::metadata_error;

/// A code with its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    /// Of a reply that is not the one the command has.
    pub(super) fn of(reply: Reply) -> Self {
        match reply {
            Reply::Failed(error) => error.into(),
            other => {
                tracing::error!(reply = ?other, "metadata machine gave an answer to another question");
                ErrorCode::UnknownServerError.into()
            }
        }
    }

    /// The message as answers have it.
    pub(super) fn message(self) -> Option<StrBytes> {
        Some(StrBytes::from_string(self.message))
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, code.message())
    }
}

impl From<MetadataError> for Refusal {
    fn from(error: MetadataError) -> Self {
        Self::new(metadata_error(&error), error.to_string())
    }
}
