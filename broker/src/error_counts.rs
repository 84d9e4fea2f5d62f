//! Which error codes an answer holds, so that `/metrics` counts each of them, as Kafka does
//! (`AbstractResponse.errorCounts`). One `impl` for the answer of every row of the API table; called by the router.
//!
//! Code 0 is told like any other: it counts what went well.

use kafka_protocol::messages::{
    AlterConfigsResponse, ApiVersionsResponse, CreateAclsResponse, CreatePartitionsResponse,
    CreateTopicsResponse, DeleteAclsResponse, DeleteGroupsResponse, DeleteRecordsResponse,
    DeleteTopicsResponse, DescribeAclsResponse, DescribeClientQuotasResponse,
    DescribeClusterResponse, DescribeConfigsResponse, DescribeGroupsResponse,
    DescribeLogDirsResponse, DescribeTopicPartitionsResponse, FetchResponse,
    FindCoordinatorResponse, HeartbeatResponse, IncrementalAlterConfigsResponse,
    InitProducerIdResponse, JoinGroupResponse, LeaveGroupResponse, ListConfigResourcesResponse,
    ListGroupsResponse, ListOffsetsResponse, ListPartitionReassignmentsResponse, MetadataResponse,
    OffsetCommitResponse, OffsetDeleteResponse, OffsetFetchResponse, OffsetForLeaderEpochResponse,
    ProduceResponse, SyncGroupResponse,
};

/// An answer that knows its error codes.
pub trait ErrorCounts {
    /// Tells every error code of the answer: its own, if it has one, and those inside.
    fn error_codes(&self, tell: &mut dyn FnMut(i16));
}

impl ErrorCounts for ProduceResponse {
    fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
        let partitions = self
            .responses
            .iter()
            .flat_map(|topic| &topic.partition_responses);
        partitions.for_each(|partition| tell(partition.error_code));
    }
}

impl ErrorCounts for FetchResponse {
    fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
        tell(self.error_code);
        let partitions = self.responses.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| tell(partition.error_code));
    }
}

impl ErrorCounts for MetadataResponse {
    fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
        tell(self.error_code);
        for topic in &self.topics {
            tell(topic.error_code);
            topic
                .partitions
                .iter()
                .for_each(|partition| tell(partition.error_code));
        }
    }
}

impl ErrorCounts for DescribeTopicPartitionsResponse {
    fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
        for topic in &self.topics {
            tell(topic.error_code);
            topic
                .partitions
                .iter()
                .for_each(|partition| tell(partition.error_code));
        }
    }
}

/// Answers whose only error code is their own.
macro_rules! own_code {
    ($($response:ty),+) => {
        $(impl ErrorCounts for $response {
            fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
                tell(self.error_code);
            }
        })+
    };
}

own_code!(
    ApiVersionsResponse,
    DescribeClusterResponse,
    InitProducerIdResponse,
    ListPartitionReassignmentsResponse,
    JoinGroupResponse,
    SyncGroupResponse,
    HeartbeatResponse,
    ListGroupsResponse,
    DescribeAclsResponse,
    DescribeClientQuotasResponse,
    ListConfigResourcesResponse
);

/// Answers that are a list of outcomes, each with its code.
macro_rules! listed_codes {
    ($($response:ident.$outcomes:ident),+) => {
        $(impl ErrorCounts for $response {
            fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
                self.$outcomes.iter().for_each(|outcome| tell(outcome.error_code));
            }
        })+
    };
}

listed_codes!(
    CreateTopicsResponse.topics,
    DeleteTopicsResponse.responses,
    CreatePartitionsResponse.results,
    DescribeGroupsResponse.groups,
    DeleteGroupsResponse.results,
    DescribeConfigsResponse.results,
    AlterConfigsResponse.responses,
    IncrementalAlterConfigsResponse.responses,
    CreateAclsResponse.results
);

/// Answers whose only error codes are those of partitions.
macro_rules! partition_codes {
    ($($response:ty),+) => {
        $(impl ErrorCounts for $response {
            fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
                let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
                partitions.for_each(|partition| tell(partition.error_code));
            }
        })+
    };
}

partition_codes!(
    ListOffsetsResponse,
    DeleteRecordsResponse,
    OffsetForLeaderEpochResponse,
    OffsetCommitResponse
);

impl ErrorCounts for FindCoordinatorResponse {
    fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
        if self.coordinators.is_empty() {
            tell(self.error_code);
        }
        let found = self.coordinators.iter();
        found.for_each(|coordinator| tell(coordinator.error_code));
    }
}

impl ErrorCounts for LeaveGroupResponse {
    fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
        tell(self.error_code);
        self.members
            .iter()
            .for_each(|member| tell(member.error_code));
    }
}

impl ErrorCounts for OffsetFetchResponse {
    fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
        if self.groups.is_empty() {
            tell(self.error_code);
        }
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| tell(partition.error_code));
        for group in &self.groups {
            tell(group.error_code);
            let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.for_each(|partition| tell(partition.error_code));
        }
    }
}

impl ErrorCounts for DeleteAclsResponse {
    fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
        for filter in &self.filter_results {
            tell(filter.error_code);
            filter
                .matching_acls
                .iter()
                .for_each(|acl| tell(acl.error_code));
        }
    }
}

impl ErrorCounts for DescribeLogDirsResponse {
    fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
        tell(self.error_code);
        self.results.iter().for_each(|dir| tell(dir.error_code));
    }
}

impl ErrorCounts for OffsetDeleteResponse {
    fn error_codes(&self, tell: &mut dyn FnMut(i16)) {
        tell(self.error_code);
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| tell(partition.error_code));
    }
}
