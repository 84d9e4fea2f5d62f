//! Rows C31: what clients can make the broker remember has a limit with a config key, and of what was refused nothing
//! is kept. (Fetch sessions and producer ids: `crowds.rs`.)

use ottla_protocol::codec::messages::MetadataResponse;

use crate::batch::Batch;
use crate::crowds::check_log;
use crate::target::{Client, Target};
use crate::wire::{self, CREATE_TOPICS, METADATA, PRODUCE, Produce, create_topics};

/// What the allocator and the kernel's counters add, whatever is counted.
const SLACK: u64 = 1 << 20;
/// What anything remembered or refused may take.
const EACH: u64 = 256;

/// The codes of a Metadata request for these names, all of which may be created.
fn asked(client: &mut Client, names: &[String]) -> Vec<i16> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    client.send(&wire::metadata(&names));
    wire::codes(METADATA, 4, &client.expect_answer())
}

fn names(of: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{of}-{number}")).collect()
}

/// How many topics there are.
fn topics(target: &Target) -> usize {
    // Null asks for all of them.
    let request = wire::header(METADATA, 4).i32(-1).i8(0).framed();
    let response: MetadataResponse = wire::decode(&target.ask(&request), 4);
    response.topics.len()
}

/// The limit that `few_topics` is started with; one topic is there before.
pub const FEW_TOPICS: usize = 20;

/// `auto.create.topics.limit`, row by row.
pub fn few_topics(target: &mut Target, topic: &str) {
    let mut client = target.connect();
    let room = FEW_TOPICS - 1;
    let codes = |created: usize, refused: usize| [vec![0; created], vec![44; refused]].concat();
    let rows = [
        (
            "as many as fit",
            names("a", 0..room - 4),
            codes(room - 4, 0),
        ),
        (
            "they are there",
            names("a", 0..room - 4),
            codes(room - 4, 0),
        ),
        (
            "a name no topic can have takes no room",
            vec!["a/b".to_owned(), "b-0".to_owned()],
            vec![17, 0],
        ),
        ("the rest and some more", names("c", 0..10), codes(3, 7)),
        (
            "none is left, what is there is served",
            [names("d", 0..1), vec![topic.to_owned()]].concat(),
            vec![44, 0],
        ),
        (
            "a name that was refused stays unknown",
            names("c", 3..10),
            codes(0, 7),
        ),
    ];
    for (what, names, expected) in rows {
        assert_eq!(asked(&mut client, &names), expected, "{what}");
    }
    assert_eq!(topics(target), FEW_TOPICS);

    // Whoever creates a topic on purpose may.
    let created = target.ask(&create_topics(&[("on-purpose", 1, 1, &[])]));
    assert_eq!(wire::codes(CREATE_TOPICS, 4, &created), [0]);
    assert_eq!(asked(&mut client, &["on-purpose".to_owned()]), [0]);
    assert_eq!(asked(&mut client, &names("d", 0..1)), [44]);
    assert_eq!(topics(target), FEW_TOPICS + 1);
    assert!(target.metric("ottla_refused_total", "auto_create_limit") >= 4.0);
}

/// Many at once together stay within the limit, and what they left free is given to the next one.
pub fn few_topics_for_many_clients(target: &mut Target) {
    const CLIENTS: usize = 8;
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| target.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let names = names(&format!("client-{number}"), 0..FEW_TOPICS);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        client.send(&wire::metadata(&names));
    }
    let created: usize = clients
        .iter_mut()
        .map(|client| {
            let codes = wire::codes(METADATA, 4, &client.expect_answer());
            codes.iter().filter(|code| **code == 0).count()
        })
        .sum();
    assert_eq!(topics(target), created + 1);
    assert!(created < FEW_TOPICS, "{created} beside the first one");
    let rest = asked(&mut target.connect(), &names("rest", 0..FEW_TOPICS));
    let made = rest.iter().filter(|code| **code == 0).count();
    assert_eq!(created + made, FEW_TOPICS - 1);
    println!("C31: of {CLIENTS} clients at once {created} topics, {made} were left");
}

