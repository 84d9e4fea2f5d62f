//! Rows that look at groups as a whole: FindCoordinator, DescribeGroups, ListGroups, DeleteGroups.

use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::{
    ApiKey, BrokerId, DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest,
    ListGroupsRequest, OffsetCommitRequest,
};
use ottla_integration_tests::wire::{self, Wire};

use crate::Stage;
use crate::group_offsets::{commit_request, fetched};
use crate::groups::{Member, group_id, new_group};
use crate::requests::{NONE, create, newest, text};

const INVALID_REQUEST: i16 = 42;
const NON_EMPTY_GROUP: i16 = 68;
const GROUP_ID_NOT_FOUND: i16 = 69;
/// READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS: a bit each, at the place of Kafka's operation code.
const ALL_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

fn find_request(version: i16, key: &str, key_type: i8) -> FindCoordinatorRequest {
    let request = FindCoordinatorRequest::default();
    let request = if version >= 4 {
        request.with_coordinator_keys(vec![text(key)])
    } else {
        request.with_key(text(key))
    };
    if version >= 1 {
        request.with_key_type(key_type)
    } else {
        request
    }
}

pub fn find_coordinator_succeeds(stage: &mut Stage, version: i16) {
    new_group(&mut stage.wire);
    let port = i32::from(stage.broker.port());
    let mut request = find_request(version, "some group", 0);
    if version >= 4 {
        request.coordinator_keys.push(text("another"));
    }
    let response = stage.wire.ask(version, &request);
    assert_eq!((response.throttle_time_ms, response.error_code), (0, NONE));
    if version < 4 {
        assert_eq!(response.node_id, BrokerId(1));
        assert_eq!((response.host.as_str(), response.port), ("127.0.0.1", port));
        assert_eq!(
            response.error_message,
            Some(text(if version >= 1 { "NONE" } else { "" }))
        );
        return;
    }
    let keys: Vec<&str> = response
        .coordinators
        .iter()
        .map(|found| found.key.as_str())
        .collect();
    assert_eq!(keys, ["some group", "another"]);
    for found in &response.coordinators {
        assert_eq!((found.node_id, found.error_code), (BrokerId(1), NONE));
        assert_eq!((found.host.as_str(), found.port), ("127.0.0.1", port));
        assert_eq!(found.error_message, Some(text("")));
    }
}

/// Version 0 knows groups only, and every text names one: there is nothing to refuse but a broken request.
pub fn find_coordinator_fails(stage: &mut Stage, version: i16) {
    if version == 0 {
        let mut wire = stage.another();
        let null = (-1_i16).to_be_bytes();
        wire.write(&wire::frame(ApiKey::FindCoordinator as i16, 0, 1, 1, &null));
        return wire.expect_close();
    }
    let response = stage.wire.ask(version, &find_request(version, "g", 9));
    if version < 4 {
        assert_eq!(response.error_code, INVALID_REQUEST);
        assert_eq!((response.node_id, response.port), (BrokerId(-1), -1));
        assert_eq!(response.host.as_str(), "");
        return;
    }
    let found = &response.coordinators[0];
    assert_eq!(
        (found.key.as_str(), found.error_code),
        ("g", INVALID_REQUEST)
    );
    assert_eq!((found.node_id, found.port), (BrokerId(-1), -1));
    assert_eq!(found.host.as_str(), "");
}

fn describe(wire: &mut Wire, version: i16, group: &str) -> DescribedGroup {
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
    let mut response = wire.ask(version, &request);
    assert_eq!(response.throttle_time_ms, 0);
    assert_eq!(response.groups.len(), 1);
    response.groups.remove(0)
}

