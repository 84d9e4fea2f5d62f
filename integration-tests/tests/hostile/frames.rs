//! Rows H: sizes, headers, versions and bodies that no client sends.

use crate::table::Row;
use crate::wire::{API_VERSIONS, METADATA, PRODUCE, Wire, flexible_header, head, header, metadata};

const MIB: usize = 1 << 20;

/// Body of a flexible Metadata before its topics' count is read: nothing. Behind it: three flags, no tags.
const METADATA_FLAGS: [u8; 4] = [1, 0, 0, 0];

pub fn rows() -> Vec<Row> {
    let mut rows = sizes();
    rows.extend(headers());
    rows.extend(versions());
    rows.extend(bodies());
    rows.extend(element_floods());
    rows.extend(topic_names());
    rows.extend(inter_broker());
    rows
}

fn sizes() -> Vec<Row> {
    let size = |size: i32| Wire::new().i32(size).0;
    let announced = |size: i32, api_key: i16| Wire::new().i32(size).i16(api_key).i16(0).0;
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    vec![
        Row::closes("H1", "size -1", size(-1)),
        Row::closes("H1", "size -2^31", size(i32::MIN)),
        Row::closes("H2", "size 2^31-1", size(i32::MAX)),
        Row::closes("H3", "size 104,857,601", size(104_857_601)),
        Row::closes(
            "H3",
            "Metadata of 8 MiB + 1",
            announced(8 * MIB as i32 + 1, METADATA),
        ),
        Row::closes(
            "H3",
            "JoinGroup of 64 MiB + 1",
            announced(64 * MIB as i32 + 1, 11),
        ),
        Row::closes("H4", "size 0", size(0)),
        Row::closes("H5", "size 3", Wire::new().i32(3).raw(&[0; 3]).0),
        Row::closes(
            "H6",
            "header cut after the correlation id",
            head(METADATA, 1).framed(),
        ),
        Row::closes(
            "H7",
            "HTTP",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ),
        Row::closes("H8", "TLS ClientHello", tls.to_vec()),
    ]
}

fn headers() -> Vec<Row> {
    let answer = (API_VERSIONS, 0);
    let with_id = |id: &[u8]| {
        let length = i16::try_from(id.len()).expect("at most 32,767 bytes");
        head(API_VERSIONS, 0).i16(length).raw(id).framed()
    };
    // A tag that says 1,000 bytes and has none.
    let tag_beyond_frame = header(METADATA, 9).unsigned(1).unsigned(0).unsigned(1000);
    let too_many_tags = header(METADATA, 9).unsigned(65).raw(&[7; 200]);
    vec![
        Row::passes(
            "H21",
            "client id null",
            head(API_VERSIONS, 0).i16(-1).framed(),
            answer,
        ),
        Row::closes(
            "H22",
            "client id of length -2",
            head(API_VERSIONS, 0).i16(-2).framed(),
        ),
        Row::closes(
            "H22",
            "client id of length -2^15",
            head(API_VERSIONS, 0).i16(i16::MIN).framed(),
        ),
        Row::closes(
            "H22",
            "client id longer than the frame",
            head(API_VERSIONS, 0).i16(9).raw(b"ab").framed(),
        ),
        Row::passes(
            "H23",
            "client id not UTF-8",
            with_id(b"\xff\xfe\xc0\x80"),
            answer,
        ),
        Row::passes(
            "H24",
            "client id of 32,767 bytes",
            with_id(&[b'x'; 32_767]),
            answer,
        ),
        Row::closes(
            "H27",
            "header tag larger than the frame",
            tag_beyond_frame.framed(),
        ),
        Row::closes("H27", "65 header tags", too_many_tags.framed()),
        Row::closes(
            "H28",
            "header tag count of 6 bytes",
            header(METADATA, 9)
                .raw(&[0x80, 0x80, 0x80, 0x80, 0x80, 0])
                .framed(),
        ),
    ]
}

fn versions() -> Vec<Row> {
    let empty = |api_key, version| header(api_key, version).i32(0).framed();
    vec![
        Row::closes("H9", "api key 9999", empty(9999, 0)),
        Row::closes("H10", "api key -1", empty(-1, 0)),
        Row::closes("H10", "api key -2^15", empty(i16::MIN, 0)),
        Row::closes("H11", "Metadata v99", empty(METADATA, 99)),
        Row::closes("H12", "Metadata v-1", empty(METADATA, -1)),
        Row::closes(
            "H12",
            "Produce v2, advertised and not served",
            empty(PRODUCE, 2),
        ),
        Row::fails(
            "H13",
            "ApiVersions v99",
            empty(API_VERSIONS, 99),
            (API_VERSIONS, 0),
            &[35],
        ),
        Row::fails(
            "H13",
            "ApiVersions v-1",
            empty(API_VERSIONS, -1),
            (API_VERSIONS, 0),
            &[35],
        ),
    ]
}

