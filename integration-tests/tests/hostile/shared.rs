//! What one client holds of what all share: room for requests and for answers, and reads from the disk. Whoever sends
//! slowly, does not read or only waits holds up nobody else, and takes no more memory than there is for all.

use std::time::Duration;

use crate::batch::{Batch, Record};
use crate::crowds::allow_files;
use crate::groups::Join;
use crate::table::{DEADLINE, PROBE, in_time};
use crate::target::{Answer, Client, PATIENCE, Target};
use crate::wire::{self, Fetch, PRODUCE, Produce, Wire, header};

/// A small one: 10 MiB of it are for requests, 6 MiB for answers with batches.
pub const BUDGET: usize = 64 << 20;

/// The properties of these tests.
pub fn properties() -> Vec<(&'static str, &'static str)> {
    vec![
        ("memory.budget.bytes", "67108864"),
        ("max.connections.per.ip", "2000"),
        ("max.connection.creation.rate", "100000"),
        // So that the system holds little of an answer that is not read.
        ("socket.send.buffer.bytes", "16384"),
    ]
}

/// One batch of about so many bytes.
fn batch(target: &Target, bytes: usize) -> Vec<u8> {
    let value = vec![b'x'; bytes - 200];
    let record = Record::good(0).with(|record| record.value = value);
    Batch::of(1, record.framed(), target.now_ms()).build()
}

fn append(target: &Target, topic: &str, batch: &[u8], times: usize) {
    let mut client = target.connect();
    for _ in 0..times {
        client.send(&Produce::of(topic, batch).framed());
        let answer = client.expect_answer();
        assert_eq!(wire::codes(PRODUCE, 7, &answer), [0]);
    }
}

fn create(target: &Target, topic: &str) {
    let answer = target.ask(&wire::metadata(&[topic]));
    assert_eq!(wire::codes(wire::METADATA, 4, &answer), [0]);
}

/// 20 KiB of a Produce of 2 MiB.
fn half_a_frame() -> Vec<u8> {
    let head = header(PRODUCE, 7).0;
    let rest = vec![0; (20 << 10) - 4 - head.len()];
    Wire::new().i32((2 << 20) - 4).raw(&head).raw(&rest).0
}

/// As many as this hold all the room for usual requests several times over.
const HALVES: usize = 60;

/// As many connections that have sent these bytes, all of them counted by the broker.
fn all_send(target: &mut Target, bytes: &[u8]) -> Vec<Client> {
    let clients = target.connect_sending(HALVES, bytes);
    target.wait_until("all are connected", |target| {
        target.connections() > HALVES as u64
    });
    clients
}

/// What others are answered meanwhile, in time: ApiVersions, a small Produce, a Fetch.
fn others_are_served(target: &mut Target, topic: &str, what: &str) {
    let small = Batch::good(target.now_ms()).build();
    let requests = [
        ("ApiVersions", wire::api_versions(), PROBE),
        (
            "a small Produce",
            Produce::of(topic, &small).framed(),
            DEADLINE,
        ),
        ("a Fetch", Fetch::of(topic, 0).framed(), PROBE),
    ];
    let mut client = target.connect();
    for (name, request, limit) in requests {
        in_time(what, || {
            let mut times = [(); 5].map(|()| {
                let began = target.now();
                client.send(&request);
                client.expect_answer();
                target.now() - began
            });
            times.sort_unstable();
            let told = format!("{what}: {name} answered in {times:?}");
            println!("{told}");
            if times[2] > limit { Err(told) } else { Ok(()) }
        });
    }
}

/// How long a batch of 1 MiB takes on a connection of its own.
fn large_produce(target: &Target, topic: &str) -> Duration {
    let batch = batch(target, 1 << 20);
    let began = target.now();
    append(target, topic, &batch, 1);
    target.now() - began
}

