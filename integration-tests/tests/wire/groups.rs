//! Rows of members: JoinGroup, SyncGroup, Heartbeat, LeaveGroup; and groups in few words for the files beside.
//!
//! A join or a sync may wait for other members, and its connection with it: each member has its own.

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, OffsetFetchRequest, SyncGroupRequest, SyncGroupResponse,
};
use ottla_integration_tests::unique;
use ottla_integration_tests::wire::{Ticket, Wire};

use crate::Stage;
use crate::requests::{NONE, newest, text};

/// Kafka's words for errors of groups.
pub const ILLEGAL_GENERATION: i16 = 22;
pub const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
pub const INVALID_GROUP_ID: i16 = 24;
pub const UNKNOWN_MEMBER_ID: i16 = 25;
pub const INVALID_SESSION_TIMEOUT: i16 = 26;
pub const REBALANCE_IN_PROGRESS: i16 = 27;
pub const MEMBER_ID_REQUIRED: i16 = 79;
pub const FENCED_INSTANCE_ID: i16 = 82;

pub fn group_id(name: &str) -> GroupId {
    GroupId(text(name))
}

/// A group that no other test knows, on a broker that is ready for groups.
pub fn new_group(wire: &mut Wire) -> String {
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
    let find = |wire: &mut Wire| wire.ask(6, &request).coordinators[0].error_code;
    let fetch = OffsetFetchRequest::default().with_group_id(group_id("g"));
    // Here the first answer is good; in Apache Kafka (`OTTLA_TEST_BOOTSTRAP`) the topic comes soon after.
    while std::env::var_os("OTTLA_TEST_BOOTSTRAP").is_some()
        && (find(wire) != NONE || wire.ask(7, &fetch).error_code != NONE)
    {}
    assert_eq!(find(wire), NONE);
    unique("group")
}

/// A member of a group, or a client on its way to be one.
pub struct Member {
    pub wire: Wire,
    pub group: String,
    /// Empty until it has joined.
    pub id: String,
    pub instance: Option<String>,
    pub generation: i32,
    /// What it brings to the group: a subscription.
    pub metadata: Bytes,
}

impl Member {
    pub fn new(stage: &Stage, group: &str, topic: &str) -> Member {
        Member {
            wire: stage.another(),
            group: group.to_owned(),
            id: String::new(),
            instance: None,
            generation: -1,
            metadata: subscription(topic).into(),
        }
    }

    pub fn named(self, instance: &str) -> Member {
        Member {
            instance: Some(instance.to_owned()),
            ..self
        }
    }

    pub fn join_request(&self, version: i16) -> JoinGroupRequest {
        let protocols = ["range", "roundrobin"].map(|name| {
            JoinGroupRequestProtocol::default()
                .with_name(text(name))
                .with_metadata(self.metadata.clone())
        });
        let request = JoinGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_session_timeout_ms(30_000)
            .with_member_id(text(&self.id))
            .with_protocol_type(text("consumer"))
            .with_protocols(protocols.to_vec());
        let request = if version >= 1 {
            request.with_rebalance_timeout_ms(30_000)
        } else {
            request
        };
        if version >= 5 {
            request.with_group_instance_id(self.instance.as_deref().map(text))
        } else {
            request
        }
    }

    /// Joins without a look at the answer, with the id it was given if it was sent back for one (KIP-394).
    pub fn begin_join(&mut self, version: i16) -> Ticket<JoinGroupRequest> {
        if version >= 4 && self.id.is_empty() && self.instance.is_none() {
            let response = self.wire.ask(version, &self.join_request(version));
            assert_eq!(response.error_code, MEMBER_ID_REQUIRED);
            is_refused(&response, version);
            assert!(!response.member_id.is_empty());
            self.id = response.member_id.to_string();
        }
        let request = self.join_request(version);
        self.wire.send(version, &request)
    }

    pub fn end_join(&mut self, ticket: Ticket<JoinGroupRequest>) -> JoinGroupResponse {
        let response = self.wire.receive(ticket);
        if response.error_code == NONE {
            self.id = response.member_id.to_string();
            self.generation = response.generation_id;
        }
        response
    }

    pub fn join(&mut self, version: i16) -> JoinGroupResponse {
        let ticket = self.begin_join(version);
        self.end_join(ticket)
    }

