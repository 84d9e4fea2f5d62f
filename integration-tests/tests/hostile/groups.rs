//! Rows C1 to C9 and C32, and more of their kind: requests for groups that no member could mean.

use ottla_protocol::codec::messages::{
    DescribeGroupsResponse, FindCoordinatorResponse, HeartbeatResponse, JoinGroupResponse,
    LeaveGroupResponse, OffsetCommitResponse, OffsetFetchResponse, SyncGroupResponse,
};

use crate::table::Row;
use crate::target::{Client, Target};
use crate::wire::{Wire, decode, header};

pub const OFFSET_COMMIT: i16 = 8;
pub const OFFSET_FETCH: i16 = 9;
pub const FIND_COORDINATOR: i16 = 10;
pub const JOIN_GROUP: i16 = 11;
pub const HEARTBEAT: i16 = 12;
pub const LEAVE_GROUP: i16 = 13;
pub const SYNC_GROUP: i16 = 14;
pub const DESCRIBE_GROUPS: i16 = 15;

/// The versions used here: the last ones that are not flexible.
pub const JOINED: (i16, i16) = (JOIN_GROUP, 5);
pub const SYNCED: (i16, i16) = (SYNC_GROUP, 3);
const BEAT: (i16, i16) = (HEARTBEAT, 3);
pub const LEFT: (i16, i16) = (LEAVE_GROUP, 3);
const COMMITTED: (i16, i16) = (OFFSET_COMMIT, 7);

/// A JoinGroup.
#[derive(Clone)]
pub struct Join<'a> {
    pub version: i16,
    pub group: &'a str,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub member_id: &'a str,
    pub instance_id: Option<&'a str>,
    pub protocol_type: &'a str,
    /// Names and metadata.
    pub protocols: Vec<(&'a str, &'a [u8])>,
    /// Sent after the request's end.
    pub trailing: usize,
}

impl<'a> Join<'a> {
    /// A consumer's first join.
    pub fn of(group: &'a str) -> Self {
        Self {
            version: JOINED.1,
            group,
            session_timeout_ms: 30_000,
            rebalance_timeout_ms: 60_000,
            member_id: "",
            instance_id: None,
            protocol_type: "consumer",
            protocols: vec![("range", b"metadata")],
            trailing: 0,
        }
    }

    pub fn framed(&self) -> Vec<u8> {
        let count = i32::try_from(self.protocols.len()).expect("few protocols");
        let wire = self.until_protocols().i32(count);
        let each = self.protocols.iter();
        let wire = each.fold(wire, |wire, (name, metadata)| {
            wire.string(name).bytes(Some(metadata))
        });
        wire.raw(&vec![0; self.trailing]).framed()
    }

    fn until_protocols(&self) -> Wire {
        let wire = header(JOIN_GROUP, self.version)
            .string(self.group)
            .i32(self.session_timeout_ms);
        let wire = match self.version {
            0 => wire,
            _ => wire.i32(self.rebalance_timeout_ms),
        };
        let wire = wire.string(self.member_id);
        let wire = match self.instance_id {
            _ if self.version < 5 => wire,
            Some(id) => wire.string(id),
            None => wire.i16(-1),
        };
        wire.string(self.protocol_type)
    }
}

/// A member as it speaks in everything but its join.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    pub group: &'a str,
    pub generation: i32,
    pub member_id: &'a str,
    pub instance_id: Option<&'a str>,
}

