//! Every request kind the codec can decode, behind function pointers: lets tests and fuzz targets treat them alike.
//!
//! Compiled into tests here and, by path, into the fuzz targets; never into the broker.

#![allow(dead_code, reason = "tests and fuzz targets use different columns")]

use bytes::{Bytes, BytesMut};

use crate::codec::messages::*;
use crate::codec::protocol::{Decodable, Encodable, HeaderVersion, Message, Request};

/// One request kind.
pub struct RequestKind {
    pub api_key: i16,
    pub name: &'static str,
    pub first_version: i16,
    pub last_version: i16,
    pub header_version: fn(i16) -> i16,
    /// Decodes a body; the number of bytes left after it, `None` if it was refused.
    pub decode: fn(Bytes, i16) -> Option<usize>,
    /// Decodes a body and encodes it again; `None` if either fails.
    pub encode_again: fn(Bytes, i16) -> Option<Bytes>,
    /// The body of a request with default values.
    pub default_body: fn(i16) -> Option<Bytes>,
}

macro_rules! request_kinds {
    ($($request:ident)*) => {
        /// All of them, sorted by API key.
        pub static REQUEST_KINDS: &[RequestKind] = &[$(RequestKind {
            api_key: <$request as Request>::KEY,
            name: stringify!($request),
            first_version: <$request as Message>::VERSIONS.min,
            last_version: <$request as Message>::VERSIONS.max,
            header_version: <$request as HeaderVersion>::header_version,
            decode: |mut body, version| {
                let decoded = $request::decode(&mut body, version);
                decoded.is_ok().then_some(body.len())
            },
            encode_again: |mut body, version| encode(&$request::decode(&mut body, version).ok()?, version),
            default_body: |version| encode(&$request::default(), version),
        },)*];
    };
}

fn encode<R: Encodable>(request: &R, version: i16) -> Option<Bytes> {
    let mut body = BytesMut::new();
    request.encode(&mut body, version).ok()?;
    Some(body.freeze())
}

request_kinds! {
    ProduceRequest FetchRequest ListOffsetsRequest MetadataRequest OffsetCommitRequest OffsetFetchRequest
    FindCoordinatorRequest JoinGroupRequest HeartbeatRequest LeaveGroupRequest SyncGroupRequest DescribeGroupsRequest
    ListGroupsRequest SaslHandshakeRequest ApiVersionsRequest CreateTopicsRequest DeleteTopicsRequest
    DeleteRecordsRequest InitProducerIdRequest OffsetForLeaderEpochRequest AddPartitionsToTxnRequest
    AddOffsetsToTxnRequest EndTxnRequest WriteTxnMarkersRequest TxnOffsetCommitRequest DescribeAclsRequest
    CreateAclsRequest DeleteAclsRequest DescribeConfigsRequest AlterConfigsRequest AlterReplicaLogDirsRequest
    DescribeLogDirsRequest SaslAuthenticateRequest CreatePartitionsRequest CreateDelegationTokenRequest
    RenewDelegationTokenRequest ExpireDelegationTokenRequest DescribeDelegationTokenRequest DeleteGroupsRequest
    ElectLeadersRequest IncrementalAlterConfigsRequest AlterPartitionReassignmentsRequest
    ListPartitionReassignmentsRequest OffsetDeleteRequest DescribeClientQuotasRequest AlterClientQuotasRequest
    DescribeUserScramCredentialsRequest AlterUserScramCredentialsRequest DescribeQuorumRequest UpdateFeaturesRequest
    DescribeClusterRequest DescribeProducersRequest UnregisterBrokerRequest DescribeTransactionsRequest
    ListTransactionsRequest ConsumerGroupHeartbeatRequest ConsumerGroupDescribeRequest
    GetTelemetrySubscriptionsRequest PushTelemetryRequest ListConfigResourcesRequest DescribeTopicPartitionsRequest
    ShareGroupHeartbeatRequest ShareGroupDescribeRequest ShareFetchRequest ShareAcknowledgeRequest AddRaftVoterRequest
    RemoveRaftVoterRequest InitializeShareGroupStateRequest ReadShareGroupStateRequest WriteShareGroupStateRequest
    DeleteShareGroupStateRequest ReadShareGroupStateSummaryRequest DescribeShareGroupOffsetsRequest
    AlterShareGroupOffsetsRequest DeleteShareGroupOffsetsRequest
}
