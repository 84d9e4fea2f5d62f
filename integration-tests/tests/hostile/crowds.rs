//! Rows B, H47, H48 and C31: what many connections, or many requests of one, cost.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use ottla_protocol::codec::messages::{ApiVersionsResponse, FetchResponse, InitProducerIdResponse};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::batch::{Batch, Record};
use crate::table::{DEADLINE, PROBE, in_time};
use crate::target::{Answer, Client, PATIENCE, Target};
use crate::wire::{self, API_VERSIONS, Fetch, METADATA, PRODUCE, Produce, Wire, header};

/// A frame must be complete this long after its first byte.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// How much later a busy machine may notice.
const LATE: Duration = Duration::from_secs(6);
/// Memory that threads and the allocator take for themselves, whatever the number of connections.
const SLACK: u64 = 1 << 20;

/// H47, B1, B2: frames that are begun and never finished cost at most 12 KiB each and end after 30 s.
pub fn half_frames(target: &mut Target) {
    const CONNECTIONS: usize = 400;
    const DRIPPING: usize = 10;
    let refused_before = target.metric("ottla_refused_total", "slow_frame");
    let before = target.resident();
    let began = target.now();
    let half = Wire::new()
        .i32(100 << 20)
        .raw(&header(PRODUCE, 7).raw(&[0; 75]).0)
        .0;
    let mut halves = target.connect_sending(CONNECTIONS, &half);
    let mut dripping = target.connect_sending(DRIPPING, &Wire::new().i32(1000).0);
    let opened = target.now();
    target.wait_until("all connections are counted", |target| {
        target.connections() > (CONNECTIONS + DRIPPING) as u64
    });
    // Accepted in order: after the answer to a later connection the earlier bytes are read.
    target.ask(&wire::api_versions());
    let each = target.resident().saturating_sub(before) / CONNECTIONS as u64;
    println!("B1: {each} bytes for each of {CONNECTIONS} half frames");
    assert!(each <= (12 << 10) + SLACK / CONNECTIONS as u64);

    // One byte a second each: a read that waits is the clock.
    while !dripping.is_empty() {
        assert!(target.now() < opened + FRAME_TIMEOUT + LATE, "still open");
        let pause = Duration::from_secs(1) / dripping.len() as u32;
        dripping.retain_mut(|client| {
            let open = client.answer(pause) == Answer::Silence && client.send(&[0]);
            let age = target.now() - began;
            assert!(open || age >= FRAME_TIMEOUT, "closed after {age:?}");
            open
        });
    }
    println!(
        "B2: dripping frames closed after {:?}",
        target.now() - opened
    );
    for client in &mut halves {
        let left = (opened + FRAME_TIMEOUT + LATE).saturating_sub(target.now());
        let left = left.max(Duration::from_millis(1));
        assert_eq!(client.answer(left), Answer::Closed);
    }
    let age = target.now() - began;
    println!("H47: all half frames closed after {age:?}");
    assert!(age >= FRAME_TIMEOUT, "closed after {age:?}");
    let expected = (CONNECTIONS + DRIPPING) as f64;
    target.wait_until("each is counted", |target| {
        target.metric("ottla_refused_total", "slow_frame") - refused_before >= expected
    });
    check_log(target, "slow_frame", FRAME_TIMEOUT + LATE);
}

/// At most one line a second tells of a cause.
pub fn check_log(target: &Target, cause: &str, within: Duration) {
    let lines = target.broker.log();
    let lines = lines.iter().filter(|line| line.contains(cause)).count() as u64;
    assert!(lines >= 1, "nothing was logged about {cause}");
    assert!(
        lines <= within.as_secs() + 2,
        "{lines} lines about {cause} within {within:?}"
    );
}

