//! Kafka's error codes: what a response says went wrong.
//!
//! Used by every handler and by the maps from internal errors to answers. Codes, names and the retriable mark are
//! those of Kafka 4.3.1 (class `Errors`); the messages are ours. Holds no state and makes no choices.

/// One row per code: variant = code, Kafka's name, whether clients repeat the request, message.
macro_rules! error_codes {
    ($($variant:ident = $code:literal, $name:ident, $retry:ident, $message:literal;)*) => {
        /// An error code of the Kafka protocol.
        #[repr(i16)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode {
            $(#[doc = $message] $variant = $code,)*
        }

        impl ErrorCode {
            /// Every code, from the lowest up.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The error with this number; `None` if Kafka 4.3.1 has no such code.
            pub fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($code => Some(ErrorCode::$variant),)*
                    _ => None,
                }
            }

            /// The name Kafka's tools and logs print.
            pub fn name(self) -> &'static str {
                match self {
                    $(ErrorCode::$variant => stringify!($name),)*
                }
            }

            /// A short phrase for clients and logs; it carries no value of the request.
            pub fn message(self) -> &'static str {
                match self {
                    $(ErrorCode::$variant => $message,)*
                }
            }

            /// Whether clients repeat the request by themselves.
            pub fn retriable(self) -> bool {
                match self {
                    $(ErrorCode::$variant => error_codes!(@$retry),)*
                }
            }
        }
    };
    (@retriable) => { true };
    (@fatal) => { false };
}

impl ErrorCode {
    /// The number on the wire.
    pub fn code(self) -> i16 {
        self as i16
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.message())
    }
}