    pub fn sync_request(&self, version: i16, assigned: &[(&str, &[u8])]) -> SyncGroupRequest {
        let assignments = assigned.iter().map(|(member, assignment)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member))
                .with_assignment(Bytes::copy_from_slice(assignment))
        });
        let mut request = SyncGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id))
            .with_assignments(assignments.collect());
        if version >= 3 {
            request.group_instance_id = self.instance.as_deref().map(text);
        }
        if version >= 5 {
            request.protocol_type = Some(text("consumer"));
            request.protocol_name = Some(text("range"));
        }
        request
    }

    pub fn sync(&mut self, version: i16, assigned: &[(&str, &[u8])]) -> SyncGroupResponse {
        let request = self.sync_request(version, assigned);
        self.wire.ask(version, &request)
    }

    /// The only member of a new generation: joined, and assigned to itself.
    pub fn settle(&mut self, assignment: &[u8]) {
        let response = self.join(newest::<JoinGroupRequest>());
        assert_eq!(response.error_code, NONE);
        let id = self.id.clone();
        let response = self.sync(newest::<SyncGroupRequest>(), &[(&id, assignment)]);
        assert_eq!(response.error_code, NONE);
    }

    pub fn heartbeat_request(&self, version: i16) -> HeartbeatRequest {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(&self.group))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id));
        if version >= 3 {
            request.with_group_instance_id(self.instance.as_deref().map(text))
        } else {
            request
        }
    }

    pub fn heartbeat(&mut self, version: i16) -> i16 {
        let request = self.heartbeat_request(version);
        let response = self.wire.ask(version, &request);
        assert_eq!(response.throttle_time_ms, 0);
        response.error_code
    }

    /// Until the group has taken a join of somebody else.
    pub fn hears_of_rebalance(&mut self) {
        while self.heartbeat(newest::<HeartbeatRequest>()) != REBALANCE_IN_PROGRESS {}
    }
}

/// `ConsumerProtocolSubscription`, version 0, of one topic. Apache Kafka 4.3.1 reads it: of bytes that are none it may
/// make a rebalance that never ends.
fn subscription(topic: &str) -> Vec<u8> {
    let len = i16::try_from(topic.len()).expect("a short name");
    let mut bytes = vec![0, 0, 0, 0, 0, 1];
    bytes.extend(len.to_be_bytes());
    bytes.extend(topic.as_bytes());
    bytes.extend([0xff; 4]);
    bytes
}

/// Checks that a refusal holds nothing else.
fn is_refused(response: &JoinGroupResponse, version: i16) {
    assert_eq!(response.throttle_time_ms, 0);
    assert_eq!(response.generation_id, -1);
    assert_eq!(response.protocol_type, None);
    assert_eq!(
        response.protocol_name,
        (version < 7).then(|| text("")),
        "null from 7 on"
    );
    assert_eq!(response.leader.as_str(), "");
    assert!(!response.skip_assignment);
    assert!(response.members.is_empty());
}

/// Checks what a member is told of its generation, and who it hears of.
fn is_joined(response: &JoinGroupResponse, version: i16, leader: &Member, known: &[&Member]) {
    assert_eq!((response.throttle_time_ms, response.error_code), (0, NONE));
    assert_eq!(
        response.protocol_type,
        (version >= 7).then(|| text("consumer"))
    );
    assert_eq!(response.protocol_name, Some(text("range")));
    assert_eq!(response.leader.as_str(), leader.id);
    assert!(!response.skip_assignment);
    let told: Vec<_> = response.members.iter().collect();
    assert_eq!(told.len(), known.len(), "{response:?}");
    for member in known {
        let told = told
            .iter()
            .find(|told| told.member_id.as_str() == member.id)
            .expect("the member");
        assert_eq!(told.metadata, member.metadata);
        let instance = member.instance.as_deref().filter(|_| version >= 5);
        assert_eq!(told.group_instance_id, instance.map(text));
    }
}

pub fn join_group_succeeds(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let mut leader = Member::new(stage, &group, "first");
    if version >= 5 {
        leader = leader.named("i-1");
    }
    let mut follower = Member::new(stage, &group, "second");
    let response = leader.join(version);
    assert_eq!(response.generation_id, 1);
    is_joined(&response, version, &leader, &[&leader]);
    let owner = if version >= 5 { "i-1-" } else { "wire-test-" };
    assert!(leader.id.starts_with(owner), "{}", leader.id);
    assert_eq!(leader.id.len(), owner.len() + 36, "a UUID follows");

    let ticket = follower.begin_join(version);
    leader.hears_of_rebalance();
    let response = leader.join(version);
    let of_follower = follower.end_join(ticket);
    assert_eq!((response.generation_id, of_follower.generation_id), (2, 2));
    assert!(follower.id.starts_with("wire-test-"), "{}", follower.id);
    is_joined(&response, version, &leader, &[&leader, &follower]);
    is_joined(&of_follower, version, &leader, &[]);
}