/// The same nonsense 1,000 times: every one is counted, few are logged.
pub fn flood_of_refusals(target: &mut Target) {
    const TIMES: usize = 1_000;
    let before = target.metric("ottla_refused_total", "bad_frame_size");
    let began = target.now();
    for _ in 0..TIMES {
        let mut client = target.connect();
        client.send(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(client.answer(PATIENCE), Answer::Closed);
    }
    target.wait_until("each is counted", |target| {
        target.metric("ottla_refused_total", "bad_frame_size") - before >= TIMES as f64
    });
    let took = target.now() - began;
    println!("{TIMES} refused connections in {took:?}");
    check_log(target, "bad_frame_size", took);
}

/// H48: requests of one write are answered in order.
pub fn pipelined(target: &mut Target, topic: &str) {
    const REQUESTS: i32 = 500;
    let batch = Batch::good(target.now_ms()).build();
    let requests: Vec<u8> = (0..REQUESTS)
        .flat_map(|number| {
            let mut request = match number % 4 {
                0 => wire::api_versions(),
                1 => wire::metadata(&[topic]),
                2 => Produce::of(topic, &batch).framed(),
                _ => Fetch {
                    max_wait_ms: 1,
                    ..Fetch::of(topic, 0)
                }
                .framed(),
            };
            request[8..12].copy_from_slice(&number.to_be_bytes());
            request
        })
        .collect();
    let mut client = target.connect();
    let began = target.now();
    let mut writer = client.stream.try_clone().expect("a socket");
    // Answers are read meanwhile, or nobody would make progress once the sockets are full.
    let numbers: Vec<i32> = std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&requests).expect("the broker reads"));
        (0..REQUESTS)
            .map(|_| {
                let answer = client.expect_answer();
                i32::from_be_bytes(*answer.first_chunk().expect("a header"))
            })
            .collect()
    });
    println!(
        "H48: {REQUESTS} pipelined requests in {:?}",
        target.now() - began
    );
    assert_eq!(numbers, (0..REQUESTS).collect::<Vec<_>>());
}

/// H48: behind a request that waits, and before answers that nobody reads, the broker stops reading.
pub fn unread(target: &mut Target, topic: &str) {
    let parked = Fetch {
        max_wait_ms: i32::MAX,
        ..Fetch::of(topic, log_end(target, topic))
    };
    let parked = parked.framed();
    // The second row's answers are a hundred times its requests.
    let rows: [(&str, &[u8], Vec<u8>); 2] = [
        ("behind a parked fetch", &parked, wire::api_versions()),
        (
            "unread answers",
            &[],
            header(32, 1)
                .i32(1)
                .i8(2)
                .string(topic)
                .i32(-1)
                .i8(0)
                .framed(),
        ),
    ];
    for (what, first, request) in rows {
        let mut client = target.connect();
        client.send(first);
        let memory = target.watch_memory();
        client
            .stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .expect("a timeout");
        // More than any socket's buffers.
        let flood = request.repeat((1 << 20) / request.len());
        let mut sent = 0;
        let blocked = (0..256).any(|_| match client.stream.write(&flood) {
            Ok(count) => {
                sent += count;
                count < flood.len()
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        });
        let growth = memory.growth(target);
        println!(
            "{what}: reading stopped after {sent} bytes, memory grew by {} KiB",
            growth >> 10
        );
        assert!(blocked, "{what}: the broker went on reading");
        assert!(
            growth <= (1 << 20) + SLACK,
            "{what}: memory grew by {growth}"
        );
        assert!(target.probes::<5>()[2] <= Duration::from_millis(20));
        client.hang_up();
    }
}

fn log_end(target: &Target, topic: &str) -> i64 {
    let answer = target.ask(&wire::list_offsets(topic, -1));
    let response: ottla_protocol::codec::messages::ListOffsetsResponse = wire::decode(&answer, 1);
    response.topics[0].partitions[0].offset
}

/// B6: parked fetches cost at most 16 KiB each, wake together, and are gone when their connections are.
pub fn parked_fetches(target: &mut Target, topic: &str) {
    const FETCHES: usize = 1_000;
    allow_files(FETCHES as u64 + 100);
    let before = target.resident();
    for round in 0..3 {
        let end = log_end(target, topic);
        // In the last round each comes with bytes that nobody reads, and with a request behind it.
        let trailing = if round == 2 { 64 << 10 } else { 0 };
        let mut request = Fetch {
            max_wait_ms: i32::MAX,
            trailing,
            ..Fetch::of(topic, end)
        }
        .framed();
        if round == 2 {
            request.extend(wire::api_versions());
        }
        let mut clients: Vec<Client> = (0..FETCHES)
            .map(|_| {
                let mut client = target.connect();
                client.send(&request);
                client
            })
            .collect();
        target.wait_until("all connections are counted", |target| {
            target.connections() > FETCHES as u64
        });
        target.ask(&wire::api_versions());
        // Since before the first round: later rounds use again what earlier ones gave back. Their 64 KiB frames leave
        // the heap in pieces, which is not what one fetch holds.
        let each = if round == 2 { 32 << 10 } else { 16 << 10 };
        let growth = target.resident().saturating_sub(before);
        println!(
            "B6, round {round}: {} bytes for each of {FETCHES} parked fetches",
            growth / FETCHES as u64
        );
        assert!(growth <= FETCHES as u64 * each + SLACK);
        assert!(target.probes::<5>()[2] <= Duration::from_millis(20));

        if round == 1 {
            let batch = Batch::good(target.now_ms()).build();
            let began = target.now();
            target.ask(&Produce::of(topic, &batch).framed());
            for client in &mut clients {
                let response: FetchResponse = wire::decode(&client.expect_answer(), 11);
                assert_eq!(response.responses[0].partitions[0].high_watermark, end + 1);
            }
            println!("B6: {FETCHES} fetches woken in {:?}", target.now() - began);
        }
        drop(clients);
        target.wait_until("parked fetches end with their connections", |target| {
            target.connections() <= 2
        });
    }
}

/// The test's own limit of open files.
pub fn allow_files(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, raised).expect("the hard limit allows that many files");
    }
}

