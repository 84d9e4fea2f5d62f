//! Groups and their members: FindCoordinator, JoinGroup, SyncGroup, Heartbeat, LeaveGroup, DescribeGroups,
//! ListGroups, DeleteGroups.
//!
//! Called by the router. Handlers turn wire fields into commands for the group's shard (`groups.rs`) and its
//! replies into answers; who may do what in which state is decided by the machine (`ottla_coordinator::group`).
//! JoinGroup and SyncGroup may wait for other members; everything else is answered at once.

use std::collections::BTreeSet;
use std::future::Future;

use futures_util::StreamExt;
use futures_util::stream::{self, Stream};
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    BrokerId, DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest,
    DescribeGroupsResponse, FindCoordinatorRequest, FindCoordinatorResponse, GroupId,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;
use ottla_coordinator::group::{
    Caller, Command, GroupError, GroupState, GroupType, JoinGroup, Joined, LeavingMember, Reply,
    SyncGroup,
};
use ottla_protocol::error_code::ErrorCode;

use crate::error::group_error;
use crate::router::Ctx;

/// Every operation Kafka knows on a group, one bit each: what Kafka answers without an authorizer.
const ALL_GROUP_OPERATIONS: i32 = 3400;

/// Groups that one request is asked about at a time; it may name very many.
const AT_ONCE: usize = 32;

/// About as many bytes an answer may hold of what members and commits brought: as much as one group may hold by
/// default. A request may name one group thousands of times.
pub(super) const MAX_ANSWER_BYTES: usize = 64 << 20;

/// `CoordinatorType` of FindCoordinator.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// FindCoordinator, versions 0 to 6.
///
/// - v0: groups only; v1: a key type, a throttle time and a message
/// - v4: many keys at once (KIP-699)
/// - v5: another error for transactions; v6: share groups (KIP-932), which are not served
///
/// The broker is its own coordinator. The topic of groups is made when the first client asks. A transactional id
/// is answered too: InitProducerId then tells the producer for good that there are no transactions.
pub async fn find_coordinator(
    ctx: Ctx,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let mut response = FindCoordinatorResponse::default();
    let outcome = coordinator(&ctx, request.key_type).await;
    if ctx.api_version >= 4 {
        response.coordinators = request
            .coordinator_keys
            .into_iter()
            .map(|key| {
                let mut found = Coordinator::default();
                found.key = key;
                match outcome {
                    Ok(()) => {
                        found.node_id = BrokerId(ctx.broker.identity.node_id);
                        found.host = advertised_host(&ctx);
                        found.port = i32::from(ctx.listener.advertised_port);
                        found.error_message = Some(StrBytes::default());
                    }
                    Err(code) => {
                        found.node_id = BrokerId(-1);
                        found.port = -1;
                        found.error_code = code.code();
                        found.error_message = Some(StrBytes::from_static_str(code.message()));
                    }
                }
                found
            })
            .collect();
        return response;
    }
    match outcome {
        Ok(()) => {
            response.node_id = BrokerId(ctx.broker.identity.node_id);
            response.host = advertised_host(&ctx);
            response.port = i32::from(ctx.listener.advertised_port);
            response.error_message =
                (ctx.api_version >= 1).then(|| StrBytes::from_static_str("NONE"));
        }
        Err(code) => {
            response.node_id = BrokerId(-1);
            response.port = -1;
            response.error_code = code.code();
            response.error_message =
                (ctx.api_version >= 1).then(|| StrBytes::from_static_str(code.message()));
        }
    }
    response
}

fn advertised_host(ctx: &Ctx) -> StrBytes {
    StrBytes::from_string(ctx.listener.advertised_host.clone())
}

async fn coordinator(ctx: &Ctx, key_type: i8) -> Result<(), ErrorCode> {
    match key_type {
        GROUP => ctx.broker.ready_groups().await,
        TRANSACTION => Ok(()),
        _ => Err(ErrorCode::InvalidRequest),
    }
}