impl Caller<'_> {
    fn header(&self, api: (i16, i16)) -> Wire {
        let wire = header(api.0, api.1)
            .string(self.group)
            .i32(self.generation)
            .string(self.member_id);
        match self.instance_id {
            Some(id) => wire.string(id),
            None => wire.i16(-1),
        }
    }

    /// A SyncGroup with an assignment for each member id.
    pub fn sync(&self, assignments: &[(&str, &[u8])]) -> Vec<u8> {
        self.sync_with(assignments, 0)
    }

    /// The same with bytes behind its end.
    pub fn sync_with(&self, assignments: &[(&str, &[u8])], trailing: usize) -> Vec<u8> {
        let count = i32::try_from(assignments.len()).expect("few");
        let wire = self.header(SYNCED).i32(count);
        let each = assignments.iter();
        each.fold(wire, |wire, (id, assignment)| {
            wire.string(id).bytes(Some(assignment))
        })
        .raw(&vec![0; trailing])
        .framed()
    }

    pub fn heartbeat(&self) -> Vec<u8> {
        self.header(BEAT).framed()
    }

    pub fn leave(&self) -> Vec<u8> {
        let wire = header(LEFT.0, LEFT.1)
            .string(self.group)
            .i32(1)
            .string(self.member_id);
        match self.instance_id {
            Some(id) => wire.string(id),
            None => wire.i16(-1),
        }
        .framed()
    }

    /// Commits an offset of partition 0.
    pub fn commit(&self, topic: &str, note: &str) -> Vec<u8> {
        self.header(COMMITTED)
            .i32(1)
            .string(topic)
            .i32(1)
            .i32(0)
            .i64(5)
            .i32(-1)
            .string(note)
            .framed()
    }
}

/// The broker's groups are ready after this.
pub fn find_coordinator(target: &Target) {
    let answer = target.ask(&header(FIND_COORDINATOR, 0).string("g").framed());
    let response: FindCoordinatorResponse = decode(&answer, 0);
    assert_eq!(response.error_code, 0);
}

/// A static member of a stable group.
pub struct Settled {
    pub group: &'static str,
    pub member_id: String,
    pub generation: i32,
}

impl Settled {
    pub const INSTANCE: &'static str = "i";

    pub fn new(target: &Target, group: &'static str) -> Self {
        let mut client = target.connect();
        let join = Join {
            instance_id: Some(Self::INSTANCE),
            session_timeout_ms: 1_800_000,
            ..Join::of(group)
        };
        let joined = ask_join(&mut client, &join);
        assert_eq!(joined.error_code, 0);
        let settled = Self {
            group,
            member_id: joined.member_id.to_string(),
            generation: joined.generation_id,
        };
        client.send(&settled.caller().sync(&[(&settled.member_id, b"all")]));
        let synced: SyncGroupResponse = decode(&client.expect_answer(), SYNCED.1);
        assert_eq!(synced.error_code, 0);
        settled
    }

    pub fn caller(&self) -> Caller<'_> {
        Caller {
            group: self.group,
            generation: self.generation,
            member_id: &self.member_id,
            instance_id: Some(Self::INSTANCE),
        }
    }
}

pub fn ask_join(client: &mut Client, join: &Join<'_>) -> JoinGroupResponse {
    client.send(&join.framed());
    decode(&client.expect_answer(), join.version)
}

pub fn rows(target: &Target, topic: &str) -> Vec<Row> {
    find_coordinator(target);
    let settled = Settled::new(target, "settled");
    let mut rows = joins();
    rows.extend(strangers());
    rows.extend(impostors(target, &settled, topic));
    rows
}

fn joins() -> Vec<Row> {
    let row = |id, what: &str, join: Join<'_>, code| {
        Row::fails(id, what, join.framed(), (JOIN_GROUP, join.version), &[code])
    };
    let of = || Join::of("hostile");
    let session = |session_timeout_ms| Join {
        session_timeout_ms,
        ..of()
    };
    let protocols = |protocols| Join { protocols, ..of() };
    let long = "g".repeat(i16::MAX as usize);
    let large = vec![b'x'; (256 << 10) + 1];
    let mut rows = vec![
        row("C1", "session timeout 0", session(0), 26),
        row("C1", "session timeout -1", session(-1), 26),
        row("C1", "session timeout 2^31-1", session(i32::MAX), 26),
        row("C2", "group id empty", Join::of(""), 24),
        row("C3", "no member id", of(), 79),
        row(
            "C3",
            "no member id and a group id of 32,767 B",
            Join::of(&long),
            79,
        ),
        row("C4", "no protocols", protocols(vec![]), 23),
        row(
            "C4",
            "protocol type empty",
            Join {
                protocol_type: "",
                ..of()
            },
            23,
        ),
        row(
            "C5",
            "unknown member",
            Join {
                member_id: "hostile-1",
                ..of()
            },
            25,
        ),
        row(
            "C30",
            "metadata of 256 KiB and a byte",
            protocols(vec![("range", &large)]),
            42,
        ),
    ];
    let counts = [i32::MAX, -2, 1 << 24];
    rows.extend(counts.map(|count| {
        let bytes = of().until_protocols().i32(count).framed();
        Row::closes("C6", format!("protocol count {count}"), bytes)
    }));
    rows
}