/// C31: of 2,000 fetch sessions as many live as there are slots, and each keeps little of its request.
pub fn fetch_sessions(target: &mut Target, topic: &str) {
    const SESSIONS: usize = 2_000;
    const SLOTS: usize = 1_000;
    let before = target.resident();
    let mut client = target.connect();
    let mut begin = |trailing: usize| {
        let request = Fetch {
            session: (0, 0),
            trailing,
            ..Fetch::of(topic, 0)
        };
        client.send(&request.framed());
        let response: FetchResponse = wire::decode(&client.expect_answer(), 11);
        assert_eq!(response.error_code, 0);
        response.session_id != 0
    };
    // The first ones bring bytes along that nobody reads.
    let begun = (0..SESSIONS)
        .filter(|number| begin(if *number < 100 { 1 << 20 } else { 0 }))
        .count();
    let growth = target.resident().saturating_sub(before);
    println!(
        "C31: {begun} fetch sessions, {} bytes each",
        growth / SLOTS as u64
    );
    assert_eq!(begun, SLOTS);
    assert!(
        growth <= SLOTS as u64 * 512 + (16 << 20),
        "memory grew by {growth}"
    );
}

/// C31: ids for idempotent producers cost nothing.
pub fn producer_ids(target: &mut Target) {
    const IDS: usize = 50_000;
    let before = target.resident();
    let mut client = target.connect();
    let requests = wire::init_producer_id(None, 0).repeat(100);
    let began = target.now();
    let mut last = -1;
    for _ in 0..IDS / 100 {
        client.send(&requests);
        for _ in 0..100 {
            let response: InitProducerIdResponse = wire::decode(&client.expect_answer(), 1);
            assert_eq!(response.error_code, 0);
            assert!(response.producer_id.0 > last, "an id was given twice");
            last = response.producer_id.0;
        }
    }
    let growth = target.resident().saturating_sub(before);
    println!(
        "C31: {IDS} producer ids in {:?}, memory grew by {} KiB",
        target.now() - began,
        growth >> 10
    );
    assert!(growth <= SLACK, "memory grew by {growth}");
}

/// One partition named as often as a request may name anything, by fetches that wait: ends with the connections,
/// and nobody else waits for it.
pub fn repetitive_fetches(target: &mut Target, topic: &str) {
    const TIMES: usize = 65_000;
    // Beyond the batches of all tries: each wakes them.
    let end = log_end(target, topic);
    let request = Fetch {
        max_wait_ms: i32::MAX,
        partitions: vec![(0, end); TIMES],
        ..Fetch::of(topic, 0)
    };
    let request = request.framed();
    in_time("fetches of one partition", || {
        let mut probes = Vec::new();
        let mut clients: Vec<Client> = (0..8)
            .map(|_| {
                let mut client = target.connect();
                client.send(&request);
                probes.push(target.probe());
                client
            })
            .collect();
        let batch = Batch::good(target.now_ms()).build();
        let began = target.now();
        target.ask(&Produce::of(topic, &batch).framed());
        for client in &mut clients {
            let response: FetchResponse = wire::decode(&client.expect_answer(), 11);
            assert_eq!(response.error_code, 0);
            probes.push(target.probe());
        }
        let woken = target.now() - began;
        let late = nine_in_ten(&mut probes);
        let told = format!(
            "8 fetches that name a partition {TIMES} times: woken in {woken:?}, nine in ten probes within {late:?}"
        );
        println!("{told}");
        // Woken at once and answered one after the other.
        if late > PROBE || woken > 8 * DEADLINE {
            return Err(told);
        }
        Ok(())
    });
}