/// JoinGroup, versions 0 to 9.
///
/// - v1: a rebalance timeout of its own; before, the session timeout is taken
/// - v4: a member without an id gets one and must come back with it (KIP-394)
/// - v5: static members (KIP-345)
/// - v7: answers tell the protocol type, which Kafka gives at every success
/// - v8: a reason, which is logged at debug level; v9: the leader may be told not to assign (KIP-814)
pub async fn join_group(ctx: Ctx, mut request: JoinGroupRequest) -> JoinGroupResponse {
    let version = ctx.api_version;
    if let Some(reason) = request.reason.as_ref().filter(|reason| !reason.is_empty()) {
        tracing::debug!(group = %*request.group_id, reason = %reason, "a member joins");
    }
    let instance_id = request.group_instance_id.as_ref().map(|id| id.to_string());
    // Kafka's `GroupMetadata.generateMemberId`: whose it is can be seen in lists.
    let owner = instance_id.as_deref().unwrap_or(&ctx.client_id);
    let fresh_member_id = format!("{owner}-{}", ctx.broker.env.uuid());
    let group = request.group_id.to_string();
    let member_id = request.member_id.to_string();
    let protocols = std::mem::take(&mut request.protocols).into_iter();
    let command = Command::JoinGroup(JoinGroup {
        group: group.clone(),
        member_id: member_id.clone(),
        fresh_member_id,
        group_instance_id: instance_id,
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: if version >= 1 {
            request.rebalance_timeout_ms
        } else {
            request.session_timeout_ms
        },
        protocol_type: request.protocol_type.to_string(),
        protocols: protocols
            .map(|protocol| (protocol.name.to_string(), protocol.metadata))
            .collect(),
        client_id: ctx.client_id.to_string(),
        client_host: client_host(&ctx),
        require_known_member_id: version >= 4,
        supports_skip_assignment: version >= 9,
    });
    // It lies in its frame, which must not wait with the member.
    drop(request);
    match ctx.broker.groups.ask(&group, command).await {
        Ok(Reply::Joined(joined)) => joined_answer(joined, version),
        Ok(Reply::JoinFailed { member_id, error }) => {
            refuse_join(member_id, group_error(&error), version)
        }
        Ok(other) => refuse_join(member_id, unexpected(other), version),
        Err(code) => refuse_join(member_id, code, version),
    }
}

/// The peer in the form that Java prints an address.
fn client_host(ctx: &Ctx) -> String {
    format!("/{}", ctx.peer.ip())
}

fn joined_answer(joined: Joined, version: i16) -> JoinGroupResponse {
    let mut response = JoinGroupResponse::default();
    response.generation_id = joined.generation;
    if version >= 7 {
        response.protocol_type = Some(StrBytes::from_string(joined.protocol_type));
    }
    response.protocol_name = Some(StrBytes::from_string(joined.protocol_name));
    response.leader = StrBytes::from_string(joined.leader);
    if version >= 9 {
        response.skip_assignment = joined.skip_assignment;
    }
    response.member_id = StrBytes::from_string(joined.member_id);
    let members = joined.members.into_iter().map(|member| {
        let mut answer = JoinGroupResponseMember::default();
        answer.member_id = StrBytes::from_string(member.member_id);
        if version >= 5 {
            answer.group_instance_id = member.group_instance_id.map(StrBytes::from_string);
        }
        answer.metadata = member.metadata;
        answer
    });
    response.members = members.collect();
    response
}

fn refuse_join(member_id: String, code: ErrorCode, version: i16) -> JoinGroupResponse {
    let mut response = JoinGroupResponse::default();
    response.error_code = code.code();
    response.generation_id = -1;
    // From version 7 on it may be absent.
    response.protocol_name = (version < 7).then(StrBytes::default);
    response.member_id = StrBytes::from_string(member_id);
    response
}

/// SyncGroup, versions 0 to 5.
///
/// v3: static members; v5: protocol type and name, checked if given and told in the answer.
pub async fn sync_group(ctx: Ctx, mut request: SyncGroupRequest) -> SyncGroupResponse {
    let mut response = SyncGroupResponse::default();
    let version = ctx.api_version;
    // Kafka's `handleSyncGroupRequest`: from version 5 on both are mandatory.
    if version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        response.error_code = ErrorCode::InconsistentGroupProtocol.code();
        return response;
    }
    let group = request.group_id.to_string();
    let assignments = std::mem::take(&mut request.assignments).into_iter();
    let command = Command::SyncGroup(SyncGroup {
        caller: Caller {
            group: group.clone(),
            member_id: request.member_id.to_string(),
            group_instance_id: request.group_instance_id.as_ref().map(|id| id.to_string()),
            generation: request.generation_id,
        },
        protocol_type: request.protocol_type.as_ref().map(|name| name.to_string()),
        protocol_name: request.protocol_name.as_ref().map(|name| name.to_string()),
        assignments: assignments
            .map(|assigned| (assigned.member_id.to_string(), assigned.assignment))
            .collect(),
    });
    // As with JoinGroup: its frame does not wait.
    drop(request);
    match ctx.broker.groups.ask(&group, command).await {
        Ok(Reply::Synced {
            protocol_type,
            protocol_name,
            assignment,
        }) => {
            if version >= 5 {
                response.protocol_type = Some(StrBytes::from_string(protocol_type));
                response.protocol_name = Some(StrBytes::from_string(protocol_name));
            }
            response.assignment = assignment;
        }
        other => response.error_code = failure(other).code(),
    }
    response
}