pub fn join_group_fails(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let member = Member::new(stage, &group, "m");
    let good = member.join_request(version);
    let unknown = format!("wire-test-{group}");
    let refused = [
        (good.clone().with_group_id(group_id("")), INVALID_GROUP_ID),
        (
            good.clone().with_session_timeout_ms(0),
            INVALID_SESSION_TIMEOUT,
        ),
        (
            good.clone().with_member_id(text(&unknown)),
            UNKNOWN_MEMBER_ID,
        ),
        (
            good.clone().with_protocols(vec![]),
            INCONSISTENT_GROUP_PROTOCOL,
        ),
        (
            good.clone().with_protocol_type(text("")),
            INCONSISTENT_GROUP_PROTOCOL,
        ),
    ];
    for (request, error) in refused {
        let response = stage.wire.ask(version, &request);
        assert_eq!(response.error_code, error, "{request:?}");
        assert_eq!(response.member_id, request.member_id);
        is_refused(&response, version);
    }
    // Nothing in common with the members there are.
    let mut member = member;
    member.settle(b"all");
    let other = [JoinGroupRequestProtocol::default().with_name(text("sticky"))];
    let response = stage
        .wire
        .ask(version, &good.clone().with_protocols(other.to_vec()));
    assert_eq!(response.error_code, INCONSISTENT_GROUP_PROTOCOL);
    is_refused(&response, version);
    if version >= 5 {
        let group = new_group(&mut stage.wire);
        let mut fenced = Member::new(stage, &group, "m").named("i");
        fenced.settle(b"");
        fenced.id = unknown;
        let response = fenced.join(version);
        assert_eq!(response.error_code, FENCED_INSTANCE_ID);
        assert_eq!(response.member_id.as_str(), fenced.id);
        is_refused(&response, version);
    }
}

pub fn sync_group_succeeds(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let mut leader = Member::new(stage, &group, "first");
    if version >= 3 {
        leader = leader.named("i-1");
    }
    let mut follower = Member::new(stage, &group, "second");
    leader.join(9);
    let ticket = follower.begin_join(9);
    leader.hears_of_rebalance();
    leader.join(9);
    follower.end_join(ticket);

    // It waits for the leader's assignment.
    let request = follower.sync_request(version, &[]);
    let ticket = follower.wire.send(version, &request);
    let (own, other) = (leader.id.clone(), follower.id.clone());
    let assigned: [(&str, &[u8]); 3] = [(&own, b"half"), (&other, b"rest"), ("nobody", b"-")];
    let synced = leader.sync(version, &assigned);
    let answers = [
        (synced, b"half"),
        (follower.wire.receive(ticket), b"rest"),
        // Again, from the stable group; the leader's assignments are not looked at any more.
        (follower.sync(version, &[]), b"rest"),
        (leader.sync(version, &[(&other, b"none")]), b"half"),
    ];
    for (response, assignment) in answers {
        assert_eq!((response.throttle_time_ms, response.error_code), (0, NONE));
        assert_eq!(response.assignment, assignment.as_slice());
        let told = |name: &str| (version >= 5).then(|| text(name));
        assert_eq!(response.protocol_type, told("consumer"));
        assert_eq!(response.protocol_name, told("range"));
    }
}

pub fn sync_group_fails(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let mut member = Member::new(stage, &group, "m").named("i");
    member.settle(b"all");
    let good = member.sync_request(version, &[]);
    let mut refused = vec![
        (good.clone().with_group_id(group_id("")), INVALID_GROUP_ID),
        (
            good.clone().with_group_id(group_id("no such group")),
            UNKNOWN_MEMBER_ID,
        ),
        (good.clone().with_generation_id(7), ILLEGAL_GENERATION),
        (
            good.clone()
                .with_member_id(text("who"))
                .with_group_instance_id(None),
            UNKNOWN_MEMBER_ID,
        ),
    ];
    if version >= 3 {
        refused.push((good.clone().with_member_id(text("who")), FENCED_INSTANCE_ID));
    }
    if version >= 5 {
        for (protocol_type, protocol_name) in [
            (None, Some("range")),
            (Some("consumer"), None),
            (Some("connect"), Some("range")),
            (Some("consumer"), Some("sticky")),
        ] {
            let request = good
                .clone()
                .with_protocol_type(protocol_type.map(text))
                .with_protocol_name(protocol_name.map(text));
            refused.push((request, INCONSISTENT_GROUP_PROTOCOL));
        }
    }
    for (request, error) in refused {
        let response = stage.wire.ask(version, &request);
        assert_eq!(response.error_code, error, "{request:?}");
        assert_eq!(response.throttle_time_ms, 0);
        assert!(response.assignment.is_empty());
        assert_eq!(
            (response.protocol_type, response.protocol_name),
            (None, None)
        );
    }
}

pub fn heartbeat_succeeds(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let mut member = Member::new(stage, &group, "m").named("i");
    member.join(9);
    assert_eq!(member.heartbeat(version), NONE, "before its assignment");
    let id = member.id.clone();
    member.sync(5, &[(&id, b"all")]);
    assert_eq!(member.heartbeat(version), NONE, "in the stable group");
}