fn strangers() -> Vec<Row> {
    let unknown = Caller {
        group: "hostile",
        generation: 1,
        member_id: "hostile-1",
        instance_id: None,
    };
    let sync_count = unknown.header(SYNCED).i32(i32::MAX).framed();
    vec![
        Row::fails("C7", "sync", unknown.sync(&[]), SYNCED, &[25]),
        Row::closes("C7", "assignment count 2^31-1", sync_count),
        Row::fails("C8", "heartbeat", unknown.heartbeat(), BEAT, &[25]),
        Row::fails("C9", "leave", unknown.leave(), LEFT, &[25]),
    ]
}

/// Who speaks for somebody else: known to the broker, but not as what it says it is.
fn impostors(target: &Target, settled: &Settled, topic: &str) -> Vec<Row> {
    let other = Settled::new(target, "other");
    let dynamic = Caller {
        instance_id: None,
        ..settled.caller()
    };
    let foreign = Caller {
        member_id: &other.member_id,
        ..dynamic
    };
    let stale = Caller {
        generation: settled.generation - 1,
        ..dynamic
    };
    let fenced = Caller {
        member_id: "i-fenced",
        ..settled.caller()
    };
    let mut rows = Vec::new();
    for (what, caller, code) in [
        ("a member id of another group", foreign, 25),
        ("a stale generation", stale, 22),
        ("a fenced instance", fenced, 82),
    ] {
        let mut fails = |api: &str, bytes, answer| {
            let what = format!("{what}: {api}");
            rows.push(Row::fails("C32", what, bytes, answer, &[code]));
        };
        fails("sync", caller.sync(&[]), SYNCED);
        fails("heartbeat", caller.heartbeat(), BEAT);
        fails("commit", caller.commit(topic, ""), COMMITTED);
        if code != 22 {
            fails("leave", caller.leave(), LEFT);
            let join = Join {
                member_id: caller.member_id,
                instance_id: caller.instance_id,
                ..Join::of(settled.group)
            };
            fails("join", join.framed(), JOINED);
        }
    }
    let note = "n".repeat(4097);
    rows.push(Row::fails(
        "C32",
        "a note of 4,097 B to a commit",
        settled.caller().commit(topic, &note),
        COMMITTED,
        &[12],
    ));
    rows.push(Row::fails(
        "C32",
        "a commit from outside to a group with members",
        Caller {
            generation: -1,
            member_id: "",
            ..dynamic
        }
        .commit(topic, ""),
        COMMITTED,
        &[25],
    ));
    rows
}

/// The error codes of an answer about groups, in the order in which they stand there.
pub fn codes(api_key: i16, version: i16, answer: &[u8]) -> Vec<i16> {
    match api_key {
        JOIN_GROUP => vec![decode::<JoinGroupResponse>(answer, version).error_code],
        SYNC_GROUP => vec![decode::<SyncGroupResponse>(answer, version).error_code],
        HEARTBEAT => vec![decode::<HeartbeatResponse>(answer, version).error_code],
        LEAVE_GROUP => {
            let response: LeaveGroupResponse = decode(answer, version);
            if response.error_code != 0 || version < 3 {
                return vec![response.error_code];
            }
            let members = response.members.iter();
            members.map(|member| member.error_code).collect()
        }
        OFFSET_COMMIT => {
            let response: OffsetCommitResponse = decode(answer, version);
            let topics = response.topics.iter();
            topics
                .flat_map(|topic| &topic.partitions)
                .map(|partition| partition.error_code)
                .collect()
        }
        OFFSET_FETCH => vec![decode::<OffsetFetchResponse>(answer, version).error_code],
        DESCRIBE_GROUPS => {
            let response: DescribeGroupsResponse = decode(answer, version);
            let groups = response.groups.iter();
            groups.map(|group| group.error_code).collect()
        }
        other => panic!("no answer of API {other} is expected"),
    }
}