/// Nine in ten of them took no longer.
pub fn nine_in_ten(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * 9 / 10]
}

/// A fetch session over as many partitions as a request may name, then changed in all of them.
pub fn large_sessions(target: &mut Target, topic: &str) {
    const PARTITIONS: i32 = 65_000;
    const SESSIONS: usize = 20;
    let partitions = |first: i32| {
        (first..first + PARTITIONS)
            .map(|index| (index, 0))
            .collect()
    };
    let mut probes = Vec::new();
    let mut answers = Vec::new();
    let mut client = target.connect();
    let mut begin_and_change = |target: &mut Target| {
        let whole = Fetch {
            session: (0, 0),
            partitions: partitions(0),
            ..Fetch::of(topic, 0)
        };
        client.send(&whole.framed());
        let response: FetchResponse = wire::decode(&client.expect_answer(), 11);
        let changed = Fetch {
            session: (response.session_id, 1),
            partitions: partitions(PARTITIONS),
            ..Fetch::of(topic, 0)
        };
        let began = target.now();
        client.send(&changed.framed());
        probes.push(target.probe());
        // Whether such a session goes on is the broker's choice; that it answers is not.
        let _: FetchResponse = wire::decode(&client.expect_answer(), 11);
        answers.push(target.now() - began);
    };
    // Grows the heaps of all threads: an answer of this kind takes some tens of MiB while it is made.
    for _ in 0..SESSIONS {
        begin_and_change(target);
    }
    let before = target.resident();
    for _ in 0..SESSIONS {
        begin_and_change(target);
    }
    let growth = target.resident().saturating_sub(before);
    let late = nine_in_ten(&mut probes);
    answers.sort_unstable();
    // As with tries: what cannot be met is missed every time.
    let (answer, median) = (answers[answers.len() / 10], answers[answers.len() / 2]);
    println!(
        "{SESSIONS} sessions of {PARTITIONS} partitions: one in ten changes within {answer:?}, half of them within {median:?}, nine in ten probes within {late:?}, memory grew by {} MiB",
        growth >> 20
    );
    assert!(late <= PROBE, "probes took {late:?}");
    // They are accepted: 100 ms is asked of refusals. What must not happen is that they take for ever.
    assert!(answer <= Duration::from_secs(1), "answers took {answer:?}");
    // Kept, they would take 200 MiB.
    assert!(growth <= 64 << 20, "memory grew by {growth}");
}

/// Puts 20 MiB into the log.
fn fill(target: &Target, topic: &str) {
    let value = vec![b'x'; (1 << 20) - 200];
    let record = Record::good(0).with(|record| record.value = value);
    let batch = Batch::of(1, record.framed(), target.now_ms()).build();
    for _ in 0..20 {
        let answer = target.ask(&Produce::of(topic, &batch).framed());
        assert_eq!(wire::codes(PRODUCE, 7, &answer), [0]);
    }
}

/// A fetch that waits for more than there is holds nothing of what there is.
pub fn fetches_that_wait_for_more(target: &mut Target, topic: &str) {
    const FETCHES: usize = 30;
    fill(target, topic);
    let request = Fetch {
        max_wait_ms: i32::MAX,
        min_bytes: i32::MAX,
        partition_max_bytes: i32::MAX,
        ..Fetch::of(topic, 0)
    };
    let request = request.framed();
    let park = |target: &Target| {
        let mut client = target.connect();
        client.send(&request);
        // Long enough to read the log once.
        assert_eq!(client.answer(Duration::from_millis(100)), Answer::Silence);
        client
    };
    let first = park(target);
    let before = target.resident();
    let clients: Vec<Client> = (0..FETCHES).map(|_| park(target)).collect();
    let growth = target.resident().saturating_sub(before);
    println!(
        "{FETCHES} fetches that wait for more than 20 MiB: memory grew by {} KiB",
        growth >> 10
    );
    // Held, it would be 600 MiB. The allocator may keep what a read used for the thread that read.
    assert!(growth <= 128 << 20, "memory grew by {growth}");
    drop((first, clients));
}

/// ApiVersions answers decode; used as the last proof that the broker is well.
pub fn still_well(target: &Target) {
    let response: ApiVersionsResponse = wire::decode(&target.ask(&wire::api_versions()), 0);
    assert_eq!(response.error_code, 0);
    assert!(response.api_keys.iter().any(|api| api.api_key == METADATA));
    assert!(
        response
            .api_keys
            .iter()
            .any(|api| api.api_key == API_VERSIONS)
    );
}