error_codes! {
    UnknownServerError = -1, UNKNOWN_SERVER_ERROR, fatal, "unexpected error in the broker";
    None = 0, NONE, fatal, "no error";
    OffsetOutOfRange = 1, OFFSET_OUT_OF_RANGE, fatal, "offset lies outside the log of this partition";
    CorruptMessage = 2, CORRUPT_MESSAGE, retriable, "batch failed its checksum or is malformed";
    UnknownTopicOrPartition = 3, UNKNOWN_TOPIC_OR_PARTITION, retriable, "this broker knows no such topic or partition";
    InvalidFetchSize = 4, INVALID_FETCH_SIZE, fatal, "fetch size is not valid";
    LeaderNotAvailable = 5, LEADER_NOT_AVAILABLE, retriable, "partition has no leader at the moment";
    NotLeaderOrFollower = 6, NOT_LEADER_OR_FOLLOWER, retriable, "this broker does not lead or follow the partition";
    RequestTimedOut = 7, REQUEST_TIMED_OUT, retriable, "request was not completed in time";
    BrokerNotAvailable = 8, BROKER_NOT_AVAILABLE, fatal, "broker cannot be reached";
    ReplicaNotAvailable = 9, REPLICA_NOT_AVAILABLE, retriable, "replica cannot serve this partition";
    MessageTooLarge = 10, MESSAGE_TOO_LARGE, fatal, "batch is larger than the topic allows";
    StaleControllerEpoch = 11, STALE_CONTROLLER_EPOCH, fatal, "another controller has taken over";
    OffsetMetadataTooLarge = 12, OFFSET_METADATA_TOO_LARGE, fatal, "offset commit metadata is too long";
    NetworkException = 13, NETWORK_EXCEPTION, retriable, "connection was lost before the answer came";
    CoordinatorLoadInProgress = 14, COORDINATOR_LOAD_IN_PROGRESS, retriable, "coordinator is still loading its state";
    CoordinatorNotAvailable = 15, COORDINATOR_NOT_AVAILABLE, retriable, "coordinator cannot be reached";
    NotCoordinator = 16, NOT_COORDINATOR, retriable, "another broker coordinates this group or transactional id";
    InvalidTopicException = 17, INVALID_TOPIC_EXCEPTION, fatal, "topic name is not valid";
    RecordListTooLarge = 18, RECORD_LIST_TOO_LARGE, fatal, "batch is larger than a log segment";
    NotEnoughReplicas = 19, NOT_ENOUGH_REPLICAS, retriable, "too few in-sync replicas to accept the write";
    NotEnoughReplicasAfterAppend = 20, NOT_ENOUGH_REPLICAS_AFTER_APPEND, retriable, "write was appended but too few replicas were in sync";
    InvalidRequiredAcks = 21, INVALID_REQUIRED_ACKS, fatal, "acks must be -1, 0 or 1";
    IllegalGeneration = 22, ILLEGAL_GENERATION, fatal, "generation is not the current one of the group";
    InconsistentGroupProtocol = 23, INCONSISTENT_GROUP_PROTOCOL, fatal, "protocols do not fit those of the group, or none were given";
    InvalidGroupId = 24, INVALID_GROUP_ID, fatal, "group id must be a non-empty, valid name";
    UnknownMemberId = 25, UNKNOWN_MEMBER_ID, fatal, "member is not part of the group";
    InvalidSessionTimeout = 26, INVALID_SESSION_TIMEOUT, fatal, "session timeout is outside the broker's bounds";
    RebalanceInProgress = 27, REBALANCE_IN_PROGRESS, fatal, "group is rebalancing; the member has to join again";
    InvalidCommitOffsetSize = 28, INVALID_COMMIT_OFFSET_SIZE, fatal, "offset commit record is too large";
    TopicAuthorizationFailed = 29, TOPIC_AUTHORIZATION_FAILED, fatal, "not authorized for the topic";
    GroupAuthorizationFailed = 30, GROUP_AUTHORIZATION_FAILED, fatal, "not authorized for the group";
    ClusterAuthorizationFailed = 31, CLUSTER_AUTHORIZATION_FAILED, fatal, "not authorized for the cluster";
    InvalidTimestamp = 32, INVALID_TIMESTAMP, fatal, "record timestamp is outside the accepted range";
    UnsupportedSaslMechanism = 33, UNSUPPORTED_SASL_MECHANISM, fatal, "SASL mechanism is not enabled";
    IllegalSaslState = 34, ILLEGAL_SASL_STATE, fatal, "request does not fit the state of the SASL exchange";
    UnsupportedVersion = 35, UNSUPPORTED_VERSION, fatal, "API version is not supported";
    TopicAlreadyExists = 36, TOPIC_ALREADY_EXISTS, fatal, "a topic of this name exists";
    InvalidPartitions = 37, INVALID_PARTITIONS, fatal, "partition count is not valid";
    InvalidReplicationFactor = 38, INVALID_REPLICATION_FACTOR, fatal, "replication factor is below 1 or above the number of live brokers";
    InvalidReplicaAssignment = 39, INVALID_REPLICA_ASSIGNMENT, fatal, "assignment of replicas is not valid";
    InvalidConfig = 40, INVALID_CONFIG, fatal, "config is not valid";
    NotController = 41, NOT_CONTROLLER, retriable, "this broker is not the controller";
    InvalidRequest = 42, INVALID_REQUEST, fatal, "request is malformed or contradicts itself";
    UnsupportedForMessageFormat = 43, UNSUPPORTED_FOR_MESSAGE_FORMAT, fatal, "message format does not support this request";
    PolicyViolation = 44, POLICY_VIOLATION, fatal, "request violates a policy";
    OutOfOrderSequenceNumber = 45, OUT_OF_ORDER_SEQUENCE_NUMBER, fatal, "sequence number does not follow the last one of the producer";
    DuplicateSequenceNumber = 46, DUPLICATE_SEQUENCE_NUMBER, fatal, "sequence number was written before";
    InvalidProducerEpoch = 47, INVALID_PRODUCER_EPOCH, fatal, "producer epoch is older than the current one";
    InvalidTxnState = 48, INVALID_TXN_STATE, fatal, "operation does not fit the state of the transaction";
    InvalidProducerIdMapping = 49, INVALID_PRODUCER_ID_MAPPING, fatal, "producer id does not belong to the transactional id";
    InvalidTransactionTimeout = 50, INVALID_TRANSACTION_TIMEOUT, fatal, "transaction timeout is above the broker's maximum";
    ConcurrentTransactions = 51, CONCURRENT_TRANSACTIONS, retriable, "another operation on the same transaction is under way";
    TransactionCoordinatorFenced = 52, TRANSACTION_COORDINATOR_FENCED, fatal, "transaction coordinator was replaced by a newer one";
    TransactionalIdAuthorizationFailed = 53, TRANSACTIONAL_ID_AUTHORIZATION_FAILED, fatal, "not authorized for the transactional id";
    SecurityDisabled = 54, SECURITY_DISABLED, fatal, "security features are switched off";
    OperationNotAttempted = 55, OPERATION_NOT_ATTEMPTED, fatal, "operation was skipped because another one of the request failed";
    KafkaStorageError = 56, KAFKA_STORAGE_ERROR, retriable, "log could not be read or written";
    LogDirNotFound = 57, LOG_DIR_NOT_FOUND, fatal, "log directory is not configured on the broker";
    SaslAuthenticationFailed = 58, SASL_AUTHENTICATION_FAILED, fatal, "client could not be authenticated";
    UnknownProducerId = 59, UNKNOWN_PRODUCER_ID, fatal, "nothing is known of this producer id";
    ReassignmentInProgress = 60, REASSIGNMENT_IN_PROGRESS, fatal, "a reassignment of the partition is under way";
    DelegationTokenAuthDisabled = 61, DELEGATION_TOKEN_AUTH_DISABLED, fatal, "delegation tokens are switched off";
    DelegationTokenNotFound = 62, DELEGATION_TOKEN_NOT_FOUND, fatal, "delegation token does not exist";
    DelegationTokenOwnerMismatch = 63, DELEGATION_TOKEN_OWNER_MISMATCH, fatal, "principal is neither owner nor renewer of the token";
    DelegationTokenRequestNotAllowed = 64, DELEGATION_TOKEN_REQUEST_NOT_ALLOWED, fatal, "delegation tokens cannot be managed over this connection";
    DelegationTokenAuthorizationFailed = 65, DELEGATION_TOKEN_AUTHORIZATION_FAILED, fatal, "not authorized for the delegation token";
    DelegationTokenExpired = 66, DELEGATION_TOKEN_EXPIRED, fatal, "delegation token has expired";
    InvalidPrincipalType = 67, INVALID_PRINCIPAL_TYPE, fatal, "principal type is not supported";
    NonEmptyGroup = 68, NON_EMPTY_GROUP, fatal, "group still has members";
    GroupIdNotFound = 69, GROUP_ID_NOT_FOUND, fatal, "group does not exist";
    FetchSessionIdNotFound = 70, FETCH_SESSION_ID_NOT_FOUND, retriable, "fetch session does not exist";
    InvalidFetchSessionEpoch = 71, INVALID_FETCH_SESSION_EPOCH, retriable, "fetch session epoch is not the expected one";
    ListenerNotFound = 72, LISTENER_NOT_FOUND, retriable, "leader has no listener of the name this request came in on";
    TopicDeletionDisabled = 73, TOPIC_DELETION_DISABLED, fatal, "topic deletion is switched off";
    FencedLeaderEpoch = 74, FENCED_LEADER_EPOCH, retriable, "leader epoch of the request is older than the broker's";
    UnknownLeaderEpoch = 75, UNKNOWN_LEADER_EPOCH, retriable, "leader epoch of the request is newer than the broker's";
    UnsupportedCompressionType = 76, UNSUPPORTED_COMPRESSION_TYPE, fatal, "compression type is not supported";
    StaleBrokerEpoch = 77, STALE_BROKER_EPOCH, fatal, "broker epoch is stale";
    OffsetNotAvailable = 78, OFFSET_NOT_AVAILABLE, retriable, "offset is not known yet after a leader change";
    MemberIdRequired = 79, MEMBER_ID_REQUIRED, fatal, "join again with the member id of this answer";
    PreferredLeaderNotAvailable = 80, PREFERRED_LEADER_NOT_AVAILABLE, retriable, "preferred leader is not available";
    GroupMaxSizeReached = 81, GROUP_MAX_SIZE_REACHED, fatal, "group has as many members as it may have";
    FencedInstanceId = 82, FENCED_INSTANCE_ID, fatal, "a newer member uses the same group.instance.id";
    EligibleLeadersNotAvailable = 83, ELIGIBLE_LEADERS_NOT_AVAILABLE, retriable, "no eligible leader is available";
    ElectionNotNeeded = 84, ELECTION_NOT_NEEDED, retriable, "leader is already the wanted one";
    NoReassignmentInProgress = 85, NO_REASSIGNMENT_IN_PROGRESS, fatal, "partition is not being reassigned";
    GroupSubscribedToTopic = 86, GROUP_SUBSCRIBED_TO_TOPIC, fatal, "group is subscribed to the topic";
    InvalidRecord = 87, INVALID_RECORD, fatal, "record or batch is not valid";
    UnstableOffsetCommit = 88, UNSTABLE_OFFSET_COMMIT, retriable, "a transaction on these offsets is still open";
    ThrottlingQuotaExceeded = 89, THROTTLING_QUOTA_EXCEEDED, retriable, "quota is exceeded";
    ProducerFenced = 90, PRODUCER_FENCED, fatal, "a newer producer uses the same transactional id";
    ResourceNotFound = 91, RESOURCE_NOT_FOUND, fatal, "resource does not exist";
    DuplicateResource = 92, DUPLICATE_RESOURCE, fatal, "resource is named twice";
    UnacceptableCredential = 93, UNACCEPTABLE_CREDENTIAL, fatal, "credential is not acceptable";
    InconsistentVoterSet = 94, INCONSISTENT_VOTER_SET, fatal, "sender or receiver is not in the voter set";
    InvalidUpdateVersion = 95, INVALID_UPDATE_VERSION, fatal, "expected version of the update is not the current one";
    FeatureUpdateFailed = 96, FEATURE_UPDATE_FAILED, fatal, "features could not be updated";
    PrincipalDeserializationFailure = 97, PRINCIPAL_DESERIALIZATION_FAILURE, fatal, "forwarded principal could not be read";
    SnapshotNotFound = 98, SNAPSHOT_NOT_FOUND, fatal, "snapshot does not exist";
    PositionOutOfRange = 99, POSITION_OUT_OF_RANGE, fatal, "position lies outside the snapshot";
    UnknownTopicId = 100, UNKNOWN_TOPIC_ID, retriable, "this broker knows no topic of this id";
    DuplicateBrokerRegistration = 101, DUPLICATE_BROKER_REGISTRATION, fatal, "broker id is in use";
    BrokerIdNotRegistered = 102, BROKER_ID_NOT_REGISTERED, fatal, "broker id is not registered";
    InconsistentTopicId = 103, INCONSISTENT_TOPIC_ID, retriable, "topic id does not match that of the log";
    InconsistentClusterId = 104, INCONSISTENT_CLUSTER_ID, fatal, "cluster id is that of another cluster";
    TransactionalIdNotFound = 105, TRANSACTIONAL_ID_NOT_FOUND, fatal, "transactional id does not exist";
    FetchSessionTopicIdError = 106, FETCH_SESSION_TOPIC_ID_ERROR, retriable, "fetch session mixes requests with and without topic ids";
    IneligibleReplica = 107, INELIGIBLE_REPLICA, fatal, "wanted in-sync replicas include one that cannot be";
    NewLeaderElected = 108, NEW_LEADER_ELECTED, fatal, "partition was changed but has a new leader";
    OffsetMovedToTieredStorage = 109, OFFSET_MOVED_TO_TIERED_STORAGE, fatal, "offset was moved to tiered storage";
    FencedMemberEpoch = 110, FENCED_MEMBER_EPOCH, fatal, "member epoch was fenced; give up all partitions and join again";
    UnreleasedInstanceId = 111, UNRELEASED_INSTANCE_ID, fatal, "instance id is still held by another member";
    UnsupportedAssignor = 112, UNSUPPORTED_ASSIGNOR, fatal, "assignor is not supported by the group";
    StaleMemberEpoch = 113, STALE_MEMBER_EPOCH, fatal, "member epoch is stale; heartbeat, then retry";
    MismatchedEndpointType = 114, MISMATCHED_ENDPOINT_TYPE, fatal, "request reached an endpoint of the wrong type";
    UnsupportedEndpointType = 115, UNSUPPORTED_ENDPOINT_TYPE, fatal, "endpoint type is not supported";
    UnknownControllerId = 116, UNKNOWN_CONTROLLER_ID, fatal, "controller id is not known";
    UnknownSubscriptionId = 117, UNKNOWN_SUBSCRIPTION_ID, fatal, "telemetry subscription id is not valid any more";
    TelemetryTooLarge = 118, TELEMETRY_TOO_LARGE, fatal, "telemetry push is too large";
    InvalidRegistration = 119, INVALID_REGISTRATION, fatal, "broker registration was refused";
    TransactionAbortable = 120, TRANSACTION_ABORTABLE, fatal, "transaction failed; abort it to go on";
    InvalidRecordState = 121, INVALID_RECORD_STATE, fatal, "record is not in a state that can be acknowledged";
    ShareSessionNotFound = 122, SHARE_SESSION_NOT_FOUND, retriable, "share session does not exist";
    InvalidShareSessionEpoch = 123, INVALID_SHARE_SESSION_EPOCH, retriable, "share session epoch is not the expected one";
    FencedStateEpoch = 124, FENCED_STATE_EPOCH, fatal, "state epoch of the share partition is not the current one";
    InvalidVoterKey = 125, INVALID_VOTER_KEY, fatal, "voter key does not match the replica";
    DuplicateVoter = 126, DUPLICATE_VOTER, fatal, "voter is already in the voter set";
    VoterNotFound = 127, VOTER_NOT_FOUND, fatal, "voter is not in the voter set";
    InvalidRegularExpression = 128, INVALID_REGULAR_EXPRESSION, fatal, "regular expression cannot be compiled";
    RebootstrapRequired = 129, REBOOTSTRAP_REQUIRED, fatal, "client has to bootstrap again";
    StreamsInvalidTopology = 130, STREAMS_INVALID_TOPOLOGY, fatal, "streams topology is not valid";
    StreamsInvalidTopologyEpoch = 131, STREAMS_INVALID_TOPOLOGY_EPOCH, fatal, "streams topology epoch is not valid";
    StreamsTopologyFenced = 132, STREAMS_TOPOLOGY_FENCED, fatal, "streams topology epoch is outdated";
    ShareSessionLimitReached = 133, SHARE_SESSION_LIMIT_REACHED, retriable, "no more share sessions are allowed";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_from_minus_1_to_133_is_there_and_maps_back() {
        let codes: Vec<i16> = ErrorCode::ALL.iter().map(|error| error.code()).collect();
        assert_eq!(codes, (-1..=133).collect::<Vec<i16>>());
        for error in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(error.code()), Some(*error));
            assert!(!error.message().is_empty());
        }
        assert_eq!(ErrorCode::from_code(134), None);
        assert_eq!(ErrorCode::from_code(-2), None);
    }

    #[test]
    fn names_and_retries_are_those_of_kafka() {
        assert_eq!(
            ErrorCode::InvalidTopicException.name(),
            "INVALID_TOPIC_EXCEPTION"
        );
        assert!(ErrorCode::NotLeaderOrFollower.retriable());
        assert!(ErrorCode::UnknownTopicId.retriable());
        // Not retriable in Kafka either: the consumer joins again instead.
        assert!(!ErrorCode::RebalanceInProgress.retriable());
        assert!(!ErrorCode::UnknownServerError.retriable());
    }

    /// Names and numbers only: the codec's retriable marks are older than Kafka 4.3.1.
    #[test]
    fn the_codec_gives_the_same_numbers_to_the_errors_it_knows() {
        use crate::codec::ResponseError;
        for error in ErrorCode::ALL {
            match ResponseError::try_from_code(error.code()) {
                None => assert_eq!(*error, ErrorCode::None),
                Some(ResponseError::Unknown(code)) => assert!(code >= 115, "{code} is an old code"),
                Some(known) => {
                    let (theirs, ours) = (format!("{known:?}"), format!("{error:?}"));
                    assert_eq!(theirs, ours, "code {}", error.code());
                }
            }
        }
    }
}