pub fn describe_groups_succeeds(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let mut member = Member::new(stage, &group, "subscription").named("i-1");
    member.join(9);
    let metadata = member.metadata.clone();
    let check = |described: &DescribedGroup, state: &str, protocol: &str, bytes: [&[u8]; 2]| {
        assert_eq!(described.error_code, NONE);
        assert_eq!(described.error_message, None);
        assert_eq!(described.group_id.as_str(), group);
        assert_eq!(described.group_state.as_str(), state);
        assert_eq!(described.protocol_type.as_str(), "consumer");
        assert_eq!(described.protocol_data.as_str(), protocol);
        assert_eq!(described.authorized_operations, i32::MIN);
        assert_eq!(described.members.len(), 1);
        let told = &described.members[0];
        assert_eq!(told.member_id.as_str(), member.id);
        let instance = (version >= 4).then(|| text("i-1"));
        assert_eq!(told.group_instance_id, instance);
        assert_eq!(told.client_id.as_str(), "wire-test");
        assert_eq!(told.client_host.as_str(), "/127.0.0.1");
        assert_eq!(told.member_metadata, bytes[0]);
        assert_eq!(told.member_assignment, bytes[1]);
    };
    let described = describe(&mut stage.wire, version, &group);
    check(&described, "CompletingRebalance", "", [b"", b""]);
    let mut late = Member::new(stage, &group, "m");
    let id = member.id.clone();
    let synced = {
        let request = member.sync_request(5, &[(&id, b"assignment")]);
        stage.another().ask(5, &request)
    };
    assert_eq!(synced.error_code, NONE);
    let described = describe(&mut stage.wire, version, &group);
    check(&described, "Stable", "range", [&metadata, b"assignment"]);
    if version >= 3 {
        let request = DescribeGroupsRequest::default()
            .with_groups(vec![group_id(&group), group_id(&group)])
            .with_include_authorized_operations(true);
        let response = stage.wire.ask(version, &request);
        assert_eq!(response.groups.len(), 2, "asked twice, answered twice");
        for described in &response.groups {
            assert_eq!(described.authorized_operations, ALL_OPERATIONS);
        }
    }
    let _waits = late.begin_join(9);
    member.hears_of_rebalance();
    let described = describe(&mut stage.wire, version, &group);
    assert_eq!(described.group_state.as_str(), "PreparingRebalance");
    assert_eq!(described.members.len(), 2);
}

pub fn describe_groups_fails(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    for group in [group.as_str(), ""] {
        let described = describe(&mut stage.wire, version, group);
        assert_eq!(described.group_id.as_str(), group);
        // Before version 6 the state says it all.
        assert_eq!(described.group_state.as_str(), "Dead");
        let (error, message) = if version >= 6 {
            let message = format!("Group {group} not found.");
            (GROUP_ID_NOT_FOUND, Some(text(&message)))
        } else {
            (NONE, None)
        };
        assert_eq!(described.error_code, error);
        assert_eq!(described.error_message, message);
        assert_eq!(described.protocol_type.as_str(), "");
        assert_eq!(described.protocol_data.as_str(), "");
        assert!(described.members.is_empty());
        assert_eq!(described.authorized_operations, i32::MIN);
    }
}

/// The states and types that a list tells of a group, if it is in the list.
fn listed(
    wire: &mut Wire,
    version: i16,
    filters: [&[&str]; 2],
    group: &str,
) -> Option<[String; 3]> {
    let [states, types] = filters.map(|names| names.iter().map(|name| text(name)).collect());
    let request = ListGroupsRequest::default()
        .with_states_filter(states)
        .with_types_filter(types);
    let response = wire.ask(version, &request);
    assert_eq!((response.throttle_time_ms, response.error_code), (0, NONE));
    let found = response
        .groups
        .iter()
        .find(|listed| listed.group_id.as_str() == group)?;
    let told = [&found.protocol_type, &found.group_state, &found.group_type];
    Some(told.map(|told| told.to_string()))
}