/// Heartbeat, versions 0 to 4. v3: static members.
pub async fn heartbeat(ctx: Ctx, request: HeartbeatRequest) -> HeartbeatResponse {
    let group = request.group_id.to_string();
    let command = Command::Heartbeat {
        caller: Caller {
            group: group.clone(),
            member_id: request.member_id.to_string(),
            group_instance_id: request.group_instance_id.map(|id| id.to_string()),
            generation: request.generation_id,
        },
    };
    let mut response = HeartbeatResponse::default();
    match ctx.broker.groups.ask(&group, command).await {
        Ok(Reply::Done) => {}
        other => response.error_code = failure(other).code(),
    }
    response
}

/// LeaveGroup, versions 0 to 5.
///
/// v0 to v2: one member, whose outcome is the answer's; v3: many, each with an outcome of its own, static ones
/// by their instance id (KIP-345); v5: a reason.
pub async fn leave_group(ctx: Ctx, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let mut response = LeaveGroupResponse::default();
    let group = request.group_id.to_string();
    let is_batch = ctx.api_version >= 3;
    let members: Vec<LeavingMember> = if is_batch {
        let each = request.members.iter().map(|member| LeavingMember {
            member_id: member.member_id.to_string(),
            group_instance_id: member.group_instance_id.as_ref().map(|id| id.to_string()),
        });
        each.collect()
    } else {
        vec![LeavingMember {
            member_id: request.member_id.to_string(),
            group_instance_id: None,
        }]
    };
    let command = Command::LeaveGroup {
        group: group.clone(),
        members,
    };
    match ctx.broker.groups.ask(&group, command).await {
        Ok(Reply::Left(outcomes)) if is_batch => {
            let asked = request.members.into_iter().zip(outcomes);
            let answers = asked.map(|(member, outcome)| {
                let mut answer = MemberResponse::default();
                answer.member_id = member.member_id;
                answer.group_instance_id = member.group_instance_id;
                answer.error_code = code_of(&outcome).code();
                answer
            });
            response.members = answers.collect();
        }
        Ok(Reply::Left(outcomes)) => {
            let outcome = outcomes.first().unwrap_or(&Ok(()));
            response.error_code = code_of(outcome).code();
        }
        other => response.error_code = failure(other).code(),
    }
    response
}

/// DescribeGroups, versions 0 to 6.
///
/// v3: authorized operations, all of them while there is no authorizer; v4: instance ids; v6: a group that does
/// not exist is GROUP_ID_NOT_FOUND, before it is Dead without an error.
pub async fn describe_groups(ctx: Ctx, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let with_operations = request.include_authorized_operations;
    let groups = request.groups.into_iter();
    let mut asked = some_at_once(groups.map(|id| describe_group(&ctx, id, with_operations)));
    let mut response = DescribeGroupsResponse::default();
    let mut bytes = 0;
    while let Some(described) = asked.next().await {
        let answer = if bytes < MAX_ANSWER_BYTES {
            bytes += described_bytes(&described);
            described
        } else {
            not_now(described.group_id)
        };
        response.groups.push(answer);
    }
    response
}

/// Clients ask again for the groups that this answer has no room for, and for these alone.
fn not_now(id: GroupId) -> DescribedGroup {
    DescribedGroup::default()
        .with_group_id(id)
        .with_error_code(ErrorCode::CoordinatorLoadInProgress.code())
        .with_authorized_operations(i32::MIN)
}

fn described_bytes(described: &DescribedGroup) -> usize {
    let members = described.members.iter().map(|member| {
        let instance = member.group_instance_id.as_ref();
        member.member_id.len()
            + instance.map_or(0, |id| id.len())
            + member.client_id.len()
            + member.client_host.len()
            + member.member_metadata.len()
            + member.member_assignment.len()
    });
    members.sum()
}

/// Runs questions beside each other, but not all of them; the answers come in their order.
pub(super) fn some_at_once<F: Future>(
    asked: impl Iterator<Item = F>,
) -> impl Stream<Item = F::Output> + Unpin {
    Box::pin(stream::iter(asked).buffered(AT_ONCE))
}

