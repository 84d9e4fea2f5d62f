//! Every domain error -> the Kafka code a client hears.
//!
//! Called by handlers and by the driver. One exhaustive map per error type, no wildcard arm: a new
//! variant does not compile until it has an answer. Never decides what to do about an error.

use ottla_coordinator::group::GroupError;
use ottla_coordinator::metadata::MetadataError;
use ottla_protocol::error_code::ErrorCode;
use ottla_storage::error::{EngineError, StorageError};

/// The code for a command that the metadata machine refused.
pub fn metadata_error(error: &MetadataError) -> ErrorCode {
    match error {
        MetadataError::TopicAlreadyExists(_) => ErrorCode::TopicAlreadyExists,
        MetadataError::InvalidTopicName(_) => ErrorCode::InvalidTopicException,
        MetadataError::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
        MetadataError::PolicyViolation(_) => ErrorCode::PolicyViolation,
        MetadataError::InvalidReplicationFactor(_) => ErrorCode::InvalidReplicationFactor,
        MetadataError::InvalidReplicaAssignment(_) => ErrorCode::InvalidReplicaAssignment,
        MetadataError::UnknownTopicOrPartition => ErrorCode::UnknownTopicOrPartition,
        MetadataError::UnknownTopicId => ErrorCode::UnknownTopicId,
        MetadataError::StaleBrokerEpoch => ErrorCode::StaleBrokerEpoch,
        MetadataError::InvalidUpdateVersion => ErrorCode::InvalidUpdateVersion,
        // Kafka takes such requests one after the other; a client may just try again.
        MetadataError::ConfigsChanged => ErrorCode::RequestTimedOut,
        // Kafka's controller has no code of its own for this either.
        MetadataError::ProducerIdsExhausted => ErrorCode::UnknownServerError,
        MetadataError::InvalidRequest(_) => ErrorCode::InvalidRequest,
    }
}

/// The code for a request that a group refused.
pub fn group_error(error: &GroupError) -> ErrorCode {
    match error {
        GroupError::InvalidGroupId => ErrorCode::InvalidGroupId,
        GroupError::UnknownMemberId => ErrorCode::UnknownMemberId,
        GroupError::IllegalGeneration => ErrorCode::IllegalGeneration,
        GroupError::InconsistentGroupProtocol => ErrorCode::InconsistentGroupProtocol,
        GroupError::InvalidSessionTimeout => ErrorCode::InvalidSessionTimeout,
        GroupError::RebalanceInProgress => ErrorCode::RebalanceInProgress,
        GroupError::MemberIdRequired => ErrorCode::MemberIdRequired,
        GroupError::FencedInstanceId => ErrorCode::FencedInstanceId,
        GroupError::GroupMaxSizeReached => ErrorCode::GroupMaxSizeReached,
        GroupError::InvalidRequest(_) => ErrorCode::InvalidRequest,
        GroupError::TooManyGroups => ErrorCode::PolicyViolation,
        GroupError::GroupIdNotFound => ErrorCode::GroupIdNotFound,
        GroupError::NonEmptyGroup => ErrorCode::NonEmptyGroup,
        GroupError::GroupSubscribedToTopic => ErrorCode::GroupSubscribedToTopic,
        GroupError::OffsetMetadataTooLarge => ErrorCode::OffsetMetadataTooLarge,
    }
}

/// The code a group's client hears when its coordinator could not store a record: one that it retries, as
/// Kafka's `CoordinatorOperationExceptionHelper` does.
pub fn coordinator_error(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::UnknownTopicOrPartition | ErrorCode::NotEnoughReplicas => {
            ErrorCode::CoordinatorNotAvailable
        }
        ErrorCode::MessageTooLarge | ErrorCode::CorruptMessage => ErrorCode::UnknownServerError,
        other => other,
    }
}

/// The code for an append, a read or a change of a log that storage refused.
pub fn storage_error(error: &StorageError) -> ErrorCode {
    match error {
        StorageError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        StorageError::FencedLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
        StorageError::UnknownLeaderEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
        StorageError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        StorageError::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        StorageError::TransactionCoordinatorFenced { .. } => {
            ErrorCode::TransactionCoordinatorFenced
        }
        StorageError::NotContinuous { .. } | StorageError::Overtaken => {
            ErrorCode::UnknownServerError
        }
        StorageError::InvalidBatch(_) => ErrorCode::CorruptMessage,
        StorageError::NoSuchPartition => ErrorCode::NotLeaderOrFollower,
        // Clients retry both, and find the broker back or gone.
        StorageError::ShuttingDown => ErrorCode::NotLeaderOrFollower,
        StorageError::Engine(EngineError::Corruption(_)) => ErrorCode::CorruptMessage,
        StorageError::Engine(
            EngineError::Full(_) | EngineError::Io(_) | EngineError::Failed(_),
        ) => ErrorCode::KafkaStorageError,
    }
}