/// 100,000 names with the default limit: 10,000 of them become topics, and of the others nothing is kept.
pub fn many_names(target: &mut Target) {
    const LIMIT: usize = 10_000;
    const NAMES: usize = 100_000;
    const AT_ONCE: usize = 2_500;
    let mut client = target.connect();
    let (before, began) = (target.resident(), target.now());
    let mut created = 0;
    let mut next = 0;
    while next < LIMIT {
        let codes = asked(&mut client, &names("name", next..next + AT_ONCE));
        created += codes.iter().filter(|code| **code == 0).count();
        next += AT_ONCE;
    }
    assert_eq!(created, LIMIT - 1, "one topic was there before");
    let growth = target.resident().saturating_sub(before);
    println!(
        "C31: {created} topics in {:?}, {} bytes each",
        target.now() - began,
        growth / created as u64
    );
    // The first refusals grow what a process grows once.
    let refused = |target: &Target, client: &mut Client, from: usize| {
        let codes = asked(client, &names("name", from..from + AT_ONCE));
        assert_eq!(codes, vec![44; AT_ONCE]);
        target.resident()
    };
    let before = refused(target, &mut client, next);
    let began = target.now();
    let mut after = before;
    while next < NAMES {
        after = refused(target, &mut client, next);
        next += AT_ONCE;
    }
    let growth = after.saturating_sub(before);
    let count = (NAMES - LIMIT) as u64;
    println!(
        "C31: {count} names refused in {:?}, memory grew by {} KiB",
        target.now() - began,
        growth >> 10
    );
    assert!(growth <= SLACK, "memory grew by {growth}");
    check_log(target, "auto.create.topics.limit", target.now() - began);
}

/// The limit that `few_producers` is started with.
pub const FEW_PRODUCERS: usize = 4;

/// A batch of one record by this producer.
fn batch(target: &Target, producer_id: i64, sequence: i32) -> Vec<u8> {
    Batch::good(target.now_ms())
        .with(|batch| {
            (batch.producer_id, batch.producer_epoch, batch.base_sequence) =
                (producer_id, 0, sequence);
        })
        .build()
}

/// `max.producers.per.partition`, row by row: the oldest is forgotten, and begins anywhere again (KIP-360).
pub fn few_producers(target: &mut Target, topic: &str) {
    const GAP: i16 = 45;
    // What it does, the producer and its sequence, the answer.
    let rows = [
        ("1 is first", 1, 0, 0),
        ("then 2", 2, 0, 0),
        ("then 3", 3, 0, 0),
        ("then 4: the partition is full", 4, 0, 0),
        ("all are known: 1", 1, 7, GAP),
        ("all are known: 4", 4, 7, GAP),
        (
            "what is refused is no use: 1 is still the oldest",
            1,
            7,
            GAP,
        ),
        ("2 goes on", 2, 1, 0),
        ("5 is new: 1 is forgotten", 5, 0, 0),
        ("2 is known, it was used", 2, 7, GAP),
        ("3 is known", 3, 7, GAP),
        ("a retry of 2 is answered as a duplicate", 2, 1, 0),
        ("1 begins anywhere: 3 is forgotten", 1, 7, 0),
        ("1 is known again", 1, 7, 0),
        ("and 1 goes on", 1, 8, 0),
        ("3 begins anywhere: 4 is forgotten", 3, 7, 0),
        ("2 is known", 2, 7, GAP),
    ];
    for (what, producer_id, sequence, expected) in rows {
        let batch = batch(target, producer_id, sequence);
        let answer = target.ask(&Produce::of(topic, &batch).framed());
        assert_eq!(wire::codes(PRODUCE, 7, &answer), [expected], "{what}");
        let held = producers(target);
        assert!(held <= FEW_PRODUCERS, "{what}: {held} are remembered");
    }
    assert_eq!(producers(target), FEW_PRODUCERS);
}

fn producers(target: &Target) -> usize {
    target.value("kafka_server_replicamanager_produceridcount") as usize
}

/// With the default limit: 20,000 producers, one after the other.
pub fn many_producers(target: &mut Target, topic: &str) {
    const LIMIT: usize = 5_000;
    const PRODUCERS: usize = 20_000;
    const AT_ONCE: usize = 200;
    // What the store holds in memory of so many batches, whoever wrote them.
    const STORED: u64 = 512;
    let mut client = target.connect();
    let (before, began) = (target.resident(), target.now());
    for first in (0..PRODUCERS).step_by(AT_ONCE) {
        let requests: Vec<u8> = (first..first + AT_ONCE)
            .flat_map(|id| Produce::of(topic, &batch(target, 1_000_000 + id as i64, 0)).framed())
            .collect();
        client.send(&requests);
        for _ in 0..AT_ONCE {
            assert_eq!(wire::codes(PRODUCE, 7, &client.expect_answer()), [0]);
        }
        let held = producers(target);
        assert!(held <= LIMIT, "{held} are remembered");
    }
    let held = producers(target);
    let growth = target.resident().saturating_sub(before);
    println!(
        "C31: {PRODUCERS} producers in {:?}, {held} remembered, memory grew by {} KiB",
        target.now() - began,
        growth >> 10
    );
    assert!(held >= LIMIT - LIMIT / 8, "only {held} are remembered");
    let allowed = LIMIT as u64 * EACH + PRODUCERS as u64 * STORED + SLACK;
    assert!(growth <= allowed, "memory grew by {growth}");
}