/// Frames that are half sent.
pub fn half_frames(target: &mut Target, topic: &str) {
    append(target, topic, &batch(target, 1_000), 1);
    let _halves = all_send(target, &half_a_frame());
    others_are_served(target, topic, "beside half frames");
    // Behind all of them, in the order of those who wait: each is ended soon.
    let took = large_produce(target, topic);
    println!("a Produce of 1 MiB behind {HALVES} half frames: {took:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
}

/// Frames that are half sent behind fetches that wait.
pub fn half_frames_behind_fetches(target: &mut Target, topic: &str) {
    append(target, topic, &batch(target, 1_000), 1);
    create(target, "parked");
    let fetch = Fetch {
        max_wait_ms: 590_000,
        ..Fetch::of("parked", 0)
    };
    let request = [fetch.framed(), half_a_frame()].concat();
    let mut parked = all_send(target, &request);
    others_are_served(target, topic, "beside parked fetches");
    in_time("a Produce of 1 MiB", || {
        let took = large_produce(target, topic);
        let told = format!("a Produce of 1 MiB beside {HALVES} parked fetches: {took:?}");
        println!("{told}");
        if took > DEADLINE { Err(told) } else { Ok(()) }
    });
    // They are still there, and what is behind them is read once it is its turn.
    assert_eq!(parked[0].answer(Duration::from_millis(1)), Answer::Silence);
    append(target, "parked", &batch(target, 1_000), 1);
    parked[0].expect_answer();
}

/// Memory of the idle process, then the most that it had until the end.
struct Bounded {
    idle: u64,
    watch: crate::target::MemoryWatch,
}

impl Bounded {
    fn begin(target: &Target) -> Self {
        Self {
            idle: target.resident(),
            watch: target.watch_memory(),
        }
    }

    fn end(&self, target: &Target, what: &str) {
        let most = self.idle + self.watch.growth(target);
        println!(
            "{what}: {} MiB of memory after {} MiB when idle",
            most >> 20,
            self.idle >> 20
        );
        let allowed = BUDGET as u64 * 11 / 10 + self.idle;
        assert!(most <= allowed, "{what}: {most} bytes of {allowed}");
    }
}

/// Answers that are one batch, larger than asked for, and are not read.
pub fn unread_batches(target: &mut Target, topic: &str) {
    const CLIENTS: usize = 400;
    const BATCHES: usize = 40;
    allow_files(CLIENTS as u64 + 100);
    let memory = Bounded::begin(target);
    append(target, topic, &batch(target, 500_000), BATCHES);
    // So that none of them is in memory any more.
    create(target, "other");
    append(target, "other", &batch(target, 1_000_000), 12);
    let _clients: Vec<Client> = (0..CLIENTS)
        .map(|number| {
            let request = Fetch {
                max_bytes: 1,
                max_wait_ms: 10_000,
                ..Fetch::of(topic, (number % BATCHES) as i64)
            };
            let mut client = target.connect();
            client.send(&request.framed());
            client
        })
        .collect();
    let took = disk_fetch(target, topic);
    println!("a fetch from the disk beside {CLIENTS} unread ones: {took:?}");
    assert!(took < PATIENCE, "{took:?}");
    memory.end(target, "unread batches");
}

/// How long it takes until a fetch from the disk brings something; the longest of several.
fn disk_fetch(target: &Target, topic: &str) -> Duration {
    let mut client = target.connect();
    let mut fetch = || {
        let began = target.now();
        loop {
            client.send(&Fetch::of(topic, 0).framed());
            if client.expect_answer().len() > 1_000 || target.now() - began > PATIENCE {
                return target.now() - began;
            }
        }
    };
    (0..30).map(|_| fetch()).max().expect("several")
}

/// Fetches from the disk that are not read, each as large as it may be.
pub fn unread_disk_fetches(target: &mut Target, topic: &str) {
    const CLIENTS: usize = 60;
    append(target, topic, &batch(target, 1_000_000), 24);
    create(target, "other");
    append(target, "other", &batch(target, 1_000_000), 12);
    let request = Fetch {
        partition_max_bytes: 50 << 20,
        ..Fetch::of(topic, 0)
    };
    let _clients: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let mut client = target.connect();
            client.send(&request.framed());
            client
        })
        .collect();
    let took = disk_fetch(target, topic);
    println!("a fetch from the disk beside {CLIENTS} large unread ones: {took:?}");
    assert!(took < PATIENCE, "{took:?}");
}

/// Answers from the tail that are not read while the tail moves on.
pub fn unread_tails(target: &mut Target, topic: &str) {
    const CLIENTS: usize = 60;
    let memory = Bounded::begin(target);
    let large = batch(target, 1_000_000);
    let mut clients = Vec::new();
    for round in 0..CLIENTS as i64 {
        append(target, topic, &large, 3);
        let request = Fetch {
            partition_max_bytes: 50 << 20,
            ..Fetch::of(topic, 3 * round)
        };
        let mut client = target.connect();
        client.send(&request.framed());
        clients.push(client);
    }
    memory.end(target, "unread tails");
}