fn bodies() -> Vec<Row> {
    let software = |name: &str| {
        flexible_header(API_VERSIONS, 3)
            .compact(name)
            .compact("1.0")
            .unsigned(0)
            .framed()
    };
    let answer = (API_VERSIONS, 3);
    let cut = flexible_header(API_VERSIONS, 3).unsigned(11).raw(b"ab");
    let flexible = |count: &[u8]| {
        flexible_header(METADATA, 9)
            .raw(count)
            .raw(&METADATA_FLAGS)
            .framed()
    };
    let tag = |size: u64| {
        flexible_header(METADATA, 9)
            .unsigned(1)
            .raw(&METADATA_FLAGS[..3])
            .unsigned(1)
            .unsigned(5)
            .unsigned(size)
            .raw(b"ab")
            .framed()
    };
    let trailing = header(METADATA, 1).i32(0).raw(&[0xee; 100]);
    vec![
        Row::fails(
            "H14",
            "software name with a space",
            software("a b!"),
            answer,
            &[42],
        ),
        Row::fails("H15", "software name empty", software(""), answer, &[42]),
        Row::closes("H16", "ApiVersions v3 cut", cut.framed()),
        Row::closes(
            "H17",
            "Metadata v1 array of 2^31-1",
            header(METADATA, 1).i32(i32::MAX).framed(),
        ),
        Row::closes(
            "H17",
            "Metadata v1 array of -2",
            header(METADATA, 1).i32(-2).framed(),
        ),
        Row::closes(
            "H18",
            "Metadata v9 array of 2^32-1",
            flexible_header(METADATA, 9)
                .raw(&[0xff, 0xff, 0xff, 0xff, 0x0f])
                .framed(),
        ),
        Row::closes(
            "H20",
            "topic name null",
            header(METADATA, 1).i32(1).i16(-1).framed(),
        ),
        Row::passes(
            "H25",
            "100 bytes after the body",
            trailing.framed(),
            (METADATA, 1),
        ),
        Row::closes("H27", "tag larger than the frame", tag(1000)),
        Row::closes("H27", "tag of 2^32-1 bytes", tag(u64::from(u32::MAX))),
        Row::closes(
            "H28",
            "varint of 6 bytes",
            flexible(&[0x81, 0x80, 0x80, 0x80, 0x80, 0x00]),
        ),
        Row::closes(
            "H28",
            "varint with more than 32 bits",
            flexible(&[0x81, 0x80, 0x80, 0x80, 0x10]),
        ),
    ]
}

/// The smallest elements there are, as many as a frame takes.
fn element_floods() -> Vec<Row> {
    let fill = |wire: Wire, element: &[u8], frame: usize| {
        let count = (frame - wire.0.len() - 16) / element.len();
        wire.unsigned(count as u64 + 1)
            .raw(&element.repeat(count))
            .unsigned(0)
            .framed()
    };
    let produce = flexible_header(PRODUCE, 9).unsigned(0).i16(1).i32(1000);
    // Type, empty name, null keys, no tags.
    let resource = [2, 1, 0, 0];
    let software = flexible_header(API_VERSIONS, 3).compact("a").compact("1");
    // Tags 7 of no bytes: one count, no element budget.
    let tags = |frame: usize| fill(software.clone(), &[7, 0], frame);
    vec![
        Row::closes(
            "H31",
            "Produce of 100 MiB in topics of 3 bytes",
            fill(produce, &[1, 1, 0], 100 * MIB),
        ),
        Row::closes(
            "H31",
            "DescribeConfigs of 8 MiB in resources of 4 bytes",
            fill(flexible_header(32, 4), &resource, 8 * MIB),
        ),
        Row::closes(
            "H31",
            "Metadata of 8 MiB in topics of 3 bytes",
            fill(flexible_header(METADATA, 9), &[1, 0, 0], 8 * MIB),
        ),
        Row::closes("H31", "ApiVersions of 8 MiB of tags", tags(8 * MIB)),
        Row::closes("H31", "ApiVersions of 42 MiB of tags", tags(42 * MIB)),
    ]
}

fn topic_names() -> Vec<Row> {
    let answer = (METADATA, 4);
    let long = "a".repeat(250);
    let names = [
        ("H32", ""),
        ("H33", "."),
        ("H34", ".."),
        ("H35", "a/b"),
        ("H36", long.as_str()),
        ("H37", "a b"),
        ("H38", "t\u{f6}pic"),
    ];
    names
        .into_iter()
        .map(|(id, name)| {
            Row::fails(
                id,
                format!("topic {name:.10?}"),
                metadata(&[name]),
                answer,
                &[17],
            )
        })
        .collect()
}

/// Requests that brokers send each other, in the lowest version Kafka 4.3 knows.
fn inter_broker() -> Vec<Row> {
    let keys = [
        ("H39", "Vote", 52, 0),
        ("H40", "BrokerHeartbeat", 63, 0),
        ("H41", "AlterPartition", 56, 2),
        ("H42", "Envelope", 58, 0),
        ("H43", "FetchSnapshot", 59, 0),
        ("H44", "AllocateProducerIds", 67, 0),
        ("H45", "LeaderAndIsr", 4, 0),
        ("H46", "WriteTxnMarkers", 27, 1),
    ];
    keys.into_iter()
        .map(|(id, name, key, version)| {
            let request = flexible_header(key, version).raw(&[0; 40]);
            Row::closes(id, name, request.framed())
        })
        .collect()
}