pub fn list_groups_succeeds(stage: &mut Stage, version: i16) {
    let with_members = new_group(&mut stage.wire);
    let with_offsets = new_group(&mut stage.wire);
    let mut member = Member::new(stage, &with_members, "m");
    member.settle(b"all");
    let topic = create(&mut stage.wire, 1, &[]);
    let commit = commit_request(9, &with_offsets, &topic.name, &[(0, 7)]);
    stage.wire.ask(9, &commit);
    let told = |protocol_type: &str, state: &str| {
        let state = if version >= 4 { state } else { "" };
        let group_type = if version >= 5 { "classic" } else { "" };
        Some([protocol_type, state, group_type].map(str::to_owned))
    };
    let wire = &mut stage.wire;
    let stable = told("consumer", "Stable");
    let empty = told("", "Empty");
    assert_eq!(listed(wire, version, [&[], &[]], &with_members), stable);
    assert_eq!(listed(wire, version, [&[], &[]], &with_offsets), empty);
    if version >= 4 {
        for states in [&["Empty"] as &[&str], &["empty", "Dead"]] {
            assert_eq!(listed(wire, version, [states, &[]], &with_members), None);
            assert_eq!(listed(wire, version, [states, &[]], &with_offsets), empty);
        }
    }
    if version >= 5 {
        for (types, expected) in [
            (&["classic"] as &[&str], &stable),
            (&["Classic", "consumer"], &stable),
            (&["consumer"], &None),
        ] {
            let told = listed(wire, version, [&[], types], &with_members);
            assert_eq!(&told, expected, "{types:?}");
        }
    }
}

/// There is nothing to refuse: an unknown state or type filters everything out, and only a newer version closes.
pub fn list_groups_fails(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    Member::new(stage, &group, "m").settle(b"all");
    if version >= 4 {
        let told = listed(&mut stage.wire, version, [&["Sleeping"], &[]], &group);
        assert_eq!(told, None);
    }
    if version >= 5 {
        let told = listed(&mut stage.wire, version, [&[], &["modern"]], &group);
        assert_eq!(told, None);
    }
    let mut wire = stage.another();
    let newer = newest::<ListGroupsRequest>() + 1;
    wire.write(&wire::frame(
        ApiKey::ListGroups as i16,
        newer,
        1,
        2,
        &[0; 8],
    ));
    wire.expect_close();
}

pub fn delete_groups_succeeds(stage: &mut Stage, version: i16) {
    let topic = create(&mut stage.wire, 1, &[]);
    let groups = [(); 2].map(|()| new_group(&mut stage.wire));
    for group in &groups {
        let commit = commit_request(9, group, &topic.name, &[(0, 7)]);
        stage.wire.ask(newest::<OffsetCommitRequest>(), &commit);
    }
    // One is named twice.
    let names = groups.iter().chain(&groups[..1]);
    let names = names.map(|group| group_id(group)).collect();
    let request = DeleteGroupsRequest::default().with_groups_names(names);
    let response = stage.wire.ask(version, &request);
    assert_eq!(response.throttle_time_ms, 0);
    let mut results: Vec<_> = response
        .results
        .iter()
        .map(|result| (result.group_id.as_str(), result.error_code))
        .collect();
    results.sort_unstable();
    let mut expected = groups.each_ref().map(|group| (group.as_str(), NONE));
    expected.sort_unstable();
    assert_eq!(results, expected);
    for group in &groups {
        let described = describe(&mut stage.wire, 6, group);
        assert_eq!(described.error_code, GROUP_ID_NOT_FOUND);
        let offset = fetched(&mut stage.wire, group, &topic.name, 0);
        assert_eq!(offset.committed_offset, -1, "its offsets are gone");
    }
}

pub fn delete_groups_fails(stage: &mut Stage, version: i16) {
    let unknown = new_group(&mut stage.wire);
    let used = new_group(&mut stage.wire);
    let mut member = Member::new(stage, &used, "m");
    member.settle(b"all");
    for (group, error) in [
        (unknown.as_str(), GROUP_ID_NOT_FOUND),
        ("", GROUP_ID_NOT_FOUND),
        (used.as_str(), NON_EMPTY_GROUP),
    ] {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(group)]);
        let response = stage.wire.ask(version, &request);
        assert_eq!(response.results.len(), 1);
        let result = &response.results[0];
        let told = (result.group_id.as_str(), result.error_code);
        assert_eq!(told, (group, error));
    }
    assert_eq!(member.heartbeat(4), NONE, "it is still in");
}