/// Answers without any batch that are large and not read.
pub fn unread_answers(target: &mut Target, topic: &str) {
    const CLIENTS: usize = 100;
    const PARTITIONS: i32 = 60_000;
    let request = Fetch {
        partitions: (0..PARTITIONS).map(|index| (index, 0)).collect(),
        ..Fetch::of(topic, 0)
    };
    let request = request.framed();
    // What one of them takes while it is made comes on top.
    let memory = target.watch_memory();
    for _ in 0..5 {
        target.ask(&request);
    }
    let one = memory.growth(target);
    let memory = target.watch_memory();
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let mut client = target.connect();
            client.send(&request);
            client
        })
        .collect();
    // One that reads is answered all the same, maybe after some that do not are ended.
    let mut reader = target.connect();
    let answered = (0..20).any(|_| {
        reader.send(&request);
        match reader.answer(PATIENCE) {
            Answer::Frame(_) => true,
            _ => {
                reader = target.connect();
                false
            }
        }
    });
    assert!(answered);
    let growth = memory.growth(target);
    println!(
        "{CLIENTS} unread answers: memory grew by {} MiB, for one that is read by {} MiB",
        growth >> 20,
        one >> 20
    );
    // Held, they would be more than 200 MiB.
    assert!(growth <= one + (24 << 20), "memory grew by {growth}");
    drop(clients);
}

/// Large requests that wait for the one thread that works on them hold their room meanwhile.
pub fn large_requests_that_wait(target: &mut Target, topic: &str) {
    const CLIENTS: usize = 40;
    const BYTES: usize = 8 << 20;
    let join = Join {
        trailing: BYTES,
        ..Join::of("large")
    };
    let join = join.framed();
    let fetch = Fetch {
        partitions: (0..60_000).map(|index| (index, 0)).collect(),
        ..Fetch::of(topic, 0)
    };
    let fetch = fetch.framed();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| target.connect()).collect();
    let mut all_at_once = |target: &Target| {
        let mut busy: Vec<Client> = (0..20).map(|_| target.connect()).collect();
        let memory = target.watch_memory();
        for client in &mut busy {
            client.send(&fetch);
        }
        std::thread::scope(|scope| {
            for client in &mut busy {
                // Answered, or closed because there are too many.
                scope.spawn(|| client.answer(PATIENCE));
            }
            for client in &mut clients {
                scope.spawn(|| {
                    client.send(&join);
                    client.expect_answer();
                });
            }
        });
        memory.growth(target)
    };
    // As every first use.
    all_at_once(target);
    let growth = all_at_once(target);
    println!(
        "{CLIENTS} joins of {BYTES} bytes behind large fetches: memory grew by {} MiB",
        growth >> 20
    );
    // All of them together would be 320 MiB.
    assert!(growth <= 64 << 20, "memory grew by {growth}");
}

/// A fetch that waits for more than there is on the disk reads it twice, however often there is a little more.
pub fn fetch_that_waits_reads_little(target: &mut Target, topic: &str) {
    const APPENDS: usize = 300;
    const STORED: usize = 1_000_000;
    let half = batch(target, STORED / 2);
    append(target, topic, &half, 2);
    // Neither in memory nor in a write buffer any more.
    create(target, "other");
    append(target, "other", &batch(target, 1_000_000), 40);
    let tiny = batch(target, 400);
    let before = target.read_bytes();
    let request = Fetch {
        max_wait_ms: 60_000,
        min_bytes: (2 * half.len() + tiny.len() * APPENDS) as i32,
        partition_max_bytes: 50 << 20,
        ..Fetch::of(topic, 0)
    };
    let mut client = target.connect();
    client.send(&request.framed());
    target.wait_until("it has read what there is", |target| {
        target.read_bytes() - before >= half.len() as u64
    });
    append(target, topic, &tiny, APPENDS - 10);
    assert!(client.answer(Duration::from_millis(1)) == Answer::Silence);
    append(target, topic, &tiny, 20);
    let answer = client.expect_answer();
    let read = target.read_bytes() - before;
    println!("{} bytes answered after {read} were read", answer.len());
    assert!(answer.len() > STORED);
    // As the kernel counts them: whatever else the process reads is among them.
    assert!(read < 5 * STORED as u64, "{read} bytes read");
}