async fn describe_group(ctx: &Ctx, id: GroupId, with_operations: bool) -> DescribedGroup {
    let version = ctx.api_version;
    let mut answer = DescribedGroup::default();
    answer.authorized_operations = i32::MIN;
    let command = Command::DescribeGroup {
        group: id.to_string(),
    };
    match ctx.broker.groups.ask(&id, command).await {
        Ok(Reply::Described(group)) => {
            answer.group_state = StrBytes::from_static_str(group.state.name());
            answer.protocol_type = StrBytes::from_string(group.protocol_type);
            answer.protocol_data = StrBytes::from_string(group.protocol);
            let members = group.members.into_iter().map(|member| {
                let mut answer = DescribedGroupMember::default();
                answer.member_id = StrBytes::from_string(member.member_id);
                if version >= 4 {
                    answer.group_instance_id = member.group_instance_id.map(StrBytes::from_string);
                }
                answer.client_id = StrBytes::from_string(member.client_id);
                answer.client_host = StrBytes::from_string(member.client_host);
                answer.member_metadata = member.metadata;
                answer.member_assignment = member.assignment;
                answer
            });
            answer.members = members.collect();
            if with_operations && version >= 3 {
                answer.authorized_operations = ALL_GROUP_OPERATIONS;
            }
        }
        Ok(Reply::Failed(GroupError::GroupIdNotFound)) => {
            answer.group_state = StrBytes::from_static_str(GroupState::Dead.name());
            if version >= 6 {
                answer.error_code = ErrorCode::GroupIdNotFound.code();
                let message = format!("Group {} not found.", *id);
                answer.error_message = Some(StrBytes::from_string(message));
            }
        }
        other => answer.error_code = failure(other).code(),
    }
    answer.group_id = id;
    answer
}

/// ListGroups, versions 0 to 5. v4: states, to filter by and in the answer (KIP-518); v5: types (KIP-848).
///
/// A state or type that is not known filters everything out, as in Kafka.
pub async fn list_groups(ctx: Ctx, request: ListGroupsRequest) -> ListGroupsResponse {
    let version = ctx.api_version;
    let known = |names: &[StrBytes]| {
        let states: Vec<GroupState> = names.iter().filter_map(|name| name.parse().ok()).collect();
        (!names.is_empty()).then_some(states)
    };
    let states = known(&request.states_filter);
    let types: Option<Vec<GroupType>> = (!request.types_filter.is_empty()).then(|| {
        let names = request.types_filter.iter();
        names.filter_map(|name| name.parse().ok()).collect()
    });
    let command = || Command::ListGroups {
        states: states.clone(),
        types: types.clone(),
    };
    let mut response = ListGroupsResponse::default();
    for outcome in ctx.broker.groups.ask_all(command).await {
        match outcome {
            Ok(Reply::Listed(groups)) => response.groups.extend(groups.into_iter().map(|group| {
                let mut answer = ListedGroup::default();
                answer.group_id = GroupId(StrBytes::from_string(group.group.to_string()));
                answer.protocol_type = StrBytes::from_string(group.protocol_type);
                if version >= 4 {
                    answer.group_state = StrBytes::from_static_str(group.state.name());
                }
                if version >= 5 {
                    answer.group_type = StrBytes::from_static_str(group.group_type.name());
                }
                answer
            })),
            other => {
                // Kafka gives what it has, with the error of a shard that could not answer.
                response.error_code = failure(other).code();
            }
        }
    }
    response
}

/// DeleteGroups, versions 0 to 2: groups without members go with their offsets.
pub async fn delete_groups(ctx: Ctx, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    // As Kafka answers a group that is named twice: once.
    let mut named = BTreeSet::new();
    let groups = request.groups_names.into_iter();
    let groups: Vec<GroupId> = groups.filter(|id| named.insert(id.clone())).collect();
    let deleted = groups.into_iter().map(|id| {
        let ctx = &ctx;
        async move {
            let command = Command::DeleteGroup {
                group: id.to_string(),
            };
            let mut answer = DeletableGroupResult::default();
            match ctx.broker.groups.ask(&id, command).await {
                Ok(Reply::Done) => {}
                other => answer.error_code = failure(other).code(),
            }
            answer.group_id = id;
            answer
        }
    });
    let mut response = DeleteGroupsResponse::default();
    response.results = some_at_once(deleted).collect().await;
    response
}

fn code_of(outcome: &Result<(), GroupError>) -> ErrorCode {
    outcome
        .as_ref()
        .map_or_else(group_error, |()| ErrorCode::None)
}

/// The code of a reply that is not the one the command has.
pub(super) fn failure(outcome: Result<Reply, ErrorCode>) -> ErrorCode {
    match outcome {
        Ok(Reply::Failed(error)) => group_error(&error),
        Ok(other) => unexpected(other),
        Err(code) => code,
    }
}

fn unexpected(reply: Reply) -> ErrorCode {
    tracing::error!(?reply, "group machine gave an answer to another question");
    ErrorCode::UnknownServerError
}