pub fn heartbeat_fails(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let mut member = Member::new(stage, &group, "m").named("i");
    member.settle(b"all");
    let good = member.heartbeat_request(version);
    let stranger = good.clone().with_member_id(text("who"));
    let mut refused = vec![
        (good.clone().with_group_id(group_id("")), INVALID_GROUP_ID),
        (
            good.clone().with_group_id(group_id("no such group")),
            UNKNOWN_MEMBER_ID,
        ),
        (good.clone().with_generation_id(0), ILLEGAL_GENERATION),
        (
            stranger.clone().with_group_instance_id(None),
            UNKNOWN_MEMBER_ID,
        ),
    ];
    if version >= 3 {
        refused.push((stranger, FENCED_INSTANCE_ID));
        let unknown = good.clone().with_group_instance_id(Some(text("other")));
        refused.push((unknown, UNKNOWN_MEMBER_ID));
    }
    for (request, error) in refused {
        let response = stage.wire.ask(version, &request);
        let told = (response.throttle_time_ms, response.error_code);
        assert_eq!(told, (0, error), "{request:?}");
    }
    let mut late = Member::new(stage, &group, "late");
    let _waits = late.begin_join(9);
    while member.heartbeat(version) != REBALANCE_IN_PROGRESS {}
}

pub fn leave_request(
    version: i16,
    group: &str,
    members: &[(&str, Option<&str>)],
) -> LeaveGroupRequest {
    let request = LeaveGroupRequest::default().with_group_id(group_id(group));
    if version < 3 {
        return request.with_member_id(text(members[0].0));
    }
    let identity = |(id, instance): &(&str, Option<&str>)| {
        let identity = MemberIdentity::default()
            .with_member_id(text(id))
            .with_group_instance_id(instance.map(text));
        if version >= 5 {
            identity.with_reason(Some(text("the test is over")))
        } else {
            identity
        }
    };
    request.with_members(members.iter().map(identity).collect())
}

pub fn leave_group_succeeds(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let mut member = Member::new(stage, &group, "m");
    member.settle(b"all");
    let request = leave_request(version, &group, &[(&member.id, None)]);
    let response = stage.wire.ask(version, &request);
    assert_eq!((response.throttle_time_ms, response.error_code), (0, NONE));
    assert_eq!(response.members.len(), usize::from(version >= 3));
    for left in &response.members {
        assert_eq!(left.error_code, NONE);
        assert_eq!(left.member_id.as_str(), member.id);
        assert_eq!(left.group_instance_id, None);
    }
    assert_eq!(member.heartbeat(4), UNKNOWN_MEMBER_ID, "it is out");
    if version >= 3 {
        // Static members by their instance ids, with and without the member id, beside a stranger.
        let mut static_member = Member::new(stage, &group, "m").named("i");
        static_member.settle(b"all");
        let request = leave_request(version, &group, &[("", Some("i")), ("who", None)]);
        let response = stage.wire.ask(version, &request);
        assert_eq!(response.error_code, NONE);
        let codes = response.members.iter().map(|left| {
            let instance = left.group_instance_id.as_ref();
            (
                left.member_id.as_str(),
                instance.map(|id| id.as_str()),
                left.error_code,
            )
        });
        let expected = [("", Some("i"), NONE), ("who", None, UNKNOWN_MEMBER_ID)];
        assert_eq!(codes.collect::<Vec<_>>(), expected);
        assert_eq!(static_member.heartbeat(4), UNKNOWN_MEMBER_ID, "it is out");
    }
}

pub fn leave_group_fails(stage: &mut Stage, version: i16) {
    let group = new_group(&mut stage.wire);
    let mut member = Member::new(stage, &group, "m").named("i");
    member.settle(b"all");
    let mut refused = vec![
        (group.as_str(), "who", None, UNKNOWN_MEMBER_ID),
        ("no such group", "who", None, UNKNOWN_MEMBER_ID),
    ];
    if version >= 3 {
        refused.push((&group, "who", Some("i"), FENCED_INSTANCE_ID));
        refused.push((&group, "", Some("other"), UNKNOWN_MEMBER_ID));
    }
    for (group, id, instance, error) in refused {
        let request = leave_request(version, group, &[(id, instance)]);
        let response = stage.wire.ask(version, &request);
        if version < 3 {
            assert_eq!(response.error_code, error, "{request:?}");
            continue;
        }
        assert_eq!(response.error_code, NONE, "{request:?}");
        let left = &response.members[0];
        assert_eq!((left.member_id.as_str(), left.error_code), (id, error));
        assert_eq!(left.group_instance_id, instance.map(text));
    }
    let response = stage
        .wire
        .ask(version, &leave_request(version, "", &[(&member.id, None)]));
    assert_eq!(response.error_code, INVALID_GROUP_ID);
    assert!(response.members.is_empty());
    assert_eq!(member.heartbeat(4), NONE, "it is still in");
}
