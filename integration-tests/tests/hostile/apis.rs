//! Rows C, as far as their APIs are served: well-formed requests that ask for nonsense.

use crate::table::Row;
use crate::wire::{
    CREATE_TOPICS, DELETE_RECORDS, FETCH, Fetch, INIT_PRODUCER_ID, LIST_OFFSETS,
    OFFSET_FOR_LEADER_EPOCH, create_topics, header, init_producer_id, list_offsets,
};

const FETCHED: (i16, i16) = (FETCH, 11);
const CREATED: (i16, i16) = (CREATE_TOPICS, 4);
const INITIALISED: (i16, i16) = (INIT_PRODUCER_ID, 1);

pub fn rows(topic: &str) -> Vec<Row> {
    let mut rows = producer_ids();
    rows.extend(fetches(topic));
    rows.extend(offsets(topic));
    rows.extend(topics());
    rows
}

fn producer_ids() -> Vec<Row> {
    let row = |id, what: &str, transactional_id, timeout_ms, code| {
        let request = init_producer_id(transactional_id, timeout_ms);
        Row::fails(id, what, request, INITIALISED, &[code])
    };
    vec![
        row("C13", "transaction timeout 0", Some("t"), 0, 50),
        row("C13", "transaction timeout -1", Some("t"), -1, 50),
        row("C14", "transaction timeout 2^31-1", Some("t"), i32::MAX, 50),
        row("C15", "transactional id empty", Some(""), 60_000, 42),
        // Until transactions exist.
        row("C16", "a transactional id", Some("t"), 60_000, 35),
    ]
}

fn fetches(topic: &str) -> Vec<Row> {
    let row = |id, what: &str, fetch: Fetch<'_>, code| {
        Row::fails(id, what, fetch.framed(), FETCHED, &[code])
    };
    let of = |offset| Fetch::of(topic, offset);
    vec![
        row("C17", "offset -5", of(-5), 1),
        row("C17", "offset 2^62", of(1 << 62), 1),
        row("C17", "offset 2^63-1", of(i64::MAX), 1),
        row(
            "C19",
            "isolation level 9",
            Fetch {
                isolation_level: 9,
                ..of(0)
            },
            42,
        ),
        row(
            "C20",
            "unknown session",
            Fetch {
                session: (12_345, 1),
                partitions: vec![],
                ..of(0)
            },
            70,
        ),
        row(
            "C21",
            "replica id 5",
            Fetch {
                replica_id: 5,
                ..of(0)
            },
            6,
        ),
    ]
}

/// C18: negative sizes and a negative wait. Accepted, and answered without data.
pub fn fetch_with_negative_limits(topic: &str) -> Vec<u8> {
    Fetch {
        max_wait_ms: -1,
        min_bytes: -1,
        max_bytes: -1,
        partition_max_bytes: -1,
        ..Fetch::of(topic, 0)
    }
    .framed()
}

fn offsets(topic: &str) -> Vec<Row> {
    let leader_epoch = header(OFFSET_FOR_LEADER_EPOCH, 2)
        .i32(1)
        .string(topic)
        .i32(1)
        .i32(0)
        .i32(99)
        .i32(99)
        .framed();
    let delete = |offset: i64| {
        header(DELETE_RECORDS, 0)
            .i32(1)
            .string(topic)
            .i32(1)
            .i32(0)
            .i64(offset)
            .i32(30_000)
            .framed()
    };
    let deleted = (DELETE_RECORDS, 0);
    vec![
        Row::fails(
            "C22",
            "timestamp -100",
            list_offsets(topic, -100),
            (LIST_OFFSETS, 1),
            &[35],
        ),
        Row::fails(
            "C23",
            "current leader epoch 99",
            leader_epoch,
            (OFFSET_FOR_LEADER_EPOCH, 2),
            &[75],
        ),
        Row::fails("C29", "delete up to 2^62", delete(1 << 62), deleted, &[1]),
        Row::fails("C29", "delete up to -2", delete(-2), deleted, &[1]),
    ]
}

fn topics() -> Vec<Row> {
    let row = |id, what: &str, topics: &[_], code: i16| {
        Row::fails(id, what, create_topics(topics), CREATED, &[code])
    };
    vec![
        row("C24", "10^6 partitions", &[("c24", 1_000_000, 1, &[])], 44),
        row("C24", "2^31-1 partitions", &[("c24", i32::MAX, 1, &[])], 44),
        row("C25", "0 partitions", &[("c25", 0, 1, &[])], 37),
        row("C26", "replication factor 3", &[("c26", 1, 3, &[])], 38),
        row(
            "C27",
            "a name twice",
            &[("c27", 1, 1, &[]), ("c27", 1, 1, &[])],
            42,
        ),
        row(
            "C28",
            "a config that is none",
            &[("c28", 1, 1, &[("no.such.config", "1")])],
            40,
        ),
        row(
            "C28",
            "a config with a bad value",
            &[("c28", 1, 1, &[("retention.ms", "soon")])],
            40,
        ),
    ]
}
